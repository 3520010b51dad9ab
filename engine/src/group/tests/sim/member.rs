//! One client: a consumer of topics `t` and `u`, by either protocol. A classic one gives up everything
//! before it joins again (eager).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use corelog_protocol::ErrorCode;
use corelog_protocol::offsets_topic::{decode_assignment, encode_assignment};

use super::SESSION_MS;
use crate::group::Topics;
use crate::group::api::{
    Commit, CommitPartition, ConsumerHeartbeat, ConsumerHeartbeatReply, FetchOffsets, Heartbeat, JoinGroup,
    JoinedMember, LeaveGroup, LeavingMember, Protocol, Reply, Request, SyncGroup,
};
use crate::group::tests::harness::{Random, Slot, World, subscription, text};
use crate::types::TopicId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is to join.
    Out,
    /// It is to fetch its assignment (classic).
    Joined,
    /// It is to fetch offsets of new partitions.
    Fetching,
    /// It consumes.
    In,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) number: usize,
    pub(super) is_consumer: bool,
    instance_id: Option<Arc<str>>,
    /// Counts its starts; what was for an earlier one is lost.
    pub(super) life: u64,
    pub(super) up: bool,
    pub(super) waits: bool,
    pub(super) asleep_until_ms: u64,
    /// It was asleep and does not know yet whether it is still a member.
    pub(super) is_suspect: bool,
    /// Counts its sleeps, and those before it last sent something: an answer to what it sent before
    /// says nothing about afterwards.
    sleeps: u64,
    sleeps_when_sent: u64,
    pub(super) phase: Phase,
    pub(super) member_id: Arc<str>,
    pub(super) generation: i32,
    leads: Option<Vec<JoinedMember>>,
    pub(super) owned: BTreeSet<Slot>,
    pub(super) positions: BTreeMap<Slot, i64>,
    /// What its last commit asked for. Positions may be further when it is answered.
    pub(super) asked: BTreeMap<Slot, i64>,
    full: bool,
    ticks: u64,
    rebalance_timeout_ms: i32,
}

impl Member {
    pub(super) fn new(number: usize, is_consumer: bool, is_static: bool, rebalance_timeout_ms: i32) -> Self {
        Self {
            number,
            is_consumer,
            instance_id: is_static.then(|| text(&format!("i{number}"))),
            life: 0,
            up: false,
            waits: false,
            asleep_until_ms: 0,
            is_suspect: false,
            sleeps: 0,
            sleeps_when_sent: 0,
            phase: Phase::Out,
            member_id: text(""),
            generation: -1,
            leads: None,
            owned: BTreeSet::new(),
            positions: BTreeMap::new(),
            asked: BTreeMap::new(),
            full: true,
            ticks: 0,
            rebalance_timeout_ms,
        }
    }

    pub(super) fn start(&mut self) {
        let fresh =
            Self::new(self.number, self.is_consumer, self.instance_id.is_some(), self.rebalance_timeout_ms);
        *self = Self { life: self.life + 1, up: true, ..fresh };
        if self.is_consumer {
            self.member_id = text(&format!("m{}-{}", self.number, self.life));
            self.generation = 0;
        }
    }

    pub(super) fn die(&mut self) {
        self.up = false;
        self.life += 1;
        self.owned.clear();
    }

    pub(super) fn sleep(&mut self, until_ms: u64) {
        self.asleep_until_ms = self.asleep_until_ms.max(until_ms);
        self.is_suspect = true;
        self.sleeps += 1;
    }

    /// What it says when it is stopped in an orderly way.
    pub(super) fn leave(&self) -> Option<Request> {
        if self.phase == Phase::Out || self.is_suspect {
            return None;
        }
        if self.is_consumer {
            let member_epoch = if self.instance_id.is_some() { -2 } else { -1 };
            return Some(Request::ConsumerHeartbeat(ConsumerHeartbeat { member_epoch, ..self.heartbeat() }));
        }
        // Static members of the classic protocol stop without a word.
        if self.instance_id.is_some() {
            return None;
        }
        let member = LeavingMember { member_id: self.member_id.clone(), instance_id: None };
        Some(Request::Leave(LeaveGroup { group: text("g"), members: vec![member] }))
    }

    fn heartbeat(&self) -> ConsumerHeartbeat {
        ConsumerHeartbeat {
            must_bring_member_id: false,
            group: text("g"),
            member_id: self.member_id.clone(),
            member_epoch: self.generation,
            instance_id: self.instance_id.clone(),
            rack_id: None,
            rebalance_timeout_ms: None,
            topics: None,
            regex: None,
            assignor: None,
            owned: None,
        }
    }

