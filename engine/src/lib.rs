//! What a Corelog node does with data: no Kafka frames, no sockets.
//!
//! Read it from [`shard`] down: a shard owns one journal, the partitions placed on it and their
//! segments. [`api`] is the face that `net` sees.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod journal;
pub mod log;
pub mod meta;
pub mod planted;
pub mod types;
