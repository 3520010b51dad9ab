//! DescribeCluster and DescribeTopicPartitions.

use corelog_engine::meta::image::{MetaImage, PartitionMeta, TopicMeta};
use corelog_engine::types::NodeId;
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId, DescribeClusterRequest, DescribeClusterResponse, DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::metadata::{broker_ids, is_legal_name, leader_of, partition_code};
use super::{OPERATIONS_NOT_ASKED, OPERATIONS_ON_CLUSTER, OPERATIONS_ON_TOPIC, owned};
use crate::connection::Client;
use crate::service::Service;

/// `max.request.partition.size.limit`: partitions in one page of DescribeTopicPartitions.
const PAGE_PARTITIONS_MAX: i32 = 2000;
/// Types of endpoints: of nodes that clients talk to, and of those that only other nodes do.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

/// Answers DescribeCluster.
pub(crate) fn describe_cluster(
    service: &Service,
    client: &Client,
    request: &DescribeClusterRequest,
) -> DescribeClusterResponse {
    let listener = &service.options.listeners[client.listener].name;
    cluster(&service.engine.image(), service.engine.node(), listener, request)
}

fn cluster(
    image: &MetaImage,
    node: NodeId,
    listener: &str,
    request: &DescribeClusterRequest,
) -> DescribeClusterResponse {
    if request.endpoint_type != BROKERS {
        let (code, message) = match request.endpoint_type {
            CONTROLLERS => (
                ErrorCode::MismatchedEndpointType,
                "this listener is for clients of brokers, not of controllers",
            ),
            _ => (ErrorCode::UnsupportedEndpointType, "there is no such kind of endpoint"),
        };
        return DescribeClusterResponse::default()
            .with_error_code(code.code())
            .with_error_message(Some(StrBytes::from_static_str(message)))
            .with_cluster_authorized_operations(OPERATIONS_NOT_ASKED);
    }
    let brokers = image.nodes.iter().filter_map(|(id, node)| {
        let address = node.listeners.iter().find(|advertised| advertised.name == listener)?;
        let broker = DescribeClusterBroker::default().with_broker_id(BrokerId(id.0));
        let broker = broker.with_host(owned(&address.host)).with_port(i32::from(address.port));
        Some(broker.with_rack(node.rack.as_deref().map(owned)))
    });
    let operations = match request.include_cluster_authorized_operations {
        true => OPERATIONS_ON_CLUSTER,
        false => OPERATIONS_NOT_ASKED,
    };
    DescribeClusterResponse::default()
        .with_endpoint_type(BROKERS)
        .with_cluster_id(owned(&image.cluster_id))
        .with_controller_id(BrokerId(node.0))
        .with_brokers(brokers.collect())
        .with_cluster_authorized_operations(operations)
}

/// Answers DescribeTopicPartitions with one page.
pub(crate) fn describe_topic_partitions(
    service: &Service,
    request: &DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    page(&service.engine.image(), request)
}

/// A page begins at the cursor and ends at the limit; topics come in the order of their names.
fn page(image: &MetaImage, request: &DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let every_topic = request.topics.is_empty();
    let mut names: Vec<&str> = match every_topic {
        true => image.names.keys().map(String::as_str).collect(),
        false => request.topics.iter().map(|topic| topic.name.as_str()).collect(),
    };
    names.sort_unstable();
    names.dedup();
    let mut first_partition = 0;
    if let Some(cursor) = &request.cursor {
        names.retain(|name| *name >= cursor.topic_name.as_str());
        if names.first() == Some(&cursor.topic_name.as_str()) {
            first_partition = usize::try_from(cursor.partition_index).unwrap_or(0);
        }
    }
    let limit = request.response_partition_limit.clamp(1, PAGE_PARTITIONS_MAX);
    let mut room = usize::try_from(limit).expect("at least 1");
    let mut topics = Vec::new();
    let mut next = None;
    for name in names {
        if room == 0 {
            next = Some((name, 0));
            break;
        }
        let Some(topic) = image.topic_named(name) else {
            if !every_topic {
                topics.push(missing(name));
            }
            continue;
        };
        let first = std::mem::take(&mut first_partition).min(topic.partitions.len());
        let end = topic.partitions.len().min(first + room);
        topics.push(topic_in(topic, first, end));
        room -= end - first;
        if end < topic.partitions.len() {
            next = Some((name, end));
            break;
        }
    }
    let cursor = next.map(|(name, partition)| {
        let index = i32::try_from(partition).expect("partition indexes are 32 bits");
        Cursor::default().with_topic_name(owned(name).into()).with_partition_index(index)
    });
    DescribeTopicPartitionsResponse::default().with_topics(topics).with_next_cursor(cursor)
}

fn missing(name: &str) -> DescribeTopicPartitionsResponseTopic {
    let code = match is_legal_name(name) {
        true => ErrorCode::UnknownTopicOrPartition,
        false => ErrorCode::InvalidTopicException,
    };
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(code.code())
        .with_name(Some(owned(name).into()))
        .with_topic_authorized_operations(OPERATIONS_NOT_ASKED)
}

