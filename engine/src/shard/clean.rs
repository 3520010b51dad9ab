//! Compaction: of each key's records only the newest stays.
//!
//! One task a shard, in the class of background I/O. It looks at the partitions whose topics are
//! compacted when one of them closed a segment, a configuration changed, or time alone makes
//! something due: at numbers in memory, without a timer for each. What is most urgent is cleaned
//! first, one partition at a time, a batch at a time, with the keys in memory that is given back
//! behind each round. With nothing dirty nothing runs.
//!
//! A round's groups are rewritten from the oldest on, and each is committed by itself: the
//! partition's state is stored that says which segments are replaced. Only behind the last one the
//! log counts as clean that far, so whatever ends a round early costs only its work.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::rand;
use corelog_runtime::task::yield_now;
use corelog_runtime::time::{self, Instant};
use futures_lite::future::or;
use tokio::sync::Notify;

use super::{PartitionCell, Shard};
use crate::log::clean::choose::{CleanRules, Dirt, GroupRules, groups};
use crate::log::clean::look::{Cleanable, Known};
use crate::log::clean::pace::{Haste, Pace, PaceRules};
use crate::log::clean::retain::{Counts, Retention, RetentionRules};
use crate::log::clean::round::{CleanError, RECORDS_BYTES_MAX};
use crate::log::clean::swap::Replacement;
use crate::log::retain::Unknown;
use crate::log::{LogError, SegmentLog};
use crate::metric::Counter;
use crate::planted::Planted;
use crate::topic_config::TopicConfig;
use crate::types::{Offset, TopicPartition};

/// Partitions that are looked at without letting other tasks run.
const CHUNK: usize = 128;

/// Between two look-ups of what is not known yet.
const LOOKUP_PAUSE: Duration = Duration::from_millis(50);

/// With nothing to wait for, and still nobody to say that there is.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);

/// How logs are compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanOptions {
    /// Whether they are.
    pub is_enabled: bool,
    /// Memory for the keys of a round, while it runs.
    pub keys_bytes: usize,
    /// Between two looks at what is dirty.
    pub backoff: Duration,
    /// How fast it may go, unless it falls behind.
    pub pace: PaceRules,
}

impl Default for CleanOptions {
    fn default() -> Self {
        Self {
            is_enabled: true,
            keys_bytes: 16 << 20,
            backoff: Duration::from_secs(15),
            pace: PaceRules { bytes_per_second: None, busy_percent: 20 },
        }
    }
}

/// What the task shares with whoever wants something of it.
#[derive(Default)]
pub(super) struct Cleaner {
    wanted: Notify,
    is_wanted: Cell<bool>,
    is_stopped: Cell<bool>,
    /// Partitions with a segment that cannot be read, and what they were then.
    uncleanable: RefCell<BTreeMap<TopicPartition, (u64, Offset)>>,
    rounds: Counter,
    rounds_failed: Counter,
    bytes_read: Counter,
    bytes_written: Counter,
    segments_replaced: Counter,
    records_read: Counter,
    records_removed: Counter,
    keyless_removed: Counter,
    tombstones_removed: Counter,
    dirty_ratio_max: Cell<f64>,
    overdue_ms_max: Cell<i64>,
}

/// What compaction did on a shard since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CleanerStats {
    /// Rounds that came to their end.
    pub rounds: u64,
    /// Rounds that ended early by an error.
    pub rounds_failed: u64,
    /// Bytes of batches that were judged.
    pub bytes_read: u64,
    /// Bytes of files that took the place of others.
    pub bytes_written: u64,
    /// Segments that were replaced.
    pub segments_replaced: u64,
    /// Records that were judged.
    pub records_read: u64,
    /// Those of them that went.
    pub records_removed: u64,
    /// Those that went because they have no key.
    pub keyless_removed: u64,
    /// Tombstones that went because their time had passed.
    pub tombstones_removed: u64,
    /// Partitions that are left alone because a segment of theirs cannot be read.
    pub uncleanable: usize,
    /// The share of what is dirty in the dirtiest log, at the last look.
    pub dirty_ratio_max: f64,
    /// For how long a record has been waiting beyond `max.compaction.lag.ms`, at the last look.
    pub overdue_ms_max: i64,
}

