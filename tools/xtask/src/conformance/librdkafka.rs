//! librdkafka's own test runner, built as its documentation says, one number of a test at a time: that
//! is what it takes. Where several tests have a number, they stand or fall together.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::results::Verdict;
use super::runner::{Ground, Runner};
use super::suite::Suite;
use crate::process::{self, tethered};
use crate::project::Project;
use crate::setup::{install, program};

const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);
const LIST_LIMIT: Duration = Duration::from_secs(60);
/// Tests of so much that they are run in parts, so that one does not hide the others: the beginning of a
/// name, and what is in the names of its parts.
const IN_PARTS: &[(&str, &[&str])] = &[(
    "0081_admin",
    &[
        "unclean_destroy",
        "CreateTopics",
        "DeleteTopics",
        "CreatePartitions",
        "Acls",
        "AlterConfigs",
        "DescribeConfigs",
        "DeleteRecords",
        "ListConsumerGroups",
        "DescribeConsumerGroups",
        "DescribeTopics",
        "DescribeCluster",
        "DeleteGroups",
        "DeleteConsumerGroupOffsets",
        "ListOffsets",
        "AlterConsumerGroupOffsets",
        "ListConsumerGroupOffsets",
        "UserScramCredentials",
    ],
)];
/// Without it some tests are skipped.
const RAPIDJSON: &str = "/usr/include/rapidjson";
/// What a test in `tests/test.c` is not run for: it needs no broker, or somebody who watches.
const LEFT_OUT: [&str; 2] = ["TEST_F_LOCAL", "TEST_F_MANUAL"];

/// librdkafka with its test runner built.
pub(crate) struct Librdkafka {
    suite: Suite,
    tests: PathBuf,
    log: PathBuf,
}

impl Librdkafka {
    pub(crate) fn build(project: &Project, suite: Suite, source: PathBuf) -> Result<Self> {
        let tests = source.join("tests");
        let log = project.logs().join("conformance-build-librdkafka.log");
        if !tests.join("test-runner").is_file() {
            println!("building librdkafka; {} says how far it is", log.display());
            let make = program("make", &["make", "gcc", "g++", "zlib1g-dev", "libssl-dev"])?;
            if !Path::new(RAPIDJSON).is_dir() {
                install(&["rapidjson-dev"]).context("some of librdkafka's tests need RapidJSON")?;
            }
            let mut configure = Command::new("./configure");
            configure.arg("--disable-curl").current_dir(&source);
            process::run(configure, &log, BUILD_LIMIT).context("configuring librdkafka")?;
            for arguments in [["-C", ".", "libs"], ["-C", "tests", "build"]] {
                let mut build = Command::new(&make);
                build.args(arguments).current_dir(&source);
                process::run(build, &log, BUILD_LIMIT).context("building librdkafka")?;
            }
        }
        let log = project.logs().join(format!("conformance-list-{}.log", suite.name()));
        Ok(Self { suite, tests, log })
    }

    /// Runs the tests of this number, or the part of one that the name says.
    fn runner(&self, test: &str, report: &Path) -> Command {
        let mut command = tethered("./test-runner");
        command
            .args(["-p1", "-Q", "-L"])
            .current_dir(&self.tests)
            .env("LD_LIBRARY_PATH", "../src:../src-cpp")
            .env("TESTS", number(test))
            .env("TEST_REPORT", report)
            // It trebles the runner's times and prints more.
            .env_remove("CI");
        if let Some(part) = part(test) {
            command.env("SUBTESTS", part);
        }
        command
    }

    fn report(&self, test: &str, ground: &Ground) -> PathBuf {
        ground.scratch.join(format!("{}-{}.json", self.suite.name(), number(test)))
    }
}

/// The names of the tests in a report of the runner.
fn names(report: &str) -> Vec<String> {
    report
        .split("{\"name\": \"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .filter(|name| !name.starts_with('<'))
        .map(str::to_owned)
        .collect()
}

/// The number that a test's name begins with.
fn number(test: &str) -> &str {
    test.split('_').next().unwrap_or_default()
}

/// Which part of a test the name stands for, if for one.
fn part(test: &str) -> Option<&str> {
    test.split_once(" [").and_then(|(_, part)| part.strip_suffix(']'))
}

/// Names for the parts of the tests that are run in parts, instead of their own.
fn in_parts(tests: Vec<String>) -> Vec<String> {
    let parts_of = |test: String| match IN_PARTS.iter().find(|(name, _)| *name == test) {
        Some((name, parts)) => parts.iter().map(|part| format!("{name} [{part}]")).collect(),
        None => vec![test],
    };
    tests.into_iter().flat_map(parts_of).collect()
}

/// One name for each number: that of the first test, and how many more there are.
fn by_number(names: &[String]) -> Vec<String> {
    let mut groups: Vec<(&str, usize)> = Vec::new();
    for name in names {
        match groups.last_mut() {
            Some((first, more)) if number(first) == number(name) => *more += 1,
            _ => groups.push((name, 0)),
        }
    }
    let name = |(first, more): (&str, usize)| match more {
        0 => first.to_owned(),
        more => format!("{first} (+{more})"),
    };
    groups.into_iter().map(name).collect()
}

/// What came of all tests of a number.
fn outcome(report: &str, number_of: &str) -> Verdict {
    let all = names(report);
    let states = all.iter().filter(|name| number(name) == number_of).filter_map(|name| state(report, name));
    let mut outcome = Verdict::Skipped;
    for state in states {
        match state {
            "PASSED" => outcome = Verdict::Passed,
            "SKIPPED" => {}
            _ => return Verdict::Failed,
        }
    }
    outcome
}

/// The state of a test in a report, which may hold text that makes it no JSON.
fn state<'a>(report: &'a str, test: &str) -> Option<&'a str> {
    let rest = report.split(&format!("{{\"name\": \"{test}\", \"state\": \"")).nth(1)?;
    rest.split('"').next()
}

