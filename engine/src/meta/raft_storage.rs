//! openraft's storage traits over [`Store`] and the state machine.

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::io::{self, Cursor};
use std::ops::RangeBounds;
use std::rc::Rc;
use std::sync::Arc;

use openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{
    AnyError, EntryPayload, LogState, OptionalSend, RaftLogReader, RaftSnapshotBuilder, Snapshot,
    StorageIOError,
};

use super::command::MetaReply;
use super::image::MetaImage;
use super::log::StoredSnapshot;
use super::raft::{LogId, Members, RaftEntry, SnapshotMeta, StorageError, TypeConfig, Vote};
use super::state;
use super::store::Store;
use super::wire;
use crate::journal::JournalError;

impl RaftLogReader<TypeConfig> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, StorageError> {
        Ok(self.with(|log| log.range(range)))
    }
}

impl RaftLogStorage<TypeConfig> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        Ok(self.with(|log| LogState { last_purged_log_id: log.purged(), last_log_id: log.last() }))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        Store::save_vote(self, *vote)
            .await
            .map_err(|error| StorageIOError::write_vote(AnyError::new(&error)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.with(super::log::RaftLog::vote))
    }

    /// openraft waits for the callback before it does anything else, so the sync is waited for here
    /// rather than in a task of its own.
    async fn append<I>(&mut self, entries: I, flushed: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let synced = Store::append(self, entries.into_iter()).await;
        flushed.log_io_completed(synced.map_err(io::Error::other));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        Store::truncate(self, since).await.map_err(log_error)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        Store::purge(self, upto).await.map_err(log_error)
    }
}

fn log_error(error: JournalError) -> StorageError {
    StorageIOError::write_logs(AnyError::new(&error)).into()
}

/// Where the rest of the node sees the metadata.
pub(super) struct Publisher {
    image: RefCell<Arc<MetaImage>>,
    publish: Rc<dyn Fn(Arc<MetaImage>)>,
    open: Cell<bool>,
}

impl Publisher {
    /// Publishes nothing before [`open`](Self::open): on a restart the old entries are applied
    /// again, and nobody may see this node lead in an epoch of its last life.
    pub(super) fn new(publish: Rc<dyn Fn(Arc<MetaImage>)>) -> Self {
        Self { image: RefCell::default(), publish, open: Cell::new(false) }
    }

    pub(super) fn image(&self) -> Arc<MetaImage> {
        Arc::clone(&self.image.borrow())
    }

    pub(super) fn open(&self) {
        self.open.set(true);
        (self.publish)(self.image());
    }

    fn set(&self, image: &Arc<MetaImage>) {
        let before = self.image.replace(Arc::clone(image));
        if self.open.get() && before.version != image.version {
            (self.publish)(Arc::clone(image));
        }
    }
}

/// The metadata after some entry.
#[derive(Debug, Clone, Default)]
pub(super) struct Applied {
    pub(super) image: Arc<MetaImage>,
    pub(super) upto: Option<LogId>,
    pub(super) members: Members,
}

/// Applies committed entries and publishes the outcome.
pub(super) struct StateMachine {
    store: Store,
    applied: Applied,
    publisher: Rc<Publisher>,
}

impl StateMachine {
    /// Starts from the store's snapshot, whose image is `image`.
    pub(super) fn new(store: Store, image: Arc<MetaImage>, publisher: Rc<Publisher>) -> Self {
        let meta = store.with(|log| log.snapshot().map(|snapshot| snapshot.meta.clone()));
        let meta = meta.unwrap_or_default();
        let applied = Applied { image, upto: meta.last_log_id, members: meta.last_membership };
        publisher.set(&applied.image);
        Self { store, applied, publisher }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Members), StorageError> {
        Ok((self.applied.upto, self.applied.members.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<MetaReply>, StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let applied = &mut self.applied;
        let mut replies = Vec::new();
        for entry in entries {
            applied.upto = Some(entry.log_id);
            replies.push(match entry.payload {
                EntryPayload::Blank => MetaReply::Nothing,
                EntryPayload::Normal(command) => state::apply(&mut applied.image, command),
                EntryPayload::Membership(members) => {
                    applied.members = Members::new(Some(entry.log_id), members);
                    MetaReply::Nothing
                }
            });
        }
        self.publisher.set(&applied.image);
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { store: self.store.clone(), applied: self.applied.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        let image = wire::decode_image(&bytes)
            .map(Arc::new)
            .map_err(|error| StorageIOError::read_snapshot(Some(meta.signature()), AnyError::new(&error)))?;
        save_snapshot(&self.store, meta.clone(), bytes).await?;
        self.applied = Applied { image, upto: meta.last_log_id, members: meta.last_membership.clone() };
        self.publisher.set(&self.applied.image);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        Ok(self.store.with(|log| {
            log.snapshot().map(|stored| Snapshot {
                meta: stored.meta.clone(),
                snapshot: Box::new(Cursor::new(stored.image.to_vec())),
            })
        }))
    }
}

/// Writes a snapshot of the metadata as it was when the builder was made.
pub(super) struct SnapshotBuilder {
    store: Store,
    applied: Applied,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let meta = SnapshotMeta {
            last_log_id: self.applied.upto,
            last_membership: self.applied.members.clone(),
            snapshot_id: self.applied.upto.map_or_else(|| "empty".to_owned(), |upto| upto.to_string()),
        };
        let bytes = wire::encode_image(&self.applied.image);
        save_snapshot(&self.store, meta.clone(), bytes.clone()).await?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
}

async fn save_snapshot(store: &Store, meta: SnapshotMeta, image: Vec<u8>) -> Result<(), StorageError> {
    let signature = meta.signature();
    store
        .save_snapshot(StoredSnapshot { meta, image: Rc::from(image) })
        .await
        .map_err(|error| StorageIOError::write_snapshot(Some(signature), AnyError::new(&error)).into())
}