impl Cleaner {
    /// Asks for a look: a segment was closed, or a configuration changed.
    pub(super) fn want(&self) {
        self.is_wanted.set(true);
        self.wanted.notify_one();
    }

    pub(super) fn stop(&self) {
        self.is_stopped.set(true);
        self.wanted.notify_one();
    }

    pub(super) fn stats(&self) -> CleanerStats {
        CleanerStats {
            rounds: self.rounds.get(),
            rounds_failed: self.rounds_failed.get(),
            bytes_read: self.bytes_read.get(),
            bytes_written: self.bytes_written.get(),
            segments_replaced: self.segments_replaced.get(),
            records_read: self.records_read.get(),
            records_removed: self.records_removed.get(),
            keyless_removed: self.keyless_removed.get(),
            tombstones_removed: self.tombstones_removed.get(),
            uncleanable: self.uncleanable.borrow().len(),
            dirty_ratio_max: self.dirty_ratio_max.get(),
            overdue_ms_max: self.overdue_ms_max.get(),
        }
    }

    fn count(&self, counts: &Counts) {
        self.bytes_read.add(counts.bytes_read);
        self.records_read.add(counts.records_read);
        self.records_removed.add(counts.records_read - counts.records_kept);
        self.keyless_removed.add(counts.keyless);
        self.tombstones_removed.add(counts.tombstones_expired);
    }
}

/// A partition that is to be cleaned.
struct Due {
    target: TopicPartition,
    cell: PartitionCell,
    cleanable: Cleanable,
}

/// What a look at all partitions found.
#[derive(Default)]
struct Found {
    due: Option<Due>,
    /// What is dirty of all logs that are to be cleaned.
    due_bytes: u64,
    /// Those of which too little is known.
    unknown: Vec<PartitionCell>,
    look_again_ms: Option<i64>,
}

impl Shard {
    /// Compacts what is dirty, for as long as the shard lives.
    pub(super) async fn clean_worker(self: Rc<Self>) {
        let options = self.options.clean;
        if !options.is_enabled {
            return;
        }
        // A start has better things to do.
        self.pause_cleaning(options.backoff).await;
        loop {
            if self.is_cleaning_over() {
                return;
            }
            self.cleaner.is_wanted.set(false);
            let look_again_ms = self.clean_all().await;
            self.pause_cleaning(options.backoff).await;
            let wait = look_again_ms.map_or(LOOK_PAUSE_MAX, |look_again_ms| {
                let wait_ms = look_again_ms.saturating_sub(time::unix_time_ms()).max(0);
                // The clock may be set meanwhile.
                Duration::from_millis(wait_ms.unsigned_abs()).min(LOOK_PAUSE_MAX)
            });
            let due = Instant::now() + wait;
            while !self.cleaner.is_wanted.get() && !self.is_cleaning_over() && Instant::now() < due {
                or(time::sleep_until(due), self.cleaner.wanted.notified()).await;
            }
        }
    }

    fn is_cleaning_over(&self) -> bool {
        self.stopping.get() || self.fault.borrow().is_some()
    }

    /// Waits, unless the shard stops.
    async fn pause_cleaning(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.cleaner.is_stopped.get() && Instant::now() < until {
            or(time::sleep_until(until), self.cleaner.wanted.notified()).await;
        }
    }

    /// Cleans what is due, the most urgent first, until nothing is. Returns when time alone makes
    /// something due.
    async fn clean_all(self: &Rc<Self>) -> Option<i64> {
        let mut tried = BTreeSet::new();
        let mut learnt = BTreeSet::new();
        let mut haste = Haste::new(self.options.clean.pace);
        loop {
            // By a clock that was set, a tombstone would be old that is not.
            if self.is_cleaning_over() || !self.retention.believes_clock() {
                return Some(time::unix_time_ms());
            }
            let found = self.look_for_dirt(&tried).await;
            if let Some(due) = found.due {
                let target = due.target;
                let is_overdue = due.cleanable.dirt.overdue_ms > 0;
                match self.clean(due, haste.next(found.due_bytes, is_overdue)).await {
                    Ok(true) => {}
                    Ok(false) => {
                        tried.insert(target);
                    }
                    Err(error) => {
                        tried.insert(target);
                        self.clean_failed(target, &error);
                    }
                }
                continue;
            }
            let mut is_news = false;
            let is_unknown = !found.unknown.is_empty();
            for cell in found.unknown {
                let target = cell.borrow().target();
                if learnt.insert(target) {
                    self.learn_for_cleaning(&cell).await;
                    is_news = true;
                }
                if self.is_cleaning_over() {
                    return None;
                }
            }
            if !is_news {
                // What failed is tried again at the next turn.
                let is_all = tried.is_empty() && !is_unknown;
                return if is_all { found.look_again_ms } else { Some(time::unix_time_ms()) };
            }
        }
    }

