//! Scenarios: files that say which runs belong together.
//!
//! ```toml
//! about = "What this is for."
//!
//! [plan]                      # keys of Plan, for all steps
//! record_bytes = 1024
//!
//! [sweep]                     # before the steps: finds the knee with [plan]
//! start_rate = 10000
//!
//! [[step]]
//! name = "half"
//! rate = "50% of knee"        # keys of Plan that differ in this step
//! ```
//!
//! A file without steps is a sweep, or one run. Reading a file starts nothing.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use toml::{Table, Value};

use super::sweep::SweepSpec;
use crate::plan::{Plan, PlanError, Rate};

/// Keys of a file's top level.
const TOP_KEYS: [&str; 4] = ["about", "plan", "step", "sweep"];
/// Name of the only run of a file without steps.
const ONLY_STEP: &str = "run";

/// Runs that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// The file's name, without its extension.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// What all steps have in common. The sweep runs with it, at rates of its own.
    pub plan: Plan,
    /// A search for the knee that comes before the steps.
    pub sweep: Option<SweepSpec>,
    /// The runs, in their order; at least one, unless there is a sweep.
    pub steps: Vec<Step>,
}

/// One run of a scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Unique in its scenario; letters, digits, `-`, `_` and `.`, as files are called by it.
    pub name: String,
    /// The scenario's plan with what differs in this step. Checked, apart from a share of a knee
    /// that is not known yet.
    pub plan: Plan,
}

/// Why a file is no scenario: one line that names the file and the key.
#[derive(Debug, Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{}, line {line}: {reason}", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// Why not.
        reason: String,
    },
    /// A key that nothing looks at.
    #[error("{}: {section} has an unknown key '{key}'; known are {known}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        section: String,
        /// The key.
        key: String,
        /// Those that there are.
        known: String,
    },
    /// A value that its key does not take, or a key that is missing.
    #[error("{}: {section}: {key}: {reason}", path.display())]
    WrongValue {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        section: String,
        /// The key.
        key: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl Scenario {
    /// Reads and checks a scenario's file.
    ///
    /// # Errors
    /// When it cannot be read, or anything in it is not as it should be.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// As [`Scenario::load`], of a text that is already there.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ScenarioError> {
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Reader { path }.scenario(name, text)
    }

    /// How long its steps take at least, in seconds: their warm-up and their duration, without the
    /// sweep, and without starting, stopping and reading what is left.
    #[must_use]
    pub fn steps_s(&self) -> f64 {
        self.steps.iter().map(|step| step.plan.warm_up_s + step.plan.duration_s).sum()
    }
}

/// Reads one file; what it returns as an error names it.
struct Reader<'a> {
    path: &'a Path,
}

