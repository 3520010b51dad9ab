use super::*;
use crate::batch::{BatchBuilder, HEADER_BYTES, Header, compress, set_log_append_time, update_crc};
use bytes::{BufMut, BytesMut};
use proptest::prelude::*;

const NOW_MS: i64 = 1_700_000_000_000;

fn builder() -> BatchBuilder {
    BatchBuilder::new()
        .producer(9, 3, 100)
        .record(NOW_MS - 5, Some(b"a"), Some(b"1"))
        .record(NOW_MS, Some(b"b"), Some(b"2"))
        .record(NOW_MS - 7, Some(b"c"), None)
}

fn check(batch: &[u8]) -> Result<BatchSummary, RecordError> {
    check_with(batch, &ProduceRules::default())
}

fn check_with(batch: &[u8], rules: &ProduceRules) -> Result<BatchSummary, RecordError> {
    check_batch(batch, rules, NOW_MS, &mut Scratch::new())
}

/// A valid batch with one header field overwritten and a right CRC.
fn with_field(at: usize, field: &[u8]) -> BytesMut {
    let mut batch = builder().build().unwrap();
    batch[at..at + field.len()].copy_from_slice(field);
    update_crc(&mut batch);
    batch
}

/// A batch that claims `count` records and carries these bytes as such.
fn with_payload(codec: Codec, count: i32, payload: &[u8]) -> BytesMut {
    let compressed = compress(codec, payload, None).unwrap();
    let mut batch = BytesMut::from(&builder().build().unwrap()[..HEADER_BYTES]);
    batch[8..12].copy_from_slice(&(i32::try_from(compressed.len()).unwrap() + 49).to_be_bytes());
    batch[21..23].copy_from_slice(&i16::from(codec.bits()).to_be_bytes());
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    batch.put_slice(&compressed);
    update_crc(&mut batch);
    batch
}

/// The bytes of the records of a batch with `count` small records.
fn payload(count: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for _ in 0..count {
        builder.push(NOW_MS, None, Some(b"v"), &[]);
    }
    builder.build().unwrap()[HEADER_BYTES..].to_vec()
}

#[test]
fn a_good_batch_passes_with_every_codec_and_is_summed_up() {
    for codec in Codec::ALL {
        let batch = builder().codec(codec).build().unwrap();
        let summary = check(&batch).unwrap();
        assert_eq!(summary.codec, codec);
        assert_eq!(summary.header.last_sequence(), 102);
        assert_eq!(summary.max_timestamp, NOW_MS);
        assert_eq!(summary.max_timestamp_offset_delta, 1);
    }
}

#[test]
fn bytes_that_are_no_batch_are_corrupt_or_invalid() {
    assert_eq!(check(&[]), Err(RecordError::NoBatch));
    let batch = builder().build().unwrap();
    for cut in 1..batch.len() {
        let error = check(&batch[..cut]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::CorruptMessage, "cut at {cut}");
    }
    let mut flipped = batch.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(check(&flipped), Err(RecordError::Corrupt(CorruptBatch::Crc)));
    let error = check(&with_field(16, &[1])).unwrap_err();
    assert_eq!((error, error.code()), (RecordError::UnsupportedMagic(1), ErrorCode::InvalidRecord));
}

#[test]
fn exactly_one_batch_per_partition() {
    let one = builder().build().unwrap();
    let mut two = one.clone();
    two.extend_from_slice(&one);
    assert_eq!(check(&two), Err(RecordError::NotOneBatch(one.len())));
}

