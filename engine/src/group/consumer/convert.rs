//! A group that changes its protocol while it has members: upgraded when the first member that speaks
//! the consumer protocol joins, downgraded when the last one is gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use corelog_protocol::WireError;
use corelog_protocol::offsets_topic::{
    ClassicProtocol, ConsumerClassicMember, ConsumerGroupEpoch, ConsumerMember, ConsumerTargetEpoch, Record,
    decode_assignment, decode_subscription, has_user_data,
};
use thiserror::Error;

use super::assignment::Assignment;
use super::classic_member::classic_assignment;
use super::{ConsumerGroup, Member};
use crate::group::api::Protocol;
use crate::group::classic::{self, ClassicGroup};
use crate::group::config::GroupConfig;
use crate::group::effects::Scope;
use crate::group::topics::Topics;

/// Why a classic group with members does not become a consumer group. The sentences are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(in crate::group) enum UpgradeError {
    #[error("online upgrade is disabled")]
    Disabled,
    #[error("the group does not use the consumer embedded protocol")]
    OtherProtocol,
    #[error("the group size exceeds the consumer group maximum size")]
    TooLarge,
    #[error("the embedded consumer protocol is malformed")]
    Malformed(#[from] WireError),
    /// What the assignor keeps in assignments would be lost: Kafka Streams is such a one.
    #[error(
        "an unsupported custom assignor is in use. Please refer to the documentation or switch to a default assignor before re-attempting the upgrade"
    )]
    CustomAssignor,
}

fn check_upgrade(classic: &ClassicGroup, config: &GroupConfig) -> Result<(), UpgradeError> {
    if !config.migration.upgrades() {
        return Err(UpgradeError::Disabled);
    }
    if !classic.is_consumers() {
        return Err(UpgradeError::OtherProtocol);
    }
    if classic.members().len() > config.consumer_max_size {
        return Err(UpgradeError::TooLarge);
    }
    Ok(())
}

impl ConsumerGroup {
    /// The same group under the consumer protocol: members keep what they have, and the generation
    /// becomes the epoch. Sets no deadlines yet, since the member that it is for may be refused.
    pub(in crate::group) fn from_classic(
        scope: &mut Scope<'_>,
        id: &Arc<str>,
        classic: &ClassicGroup,
    ) -> Result<Self, UpgradeError> {
        check_upgrade(classic, scope.config)?;
        let mut members = Vec::new();
        let mut given = BTreeSet::new();
        for (member_id, member) in classic.members() {
            members.push((member_id.clone(), upgraded(scope.topics, classic, member, &mut given)?));
        }
        let epoch = classic.generation();
        let mut group = Self::new(id.clone());
        scope.record(Record::Group { group: id.clone(), value: None });
        for (member, upgraded) in &members {
            let value = Some(upgraded.meta.clone());
            group.emit(scope, Record::ConsumerMember { group: id.clone(), member: member.clone(), value });
        }
        let value = Some(ConsumerGroupEpoch { epoch, metadata_hash: group.hash_topics(scope.topics) });
        group.emit(scope, Record::ConsumerGroup { group: id.clone(), value });
        for (member, upgraded) in &members {
            let value = Some(upgraded.assigned.to_record());
            group.emit(
                scope,
                Record::ConsumerTargetMember { group: id.clone(), member: member.clone(), value },
            );
        }
        let value = Some(ConsumerTargetEpoch { epoch });
        group.emit(scope, Record::ConsumerTarget { group: id.clone(), value });
        for (member, upgraded) in members {
            let value = Some(upgraded.to_record());
            group.emit(scope, Record::ConsumerCurrent { group: id.clone(), member, value });
        }
        Ok(group)
    }

    /// Whether nobody speaks the consumer protocol any more, and the group may change back.
    pub(in crate::group) fn is_downgradable(&self, config: &GroupConfig) -> bool {
        config.migration.downgrades()
            && !self.members.is_empty()
            && self.members.len() <= config.max_size
            && self.members.values().all(Member::is_classic)
    }

    /// The same group under the classic protocol, stable, with the epoch as its generation.
    pub(in crate::group) fn to_classic(&self, scope: &mut Scope<'_>) -> ClassicGroup {
        let members = self.members.iter().map(|(member_id, member)| {
            let classic = member.meta.classic.as_ref().expect("the caller asked is_downgradable");
            let protocols = classic.protocols.iter().map(|protocol| Protocol {
                name: protocol.name.clone(),
                metadata: protocol.metadata.clone(),
            });
            let downgraded = classic::Member {
                instance_id: member.meta.instance_id.clone(),
                client_id: member.meta.client_id.clone(),
                client_host: member.meta.client_host.clone(),
                rebalance_timeout_ms: member.meta.rebalance_timeout_ms,
                session_timeout_ms: classic.session_timeout_ms,
                protocols: protocols.collect(),
                assignment: classic_assignment(member, scope.topics),
                joining: None,
                syncing: None,
                is_new: false,
            };
            (member_id.clone(), downgraded)
        });
        let classic = ClassicGroup::from_members(scope.now, self.id.clone(), self.epoch, members.collect());
        self.tombstones(&mut scope.effects.records);
        for member_id in self.members.keys() {
            self.forget_timers(scope, member_id);
        }
        scope.record(classic.record());
        classic.start_timers(scope);
        classic
    }
}

fn upgraded(
    topics: &dyn Topics,
    group: &ClassicGroup,
    member: &classic::Member,
    given: &mut BTreeSet<(crate::types::TopicId, i32)>,
) -> Result<Member, UpgradeError> {
    let chosen = group.protocol().and_then(|name| member.protocols.iter().find(|p| p.name == *name));
    let protocol = chosen.or(member.protocols.first()).ok_or(UpgradeError::OtherProtocol)?;
    let subscription = decode_subscription(&protocol.metadata)?;
    let named = match member.assignment.is_empty() {
        true => Vec::new(),
        false if has_user_data(&member.assignment)? => return Err(UpgradeError::CustomAssignor),
        false => decode_assignment(&member.assignment)?,
    };
    let mut assigned = Assignment::default();
    for (name, partitions) in named {
        if let Some(topic) = topics.named(&name) {
            for partition in partitions {
                // A client's assignor may have given it twice; one of them has to do without.
                if given.insert((topic.id, partition)) {
                    assigned.insert(topic.id, partition);
                }
            }
        }
    }
    let wanted: BTreeSet<_> = subscription.topics.into_iter().collect();
    let protocols = member
        .protocols
        .iter()
        .map(|protocol| ClassicProtocol { name: protocol.name.clone(), metadata: protocol.metadata.clone() });
    let mut upgraded = Member::new(ConsumerMember {
        instance_id: member.instance_id.clone(),
        rack_id: subscription.rack_id,
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        topics: wanted.into_iter().collect(),
        regex: None,
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        assignor: None,
        classic: Some(ConsumerClassicMember {
            session_timeout_ms: member.session_timeout_ms,
            protocols: protocols.collect(),
        }),
    });
    (upgraded.epoch, upgraded.previous_epoch) = (group.generation(), group.generation());
    upgraded.assigned = assigned;
    Ok(upgraded)
}
