//! Appending batches: admission, journal, and the wait for durability.

use std::future::Future;
use std::rc::Rc;

use corelog_protocol::error::ErrorCode;
use corelog_runtime::time::{self, Instant};
use tokio::sync::oneshot;

use super::{PartitionCell, Shard};
use crate::api::{Acks, PartitionError, ProduceError, ProduceOutcome, ProducePart, Produced};
use crate::journal::JournalFull;
use crate::partition::{Admission, refusal};
use crate::types::{Durability, Lsn};

/// At most so many produces wait for room in the journal; more are refused. Connections bound what
/// each of them has in flight, so this is reached only by very many of them.
const PARKED_MAX: usize = 65_536;

/// A produce that waits for room.
pub(super) struct Parked {
    acks: Acks,
    parts: Vec<ProducePart>,
    since: Instant,
    done: oneshot::Sender<Appending>,
}

/// A produce whose batches were appended or refused.
struct Appending {
    outcomes: Vec<ProduceOutcome>,
    durable: Vec<oneshot::Receiver<()>>,
}

impl Shard {
    /// Appends batches; they are in the journal's queue, in order, when this returns. The future
    /// resolves when they are as durable as `acks` and their topics ask.
    pub fn produce(
        self: &Rc<Self>,
        acks: Acks,
        parts: Vec<ProducePart>,
    ) -> impl Future<Output = Vec<ProduceOutcome>> + 'static {
        let count = parts.len();
        let started = if self.parked.borrow().is_empty() && self.has_room() {
            Ok(self.append_all(acks, parts))
        } else {
            self.park(acks, parts)
        };
        async move {
            let appending = match started {
                Ok(appending) => appending,
                Err(parked) => match parked.await {
                    Ok(appending) => appending,
                    // The shard has stopped.
                    Err(_) => {
                        let stopping = || Err(partition_refusal(&PartitionError::Stopping));
                        return std::iter::repeat_with(stopping).take(count).collect();
                    }
                },
            };
            appending.finish().await
        }
    }

    /// Whether an append may go on now. A fenced or full journal "has room": the append is refused
    /// with its reason instead of waiting for what may never come.
    fn has_room(&self) -> bool {
        let unflushed = self.unflushed_bytes.get() < self.options.unflushed_bytes_max;
        let queued = self.journal.queued_bytes() < self.options.journal_queue_bytes_max;
        let soft_limit = matches!(self.journal.full(), Some(JournalFull::Files));
        self.fault.borrow().is_some()
            || self.stopping.get()
            || self.is_disk_full()
            || (unflushed && queued && !soft_limit)
    }

    fn park(&self, acks: Acks, parts: Vec<ProducePart>) -> Result<Appending, oneshot::Receiver<Appending>> {
        let mut parked = self.parked.borrow_mut();
        if parked.len() >= PARKED_MAX {
            let busy = || refusal(ErrorCode::RequestTimedOut, "the journal is busy; try again".to_owned());
            let outcomes = parts.iter().map(|_| Err(busy())).collect();
            return Ok(Appending { outcomes, durable: Vec::new() });
        }
        let (done, receiver) = oneshot::channel();
        parked.push_back(Parked { acks, parts, since: Instant::now(), done });
        Err(receiver)
    }

    /// Lets waiting produces go on, in order, as far as there is room.
    pub(super) fn retry_parked(self: &Rc<Self>) {
        while self.has_room() {
            let Some(parked) = self.parked.borrow_mut().pop_front() else { return };
            self.stages.park.record_since(parked.since);
            let appending = self.append_all(parked.acks, parked.parts);
            // The connection may be gone; the records are in the log all the same.
            let _ = parked.done.send(appending);
        }
    }

    fn append_all(self: &Rc<Self>, acks: Acks, parts: Vec<ProducePart>) -> Appending {
        let now_ms = time::unix_time_ms();
        let mut newest: [Option<Lsn>; 2] = [None, None];
        let mut outcomes = Vec::with_capacity(parts.len());
        for part in parts {
            let outcome = self.append_one(acks, part, now_ms).map(|(produced, wait)| {
                if let Some((durability, lsn)) = wait {
                    let slot = &mut newest[durability as usize];
                    *slot = (*slot).max(Some(lsn));
                }
                produced
            });
            outcomes.push(outcome);
        }
        let mut durable = Vec::new();
        if acks != Acks::None {
            for durability in [Durability::Fsync, Durability::Write] {
                if let Some(lsn) = newest[durability as usize] {
                    durable.push(self.acks.wait(durability, lsn, &self.journal));
                }
            }
        }
        self.evict_over_budget();
        Appending { outcomes, durable }
    }

    /// Appends one batch, or finds the original of a repeat. The second value says what to wait for.
    fn append_one(
        self: &Rc<Self>,
        acks: Acks,
        part: ProducePart,
        now_ms: i64,
    ) -> Result<(Produced, Option<(Durability, Lsn)>), ProduceError> {
        let cell = self.partition(&part.target).map_err(|error| partition_refusal(&error))?;
        if self.is_disk_full() {
            return Err(partition_refusal(&PartitionError::DiskFull));
        }
        let mut partition = cell.borrow_mut();
        let durability = partition.durability(self.journal.progress().synced);
        let log_start_offset = partition.log_start();
        let admission = partition.admit(acks, &part.batch, now_ms, &mut self.scratch.borrow_mut())?;
        let summary = match admission {
            Admission::New(summary) => summary,
            Admission::Duplicate { base_offset, log_append_time_ms } => {
                // The original may still be on its way to the disk: wait for everything before now.
                let newest = self.journal.last_appended();
                let durable = base_offset < partition.high_watermark();
                let wait = newest.filter(|_| !durable).map(|lsn| (durability, lsn));
                return Ok((Produced { base_offset, log_append_time_ms, log_start_offset }, wait));
            }
        };
        let batch = partition.in_codec(part.batch, &summary, &mut self.scratch.borrow_mut())?;
        if batch.len() > self.journal.max_entry_bytes() {
            let message = format!("a batch can have {} bytes at most", self.journal.max_entry_bytes());
            return Err(refusal(ErrorCode::MessageTooLarge, message));
        }
        let (size_bytes, records) = (batch.len(), summary.header.record_count);
        let appended = partition.append(batch, &summary, now_ms, &self.journal);
        let wants_flush = partition.tail().unflushed_bytes() >= self.options.flush_chunk_bytes;
        drop(partition);
        self.stages.produced(durability, records, size_bytes);
        self.acks.watermark(durability, appended.lsn, Rc::clone(&cell), appended.next);
        self.tail_bytes.set(self.tail_bytes.get() + size_bytes);
        self.unflushed_bytes.set(self.unflushed_bytes.get() + size_bytes);
        self.appended_bytes.set(self.appended_bytes.get() + size_bytes as u64);
        if wants_flush {
            self.want_flush(cell);
        }
        if self.is_much_unflushed() {
            self.relief_wanted.notify_one();
        }
        let log_append_time_ms = appended.log_append_time_ms;
        let produced = Produced { base_offset: appended.base, log_append_time_ms, log_start_offset };
        Ok((produced, Some((durability, appended.lsn))))
    }

    /// Keeps what is in memory only as a cache within its budget.
    pub(super) fn evict_over_budget(&self) {
        let budget = self.options.tail_cache_bytes;
        let mut evictable = self.evictable.borrow_mut();
        while self.tail_bytes.get() > budget + self.unflushed_bytes.get() {
            let Some(cell) = evictable.pop_front() else { return };
            let freed = evict(&cell);
            self.tail_bytes.set(self.tail_bytes.get() - freed);
        }
    }
}

fn evict(cell: &PartitionCell) -> usize {
    cell.borrow_mut().tail_mut().evict_one()
}

impl Appending {
    async fn finish(mut self) -> Vec<ProduceOutcome> {
        for durable in self.durable {
            if durable.await.is_err() {
                for outcome in &mut self.outcomes {
                    if outcome.is_ok() {
                        let reason = "the journal failed before the records were durable".to_owned();
                        *outcome = Err(refusal(ErrorCode::KafkaStorageError, reason));
                    }
                }
            }
        }
        self.outcomes
    }
}

fn partition_refusal(error: &PartitionError) -> ProduceError {
    refusal(error.code(), error.to_string())
}
