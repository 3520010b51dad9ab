//! All groups of one partition of `__consumer_offsets`.

mod admin;
mod commits;
mod load;

use std::collections::BTreeMap;
use std::sync::Arc;

use corelog_protocol::ErrorCode;
use corelog_protocol::offsets_topic::Record;

use super::api::{
    Client, ConsumerHeartbeat, ConsumerHeartbeatReply, Heartbeat, JoinGroup, JoinReply, LeaveGroup,
    LeaveReply, Reply, Request, SyncGroup, SyncReply,
};
use super::classic::ClassicGroup;
use super::config::GroupConfig;
use super::consumer::{self, ConsumerGroup, Patterns, Refusal};
use super::effects::{Call, Effects, Now, Scope};
use super::limits;
use super::offsets::GroupOffsets;
use super::timers::{Timer, Timers};
use super::topics::Topics;

pub use load::LoadError;

/// The coordinator of all groups of one partition of `__consumer_offsets`. See the module's rules for
/// the one that drives it.
#[derive(Debug)]
pub struct Coordinator {
    config: GroupConfig,
    groups: BTreeMap<Arc<str>, Group>,
    timers: Timers,
    patterns: Patterns,
    /// How many ids were given out that are still out, in all groups.
    pending: usize,
    /// How many groups there are of which nothing was kept yet.
    forming: usize,
    /// The group after which the look-out for expired offsets goes on.
    expiry_cursor: Option<Arc<str>>,
}

#[derive(Debug)]
struct Group {
    offsets: GroupOffsets,
    kind: Kind,
}

/// By which rules a group lives; share groups (KIP-932) would be another.
#[derive(Debug)]
enum Kind {
    Classic(ClassicGroup),
    Consumer(ConsumerGroup),
}

impl Group {
    fn new(id: Arc<str>) -> Self {
        Self { offsets: GroupOffsets::default(), kind: Kind::Classic(ClassicGroup::new(id)) }
    }

    fn is_empty(&self) -> bool {
        match &self.kind {
            Kind::Classic(group) => group.is_empty(),
            Kind::Consumer(group) => group.is_empty(),
        }
    }

    /// The tombstones of what is kept of the group besides its offsets.
    fn tombstones(&self, id: &Arc<str>, records: &mut Vec<Record>) {
        match &self.kind {
            // A group that only has offsets has no record of its own.
            Kind::Classic(group) if group.protocol_type().is_none() => {}
            Kind::Classic(_) => records.push(Record::Group { group: id.clone(), value: None }),
            Kind::Consumer(group) => group.tombstones(records),
        }
    }
}

impl Coordinator {
    /// A coordinator without groups.
    pub fn new(config: GroupConfig) -> Self {
        Self {
            config,
            groups: BTreeMap::new(),
            timers: Timers::default(),
            patterns: Patterns::default(),
            pending: 0,
            forming: 0,
            expiry_cursor: None,
        }
    }

