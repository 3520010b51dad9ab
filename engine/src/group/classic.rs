//! A group of the classic protocol: members join, one of them assigns, all fetch the result.
//!
//! Owns members, generation and state. What survives a restart is the record of the last completed
//! generation ([`ClassicGroup::record`]); who is about to join lives in memory only, as in Kafka.

mod describe;
mod heartbeat;
mod join;
mod leave;
mod sync;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use corelog_protocol::ErrorCode;
use corelog_protocol::offsets_topic::{GroupMember, GroupMetadata, Record, decode_subscription};

use super::api::{JoinReply, JoinedMember, Protocol, SyncReply};
use super::effects::{Call, Now, Scope};
use super::limits::classic_member_bytes;
use super::timers::Timer;

/// The protocol type of Kafka's consumers: the only one whose metadata a coordinator can read.
pub(super) const CONSUMER: &str = "consumer";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// No members.
    Empty,
    /// Members are asked to join again.
    PreparingRebalance {
        /// Set while a group that was empty waits for more members.
        initial: Option<InitialDelay>,
    },
    /// All have joined; the leader is to assign.
    CompletingRebalance,
    /// All have an assignment, or can fetch it.
    Stable,
}

/// The first join phase of an empty group goes on while members come, up to the rebalance timeout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InitialDelay {
    member_added: bool,
    remaining_ms: u32,
    delay_ms: u32,
}

impl State {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance { .. } => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

#[derive(Debug)]
pub(super) struct ClassicGroup {
    id: Arc<str>,
    state: State,
    state_timestamp_ms: i64,
    protocol_type: Option<Arc<str>>,
    protocol: Option<Arc<str>>,
    generation: i32,
    leader: Option<Arc<str>>,
    members: BTreeMap<Arc<str>, Member>,
    /// Member ids by instance id.
    instances: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids that were given out, whose owners are to join with them.
    pending: BTreeSet<Arc<str>>,
    /// Members that have not fetched this generation's assignment.
    unsynced: BTreeSet<Arc<str>>,
    /// Topics that the members of this generation subscribe to, when that is known.
    subscribed: Option<BTreeSet<Arc<str>>>,
    tally: Tally,
}

/// What is counted of the members, so that no request has to look at all of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    /// How many members support an assignor.
    supported: BTreeMap<Arc<str>, usize>,
    /// How many members' JoinGroups wait.
    joining: usize,
    /// What the members take in records, but for what they were assigned.
    bytes: usize,
}

impl Tally {
    fn add(&mut self, group: &str, member_id: &str, member: &Member) {
        for name in member.protocol_names() {
            *self.supported.entry(name.clone()).or_default() += 1;
        }
        self.joining += usize::from(member.joining.is_some());
        self.bytes += classic_member_bytes(group, member_id, member);
    }

    fn remove(&mut self, group: &str, member_id: &str, member: &Member) {
        for name in member.protocol_names() {
            let count = self.supported.get_mut(name).expect("it was counted when it came");
            *count -= 1;
            if *count == 0 {
                self.supported.remove(name);
            }
        }
        self.joining -= usize::from(member.joining.is_some());
        self.bytes -= classic_member_bytes(group, member_id, member);
    }
}

#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) instance_id: Option<Arc<str>>,
    pub(super) client_id: Arc<str>,
    pub(super) client_host: Arc<str>,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Bytes,
    /// Its JoinGroup that waits for the others.
    pub(super) joining: Option<Call>,
    /// Its SyncGroup that waits for the leader.
    pub(super) syncing: Option<Call>,
    /// It has not completed a join yet.
    pub(super) is_new: bool,
}

impl Member {
    /// Each assignor's name once, whatever the client repeats.
    fn protocol_names(&self) -> BTreeSet<&Arc<str>> {
        self.protocols.iter().map(|protocol| &protocol.name).collect()
    }

    fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|supported| *supported.name == *protocol);
        found.map(|supported| supported.metadata.clone()).unwrap_or_default()
    }
}

/// A span of time from the wire; negative ones are none.
pub(super) fn span_ms(ms: i32) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}

impl ClassicGroup {
    /// A group without members that never had any.
    pub(super) fn new(id: Arc<str>) -> Self {
        Self {
            id,
            state: State::Empty,
            state_timestamp_ms: -1,
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            pending: BTreeSet::new(),
            unsynced: BTreeSet::new(),
            subscribed: None,
            tally: Tally::default(),
        }
    }

    /// Takes a member in; one of the same id must not be there.
    fn insert(&mut self, member_id: Arc<str>, member: Member) {
        self.tally.add(&self.id, &member_id, &member);
        let before = self.members.insert(member_id, member);
        assert!(before.is_none(), "a member is replaced by taking it out first");
    }

