//! The record batch, format 2: the one form in which records are produced, journalled,
//! replicated, stored and fetched.
//!
//! Owns the layout of the 61 header bytes, patching them in place, and iteration over the
//! batches of a buffer and the records of a batch. Never copies a payload; never decides
//! whether a batch is acceptable (that is [`crate::validate`]).
//!
//! ```text
//! base offset 0 (8) · length 8 (4) · partition leader epoch 12 (4) · magic 16 (1) · crc 17 (4)
//! attributes 21 (2) · last offset delta 23 (4) · base timestamp 27 (8) · max timestamp 35 (8)
//! producer id 43 (8) · producer epoch 51 (2) · base sequence 53 (4) · record count 57 (4)
//! records 61
//! ```
//! The CRC-32C covers byte 21 to the end, so base offset and leader epoch are patched
//! without touching it. Source: KIP-98, `DefaultRecordBatch` of Kafka.

mod builder;
pub mod filter;
mod recompress;
mod record;

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use thiserror::Error;

pub use self::builder::BatchBuilder;
pub use self::recompress::{Compression, recompress};
pub use self::record::{Header, Headers, Record, RecordIter, first_record_at_or_after};
pub use crate::codec::{Codec, CodecError, Scratch, compress, decompress};
use crate::wire::{Reader, WireError};

/// Size of a batch's header; the records follow.
pub const HEADER_BYTES: usize = 61;
/// Base offset and length: what precedes the bytes that the length field counts.
pub const LENGTH_PREFIX_BYTES: usize = 12;
/// The only format that is read or written.
pub const MAGIC: i8 = 2;
/// The producer id of a batch without one.
pub const NO_PRODUCER_ID: i64 = -1;
/// The producer epoch of a batch without a producer id.
pub const NO_PRODUCER_EPOCH: i16 = -1;
/// The base sequence of a batch without one.
pub const NO_SEQUENCE: i32 = -1;
/// The timestamp of a record without one.
pub const NO_TIMESTAMP: i64 = -1;
/// The leader epoch of a batch that no leader has accepted yet.
pub const NO_LEADER_EPOCH: i32 = -1;

const BASE_OFFSET_AT: usize = 0;
const LEADER_EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;

/// Where the bytes begin that the CRC covers.
const CRC_FROM: usize = ATTRIBUTES_AT;

const CODEC_MASK: i16 = 0b111;
const TIMESTAMP_TYPE_BIT: i16 = 1 << 3;
const TRANSACTIONAL_BIT: i16 = 1 << 4;
const CONTROL_BIT: i16 = 1 << 5;
const DELETE_HORIZON_BIT: i16 = 1 << 6;

/// Why bytes are not a record batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BatchError {
    /// Fewer bytes than the batch says that it has, or than a header.
    #[error("truncated batch: {needed} bytes needed, {available} there")]
    Truncated {
        /// Size of the batch, or of a header when not even that is there.
        needed: usize,
        /// Bytes that are there.
        available: usize,
    },
    /// The length field is smaller than a header.
    #[error("invalid batch length {0}")]
    InvalidLength(i32),
    /// Not format 2.
    #[error("unsupported batch format (magic {0})")]
    UnsupportedMagic(i8),
    /// The codec bits mean nothing.
    #[error("unknown compression codec {0}")]
    UnknownCodec(u8),
    /// A record does not parse.
    #[error("malformed record: {0}")]
    MalformedRecord(#[from] WireError),
    /// More or fewer records than the header's count.
    #[error("the batch does not hold the records that its header counts")]
    CountMismatch,
    /// The records do not decompress.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// What the timestamps of a batch mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimestampType {
    /// Set by the producer, one per record.
    CreateTime,
    /// Set by the leader, the max timestamp counts for all records.
    LogAppendTime,
}

