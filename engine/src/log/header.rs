//! The header block of a segment file: whose data it is. Pure: bytes in, bytes out.

use corelog_runtime::fs::BLOCK_BYTES;
use uuid::Uuid;

use crate::types::{LeaderEpoch, Offset, PartitionId, TopicId, TopicPartition};

/// Size of the header block; the first batch follows it.
pub const HEADER_BYTES: u64 = BLOCK_BYTES as u64;

const MAGIC: [u8; 8] = *b"CLSEGMNT";
const VERSION: u32 = 3;
/// The version before, without the two last fields: it is still read.
const UNCLEANED_VERSION: u32 = 2;
const CRC_AT: usize = BLOCK_BYTES - 4;

/// What the first block of a segment file says. Big-endian, as the batches behind it:
///
/// ```text
///    0   8  magic "CLSEGMNT"
///    8   4  format version, 3; in version 2 there are zeros from 56 on
///   12   4  flags, 0
///   16  16  topic id
///   32   4  partition index
///   36   4  leader epoch of the first batch
///   40   8  base offset of the first batch
///   48   8  creation time, ms since 1970
///   56   8  generation: 0 as flushed, else which replacement by compaction wrote it
///   64   8  where the first segment begins that it did not replace; 0 as flushed
///   72      zero
/// 4092   4  CRC-32C of bytes 0..4092
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose records these are.
    pub target: TopicPartition,
    /// Epoch of the first batch: later ones are never lower.
    pub leader_epoch: LeaderEpoch,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// When the file was created, for rolling by age.
    pub created_ms: i64,
    /// What it replaced, when compaction wrote it.
    pub replaces: Option<Replaced>,
}

/// What a segment took the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// Which of the partition's replacements it was, from 1.
    pub generation: u64,
    /// Where the first segment begins that it did not replace.
    pub end: Offset,
}

/// Why a block is not the header of the segment that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Fewer bytes than a header block.
    #[error("only {0} bytes")]
    Short(usize),
    /// No segment file at all.
    #[error("no magic: not a segment file")]
    Magic,
    /// The checksum is not that of the bytes.
    #[error("the checksum does not match")]
    Checksum,
    /// Written by a newer Corelog.
    #[error("format version {0}, newer than this program's {VERSION}")]
    NewerFormat(u32),
    /// Flags without a meaning in this version.
    #[error("unknown flags {0:#x}")]
    Flags(u32),
    /// Another partition's data.
    #[error("it belongs to {found}, not to {expected}")]
    Target {
        /// The partition in the header.
        found: TopicPartition,
        /// The partition asked for.
        expected: TopicPartition,
    },
    /// The name of the file says another base offset.
    #[error("its base offset is {found}, its name says {expected}")]
    BaseOffset {
        /// The base offset in the header.
        found: Offset,
        /// The base offset in the file's name.
        expected: Offset,
    },
}

