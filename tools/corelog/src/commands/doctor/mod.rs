//! `corelog doctor`: whether a node can run here, and what to set.
//!
//! Each check looks at one thing and makes one line of it. What it reads may be missing (containers,
//! virtual machines, no permission): then the line says so, or there is none where that is usual.
//! What is judged is a pure function of what was read. The checks that a start makes as well are the
//! start's own ([`corelog_runtime::checks`]).

mod cgroup;
mod cpu;
mod directory;
mod disk;
mod limits;
mod ports;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use corelog_bench::result::machine::describe_machine;
use corelog_runtime::alloc;
use serde::Serialize;

use crate::config::Config;
use crate::node::{engine_options, shard_options};
use crate::out::{self, Format};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// A node runs, but slower, with less, or not for long.
    Warn,
    /// A node would not start, or could not keep what it promises.
    Fail,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: String,
    level: Level,
    /// What was found.
    found: String,
    /// What to set, where something is to be set.
    set: Option<String>,
}

impl Check {
    fn ok(name: &str, found: impl Into<String>) -> Self {
        Self { name: name.to_owned(), level: Level::Ok, found: found.into(), set: None }
    }

    fn warn(name: &str, found: impl Into<String>, set: impl Into<String>) -> Self {
        Self { name: name.to_owned(), level: Level::Warn, found: found.into(), set: Some(set.into()) }
    }

    fn fail(name: &str, found: impl Into<String>, set: impl Into<String>) -> Self {
        Self { name: name.to_owned(), level: Level::Fail, found: found.into(), set: Some(set.into()) }
    }

    /// An error of a start, whose text also says what to do.
    fn refused(name: &str, error: impl ToString) -> Self {
        Self { name: name.to_owned(), level: Level::Fail, found: error.to_string(), set: None }
    }

    /// Something that could not be found out, which is no reason to fail.
    fn unknown(name: &str, why: impl Into<String>) -> Self {
        Self { name: name.to_owned(), level: Level::Warn, found: why.into(), set: None }
    }
}

/// Everything that was looked at.
#[derive(Debug, Serialize)]
struct Report {
    failed: usize,
    warnings: usize,
    checks: Vec<Check>,
}

impl Report {
    fn of(checks: Vec<Check>) -> Self {
        let count = |level| checks.iter().filter(|check| check.level == level).count();
        Self { failed: count(Level::Fail), warnings: count(Level::Warn), checks }
    }

    fn to_text(&self) -> String {
        let width = self.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for Check { name, level, found, set } in &self.checks {
            let level = match level {
                Level::Ok => "ok",
                Level::Warn => "warn",
                Level::Fail => "fail",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{level:<4}  {name:<width$}  {found}");
            if let Some(set) = set {
                let _ = writeln!(text, "{:4}  {:width$}  set: {set}", "", "");
            }
        }
        let _ = match (self.failed, self.warnings) {
            (0, 0) => writeln!(text, "\nA node can run here."),
            (0, warnings) => writeln!(text, "\nA node can run here; warnings: {warnings}."),
            (failed, warnings) => writeln!(text, "\nFailed: {failed}; warnings: {warnings}."),
        };
        text
    }
}

/// What a node with this configuration uses at most.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Needs {
    shards: usize,
    /// As asked for; all that are allowed if `None`.
    cores: Option<Vec<usize>>,
    /// Registered by each executor.
    io_memory_bytes: usize,
    /// Open files without connections.
    files: u64,
    connections: u64,
    /// The budgets of all shards.
    memory_bytes: u64,
    /// All journals' files.
    journal_bytes: u64,
    /// What a first start writes.
    first_bytes: u64,
}

/// Rings, timers, sockets and pipes of an executor, generously.
const FILES_OF_EXECUTOR: u64 = 32;
/// What a process has open anyway, and what this command line needs.
const FILES_OF_PROCESS: u64 = 64;

