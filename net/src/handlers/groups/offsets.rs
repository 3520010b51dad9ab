//! OffsetCommit, OffsetFetch, OffsetDelete.

use std::collections::BTreeSet;
use std::sync::Arc;

use corelog_engine::group::api::{
    ByTopic, Client as Asker, Commit, CommitPartition, DeleteOffsets, DeleteOffsetsReply, FetchOffsets,
    FetchOffsetsReply, FetchedOffset, Reply, Request,
};
use corelog_engine::meta::image::MetaImage;
use corelog_engine::types::PartitionId;
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    OffsetFetchResponse,
};

use super::{ask, each, optional_text, owned, text};
use crate::service::Service;

/// First version of OffsetCommit whose clients know the errors of consumer groups.
const EPOCHS_FROM: i16 = 9;
/// Last version of OffsetCommit with a retention of its own; −1 is none.
const RETENTION_UNTIL: i16 = 4;
/// First version of OffsetFetch with a place for an error of the whole.
const FETCH_ERROR_FROM: i16 = 2;
/// First version of OffsetFetch for several groups.
const FETCH_GROUPS_FROM: i16 = 8;
/// First version of OffsetFetch that says who asks.
const FETCH_MEMBER_FROM: i16 = 9;

/// What was asked about, and whether it exists, in the order of the request.
type Asked = ByTopic<(i32, bool)>;
/// What became of it.
type Codes = ByTopic<(i32, ErrorCode)>;

/// Sorts out what does not exist: gives what is left for the coordinator.
fn existing<P>(image: &MetaImage, asked: ByTopic<P>, index_of: impl Fn(&P) -> i32) -> (Asked, ByTopic<P>) {
    let (mut told, mut known) = (Vec::with_capacity(asked.len()), Vec::with_capacity(asked.len()));
    for (name, partitions) in asked {
        let topic = image.topic_named(&name);
        let exists = |index| topic.is_some_and(|topic| topic.partition(PartitionId(index)).is_some());
        let indexes = partitions.iter().map(&index_of);
        told.push((Arc::clone(&name), indexes.map(|index| (index, exists(index))).collect()));
        let left: Vec<P> = partitions.into_iter().filter(|partition| exists(index_of(partition))).collect();
        if !left.is_empty() {
            known.push((name, left));
        }
    }
    (told, known)
}

/// The coordinator's codes, and those of what does not exist between them.
fn merge(asked: Asked, codes: Codes) -> Codes {
    let mut codes = codes.into_iter().flat_map(|(_, partitions)| partitions);
    let merged = asked.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|(index, exists)| {
            if !exists {
                return (index, ErrorCode::UnknownTopicOrPartition);
            }
            let (answered, code) = codes.next().expect("one code per partition that was passed on");
            assert_eq!(answered, index, "codes come in the order of the request");
            (index, code)
        });
        (name, partitions.collect())
    });
    merged.collect()
}

/// The same code for everything that exists.
fn all(asked: Asked, error: ErrorCode) -> Codes {
    let code = |(index, exists)| (index, if exists { error } else { ErrorCode::UnknownTopicOrPartition });
    let codes = asked.into_iter();
    codes.map(|(name, partitions)| (name, partitions.into_iter().map(code).collect())).collect()
}

/// Answers OffsetCommit.
pub(crate) async fn commit(
    service: &Service,
    asker: Asker,
    version: i16,
    request: &OffsetCommitRequest,
) -> OffsetCommitResponse {
    let mut commit = commit_request(version, request);
    let (asked, known) = existing(&service.engine.image(), commit.topics, |commit| commit.partition);
    if known.is_empty() {
        return committed(all(asked, ErrorCode::None));
    }
    commit.topics = known;
    let take = |reply| if let Reply::Commit(codes) = reply { Some(codes) } else { None };
    committed(match ask(service, asker, Request::Commit(commit), take).await {
        Ok(codes) => merge(asked, codes),
        Err(error) => all(asked, error),
    })
}

