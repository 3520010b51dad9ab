//! ElectLeaders, AlterPartitionReassignments and ListPartitionReassignments: where partitions are and
//! who leads them. Nothing moves yet, since nodes do not replicate: what is asked for is either so
//! already or refused. Pure functions of the image; messages are Kafka's
//! (`ReplicationControlManager`).

use std::collections::BTreeSet;

use corelog_engine::meta::image::{MetaImage, PartitionMeta};
use corelog_engine::types::{NodeId, PartitionId};
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ElectLeadersRequest,
    ElectLeadersResponse, ListPartitionReassignmentsResponse,
};

use super::{PARTITIONS_NAMED_MAX, owned, words};

/// `ElectionType`.
const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

type Refusal = (ErrorCode, String);

/// Answers ElectLeaders.
pub(crate) fn elect(image: &MetaImage, request: &ElectLeadersRequest) -> ElectLeadersResponse {
    let kind = request.election_type;
    let mut room = PARTITIONS_NAMED_MAX;
    let results = match &request.topic_partitions {
        None if !is_known(kind) => Vec::new(),
        // Of all partitions only those are told for which there is something to say.
        None => image
            .names
            .keys()
            .map(|name| {
                let count = image.topic_named(name).map_or(0, |topic| topic.partitions.len());
                let indexes = (0_i32..).take(count);
                let results = indexes.filter_map(|index| match election(image, name, index, kind) {
                    (ErrorCode::ElectionNotNeeded, _) => None,
                    refusal => Some(result(index, refusal)),
                });
                let partitions = results.collect();
                ReplicaElectionResult::default()
                    .with_topic(owned(name).into())
                    .with_partition_result(partitions)
            })
            .collect(),
        Some(topics) => topics
            .iter()
            .map(|topic| {
                let indexes = topic.partitions.iter().take(room);
                let results =
                    indexes.map(|index| result(*index, election(image, &topic.topic, *index, kind)));
                let partitions: Vec<_> = results.collect();
                room -= partitions.len();
                ReplicaElectionResult::default()
                    .with_topic(topic.topic.clone())
                    .with_partition_result(partitions)
            })
            .collect(),
    };
    let code = if is_known(kind) { ErrorCode::None } else { ErrorCode::InvalidRequest };
    ElectLeadersResponse::default().with_error_code(code.code()).with_replica_election_results(results)
}

fn is_known(kind: i8) -> bool {
    matches!(kind, PREFERRED | UNCLEAN)
}

fn result(index: i32, (code, message): Refusal) -> PartitionResult {
    let result = PartitionResult::default().with_partition_id(index).with_error_code(code.code());
    result.with_error_message(words(message))
}

/// Why there is no election: a partition has the one leader that it can have, or none.
fn election(image: &MetaImage, topic: &str, index: i32, kind: i8) -> Refusal {
    if !is_known(kind) {
        return (ErrorCode::InvalidRequest, format!("there is no election of type {kind}"));
    }
    let unknown = |what: String| (ErrorCode::UnknownTopicOrPartition, what);
    let Some(meta) = image.topic_named(topic) else {
        return unknown(format!("No such topic as {topic}"));
    };
    let Some(partition) = meta.partition(PartitionId(index)) else {
        return unknown(format!("No such partition as {topic}-{index}"));
    };
    let preferred = partition.replicas.first();
    let is_needed = match kind {
        UNCLEAN => partition.leader.is_none(),
        _ => partition.leader.as_ref() != preferred,
    };
    match (is_needed, kind) {
        (false, _) => {
            (ErrorCode::ElectionNotNeeded, "Leader election not needed for topic partition.".to_owned())
        }
        (true, UNCLEAN) => (
            ErrorCode::EligibleLeadersNotAvailable,
            "Eligible topic partition leaders are not available.".to_owned(),
        ),
        (true, _) => {
            (ErrorCode::PreferredLeaderNotAvailable, "The preferred leader was not available.".to_owned())
        }
    }
}

/// Answers AlterPartitionReassignments.
pub(crate) fn reassign(
    image: &MetaImage,
    request: &AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let response = ReassignablePartitionResponse::default()
                .with_partition_index(partition.partition_index)
                .with_error_message(None);
            match reassignment(image, &topic.name, partition) {
                Ok(()) => response,
                Err((code, message)) => {
                    response.with_error_code(code.code()).with_error_message(words(message))
                }
            }
        });
        let partitions = partitions.collect();
        ReassignableTopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions)
    });
    AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(request.allow_replication_factor_change)
        .with_error_message(None)
        .with_responses(topics.collect())
}

fn reassignment(image: &MetaImage, topic: &str, wanted: &ReassignablePartition) -> Result<(), Refusal> {
    let index = wanted.partition_index;
    let unknown = |what: String| (ErrorCode::UnknownTopicOrPartition, what);
    let meta =
        image.topic_named(topic).ok_or_else(|| unknown(format!("Unable to find a topic named {topic}.")))?;
    let partition = meta
        .partition(PartitionId(index))
        .ok_or_else(|| unknown(format!("Unable to find partition {topic}:{index}.")))?;
    let Some(replicas) = &wanted.replicas else {
        let message = "No partition reassignment is in progress.".to_owned();
        return Err((ErrorCode::NoReassignmentInProgress, message));
    };
    let replicas: Vec<NodeId> = replicas.iter().map(|id| NodeId(id.0)).collect();
    check_replicas(image, partition, &replicas).map_err(|why| (ErrorCode::InvalidReplicaAssignment, why))
}

