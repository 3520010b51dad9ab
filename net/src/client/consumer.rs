//! Consuming assigned partitions from an offset on.
//!
//! Owns the positions; partitions can be added and stopped at any time. Driven by its caller: [`Consumer::next`] keeps one fetch under way to each
//! leader, so the next answer arrives while the caller works on the last. What is buffered is
//! therefore bounded by one response per leader. It commits no offsets and knows no groups.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use corelog_protocol::api::Api;
use corelog_protocol::batch::{BatchIter, BatchRef, Headers, Scratch, crc_ok};
use corelog_protocol::error::ErrorCode;
pub use corelog_protocol::fetch::IsolationLevel;
use corelog_protocol::fetch::{
    AbortedTransaction, FetchPartition, FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopic,
    TOPIC_IDS_FROM,
};
use corelog_runtime::time;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use uuid::Uuid;

use super::admin::{Admin, OffsetSpec};
use super::cluster::{AutoCreate, Client, Lane};
use super::connection::Reply;
use super::error::ClientError;
use super::retry::Retry;

/// Batches may decompress to at most this many bytes.
const DECOMPRESSED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Leader epochs are not checked by this client.
const NO_LEADER_EPOCH: i32 = -1;

/// Settings of a [`Consumer`].
#[derive(Debug, Clone)]
pub struct ConsumerOptions {
    /// A response should not be larger.
    pub max_bytes: i32,
    /// Nor one partition's part of it.
    pub partition_max_bytes: i32,
    /// The broker waits until there is so much…
    pub min_bytes: i32,
    /// …but no longer than this.
    pub max_wait: Duration,
    /// Whether records of open and aborted transactions are seen.
    pub isolation: IsolationLevel,
    /// Whether checksums are checked.
    pub check_crc: bool,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            max_bytes: 50 * 1024 * 1024,
            partition_max_bytes: 1024 * 1024,
            min_bytes: 1,
            max_wait: Duration::from_millis(500),
            isolation: IsolationLevel::ReadUncommitted,
            check_crc: true,
        }
    }
}

/// Where to begin in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At the first record that exists.
    Beginning,
    /// At the end: only what is written from now on.
    End,
    /// At this offset.
    Offset(i64),
    /// At the first record of this time (ms since 1970) or later; at the end when there is none.
    Timestamp(i64),
}

/// One partition to consume.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The topic.
    pub topic: Rc<str>,
    /// The partition.
    pub partition: i32,
    /// Where to begin.
    pub start: StartAt,
}

struct Part {
    topic: Rc<str>,
    topic_id: Uuid,
    partition: i32,
    position: i64,
    high_watermark: Option<i64>,
    /// While it fails: since when, and when to try again.
    failing: Option<(Retry, time::Instant)>,
}

/// Consumes assigned partitions.
pub struct Consumer {
    client: Client,
    options: ConsumerOptions,
    /// In the order in which they were added, by a number that none after it has: a fetch that is
    /// under way brings nothing for a partition that was stopped meanwhile, or stopped and added again.
    parts: BTreeMap<PartKey, Part>,
    next_key: PartKey,
    /// Where the next request's list begins, so that no partition starves.
    first: usize,
    under_way: FuturesUnordered<Pin<Box<dyn Future<Output = FetchDone>>>>,
    busy_leaders: Vec<i32>,
    ready: VecDeque<Chunk>,
}

type PartKey = u64;

struct FetchDone {
    leader: i32,
    /// Keys of `parts` that were asked for.
    asked: Vec<PartKey>,
    outcome: Result<FetchResponse, ClientError>,
}

impl Consumer {
    /// Looks up the starting offsets and is ready to fetch.
    ///
    /// # Errors
    /// When a topic or partition does not exist, or no broker answers.
    pub async fn new(
        client: Client,
        assignments: Vec<Assignment>,
        options: ConsumerOptions,
    ) -> Result<Self, ClientError> {
        let mut consumer = Self::unassigned(client, options);
        consumer.add(assignments).await?;
        Ok(consumer)
    }

