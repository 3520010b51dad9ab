//! Starting one executor per core, and stopping all of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use crate::ctx::{Current, current};
use crate::mesh::Mesh;

/// What a shard's main future is given.
pub struct ShardContext<Q: Send + 'static, A: Send + 'static> {
    /// This shard, from 0.
    pub shard: usize,
    /// How many shards this process has.
    pub shards: usize,
    /// Messages to the other shards.
    pub mesh: Mesh<Q, A>,
}

/// Set once, seen by any shard.
#[derive(Clone, Default)]
pub(crate) struct StopFlag(Arc<StopState>);

#[derive(Default)]
struct StopState {
    raised: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl StopFlag {
    pub(crate) fn raise(&self) {
        self.0.raised.store(true, Ordering::SeqCst);
        let wakers =
            std::mem::take(&mut *self.0.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        for waker in wakers {
            waker.wake();
        }
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.0.raised.load(Ordering::SeqCst)
    }
}

/// The request to stop this process; see [`stop_signal`].
#[derive(Clone)]
pub struct StopSignal(StopFlag);

impl StopSignal {
    /// Whether the process was asked to stop.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.is_raised()
    }

    /// Waits until the process is asked to stop.
    pub async fn wait(&self) {
        std::future::poll_fn(|cx| {
            if self.0.is_raised() {
                return Poll::Ready(());
            }
            let mut wakers = self
                .0
                .0
                .wakers
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            drop(wakers);
            // Raised between the first look and the push: nobody would wake this task.
            if self.0.is_raised() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

/// SIGTERM and SIGINT as something to wait for, on any shard; in the simulator, `Sim::stop_node`.
#[must_use]
pub fn stop_signal() -> StopSignal {
    match current() {
        Current::Real(shard) => StopSignal(shard.stop_flag()),
        Current::Sim(place) => StopSignal(place.stop_flag()),
    }
}
