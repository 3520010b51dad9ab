//! A consumer group (KIP-848): the coordinator assigns, members follow at their own pace.
//!
//! Owns members, what each is to have (target), what each has (current), and from that who owns a
//! partition. Every change of these is a record first and is made by taking the record in
//! ([`ConsumerGroup::apply`]), so that a replay gives the same group by construction. Only deadlines
//! live in memory alone.
//!
//! A partition has one owner at any moment: it is given to a member only when no other member has it,
//! and one that must give it up has it until it says that it did, or is removed.

mod assignment;
mod assignor;
mod classic_member;
mod convert;
mod describe;
mod heartbeat;
mod reconcile;
mod regex;
mod tally;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use corelog_protocol::ErrorCode;
use corelog_protocol::offsets_topic::{
    ConsumerCurrent, ConsumerGroupEpoch, ConsumerMember, ConsumerRegex, ConsumerTargetEpoch, Record,
};

use self::assignment::Assignment;
use self::assignor::{Demand, Subscriber};
use self::tally::Tally;
use super::effects::Scope;
use super::limits::{GROUP_BYTES_MAX, PARTITION_BYTES, consumer_member_bytes};
use super::timers::Timer;
use super::topics::Topics;
use crate::types::TopicId;

pub(super) use heartbeat::check;
pub(super) use regex::Patterns;

/// The epoch of a static member that left for a while.
const AWAY: i32 = -2;

/// An error, and a sentence about it.
pub(super) type Refusal = (ErrorCode, String);

/// How far a member is on its way to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MemberState {
    /// It has what it is to have.
    Stable,
    /// It must give up partitions first.
    Revoking,
    /// Others have to give up partitions that it is to have.
    Waiting,
    /// Written by a version that knows more states.
    Unknown,
}

impl MemberState {
    fn code(self) -> i8 {
        match self {
            Self::Stable => 0,
            Self::Revoking => 1,
            Self::Waiting => 2,
            Self::Unknown => 127,
        }
    }

