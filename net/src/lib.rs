//! The network side of a node: connections, request dispatch, HTTP.
//!
//! Read it from [`server`] down. A connection lives on one shard ([`server`] says which), a request
//! is routed by its API key (`dispatch`), answered by a handler (`handlers`) out of the engine, and
//! written in the order in which requests came (`connection`).

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod options;
mod refusals;
mod sessions;
