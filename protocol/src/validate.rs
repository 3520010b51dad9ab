//! What a batch from a client must satisfy before it is appended.
//!
//! Runs on the shard that owns the partition, on the way of every produce: an uncompressed
//! batch is checked without allocating, a compressed one is decompressed into the caller's
//! [`Scratch`]. Changes no byte; offsets and epochs are assigned afterwards.

use thiserror::Error;

use crate::batch::{
    BatchError, BatchHeader, BatchRef, Codec, CodecError, NO_TIMESTAMP, Record, Scratch, TimestampType,
    crc_ok,
};
use crate::error::ErrorCode;
use crate::wire::WireError;

/// First Produce version whose client knows zstd (KIP-110).
const ZSTD_PRODUCE_VERSION_MIN: i16 = 7;

/// A topic's rules for produced batches; the names are those of Kafka's topic settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProduceRules {
    /// `max.message.bytes`: size of a batch as sent, header included.
    pub max_message_bytes: usize,
    /// Whether `cleanup.policy` contains `compact`, so that every record needs a key.
    pub compacted: bool,
    /// `message.timestamp.type` with its bounds.
    pub timestamps: TimestampRule,
    /// Largest size of a batch's records once decompressed.
    pub max_decompressed_bytes: usize,
}

/// Which timestamps are acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampRule {
    /// The producer's, within bounds around the leader's clock.
    CreateTime {
        /// `message.timestamp.before.max.ms`
        before_max_ms: i64,
        /// `message.timestamp.after.max.ms`
        after_max_ms: i64,
    },
    /// The leader overwrites them, so that any will do.
    LogAppendTime,
}

impl Default for ProduceRules {
    /// Kafka 4's defaults, and 100 MiB of decompressed records.
    fn default() -> Self {
        Self {
            max_message_bytes: 1_048_588,
            compacted: false,
            timestamps: TimestampRule::CreateTime { before_max_ms: i64::MAX, after_max_ms: 3_600_000 },
            max_decompressed_bytes: 100 * 1024 * 1024,
        }
    }
}

/// Why a produced batch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The request has no batch for the partition.
    #[error("no record batch")]
    NoBatch,
    /// The batch is cut off, its length is impossible, or its CRC is wrong.
    #[error("corrupt batch: {0}")]
    Corrupt(CorruptBatch),
    /// Only format 2 is accepted.
    #[error("unsupported batch format (magic {0})")]
    UnsupportedMagic(i8),
    /// More than one batch for one partition, or garbage behind the batch.
    #[error("{0} bytes after the batch; one batch per partition is allowed")]
    NotOneBatch(usize),
    /// The codec is unknown, or newer than the request's version.
    #[error("unsupported compression codec {0}")]
    UnsupportedCodec(u8),
    /// Larger than `max.message.bytes`.
    #[error("batch of {size_bytes} bytes is larger than {max_bytes}")]
    TooLarge {
        /// Size of the batch.
        size_bytes: usize,
        /// The topic's limit.
        max_bytes: usize,
    },
    /// The records decompress to more than is allowed.
    #[error("records decompress to more than {max_bytes} bytes")]
    DecompressedTooLarge {
        /// The limit.
        max_bytes: usize,
    },
    /// The header contradicts itself or claims what a client must not.
    #[error("invalid batch header: {0}")]
    InvalidHeader(HeaderFault),
    /// The compressed records do not decompress.
    #[error("malformed {0} data")]
    MalformedCompression(Codec),
    /// A record does not parse.
    #[error("record {index}: {error}")]
    MalformedRecord {
        /// Position of the record in the batch.
        index: i32,
        /// What is wrong.
        error: WireError,
    },
    /// More or fewer records than the header's count.
    #[error("the batch does not hold the {0} records that its header counts")]
    CountMismatch(i32),
    /// Offset deltas do not count 0, 1, 2 …
    #[error("record {index} has offset delta {offset_delta}")]
    OffsetDelta {
        /// Position of the record in the batch.
        index: i32,
        /// What it says.
        offset_delta: i32,
    },
    /// A record without key on a compacted topic.
    #[error("record {index} has no key, but the topic is compacted")]
    KeyMissing {
        /// Position of the record in the batch.
        index: i32,
    },
    /// A timestamp outside the topic's bounds, or a type that only the leader may set.
    #[error("record {index}: timestamp {timestamp} is not acceptable")]
    InvalidTimestamp {
        /// Position of the record in the batch.
        index: i32,
        /// The timestamp, in ms since 1970.
        timestamp: i64,
    },
}

