//! From records to groups.

use std::sync::Arc;

use corelog_protocol::offsets_topic::Record;
use thiserror::Error;

use super::commits::emit_offsets;
use super::{Coordinator, Group, Kind};
use crate::group::classic::ClassicGroup;
use crate::group::consumer::ConsumerGroup;
use crate::group::effects::{Effects, Now, Scope};
use crate::group::timers::Timer;
use crate::group::topics::Topics;

/// A record of the partition cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a record of __consumer_offsets is not what its schema says: {0}")]
pub struct LoadError(#[from] corelog_protocol::WireError);

impl Coordinator {
    /// Takes in a record, in the order of the log. Kinds of records that are not known are skipped.
    ///
    /// # Errors
    /// When the record cannot be read; the coordinator is as it was.
    pub fn load(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), LoadError> {
        if let Some(record) = Record::decode(key, value)? {
            self.apply(record);
        }
        Ok(())
    }

    /// Everything is loaded: from now on members have to show signs of life. Offsets of topics that were
    /// deleted while nobody looked go now: a topic that is made later under such a name must not begin
    /// with them. So `topics` must know every topic of which an offset may have been committed.
    pub fn loaded(&mut self, now: Now, topics: &dyn Topics) -> Effects {
        let mut effects = Effects { separable: true, ..Effects::default() };
        for (id, group) in &mut self.groups {
            let mut records = Vec::new();
            group.offsets.tombstones(id, |topic, _| topics.named(topic).is_none(), &mut records);
            emit_offsets(group, &mut effects, records);
        }
        self.groups.retain(|_, group| !group.is_nothing());
        let Self { config, groups, timers, patterns, .. } = self;
        let mut scope = Scope { now, config, topics, timers, patterns, effects: &mut effects };
        for group in groups.values_mut() {
            match &mut group.kind {
                Kind::Classic(group) => group.loaded(&mut scope),
                Kind::Consumer(group) => group.start_timers(&mut scope),
            }
        }
        let interval_ms = u64::from(self.config.offsets_retention_check_interval_ms);
        self.timers.set(Timer::Expiry, now.clock_ms + interval_ms);
        effects
    }

    pub(super) fn apply(&mut self, record: Record) {
        let id = record.group().clone();
        match record {
            Record::Offset { topic, partition, value, .. } => {
                if let Some(group) = self.entry(&id, value.is_some()) {
                    group.offsets.apply(topic, partition, value);
                }
            }
            Record::Group { value, .. } => {
                let Some(group) = self.entry(&id, value.is_some()) else {
                    return;
                };
                match value {
                    Some(value) => group.kind = Kind::Classic(ClassicGroup::from_record(id, value)),
                    // A consumer group that followed a classic one is not concerned.
                    None if matches!(group.kind, Kind::Consumer(_)) => {}
                    None => group.kind = Kind::Classic(ClassicGroup::new(id)),
                }
            }
            Record::ConsumerGroup { value: None, .. } => {
                if let Some(group) = self.entry(&id, false)
                    && matches!(group.kind, Kind::Consumer(_))
                {
                    group.kind = Kind::Classic(ClassicGroup::new(id));
                }
            }
            record => {
                let Some(group) = self.entry(&id, !is_tombstone(&record)) else {
                    return;
                };
                if let Kind::Classic(_) = group.kind {
                    if is_tombstone(&record) {
                        return;
                    }
                    group.kind = Kind::Consumer(ConsumerGroup::new(id));
                }
                if let Kind::Consumer(group) = &mut group.kind {
                    group.apply(record);
                }
            }
        }
    }

    fn entry(&mut self, id: &Arc<str>, create: bool) -> Option<&mut Group> {
        if create {
            return Some(self.groups.entry(id.clone()).or_insert_with(|| Group::new(id.clone())));
        }
        self.groups.get_mut(id)
    }
}

fn is_tombstone(record: &Record) -> bool {
    match record {
        Record::Offset { value, .. } => value.is_none(),
        Record::Group { value, .. } => value.is_none(),
        Record::ConsumerGroup { value, .. } => value.is_none(),
        Record::ConsumerMember { value, .. } => value.is_none(),
        Record::ConsumerTarget { value, .. } => value.is_none(),
        Record::ConsumerTargetMember { value, .. } => value.is_none(),
        Record::ConsumerCurrent { value, .. } => value.is_none(),
        Record::ConsumerRegex { value, .. } => value.is_none(),
    }
}

#[cfg(test)]
mod snapshot {
    use std::collections::BTreeSet;

    use super::*;
    use crate::group::classic::State;

    impl Coordinator {
        /// The classic groups whose state in memory is ahead of what was kept of them.
        pub(in crate::group) fn rebalancing(&self) -> BTreeSet<Arc<str>> {
            let all = self.groups.iter().filter(|(_, group)| match &group.kind {
                Kind::Classic(group) => !matches!(group.state(), State::Empty | State::Stable),
                Kind::Consumer(_) => false,
            });
            all.map(|(id, _)| id.clone()).collect()
        }

        /// The records that would bring everything back that is kept, but for those groups.
        pub(in crate::group) fn snapshot(&self, but: Option<&BTreeSet<Arc<str>>>) -> Vec<Record> {
            let own = self.rebalancing();
            let but = but.unwrap_or(&own);
            let mut records = Vec::new();
            let counted = self.groups.keys().map(|id| self.census(id));
            let counted = counted.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            assert_eq!((self.pending, self.forming), counted);
            for (id, group) in &self.groups {
                if let Kind::Classic(group) = &group.kind {
                    group.check();
                }
                let mut offsets = Vec::new();
                group.offsets.tombstones(id, |_, _| true, &mut offsets);
                for record in &mut offsets {
                    if let Record::Offset { topic, partition, value, .. } = record {
                        *value = group.offsets.get(topic, *partition).cloned();
                    }
                }
                records.extend(offsets);
                match &group.kind {
                    _ if but.contains(id) => {}
                    Kind::Classic(group) if group.protocol_type().is_none() => {}
                    Kind::Classic(group) => records.push(group.record()),
                    Kind::Consumer(group) => records.extend(group.snapshot()),
                }
            }
            records
        }
    }
}