    /// The only way to take a member out of the map.
    fn take(&mut self, member_id: &Arc<str>) -> Option<Member> {
        let member = self.members.remove(member_id)?;
        self.tally.remove(&self.id, member_id, &member);
        Some(member)
    }

    /// Its JoinGroup that waits waits no longer.
    fn take_joining(&mut self, member_id: &Arc<str>) -> Option<Call> {
        let call = self.members.get_mut(member_id)?.joining.take();
        self.tally.joining -= usize::from(call.is_some());
        call
    }

    /// The group as its record has it.
    pub(super) fn from_record(id: Arc<str>, value: GroupMetadata) -> Self {
        let mut group = Self::new(id);
        let protocol = value.protocol.clone().unwrap_or_else(|| Arc::from(""));
        for member in value.members {
            if let Some(instance_id) = &member.instance_id {
                group.instances.insert(instance_id.clone(), member.member_id.clone());
            }
            let loaded = Member {
                instance_id: member.instance_id,
                client_id: member.client_id,
                client_host: member.client_host,
                rebalance_timeout_ms: match member.rebalance_timeout_ms {
                    // Version 0 of the record has none.
                    -1 => member.session_timeout_ms,
                    ms => ms,
                },
                session_timeout_ms: member.session_timeout_ms,
                protocols: vec![Protocol { name: protocol.clone(), metadata: member.subscription }],
                assignment: member.assignment,
                joining: None,
                syncing: None,
                is_new: false,
            };
            group.take(&member.member_id);
            group.insert(member.member_id, loaded);
        }
        group.state = if group.members.is_empty() { State::Empty } else { State::Stable };
        group.state_timestamp_ms = value.state_timestamp_ms;
        group.protocol_type = Some(value.protocol_type).filter(|name| !name.is_empty());
        group.protocol = value.protocol;
        group.generation = value.generation;
        group.leader = value.leader;
        group.subscribed = group.read_subscriptions();
        group
    }

    /// A stable group with these members, which has its generation from the epoch that it had as a
    /// consumer group.
    pub(super) fn from_members(
        now: Now,
        id: Arc<str>,
        generation: i32,
        members: BTreeMap<Arc<str>, Member>,
    ) -> Self {
        let mut group = Self::new(id);
        let instances = members
            .iter()
            .filter_map(|(member_id, member)| Some((member.instance_id.clone()?, member_id.clone())));
        group.instances = instances.collect();
        group.leader = members.keys().next().cloned();
        for (member_id, member) in members {
            group.insert(member_id, member);
        }
        group.state = State::Stable;
        group.state_timestamp_ms = now.wall_ms;
        group.protocol_type = Some(Arc::from(CONSUMER));
        group.protocol = group.choose_protocol();
        group.generation = generation;
        group.subscribed = group.read_subscriptions();
        group
    }

    /// Sends everybody who waits away, with a word.
    pub(super) fn turn_away(&self, scope: &mut Scope<'_>, error: ErrorCode) {
        for (member_id, member) in &self.members {
            if let Some(call) = member.joining {
                scope.reply(call, JoinReply::refused(error, member_id.clone()));
            }
            if let Some(call) = member.syncing {
                scope.reply(call, SyncReply::refused(error));
            }
        }
        scope.timers.cancel(&Timer::Join(self.id.clone()));
        scope.timers.cancel(&Timer::Sync(self.id.clone()));
    }

    /// The group as it is to be kept.
    pub(super) fn record(&self) -> Record {
        let protocol = self.protocol.as_deref().unwrap_or("");
        let members = self.members.iter().map(|(member_id, member)| GroupMember {
            member_id: member_id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: member.metadata(protocol),
            assignment: member.assignment.clone(),
        });
        let value = GroupMetadata {
            protocol_type: self.protocol_type.clone().unwrap_or_else(|| Arc::from("")),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_timestamp_ms: self.state_timestamp_ms,
            members: members.collect(),
        };
        Record::Group { group: self.id.clone(), value: Some(value) }
    }

    /// From now on members have to show signs of life.
    pub(super) fn start_timers(&self, scope: &mut Scope<'_>) {
        for member_id in self.members.keys() {
            self.expect_life(scope, member_id);
        }
    }

