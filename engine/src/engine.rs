//! One shard's view of the whole node: what `net` talks to.
//!
//! Splits a request by owning shard, sends the pieces over the mesh and joins the answers. Holds no
//! data of its own but the metadata's picture; never touches a journal or a segment.

mod admin;
mod boot;
mod details;
mod fetch;
mod groups;
mod serve;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use corelog_protocol::error::ErrorCode;
use corelog_runtime::mesh::Mesh;
use corelog_runtime::net::Accepted;
use corelog_runtime::time::Instant;
use futures_util::FutureExt;
use futures_util::future::{Either, LocalBoxFuture, join_all};
use tokio::sync::oneshot;

pub use self::boot::{BootError, EngineOptions};
pub use self::details::{Lag, NodeDetails};
pub use self::groups::OFFSETS_TOPIC;
use crate::api::{
    Acks, EpochEnd, FoundOffset, NewTopic, PartitionError, ProduceOutcome, ProducePart, TopicError, TopicRef,
};
use crate::level::Level;
use crate::messages::{Change, EpochPart, OffsetPart, ShardReply, ShardRequest, TrimPart};
use crate::meta::Meta;
use crate::meta::image::{MetaImage, TopicMeta};
use crate::partition::refusal;
use crate::shard::{Shard, ShardStats};
use crate::topic_config::{NodeDefaults, TopicConfig};
use crate::types::{NodeId, Offset, TopicPartition};

/// Producer ids that a shard reserves at a time.
const PRODUCER_ID_BLOCK: u32 = 1000;

/// What takes a connection that another shard accepted: the connection and its listener's index.
pub type ConnectionHandler = Rc<dyn Fn(Accepted, usize)>;

/// One shard's handle on the node. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Rc<Inner>,
}

struct Inner {
    mesh: Mesh<ShardRequest, ShardReply>,
    options: EngineOptions,
    shard: OnceCell<Rc<Shard>>,
    /// Shard 0 only.
    meta: OnceCell<Meta>,
    /// 1 once the node is in service.
    ready: Level,
    image_version: Level,
    /// Shard 0 only: the version that every shard has.
    broadcast: Level,
    on_connection: RefCell<Option<ConnectionHandler>>,
    /// Watches that other shards left here, by shard and name.
    watches: RefCell<BTreeMap<(usize, u64), oneshot::Sender<()>>>,
    next_watch: Cell<u64>,
    producer_ids: RefCell<Range<i64>>,
    /// Shard 0 only: shards that wait for the others to be drained.
    drained: RefCell<Vec<corelog_runtime::mesh::Reply<ShardReply>>>,
    all_drained: Level,
}

impl Engine {
    /// Which shard this is.
    pub fn shard(&self) -> usize {
        self.inner.mesh.shard()
    }

    /// How many shards the node has.
    pub fn shards(&self) -> usize {
        self.inner.mesh.shards()
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.inner.options.shard.node
    }

    /// What topic configs default to on this node now.
    pub fn defaults(&self) -> Rc<NodeDefaults> {
        self.local().defaults()
    }

    /// The metadata as this shard knows it.
    pub fn image(&self) -> Arc<MetaImage> {
        self.local().image()
    }

    /// Waits until this shard knows the metadata of that version.
    pub async fn image_at_least(&self, version: u64) {
        self.inner.image_version.reached(version).await;
    }

    /// A topic's effective configuration.
    pub fn topic_config(&self, topic: &TopicMeta) -> TopicConfig {
        TopicConfig::effective(&topic.configs, &self.defaults())
    }

    /// This shard itself, for tests and tools that look inside.
    pub fn local(&self) -> &Rc<Shard> {
        self.inner.shard.get().expect("a started engine has its shard")
    }

    /// The shard that owns a partition.
    fn owner(&self, target: &TopicPartition) -> Option<usize> {
        self.owner_in(&self.image(), target)
    }

    fn owner_in(&self, image: &MetaImage, target: &TopicPartition) -> Option<usize> {
        let topic = image.topics.get(&target.topic)?;
        topic.partition(target.partition)?;
        Some(topic.shard_of(target.partition, self.shards()))
    }

