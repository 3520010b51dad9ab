//! The messages that shards of one node send each other.
//!
//! Plain data that is `Send`; a record batch crosses as the same `Bytes`, never as a copy.

use std::sync::Arc;
use std::time::Duration;

use corelog_protocol::error::ErrorCode;
use corelog_runtime::net::Accepted;

use crate::api::{
    Acks, ActiveProducer, AlterConfigs, EpochEnd, FetchOutcome, FetchPart, FoundOffset, NewTopic,
    OffsetQuery, PartitionError, ProduceOutcome, ProducePart, TopicError, TopicRef, TrimTo,
};
use crate::group::api::{Client, ListGroups, ListedGroup, Reply, Request};
use crate::meta::command::NewPartitions;
use crate::meta::image::{MetaImage, TopicMeta};
use crate::partition::state::PartitionState;
use crate::shard::{DetailsWanted, ShardDetails, ShardStats};
use crate::types::{LeaderEpoch, Offset, TopicPartition};

/// One partition of a ListOffsets: which, the client's leader epoch, the question.
pub type OffsetPart = (TopicPartition, Option<LeaderEpoch>, OffsetQuery);

/// One partition of an OffsetForLeaderEpoch: which, the client's leader epoch, the epoch asked for.
pub type EpochPart = (TopicPartition, Option<LeaderEpoch>, LeaderEpoch);

/// One partition of a DeleteRecords: which, and where its log is to start.
pub type TrimPart = (TopicPartition, TrimTo);

/// What one shard asks another.
#[derive(Debug)]
pub enum ShardRequest {
    /// Append batches.
    Produce(Acks, Vec<ProducePart>),
    /// Read what is there, within this many bytes.
    Read(Vec<FetchPart>, usize),
    /// Answer when one of these has more than was seen. The first value names the watch.
    Watch(u64, Vec<(TopicPartition, Offset)>),
    /// The watch of that name is not wanted any more.
    Unwatch(u64),
    /// Look offsets up.
    ListOffsets(Vec<OffsetPart>),
    /// Look ends of epochs up.
    EpochEnds(Vec<EpochPart>),
    /// Forget the oldest records.
    Trim(Vec<TrimPart>),
    /// A request to a coordinator of yours.
    Group(Box<GroupCall>),
    /// The groups of all coordinators of yours.
    ListGroups(ListGroups),
    /// How large partitions are.
    Sizes(Vec<TopicPartition>),
    /// Which producers partitions remember.
    Producers(Vec<TopicPartition>),
    /// Tell your numbers.
    Stats,
    /// Tell of your partitions and groups one by one.
    Details(DetailsWanted),
    /// A connection that was accepted elsewhere, on the listener of this index.
    Connection(Accepted, usize),
    /// To shard 0: this shard's connections are gone; answer when that holds for every shard.
    Drained,
    /// Change what this shard or the node is.
    Change(Change),
}

/// A request to the coordinator of a group.
#[derive(Debug)]
pub struct GroupCall {
    /// The coordinator's partition.
    pub target: TopicPartition,
    /// Who asks.
    pub client: Client,
    /// What is asked.
    pub request: Request,
}

/// Requests off the data path.
#[derive(Debug)]
pub enum Change {
    /// Start-up, from shard 0: open and replay this journal.
    Open(u64),
    /// Start-up, from shard 0: these partitions were drained from another layout and are yours.
    Adopt(Vec<PartitionState>),
    /// From shard 0: the metadata changed.
    Image(Arc<MetaImage>),
    /// Start-up, from shard 0: every shard is in service.
    Ready,
    /// Start-up, from shard 0: the node cannot start.
    GiveUp,
    /// To shard 0: create topics, or only check whether that would go.
    CreateTopics(Vec<NewTopic>, bool),
    /// To shard 0: delete topics.
    DeleteTopics(Vec<TopicRef>),
    /// To shard 0: give topics more partitions, or only check whether that would go.
    CreatePartitions(Vec<NewPartitions>, bool),
    /// To shard 0: alter configs, or only check whether that would go.
    AlterConfigs(Vec<AlterConfigs>, bool),
    /// To shard 0: reserve this many producer ids.
    ProducerIds(u32),
    /// Forget records at and after an offset.
    Truncate(TopicPartition, Offset),
}

/// The answers, one kind for each kind of request that has one.
#[derive(Debug)]
pub enum ShardReply {
    /// The journal is open, or why not.
    Opened(Result<(), String>),
    /// Nothing more to say.
    Done,
    /// The request could not be carried out.
    Failed(String),
    /// One outcome per batch, and how long this shard took for it.
    Produced(Vec<ProduceOutcome>, Duration),
    /// One outcome per partition, and how long this shard took for it.
    Read(Vec<FetchOutcome>, Duration),
    /// One per partition.
    Offsets(Vec<Result<FoundOffset, PartitionError>>),
    /// One per partition.
    EpochEnds(Vec<Result<EpochEnd, PartitionError>>),
    /// The log starts, one per partition.
    Trimmed(Vec<Result<Offset, PartitionError>>),
    /// One per topic.
    Topics(Vec<Result<Arc<TopicMeta>, TopicError>>),
    /// One per alteration.
    ConfigsAltered(Vec<Result<(), TopicError>>),
    /// Bytes, one per partition.
    Sizes(Vec<Result<u64, PartitionError>>),
    /// One per partition.
    Producers(Vec<Result<Vec<ActiveProducer>, PartitionError>>),
    /// The first of the reserved ids.
    ProducerIds(Result<i64, TopicError>),
    /// The end after a truncation.
    Cut(Result<Offset, PartitionError>),
    /// What the coordinator says, or why there is none.
    Group(Box<Result<Reply, ErrorCode>>),
    /// The groups, or why they are not known.
    Groups(Result<Vec<ListedGroup>, ErrorCode>),
    /// The shard's numbers.
    Stats(Box<ShardStats>),
    /// The shard's partitions and groups.
    Details(Box<ShardDetails>),
}
