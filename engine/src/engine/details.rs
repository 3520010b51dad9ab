//! Partitions and groups of the whole node, one by one, from one message to each shard.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use corelog_runtime::task::yield_if_needed;
use futures_util::future::join_all;

use super::Engine;
use crate::group::api::GroupDetails;
use crate::messages::{ShardReply, ShardRequest};
use crate::meta::image::{MetaImage, TopicMeta};
use crate::shard::{DetailsWanted, PartitionDetails};
use crate::types::{NodeId, PartitionId, TopicId};

/// Partitions that are put into their places before others may run.
const STEP: usize = 1024;

/// What the shards of a node tell of their partitions and groups.
#[derive(Debug)]
pub struct NodeDetails {
    node: NodeId,
    image: Arc<MetaImage>,
    /// By topic and the partition's index; `None` where no shard has it.
    partitions: BTreeMap<TopicId, Vec<Option<PartitionDetails>>>,
    /// Groups that this node coordinates, in the order of names.
    pub groups: Vec<GroupDetails>,
    /// Shards that did not answer.
    pub silent_shards: usize,
}

/// How far a group is behind in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lag {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The next record to consume.
    pub committed: i64,
    /// Exclusive end of what consumers may see, where this node leads the partition.
    pub high_watermark: Option<i64>,
}

impl Lag {
    /// How many records there are from the committed offset on, where the end is known. Offsets that
    /// a compaction took away count.
    pub fn records(&self) -> Option<i64> {
        self.high_watermark.map(|end| end.saturating_sub(self.committed).max(0))
    }
}

impl Engine {
    /// The node's partitions and groups. What changes meanwhile may be told as it was before or
    /// after; all of what is told is cut at `wanted.commits_max` committed offsets.
    pub async fn details(&self, wanted: DetailsWanted) -> NodeDetails {
        let others: Vec<usize> = (0..self.shards()).filter(|shard| *shard != self.shard()).collect();
        let calls = others.iter().map(|shard| self.inner.mesh.call(*shard, ShardRequest::Details(wanted)));
        let calls = join_all(calls);
        let shard = Rc::clone(self.local());
        let (own, replies) =
            futures_util::future::join(async move { shard.details(wanted).await }, calls).await;
        let mut shards = vec![own];
        shards.extend(replies.into_iter().filter_map(|reply| match reply {
            Ok(ShardReply::Details(details)) => Some(*details),
            Ok(_) | Err(_) => None,
        }));
        let mut details = NodeDetails::new(self.node(), self.image(), self.shards() - shards.len());
        for shard in shards {
            details.groups.extend(shard.groups);
            for step in shard.partitions.chunks(STEP) {
                step.iter().for_each(|partition| details.place(*partition));
                yield_if_needed().await;
            }
        }
        details.settle(wanted.commits_max);
        details
    }
}

impl NodeDetails {
    fn new(node: NodeId, image: Arc<MetaImage>, silent_shards: usize) -> Self {
        Self { node, image, partitions: BTreeMap::new(), groups: Vec::new(), silent_shards }
    }

    /// Only what metadata knows too: a topic may be on its way in or out.
    fn place(&mut self, partition: PartitionDetails) {
        let target = partition.target;
        let Some(topic) = self.image.topics.get(&target.topic) else { return };
        let nobody = || vec![None; topic.partitions.len()];
        let of_topic = self.partitions.entry(target.topic).or_insert_with(nobody);
        let place = usize::try_from(target.partition.0).ok().and_then(|index| of_topic.get_mut(index));
        if let Some(place) = place {
            *place = Some(partition);
        }
    }

    fn settle(&mut self, commits_max: usize) {
        self.groups.sort_by(|one, other| one.group.cmp(&other.group));
        let mut left = commits_max;
        for group in &mut self.groups {
            group.keep_commits(&mut left);
        }
    }

    /// The metadata that this goes with.
    pub fn image(&self) -> &Arc<MetaImage> {
        &self.image
    }

    /// A topic's partitions that this node has.
    pub fn partitions_of(&self, topic: &TopicMeta) -> impl Iterator<Item = &PartitionDetails> {
        self.partitions.get(&topic.id).into_iter().flatten().flatten()
    }

    /// Committed offsets that are not told.
    pub fn commits_left_out(&self) -> usize {
        self.groups.iter().map(|group| group.commits_left_out).sum()
    }

    /// How far a group is behind in every partition for which it committed an offset.
    pub fn lags(&self, group: &GroupDetails) -> impl Iterator<Item = Lag> {
        group.commits.iter().flat_map(move |(topic, commits)| {
            let meta = self.image.topic_named(topic);
            let ends = meta.and_then(|meta| self.partitions.get(&meta.id));
            commits.iter().map(move |(partition, committed)| Lag {
                topic: Arc::clone(topic),
                partition: *partition,
                committed: *committed,
                high_watermark: self.end_of(meta, ends, *partition),
            })
        })
    }

