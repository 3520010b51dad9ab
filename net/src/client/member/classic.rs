//! The classic protocol: everybody joins, one of them assigns, everybody is told.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use corelog_protocol::error::ErrorCode;
use corelog_protocol::offsets_topic::{decode_assignment, decode_subscription, encode_assignment};
use corelog_runtime::time;
use kafka_protocol::messages::consumer_protocol_subscription::TopicPartition;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerProtocolSubscription, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    SyncGroupRequest,
};
use kafka_protocol::protocol::Encodable;

use super::assignor::{Subscriber, cooperative, range};
use super::session::{Outcome, Session, is_lost, millis, text};
use super::{GroupAssignor, TopicPartitionName};
use crate::client::cluster::{AutoCreate, Lane, topic_name};
use crate::client::error::ClientError;

const PROTOCOL_TYPE: &str = "consumer";
/// Of what members tell each other.
const SUBSCRIPTION_VERSION: i16 = 3;
/// First versions in which a SyncGroup names protocols, and in which a LeaveGroup names members.
const SYNC_NAMES_FROM: i16 = 5;
const LEAVE_MEMBERS_FROM: i16 = 3;
/// How often a leader looks whether a topic has got more partitions.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Joins, and assigns where this member is the leader.
pub(super) async fn join(session: &Session, owned: &[TopicPartitionName]) -> Result<Outcome, ClientError> {
    let joined = loop {
        let joined = ask_to_join(session, owned).await?;
        match ErrorCode::from_code(joined.error_code) {
            // The name to join with.
            ErrorCode::MemberIdRequired => *session.member_id.borrow_mut() = joined.member_id.to_string(),
            ErrorCode::RebalanceInProgress => return Ok(Outcome::Rejoin),
            code if is_lost(code) => {
                session.member_id.borrow_mut().clear();
                session.set_outside();
                return Ok(Outcome::Lost);
            }
            _ => break joined,
        }
    };
    session.check(joined.error_code, None, "joining")?;
    *session.member_id.borrow_mut() = joined.member_id.to_string();
    session.epoch.set(joined.generation_id);
    let is_leader = joined.leader == joined.member_id;
    let assignments = if is_leader { assign(session, &joined.members).await? } else { Vec::new() };
    session.next_look.set(is_leader.then(|| time::Instant::now() + LOOK_INTERVAL));
    // A static leader that comes back is told to leave everything as it is.
    let assignments = if joined.skip_assignment { Vec::new() } else { assignments };
    sync(session, joined, assignments).await
}

async fn ask_to_join(
    session: &Session,
    owned: &[TopicPartitionName],
) -> Result<JoinGroupResponse, ClientError> {
    let options = &session.options;
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text(assignor(options.assignor).name()))
        .with_metadata(subscription(session, owned));
    let request = JoinGroupRequest::default()
        .with_group_id(session.group_id())
        .with_session_timeout_ms(millis(options.session_timeout))
        .with_rebalance_timeout_ms(millis(options.rebalance_timeout))
        .with_member_id(session.member_id())
        .with_group_instance_id(session.instance_id())
        .with_protocol_type(text(PROTOCOL_TYPE))
        .with_protocols(vec![protocol]);
    // It is answered when everybody has joined, or had the time to.
    session.call(session.lane, &request, i16::MAX, options.rebalance_timeout).await
}

/// The assignor that a classic group is joined with.
pub(super) fn assignor(wanted: Option<GroupAssignor>) -> GroupAssignor {
    wanted.unwrap_or(GroupAssignor::Cooperative)
}

/// Whether members let go of everything before they join.
pub(super) fn is_eager(wanted: Option<GroupAssignor>) -> bool {
    assignor(wanted) != GroupAssignor::Cooperative
}

fn subscription(session: &Session, owned: &[TopicPartitionName]) -> Bytes {
    let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in owned {
        by_topic.entry(topic).or_default().push(*partition);
    }
    let owned = by_topic.into_iter().map(|(topic, partitions)| {
        TopicPartition::default().with_topic(topic_name(topic)).with_partitions(partitions)
    });
    let message = ConsumerProtocolSubscription::default()
        .with_topics(session.options.topics.iter().map(|topic| text(topic)).collect())
        .with_owned_partitions(owned.collect())
        .with_generation_id(session.epoch.get());
    let mut bytes = BytesMut::new();
    bytes.put_i16(SUBSCRIPTION_VERSION);
    message.encode(&mut bytes, SUBSCRIPTION_VERSION).expect("every field is one of this version");
    bytes.freeze()
}

/// The leader's work.
async fn assign(
    session: &Session,
    members: &[JoinGroupResponseMember],
) -> Result<Vec<SyncGroupRequestAssignment>, ClientError> {
    let mut subscribers = Vec::with_capacity(members.len());
    for member in members {
        // One that nobody can read gets nothing, and the others their share.
        let told = decode_subscription(&member.metadata).unwrap_or_default();
        let owned = told.owned.iter().flat_map(|(topic, partitions)| {
            partitions.iter().map(move |partition| (Rc::from(&**topic), *partition))
        });
        subscribers.push(Subscriber {
            id: member.member_id.to_string(),
            instance_id: member.group_instance_id.as_ref().map(ToString::to_string),
            owned: owned.collect(),
            topics: told.topics.iter().map(ToString::to_string).collect(),
            generation: told.generation,
        });
    }
    let topics: BTreeSet<String> = subscribers.iter().flat_map(|it| it.topics.iter().cloned()).collect();
    let partitions = partition_counts(session, topics).await?;
    let assignments = match assignor(session.options.assignor) {
        GroupAssignor::Cooperative => cooperative(&subscribers, &partitions),
        GroupAssignor::Range | GroupAssignor::Uniform => range(&subscribers, &partitions),
    };
    *session.partitions.borrow_mut() = partitions.into_iter().collect();
    let told = assignments.into_iter().map(|(id, own)| {
        let mut by_topic: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in own {
            by_topic.entry(Arc::from(&*topic)).or_default().push(partition);
        }
        let by_topic: Vec<_> = by_topic.into_iter().collect();
        SyncGroupRequestAssignment::default()
            .with_member_id(text(&id))
            .with_assignment(encode_assignment(SUBSCRIPTION_VERSION, &by_topic))
    });
    Ok(told.collect())
}

