//! JoinGroup, and the join phase from its beginning to the next generation.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use corelog_protocol::ErrorCode;

use super::{ClassicGroup, InitialDelay, Member, State, span_ms};
use crate::group::api::{Client, JoinGroup, JoinReply, SyncReply};
use crate::group::effects::{Call, Scope};
use crate::group::limits::{
    GROUP_BYTES_MAX, MEMBER_ID_BYTES_MAX, classic_member_bytes, key_bytes, optional, protocols_bytes,
};
use crate::group::timers::Timer;

/// How many ids a group gives out at most to clients that have not come back with them yet.
const PENDING_MAX: usize = 10_000;

impl ClassicGroup {
    pub(in crate::group) fn join(
        &mut self,
        scope: &mut Scope<'_>,
        call: Call,
        client: &Client,
        request: JoinGroup,
    ) {
        if !self.has_room_for(&request.member_id, scope.config.max_size) {
            self.dismiss(scope, &request.member_id);
            return scope.reply(call, JoinReply::refused(ErrorCode::GroupMaxSizeReached, Arc::from("")));
        }
        if !self.supports_any(&request) {
            let refused = JoinReply::refused(ErrorCode::InconsistentGroupProtocol, request.member_id);
            return scope.reply(call, refused);
        }
        if !self.has_bytes_for(client, &request) {
            let refused = JoinReply::refused(ErrorCode::GroupMaxSizeReached, request.member_id);
            return scope.reply(call, refused);
        }
        if request.member_id.is_empty() {
            self.join_unknown(scope, call, client, request);
        } else {
            self.join_known(scope, call, client, request);
        }
    }

    fn has_room_for(&self, member_id: &str, max_size: usize) -> bool {
        let member = self.members.get(member_id);
        match self.state {
            State::Empty => true,
            // Those who were members have no right to come back before others that are here.
            State::PreparingRebalance { .. } => {
                member.is_some_and(|member| member.joining.is_some()) || self.tally.joining < max_size
            }
            State::CompletingRebalance | State::Stable => member.is_some() || self.members.len() < max_size,
        }
    }

    /// Whether the group's records stay within what an event may write.
    fn has_bytes_for(&self, client: &Client, request: &JoinGroup) -> bool {
        let by_instance =
            request.instance_id.as_ref().and_then(|instance_id| self.instances.get(instance_id));
        let before = by_instance.unwrap_or(&request.member_id);
        let known =
            self.members.get(before).map_or(0, |member| classic_member_bytes(&self.id, before, member));
        let ids = MEMBER_ID_BYTES_MAX.max(request.member_id.len()) + optional(request.instance_id.as_ref());
        let client = client.id.len() + client.host.len();
        let new = key_bytes(&self.id, "") + 8 * ids + client + protocols_bytes(&request.protocols);
        self.tally.bytes - known + new <= GROUP_BYTES_MAX
    }

    /// Whether all members support the assignor.
    fn is_common(&self, protocol: &Arc<str>) -> bool {
        self.tally.supported.get(protocol).copied().unwrap_or(0) == self.members.len()
    }

    /// Whether the members could still agree on an assignor with this one among them.
    fn supports_any(&self, request: &JoinGroup) -> bool {
        if self.is_empty() {
            return !request.protocol_type.is_empty() && !request.protocols.is_empty();
        }
        self.protocol_type.as_ref() == Some(&request.protocol_type)
            && request.protocols.iter().any(|protocol| self.is_common(&protocol.name))
    }

