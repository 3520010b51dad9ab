//! ConsumerGroupHeartbeat: the one request of a member, to join, to go on, and to leave.

use std::sync::Arc;

use corelog_protocol::ErrorCode;
use corelog_protocol::offsets_topic::{ConsumerMember, Record};

use super::assignment::Assignment;
use super::{AWAY, ConsumerGroup, Member, MemberState, Refusal, assignor};
use crate::group::api::{Client, ConsumerHeartbeat, ConsumerHeartbeatReply};
use crate::group::effects::Scope;

/// The epoch of a member that leaves for good.
const LEAVES: i32 = -1;
/// The epoch of a member that joins.
const JOINS: i32 = 0;

/// Refuses what no group would accept.
pub(in crate::group) fn check(request: &ConsumerHeartbeat) -> Result<(), Refusal> {
    let invalid = |message: &str| Err((ErrorCode::InvalidRequest, message.to_owned()));
    let is_empty = |value: &Option<Arc<str>>| value.as_deref().is_some_and(is_blank);
    if is_blank(&request.group) {
        return invalid("GroupId can't be empty.");
    }
    if is_empty(&request.instance_id) {
        return invalid("InstanceId can't be empty.");
    }
    if is_empty(&request.rack_id) {
        return invalid("RackId can't be empty.");
    }
    let has_member_id = !is_blank(&request.member_id);
    if request.must_bring_member_id && !has_member_id {
        return invalid("MemberId can't be empty.");
    }
    match request.member_epoch {
        JOINS => {
            if request.rebalance_timeout_ms.is_none() {
                return invalid("RebalanceTimeoutMs must be provided in first request.");
            }
            if request.owned.as_ref().is_none_or(|owned| !owned.is_empty()) {
                return invalid("TopicPartitions must be empty when (re-)joining.");
            }
            // Either may be empty: a pattern on the client's side may match nothing yet.
            if request.topics.is_none() && request.regex.is_none() {
                return invalid(
                    "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
                );
            }
        }
        AWAY if request.instance_id.is_none() => return invalid("InstanceId can't be null."),
        i32::MIN..AWAY => return invalid("MemberEpoch is invalid."),
        _ if !has_member_id => return invalid("MemberId can't be empty."),
        _ => {}
    }
    if let Some(name) = &request.assignor
        && !assignor::NAMES.contains(&&**name)
    {
        let known = assignor::NAMES.join(", ");
        let message = format!("ServerAssignor {name} is not supported. Supported assignors: {known}.");
        return Err((ErrorCode::UnsupportedAssignor, message));
    }
    Ok(())
}

/// Kafka trims names as Java does: of everything up to the space.
fn is_blank(name: &str) -> bool {
    name.bytes().all(|byte| byte <= b' ')
}

impl ConsumerHeartbeat {
    pub(in crate::group) fn joins(&self) -> bool {
        self.member_epoch == JOINS
    }
}

impl ConsumerGroup {
    /// A heartbeat that [`check`] let pass.
    pub(in crate::group) fn heartbeat(
        &mut self,
        scope: &mut Scope<'_>,
        client: &Client,
        request: &ConsumerHeartbeat,
    ) -> Result<ConsumerHeartbeatReply, Refusal> {
        if request.member_epoch == LEAVES || request.member_epoch == AWAY {
            return self.leave(scope, request);
        }
        let owned = request.owned.as_deref().map(Assignment::from_request);
        let replaced = self.admit(scope, request, owned.as_ref())?;
        if let Some(regex) = request.regex.as_ref().filter(|regex| !regex.is_empty()) {
            self.check_regex(scope, regex)?;
        }
        let member_id = match is_blank(&request.member_id) {
            true => Arc::from(client.fresh_id.to_string()),
            false => request.member_id.clone(),
        };
        let before = replaced.as_ref().unwrap_or(&member_id);
        let meta = self.updated_meta(client, request, before);
        if !self.has_bytes_for(scope.topics, before, &member_id, &meta) {
            let message = "The consumer group's members and partitions take too much memory.".to_owned();
            return Err((ErrorCode::GroupMaxSizeReached, message));
        }
        // From here on nothing is refused.
        if let Some(before) = replaced {
            self.replace(scope, &before, &member_id);
        }
        let assigned_before = self.members.get(&member_id).map(|member| member.assigned.clone());
        let changed = self.set_member(scope, &member_id, meta);
        self.refresh(scope, changed);
        self.update_target(scope);
        self.reconcile(scope, &member_id, owned.as_ref());
        self.expect_life(scope, &member_id);

        let member = &self.members[&member_id];
        let is_full = request.joins()
            || (request.rebalance_timeout_ms.is_some()
                && (request.topics.is_some() || request.regex.is_some())
                && request.owned.is_some());
        let is_new_to_it = is_full || assigned_before.as_ref() != Some(&member.assigned);
        Ok(ConsumerHeartbeatReply {
            error: ErrorCode::None,
            message: None,
            member_id: Some(member_id),
            member_epoch: member.epoch,
            heartbeat_interval_ms: scope.config.consumer_heartbeat_interval_ms,
            assignment: is_new_to_it.then(|| member.assigned.to_reply()),
        })
    }

