//! What `net` asks of the engine, and what it gets back. Plain data; no Kafka messages.
//!
//! Every type here may cross from one shard to another, so all of them are `Send`.

use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use corelog_protocol::error::ErrorCode;

use crate::types::{LeaderEpoch, NodeId, Offset, TopicId, TopicPartition};

/// What a produce waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Nothing: no reply is sent.
    None,
    /// The leader's durability mode.
    Leader,
    /// The high watermark.
    All,
}

/// One partition's batch in a produce.
#[derive(Debug)]
pub struct ProducePart {
    /// Where to.
    pub target: TopicPartition,
    /// The batch as the client sent it; patched in place.
    pub batch: BytesMut,
}

/// What became of one partition's batch.
pub type ProduceOutcome = Result<Produced, ProduceError>;

/// An acknowledged batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// The offset of the batch's first record.
    pub base_offset: Offset,
    /// Set when the topic uses LogAppendTime.
    pub log_append_time_ms: Option<i64>,
    /// The partition's log start offset.
    pub log_start_offset: Offset,
}

/// A refused batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct ProduceError {
    /// The protocol's code.
    pub code: ErrorCode,
    /// What was wrong, for the client's log.
    pub message: String,
    /// The offending records' indexes in the batch, where records are to blame; the message is about
    /// the first one.
    pub record_indexes: Vec<i32>,
}

/// One partition in a fetch.
#[derive(Debug, Clone)]
pub struct FetchPart {
    /// Which partition.
    pub target: TopicPartition,
    /// The first offset wanted.
    pub offset: Offset,
    /// At most so many bytes (the first batch excepted).
    pub max_bytes: usize,
    /// The epoch in which the client thinks the partition is.
    pub current_leader_epoch: Option<LeaderEpoch>,
}

/// A fetch over any number of partitions.
#[derive(Debug, Clone)]
pub struct FetchSpec {
    /// The partitions, in the order in which the budget is given out.
    pub parts: Vec<FetchPart>,
    /// At most so many bytes in all (the first batch excepted).
    pub max_bytes: usize,
    /// Wait for at least so many bytes…
    pub min_bytes: usize,
    /// …but no longer than this.
    pub max_wait: Duration,
    /// Only below the last stable offset.
    pub read_committed: bool,
}

/// Who says how much a fetch may bring, each time it reads.
pub trait ReadBudget {
    /// Room for up to `bytes`, which may be less; waits while there is none. What an earlier read
    /// brought is not needed any more.
    fn reserve(&mut self, bytes: usize) -> impl Future<Output = usize>;

    /// The read brought so much: the first batch comes whole, so it may be more than was reserved.
    fn brought(&mut self, bytes: usize);
}

/// No budget.
impl ReadBudget for () {
    async fn reserve(&mut self, bytes: usize) -> usize {
        bytes
    }

    fn brought(&mut self, _: usize) {}
}

/// What one partition gave.
pub type FetchOutcome = Result<Fetched, PartitionError>;

/// Batches of one partition.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    /// Exclusive end of what consumers may see.
    pub high_watermark: Offset,
    /// Exclusive end of what `read_committed` consumers may see.
    pub last_stable_offset: Offset,
    /// The first offset that exists.
    pub log_start_offset: Offset,
    /// Whole batches, the first of which contains the offset asked for.
    pub batches: Vec<Bytes>,
}

/// Why a partition did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// Not on this node, or not at all.
    #[error("this node does not have the partition")]
    UnknownPartition,
    /// The offset is below the log start or beyond the end.
    #[error("offset out of range: the log has [{log_start_offset}, {high_watermark})")]
    OffsetOutOfRange {
        /// First offset.
        log_start_offset: Offset,
        /// Exclusive end.
        high_watermark: Offset,
    },
    /// The client's epoch is older than the leader's.
    #[error("the leader epoch is older than the partition's")]
    FencedLeaderEpoch,
    /// The client's epoch is newer than the leader's.
    #[error("the leader epoch is not known here")]
    UnknownLeaderEpoch,
    /// A stored batch failed its check: it is not served.
    #[error("a stored batch is corrupt: {0}")]
    Corrupt(String),
    /// Retention or a truncation took away what was being read, again and again; try again later.
    #[error("the log changed while it was read")]
    Changed,
    /// The partition is offline after an I/O error or corruption.
    #[error("the partition's storage is offline: {0}")]
    Offline(String),
    /// The disk is full; try again later.
    #[error("no space for more records")]
    DiskFull,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

impl PartitionError {
    /// The protocol's code for this error.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownPartition => ErrorCode::UnknownTopicOrPartition,
            Self::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            Self::FencedLeaderEpoch => ErrorCode::FencedLeaderEpoch,
            Self::UnknownLeaderEpoch => ErrorCode::UnknownLeaderEpoch,
            Self::Corrupt(_) => ErrorCode::CorruptMessage,
            Self::Offline(_) | Self::DiskFull => ErrorCode::KafkaStorageError,
            Self::Changed | Self::Stopping => ErrorCode::NotLeaderOrFollower,
        }
    }
}

