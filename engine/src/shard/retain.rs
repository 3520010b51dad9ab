//! Retention: segments go that are too old, too much, or below the log start.
//!
//! One task a shard, in the class of background I/O. Now and then it looks at every partition: at
//! numbers in memory, without I/O, without a timer for each. What is not known of a partition after
//! a start is looked up a few times a second. Trims only move the log start; what they leave behind
//! goes here, too, once however many they are.
//!
//! A segment's file goes after a checkpoint is synced that has the log start and the position behind
//! it. The right to flush is held for one partition at a time, and not while a file is removed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::rate::RateLimit;
use corelog_runtime::task::yield_now;
use corelog_runtime::time::{self, Instant};
use futures_lite::future::or;
use futures_util::{StreamExt, stream};
use tokio::sync::Notify;

use super::{PartitionCell, Shard, entry};
use crate::api::{PartitionError, TrimTo};
use crate::journal::EntryKind;
use crate::log::retain::{ClockGuard, Cut, Policy, Reason, Verdict};
use crate::log::{LogError, Removed, Roll, SegmentPosition};
use crate::metric::Counter;
use crate::planted::Planted;
use crate::topic_config::TopicConfig;
use crate::types::{Offset, TopicPartition};

/// The first look comes so soon after the start.
const FIRST_CHECK: Duration = Duration::from_secs(30);

/// What asks for a look out of turn, waits so long for others that ask.
const GATHER: Duration = Duration::from_secs(1);

/// Between two look-ups of what is not known yet.
const LOOKUP_PAUSE: Duration = Duration::from_millis(50);

/// Partitions that are looked at without letting other tasks run, and whose log starts are moved
/// with one sync.
const CHUNK: usize = 128;

/// Partitions whose files are written or removed at a time.
const FILES: usize = 4;

/// Lines in the log about what was deleted, in a second.
const LINES_PER_SECOND: u32 = 10;

/// What the task shares with whoever wants something of it.
pub(super) struct Retention {
    wanted: Notify,
    is_hurried: Cell<bool>,
    /// Log starts that moved beyond a segment.
    trimmed: RefCell<BTreeMap<TopicPartition, PartitionCell>>,
    clock: RefCell<ClockGuard>,
    is_clock_believed: Cell<bool>,
    lines: RateLimit,
    /// By reason, in the order of their numbers.
    removed: [Removals; Reason::ALL.len()],
    swept_ms: Cell<i64>,
}

#[derive(Debug, Default)]
struct Removals {
    segments: Counter,
    bytes: Counter,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            wanted: Notify::new(),
            is_hurried: Cell::default(),
            trimmed: RefCell::default(),
            clock: RefCell::default(),
            is_clock_believed: Cell::new(true),
            lines: RateLimit::new(LINES_PER_SECOND),
            removed: Default::default(),
            swept_ms: Cell::default(),
        }
    }
}

/// What retention deleted for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemovedStats {
    /// Why.
    pub reason: Reason,
    /// Segments.
    pub segments: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

/// What retention did on a shard since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionStats {
    /// What was deleted, by reason.
    pub removed: [RemovedStats; Reason::ALL.len()],
    /// When all partitions were looked at last (Unix ms), 0 before the first time.
    pub swept_ms: i64,
}

impl Default for RetentionStats {
    fn default() -> Self {
        Self {
            removed: Reason::ALL.map(|reason| RemovedStats { reason, segments: 0, bytes: 0 }),
            swept_ms: 0,
        }
    }
}

impl Retention {
    /// Asks for a look at everything soon: a configuration changed, or there is no space.
    pub(super) fn hurry(&self) {
        self.is_hurried.set(true);
        self.wanted.notify_one();
    }

    fn trimmed(&self, target: TopicPartition, cell: &PartitionCell) {
        self.trimmed.borrow_mut().insert(target, Rc::clone(cell));
        self.wanted.notify_one();
    }

