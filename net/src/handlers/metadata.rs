//! Metadata and DescribeTopicPartitions: which nodes, topics and partitions there are.

use std::collections::BTreeMap;

use corelog_engine::api::{NewTopic, TopicError};
use corelog_engine::engine::OFFSETS_TOPIC;
use corelog_engine::meta::image::{MetaImage, PartitionMeta, TopicMeta};
use corelog_engine::types::{NodeId, TopicId};
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse};
use uuid::Uuid;

use super::{OPERATIONS_NOT_ASKED, OPERATIONS_ON_CLUSTER, OPERATIONS_ON_TOPIC, owned};
use crate::connection::Client;
use crate::service::Service;

/// A topic as a client names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Name(String),
    Id(Uuid),
    /// Neither a name nor an id.
    Nothing,
}

/// Answers a Metadata request; creates topics on the way if both sides want that.
pub(crate) async fn serve(
    service: &Service,
    client: &Client,
    version: i16,
    request: MetadataRequest,
) -> MetadataResponse {
    let asked = asked(version, &request);
    let mut refused = BTreeMap::new();
    if request.allow_auto_topic_creation && service.options.auto_create_topics {
        refused = create_missing(service, asked.as_deref().unwrap_or_default()).await;
    }
    let listener = &service.options.listeners[client.listener].name;
    let mut response = describe(&service.engine.image(), service.engine.node(), listener, asked.as_deref());
    for topic in &mut response.topics {
        let name = topic.name.as_ref().map(|name| name.as_str());
        if let Some(error) = name.and_then(|name| refused.get(name)) {
            topic.error_code = error.code().code();
        }
    }
    if request.include_topic_authorized_operations {
        for topic in response.topics.iter_mut().filter(|topic| topic.error_code == 0) {
            topic.topic_authorized_operations = OPERATIONS_ON_TOPIC;
        }
    }
    if request.include_cluster_authorized_operations && (8..=10).contains(&version) {
        response.cluster_authorized_operations = OPERATIONS_ON_CLUSTER;
    }
    response
}

/// What is asked for; `None` is everything. In version 0 an empty list is everything, too.
fn asked(version: i16, request: &MetadataRequest) -> Option<Vec<Asked>> {
    let topics = request.topics.as_ref()?;
    if version == 0 && topics.is_empty() {
        return None;
    }
    let one = |topic: &kafka_protocol::messages::metadata_request::MetadataRequestTopic| match &topic.name {
        Some(name) => Asked::Name(name.as_str().to_owned()),
        None if topic.topic_id.is_nil() => Asked::Nothing,
        None => Asked::Id(topic.topic_id),
    };
    let mut seen: Vec<_> = topics.iter().map(one).collect();
    let mut unique = std::collections::BTreeSet::new();
    // Kafka answers a topic that is named twice once. A large one would make a small request's answer
    // as large as somebody likes.
    seen.retain(|asked| *asked == Asked::Nothing || unique.insert(asked.clone()));
    Some(seen)
}

/// Creates the topics that do not exist; gives those that could not be created.
async fn create_missing(service: &Service, asked: &[Asked]) -> BTreeMap<String, TopicError> {
    let image = service.engine.image();
    let missing: Vec<String> = asked
        .iter()
        .filter_map(|asked| match asked {
            Asked::Name(name) if image.topic_named(name).is_none() && is_legal_name(name) => {
                Some(name.clone())
            }
            Asked::Name(_) | Asked::Id(_) | Asked::Nothing => None,
        })
        .collect();
    // Not with the defaults of other topics: groups want it their way.
    let (groups, missing): (Vec<_>, Vec<_>) = missing.into_iter().partition(|name| name == OFFSETS_TOPIC);
    let mut refused = BTreeMap::new();
    if let Some(name) = groups.into_iter().next()
        && let Err(error) = service.engine.ready_for_groups().await
    {
        refused.insert(name, error);
    }
    if missing.is_empty() {
        return refused;
    }
    let new = |name: &String| NewTopic {
        name: name.clone(),
        partitions: -1,
        replication_factor: -1,
        ..NewTopic::default()
    };
    let created = service.engine.create_topics(missing.iter().map(new).collect(), false).await;
    refused.extend(missing.into_iter().zip(created).filter_map(|(name, outcome)| match outcome {
        // Somebody else was faster: the topic is there.
        Ok(_) | Err(TopicError::Exists(_)) => None,
        Err(error) => {
            tracing::debug!(topic = %name, %error, "automatic creation refused");
            Some((name, error))
        }
    }));
    refused
}

/// Kafka's rule for topic names.
pub(crate) fn is_legal_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= 249 && name != "." && name != ".." && name.bytes().all(legal)
}