/// How a batch is corrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CorruptBatch {
    /// Bytes are missing.
    #[error("truncated")]
    Truncated,
    /// The length field is smaller than a header.
    #[error("length {0}")]
    Length(i32),
    /// The CRC is not that of the bytes.
    #[error("wrong CRC")]
    Crc,
}

/// What is wrong with a batch's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeaderFault {
    /// Last offset delta + 1 = record count > 0 does not hold.
    #[error("record count does not match last offset delta")]
    Count,
    /// Control batches are the coordinators'.
    #[error("control batch from a client")]
    Control,
    /// The delete horizon is compaction's.
    #[error("delete horizon from a client")]
    DeleteHorizon,
    /// A producer id below −1.
    #[error("negative producer id")]
    ProducerId,
    /// A producer id without epoch.
    #[error("producer id without producer epoch")]
    ProducerEpoch,
    /// A producer id without sequence.
    #[error("producer id without base sequence")]
    BaseSequence,
    /// A transactional batch without producer id.
    #[error("transactional batch without producer id")]
    TransactionalWithoutProducer,
}

impl RecordError {
    /// The code that a client gets to see.
    pub const fn code(&self) -> ErrorCode {
        match self {
            RecordError::Corrupt(_) => ErrorCode::CorruptMessage,
            RecordError::UnsupportedCodec(_) => ErrorCode::UnsupportedCompressionType,
            // A producer answers this by splitting the batch, which is right for both.
            RecordError::TooLarge { .. } | RecordError::DecompressedTooLarge { .. } => {
                ErrorCode::MessageTooLarge
            }
            RecordError::InvalidTimestamp { .. } => ErrorCode::InvalidTimestamp,
            RecordError::NoBatch
            | RecordError::UnsupportedMagic(_)
            | RecordError::NotOneBatch(_)
            | RecordError::InvalidHeader(_)
            | RecordError::MalformedCompression(_)
            | RecordError::MalformedRecord { .. }
            | RecordError::CountMismatch(_)
            | RecordError::OffsetDelta { .. }
            | RecordError::KeyMissing { .. } => ErrorCode::InvalidRecord,
        }
    }

    /// The record to blame, as its position in the batch, where there is one; Produce
    /// answers name it from version 8 on.
    pub const fn record_index(&self) -> Option<i32> {
        match *self {
            RecordError::MalformedRecord { index, .. }
            | RecordError::OffsetDelta { index, .. }
            | RecordError::KeyMissing { index }
            | RecordError::InvalidTimestamp { index, .. } => Some(index),
            RecordError::NoBatch
            | RecordError::Corrupt(_)
            | RecordError::UnsupportedMagic(_)
            | RecordError::NotOneBatch(_)
            | RecordError::UnsupportedCodec(_)
            | RecordError::TooLarge { .. }
            | RecordError::DecompressedTooLarge { .. }
            | RecordError::InvalidHeader(_)
            | RecordError::MalformedCompression(_)
            | RecordError::CountMismatch(_) => None,
        }
    }
}

/// The most records of a batch that are named in an answer, which must not grow far beyond its
/// request; a client takes it of the others that they were refused because of these.
pub const BLAMED_RECORDS_MAX: usize = 100;

