//! One partition: offsets, epochs, producers, the tail, and who waits for records.
//!
//! Owned by exactly one shard. Everything in this file is synchronous and does no I/O: it turns a
//! batch into a journal entry, and a journal's progress into a high watermark. Cold reads and
//! flushes go through [`Partition::log`], outside any borrow of the partition.

pub mod epochs;
pub mod producers;
pub mod state;
pub mod tail;

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use corelog_protocol::batch::{self, BatchHeader, BatchRef, Scratch};
use corelog_protocol::error::ErrorCode;
use corelog_protocol::validate::{BatchSummary, RecordError, blamed_records, check_batch};
use tokio::sync::Notify;

use self::epochs::EpochHistory;
use self::producers::{Producers, SequenceError, Verdict};
use self::state::PartitionState;
use self::tail::{Tail, TailBatch};
use crate::api::{Acks, ActiveProducer, EpochEnd, PartitionError, ProduceError};
use crate::journal::{Entry, EntryKind, Journal};
use crate::log::{SegmentLog, SegmentPosition, Unflushed};
use crate::topic_config::TopicConfig;
use crate::types::{Durability, LeaderEpoch, Lsn, Offset, TopicPartition};

/// Names a registered waiter of one shard.
pub type WatchId = u64;

/// One partition, as its shard holds it.
pub struct Partition {
    target: TopicPartition,
    config: Rc<TopicConfig>,
    leader_epoch: LeaderEpoch,
    isr_len: usize,
    log_start: Offset,
    log_end: Offset,
    high_watermark: Offset,
    /// See [`PartitionState::cleaned_to`].
    cleaned_to: Offset,
    epochs: EpochHistory,
    producers: Producers,
    tail: Tail,
    /// Bytes of batches that were appended since the start.
    appended_bytes: u64,
    log: Rc<SegmentLog>,
    /// The oldest journal entry that rebuilding this partition's state needs.
    state_lsn: Option<Lsn>,
    /// The entry that moved the log start last.
    log_start_lsn: Option<Lsn>,
    /// When the first record came that is in no closed segment, if there is one and this is known.
    unit_since_ms: Option<i64>,
    /// Its deletion is journalled: nothing of it may follow that.
    is_deleted: bool,
    /// Up to here entries promise a sync, whatever the configuration says now.
    fsync_through: Option<Lsn>,
    offline: Option<String>,
    /// Part of the stored state: acknowledged data was lost, so no restart heals this.
    fault: Option<String>,
    watchers: BTreeMap<WatchId, Rc<Notify>>,
    /// Held while segments are written or truncated: one at a time.
    flushing: bool,
}

/// A batch that passed its checks.
#[derive(Debug)]
pub enum Admission {
    /// To be appended.
    New(BatchSummary),
    /// It is in the log already, at this offset and (if any) with this LogAppendTime.
    Duplicate {
        /// Where the original begins.
        base_offset: Offset,
        /// The original's LogAppendTime.
        log_append_time_ms: Option<i64>,
    },
}

/// What an append did.
#[derive(Debug, Clone, Copy)]
pub struct Appended {
    /// Its place in the journal.
    pub lsn: Lsn,
    /// Offset of the first record.
    pub base: Offset,
    /// Offset after the last record.
    pub next: Offset,
    /// Set when the topic uses LogAppendTime.
    pub log_append_time_ms: Option<i64>,
}

