//! The calling thread of a run: it takes what the executor measured once a second, samples CPU at the
//! edges of the measured phase, and writes files and the report.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, SecondsFormat, Utc};
use corelog_runtime::shards::{self, ShardContext, StartError};
use corelog_runtime::time::Instant;
use hdrhistogram::Histogram;

use super::crowd::{self, Event, Outcome};
use super::plan::GroupsPlan;
use super::report::{CoordinatorUse, FORMAT, GroupsReport, GroupsRun};
use super::tally::Tally;
use crate::node::Node;
use crate::process::{self, ProcessUse};
use crate::result::interval_log::IntervalLogWriter;
use crate::result::latency::summarize;
use crate::result::machine::{describe_machine, describe_storage};
use crate::result::percentile_file::write_hgrm;
use crate::result::report::{ClientUse, Latency, Metric, Storage};
use crate::suite::{SuiteOptions, Target, pin_this_thread};

/// Between two looks at whether the executor still runs.
const LOOK: Duration = Duration::from_millis(100);
/// Percentile files are in ms, as the Java tools print them.
const NS_PER_MS: f64 = 1e6;
/// Above this share of its core the generator itself is the bottleneck.
const BUSY_SHARE: f64 = 0.9;
/// Its own lateness is harmless below this, in µs at the 99th percentile.
const LAG_FINE_US: f64 = 1_000.0;
/// Names of the files.
const NAME: &str = "groups";

/// How it goes.
#[derive(Debug, Clone, Copy)]
pub enum Heard {
    /// A second of the load is over.
    Second {
        /// How many so far.
        seconds: u64,
        /// Commits acknowledged in it.
        commits: u64,
        /// Response times of those of the measured phase, in µs.
        p50_us: Option<f64>,
        /// As `p50_us`.
        p99_us: Option<f64>,
        /// What went wrong so far.
        errors: u64,
    },
    /// The measured phase is over; in a run through a restart, the broker may be ended now.
    Measured,
    /// The broker is gone, and is waited for.
    Lost,
}

/// What came of a run.
pub struct Done {
    /// The report, as it was written.
    pub report: GroupsReport,
    /// Where.
    pub path: PathBuf,
    /// Response times of the measured phase in ns, to draw.
    pub response: Histogram<u64>,
    /// It was asked to stop before its end.
    pub interrupted: bool,
}

