//! `cargo xtask soak`: one node under load for a long time, killed again and again.
//!
//! The load generator drives half of what the node can take and verifies every record; topics come
//! and go beside it; readers begin anywhere; `kill -9` comes at moments that the seed draws. At the
//! end no record is lost, doubled or out of order, memory is flat, and each warning in the node's
//! log has a reason, or the soak has failed.
//!
//! One thread has the node: it kills, starts, and watches it. Each other task has a thread of its
//! own and works with child processes, so that what is tested is what a user has. The first
//! violation ends all of them, and leaves everything where it is.

mod churn;
mod command;
mod ground;
mod load;
mod log;
mod page;
mod plan;
mod readers;
mod watch;

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;

use self::ground::{Ground, Totals, locked};
use self::load::Segment;
use self::log::Findings;
pub(crate) use self::plan::Arguments;
use self::plan::{Plan, Rate};
use self::watch::{Memory, Sample};
use crate::broker::{Broker, BrokerKind, BrokerOptions, Purpose};
use crate::interrupts::Interrupts;
use crate::machine::{self, Machine, as_f64};
use crate::process::{self, find};
use crate::project::Project;

const TICK: Duration = Duration::from_millis(20);
const READERS: u64 = 2;
/// Samples and lines of progress, of a soak that is longer than the short one.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
const PROGRESS_EVERY: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_secs(120);
const CONFIG_LIMIT: Duration = Duration::from_secs(10);
/// Lines of the log that are printed when nothing explains them.
const LINES_SHOWN: usize = 20;

/// Everything about a soak, as it is written to the results' file.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    /// When it began: RFC 3339, UTC.
    started: String,
    revision: String,
    machine: Machine,
    seed: u64,
    /// Of the load.
    seconds: f64,
    kill_every_s: f64,
    shards: usize,
    durability: &'static str,
    record_bytes: u32,
    /// When it was looked for.
    knee_records_per_s: Option<f64>,
    records_per_s: f64,
    segments: Vec<Segment>,
    kills: Vec<Kill>,
    totals: Totals,
    memory: Memory,
    samples: Vec<Sample>,
    log: Findings,
    interrupted: bool,
    /// Empty when all is as it should be.
    violations: Vec<String>,
}

/// One `kill -9`.
#[derive(Debug, Clone, Copy, Serialize)]
struct Kill {
    /// Since the load's start.
    at_s: f64,
    /// From the start of the next process to its first answer.
    restart_ms: f64,
}

/// Runs a soak, and returns whether everything held.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<bool> {
    let _interrupts = Interrupts::watch()?;
    let outcome = soak(project, arguments)?;
    println!("\n{}", page::table(&outcome));
    for violation in &outcome.violations {
        println!("VIOLATION: {violation}");
    }
    if arguments.page {
        println!("{}", page::write(project, &outcome)?.display());
    }
    if outcome.interrupted {
        println!("interrupted after {:.0} s: no verdict", outcome.seconds);
    }
    Ok(outcome.violations.is_empty() && !outcome.interrupted)
}

/// The short form, as one of the project's checks.
pub(crate) fn short(project: &Project) -> Result<String> {
    let _interrupts = Interrupts::watch()?;
    let outcome = soak(project, &Arguments::short())?;
    ensure!(!outcome.interrupted, "interrupted");
    let seed = outcome.seed;
    if let Some(first) = outcome.violations.first() {
        bail!("seed {seed}: {first}");
    }
    Ok(format!("{}, seed {seed}", page::sentence(&outcome)))
}

fn soak(project: &Project, arguments: &Arguments) -> Result<Outcome> {
    ensure!(find("taskset").is_some(), "taskset is not there: install util-linux");
    let kind = match arguments.binary() {
        Some(binary) => BrokerKind::Corelog { binary: binary.to_path_buf() },
        None => BrokerKind::corelog(project)?,
    };
    let BrokerKind::Corelog { binary } = &kind else { bail!("Corelog is Corelog") };
    let (server_core, client_core) = cores()?;
    let plan = arguments.plan(binary.clone(), server_core, client_core)?;
    // A thread of its own, since what it starts ends with it, and since only it is moved.
    let outcome = thread::scope(|scope| {
        let soak = scope.spawn(|| {
            pin_this_thread(client_core)?;
            attempt(project, &plan, &kind)
        });
        soak.join()
    });
    outcome.map_err(|_| anyhow!("the soak's own thread ended in a panic"))?
}

/// The first and the last core that this process may use: the node's and the clients'.
fn cores() -> Result<(usize, usize)> {
    let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))?;
    let is_allowed = |core: &usize| allowed.is_set(*core).unwrap_or(false);
    let allowed: Vec<usize> = (0..nix::sched::CpuSet::count()).filter(is_allowed).collect();
    let (first, last) = allowed.first().zip(allowed.last()).context("this process may use no core")?;
    if first == last {
        println!("there is only one core: the node and its clients share it");
    }
    Ok((*first, *last))
}

