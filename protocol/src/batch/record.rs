//! The records inside a batch, borrowed from its (decompressed) bytes.
//!
//! ```text
//! length varint · attributes 1 · timestamp delta varlong · offset delta varint
//! key length varint (−1 null) · key · value length varint (−1 null) · value
//! header count varint · { key length varint · key · value length varint (−1 null) · value }
//! ```

use super::{BatchError, BatchRef, Reader, Scratch, TimestampType, WireError};

/// No record is smaller: length, attributes, two deltas, two lengths, header count.
pub(crate) const RECORD_BYTES_MIN: usize = 7;
/// No header is smaller: two lengths.
const HEADER_BYTES_MIN: usize = 2;

/// One record; everything is borrowed from the batch.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// Added to the batch's base offset.
    pub offset_delta: i32,
    /// Added to the batch's base timestamp, in ms.
    pub timestamp_delta: i64,
    /// The key, or null.
    pub key: Option<&'a [u8]>,
    /// The value; null is a tombstone on a compacted topic.
    pub value: Option<&'a [u8]>,
    /// The headers, already checked, in order; keys may repeat.
    pub headers: Headers<'a>,
}

/// A record header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The key: text by convention, not checked.
    pub key: &'a [u8],
    /// The value, or null.
    pub value: Option<&'a [u8]>,
}

