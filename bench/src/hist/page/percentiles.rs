//! Latency by percentile, where each nine takes as much room as the one before, and latency is
//! logarithmic: the tail, which is what one looks for, has most of the picture.

use super::markup::{Escaped, Frame, Plot, float};
use super::{COLORS, push};
use crate::hist::figures::{Figure, shortened};
use crate::hist::scale::{LogAxis, Time, apart};
use crate::hist::summary::{PERCENTILES, Summary, quantile};
use crate::hist::terminal::nines_borne;

const HEIGHT: f64 = 430.0;
/// Points of a curve: every second pixel.
const POINTS: u32 = 380;
const NAME_CHARACTERS: usize = 20;

/// A point of a curve: place along the horizontal axis, 0 to 1, and latency in ns.
type Point = (f64, f64);

struct Curve<'a> {
    name: &'a str,
    points: Vec<Point>,
    /// The percentiles that have names.
    dots: Vec<(&'static str, Point)>,
}

pub(super) fn plot(figure: &Figure<'_>) -> Plot {
    let filled = || figure.series.iter().filter(|(_, it)| !it.histogram.is_empty());
    let nines_max = filled().map(|(_, it)| nines_borne(it.histogram.len())).fold(1.0, f64::max);
    let curves: Vec<Curve<'_>> = figure
        .series
        .iter()
        .map(|(name, recording)| {
            let samples = recording.histogram.len();
            let end = if samples == 0 { -1.0 } else { nines_borne(samples) / nines_max };
            let shares = (0..=POINTS).map(|at| f64::from(at) / f64::from(POINTS));
            let shares: Vec<f64> = shares.take_while(|share| *share <= end + 1e-9).collect();
            let quantiles = shares.iter().map(|share| 1.0 - 10_f64.powf(-share * nines_max));
            let latencies = recording.histogram.value_at_quantiles(quantiles).map(float);
            let summary = Summary::of_recording(recording);
            let dots = PERCENTILES.iter().zip(summary.percentiles_ns);
            Curve {
                name,
                points: shares.iter().copied().zip(latencies).collect(),
                dots: dots
                    .filter_map(|((name, share), ns)| Some((*name, (nines(*share) / nines_max, float(ns?)))))
                    .collect(),
            }
        })
        .collect();
    let latencies = || curves.iter().flat_map(|it| &it.points).map(|point| point.1);
    let low = latencies().fold(f64::INFINITY, f64::min);
    let latency = LogAxis::around(if low.is_finite() { low } else { 1e3 }, latencies().fold(1.0, f64::max));
    let frame = Frame { top: 14.0, bottom: HEIGHT - 52.0, latency };
    let mut body = String::new();
    let out = &mut body;
    push(out, format_args!("<g class=\"percentiles\" data-nines=\"{nines_max}\" {}>\n", frame.data()));
    frame.latency_axis(out, true);
    frame.column(out, frame.x(0.0), "0%");
    for (name, share) in PERCENTILES {
        let at = nines(share) / nines_max;
        if at <= 1.000_001 {
            frame.column(out, frame.x(at), &format!("{name}%"));
        }
    }
    frame.column_title(out, "percentile");
    for (index, curve) in curves.iter().enumerate() {
        draw_curve(out, frame, curve, index, curves.len() == 1);
    }
    draw_names(out, frame, &curves);
    push(out, format_args!("</g>\n"));
    Plot { caption: "Latency by percentile".to_owned(), height: HEIGHT, body }
}

fn draw_curve(out: &mut String, frame: Frame, curve: &Curve<'_>, index: usize, is_only: bool) {
    let color = index % COLORS;
    // Colours begin again: a line that is broken is another one.
    let again = if index >= COLORS { " again" } else { "" };
    push(
        out,
        format_args!(
            "<polyline class=\"curve c{color}{again}\" data-name=\"{}\" points=\"",
            Escaped(curve.name)
        ),
    );
    let mut before = None;
    for (at, (share, ns)) in curve.points.iter().enumerate() {
        // Points within a flat stretch say nothing.
        let after = curve.points.get(at + 1).map(|it| it.1);
        if before == Some(*ns) && after == Some(*ns) {
            continue;
        }
        before = Some(*ns);
        push(out, format_args!("{:.1},{:.1} ", frame.x(*share), frame.y(*ns)));
    }
    push(out, format_args!("\"/>\n"));
    for (percentile, (share, ns)) in &curve.dots {
        let (x, y, time) = (frame.x(*share), frame.y(*ns), Time(*ns));
        push(
            out,
            format_args!(
                "<circle class=\"dot c{color}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>{}, \
                 p{percentile}: {time}</title></circle>\n",
                Escaped(curve.name)
            ),
        );
        if is_only {
            // Below the dot and to its right: a curve that only rises is never there.
            let (x, y) = (x + 7.0, y + 17.0);
            push(out, format_args!("<text class=\"value\" x=\"{x:.1}\" y=\"{y:.1}\">{time}</text>\n"));
        }
    }
}

/// Names beside the ends of their lines.
fn draw_names(out: &mut String, frame: Frame, curves: &[Curve<'_>]) {
    let drawn: Vec<(usize, &Curve<'_>, Point)> = curves
        .iter()
        .enumerate()
        .filter_map(|(index, curve)| Some((index, curve, *curve.points.last()?)))
        .collect();
    let ends: Vec<f64> = drawn.iter().map(|(_, _, (_, ns))| frame.y(*ns)).collect();
    let places = apart(&ends, 18.0, frame.top + 4.0, frame.bottom);
    for ((index, curve, (share, _)), (end, place)) in drawn.iter().zip(ends.iter().zip(places)) {
        let color = index % COLORS;
        let (from, to) = (frame.x(*share) + 4.0, frame.right() + 10.0);
        let is_beside = (end - place).abs() < 1.0 && to - from < 12.0;
        if !is_beside {
            push(
                out,
                format_args!(
                    "<line class=\"leader c{color}\" x1=\"{from:.1}\" y1=\"{end:.1}\" x2=\"{to}\" \
                     y2=\"{place:.1}\"/>\n"
                ),
            );
        }
        let (x, y, name) = (to + 4.0, place + 4.5, shortened(curve.name, NAME_CHARACTERS));
        push(
            out,
            format_args!("<text class=\"name c{color}\" x=\"{x}\" y=\"{y:.1}\">{}</text>\n", Escaped(&name)),
        );
    }
}

/// How many nines a percentile has: 1 is 90%.
fn nines(share: u32) -> f64 {
    -(1.0 - quantile(share)).log10()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hist::summary::is_borne_by;

    #[test]
    fn a_percentile_is_drawn_just_when_it_is_printed() {
        for (_, share) in PERCENTILES {
            for samples in [9_u64, 19, 20, 21, 99, 100, 999, 1_000, 9_999, 10_000, 99_999, 1_000_000] {
                let is_drawn = nines(share) <= nines_borne(samples) + 1e-9;
                assert!(is_drawn || !is_borne_by(samples, share), "{samples} {share}");
            }
        }
    }
}
