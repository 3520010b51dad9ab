//! Percentile files: the table that `outputPercentileDistribution` prints.

use std::io::BufRead;

use hdrhistogram::Histogram;

use super::{Line, LineError, Lines, ReadError, ReadOptions, Reading, Recording, SAMPLES_MAX, finite};
use crate::hist::over_time::OverTime;
use crate::hist::scale::Unit;

/// Precision of a histogram that is made from a percentile file; more than its decimals have.
const DIGITS_OF_TABLE: u8 = 4;

/// The table of a percentile file.
pub(super) struct Table;

impl Table {
    fn cells(line: &str) -> impl Iterator<Item = &str> {
        let cells = line.split(|c: char| c == ',' || c.is_whitespace());
        cells.map(|cell| cell.trim_matches('"')).filter(|cell| !cell.is_empty())
    }

    pub(super) fn is_header(line: &str) -> bool {
        Self::cells(line).take(3).eq(["Value", "Percentile", "TotalCount"])
    }

    /// Value and how many samples lie at or below.
    pub(super) fn row(line: &str) -> Option<(f64, u64)> {
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

pub(super) fn read_table(
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
