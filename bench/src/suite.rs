//! Several runs in a row against one broker, and the report of them.
//!
//! Starts a node when no broker is named, finds the knee when a sweep is asked for, runs the steps,
//! stops the node, writes `report.json`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, SecondsFormat, Utc};

use crate::load::run::{self, Done, Progress, RunOptions};
use crate::load::scenario::{Scenario, Step};
use crate::load::sweep::{StepResult, Sweep, SweepSpec};
use crate::node::{Node, NodeSpec};
use crate::plan::{Plan, Rate};
use crate::result::machine::{describe_machine, describe_storage};
use crate::result::report::{Broker, FORMAT, Knee, Machine, Metric, Report, Run};

/// What is driven.
#[derive(Debug, Clone)]
pub enum Target {
    /// A broker that runs: its addresses, and its process if that is on this machine.
    Running {
        /// Addresses, separated by commas.
        bootstrap: String,
        /// Process id.
        pid: Option<u32>,
        /// Its topics are there already, and stay.
        uses_existing_topics: bool,
    },
    /// A node that is started for the runs.
    Started(NodeSpec),
}

/// Everything about a series of runs.
#[derive(Debug, Clone)]
pub struct SuiteOptions {
    /// What is driven.
    pub target: Target,
    /// Cores of the generator.
    pub cores: Vec<usize>,
    /// Where files go.
    pub out: PathBuf,
    /// The command, as it was given.
    pub command: Vec<String>,
    /// Revision of the sources that the generator was built from.
    pub revision: String,
}

/// Hears how it goes.
pub trait Watch {
    /// Once a second, while a run lasts.
    fn progress(&mut self, progress: Progress<'_>);
    /// A rate of a sweep was tried.
    fn tried(&mut self, run: &Run, held: bool);
    /// A step is done.
    fn done(&mut self, done: &Done);
}

/// What came of a series.
pub struct Outcome {
    /// The report, as it was written.
    pub report: Report,
    /// Where.
    pub path: PathBuf,
    /// It was asked to stop before its end.
    pub interrupted: bool,
}

/// Runs a scenario.
///
/// # Errors
/// What keeps a run from being made or written; a broken promise is no error but in the report.
pub fn run(scenario: &Scenario, options: &SuiteOptions, watch: &mut dyn Watch) -> Result<Outcome> {
    for step in &scenario.steps {
        step.plan.check().with_context(|| format!("step '{}'", step.name))?;
    }
    fs::create_dir_all(&options.out)
        .with_context(|| format!("{} cannot be created", options.out.display()))?;
    let started = DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Secs, true);
    let machine = describe_machine();
    let driven = Driven::begin(&options.target)?;
    pin_this_thread(&options.cores)?;
    let mut series =
        Series { options, driven: &driven, watch, runs: Vec::new(), knee: None, interrupted: false };
    let failure = series.all(scenario).err();
    let Series { runs, knee, interrupted, .. } = series;
    if let Some(error) = failure {
        let done = runs.len();
        if done == 0 && knee.is_none() {
            return Err(error);
        }
        // What was measured before is not lost with what failed.
        let path = write(&report(scenario, options, &driven, machine, started, runs, knee)?, &options.out)?;
        return Err(error.context(format!("after {done} steps, which are in {}", path.display())));
    }
    let report = report(scenario, options, &driven, machine, started, runs, knee)?;
    driven.end()?;
    let path = write(&report, &options.out)?;
    Ok(Outcome { report, path, interrupted })
}

fn report(
    scenario: &Scenario,
    options: &SuiteOptions,
    driven: &Driven,
    machine: Machine,
    started: String,
    runs: Vec<Run>,
    knee: Option<Knee>,
) -> Result<Report> {
    Ok(Report {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: options.revision.clone(),
        command: options.command.clone(),
        started,
        scenario: Some(scenario.name.clone()),
        machine,
        broker: driven.describe(scenario)?,
        runs,
        knee,
    })
}

fn write(report: &Report, out: &Path) -> Result<PathBuf> {
    let path = out.join("report.json");
    let json = serde_json::to_vec_pretty(report).context("the report")?;
    fs::write(&path, json).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(path)
}

/// The thread that watches shares the generator's cores, not the broker's.
pub(crate) fn pin_this_thread(cores: &[usize]) -> Result<()> {
    let mut set = nix::sched::CpuSet::new();
    for core in cores {
        set.set(*core).with_context(|| format!("core {core}"))?;
    }
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).context("choosing cores")
}

/// The broker of a series.
enum Driven {
    Running { bootstrap: String, pid: Option<u32>, uses_existing_topics: bool },
    Started { node: Box<Node>, spec: NodeSpec },
}

impl Driven {
    fn begin(target: &Target) -> Result<Self> {
        Ok(match target {
            Target::Running { bootstrap, pid, uses_existing_topics } => Self::Running {
                bootstrap: bootstrap.clone(),
                pid: *pid,
                uses_existing_topics: *uses_existing_topics,
            },
            Target::Started(spec) => {
                Self::Started { node: Box::new(Node::start(spec.clone())?), spec: spec.clone() }
            }
        })
    }