    /// The group was loaded. One that is larger than is allowed by now has to shrink.
    pub(super) fn loaded(&mut self, scope: &mut Scope<'_>) {
        self.start_timers(scope);
        if self.members.len() > scope.config.max_size {
            self.prepare(scope);
        }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn protocol_type(&self) -> Option<&Arc<str>> {
        self.protocol_type.as_ref()
    }

    pub(super) fn protocol(&self) -> Option<&Arc<str>> {
        self.protocol.as_ref()
    }

    pub(super) fn generation(&self) -> i32 {
        self.generation
    }

    pub(super) fn members(&self) -> &BTreeMap<Arc<str>, Member> {
        &self.members
    }

    pub(super) fn state_timestamp_ms(&self) -> i64 {
        self.state_timestamp_ms
    }

    pub(super) fn member_count(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state == State::Empty
    }

    /// Nothing would be lost with it: no members, none to come, and no generation that was kept.
    pub(super) fn is_nothing(&self) -> bool {
        self.is_empty() && self.pending.is_empty() && self.protocol_type.is_none()
    }

    /// How many ids were given out to clients that have not come back with them.
    pub(super) fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Somebody comes or is there, and nothing of the group was kept yet.
    pub(super) fn is_forming(&self) -> bool {
        self.generation == 0 && (!self.pending.is_empty() || !self.members.is_empty())
    }

    /// Whether a member may have the topic: unknown counts as yes.
    pub(super) fn may_consume(&self, topic: &str) -> bool {
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => self.is_consumers(),
        }
    }

    /// Topics that the members subscribe to, when that is known.
    pub(super) fn subscribed(&self) -> Option<&BTreeSet<Arc<str>>> {
        self.subscribed.as_ref()
    }

    pub(super) fn is_consumers(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER)
    }

    fn enter(&mut self, scope: &Scope<'_>, state: State) {
        self.state = state;
        self.state_timestamp_ms = scope.now.wall_ms;
    }

    /// Whether it is a member, and the one with that instance id.
    fn check_member(&self, member_id: &str, instance_id: Option<&Arc<str>>) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.instances.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(owner) if **owner != *member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// The member has given a sign of life; its session starts again.
    fn expect_life(&self, scope: &mut Scope<'_>, member_id: &Arc<str>) {
        if let Some(member) = self.members.get(member_id) {
            let at_ms = scope.now.clock_ms + span_ms(member.session_timeout_ms);
            scope.timers.set(Timer::Session(self.id.clone(), member_id.clone()), at_ms);
        }
    }

    fn forget_session(&self, scope: &mut Scope<'_>, member_id: &Arc<str>) {
        scope.timers.cancel(&Timer::Session(self.id.clone(), member_id.clone()));
    }

    fn rebalance_timeout_ms(&self) -> u64 {
        self.members.values().map(|member| span_ms(member.rebalance_timeout_ms)).max().unwrap_or(0)
    }

    /// Takes a member, or an id given out, out of the group. Calls of its that wait are the caller's.
    fn remove(&mut self, member_id: &Arc<str>) -> Option<Member> {
        self.pending.remove(member_id);
        self.unsynced.remove(member_id);
        let member = self.take(member_id)?;
        if let Some(instance_id) = &member.instance_id
            && self.instances.get(instance_id) == Some(member_id)
        {
            self.instances.remove(instance_id);
        }
        if self.leader.as_ref() == Some(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(member)
    }

    /// Takes a member out of the group, and tells it so when it waits.
    fn dismiss(&mut self, scope: &mut Scope<'_>, member_id: &Arc<str>) {
        self.forget_session(scope, member_id);
        let Some(member) = self.remove(member_id) else {
            return;
        };
        if let Some(call) = member.joining {
            scope.reply(call, JoinReply::refused(ErrorCode::UnknownMemberId, Arc::from("")));
        }
        if let Some(call) = member.syncing {
            scope.reply(call, SyncReply::refused(ErrorCode::UnknownMemberId));
        }
    }

    /// The topics subscribed to, when all members are consumers that can be understood.
    fn read_subscriptions(&self) -> Option<BTreeSet<Arc<str>>> {
        if !self.is_consumers() {
            return None;
        }
        let Some(protocol) = &self.protocol else {
            return self.members.is_empty().then(BTreeSet::new);
        };
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            topics.extend(decode_subscription(&member.metadata(protocol)).ok()?.topics);
        }
        Some(topics)
    }

    fn joined_members(&self) -> Vec<JoinedMember> {
        let protocol = self.protocol.as_deref().unwrap_or("");
        let members = self.members.iter().map(|(member_id, member)| JoinedMember {
            member_id: member_id.clone(),
            instance_id: member.instance_id.clone(),
            metadata: member.metadata(protocol),
        });
        members.collect()
    }

    /// What a member of the current generation is told when it joins.
    fn joined(&self, member_id: &Arc<str>) -> JoinReply {
        let is_leader = self.leader.as_ref() == Some(member_id);
        JoinReply {
            error: ErrorCode::None,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_else(|| Arc::from("")),
            skip_assignment: false,
            member_id: member_id.clone(),
            members: if is_leader { self.joined_members() } else { Vec::new() },
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut counted = Tally::default();
        for (member_id, member) in &self.members {
            counted.add(&self.id, member_id, member);
        }
        assert_eq!(self.tally, counted);
    }
}
