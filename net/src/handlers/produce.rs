//! Produce: checks the request as a whole, hands the batches to the engine in the order in which
//! requests came, and tells what became of each.

use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;

use bytes::BytesMut;
use corelog_engine::api::{Acks, ProduceOutcome, ProducePart};
use corelog_engine::meta::image::MetaImage;
use corelog_engine::types::{PartitionId, TopicPartition};
use corelog_protocol::api::{Api, RequestHeader};
use corelog_protocol::error::ErrorCode;
use corelog_protocol::produce::{
    ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopicResponse, RecordErrorEntry,
};

use crate::connection::Reply;
use crate::service::Service;

/// First version in which batches may be compressed with zstd.
const ZSTD_FROM: i16 = 7;
/// Position of the low byte of a batch's attributes.
const ATTRIBUTES_AT: usize = 22;
const CODEC_BITS: u8 = 0b111;
const CODEC_ZSTD: u8 = 4;
const TRANSACTIONAL_BIT: u8 = 1 << 4;

/// A refusal, with words for the client's log.
type Refusal = (ErrorCode, &'static str);

const NO_TRANSACTIONS: Refusal = (ErrorCode::InvalidTxnState, "this broker does not serve transactions yet");

const INTERNAL: Refusal = (ErrorCode::InvalidTopicException, "only the broker writes to internal topics");

/// What one partition of a request has to wait for.
enum Slot {
    /// The engine's next outcome.
    Passed,
    Refused(Refusal),
}

/// What Kafka's admin client calls itself; it may write to the topics of brokers.
const ADMIN_CLIENT: &str = "__admin_client";

/// Starts a produce: when this returns, the batches are on their way in the order of the calls.
/// `pinned_bytes` is the size of the memory that a batch of the request keeps from being freed.
pub(crate) fn start(
    service: &Rc<Service>,
    header: &RequestHeader,
    request: ProduceRequest,
    pinned_bytes: usize,
) -> impl Future<Output = Reply> + 'static {
    let (version, correlation_id, acks) = (header.version, header.correlation_id, request.acks);
    let is_admin = header.client_id.as_deref() == Some(ADMIN_CLIENT);
    let checked = check(&service.engine.image(), version, is_admin, request, pinned_bytes);
    let outcomes = service.engine.produce(checked.acks, checked.parts);
    let (skeleton, service) = (checked.skeleton, Rc::clone(service));
    async move {
        let response = respond(skeleton, outcomes.await);
        service.counters().errors(Api::Produce, &response);
        if acks != 0 {
            return Reply::Frame(response.encode(version, correlation_id).freeze());
        }
        let refused = |p: &&ProducePartitionResponse| p.error != ErrorCode::None;
        match response.topics.iter().flat_map(|topic| &topic.partitions).find(refused) {
            None => Reply::Silent,
            // As Kafka: there is no other way to tell.
            Some(partition) => {
                tracing::debug!(error = %partition.error, message = ?partition.error_message, "produce without acks failed");
                Reply::Close
            }
        }
    }
}

/// A request whose batches were taken out.
struct Checked {
    acks: Acks,
    parts: Vec<ProducePart>,
    skeleton: Vec<(String, Vec<(i32, Slot)>)>,
}

fn check(
    image: &MetaImage,
    version: i16,
    is_admin: bool,
    request: ProduceRequest,
    pinned_bytes: usize,
) -> Checked {
    let (acks, refused) = match request.acks {
        0 => (Acks::None, None),
        1 => (Acks::Leader, None),
        -1 => (Acks::All, None),
        _ => (Acks::None, Some((ErrorCode::InvalidRequiredAcks, "acks has to be 0, 1 or -1"))),
    };
    let refused = refused.or(request.transactional_id.is_some().then_some(NO_TRANSACTIONS));
    let mut named = BTreeMap::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            *named.entry((topic.name.clone(), partition.index)).or_insert(0u32) += 1;
        }
    }
    let mut parts = Vec::new();
    let mut skeleton = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut slots = Vec::with_capacity(topic.partitions.len());
        let meta = image.topic_named(&topic.name);
        for partition in topic.partitions {
            let known = meta.filter(|meta| meta.partition(PartitionId(partition.index)).is_some());
            let repeated = named.get(&(topic.name.clone(), partition.index)).is_some_and(|count| *count > 1);
            let refusal = refused
                .or(repeated.then_some((ErrorCode::InvalidRequest, "the partition is named more than once")))
                .or_else(|| check_batch(version, &partition.records));
            let slot = match (refusal, known) {
                (Some(refusal), _) => Slot::Refused(refusal),
                (None, None) => Slot::Refused((
                    ErrorCode::UnknownTopicOrPartition,
                    "this broker does not have the partition",
                )),
                (None, Some(meta)) if meta.internal && !is_admin => Slot::Refused(INTERNAL),
                (None, Some(meta)) => {
                    let target = TopicPartition::new(meta.id, PartitionId(partition.index));
                    parts.push(ProducePart { target, batch: own(partition.records, pinned_bytes) });
                    Slot::Passed
                }
            };
            slots.push((partition.index, slot));
        }
        skeleton.push((topic.name, slots));
    }
    Checked { acks, parts, skeleton }
}

