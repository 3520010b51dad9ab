//! A partition's newest batches, in memory.
//!
//! The front part may be in segments already: that part is a cache and can be evicted. The rest is
//! only in the journal, so it stays here until it is flushed. Pure data.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::types::{LeaderEpoch, Lsn, Offset};

/// One appended batch.
#[derive(Debug, Clone)]
pub struct TailBatch {
    /// Offset of its first record.
    pub base: Offset,
    /// Offset after its last record.
    pub next: Offset,
    /// The journal entry that holds it.
    pub lsn: Lsn,
    /// The epoch in which it was written.
    pub leader_epoch: LeaderEpoch,
    /// Its largest record timestamp.
    pub max_timestamp_ms: i64,
    /// The batch.
    pub bytes: Bytes,
}

/// Contiguous batches up to the log's end.
#[derive(Debug, Default)]
pub struct Tail {
    batches: VecDeque<TailBatch>,
    /// How many at the front are in segments.
    flushed: usize,
    unflushed_bytes: usize,
    bytes: usize,
}

impl Tail {
    /// Adds the next batch. It must start where the last one ends.
    pub fn push(&mut self, batch: TailBatch) {
        assert!(batch.base < batch.next, "a batch holds at least one record");
        if let Some(last) = self.batches.back() {
            assert!(last.next == batch.base, "tail batches are contiguous");
        }
        self.unflushed_bytes += batch.bytes.len();
        self.bytes += batch.bytes.len();
        self.batches.push_back(batch);
    }

    /// The first offset held, if any.
    pub fn first(&self) -> Option<Offset> {
        self.batches.front().map(|batch| batch.base)
    }

    /// Bytes that only the journal holds.
    pub fn unflushed_bytes(&self) -> usize {
        self.unflushed_bytes
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a batch can be evicted.
    pub fn has_evictable(&self) -> bool {
        self.flushed > 0
    }

    /// The journal position from which the journal is still needed.
    pub fn needed_from(&self) -> Option<Lsn> {
        self.batches.get(self.flushed).map(|batch| batch.lsn)
    }

    /// Batches that only the journal holds.
    pub fn unflushed(&self) -> impl DoubleEndedIterator<Item = &TailBatch> {
        self.batches.range(self.flushed..)
    }

    /// The largest timestamp of what only the journal holds, −1 without any. Whoever needs to know only
    /// that it is `enough` gets the first that is, from the newest on.
    pub fn newest_unflushed_ms(&self, enough: i64) -> i64 {
        let mut newest_ms = -1;
        for batch in self.unflushed().rev() {
            newest_ms = newest_ms.max(batch.max_timestamp_ms);
            if newest_ms >= enough {
                break;
            }
        }
        newest_ms
    }

    /// The journal entry at `lsn` now holds everything unflushed (a carry-forward).
    pub fn carried_to(&mut self, lsn: Lsn) {
        for batch in self.batches.range_mut(self.flushed..) {
            batch.lsn = lsn;
        }
    }

    /// Batches that end at or below `end` are in segments now. Returns how many that makes.
    pub fn flushed_to(&mut self, end: Offset) -> usize {
        let before = self.flushed;
        while let Some(batch) = self.batches.get(self.flushed)
            && batch.next <= end
        {
            self.unflushed_bytes -= batch.bytes.len();
            self.flushed += 1;
        }
        self.flushed - before
    }

    /// Drops the oldest batch that is in segments; returns its size.
    pub fn evict_one(&mut self) -> usize {
        if self.flushed == 0 {
            return 0;
        }
        let batch = self.batches.pop_front().expect("a flushed batch is in the tail");
        self.flushed -= 1;
        self.bytes -= batch.bytes.len();
        batch.bytes.len()
    }

    /// Drops batches that start at or after `end`. The caller has checked that `end` is a batch
    /// boundary or the tail's end.
    pub fn truncate_to(&mut self, end: Offset) {
        while self.batches.back().is_some_and(|batch| batch.base >= end) {
            let batch = self.batches.pop_back().expect("there is a last batch");
            self.bytes -= batch.bytes.len();
            if self.flushed > self.batches.len() {
                self.flushed = self.batches.len();
            } else {
                self.unflushed_bytes -= batch.bytes.len();
            }
        }
    }

    /// The batches from the one that contains `from`, as far as they end at or before `upto`.
    pub fn read(&self, from: Offset, upto: Offset) -> impl Iterator<Item = &TailBatch> {
        let start = self.batches.partition_point(|batch| batch.next <= from);
        self.batches.range(start..).take_while(move |batch| batch.next <= upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(sizes: &[i64]) -> Tail {
        let mut tail = Tail::default();
        let mut base = Offset(0);
        for (index, count) in sizes.iter().enumerate() {
            let next = base.plus(*count);
            tail.push(TailBatch {
                base,
                next,
                lsn: Lsn(index as u64),
                leader_epoch: LeaderEpoch(0),
                max_timestamp_ms: 0,
                bytes: Bytes::from(vec![0; 10]),
            });
            base = next;
        }
        tail
    }

    fn bases(tail: &Tail, from: i64, upto: i64) -> Vec<i64> {
        tail.read(Offset(from), Offset(upto)).map(|batch| batch.base.0).collect()
    }

    #[test]
    fn a_read_starts_with_the_batch_that_contains_the_offset() {
        let tail = tail(&[3, 4, 5]);
        assert_eq!(bases(&tail, 0, 12), [0, 3, 7]);
        assert_eq!(bases(&tail, 2, 12), [0, 3, 7]);
        assert_eq!(bases(&tail, 3, 12), [3, 7]);
        assert_eq!(bases(&tail, 4, 11), [3]);
        assert_eq!(bases(&tail, 12, 12), Vec::<i64>::new());
    }

    #[test]
    fn only_flushed_batches_are_evicted() {
        let mut tail = tail(&[3, 4, 5]);
        assert_eq!(tail.evict_one(), 0);
        tail.flushed_to(Offset(7));
        assert_eq!((tail.unflushed_bytes(), tail.needed_from()), (10, Some(Lsn(2))));
        assert_eq!(tail.evict_one(), 10);
        assert_eq!(tail.evict_one(), 10);
        assert_eq!(tail.evict_one(), 0);
        assert_eq!((tail.bytes(), tail.first()), (10, Some(Offset(7))));
    }

    #[test]
    fn truncation_takes_from_the_end_and_keeps_the_counts() {
        let mut tail = tail(&[3, 4, 5]);
        tail.flushed_to(Offset(7));
        tail.truncate_to(Offset(7));
        assert_eq!((tail.bytes(), tail.unflushed_bytes(), tail.needed_from()), (20, 0, None));
        tail.truncate_to(Offset(3));
        assert_eq!((tail.bytes(), tail.unflushed_bytes()), (10, 0));
        assert_eq!(tail.evict_one(), 10);
    }
}
