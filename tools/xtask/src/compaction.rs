//! `cargo xtask compaction`: how much worse a tail's latency is while a topic beside it is compacted.
//!
//! In rounds, each with a node of its own: a topic is filled with keys that come again and again, and
//! is kept from being compacted; a tail is measured alone; then the topic may be compacted, and the
//! same tail is measured meanwhile. How far compaction came is read off the topic's files, and the
//! page says for how much of the measured time it was under way. The node has the first core and
//! everything else the second; nothing else should run. Not part of `cargo xtask test`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;

use crate::broker::{Broker, BrokerKind, BrokerOptions, Purpose};
use crate::groups::{cell, disk_bytes};
use crate::machine::{Machine, Usage, as_f64, now};
use crate::process::{run, tethered};
use crate::project::Project;
use crate::sink::{Generated, generate};
use crate::versus::statistics::Spread;

const NODE_CORE: usize = 0;
const CLIENT_CORE: usize = 1;
const LIMIT: Duration = Duration::from_secs(600);
/// After deletions and fills, which a device may take a while over.
const SETTLE: Duration = Duration::from_secs(3);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The files stand still for so long: nothing is compacted any more. While the keys of a partition are
/// looked for nothing changes.
const STILL: Duration = Duration::from_secs(20);
/// So compaction begins when it may, and not at the next look.
const SETTINGS: &str = "[compaction]\ncheck_interval_ms = 250\n";
const TOPIC: &str = "ledger";
const WARM_UP_S: u32 = 4;
/// How much worse the tail's p99 may be meanwhile.
const RATIO_MAX: f64 = 1.5;
const MIB: u64 = 1 << 20;

/// How much of everything.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How often everything is measured; the page shows medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Records to compact, in MiB
    #[arg(long, default_value_t = 1024)]
    topic_mib: u64,
    /// Different keys, drawn evenly
    #[arg(long, default_value_t = 100_000)]
    keys: u32,
    /// Partitions of the topic that is compacted
    #[arg(long, default_value_t = 4)]
    partitions: u32,
    /// Size of its segments, in MiB
    #[arg(long, default_value_t = 64)]
    segment_mib: u64,
    /// Records a second of the tail, 1 KiB each
    #[arg(long, default_value_t = 5_000)]
    rate: u32,
    /// How long the tail is measured each time, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=300))]
    seconds: u32,
    /// Write the page docs/benchmarks/<date>-compaction.md, with <date>-compaction.json
    #[arg(long)]
    page: bool,
}

/// The tail, measured once.
#[derive(Debug, Clone, Serialize)]
struct Tail {
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    /// Share of a core that the node used.
    cpu: f64,
}

/// What compaction did.
#[derive(Debug, Clone, Serialize)]
struct Compaction {
    /// Size of the topic's files before, and when nothing changed any more.
    before_mb: f64,
    after_mb: f64,
    /// From leave to compact to the last change of the files.
    took_s: f64,
    /// For how much of the time that the tail was measured it was under way.
    covered: f64,
}

#[derive(Debug, Clone, Serialize)]
struct Sample {
    round: u32,
    alone: Tail,
    beside: Tail,
    compaction: Compaction,
}

/// Everything, for the file beside the page.
#[derive(Serialize)]
struct Results<'a> {
    started: &'a str,
    revision: String,
    machine: &'a Machine,
    topic_mib: u64,
    keys: u32,
    rate: u32,
    seconds: u32,
    samples: &'a [Sample],
}

