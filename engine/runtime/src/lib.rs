//! What a shard runs on: tasks, timers, direct I/O files, sockets, messages between shards,
//! randomness. Everything above this crate is deterministic given what this crate hands out.
//!
//! There are two backends behind the same functions: the real one ([`shards::run`], on glommio and
//! io_uring) and the simulated one ([`sim`]), where a seed replays a run. Which one a call goes to
//! is decided by where the calling task runs. This is the only crate that uses glommio, reads a
//! clock, or contains `unsafe`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod alloc;
mod buf;
pub mod checks;
pub mod child;
mod ctx;
pub mod error;
pub mod fs;
pub mod mesh;
pub mod net;
mod oneshot;
pub mod process;
pub mod rand;
pub mod rate;
mod real;
pub mod shards;
pub mod sim;
pub mod task;
pub mod time;
