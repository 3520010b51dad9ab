//! Tasks: detached futures on the current shard, in an I/O and CPU class.
//!
//! A task is never cancelled from outside (glommio leaks a cancelled task): it ends by itself, for
//! which it looks at a flag. On the real backend a spawned future may be polled for the first time
//! *inside* `spawn`, so no `RefCell` borrow may be held across it; the simulator never does that.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::ctx::{Current, current};
use crate::oneshot::Slot;
use crate::{real, sim};

/// What a task's CPU time and I/O compete with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Journal writes and syncs: what acknowledgements wait for. Latency sensitive.
    Journal,
    /// Connections, requests, mesh. Latency sensitive.
    Serve,
    /// Cold reads, so that a backfill does not hurt the tail.
    Read,
    /// Write-behind, zero-filling, retention, compaction.
    Background,
}

/// Spawns a detached task on this shard, in the class of the caller.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    match current() {
        Current::Real(_) => real::task::spawn(future),
        Current::Sim(place) => place.spawn(place.class(), future),
    }
}

/// Spawns a detached task on this shard in `class`.
pub fn spawn_in(class: Class, future: impl Future<Output = ()> + 'static) {
    match current() {
        Current::Real(shard) => real::task::spawn_in(&shard, class, future),
        Current::Sim(place) => place.spawn(class, future),
    }
}

/// Spawns a task whose result can be awaited. Dropping the [`Join`] does not cancel the task.
pub fn spawn_join<T: 'static>(class: Class, future: impl Future<Output = T> + 'static) -> Join<T> {
    let slot = Slot::new();
    let result = slot.clone();
    spawn_in(class, async move { result.fill(future.await) });
    Join(slot)
}

/// The result of a task, see [`spawn_join`].
pub struct Join<T>(Slot<T>);

impl<T> Future for Join<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// Lets the other tasks of this shard run.
pub async fn yield_now() {
    match current() {
        Current::Real(_) => real::task::yield_now().await,
        Current::Sim(_) => sim::yield_now().await,
    }
}

/// Lets others run if this task has used up its time slice; cheap otherwise. For long loops.
pub async fn yield_if_needed() {
    match current() {
        Current::Real(_) => real::task::yield_if_needed().await,
        Current::Sim(place) => {
            if place.wants_yield() {
                sim::yield_now().await;
            }
        }
    }
}
