//! Which of a log's segments go, and whether its newest records are to become a segment. Pure:
//! numbers in, a verdict out. The rules are those of Kafka's `UnifiedLog.deletableSegments`.
//!
//! Segments go from the oldest on, until the first that has to stay. The active segment and what is
//! not in segments yet are one unit, the newest one: it is closed before it can go. One that is
//! enough for several segments is closed when the first of them would go.

use std::time::Duration;

use crate::types::{Offset, TopicPartition};

/// A wall clock that gained so much on the monotonic one, was set.
const JUMP_MS: i64 = 3_600_000;

/// For so long a clock that was set is not believed.
const DOUBT: Duration = Duration::from_secs(300);

/// What a topic's configuration asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// A segment goes when its newest record is older than this.
    pub retention_ms: Option<i64>,
    /// Segments go as long as at least this much is left.
    pub retention_bytes: Option<u64>,
    /// The newest unit is closed at this age.
    pub roll_ms: Option<i64>,
}

/// Why a segment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// All of it is below the log start.
    LogStart,
    /// Its newest record is too old.
    Time,
    /// The log is too large.
    Size,
}

impl Reason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::LogStart, Self::Time, Self::Size];

    /// As metrics and the log call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::LogStart => "log-start",
            Self::Time => "time",
            Self::Size => "size",
        }
    }
}

/// A closed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its first offset.
    pub base: Offset,
    /// One past its last offset.
    pub end: Offset,
    /// Size of its file.
    pub bytes: u64,
    /// The largest timestamp of its records, once somebody looked.
    pub newest_ms: Option<i64>,
}

/// The largest timestamp of the newest unit; −1 when no record has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newest {
    /// This.
    Exactly(i64),
    /// Nobody has looked into the active segment yet.
    AtLeast(i64),
}

/// The active segment and the acknowledged records behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// Base offset of the active segment.
    pub base: Offset,
    /// One past the last acknowledged record.
    pub end: Offset,
    /// Its size.
    pub bytes: u64,
    /// What a segment may have. A larger unit becomes several once it is written.
    pub segment_bytes: u64,
    /// How new its records are.
    pub newest: Newest,
    /// When its first record came.
    pub since_ms: i64,
}

/// A segment that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Its first offset.
    pub base: Offset,
    /// One past its last offset: the log starts there, or later.
    pub end: Offset,
    /// Why.
    pub reason: Reason,
}

/// What has to be looked up before it can be said whether more has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// Which segments there are.
    Segments,
    /// The newest timestamp of this closed segment.
    Closed(Offset),
    /// The newest timestamp of the active segment.
    Active,
    /// The newest timestamp of the first batch of this closed segment, for compaction.
    First(Offset),
}

/// What becomes of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Segments that go, the oldest first.
    pub cuts: Vec<Cut>,
    /// The newest unit is to be closed; whether it goes, the next look tells.
    pub closes: bool,
    /// What has to be looked up first.
    pub unknown: Option<Unknown>,
}

impl Policy {
    fn is_too_old(&self, newest_ms: i64, now_ms: i64) -> bool {
        let age_ms = now_ms.saturating_sub(newest_ms);
        newest_ms >= 0 && self.retention_ms.is_some_and(|retention_ms| age_ms > retention_ms)
    }

