//! Log compaction: of each key's records only the newest stays, at its offset.
//!
//! A round maps the keys of a log's dirty part ([`keys`]), as far as memory allows, and then
//! goes over the log's closed segments from the oldest on, judging each batch with that map
//! ([`retain`]). Which part is dirty, whether a round is due, and which segments become one is
//! [`choose`]'s. All three are pure: no file, no clock, no randomness. [`look`] finds out what they
//! have to know, [`source`] reads batches for them, [`round`] goes through a log with them, and
//! [`swap`] puts what it wrote in the place of what it read; [`pace`] says how fast.
//!
//! A record goes only when the map holds a newer one of its key, or, if it is a tombstone, when
//! its time has passed. Both need that what is older went before: segments are rewritten in
//! order, and nothing is left behind for being little.

pub mod choose;
pub mod keys;
pub mod look;
pub mod pace;
pub mod retain;
pub mod round;
pub mod source;
pub mod swap;

use crate::types::Offset;

/// What a partition's stored state says of the replacements of its segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swaps {
    /// Generation of the last replacement that was committed; 0 for none. They are counted, and a
    /// committed one's is never used again.
    pub generation: u64,
    /// What that replacement replaces, unless it is known to be finished.
    pub pending: Option<PendingSwap>,
}

/// A committed replacement, whose file may still have its temporary name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingSwap {
    /// Base offset of the replacement, and of the first segment that it replaces.
    pub base: Offset,
    /// Where the first segment begins that it does not replace.
    pub end: Offset,
}
