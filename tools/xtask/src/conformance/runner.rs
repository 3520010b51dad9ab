//! How each suite is built, what its tests are called, and how one of them is run and read.
//!
//! Every test is a process of its own: one that hangs or crashes takes no other with it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::results::Verdict;
use super::source::{home, obtain};
use super::suite::Suite;
use super::{crates, librdkafka};
use crate::process::{self, tethered};
use crate::project::Project;
use crate::setup::{program, virtual_environment};

const LIST_LIMIT: Duration = Duration::from_secs(120);
/// What kafka-python's source package leaves out, and the name that it is imported by.
const STAND_IN: &str = "test/service.py";

/// Where a test finds its broker, and what it is told about it.
pub(crate) struct Ground {
    pub(crate) bootstrap: SocketAddr,
    /// Of the Apache Kafka to compare with: tests choose by it what they try, with both brokers alike.
    pub(crate) kafka_version: String,
    /// A folder with Kafka's own scripts, for tests that call them.
    pub(crate) kafka_path: PathBuf,
    /// For files of a single test.
    pub(crate) scratch: PathBuf,
}

impl Ground {
    /// Without a broker: for what only names tests.
    pub(crate) fn nowhere(kafka_version: &str) -> Self {
        Self {
            bootstrap: SocketAddr::from(([127, 0, 0, 1], 1)),
            kafka_version: kafka_version.to_owned(),
            kafka_path: PathBuf::new(),
            scratch: PathBuf::new(),
        }
    }
}

/// A suite that is ready to run.
pub(crate) trait Runner {
    /// The names of its tests for this version of Apache Kafka.
    fn tests(&self, kafka_version: &str) -> Result<Vec<String>>;

    /// What runs one of them.
    fn command(&self, test: &str, ground: &Ground) -> Result<Command>;

    /// What came of one: whether it ended well, and what it said.
    fn verdict(&self, test: &str, well: bool, said: &str, ground: &Ground) -> Verdict;
}

/// Fetches and builds a suite, as far as that was not done yet.
pub(crate) fn prepare(project: &Project, suite: Suite, path: Option<&Path>) -> Result<Box<dyn Runner>> {
    let source = obtain(project, suite, path)?;
    Ok(match suite.source() {
        Suite::Rskafka | Suite::RustRdkafka => Box::new(crates::Crate::build(project, suite, source)?),
        Suite::Librdkafka | Suite::LibrdkafkaKip848 => {
            Box::new(librdkafka::Librdkafka::build(project, suite, source)?)
        }
        Suite::Kcat => Box::new(Kcat::prepare(source)?),
        Suite::KafkaPython | Suite::ConfluentKafkaPython | Suite::ConfluentKafkaPythonKip848 => {
            Box::new(Pytest::prepare(project, suite, source)?)
        }
    })
}

/// The suites in Python.
struct Pytest {
    suite: Suite,
    python: PathBuf,
    source: PathBuf,
    log: PathBuf,
}

impl Pytest {
    fn prepare(project: &Project, suite: Suite, source: PathBuf) -> Result<Self> {
        let own = project.root().join("tools/conformance");
        let python = virtual_environment(
            project,
            &own.join("requirements.txt"),
            &home(project).join("venv"),
            "what the Python suites need",
        )?;
        let stand_in = source.join(STAND_IN);
        if suite == Suite::KafkaPython && !stand_in.is_file() {
            fs::copy(own.join("service.py"), stand_in)?;
            // Without this, Python's own package of that name would be imported.
            fs::write(source.join("test/__init__.py"), "")?;
        }
        let log = project.logs().join(format!("conformance-list-{}.log", suite.name()));
        Ok(Self { suite, python, source, log })
    }

