//! Records into batches: what a producer has drawn and not sent yet, and what it sent.

use std::collections::VecDeque;

use anyhow::Result;
use bytes::Bytes;
use corelog_protocol::batch::{BatchBuilder, Codec};

/// A record's fields around its key and value take at most so much in a batch.
const RECORD_OVERHEAD_MAX: usize = 32;

/// An idempotent producer's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i16,
}

/// A batch that takes more records.
pub(super) struct OpenBatch {
    builder: BatchBuilder,
    intended_ns: Vec<u64>,
    bytes: u64,
    first_sequence: u64,
    pub(super) opened_ns: u64,
}

/// A batch that is complete: written once, sent perhaps more than once.
pub(super) struct ClosedBatch {
    /// Partition of the run.
    pub(super) part: usize,
    pub(super) batch: Bytes,
    /// When each of its records was to be sent.
    pub(super) intended_ns: Vec<u64>,
    /// Keys and values.
    pub(super) bytes: u64,
    /// Of the first record, among what this producer sends to the partition.
    pub(super) first_sequence: u64,
}

impl ClosedBatch {
    pub(super) fn records(&self) -> u64 {
        self.intended_ns.len() as u64
    }
}

/// How large batches get.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchLimits {
    pub(super) bytes: usize,
    pub(super) records: usize,
}

impl OpenBatch {
    pub(super) fn new(codec: Codec, opened_ns: u64, first_sequence: u64) -> Self {
        let builder = BatchBuilder::new().codec(codec);
        Self { builder, intended_ns: Vec::new(), bytes: 0, first_sequence, opened_ns }
    }

    /// Whether a record of this size goes in; the first one always does.
    pub(super) fn has_room(&self, bytes: usize, limits: BatchLimits) -> bool {
        let fits = self.builder.size_bytes() + bytes + RECORD_OVERHEAD_MAX <= limits.bytes;
        self.intended_ns.is_empty() || (fits && self.intended_ns.len() < limits.records)
    }

    /// Whether not even an empty record goes in.
    pub(super) fn is_full(&self, limits: BatchLimits) -> bool {
        !self.has_room(0, limits)
    }

    pub(super) fn push(&mut self, intended_ns: u64, timestamp_ms: i64, key: Option<&[u8]>, value: &[u8]) {
        self.builder.push(timestamp_ms, key, Some(value), &[]);
        self.intended_ns.push(intended_ns);
        self.bytes += (key.map_or(0, <[u8]>::len) + value.len()) as u64;
    }

    /// Closes it; with an identity it gets the next of the partition's `sequence` numbers.
    pub(super) fn close(
        mut self,
        part: usize,
        identity: Option<Identity>,
        sequence: &mut i32,
    ) -> Result<ClosedBatch> {
        if let Some(Identity { producer_id, producer_epoch }) = identity {
            let count = self.builder.record_count();
            self.builder = self.builder.producer(producer_id, producer_epoch, *sequence);
            *sequence = corelog_protocol::batch::add_to_sequence(*sequence, count);
        }
        Ok(ClosedBatch {
            part,
            batch: self.builder.build()?.freeze(),
            intended_ns: self.intended_ns,
            bytes: self.bytes,
            first_sequence: self.first_sequence,
        })
    }
}

/// The open batches of one producer to one leader, in the order in which they were opened.
#[derive(Default)]
pub(super) struct OpenOrder(VecDeque<usize>);

impl OpenOrder {
    pub(super) fn push(&mut self, part: usize) {
        self.0.push_back(part);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn first(&self) -> Option<usize> {
        self.0.front().copied()
    }

    /// Takes out, in order, the partitions that `take` accepts, while it says to go on.
    pub(super) fn take(&mut self, mut take: impl FnMut(usize) -> Take) {
        let mut at = 0;
        while let Some(part) = self.0.get(at).copied() {
            match take(part) {
                Take::Yes if at == 0 => drop(self.0.pop_front()),
                Take::Yes => drop(self.0.remove(at)),
                Take::No => at += 1,
                Take::Stop => return,
            }
        }
    }
}

/// What becomes of an open batch.
pub(super) enum Take {
    Yes,
    No,
    Stop,
}
