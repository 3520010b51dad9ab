//! What a member commits, and where it goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{OffsetFetchRequest, TopicName};

use super::session::Session;
use super::{GroupProtocol, TopicPartitionName};
use crate::client::cluster::{Lane, topic_name};
use crate::client::consumer::{Assignment, IsolationLevel, StartAt, Started, starts};
use crate::client::error::ClientError;
use crate::client::groups::{FETCH_GROUPS_FROM, OFFSETS_BY_NAME_TO, offset_commit};

/// First versions of OffsetFetch that wait for open transactions, and that name the member.
const STABLE_FROM: i16 = 7;
const MEMBER_FROM: i16 = 9;

/// Commits offsets as a member.
///
/// # Errors
/// The first partition that is refused.
pub(super) async fn commit(
    session: &Session,
    offsets: &[(TopicPartitionName, i64)],
) -> Result<(), ClientError> {
    let mut request = offset_commit(&session.options.group, offsets);
    request.generation_id_or_member_epoch = session.epoch.get();
    request.member_id = session.member_id();
    request.group_instance_id = session.instance_id();
    let answer = session.call(Lane::Control, &request, OFFSETS_BY_NAME_TO, Duration::ZERO).await?;
    for topic in answer.topics {
        for partition in topic.partitions {
            session.check(partition.error_code, None, "committing offsets of")?;
        }
    }
    Ok(())
}

/// Whether a commit that was refused for this may go well when the membership is settled again.
pub(super) fn may_commit_later(error: &ClientError) -> bool {
    let later = |code: ErrorCode| {
        matches!(
            code,
            ErrorCode::RebalanceInProgress
                | ErrorCode::IllegalGeneration
                | ErrorCode::UnknownMemberId
                | ErrorCode::StaleMemberEpoch
                | ErrorCode::FencedMemberEpoch
        )
    };
    error.is_retriable() || error.code().is_some_and(later)
}

/// Where to begin in partitions that this member came to own, and what is committed of them.
pub(super) async fn positions(
    session: &Session,
    wanted: Vec<(TopicPartitionName, Begin)>,
    isolation: IsolationLevel,
) -> Result<Vec<Position>, ClientError> {
    let asked = wanted.iter().filter(|(_, begin)| *begin == Begin::AtCommit).map(|(name, _)| name);
    let asked: Vec<_> = asked.cloned().collect();
    let committed = if asked.is_empty() { BTreeMap::new() } else { committed(session, &asked).await? };
    let assignments = wanted.iter().map(|(name, _)| Assignment {
        topic: std::rc::Rc::clone(&name.0),
        partition: name.1,
        start: committed.get(name).map_or(session.options.start, |offset| StartAt::Offset(*offset)),
    });
    let started = starts(&session.client, assignments.collect(), isolation).await?;
    let positions = wanted.into_iter().zip(started).map(|((name, _), started)| {
        let committed = committed.get(&name).copied();
        Position { name, committed, started }
    });
    Ok(positions.collect())
}

/// Where a partition begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// Where the group was, or where the options say when it was nowhere.
    AtCommit,
    /// Where the options say: what was committed is outside of the log.
    Anew,
}

/// A partition that can be fetched.
pub(super) struct Position {
    pub(super) name: TopicPartitionName,
    pub(super) committed: Option<i64>,
    pub(super) started: Started,
}

async fn committed(
    session: &Session,
    asked: &[TopicPartitionName],
) -> Result<BTreeMap<TopicPartitionName, i64>, ClientError> {
    let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in asked {
        by_topic.entry(topic).or_default().push(*partition);
    }
    let version =
        session.connection(Lane::Control).await?.version::<OffsetFetchRequest>(OFFSETS_BY_NAME_TO)?;
    let request = offset_fetch(session, version, by_topic);
    let answer = session.call(Lane::Control, &request, version, Duration::ZERO).await?;
    let what = "reading the offsets of";
    let mut found = BTreeMap::new();
    let mut keep = |topic: &TopicName, partition: i32, offset: i64, code: i16| {
        session.check(code, None, what)?;
        if offset >= 0 {
            found.insert((topic.0.as_str().into(), partition), offset);
        }
        Ok(())
    };
    session.check(answer.error_code, None, what)?;
    for topic in &answer.topics {
        for it in &topic.partitions {
            keep(&topic.name, it.partition_index, it.committed_offset, it.error_code)?;
        }
    }
    for group in &answer.groups {
        session.check(group.error_code, None, what)?;
        for topic in &group.topics {
            for it in &topic.partitions {
                keep(&topic.name, it.partition_index, it.committed_offset, it.error_code)?;
            }
        }
    }
    Ok(found)
}

fn offset_fetch(session: &Session, version: i16, asked: BTreeMap<&str, Vec<i32>>) -> OffsetFetchRequest {
    let mut request = OffsetFetchRequest::default().with_require_stable(version >= STABLE_FROM);
    if version < FETCH_GROUPS_FROM {
        let topics = asked.into_iter().map(|(topic, partitions)| {
            let wanted = OffsetFetchRequestTopic::default().with_name(topic_name(topic));
            wanted.with_partition_indexes(partitions)
        });
        request.group_id = session.group_id();
        request.topics = Some(topics.collect());
        return request;
    }
    let topics = asked.into_iter().map(|(topic, partitions)| {
        OffsetFetchRequestTopics::default().with_name(topic_name(topic)).with_partition_indexes(partitions)
    });
    let mut group = OffsetFetchRequestGroup::default()
        .with_group_id(session.group_id())
        .with_topics(Some(topics.collect()));
    if version >= MEMBER_FROM && session.protocol.get() == Some(GroupProtocol::Consumer) {
        group.member_id = Some(session.member_id());
        group.member_epoch = session.epoch.get();
    }
    request.with_groups(vec![group])
}
