//! Real clients against a broker: a large file through each of them, every pair of a producer and
//! a consumer with every codec, Kafka's own topic tool, and the behaviours that clients rely on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::broker::{Broker, BrokerKind, BrokerOptions};
use crate::client::{CODECS, Client, Clients, Dump};
use crate::java::{Java, JavaTools};
use crate::process;
use crate::project::Project;
use crate::setup::{Node, Toolbox};
use crate::verify::Corpus;

const FULL_PARTITIONS: usize = 6;
const PAIR_PARTITIONS: usize = 2;
/// Enough for several batches of each codec; the large file is read in full elsewhere.
const PAIR_LINES: usize = 3_000;
const BEHAVIOURS_LIMIT: Duration = Duration::from_secs(600);
/// For tests in Rust, which may have to be built first.
const RUST_LIMIT: Duration = Duration::from_secs(1800);
const BEHAVIOUR_LIMIT_S: u32 = 60;
const TOOL_LIMIT: Duration = Duration::from_secs(30);

/// A part of the matrix that can be run alone.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The large file, produced by kcat and read by every client
    Full,
    /// Every producer with every consumer and every codec
    Pairs,
    /// Topics created, described, listed and deleted by command line tools
    Topics,
    /// What clients rely on beyond that: see tools/clients/tests
    Behaviours,
}

const PARTS: [Part; 4] = [Part::Full, Part::Pairs, Part::Topics, Part::Behaviours];

/// Runs the parts asked for (all when none is), and returns a sentence about what passed.
pub(crate) fn run(
    project: &Project,
    tools: &Toolbox,
    kind: &BrokerKind,
    shards: usize,
    only: &[Part],
) -> Result<String> {
    let options =
        BrokerOptions { shards, ..BrokerOptions::named(&format!("{}-clients-{shards}", kind.name())) };
    let broker = Broker::start(project, kind, options)?;
    let dumps = tempfile::tempdir_in(project.scratch())?;
    let mut matrix = Matrix::new(project, tools, kind, &broker, dumps.path())?;
    let mut failures = Failures::default();
    let mut passed = Vec::new();
    for part in PARTS {
        if !only.is_empty() && !only.contains(&part) {
            continue;
        }
        let began = Instant::now();
        let reports = match part {
            Part::Full => vec![matrix.full()],
            Part::Pairs => vec![matrix.pairs()],
            Part::Topics => vec![matrix.topics()],
            Part::Behaviours => {
                vec![
                    matrix.behaviours(),
                    matrix.behaviours_without_auto_create(kind, shards),
                    matrix.own_client(),
                    matrix.rskafka(),
                ]
            }
        };
        let seconds = began.elapsed().as_secs_f64();
        for report in reports {
            if let Some(report) = failures.take(report) {
                println!("  {report} ({seconds:.1} s)");
                passed.push(report);
            }
        }
    }
    failures.take(broker.stop().context("stopping the broker"));
    failures.into_result()?;
    Ok(passed.join("; "))
}

/// What went wrong so far: one client's failure does not hide another's.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn take<T>(&mut self, result: Result<T>) -> Option<T> {
        result
            .inspect_err(|error| {
                println!("  FAILED: {error:#}");
                self.0.push(format!("{error:#}"));
            })
            .ok()
    }

    fn into_result(self) -> Result<()> {
        let summaries: Vec<&str> = self.0.iter().filter_map(|text| text.lines().next()).collect();
        ensure!(summaries.is_empty(), "{} failed: {}", summaries.len(), summaries.join("; "));
        Ok(())
    }
}

struct Matrix<'a> {
    project: &'a Project,
    tools: &'a Toolbox,
    clients: Clients,
    broker_name: &'static str,
    corpus: PathBuf,
    /// A folder of its own for the dumps.
    folder: &'a Path,
    /// Part of every topic's name, since a broker elsewhere may have seen an earlier run.
    run: String,
}