    /// Whether the member may go on, or join. Returns the member whose place it takes.
    fn admit(
        &self,
        scope: &Scope<'_>,
        request: &ConsumerHeartbeat,
        owned: Option<&Assignment>,
    ) -> Result<Option<Arc<str>>, Refusal> {
        let known = self.members.get(&request.member_id);
        if known.is_none() && self.members.len() >= scope.config.consumer_max_size {
            let most = scope.config.consumer_max_size;
            let message = format!("The consumer group has reached its maximum capacity of {most} members.");
            return Err((ErrorCode::GroupMaxSizeReached, message));
        }
        let Some(instance_id) = &request.instance_id else {
            return match known {
                Some(member) => check_member(member, request, owned).map(|()| None),
                None if request.joins() => Ok(None),
                None => Err(self.unknown(&request.member_id)),
            };
        };
        let Some(owner) = self.instances.get(instance_id) else {
            if request.joins() {
                return Ok(None);
            }
            let message = format!("Instance id {instance_id} is unknown.");
            return Err((ErrorCode::UnknownMemberId, message));
        };
        let member = &self.members[owner];
        if *owner == request.member_id {
            return check_member(member, request, owned).map(|()| None);
        }
        if !request.joins() {
            return Err(fenced_instance(&request.member_id, instance_id, owner));
        }
        if member.epoch != AWAY && !member.is_classic() {
            let message = format!(
                "Static member {} with instance id {instance_id} cannot join the group because the instance id is owned by {owner} member.",
                request.member_id
            );
            return Err((ErrorCode::UnreleasedInstanceId, message));
        }
        Ok(Some(owner.clone()))
    }

    fn unknown(&self, member_id: &str) -> Refusal {
        (ErrorCode::UnknownMemberId, format!("Member {member_id} is not a member of group {}.", self.id))
    }

    /// A regular expression that nobody brought before must be one.
    fn check_regex(&self, scope: &mut Scope<'_>, pattern: &Arc<str>) -> Result<(), Refusal> {
        if self.regexes.contains_key(pattern) {
            return Ok(());
        }
        let checked = scope.patterns.check(pattern);
        checked.map_err(|message| (ErrorCode::InvalidRegularExpression, message))
    }

    /// A static member came back under another id: it takes the place of the former, with all that it
    /// had.
    pub(super) fn replace(&mut self, scope: &mut Scope<'_>, before: &Arc<str>, member_id: &Arc<str>) {
        let mut member = self.members[before].clone();
        let target = self.target.get(before).cloned();
        self.forget_timers(scope, before);
        self.bury(scope, before);
        (member.epoch, member.previous_epoch) = (0, 0);
        let (group, id) = (self.id.clone(), member_id.clone());
        let value = Some(member.meta.clone());
        self.emit(scope, Record::ConsumerMember { group: group.clone(), member: id.clone(), value });
        if let Some(target) = target {
            let value = Some(target.to_record());
            self.emit(
                scope,
                Record::ConsumerTargetMember { group: group.clone(), member: id.clone(), value },
            );
        }
        let value = Some(member.to_record());
        self.emit(scope, Record::ConsumerCurrent { group, member: id, value });
    }

    /// What the member says of itself now; what it leaves out is as it was.
    fn updated_meta(
        &self,
        client: &Client,
        request: &ConsumerHeartbeat,
        before: &Arc<str>,
    ) -> ConsumerMember {
        let before = self.members.get(before).map(|member| &member.meta);
        let mut meta =
            before.cloned().unwrap_or(ConsumerMember { rebalance_timeout_ms: -1, ..Default::default() });
        meta.client_id = client.id.clone();
        meta.client_host = client.host.clone();
        meta.classic = None;
        if request.instance_id.is_some() {
            meta.instance_id.clone_from(&request.instance_id);
        }
        if request.rack_id.is_some() {
            meta.rack_id.clone_from(&request.rack_id);
        }
        if request.assignor.is_some() {
            meta.assignor.clone_from(&request.assignor);
        }
        if let Some(timeout_ms) = request.rebalance_timeout_ms {
            meta.rebalance_timeout_ms = timeout_ms;
        }
        if let Some(topics) = &request.topics {
            meta.topics.clone_from(topics);
            // Asked for twice is asked for.
            meta.topics.sort();
            meta.topics.dedup();
        }
        if let Some(regex) = &request.regex {
            meta.regex = Some(regex.clone()).filter(|regex| !regex.is_empty());
        }
        meta
    }