    fn end_of(
        &self,
        topic: Option<&Arc<TopicMeta>>,
        ends: Option<&Vec<Option<PartitionDetails>>>,
        partition: i32,
    ) -> Option<i64> {
        let leader = topic?.partition(PartitionId(partition))?.leader;
        if leader != Some(self.node) {
            return None;
        }
        let index = usize::try_from(partition).ok()?;
        ends?.get(index)?.as_ref().map(|it| it.high_watermark.0)
    }
}

impl GroupDetails {
    /// Drops the commits for which nothing is left.
    fn keep_commits(&mut self, left: &mut usize) {
        for (_, commits) in &mut self.commits {
            let kept = commits.len().min(*left);
            self.commits_left_out += commits.len() - kept;
            commits.truncate(kept);
            *left -= kept;
        }
        self.commits.retain(|(_, commits)| !commits.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::image::PartitionMeta;
    use crate::shard::ShardDetails;
    use crate::types::{LeaderEpoch, Offset, TopicPartition};

    fn image(leaders: &[Option<NodeId>]) -> (Arc<MetaImage>, TopicId) {
        let id = TopicId(uuid::Uuid::from_u128(7));
        let partition = |leader: &Option<NodeId>| PartitionMeta {
            leader: *leader,
            leader_epoch: LeaderEpoch(0),
            replicas: Vec::new(),
            isr: Vec::new(),
        };
        let topic = TopicMeta {
            id,
            name: "t".to_owned(),
            internal: false,
            partitions: leaders.iter().map(partition).collect(),
            configs: BTreeMap::new(),
            first_slot: 0,
        };
        let mut image = MetaImage::default();
        image.names.insert("t".to_owned(), id);
        image.topics.insert(id, Arc::new(topic));
        (Arc::new(image), id)
    }

    fn partition(topic: TopicId, index: i32, high_watermark: i64) -> PartitionDetails {
        PartitionDetails {
            target: TopicPartition::new(topic, PartitionId(index)),
            shard: 0,
            log_start: Offset(0),
            high_watermark: Offset(high_watermark),
            bytes: 0,
            appended_bytes: 0,
            is_offline: false,
        }
    }

    fn group(name: &str, commits: &[(i32, i64)]) -> GroupDetails {
        GroupDetails {
            group: Arc::from(name),
            group_type: "classic",
            state: "Empty",
            protocol_type: Arc::from("consumer"),
            members: 0,
            commits: vec![(Arc::from("t"), commits.to_vec())],
            commits_left_out: 0,
        }
    }

    fn joined(leaders: &[Option<NodeId>], shards: Vec<ShardDetails>, commits_max: usize) -> NodeDetails {
        let mut details = NodeDetails::new(NodeId(1), image(leaders).0, 0);
        for shard in shards {
            details.groups.extend(shard.groups);
            shard.partitions.into_iter().for_each(|partition| details.place(partition));
        }
        details.settle(commits_max);
        details
    }

    #[test]
    fn lag_is_told_of_partitions_that_this_node_leads() {
        let (here, elsewhere) = (Some(NodeId(1)), Some(NodeId(2)));
        let (_, id) = image(&[]);
        let shards = vec![
            ShardDetails { partitions: vec![partition(id, 0, 10), partition(id, 2, 30)], groups: Vec::new() },
            ShardDetails {
                partitions: vec![partition(id, 1, 20)],
                groups: vec![group("g", &[(0, 4), (1, 5), (2, 35), (3, 1), (9, 1)])],
            },
        ];
        let details = joined(&[here, elsewhere, here, here], shards, 100);
        let lags: Vec<_> =
            details.lags(&details.groups[0]).map(|lag| (lag.partition, lag.records())).collect();
        // Behind a truncation a commit may lie beyond the end; partition 3 has no shard, 9 does not exist.
        assert_eq!(lags, [(0, Some(6)), (1, None), (2, Some(0)), (3, None), (9, None)]);
    }

    #[test]
    fn what_is_above_the_limit_is_counted_and_the_same_every_time() {
        let shard = |names: &[&str]| ShardDetails {
            partitions: Vec::new(),
            groups: names.iter().map(|name| group(name, &[(0, 1), (1, 1), (2, 1)])).collect(),
        };
        let of = |shards| {
            let details = joined(&[], shards, 4);
            let told = details.groups.iter().map(|it| (it.group.to_string(), details.lags(it).count()));
            (told.collect::<Vec<_>>(), details.commits_left_out())
        };
        let told = [("a", 3), ("b", 1), ("c", 0)].map(|(name, count)| (name.to_owned(), count)).to_vec();
        assert_eq!(of(vec![shard(&["c"]), shard(&["a", "b"])]), (told.clone(), 5));
        assert_eq!(of(vec![shard(&["b", "a"]), shard(&["c"])]), (told, 5));
    }
}