impl<'a> Matrix<'a> {
    fn new(
        project: &'a Project,
        tools: &'a Toolbox,
        kind: &BrokerKind,
        broker: &Broker,
        folder: &'a Path,
    ) -> Result<Self> {
        let java = match &tools.java {
            Some(java) => {
                let source = project.clients().join("java/JavaTools.java");
                let log = project.logs().join("java-tools.log");
                Some(JavaTools::start(java, &source, &log)?)
            }
            None => None,
        };
        Ok(Self {
            project,
            tools,
            clients: Clients {
                bootstrap: broker.address().to_string(),
                kcat: tools.kcat.clone(),
                python: tools.python.clone(),
                java,
                corelog: kind.command_line(project),
                scripts: project.clients(),
                logs: project.logs(),
                scratch: folder.to_path_buf(),
            },
            broker_name: kind.name(),
            corpus: tools.corpus.clone(),
            folder,
            run: format!("{:08x}", fastrand::u32(..)),
        })
    }

    /// All lines of the corpus, produced by kcat and read by every client.
    fn full(&mut self) -> Result<String> {
        let corpus = Corpus::read(&self.corpus)?;
        let topic = format!("full-{}", self.run);
        let clients = self.clients.all();
        let producer = clients
            .iter()
            .find(|client| client.name() == "kcat")
            .or(clients.first())
            .copied()
            .context("no client is there")?;
        self.create_topic(&topic, FULL_PARTITIONS)?;
        self.settle("full", FULL_PARTITIONS)?;
        let file = self.corpus.clone();
        self.clients.produce(producer, &topic, "none", &file)?;
        let mut failures = Failures::default();
        for client in &clients {
            let began = Instant::now();
            let dump = Dump { topic: topic.clone(), count: corpus.len(), file: self.folder.join("full") };
            if failures.take(self.read(*client, &corpus, &[dump])).is_some() {
                let seconds = began.elapsed().as_secs_f64();
                println!("    read by {} in {seconds:.1} s", client.name());
            }
        }
        failures.into_result()?;
        Ok(format!(
            "{} lines in {FULL_PARTITIONS} partitions from {}, read the same by {}",
            corpus.len(),
            producer.name(),
            names(&clients)
        ))
    }

    /// Each producer writes one topic per codec, and each consumer reads all of them.
    fn pairs(&mut self) -> Result<String> {
        let file = self.folder.join("pairs.txt");
        let text = fs::read_to_string(&self.corpus)?;
        let lines: Vec<&str> = text.lines().collect();
        // Every so many lines, so that there are many keys.
        let stride = lines.len().div_ceil(PAIR_LINES).max(1);
        let chosen: Vec<&str> = lines.into_iter().step_by(stride).collect();
        fs::write(&file, format!("{}\n", chosen.join("\n")))?;
        let corpus = Corpus::read(&file)?;

        let clients = self.clients.all();
        let mut failures = Failures::default();
        let mut writes = Vec::new();
        for producer in &clients {
            for codec in CODECS {
                let topic = format!("pair-{}-{}-{codec}", self.run, producer.name());
                self.create_topic(&topic, PAIR_PARTITIONS)?;
                writes.push((*producer, codec, topic));
            }
        }
        self.settle("pair", writes.len() * PAIR_PARTITIONS)?;
        let mut topics = Vec::new();
        for (producer, codec, topic) in writes {
            let produced = self.clients.produce(producer, &topic, codec, &file);
            if failures.take(produced).is_some() {
                topics.push(topic);
            }
        }
        for consumer in &clients {
            let began = Instant::now();
            let dumps: Vec<Dump> = topics
                .iter()
                .map(|topic| Dump {
                    topic: topic.clone(),
                    count: corpus.len(),
                    file: self.folder.join(topic),
                })
                .collect();
            if failures.take(self.read(*consumer, &corpus, &dumps)).is_some() {
                let (count, name) = (topics.len(), consumer.name());
                let seconds = began.elapsed().as_secs_f64();
                println!("    {count} topics read by {name} in {seconds:.1} s");
            }
        }
        failures.into_result()?;
        Ok(format!(
            "{} pairs of {} with {}",
            clients.len() * clients.len(),
            names(&clients),
            CODECS.join(", ")
        ))
    }

