//! placeholder

pub mod client;
