//! Bytes that are nearly right: what real encoders wrote, and then somebody changed. No decoder
//! panics, runs for ever, or gives more than it was allowed to.

#![allow(clippy::unwrap_used)]

use bytes::{Bytes, BytesMut};
use corelog_protocol::api::{Api, decode_refused, decode_request_header};
use corelog_protocol::batch::{
    BatchBuilder, BatchIter, Codec, Scratch, compress, first_record_at_or_after, update_crc,
};
use corelog_protocol::produce::{ProducePartition, ProduceRequest, ProduceTopic};
use corelog_protocol::validate::{ProduceRules, check_batch};
use kafka_protocol::messages::ApiKey;
use proptest::prelude::*;
use proptest::sample::Index;

const LIMIT: usize = 50_000;

/// What somebody did to bytes.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Remove(Index, usize),
    Repeat(Index, usize),
    Insert(Index, Vec<u8>),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len();
        match self {
            Self::Set(at, value) => bytes[at.index(len)] = *value,
            Self::Flip(at, bit) => bytes[at.index(len)] ^= 1 << (bit % 8),
            Self::Cut(at) => bytes.truncate(at.index(len)),
            Self::Remove(at, count) => drop(bytes.drain(at.index(len)..(at.index(len) + count).min(len))),
            Self::Repeat(at, count) => {
                let piece = bytes[at.index(len)..(at.index(len) + count).min(len)].to_vec();
                bytes.splice(at.index(len)..at.index(len), piece);
            }
            Self::Insert(at, piece) => drop(bytes.splice(at.index(len)..at.index(len), piece.clone())),
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = any::<Index>;
    let change = prop_oneof![
        3 => (at(), any::<u8>()).prop_map(|(at, value)| Change::Set(at, value)),
        3 => (at(), any::<u8>()).prop_map(|(at, bit)| Change::Flip(at, bit)),
        1 => at().prop_map(Change::Cut),
        1 => (at(), 1..40_usize).prop_map(|(at, count)| Change::Remove(at, count)),
        1 => (at(), 1..40_usize).prop_map(|(at, count)| Change::Repeat(at, count)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, piece)| Change::Insert(at, piece)),
    ];
    prop::collection::vec(change, 0..5)
}

fn changed(bytes: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    changes.iter().for_each(|change| change.apply(&mut bytes));
    bytes
}

fn codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(&Codec::ALL[..])
}

/// Compressible in parts, so that every codec uses its means.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let run = (any::<u8>(), 1..300_usize).prop_map(|(byte, count)| vec![byte; count]);
    let noise = prop::collection::vec(any::<u8>(), 0..300);
    prop::collection::vec(prop_oneof![run, noise], 0..40).prop_map(|parts| parts.concat())
}

/// A batch whose length says how long it is, and whose checksum is right: what gets past the first
/// checks.
fn made_whole(mut batch: Vec<u8>) -> BytesMut {
    if let Some(length) = batch.len().checked_sub(12)
        && batch.len() >= 61
    {
        batch[8..12].copy_from_slice(&i32::try_from(length).unwrap().to_be_bytes());
        batch[16] = 2;
        let mut batch = BytesMut::from(&batch[..]);
        update_crc(&mut batch);
        return batch;
    }
    BytesMut::from(&batch[..])
}

fn batch(codec: Codec, values: &[Vec<u8>]) -> BytesMut {
    let mut builder = BatchBuilder::new().codec(codec);
    for (number, value) in (0..).zip(values) {
        builder.push(1_700_000_000_000 + number, Some(b"key"), Some(value), &[]);
    }
    builder.build().unwrap()
}

proptest! {
    #[test]
    fn any_bytes_decompress_to_at_most_the_limit(
        codec in codec(), bytes in prop::collection::vec(any::<u8>(), 0..400), limit in 0..LIMIT,
    ) {
        let mut scratch = Scratch::new();
        if let Ok(output) = scratch.decompress(codec, &bytes, limit) {
            prop_assert!(output.len() <= limit);
        }
    }

    #[test]
    fn changed_streams_decompress_to_at_most_the_limit(
        codec in codec(), text in text(), changes in changes(), limit in 0..LIMIT,
    ) {
        let stream = changed(&compress(codec, &text, None).unwrap(), &changes);
        let mut scratch = Scratch::new();
        match scratch.decompress(codec, &stream, limit) {
            Ok(output) if changes.is_empty() => prop_assert!(output == text),
            Ok(output) => prop_assert!(output.len() <= limit),
            Err(_) => prop_assert!(!changes.is_empty() || text.len() > limit),
        }
        // What was wrong leaves nothing behind.
        let good = compress(codec, &text, None).unwrap();
        prop_assert!(scratch.decompress(codec, &good, usize::MAX >> 1).unwrap() == text);
    }

    #[test]
    fn changed_batches_are_refused_or_whole(
        codec in codec(),
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..6),
        changes in changes(),
        time in 1_699_999_999_990_i64..1_700_000_000_010,
    ) {
        let bytes = made_whole(changed(&batch(codec, &values), &changes));
        let rules = ProduceRules { max_decompressed_bytes: LIMIT, ..ProduceRules::default() };
        let mut scratch = Scratch::new();
        let is_accepted = check_batch(&bytes, &rules, 1_700_000_000_000, &mut scratch).is_ok();
        for batch in BatchIter::new(&bytes).flatten() {
            let mut count = 0;
            if let Ok(records) = batch.records(&mut scratch, LIMIT) {
                for record in records.flatten() {
                    let _ = record.headers.count();
                    count += 1;
                }
            }
            // What was accepted can be read: as many records as it says.
            if is_accepted {
                prop_assert_eq!(count, batch.header.record_count);
            }
            let found = first_record_at_or_after(&batch, time, 0, LIMIT, &mut scratch);
            prop_assert!(!is_accepted || found.is_ok());
        }
    }

    #[test]
    fn changed_produce_frames_never_panic(
        version in 3i16..=12,
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..4),
        names in prop::collection::vec("[a-z]{0,5}", 0..3),
        changes in changes(),
    ) {
        let records: Bytes = batch(Codec::None, &values).freeze();
        let partition = |index| ProducePartition { index, records: records.clone() };
        let topic = |name| ProduceTopic { name, partitions: vec![partition(0), partition(1)] };
        let topics = names.into_iter().map(topic).collect();
        let request = ProduceRequest { transactional_id: None, acks: -1, timeout_ms: 1, topics };
        let frame = changed(&request.encode(version, 7, "client").concat()[4..], &changes);
        let mut frame = BytesMut::from(&frame[..]);
        let Ok(header) = decode_request_header(&mut frame) else { return Ok(()) };
        let Ok(request) = ProduceRequest::decode(header.version, frame) else { return Ok(()) };
        let mut scratch = Scratch::new();
        for partition in request.topics.iter().flat_map(|topic| &topic.partitions) {
            let _ = check_batch(&partition.records, &ProduceRules::default(), 0, &mut scratch);
        }
    }

    #[test]
    fn requests_that_are_not_served_never_panic(
        key in 0..100i16, version in -1i16..20, bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let body = Bytes::from(bytes);
        if let Ok(key) = ApiKey::try_from(key) && Api::from_key(key as i16).is_none() {
            let _ = decode_refused(key, version, body);
        }
    }
}
