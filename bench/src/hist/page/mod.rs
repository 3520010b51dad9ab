//! A self-contained page, or one picture, of distributions.
//!
//! Nothing is fetched from anywhere, and everything is there without scripts: those only add
//! read-outs under the pointer. Colours are classes of a style sheet that knows light and dark,
//! which is why the pictures are written here and not by a plotting library: those put colours
//! into every element.

mod heat;
mod markup;
mod percentiles;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use self::markup::{Escaped, Plot, WIDTH};
use super::figures::{Figure, figures, shortened};
use super::read::Recording;
use super::scale::{Time, grouped};
use super::summary::{PERCENTILES, Summary};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
/// Colours of series; more than that begin again.
const COLORS: usize = 7;

/// A page in HTML.
#[must_use]
pub fn html(recordings: &[Recording], title: Option<&str>) -> String {
    let title = title.map_or_else(|| default_title(recordings), str::to_owned);
    let mut page = String::new();
    let out = &mut page;
    let title = Escaped(&title);
    push(out, format_args!("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"));
    push(out, format_args!("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"));
    push(out, format_args!("<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"));
    push(
        out,
        format_args!("<header>\n<h1>{title}</h1>\n<p>{}</p>\n</header>\n", Escaped(&extent(recordings))),
    );
    let figures = figures(recordings);
    for figure in &figures {
        push(out, format_args!("<section>\n"));
        if figures.len() > 1 || figure.about.is_some() {
            push(out, format_args!("<h2>{}</h2>\n", Escaped(&figure.heading)));
        }
        if let Some(about) = figure.about {
            push(out, format_args!("<p class=\"about\">{}</p>\n", Escaped(about)));
        }
        table(out, figure);
        for plot in plots(figure) {
            push(out, format_args!("<figure>\n<figcaption>{}</figcaption>\n", Escaped(&plot.caption)));
            push(
                out,
                format_args!(
                    "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}\">\n{}</svg>\n</figure>\n",
                    plot.height,
                    Escaped(&plot.caption),
                    plot.body
                ),
            );
        }
        push(out, format_args!("</section>\n"));
    }
    let version = env!("CARGO_PKG_VERSION");
    push(
        out,
        format_args!(
            "<footer>corelog hist {version} · a percentile is left out where fewer than 10 samples lie \
             beyond it</footer>\n</main>\n<div id=\"readout\" hidden></div>\n<script>\n{SCRIPT}</script>\n\
             </body>\n</html>\n"
        ),
    );
    page
}

/// The plots as one picture in SVG.
#[must_use]
pub fn svg(recordings: &[Recording], title: Option<&str>) -> String {
    const MARGIN: f64 = 24.0;
    let title = title.map_or_else(|| default_title(recordings), str::to_owned);
    let mut body = String::new();
    let out = &mut body;
    let mut top = 40.0;
    push(out, format_args!("<text class=\"title\" x=\"0\" y=\"24\">{}</text>\n", Escaped(&title)));
    push(
        out,
        format_args!("<text class=\"axis\" x=\"0\" y=\"46\">{}</text>\n", Escaped(&extent(recordings))),
    );
    top += 32.0;
    let figures = figures(recordings);
    for figure in &figures {
        if figures.len() > 1 {
            let heading = Escaped(&figure.heading);
            push(
                out,
                format_args!("<text class=\"heading\" x=\"0\" y=\"{}\">{heading}</text>\n", top + 12.0),
            );
            top += 36.0;
        }
        for plot in plots(figure) {
            let caption = Escaped(&plot.caption);
            push(out, format_args!("<text class=\"caption\" x=\"0\" y=\"{}\">{caption}</text>\n", top + 4.0));
            top += 18.0;
            push(out, format_args!("<g transform=\"translate(0 {top})\">\n{}</g>\n", plot.body));
            top += plot.height + 28.0;
        }
    }
    let (width, height) = (WIDTH + 2.0 * MARGIN, top + 2.0 * MARGIN - 28.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n\
         <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n\
         <g transform=\"translate({MARGIN} {MARGIN})\">\n{body}</g>\n</svg>\n",
        Escaped(&title)
    )
}

/// The percentile plot, and a heat map of everything that has a course.
fn plots(figure: &Figure<'_>) -> Vec<Plot> {
    let mut plots = vec![percentiles::plot(figure)];
    plots.extend(heat::plots(figure));
    plots
}

