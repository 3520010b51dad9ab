//! Produce: offsets for batches, and the one fault.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use corelog_protocol::batch::{BatchIter, BatchRef};
use corelog_protocol::error::ErrorCode;
use corelog_protocol::produce::{
    ProducePartition, ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopicResponse,
};

use super::fault::{self, Faulty};
use super::log::{Full, Log, Partition};
use super::topics::Topic;
use super::{Event, FaultPlan, Shared, add};

/// The fault while it waits for its record.
pub(super) struct Trap {
    plan: FaultPlan,
    is_armed: AtomicBool,
    is_refusal_said: AtomicBool,
}

impl Trap {
    pub(super) fn new(plan: FaultPlan) -> Self {
        Self { plan, is_armed: AtomicBool::new(true), is_refusal_said: AtomicBool::new(false) }
    }

    /// The batch with the fault, if its time has come; it has the records numbered
    /// `[first, first + count)` from 0. Gives the record's number, too.
    fn spring(&self, shared: &Shared, batch: &BatchRef<'_>, first: u64, count: u32) -> Option<(Faulty, u64)> {
        let record = (self.plan.at_record - 1).max(first);
        let position = u32::try_from(record - first).ok().filter(|position| *position < count)?;
        if !self.is_armed.swap(false, Ordering::SeqCst) {
            return None;
        }
        match fault::plant(self.plan.fault, batch, position, self.plan.at_record) {
            Ok(faulty) => Some((faulty, record + 1)),
            Err(reason) => {
                self.is_armed.store(true, Ordering::SeqCst);
                if !self.is_refusal_said.swap(true, Ordering::SeqCst) {
                    (shared.notify)(Event::NotPlanted { fault: self.plan.fault, reason });
                }
                None
            }
        }
    }
}

/// Answers a produce. `before_waiting` is called when that takes longer, for answers that are ready
/// to be sent first.
///
/// # Errors
/// Those of `before_waiting`.
pub(super) fn serve<E>(
    shared: &Shared,
    request: &ProduceRequest<&[u8]>,
    mut before_waiting: impl FnMut() -> Result<(), E>,
) -> Result<ProduceResponse, E> {
    shared.stalls.produced();
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let mut topics = Vec::with_capacity(request.topics.len());
    for asked in &request.topics {
        let topic = shared.topics.named(&asked.name);
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for partition in &asked.partitions {
            let appended = match &topic {
                Some(topic) => append(shared, topic, partition, timeout, &mut before_waiting)?,
                None => Err(ErrorCode::UnknownTopicOrPartition),
            };
            partitions.push(match appended {
                Ok((base, start)) => ProducePartitionResponse::appended(partition.index, base, start),
                Err(code) => ProducePartitionResponse::failed(partition.index, code),
            });
        }
        topics.push(ProduceTopicResponse { name: asked.name.clone(), partitions });
    }
    add(&shared.counters.produces, 1);
    if shared.options.retain_bytes > 0 {
        shared.arrivals.tell();
    }
    Ok(ProduceResponse { topics, ..ProduceResponse::default() })
}

type Appended = Result<(i64, i64), ErrorCode>;

/// Base offset of what was appended, and the first offset of the partition.
fn append<E>(
    shared: &Shared,
    topic: &Topic,
    produced: &ProducePartition<&[u8]>,
    timeout: Duration,
    before_waiting: &mut impl FnMut() -> Result<(), E>,
) -> Result<Appended, E> {
    let Some(partition) = topic.partition(produced.index) else {
        return Ok(Err(ErrorCode::UnknownTopicOrPartition));
    };
    if let Err(code) = check(produced.records) {
        return Ok(Err(code));
    }
    let mut log = match reserve(shared, partition, produced.records.len(), timeout, before_waiting)? {
        Ok(log) => log,
        Err(Full::TimedOut) => return Ok(Err(ErrorCode::RequestTimedOut)),
        Err(Full::Closed) => return Ok(Err(ErrorCode::UnknownTopicOrPartition)),
    };
    let base_offset = log.next_offset();
    for batch in BatchIter::new(produced.records).flatten() {
        append_batch(shared, topic, produced.index, &mut log, &batch);
    }
    add(&shared.counters.bytes, u64::try_from(produced.records.len()).unwrap_or(0));
    Ok(Ok((base_offset, log.start_offset())))
}

/// As far as offsets depend on it: whole batches, each with as many offsets as records.
fn check(records: &[u8]) -> Result<(), ErrorCode> {
    if records.is_empty() {
        return Err(ErrorCode::InvalidRecord);
    }
    for batch in BatchIter::new(records) {
        let header = batch.map_err(|_| ErrorCode::CorruptMessage)?.header;
        if header.record_count < 1 || header.last_offset_delta != header.record_count - 1 {
            return Err(ErrorCode::InvalidRecord);
        }
    }
    Ok(())
}

fn reserve<'a, E>(
    shared: &Shared,
    partition: &'a Partition,
    bytes: usize,
    timeout: Duration,
    before_waiting: &mut impl FnMut() -> Result<(), E>,
) -> Result<Result<MutexGuard<'a, Log>, Full>, E> {
    let retain_bytes = shared.options.retain_bytes;
    if let Some(log) = partition.try_reserve(bytes, retain_bytes) {
        return Ok(Ok(log));
    }
    before_waiting()?;
    // What this request has appended already can be what everybody waits for.
    shared.arrivals.tell();
    Ok(partition.reserve(bytes, retain_bytes, Instant::now() + timeout))
}

fn append_batch(shared: &Shared, topic: &Topic, partition: i32, log: &mut Log, batch: &BatchRef<'_>) {
    let count = batch.header.record_count.unsigned_abs();
    let first = add(&shared.counters.records, u64::from(count));
    if shared.options.retain_bytes == 0 {
        return log.count(count);
    }
    let sprung = shared.trap.as_ref().and_then(|trap| trap.spring(shared, batch, first, count));
    let Some((faulty, record)) = sprung else {
        return log.keep(BytesMut::from(batch.bytes), count);
    };
    let offset = log.next_offset() + i64::from(faulty.position);
    if !faulty.batch.is_empty() {
        log.keep(faulty.batch, faulty.records);
    }
    let fault = shared.trap.as_ref().expect("it has sprung").plan.fault;
    (shared.notify)(Event::Planted { fault, topic: topic.name.clone(), partition, offset, record });
}
