//! The measurements: each row of the comparison against one variant.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::bench::{Generator, Outcome, last_words, watch};
use super::first_record;
use super::java_tools;
use super::plan::{Load, Row, Settings, Variant, step};
use super::results::{Cell, Knee, Measure, Results};
use crate::broker::{Broker, BrokerKind, BrokerOptions, Purpose};
use crate::java::Java;
use crate::machine::{Usage, as_f64};
use crate::process;
use crate::project::Project;

/// Where the interval log of a latency run at half of the knee is, below a round's and variant's folder.
pub(crate) const HALF_OF_KNEE_LOG: &str = "latency-50/run.hlog";
/// Where brokers listen: the same port for all, so that commands are the same.
const PORT: u16 = 19_392;
const START_LIMIT: Duration = Duration::from_secs(180);
const TOPIC_LIMIT: Duration = Duration::from_secs(180);
/// After the first record, while files are still being filled in the background.
const SETTLE: Duration = Duration::from_secs(3);
/// Behind what is killed.
const FILL_BATCHES: usize = 64;
const QUIET_LIMIT: Duration = Duration::from_secs(90);
/// Of a core, over a second.
const QUIET_CPU_SHARE: f64 = 0.1;
/// In topics of 1,000 partitions, since Kafka's controller takes no more than that many changes at once.
const MANY_TOPICS: u32 = 10;
const PARTITIONS_OF_MANY: u32 = 1_000;
/// As `kafka-producer-perf-test.sh` sets it.
const TOOL_HEAP: [&str; 1] = ["-Xmx512M"];

/// What is measured with, and where its files go.
pub(crate) struct Lab<'a> {
    pub(crate) project: &'a Project,
    pub(crate) java: Java,
    /// Corelog's release build.
    pub(crate) corelog: PathBuf,
    pub(crate) settings: Settings,
    /// Reports and histograms of the rounds.
    pub(crate) folder: PathBuf,
}

/// A broker while its rows are measured.
struct Bed<'a> {
    lab: &'a Lab<'a>,
    broker: Broker,
    variant: Variant,
    folder: PathBuf,
    knee: Option<f64>,
    commands: &'a mut BTreeMap<String, String>,
}