    /// How many groups there are.
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// When [`Coordinator::tick`] has something to do.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.timers.next_ms()
    }

    /// Does what is due first; `None` when nothing is due.
    pub fn tick(&mut self, now: Now, topics: &dyn Topics) -> Option<Effects> {
        let timer = self.timers.pop(now.clock_ms)?;
        let mut effects = Effects::default();
        let id = match &timer {
            Timer::Expiry => {
                self.expire(now, &mut effects);
                return Some(effects);
            }
            Timer::Join(id) | Timer::Sync(id) => id.clone(),
            Timer::Session(id, _)
            | Timer::Revoke(id, _)
            | Timer::Rejoin(id, _)
            | Timer::MemberSync(id, _) => id.clone(),
        };
        let before = self.census(&id);
        let Some((group, mut scope)) = self.open(&id, now, topics, &mut effects) else {
            return Some(effects);
        };
        match (&mut group.kind, &timer) {
            (Kind::Classic(group), Timer::Join(_)) => group.join_timed_out(&mut scope),
            (Kind::Classic(group), Timer::Sync(_)) => group.sync_timed_out(&mut scope),
            (Kind::Classic(group), Timer::Session(_, member_id)) => {
                group.session_timed_out(&mut scope, member_id);
            }
            (
                Kind::Consumer(group),
                Timer::Session(_, member_id)
                | Timer::Revoke(_, member_id)
                | Timer::Rejoin(_, member_id)
                | Timer::MemberSync(_, member_id),
            ) => group.timed_out(&mut scope, member_id),
            // The group has changed its protocol since.
            (Kind::Classic(_) | Kind::Consumer(_), _) => {}
        }
        downgrade(group, &mut scope, true);
        self.forget_if_nothing(&id);
        self.recount(&id, before);
        Some(effects)
    }

    /// Answers a request, now or, for JoinGroup and SyncGroup, with the effects of a later event.
    pub fn handle(
        &mut self,
        now: Now,
        topics: &dyn Topics,
        call: Call,
        client: &Client,
        request: Request,
    ) -> Effects {
        let mut effects = Effects::default();
        if let Err(refusal) = limits::check(&request) {
            effects.replies.push((call, refusal));
            return effects;
        }
        let id = request.group().cloned();
        let before = id.as_ref().map(|id| self.census(id));
        match request {
            Request::Join(request) => self.join(now, topics, &mut effects, call, client, request),
            Request::Sync(request) => self.sync(now, topics, &mut effects, call, request),
            Request::Heartbeat(request) => {
                let error = self.heartbeat(now, topics, &mut effects, &request);
                effects.replies.push((call, Reply::Heartbeat(error)));
            }
            Request::Leave(request) => {
                let reply = self.leave(now, topics, &mut effects, request);
                effects.replies.push((call, reply.into()));
            }
            Request::ConsumerHeartbeat(request) => {
                let reply = self.consumer_heartbeat(now, topics, &mut effects, client, &request);
                let reply = reply.unwrap_or_else(|(error, message)| refused_heartbeat(error, message));
                effects.replies.push((call, reply.into()));
            }
            Request::Commit(request) => {
                let reply = self.commit(now, topics, &mut effects, request);
                effects.replies.push((call, Reply::Commit(reply)));
            }
            Request::FetchOffsets(request) => {
                effects.replies.push((call, self.fetch_offsets(request).into()));
            }
            Request::DeleteOffsets(request) => {
                let reply = self.delete_offsets(&mut effects, request);
                effects.replies.push((call, reply.into()));
            }
            Request::List(request) => effects.replies.push((call, Reply::List(self.list(&request)))),
            Request::Describe { group, not_found_is_error } => {
                effects.replies.push((call, self.describe(&group, not_found_is_error).into()));
            }
            Request::ConsumerDescribe { group } => {
                let reply = self.describe_consumer(&group, topics);
                effects.replies.push((call, Reply::ConsumerDescribe(reply)));
            }
            Request::Delete { group } => {
                let error = self.delete(&group, &mut effects);
                effects.replies.push((call, Reply::Delete(error)));
            }
        }
        if let (Some(id), Some(before)) = (id, before) {
            self.forget_if_nothing(&id);
            self.recount(&id, before);
        }
        effects
    }

    /// Answers everybody who waits: the partition is led elsewhere, or has to be loaded again.
    pub fn abandon(mut self, error: ErrorCode) -> Vec<(Call, Reply)> {
        let mut effects = Effects::default();
        let now = Now { clock_ms: 0, wall_ms: 0 };
        for group in self.groups.values() {
            if let Kind::Classic(group) = &group.kind {
                let mut scope = Scope {
                    now,
                    config: &self.config,
                    topics: &NoTopics,
                    timers: &mut self.timers,
                    patterns: &mut self.patterns,
                    effects: &mut effects,
                };
                group.turn_away(&mut scope, error);
            }
        }
        effects.replies
    }

    fn open<'a>(
        &'a mut self,
        id: &str,
        now: Now,
        topics: &'a dyn Topics,
        effects: &'a mut Effects,
    ) -> Option<(&'a mut Group, Scope<'a>)> {
        let Self { config, groups, timers, patterns, .. } = self;
        let group = groups.get_mut(id)?;
        Some((group, Scope { now, config, topics, timers, patterns, effects }))
    }

    /// As [`Coordinator::open`], of a group that is made when it is not there.
    fn open_or_create<'a>(
        &'a mut self,
        id: &Arc<str>,
        now: Now,
        topics: &'a dyn Topics,
        effects: &'a mut Effects,
    ) -> (&'a mut Group, Scope<'a>) {
        let Self { config, groups, timers, patterns, .. } = self;
        let group = groups.entry(id.clone()).or_insert_with(|| Group::new(id.clone()));
        (group, Scope { now, config, topics, timers, patterns, effects })
    }

    /// What of the group counts in [`Coordinator::pending`] and [`Coordinator::forming`].
    fn census(&self, id: &str) -> (usize, usize) {
        let group = self.groups.get(id);
        group.map_or((0, 0), |group| (group.pending_count(), usize::from(group.is_forming())))
    }

    /// An event about the group is over; before it the group counted as `before`.
    fn recount(&mut self, id: &str, before: (usize, usize)) {
        let after = self.census(id);
        self.pending = self.pending - before.0 + after.0;
        self.forming = self.forming - before.1 + after.1;
    }

    /// Whether one more id may be given out, or a group be begun, for this request if it asks for it.
    fn has_room_for(&self, request: &JoinGroup) -> bool {
        let asks_for_id =
            request.member_id.is_empty() && request.instance_id.is_none() && request.member_id_required;
        let begins_group = !self.groups.contains_key(&request.group);
        (!asks_for_id || self.pending < self.config.pending_ids_max)
            && (!begins_group || self.forming < self.config.forming_groups_max)
    }

    /// A group of which nothing is kept and whom nobody joins is no group.
    fn forget_if_nothing(&mut self, id: &str) {
        if let Some(Group { offsets, kind: Kind::Classic(group) }) = self.groups.get(id)
            && offsets.is_empty()
            && group.is_nothing()
        {
            self.groups.remove(id);
        }
    }

    fn join(
        &mut self,
        now: Now,
        topics: &dyn Topics,
        effects: &mut Effects,
        call: Call,
        client: &Client,
        request: JoinGroup,
    ) {
        let refuse = |error, member_id: &Arc<str>| Reply::Join(JoinReply::refused(error, member_id.clone()));
        if request.group.is_empty() {
            return effects.replies.push((call, refuse(ErrorCode::InvalidGroupId, &request.member_id)));
        }
        let bounds = self.config.min_session_timeout_ms..=self.config.max_session_timeout_ms;
        if !bounds.contains(&request.session_timeout_ms) {
            return effects
                .replies
                .push((call, refuse(ErrorCode::InvalidSessionTimeout, &request.member_id)));
        }
        let is_there = match self.groups.get(&request.group).map(|group| &group.kind) {
            Some(Kind::Classic(_)) => true,
            Some(Kind::Consumer(group)) => !group.is_empty(),
            None => false,
        };
        if !is_there && !request.member_id.is_empty() {
            return effects.replies.push((call, refuse(ErrorCode::UnknownMemberId, &request.member_id)));
        }
        if !self.has_room_for(&request) {
            let refused = refuse(ErrorCode::CoordinatorNotAvailable, &request.member_id);
            return effects.replies.push((call, refused));
        }
        let id = request.group.clone();
        let (group, mut scope) = self.open_or_create(&id, now, topics, effects);
        if !is_there && let Kind::Consumer(empty) = &group.kind {
            empty.tombstones(&mut scope.effects.records);
            group.kind = Kind::Classic(ClassicGroup::new(id));
        }
        match &mut group.kind {
            Kind::Classic(group) => group.join(&mut scope, call, client, request),
            Kind::Consumer(consumer) => {
                let reply = consumer.join_classic(&mut scope, client, &request);
                let (reply, changed) =
                    reply.unwrap_or_else(|error| (JoinReply::refused(error, request.member_id), false));
                scope.reply(call, reply);
                // Only when everybody has what it is to have is there nothing to assign anew.
                let rebalance = changed || !consumer.is_settled();
                downgrade(group, &mut scope, rebalance);
            }
        }
    }

    fn sync(&mut self, now: Now, topics: &dyn Topics, effects: &mut Effects, call: Call, request: SyncGroup) {
        let refuse = |error| Reply::Sync(SyncReply::refused(error));
        if request.group.is_empty() {
            return effects.replies.push((call, refuse(ErrorCode::InvalidGroupId)));
        }
        let id = request.group.clone();
        if self.groups.get(&id).is_none_or(Group::is_empty) {
            return effects.replies.push((call, refuse(ErrorCode::UnknownMemberId)));
        }
        let (group, mut scope) = self.open_or_create(&id, now, topics, effects);
        match &mut group.kind {
            Kind::Classic(group) => group.sync(&mut scope, call, request),
            Kind::Consumer(group) => {
                let reply = group.sync_classic(&mut scope, &request).unwrap_or_else(SyncReply::refused);
                scope.reply(call, reply);
            }
        }
    }

    fn heartbeat(
        &mut self,
        now: Now,
        topics: &dyn Topics,
        effects: &mut Effects,
        request: &Heartbeat,
    ) -> ErrorCode {
        if request.group.is_empty() {
            return ErrorCode::InvalidGroupId;
        }
        let Some((group, mut scope)) = self.open(&request.group, now, topics, effects) else {
            return ErrorCode::UnknownMemberId;
        };
        match &mut group.kind {
            Kind::Classic(group) => group.heartbeat(&mut scope, request),
            Kind::Consumer(group) => {
                let outcome = group.heartbeat_classic(&mut scope, request);
                outcome.err().unwrap_or(ErrorCode::None)
            }
        }
    }

    fn leave(
        &mut self,
        now: Now,
        topics: &dyn Topics,
        effects: &mut Effects,
        request: LeaveGroup,
    ) -> LeaveReply {
        let refuse = |error| LeaveReply { error, members: Vec::new() };
        if request.group.is_empty() {
            return refuse(ErrorCode::InvalidGroupId);
        }
        let Some((group, mut scope)) = self.open(&request.group, now, topics, effects) else {
            // As Kafka's coordinator says it: about each of them.
            let members = request.members.into_iter().map(|member| (member, ErrorCode::UnknownMemberId));
            return LeaveReply { error: ErrorCode::None, members: members.collect() };
        };
        let reply = match &mut group.kind {
            Kind::Classic(group) => group.leave(&mut scope, request.members),
            Kind::Consumer(group) => group.leave_classic(&mut scope, request.members),
        };
        downgrade(group, &mut scope, true);
        reply
    }

    fn consumer_heartbeat(
        &mut self,
        now: Now,
        topics: &dyn Topics,
        effects: &mut Effects,
        client: &Client,
        request: &ConsumerHeartbeat,
    ) -> Result<ConsumerHeartbeatReply, Refusal> {
        consumer::check(request)?;
        let id = &request.group;
        let known = self.groups.get(id);
        if let Some(Group { kind: Kind::Consumer(_), .. }) = known {
            let (group, mut scope) = self.open_or_create(id, now, topics, effects);
            let Kind::Consumer(consumer) = &mut group.kind else {
                unreachable!("it was one a line ago");
            };
            let reply = consumer.heartbeat(&mut scope, client, request);
            downgrade(group, &mut scope, true);
            return reply;
        }
        let not_found = |what: &str| Err((ErrorCode::GroupIdNotFound, format!("Group {id} {what}.")));
        if !request.joins() {
            return not_found(if known.is_none() { "not found" } else { "is not a consumer group" });
        }
        // What is made of the group counts only if the member is let in.
        let mut made = Effects::default();
        let mut scope = Scope {
            now,
            config: &self.config,
            topics,
            timers: &mut self.timers,
            patterns: &mut self.patterns,
            effects: &mut made,
        };
        let mut consumer = match known {
            Some(Group { kind: Kind::Classic(classic), .. }) if !classic.is_empty() => {
                ConsumerGroup::from_classic(&mut scope, id, classic).map_err(|error| {
                    let message =
                        format!("Cannot upgrade classic group {id} to consumer group because {error}.");
                    (ErrorCode::GroupIdNotFound, message)
                })?
            }
            Some(group) => {
                group.tombstones(id, &mut scope.effects.records);
                ConsumerGroup::new(id.clone())
            }
            None => ConsumerGroup::new(id.clone()),
        };
        let reply = consumer.heartbeat(&mut scope, client, request)?;
        // Not before the member is let in: who is refused must not prolong the others' lives.
        consumer.start_timers(&mut scope);
        if let Some(Group { kind: Kind::Classic(classic), .. }) = known {
            classic.turn_away(&mut scope, ErrorCode::RebalanceInProgress);
        }
        *effects = made;
        let group = self.groups.entry(id.clone()).or_insert_with(|| Group::new(id.clone()));
        group.kind = Kind::Consumer(consumer);
        Ok(reply)
    }
}

/// Changes a group back to the classic protocol when nobody speaks the other one any more.
fn downgrade(group: &mut Group, scope: &mut Scope<'_>, rebalance: bool) {
    let Kind::Consumer(consumer) = &group.kind else {
        return;
    };
    if !consumer.is_downgradable(scope.config) {
        return;
    }
    let mut classic = consumer.to_classic(scope);
    if rebalance {
        classic.rebalance(scope);
    }
    group.kind = Kind::Classic(classic);
}

pub(super) fn refused_heartbeat(error: ErrorCode, message: String) -> ConsumerHeartbeatReply {
    ConsumerHeartbeatReply {
        error,
        message: Some(message),
        member_id: None,
        member_epoch: 0,
        heartbeat_interval_ms: 0,
        assignment: None,
    }
}

/// For events in which topics play no part.
struct NoTopics;

impl Topics for NoTopics {
    fn version(&self) -> u64 {
        0
    }

    fn named(&self, _name: &str) -> Option<super::topics::TopicView> {
        None
    }

    fn name_of(&self, _id: crate::types::TopicId) -> Option<&str> {
        None
    }

    fn each_name(&self, _found: &mut dyn FnMut(&str)) {}
}
