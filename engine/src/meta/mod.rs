//! Cluster metadata: the state machine, and its replication by Raft. Runs on shard 0.

pub mod image;
