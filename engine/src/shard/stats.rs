//! What a shard tells of itself, for metrics and health.

use super::{CleanerStats, RetentionStats, Shard, StageStats};
use crate::journal::{JournalFull, JournalStats};

/// Memory for one purpose, against what may be used for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// In use, bytes.
    pub bytes: usize,
    /// At so many bytes something gives way, or waits.
    pub budget_bytes: usize,
}

/// What a shard's group coordinators have and had to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupStats {
    /// Groups.
    pub groups: usize,
    /// Coordinators that are not loaded yet, or again.
    pub loading: usize,
    /// Requests that reached a coordinator.
    pub requests: u64,
}

/// A shard's numbers at one moment.
#[derive(Debug, Clone, Default)]
pub struct ShardStats {
    /// Which shard.
    pub shard: usize,
    /// Partitions in service.
    pub partitions: usize,
    /// Partitions that are offline.
    pub partitions_offline: usize,
    /// Partitions that no topic claims.
    pub strays: usize,
    /// Batches in memory that segments hold too.
    pub tail_cache: MemoryUse,
    /// Batches in memory that only the journal holds: the backlog of writing segments.
    pub unflushed: MemoryUse,
    /// What is queued for the journal.
    pub journal_queue: MemoryUse,
    /// Partitions that wait for a flush.
    pub flush_queue: usize,
    /// Segment files held open.
    pub open_files: usize,
    /// At so many the least recently used are closed.
    pub open_files_max: usize,
    /// Produces that wait for room.
    pub produces_parked: usize,
    /// Messages to other shards that these have not taken yet.
    pub mesh_queued: usize,
    /// Bytes of segment files, as far as somebody looked which ones there are.
    pub segment_bytes: u64,
    /// What retention deleted.
    pub retention: RetentionStats,
    /// What compaction did.
    pub cleaner: CleanerStats,
    /// Consumer groups.
    pub groups: GroupStats,
    /// The journal's numbers.
    pub journal: JournalStats,
    /// What passed through, and how long that took.
    pub stages: StageStats,
    /// Why the shard serves nothing, if so.
    pub fault: Option<String>,
}

impl Shard {
    /// The numbers as of now; those of the mesh are not the shard's to know.
    pub fn stats(&self) -> ShardStats {
        let partitions = self.partitions.borrow();
        let mut journal = self.journal.stats();
        if self.is_disk_full() && !self.is_journal_held.get() {
            // Segments that find no space fill the journal up, too.
            journal.full = Some(JournalFull::Disk);
        }
        let unflushed_bytes = self.unflushed_bytes.get();
        ShardStats {
            shard: self.index,
            partitions: partitions.len(),
            partitions_offline: partitions.values().filter(|cell| cell.borrow().offline().is_some()).count(),
            strays: self.strays.borrow().len(),
            tail_cache: MemoryUse {
                bytes: self.tail_bytes.get().saturating_sub(unflushed_bytes),
                budget_bytes: self.options.tail_cache_bytes,
            },
            unflushed: MemoryUse { bytes: unflushed_bytes, budget_bytes: self.options.unflushed_bytes_max },
            journal_queue: MemoryUse {
                bytes: journal.queued_bytes,
                budget_bytes: self.options.journal_queue_bytes_max,
            },
            flush_queue: self.flush_queue.borrow().len(),
            open_files: self.files.open_files(),
            open_files_max: self.options.open_files_max,
            produces_parked: self.parked.borrow().len(),
            mesh_queued: 0,
            segment_bytes: partitions.values().map(|cell| cell.borrow().log().size_bytes()).sum(),
            retention: self.retention.stats(),
            cleaner: self.cleaner.stats(),
            groups: self.group_stats(),
            journal,
            stages: self.stages.stats(),
            fault: self.fault(),
        }
    }
}
