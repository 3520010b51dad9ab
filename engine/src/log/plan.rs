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

/// What a plan needs to know of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchPlace {
    pub(super) indexed: Indexed,
    pub(super) leader_epoch: LeaderEpoch,
}

impl BatchPlace {
    /// From a batch's header.
    pub(super) fn of(header: &BatchHeader) -> Self {
        // A look-up by time never answers with a control record, so its timestamp counts nowhere.
        let timestamp_ms = if header.is_control() { -1 } else { header.max_timestamp };
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
    /// The batches that belong to this segment; a part of the first one may be on disk already.
    pub(super) batches: Range<usize>,
    /// So many bytes of the first batch are.
    pub(super) skip_bytes: u64,
    /// Whole blocks to write; from 0, with the header block, where the file is new. May be empty.
    pub(super) write: Range<u64>,
    /// Whether the segment ends here, its last block padded with zeros.
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
    skip_bytes: u64,
    write_from: u64,
    /// Where the next batch goes.
    position_bytes: u64,
    /// Where the batch starts that holds or begins the last, partial block, and its offset.
    boundary: (Offset, u64),
    age_ms: i64,
}

impl Growing {
    fn continuing(at: SegmentPosition, age_ms: i64) -> Self {
        let is_new = at.position_bytes == HEADER_BYTES;
        Self {
            base: at.segment_base,
            first: 0,
            skip_bytes: at.position_bytes - at.batch_position_bytes,
            write_from: if is_new { 0 } else { at.position_bytes },
            position_bytes: at.batch_position_bytes,
            boundary: (at.batch_base, at.batch_position_bytes),
            age_ms: if is_new { 0 } else { age_ms },
        }
    }

    fn has_data(&self) -> bool {
        self.position_bytes > HEADER_BYTES
    }

    fn rolls_before(&self, batch: &Indexed, options: &SegmentOptions) -> bool {
        let span = batch.next.0.saturating_sub(self.base.0);
        self.has_data()
            && (self.position_bytes + batch.len > options.segment_bytes
                || self.age_ms >= options.segment_ms
                || span > i64::from(i32::MAX))
    }

    fn add(&mut self, batch: &Indexed) {
        let start = self.position_bytes;
        self.position_bytes += batch.len;
        if self.position_bytes.is_multiple_of(BLOCK) {
            self.boundary = (batch.next, self.position_bytes);
        } else if start <= align_down(self.position_bytes) {
            self.boundary = (batch.base, start);
        }
    }

