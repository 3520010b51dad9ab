//! From a journal and a picture of the metadata to partitions in service, and back down.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use corelog_runtime::task::{self, Class, yield_if_needed};
use corelog_runtime::{fs, time};

use super::reclaim::ReclaimError;
use super::{PartitionCell, Shard, entry};
use crate::journal::{Corruption, EntryKind, Journal, JournalError, JournalOptions, ReplayReport};
use crate::log::{SegmentLog, SegmentOptions};
use crate::meta::MetaRecovery;
use crate::meta::image::{MetaImage, TopicMeta};
use crate::node_dir;
use crate::partition::Partition;
use crate::partition::state::PartitionState;
use crate::recovery::{Recovered, RecoveredPartition, Replay};
use crate::shard::ShardOptions;
use crate::topic_config::{NodeDefaults, TopicConfig};
use crate::types::{Durability, Lsn, Offset, PartitionId, TopicPartition};

/// What a journal gave back.
pub struct Replayed {
    /// Partitions.
    pub recovered: Recovered,
    /// Metadata's log; only shard 0's journal has any.
    pub meta: MetaRecovery,
    /// What the journal says of itself.
    pub report: ReplayReport,
}

/// Collects a journal's entries for partitions and metadata.
pub struct ReplaySink {
    partitions: Replay,
    meta: MetaRecovery,
}

impl ReplaySink {
    /// An empty sink.
    pub fn new(options: &ShardOptions) -> Self {
        let partitions = Replay::new(time::unix_time_ms(), options.planted);
        Self { partitions, meta: MetaRecovery::default() }
    }

    /// Takes one entry.
    pub fn entry(&mut self, lsn: Lsn, entry: &crate::journal::Entry) {
        self.partitions.entry(lsn, entry);
        self.meta.replay(lsn, entry);
    }

    /// Everything replayed, with the partitions blamed that a corruption concerns.
    pub fn finish(self, report: ReplayReport) -> Replayed {
        let mut recovered = self.partitions.finish();
        if let Some(corruption) = &report.corruption {
            tracing::error!(message = %corruption.message, "the journal is corrupt");
            blame_lost(corruption, &mut recovered);
        }
        Replayed { recovered, meta: self.meta, report }
    }
}

/// Blames the partitions that lost entries, also those of which nothing else was replayed.
fn blame_lost(corruption: &Corruption, recovered: &mut Recovered) {
    let Some(lost) = &corruption.partitions else {
        for partition in recovered.partitions.values_mut() {
            partition.blame(&corruption.message);
        }
        return;
    };
    // Metadata's entries name no partition.
    for target in lost.iter().filter(|target| **target != TopicPartition::default()) {
        let unknown = || RecoveredPartition::lost(*target, corruption.at_lsn);
        let partition = recovered.partitions.entry(*target).or_insert_with(unknown);
        partition.blame(&corruption.message);
    }
}

impl Shard {
    /// Opens the journal of shard `index` and replays it. Serves nothing yet: partitions come into
    /// service with the first [`Shard::apply_image`].
    ///
    /// # Errors
    /// The journal's.
    pub async fn open(
        index: usize,
        shards: usize,
        options: ShardOptions,
        journal: JournalOptions,
        defaults: NodeDefaults,
    ) -> Result<(Rc<Self>, MetaRecovery, ReplayReport), JournalError> {
        let mut sink = ReplaySink::new(&options);
        let (journal, report) = Journal::open(journal, |lsn, entry| sink.entry(lsn, &entry)).await?;
        let Replayed { recovered, meta, report } = sink.finish(report);
        let shard = Rc::new(Self::new(index, shards, options, journal, defaults));
        if let Some(corruption) = &report.corruption
            && corruption.partitions.is_none()
        {
            *shard.lost.borrow_mut() = Some(corruption.message.clone());
        }
        for target in recovered.deleted {
            shard.finish_deletion(target);
        }
        for partition in recovered.partitions.into_values() {
            shard.adopt_replayed(partition).await;
        }
        shard.spawn_tasks();
        Ok((shard, meta, report))
    }

    /// Makes a replayed partition the shard's own. It is a stray until metadata claims it.
    async fn adopt_replayed(self: &Rc<Self>, recovered: RecoveredPartition) {
        let RecoveredPartition { mut state, tail, state_lsn, cut_segments_to, fault, .. } = recovered;
        let target = state.target;
        let config = Rc::new(TopicConfig::effective(&BTreeMap::new(), &self.defaults()));
        let log = self.segment_log(&state, &config);
        let mut uncut = None;
        if let Some(end) = cut_segments_to {
            match log.truncate_to(end).await {
                Ok(position) => state.position = position,
                Err(error) => uncut = Some(format!("segments cannot be truncated: {error}")),
            }
        }
        let mut partition = Partition::new(state, tail, Some(state_lsn), log, config);
        if let Some(reason) = fault {
            tracing::error!(partition = %target, %reason, "partition is offline");
            partition.set_fault(&reason);
        }
        if let Some(reason) = uncut {
            // The next start tries again: the truncation is still in the journal.
            tracing::error!(partition = %target, %reason, "partition is offline");
            partition.take_offline(&reason);
        }
        self.count_tail(&partition);
        self.strays.borrow_mut().insert(target, super::cell(partition));
    }