    /// Reads topics with one client, each of which must hold the corpus.
    fn read(&mut self, client: Client, corpus: &Corpus, dumps: &[Dump]) -> Result<()> {
        self.clients.consume(client, dumps)?;
        for dump in dumps {
            corpus
                .check(&dump.file)
                .with_context(|| format!("{} read something else from {}", client.name(), dump.topic))?;
        }
        Ok(())
    }

    /// Kafka's own topic tool and ours, each on a topic of its own.
    fn topics(&mut self) -> Result<String> {
        let mut used = Vec::new();
        if self.clients.java.is_some() {
            self.topics_with_java()?;
            used.push("kafka-topics");
        }
        if self.clients.corelog.is_some() {
            self.topics_with_corelog()?;
            used.push("corelog topic");
        }
        Ok(format!("topics through {}", used.join(", ")))
    }

    fn topics_with_java(&mut self) -> Result<()> {
        let topic = format!("java-topics-{}", self.run);
        let created = self.kafka_topics(&[
            "--create",
            "--topic",
            &topic,
            "--partitions",
            "3",
            "--config",
            "max.message.bytes=2000",
        ])?;
        ensure!(created.contains("Created topic"), "{created}");
        let described = self.kafka_topics(&["--describe", "--topic", &topic])?;
        ensure!(
            described.contains("PartitionCount: 3") && described.contains("max.message.bytes=2000"),
            "{described}"
        );
        ensure!(self.lists(&topic)?, "the new topic is not listed");
        self.alters_with_java(&topic)?;
        self.kafka_topics(&["--delete", "--topic", &topic])?;
        ensure!(!self.lists(&topic)?, "the deleted topic is still listed");
        Ok(())
    }

    /// Partitions, configs, sizes, leaders: `kafka-topics --alter`, `kafka-configs`, `kafka-log-dirs` and
    /// `kafka-leader-election`.
    fn alters_with_java(&mut self, topic: &str) -> Result<()> {
        self.kafka_topics(&["--alter", "--topic", topic, "--partitions", "5"])?;
        let described = self.kafka_topics(&["--describe", "--topic", topic])?;
        ensure!(described.contains("PartitionCount: 5"), "{described}");
        let entity = ["--entity-type", "topics", "--entity-name", topic];
        let configs = ["--alter", "--add-config", "retention.ms=86400000,cleanup.policy=[compact,delete]"];
        self.java_tool("kafka.admin.ConfigCommand", &[&configs[..], &entity].concat())?;
        let shown = self.java_tool("kafka.admin.ConfigCommand", &[&["--describe"][..], &entity].concat())?;
        ensure!(
            shown.contains("retention.ms=86400000") && shown.contains("cleanup.policy=compact,delete"),
            "{shown}"
        );
        let deleted = ["--alter", "--delete-config", "retention.ms"];
        self.java_tool("kafka.admin.ConfigCommand", &[&deleted[..], &entity].concat())?;
        let shown = self.java_tool("kafka.admin.ConfigCommand", &[&["--describe"][..], &entity].concat())?;
        ensure!(!shown.contains("retention.ms=86400000"), "{shown}");
        let nodes = ["--entity-type", "brokers", "--entity-default"];
        for change in [
            ["--alter", "--add-config", "log.flush.interval.ms=5000"],
            ["--alter", "--delete-config", "log.flush.interval.ms"],
        ] {
            self.java_tool("kafka.admin.ConfigCommand", &[&change[..], &nodes].concat())?;
        }
        let sizes = self.java_tool("LogDirsCommand", &["--describe", "--topic-list", topic])?;
        ensure!(sizes.contains(&format!("{topic}-4")), "{sizes}");
        let preferred = ["--election-type", "preferred", "--topic", topic, "--partition", "4"];
        self.java_tool("LeaderElectionCommand", &preferred)?;
        Ok(())
    }

