//! What compacted partitions were promised to hold, and the check of what they are seen to hold.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use corelog_engine::api::PartitionError;
use corelog_engine::engine::Engine;
use corelog_engine::types::{Durability, TopicId, TopicPartition};
use corelog_protocol::batch::{BatchHeader, BatchIter, Scratch};
use tokio::sync::RwLock;

use crate::sim_node::fetch;

/// A broken promise, in words.
pub type Violation = String;

/// By its number, a record that was sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    pub key: u8,
    pub is_tombstone: bool,
    pub born_ms: i64,
}

/// Everything that survives the node's crashes.
#[derive(Default)]
pub struct Model {
    pub sent: Vec<Sent>,
    pub topics: BTreeMap<TopicId, Topic>,
    pub topics_made: u64,
    pub acknowledged: u64,
}

pub struct Topic {
    pub partitions: Vec<Rc<RefCell<PartitionModel>>>,
    /// A deletion was sent.
    pub maybe_deleted: bool,
}

/// What a topic asks for.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    pub durability: Durability,
    pub delete_retention_ms: i64,
    pub lag_min_ms: i64,
    /// Whether the oldest may go, whatever they are.
    pub deletes: bool,
}

pub struct PartitionModel {
    pub target: TopicPartition,
    pub policy: Policy,
    /// What was acknowledged or seen: by offset, the record's number.
    pub records: BTreeMap<i64, usize>,
    /// Sent and not answered.
    pub limbo: BTreeSet<usize>,
    /// Records whose newer ones were taken back on purpose: compaction may have seen those.
    pub bereft: BTreeSet<i64>,
    pub log_start: i64,
    pub maybe_trim: Option<i64>,
    pub maybe_cut: Option<i64>,
    /// Truncations and trims are alone with their partition.
    pub gate: Rc<RwLock<()>>,
}

/// A record as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub offset: i64,
    pub number: usize,
    pub key: u8,
    pub is_tombstone: bool,
}

impl PartitionModel {
    pub fn new(target: TopicPartition, policy: Policy) -> Self {
        Self {
            target,
            policy,
            records: BTreeMap::new(),
            limbo: BTreeSet::new(),
            bereft: BTreeSet::new(),
            log_start: 0,
            maybe_trim: None,
            maybe_cut: None,
            gate: Rc::new(RwLock::new(())),
        }
    }

    pub fn end(&self) -> i64 {
        self.records.last_key_value().map_or(self.log_start, |(offset, _)| offset + 1)
    }

    pub fn acknowledge(&mut self, base: i64, numbers: &[usize]) -> Result<(), Violation> {
        for (offset, number) in (base..).zip(numbers) {
            self.limbo.remove(number);
            if let Some(other) = self.records.insert(offset, *number)
                && other != *number
            {
                return Err(format!("{}: offset {offset} was given to {other} and {number}", self.target));
            }
        }
        Ok(())
    }

    pub fn trimmed_to(&mut self, log_start: i64) {
        if log_start > self.log_start {
            self.log_start = log_start;
            self.records = self.records.split_off(&log_start);
        }
    }

    /// Records from `end` on are gone on purpose.
    pub fn truncated_to(&mut self, end: i64, sent: &[Sent]) {
        let gone = self.records.split_off(&end);
        let keys: BTreeSet<u8> = gone.values().chain(&self.limbo).map(|number| sent[*number].key).collect();
        let older = self.records.iter().filter(|(_, number)| keys.contains(&sent[**number].key));
        self.bereft.extend(older.map(|(offset, _)| *offset));
        self.bereft.split_off(&end);
        self.limbo.clear();
    }

