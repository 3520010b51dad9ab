//! A distribution in its course: how often which latency was seen when.
//!
//! Coarser than a histogram, for pictures: [`BINS_PER_OCTAVE`] steps for each doubling of the
//! latency. However long a log is, there are at most [`SLICES_MAX`] slices of time: when there
//! would be more, neighbours become one.

use std::collections::BTreeMap;

/// Latency bins for each doubling.
pub const BINS_PER_OCTAVE: u32 = 8;
/// How many slices of time are kept.
pub const SLICES_MAX: usize = 240;

/// What was seen in a slice of time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slice {
    /// When it begins, in seconds.
    pub start_s: f64,
    /// When it ends, in seconds.
    pub end_s: f64,
    /// Samples by bin; see [`bin`].
    pub counts: BTreeMap<u16, u64>,
}

impl Slice {
    fn absorb(&mut self, other: Self) {
        self.start_s = self.start_s.min(other.start_s);
        self.end_s = self.end_s.max(other.end_s);
        for (bin, count) in other.counts {
            *self.counts.entry(bin).or_default() += count;
        }
    }
}

/// Slices in the order in which they were added.
#[derive(Debug, Clone, PartialEq)]
pub struct OverTime {
    slices: Vec<Slice>,
    /// So many intervals make a slice.
    intervals_per_slice: u64,
    /// So many are in the last one.
    intervals_in_last: u64,
}

impl Default for OverTime {
    fn default() -> Self {
        Self { slices: Vec::new(), intervals_per_slice: 1, intervals_in_last: 1 }
    }
}

impl OverTime {
    /// Adds an interval: values in ns with how often each was seen.
    pub fn add(&mut self, start_s: f64, end_s: f64, values: impl IntoIterator<Item = (u64, u64)>) {
        let mut slice = Slice { start_s, end_s, counts: BTreeMap::new() };
        for (value, count) in values {
            *slice.counts.entry(bin(value)).or_default() += count;
        }
        match self.slices.last_mut() {
            Some(last) if self.intervals_in_last < self.intervals_per_slice => {
                last.absorb(slice);
                self.intervals_in_last += 1;
            }
            _ => {
                self.slices.push(slice);
                self.intervals_in_last = 1;
            }
        }
        // An even number, so that the last pair is whole.
        if self.slices.len() == SLICES_MAX && self.intervals_in_last == self.intervals_per_slice {
            self.halve();
        }
    }

    fn halve(&mut self) {
        let mut slices = std::mem::take(&mut self.slices).into_iter();
        while let Some(mut slice) = slices.next() {
            if let Some(next) = slices.next() {
                slice.absorb(next);
            }
            self.slices.push(slice);
        }
        self.intervals_per_slice *= 2;
        self.intervals_in_last = self.intervals_per_slice;
    }

    /// What there is.
    #[must_use]
    pub fn slices(&self) -> &[Slice] {
        &self.slices
    }
}

/// The bin of a latency in ns; 0 is in that of 1.
#[must_use]
pub fn bin(ns: u64) -> u16 {
    let ns = ns.max(1);
    let octave = ns.ilog2();
    // The leading bits below the first: a step is linear within an octave, and the next octave's
    // begin where these end.
    let bits = BINS_PER_OCTAVE.ilog2();
    let fraction = if octave >= bits { ns >> (octave - bits) } else { ns << (bits - octave) };
    let within = fraction & u64::from(BINS_PER_OCTAVE - 1);
    let bin = u64::from(octave * BINS_PER_OCTAVE) + within;
    u16::try_from(bin).expect("64 octaves of eight bins")
}

/// Where a bin begins, in ns.
#[must_use]
pub fn bin_start_ns(bin: u16) -> f64 {
    let (octave, within) = (u32::from(bin) / BINS_PER_OCTAVE, u32::from(bin) % BINS_PER_OCTAVE);
    (1.0 + f64::from(within) / f64::from(BINS_PER_OCTAVE)) * f64::from(octave).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_in_its_bin() {
        for ns in (0..2_000_u32).chain((0..32).map(|bits| u32::MAX >> bits)) {
            let bin = bin(u64::from(ns));
            let value = f64::from(ns.max(1));
            assert!(bin_start_ns(bin) <= value && value < bin_start_ns(bin + 1), "{ns} {bin}");
        }
        assert_eq!(bin(u64::MAX), 511);
    }

    #[test]
    fn however_long_a_log_is_nothing_is_lost_and_slices_are_few() {
        let mut over_time = OverTime::default();
        for second in 0..10_003_u32 {
            let start = f64::from(second);
            over_time.add(start, start + 1.0, [(1_000, 1), (u64::from(second), 2)]);
            assert!(over_time.slices().len() <= SLICES_MAX);
        }
        let slices = over_time.slices();
        assert_eq!(slices.iter().flat_map(|it| it.counts.values()).sum::<u64>(), 30_009);
        assert_eq!(slices.first().map(|it| it.start_s), Some(0.0));
        assert_eq!(slices.last().map(|it| it.end_s), Some(10_003.0));
        assert!(slices.windows(2).all(|pair| pair[0].end_s == pair[1].start_s));
    }
}