#[test]
fn the_header_must_not_contradict_itself_or_claim_what_is_not_the_clients() {
    let fault = |batch: &[u8]| match check(batch) {
        Err(error @ RecordError::InvalidHeader(fault)) => {
            assert_eq!(error.code(), ErrorCode::InvalidRecord);
            fault
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(fault(&with_field(57, &2i32.to_be_bytes())), HeaderFault::Count);
    assert_eq!(fault(&with_field(57, &0i32.to_be_bytes())), HeaderFault::Count);
    assert_eq!(fault(&with_field(57, &i32::MIN.to_be_bytes())), HeaderFault::Count);
    assert_eq!(fault(&with_field(23, &i32::MAX.to_be_bytes())), HeaderFault::Count);
    assert_eq!(fault(&builder().control().build().unwrap()), HeaderFault::Control);
    assert_eq!(fault(&with_field(21, &(1i16 << 6).to_be_bytes())), HeaderFault::DeleteHorizon);
    assert_eq!(fault(&with_field(43, &(-2i64).to_be_bytes())), HeaderFault::ProducerId);
    assert_eq!(fault(&with_field(51, &(-1i16).to_be_bytes())), HeaderFault::ProducerEpoch);
    assert_eq!(fault(&with_field(53, &(-1i32).to_be_bytes())), HeaderFault::BaseSequence);
    let transactional = builder().producer(-1, -1, -1).transactional().build().unwrap();
    assert_eq!(fault(&transactional), HeaderFault::TransactionalWithoutProducer);
    assert!(check(&builder().transactional().build().unwrap()).is_ok());
    assert!(check(&builder().producer(-1, -1, -1).build().unwrap()).is_ok());
}

#[test]
fn codecs_without_a_meaning_or_newer_than_the_request_are_refused() {
    for bits in 5..8 {
        let error = check(&with_field(21, &[0, bits])).unwrap_err();
        assert_eq!(error, RecordError::UnsupportedCodec(bits));
        assert_eq!(error.code(), ErrorCode::UnsupportedCompressionType);
    }
    let header = |codec| check(&builder().codec(codec).build().unwrap()).unwrap().header;
    assert!(check_codec(&header(Codec::Zstd), 6).is_err());
    assert!(check_codec(&header(Codec::Zstd), 7).is_ok());
    assert!(check_codec(&header(Codec::Lz4), 3).is_ok());
}

#[test]
fn size_is_limited_as_sent() {
    let batch = builder().build().unwrap();
    let mut rules = ProduceRules { max_message_bytes: batch.len(), ..ProduceRules::default() };
    assert!(check_with(&batch, &rules).is_ok());
    rules.max_message_bytes -= 1;
    assert_eq!(check_with(&batch, &rules).unwrap_err().code(), ErrorCode::MessageTooLarge);
}

#[test]
fn records_must_be_exactly_those_that_the_header_counts_also_inside_compression() {
    for codec in Codec::ALL {
        let good = payload(5);
        assert!(check(&with_payload(codec, 5, &good)).is_ok(), "{codec}");
        for count in [1, 4, 6, i32::MAX] {
            let error = check(&with_payload(codec, count, &good)).unwrap_err();
            assert_eq!(error, RecordError::CountMismatch(count), "{codec} {count}");
        }
        let mut trailing = good.clone();
        trailing.push(0);
        let error = check(&with_payload(codec, 5, &trailing)).unwrap_err();
        assert_eq!(error, RecordError::CountMismatch(5), "{codec}");

        let mut longer = good.clone();
        longer[0] += 2;
        let error = check(&with_payload(codec, 5, &longer)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidRecord, "{codec}");

        let mut twice = payload(1);
        twice.extend_from_slice(&payload(1));
        let error = check(&with_payload(codec, 2, &twice)).unwrap_err();
        assert_eq!(error, RecordError::OffsetDelta { index: 1, offset_delta: 0 }, "{codec}");
        assert_eq!(error.record_index(), Some(1));
    }
}

#[test]
fn every_record_that_breaks_a_rule_of_the_topic_is_blamed() {
    let blamed = |batch: &[u8], rules: &ProduceRules| {
        let error = check_with(batch, rules).unwrap_err();
        blamed_records(batch, rules, NOW_MS, &mut Scratch::new(), &error)
    };
    let compacted = ProduceRules { compacted: true, ..ProduceRules::default() };
    let timestamps = TimestampRule::CreateTime { before_max_ms: 1000, after_max_ms: 1000 };
    let timed = ProduceRules { timestamps, ..ProduceRules::default() };
    for codec in Codec::ALL {
        let keyless = |builder: BatchBuilder| builder.record(NOW_MS, None, Some(b"keyless"));
        let batch = keyless(keyless(builder()).record(NOW_MS, Some(b"d"), None)).codec(codec);
        assert_eq!(blamed(&batch.build().unwrap(), &compacted), [3, 5], "{codec}");
        let batch = builder().record(NOW_MS - 1001, None, None).record(NOW_MS + 1001, None, None);
        assert_eq!(blamed(&batch.codec(codec).build().unwrap(), &timed), [3, 4], "{codec}");
        let many = (0..BLAMED_RECORDS_MAX + 1).fold(BatchBuilder::new(), |builder, _| keyless(builder));
        let many = many.codec(codec).build().unwrap();
        assert_eq!(blamed(&many, &compacted).len(), BLAMED_RECORDS_MAX, "{codec}");
        let malformed = with_payload(codec, 4, &payload(5));
        assert!(blamed(&malformed, &ProduceRules::default()).is_empty(), "{codec}");
    }
    let appended = with_field(21, &8_i16.to_be_bytes());
    assert_eq!(blamed(&appended, &ProduceRules::default()), [0]);
}

#[test]
fn every_record_on_a_compacted_topic_needs_a_key() {
    let rules = ProduceRules { compacted: true, ..ProduceRules::default() };
    for codec in Codec::ALL {
        assert!(check_with(&builder().codec(codec).build().unwrap(), &rules).is_ok());
        let batch = builder().codec(codec).record(NOW_MS, None, Some(b"keyless")).build().unwrap();
        assert!(check(&batch).is_ok());
        let error = check_with(&batch, &rules).unwrap_err();
        assert_eq!(error, RecordError::KeyMissing { index: 3 });
        assert_eq!(error.code(), ErrorCode::InvalidRecord);
        let empty_key = builder().record(NOW_MS, Some(b""), None).build().unwrap();
        assert!(check_with(&empty_key, &rules).is_ok());
    }
}

#[test]
fn timestamps_stay_within_the_topics_bounds() {
    let rules = |before_max_ms, after_max_ms| ProduceRules {
        timestamps: TimestampRule::CreateTime { before_max_ms, after_max_ms },
        ..ProduceRules::default()
    };
    let at = |timestamp| BatchBuilder::new().record(timestamp, None, None).build().unwrap();
    assert!(check_with(&at(NOW_MS - 10), &rules(10, 0)).is_ok());
    assert!(check_with(&at(NOW_MS + 10), &rules(0, 10)).is_ok());
    for timestamp in [NOW_MS - 11, NOW_MS + 11, 0, i64::MIN, i64::MAX] {
        let error = check_with(&at(timestamp), &rules(10, 10)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidTimestamp, "{timestamp}");
    }
    assert!(check_with(&at(NO_TIMESTAMP), &rules(10, 10)).is_ok(), "a record without timestamp");
    let overwritten = ProduceRules { timestamps: TimestampRule::LogAppendTime, ..ProduceRules::default() };
    assert!(check_with(&at(0), &overwritten).is_ok());
    let mut batch = at(NOW_MS);
    set_log_append_time(&mut batch, NOW_MS);
    assert_eq!(check(&batch).unwrap_err().code(), ErrorCode::InvalidTimestamp);
}

#[test]
fn a_decompression_bomb_is_refused() {
    let zeros = vec![0; 50 << 20];
    let rules = ProduceRules {
        max_decompressed_bytes: 1 << 20,
        max_message_bytes: 100 << 20,
        ..ProduceRules::default()
    };
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let bomb = with_payload(codec, 1, &zeros);
        let error = check_with(&bomb, &rules).unwrap_err();
        assert_eq!(error, RecordError::DecompressedTooLarge { max_bytes: 1 << 20 }, "{codec}");
        assert_eq!(error.code(), ErrorCode::MessageTooLarge);
    }
}

#[test]
fn garbage_under_every_codec_is_refused() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let batch = with_field(21, &[0, codec.bits()]);
        assert_eq!(check(&batch).unwrap_err().code(), ErrorCode::InvalidRecord, "{codec}");
    }
}

