//! What clients ask of a coordinator, and what they are told. The names are those of the protocol's
//! messages; what depends on a message's version is a field that says what it means.
//!
//! A request owns its bytes: members' metadata and assignments live as long as their members do, so
//! whoever decodes a frame copies them (`Bytes::copy_from_slice`) instead of handing out slices that
//! keep the frame. A JoinGroup may wait for minutes; once it is copied, what the frame took of the
//! memory for requests is free again.

use std::sync::Arc;

use bytes::Bytes;
use corelog_protocol::ErrorCode;
use uuid::Uuid;

use crate::types::TopicId;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Client {
    /// The client id of the request's header, empty when it has none.
    pub id: Arc<str>,
    /// Where it connected from, as Kafka writes it: `/127.0.0.1`.
    pub host: Arc<str>,
    /// Random: part of the id of a member that this request creates.
    pub fresh_id: Uuid,
}

/// A request about one group, or about all of a coordinator's.
#[derive(Debug, Clone)]
pub enum Request {
    /// JoinGroup.
    Join(JoinGroup),
    /// SyncGroup.
    Sync(SyncGroup),
    /// Heartbeat.
    Heartbeat(Heartbeat),
    /// LeaveGroup.
    Leave(LeaveGroup),
    /// ConsumerGroupHeartbeat.
    ConsumerHeartbeat(ConsumerHeartbeat),
    /// OffsetCommit.
    Commit(Commit),
    /// OffsetFetch, of one group.
    FetchOffsets(FetchOffsets),
    /// OffsetDelete.
    DeleteOffsets(DeleteOffsets),
    /// ListGroups: this coordinator's share.
    List(ListGroups),
    /// DescribeGroups, of one group.
    Describe {
        /// The group.
        group: Arc<str>,
        /// From version 6 on a group that is not there is an error.
        not_found_is_error: bool,
    },
    /// ConsumerGroupDescribe, of one group.
    ConsumerDescribe {
        /// The group.
        group: Arc<str>,
    },
    /// DeleteGroups, of one group.
    Delete {
        /// The group.
        group: Arc<str>,
    },
}

impl Request {
    /// The group that it is about; `None` when it is about all.
    pub fn group(&self) -> Option<&Arc<str>> {
        Some(match self {
            Self::Join(request) => &request.group,
            Self::Sync(request) => &request.group,
            Self::Heartbeat(request) => &request.group,
            Self::Leave(request) => &request.group,
            Self::ConsumerHeartbeat(request) => &request.group,
            Self::Commit(request) => &request.group,
            Self::FetchOffsets(request) => &request.group,
            Self::DeleteOffsets(request) => &request.group,
            Self::Describe { group, .. } | Self::ConsumerDescribe { group } | Self::Delete { group } => group,
            Self::List(_) => return None,
        })
    }
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To [`Request::Join`].
    Join(JoinReply),
    /// To [`Request::Sync`].
    Sync(SyncReply),
    /// To [`Request::Heartbeat`].
    Heartbeat(ErrorCode),
    /// To [`Request::Leave`].
    Leave(LeaveReply),
    /// To [`Request::ConsumerHeartbeat`].
    ConsumerHeartbeat(ConsumerHeartbeatReply),
    /// To [`Request::Commit`]: by topic and partition, as asked.
    Commit(ByTopic<(i32, ErrorCode)>),
    /// To [`Request::FetchOffsets`].
    FetchOffsets(FetchOffsetsReply),
    /// To [`Request::DeleteOffsets`].
    DeleteOffsets(DeleteOffsetsReply),
    /// To [`Request::List`].
    List(Vec<ListedGroup>),
    /// To [`Request::Describe`].
    Describe(DescribedGroup),
    /// To [`Request::ConsumerDescribe`].
    ConsumerDescribe(Result<DescribedConsumerGroup, Refused>),
    /// To [`Request::Delete`].
    Delete(ErrorCode),
}

/// An error, and a sentence about it for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The error.
    pub error: ErrorCode,
    /// Says more about it.
    pub message: String,
}

