//! How fast a round of compaction goes, and for how long.
//!
//! A device serves everybody in turn, and a sync waits for whatever was written before it. So while
//! clients write, a round goes through a log in small pieces and rests behind each of them, in
//! proportion to what the piece took: on a slow disk or a busy core it rests longer. Where nobody
//! writes there is nobody to disturb, and it goes on at once.

use std::time::Duration;

use corelog_runtime::task::yield_if_needed;
use corelog_runtime::time::{self, Instant};

use super::round::CleanError;

/// What is read or written without a rest.
const PIECE_BYTES: usize = 64 << 10;
/// So a round comes to its end on a disk that stands still at times, too.
const REST_MAX: Duration = Duration::from_millis(20);
/// A sleep is not exact enough for less.
const SLEEP_MIN: Duration = Duration::from_millis(10);

/// How fast rounds may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaceRules {
    /// At most so many bytes are read and written in a second.
    pub bytes_per_second: Option<u64>,
    /// Share of the time in which a round works while others write, from 1 to 100; the rest it rests.
    pub busy_percent: u32,
}

impl PaceRules {
    /// As fast as possible.
    pub const UNLIMITED: Self = Self { bytes_per_second: None, busy_percent: 100 };

    /// How long to rest behind a piece that took so long.
    fn rest(&self, took: Duration) -> Duration {
        let percent = self.busy_percent.clamp(1, 100);
        (took * (100 - percent) / percent).min(REST_MAX)
    }
}

/// One round's progress.
pub struct Pace {
    rules: PaceRules,
    is_busy: Box<dyn Fn() -> bool>,
    is_over: Box<dyn Fn() -> bool>,
    /// When the bytes began to be counted against the limit.
    since: Instant,
    bytes: u64,
    piece_began: Instant,
    piece_bytes: usize,
}

impl Pace {
    /// `is_busy`: whether somebody wrote since it was last asked. `is_over`: whether the round has to
    /// end.
    pub fn new(
        rules: PaceRules,
        is_busy: impl Fn() -> bool + 'static,
        is_over: impl Fn() -> bool + 'static,
    ) -> Self {
        let (is_busy, is_over) = (Box::new(is_busy), Box::new(is_over));
        let now = Instant::now();
        Self { rules, is_busy, is_over, since: now, bytes: 0, piece_began: now, piece_bytes: 0 }
    }

    /// Counts bytes that went through, and lets others run.
    pub(super) async fn went(&mut self, bytes: usize) -> Result<(), CleanError> {
        yield_if_needed().await;
        self.rest(bytes).await;
        self.limit(bytes).await;
        if (self.is_over)() { Err(CleanError::Ended) } else { Ok(()) }
    }

    async fn rest(&mut self, bytes: usize) {
        self.piece_bytes += bytes;
        if self.piece_bytes < PIECE_BYTES {
            return;
        }
        let rest = self.rules.rest(self.piece_began.elapsed());
        if !rest.is_zero() && (self.is_busy)() {
            time::sleep(rest).await;
        }
        (self.piece_began, self.piece_bytes) = (Instant::now(), 0);
    }

    async fn limit(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        let Some(limit) = self.rules.bytes_per_second else { return };
        let due_ms = self.bytes.saturating_mul(1_000) / limit.max(1);
        if let Some(due) = self.since.checked_add(Duration::from_millis(due_ms))
            && due > Instant::now() + SLEEP_MIN
        {
            time::sleep_until(due).await;
            (self.since, self.bytes) = (Instant::now(), 0);
        }
    }
}

/// How fast rounds go, one after the other.
///
/// Whoever spares others must not fall behind for it: when more is dirty than before the last round,
/// the next one rests half as much as that one.
pub struct Haste {
    rules: PaceRules,
    busy_percent: u32,
    /// What was due before the last round.
    due_bytes: Option<u64>,
}

impl Haste {
    /// Before the first round.
    pub fn new(rules: PaceRules) -> Self {
        Self { rules, busy_percent: rules.busy_percent, due_bytes: None }
    }

    /// How fast the next round may go, when so much is to be compacted, or is late.
    pub fn next(&mut self, due_bytes: u64, is_overdue: bool) -> PaceRules {
        let before = self.due_bytes.replace(due_bytes);
        self.busy_percent = match before {
            Some(before) if due_bytes > before => (self.busy_percent * 2).min(100),
            _ => (self.busy_percent / 2).max(self.rules.busy_percent),
        };
        let busy_percent = if is_overdue { 100 } else { self.busy_percent };
        PaceRules { busy_percent, ..self.rules }
    }
}

#[cfg(test)]
mod tests {
    use corelog_runtime::sim;

    use super::*;

    const TOOK: Duration = Duration::from_millis(1);

    /// How many milliseconds 100 pieces take of which each is a millisecond's work.
    fn hundred_pieces(rules: PaceRules, is_busy: bool) -> u128 {
        sim::block_on(1, async move {
            let began = Instant::now();
            let mut pace = Pace::new(rules, move || is_busy, || false);
            for _ in 0..100 {
                time::sleep(TOOK).await;
                pace.went(PIECE_BYTES).await.expect("it may go on");
            }
            began.elapsed().as_millis()
        })
    }

    #[test]
    fn while_others_write_it_rests_in_proportion() {
        let percent = |busy_percent| PaceRules { busy_percent, ..PaceRules::UNLIMITED };
        for (busy_percent, ms) in [(100, 100), (50, 200), (20, 500), (10, 1_000), (1, 2_100)] {
            let took = hundred_pieces(percent(busy_percent), true);
            assert!((ms..ms + ms / 5).contains(&took), "{busy_percent} %: {took} ms");
        }
        let took = hundred_pieces(percent(10), false);
        assert!((100..120).contains(&took), "nobody was there: {took} ms");
    }

    #[test]
    fn a_limit_holds_with_nobody_there() {
        let rules = PaceRules { bytes_per_second: Some(1 << 20), ..PaceRules::UNLIMITED };
        let took = hundred_pieces(rules, false);
        assert!((6_000..6_500).contains(&took), "{took} ms");
    }

    #[test]
    fn it_rests_less_while_it_falls_behind() {
        let rules = PaceRules { busy_percent: 20, ..PaceRules::UNLIMITED };
        let mut haste = Haste::new(rules);
        let mut percent = |due_bytes, is_overdue| haste.next(due_bytes, is_overdue).busy_percent;
        assert_eq!([percent(100, false), percent(101, false), percent(102, false)], [20, 40, 80]);
        assert_eq!([percent(103, false), percent(103, false), percent(80, false)], [100, 50, 25]);
        assert_eq!([percent(70, false), percent(60, true), percent(50, false)], [20, 100, 20]);
    }

    #[test]
    fn small_pieces_gather_and_it_ends_when_told_to() {
        sim::block_on(1, async {
            let rules = PaceRules { busy_percent: 1, ..PaceRules::UNLIMITED };
            let mut pace = Pace::new(rules, || true, || false);
            let began = Instant::now();
            time::sleep(TOOK).await;
            for _ in 0..PIECE_BYTES / 1024 - 1 {
                pace.went(1024).await.expect("it may go on");
            }
            assert!(began.elapsed() < REST_MAX, "not a whole piece yet");
            pace.went(1024).await.expect("it may go on");
            assert!(began.elapsed() > REST_MAX);
            let mut pace = Pace::new(rules, || true, || true);
            assert!(matches!(pace.went(1).await, Err(CleanError::Ended)));
        });
    }
}
