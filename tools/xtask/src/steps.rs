//! `cargo xtask test`: the steps in their order, timed and summed up.

use std::ffi::OsStr;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::broker::{BrokerKind, Durability};
use crate::console::Checked;
use crate::process::{self, find, run_visibly};
use crate::project::Project;
use crate::rebalance::{self, Protocol};
use crate::setup::Toolbox;
use crate::{console, crash, direction, histograms, load, matrix, soak};

/// For builds and tests; only what hangs should take so long.
const BUILD_LIMIT: Duration = Duration::from_secs(75 * 60);
const SIMULATION_SEEDS: &str = "2000";
/// Per durability mode and number of shards: 50 for each mode.
const KILLS: u32 = 25;
/// For each protocol; `cargo xtask rebalance` takes longer.
const REBALANCE_SECONDS: u64 = 30;

/// What cargo-deny says when it cannot fetch what it compares with.
const ADVISORIES_UNREACHABLE: &str = "failed to fetch advisory database";

/// How a step ended when it did not fail.
enum Outcome {
    Passed(String),
    Skipped(String),
}

struct Step {
    name: &'static str,
    about: &'static str,
    run: fn(&Project) -> Result<Outcome>,
}

const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        about: "the sources are formatted",
        run: |project| cargo(project, &["fmt", "--all", "--", "--check", "-l"]),
    },
    Step {
        name: "clippy",
        about: "no lint has anything to say",
        run: |project| {
            let arguments = "clippy --workspace --all-targets --locked -- -D warnings";
            cargo(project, &words(arguments))
        },
    },
    Step {
        name: "direction",
        about: "crates use each other in one direction, and the machine through the runtime",
        run: |project| direction::check(project).map(Outcome::Passed),
    },
    Step {
        name: "deny",
        about: "advisories, licences and sources of dependencies, where cargo-deny is installed",
        run: deny,
    },
    Step {
        name: "test",
        about: "unit and property tests",
        run: |project| cargo(project, &["test", "--workspace", "--locked"]),
    },
    Step {
        name: "build",
        about: "the release build, which the steps after this one run",
        run: |project| cargo(project, &["build", "--release", "--locked", "--package", "corelog"]),
    },
    Step { name: "full-disk", about: "a file system that is full, where one can be mounted", run: full_disk },
    Step {
        name: "histograms",
        about: "our histogram files and the Java library's tools say the same",
        run: histograms,
    },
    Step { name: "simulation", about: "simulated crashes, 2,000 seeds", run: simulation },
    Step {
        name: "load",
        about: "the load generator finds one bad record in ten million, and sees a broker's pause",
        run: |project| {
            let seed = fastrand::u64(..);
            load::check(project, seed).with_context(|| format!("seed {seed}")).map(Outcome::Passed)
        },
    },
    Step { name: "clients-1", about: "real clients against one shard", run: |project| clients(project, 1) },
    Step { name: "clients-4", about: "real clients against four shards", run: |project| clients(project, 4) },
    Step { name: "console", about: "the console in a headless Chromium", run: console },
    Step {
        name: "kill-fsync",
        about: "kill -9 under load, acknowledged after the sync, one and four shards",
        run: |project| kills(project, Durability::Fsync),
    },
    Step {
        name: "kill-write",
        about: "kill -9 under load, acknowledged after the write, one and four shards",
        run: |project| kills(project, Durability::Write),
    },
    Step {
        name: "rebalance",
        about: "a group of twenty processes that come, go, pause and die, in both protocols",
        run: rebalances,
    },
    Step {
        name: "soak",
        about: "a soak of 30 s: load, topics that come and go, readers from anywhere, kill -9",
        run: |project| soak::short(project).map(Outcome::Passed),
    },
];

/// Prints what there is to run.
pub(crate) fn list() {
    for Step { name, about, .. } in STEPS {
        println!("{name:<12} {about}");
    }
}

/// Runs the steps named (all when none is), and returns whether none failed.
pub(crate) fn run(project: &Project, only: &[String]) -> Result<bool> {
    for name in only {
        if !STEPS.iter().any(|step| step.name == name) {
            bail!("there is no step {name}: see cargo xtask test --list");
        }
    }
    let began = Instant::now();
    let mut lines = Vec::new();
    let [mut passed, mut failed, mut skipped] = [0; 3];
    for step in STEPS {
        if !only.is_empty() && !only.iter().any(|name| name == step.name) {
            continue;
        }
        println!("== {}: {}", step.name, step.about);
        let step_began = Instant::now();
        let (count, result) = match (step.run)(project) {
            Ok(Outcome::Passed(report)) => (&mut passed, format!("passed   {report}")),
            Ok(Outcome::Skipped(reason)) => (&mut skipped, format!("skipped  {reason}")),
            Err(error) => {
                println!("{error:#}");
                let error = format!("{error:#}");
                let summary = error.lines().next().unwrap_or_default().to_owned();
                (&mut failed, format!("FAILED   {summary}"))
            }
        };
        *count += 1;
        let seconds = step_began.elapsed().as_secs_f64();
        println!("== {}: {result} ({seconds:.1} s)\n", step.name);
        lines.push(format!("{:<12} {seconds:>7.1} s  {result}", step.name));
    }
    println!("{}", lines.join("\n"));
    println!("in {:.0} s", began.elapsed().as_secs_f64());
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed == 0)
}

