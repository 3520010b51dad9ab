//! What openraft needs of an executor, over our runtime. Shard 0's thread only; no tokio runtime
//! runs (of tokio only channels are used, which work on any executor).

use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use corelog_runtime::task::Class;
use corelog_runtime::{rand, task, time};
use openraft::async_runtime::AsyncOneshotSendExt;
use openraft::{AsyncRuntime, OptionalSend};
use tokio::sync::oneshot;

/// The runtime of the current shard.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShardRuntime;

/// A task that was dropped before it ended, as happens when a shard goes down.
#[derive(Debug, thiserror::Error)]
#[error("the task was dropped before it ended")]
pub(super) struct TaskDropped;

/// A point on the shard's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Instant(time::Instant);

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        self.0 += duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0 - duration)
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, duration: Duration) {
        self.0 = self.0 - duration;
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }
}

impl openraft::Instant for Instant {
    fn now() -> Self {
        Self(time::Instant::now())
    }
}

/// The end of a spawned task.
pub(super) struct JoinHandle<T>(oneshot::Receiver<T>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, TaskDropped>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|ended| ended.map_err(|_| TaskDropped))
    }
}

/// A timer.
pub(super) type Sleep = Pin<Box<dyn Future<Output = ()>>>;

/// A future with a deadline.
pub(super) struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: Sleep,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, time::Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        self.sleep.as_mut().poll(cx).map(|()| Err(time::Elapsed))
    }
}

/// The sending half of a channel for one value.
pub(super) struct OneshotSender<T>(oneshot::Sender<T>);

impl<T: OptionalSend> AsyncOneshotSendExt<T> for OneshotSender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

impl<T> fmt::Debug for OneshotSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneshotSender")
    }
}

/// The runtime's randomness.
#[derive(Debug, Default)]
pub(super) struct Random;

impl rand_core::RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        u32::try_from(rand::u64() >> 32).expect("the upper half of 64 bits fits in 32")
    }

    fn next_u64(&mut self) -> u64 {
        rand::u64()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        rand::fill(bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
        rand::fill(bytes);
        Ok(())
    }
}

impl AsyncRuntime for ShardRuntime {
    type JoinError = TaskDropped;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = Instant;
    type TimeoutError = time::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = Random;
    type OneshotSender<T: OptionalSend> = OneshotSender<T>;
    type OneshotReceiver<T: OptionalSend> = oneshot::Receiver<T>;
    type OneshotReceiverError = oneshot::error::RecvError;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let (ended, handle) = oneshot::channel();
        task::spawn_in(Class::Serve, async move {
            // Nobody may be waiting for the end.
            let _ = ended.send(future.await);
        });
        JoinHandle(handle)
    }

    fn sleep(duration: Duration) -> Sleep {
        Box::pin(time::sleep(duration))
    }

    fn sleep_until(deadline: Instant) -> Sleep {
        Box::pin(time::sleep_until(deadline.0))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), sleep: Self::sleep(duration) }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Instant, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), sleep: Self::sleep_until(deadline) }
    }

    fn is_panic(_: &TaskDropped) -> bool {
        // A task that panics takes the process down.
        false
    }

    fn thread_rng() -> Random {
        Random
    }

    fn oneshot<T: OptionalSend>() -> (OneshotSender<T>, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (OneshotSender(sender), receiver)
    }
}
