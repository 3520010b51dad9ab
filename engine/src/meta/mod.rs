//! Cluster metadata: the state machine, and its replication by Raft. Runs on shard 0.

pub mod command;
pub mod image;
pub mod state;
pub mod topics;
pub mod wire;
