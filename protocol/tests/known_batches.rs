//! Batches as real clients wrote them, held against our reading and writing of them.

#![allow(clippy::unwrap_used)]

use corelog_protocol::batch::{
    BatchBuilder, BatchRef, Codec, Header, Scratch, compress, crc_ok, decompress, first_record_at_or_after,
};
use corelog_protocol::validate::{ProduceRules, check_batch};

const FIRST_MS: i64 = 1_700_000_000_000;
const LIMIT_BYTES: usize = 1 << 20;

struct Known {
    client: &'static str,
    codec: Codec,
    bytes: Vec<u8>,
}

fn known() -> Vec<Known> {
    let lines = include_str!("fixtures/batches.txt").lines();
    lines
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let [client, codec, hex] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            let digits = hex.as_bytes().chunks(2);
            let bytes = digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap());
            Known { client, codec: Codec::from_name(codec).unwrap(), bytes: bytes.collect() }
        })
        .collect()
}

/// The same three records, written by us.
fn ours(codec: Codec) -> Vec<u8> {
    let headers = [Header { key: b"h", value: Some(b"x") }, Header { key: b"h", value: None }];
    let value = |n| format!("value value value value value value {n}");
    BatchBuilder::new()
        .codec(codec)
        .producer(4711, 3, 100)
        .transactional()
        .record_with_headers(FIRST_MS, Some(b"key-1"), Some(value(1).as_bytes()), &headers)
        .record(FIRST_MS + 7, None, Some(value(2).as_bytes()))
        .record(FIRST_MS + 3, Some(b"key-3"), None)
        .build()
        .unwrap()
        .to_vec()
}

#[test]
fn every_client_and_codec_is_there() {
    let known = known();
    for client in ["java", "librdkafka", "kafka-python"] {
        for codec in Codec::ALL {
            let count = known.iter().filter(|batch| (batch.client, batch.codec) == (client, codec)).count();
            assert_eq!(count, 1, "{client} {codec}");
        }
    }
}

#[test]
fn batches_of_real_clients_are_accepted_and_read() {
    let mut scratch = Scratch::new();
    let expected = ours(Codec::None);
    for Known { client, codec, bytes } in known() {
        let context = format!("{client} {codec}");
        assert!(crc_ok(&bytes), "{context}");
        let summary = check_batch(&bytes, &ProduceRules::default(), FIRST_MS, &mut scratch).unwrap();
        assert_eq!(summary.codec, codec, "{context}");
        assert_eq!(summary.max_timestamp, FIRST_MS + 7, "{context}");
        assert_eq!(summary.max_timestamp_offset_delta, 1, "{context}");
        assert_eq!(summary.header.max_timestamp, summary.max_timestamp, "{context}");
        let header = summary.header;
        assert_eq!((header.producer_id, header.producer_epoch), (4711, 3), "{context}");

        // What is inside is byte for byte what we would write.
        let records = decompress(codec, &bytes[61..], LIMIT_BYTES).unwrap();
        assert_eq!(records, expected[61..], "{context}");
        let batch = BatchRef::parse(&bytes).unwrap();
        let found = first_record_at_or_after(&batch, FIRST_MS + 1, 0, LIMIT_BYTES, &mut scratch).unwrap();
        assert_eq!(found, Some((1, FIRST_MS + 7)), "{context}");
    }
}

#[test]
fn an_uncompressed_batch_is_written_as_java_writes_it() {
    let java =
        known().into_iter().find(|batch| (batch.client, batch.codec) == ("java", Codec::None)).unwrap();
    assert_eq!(ours(Codec::None), java.bytes);
}

#[test]
fn snappy_is_framed_as_java_frames_it() {
    let java =
        known().into_iter().find(|batch| (batch.client, batch.codec) == ("java", Codec::Snappy)).unwrap();
    assert_eq!(ours(Codec::Snappy), java.bytes);
}

#[test]
fn lz4_blocks_are_independent_as_clients_expect() {
    let frame = compress(Codec::Lz4, &vec![7; 200_000], None).unwrap();
    assert_eq!(frame[..4], [0x04, 0x22, 0x4d, 0x18]);
    assert_eq!(frame[4], 0x60, "version 1, independent blocks, no checksums");
    assert_eq!(frame[5], 0x40, "blocks of 64 KiB");
}

#[test]
fn a_flipped_bit_in_a_batch_of_a_real_client_never_passes() {
    let mut scratch = Scratch::new();
    for Known { bytes, .. } in known() {
        for at in 8..bytes.len() {
            // The leader epoch is not the client's and not covered.
            if (12..16).contains(&at) {
                continue;
            }
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            let rules = ProduceRules::default();
            assert!(check_batch(&flipped, &rules, FIRST_MS, &mut scratch).is_err(), "byte {at}");
        }
    }
}
