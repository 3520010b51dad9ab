//! Fetch: sessions, the names of topics, the limits of one response. Reads are the engine's.

use std::time::Duration;

use bytes::Bytes;
use corelog_engine::api::{FetchOutcome, FetchPart, FetchSpec, Fetched, PartitionError, ReadBudget};
use corelog_engine::meta::image::MetaImage;
use corelog_engine::types::{Offset, PartitionId, TopicId, TopicPartition};
use corelog_protocol::api::Api;
use corelog_protocol::error::ErrorCode;
use corelog_protocol::fetch::{
    FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopicResponse, IsolationLevel, TOPIC_IDS_FROM,
};
use corelog_runtime::rand;
use corelog_runtime::time::Instant;
use futures_util::future::{Either, select};
use uuid::Uuid;

use super::offsets::known_epoch;
use crate::budget::Charge;
use crate::connection::{Client, Reply};
use crate::options::FETCH_RESPONSE_BYTES_MAX;
use crate::service::Service;
use crate::sessions::{FetchContext, Millis, PartitionKey, Told, TopicKey, Wanted};

/// First version with a place for an error of the request as a whole.
const SESSIONS_FROM: i16 = 7;

/// Answers Fetch.
pub(crate) async fn serve(
    service: &Service,
    client: &Client,
    version: i16,
    correlation_id: i32,
    request: FetchRequest,
) -> Reply {
    let reply = |response: FetchResponse, mut charge: Charge| {
        service.counters().errors(Api::Fetch, &response);
        let chunks = response.encode(version, correlation_id);
        charge.settle(chunks.iter().map(Bytes::len).sum());
        Reply::Chunks(chunks, charge)
    };
    let nothing = || service.responses.charge(0);
    if request.replica_id >= 0 {
        // Replicas have a protocol of their own here.
        return reply(refuse(version, &request, ErrorCode::ClusterAuthorizationFailed), nothing());
    }
    let uses_ids = version >= TOPIC_IDS_FROM;
    let (wanted, forgotten) = (wanted(&request, uses_ids), forgotten(&request, uses_ids));
    let begun = service.sessions.borrow_mut().begin(
        request.session_id,
        request.session_epoch,
        uses_ids,
        wanted,
        &forgotten,
        now(),
    );
    let context = match begun {
        Ok(context) => context,
        Err(code) => return reply(refuse(version, &request, code), nothing()),
    };
    let mut share = Share { service, charge: None };
    let outcomes = read(service, client, &request, &context, &mut share).await;
    let charge = share.charge.unwrap_or_else(nothing);
    reply(respond(service, uses_ids, request.isolation_level, context, outcomes), charge)
}

/// What a fetch takes of the shard's budget.
struct Share<'a> {
    service: &'a Service,
    charge: Option<Charge>,
}

impl ReadBudget for Share<'_> {
    async fn reserve(&mut self, bytes: usize) -> usize {
        self.charge = None;
        self.charge.insert(self.service.responses.reserve(bytes).await).bytes()
    }

    fn brought(&mut self, bytes: usize) {
        if let Some(charge) = &mut self.charge {
            charge.settle(bytes);
        }
    }
}

fn now() -> Millis {
    Instant::now().as_nanos() / 1_000_000
}

/// The request as a whole is refused; before version 7 the error is in every partition.
fn refuse(version: i16, request: &FetchRequest, code: ErrorCode) -> FetchResponse {
    if version >= SESSIONS_FROM {
        return FetchResponse::failed(code);
    }
    let topics = request.topics.iter().map(|topic| FetchTopicResponse {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: topic.partitions.iter().map(|p| FetchPartitionResponse::failed(p.index, code)).collect(),
    });
    FetchResponse { topics: topics.collect(), ..FetchResponse::default() }
}

fn topic_key(uses_ids: bool, name: &str, id: Uuid) -> TopicKey {
    if uses_ids { TopicKey::Id(id) } else { TopicKey::Name(name.into()) }
}

fn wanted(request: &FetchRequest, uses_ids: bool) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for topic in &request.topics {
        let key = topic_key(uses_ids, &topic.name, topic.topic_id);
        wanted.extend(topic.partitions.iter().map(|partition| Wanted {
            key: PartitionKey { topic: key.clone(), partition: partition.index },
            fetch_offset: partition.fetch_offset,
            max_bytes: partition.max_bytes,
            current_leader_epoch: partition.current_leader_epoch,
        }));
    }
    wanted
}

