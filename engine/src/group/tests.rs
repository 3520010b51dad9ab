#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod classic;
mod consumer;
mod garbage;
mod harness;
mod migration;
mod offsets;
mod sim;
