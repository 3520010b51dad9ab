//! Writing segments behind the journal.
//!
//! Only what was acknowledged goes to segments, so they never hold a record that a crash takes back.
//! A flush ends at a block, padded, and leaves nothing behind of what it was given.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use corelog_runtime::task::yield_now;
use corelog_runtime::time::{self, Instant};

use super::{PartitionCell, Shard};
use crate::journal::JournalFull;
use crate::log::{LogError, Roll};
use crate::partition::tail::TailBatch;

/// Flushes that may go on at a time: enough to keep the device busy while one of them syncs.
pub(super) const WORKERS: usize = 2;

/// How long a flush that found no space waits before it is tried again.
pub(super) const SPACE_RETRY: Duration = Duration::from_millis(500);

impl Shard {
    /// Puts a partition in the queue of the flush workers.
    pub(super) fn want_flush(&self, cell: PartitionCell) {
        let mut queue = self.flush_queue.borrow_mut();
        if queue.iter().any(|queued| Rc::ptr_eq(queued, &cell)) {
            return;
        }
        queue.push_back(cell);
        self.flush_wanted.notify_one();
    }

    /// Serves the flush queue for as long as the shard lives.
    pub(super) async fn flush_worker(self: Rc<Self>) {
        loop {
            let next = self.flush_queue.borrow_mut().pop_front();
            match next {
                Some(cell) => {
                    if let Err(error) = self.flush(&cell).await {
                        self.flush_failed(&cell, &error);
                        if error.is_disk_full() && !self.stopping.get() {
                            // Nobody tells when there is space again.
                            time::sleep(SPACE_RETRY).await;
                            self.want_flush(cell);
                        }
                    }
                    yield_now().await;
                }
                None if self.stopping.get() => return,
                None => self.flush_wanted.notified().await,
            }
        }
    }

    /// Writes a partition's acknowledged tail to its segments.
    pub(super) async fn flush(self: &Rc<Self>, cell: &PartitionCell) -> Result<(), LogError> {
        self.flush_and(cell, Roll::AsNeeded).await
    }

    /// As [`Shard::flush`], where nobody else does anything about a failure.
    pub(super) async fn flush_or_note(self: Rc<Self>, cell: PartitionCell) {
        if let Err(error) = self.flush(&cell).await {
            self.flush_failed(&cell, &error);
        }
    }

    /// As [`Shard::flush`]; may leave the partition without an active segment.
    pub(super) async fn flush_and(self: &Rc<Self>, cell: &PartitionCell, roll: Roll) -> Result<(), LogError> {
        self.claim_flush(cell).await;
        let result = self.flush_claimed(cell, roll).await;
        self.release_flush(cell);
        if self.is_much_unflushed() {
            self.relief_wanted.notify_one();
        }
        let is_full = match &result {
            // Where nothing was to be written nothing is known of the disk.
            Ok(Wrote::Nothing) => self.segments_full.get(),
            Ok(Wrote::Batches) => false,
            Err(error) => error.is_disk_full(),
        };
        if self.segments_full.replace(is_full) != is_full {
            tracing::warn!(shard = self.index, is_full, "space for segments changed");
            if is_full {
                self.retention.hurry();
            } else {
                // That was a part of it.
                self.want_flush(Rc::clone(cell));
            }
            self.retry_parked();
        }
        result.map(drop)
    }

    /// Whether a produce has to be refused until there is space again: what is appended now could
    /// neither stay in the journal nor leave it.
    pub(super) fn is_disk_full(&self) -> bool {
        match self.journal.full() {
            Some(JournalFull::Disk) => true,
            Some(JournalFull::Files) => self.segments_full.get() || self.is_journal_held.get(),
            None => {
                let unflushed = self.unflushed_bytes.get();
                self.segments_full.get() && unflushed >= self.options.unflushed_bytes_max
            }
        }
    }

    async fn flush_claimed(self: &Rc<Self>, cell: &PartitionCell, roll: Roll) -> Result<Wrote, LogError> {
        let (log, batches) = {
            let partition = cell.borrow();
            let acknowledged = partition.high_watermark();
            // A flush counts as a whole: on a nearly full disk all of a tail may never fit.
            let mut room = match self.segments_full.get() {
                true => self.options.flush_chunk_bytes,
                false => usize::MAX,
            };
            let fits = |batch: &&TailBatch| {
                let is_next = batch.next <= acknowledged && room > 0;
                room = room.saturating_sub(batch.bytes.len());
                is_next
            };
            let batches: Vec<_> =
                partition.tail().unflushed().take_while(fits).map(|batch| batch.bytes.clone()).collect();
            (Rc::clone(partition.log()), batches)
        };
        let is_nothing = batches.is_empty() && roll == Roll::AsNeeded;
        if is_nothing || cell.borrow().offline().is_some() {
            return Ok(Wrote::Nothing);
        }
        let wrote = if batches.is_empty() { Wrote::Nothing } else { Wrote::Batches };
        let began = Instant::now();
        let flushing = Flushing::of(self, &batches);
        let active = log.position().segment_base;
        let position = log.flush(&batches, roll).await?;
        self.stages.segment_flush.record_since(began);
        let (flushed_batches, flushed) = {
            let mut partition = cell.borrow_mut();
            if position.segment_base != active {
                partition.rolled(time::unix_time_ms());
                if partition.config().cleanup.compact {
                    self.cleaner.want();
                }
            }
            let before = (partition.tail().bytes(), partition.tail().unflushed_bytes());
            let batches = partition.tail_mut().flushed_to(position.next);
            self.tail_shrank(before, &partition);
            (batches, before.1 - partition.tail().unflushed_bytes())
        };
        drop(flushing);
        self.stages.flushed_bytes.add_len(flushed);
        self.evictable.borrow_mut().extend((0..flushed_batches).map(|_| Rc::clone(cell)));
        self.evict_over_budget();
        self.retry_parked();
        Ok(wrote)
    }

    /// A failed flush loses nothing: the batches are in the journal and in memory. A full disk is
    /// tried again; anything else takes the partition out of service.
    pub(super) fn flush_failed(&self, cell: &PartitionCell, error: &LogError) {
        let target = cell.borrow().target();
        if error.is_disk_full() {
            tracing::debug!(partition = %target, %error, "no space to write segments");
            return;
        }
        tracing::error!(partition = %target, %error, "segment write failed, the partition goes offline");
        self.take_offline(cell, &error.to_string());
    }

    /// Waits until nobody else writes this partition's segments.
    pub(super) async fn claim_flush(&self, cell: &PartitionCell) {
        while !cell.borrow_mut().begin_flush() {
            self.flush_ended.notified().await;
        }
    }

    /// Gives the right to write segments back.
    pub(super) fn release_flush(&self, cell: &PartitionCell) {
        cell.borrow_mut().end_flush();
        self.flush_ended.notify_waiters();
    }
}

/// What a flush did.
enum Wrote {
    Nothing,
    Batches,
}

/// What a flush under way has of the unflushed bytes.
struct Flushing<'a> {
    shard: &'a Shard,
    bytes: usize,
}

impl<'a> Flushing<'a> {
    fn of(shard: &'a Shard, batches: &[Bytes]) -> Self {
        let bytes = batches.iter().map(Bytes::len).sum();
        shard.flushing_bytes.set(shard.flushing_bytes.get() + bytes);
        Self { shard, bytes }
    }
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.shard.flushing_bytes.set(self.shard.flushing_bytes.get() - self.bytes);
    }
}
