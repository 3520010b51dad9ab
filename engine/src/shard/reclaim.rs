//! Making the oldest journal file superfluous.
//!
//! A file can be recycled when no partition needs an entry in it. Partitions with a large tail are
//! written to their segments; small tails are carried forward: appended to the journal's head
//! together with the partition's state, so that ten thousand cold partitions cost a few sequential
//! writes and not ten thousand syncs.

use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use corelog_runtime::task::yield_if_needed;
use corelog_runtime::time;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::{PartitionCell, Shard, entry};
use crate::journal::{Entry, EntryKind, JournalError, JournalFull};
use crate::meta::MetaError;
use crate::partition::producers::Producers;
use crate::planted::Planted;
use crate::types::{LeaderEpoch, Lsn, Offset, TopicPartition};

/// Tails carried for one file add up to this share of it at most, so that reclaiming a file frees
/// more room than it takes.
const CARRY_SHARE: u64 = 4;

/// Tails of partitions out of service are carried up to this share of a file.
const STUCK_SHARE: u64 = 2;

/// Partitions whose state is journalled without letting other tasks run.
const CHECKPOINT_PARTITIONS: usize = 128;

/// Checkpoint entries are cut at about this size.
const CHECKPOINT_BYTES: usize = 256 * 1024;

/// Between two reclaims.
const PAUSE: Duration = Duration::from_millis(1);

/// How long a reclaim waits before it tries again when segments could not be written.
const RETRY: Duration = Duration::from_millis(500);

/// How often a flush that is ahead of the appends looks whether it still is, and how many times.
const STEP_WAIT: Duration = Duration::from_millis(1);
const STEP_WAITS_MAX: u32 = 4;

/// Segment flushes that a reclaim, and a relief, runs at a time. Few of them write; the others wait for a sync that
/// they share.
pub(super) const FLUSHES: usize = 64;

/// Why the journal's oldest entries are still needed.
#[derive(Debug, thiserror::Error)]
pub enum ReclaimError {
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The metadata's log could not be compacted.
    #[error("metadata could not be compacted: {0}")]
    Metadata(#[from] MetaError),
}

impl Shard {
    /// Frees journal files when the journal asks for it, for as long as the shard lives.
    pub(super) async fn reclaim_worker(self: Rc<Self>) {
        loop {
            self.journal.pressure().await;
            if self.stopping.get() || self.fault.borrow().is_some() {
                return;
            }
            // The journal needs a moment to make use of what the last round released.
            time::sleep(PAUSE).await;
            let Some(oldest) = self.journal.oldest_live() else {
                time::sleep(RETRY).await;
                continue;
            };
            match self.reclaim(oldest.end).await {
                Ok(true) => {
                    self.retry_parked();
                    if matches!(self.journal.full(), Some(JournalFull::Disk)) {
                        self.retention.hurry();
                    }
                    if self.segments_full.get() {
                        // Tails were only carried from one journal file to another.
                        time::sleep(RETRY).await;
                    }
                }
                Ok(false) => time::sleep(RETRY).await,
                Err(error) => {
                    tracing::error!(shard = self.index, %error, "the journal could not be reclaimed");
                    return;
                }
            }
        }
    }

    /// Makes every entry below `end` superfluous and gives their files back. `false` when large tails
    /// could not be written to their segments, so that their entries are still needed.
    pub(super) async fn reclaim(self: &Rc<Self>, end: Lsn) -> Result<bool, ReclaimError> {
        self.compact_metadata(end).await?;
        let needy = self.partitions_needing(end);
        self.flush_large(&needy).await;
        if self.is_held_by(&needy) {
            return Ok(false);
        }
        // Partitions went on appending meanwhile: each state is taken and journalled at once.
        for chunk in needy.chunks(CHECKPOINT_PARTITIONS) {
            // In the middle of a truncation, segments and state do not fit each other.
            for cell in chunk {
                self.claim_flush(cell).await;
            }
            let stored = self.store_states(chunk, end);
            for cell in chunk {
                self.release_flush(cell);
            }
            if !stored {
                return Ok(false);
            }
            yield_if_needed().await;
        }
        self.carry_deletions(end);
        self.wait_appended().await?;
        assert!(self.partitions_needing(end).is_empty(), "a reclaimed journal file is needed by nobody");
        self.journal.release(end);
        Ok(true)
    }

