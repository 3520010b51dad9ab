//! A segment's sparse index, by offset and by time. Pure: no file is touched here.
//!
//! The index is a hint: whoever uses an entry checks the batch that it points to. What it must
//! be is either right or absent, which the checksum of its blocks and the rule "entries only for
//! synced data, cut back to the position before a run's first write" give.

use corelog_runtime::fs::BLOCK_BYTES;

use super::header::{HEADER_BYTES, SegmentHeader, field};
use crate::types::{Offset, TopicPartition};

/// A full segment has at most about so many entries (64 KiB of memory for the active segment),
/// however small `index_interval_bytes` is: a look-up scans what lies between two of them,
/// less than one chunk of a cold read in a segment of 1 GiB.
pub(super) const ENTRIES_MAX: u64 = 2048;

const MAGIC: [u8; 4] = *b"CLIX";
const VERSION: u16 = 2;
/// The version before, in which the generation is always 0: it is still read.
const UNCLEANED_VERSION: u16 = 1;
const CRC_AT: usize = 8;
const ENTRIES_AT: usize = 64;
const ENTRY_BYTES: usize = 32;
/// Entries in one block of the file.
pub(super) const ENTRIES_PER_BLOCK: usize = (BLOCK_BYTES - ENTRIES_AT) / ENTRY_BYTES;

/// The largest timestamp of some batches, and the base offset of the first batch that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MaxTimestamp {
    pub(super) timestamp_ms: i64,
    pub(super) batch_base: Offset,
}

impl MaxTimestamp {
    /// Of no batches, or of batches without timestamps.
    pub(super) const NONE: Self = Self { timestamp_ms: -1, batch_base: Offset(-1) };

    pub(super) fn add(&mut self, timestamp_ms: i64, batch_base: Offset) {
        if timestamp_ms > self.timestamp_ms {
            *self = Self { timestamp_ms, batch_base };
        }
    }
}

/// Where a batch begins, and what came before it in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// The batch's base offset; in a closed segment's last entry the offset of the next segment.
    pub(super) offset: Offset,
    /// Where the batch begins in the file; in a closed segment's last entry where the data ends.
    pub(super) position_bytes: u64,
    /// The largest timestamp of all batches before this one in the segment.
    pub(super) max_before: MaxTimestamp,
}

/// Which segment an index is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexedSegment {
    pub(super) target: TopicPartition,
    pub(super) base: Offset,
    /// That of the segment's header: compaction replaces a segment under the same base.
    pub(super) generation: u64,
}

impl IndexedSegment {
    pub(super) fn of(header: &SegmentHeader) -> Self {
        let (target, base) = (header.target, header.base_offset);
        Self { target, base, generation: header.generation() }
    }
}

/// What the index needs to know of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Indexed {
    pub(super) base: Offset,
    pub(super) next: Offset,
    pub(super) len: u64,
    /// Largest timestamp, −1 when the batch has none that counts.
    pub(super) timestamp_ms: i64,
}

/// The index of one segment, covering its batches from the first up to `covered`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    /// In order of offset and position; the first one is the segment's first batch.
    entries: Vec<Entry>,
    covered: Entry,
    interval_bytes: u64,
}

/// The distance between entries for these options.
pub(super) fn interval_bytes(index_interval_bytes: u64, segment_bytes: u64) -> u64 {
    index_interval_bytes.max(segment_bytes / ENTRIES_MAX).max(1)
}

impl Index {
    /// The index of a segment without batches.
    pub(super) fn new(base: Offset, interval_bytes: u64) -> Self {
        let start = Entry { offset: base, position_bytes: HEADER_BYTES, max_before: MaxTimestamp::NONE };
        Self { entries: vec![start], covered: start, interval_bytes }
    }