    /// Whether records may be called old by the wall clock as it is now.
    pub(super) fn believes_clock(&self) -> bool {
        let since_start = Duration::from_nanos(Instant::now().as_nanos());
        let wall_ms = time::unix_time_ms();
        let is_believed = self.clock.borrow_mut().is_believed(since_start, wall_ms);
        if self.is_clock_believed.replace(is_believed) != is_believed {
            match is_believed {
                true => tracing::info!("the clock is believed again: retention by time goes on"),
                false => tracing::warn!(
                    wall_ms,
                    "the clock jumped ahead by more than an hour: nothing is deleted by time for five minutes"
                ),
            }
        }
        is_believed
    }

    pub(super) fn stats(&self) -> RetentionStats {
        let mut stats = RetentionStats { swept_ms: self.swept_ms.get(), ..RetentionStats::default() };
        for (stats, removed) in stats.removed.iter_mut().zip(&self.removed) {
            (stats.segments, stats.bytes) = (removed.segments.get(), removed.bytes.get());
        }
        stats
    }

    /// Counts and tells what is gone of a partition, each reason for itself.
    fn tell(&self, target: TopicPartition, cuts: &[Cut], log_start: Offset, removed: &[Removed]) {
        for reason in Reason::ALL {
            let reason_of = |removed: &&Removed| {
                let cut = cuts.iter().find(|cut| cut.base == removed.base);
                cut.map_or(Reason::LogStart, |cut| cut.reason) == reason
            };
            let gone: Vec<_> = removed.iter().filter(reason_of).collect();
            let Some(first) = gone.first() else { continue };
            let bytes: u64 = gone.iter().map(|removed| removed.file_bytes).sum();
            let counters = &self.removed[reason as usize];
            counters.segments.add_len(gone.len());
            counters.bytes.add(bytes);
            if let Some(unsaid) = self.lines.pass() {
                let (reason, from) = (reason.name(), first.base);
                let segments = gone.len();
                tracing::info!(partition = %target, reason, segments, bytes, %from, %log_start, unsaid, "retention deleted segments");
            }
        }
    }
}

/// A partition whose log start is on its way to the disk, so that these segments go.
struct Stored {
    target: TopicPartition,
    cell: PartitionCell,
    cuts: Vec<Cut>,
    log_start: Offset,
    position: SegmentPosition,
}

impl Shard {
    /// Looks for what has to go, for as long as the shard lives.
    pub(super) async fn retention_worker(self: Rc<Self>) {
        let interval = self.options.retention_check_interval;
        let mut next = Instant::now() + FIRST_CHECK.min(interval);
        time::sleep_until(next).await;
        loop {
            if self.stopping.get() || self.fault.borrow().is_some() {
                return;
            }
            let trimmed = self.retention.trimmed.take();
            let is_hurried = self.retention.is_hurried.take();
            if is_hurried || Instant::now() >= next {
                self.sweep().await;
                next = Instant::now() + interval;
            } else {
                self.look_through(trimmed.into_values().collect()).await;
            }
            let is_turn = async {
                time::sleep_until(next).await;
                false
            };
            let is_woken = async {
                self.retention.wanted.notified().await;
                true
            };
            if or(is_turn, is_woken).await {
                time::sleep(GATHER.min(interval)).await;
            }
        }
    }

    async fn sweep(self: &Rc<Self>) {
        let cells = self.partitions.borrow().values().cloned().collect();
        self.look_through(cells).await;
        self.retention.swept_ms.set(time::unix_time_ms());
    }

    async fn look_through(self: &Rc<Self>, cells: Vec<PartitionCell>) {
        let mut unknown = VecDeque::new();
        for chunk in cells.chunks(CHUNK) {
            unknown.extend(self.visit(chunk).await);
            yield_now().await;
        }
        // After a start this takes minutes, which what is trimmed meanwhile does not have to wait.
        while let Some(cell) = unknown.pop_front() {
            self.learn(&cell).await;
            if self.stopping.get() {
                return;
            }
            self.visit(std::slice::from_ref(&cell)).await;
            let trimmed: Vec<_> = self.retention.trimmed.take().into_values().collect();
            for cell in self.visit(&trimmed).await {
                unknown.push_front(cell);
            }
        }
    }