macro_rules! replies {
    ($($variant:ident: $type:ty),* $(,)?) => {
        $(impl From<$type> for Reply {
            fn from(reply: $type) -> Self {
                Self::$variant(reply)
            }
        })*
    };
}

replies! {
    Join: JoinReply,
    Sync: SyncReply,
    Leave: LeaveReply,
    ConsumerHeartbeat: ConsumerHeartbeatReply,
    FetchOffsets: FetchOffsetsReply,
    DeleteOffsets: DeleteOffsetsReply,
    Describe: DescribedGroup,
}

/// An assignor that a classic member supports, with what it tells the assignor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    /// For example `range`.
    pub name: Arc<str>,
    /// Opaque, but for protocol type `consumer`. No slice of a frame.
    pub metadata: Bytes,
}

/// JoinGroup.
#[derive(Debug, Clone)]
pub struct JoinGroup {
    /// The group.
    pub group: Arc<str>,
    /// Empty when the client has none yet.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// For example `consumer`.
    pub protocol_type: Arc<str>,
    /// The preferred one first.
    pub protocols: Vec<Protocol>,
    /// How long the member may be silent.
    pub session_timeout_ms: i32,
    /// How long it may take to join again; in version 0 the session timeout.
    pub rebalance_timeout_ms: i32,
    /// Version 4 and later: a member without id gets one and must join again with it.
    pub member_id_required: bool,
    /// Version 9 and later: a leader can be told to skip the assignment.
    pub can_skip_assignment: bool,
}

/// What a joining member is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinReply {
    /// The error.
    pub error: ErrorCode,
    /// −1 with an error.
    pub generation: i32,
    /// The group's protocol type.
    pub protocol_type: Option<Arc<str>>,
    /// The assignor that was chosen.
    pub protocol: Option<Arc<str>>,
    /// The member that assigns, empty with an error.
    pub leader: Arc<str>,
    /// The leader need not assign: nothing changed.
    pub skip_assignment: bool,
    /// The member's id.
    pub member_id: Arc<str>,
    /// All members, for the leader.
    pub members: Vec<JoinedMember>,
}

/// A member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// What it tells the assignor.
    pub metadata: Bytes,
}

impl JoinReply {
    /// A refusal.
    pub fn refused(error: ErrorCode, member_id: Arc<str>) -> Self {
        Self {
            error,
            generation: -1,
            protocol_type: None,
            protocol: None,
            leader: Arc::from(""),
            skip_assignment: false,
            member_id,
            members: Vec::new(),
        }
    }
}

/// SyncGroup.
#[derive(Debug, Clone)]
pub struct SyncGroup {
    /// The group.
    pub group: Arc<str>,
    /// The generation that the member joined.
    pub generation: i32,
    /// The member.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// Version 5 and later.
    pub protocol_type: Option<Arc<str>>,
    /// Version 5 and later.
    pub protocol: Option<Arc<str>>,
    /// By member, from the leader. No slices of a frame.
    pub assignments: Vec<(Arc<str>, Bytes)>,
}

/// What a member is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncReply {
    /// The error.
    pub error: ErrorCode,
    /// The group's protocol type.
    pub protocol_type: Option<Arc<str>>,
    /// The assignor that was chosen.
    pub protocol: Option<Arc<str>>,
    /// What the leader assigned.
    pub assignment: Bytes,
}

impl SyncReply {
    /// A refusal.
    pub fn refused(error: ErrorCode) -> Self {
        Self { error, protocol_type: None, protocol: None, assignment: Bytes::new() }
    }
}

/// Heartbeat.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// The group.
    pub group: Arc<str>,
    /// The member's generation.
    pub generation: i32,
    /// The member.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
}

/// LeaveGroup.
#[derive(Debug, Clone)]
pub struct LeaveGroup {
    /// The group.
    pub group: Arc<str>,
    /// Who leaves.
    pub members: Vec<LeavingMember>,
}

/// Who leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeavingMember {
    /// Its id; empty for a static member that is removed by its instance id.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
}

/// What became of members that leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaveReply {
    /// About the group.
    pub error: ErrorCode,
    /// About each member, as asked.
    pub members: Vec<(LeavingMember, ErrorCode)>,
}

