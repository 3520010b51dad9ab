//! Starting a node: shard 0 leads, the others follow its messages.
//!
//! 1. The data directory is checked, and says which journal belongs to which shard.
//! 2. Every shard opens its journal and replays it. After a change of the number of shards the old
//!    journals are drained by shard 0 first: their tails go to segments, their states are adopted
//!    by the new owners, and only when those have synced them does the layout change.
//! 3. Metadata starts on shard 0's journal; its picture goes to every shard.
//! 4. The node is ready.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use corelog_runtime::fs;
use corelog_runtime::mesh::Mesh;
use corelog_runtime::task::{self, Class};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use tokio::sync::watch;

use super::{Engine, Inner};
use crate::journal::{Journal, JournalOptions, ReplayReport};
use crate::level::Level;
use crate::log::{FileCache, Roll, SegmentLog};
use crate::messages::{Change, ShardReply, ShardRequest};
use crate::meta::image::MetaImage;
use crate::meta::{Meta, MetaOptions, MetaRecovery};
use crate::node_dir::{self, JournalPlan, NodeDirError};
use crate::partition::state::PartitionState;
use crate::recovery::RecoveredPartition;
use crate::shard::start::{ReplaySink, segment_options};
use crate::shard::{Shard, ShardOptions, file_cache};
use crate::topic_config::{NodeDefaults, TopicConfig};
use crate::types::{Lsn, TopicPartition};

/// Segments written at a time while journals are drained.
const DRAIN_FLUSHES: usize = 8;

/// What a node is started with.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Limits of each shard.
    pub shard: ShardOptions,
    /// Sizes of each shard's journal; directory and id are filled in per shard.
    pub journal: JournalOptions,
    /// What metadata registers of this node.
    pub meta: MetaOptions,
    /// What topic configs default to.
    pub defaults: NodeDefaults,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Dir(#[from] NodeDirError),
    /// A shard could not open its journal.
    #[error("shard {shard}: {reason}")]
    Shard {
        /// Which one.
        shard: usize,
        /// What it said.
        reason: String,
    },
    /// A journal of an earlier layout could not be drained.
    #[error("journal {journal} of another number of shards could not be drained: {reason}")]
    Drain {
        /// Its id.
        journal: u64,
        /// What went wrong.
        reason: String,
    },
    /// Metadata could not be restored.
    #[error("metadata: {0}")]
    Metadata(String),
    /// Not this shard's fault.
    #[error("the node could not start; shard 0 says why")]
    GivenUp,
}

/// How far a start is, as shard 0 tells the others.
pub(super) const READY: u64 = 1;
/// It failed, and nothing follows.
pub(super) const GIVEN_UP: u64 = 2;

impl Engine {
    /// Starts this shard's part of a node; resolves when the whole node is in service.
    ///
    /// # Errors
    /// See [`BootError`]. The process is expected to end then.
    pub async fn start(
        mesh: Mesh<ShardRequest, ShardReply>,
        options: EngineOptions,
    ) -> Result<Self, BootError> {
        let engine = Self::new(mesh, options);
        task::spawn(engine.clone().serve());
        if engine.shard() == 0 {
            if let Err(error) = engine.boot().await {
                // They wait for this shard, which is about to be gone.
                engine.tell_all(|| Change::GiveUp).await;
                return Err(error);
            }
        } else {
            engine.inner.ready.reached(READY).await;
            if engine.inner.ready.get() == GIVEN_UP {
                return Err(BootError::GivenUp);
            }
        }
        Ok(engine)
    }

    fn new(mesh: Mesh<ShardRequest, ShardReply>, options: EngineOptions) -> Self {
        let inner = Inner {
            mesh,
            options,
            shard: OnceCell::new(),
            meta: OnceCell::new(),
            ready: Level::default(),
            image_version: Level::default(),
            broadcast: Level::default(),
            on_connection: RefCell::default(),
            watches: RefCell::default(),
            next_watch: Cell::new(0),
            producer_ids: RefCell::new(0..0),
            drained: RefCell::default(),
            all_drained: Level::default(),
        };
        Self { inner: Rc::new(inner) }
    }