fn default_title(recordings: &[Recording]) -> String {
    let mut sources: Vec<&str> = recordings.iter().map(|it| it.source.as_str()).collect();
    sources.dedup();
    match sources.as_slice() {
        [] => "Latency".to_owned(),
        [one] => format!("Latency of {one}"),
        [first, rest @ ..] if rest.len() < 4 => format!("Latency of {first}, {}", rest.join(", ")),
        [first, rest @ ..] => format!("Latency of {first} and {} more", rest.len()),
    }
}

/// How much was measured, in words.
fn extent(recordings: &[Recording]) -> String {
    // The tags of one file are different times of the same records.
    let mut by_file = BTreeMap::new();
    for it in recordings {
        let samples = by_file.entry(&it.file).or_insert(0);
        *samples = it.histogram.len().max(*samples);
    }
    let samples: u64 = by_file.values().sum();
    let longest_s = recordings
        .iter()
        .filter_map(|it| Some(it.over_time.slices().last()?.end_s - it.over_time.slices().first()?.start_s))
        .fold(0.0, f64::max);
    let samples = grouped(samples);
    if longest_s > 0.0 {
        format!("{samples} samples over {longest_s:.0} s")
    } else {
        format!("{samples} samples")
    }
}

fn table(out: &mut String, figure: &Figure<'_>) {
    push(
        out,
        format_args!("<div class=\"table\"><table>\n<thead><tr><th></th><th>samples</th><th>mean</th>"),
    );
    for (name, _) in PERCENTILES {
        push(out, format_args!("<th>p{name}</th>"));
    }
    push(out, format_args!("<th>max</th></tr></thead>\n<tbody>\n"));
    for (at, (name, recording)) in figure.series.iter().enumerate() {
        let summary = Summary::of_recording(recording);
        let color = at % COLORS;
        push(
            out,
            format_args!(
                "<tr><th><i class=\"swatch c{color}\"></i><span title=\"{}\">{}</span></th><td>{}</td><td>{}</td>",
                Escaped(name),
                Escaped(&shortened(name, 40)),
                grouped(summary.samples),
                Time(summary.mean_ns)
            ),
        );
        for ns in summary.percentiles_ns {
            match ns {
                Some(ns) => push(out, format_args!("<td>{}</td>", Time(markup::float(ns)))),
                None => push(out, format_args!("<td class=\"none\">–</td>")),
            }
        }
        push(out, format_args!("<td>{}</td></tr>\n", Time(markup::float(summary.max_ns))));
    }
    push(out, format_args!("</tbody>\n</table></div>\n"));
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hdrhistogram::Histogram;

    use super::*;
    use crate::hist::read::{ReadOptions, read_text};
    use crate::result::interval_log::IntervalLogWriter;
    use crate::result::report::Metric;

    fn recordings(source: &str, values: &[u64]) -> Vec<Recording> {
        let mut log = IntervalLogWriter::new(Vec::new(), std::time::UNIX_EPOCH, &[]).unwrap();
        for second in 0..3 {
            let mut histogram = Histogram::new(3).unwrap();
            for value in values {
                histogram.record_n(*value, 1 + second).unwrap();
            }
            let start = Duration::from_secs(second);
            log.write(Metric::Response, start, Duration::from_secs(1), &histogram).unwrap();
        }
        let bytes = log.finish().unwrap();
        let path = format!("{source}.hlog");
        read_text(bytes.as_slice(), path.as_ref(), source, &ReadOptions::default()).unwrap().recordings
    }

    #[test]
    fn a_page_needs_nothing_from_elsewhere_and_escapes_names() {
        let mut all = recordings("<b>&\"", &[1, 1_000, 70_000_000]);
        all.extend(recordings("other", &[0]));
        for text in [html(&all, None), svg(&all, Some("a < b"))] {
            assert!(!text.contains("<b>") && !text.contains("NaN") && !text.contains("inf\""));
            let outside = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!outside.contains("http") && !outside.contains("@import") && !outside.contains("src="));
        }
        assert!(html(&all, None).contains("&lt;b&gt;&amp;&quot;"));
    }

    #[test]
    fn of_nothing_there_is_a_page_too() {
        let nothing = recordings("none", &[]);
        for text in [html(&nothing, None), svg(&nothing, None), html(&[], None)] {
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }
}
