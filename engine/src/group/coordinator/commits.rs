//! OffsetCommit, OffsetFetch, OffsetDelete, and offsets whose time is over.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use corelog_protocol::ErrorCode;
use corelog_protocol::offsets_topic::Record;

use super::{Coordinator, Group, Kind};
use crate::group::api::{
    ByTopic, Commit, DeleteOffsets, DeleteOffsetsReply, FetchOffsets, FetchOffsetsReply,
};
use crate::group::classic::State;
use crate::group::effects::{Effects, Now};
use crate::group::offsets::{ExpiryBase, GroupOffsets, is_expired, tombstone};
use crate::group::timers::Timer;
use crate::group::topics::Topics;

/// How many tombstones one event emits at most, but for the last group's.
const EXPIRED_PER_EVENT_MAX: usize = 1_000;
/// How many groups one event looks through at most.
const GROUPS_PER_EVENT_MAX: usize = 1_000;

impl Group {
    fn may_consume(&self, topic: &str) -> bool {
        match &self.kind {
            Kind::Classic(group) => group.may_consume(topic),
            Kind::Consumer(group) => group.is_subscribed(topic),
        }
    }

    /// From when on offsets expire (KIP-211): a group that has members keeps those of topics that it
    /// subscribes to, and all of them while that is not known.
    fn expiry_base(&self) -> ExpiryBase {
        let Kind::Classic(group) = &self.kind else {
            return ExpiryBase::Commit;
        };
        match group.state() {
            _ if group.protocol_type().is_none() => ExpiryBase::Commit,
            // Kafka counts from then even for what is committed later, so that offsets that an operator
            // sets in a group that was empty for longer are gone within minutes. Here the later counts.
            State::Empty => ExpiryBase::NotBefore(group.state_timestamp_ms()),
            State::Stable if group.is_consumers() && group.subscribed().is_some() => ExpiryBase::Commit,
            State::Stable | State::PreparingRebalance { .. } | State::CompletingRebalance => {
                ExpiryBase::Never
            }
        }
    }
}

impl Coordinator {
    pub(super) fn commit(
        &mut self,
        now: Now,
        topics: &dyn Topics,
        effects: &mut Effects,
        request: Commit,
    ) -> ByTopic<(i32, ErrorCode)> {
        if let Err(error) = self.check_commit(now, topics, effects, &request) {
            let refused = request.topics.into_iter().map(|(topic, partitions)| {
                (topic, partitions.into_iter().map(|commit| (commit.partition, error)).collect())
            });
            return refused.collect();
        }
        let id = request.group.clone();
        let mut records = Vec::new();
        let outcomes = GroupOffsets::commit(&self.config, now.wall_ms, request, &mut records);
        if !records.is_empty() {
            let group = self.groups.entry(id.clone()).or_insert_with(|| Group::new(id));
            emit_offsets(group, effects, records);
        }
        outcomes
    }

    fn check_commit(
        &mut self,
        now: Now,
        topics: &dyn Topics,
        effects: &mut Effects,
        request: &Commit,
    ) -> Result<(), ErrorCode> {
        let Some((group, mut scope)) = self.open(&request.group, now, topics, effects) else {
            return match (request.generation < 0, request.knows_epochs) {
                // A consumer that is in no group keeps its offsets in one all the same.
                (true, _) => Ok(()),
                (false, true) => Err(ErrorCode::GroupIdNotFound),
                (false, false) => Err(ErrorCode::IllegalGeneration),
            };
        };
        let (member_id, generation) = (&request.member_id, request.generation);
        match &group.kind {
            Kind::Classic(group) => {
                group.check_commit(&mut scope, member_id, request.instance_id.as_ref(), generation)
            }
            Kind::Consumer(group) if generation < 0 && group.is_empty() => Ok(()),
            Kind::Consumer(group) => {
                if group.is_member(member_id) && !group.is_classic_member(member_id) && !request.knows_epochs
                {
                    return Err(ErrorCode::UnsupportedVersion);
                }
                group.check_epoch(member_id, generation)
            }
        }
    }

    pub(super) fn fetch_offsets(&self, request: FetchOffsets) -> FetchOffsetsReply {
        let none = || GroupOffsets::default().fetch(request.topics.clone());
        let Some(group) = self.groups.get(&request.group) else {
            return FetchOffsetsReply { error: ErrorCode::None, topics: none() };
        };
        if let (Kind::Consumer(consumer), Some((member_id, epoch))) = (&group.kind, &request.member)
            && let Err(error) = consumer.check_epoch(member_id, *epoch)
        {
            return FetchOffsetsReply { error, topics: Vec::new() };
        }
        // Nothing is unstable yet: `require_stable` has a meaning once transactions commit offsets.
        FetchOffsetsReply { error: ErrorCode::None, topics: group.offsets.fetch(request.topics) }
    }

