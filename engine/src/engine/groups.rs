//! Consumer groups as `net` asks for them: finds the shard that coordinates a group, and asks it.

use corelog_protocol::error::ErrorCode;
use futures_util::future::join_all;

use super::Engine;
use crate::api::{NewTopic, TopicError};
use crate::group::api::{Client, ListGroups, ListedGroup, Reply, Request};
use crate::messages::{GroupCall, ShardReply, ShardRequest};
use crate::types::{PartitionId, TopicPartition};

/// The topic whose partitions coordinate groups and hold what is kept of them.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// What that topic is created with. Smaller segments than Kafka's 100 MiB, since the newest is never
/// compacted and all of it is read at a start; and synced whatever else is, since a commit that was
/// answered must not go back.
const OFFSETS_TOPIC_CONFIGS: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("compression.type", "producer"),
    ("segment.bytes", "16777216"),
    ("corelog.durability", "fsync"),
];

impl Engine {
    /// Makes sure that groups can be coordinated: creates [`OFFSETS_TOPIC`] when it is not there yet.
    ///
    /// # Errors
    /// When the topic cannot be created; clients may try again.
    pub async fn ready_for_groups(&self) -> Result<(), TopicError> {
        if self.image().topic_named(OFFSETS_TOPIC).is_some() {
            return Ok(());
        }
        let configs = OFFSETS_TOPIC_CONFIGS.map(|(name, value)| (name.to_owned(), Some(value.to_owned())));
        let topic = NewTopic {
            name: OFFSETS_TOPIC.to_owned(),
            partitions: self.inner.options.shard.groups.offsets_topic_partitions,
            replication_factor: 1,
            assignments: Vec::new(),
            configs: configs.to_vec(),
        };
        match self.create_topics(vec![topic], false).await.pop() {
            // Somebody else was faster.
            Some(Ok(_) | Err(TopicError::Exists(_))) => Ok(()),
            Some(Err(error)) => Err(error),
            None => Err(TopicError::Unavailable("metadata did not answer".to_owned())),
        }
    }

    /// Asks the coordinator of the request's group. JoinGroup and SyncGroup are answered when the
    /// group has got that far, which can take minutes.
    ///
    /// # Errors
    /// Why there is no coordinator: COORDINATOR_NOT_AVAILABLE, COORDINATOR_LOAD_IN_PROGRESS or
    /// NOT_COORDINATOR, after all of which a client tries again.
    pub async fn group(&self, client: Client, request: Request) -> Result<Reply, ErrorCode> {
        let group = request.group().ok_or(ErrorCode::InvalidGroupId)?;
        let image = self.image();
        let topic = image.topic_named(OFFSETS_TOPIC).ok_or(ErrorCode::CoordinatorNotAvailable)?;
        let partition = partition_of(group, topic.partitions.len());
        let target = TopicPartition::new(topic.id, partition);
        let owner = topic.shard_of(partition, self.shards());
        if owner == self.shard() {
            let reply = self.local().group(target, client, request).await;
            return reply.unwrap_or(Err(ErrorCode::NotCoordinator));
        }
        let call = Box::new(GroupCall { target, client, request });
        match self.inner.mesh.call(owner, ShardRequest::Group(call)).await {
            Ok(ShardReply::Group(reply)) => *reply,
            Ok(_) | Err(_) => Err(ErrorCode::NotCoordinator),
        }
    }

    /// Every group of this node, in the order of names.
    ///
    /// # Errors
    /// COORDINATOR_LOAD_IN_PROGRESS while some are not known yet.
    pub async fn list_groups(&self, filter: &ListGroups) -> Result<Vec<ListedGroup>, ErrorCode> {
        let ask = |shard| self.inner.mesh.call(shard, ShardRequest::ListGroups(filter.clone()));
        let mut all = Vec::new();
        for reply in join_all((0..self.shards()).map(ask)).await {
            match reply {
                Ok(ShardReply::Groups(groups)) => all.extend(groups?),
                Ok(_) | Err(_) => return Err(ErrorCode::CoordinatorNotAvailable),
            }
        }
        all.sort_by(|one, other| one.group.cmp(&other.group));
        Ok(all)
    }
}

/// The partition that a group belongs to: Java's hash of its name, as in Kafka.
fn partition_of(group: &str, partitions: usize) -> PartitionId {
    let hash =
        group.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // What Java's `Utils.abs` makes of the smallest number.
    let hash = if hash == i32::MIN { 0 } else { hash.unsigned_abs() };
    let partitions = u32::try_from(partitions).unwrap_or(u32::MAX).max(1);
    PartitionId(i32::try_from(hash % partitions).expect("smaller than a partition count"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_in_the_partition_in_which_kafka_has_it() {
        // What Java says of `Utils.abs(name.hashCode())`, modulo 50 and 7.
        let known = [
            ("", 0, 0),
            ("a", 47, 6),
            ("console-consumer-12345", 6, 6),
            ("grüße", 23, 4),
            ("😀", 49, 2),
            ("my-group", 12, 1),
            // Its hash is the smallest number.
            ("polygenelubricants", 0, 0),
        ];
        for (group, of_50, of_7) in known {
            assert_eq!((partition_of(group, 50).0, partition_of(group, 7).0), (of_50, of_7), "{group}");
        }
    }
}