fn forgotten(request: &FetchRequest, uses_ids: bool) -> Vec<PartitionKey> {
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics {
        let key = topic_key(uses_ids, &topic.name, topic.topic_id);
        forgotten.extend(topic.partitions.iter().map(|p| PartitionKey { topic: key.clone(), partition: *p }));
    }
    forgotten
}

/// The partition of that name or id.
fn resolve(image: &MetaImage, key: &PartitionKey) -> Result<TopicPartition, ErrorCode> {
    let topic = match &key.topic {
        TopicKey::Name(name) => image.topic_named(name).ok_or(ErrorCode::UnknownTopicOrPartition)?,
        TopicKey::Id(id) => image.topics.get(&TopicId(*id)).ok_or(ErrorCode::UnknownTopicId)?,
    };
    let partition = PartitionId(key.partition);
    topic.partition(partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    Ok(TopicPartition::new(topic.id, partition))
}

type Outcome = Result<Fetched, ErrorCode>;

/// Reads what the context wants; one outcome per partition. Waits as long as the client allows,
/// or until the connection is about to end.
async fn read(
    service: &Service,
    client: &Client,
    request: &FetchRequest,
    context: &FetchContext,
    share: &mut Share<'_>,
) -> Vec<Outcome> {
    let max_bytes = bytes(request.max_bytes).min(FETCH_RESPONSE_BYTES_MAX);
    let image = service.engine.image();
    let mut parts = Vec::new();
    let resolved: Vec<Result<(), ErrorCode>> = context
        .wanted()
        .iter()
        .map(|wanted| {
            parts.push(FetchPart {
                target: resolve(&image, &wanted.key)?,
                offset: Offset(wanted.fetch_offset),
                max_bytes: bytes(wanted.max_bytes).min(max_bytes),
                current_leader_epoch: known_epoch(wanted.current_leader_epoch),
            });
            Ok(())
        })
        .collect();
    let count = parts.len();
    let fetched: Vec<FetchOutcome> = if parts.is_empty() {
        Vec::new()
    } else {
        let spec = FetchSpec {
            parts,
            max_bytes,
            min_bytes: bytes(request.min_bytes).min(max_bytes),
            max_wait: Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)),
            read_committed: request.isolation_level == IsolationLevel::ReadCommitted,
        };
        let fetch = std::pin::pin!(service.engine.fetch_within(spec, share));
        match select(fetch, std::pin::pin!(client.leaving.wait())).await {
            Either::Left((fetched, _)) => fetched,
            Either::Right(((), _)) => vec![Err(PartitionError::Stopping); count],
        }
    };
    assert_eq!(fetched.len(), count, "one outcome per part");
    let mut fetched = fetched.into_iter();
    let outcome = |resolved: Result<(), ErrorCode>| {
        resolved?;
        fetched.next().expect("as many outcomes as parts").map_err(|error| error.code())
    };
    resolved.into_iter().map(outcome).collect()
}

/// A number of bytes as the wire has it: negative counts as none.
fn bytes(wire: i32) -> usize {
    usize::try_from(wire).unwrap_or(0)
}

fn respond(
    service: &Service,
    uses_ids: bool,
    isolation: IsolationLevel,
    context: FetchContext,
    outcomes: Vec<Outcome>,
) -> FetchResponse {
    let keys: Vec<PartitionKey> = context.wanted().iter().map(|wanted| wanted.key.clone()).collect();
    let told: Vec<Told> = outcomes.iter().map(told).collect();
    let draw_id = || i32::try_from(rand::below(u64::from(i32::MAX.unsigned_abs()))).unwrap_or(0);
    let answer = service.sessions.borrow_mut().finish(context, uses_ids, &told, now(), draw_id);
    let sessions = service.sessions.borrow();
    service.counters().fetch_sessions(sessions.len(), sessions.evictions());
    drop(sessions);
    let answer = match answer {
        Ok(answer) => answer,
        Err(code) => return FetchResponse::failed(code),
    };
    let included = keys.into_iter().zip(outcomes).zip(answer.included);
    let included = included.filter_map(|(outcome, included)| included.then_some(outcome));
    FetchResponse {
        session_id: answer.session_id,
        topics: topics(isolation, included),
        ..FetchResponse::default()
    }
}

