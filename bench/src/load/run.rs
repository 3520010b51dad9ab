//! One run: from a plan to what came of it.
//!
//! The caller's thread watches: it takes what the executors measured once a second, writes the
//! interval log, samples CPU at the edges of the measured phase, and says how it goes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use corelog_runtime::shards::{self, StartError};
use corelog_runtime::time::Instant;
use hdrhistogram::Histogram;
use tokio::sync::watch;

use super::payload::Pool;
use super::recorder::{Counts, Interval, histogram};
use super::shared::{Live, Outcome, Phases, Shared};
use super::verify::{Promise, judge};
use super::worker;
use crate::plan::{Acks, Plan};
use crate::process::{self, ProcessUse};
use crate::result::interval_log::IntervalLogWriter;
use crate::result::latency::summarize;
use crate::result::percentile_file::write_hgrm;
use crate::result::report::{ClientUse, Flow, Metric, Run, ServerUse, Verification};

const TICK: Duration = Duration::from_millis(5);
const NS_PER_S: u64 = 1_000_000_000;
/// Percentile files are in ms, as the Java tools print them.
const NS_PER_MS: f64 = 1e6;
/// Above this share of its cores the generator itself is the bottleneck.
const BUSY_SHARE: f64 = 0.9;
/// An open loop that reaches less of its rate did not hold it.
const HELD_SHARE: f64 = 0.98;
/// The generator's own lateness is harmless below this, in µs at the 99th percentile.
const OWN_LAG_FINE_US: f64 = 1_000.0;

/// Where and how a plan is run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Addresses of the broker.
    pub bootstrap: String,
    /// Cores of the generator.
    pub cores: Vec<usize>,
    /// The plan's topics are there already, and stay: otherwise each run makes its own.
    pub uses_existing_topics: bool,
    /// The broker's process, if it runs on this machine and its CPU and memory shall be measured.
    pub server_pid: Option<u32>,
    /// Where files go.
    pub out: PathBuf,
}

/// How a run goes, once a second.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The step's name.
    pub name: &'a str,
    /// What it is in.
    pub phase: Phase,
    /// Time since its start.
    pub elapsed: Duration,
    /// Of the last second.
    pub produced_per_s: u64,
    /// Of the last second.
    pub consumed_per_s: u64,
    /// Response times of the last second, in µs; `None` without a sample.
    pub p50_us: Option<f64>,
    /// As `p50_us`.
    pub p99_us: Option<f64>,
    /// Sent late at the 99th percentile, in µs.
    pub lag_us: Option<f64>,
    /// Records refused or not answered, since the start.
    pub errors: u64,
}

/// The part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not measured yet.
    WarmUp,
    /// Measured.
    Measured,
    /// Producers are done, consumers read the rest.
    ReadingTheRest,
}

/// What came of a run.
pub struct Done {
    /// The numbers.
    pub run: Run,
    /// Response times of the measured phase in ns, to draw.
    pub response: Histogram<u64>,
    /// Median response time of the first third of the measured phase, in ms, by whole seconds.
    pub p50_first_third_ms: Option<f64>,
    /// Of the last third.
    pub p50_last_third_ms: Option<f64>,
    /// It was asked to stop before its end.
    pub interrupted: bool,
}

