//! `cargo xtask groups`: a thousand groups that commit ten partitions each a second, and a `kill -9` in
//! the midst of it: what the commits cost, and how soon after the kill every group has its offsets
//! again. In rounds, without members and with one in each group; beside it, if asked for, Apache Kafka
//! in turns. The broker has the first core and the load the second; nothing else should run. Not part
//! of `cargo xtask test`.
//!
//! That nothing acknowledged is missing or has gone back is `corelog bench groups`' to find: a run that
//! says otherwise ends this with an error.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;
use serde_json::Value;

use crate::broker::{Broker, BrokerKind, BrokerOptions, Purpose};
use crate::machine::{Machine, as_f64, now};
use crate::process::{Conversation, tail, tethered};
use crate::project::Project;
use crate::setup::Toolbox;
use crate::versus::statistics::Spread;

const BROKER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;
const WARM_UP_S: u32 = 5;
/// What setting up, and coming back, may take besides.
const LIMIT: Duration = Duration::from_secs(180);
/// After deletions, which a device may take a while over.
const SETTLE: Duration = Duration::from_secs(3);
/// The kill comes somewhere within so much of the load, which goes on.
const KILL_WITHIN_MS: u64 = 1_000;

/// What is measured how often.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How often everything is measured; the page shows medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Measure Apache Kafka too, in turns
    #[arg(long)]
    kafka: bool,
    /// Groups
    #[arg(long, default_value_t = 1_000)]
    groups: u32,
    /// Partitions in each commit
    #[arg(long, default_value_t = 10)]
    partitions: u32,
    /// How long commits are measured in each round, in seconds
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Write the page docs/benchmarks/<date>-groups.md, with <date>-groups.json
    #[arg(long)]
    page: bool,
}

/// One line of the page.
struct Line {
    what: &'static str,
    unit: &'static str,
    of: fn(&Sample) -> f64,
}

const LINES: &[Line] = &[
    Line { what: "commits acknowledged", unit: "/s", of: |it| it.commits_per_s },
    Line { what: "server CPU, share of a core", unit: "%", of: |it| it.cpu_percent },
    Line { what: "server CPU a commit", unit: "µs", of: |it| it.cpu_us_per_commit },
    Line { what: "commit, p50", unit: "ms", of: |it| it.p50_ms },
    Line { what: "commit, p99", unit: "ms", of: |it| it.p99_ms },
    Line { what: "commit, longest", unit: "ms", of: |it| it.max_ms },
    Line { what: "resident memory", unit: "MB", of: |it| it.memory_mb },
    Line { what: "after the kill: connected", unit: "ms", of: |it| it.connected_ms },
    Line { what: "after the kill: the first group's offsets", unit: "ms", of: |it| it.first_ms },
    Line { what: "after the kill: all groups' offsets", unit: "ms", of: |it| it.all_ms },
    Line { what: "`__consumer_offsets` on disk", unit: "MB", of: |it| it.topic_mb },
    Line { what: "data directory on disk", unit: "MB", of: |it| it.data_mb },
];

/// What one broker did in one round.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Sample {
    broker: &'static str,
    members: bool,
    round: u32,
    commits_per_s: f64,
    cpu_percent: f64,
    cpu_us_per_commit: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    memory_mb: f64,
    connected_ms: f64,
    first_ms: f64,
    all_ms: f64,
    topic_mb: f64,
    data_mb: f64,
    /// Offsets that were acknowledged, and were all there after the kill.
    offsets: u64,
    /// What was refused, or not answered, before the kill.
    errors: u64,
    /// What made the load generator the bottleneck, if it was.
    client_bound: Option<String>,
}

/// Everything, for the file beside the page.
#[derive(Serialize)]
struct Results<'a> {
    started: String,
    revision: String,
    machine: &'a Machine,
    rounds: u32,
    groups: u32,
    partitions: u32,
    seconds: u32,
    samples: &'a [Sample],
}

