//! Corelog's own commands as clients: one process each, given again when a kill of the node came in
//! between.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;

use super::ground::{Counts, Ground};
use crate::process::{Process, pinned};

/// How long a command tries; a restart of the node takes much less.
const TIMEOUT_S: &str = "60";
const LIMIT: Duration = Duration::from_secs(90);
/// A command that kills interrupt so often is not given again: each waits until the node is back.
const ATTEMPTS_MAX: u32 = 4;

/// Gives commands, one after the other. Each task has its own, with its own files.
pub(crate) struct Commands<'a> {
    ground: &'a Ground<'a>,
    name: String,
}

/// How a command ended.
pub(crate) enum Ended {
    /// With this on stdout.
    Well(String),
    /// With an error, and the node was down meanwhile: nobody knows whether it was done.
    AcrossKill(String),
}

/// A record as `corelog consume --output json` prints it: bytes that are not UTF-8 are in base64.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Record {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) timestamp_ms: i64,
    #[serde(default)]
    pub(crate) key: Option<String>,
    #[serde(default)]
    key_base64: Option<String>,
    #[serde(default)]
    pub(crate) value: Option<String>,
    #[serde(default)]
    value_base64: Option<String>,
}

impl Record {
    /// Of everything but its place; the same in every process.
    pub(crate) fn fingerprint(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        (&self.key, &self.key_base64, &self.value, &self.value_base64, self.timestamp_ms).hash(&mut hasher);
        hasher.finish()
    }
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Offset(u64),
    /// In ms since 1970.
    Time(i64),
}

/// What `corelog topic describe --output json` says.
#[derive(Debug, Deserialize)]
pub(crate) struct Description {
    pub(crate) id: String,
    pub(crate) partitions: Vec<PartitionDescription>,
    pub(crate) configs: std::collections::BTreeMap<String, Option<String>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct PartitionDescription {
    pub(crate) log_start_offset: Option<u64>,
    pub(crate) log_end_offset: Option<u64>,
}

impl<'a> Commands<'a> {
    pub(crate) fn new(ground: &'a Ground<'a>, name: &str) -> Self {
        Self { ground, name: format!("soak-{name}") }
    }

    /// A file of this task.
    pub(crate) fn file(&self, what: &str) -> PathBuf {
        self.ground.project.scratch().join(format!("{}-{what}", self.name))
    }

    /// Creates a topic that must not be there.
    pub(crate) fn create(&self, topic: &str, partitions: u32, configs: &[(&str, String)]) -> Result<()> {
        let partitions = partitions.to_string();
        let mut words = vec!["topic", "create", topic, "--partitions", &partitions];
        let configs: Vec<String> = configs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        for config in &configs {
            words.extend(["--config", config]);
        }
        self.until_it_ends_well(&words, "--if-not-exists").map(drop)
    }

    /// Deletes a topic that must be there.
    pub(crate) fn delete(&self, topic: &str) -> Result<()> {
        self.until_it_ends_well(&["topic", "delete", topic], "--if-exists").map(drop)
    }

    pub(crate) fn describe(&self, topic: &str) -> Result<Description> {
        let text = self.until_it_ends_well(&["topic", "describe", topic], "")?;
        serde_json::from_str(&text).with_context(|| format!("the description of {topic} is {text:?}"))
    }

    /// Produces lines of key, tab and value; the number that was acknowledged.
    pub(crate) fn produce(
        &self,
        topic: &str,
        lines: &Path,
        codec: &str,
        batch_bytes: u32,
    ) -> Result<Result<u64, String>> {
        #[derive(Deserialize)]
        struct Said {
            records: u64,
        }
        let (lines, batch_bytes) = (lines.display().to_string(), batch_bytes.to_string());
        let words = ["produce", topic, "--file", &lines, "--key-separator", "\t"];
        let options = ["--compression", codec, "--batch-bytes", &batch_bytes];
        match self.once(&[&words[..], &options[..]].concat())? {
            Ended::Well(text) => {
                let said: Said = serde_json::from_str(&text).with_context(|| format!("it said {text:?}"))?;
                Ok(Ok(said.records))
            }
            Ended::AcrossKill(why) => Ok(Err(why)),
        }
    }