fn topic_in(topic: &TopicMeta, first: usize, end: usize) -> DescribeTopicPartitionsResponseTopic {
    let partitions = (0..).zip(&topic.partitions).skip(first).take(end - first);
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(owned(&topic.name).into()))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic.internal)
        .with_partitions(partitions.map(|(index, partition)| partition_in(index, partition)).collect())
        .with_topic_authorized_operations(OPERATIONS_ON_TOPIC)
}

fn partition_in(index: i32, partition: &PartitionMeta) -> DescribeTopicPartitionsResponsePartition {
    DescribeTopicPartitionsResponsePartition::default()
        .with_error_code(partition_code(partition))
        .with_partition_index(index)
        .with_leader_id(leader_of(partition))
        .with_leader_epoch(partition.leader_epoch.0)
        .with_replica_nodes(broker_ids(&partition.replicas))
        .with_isr_nodes(broker_ids(&partition.isr))
        .with_eligible_leader_replicas(Some(Vec::new()))
        .with_last_known_elr(Some(Vec::new()))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::describe_topic_partitions_request;
    use kafka_protocol::protocol::Encodable;

    use super::super::metadata::tests::image;
    use super::*;

    type Described = (String, i16, Vec<i32>);

    fn ask(
        topics: &[&str],
        limit: i32,
        cursor: Option<(&str, i32)>,
    ) -> (Vec<Described>, Option<(String, i32)>) {
        let topic = |name: &&str| {
            describe_topic_partitions_request::TopicRequest::default().with_name(owned(name).into())
        };
        let cursor = cursor.map(|(name, partition)| {
            describe_topic_partitions_request::Cursor::default()
                .with_topic_name(owned(name).into())
                .with_partition_index(partition)
        });
        let request = DescribeTopicPartitionsRequest::default()
            .with_topics(topics.iter().map(topic).collect())
            .with_response_partition_limit(limit)
            .with_cursor(cursor);
        let response = page(&image(), &request);
        response.encode(&mut BytesMut::new(), 0).unwrap();
        let described = response.topics.iter().map(|topic| {
            let name = topic.name.as_ref().unwrap().as_str().to_owned();
            (name, topic.error_code, topic.partitions.iter().map(|p| p.partition_index).collect())
        });
        let next = response.next_cursor.map(|c| (c.topic_name.as_str().to_owned(), c.partition_index));
        (described.collect(), next)
    }

    fn topic(name: &str, partitions: &[i32]) -> Described {
        (name.to_owned(), 0, partitions.to_vec())
    }

    #[test]
    fn pages_cover_all_partitions_once() {
        let mut cursor = Some(("a".to_owned(), 0));
        let mut seen = Vec::new();
        while let Some((name, partition)) = cursor {
            let (described, next) = ask(&[], 2, Some((&name, partition)));
            let partitions = described.iter().map(|(_, _, partitions)| partitions.len()).sum::<usize>();
            assert!((1..=2).contains(&partitions));
            for (name, _, partitions) in described {
                seen.extend(partitions.into_iter().map(|p| format!("{name}{p}")));
            }
            cursor = next;
        }
        assert_eq!(seen, ["a0", "a1", "b0", "b1", "b2", "c0"]);
    }

    #[test]
    fn a_page_that_ends_with_a_topic_points_at_the_next() {
        assert_eq!(ask(&[], 2, None), (vec![topic("a", &[0, 1])], Some(("b".to_owned(), 0))));
        let all = vec![topic("a", &[0, 1]), topic("b", &[0, 1, 2]), topic("c", &[0])];
        assert_eq!(ask(&[], 2000, None), (all, None));
    }

    #[test]
    fn a_cursor_at_a_deleted_topic_goes_on_with_the_next() {
        assert_eq!(ask(&[], 3, Some(("aa", 1))).0, [topic("b", &[0, 1, 2])]);
    }

    #[test]
    fn only_topics_that_were_named_are_reported_missing() {
        let (described, next) = ask(&["x", "a", "bad name", "a"], 2000, None);
        let expected =
            [topic("a", &[0, 1]), ("bad name".to_owned(), 17, vec![]), ("x".to_owned(), 3, vec![])];
        assert_eq!((described.as_slice(), next), (&expected[..], None));
    }

    #[test]
    fn controllers_are_not_described_on_this_listener() {
        let request = DescribeClusterRequest::default().with_endpoint_type(2);
        assert_eq!(cluster(&image(), NodeId(1), "inside", &request).error_code, 114);
        let request = DescribeClusterRequest::default().with_endpoint_type(9);
        assert_eq!(cluster(&image(), NodeId(1), "inside", &request).error_code, 115);
        let request = DescribeClusterRequest::default().with_endpoint_type(1);
        let response = cluster(&image(), NodeId(1), "outside", &request);
        assert_eq!((response.error_code, response.brokers[0].port), (0, 19092));
        for version in 0..=2 {
            response.encode(&mut BytesMut::new(), version).unwrap();
        }
    }
}
