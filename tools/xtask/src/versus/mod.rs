//! `cargo xtask versus`: Apache Kafka and Corelog side by side on this machine.
//!
//! Rounds are interleaved: every variant once, then every variant again. What was measured is kept
//! in a JSON file after each round, from which the page is made; an interrupted comparison goes on
//! with the round that it was in. Everything that is started ends with xtask, also when that is
//! killed.

mod bench;
pub(crate) mod first_record;
mod headline;
pub(crate) mod java_tools;
mod lab;
mod page;
mod plan;
pub(crate) mod results;
pub(crate) mod statistics;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;

use self::lab::Lab;
use self::plan::{Row, Settings, Variant, step};
use self::results::{Plot, Results, Round};
use crate::broker::BrokerKind;
use crate::machine::{self, Machine, Processors};
use crate::process::{self, find};
use crate::project::Project;
use crate::setup;

const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);
const PLOT_LIMIT: Duration = Duration::from_secs(60);
/// What the knee's search takes, for the estimate of the remaining time.
const KNEE_ESTIMATE_S: f64 = 60.0;
/// Tags of an interval log, what they are, and what their pictures' names end with.
const PICTURES: [(&str, &str, &str); 2] = [
    ("response", "Response times", "-response-50.svg"),
    ("end_to_end", "End-to-end times", "-end-to-end-50.svg"),
];
const SUFFIX: &str = "-versus.json";

#[derive(Args)]
pub(crate) struct Arguments {
    /// Rounds; the first one is discarded
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Only these rows, by number or name: 1 throughput, 2 single, 3 latency, 4 fetch, 5 start,
    /// 6 partitions, 7 java-tools, 8 many-partitions
    #[arg(long, value_delimiter = ',', value_name = "ROW")]
    rows: Vec<Row>,
    /// Short times, to see that everything works; the page is then written into .xtask/versus
    #[arg(long)]
    quick: bool,
    /// Go on with a comparison that was interrupted
    #[arg(long)]
    resume: bool,
    /// Only make the page from the results again
    #[arg(long, conflicts_with_all = ["resume", "quick"])]
    page_only: bool,
    /// Take the release build that is there
    #[arg(long)]
    no_build: bool,
    /// Replace today's results
    #[arg(long)]
    overwrite: bool,
    /// The results' file [default: docs/benchmarks/<date>-versus.json, with --resume and --page-only
    /// the newest one there]
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
}

/// Returns whether every measurement succeeded.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<bool> {
    let path = results_path(project, arguments)?;
    if arguments.page_only {
        let results = Results::load(&path)?;
        println!("{}", write_page(&results, &path)?.display());
        return Ok(true);
    }
    let mut results = begin(arguments, &path)?;
    if !arguments.no_build {
        build(project)?;
    }
    stay_off(results.settings.server_core, results.settings.client_core)?;
    let BrokerKind::Corelog { binary: corelog } = BrokerKind::corelog(project)? else {
        bail!("Corelog is Corelog");
    };
    let java = setup::java(project).context("Apache Kafka needs Java")?;
    ensure!(find("taskset").is_some(), "taskset is not there: install util-linux");
    let folder = project.state().join("versus").join(&results.date);
    fs::create_dir_all(&folder)?;
    describe(project, &mut results, &java)?;
    let lab = Lab { project, java, corelog, settings: results.settings.clone(), folder };
    let mut progress = Progress::new(&results);
    if results.knee.is_none() && results.settings.rows.iter().any(|row| row.needs_knee()) {
        progress.say("looking for Kafka's knee");
        let knee = lab.find_knee(&mut results)?;
        println!("  {:.0} records/s", knee.records_per_s);
        results.knee = Some(knee);
        results.save(&path)?;
    }
    progress.knee_is_known(&results);
    for number in next_round(&results)..=results.settings.rounds {
        let round = measure_round(&lab, &mut results, number, &mut progress)?;
        results.rounds.push(round);
        results.save(&path)?;
        write_page(&results, &path)?;
    }
    results.plots = plot(&lab, &results, &path);
    results.save(&path)?;
    println!("{}", write_page(&results, &path)?.display());
    Ok(report_errors(&results))
}

/// Where the results are, or are to be.
fn results_path(project: &Project, arguments: &Arguments) -> Result<PathBuf> {
    if let Some(path) = &arguments.results {
        return Ok(path.clone());
    }
    let folder = match arguments.quick {
        true => project.state().join("versus"),
        false => project.root().join("docs/benchmarks"),
    };
    fs::create_dir_all(&folder)?;
    if arguments.resume || arguments.page_only {
        return newest(&folder)?.with_context(|| format!("there are no results in {}", folder.display()));
    }
    let now = machine::now()?;
    Ok(folder.join(format!("{}{SUFFIX}", &now[..10])))
}

