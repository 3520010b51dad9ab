//! The node that simulated tests run.

use std::path::PathBuf;

use corelog_engine::engine::EngineOptions;
use corelog_engine::journal::JournalOptions;
use corelog_engine::meta::MetaOptions;
use corelog_engine::planted::PlantedBug;
use corelog_engine::shard::ShardOptions;
use corelog_engine::topic_config::NodeDefaults;
use corelog_engine::types::NodeId;

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