    fn join_unknown(&mut self, scope: &mut Scope<'_>, call: Call, client: &Client, request: JoinGroup) {
        let prefix = request.instance_id.as_deref().unwrap_or(&client.id);
        let suffix = format!("-{}", client.fresh_id);
        // A client id may be as long as a string can be; with the rest it would be longer than that.
        let prefix = &prefix[..prefix.floor_char_boundary(MEMBER_ID_BYTES_MAX - suffix.len())];
        let member_id: Arc<str> = Arc::from(format!("{prefix}{suffix}"));
        if let Some(instance_id) = &request.instance_id {
            match self.instances.get(instance_id).cloned() {
                Some(before) => self.replace(scope, call, client, request, before, member_id),
                None => self.add(scope, call, client, request, member_id),
            }
        } else if request.member_id_required && self.pending.len() >= PENDING_MAX {
            let refused = JoinReply::refused(ErrorCode::CoordinatorNotAvailable, Arc::from(""));
            scope.reply(call, refused);
        } else if request.member_id_required {
            let at_ms = scope.now.clock_ms + span_ms(request.session_timeout_ms);
            scope.timers.set(Timer::Session(self.id.clone(), member_id.clone()), at_ms);
            self.pending.insert(member_id.clone());
            scope.reply(call, JoinReply::refused(ErrorCode::MemberIdRequired, member_id));
        } else {
            self.add(scope, call, client, request, member_id);
        }
    }

    fn join_known(&mut self, scope: &mut Scope<'_>, call: Call, client: &Client, request: JoinGroup) {
        let member_id = request.member_id.clone();
        if self.pending.contains(&member_id) && request.instance_id.is_none() {
            return self.add(scope, call, client, request, member_id);
        }
        if let Err(error) = self.check_member(&member_id, request.instance_id.as_ref()) {
            return scope.reply(call, JoinReply::refused(error, member_id));
        }
        let is_leader = self.leader.as_ref() == Some(&member_id);
        let unchanged = self.members[&member_id].protocols == request.protocols;
        match self.state {
            State::Empty => {
                scope.reply(call, JoinReply::refused(ErrorCode::UnknownMemberId, member_id));
            }
            // It joined this generation and the answer was lost; as a follower it may also just ask.
            State::CompletingRebalance if unchanged => scope.reply(call, self.joined(&member_id)),
            State::Stable if unchanged && !is_leader => scope.reply(call, self.joined(&member_id)),
            State::PreparingRebalance { .. } | State::CompletingRebalance | State::Stable => {
                self.update(scope, call, &member_id, request);
                self.rebalance_or_go_on(scope);
            }
        }
    }

    /// Takes over what a member says of itself, and lets it wait for the others.
    fn update(&mut self, scope: &mut Scope<'_>, call: Call, member_id: &Arc<str>, request: JoinGroup) {
        let mut member = self.take(member_id).expect("the caller looked it up");
        member.protocols = request.protocols;
        member.rebalance_timeout_ms = request.rebalance_timeout_ms;
        member.session_timeout_ms = request.session_timeout_ms;
        let earlier = member.joining.replace(call);
        self.insert(member_id.clone(), member);
        if let Some(earlier) = earlier {
            // The client has given that one up: it sent another, and is to wait for its answer.
            scope.reply(earlier, JoinReply::refused(ErrorCode::RebalanceInProgress, member_id.clone()));
        }
    }

