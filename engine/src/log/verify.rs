//! Reads a partition's directory offline, for `corelog dump` and `corelog verify`: every segment,
//! every batch with its position and a verdict, through the same checks as a read. Changes nothing.
//!
//! How much of the newest segment counts, only the journal's checkpoint knows. Without it, bytes
//! behind the last good batch of the newest segment are reported as a tail and not as damage.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use corelog_protocol::batch::BatchHeader;
use corelog_runtime::fs::{BLOCK_BYTES, File, OpenMode};

use super::SegmentPosition;
use super::clean::Swaps;
use super::error::{CorruptReason, LogError};
use super::files::OpenSegment;
use super::header::{HEADER_BYTES, HeaderError, SegmentHeader};
use super::index::{Entry, MaxTimestamp};
use super::read::{Bounds, Reader};
use super::segments::{cleaned_path, list, segment_path};
use crate::types::{LeaderEpoch, Offset, TopicPartition};

/// A segment file as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSegment {
    /// The file.
    pub path: PathBuf,
    /// Base offset by its name.
    pub base: Offset,
    /// Its length.
    pub len: u64,
    /// What its header block says, or what is wrong with it.
    pub header: Result<SegmentHeader, HeaderError>,
    /// Where it ends: where the next one begins, or by the checkpoint. Nothing for the newest
    /// segment without a checkpoint.
    pub end: Option<Offset>,
    /// By the checkpoint it does not count: left over from an unfinished flush.
    pub is_left_over: bool,
    /// How many bytes count by the checkpoint; else all.
    synced_bytes: u64,
}

/// Something in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A batch.
    Batch {
        /// Where it begins in the file.
        position_bytes: u64,
        /// Its header.
        header: BatchHeader,
        /// What is wrong with it, if anything.
        problem: Option<CorruptReason>,
    },
    /// Bytes behind the segment's last batch, which do not count: the padding of a closed
    /// segment, what a truncation cut off, or what is not synced yet.
    Rest {
        /// Where they begin.
        position_bytes: u64,
        /// How many.
        bytes: u64,
    },
    /// The newest segment holds no further whole, valid batch here; without the checkpoint nobody
    /// can tell whether there should be one.
    Tail {
        /// Where it begins.
        position_bytes: u64,
        /// How many bytes.
        bytes: u64,
        /// Why it is not a batch.
        reason: CorruptReason,
    },
    /// Synced bytes that are not the batch that belongs there. What follows cannot be found.
    Damage {
        /// Where it begins.
        position_bytes: u64,
        /// How many bytes, up to the end of the file.
        bytes: u64,
        /// The offset that is expected there.
        offset: Offset,
        /// What is wrong.
        reason: CorruptReason,
    },
}

impl Found {
    /// Whether this is damage.
    pub fn is_problem(&self) -> bool {
        matches!(self, Self::Batch { problem: Some(_), .. } | Self::Damage { .. })
    }
}

/// The segments of a partition's directory, in order. `target` is checked where it is known, and
/// `at` is the checkpoint's position, `swaps` what it says of replacements by compaction: of one that
/// is pending, the file is looked at that counts.
///
/// # Errors
/// I/O errors.
pub async fn segments(
    dir: &Path,
    target: Option<TopicPartition>,
    at: Option<SegmentPosition>,
    swaps: Swaps,
) -> Result<Vec<FoundSegment>, LogError> {
    let mut listing = list(dir).await.map_err(LogError::io("listing", dir))?;
    let replaced = swaps.pending.map(|pending| pending.base.plus(1)..pending.end);
    let is_replaced = |base: &Offset| replaced.as_ref().is_some_and(|replaced| replaced.contains(base));
    let cleaned = match swaps.pending.filter(|pending| listing.cleaned.contains(&pending.base)) {
        Some(pending) => counting(dir, pending.base, swaps.generation).await?,
        None => None,
    };
    // It may be all that is left.
    listing.segments.extend(cleaned.as_ref().map(|(base, _, len)| (*base, *len)));
    let bases: Vec<_> = listing.segments.keys().copied().filter(|base| !is_replaced(base)).collect();
    let mut found = Vec::with_capacity(bases.len());
    for (base, len) in listing.segments {
        let path = match &cleaned {
            Some((at, path, _)) if *at == base => path.clone(),
            _ => segment_path(dir, base),
        };
        let (block, _) = read_header(&path).await?;
        let header = SegmentHeader::decode(&block)
            .and_then(|header| header.check(target.unwrap_or(header.target), base).map(|()| header));
        let next = bases.iter().copied().find(|next| *next > base);
        let (end, synced_bytes, is_left_over) = match at {
            _ if is_replaced(&base) => (None, 0, true),
            None => (next, len, false),
            Some(at) if base < at.segment_base => {
                (Some(next.map_or(at.segment_base, |next| next.min(at.segment_base))), len, false)
            }
            Some(at) if base == at.segment_base && at.position_bytes > HEADER_BYTES => {
                (Some(at.next), at.position_bytes, false)
            }
            Some(_) => (None, 0, true),
        };
        found.push(FoundSegment { path, base, len, header, end, is_left_over, synced_bytes });
    }
    Ok(found)
}

