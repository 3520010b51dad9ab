//! One consumer: fetches its partitions, times and checks what they bring.
//!
//! Runs on one executor. Its partitions are assigned to it by the run, since what is measured is the
//! broker's fetch and not a rebalance. One fetch is under way to each leader; the next one leaves as
//! soon as a reply was read.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::{Bytes, BytesMut};
use corelog_protocol::api::Api;
use corelog_protocol::batch::{BatchIter, BatchRef, Record, RecordIter, Scratch, crc_ok};
use corelog_protocol::error::ErrorCode;
use corelog_protocol::fetch::{
    FetchPartition, FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopic, TOPIC_IDS_FROM,
};
use corelog_runtime::{task, time};
use futures_util::future::select;
use tokio::sync::Notify;

use super::link::{Broken, Link, Owner, Sent};
use super::recorder::{Counts, Recorder, Side};
use super::routes::{Routes, Topic};
use super::shared::{Clock, Shared};
use super::verify::Verifier;
use crate::plan::Plan;
use crate::result::report::Metric;

/// First version with batches of format 2, and the last one here.
const VERSION_MIN: i16 = 4;
const VERSION_MAX: i16 = 16;
const CLIENT_ID: &str = "corelog-bench";
/// A compressed batch may grow to this.
const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;
/// Between a failure and the next fetch.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// When producers are done and nothing arrives for so long, the rest does not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A fetch is answered for all partitions of its leader: nothing of it has to be remembered.
struct Asked;

/// What it asks one leader.
struct Leader {
    link: Link<Asked>,
    version: i16,
    /// A fetch is under way.
    is_asked: bool,
}

struct State {
    /// Where to read on, by place in `parts`.
    positions: Vec<i64>,
    /// By place in `parts`: everything that the broker showed is read.
    at_end: Vec<bool>,
    leaders: BTreeMap<i32, Leader>,
    verifier: Verifier,
    scratch: Scratch,
    /// Where the next request's list begins, so that no partition starves.
    first: usize,
}

/// One consumer of a run.
pub(super) struct Consumer {
    group: usize,
    plan: Plan,
    shared: Arc<Shared>,
    routes: Rc<Routes>,
    clock: Rc<Clock>,
    recorder: Rc<Recorder>,
    /// Partitions of the run.
    parts: Vec<usize>,
    /// Places in `parts`, by topic and partition.
    places: BTreeMap<(usize, i32), usize>,
    state: RefCell<State>,
    progress_ns: Cell<u64>,
    caught_up: Cell<bool>,
    /// It looks for the leaders at the moment.
    is_following: Cell<bool>,
    /// What breaks now breaks because it is done.
    is_ended: Cell<bool>,
    wake: Notify,
    this: Weak<Self>,
}

impl Consumer {
    /// Connects it to every leader.
    pub(super) async fn new(
        group: usize,
        parts: Vec<usize>,
        starts: &[i64],
        shared: Arc<Shared>,
        routes: Rc<Routes>,
        clock: Rc<Clock>,
        recorder: Rc<Recorder>,
    ) -> Result<Rc<Self>> {
        let state = State {
            positions: parts.iter().map(|part| starts[*part]).collect(),
            at_end: vec![false; parts.len()],
            leaders: BTreeMap::new(),
            verifier: Verifier::new(shared.run),
            scratch: Scratch::default(),
            first: 0,
        };
        let consumer = Rc::new_cyclic(|this| Self {
            group,
            plan: shared.plan.clone(),
            shared,
            routes: Rc::clone(&routes),
            clock,
            recorder,
            places: parts
                .iter()
                .enumerate()
                .map(|(at, part)| ((routes.parts[*part].topic, routes.parts[*part].partition), at))
                .collect(),
            parts,
            state: RefCell::new(state),
            progress_ns: Cell::new(0),
            caught_up: Cell::new(false),
            is_following: Cell::new(false),
            is_ended: Cell::new(false),
            wake: Notify::new(),
            this: Weak::clone(this),
        });
        for node in consumer.nodes() {
            consumer.connect(node).await?;
        }
        consumer.shared.live.consumers.fetch_add(1, SeqCst);
        Ok(consumer)
    }

