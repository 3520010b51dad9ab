//! How large what clients ask for may be. An event cannot be taken back, so whatever would go into a
//! record is bounded before anything changes: the records of one event always fit into one batch.

use corelog_protocol::ErrorCode;
use corelog_protocol::offsets_topic::{ConsumerMember, STRING_BYTES_MAX};

use super::api::{
    ByTopic, ConsumerHeartbeat, DeleteOffsetsReply, FetchOffsetsReply, JoinGroup, JoinReply, LeaveReply,
    Protocol, Refused, Reply, Request, SyncReply,
};
use super::coordinator::refused_heartbeat;

/// The most bytes that the records of one event take, keys and values together, unless they are
/// [`separable`](super::Effects::separable). The topic's `max.message.bytes` and the journal's largest
/// entry must be above it; whoever appends asserts it.
pub const EVENT_BYTES_MAX: usize = 6 << 20;
/// The most bytes that a group's members take in records, and that a leader's assignments do.
pub(super) const GROUP_BYTES_MAX: usize = 2 << 20;
/// The most bytes that one member says of itself.
pub(super) const MEMBER_BYTES_MAX: usize = 1 << 20;
/// The most bytes of offsets that one request commits.
pub(super) const COMMIT_BYTES_MAX: usize = 2 << 20;
/// The most assignors that a member names; real clients name up to three.
pub(super) const PROTOCOLS_MAX: usize = 100;
/// The most topics that a member names.
pub(super) const NAMES_MAX: usize = 10_000;
/// The longest regular expression.
pub(super) const REGEX_BYTES_MAX: usize = 4 << 10;
/// The longest member id that is made up here: a long client id or instance id is cut.
pub(super) const MEMBER_ID_BYTES_MAX: usize = 255;

/// What a record costs besides its names: lengths, numbers, the frame in its batch.
const RECORD_BYTES: usize = 64;
/// The most records of one member that an event writes: what it says, has and is to have, and once
/// more when the event takes them back.
const RECORDS_PER_MEMBER: usize = 6;
/// The most bytes that a partition takes in what members have and are to have, all taken together.
pub(super) const PARTITION_BYTES: usize = 72;

/// The keys of a member's records.
pub(super) fn key_bytes(group: &str, member_id: &str) -> usize {
    RECORDS_PER_MEMBER * (group.len() + member_id.len() + RECORD_BYTES)
}

pub(super) fn optional(name: Option<&impl AsRef<str>>) -> usize {
    name.map_or(0, |name| name.as_ref().len())
}

/// What a member of a consumer group takes in records, but for partitions.
pub(super) fn consumer_member_bytes(group: &str, member_id: &str, meta: &ConsumerMember) -> usize {
    let names: usize = meta.topics.iter().map(|name| name.len() + 3).sum();
    let protocols = meta.classic.iter().flat_map(|classic| &classic.protocols);
    let protocols: usize = protocols.map(|protocol| protocol.name.len() + protocol.metadata.len() + 8).sum();
    let ids = optional(meta.instance_id.as_ref()) + optional(meta.rack_id.as_ref());
    let client = meta.client_id.len() + meta.client_host.len();
    // The expression is the key of a record of its own.
    let regex = optional(meta.regex.as_ref()) * 2 + group.len();
    key_bytes(group, member_id) + names + protocols + ids + client + regex + optional(meta.assignor.as_ref())
}

/// What a member of a classic group takes in records, but for what it was assigned.
pub(super) fn classic_member_bytes(group: &str, member_id: &str, member: &super::classic::Member) -> usize {
    key_bytes(group, member_id)
        + optional(member.instance_id.as_ref())
        + member.client_id.len()
        + member.client_host.len()
        + protocols_bytes(&member.protocols)
}

pub(super) fn protocols_bytes(protocols: &[Protocol]) -> usize {
    protocols.iter().map(|protocol| protocol.name.len() + protocol.metadata.len() + 8).sum()
}

/// What the record of an offset takes.
pub(super) fn offset_bytes(group: &str, topic: &str, metadata: &str) -> usize {
    group.len() + topic.len() + metadata.len() + RECORD_BYTES
}

/// Refuses what is too large by itself, whatever the group is like.
pub(super) fn check(request: &Request) -> Result<(), Reply> {
    match bounds(request) {
        Ok(()) => Ok(()),
        Err((error, message)) => Err(refusal(request, error, message)),
    }
}