    fn from_code(code: i8) -> Self {
        match code {
            0 => Self::Stable,
            1 => Self::Revoking,
            2 => Self::Waiting,
            _ => Self::Unknown,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    meta: ConsumerMember,
    epoch: i32,
    previous_epoch: i32,
    state: MemberState,
    assigned: Assignment,
    revoking: Assignment,
}

impl Member {
    fn new(meta: ConsumerMember) -> Self {
        Self {
            meta,
            epoch: 0,
            previous_epoch: 0,
            state: MemberState::Stable,
            assigned: Assignment::default(),
            revoking: Assignment::default(),
        }
    }

    fn is_classic(&self) -> bool {
        self.meta.classic.is_some()
    }

    fn to_record(&self) -> ConsumerCurrent {
        ConsumerCurrent {
            epoch: self.epoch,
            previous_epoch: self.previous_epoch,
            state: self.state.code(),
            assigned: self.assigned.to_record(),
            revoking: self.revoking.to_record(),
        }
    }
}

#[derive(Debug)]
pub(super) struct ConsumerGroup {
    id: Arc<str>,
    epoch: i32,
    metadata_hash: i64,
    members: BTreeMap<Arc<str>, Member>,
    /// Member ids by instance id.
    instances: BTreeMap<Arc<str>, Arc<str>>,
    target_epoch: i32,
    target: BTreeMap<Arc<str>, Assignment>,
    /// Who has a partition, be it to keep or to give up.
    owners: BTreeMap<(TopicId, i32), Arc<str>>,
    /// The topics that regular expressions stand for.
    regexes: BTreeMap<Arc<str>, ConsumerRegex>,
    tally: Tally,
    /// In which version of the topics each expression was looked up; empty after a load.
    regexes_seen: BTreeMap<Arc<str>, u64>,
    /// Up to which version of the topics the group was checked; `None` after a load.
    topics_seen: Option<u64>,
    /// When all topics were last looked through for regular expressions.
    regexes_resolved_ms: Option<u64>,
}

impl ConsumerGroup {
    pub(super) fn new(id: Arc<str>) -> Self {
        Self {
            id,
            epoch: 0,
            metadata_hash: 0,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            target_epoch: 0,
            target: BTreeMap::new(),
            owners: BTreeMap::new(),
            regexes: BTreeMap::new(),
            tally: Tally::default(),
            regexes_seen: BTreeMap::new(),
            topics_seen: None,
            regexes_resolved_ms: None,
        }
    }

    pub(super) fn member_count(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn state(&self) -> &'static str {
        if self.members.is_empty() {
            "Empty"
        } else if self.epoch > self.target_epoch {
            "Assigning"
        } else if self.members.values().any(|member| !self.is_reconciled(member)) {
            "Reconciling"
        } else {
            "Stable"
        }
    }

    fn is_reconciled(&self, member: &Member) -> bool {
        member.state == MemberState::Stable && member.epoch == self.target_epoch
    }

    /// Sets what must be set when the group was loaded.
    pub(super) fn start_timers(&self, scope: &mut Scope<'_>) {
        for (member_id, member) in &self.members {
            self.expect_life(scope, member_id);
            if member.state == MemberState::Revoking {
                self.expect_revocation(scope, member_id);
            }
        }
    }

    /// Whether a member may have the topic.
    pub(super) fn is_subscribed(&self, topic: &str) -> bool {
        let has =
            |resolved: &ConsumerRegex| resolved.topics.binary_search_by(|name| (**name).cmp(topic)).is_ok();
        self.tally.names.contains_key(topic) || self.resolved().any(has)
    }

    /// What the expressions that members use stand for.
    fn resolved(&self) -> impl Iterator<Item = &ConsumerRegex> {
        self.tally.regexes.keys().filter_map(|regex| self.regexes.get(regex))
    }

    /// Whether every member has what it is to have, by the latest epoch.
    pub(super) fn is_settled(&self) -> bool {
        self.epoch == self.target_epoch && self.members.values().all(|member| self.is_reconciled(member))
    }

    /// Whether offsets may be committed or fetched by that member at that epoch.
    pub(super) fn check_epoch(&self, member_id: &str, epoch: i32) -> Result<(), ErrorCode> {
        let member = self.members.get(member_id).ok_or(ErrorCode::UnknownMemberId)?;
        match (epoch == member.epoch, member.is_classic()) {
            (true, _) => Ok(()),
            (false, true) => Err(ErrorCode::IllegalGeneration),
            (false, false) => Err(ErrorCode::StaleMemberEpoch),
        }
    }

    pub(super) fn is_member(&self, member_id: &str) -> bool {
        self.members.contains_key(member_id)
    }

    pub(super) fn is_classic_member(&self, member_id: &str) -> bool {
        self.members.get(member_id).is_some_and(Member::is_classic)
    }

    /// Takes a record about this group in.
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::ConsumerGroup { value, .. } => {
                let value = value.unwrap_or(ConsumerGroupEpoch { epoch: 0, metadata_hash: 0 });
                (self.epoch, self.metadata_hash) = (value.epoch, value.metadata_hash);
            }
            Record::ConsumerMember { member, value, .. } => self.apply_member(member, value),
            Record::ConsumerTarget { value, .. } => {
                self.target_epoch = value.map_or(0, |ConsumerTargetEpoch { epoch }| epoch);
            }
            Record::ConsumerTargetMember { member, value, .. } => match value {
                Some(value) => {
                    self.target.insert(member, Assignment::from_record(&value));
                }
                None => {
                    self.target.remove(&member);
                }
            },
            Record::ConsumerCurrent { member, value, .. } => self.apply_current(member, value),
            Record::ConsumerRegex { regex, value, .. } => match value {
                Some(mut value) => {
                    value.topics.sort();
                    self.regexes.insert(regex, value);
                }
                None => {
                    self.regexes.remove(&regex);
                }
            },
            // Not about the members of a consumer group.
            Record::Offset { .. } | Record::Group { .. } => {}
        }
    }

