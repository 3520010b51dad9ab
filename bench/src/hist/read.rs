//! Reads histograms from files: interval logs of any HdrHistogram library, percentile files, and
//! the directories that `corelog bench` writes.
//!
//! Files come from anywhere: whatever is in one, the result is histograms or one clear error. A
//! log is read line by line and added up per tag, so that memory does not grow with its length.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use serde::Deserialize;
use thiserror::Error;

use super::over_time::OverTime;
use super::payload::{Encoded, PayloadError};
use super::scale::Unit;

/// The longest line that is read: an encoded histogram is a few KiB.
const LINE_BYTES_MAX: u64 = 16 << 20;
/// A report is some KiB.
const REPORT_BYTES_MAX: u64 = 64 << 20;
/// More tags than that are no tags but something else in their column.
const TAGS_MAX: usize = 64;
/// Timestamps further below `StartTime` than that count from it: what `HistogramLogReader` does.
const YEAR_S: f64 = 365.0 * 24.0 * 3600.0;
/// Sums of counts stay below this, which doubles still tell apart.
const SAMPLES_MAX: u64 = 1 << 53;
/// Precision of a histogram that is made from a percentile file; more than its decimals have.
const DIGITS_OF_TABLE: u8 = 4;

const REPORT: &str = "report.json";
const LOG_EXTENSION: &str = "hlog";

/// What to read of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOptions {
    /// Only this tag.
    pub tag: Option<String>,
    /// Only intervals that begin at this time or later, in seconds since the log's start.
    pub from_s: f64,
    /// Only intervals that begin before this time.
    pub to_s: f64,
    /// The unit of the values in the files; unless given, that is nanoseconds in logs and
    /// milliseconds in percentile files, as Java's tools have it.
    pub recorded_in: Option<Unit>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { tag: None, from_s: 0.0, to_s: f64::INFINITY, recorded_in: None }
    }
}

/// What a file holds under one tag.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// The file.
    pub file: PathBuf,
    /// What to call the file: the run's name, or that of the file without its extension.
    pub source: String,
    /// The tag; logs of one histogram often have none.
    pub tag: Option<String>,
    /// All of it, in ns. From a percentile file, a value stands for those down to the line before.
    pub histogram: Histogram<u64>,
    /// Its course; empty from a percentile file.
    pub over_time: OverTime,
    /// The mean, where the file states it and the histogram is too coarse for it.
    pub stated_mean_ns: Option<f64>,
}

/// What there is to a path.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// At least one, in the order in which tags first appear.
    pub recordings: Vec<Recording>,
    /// What was tolerated, a sentence each.
    pub warnings: Vec<String>,
}