    /// Holds what a reader saw of `[from, upto)` against the promises.
    pub fn seen(
        &mut self,
        found: &[Found],
        (from, upto): (i64, i64),
        sent: &[Sent],
        now_ms: i64,
    ) -> Result<(), Violation> {
        let target = self.target;
        for it in found {
            let of = sent.get(it.number).ok_or_else(|| format!("{target}: {it:?} was never sent"))?;
            if (of.key, of.is_tombstone) != (it.key, it.is_tombstone) {
                return Err(format!("{target}: {it:?} was sent as {of:?}"));
            }
            match self.records.get(&it.offset) {
                Some(number) if *number == it.number => {}
                Some(number) => return Err(format!("{target}: {it:?} is where {number} was promised")),
                None if self.limbo.contains(&it.number) || it.offset < self.log_start => {
                    if self.policy.durability == Durability::Fsync && it.offset >= self.log_start {
                        self.records.insert(it.offset, it.number);
                    }
                }
                None => return Err(format!("{target}: {it:?} was never promised there")),
            }
        }
        let newest_of = |records: &mut dyn Iterator<Item = (i64, usize)>| -> BTreeMap<u8, (i64, usize)> {
            records.map(|(offset, number)| (sent[number].key, (offset, number))).collect()
        };
        let from = from.max(self.log_start);
        let promised = newest_of(&mut self.records.range(from..).map(|(offset, number)| (*offset, *number)));
        let read = newest_of(&mut found.iter().map(|it| (it.offset, it.number)));
        for (key, (offset, number)) in promised {
            let newest = read.get(&key).map(|(offset, _)| *offset);
            // Who reads on meets those behind `upto`.
            if offset >= upto
                || newest.is_some_and(|newest| newest >= offset)
                || self.bereft.contains(&offset)
            {
                continue;
            }
            let is_past = |number: &usize| {
                let it = sent[*number];
                it.key == key
                    && it.is_tombstone
                    && now_ms >= it.born_ms + self.policy.delete_retention_ms + self.policy.lag_min_ms
            };
            let mut later = self.limbo.iter();
            if !is_past(&number) && !later.any(is_past) {
                let it = sent[number];
                return Err(format!(
                    "{target}: the newest of key {key}, {it:?} at {offset}, is gone at {now_ms}; found {newest:?}"
                ));
            }
            if let Some(newest) = newest {
                return Err(format!(
                    "{target}: {newest} of key {key} is there, the tombstone at {offset} is not"
                ));
            }
        }
        // What is gone has a newer one.
        let there: BTreeSet<i64> = found.iter().map(|it| it.offset).collect();
        for (offset, number) in self.records.range(from..upto) {
            let it = sent[*number];
            let young = now_ms < it.born_ms + self.policy.lag_min_ms;
            if young && !there.contains(offset) && !self.bereft.contains(offset) {
                return Err(format!("{target}: {it:?} at {offset} is gone at {now_ms}, too early"));
            }
        }
        Ok(())
    }

    /// Holds the whole log of a restarted node against the promises.
    pub fn restarted(
        &mut self,
        (start, end): (i64, i64),
        found: &[Found],
        sent: &[Sent],
        power_lost: bool,
        now_ms: i64,
    ) -> Result<(), Violation> {
        let target = self.target;
        if let Some(trim) = self.maybe_trim.take()
            && start >= trim
        {
            self.trimmed_to(trim);
        }
        if start < self.log_start || (start > self.log_start && !self.policy.deletes) {
            return Err(format!("{target}: the log starts at {start}, not {}", self.log_start));
        }
        self.trimmed_to(start);
        if let Some(cut) = self.maybe_cut.take()
            && end <= cut.max(start)
        {
            self.truncated_to(cut, sent);
        }
        if end < self.end() {
            if !(power_lost && self.policy.durability == Durability::Write) {
                return Err(format!("{target}: ends at {end}, {} was acknowledged", self.end()));
            }
            // Compaction must not have relied on what could be lost: nothing is bereft by this.
            self.records.split_off(&end);
            self.bereft.split_off(&end);
        }
        self.seen(found, (start, end), sent, now_ms)?;
        if self.policy.durability == Durability::Write {
            // What is in the log now is promised from now on, after this start's syncs.
            self.records.extend(found.iter().map(|it| (it.offset, it.number)));
        }
        self.limbo.clear();
        Ok(())
    }

