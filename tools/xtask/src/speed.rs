//! `cargo xtask speed`: what one node does by itself, in rounds: single records, batches, one partition
//! against a thousand, reading the tail, requests forwarded between shards, start, rest. The node has
//! the core at which the disk's interrupts arrive, and the load generator another; nothing else should
//! run. Not part of `cargo xtask test`. [`crate::versus`] is for comparisons with Apache Kafka.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::broker::{Broker, BrokerKind, BrokerOptions, Purpose};
use crate::cores::Cores;
use crate::machine::{Machine, Processors, Usage, now};
use crate::process::tail;
use crate::project::Project;
use crate::sink::{Generated, generate};
use crate::versus::first_record;
use crate::versus::statistics::Spread;

const RUN_LIMIT: Duration = Duration::from_secs(300);
const START_LIMIT: Duration = Duration::from_secs(30);
/// After deletions, which a device may take a while over.
const SETTLE: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(8);
/// How often a run with a load is made at most, because of what the host withheld, and the pause before.
const ATTEMPTS_MAX: usize = 6;
const CALM: Duration = Duration::from_secs(15);

const WARM_UP_S: &str = "2";
/// By then each of 1,000 partitions has been flushed: its directories and its first segment are there.
const STEADY_S: &str = "6";
/// Each writes more than three times what the journal and the memory for records hold by default.
const SINGLE_S: &str = "28";
const MAX_S: &str = "6";
const PACED_S: &str = "13";
const TAIL_S: &str = "14";

const BATCHES: &str = "--producers 16 --arrivals max --batch-bytes 65536 --consumers 0 --no-verify";
const SINGLES: &str = "--producers 64 --arrivals closed --in-flight 1 --batch-records 1 --consumers 0";
const PACED: &str = "--producers 4 --arrivals poisson --rate 120000 --linger-ms 0 --consumers 0";
const TAIL: &str = "--producers 16 --arrivals constant --rate 100000 --batch-bytes 65536 --linger-ms 5 \
                    --partitions 16 --no-verify";
/// About 1 GB.
const FILL: &str = "--records 1000000 --producers 16 --arrivals max --batch-bytes 65536 --partitions 1000 \
                    --consumers 0 --no-verify --warm-up 0 --duration 60";

/// What is measured how often.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How often everything is measured; the page shows medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Repeat a run with a load while the host withholds more of the machine's CPU time, in percent; after
    /// six runs the one with the least counts
    #[arg(long, default_value_t = 2.0, value_name = "PERCENT")]
    withheld_max: f64,
    /// Write the page docs/benchmarks/<date>-speed.md
    #[arg(long)]
    page: bool,
}

/// Values by name, one for each round.
type Values = BTreeMap<&'static str, Vec<f64>>;

