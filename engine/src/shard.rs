//! What one core owns: a journal, the partitions placed here, and their segments.
//!
//! Requests come down from [`crate::engine`], on this shard or over the mesh; nothing here calls
//! upward. A produce is appended synchronously, in the order of calls; it is answered when the
//! journal's progress passes its entry ([`acks`]). Segments are written behind ([`flush`]), and the
//! oldest journal file is made superfluous when it is wanted back ([`reclaim`]). What is too old or
//! too much goes a segment at a time ([`retain`]), and what has a newer record of its key is left
//! out of its segment ([`clean`]).

mod acks;
mod clean;
mod describe;
mod details;
mod fetch;
mod flush;
mod groups;
mod produce;
mod reclaim;
mod relief;
mod retain;
mod stages;
pub mod start;
mod stats;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corelog_protocol::batch::Scratch;
use corelog_runtime::rate::RateLimit;
use corelog_runtime::task::{self, Class};
use tokio::sync::Notify;

use self::acks::AckQueue;
use self::clean::Cleaner;
pub use self::clean::{CleanOptions, CleanerStats};
pub use self::details::{DetailsWanted, PartitionDetails, ShardDetails};
pub use self::fetch::Watch;
use self::groups::Coordinators;
use self::retain::Retention;
pub use self::retain::{RemovedStats, RetentionStats};
use self::stages::Stages;
pub use self::stages::{ProducedStats, ReadStats, StageStats};
pub use self::stats::{GroupStats, MemoryUse, ShardStats};
use crate::api::PartitionError;
use crate::group::GroupConfig;
use crate::journal::{Entry, EntryKind, Journal, JournalError};
use crate::log::{FileCache, FileCacheOptions};
use crate::meta::Meta;
use crate::meta::image::MetaImage;
use crate::partition::Partition;
use crate::planted::PlantedBug;
use crate::topic_config::NodeDefaults;
use crate::types::{LeaderEpoch, Lsn, NodeId, Offset, TopicPartition};

/// Limits of a shard. Sizes are per shard.
#[derive(Debug, Clone)]
pub struct ShardOptions {
    /// The node's data directory.
    pub data_dir: PathBuf,
    /// This node.
    pub node: NodeId,
    /// Batches that are in segments may stay in memory up to this size.
    pub tail_cache_bytes: usize,
    /// Batches that only the journal holds: at this size produces wait.
    pub unflushed_bytes_max: usize,
    /// A partition with so much unflushed data is written to its segments.
    pub flush_chunk_bytes: usize,
    /// A tail of at least this size is written to segments instead of being carried forward in the
    /// journal.
    pub carry_bytes_max: usize,
    /// Appended and not yet written to the journal: at this size produces wait.
    pub journal_queue_bytes_max: usize,
    /// Segment files held open.
    pub open_files_max: usize,
    /// How groups are coordinated.
    pub groups: GroupConfig,
    /// How often it is looked for segments that are too old or too much.
    pub retention_check_interval: Duration,
    /// How logs are compacted.
    pub clean: CleanOptions,
    /// The bug that a crash test wants this shard to have.
    pub planted: PlantedBug,
}

/// Lines in the log about segments that cannot be read, in a second.
const READ_ERRORS_PER_SECOND: u32 = 5;

/// A partition, shared by the tasks of its shard.
pub(crate) type PartitionCell = Rc<RefCell<Partition>>;

