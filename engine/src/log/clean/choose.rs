//! Which part of a log a round of compaction takes, whether it is due, and which segments become
//! one.
//!
//! Pure: what is known of a log's closed segments in, offsets and numbers out. As
//! `LogCleanerManager.cleanableOffsets` and `Cleaner.groupSegmentsBySize` of Kafka, with these
//! differences: a segment that is dirty in part counts as dirty and not as both; what is wholly
//! below the log start counts as neither; a log that is overdue goes before one that is dirtier.

use std::cmp::Ordering;
use std::ops::Range;

use crate::types::Offset;

/// What is known of a closed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its first offset.
    pub base: Offset,
    /// One past its last offset: where the next one begins.
    pub end: Offset,
    /// Size of its file.
    pub bytes: u64,
    /// The largest timestamp of its records, ms since 1970; where none has one, when it was
    /// written.
    pub newest_ms: i64,
    /// The largest timestamp of its first batch, where anybody looked. Kafka asks for it only where
    /// `max.compaction.lag.ms` is set.
    pub first_ms: Option<i64>,
}

/// What is known of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log<'a> {
    /// The closed segments, in order and without gaps. The active one is never cleaned.
    pub closed: &'a [Segment],
    /// Below it, no record has a newer one of its key below it.
    pub cleaned_to: Offset,
    /// The first offset that can be read.
    pub log_start: Offset,
    /// The last stable offset: neither replicas nor transactions can undo what is below.
    pub last_stable: Offset,
    /// One past the last record.
    pub log_end: Offset,
}

/// A topic's configs as far as they say when its logs are cleaned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CleanRules {
    /// `min.cleanable.dirty.ratio`
    pub dirty_ratio_min: f64,
    /// `min.compaction.lag.ms`
    pub lag_min_ms: i64,
    /// `max.compaction.lag.ms`
    pub lag_max_ms: i64,
}

/// What of a log could be cleaned now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirt {
    /// Where the part begins that was not mapped yet.
    pub first_dirty: Offset,
    /// Where the part begins that must not be cleaned yet. At `first_dirty` when there is nothing
    /// to clean.
    pub uncleanable: Offset,
    /// Bytes of the segments that are clean.
    pub clean_bytes: u64,
    /// Bytes of the segments that a round would map.
    pub dirty_bytes: u64,
    /// For how long a closed segment has been dirty beyond `max.compaction.lag.ms`; 0 for none.
    pub overdue_ms: i64,
    /// The earliest moment at which time alone lets more be cleaned or makes it overdue.
    pub look_again_ms: Option<i64>,
    /// `cleaned_to` is beyond the log's end, so that it counts for nothing.
    pub is_cleaned_to_wrong: bool,
}

impl Dirt {
    /// What there is to clean of `log` at `now_ms`.
    ///
    /// # Panics
    /// When the segments are not in order.
    pub fn of(log: &Log<'_>, rules: &CleanRules, now_ms: i64) -> Self {
        let contiguous = |pair: &[Segment]| pair[0].end == pair[1].base;
        assert!(log.closed.windows(2).all(contiguous), "a log's segments follow each other");
        let is_cleaned_to_wrong = log.cleaned_to > log.log_end;
        let first_dirty = if is_cleaned_to_wrong { log.log_start } else { log.cleaned_to.max(log.log_start) };
        let (clean, dirty) = parts(log, first_dirty);
        let blocked = dirty.iter().position(|segment| {
            let is_unstable = segment.end > log.last_stable;
            let is_young =
                rules.lag_min_ms > 0 && segment.newest_ms > now_ms.saturating_sub(rules.lag_min_ms);
            is_unstable || is_young
        });
        let cleanable = &dirty[..blocked.unwrap_or(dirty.len())];
        let uncleanable = cleanable.last().map_or(first_dirty, |segment| segment.end);
        // Where the last stable offset holds it up, no passing of time lets it through.
        let grown_up_ms = blocked
            .map(|at| dirty[at])
            .filter(|segment| segment.end <= log.last_stable)
            .map(|segment| segment.newest_ms.saturating_add(rules.lag_min_ms));
        let (overdue_ms, due_ms) = overdue(dirty, rules, now_ms);
        Self {
            first_dirty,
            uncleanable,
            clean_bytes: clean.iter().map(|segment| segment.bytes).sum(),
            dirty_bytes: cleanable.iter().map(|segment| segment.bytes).sum(),
            overdue_ms,
            look_again_ms: grown_up_ms.into_iter().chain(due_ms).min(),
            is_cleaned_to_wrong,
        }
    }

