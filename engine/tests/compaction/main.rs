//! Compacted topics on a whole node that is killed and loses power again and again, also in the
//! middle of compaction, under clients that write, read, trim, truncate and delete.
//!
//! `CORELOG_CRASH_SEEDS=2000` sets how many seeds are run, `CORELOG_CRASH_SEED=17` runs one and says
//! what happened; `CORELOG_COMPACTION_HOUR=1` runs an hour of virtual time with 50 crashes. The test
//! is itself tested: each planted bug has to be found.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod model;
mod offsets;
#[path = "../sim_node/mod.rs"]
mod sim_node;
mod workload;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use corelog_engine::engine::Engine;
use corelog_engine::level::Level;
use corelog_engine::log::clean::pace::PaceRules;
use corelog_engine::messages::{ShardReply, ShardRequest};
use corelog_engine::planted::{Planted, PlantedBug};
use corelog_engine::shard::{CleanOptions, CleanerStats};
use corelog_runtime::shards::{ShardContext, stop_signal};
use corelog_runtime::sim::{DiskHandle, Sim, SimOptions};
use corelog_runtime::{rand, task, time};

use crate::model::{Model, Read, Violation};
use crate::sim_node::{caught, number_from_env};

const NODE: u32 = 1;
const CLIENTS_PER_SHARD: usize = 3;
/// For so long the directories are looked at again and again, until compaction writes a file.
const LOOKS_FOR: Duration = Duration::from_secs(1);

pub type SharedModel = Rc<RefCell<Model>>;

/// How a story is told.
#[derive(Debug, Clone, Copy)]
struct Plot {
    seed: u64,
    bug: PlantedBug,
    crashes: Option<u32>,
    /// The longest life of a node.
    life_us_max: u64,
    /// Between two operations of a client.
    pause_us_max: u64,
    retention_check_interval: Duration,
}

impl Plot {
    fn short(seed: u64, bug: PlantedBug) -> Self {
        Self {
            seed,
            bug,
            crashes: None,
            life_us_max: 150_000,
            pause_us_max: 3_000,
            retention_check_interval: Duration::from_millis(5),
        }
    }
}

/// What one node's life shares with the driver.
#[derive(Clone)]
struct Life {
    model: SharedModel,
    plot: Plot,
    power_lost: Rc<Cell<bool>>,
    violation: Rc<RefCell<Option<Violation>>>,
    checked: Rc<Level>,
    cleaned: Rc<Cell<CleanerStats>>,
    clean: CleanOptions,
    /// Check, let everything be compacted, check that, end.
    last: bool,
}

impl Life {
    fn blame(&self, violation: Violation) {
        self.violation.borrow_mut().get_or_insert(violation);
    }
}

async fn shard_main(context: ShardContext<ShardRequest, ShardReply>, life: Life) -> Result<(), String> {
    let mut options = sim_node::options(life.plot.bug);
    options.shard.retention_check_interval = life.plot.retention_check_interval;
    options.shard.clean = life.clean;
    // What was written a moment ago is read from memory, and not as compaction left it.
    options.shard.tail_cache_bytes = if life.last { 0 } else { 16 << 10 };
    let started = Engine::start(context.mesh, options).await;
    let engine = started.map_err(|error| format!("the node does not start: {error}"))?;
    if context.shard == 0 {
        let mut checked = check(&engine, &life).await;
        if checked.is_ok() && life.last {
            checked = quiescence(&engine, &life).await;
        }
        if let Err(violation) = checked {
            life.blame(violation);
            return Err("a promise was broken".to_owned());
        }
        life.power_lost.set(false);
        life.checked.raise(1);
    } else {
        life.checked.reached(1).await;
    }
    if !life.last {
        run_clients(&engine, &life).await;
    }
    if context.shard == 0 {
        note_stats(&engine, &life).await;
    }
    engine.shut_down().await
}

async fn note_stats(engine: &Engine, life: &Life) {
    let mut sum = life.cleaned.get();
    for stats in engine.stats().await {
        sum.rounds += stats.cleaner.rounds;
        sum.records_removed += stats.cleaner.records_removed;
        sum.tombstones_removed += stats.cleaner.tombstones_removed;
        sum.segments_replaced += stats.cleaner.segments_replaced;
        sum.rounds_failed += stats.cleaner.rounds_failed;
    }
    life.cleaned.set(sum);
}

/// Lets clients work until the node is asked to stop; returns when all of them ended.
async fn run_clients(engine: &Engine, life: &Life) {
    let ended = Rc::new(Level::default());
    for _ in 0..CLIENTS_PER_SHARD {
        let (engine, life, ended) = (engine.clone(), life.clone(), Rc::clone(&ended));
        task::spawn(async move {
            while !stop_signal().is_raised() {
                if let Err(violation) = workload::step(&engine, &life.model, life.plot.pause_us_max).await {
                    life.blame(violation);
                    break;
                }
            }
            ended.raise(ended.get() + 1);
        });
    }
    stop_signal().wait().await;
    ended.reached(CLIENTS_PER_SHARD as u64).await;
}