    /// Does to these partitions what is known to be due. Returns those of which too little is known.
    async fn visit(self: &Rc<Self>, cells: &[PartitionCell]) -> Vec<PartitionCell> {
        let looked = |cell: &PartitionCell| (Rc::clone(cell), self.look(cell));
        let (close, mut looked): (Vec<_>, Vec<_>) =
            cells.iter().map(looked).partition(|(_, verdict)| verdict.closes);
        let closed = stream::iter(close).map(|(cell, _)| async move {
            if let Err(error) = self.flush_and(&cell, Roll::CloseAll).await {
                self.flush_failed(&cell, &error);
            }
            let verdict = self.look(&cell);
            (cell, verdict)
        });
        looked.extend(closed.buffer_unordered(FILES).collect::<Vec<_>>().await);
        let mut due = Vec::new();
        let mut unknown = Vec::new();
        for (cell, verdict) in looked {
            if verdict.unknown.is_some() {
                unknown.push(Rc::clone(&cell));
            }
            if !verdict.cuts.is_empty() {
                due.push(cell);
            }
        }
        if !due.is_empty() {
            self.remove(due).await;
        }
        unknown
    }

    /// Holds a partition against its topic's configuration.
    fn look(&self, cell: &PartitionCell) -> Verdict {
        let mut partition = cell.borrow_mut();
        if partition.offline().is_some() || partition.is_deleted() {
            return Verdict::default();
        }
        let now_ms = time::unix_time_ms();
        let policy = policy(partition.config(), self.retention.believes_clock());
        let enough_ms = policy.retention_ms.map_or(i64::MIN, |kept_ms| now_ms.saturating_sub(kept_ms));
        let unflushed = partition.unflushed(enough_ms, now_ms);
        partition.log().judge(&policy, &unflushed, now_ms)
    }

    /// Looks up what is not known of a partition, as far as it matters.
    async fn learn(&self, cell: &PartitionCell) {
        let mut before = None;
        while let Some(unknown) = self.look(cell).unknown
            && before != Some(unknown)
            && !self.stopping.get()
        {
            before = Some(unknown);
            time::sleep(LOOKUP_PAUSE.min(self.options.retention_check_interval)).await;
            let log = Rc::clone(cell.borrow().log());
            if let Err(error) = log.learn(unknown).await {
                let target = cell.borrow().target();
                tracing::debug!(partition = %target, %error, "retention cannot look into a log");
            }
        }
    }

    /// Moves log starts and removes what is below.
    async fn remove(self: &Rc<Self>, due: Vec<PartitionCell>) {
        let mut stored = Vec::with_capacity(due.len());
        for cell in due {
            stored.extend(self.store_start(cell).await);
        }
        if !self.options.planted.has(Planted::DeleteBelowBeforeCheckpoint)
            && let Err(error) = self.wait_appended().await
        {
            tracing::debug!(shard = self.index, %error, "retention ends with the journal");
            return;
        }
        let removals = stream::iter(stored).map(|stored| self.delete_files(stored));
        removals.buffer_unordered(FILES).collect::<Vec<()>>().await;
    }

    fn move_start(&self, cell: &PartitionCell, cuts: &[Cut]) {
        let mut partition = cell.borrow_mut();
        let end = cuts.last().map_or(Offset(0), |cut| cut.end).min(partition.high_watermark());
        if partition.offline().is_none() && end > partition.log_start() {
            let lsn = self.journal.append(entry(EntryKind::LogStart, partition.target(), end));
            partition.set_log_start(end, lsn);
        }
    }