    /// Makes a partition that was drained from another journal the shard's own, and journals its
    /// state here. Not in service before metadata claims it.
    pub fn adopt_drained(self: &Rc<Self>, states: Vec<PartitionState>) -> Option<Lsn> {
        let mut cells = Vec::with_capacity(states.len());
        for state in states {
            let config = Rc::new(TopicConfig::effective(&BTreeMap::new(), &self.defaults()));
            let log = self.segment_log(&state, &config);
            let target = state.target;
            let cell = super::cell(Partition::new(state, Vec::new(), None, log, config));
            self.strays.borrow_mut().insert(target, Rc::clone(&cell));
            cells.push(cell);
        }
        self.checkpoint_now(&cells);
        self.journal.last_appended()
    }

    fn count_tail(&self, partition: &Partition) {
        let tail = partition.tail();
        self.tail_bytes.set(self.tail_bytes.get() + tail.bytes());
        if partition.offline().is_none() {
            self.unflushed_bytes.set(self.unflushed_bytes.get() + tail.unflushed_bytes());
        }
    }

    fn segment_log(&self, state: &PartitionState, config: &TopicConfig) -> Rc<SegmentLog> {
        let dir = node_dir::partition_dir(&self.options.data_dir, &state.target);
        let options = segment_options(config, &self.options);
        let files = Rc::clone(&self.files);
        let log = SegmentLog::new(dir, state.target, state.position, state.log_start, options, files);
        Rc::new(log.with_swaps(state.swaps))
    }

    /// Brings the shard's partitions in line with the metadata: creates, updates, deletes.
    pub async fn apply_image(self: &Rc<Self>, image: Arc<MetaImage>) {
        let old = self.image();
        if image.version < old.version {
            return;
        }
        let same_defaults = image.node_configs == old.node_configs;
        if !same_defaults {
            let defaults = self.defaults().with_dynamic(&image.node_configs, self.options.node);
            *self.defaults.borrow_mut() = Rc::new(defaults);
        }
        for (id, topic) in &image.topics {
            let unchanged = old.topics.get(id).is_some_and(|before| Arc::ptr_eq(before, topic));
            if !unchanged || !same_defaults {
                self.apply_topic(topic);
                yield_if_needed().await;
            }
        }
        let mut deletes = false;
        for (id, topic) in &old.topics {
            if !image.topics.contains_key(id) {
                self.delete_topic(topic);
                deletes = true;
            }
        }
        if deletes {
            // Nothing of them is in memory, but that they were.
            self.evictable.borrow_mut().retain(|cell| !cell.borrow().is_deleted());
        }
        if old.version == 0 {
            self.sort_out_strays(&image);
        }
        *self.image.borrow_mut() = image;
        self.seat_coordinators();
    }

    fn apply_topic(self: &Rc<Self>, topic: &TopicMeta) {
        // Metadata validated the configs when they were set; a newer node may know more of them.
        let config = Rc::new(TopicConfig::effective(&topic.configs, &self.defaults()));
        let newest = self.journal.last_appended();
        for (partition, meta) in (0_i32..).zip(&topic.partitions) {
            let partition = PartitionId(partition);
            let here = topic.shard_of(partition, self.shards) == self.index;
            if !here || meta.leader != Some(self.options.node) {
                continue;
            }
            let target = TopicPartition::new(topic.id, partition);
            let cell = self.claim(target, &config);
            let mut partition = cell.borrow_mut();
            if **partition.config() != *config {
                self.retention.hurry();
                self.cleaner.want();
            }
            partition.log().set_options(segment_options(&config, &self.options));
            let before = partition.config().durability;
            partition.set_leadership(meta.leader_epoch, meta.isr.len(), Rc::clone(&config), newest);
            if let (Durability::Write, Durability::Fsync, Some(newest)) = (before, config.durability, newest)
            {
                // Who asked for it may take what was acknowledged before for synced, soon.
                self.journal.request_sync(newest);
            }
        }
    }

    /// The partition in service: the one in service already, the replayed one, or a new one.
    fn claim(self: &Rc<Self>, target: TopicPartition, config: &Rc<TopicConfig>) -> PartitionCell {
        if let Some(cell) = self.partitions.borrow().get(&target) {
            return Rc::clone(cell);
        }
        let replayed = self.strays.borrow_mut().remove(&target);
        let cell = replayed.unwrap_or_else(|| {
            let state = PartitionState::empty(target);
            let log = self.segment_log(&state, config);
            let mut partition = Partition::new(state, Vec::new(), None, log, Rc::clone(config));
            if let Some(lost) = self.lost.borrow().as_ref() {
                partition.set_fault(lost);
            }
            if let Some(reason) = self.fault.borrow().as_ref() {
                partition.take_offline(reason);
            }
            super::cell(partition)
        });
        self.partitions.borrow_mut().insert(target, Rc::clone(&cell));
        cell
    }

