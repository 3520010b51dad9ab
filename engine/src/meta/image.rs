//! What every shard knows of the cluster: an immutable picture, replaced as a whole.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::types::{LeaderEpoch, NodeId, PartitionId, TopicId};

/// The metadata after some applied command.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MetaImage {
    /// Identifies the cluster to clients.
    pub cluster_id: String,
    /// Counts applied commands: a newer image has a larger version.
    pub version: u64,
    /// Nodes that registered.
    pub nodes: BTreeMap<NodeId, NodeMeta>,
    /// Topics by id.
    pub topics: BTreeMap<TopicId, Arc<TopicMeta>>,
    /// Ids by topic name.
    pub names: BTreeMap<String, TopicId>,
    /// How many partitions were ever created: the next new topic's [`TopicMeta::first_slot`].
    pub next_slot: u64,
    /// The first producer id that no node was given.
    pub next_producer_id: i64,
    /// The topics deleted last, oldest first: a shard whose journal holds a partition of one of them
    /// may drop it. Bounded; a partition whose deletion was forgotten is kept as a stray.
    pub deleted_topics: Arc<VecDeque<TopicId>>,
    /// What was set of nodes' configs since the cluster exists. New in version 2 of the written form.
    pub node_configs: Arc<NodeConfigs>,
}

/// Node configs that were set at run time, by Kafka's names of node configs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeConfigs {
    /// For every node.
    pub all: BTreeMap<String, String>,
    /// For one node each; these win.
    pub by_node: BTreeMap<NodeId, BTreeMap<String, String>>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMeta {
    /// New at every start of the node.
    pub incarnation: u64,
    /// Advertised listeners.
    pub listeners: Vec<ListenerMeta>,
    /// The rack, for clients that fetch from the nearest replica.
    pub rack: Option<String>,
}

/// One advertised listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerMeta {
    /// Its name: a client is told the listener by whose name it came in.
    pub name: String,
    /// Host as clients can reach it; never 0.0.0.0.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// One topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicMeta {
    /// Its identity.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// Kept by the cluster for itself.
    pub internal: bool,
    /// Its partitions, by index.
    pub partitions: Vec<PartitionMeta>,
    /// Configs that were set, by Kafka's names.
    pub configs: BTreeMap<String, String>,
    /// How many partitions existed before this topic: a node places partition `p` on shard
    /// `(first_slot + p) % shards`, which is even per topic and in total. It never changes, also when
    /// the topic grows: it says where the partitions are that are there already.
    pub first_slot: u64,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionMeta {
    /// The leader, if there is one.
    pub leader: Option<NodeId>,
    /// Counts leaderships.
    pub leader_epoch: LeaderEpoch,
    /// All replicas, the preferred leader first.
    pub replicas: Vec<NodeId>,
    /// Replicas that are in sync.
    pub isr: Vec<NodeId>,
}

/// A [`MetaImage`] as version 1 of the written form has it: without node configs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MetaImageV1 {
    cluster_id: String,
    version: u64,
    nodes: BTreeMap<NodeId, NodeMeta>,
    topics: BTreeMap<TopicId, Arc<TopicMeta>>,
    names: BTreeMap<String, TopicId>,
    next_slot: u64,
    next_producer_id: i64,
    deleted_topics: Arc<VecDeque<TopicId>>,
}

impl From<MetaImageV1> for MetaImage {
    fn from(old: MetaImageV1) -> Self {
        let MetaImageV1 {
            cluster_id,
            version,
            nodes,
            topics,
            names,
            next_slot,
            next_producer_id,
            deleted_topics,
        } = old;
        let node_configs = Arc::default();
        Self {
            cluster_id,
            version,
            nodes,
            topics,
            names,
            next_slot,
            next_producer_id,
            deleted_topics,
            node_configs,
        }
    }
}

impl MetaImage {
    /// The topic of that name.
    pub fn topic_named(&self, name: &str) -> Option<&Arc<TopicMeta>> {
        self.topics.get(self.names.get(name)?)
    }
}

impl TopicMeta {
    /// One partition.
    pub fn partition(&self, partition: PartitionId) -> Option<&PartitionMeta> {
        self.partitions.get(usize::try_from(partition.0).ok()?)
    }

    /// Where a node with so many shards keeps a partition.
    pub fn shard_of(&self, partition: PartitionId, shards: usize) -> usize {
        let slot = self.first_slot.wrapping_add(u64::from(partition.0.unsigned_abs()));
        usize::try_from(slot % shards as u64).unwrap_or(0)
    }
}
