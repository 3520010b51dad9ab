//! What can go wrong with a partition's segments, and where exactly.

use std::io;
use std::path::{Path, PathBuf};

use corelog_protocol::batch::BatchError;

use crate::types::{LeaderEpoch, Offset};

/// Why an operation on a log failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system said no. A full disk is one of these: see [`LogError::is_disk_full`].
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Bytes that count as synced are not what was written. They are never served.
    #[error(transparent)]
    Corrupt(#[from] Box<Corruption>),
    /// The offset is below the log start, or deleted while it was being read.
    #[error("offset {wanted} is out of range: the log starts at {log_start}")]
    OutOfRange {
        /// The offset asked for.
        wanted: Offset,
        /// The first offset that there is.
        log_start: Offset,
    },
    /// The log was deleted.
    #[error("the partition's log was deleted")]
    Deleted,
    /// The log was truncated while it was being read, or compaction replaced what was being read:
    /// nothing read before counts.
    #[error("the partition's log was truncated or compacted meanwhile")]
    Truncated,
    /// A sync failed earlier. What is on disk since then is unknown, and a repeated sync would
    /// report success for data that is gone, so nothing more is written in this run.
    #[error("an earlier sync of this log failed; it takes no more writes until a restart")]
    Fenced,
}

impl LogError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// Whether what was to be read went away meanwhile, as retention and truncation do: another look
    /// finds what there is now.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::OutOfRange { .. } | Self::Truncated)
    }

    /// Whether there was no space left: the operation may be repeated later.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// A place in a segment whose bytes are wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("corrupt segment {} at byte {position_bytes} (offset {offset}): {reason}", path.display())]
pub struct Corruption {
    /// The segment file.
    pub path: PathBuf,
    /// Where in the file.
    pub position_bytes: u64,
    /// The offset that is expected there.
    pub offset: Offset,
    /// What is wrong.
    pub reason: CorruptReason,
}

/// What is wrong with some bytes of a segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CorruptReason {
    /// Not the header of a record batch, or an impossible length.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The batch would not fit into what is left of the segment.
    #[error("a batch of {needed} bytes where only {available} are left")]
    TooLong {
        /// Size of the batch by its header.
        needed: u64,
        /// Bytes up to the end of what is synced, or of the file.
        available: u64,
    },
    /// The checksum is not that of the bytes.
    #[error("the batch's checksum does not match")]
    Checksum,
    /// A valid batch, but not the one that belongs there.
    #[error("the batch begins at offset {found}")]
    Offset {
        /// The base offset found.
        found: Offset,
    },
    /// The batch ends beyond where the next segment begins, or before its own beginning.
    #[error("the batch ends at offset {found}, the segment at {end}")]
    End {
        /// One past the batch's last offset.
        found: Offset,
        /// Where the segment ends.
        end: Offset,
    },
    /// The leader epoch contradicts the batches before it or what the partition knows.
    #[error("leader epoch {found}, expected {expected}")]
    LeaderEpoch {
        /// The epoch in the batch.
        found: LeaderEpoch,
        /// The epoch that is right there, or the smallest possible one.
        expected: LeaderEpoch,
    },
    /// The records inside a batch with a valid checksum do not parse.
    #[error("the records of the batch do not parse: {0}")]
    Records(BatchError),
    /// The file's header block.
    #[error("segment header: {0}")]
    Header(#[from] super::header::HeaderError),
    /// The file is shorter than the synced position, or than its batches.
    #[error("the file ends at byte {len}")]
    Short {
        /// Its length.
        len: u64,
    },
    /// No file holds the offset although it counts as synced.
    #[error("there is no segment file for this offset")]
    Missing,
}
