//! DescribeLogDirs and AlterReplicaLogDirs: the one directory of this node, and how large the
//! partitions in it are. There is no other that they could be moved to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use corelog_engine::meta::image::MetaImage;
use corelog_engine::types::{NodeId, PartitionId, TopicPartition};
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{
    AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, DescribeLogDirsRequest, DescribeLogDirsResponse,
};

use super::owned;
use crate::service::Service;

/// Answers DescribeLogDirs. Sizes are those of the records: in segments, and of what is only in the
/// journal so far. The journal itself is no partition's.
pub(crate) async fn describe(service: &Service, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    let engine = &service.engine;
    let dir = directory(service);
    let result = DescribeLogDirsResult::default().with_log_dir(owned(&dir.to_string_lossy()));
    let space = match engine.space().await {
        Ok(space) => space,
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "the data directory cannot be looked at");
            let result = result.with_error_code(ErrorCode::KafkaStorageError.code());
            return DescribeLogDirsResponse::default().with_results(vec![result]);
        }
    };
    let image = engine.image();
    let asked = asked(&image, engine.node(), &request);
    let sizes = engine.sizes(asked.iter().map(|(_, target)| *target).collect()).await;
    let mut topics: BTreeMap<&str, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for ((name, target), size) in asked.iter().zip(sizes) {
        // One that is deleted just now has no size any more.
        let Ok(size) = size else { continue };
        let partition = DescribeLogDirsPartition::default().with_partition_index(target.partition.0);
        topics.entry(name).or_default().push(partition.with_partition_size(signed(size)));
    }
    let topic = |(name, partitions): (&str, Vec<_>)| {
        DescribeLogDirsTopic::default().with_name(owned(name).into()).with_partitions(partitions)
    };
    let result = result
        .with_topics(topics.into_iter().map(topic).collect())
        .with_total_bytes(signed(space.total_bytes))
        .with_usable_bytes(signed(space.usable_bytes));
    DescribeLogDirsResponse::default().with_results(vec![result])
}

/// The directory as clients know it.
fn directory(service: &Service) -> PathBuf {
    let dir = service.engine.data_dir();
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf())
}

/// Answers AlterReplicaLogDirs. What is to be where it is already is there.
pub(crate) fn alter(service: &Service, request: &AlterReplicaLogDirsRequest) -> AlterReplicaLogDirsResponse {
    moved(&service.engine.image(), &directory(service), request)
}

fn moved(
    image: &MetaImage,
    here: &Path,
    request: &AlterReplicaLogDirsRequest,
) -> AlterReplicaLogDirsResponse {
    let mut outcomes: BTreeMap<&str, BTreeMap<i32, Option<ErrorCode>>> = BTreeMap::new();
    for dir in &request.dirs {
        for topic in &dir.topics {
            let of_topic = outcomes.entry(topic.name.as_str()).or_default();
            for index in &topic.partitions {
                let known = image.topic_named(&topic.name).and_then(|it| it.partition(PartitionId(*index)));
                let error = match known {
                    _ if Path::new(dir.path.as_str()) != here => Some(ErrorCode::LogDirNotFound),
                    None => Some(ErrorCode::UnknownTopicOrPartition),
                    Some(_) => None,
                };
                // Named with another directory, too: the last one counts, as in Kafka.
                of_topic.insert(*index, error);
            }
        }
    }
    let partition = |(index, error): (i32, Option<ErrorCode>)| {
        let code = error.map_or(0, ErrorCode::code);
        AlterReplicaLogDirPartitionResult::default().with_partition_index(index).with_error_code(code)
    };
    let results = outcomes.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(partition).collect();
        AlterReplicaLogDirTopicResult::default()
            .with_topic_name(owned(name).into())
            .with_partitions(partitions)
    });
    AlterReplicaLogDirsResponse::default().with_results(results.collect())
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The partitions of this node that are asked for, each once, by topic. Without a list: all.
fn asked<'a>(
    image: &'a MetaImage,
    node: NodeId,
    request: &DescribeLogDirsRequest,
) -> Vec<(&'a str, TopicPartition)> {
    let mut wanted: BTreeMap<&str, Option<BTreeSet<i32>>> = BTreeMap::new();
    match &request.topics {
        None => wanted.extend(image.names.keys().map(|name| (name.as_str(), None))),
        Some(topics) => {
            for topic in topics {
                let of = wanted.entry(topic.topic.as_str()).or_insert_with(|| Some(BTreeSet::new()));
                of.get_or_insert_default().extend(&topic.partitions);
            }
        }
    }
    let mut asked = Vec::new();
    for (name, partitions) in wanted {
        let Some(topic) = image.topic_named(name) else { continue };
        for (index, partition) in (0_i32..).zip(&topic.partitions) {
            let is_wanted = partitions.as_ref().is_none_or(|wanted| wanted.contains(&index));
            if is_wanted && partition.replicas.contains(&node) {
                asked.push((topic.name.as_str(), TopicPartition::new(topic.id, PartitionId(index))));
            }
        }
    }
    asked
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;

    use super::*;
    use crate::handlers::metadata::tests::image;

    fn ask(node: i32, topics: Option<&[(&str, &[i32])]>) -> Vec<String> {
        let topic = |(name, partitions): &(&str, &[i32])| {
            let topic = DescribableLogDirTopic::default().with_topic(owned(name).into());
            topic.with_partitions(partitions.to_vec())
        };
        let topics = topics.map(|topics| topics.iter().map(topic).collect());
        let request = DescribeLogDirsRequest::default().with_topics(topics);
        let image = image();
        let asked = asked(&image, NodeId(node), &request);
        asked.iter().map(|(name, target)| format!("{name}{}", target.partition.0)).collect()
    }

    #[test]
    fn what_is_in_the_directory_may_stay_there_and_nothing_else() {
        use kafka_protocol::messages::alter_replica_log_dirs_request::{
            AlterReplicaLogDir, AlterReplicaLogDirTopic,
        };

        let dir = |path: &str, topics: &[(&str, &[i32])]| {
            let topics = topics.iter().map(|(name, partitions)| {
                let topic = AlterReplicaLogDirTopic::default().with_name(owned(name).into());
                topic.with_partitions(partitions.to_vec())
            });
            AlterReplicaLogDir::default().with_path(owned(path)).with_topics(topics.collect())
        };
        let dirs =
            vec![dir("/data", &[("b", &[0, 7]), ("x", &[0])]), dir("/other", &[("a", &[0]), ("b", &[1])])];
        let request = AlterReplicaLogDirsRequest::default().with_dirs(dirs);
        let response = moved(&image(), Path::new("/data"), &request);
        let codes: Vec<_> = response
            .results
            .iter()
            .flat_map(|it| {
                it.partitions
                    .iter()
                    .map(|p| format!("{}{} {}", it.topic_name.0, p.partition_index, p.error_code))
            })
            .collect();
        assert_eq!(codes, ["a0 57", "b0 0", "b1 57", "b7 3", "x0 3"]);
    }

    #[test]
    fn every_partition_comes_once_if_it_is_here() {
        assert_eq!(ask(1, None), ["a0", "a1", "b0", "b1", "b2", "c0"]);
        assert_eq!(ask(1, Some(&[("b", &[2, 0, 7, -1, 2]), ("x", &[0]), ("b", &[0])])), ["b0", "b2"]);
        assert!(ask(1, Some(&[])).is_empty());
        assert!(ask(2, None).is_empty());
    }
}