fn words(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

fn cargo(project: &Project, arguments: &[&str]) -> Result<Outcome> {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).current_dir(project.root());
    run_visibly(command, BUILD_LIMIT)?;
    Ok(Outcome::Passed(String::new()))
}

/// A tool that checks the dependencies and not this project: nobody has to have it, CI neither.
fn deny(project: &Project) -> Result<Outcome> {
    if find("cargo-deny").is_none() {
        return Ok(Outcome::Skipped("cargo-deny is not installed".to_owned()));
    }
    cargo(project, &words("deny --all-features check --hide-inclusion-graph licenses bans sources"))?;
    let mut advisories = Command::new(env!("CARGO"));
    advisories.args(words("deny --all-features check advisories")).current_dir(project.root());
    let log = project.logs().join("advisories.log");
    match process::run(advisories, &log, BUILD_LIMIT) {
        Ok(()) => Ok(Outcome::Passed("advisories, licences, bans, sources".to_owned())),
        // The database is a repository of its own, which not every machine reaches.
        Err(_) if fs::read_to_string(&log)?.contains(ADVISORIES_UNREACHABLE) => Ok(Outcome::Passed(
            "licences, bans, sources; advisories unchecked: their database is out of reach".to_owned(),
        )),
        Err(error) => Err(error),
    }
}

/// The tests that mount a file system of their own.
fn full_disk(project: &Project) -> Result<Outcome> {
    if !can_mount(project) {
        return Ok(Outcome::Skipped("a file system in a file cannot be mounted here".to_owned()));
    }
    cargo(project, &words("test --locked --package corelog --test damage -- --ignored"))
}

/// Tries it: it takes root, loop devices, and a container that may use both.
fn can_mount(project: &Project) -> bool {
    let (image, at) = (project.scratch().join("mount-probe.ext4"), project.scratch().join("mount-probe"));
    let works = |program: &str, arguments: &[&OsStr]| {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let mounted = fs::create_dir_all(&at).is_ok()
        && works("truncate", &["-s".as_ref(), "8M".as_ref(), image.as_ref()])
        && works("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), image.as_ref()])
        && works("mount", &["-o".as_ref(), "loop".as_ref(), image.as_ref(), at.as_ref()]);
    let unmounted = mounted && works("umount", &[at.as_ref()]);
    // Best effort: both are overwritten the next time.
    let _ = (fs::remove_file(&image), fs::remove_dir(&at));
    unmounted
}

fn simulation(project: &Project) -> Result<Outcome> {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(words("test --release --locked --package corelog-engine --test crash"))
        .env("CORELOG_CRASH_SEEDS", SIMULATION_SEEDS)
        .current_dir(project.root());
    run_visibly(command, BUILD_LIMIT)?;
    Ok(Outcome::Passed(format!("{SIMULATION_SEEDS} seeds")))
}

fn clients(project: &Project, shards: usize) -> Result<Outcome> {
    let tools = Toolbox::prepare(project)?;
    if tools.java.is_none() && tools.python.is_none() && tools.kcat.is_none() {
        return Ok(Outcome::Skipped(tools.missing.join("; ")));
    }
    let kind = BrokerKind::corelog(project)?;
    matrix::run(project, &tools, &kind, shards, &[]).map(Outcome::Passed)
}

fn console(project: &Project) -> Result<Outcome> {
    console::check(project).map(|checked| match checked {
        Checked::Passed(report) => Outcome::Passed(report),
        Checked::Skipped(reason) => Outcome::Skipped(reason),
    })
}

fn histograms(project: &Project) -> Result<Outcome> {
    let tools = Toolbox::prepare(project)?;
    match &tools.java {
        Some(java) => histograms::check(project, java).map(Outcome::Passed),
        None => Ok(Outcome::Skipped(tools.missing.join("; "))),
    }
}

fn rebalances(project: &Project) -> Result<Outcome> {
    let tools = Toolbox::prepare(project)?;
    let kind = BrokerKind::corelog(project)?;
    let mut reports = Vec::new();
    for (protocol, shards) in Protocol::ALL.into_iter().zip([1, 4]) {
        let seed = fastrand::u64(..);
        reports.push(rebalance::play(project, &tools, &kind, protocol, REBALANCE_SECONDS, shards, seed)?);
    }
    Ok(Outcome::Passed(reports.join("; ")))
}

fn kills(project: &Project, durability: Durability) -> Result<Outcome> {
    let tools = Toolbox::prepare(project)?;
    if tools.python.is_none() {
        return Ok(Outcome::Skipped(tools.missing.join("; ")));
    }
    let kind = BrokerKind::corelog(project)?;
    let mut reports = Vec::new();
    for shards in [1, 4] {
        let plan = crash::Plan { durability, shards, kills: KILLS, seed: fastrand::u64(..) };
        let report = crash::run(project, &tools, &kind, &plan).with_context(|| format!("{shards} shards"))?;
        println!("  {report}");
        reports.push(report);
    }
    Ok(Outcome::Passed(reports.join("; ")))
}
