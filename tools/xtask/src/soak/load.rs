//! The load: `corelog bench`, which verifies every record of a topic, one topic after the other.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::command::Commands;
use super::ground::{self, Ground, locked};
use super::plan::{Plan, Stream};
use super::readers::{LongTopic, look_again};
use crate::broker::Broker;
use crate::interrupts::Interrupts;
use crate::process::{self, Process, pinned};
use crate::project::Project;

const PARTITIONS: u32 = 8;
const GROUPS: u32 = 2;
/// Longer than any restart: an idempotent batch is sent again until it is answered.
const REQUEST_TIMEOUT_S: u32 = 120;
/// The load generator cannot begin with a node that is down; once it runs, it connects again.
const SET_UP: Duration = Duration::from_secs(3);
/// For consumers to read the rest, and for what was due in a restart to be sent.
const REST_LIMIT: Duration = Duration::from_secs(300);
const KNEE_LIMIT: Duration = Duration::from_secs(600);
const KNEE_P99_MS: u32 = 50;
/// For the files of a deleted topic to be gone, over a kill as well.
const REMOVAL_LIMIT: Duration = Duration::from_secs(60);
const REMOVAL_POLL: Duration = Duration::from_millis(100);

/// What came of one topic of the load.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Segment {
    pub(crate) topic: String,
    pub(crate) seconds: f64,
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    /// Neither acknowledged nor known not to be there.
    pub(crate) undecided: u64,
    /// Over all groups.
    pub(crate) read: u64,
    /// Records whose time came and that were never sent.
    pub(crate) unsent: u64,
    pub(crate) reconnects: u64,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) max_ms: Option<f64>,
    /// What the load generator was told on the way, and how often.
    pub(crate) errors: BTreeMap<String, u64>,
}

/// What is used of a report: see `bench/src/result/report.rs`.
#[derive(Debug, Deserialize)]
struct Report {
    runs: Vec<Run>,
    knee: Option<Knee>,
}

