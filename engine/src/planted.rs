//! Bugs that the crash test plants to prove that it would find them.
//!
//! Without the `planted-bugs` feature (only this crate's own tests have it) every question is
//! answered `false` at compile time, so none of them can be in a released binary.

/// A mistake that a storage engine could have made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Acknowledge when the journal write was submitted, before its sync.
    AckBeforeSync,
    /// Never sync the journal.
    NoSync,
    /// Replay accepts commits of an older use of a recycled file.
    GenerationIgnored,
    /// After replay the shard goes on appending to the old run's file.
    TailReused,
    /// The checkpoint is journalled before the segment it names is synced.
    CheckpointBeforeSync,
    /// The checkpoint forgets the producers' state.
    ProducerStateLost,
    /// Replay skips truncate-to, log-start and delete-partition entries.
    TruncationNotReplayed,
    /// Retention removes segments before the log start and the position behind them are synced.
    DeleteBelowBeforeCheckpoint,
    /// Compaction's replacement counts before its name in the directory is synced.
    SwapBeforeDirSync,
    /// After a crash a committed replacement is not finished.
    SwapNotRedone,
    /// Compaction removes segments before the state is synced that replaces them.
    UnlinkBeforeCommit,
    /// Compaction rewrites the newest segments first.
    GroupsNewestFirst,
    /// Compaction judges records by a map that they are not in.
    MappedPastTheMap,
    /// Compaction removes a tombstone in the first round that meets it.
    TombstoneAtOnce,
}

/// Which mistake, if any, this engine makes on purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlantedBug(Option<Planted>);

impl PlantedBug {
    /// An engine without planted bugs.
    pub const NONE: Self = Self(None);

    /// Plants `bug`.
    #[cfg(feature = "planted-bugs")]
    pub const fn plant(bug: Planted) -> Self {
        Self(Some(bug))
    }

    /// Whether `bug` is planted.
    pub fn has(self, bug: Planted) -> bool {
        cfg!(feature = "planted-bugs") && self.0 == Some(bug)
    }
}