#[test]
fn headers_without_a_key_or_of_negative_count_are_refused() {
    let header = Header { key: b"k", value: None };
    let good = BatchBuilder::new().record_with_headers(NOW_MS, None, None, &[header]);
    let good = good.build().unwrap();
    assert!(check(&good).is_ok());
    // The header is `01` count, `02 6b` key, `01` null value, at the end of the record.
    let length = good.len();
    assert_eq!(good[length - 4..], [2, 2, b'k', 1]);
    let broken = |at: usize, value: u8| {
        let mut batch = good.clone();
        batch[at] = value;
        update_crc(&mut batch);
        check(&batch).unwrap_err().code()
    };
    assert_eq!(broken(length - 3, 1), ErrorCode::InvalidRecord);
    assert_eq!(broken(length - 4, 1), ErrorCode::InvalidRecord);
    assert_eq!(broken(length - 4, 0xff), ErrorCode::InvalidRecord);
    assert_eq!(broken(length - 1, 3), ErrorCode::InvalidRecord);
}

proptest! {
    #[test]
    fn mutated_batches_never_panic(
        codec in 0u8..5,
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        fix_crc: bool,
    ) {
        let mut batch = builder().codec(Codec::from_bits(codec).unwrap()).build().unwrap();
        for (at, value) in mutations {
            let at = at.index(batch.len());
            batch[at] = value;
        }
        if fix_crc {
            update_crc(&mut batch);
        }
        let _ = check(&batch);
    }

    #[test]
    fn arbitrary_payloads_never_panic(
        codec in 0u8..5,
        compressed: bool,
        count in 1i32..5,
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let codec = Codec::from_bits(codec).unwrap();
        let mut batch = if compressed {
            with_payload(codec, count, &bytes)
        } else {
            with_payload(Codec::None, count, &bytes)
        };
        batch[22] = codec.bits();
        update_crc(&mut batch);
        let _ = check(&batch);
    }
}