    pub(super) fn next_request(&mut self, world: &World, random: &mut Random) -> Request {
        self.ticks += 1;
        self.sleeps_when_sent = self.sleeps;
        match self.phase {
            Phase::Out if self.is_consumer => self.join_as_consumer(),
            Phase::Out => self.join(),
            Phase::Joined => self.sync(world),
            Phase::Fetching => self.fetch(),
            // What it got through before it slept it commits, whether it may or not.
            Phase::In if self.ticks.is_multiple_of(2) && !self.positions.is_empty() => self.commit(random),
            Phase::In if self.is_consumer => self.go_on(world),
            Phase::In => Request::Heartbeat(Heartbeat {
                group: text("g"),
                generation: self.generation,
                member_id: self.member_id.clone(),
                instance_id: self.instance_id.clone(),
            }),
        }
    }

    fn join(&mut self) -> Request {
        self.owned.clear();
        self.positions.clear();
        let names = if self.number.is_multiple_of(3) { ["range", "sticky"] } else { ["sticky", "range"] };
        let protocols = names.map(|name| Protocol { name: text(name), metadata: subscription(&["t", "u"]) });
        Request::Join(JoinGroup {
            group: text("g"),
            member_id: self.member_id.clone(),
            instance_id: self.instance_id.clone(),
            protocol_type: text("consumer"),
            protocols: protocols.to_vec(),
            session_timeout_ms: SESSION_MS as i32,
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            member_id_required: self.number.is_multiple_of(2),
            can_skip_assignment: self.number.is_multiple_of(4),
        })
    }

    fn sync(&mut self, world: &World) -> Request {
        let mut assignments = Vec::new();
        if let Some(members) = &self.leads {
            for (place, member) in members.iter().enumerate() {
                let named = ["t", "u"].map(|topic| {
                    let count = world.topics.named(topic).map_or(0, |topic| topic.partitions);
                    let own = (0..count).filter(|partition| *partition as usize % members.len() == place);
                    (text(topic), own.collect::<Vec<_>>())
                });
                assignments.push((member.member_id.clone(), encode_assignment(1, &named)));
            }
        }
        Request::Sync(SyncGroup {
            group: text("g"),
            generation: self.generation,
            member_id: self.member_id.clone(),
            instance_id: self.instance_id.clone(),
            protocol_type: Some(text("consumer")),
            protocol: None,
            assignments,
        })
    }

    fn join_as_consumer(&mut self) -> Request {
        self.owned.clear();
        self.positions.clear();
        self.generation = 0;
        let by_regex = self.number.is_multiple_of(5);
        Request::ConsumerHeartbeat(ConsumerHeartbeat {
            rebalance_timeout_ms: Some(self.rebalance_timeout_ms),
            topics: Some(if by_regex { Vec::new() } else { vec![text("t"), text("u")] }),
            regex: by_regex.then(|| text("[tu]")),
            owned: Some(Vec::new()),
            ..self.heartbeat()
        })
    }

    fn go_on(&mut self, world: &World) -> Request {
        let mut owned: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in &self.owned {
            owned.entry(world.topics.named(topic).unwrap().id).or_default().push(*partition);
        }
        let mut request = ConsumerHeartbeat { owned: Some(owned.into_iter().collect()), ..self.heartbeat() };
        if self.full {
            let by_regex = self.number.is_multiple_of(5);
            request.rebalance_timeout_ms = Some(self.rebalance_timeout_ms);
            request.topics = Some(if by_regex { Vec::new() } else { vec![text("t"), text("u")] });
        }
        Request::ConsumerHeartbeat(request)
    }

    fn fetch(&self) -> Request {
        let mut topics: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in &self.owned {
            if !self.positions.contains_key(&(topic.clone(), *partition)) {
                topics.entry(topic.clone()).or_default().push(*partition);
            }
        }
        Request::FetchOffsets(FetchOffsets {
            group: text("g"),
            member: self.is_consumer.then(|| (self.member_id.clone(), self.generation)),
            require_stable: true,
            topics: Some(topics.into_iter().collect()),
        })
    }

    pub(super) fn commit(&mut self, random: &mut Random) -> Request {
        let mut topics: BTreeMap<Arc<str>, Vec<CommitPartition>> = BTreeMap::new();
        for ((topic, partition), position) in &mut self.positions {
            *position += random.below(5) as i64;
            topics.entry(topic.clone()).or_default().push(CommitPartition {
                partition: *partition,
                offset: *position,
                leader_epoch: -1,
                metadata: text(""),
            });
        }
        Request::Commit(Commit {
            group: text("g"),
            member_id: self.member_id.clone(),
            instance_id: self.instance_id.clone(),
            generation: self.generation,
            knows_epochs: self.is_consumer,
            retention_ms: None,
            topics: topics.into_iter().collect(),
        })
    }

    /// It was just told that it is a member.
    fn trust(&mut self) {
        if self.sleeps == self.sleeps_when_sent {
            self.is_suspect = false;
        }
    }

    /// Out of the group: nothing is its own any more.
    fn out(&mut self, forget_id: bool) -> u64 {
        self.owned.clear();
        self.positions.clear();
        self.phase = Phase::Out;
        self.generation = -1;
        if forget_id && !self.is_consumer {
            self.member_id = text("");
        }
        50
    }