    async fn look_for_dirt(&self, tried: &BTreeSet<TopicPartition>) -> Found {
        let cells: Vec<PartitionCell> = self.partitions.borrow().values().cloned().collect();
        let mut found = Found::default();
        let (mut ratio, mut overdue_ms) = (0.0_f64, 0);
        for chunk in cells.chunks(CHUNK) {
            for cell in chunk {
                let target = cell.borrow().target();
                let looked = match self.look_at_dirt(cell) {
                    Some(looked) if !tried.contains(&target) => looked,
                    _ => continue,
                };
                let Ok((cleanable, rules)) = looked else {
                    found.unknown.push(Rc::clone(cell));
                    continue;
                };
                let dirt = &cleanable.dirt;
                ratio = ratio.max(dirt.ratio());
                overdue_ms = overdue_ms.max(dirt.overdue_ms);
                found.look_again_ms = found.look_again_ms.into_iter().chain(dirt.look_again_ms).min();
                let is_first = |due: &Due| due.cleanable.dirt.urgency(dirt).is_lt();
                if !dirt.is_due(&rules) {
                    continue;
                }
                found.due_bytes += dirt.dirty_bytes;
                if found.due.as_ref().is_none_or(is_first) {
                    found.due = Some(Due { target, cell: Rc::clone(cell), cleanable });
                }
            }
            yield_now().await;
        }
        let partitions = self.partitions.borrow();
        self.cleaner.uncleanable.borrow_mut().retain(|target, _| partitions.contains_key(target));
        self.cleaner.dirty_ratio_max.set(ratio);
        self.cleaner.overdue_ms_max.set(overdue_ms);
        found
    }

    /// How dirty a partition is, if it is one that is compacted.
    fn look_at_dirt(&self, cell: &PartitionCell) -> Option<Result<(Cleanable, CleanRules), Unknown>> {
        let partition = cell.borrow();
        let config = partition.config();
        if !config.cleanup.compact || partition.offline().is_some() || partition.is_deleted() {
            return None;
        }
        let rules = clean_rules(config);
        let known = Known {
            cleaned_to: partition.cleaned_to(),
            last_stable: partition.last_stable_offset(),
            log_end: partition.log_end(),
        };
        let now_ms = time::unix_time_ms();
        let looked = partition.log().cleanable(&known, &rules, config.cleanup.delete, now_ms);
        let target = partition.target();
        if let Ok(cleanable) = &looked
            && self.is_uncleanable(target, cleanable, partition.log_start())
        {
            return None;
        }
        Some(looked.map(|cleanable| (cleanable, rules)))
    }

    /// Whether it has a segment that could not be read, and is still as it was.
    fn is_uncleanable(&self, target: TopicPartition, cleanable: &Cleanable, log_start: Offset) -> bool {
        let mut uncleanable = self.cleaner.uncleanable.borrow_mut();
        let is_same = uncleanable.get(&target) == Some(&(cleanable.truncations, log_start));
        if !is_same {
            uncleanable.remove(&target);
        }
        is_same
    }

    async fn learn_for_cleaning(&self, cell: &PartitionCell) {
        let mut before = None;
        while let Some(Err(unknown)) = self.look_at_dirt(cell)
            && before != Some(unknown)
            && !self.is_cleaning_over()
        {
            before = Some(unknown);
            time::sleep(LOOKUP_PAUSE.min(self.options.clean.backoff)).await;
            let log = Rc::clone(cell.borrow().log());
            if let Err(error) = log.learn(unknown).await {
                let target = cell.borrow().target();
                tracing::debug!(partition = %target, %error, "compaction cannot look into a log");
            }
        }
    }

