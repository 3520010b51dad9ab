//! What a shard tells of itself, for metrics and descriptions.

use super::Shard;

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
    /// Records in memory, bytes.
    pub tail_bytes: usize,
    /// Of these, what only the journal holds.
    pub unflushed_bytes: usize,
    /// Journal files that count.
    pub journal_files: usize,
    /// Appended and not yet written to the journal, bytes.
    pub journal_queued_bytes: usize,
    /// Produces that wait for room.
    pub produces_parked: usize,
    /// Entries ever appended to the journal.
    pub journal_entries: u64,
    /// Why the shard serves nothing, if so.
    pub fault: Option<String>,
}

impl Shard {
    /// The numbers as of now.
    pub fn stats(&self) -> ShardStats {
        let partitions = self.partitions.borrow();
        ShardStats {
            shard: self.index,
            partitions: partitions.len(),
            partitions_offline: partitions.values().filter(|cell| cell.borrow().offline().is_some()).count(),
            strays: self.strays.borrow().len(),
            tail_bytes: self.tail_bytes.get(),
            unflushed_bytes: self.unflushed_bytes.get(),
            journal_files: self.journal.files_live(),
            journal_queued_bytes: self.journal.queued_bytes(),
            produces_parked: self.parked.borrow().len(),
            journal_entries: self.journal.last_appended().map_or(0, |lsn| lsn.0),
            fault: self.fault(),
        }
    }
}