/// One core's share of a node.
pub struct Shard {
    index: usize,
    shards: usize,
    options: ShardOptions,
    journal: Journal,
    files: Rc<FileCache>,
    partitions: RefCell<BTreeMap<TopicPartition, PartitionCell>>,
    image: RefCell<Arc<MetaImage>>,
    /// Partitions that no topic claims: kept, never served, reported.
    strays: RefCell<BTreeMap<TopicPartition, PartitionCell>>,
    acks: AckQueue,
    coordinators: Coordinators,
    parked: RefCell<VecDeque<produce::Parked>>,
    scratch: RefCell<Scratch>,
    stages: Stages,
    tail_bytes: Cell<usize>,
    /// Of partitions in service: what flushes make less.
    unflushed_bytes: Cell<usize>,
    /// Of these, what flushes that are under way write.
    flushing_bytes: Cell<usize>,
    /// Ever appended since the start.
    appended_bytes: Cell<u64>,
    /// One element per batch that is in segments and still in memory, oldest first.
    evictable: RefCell<VecDeque<PartitionCell>>,
    flush_queue: RefCell<VecDeque<PartitionCell>>,
    /// The last flush found no space on the disk.
    segments_full: Cell<bool>,
    /// Partitions out of service keep the journal from giving files back.
    is_journal_held: Cell<bool>,
    flush_wanted: Notify,
    /// Much is unflushed.
    relief_wanted: Notify,
    /// A partition's right to flush was given back, or a flush ended.
    flush_ended: Notify,
    retention: Retention,
    cleaner: Cleaner,
    next_watch: Cell<u64>,
    /// Lines about segments that cannot be read.
    read_errors: RateLimit,
    /// Set on shard 0, whose journal holds the metadata's log.
    meta: RefCell<Option<Meta>>,
    /// Deletions whose files are not gone yet, and the journal entry that says so.
    deletions: RefCell<BTreeMap<TopicPartition, Lsn>>,
    /// Set when the journal lost acknowledged entries and cannot tell of which partitions.
    lost: RefCell<Option<String>>,
    /// What topic configs default to now.
    defaults: RefCell<Rc<NodeDefaults>>,
    fault: RefCell<Option<String>>,
    stopping: Cell<bool>,
}

pub(crate) fn file_cache(options: &ShardOptions) -> FileCacheOptions {
    FileCacheOptions { open_files_max: options.open_files_max, ..FileCacheOptions::default() }
}

/// Shares a partition between its shard's tasks. Its segments ask it for the epoch of an offset,
/// since a batch's checksum does not cover that.
pub(crate) fn cell(partition: Partition) -> PartitionCell {
    let log = Rc::clone(partition.log());
    let cell = Rc::new(RefCell::new(partition));
    let weak = Rc::downgrade(&cell);
    log.check_epochs_with(Rc::new(move |offset| {
        let cell = weak.upgrade()?;
        cell.try_borrow().ok()?.epoch_at(offset)
    }));
    cell
}

impl Shard {
    fn new(
        index: usize,
        shards: usize,
        options: ShardOptions,
        journal: Journal,
        defaults: NodeDefaults,
    ) -> Self {
        Self {
            index,
            shards,
            journal,
            files: FileCache::new(file_cache(&options)),
            options,
            partitions: RefCell::default(),
            image: RefCell::default(),
            strays: RefCell::default(),
            acks: AckQueue::default(),
            coordinators: Coordinators::default(),
            parked: RefCell::default(),
            scratch: RefCell::default(),
            stages: Stages::new(),
            tail_bytes: Cell::new(0),
            unflushed_bytes: Cell::new(0),
            flushing_bytes: Cell::new(0),
            appended_bytes: Cell::new(0),
            evictable: RefCell::default(),
            flush_queue: RefCell::default(),
            segments_full: Cell::new(false),
            is_journal_held: Cell::new(false),
            flush_wanted: Notify::new(),
            relief_wanted: Notify::new(),
            flush_ended: Notify::new(),
            retention: Retention::default(),
            cleaner: Cleaner::default(),
            next_watch: Cell::new(0),
            read_errors: RateLimit::new(READ_ERRORS_PER_SECOND),
            meta: RefCell::default(),
            deletions: RefCell::default(),
            lost: RefCell::default(),
            defaults: RefCell::new(Rc::new(defaults)),
            fault: RefCell::default(),
            stopping: Cell::new(false),
        }
    }

    /// Shard 0 keeps the metadata's log in its journal.
    pub(crate) fn set_meta(&self, meta: Meta) {
        *self.meta.borrow_mut() = Some(meta);
    }