    async fn boot(&self) -> Result<(), BootError> {
        let data_dir = &self.inner.options.shard.data_dir;
        let plan = node_dir::prepare(data_dir, self.shards()).await?;
        let drained = self.drain(&plan).await?;
        let others = (1..self.shards()).map(|shard| {
            self.inner.mesh.call(shard, ShardRequest::Change(Change::Open(plan.journals[shard])))
        });
        let (own, others) = futures_util::join!(self.open_shard(plan.journals[0]), join_all(others));
        for (shard, opened) in (1..).zip(others) {
            match opened {
                Ok(ShardReply::Opened(Ok(()))) => {}
                Ok(ShardReply::Opened(Err(reason))) => return Err(BootError::Shard { shard, reason }),
                Ok(_) | Err(_) => {
                    return Err(BootError::Shard { shard, reason: "it does not answer".to_owned() });
                }
            }
        }
        let own = own.map_err(|reason| BootError::Shard { shard: 0, reason })?;
        let (recovery, adopted) = match drained {
            Some(drained) => (drained.meta, drained.states),
            None => (own, Vec::new()),
        };
        let published = self.start_metadata(recovery).await?;
        if !plan.drain.is_empty() {
            self.adopt_everywhere(adopted, &plan).await?;
        }
        self.spawn_broadcast(published);
        let first = self.inner.meta.get().map_or(0, |meta| meta.image().version);
        self.inner.broadcast.reached(first).await;
        self.tell_all(|| Change::Ready).await;
        Ok(())
    }

    /// Opens this shard's journal and brings the shard up, without partitions in service.
    pub(super) async fn open_shard(&self, journal: u64) -> Result<MetaRecovery, String> {
        let options = &self.inner.options;
        let journal = journal_options(options, journal);
        let opened = Shard::open(
            self.shard(),
            self.shards(),
            options.shard.clone(),
            journal,
            options.defaults.clone(),
        );
        let (shard, meta, report) = opened.await.map_err(|error| error.to_string())?;
        if self.shard() == 0 {
            check_metadata(&report)?;
        }
        assert!(self.inner.shard.set(shard).is_ok(), "a shard is opened once");
        Ok(meta)
    }

    async fn start_metadata(
        &self,
        recovery: MetaRecovery,
    ) -> Result<watch::Receiver<Arc<MetaImage>>, BootError> {
        let shard = self.local();
        let (publish, published) = watch::channel(Arc::new(MetaImage::default()));
        let publish = Rc::new(move |image| drop(publish.send_replace(image)));
        let options = self.inner.options.meta.clone();
        let meta = Meta::start(options, recovery, shard.journal().clone(), publish).await;
        let meta = meta.map_err(|error| BootError::Metadata(error.to_string()))?;
        shard.set_meta(meta.clone());
        assert!(self.inner.meta.set(meta).is_ok(), "metadata is started once");
        Ok(published)
    }

    /// Sends every new picture of the metadata to every shard.
    fn spawn_broadcast(&self, mut published: watch::Receiver<Arc<MetaImage>>) {
        let engine = self.clone();
        published.mark_changed();
        task::spawn(async move {
            while published.changed().await.is_ok() {
                let image = Arc::clone(&published.borrow_and_update());
                engine.tell_all(|| Change::Image(Arc::clone(&image))).await;
                engine.inner.broadcast.raise(image.version);
            }
        });
    }

    /// Asks every shard for the same change and waits for all of them.
    async fn tell_all(&self, change: impl Fn() -> Change) {
        let calls =
            (0..self.shards()).map(|shard| self.inner.mesh.call(shard, ShardRequest::Change(change())));
        join_all(calls).await;
    }

    /// Empties the journals of another layout into segments.
    async fn drain(&self, plan: &JournalPlan) -> Result<Option<Drained>, BootError> {
        if plan.drain.is_empty() {
            return Ok(None);
        }
        let options = &self.inner.options;
        let mut drained = Drained { states: Vec::new(), meta: MetaRecovery::default() };
        for (index, journal) in plan.drain.iter().enumerate() {
            let failed = |reason: String| BootError::Drain { journal: *journal, reason };
            tracing::info!(journal, "draining the journal of another number of shards");
            let mut sink = ReplaySink::new(&options.shard);
            let journal_options = journal_options(options, *journal);
            let opened = Journal::open(journal_options, |lsn, entry| sink.entry(lsn, &entry)).await;
            let (emptied, report) = opened.map_err(|error| failed(error.to_string()))?;
            emptied.close().await.map_err(|error| failed(error.to_string()))?;
            let replayed = sink.finish(report);
            if index == 0 {
                check_metadata(&replayed.report).map_err(failed)?;
                drained.meta = replayed.meta;
            }
            if let Some(lost) = &replayed.report.corruption
                && lost.partitions.is_none()
            {
                let hint = "restart with the number of shards it was written with";
                return Err(failed(format!("{}: {hint}", lost.message)));
            }
            for target in &replayed.recovered.deleted {
                let dir = node_dir::partition_dir(&options.shard.data_dir, target);
                remove_dir(&dir).await.map_err(|error| failed(format!("{}: {error}", dir.display())))?;
            }
            let partitions = replayed.recovered.partitions.into_values();
            let states = flush_all(partitions, options).await;
            drained.states.extend(states.map_err(failed)?);
        }
        Ok(Some(drained))
    }