/// The response as the image has it; `None` asks for every topic.
fn describe(image: &MetaImage, node: NodeId, listener: &str, asked: Option<&[Asked]>) -> MetadataResponse {
    let topics = match asked {
        None => {
            image.names.values().filter_map(|id| image.topics.get(id)).map(|topic| topic_in(topic)).collect()
        }
        Some(asked) => asked.iter().map(|asked| answer(image, asked)).collect(),
    };
    MetadataResponse::default()
        .with_brokers(brokers(image, listener))
        .with_cluster_id(Some(owned(&image.cluster_id)))
        .with_controller_id(BrokerId(node.0))
        .with_topics(topics)
        .with_cluster_authorized_operations(OPERATIONS_NOT_ASKED)
}

fn brokers(image: &MetaImage, listener: &str) -> Vec<MetadataResponseBroker> {
    let advertised = image.nodes.iter().filter_map(|(id, node)| {
        let address = node.listeners.iter().find(|advertised| advertised.name == listener)?;
        Some(
            MetadataResponseBroker::default()
                .with_node_id(BrokerId(id.0))
                .with_host(owned(&address.host))
                .with_port(i32::from(address.port))
                .with_rack(node.rack.as_deref().map(owned)),
        )
    });
    advertised.collect()
}

fn answer(image: &MetaImage, asked: &Asked) -> MetadataResponseTopic {
    let unknown = |code: ErrorCode| {
        MetadataResponseTopic::default()
            .with_error_code(code.code())
            .with_topic_authorized_operations(OPERATIONS_NOT_ASKED)
    };
    match asked {
        Asked::Name(name) => match image.topic_named(name) {
            Some(topic) => topic_in(topic),
            None if is_legal_name(name) => {
                unknown(ErrorCode::UnknownTopicOrPartition).with_name(Some(owned(name).into()))
            }
            None => unknown(ErrorCode::InvalidTopicException).with_name(Some(owned(name).into())),
        },
        Asked::Id(id) => match image.topics.get(&TopicId(*id)) {
            Some(topic) => topic_in(topic),
            None => unknown(ErrorCode::UnknownTopicId).with_topic_id(*id).with_name(None),
        },
        Asked::Nothing => unknown(ErrorCode::InvalidRequest).with_name(Some(owned("").into())),
    }
}

fn topic_in(topic: &TopicMeta) -> MetadataResponseTopic {
    let partitions = (0..).zip(&topic.partitions).map(|(index, partition)| partition_in(index, partition));
    MetadataResponseTopic::default()
        .with_name(Some(owned(&topic.name).into()))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic.internal)
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(OPERATIONS_NOT_ASKED)
}

fn partition_in(index: i32, partition: &PartitionMeta) -> MetadataResponsePartition {
    MetadataResponsePartition::default()
        .with_error_code(partition_code(partition))
        .with_partition_index(index)
        .with_leader_id(leader_of(partition))
        .with_leader_epoch(partition.leader_epoch.0)
        .with_replica_nodes(broker_ids(&partition.replicas))
        .with_isr_nodes(broker_ids(&partition.isr))
}

pub(super) fn partition_code(partition: &PartitionMeta) -> i16 {
    match partition.leader {
        Some(_) => 0,
        None => ErrorCode::LeaderNotAvailable.code(),
    }
}

pub(super) fn leader_of(partition: &PartitionMeta) -> BrokerId {
    BrokerId(partition.leader.map_or(-1, |leader| leader.0))
}

