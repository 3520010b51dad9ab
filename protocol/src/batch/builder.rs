//! Making batches, for clients, internal topics and tests. A node never rebuilds what a
//! client sent; where a topic has a codec of its own, see [`super::recompress`].

use bytes::{BufMut, BytesMut};

use super::record::Header;
use super::{
    BatchHeader, CONTROL_BIT, Codec, CodecError, HEADER_BYTES, MAGIC, NO_LEADER_EPOCH, NO_PRODUCER_EPOCH,
    NO_PRODUCER_ID, NO_SEQUENCE, NO_TIMESTAMP, TRANSACTIONAL_BIT, packed, sealed,
};
use crate::wire::Writer;

/// Collects records and writes them as one batch.
///
/// ```
/// use corelog_protocol::batch::{BatchBuilder, Codec, crc_ok};
/// let batch = BatchBuilder::new()
///     .codec(Codec::Lz4)
///     .record(1_700_000_000_000, Some(b"key"), Some(b"value"))
///     .build()?;
/// assert!(crc_ok(&batch));
/// # Ok::<(), corelog_protocol::batch::CodecError>(())
/// ```
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    header: BatchHeader,
    codec: Codec,
    level: Option<i32>,
    records: BytesMut,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty batch at offset 0, without producer id, uncompressed.
    pub fn new() -> Self {
        Self {
            header: BatchHeader {
                base_offset: 0,
                length: 0,
                leader_epoch: NO_LEADER_EPOCH,
                magic: MAGIC,
                crc: 0,
                attributes: 0,
                last_offset_delta: -1,
                base_timestamp: NO_TIMESTAMP,
                max_timestamp: NO_TIMESTAMP,
                producer_id: NO_PRODUCER_ID,
                producer_epoch: NO_PRODUCER_EPOCH,
                base_sequence: NO_SEQUENCE,
                record_count: 0,
            },
            codec: Codec::None,
            level: None,
            records: BytesMut::new(),
        }
    }

    /// Offset of the first record; a producer leaves it 0.
    #[must_use]
    pub fn base_offset(mut self, base_offset: i64) -> Self {
        self.header.base_offset = base_offset;
        self
    }

    /// Partition leader epoch; a producer leaves it −1.
    #[must_use]
    pub fn leader_epoch(mut self, leader_epoch: i32) -> Self {
        self.header.leader_epoch = leader_epoch;
        self
    }

    /// Makes it a batch of an idempotent producer.
    #[must_use]
    pub fn producer(mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self {
        self.header.producer_id = producer_id;
        self.header.producer_epoch = producer_epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// Compresses the records.
    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Level on the codec's own scale.
    #[must_use]
    pub fn level(mut self, level: Option<i32>) -> Self {
        self.level = level;
        self
    }

    /// Marks the batch as part of a transaction.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.header.attributes |= TRANSACTIONAL_BIT;
        self
    }

    /// Marks the batch as a control batch (a transaction's marker).
    #[must_use]
    pub fn control(mut self) -> Self {
        self.header.attributes |= CONTROL_BIT;
        self
    }

    /// Adds a record without headers; the timestamp is in ms since 1970.
    #[must_use]
    pub fn record(mut self, timestamp_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        self.push(timestamp_ms, key, value, &[]);
        self
    }

    /// Adds a record with headers.
    #[must_use]
    pub fn record_with_headers(
        mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Self {
        self.push(timestamp_ms, key, value, headers);
        self
    }

    /// Adds a record; the form for loops.
    ///
    /// # Panics
    /// When the record or the batch would be larger than 2 GiB, or have 2³¹ records.
    pub fn push(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) {
        if self.header.record_count == 0 {
            self.header.base_timestamp = timestamp_ms;
            self.header.max_timestamp = timestamp_ms;
        }
        self.header.max_timestamp = self.header.max_timestamp.max(timestamp_ms);
        let timestamp_delta = timestamp_ms.wrapping_sub(self.header.base_timestamp);
        let offset_delta = self.header.record_count;
        self.header.record_count = offset_delta.checked_add(1).expect("a batch has fewer than 2^31 records");
        self.header.last_offset_delta = offset_delta;

        let body_bytes = 1
            + varlong_bytes(timestamp_delta)
            + varlong_bytes(i64::from(offset_delta))
            + nullable_bytes(key)
            + nullable_bytes(value)
            + varlong_bytes(signed(headers.len()).into())
            + headers
                .iter()
                .map(|header| nullable_bytes(Some(header.key)) + nullable_bytes(header.value))
                .sum::<usize>();
        let records = &mut self.records;
        records.reserve(body_bytes + varlong_bytes(signed(body_bytes).into()));
        records.put_varint(signed(body_bytes));
        let body_from = records.len();
        records.put_i8(0);
        records.put_varlong(timestamp_delta);
        records.put_varint(offset_delta);
        put_nullable(records, key);
        put_nullable(records, value);
        records.put_varint(signed(headers.len()));
        for header in headers {
            put_nullable(records, Some(header.key));
            put_nullable(records, header.value);
        }
        assert_eq!(records.len() - body_from, body_bytes, "computed size");
    }

    /// Number of records so far.
    pub fn record_count(&self) -> i32 {
        self.header.record_count
    }

    /// Size of the batch so far, before compression.
    pub fn size_bytes(&self) -> usize {
        HEADER_BYTES + self.records.len()
    }

    /// Writes the batch.
    ///
    /// # Errors
    /// When the codec's library fails.
    ///
    /// # Panics
    /// When the batch would be larger than 2 GiB.
    pub fn build(self) -> Result<BytesMut, CodecError> {
        let records = packed(self.codec, &self.records, self.level)?;
        let mut header = self.header;
        header.attributes |= i16::from(self.codec.bits());
        Ok(sealed(header, &records).expect("batches are smaller than 2 GiB"))
    }
}

fn signed(length: usize) -> i32 {
    i32::try_from(length).expect("batches are smaller than 2 GiB")
}

/// Size of a zigzag variable-length integer.
pub(super) fn varlong_bytes(value: i64) -> usize {
    let raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let bits = usize::try_from(64 - (raw | 1).leading_zeros()).expect("at most 64");
    bits.div_ceil(7)
}

fn nullable_bytes(bytes: Option<&[u8]>) -> usize {
    match bytes {
        Some(bytes) => varlong_bytes(signed(bytes.len()).into()) + bytes.len(),
        None => 1,
    }
}

fn put_nullable(buffer: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            buffer.put_varint(signed(bytes.len()));
            buffer.put_slice(bytes);
        }
        None => buffer.put_varint(-1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_variable_length_integers() {
        for value in [0, -1, 63, 64, -64, -65, 8191, 8192, i64::MAX, i64::MIN] {
            let mut bytes = BytesMut::new();
            bytes.put_varlong(value);
            assert_eq!(bytes.len(), varlong_bytes(value), "{value}");
        }
    }
}