/// Runs all rounds; whether every commit was acknowledged, and every offset was there again.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<bool> {
    let started = now()?;
    let mut own = CpuSet::new();
    own.set(CLIENT_CORE)?;
    sched_setaffinity(Pid::from_raw(0), &own).context("this needs two cores")?;
    let ours = BrokerKind::corelog(project)?;
    let BrokerKind::Corelog { binary } = &ours else { bail!("a build of Corelog") };
    let mut kinds = vec![ours.clone()];
    if arguments.kafka {
        kinds.push(BrokerKind::kafka(&Toolbox::prepare(project)?)?);
    }
    let lab = Lab { project, binary, arguments };
    let mut samples = Vec::new();
    for round in 1..=arguments.rounds {
        println!("round {round} of {}", arguments.rounds);
        for members in [false, true] {
            for kind in &kinds {
                let sample = lab.measure(kind, members, round).with_context(|| {
                    format!("{}, {}", kind.name(), if members { "with members" } else { "without members" })
                })?;
                println!("{}", sample.line());
                samples.push(sample);
            }
        }
    }
    let machine = Machine::describe(&project.scratch())?;
    let text = render(arguments, &samples, &machine, &started)?;
    print!("\n{text}");
    if arguments.page {
        let results = Results {
            started: started.clone(),
            revision: project.revision(),
            machine: &machine,
            rounds: arguments.rounds,
            groups: arguments.groups,
            partitions: arguments.partitions,
            seconds: arguments.seconds,
            samples: &samples,
        };
        let name = format!("{}-groups", &started[..10]);
        let folder = project.root().join("docs/benchmarks");
        fs::write(folder.join(format!("{name}.json")), serde_json::to_string_pretty(&results)? + "\n")?;
        let page = folder.join(format!("{name}.md"));
        fs::write(&page, text)?;
        println!("\nwritten to {}", page.display());
    }
    Ok(samples.iter().all(|sample| sample.errors == 0))
}

struct Lab<'a> {
    project: &'a Project,
    binary: &'a Path,
    arguments: &'a Arguments,
}

impl Lab<'_> {
    /// One broker from its first start over the load and the kill to its end.
    fn measure(&self, kind: &BrokerKind, members: bool, round: u32) -> Result<Sample> {
        nix::unistd::sync();
        thread::sleep(SETTLE);
        let purpose = Purpose::Compare { core: BROKER_CORE };
        let name = format!("groups-{}", kind.name());
        let mut broker =
            Broker::start(self.project, kind, BrokerOptions { purpose, ..BrokerOptions::named(&name) })?;
        let report = self.load_and_kill(&mut broker, &name, members)?;
        broker.check_running()?;
        broker.terminate()?;
        let data = broker.data_folder();
        let topic_bytes = topic_bytes(kind, &data)?;
        let sample = Sample {
            broker: kind.name(),
            members,
            round,
            topic_mb: as_f64(topic_bytes) / 1e6,
            data_mb: as_f64(disk_bytes(&data)?) / 1e6,
            ..Sample::of(&report)?
        };
        broker.verify_data()?;
        broker.discard()?;
        Ok(sample)
    }

    /// Runs the load, kills the broker under it, starts it again, and lets the load find its offsets.
    fn load_and_kill(&self, broker: &mut Broker, name: &str, members: bool) -> Result<Value> {
        let out = self.project.scratch().join(format!("{name}-load"));
        if out.exists() {
            fs::remove_dir_all(&out)?;
        }
        let log = self.project.logs().join(format!("{name}-load.log"));
        let pid = broker.pid().context("the broker runs")?;
        let Arguments { groups, partitions, seconds, .. } = self.arguments;
        let mut command = tethered(self.binary);
        command
            .args(["bench", "groups", "--through-restart", "--quiet"])
            .args(["--bootstrap", &broker.address().to_string(), "--server-pid", &pid.to_string()])
            .args(["--cores", &CLIENT_CORE.to_string(), "--groups", &groups.to_string()])
            .args(["--partitions", &partitions.to_string(), "--warm-up", &WARM_UP_S.to_string()])
            .args(["--duration", &seconds.to_string(), "--out"])
            .arg(&out);
        if members {
            command.arg("--members");
        }
        let load = Conversation::start(command, &log)?;
        let time = Duration::from_secs(u64::from(WARM_UP_S + seconds)) + LIMIT;
        hear(&load, "measured", time)?;
        thread::sleep(Duration::from_millis(fastrand::u64(..KILL_WITHIN_MS)));
        broker.kill()?;
        broker.spawn()?;
        hear(&load, "lost", LIMIT)?;
        load.finish(LIMIT).with_context(|| format!("the load{}", tail(&log)))?;
        let path = out.join("report.json");
        let text = fs::read(&path).with_context(|| format!("no report{}", tail(&log)))?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }
}

