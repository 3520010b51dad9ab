//! Latency over time: how many samples of which latency there were when, as colours, with the
//! median and the 99th percentile as lines.

use std::fmt::Write as _;

use super::markup::{Escaped, Frame, Plot, float};
use super::push;
use crate::hist::figures::{Figure, shortened};
use crate::hist::over_time::{Slice, bin_start_ns};
use crate::hist::scale::{LogAxis, grouped, linear_ticks};
use crate::hist::summary::is_borne_by;

const HEIGHT: f64 = 226.0;
/// Steps of the colour, which is logarithmic in the number of samples.
const LEVELS: u16 = 10;
/// Bins of the latency that make a cell: a cell is then some pixels high.
const BINS_PER_CELL: u16 = 2;
const NAME_CHARACTERS: usize = 60;
/// Slices of time that are drawn, at the most; more would be finer than a pixel is worth.
const COLUMNS_MAX: usize = 240;

/// What the maps of one figure have in common, so that they can be compared.
struct Shared {
    start_s: f64,
    end_s: f64,
    latency: LogAxis,
    /// The most samples of a cell.
    most: u64,
}

pub(super) fn plots(figure: &Figure<'_>) -> Vec<Plot> {
    let with_course: Vec<_> =
        figure.series.iter().filter(|(_, it)| it.over_time.slices().len() > 1).collect();
    let slices = || with_course.iter().flat_map(|(_, it)| it.over_time.slices());
    let bins = || slices().flat_map(|it| it.counts.keys().copied());
    let (Some(lowest), Some(highest)) = (bins().min(), bins().max()) else { return Vec::new() };
    let shared = Shared {
        start_s: slices().map(|it| it.start_s).fold(f64::INFINITY, f64::min),
        end_s: slices().map(|it| it.end_s).fold(f64::NEG_INFINITY, f64::max),
        latency: LogAxis::around(bin_start_ns(lowest), bin_start_ns(highest + 1)),
        most: slices().flat_map(|it| cells(it).map(|(_, count)| count)).max().unwrap_or(1),
    };
    let is_only = figure.series.len() == 1;
    with_course
        .iter()
        .map(|(name, recording)| {
            let caption = if is_only {
                "Latency over time".to_owned()
            } else {
                format!("Latency over time: {}", shortened(name, NAME_CHARACTERS))
            };
            let slices = recording.over_time.slices();
            debug_assert!(slices.len() <= COLUMNS_MAX);
            Plot { caption, height: HEIGHT, body: body(&shared, name, slices) }
        })
        .collect()
}

/// Cells of a slice: the bin with which each begins, and its samples.
fn cells(slice: &Slice) -> impl Iterator<Item = (u16, u64)> {
    let all: Vec<_> = slice.counts.iter().map(|(bin, count)| (bin - bin % BINS_PER_CELL, *count)).collect();
    let cells: Vec<_> =
        all.chunk_by(|a, b| a.0 == b.0).map(|cell| (cell[0].0, cell.iter().map(|it| it.1).sum())).collect();
    cells.into_iter()
}

fn body(shared: &Shared, name: &str, slices: &[Slice]) -> String {
    let frame = Frame { top: 8.0, bottom: HEIGHT - 46.0, latency: shared.latency };
    let span_s = (shared.end_s - shared.start_s).max(f64::MIN_POSITIVE);
    let x = |second: f64| frame.x((second - shared.start_s) / span_s);
    let mut body = String::new();
    let out = &mut body;
    push(
        out,
        format_args!(
            "<g class=\"heat\" data-name=\"{}\" data-start=\"{}\" data-end=\"{}\" {}>\n",
            Escaped(name),
            shared.start_s,
            shared.end_s,
            frame.data()
        ),
    );
    frame.latency_axis(out, false);
    let (divisor, unit) = match span_s {
        _ if span_s <= 300.0 => (1.0, "s"),
        _ if span_s <= 3.0 * 3600.0 => (60.0, "min"),
        _ => (3600.0, "h"),
    };
    for tick in linear_ticks(shared.start_s / divisor, shared.end_s / divisor, 10) {
        // Without the digits that adding up steps leaves behind.
        let label = (tick * 1e6).round() / 1e6 + 0.0;
        frame.column(out, x(tick * divisor), &format!("{label} {unit}"));
    }
    let mut paths = vec![String::new(); usize::from(LEVELS)];
    for slice in slices {
        for (bin, count) in cells(slice) {
            let (left, right) = (x(slice.start_s), x(slice.end_s));
            let (top, bottom) = (frame.y(bin_start_ns(bin + BINS_PER_CELL)), frame.y(bin_start_ns(bin)));
            let path = &mut paths[usize::from(level(count, shared.most))];
            write!(path, "M{left:.1} {top:.1}H{right:.1}V{bottom:.1}H{left:.1}z")
                .expect("a string takes everything");
        }
    }
    for (level, path) in (0..LEVELS).zip(paths) {
        if !path.is_empty() {
            let (from, to) = level_range(level, shared.most);
            push(
                out,
                format_args!(
                    "<path class=\"cell h{level}\" data-samples=\"{} to {}\" d=\"{path}\"/>\n",
                    grouped(from),
                    grouped(to)
                ),
            );
        }
    }
    for (share, label, class) in [(500_000, "p50", "median"), (990_000, "p99", "tail")] {
        course(out, frame, slices, &x, (share, label, class));
    }
    legend(out, frame, shared.most);
    push(out, format_args!("</g>\n"));
    body
}

