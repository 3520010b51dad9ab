//! Distributions drawn with characters.
//!
//! One is drawn as bars: how many samples lie in each step of a logarithmic axis of latency. More
//! are drawn as lines over each other: latency by percentile, where each nine takes as much room
//! as the one before.

use hdrhistogram::Histogram;

use super::figures::shortened;
use super::over_time::{BINS_PER_OCTAVE, bin, bin_start_ns};
use super::scale::{LogAxis, RoundTime, Time, apart, grouped};
use super::summary::{PERCENTILES, is_borne_by, quantile};

/// Rows of bars, at the most.
const BARS_MAX: usize = 24;
const PLOT_ROWS: usize = 16;
const AXIS_COLUMNS: usize = 9;
const NAME_COLUMNS_MAX: usize = 24;
/// Below this nothing can be drawn; lines then just get longer than they should.
const WIDTH_MIN: usize = 40;
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
/// Colours of ANSI that are apart on dark and on light grounds: blue, yellow, magenta, cyan, green,
/// red.
const COLORS: [&str; 6] = ["34", "33", "35", "36", "32", "31"];
const MARKS: [char; 6] = ['*', '+', 'x', 'o', '#', '@'];

/// A distribution and its name.
#[derive(Debug, Clone)]
pub struct Series<'a> {
    /// What it is called.
    pub name: String,
    /// Its samples, in ns.
    pub histogram: &'a Histogram<u64>,
}

/// What the terminal can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrawOptions {
    /// Its columns.
    pub width: usize,
    /// Only characters of ASCII.
    pub is_ascii: bool,
    /// Colours.
    pub has_color: bool,
}

impl Default for DrawOptions {
    fn default() -> Self {
        Self { width: 80, is_ascii: false, has_color: false }
    }
}