    fn java_tool(&mut self, class: &str, arguments: &[&str]) -> Result<String> {
        let output = self.folder.join("java-tool");
        let mut all = vec!["--bootstrap-server".to_owned(), self.clients.bootstrap.clone()];
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let java = self.clients.java.as_mut().context("there is no Java")?;
        java.run(class, None, &output, &all)?;
        Ok(fs::read_to_string(&output)?)
    }

    fn lists(&mut self, topic: &str) -> Result<bool> {
        let listed = self.kafka_topics(&["--list"])?;
        Ok(listed.lines().any(|line| line == topic))
    }

    fn kafka_topics(&mut self, arguments: &[&str]) -> Result<String> {
        self.java_tool("TopicCommand", arguments)
    }

    fn topics_with_corelog(&mut self) -> Result<()> {
        let topic = format!("corelog-topics-{}", self.run);
        self.corelog_topic(&["create", &topic, "--partitions", "3", "--config", "max.message.bytes=2000"])?;
        let described = self.corelog_topic(&["describe", &topic])?;
        ensure!(described.contains("max.message.bytes"), "{described}");
        // Any other Kafka may be on the other side, so that it is not looked at what is said.
        self.corelog_topic(&["add-partitions", &topic, "--to", "4", "--yes"])?;
        self.corelog_topic(&["alter", &topic, "--set", "segment.ms=86400000"])?;
        let described = self.corelog_topic(&["describe", &topic])?;
        ensure!(described.contains("segment.ms = 86400000"), "{described}");
        let listed = self.corelog_topic(&["list"])?;
        ensure!(listed.contains(&topic), "not listed: {listed}");
        self.corelog_topic(&["delete", &topic])?;
        let listed = self.corelog_topic(&["list"])?;
        ensure!(!listed.contains(&topic), "still listed: {listed}");
        ensure!(
            self.corelog_topic(&["describe", &topic]).is_err(),
            "a topic that is not there was described"
        );
        Ok(())
    }

    fn corelog_topic(&self, arguments: &[&str]) -> Result<String> {
        let binary = self.clients.corelog.as_ref().context("there is no corelog")?;
        let output = self.folder.join("corelog-topic");
        let mut command = Command::new(binary);
        command.arg("topic").args(arguments).args(["--bootstrap", &self.clients.bootstrap]);
        let log = self.project.logs().join("corelog-topic.log");
        process::run_into(command, &output, &log, TOOL_LIMIT)?;
        Ok(fs::read_to_string(&output)?)
    }

    fn create_topic(&mut self, topic: &str, partitions: usize) -> Result<()> {
        if self.clients.java.is_some() {
            let partitions = partitions.to_string();
            self.kafka_topics(&["--create", "--topic", topic, "--partitions", &partitions])?;
            return Ok(());
        }
        if self.clients.corelog.is_some() {
            let partitions = partitions.to_string();
            self.corelog_topic(&["create", topic, "--partitions", &partitions])?;
            return Ok(());
        }
        bail!("neither Kafka's tools nor corelog are there to create a topic")
    }

    /// Waits until the partitions of new topics answer. Apache Kafka says NOT_LEADER_OR_FOLLOWER for
    /// a moment after it has said that a topic is created, and a producer that is not idempotent
    /// then changes the order of records by retrying. Corelog must need no such grace.
    fn settle(&mut self, prefix: &str, partitions: usize) -> Result<()> {
        if self.broker_name == "corelog" {
            return Ok(());
        }
        let Some(java) = self.clients.java.as_mut() else {
            return Ok(());
        };
        let output = self.folder.join("settled");
        let topics = format!("{prefix}-{}.*", self.run);
        let arguments = ["--bootstrap-server", &self.clients.bootstrap, "--topic", &topics];
        java.run("GetOffsetShell", None, &output, &arguments.map(str::to_owned))?;
        let answered = fs::read_to_string(&output)?.lines().count();
        ensure!(answered == partitions, "{answered} of {partitions} new partitions answered");
        Ok(())
    }

