//! The types that openraft is used with.

use std::io::Cursor;

use openraft::BasicNode;

use super::command::{MetaCommand, MetaReply};
use super::raft_runtime::ShardRuntime;
use crate::types::NodeId;

openraft::declare_raft_types!(
    /// What metadata's Raft is made of. A voter's `BasicNode` holds the address by which the other
    /// voters reach it.
    pub(super) TypeConfig:
        D = MetaCommand,
        R = MetaReply,
        NodeId = NodeId,
        Node = BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = ShardRuntime,
);

/// One entry of metadata's log.
pub(super) type RaftEntry = openraft::Entry<TypeConfig>;
/// Term, leader and index of an entry.
pub(super) type LogId = openraft::LogId<NodeId>;
/// What a voter promised.
pub(super) type Vote = openraft::Vote<NodeId>;
/// The members as of some entry.
pub(super) type Members = openraft::StoredMembership<NodeId, BasicNode>;
/// What a snapshot covers.
pub(super) type SnapshotMeta = openraft::SnapshotMeta<NodeId, BasicNode>;
/// What openraft is told when the journal fails.
pub(super) type StorageError = openraft::StorageError<NodeId>;
/// Why openraft stopped.
pub(super) type Fatal = openraft::error::Fatal<NodeId>;
/// This node's member of the quorum.
pub(super) type Raft = openraft::Raft<TypeConfig>;