/// The header of a record batch, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// The length field: bytes after itself.
    pub length: i32,
    /// Epoch of the leader that accepted the batch.
    pub leader_epoch: i32,
    /// Format; always [`MAGIC`] after [`BatchHeader::parse`].
    pub magic: i8,
    /// CRC-32C of byte 21 to the end, as stored (not checked).
    pub crc: u32,
    /// Codec, timestamp type, transactional, control and delete horizon bits.
    pub attributes: i16,
    /// Offset of the last record minus base offset.
    pub last_offset_delta: i32,
    /// What the records' timestamp deltas are added to, in ms since 1970; the delete
    /// horizon where that bit is set.
    pub base_timestamp: i64,
    /// Largest timestamp of the records, in ms since 1970.
    pub max_timestamp: i64,
    /// Idempotent producer, or −1.
    pub producer_id: i64,
    /// Epoch of that producer, or −1.
    pub producer_epoch: i16,
    /// Sequence of the first record, or −1.
    pub base_sequence: i32,
    /// Number of records; compaction makes it smaller than the offsets suggest.
    pub record_count: i32,
}

impl BatchHeader {
    /// Decodes the header at the start of `bytes`, which may hold more, or less than the
    /// whole batch.
    ///
    /// # Errors
    /// When there are fewer than 61 bytes, another magic, or a length below a header's.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        // The place of the magic is the same in every format, the rest is not.
        if let Some(&magic) = bytes.get(MAGIC_AT)
            && magic.cast_signed() != MAGIC
        {
            return Err(BatchError::UnsupportedMagic(magic.cast_signed()));
        }
        let header = bytes
            .first_chunk()
            .ok_or(BatchError::Truncated { needed: HEADER_BYTES, available: bytes.len() })?;
        let header = Self::from_bytes(header);
        let counted = usize::try_from(header.length).unwrap_or(0);
        if counted < HEADER_BYTES - LENGTH_PREFIX_BYTES {
            return Err(BatchError::InvalidLength(header.length));
        }
        Ok(header)
    }

    fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
            *bytes[at..].first_chunk().expect("fields lie inside the header")
        }
        Self {
            base_offset: i64::from_be_bytes(field(bytes, BASE_OFFSET_AT)),
            length: i32::from_be_bytes(field(bytes, 8)),
            leader_epoch: i32::from_be_bytes(field(bytes, LEADER_EPOCH_AT)),
            magic: i8::from_be_bytes(field(bytes, MAGIC_AT)),
            crc: u32::from_be_bytes(field(bytes, CRC_AT)),
            attributes: i16::from_be_bytes(field(bytes, ATTRIBUTES_AT)),
            last_offset_delta: i32::from_be_bytes(field(bytes, 23)),
            base_timestamp: i64::from_be_bytes(field(bytes, 27)),
            max_timestamp: i64::from_be_bytes(field(bytes, MAX_TIMESTAMP_AT)),
            producer_id: i64::from_be_bytes(field(bytes, 43)),
            producer_epoch: i16::from_be_bytes(field(bytes, 51)),
            base_sequence: i32::from_be_bytes(field(bytes, 53)),
            record_count: i32::from_be_bytes(field(bytes, 57)),
        }
    }

    /// Encodes the header as it stands, CRC included.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(BASE_OFFSET_AT, &self.base_offset.to_be_bytes());
        put(8, &self.length.to_be_bytes());
        put(LEADER_EPOCH_AT, &self.leader_epoch.to_be_bytes());
        put(MAGIC_AT, &self.magic.to_be_bytes());
        put(CRC_AT, &self.crc.to_be_bytes());
        put(ATTRIBUTES_AT, &self.attributes.to_be_bytes());
        put(23, &self.last_offset_delta.to_be_bytes());
        put(27, &self.base_timestamp.to_be_bytes());
        put(MAX_TIMESTAMP_AT, &self.max_timestamp.to_be_bytes());
        put(43, &self.producer_id.to_be_bytes());
        put(51, &self.producer_epoch.to_be_bytes());
        put(53, &self.base_sequence.to_be_bytes());
        put(57, &self.record_count.to_be_bytes());
        bytes
    }

    /// Size of the whole batch in bytes, header included.
    pub fn total_len(&self) -> usize {
        LENGTH_PREFIX_BYTES + usize::try_from(self.length).expect("parse refuses other lengths")
    }

    /// The codec of the records.
    ///
    /// # Errors
    /// [`BatchError::UnknownCodec`] for bits without a meaning.
    pub fn codec(&self) -> Result<Codec, BatchError> {
        let bits = u8::try_from(self.attributes & CODEC_MASK).expect("three bits");
        Codec::from_bits(bits).ok_or(BatchError::UnknownCodec(bits))
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether the batch holds a transaction's marker and not a client's records.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Whether the base timestamp is the delete horizon of compaction.
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON_BIT != 0
    }

    /// Whether an idempotent producer wrote the batch.
    pub fn has_producer_id(&self) -> bool {
        self.producer_id > NO_PRODUCER_ID
    }

    /// What the timestamps mean.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & TIMESTAMP_TYPE_BIT == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Offset of the last record, or where it was before compaction.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// The offset after the last one.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// Sequence of the last record: it wraps from 2³¹−1 to 0. −1 without a sequence.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence == NO_SEQUENCE {
            NO_SEQUENCE
        } else {
            add_to_sequence(self.base_sequence, self.last_offset_delta)
        }
    }

    /// Timestamp of a record with that delta.
    pub fn record_timestamp(&self, timestamp_delta: i64) -> i64 {
        match self.timestamp_type() {
            TimestampType::CreateTime => self.base_timestamp.wrapping_add(timestamp_delta),
            TimestampType::LogAppendTime => self.max_timestamp,
        }
    }
}

