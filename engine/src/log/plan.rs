//! What a flush writes where: which batches go to which segment, and which aligned bytes of it.
//! Pure: headers of batches in, positions out.

use std::ops::Range;

use corelog_protocol::batch::BatchHeader;
use corelog_runtime::fs::BLOCK_BYTES;

use super::header::HEADER_BYTES;
use super::index::Indexed;
use super::{Roll, SegmentOptions, SegmentPosition};
use crate::types::{LeaderEpoch, Offset};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A batch's first bytes, its base offset and its length. They are never all zero, so where they are,
/// a flush was padded.
pub(super) const TELLING_BYTES: usize = 12;

/// What a plan needs to know of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchPlace {
    pub(super) indexed: Indexed,
    pub(super) leader_epoch: LeaderEpoch,
}

impl BatchPlace {
    /// From a batch's header.
    pub(super) fn of(header: &BatchHeader) -> Self {
        // A look-up by time never answers with a control record, so its timestamp counts nowhere. Nor
        // does that of a batch whose records compaction removed.
        let has_records = header.record_count > 0 && !header.is_control();
        let timestamp_ms = if has_records { header.max_timestamp } else { -1 };
        Self {
            indexed: Indexed {
                base: Offset(header.base_offset),
                next: Offset(header.next_offset()),
                len: header.total_len() as u64,
                timestamp_ms,
            },
            leader_epoch: LeaderEpoch(header.leader_epoch),
        }
    }
}

/// One segment's share of a flush.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) segment_base: Offset,
    /// The batches that belong to this segment.
    pub(super) batches: Range<usize>,
    /// Where each of them begins in the file.
    pub(super) positions: Vec<u64>,
    /// Whole blocks to write; from 0, with the header block, where the file is new. May be empty.
    pub(super) write: Range<u64>,
    /// Whether the segment ends here.
    pub(super) closes: bool,
}

impl Piece {
    pub(super) fn is_new(&self) -> bool {
        self.write.start == 0
    }
}

/// A whole flush.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) pieces: Vec<Piece>,
    /// Where it ends, once everything is written and synced.
    pub(super) end: SegmentPosition,
}

/// A segment while its share grows.
struct Growing {
    base: Offset,
    first: usize,
    positions: Vec<u64>,
    write_from: u64,
    /// Where the data ends.
    data_end: u64,
    age_ms: i64,
}

impl Growing {
    fn continuing(at: SegmentPosition, first: usize, age_ms: i64) -> Self {
        let is_new = at.position_bytes == HEADER_BYTES;
        Self {
            base: at.segment_base,
            first,
            positions: Vec::new(),
            write_from: if is_new { 0 } else { at.position_bytes },
            data_end: at.position_bytes,
            age_ms: if is_new { 0 } else { age_ms },
        }
    }

    fn has_data(&self) -> bool {
        self.data_end > HEADER_BYTES
    }

    fn rolls_before(&self, batch: &Indexed, options: &SegmentOptions) -> bool {
        let span = batch.next.0.saturating_sub(self.base.0);
        self.has_data()
            && (batch_start(self.data_end) + batch.len > options.segment_bytes
                || self.age_ms >= options.segment_ms
                || span > i64::from(i32::MAX))
    }

    fn add(&mut self, batch: &Indexed) {
        let start = batch_start(self.data_end);
        self.positions.push(start);
        self.data_end = start + batch.len;
    }

    fn piece(self, closes: bool) -> Piece {
        let write_to = if self.positions.is_empty() { self.write_from } else { align_up(self.data_end) };
        Piece {
            segment_base: self.base,
            batches: self.first..self.first + self.positions.len(),
            positions: self.positions,
            write: self.write_from..write_to,
            closes,
        }
    }
}

/// Plans the flush of `batches`, which begin with the one at `at.next`. `age_ms` is that of the
/// active segment, where it has a file.
pub(super) fn plan(
    at: SegmentPosition,
    batches: &[BatchPlace],
    roll: Roll,
    options: &SegmentOptions,
    age_ms: i64,
) -> Plan {
    let mut pieces = Vec::new();
    let mut growing = Growing::continuing(at, 0, age_ms);
    let mut next = at.next;
    for (number, BatchPlace { indexed: batch, .. }) in batches.iter().enumerate() {
        assert!(batch.base == next, "a flush is contiguous and begins at the position");
        next = batch.next;
        if growing.rolls_before(batch, options) {
            let following = Growing::continuing(SegmentPosition::start(batch.base), number, 0);
            pieces.push(std::mem::replace(&mut growing, following).piece(true));
        }
        growing.add(batch);
    }
    let closes = roll == Roll::CloseAll && growing.has_data();
    let is_empty = growing.positions.is_empty();
    let end = if closes {
        SegmentPosition::start(next)
    } else {
        SegmentPosition { segment_base: growing.base, position_bytes: align_up(growing.data_end), next }
    };
    if closes || !is_empty {
        pieces.push(growing.piece(closes));
    }
    Plan { pieces, end }
}

/// Where a batch begins that follows data ending at `data_end`: directly behind it, unless so little
/// is left of the block that a reader could not tell its beginning from padding.
pub(super) fn batch_start(data_end: u64) -> u64 {
    if is_padding_for_sure(data_end) { align_up(data_end) } else { data_end }
}

/// Whether no batch begins here: a block ends before there would be a batch's length.
pub(super) fn is_padding_for_sure(position_bytes: u64) -> bool {
    align_up(position_bytes) - position_bytes < TELLING_BYTES as u64 && !position_bytes.is_multiple_of(BLOCK)
}