    /// The metadata quorum's member, on shard 0.
    pub fn meta(&self) -> Option<Meta> {
        self.meta.borrow().clone()
    }

    /// Which shard of the node this is.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The metadata as this shard knows it.
    pub fn image(&self) -> Arc<MetaImage> {
        Arc::clone(&self.image.borrow())
    }

    /// What topic configs default to on this node now.
    pub fn defaults(&self) -> Rc<NodeDefaults> {
        Rc::clone(&self.defaults.borrow())
    }

    /// Why this shard serves nothing any more, if so.
    pub fn fault(&self) -> Option<String> {
        self.fault.borrow().clone()
    }

    /// The shard's journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// What is measured on this shard.
    pub(crate) fn stages(&self) -> &Stages {
        &self.stages
    }

    pub(crate) fn partition(&self, target: &TopicPartition) -> Result<PartitionCell, PartitionError> {
        if self.stopping.get() {
            return Err(PartitionError::Stopping);
        }
        self.partitions.borrow().get(target).cloned().ok_or(PartitionError::UnknownPartition)
    }

    /// A partition that is in service, for a client that knows `current` as its leader epoch.
    pub(crate) fn serving(
        &self,
        target: &TopicPartition,
        current: Option<LeaderEpoch>,
    ) -> Result<PartitionCell, PartitionError> {
        let cell = self.partition(target)?;
        cell.borrow().check_serving(current)?;
        Ok(cell)
    }

    /// Starts the shard's own tasks. They end with the journal.
    pub(crate) fn spawn_tasks(self: &Rc<Self>) {
        task::spawn_in(Class::Serve, Rc::clone(self).follow_journal());
        for _ in 0..flush::WORKERS {
            task::spawn_in(Class::Background, Rc::clone(self).flush_worker());
        }
        task::spawn_in(Class::Background, Rc::clone(self).relief_worker());
    }

    /// Starts giving journal files back, and segments. Not before metadata has taken over what the
    /// journal of shard 0 holds of it: until then nobody says what is still needed. Nor before the
    /// new journals are the node's, where the number of shards changed: until then another start
    /// would replay the old ones, with positions in segments that a trim in a new one removed.
    pub(crate) fn spawn_removers(self: &Rc<Self>) {
        task::spawn_in(Class::Background, Rc::clone(self).reclaim_worker());
        task::spawn_in(Class::Background, Rc::clone(self).retention_worker());
        task::spawn_in(Class::Background, Rc::clone(self).clean_worker());
    }

    /// Turns the journal's progress into high watermarks and acknowledgements.
    async fn follow_journal(self: Rc<Self>) {
        let mut seen = self.journal.progress();
        self.acks.advance(seen);
        loop {
            match self.journal.changed(seen).await {
                Ok(progress) => {
                    seen = progress;
                    self.acks.advance(progress);
                    self.retry_parked();
                }
                Err(error) => {
                    if !matches!(error, JournalError::Closed) {
                        self.fence(&error);
                    }
                    self.acks.abandon();
                    return;
                }
            }
        }
    }

    /// Nothing is acknowledged or served from here any more: what was read back after a failed sync
    /// may never have reached the disk.
    fn fence(self: &Rc<Self>, error: &JournalError) {
        let reason = format!("shard {} is fenced after an I/O error: {error}", self.index);
        tracing::error!(shard = self.index, %error, "journal failed, the shard is fenced");
        *self.fault.borrow_mut() = Some(reason.clone());
        for cell in self.partitions.borrow().values() {
            self.take_offline(cell, &reason);
        }
        self.retry_parked();
    }

    /// Takes a partition out of service. What memory and the journal alone have of it stays there; no
    /// flush will make that less, so nobody waits for it.
    fn take_offline(&self, cell: &PartitionCell, reason: &str) {
        let mut partition = cell.borrow_mut();
        if partition.offline().is_none() {
            let unflushed = partition.tail().unflushed_bytes();
            self.unflushed_bytes.set(self.unflushed_bytes.get() - unflushed);
        }
        partition.take_offline(reason);
    }