/// What a checked batch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSummary {
    /// The decoded header, as the client sent it.
    pub header: BatchHeader,
    /// The codec of its records.
    pub codec: Codec,
    /// Largest timestamp among the records; the header may say another one, see
    /// [`crate::batch::set_max_timestamp`].
    pub max_timestamp: i64,
    /// Offset delta of the first record with that timestamp.
    pub max_timestamp_offset_delta: i32,
}

/// The records of a batch that break a rule of the topic, as their positions in it, once one of them
/// did: Produce answers name all of them, at most [`BLAMED_RECORDS_MAX`], so that a client can send
/// the others again.
///
/// `error` is what [`check_batch`] said of the same batch under the same rules.
pub fn blamed_records(
    batch: &[u8],
    rules: &ProduceRules,
    now_ms: i64,
    scratch: &mut Scratch,
    error: &RecordError,
) -> Vec<i32> {
    let Some(first) = error.record_index() else { return Vec::new() };
    if !matches!(error, RecordError::KeyMissing { .. } | RecordError::InvalidTimestamp { .. }) {
        return vec![first];
    }
    let Ok(whole) = BatchRef::parse(batch) else { return vec![first] };
    let Ok(records) = whole.records(scratch, rules.max_decompressed_bytes) else { return vec![first] };
    let is_blamed = |(index, record): (i32, Result<Record<'_>, BatchError>)| {
        let outcome = check_record(&record.ok()?, index, &whole.header, rules, now_ms);
        outcome.is_err_and(|error| error.record_index() == Some(index)).then_some(index)
    };
    let blamed: Vec<i32> = (0..).zip(records).filter_map(is_blamed).take(BLAMED_RECORDS_MAX).collect();
    // The type of the batch's timestamps is to blame, and not one record.
    if blamed.is_empty() { vec![first] } else { blamed }
}

/// Checks what a client sent for one partition: exactly one batch, acceptable under
/// `rules`. `now_ms` is the leader's clock.
///
/// # Errors
/// The first rule that is broken; [`RecordError::code`] is the answer to the client.
pub fn check_batch(
    batch: &[u8],
    rules: &ProduceRules,
    now_ms: i64,
    scratch: &mut Scratch,
) -> Result<BatchSummary, RecordError> {
    if batch.is_empty() {
        return Err(RecordError::NoBatch);
    }
    let whole = BatchRef::parse(batch).map_err(header_error)?;
    if whole.bytes.len() > rules.max_message_bytes {
        return Err(RecordError::TooLarge {
            size_bytes: whole.bytes.len(),
            max_bytes: rules.max_message_bytes,
        });
    }
    if whole.bytes.len() < batch.len() {
        return Err(RecordError::NotOneBatch(batch.len() - whole.bytes.len()));
    }
    if !crc_ok(whole.bytes) {
        return Err(RecordError::Corrupt(CorruptBatch::Crc));
    }
    let header = whole.header;
    let codec = header.codec().map_err(header_error)?;
    check_header(&header).map_err(RecordError::InvalidHeader)?;
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Err(RecordError::InvalidTimestamp { index: 0, timestamp: header.max_timestamp });
    }
    check_records(&whole, codec, rules, now_ms, scratch)
}

/// Refuses zstd from a client whose Produce version is older than that codec.
///
/// # Errors
/// [`RecordError::UnsupportedCodec`]
pub fn check_codec(header: &BatchHeader, produce_version: i16) -> Result<(), RecordError> {
    match header.codec().map_err(header_error)? {
        Codec::Zstd if produce_version < ZSTD_PRODUCE_VERSION_MIN => {
            Err(RecordError::UnsupportedCodec(Codec::Zstd.bits()))
        }
        Codec::None | Codec::Gzip | Codec::Snappy | Codec::Lz4 | Codec::Zstd => Ok(()),
    }
}