/// Kafka's checks of an assignment, and ours: it must be the present one.
fn check_replicas(image: &MetaImage, partition: &PartitionMeta, wanted: &[NodeId]) -> Result<(), String> {
    if wanted.is_empty() {
        return Err("The manual partition assignment includes an empty replica list.".to_owned());
    }
    let mut seen = BTreeSet::new();
    for node in wanted {
        if !image.nodes.contains_key(node) {
            return Err(format!(
                "The manual partition assignment includes broker {node}, but no such broker is registered."
            ));
        }
        if !seen.insert(node) {
            return Err(format!(
                "The manual partition assignment includes the broker {node} more than once."
            ));
        }
    }
    if wanted != partition.replicas {
        return Err("Partitions cannot be moved to another broker yet.".to_owned());
    }
    Ok(())
}

/// Answers ListPartitionReassignments: nothing is ever being moved.
pub(crate) fn reassignments() -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default().with_error_message(None)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::BrokerId;
    use kafka_protocol::messages::alter_partition_reassignments_request::ReassignableTopic;
    use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
    use kafka_protocol::protocol::Encodable;

    use super::*;
    use crate::handlers::metadata::tests::image;

    fn elected(kind: i8, topics: Option<&[(&str, &[i32])]>) -> Vec<(String, i32, i16)> {
        let topic = |(name, partitions): &(&str, &[i32])| {
            let topic = TopicPartitions::default().with_topic(owned(name).into());
            topic.with_partitions(partitions.to_vec())
        };
        let topics = topics.map(|topics| topics.iter().map(topic).collect());
        let request = ElectLeadersRequest::default().with_election_type(kind).with_topic_partitions(topics);
        let response = elect(&image(), &request);
        // Version 0 knows one type, and no error code for all.
        let oldest = i16::from(kind != PREFERRED);
        for version in oldest..=2 {
            response.encode(&mut BytesMut::new(), version).unwrap();
        }
        let results = response.replica_election_results.iter().flat_map(|topic| {
            let of = |it: &PartitionResult| (topic.topic.to_string(), it.partition_id, it.error_code);
            topic.partition_result.iter().map(of).collect::<Vec<_>>()
        });
        results.collect()
    }

    #[test]
    fn a_leader_is_elected_already_or_cannot_be() {
        let of = |name: &str, index, code| (name.to_owned(), index, code);
        let asked: &[(&str, &[i32])] = &[("a", &[0, 5]), ("x", &[0]), ("c", &[0])];
        let expected = [of("a", 0, 84), of("a", 5, 3), of("x", 0, 3)];
        assert_eq!(elected(PREFERRED, Some(asked)), [&expected[..], &[of("c", 0, 80)]].concat());
        assert_eq!(elected(UNCLEAN, Some(asked)), [&expected[..], &[of("c", 0, 83)]].concat());
        assert_eq!(elected(PREFERRED, None), [of("c", 0, 80)]);
        let request = ElectLeadersRequest::default().with_election_type(7);
        assert_eq!(elect(&image(), &request).error_code, 42);
        assert_eq!(elected(7, Some(&[("a", &[0])])), [of("a", 0, 42)]);
    }

    fn reassigned(name: &str, index: i32, replicas: Option<&[i32]>) -> (i16, String) {
        let replicas = replicas.map(|ids| ids.iter().copied().map(BrokerId).collect());
        let partition = ReassignablePartition::default().with_partition_index(index).with_replicas(replicas);
        let topic = ReassignableTopic::default().with_name(owned(name).into());
        let request = AlterPartitionReassignmentsRequest::default()
            .with_topics(vec![topic.with_partitions(vec![partition])]);
        let response = reassign(&image(), &request);
        for version in 0..=1 {
            response.encode(&mut BytesMut::new(), version).unwrap();
        }
        let partition = &response.responses[0].partitions[0];
        (partition.error_code, partition.error_message.as_deref().unwrap_or_default().to_owned())
    }

    #[test]
    fn partitions_stay_where_they_are() {
        assert_eq!(reassigned("a", 1, Some(&[1])), (0, String::new()));
        assert_eq!(reassigned("a", 1, None).0, 85);
        assert_eq!(reassigned("a", 2, Some(&[1])), (3, "Unable to find partition a:2.".to_owned()));
        assert_eq!(reassigned("x", 0, Some(&[1])).0, 3);
        assert_eq!(reassigned("a", 0, Some(&[])).0, 39);
        assert_eq!(reassigned("a", 0, Some(&[1, 1])).0, 39);
        let (code, message) = reassigned("a", 0, Some(&[2]));
        assert_eq!(code, 39);
        assert!(message.contains("broker 2, but no such broker is registered"), "{message}");
        reassignments().encode(&mut BytesMut::new(), 0).unwrap();
    }
}
