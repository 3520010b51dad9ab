//! What compaction makes of a batch: some of its records, an empty header, or nothing; and the
//! fillers that stand where whole batches were removed.
//!
//! Pure: a batch and a verdict for each of its records in, bytes out. Records are copied as they
//! are stored, so offsets, keys, values and headers cannot change on the way; base offset, last
//! offset, producer, sequences, leader epoch, codec and timestamp type are those of the original.
//! Which records stay is the caller's to say. Source: `MemoryRecords.filterTo` and
//! `DefaultRecordBatch.writeEmptyHeader` of Kafka, KIP-534 for the delete horizon.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::builder::varlong_bytes;
use super::{
    BatchError, BatchHeader, BatchRef, CODEC_MASK, CodecError, DELETE_HORIZON_BIT, MAGIC, NO_PRODUCER_EPOCH,
    NO_PRODUCER_ID, NO_SEQUENCE, NO_TIMESTAMP, Reader, Record, RecordIter, Scratch, TimestampType, WireError,
    packed, sealed,
};
use crate::wire::Writer;

/// A filler stands for at most so many offsets.
pub const FILLER_OFFSETS_MAX: i64 = 0x7fff_fffe;

/// How a batch is filtered, beside the verdicts on its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterRules {
    /// Whether the batch stays as a header when no record does: it is the last one of a producer
    /// that is still known, and holds that producer's sequence.
    pub keeps_empty: bool,
    /// The delete horizon of a batch that keeps a tombstone and has none yet, in ms since 1970;
    /// not negative. Nothing: it gets none.
    pub horizon_ms: Option<i64>,
    /// Largest size of the records once decompressed.
    pub limit_bytes: usize,
}

/// What becomes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filtered {
    /// It stays, byte for byte.
    Kept,
    /// These bytes take its place: fewer records, or a delete horizon.
    Rewritten(Bytes),
    /// No record stays, but its header does: these bytes take its place.
    Emptied(Bytes),
    /// Nothing of it stays. Its offsets are for a filler to cover.
    Gone,
}

/// Why a batch cannot be filtered. It must then stay where and as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FilterError {
    /// Its records do not decompress or do not parse.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Offset deltas do not grow, or go beyond the last offset.
    #[error("record {index} has offset delta {offset_delta}, out of order")]
    OffsetDelta {
        /// Position of the record in the batch.
        index: i32,
        /// What it says.
        offset_delta: i32,
    },
    /// What stays would be larger than a batch can be.
    #[error("the filtered batch would have {0} bytes of records")]
    TooLarge(usize),
}

impl From<WireError> for FilterError {
    fn from(error: WireError) -> Self {
        Self::Batch(error.into())
    }
}

impl From<CodecError> for FilterError {
    fn from(error: CodecError) -> Self {
        Self::Batch(error.into())
    }
}