/// Whether the runner's table of tests says that this one is left out.
fn is_left_out(table: &str, test: &str) -> bool {
    let entry = table.split(&format!("_TEST({test},")).nth(1).unwrap_or_default();
    let flags = entry.split("_TEST(").next().unwrap_or_default();
    LEFT_OUT.iter().any(|flag| flags.contains(flag))
}

impl Runner for Librdkafka {
    fn tests(&self, _kafka_version: &str) -> Result<Vec<String>> {
        let report = self.log.with_extension("json");
        process::run(self.runner("none", &report), &self.log, LIST_LIMIT)?;
        let source = fs::read_to_string(self.tests.join("test.c"))?;
        // Behind the declarations, which have the same form.
        let table = source.split("struct test tests[]").nth(1).context("test.c has a table of tests")?;
        let all = names(&fs::read_to_string(&report)?);
        let tests: Vec<String> = all.into_iter().filter(|test| !is_left_out(table, test)).collect();
        ensure!(!tests.is_empty(), "the runner lists no test");
        Ok(in_parts(by_number(&tests)))
    }

    fn command(&self, test: &str, ground: &Ground) -> Result<Command> {
        let configuration = ground.scratch.join(format!("{}-test.conf", self.suite.name()));
        fs::write(
            &configuration,
            format!("bootstrap.servers={}\ntest.topic.random=true\n", ground.bootstrap),
        )?;
        let report = self.report(test, ground);
        if report.exists() {
            fs::remove_file(&report)?;
        }
        let mut command = self.runner(test, &report);
        command
            .env("RDKAFKA_TEST_CONF", configuration)
            .env("TEST_KAFKA_VERSION", format!("{}.0", ground.kafka_version))
            .env("BROKERS", ground.bootstrap.to_string())
            .env("KAFKA_PATH", &ground.kafka_path);
        if self.suite.new_groups() {
            command.env("TEST_CONSUMER_GROUP_PROTOCOL", "consumer");
        }
        Ok(command)
    }

    fn verdict(&self, test: &str, well: bool, _said: &str, ground: &Ground) -> Verdict {
        // None is left by a runner that crashed.
        match fs::read_to_string(self.report(test, ground)) {
            Ok(report) if well => outcome(&report, number(test)),
            _ => Verdict::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"{ "id": "x", "tests": {"<MAIN>": {"name": "<MAIN>", "state": "PASSED", "report": [ ] },
        "0001_multiobj": {"name": "0001_multiobj", "state": "FAILED", "report": [ "a"b ] },
        "0022_consume_batch": {"name": "0022_consume_batch", "state": "SKIPPED", "report": [ ] },
        "0022_consume_batch_local": {"name": "0022_consume_batch_local", "state": "PASSED", "report": [ ] }}"#;

    #[test]
    fn a_report_gives_names_and_the_state_of_exactly_one() {
        assert_eq!(names(REPORT), ["0001_multiobj", "0022_consume_batch", "0022_consume_batch_local"]);
        assert_eq!(state(REPORT, "0001_multiobj"), Some("FAILED"));
        assert_eq!(state(REPORT, "0022_consume_batch"), Some("SKIPPED"));
        assert_eq!(state(REPORT, "0099_none"), None);
        assert_eq!(outcome(REPORT, "0001"), Verdict::Failed);
        assert_eq!(outcome(REPORT, "0022"), Verdict::Passed);
        assert_eq!(outcome(REPORT, "0099"), Verdict::Skipped);
        let parts = in_parts(vec!["0001_multiobj".to_owned(), "0081_admin".to_owned()]);
        assert_eq!((parts[0].as_str(), parts[1].as_str()), ("0001_multiobj", "0081_admin [unclean_destroy]"));
        assert_eq!(
            (number(&parts[1]), part(&parts[1]), part(&parts[0])),
            ("0081", Some("unclean_destroy"), None)
        );
        assert_eq!(by_number(&names(REPORT)), ["0001_multiobj", "0022_consume_batch (+1)"]);
    }

    #[test]
    fn tests_without_a_broker_are_left_out() {
        let table = "_TEST(0004_conf, TEST_F_LOCAL),\n_TEST(0005_order, 0),\n\
             _TEST(0009_mock_cluster,\n TEST_F_LOCAL,\n /* x */ .extra = \"y\"),\n_TEST(8000_idle, TEST_F_MANUAL),";
        let left_out = |test| is_left_out(table, test);
        assert!(left_out("0004_conf") && left_out("0009_mock_cluster") && left_out("8000_idle"));
        assert!(!left_out("0005_order"));
    }
}