    /// Who leads any of its partitions, as last seen.
    fn nodes(&self) -> BTreeSet<i32> {
        self.parts.iter().map(|part| self.routes.leader(*part)).collect()
    }

    async fn connect(&self, node: i32) -> Result<()> {
        let has_ids = self.routes.topics.iter().all(|topic| !topic.id.is_nil());
        let newest = if has_ids { VERSION_MAX } else { TOPIC_IDS_FROM - 1 };
        let version = self.routes.version(node, Api::Fetch, (VERSION_MIN, newest)).await?;
        let stream = self.routes.connect(node).await?;
        let owner: Weak<dyn Owner<Asked>> = self.this.clone();
        let link = Link::new(node, stream, Rc::clone(&self.clock), owner);
        self.state.borrow_mut().leaders.insert(node, Leader { link, version, is_asked: false });
        Ok(())
    }

    /// Reads until everything that was produced is read.
    pub(super) async fn run(self: Rc<Self>) {
        time::sleep_until(self.clock.at(self.shared.phases.consume_ns)).await;
        self.progress_ns.set(self.clock.now_ns());
        self.nodes().into_iter().for_each(|node| self.fetch(node));
        let mut ends = self.shared.ends.subscribe();
        let known = self.until_stopped(async { ends.wait_for(Option::is_some).await.is_ok() }).await;
        if known == Some(true) {
            // Patience begins when producers are done.
            self.progress_ns.set(self.progress_ns.get().max(self.clock.now_ns()));
            self.read_the_rest().await;
        }
        self.is_ended.set(true);
        let leaders = std::mem::take(&mut self.state.borrow_mut().leaders);
        leaders.values().for_each(|leader| leader.link.close(&Broken::TimedOut));
        let verifier =
            std::mem::replace(&mut self.state.borrow_mut().verifier, Verifier::new(self.shared.run));
        let mut outcome = self.shared.outcome();
        match outcome.verifiers.entry(self.group) {
            std::collections::btree_map::Entry::Vacant(place) => drop(place.insert(verifier)),
            std::collections::btree_map::Entry::Occupied(mut place) => place.get_mut().merge(verifier),
        }
        drop(outcome);
        self.shared.live.consumed_ns.fetch_max(self.progress_ns.get().max(1), SeqCst);
        self.shared.live.consumers_done.fetch_add(1, SeqCst);
    }