    /// Splits `parts` by owning shard, asks each with `ask` before this returns, and joins the
    /// answers in the order of `parts`. `missing` answers for partitions that nobody owns, and for
    /// a shard that did not answer.
    fn scatter<P, R: 'static>(
        &self,
        parts: Vec<P>,
        target: impl Fn(&P) -> TopicPartition,
        mut ask: impl FnMut(usize, Vec<P>) -> LocalBoxFuture<'static, Vec<R>>,
        missing: impl Fn() -> R + 'static,
    ) -> impl Future<Output = Vec<R>> + 'static {
        let total = parts.len();
        let mut groups: BTreeMap<usize, (Vec<usize>, Vec<P>)> = BTreeMap::new();
        for (index, part) in parts.into_iter().enumerate() {
            if let Some(owner) = self.owner(&target(&part)) {
                let (indexes, group) = groups.entry(owner).or_default();
                indexes.push(index);
                group.push(part);
            }
        }
        let asked: Vec<_> =
            groups.into_iter().map(|(owner, (indexes, group))| (indexes, ask(owner, group))).collect();
        async move {
            let mut answers: Vec<Option<R>> = std::iter::repeat_with(|| None).take(total).collect();
            let joined =
                join_all(asked.into_iter().map(async |(indexes, answer)| (indexes, answer.await))).await;
            for (indexes, group) in joined {
                for (index, answer) in indexes.into_iter().zip(group) {
                    answers[index] = Some(answer);
                }
            }
            answers.into_iter().map(|answer| answer.unwrap_or_else(&missing)).collect()
        }
    }

    /// Appends batches. They are on their way to their shards, in order, when this returns; the
    /// future has one outcome per part, in the order of `parts`.
    pub fn produce(
        &self,
        acks: Acks,
        parts: Vec<ProducePart>,
    ) -> impl Future<Output = Vec<ProduceOutcome>> + 'static {
        let image = self.image();
        let is_here = |part: &ProducePart| self.owner_in(&image, &part.target) == Some(self.shard());
        // Nearly every produce is for partitions of one shard, with enough connections of this one.
        if parts.iter().all(is_here) {
            return Either::Left(self.local().produce(acks, parts));
        }
        let ask = move |owner, parts| {
            if owner == self.shard() {
                return self.local().produce(acks, parts).boxed_local();
            }
            let (sent, shard) = (Instant::now(), Rc::clone(self.local()));
            let call = self.inner.mesh.call(owner, ShardRequest::Produce(acks, parts));
            async move {
                match call.await {
                    Ok(ShardReply::Produced(outcomes, work)) => {
                        shard.stages().forward.record_since(sent + work);
                        outcomes
                    }
                    Ok(_) | Err(_) => Vec::new(),
                }
            }
            .boxed_local()
        };
        let unknown = PartitionError::UnknownPartition;
        let missing = move || Err(refusal(ErrorCode::UnknownTopicOrPartition, unknown.to_string()));
        Either::Right(self.scatter(parts, |part| part.target, ask, missing))
    }

    /// Answers ListOffsets, one answer per part.
    pub async fn list_offsets(&self, parts: Vec<OffsetPart>) -> Vec<Result<FoundOffset, PartitionError>> {
        let ask = |owner, parts| {
            if owner == self.shard() {
                let shard = Rc::clone(self.local());
                return async move { serve::list_offsets(&shard, parts).await }.boxed_local();
            }
            let call = self.inner.mesh.call(owner, ShardRequest::ListOffsets(parts));
            async move {
                match call.await {
                    Ok(ShardReply::Offsets(offsets)) => offsets,
                    Ok(_) | Err(_) => Vec::new(),
                }
            }
            .boxed_local()
        };
        self.scatter(parts, |part| part.0, ask, || Err(PartitionError::UnknownPartition)).await
    }

    /// Answers OffsetForLeaderEpoch, one answer per part.
    pub async fn epoch_ends(&self, parts: Vec<EpochPart>) -> Vec<Result<EpochEnd, PartitionError>> {
        let ask = |owner, parts: Vec<EpochPart>| {
            if owner == self.shard() {
                return std::future::ready(serve::epoch_ends(self.local(), &parts)).boxed_local();
            }
            let call = self.inner.mesh.call(owner, ShardRequest::EpochEnds(parts));
            async move {
                match call.await {
                    Ok(ShardReply::EpochEnds(ends)) => ends,
                    Ok(_) | Err(_) => Vec::new(),
                }
            }
            .boxed_local()
        };
        self.scatter(parts, |part| part.0, ask, || Err(PartitionError::UnknownPartition)).await
    }

    /// Creates topics; returns once every shard knows them.
    pub async fn create_topics(
        &self,
        topics: Vec<NewTopic>,
        validate_only: bool,
    ) -> Vec<Result<Arc<TopicMeta>, TopicError>> {
        let count = topics.len();
        self.ask_metadata(Change::CreateTopics(topics, validate_only), count).await
    }

    /// Deletes topics; returns once every shard has forgotten them.
    pub async fn delete_topics(&self, topics: Vec<TopicRef>) -> Vec<Result<Arc<TopicMeta>, TopicError>> {
        let count = topics.len();
        self.ask_metadata(Change::DeleteTopics(topics), count).await
    }

    async fn ask_metadata(&self, change: Change, count: usize) -> Vec<Result<Arc<TopicMeta>, TopicError>> {
        let unavailable = || Err(TopicError::Unavailable("shard 0 does not answer".to_owned()));
        match self.inner.mesh.call(0, ShardRequest::Change(change)).await {
            Ok(ShardReply::Topics(topics)) if topics.len() == count => topics,
            Ok(_) | Err(_) => std::iter::repeat_with(unavailable).take(count).collect(),
        }
    }

    /// A producer id that nobody else gets.
    ///
    /// # Errors
    /// When metadata does not answer.
    pub async fn new_producer_id(&self) -> Result<i64, TopicError> {
        loop {
            if let Some(id) = self.inner.producer_ids.borrow_mut().next() {
                return Ok(id);
            }
            match self.inner.mesh.call(0, ShardRequest::Change(Change::ProducerIds(PRODUCER_ID_BLOCK))).await
            {
                Ok(ShardReply::ProducerIds(Ok(first))) => {
                    *self.inner.producer_ids.borrow_mut() = first..first + i64::from(PRODUCER_ID_BLOCK);
                }
                Ok(ShardReply::ProducerIds(Err(error))) => return Err(error),
                Ok(_) | Err(_) => {
                    return Err(TopicError::Unavailable("shard 0 does not answer".to_owned()));
                }
            }
        }
    }

    /// Forgets records at and after `end`, for good.
    ///
    /// # Errors
    /// See [`PartitionError`].
    pub async fn truncate(&self, target: TopicPartition, end: Offset) -> Result<Offset, PartitionError> {
        self.cut(target, Change::Truncate(target, end)).await
    }

    async fn cut(&self, target: TopicPartition, change: Change) -> Result<Offset, PartitionError> {
        let owner = self.owner(&target).ok_or(PartitionError::UnknownPartition)?;
        match self.inner.mesh.call(owner, ShardRequest::Change(change)).await {
            Ok(ShardReply::Cut(result)) => result,
            Ok(_) | Err(_) => Err(PartitionError::Stopping),
        }
    }

    /// Forgets the oldest records of partitions; one answer per part: where its log starts now. That
    /// is durable, and never below what was asked for.
    pub async fn trim(&self, parts: Vec<TrimPart>) -> Vec<Result<Offset, PartitionError>> {
        let ask = |owner, parts| {
            if owner == self.shard() {
                let shard = Rc::clone(self.local());
                return async move { serve::trim(&shard, parts).await }.boxed_local();
            }
            let call = self.inner.mesh.call(owner, ShardRequest::Trim(parts));
            async move {
                match call.await {
                    Ok(ShardReply::Trimmed(starts)) => starts,
                    Ok(_) | Err(_) => Vec::new(),
                }
            }
            .boxed_local()
        };
        self.scatter(parts, |part| part.0, ask, || Err(PartitionError::UnknownPartition)).await
    }

    /// This shard's numbers.
    fn own_stats(&self) -> ShardStats {
        let others = (0..self.shards()).filter(|shard| *shard != self.shard());
        let mesh_queued = others.map(|shard| self.inner.mesh.queued(shard)).sum();
        ShardStats { mesh_queued, ..self.local().stats() }
    }

    /// The numbers of every shard that answers, in the order of shards.
    pub async fn stats(&self) -> Vec<ShardStats> {
        // First its own: asking the others leaves messages in the queues that it tells of.
        let mut all = vec![self.own_stats()];
        let others = (0..self.shards()).filter(|shard| *shard != self.shard());
        let calls = others.map(|shard| self.inner.mesh.call(shard, ShardRequest::Stats));
        all.extend(join_all(calls).await.into_iter().filter_map(|reply| match reply {
            Ok(ShardReply::Stats(stats)) => Some(*stats),
            Ok(_) | Err(_) => None,
        }));
        all.sort_by_key(|stats| stats.shard);
        all
    }

    /// Gives an accepted connection to another shard.
    pub fn hand_over(&self, to: usize, accepted: Accepted, listener: usize) {
        self.inner.mesh.cast(to, ShardRequest::Connection(accepted, listener));
    }

    /// Says what takes connections that other shards hand over.
    pub fn on_connection(&self, handler: ConnectionHandler) {
        *self.inner.on_connection.borrow_mut() = Some(handler);
    }

    /// Waits until every shard's connections are gone, then writes this shard's state down. Called
    /// on every shard.
    ///
    /// # Errors
    /// The journal's or metadata's, as text: there is nothing left to do about it but to say it.
    pub async fn shut_down(&self) -> Result<(), String> {
        if self.shard() == 0 {
            let others = self.shards() - 1;
            self.inner.all_drained.reached(others as u64).await;
            if let Some(meta) = self.inner.meta.get() {
                meta.stop().await;
            }
            for reply in self.inner.drained.borrow_mut().drain(..) {
                reply.send(ShardReply::Done);
            }
        } else {
            // Without an answer shard 0 is gone, and nothing holds this shard back.
            let _ = self.inner.mesh.call(0, ShardRequest::Drained).await;
        }
        self.local().stop().await.map_err(|error| error.to_string())
    }
}
