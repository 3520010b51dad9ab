//! When a sink holds its answers back: a broker that hangs for a moment, as in a garbage collection
//! or behind a full disk cache.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// When to stall, counted from the first produce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StallPlan {
    /// When the first one begins.
    pub after: Duration,
    /// How long one lasts.
    pub length: Duration,
    /// From the beginning of one to that of the next; `None` is one alone.
    pub every: Option<Duration>,
}

/// A stall under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Under {
    /// Counts from 1.
    number: u64,
    left: Duration,
}

impl StallPlan {
    fn under_way(&self, since_first_produce: Duration) -> Option<Under> {
        let since_first = since_first_produce.checked_sub(self.after)?.as_nanos();
        let (before, into) = match self.every.map(|every| every.as_nanos()) {
            Some(every @ 1..) => (since_first / every, since_first % every),
            Some(0) | None => (0, since_first),
        };
        let left = self.length.as_nanos().checked_sub(into).filter(|left| *left > 0)?;
        Some(Under {
            number: u64::try_from(before).unwrap_or(u64::MAX - 1) + 1,
            left: Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX)),
        })
    }
}

/// The stalls of a running sink.
pub(super) struct Stalls {
    plan: Option<StallPlan>,
    first_produce: OnceLock<Instant>,
    /// The last one that was said aloud.
    said: AtomicU64,
}

impl Stalls {
    pub(super) fn new(plan: Option<StallPlan>) -> Self {
        Self { plan, first_produce: OnceLock::new(), said: AtomicU64::new(0) }
    }

    /// A produce has come.
    pub(super) fn produced(&self) {
        if self.plan.is_some() {
            self.first_produce.get_or_init(Instant::now);
        }
    }

    /// Sleeps to the end of the stall under way, if there is one; `say` is called once for each.
    pub(super) fn hold(&self, say: impl FnOnce(Duration)) {
        let (Some(plan), Some(first)) = (self.plan, self.first_produce.get()) else {
            return;
        };
        let Some(stall) = plan.under_way(first.elapsed()) else {
            return;
        };
        if self.said.fetch_max(stall.number, Ordering::Relaxed) < stall.number {
            say(plan.length);
        }
        thread::sleep(stall.left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_held_back_to_the_end_of_the_stall_and_not_outside_of_it() {
        let ms = Duration::from_millis;
        let under = |number, left| Some(Under { number, left: ms(left) });
        let once = StallPlan { after: ms(1000), length: ms(200), every: None };
        assert_eq!(once.under_way(ms(999)), None);
        assert_eq!(once.under_way(ms(1000)), under(1, 200));
        assert_eq!(once.under_way(ms(1199)), under(1, 1));
        assert_eq!(once.under_way(ms(1200)), None);
        assert_eq!(once.under_way(ms(1_000_000)), None);
        let often = StallPlan { every: Some(ms(500)), ..once };
        assert_eq!(often.under_way(ms(1499)), None);
        assert_eq!(often.under_way(ms(1500)), under(2, 200));
        assert_eq!(often.under_way(ms(2650)), under(4, 50));
    }
}