    /// Reads up to `count` records, of one partition or of all, up to the present end.
    pub(crate) fn consume(
        &self,
        topic: &str,
        partition: Option<u32>,
        from: Option<From>,
        count: Option<usize>,
    ) -> Result<Vec<Record>> {
        let partition = partition.map(|partition| partition.to_string());
        let count = count.map(|count| count.to_string());
        let from = from.map(|from| match from {
            From::Offset(offset) => offset.to_string(),
            From::Time(timestamp_ms) => format!("@{timestamp_ms}"),
        });
        let mut words = vec!["consume", topic];
        for (flag, value) in [("--partition", &partition), ("--from", &from), ("--count", &count)] {
            words.extend(value.iter().flat_map(|value| [flag, value.as_str()]));
        }
        let text = self.until_it_ends_well(&words, "")?;
        text.lines()
            .map(|line| {
                serde_json::from_str(line).with_context(|| format!("a record was printed as {line:?}"))
            })
            .collect()
    }

    /// Gives a command again, with the flag that makes that harmless, as long as kills interrupt it.
    fn until_it_ends_well(&self, words: &[&str], again: &str) -> Result<String> {
        let mut words = words.to_vec();
        for _ in 0..ATTEMPTS_MAX {
            match self.once(&words)? {
                Ended::Well(text) => return Ok(text),
                Ended::AcrossKill(why) => {
                    println!("given again after a kill: {why}");
                    Counts::add(&self.ground.counts.repeated, 1);
                    self.ground.wait_for_node();
                }
            }
            if !again.is_empty() && !words.contains(&again) {
                words.push(again);
            }
        }
        bail!("`corelog {}` was interrupted {ATTEMPTS_MAX} times", words.join(" "))
    }

    fn once(&self, words: &[&str]) -> Result<Ended> {
        let changes = self.ground.changes();
        let (stdout, log) = (self.file("stdout"), self.log());
        let plan = self.ground.plan;
        let mut command: Command = pinned(&plan.binary, plan.client_core);
        command
            .args(words)
            .args(["--bootstrap", &self.ground.address.to_string(), "--timeout", TIMEOUT_S])
            .args(["--output", "json"])
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&log)?);
        let status = self.ground.wait(&mut Process::spawn(&mut command, &log)?, LIMIT)?;
        if status.success() {
            return Ok(Ended::Well(fs::read_to_string(&stdout)?));
        }
        ensure!(!self.ground.is_aborted(), "given up, since the soak ends");
        let said = fs::read_to_string(&log)?;
        let error = anyhow!("`corelog {}`: {status}: {}", words.join(" "), said.trim());
        if self.ground.was_down_since(changes) {
            Ok(Ended::AcrossKill(error.to_string()))
        } else {
            Err(error)
        }
    }

    fn log(&self) -> PathBuf {
        self.ground.project.logs().join(format!("{}.log", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_told_apart_by_each_part_of_its_content() -> Result<()> {
        let read = |text: &str| -> Result<Record> { Ok(serde_json::from_str(text)?) };
        let first = read(
            r#"{"topic":"t","partition":1,"offset":2,"timestamp_ms":3,"key":null,"value_base64":"/w==","headers":[]}"#,
        )?;
        assert_eq!((first.partition, first.offset, first.key.as_deref()), (1, 2, None));
        let others = [
            r#"{"partition":1,"offset":2,"timestamp_ms":4,"key":null,"value_base64":"/w=="}"#,
            r#"{"partition":1,"offset":2,"timestamp_ms":3,"key":"k","value_base64":"/w=="}"#,
            r#"{"partition":1,"offset":2,"timestamp_ms":3,"key":null,"value":"/w=="}"#,
            r#"{"partition":1,"offset":2,"timestamp_ms":3,"key":null,"value_base64":"/g=="}"#,
        ];
        for other in others {
            assert_ne!(first.fingerprint(), read(other)?.fingerprint(), "{other}");
        }
        let elsewhere = r#"{"partition":0,"offset":9,"timestamp_ms":3,"key":null,"value_base64":"/w=="}"#;
        assert_eq!(first.fingerprint(), read(elsewhere)?.fingerprint());
        Ok(())
    }
}