/// A line of the page: what it says, the unit, the aim, and how it follows from the values of a round.
struct Line {
    what: &'static str,
    unit: &'static str,
    aim: Option<Aim>,
    of: fn(&dyn Fn(&'static str) -> f64) -> f64,
}

#[derive(Clone, Copy)]
enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

const LINES: &[Line] = &[
    Line {
        what: "64 KiB batches on 16 connections, 16 partitions: server CPU a record",
        unit: "µs",
        aim: Some(Aim::AtMost(1.5)),
        of: |v| v("batches cpu"),
    },
    Line { what: "the same: records", unit: "/s", aim: None, of: |v| v("batches rate") },
    Line { what: "the same: p99", unit: "ms", aim: None, of: |v| v("batches p99") },
    Line {
        what: "one record a request on 64 connections: acknowledged",
        unit: "/s",
        aim: Some(Aim::AtLeast(50_000.0)),
        of: |v| v("singles rate"),
    },
    Line { what: "the same: server CPU a request", unit: "µs", aim: None, of: |v| v("singles cpu") },
    Line { what: "the same: p50", unit: "ms", aim: None, of: |v| v("singles p50") },
    Line { what: "the same: p99", unit: "ms", aim: None, of: |v| v("singles p99") },
    Line { what: "the same: p99.9", unit: "ms", aim: None, of: |v| v("singles p99.9") },
    Line { what: "64 KiB batches into 1 partition: records", unit: "/s", aim: None, of: |v| v("one rate") },
    Line {
        what: "64 KiB batches into 1,000 partitions: records",
        unit: "/s",
        aim: None,
        of: |v| v("many rate"),
    },
    Line {
        what: "64 KiB batches, 1,000 partitions in units of 1: throughput",
        unit: "×",
        aim: Some(Aim::AtLeast(0.9)),
        of: |v| v("many rate") / v("one rate"),
    },
    Line {
        what: "the same: p99",
        unit: "×",
        aim: Some(Aim::AtMost(1.5)),
        of: |v| v("many p99") / v("one p99"),
    },
    Line {
        what: "one record a request, 1,000 partitions in units of 1: throughput",
        unit: "×",
        aim: Some(Aim::AtLeast(0.9)),
        of: |v| v("many singles rate") / v("one singles rate"),
    },
    Line {
        what: "the same: p99",
        unit: "×",
        aim: Some(Aim::AtMost(1.5)),
        of: |v| v("many singles p99") / v("one singles p99"),
    },
    Line {
        what: "120,000 records/s into 1 partition: p99",
        unit: "ms",
        aim: None,
        of: |v| v("one paced p99"),
    },
    Line {
        what: "120,000 records/s into 1,000 partitions: p99",
        unit: "ms",
        aim: None,
        of: |v| v("many paced p99"),
    },
    Line {
        // Without an aim: how many records a request has depends on how long the one before took, and
        // the generator's core is nearly full.
        what: "1,000 partitions in units of 1: p99 at 120,000 records/s",
        unit: "×",
        aim: None,
        of: |v| v("many paced p99") / v("one paced p99"),
    },
    Line {
        what: "100,000 records/s produced: server CPU a record",
        unit: "µs",
        aim: None,
        of: |v| v("tail produce"),
    },
    Line {
        what: "one consumer at their tail: server CPU a record more",
        unit: "µs",
        aim: None,
        of: |v| v("tail both") - v("tail produce"),
    },
    Line {
        what: "tail fetch in units of produce",
        unit: "×",
        aim: Some(Aim::AtMost(1.0)),
        of: |v| (v("tail both") - v("tail produce")) / v("tail produce"),
    },
    Line {
        what: "2 shards on the core, every other request forwarded: server CPU a request of one record",
        unit: "µs",
        aim: None,
        of: |v| v("forwarded singles cpu"),
    },
    Line {
        what: "the same in units of 1 shard",
        unit: "×",
        aim: None,
        of: |v| v("forwarded singles cpu") / v("singles cpu"),
    },
    Line {
        what: "2 shards on the core, every other request forwarded: server CPU a record of 64 KiB batches",
        unit: "µs",
        aim: None,
        of: |v| v("forwarded batches cpu"),
    },
    Line {
        what: "the same in units of 1 shard",
        unit: "×",
        aim: None,
        of: |v| v("forwarded batches cpu") / v("batches cpu"),
    },
    Line { what: "idle CPU", unit: "% of a core", aim: Some(Aim::AtMost(0.5)), of: |v| v("idle cpu") },
    Line { what: "idle memory", unit: "MB", aim: Some(Aim::AtMost(40.0)), of: |v| v("idle memory") },
    Line {
        what: "start to first record, empty directory",
        unit: "ms",
        aim: Some(Aim::AtMost(100.0)),
        of: |v| v("start empty"),
    },
    Line {
        what: "start to first record, used directory",
        unit: "ms",
        aim: Some(Aim::AtMost(100.0)),
        of: |v| v("start used"),
    },
    Line {
        what: "start to first record after `kill -9` with 1,000 partitions and 1 GB",
        unit: "ms",
        aim: Some(Aim::AtMost(1000.0)),
        of: |v| v("start killed"),
    },
];

/// Runs all rounds; whether every aim was reached.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<bool> {
    let kind = BrokerKind::corelog(project)?;
    let BrokerKind::Corelog { binary } = &kind else { bail!("a build of Corelog") };
    let withheld_max = arguments.withheld_max;
    let cores = Cores::of_disk(&project.scratch())?;
    let lab = Lab { project, kind: &kind, binary, cores, withheld_max, withheld: RefCell::default() };
    let mut values = Values::new();
    for round in 1..=arguments.rounds {
        println!("round {round} of {}", arguments.rounds);
        let mut measured = Round::default();
        lab.loads(&mut measured)?;
        lab.forwarded(&mut measured)?;
        lab.starts(&mut measured)?;
        for (name, value) in measured.0 {
            values.entry(name).or_default().push(value);
        }
    }
    let mut text = render(project, &values, arguments.rounds)?;
    writeln!(text, "\n{}", lab.withheld.borrow().describe(withheld_max))?;
    print!("{text}");
    if arguments.page {
        let folder = project.root().join("docs/benchmarks");
        let page = folder.join(format!("{}-speed.md", &now()?[..10]));
        fs::write(&page, text)?;
        println!("\nwritten to {}", page.display());
    }
    Ok(LINES.iter().all(|line| line.is_reached(&values) != Some(false)))
}

#[derive(Default)]
struct Round(Vec<(&'static str, f64)>);

impl Round {
    fn put(&mut self, name: &'static str, value: f64) {
        println!("  {name}: {value:.2}");
        self.0.push((name, value));
    }
}

struct Lab<'a> {
    project: &'a Project,
    kind: &'a BrokerKind,
    binary: &'a Path,
    cores: Cores,
    withheld_max: f64,
    withheld: RefCell<Withheld>,
}

/// What the host kept of the machine's CPU time during runs, in percent.
#[derive(Default)]
struct Withheld {
    counted: Vec<f64>,
    repeats: usize,
}

impl Withheld {
    fn describe(&self, max: f64) -> String {
        let Some(Spread { median, min, max: most, .. }) = Spread::of(self.counted.iter().copied()) else {
            return String::new();
        };
        let beyond = self.counted.iter().filter(|percent| **percent > max).count();
        format!(
            "The host withheld {median:.1} % ({min:.1} to {most:.1}) of the CPU time during the {} runs with a load that \
             count. {} runs were repeated, since it withheld more than {max} %; {beyond} count though it did, as the \
             calmest of {ATTEMPTS_MAX}.",
            self.counted.len(),
            self.repeats
        )
    }
}

impl Lab<'_> {
    fn node(&self, shards: usize) -> Result<Broker> {
        nix::unistd::sync();
        thread::sleep(SETTLE);
        let purpose = Purpose::Compare { core: self.cores.node };
        let options = BrokerOptions { shards, purpose, ..BrokerOptions::named("speed") };
        Broker::prepare(self.project, self.kind, options)
    }

    fn loads(&self, round: &mut Round) -> Result<()> {
        let mut node = self.node(1)?;
        node.restart()?;
        let singles = self.bench(&node, &format!("{SINGLES} --partitions 16"), SINGLE_S)?;
        round.put("singles rate", rate(&singles)?);
        round.put("singles cpu", cpu(&singles)?);
        round.put("singles p50", ms(&singles, "50")?);
        round.put("singles p99", ms(&singles, "99")?);
        round.put("singles p99.9", ms(&singles, "99.9")?);
        let batches = self.bench(&node, &format!("{BATCHES} --partitions 16"), MAX_S)?;
        round.put("batches rate", rate(&batches)?);
        round.put("batches cpu", cpu(&batches)?);
        round.put("batches p99", ms(&batches, "99")?);
        self.batches_by_partitions(&node, round)?;
        for (name, p99, partitions) in
            [("one singles rate", "one singles p99", 1), ("many singles rate", "many singles p99", 1_000)]
        {
            let run = self.bench(&node, &format!("{SINGLES} --partitions {partitions}"), SINGLE_S)?;
            round.put(name, rate(&run)?);
            round.put(p99, ms(&run, "99")?);
        }
        for (name, partitions) in [("one paced p99", 1), ("many paced p99", 1_000)] {
            let run = self.bench(&node, &format!("{PACED} --partitions {partitions}"), PACED_S)?;
            round.put(name, ms(&run, "99")?);
        }
        for (name, consumers) in [("tail produce", 0), ("tail both", 1)] {
            let run = self.bench(&node, &format!("{TAIL} --consumers {consumers}"), TAIL_S)?;
            round.put(name, cpu(&run)?);
        }
        node.discard()
    }

    /// One partition and 1,000, there and back: a device that slows down from minute to minute then does
    /// so for both. Each value is the mean of both runs.
    fn batches_by_partitions(&self, node: &Broker, round: &mut Round) -> Result<()> {
        let mut rates = [0.0; 2];
        let mut p99s = [0.0; 2];
        for (of, partitions) in [(0, 1), (1, 1_000), (1, 1_000), (0, 1)] {
            // The topic before goes, and its files with it.
            thread::sleep(SETTLE);
            let load = format!("{BATCHES} --partitions {partitions} --warm-up {STEADY_S} --duration {MAX_S}");
            let run = self.bench_words(node, &load)?;
            let (rate, p99) = (rate(&run)?, ms(&run, "99")?);
            println!("    {partitions} partitions: {rate:.0}/s, p99 {p99:.1} ms");
            rates[of] += rate / 2.0;
            p99s[of] += p99 / 2.0;
        }
        round.put("one rate", rates[0]);
        round.put("one p99", p99s[0]);
        round.put("many rate", rates[1]);
        round.put("many p99", p99s[1]);
        Ok(())
    }

    /// Partitions are spread evenly, so with two shards every other request is for the other one.
    fn forwarded(&self, round: &mut Round) -> Result<()> {
        let mut node = self.node(2)?;
        node.restart()?;
        let singles = self.bench(&node, &format!("{SINGLES} --partitions 16"), PACED_S)?;
        round.put("forwarded singles cpu", cpu(&singles)?);
        let batches = self.bench(&node, &format!("{BATCHES} --partitions 16"), MAX_S)?;
        round.put("forwarded batches cpu", cpu(&batches)?);
        node.discard()
    }

    fn starts(&self, round: &mut Round) -> Result<()> {
        let mut node = self.node(1)?;
        round.put("start empty", first_record_ms(&mut node)?);
        thread::sleep(SETTLE);
        let pid = node.pid().context("the node runs")?;
        let (before, began) = (Usage::of(pid)?, Instant::now());
        thread::sleep(IDLE);
        let after = Usage::of(pid)?;
        round.put("idle cpu", (after.cpu_s - before.cpu_s) / began.elapsed().as_secs_f64() * 100.0);
        round.put("idle memory", after.resident_mb);
        node.terminate()?;
        round.put("start used", first_record_ms(&mut node)?);
        self.generate(&node, FILL)?;
        node.kill()?;
        round.put("start killed", first_record_ms(&mut node)?);
        node.discard()
    }

    fn bench(&self, node: &Broker, load: &str, seconds: &str) -> Result<Generated> {
        self.bench_words(node, &format!("{load} --warm-up {WARM_UP_S} --duration {seconds}"))
    }

    /// As [`Lab::generate`], again while the host withholds too much.
    fn bench_words(&self, node: &Broker, words: &str) -> Result<Generated> {
        let mut calmest: Option<(f64, Generated)> = None;
        for attempt in 1..=ATTEMPTS_MAX {
            let before = Processors::now()?;
            let run = self.generate(node, words)?;
            let percent = Processors::now()?.steal_percent_since(before);
            if calmest.as_ref().is_none_or(|(least, _)| percent < *least) {
                calmest = Some((percent, run));
            }
            if percent <= self.withheld_max {
                break;
            }
            println!("    the host withheld {percent:.1} %");
            if attempt < ATTEMPTS_MAX {
                self.withheld.borrow_mut().repeats += 1;
                thread::sleep(CALM);
            }
        }
        let (percent, run) = calmest.expect("at least one attempt");
        self.withheld.borrow_mut().counted.push(percent);
        Ok(run)
    }

    fn generate(&self, node: &Broker, words: &str) -> Result<Generated> {
        let pid = node.pid().context("the node runs")?;
        let (address, pid, core) =
            (node.address().to_string(), pid.to_string(), self.cores.client.to_string());
        let mut all = vec!["--bootstrap", &address, "--server-pid", &pid, "--cores", &core];
        all.extend(["--record-bytes", "1024"]);
        all.extend(words.split_whitespace());
        let run = generate(self.project, self.binary, "speed-load", &all, RUN_LIMIT)?;
        ensure!(run.status.success(), "the load ended with {}{}", run.status, tail(&run.log));
        let failed = run.count("/runs/0/produced/errors")? + run.count("/runs/0/produced/timeouts")?;
        ensure!(failed == 0, "{failed} records failed{}", tail(&run.log));
        nix::unistd::sync();
        Ok(run)
    }
}

fn first_record_ms(node: &mut Broker) -> Result<f64> {
    let began = Instant::now();
    node.spawn()?;
    let address = node.address();
    first_record::acknowledged(address, START_LIMIT, || node.check_running())?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

fn rate(run: &Generated) -> Result<f64> {
    run.number("/runs/0/produced/records_per_s")
}

fn cpu(run: &Generated) -> Result<f64> {
    run.number("/runs/0/server/cpu_us_per_record")
}

fn ms(run: &Generated, percentile: &str) -> Result<f64> {
    Ok(run.number(&format!("/runs/0/latency/response/percentiles_us/{percentile}"))? / 1e3)
}

impl Line {
    /// Over the rounds: ratios are those of each round.
    fn spread(&self, values: &Values) -> Option<Spread> {
        let rounds = values.values().map(Vec::len).max()?;
        Spread::of((0..rounds).map(|round| {
            let value = |name| values.get(name).and_then(|all| all.get(round)).copied().unwrap_or(f64::NAN);
            (self.of)(&value)
        }))
    }

    /// `None` where nothing was aimed at.
    fn is_reached(&self, values: &Values) -> Option<bool> {
        let median = self.spread(values).map_or(f64::NAN, |spread| spread.median);
        self.aim.map(|aim| match aim {
            Aim::AtLeast(least) => median >= least,
            Aim::AtMost(most) => median <= most,
        })
    }
}

fn render(project: &Project, values: &Values, rounds: u32) -> Result<String> {
    let machine = Machine::describe(&project.scratch())?;
    let mut text = String::new();
    writeln!(text, "# What one node does\n")?;
    writeln!(
        text,
        "Measured on {} by `cargo xtask speed --rounds {rounds} --page`: medians of {rounds} rounds, with the smallest \
         and the largest value in brackets; ratios are medians of the rounds' own ratios. The node has one core, that at \
         which the disk's interrupts arrive, and the load generator another. Records have 1 KiB, everything is in mode \
         `fsync` with the default options, every run with a load writes at least 1.3 GB (journal and memory for records \
         together hold 448 MiB), and the CPU is that of all threads of the node, io_uring's workers in the kernel \
         included. Batches into 1 and 1,000 partitions are measured there and back (1, 1,000, 1,000, 1), behind \
         {STEADY_S} s of the same load; a round has the means of two.\n",
        &now()?[..10]
    )?;
    writeln!(text, "| What | Median | Spread | Aim | |\n|---|---:|---|---|---|")?;
    for line in LINES {
        let Some(Spread { median, min, max, .. }) = line.spread(values) else { continue };
        let aim = match line.aim {
            None => String::new(),
            Some(Aim::AtLeast(least)) => format!("≥ {}", number(least)),
            Some(Aim::AtMost(most)) => format!("≤ {}", number(most)),
        };
        let said = line.is_reached(values).map_or("", |is| if is { "reached" } else { "**missed**" });
        let (what, unit) = (line.what, line.unit);
        let (median, min, max) = (number(median), number(min), number(max));
        writeln!(text, "| {what} | {median} {unit} | {min} to {max} | {aim} | {said} |")?;
    }
    writeln!(
        text,
        "\n{}, {} cores, {} MB of memory; ",
        machine.cpu,
        machine.cores,
        machine.memory_bytes / 1_000_000
    )?;
    writeln!(text, "Linux {}; {} on {}.", machine.kernel, machine.file_system, machine.device)?;
    Ok(text)
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_withheld_is_told() {
        let withheld = Withheld { counted: vec![0.5, 4.0, 1.0], repeats: 6 };
        let told = withheld.describe(2.0);
        assert!(
            told.starts_with("The host withheld 1.0 % (0.5 to 4.0) of the CPU time during the 3 runs"),
            "{told}"
        );
        assert!(told.contains("6 runs were repeated") && told.contains("1 count though it did"), "{told}");
    }

    #[test]
    fn a_ratio_is_taken_in_each_round_and_an_aim_is_held_against_the_median() {
        let values = Values::from([
            ("many rate", vec![95.0, 50.0, 80.0]),
            ("one rate", vec![100.0, 50.0, 100.0]),
            ("singles rate", vec![49_000.0, 60_000.0, 49_999.0]),
        ]);
        let line = |what: &str| LINES.iter().find(|line| line.what.contains(what)).expect("a line");
        let ratio = line("in units of 1: throughput");
        assert_eq!(ratio.spread(&values).map(|it| it.median), Some(0.95));
        assert_eq!(ratio.is_reached(&values), Some(true));
        assert_eq!(line("one record a request").is_reached(&values), Some(false));
        assert_eq!(line("the same: records").is_reached(&values), None);
    }
}