    /// Whether partitions out of service hold the journal: nothing flushes their tails, and carried
    /// forward they would take the room that they leave, again and again.
    fn is_held_by(self: &Rc<Self>, needy: &[PartitionCell]) -> bool {
        let stuck = |cell: &PartitionCell| {
            let partition = cell.borrow();
            let is_stuck = partition.offline().is_some();
            is_stuck.then(|| partition.tail().unflushed_bytes())
        };
        let (largest, sum) = needy
            .iter()
            .filter_map(stuck)
            .fold((0, 0), |(largest, sum), bytes| (bytes.max(largest), sum + bytes));
        let is_held = largest > self.journal.max_entry_bytes() / 2
            || sum as u64 > self.journal.file_bytes() / STUCK_SHARE;
        if self.is_journal_held.replace(is_held) != is_held {
            let shard = self.index;
            if is_held {
                tracing::error!(
                    shard,
                    bytes = sum,
                    "the journal cannot give files back: it alone has records of partitions that are offline. Once \
                     it is full nothing more is accepted here until their topics are deleted, or the node is \
                     started again and can write their segments"
                );
            } else {
                tracing::info!(shard, "the journal can give files back again");
            }
            self.retry_parked();
        }
        is_held
    }

    /// Journals states again, with the tails that are below `end`. `false` when one is too large.
    fn store_states(&self, cells: &[PartitionCell], end: Lsn) -> bool {
        let needs_tail =
            |cell: &PartitionCell| cell.borrow().tail().needed_from().is_some_and(|lsn| lsn < end);
        let (carried, stored): (Vec<_>, Vec<_>) = cells.iter().cloned().partition(needs_tail);
        self.checkpoint_now(&stored);
        for cell in &carried {
            if cell.borrow().tail().unflushed_bytes() > self.journal.max_entry_bytes() / 2 {
                return false;
            }
            self.carry_forward(cell);
        }
        true
    }

    fn partitions_needing(&self, end: Lsn) -> Vec<PartitionCell> {
        let partitions = self.partitions.borrow();
        let strays = self.strays.borrow();
        let needs = |cell: &&PartitionCell| cell.borrow().needed_from().is_some_and(|lsn| lsn < end);
        partitions.values().chain(strays.values()).filter(needs).cloned().collect()
    }

    /// Writes the tails that are too large to carry.
    async fn flush_large(self: &Rc<Self>, cells: &[PartitionCell]) {
        let budget = self.journal.file_bytes() / CARRY_SHARE;
        let mut carried = 0;
        let too_large = |(size, _): &(usize, PartitionCell)| {
            carried += *size as u64;
            *size >= self.options.carry_bytes_max || carried > budget
        };
        let large: Vec<_> = by_size(cells).into_iter().filter(too_large).collect();
        self.flush_in_step(large, self.journal.file_bytes() / 2).await;
    }

    /// Flushes partitions, given with their sizes, in step with what is appended meanwhile: done when
    /// that comes to `window` bytes. All at once, the journal's writes and syncs would wait behind them.
    ///
    /// The first of them begin together, when there are [`FLUSHES`] of them or no more come, and each of the
    /// others when one has ended. Begun one by one from the first they are smaller, and 1,000 partitions
    /// slower.
    async fn flush_in_step(self: &Rc<Self>, cells: Vec<(usize, PartitionCell)>, window: u64) {
        let all_bytes = cells.iter().map(|(size, _)| *size as u64).sum::<u64>().max(1);
        let began = self.appended_bytes.get();
        let mut begun_bytes = 0;
        let mut flushes = FuturesUnordered::new();
        for (size, cell) in cells {
            // Sizes of memory and files: nothing overflows.
            self.wait_in_step(began + window / 1024 * begun_bytes / (all_bytes.div_ceil(1024))).await;
            begun_bytes += size as u64;
            flushes.push(Rc::clone(self).flush_or_note(cell));
            if flushes.len() == FLUSHES {
                flushes.next().await;
            }
        }
        while flushes.next().await.is_some() {}
    }