/// The sequence `increment` records after `sequence`, wrapping from 2³¹−1 to 0.
/// Both must not be negative.
pub fn add_to_sequence(sequence: i32, increment: i32) -> i32 {
    sequence.wrapping_add(increment) & i32::MAX
}

/// Sets the base offset; the CRC does not cover it.
///
/// # Panics
/// When `batch` is shorter than a header, as for all setters here: they are for batches
/// that have been parsed.
pub fn set_base_offset(batch: &mut [u8], base_offset: i64) {
    put(batch, BASE_OFFSET_AT, &base_offset.to_be_bytes());
}

/// Sets the partition leader epoch; the CRC does not cover it.
///
/// # Panics
/// As [`set_base_offset`].
pub fn set_leader_epoch(batch: &mut [u8], leader_epoch: i32) {
    put(batch, LEADER_EPOCH_AT, &leader_epoch.to_be_bytes());
}

/// Makes the batch one with log append time: sets that bit and the max timestamp, and
/// computes the CRC anew.
///
/// # Panics
/// As [`set_base_offset`].
pub fn set_log_append_time(batch: &mut [u8], timestamp_ms: i64) {
    let attributes = i16::from_be_bytes([batch[ATTRIBUTES_AT], batch[ATTRIBUTES_AT + 1]]);
    let attributes = attributes | TIMESTAMP_TYPE_BIT;
    put(batch, ATTRIBUTES_AT, &attributes.to_be_bytes());
    put(batch, MAX_TIMESTAMP_AT, &timestamp_ms.to_be_bytes());
    update_crc(batch);
}

/// Corrects a max timestamp that is not the largest of the records; leaves the CRC alone
/// when there is nothing to correct. Returns whether it changed anything.
///
/// # Panics
/// As [`set_base_offset`].
pub fn set_max_timestamp(batch: &mut [u8], timestamp_ms: i64) -> bool {
    assert!(batch.len() >= HEADER_BYTES, "setters are for parsed batches");
    let new = timestamp_ms.to_be_bytes();
    if batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + new.len()] == new {
        return false;
    }
    put(batch, MAX_TIMESTAMP_AT, &new);
    update_crc(batch);
    true
}

/// Decompressed records as a batch in that codec holds them.
fn packed(codec: Codec, records: &[u8], level: Option<i32>) -> Result<Cow<'_, [u8]>, CodecError> {
    Ok(match codec {
        Codec::None => Cow::Borrowed(records),
        codec => Cow::Owned(compress(codec, records, level)?),
    })
}

