//! What metadata can be asked to change, and the answers. These are journalled and replicated, so
//! a variant or field is only ever added at the end, and a changed one means a new
//! [`wire`](super::wire) version.
//!
//! A command carries everything that applying it needs: ids drawn by the proposer, the node's
//! defaults already filled in. Applying reads no clock, draws nothing and has no configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::image::{ListenerMeta, TopicMeta};
use crate::api::{TopicError, TopicRef};
use crate::types::{NodeId, TopicId};

/// A change to the metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaCommand {
    /// Names the cluster, unless it has a name.
    InitCluster {
        /// A random UUID in Kafka's base64url form.
        cluster_id: String,
    },
    /// A node starts: it gets a new incarnation, and leads nothing in an old epoch.
    RegisterNode {
        /// Which node.
        node: NodeId,
        /// Where clients reach it.
        listeners: Vec<ListenerMeta>,
        /// Its rack.
        rack: Option<String>,
    },
    /// Creates topics; each succeeds or fails by itself.
    CreateTopics {
        /// The topics.
        topics: Vec<TopicSpec>,
    },
    /// Deletes topics; each succeeds or fails by itself.
    DeleteTopics {
        /// The topics.
        topics: Vec<TopicRef>,
    },
    /// Gives a node producer ids that no one was ever given.
    AllocateProducerIds {
        /// Who asks.
        node: NodeId,
        /// How many.
        count: u32,
    },
    /// Gives topics more partitions; each succeeds or fails by itself.
    CreatePartitions {
        /// The topics.
        topics: Vec<NewPartitions>,
    },
    /// Changes configs; each change is made as a whole, or not at all.
    AlterConfigs {
        /// The changes.
        changes: Vec<ConfigChange>,
    },
}

/// More partitions for a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPartitions {
    /// The topic.
    pub name: String,
    /// How many partitions it has then.
    pub count: i32,
    /// The replicas of each new one, where the client says.
    pub assignments: Option<Vec<Vec<NodeId>>>,
}

/// Whose configs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfigOwner {
    /// A topic's.
    Topic(TopicId),
    /// Of all nodes.
    AllNodes,
    /// One node's.
    Node(NodeId),
}

/// New configs, decided and checked by the proposer. They are taken over if they are what the
/// proposer knew them to be, so that of two who change at once none undoes the other's work, and
/// applying needs no knowledge of what configs there are: a log gives the same image in every version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// Whose.
    pub owner: ConfigOwner,
    /// What is set now.
    pub before: BTreeMap<String, String>,
    /// What is to be set.
    pub after: BTreeMap<String, String>,
}

/// What became of a [`ConfigChange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfigOutcome {
    /// It was made.
    Made,
    /// Something else is set: the change has to be decided anew.
    Outdated,
    /// There is no such topic any more.
    UnknownTopic,
}

/// A topic to create, with everything decided that the state machine does not decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSpec {
    /// Its identity, drawn by the proposer.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// Where its partitions go.
    pub placement: Placement,
    /// Its configs, checked by the proposer.
    pub configs: BTreeMap<String, String>,
}

/// How the partitions of a new topic are placed on nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placement {
    /// Evenly over the registered nodes.
    Spread {
        /// How many partitions.
        partitions: i32,
        /// How many replicas of each.
        replication_factor: i16,
    },
    /// As the client said, by partition.
    Manual(Vec<(i32, Vec<NodeId>)>),
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaReply {
    /// The entry held no command.
    Nothing,
    /// The cluster's id, be it the proposed one or an older one.
    ClusterId(String),
    /// The node's new incarnation.
    Registered {
        /// Counts the node's starts from 1.
        incarnation: u64,
    },
    /// The created topics or refusals, in the order of the command.
    Created(Vec<Result<Arc<TopicMeta>, TopicError>>),
    /// The deleted topics as they were, or refusals, in the order of the command.
    Deleted(Vec<Result<Arc<TopicMeta>, TopicError>>),
    /// `count` ids from `first`.
    ProducerIds {
        /// The first id.
        first: i64,
        /// How many.
        count: u32,
    },
    /// The cluster has used up all producer ids.
    ProducerIdsExhausted,
    /// The topics with their new partitions, or refusals, in the order of the command.
    PartitionsCreated(Vec<Result<Arc<TopicMeta>, TopicError>>),
    /// What became of each change, in the order of the command.
    ConfigsAltered(Vec<ConfigOutcome>),
}