    /// Takes a reply; returns when to act next.
    pub(super) fn take(&mut self, reply: Option<Reply>, world: &World) -> u64 {
        let Some(reply) = reply else {
            self.full = true;
            return 100;
        };
        match reply {
            Reply::Join(reply) => match reply.error {
                ErrorCode::None => {
                    self.member_id = reply.member_id;
                    self.generation = reply.generation;
                    let leads = reply.leader == self.member_id && !reply.skip_assignment;
                    self.leads = leads.then_some(reply.members);
                    self.phase = Phase::Joined;
                    0
                }
                ErrorCode::MemberIdRequired => {
                    self.member_id = reply.member_id;
                    5
                }
                ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId => self.out(true),
                ErrorCode::RebalanceInProgress | ErrorCode::UnreleasedInstanceId => self.out(false),
                error => panic!("{self:?} cannot join: {error}"),
            },
            Reply::Sync(reply) => match reply.error {
                ErrorCode::None => {
                    let named = match reply.assignment.is_empty() {
                        true => Vec::new(),
                        false => decode_assignment(&reply.assignment).unwrap(),
                    };
                    let slots = named.into_iter().flat_map(|(topic, partitions)| {
                        partitions.into_iter().map(move |partition| (topic.clone(), partition))
                    });
                    self.owned = slots.collect();
                    self.positions.clear();
                    self.trust();
                    self.phase = Phase::Fetching;
                    5
                }
                ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId => self.out(true),
                ErrorCode::RebalanceInProgress | ErrorCode::IllegalGeneration => self.out(false),
                error => panic!("{self:?} cannot sync: {error}"),
            },
            Reply::Heartbeat(error) => match error {
                ErrorCode::None => {
                    self.trust();
                    500
                }
                ErrorCode::RebalanceInProgress => {
                    // It is to commit what it has before it joins.
                    self.phase = Phase::Out;
                    self.owned.clear();
                    0
                }
                ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId => self.out(true),
                ErrorCode::IllegalGeneration => self.out(false),
                error => panic!("{self:?} gets {error}"),
            },
            Reply::ConsumerHeartbeat(reply) => self.take_heartbeat(reply, world),
            Reply::FetchOffsets(reply) => self.take_offsets(reply.error, reply.topics),
            Reply::Commit(outcomes) => {
                let first = outcomes.iter().flat_map(|(_, partitions)| partitions).next();
                match first.map_or(ErrorCode::None, |(_, error)| *error) {
                    ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId if !self.is_consumer => {
                        self.out(true)
                    }
                    ErrorCode::IllegalGeneration if !self.is_consumer => self.out(false),
                    // A heartbeat will say what it is about.
                    _ => 400,
                }
            }
            other => panic!("not asked: {other:?}"),
        }
    }

    fn take_heartbeat(&mut self, reply: ConsumerHeartbeatReply, world: &World) -> u64 {
        match reply.error {
            ErrorCode::None => {}
            ErrorCode::UnknownMemberId | ErrorCode::FencedMemberEpoch | ErrorCode::GroupIdNotFound => {
                return self.out(true);
            }
            ErrorCode::UnreleasedInstanceId => {
                self.out(true);
                return 1_000;
            }
            ErrorCode::FencedInstanceId => return self.out(true),
            error => panic!("{self:?} gets {error}: {:?}", reply.message),
        }
        self.generation = reply.member_epoch;
        self.full = false;
        self.trust();
        if self.phase == Phase::Out {
            self.phase = Phase::In;
        }
        let Some(assignment) = reply.assignment else {
            return 500;
        };
        let named = assignment
            .into_iter()
            .filter_map(|(topic, partitions)| Some((text(world.topics.name_of(topic)?), partitions)));
        let slots = named.flat_map(|(topic, partitions)| {
            partitions.into_iter().map(move |partition| (topic.clone(), partition))
        });
        let assigned: BTreeSet<Slot> = slots.collect();
        let gives_up = self.owned.iter().any(|slot| !assigned.contains(slot));
        self.positions.retain(|slot, _| assigned.contains(slot));
        self.owned = assigned;
        if self.owned.len() > self.positions.len() {
            self.phase = Phase::Fetching;
        }
        if gives_up { 10 } else { 100 }
    }

    fn take_offsets(
        &mut self,
        error: ErrorCode,
        topics: Vec<(Arc<str>, Vec<crate::group::api::FetchedOffset>)>,
    ) -> u64 {
        self.phase = Phase::In;
        match error {
            ErrorCode::None => {}
            // A heartbeat will say what it is about.
            ErrorCode::StaleMemberEpoch | ErrorCode::UnknownMemberId => return 20,
            error => panic!("{self:?} gets {error}"),
        }
        for (topic, offsets) in topics {
            for offset in offsets {
                let slot = (topic.clone(), offset.partition);
                if self.owned.contains(&slot) {
                    self.positions.insert(slot, offset.offset.max(0));
                }
            }
        }
        100
    }
}