/// Holds everything that the node has against everything that it promised.
async fn check(engine: &Engine, life: &Life) -> Result<(), Violation> {
    workload::resolve_topics(engine, &life.model)?;
    for cell in workload::partitions(&life.model) {
        let target = cell.borrow().target;
        let (range, found) = match model::read(engine, target, None, 64 * 1024).await? {
            Read::Whole(range, found) => (range, found),
            Read::Nothing(error) => return Err(format!("{target}: {error}")),
        };
        let (model, now_ms) = (life.model.borrow(), time::unix_time_ms());
        cell.borrow_mut().restarted(range, &found, &model.sent, life.power_lost.get(), now_ms)?;
    }
    Ok(())
}

/// With everything in closed segments, and behind the time of tombstones, logs are what they should.
async fn quiescence(engine: &Engine, life: &Life) -> Result<(), Violation> {
    for _ in 0..2 {
        time::sleep(Duration::from_secs(1)).await;
        // Shows that a round is due, whatever the share of what is dirty.
        workload::produce_everywhere(engine, &life.model).await?;
        time::sleep(Duration::from_secs(1)).await;
    }
    for cell in workload::partitions(&life.model) {
        let target = cell.borrow().target;
        let (range, found) = match model::read(engine, target, None, 64 * 1024).await? {
            Read::Whole(range, found) => (range, found),
            Read::Nothing(error) => return Err(format!("{target}: {error}")),
        };
        let model = life.model.borrow();
        cell.borrow_mut().trimmed_to(range.0);
        cell.borrow().compacted(&found, &model.sent)?;
    }
    let stats = engine.stats().await;
    match stats.iter().find(|stats| stats.cleaner.rounds_failed > 0 || stats.cleaner.uncleanable > 0) {
        Some(stats) => Err(format!("rounds failed: {:?}", stats.cleaner)),
        None => Ok(()),
    }
}

#[derive(Debug, PartialEq)]
struct Report {
    trace_hash: u64,
    acknowledged: u64,
    crashes: u32,
    cleaned: CleanerStats,
}

fn run(plot: Plot) -> Result<Report, Violation> {
    let options = SimOptions { time_max: Duration::from_secs(8_000), ..SimOptions::default() };
    let sim = Sim::new(plot.seed, options);
    let model = SharedModel::default();
    let cleaned = Rc::default();
    let crashes = sim.run_until(tell(&sim, Rc::clone(&model), Rc::clone(&cleaned), plot))?;
    let acknowledged = model.borrow().acknowledged;
    Ok(Report { trace_hash: sim.trace_hash(), acknowledged, crashes, cleaned: cleaned.get() })
}

/// A node's lives, and how each of them ends.
async fn tell(
    sim: &Sim,
    model: SharedModel,
    cleaned: Rc<Cell<CleanerStats>>,
    plot: Plot,
) -> Result<u32, Violation> {
    let crashes = plot.crashes.unwrap_or_else(|| 3 + u32::try_from(rand::below(6)).unwrap());
    let mut shards = 1 + usize::try_from(rand::below(3)).unwrap();
    let power_lost = Rc::new(Cell::new(false));
    for crash in 0..=crashes {
        if rand::below(4) == 0 {
            shards = 1 + usize::try_from(rand::below(3)).unwrap();
        }
        let life = Life {
            model: Rc::clone(&model),
            plot,
            power_lost: Rc::clone(&power_lost),
            violation: Rc::default(),
            checked: Rc::default(),
            cleaned: Rc::clone(&cleaned),
            clean: some_options(crash == crashes),
            last: crash == crashes,
        };
        let for_shards = life.clone();
        let exit = sim.start_node(NODE, shards, move |context| shard_main(context, for_shards.clone()));
        let graceful = rand::below(6) == 0;
        let ended = if life.last {
            exit.await
        } else if graceful {
            let stop = async {
                time::sleep(Duration::from_micros(rand::below(plot.life_us_max))).await;
                sim.stop_node(NODE);
                std::future::pending::<()>().await;
                Ok(())
            };
            futures_lite::future::or(exit, stop).await
        } else {
            let end = async {
                end_of_life(&sim.disk(NODE), plot.life_us_max).await;
                Ok(())
            };
            futures_lite::future::or(exit, end).await
        };
        if let Some(violation) = life.violation.borrow_mut().take() {
            return Err(violation);
        }
        ended?;
        match rand::below(2) {
            _ if life.last || graceful => {}
            0 => sim.kill_process(NODE),
            _ => {
                power_lost.set(true);
                sim.crash_node(NODE);
            }
        }
    }
    Ok(crashes)
}

