//! The steps of a round that read and write: mapping the dirty part, and rewriting a group.
//!
//! Runs on the shard that owns the log, in the class that disturbs nobody, a batch at a time: between
//! two of them others run, and the round may be told to end. Decides nothing: which part, which
//! groups and what stays is the business of the pure modules beside it. Makes nothing count: that
//! is the shard's, which stores the partition's state.

use std::rc::Rc;

use bytes::Bytes;
use corelog_protocol::batch::filter::FilterError;
use corelog_protocol::batch::{BatchHeader, BatchRef, Scratch};

use super::choose::Segment;
use super::keys::{KeyMap, Mapper, OutOfMemory};
use super::look::Cleanable;
use super::pace::Pace;
use super::retain::{Piece, Retention};
use super::source::ClosedBatches;
use super::swap::{Replacement, ReplacementWriter};
use crate::log::error::LogError;
use crate::log::segments::Inner;
use crate::types::Offset;

/// A batch's records are decompressed up to this size, far beyond what a produce may contain.
pub const RECORDS_BYTES_MAX: usize = 1 << 30;

/// Why a round ended early. Nothing is lost by that but its work.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// A segment cannot be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A batch's records cannot be read. Its segment, and what is behind it, stays as it is.
    #[error("the records of the batch at offset {base} cannot be compacted: {reason}")]
    Records {
        /// Where the batch begins.
        base: Offset,
        /// What is wrong.
        reason: FilterError,
    },
    /// No memory for the keys.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// It was told to end.
    #[error("the round was told to end")]
    Ended,
    /// The log was truncated or deleted, or segments of it went.
    #[error("the log changed meanwhile")]
    Changed,
}

/// Maps the dirty part of a log, as far as there is room for its keys. Returns the map and the
/// first offset that is not in it.
pub(in crate::log) async fn map(
    log: &Rc<Inner>,
    cleanable: &Cleanable,
    keys_bytes: usize,
    hash_key: (u64, u64),
    pace: &mut Pace,
) -> Result<(KeyMap, Offset), CleanError> {
    let (from, upto) = (cleanable.dirt.first_dirty, cleanable.dirt.uncleanable);
    let offsets = usize::try_from(upto.0 - from.0).unwrap_or(usize::MAX).max(1);
    let keys_max = KeyMap::keys_within(keys_bytes).min(offsets);
    let mut mapper = Mapper::new(KeyMap::new(keys_max, from, hash_key)?);
    let mut scratch = Scratch::new();
    let is_dirty = |segment: &&Segment| segment.end > from && segment.base < upto;
    'mapped: for segment in cleanable.closed.iter().filter(is_dirty) {
        let mut batches = open(log, segment, cleanable.truncations).await?;
        while let Some(bytes) = batches.next().await? {
            pace.went(bytes.len()).await?;
            let batch = BatchRef::parse(&bytes).map_err(|error| unreadable(&bytes, error.into()))?;
            if batch.header.next_offset() <= from.0 {
                continue;
            }
            let added = mapper.add(&batch, &mut scratch, RECORDS_BYTES_MAX);
            if !added.map_err(|error| unreadable(&bytes, error.into()))? {
                break 'mapped;
            }
        }
    }
    Ok(mapper.finish())
}

/// Writes what `retention` leaves of a group of segments to a file that may take their place.
/// Nothing when it is one segment of which everything stays.
pub(in crate::log) async fn rewrite(
    log: &Rc<Inner>,
    group: &[Segment],
    truncations: u64,
    retention: &mut Retention,
    pace: &mut Pace,
) -> Result<Option<Replacement>, CleanError> {
    let mut to = Rewrite { log, group, truncations, writer: None, same_to: group[0].base };
    match to.run(retention, pace).await {
        Ok(()) => {}
        Err(error) => {
            if let Some(writer) = to.writer {
                writer.discard().await;
            }
            return Err(error);
        }
    }
    match to.writer {
        Some(writer) => Ok(Some(writer.close().await?)),
        None => Ok(None),
    }
}

struct Rewrite<'a> {
    log: &'a Rc<Inner>,
    group: &'a [Segment],
    truncations: u64,
    /// Once there is a reason to write.
    writer: Option<ReplacementWriter>,
    /// Up to here everything stays as it is, and was not written.
    same_to: Offset,
}

impl Rewrite<'_> {
    async fn run(&mut self, retention: &mut Retention, pace: &mut Pace) -> Result<(), CleanError> {
        if self.group.len() > 1 {
            self.begin(pace).await?;
        }
        let mut scratch = Scratch::new();
        let mut out = Vec::new();
        for segment in self.group {
            let mut batches = open(self.log, segment, self.truncations).await?;
            while let Some(bytes) = batches.next().await? {
                pace.went(bytes.len()).await?;
                let judged = retention.add(bytes.clone(), &mut scratch, &mut out);
                judged.map_err(|reason| unreadable(&bytes, reason))?;
                self.write(&mut out, pace).await?;
            }
        }
        retention.end_file(&mut out);
        self.write(&mut out, pace).await
    }

    async fn write(&mut self, pieces: &mut Vec<Piece>, pace: &mut Pace) -> Result<(), CleanError> {
        for piece in pieces.drain(..) {
            if self.writer.is_none() {
                if let Piece::Same(bytes) = &piece {
                    self.same_to = end_of(bytes);
                    continue;
                }
                self.begin(pace).await?;
            }
            let writer = self.writer.as_mut().expect("just begun");
            writer.push(piece.bytes()).await?;
            pace.went(piece.bytes().len()).await?;
        }
        Ok(())
    }

    /// Begins the file with what was found to stay.
    async fn begin(&mut self, pace: &mut Pace) -> Result<(), CleanError> {
        let log = Rc::clone(self.log);
        let writer = ReplacementWriter::create(log, self.group, self.truncations).await?;
        let writer = self.writer.insert(writer);
        let mut batches = open(self.log, &self.group[0], self.truncations).await?;
        let mut next = self.group[0].base;
        while next < self.same_to {
            let bytes = batches.next().await?.ok_or(CleanError::Changed)?;
            next = end_of(&bytes);
            writer.push(&bytes).await?;
            pace.went(2 * bytes.len()).await?;
        }
        Ok(())
    }
}

/// A segment that is still the one that was chosen.
async fn open(log: &Rc<Inner>, segment: &Segment, truncations: u64) -> Result<ClosedBatches, CleanError> {
    let batches = match ClosedBatches::open(Rc::clone(log), segment.base).await {
        Err(error) if error.is_stale() => return Err(CleanError::Changed),
        opened => opened?,
    };
    let is_same = log.state.borrow().truncations == truncations && batches.end() == segment.end;
    if is_same { Ok(batches) } else { Err(CleanError::Changed) }
}

fn end_of(batch: &Bytes) -> Offset {
    Offset(BatchHeader::parse(batch).expect("a batch that was read has a header").next_offset())
}

fn unreadable(batch: &Bytes, reason: FilterError) -> CleanError {
    let base = BatchHeader::parse(batch).map_or(Offset(-1), |header| Offset(header.base_offset));
    CleanError::Records { base, reason }
}

impl CleanError {
    /// Whether it is the data: the next round would fail in the same place.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Records { .. } | Self::Log(LogError::Corrupt(_)))
    }
}
