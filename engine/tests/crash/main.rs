//! The crash test: one seed is one story of a node that is killed and loses power again and again,
//! also while it recovers, under clients that remember what they were promised.
//!
//! `CORELOG_CRASH_SEEDS=2000` sets how many seeds are run, `CORELOG_CRASH_SEED=17` runs one and says
//! what happened. The test is itself tested: each planted bug has to be found.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod model;
#[path = "../sim_node/mod.rs"]
mod sim_node;
mod workload;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use corelog_engine::engine::Engine;
use corelog_engine::level::Level;
use corelog_engine::messages::{ShardReply, ShardRequest};
use corelog_engine::planted::{Planted, PlantedBug};
use corelog_runtime::shards::{ShardContext, stop_signal};
use corelog_runtime::sim::{Sim, SimOptions};
use corelog_runtime::{rand, task, time};

use crate::model::Violation;
use crate::sim_node::{caught, number_from_env};
use crate::workload::SharedModel;

const NODE: u32 = 1;
const CLIENTS_PER_SHARD: usize = 3;
/// Several times in most lives.
const RETENTION_CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// What one node's life shares with the driver.
#[derive(Clone)]
struct Life {
    model: SharedModel,
    bug: PlantedBug,
    /// Set when the disk may have lost what was not synced since the last check.
    power_lost: Rc<Cell<bool>>,
    violation: Rc<RefCell<Option<Violation>>>,
    checked: Rc<Level>,
    /// Only check, then end.
    last: bool,
}

impl Life {
    fn blame(&self, violation: Violation) {
        self.violation.borrow_mut().get_or_insert(violation);
    }
}