fn commit_request(version: i16, request: &OffsetCommitRequest) -> Commit {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| CommitPartition {
            partition: partition.partition_index,
            offset: partition.committed_offset,
            leader_epoch: partition.committed_leader_epoch,
            metadata: optional_text(partition.committed_metadata.as_ref()).unwrap_or_default(),
        });
        (text(&topic.name), partitions.collect())
    });
    let has_retention = version <= RETENTION_UNTIL && request.retention_time_ms != -1;
    Commit {
        group: text(&request.group_id),
        member_id: text(&request.member_id),
        instance_id: optional_text(request.group_instance_id.as_ref()),
        generation: request.generation_id_or_member_epoch,
        knows_epochs: version >= EPOCHS_FROM,
        retention_ms: has_retention.then_some(request.retention_time_ms),
        topics: topics.collect(),
    }
}

fn committed(codes: Codes) -> OffsetCommitResponse {
    let topics = codes.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|(index, code)| {
            OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code.code())
        });
        OffsetCommitResponseTopic::default()
            .with_name(owned(&name).into())
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// Answers OffsetDelete.
pub(crate) async fn delete(
    service: &Service,
    asker: Asker,
    request: &OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    if request.group_id.is_empty() {
        return refused_delete(ErrorCode::InvalidGroupId);
    }
    let topics = request.topics.iter().map(|topic| {
        (text(&topic.name), topic.partitions.iter().map(|partition| partition.partition_index).collect())
    });
    let (asked, topics) = existing(&service.engine.image(), topics.collect(), |index| *index);
    let request = Request::DeleteOffsets(DeleteOffsets { group: text(&request.group_id), topics });
    let take = |reply| if let Reply::DeleteOffsets(reply) = reply { Some(reply) } else { None };
    match ask(service, asker, request, take).await {
        Ok(reply) => deleted(asked, reply),
        Err(error) => refused_delete(error),
    }
}

fn refused_delete(error: ErrorCode) -> OffsetDeleteResponse {
    OffsetDeleteResponse::default().with_error_code(error.code())
}

fn deleted(asked: Asked, reply: DeleteOffsetsReply) -> OffsetDeleteResponse {
    if reply.error != ErrorCode::None {
        return refused_delete(reply.error);
    }
    let topics = merge(asked, reply.topics).into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|(index, code)| {
            OffsetDeleteResponsePartition::default().with_partition_index(index).with_error_code(code.code())
        });
        OffsetDeleteResponseTopic::default()
            .with_name(owned(&name).into())
            .with_partitions(partitions.collect())
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}

/// Answers OffsetFetch. What is named twice is answered once: it would make a small request's answer
/// as large as somebody likes.
pub(crate) async fn fetch(
    service: &Service,
    asker: Asker,
    version: i16,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    let groups = fetch_requests(version, request);
    let fetched = each(groups, |request| {
        let asker = asker.clone();
        async move {
            let (group, topics) = (Arc::clone(&request.group), request.topics.clone());
            let take = |reply| if let Reply::FetchOffsets(reply) = reply { Some(reply) } else { None };
            let reply = ask(service, asker, Request::FetchOffsets(request), take).await;
            let reply = reply.unwrap_or_else(|error| FetchOffsetsReply { error, topics: Vec::new() });
            Fetched { group, asked: topics, reply }
        }
    });
    fetched_response(version, fetched.await)
}

/// What one group answered.
struct Fetched {
    group: Arc<str>,
    asked: Option<ByTopic<i32>>,
    reply: FetchOffsetsReply,
}

fn fetch_requests(version: i16, request: OffsetFetchRequest) -> Vec<FetchOffsets> {
    let require_stable = request.require_stable;
    if version < FETCH_GROUPS_FROM {
        let topics = request.topics.map(|topics| {
            let named = topics.iter().map(|topic| (text(&topic.name), &topic.partition_indexes));
            distinct_partitions(named)
        });
        let group = text(&request.group_id);
        return vec![FetchOffsets { group, member: None, require_stable, topics }];
    }
    let mut seen = BTreeSet::new();
    let groups = request.groups.iter().filter(|group| seen.insert(group.group_id.as_str()));
    groups.map(|group| fetch_request(version, require_stable, group)).collect()
}