    fn delete_topic(self: &Rc<Self>, topic: &TopicMeta) {
        for partition in (0_i32..).take(topic.partitions.len()) {
            let target = TopicPartition::new(topic.id, PartitionId(partition));
            let cell = self.partitions.borrow_mut().remove(&target);
            if let Some(cell) = cell {
                self.delete_partition(target, &cell);
            }
        }
    }

    /// What the journal holds and no topic claims was deleted, if metadata remembers that; otherwise
    /// it is kept.
    fn sort_out_strays(self: &Rc<Self>, image: &MetaImage) {
        let strays: Vec<_> =
            self.strays.borrow().iter().map(|(target, cell)| (*target, Rc::clone(cell))).collect();
        for (target, cell) in strays {
            if image.deleted_topics.contains(&target.topic) {
                self.strays.borrow_mut().remove(&target);
                self.delete_partition(target, &cell);
            } else {
                let log_end = cell.borrow().log_end();
                tracing::warn!(partition = %target, %log_end, "no topic claims this partition: kept as a stray");
            }
        }
    }

    /// Journals the deletion; files go once it is synced.
    fn delete_partition(self: &Rc<Self>, target: TopicPartition, cell: &PartitionCell) {
        self.take_offline(cell, "the topic was deleted");
        self.uncount_tail(cell);
        self.deletions.borrow_mut().insert(target, self.journal.append(deletion(target)));
        self.spawn_removal(target, Some(Rc::clone(cell)));
    }

    fn uncount_tail(&self, cell: &PartitionCell) {
        let mut partition = cell.borrow_mut();
        let before = (partition.tail().bytes(), partition.tail().unflushed_bytes());
        partition.drop_tail();
        self.tail_shrank(before, &partition);
    }

    /// A deletion that an earlier run journalled, whose files may still be there.
    fn finish_deletion(self: &Rc<Self>, target: TopicPartition) {
        self.deletions.borrow_mut().insert(target, self.journal.append(deletion(target)));
        self.spawn_removal(target, None);
    }

    fn spawn_removal(self: &Rc<Self>, target: TopicPartition, cell: Option<PartitionCell>) {
        let shard = Rc::clone(self);
        task::spawn_in(Class::Background, async move {
            if let Err(error) = shard.remove_files(target, cell).await {
                // The deletion stays journalled, so the next start tries again.
                tracing::error!(partition = %target, %error, "a deleted partition's files remain");
            }
        });
    }

    async fn remove_files(
        self: &Rc<Self>,
        target: TopicPartition,
        cell: Option<PartitionCell>,
    ) -> Result<(), RemoveError> {
        let lsn = self.deletions.borrow().get(&target).copied();
        if let Some(lsn) = lsn {
            self.journal.wait_synced(lsn).await?;
        }
        if let Some(cell) = &cell {
            self.claim_flush(cell).await;
            let log = Rc::clone(cell.borrow().log());
            let deleted = log.delete_all().await;
            self.release_flush(cell);
            deleted?;
        }
        let dir = node_dir::partition_dir(&self.options.data_dir, &target);
        if fs::exists(&dir).await? {
            fs::remove_dir_all(&dir).await?;
        }
        let topic = node_dir::topic_dir(&self.options.data_dir, &target);
        // The last partition takes the topic's directory with it; until then this fails.
        let _ = fs::remove_dir(&topic).await;
        self.deletions.borrow_mut().remove(&target);
        Ok(())
    }

    /// Stops the shard: what is in flight is finished by the connections before this is called.
    /// Writes everything down so that the next start has little to replay.
    ///
    /// # Errors
    /// The journal's.
    pub async fn stop(self: &Rc<Self>) -> Result<(), ReclaimError> {
        if self.stopping.replace(true) {
            return Ok(());
        }
        self.retry_parked();
        self.close_coordinators();
        self.flush_wanted.notify_waiters();
        self.relief_wanted.notify_one();
        self.retention.hurry();
        self.cleaner.stop();
        if self.fault.borrow().is_none()
            && let Some(newest) = self.journal.last_appended()
        {
            self.reclaim(newest.next()).await?;
        }
        self.journal.clone().close().await?;
        Ok(())
    }

    /// Partitions that no topic claims.
    pub fn strays(&self) -> BTreeSet<TopicPartition> {
        self.strays.borrow().keys().copied().collect()
    }
}

fn deletion(target: TopicPartition) -> crate::journal::Entry {
    entry(EntryKind::DeletePartition, target, Offset(0))
}

/// Why a deleted partition's files could not be removed.
#[derive(Debug, thiserror::Error)]
enum RemoveError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What a topic's configuration means for its segments.
pub fn segment_options(config: &TopicConfig, options: &ShardOptions) -> SegmentOptions {
    // What may not stay uncompacted for longer must not be in the active segment for longer.
    let segment_ms = match config.cleanup.compact {
        true => config.segment_ms.min(config.max_compaction_lag_ms),
        false => config.segment_ms,
    };
    SegmentOptions {
        segment_bytes: config.segment_bytes,
        segment_ms,
        segment_jitter_ms: config.segment_jitter_ms,
        index_interval_bytes: config.index_interval_bytes,
        planted: options.planted,
    }
}