/// The results of the latest day.
fn newest(folder: &Path) -> Result<Option<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        paths.push(entry?.path());
    }
    paths.retain(|path| path.to_str().is_some_and(|path| path.ends_with(SUFFIX)));
    Ok(paths.into_iter().max())
}

/// The results so far: none, or those of the comparison that goes on.
fn begin(arguments: &Arguments, path: &Path) -> Result<Results> {
    let mut rows = if arguments.rows.is_empty() { Row::ALL.to_vec() } else { arguments.rows.clone() };
    rows.sort_unstable();
    rows.dedup();
    let settings = Settings::new(arguments.rounds, rows, arguments.quick);
    if arguments.resume {
        let results = Results::load(path)?;
        ensure!(
            results.settings == settings,
            "{} was begun with other settings: give the same --rounds, --rows and --quick",
            path.display()
        );
        return Ok(results);
    }
    ensure!(
        arguments.overwrite || arguments.quick || !path.exists(),
        "{} is there already: go on with --resume, or replace it with --overwrite",
        path.display()
    );
    let now = machine::now()?;
    Ok(Results::new(now[..10].to_owned(), settings))
}

fn next_round(results: &Results) -> u32 {
    results.rounds.last().map_or(1, |round| round.number + 1)
}

fn build(project: &Project) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--locked", "--package", "corelog"]).current_dir(project.root());
    process::run_visibly(command, BUILD_LIMIT).context("building Corelog")
}

/// Keeps xtask itself, which looks at the server now and then, on the client's core.
fn stay_off(server_core: usize, client_core: usize) -> Result<()> {
    let mine = nix::unistd::Pid::from_raw(0);
    let allowed = nix::sched::sched_getaffinity(mine)?;
    for core in [server_core, client_core] {
        ensure!(allowed.is_set(core)?, "core {core} is not one of those that this process may use");
    }
    let mut cores = nix::sched::CpuSet::new();
    cores.set(client_core)?;
    nix::sched::sched_setaffinity(mine, &cores).context("choosing a core")
}

/// What it is that is compared, and where.
fn describe(project: &Project, results: &mut Results, java: &crate::java::Java) -> Result<()> {
    let machine = Machine::describe(&project.scratch())?;
    let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let mut versions = BTreeMap::new();
    versions.insert("Apache Kafka".to_owned(), java.kafka_version().to_owned());
    let jvm = Command::new(&java.program).arg("-version").output()?;
    let jvm = String::from_utf8_lossy(&jvm.stderr).into_owned();
    versions.insert("JVM".to_owned(), jvm.lines().nth(1).unwrap_or_default().to_owned());
    versions.insert("Corelog".to_owned(), project.revision());
    let rustc = Command::new("rustc").arg("--version").output()?;
    let rustc = String::from_utf8_lossy(&rustc.stdout).into_owned();
    versions.insert("Rust".to_owned(), first_line(rustc));
    for (name, version) in &versions {
        let before = results.versions.get(name).unwrap_or(version);
        ensure!(before == version, "the comparison was begun with {name} {before}; this is {version}");
    }
    results.machine = machine;
    results.versions = versions;
    Ok(())
}

fn measure_round(
    lab: &Lab<'_>,
    results: &mut Results,
    number: u32,
    progress: &mut Progress,
) -> Result<Round> {
    let started = machine::now()?;
    let before = Processors::now()?;
    let mut cells = Vec::new();
    for (variant, rows) in lab.settings.cells(number) {
        let mut say = |row: Row| progress.cell(number, variant, row);
        let measured = lab
            .measure(results, number, variant, &rows, &mut say)
            .with_context(|| format!("round {number}, {}", variant.name()))?;
        for cell in &measured {
            if let Some(error) = &cell.error {
                println!("  {} {} {}: {error}", variant.name(), cell.row, cell.step);
            }
        }
        cells.extend(measured);
    }
    let steal_percent = Processors::now()?.steal_percent_since(before);
    Ok(Round { number, started, steal_percent, cells })
}

/// Makes the page beside the results, and returns where it is.
fn write_page(results: &Results, path: &Path) -> Result<PathBuf> {
    let notes = fs::read_to_string(beside(path, "-notes.md")).ok();
    let page = path.with_extension("md");
    fs::write(&page, page::render(results, notes.as_deref()))?;
    Ok(page)
}

