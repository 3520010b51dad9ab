//! The consumer protocol (KIP-848): one kind of request, and the coordinator assigns.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::consumer_group_heartbeat_response::Assignment;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use uuid::Uuid;

use super::TopicPartitionName;
use super::session::{Outcome, Session, is_lost, millis, random_id, text};
use crate::client::cluster::{AutoCreate, Lane, topic_name};
use crate::client::error::ClientError;

/// Joins with this epoch, leaves with that; a static member leaves for a while.
const JOIN: i32 = 0;
const LEAVE: i32 = -1;
const LEAVE_FOR_A_WHILE: i32 = -2;

/// Joins, or gives a sign of life; with `acknowledges` it says what it owns.
pub(super) async fn heartbeat(
    session: &Session,
    owned: &[TopicPartitionName],
    acknowledges: bool,
) -> Result<Outcome, ClientError> {
    if session.member_id.borrow().is_empty() {
        *session.member_id.borrow_mut() = random_id();
    }
    let mut request = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(session.group_id())
        .with_member_id(session.member_id())
        .with_member_epoch(if session.is_member() { session.epoch.get() } else { JOIN })
        .with_topic_partitions(None);
    request.instance_id = session.instance_id();
    let tells_all = session.tells_all.get() || !session.is_member();
    if tells_all {
        let options = &session.options;
        request.rebalance_timeout_ms = millis(options.rebalance_timeout);
        request.subscribed_topic_names = Some(options.topics.iter().map(|topic| topic_name(topic)).collect());
        request.server_assignor = options.assignor.map(|assignor| text(assignor.name()));
    }
    if tells_all || acknowledges {
        request.topic_partitions = Some(by_id(session, owned).await?);
    }
    let answer = session.call(session.lane, &request, i16::MAX, Duration::ZERO).await?;
    session.tells_all.set(false);
    take(session, answer).await
}

async fn take(session: &Session, answer: ConsumerGroupHeartbeatResponse) -> Result<Outcome, ClientError> {
    if is_lost(ErrorCode::from_code(answer.error_code)) {
        session.set_outside();
        return Ok(Outcome::Lost);
    }
    session.check(answer.error_code, answer.error_message.as_deref(), "staying in")?;
    if let Some(id) = answer.member_id {
        *session.member_id.borrow_mut() = id.to_string();
    }
    session.epoch.set(answer.member_epoch);
    if let Ok(interval_ms @ 1..) = u64::try_from(answer.heartbeat_interval_ms) {
        session.heartbeat_interval.set(Duration::from_millis(interval_ms));
    }
    match answer.assignment {
        Some(assignment) => by_name(session, assignment).await.map(Outcome::Assigned),
        None => Ok(Outcome::Steady),
    }
}

async fn by_id(session: &Session, owned: &[TopicPartitionName]) -> Result<Vec<TopicPartitions>, ClientError> {
    let mut topics: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in owned {
        let known = session.client.topic(topic, AutoCreate::No).await?;
        topics.entry(known.id).or_default().push(*partition);
    }
    let told = topics
        .into_iter()
        .map(|(id, partitions)| TopicPartitions::default().with_topic_id(id).with_partitions(partitions));
    Ok(told.collect())
}

/// The assigned partitions of topics that this client knows. One that it does not is asked about;
/// if it stays unknown, the coordinator is told everything again, and says again what it assigns.
async fn by_name(session: &Session, assignment: Assignment) -> Result<Vec<TopicPartitionName>, ClientError> {
    let mut names = names(session).await?;
    if assignment.topic_partitions.iter().any(|it| !names.contains_key(&it.topic_id)) {
        session.client.refresh(AutoCreate::No).await?;
        names = self::names(session).await?;
    }
    let mut assigned = Vec::new();
    for topic in assignment.topic_partitions {
        match names.get(&topic.topic_id) {
            Some(name) => assigned.extend(topic.partitions.into_iter().map(|it| (Rc::clone(name), it))),
            None => session.tells_all.set(true),
        }
    }
    Ok(assigned)
}

async fn names(session: &Session) -> Result<BTreeMap<Uuid, Rc<str>>, ClientError> {
    let mut names = BTreeMap::new();
    for topic in &session.options.topics {
        match session.client.topic(topic, AutoCreate::No).await {
            Ok(known) => {
                names.insert(known.id, Rc::clone(&known.name));
            }
            Err(ClientError::UnknownTopic { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(names)
}

/// Leaves; a static member says that it comes back.
pub(super) async fn leave(session: &Session) -> Result<(), ClientError> {
    if session.member_id.borrow().is_empty() {
        return Ok(());
    }
    let is_static = session.options.instance_id.is_some();
    let mut request = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(session.group_id())
        .with_member_id(session.member_id())
        .with_member_epoch(if is_static { LEAVE_FOR_A_WHILE } else { LEAVE })
        .with_topic_partitions(None);
    request.instance_id = session.instance_id();
    let answer = session.call(Lane::Control, &request, i16::MAX, Duration::ZERO).await?;
    match ErrorCode::from_code(answer.error_code) {
        // Gone already, with the group perhaps.
        ErrorCode::UnknownMemberId | ErrorCode::GroupIdNotFound => Ok(()),
        _ => session.check(answer.error_code, answer.error_message.as_deref(), "leaving"),
    }
}
