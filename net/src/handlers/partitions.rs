//! CreatePartitions.

use std::collections::BTreeMap;

use corelog_engine::api::TopicError;
use corelog_engine::meta::command::NewPartitions;
use corelog_engine::types::NodeId;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

use super::words;
use crate::service::Service;

/// Answers CreatePartitions: one result per topic, each of which succeeds or fails alone. A topic
/// that is named more than once is refused once, as Kafka does.
pub(crate) async fn create(service: &Service, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let mut named: BTreeMap<_, Vec<CreatePartitionsTopic>> = BTreeMap::new();
    for topic in request.topics {
        named.entry(topic.name.clone()).or_default().push(topic);
    }
    let (mut wanted, mut results) = (Vec::new(), Vec::new());
    for (name, mut topics) in named {
        match (topics.pop(), topics.is_empty()) {
            (Some(topic), true) => wanted.push(topic),
            _ => {
                let error = TopicError::InvalidRequest("Duplicate topic name.".to_owned());
                results.push(result(name, Err(error)));
            }
        }
    }
    let topics = wanted.iter().map(new_partitions).collect();
    let outcomes = service.engine.create_partitions(topics, request.validate_only).await;
    let outcomes = outcomes.into_iter().map(|outcome| outcome.map(drop));
    results.extend(wanted.into_iter().zip(outcomes).map(|(topic, outcome)| result(topic.name, outcome)));
    CreatePartitionsResponse::default().with_results(results)
}

fn new_partitions(topic: &CreatePartitionsTopic) -> NewPartitions {
    let assignments = topic.assignments.as_ref().map(|assignments| {
        let replicas = assignments.iter().map(|it| it.broker_ids.iter().map(|id| NodeId(id.0)).collect());
        replicas.collect()
    });
    NewPartitions { name: topic.name.as_str().to_owned(), count: topic.count, assignments }
}

fn result(
    name: kafka_protocol::messages::TopicName,
    outcome: Result<(), TopicError>,
) -> CreatePartitionsTopicResult {
    let result = CreatePartitionsTopicResult::default().with_name(name);
    match outcome {
        Ok(()) => result.with_error_message(None),
        Err(error) => result.with_error_code(error.code().code()).with_error_message(words(&error)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::BrokerId;
    use kafka_protocol::messages::create_partitions_request::CreatePartitionsAssignment;
    use kafka_protocol::protocol::Encodable;

    use super::*;
    use crate::handlers::owned;

    #[test]
    fn assignments_come_through_and_their_absence_too() {
        let topic = CreatePartitionsTopic::default().with_name(owned("t").into()).with_count(3);
        assert_eq!(new_partitions(&topic.clone().with_assignments(None)).assignments, None);
        let assignment = CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(1)]);
        let wanted = new_partitions(&topic.with_assignments(Some(vec![assignment])));
        assert_eq!((wanted.count, wanted.assignments), (3, Some(vec![vec![NodeId(1)]])));
    }

    #[test]
    fn results_can_be_written_in_every_version() {
        let error = TopicError::InvalidPartitions("Topic already has 3 partition(s).".to_owned());
        for version in 0..=3 {
            let results =
                vec![result(owned("a").into(), Ok(())), result(owned("b").into(), Err(error.clone()))];
            let response = CreatePartitionsResponse::default().with_results(results);
            response.encode(&mut BytesMut::new(), version).unwrap();
        }
    }
}