/// Runs all rounds; whether the aim is reached.
pub(crate) fn run_all(project: &Project, arguments: &Arguments) -> Result<bool> {
    let started = now()?;
    let mut own = CpuSet::new();
    own.set(CLIENT_CORE)?;
    sched_setaffinity(Pid::from_raw(0), &own).context("this needs two cores")?;
    let kind = BrokerKind::corelog(project)?;
    let BrokerKind::Corelog { binary } = &kind else { bail!("a build of Corelog") };
    let mut samples = Vec::new();
    for round in 1..=arguments.rounds {
        nix::unistd::sync();
        thread::sleep(SETTLE);
        let purpose = Purpose::Compare { core: NODE_CORE };
        let settings = SETTINGS.to_owned();
        let options = BrokerOptions { purpose, settings, ..BrokerOptions::named("compaction-node") };
        let mut broker = Broker::start(project, &kind, options)?;
        let sample = Stage { project, binary, broker: &broker, arguments }.play(round)?;
        println!("{}", sample.line());
        samples.push(sample);
        broker.terminate()?;
        broker.verify_data()?;
        broker.discard()?;
    }
    let machine = Machine::describe(&project.scratch())?;
    let text = render(arguments, &samples, &machine, &started)?;
    print!("\n{text}");
    if arguments.page {
        let results = Results {
            started: &started,
            revision: project.revision(),
            machine: &machine,
            topic_mib: arguments.topic_mib,
            keys: arguments.keys,
            rate: arguments.rate,
            seconds: arguments.seconds,
            samples: &samples,
        };
        let name = format!("{}-compaction", &started[..10]);
        let folder = project.root().join("docs/benchmarks");
        fs::write(folder.join(format!("{name}.json")), serde_json::to_string_pretty(&results)? + "\n")?;
        let page = folder.join(format!("{name}.md"));
        fs::write(&page, text)?;
        println!("\nwritten to {}", page.display());
    }
    Ok(ratio(&samples) <= RATIO_MAX)
}

fn ratio(samples: &[Sample]) -> f64 {
    Spread::of(samples.iter().map(Sample::ratio)).map_or(f64::NAN, |spread| spread.median)
}

struct Stage<'a> {
    project: &'a Project,
    binary: &'a Path,
    broker: &'a Broker,
    arguments: &'a Arguments,
}

