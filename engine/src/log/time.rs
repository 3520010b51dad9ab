//! Looks timestamps up. Producers set them, so they are in no order: an index entry holds the
//! largest timestamp before it, which is in order, and the records of a batch decide.

use std::rc::Rc;

use bytes::Bytes;
use corelog_protocol::batch::{BatchError, BatchRef, Scratch, first_record_at_or_after};

use super::error::{CorruptReason, LogError};
use super::files::OpenSegment;
use super::index::{Entry, MaxTimestamp};
use super::load::Loaded;
use super::plan::BatchPlace;
use super::read::Reader;
use super::segments::Inner;
use crate::types::Offset;

/// A batch's records are decompressed up to this size, far beyond what a produce may contain.
const RECORDS_BYTES_MAX: usize = 1 << 30;

impl Inner {
    pub(super) async fn offset_for_time(&self, timestamp_ms: i64) -> Result<Option<(Offset, i64)>, LogError> {
        self.ensure_listed().await?;
        let (log_start, truncations, replaced) = self.start_of_search();
        for base in self.bases_from(log_start) {
            self.check_bases(replaced)?;
            let Some(segment) = self.segment_with(base, timestamp_ms).await? else {
                continue;
            };
            let Some(from) =
                self.with_index(&segment, |loaded| search_from(loaded, timestamp_ms, log_start)).await??
            else {
                continue;
            };
            let found = self.first_record(segment, from, timestamp_ms, log_start).await?;
            self.check_untouched(truncations)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        self.check_bases(replaced)?;
        Ok(None)
    }

    fn start_of_search(&self) -> (Offset, u64, u64) {
        let state = self.state.borrow();
        (state.log_start, state.truncations, state.replaced)
    }

    /// Whether the segments are still those that a search began with: compaction may have moved what
    /// is not searched yet to one that is.
    fn check_bases(&self, replaced: u64) -> Result<(), LogError> {
        if self.state.borrow().replaced == replaced { Ok(()) } else { Err(LogError::Truncated) }
    }

    /// The segment, unless it is known to hold no timestamp so large, or is not there.
    async fn segment_with(
        &self,
        base: Offset,
        timestamp_ms: i64,
    ) -> Result<Option<Rc<OpenSegment>>, LogError> {
        if self.bounds(base).is_none_or(|bounds| bounds.end <= base) {
            return Ok(None);
        }
        let known = self.known_max(base);
        if known.is_some_and(|max| max.timestamp_ms < timestamp_ms) {
            return Ok(None);
        }
        match self.open(base).await {
            Ok(segment) => Ok(Some(segment)),
            // Deleted by retention just now.
            Err(LogError::OutOfRange { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn known_max(&self, base: Offset) -> Option<MaxTimestamp> {
        self.state.borrow().closed.as_ref()?.get(&base)?.max
    }

    async fn first_record(
        &self,
        segment: Rc<OpenSegment>,
        from: Entry,
        timestamp_ms: i64,
        log_start: Offset,
    ) -> Result<Option<(Offset, i64)>, LogError> {
        let mut reader = Reader::new(segment, from);
        let mut scratch = Scratch::new();
        while let Some((place, bytes)) = self.next_in_segment(&mut reader).await? {
            if place.indexed.timestamp_ms < timestamp_ms || place.indexed.next <= log_start {
                continue;
            }
            let found = BatchRef::parse(&bytes).and_then(|batch| {
                let (ts, from, max) = (timestamp_ms, log_start.0, RECORDS_BYTES_MAX);
                first_record_at_or_after(&batch, ts, from, max, &mut scratch)
            });
            if let Some((offset, timestamp)) = found.map_err(|error| bad(&reader, error))? {
                return Ok(Some((Offset(offset), timestamp)));
            }
        }
        Ok(None)
    }

    /// The reader's next batch, within its segment.
    async fn next_in_segment(&self, reader: &mut Reader) -> Result<Option<(BatchPlace, Bytes)>, LogError> {
        let Some(bounds) = self.bounds_of(reader.segment()) else {
            return Ok(None);
        };
        let Some(header) = reader.peek(bounds).await? else {
            return Ok(None);
        };
        let bytes = reader.take(&header, bounds).await?;
        Ok(Some((BatchPlace::of(&header), bytes)))
    }

    pub(super) async fn max_timestamp(&self) -> Result<Option<(i64, Offset)>, LogError> {
        self.ensure_listed().await?;
        let (log_start, truncations, replaced) = self.start_of_search();
        let mut best: Option<(i64, Offset)> = None;
        for base in self.bases_from(log_start) {
            self.check_bases(replaced)?;
            let least = best.map_or(0, |(timestamp_ms, _)| timestamp_ms.saturating_add(1));
            let Some(segment) = self.segment_with(base, least).await? else {
                continue;
            };
            let max = self.with_index(&segment, max_of).await??;
            if max.timestamp_ms < least {
                continue;
            }
            // The batch that has it, unless records below the log start are in the way: then
            // everything from there.
            let from = if max.batch_base < log_start { log_start } else { max.batch_base };
            let mut reader = self.seek(base, from).await?;
            while let Some((place, bytes)) = self.next_in_segment(&mut reader).await? {
                let least = best.map_or(-1, |(timestamp_ms, _)| timestamp_ms);
                if place.indexed.timestamp_ms > least {
                    let found = max_record(&bytes, log_start);
                    let found = found.map_err(|error| bad(&reader, error))?;
                    best = best.max_by_timestamp(found);
                }
                if best.is_some_and(|(timestamp_ms, _)| timestamp_ms >= max.timestamp_ms) {
                    break;
                }
            }
            self.check_untouched(truncations)?;
        }
        self.check_bases(replaced)?;
        Ok(best)
    }
}

/// Where in a segment a search begins; nothing when the segment has no timestamp so large.
fn search_from(loaded: &Loaded, timestamp_ms: i64, log_start: Offset) -> Result<Option<Entry>, LogError> {
    let start = loaded.index.before_offset(log_start);
    match (loaded.index.before_time(timestamp_ms), &loaded.broken) {
        (Some(entry), _) if entry.offset < start.offset => Ok(Some(start)),
        (Some(entry), _) => Ok(Some(entry)),
        (None, Some(corruption)) => Err(corruption.clone().into()),
        (None, None) => Ok(None),
    }
}

fn max_of(loaded: &Loaded) -> Result<MaxTimestamp, LogError> {
    match &loaded.broken {
        Some(corruption) => Err(corruption.clone().into()),
        None => Ok(loaded.index.covered().max_before),
    }
}

/// The largest timestamp of the batch's records from `from` on, and the first that has it.
fn max_record(bytes: &[u8], from: Offset) -> Result<Option<(i64, Offset)>, BatchError> {
    let batch = BatchRef::parse(bytes)?;
    let mut scratch = Scratch::new();
    let mut best = None;
    for record in batch.records(&mut scratch, RECORDS_BYTES_MAX)? {
        let record = record?;
        let offset = Offset(batch.header.base_offset).plus(i64::from(record.offset_delta));
        if offset >= from {
            let timestamp = batch.header.record_timestamp(record.timestamp_delta);
            best = best.max_by_timestamp(Some((timestamp, offset)));
        }
    }
    Ok(best.filter(|(timestamp, _)| *timestamp >= 0))
}

fn bad(reader: &Reader, error: BatchError) -> LogError {
    reader.corrupt(CorruptReason::Records(error))
}

trait MaxByTimestamp {
    /// The one with the larger timestamp, the earlier one of equals.
    fn max_by_timestamp(self, later: Self) -> Self;
}

impl MaxByTimestamp for Option<(i64, Offset)> {
    fn max_by_timestamp(self, later: Self) -> Self {
        match (self, later) {
            (Some(earlier), Some(later)) if later.0 > earlier.0 => Some(later),
            (None, later) => later,
            (earlier, _) => earlier,
        }
    }
}
