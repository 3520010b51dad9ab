//! What the client remembers of a cluster: brokers, topics, leaders.
//!
//! A plain value, filled from Metadata responses; [`super::cluster::Client`] decides when to ask.

use std::collections::BTreeMap;
use std::rc::Rc;

use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::MetadataResponse;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use uuid::Uuid;

/// A broker as it advertises itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Node id.
    pub id: i32,
    /// `host:port`.
    pub address: String,
    /// Rack, where one is set.
    pub rack: Option<String>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its index.
    pub id: i32,
    /// The leader, when there is one.
    pub leader: Option<i32>,
    /// The leader's epoch, −1 where the broker does not say.
    pub leader_epoch: i32,
    /// All replicas, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Replicas in sync.
    pub isr: Vec<i32>,
    /// Replicas that are offline.
    pub offline: Vec<i32>,
    /// The broker's word on the partition.
    pub error: ErrorCode,
}

/// One topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Rc<str>,
    /// Its id; nil from brokers before Kafka 2.8.
    pub id: Uuid,
    /// Whether it belongs to the cluster itself.
    pub internal: bool,
    /// Its partitions, ordered by index.
    pub partitions: Vec<Partition>,
}

impl Topic {
    /// A partition by its index.
    pub fn partition(&self, id: i32) -> Option<&Partition> {
        let at = self.partitions.binary_search_by_key(&id, |partition| partition.id).ok()?;
        self.partitions.get(at)
    }

    /// The number of partitions.
    pub fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }
}

/// The cluster as last seen.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    /// Brokers by node id.
    pub brokers: BTreeMap<i32, Broker>,
    /// The controller, or the broker to send its requests to.
    pub controller: Option<i32>,
    /// The cluster's id.
    pub cluster_id: Option<String>,
    /// Topics by name, or the broker's error for them.
    pub topics: BTreeMap<Rc<str>, Result<Rc<Topic>, ErrorCode>>,
}

impl Metadata {
    /// Takes over a response: brokers are replaced, topics added to or replaced.
    pub(crate) fn update(&mut self, response: MetadataResponse) {
        self.brokers = response
            .brokers
            .into_iter()
            .map(|broker| {
                let id = broker.node_id.0;
                let host = broker.host.as_str();
                let address = if host.contains(':') {
                    format!("[{host}]:{}", broker.port)
                } else {
                    format!("{host}:{}", broker.port)
                };
                let rack = broker.rack.map(|rack| rack.to_string());
                (id, Broker { id, address, rack })
            })
            .collect();
        let controller = response.controller_id.0;
        self.controller = self.brokers.contains_key(&controller).then_some(controller);
        if let Some(id) = response.cluster_id {
            self.cluster_id = Some(id.to_string());
        }
        for topic in response.topics {
            let Some(name) = topic.name.as_ref() else {
                continue;
            };
            let name: Rc<str> = Rc::from(name.as_str());
            let code = ErrorCode::from_code(topic.error_code);
            let state = match code {
                ErrorCode::None => Ok(Rc::new(read_topic(Rc::clone(&name), topic))),
                code => Err(code),
            };
            self.topics.insert(name, state);
        }
    }
}

fn read_topic(name: Rc<str>, topic: MetadataResponseTopic) -> Topic {
    let ids = |ids: Vec<kafka_protocol::messages::BrokerId>| ids.into_iter().map(|id| id.0).collect();
    let mut partitions: Vec<Partition> = topic
        .partitions
        .into_iter()
        .map(|partition| Partition {
            id: partition.partition_index,
            leader: (partition.leader_id.0 >= 0).then_some(partition.leader_id.0),
            leader_epoch: partition.leader_epoch,
            replicas: ids(partition.replica_nodes),
            isr: ids(partition.isr_nodes),
            offline: ids(partition.offline_replicas),
            error: ErrorCode::from_code(partition.error_code),
        })
        .collect();
    partitions.sort_by_key(|partition| partition.id);
    Topic { name, id: topic.topic_id, internal: topic.is_internal, partitions }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use corelog_protocol::api::{Api, decode_response, encode_response};
    use kafka_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponsePartition};
    use kafka_protocol::messages::{BrokerId, MetadataRequest};
    use kafka_protocol::protocol::StrBytes;
    use proptest::prelude::*;

    use super::*;

    fn response() -> MetadataResponse {
        let broker = MetadataResponseBroker::default().with_node_id(BrokerId(1)).with_port(9092);
        let partitions = (0..3).map(|index| {
            MetadataResponsePartition::default().with_partition_index(index).with_leader_id(BrokerId(1))
        });
        let topic = MetadataResponseTopic::default()
            .with_name(Some(StrBytes::from_static_str("t").into()))
            .with_partitions(partitions.collect());
        MetadataResponse::default()
            .with_brokers(vec![broker.with_host(StrBytes::from_static_str("::1"))])
            .with_controller_id(BrokerId(1))
            .with_topics(vec![topic])
    }

    #[test]
    fn a_response_says_who_leads_and_where() {
        let mut metadata = Metadata::default();
        metadata.update(response());
        assert_eq!((metadata.controller, metadata.brokers[&1].address.as_str()), (Some(1), "[::1]:9092"));
        let topic = metadata.topics["t"].clone().unwrap();
        assert_eq!((topic.partition_count(), topic.partition(2).unwrap().leader), (3, Some(1)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_cluster_or_an_error(
            version in 0..14_i16,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let mut frame = encode_response(Api::Metadata, version, 7, &response()).unwrap()[4..].to_vec();
            for (at, value) in changes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            let Ok((_, response)) = decode_response::<MetadataRequest>(version, Bytes::from(frame)) else {
                return Ok(());
            };
            let mut metadata = Metadata::default();
            metadata.update(response);
            for topic in metadata.topics.values().flatten() {
                for partition in &topic.partitions {
                    let found = topic.partition(partition.id).map(|it| it.id);
                    prop_assert_eq!(found, Some(partition.id));
                }
            }
        }
    }
}