/// Asks `stays` about each record of `batch`, in order, with the record's offset, and makes of the
/// batch what the answers and `rules` say. The checksum is the caller's to check.
///
/// # Errors
/// When the records cannot be read, or what stays cannot be written.
///
/// # Panics
/// When the horizon in `rules` is negative.
pub fn filter(
    batch: &BatchRef<'_>,
    rules: &FilterRules,
    scratch: &mut Scratch,
    mut stays: impl FnMut(i64, &Record<'_>) -> bool,
) -> Result<Filtered, FilterError> {
    assert!(rules.horizon_ms.is_none_or(|horizon_ms| horizon_ms >= 0), "a delete horizon is a point in time");
    let header = batch.header;
    let records = scratch.decompress(header.codec()?, batch.payload(), rules.limit_bytes)?;
    let kept = Kept::choose(&header, records, &mut stays)?;
    if kept.count == 0 {
        return Ok(without_records(batch, rules.keeps_empty));
    }
    let horizon_ms = rules.horizon_ms.filter(|_| kept.has_tombstone && !header.has_delete_horizon());
    if horizon_ms.is_none() && kept.count == header.record_count {
        return Ok(Filtered::Kept);
    }
    let records = match horizon_ms {
        None => kept.copy(records),
        Some(horizon_ms) => kept.copy_rebased(records, &header, horizon_ms)?,
    };
    rewritten(&header, &kept, horizon_ms, &records).map(Filtered::Rewritten)
}

/// The records of a batch that stay.
struct Kept {
    /// Where they lie in the decompressed records, those that follow each other joined.
    ranges: Vec<Range<usize>>,
    count: i32,
    has_tombstone: bool,
    /// Largest timestamp among them.
    max_timestamp: i64,
}

impl Kept {
    fn choose(
        header: &BatchHeader,
        records: &[u8],
        stays: &mut impl FnMut(i64, &Record<'_>) -> bool,
    ) -> Result<Self, FilterError> {
        let mut kept =
            Self { ranges: Vec::new(), count: 0, has_tombstone: false, max_timestamp: NO_TIMESTAMP };
        let mut iter = RecordIter::new(records, header.record_count);
        let mut from = 0;
        let mut delta_min = 0;
        for index in 0.. {
            let Some(record) = iter.next() else { break };
            let record = record?;
            let offset_delta = record.offset_delta;
            if offset_delta < delta_min || offset_delta > header.last_offset_delta {
                return Err(FilterError::OffsetDelta { index, offset_delta });
            }
            delta_min = offset_delta.saturating_add(1);
            let place = from..iter.position();
            from = place.end;
            if stays(header.base_offset.saturating_add(i64::from(offset_delta)), &record) {
                kept.add(place, header.record_timestamp(record.timestamp_delta), record.value.is_none());
            }
        }
        Ok(kept)
    }

    fn add(&mut self, place: Range<usize>, timestamp: i64, is_tombstone: bool) {
        match self.ranges.last_mut() {
            Some(last) if last.end == place.start => last.end = place.end,
            Some(_) | None => self.ranges.push(place),
        }
        self.count += 1;
        self.has_tombstone |= is_tombstone;
        self.max_timestamp = self.max_timestamp.max(timestamp);
    }

    fn copy(&self, records: &[u8]) -> BytesMut {
        let mut copy = BytesMut::with_capacity(self.ranges.iter().map(ExactSizeIterator::len).sum());
        self.ranges.iter().for_each(|range| copy.put_slice(&records[range.clone()]));
        copy
    }

    /// As they are, but with timestamp deltas for another base timestamp.
    fn copy_rebased(
        &self,
        records: &[u8],
        header: &BatchHeader,
        base_timestamp: i64,
    ) -> Result<BytesMut, FilterError> {
        let mut copy = BytesMut::with_capacity(records.len());
        for range in &self.ranges {
            let mut reader = Reader::new(&records[range.clone()]);
            while reader.remaining() > 0 {
                let length = usize::try_from(reader.varint()?).expect("the record was read before");
                let body = reader.take(length)?;
                let mut fields = Reader::new(body);
                let attributes = fields.i8()?;
                let timestamp = header.record_timestamp(fields.varlong()?);
                let delta = timestamp.wrapping_sub(base_timestamp);
                let rest = &body[fields.position()..];
                let length = 1 + varlong_bytes(delta) + rest.len();
                copy.put_varint(i32::try_from(length).map_err(|_| FilterError::TooLarge(length))?);
                copy.put_i8(attributes);
                copy.put_varlong(delta);
                copy.put_slice(rest);
            }
        }
        Ok(copy)
    }
}

fn rewritten(
    original: &BatchHeader,
    kept: &Kept,
    horizon_ms: Option<i64>,
    records: &[u8],
) -> Result<Bytes, FilterError> {
    let payload = packed(original.codec()?, records, None)?;
    let mut header = BatchHeader { record_count: kept.count, ..*original };
    if original.timestamp_type() == TimestampType::CreateTime {
        header.max_timestamp = kept.max_timestamp;
    }
    if let Some(horizon_ms) = horizon_ms {
        header.attributes |= DELETE_HORIZON_BIT;
        header.base_timestamp = horizon_ms;
    }
    sealed(header, &payload).map(BytesMut::freeze).ok_or(FilterError::TooLarge(payload.len()))
}

fn without_records(batch: &BatchRef<'_>, keeps_empty: bool) -> Filtered {
    if !keeps_empty {
        return Filtered::Gone;
    }
    let empty = empty(without_payload(&batch.header));
    if empty == batch.bytes { Filtered::Kept } else { Filtered::Emptied(empty) }
}

/// The header that Kafka leaves of a batch without records.
fn without_payload(original: &BatchHeader) -> BatchHeader {
    BatchHeader {
        attributes: original.attributes & !(CODEC_MASK | DELETE_HORIZON_BIT),
        base_timestamp: NO_TIMESTAMP,
        record_count: 0,
        ..*original
    }
}

fn empty(header: BatchHeader) -> Bytes {
    sealed(header, &[]).expect("a header alone is small").freeze()
}

/// A batch without records that stands for the offsets from `base_offset` to `next_offset`,
/// exclusive, whose records were all removed. All of them were of this leader epoch.
///
/// # Panics
/// When that are no offsets, or more than [`FILLER_OFFSETS_MAX`].
pub fn filler(base_offset: i64, next_offset: i64, leader_epoch: i32) -> Bytes {
    let offsets = next_offset.checked_sub(base_offset).expect("offsets are not negative");
    assert!(offsets > 0, "a filler stands for something");
    assert!(offsets <= FILLER_OFFSETS_MAX, "a filler's last offset delta is limited");
    let header = BatchHeader {
        base_offset,
        length: 0,
        leader_epoch,
        magic: MAGIC,
        crc: 0,
        attributes: 0,
        last_offset_delta: i32::try_from(offsets - 1).expect("it was just compared"),
        base_timestamp: NO_TIMESTAMP,
        max_timestamp: NO_TIMESTAMP,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        base_sequence: NO_SEQUENCE,
        record_count: 0,
    };
    empty(header)
}

/// Whether a stored batch is a filler: it has no records and keeps no producer's sequence.
pub fn is_filler(header: &BatchHeader) -> bool {
    header.record_count == 0 && !header.has_producer_id() && !header.is_control()
}

#[cfg(test)]
mod tests {
    use super::super::{BatchBuilder, Codec, Header, crc_ok, set_log_append_time};
    use super::*;
    use proptest::prelude::*;

    const LIMIT_BYTES: usize = 1 << 20;
    const HORIZON_MS: i64 = 1_800_000_000_000;

    /// Offset, timestamp, key, value and headers of a record.
    type Owned = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

    fn rules(keeps_empty: bool, horizon_ms: Option<i64>) -> FilterRules {
        FilterRules { keeps_empty, horizon_ms, limit_bytes: LIMIT_BYTES }
    }

    fn read(bytes: &[u8]) -> (BatchHeader, Vec<Owned>) {
        let batch = BatchRef::parse(bytes).unwrap();
        assert!(crc_ok(bytes) && batch.bytes.len() == bytes.len());
        let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let mut scratch = Scratch::new();
        let records = batch.records(&mut scratch, LIMIT_BYTES).unwrap().map(|record| {
            let record = record.unwrap();
            let offset = batch.header.base_offset + i64::from(record.offset_delta);
            let timestamp = batch.header.record_timestamp(record.timestamp_delta);
            let headers = record.headers.map(|header| (header.key.to_vec(), own(header.value))).collect();
            (offset, timestamp, own(record.key), own(record.value), headers)
        });
        (batch.header, records.collect())
    }

    fn filtered(bytes: &[u8], rules: &FilterRules, stays: impl Fn(i64) -> bool) -> Filtered {
        let batch = BatchRef::parse(bytes).unwrap();
        filter(&batch, rules, &mut Scratch::new(), |offset, _| stays(offset)).unwrap()
    }

    /// What is in the place of the batch.
    fn outcome(bytes: &[u8], rules: &FilterRules, stays: impl Fn(i64) -> bool) -> Option<Vec<u8>> {
        match filtered(bytes, rules, stays) {
            Filtered::Kept => Some(bytes.to_vec()),
            Filtered::Rewritten(bytes) | Filtered::Emptied(bytes) => Some(bytes.to_vec()),
            Filtered::Gone => None,
        }
    }

    fn payload() -> impl Strategy<Value = Option<Vec<u8>>> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..100))
    }

    prop_compose! {
        fn batches()(
            records in prop::collection::vec((-1..1i64 << 41, payload(), payload(), payload()), 1..20),
            codec in prop::sample::select(&Codec::ALL[..]),
            producer in prop::option::of((0..1i64 << 40, 0..i16::MAX, 0..i32::MAX)),
            is_transactional in any::<bool>(),
            log_append_time in prop::option::of(0..1i64 << 41),
            base_offset in 0..1i64 << 60,
            leader_epoch in 0..i32::MAX,
        ) -> Vec<u8> {
            let mut builder = BatchBuilder::new()
                .codec(codec)
                .base_offset(base_offset)
                .leader_epoch(leader_epoch);
            if let Some((id, epoch, sequence)) = producer {
                builder = builder.producer(id, epoch, sequence);
                if is_transactional {
                    builder = builder.transactional();
                }
            }
            for (timestamp, key, value, header) in &records {
                let headers: Vec<_> =
                    header.iter().map(|value| Header { key: b"h", value: Some(value) }).collect();
                builder.push(*timestamp, key.as_deref(), value.as_deref(), &headers);
            }
            let mut bytes = builder.build().unwrap();
            if let Some(timestamp_ms) = log_append_time {
                set_log_append_time(&mut bytes, timestamp_ms);
            }
            bytes.to_vec()
        }
    }

    /// The fields that no filtering changes.
    fn lasting(header: &BatchHeader) -> impl PartialEq + std::fmt::Debug {
        (
            (header.base_offset, header.last_offset_delta, header.leader_epoch),
            (header.producer_id, header.producer_epoch, header.base_sequence, header.last_sequence()),
            (header.timestamp_type(), header.is_transactional(), header.is_control()),
        )
    }

    proptest! {
        #[test]
        fn exactly_what_should_stay_stays_unchanged(
            bytes in batches(),
            masks in prop::collection::vec(any::<u32>(), 1..4),
            horizons in prop::collection::vec(prop::option::of(0..1i64 << 42), 3),
        ) {
            let (original, mut expected) = read(&bytes);
            let mut bytes = bytes;
            let mut horizon = None;
            // Round after round, as compaction does it.
            for (mask, set) in masks.into_iter().zip(horizons) {
                let stays = |offset: i64| mask & 1 << (offset - original.base_offset) != 0;
                let count_before = expected.len();
                expected.retain(|(offset, ..)| stays(*offset));
                let filtered = filtered(&bytes, &rules(false, set), stays);
                if expected.is_empty() {
                    prop_assert_eq!(filtered, Filtered::Gone);
                    return Ok(());
                }
                let has_tombstone = expected.iter().any(|(_, _, _, value, _)| value.is_none());
                let sets = horizon.is_none() && has_tombstone && set.is_some();
                if sets {
                    horizon = set;
                }
                match filtered {
                    Filtered::Rewritten(new) => bytes = new.to_vec(),
                    Filtered::Kept => prop_assert!(expected.len() == count_before && !sets),
                    other => prop_assert!(false, "{:?}", other),
                }
                let (header, records) = read(&bytes);
                prop_assert_eq!(&records, &expected);
                prop_assert_eq!(lasting(&header), lasting(&original));
                prop_assert_eq!(header.codec(), original.codec());
                prop_assert_eq!(usize::try_from(header.record_count), Ok(expected.len()));
                let newest = records.iter().map(|(_, timestamp, ..)| *timestamp).max();
                prop_assert_eq!(Some(header.max_timestamp), newest);
                prop_assert_eq!(header.has_delete_horizon(), horizon.is_some());
                prop_assert_eq!(header.base_timestamp, horizon.unwrap_or(original.base_timestamp));
            }
        }

        #[test]
        fn an_empty_batch_keeps_what_says_who_wrote_it(bytes in batches()) {
            let (original, _) = read(&bytes);
            prop_assert_eq!(filtered(&bytes, &rules(false, None), |_| false), Filtered::Gone);
            let Filtered::Emptied(empty) = filtered(&bytes, &rules(true, Some(HORIZON_MS)), |_| false) else {
                panic!("a batch that keeps its header is emptied");
            };
            let (header, records) = read(&empty);
            prop_assert!(records.is_empty() && !header.has_delete_horizon());
            prop_assert_eq!(lasting(&header), lasting(&original));
            prop_assert_eq!(header.codec(), Ok(Codec::None));
            prop_assert_eq!((header.base_timestamp, header.max_timestamp), (-1, original.max_timestamp));
            prop_assert_eq!(is_filler(&header), !original.has_producer_id());
            // It stays as it is for as long as it must, and goes when it need not stay any more.
            prop_assert_eq!(filtered(&empty, &rules(true, None), |_| true), Filtered::Kept);
            prop_assert_eq!(filtered(&empty, &rules(false, None), |_| true), Filtered::Gone);
        }

        #[test]
        fn nearly_right_batches_are_filtered_or_refused(
            bytes in batches(), at in any::<prop::sample::Index>(), value in any::<u8>(), mask in any::<u32>(),
        ) {
            let mut bytes = bytes;
            let at = at.index(bytes.len());
            bytes[at] = value;
            if let Ok(batch) = BatchRef::parse(&bytes) {
                let stays = |offset: i64, _: &Record<'_>| mask & 1 << (offset & 31) != 0;
                let rules = rules(mask & 1 == 0, Some(HORIZON_MS));
                if let Ok(Filtered::Rewritten(new)) = filter(&batch, &rules, &mut Scratch::new(), stays) {
                    prop_assert!(crc_ok(&new));
                    let header = BatchHeader::parse(&new).unwrap();
                    prop_assert_eq!(header.next_offset(), batch.header.next_offset());
                }
            }
        }

        #[test]
        fn a_filler_covers_its_offsets_and_nothing_else(
            base in 0..1i64 << 60, offsets in 1..=FILLER_OFFSETS_MAX, leader_epoch in 0..i32::MAX,
        ) {
            let bytes = filler(base, base + offsets, leader_epoch);
            let (header, records) = read(&bytes);
            prop_assert!(records.is_empty() && is_filler(&header));
            prop_assert_eq!((header.base_offset, header.next_offset()), (base, base + offsets));
            prop_assert_eq!((header.leader_epoch, header.max_timestamp), (leader_epoch, -1));
            prop_assert!(!header.has_producer_id() && header.last_sequence() == -1);
        }
    }

    fn two_records() -> Vec<u8> {
        let builder = BatchBuilder::new().base_offset(10).leader_epoch(3);
        builder.record(500, Some(b"a"), Some(b"1")).record(700, Some(b"b"), None).build().unwrap().to_vec()
    }

    #[test]
    fn a_horizon_is_set_once_and_only_where_a_tombstone_stays() {
        let with_horizon = rules(false, Some(HORIZON_MS));
        let bytes = two_records();
        // Without the tombstone there is nothing that would have to wait.
        let (header, _) = read(&outcome(&bytes, &with_horizon, |offset| offset == 10).unwrap());
        assert!(!header.has_delete_horizon() && header.base_timestamp == 500);
        let first = outcome(&bytes, &with_horizon, |_| true).unwrap();
        let (header, records) = read(&first);
        assert!(header.has_delete_horizon() && header.base_timestamp == HORIZON_MS);
        assert_eq!(records, read(&bytes).1);
        let later = rules(false, Some(HORIZON_MS + 1));
        assert_eq!(filtered(&first, &later, |_| true), Filtered::Kept);
        let (header, _) = read(&outcome(&first, &later, |offset| offset == 11).unwrap());
        assert_eq!((header.base_timestamp, header.max_timestamp), (HORIZON_MS, 700));
    }

    #[test]
    fn records_are_judged_once_each_in_order_with_their_offset() {
        let bytes = two_records();
        let mut seen = Vec::new();
        let mut stays = |offset: i64, record: &Record<'_>| {
            seen.push((offset, record.key.unwrap().to_vec()));
            false
        };
        let batch = BatchRef::parse(&bytes).unwrap();
        filter(&batch, &rules(false, None), &mut Scratch::new(), &mut stays).unwrap();
        assert_eq!(seen, [(10, b"a".to_vec()), (11, b"b".to_vec())]);
    }

    #[test]
    fn offset_deltas_that_do_not_grow_are_refused() {
        // The batch with a last offset delta of 0 instead of 1.
        let mut bytes = two_records();
        bytes[26] = 0;
        let batch = BatchRef::parse(&bytes).unwrap();
        let result = filter(&batch, &rules(false, None), &mut Scratch::new(), |_, _| true);
        assert_eq!(result, Err(FilterError::OffsetDelta { index: 1, offset_delta: 1 }));
    }

    #[test]
    fn records_beyond_the_limit_are_refused_and_nothing_else_is_lost() {
        let bytes = two_records();
        let batch = BatchRef::parse(&bytes).unwrap();
        let rules = FilterRules { limit_bytes: 5, ..rules(false, None) };
        let result = filter(&batch, &rules, &mut Scratch::new(), |_, _| true);
        assert_eq!(result, Err(CodecError::TooLarge { limit_bytes: 5 }.into()));
    }
}