    fn folders(&self) -> &'static [&'static str] {
        match self.suite {
            Suite::KafkaPython => &["test/integration"],
            // A producer has no group.
            Suite::ConfluentKafkaPythonKip848 => &["tests/integration/admin", "tests/integration/consumer"],
            _ => &["tests/integration/admin", "tests/integration/consumer", "tests/integration/producer"],
        }
    }

    fn pytest(&self, ground: &Ground) -> Command {
        let bootstrap = ground.bootstrap;
        let mut command = tethered(&self.python);
        command
            .args(["-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "-rs"])
            .args(["--timeout", "0"])
            .current_dir(&self.source)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        match self.suite {
            Suite::KafkaPython => {
                command
                    .env("KAFKA_URI", format!("kafka://{bootstrap}"))
                    .env("KAFKA_ROOT", &ground.kafka_path)
                    .env("KAFKA_VERSION", &ground.kafka_version);
            }
            _ => {
                command.env("BROKERS", bootstrap.to_string());
                if self.suite.new_groups() {
                    command.env("TEST_CONSUMER_GROUP_PROTOCOL", "consumer");
                }
            }
        }
        command
    }
}

impl Runner for Pytest {
    fn tests(&self, kafka_version: &str) -> Result<Vec<String>> {
        let mut command = self.pytest(&Ground::nowhere(kafka_version));
        command.args(["--collect-only", "-q"]).args(self.folders());
        process::run(command, &self.log, LIST_LIMIT)?;
        let text = fs::read_to_string(&self.log)?;
        let tests: Vec<String> = text.lines().filter(|line| line.contains("::")).map(str::to_owned).collect();
        ensure!(!tests.is_empty(), "pytest found no test{}", process::tail(&self.log));
        Ok(tests)
    }

    fn command(&self, test: &str, ground: &Ground) -> Result<Command> {
        let mut command = self.pytest(ground);
        command.arg(test);
        Ok(command)
    }

    fn verdict(&self, _test: &str, well: bool, said: &str, _ground: &Ground) -> Verdict {
        let summary = said.lines().rev().find(|line| line.contains(" in ")).unwrap_or_default();
        match well {
            true if summary.contains(" passed") => Verdict::Passed,
            true => Verdict::Skipped,
            false => Verdict::Failed,
        }
    }
}

/// kcat's own scripts, with the kcat of the system.
struct Kcat {
    tests: PathBuf,
    /// Gives them a terminal: without one kcat takes it that it is to produce.
    terminal: PathBuf,
}

impl Kcat {
    fn prepare(source: PathBuf) -> Result<Self> {
        let kcat = program("kcat", &["kcat"])?;
        program("jq", &["jq"])?;
        let link = source.join("kcat");
        if !link.exists() {
            std::os::unix::fs::symlink(kcat, link)?;
        }
        Ok(Self { tests: source.join("tests"), terminal: program("script", &["bsdutils"])? })
    }
}

impl Runner for Kcat {
    fn tests(&self, _kafka_version: &str) -> Result<Vec<String>> {
        let mut tests = Vec::new();
        for entry in fs::read_dir(&self.tests)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with('0') && name.ends_with(".sh") {
                tests.push(name);
            }
        }
        tests.sort();
        ensure!(!tests.is_empty(), "no test in {}", self.tests.display());
        Ok(tests)
    }

    fn command(&self, test: &str, ground: &Ground) -> Result<Command> {
        let mut command = tethered(&self.terminal);
        command.args(["--quiet", "--return", "--command", &format!("bash {test}"), "/dev/null"]);
        command.current_dir(&self.tests).env("BROKERS", ground.bootstrap.to_string());
        command.env("KAFKA_PATH", &ground.kafka_path);
        Ok(command)
    }

    fn verdict(&self, _test: &str, well: bool, said: &str, _ground: &Ground) -> Verdict {
        match well {
            true if said.contains("TEST SKIPPED") => Verdict::Skipped,
            true => Verdict::Passed,
            false => Verdict::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_of_pytest_passes_only_when_it_ran() {
        let runner = Pytest {
            suite: Suite::KafkaPython,
            python: PathBuf::new(),
            source: PathBuf::new(),
            log: PathBuf::new(),
        };
        let ground = Ground::nowhere("4.0.0");
        let verdict = |well, said: &str| runner.verdict("t", well, said, &ground);
        assert_eq!(verdict(true, "x\n==== 1 passed, 3 warnings in 0.20s ====\n"), Verdict::Passed);
        assert_eq!(verdict(true, "==== 1 skipped in 0.20s ====\n"), Verdict::Skipped);
        assert_eq!(verdict(false, "==== 1 failed in 0.20s ====\n"), Verdict::Failed);
        // One that ended the process before pytest could say anything.
        assert_eq!(verdict(false, ""), Verdict::Failed);
    }
}
