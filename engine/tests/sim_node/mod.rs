//! The node that simulated tests run, and what tests of many seeds have in common.

#![allow(dead_code, reason = "each test uses its part of it")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use corelog_engine::api::{FetchPart, FetchSpec, Fetched, PartitionError, TrimTo};
use corelog_engine::engine::{Engine, EngineOptions};
use corelog_engine::journal::JournalOptions;
use corelog_engine::level::Level;
use corelog_engine::messages::{ShardReply, ShardRequest};
use corelog_engine::meta::MetaOptions;
use corelog_engine::planted::{Planted, PlantedBug};
use corelog_engine::shard::{CleanOptions, ShardOptions};
use corelog_engine::topic_config::NodeDefaults;
use corelog_engine::types::{NodeId, Offset, TopicPartition};
use corelog_runtime::shards::ShardContext;
use corelog_runtime::sim::Sim;

/// Moves the log start of one partition.
pub async fn trim(engine: &Engine, target: TopicPartition, to: Offset) -> Result<Offset, PartitionError> {
    engine.trim(vec![(target, TrimTo::Offset(to))]).await.pop().expect("one part, one answer")
}

/// One fetch without waiting.
pub async fn fetch(
    engine: &Engine,
    target: TopicPartition,
    from: i64,
    max_bytes: usize,
) -> Result<Fetched, PartitionError> {
    let part = FetchPart { target, offset: Offset(from), max_bytes, current_leader_epoch: None };
    let spec = FetchSpec {
        parts: vec![part],
        max_bytes,
        min_bytes: 0,
        max_wait: Duration::ZERO,
        read_committed: false,
    };
    engine.fetch(spec).await.pop().expect("one part, one outcome")
}

/// Runs a node of two shards until the story is told, and takes its power away.
pub fn live(
    sim: &Sim,
    node: u32,
    options: impl Fn() -> EngineOptions + 'static,
    story: impl AsyncFn(Engine) + 'static,
) {
    let story = Rc::new((options, story));
    let ended = Rc::new(Level::default());
    let exit = sim.start_node(node, 2, {
        let ended = Rc::clone(&ended);
        move |context: ShardContext<ShardRequest, ShardReply>| {
            let (story, ended) = (Rc::clone(&story), Rc::clone(&ended));
            async move {
                let shard = context.shard;
                let (options, story) = &*story;
                let engine = Engine::start(context.mesh, options()).await.expect("the node starts");
                if shard == 0 {
                    story(engine).await;
                    ended.raise(1);
                }
                std::future::pending::<Result<(), String>>().await
            }
        }
    });
    let told = async {
        ended.reached(1).await;
        Ok(())
    };
    sim.run_until(futures_lite::future::or(exit, told)).expect("the story is told");
    sim.crash_node(node);
}

/// Runs a seed; a panic anywhere in the node is a violation too.
pub fn caught<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?")))
    })
}

/// Runs seeds until the bug is found.
pub fn finds<T>(bug: Planted, run: impl Fn(u64, PlantedBug) -> Result<T, String>) {
    let seeds = 400;
    for seed in 0..seeds {
        if let Err(violation) = caught(|| run(seed, PlantedBug::plant(bug))) {
            println!("{bug:?} is found by seed {seed}: {violation}");
            return;
        }
    }
    panic!("{bug:?} was not found by {seeds} seeds");
}

/// How many seeds, and which: tests are told by variables.
pub fn number_from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// Small files and budgets, so that every run rolls, flushes, carries forward and recycles.
pub fn options(bug: PlantedBug) -> EngineOptions {
    let mut journal = JournalOptions::new(PathBuf::new(), 0);
    journal.file_bytes = 256 * 1024;
    journal.first_file_bytes = 64 * 1024;
    journal.max_commit_bytes = 64 * 1024;
    journal.planted = bug;
    EngineOptions {
        shard: ShardOptions {
            data_dir: PathBuf::from("/data"),
            node: NodeId(1),
            tail_cache_bytes: 64 * 1024,
            unflushed_bytes_max: 512 * 1024,
            flush_chunk_bytes: 24 * 1024,
            carry_bytes_max: 8 * 1024,
            journal_queue_bytes_max: 128 * 1024,
            open_files_max: 8,
            groups: corelog_engine::group::GroupConfig::default(),
            retention_check_interval: Duration::from_secs(300),
            clean: CleanOptions::default(),
            planted: bug,
        },
        journal,
        meta: MetaOptions {
            node: NodeId(1),
            listeners: Vec::new(),
            rack: None,
            default_partitions: 1,
            default_replication_factor: 1,
            configs: NodeDefaults::default(),
            entries_per_snapshot: 20,
        },
        defaults: NodeDefaults::default(),
    }
}