/// A batch with this header and these records, which are in the header's codec. Length and checksum
/// are computed. Nothing when it would be larger than 2 GiB.
fn sealed(mut header: BatchHeader, packed: &[u8]) -> Option<BytesMut> {
    header.length = i32::try_from(HEADER_BYTES - LENGTH_PREFIX_BYTES + packed.len()).ok()?;
    let mut batch = BytesMut::with_capacity(HEADER_BYTES + packed.len());
    batch.put_slice(&header.to_bytes());
    batch.put_slice(packed);
    update_crc(&mut batch);
    Some(batch)
}

/// Computes the CRC anew over a whole batch.
///
/// # Panics
/// As [`set_base_offset`].
pub fn update_crc(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[CRC_FROM..]);
    put(batch, CRC_AT, &crc.to_be_bytes());
}

fn put(batch: &mut [u8], at: usize, field: &[u8]) {
    assert!(batch.len() >= HEADER_BYTES, "setters are for parsed batches");
    batch[at..at + field.len()].copy_from_slice(field);
}

/// Whether the stored CRC is that of the bytes: `batch` is exactly one whole batch.
pub fn crc_ok(batch: &[u8]) -> bool {
    let Some(stored) = batch.get(CRC_AT..).and_then(|rest| rest.first_chunk()) else {
        return false;
    };
    batch.len() >= HEADER_BYTES && crc32c::crc32c(&batch[CRC_FROM..]) == u32::from_be_bytes(*stored)
}

/// One whole batch inside a buffer, with its decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRef<'a> {
    /// The decoded header.
    pub header: BatchHeader,
    /// All of the batch, header included.
    pub bytes: &'a [u8],
}

impl<'a> BatchRef<'a> {
    /// The batch at the start of `bytes`.
    ///
    /// # Errors
    /// As [`BatchHeader::parse`], and [`BatchError::Truncated`] when its end is missing.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(bytes)?;
        let needed = header.total_len();
        let bytes = bytes.get(..needed).ok_or(BatchError::Truncated { needed, available: bytes.len() })?;
        Ok(Self { header, bytes })
    }

    /// The records as they are stored, compressed or not.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// The records of the batch, decompressed into `scratch` where needed.
    ///
    /// # Errors
    /// When the codec is unknown or the records do not decompress within `limit_bytes`.
    pub fn records<'s>(
        &self,
        scratch: &'s mut Scratch,
        limit_bytes: usize,
    ) -> Result<RecordIter<'s>, BatchError>
    where
        'a: 's,
    {
        let records = scratch.decompress(self.header.codec()?, self.payload(), limit_bytes)?;
        Ok(RecordIter::new(records, self.header.record_count))
    }
}

/// The whole batches of a buffer, in order. Ends after the first error; a batch cut off at
/// the end is [`BatchError::Truncated`].
#[derive(Debug, Clone)]
pub struct BatchIter<'a> {
    rest: &'a [u8],
}

impl<'a> BatchIter<'a> {
    /// Starts at the first byte of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes that have not been visited.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = Result<BatchRef<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = BatchRef::parse(self.rest);
        self.rest = match &batch {
            Ok(batch) => &self.rest[batch.bytes.len()..],
            Err(_) => &[],
        };
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn three_records() -> Vec<u8> {
        BatchBuilder::new()
            .base_offset(100)
            .leader_epoch(7)
            .record(1_000, Some(b"a"), Some(b"1"))
            .record(3_000, None, Some(b"2"))
            .record(2_000, Some(b"c"), None)
            .build()
            .unwrap()
            .to_vec()
    }

    #[test]
    fn header_comes_back_as_it_was_written() {
        let bytes = three_records();
        let header = BatchHeader::parse(&bytes).unwrap();
        assert_eq!(header.to_bytes(), bytes[..HEADER_BYTES]);
        assert_eq!(header.total_len(), bytes.len());
        assert_eq!((header.base_offset, header.last_offset(), header.next_offset()), (100, 102, 103));
        assert_eq!((header.base_timestamp, header.max_timestamp), (1_000, 3_000));
        assert_eq!((header.leader_epoch, header.record_count), (7, 3));
        assert_eq!(header.codec(), Ok(Codec::None));
        assert!(!header.is_control() && !header.is_transactional() && !header.has_producer_id());
        assert!(crc_ok(&bytes));
    }