    fn apply_member(&mut self, member_id: Arc<str>, value: Option<ConsumerMember>) {
        let before = match value {
            Some(meta) => {
                // Whoever names another instance id than before, or none, lets go of the former.
                self.forget_instance(&member_id);
                if let Some(instance_id) = &meta.instance_id {
                    self.instances.insert(instance_id.clone(), member_id.clone());
                }
                self.tally.add(&self.id, &member_id, &meta);
                if let Some(member) = self.members.get_mut(&member_id) {
                    let before = std::mem::replace(&mut member.meta, meta);
                    self.tally.remove(&self.id, &member_id, &before);
                } else {
                    self.members.insert(member_id, Member::new(meta));
                }
                return;
            }
            None => {
                self.forget_instance(&member_id);
                self.members.remove(&member_id)
            }
        };
        if let Some(before) = before {
            self.tally.remove(&self.id, &member_id, &before.meta);
            self.disown(&member_id, &before);
        }
    }

    fn forget_instance(&mut self, member_id: &Arc<str>) {
        let instance_id = self.members.get(member_id).and_then(|member| member.meta.instance_id.as_ref());
        if let Some(instance_id) = instance_id
            && self.instances.get(instance_id) == Some(member_id)
        {
            self.instances.remove(instance_id);
        }
    }

    fn apply_current(&mut self, member_id: Arc<str>, value: Option<ConsumerCurrent>) {
        if value.is_none() && !self.members.contains_key(&member_id) {
            // Compaction may keep this tombstone and drop the one of the member itself.
            return;
        }
        let value = value.unwrap_or(ConsumerCurrent {
            epoch: 0,
            previous_epoch: 0,
            state: MemberState::Stable.code(),
            assigned: Vec::new(),
            revoking: Vec::new(),
        });
        let mut member = self.members.remove(&member_id).unwrap_or_else(|| {
            let member = Member::new(ConsumerMember::default());
            self.tally.add(&self.id, &member_id, &member.meta);
            member
        });
        self.disown(&member_id, &member);
        member.epoch = value.epoch;
        member.previous_epoch = value.previous_epoch;
        member.state = MemberState::from_code(value.state);
        member.assigned = Assignment::from_record(&value.assigned);
        member.revoking = Assignment::from_record(&value.revoking);
        for slot in member.assigned.iter().chain(member.revoking.iter()) {
            self.owners.insert(slot, member_id.clone());
        }
        self.members.insert(member_id, member);
    }

    fn disown(&mut self, member_id: &Arc<str>, member: &Member) {
        for slot in member.assigned.iter().chain(member.revoking.iter()) {
            if self.owners.get(&slot) == Some(member_id) {
                self.owners.remove(&slot);
            }
        }
    }

    /// Makes a change: a record, taken in at once.
    fn emit(&mut self, scope: &mut Scope<'_>, record: Record) {
        scope.record(record.clone());
        self.apply(record);
    }

    fn expect_life(&self, scope: &mut Scope<'_>, member_id: &Arc<str>) {
        let Some(member) = self.members.get(member_id) else {
            return;
        };
        let timeout_ms = match &member.meta.classic {
            Some(classic) => super::classic::span_ms(classic.session_timeout_ms),
            None => u64::from(scope.config.consumer_session_timeout_ms),
        };
        let timer = Timer::Session(self.id.clone(), member_id.clone());
        scope.timers.set(timer, scope.now.clock_ms + timeout_ms);
    }

    fn expect_revocation(&self, scope: &mut Scope<'_>, member_id: &Arc<str>) {
        let Some(member) = self.members.get(member_id) else {
            return;
        };
        let timeout_ms = super::classic::span_ms(member.meta.rebalance_timeout_ms);
        let timer = Timer::Revoke(self.id.clone(), member_id.clone());
        scope.timers.set(timer, scope.now.clock_ms + timeout_ms);
    }

