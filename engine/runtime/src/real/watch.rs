//! One thread for all shards that wakes those which stand still: what the timers of `run::keep_awake`
//! cannot do when all of their wakes are lost, see ADR 4.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use std::{io, mem};

/// How often the thread looks. A shard beats at least every 100 ms, so one that has not since the last
/// look sleeps, is busy with one task, has no CPU or has ended; to be woken harms none of them.
const LOOK: Duration = Duration::from_millis(250);

/// A shard's sign of life.
#[derive(Default)]
pub(super) struct Pulse {
    beats: AtomicU64,
    /// Of the task that runs [`Pulse::listen`]. That task is on the shard's executor, so that its wake
    /// from another thread goes through the executor's eventfd, which ends any sleep.
    listener: Mutex<Option<Waker>>,
}

impl Pulse {
    pub(super) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes the shard wakeable; a task of it runs this for good.
    pub(super) async fn listen(self: Arc<Self>) {
        poll_fn(|context| {
            self.beat();
            let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
            if !listener.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                *listener = Some(context.waker().clone());
            }
            Poll::<()>::Pending
        })
        .await;
    }

    fn wake(&self) {
        if let Some(listener) = &*self.listener.lock().unwrap_or_else(PoisonError::into_inner) {
            listener.wake_by_ref();
        }
    }
}

/// The thread; it ends when this is dropped.
pub(super) struct Watch {
    thread: Option<JoinHandle<()>>,
    alive: Option<Sender<()>>,
}

impl Watch {
    pub(super) fn start(pulses: Vec<Arc<Pulse>>) -> io::Result<Self> {
        let (alive, ended) = channel::<()>();
        let look = move || {
            let mut seen = vec![u64::MAX; pulses.len()];
            while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                for (shard, (pulse, seen)) in pulses.iter().zip(&mut seen).enumerate() {
                    let beats = pulse.beats.load(Ordering::Relaxed);
                    if mem::replace(seen, beats) == beats {
                        tracing::debug!(shard, "no sign of life since the last look, waking it");
                        pulse.wake();
                    }
                }
            }
        };
        let thread = Builder::new().name("watch".into()).spawn(look)?;
        Ok(Self { thread: Some(thread), alive: Some(alive) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did, the shards would have gone on.
            let _ = thread.join();
        }
    }
}
