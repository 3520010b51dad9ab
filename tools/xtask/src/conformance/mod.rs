//! `cargo xtask conformance`: suites that others wrote, first against Apache Kafka and then against
//! Corelog.
//!
//! What passes on Kafka is right. A test that passes there and not on Corelog needs a reason in
//! `reasons.rs`; one without is a failure of this command.

mod crates;
mod distribution;
mod librdkafka;
mod page;
mod reasons;
mod results;
mod runner;
mod source;
mod suite;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use self::results::{Results, Standing, Subject, Verdict};
use self::runner::{Ground, Runner};
use self::suite::Suite;
use crate::broker::{Broker, BrokerKind, BrokerOptions, Purpose};
use crate::java::Java;
use crate::process::Process;
use crate::project::Project;
use crate::setup;

/// Of a test that does not pass: some are races with the broker, or with a busy machine.
const ATTEMPTS: u32 = 2;

/// What to run, and against what.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Run only these suites; all that can be had when left out
    #[arg(long, value_delimiter = ',', value_enum)]
    suite: Vec<Suite>,
    /// Take a suite from a folder instead of a registry; a checkout of its repository, which is copied
    #[arg(long, value_name = "SUITE=DIR", value_parser = parse_path)]
    path: Vec<(Suite, PathBuf)>,
    /// Run against only this broker; against both when left out
    #[arg(long, value_enum)]
    broker: Option<Subject>,
    /// Run only tests whose names contain this; more than one may be given
    #[arg(long, value_name = "TEXT")]
    test: Vec<String>,
    /// The build of Corelog to test
    #[arg(long, value_name = "FILE", default_value = "target/release/corelog")]
    corelog: PathBuf,
    /// Shards of the Corelog node
    #[arg(long, default_value_t = 1)]
    shards: usize,
    /// Say which suites there are and where they come from, and stop
    #[arg(long)]
    list: bool,
    /// Write results into docs/conformance.json, docs/CONFORMANCE.md and docs/COMPATIBILITY.md
    #[arg(long)]
    page: bool,
    /// Write the pages from the results that are in docs/conformance.json, and stop
    #[arg(long)]
    only_page: bool,
}

fn parse_path(text: &str) -> Result<(Suite, PathBuf)> {
    let (name, path) = text.split_once('=').context("it is SUITE=DIR")?;
    let suite = Suite::all().iter().find(|suite| suite.name() == name);
    let suite = suite.with_context(|| format!("there is no suite {name}: see --list"))?;
    ensure!(!path.is_empty(), "it is SUITE=DIR");
    Ok((suite.source(), PathBuf::from(path)))
}

/// Runs suites, and returns whether all that passes on Kafka passes on Corelog or has a reason.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<bool> {
    let path = Results::path(project);
    let mut results = Results::read(&path)?;
    if arguments.list {
        list(&results);
        return Ok(true);
    }
    if arguments.only_page {
        page::write(project, &results)?;
        return Ok(true);
    }
    let lab = Lab::prepare(project, arguments)?;
    let suites = if arguments.suite.is_empty() { Suite::all() } else { arguments.suite.as_slice() };
    let (mut done, mut missing) = (Vec::new(), Vec::new());
    for suite in suites {
        let path =
            arguments.path.iter().find(|(of, _)| *of == suite.source()).map(|(_, path)| path.as_path());
        match runner::prepare(project, *suite, path) {
            Ok(runner) => {
                lab.run(*suite, runner.as_ref(), &mut results)?;
                done.push(*suite);
            }
            // Somebody who names a suite wants that one.
            Err(error) if !arguments.suite.is_empty() => return Err(error.context(suite.name())),
            Err(error) => missing.push(format!("{}: {error:#}", suite.name())),
        }
    }
    for missing in &missing {
        println!("left out: {missing}");
    }
    ensure!(!done.is_empty(), "no suite could be run");
    if arguments.page {
        page::write(project, &results)?;
        println!("docs/conformance.json, docs/CONFORMANCE.md and docs/COMPATIBILITY.md are written");
    }
    Ok(judge(&done, &results))
}