    /// One round over one partition. Whether it got anywhere.
    async fn clean(self: &Rc<Self>, due: Due, pace: PaceRules) -> Result<bool, CleanError> {
        let Due { target, cell, cleanable } = due;
        let log = Rc::clone(cell.borrow().log());
        let began = Instant::now();
        let mut result = self.clean_round(&cell, &log, &cleanable, pace).await;
        if cell.borrow().is_deleted() {
            // Whatever failed, its files were going.
            result = Err(CleanError::Changed);
        }
        let log_start = cell.borrow().log_start();
        if result.as_ref().is_err_and(CleanError::is_damage) {
            let was = (cleanable.truncations, log_start);
            self.cleaner.uncleanable.borrow_mut().insert(target, was);
        }
        let cleaned_to = result?;
        self.cleaner.rounds.add(1);
        let Dirt { first_dirty, dirty_bytes, clean_bytes, .. } = cleanable.dirt;
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(partition = %target, from = %first_dirty, to = %cleaned_to, dirty_bytes, clean_bytes, ms, "compacted");
        Ok(cleaned_to > first_dirty)
    }

    async fn clean_round(
        self: &Rc<Self>,
        cell: &PartitionCell,
        log: &Rc<SegmentLog>,
        cleanable: &Cleanable,
        pace: PaceRules,
    ) -> Result<Offset, CleanError> {
        let options = self.options.clean;
        let planted = self.options.planted;
        let weak = Rc::downgrade(self);
        let of = Rc::clone(cell);
        let is_over = move || {
            let is_served = of.try_borrow().is_ok_and(|partition| {
                partition.offline().is_none() && !partition.is_deleted() && partition.config().cleanup.compact
            });
            !is_served || weak.upgrade().is_none_or(|shard| shard.is_cleaning_over())
        };
        let (weak, seen) = (Rc::downgrade(self), Cell::new(None));
        let is_busy = move || {
            let appended = weak.upgrade().and_then(|shard| shard.journal.last_appended());
            seen.replace(appended) != appended
        };
        let mut pace = Pace::new(pace, is_busy, is_over);
        let hash_key = (rand::u64(), rand::u64());
        let (keys, mut mapped_to) = log.map_keys(cleanable, options.keys_bytes, hash_key, &mut pace).await?;
        if planted.has(Planted::MappedPastTheMap) {
            mapped_to = cleanable.dirt.uncleanable;
        }
        let (rules, groups_of) = {
            let partition = cell.borrow();
            let config = partition.config();
            let rules = RetentionRules {
                mapped_to,
                log_start: partition.log_start(),
                now_ms: time::unix_time_ms(),
                delete_retention_ms: config.delete_retention_ms,
                last_batches: partition.last_batches(),
                limit_bytes: RECORDS_BYTES_MAX,
                planted,
            };
            (rules, group_rules(config))
        };
        let mut groups = groups(&cleanable.closed, rules.log_start, mapped_to, &groups_of);
        if planted.has(Planted::GroupsNewestFirst) {
            groups.reverse();
        }
        let mut retention = Retention::new(keys, rules);
        for group in groups {
            let group = &cleanable.closed[group];
            let rewritten = log.rewrite(group, cleanable.truncations, &mut retention, &mut pace).await?;
            if let Some(replacement) = rewritten {
                self.swap(cell, log, replacement).await?;
                self.cleaner.segments_replaced.add_len(group.len());
            }
        }
        self.cleaner.count(&retention.counts());
        self.claim_flush(cell).await;
        let cleaned = self.cleaned(cell, cleanable, mapped_to);
        self.release_flush(cell);
        cleaned.map(|()| mapped_to)
    }

    /// The log is clean up to there.
    fn cleaned(
        &self,
        cell: &PartitionCell,
        cleanable: &Cleanable,
        mapped_to: Offset,
    ) -> Result<(), CleanError> {
        let is_truncated = cell.borrow().log().truncations() != cleanable.truncations;
        if is_truncated || !self.may_store(cell) {
            return Err(CleanError::Changed);
        }
        cell.borrow_mut().set_cleaned_to(mapped_to);
        // Nobody waits for it: without it, the next start does the round again.
        self.checkpoint_now(std::slice::from_ref(cell));
        Ok(())
    }