/// Runs a plan, and tells `watch` how it goes.
///
/// # Errors
/// A plan that cannot be run; a broker that is not reached, or refuses; files that cannot be
/// written.
pub fn run(
    name: &str,
    plan: &Plan,
    options: &RunOptions,
    watch: &mut dyn FnMut(Progress<'_>),
) -> Result<Done> {
    plan.check()?;
    let shared = Arc::new(share(plan, options)?);
    let workers = start_workers(&shared, options)?;
    let mut watcher = Watcher::new(name, Arc::clone(&shared), options)?;
    while !workers.is_finished() {
        thread::sleep(TICK);
        watcher.look(watch)?;
    }
    // A panic ends the process; what is wrong with the machine is said as it is.
    let ended = workers.join();
    shared.live.over.store(true, SeqCst);
    let mut outcome = std::mem::take(&mut *shared.outcome());
    if let Some(failure) = outcome.failure.take() {
        return Err(failure);
    }
    ended.map_err(|_| anyhow::anyhow!("an executor of the generator ended in a panic"))??;
    watcher.finish(plan, options, outcome)
}

fn share(plan: &Plan, options: &RunOptions) -> Result<Shared> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(Shared {
        bootstrap: options.bootstrap.clone(),
        uses_existing_topics: options.uses_existing_topics,
        phases: Phases::of(plan),
        run: since.subsec_nanos() ^ u32::try_from(since.as_secs() & 0xffff_ffff).unwrap_or_default(),
        pool: Arc::new(Pool::new(plan)?),
        setup: watch::Sender::new(None),
        unready: AtomicUsize::new(options.cores.len()),
        start: watch::Sender::new(None),
        producing: watch::Sender::new(plan.producers),
        ends: watch::Sender::new(None),
        ended: watch::Sender::new(0),
        interval: Mutex::new(Interval::new()),
        live: Live::default(),
        outcome: Mutex::new(Outcome::default()),
        plan: plan.clone(),
    })
}

fn start_workers(shared: &Arc<Shared>, options: &RunOptions) -> Result<JoinHandle<Result<(), StartError>>> {
    let start = shards::Options {
        cores: Some(options.cores.clone()),
        shards: options.cores.len(),
        ..shards::Options::default()
    };
    let shared = Arc::clone(shared);
    let run = move || shards::run(start, move |executor| worker::run(executor, Arc::clone(&shared)));
    thread::Builder::new().name("bench".to_owned()).spawn(run).context("a thread could not be started")
}

/// CPU and time at one edge of a phase.
#[derive(Debug, Clone, Copy)]
struct Edge {
    at_ns: u64,
    client: ProcessUse,
    server: Option<ProcessUse>,
}

/// The thread that watches a run.
struct Watcher<'a> {
    name: &'a str,
    shared: Arc<Shared>,
    server_pid: Option<u32>,
    log: Option<IntervalLogWriter<BufWriter<File>>>,
    log_path: PathBuf,
    /// Whole seconds that were taken.
    seconds: u64,
    total: Interval,
    /// Median response times in ms of the seconds that have any.
    medians_ms: Vec<f64>,
    begin: Option<Edge>,
    end: Option<Edge>,
    reading: Option<Edge>,
    consumed: Option<Edge>,
}

impl<'a> Watcher<'a> {
    fn new(name: &'a str, shared: Arc<Shared>, options: &RunOptions) -> Result<Self> {
        fs::create_dir_all(&options.out)
            .with_context(|| format!("{} cannot be created", options.out.display()))?;
        Ok(Self {
            name,
            shared,
            server_pid: options.server_pid,
            log: None,
            log_path: options.out.join(format!("{}.hlog", file_name(name))),
            seconds: 0,
            total: Interval::new(),
            medians_ms: Vec::new(),
            begin: None,
            end: None,
            reading: None,
            consumed: None,
        })
    }

    fn elapsed_ns(&self) -> Option<u64> {
        match self.shared.live.start_ns.load(SeqCst) {
            0 => None,
            start => Instant::now().as_nanos().checked_sub(start),
        }
    }

    fn edge(&self, at_ns: u64) -> Result<Edge> {
        let client = process::usage(std::process::id()).context("this process's CPU time")?;
        let server = match self.server_pid {
            Some(pid) => {
                Some(process::usage(pid).with_context(|| format!("CPU time of the broker's process {pid}"))?)
            }
            None => None,
        };
        Ok(Edge { at_ns, client, server })
    }