#[derive(Debug, Deserialize)]
struct Run {
    seconds: f64,
    produced: Flow,
    consumed: Flow,
    latency: BTreeMap<String, Latency>,
    verification: Option<Verification>,
    #[serde(default)]
    errors: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
struct Flow {
    reconnects: u64,
    #[serde(default)]
    unsent: u64,
}

#[derive(Debug, Deserialize)]
struct Latency {
    max_us: f64,
    percentiles_us: BTreeMap<String, f64>,
}

#[derive(Debug, Deserialize)]
struct Verification {
    sent: u64,
    acknowledged: u64,
    undecided: u64,
    read: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    corrupt: u64,
    as_promised: bool,
    findings: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Knee {
    records_per_s: f64,
}

/// What all runs have in common.
fn bench(plan: &Plan, address: std::net::SocketAddr, out: &Path) -> Command {
    let core = plan.client_core.to_string();
    let mut command = pinned(&plan.binary, plan.client_core);
    command
        .args(["bench", "--cores", &core, "--bootstrap", &address.to_string()])
        .args(["--arrivals", "poisson", "--producers", "4", "--idempotent", "--linger-ms", "0"])
        .args(["--groups", &GROUPS.to_string(), "--consumers", "2"])
        .args(["--record-bytes", &plan.record_bytes.to_string()])
        .args(["--request-timeout", &REQUEST_TIMEOUT_S.to_string()])
        .args(["--seed", &plan.seed.to_string()])
        .arg("--out")
        .arg(out)
        .stdin(Stdio::null());
    command
}

/// Looks for the knee of the load on a node that has nothing else to do.
pub(crate) fn find_knee(project: &Project, plan: &Plan, broker: &mut Broker) -> Result<f64> {
    let out = fresh(&plan.folder(project).join("knee"))?;
    let mut command = bench(plan, broker.address(), &out);
    command
        .args(["--sweep", "--sweep-p99-ms", &KNEE_P99_MS.to_string()])
        .args(["--partitions", &PARTITIONS.to_string()])
        .args(["--topic-config", &format!("corelog.durability={}", plan.durability.name())]);
    let log = out.join("log");
    let output = File::create(&log)?;
    command.stdout(output.try_clone()?).stderr(output);
    let mut process = Process::spawn(&mut command, &log)?;
    let status = ground::wait(&mut process, KNEE_LIMIT, Interrupts::raised)?;
    broker.check_running()?;
    ensure!(status.success(), "{status}{}", process::tail(&log));
    let report = read_report(&out)?;
    Ok(report.knee.with_context(|| format!("no knee was found{}", process::tail(&log)))?.records_per_s)
}

/// Loads one topic after the other until the end, and judges each. What is wrong with one ends it.
pub(crate) fn run(ground: &Ground<'_>, records_per_s: f64, segments: &Mutex<Vec<Segment>>) -> Result<()> {
    let commands = Commands::new(ground, "load");
    let load = Load { ground, commands: &commands, records_per_s };
    for number in 1.. {
        let left = ground.ends.saturating_duration_since(Instant::now());
        let Some(duration) = ground.plan.segment(left).filter(|_| !ground.is_aborted()) else { break };
        let topic = format!("soak-{number}");
        let segment = load.one(&topic, duration).with_context(|| format!("topic {topic}"))?;
        locked(segments).push(segment);
    }
    Ok(())
}

struct Load<'a> {
    ground: &'a Ground<'a>,
    commands: &'a Commands<'a>,
    records_per_s: f64,
}

impl Load<'_> {
    fn one(&self, topic: &str, duration: Duration) -> Result<Segment> {
        let durability = self.ground.plan.durability.name();
        self.commands.create(topic, PARTITIONS, &[("corelog.durability", durability.to_owned())])?;
        *self.ground.long.write().unwrap_or_else(PoisonError::into_inner) = Some(LongTopic::new(topic)?);
        let segment = self.drive(topic, duration)?;
        self.ground.say(format!("{topic}: reading again, deleting"));
        // From here on nobody reads it.
        let long = self.ground.long.write().unwrap_or_else(PoisonError::into_inner).take();
        let mut random = self.ground.plan.random(Stream::LastLooks);
        look_again(self.ground, &long.context("it is the topic of the load")?, &mut random)?;
        let id = self.commands.describe(topic)?.id;
        self.commands.delete(topic)?;
        self.wait_for_removal(&id)?;
        Ok(segment)
    }

    fn drive(&self, topic: &str, duration: Duration) -> Result<Segment> {
        let out = fresh(&self.ground.folder.join(topic))?;
        let mut command = bench(self.ground.plan, self.ground.address, &out);
        command
            .args(["--topic", topic, "--partitions", &PARTITIONS.to_string()])
            .args(["--rate", &format!("{:.3}", self.records_per_s)])
            .args(["--warm-up", "0", "--duration", &format!("{:.3}", duration.as_secs_f64())]);
        let log = out.join("log");
        let output = File::create(&log)?;
        command.stdout(output.try_clone()?).stderr(output);
        self.ground.say(format!("{topic}, see {}", log.display()));
        self.ground.spare_node_for(SET_UP);
        let mut process = Process::spawn(&mut command, &log)?;
        let status = self.ground.wait(&mut process, duration + REST_LIMIT)?;
        judge(topic, &out, &log, status)
    }

    /// The space of a deleted topic comes back.
    fn wait_for_removal(&self, id: &str) -> Result<()> {
        let folder = self.ground.data.join("topics").join(id);
        let deadline = Instant::now() + REMOVAL_LIMIT;
        while folder.exists() {
            ensure!(!self.ground.is_aborted(), "given up, since the soak ends");
            ensure!(
                Instant::now() < deadline,
                "the topic was deleted, and its files are still there after {} s: {}",
                REMOVAL_LIMIT.as_secs(),
                folder.display()
            );
            std::thread::sleep(REMOVAL_POLL);
        }
        Ok(())
    }
}