/// What depends on the version of the request; the engine checks the rest.
fn check_batch(version: i16, batch: &[u8]) -> Option<Refusal> {
    let Some(attributes) = batch.get(ATTRIBUTES_AT) else {
        return Some((ErrorCode::InvalidRecord, "there has to be a record batch for each partition"));
    };
    if attributes & TRANSACTIONAL_BIT != 0 {
        return Some(NO_TRANSACTIONS);
    }
    if version < ZSTD_FROM && attributes & CODEC_BITS == CODEC_ZSTD {
        return Some((ErrorCode::UnsupportedCompressionType, "zstd needs version 7 of Produce"));
    }
    None
}

/// A batch that is kept pins its whole buffer: a small one is copied out of it.
fn own(batch: BytesMut, pinned_bytes: usize) -> BytesMut {
    if batch.len() < pinned_bytes / 2 { BytesMut::from(&batch[..]) } else { batch }
}

fn respond(skeleton: Vec<(String, Vec<(i32, Slot)>)>, outcomes: Vec<ProduceOutcome>) -> ProduceResponse {
    let mut outcomes = outcomes.into_iter();
    let topics = skeleton.into_iter().map(|(name, slots)| {
        let partitions = slots.into_iter().map(|(index, slot)| match slot {
            Slot::Passed => told(index, outcomes.next().expect("one outcome per part")),
            Slot::Refused((code, message)) => ProducePartitionResponse {
                error_message: Some(message.to_owned()),
                ..ProducePartitionResponse::failed(index, code)
            },
        });
        let partitions = partitions.collect();
        ProduceTopicResponse { name, partitions }
    });
    ProduceResponse { topics: topics.collect(), ..ProduceResponse::default() }
}