    /// One look at the clock.
    fn look(&mut self, watch: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        let Some(now_ns) = self.elapsed_ns() else { return Ok(()) };
        let live = &self.shared.live;
        let measured = &self.shared.phases.measured;
        let (produced_ns, is_produced) =
            (live.produced_ns.load(SeqCst), *self.shared.producing.borrow() == 0);
        if self.begin.is_none() && now_ns >= measured.start {
            self.begin = Some(self.edge(now_ns)?);
        }
        if self.end.is_none() && (now_ns >= measured.end || is_produced) {
            self.end = Some(self.edge(now_ns.min(measured.end))?);
        }
        // Where consumers begin when producers are done: not what a broker does for itself before.
        let read_from_ns = produced_ns.max(self.shared.phases.consume_ns);
        if self.reading.is_none() && is_produced && now_ns >= read_from_ns {
            self.reading = Some(self.edge(now_ns)?);
        }
        if self.consumed.is_none() && self.is_read() {
            self.consumed = Some(self.edge(live.consumed_ns.load(SeqCst))?);
        }
        if now_ns / NS_PER_S > self.seconds {
            let interval = self.take(now_ns / NS_PER_S)?;
            watch(self.progress(&interval, now_ns, is_produced));
        }
        Ok(())
    }

    /// Whether every consumer is done.
    fn is_read(&self) -> bool {
        let live = &self.shared.live;
        let done = live.consumers_done.load(SeqCst);
        done > 0 && done == live.consumers.load(SeqCst)
    }

