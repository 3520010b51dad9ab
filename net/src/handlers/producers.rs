//! DescribeProducers: which producers partitions remember.

use std::collections::BTreeSet;

use corelog_engine::api::ActiveProducer;
use corelog_engine::meta::image::MetaImage;
use corelog_engine::types::{PartitionId, TopicPartition};
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse};
use kafka_protocol::protocol::StrBytes;

use super::metadata::is_legal_name;
use super::{PARTITIONS_NAMED_MAX, words};
use crate::service::Service;

/// Answers DescribeProducers.
pub(crate) async fn describe(
    service: &Service,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let image = service.engine.image();
    let mut room = PARTITIONS_NAMED_MAX;
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for topic in &request.topics {
        let indexes = topic.partition_indexes.iter().take(room);
        let targets: Vec<_> = indexes.map(|index| target(&image, topic, *index, &mut seen)).collect();
        room -= targets.len();
        found.push(targets);
    }
    let targets = found.iter().flatten().filter_map(|it| it.as_ref().ok().copied()).collect();
    let mut producers = service.engine.producers(targets).await.into_iter();
    let mut topics = Vec::with_capacity(found.len());
    for (topic, found) in request.topics.into_iter().zip(found) {
        let mut partitions = Vec::with_capacity(found.len());
        for (index, target) in topic.partition_indexes.iter().zip(found) {
            let producers = target.and_then(|_| {
                let producers = producers.next().expect("one answer per partition that was passed on");
                producers.map_err(|error| (error.code(), words(error)))
            });
            partitions.push(partition(*index, producers));
        }
        topics.push(TopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    DescribeProducersResponse::default().with_topics(topics)
}

type Refusal = (ErrorCode, Option<StrBytes>);

fn target(
    image: &MetaImage,
    topic: &TopicRequest,
    index: i32,
    seen: &mut BTreeSet<TopicPartition>,
) -> Result<TopicPartition, Refusal> {
    if !is_legal_name(&topic.name) {
        return Err((ErrorCode::InvalidTopicException, None));
    }
    let partition = PartitionId(index);
    let known = image.topic_named(&topic.name).filter(|meta| meta.partition(partition).is_some());
    let known = known.ok_or((ErrorCode::UnknownTopicOrPartition, None))?;
    let target = TopicPartition::new(known.id, partition);
    if !seen.insert(target) {
        // The answer would be as large as somebody likes.
        let message = StrBytes::from_static_str("this partition is named more than once in the request");
        return Err((ErrorCode::InvalidRequest, Some(message)));
    }
    Ok(target)
}

fn partition(index: i32, producers: Result<Vec<ActiveProducer>, Refusal>) -> PartitionResponse {
    let partition = PartitionResponse::default().with_partition_index(index).with_error_message(None);
    match producers {
        Ok(producers) => partition.with_active_producers(producers.into_iter().map(state).collect()),
        Err((code, message)) => partition.with_error_code(code.code()).with_error_message(message),
    }
}

/// There are no transactions yet, so none is ever open.
fn state(producer: ActiveProducer) -> ProducerState {
    ProducerState::default()
        .with_producer_id(producer.producer_id.into())
        .with_producer_epoch(producer.epoch.into())
        .with_last_sequence(producer.last_sequence)
        .with_last_timestamp(producer.last_write_ms)
        .with_coordinator_epoch(-1)
        .with_current_txn_start_offset(-1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::metadata::tests::image;
    use crate::handlers::owned;

    #[test]
    fn a_partition_is_looked_up_once() {
        let (image, mut seen) = (image(), BTreeSet::new());
        let mut ask = |name: &str, index: i32| {
            let topic = TopicRequest::default().with_name(owned(name).into());
            target(&image, &topic, index, &mut seen).map_err(|(code, _)| code)
        };
        assert!(ask("b", 2).is_ok());
        assert_eq!(ask("b", 2), Err(ErrorCode::InvalidRequest));
        assert_eq!(ask("b", 3), Err(ErrorCode::UnknownTopicOrPartition));
        assert_eq!(ask("b", -1), Err(ErrorCode::UnknownTopicOrPartition));
        assert_eq!(ask("x", 0), Err(ErrorCode::UnknownTopicOrPartition));
        assert_eq!(ask("x y", 0), Err(ErrorCode::InvalidTopicException));
    }
}
