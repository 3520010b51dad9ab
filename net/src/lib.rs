//! The network side of a node: connections, request dispatch, HTTP; and the Kafka client.
//!
//! Read it from [`server`] down. A connection lives on one shard (`server` says which), reads and
//! writes frames (`frame`, `connection`), finds a handler by API key (`dispatch`, `handlers`), and
//! gets its data from the engine, whichever shard has it.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod budget;
pub mod client;
mod connection;
mod console;
mod dispatch;
mod frame;
mod handlers;
mod http;
mod metrics;
pub mod node;
pub mod options;
mod refusals;
pub mod scrape;
pub mod server;
mod service;
mod sessions;
mod signal;
