//! The one Kafka client that the command line, the load generator and our own tests use.
//!
//! It runs on one executor of the runtime and talks to any Kafka: requests are sent in the best
//! version that both sides have. It holds no threads and no clock of its own, and never blocks the
//! executor but for a name that the system has to resolve.
//!
//! | Module | Owns |
//! |---|---|
//! | [`connection`] | one socket: pipelined requests, replies in order, time-outs |
//! | [`cluster`] | [`Client`]: connections to all brokers, metadata, where a request goes |
//! | [`producer`] | records into batches into requests, acknowledgements back |
//! | [`consumer`] | fetches from assigned partitions, by offset |
//! | [`admin`] | topics, configs, offsets, the cluster's description |
//! | [`configs`] | configs that change, partitions that are added, sizes |
//! | [`groups`] | consumer groups as an operator sees them: members and offsets |
//! | [`member`] | [`GroupConsumer`]: consuming as a member of a group |
//! | [`error`] | [`ClientError`]: one enum, in words that say what to do |

pub mod admin;
pub mod cluster;
pub mod configs;
pub mod connection;
pub mod consumer;
pub mod error;
pub mod groups;
pub mod member;
pub mod metadata;
pub mod partitioner;
pub mod producer;
mod resolve;
mod retry;
mod versions;

pub use admin::Admin;
pub use cluster::{AutoCreate, Client, ClientOptions, Lane};
pub use consumer::{Consumer, ConsumerOptions};
pub use error::ClientError;
pub use member::{GroupConsumer, GroupOptions};
pub use producer::{Producer, ProducerOptions};
pub use retry::RetryOptions;
