//! Units of time, and axes that people can read.

use std::fmt;
use std::str::FromStr;

/// A unit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds.
    Nanoseconds,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
}

impl Unit {
    /// So many nanoseconds are one.
    #[must_use]
    pub fn ns(self) -> u32 {
        match self {
            Self::Nanoseconds => 1,
            Self::Microseconds => 1_000,
            Self::Milliseconds => 1_000_000,
        }
    }

    /// Its name in names of columns: `us`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
        }
    }

    /// Its symbol: `µs`.
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Microseconds => "µs",
            Self::Nanoseconds | Self::Milliseconds => self.name(),
        }
    }
}

impl FromStr for Unit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ns" => Ok(Self::Nanoseconds),
            "us" | "µs" => Ok(Self::Microseconds),
            "ms" => Ok(Self::Milliseconds),
            _ => Err("one of ns, us, ms"),
        }
    }
}

/// A time in the unit in which it is easiest to read, with three digits: `1.23 ms`.
#[derive(Debug, Clone, Copy)]
pub struct Time(pub f64);

impl fmt::Display for Time {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(ns) = *self;
        let (value, unit) = match ns {
            // What three digits would round up to the next unit is in the next unit.
            _ if ns < 999.5 => (ns, "ns"),
            _ if ns < 999.5e3 => (ns / 1e3, "µs"),
            _ if ns < 999.5e6 => (ns / 1e6, "ms"),
            _ => (ns / 1e9, "s"),
        };
        let decimals = match value {
            _ if unit == "ns" || value >= 99.95 => 0,
            _ if value >= 9.995 => 1,
            _ => 2,
        };
        out.pad(&format!("{value:.decimals$} {unit}"))
    }
}

/// A round time of an axis, without needless zeros: `500 µs`, `1 s`.
#[derive(Debug, Clone, Copy)]
pub struct RoundTime(pub f64);

impl fmt::Display for RoundTime {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(ns) = *self;
        let (value, unit) = match ns {
            _ if ns < 1e3 => (ns, "ns"),
            _ if ns < 1e6 => (ns / 1e3, "µs"),
            _ if ns < 1e9 => (ns / 1e6, "ms"),
            _ => (ns / 1e9, "s"),
        };
        out.pad(&format!("{value} {unit}"))
    }
}

/// A number with its thousands apart.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|it| str::from_utf8(it).ok()).collect();
    groups.join(",")
}

/// A line of an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tick {
    /// Where.
    pub value: f64,
    /// Whether it has a label.
    pub is_major: bool,
}

/// A logarithmic axis of latencies in ns: a little more than what is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogAxis {
    /// Its lower end, in ns.
    pub low: f64,
    /// Its upper end, in ns.
    pub high: f64,
}

impl LogAxis {
    /// An axis for values from `low` to `high`, in ns, that ends at round numbers.
    #[must_use]
    pub fn around(low: f64, high: f64) -> Self {
        let low = low.max(1.0);
        let high = high.max(low);
        let (mut from, mut to) = (round_down(low), round_up(high));
        // Less than half a decade would make noise look like a mountain.
        while to / from < 4.0 {
            if low / from < to / high && from > 1.0 {
                from = round_down(from * 0.99);
            } else {
                to = round_up(to * 1.01);
            }
        }
        Self { low: from, high: to }
    }

    /// Where a value is: 0 at the lower end, 1 at the upper.
    #[must_use]
    pub fn position(self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        (value / self.low).ln() / (self.high / self.low).ln()
    }

    /// The value at a position.
    #[must_use]
    pub fn value(self, position: f64) -> f64 {
        self.low * (self.high / self.low).powf(position)
    }

    /// Its lines, from the lower end: 1, 2, … 9 of every decade. Of few decades, 2 and 5 have
    /// labels too.
    #[must_use]
    pub fn ticks(self) -> Vec<Tick> {
        let decades = (self.high / self.low).log10();
        let mut ticks = Vec::new();
        let mut decade = 10_f64.powf(self.low.log10().floor());
        while decade <= self.high * 1.001 {
            for step in 1..10_u8 {
                let value = f64::from(step) * decade;
                if value < self.low * 0.999 || value > self.high * 1.001 {
                    continue;
                }
                let is_major = step == 1 || (decades < 3.2 && (step == 2 || step == 5));
                ticks.push(Tick { value, is_major });
            }
            decade *= 10.0;
        }
        ticks
    }
}