    /// Takes what was measured up to this second.
    fn take(&mut self, second: u64) -> Result<Interval> {
        let interval = {
            let mut current = self.shared.interval.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Interval::new())
        };
        let (from, length) = (Duration::from_secs(self.seconds), Duration::from_secs(second - self.seconds));
        for metric in Metric::ALL {
            let histogram = interval.of(metric);
            if !histogram.is_empty() {
                self.log()?.write(metric, from, length, histogram).context("writing the interval log")?;
            }
        }
        let response = interval.of(Metric::Response);
        if !response.is_empty() {
            self.medians_ms.push(response.value_at_quantile(0.5) as f64 / NS_PER_MS);
        }
        self.seconds = second;
        self.total.add(&interval);
        Ok(interval)
    }

    fn log(&mut self) -> Result<&mut IntervalLogWriter<BufWriter<File>>> {
        if self.log.is_none() {
            let path = &self.log_path;
            let file = File::create(path).with_context(|| format!("{} cannot be created", path.display()))?;
            let elapsed = Duration::from_nanos(self.elapsed_ns().unwrap_or_default());
            let comments = [
                format!("corelog bench {}, step {}", env!("CARGO_PKG_VERSION"), self.name),
                "nanoseconds; one tag for each metric; only records of the measured phase".to_owned(),
            ];
            let writer =
                IntervalLogWriter::new(BufWriter::new(file), SystemTime::now() - elapsed, &comments)?;
            self.log = Some(writer);
        }
        Ok(self.log.as_mut().expect("just made"))
    }

    fn progress(&self, interval: &Interval, now_ns: u64, is_produced: bool) -> Progress<'a> {
        let response = interval.of(Metric::Response);
        let us = |histogram: &Histogram<u64>, quantile: f64| {
            (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile) as f64 / 1e3)
        };
        let all = |counts: &Counts| counts.errors + counts.timeouts;
        Progress {
            name: self.name,
            phase: match now_ns {
                _ if is_produced => Phase::ReadingTheRest,
                ns if ns < self.shared.phases.measured.start => Phase::WarmUp,
                _ => Phase::Measured,
            },
            elapsed: Duration::from_nanos(now_ns),
            produced_per_s: interval.produced.records,
            consumed_per_s: interval.consumed.records,
            p50_us: us(response, 0.5),
            p99_us: us(response, 0.99),
            lag_us: us(interval.of(Metric::ScheduleLag), 0.99),
            errors: all(&self.total.produced),
        }
    }

    fn finish(mut self, plan: &Plan, options: &RunOptions, mut outcome: Outcome) -> Result<Done> {
        self.take(self.seconds + 1)?;
        if let Some(log) = self.log.take() {
            log.finish().context("writing the interval log")?;
        }
        let mut files = BTreeMap::new();
        if !self.total.of(Metric::Response).is_empty() {
            files.insert("hlog".to_owned(), relative(&self.log_path));
        }
        let mut latency = BTreeMap::new();
        for metric in Metric::ALL {
            let histogram = self.total.of(metric);
            if histogram.is_empty() {
                continue;
            }
            latency.insert(metric, summarize(histogram));
            let path = options.out.join(format!("{}.{}.hgrm", file_name(self.name), metric.name()));
            let file =
                File::create(&path).with_context(|| format!("{} cannot be created", path.display()))?;
            write_hgrm(BufWriter::new(file), histogram, NS_PER_MS).context("writing a percentile file")?;
            files.insert(format!("hgrm.{}", metric.name()), relative(&path));
        }
        let live = &self.shared.live;
        let begin_ns = self.shared.phases.measured.start;
        let end_ns = self.shared.phases.measured.end.min(live.produced_ns.load(SeqCst)).max(begin_ns);
        let seconds = (end_ns - begin_ns) as f64 / 1e9;
        let mut produced = flow(&self.total.produced_measured, seconds);
        produced.unsent = live.unsent.load(SeqCst);
        let consumed = self.consumed_flow(seconds);
        let client = self.client_use(plan, options, produced.records_per_s, &latency);
        let run = Run {
            name: self.name.to_owned(),
            plan: self.as_found(plan, &outcome),
            seconds,
            intended_per_s: plan.records_per_s(),
            produced,
            consumed,
            server: server_use(self.begin, self.end, &produced),
            server_consuming: match self.reads_afterwards() {
                true => server_use(self.reading, self.consumed, &consumed),
                false => None,
            },
            caught_up_s: self.caught_up_s(),
            verification: verification(plan, &mut outcome),
            errors: std::mem::take(&mut outcome.errors),
            latency,
            client,
            files,
        };
        let response = std::mem::replace(&mut self.total.latency[0], histogram());
        let third = self.medians_ms.len().div_ceil(3);
        Ok(Done {
            run,
            response,
            p50_first_third_ms: mean(&self.medians_ms[..third]),
            p50_last_third_ms: mean(&self.medians_ms[self.medians_ms.len() - third..]),
            interrupted: outcome.interrupted,
        })
    }

    /// The plan, with the partitions that topics have which were there already.
    fn as_found(&self, plan: &Plan, outcome: &Outcome) -> Plan {
        let mut plan = plan.clone();
        if self.shared.uses_existing_topics {
            let each = outcome.part_names.len() / plan.topic_names().len().max(1);
            plan.partitions = i32::try_from(each).unwrap_or(plan.partitions);
        }
        plan
    }

    /// Whether consumers began when producers were done: then they are measured by themselves.
    fn reads_afterwards(&self) -> bool {
        self.shared.plan.groups * self.shared.plan.consumers > 0
            && self.shared.phases.consume_ns >= self.shared.live.produced_ns.load(SeqCst)
    }

    fn consumed_flow(&self, seconds: f64) -> Flow {
        let Phases { measured, consume_ns } = &self.shared.phases;
        let read_s = |from_ns| self.shared.live.consumed_ns.load(SeqCst).saturating_sub(from_ns) as f64 / 1e9;
        if self.reads_afterwards() {
            return flow(&self.total.consumed, read_s(*consume_ns));
        }
        match self.shared.plan.records {
            // Measured until the last one is read: see `Phases::of`.
            Some(_) => flow(&self.total.consumed_measured, read_s(measured.start.max(*consume_ns))),
            None => flow(&self.total.consumed_measured, seconds),
        }
    }

    fn caught_up_s(&self) -> Option<f64> {
        let live = &self.shared.live;
        let caught_up_ns = live.caught_up_ns.load(SeqCst);
        let consumers = live.consumers.load(SeqCst);
        let have_all = caught_up_ns > 0 && live.consumers_caught_up.load(SeqCst) == consumers;
        have_all.then(|| caught_up_ns.saturating_sub(self.shared.phases.consume_ns) as f64 / 1e9)
    }

    fn client_use(
        &self,
        plan: &Plan,
        options: &RunOptions,
        records_per_s: f64,
        latency: &BTreeMap<Metric, crate::result::report::Latency>,
    ) -> ClientUse {
        let (Some(begin), Some(end)) = (self.begin, self.end) else {
            return ClientUse { cores: options.cores.clone(), ..ClientUse::default() };
        };
        let seconds = end.at_ns.saturating_sub(begin.at_ns) as f64 / 1e9;
        let cpu_s = end.client.cpu_s - begin.client.cpu_s;
        let cpu_share = if seconds > 0.0 { cpu_s / seconds / options.cores.len() as f64 } else { 0.0 };
        let own_lag_us = self.total.own_lag.value_at_quantile(0.99) as f64 / 1e3;
        let response_us =
            latency.get(&Metric::Response).and_then(|it| it.percentiles_us.get("99")).copied().unwrap_or(0.0);
        let held = plan.records_per_s().is_some_and(|intended| records_per_s >= intended * HELD_SHARE);
        let client_bound = if cpu_share > BUSY_SHARE && !held {
            Some(format!(
                "client-bound: the generator's cores were busy for {:.0}% of the time",
                cpu_share * 100.0
            ))
        } else if !self.total.own_lag.is_empty()
            && own_lag_us > OWN_LAG_FINE_US
            && own_lag_us > response_us / 2.0
        {
            Some(format!(
                "client-bound: the generator itself was {own_lag_us:.0} µs late at the 99th percentile, with \
                 nothing in its way"
            ))
        } else {
            None
        };
        ClientUse { cores: options.cores.clone(), cpu_share, cpu_s, client_bound }
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn relative(path: &Path) -> PathBuf {
    path.file_name().map(PathBuf::from).unwrap_or_default()
}

/// A step's name as part of a file's.
fn file_name(step: &str) -> String {
    let plain =
        |letter: char| if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '-' };
    step.chars().map(plain).collect()
}