/// A percentile of every slice as a line; it is broken where samples do not bear it.
fn course(
    out: &mut String,
    frame: Frame,
    slices: &[Slice],
    x: &impl Fn(f64) -> f64,
    (share, label, class): (u32, &str, &str),
) {
    let mut path = String::new();
    // Where the line ends, for its name.
    let mut end = None;
    let mut is_broken = true;
    for slice in slices {
        let samples: u64 = slice.counts.values().sum();
        let wanted = u128::from(samples) * u128::from(share);
        let mut below = 0;
        let bin = slice.counts.iter().find(|(_, count)| {
            below += *count;
            u128::from(below) * 1_000_000 >= wanted
        });
        let Some((bin, _)) = bin.filter(|_| is_borne_by(samples, share)) else {
            is_broken = true;
            continue;
        };
        // The middle of the bin: it is all that is known.
        let y = frame.y((bin_start_ns(*bin) * bin_start_ns(bin + 1)).sqrt());
        let (from, to) = (x(slice.start_s), x(slice.end_s));
        let command = if is_broken { 'M' } else { 'L' };
        write!(path, "{command}{from:.1} {y:.1}H{to:.1}").expect("a string takes everything");
        (end, is_broken) = (Some(y), false);
    }
    if path.is_empty() {
        return;
    }
    push(out, format_args!("<path class=\"course halo\" d=\"{path}\"/>\n"));
    push(out, format_args!("<path class=\"course {class}\" d=\"{path}\"/>\n"));
    if let Some(y) = end {
        let (x, y) = (frame.right() + 8.0, y + 4.0);
        push(out, format_args!("<text class=\"axis course-name\" x=\"{x}\" y=\"{y:.1}\">{label}</text>\n"));
    }
}

/// The colour of a count: 0 for one sample, the last for the most of any cell.
fn level(count: u64, most: u64) -> u16 {
    let share = (float(count).ln() / (float(most) + 1.0).ln()).clamp(0.0, 1.0);
    (0..LEVELS)
        .rev()
        .find(|level| f64::from(*level) <= share * f64::from(LEVELS))
        .unwrap_or(0)
        .min(LEVELS - 1)
}

/// The counts that have a colour.
fn level_range(level: u16, most: u64) -> (u64, u64) {
    let bound = |level: u16| (float(most) + 1.0).powf(f64::from(level) / f64::from(LEVELS)).ceil();
    let whole = |bound: f64| {
        // Found by trying, since a count is exactly what decides its colour.
        let mut guess = 1;
        let mut step = most.next_power_of_two();
        while step > 0 {
            while float(guess + step) <= bound {
                guess += step;
            }
            step /= 2;
        }
        guess
    };
    let from = whole(bound(level));
    (from, whole(bound(level + 1)).saturating_sub(1).max(from).min(most.max(1)))
}

fn legend(out: &mut String, frame: Frame, most: u64) {
    let (left, width) = (frame.right() + 62.0, 12.0);
    let height = (frame.bottom - frame.top) / f64::from(LEVELS);
    for level in 0..LEVELS {
        let y = frame.bottom - f64::from(level + 1) * height;
        push(
            out,
            format_args!(
                "<rect class=\"cell h{level}\" x=\"{left}\" y=\"{y:.1}\" width=\"{width}\" height=\"{height:.1}\"/>\n"
            ),
        );
    }
    let x = left + width + 6.0;
    let mut power = 1_u64;
    while power <= most {
        let share = if most > 1 { float(power).ln() / (float(most) + 1.0).ln() } else { 0.5 };
        let y = frame.bottom - share * (frame.bottom - frame.top);
        // The first is not cut off by the axis below.
        let y = (y + 4.0).min(frame.bottom);
        push(out, format_args!("<text class=\"axis\" x=\"{x}\" y=\"{y:.1}\">{}</text>\n", grouped(power)));
        let Some(next) = power.checked_mul(10) else { break };
        power = next;
    }
    let (x, y) = (left, frame.bottom + 18.0);
    push(out, format_args!("<text class=\"axis\" x=\"{x}\" y=\"{y}\">samples</text>\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_the_colour_whose_range_holds_it() {
        for most in [1, 2, 9, 1_000, 123_456] {
            for count in (1..=most).step_by(usize::try_from(most / 100 + 1).unwrap()) {
                let level = level(count, most);
                let (from, to) = level_range(level, most);
                assert!((from..=to).contains(&count), "{count} of {most}: {level} is {from} to {to}");
            }
            assert!(level(most, most) == LEVELS - 1 || most < 10);
        }
    }
}