/// The round number (1, 2 or 5 times a power of ten) at or below.
fn round_down(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    let step = [5.0, 2.0, 1.0].into_iter().find(|step| step * decade <= value * 1.000_001);
    step.unwrap_or(1.0) * decade
}

/// The round number at or above.
fn round_up(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().find(|step| step * decade >= value * 0.999_999);
    step.unwrap_or(10.0) * decade
}

/// Round steps of a linear axis from 0 or above: at most `most` lines.
#[must_use]
pub fn linear_ticks(low: f64, high: f64, most: u32) -> Vec<f64> {
    let span = high - low;
    if !span.is_finite() || span <= 0.0 {
        return vec![low];
    }
    let step = round_up(span / f64::from(most));
    let mut ticks = Vec::new();
    let mut index = (low / step - 1e-6).ceil();
    while index * step <= high + step * 1e-6 && ticks.len() <= 64 {
        ticks.push(index * step);
        index += 1.0;
    }
    ticks
}

/// Moves labels apart, each as little as need be: `gap` between two, all above `bottom`.
#[must_use]
pub fn apart(places: &[f64], gap: f64, top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by(|a, b| places[*a].total_cmp(&places[*b]));
    let mut moved = places.to_vec();
    let mut free_from = top;
    for at in &order {
        moved[*at] = moved[*at].max(free_from);
        free_from = moved[*at] + gap;
    }
    let mut free_to = bottom;
    for at in order.iter().rev() {
        moved[*at] = moved[*at].min(free_to);
        free_to = moved[*at] - gap;
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_the_unit_that_reads_best() {
        let text = |ns: f64| Time(ns).to_string();
        assert_eq!(text(0.0), "0 ns");
        assert_eq!(text(999.4), "999 ns");
        assert_eq!(text(999.6), "1.00 µs");
        assert_eq!(text(12_345.0), "12.3 µs");
        assert_eq!(text(999_600.0), "1.00 ms");
        assert_eq!(text(123_456_789.0), "123 ms");
        assert_eq!(text(12_345_678_901.0), "12.3 s");
        assert_eq!(RoundTime(500_000.0).to_string(), "500 µs");
        assert_eq!(RoundTime(2e9).to_string(), "2 s");
    }

    #[test]
    fn an_axis_encloses_what_it_shows_and_ends_at_round_numbers() {
        let axis = LogAxis::around(123_456.0, 7_890_123.0);
        assert_eq!((axis.low.round(), axis.high.round()), (100_000.0, 10_000_000.0));
        assert!(axis.position(axis.low).abs() < 1e-9 && (axis.position(axis.high) - 1.0).abs() < 1e-9);
        assert!((axis.value(axis.position(5e5)) / 5e5 - 1.0).abs() < 1e-9);
        assert!(axis.ticks().iter().filter(|it| it.is_major).count() >= 5);
        for (low, high) in [(0.0, 0.0), (1.0, 1.0), (1e18, 1.8e19), (5.0, 1e19), (3.0, f64::INFINITY)] {
            let axis = LogAxis::around(low, high.min(2e19));
            assert!(axis.low <= low.max(1.0) * 1.001 && axis.high >= high.min(2e19) * 0.999, "{axis:?}");
            assert!(axis.high / axis.low >= 3.99);
        }
    }

    #[test]
    fn steps_of_an_axis_are_round() {
        assert_eq!(linear_ticks(0.0, 60.0, 8), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        assert_eq!(linear_ticks(3.0, 3.0, 8), [3.0]);
    }

    #[test]
    fn labels_keep_their_distance_and_their_order() {
        assert_eq!(apart(&[10.0, 12.0, 100.0], 16.0, 0.0, 200.0), [10.0, 26.0, 100.0]);
        assert_eq!(apart(&[199.0, 198.0], 16.0, 0.0, 200.0), [200.0, 184.0]);
    }
}
