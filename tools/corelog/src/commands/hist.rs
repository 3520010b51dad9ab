//! `corelog hist`: histograms from files, as numbers, drawings and pages.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use corelog_bench::hist::figures::figures;
use corelog_bench::hist::page;
use corelog_bench::hist::read::{ReadOptions, Recording, read};
use corelog_bench::hist::scale::Unit;
use corelog_bench::hist::summary::{PERCENTILES, Summary};
use corelog_bench::hist::terminal::{DrawOptions, Series, draw};
use serde_json::{Map, Value, json};

use crate::cli::hist::Hist;
use crate::out::{self, Format, grouped};

/// Source, tag, samples, mean, percentiles, maximum.
const COLUMNS: usize = 5 + PERCENTILES.len();
/// Where the width of the terminal is not known.
const WIDTH: usize = 80;
/// Wider drawings are not easier to read.
const WIDTH_MAX: usize = 140;

pub(crate) fn run(arguments: &Hist, format: Format) -> Result<ExitCode> {
    let to_s = arguments.to.unwrap_or(f64::INFINITY);
    ensure!(arguments.from < to_s, "--from is not before --to");
    let options = ReadOptions {
        tag: arguments.tag.clone(),
        from_s: arguments.from,
        to_s,
        recorded_in: arguments.recorded_in,
    };
    let mut recordings = Vec::new();
    for file in &arguments.files {
        let reading = read(file, &options)?;
        for warning in reading.warnings {
            eprintln!("warning: {warning}");
        }
        recordings.extend(reading.recordings);
    }
    if let Some(path) = &arguments.html {
        write(path, &page::html(&recordings, arguments.title.as_deref()))?;
    }
    if let Some(path) = &arguments.svg {
        write(path, &page::svg(&recordings, arguments.title.as_deref()))?;
    }
    match format {
        Format::Json => print_json(&recordings, arguments.unit)?,
        Format::Text => print_text(&recordings, arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

fn print_json(recordings: &[Recording], unit: Unit) -> Result<()> {
    let in_unit = |ns: u64| thousandths(float(ns) / f64::from(unit.ns()));
    let all: Vec<Value> = recordings
        .iter()
        .map(|it| {
            let summary = Summary::of_recording(it);
            let percentiles: Map<String, Value> = PERCENTILES
                .iter()
                .zip(summary.percentiles_ns)
                .filter_map(|((name, _), ns)| Some(((*name).to_owned(), json!(in_unit(ns?)))))
                .collect();
            json!({
                "file": it.file,
                "source": it.source,
                "tag": it.tag,
                "unit": unit.name(),
                "samples": summary.samples,
                "min": in_unit(summary.min_ns),
                "mean": thousandths(summary.mean_ns / f64::from(unit.ns())),
                "max": in_unit(summary.max_ns),
                "percentiles": percentiles,
            })
        })
        .collect();
    out::print_json(&all)
}

fn print_text(recordings: &[Recording], arguments: &Hist) -> Result<()> {
    let options = draw_options(arguments.ascii);
    let mut text = out::render(&table(recordings, arguments.unit));
    for figure in figures(recordings) {
        let series: Vec<Series<'_>> = figure
            .series
            .iter()
            .map(|(name, recording)| Series { name: name.clone(), histogram: &recording.histogram })
            .collect();
        text.push_str(&format!("\n{}\n", figure.heading));
        text.push_str(&draw(&series, &options));
    }
    Ok(out::print_text(&text)?)
}

/// What the terminal on stdout can show.
pub(crate) fn draw_options(is_ascii: bool) -> DrawOptions {
    let width = terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0));
    let has_color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    DrawOptions { width: width.min(WIDTH_MAX), is_ascii, has_color }
}

fn table(recordings: &[Recording], unit: Unit) -> comfy_table::Table {
    let symbol = unit.symbol();
    let mut header = vec!["SOURCE".to_owned(), "TAG".to_owned(), "SAMPLES".to_owned()];
    header.push(format!("MEAN {symbol}"));
    header.extend(PERCENTILES.map(|(name, _)| format!("P{name} {symbol}")));
    header.push(format!("MAX {symbol}"));
    let mut table = out::table([""; COLUMNS]);
    // Not through `out::table`: in capitals, µs would be ΜS.
    table.set_header(header);
    out::align_right(&mut table, 2..);
    let cell = |ns: f64| in_digits(ns / f64::from(unit.ns()));
    for it in recordings {
        let summary = Summary::of_recording(it);
        let mut row = vec![
            it.source.clone(),
            it.tag.clone().unwrap_or_default(),
            grouped(summary.samples),
            cell(summary.mean_ns),
        ];
        row.extend(summary.percentiles_ns.map(|ns| ns.map_or_else(String::new, |ns| cell(float(ns)))));
        row.push(cell(float(summary.max_ns)));
        table.add_row(row);
    }
    table
}

/// A number with as many decimals as a histogram of three digits bears.
fn in_digits(value: f64) -> String {
    match value {
        _ if value >= 99.95 => format!("{value:.0}"),
        _ if value >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Without digits that arithmetic made up.
fn thousandths(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[expect(clippy::cast_precision_loss, reason = "a histogram has five digits at the most")]
fn float(ns: u64) -> f64 {
    ns as f64
}