/// Waits for a line that begins so.
fn hear(load: &Conversation, word: &str, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    let line = load.hear(deadline.saturating_duration_since(Instant::now()))?;
    ensure!(line.starts_with(word), "the load said {line:?} instead of {word}");
    Ok(())
}

impl Sample {
    /// What a report of `corelog bench groups` says.
    fn of(report: &Value) -> Result<Self> {
        let at =
            |pointer: &str| report.pointer(pointer).with_context(|| format!("the report has no {pointer}"));
        let number = |pointer: &str| -> Result<f64> {
            at(pointer)?.as_f64().with_context(|| format!("{pointer} is no number"))
        };
        let count = |pointer: &str| -> Result<u64> {
            at(pointer)?.as_u64().with_context(|| format!("{pointer} is no count"))
        };
        let response = "/runs/0/latency/response";
        // Few samples bear no high percentile.
        let percentile_ms = |name: &str| {
            let us = report.pointer(&format!("{response}/percentiles_us/{name}")).and_then(Value::as_f64);
            us.map_or(f64::NAN, |us| us / 1e3)
        };
        ensure!(
            at("/runs/0/verification/as_promised")?.as_bool() == Some(true),
            "offsets are not as promised: {}",
            at("/runs/0/verification/findings")?
        );
        let errors = at("/runs/0/errors")?.as_object().context("errors by name")?;
        Ok(Self {
            commits_per_s: number("/runs/0/commits_per_s")?,
            cpu_percent: number("/runs/0/server/cpu_share")? * 100.0,
            cpu_us_per_commit: number("/runs/0/server/cpu_us_per_commit")?,
            p50_ms: percentile_ms("50"),
            p99_ms: percentile_ms("99"),
            max_ms: number(&format!("{response}/max_us"))? / 1e3,
            memory_mb: number("/runs/0/server/resident_bytes")? / 1e6,
            connected_ms: number("/runs/0/restart/connected_ms")?,
            first_ms: number("/runs/0/restart/first_ms")?,
            all_ms: number("/runs/0/restart/all_ms")?,
            offsets: count("/runs/0/verification/offsets")?,
            errors: errors.values().filter_map(Value::as_u64).sum(),
            client_bound: at("/runs/0/client/client_bound")?.as_str().map(str::to_owned),
            ..Self::default()
        })
    }

    fn line(&self) -> String {
        format!(
            "  {:8} {:15} {:.0} commits/s, CPU {:.1}% ({:.1} µs a commit), p99 {:.2} ms; first {:.0} ms, all {:.0} ms; \
             {} offsets there, {} errors, topic {:.1} MB{}",
            self.broker,
            if self.members { "with members" } else { "without members" },
            self.commits_per_s,
            self.cpu_percent,
            self.cpu_us_per_commit,
            self.p99_ms,
            self.first_ms,
            self.all_ms,
            self.offsets,
            self.errors,
            self.topic_mb,
            self.client_bound.as_ref().map(|why| format!("; {why}")).unwrap_or_default(),
        )
    }
}

