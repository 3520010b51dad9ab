//! Members that speak the classic protocol in a consumer group, while a group is on its way from one
//! protocol to the other: JoinGroup, SyncGroup, Heartbeat and LeaveGroup said in terms of epochs.
//!
//! The coordinator assigns; no classic member leads. A join is a full heartbeat, and a member that is to
//! give up or get partitions is told to join again.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use corelog_protocol::ErrorCode;
use corelog_protocol::offsets_topic::{
    ClassicProtocol, ConsumerClassicMember, ConsumerMember, Subscription, decode_subscription,
    encode_assignment, subscription_version,
};

use super::assignment::Assignment;
use super::{ConsumerGroup, Member, MemberState};
use crate::group::api::{
    Client, Heartbeat, JoinGroup, JoinReply, LeaveReply, LeavingMember, SyncGroup, SyncReply,
};
use crate::group::classic::{CONSUMER, span_ms};
use crate::group::effects::Scope;
use crate::group::limits::NAMES_MAX;
use crate::group::timers::Timer;
use crate::group::topics::Topics;

impl ConsumerGroup {
    /// A member's JoinGroup; `true` when it wants other topics than before. When it is the last one that
    /// spoke the consumer protocol, under its new id, nothing is assigned: the leader of the classic
    /// group, which this one becomes, will.
    pub(in crate::group) fn join_classic(
        &mut self,
        scope: &mut Scope<'_>,
        client: &Client,
        request: &JoinGroup,
    ) -> Result<(JoinReply, bool), ErrorCode> {
        let known = self.members.get(&request.member_id);
        if known.is_none() && self.members.len() >= scope.config.consumer_max_size {
            return Err(ErrorCode::GroupMaxSizeReached);
        }
        let subscription = self.understand(request)?;
        let is_unknown = request.member_id.is_empty();
        let member_id =
            if is_unknown { Arc::from(client.fresh_id.to_string()) } else { request.member_id.clone() };
        if is_unknown && request.instance_id.is_none() && request.member_id_required {
            return Ok((JoinReply::refused(ErrorCode::MemberIdRequired, member_id), false));
        }
        let owner = request.instance_id.as_ref().map(|instance_id| self.instances.get(instance_id).cloned());
        let replaced = match owner {
            None => None,
            Some(None) if !is_unknown => return Err(ErrorCode::UnknownMemberId),
            Some(None) => None,
            Some(Some(owner)) if is_unknown => Some(owner),
            Some(Some(owner)) if owner != member_id => return Err(ErrorCode::FencedInstanceId),
            Some(Some(_)) => None,
        };
        let owned: Assignment = {
            let named = subscription
                .owned
                .iter()
                .filter_map(|(name, partitions)| Some((scope.topics.named(name)?.id, partitions.as_slice())));
            named.flat_map(|(topic, partitions)| partitions.iter().map(move |p| (topic, *p))).collect()
        };
        let meta = classic_meta(client, request, subscription);
        let before = replaced.as_ref().unwrap_or(&member_id);
        if !self.has_bytes_for(scope.topics, before, &member_id, &meta) {
            return Err(ErrorCode::GroupMaxSizeReached);
        }
        if let Some(before) = replaced {
            self.replace(scope, &before, &member_id);
        }
        let changed = self.set_member(scope, &member_id, meta);
        let downgrades = self.is_downgradable(scope.config);
        if !downgrades {
            self.refresh(scope, changed);
            self.update_target(scope);
        }
        if !downgrades || !changed {
            self.reconcile(scope, &member_id, Some(&owned));
        }
        scope.timers.cancel(&Timer::Rejoin(self.id.clone(), member_id.clone()));
        self.expect_life(scope, &member_id);
        let sync_by_ms = scope.now.clock_ms + span_ms(request.rebalance_timeout_ms);
        scope.timers.set(Timer::MemberSync(self.id.clone(), member_id.clone()), sync_by_ms);
        let reply = JoinReply {
            error: ErrorCode::None,
            generation: if downgrades { self.epoch } else { self.members[&member_id].epoch },
            protocol_type: Some(Arc::from(CONSUMER)),
            protocol: request.protocols.first().map(|protocol| protocol.name.clone()),
            ..JoinReply::refused(ErrorCode::None, member_id)
        };
        Ok((reply, changed))
    }