impl Lab<'_> {
    fn prepare(&self, variant: Variant) -> Result<Broker> {
        let kind = match variant.is_kafka() {
            true => BrokerKind::Kafka(self.java.clone()),
            false => BrokerKind::Corelog { binary: self.corelog.clone() },
        };
        let purpose = Purpose::Compare { core: self.settings.server_core };
        let options = BrokerOptions { port: Some(PORT), purpose, ..BrokerOptions::named("versus") };
        Broker::prepare(self.project, &kind, options)
    }

    /// Measures these rows against one variant, in their order. A row that fails is a result; only a
    /// broker that cannot be started ends the comparison.
    pub(crate) fn measure(
        &self,
        results: &mut Results,
        round: u32,
        variant: Variant,
        rows: &[Row],
        progress: &mut dyn FnMut(Row),
    ) -> Result<Vec<Cell>> {
        let folder = self.folder.join(format!("round-{round}")).join(variant.name());
        let knee = results.knee.as_ref().map(|knee| knee.records_per_s);
        let (own, shared): (Vec<Row>, Vec<Row>) =
            rows.iter().partition(|row| matches!(row, Row::Start | Row::ManyPartitions));
        let mut cells = Vec::new();
        if !shared.is_empty() {
            let mut broker = self.prepare(variant)?;
            broker.restart()?;
            if variant == Variant::Kafka {
                results.kafka_config = self.relative(&fs::read_to_string(broker.kafka_config())?);
            }
            let command = self.typed(broker.command());
            results.commands.insert(format!("server {}", variant.name()), command);
            let commands = &mut results.commands;
            let mut bed = Bed { lab: self, broker, variant, folder, knee, commands };
            bed.warm_up()?;
            for row in shared {
                progress(row);
                cells.extend(bed.measure(row)?);
                // What a row left in the page cache is not the next one's to write.
                nix::unistd::sync();
            }
            bed.broker.discard()?;
        }
        for row in own {
            progress(row);
            let mut cell = Cell::new(row, variant, step::ONLY);
            let outcome = match row {
                Row::Start => self.start(variant, &mut cell.values),
                _ => self.many_partitions(variant, &mut cell.values),
            };
            cell.error = outcome.err().map(|error| self.relative(&one_line(&error)));
            cells.push(cell);
            nix::unistd::sync();
        }
        Ok(cells)
    }

    /// Looks for the rate at which Kafka begins to fall behind, with the load of the latency row.
    pub(crate) fn find_knee(&self, results: &mut Results) -> Result<Knee> {
        let mut broker = self.prepare(Variant::Kafka)?;
        broker.restart()?;
        let folder = self.folder.join("knee");
        let commands = &mut results.commands;
        let variant = Variant::Kafka;
        let mut bed = Bed { lab: self, broker, variant, folder, knee: None, commands };
        bed.warm_up()?;
        let load = Load::latency(Variant::Kafka, &self.settings, 4, None)
            .with("duration", self.settings.duration_s / 2.0);
        let outcome = bed.bench("sweep", &load.switch("sweep"))?;
        bed.remember("knee", &outcome.command);
        let knee = match outcome.report.and_then(|report| report.knee) {
            Some(knee) => Knee {
                records_per_s: knee.records_per_s,
                found_by: format!("`corelog bench --sweep`; what ended it: {}", knee.limit),
            },
            None => bed.fall_back_to_the_most(outcome.error)?,
        };
        bed.broker.discard()?;
        Ok(knee)
    }

    fn start(&self, variant: Variant, values: &mut BTreeMap<Measure, f64>) -> Result<()> {
        let mut broker = self.prepare(variant)?;
        values.insert(Measure::StartEmptyMs, first_acknowledged_ms(&mut broker)?);
        thread::sleep(SETTLE);
        let pid = broker.pid().context("the broker runs")?;
        let (before, began) = (Usage::of(pid)?, Instant::now());
        thread::sleep(Duration::from_secs_f64(self.settings.idle_s));
        let after = Usage::of(pid)?;
        let share = (after.cpu_s - before.cpu_s) / began.elapsed().as_secs_f64();
        values.insert(Measure::IdleCpuPercent, share * 100.0);
        values.insert(Measure::IdleResidentMb, after.resident_mb);
        broker.terminate()?;
        values.insert(Measure::StartUsedMs, first_acknowledged_ms(&mut broker)?);
        first_record::fill(broker.address(), FILL_BATCHES)?;
        broker.kill()?;
        values.insert(Measure::StartKilledMs, first_acknowledged_ms(&mut broker)?);
        broker.discard()
    }

    fn many_partitions(&self, variant: Variant, values: &mut BTreeMap<Measure, f64>) -> Result<()> {
        let mut broker = self.prepare(variant)?;
        first_acknowledged_ms(&mut broker)?;
        thread::sleep(SETTLE);
        let pid = broker.pid().context("the broker runs")?;
        let before = Usage::of(pid)?;
        let began = Instant::now();
        for topic in 0..MANY_TOPICS {
            self.create_topic(&broker, variant, &format!("many-{topic}"), PARTITIONS_OF_MANY)?;
        }
        values.insert(Measure::CreateMs, began.elapsed().as_secs_f64() * 1e3);
        // Kafka makes the partitions' files after it has said that they are there.
        until_quiet(pid)?;
        let grown_kib = (Usage::of(pid)?.resident_mb - before.resident_mb) * 1e6 / 1024.0;
        values.insert(Measure::PartitionKib, grown_kib / f64::from(MANY_TOPICS * PARTITIONS_OF_MANY));
        first_record::acknowledged(broker.address(), START_LIMIT, || Ok(()))?;
        broker.kill()?;
        values.insert(Measure::StartKilledMs, first_acknowledged_ms(&mut broker)?);
        broker.discard()
    }

    fn create_topic(&self, broker: &Broker, variant: Variant, topic: &str, partitions: u32) -> Result<()> {
        let mut command = Command::new(&self.corelog);
        command
            .args(["topic", "create", topic, "--partitions", &partitions.to_string()])
            .args(["--bootstrap", &broker.address().to_string()])
            .args(["--timeout", &TOPIC_LIMIT.as_secs().to_string()]);
        if let Some(config) = variant.topic_config() {
            command.args(["--config", config]);
        }
        let log = self.project.logs().join("versus-topic.log");
        process::run(command, &log, TOPIC_LIMIT)
            .map_err(|_| anyhow!("topic {topic} with {partitions} partitions: {}", last_words(&log)))
    }

    /// A command as somebody would type it in the work tree.
    fn typed(&self, words: &[String]) -> String {
        self.relative(&words.join(" "))
    }

    /// Text without this machine's paths.
    fn relative(&self, text: &str) -> String {
        let root = format!("{}/", self.project.root().display());
        let java = self.java.program.display().to_string();
        text.replace(&root, "").replace(&java, "java")
    }
}