/// Why a file could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It is not there, or not to be read.
    #[error("cannot read {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It is something else.
    #[error(
        "{} is no histogram: neither an interval log of HdrHistogram (.hlog), nor a percentile file \
         (.hgrm), nor a run of corelog bench",
        path.display()
    )]
    NotAHistogram {
        /// The file.
        path: PathBuf,
    },
    /// A line of it is damaged.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: LineError,
    },
    /// It is a log, but of nothing; or nothing is left of it.
    #[error("{} holds no interval{}", path.display(), within(*from_s, *to_s))]
    Empty {
        /// The file.
        path: PathBuf,
        /// What was asked for, in seconds.
        from_s: f64,
        /// What was asked for, in seconds.
        to_s: f64,
    },
    /// Nothing has the tag that was asked for.
    #[error("{} holds nothing tagged {tag:?}: it holds {}", path.display(), names(has))]
    NoSuchTag {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        tag: String,
        /// What there is; an empty one stands for no tag.
        has: Vec<String>,
    },
    /// A report that names no log, or is none.
    #[error("{} is no report of corelog bench: {reason}", path.display())]
    Report {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

fn within(from_s: f64, to_s: f64) -> String {
    match (from_s > 0.0, to_s.is_finite()) {
        (false, false) => String::new(),
        (true, false) => format!(" from {from_s} s on"),
        (false, true) => format!(" before {to_s} s"),
        (true, true) => format!(" between {from_s} s and {to_s} s"),
    }
}

fn names(tags: &[String]) -> String {
    let name = |tag: &String| if tag.is_empty() { "one without a tag".to_owned() } else { tag.clone() };
    tags.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LineError {
    /// It is not `[Tag=NAME,]START,LENGTH,MAX,PAYLOAD`.
    #[error("it is no interval")]
    NotAnInterval,
    /// It is longer than any histogram.
    #[error("it is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// It is not `VALUE PERCENTILE COUNT`.
    #[error("it is no line of a percentile file")]
    NotAPercentile,
    /// Counts of a percentile file that decrease, or of a log whose sum is beyond all measure.
    #[error("its count is out of range")]
    Count,
    /// The payload is not in base64.
    #[error("its payload is not in base64")]
    Base64,
    /// The payload is damaged.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// There are too many tags.
    #[error("it has one tag too many: {TAGS_MAX} are the limit")]
    Tags,
}

/// Reads what `path` is: a log, a percentile file, a report, or the directory of one.
///
/// # Errors
///
/// See [`ReadError`].
pub fn read(path: &Path, options: &ReadOptions) -> Result<Reading, ReadError> {
    let io_error = |error| ReadError::Io { path: path.to_path_buf(), error };
    if std::fs::metadata(path).map_err(io_error)?.is_dir() {
        return read_directory(path, options);
    }
    let mut file = BufReader::new(File::open(path).map_err(io_error)?);
    let first = file.fill_buf().map_err(io_error)?.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'{') {
        return read_report(path, options);
    }
    let source = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    read_text(file, path, &source, options)
}

/// A run's directory: its report says where the logs are. A run that goes on, or was stopped, has
/// none; its logs are there all the same.
fn read_directory(path: &Path, options: &ReadOptions) -> Result<Reading, ReadError> {
    let report = path.join(REPORT);
    if report.exists() {
        return read_report(&report, options);
    }
    let io_error = |error| ReadError::Io { path: path.to_path_buf(), error };
    let mut logs = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io_error)? {
        let file = entry.map_err(io_error)?.path();
        if file.extension().is_some_and(|it| it == LOG_EXTENSION) {
            logs.push(file);
        }
    }
    if logs.is_empty() {
        return Err(ReadError::NotAHistogram { path: path.to_path_buf() });
    }
    logs.sort();
    let is_only = logs.len() == 1;
    let logs = logs.into_iter().map(|log| {
        let run = log.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        (log, run)
    });
    read_logs(path, logs.collect(), is_only, options)
}

/// The part of a report that says where its histograms are.
#[derive(Deserialize)]
struct ReportFiles {
    runs: Vec<RunFiles>,
}

#[derive(Deserialize)]
struct RunFiles {
    name: String,
    #[serde(default)]
    files: std::collections::BTreeMap<String, PathBuf>,
}

fn read_report(path: &Path, options: &ReadOptions) -> Result<Reading, ReadError> {
    let io_error = |error| ReadError::Io { path: path.to_path_buf(), error };
    let failed = |reason: String| ReadError::Report { path: path.to_path_buf(), reason };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io_error)?;
    file.take(REPORT_BYTES_MAX).read_to_end(&mut bytes).map_err(io_error)?;
    let report: ReportFiles = serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let logs: Vec<_> = report
        .runs
        .into_iter()
        .filter_map(|run| Some((directory.join(run.files.get(LOG_EXTENSION)?), run.name)))
        .collect();
    if logs.is_empty() {
        return Err(failed("it names no log".to_owned()));
    }
    let is_only = logs.len() == 1;
    read_logs(directory, logs, is_only, options)
}

/// The logs of one directory: its name is that of the source, with the run's behind it when there
/// are several.
fn read_logs(
    directory: &Path,
    logs: Vec<(PathBuf, String)>,
    is_only: bool,
    options: &ReadOptions,
) -> Result<Reading, ReadError> {
    let name = match directory.canonicalize() {
        Ok(full) => full.file_name().unwrap_or(full.as_os_str()).to_string_lossy().into_owned(),
        Err(_) => directory.display().to_string(),
    };
    let mut all = Reading::default();
    for (log, run) in logs {
        let source = if is_only { name.clone() } else { format!("{name}/{run}") };
        let file = File::open(&log).map_err(|error| ReadError::Io { path: log.clone(), error })?;
        let reading = read_text(BufReader::new(file), &log, &source, options)?;
        all.recordings.extend(reading.recordings);
        all.warnings.extend(reading.warnings);
    }
    Ok(all)
}