    /// Judges a log that has these closed segments, the oldest first.
    pub fn judge(
        &self,
        segments: impl IntoIterator<Item = Segment>,
        unit: &Unit,
        size_bytes: u64,
        log_start: Offset,
        now_ms: i64,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        let age_ms = now_ms.saturating_sub(unit.since_ms);
        let has_unit = unit.base < unit.end;
        verdict.closes = has_unit && self.roll_ms.is_some_and(|roll_ms| age_ms >= roll_ms);
        let mut excess = self.retention_bytes.map(|kept| size_bytes.saturating_sub(kept));
        for segment in segments {
            let is_excess = excess.is_some_and(|excess| excess >= segment.bytes);
            let reason = match segment.newest_ms {
                _ if segment.end <= log_start => Reason::LogStart,
                Some(newest_ms) if self.is_too_old(newest_ms, now_ms) => Reason::Time,
                _ if is_excess => Reason::Size,
                None if self.retention_ms.is_some() => {
                    verdict.unknown = Some(Unknown::Closed(segment.base));
                    return verdict;
                }
                _ => return verdict,
            };
            excess = excess.map(|excess| excess.saturating_sub(segment.bytes));
            verdict.cuts.push(Cut { base: segment.base, end: segment.end, reason });
        }
        if !has_unit {
            return verdict;
        }
        let first_bytes = unit.bytes.min(unit.segment_bytes);
        match unit.newest {
            _ if excess.is_some_and(|excess| excess >= first_bytes) => verdict.closes = true,
            Newest::Exactly(newest_ms) => verdict.closes |= self.is_too_old(newest_ms, now_ms),
            Newest::AtLeast(newest_ms) if newest_ms < 0 || self.is_too_old(newest_ms, now_ms) => {
                verdict.unknown = self.retention_ms.map(|_| Unknown::Active);
            }
            Newest::AtLeast(_) => {}
        }
        verdict
    }
}

/// At which age a segment closes: `segment.ms` less its share of `segment.jitter.ms`, so that those
/// of many partitions do not close together. The same for a segment after a restart.
pub fn roll_after_ms(target: TopicPartition, base: Offset, segment_ms: i64, jitter_ms: i64) -> i64 {
    let jitter_ms = jitter_ms.min(segment_ms);
    if jitter_ms <= 0 {
        return segment_ms;
    }
    let (high, low) = target.topic.0.as_u64_pair();
    let numbers = [high, low, u64::from(target.partition.0.unsigned_abs()), base.0.unsigned_abs()];
    let spread = numbers.into_iter().fold(0, |spread, number| mix(spread ^ number));
    segment_ms - i64::try_from(spread % jitter_ms.unsigned_abs()).expect("below an i64")
}

/// Each bit of the answer depends on all bits: the last step of SplitMix64.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Tells a clock that runs from one that was set.
#[derive(Debug, Default)]
pub struct ClockGuard {
    /// Both clocks at the last moment that was believed.
    believed: Option<(Duration, i64)>,
    /// When the doubt began.
    doubted: Option<Duration>,
}