/// The partitions of the topics that exist.
async fn partition_counts(
    session: &Session,
    topics: BTreeSet<String>,
) -> Result<BTreeMap<String, i32>, ClientError> {
    let mut counts = BTreeMap::new();
    for topic in topics {
        match session.client.topic(&topic, AutoCreate::No).await {
            Ok(known) => {
                counts.insert(topic, known.partition_count());
            }
            Err(ClientError::UnknownTopic { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(counts)
}

async fn sync(
    session: &Session,
    joined: JoinGroupResponse,
    assignments: Vec<SyncGroupRequestAssignment>,
) -> Result<Outcome, ClientError> {
    let version = session.connection(session.lane).await?.version::<SyncGroupRequest>(i16::MAX)?;
    let mut request = SyncGroupRequest::default()
        .with_group_id(session.group_id())
        .with_generation_id(joined.generation_id)
        .with_member_id(session.member_id())
        .with_group_instance_id(session.instance_id())
        .with_assignments(assignments);
    if version >= SYNC_NAMES_FROM {
        request.protocol_type = joined.protocol_type;
        request.protocol_name = joined.protocol_name;
    }
    let patience = session.options.rebalance_timeout;
    let synced = session.call(session.lane, &request, version, patience).await?;
    match ErrorCode::from_code(synced.error_code) {
        ErrorCode::RebalanceInProgress => return Ok(Outcome::Rejoin),
        code if is_lost(code) => {
            session.set_outside();
            return Ok(Outcome::Lost);
        }
        _ => session.check(synced.error_code, None, "being assigned partitions of")?,
    }
    let assigned = match synced.assignment.is_empty() {
        true => Vec::new(),
        false => decode_assignment(&synced.assignment).map_err(|error| ClientError::Assignment {
            group: session.options.group.clone(),
            reason: error.to_string(),
        })?,
    };
    let names = assigned.into_iter().flat_map(|(topic, partitions)| {
        let topic: Rc<str> = Rc::from(&*topic);
        partitions.into_iter().map(move |partition| (Rc::clone(&topic), partition))
    });
    Ok(Outcome::Assigned(names.collect()))
}

/// A sign of life.
pub(super) async fn heartbeat(session: &Session) -> Result<Outcome, ClientError> {
    if has_more_partitions(session).await? {
        return Ok(Outcome::Rejoin);
    }
    let request = HeartbeatRequest::default()
        .with_group_id(session.group_id())
        .with_generation_id(session.epoch.get())
        .with_member_id(session.member_id())
        .with_group_instance_id(session.instance_id());
    let answer = session.call(session.lane, &request, i16::MAX, Duration::ZERO).await?;
    match ErrorCode::from_code(answer.error_code) {
        ErrorCode::RebalanceInProgress => Ok(Outcome::Rejoin),
        code if is_lost(code) => {
            if code == ErrorCode::UnknownMemberId {
                session.member_id.borrow_mut().clear();
            }
            session.set_outside();
            Ok(Outcome::Lost)
        }
        _ => session.check(answer.error_code, None, "staying in").map(|()| Outcome::Steady),
    }
}

/// Whether there are other partitions than the leader has assigned.
async fn has_more_partitions(session: &Session) -> Result<bool, ClientError> {
    let Some(due) = session.next_look.get() else { return Ok(false) };
    if time::Instant::now() < due {
        return Ok(false);
    }
    session.next_look.set(Some(time::Instant::now() + LOOK_INTERVAL));
    session.client.refresh(AutoCreate::No).await?;
    let topics = session.partitions.borrow().iter().map(|(topic, _)| topic.clone()).collect();
    let now: Vec<_> = partition_counts(session, topics).await?.into_iter().collect();
    Ok(now != *session.partitions.borrow())
}

/// Leaves. A static member stays, so that its restart disturbs nobody.
pub(super) async fn leave(session: &Session) -> Result<(), ClientError> {
    if session.options.instance_id.is_some() || session.member_id.borrow().is_empty() {
        return Ok(());
    }
    let connection = session.connection(Lane::Control).await?;
    let version = connection.version::<LeaveGroupRequest>(i16::MAX)?;
    let mut request = LeaveGroupRequest::default().with_group_id(session.group_id());
    if version >= LEAVE_MEMBERS_FROM {
        request.members = vec![MemberIdentity::default().with_member_id(session.member_id())];
    } else {
        request.member_id = session.member_id();
    }
    let answer = connection.call_up_to(&request, version).await?;
    let code = answer.members.first().map_or(answer.error_code, |member| member.error_code);
    match ErrorCode::from_code(code) {
        // Gone already.
        ErrorCode::UnknownMemberId => Ok(()),
        _ => session.check(code, None, "leaving"),
    }
}