/// Reads a log or a percentile file; `path` is for errors, `source` for its name.
///
/// # Errors
///
/// See [`ReadError`].
pub fn read_text(
    text: impl BufRead,
    path: &Path,
    source: &str,
    options: &ReadOptions,
) -> Result<Reading, ReadError> {
    let mut lines = Lines { text, path, number: 0, buffer: Vec::new() };
    let mut log = Log::new(options);
    let mut is_log = false;
    while let Some(line) = lines.next()? {
        let Line { content, number, is_whole } = line;
        if content.starts_with('#') {
            is_log |= log.header(content);
            continue;
        }
        if content.is_empty() {
            continue;
        }
        if content.starts_with("\"StartTimestamp\"") {
            is_log = true;
            continue;
        }
        if !is_log && Table::is_header(content) {
            return read_table(lines, source, options);
        }
        match log.interval(content) {
            Ok(()) => is_log = true,
            Err(LineError::NotAnInterval) if !is_log => {
                return Err(ReadError::NotAHistogram { path: path.to_path_buf() });
            }
            // Whoever wrote it was interrupted, or still writes.
            Err(_) if !is_whole => {
                log.warnings.push(format!("{}: the last line is cut off and was left out", path.display()))
            }
            Err(reason) => return Err(ReadError::Line { path: path.to_path_buf(), line: number, reason }),
        }
    }
    if !is_log {
        return Err(ReadError::NotAHistogram { path: path.to_path_buf() });
    }
    log.finish(path, source)
}

/// Lines of text, none of which is longer than [`LINE_BYTES_MAX`].
struct Lines<'a, R> {
    text: R,
    path: &'a Path,
    number: u64,
    buffer: Vec<u8>,
}

struct Line<'a> {
    content: &'a str,
    /// From 1.
    number: u64,
    /// Whether its end was there.
    is_whole: bool,
}

impl<R: BufRead> Lines<'_, R> {
    fn next(&mut self) -> Result<Option<Line<'_>>, ReadError> {
        self.buffer.clear();
        self.number += 1;
        let io_error = |error| ReadError::Io { path: self.path.to_path_buf(), error };
        let length =
            (&mut self.text).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.buffer).map_err(io_error)?;
        if length == 0 {
            return Ok(None);
        }
        let is_whole = self.buffer.ends_with(b"\n");
        let is_too_long = !is_whole && u64::try_from(length) == Ok(LINE_BYTES_MAX);
        if self.number == 1 && (is_too_long || std::str::from_utf8(&self.buffer).is_err()) {
            return Err(ReadError::NotAHistogram { path: self.path.to_path_buf() });
        }
        let failed = |reason| ReadError::Line { path: self.path.to_path_buf(), line: self.number, reason };
        if is_too_long {
            return Err(failed(LineError::TooLong));
        }
        match std::str::from_utf8(&self.buffer) {
            Ok(text) => Ok(Some(Line { content: text.trim(), number: self.number, is_whole })),
            Err(_) => Err(failed(LineError::NotAnInterval)),
        }
    }
}

/// What is known of a log so far.
struct Log<'a> {
    options: &'a ReadOptions,
    start_time_s: Option<f64>,
    base_time_s: Option<f64>,
    tags: Vec<Tagged>,
    /// Those that were not asked for.
    other_tags: Vec<String>,
    warnings: Vec<String>,
}

struct Tagged {
    /// Empty stands for none.
    tag: String,
    histogram: Option<Histogram<u64>>,
    over_time: OverTime,
}