    /// Share of what is dirty in what would be read, from 0 to 1.
    pub fn ratio(&self) -> f64 {
        match self.clean_bytes + self.dirty_bytes {
            0 => 0.0,
            all => self.dirty_bytes as f64 / all as f64,
        }
    }

    /// Whether a round is due.
    pub fn is_due(&self, rules: &CleanRules) -> bool {
        self.dirty_bytes > 0 && (self.overdue_ms > 0 || self.ratio() > rules.dirty_ratio_min)
    }

    /// Which of two is to be cleaned first: the greater one. The longest overdue, then the
    /// dirtiest.
    pub fn urgency(&self, other: &Self) -> Ordering {
        let share = |dirt: &Self, of: &Self| {
            u128::from(dirt.dirty_bytes) * u128::from(of.clean_bytes + of.dirty_bytes)
        };
        let by_share = || share(self, other).cmp(&share(other, self));
        self.overdue_ms.cmp(&other.overdue_ms).then_with(by_share)
    }
}

/// The closed segments that are clean and those that are not, without what is below the log start.
fn parts<'a>(log: &Log<'a>, first_dirty: Offset) -> (&'a [Segment], &'a [Segment]) {
    let from = log.closed.partition_point(|segment| segment.end <= log.log_start);
    let living = &log.closed[from..];
    living.split_at(living.partition_point(|segment| segment.end <= first_dirty))
}

/// For how long dirty segments have been waiting too long, and when the next one will have been.
fn overdue(dirty: &[Segment], rules: &CleanRules, now_ms: i64) -> (i64, Option<i64>) {
    let oldest_ms =
        dirty.iter().filter_map(|segment| segment.first_ms).filter(|first_ms| *first_ms > 0).min();
    let Some(oldest_ms) = oldest_ms else {
        return (0, None);
    };
    let overdue_ms = now_ms.saturating_sub(rules.lag_max_ms).saturating_sub(oldest_ms);
    if overdue_ms > 0 {
        return (overdue_ms, None);
    }
    let due_ms = oldest_ms.checked_add(rules.lag_max_ms).and_then(|due_ms| due_ms.checked_add(1));
    (0, due_ms)
}

/// How large a segment may become when several become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupRules {
    /// `segment.bytes`: the files of a group have no more bytes together.
    pub segment_bytes: u64,
    /// `segment.ms` of a log that is also deleted by time: the newest records of a group's
    /// segments lie no further apart, so that joining them keeps none much longer.
    pub newest_apart_ms_max: Option<i64>,
}

/// Which of the closed segments become one, as ranges of `closed`, oldest first: all that hold
/// something below `mapped_to` and at or above the log start.
pub fn groups(
    closed: &[Segment],
    log_start: Offset,
    mapped_to: Offset,
    rules: &GroupRules,
) -> Vec<Range<usize>> {
    let from = closed.partition_point(|segment| segment.end <= log_start);
    let to = closed.partition_point(|segment| segment.base < mapped_to);
    let mut groups = Vec::new();
    let mut first = from;
    while first < to {
        let len = group_len(&closed[first..to], rules);
        groups.push(first..first + len);
        first += len;
    }
    groups
}