    /// The subscription, when the member's assignors go with those of the other classic members.
    fn understand(&self, request: &JoinGroup) -> Result<Subscription, ErrorCode> {
        let is_common = request.protocols.iter().any(|protocol| self.tally.is_common(&protocol.name));
        if *request.protocol_type != *CONSUMER || !is_common {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        let subscription = decode_subscription(&request.protocols[0].metadata);
        let subscription = subscription.map_err(|_| ErrorCode::InconsistentGroupProtocol)?;
        match subscription.topics.len() <= NAMES_MAX {
            true => Ok(subscription),
            false => Err(ErrorCode::InvalidRequest),
        }
    }

    /// A member by its id, and by its instance id when it has one.
    fn any_member(&self, member_id: &str, instance_id: Option<&Arc<str>>) -> Result<&Member, ErrorCode> {
        if let Some(instance_id) = instance_id {
            let owner = self.instances.get(instance_id).ok_or(ErrorCode::UnknownMemberId)?;
            if **owner != *member_id {
                return Err(ErrorCode::FencedInstanceId);
            }
        }
        self.members.get(member_id).ok_or(ErrorCode::UnknownMemberId)
    }

    fn classic_member(&self, member_id: &str, instance_id: Option<&Arc<str>>) -> Result<&Member, ErrorCode> {
        let member = self.any_member(member_id, instance_id)?;
        if member.is_classic() { Ok(member) } else { Err(ErrorCode::UnknownMemberId) }
    }

    pub(in crate::group) fn sync_classic(
        &self,
        scope: &mut Scope<'_>,
        request: &SyncGroup,
    ) -> Result<SyncReply, ErrorCode> {
        let member = self.classic_member(&request.member_id, request.instance_id.as_ref())?;
        if request.generation != member.epoch {
            return Err(ErrorCode::IllegalGeneration);
        }
        let first = member.meta.classic.as_ref().and_then(|classic| classic.protocols.first());
        // The first one is what the answer to its JoinGroup named.
        let is_first = |name: &Arc<str>| first.is_some_and(|first| first.name == *name);
        let is_consumer = request.protocol_type.as_deref().is_none_or(|name| name == CONSUMER);
        if !is_consumer || !request.protocol.as_ref().is_none_or(is_first) {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        if self.epoch > member.epoch && member.state != MemberState::Revoking {
            self.expect_rejoin(scope, &request.member_id, member);
            return Err(ErrorCode::RebalanceInProgress);
        }
        scope.timers.cancel(&Timer::MemberSync(self.id.clone(), request.member_id.clone()));
        self.expect_life(scope, &request.member_id);
        Ok(SyncReply {
            error: ErrorCode::None,
            protocol_type: request.protocol_type.clone(),
            protocol: request.protocol.clone(),
            assignment: classic_assignment(member, scope.topics),
        })
    }

    pub(in crate::group) fn heartbeat_classic(
        &self,
        scope: &mut Scope<'_>,
        request: &Heartbeat,
    ) -> Result<(), ErrorCode> {
        let member = self.classic_member(&request.member_id, request.instance_id.as_ref())?;
        if request.generation != member.epoch {
            return Err(ErrorCode::IllegalGeneration);
        }
        self.expect_life(scope, &request.member_id);
        let can_get_more = member.state == MemberState::Waiting && self.is_free(&request.member_id);
        if member.epoch < self.epoch || member.state == MemberState::Revoking || can_get_more {
            self.expect_rejoin(scope, &request.member_id, member);
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    /// Whether nobody else has what the member is to have.
    fn is_free(&self, member_id: &Arc<str>) -> bool {
        self.target.get(member_id).into_iter().flat_map(Assignment::iter).all(|slot| {
            let owner = self.owners.get(&slot);
            owner.is_none_or(|owner| owner == member_id)
        })
    }

    /// The member was told to join again; that runs from the first time that it was told.
    fn expect_rejoin(&self, scope: &mut Scope<'_>, member_id: &Arc<str>, member: &Member) {
        let timer = Timer::Rejoin(self.id.clone(), member_id.clone());
        if !scope.timers.is_set(&timer) {
            scope.timers.set(timer, scope.now.clock_ms + span_ms(member.meta.rebalance_timeout_ms));
        }
    }

    /// LeaveGroup, of members of either protocol: an operator removes a consumer that is stuck by it.
    pub(in crate::group) fn leave_classic(
        &mut self,
        scope: &mut Scope<'_>,
        members: Vec<LeavingMember>,
    ) -> LeaveReply {
        let mut leaving: BTreeSet<Arc<str>> = BTreeSet::new();
        let outcomes = members.into_iter().map(|member| {
            let by_instance =
                member.instance_id.as_ref().and_then(|instance_id| self.instances.get(instance_id));
            let member_id = match by_instance {
                Some(owner) if member.member_id.is_empty() => owner.clone(),
                _ => member.member_id.clone(),
            };
            let outcome = match self.any_member(&member_id, member.instance_id.as_ref()) {
                // Who left a line above is no member any more.
                Ok(_) if !leaving.insert(member_id.clone()) => ErrorCode::UnknownMemberId,
                Ok(_) => ErrorCode::None,
                Err(error) => error,
            };
            (member, outcome)
        });
        let members = outcomes.collect();
        if !leaving.is_empty() {
            self.remove(scope, &Vec::from_iter(leaving));
        }
        LeaveReply { error: ErrorCode::None, members }
    }
}

/// What a classic member says of itself.
fn classic_meta(client: &Client, request: &JoinGroup, subscription: Subscription) -> ConsumerMember {
    let protocols = request
        .protocols
        .iter()
        .map(|protocol| ClassicProtocol { name: protocol.name.clone(), metadata: protocol.metadata.clone() });
    let topics: BTreeSet<_> = subscription.topics.into_iter().collect();
    ConsumerMember {
        instance_id: request.instance_id.clone(),
        rack_id: subscription.rack_id,
        client_id: client.id.clone(),
        client_host: client.host.clone(),
        topics: topics.into_iter().collect(),
        regex: None,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        assignor: None,
        classic: Some(ConsumerClassicMember {
            session_timeout_ms: request.session_timeout_ms,
            protocols: protocols.collect(),
        }),
    }
}

/// What a classic member has, as its protocol wants it.
pub(super) fn classic_assignment(member: &Member, topics: &dyn Topics) -> Bytes {
    let first = member.meta.classic.as_ref().and_then(|classic| classic.protocols.first());
    let version = first.and_then(|protocol| subscription_version(&protocol.metadata).ok()).unwrap_or(0);
    let named = member.assigned.topics().filter_map(|(topic, partitions)| {
        let name: Arc<str> = Arc::from(topics.name_of(topic)?);
        Some((name, partitions.iter().copied().collect()))
    });
    encode_assignment(version, &named.collect::<Vec<_>>())
}