fn check_header(header: &BatchHeader) -> Result<(), HeaderFault> {
    if header.record_count <= 0 || header.last_offset_delta != header.record_count - 1 {
        return Err(HeaderFault::Count);
    }
    if header.is_control() {
        return Err(HeaderFault::Control);
    }
    if header.has_delete_horizon() {
        return Err(HeaderFault::DeleteHorizon);
    }
    if header.producer_id < -1 {
        return Err(HeaderFault::ProducerId);
    }
    if header.has_producer_id() {
        if header.producer_epoch < 0 {
            return Err(HeaderFault::ProducerEpoch);
        }
        if header.base_sequence < 0 {
            return Err(HeaderFault::BaseSequence);
        }
    } else if header.is_transactional() {
        return Err(HeaderFault::TransactionalWithoutProducer);
    }
    Ok(())
}

fn check_records(
    batch: &BatchRef<'_>,
    codec: Codec,
    rules: &ProduceRules,
    now_ms: i64,
    scratch: &mut Scratch,
) -> Result<BatchSummary, RecordError> {
    let header = batch.header;
    let records = batch.records(scratch, rules.max_decompressed_bytes).map_err(header_error)?;
    let mut summary =
        BatchSummary { header, codec, max_timestamp: NO_TIMESTAMP, max_timestamp_offset_delta: 0 };
    for (index, record) in (0..).zip(records) {
        let record = record.map_err(|error| match error {
            BatchError::MalformedRecord(error) => RecordError::MalformedRecord { index, error },
            BatchError::CountMismatch => RecordError::CountMismatch(header.record_count),
            other => header_error(other),
        })?;
        let timestamp = check_record(&record, index, &header, rules, now_ms)?;
        if timestamp > summary.max_timestamp {
            summary.max_timestamp = timestamp;
            summary.max_timestamp_offset_delta = index;
        }
    }
    Ok(summary)
}

/// Returns the record's timestamp.
fn check_record(
    record: &Record<'_>,
    index: i32,
    header: &BatchHeader,
    rules: &ProduceRules,
    now_ms: i64,
) -> Result<i64, RecordError> {
    if record.offset_delta != index {
        return Err(RecordError::OffsetDelta { index, offset_delta: record.offset_delta });
    }
    if rules.compacted && record.key.is_none() {
        return Err(RecordError::KeyMissing { index });
    }
    let timestamp = header.record_timestamp(record.timestamp_delta);
    let acceptable = match rules.timestamps {
        TimestampRule::LogAppendTime => true,
        TimestampRule::CreateTime { .. } if timestamp == NO_TIMESTAMP => true,
        TimestampRule::CreateTime { before_max_ms, after_max_ms } => {
            now_ms.saturating_sub(timestamp) <= before_max_ms
                && timestamp.saturating_sub(now_ms) <= after_max_ms
        }
    };
    if acceptable { Ok(timestamp) } else { Err(RecordError::InvalidTimestamp { index, timestamp }) }
}

fn header_error(error: BatchError) -> RecordError {
    match error {
        BatchError::Truncated { .. } => RecordError::Corrupt(CorruptBatch::Truncated),
        BatchError::InvalidLength(length) => RecordError::Corrupt(CorruptBatch::Length(length)),
        BatchError::UnsupportedMagic(magic) => RecordError::UnsupportedMagic(magic),
        BatchError::UnknownCodec(bits) => RecordError::UnsupportedCodec(bits),
        BatchError::MalformedRecord(error) => RecordError::MalformedRecord { index: 0, error },
        BatchError::CountMismatch => RecordError::CountMismatch(0),
        BatchError::Codec(CodecError::TooLarge { limit_bytes }) => {
            RecordError::DecompressedTooLarge { max_bytes: limit_bytes }
        }
        BatchError::Codec(CodecError::Malformed { codec } | CodecError::Failed { codec }) => {
            RecordError::MalformedCompression(codec)
        }
    }
}

#[cfg(test)]
mod tests;