/// Runs a plan, and tells `hear` how it goes.
///
/// # Errors
/// A plan that cannot be run; a broker that is not reached, refuses, or goes away when that is not the
/// point; files that cannot be written. Offsets that are not there are no error but in the report.
pub fn run(plan: &GroupsPlan, options: &SuiteOptions, hear: &mut dyn FnMut(Heard)) -> Result<Done> {
    plan.check()?;
    fs::create_dir_all(&options.out)
        .with_context(|| format!("{} cannot be created", options.out.display()))?;
    let started = DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Secs, true);
    let driven = Driven::begin(&options.target, plan)?;
    pin_this_thread(&options.cores)?;
    let (events, heard) = mpsc::channel();
    let place = Arc::default();
    let executor = start_executor(plan, options, &driven.bootstrap, events, Arc::clone(&place))?;
    let mut watcher = Watcher::new(driven.pid, &options.out);
    loop {
        match heard.recv_timeout(LOOK) {
            Ok(event) => watcher.take(event, hear)?,
            Err(RecvTimeoutError::Timeout) if !executor.is_finished() => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    executor.join().map_err(|_| anyhow::anyhow!("the executor of the generator ended in a panic"))??;
    let outcome = place.lock().unwrap_or_else(PoisonError::into_inner).take();
    let outcome = outcome.context("the executor was stopped before the run ended")??;
    let interrupted = outcome.interrupted;
    let (run, response) = watcher.finish(plan, options, outcome)?;
    let report = GroupsReport {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: options.revision.clone(),
        command: options.command.clone(),
        started,
        machine: describe_machine(),
        bootstrap: driven.bootstrap.clone(),
        storage: driven.storage.clone(),
        runs: vec![run],
    };
    driven.end()?;
    let path = options.out.join("report.json");
    let json = serde_json::to_vec_pretty(&report).context("the report")?;
    fs::write(&path, json).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(Done { report, path, response, interrupted })
}

/// The broker of a run.
struct Driven {
    bootstrap: String,
    pid: Option<u32>,
    node: Option<Node>,
    storage: Option<Storage>,
}

impl Driven {
    fn begin(target: &Target, plan: &GroupsPlan) -> Result<Self> {
        match target {
            Target::Running { bootstrap, pid, .. } => {
                Ok(Self { bootstrap: bootstrap.clone(), pid: *pid, node: None, storage: None })
            }
            Target::Started(spec) => {
                ensure!(!plan.through_restart, "a run through a restart needs a broker that is named");
                let node = Node::start(spec.clone())?;
                Ok(Self {
                    bootstrap: node.address().to_string(),
                    pid: Some(node.pid()),
                    node: Some(node),
                    storage: Some(describe_storage(&spec.data_dir)?),
                })
            }
        }
    }

    fn end(self) -> Result<()> {
        self.node.map_or(Ok(()), Node::stop)
    }
}

type Place = Arc<Mutex<Option<Result<Outcome>>>>;

/// All groups are driven by one executor, on the first of the generator's cores.
fn start_executor(
    plan: &GroupsPlan,
    options: &SuiteOptions,
    bootstrap: &str,
    events: mpsc::Sender<Event>,
    place: Place,
) -> Result<JoinHandle<Result<(), StartError>>> {
    let core = options.cores.first().copied().context("the generator needs a core")?;
    let start = shards::Options { cores: Some(vec![core]), shards: 1, ..shards::Options::default() };
    let (plan, bootstrap) = (plan.clone(), bootstrap.to_owned());
    let drive = move |_: ShardContext<(), ()>| {
        let (plan, bootstrap, events) = (plan.clone(), bootstrap.clone(), events.clone());
        let place = Arc::clone(&place);
        async move {
            let outcome = crowd::drive(plan, bootstrap, events).await;
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            Ok::<(), std::convert::Infallible>(())
        }
    };
    let run = move || shards::run(start, drive);
    thread::Builder::new().name("bench".to_owned()).spawn(run).context("a thread could not be started")
}

/// CPU and time at one edge of the measured phase.
#[derive(Debug, Clone, Copy)]
struct Edge {
    at: Instant,
    client: ProcessUse,
    server: Option<ProcessUse>,
}

struct Watcher<'a> {
    server_pid: Option<u32>,
    out: &'a Path,
    log: Option<IntervalLogWriter<BufWriter<File>>>,
    seconds: u64,
    total: Tally,
    begin: Option<Edge>,
    end: Option<Edge>,
}

impl<'a> Watcher<'a> {
    fn new(server_pid: Option<u32>, out: &'a Path) -> Self {
        Self { server_pid, out, log: None, seconds: 0, total: Tally::new(), begin: None, end: None }
    }

    fn edge(&self) -> Result<Edge> {
        let client = process::usage(std::process::id()).context("this process's CPU time")?;
        let of_server =
            |pid| process::usage(pid).with_context(|| format!("CPU time of the broker's process {pid}"));
        Ok(Edge { at: Instant::now(), client, server: self.server_pid.map(of_server).transpose()? })
    }

    fn take(&mut self, event: Event, hear: &mut dyn FnMut(Heard)) -> Result<()> {
        match event {
            Event::Measuring => self.begin = Some(self.edge()?),
            Event::Measured => {
                self.end = Some(self.edge()?);
                hear(Heard::Measured);
            }
            Event::Lost => hear(Heard::Lost),
            Event::Second(tally) => {
                self.write(&tally).context("writing the interval log")?;
                self.seconds += 1;
                self.total.add(&tally);
                let us = |quantile: f64| {
                    let nanos = tally.response.value_at_quantile(quantile);
                    (!tally.response.is_empty()).then_some(nanos as f64 / 1e3)
                };
                hear(Heard::Second {
                    seconds: self.seconds,
                    commits: tally.commits,
                    p50_us: us(0.5),
                    p99_us: us(0.99),
                    errors: self.total.errors.values().sum(),
                });
            }
        }
        Ok(())
    }

    /// A line of the interval log for each of the times.
    fn write(&mut self, tally: &Tally) -> Result<()> {
        let from = Duration::from_secs(self.seconds);
        for (metric, histogram) in [(Metric::Response, &tally.response), (Metric::ScheduleLag, &tally.lag)] {
            if histogram.is_empty() {
                continue;
            }
            if self.log.is_none() {
                let file = File::create(self.out.join(format!("{NAME}.hlog")))?;
                let comments = [
                    format!("corelog bench groups {}", env!("CARGO_PKG_VERSION")),
                    "nanoseconds; one tag for each metric; only commits of the measured phase".to_owned(),
                ];
                let began = SystemTime::now() - from - Duration::from_secs(1);
                self.log = Some(IntervalLogWriter::new(BufWriter::new(file), began, &comments)?);
            }
            let log = self.log.as_mut().expect("just made");
            log.write(metric, from, Duration::from_secs(1), histogram)?;
        }
        Ok(())
    }