/// From starting the process to the acknowledgement of a record.
fn first_acknowledged_ms(broker: &mut Broker) -> Result<f64> {
    let began = Instant::now();
    broker.spawn()?;
    let address = broker.address();
    first_record::acknowledged(address, START_LIMIT, || broker.check_running())?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// Waits until a process has next to nothing to do.
fn until_quiet(pid: u32) -> Result<()> {
    let deadline = Instant::now() + QUIET_LIMIT;
    let mut before = Usage::of(pid)?;
    while Instant::now() < deadline {
        thread::sleep(Duration::from_secs(1));
        let now = Usage::of(pid)?;
        if now.cpu_s - before.cpu_s < QUIET_CPU_SHARE {
            return Ok(());
        }
        before = now;
    }
    bail!("it is not at rest after {} s", QUIET_LIMIT.as_secs())
}

fn one_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or_default().to_owned()
}

impl Bed<'_> {
    /// The same for every variant: a JIT compiler has seen what it is about to be measured with.
    fn warm_up(&mut self) -> Result<()> {
        let seconds = self.lab.settings.broker_warm_up_s;
        let max = Load::throughput(self.variant, 4, 0.0, seconds * 0.6).with("consumers", 1);
        let paced = Load::latency(self.variant, &self.lab.settings, 4, None)
            .with("warm-up", 0)
            .with("rate", 5_000)
            .with("duration", seconds * 0.4);
        for (name, load) in [("warm-up-max", max), ("warm-up-paced", paced)] {
            let outcome = self.bench(name, &load)?;
            if let Some(error) = outcome.error {
                println!("  warming up {}: {error}", self.variant.name());
            }
        }
        nix::unistd::sync();
        Ok(())
    }

    fn bench(&mut self, name: &str, load: &Load) -> Result<Outcome> {
        let generator = Generator { binary: self.lab.corelog.clone(), core: self.lab.settings.client_core };
        generator.run(&mut self.broker, load, &self.folder.join(name))
    }

    /// The knee when no sweep found one: what the same connections reach without a pause.
    fn fall_back_to_the_most(&mut self, error: Option<String>) -> Result<Knee> {
        let load = Load::latency(self.variant, &self.lab.settings, 4, None)
            .with("arrivals", "max")
            .with("duration", self.lab.settings.duration_s);
        let outcome = self.bench("most", &load)?;
        self.remember("knee", &outcome.command);
        let most = outcome.values.get(&Measure::RecordsPerS).copied();
        let records_per_s = most.with_context(|| {
            format!("Kafka has no knee: {}", outcome.error.or(error.clone()).unwrap_or_default())
        })?;
        let why = error.unwrap_or_else(|| "it reported none".to_owned());
        let found_by = format!(
            "the rate that the load of the latency row reaches without a pause, since `corelog bench --sweep` \
             found none ({why})"
        );
        Ok(Knee { records_per_s, found_by })
    }

    fn remember(&mut self, what: &str, command: &[String]) {
        let mut words = command.to_vec();
        if let Some(at) = words.iter().position(|word| word == "--server-pid")
            && let Some(pid) = words.get_mut(at + 1)
        {
            *pid = "$PID".to_owned();
        }
        let typed = self.lab.typed(&words);
        self.commands.insert(what.to_owned(), typed);
    }

    fn measure(&mut self, row: Row) -> Result<Vec<Cell>> {
        let settings = &self.lab.settings;
        let (variant, warm_up_s) = (self.variant, settings.warm_up_s);
        match row {
            Row::Throughput => {
                let load = Load::throughput(variant, 16, warm_up_s, settings.throughput_s);
                Ok(vec![self.produce(row, step::ONLY, "throughput", &load)?])
            }
            Row::Single => {
                let load = Load::single(variant, settings);
                Ok(vec![self.produce(row, step::ONLY, "single", &load)?])
            }
            Row::Latency => {
                let knee = self.knee.context("the knee is known")?;
                let mut cells = Vec::new();
                for (name, share) in step::SHARES {
                    let load = Load::latency(variant, settings, 4, Some(knee * share));
                    let run = format!("latency-{}", name.split('%').next().unwrap_or_default());
                    cells.push(self.produce(row, name, &run, &load)?);
                }
                Ok(cells)
            }
            Row::Partitions => {
                let knee = self.knee.context("the knee is known")?;
                let max = |partitions| Load::throughput(variant, partitions, warm_up_s, settings.duration_s);
                let loaded = |partitions| {
                    Load::latency(variant, settings, partitions, Some(knee / 2.0))
                        .with("duration", settings.duration_s)
                        .with("consumers", 0)
                };
                let steps = [
                    (step::ONE_MAX, "one-max", max(1)),
                    (step::MANY_MAX, "many-max", max(1_000)),
                    (step::ONE_LOADED, "one-loaded", loaded(1)),
                    (step::MANY_LOADED, "many-loaded", loaded(1_000)),
                ];
                steps.iter().map(|(step, name, load)| self.produce(row, step, name, load)).collect()
            }
            Row::Fetch => Ok(vec![self.fetch()?]),
            Row::JavaTools => self.java_tools(),
            Row::Start | Row::ManyPartitions => unreachable!("these rows have brokers of their own"),
        }
    }

    /// A load whose numbers are the report's.
    fn produce(&mut self, row: Row, step: &str, name: &str, load: &Load) -> Result<Cell> {
        let outcome = self.bench(name, load)?;
        self.remember_cell(row, step, &outcome.command);
        let mut cell = Cell::new(row, self.variant, step);
        cell.values = outcome.values;
        cell.client_bound = outcome.client_bound;
        cell.error = outcome.error;
        Ok(cell)
    }

    fn remember_cell(&mut self, row: Row, step: &str, command: &[String]) {
        let variant = self.variant.name();
        let step = if step.is_empty() { String::new() } else { format!(", {step}") };
        self.remember(&format!("{} {row}{step}: {variant}", row.number()), command);
    }

    fn java_tools(&mut self) -> Result<Vec<Cell>> {
        const TOPIC: &str = "java";
        self.lab.create_topic(&self.broker, self.variant, TOPIC, 1)?;
        let records = self.lab.settings.tool_records.to_string();
        let producer = ["--record-size", "1024", "--throughput", "-1", "--command-property", "acks=all"];
        let (mut produced, output) =
            self.java_tool(step::PRODUCER, "ProducerPerformance", "--num-records", &producer)?;
        if produced.error.is_none() {
            produced.values.extend(java_tools::read_producer(&output)?);
        }
        let (mut consumed, output) =
            self.java_tool(step::CONSUMER, "ConsumerPerformance", "--num-records", &["--timeout", "10000"])?;
        match java_tools::read_consumer(&output) {
            Ok((values, read)) if read >= records.parse::<f64>()? => consumed.values.extend(values),
            Ok((_, read)) => consumed.error = Some(format!("it read {read} of {records} records")),
            Err(error) => {
                let _ = consumed.error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
        let console = ["--partition", "0", "--offset", "earliest"];
        let (read, _) =
            self.java_tool(step::CONSOLE, "consumer.ConsoleConsumer", "--max-messages", &console)?;
        let mut cells = vec![produced, consumed, read];
        for cell in cells.iter_mut().filter(|cell| cell.error.is_some()) {
            // What half a run used says nothing.
            cell.values.clear();
        }
        Ok(cells)
    }

    /// Runs a tool of Kafka's on the client's core for as many records as the settings say, and
    /// returns what it printed.
    fn java_tool(
        &mut self,
        step: &str,
        class: &str,
        count_flag: &str,
        arguments: &[&str],
    ) -> Result<(Cell, String)> {
        let records = self.lab.settings.tool_records;
        let mut command = self.lab.java.stock_command(self.lab.settings.client_core, &TOOL_HEAP);
        command
            .arg(format!("org.apache.kafka.tools.{class}"))
            .args(["--bootstrap-server", &self.broker.address().to_string()])
            .args(["--topic", "java", count_flag, &records.to_string()])
            .args(arguments);
        self.remember_cell(Row::JavaTools, step, &process::words(&command));
        fs::create_dir_all(&self.folder)?;
        let log = self.folder.join(format!("{class}.log"));
        let output = self.folder.join(format!("{class}.out"));
        command.stderr(fs::File::create(&log)?);
        if step == step::CONSOLE {
            // The records themselves.
            command.stdout(Stdio::null());
        } else {
            command.stdout(fs::File::create(&output)?);
        }
        let pid = self.broker.pid().context("the broker does not run")?;
        let (ended_well, server) = watch(&mut command, &log, pid)?;
        self.broker.check_running()?;
        let mut cell = Cell::new(Row::JavaTools, self.variant, step);
        if !ended_well {
            cell.error = Some(last_words(&log));
        }
        if let (Some((_, before)), Some((_, after))) = (server.first(), server.last()) {
            let per_record = (after - before) * 1e6 / as_f64(records);
            cell.values.insert(Measure::ServerCpuUsPerRecord, per_record);
        }
        Ok((cell, fs::read_to_string(&output).unwrap_or_default()))
    }

    /// Producers end, the broker comes to rest, and a consumer reads what there is.
    fn fetch(&mut self) -> Result<Cell> {
        let settings = &self.lab.settings;
        let load = Load::throughput(self.variant, 4, 0.0, settings.backlog_wait_s)
            .with("consumers", 1)
            .with("records", settings.backlog_records)
            .with("catch-up", settings.backlog_wait_s);
        let outcome = self.bench("fetch", &load)?;
        self.remember_cell(Row::Fetch, step::ONLY, &outcome.command);
        let mut cell = Cell::new(Row::Fetch, self.variant, step::ONLY);
        cell.client_bound = outcome.client_bound;
        cell.error = outcome.error;
        let run = outcome.report.as_ref().and_then(|report| report.runs.first());
        match run {
            Some(run) if run.is_read_afterwards() => {
                let (values, records) = run.consumed_values();
                cell.values = values;
                let cpu_s = cpu_after(&outcome.server, settings.backlog_wait_s);
                if records > 0 {
                    cell.values.insert(Measure::ServerCpuUsPerRecord, cpu_s * 1e6 / as_f64(records));
                }
            }
            Some(_) => {
                let why = "producers were not done when reading began";
                let _ = cell.error.get_or_insert_with(|| why.to_owned());
            }
            None => {}
        }
        Ok(cell)
    }
}

/// CPU seconds that a server used from so many seconds after the generator's start until its end.
/// Reading begins a little later, since the generator connects first.
fn cpu_after(samples: &[(f64, f64)], from_s: f64) -> f64 {
    let before = samples.iter().take_while(|(at_s, _)| *at_s <= from_s).last();
    match (before, samples.last()) {
        (Some((_, before)), Some((_, after))) => after - before,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_used_before_reading_began_is_not_counted() {
        let samples = [(0.0, 1.0), (5.0, 8.0), (9.9, 9.0), (10.2, 9.5), (12.0, 11.0)];
        assert_eq!(cpu_after(&samples, 10.0), 2.0);
        assert_eq!(cpu_after(&samples, 20.0), 0.0);
        assert_eq!(cpu_after(&[], 10.0), 0.0);
    }
}
