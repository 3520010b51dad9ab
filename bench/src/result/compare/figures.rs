//! The figures of a report that are compared.

use indexmap::IndexMap;

use super::super::report::{Metric, Run};
use super::{Better, Loaded};

/// A figure of a run, if it has it.
struct Figure {
    name: &'static str,
    better: Better,
    of: fn(&Run) -> Option<f64>,
}

/// What a sweep found is a figure of the whole report.
const KNEE: (&str, &str) = ("sweep", "knee, records/s");

const FIGURES: [Figure; 13] = [
    higher("produced, records/s", |run| Some(run.produced.records_per_s)),
    higher("consumed, records/s", |run| Some(run.consumed.records_per_s)),
    lower("response p50, µs", |run| percentile(run, Metric::Response, "50")),
    lower("response p99, µs", |run| percentile(run, Metric::Response, "99")),
    lower("response p99.9, µs", |run| percentile(run, Metric::Response, "99.9")),
    lower("end to end p50, µs", |run| percentile(run, Metric::EndToEnd, "50")),
    lower("end to end p99, µs", |run| percentile(run, Metric::EndToEnd, "99")),
    lower("end to end p99.9, µs", |run| percentile(run, Metric::EndToEnd, "99.9")),
    lower("caught up, s", |run| run.caught_up_s),
    lower("server CPU, µs/record", |run| Some(run.server?.cpu_us_per_record)),
    lower("server CPU consuming, µs/record", |run| Some(run.server_consuming?.cpu_us_per_record)),
    lower("server memory, bytes", |run| Some(bytes(run.server?.resident_bytes))),
    lower("server start, ms", |run| run.server?.start_ms),
];

const fn higher(name: &'static str, of: fn(&Run) -> Option<f64>) -> Figure {
    Figure { name, better: Better::Higher, of }
}

const fn lower(name: &'static str, of: fn(&Run) -> Option<f64>) -> Figure {
    Figure { name, better: Better::Lower, of }
}

fn percentile(run: &Run, metric: Metric, percentile: &str) -> Option<f64> {
    run.latency.get(&metric)?.percentiles_us.get(percentile).copied()
}

fn bytes(bytes: u64) -> f64 {
    bytes as f64
}

/// A figure's values in the reports of one side.
pub(super) struct Values {
    pub(super) better: Better,
    /// At least one; all finite and above 0.
    pub(super) values: Vec<f64>,
}

/// By the name of the run and of the figure, in the order of the reports.
pub(super) fn values(reports: &[Loaded]) -> IndexMap<(String, &'static str), Values> {
    let mut found: IndexMap<(String, &'static str), Values> = IndexMap::new();
    let mut add = |run: &str, name, better, value: Option<f64>| {
        // What is zero did not happen in the run, and has no ratio.
        if let Some(value) = value.filter(|it| it.is_finite() && *it > 0.0) {
            let values = found.entry((run.to_owned(), name)).or_insert(Values { better, values: Vec::new() });
            values.values.push(value);
        }
    };
    let names = super::run_names(reports);
    for name in &names {
        for figure in &FIGURES {
            for run in reports.iter().flat_map(|it| &it.report.runs).filter(|run| run.name == *name) {
                add(name, figure.name, figure.better, (figure.of)(run));
            }
        }
    }
    for report in reports {
        let knee = report.report.knee.as_ref().map(|it| it.records_per_s);
        add(KNEE.0, KNEE.1, Better::Higher, knee);
    }
    found
}