fn fetch_request(version: i16, require_stable: bool, group: &OffsetFetchRequestGroup) -> FetchOffsets {
    let topics = group.topics.as_ref().map(|topics| {
        let named = topics.iter().map(|topic| (text(&topic.name), &topic.partition_indexes));
        distinct_partitions(named)
    });
    let member = match (&group.member_id, group.member_epoch) {
        _ if version < FETCH_MEMBER_FROM => None,
        // An admin client, or one that is in no group.
        (None, ..0) => None,
        (member_id, epoch) => Some((optional_text(member_id.as_ref()).unwrap_or_default(), epoch)),
    };
    FetchOffsets { group: text(&group.group_id), member, require_stable, topics }
}

fn distinct_partitions<'a>(named: impl Iterator<Item = (Arc<str>, &'a Vec<i32>)>) -> ByTopic<i32> {
    let mut seen = BTreeSet::new();
    let topics = named.map(|(topic, indexes)| {
        let indexes = indexes.iter().copied();
        let distinct = indexes.filter(|index| seen.insert((Arc::clone(&topic), *index))).collect();
        (topic, distinct)
    });
    topics.collect()
}

fn fetched_response(version: i16, fetched: Vec<Fetched>) -> OffsetFetchResponse {
    if version >= FETCH_GROUPS_FROM {
        let groups = fetched.into_iter().map(fetched_group);
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let [Fetched { asked, reply, .. }] =
        <[Fetched; 1]>::try_from(fetched).unwrap_or_else(|_| unreachable!("these versions have one group"));
    let topics = match reply.error {
        ErrorCode::None => reply.topics,
        // There is no other place for it.
        error if version < FETCH_ERROR_FROM => refused_partitions(asked.unwrap_or_default(), error),
        _ => Vec::new(),
    };
    let topics = topics.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|fetched| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(fetched.partition)
                .with_committed_offset(fetched.offset)
                .with_committed_leader_epoch(fetched.leader_epoch)
                .with_metadata(Some(owned(&fetched.metadata)))
                .with_error_code(fetched.error.code())
        });
        OffsetFetchResponseTopic::default()
            .with_name(owned(&name).into())
            .with_partitions(partitions.collect())
    });
    OffsetFetchResponse::default().with_error_code(reply.error.code()).with_topics(topics.collect())
}

fn refused_partitions(asked: ByTopic<i32>, error: ErrorCode) -> ByTopic<FetchedOffset> {
    let refused = asked.into_iter().map(|(topic, indexes)| {
        (topic, indexes.into_iter().map(|index| FetchedOffset::none(index, error)).collect())
    });
    refused.collect()
}