/// Draws what has samples; lines end with a line feed, and there are none if nothing has any.
#[must_use]
pub fn draw(series: &[Series<'_>], options: &DrawOptions) -> String {
    let options = DrawOptions { width: options.width.max(WIDTH_MIN), ..*options };
    let series: Vec<_> = series.iter().filter(|it| !it.histogram.is_empty()).collect();
    match series.as_slice() {
        [] => String::new(),
        [one] => bars(one.histogram, options),
        several => lines(several, options),
    }
}

fn bars(histogram: &Histogram<u64>, options: DrawOptions) -> String {
    let (first, last) = (bin(histogram.min()), bin(histogram.max()));
    let bins_per_row = (1..=BINS_PER_OCTAVE.ilog2() + 6)
        .map(|bits| 1_u16 << bits)
        .find(|step| usize::from(last / step - first / step) < BARS_MAX)
        .expect("all of the bins fit into one row");
    let (first, last) = (first / bins_per_row, last / bins_per_row);
    let mut counts = vec![0_u64; usize::from(last - first) + 1];
    for it in histogram.iter_recorded() {
        counts[usize::from(bin(it.value_iterated_to()).min(last * bins_per_row) / bins_per_row - first)] +=
            it.count_at_value();
    }
    let row_of = |value: u64| usize::from((bin(value) / bins_per_row).clamp(first, last) - first);
    let mut marks = vec![Vec::new(); counts.len()];
    for (name, share) in PERCENTILES {
        if is_borne_by(histogram.len(), share) {
            marks[row_of(histogram.value_at_quantile(quantile(share)))].push(format!("p{name}"));
        }
    }
    marks[row_of(histogram.max())].push("max".to_owned());
    let marks: Vec<String> = marks.iter().map(|it| joined(it)).collect();
    let count_columns = counts.iter().max().map_or(1, |most| grouped(*most).len());
    let mark_columns = marks.iter().map(String::len).max().unwrap_or(0);
    let bar_columns =
        options.width.saturating_sub(AXIS_COLUMNS + 3 + count_columns + 2 + mark_columns).max(10);
    let most = counts.iter().copied().max().unwrap_or(1).max(1);
    let edge = if options.is_ascii { '|' } else { '│' };
    let mut out = String::new();
    for (row, (count, marks)) in (first..).zip(counts.iter().zip(&marks)) {
        let start = Time(bin_start_ns(row * bins_per_row));
        let bar = paint(&bar(*count, most, bar_columns, options.is_ascii), 0, options);
        let count = grouped(*count);
        let line = format!("{start:>AXIS_COLUMNS$} {edge}{bar} {count:>count_columns$}  {marks}");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Marks of one row: of many, the first and the last.
fn joined(marks: &[String]) -> String {
    match marks {
        [first, _, .., last] => format!("{first} .. {last}"),
        few => few.join(" "),
    }
}

/// A bar of so many columns; whatever is not nothing is seen.
fn bar(count: u64, most: u64, columns: usize, is_ascii: bool) -> String {
    let eighths = u128::from(count) * 8 * columns as u128 / u128::from(most);
    let eighths = usize::try_from(eighths).expect("at most as many as there are in the columns");
    let eighths = if count > 0 { eighths.max(1) } else { 0 };
    let (whole, rest) = (eighths / 8, eighths % 8);
    let mut bar = String::with_capacity(columns * 3);
    if is_ascii {
        bar.extend(std::iter::repeat_n('#', if rest > 0 && whole == 0 { 0 } else { whole }));
        if rest > 0 {
            bar.push(if rest >= 4 { '#' } else { '.' });
        }
    } else {
        bar.extend(std::iter::repeat_n('█', whole));
        if rest > 0 {
            bar.push(EIGHTHS[rest]);
        }
    }
    let length = whole + usize::from(rest > 0);
    bar.extend(std::iter::repeat_n(' ', columns - length));
    bar
}

/// A cell of the plot: a character and whose it is.
type Cell = Option<(char, usize)>;

fn lines(series: &[&Series<'_>], options: DrawOptions) -> String {
    let names: Vec<String> = series.iter().map(|it| shortened(&it.name, NAME_COLUMNS_MAX)).collect();
    let name_columns = names.iter().map(|it| it.chars().count()).max().unwrap_or(0) + 3;
    let columns = options.width.saturating_sub(AXIS_COLUMNS + 2 + name_columns).max(16);
    let nines_max = series.iter().map(|it| nines_borne(it.histogram.len())).fold(1.0, f64::max);
    let nines_at = |column: usize| nines_max * float(column) / float(columns - 1);
    let mut curves = Vec::new();
    for it in series {
        let nines_end = nines_borne(it.histogram.len());
        let borne = (0..columns).take_while(|column| nines_at(*column) <= nines_end + 1e-9);
        let quantiles = borne.map(|column| 1.0 - 10_f64.powf(-nines_at(column)));
        curves.push(it.histogram.value_at_quantiles(quantiles).map(value).collect::<Vec<_>>());
    }
    let all = || curves.iter().flatten().copied();
    let axis = LogAxis::around(all().fold(f64::INFINITY, f64::min), all().fold(1.0, f64::max));
    let depth_of = |latency: f64| (1.0 - axis.position(latency)) * float(PLOT_ROWS - 1);
    let row_at =
        |depth: f64| (0..PLOT_ROWS - 1).find(|row| depth < float(*row) + 0.5).unwrap_or(PLOT_ROWS - 1);
    let row_of = |latency: f64| row_at(depth_of(latency));
    let mut plot: Vec<Vec<Cell>> = vec![vec![None; columns]; PLOT_ROWS];
    for (index, curve) in curves.iter().enumerate() {
        let rows: Vec<usize> = curve.iter().map(|latency| row_of(*latency)).collect();
        trace(&mut plot, &rows, index, options.is_ascii);
    }
    let mut labels: Vec<Option<usize>> = vec![None; PLOT_ROWS];
    let ends: Vec<f64> = curves.iter().map(|curve| depth_of(curve.last().copied().unwrap_or(0.0))).collect();
    for (index, depth) in apart(&ends, 1.0, 0.0, float(PLOT_ROWS - 1)).into_iter().enumerate() {
        labels[row_at(depth)].get_or_insert(index);
    }
    let mut ticks: Vec<Option<f64>> = vec![None; PLOT_ROWS];
    for tick in axis.ticks().into_iter().filter(|tick| tick.is_major) {
        ticks[row_of(tick.value)].get_or_insert(tick.value);
    }
    let (edge, notch) = if options.is_ascii { ('|', '+') } else { ('│', '┤') };
    let mut out = String::new();
    for (row, cells) in plot.iter().enumerate() {
        match ticks[row] {
            Some(tick) => out.push_str(&format!("{:>AXIS_COLUMNS$} {notch}", RoundTime(tick))),
            None => out.push_str(&format!("{:>AXIS_COLUMNS$} {edge}", "")),
        }
        let mut line = row_text(cells, options);
        if let Some(index) = labels[row] {
            let mark = if options.is_ascii { MARKS[index % MARKS.len()] } else { '─' };
            line.push_str(&paint(&format!(" {mark} {}", names[index]), index, options));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out.push_str(&percentile_axis(columns, nines_max, options.is_ascii));
    out
}

/// Draws a curve, which only ever rises, into the plot.
fn trace(plot: &mut [Vec<Cell>], rows: &[usize], index: usize, is_ascii: bool) {
    let mut before = rows.first().copied().unwrap_or(0);
    for (column, row) in rows.iter().copied().enumerate() {
        let shape = |at: usize| match at {
            _ if is_ascii => MARKS[index % MARKS.len()],
            _ if row == before => '─',
            _ if at == row => '╭',
            _ if at == before => '╯',
            _ => '│',
        };
        let first = row.min(before);
        for (at, cells) in (first..=row.max(before)).zip(&mut plot[first..]) {
            cells[column] = Some((shape(at), index));
        }
        before = row;
    }
}

fn row_text(cells: &[Cell], options: DrawOptions) -> String {
    let mut text = String::new();
    for run in cells.chunk_by(|a, b| a.map(|it| it.1) == b.map(|it| it.1)) {
        let characters: String = run.iter().map(|cell| cell.map_or(' ', |it| it.0)).collect();
        match run[0] {
            Some((_, index)) => text.push_str(&paint(&characters, index, options)),
            None => text.push_str(&characters),
        }
    }
    text
}

fn percentile_axis(columns: usize, nines_max: f64, is_ascii: bool) -> String {
    let (corner, line, notch) = if is_ascii { ('+', '-', '+') } else { ('└', '─', '┴') };
    let mut axis = vec![line; columns];
    let mut labels = vec![' '; columns + 8];
    let mut free_from = 0;
    for (name, share) in std::iter::once(("0", 0)).chain(PERCENTILES) {
        let nines = -(1.0 - quantile(share)).log10();
        let Some(column) =
            (0..columns).find(|column| float(*column) + 0.5 >= nines / nines_max * float(columns - 1))
        else {
            break;
        };
        axis[column] = notch;
        let label = format!("{name}%");
        let start = column.saturating_sub(label.len() / 2);
        if start >= free_from {
            free_from = start + label.len() + 1;
            labels.splice(start..(start + label.len()).min(labels.len()), label.chars());
        }
    }
    let (axis, labels): (String, String) = (axis.into_iter().collect(), labels.into_iter().collect());
    let indent = " ".repeat(AXIS_COLUMNS + 1);
    format!("{indent}{corner}{axis}\n{indent} {}\n", labels.trim_end())
}

/// How far to the right so many samples bear a percentile plot: 2 is 99%.
pub(crate) fn nines_borne(samples: u64) -> f64 {
    (value(samples) / 10.0).log10().max(0.301)
}

fn paint(text: &str, index: usize, options: DrawOptions) -> String {
    if !options.has_color || text.trim().is_empty() {
        return text.to_owned();
    }
    format!("\u{1b}[{}m{text}\u{1b}[0m", COLORS[index % COLORS.len()])
}

#[expect(clippy::cast_precision_loss, reason = "drawn to a hundredth at best")]
fn value(ns: u64) -> f64 {
    ns as f64
}

#[expect(clippy::cast_precision_loss, reason = "columns and rows of a terminal")]
fn float(small: usize) -> f64 {
    small as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn histogram(values: impl IntoIterator<Item = (u64, u64)>) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).unwrap();
        for (value, count) in values {
            histogram.record_n(value, count).unwrap();
        }
        histogram
    }

    #[test]
    fn one_is_drawn_as_bars_with_its_percentiles() {
        let histogram = histogram([(100_000, 3_000), (130_000, 6_000), (210_000, 950), (3_000_000, 50)]);
        let one = [Series { name: "response".to_owned(), histogram: &histogram }];
        let options = DrawOptions { width: 60, is_ascii: true, has_color: false };
        let text = draw(&one, &options);
        let first: Vec<&str> = text.lines().next().unwrap().split_whitespace().collect();
        assert_eq!((first[..2].join(" "), first[3]), ("98.3 µs".to_owned(), "3,000"), "\n{text}");
        let longest = text.lines().find(|line| line.ends_with("6,000  p50 p90")).expect(&text);
        assert!(longest.contains("|##########"), "\n{text}");
        assert!(text.ends_with("50  p99.9 max\n"), "\n{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 60), "\n{text}");
        let blocks = draw(&one, &DrawOptions { is_ascii: false, ..options });
        assert!(blocks.contains("████████"), "\n{blocks}");
    }

    #[test]
    fn several_are_drawn_as_lines_with_their_names() {
        let (a, b) = (histogram([(1_000, 9_000), (90_000, 1_000)]), histogram([(5_000, 100)]));
        let two = [
            Series { name: "before".to_owned(), histogram: &a },
            Series { name: "after".to_owned(), histogram: &b },
        ];
        let text = draw(&two, &DrawOptions::default());
        assert!(text.contains("─ before") && text.contains("─ after"), "\n{text}");
        assert!(text.trim_end().ends_with("99.9%"), "\n{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "\n{text}");
        assert_eq!(draw(&[], &DrawOptions::default()), "");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whatever_there_is_can_be_drawn_within_the_width(
            values in prop::collection::vec((0_u64..1 << 40, 1_u64..1 << 30), 0..20),
            others in prop::collection::vec((0_u64..1 << 20, 1_u64..5), 0..20),
            width in 0_usize..200, is_ascii: bool, has_color: bool, count in 0_usize..9,
        ) {
            let (a, b) = (histogram(values), histogram(others));
            let series: Vec<_> = (0..count)
                .map(|at| Series { name: format!("{at:>at$}"), histogram: if at % 2 == 0 { &a } else { &b } })
                .collect();
            let text = draw(&series, &DrawOptions { width, is_ascii, has_color });
            if !has_color && width > 60 {
                prop_assert!(text.lines().all(|line| line.chars().count() <= width), "\n{}", text);
            }
        }
    }
}