fn told(index: i32, outcome: ProduceOutcome) -> ProducePartitionResponse {
    match outcome {
        Ok(produced) => ProducePartitionResponse {
            log_append_time_ms: produced.log_append_time_ms.unwrap_or(-1),
            ..ProducePartitionResponse::appended(index, produced.base_offset.0, produced.log_start_offset.0)
        },
        Err(error) => {
            // What is wrong with the first is said of the partition, too, and goes for the others.
            let record = |(at, batch_index): (usize, &i32)| RecordErrorEntry {
                batch_index: *batch_index,
                message: (at == 0).then(|| error.message.clone()),
            };
            ProducePartitionResponse {
                record_errors: error.record_indexes.iter().enumerate().map(record).collect(),
                error_message: Some(error.message.clone()),
                ..ProducePartitionResponse::failed(index, error.code)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use corelog_engine::api::{ProduceError, Produced};
    use corelog_engine::meta::image::TopicMeta;
    use corelog_engine::types::Offset;
    use corelog_protocol::produce::{ProducePartition, ProduceTopic};

    use super::super::metadata::tests::image;
    use super::*;

    fn batch(attributes: u8) -> BytesMut {
        let mut batch = BytesMut::zeroed(61);
        batch[ATTRIBUTES_AT] = attributes;
        batch
    }

    fn request(acks: i16, partitions: &[(i32, u8)]) -> ProduceRequest {
        let partition =
            |(index, attributes): &(i32, u8)| ProducePartition { index: *index, records: batch(*attributes) };
        ProduceRequest {
            transactional_id: None,
            acks,
            timeout_ms: 1000,
            topics: vec![ProduceTopic {
                name: "a".to_owned(),
                partitions: partitions.iter().map(partition).collect(),
            }],
        }
    }

    fn codes(version: i16, request: ProduceRequest) -> Vec<i16> {
        codes_in(&image(), version, false, request)
    }

    fn codes_in(image: &MetaImage, version: i16, is_admin: bool, request: ProduceRequest) -> Vec<i16> {
        let checked = check(image, version, is_admin, request, 61);
        let ok = |_: &ProducePart| {
            Ok(Produced { base_offset: Offset(7), log_append_time_ms: None, log_start_offset: Offset(0) })
        };
        let outcomes = checked.parts.iter().map(ok).collect();
        let response = respond(checked.skeleton, outcomes);
        response.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error.code()).collect()
    }

    #[test]
    fn what_is_wrong_with_one_partition_does_not_touch_the_others() {
        assert_eq!(codes(12, request(1, &[(0, 0), (5, 0), (1, 0)])), [0, 3, 0]);
        assert_eq!(codes(12, request(1, &[(0, 0), (1, 16)])), [0, 48]);
        let mut unknown = request(1, &[(0, 0)]);
        unknown.topics[0].name = "x".to_owned();
        assert_eq!(codes(12, unknown), [3]);
    }

    #[test]
    fn only_admin_clients_write_to_internal_topics() {
        let mut image = image();
        let id = image.names["a"];
        let internal = TopicMeta { internal: true, ..(*image.topics[&id]).clone() };
        image.topics.insert(id, Arc::new(internal));
        let parts = [(0, 0), (9, 0)];
        assert_eq!(codes_in(&image, 12, false, request(1, &parts)), [17, 3]);
        assert_eq!(codes_in(&image, 12, true, request(1, &parts)), [0, 3]);
    }

    #[test]
    fn a_partition_named_twice_is_refused_twice() {
        assert_eq!(codes(12, request(-1, &[(0, 0), (1, 0), (0, 0)])), [42, 0, 42]);
    }

    #[test]
    fn acks_are_0_1_or_all() {
        for (acks, code) in [(0, 0), (1, 0), (-1, 0), (2, 21), (-2, 21)] {
            assert_eq!(codes(12, request(acks, &[(0, 0)])), [code], "{acks}");
        }
    }

    #[test]
    fn transactions_are_refused() {
        let transactional =
            ProduceRequest { transactional_id: Some("t".to_owned()), ..request(-1, &[(0, 0)]) };
        assert_eq!(codes(12, transactional), [48]);
    }

    #[test]
    fn zstd_needs_version_7_and_nothing_is_not_a_batch() {
        assert_eq!(codes(6, request(1, &[(0, CODEC_ZSTD)])), [76]);
        assert_eq!(codes(7, request(1, &[(0, CODEC_ZSTD)])), [0]);
        let mut empty = request(1, &[(0, 0)]);
        empty.topics[0].partitions[0].records.clear();
        assert_eq!(codes(12, empty), [87]);
    }

    #[test]
    fn the_offending_records_are_named() {
        let error = ProduceError {
            code: ErrorCode::InvalidRecord,
            message: "no key".to_owned(),
            record_indexes: vec![3, 5],
        };
        let response = told(1, Err(error));
        assert_eq!((response.error, response.base_offset), (ErrorCode::InvalidRecord, -1));
        let named: Vec<_> =
            response.record_errors.iter().map(|it| (it.batch_index, it.message.as_deref())).collect();
        assert_eq!(named, [(3, Some("no key")), (5, None)]);
        let produced =
            Produced { base_offset: Offset(9), log_append_time_ms: Some(77), log_start_offset: Offset(2) };
        let response = told(1, Ok(produced));
        assert_eq!(
            (response.base_offset, response.log_append_time_ms, response.log_start_offset),
            (9, 77, 2)
        );
    }

    #[test]
    fn a_batch_leaves_a_buffer_that_it_does_not_half_fill() {
        let mut buffer = BytesMut::zeroed(1000);
        let small = buffer.split_to(499);
        let at = small.as_ptr();
        assert_ne!(own(small, 1000).as_ptr(), at);
        let mut buffer = BytesMut::zeroed(1000);
        let large = buffer.split_to(500);
        let at = large.as_ptr();
        assert_eq!(own(large, 1000).as_ptr(), at);
    }
}
