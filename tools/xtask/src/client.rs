//! The clients of the matrix: each can write a file into a topic and dump topics into files.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::java::JavaTools;
use crate::process;

/// For one run of one client.
const CLIENT_LIMIT: Duration = Duration::from_secs(180);

pub(crate) const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kcat,
    Confluent,
    KafkaPython,
    Java,
    Corelog,
}

/// What runs the clients of the matrix, and against which broker.
pub(crate) struct Clients {
    pub(crate) bootstrap: String,
    pub(crate) kcat: Option<PathBuf>,
    pub(crate) python: Option<PathBuf>,
    pub(crate) java: Option<JavaTools>,
    pub(crate) corelog: Option<PathBuf>,
    /// The folder of `produce.py` and `consume.py`.
    pub(crate) scripts: PathBuf,
    pub(crate) logs: PathBuf,
    /// Where a client's own output goes before it has the form of a dump.
    pub(crate) scratch: PathBuf,
}

/// One of the clients.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client(Kind);

/// A topic, how many records it holds, and the file to dump them into.
pub(crate) struct Dump {
    pub(crate) topic: String,
    pub(crate) count: usize,
    pub(crate) file: PathBuf,
}

impl Client {
    pub(crate) fn name(self) -> &'static str {
        match self.0 {
            Kind::Kcat => "kcat",
            Kind::Confluent => "confluent",
            Kind::KafkaPython => "kafka-python",
            Kind::Java => "java",
            Kind::Corelog => "corelog",
        }
    }
}

impl Clients {
    /// Those that are there.
    pub(crate) fn all(&self) -> Vec<Client> {
        let there = [
            (Kind::Kcat, self.kcat.is_some()),
            (Kind::Confluent, self.python.is_some()),
            (Kind::KafkaPython, self.python.is_some()),
            (Kind::Java, self.java.is_some()),
            (Kind::Corelog, self.corelog.is_some()),
        ];
        there.into_iter().filter_map(|(kind, is_there)| is_there.then_some(Client(kind))).collect()
    }

    /// Writes the `key<TAB>value` lines of `file` into `topic`, acknowledged by all replicas.
    pub(crate) fn produce(&mut self, client: Client, topic: &str, codec: &str, file: &Path) -> Result<()> {
        let name = client.name();
        let bootstrap = self.bootstrap.clone();
        let mut command = match client.0 {
            Kind::Kcat => {
                let mut command = program(self.kcat.as_deref())?;
                command
                    .args(["-P", "-b", &bootstrap, "-t", topic, "-K", "\t", "-z", codec])
                    .args(["-X", "acks=all", "-l"])
                    .arg(file);
                command
            }
            Kind::Confluent | Kind::KafkaPython => {
                let mut command = self.script("produce.py", name)?;
                command.args(["--to", &format!("{topic}={codec}"), "--file"]);
                command.arg(file);
                command
            }
            Kind::Java => return self.produce_with_java(topic, codec, file),
            Kind::Corelog => {
                let mut command = program(self.corelog.as_deref())?;
                command
                    .args(["produce", topic, "--bootstrap", &bootstrap])
                    .args(["--key-separator", "\t", "--acks", "all"])
                    .args(["--compression", codec, "--file"])
                    .arg(file);
                command
            }
        };
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        process::run(command, &self.log("produce", client), CLIENT_LIMIT)
            .with_context(|| format!("{name} producing to {topic}"))
    }

    /// Reads topics from their beginnings into files of `partition<TAB>offset<TAB>key<TAB>value`
    /// lines.
    pub(crate) fn consume(&mut self, client: Client, dumps: &[Dump]) -> Result<()> {
        match client.0 {
            Kind::Kcat => self.consume_with_kcat(dumps),
            Kind::Confluent | Kind::KafkaPython => self.consume_with_python(client, dumps),
            Kind::Java => self.consume_with_java(dumps),
            Kind::Corelog => self.consume_with_corelog(dumps),
        }
        .with_context(|| format!("{} consuming", client.name()))
    }

    fn log(&self, verb: &str, client: Client) -> PathBuf {
        self.logs.join(format!("{verb}-{}.log", client.name()))
    }

    fn script(&self, script: &str, client: &str) -> Result<Command> {
        let mut command = program(self.python.as_deref())?;
        command
            .arg(self.scripts.join(script))
            .args(["--client", client, "--bootstrap", &self.bootstrap])
            .env("PYTHONDONTWRITEBYTECODE", "1");
        Ok(command)
    }

