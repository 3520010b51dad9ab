//! placeholder
#![cfg_attr(test, allow(clippy::unwrap_used))]
mod config;
fn main() {}