impl Reader<'_> {
    fn scenario(&self, name: String, text: &str) -> Result<Scenario, ScenarioError> {
        let top: Table = text.parse().map_err(|error: toml::de::Error| self.not_toml(text, &error))?;
        self.refuse_unknown("the file", &top, &TOP_KEYS.map(str::to_owned))?;
        let about = match top.get("about") {
            Some(Value::String(about)) => about.clone(),
            Some(_) => return Err(self.wrong("the file", "about", "must be text")),
            None => return Err(self.wrong("the file", "about", "is missing: say what the scenario is for")),
        };
        let common = match top.get("plan") {
            Some(value) => self.table("[plan]", value)?.clone(),
            None => Table::new(),
        };
        let plan: Plan = self.typed("[plan]", &common)?;
        let sweep = match top.get("sweep") {
            Some(value) => Some(self.sweep(self.table("[sweep]", value)?, &plan)?),
            None => None,
        };
        let steps = match top.get("step") {
            Some(Value::Array(steps)) => self.steps(steps, &common)?,
            Some(_) => return Err(self.wrong("the file", "step", "must be written as [[step]]")),
            None if sweep.is_some() => Vec::new(),
            None => vec![Step { name: ONLY_STEP.to_owned(), plan: plan.clone() }],
        };
        // A step is checked as a whole: it may complete the plan.
        for step in &steps {
            let section = if top.contains_key("step") { section_of(&step.name) } else { "[plan]".to_owned() };
            self.check_step(&section, step, sweep.is_some())?;
        }
        Ok(Scenario { name, about, plan, sweep, steps })
    }

    fn sweep(&self, table: &Table, plan: &Plan) -> Result<SweepSpec, ScenarioError> {
        let spec: SweepSpec = self.typed("[sweep]", table)?;
        spec.check().map_err(|error| self.wrong_plan("[sweep]", error))?;
        if !plan.arrivals.is_open_loop() {
            return Err(self.wrong("[plan]", "arrivals", "a sweep needs rates: constant or poisson"));
        }
        plan.check().map_err(|error| self.wrong_plan("[plan]", error))?;
        Ok(spec)
    }

    fn steps(&self, values: &[Value], common: &Table) -> Result<Vec<Step>, ScenarioError> {
        let mut steps = Vec::with_capacity(values.len());
        let mut names = BTreeSet::new();
        for (index, value) in values.iter().enumerate() {
            let section = format!("[[step]] {}", index + 1);
            let mut table = self.table(&section, value)?.clone();
            let name = match table.remove("name") {
                Some(Value::String(name)) if is_file_name(&name) => name,
                Some(_) => {
                    let reason = "must be letters, digits, '-', '_' or '.'; files are called by it";
                    return Err(self.wrong(&section, "name", reason));
                }
                None => return Err(self.wrong(&section, "name", "is missing")),
            };
            let section = section_of(&name);
            if !names.insert(name.clone()) {
                return Err(self.wrong(&section, "name", "is that of an earlier step, too"));
            }
            // For its own keys first, so that a mistake is reported where it was made.
            self.typed::<Plan>(&section, &table)?;
            let mut whole = common.clone();
            whole.extend(table);
            steps.push(Step { name, plan: self.typed(&section, &whole)? });
        }
        Ok(steps)
    }

    fn check_step(&self, section: &str, step: &Step, has_sweep: bool) -> Result<(), ScenarioError> {
        if matches!(step.plan.rate, Some(Rate::ShareOfKnee(_))) && !has_sweep {
            return Err(self.wrong(section, "rate", "is a share of a knee that no [sweep] finds"));
        }
        step.plan.check().map_err(|error| self.wrong_plan(section, error))
    }

    /// The keys of a table as what they are, after each has been looked at by itself, as an error of
    /// the whole does not always say which it was.
    fn typed<T: Default + Serialize + DeserializeOwned>(
        &self,
        section: &str,
        table: &Table,
    ) -> Result<T, ScenarioError> {
        self.refuse_unknown(section, table, &keys_of::<T>())?;
        for (key, value) in table {
            let alone = Table::from_iter([(key.clone(), value.clone())]);
            if let Err(error) = alone.try_into::<T>() {
                return Err(self.wrong(section, key, error.message()));
            }
        }
        let all = table.clone().try_into();
        all.map_err(|error: toml::de::Error| self.wrong(section, "its keys", error.message()))
    }

    fn table<'v>(&self, section: &str, value: &'v Value) -> Result<&'v Table, ScenarioError> {
        value.as_table().ok_or_else(|| self.wrong("the file", section, "must be a table of keys"))
    }

    fn refuse_unknown(&self, section: &str, table: &Table, known: &[String]) -> Result<(), ScenarioError> {
        match table.keys().find(|key| !known.contains(key)) {
            None => Ok(()),
            Some(key) => Err(ScenarioError::UnknownKey {
                path: self.path.to_owned(),
                section: section.to_owned(),
                key: key.clone(),
                known: known.join(", "),
            }),
        }
    }

    fn not_toml(&self, text: &str, error: &toml::de::Error) -> ScenarioError {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
        ScenarioError::NotToml { path: self.path.to_owned(), line, reason: on_one_line(error.message()) }
    }

    fn wrong(&self, section: &str, key: &str, reason: &str) -> ScenarioError {
        ScenarioError::WrongValue {
            path: self.path.to_owned(),
            section: section.to_owned(),
            key: key.to_owned(),
            reason: on_one_line(reason),
        }
    }

    fn wrong_plan(&self, section: &str, error: PlanError) -> ScenarioError {
        self.wrong(section, error.key, &error.reason)
    }
}

fn section_of(step: &str) -> String {
    format!("[[step]] '{step}'")
}

fn is_file_name(name: &str) -> bool {
    let is_fine = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '.');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(is_fine)
}