    pub(super) fn delete_offsets(
        &mut self,
        effects: &mut Effects,
        request: DeleteOffsets,
    ) -> DeleteOffsetsReply {
        let refuse = |error| DeleteOffsetsReply { error, topics: Vec::new() };
        let id = request.group;
        if id.is_empty() {
            return refuse(ErrorCode::InvalidGroupId);
        }
        let Some(group) = self.groups.get_mut(&id) else {
            return refuse(ErrorCode::GroupIdNotFound);
        };
        if let Kind::Classic(classic) = &group.kind
            && !classic.is_empty()
            && !classic.is_consumers()
        {
            return refuse(ErrorCode::NonEmptyGroup);
        }
        effects.separable = true;
        let mut records = BTreeMap::new();
        let outcomes = request.topics.into_iter().map(|(topic, partitions)| {
            let is_consumed = group.may_consume(&topic);
            let outcomes = partitions.into_iter().map(|partition| {
                if is_consumed {
                    return (partition, ErrorCode::GroupSubscribedToTopic);
                }
                if group.offsets.get(&topic, partition).is_some() {
                    // Once, however often it is asked for.
                    records.insert((topic.clone(), partition), tombstone(&id, &topic, partition));
                }
                (partition, ErrorCode::None)
            });
            let outcomes = outcomes.collect();
            (topic, outcomes)
        });
        let topics = outcomes.collect();
        emit_offsets(group, effects, records.into_values().collect());
        DeleteOffsetsReply { error: ErrorCode::None, topics }
    }

    /// Topics were deleted: their offsets go too.
    pub fn topics_deleted(&mut self, names: &[Arc<str>]) -> Effects {
        let mut effects = Effects { separable: true, ..Effects::default() };
        for (id, group) in &mut self.groups {
            let mut records = Vec::new();
            let is_gone = |topic: &str| names.iter().any(|name| **name == *topic);
            group.offsets.tombstones(id, |topic, _| is_gone(topic), &mut records);
            emit_offsets(group, &mut effects, records);
        }
        self.groups.retain(|_, group| !group.is_nothing());
        effects
    }

    /// Looks for expired offsets, and for groups of which nothing is left; in several events when there
    /// is much of either.
    pub(super) fn expire(&mut self, now: Now, effects: &mut Effects) {
        effects.separable = true;
        let after = match self.expiry_cursor.take() {
            Some(id) => Bound::Excluded(id),
            None => Bound::Unbounded,
        };
        let mut looked = 0;
        let mut gone = Vec::new();
        let retention_ms = self.config.offsets_retention_ms;
        for (id, group) in self.groups.range_mut::<Arc<str>, _>((after, Bound::Unbounded)) {
            let mut records = Vec::new();
            let base = group.expiry_base();
            let is_gone = |topic: &str, value: &_| {
                is_expired(value, base, retention_ms, now.wall_ms) && !group.may_consume(topic)
            };
            group.offsets.tombstones(id, is_gone, &mut records);
            emit_offsets(group, effects, records);
            if group.offsets.is_empty() && group.is_empty() && group.pending_count() == 0 {
                group.tombstones(id, &mut effects.records);
                gone.push(id.clone());
            }
            looked += 1;
            if looked >= GROUPS_PER_EVENT_MAX || effects.records.len() >= EXPIRED_PER_EVENT_MAX {
                self.expiry_cursor = Some(id.clone());
                break;
            }
        }
        for id in gone {
            self.groups.remove(&id);
        }
        let wait_ms = match self.expiry_cursor {
            Some(_) => 0,
            None => u64::from(self.config.offsets_retention_check_interval_ms),
        };
        self.timers.set(Timer::Expiry, now.clock_ms + wait_ms);
    }
}

/// Makes changes of offsets: records, taken in at once.
pub(super) fn emit_offsets(group: &mut Group, effects: &mut Effects, records: Vec<Record>) {
    for record in records {
        if let Record::Offset { topic, partition, value, .. } = record.clone() {
            group.offsets.apply(topic, partition, value);
        }
        effects.records.push(record);
    }
}
