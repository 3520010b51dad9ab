//! ListOffsets and OffsetForLeaderEpoch.

use std::collections::BTreeMap;

use corelog_engine::api::{EpochEnd, FoundOffset, OffsetQuery, PartitionError};
use corelog_engine::meta::image::MetaImage;
use corelog_engine::types::{LeaderEpoch, PartitionId, TopicPartition};
use corelog_protocol::error::ErrorCode;
use corelog_protocol::fetch::IsolationLevel;
use kafka_protocol::messages::list_offsets_request::ListOffsetsTopic;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
};

use crate::service::Service;

/// What has to be asked of the engine for one partition of a request, or why it is not asked.
type Asked<T> = Result<T, ErrorCode>;

/// The epoch as the wire has it: −1 when the client does not know.
pub(super) fn known_epoch(epoch: i32) -> Option<LeaderEpoch> {
    (epoch >= 0).then_some(LeaderEpoch(epoch))
}

/// The partition of that name, if there is one.
pub(super) fn target(image: &MetaImage, topic: &str, partition: i32) -> Asked<TopicPartition> {
    let topic = image.topic_named(topic).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let partition = PartitionId(partition);
    topic.partition(partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    Ok(TopicPartition::new(topic.id, partition))
}

/// Answers ListOffsets.
pub(crate) async fn list(
    service: &Service,
    version: i16,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let image = service.engine.image();
    let read_committed = request.isolation_level == IsolationLevel::ReadCommitted.to_wire();
    let asked = questions(&image, version, read_committed, &request.topics);
    let parts = asked.iter().filter_map(|asked| asked.as_ref().ok().and_then(Clone::clone)).collect();
    let mut found = service.engine.list_offsets(parts).await.into_iter();
    let mut asked = asked.into_iter();
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let response =
                ListOffsetsPartitionResponse::default().with_partition_index(partition.partition_index);
            let asked = asked.next().expect("one question per partition");
            let found = match asked {
                Ok(Some(_)) => {
                    let found = found.next().expect("one answer per question");
                    found.map_err(|error: PartitionError| error.code())
                }
                Ok(None) => Ok(NOTHING),
                Err(code) => Err(code),
            };
            match found {
                Ok(found) => {
                    response.with_offset(found.offset.0).with_timestamp(found.timestamp_ms).with_leader_epoch(
                        if version >= 4 { found.leader_epoch.map_or(-1, |epoch| epoch.0) } else { -1 },
                    )
                }
                Err(code) => response.with_error_code(code.code()),
            }
        });
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}

/// There is no such record.
const NOTHING: FoundOffset =
    FoundOffset { offset: corelog_engine::types::Offset(-1), timestamp_ms: -1, leader_epoch: None };

type OffsetQuestion = (TopicPartition, Option<LeaderEpoch>, OffsetQuery);

/// One element per partition of the request, in order; `None` has an answer without the engine.
fn questions(
    image: &MetaImage,
    version: i16,
    read_committed: bool,
    topics: &[ListOffsetsTopic],
) -> Vec<Asked<Option<OffsetQuestion>>> {
    let mut named = BTreeMap::new();
    for topic in topics {
        for partition in &topic.partitions {
            *named.entry((topic.name.as_str(), partition.partition_index)).or_insert(0u32) += 1;
        }
    }
    let mut questions = Vec::new();
    for topic in topics {
        for partition in &topic.partitions {
            let name = (topic.name.as_str(), partition.partition_index);
            let ask = || {
                if named[&name] > 1 {
                    return Err(ErrorCode::InvalidRequest);
                }
                let query = query(version, partition.timestamp, read_committed)?;
                let target = target(image, name.0, name.1)?;
                Ok(query.map(|query| (target, known_epoch(partition.current_leader_epoch), query)))
            };
            questions.push(ask());
        }
    }
    questions
}