impl ClockGuard {
    /// Whether the wall clock may be believed, `since_start` by the monotonic one. A clock that jumps
    /// ahead is not, for five minutes: one that was set by mistake would take everything with it.
    pub fn is_believed(&mut self, since_start: Duration, wall_ms: i64) -> bool {
        let Some((then, then_ms)) = self.believed else {
            self.believed = Some((since_start, wall_ms));
            return true;
        };
        let passed = i64::try_from(since_start.saturating_sub(then).as_millis()).unwrap_or(i64::MAX);
        let gained_ms = wall_ms.saturating_sub(then_ms).saturating_sub(passed);
        let doubted = *self.doubted.get_or_insert(since_start);
        if gained_ms > JUMP_MS && since_start.saturating_sub(doubted) < DOUBT {
            return false;
        }
        (self.believed, self.doubted) = (Some((since_start, wall_ms)), None);
        true
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::types::{PartitionId, TopicId};

    const NOW: i64 = 1_000_000;

    /// Closed segments of ten records and 100 bytes each, with these newest timestamps.
    fn segments(newest: &[Option<i64>]) -> Vec<Segment> {
        let mut base = Offset(0);
        let segment = |newest_ms: &Option<i64>| {
            let end = base.plus(10);
            let segment = Segment { base, end, bytes: 100, newest_ms: *newest_ms };
            base = end;
            segment
        };
        newest.iter().map(segment).collect()
    }

    fn unit(base: i64, records: i64, newest: Newest) -> Unit {
        let base = Offset(base);
        let since_ms = NOW - 10;
        Unit { base, end: base.plus(records), bytes: 50, segment_bytes: 100, newest, since_ms }
    }

    fn reasons(verdict: &Verdict) -> Vec<(i64, Reason)> {
        verdict.cuts.iter().map(|cut| (cut.end.0, cut.reason)).collect()
    }

    fn by_time(retention_ms: i64) -> Policy {
        Policy { retention_ms: Some(retention_ms), ..Policy::default() }
    }

    fn by_size(retention_bytes: u64) -> Policy {
        Policy { retention_bytes: Some(retention_bytes), ..Policy::default() }
    }

    #[test]
    fn segments_go_by_their_newest_record_until_the_first_that_stays() {
        let closed = segments(&[Some(NOW - 101), Some(NOW - 100), Some(NOW - 500)]);
        let newest = unit(30, 5, Newest::Exactly(NOW));
        let verdict = by_time(100).judge(closed, &newest, 350, Offset(0), NOW);
        // One that is exactly as old as it may be stays, and so does what comes behind it.
        assert_eq!((reasons(&verdict), verdict.closes), (vec![(10, Reason::Time)], false));
    }

    #[test]
    fn a_future_timestamp_keeps_a_segment() {
        let closed = segments(&[Some(NOW + 5_000), Some(NOW - 500)]);
        let newest = unit(20, 0, Newest::Exactly(-1));
        assert_eq!(by_time(0).judge(closed, &newest, 200, Offset(0), NOW), Verdict::default());
    }

    #[test]
    fn what_is_left_is_never_less_than_retention_bytes() {
        let closed = || segments(&[None, None, None]);
        let newest = unit(30, 5, Newest::AtLeast(-1));
        for (kept, gone) in [(349, 0), (251, 0), (250, 1), (150, 2), (51, 2), (50, 3), (1, 3)] {
            let verdict = by_size(kept).judge(closed(), &newest, 350, Offset(0), NOW);
            assert_eq!((verdict.cuts.len(), verdict.closes), (gone, false), "{kept}");
        }
        let verdict = by_size(0).judge(closed(), &newest, 350, Offset(0), NOW);
        assert_eq!((verdict.cuts.len(), verdict.closes), (3, true));
    }

    #[test]
    fn what_is_enough_for_several_segments_is_closed_when_one_of_them_would_go() {
        let large = Unit { bytes: 250, ..unit(10, 50, Newest::AtLeast(-1)) };
        for (kept, gone, closes) in [(350, 0, false), (250, 1, false), (151, 1, false), (150, 1, true)] {
            let verdict = by_size(kept).judge(segments(&[None]), &large, 350, Offset(0), NOW);
            assert_eq!((verdict.cuts.len(), verdict.closes), (gone, closes), "{kept}");
        }
    }

    #[test]
    fn what_is_below_the_log_start_goes_under_any_policy() {
        let closed = segments(&[None, None, Some(0)]);
        let newest = unit(30, 5, Newest::AtLeast(-1));
        let verdict = Policy::default().judge(closed, &newest, 350, Offset(25), NOW);
        assert_eq!(reasons(&verdict), [(10, Reason::LogStart), (20, Reason::LogStart)]);
        assert_eq!((verdict.closes, verdict.unknown), (false, None));
    }

    #[test]
    fn what_goes_by_time_counts_for_the_size() {
        let closed = segments(&[Some(0), Some(NOW), Some(NOW), Some(NOW)]);
        let policy = Policy { retention_ms: Some(100), retention_bytes: Some(250), roll_ms: None };
        let newest = unit(40, 5, Newest::Exactly(NOW));
        let verdict = policy.judge(closed, &newest, 450, Offset(0), NOW);
        assert_eq!(reasons(&verdict), [(10, Reason::Time), (20, Reason::Size)]);
    }

    #[test]
    fn a_segment_that_nobody_looked_at_is_asked_for_only_when_time_matters() {
        let closed = || segments(&[Some(0), None, Some(0)]);
        let newest = unit(30, 5, Newest::AtLeast(-1));
        let verdict = by_time(100).judge(closed(), &newest, 350, Offset(0), NOW);
        assert_eq!(reasons(&verdict), [(10, Reason::Time)]);
        assert_eq!(verdict.unknown, Some(Unknown::Closed(Offset(10))));
        assert_eq!(by_size(1000).judge(closed(), &newest, 350, Offset(0), NOW), Verdict::default());
    }

    #[test]
    fn the_newest_records_are_closed_when_all_of_them_are_too_old() {
        let look = |newest| by_time(100).judge([], &unit(0, 5, newest), 50, Offset(0), NOW);
        assert!(look(Newest::Exactly(NOW - 101)).closes);
        assert!(!look(Newest::Exactly(NOW - 100)).closes);
        // Records without a timestamp go with the segment's age, once it is closed.
        assert_eq!(look(Newest::Exactly(-1)), Verdict::default());
        assert_eq!(look(Newest::AtLeast(NOW - 100)), Verdict::default());
        for newest_ms in [-1, NOW - 101] {
            let verdict = look(Newest::AtLeast(newest_ms));
            assert_eq!((verdict.closes, verdict.unknown), (false, Some(Unknown::Active)));
        }
    }

    #[test]
    fn the_newest_records_are_closed_at_their_age_though_older_ones_stay() {
        let policy = Policy { roll_ms: Some(10), ..by_time(100) };
        let closed = || segments(&[Some(NOW)]);
        let newest = |records| unit(10, records, Newest::Exactly(NOW));
        assert!(policy.judge(closed(), &newest(5), 150, Offset(0), NOW).closes);
        assert!(!policy.judge(closed(), &newest(5), 150, Offset(0), NOW - 1).closes);
        assert!(!policy.judge(closed(), &newest(0), 150, Offset(0), NOW).closes);
    }

    #[test]
    fn jitter_spreads_and_stays_below_the_age() {
        let target = |partition| TopicPartition::new(TopicId(Uuid::from_u128(7)), PartitionId(partition));
        let of = |partition| roll_after_ms(target(partition), Offset(0), 1000, 400);
        let all: std::collections::BTreeSet<_> = (0..100).map(of).collect();
        assert!(all.len() > 50, "they close at different times: {all:?}");
        assert!(all.iter().all(|ms| (601..=1000).contains(ms)));
        assert_eq!(of(3), of(3));
        assert_eq!(roll_after_ms(target(0), Offset(0), 1000, 0), 1000);
        let large = roll_after_ms(target(0), Offset(0), 1000, i64::MAX);
        assert!((1..=1000).contains(&large));
    }

    #[test]
    fn a_clock_that_jumps_ahead_is_believed_after_five_minutes() {
        let mut guard = ClockGuard::default();
        let at = |seconds: u64| Duration::from_secs(seconds);
        let wall = |seconds: i64| 1_700_000_000_000 + seconds * 1000;
        assert!(guard.is_believed(at(0), wall(0)));
        assert!(guard.is_believed(at(300), wall(300 + 3600)), "an hour may be gained");
        assert!(guard.is_believed(at(400), wall(0)), "a clock that is set back deletes nothing");
        assert!(!guard.is_believed(at(500), wall(10_000)));
        assert!(!guard.is_believed(at(799), wall(10_299)));
        assert!(guard.is_believed(at(800), wall(10_300)));
        assert!(guard.is_believed(at(900), wall(10_400)));
    }

    #[test]
    fn a_clock_that_is_set_right_again_is_believed_at_once() {
        let mut guard = ClockGuard::default();
        let at = |seconds: u64| Duration::from_secs(seconds);
        assert!(guard.is_believed(at(0), 0));
        assert!(!guard.is_believed(at(10), 100_000_000));
        assert!(guard.is_believed(at(20), 20_000));
        assert!(!guard.is_believed(at(310), 100_000_000), "the doubt begins anew");
    }
}