    fn finish(
        mut self,
        plan: &GroupsPlan,
        options: &SuiteOptions,
        outcome: Outcome,
    ) -> Result<(GroupsRun, Histogram<u64>)> {
        let mut files = BTreeMap::new();
        if let Some(log) = self.log.take() {
            log.finish().context("writing the interval log")?;
            files.insert("hlog".to_owned(), PathBuf::from(format!("{NAME}.hlog")));
        }
        let mut latency = BTreeMap::new();
        for (metric, histogram) in
            [(Metric::Response, &self.total.response), (Metric::ScheduleLag, &self.total.lag)]
        {
            if histogram.is_empty() {
                continue;
            }
            latency.insert(metric, summarize(histogram));
            let name = format!("{NAME}.{}.hgrm", metric.name());
            let path = options.out.join(&name);
            let file =
                File::create(&path).with_context(|| format!("{} cannot be created", path.display()))?;
            write_hgrm(BufWriter::new(file), histogram, NS_PER_MS).context("writing a percentile file")?;
            files.insert(format!("hgrm.{}", metric.name()), name.into());
        }
        let seconds = match (self.begin, self.end) {
            (Some(begin), Some(end)) => (end.at - begin.at).as_secs_f64(),
            _ => 0.0,
        };
        let commits_per_s = per_s(self.total.commits_measured, seconds);
        let run = GroupsRun {
            name: NAME.to_owned(),
            plan: plan.clone(),
            seconds,
            intended_per_s: plan.commits_per_s(),
            commits: self.total.commits_measured,
            commits_per_s,
            offsets_per_s: commits_per_s * f64::from(plan.partitions),
            heartbeats: self.total.heartbeats_measured,
            server: self.server_use(seconds),
            client: self.client_use(&options.cores, seconds, &latency),
            latency,
            errors: self.total.errors,
            verification: outcome.verification,
            restart: outcome.restart,
            files,
        };
        Ok((run, self.total.response))
    }

    fn server_use(&self, seconds: f64) -> Option<CoordinatorUse> {
        let (first, last) = (self.begin?.server?, self.end?.server?);
        let cpu_s = last.cpu_s - first.cpu_s;
        let commits = self.total.commits_measured;
        Some(CoordinatorUse {
            cpu_s,
            cpu_share: if seconds > 0.0 { cpu_s / seconds } else { 0.0 },
            cpu_us_per_commit: if commits > 0 { cpu_s * 1e6 / commits as f64 } else { 0.0 },
            resident_bytes: last.resident_bytes,
            peak_resident_bytes: last.peak_resident_bytes,
        })
    }

    fn client_use(&self, cores: &[usize], seconds: f64, latency: &BTreeMap<Metric, Latency>) -> ClientUse {
        let cores: Vec<usize> = cores.iter().copied().take(1).collect();
        let (Some(begin), Some(end)) = (self.begin, self.end) else {
            return ClientUse { cores, ..ClientUse::default() };
        };
        let cpu_s = end.client.cpu_s - begin.client.cpu_s;
        let cpu_share = if seconds > 0.0 { cpu_s / seconds } else { 0.0 };
        let p99_us = |metric| -> f64 {
            let latency: Option<&Latency> = latency.get(&metric);
            latency.and_then(|it| it.percentiles_us.get("99")).copied().unwrap_or(0.0)
        };
        let (lag_us, response_us) = (p99_us(Metric::ScheduleLag), p99_us(Metric::Response));
        let client_bound = if cpu_share > BUSY_SHARE {
            Some(format!(
                "client-bound: the generator's core was busy for {:.0}% of the time",
                cpu_share * 100.0
            ))
        } else if lag_us > LAG_FINE_US && lag_us > response_us / 2.0 {
            // A commit is sent when its time has come, whatever the broker does.
            Some(format!("client-bound: the generator was {lag_us:.0} µs late at the 99th percentile"))
        } else {
            None
        };
        ClientUse { cores, cpu_share, cpu_s, client_bound }
    }
}

fn per_s(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}
