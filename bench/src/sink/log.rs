//! One partition of the sink: the next offset, and the last batches where the sink retains any.
//!
//! Owns the rule of who may lose what. A batch is kept while fewer than the retained bytes come
//! after it, and beyond that until every connection that reads the partition has asked for what
//! comes after it. So an appender waits while the ring is full of what nobody, or not everybody,
//! has read. A partition that nobody reads fills up and stays full.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use corelog_protocol::batch::{BatchHeader, set_base_offset, set_leader_epoch};

/// The sink has led every partition since ever.
pub(super) const LEADER_EPOCH: i32 = 0;

/// Which connection.
pub(super) type ConnectionId = u64;

/// A batch as it is read, and the offsets `[base_offset, next_offset)` that are its records'.
struct Stored {
    base_offset: i64,
    next_offset: i64,
    bytes: Bytes,
}

/// What a partition holds; reached through [`Partition`].
#[derive(Default)]
pub(super) struct Log {
    next_offset: i64,
    ring: VecDeque<Stored>,
    ring_bytes: usize,
    /// Where each connection that reads this has got to.
    readers: BTreeMap<ConnectionId, i64>,
    /// Everything below it was read by all who read this.
    read_to: i64,
    is_closed: bool,
}

/// A partition that several connections use.
#[derive(Default)]
pub(super) struct Partition {
    log: Mutex<Log>,
    room: Condvar,
}

/// Why nothing was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The time was up.
    TimedOut,
    /// The topic was deleted, or the sink stops.
    Closed,
}

/// What a fetch found.
pub(super) struct Found {
    pub(super) start_offset: i64,
    pub(super) next_offset: i64,
    /// `None` when the offset is not in `[start_offset, next_offset]`.
    pub(super) batches: Option<Vec<Bytes>>,
    /// Whether this connection has not read here before.
    pub(super) is_new_reader: bool,
}

impl Partition {
    fn lock(&self) -> MutexGuard<'_, Log> {
        // A thread that panicked inside has left a counter and a ring, each of which is whole.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log, if there is room for so many bytes now.
    pub(super) fn try_reserve(&self, bytes: usize, retain_bytes: usize) -> Option<MutexGuard<'_, Log>> {
        let mut log = self.lock();
        log.has_room(bytes, retain_bytes).then_some(log)
    }

    /// The log, as soon as there is room.
    pub(super) fn reserve(
        &self,
        bytes: usize,
        retain_bytes: usize,
        deadline: Instant,
    ) -> Result<MutexGuard<'_, Log>, Full> {
        let mut log = self.lock();
        loop {
            if log.has_room(bytes, retain_bytes) {
                return Ok(log);
            }
            if log.is_closed {
                return Err(Full::Closed);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Full::TimedOut);
            }
            log = self.room.wait_timeout(log, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Batches from `offset` on, at most `budget` bytes of them but for the first if `first_whole`.
    /// Notes how far this connection has read.
    pub(super) fn read(&self, reader: ConnectionId, offset: i64, budget: usize, first_whole: bool) -> Found {
        let mut log = self.lock();
        let (start_offset, next_offset) = (log.start_offset(), log.next_offset);
        if !(start_offset..=next_offset).contains(&offset) {
            return Found { start_offset, next_offset, batches: None, is_new_reader: false };
        }
        let before = log.readers.insert(reader, offset);
        if before.is_some_and(|before| before < offset) {
            self.room.notify_all();
        }
        let first = log.ring.partition_point(|stored| stored.next_offset <= offset);
        let mut left = budget;
        let mut batches = Vec::new();
        for stored in log.ring.range(first..) {
            if stored.bytes.len() > left && !(first_whole && batches.is_empty()) {
                break;
            }
            left = left.saturating_sub(stored.bytes.len());
            batches.push(stored.bytes.clone());
        }
        Found { start_offset, next_offset, batches: Some(batches), is_new_reader: before.is_none() }
    }

    /// That connection reads no more.
    pub(super) fn forget(&self, reader: ConnectionId) {
        let mut log = self.lock();
        log.note_what_is_read();
        log.readers.remove(&reader);
        self.room.notify_all();
    }

    /// First offset that can be read, and the next one that is given out.
    pub(super) fn bounds(&self) -> (i64, i64) {
        let log = self.lock();
        (log.start_offset(), log.next_offset)
    }

    /// Whoever waits for room waits no longer.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.room.notify_all();
    }
}

impl Log {
    pub(super) fn next_offset(&self) -> i64 {
        self.next_offset
    }

    pub(super) fn start_offset(&self) -> i64 {
        self.ring.front().map_or(self.next_offset, |stored| stored.base_offset)
    }

    fn note_what_is_read(&mut self) {
        if let Some(slowest) = self.readers.values().min() {
            self.read_to = self.read_to.max(*slowest);
        }
    }