fn told(outcome: &Outcome) -> Told {
    match outcome {
        Ok(fetched) => Told {
            high_watermark: fetched.high_watermark.0,
            log_start_offset: fetched.log_start_offset.0,
            has_records: fetched.batches.iter().any(|batch: &Bytes| !batch.is_empty()),
            is_error: false,
        },
        Err(_) => Told { high_watermark: -1, log_start_offset: -1, has_records: false, is_error: true },
    }
}

/// The response's topics; neighbours of one topic are put together, as Kafka does.
fn topics(
    isolation: IsolationLevel,
    partitions: impl Iterator<Item = (PartitionKey, Outcome)>,
) -> Vec<FetchTopicResponse> {
    let mut topics: Vec<FetchTopicResponse> = Vec::new();
    let mut last: Option<TopicKey> = None;
    for (key, outcome) in partitions {
        if last.as_ref() != Some(&key.topic) {
            let (name, topic_id) = match &key.topic {
                TopicKey::Name(name) => (name.to_string(), Uuid::nil()),
                TopicKey::Id(id) => (String::new(), *id),
            };
            topics.push(FetchTopicResponse { name, topic_id, partitions: Vec::new() });
            last = Some(key.topic);
        }
        let topic = topics.last_mut().expect("the first partition brings its topic");
        topic.partitions.push(partition(isolation, key.partition, outcome));
    }
    topics
}

fn partition(isolation: IsolationLevel, index: i32, outcome: Outcome) -> FetchPartitionResponse {
    match outcome {
        Err(code) => FetchPartitionResponse::failed(index, code),
        Ok(fetched) => FetchPartitionResponse {
            high_watermark: fetched.high_watermark.0,
            last_stable_offset: fetched.last_stable_offset.0,
            log_start_offset: fetched.log_start_offset.0,
            // There are no transactions yet, so none was aborted.
            aborted_transactions: (isolation == IsolationLevel::ReadCommitted).then(Vec::new),
            records: fetched.batches,
            ..FetchPartitionResponse::failed(index, ErrorCode::None)
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::metadata::tests::image;
    use super::*;

    fn named(name: &str, partition: i32) -> PartitionKey {
        PartitionKey { topic: TopicKey::Name(name.into()), partition }
    }

    fn with_id(id: u128, partition: i32) -> PartitionKey {
        PartitionKey { topic: TopicKey::Id(Uuid::from_u128(id)), partition }
    }

    #[test]
    fn unknown_topics_have_the_error_of_how_they_were_named() {
        let image = image();
        assert!(resolve(&image, &named("a", 1)).is_ok());
        assert!(resolve(&image, &with_id(10, 1)).is_ok());
        for key in [named("x", 0), named("a", 2), named("a", -1), with_id(10, 2)] {
            assert_eq!(resolve(&image, &key), Err(ErrorCode::UnknownTopicOrPartition));
        }
        assert_eq!(resolve(&image, &with_id(99, 0)), Err(ErrorCode::UnknownTopicId));
    }

    #[test]
    fn neighbours_of_one_topic_are_together() {
        let keys = [named("a", 0), named("a", 1), named("b", 0), named("a", 2)];
        let partitions = keys.into_iter().map(|key| (key, Ok(Fetched::default())));
        let topics = topics(IsolationLevel::ReadCommitted, partitions);
        let names: Vec<_> = topics.iter().map(|t| (t.name.as_str(), t.partitions.len())).collect();
        assert_eq!(names, [("a", 2), ("b", 1), ("a", 1)]);
        assert_eq!(topics[0].partitions[0].aborted_transactions, Some(vec![]));
    }

    #[test]
    fn an_error_of_the_whole_is_in_every_partition_before_version_7() {
        let topic = corelog_protocol::fetch::FetchTopic {
            name: "a".to_owned(),
            partitions: vec![corelog_protocol::fetch::FetchPartition::new(1, 0, 100)],
            ..Default::default()
        };
        let request = FetchRequest { topics: vec![topic], ..FetchRequest::default() };
        let old = refuse(6, &request, ErrorCode::ClusterAuthorizationFailed);
        assert_eq!(old.topics[0].partitions[0].error, ErrorCode::ClusterAuthorizationFailed);
        let new = refuse(7, &request, ErrorCode::ClusterAuthorizationFailed);
        assert_eq!((new.error, new.topics.len()), (ErrorCode::ClusterAuthorizationFailed, 0));
    }

    #[test]
    fn negative_numbers_of_bytes_count_as_none() {
        assert_eq!((bytes(-1), bytes(0), bytes(5)), (0, 0, 5));
    }
}