    /// Ready to be given partitions.
    pub fn unassigned(client: Client, options: ConsumerOptions) -> Self {
        Self {
            client,
            options,
            parts: BTreeMap::new(),
            next_key: 0,
            first: 0,
            under_way: FuturesUnordered::new(),
            busy_leaders: Vec::new(),
            ready: VecDeque::new(),
        }
    }

    /// Looks up the starting offsets of further partitions, and fetches them too.
    ///
    /// # Errors
    /// As [`Consumer::new`]; nothing is added then.
    pub async fn add(&mut self, assignments: Vec<Assignment>) -> Result<(), ClientError> {
        let started = starts(&self.client, assignments, self.options.isolation).await?;
        self.add_started(started);
        Ok(())
    }

    /// Fetches partitions whose starting offsets were looked up by [`starts`].
    pub(crate) fn add_started(&mut self, started: Vec<Started>) {
        for Started { topic, topic_id, partition, position } in started {
            let part = Part { topic, topic_id, partition, position, high_watermark: None, failing: None };
            self.parts.insert(self.next_key, part);
            self.next_key += 1;
        }
    }

    /// Whether no partition is fetched.
    pub fn is_idle(&self) -> bool {
        self.parts.is_empty()
    }

    /// The settings.
    pub fn options(&self) -> &ConsumerOptions {
        &self.options
    }

