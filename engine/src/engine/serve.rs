//! The messages that this shard answers to the others of its node.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use corelog_protocol::error::ErrorCode;
use corelog_runtime::mesh::{Incoming, Reply};
use corelog_runtime::task;
use corelog_runtime::time::Instant;
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::Engine;
use super::boot::{GIVEN_UP, READY};
use crate::api::{EpochEnd, FoundOffset, PartitionError, TopicError};
use crate::messages::{Change, EpochPart, OffsetPart, ShardReply, ShardRequest, TrimPart};
use crate::meta::image::{MetaImage, TopicMeta};
use crate::shard::Shard;
use crate::types::{Offset, TopicPartition};

impl Engine {
    /// Serves the mesh for as long as the node runs. Requests are begun in the order in which they
    /// arrive; whatever has to wait goes on in a task of its own.
    pub(super) async fn serve(self) {
        while let Some(Incoming { from, q, reply }) = self.inner.mesh.next().await {
            self.begin(from, q, reply);
        }
    }

    fn begin(&self, from: usize, request: ShardRequest, reply: Option<Reply<ShardReply>>) {
        match request {
            // Appended here and now: a later request must not overtake it.
            ShardRequest::Produce(acks, parts) => {
                let arrived = Instant::now();
                let produce = self.local().produce(acks, parts);
                answer(reply, async move { ShardReply::Produced(produce.await, arrived.elapsed()) });
            }
            ShardRequest::Read(parts, max_bytes) => {
                let (arrived, shard) = (Instant::now(), Rc::clone(self.local()));
                answer(reply, async move {
                    let read = shard.read(&parts, max_bytes).await;
                    ShardReply::Read(read, arrived.elapsed())
                });
            }
            ShardRequest::Watch(name, seen) => self.begin_watch((from, name), &seen, reply),
            ShardRequest::Unwatch(name) => {
                self.inner.watches.borrow_mut().remove(&(from, name));
            }
            ShardRequest::ListOffsets(parts) => {
                let shard = Rc::clone(self.local());
                answer(reply, async move { ShardReply::Offsets(list_offsets(&shard, parts).await) });
            }
            ShardRequest::EpochEnds(parts) => {
                let ends = epoch_ends(self.local(), &parts);
                answer(reply, async move { ShardReply::EpochEnds(ends) });
            }
            ShardRequest::Trim(parts) => {
                let shard = Rc::clone(self.local());
                answer(reply, async move { ShardReply::Trimmed(trim(&shard, parts).await) });
            }
            ShardRequest::Group(call) => {
                let asked = self.local().group(call.target, call.client, call.request);
                answer(reply, async move {
                    let said = asked.await.unwrap_or(Err(ErrorCode::NotCoordinator));
                    ShardReply::Group(Box::new(said))
                });
            }
            ShardRequest::ListGroups(filter) => {
                let groups = self.local().list_groups(&filter);
                answer(reply, async move { ShardReply::Groups(groups) });
            }
            ShardRequest::Sizes(targets) => {
                let shard = Rc::clone(self.local());
                answer(reply, async move { ShardReply::Sizes(shard.sizes(&targets).await) });
            }
            ShardRequest::Producers(targets) => {
                let producers = self.local().producers(&targets);
                answer(reply, async move { ShardReply::Producers(producers) });
            }
            ShardRequest::Stats => {
                let stats = Box::new(self.own_stats());
                answer(reply, async move { ShardReply::Stats(stats) });
            }
            ShardRequest::Details(wanted) => {
                let shard = Rc::clone(self.local());
                answer(reply, async move { ShardReply::Details(Box::new(shard.details(wanted).await)) });
            }
            ShardRequest::Connection(accepted, listener) => {
                // Without a handler the node is not up yet or already down: the peer sees a close.
                let handler = self.inner.on_connection.borrow().clone();
                if let Some(handler) = handler {
                    handler(accepted, listener);
                }
            }
            ShardRequest::Drained => {
                self.inner.drained.borrow_mut().extend(reply);
                let count = self.inner.drained.borrow().len();
                self.inner.all_drained.raise(count as u64);
            }
            ShardRequest::Change(change) => {
                let engine = self.clone();
                answer(reply, async move { engine.change(change).await });
            }
        }
    }

