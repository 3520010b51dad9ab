//! Tasks, yields and timers on glommio.

use std::future::Future;

use super::Shard;
use crate::task::Class;
use crate::time::Instant;

/// Spawns into the queue that the caller runs in.
pub(crate) fn spawn(future: impl Future<Output = ()> + 'static) {
    // Not `spawn_local`: that polls the future before it returns, under whatever borrow the caller
    // holds. `spawn_local_into` only queues it, also for the queue that is running.
    // Detached: dropping an unfinished glommio task cancels it and leaks 312 bytes.
    glommio::spawn_local_into(future, glommio::executor().current_task_queue())
        .expect("the running queue exists")
        .detach();
}

/// As [`spawn`], into the queue of `class`.
pub(crate) fn spawn_in(shard: &Shard, class: Class, future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local_into(future, shard.queue(class))
        .expect("the queues of a shard live as long as the shard")
        .detach();
}

/// Spawns into the running queue and polls at once: for I/O that shall be submitted now.
pub(super) fn spawn_inline(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(future).detach();
}

pub(crate) async fn yield_now() {
    // The whole queue yields, or a class would never let the others run by yielding.
    glommio::executor().yield_task_queue_now().await;
}

pub(crate) async fn yield_if_needed() {
    glommio::yield_if_needed().await;
}

pub(crate) async fn sleep_until(deadline: Instant) {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        glommio::timer::sleep(left).await;
    }
}
