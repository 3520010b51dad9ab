//! Reading: batches from the tail in memory or from segments, offsets, and watching for more.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use corelog_protocol::batch::{BatchHeader, BatchRef, first_record_at_or_after};
use corelog_runtime::task::{self, Class};
use corelog_runtime::time::Instant;
use tokio::sync::Notify;

use super::stages::Source;
use super::{PartitionCell, Shard};
use crate::api::{EpochEnd, FetchOutcome, FetchPart, Fetched, FoundOffset, OffsetQuery, PartitionError};
use crate::log::{LogError, RecordsRead};
use crate::partition::{Partition, WatchId};
use crate::types::{LeaderEpoch, Offset, TopicPartition};

/// Bound on what one batch may decompress to when a timestamp is looked up.
const DECOMPRESSED_BYTES_MAX: usize = 128 * 1024 * 1024;

/// So often a look at segments begins anew when retention or a truncation took them away meanwhile.
const LOOKS_MAX: usize = 4;

const NO_RECORD: FoundOffset = FoundOffset { offset: Offset(-1), timestamp_ms: -1, leader_epoch: None };

/// Wakes its owner when one of the watched partitions changes. Dropping it ends the watch.
pub struct Watch {
    id: WatchId,
    shard: Weak<Shard>,
    targets: RefCell<Vec<TopicPartition>>,
    notify: Rc<Notify>,
}

impl Watch {
    /// Resolves when a watched partition has more than its watcher had seen, or went away.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(shard) = self.shard.upgrade() else { return };
        let partitions = shard.partitions.borrow();
        for target in self.targets.borrow().iter() {
            if let Some(cell) = partitions.get(target) {
                cell.borrow_mut().unwatch(self.id);
            }
        }
    }
}

impl Shard {
    /// Reads what is there now; never waits for records. The budget is given out in the order of
    /// `parts`; the first batch found is returned whatever its size.
    pub async fn read(&self, parts: &[FetchPart], max_bytes: usize) -> Vec<FetchOutcome> {
        let mut outcomes = Vec::with_capacity(parts.len());
        let mut left = max_bytes;
        let mut nothing_yet = true;
        for part in parts {
            let max_bytes = left.min(part.max_bytes);
            let look = || self.read_one(part, max_bytes, nothing_yet);
            let outcome = again_if_changed(look).await;
            if let Ok(fetched) = &outcome {
                let size: usize = fetched.batches.iter().map(Bytes::len).sum();
                left = left.saturating_sub(size);
                nothing_yet &= size == 0;
            }
            outcomes.push(outcome);
        }
        outcomes
    }

    async fn read_one(&self, part: &FetchPart, max_bytes: usize, at_least_one: bool) -> FetchOutcome {
        let cell = self.serving(&part.target, part.current_leader_epoch)?;
        let (mut fetched, cold) = {
            let partition = cell.borrow();
            let (log_start_offset, high_watermark) = (partition.log_start(), partition.high_watermark());
            if part.offset < log_start_offset || part.offset > partition.log_end() {
                return Err(PartitionError::OffsetOutOfRange { log_start_offset, high_watermark });
            }
            let mut fetched = Fetched {
                high_watermark,
                last_stable_offset: partition.last_stable_offset(),
                log_start_offset,
                batches: Vec::new(),
            };
            let cold = cold_range(&partition, part.offset);
            if cold.is_none() {
                read_tail(
                    &partition,
                    part.offset..high_watermark,
                    max_bytes,
                    at_least_one,
                    &mut fetched.batches,
                );
                self.stages.read(Source::Memory, &fetched.batches);
            }
            (fetched, cold)
        };
        if let Some(upto) = cold
            && (max_bytes > 0 || at_least_one)
        {
            let began = Instant::now();
            let found = self.read_cold(&cell, part.offset, upto, max_bytes, at_least_one).await?;
            self.stages.segment_read.record_since(began);
            self.stages.read(Source::Segments, &found.batches);
            fetched.batches = found.batches;
            if let Some(filler) = found.filler {
                read_behind(&cell.borrow(), filler, max_bytes, at_least_one, &mut fetched);
                self.stages.read(Source::Memory, &fetched.batches);
            }
        }
        Ok(fetched)
    }