    async fn until_stopped<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let stopped = std::pin::pin!(async {
            corelog_runtime::shards::stop_signal().wait().await;
        });
        match select(std::pin::pin!(future), stopped).await {
            futures_util::future::Either::Left((value, _)) => Some(value),
            futures_util::future::Either::Right(_) => None,
        }
    }

    /// Waits until the ends are reached, or nothing comes any more.
    async fn read_the_rest(&self) {
        loop {
            let ends = self.shared.ends.borrow().clone().expect("waited for");
            let is_done = {
                let state = self.state.borrow();
                self.parts.iter().zip(&state.positions).all(|(part, position)| *position >= ends[*part])
            };
            let patience_ends = self.clock.at(self.progress_ns.get()) + PATIENCE;
            if is_done || time::Instant::now() >= patience_ends {
                return;
            }
            let woken = async {
                let due = std::pin::pin!(time::sleep_until(patience_ends));
                select(due, std::pin::pin!(self.wake.notified())).await;
            };
            if self.until_stopped(woken).await.is_none() {
                return;
            }
        }
    }

    /// Asks a leader for everything that it leads.
    fn fetch(&self, node: i32) {
        let mut state = self.state.borrow_mut();
        let Some(leader) = state.leaders.get(&node).filter(|leader| !leader.is_asked) else { return };
        let (link, version) = (leader.link.clone(), leader.version);
        let count = self.parts.len();
        state.first = (state.first + 1) % count.max(1);
        let first = state.first;
        let asked: Vec<usize> = (0..count)
            .map(|at| (first + at) % count)
            .filter(|at| self.routes.leader(self.parts[*at]) == node)
            .collect();
        if asked.is_empty() {
            return;
        }
        let request = self.request(&state, &asked, version);
        state.leaders.get_mut(&node).expect("just looked at").is_asked = true;
        drop(state);
        link.send(Asked, true, |_, id| vec![request.encode(version, id, CLIENT_ID).freeze()]);
    }

    fn request(&self, state: &State, asked: &[usize], version: i16) -> FetchRequest {
        let mut topics: Vec<(usize, FetchTopic)> = Vec::new();
        for at in asked {
            let part = &self.routes.parts[self.parts[*at]];
            let wanted = FetchPartition::new(part.partition, state.positions[*at], self.plan.fetch_bytes);
            match topics.iter_mut().find(|(topic, _)| *topic == part.topic) {
                Some((_, topic)) => topic.partitions.push(wanted),
                None => {
                    let topic = &self.routes.topics[part.topic];
                    let (name, topic_id) = match version >= TOPIC_IDS_FROM {
                        true => (String::new(), topic.id),
                        false => (topic.name.to_string(), uuid::Uuid::nil()),
                    };
                    topics.push((part.topic, FetchTopic { name, topic_id, partitions: vec![wanted] }));
                }
            }
        }
        FetchRequest {
            max_wait_ms: self.plan.fetch_wait_ms,
            min_bytes: 1,
            topics: topics.into_iter().map(|(_, topic)| topic).collect(),
            ..FetchRequest::default()
        }
    }

    /// Whether the next fetch can leave at once.
    fn take_reply(&self, reply: Bytes, version: i16) -> Result<bool> {
        let (_, response) = FetchResponse::decode(version, reply).context("a fetch was answered wrongly")?;
        let now_ns = self.clock.now_ns();
        let mut counts = Counts { requests: 1, ..Counts::default() };
        let mut is_fine = response.error == ErrorCode::None;
        if !is_fine {
            self.shared.blame(format!("fetch: {}", response.error));
        }
        for topic in &response.topics {
            let is_it = |known: &Topic| match version >= TOPIC_IDS_FROM {
                true => known.id == topic.topic_id,
                false => *known.name == *topic.name,
            };
            let place = self.routes.topics.iter().position(is_it);
            for answer in &topic.partitions {
                let at = place.and_then(|topic| self.places.get(&(topic, answer.index)).copied());
                let at = at.context("a fetch was answered with a partition that nobody asked for")?;
                is_fine &= self.take_partition(at, answer, now_ns, &mut counts)?;
            }
        }
        if counts.records > 0 {
            self.progress_ns.set(now_ns);
        }
        self.recorder.count(Side::Consumed, now_ns, &counts);
        self.note_caught_up(now_ns);
        Ok(is_fine)
    }

    fn take_partition(
        &self,
        at: usize,
        answer: &FetchPartitionResponse,
        now_ns: u64,
        counts: &mut Counts,
    ) -> Result<bool> {
        match answer.error {
            ErrorCode::None => {}
            ErrorCode::OffsetOutOfRange => {
                // What was there is gone: verification counts it.
                let mut state = self.state.borrow_mut();
                self.shared.blame(format!("fetch: {}", answer.error));
                state.positions[at] = state.positions[at].max(answer.log_start_offset);
                return Ok(false);
            }
            code if code.is_retriable() => {
                self.shared.blame(format!("fetch: {code}"));
                return Ok(false);
            }
            code => {
                let part = &self.routes.parts[self.parts[at]];
                let name = &self.routes.topics[part.topic].name;
                return Err(anyhow!("fetching '{name}' partition {} was refused: {code}", part.partition));
            }
        }
        let records = joined(&answer.records);
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        for batch in BatchIter::new(&records) {
            // What the limit cut off comes again with the next fetch.
            let Ok(batch) = batch else { break };
            self.take_batch(state, at, &batch, now_ns, counts);
        }
        state.at_end[at] = state.positions[at] >= answer.high_watermark;
        Ok(true)
    }

    fn take_batch(
        &self,
        state: &mut State,
        at: usize,
        batch: &BatchRef<'_>,
        now_ns: u64,
        counts: &mut Counts,
    ) {
        let next = batch.header.next_offset();
        let from = state.positions[at];
        if next <= from {
            return;
        }
        state.positions[at] = next;
        if batch.header.is_control() {
            return;
        }
        let part = u32::try_from(self.parts[at]).expect("partitions are counted in 32 bits");
        let base_offset = batch.header.base_offset;
        let records = match (crc_ok(batch.bytes), batch.records(&mut state.scratch, DECOMPRESSED_BYTES_MAX)) {
            (true, Ok(records)) => records,
            _ => return state.verifier.see_bad_batch(part, base_offset),
        };
        let mut same: Option<(u64, u64)> = None;
        for record in placed(records, base_offset..next) {
            let Some((offset, record)) = record else {
                return state.verifier.see_bad_batch(part, base_offset);
            };
            if offset < from {
                continue;
            }
            counts.records += 1;
            counts.bytes += (record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len)) as u64;
            if !self.plan.verify {
                continue;
            }
            // Records of one intended time are counted together: they have one latency.
            match (state.verifier.see(part, offset, record.key, record.value), &mut same) {
                (Some(intended), Some((ns, count))) if *ns == intended => *count += 1,
                (Some(intended), same) => {
                    if let Some((ns, count)) = same.replace((intended, 1)) {
                        self.recorder.latency(Metric::EndToEnd, ns, ns, now_ns, count);
                    }
                }
                (None, _) => {}
            }
        }
        if let Some((ns, count)) = same {
            self.recorder.latency(Metric::EndToEnd, ns, ns, now_ns, count);
        }
    }

    /// Consumers that started late have caught up when they first see every end.
    fn note_caught_up(&self, now_ns: u64) {
        if self.shared.phases.consume_ns > 0 && self.state.borrow().at_end.iter().all(|it| *it) {
            // The first moment of each consumer; the last of them counts.
            if !self.caught_up.replace(true) {
                self.shared.live.caught_up_ns.fetch_max(now_ns, SeqCst);
                self.shared.live.consumers_caught_up.fetch_add(1, SeqCst);
            }
        }
    }

    /// Looks up who leads now after a pause, connects where that is necessary, and reads on. One
    /// such search at a time.
    fn follow_leaders(&self) {
        if self.is_ended.get() || self.is_following.replace(true) {
            return;
        }
        if let Some(this) = self.this.upgrade() {
            task::spawn(this.follow());
        }
    }

    async fn follow(self: Rc<Self>) {
        let this = Rc::downgrade(&self);
        drop(self);
        loop {
            time::sleep(RETRY_PAUSE).await;
            let Some(consumer) = this.upgrade() else { return };
            let is_stopping = corelog_runtime::shards::stop_signal().is_raised();
            if is_stopping || consumer.is_ended.get() || consumer.is_over() {
                return;
            }
            consumer.routes.refresh().await;
            let is_connected = |node: &i32| consumer.state.borrow().leaders.contains_key(node);
            for node in consumer.nodes() {
                if !is_connected(&node)
                    && let Err(error) = consumer.connect(node).await
                {
                    tracing::debug!(%error, node, "reconnecting failed");
                }
                consumer.fetch(node);
            }
            // One may have broken while another was made.
            if consumer.nodes().iter().all(is_connected) {
                consumer.is_following.set(false);
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.shared.live.over.load(SeqCst)
    }
}

/// The records of a batch with their offsets; `None` where one cannot be read, or lies outside of its
/// batch.
fn placed<'r>(records: RecordIter<'r>, batch: Range<i64>) -> impl Iterator<Item = Option<(i64, Record<'r>)>> {
    records.map(move |record| {
        let record = record.ok()?;
        let offset = batch.start.checked_add(i64::from(record.offset_delta))?;
        batch.contains(&offset).then_some((offset, record))
    })
}

