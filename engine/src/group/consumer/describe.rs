//! ConsumerGroupDescribe.

use std::sync::Arc;

use super::ConsumerGroup;
use super::assignment::Assignment;
use crate::group::api::{DescribedConsumer, DescribedConsumerGroup, NamedPartitions};
use crate::group::topics::Topics;

impl ConsumerGroup {
    pub(in crate::group) fn describe(&self, topics: &dyn Topics) -> DescribedConsumerGroup {
        let members = self.members.iter().map(|(member_id, member)| DescribedConsumer {
            member_id: member_id.clone(),
            instance_id: member.meta.instance_id.clone(),
            rack_id: member.meta.rack_id.clone(),
            member_epoch: member.epoch,
            client_id: member.meta.client_id.clone(),
            client_host: member.meta.client_host.clone(),
            topics: member.meta.topics.clone(),
            regex: member.meta.regex.clone(),
            assignment: named(&member.assigned, topics),
            target: self.target.get(member_id).map(|target| named(target, topics)).unwrap_or_default(),
            is_classic: member.is_classic(),
        });
        DescribedConsumerGroup {
            state: self.state(),
            epoch: self.epoch,
            assignment_epoch: self.target_epoch,
            assignor: Arc::from(self.assignor()),
            members: members.collect(),
        }
    }
}

/// Topics that are gone have no name and are left out.
fn named(assignment: &Assignment, topics: &dyn Topics) -> Vec<NamedPartitions> {
    let named = assignment.topics().filter_map(|(topic, partitions)| {
        let name = Arc::from(topics.name_of(topic)?);
        Some(NamedPartitions { topic, name, partitions: partitions.iter().copied().collect() })
    });
    named.collect()
}
