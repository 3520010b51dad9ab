//! What came of the tests: kept in `docs/conformance.json`, so that a run against one broker has the
//! other's results to compare with.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::reasons;
use super::suite::Suite;
use crate::project::Project;

/// What came of one test against one broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// It did what it should.
    Passed,
    /// It did at a later attempt.
    PassedLater,
    /// It did nothing, because of its own conditions.
    Skipped,
    /// It did not.
    Failed,
    /// It was not done in its time.
    TimedOut,
    /// The broker ended under it.
    BrokerEnded,
}

impl Verdict {
    pub(crate) fn passed(self) -> bool {
        matches!(self, Self::Passed | Self::PassedLater)
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::PassedLater => "passed, 2nd attempt",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::TimedOut => "timed out",
            Self::BrokerEnded => "the broker ended",
        }
    }
}

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// Apache Kafka, which is right by definition
    Kafka,
    /// Corelog
    Corelog,
}

impl Subject {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Corelog => "corelog",
        }
    }
}

/// The results of a suite.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    /// Of the suite.
    pub(crate) version: String,
    /// Against what the tests last ran: a version or a revision.
    pub(crate) subjects: BTreeMap<Subject, String>,
    /// By the name of a test.
    pub(crate) tests: BTreeMap<String, BTreeMap<Subject, Verdict>>,
}

/// The results of all suites, by their names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results(pub(crate) BTreeMap<String, Recorded>);

/// What a test says about Corelog, when both brokers' verdicts are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Passes on both.
    Same,
    /// Passes on Kafka alone, and somebody knows why.
    Known(&'static str),
    /// Passes on Kafka alone, for no reason that is written down.
    Unexplained,
    /// Does not pass on Kafka, and so demands nothing.
    NoMeasure,
    /// Did not run against both.
    Unknown,
}

impl Results {
    pub(crate) fn path(project: &Project) -> PathBuf {
        project.root().join("docs/conformance.json")
    }

    /// What was written last; nothing when that is nothing.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Changes what is in the file and returns all of it. Every run that does so holds the same `lock`
    /// meanwhile; one that only reads finds the file as it was or as it is then.
    pub(crate) fn changed(path: &Path, lock: &File, change: impl FnOnce(&mut Self)) -> Result<Self> {
        lock.lock().context("waiting for the file of results")?;
        let mut results = Self::read(path)?;
        change(&mut results);
        let mut text = serde_json::to_string_pretty(&results)?;
        text.push('\n');
        let whole = path.with_extension("json.new");
        fs::write(&whole, text).with_context(|| whole.display().to_string())?;
        fs::rename(&whole, path).with_context(|| path.display().to_string())?;
        lock.unlock()?;
        Ok(results)
    }

    /// The results of a suite; those of another version are forgotten.
    pub(crate) fn of(&mut self, suite: Suite) -> &mut Recorded {
        let recorded = self.0.entry(suite.name().to_owned()).or_default();
        if recorded.version != suite.version() {
            *recorded = Recorded { version: suite.version().to_owned(), ..Recorded::default() };
        }
        recorded
    }

    /// How many tests of a suite passed with this broker, and how many were tried.
    pub(crate) fn passes(&self, suite: Suite, subject: Subject) -> (usize, usize) {
        let verdicts = || {
            let tests = self.0.get(suite.name()).into_iter().flat_map(|recorded| recorded.tests.values());
            tests.filter_map(move |test| test.get(&subject))
        };
        (verdicts().filter(|verdict| verdict.passed()).count(), verdicts().count())
    }
}

impl Recorded {
    /// Forgets tests that the suite does not have.
    pub(crate) fn keep(&mut self, tests: &[String]) {
        self.tests.retain(|name, _| tests.contains(name));
    }

    pub(crate) fn set(&mut self, test: &str, subject: Subject, verdict: Verdict) {
        self.tests.entry(test.to_owned()).or_default().insert(subject, verdict);
    }

    pub(crate) fn standing(&self, suite: Suite, test: &str) -> Standing {
        let verdicts = self.tests.get(test);
        let verdict = |subject| verdicts.and_then(|verdicts| verdicts.get(&subject)).copied();
        match (verdict(Subject::Kafka), verdict(Subject::Corelog)) {
            (Some(kafka), _) if !kafka.passed() => Standing::NoMeasure,
            (Some(_), Some(corelog)) if corelog.passed() => Standing::Same,
            (Some(_), Some(_)) => reasons::of(suite, test).map_or(Standing::Unexplained, Standing::Known),
            _ => Standing::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_on_kafka_alone_needs_a_reason() {
        let mut results = Results::default();
        let recorded = results.of(Suite::Kcat);
        for (test, kafka, corelog) in [
            ("both", Verdict::Passed, Verdict::PassedLater),
            ("kafka alone", Verdict::Passed, Verdict::Failed),
            ("neither", Verdict::Failed, Verdict::TimedOut),
            ("skipped by one", Verdict::Passed, Verdict::Skipped),
        ] {
            recorded.set(test, Subject::Kafka, kafka);
            recorded.set(test, Subject::Corelog, corelog);
        }
        recorded.set("untried", Subject::Kafka, Verdict::Passed);
        let standing = |test| recorded.standing(Suite::Kcat, test);
        assert_eq!(standing("both"), Standing::Same);
        assert_eq!(standing("kafka alone"), Standing::Unexplained);
        assert_eq!(standing("neither"), Standing::NoMeasure);
        assert_eq!(standing("skipped by one"), Standing::Unexplained);
        assert_eq!(standing("untried"), Standing::Unknown);
        assert_eq!(results.passes(Suite::Kcat, Subject::Corelog), (1, 4));
    }

    #[test]
    fn results_survive_writing_and_those_of_another_version_do_not_count() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("results.json");
        let lock = File::create(folder.path().join("lock"))?;
        assert_eq!(Results::read(&path)?, Results::default());
        let verdict = |results: &mut Results| {
            results.of(Suite::Kcat).set("a", Subject::Kafka, Verdict::TimedOut);
        };
        let results = Results::changed(&path, &lock, verdict)?;
        let mut read = Results::read(&path)?;
        assert_eq!((&read, read.0.len()), (&results, 1));
        read.0.get_mut("kcat").expect("it was written").version = "0".to_owned();
        assert!(read.of(Suite::Kcat).tests.is_empty());
        Ok(())
    }

    #[test]
    fn runs_at_the_same_time_keep_what_each_of_them_found() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("results.json");
        std::thread::scope(|scope| {
            for suite in [Suite::Kcat, Suite::Rskafka, Suite::Librdkafka] {
                // As every run: through a file of its own, on which the lock is another's.
                let lock = File::create(folder.path().join("lock"));
                let path = &path;
                scope.spawn(move || -> Result<()> {
                    let lock = lock?;
                    for test in 0..50 {
                        let found = |results: &mut Results| {
                            results.of(suite).set(&test.to_string(), Subject::Kafka, Verdict::Passed);
                        };
                        Results::changed(path, &lock, found)?;
                    }
                    Ok(())
                });
            }
        });
        let results = Results::read(&path)?;
        let counts: Vec<usize> = results.0.values().map(|recorded| recorded.tests.len()).collect();
        assert_eq!(counts, [50, 50, 50]);
        Ok(())
    }
}
