//! What is better and what is worse: reports of repeated runs against others.
//!
//! For every run and figure: the ratio of the medians, with a 95% confidence interval from a
//! bootstrap over the repeated runs (both sides drawn again with replacement, percentiles of the
//! ratio; Efron 1979). The seed is fixed: the same reports give the same intervals. Reads files,
//! prints nothing.

mod figures;
mod load;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use indexmap::IndexMap;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use thiserror::Error;

use crate::plan::Plan;
pub use load::{LoadError, Loaded, load};

/// Runs of each side that an interval needs. Three against three are apart by mere chance in one
/// case of ten, so no interval of 95% can come of them; four against four in one of 35.
pub const RUNS_MIN: usize = 4;

/// Drawn samples for an interval.
const RESAMPLES: usize = 10_000;
/// What an interval leaves out at either end.
const TAIL: f64 = 0.025;
const SEED: u64 = 0x636f_7265_6c6f_6700;

/// Why reports cannot be compared.
#[derive(Debug, Error)]
pub enum CompareError {
    /// The two sides ran different things.
    #[error("the reports have no run in common: {baseline} against {candidate}")]
    NothingInCommon {
        /// Names of the runs of one.
        baseline: String,
        /// And of the other.
        candidate: String,
    },
    /// There is a threshold, and no interval that could show that it was passed.
    #[error(
        "a threshold needs at least {RUNS_MIN} runs of each side, to tell a change from chance; \
         here are {baseline} and {candidate}"
    )]
    TooFewRuns {
        /// Reports of one side.
        baseline: usize,
        /// And of the other.
        candidate: usize,
    },
}

/// Which values are the better ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// As of throughput.
    Higher,
    /// As of latency.
    Lower,
}

/// What an interval shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All of it is on the better side of 1.
    Better,
    /// All of it is on the worse side of 1.
    Worse,
    /// 1 is in it.
    Undecided,
}

/// One figure of one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The run's name.
    pub run: String,
    /// What it is, with its unit.
    pub figure: &'static str,
    /// Which values are the better ones.
    pub better: Better,
    /// Median of the baseline.
    pub baseline: f64,
    /// How many values it is of.
    pub baseline_runs: usize,
    /// Median of the candidate.
    pub candidate: f64,
    /// How many values it is of.
    pub candidate_runs: usize,
    /// The candidate's median as a multiple of the baseline's.
    pub ratio: f64,
    /// Where the ratio is with 95% confidence; absent with fewer than [`RUNS_MIN`] runs of a side.
    pub interval: Option<(f64, f64)>,
    /// What the interval shows.
    pub verdict: Option<Verdict>,
    /// Whether it is worse by more than the threshold, and the interval shows that it is worse.
    pub regression: bool,
}

/// The reports of one side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// Their files.
    pub reports: Vec<PathBuf>,
    /// The revisions that they were made with, each once.
    pub revisions: Vec<String>,
    /// What was driven, each once.
    pub brokers: Vec<String>,
}

/// Everything that the reports say of each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What is compared with.
    pub baseline: Side,
    /// What is judged.
    pub candidate: Side,
    /// Share by which a figure may be worse; none if nothing is judged.
    pub threshold: Option<f64>,
    /// By run and figure.
    pub rows: Vec<Row>,
    /// Why the numbers may not mean what they seem to.
    pub warnings: Vec<String>,
}

impl Comparison {
    /// Figures that are worse than the threshold allows.
    pub fn regressions(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.regression)
    }
}

/// Compares the candidate with the baseline. `threshold` is a share: 0.1 for 10%.
///
/// # Errors
/// Reports without a common run; a threshold where no figure has runs enough for an interval.
pub fn compare(
    baseline: &[Loaded],
    candidate: &[Loaded],
    threshold: Option<f64>,
) -> Result<Comparison, CompareError> {
    let (ours, theirs) = (figures::values(baseline), figures::values(candidate));
    let mut rows = Vec::new();
    for ((run, name), old) in &ours {
        let Some(new) = theirs.get(&(run.clone(), *name)) else {
            continue;
        };
        rows.push(row(run, name, old, new, threshold));
    }
    if rows.is_empty() {
        return Err(CompareError::NothingInCommon {
            baseline: run_names(baseline).join(", "),
            candidate: run_names(candidate).join(", "),
        });
    }
    if threshold.is_some() && rows.iter().all(|row| row.interval.is_none()) {
        let (baseline, candidate) = (baseline.len(), candidate.len());
        return Err(CompareError::TooFewRuns { baseline, candidate });
    }
    let (baseline_side, candidate_side) = (side(baseline), side(candidate));
    let warnings = warnings(baseline, candidate);
    Ok(Comparison { baseline: baseline_side, candidate: candidate_side, threshold, rows, warnings })
}