    /// Gives drained partitions to their new owners, and makes the new layout the node's.
    async fn adopt_everywhere(
        &self,
        states: Vec<PartitionState>,
        plan: &JournalPlan,
    ) -> Result<(), BootError> {
        let meta = self.inner.meta.get().expect("metadata was started");
        let image = meta.image();
        let mut by_owner: Vec<Vec<PartitionState>> = (0..self.shards()).map(|_| Vec::new()).collect();
        for state in states {
            by_owner[owner_of(&image, &state.target, self.shards())].push(state);
        }
        for (shard, states) in by_owner.into_iter().enumerate() {
            let call = self.inner.mesh.call(shard, ShardRequest::Change(Change::Adopt(states)));
            match call.await {
                Ok(ShardReply::Done) => {}
                Ok(ShardReply::Failed(reason)) => return Err(BootError::Shard { shard, reason }),
                Ok(_) | Err(_) => {
                    return Err(BootError::Shard { shard, reason: "it does not answer".to_owned() });
                }
            }
        }
        // Metadata was replayed from an old journal: all of it has to be in the new one.
        meta.compact(Lsn(u64::MAX)).await.map_err(|error| BootError::Metadata(error.to_string()))?;
        let data_dir = &self.inner.options.shard.data_dir;
        node_dir::write_layout(data_dir, &plan.journals).await?;
        node_dir::remove_unlisted_journals(data_dir, &plan.journals).await?;
        Ok(())
    }
}

/// What the journals of another layout held.
struct Drained {
    states: Vec<PartitionState>,
    meta: MetaRecovery,
}

fn journal_options(options: &EngineOptions, journal: u64) -> JournalOptions {
    let mut journal_options = options.journal.clone();
    journal_options.dir = node_dir::journal_dir(&options.shard.data_dir, journal);
    journal_options.journal_id = journal;
    journal_options
}

/// A journal that lost acknowledged metadata must not be taken for the truth.
fn check_metadata(report: &ReplayReport) -> Result<(), String> {
    let Some(corruption) = &report.corruption else { return Ok(()) };
    let metadata = TopicPartition::default();
    if corruption.partitions.as_ref().is_none_or(|lost| lost.contains(&metadata)) {
        return Err(format!(
            "acknowledged metadata may be lost, so the node does not start: {}; \
             `corelog verify` on the data directory shows what is readable",
            corruption.message
        ));
    }
    Ok(())
}

fn owner_of(image: &MetaImage, target: &TopicPartition, shards: usize) -> usize {
    // A stray stays with shard 0: it has to be somewhere.
    image.topics.get(&target.topic).map_or(0, |topic| topic.shard_of(target.partition, shards))
}

/// Removes what a deletion that was journalled left behind.
async fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Writes the tails of all partitions to their segments.
async fn flush_all(
    partitions: impl Iterator<Item = RecoveredPartition>,
    options: &EngineOptions,
) -> Result<Vec<PartitionState>, String> {
    let files = FileCache::new(file_cache(&options.shard));
    let flushes = partitions.map(|partition| {
        let flush = flush_one(partition, options.clone(), Rc::clone(&files));
        task::spawn_join(Class::Serve, flush)
    });
    let results: Vec<_> = stream::iter(flushes).buffered(DRAIN_FLUSHES).collect().await;
    results.into_iter().collect()
}

async fn flush_one(
    recovered: RecoveredPartition,
    options: EngineOptions,
    files: Rc<FileCache>,
) -> Result<PartitionState, String> {
    let RecoveredPartition { mut state, tail, cut_segments_to, fault, .. } = recovered;
    let dir = node_dir::partition_dir(&options.shard.data_dir, &state.target);
    let config = TopicConfig::effective(&std::collections::BTreeMap::new(), &options.defaults);
    let segments = segment_options(&config, &options.shard);
    let log = SegmentLog::new(dir, state.target, state.position, state.log_start, segments, files)
        .with_swaps(state.swaps);
    if let Some(end) = cut_segments_to {
        state.position = log.truncate_to(end).await.map_err(|error| error.to_string())?;
    }
    let batches: Vec<_> = tail.into_iter().map(|batch| batch.bytes).collect();
    if !batches.is_empty() {
        state.position = log.flush(&batches, Roll::CloseAll).await.map_err(|error| error.to_string())?;
    }
    state.swaps = log.swaps();
    state.fault = state.fault.or(fault);
    Ok(state)
}