impl Partition {
    /// Takes over a partition whose journalled state is `state`, with the batches that are not in
    /// segments yet.
    pub fn new(
        state: PartitionState,
        tail: Vec<TailBatch>,
        state_lsn: Option<Lsn>,
        log: Rc<SegmentLog>,
        config: Rc<TopicConfig>,
    ) -> Self {
        let unit_since_ms = tail.first().map(|batch| batch.max_timestamp_ms).filter(|time| *time >= 0);
        let mut partition = Self {
            target: state.target,
            config,
            leader_epoch: LeaderEpoch(0),
            isr_len: 1,
            log_start: state.log_start,
            log_end: state.log_end,
            high_watermark: state.log_end,
            cleaned_to: state.cleaned_to,
            epochs: state.epochs,
            producers: state.producers,
            tail: Tail::default(),
            appended_bytes: 0,
            log,
            state_lsn,
            log_start_lsn: None,
            unit_since_ms,
            is_deleted: false,
            fsync_through: None,
            offline: state.fault.clone(),
            fault: state.fault,
            watchers: BTreeMap::new(),
            flushing: false,
        };
        // An older program kept those of which no record is left.
        partition.epochs.start_at(partition.log_start);
        for batch in tail {
            partition.tail.push(batch);
        }
        partition
    }

    /// Which partition this is.
    pub fn target(&self) -> TopicPartition {
        self.target
    }

    /// The topic's effective configuration.
    pub fn config(&self) -> &Rc<TopicConfig> {
        &self.config
    }

    /// Its segments.
    pub fn log(&self) -> &Rc<SegmentLog> {
        &self.log
    }

    /// The first offset that exists.
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// Exclusive end of the log.
    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    /// Exclusive end of what consumers may see.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Exclusive end of what `read_committed` consumers may see. There are no transactions yet, so
    /// none is ever open.
    pub fn last_stable_offset(&self) -> Offset {
        self.high_watermark
    }

    /// Bytes of the batches that were appended since the start.
    pub fn appended_bytes(&self) -> u64 {
        self.appended_bytes
    }

    /// The newest batches.
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// The newest batches, to evict from or to mark as flushed.
    pub fn tail_mut(&mut self) -> &mut Tail {
        &mut self.tail
    }