/// Maps that hold everything and some that hold next to nothing; rounds that are over at once and
/// some that are under way when the end comes.
fn some_options(is_last: bool) -> CleanOptions {
    let keys_bytes = [64 + 17 * 8, 64 + 17 * 16, 1 << 16];
    let speeds = [None, None, Some(2 << 20), Some(400 << 10)];
    let pick = |count: usize| usize::try_from(rand::below(count as u64)).unwrap();
    CleanOptions {
        keys_bytes: keys_bytes[pick(keys_bytes.len())],
        backoff: Duration::from_millis(1 + rand::below(4)),
        pace: match is_last {
            true => PaceRules::UNLIMITED,
            false => PaceRules {
                bytes_per_second: speeds[pick(speeds.len())],
                busy_percent: [100, 20, 2][pick(3)],
            },
        },
        ..CleanOptions::default()
    }
}

/// At any time; or soon after compaction wrote a file.
async fn end_of_life(disk: &DiskHandle, life_us_max: u64) {
    let mut longest = Duration::from_micros(rand::below(life_us_max));
    if rand::below(2) == 0 {
        return time::sleep(longest).await;
    }
    if longest > LOOKS_FOR {
        time::sleep(longest - LOOKS_FOR).await;
        longest = LOOKS_FOR;
    }
    let skipped = rand::below(3);
    let seen = async {
        for _ in 0..=skipped {
            while !is_replacing(disk) {
                time::sleep(Duration::from_micros(100)).await;
            }
            time::sleep(Duration::from_micros(rand::below(2_500))).await;
        }
    };
    let _ = time::timeout(longest, seen).await;
}

fn is_replacing(disk: &DiskHandle) -> bool {
    let topics = disk.names("/data/topics");
    topics.iter().any(|topic| {
        let partitions = disk.names(format!("/data/topics/{topic}"));
        partitions.iter().any(|partition| {
            let names = disk.names(format!("/data/topics/{topic}/{partition}"));
            names.iter().any(|name| name.ends_with(".cleaned"))
        })
    })
}

/// Seeds that found something.
const FAILED_ONCE: [u64; 0] = [];

#[test]
fn compaction_keeps_the_newest_of_each_key_through_crashes() {
    if let Some(seed) = number_from_env("CORELOG_CRASH_SEED") {
        let report = run(Plot::short(seed, PlantedBug::NONE));
        println!("seed {seed}: {report:?}");
        report.unwrap();
        return;
    }
    let seeds = number_from_env("CORELOG_CRASH_SEEDS").unwrap_or(30);
    let first = number_from_env("CORELOG_CRASH_FROM").unwrap_or(0);
    let (mut acknowledged, mut crashes, mut segments) = (0, 0, 0);
    for seed in FAILED_ONCE.iter().copied().chain(first..first + seeds) {
        match caught(|| run(Plot::short(seed, PlantedBug::NONE))) {
            Ok(report) => {
                acknowledged += report.acknowledged;
                crashes += report.crashes;
                segments += report.cleaned.segments_replaced;
            }
            Err(violation) => panic!("seed {seed} (CORELOG_CRASH_SEED={seed}): {violation}"),
        }
    }
    println!(
        "{seeds} seeds, {crashes} crashes, {acknowledged} acknowledged batches, {segments} segments replaced"
    );
    assert!(acknowledged > seeds && segments > seeds, "the workload does something");
}

#[test]
fn a_seed_replays_a_run() {
    for seed in 1000..1004 {
        let of = || run(Plot::short(seed, PlantedBug::NONE));
        assert_eq!(of(), of(), "seed {seed}");
    }
}

/// An hour of virtual time, 50 crashes.
#[test]
fn an_hour_of_compaction_with_crashes() {
    let Some(seed) = number_from_env("CORELOG_COMPACTION_HOUR") else { return };
    let plot = Plot {
        seed,
        bug: PlantedBug::NONE,
        crashes: Some(50),
        life_us_max: 2 * 3_600_000_000 / 50,
        pause_us_max: 2_000_000,
        retention_check_interval: Duration::from_millis(100),
    };
    let report = run(plot).unwrap();
    println!("{report:?}");
    assert!(report.cleaned.segments_replaced > 100, "{report:?}");
}

/// Runs seeds until the bug is found.
fn finds(bug: Planted) {
    sim_node::finds(bug, |seed, bug| run(Plot::short(seed, bug)));
}

#[test]
fn finds_a_replacement_before_the_directorys_sync() {
    finds(Planted::SwapBeforeDirSync);
}

#[test]
fn finds_that_a_replacement_is_not_finished() {
    finds(Planted::SwapNotRedone);
}

#[test]
fn finds_that_segments_go_before_the_commit() {
    finds(Planted::UnlinkBeforeCommit);
}

#[test]
fn finds_that_the_newest_segments_are_rewritten_first() {
    // It takes a crash between two groups of segments, so there have to be several: lives are longer.
    sim_node::finds(Planted::GroupsNewestFirst, |seed, bug| {
        run(Plot { life_us_max: 400_000, ..Plot::short(seed, bug) })
    });
}

#[test]
fn finds_that_records_are_judged_that_were_not_mapped() {
    finds(Planted::MappedPastTheMap);
}

#[test]
fn finds_that_tombstones_go_at_once() {
    finds(Planted::TombstoneAtOnce);
}