    fn forget_timers(&self, scope: &mut Scope<'_>, member_id: &Arc<str>) {
        for timer in [Timer::Session, Timer::Revoke, Timer::Rejoin, Timer::MemberSync] {
            scope.timers.cancel(&timer(self.id.clone(), member_id.clone()));
        }
    }

    /// A member's session, or its time to give up partitions, is over.
    pub(super) fn timed_out(&mut self, scope: &mut Scope<'_>, member_id: &Arc<str>) {
        if self.members.contains_key(member_id) {
            self.remove(scope, std::slice::from_ref(member_id));
        }
    }

    /// Takes members out, which frees what they have, and moves the group on. When nobody is left who
    /// speaks the consumer protocol the group stays at its epoch, which becomes the generation of the
    /// classic group that the coordinator makes of it: so its members are asked to join again, and not
    /// told that they are late.
    fn remove(&mut self, scope: &mut Scope<'_>, member_ids: &[Arc<str>]) {
        for member_id in member_ids {
            self.forget_timers(scope, member_id);
            self.bury(scope, member_id);
        }
        if self.is_downgradable(scope.config) {
            return;
        }
        let metadata_hash = self.follow_topics(scope);
        self.bump(scope, metadata_hash);
    }

    /// The tombstones of a member.
    fn bury(&mut self, scope: &mut Scope<'_>, member_id: &Arc<str>) {
        let (group, member) = (&self.id.clone(), member_id);
        let records = [
            Record::ConsumerCurrent { group: group.clone(), member: member.clone(), value: None },
            Record::ConsumerTargetMember { group: group.clone(), member: member.clone(), value: None },
            Record::ConsumerMember { group: group.clone(), member: member.clone(), value: None },
        ];
        for record in records {
            self.emit(scope, record);
        }
    }

    /// The tombstones of the whole group.
    pub(super) fn tombstones(&self, records: &mut Vec<Record>) {
        let group = || self.id.clone();
        for member in self.members.keys() {
            records.push(Record::ConsumerCurrent { group: group(), member: member.clone(), value: None });
        }
        for member in self.target.keys() {
            records.push(Record::ConsumerTargetMember {
                group: group(),
                member: member.clone(),
                value: None,
            });
        }
        records.push(Record::ConsumerTarget { group: group(), value: None });
        for member in self.members.keys() {
            records.push(Record::ConsumerMember { group: group(), member: member.clone(), value: None });
        }
        for regex in self.regexes.keys() {
            records.push(Record::ConsumerRegex { group: group(), regex: regex.clone(), value: None });
        }
        records.push(Record::ConsumerGroup { group: group(), value: None });
    }

    fn bump(&mut self, scope: &mut Scope<'_>, metadata_hash: i64) {
        let value = Some(ConsumerGroupEpoch { epoch: self.epoch.saturating_add(1), metadata_hash });
        self.emit(scope, Record::ConsumerGroup { group: self.id.clone(), value });
    }