fn flow(counts: &Counts, seconds: f64) -> Flow {
    let per_s = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    Flow {
        records: counts.records,
        bytes: counts.bytes,
        requests: counts.requests,
        records_per_s: per_s(counts.records),
        mb_per_s: per_s(counts.bytes) / 1e6,
        errors: counts.errors,
        timeouts: counts.timeouts,
        reconnects: counts.reconnects,
        unsent: 0,
    }
}

fn server_use(begin: Option<Edge>, end: Option<Edge>, flow: &Flow) -> Option<ServerUse> {
    let (begin, end) = (begin?, end?);
    let (first, last) = (begin.server?, end.server?);
    let cpu_s = last.cpu_s - first.cpu_s;
    let per = |count: u64, unit: f64| if count > 0 { cpu_s * unit / count as f64 } else { 0.0 };
    Some(ServerUse {
        cpu_s,
        cpu_us_per_record: per(flow.records, 1e6),
        cpu_s_per_gb: per(flow.bytes, 1e9),
        resident_bytes: last.resident_bytes,
        start_ms: None,
    })
}

fn verification(plan: &Plan, outcome: &mut Outcome) -> Option<Verification> {
    if !plan.verify || plan.groups * plan.consumers == 0 {
        return None;
    }
    let promise = Promise {
        // What was under way when the run was interrupted was not read to the end.
        may_lose: plan.acks == Acks::None || outcome.interrupted,
        // What is sent again is recognised: nothing is without idempotence.
        may_duplicate: false,
        may_reorder: false,
    };
    let groups: Vec<_> = std::mem::take(&mut outcome.verifiers).into_values().collect();
    let name_of = |part: u32| {
        let name = usize::try_from(part).ok().and_then(|part| outcome.part_names.get(part));
        name.cloned().unwrap_or_else(|| format!("partition {part}"))
    };
    Some(judge(&groups, &outcome.sent, promise, &name_of))
}
