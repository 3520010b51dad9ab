//! Batches that Kafka's log cleaner filtered, held against what ours makes of the same ones.
//!
//! The fixture comes from `tools/clients/java/FilteredBatches.java`, run with the class path of
//! the client tests.

#![allow(clippy::unwrap_used)]

use corelog_protocol::batch::filter::{FilterRules, Filtered, filter};
use corelog_protocol::batch::{
    BatchHeader, BatchRef, Codec, HEADER_BYTES, Scratch, TimestampType, crc_ok, decompress,
};

const LIMIT_BYTES: usize = 1 << 20;

struct Known {
    codec: Codec,
    /// Bit for offset delta: which records stay.
    mask: u32,
    rules: FilterRules,
    before: Vec<u8>,
    /// Nothing when Kafka left nothing.
    after: Option<Vec<u8>>,
}

fn known() -> Vec<Known> {
    let from_hex = |hex: &str| {
        let digits = hex.as_bytes().chunks(2);
        digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect::<Vec<_>>()
    };
    let lines = include_str!("fixtures/filtered.txt").lines();
    lines
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let fields: [&str; 6] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            let [codec, mask, keeps_empty, horizon_ms, before, after] = fields;
            Known {
                codec: Codec::from_name(codec).unwrap(),
                mask: mask.parse().unwrap(),
                rules: FilterRules {
                    keeps_empty: keeps_empty.parse().unwrap(),
                    horizon_ms: Some(horizon_ms.parse().unwrap()),
                    limit_bytes: LIMIT_BYTES,
                },
                before: from_hex(before),
                after: (after != "-").then(|| from_hex(after)),
            }
        })
        .collect()
}

fn ours(known: &Known) -> Option<Vec<u8>> {
    let batch = BatchRef::parse(&known.before).unwrap();
    let stays = |offset: i64| known.mask & 1 << (offset - batch.header.base_offset) != 0;
    match filter(&batch, &known.rules, &mut Scratch::new(), |offset, _| stays(offset)).unwrap() {
        Filtered::Kept => Some(known.before.clone()),
        Filtered::Rewritten(bytes) | Filtered::Emptied(bytes) => Some(bytes.to_vec()),
        Filtered::Gone => None,
    }
}

/// The records as text: offset, timestamp, and what follows it in each record.
fn records(batch: &BatchRef<'_>) -> Vec<String> {
    let mut scratch = Scratch::new();
    let records = batch.records(&mut scratch, LIMIT_BYTES).unwrap().map(|record| {
        let record = record.unwrap();
        let timestamp = batch.header.record_timestamp(record.timestamp_delta);
        let (offset, headers) = (record.offset_delta, record.headers.collect::<Vec<_>>());
        format!("{offset} {timestamp} {:?} {:?} {headers:?}", record.key, record.value)
    });
    records.collect()
}

/// Kafka counts timestamps from the first record that stays and we from the first one that was
/// there, which nobody can tell from the records.
fn counts_time_alike(header: &BatchHeader, kafka: &BatchHeader) -> bool {
    header.base_timestamp == kafka.base_timestamp
        && (header.timestamp_type() == TimestampType::CreateTime || header.has_delete_horizon())
}

#[test]
fn every_codec_and_outcome_is_there() {
    let known = known();
    for codec in Codec::ALL {
        let of_codec: Vec<_> = known.iter().filter(|known| known.codec == codec).collect();
        assert_eq!(of_codec.len(), 18, "{codec}");
        let header = |known: &Known| known.after.as_ref().map(|bytes| BatchHeader::parse(bytes).unwrap());
        let count = |is: &dyn Fn(&Known) -> bool| of_codec.iter().filter(|known| is(known)).count();
        assert!(count(&|known| known.after.is_none()) > 0, "{codec}: nothing is left");
        assert!(
            count(&|known| header(known).is_some_and(|header| header.record_count == 0)) > 0,
            "{codec}: empty"
        );
        assert!(
            count(&|known| header(known).is_some_and(|header| header.has_delete_horizon())) > 0,
            "{codec}: horizon"
        );
        assert!(
            count(&|known| BatchHeader::parse(&known.before).unwrap().has_delete_horizon()) > 0,
            "{codec}: again"
        );
    }
}

#[test]
fn what_is_left_of_a_batch_is_what_kafka_leaves() {
    let mut alike = 0;
    for (number, known) in known().iter().enumerate() {
        let context = format!("batch {number}, {} {:b}", known.codec, known.mask);
        let (Some(ours), Some(kafkas)) = (ours(known), &known.after) else {
            assert_eq!(ours(known), known.after, "{context}");
            continue;
        };
        assert!(crc_ok(&ours), "{context}");
        let (ours, kafkas) = (BatchRef::parse(&ours).unwrap(), BatchRef::parse(kafkas).unwrap());
        assert_eq!(records(&ours), records(&kafkas), "{context}");
        let without_what_depends_on_the_library = |header: BatchHeader| BatchHeader {
            length: 0,
            crc: 0,
            base_timestamp: if header.has_delete_horizon() { header.base_timestamp } else { 0 },
            ..header
        };
        assert_eq!(
            without_what_depends_on_the_library(ours.header),
            without_what_depends_on_the_library(kafkas.header),
            "{context}"
        );
        if counts_time_alike(&ours.header, &kafkas.header) {
            alike += 1;
            let plain = |batch: &BatchRef<'_>| {
                decompress(batch.header.codec().unwrap(), batch.payload(), LIMIT_BYTES).unwrap()
            };
            assert_eq!(plain(&ours), plain(&kafkas), "{context}");
            if known.codec == Codec::None {
                assert_eq!(ours.bytes, kafkas.bytes, "{context}");
                assert_eq!(ours.bytes.len(), HEADER_BYTES + plain(&ours).len(), "{context}");
            }
        }
    }
    assert!(alike > 40, "only {alike} batches were compared byte for byte");
}