    /// The Python tests of an ordinary broker.
    fn behaviours(&self) -> Result<String> {
        self.pytest(&self.clients.bootstrap, "not without_auto_create")
    }

    /// Our own client's tests, which need a broker and are ignored without one.
    fn own_client(&self) -> Result<String> {
        let mut command = process::tethered("cargo");
        command
            .args(["test", "--locked", "--package", "corelog-net", "--test", "client_against_a_broker"])
            .args(["--", "--ignored"])
            .env("CORELOG_TEST_BOOTSTRAP", &self.clients.bootstrap)
            .current_dir(self.project.root());
        let log = self.project.logs().join("own-client.log");
        process::run(command, &log, RUST_LIMIT).context("our own client")?;
        Ok("our own client's tests".to_owned())
    }

    /// The tests of rskafka, in a package that is not in the workspace.
    fn rskafka(&self) -> Result<String> {
        let mut command = process::tethered("cargo");
        command
            .args(["test", "--locked", "--target-dir"])
            .arg(self.project.state().join("rskafka"))
            .env("CORELOG_TEST_BOOTSTRAP", &self.clients.bootstrap)
            .current_dir(self.project.clients().join("rskafka"));
        process::run(command, &self.project.logs().join("rskafka.log"), RUST_LIMIT).context("rskafka")?;
        Ok("rskafka's tests".to_owned())
    }

    /// The tests of a broker that makes no topics automatically, on a broker that is set so.
    fn behaviours_without_auto_create(&self, kind: &BrokerKind, shards: usize) -> Result<String> {
        if matches!(kind, BrokerKind::External { .. }) {
            return Ok("skipped, since it takes a broker that is set so".to_owned());
        }
        let options = BrokerOptions {
            shards,
            auto_create: false,
            ..BrokerOptions::named(&format!("{}-no-auto-create", kind.name()))
        };
        let broker = Broker::start(self.project, kind, options)?;
        let report = self.pytest(&broker.address().to_string(), "without_auto_create")?;
        broker.stop()?;
        Ok(report)
    }

    /// The Python tests that `marker` selects; nothing where there is no Python.
    fn pytest(&self, bootstrap: &str, marker: &str) -> Result<String> {
        let Some(python) = &self.tools.python else {
            return Ok("behaviours skipped without Python".to_owned());
        };
        let mut marker = marker.to_owned();
        let mut toolchains = Vec::new();
        match &self.tools.java {
            Some(Java { program, jars, tools_jar }) => {
                toolchains.extend([("--java", program), ("--jars", jars), ("--tools-jar", tools_jar)]);
            }
            None => marker.push_str(" and not java"),
        }
        match &self.tools.node {
            Some(Node { program, modules }) => {
                toolchains.extend([("--node", program), ("--node-modules", modules)]);
            }
            None => marker.push_str(" and not node"),
        }
        let mut command = process::tethered(python);
        command
            .args(["-m", "pytest", "-p", "no:cacheprovider", "-ra", "--tb=short"])
            .args(["--timeout", &BEHAVIOUR_LIMIT_S.to_string()])
            .args(["--durations", "5", "-m", &marker])
            .arg(format!("--bootstrap={bootstrap}"))
            .arg(format!("--broker={}", self.broker_name))
            .current_dir(self.project.clients().join("tests"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        for (option, path) in toolchains {
            // In one word: a path by itself would be taken for a test to run.
            command.arg(format!("{option}={}", path.display()));
        }
        let log = format!("behaviours-{}.log", marker.replace(' ', "-"));
        let log = self.project.logs().join(log);
        process::run(command, &log, BEHAVIOURS_LIMIT).context("behaviours")?;
        let text = fs::read_to_string(&log)?;
        let summary = text.lines().next_back().unwrap_or_default();
        Ok(format!("behaviours: {}", summary.trim_matches(['=', ' '])))
    }
}

fn names(clients: &[Client]) -> String {
    let names: Vec<&str> = clients.iter().map(|client| client.name()).collect();
    names.join(", ")
}