    fn consume_with_kcat(&self, dumps: &[Dump]) -> Result<()> {
        for dump in dumps {
            let mut command = program(self.kcat.as_deref())?;
            command
                .args(["-C", "-q", "-e", "-o", "beginning", "-X", "check.crcs=true"])
                .args(["-X", "fetch.wait.max.ms=50"])
                // Seconds for metadata, of which it gives 5 otherwise.
                .args(["-m", "60"])
                .args(["-b", &self.bootstrap, "-t", &dump.topic])
                .args(["-f", "%p\t%o\t%k\t%s\n"]);
            process::run_into(command, &dump.file, &self.log("consume", Client(Kind::Kcat)), CLIENT_LIMIT)?;
        }
        Ok(())
    }

    fn consume_with_python(&self, client: Client, dumps: &[Dump]) -> Result<()> {
        let mut command = self.script("consume.py", client.name())?;
        for dump in dumps {
            command.args(["--read", &format!("{}={}", dump.topic, dump.file.display())]);
        }
        process::run(command, &self.log("consume", client), CLIENT_LIMIT)
    }

    fn produce_with_java(&mut self, topic: &str, codec: &str, file: &Path) -> Result<()> {
        let arguments = [
            "--bootstrap-server",
            &self.bootstrap,
            "--topic",
            topic,
            "--compression-codec",
            codec,
            "--reader-property",
            "parse.key=true",
            "--reader-property",
            "key.separator=\t",
            "--request-required-acks",
            "all",
        ]
        .map(str::to_owned);
        let output = self.scratch.join("java-output");
        let java = self.java.as_mut().context("there is no Java")?;
        java.run("ConsoleProducer", Some(file), &output, &arguments)
    }

    /// The console consumer takes one partition at a time when it is not in a group, and knows no
    /// end but a number of records: Kafka's own tool for offsets says how many.
    fn consume_with_java(&mut self, dumps: &[Dump]) -> Result<()> {
        let bootstrap = self.bootstrap.clone();
        let ends_file = self.scratch.join("java-ends");
        let output = self.scratch.join("java-output");
        let topics: Vec<&str> = dumps.iter().map(|dump| dump.topic.as_str()).collect();
        let java = self.java.as_mut().context("there is no Java")?;
        let arguments = ["--bootstrap-server", &bootstrap, "--topic", &topics.join("|")];
        java.run("GetOffsetShell", None, &ends_file, &arguments.map(str::to_owned))?;
        let ends = fs::read_to_string(&ends_file)?;
        for dump in dumps {
            let mut text = String::new();
            for line in ends.lines() {
                let fields: Vec<&str> = line.split(':').collect();
                let &[topic, partition, end] = fields.as_slice() else {
                    continue;
                };
                if topic != dump.topic || end == "0" {
                    continue;
                }
                let arguments = [
                    "--bootstrap-server",
                    &bootstrap,
                    "--topic",
                    topic,
                    "--partition",
                    partition,
                    "--offset",
                    "earliest",
                    "--max-messages",
                    end,
                    "--timeout-ms",
                    "60000",
                    "--formatter-property",
                    "print.partition=true",
                    "--formatter-property",
                    "print.offset=true",
                    "--formatter-property",
                    "print.key=true",
                ]
                .map(str::to_owned);
                java.run("consumer.ConsoleConsumer", None, &output, &arguments)?;
                for record in fs::read_to_string(&output)?.lines() {
                    let plain = record
                        .strip_prefix("Partition:")
                        .with_context(|| format!("{record:?} names no partition"))?
                        .replacen("\tOffset:", "\t", 1);
                    writeln!(text, "{plain}")?;
                }
            }
            fs::write(&dump.file, text)?;
        }
        Ok(())
    }

    fn consume_with_corelog(&self, dumps: &[Dump]) -> Result<()> {
        let output = self.scratch.join("corelog-output");
        for dump in dumps {
            let mut command = program(self.corelog.as_deref())?;
            command
                .args(["consume", &dump.topic, "--bootstrap", &self.bootstrap])
                .args(["--from", "beginning", "--count", &dump.count.to_string()])
                .args(["--output", "json"]);
            let log = self.log("consume", Client(Kind::Corelog));
            process::run_into(command, &output, &log, CLIENT_LIMIT)?;
            let mut text = String::new();
            for line in fs::read_to_string(&output)?.lines() {
                let record: Value = serde_json::from_str(line).with_context(|| format!("in {line:?}"))?;
                let partition = number(&record, "partition")?;
                let offset = number(&record, "offset")?;
                let key = record["key"].as_str().unwrap_or_default();
                let value = record["value"].as_str().unwrap_or_default();
                writeln!(text, "{partition}\t{offset}\t{key}\t{value}")?;
            }
            ensure!(!text.is_empty(), "no record came from {}", dump.topic);
            fs::write(&dump.file, text)?;
        }
        Ok(())
    }
}

fn program(path: Option<&Path>) -> Result<Command> {
    path.map(Command::new).context("this client is not there")
}

fn number(record: &Value, field: &str) -> Result<u64> {
    record[field].as_u64().with_context(|| format!("no {field} in {record}"))
}