    /// Makes room from what has been read. What is larger than the ring fits when nothing else is
    /// in it.
    fn has_room(&mut self, bytes: usize, retain_bytes: usize) -> bool {
        if retain_bytes == 0 || self.ring_bytes.saturating_add(bytes) <= retain_bytes {
            return true;
        }
        self.note_what_is_read();
        while self.ring_bytes.saturating_add(bytes) > retain_bytes {
            let Some(oldest) = self.ring.front() else {
                return true;
            };
            if oldest.next_offset > self.read_to {
                return false;
            }
            self.ring_bytes -= oldest.bytes.len();
            self.ring.pop_front();
        }
        true
    }

    /// Gives out offsets for a batch of which nothing is kept.
    pub(super) fn count(&mut self, records: u32) {
        self.next_offset += i64::from(records);
    }

    /// Gives out offsets for a batch and keeps it.
    pub(super) fn keep(&mut self, mut batch: BytesMut, records: u32) {
        debug_assert!(BatchHeader::parse(&batch).is_ok_and(|header| header.total_len() == batch.len()));
        let base_offset = self.next_offset;
        self.count(records);
        set_base_offset(&mut batch, base_offset);
        set_leader_epoch(&mut batch, LEADER_EPOCH);
        self.ring_bytes += batch.len();
        let (next_offset, bytes) = (self.next_offset, batch.freeze());
        self.ring.push_back(Stored { base_offset, next_offset, bytes });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use corelog_protocol::batch::BatchBuilder;

    use super::*;

    fn batch(records: u32) -> BytesMut {
        let mut builder = BatchBuilder::new();
        for _ in 0..records {
            builder.push(1, None, Some(b"value"), &[]);
        }
        builder.build().unwrap()
    }

    fn append(partition: &Partition, retain_bytes: usize) -> bool {
        let bytes = batch(2);
        match partition.try_reserve(bytes.len(), retain_bytes) {
            Some(mut log) => {
                log.keep(bytes, 2);
                true
            }
            None => false,
        }
    }

    #[test]
    fn what_is_kept_can_be_read_from_every_offset_with_its_own() {
        let partition = Partition::default();
        for _ in 0..3 {
            assert!(append(&partition, 10_000));
        }
        for offset in 0..=6 {
            let batches = partition.read(1, offset, 10_000, true).batches.unwrap();
            let bases: Vec<_> =
                batches.iter().map(|batch| BatchHeader::parse(batch).unwrap().base_offset).collect();
            let expected: Vec<i64> = [0, 2, 4].into_iter().filter(|base| base + 2 > offset).collect();
            assert_eq!(bases, expected);
        }
        assert!(partition.read(1, 7, 10_000, true).batches.is_none());
        assert!(partition.read(1, -1, 10_000, true).batches.is_none());
        assert_eq!(partition.read(1, 0, 1, true).batches.unwrap().len(), 1, "the first is always whole");
        assert_eq!(partition.read(1, 0, 1, false).batches.unwrap().len(), 0);
    }

    #[test]
    fn a_full_ring_holds_appenders_back_until_the_slowest_reader_has_read() {
        let retain_bytes = batch(2).len() * 2;
        let partition = Partition::default();
        assert!(append(&partition, retain_bytes) && append(&partition, retain_bytes));
        assert!(!append(&partition, retain_bytes), "nobody has read anything");
        partition.read(1, 4, 0, false);
        partition.read(2, 1, 0, false);
        assert!(!append(&partition, retain_bytes), "the second reader is inside the first batch");
        partition.read(2, 2, 0, false);
        assert!(append(&partition, retain_bytes));
        assert!(!append(&partition, retain_bytes));
        assert_eq!(partition.bounds(), (2, 6));
        partition.forget(2);
        assert!(append(&partition, retain_bytes), "who has left holds nobody back");
        partition.forget(1);
        assert!(!append(&partition, retain_bytes), "what nobody reads is kept");
        assert_eq!(partition.bounds(), (4, 8));
    }

    #[test]
    fn waiting_for_room_ends_with_room_or_time_or_the_sink() {
        let size = batch(2).len();
        let partition = Partition::default();
        assert!(append(&partition, size));
        let waiting = |limit| partition.reserve(size, size, Instant::now() + limit).map(drop);
        assert_eq!(waiting(Duration::from_millis(1)), Err(Full::TimedOut));
        let forever = Duration::from_secs(600);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| waiting(forever));
            partition.read(1, 0, 0, false);
            partition.read(1, 2, 0, false);
            assert_eq!(waits.join().unwrap(), Ok(()));
        });
        assert!(append(&partition, size));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| waiting(forever));
            partition.close();
            assert_eq!(waits.join().unwrap(), Err(Full::Closed));
        });
    }

    #[test]
    fn a_batch_that_is_larger_than_the_ring_fits_into_an_empty_one() {
        let partition = Partition::default();
        assert!(append(&partition, 1));
        assert!(!append(&partition, 1));
        assert!(append(&partition, usize::MAX));
    }
}