impl Stage<'_> {
    fn play(&self, round: u32) -> Result<Sample> {
        let Arguments { topic_mib, keys, partitions, segment_mib, seconds, .. } = *self.arguments;
        let segment_bytes = format!("segment.bytes={}", segment_mib * MIB);
        // What is younger than an hour stays as it is, for now.
        let configs = ["cleanup.policy=compact", "min.compaction.lag.ms=3600000", &segment_bytes];
        let partitions = partitions.to_string();
        let mut create = vec!["topic", "create", TOPIC, "--partitions", &partitions];
        create.extend(configs.iter().flat_map(|config| ["--config", config]));
        self.command(&create)?;
        self.bench(
            "compaction-fill",
            &format!(
                "--topic {TOPIC} --arrivals max --records {} --record-bytes 1024 --keys uniform:{keys} --consumers 0 \
                 --no-verify --warm-up 0 --duration 550",
                topic_mib * 1024
            ),
        )?;
        thread::sleep(SETTLE);
        let folder = self.topic_folder()?;
        let alone = self.tail()?;
        let before = disk_bytes(&folder)?;
        let (is_measured, began) = (AtomicBool::new(false), Instant::now());
        let (beside, watched) = thread::scope(|scope| {
            let watcher = scope.spawn(|| self.let_compact(&folder, before, began, &is_measured));
            let beside = self.tail();
            is_measured.store(true, Ordering::Relaxed);
            (beside, watcher.join().expect("looking at files does not panic"))
        });
        let (begun_s, last_change_s, after) = watched?;
        // The measured time ended when the generator did, but for what it took to end.
        let measured = (f64::from(WARM_UP_S), f64::from(WARM_UP_S + seconds));
        let covered = (last_change_s.min(measured.1) - begun_s.max(measured.0)).max(0.0) / f64::from(seconds);
        let compaction = Compaction {
            before_mb: as_f64(before) / 1e6,
            after_mb: as_f64(after) / 1e6,
            took_s: last_change_s - begun_s,
            covered,
        };
        Ok(Sample { round, alone, beside: beside?, compaction })
    }

    /// Lets the topic be compacted once the tail is warm, and watches its files until they stand still
    /// and the tail is measured. When it was let, when they changed last, and their size then.
    fn let_compact(
        &self,
        folder: &Path,
        before: u64,
        began: Instant,
        is_measured: &AtomicBool,
    ) -> Result<(f64, f64, u64)> {
        let warm = Duration::from_secs(WARM_UP_S.into());
        thread::sleep(warm.saturating_sub(began.elapsed()));
        let begun_s = began.elapsed().as_secs_f64();
        let lag = "min.compaction.lag.ms=0";
        self.command(&["topic", "alter", TOPIC, "--set", lag, "--set", "min.cleanable.dirty.ratio=0.01"])?;
        let (mut bytes, mut changed) = (before, Instant::now());
        while bytes >= before || !is_measured.load(Ordering::Relaxed) || changed.elapsed() < STILL {
            ensure!(began.elapsed() < LIMIT, "compaction does not end");
            thread::sleep(LOOK_INTERVAL);
            let now_bytes = disk_bytes(folder)?;
            if now_bytes != bytes {
                (bytes, changed) = (now_bytes, Instant::now());
            }
        }
        Ok((begun_s, changed.duration_since(began).as_secs_f64(), bytes))
    }

    /// The only topic that there is before the first tail.
    fn topic_folder(&self) -> Result<PathBuf> {
        let topics = self.broker.data_folder().join("topics");
        let entries = fs::read_dir(&topics).with_context(|| topics.display().to_string())?;
        let folders = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        let [folder] = &folders[..] else { bail!("there are {} topics", folders.len()) };
        Ok(folder.clone())
    }

    /// Produces and consumes a tail at the rate.
    fn tail(&self) -> Result<Tail> {
        let Arguments { rate, seconds, .. } = self.arguments;
        let pid = self.broker.pid().context("the node runs")?;
        let (before, began) = (Usage::of(pid)?.cpu_s, Instant::now());
        let run = self.bench(
            "compaction-tail",
            &format!(
                "--arrivals constant --rate {rate} --producers 4 --consumers 1 --partitions 4 --record-bytes 1024 \
                 --batch-records 8 --linger-ms 1 --warm-up {WARM_UP_S} --duration {seconds}"
            ),
        )?;
        let cpu = (Usage::of(pid)?.cpu_s - before) / began.elapsed().as_secs_f64();
        let ms = |percentile: &str| -> Result<f64> {
            Ok(run.number(&format!("/runs/0/latency/end_to_end/percentiles_us/{percentile}"))? / 1e3)
        };
        Ok(Tail { p50_ms: ms("50")?, p99_ms: ms("99")?, p999_ms: ms("99.9").unwrap_or(f64::NAN), cpu })
    }

    fn bench(&self, name: &str, words: &str) -> Result<Generated> {
        let (address, core) = (self.broker.address().to_string(), CLIENT_CORE.to_string());
        let mut arguments = vec!["--bootstrap", &address, "--cores", &core];
        arguments.extend(words.split_whitespace());
        let run = generate(self.project, self.binary, name, &arguments, LIMIT)?;
        ensure!(run.status.success(), "{name} ended with {}{}", run.status, crate::process::tail(&run.log));
        Ok(run)
    }

    fn command(&self, arguments: &[&str]) -> Result<()> {
        let mut command = tethered(self.binary);
        command.args(arguments).args(["--bootstrap", &self.broker.address().to_string()]);
        run(command, &self.project.logs().join("compaction-command.log"), LIMIT)
    }
}

impl Sample {
    fn ratio(&self) -> f64 {
        self.beside.p99_ms / self.alone.p99_ms
    }

    fn line(&self) -> String {
        let Self { round, alone, beside, compaction } = self;
        format!(
            "  round {round}: p99 {:.2} ms alone, {:.2} ms while {:.0} MB became {:.0} MB in {:.1} s ({:.0}% of what was \
             measured)",
            alone.p99_ms,
            beside.p99_ms,
            compaction.before_mb,
            compaction.after_mb,
            compaction.took_s,
            compaction.covered * 100.0
        )
    }
}

