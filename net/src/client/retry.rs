//! How often and how long something is tried again.

use std::time::Duration;

use corelog_runtime::{rand, time};

use super::error::ClientError;

/// Bounds of trying again.
#[derive(Debug, Clone, Copy)]
pub struct RetryOptions {
    /// The first pause; each further one is twice as long.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// After this time the last error is given up with.
    pub give_up_after: Duration,
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            give_up_after: Duration::from_secs(30),
        }
    }
}

/// One operation's attempts.
#[derive(Debug)]
pub(crate) struct Retry {
    options: RetryOptions,
    started: time::Instant,
    attempts: u32,
}

impl Retry {
    pub(crate) fn new(options: RetryOptions) -> Self {
        Self { options, started: time::Instant::now(), attempts: 0 }
    }

    /// The time since the first attempt began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits before the next attempt after `error`, or says that it is over: at once when the
    /// error is final, and when the time is up.
    pub(crate) async fn after(&mut self, what: &str, error: ClientError) -> Result<(), ClientError> {
        if !error.is_retriable() {
            return Err(error);
        }
        let pause = self.next_pause();
        if self.started.elapsed() + pause > self.options.give_up_after {
            return Err(ClientError::GaveUp {
                what: what.to_owned(),
                after: self.options.give_up_after,
                last: Box::new(error),
            });
        }
        tracing::debug!(what, %error, ?pause, "trying again");
        time::sleep(pause).await;
        Ok(())
    }

    /// Doubles up to the maximum, with up to a fifth off so that clients do not march in step.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let doublings = self.attempts.min(16);
        self.attempts = self.attempts.saturating_add(1);
        let pause = self.options.backoff_min.saturating_mul(1 << doublings).min(self.options.backoff_max);
        let jitter_ns = u64::try_from(pause.as_nanos() / 5).unwrap_or(u64::MAX);
        pause - Duration::from_nanos(rand::below(jitter_ns.max(1)))
    }
}