/// Which offset ListOffsets asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetQuery {
    /// −1: the high watermark, or the LSO for `read_committed`.
    Latest {
        /// Whether the last stable offset is asked for.
        read_committed: bool,
    },
    /// −2 and −4: the log start.
    Earliest,
    /// −3: the record with the largest timestamp.
    MaxTimestamp,
    /// The first record at or after this time (Unix ms).
    AtTimestamp(i64),
}

/// Where a log is to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrimTo {
    /// At this offset.
    Offset(Offset),
    /// At the high watermark, wherever that is: without a record.
    HighWatermark,
}

/// The answer to an [`OffsetQuery`]; offset −1 and timestamp −1 when there is no such record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundOffset {
    /// The offset.
    pub offset: Offset,
    /// The record's timestamp, −1 for Latest and Earliest.
    pub timestamp_ms: i64,
    /// The epoch of that offset, where known.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// The answer to OffsetForLeaderEpoch: the largest epoch ≤ the one asked for, and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// −1 when there is none.
    pub leader_epoch: LeaderEpoch,
    /// Exclusive end offset, −1 when there is none.
    pub end_offset: Offset,
}

/// A topic to create. −1 stands for the node's default, as on the wire.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions, or −1.
    pub partitions: i32,
    /// How many replicas, or −1.
    pub replication_factor: i16,
    /// Replica lists by partition, where the client assigns them itself.
    pub assignments: Vec<(i32, Vec<NodeId>)>,
    /// Topic configs.
    pub configs: Vec<(String, Option<String>)>,
}

/// A refused metadata change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum TopicError {
    /// The name is taken.
    #[error("topic '{0}' already exists")]
    Exists(String),
    /// No such topic.
    #[error("there is no topic '{0}'")]
    UnknownName(String),
    /// No such topic.
    #[error("there is no topic with id {0}")]
    UnknownId(TopicId),
    /// Not a legal name.
    #[error("topic name is illegal: {0}")]
    InvalidName(String),
    /// Not a legal partition count.
    #[error("{0}")]
    InvalidPartitions(String),
    /// Not a legal replication factor.
    #[error("{0}")]
    InvalidReplicationFactor(String),
    /// Not a legal assignment.
    #[error("{0}")]
    InvalidAssignment(String),
    /// A config has an unknown name or a wrong value.
    #[error("{0}")]
    InvalidConfig(String),
    /// The request contradicts itself.
    #[error("{0}")]
    InvalidRequest(String),
    /// A limit of this node.
    #[error("{0}")]
    PolicyViolation(String),
    /// The metadata quorum did not take the change; try again.
    #[error("metadata is unavailable: {0}")]
    Unavailable(String),
}

impl TopicError {
    /// The protocol's code for this error.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Exists(_) => ErrorCode::TopicAlreadyExists,
            Self::UnknownName(_) => ErrorCode::UnknownTopicOrPartition,
            Self::UnknownId(_) => ErrorCode::UnknownTopicId,
            Self::InvalidName(_) => ErrorCode::InvalidTopicException,
            Self::InvalidPartitions(_) => ErrorCode::InvalidPartitions,
            Self::InvalidReplicationFactor(_) => ErrorCode::InvalidReplicationFactor,
            Self::InvalidAssignment(_) => ErrorCode::InvalidReplicaAssignment,
            Self::InvalidConfig(_) => ErrorCode::InvalidConfig,
            Self::InvalidRequest(_) => ErrorCode::InvalidRequest,
            Self::PolicyViolation(_) => ErrorCode::PolicyViolation,
            Self::Unavailable(_) => ErrorCode::CoordinatorNotAvailable,
        }
    }
}

/// Whose configs are altered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigResource {
    /// A topic's, by name.
    Topic(String),
    /// Of all nodes.
    AllNodes,
    /// One node's.
    Node(NodeId),
}

/// What becomes of one config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigOp {
    /// It is set.
    Set(String),
    /// It is not set any more.
    Delete,
    /// Items are added to a list.
    Append(String),
    /// Items are taken out of a list.
    Subtract(String),
}

/// A change of one resource's configs, made as a whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterConfigs {
    /// Whose.
    pub resource: ConfigResource,
    /// What is not named is not set any more.
    pub replace: bool,
    /// By name; each name once.
    pub ops: Vec<(String, ConfigOp)>,
}

/// A producer that a partition remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveProducer {
    /// Its id.
    pub producer_id: i64,
    /// Its newest epoch.
    pub epoch: i16,
    /// The sequence of its last record.
    pub last_sequence: i32,
    /// When it wrote last (Unix ms).
    pub last_write_ms: i64,
}

/// A topic named by either of its names.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum TopicRef {
    /// By name.
    Name(String),
    /// By id.
    Id(TopicId),
}