    /// The offset that is fetched next; everything below it has been given out or skipped.
    pub fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        self.find(topic, partition).map(|key| self.parts[&key].position)
    }

    /// The end of a partition as last heard from its leader.
    pub fn high_watermark(&self, topic: &str, partition: i32) -> Option<i64> {
        self.find(topic, partition).and_then(|key| self.parts[&key].high_watermark)
    }

    /// Where every partition that is fetched ends now, in the order in which they were added.
    ///
    /// # Errors
    /// When a leader does not answer in time.
    pub async fn end_offsets(&self) -> Result<Vec<i64>, ClientError> {
        let wanted: Vec<_> = self
            .parts
            .values()
            .map(|part| ((Rc::clone(&part.topic), part.partition), OffsetSpec::Latest))
            .collect();
        let admin = Admin::new(self.client.clone());
        let listed = admin.list_offsets(&wanted, self.options.isolation).await?;
        Ok(listed.into_iter().map(|it| it.offset.unwrap_or(0)).collect())
    }

    /// Fetches a partition no more; what has already arrived of it is dropped.
    pub fn stop(&mut self, topic: &str, partition: i32) {
        if let Some(key) = self.find(topic, partition) {
            self.parts.remove(&key);
        }
        self.ready.retain(|chunk| chunk.partition != partition || chunk.topic.as_ref() != topic);
    }

    fn find(&self, topic: &str, partition: i32) -> Option<PartKey> {
        let mut parts = self.parts.iter();
        let found = parts.find(|(_, part)| part.partition == partition && part.topic.as_ref() == topic);
        found.map(|(key, _)| *key)
    }

    /// Waits for the next records of any partition. Returns `None` when every partition is
    /// stopped. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When a partition's data cannot be read, its position lies outside the log, or its leader
    /// does not come back in time.
    pub async fn next(&mut self) -> Result<Option<Chunk>, ClientError> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Ok(Some(chunk));
            }
            if self.parts.is_empty() {
                return Ok(None);
            }
            let wake_at = self.start_fetches();
            match (self.under_way.is_empty(), wake_at) {
                (true, Some(at)) => {
                    time::sleep_until(at).await;
                    self.refresh().await;
                }
                (true, None) => return Ok(None),
                (false, _) => {
                    let done = self.under_way.next().await.expect("not empty");
                    self.busy_leaders.retain(|leader| *leader != done.leader);
                    self.take(done)?;
                    // The next fetch leaves before the caller gets to work on this one.
                    self.start_fetches();
                }
            }
        }
    }

    async fn refresh(&mut self) {
        if let Err(error) = self.client.refresh(AutoCreate::No).await {
            tracing::debug!(%error, "metadata could not be refreshed");
        }
    }

    /// Sends a fetch to every leader that has none under way. Says when the first partition that
    /// failed is tried again.
    fn start_fetches(&mut self) -> Option<time::Instant> {
        let now = time::Instant::now();
        let mut wake_at: Option<time::Instant> = None;
        let mut by_leader: BTreeMap<i32, Vec<PartKey>> = BTreeMap::new();
        let mut keys: Vec<PartKey> = self.parts.keys().copied().collect();
        let count = keys.len();
        keys.rotate_left(self.first % count.max(1));
        self.first = (self.first + 1) % count.max(1);
        for at in keys {
            let part = self.parts.get_mut(&at).expect("it was listed a line ago");
            if let Some((_, again_at)) = &part.failing
                && *again_at > now
            {
                wake_at = Some(wake_at.map_or(*again_at, |wake_at| wake_at.min(*again_at)));
                continue;
            }
            match self.client.leader(&part.topic, part.partition) {
                Ok((leader, _)) if self.busy_leaders.contains(&leader) => {}
                Ok((leader, _)) => by_leader.entry(leader).or_default().push(at),
                Err(_no_leader) => {
                    let retry = part.failing.take().map(|(retry, _)| retry);
                    let mut retry = retry.unwrap_or_else(|| Retry::new(self.client.options().retry));
                    let again_at = now + retry.next_pause();
                    part.failing = Some((retry, again_at));
                    wake_at = Some(wake_at.map_or(again_at, |wake_at| wake_at.min(again_at)));
                }
            }
        }
        for (leader, asked) in by_leader {
            self.busy_leaders.push(leader);
            let wanted = asked.iter().map(|at| {
                let part = &self.parts[at];
                Wanted {
                    topic: Rc::clone(&part.topic),
                    topic_id: part.topic_id,
                    partition: part.partition,
                    position: part.position,
                }
            });
            let fetch = fetch(self.client.clone(), leader, wanted.collect(), self.options.clone());
            self.under_way.push(Box::pin(async move {
                let outcome = fetch.await;
                FetchDone { leader, asked, outcome }
            }));
        }
        wake_at
    }

    /// Takes over a response: positions move, chunks become ready.
    fn take(&mut self, done: FetchDone) -> Result<(), ClientError> {
        let response = match done.outcome {
            Ok(response) if response.error == ErrorCode::None => response,
            Ok(response) => {
                let error = refused("fetching", response.error);
                return self.failed(&done.asked, &error);
            }
            Err(error) if error.is_retriable() => return self.failed(&done.asked, &error),
            Err(error) => return Err(error),
        };
        for topic in response.topics {
            for answer in topic.partitions {
                let asked = done.asked.iter().copied().find(|key| {
                    self.parts.get(key).is_some_and(|part| {
                        part.partition == answer.index
                            && (part.topic.as_ref() == topic.name
                                || (!topic.topic_id.is_nil() && part.topic_id == topic.topic_id))
                    })
                });
                if let Some(key) = asked {
                    self.take_partition(key, answer)?;
                }
            }
        }
        Ok(())
    }

    fn take_partition(&mut self, key: PartKey, answer: FetchPartitionResponse) -> Result<(), ClientError> {
        let part = self.parts.get_mut(&key).expect("an answer is taken for a partition that is there");
        match answer.error {
            ErrorCode::None => {}
            ErrorCode::OffsetOutOfRange => {
                return Err(ClientError::OffsetOutOfRange {
                    topic: part.topic.to_string(),
                    partition: part.partition,
                    offset: part.position,
                    log_start_offset: answer.log_start_offset,
                    log_end_offset: answer.high_watermark,
                });
            }
            code => {
                let what = format!("fetching {}-{}", part.topic, part.partition);
                let error = refused(&what, code);
                return self.failed(&[key], &error);
            }
        }
        part.failing = None;
        part.high_watermark = Some(answer.high_watermark).filter(|offset| *offset >= 0);
        let records = join(answer.records);
        if records.is_empty() {
            return Ok(());
        }
        let from = part.position;
        let bad = |offset: i64, reason: String| ClientError::BadBatch {
            topic: part.topic.to_string(),
            partition: part.partition,
            offset,
            reason,
        };
        let mut position = from;
        for batch in BatchIter::new(&records) {
            let batch = batch.map_err(|error| bad(position, error.to_string()))?;
            if self.options.check_crc && !crc_ok(batch.bytes) {
                let reason = "its checksum does not match its bytes".to_owned();
                return Err(bad(batch.header.base_offset, reason));
            }
            position = position.max(batch.header.next_offset());
        }
        if position == from {
            return Err(bad(from, "the broker answered with older batches only".to_owned()));
        }
        part.position = position;
        self.ready.push_back(Chunk {
            topic: Rc::clone(&part.topic),
            partition: part.partition,
            from,
            next_offset: position,
            high_watermark: answer.high_watermark,
            log_start_offset: answer.log_start_offset,
            aborted: answer.aborted_transactions.unwrap_or_default(),
            records,
        });
        Ok(())
    }

    /// Notes a failure that may pass; gives it as final once it has lasted too long.
    fn failed(&mut self, asked: &[PartKey], error: &ClientError) -> Result<(), ClientError> {
        if !error.is_retriable() {
            return Err(error.clone());
        }
        let options = self.client.options().retry;
        for key in asked {
            // It may have been stopped.
            let Some(part) = self.parts.get_mut(key) else { continue };
            let retry = part.failing.take().map(|(retry, _)| retry);
            let mut retry = retry.unwrap_or_else(|| Retry::new(options));
            if retry.elapsed() > options.give_up_after {
                return Err(ClientError::GaveUp {
                    what: format!("fetching {}-{}", part.topic, part.partition),
                    after: options.give_up_after,
                    last: Box::new(error.clone()),
                });
            }
            let again_at = time::Instant::now() + retry.next_pause();
            part.failing = Some((retry, again_at));
            tracing::debug!(topic = %part.topic, partition = part.partition, %error, "fetch failed");
        }
        Ok(())
    }
}

