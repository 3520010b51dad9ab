//! `cargo xtask generator`: load generators side by side against one sink, which is never what
//! limits them: ours, Kafka's own in Java, and librdkafka.
//!
//! The sink has core 0, the generators have core 1 one after the other, and the rounds are
//! interleaved, so that what disturbs the machine disturbs all of them.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::java::Java;
use crate::load;
use crate::process::{self, find, tethered};
use crate::project::Project;
use crate::setup::Toolbox;
use crate::sink::{Sink, generate};
use crate::versus::java_tools;
use crate::versus::results::Measure;

const SINK_CORE: &str = "0";
const GENERATOR_CORE: &str = "1";
const RUN_LIMIT: Duration = Duration::from_secs(180);
const RECORD_BYTES: usize = 100;
const BATCH_BYTES: usize = 65_536;
/// What one round of another generator sends; it takes some seconds.
const RECORDS: u64 = 5_000_000;
/// What one round of ours sends, for about as long.
const OUR_RECORDS: u64 = 25_000_000;

/// What has to be known to read the table.
const CAVEATS: &str = "Java warms up on the same core and is idempotent by default; kcat's time includes its start \
                       and the reading of lines from a file; ours fills and checksums every record anew.";

/// One line of the table.
struct Contender {
    name: &'static str,
    kind: Kind,
    /// Records a second, by round.
    rates: Vec<f64>,
}

/// How a generator is run.
#[derive(Clone, Copy)]
enum Kind {
    /// With these flags beside the usual ones.
    Ours(&'static [&'static str]),
    Java,
    /// From a file of lines; its time includes its start, which is short.
    Kcat,
}

const CONTENDERS: [(&str, Kind); 5] = [
    ("corelog bench, 1 producer", Kind::Ours(&["--producers", "1"])),
    ("corelog bench, 4 producers", Kind::Ours(&["--producers", "4"])),
    ("corelog bench, 1 producer, no stamps", Kind::Ours(&["--producers", "1", "--no-verify"])),
    ("kafka-producer-perf-test (Java)", Kind::Java),
    ("kcat -P (librdkafka)", Kind::Kcat),
];

/// Runs the rounds and returns the table.
pub(crate) fn run(project: &Project, rounds: u32) -> Result<String> {
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores >= 2, "the sink and the generator need a core each");
    let arena = Arena::prepare(project)?;
    let sink = Sink::start(project, &arena.binary, "generator-sink", &["--core", SINK_CORE])?;
    let contenders = CONTENDERS.iter().filter(|(_, kind)| arena.has(*kind));
    let mut contenders: Vec<Contender> =
        contenders.map(|&(name, kind)| Contender { name, kind, rates: Vec::new() }).collect();
    for round in 1..=rounds {
        for contender in &mut contenders {
            let rate = arena.measure(contender.kind, &sink).with_context(|| contender.name)?;
            println!("round {round}: {}: {rate:.0} records/s", contender.name);
            contender.rates.push(rate);
        }
    }
    let summary = sink.stop()?;
    Ok(format!("{}\nthe sink: {summary}", table(&contenders)))
}

struct Arena<'a> {
    project: &'a Project,
    binary: PathBuf,
    taskset: PathBuf,
    java: Option<Java>,
    kcat: Option<PathBuf>,
    lines: PathBuf,
}

impl<'a> Arena<'a> {
    fn prepare(project: &'a Project) -> Result<Self> {
        let binary = load::binary(project)?;
        let taskset = find("taskset").context("generators are pinned with taskset (util-linux)")?;
        let tools = Toolbox::prepare(project)?;
        let lines = project.scratch().join("generator-lines.txt");
        write_lines(&lines).context("writing the lines that kcat sends")?;
        Ok(Self { project, binary, taskset, java: tools.java, kcat: tools.kcat, lines })
    }

    fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::Ours(_) => true,
            Kind::Java => self.java.is_some(),
            Kind::Kcat => self.kcat.is_some(),
        }
    }

    /// Records a second of one run.
    fn measure(&self, kind: Kind, sink: &Sink) -> Result<f64> {
        match kind {
            Kind::Ours(flags) => self.ours(flags, sink),
            Kind::Java => self.java(sink),
            Kind::Kcat => self.kcat(sink),
        }
    }

    fn ours(&self, flags: &[&str], sink: &Sink) -> Result<f64> {
        let (records, size, batch) =
            (OUR_RECORDS.to_string(), RECORD_BYTES.to_string(), BATCH_BYTES.to_string());
        let mut arguments = vec!["--bootstrap", sink.address(), "--cores", GENERATOR_CORE];
        arguments.extend(["--arrivals", "max", "--consumers", "0", "--warm-up", "0", "--duration", "170"]);
        arguments.extend(["--records", &records, "--record-bytes", &size, "--batch-bytes", &batch]);
        arguments.extend_from_slice(flags);
        let run = generate(self.project, &self.binary, "generator", &arguments, RUN_LIMIT)?;
        ensure!(run.status.success(), "{}{}", run.status, process::tail(&run.log));
        run.number("/runs/0/produced/records_per_s")
    }

    fn pinned(&self, program: &Path) -> Command {
        let mut command = tethered(&self.taskset);
        command.args(["--cpu-list", GENERATOR_CORE]).arg(program);
        command
    }

    fn java(&self, sink: &Sink) -> Result<f64> {
        let java = self.java.as_ref().context("there is no Java")?;
        let mut command = self.pinned(&java.program);
        command
            .args(["-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"])
            .arg(format!("{}/*:{}", java.jars.display(), java.tools_jar.display()))
            .args(["org.apache.kafka.tools.ProducerPerformance", "--topic", "java"])
            .args(["--num-records", &RECORDS.to_string(), "--record-size", &RECORD_BYTES.to_string()])
            .args(["--throughput", "-1", "--producer-props"])
            .arg(format!("bootstrap.servers={}", sink.address()))
            .arg(format!("batch.size={BATCH_BYTES}"))
            .args(["acks=all", "linger.ms=5"]);
        let (stdout, log) = (self.project.logs().join("generator-java.out"), self.log("java"));
        process::run_into(command, &stdout, &log, RUN_LIMIT)?;
        java_rate(&fs::read_to_string(&stdout)?).with_context(|| process::tail(&stdout))
    }

    fn kcat(&self, sink: &Sink) -> Result<f64> {
        let mut command = self.pinned(self.kcat.as_ref().context("there is no kcat")?);
        command
            .args(["-P", "-b", sink.address(), "-t", "kcat", "-X", "acks=all", "-X", "linger.ms=5"])
            .arg("-X")
            .arg(format!("batch.size={BATCH_BYTES}"))
            .args(["-X", "queue.buffering.max.messages=1000000", "-l"])
            .arg(&self.lines);
        let began = Instant::now();
        process::run(command, &self.log("kcat"), RUN_LIMIT)?;
        Ok(per_second(RECORDS, began.elapsed()))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.project.logs().join(format!("generator-{name}.log"))
    }
}

fn per_second(records: u64, time: Duration) -> f64 {
    let records = u32::try_from(records).expect("a round has fewer than 2^32 records");
    f64::from(records) / time.as_secs_f64()
}

/// One line a record, the line end beside its bytes.
fn write_lines(path: &Path) -> Result<()> {
    let bytes = RECORDS * u64::try_from(RECORD_BYTES + 1)?;
    if fs::metadata(path).is_ok_and(|file| file.len() == bytes) {
        return Ok(());
    }
    let mut file = BufWriter::new(File::create(path)?);
    for number in 0..RECORDS {
        writeln!(file, "{number:0RECORD_BYTES$}")?;
    }
    Ok(file.flush()?)
}

/// The rate that `ProducerPerformance` printed at its end.
fn java_rate(output: &str) -> Option<f64> {
    java_tools::read_producer(output).ok()?.get(&Measure::RecordsPerS).copied()
}

fn table(contenders: &[Contender]) -> String {
    let mut lines = vec![
        format!(
            "Records of {RECORD_BYTES} bytes a second into a sink, batches of {BATCH_BYTES} bytes, acks=all."
        ),
        String::new(),
        "| Generator | median | MB/s | rounds |".to_owned(),
        "|---|---:|---:|---|".to_owned(),
    ];
    for Contender { name, rates, .. } in contenders {
        let mut sorted = rates.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted[sorted.len() / 2];
        let record_mb = f64::from(u32::try_from(RECORD_BYTES).expect("records are small")) / 1e6;
        let rounds: Vec<String> = rates.iter().map(|rate| format!("{:.2} M", rate / 1e6)).collect();
        let mb = median * record_mb;
        lines.push(format!("| {name} | {:.2} M | {mb:.0} | {} |", median / 1e6, rounds.join(", ")));
    }
    lines.extend([String::new(), CAVEATS.to_owned()]);
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_line() {
        let output = "10 records sent, 2.0 records/sec (0.00 MB/sec), 3.2 ms avg latency, 6 ms max latency.\n\
                      3000000 records sent, 741473.059812 records/sec (70.71 MB/sec), 6.20 ms avg latency, \
                      427.00 ms max latency, 3 ms 50th, 27 ms 95th, 51 ms 99th, 89 ms 99.9th.\n";
        assert_eq!(java_rate(output), Some(741_473.059_812));
        assert_eq!(java_rate("nothing"), None);
    }
}