/// What a timestamp asks for. Negative ones are names, each of which some version brought.
fn query(version: i16, timestamp: i64, read_committed: bool) -> Asked<Option<OffsetQuery>> {
    let (query, since) = match timestamp {
        0.. => (Some(OffsetQuery::AtTimestamp(timestamp)), 0),
        -1 => (Some(OffsetQuery::Latest { read_committed }), 1),
        -2 => (Some(OffsetQuery::Earliest), 1),
        -3 => (Some(OffsetQuery::MaxTimestamp), 7),
        -4 => (Some(OffsetQuery::Earliest), 8),
        // The last offset in tiered storage: there is none.
        -5 => (None, 9),
        _ => return Err(ErrorCode::UnsupportedVersion),
    };
    if version < since {
        return Err(ErrorCode::UnsupportedVersion);
    }
    Ok(query)
}

/// Answers OffsetForLeaderEpoch.
pub(crate) async fn epoch_ends(
    service: &Service,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let image = service.engine.image();
    let mut asked = Vec::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let target = target(&image, topic.topic.as_str(), partition.partition);
            let current = known_epoch(partition.current_leader_epoch);
            asked.push(target.map(|target| (target, current, LeaderEpoch(partition.leader_epoch))));
        }
    }
    let parts = asked.iter().filter_map(|asked| asked.as_ref().ok().cloned()).collect();
    let mut ends = service.engine.epoch_ends(parts).await.into_iter();
    let mut asked = asked.into_iter();
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let end = match asked.next().expect("one question per partition") {
                Ok(_) => ends.next().expect("one answer per question").map_err(|error| error.code()),
                Err(code) => Err(code),
            };
            epoch_end(partition.partition, end)
        });
        OffsetForLeaderTopicResult::default()
            .with_topic(topic.topic.clone())
            .with_partitions(partitions.collect())
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

fn epoch_end(partition: i32, end: Asked<EpochEnd>) -> EpochEndOffset {
    let response = EpochEndOffset::default().with_partition(partition);
    match end {
        Ok(end) => response.with_leader_epoch(end.leader_epoch.0).with_end_offset(end.end_offset.0),
        Err(code) => response.with_error_code(code.code()),
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;

    use super::super::metadata::tests::image;
    use super::super::owned;
    use super::*;

    #[test]
    fn each_name_of_an_offset_begins_with_the_version_that_brought_it() {
        let unsupported = Err(ErrorCode::UnsupportedVersion);
        for (timestamp, since) in [(-1, 1), (-2, 1), (-3, 7), (-4, 8), (-5, 9)] {
            assert_eq!(query(since - 1, timestamp, false), unsupported, "{timestamp}");
            assert!(query(since, timestamp, false).is_ok(), "{timestamp}");
        }
        assert_eq!(query(10, -6, false), unsupported);
        assert_eq!(query(1, 0, false), Ok(Some(OffsetQuery::AtTimestamp(0))));
        assert_eq!(query(2, -1, true), Ok(Some(OffsetQuery::Latest { read_committed: true })));
        assert_eq!(query(9, -5, true), Ok(None));
    }

    #[test]
    fn repeated_and_unknown_partitions_are_refused_each_for_itself() {
        let partition =
            |index| ListOffsetsPartition::default().with_partition_index(index).with_timestamp(-1);
        let topic = |name: &str, partitions: &[i32]| {
            ListOffsetsTopic::default()
                .with_name(owned(name).into())
                .with_partitions(partitions.iter().map(|index| partition(*index)).collect())
        };
        let topics = [topic("a", &[0, 1, 1, 2, -1]), topic("x", &[0])];
        let codes = questions(&image(), 5, false, &topics);
        let codes = codes.iter().map(|asked| asked.as_ref().err().copied()).collect::<Vec<_>>();
        let unknown = Some(ErrorCode::UnknownTopicOrPartition);
        let repeated = Some(ErrorCode::InvalidRequest);
        assert_eq!(codes, [None, repeated, repeated, unknown, unknown, unknown]);
    }

    #[test]
    fn an_epoch_below_zero_is_not_known() {
        assert_eq!(known_epoch(-1), None);
        assert_eq!(known_epoch(0), Some(LeaderEpoch(0)));
    }
}