    fn may_store(&self, cell: &PartitionCell) -> bool {
        let partition = cell.borrow();
        partition.offline().is_none() && !partition.is_deleted() && !self.is_cleaning_over()
    }

    /// Puts a replacement in the place of its segments.
    async fn swap(
        self: &Rc<Self>,
        cell: &PartitionCell,
        log: &Rc<SegmentLog>,
        replacement: Replacement,
    ) -> Result<(), CleanError> {
        let bytes = replacement.file_bytes();
        self.commit_swap(cell, log, replacement).await?;
        if let Err(error) = log.finish_swap().await {
            if !matches!(error, LogError::Deleted) {
                // The next start finishes it.
                let target = cell.borrow().target();
                tracing::error!(partition = %target, %error, "compacted segments are not in place, the partition goes offline");
                self.take_offline(cell, &error.to_string());
            }
            return Err(error.into());
        }
        self.cleaner.bytes_written.add(bytes);
        Ok(())
    }

    /// The claim is given back before the sync: a reclaim may need it to make room for what is waited
    /// for. Only truncations have to wait, see [`Shard::claim_to_truncate`].
    async fn commit_swap(
        &self,
        cell: &PartitionCell,
        log: &Rc<SegmentLog>,
        replacement: Replacement,
    ) -> Result<(), CleanError> {
        // In the middle of a flush or a truncation, segments and state do not fit each other.
        self.claim_flush(cell).await;
        let begun = match self.may_store(cell) {
            true => log.begin_swap(replacement),
            false => Err(replacement),
        };
        if begun.is_ok() {
            if self.options.planted.has(Planted::UnlinkBeforeCommit) {
                log.swap_committed();
                log.finish_swap().await?;
            }
            self.checkpoint_now(std::slice::from_ref(cell));
        }
        self.release_flush(cell);
        if let Err(unused) = begun {
            unused.discard().await;
            return Err(CleanError::Changed);
        }
        match self.wait_appended().await {
            Ok(()) => {
                log.swap_committed();
                self.flush_ended.notify_waiters();
                Ok(())
            }
            Err(error) => {
                tracing::debug!(shard = self.index, %error, "compaction ends with the journal");
                Err(CleanError::Ended)
            }
        }
    }

    /// As [`Shard::claim_flush`], but not while it is undecided whether segments are replaced.
    pub(super) async fn claim_to_truncate(&self, cell: &PartitionCell) {
        loop {
            self.claim_flush(cell).await;
            let is_decided = !cell.borrow().log().is_swap_undecided();
            if is_decided || cell.borrow().offline().is_some() {
                return;
            }
            self.release_flush(cell);
            self.flush_ended.notified().await;
        }
    }

    fn clean_failed(&self, target: TopicPartition, error: &CleanError) {
        match error {
            CleanError::Ended | CleanError::Changed | CleanError::Log(LogError::Deleted) => {
                tracing::debug!(partition = %target, %error, "a round of compaction ended early");
                return;
            }
            CleanError::Log(log) if log.is_stale() => {
                tracing::debug!(partition = %target, %error, "a round of compaction ended early");
                return;
            }
            _ if error.is_damage() => {
                tracing::error!(partition = %target, %error, "a log cannot be compacted: it is left as it is");
            }
            _ => tracing::warn!(partition = %target, %error, "compaction failed, it is tried again later"),
        }
        self.cleaner.rounds_failed.add(1);
    }
}

fn clean_rules(config: &TopicConfig) -> CleanRules {
    CleanRules {
        dirty_ratio_min: config.min_cleanable_dirty_ratio,
        lag_min_ms: config.min_compaction_lag_ms,
        lag_max_ms: config.max_compaction_lag_ms,
    }
}

fn group_rules(config: &TopicConfig) -> GroupRules {
    GroupRules {
        segment_bytes: config.segment_bytes,
        newest_apart_ms_max: config.cleanup.delete.then_some(config.segment_ms),
    }
}
