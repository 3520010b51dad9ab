//! What the plots have in common: their frame, axes and text.

use std::fmt;

use super::push;
use crate::hist::scale::{LogAxis, RoundTime};

/// Width of every plot, in the units of its view box; a page shows them at up to this many pixels.
pub(super) const WIDTH: f64 = 960.0;
/// Room for the labels of the vertical axis.
pub(super) const LEFT: f64 = 64.0;
/// Room for names and legends beside the plot.
pub(super) const RIGHT: f64 = 150.0;

/// A picture of its own coordinates, [`WIDTH`] wide.
pub(super) struct Plot {
    pub(super) caption: String,
    pub(super) height: f64,
    pub(super) body: String,
}

/// The area in which data are drawn.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) top: f64,
    pub(super) bottom: f64,
    pub(super) latency: LogAxis,
}

impl Frame {
    pub(super) const fn left(self) -> f64 {
        LEFT
    }

    pub(super) const fn right(self) -> f64 {
        WIDTH - RIGHT
    }

    pub(super) fn width(self) -> f64 {
        self.right() - self.left()
    }

    /// Where a latency is.
    pub(super) fn y(self, ns: f64) -> f64 {
        self.bottom - self.latency.position(ns) * (self.bottom - self.top)
    }

    /// Where a share of the width is.
    pub(super) fn x(self, share: f64) -> f64 {
        self.left() + share * self.width()
    }

    /// The attributes from which the script computes latencies.
    pub(super) fn data(self) -> String {
        format!(
            "data-low=\"{}\" data-high=\"{}\" data-top=\"{}\" data-bottom=\"{}\" data-left=\"{}\" \
             data-right=\"{}\"",
            self.latency.low,
            self.latency.high,
            self.top,
            self.bottom,
            self.left(),
            self.right()
        )
    }

    /// Lines and labels of the latency; the lines between the labelled ones only if `has_minor`.
    pub(super) fn latency_axis(self, out: &mut String, has_minor: bool) {
        for tick in self.latency.ticks().into_iter().filter(|tick| tick.is_major || has_minor) {
            let (y, right, left) = (self.y(tick.value), self.right(), self.left());
            let class = if tick.is_major { "grid" } else { "grid minor" };
            push(
                out,
                format_args!(
                    "<line class=\"{class}\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\n"
                ),
            );
            if tick.is_major {
                let (x, label) = (left - 10.0, RoundTime(tick.value));
                push(
                    out,
                    format_args!("<text class=\"axis end\" x=\"{x}\" y=\"{:.1}\">{label}</text>\n", y + 4.0),
                );
            }
        }
    }

    /// A line of the horizontal axis, and its label.
    pub(super) fn column(self, out: &mut String, x: f64, label: &str) {
        let (top, bottom, below) = (self.top, self.bottom, self.bottom + 18.0);
        push(
            out,
            format_args!("<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>\n"),
        );
        push(out, format_args!("<text class=\"axis mid\" x=\"{x:.1}\" y=\"{below}\">{label}</text>\n"));
    }

    /// What the horizontal axis is.
    pub(super) fn column_title(self, out: &mut String, title: &str) {
        let (x, y) = (self.x(0.5), self.bottom + 38.0);
        push(out, format_args!("<text class=\"axis mid\" x=\"{x}\" y=\"{y}\">{}</text>\n", Escaped(title)));
    }
}

/// Text in HTML and SVG.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(['<', '>', '&', '"', '\'']) {
            let (text, last) = match part.char_indices().next_back() {
                Some((at, '<')) => (&part[..at], "&lt;"),
                Some((at, '>')) => (&part[..at], "&gt;"),
                Some((at, '&')) => (&part[..at], "&amp;"),
                Some((at, '"')) => (&part[..at], "&quot;"),
                Some((at, '\'')) => (&part[..at], "&#39;"),
                _ => (part, ""),
            };
            out.write_str(text)?;
            out.write_str(last)?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "drawn to a tenth of a pixel at best")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}
