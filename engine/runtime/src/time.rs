//! Clocks and timers. Virtual in the simulator, where time starts far from zero (openraft subtracts
//! from it) and a sleep ends a few seeded nanoseconds late, so that equal deadlines do not tie.

use std::future::Future;
use std::ops::{Add, AddAssign, Sub};
use std::pin::pin;
use std::sync::OnceLock;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::ctx::{Current, current, current_or_none};
use crate::real;

/// Where the monotonic clock starts on either backend: 1,000,000 s, in nanoseconds.
pub(crate) const CLOCK_START_NS: u64 = 1_000_000 * 1_000_000_000;

/// A point on this process's monotonic clock, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The current time.
    #[must_use]
    pub fn now() -> Self {
        match current_or_none() {
            Some(Current::Sim(place)) => Self(place.now_ns()),
            Some(Current::Real(_)) | None => Self(real_now_ns()),
        }
    }

    /// The time since this instant, zero when it lies ahead.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now().saturating_duration_since(self)
    }

    /// The time from `earlier` to `self`, zero when `earlier` is later.
    #[must_use]
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The time from `earlier` to `self`, `None` when `earlier` is later.
    #[must_use]
    pub fn checked_duration_since(self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0).map(Duration::from_nanos)
    }

    /// `self + duration`, `None` on overflow.
    #[must_use]
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        self.0.checked_add(u64::try_from(duration.as_nanos()).ok()?).map(Self)
    }

    /// `self - duration`, `None` before the clock's zero.
    #[must_use]
    pub fn checked_sub(self, duration: Duration) -> Option<Self> {
        self.0.checked_sub(u64::try_from(duration.as_nanos()).ok()?).map(Self)
    }

    /// Nanoseconds since the clock's zero: only differences mean anything.
    #[must_use]
    pub fn as_nanos(self) -> u64 {
        self.0
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates in the far future (584 years).
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration_ns(duration)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    /// Saturates at the clock's zero.
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration_ns(duration)))
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Saturates at zero, like the standard library's.
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

/// Milliseconds since 1970, from the wall clock: it may jump in either direction.
#[must_use]
pub fn unix_time_ms() -> i64 {
    match current_or_none() {
        Some(Current::Sim(place)) => place.unix_time_ms(),
        Some(Current::Real(_)) | None => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        }
    }
}

/// Waits for `duration`, never less.
pub async fn sleep(duration: Duration) {
    sleep_until(Instant::now() + duration).await;
}

/// Waits until `deadline`, never less.
pub async fn sleep_until(deadline: Instant) {
    match current() {
        Current::Real(_) => real::task::sleep_until(deadline).await,
        Current::Sim(place) => place.sleep_until_ns(deadline.0).await,
    }
}

/// The time given to [`timeout`] passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

/// Waits for `future`, but no longer than `duration`; the future is dropped when the time is up.
///
/// # Errors
/// [`Elapsed`] when the time is up before the future is ready.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = pin!(sleep(duration));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
    })
    .await
}

fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn real_now_ns() -> u64 {
    static BASE: OnceLock<std::time::Instant> = OnceLock::new();
    let base = *BASE.get_or_init(std::time::Instant::now);
    CLOCK_START_NS.saturating_add(duration_ns(base.elapsed()))
}