fn list(results: &Results) {
    for suite in Suite::all() {
        let (kafka, tests) = results.passes(*suite, Subject::Kafka);
        let kept = if tests == 0 { String::new() } else { format!("; {kafka} of {tests} pass on Kafka") };
        println!("{:<29} {}", suite.name(), suite.about());
        println!("{:<29} from {}{kept}", "", suite.origin());
    }
}

/// Says what stands how, and whether nothing is unexplained.
fn judge(suites: &[Suite], results: &Results) -> bool {
    let mut fine = true;
    println!();
    for suite in suites {
        let Some(recorded) = results.0.get(suite.name()) else { continue };
        let [mut same, mut known, mut unexplained, mut unknown] = [0; 4];
        for test in recorded.tests.keys() {
            match recorded.standing(*suite, test) {
                Standing::Same => {
                    same += 1;
                    if let Some(why) = reasons::of(*suite, test) {
                        println!("{}: {test} passes, although: {why}", suite.name());
                    }
                }
                Standing::Known(_) => known += 1,
                Standing::Unexplained => {
                    unexplained += 1;
                    println!("{}: {test} passes on Kafka and not on Corelog", suite.name());
                }
                Standing::Unknown => unknown += 1,
                Standing::NoMeasure => {}
            }
        }
        let (kafka, tests) = results.passes(*suite, Subject::Kafka);
        let untried = if unknown == 0 { String::new() } else { format!(", {unknown} not run against both") };
        println!(
            "{:<29} {tests} tests: {kafka} pass on Kafka; of those {same} on Corelog, {known} not for a known \
             reason, {unexplained} unexplained{untried}",
            suite.name()
        );
        fine &= unexplained == 0;
    }
    fine
}

/// What tests run in, and against.
struct Lab<'a> {
    project: &'a Project,
    arguments: &'a Arguments,
    /// For Kafka itself; its version also goes to the tests, whichever broker they meet.
    java: Java,
    /// What looks like a distribution of it.
    kafka_path: PathBuf,
    logs: PathBuf,
    /// Whoever changes the file of results holds it.
    lock: File,
}

impl<'a> Lab<'a> {
    fn prepare(project: &'a Project, arguments: &'a Arguments) -> Result<Self> {
        let java = setup::java(project).context("Apache Kafka needs Java")?;
        if arguments.broker != Some(Subject::Kafka) {
            BrokerKind::corelog_at(&project.root().join(&arguments.corelog))?;
        }
        let logs = project.logs().join("conformance");
        let kafka_path = distribution::make(project, &java)?;
        let lock = File::create(source::home(project).join("results.lock"))?;
        Ok(Self { project, arguments, java, kafka_path, logs, lock })
    }

    fn kind(&self, subject: Subject) -> Result<BrokerKind> {
        match subject {
            Subject::Kafka => Ok(BrokerKind::Kafka(self.java.clone())),
            Subject::Corelog => BrokerKind::corelog_at(&self.project.root().join(&self.arguments.corelog)),
        }
    }

    fn described(&self, subject: Subject) -> String {
        match subject {
            Subject::Kafka => format!("Apache Kafka {}", self.java.kafka_version()),
            Subject::Corelog => format!("Corelog, {}", self.project.revision()),
        }
    }

    fn start(&self, suite: Suite, subject: Subject) -> Result<Broker> {
        let options = BrokerOptions {
            shards: self.arguments.shards,
            node_id: suite.node_id(),
            port: suite.port(),
            auto_create: suite.auto_create(),
            purpose: Purpose::Conformance { partitions: suite.partitions() },
            ..BrokerOptions::named(&format!("conformance-{}-{}", suite.name(), subject.name()))
        };
        Broker::start(self.project, &self.kind(subject)?, options)
    }