/// A partition's records in one piece; nearly always they are.
fn joined(chunks: &[Bytes]) -> Bytes {
    match chunks {
        [] => Bytes::new(),
        [only] => only.clone(),
        several => {
            let mut joined = BytesMut::with_capacity(several.iter().map(Bytes::len).sum());
            several.iter().for_each(|chunk| joined.extend_from_slice(chunk));
            joined.freeze()
        }
    }
}

impl Owner<Asked> for Consumer {
    fn answered(&self, link: &Link<Asked>, _: Sent<Asked>, reply: Bytes) {
        let node = link.node();
        let version = match self.state.borrow_mut().leaders.get_mut(&node) {
            Some(leader) => {
                leader.is_asked = false;
                leader.version
            }
            // Taken out when the consumer has ended.
            None => return,
        };
        match self.take_reply(reply, version) {
            Ok(true) => self.fetch(node),
            Ok(false) => self.follow_leaders(),
            Err(error) => self.shared.fail(error),
        }
        self.wake.notify_one();
    }

    fn broken(&self, link: &Link<Asked>, _unanswered: Vec<Sent<Asked>>, why: &Broken) {
        if self.is_ended.get() {
            return;
        }
        self.state.borrow_mut().leaders.remove(&link.node());
        if let Broken::Lost(reason) = why {
            self.shared.blame(format!("fetch: {reason}"));
        }
        let counts = Counts { reconnects: 1, ..Counts::default() };
        self.recorder.count(Side::Consumed, self.clock.now_ns(), &counts);
        self.follow_leaders();
    }
}