type Bounds = Result<(), (ErrorCode, &'static str)>;

fn bounds(request: &Request) -> Bounds {
    let invalid = |message| Err((ErrorCode::InvalidRequest, message));
    if request.group().is_some_and(|group| group.len() > STRING_BYTES_MAX) {
        return Err((ErrorCode::InvalidGroupId, "GroupId is too long."));
    }
    match request {
        Request::Join(request) => join_bounds(request),
        Request::ConsumerHeartbeat(request) => heartbeat_bounds(request),
        Request::Commit(request) => {
            let fits = request.topics.iter().all(|(topic, _)| topic.len() <= STRING_BYTES_MAX);
            if fits { Ok(()) } else { invalid("A topic's name is too long.") }
        }
        // The others look something up by name, and find nothing under a longer one.
        Request::Sync(_)
        | Request::Heartbeat(_)
        | Request::Leave(_)
        | Request::FetchOffsets(_)
        | Request::DeleteOffsets(_)
        | Request::List(_)
        | Request::Describe { .. }
        | Request::ConsumerDescribe { .. }
        | Request::Delete { .. } => Ok(()),
    }
}

fn join_bounds(request: &JoinGroup) -> Bounds {
    let names = [Some(&request.member_id), request.instance_id.as_ref(), Some(&request.protocol_type)];
    let protocols = request.protocols.iter().map(|protocol| &protocol.name);
    if !names.into_iter().flatten().chain(protocols).all(|name| name.len() <= STRING_BYTES_MAX) {
        return Err((ErrorCode::InvalidRequest, "A name is too long."));
    }
    if request.protocols.len() > PROTOCOLS_MAX {
        return Err((ErrorCode::InvalidRequest, "A member names too many protocols."));
    }
    if protocols_bytes(&request.protocols) > MEMBER_BYTES_MAX {
        return Err((ErrorCode::InvalidRequest, "A member's metadata is too large."));
    }
    Ok(())
}

fn heartbeat_bounds(request: &ConsumerHeartbeat) -> Bounds {
    let invalid = |message| Err((ErrorCode::InvalidRequest, message));
    let names = [Some(&request.member_id), request.instance_id.as_ref(), request.rack_id.as_ref()];
    let topics = request.topics.iter().flatten();
    if !names.into_iter().flatten().chain(topics.clone()).all(|name| name.len() <= STRING_BYTES_MAX) {
        return invalid("A name is too long.");
    }
    if request.topics.as_ref().is_some_and(|topics| topics.len() > NAMES_MAX) {
        return invalid("SubscribedTopicNames has too many names.");
    }
    if topics.map(|name| name.len()).sum::<usize>() > MEMBER_BYTES_MAX {
        return invalid("SubscribedTopicNames is too large.");
    }
    if request.regex.as_ref().is_some_and(|regex| regex.len() > REGEX_BYTES_MAX) {
        let message = "SubscribedTopicRegex is too long.";
        return Err((ErrorCode::InvalidRegularExpression, message));
    }
    Ok(())
}

/// The reply of the request's kind that says no more than the error.
fn refusal(request: &Request, error: ErrorCode, message: &str) -> Reply {
    fn all<T, U>(topics: &ByTopic<T>, each: impl Fn(&T) -> U) -> ByTopic<U> {
        topics.iter().map(|(topic, all)| (topic.clone(), all.iter().map(&each).collect())).collect()
    }
    match request {
        Request::Join(request) => JoinReply::refused(error, request.member_id.clone()).into(),
        Request::Sync(_) => SyncReply::refused(error).into(),
        Request::Heartbeat(_) => Reply::Heartbeat(error),
        Request::Leave(_) => LeaveReply { error, members: Vec::new() }.into(),
        Request::ConsumerHeartbeat(_) => refused_heartbeat(error, message.to_owned()).into(),
        Request::Commit(request) => Reply::Commit(all(&request.topics, |commit| (commit.partition, error))),
        Request::FetchOffsets(_) => FetchOffsetsReply { error, topics: Vec::new() }.into(),
        Request::DeleteOffsets(_) => DeleteOffsetsReply { error, topics: Vec::new() }.into(),
        Request::List(_) => Reply::List(Vec::new()),
        Request::Describe { group, .. } => {
            super::api::DescribedGroup::dead(group.clone(), error, Some(message.to_owned())).into()
        }
        Request::ConsumerDescribe { .. } => {
            Reply::ConsumerDescribe(Err(Refused { error, message: message.to_owned() }))
        }
        Request::Delete { .. } => Reply::Delete(error),
    }
}