    /// The epoch of the record at `offset`.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.epochs.epoch_at(offset)
    }

    /// What metadata says of this partition now. `newest` is the newest journal entry.
    pub fn set_leadership(
        &mut self,
        leader_epoch: LeaderEpoch,
        isr_len: usize,
        config: Rc<TopicConfig>,
        newest: Option<Lsn>,
    ) {
        if self.config.durability == Durability::Fsync && config.durability == Durability::Write {
            self.fsync_through = newest;
        }
        self.leader_epoch = leader_epoch;
        self.isr_len = isr_len;
        self.config = config;
    }

    /// How durable a record has to be that is appended now, `synced` being the exclusive end of what
    /// the journal has synced. After a change from `fsync` to `write`, records go on waiting for the
    /// sync until everything from before is synced: the high watermark must not pass over records
    /// that promised to be on disk when they can be read.
    pub fn durability(&self, synced: Lsn) -> Durability {
        match self.fsync_through {
            Some(lsn) if lsn >= synced => Durability::Fsync,
            Some(_) | None => self.config.durability,
        }
    }

    /// The producers that are remembered, in the order of their ids.
    pub fn producers(&self) -> Vec<ActiveProducer> {
        let active = self.producers.iter().filter_map(|(producer_id, producer)| {
            Some(ActiveProducer {
                producer_id,
                epoch: producer.epoch,
                last_sequence: producer.batches.back()?.last_sequence,
                last_write_ms: producer.last_write_ms,
            })
        });
        active.collect()
    }

    /// Why the partition serves nothing, if so.
    pub fn offline(&self) -> Option<&str> {
        self.offline.as_deref()
    }

    /// Takes the partition out of service and wakes who waits for it.
    pub fn take_offline(&mut self, reason: &str) {
        self.offline.get_or_insert_with(|| reason.to_owned());
        self.wake_watchers();
    }

    /// Takes the partition out of service for good: the fault is part of its stored state.
    pub fn set_fault(&mut self, reason: &str) {
        self.fault.get_or_insert_with(|| reason.to_owned());
        self.take_offline(reason);
    }

    /// Checks that the partition can answer a client that knows `current` as its leader epoch.
    pub fn check_serving(&self, current: Option<LeaderEpoch>) -> Result<(), PartitionError> {
        if let Some(reason) = &self.offline {
            return Err(PartitionError::Offline(reason.clone()));
        }
        match current {
            Some(epoch) if epoch < self.leader_epoch => Err(PartitionError::FencedLeaderEpoch),
            Some(epoch) if epoch > self.leader_epoch => Err(PartitionError::UnknownLeaderEpoch),
            Some(_) | None => Ok(()),
        }
    }

    /// Checks a batch from a client. Changes nothing.
    pub fn admit(
        &self,
        acks: Acks,
        batch: &[u8],
        now_ms: i64,
        scratch: &mut Scratch,
    ) -> Result<Admission, ProduceError> {
        if let Some(reason) = &self.offline {
            return Err(refusal(ErrorCode::KafkaStorageError, reason.clone()));
        }
        if acks == Acks::All && self.isr_len < self.config.min_insync_replicas {
            let message = format!(
                "{} in-sync replicas, min.insync.replicas is {}",
                self.isr_len, self.config.min_insync_replicas
            );
            return Err(refusal(ErrorCode::NotEnoughReplicas, message));
        }
        let rules = self.config.produce_rules();
        let summary = check_batch(batch, &rules, now_ms, scratch).map_err(|error| ProduceError {
            record_indexes: blamed_records(batch, &rules, now_ms, scratch, &error),
            ..refusal(error.code(), error.to_string())
        })?;
        if summary.header.is_transactional() {
            let message = "transactions are not served yet".to_owned();
            return Err(refusal(ErrorCode::InvalidTxnState, message));
        }
        if !summary.header.has_producer_id() {
            return Ok(Admission::New(summary));
        }
        match self.producers.check(&summary.header).map_err(bad_sequence)? {
            Verdict::Next => Ok(Admission::New(summary)),
            Verdict::Duplicate(seen) => Ok(Admission::Duplicate {
                base_offset: seen.base_offset,
                log_append_time_ms: (seen.log_append_time_ms >= 0).then_some(seen.log_append_time_ms),
            }),
        }
    }

    /// An admitted batch as the topic keeps it: in the codec of `compression.type`.
    ///
    /// # Errors
    /// In that codec it is larger than `max.message.bytes`, or the codec failed.
    pub fn in_codec(
        &self,
        bytes: BytesMut,
        summary: &BatchSummary,
        scratch: &mut Scratch,
    ) -> Result<BytesMut, ProduceError> {
        let Some(to) = self.config.compression.filter(|to| to.codec != summary.codec) else {
            return Ok(bytes);
        };
        let limit_bytes = self.config.produce_rules().max_decompressed_bytes;
        let batch = BatchRef { header: summary.header, bytes: &bytes };
        let made = batch::recompress(&batch, to, limit_bytes, scratch)
            .map_err(|error| refusal(ErrorCode::UnknownServerError, error.to_string()))?;
        let (size_bytes, max_bytes) = (made.len(), self.config.max_message_bytes);
        if size_bytes > max_bytes {
            let error = RecordError::TooLarge { size_bytes, max_bytes };
            return Err(refusal(error.code(), error.to_string()));
        }
        Ok(made)
    }

    /// Gives an admitted batch its offsets and journals it. The bytes are patched here, before
    /// anything else can see them.
    pub fn append(
        &mut self,
        mut bytes: BytesMut,
        summary: &BatchSummary,
        now_ms: i64,
        journal: &Journal,
    ) -> Appended {
        let base = self.log_end;
        batch::set_base_offset(&mut bytes, base.0);
        batch::set_leader_epoch(&mut bytes, self.leader_epoch.0);
        let log_append_time_ms = self.config.is_log_append_time().then_some(now_ms);
        if let Some(time) = log_append_time_ms {
            batch::set_log_append_time(&mut bytes, time);
        } else if summary.header.max_timestamp != summary.max_timestamp {
            batch::set_max_timestamp(&mut bytes, summary.max_timestamp);
        }
        if self.log_end <= self.position().segment_base {
            self.unit_since_ms = Some(now_ms);
        }
        let header = BatchHeader::parse(&bytes).expect("a checked batch has a header");
        let lsn = self.journal_batch(&header, bytes.freeze(), journal);
        self.producers.note(&header, now_ms);
        Appended { lsn, base, next: self.log_end, log_append_time_ms }
    }

    fn journal_batch(&mut self, header: &BatchHeader, bytes: Bytes, journal: &Journal) -> Lsn {
        let base = self.log_end;
        let next = Offset(header.next_offset());
        let lsn = journal.append(Entry {
            kind: EntryKind::Append,
            target: self.target,
            base_offset: base,
            leader_epoch: self.leader_epoch,
            payload: bytes.clone(),
        });
        self.epochs.note(self.leader_epoch, base);
        self.appended_bytes += bytes.len() as u64;
        self.tail.push(TailBatch {
            base,
            next,
            lsn,
            leader_epoch: self.leader_epoch,
            max_timestamp_ms: header.max_timestamp,
            bytes,
        });
        self.state_lsn.get_or_insert(lsn);
        self.log_end = next;
        lsn
    }

    /// Everything below `end` is durable now.
    pub fn advance_high_watermark(&mut self, end: Offset) {
        // A truncation may have overtaken the append whose durability this reports.
        let end = end.min(self.log_end);
        if end > self.high_watermark {
            self.high_watermark = end;
            self.wake_watchers();
        }
    }

    /// See [`PartitionState::cleaned_to`].
    pub fn cleaned_to(&self) -> Offset {
        self.cleaned_to
    }

    /// Compaction has come so far.
    pub fn set_cleaned_to(&mut self, cleaned_to: Offset) {
        assert!(cleaned_to <= self.log_end, "what is cleaned is in the log");
        self.cleaned_to = cleaned_to;
    }

    /// The producers that are remembered, in the order of their ids, and where the last batch of each
    /// begins.
    pub fn last_batches(&self) -> Vec<(i64, Offset)> {
        let last =
            |(id, producer): (i64, &producers::Producer)| Some((id, producer.batches.back()?.base_offset));
        self.producers.iter().filter_map(last).collect()
    }

    /// Registers a waiter for the next change.
    pub fn watch(&mut self, id: WatchId, notify: Rc<Notify>) {
        self.watchers.insert(id, notify);
    }

    /// Removes a waiter.
    pub fn unwatch(&mut self, id: WatchId) {
        self.watchers.remove(&id);
    }

    fn wake_watchers(&mut self) {
        for notify in self.watchers.values() {
            notify.notify_one();
        }
    }

    /// The answer to OffsetForLeaderEpoch.
    pub fn epoch_end(&self, asked: LeaderEpoch) -> EpochEnd {
        self.epochs.end_of(asked, self.leader_epoch, self.log_end)
    }

    /// The oldest journal entry that this partition needs.
    pub fn needed_from(&self) -> Option<Lsn> {
        match (self.state_lsn, self.tail.needed_from()) {
            (Some(state), Some(tail)) => Some(state.min(tail)),
            (state, tail) => state.or(tail),
        }
    }

    /// The state as of now, as a checkpoint holds it.
    pub fn state(&self) -> PartitionState {
        PartitionState {
            target: self.target,
            position: self.position(),
            log_start: self.log_start,
            log_end: self.log_end,
            high_watermark: self.high_watermark,
            cleaned_to: self.cleaned_to,
            swaps: self.log.swaps(),
            epochs: self.epochs.clone(),
            producers: self.producers.clone(),
            fault: self.fault.clone(),
        }
    }

    /// What the segments hold, synced.
    pub fn position(&self) -> SegmentPosition {
        self.log.position()
    }

    /// The journal entry at `lsn` holds the state as of now. It relies on the entries of whatever
    /// is not in segments now, also when that gets there later: the stored position is today's.
    pub fn state_stored(&mut self, lsn: Lsn) {
        self.state_lsn = Some(self.tail.needed_from().map_or(lsn, |tail| tail.min(lsn)));
    }

    /// Forgets producers that have been silent for too long.
    pub fn expire_producers(&mut self, now_ms: i64) {
        self.producers.expire(now_ms);
    }

    /// Moves the log start; the caller has journalled it in the entry at `lsn`. Bounded by the high
    /// watermark.
    pub fn set_log_start(&mut self, log_start: Offset, lsn: Lsn) {
        assert!(log_start <= self.high_watermark, "a log never starts beyond its high watermark");
        self.log_start = self.log_start.max(log_start);
        self.log_start_lsn = Some(lsn);
        self.epochs.start_at(self.log_start);
        self.log.set_log_start(self.log_start);
    }

    /// The entry that moved the log start last, in this run: it may not be synced yet.
    pub fn log_start_lsn(&self) -> Option<Lsn> {
        self.log_start_lsn
    }

    /// The acknowledged records that are not in segments, for retention. `enough_ms`: a timestamp
    /// that is as good as any later one.
    pub fn unflushed(&mut self, enough_ms: i64, now_ms: i64) -> Unflushed {
        // Unknown after a restart without a tail: the age counts from the first look.
        let since_ms = (*self.unit_since_ms.get_or_insert(now_ms)).min(now_ms);
        Unflushed {
            end: self.high_watermark,
            bytes: self.tail.unflushed_bytes() as u64,
            newest_ms: self.tail.newest_unflushed_ms(enough_ms),
            since_ms,
        }
    }

    /// A flush has closed the active segment: what it left begins at about this time.
    pub fn rolled(&mut self, now_ms: i64) {
        self.unit_since_ms = Some(now_ms);
    }

    /// Forgets records at and after `end`; the caller has journalled it. The segments may need a
    /// truncation of their own when `end` is below [`Partition::position`].
    pub fn truncate_to(&mut self, end: Offset) {
        self.tail.truncate_to(end);
        self.log_end = end;
        self.high_watermark = self.high_watermark.min(end);
        self.cleaned_to = self.cleaned_to.min(end);
        self.epochs.truncate_to(end);
        self.producers.truncate_to(end);
        self.wake_watchers();
    }

    /// Forgets what is in memory: the partition was deleted, its journal entries are not needed.
    pub fn drop_tail(&mut self) {
        self.tail = Tail::default();
        self.state_lsn = None;
        self.is_deleted = true;
    }

    /// Whether its deletion is journalled. A state behind that would bring it back.
    pub fn is_deleted(&self) -> bool {
        self.is_deleted
    }

    /// Claims the right to write this partition's segments; `false` while somebody else has it.
    pub fn begin_flush(&mut self) -> bool {
        !std::mem::replace(&mut self.flushing, true)
    }

    /// Whether somebody has it.
    pub fn is_flushing(&self) -> bool {
        self.flushing
    }

    /// Gives that right back.
    pub fn end_flush(&mut self) {
        assert!(self.flushing, "a flush ends once");
        self.flushing = false;
    }
}

/// A refusal that blames no single record.
pub fn refusal(code: ErrorCode, message: String) -> ProduceError {
    ProduceError { code, message, record_indexes: Vec::new() }
}

fn bad_sequence(error: SequenceError) -> ProduceError {
    let code = match error {
        SequenceError::OldEpoch { .. } => ErrorCode::InvalidProducerEpoch,
        SequenceError::OutOfOrder { .. } => ErrorCode::OutOfOrderSequenceNumber,
    };
    refusal(code, error.to_string())
}