    /// Writes what a member says of itself, if that changed; `true` when it wants other topics.
    pub(super) fn set_member(
        &mut self,
        scope: &mut Scope<'_>,
        member_id: &Arc<str>,
        meta: ConsumerMember,
    ) -> bool {
        let before = self.members.get(member_id).map(|member| &member.meta);
        if before == Some(&meta) {
            return false;
        }
        let changed = before.is_none_or(|before| before.topics != meta.topics || before.regex != meta.regex);
        let (group, member) = (self.id.clone(), member_id.clone());
        self.emit(scope, Record::ConsumerMember { group, member, value: Some(meta) });
        changed
    }

    /// Leaves for good or, as a static member, for a while: then it keeps what it has for as long as a
    /// session.
    fn leave(
        &mut self,
        scope: &mut Scope<'_>,
        request: &ConsumerHeartbeat,
    ) -> Result<ConsumerHeartbeatReply, Refusal> {
        let member_id = &request.member_id;
        if let Some(instance_id) = &request.instance_id {
            match self.instances.get(instance_id) {
                None => {
                    let message = format!("Instance id {instance_id} is unknown.");
                    return Err((ErrorCode::UnknownMemberId, message));
                }
                Some(owner) if owner != member_id => {
                    return Err(fenced_instance(member_id, instance_id, owner));
                }
                Some(_) => {}
            }
        }
        let member = self.members.get(member_id).ok_or_else(|| self.unknown(member_id))?;
        if request.member_epoch == AWAY {
            let away = Member {
                epoch: AWAY,
                // Nobody is there any more who could give it up: it is free.
                revoking: Assignment::default(),
                state: if member.state == MemberState::Revoking {
                    MemberState::Waiting
                } else {
                    member.state
                },
                ..member.clone()
            };
            let value = Some(away.to_record());
            let (group, member) = (self.id.clone(), member_id.clone());
            self.emit(scope, Record::ConsumerCurrent { group, member, value });
            scope.timers.cancel(&crate::group::timers::Timer::Revoke(self.id.clone(), member_id.clone()));
        } else {
            self.remove(scope, std::slice::from_ref(member_id));
        }
        Ok(ConsumerHeartbeatReply {
            error: ErrorCode::None,
            message: None,
            member_id: Some(member_id.clone()),
            member_epoch: request.member_epoch,
            heartbeat_interval_ms: 0,
            assignment: None,
        })
    }
}

fn fenced_instance(member_id: &str, instance_id: &str, owner: &str) -> Refusal {
    let message =
        format!("Static member {member_id} with instance id {instance_id} was fenced by member {owner}.");
    (ErrorCode::FencedInstanceId, message)
}

/// Whether a member that is known may go on with the epoch that it has.
fn check_member(
    member: &Member,
    request: &ConsumerHeartbeat,
    owned: Option<&Assignment>,
) -> Result<(), Refusal> {
    let fenced = |message: String| Err((ErrorCode::FencedMemberEpoch, message));
    if request.joins() {
        // It begins again, with nothing.
        return Ok(());
    }
    let (received, expected) = (request.member_epoch, member.epoch);
    // An answer with a new epoch may have been lost: then it has no more than it was given.
    let is_behind = received == member.previous_epoch
        && owned.is_some_and(|owned| {
            owned.iter().all(|(topic, partition)| member.assigned.contains(topic, partition))
        });
    if received > expected || (received < expected && !is_behind) {
        let than = if received > expected { "greater" } else { "smaller" };
        return fenced(format!(
            "The consumer group member has a {than} member epoch ({received}) than the one known by the group coordinator ({expected}). The member must abandon all its partitions and rejoin."
        ));
    }
    if member.state == MemberState::Unknown && owned.is_none_or(|owned| !owned.is_empty()) {
        return fenced(
            "The consumer group member is in a unknown state. The member must abandon all its partitions and rejoin."
                .to_owned(),
        );
    }
    Ok(())
}