/// Something about each of several partitions, by topic name.
pub type ByTopic<T> = Vec<(Arc<str>, Vec<T>)>;

/// Partitions of one topic.
pub type Partitions = (TopicId, Vec<i32>);

/// ConsumerGroupHeartbeat. `None` is what did not change since the last one.
#[derive(Debug, Clone)]
pub struct ConsumerHeartbeat {
    /// The group.
    pub group: Arc<str>,
    /// Drawn by the client; empty only in version 0, where the coordinator draws it.
    pub member_id: Arc<str>,
    /// Version 1 and later (KIP-1082): the client draws its id.
    pub must_bring_member_id: bool,
    /// 0 joins, −1 leaves, −2 leaves for a while (static members).
    pub member_epoch: i32,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// Where it runs.
    pub rack_id: Option<Arc<str>>,
    /// How long it may take to give up partitions.
    pub rebalance_timeout_ms: Option<i32>,
    /// Topics subscribed to by name.
    pub topics: Option<Vec<Arc<str>>>,
    /// Topics subscribed to by regular expression; an empty one takes it back.
    pub regex: Option<Arc<str>>,
    /// The assignor that it prefers.
    pub assignor: Option<Arc<str>>,
    /// What it owns.
    pub owned: Option<Vec<Partitions>>,
}

/// What a member of a consumer group is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerHeartbeatReply {
    /// The error.
    pub error: ErrorCode,
    /// Says more about it.
    pub message: Option<String>,
    /// The member.
    pub member_id: Option<Arc<str>>,
    /// Its epoch.
    pub member_epoch: i32,
    /// When to send the next one.
    pub heartbeat_interval_ms: i32,
    /// What it is to own, when that changed.
    pub assignment: Option<Vec<Partitions>>,
}

/// OffsetCommit. Topics that do not exist are refused before it gets here.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The group.
    pub group: Arc<str>,
    /// The member, empty for a consumer that is in no group.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// The generation or member epoch; −1 for a consumer that is in no group.
    pub generation: i32,
    /// Version 9 and later: knows the errors of consumer groups.
    pub knows_epochs: bool,
    /// Versions 2 to 4 may have a retention of their own.
    pub retention_ms: Option<i64>,
    /// By topic.
    pub topics: ByTopic<CommitPartition>,
}

/// An offset to commit.
#[derive(Debug, Clone)]
pub struct CommitPartition {
    /// The partition's index.
    pub partition: i32,
    /// The next record to consume.
    pub offset: i64,
    /// The leader epoch of the last consumed record, −1 when unknown.
    pub leader_epoch: i32,
    /// Whatever the consumer wants to keep with it.
    pub metadata: Arc<str>,
}

/// OffsetFetch, of one group.
#[derive(Debug, Clone)]
pub struct FetchOffsets {
    /// The group.
    pub group: Arc<str>,
    /// Version 9 and later: who asks, and its epoch.
    pub member: Option<(Arc<str>, i32)>,
    /// Version 7 and later: an offset that an open transaction may change is an error.
    pub require_stable: bool,
    /// By topic; `None` asks for all.
    pub topics: Option<ByTopic<i32>>,
}

/// Offsets of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchOffsetsReply {
    /// About the group; with an error there are no topics. Versions before 2 have no room for it: there
    /// every partition asked for has the error.
    pub error: ErrorCode,
    /// By topic.
    pub topics: ByTopic<FetchedOffset>,
}

/// One partition's committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedOffset {
    /// The partition's index.
    pub partition: i32,
    /// −1 when there is none.
    pub offset: i64,
    /// −1 when unknown.
    pub leader_epoch: i32,
    /// What the consumer kept with it.
    pub metadata: Arc<str>,
    /// The error.
    pub error: ErrorCode,
}

impl FetchedOffset {
    /// No offset was committed, or it may not be told.
    pub fn none(partition: i32, error: ErrorCode) -> Self {
        Self { partition, offset: -1, leader_epoch: -1, metadata: Arc::from(""), error }
    }
}