fn row(
    run: &str,
    figure: &'static str,
    old: &figures::Values,
    new: &figures::Values,
    threshold: Option<f64>,
) -> Row {
    let (baseline, candidate) = (median(&mut old.values.clone()), median(&mut new.values.clone()));
    let ratio = candidate / baseline;
    let interval = interval(&old.values, &new.values);
    let verdict = interval.map(|(low, high)| match old.better {
        _ if low <= 1.0 && high >= 1.0 => Verdict::Undecided,
        Better::Higher if low > 1.0 => Verdict::Better,
        Better::Lower if high < 1.0 => Verdict::Better,
        Better::Higher | Better::Lower => Verdict::Worse,
    });
    let passed = threshold.is_some_and(|threshold| match old.better {
        Better::Higher => ratio < 1.0 - threshold,
        Better::Lower => ratio > 1.0 + threshold,
    });
    Row {
        run: run.to_owned(),
        figure,
        better: old.better,
        baseline,
        baseline_runs: old.values.len(),
        candidate,
        candidate_runs: new.values.len(),
        ratio,
        interval,
        verdict,
        regression: passed && verdict == Some(Verdict::Worse),
    }
}

/// # Panics
/// Without a value: a figure is only there with one.
fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

fn interval(old: &[f64], new: &[f64]) -> Option<(f64, f64)> {
    if old.len().min(new.len()) < RUNS_MIN {
        return None;
    }
    let mut random = Xoshiro256PlusPlus::seed_from_u64(SEED);
    let mut drawn = Vec::with_capacity(old.len().max(new.len()));
    let mut draw = |from: &[f64]| {
        drawn.clear();
        drawn.extend(from.iter().map(|_| from[random.random_range(0..from.len())]));
        median(&mut drawn)
    };
    let mut ratios: Vec<f64> = (0..RESAMPLES).map(|_| draw(new) / draw(old)).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, reason = "a share of a small number")]
    let left_out = (RESAMPLES as f64 * TAIL) as usize;
    Some((ratios[left_out], ratios[RESAMPLES - 1 - left_out]))
}

fn side(reports: &[Loaded]) -> Side {
    let each_once = |what: fn(&Loaded) -> &String| {
        let found: IndexMap<&String, ()> = reports.iter().map(|it| (what(it), ())).collect();
        found.into_keys().cloned().collect()
    };
    Side {
        reports: reports.iter().map(|it| it.path.clone()).collect(),
        revisions: each_once(|it| &it.report.revision),
        brokers: each_once(|it| &it.report.broker.kind),
    }
}

fn run_names(reports: &[Loaded]) -> Vec<String> {
    let runs = reports.iter().flat_map(|it| &it.report.runs);
    let found: IndexMap<&String, ()> = runs.map(|run| (&run.name, ())).collect();
    found.into_keys().cloned().collect()
}

/// What a reader would want to know before believing a ratio.
fn warnings(baseline: &[Loaded], candidate: &[Loaded]) -> Vec<String> {
    let mut warnings = Vec::new();
    let all = || baseline.iter().chain(candidate);
    if let Some(first) = all().next() {
        let machine = |it: &Loaded| {
            let machine = &it.report.machine;
            (machine.cpu.clone(), machine.cores, machine.kernel.clone())
        };
        if let Some(other) = all().find(|it| machine(it) != machine(first)) {
            let (ours, theirs) = (first.path.display(), other.path.display());
            warnings.push(format!("{ours} and {theirs} are of different machines or kernels"));
        }
    }
    for name in run_names(baseline).iter().chain(&run_names(candidate)) {
        let of = |side: &[Loaded]| {
            let mut runs = side.iter().flat_map(|it| &it.report.runs);
            // Names of topics and seeds may differ from run to run.
            let comparable = |plan: &Plan| Plan { topic: String::new(), seed: 0, ..plan.clone() };
            runs.find(|run| run.name == *name).map(|run| comparable(&run.plan))
        };
        let text = match (of(baseline), of(candidate)) {
            (Some(ours), Some(theirs)) if ours != theirs => "was asked for differently on the two sides",
            (Some(_), None) => "is in the baseline only",
            (None, Some(_)) => "is in the candidate only",
            (Some(_) | None, _) => continue,
        };
        let text = format!("run '{name}' {text}");
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }
    for loaded in all() {
        for run in &loaded.report.runs {
            let at = format!("{}: run '{}'", loaded.path.display(), run.name);
            if let Some(why) = &run.client.client_bound {
                warnings.push(format!("{at} was limited by the generator: {why}"));
            }
            if run.verification.as_ref().is_some_and(|it| !it.as_promised) {
                warnings.push(format!("{at} did not keep what was promised of its records"));
            }
            let failed = run.produced.errors.saturating_add(run.produced.timeouts);
            if failed > 0 {
                warnings.push(format!("{at} has {failed} records with errors or time-outs"));
            }
        }
    }
    warnings
}