    fn piece(&self, until: usize, closes: bool) -> Piece {
        let to = if closes { align_up(self.position_bytes) } else { align_down(self.position_bytes) };
        // A new file of which not even one block of data is whole is not created yet.
        let nothing = to <= self.write_from.max(HEADER_BYTES);
        let write = if nothing { self.write_from..self.write_from } else { self.write_from..to };
        Piece {
            segment_base: self.base,
            batches: self.first..until,
            skip_bytes: self.skip_bytes,
            write,
            closes,
        }
    }
}

/// Plans the flush of `batches`, which begin with the one at `at.batch_base`. `age_ms` is that of
/// the active segment, where it has a file.
pub(super) fn plan(
    at: SegmentPosition,
    batches: &[BatchPlace],
    roll: Roll,
    options: &SegmentOptions,
    age_ms: i64,
) -> Plan {
    let mut pieces = Vec::new();
    let mut growing = Growing::continuing(at, age_ms);
    let mut next = at.batch_base;
    for (number, BatchPlace { indexed: batch, .. }) in batches.iter().enumerate() {
        assert!(batch.base == next, "a flush is contiguous and begins at the position");
        next = batch.next;
        let is_begun = number == 0 && growing.skip_bytes > 0;
        if !is_begun && growing.rolls_before(batch, options) {
            pieces.push(growing.piece(number, true));
            growing = Growing::continuing(SegmentPosition::start(batch.base), 0);
            growing.first = number;
        }
        growing.add(batch);
    }
    let closes = roll == Roll::CloseAll && growing.has_data();
    let last = growing.piece(batches.len(), closes);
    let end = if closes || !growing.has_data() {
        SegmentPosition::start(next)
    } else if last.write.is_empty() && at.segment_base == growing.base {
        at
    } else if last.write.is_empty() {
        SegmentPosition::start(growing.base)
    } else {
        SegmentPosition {
            segment_base: growing.base,
            position_bytes: last.write.end,
            batch_base: growing.boundary.0,
            batch_position_bytes: growing.boundary.1,
        }
    };
    if closes || !last.write.is_empty() {
        pieces.push(last);
    }
    Plan { pieces, end }
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

    #[test]
    fn less_than_a_block_stays_in_the_journal() {
        let at = SegmentPosition::start(Offset(0));
        let plan = plan(at, &batches(0, &[100, 3995]), Roll::AsNeeded, &options(1 << 20), 0);
        assert_eq!(plan, Plan { pieces: vec![], end: at });
    }

    #[test]
    fn a_flush_that_ends_at_a_block_begins_the_next_batch_there() {
        let at = SegmentPosition::start(Offset(0));
        let plan = plan(at, &batches(0, &[100, 3996]), Roll::AsNeeded, &options(1 << 20), 0);
        assert_eq!(plan.pieces[0].write, 0..8192);
        assert_eq!(
            plan.end,
            SegmentPosition {
                segment_base: Offset(0),
                position_bytes: 8192,
                batch_base: Offset(4),
                batch_position_bytes: 8192,
            }
        );
    }

    #[test]
    fn a_batch_that_is_begun_is_ended_in_its_segment() {
        let at = SegmentPosition {
            segment_base: Offset(0),
            position_bytes: 8192,
            batch_base: Offset(10),
            batch_position_bytes: 8000,
        };
        let plan = plan(at, &batches(10, &[5000, 10]), Roll::AsNeeded, &options(4096), i64::MAX);
        assert_eq!(plan.pieces.len(), 1);
        assert_eq!(plan.pieces[0].skip_bytes, 192);
        assert_eq!(plan.pieces[0].write, 8192..16384);
        assert!(plan.pieces[0].closes);
        assert_eq!(plan.end, SegmentPosition::start(Offset(12)));
    }

    #[test]
    fn closing_pads_and_closing_again_does_nothing() {
        let at = SegmentPosition::start(Offset(0));
        let closed = plan(at, &batches(0, &[100]), Roll::CloseAll, &options(1 << 20), 0);
        assert_eq!(closed.pieces[0].write, 0..8192);
        assert_eq!(closed.end, SegmentPosition::start(Offset(2)));
        let again = plan(closed.end, &[], Roll::CloseAll, &options(1 << 20), 0);
        assert_eq!(again, Plan { pieces: vec![], end: closed.end });
    }

    #[test]
    fn a_segment_that_ends_at_a_block_is_closed_without_a_write() {
        let at = SegmentPosition {
            segment_base: Offset(0),
            position_bytes: 8192,
            batch_base: Offset(10),
            batch_position_bytes: 8192,
        };
        let closed = plan(at, &[], Roll::CloseAll, &options(1 << 20), 0);
        assert!(closed.pieces[0].closes && closed.pieces[0].write.is_empty());
        assert_eq!(closed.end, SegmentPosition::start(Offset(10)));
    }

    #[test]
    fn age_and_offset_span_roll_a_segment() {
        let at = SegmentPosition {
            segment_base: Offset(0),
            position_bytes: 8192,
            batch_base: Offset(10),
            batch_position_bytes: 8192,
        };
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
        /// Flushes in any number of steps put the same bytes in place, none of them twice.
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
                known = (known + step).min(all.len());
                let from = all.iter().position(|b| b.indexed.base == at.batch_base);
                let from = from.unwrap_or(all.len()).min(known);
                let plan = plan(at, &all[from..known], Roll::AsNeeded, &options(segment_bytes), 0);
                for piece in &plan.pieces {
                    prop_assert_eq!(piece.write.start % BLOCK, 0);
                    prop_assert_eq!(piece.write.end % BLOCK, 0);
                    if piece.segment_base == at.segment_base && !piece.is_new() {
                        prop_assert_eq!(piece.write.start, at.position_bytes);
                    } else {
                        prop_assert!(piece.is_new());
                        prop_assert_eq!(piece.skip_bytes, 0);
                    }
                    let bytes: u64 = all[from..][piece.batches.clone()].iter().map(|b| b.indexed.len).sum();
                    let data = bytes - piece.skip_bytes;
                    let room = piece.write.end - piece.write.start.max(HEADER_BYTES);
                    if piece.closes {
                        prop_assert!(data <= room && room - data < BLOCK);
                    } else {
                        prop_assert!(room <= data && data - room < BLOCK);
                    }
                }
                let end = plan.end;
                prop_assert!(end.batch_position_bytes <= end.position_bytes);
                prop_assert!(end.batch_base >= at.batch_base && end.batch_base.0 <= 2 * i64::try_from(known).unwrap());
                if let Some(batch) = all.iter().find(|b| b.indexed.base == end.batch_base) {
                    let ends = end.batch_position_bytes + batch.indexed.len;
                    prop_assert!(ends > end.position_bytes, "the boundary batch crosses the position");
                }
                at = end;
            }
        }
    }
}
