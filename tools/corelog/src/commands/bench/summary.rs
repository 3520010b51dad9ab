//! What a series of runs comes down to, in a terminal.

use std::fmt::Write;

use corelog_bench::hist::terminal::{self, Series};
use corelog_bench::result::report::{Latency, Metric, Report, Run};
use corelog_bench::suite::Outcome;
use hdrhistogram::Histogram;

use crate::commands::hist;
use crate::out;

/// Response times of one run, to draw.
pub(super) struct Drawn {
    pub(super) name: String,
    pub(super) response: Histogram<u64>,
}

/// One line about one run.
pub(super) fn line(run: &Run) -> String {
    let response = run.latency.get(&Metric::Response);
    let percentile = |name: &str| response.and_then(|it| it.percentiles_us.get(name)).copied();
    let mut line = format!(
        "{}: {} records/s, {:.1} MB/s, p50 {}, p99 {}",
        run.name,
        out::grouped(rounded(run.produced.records_per_s)),
        run.produced.mb_per_s,
        time(percentile("50")),
        time(percentile("99")),
    );
    if run.client.client_bound.is_some() {
        line.push_str(", client-bound");
    }
    line
}

/// The whole summary.
pub(super) fn render(outcome: &Outcome, drawn: &[Drawn]) -> String {
    let report = &outcome.report;
    let mut text = String::new();
    write_head(&mut text, report);
    if let Some(knee) = &report.knee {
        let rate = out::grouped(rounded(knee.records_per_s));
        let _ = writeln!(text, "\nknee: {rate} records/s held; limited by {}", knee.limit);
    }
    if !report.runs.is_empty() {
        let _ = write!(text, "\n{}", out::render(&throughput(&report.runs)));
        let _ = write!(text, "\n{}", out::render(&latencies(&report.runs)));
    }
    for drawn in drawn.iter().filter(|it| !it.response.is_empty()) {
        let _ = writeln!(text, "\n{}: response time", drawn.name);
        let series = Series { name: drawn.name.clone(), histogram: &drawn.response };
        text.push_str(&terminal::draw(&[series], &hist::draw_options(false)));
    }
    for run in &report.runs {
        write_findings(&mut text, run);
    }
    let _ = writeln!(text, "\nreport: {}", outcome.path.display());
    text
}

fn write_head(text: &mut String, report: &Report) {
    let broker = &report.broker;
    let _ =
        writeln!(text, "broker: {} at {}, durability: {}", broker.kind, broker.bootstrap, broker.durability);
    if let Some(storage) = &broker.storage {
        let (system, device, cache) = (&storage.file_system, &storage.device, &storage.write_cache);
        let _ = writeln!(text, "disk: {system} on {device}, write cache: {cache}");
    }
    let machine = &report.machine;
    let _ = writeln!(text, "machine: {}, {} cores, Linux {}", machine.cpu, machine.cores, machine.kernel);
}

fn throughput(runs: &[Run]) -> comfy_table::Table {
    let mut table = out::table([
        "run",
        "intended/s",
        "records/s",
        "MB/s",
        "consumed/s",
        "errors",
        "server CPU µs/record",
        "memory MB",
        "client CPU",
    ]);
    for run in runs {
        let server = run.server.as_ref();
        table.add_row([
            run.name.clone(),
            run.intended_per_s.map_or_else(|| "-".to_owned(), |it| out::grouped(rounded(it))),
            out::grouped(rounded(run.produced.records_per_s)),
            format!("{:.1}", run.produced.mb_per_s),
            out::grouped(rounded(run.consumed.records_per_s)),
            out::grouped(run.produced.errors + run.produced.timeouts + run.produced.unsent),
            server.map_or_else(|| "-".to_owned(), |it| format!("{:.2}", it.cpu_us_per_record)),
            server.map_or_else(|| "-".to_owned(), |it| (it.resident_bytes / 1_000_000).to_string()),
            format!("{:.0}%", run.client.cpu_share * 100.0),
        ]);
    }
    table
}

fn latencies(runs: &[Run]) -> comfy_table::Table {
    const PERCENTILES: [&str; 6] = ["50", "90", "99", "99.9", "99.99", "99.999"];
    let mut table =
        out::table(["run", "latency", "samples", "p50", "p90", "p99", "p99.9", "p99.99", "p99.999", "max"]);
    for run in runs {
        for metric in Metric::ALL {
            let Some(latency) = run.latency.get(&metric) else { continue };
            let value = |name: &&str| time(latency.percentiles_us.get(*name).copied());
            let mut row = vec![run.name.clone(), label(metric).to_owned(), out::grouped(latency.samples)];
            row.extend(PERCENTILES.iter().map(value));
            row.push(time(largest(latency)));
            table.add_row(row);
        }
    }
    table
}

fn largest(latency: &Latency) -> Option<f64> {
    (latency.samples > 0).then_some(latency.max_us)
}

pub(super) fn label(metric: Metric) -> &'static str {
    match metric {
        Metric::Response => "response",
        Metric::Service => "service time",
        Metric::ScheduleLag => "schedule lag",
        Metric::EndToEnd => "end to end",
    }
}

/// Whether all is there, what went wrong, and whose numbers these are.
fn write_findings(text: &mut String, run: &Run) {
    if let Some(verified) = &run.verification {
        let verdict = if verified.as_promised { "as promised" } else { "NOT AS PROMISED" };
        let number = out::grouped;
        let _ = writeln!(
            text,
            "\n{}: {} sent, {} acknowledged, {} read; lost {}, duplicated {}, reordered {}, corrupt {}: {verdict}",
            run.name,
            number(verified.sent),
            number(verified.acknowledged),
            number(verified.read),
            number(verified.lost),
            number(verified.duplicated),
            number(verified.reordered),
            number(verified.corrupt),
        );
        for finding in &verified.findings {
            let _ = writeln!(text, "  {finding}");
        }
    }
    for (error, count) in &run.errors {
        let _ = writeln!(text, "  {count} × {error}");
    }
    if run.produced.unsent > 0 {
        let unsent = out::grouped(run.produced.unsent);
        let _ = writeln!(text, "  {unsent} records were never sent: the broker did not hold the rate");
    }
    if let Some(why) = &run.client.client_bound {
        let _ = writeln!(text, "  {why}: these numbers are the generator's, not the broker's");
    }
    if let Some(seconds) = run.caught_up_s {
        let _ = writeln!(text, "  consumers caught up within {seconds:.1} s");
    }
}

/// A time in the unit that suits it.
pub(super) fn time(us: Option<f64>) -> String {
    match us {
        None => "-".to_owned(),
        Some(us) if us < 1_000.0 => format!("{us:.0} µs"),
        Some(us) if us < 1_000_000.0 => format!("{:.2} ms", us / 1e3),
        Some(us) => format!("{:.2} s", us / 1e6),
    }
}

pub(super) fn rounded(value: f64) -> u64 {
    // Rates are not negative, and far below 2⁶⁴; a cast from a float saturates.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
    let whole = value.round() as u64;
    whole
}