    /// Reads from segments, in the I/O class that does not disturb the tail.
    async fn read_cold(
        &self,
        cell: &PartitionCell,
        from: Offset,
        upto: Offset,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<RecordsRead, PartitionError> {
        let log = Rc::clone(cell.borrow().log());
        let read = async move { log.read_records(from, upto, max_bytes, at_least_one).await };
        let found = task::spawn_join(Class::Read, read).await;
        found.map_err(|error| self.read_failed(cell.borrow().target(), &error))
    }

    /// Clients repeat what failed, so that the log has only some of the lines.
    fn read_failed(&self, target: TopicPartition, error: &LogError) -> PartitionError {
        if error.is_stale() {
            return PartitionError::Changed;
        }
        if matches!(error, LogError::Deleted) {
            return PartitionError::UnknownPartition;
        }
        if let Some(unsaid) = self.read_errors.pass() {
            tracing::error!(partition = %target, %error, unsaid, "segment read failed");
        }
        match error {
            LogError::Corrupt { .. } => PartitionError::Corrupt(error.to_string()),
            _ => PartitionError::Offline(error.to_string()),
        }
    }

    /// Watches partitions for records beyond the offsets given. It has changed already when one of
    /// them has more, or cannot be read at all.
    pub fn watch(self: &Rc<Self>, seen: &[(TopicPartition, Offset)]) -> Watch {
        let id = self.next_watch.replace(self.next_watch.get() + 1);
        let notify = Rc::new(Notify::new());
        let mut targets = Vec::with_capacity(seen.len());
        for (target, high_watermark) in seen {
            match self.serving(target, None) {
                Ok(cell) => {
                    let mut partition = cell.borrow_mut();
                    if partition.high_watermark() > *high_watermark {
                        notify.notify_one();
                    }
                    partition.watch(id, Rc::clone(&notify));
                    targets.push(*target);
                }
                Err(_) => notify.notify_one(),
            }
        }
        Watch { id, shard: Rc::downgrade(self), targets: RefCell::new(targets), notify }
    }

    /// Answers ListOffsets for one partition.
    ///
    /// # Errors
    /// See [`PartitionError`].
    pub async fn list_offset(
        &self,
        target: TopicPartition,
        current: Option<LeaderEpoch>,
        query: OffsetQuery,
    ) -> Result<FoundOffset, PartitionError> {
        again_if_changed(|| self.list_offset_once(target, current, query)).await
    }

    async fn list_offset_once(
        &self,
        target: TopicPartition,
        current: Option<LeaderEpoch>,
        query: OffsetQuery,
    ) -> Result<FoundOffset, PartitionError> {
        let cell = self.serving(&target, current)?;
        let at = |offset: Offset, timestamp_ms: i64| FoundOffset {
            offset,
            timestamp_ms,
            leader_epoch: cell.borrow().epoch_at(offset),
        };
        let (log_start, end, lso) = {
            let partition = cell.borrow();
            (partition.log_start(), partition.high_watermark(), partition.last_stable_offset())
        };
        match query {
            OffsetQuery::Latest { read_committed } => {
                let offset = if read_committed { lso } else { end };
                // The epoch of the end is that of the last record before it.
                let leader_epoch = cell.borrow().epoch_at(Offset(offset.0 - 1));
                Ok(FoundOffset { offset, timestamp_ms: -1, leader_epoch })
            }
            OffsetQuery::Earliest => Ok(at(log_start, -1)),
            OffsetQuery::AtTimestamp(timestamp_ms) => {
                let found = self.find_time(&cell, timestamp_ms, log_start, end).await?;
                Ok(found.map_or(NO_RECORD, |(offset, timestamp_ms)| at(offset, timestamp_ms)))
            }
            OffsetQuery::MaxTimestamp => {
                let found = self.find_max_timestamp(&cell, log_start, end).await?;
                Ok(found.map_or(NO_RECORD, |(offset, timestamp_ms)| at(offset, timestamp_ms)))
            }
        }
    }

    /// The first record in `log_start..end` at or after a time.
    async fn find_time(
        &self,
        cell: &PartitionCell,
        timestamp_ms: i64,
        log_start: Offset,
        end: Offset,
    ) -> Result<Option<(Offset, i64)>, PartitionError> {
        let (log, flushed_to, target) = parts(cell);
        if flushed_to > log_start {
            let in_segments = log.offset_for_time(timestamp_ms).await;
            if let Some(found) = in_segments.map_err(|error| self.read_failed(target, &error))? {
                return Ok(Some(found).filter(|(offset, _)| (log_start..end).contains(offset)));
            }
        }
        let partition = cell.borrow();
        let mut scratch = self.scratch.borrow_mut();
        for batch in partition.tail().read(flushed_to.max(log_start), end) {
            if batch.max_timestamp_ms < timestamp_ms {
                continue;
            }
            let view = BatchRef::parse(&batch.bytes).map_err(|error| corrupt(target, &error))?;
            let found = first_record_at_or_after(
                &view,
                timestamp_ms,
                log_start.0,
                DECOMPRESSED_BYTES_MAX,
                &mut scratch,
            );
            if let Some((offset, time)) = found.map_err(|error| corrupt(target, &error))? {
                return Ok(Some((Offset(offset), time)));
            }
        }
        Ok(None)
    }

    /// The first record in `log_start..end` that carries the largest timestamp.
    async fn find_max_timestamp(
        &self,
        cell: &PartitionCell,
        log_start: Offset,
        end: Offset,
    ) -> Result<Option<(Offset, i64)>, PartitionError> {
        let (log, flushed_to, target) = parts(cell);
        let mut largest = None;
        if flushed_to > log_start {
            let in_segments = log.max_timestamp().await;
            largest = in_segments.map_err(|error| self.read_failed(target, &error))?.map(|(time, _)| time);
        }
        let in_tail = cell
            .borrow()
            .tail()
            .read(flushed_to.max(log_start), end)
            .map(|batch| batch.max_timestamp_ms)
            .max();
        match largest.max(in_tail) {
            Some(time) if time >= 0 => self.find_time(cell, time, log_start, end).await,
            Some(_) | None => Ok(None),
        }
    }

    /// Answers OffsetForLeaderEpoch for one partition.
    ///
    /// # Errors
    /// See [`PartitionError`].
    pub fn epoch_end(
        &self,
        target: TopicPartition,
        current: Option<LeaderEpoch>,
        asked: LeaderEpoch,
    ) -> Result<EpochEnd, PartitionError> {
        Ok(self.serving(&target, current)?.borrow().epoch_end(asked))
    }
}

/// Looks again where what it looked at went away: by then the partition says what there is.
async fn again_if_changed<T, F>(look: impl Fn() -> F) -> Result<T, PartitionError>
where
    F: Future<Output = Result<T, PartitionError>>,
{
    let mut result = look().await;
    for _ in 1..LOOKS_MAX {
        if !matches!(result, Err(PartitionError::Changed)) {
            break;
        }
        result = look().await;
    }
    result
}

/// Up to where a read at `from` has to go to the segments, if it has to.
fn cold_range(partition: &Partition, from: Offset) -> Option<Offset> {
    let first = partition.tail().first().unwrap_or_else(|| partition.log_end());
    (from < first).then_some(first)
}

/// Reads on behind the fillers that the segments ended with. When there is nothing yet, the last
/// filler is the answer: without it the client would ask for the same offset for ever.
fn read_behind(
    partition: &Partition,
    filler: Bytes,
    max_bytes: usize,
    at_least_one: bool,
    fetched: &mut Fetched,
) {
    let header = BatchHeader::parse(&filler).expect("a filler that was read has a header");
    let from = Offset(header.next_offset());
    if cold_range(partition, from).is_none() {
        read_tail(partition, from..fetched.high_watermark, max_bytes, at_least_one, &mut fetched.batches);
    }
    if fetched.batches.is_empty() && (at_least_one || filler.len() <= max_bytes) {
        fetched.batches.push(filler);
    }
}

fn read_tail(
    partition: &Partition,
    offsets: Range<Offset>,
    max_bytes: usize,
    at_least_one: bool,
    batches: &mut Vec<Bytes>,
) {
    let mut left = max_bytes;
    for batch in partition.tail().read(offsets.start, offsets.end) {
        let size = batch.bytes.len();
        if size > left && !(at_least_one && batches.is_empty()) {
            return;
        }
        left = left.saturating_sub(size);
        batches.push(batch.bytes.clone());
    }
}

fn parts(cell: &PartitionCell) -> (Rc<crate::log::SegmentLog>, Offset, TopicPartition) {
    let partition = cell.borrow();
    (Rc::clone(partition.log()), partition.position().next, partition.target())
}

fn corrupt(target: TopicPartition, error: &dyn std::error::Error) -> PartitionError {
    tracing::error!(partition = %target, %error, "a batch in memory is unreadable");
    PartitionError::Corrupt(error.to_string())
}
