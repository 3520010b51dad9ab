//! A histogram in a few numbers.

use hdrhistogram::Histogram;

use super::report::Latency;
use crate::hist::summary::{is_borne_by, quantile};

/// Percentiles of a report: what they are called there, and what share in a million lies at or
/// below.
const PERCENTILES: [(&str, u32); 8] = [
    ("50", 500_000),
    ("75", 750_000),
    ("90", 900_000),
    ("95", 950_000),
    ("99", 990_000),
    ("99.9", 999_000),
    ("99.99", 999_900),
    ("99.999", 999_990),
];

/// The numbers of a histogram in nanoseconds. A percentile is left out when fewer than 10 samples
/// lie beyond it. Largest and percentiles are the upper ends of the histogram's buckets, as its own
/// tools print them.
#[must_use]
pub fn summarize(histogram: &Histogram<u64>) -> Latency {
    let samples = histogram.len();
    if samples == 0 {
        return Latency::default();
    }
    let percentiles = PERCENTILES.iter().filter(|(_, share)| is_borne_by(samples, *share));
    let percentiles_us = percentiles
        .map(|(name, share)| ((*name).to_owned(), us(histogram.value_at_quantile(quantile(*share)))));
    Latency {
        samples,
        min_us: us(histogram.min()),
        mean_us: histogram.mean() / 1e3,
        max_us: us(histogram.max()),
        percentiles_us: percentiles_us.collect(),
    }
}

fn us(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(nanos: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).unwrap();
        nanos.into_iter().for_each(|it| histogram.record(it).unwrap());
        histogram
    }

    #[test]
    fn a_percentile_needs_ten_samples_beyond_it() {
        let names = |samples: u64| {
            let latency = summarize(&of((0..samples).map(|it| 1000 + it)));
            latency.percentiles_us.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(names(19), Vec::<String>::new());
        assert_eq!(names(20), ["50"]);
        assert_eq!(names(999), ["50", "75", "90", "95"]);
        assert_eq!(names(1_000), ["50", "75", "90", "95", "99"]);
        assert_eq!(names(99_999), ["50", "75", "90", "95", "99", "99.9"]);
        assert_eq!(names(1_000_000), ["50", "75", "90", "95", "99", "99.9", "99.99", "99.999"]);
    }

    #[test]
    fn numbers_are_in_microseconds_and_exact_to_three_digits() {
        let latency = summarize(&of((1..=10_000).map(|it| it * 1_000)));
        assert_eq!(latency.samples, 10_000);
        let close = |have: f64, want: f64| assert!((have / want - 1.0).abs() < 0.001, "{have} for {want}");
        close(latency.min_us, 1.0);
        close(latency.mean_us, 5_000.5);
        close(latency.max_us, 10_000.0);
        close(latency.percentiles_us["50"], 5_000.0);
        close(latency.percentiles_us["99.9"], 9_990.0);
    }

    #[test]
    fn nothing_measured_is_all_zeros() {
        assert_eq!(summarize(&of([])), Latency::default());
    }
}