    #[test]
    fn base_offset_and_epoch_are_patched_without_touching_the_crc() {
        let mut bytes = three_records();
        set_base_offset(&mut bytes, i64::MAX - 10);
        set_leader_epoch(&mut bytes, 42);
        let header = BatchHeader::parse(&bytes).unwrap();
        assert_eq!((header.base_offset, header.leader_epoch), (i64::MAX - 10, 42));
        assert!(crc_ok(&bytes));
    }

    #[test]
    fn log_append_time_counts_for_every_record_and_renews_the_crc() {
        let mut bytes = three_records();
        set_log_append_time(&mut bytes, 9_999);
        let header = BatchHeader::parse(&bytes).unwrap();
        assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(header.record_timestamp(1), 9_999);
        assert!(crc_ok(&bytes));
    }

    #[test]
    fn max_timestamp_is_corrected_only_when_wrong() {
        let mut bytes = three_records();
        assert!(!set_max_timestamp(&mut bytes, 3_000));
        assert!(set_max_timestamp(&mut bytes, 3_001));
        assert!(crc_ok(&bytes));
    }

    #[test]
    fn every_flipped_bit_that_the_crc_covers_is_seen() {
        let bytes = three_records();
        for at in CRC_AT..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(!crc_ok(&flipped), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn batches_are_visited_in_order_and_a_cut_one_is_an_error() {
        let one = three_records();
        let mut bytes = one.clone();
        bytes.extend_from_slice(&one);
        let all: Vec<_> = BatchIter::new(&bytes).collect::<Result<_, _>>().unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[1].bytes, one);
        for cut in 1..one.len() {
            let mut batches = BatchIter::new(&bytes[..one.len() + cut]);
            assert!(batches.next().unwrap().is_ok());
            assert!(matches!(batches.next(), Some(Err(BatchError::Truncated { .. }))));
            assert!(batches.next().is_none());
        }
    }

    #[test]
    fn older_formats_and_impossible_lengths_are_refused() {
        let mut bytes = three_records();
        bytes[8..12].copy_from_slice(&48i32.to_be_bytes());
        assert_eq!(BatchHeader::parse(&bytes), Err(BatchError::InvalidLength(48)));
        bytes[8..12].copy_from_slice(&(-1i32).to_be_bytes());
        assert_eq!(BatchHeader::parse(&bytes), Err(BatchError::InvalidLength(-1)));
        bytes[16] = 1;
        assert_eq!(BatchHeader::parse(&bytes), Err(BatchError::UnsupportedMagic(1)));
        assert_eq!(BatchHeader::parse(&bytes[..17]), Err(BatchError::UnsupportedMagic(1)));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(add_to_sequence(i32::MAX, 1), 0);
        assert_eq!(add_to_sequence(i32::MAX - 1, 1), i32::MAX);
        assert_eq!(add_to_sequence(i32::MAX, i32::MAX), i32::MAX - 1);
        assert_eq!(add_to_sequence(5, 0), 5);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for batch in BatchIter::new(&bytes) {
                let _ = batch.map(|batch| batch.header.last_sequence());
            }
            let _ = crc_ok(&bytes);
        }

        #[test]
        fn mutated_batches_never_panic(
            at in 0usize..80, value: u8, codec in 0u8..8,
        ) {
            let mut bytes = three_records();
            bytes[22] = codec;
            let at = at % bytes.len();
            bytes[at] = value;
            let mut scratch = Scratch::new();
            for batch in BatchIter::new(&bytes).flatten() {
                if let Ok(records) = batch.records(&mut scratch, 10_000) {
                    for record in records {
                        let _ = record.map(|record| record.headers.count());
                    }
                }
            }
        }
    }
}