fn refused(what: &str, code: ErrorCode) -> ClientError {
    ClientError::Refused { what: what.to_owned(), code, message: None }
}

/// One chunk is the rule; a response that was cut differently is put together.
fn join(mut chunks: Vec<Bytes>) -> Bytes {
    match chunks.len() {
        0 => Bytes::new(),
        1 => chunks.remove(0),
        _ => {
            let mut all = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
            chunks.iter().for_each(|chunk| all.extend_from_slice(chunk));
            all.freeze()
        }
    }
}

/// A partition that exists, and where to begin in it.
pub(crate) struct Started {
    topic: Rc<str>,
    topic_id: Uuid,
    partition: i32,
    position: i64,
}

/// Looks up where to begin.
pub(crate) async fn starts(
    client: &Client,
    assignments: Vec<Assignment>,
    isolation: IsolationLevel,
) -> Result<Vec<Started>, ClientError> {
    let positions = start_offsets(client, &assignments, isolation).await?;
    let mut started = Vec::with_capacity(assignments.len());
    for (assignment, position) in assignments.into_iter().zip(positions) {
        let topic = client.topic(&assignment.topic, AutoCreate::No).await?;
        if topic.partition(assignment.partition).is_none() {
            return Err(ClientError::UnknownPartition {
                topic: assignment.topic.to_string(),
                partition: assignment.partition,
                partitions: topic.partition_count(),
            });
        }
        let Assignment { topic: name, partition, .. } = assignment;
        started.push(Started { topic: name, topic_id: topic.id, partition, position });
    }
    Ok(started)
}