    fn run_options(&self, options: &SuiteOptions, out: &Path) -> RunOptions {
        let (bootstrap, server_pid, uses_existing_topics) = match self {
            Self::Running { bootstrap, pid, uses_existing_topics } => {
                (bootstrap.clone(), *pid, *uses_existing_topics)
            }
            Self::Started { node, .. } => (node.address().to_string(), Some(node.pid()), false),
        };
        let (cores, out) = (options.cores.clone(), out.to_path_buf());
        RunOptions { bootstrap, cores, uses_existing_topics, server_pid, out }
    }

    fn start_ms(&self) -> Option<f64> {
        match self {
            Self::Running { .. } => None,
            Self::Started { node, .. } => Some(node.start_ms()),
        }
    }

    fn describe(&self, scenario: &Scenario) -> Result<Broker> {
        let of_topics = || {
            let config = |step: &Step| step.plan.topic_configs.get("corelog.durability").cloned();
            scenario.steps.first().and_then(config)
        };
        Ok(match self {
            Self::Running { bootstrap, .. } => Broker {
                bootstrap: bootstrap.clone(),
                kind: "running already".to_owned(),
                durability: of_topics().unwrap_or_else(|| "as the broker is configured".to_owned()),
                ..Broker::default()
            },
            Self::Started { node, spec } => Broker {
                bootstrap: node.address().to_string(),
                kind: "corelog, started for the run".to_owned(),
                durability: of_topics().unwrap_or_else(|| spec.durability.name().to_owned()),
                command: Some(node.command().to_vec()),
                cores: Some(listed(&spec.cores)),
                storage: Some(describe_storage(&spec.data_dir)?),
            },
        })
    }

    fn end(self) -> Result<()> {
        match self {
            Self::Running { .. } => Ok(()),
            Self::Started { node, .. } => node.stop(),
        }
    }
}

/// Cores as a list.
#[must_use]
pub fn listed(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

struct Series<'a> {
    options: &'a SuiteOptions,
    driven: &'a Driven,
    watch: &'a mut dyn Watch,
    runs: Vec<Run>,
    knee: Option<Knee>,
    interrupted: bool,
}

impl Series<'_> {
    fn all(&mut self, scenario: &Scenario) -> Result<()> {
        if let Some(spec) = &scenario.sweep {
            self.knee = self.sweep(&scenario.plan, *spec)?;
        }
        for step in &scenario.steps {
            if self.interrupted {
                break;
            }
            let mut plan = step.plan.clone();
            if let Some(Rate::ShareOfKnee(share)) = plan.rate {
                let knee = self.knee.as_ref().context("a share of the knee needs a sweep that finds one")?;
                plan.rate = Some(Rate::PerSecond(knee.records_per_s * share));
            }
            let done = self.one(&step.name, &plan, &self.options.out).map_err(|error| {
                // The one step of a plain run goes without saying.
                let is_one_of_many = scenario.steps.len() > 1 || scenario.sweep.is_some();
                if is_one_of_many { error.context(format!("step '{}'", step.name)) } else { error }
            })?;
            self.watch.done(&done);
            self.runs.push(done.run);
        }
        Ok(())
    }

    fn one(&mut self, name: &str, plan: &Plan, out: &Path) -> Result<Done> {
        let options = self.driven.run_options(self.options, out);
        let watch = &mut *self.watch;
        let mut done = run::run(name, plan, &options, &mut |progress| watch.progress(progress))?;
        if let Some(server) = &mut done.run.server {
            server.start_ms = self.driven.start_ms();
        }
        self.interrupted |= done.interrupted;
        Ok(done)
    }

    fn sweep(&mut self, plan: &Plan, spec: SweepSpec) -> Result<Option<Knee>> {
        ensure!(plan.arrivals.is_open_loop(), "a sweep needs open-loop arrivals: constant or poisson");
        spec.check()?;
        let mut sweep = Sweep::new(spec);
        while let Some(rate) = sweep.next_rate() {
            let plan = Plan {
                rate: Some(Rate::PerSecond(rate)),
                duration_s: spec.step_s,
                records: None,
                catch_up_s: 0.0,
                ..plan.clone()
            };
            let done = self.one(&format!("sweep-{rate:.0}"), &plan, &self.options.out.join("sweep"))?;
            if self.interrupted {
                return Ok(None);
            }
            let has_held = sweep.observe(rate, &step_result(&done));
            self.watch.tried(&done.run, has_held);
            if done.run.is_broken() {
                // A rate says nothing about a broker that loses records: the report does.
                self.runs.push(done.run);
            }
        }
        match sweep.knee() {
            Some(knee) => Ok(Some(knee)),
            None => bail!("no rate held: {}", sweep.why_not().unwrap_or("nothing was tried")),
        }
    }
}

fn step_result(done: &Done) -> StepResult {
    let run = &done.run;
    let p99_us = run.latency.get(&Metric::Response).and_then(|it| it.percentiles_us.get("99")).copied();
    StepResult {
        achieved_per_s: run.produced.records_per_s,
        p99_ms: p99_us.map(|us| us / 1e3),
        p50_first_third_ms: done.p50_first_third_ms,
        p50_last_third_ms: done.p50_last_third_ms,
        errors: run.produced.errors + run.produced.timeouts,
        client_bound: run.client.client_bound.clone(),
    }
}

/// A directory that is not there yet, for results.
#[must_use]
pub fn default_out() -> PathBuf {
    let now = DateTime::<Utc>::from(SystemTime::now());
    Path::new(&format!("corelog-bench-{}", now.format("%Y%m%d-%H%M%S"))).to_path_buf()
}