    /// Up to where the batches are covered, exclusive.
    pub(super) fn covered(&self) -> Entry {
        self.covered
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Covers one more batch, the next one, which begins at `position_bytes`.
    pub(super) fn push(&mut self, batch: &Indexed, position_bytes: u64) {
        assert!(batch.base == self.covered.offset, "batches are indexed in order");
        assert!(position_bytes >= self.covered.position_bytes, "batches do not overlap");
        let last = self.entries.last().expect("the first batch has an entry");
        if position_bytes - last.position_bytes >= self.interval_bytes {
            self.entries.push(Entry { position_bytes, ..self.covered });
        }
        self.covered.position_bytes = position_bytes + batch.len;
        self.covered.offset = batch.next;
        self.covered.max_before.add(batch.timestamp_ms, batch.base);
    }

    /// Adds the entry that says where a closed segment ends.
    pub(super) fn close(&mut self) {
        if self.entries.last() != Some(&self.covered) {
            self.entries.push(self.covered);
        }
    }

    /// The last entry that is not behind `offset`: where a scan for it begins.
    pub(super) fn before_offset(&self, offset: Offset) -> Entry {
        let after = self.entries.partition_point(|entry| entry.offset <= offset);
        self.entries[after.saturating_sub(1)]
    }

    /// From where a scan finds the first batch whose largest timestamp is `timestamp_ms` or
    /// later; nothing when no covered batch has one.
    pub(super) fn before_time(&self, timestamp_ms: i64) -> Option<Entry> {
        if self.covered.max_before.timestamp_ms < timestamp_ms {
            return None;
        }
        let after = self.entries.partition_point(|entry| entry.max_before.timestamp_ms < timestamp_ms);
        Some(self.entries[after.saturating_sub(1)])
    }

    /// Number of blocks of the file.
    pub(super) fn blocks(&self) -> usize {
        self.entries.len().div_ceil(ENTRIES_PER_BLOCK)
    }

    /// Writes block number `number` of the file into the zeroed `block`:
    ///
    /// ```text
    ///    0   4  magic "CLIX"
    ///    4   2  format version, 2; in version 1 there are zeros from 48 to 63
    ///    6   2  number of entries in this block, 1 to 126
    ///    8   4  CRC-32C of the block with these four bytes zero
    ///   12   4  number of this block in the file, from 0
    ///   16  16  topic id
    ///   32   4  partition index
    ///   36   4  zero
    ///   40   8  base offset of the segment
    ///   48   8  generation of the segment
    ///   56   8  zero
    ///   64  32  entries: offset 8, position in the segment 8, largest timestamp of all batches
    ///           before 8, base offset of the first batch that has it 8
    /// ```
    pub(super) fn encode_block(&self, segment: &IndexedSegment, number: usize, block: &mut [u8]) {
        assert!(segment.base == self.entries[0].offset, "an index begins where its segment does");
        assert!(block.len() == BLOCK_BYTES, "the index is written in blocks");
        let from = number * ENTRIES_PER_BLOCK;
        let entries = &self.entries[from..self.entries.len().min(from + ENTRIES_PER_BLOCK)];
        let count = u16::try_from(entries.len()).expect("a block holds 126 entries");
        let number = u32::try_from(number).expect("the number of entries is bounded");
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(4, &VERSION.to_be_bytes());
        put(6, &count.to_be_bytes());
        put(12, &number.to_be_bytes());
        put(16, segment.target.topic.0.as_bytes());
        put(32, &segment.target.partition.0.to_be_bytes());
        put(40, &segment.base.0.to_be_bytes());
        put(48, &segment.generation.to_be_bytes());
        for (slot, entry) in entries.iter().enumerate() {
            let at = ENTRIES_AT + slot * ENTRY_BYTES;
            put(at, &entry.offset.0.to_be_bytes());
            put(at + 8, &entry.position_bytes.to_be_bytes());
            put(at + 16, &entry.max_before.timestamp_ms.to_be_bytes());
            put(at + 24, &entry.max_before.batch_base.0.to_be_bytes());
        }
        let crc = crc32c::crc32c(block);
        block[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
    }

    /// Reads what is good of an index file: entries up to the first bad block, or to the first
    /// entry beyond `upto` (offset and position), whichever comes first. What it does not cover
    /// is for the caller to scan.
    pub(super) fn decode(
        segment: &IndexedSegment,
        interval_bytes: u64,
        bytes: &[u8],
        upto: (Offset, u64),
    ) -> Self {
        let mut index = Self::new(segment.base, interval_bytes);
        let (blocks, _) = bytes.as_chunks::<BLOCK_BYTES>();
        for (number, block) in blocks.iter().enumerate() {
            let Some(entries) = decode_block(segment, number, block) else {
                return index;
            };
            for (slot, entry) in entries.enumerate() {
                if number == 0 && slot == 0 {
                    if entry != index.covered {
                        return index;
                    }
                    continue;
                }
                let follows = entry.offset > index.covered.offset
                    && entry.position_bytes > index.covered.position_bytes;
                let inside = entry.offset <= upto.0 && entry.position_bytes <= upto.1;
                if !follows || !inside {
                    return index;
                }
                index.entries.push(entry);
                index.covered = entry;
            }
        }
        index
    }
}

fn decode_block<'a>(
    segment: &IndexedSegment,
    number: usize,
    block: &'a [u8; BLOCK_BYTES],
) -> Option<impl Iterator<Item = Entry> + use<'a>> {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..CRC_AT]), &[0; 4]);
    let crc = crc32c::crc32c_append(crc, &block[CRC_AT + 4..]);
    let count = usize::from(u16::from_be_bytes(field(block, 6)));
    let is_ours = block[..4] == MAGIC
        && crc == u32::from_be_bytes(field(block, CRC_AT))
        && matches!(u16::from_be_bytes(field(block, 4)), VERSION | UNCLEANED_VERSION)
        && usize::try_from(u32::from_be_bytes(field(block, 12))) == Ok(number)
        && block[16..32] == *segment.target.topic.0.as_bytes()
        && i32::from_be_bytes(field(block, 32)) == segment.target.partition.0
        && i64::from_be_bytes(field(block, 40)) == segment.base.0
        && u64::from_be_bytes(field(block, 48)) == segment.generation
        && count <= ENTRIES_PER_BLOCK;
    is_ours.then(|| {
        (0..count).map(|slot| {
            let at = ENTRIES_AT + slot * ENTRY_BYTES;
            Entry {
                offset: Offset(i64::from_be_bytes(field(block, at))),
                position_bytes: u64::from_be_bytes(field(block, at + 8)),
                max_before: MaxTimestamp {
                    timestamp_ms: i64::from_be_bytes(field(block, at + 16)),
                    batch_base: Offset(i64::from_be_bytes(field(block, at + 24))),
                },
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PartitionId, TopicId};
    use proptest::prelude::*;
    use uuid::Uuid;

    const EVERYTHING: (Offset, u64) = (Offset(i64::MAX), u64::MAX);

    fn segment() -> IndexedSegment {
        let target = TopicPartition::new(TopicId(Uuid::from_u128(9)), PartitionId(1));
        IndexedSegment { target, base: Offset(50), generation: 0 }
    }

    fn filled(batches: &[(i64, u64, i64)], interval: u64) -> (Index, Vec<(Indexed, u64)>) {
        let mut index = Index::new(Offset(50), interval);
        let mut all = Vec::new();
        for (count, len, timestamp_ms) in batches {
            let at = index.covered();
            let batch = Indexed {
                base: at.offset,
                next: at.offset.plus(*count),
                len: *len,
                timestamp_ms: *timestamp_ms,
            };
            // As behind a flush that was padded.
            let position = if count % 3 == 0 { at.position_bytes + 100 } else { at.position_bytes };
            all.push((batch, position));
            index.push(&batch, position);
        }
        (index, all)
    }

    fn file_of(index: &Index) -> Vec<u8> {
        let mut bytes = vec![0; index.blocks() * BLOCK_BYTES];
        for (number, block) in bytes.chunks_mut(BLOCK_BYTES).enumerate() {
            index.encode_block(&segment(), number, block);
        }
        bytes
    }

    fn batches() -> impl Strategy<Value = Vec<(i64, u64, i64)>> {
        prop::collection::vec((1i64..20, 61u64..5000, -1i64..100), 0..600)
    }

    proptest! {
        #[test]
        fn look_ups_never_land_behind_what_is_sought(all in batches(), interval in 1u64..9000) {
            let (index, all) = filled(&all, interval);
            for (batch, position) in &all {
                for offset in [batch.base, Offset(batch.next.0 - 1)] {
                    let entry = index.before_offset(offset);
                    prop_assert!(entry.offset <= offset && entry.position_bytes <= *position);
                    prop_assert!(position - entry.position_bytes < interval + 5100);
                }
            }
            for timestamp in 0..101 {
                let first = all.iter().find(|(batch, _)| batch.timestamp_ms >= timestamp);
                match (index.before_time(timestamp), first) {
                    (Some(entry), Some((_, position))) => {
                        prop_assert!(entry.position_bytes <= *position);
                        prop_assert!(entry.max_before.timestamp_ms < timestamp);
                    }
                    (None, None) => {}
                    (found, first) => prop_assert!(false, "{found:?} for {first:?}"),
                }
            }
        }

        #[test]
        fn a_file_comes_back_and_damage_only_shortens_it(
            all in batches(), at: prop::sample::Index, bit in 0u32..8,
        ) {
            let (mut index, _) = filled(&all, 4096);
            index.close();
            let mut bytes = file_of(&index);
            let read = |bytes: &[u8], upto| Index::decode(&segment(), 4096, bytes, upto);
            prop_assert_eq!(&read(&bytes, EVERYTHING), &index);
            let half = index.entries()[index.entries().len() / 2];
            let cut = read(&bytes, (half.offset, half.position_bytes));
            prop_assert_eq!(cut.covered(), half);
            bytes[at.index(index.blocks() * BLOCK_BYTES)] ^= 1 << bit;
            let damaged = read(&bytes, EVERYTHING);
            prop_assert!(index.entries().starts_with(damaged.entries()));
            prop_assert!(damaged.entries().len() < index.entries().len() || index.blocks() == 1);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
            let index = Index::decode(&segment(), 4096, &bytes, EVERYTHING);
            prop_assert_eq!(index, Index::new(Offset(50), 4096));
        }
    }

    #[test]
    fn the_index_of_another_segment_is_not_used() {
        let (index, _) = filled(&[(10, 5000, 1); 20], 4096);
        let bytes = file_of(&index);
        let base = Offset(49);
        let other = Index::decode(&IndexedSegment { base, ..segment() }, 4096, &bytes, EVERYTHING);
        assert_eq!(other, Index::new(base, 4096));
        // The segment was replaced since.
        let replaced = IndexedSegment { generation: 1, ..segment() };
        assert_eq!(Index::decode(&replaced, 4096, &bytes, EVERYTHING), Index::new(Offset(50), 4096));
    }

    #[test]
    fn an_index_of_the_version_before_is_read() {
        let (mut index, _) = filled(&[(10, 5000, 1); 200], 4096);
        index.close();
        let mut bytes = file_of(&index);
        for block in bytes.chunks_mut(BLOCK_BYTES) {
            block[4..6].copy_from_slice(&UNCLEANED_VERSION.to_be_bytes());
            block[CRC_AT..CRC_AT + 4].fill(0);
            let crc = crc32c::crc32c(block);
            block[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        }
        assert_eq!(Index::decode(&segment(), 4096, &bytes, EVERYTHING), index);
    }
}