    /// Runs a suite against the brokers that are asked for, and keeps what came of each test at once where
    /// results are to be kept.
    fn run(&self, suite: Suite, runner: &dyn Runner, results: &mut Results) -> Result<()> {
        let all = runner.tests(self.java.kafka_version())?;
        self.change(results, |results| results.of(suite).keep(&all))?;
        let wanted = &self.arguments.test;
        let tests: Vec<&String> = all
            .iter()
            .filter(|test| wanted.is_empty() || wanted.iter().any(|text| test.contains(text)))
            .collect();
        if tests.is_empty() {
            bail!("no test of {} has {} in its name", suite.name(), wanted.join(" or "));
        }
        for subject in [Subject::Kafka, Subject::Corelog] {
            if self.arguments.broker.is_some_and(|only| only != subject) {
                continue;
            }
            println!("== {} against {}: {} tests", suite.name(), self.described(subject), tests.len());
            fs::create_dir_all(self.logs.join(suite.name()).join(subject.name()))?;
            let mut bed = Bed { lab: self, suite, subject, broker: Some(self.start(suite, subject)?) };
            let (began, mut passed) = (Instant::now(), false);
            for (at, test) in tests.iter().enumerate() {
                let test_began = Instant::now();
                let verdict = bed.decide(runner, test)?;
                println!(
                    "[{:>3}/{}] {test}: {} ({:.1} s)",
                    at + 1,
                    tests.len(),
                    verdict.words(),
                    test_began.elapsed().as_secs_f64()
                );
                passed |= verdict.passed();
                self.keep(suite, subject, test, verdict, results)?;
            }
            ensure!(
                passed || subject == Subject::Corelog,
                "no test of {} passes on Kafka: see {}",
                suite.name(),
                self.logs.join(suite.name()).display()
            );
            if let Some(broker) = bed.broker.take() {
                broker.stop().with_context(|| format!("stopping the broker after {}", suite.name()))?;
            }
            println!(
                "== {} against {} took {:.0} s",
                suite.name(),
                subject.name(),
                began.elapsed().as_secs_f64()
            );
        }
        Ok(())
    }
}

impl Lab<'_> {
    /// Takes in what came of a test.
    fn keep(
        &self,
        suite: Suite,
        subject: Subject,
        test: &str,
        verdict: Verdict,
        results: &mut Results,
    ) -> Result<()> {
        self.change(results, |results| {
            let recorded = results.of(suite);
            recorded.set(test, subject, verdict);
            recorded.subjects.insert(subject, self.described(subject));
        })
    }

    /// Changes the results: where they are to be kept, at once in their file, together with what other
    /// runs keep there meanwhile.
    fn change(&self, results: &mut Results, change: impl FnOnce(&mut Results)) -> Result<()> {
        if self.arguments.page {
            *results = Results::changed(&Results::path(self.project), &self.lock, change)?;
        } else {
            change(results);
        }
        Ok(())
    }
}

/// A broker, and the suite that runs against it.
struct Bed<'a> {
    lab: &'a Lab<'a>,
    suite: Suite,
    subject: Subject,
    broker: Option<Broker>,
}