fn pin_this_thread(core: usize) -> Result<()> {
    let mut cores = nix::sched::CpuSet::new();
    cores.set(core)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cores).context("choosing a core")
}

fn attempt(project: &Project, plan: &Plan, kind: &BrokerKind) -> Result<Outcome> {
    println!("seed {}, node on core {}, clients on core {}", plan.seed, plan.server_core, plan.client_core);
    let machine = Machine::describe(&project.scratch())?;
    let (records_per_s, knee_records_per_s) = rate(project, plan, kind)?;
    plan.check_space(records_per_s, free_bytes(project)?)?;
    println!(
        "{records_per_s:.0} records/s of {} bytes for {:.0} s, {} kills, at most {:.1} GB on disk",
        plan.record_bytes,
        plan.duration.as_secs_f64(),
        plan.kills().len(),
        plan.disk_need(records_per_s) / 1e9,
    );
    let started = machine::now()?;
    let budget_mb = budget_mb(project, plan)?;
    let mut broker = Broker::prepare(project, kind, options("soak", plan))?;
    broker.restart()?;
    let ground = Ground::new(project, plan, broker.address(), broker.data_folder());
    let mut supervisor = Supervisor::new(&ground, broker);
    let segments = drive(&ground, &mut supervisor, records_per_s);
    let seconds = ground.seconds();
    let Supervisor { broker, kills, samples, .. } = supervisor;
    let mb_per_s = records_per_s * f64::from(plan.record_bytes) / 1e6;
    let memory = Memory::of(
        &samples,
        budget_mb + watch::OVERHEAD_MB,
        watch::FILLS * budget_mb / mb_per_s,
        plan.recreate_every.as_secs_f64(),
    );
    let mut violations: Vec<String> = ground.violation().into_iter().collect();
    violations.extend(memory.complaints());
    end(plan, broker, &mut violations);
    let log = judge_log(project, &mut violations)?;
    Ok(Outcome {
        started,
        revision: project.revision(),
        machine,
        seed: plan.seed,
        seconds,
        kill_every_s: plan.kill_every.as_secs_f64(),
        shards: plan.shards,
        durability: plan.durability.name(),
        record_bytes: plan.record_bytes,
        knee_records_per_s,
        records_per_s,
        segments,
        kills,
        totals: ground.counts.totals(),
        memory,
        samples,
        log,
        interrupted: Interrupts::raised(),
        violations,
    })
}

/// The load's rate, and the knee when it is a share of that.
fn rate(project: &Project, plan: &Plan, kind: &BrokerKind) -> Result<(f64, Option<f64>)> {
    match plan.rate {
        Rate::RecordsPerS(rate) => Ok((rate, None)),
        Rate::ShareOfKnee(share) => {
            let knee = find_knee(project, plan, kind)?;
            Ok((knee * share, Some(knee)))
        }
    }
}

fn options(name: &str, plan: &Plan) -> BrokerOptions {
    BrokerOptions {
        shards: plan.shards,
        auto_create: false,
        purpose: Purpose::Soak { core: plan.server_core },
        ..BrokerOptions::named(name)
    }
}

fn find_knee(project: &Project, plan: &Plan, kind: &BrokerKind) -> Result<f64> {
    println!("looking for the knee");
    let mut broker = Broker::prepare(project, kind, options("soak-knee", plan))?;
    broker.restart()?;
    let knee = load::find_knee(project, plan, &mut broker)?;
    println!("the knee is at {knee:.0} records/s");
    broker.discard()?;
    // What it left in the page cache is not the soak's to write.
    nix::unistd::sync();
    Ok(knee)
}

fn free_bytes(project: &Project) -> Result<f64> {
    let system = nix::sys::statvfs::statvfs(&project.scratch())?;
    Ok(as_f64(system.blocks_available()) * as_f64(system.fragment_size()))
}

/// What the node's own defaults allow it to keep in memory.
fn budget_mb(project: &Project, plan: &Plan) -> Result<f64> {
    let mut command = Command::new(&plan.binary);
    command.args(["serve", "--print-config"]);
    let (stdout, log) = (project.scratch().join("soak-config"), project.logs().join("soak-config.log"));
    process::run_into(command, &stdout, &log, CONFIG_LIMIT)?;
    watch::budget_mb(&fs::read_to_string(&stdout)?, plan.shards)
}

/// Stops the node in good order, has it check what it left, and removes that. When something is
/// wrong already, the node is killed as it is, and its data stay.
fn end(plan: &Plan, mut broker: Broker, violations: &mut Vec<String>) {
    let data = broker.data_folder();
    let is_well = violations.is_empty() && !Interrupts::raised();
    let ended = match (is_well, plan.keep) {
        (true, false) => broker.stop(),
        (true, true) => broker.terminate().and_then(|()| broker.verify_data()),
        (false, _) => {
            drop(broker);
            Ok(())
        }
    };
    if let Err(error) = ended.context("ending the node") {
        violations.push(format!("{error:#}"));
    }
    if data.exists() {
        println!("the node's data are kept in {}", data.display());
    }
}