    fn add(
        &mut self,
        scope: &mut Scope<'_>,
        call: Call,
        client: &Client,
        request: JoinGroup,
        member_id: Arc<str>,
    ) {
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type);
        }
        if let Some(instance_id) = &request.instance_id {
            self.instances.insert(instance_id.clone(), member_id.clone());
        }
        let member = Member {
            instance_id: request.instance_id,
            client_id: client.id.clone(),
            client_host: client.host.clone(),
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            session_timeout_ms: request.session_timeout_ms,
            protocols: request.protocols,
            assignment: Bytes::new(),
            joining: Some(call),
            syncing: None,
            is_new: true,
        };
        self.pending.remove(&member_id);
        self.insert(member_id.clone(), member);
        self.leader.get_or_insert_with(|| member_id.clone());
        if let State::PreparingRebalance { initial: Some(delay) } = &mut self.state {
            delay.member_added = true;
        }
        // While it waits it cannot send heartbeats.
        let at_ms = scope.now.clock_ms + u64::from(scope.config.new_member_join_timeout_ms);
        scope.timers.set(Timer::Session(self.id.clone(), member_id), at_ms);
        self.rebalance_or_go_on(scope);
    }

    /// A static member came back without its member id: it gets a new one, and whoever still uses the
    /// old one is fenced. Nothing else changes when the group would agree on the same assignor.
    fn replace(
        &mut self,
        scope: &mut Scope<'_>,
        call: Call,
        client: &Client,
        request: JoinGroup,
        before: Arc<str>,
        member_id: Arc<str>,
    ) {
        let leader_before = self.leader.clone();
        let can_skip_assignment = request.can_skip_assignment;
        self.rename(scope, &before, &member_id);
        let mut member = self.take(&member_id).expect("renamed to that");
        member.client_id = client.id.clone();
        member.client_host = client.host.clone();
        self.insert(member_id.clone(), member);
        self.update(scope, call, &member_id, request);
        self.expect_life(scope, &member_id);
        match self.state {
            State::Stable if self.protocol == self.choose_protocol() => {
                // Its subscription may be another one now.
                self.subscribed = self.read_subscriptions();
                scope.record(self.record());
                let mut reply = self.joined(&member_id);
                if can_skip_assignment {
                    reply.skip_assignment = self.leader.as_ref() == Some(&member_id);
                } else {
                    // Told that it leads, it would assign again; so it is told its old id.
                    reply.leader = leader_before.unwrap_or_else(|| Arc::from(""));
                    reply.members = Vec::new();
                }
                self.take_joining(&member_id);
                scope.reply(call, reply);
            }
            State::CompletingRebalance => self.prepare(scope),
            State::Stable | State::PreparingRebalance { .. } | State::Empty => self.rebalance_or_go_on(scope),
        }
    }

    fn rename(&mut self, scope: &mut Scope<'_>, before: &Arc<str>, member_id: &Arc<str>) {
        self.forget_session(scope, before);
        let mut member = self.take(before).expect("an instance id belongs to a member");
        if let Some(call) = member.joining.take() {
            scope.reply(call, JoinReply::refused(ErrorCode::FencedInstanceId, before.clone()));
        }
        if let Some(call) = member.syncing.take() {
            scope.reply(call, SyncReply::refused(ErrorCode::FencedInstanceId));
        }
        if self.unsynced.remove(before) {
            self.unsynced.insert(member_id.clone());
        }
        if self.leader.as_ref() == Some(before) {
            self.leader = Some(member_id.clone());
        }
        let instance_id = member.instance_id.clone().expect("only static members are replaced");
        self.instances.insert(instance_id, member_id.clone());
        self.insert(member_id.clone(), member);
    }

    fn all_joined(&self) -> bool {
        self.pending.is_empty() && self.tally.joining == self.members.len()
    }

    /// Something changed: starts a rebalance, or completes the one that is under way when nobody is
    /// missing any more.
    pub(super) fn rebalance_or_go_on(&mut self, scope: &mut Scope<'_>) {
        match self.state {
            State::PreparingRebalance { .. } => self.maybe_complete(scope),
            State::Empty | State::CompletingRebalance | State::Stable => self.prepare(scope),
        }
    }

    /// Completes the join phase when nobody is missing, unless an empty group still waits for more.
    pub(super) fn maybe_complete(&mut self, scope: &mut Scope<'_>) {
        if self.state == (State::PreparingRebalance { initial: None }) && self.all_joined() {
            self.complete_join(scope);
        }
    }

    /// Asks all members to join again, whatever the group does.
    pub(in crate::group) fn rebalance(&mut self, scope: &mut Scope<'_>) {
        self.rebalance_or_go_on(scope);
    }

    pub(super) fn prepare(&mut self, scope: &mut Scope<'_>) {
        if self.state == State::CompletingRebalance {
            self.take_assignments_back(scope);
        }
        self.unsynced.clear();
        scope.timers.cancel(&Timer::Sync(self.id.clone()));
        if self.is_empty() {
            let delay_ms = scope.config.initial_rebalance_delay_ms;
            let timeout_ms = u32::try_from(self.rebalance_timeout_ms()).expect("it came as an i32");
            let initial = InitialDelay {
                member_added: false,
                remaining_ms: timeout_ms.saturating_sub(delay_ms),
                delay_ms,
            };
            scope.timers.set(Timer::Join(self.id.clone()), scope.now.clock_ms + u64::from(delay_ms));
            self.enter(scope, State::PreparingRebalance { initial: Some(initial) });
            return;
        }
        self.enter(scope, State::PreparingRebalance { initial: None });
        if self.all_joined() {
            self.complete_join(scope);
        } else {
            let at_ms = scope.now.clock_ms + self.rebalance_timeout_ms();
            scope.timers.set(Timer::Join(self.id.clone()), at_ms);
        }
    }

    /// The join phase's time is over.
    pub(in crate::group) fn join_timed_out(&mut self, scope: &mut Scope<'_>) {
        let State::PreparingRebalance { initial } = &mut self.state else {
            return;
        };
        if let Some(delay) = initial
            && delay.member_added
            && delay.remaining_ms != 0
        {
            delay.member_added = false;
            let next_ms = scope.config.initial_rebalance_delay_ms.min(delay.remaining_ms);
            delay.remaining_ms = delay.remaining_ms.saturating_sub(delay.delay_ms);
            delay.delay_ms = next_ms;
            scope.timers.set(Timer::Join(self.id.clone()), scope.now.clock_ms + u64::from(next_ms));
            return;
        }
        self.complete_join(scope);
    }

    /// Ends the join phase without the dynamic members that did not come.
    pub(super) fn complete_join(&mut self, scope: &mut Scope<'_>) {
        scope.timers.cancel(&Timer::Join(self.id.clone()));
        let absent = self.members.iter().filter(|(_, member)| member.joining.is_none());
        let dynamic = absent.filter(|(_, member)| member.instance_id.is_none());
        let failed: Vec<_> = dynamic.map(|(member_id, _)| member_id.clone()).collect();
        for member_id in failed {
            self.dismiss(scope, &member_id);
        }
        if !self.elect() && !self.members.is_empty() {
            // Only static members that are away: they keep their places until they come.
            self.state = State::PreparingRebalance { initial: None };
            let at_ms = scope.now.clock_ms + self.rebalance_timeout_ms();
            scope.timers.set(Timer::Join(self.id.clone()), at_ms);
            return;
        }
        // After the last number comes the first one: 0 is a group that had no generation yet.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.unsynced.clear();
        self.protocol = self.choose_protocol();
        self.subscribed = self.read_subscriptions();
        if self.members.is_empty() {
            self.enter(scope, State::Empty);
            scope.record(self.record());
            return;
        }
        self.enter(scope, State::CompletingRebalance);
        let member_ids: Vec<_> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            let reply = self.joined(&member_id);
            let member = self.members.get_mut(&member_id).expect("its id is from the map");
            member.is_new = false;
            if let Some(call) = self.take_joining(&member_id) {
                scope.reply(call, reply);
            }
            self.unsynced.insert(member_id.clone());
            self.expect_life(scope, &member_id);
        }
        let at_ms = scope.now.clock_ms + self.rebalance_timeout_ms();
        scope.timers.set(Timer::Sync(self.id.clone()), at_ms);
    }

    /// Makes sure that the leader is one that joined; `false` when nobody did.
    fn elect(&mut self) -> bool {
        let joined =
            |member_id: &Arc<str>| self.members.get(member_id).is_some_and(|member| member.joining.is_some());
        if self.leader.as_ref().is_some_and(joined) {
            return true;
        }
        let Some(leader) = self.members.keys().find(|member_id| joined(member_id)).cloned() else {
            return false;
        };
        self.leader = Some(leader);
        true
    }

    /// Each member votes for the first assignor of its own that all support.
    pub(super) fn choose_protocol(&self) -> Option<Arc<str>> {
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            let supported = member.protocols.iter().find(|protocol| self.is_common(&protocol.name));
            if let Some(protocol) = supported {
                *votes.entry(&protocol.name).or_default() += 1;
            }
        }
        // Equal votes go to the first name, so that a group does not change its mind.
        let best = votes.iter().max_by(|(a, x), (b, y)| x.cmp(y).then(b.cmp(a)))?;
        Some(Arc::clone(best.0))
    }
}
