//! Starting one executor per core, and stopping all of them.

use std::fmt::Display;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::ctx::{Current, current};
pub use crate::error::StartError;
use crate::mesh::Mesh;
use crate::real;

/// How the shards are started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cores to run on, all that the process may use if `None`.
    pub cores: Option<Vec<usize>>,
    /// How many shards, as many as cores if 0. With more shards than cores they share cores.
    pub shards: usize,
    /// Memory of each executor that is registered with io_uring and serves reads; made smaller
    /// where the limit of locked memory demands it. 1 MiB is what the usual limit of 8 MiB allows.
    pub io_memory_bytes: usize,
    /// How long a task may keep others waiting before `yield_if_needed` yields: 250 µs to 1 ms.
    pub preempt: Duration,
    /// Directories that files will be in: created, and checked for direct I/O.
    pub data_dirs: Vec<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cores: None,
            shards: 0,
            io_memory_bytes: 1 << 20,
            preempt: Duration::from_micros(500),
            data_dirs: Vec::new(),
        }
    }
}

/// Runs `shard_main` on every shard, each a thread pinned to a core, and returns when all of them
/// have returned. Then what they spawned is gone, as the process is expected to end.
///
/// A shard that returns an error raises the [`stop_signal`] of all others. A panic in any task
/// aborts the process: a shard that is gone cannot be replaced. From the first call on SIGTERM and
/// SIGINT only raise the stop signal (a second one ends the process).
///
/// # Errors
/// What is wrong with the machine or the options, see [`StartError`]; the first error of a shard.
pub fn run<Q, A, F, Fut, E>(options: Options, shard_main: F) -> Result<(), StartError>
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Fn(ShardContext<Q, A>) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = Result<(), E>> + 'static,
    E: Display + 'static,
{
    real::run(options, real::KEEP_AWAKE_TURNS, shard_main)
}

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
        let wakers = std::mem::take(&mut *self.0.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        for waker in wakers {
            waker.wake();
        }
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.0.raised.load(Ordering::SeqCst)
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
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
            let mut wakers = self.0.0.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            drop(wakers);
            // Raised between the first look and the push: nobody would wake this task.
            if self.0.is_raised() { Poll::Ready(()) } else { Poll::Pending }
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

/// Raises the [`stop_signal`] of this process, as SIGTERM would.
pub fn request_stop() {
    stop_signal().0.raise();
}