fn fetched_group(fetched: Fetched) -> OffsetFetchResponseGroup {
    let Fetched { group, reply, .. } = fetched;
    let response = OffsetFetchResponseGroup::default()
        .with_group_id(owned(&group).into())
        .with_error_code(reply.error.code());
    if reply.error != ErrorCode::None {
        return response;
    }
    let topics = reply.topics.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|fetched| {
            OffsetFetchResponsePartitions::default()
                .with_partition_index(fetched.partition)
                .with_committed_offset(fetched.offset)
                .with_committed_leader_epoch(fetched.leader_epoch)
                .with_metadata(Some(owned(&fetched.metadata)))
                .with_error_code(fetched.error.code())
        });
        OffsetFetchResponseTopics::default()
            .with_name(owned(&name).into())
            .with_partitions(partitions.collect())
    });
    response.with_topics(topics.collect())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::offset_commit_request::{
        OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    };
    use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestTopic, OffsetFetchRequestTopics};

    use super::super::super::metadata::tests::image;
    use super::super::tests::over_the_wire;
    use super::*;

    fn commits() -> OffsetCommitRequest {
        let partition = |index| {
            let partition = OffsetCommitRequestPartition::default().with_partition_index(index);
            partition.with_committed_offset(10).with_committed_metadata(None)
        };
        let topic = |name: &str, indexes: &[i32]| {
            OffsetCommitRequestTopic::default()
                .with_name(owned(name).into())
                .with_partitions(indexes.iter().map(|index| partition(*index)).collect())
        };
        OffsetCommitRequest::default().with_group_id(owned("g").into()).with_topics(vec![
            topic("x", &[0]),
            topic("a", &[0, 9, 1]),
            topic("b", &[-1]),
        ])
    }

    fn codes(response: &OffsetCommitResponse) -> Vec<(String, i32, i16)> {
        let topics = response.topics.iter();
        let codes = topics.flat_map(|topic| {
            let partition =
                |p: &OffsetCommitResponsePartition| (topic.name.to_string(), p.partition_index, p.error_code);
            topic.partitions.iter().map(partition).collect::<Vec<_>>()
        });
        codes.collect()
    }

    #[test]
    fn what_does_not_exist_is_refused_and_the_rest_is_committed() {
        let commit = commit_request(9, &commits());
        let (asked, known) = existing(&image(), commit.topics, |commit| commit.partition);
        assert_eq!(known.len(), 1);
        assert_eq!(known[0].1.iter().map(|commit| commit.partition).collect::<Vec<_>>(), [0, 1]);
        let of_coordinator =
            vec![(Arc::from("a"), vec![(0, ErrorCode::None), (1, ErrorCode::OffsetMetadataTooLarge)])];
        let merged = committed(merge(asked.clone(), of_coordinator));
        let expected = [("x", 0, 3), ("a", 0, 0), ("a", 9, 3), ("a", 1, 12), ("b", -1, 3)];
        let expected = expected.map(|(name, index, code)| (name.to_owned(), index, code));
        for version in 2..=9 {
            assert_eq!(codes(&over_the_wire(version, &merged)), expected);
        }
        let refused = codes(&committed(all(asked, ErrorCode::NotCoordinator)));
        assert_eq!(refused.iter().map(|(_, _, code)| *code).collect::<Vec<_>>(), [3, 16, 3, 16, 3]);
    }

    #[test]
    fn each_version_of_a_commit_means_what_it_can_say() {
        for version in 2..=9 {
            let commit = commit_request(version, &commits().with_retention_time_ms(5));
            assert_eq!(commit.retention_ms, (version <= 4).then_some(5));
            assert_eq!(commit.knows_epochs, version >= 9);
            assert_eq!(&*commit.topics[0].1[0].metadata, "", "null counts as empty");
            assert_eq!(commit_request(version, &commits().with_retention_time_ms(-1)).retention_ms, None);
        }
    }

    fn group_of(member_id: Option<&str>, epoch: i32) -> OffsetFetchRequestGroup {
        let topic = OffsetFetchRequestTopics::default()
            .with_name(owned("a").into())
            .with_partition_indexes(vec![1, 0, 1]);
        OffsetFetchRequestGroup::default()
            .with_group_id(owned("g").into())
            .with_member_id(member_id.map(owned))
            .with_member_epoch(epoch)
            .with_topics(Some(vec![topic.clone(), topic]))
    }

    #[test]
    fn a_fetch_names_one_group_or_several_and_nothing_twice() {
        let topic = OffsetFetchRequestTopic::default()
            .with_name(owned("a").into())
            .with_partition_indexes(vec![0, 0, 5]);
        let old = OffsetFetchRequest::default().with_group_id(owned("old").into()).with_require_stable(true);
        for version in 1..=7 {
            let asked = fetch_requests(version, old.clone().with_topics(Some(vec![topic.clone()])));
            assert_eq!((asked.len(), &*asked[0].group, asked[0].require_stable), (1, "old", true));
            assert_eq!(asked[0].topics, Some(vec![(Arc::from("a"), vec![0, 5])]));
            assert_eq!(fetch_requests(version, old.clone().with_topics(None))[0].topics, None);
        }
        let all = group_of(None, -1).with_group_id(owned("all").into()).with_topics(None);
        let groups = vec![group_of(None, -1), all, group_of(None, -1)];
        for version in 8..=9 {
            let request = OffsetFetchRequest::default().with_groups(groups.clone());
            let asked = fetch_requests(version, request);
            assert_eq!(asked.iter().map(|asked| &*asked.group).collect::<Vec<_>>(), ["g", "all"]);
            let expected: ByTopic<i32> = vec![(Arc::from("a"), vec![1, 0]), (Arc::from("a"), vec![])];
            assert_eq!((&asked[0].topics, &asked[1].topics), (&Some(expected), &None));
        }
    }

    #[test]
    fn only_who_names_himself_is_checked() {
        let member = |version, id, epoch| fetch_request(version, false, &group_of(id, epoch)).member;
        assert_eq!(member(8, None, -1), None);
        assert_eq!(member(9, None, -1), None);
        assert_eq!(member(9, Some("m"), 4), Some((Arc::from("m"), 4)));
        assert_eq!(member(9, Some("m"), -1), Some((Arc::from("m"), -1)));
        assert_eq!(member(9, None, 0), Some((Arc::from(""), 0)));
    }

    #[test]
    fn each_version_of_fetched_has_errors_in_its_place() {
        for version in 1..=9 {
            let fetched = |error| Fetched {
                group: Arc::from("g"),
                asked: Some(vec![(Arc::from("a"), vec![4])]),
                reply: FetchOffsetsReply {
                    error,
                    topics: vec![(
                        Arc::from("a"),
                        vec![FetchedOffset {
                            offset: 7,
                            leader_epoch: 2,
                            ..FetchedOffset::none(4, ErrorCode::None)
                        }],
                    )],
                },
            };
            let good = fetched_response(version, vec![fetched(ErrorCode::None)]);
            let bad = fetched_response(version, vec![fetched(ErrorCode::NotCoordinator)]);
            let (good, bad) = (over_the_wire(version, &good), over_the_wire(version, &bad));
            if version >= 8 {
                let partition = &good.groups[0].topics[0].partitions[0];
                assert_eq!((partition.committed_offset, partition.committed_leader_epoch), (7, 2));
                assert_eq!((bad.groups[0].error_code, bad.groups[0].topics.len()), (16, 0));
                continue;
            }
            let partition = &good.topics[0].partitions[0];
            let epoch = if version >= 5 { 2 } else { -1 };
            assert_eq!((partition.committed_offset, partition.committed_leader_epoch), (7, epoch));
            if version >= 2 {
                assert_eq!((bad.error_code, bad.topics.len()), (16, 0));
            } else {
                let partition = &bad.topics[0].partitions[0];
                assert_eq!((partition.partition_index, partition.error_code), (4, 16));
                assert_eq!((partition.committed_offset, bad.error_code), (-1, 0));
            }
        }
    }

    #[test]
    fn a_refused_deletion_has_one_error() {
        let asked: Asked = vec![(Arc::from("a"), vec![(0, true), (7, false)])];
        let topics = vec![(Arc::from("a"), vec![(0, ErrorCode::GroupSubscribedToTopic)])];
        let reply = DeleteOffsetsReply { error: ErrorCode::None, topics };
        let response = over_the_wire(0, &deleted(asked.clone(), reply));
        let codes: Vec<_> =
            response.topics[0].partitions.iter().map(|p| (p.partition_index, p.error_code)).collect();
        assert_eq!((response.error_code, codes), (0, vec![(0, 86), (7, 3)]));
        let reply = DeleteOffsetsReply { error: ErrorCode::GroupIdNotFound, topics: Vec::new() };
        let response = over_the_wire(0, &deleted(asked, reply));
        assert_eq!((response.error_code, response.topics.len()), (69, 0));
    }
}