    /// Forgets records of `target` at and after `end`, for good.
    ///
    /// # Errors
    /// Unknown partition; an `end` outside of the log; the journal's failure.
    pub async fn truncate(
        self: &Rc<Self>,
        target: TopicPartition,
        end: Offset,
    ) -> Result<(), PartitionError> {
        let cell = self.serving(&target, None)?;
        self.claim_to_truncate(&cell).await;
        let result = self.truncate_claimed(&cell, end).await;
        self.release_flush(&cell);
        result
    }

    async fn truncate_claimed(&self, cell: &PartitionCell, end: Offset) -> Result<(), PartitionError> {
        self.check_cut(cell, end).await?;
        let (lsn, log, below_segments) = {
            let mut partition = cell.borrow_mut();
            let (log_start_offset, high_watermark) = (partition.log_start(), partition.high_watermark());
            if end < log_start_offset || end > partition.log_end() {
                return Err(PartitionError::OffsetOutOfRange { log_start_offset, high_watermark });
            }
            let lsn = self.journal.append(entry(EntryKind::TruncateTo, partition.target(), end));
            let before = (partition.tail().bytes(), partition.tail().unflushed_bytes());
            partition.truncate_to(end);
            self.tail_shrank(before, &partition);
            (lsn, Rc::clone(partition.log()), partition.position().reaches_beyond(end))
        };
        self.journal.wait_synced(lsn).await.map_err(|error| PartitionError::Offline(error.to_string()))?;
        if below_segments {
            let cut = log.truncate_to(end).await;
            if let Err(error) = cut {
                if log.position().reaches_beyond(end) {
                    // The journal has it, and the next start does it.
                    self.take_offline(cell, &error.to_string());
                }
                return Err(PartitionError::Offline(error.to_string()));
            }
            self.checkpoint_now(std::slice::from_ref(cell));
        }
        Ok(())
    }

    /// Whether a log that was compacted may be cut there: what stands for several batches cannot.
    async fn check_cut(&self, cell: &PartitionCell, end: Offset) -> Result<(), PartitionError> {
        let (log, log_start_offset, high_watermark, is_in_segments) = {
            let partition = cell.borrow();
            let is_in_segments = partition.position().reaches_beyond(end) && end > partition.log_start();
            (Rc::clone(partition.log()), partition.log_start(), partition.high_watermark(), is_in_segments)
        };
        if log.swaps().generation == 0 || !is_in_segments {
            return Ok(());
        }
        let offline = |error: crate::log::LogError| PartitionError::Offline(error.to_string());
        log.finish_swap().await.map_err(offline)?;
        match log.batch_base_of(end).await {
            Ok(Some(base)) if base == end => Ok(()),
            Ok(_) => Err(PartitionError::OffsetOutOfRange { log_start_offset, high_watermark }),
            Err(error) => Err(offline(error)),
        }
    }

    /// Waits until everything appended so far is synced.
    async fn wait_appended(&self) -> Result<(), JournalError> {
        match self.journal.last_appended() {
            Some(newest) => self.journal.wait_synced(newest).await,
            None => Ok(()),
        }
    }

    fn tail_shrank(&self, before: (usize, usize), partition: &Partition) {
        self.tail_bytes.set(self.tail_bytes.get() - (before.0 - partition.tail().bytes()));
        if partition.offline().is_none() {
            let unflushed = before.1 - partition.tail().unflushed_bytes();
            self.unflushed_bytes.set(self.unflushed_bytes.get() - unflushed);
        }
    }
}

/// An entry about a partition that carries no payload.
pub(crate) fn entry(kind: EntryKind, target: TopicPartition, offset: Offset) -> Entry {
    Entry { kind, target, base_offset: offset, leader_epoch: LeaderEpoch(-1), payload: Bytes::new() }
}
