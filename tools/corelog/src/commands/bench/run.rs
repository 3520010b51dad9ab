//! The load generator: from flags to a scenario, and how it goes.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use corelog_bench::load::run::{Done, Phase, Progress};
use corelog_bench::load::scenario::{Scenario, Step};
use corelog_bench::load::sweep::SweepSpec;
use corelog_bench::node::{self, NodeDurability, NodeSpec};
use corelog_bench::plan::Plan;
use corelog_bench::result::report::Run;
use corelog_bench::suite::{self, SuiteOptions, Target, Watch};

use super::summary;
use crate::cli::{self, BenchPlace, BenchRun};
use crate::config::parse_cores;
use crate::out::{self, Format};

/// What `corelog bench` does when nothing is asked for.
const DEFAULT_SCENARIO: &str = include_str!("../../../../../bench/scenarios/default.toml");
/// Without a terminal, how it goes is said this often.
pub(super) const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Exit code of a run that SIGINT or SIGTERM ended.
pub(super) const INTERRUPTED: u8 = 130;

pub(crate) fn run(arguments: &BenchRun, format: Format) -> Result<ExitCode> {
    let scenario = scenario(arguments)?;
    let topic = arguments.topic.is_some();
    let options = options(&arguments.place, arguments.out.as_deref(), topic)?;
    let mut watch = Live::new(arguments.quiet, format);
    let outcome = suite::run(&scenario, &options, &mut watch)?;
    watch.clear();
    match format {
        Format::Text => out::print_text(&summary::render(&outcome, &watch.drawn))?,
        Format::Json => out::print_json(&outcome.report)?,
    }
    match outcome.report.runs.iter().find(|run| run.is_broken()) {
        Some(run) => bail!("run '{}': not every record is there once, in order and unchanged", run.name),
        None if outcome.interrupted => Ok(ExitCode::from(INTERRUPTED)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// The scenario that the flags ask for.
fn scenario(arguments: &BenchRun) -> Result<Scenario> {
    let mut scenario = match &arguments.scenario {
        Some(path) => Scenario::load(path)?,
        None if arguments.load.is_given() || arguments.sweep || arguments.topic.is_some() => plain(arguments),
        None => Scenario::parse(Path::new("default.toml"), DEFAULT_SCENARIO)?,
    };
    let apply = |plan: &mut Plan| {
        arguments.load.apply(plan);
        if let Some(topic) = &arguments.topic {
            plan.topic.clone_from(topic);
        }
    };
    apply(&mut scenario.plan);
    scenario.steps.iter_mut().for_each(|step| apply(&mut step.plan));
    Ok(scenario)
}

/// One run, or one sweep.
fn plain(arguments: &BenchRun) -> Scenario {
    let plan = Plan::default();
    let sweep = arguments.sweep.then_some(SweepSpec {
        start_rate: arguments.sweep_start,
        p99_ms: Some(arguments.sweep_p99_ms),
        step_s: arguments.sweep_step,
        max_rate: arguments.sweep_max,
    });
    let steps = match sweep {
        Some(_) => Vec::new(),
        None => vec![Step { name: "run".to_owned(), plan: plan.clone() }],
    };
    Scenario { name: "plain".to_owned(), about: String::new(), plan, sweep, steps }
}

/// Which broker is driven, from where, and where files go.
pub(super) fn options(
    place: &BenchPlace,
    out: Option<&Path>,
    uses_existing_topics: bool,
) -> Result<SuiteOptions> {
    let allowed = corelog_bench::result::machine::allowed_cores().context("this process's cores")?;
    let (for_node, for_us) = node::pick_cores(&allowed);
    let listed = |flag: &Option<String>, otherwise: &[usize]| -> Result<Vec<usize>> {
        let given = flag.as_deref().map(parse_cores).transpose()?.flatten();
        let cores = given.unwrap_or_else(|| otherwise.to_vec());
        match cores.iter().find(|core| !allowed.contains(core)) {
            Some(core) => bail!("core {core} is not one of those that this process may use: {allowed:?}"),
            None => Ok(cores),
        }
    };
    let cores = listed(&place.cores, &for_us)?;
    let target = match &place.bootstrap {
        Some(bootstrap) => {
            Target::Running { bootstrap: bootstrap.clone(), pid: place.server_pid, uses_existing_topics }
        }
        None => {
            ensure!(!uses_existing_topics, "--topic names a topic of a broker: it needs --bootstrap");
            let mut spec = NodeSpec::new(listed(&place.node_cores, &for_node)?)?;
            if let Some(dir) = &place.data_dir {
                spec.data_dir.clone_from(dir);
            }
            spec.durability = match place.durability {
                cli::NodeDurability::Fsync => NodeDurability::Fsync,
                cli::NodeDurability::Write => NodeDurability::Write,
            };
            if let Some(warning) = corelog_bench::cores::conflict(&spec.cores, &cores) {
                eprintln!("warning: {warning}");
            }
            Target::Started(spec)
        }
    };
    Ok(SuiteOptions {
        target,
        cores,
        out: out.map_or_else(suite::default_out, Path::to_path_buf),
        command: std::env::args()
            .enumerate()
            .map(|(at, argument)| if at == 0 { program_name(&argument) } else { argument })
            .collect(),
        revision: crate::revision::REVISION.to_owned(),
    })
}

fn program_name(path: &str) -> String {
    let name = Path::new(path).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The line that says how it goes.
struct Live {
    is_quiet: bool,
    is_terminal: bool,
    is_text: bool,
    said: Duration,
    /// Response times of every step, to draw.
    drawn: Vec<summary::Drawn>,
}

impl Live {
    fn new(is_quiet: bool, format: Format) -> Self {
        Self {
            is_quiet,
            is_terminal: std::io::stderr().is_terminal(),
            is_text: format == Format::Text,
            said: Duration::ZERO,
            drawn: Vec::new(),
        }
    }

    fn say(&self, line: &str) {
        if self.is_quiet {
            return;
        }
        // Nobody reads stderr: nothing is wrong with the run.
        let _ = match self.is_terminal {
            true => write!(std::io::stderr(), "\r\x1b[K{line}"),
            false => writeln!(std::io::stderr(), "{line}"),
        };
    }

    fn clear(&self) {
        if self.is_terminal && !self.is_quiet {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Watch for Live {
    fn progress(&mut self, progress: Progress<'_>) {
        if progress.elapsed < self.said {
            self.said = Duration::ZERO;
        }
        if !self.is_terminal && progress.elapsed < self.said + PLAIN_INTERVAL {
            return;
        }
        self.said = progress.elapsed;
        let ms = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{:.2}", us / 1e3));
        let phase = match progress.phase {
            Phase::WarmUp => "warm-up",
            Phase::Measured => "measured",
            Phase::ReadingTheRest => "reading the rest",
        };
        self.say(&format!(
            "{} {:>3} s ({phase}): {}/s produced, {}/s consumed, p50 {} ms, p99 {} ms, lag {} ms, {} errors",
            progress.name,
            progress.elapsed.as_secs(),
            out::grouped(progress.produced_per_s),
            out::grouped(progress.consumed_per_s),
            ms(progress.p50_us),
            ms(progress.p99_us),
            ms(progress.lag_us),
            progress.errors,
        ));
    }

    fn tried(&mut self, run: &Run, held: bool) {
        self.clear();
        let verdict = if held { "held" } else { "did not hold" };
        if !self.is_quiet && self.is_text {
            eprintln!("{}: {}", summary::line(run), verdict);
        }
    }

    fn done(&mut self, done: &Done) {
        self.clear();
        if !self.is_quiet && self.is_text {
            eprintln!("{}", summary::line(&done.run));
        }
        self.drawn.push(summary::Drawn { name: done.run.name.clone(), response: done.response.clone() });
    }
}