/// How many segments from the first on are one group: at least that one.
fn group_len(segments: &[Segment], rules: &GroupRules) -> usize {
    let first = segments[0];
    let mut bytes = first.bytes;
    let (mut oldest_ms, mut newest_ms) = (first.newest_ms, first.newest_ms);
    let joins = |segment: &&Segment| {
        bytes = bytes.saturating_add(segment.bytes);
        oldest_ms = oldest_ms.min(segment.newest_ms);
        newest_ms = newest_ms.max(segment.newest_ms);
        let apart_ms = newest_ms.saturating_sub(oldest_ms);
        bytes <= rules.segment_bytes
            && segment.end.0.saturating_sub(first.base.0) <= i64::from(i32::MAX)
            && rules.newest_apart_ms_max.is_none_or(|apart_ms_max| apart_ms <= apart_ms_max)
    };
    1 + segments[1..].iter().take_while(joins).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: CleanRules = CleanRules { dirty_ratio_min: 0.5, lag_min_ms: 0, lag_max_ms: i64::MAX };
    const NOW_MS: i64 = 100_000;

    /// Segments of ten offsets and 100 bytes from 0 on, whose records are of these times.
    fn segments(newest_ms: &[i64]) -> Vec<Segment> {
        let segment = |(number, newest_ms): (i64, &i64)| Segment {
            base: Offset(10 * number),
            end: Offset(10 * number + 10),
            bytes: 100,
            newest_ms: *newest_ms,
            first_ms: Some(newest_ms - 5),
        };
        (0..).zip(newest_ms).map(segment).collect()
    }

    fn log(closed: &[Segment], cleaned_to: i64) -> Log<'_> {
        let cleaned_to = Offset(cleaned_to);
        Log { closed, cleaned_to, log_start: Offset(0), last_stable: Offset(1_000), log_end: Offset(1_000) }
    }

    /// First dirty offset, first uncleanable one, bytes clean and dirty.
    fn range(dirt: &Dirt) -> (i64, i64, u64, u64) {
        (dirt.first_dirty.0, dirt.uncleanable.0, dirt.clean_bytes, dirt.dirty_bytes)
    }

    /// As the tests of `LogCleanerManagerTest` have it.
    #[test]
    fn the_dirty_part_is_what_kafka_says_it_is() {
        let closed = segments(&[1_000, 2_000, 99_000, 4_000]);
        let of = |log: &Log<'_>, rules: &CleanRules| range(&Dirt::of(log, rules, NOW_MS));
        let at = |cleaned_to| log(&closed, cleaned_to);
        // Everything but the active segment, which begins at 40.
        assert_eq!(of(&at(0), &RULES), (0, 40, 0, 400));
        assert_eq!(of(&at(20), &RULES), (20, 40, 200, 200));
        assert_eq!(of(&at(40), &RULES), (40, 40, 400, 0));
        // Inside a segment: it has to be read whole.
        assert_eq!(of(&at(25), &RULES), (25, 40, 200, 200));
        // In the active segment.
        assert_eq!(of(&at(500), &RULES), (500, 500, 400, 0));
        // Below the log start: from there on, and what is below counts for nothing.
        assert_eq!(of(&Log { log_start: Offset(15), ..at(5) }, &RULES), (15, 40, 0, 300));
        assert_eq!(of(&Log { log_start: Offset(15), ..at(20) }, &RULES), (20, 40, 100, 200));
        // Beyond the log's end: everything.
        let beyond = Dirt::of(&at(1_001), &RULES, NOW_MS);
        assert_eq!((range(&beyond), beyond.is_cleaned_to_wrong), ((0, 40, 0, 400), true));
        // Up to the first segment with a young record, whatever is behind it.
        let lagging = CleanRules { lag_min_ms: 10_000, ..RULES };
        assert_eq!(of(&at(0), &lagging), (0, 20, 0, 200));
        assert_eq!(of(&at(25), &lagging), (25, 25, 200, 0));
        assert_eq!(of(&at(30), &lagging), (30, 40, 300, 100));
        // Not the segment that has the last stable offset.
        for (last_stable, uncleanable) in [(0, 0), (9, 0), (10, 10), (39, 30), (40, 40), (41, 40)] {
            let log = Log { last_stable: Offset(last_stable), ..at(0) };
            assert_eq!(of(&log, &RULES).1, uncleanable, "{last_stable}");
        }
    }

    #[test]
    fn a_round_is_due_above_the_ratio_and_not_at_it() {
        let closed = segments(&[1_000; 4]);
        let at = |cleaned_to| Dirt::of(&log(&closed, cleaned_to), &RULES, NOW_MS);
        assert_eq!([at(10).is_due(&RULES), at(20).is_due(&RULES)], [true, false]);
        assert_eq!((at(0).ratio(), at(30).ratio(), at(40).ratio()), (1.0, 0.25, 0.0));
        assert!(at(30).is_due(&CleanRules { dirty_ratio_min: 0.0, ..RULES }));
        assert!(!at(40).is_due(&CleanRules { dirty_ratio_min: 0.0, ..RULES }));
        assert!(!at(0).is_due(&CleanRules { dirty_ratio_min: 1.0, ..RULES }));
        assert!(!Dirt::of(&log(&[], 0), &RULES, NOW_MS).is_due(&RULES));
    }

    #[test]
    fn what_waits_too_long_is_due_whatever_the_ratio() {
        let closed = segments(&[1_000, 50_000, 60_000, 70_000]);
        let rules = CleanRules { lag_max_ms: 40_000, dirty_ratio_min: 1.0, ..RULES };
        let at = |cleaned_to, now_ms| Dirt::of(&log(&closed, cleaned_to), &rules, now_ms);
        let (overdue, in_time) = (at(10, 89_996), at(10, 89_995));
        assert_eq!((overdue.overdue_ms, overdue.is_due(&rules), overdue.look_again_ms), (1, true, None));
        assert_eq!((in_time.overdue_ms, in_time.is_due(&rules)), (0, false));
        // Time alone makes it due, and not a millisecond before.
        assert_eq!(in_time.look_again_ms, Some(89_996));
        // What is clean does not wait.
        assert_eq!(at(40, 1_000_000).overdue_ms, 0);
        // Nobody looked, or there is no timestamp.
        let mut unknown = closed.clone();
        unknown.iter_mut().for_each(|segment| segment.first_ms = None);
        unknown[0].first_ms = Some(-1);
        assert_eq!(Dirt::of(&log(&unknown, 0), &rules, NOW_MS).overdue_ms, 0);
        // Without that limit nothing is ever overdue.
        let dirt = Dirt::of(&log(&closed, 0), &RULES, i64::MAX);
        assert_eq!((dirt.overdue_ms, dirt.look_again_ms), (0, None));
    }

    #[test]
    fn what_is_too_young_says_when_it_will_not_be() {
        let closed = segments(&[1_000, 95_000, 2_000]);
        let rules = CleanRules { lag_min_ms: 10_000, ..RULES };
        let mut young = log(&closed, 0);
        let dirt = Dirt::of(&young, &rules, NOW_MS);
        assert_eq!((dirt.uncleanable, dirt.look_again_ms), (Offset(10), Some(105_000)));
        assert_eq!(Dirt::of(&young, &rules, 104_999).uncleanable, Offset(10));
        assert_eq!(Dirt::of(&young, &rules, 105_000).uncleanable, Offset(30));
        young.last_stable = Offset(15);
        assert_eq!(Dirt::of(&young, &rules, NOW_MS).look_again_ms, None);
    }

    #[test]
    fn the_longest_overdue_goes_first_and_then_the_dirtiest() {
        let clean = Dirt::of(&log(&[], 0), &RULES, NOW_MS);
        let dirt =
            |overdue_ms, clean_bytes, dirty_bytes| Dirt { overdue_ms, clean_bytes, dirty_bytes, ..clean };
        let in_order = [
            dirt(0, 100, 0),
            dirt(0, 100, 1),
            dirt(0, u64::MAX / 4, u64::MAX / 4),
            dirt(0, u64::MAX / 4, u64::MAX / 4 + 1),
            dirt(0, 0, 5),
            dirt(1, 9, 1),
            dirt(1, 8, 2),
            dirt(2, 9, 1),
        ];
        assert!(in_order.iter().is_sorted_by(|a, b| a.urgency(b) == Ordering::Less));
        assert_eq!(dirt(3, 1, 1).urgency(&dirt(3, 7, 7)), Ordering::Equal);
    }

    #[test]
    fn groups_end_where_they_would_become_too_large_or_too_long() {
        let mut closed = segments(&[1_000, 2_000, 3_000, 90_000, 91_000]);
        let rules = GroupRules { segment_bytes: 250, newest_apart_ms_max: None };
        let between = |closed: &[Segment], log_start: i64, mapped_to: Offset, rules: GroupRules| {
            let groups = groups(closed, Offset(log_start), mapped_to, &rules);
            groups.into_iter().map(|group| (group.start, group.end)).collect::<Vec<_>>()
        };
        let all = |rules| between(&segments(&[1_000, 2_000, 3_000, 90_000, 91_000]), 0, Offset(50), rules);
        assert_eq!(all(rules), [(0, 2), (2, 4), (4, 5)]);
        let everything = GroupRules { segment_bytes: 500, ..rules };
        assert_eq!(all(everything), [(0, 5)]);
        let alone = GroupRules { segment_bytes: 1, ..rules };
        assert_eq!(all(alone), [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]);
        // Of a log that is also deleted by time, only what goes at about the same time.
        let apart = |ms| GroupRules { newest_apart_ms_max: Some(ms), ..everything };
        assert_eq!(all(apart(2_000)), [(0, 3), (3, 5)]);
        assert_eq!(all(apart(1_999)), [(0, 2), (2, 3), (3, 5)]);
        // Only what is mapped in part at least, and not what is below the log start.
        assert_eq!(between(&closed, 10, Offset(30), everything), [(1, 3)]);
        assert_eq!(between(&closed, 19, Offset(31), everything), [(1, 4)]);
        assert_eq!(between(&closed, 0, Offset(0), everything), []);
        // No segment spans more offsets than a batch could.
        closed[2].end = Offset(i64::from(i32::MAX));
        closed[3] = Segment { base: closed[2].end, end: closed[2].end.plus(1), ..closed[3] };
        closed.truncate(4);
        assert_eq!(between(&closed, 0, closed[3].end, everything), [(0, 3), (3, 4)]);
    }

    proptest! {
        /// Every segment that is mapped is in one group, in order, and no two could be one.
        #[test]
        fn groups_are_all_of_it_and_as_few_as_can_be(
            sizes in prop::collection::vec((1u64..500, 0i64..100_000), 1..30),
            segment_bytes in 1u64..1_500,
            apart in prop::option::of(0i64..100_000),
            log_start in 0i64..320,
            mapped_to in 0i64..320,
        ) {
            let (bytes, newest_ms): (Vec<_>, Vec<_>) = sizes.into_iter().unzip();
            let mut closed = segments(&newest_ms);
            closed.iter_mut().zip(&bytes).for_each(|(segment, bytes)| segment.bytes = *bytes);
            let rules = GroupRules { segment_bytes, newest_apart_ms_max: apart };
            let groups = groups(&closed, Offset(log_start), Offset(mapped_to), &rules);
            let grouped: Vec<_> = groups.iter().cloned().flatten().collect();
            let expected: Vec<_> = (0..closed.len())
                .filter(|at| closed[*at].end.0 > log_start && closed[*at].base.0 < mapped_to)
                .collect();
            prop_assert_eq!(grouped, expected);
            let fits = |range: Range<usize>| {
                let of = &closed[range];
                let times = of.iter().map(|segment| segment.newest_ms);
                let apart_ms = times.clone().max().unwrap() - times.min().unwrap();
                of.iter().map(|segment| segment.bytes).sum::<u64>() <= segment_bytes
                    && apart.is_none_or(|max| apart_ms <= max)
            };
            for group in &groups {
                prop_assert!(group.len() == 1 || fits(group.clone()));
            }
            for pair in groups.windows(2) {
                prop_assert!(!fits(pair[0].start..pair[1].start + 1));
            }
        }

        /// A round never takes what it must not, and what it takes is dirty.
        #[test]
        fn the_part_to_clean_is_whole_segments_that_may_be_cleaned(
            newest_ms in prop::collection::vec(0i64..100_000, 0..12),
            cleaned_to in 0i64..150,
            log_start in 0i64..130,
            last_stable in 0i64..150,
            lag_min_ms in 0i64..100_000,
        ) {
            let closed = segments(&newest_ms);
            let (log_start, last_stable) = (Offset(log_start), Offset(last_stable));
            let log = Log { log_start, last_stable, ..log(&closed, cleaned_to) };
            let rules = CleanRules { lag_min_ms, ..RULES };
            let dirt = Dirt::of(&log, &rules, NOW_MS);
            prop_assert!(dirt.first_dirty >= log_start && dirt.first_dirty <= dirt.uncleanable);
            if dirt.uncleanable > dirt.first_dirty {
                prop_assert!(dirt.uncleanable <= last_stable);
                prop_assert!(closed.iter().any(|segment| segment.end == dirt.uncleanable));
            }
            let taken = |segment: &&Segment| {
                segment.end > dirt.first_dirty && segment.end <= dirt.uncleanable
            };
            let bytes = closed.iter().filter(taken).map(|segment| segment.bytes).sum::<u64>();
            prop_assert_eq!(bytes, dirt.dirty_bytes);
            for segment in closed.iter().filter(taken) {
                prop_assert!(lag_min_ms == 0 || segment.newest_ms + lag_min_ms <= NOW_MS);
            }
            // It stops for a reason.
            let next = closed.iter().find(|segment| segment.end > dirt.uncleanable.max(log_start));
            if let Some(next) = next {
                prop_assert!(next.end > last_stable || next.newest_ms + lag_min_ms > NOW_MS);
            }
        }
    }
}
