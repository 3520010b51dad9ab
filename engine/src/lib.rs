//! What a Corelog node does with data: no Kafka frames, no sockets.
//!
//! Read it from [`shard`] down: a shard owns one journal, the partitions placed on it and their
//! segments. [`api`] is the face that `net` sees.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod engine;
pub mod group;
pub mod journal;
pub mod level;
pub mod log;
pub mod messages;
pub mod meta;
pub mod metric;
pub mod node_config;
pub mod node_dir;
pub mod partition;
pub mod planted;
pub mod recovery;
pub mod shard;
pub mod topic_config;
pub mod types;
