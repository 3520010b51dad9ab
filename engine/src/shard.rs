//! What a shard tells of itself, for metrics and descriptions.


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