async fn shard_main(context: ShardContext<ShardRequest, ShardReply>, life: Life) -> Result<(), String> {
    let mut options = sim_node::options(life.bug);
    options.shard.retention_check_interval = RETENTION_CHECK_INTERVAL;
    let started = Engine::start(context.mesh, options).await;
    let engine = started.map_err(|error| format!("the node does not start: {error}"))?;
    if context.shard == 0 {
        if let Err(violation) = check(&engine, &life).await {
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
    engine.shut_down().await
}

/// Lets clients work until the node is asked to stop; returns when all of them ended.
async fn run_clients(engine: &Engine, life: &Life) {
    let ended = Rc::new(Level::default());
    for _ in 0..CLIENTS_PER_SHARD {
        let (engine, life, ended) = (engine.clone(), life.clone(), Rc::clone(&ended));
        task::spawn(async move {
            while !stop_signal().is_raised() {
                if let Err(violation) = workload::step(&engine, &life.model).await {
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
    let partitions: Vec<_> =
        life.model.borrow().topics.values().flat_map(|topic| topic.partitions.clone()).collect();
    for cell in partitions {
        let target = cell.borrow().target;
        let (start, end, found) = model::read_all(engine, target).await?;
        {
            let (model, now_ms) = (life.model.borrow(), time::unix_time_ms());
            cell.borrow_mut().may_start_at(start, now_ms, &model.born_ms)?;
        }
        cell.borrow_mut().restarted(start, end, &found, life.power_lost.get())?;
        let image = engine.image();
        let meta = image.topics.get(&target.topic).and_then(|topic| topic.partition(target.partition));
        let epoch = meta.ok_or_else(|| format!("{target} has no leader"))?.leader_epoch;
        if epoch <= cell.borrow().leader_epoch {
            return Err(format!("{target}: leads again in epoch {epoch}"));
        }
        cell.borrow_mut().leader_epoch = epoch;
        for producer in &cell.borrow().producers {
            producer.borrow_mut().busy = false;
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Report {
    trace_hash: u64,
    acknowledged: u64,
    crashes: u32,
}

fn run(seed: u64, bug: PlantedBug) -> Result<Report, Violation> {
    // A story takes seconds; what takes longer hangs.
    let options = SimOptions { time_max: Duration::from_secs(300), ..SimOptions::default() };
    let sim = Sim::new(seed, options);
    let model = SharedModel::default();
    let power_lost = Rc::new(Cell::new(false));
    let story = tell(&sim, Rc::clone(&model), Rc::clone(&power_lost), bug);
    let crashes = sim.run_until(story)?;
    let acknowledged = model.borrow().acknowledged.get();
    Ok(Report { trace_hash: sim.trace_hash(), acknowledged, crashes })
}

/// A node's lives, and how each of them ends.
async fn tell(
    sim: &Sim,
    model: SharedModel,
    power_lost: Rc<Cell<bool>>,
    bug: PlantedBug,
) -> Result<u32, Violation> {
    let crashes = 3 + u32::try_from(rand::below(8)).unwrap();
    let mut shards = 1 + usize::try_from(rand::below(4)).unwrap();
    for crash in 0..=crashes {
        if rand::below(3) == 0 {
            shards = 1 + usize::try_from(rand::below(4)).unwrap();
        }
        let life = Life {
            model: Rc::clone(&model),
            bug,
            power_lost: Rc::clone(&power_lost),
            violation: Rc::default(),
            checked: Rc::default(),
            last: crash == crashes,
        };
        let for_shards = life.clone();
        let exit = sim.start_node(NODE, shards, move |context| shard_main(context, for_shards.clone()));
        // Some lives end while the node still recovers.
        let length = if rand::below(3) == 0 { rand::below(5_000) } else { rand::below(120_000) };
        let graceful = rand::below(8) == 0;
        let watched = async {
            if life.last || graceful {
                if graceful && !life.last {
                    time::sleep(Duration::from_micros(length)).await;
                    sim.stop_node(NODE);
                }
                exit.await
            } else {
                match time::timeout(Duration::from_micros(length), exit).await {
                    Ok(ended) => ended,
                    Err(_) => Ok(()),
                }
            }
        };
        let ended = watched.await;
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

/// Seeds that found something, in the order in which they did:
/// - 1311: retention decided, a truncation came and then new records, which went though they were
///   young.
const FAILED_ONCE: [u64; 1] = [1311];

#[test]
fn no_acknowledged_record_is_lost_changed_or_renumbered() {
    if let Some(seed) = number_from_env("CORELOG_CRASH_SEED") {
        let report = run(seed, PlantedBug::NONE);
        println!("seed {seed}: {report:?}");
        report.unwrap();
        return;
    }
    let seeds = number_from_env("CORELOG_CRASH_SEEDS").unwrap_or(60);
    let (mut acknowledged, mut crashes) = (0, 0);
    for seed in FAILED_ONCE.iter().copied().chain(0..seeds) {
        match caught(|| run(seed, PlantedBug::NONE)) {
            Ok(report) => {
                acknowledged += report.acknowledged;
                crashes += report.crashes;
            }
            Err(violation) => panic!("seed {seed} (CORELOG_CRASH_SEED={seed}): {violation}"),
        }
    }
    println!("{seeds} seeds, {crashes} crashes, {acknowledged} acknowledged batches: all promises kept");
    assert!(acknowledged > seeds, "the workload acknowledges something");
}

#[test]
fn a_seed_replays_a_run() {
    for seed in 1000..1010 {
        assert_eq!(run(seed, PlantedBug::NONE), run(seed, PlantedBug::NONE), "seed {seed}");
    }
}

/// Runs seeds until the bug is found.
fn finds(bug: Planted) {
    sim_node::finds(bug, run);
}

#[test]
fn finds_an_acknowledgement_before_the_sync() {
    finds(Planted::AckBeforeSync);
}

#[test]
fn finds_a_missing_sync() {
    finds(Planted::NoSync);
}

#[test]
fn finds_that_the_generation_is_ignored() {
    finds(Planted::GenerationIgnored);
}

#[test]
fn finds_that_a_tail_is_reused_after_replay() {
    finds(Planted::TailReused);
}

#[test]
fn finds_a_checkpoint_before_the_segments_sync() {
    finds(Planted::CheckpointBeforeSync);
}

#[test]
fn finds_that_the_producers_state_is_lost() {
    finds(Planted::ProducerStateLost);
}

#[test]
fn finds_that_segments_go_before_the_checkpoint() {
    finds(Planted::DeleteBelowBeforeCheckpoint);
}

#[test]
fn finds_that_a_truncation_is_not_replayed() {
    finds(Planted::TruncationNotReplayed);
}
