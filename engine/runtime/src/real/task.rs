//! Tasks, yields and timers on glommio.

use std::future::Future;
use std::rc::Rc;

use super::Shard;
use crate::task::Class;
use crate::time::Instant;

/// Spawns into the queue that the caller runs in. glommio polls a task for the first time inside
/// of `spawn_local`, unless the queue must yield.
pub(crate) fn spawn(future: impl Future<Output = ()> + 'static) {
    // Detached: dropping an unfinished glommio task cancels it and leaks 312 bytes.
    glommio::spawn_local(future).detach();
}

/// As [`spawn`], into the queue of `class`.
pub(crate) fn spawn_in(
    shard: &Rc<Shard>,
    class: Class,
    future: impl Future<Output = ()> + 'static,
) {
    glommio::spawn_local_into(future, shard.queue(class))
        .expect("the queues of a shard live as long as the shard")
        .detach();
}

pub(crate) async fn yield_now() {
    glommio::executor().yield_now().await;
}

pub(crate) async fn yield_if_needed() {
    glommio::yield_if_needed().await;
}

pub(crate) async fn sleep_until(deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        glommio::timer::sleep(left).await;
    }
}