async fn start_offsets(
    client: &Client,
    assignments: &[Assignment],
    isolation: IsolationLevel,
) -> Result<Vec<i64>, ClientError> {
    let mut positions = vec![0; assignments.len()];
    let mut unknown = Vec::new();
    let mut wanted = Vec::new();
    for (at, assignment) in assignments.iter().enumerate() {
        let spec = match assignment.start {
            StartAt::Offset(offset) => {
                positions[at] = offset;
                continue;
            }
            StartAt::Beginning => OffsetSpec::Earliest,
            StartAt::End => OffsetSpec::Latest,
            StartAt::Timestamp(timestamp_ms) => OffsetSpec::AtTimestamp(timestamp_ms),
        };
        unknown.push(at);
        wanted.push(((Rc::clone(&assignment.topic), assignment.partition), spec));
    }
    let admin = Admin::new(client.clone());
    let listed = admin.list_offsets(&wanted, isolation).await?;
    let mut beyond = Vec::new();
    for (at, listed) in unknown.iter().zip(listed) {
        match listed.offset {
            Some(offset) => positions[*at] = offset,
            None => beyond.push(*at),
        }
    }
    let wanted: Vec<_> = beyond
        .iter()
        .map(|at| {
            let assignment = &assignments[*at];
            ((Rc::clone(&assignment.topic), assignment.partition), OffsetSpec::Latest)
        })
        .collect();
    for (at, listed) in beyond.iter().zip(admin.list_offsets(&wanted, isolation).await?) {
        positions[*at] = listed.offset.unwrap_or(0);
    }
    Ok(positions)
}

struct Wanted {
    topic: Rc<str>,
    topic_id: Uuid,
    partition: i32,
    position: i64,
}

async fn fetch(
    client: Client,
    leader: i32,
    wanted: Vec<Wanted>,
    options: ConsumerOptions,
) -> Result<FetchResponse, ClientError> {
    const WHAT: &str = "Fetch";
    let connection = client.node(leader, Lane::Fetch).await?;
    let ours = Api::Fetch.versions();
    // Topic ids exist from Kafka 2.8 on; one topic without an id needs a version with names.
    let max = match wanted.iter().any(|it| it.topic_id.is_nil()) {
        true => TOPIC_IDS_FROM - 1,
        false => *ours.end(),
    };
    let version = connection.pick(Api::Fetch.key(), *ours.start(), max)?;
    let mut topics: Vec<FetchTopic> = Vec::new();
    for it in wanted {
        let partition = FetchPartition {
            current_leader_epoch: NO_LEADER_EPOCH,
            ..FetchPartition::new(it.partition, it.position, options.partition_max_bytes)
        };
        match topics.iter_mut().find(|topic| topic.name == it.topic.as_ref()) {
            Some(topic) => topic.partitions.push(partition),
            None => topics.push(FetchTopic {
                name: it.topic.to_string(),
                topic_id: it.topic_id,
                partitions: vec![partition],
            }),
        }
    }
    let request = FetchRequest {
        max_wait_ms: i32::try_from(options.max_wait.as_millis()).unwrap_or(i32::MAX),
        min_bytes: options.min_bytes,
        max_bytes: options.max_bytes,
        isolation_level: options.isolation,
        topics,
        ..FetchRequest::default()
    };
    let correlation_id = connection.next_correlation();
    let frame = request.encode(version, correlation_id, connection.client_id());
    let timeout = connection.request_timeout() + options.max_wait;
    let reply = connection.submit(correlation_id, [frame.freeze()], Reply::Expected, WHAT, timeout)?;
    let frame = reply.wait().await?;
    let (_, response) = FetchResponse::decode(version, frame)
        .map_err(|error| connection.protocol_error(WHAT, error.to_string()))?;
    Ok(response)
}

/// Records of one partition, as they came in one response: whole batches, checked.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The topic.
    pub topic: Rc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset that was asked for: the first batch may begin before it.
    pub from: i64,
    /// The offset after the last batch.
    pub next_offset: i64,
    /// Exclusive end of the partition when the leader answered.
    pub high_watermark: i64,
    /// The partition's first offset, −1 where the broker does not say.
    pub log_start_offset: i64,
    /// The batches.
    pub records: Bytes,
    aborted: Vec<AbortedTransaction>,
}

/// One record.
#[derive(Debug, Clone)]
pub struct ConsumedRecord<'a> {
    /// Its offset.
    pub offset: i64,
    /// In ms since 1970, −1 for none.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Headers<'a>,
}