impl<'a> Log<'a> {
    fn new(options: &'a ReadOptions) -> Self {
        Self {
            options,
            start_time_s: None,
            base_time_s: None,
            tags: Vec::new(),
            other_tags: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Takes in a comment. Returns whether it is one that only a log has.
    fn header(&mut self, comment: &str) -> bool {
        let time = |prefix: &str| {
            let rest = comment.strip_prefix(prefix)?.trim_start();
            finite(rest.split([' ', ']', '(']).next()?)
        };
        if let Some(time) = time("#[StartTime:") {
            self.start_time_s = Some(time);
            return true;
        }
        if let Some(time) = time("#[BaseTime:") {
            self.base_time_s = Some(time);
            return true;
        }
        comment.starts_with("#[Histogram log format version")
    }

    /// Takes in `[Tag=NAME,]START,LENGTH,MAX,PAYLOAD`.
    fn interval(&mut self, line: &str) -> Result<(), LineError> {
        let mut fields = line.split(',').map(str::trim);
        let mut next = || fields.next().ok_or(LineError::NotAnInterval);
        let mut first = next()?;
        let mut tag = "";
        if let Some(name) = first.strip_prefix("Tag=") {
            (tag, first) = (name, next()?);
        }
        let start = finite(first).ok_or(LineError::NotAnInterval)?;
        let length_s = finite(next()?).filter(|it| *it >= 0.0).ok_or(LineError::NotAnInterval)?;
        finite(next()?).ok_or(LineError::NotAnInterval)?;
        let payload = next()?;
        if fields.next().is_some() {
            return Err(LineError::NotAnInterval);
        }
        let start_s = self.since_start_s(start);
        if self.options.tag.as_deref().is_some_and(|wanted| wanted != tag) {
            if !self.other_tags.iter().any(|it| it == tag) && self.other_tags.len() < TAGS_MAX {
                self.other_tags.push(tag.to_owned());
            }
            return Ok(());
        }
        let at = match self.tags.iter().position(|it| it.tag == tag) {
            Some(at) => at,
            None if self.tags.len() == TAGS_MAX => return Err(LineError::Tags),
            None => {
                let over_time = OverTime::default();
                self.tags.push(Tagged { tag: tag.to_owned(), histogram: None, over_time });
                self.tags.len() - 1
            }
        };
        if start_s < self.options.from_s || start_s >= self.options.to_s {
            return Ok(());
        }
        let encoded = Encoded::parse(&STANDARD.decode(payload).map_err(|_| LineError::Base64)?)?;
        let scale = u64::from(self.options.recorded_in.unwrap_or(Unit::Nanoseconds).ns());
        self.tags[at].add(&encoded, scale, start_s, start_s + length_s)
    }

    /// What a timestamp is in seconds since the log's start, as `HistogramLogReader` reads it.
    fn since_start_s(&mut self, timestamp: f64) -> f64 {
        let start = *self.start_time_s.get_or_insert(match self.base_time_s {
            // The log's start is not said: the interval's own time would then be cut off from all.
            Some(base) => base,
            None => timestamp,
        });
        let base = *self.base_time_s.get_or_insert(if timestamp < start - YEAR_S { start } else { 0.0 });
        base + timestamp - start
    }

    fn finish(self, path: &Path, source: &str) -> Result<Reading, ReadError> {
        let path = path.to_path_buf();
        let ReadOptions { from_s, to_s, .. } = *self.options;
        if let (true, Some(tag), false) =
            (self.tags.is_empty(), &self.options.tag, self.other_tags.is_empty())
        {
            return Err(ReadError::NoSuchTag { path, tag: tag.clone(), has: self.other_tags });
        }
        let mut reading = Reading { recordings: Vec::new(), warnings: self.warnings };
        for Tagged { tag, histogram, over_time } in self.tags {
            let Some(histogram) = histogram else { continue };
            reading.recordings.push(Recording {
                file: path.clone(),
                source: source.to_owned(),
                tag: Some(tag).filter(|it| !it.is_empty()),
                histogram,
                over_time,
                stated_mean_ns: None,
            });
        }
        if reading.recordings.is_empty() {
            return Err(ReadError::Empty { path, from_s, to_s });
        }
        Ok(reading)
    }
}

impl Tagged {
    fn add(&mut self, encoded: &Encoded, scale: u64, start_s: f64, end_s: f64) -> Result<(), LineError> {
        let mut counts = encoded.counts()?;
        for (value, _) in &mut counts {
            *value = scaled(*value, scale).ok_or(LineError::Count)?;
        }
        let histogram = match &mut self.histogram {
            Some(histogram) => histogram,
            none => {
                let lowest = encoded.lowest();
                let mut histogram = Histogram::new_with_bounds(lowest, 2 * lowest, encoded.digits())
                    .map_err(|_| PayloadError::Parameters)?;
                histogram.auto(true);
                none.insert(histogram)
            }
        };
        let samples = counts.iter().fold(histogram.len(), |sum, (_, count)| sum.saturating_add(*count));
        if samples > SAMPLES_MAX {
            return Err(LineError::Count);
        }
        for (value, count) in &counts {
            histogram.record_n(*value, *count).map_err(|_| LineError::Count)?;
        }
        self.over_time.add(start_s, end_s, counts);
        Ok(())
    }
}

/// None above `i64::MAX`, which is the largest value that a histogram of any library holds.
fn scaled(value: u64, scale: u64) -> Option<u64> {
    value.checked_mul(scale).filter(|it| i64::try_from(*it).is_ok())
}

fn finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|it: &f64| it.is_finite())
}