fn fresh(folder: &Path) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    Ok(folder.to_path_buf())
}

fn read_report(out: &Path) -> Result<Report> {
    let text = fs::read_to_string(out.join("report.json")).context("the load generator left no report")?;
    serde_json::from_str(&text).context("the load generator's report has another form")
}

/// Whether all records are there once and in order, and what else the report says.
fn judge(topic: &str, out: &Path, log: &Path, status: ExitStatus) -> Result<Segment> {
    let report = read_report(out).with_context(|| format!("{status}{}", process::tail(log)))?;
    let run = report.runs.into_iter().next().context("the report has no run")?;
    let verification = run.verification.as_ref().context("nothing was verified")?;
    let Verification { lost, duplicated, reordered, corrupt, .. } = *verification;
    if !verification.as_promised || lost + duplicated + reordered + corrupt > 0 {
        let findings = verification.findings.join("; ");
        bail!("{lost} lost, {duplicated} duplicated, {reordered} reordered, {corrupt} corrupt: {findings}");
    }
    ensure!(status.success(), "{status}{}", process::tail(log));
    // Every group reads what was acknowledged, and may read what was undecided.
    let (groups, least) = (u64::from(GROUPS), verification.acknowledged);
    ensure!(
        (least * groups..=verification.sent * groups).contains(&verification.read),
        "{groups} groups read {} records, where {least} of {} sent were acknowledged",
        verification.read,
        verification.sent
    );
    let response = run.latency.get("response");
    Ok(Segment {
        topic: topic.to_owned(),
        seconds: run.seconds,
        sent: verification.sent,
        acknowledged: verification.acknowledged,
        undecided: verification.undecided,
        read: verification.read,
        unsent: run.produced.unsent,
        reconnects: run.produced.reconnects + run.consumed.reconnects,
        p99_ms: response.and_then(|it| it.percentiles_us.get("99")).map(|us| us / 1e3),
        max_ms: response.map(|it| it.max_us / 1e3),
        errors: run.errors,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use serde_json::json;

    use super::*;

    fn judged(change: impl FnOnce(&mut serde_json::Value), code: i32) -> Result<Segment> {
        let folder = tempfile::tempdir()?;
        let flow = json!({"records": 10, "reconnects": 1, "unsent": 0});
        let mut report = json!({"format": 1, "knee": null, "runs": [{
            "seconds": 3.0, "produced": flow, "consumed": flow,
            "latency": {"response": {"samples": 10, "max_us": 9_000.0, "percentiles_us": {"99": 8_000.0}}},
            "verification": {"sent": 10, "acknowledged": 9, "undecided": 1, "read": 19, "lost": 0, "duplicated": 0,
                "reordered": 0, "corrupt": 0, "foreign": 0, "as_promised": true, "findings": []},
            "errors": {"connection refused": 2}
        }]});
        change(&mut report);
        fs::write(folder.path().join("report.json"), report.to_string())?;
        judge("t", folder.path(), Path::new(""), ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn a_run_is_as_promised_or_an_error() -> Result<()> {
        let segment = judged(|_| (), 0)?;
        assert_eq!((segment.read, segment.undecided, segment.reconnects), (19, 1, 2));
        assert_eq!(segment.max_ms, Some(9.0));
        assert!(judged(|_| (), 1).is_err(), "it ended with an error");
        for wrong in ["lost", "duplicated", "reordered", "corrupt"] {
            let outcome = judged(|report| report["runs"][0]["verification"][wrong] = 1.into(), 0);
            assert!(outcome.is_err(), "{wrong} went unnoticed");
        }
        assert!(judged(|report| report["runs"][0]["verification"] = json!(null), 0).is_err());
        for read in [17, 21] {
            assert!(judged(|report| report["runs"][0]["verification"]["read"] = read.into(), 0).is_err());
        }
        Ok(())
    }
}
