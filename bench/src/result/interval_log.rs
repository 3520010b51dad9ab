//! Histograms over time, in HdrHistogram's interval log: what its Java tools, and every viewer of
//! such logs, read.
//!
//! A line per interval and metric, the metric being the tag, as version 1.3 of the format has it:
//! `Tag=response,START,LENGTH,MAX,PAYLOAD`, with START and LENGTH in seconds, and as PAYLOAD a
//! histogram of the V2 encoding, deflated, in base64. Histograms hold nanoseconds; MAX is in ms,
//! which is how the Java library writes it and is only for people. START counts from the run's
//! start, which is in the header both as `StartTime` and as `BaseTime`: without the latter, readers
//! have to guess what START counts from.
//!
//! Only writes, to whatever it is given; reads no clock.
//!
//! Source: `HistogramLogWriter` of <https://github.com/HdrHistogram/HdrHistogram>, 2.2.2.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};

use super::report::Metric;

const HEADER: &str = "#[Histogram log format version 1.3]";
const LEGEND: &str =
    "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"";
const NS_PER_MS: f64 = 1e6;

/// Writes one log. The library's own writer borrows what it writes to and its serializer, and so
/// cannot be a field of anything; its serializer is used here.
pub struct IntervalLogWriter<W> {
    out: W,
    serializer: V2DeflateSerializer,
    payload: Vec<u8>,
    line: String,
}

impl<W: Write> IntervalLogWriter<W> {
    /// Begins a log with `comments`, a line each, and the start of the run.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn new(mut out: W, started: SystemTime, comments: &[String]) -> io::Result<Self> {
        for line in comments.iter().flat_map(|comment| comment.lines()) {
            writeln!(out, "#{}", Comment(line))?;
        }
        let since_epoch_s = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let date = DateTime::<Utc>::from(started).format("%a %b %d %H:%M:%S UTC %Y");
        writeln!(out, "{HEADER}")?;
        writeln!(out, "#[BaseTime: {since_epoch_s:.3} (seconds since epoch)]")?;
        writeln!(out, "#[StartTime: {since_epoch_s:.3} (seconds since epoch), {date}]")?;
        writeln!(out, "{LEGEND}")?;
        Ok(Self { out, serializer: V2DeflateSerializer::new(), payload: Vec::new(), line: String::new() })
    }

    /// Writes what `metric` was in an interval: `histogram` in ns, `start` since the run's start.
    /// Intervals are written in the order of their starts.
    ///
    /// # Errors
    ///
    /// Those of writing; and a count above `i64::MAX`, which the encoding does not know.
    pub fn write(
        &mut self,
        metric: Metric,
        start: Duration,
        length: Duration,
        histogram: &Histogram<u64>,
    ) -> io::Result<()> {
        self.payload.clear();
        self.serializer.serialize(histogram, &mut self.payload).map_err(io::Error::other)?;
        self.line.clear();
        STANDARD.encode_string(&self.payload, &mut self.line);
        writeln!(
            self.out,
            "Tag={},{:.3},{:.3},{:.3},{}",
            metric.name(),
            start.as_secs_f64(),
            length.as_secs_f64(),
            ms(histogram.max()),
            self.line
        )
    }

    /// Flushes, and gives back what was written to.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

#[expect(clippy::cast_precision_loss, reason = "printed with three decimals")]
fn ms(ns: u64) -> f64 {
    ns as f64 / NS_PER_MS
}

/// A comment that no reader takes for one of the header's own lines, such as `#[StartTime: …]`.
struct Comment<'a>(&'a str);

impl std::fmt::Display for Comment<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.starts_with('[') {
            out.write_str(" ")?;
        }
        out.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    fn histogram(values: &[u64]) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).unwrap();
        for value in values {
            histogram.record(*value).unwrap();
        }
        histogram
    }

    #[test]
    fn a_log_is_as_the_java_library_writes_it() {
        let started = UNIX_EPOCH + Duration::from_millis(1_441_812_279_474);
        let comments = ["one\ntwo".to_owned(), "[StartTime: 1]".to_owned()];
        let mut log = IntervalLogWriter::new(Vec::new(), started, &comments).unwrap();
        let (start, length) = (Duration::from_millis(127), Duration::from_millis(1007));
        log.write(Metric::ScheduleLag, start, length, &histogram(&[2_768_895])).unwrap();
        let text = String::from_utf8(log.finish().unwrap()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..7],
            [
                "#one",
                "#two",
                "# [StartTime: 1]",
                "#[Histogram log format version 1.3]",
                "#[BaseTime: 1441812279.474 (seconds since epoch)]",
                "#[StartTime: 1441812279.474 (seconds since epoch), Wed Sep 09 15:24:39 UTC 2015]",
                "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"",
            ]
        );
        assert!(lines[7].starts_with("Tag=schedule_lag,0.127,1.007,2.769,HISTFAAAA"), "{}", lines[7]);
        assert_eq!(lines.len(), 8);
    }

    #[test]
    fn what_is_written_is_read_by_the_library() {
        let written = histogram(&[0, 1, 1_000, 1_000, 123_456_789, 1 << 40]);
        let mut log = IntervalLogWriter::new(Vec::new(), UNIX_EPOCH, &[]).unwrap();
        log.write(Metric::Response, Duration::ZERO, Duration::from_secs(1), &written).unwrap();
        log.write(Metric::Service, Duration::ZERO, Duration::from_secs(1), &histogram(&[])).unwrap();
        let bytes = log.finish().unwrap();
        let read: Vec<_> = IntervalLogIterator::new(&bytes)
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => Some((
                    interval.tag().unwrap().as_str().to_owned(),
                    STANDARD.decode(interval.encoded_histogram()).unwrap(),
                )),
                LogEntry::StartTime(_) | LogEntry::BaseTime(_) => None,
            })
            .map(|(tag, bytes)| {
                (tag, Deserializer::new().deserialize::<u64, _>(&mut bytes.as_slice()).unwrap())
            })
            .collect();
        assert_eq!(read, [("response".to_owned(), written), ("service".to_owned(), histogram(&[]))]);
    }
}