/// The file that is to take the place of the segment at `base`, and its length, if it was committed:
/// one of another generation was not.
async fn counting(
    dir: &Path,
    base: Offset,
    generation: u64,
) -> Result<Option<(Offset, PathBuf, u64)>, LogError> {
    let path = cleaned_path(dir, base);
    let (block, len) = read_header(&path).await?;
    let header = SegmentHeader::decode(&block);
    Ok(header.is_ok_and(|header| header.generation() == generation).then_some((base, path, len)))
}

/// A file's first block, and its length.
async fn read_header(path: &Path) -> Result<(Bytes, u64), LogError> {
    let file = File::open(path, OpenMode::Read).await.map_err(LogError::io("opening", path))?;
    let block = file.read_at(0, BLOCK_BYTES).await.map_err(LogError::io("reading", path))?;
    let len = file.len().await.map_err(LogError::io("reading the length of", path))?;
    file.close().await.map_err(LogError::io("closing", path))?;
    Ok((block, len))
}

/// Walks through one segment.
pub struct SegmentScan {
    reader: Reader,
    bounds: Bounds,
    len: u64,
    is_newest: bool,
    is_over: bool,
}

impl SegmentScan {
    /// Begins at the segment's first batch, whatever its header block is like.
    ///
    /// # Errors
    /// I/O errors.
    pub async fn open(found: &FoundSegment) -> Result<Self, LogError> {
        let file = File::open(&found.path, OpenMode::Read).await;
        let file = file.map_err(LogError::io("opening", &found.path))?;
        let unknown = SegmentHeader {
            target: TopicPartition::default(),
            leader_epoch: LeaderEpoch(i32::MIN),
            base_offset: found.base,
            created_ms: 0,
            replaces: None,
        };
        let header = found.header.clone().unwrap_or(unknown);
        let segment = Rc::new(OpenSegment::new(&found.path, file, header));
        let first =
            Entry { offset: found.base, position_bytes: HEADER_BYTES, max_before: MaxTimestamp::NONE };
        let is_newest = found.end.is_none();
        let bounds = Bounds {
            end: found.end.unwrap_or(Offset(i64::MAX)),
            file_bytes: if is_newest { found.len } else { found.synced_bytes },
        };
        let reader = Reader::new(segment, first);
        Ok(Self { reader, bounds, len: found.len, is_newest, is_over: false })
    }

    /// What comes next; nothing at the end of the file.
    ///
    /// # Errors
    /// I/O errors. Damage is not an error here but something found.
    pub async fn next(&mut self) -> Result<Option<Found>, LogError> {
        if self.is_over {
            return Ok(None);
        }
        let peeked = self.reader.peek(self.bounds).await;
        let position_bytes = self.reader.position_bytes();
        let bytes = self.len.saturating_sub(position_bytes);
        let reason = match peeked {
            Ok(Some(header)) => return self.batch(position_bytes, header).await.map(Some),
            Ok(None) => {
                self.is_over = true;
                return Ok((bytes > 0).then_some(Found::Rest { position_bytes, bytes }));
            }
            Err(LogError::Corrupt(corruption)) => corruption.reason,
            Err(error) => return Err(error),
        };
        self.is_over = true;
        if bytes == 0 && self.is_newest {
            return Ok(None);
        }
        Ok(Some(if self.is_newest {
            Found::Tail { position_bytes, bytes, reason }
        } else {
            Found::Damage { position_bytes, bytes, offset: self.reader.offset(), reason }
        }))
    }

    async fn batch(&mut self, position_bytes: u64, header: BatchHeader) -> Result<Found, LogError> {
        match self.reader.take(&header, self.bounds).await {
            Ok(_) => Ok(Found::Batch { position_bytes, header, problem: None }),
            Err(LogError::Corrupt(corruption)) => {
                // Its length may still be right: then the next batch is found behind it.
                self.reader.skip(&header);
                Ok(Found::Batch { position_bytes, header, problem: Some(corruption.reason) })
            }
            Err(error) => Err(error),
        }
    }
}