impl SegmentHeader {
    /// Writes the header into the first block of `block`, which must be zeroed.
    pub(super) fn encode(&self, block: &mut [u8]) {
        assert!(block.len() >= BLOCK_BYTES, "a header is a whole block");
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &VERSION.to_be_bytes());
        put(16, self.target.topic.0.as_bytes());
        put(32, &self.target.partition.0.to_be_bytes());
        put(36, &self.leader_epoch.0.to_be_bytes());
        put(40, &self.base_offset.0.to_be_bytes());
        put(48, &self.created_ms.to_be_bytes());
        if let Some(Replaced { generation, end }) = self.replaces {
            assert!(generation > 0, "replacements are counted from 1");
            put(56, &generation.to_be_bytes());
            put(64, &end.0.to_be_bytes());
        }
        let crc = crc32c::crc32c(&block[..CRC_AT]);
        block[CRC_AT..BLOCK_BYTES].copy_from_slice(&crc.to_be_bytes());
    }

    /// Reads a header block.
    ///
    /// # Errors
    /// When it is too short, of another kind or a newer version, or its checksum is wrong.
    pub fn decode(block: &[u8]) -> Result<Self, HeaderError> {
        let Some(block) = block.first_chunk::<BLOCK_BYTES>() else {
            return Err(HeaderError::Short(block.len()));
        };
        if block[..8] != MAGIC {
            return Err(HeaderError::Magic);
        }
        if crc32c::crc32c(&block[..CRC_AT]) != u32::from_be_bytes(field(block, CRC_AT)) {
            return Err(HeaderError::Checksum);
        }
        let version = u32::from_be_bytes(field(block, 8));
        if version != VERSION && version != UNCLEANED_VERSION {
            return Err(HeaderError::NewerFormat(version));
        }
        let flags = u32::from_be_bytes(field(block, 12));
        if flags != 0 {
            return Err(HeaderError::Flags(flags));
        }
        let generation = u64::from_be_bytes(field(block, 56));
        let end = Offset(i64::from_be_bytes(field(block, 64)));
        Ok(Self {
            target: TopicPartition::new(
                TopicId(Uuid::from_bytes(field(block, 16))),
                PartitionId(i32::from_be_bytes(field(block, 32))),
            ),
            leader_epoch: LeaderEpoch(i32::from_be_bytes(field(block, 36))),
            base_offset: Offset(i64::from_be_bytes(field(block, 40))),
            created_ms: i64::from_be_bytes(field(block, 48)),
            replaces: (generation > 0).then_some(Replaced { generation, end }),
        })
    }

    /// Which replacement wrote the file; 0 for none. Its index is of the same.
    pub(super) fn generation(&self) -> u64 {
        self.replaces.map_or(0, |replaced| replaced.generation)
    }

    /// Whether this is the header of `target`'s segment at `base`.
    pub(super) fn check(&self, target: TopicPartition, base: Offset) -> Result<(), HeaderError> {
        if self.target != target {
            return Err(HeaderError::Target { found: self.target, expected: target });
        }
        if self.base_offset != base {
            return Err(HeaderError::BaseOffset { found: self.base_offset, expected: base });
        }
        Ok(())
    }
}

/// The `N` bytes at `at` of a block.
pub(super) fn field<const N: usize>(block: &[u8; BLOCK_BYTES], at: usize) -> [u8; N] {
    *block[at..].first_chunk().expect("fields lie inside the block")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            target: TopicPartition::new(TopicId(Uuid::from_u128(77)), PartitionId(3)),
            leader_epoch: LeaderEpoch(5),
            base_offset: Offset(1_000_000_007),
            created_ms: 1_700_000_000_123,
            replaces: None,
        }
    }

    /// The block with this version in it.
    fn of_version(header: &SegmentHeader, version: u8) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES];
        header.encode(&mut block);
        block[11] = version;
        let crc = crc32c::crc32c(&block[..CRC_AT]);
        block[CRC_AT..].copy_from_slice(&crc.to_be_bytes());
        block
    }

    #[test]
    fn a_header_comes_back_as_it_was_written() {
        let mut block = vec![0; BLOCK_BYTES];
        header().encode(&mut block);
        assert_eq!(SegmentHeader::decode(&block), Ok(header()));
        assert_eq!(header().check(header().target, Offset(1_000_000_007)), Ok(()));
        let replaced = Replaced { generation: u64::MAX, end: Offset(2_000_000_000) };
        let cleaned = SegmentHeader { replaces: Some(replaced), ..header() };
        let mut block = vec![0; BLOCK_BYTES];
        cleaned.encode(&mut block);
        assert_eq!(SegmentHeader::decode(&block), Ok(cleaned));
    }

    #[test]
    fn a_header_of_the_version_before_is_read() {
        assert_eq!(SegmentHeader::decode(&of_version(&header(), 2)), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_of_the_header_block_is_seen() {
        let mut block = vec![0; BLOCK_BYTES];
        header().encode(&mut block);
        for at in 0..BLOCK_BYTES {
            let mut flipped = block.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(SegmentHeader::decode(&flipped).is_err(), "byte {at}");
        }
        assert_eq!(SegmentHeader::decode(&block[..4095]), Err(HeaderError::Short(4095)));
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        assert_eq!(SegmentHeader::decode(&of_version(&header(), 4)), Err(HeaderError::NewerFormat(4)));
    }

    #[test]
    fn another_partition_or_offset_is_refused() {
        let other = TopicPartition::new(header().target.topic, PartitionId(4));
        assert!(matches!(header().check(other, header().base_offset), Err(HeaderError::Target { .. })));
        assert!(matches!(header().check(header().target, Offset(0)), Err(HeaderError::BaseOffset { .. })));
    }
}
