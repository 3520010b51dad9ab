//! The numbers of a distribution, as far as its samples bear them.

use hdrhistogram::Histogram;

use super::read::Recording;

/// A percentile needs so many samples beyond it.
pub const SAMPLES_BEYOND_MIN: u64 = 10;

/// The percentiles that are printed: their name, and what share in a million lies at or below.
pub const PERCENTILES: [(&str, u32); 6] = [
    ("50", 500_000),
    ("90", 900_000),
    ("99", 990_000),
    ("99.9", 999_000),
    ("99.99", 999_900),
    ("99.999", 999_990),
];

/// A distribution in numbers, all times in ns.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// How many were measured.
    pub samples: u64,
    /// Smallest.
    pub min_ns: u64,
    /// Arithmetic mean.
    pub mean_ns: f64,
    /// Largest.
    pub max_ns: u64,
    /// In the order of [`PERCENTILES`]; none where fewer than [`SAMPLES_BEYOND_MIN`] lie beyond.
    pub percentiles_ns: [Option<u64>; PERCENTILES.len()],
}

impl Summary {
    /// Of a histogram in ns.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let samples = histogram.len();
        let percentile = |(_, share): (&str, u32)| {
            is_borne_by(samples, share).then(|| histogram.value_at_quantile(quantile(share)))
        };
        Self {
            samples,
            min_ns: histogram.min(),
            mean_ns: histogram.mean(),
            max_ns: histogram.max(),
            percentiles_ns: PERCENTILES.map(percentile),
        }
    }
}

impl Summary {
    /// Of what a file holds, with the mean that the file states.
    #[must_use]
    pub fn of_recording(recording: &Recording) -> Self {
        let summary = Self::of(&recording.histogram);
        Self { mean_ns: recording.stated_mean_ns.unwrap_or(summary.mean_ns), ..summary }
    }
}

/// Whether enough samples lie beyond the percentile that `share` of a million stands for.
#[must_use]
pub fn is_borne_by(samples: u64, share: u32) -> bool {
    let beyond = u128::from(samples) * u128::from(1_000_000 - share);
    beyond >= u128::from(SAMPLES_BEYOND_MIN) * 1_000_000
}

/// A share of a million as a quantile.
#[must_use]
pub fn quantile(share: u32) -> f64 {
    f64::from(share) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_with_too_few_samples_beyond_is_left_out() {
        let mut histogram = Histogram::new(3).unwrap();
        for value in 1..=9_999_u64 {
            histogram.record(value).unwrap();
        }
        assert_eq!(
            Summary::of(&histogram).percentiles_ns,
            [Some(5_003), Some(9_007), Some(9_903), None, None, None]
        );
        histogram.record(10_000).unwrap();
        assert_eq!(Summary::of(&histogram).percentiles_ns[3], Some(9_991));
        assert_eq!(Summary::of(&Histogram::new(3).unwrap()).percentiles_ns, [None; 6]);
    }
}