/// What the node's log says; lines that nothing explains are printed and are a violation.
fn judge_log(project: &Project, violations: &mut Vec<String>) -> Result<Findings> {
    let log = project.logs().join("soak.log");
    let findings = Findings::of(&fs::read_to_string(&log)?);
    for line in findings.unexplained.iter().take(LINES_SHOWN) {
        println!("unexplained: {line}");
    }
    if !findings.unexplained.is_empty() {
        let count = findings.unexplained.len();
        violations.push(format!("{count} unexplained lines in {}", log.display()));
    }
    Ok(findings)
}

/// Runs all tasks to their ends; the load's are what is returned.
fn drive(ground: &Ground<'_>, supervisor: &mut Supervisor<'_>, records_per_s: f64) -> Vec<Segment> {
    let segments = Mutex::new(Vec::new());
    let load = || load::run(ground, records_per_s, &segments).context("load");
    let churn = || churn::run(ground).context("churn");
    let reader = |number| move || readers::run(ground, number).context("readers");
    thread::scope(|scope| {
        let mut tasks = vec![scope.spawn(|| task(ground, load)), scope.spawn(|| task(ground, churn))];
        tasks.extend((0..READERS).map(|number| scope.spawn(move || task(ground, reader(number)))));
        while !tasks.iter().all(thread::ScopedJoinHandle::is_finished) {
            if !ground.is_aborted()
                && let Err(error) = supervisor.look()
            {
                ground.violate(&error);
            }
            thread::sleep(TICK);
        }
    });
    segments.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a task; its error, and a panic, end the soak.
fn task(ground: &Ground<'_>, task: impl FnOnce() -> Result<()>) {
    let outcome = panic::catch_unwind(AssertUnwindSafe(task));
    if let Err(error) = outcome.unwrap_or_else(|_| Err(anyhow!("a task of the soak ended in a panic"))) {
        ground.violate(&error);
    }
}

/// Has the node.
struct Supervisor<'a> {
    ground: &'a Ground<'a>,
    broker: Broker,
    /// That are still to come, the last one first.
    due: Vec<Duration>,
    kills: Vec<Kill>,
    samples: Vec<Sample>,
    sampled: Option<Instant>,
    told: Instant,
}

impl<'a> Supervisor<'a> {
    fn new(ground: &'a Ground<'a>, broker: Broker) -> Self {
        let mut due = ground.plan.kills();
        due.reverse();
        let (kills, samples) = (Vec::new(), Vec::new());
        Self { ground, broker, due, kills, samples, sampled: None, told: ground.began }
    }

    /// Does what is due.
    fn look(&mut self) -> Result<()> {
        self.broker.check_running()?;
        let is_due = self.due.last().is_some_and(|due| self.ground.began.elapsed() >= *due);
        if is_due && !self.ground.is_node_spared() {
            self.due.pop();
            self.kill()?;
        }
        // In a tenth of the time there are a tenth of the samples, but not fewer.
        let is_short = self.ground.plan.duration < SHORT;
        let sample_every = if is_short { SAMPLE_EVERY / 5 } else { SAMPLE_EVERY };
        if self.sampled.is_none_or(|sampled| sampled.elapsed() >= sample_every) {
            self.sampled = Some(Instant::now());
            let pid = self.broker.pid().context("the node runs")?;
            let (at_s, life) = (self.ground.seconds(), self.kills.len());
            self.samples.push(Sample::take(pid, &self.ground.data, at_s, life)?);
        }
        let progress_every = if is_short { PROGRESS_EVERY / 6 } else { PROGRESS_EVERY };
        if self.told.elapsed() >= progress_every {
            self.told = Instant::now();
            self.tell();
        }
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        let at_s = self.ground.seconds();
        self.ground.node_changes();
        self.broker.kill()?;
        let began = Instant::now();
        self.broker.restart().with_context(|| format!("after the kill at {at_s:.1} s"))?;
        let restart_ms = began.elapsed().as_secs_f64() * 1e3;
        self.ground.node_changes();
        println!("[{}] kill -9; answered again {restart_ms:.0} ms after its start", clock(at_s));
        self.kills.push(Kill { at_s, restart_ms });
        Ok(())
    }

    fn tell(&self) {
        let totals = self.ground.counts.totals();
        let Some(sample) = self.samples.last() else { return };
        println!(
            "[{} of {}] {:.0} MB resident, {:.0} MB on disk, {} topics came and {} went, {} reads; {}",
            clock(self.ground.seconds()),
            clock(self.ground.plan.duration.as_secs_f64()),
            sample.resident_mb,
            sample.disk_mb,
            totals.topics_created,
            totals.topics_deleted,
            totals.reads,
            locked(&self.ground.doing),
        );
    }
}

fn clock(seconds: f64) -> String {
    let seconds = Duration::from_secs_f64(seconds).as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// Where a page and its results go, for a date.
fn benchmarks(project: &Project) -> PathBuf {
    project.root().join("docs/benchmarks")
}