    /// Waits until so much was ever appended, but not when that is urgently to be made room for, nor
    /// long: where little is appended, the device has time.
    async fn wait_in_step(&self, appended_bytes: u64) {
        for _ in 0..STEP_WAITS_MAX {
            let is_due = self.appended_bytes.get() >= appended_bytes;
            if is_due || self.is_flush_urgent() {
                return;
            }
            time::sleep(STEP_WAIT).await;
        }
    }

    /// Whether appends are about to be held back.
    fn is_flush_urgent(&self) -> bool {
        let is_memory = self.unflushed_bytes.get() >= self.options.unflushed_bytes_max / 16 * 15;
        is_memory || self.journal.full().is_some() || self.stopping.get()
    }

    /// Journals the state of partitions, at this moment. Their unflushed batches stay where they are
    /// in the journal.
    pub(super) fn checkpoint_now(&self, cells: &[PartitionCell]) {
        let now_ms = time::unix_time_ms();
        let mut payload = BytesMut::new();
        let mut named = Vec::new();
        // Whoever names a partition may have awaited since it looked that up.
        for cell in cells.iter().filter(|cell| !cell.borrow().is_deleted()) {
            self.encode_state(cell, now_ms, &mut payload);
            named.push(Rc::clone(cell));
            if payload.len() >= CHECKPOINT_BYTES {
                self.append_checkpoint(payload.split().freeze(), &named);
                named.clear();
            }
        }
        if !named.is_empty() {
            self.append_checkpoint(payload.freeze(), &named);
        }
    }

    fn append_checkpoint(&self, payload: Bytes, named: &[PartitionCell]) {
        let lsn = self.journal.append(Entry {
            kind: EntryKind::Checkpoint,
            target: TopicPartition::default(),
            base_offset: Offset(0),
            leader_epoch: LeaderEpoch(-1),
            payload,
        });
        for cell in named {
            cell.borrow_mut().state_stored(lsn);
        }
    }

    /// Journals a partition's state together with its unflushed batches.
    fn carry_forward(&self, cell: &PartitionCell) {
        let mut payload = BytesMut::new();
        self.encode_state(cell, time::unix_time_ms(), &mut payload);
        let mut partition = cell.borrow_mut();
        for batch in partition.tail().unflushed() {
            payload.put_slice(&batch.bytes);
        }
        let lsn = self.journal.append(Entry {
            kind: EntryKind::CarryForward,
            target: partition.target(),
            base_offset: partition.log_end(),
            leader_epoch: LeaderEpoch(-1),
            payload: payload.freeze(),
        });
        partition.tail_mut().carried_to(lsn);
        partition.state_stored(lsn);
    }

    fn encode_state(&self, cell: &PartitionCell, now_ms: i64, payload: &mut BytesMut) {
        let mut partition = cell.borrow_mut();
        partition.expire_producers(now_ms);
        let mut state = partition.state();
        if self.options.planted.has(Planted::ProducerStateLost) {
            state.producers = Producers::default();
        }
        state.encode(payload);
    }

    /// Journals deletions again whose files are still there.
    fn carry_deletions(&self, end: Lsn) {
        for (target, lsn) in self.deletions.borrow_mut().iter_mut().filter(|(_, lsn)| **lsn < end) {
            *lsn = self.journal.append(entry(EntryKind::DeletePartition, *target, Offset(0)));
        }
    }

    async fn compact_metadata(&self, end: Lsn) -> Result<(), MetaError> {
        match self.meta() {
            Some(meta) if meta.needed_from().is_some_and(|lsn| lsn < end) => meta.compact(end).await,
            Some(_) | None => Ok(()),
        }
    }
}

/// Partitions with the sizes of their unflushed tails, the smallest first.
fn by_size(cells: &[PartitionCell]) -> Vec<(usize, PartitionCell)> {
    let mut by_size: Vec<_> =
        cells.iter().map(|cell| (cell.borrow().tail().unflushed_bytes(), Rc::clone(cell))).collect();
    by_size.sort_by_key(|(size, _)| *size);
    by_size
}