    /// After rounds over everything: the newest of each key, and no tombstone.
    pub fn compacted(&self, found: &[Found], sent: &[Sent]) -> Result<(), Violation> {
        let mut newest = BTreeMap::new();
        for (offset, number) in &self.records {
            newest.insert(sent[*number].key, (*offset, *number));
        }
        newest.retain(|_, (_, number)| !sent[*number].is_tombstone);
        let expected: BTreeSet<i64> = newest.into_values().map(|(offset, _)| offset).collect();
        let there: BTreeSet<i64> = found.iter().map(|it| it.offset).collect();
        let missing: Vec<_> =
            expected.difference(&there).filter(|offset| !self.bereft.contains(offset)).collect();
        let extra: Vec<_> = there
            .difference(&expected)
            .map(|offset| (offset, self.records.get(offset).map(|number| sent[*number])))
            .collect();
        if missing.is_empty() && extra.is_empty() {
            return Ok(());
        }
        Err(format!("{}: compacted, and {missing:?} is missing, {extra:?} is there", self.target))
    }
}

/// What a reader met.
pub enum Read {
    /// From where, up to where, and the records.
    Whole((i64, i64), Vec<Found>),
    /// It cannot be read now.
    Nothing(PartitionError),
}

/// Reads from an offset to what is the end now, as a consumer does. `from` nothing: from the start.
pub async fn read(
    engine: &Engine,
    target: TopicPartition,
    from: Option<i64>,
    max_bytes: usize,
) -> Result<Read, Violation> {
    let first = match fetch(engine, target, from.unwrap_or(0), 1).await {
        Err(PartitionError::OffsetOutOfRange { log_start_offset, .. }) if from.is_none() => {
            Ok(log_start_offset.0)
        }
        fetched => fetched.map(|fetched| from.unwrap_or(fetched.log_start_offset.0)),
    };
    let mut first = match first {
        Ok(first) => first,
        Err(error) => return Ok(Read::Nothing(error)),
    };
    let (mut next, mut upto) = (first, None);
    let mut found = Vec::new();
    loop {
        let fetched = match fetch(engine, target, next, max_bytes).await {
            Ok(fetched) => fetched,
            Err(PartitionError::Changed) => continue,
            // Retention goes on meanwhile.
            Err(PartitionError::OffsetOutOfRange { log_start_offset, .. })
                if log_start_offset.0 > next && from.is_none() =>
            {
                (first, next) = (log_start_offset.0, log_start_offset.0);
                found.clear();
                continue;
            }
            Err(error) => return Ok(Read::Nothing(error)),
        };
        let end = *upto.get_or_insert(fetched.high_watermark.0);
        if next >= end {
            return Ok(Read::Whole((first, end), found));
        }
        if fetched.batches.is_empty() {
            return Err(format!("{target}: nothing to read at {next}, the log ends at {end}"));
        }
        for bytes in &fetched.batches {
            next = next.max(records(target, bytes, next, &mut found)?);
        }
    }
}

/// Adds the records at and behind `from`; returns where the batches end.
fn records(
    target: TopicPartition,
    bytes: &[u8],
    from: i64,
    found: &mut Vec<Found>,
) -> Result<i64, Violation> {
    let mut scratch = Scratch::default();
    let mut end = from;
    for batch in BatchIter::new(bytes) {
        let batch = batch.map_err(|error| format!("{target}: unreadable batch: {error}"))?;
        let BatchHeader { base_offset, .. } = batch.header;
        // Fillers are left out.
        if base_offset < end && end > from {
            return Err(format!("{target}: {base_offset} follows {end}"));
        }
        end = batch.header.next_offset();
        for record in batch.records(&mut scratch, 1 << 24).map_err(|error| error.to_string())? {
            let record = record.map_err(|error| error.to_string())?;
            let offset = base_offset + i64::from(record.offset_delta);
            if offset < from {
                continue;
            }
            let number = record.headers.clone().next().and_then(|header| header.value);
            let number = number.and_then(|number| number.try_into().ok()).map(u64::from_be_bytes);
            let number = usize::try_from(number.ok_or("a record lost its header")?).expect("64 bits");
            let key = *record.key.and_then(<[u8]>::first).ok_or("a record lost its key")?;
            found.push(Found { offset, number, key, is_tombstone: record.value.is_none() });
        }
    }
    Ok(end)
}
