//! Counters and histograms that cost next to nothing to write.
//!
//! Each has one writer, its shard, and any reader: the numbers are atomics that are loaded and
//! stored, never read-modify-written, which compiles to plain moves. Nothing here locks, allocates
//! or reads a clock; whoever measures hands the two times over.
//!
//! A histogram's buckets are those that are exported, with bounds that never change: a value is in
//! the bucket that Prometheus wants it in, exactly, and a scrape copies two dozen numbers. (A finer
//! histogram, such as HdrHistogram's, would have to be folded into these bounds, which are not its
//! own, by the shard that is being measured.)

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use corelog_runtime::time::Instant;

/// More bounds than any scale has.
const BUCKETS_MAX: usize = 24;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

/// 1, 2, 5 to the decade from 1 µs to 10 s, in ns.
const DURATIONS: [u64; 22] = [
    US,
    2 * US,
    5 * US,
    10 * US,
    20 * US,
    50 * US,
    100 * US,
    200 * US,
    500 * US,
    MS,
    2 * MS,
    5 * MS,
    10 * MS,
    20 * MS,
    50 * MS,
    100 * MS,
    200 * MS,
    500 * MS,
    S,
    2 * S,
    5 * S,
    10 * S,
];

const COUNTS: [u64; 13] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];

/// Doublings from 4 KiB to 16 MiB.
const SIZES: [u64; 13] = [
    4 << 10,
    8 << 10,
    16 << 10,
    32 << 10,
    64 << 10,
    128 << 10,
    256 << 10,
    512 << 10,
    1 << 20,
    2 << 20,
    4 << 20,
    8 << 20,
    16 << 20,
];

/// What a histogram is of, which settles its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Times in nanoseconds, from 1 µs to 10 s.
    #[default]
    Durations,
    /// Numbers of things, from 1 to 10,000.
    Counts,
    /// Bytes, from 4 KiB to 16 MiB.
    Sizes,
}

impl Scale {
    /// Inclusive upper bounds of the buckets, ascending; behind the last one is a bucket for the rest.
    pub const fn bounds(self) -> &'static [u64] {
        match self {
            Self::Durations => &DURATIONS,
            Self::Counts => &COUNTS,
            Self::Sizes => &SIZES,
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; for the one writer only.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Adds a length; for the one writer only.
    pub fn add_len(&self, len: usize) {
        self.add(len as u64);
    }

    /// The number as of now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counts values by size.
#[derive(Debug)]
pub struct Histogram {
    scale: Scale,
    buckets: [Counter; BUCKETS_MAX],
    sum: Counter,
}

impl Histogram {
    /// An empty one.
    pub fn new(scale: Scale) -> Self {
        Self { scale, buckets: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }

    /// An empty one of times.
    pub fn of_durations() -> Self {
        Self::new(Scale::Durations)
    }

    /// Counts one value; for the one writer only. Five comparisons, two loads and two stores: 3 ns.
    pub fn record(&self, value: u64) {
        let at = self.scale.bounds().partition_point(|bound| *bound < value);
        self.buckets[at].add(1);
        self.sum.add(value);
    }

    /// Counts the time from `began` to `ended`, zero if the latter is not later.
    pub fn record_time(&self, began: Instant, ended: Instant) {
        self.record(ended.as_nanos().saturating_sub(began.as_nanos()));
    }

    /// Counts the time since `began`: reads the clock.
    pub fn record_since(&self, began: Instant) {
        self.record_time(began, Instant::now());
    }

    /// The numbers as of now.
    pub fn snapshot(&self) -> Snapshot {
        let buckets = &self.buckets[..=self.scale.bounds().len()];
        Snapshot {
            scale: self.scale,
            counts: buckets.iter().map(Counter::get).collect(),
            sum: self.sum.get(),
        }
    }
}

/// What a [`Histogram`] held at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// What it is of.
    pub scale: Scale,
    /// Values by bucket, not added up; one more than there are bounds.
    pub counts: Vec<u64>,
    /// All values added up, in the scale's unit.
    pub sum: u64,
}

impl Snapshot {
    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALES: [Scale; 3] = [Scale::Durations, Scale::Counts, Scale::Sizes];

    #[test]
    fn bounds_ascend_and_fit() {
        for scale in SCALES {
            assert!(scale.bounds().is_sorted_by(|a, b| a < b), "{scale:?}");
            assert!(scale.bounds().len() < BUCKETS_MAX, "{scale:?}");
        }
    }

    #[test]
    fn a_value_is_in_the_first_bucket_whose_bound_is_not_less() {
        for scale in SCALES {
            let values: Vec<u64> =
                scale.bounds().iter().flat_map(|bound| [bound - 1, *bound, bound + 1]).collect();
            let histogram = Histogram::new(scale);
            for value in values.iter().chain(&[0, u64::MAX / 2]) {
                let before = histogram.snapshot();
                histogram.record(*value);
                let after = histogram.snapshot();
                let at = scale.bounds().iter().position(|bound| bound >= value);
                let at = at.unwrap_or(scale.bounds().len());
                assert_eq!(after.counts[at], before.counts[at] + 1, "{scale:?} {value}");
                assert_eq!(after.count(), before.count() + 1);
                assert_eq!(after.sum, before.sum + value);
            }
        }
    }
}