fn render(arguments: &Arguments, samples: &[Sample], machine: &Machine, started: &str) -> Result<String> {
    let Arguments { rounds, topic_mib, keys, partitions, segment_mib, rate, seconds, .. } = arguments;
    let (date, mut text) = (&started[..10], String::new());
    writeln!(text, "# A tail while a topic is compacted\n")?;
    writeln!(
        text,
        "Measured on {date} by `cargo xtask compaction --rounds {rounds} --page`: medians of {rounds} rounds, with the \
         smallest and the largest value in brackets; every sample is in [{date}-compaction.json]\
         ({date}-compaction.json). A topic of {partitions} partitions and {topic_mib} MiB of 1 KiB records with {keys} \
         keys in segments of {segment_mib} MiB is compacted while {rate} records of 1 KiB a second go through another \
         topic, acknowledged after the sync, in batches of 8 at most; end to end, from when a record was due until it \
         was read, over {seconds} s. The node has one core and the load another.\n"
    )?;
    writeln!(text, "| The tail, end to end | alone | while the topic is compacted |\n|---|---:|---:|")?;
    type Of = fn(&Tail) -> f64;
    let lines: [(&str, &str, Of); 4] = [
        ("p50", "ms", |tail| tail.p50_ms),
        ("p99", "ms", |tail| tail.p99_ms),
        ("p99.9", "ms", |tail| tail.p999_ms),
        ("the node's CPU, of a core", "%", |tail| tail.cpu * 100.0),
    ];
    for (what, unit, of) in lines {
        let alone = cell(samples.iter().map(|it| of(&it.alone)), unit);
        let beside = cell(samples.iter().map(|it| of(&it.beside)), unit);
        writeln!(text, "| {what} | {alone} | {beside} |")?;
    }
    let of = |value: fn(&Sample) -> f64, unit| cell(samples.iter().map(value), unit);
    let verdict = if ratio(samples) <= RATIO_MAX { "reached" } else { "**missed**" };
    writeln!(
        text,
        "\nThe p99 is {} of that without (aim: at most {RATIO_MAX} times, {verdict}). {} of files became {} in {}; that \
         was under way for {} of the time that was measured.\n",
        of(Sample::ratio, "times"),
        of(|it| it.compaction.before_mb, "MB"),
        of(|it| it.compaction.after_mb, "MB"),
        of(|it| it.compaction.took_s, "s"),
        of(|it| it.compaction.covered * 100.0, "%"),
    )?;
    let memory_mb = machine.memory_bytes / 1_000_000;
    writeln!(text, "{}, {} cores, {memory_mb} MB of memory;", machine.cpu, machine.cores)?;
    writeln!(text, "Linux {}; {} on {}.", machine.kernel, machine.file_system, machine.device)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_whether_the_aim_is_reached() -> Result<()> {
        let tail = |p99_ms| Tail { p50_ms: 1.0, p99_ms, p999_ms: f64::NAN, cpu: 0.25 };
        let compaction = Compaction { before_mb: 1100.0, after_mb: 150.0, took_s: 8.0, covered: 0.8 };
        let sample = |round, p99_ms| Sample {
            round,
            alone: tail(4.0),
            beside: tail(p99_ms),
            compaction: compaction.clone(),
        };
        let arguments = Arguments {
            rounds: 3,
            topic_mib: 1024,
            keys: 1000,
            partitions: 4,
            segment_mib: 64,
            rate: 5000,
            seconds: 10,
            page: false,
        };
        let text = |last| {
            let samples = [sample(1, 4.4), sample(2, last), sample(3, 40.0)];
            render(&arguments, &samples, &Machine::default(), "2026-11-22T07:00:00Z")
        };
        let good = text(6.0)?;
        assert!(good.contains("1.50 times (1.10 to 10.0) of that without"), "{good}");
        assert!(good.contains("reached") && good.contains("| p99.9 | - | - |"), "{good}");
        assert!(text(6.2)?.contains("**missed**"));
        Ok(())
    }
}