#[cfg(test)]
mod tests {
    use corelog_protocol::batch::BatchBuilder;
    use proptest::prelude::*;

    use super::*;

    /// The offsets of a batch with these changes, as far as it can be read.
    fn offsets(changes: &[(usize, u8)]) -> (Vec<Option<i64>>, Range<i64>) {
        let builder = BatchBuilder::new().base_offset(i64::MAX - 10);
        let batch = builder.record(1, Some(b"k"), Some(b"a")).record(2, None, Some(b"b")).build().unwrap();
        let mut bytes = batch.to_vec();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = *value;
        }
        let Some(Ok(batch)) = BatchIter::new(&bytes).next() else { return (Vec::new(), 0..0) };
        let range = batch.header.base_offset..batch.header.next_offset();
        let mut scratch = Scratch::new();
        let Ok(records) = batch.records(&mut scratch, 1 << 16) else { return (Vec::new(), range) };
        (placed(records, range.clone()).map(|it| it.map(|(offset, _)| offset)).collect(), range)
    }

    #[test]
    fn records_have_the_offsets_of_their_batch_and_no_others() {
        let last = i64::MAX - 10;
        assert_eq!(offsets(&[]).0, [Some(last), Some(last + 1)]);
        // The second record's delta, which no header covers: beyond the batch, and beyond all offsets.
        let second = 61 + 10 + 3;
        assert_eq!(offsets(&[(second, 4)]).0, [Some(last), None]);
        assert_eq!(offsets(&[(second, 40)]).0, [Some(last), None]);
    }

    proptest! {
        #[test]
        fn any_batch_has_records_within_it_or_is_bad(
            changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..6),
        ) {
            let (offsets, range) = offsets(&changes);
            prop_assert!(offsets.into_iter().flatten().all(|offset| range.contains(&offset)));
        }
    }
}