/// The headers of one record, decoded as they are visited.
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl<'a> Headers<'a> {
    /// Checks all headers in `reader`, which must end with them.
    fn parse(mut reader: Reader<'a>) -> Result<Self, WireError> {
        let count = reader.varint()?;
        let count = usize::try_from(count).map_err(|_| WireError::InvalidLength(i64::from(count)))?;
        let remaining = reader.remaining();
        if count > remaining / HEADER_BYTES_MIN {
            return Err(WireError::ArrayTooLong { count, remaining });
        }
        let headers = Self { reader: reader.clone(), left: count };
        for _ in 0..count {
            read_header(&mut reader)?;
        }
        reader.finish()?;
        Ok(headers)
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        Some(read_header(&mut self.reader).expect("headers were checked when the record was"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Headers<'_> {}

fn read_header<'a>(reader: &mut Reader<'a>) -> Result<Header<'a>, WireError> {
    let key = nullable(reader)?.ok_or(WireError::InvalidLength(-1))?;
    let value = nullable(reader)?;
    Ok(Header { key, value })
}

fn nullable<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, WireError> {
    let length = reader.varint()?;
    match usize::try_from(length) {
        Ok(length) => reader.take(length).map(Some),
        Err(_) if length == -1 => Ok(None),
        Err(_) => Err(WireError::InvalidLength(i64::from(length))),
    }
}

impl<'a> Record<'a> {
    fn read(batch: &mut Reader<'a>) -> Result<Self, WireError> {
        let length = batch.varint()?;
        let length = usize::try_from(length).map_err(|_| WireError::InvalidLength(i64::from(length)))?;
        let mut reader = Reader::new(batch.take(length)?);
        let _attributes = reader.i8()?;
        Ok(Self {
            timestamp_delta: reader.varlong()?,
            offset_delta: reader.varint()?,
            key: nullable(&mut reader)?,
            value: nullable(&mut reader)?,
            headers: Headers::parse(reader)?,
        })
    }
}

/// The records of one batch, each fully checked. Ends after the first error; exactly the
/// announced number must be there, and not a byte more.
#[derive(Debug, Clone)]
pub struct RecordIter<'a> {
    reader: Reader<'a>,
    /// Records still to come; `None` after the end or an error.
    left: Option<i32>,
}

impl<'a> RecordIter<'a> {
    /// Over the decompressed records of a batch whose header counts `record_count`.
    pub fn new(records: &'a [u8], record_count: i32) -> Self {
        Self { reader: Reader::new(records), left: Some(record_count) }
    }

    /// Where the record ends that came last, in bytes of the records.
    pub(super) fn position(&self) -> usize {
        self.reader.position()
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = self.left.take()?;
        let remaining = self.reader.remaining();
        if left == 0 && remaining == 0 {
            return None;
        }
        if left <= 0 || remaining < RECORD_BYTES_MIN {
            return Some(Err(BatchError::CountMismatch));
        }
        let record = Record::read(&mut self.reader);
        if record.is_ok() {
            self.left = Some(left - 1);
        }
        Some(record.map_err(BatchError::MalformedRecord))
    }
}

/// The first record at offset `from_offset` or later whose timestamp is `timestamp_ms` or
/// later, as its offset and timestamp; for ListOffsets. Nothing in a control batch counts.
///
/// # Errors
/// When the batch does not decompress within `limit_bytes` or its records do not parse.
pub fn first_record_at_or_after(
    batch: &BatchRef<'_>,
    timestamp_ms: i64,
    from_offset: i64,
    limit_bytes: usize,
    scratch: &mut Scratch,
) -> Result<Option<(i64, i64)>, BatchError> {
    let header = batch.header;
    if header.is_control() || header.last_offset() < from_offset {
        return Ok(None);
    }
    if header.timestamp_type() == TimestampType::LogAppendTime && header.max_timestamp < timestamp_ms {
        return Ok(None);
    }
    for record in batch.records(scratch, limit_bytes)? {
        let record = record?;
        let offset = header.base_offset.saturating_add(i64::from(record.offset_delta));
        let timestamp = header.record_timestamp(record.timestamp_delta);
        if offset >= from_offset && timestamp >= timestamp_ms {
            return Ok(Some((offset, timestamp)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::{BatchBuilder, Codec, set_base_offset, set_log_append_time};
    use super::*;
    use proptest::prelude::*;

    type Owned = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

    fn payload() -> impl Strategy<Value = Option<Vec<u8>>> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..300))
    }

    fn records() -> impl Strategy<Value = Vec<Owned>> {
        let header = (prop::collection::vec(any::<u8>(), 0..5), payload());
        let headers = prop::collection::vec(header, 0..4);
        prop::collection::vec((0..1i64 << 41, payload(), payload(), headers), 1..20)
    }

    proptest! {
        #[test]
        fn records_come_back_with_every_codec(records in records(), codec in 0u8..5) {
            let mut builder = BatchBuilder::new().codec(Codec::from_bits(codec).unwrap());
            for (timestamp, key, value, headers) in &records {
                let headers: Vec<_> = headers
                    .iter()
                    .map(|(key, value)| Header { key, value: value.as_deref() })
                    .collect();
                builder = builder.record_with_headers(
                    *timestamp, key.as_deref(), value.as_deref(), &headers,
                );
            }
            let bytes = builder.build().unwrap();
            let batch = BatchRef::parse(&bytes).unwrap();
            prop_assert_eq!(batch.bytes.len(), bytes.len());
            let mut scratch = Scratch::new();
            let mut seen = Vec::new();
            for (index, record) in batch.records(&mut scratch, 1 << 20).unwrap().enumerate() {
                let record = record.unwrap();
                prop_assert_eq!(record.offset_delta, i32::try_from(index).unwrap());
                let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
                seen.push((
                    batch.header.record_timestamp(record.timestamp_delta),
                    own(record.key),
                    own(record.value),
                    record.headers.map(|header| (header.key.to_vec(), own(header.value))).collect(),
                ));
            }
            prop_assert_eq!(seen, records);
        }
    }

    fn look_up(bytes: &[u8], timestamp_ms: i64, from_offset: i64) -> Option<(i64, i64)> {
        let batch = BatchRef::parse(bytes).unwrap();
        first_record_at_or_after(&batch, timestamp_ms, from_offset, 10_000, &mut Scratch::new()).unwrap()
    }

    #[test]
    fn look_up_finds_the_first_record_even_when_timestamps_are_unordered() {
        for codec in Codec::ALL {
            let mut bytes = BatchBuilder::new()
                .codec(codec)
                .record(50, None, Some(b"a"))
                .record(90, None, Some(b"b"))
                .record(70, None, Some(b"c"))
                .build()
                .unwrap();
            set_base_offset(&mut bytes, 1_000);
            assert_eq!(look_up(&bytes, 0, 0), Some((1_000, 50)));
            assert_eq!(look_up(&bytes, 60, 0), Some((1_001, 90)));
            assert_eq!(look_up(&bytes, 60, 1_002), Some((1_002, 70)));
            assert_eq!(look_up(&bytes, 91, 0), None);
            assert_eq!(look_up(&bytes, 0, 1_003), None);
            set_log_append_time(&mut bytes, 500);
            assert_eq!(look_up(&bytes, 500, 1_001), Some((1_001, 500)));
            assert_eq!(look_up(&bytes, 501, 0), None);
        }
    }

    #[test]
    fn count_must_be_exact() {
        let bytes =
            BatchBuilder::new().record(1, None, Some(b"x")).record(2, None, Some(b"y")).build().unwrap();
        let records = &bytes[super::super::HEADER_BYTES..];
        let outcome = |count| RecordIter::new(records, count).collect::<Result<Vec<_>, _>>();
        assert_eq!(outcome(2).unwrap().len(), 2);
        for count in [i32::MIN, -1, 0, 1, 3, i32::MAX] {
            assert_eq!(outcome(count).unwrap_err(), BatchError::CountMismatch, "{count}");
        }
    }
}
