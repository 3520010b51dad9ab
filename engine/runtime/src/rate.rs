//! Letting things through at a limited rate: lines about what others do wrong, for example, so that
//! nobody fills the log.

use std::cell::Cell;
use std::time::Duration;

use crate::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// Lets so many through in a second, and counts the others. Belongs to one shard.
#[derive(Debug)]
pub struct RateLimit {
    per_second: u32,
    /// When the second began that is counted.
    began: Cell<Option<Instant>>,
    passed: Cell<u32>,
    held_back: Cell<u64>,
}

impl RateLimit {
    /// Lets `per_second` through in a second.
    #[must_use]
    pub const fn new(per_second: u32) -> Self {
        Self { per_second, began: Cell::new(None), passed: Cell::new(0), held_back: Cell::new(0) }
    }

    /// How many were held back since the last that was let through; `None` when this one is held
    /// back, too.
    pub fn pass(&self) -> Option<u64> {
        let now = Instant::now();
        let is_over = |began: Instant| now.saturating_duration_since(began) >= SECOND;
        if self.began.get().is_none_or(is_over) {
            self.began.set(Some(now));
            self.passed.set(0);
        }
        if self.passed.get() == self.per_second {
            self.held_back.set(self.held_back.get() + 1);
            return None;
        }
        self.passed.set(self.passed.get() + 1);
        Some(self.held_back.replace(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Sim, SimOptions};
    use crate::time;

    #[test]
    fn so_many_pass_in_a_second_and_the_others_are_counted() {
        Sim::new(1, SimOptions::default()).run_on(1, async {
            let limit = RateLimit::new(2);
            let passed: Vec<_> = (0..5).map(|_| limit.pass()).collect();
            assert_eq!(passed, [Some(0), Some(0), None, None, None]);
            time::sleep(SECOND).await;
            assert_eq!([limit.pass(), limit.pass(), limit.pass()], [Some(3), Some(0), None]);
        });
    }
}
