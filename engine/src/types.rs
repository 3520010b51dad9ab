//! Strong types for the numbers that a log is made of.

use std::fmt;

use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $repr:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A record's place in its partition. Ends of ranges (LEO, HW, LSO) are exclusive.
    Offset,
    i64
);
number!(
    /// A position in a shard's journal: the number of an entry, counted over the journal's life.
    Lsn,
    u64
);
number!(
    /// Counts the leaderships of a partition.
    LeaderEpoch,
    i32
);
number!(
    /// A partition's index in its topic.
    PartitionId,
    i32
);
number!(
    /// One process of a cluster.
    NodeId,
    i32
);
number!(
    /// One core's share of a node.
    ShardId,
    usize
);

impl Offset {
    /// The offset `count` records further on.
    pub fn plus(self, count: i64) -> Self {
        Self(self.0 + count)
    }
}

impl Lsn {
    /// The next entry's position.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A topic's identity: never reused, unlike its name.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct TopicId(pub Uuid);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of one topic.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition's index in it.
    pub partition: PartitionId,
}

impl TopicPartition {
    /// Names a partition.
    pub fn new(topic: TopicId, partition: PartitionId) -> Self {
        Self { topic, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// When a record counts as acknowledged by this node (topic config `corelog.durability`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Durability {
    /// After the journal's sync: survives a power failure.
    #[default]
    Fsync,
    /// After the journal's write completed: survives the death of the process.
    Write,
}
