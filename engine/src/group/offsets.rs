//! The committed offsets of one group.
//!
//! Offsets of transactions that are not decided yet are a later step: they will lie beside these, by
//! producer, and make a partition unstable for a fetch that requires a stable offset.

use std::collections::BTreeMap;
use std::sync::Arc;

use corelog_protocol::ErrorCode;
use corelog_protocol::offsets_topic::{OffsetCommit, Record, STRING_BYTES_MAX};

use super::api::{ByTopic, Commit, FetchedOffset};
use super::config::GroupConfig;
use super::limits::{COMMIT_BYTES_MAX, offset_bytes};

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct GroupOffsets {
    by_topic: BTreeMap<Arc<str>, BTreeMap<i32, OffsetCommit>>,
}

/// From when on an offset's retention counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpiryBase {
    /// Offsets do not expire as long as it is like that.
    Never,
    /// From its commit.
    Commit,
    /// From its commit, but not before that time.
    NotBefore(i64),
}

impl GroupOffsets {
    pub(super) fn is_empty(&self) -> bool {
        self.by_topic.is_empty()
    }

    pub(super) fn get(&self, topic: &str, partition: i32) -> Option<&OffsetCommit> {
        self.by_topic.get(topic)?.get(&partition)
    }

    /// Takes a record in.
    pub(super) fn apply(&mut self, topic: Arc<str>, partition: i32, value: Option<OffsetCommit>) {
        match value {
            Some(value) => {
                self.by_topic.entry(topic).or_default().insert(partition, value);
            }
            None => {
                if let Some(partitions) = self.by_topic.get_mut(&topic) {
                    partitions.remove(&partition);
                    if partitions.is_empty() {
                        self.by_topic.remove(&topic);
                    }
                }
            }
        }
    }

    /// The records of a commit that the group has allowed, and what becomes of each partition.
    pub(super) fn commit(
        config: &GroupConfig,
        wall_ms: i64,
        request: Commit,
        records: &mut Vec<Record>,
    ) -> ByTopic<(i32, ErrorCode)> {
        let mut bytes = 0;
        let mut outcomes = Vec::with_capacity(request.topics.len());
        let expire_timestamp_ms = request.retention_ms.map_or(-1, |ms| wall_ms.saturating_add(ms));
        for (topic, partitions) in request.topics {
            let mut answers = Vec::with_capacity(partitions.len());
            for commit in partitions {
                if is_too_large(&commit.metadata, config.offset_metadata_max_bytes) {
                    answers.push((commit.partition, ErrorCode::OffsetMetadataTooLarge));
                    continue;
                }
                bytes += offset_bytes(&request.group, &topic, &commit.metadata);
                if bytes > COMMIT_BYTES_MAX {
                    answers.push((commit.partition, ErrorCode::InvalidCommitOffsetSize));
                    continue;
                }
                answers.push((commit.partition, ErrorCode::None));
                records.push(Record::Offset {
                    group: request.group.clone(),
                    topic: topic.clone(),
                    partition: commit.partition,
                    value: Some(OffsetCommit {
                        offset: commit.offset,
                        // The record has either a leader epoch or a time of expiry.
                        leader_epoch: if expire_timestamp_ms == -1 { commit.leader_epoch } else { -1 },
                        metadata: commit.metadata,
                        commit_timestamp_ms: wall_ms,
                        expire_timestamp_ms,
                    }),
                });
            }
            outcomes.push((topic, answers));
        }
        outcomes
    }

    /// The offsets asked for; `None` asks for all that there are.
    pub(super) fn fetch(&self, topics: Option<ByTopic<i32>>) -> ByTopic<FetchedOffset> {
        let found = |partition: i32, value: &OffsetCommit| FetchedOffset {
            partition,
            offset: value.offset,
            leader_epoch: value.leader_epoch,
            metadata: value.metadata.clone(),
            error: ErrorCode::None,
        };
        let Some(topics) = topics else {
            let all = self.by_topic.iter().map(|(topic, partitions)| {
                let offsets = partitions.iter().map(|(partition, value)| found(*partition, value));
                (topic.clone(), offsets.collect())
            });
            return all.collect();
        };
        let asked = topics.into_iter().map(|(topic, partitions)| {
            let known = self.by_topic.get(&topic);
            let offsets =
                partitions.into_iter().map(|partition| match known.and_then(|known| known.get(&partition)) {
                    Some(value) => found(partition, value),
                    None => FetchedOffset::none(partition, ErrorCode::None),
                });
            let offsets = offsets.collect();
            (topic, offsets)
        });
        asked.collect()
    }

    /// Offsets by topic and partition, as many as there are `left`, and how many more there are.
    pub(super) fn told(&self, left: &mut usize) -> (ByTopic<(i32, i64)>, usize) {
        let (mut told, mut left_out) = (Vec::new(), 0);
        for (topic, partitions) in &self.by_topic {
            let count = partitions.len().min(*left);
            *left -= count;
            left_out += partitions.len() - count;
            if count > 0 {
                let offsets = partitions.iter().take(count).map(|(partition, it)| (*partition, it.offset));
                told.push((topic.clone(), offsets.collect()));
            }
        }
        (told, left_out)
    }

    /// The tombstone of every offset that `gone` names.
    pub(super) fn tombstones(
        &self,
        group: &Arc<str>,
        mut gone: impl FnMut(&str, &OffsetCommit) -> bool,
        records: &mut Vec<Record>,
    ) {
        for (topic, partitions) in &self.by_topic {
            for (partition, value) in partitions {
                if gone(topic, value) {
                    records.push(tombstone(group, topic, *partition));
                }
            }
        }
    }
}

/// Kafka counts the units of a Java string; the record counts bytes.
fn is_too_large(metadata: &str, units_max: usize) -> bool {
    metadata.len() > STRING_BYTES_MAX
        || (metadata.len() > units_max && metadata.encode_utf16().count() > units_max)
}

pub(super) fn tombstone(group: &Arc<str>, topic: &Arc<str>, partition: i32) -> Record {
    Record::Offset { group: group.clone(), topic: topic.clone(), partition, value: None }
}

/// Whether an offset's time is over.
pub(super) fn is_expired(value: &OffsetCommit, base: ExpiryBase, retention_ms: i64, wall_ms: i64) -> bool {
    let base_ms = match base {
        ExpiryBase::Never => return false,
        ExpiryBase::Commit => value.commit_timestamp_ms,
        ExpiryBase::NotBefore(ms) => value.commit_timestamp_ms.max(ms),
    };
    if value.expire_timestamp_ms != -1 {
        return wall_ms >= value.expire_timestamp_ms;
    }
    wall_ms.saturating_sub(base_ms) >= retention_ms
}
