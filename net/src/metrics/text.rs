//! Prometheus' text format, version 0.0.4: families of samples, one a line.

use std::fmt::{Display, Write};

use corelog_engine::metric::{Scale, Snapshot};

use super::names::Metric;

/// A label's value.
pub(super) type Label<'a> = &'a dyn Display;

/// Enough for a node of a few shards.
const TEXT_BYTES: usize = 64 << 10;

const NANOSECONDS: f64 = 1e9;

/// The text so far.
pub(super) struct Text(String);

// Writing to a string cannot fail.
impl Text {
    pub(super) fn new() -> Self {
        Self(String::with_capacity(TEXT_BYTES))
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }

    /// Begins a family. It may have no sample yet.
    pub(super) fn introduce(&mut self, metric: &Metric) {
        let Metric { name, kind, help } = metric;
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A family of one sample without labels.
    pub(super) fn alone(&mut self, metric: &Metric, value: impl Display) {
        self.introduce(metric);
        self.sample(metric, &[], value);
    }

    pub(super) fn sample(&mut self, metric: &Metric, labels: &[(&str, Label<'_>)], value: impl Display) {
        self.line(metric.name, "", labels, value);
    }

    /// A histogram of one set of labels. Sum and count are those of the buckets.
    pub(super) fn histogram(&mut self, metric: &Metric, labels: &[(&str, Label<'_>)], times: &Snapshot) {
        let per_unit = match times.scale {
            Scale::Durations => NANOSECONDS,
            Scale::Counts | Scale::Sizes => 1.0,
        };
        let bounds = times.scale.bounds().iter().map(|bound| (*bound as f64 / per_unit).to_string());
        let bounds = bounds.chain(["+Inf".to_owned()]);
        let mut below = 0;
        for (bound, count) in bounds.zip(&times.counts) {
            below += count;
            let with_bound: Vec<_> = labels.iter().copied().chain([("le", &bound as Label<'_>)]).collect();
            self.line(metric.name, "_bucket", &with_bound, below);
        }
        self.line(metric.name, "_sum", labels, times.sum as f64 / per_unit);
        self.line(metric.name, "_count", labels, below);
    }

    fn line(&mut self, name: &str, suffix: &str, labels: &[(&str, Label<'_>)], value: impl Display) {
        let _ = write!(self.0, "{name}{suffix}");
        for (index, (label, value)) in labels.iter().enumerate() {
            let begin = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{begin}{label}=\"");
            let _ = write!(Escaped(&mut self.0), "{value}");
            self.0.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}

/// Writes a label's value.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

/// A length as metrics have it.
pub(super) fn wide(value: usize) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use corelog_engine::metric::Histogram;

    use super::super::names::{BUILD_INFO, STAGE_SECONDS};
    use super::*;

    #[test]
    fn values_of_labels_are_escaped() {
        let mut text = Text::new();
        text.sample(&BUILD_INFO, &[("version", &"a\"b\\c\nd"), ("revision", &1)], 1);
        assert_eq!(text.into_string(), "corelog_build_info{version=\"a\\\"b\\\\c\\nd\",revision=\"1\"} 1\n");
    }

    #[test]
    fn buckets_are_cumulative_and_in_seconds() {
        let histogram = Histogram::of_durations();
        for value in [1_500, 1_500, 40_000, 20_000_000_000] {
            histogram.record(value);
        }
        let mut text = Text::new();
        text.histogram(&STAGE_SECONDS, &[("stage", &"queue")], &histogram.snapshot());
        let text = text.into_string();
        for line in [
            "_bucket{stage=\"queue\",le=\"0.000001\"} 0",
            "_bucket{stage=\"queue\",le=\"0.000002\"} 2",
            "_bucket{stage=\"queue\",le=\"0.00005\"} 3",
            "_bucket{stage=\"queue\",le=\"10\"} 3",
            "_bucket{stage=\"queue\",le=\"+Inf\"} 4",
            "_sum{stage=\"queue\"} 20.000043",
            "_count{stage=\"queue\"} 4",
        ] {
            let line = format!("{}{line}", STAGE_SECONDS.name);
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }
}