/// OffsetDelete.
#[derive(Debug, Clone)]
pub struct DeleteOffsets {
    /// The group.
    pub group: Arc<str>,
    /// By topic.
    pub topics: ByTopic<i32>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteOffsetsReply {
    /// About the group; with an error there are no topics.
    pub error: ErrorCode,
    /// By topic and partition, as asked.
    pub topics: ByTopic<(i32, ErrorCode)>,
}

/// ListGroups; empty filters let everything pass. Letters' case does not matter.
#[derive(Debug, Clone, Default)]
pub struct ListGroups {
    /// States to list.
    pub states: Vec<String>,
    /// Types to list: `classic`, `consumer`.
    pub types: Vec<String>,
}

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedGroup {
    /// The group.
    pub group: Arc<str>,
    /// For example `consumer`, or empty.
    pub protocol_type: Arc<str>,
    /// Its state, as Kafka writes it.
    pub state: &'static str,
    /// `classic` or `consumer`.
    pub group_type: &'static str,
}

/// A classic group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedGroup {
    /// The error.
    pub error: ErrorCode,
    /// Says more about it; version 6 and later have room for it.
    pub message: Option<String>,
    /// The group.
    pub group: Arc<str>,
    /// Its state; `Dead` when it is not there.
    pub state: &'static str,
    /// For example `consumer`.
    pub protocol_type: Arc<str>,
    /// The assignor; empty unless the group is stable.
    pub protocol: Arc<str>,
    /// The members.
    pub members: Vec<DescribedMember>,
}

impl DescribedGroup {
    /// A group that is not there, or may not be described.
    pub fn dead(group: Arc<str>, error: ErrorCode, message: Option<String>) -> Self {
        let (protocol_type, protocol) = (Arc::from(""), Arc::from(""));
        Self { error, message, group, state: "Dead", protocol_type, protocol, members: Vec::new() }
    }
}

/// A member of a classic group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedMember {
    /// Its id.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// What the client calls itself.
    pub client_id: Arc<str>,
    /// Where it connected from.
    pub client_host: Arc<str>,
    /// What it told the assignor; empty unless the group is stable.
    pub metadata: Bytes,
    /// What it was assigned last.
    pub assignment: Bytes,
}

/// A consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedConsumerGroup {
    /// Its state.
    pub state: &'static str,
    /// Its epoch.
    pub epoch: i32,
    /// The epoch of its target assignment.
    pub assignment_epoch: i32,
    /// The assignor.
    pub assignor: Arc<str>,
    /// The members.
    pub members: Vec<DescribedConsumer>,
}

/// Partitions of one topic, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPartitions {
    /// The topic.
    pub topic: TopicId,
    /// Its name.
    pub name: Arc<str>,
    /// Its partitions' indexes.
    pub partitions: Vec<i32>,
}

/// A member of a consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedConsumer {
    /// Its id.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// Where it runs.
    pub rack_id: Option<Arc<str>>,
    /// Its epoch.
    pub member_epoch: i32,
    /// What the client calls itself.
    pub client_id: Arc<str>,
    /// Where it connected from.
    pub client_host: Arc<str>,
    /// Topics subscribed to by name.
    pub topics: Vec<Arc<str>>,
    /// Topics subscribed to by regular expression.
    pub regex: Option<Arc<str>>,
    /// What it owns.
    pub assignment: Vec<NamedPartitions>,
    /// What it is to own.
    pub target: Vec<NamedPartitions>,
    /// It speaks the classic protocol.
    pub is_classic: bool,
}

/// One group as a coordinator tells of it, with what it committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDetails {
    /// Its name.
    pub group: Arc<str>,
    /// `classic` or `consumer`.
    pub group_type: &'static str,
    /// Its state, as Kafka writes it.
    pub state: &'static str,
    /// For example `consumer`; empty for a group that only has offsets.
    pub protocol_type: Arc<str>,
    /// How many members it has.
    pub members: usize,
    /// Partitions and the offsets that it committed for them, in order, as far as that was asked for.
    pub commits: ByTopic<(i32, i64)>,
    /// Committed offsets that are not in `commits`.
    pub commits_left_out: usize,
}