/// What the offsets' topic takes on disk. The load's own topic, beside it, has no records.
fn topic_bytes(kind: &BrokerKind, data: &Path) -> Result<u64> {
    if matches!(kind, BrokerKind::Corelog { .. }) {
        return disk_bytes(&data.join("topics"));
    }
    let mut bytes = 0;
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("__consumer_offsets-") {
            bytes += disk_bytes(&entry.path())?;
        }
    }
    Ok(bytes)
}

/// Blocks that are allocated to what is in a folder; none for what is not there or goes meanwhile.
pub(crate) fn disk_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    if !folder.exists() {
        return Ok(0);
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        // POSIX counts blocks of 512 bytes, whatever the file system's are.
        bytes += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}

fn render(arguments: &Arguments, samples: &[Sample], machine: &Machine, started: &str) -> Result<String> {
    let Arguments { rounds, groups, partitions, seconds, .. } = arguments;
    let (date, mut text) = (&started[..10], String::new());
    writeln!(text, "# {} groups that commit\n", grouped(*groups))?;
    writeln!(
        text,
        "Measured on {date} by `cargo xtask groups --rounds {rounds}{} --page`: medians of {rounds} rounds, with the \
         smallest and the largest value in brackets; every sample is in [{date}-groups.json]({date}-groups.json). {} \
         groups commit {partitions} partitions each, once a second, spread evenly over it, over 8 connections; the \
         times of commits count from when each was due. Default options, so that a commit of Corelog is acknowledged \
         after the sync{}. The broker has one core and the load another; the CPU is that of all threads of the broker, \
         over {seconds} s after a warm-up of {WARM_UP_S} s.\n",
        if arguments.kafka { " --kafka" } else { "" },
        grouped(*groups),
        if arguments.kafka { ", and one of Apache Kafka before it" } else { "" },
    )?;
    writeln!(
        text,
        "Then `kill -9` while commits go on, and the broker is started again at once. Times after the kill count from \
         the loss of the connections, and so include the start of the process: until a client was connected again, \
         until the first group's offsets were read, and until those of all groups were, each asked for as its consumer \
         would. Sizes are of blocks allocated, after the broker was stopped at the end of the round.\n"
    )?;
    let mut by: BTreeMap<(bool, &str), Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        by.entry((sample.members, sample.broker)).or_default().push(sample);
    }
    for (members, title) in
        [(false, "Without members"), (true, "With one member in each group (the consumer protocol, KIP-848)")]
    {
        writeln!(text, "## {title}\n")?;
        let columns: Vec<_> = by.iter().filter(|((of, _), _)| *of == members).collect();
        let names: Vec<&str> = columns.iter().map(|((_, broker), _)| title_of(broker)).collect();
        writeln!(text, "| What | {} |\n|---|{}", names.join(" | "), "---:|".repeat(names.len()))?;
        for Line { what, unit, of } in LINES {
            let cells: Vec<String> =
                columns.iter().map(|(_, samples)| cell(samples.iter().map(|it| of(it)), unit)).collect();
            writeln!(text, "| {what} | {} |", cells.join(" | "))?;
        }
        writeln!(text)?;
    }
    let offsets: u64 = samples.iter().map(|sample| sample.offsets).sum();
    let errors: u64 = samples.iter().map(|sample| sample.errors).sum();
    writeln!(
        text,
        "After the kills, all {} acknowledged offsets of all rounds were there, and none was lower than \
         acknowledged; {} commits or signs of life were refused before them.\n",
        grouped_u64(offsets),
        grouped_u64(errors)
    )?;
    for sample in samples {
        if let Some(why) = &sample.client_bound {
            writeln!(text, "- Round {}, {}: {why}.", sample.round, title_of(sample.broker))?;
        }
    }
    let memory_mb = machine.memory_bytes / 1_000_000;
    writeln!(text, "{}, {} cores, {memory_mb} MB of memory;", machine.cpu, machine.cores)?;
    writeln!(text, "Linux {}; {} on {}.", machine.kernel, machine.file_system, machine.device)?;
    Ok(text)
}