impl Needs {
    fn of(config: &Config) -> Result<Self> {
        let executors = shard_options(config)?;
        let engine = engine_options(config)?;
        let shards = executors.shards as u64;
        // One file above the limit is the reserve for what frees files.
        let journal_files = engine.journal.max_files as u64 + 1;
        let files = engine.shard.open_files_max as u64 + journal_files + FILES_OF_EXECUTOR;
        let memory = [
            engine.shard.tail_cache_bytes,
            engine.shard.unflushed_bytes_max,
            config.network.request_memory_bytes,
            config.network.response_memory_bytes,
            alloc::KEPT_BYTES_MAX,
        ];
        Ok(Self {
            shards: executors.shards,
            cores: executors.cores,
            io_memory_bytes: executors.io_memory_bytes,
            files: shards * files + FILES_OF_PROCESS,
            connections: config.network.max_connections as u64,
            memory_bytes: shards * memory.into_iter().map(|bytes| bytes as u64).sum::<u64>(),
            journal_bytes: shards * journal_files * engine.journal.file_bytes,
            first_bytes: shards * engine.journal.first_file_bytes,
        })
    }
}

/// Checks everything and prints it.
pub(crate) fn run(config: &Config, format: Format) -> Result<ExitCode> {
    let needs = Needs::of(config)?;
    let machine = describe_machine();
    let mut checks = limits::kernel_and_limits(&needs, &machine);
    checks.extend(cpu::cores_and_clocks(&needs, &machine));
    let directory = directory::look_at(config, needs.shards);
    checks.push(directory.check.clone());
    checks.extend(disk::disk(&directory, &needs));
    checks.extend(ports::ports(config, &directory)?);
    let report = Report::of(checks);
    match format {
        Format::Json => out::print_json(&report)?,
        Format::Text => out::print_text(&report.to_text())?,
    }
    Ok(match report.failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// A file's text without the white space around it, if it is there and says something.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The value of `key`, in a file of lines such as `key: value`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == key).then(|| value.trim())
    })
}

/// A size in the largest unit of which there is one, rounded down to a tenth.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let Some((unit, name)) = UNITS.into_iter().find(|(unit, _)| bytes >= *unit) else {
        return format!("{bytes} bytes");
    };
    match (bytes / unit, bytes % unit * 10 / unit) {
        (whole, 0) => format!("{whole} {name}"),
        (whole, tenths) => format!("{whole}.{tenths} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let cases = [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (512 << 10, "512 KiB"),
            (3 << 19, "1.5 MiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (5 << 40, "5 TiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn the_text_has_what_was_found_and_below_it_what_to_set() {
        let report = Report::of(vec![Check::ok("kernel", "new"), Check::fail("disk", "full", "another")]);
        assert_eq!(
            report.to_text(),
            "ok    kernel  new\nfail  disk    full\n              set: another\n\nFailed: 1; warnings: 0.\n"
        );
        assert_eq!(Report::of(Vec::new()).to_text(), "\nA node can run here.\n");
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_a_field_or_none(text in "(Seccomp|Name):?[ \t]?[0-9]{0,3}\n?.{0,20}|.{0,40}", bytes: u64) {
            let _ = (field(&text, "Seccomp"), size(bytes));
        }
    }

    #[test]
    fn what_a_node_needs_grows_with_its_shards() {
        let of = |shards| Needs::of(&Config { shards, ..Config::default() }).unwrap();
        let (one, three) = (of(1), of(3));
        assert_eq!(one.journal_bytes, 5 * (64 << 20));
        assert_eq!(one.memory_bytes, (64 + 128 + 128 + 64 + 32) << 20);
        assert_eq!((three.memory_bytes, three.journal_bytes), (3 * one.memory_bytes, 3 * one.journal_bytes));
        assert!(three.files > one.files && one.files > FILES_OF_PROCESS);
        assert_eq!(three.connections, one.connections);
    }
}