    /// Requests that change what this shard or the node is.
    async fn change(&self, change: Change) -> ShardReply {
        match change {
            Change::Open(journal) => ShardReply::Opened(self.open_shard(journal).await.map(drop)),
            Change::Adopt(states) => self.adopt(states).await,
            Change::Image(image) => {
                self.apply_image(image).await;
                ShardReply::Done
            }
            Change::Ready => {
                self.local().spawn_removers();
                self.inner.ready.raise(READY);
                ShardReply::Done
            }
            Change::GiveUp => {
                self.inner.ready.raise(GIVEN_UP);
                ShardReply::Done
            }
            Change::CreateTopics(topics, validate_only) => {
                let Some(meta) = self.inner.meta.get() else { return ShardReply::Topics(Vec::new()) };
                let created = meta.create_topics(topics, validate_only).await;
                self.everywhere(created, validate_only).await
            }
            Change::DeleteTopics(topics) => {
                let Some(meta) = self.inner.meta.get() else { return ShardReply::Topics(Vec::new()) };
                let deleted = meta.delete_topics(topics).await;
                self.everywhere(deleted, false).await
            }
            Change::CreatePartitions(topics, validate_only) => {
                let Some(meta) = self.inner.meta.get() else { return ShardReply::Topics(Vec::new()) };
                let grown = meta.create_partitions(topics, validate_only).await;
                self.everywhere(grown, validate_only).await
            }
            Change::AlterConfigs(requests, validate_only) => {
                let Some(meta) = self.inner.meta.get() else {
                    return ShardReply::ConfigsAltered(Vec::new());
                };
                let altered = meta.alter_configs(requests, validate_only).await;
                self.inner.broadcast.reached(meta.image().version).await;
                ShardReply::ConfigsAltered(altered)
            }
            Change::ProducerIds(count) => ShardReply::ProducerIds(self.producer_ids(count).await),
            Change::Truncate(target, end) => {
                ShardReply::Cut(self.local().truncate(target, end).await.map(|()| end))
            }
        }
    }

    /// Takes over what was drained from another layout; answers when it is synced here.
    async fn adopt(&self, states: Vec<crate::partition::state::PartitionState>) -> ShardReply {
        let synced = match self.local().adopt_drained(states) {
            Some(lsn) => self.local().journal().wait_synced(lsn).await,
            None => Ok(()),
        };
        match synced {
            Ok(()) => ShardReply::Done,
            Err(error) => ShardReply::Failed(error.to_string()),
        }
    }

    /// Answers a change of topics once every shard knows it.
    async fn everywhere(
        &self,
        topics: Vec<Result<Arc<TopicMeta>, TopicError>>,
        validate_only: bool,
    ) -> ShardReply {
        if !validate_only && let Some(meta) = self.inner.meta.get() {
            self.inner.broadcast.reached(meta.image().version).await;
        }
        ShardReply::Topics(topics)
    }

    async fn producer_ids(&self, count: u32) -> Result<i64, TopicError> {
        let unavailable = |reason: String| TopicError::Unavailable(reason);
        let meta = self.inner.meta.get().ok_or_else(|| unavailable("metadata is not up".to_owned()))?;
        let ids = meta.allocate_producer_ids(count).await;
        ids.map(|ids| ids.start).map_err(|error| unavailable(error.to_string()))
    }

    pub(super) async fn apply_image(&self, image: Arc<MetaImage>) {
        let version = image.version;
        self.local().apply_image(image).await;
        self.inner.image_version.raise(version);
    }

    fn begin_watch(
        &self,
        key: (usize, u64),
        seen: &[(TopicPartition, Offset)],
        reply: Option<Reply<ShardReply>>,
    ) {
        let watch = self.local().watch(seen);
        let (unwatch, unwatched) = oneshot::channel();
        self.inner.watches.borrow_mut().insert(key, unwatch);
        let engine = self.clone();
        answer(reply, async move {
            // The second resolves when the asker dropped its watch.
            futures_lite::future::or(watch.changed(), async { drop(unwatched.await) }).await;
            engine.inner.watches.borrow_mut().remove(&key);
            ShardReply::Done
        });
    }
}

/// Runs `work` in a task of its own and sends its result to whoever asked, if anybody did.
fn answer(reply: Option<Reply<ShardReply>>, work: impl Future<Output = ShardReply> + 'static) {
    task::spawn(async move {
        let result = work.await;
        if let Some(reply) = reply {
            reply.send(result);
        }
    });
}

pub(super) async fn list_offsets(
    shard: &Shard,
    parts: Vec<OffsetPart>,
) -> Vec<Result<FoundOffset, PartitionError>> {
    let mut found = Vec::with_capacity(parts.len());
    for (target, current, query) in parts {
        found.push(shard.list_offset(target, current, query).await);
    }
    found
}

/// All of them wait for the same sync.
pub(super) async fn trim(shard: &Shard, parts: Vec<TrimPart>) -> Vec<Result<Offset, PartitionError>> {
    join_all(parts.into_iter().map(|(target, to)| shard.trim(target, to))).await
}

pub(super) fn epoch_ends(shard: &Shard, parts: &[EpochPart]) -> Vec<Result<EpochEnd, PartitionError>> {
    parts.iter().map(|(target, current, asked)| shard.epoch_end(*target, *current, *asked)).collect()
}