impl Chunk {
    /// Visits the records in order, from the offset that was asked for, until `visit` breaks.
    /// Markers of transactions and, with read committed, aborted records are left out.
    ///
    /// # Errors
    /// [`ClientError::BadBatch`] when a batch does not decompress or parse.
    pub fn visit(
        &self,
        scratch: &mut Scratch,
        mut visit: impl FnMut(ConsumedRecord<'_>) -> ControlFlow<()>,
    ) -> Result<(), ClientError> {
        let bad = |offset: i64, reason: String| ClientError::BadBatch {
            topic: self.topic.to_string(),
            partition: self.partition,
            offset,
            reason,
        };
        let mut aborted = Aborted::new(&self.aborted);
        for batch in BatchIter::new(&self.records) {
            let batch = batch.map_err(|error| bad(self.from, error.to_string()))?;
            let header = &batch.header;
            let base = header.base_offset;
            if aborted.skips(&batch) || header.is_control() {
                continue;
            }
            let records = batch
                .records(scratch, DECOMPRESSED_BYTES_MAX)
                .map_err(|error| bad(base, error.to_string()))?;
            for record in records {
                let record = record.map_err(|error| bad(base, error.to_string()))?;
                let offset = base.saturating_add(i64::from(record.offset_delta));
                if offset < self.from {
                    continue;
                }
                let record = ConsumedRecord {
                    offset,
                    timestamp_ms: header.record_timestamp(record.timestamp_delta),
                    key: record.key,
                    value: record.value,
                    headers: record.headers,
                };
                if visit(record).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Follows which producers' transactional records are aborted, as batches go by.
struct Aborted<'a> {
    /// Still to come, by first offset.
    ahead: std::iter::Peekable<std::slice::Iter<'a, AbortedTransaction>>,
    producers: Vec<i64>,
}

impl<'a> Aborted<'a> {
    fn new(transactions: &'a [AbortedTransaction]) -> Self {
        Self { ahead: transactions.iter().peekable(), producers: Vec::new() }
    }

    fn skips(&mut self, batch: &BatchRef<'_>) -> bool {
        let header = &batch.header;
        while let Some(begun) = self.ahead.next_if(|it| it.first_offset <= header.last_offset()) {
            self.producers.push(begun.producer_id);
        }
        if !header.is_transactional() {
            return false;
        }
        if header.is_control() {
            // The marker ends the producer's transaction, whichever way.
            self.producers.retain(|producer| *producer != header.producer_id);
            return true;
        }
        self.producers.contains(&header.producer_id)
    }
}

#[cfg(test)]
mod tests {
    use corelog_protocol::batch::{BatchBuilder, update_crc};
    use proptest::prelude::*;

    use super::*;

    fn chunk(records: Vec<u8>, from: i64, aborted: Vec<AbortedTransaction>) -> Chunk {
        Chunk {
            topic: "t".into(),
            partition: 0,
            from,
            next_offset: 0,
            high_watermark: 0,
            log_start_offset: 0,
            records: records.into(),
            aborted,
        }
    }

    proptest! {
        #[test]
        fn any_batches_are_records_or_an_error(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            bytes in prop::collection::vec(any::<u8>(), 0..90),
            from: i64,
            aborted in prop::collection::vec((-1..3_i64, any::<i64>()), 0..3),
        ) {
            let builder = BatchBuilder::new().base_offset(from.saturating_sub(1));
            let mut batch = builder.record(1, Some(b"k"), Some(b"a")).record(2, None, None).build().unwrap();
            for (at, value) in changes {
                let at = at.index(batch.len());
                batch[at] = value;
            }
            update_crc(&mut batch);
            let transaction =
                |(producer_id, first_offset)| AbortedTransaction { producer_id, first_offset };
            let aborted: Vec<_> = aborted.into_iter().map(transaction).collect();
            for records in [batch.to_vec(), [&batch[..], &bytes].concat(), bytes] {
                let mut scratch = Scratch::new();
                let mut seen = Vec::new();
                let _ = chunk(records, from, aborted.clone()).visit(&mut scratch, |record| {
                    seen.push((record.offset, record.headers.count()));
                    ControlFlow::Continue(())
                });
                prop_assert!(seen.iter().all(|(offset, _)| *offset >= from));
            }
        }
    }
}