pub(super) fn broker_ids(nodes: &[NodeId]) -> Vec<BrokerId> {
    nodes.iter().map(|node| BrokerId(node.0)).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use bytes::BytesMut;
    use corelog_engine::meta::image::{ListenerMeta, NodeMeta};
    use corelog_engine::types::LeaderEpoch;
    use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
    use kafka_protocol::protocol::Encodable;

    use super::*;

    /// Node 1 with topics `a` (2 partitions), `b` (3) and `c` (1, without a leader).
    pub(in crate::handlers) fn image() -> MetaImage {
        let mut image = MetaImage { cluster_id: "cluster".to_owned(), version: 1, ..MetaImage::default() };
        let listener =
            |name: &str, port| ListenerMeta { name: name.to_owned(), host: format!("{name}.example"), port };
        let node = NodeMeta {
            incarnation: 1,
            listeners: vec![listener("inside", 9092), listener("outside", 19092)],
            rack: Some("r1".to_owned()),
        };
        image.nodes.insert(NodeId(1), node);
        for (number, name, partitions) in [(10u128, "a", 2), (11, "b", 3), (12, "c", 1)] {
            let id = TopicId(Uuid::from_u128(number));
            let partition = PartitionMeta {
                leader: (name != "c").then_some(NodeId(1)),
                leader_epoch: LeaderEpoch(4),
                replicas: vec![NodeId(1)],
                isr: vec![NodeId(1)],
            };
            let topic = TopicMeta {
                id,
                name: name.to_owned(),
                internal: false,
                partitions: vec![partition; partitions],
                configs: BTreeMap::new(),
                first_slot: 0,
            };
            image.topics.insert(id, Arc::new(topic));
            image.names.insert(name.to_owned(), id);
        }
        image
    }

    fn names(response: &MetadataResponse) -> Vec<&str> {
        response.topics.iter().map(|topic| topic.name.as_ref().map_or("-", |name| name.as_str())).collect()
    }

    #[test]
    fn no_list_is_all_topics_and_an_empty_list_is_none_but_for_version_0() {
        let all = MetadataRequest::default().with_topics(None);
        let none = MetadataRequest::default().with_topics(Some(vec![]));
        assert_eq!(asked(1, &all), None);
        assert_eq!(asked(1, &none), Some(vec![]));
        assert_eq!(asked(0, &none), None);
        assert_eq!(names(&describe(&image(), NodeId(1), "inside", None)), ["a", "b", "c"]);
        assert_eq!(names(&describe(&image(), NodeId(1), "inside", Some(&[]))), [""; 0]);
    }

    #[test]
    fn a_client_is_told_the_listener_through_which_it_came() {
        for (listener, port) in [("inside", 9092), ("outside", 19092)] {
            let response = describe(&image(), NodeId(1), listener, None);
            assert_eq!(response.brokers.len(), 1);
            assert_eq!(response.brokers[0].port, port);
            assert_eq!(response.brokers[0].host.as_str(), format!("{listener}.example"));
        }
    }

    #[test]
    fn unknown_topics_have_the_error_of_how_they_were_named() {
        let id = Uuid::from_u128(99);
        let name = |name: &str| Asked::Name(name.to_owned());
        let asked = [name("x"), name("no/slash"), name(".."), Asked::Id(id), Asked::Nothing];
        let response = describe(&image(), NodeId(1), "inside", Some(&asked));
        let codes: Vec<_> = response.topics.iter().map(|topic| topic.error_code).collect();
        assert_eq!(codes, [3, 17, 17, 100, 42]);
        assert_eq!(response.topics[3].topic_id, id);
        assert_eq!(response.topics[3].name, None);
    }

    #[test]
    fn a_topic_is_found_by_id_and_a_lost_leader_is_an_error() {
        let response = describe(&image(), NodeId(1), "inside", Some(&[Asked::Id(Uuid::from_u128(12))]));
        let topic = &response.topics[0];
        assert_eq!((topic.error_code, topic.name.as_ref().unwrap().as_str()), (0, "c"));
        let partition = &topic.partitions[0];
        assert_eq!((partition.error_code, partition.leader_id.0, partition.leader_epoch), (5, -1, 4));
    }

    #[test]
    fn a_topic_named_twice_is_answered_once() {
        let topic = |name: &str| MetadataRequestTopic::default().with_name(Some(owned(name).into()));
        let request = MetadataRequest::default().with_topics(Some(vec![topic("b"), topic("a"), topic("b")]));
        let name = |name: &str| Asked::Name(name.to_owned());
        assert_eq!(asked(9, &request), Some(vec![name("b"), name("a")]));
        let id =
            |number| MetadataRequestTopic::default().with_name(None).with_topic_id(Uuid::from_u128(number));
        let request = MetadataRequest::default().with_topics(Some(vec![id(2), id(1), id(2), id(0), id(0)]));
        let asked_ids = [2, 1].map(|number| Asked::Id(Uuid::from_u128(number)));
        let nothing = [Asked::Nothing, Asked::Nothing];
        assert_eq!(asked(12, &request), Some([&asked_ids[..], &nothing].concat()));
    }

    #[test]
    fn every_version_can_be_written() {
        for version in 0..=13 {
            let known = [Asked::Name("a".to_owned()), Asked::Name("x".to_owned())];
            let response = describe(&image(), NodeId(1), "inside", Some(&known));
            response.encode(&mut BytesMut::new(), version).unwrap();
        }
    }

    #[test]
    fn names_follow_kafkas_rule() {
        assert!(is_legal_name("a.b_c-D9"));
        assert!(is_legal_name(&"x".repeat(249)));
        for name in ["", ".", "..", "a b", "ä", "a/b", &"x".repeat(250)] {
            assert!(!is_legal_name(name), "{name}");
        }
    }
}