    /// Journals where a partition starts and what its segments hold. In the middle of a flush or a
    /// truncation the two do not fit each other; and after a truncation there may be younger records
    /// at the offsets that were due, so what goes is decided anew.
    async fn store_start(self: &Rc<Self>, cell: PartitionCell) -> Option<Stored> {
        self.claim_flush(&cell).await;
        let cuts = self.look(&cell).cuts;
        self.move_start(&cell, &cuts);
        let (target, is_served, log_start, position) = {
            let partition = cell.borrow();
            let is_served = partition.offline().is_none();
            (partition.target(), is_served, partition.log_start(), partition.position())
        };
        if is_served && !self.options.planted.has(Planted::DeleteBelowBeforeCheckpoint) {
            self.checkpoint_now(std::slice::from_ref(&cell));
        }
        self.release_flush(&cell);
        (is_served && !self.stopping.get()).then_some(Stored { target, cell, cuts, log_start, position })
    }

    async fn delete_files(&self, stored: Stored) {
        let Stored { target, cell, cuts, log_start, position } = stored;
        let log = Rc::clone(cell.borrow().log());
        match log.delete_below(log_start, position).await {
            Ok(removed) => self.retention.tell(target, &cuts, log_start, &removed),
            Err(LogError::Deleted) => {}
            Err(error) if log.is_fenced() => self.flush_failed(&cell, &error),
            Err(error) => {
                tracing::warn!(partition = %target, %error, "old segments remain until the next look");
            }
        }
    }

    /// Moves the log start of `target`: older records are gone, for good, when this returns. The
    /// space that they took is given back a little later. Returns the log start, which is beyond
    /// `to` where the log began beyond that already.
    ///
    /// # Errors
    /// Unknown partition; a start beyond the high watermark; the journal's failure.
    pub async fn trim(&self, target: TopicPartition, to: TrimTo) -> Result<Offset, PartitionError> {
        let cell = self.serving(&target, None)?;
        let (lsn, log_start) = {
            let mut partition = cell.borrow_mut();
            let (log_start_offset, high_watermark) = (partition.log_start(), partition.high_watermark());
            let start = match to {
                TrimTo::Offset(offset) => offset,
                TrimTo::HighWatermark => high_watermark,
            };
            if start > high_watermark || start < Offset(0) {
                return Err(PartitionError::OffsetOutOfRange { log_start_offset, high_watermark });
            }
            if start > log_start_offset {
                let lsn = self.journal.append(entry(EntryKind::LogStart, target, start));
                partition.set_log_start(start, lsn);
            }
            // Also where another one moved it: that may not be synced yet.
            (partition.log_start_lsn(), partition.log_start())
        };
        let Some(lsn) = lsn else { return Ok(log_start) };
        if has_below(&cell) {
            self.retention.trimmed(target, &cell);
        }
        let synced = self.journal.wait_synced(lsn).await;
        synced.map_err(|error| PartitionError::Offline(error.to_string()))?;
        Ok(log_start)
    }
}

/// Whether segments are, or may be, wholly below the log start.
fn has_below(cell: &PartitionCell) -> bool {
    let mut partition = cell.borrow_mut();
    let unflushed = partition.unflushed(i64::MIN, time::unix_time_ms());
    let verdict = partition.log().judge(&Policy::default(), &unflushed, 0);
    verdict.unknown.is_some() || !verdict.cuts.is_empty()
}

/// What a topic's configuration asks for. By a clock that is not believed, nothing is old.
fn policy(config: &TopicConfig, is_clock_believed: bool) -> Policy {
    let is_limited = |limit: &i64| config.cleanup.delete && *limit >= 0;
    let retention_ms = Some(config.retention_ms).filter(is_limited).filter(|_| is_clock_believed);
    let retention_bytes = Some(config.retention_bytes).filter(is_limited);
    let is_rolled = retention_ms.is_some() || (config.cleanup.compact && is_clock_believed);
    Policy {
        retention_ms,
        retention_bytes: retention_bytes.map(i64::unsigned_abs),
        roll_ms: is_rolled.then_some(config.segment_ms),
    }
}