impl Bed<'_> {
    /// Runs a test, and once more when it does not pass.
    fn decide(&mut self, runner: &dyn Runner, test: &str) -> Result<Verdict> {
        for attempt in 1..=ATTEMPTS {
            let log = self.log(test, attempt);
            if log.exists() {
                fs::remove_file(log)?;
            }
        }
        // What is known to fail may take long to do so.
        let known = self.subject == Subject::Corelog && reasons::of(self.suite, test).is_some();
        let mut verdict = Verdict::Failed;
        for attempt in 1..=if known { 1 } else { ATTEMPTS } {
            verdict = self.attempt(runner, test, attempt)?;
            match verdict {
                Verdict::Passed if attempt > 1 => return Ok(Verdict::PassedLater),
                Verdict::Passed | Verdict::PassedLater | Verdict::Skipped => return Ok(verdict),
                // Tried again, it would only hide that.
                Verdict::BrokerEnded => return Ok(verdict),
                Verdict::Failed | Verdict::TimedOut => {}
            }
        }
        Ok(verdict)
    }

    fn log(&self, test: &str, attempt: u32) -> PathBuf {
        self.lab.logs.join(self.suite.name()).join(self.subject.name()).join(log_name(test, attempt))
    }

    fn attempt(&mut self, runner: &dyn Runner, test: &str, attempt: u32) -> Result<Verdict> {
        let log = self.log(test, attempt);
        let broker = self.broker.as_mut().context("a broker runs")?;
        let ground = Ground {
            bootstrap: broker.address(),
            kafka_version: self.lab.java.kafka_version().to_owned(),
            kafka_path: self.lab.kafka_path.clone(),
            scratch: self.lab.project.scratch(),
        };
        let mut verdict = run_test(runner, test, &ground, &log, self.suite.limit())?;
        if let Err(error) = broker.check_running() {
            println!("{error:#}");
            verdict = Verdict::BrokerEnded;
            self.broker = None;
            self.broker = Some(self.lab.start(self.suite, self.subject)?);
        }
        Ok(verdict)
    }
}

/// A file's name for a test's log.
fn log_name(test: &str, attempt: u32) -> String {
    let plain: String =
        test.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    let again = if attempt > 1 { format!("-{attempt}") } else { String::new() };
    format!("{plain}{again}.log")
}

fn run_test(
    runner: &dyn Runner,
    test: &str,
    ground: &Ground,
    log: &Path,
    limit: Duration,
) -> Result<Verdict> {
    let mut command = runner.command(test, ground)?;
    let output = File::create(log).with_context(|| log.display().to_string())?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut process = Process::spawn(&mut command, log)?;
    let Ok(status) = process.wait(limit) else {
        return Ok(Verdict::TimedOut);
    };
    let said = fs::read(log)?;
    Ok(runner.verdict(test, status.success(), &String::from_utf8_lossy(&said), ground))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A suite whose tests are commands of the shell.
    struct Shell;

    impl Runner for Shell {
        fn tests(&self, _kafka_version: &str) -> Result<Vec<String>> {
            Ok(Vec::new())
        }

        fn command(&self, test: &str, _ground: &Ground) -> Result<Command> {
            let mut command = Command::new("sh");
            command.args(["-c", test]);
            Ok(command)
        }

        fn verdict(&self, _test: &str, well: bool, said: &str, _ground: &Ground) -> Verdict {
            if well && said.contains("fine") { Verdict::Passed } else { Verdict::Failed }
        }
    }

    #[test]
    fn a_test_is_read_when_it_ends_and_killed_when_it_does_not() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let ground = Ground::nowhere("4.0.0");
        let log = folder.path().join("log");
        let verdict = |test, limit| {
            run_test(&Shell, test, &ground, &log, Duration::from_millis(limit)).expect("it runs")
        };
        assert_eq!(verdict("echo fine", 60_000), Verdict::Passed);
        assert_eq!(verdict("echo fine; exit 3", 60_000), Verdict::Failed);
        assert_eq!(verdict("sleep 600", 50), Verdict::TimedOut);
        Ok(())
    }

    #[test]
    fn a_path_names_the_suite_whose_sources_it_has() -> Result<()> {
        let (suite, path) = parse_path("confluent-kafka-python-kip848=/a/b")?;
        assert_eq!((suite, path), (Suite::ConfluentKafkaPython, PathBuf::from("/a/b")));
        assert!(
            parse_path("nothing=/a").is_err() && parse_path("kcat").is_err() && parse_path("kcat=").is_err()
        );
        Ok(())
    }

    #[test]
    fn a_log_has_a_name_without_folders() {
        assert_eq!(log_name("test/a.py::b[x|y]", 1), "test_a.py__b_x_y_.log");
        assert_eq!(log_name("0001_multiobj", 2), "0001_multiobj-2.log");
    }
}
