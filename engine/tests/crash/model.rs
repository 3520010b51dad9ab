//! What the workload knows it was promised, and the check of a restarted node against that.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use corelog_engine::api::PartitionError;
use corelog_engine::engine::Engine;
use corelog_engine::types::{Durability, LeaderEpoch, TopicId, TopicPartition};
use corelog_protocol::batch::{BatchIter, Scratch};
use tokio::sync::RwLock;

use crate::sim_node::fetch;

/// A broken promise, in words.
pub type Violation = String;

/// Everything that survives the node's crashes: the clients' side of the story.
#[derive(Default)]
pub struct Model {
    pub topics: BTreeMap<TopicId, Topic>,
    /// Topics whose deletion was acknowledged.
    pub deleted: BTreeSet<TopicId>,
    /// Names of deleted topics, to be used again.
    pub free_names: BTreeSet<String>,
    pub next_record: Cell<u64>,
    /// The timestamp of each record.
    pub born_ms: BTreeMap<u64, i64>,
    pub next_name: Cell<u64>,
    /// Ids that were handed out: none twice.
    pub producer_ids: BTreeSet<i64>,
    pub acknowledged: Cell<u64>,
}

pub struct Topic {
    pub name: String,
    pub partitions: Vec<Rc<RefCell<PartitionModel>>>,
    /// A deletion was sent and not answered.
    pub maybe_deleted: bool,
}

pub struct PartitionModel {
    pub target: TopicPartition,
    pub durability: Durability,
    /// What is promised: by offset, the record's number.
    pub records: BTreeMap<i64, u64>,
    /// Records that were sent and not answered.
    pub limbo: BTreeSet<u64>,
    /// Where the log starts by what was promised. By retention it may start later, and after a crash
    /// earlier again.
    pub log_start: i64,
    pub retention: Retention,
    /// Records were taken back: the newest that retention left may be among them.
    pub was_cut: bool,
    /// Where it was seen to start in this life of the node.
    pub seen_start: i64,
    /// A truncation or trim that was sent and not answered.
    pub maybe_cut: Option<i64>,
    pub maybe_trim: Option<i64>,
    pub producers: Vec<Rc<RefCell<ProducerModel>>>,
    /// Truncations are alone with their partition.
    pub gate: Rc<RwLock<()>>,
    pub leader_epoch: LeaderEpoch,
}

/// What the node may delete by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    Nothing,
    /// What is older than so many milliseconds.
    Time(i64),
    /// The oldest, but never all.
    Size,
}

/// An idempotent producer that writes to one partition.
pub struct ProducerModel {
    pub id: i64,
    pub next_sequence: i32,
    pub busy: bool,
    /// Sent and not answered: sent again after a restart.
    pub in_flight: Option<SentBatch>,
    /// The newest answered batch and its offset.
    pub last: Option<(SentBatch, i64)>,
}

#[derive(Clone)]
pub struct SentBatch {
    pub bytes: BytesMut,
    pub records: Vec<u64>,
}

impl PartitionModel {
    pub fn new(target: TopicPartition, durability: Durability, retention: Retention) -> Self {
        Self {
            target,
            durability,
            records: BTreeMap::new(),
            limbo: BTreeSet::new(),
            log_start: 0,
            retention,
            was_cut: false,
            seen_start: 0,
            maybe_cut: None,
            maybe_trim: None,
            producers: Vec::new(),
            gate: Rc::new(RwLock::new(())),
            leader_epoch: LeaderEpoch(-1),
        }
    }