pub(super) fn align_down(position_bytes: u64) -> u64 {
    position_bytes - position_bytes % BLOCK
}

pub(super) fn align_up(position_bytes: u64) -> u64 {
    position_bytes.next_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options(segment_bytes: u64) -> SegmentOptions {
        SegmentOptions { segment_bytes, ..SegmentOptions::default() }
    }

    fn batches(from: i64, sizes: &[u64]) -> Vec<BatchPlace> {
        let mut base = Offset(from);
        let place = |len: &u64| {
            let next = base.plus(2);
            let indexed = Indexed { base, next, len: *len, timestamp_ms: 0 };
            base = next;
            BatchPlace { indexed, leader_epoch: LeaderEpoch(0) }
        };
        sizes.iter().map(place).collect()
    }

    fn at(position_bytes: u64, next: i64) -> SegmentPosition {
        SegmentPosition { segment_base: Offset(0), position_bytes, next: Offset(next) }
    }

    #[test]
    fn a_flush_ends_at_a_block_however_little_it_is() {
        let start = SegmentPosition::start(Offset(0));
        let plan = plan(start, &batches(0, &[100, 300]), Roll::AsNeeded, &options(1 << 20), 0);
        assert_eq!(plan.pieces[0].write, 0..8192);
        assert_eq!(plan.pieces[0].positions, [4096, 4196]);
        assert_eq!(plan.end, at(8192, 4));
    }

    #[test]
    fn the_next_flush_begins_at_that_block() {
        let plan = plan(at(8192, 4), &batches(4, &[5000]), Roll::AsNeeded, &options(1 << 20), 0);
        assert_eq!((plan.pieces[0].write.clone(), &plan.pieces[0].positions), (8192..16384, &vec![8192]));
        assert_eq!(plan.end, at(16384, 6));
    }

    #[test]
    fn no_batch_begins_where_its_length_would_be_in_the_next_block() {
        let start = SegmentPosition::start(Offset(0));
        for (first, second) in [(4084, 8180), (4085, 8192), (4095, 8192), (4096, 8192)] {
            let plan = plan(start, &batches(0, &[first, 70]), Roll::AsNeeded, &options(1 << 20), 0);
            assert_eq!(plan.pieces[0].positions, [4096, second]);
        }
    }

    #[test]
    fn closing_again_does_nothing() {
        let start = SegmentPosition::start(Offset(0));
        let closed = plan(start, &batches(0, &[100]), Roll::CloseAll, &options(1 << 20), 0);
        assert_eq!(closed.pieces[0].write, 0..8192);
        assert_eq!(closed.end, SegmentPosition::start(Offset(2)));
        let again = plan(closed.end, &[], Roll::CloseAll, &options(1 << 20), 0);
        assert_eq!(again, Plan { pieces: vec![], end: closed.end });
    }

    #[test]
    fn a_flushed_segment_is_closed_without_a_write() {
        let closed = plan(at(8192, 10), &[], Roll::CloseAll, &options(1 << 20), 0);
        assert!(closed.pieces[0].closes && closed.pieces[0].write.is_empty());
        assert_eq!(closed.end, SegmentPosition::start(Offset(10)));
    }

    #[test]
    fn age_and_offset_span_roll_a_segment() {
        let at = at(8192, 10);
        let aged = SegmentOptions { segment_ms: 1000, ..options(1 << 20) };
        let one = batches(10, &[5000]);
        assert_eq!(plan(at, &one, Roll::AsNeeded, &aged, 999).end.segment_base, Offset(0));
        assert_eq!(plan(at, &one, Roll::AsNeeded, &aged, 1000).end.segment_base, Offset(10));
        let mut far = batches(10, &[5000]);
        far[0].indexed.next = Offset(i64::from(i32::MAX) + 1);
        let end = plan(at, &far, Roll::AsNeeded, &options(1 << 20), 0).end;
        assert_eq!(end.segment_base, Offset(10));
    }

    proptest! {
        /// Flushes in any number of steps put every batch in one place, and write each block once.
        #[test]
        fn positions_advance_over_every_batch_exactly_once(
            sizes in prop::collection::vec(61u64..9000, 1..60),
            steps in prop::collection::vec(0usize..20, 1..10),
            segment_bytes in 4096u64..60_000,
        ) {
            let all = batches(0, &sizes);
            let mut at = SegmentPosition::start(Offset(0));
            let mut known = 0;
            for step in steps {
                let from = known;
                known = (known + step).min(all.len());
                let plan = plan(at, &all[from..known], Roll::AsNeeded, &options(segment_bytes), 0);
                let mut batch = from;
                for piece in &plan.pieces {
                    prop_assert_eq!((piece.write.start % BLOCK, piece.write.end % BLOCK), (0, 0));
                    if piece.segment_base == at.segment_base && !piece.is_new() {
                        prop_assert_eq!(piece.write.start, at.position_bytes);
                    } else {
                        prop_assert!(piece.is_new());
                    }
                    prop_assert_eq!(piece.batches.start, batch - from);
                    let mut end = piece.write.start.max(HEADER_BYTES);
                    for position in &piece.positions {
                        prop_assert!((end..end + TELLING_BYTES as u64).contains(position));
                        prop_assert!(!is_padding_for_sure(*position));
                        end = position + all[batch].indexed.len;
                        batch += 1;
                    }
                    prop_assert!(end <= piece.write.end && piece.write.end - end < BLOCK);
                }
                prop_assert_eq!(batch, known);
                prop_assert_eq!(plan.end.next, Offset(2 * i64::try_from(known).unwrap()));
                at = plan.end;
            }
        }
    }
}
