//! What passes through a shard and where its time goes. Written on the shard, also for requests that
//! it forwards to others; read when its numbers are asked for.

use bytes::Bytes;

use crate::metric::{Counter, Histogram, Snapshot};
use crate::types::Durability;

/// Records that were appended.
#[derive(Debug, Default)]
struct Produced {
    batches: Counter,
    records: Counter,
    bytes: Counter,
}

/// Reads of a partition that gave records.
#[derive(Debug, Default)]
struct Reads {
    reads: Counter,
    batches: Counter,
    bytes: Counter,
}

/// Where records came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The tail in memory.
    Memory,
    /// Segments.
    Segments,
}

/// A shard's own measurements.
#[derive(Debug)]
pub(crate) struct Stages {
    /// Produces that waited for room in the journal: for how long.
    pub(super) park: Histogram,
    /// Requests to other shards: on the way there and back, without what that shard did.
    pub(crate) forward: Histogram,
    /// Reads from segments.
    pub(super) segment_read: Histogram,
    /// Flushes of a partition's tail to its segments, behind the journal.
    pub(super) segment_flush: Histogram,
    pub(super) flushed_bytes: Counter,
    /// By durability mode.
    produced: [Produced; DURABILITIES.len()],
    memory: Reads,
    segments: Reads,
}

/// The modes, in the order of their numbers.
const DURABILITIES: [Durability; 2] = [Durability::Fsync, Durability::Write];

impl Stages {
    pub(super) fn new() -> Self {
        Self {
            park: Histogram::of_durations(),
            forward: Histogram::of_durations(),
            segment_read: Histogram::of_durations(),
            segment_flush: Histogram::of_durations(),
            flushed_bytes: Counter::default(),
            produced: Default::default(),
            memory: Reads::default(),
            segments: Reads::default(),
        }
    }

    /// A batch was appended.
    pub(super) fn produced(&self, durability: Durability, records: i32, bytes: usize) {
        let produced = &self.produced[durability as usize];
        produced.batches.add(1);
        produced.records.add(u64::try_from(records).unwrap_or(0));
        produced.bytes.add_len(bytes);
    }

    /// A partition was read. One that had nothing to give counts only if segments were looked at.
    pub(super) fn read(&self, source: Source, batches: &[Bytes]) {
        let reads = match source {
            Source::Memory if batches.is_empty() => return,
            Source::Memory => &self.memory,
            Source::Segments => &self.segments,
        };
        reads.reads.add(1);
        reads.batches.add_len(batches.len());
        reads.bytes.add_len(batches.iter().map(Bytes::len).sum());
    }

    pub(super) fn stats(&self) -> StageStats {
        StageStats {
            park: self.park.snapshot(),
            forward: self.forward.snapshot(),
            segment_read: self.segment_read.snapshot(),
            segment_flush: self.segment_flush.snapshot(),
            flushed_bytes: self.flushed_bytes.get(),
            produced: DURABILITIES.map(|durability| {
                let produced = &self.produced[durability as usize];
                ProducedStats {
                    durability,
                    batches: produced.batches.get(),
                    records: produced.records.get(),
                    bytes: produced.bytes.get(),
                }
            }),
            memory: self.memory.stats(),
            segments: self.segments.stats(),
        }
    }
}

impl Reads {
    fn stats(&self) -> ReadStats {
        ReadStats { reads: self.reads.get(), batches: self.batches.get(), bytes: self.bytes.get() }
    }
}

/// What was appended in one durability mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProducedStats {
    /// The topics' mode.
    pub durability: Durability,
    /// Batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Their bytes, as stored.
    pub bytes: u64,
}

/// What was read from one source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// Reads of one partition.
    pub reads: u64,
    /// Batches that they gave.
    pub batches: u64,
    /// Bytes of these.
    pub bytes: u64,
}

/// A shard's stages since its start, as of one moment.
#[derive(Debug, Clone, Default)]
pub struct StageStats {
    /// Produces that waited for room in the journal.
    pub park: Snapshot,
    /// Requests to other shards, without their work.
    pub forward: Snapshot,
    /// Reads from segments.
    pub segment_read: Snapshot,
    /// Flushes to segments.
    pub segment_flush: Snapshot,
    /// Records that flushes took out of the backlog, in bytes.
    pub flushed_bytes: u64,
    /// What was appended.
    pub produced: [ProducedStats; DURABILITIES.len()],
    /// What was read from the tail in memory.
    pub memory: ReadStats,
    /// What was read from segments.
    pub segments: ReadStats,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_modes_are_in_the_order_of_their_numbers() {
        for (index, durability) in DURABILITIES.into_iter().enumerate() {
            assert_eq!(durability as usize, index);
        }
    }

    #[test]
    fn an_empty_read_is_neither_hit_nor_miss() {
        let stages = Stages::new();
        stages.read(Source::Memory, &[]);
        assert_eq!(stages.stats().memory, ReadStats::default());
        stages.read(Source::Memory, &[Bytes::from_static(b"abc"), Bytes::from_static(b"de")]);
        assert_eq!(stages.stats().memory, ReadStats { reads: 1, batches: 2, bytes: 5 });
        stages.read(Source::Segments, &[]);
        assert_eq!(stages.stats().segments, ReadStats { reads: 1, batches: 0, bytes: 0 });
    }
}