    /// The names of all topics that a member wants, whether they exist or not.
    fn wanted<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = &'a Arc<str>> {
        let by_regex = member.meta.regex.as_ref().and_then(|regex| self.regexes.get(regex));
        let resolved = by_regex.into_iter().flat_map(|resolved| &resolved.topics);
        member.meta.topics.iter().chain(resolved)
    }

    /// The names of all topics that members want, whether they exist or not.
    fn subscribed_names(&self) -> BTreeSet<&Arc<str>> {
        self.tally.names.keys().chain(self.resolved().flat_map(|resolved| &resolved.topics)).collect()
    }

    /// Whether the group's records stay within what an event may write when a member is to be `meta`.
    /// `before` is whose place it takes: its own, or that of a static member under another id.
    fn has_bytes_for(
        &self,
        topics: &dyn Topics,
        before: &Arc<str>,
        member_id: &str,
        meta: &ConsumerMember,
    ) -> bool {
        let known = self.members.get(before);
        if known.is_some_and(|known| **before == *member_id && known.meta == *meta) {
            return true;
        }
        let known = known.map_or(0, |known| consumer_member_bytes(&self.id, before, &known.meta));
        let new = consumer_member_bytes(&self.id, member_id, meta);
        let mut names = self.subscribed_names();
        names.extend(&meta.topics);
        let partitions =
            names.into_iter().filter_map(|name| topics.named(name)).map(|topic| topic.partitions);
        let partitions: i64 = partitions.map(i64::from).sum();
        self.tally.bytes - known + new <= GROUP_BYTES_MAX
            && usize::try_from(partitions).is_ok_and(|count| count <= GROUP_BYTES_MAX / PARTITION_BYTES)
    }

    /// What the topics subscribed to are like, condensed: when it changes, the assignment may.
    ///
    /// FNV-1a over name, id and number of partitions of each topic that exists, in the order of names;
    /// never 0, which stands for unknown. It is compared with our own records only.
    fn hash_topics(&self, topics: &dyn Topics) -> i64 {
        let names = self.subscribed_names();
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut add = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        for name in names {
            if let Some(topic) = topics.named(name) {
                add(&name.len().to_be_bytes());
                add(name.as_bytes());
                add(topic.id.0.as_bytes());
                add(&topic.partitions.to_be_bytes());
            }
        }
        hash.max(1).cast_signed()
    }

    /// Looks at the topics as they are now; returns their hash.
    fn follow_topics(&mut self, scope: &mut Scope<'_>) -> i64 {
        let version = scope.topics.version();
        let is_complete = self.resolve_regexes(scope);
        self.topics_seen = is_complete.then_some(version);
        self.hash_topics(scope.topics)
    }

    /// Follows what changed: of subscriptions when `changed`, of topics when they have another version.
    /// Bumps the epoch when the assignment may have to change.
    fn refresh(&mut self, scope: &mut Scope<'_>, changed: bool) {
        if !changed && self.topics_seen == Some(scope.topics.version()) {
            return;
        }
        let metadata_hash = self.follow_topics(scope);
        if changed || metadata_hash != self.metadata_hash {
            self.bump(scope, metadata_hash);
        }
    }

    /// The assignor that most members prefer.
    fn assignor(&self) -> &str {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some(name) = &member.meta.assignor {
                *votes.entry(name).or_default() += 1;
            }
        }
        let best = votes.iter().max_by(|(a, x), (b, y)| x.cmp(y).then(b.cmp(a)));
        best.map_or(assignor::NAMES[0], |(name, _)| name)
    }

    /// Computes a new target when the group has moved on; only what changed is written.
    fn update_target(&mut self, scope: &mut Scope<'_>) {
        if self.epoch <= self.target_epoch {
            return;
        }
        let mut demand = Demand::default();
        for (member_id, member) in &self.members {
            let mut subscriber = Subscriber {
                instance_id: member.meta.instance_id.clone(),
                topics: BTreeSet::new(),
                before: self.target.get(member_id),
            };
            for name in self.wanted(member) {
                if let Some(topic) = scope.topics.named(name) {
                    subscriber.topics.insert(topic.id);
                    demand.topics.insert(topic.id, topic.partitions);
                }
            }
            demand.members.insert(member_id.clone(), subscriber);
        }
        let target = assignor::assign(self.assignor(), &demand);
        drop(demand);
        let group = self.id.clone();
        for (member, assignment) in target {
            if self.target.get(&member) != Some(&assignment) {
                let value = Some(assignment.to_record());
                self.emit(scope, Record::ConsumerTargetMember { group: group.clone(), member, value });
            }
        }
        let value = Some(ConsumerTargetEpoch { epoch: self.epoch });
        self.emit(scope, Record::ConsumerTarget { group, value });
    }
}

#[cfg(test)]
mod snapshot;