/// The table of a percentile file.
struct Table;

impl Table {
    fn cells(line: &str) -> impl Iterator<Item = &str> {
        let cells = line.split(|c: char| c == ',' || c.is_whitespace());
        cells.map(|cell| cell.trim_matches('"')).filter(|cell| !cell.is_empty())
    }

    fn is_header(line: &str) -> bool {
        Self::cells(line).take(3).eq(["Value", "Percentile", "TotalCount"])
    }

    /// Value and how many samples lie at or below.
    fn row(line: &str) -> Option<(f64, u64)> {
        let mut cells = Self::cells(line);
        let value = finite(cells.next()?).filter(|it| *it >= 0.0)?;
        finite(cells.next()?).filter(|it| (0.0..=1.0).contains(it))?;
        Some((value, cells.next()?.parse().ok()?))
    }

    /// The mean, from a line such as `#[Mean    =        0.123, StdDeviation   =        0.456]`.
    fn mean(comment: &str) -> Option<f64> {
        let rest = comment.strip_prefix("#[Mean")?.trim_start().strip_prefix('=')?;
        finite(rest.split(',').next()?.trim())
    }
}

fn read_table(
    mut lines: Lines<'_, impl BufRead>,
    source: &str,
    options: &ReadOptions,
) -> Result<Reading, ReadError> {
    let path = lines.path.to_path_buf();
    if let Some(tag) = &options.tag {
        let has = vec![String::new()];
        return Err(ReadError::NoSuchTag { path, tag: tag.clone(), has });
    }
    let unit_ns = f64::from(options.recorded_in.unwrap_or(Unit::Milliseconds).ns());
    let mut histogram = Histogram::new(DIGITS_OF_TABLE).expect("a precision that histograms have");
    let (mut below, mut stated_mean_ns, mut warnings) = (0, None, Vec::new());
    while let Some(line) = lines.next()? {
        let Line { content, number, is_whole } = line;
        if content.starts_with('#') {
            stated_mean_ns = stated_mean_ns.or_else(|| Table::mean(content).map(|it| it * unit_ns));
            continue;
        }
        if content.is_empty() {
            continue;
        }
        let row = Table::row(content).ok_or(LineError::NotAPercentile).and_then(|(value, count)| {
            let new: u64 =
                count.checked_sub(below).filter(|_| count <= SAMPLES_MAX).ok_or(LineError::Count)?;
            let value = whole_ns(value * unit_ns).ok_or(LineError::Count)?;
            histogram.record_n(value, new).map_err(|_| LineError::Count)?;
            Ok(count)
        });
        match row {
            Ok(count) => below = count,
            Err(_) if !is_whole => {
                warnings.push(format!("{}: the last line is cut off and was left out", path.display()));
            }
            Err(reason) => return Err(ReadError::Line { path, line: number, reason }),
        }
    }
    if histogram.is_empty() {
        return Err(ReadError::Empty { path, from_s: 0.0, to_s: f64::INFINITY });
    }
    let over_time = OverTime::default();
    let (source, tag) = (source.to_owned(), None);
    let recording = Recording { file: path, source, tag, histogram, over_time, stated_mean_ns };
    Ok(Reading { recordings: vec![recording], warnings })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
fn whole_ns(ns: f64) -> Option<u64> {
    (ns < 9e18).then(|| ns.round() as u64)
}

#[cfg(test)]
#[path = "read/tests.rs"]
mod tests;