fn on_one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// The keys that a type is read from, which are those that it is written with.
fn keys_of<T: Default + Serialize>() -> Vec<String> {
    let value = serde_json::to_value(T::default()).expect("settings are written as JSON");
    let object = value.as_object().expect("settings are keys and values");
    object.keys().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Arrivals, Keys, Size};

    fn parse(text: &str) -> Result<Scenario, ScenarioError> {
        Reader { path: Path::new("some.toml") }.scenario("some".to_owned(), text)
    }

    #[test]
    fn a_step_is_the_plan_with_what_differs() {
        let scenario = parse(
            "about = 'x'\n[plan]\nrecord_bytes = 100\nproducers = 2\n[sweep]\nstart_rate = 500\np99_ms = 20\n\
             [[step]]\nname = 'a'\nrate = '50% of knee'\n[[step]]\nname = 'b'\narrivals = 'max'\nproducers = 3\n\
             keys = 'zipf:10'\n",
        )
        .unwrap();
        let common = Plan { record_bytes: Size::Fixed(100), producers: 2, ..Plan::default() };
        assert_eq!(scenario.plan, common);
        let sweep = SweepSpec { start_rate: 500.0, p99_ms: Some(20.0), ..SweepSpec::default() };
        assert_eq!(scenario.sweep, Some(sweep));
        let a = Plan { rate: Some(Rate::ShareOfKnee(0.5)), ..common.clone() };
        let b = Plan { arrivals: Arrivals::Max, producers: 3, keys: Keys::Zipf(10, 0.99), ..common };
        assert_eq!(
            scenario.steps,
            [Step { name: "a".to_owned(), plan: a }, Step { name: "b".to_owned(), plan: b }]
        );
    }

    #[test]
    fn a_file_without_steps_is_one_run_or_a_sweep() {
        let run = parse("about = 'x'\n[plan]\nrate = 5\n").unwrap();
        assert_eq!(run.steps.len(), 1);
        assert_eq!((run.steps[0].name.as_str(), &run.steps[0].plan), ("run", &run.plan));
        let sweep = parse("about = 'x'\n[sweep]\n").unwrap();
        assert!(sweep.steps.is_empty() && sweep.sweep.is_some());
    }

    #[test]
    fn a_plan_may_be_completed_by_its_steps() {
        parse("about = 'x'\n[plan]\nrate = 5\n[[step]]\nname = 'a'\narrivals = 'poisson'\n").unwrap();
        let text = "about = 'x'\n[plan]\nrecord_bytes = 10\n[[step]]\nname = 'a'\nverify = false\n";
        assert!(!parse(text).unwrap().steps[0].plan.verify);
    }

    #[test]
    fn whatever_is_wrong_is_one_line_that_names_file_and_key() {
        let cases = [
            ("abuot = 'x'", "the file has an unknown key 'abuot'; known are about, plan, step, sweep"),
            ("[plan]", "the file: about: is missing"),
            ("about = 3", "the file: about: must be text"),
            ("about = 'x'\nplan = 3", "[plan]: must be a table"),
            ("about = 'x'\n[step]\nname = 'a'", "step: must be written as [[step]]"),
            ("about = 'x'\n[plan]\nproducer = 3", "[plan] has an unknown key 'producer'; known are acks, "),
            ("about = 'x'\n[plan]\nproducers = -3", "[plan]: producers: "),
            ("about = 'x'\n[plan]\nproducers = 'many'", "[plan]: producers: "),
            ("about = 'x'\n[plan]\nproducers = 0", "[plan]: producers: must be 1 to"),
            ("about = 'x'\n[plan]\nacks = '2'", "[plan]: acks: "),
            ("about = 'x'\n[plan]\nkeys = 'some'", "[plan]: keys: 'some' is not a kind of keys"),
            ("about = 'x'\n[sweep]\nstart = 1", "[sweep] has an unknown key 'start'; known are max_rate, "),
            ("about = 'x'\n[sweep]\nstart_rate = 0", "[sweep]: start_rate: must be 1 to"),
            ("about = 'x'\n[sweep]\n[plan]\narrivals = 'max'", "[plan]: arrivals: a sweep needs rates"),
            ("about = 'x'\n[[step]]\nrate = 1", "[[step]] 1: name: is missing"),
            ("about = 'x'\n[[step]]\nname = '../a'", "[[step]] 1: name: must be letters"),
            (
                "about = 'x'\n[[step]]\nname = 'a'\n[[step]]\nname = 'a'",
                "[[step]] 'a': name: is that of an earlier",
            ),
            (
                "about = 'x'\n[[step]]\nname = 'a'\nrats = 1",
                "[[step]] 'a' has an unknown key 'rats'; known are",
            ),
            ("about = 'x'\n[[step]]\nname = 'a'\nrate = '9% of knee'", "rate: is a share of a knee that no"),
            ("about = 'x'\n[plan]\nrate = '9% of knee'", "rate: is a share of a knee that no"),
            (
                "about = 'x'\n[[step]]\nname = 'a'\nrate = 1\narrivals = 'max'",
                "[[step]] 'a': rate: goes with",
            ),
            ("about = 'x'\n\n[plan", "some.toml, line 3: "),
            ("about = 'x'\nabout = 'y'", "some.toml, line 2: duplicate key"),
        ];
        for (text, words) in cases {
            let line = parse(text).unwrap_err().to_string();
            assert!(line.contains(words), "{text:?} gave {line:?}");
            assert!(line.starts_with("some.toml") && !line.contains('\n'), "{line:?}");
        }
        let line = Scenario::load(Path::new("no/such.toml")).unwrap_err().to_string();
        assert!(line.starts_with("no/such.toml: cannot be read: "), "{line}");
    }

    #[test]
    fn every_scenario_of_ours_is_valid_and_takes_two_minutes_at_most() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let scenario = Scenario::load(&entry.unwrap().path()).unwrap_or_else(|error| panic!("{error}"));
            // A sweep tries about this many rates: five to the first that fails, five until the gap
            // is small enough, and some of them twice.
            let sweep_s = scenario.sweep.map_or(0.0, |it| 13.0 * (it.step_s + scenario.plan.warm_up_s));
            let seconds = scenario.steps_s() + sweep_s;
            assert!(seconds <= 120.0, "{} takes {seconds} s", scenario.name);
            assert!(scenario.about.len() > 20 && !scenario.steps.is_empty(), "{}", scenario.name);
            names.push(scenario.name);
        }
        names.sort_unstable();
        assert_eq!(
            names,
            ["backlog", "default", "keyed-288", "knee", "linkedin-2014", "partitions", "single-record"],
            "bench/scenarios has what the documentation promises"
        );
    }
}
