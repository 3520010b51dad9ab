//! Sets of partitions, and the forms they have in records and replies.

use std::collections::{BTreeMap, BTreeSet};

use corelog_protocol::offsets_topic::TopicPartitions;

use crate::group::api::Partitions;
use crate::types::TopicId;

/// Partitions by topic. No topic has an empty set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::group) struct Assignment(BTreeMap<TopicId, BTreeSet<i32>>);

impl Assignment {
    pub(super) fn insert(&mut self, topic: TopicId, partition: i32) -> bool {
        self.0.entry(topic).or_default().insert(partition)
    }

    pub(super) fn contains(&self, topic: TopicId, partition: i32) -> bool {
        self.0.get(&topic).is_some_and(|partitions| partitions.contains(&partition))
    }

    pub(in crate::group) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TopicId, i32)> {
        self.0.iter().flat_map(|(topic, partitions)| partitions.iter().map(|partition| (*topic, *partition)))
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = (TopicId, &BTreeSet<i32>)> {
        self.0.iter().map(|(topic, partitions)| (*topic, partitions))
    }

    pub(super) fn to_record(&self) -> Vec<TopicPartitions> {
        let topics = self.topics().map(|(topic, partitions)| TopicPartitions {
            topic: topic.0,
            partitions: partitions.iter().copied().collect(),
        });
        topics.collect()
    }

    pub(super) fn from_record(topics: &[TopicPartitions]) -> Self {
        let all = topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|partition| (TopicId(topic.topic), *partition)));
        all.collect()
    }

    pub(super) fn to_reply(&self) -> Vec<Partitions> {
        self.topics().map(|(topic, partitions)| (topic, partitions.iter().copied().collect())).collect()
    }

    pub(super) fn from_request(topics: &[Partitions]) -> Self {
        let all = topics
            .iter()
            .flat_map(|(topic, partitions)| partitions.iter().map(|partition| (*topic, *partition)));
        all.collect()
    }
}

impl FromIterator<(TopicId, i32)> for Assignment {
    fn from_iter<I: IntoIterator<Item = (TopicId, i32)>>(all: I) -> Self {
        let mut assignment = Self::default();
        for (topic, partition) in all {
            assignment.insert(topic, partition);
        }
        assignment
    }
}