    /// Records were acknowledged at `base`: below the log's start when a batch that was trimmed
    /// meanwhile is sent again and recognised.
    pub fn acknowledge(&mut self, base: i64, records: &[u64]) -> Result<(), Violation> {
        for (offset, record) in (base..).zip(records) {
            self.limbo.remove(record);
            if offset < self.log_start {
                continue;
            }
            match self.records.insert(offset, *record) {
                Some(other) if other != *record => {
                    return Err(format!(
                        "{}: offset {offset} was given to {other} and {record}",
                        self.target
                    ));
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    /// Holds what a reader saw in `[from, ..)` against the promises; what was seen is promised from
    /// now on where a crash may not take it back.
    pub fn seen(&mut self, found: &[(i64, u64)]) -> Result<(), Violation> {
        for (offset, record) in found {
            match self.records.get(offset) {
                Some(promised) if promised == record => {}
                Some(promised) => {
                    return Err(format!("{}: offset {offset} holds {record}, not {promised}", self.target));
                }
                None if self.limbo.contains(record) => {
                    self.records.insert(*offset, *record);
                }
                None => {
                    return Err(format!("{}: offset {offset} holds {record}, never sent here", self.target));
                }
            }
        }
        Ok(())
    }

    /// Where the log may be read from.
    pub fn start(&self) -> i64 {
        self.log_start.max(self.seen_start)
    }

    /// A log was seen to start at `start`: what is gone must have been retention's to take.
    pub fn may_start_at(
        &mut self,
        start: i64,
        now_ms: i64,
        born_ms: &BTreeMap<u64, i64>,
    ) -> Result<(), Violation> {
        let promised = self.log_start.max(self.maybe_trim.filter(|trim| *trim <= start).unwrap_or(0));
        if start <= promised {
            return Ok(());
        }
        for (offset, record) in self.records.range(promised..start) {
            let age_ms = now_ms - born_ms[record];
            let may_go = match self.retention {
                Retention::Nothing => false,
                Retention::Time(kept_ms) => age_ms > kept_ms,
                Retention::Size => true,
            };
            if !may_go {
                let (target, retention) = (self.target, self.retention);
                return Err(format!("{target}: offset {offset} is gone after {age_ms} ms ({retention:?})"));
            }
        }
        let is_something_left = self.records.range(start..).next().is_some() || !self.limbo.is_empty();
        if self.retention == Retention::Size && !is_something_left && !self.was_cut {
            return Err(format!("{}: the size retained nothing, the log starts at {start}", self.target));
        }
        self.seen_start = start;
        Ok(())
    }

    /// Holds the whole log of a restarted node, `[start, end)`, against the promises.
    pub fn restarted(
        &mut self,
        start: i64,
        end: i64,
        found: &[(i64, u64)],
        power_lost: bool,
    ) -> Result<(), Violation> {
        let target = self.target;
        self.seen_start = start;
        if let Some(trim) = self.maybe_trim.take()
            && start >= trim
        {
            self.trimmed_to(trim);
        }
        let is_right = match self.retention {
            Retention::Nothing => start == self.log_start,
            Retention::Time(_) | Retention::Size => start >= self.log_start,
        };
        if !is_right {
            return Err(format!("{target}: the log starts at {start}, not {}", self.log_start));
        }
        if let Some(cut) = self.maybe_cut.take()
            && end <= cut.max(start)
        {
            self.forget_from(cut);
        }
        let promised_end = self.end();
        let may_shrink = power_lost && self.durability == Durability::Write;
        if end < promised_end {
            if !may_shrink {
                return Err(format!("{target}: ends at {end}, {promised_end} was acknowledged"));
            }
            self.forget_from(end);
        }
        let mut expected = start;
        let mut once = BTreeSet::new();
        for (offset, record) in found {
            if *offset != expected {
                return Err(format!("{target}: offset {offset} follows {}", expected - 1));
            }
            expected += 1;
            if !once.insert(*record) {
                return Err(format!("{target}: record {record} is there twice"));
            }
        }
        if expected != end {
            return Err(format!("{target}: readable up to {expected}, the log ends at {end}"));
        }
        self.seen(found)?;
        // What is not in the log now never comes back, but for what producers send again.
        let resent: BTreeSet<u64> = self
            .producers
            .iter()
            .filter_map(|producer| producer.borrow().in_flight.as_ref().map(|sent| sent.records.clone()))
            .flatten()
            .collect();
        self.limbo.retain(|record| resent.contains(record));
        if may_shrink {
            self.producers.clear();
            self.limbo.clear();
        }
        Ok(())
    }

    /// The end of what is promised.
    pub fn end(&self) -> i64 {
        self.records.last_key_value().map_or(0, |(offset, _)| offset + 1).max(self.start())
    }

    /// The log starts at `to` now; nothing is promised of what was before it.
    pub fn trimmed_to(&mut self, to: i64) {
        self.log_start = to;
        self.records = self.records.split_off(&to);
    }

    /// Records at and after `end` were taken back.
    pub fn forget_from(&mut self, end: i64) {
        self.records.split_off(&end);
        self.was_cut = true;
        self.producers.clear();
        self.limbo.clear();
    }
}

/// The number of the record in a value that [`crate::workload`] made.
pub fn record_number(value: &[u8]) -> Result<u64, Violation> {
    let (number, filler) = value.split_at_checked(8).ok_or("a record is too short")?;
    let number = u64::from_le_bytes(number.try_into().expect("eight bytes"));
    if filler.iter().any(|byte| *byte != filler_of(number)) {
        return Err(format!("record {number} was changed"));
    }
    Ok(number)
}

/// What follows the number in a value.
pub fn filler_of(number: u64) -> u8 {
    u8::try_from(number % 251).expect("below 251")
}

/// Decodes fetched batches into offsets and record numbers, from `from` on.
pub fn numbers(batches: &[Bytes], from: i64) -> Result<Vec<(i64, u64)>, Violation> {
    let mut found = Vec::new();
    let mut scratch = Scratch::default();
    for bytes in batches {
        for batch in BatchIter::new(bytes) {
            let batch = batch.map_err(|error| format!("unreadable batch served: {error}"))?;
            let records = batch.records(&mut scratch, 1 << 24).map_err(|error| error.to_string())?;
            for record in records {
                let record = record.map_err(|error| error.to_string())?;
                let offset = batch.header.base_offset + i64::from(record.offset_delta);
                let value = record.value.ok_or("a record lost its value")?;
                if offset >= from {
                    found.push((offset, record_number(value)?));
                }
            }
        }
    }
    Ok(found)
}

/// Reads a whole partition: its start, its end, and every record.
pub async fn read_all(
    engine: &Engine,
    target: TopicPartition,
) -> Result<(i64, i64, Vec<(i64, u64)>), Violation> {
    let mut found: Vec<(i64, u64)> = Vec::new();
    let mut first = match fetch(engine, target, 0, 1).await {
        Ok(fetched) => fetched.log_start_offset.0,
        Err(PartitionError::OffsetOutOfRange { log_start_offset, .. }) => log_start_offset.0,
        Err(error) => return Err(format!("{target}: {error}")),
    };
    let mut next = first;
    loop {
        let fetched = match fetch(engine, target, next, 64 * 1024).await {
            // Retention goes on meanwhile.
            Err(PartitionError::OffsetOutOfRange { log_start_offset, .. }) if log_start_offset.0 > next => {
                (first, next) = (log_start_offset.0, log_start_offset.0);
                found.clear();
                continue;
            }
            fetched => fetched.map_err(|error| format!("{target}: {error}"))?,
        };
        let end = fetched.high_watermark.0;
        if next >= end {
            return Ok((first, end, found));
        }
        let more = numbers(&fetched.batches, next)?;
        let Some((last, _)) = more.last() else {
            return Err(format!("{target}: nothing to read at {next}, the log ends at {end}"));
        };
        next = last + 1;
        found.extend(more);
    }
}