/// A file beside the results, called after them.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}{suffix}"))
}

/// Percentiles of the last round at half of the knee, all variants in one picture. Without a picture
/// the page has none.
fn plot(lab: &Lab<'_>, results: &Results, path: &Path) -> Vec<Plot> {
    let Some(round) = results.rounds.last() else {
        return Vec::new();
    };
    let round = lab.folder.join(format!("round-{}", round.number));
    let has_log = |variant: &Variant| round.join(variant.name()).join(lab::HALF_OF_KNEE_LOG).is_file();
    if !Row::Latency.variants().iter().any(has_log) {
        return Vec::new();
    }
    let mut plots = Vec::new();
    for (tag, what, suffix) in PICTURES {
        let picture = beside(path, suffix);
        let title = format!("{what} at {}, last round", step::HALF_OF_KNEE);
        match draw(lab, &round, (tag, &title), &picture) {
            Ok(()) => {
                let file = picture.file_name().unwrap_or_default().to_string_lossy().into_owned();
                plots.push(Plot { file, title });
            }
            Err(error) => println!("no picture: {error:#}"),
        }
    }
    plots
}

/// `corelog hist`, which calls a curve after its file.
fn draw(lab: &Lab<'_>, round: &Path, (tag, title): (&str, &str), picture: &Path) -> Result<()> {
    let mut command = Command::new(&lab.corelog);
    command.args(["hist", "--tag", tag, "--title", title]);
    for variant in Row::Latency.variants() {
        let log = round.join(variant.name()).join(lab::HALF_OF_KNEE_LOG);
        if log.is_file() {
            let named = round.join(format!("{}.hlog", variant.name()));
            fs::copy(log, &named)?;
            command.arg(named);
        }
    }
    command.arg("--svg").arg(picture);
    let log = lab.project.logs().join("versus-plot.log");
    process::run(command, &log, PLOT_LIMIT).map_err(|_| anyhow!("{}", bench::last_words(&log)))
}

/// Says what failed in rounds that count, and returns whether nothing did.
fn report_errors(results: &Results) -> bool {
    let mut all_well = true;
    for round in results.kept() {
        for cell in round.cells.iter().filter(|cell| cell.error.is_some()) {
            all_well = false;
            let error = cell.error.as_deref().unwrap_or_default();
            println!("round {}: {} {} {}: {error}", round.number, cell.variant.name(), cell.row, cell.step);
        }
    }
    all_well
}

/// Says where the comparison is, and about how long it still takes.
struct Progress {
    began: Instant,
    settings: Settings,
    knee: Option<f64>,
    /// Estimated seconds of all that is to be done, and of what is done.
    all_s: f64,
    done_s: f64,
    current_s: f64,
}

impl Progress {
    fn new(results: &Results) -> Self {
        let mut progress = Self {
            began: Instant::now(),
            settings: results.settings.clone(),
            knee: None,
            all_s: 0.0,
            done_s: 0.0,
            current_s: 0.0,
        };
        progress.knee_is_known(results);
        if results.knee.is_none() {
            progress.all_s += KNEE_ESTIMATE_S;
        }
        progress
    }

    fn knee_is_known(&mut self, results: &Results) {
        self.knee = results.knee.as_ref().map(|knee| knee.records_per_s);
        let rounds = next_round(results)..=self.settings.rounds;
        let rounds_s: f64 = rounds.map(|round| self.settings.round_estimate_s(round, self.knee)).sum();
        self.done_s = self.began.elapsed().as_secs_f64();
        self.all_s = self.done_s + rounds_s;
        self.current_s = 0.0;
    }

    fn cell(&mut self, round: u32, variant: Variant, row: Row) {
        let rounds = self.settings.rounds;
        self.say(&format!("round {round} of {rounds}, {}, {row}", variant.name()));
        self.current_s = self.settings.estimate_s(row, variant, self.knee);
    }

    fn say(&mut self, what: &str) {
        self.done_s += self.current_s;
        self.current_s = 0.0;
        let elapsed_s = self.began.elapsed().as_secs_f64();
        let left_s = (self.all_s - self.done_s).max(0.0);
        println!("[{} elapsed, about {} left] {what}", minutes(elapsed_s), minutes(left_s));
    }
}

fn minutes(seconds: f64) -> String {
    let seconds = Duration::from_secs_f64(seconds).as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