fn title_of(broker: &str) -> &str {
    match broker {
        "corelog" => "Corelog",
        "kafka" => "Apache Kafka",
        other => other,
    }
}

/// A median with its spread.
pub(crate) fn cell(values: impl Iterator<Item = f64>, unit: &str) -> String {
    match Spread::of(values) {
        None => "-".to_owned(),
        Some(Spread { median, min, max, .. }) => {
            format!("{} {unit} ({} to {})", number(median), number(min), number(max))
        }
    }
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn grouped(number: u32) -> String {
    grouped_u64(u64::from(number))
}

/// With its thousands apart.
fn grouped_u64(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Value {
        json!({"runs": [{
            "commits_per_s": 1000.0, "errors": {"OffsetCommit: REFUSED": 2, "x": 1},
            "server": {"cpu_share": 0.05, "cpu_us_per_commit": 50.0, "resident_bytes": 30_000_000},
            "client": {"client_bound": null},
            "latency": {"response": {"max_us": 9000.0, "percentiles_us": {"50": 1500.0, "99": 4000.0}}},
            "verification": {"as_promised": true, "offsets": 10_000, "findings": []},
            "restart": {"connected_ms": 20.0, "first_ms": 30.0, "all_ms": 90.0},
        }]})
    }

    #[test]
    fn a_report_is_read_and_one_with_lost_offsets_is_an_error() -> Result<()> {
        let sample = Sample::of(&report())?;
        assert_eq!((sample.cpu_percent, sample.p99_ms, sample.all_ms), (5.0, 4.0, 90.0));
        assert_eq!((sample.offsets, sample.errors), (10_000, 3));
        let mut lost = report();
        lost["runs"][0]["verification"] = json!({"as_promised": false, "findings": ["g, partition 1"]});
        let said = Sample::of(&lost).expect_err("offsets are lost").to_string();
        assert!(said.contains("g, partition 1"), "{said}");
        let mut without = report();
        without["runs"][0]["restart"] = json!(null);
        assert!(Sample::of(&without).is_err());
        Ok(())
    }

    #[test]
    fn the_page_has_a_median_for_each_broker_and_kind_of_group() -> Result<()> {
        let one = Sample { broker: "corelog", ..Sample::of(&report())? };
        let samples = [
            Sample { all_ms: 80.0, round: 1, ..one.clone() },
            Sample { all_ms: 120.0, round: 2, ..one.clone() },
            Sample { broker: "kafka", all_ms: 4_000.0, round: 1, ..one.clone() },
            Sample { members: true, p99_ms: f64::NAN, ..one },
        ];
        let arguments =
            Arguments { rounds: 2, kafka: true, groups: 1_000, partitions: 10, seconds: 30, page: false };
        let text = render(&arguments, &samples, &Machine::default(), "2026-11-22T07:00:00Z")?;
        let line = "| after the kill: all groups' offsets | 100 ms (80.0 to 120) | 4000 ms (4000 to 4000) |";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("| What | Corelog | Apache Kafka |") && text.contains("| What | Corelog |\n"));
        assert!(text.contains("| commit, p99 | - |"), "{text}");
        assert!(text.contains("all 40,000 acknowledged offsets"), "{text}");
        Ok(())
    }

    #[test]
    fn what_is_allocated_counts_and_what_is_not_there_is_nothing() -> Result<()> {
        let folder = tempfile::tempdir()?;
        assert_eq!(disk_bytes(&folder.path().join("none"))?, 0);
        fs::create_dir(folder.path().join("__consumer_offsets-7"))?;
        fs::write(folder.path().join("__consumer_offsets-7/0.log"), vec![1; 100_000])?;
        fs::write(folder.path().join("other"), vec![1; 100_000])?;
        nix::unistd::sync();
        let all = disk_bytes(folder.path())?;
        let external = BrokerKind::external("127.0.0.1:1")?;
        let topic = topic_bytes(&external, folder.path())?;
        assert!(topic >= 100_000 && all >= 2 * topic, "{topic} of {all}");
        Ok(())
    }
}
