//! A distribution as a percentile file (`.hgrm`): the table that HdrHistogram's
//! `outputPercentileDistribution` prints, and that its plotter draws.
//!
//! Only writes; `hist` reads it.

use std::io::{self, Write};

use hdrhistogram::Histogram;

/// Lines for each halving of what is left to 100%, as `HistogramLogProcessor` has it by default.
pub const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Writes the distribution. Values are divided by `scale_ns_per_unit`: by 1e6 for milliseconds,
/// which is what the Java tools print.
///
/// # Errors
///
/// Those of writing.
pub fn write_hgrm(mut out: impl Write, histogram: &Histogram<u64>, scale_ns_per_unit: f64) -> io::Result<()> {
    let digits = usize::from(histogram.sigfig());
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let (total, mut below) = (histogram.len(), 0);
    let mut ticks = Ticks { percent: 0.0 };
    for it in histogram.iter_recorded() {
        below += it.count_at_value();
        let value = float(it.value_iterated_to()) / scale_ns_per_unit;
        while 100.0 * float(below) / float(total) >= ticks.percent {
            let quantile = ticks.percent / 100.0;
            let (shown, rest) = (half_up(quantile), 1.0 / (1.0 - quantile));
            writeln!(out, "{value:12.digits$} {shown:2.12} {below:10} {rest:14.2}")?;
            ticks.advance();
            if below == total {
                writeln!(out, "{value:12.digits$} {:2.12} {below:10}", 1.0)?;
                break;
            }
        }
    }
    let mean = histogram.mean() / scale_ns_per_unit;
    let deviation = histogram.stdev() / scale_ns_per_unit;
    let max = float(histogram.max()) / scale_ns_per_unit;
    let count = histogram.len();
    writeln!(out, "#[Mean    = {mean:12.digits$}, StdDeviation   = {deviation:12.digits$}]")?;
    writeln!(out, "#[Max     = {max:12.digits$}, Total count    = {count:12}]")?;
    writeln!(
        out,
        "#[Buckets = {:12}, SubBuckets     = {:12}]",
        histogram.buckets(),
        sub_buckets(histogram.sigfig())
    )
}

/// Where lines are: so many to the half of what is left to 100%, then as many to the half of that.
/// Computed as Java does it, to the last bit; the crate's own iterator rounds differently, and then
/// shows another sample wherever a tick falls exactly between two.
struct Ticks {
    percent: f64,
}

impl Ticks {
    fn advance(&mut self) {
        let halvings = ((100.0 / (100.0 - self.percent)).ln() / 2_f64.ln()).trunc();
        self.percent += 100.0 / (f64::from(TICKS_PER_HALF_DISTANCE) * (halvings + 1.0).exp2());
    }
}

/// Java rounds a half up where Rust rounds it to even: a quantile to its twelve decimals.
fn half_up(quantile: f64) -> f64 {
    (quantile * 1e12 + 0.5).floor() / 1e12
}

/// How many equal steps a bucket has at this precision: what it takes to tell values apart that
/// differ in the last of `digits` digits, as a power of two.
fn sub_buckets(digits: u8) -> u64 {
    (2 * 10_u64.pow(u32::from(digits))).next_power_of_two()
}

#[expect(clippy::cast_precision_loss, reason = "a histogram has five digits at the most")]
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by the Java library, 2.2.2, of the same values.
    const JAVA: &str = include_str!("../../tests/data/java.hgrm");

    fn text(histogram: &Histogram<u64>) -> String {
        let mut out = Vec::new();
        write_hgrm(&mut out, histogram, 1e6).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_table_is_the_one_that_java_prints() {
        let mut histogram = Histogram::new(3).unwrap();
        // Ticks fall exactly between two of so many values, which is where rounding shows.
        for step in 1..=10_000_u64 {
            histogram.record(step * step * 10).unwrap();
        }
        assert_eq!(text(&histogram), JAVA);
    }

    #[test]
    fn of_nothing_there_is_an_empty_table() {
        let empty = text(&Histogram::new(3).unwrap());
        assert_eq!(empty.lines().count(), 5, "{empty}");
        assert!(empty.contains("Total count    =            0]"), "{empty}");
    }
}
