//! The node that simulated tests run.

use std::path::PathBuf;
use std::time::Duration;

use corelog_engine::api::{PartitionError, TrimTo};
use corelog_engine::engine::{Engine, EngineOptions};
use corelog_engine::journal::JournalOptions;
use corelog_engine::meta::MetaOptions;
use corelog_engine::planted::PlantedBug;
use corelog_engine::shard::{CleanOptions, ShardOptions};
use corelog_engine::topic_config::NodeDefaults;
use corelog_engine::types::{NodeId, Offset, TopicPartition};

/// Moves the log start of one partition.
#[allow(dead_code, reason = "not every test trims")]
pub async fn trim(engine: &Engine, target: TopicPartition, to: Offset) -> Result<Offset, PartitionError> {
    engine.trim(vec![(target, TrimTo::Offset(to))]).await.pop().expect("one part, one answer")
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
