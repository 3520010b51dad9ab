//! Memory follows the bytes that are there, not those that are claimed.
//!
//! One test function: the allocator counts for the whole process.

#![allow(clippy::unwrap_used)]

use bytes::{BufMut, Bytes, BytesMut};
use corelog_protocol::api::{Api, check_request, decode_request, decode_response};
use corelog_protocol::batch::{BatchBuilder, Codec, Scratch, compress};
use corelog_protocol::fetch::{FetchRequest, FetchResponse};
use corelog_protocol::produce::{ProduceRequest, ProduceResponse};
use corelog_protocol::validate::{ProduceRules, check_batch};
use kafka_protocol::messages::*;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;

/// The most that was allocated at once during `run`, beyond what was before.
fn peak_bytes<T>(run: impl FnOnce() -> T) -> (usize, T) {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let result = run();
    (ALLOCATOR.peak_usage().saturating_sub(before), result)
}

#[test]
fn memory_is_bounded_by_the_input() {
    uncompressed_batches_are_checked_without_allocating();
    warm_scratch_is_reused();
    bombs_stay_within_a_multiple_of_the_limit();
    damaged_streams_stay_within_a_multiple_of_the_limit();
    claimed_sizes_are_not_reserved();
    claimed_counts_are_not_reserved();
    minimal_elements_cost_a_bounded_multiple();
    random_bytes_cost_a_bounded_multiple();
}

fn batch(codec: Codec) -> BytesMut {
    let mut builder = BatchBuilder::new().codec(codec);
    for n in 0..1_000i64 {
        builder.push(n, Some(&n.to_be_bytes()), Some(&[0; 50]), &[]);
    }
    builder.build().unwrap()
}

/// The least that one of ten checks of `batch` took: the test harness has a thread of its own that may
/// allocate at the same time.
fn least_peak_of_checks(batch: &[u8], scratch: &mut Scratch) -> usize {
    let rules = ProduceRules::default();
    let peak = |_| {
        let (peak, result) = peak_bytes(|| check_batch(batch, &rules, 0, scratch));
        result.unwrap();
        peak
    };
    (0..10).map(peak).min().unwrap()
}

fn uncompressed_batches_are_checked_without_allocating() {
    assert_eq!(least_peak_of_checks(&batch(Codec::None), &mut Scratch::new()), 0);
}

fn warm_scratch_is_reused() {
    for codec in [Codec::Snappy, Codec::Lz4, Codec::Zstd, Codec::Gzip] {
        let batch = batch(codec);
        let mut scratch = Scratch::new();
        check_batch(&batch, &ProduceRules::default(), 0, &mut scratch).unwrap();
        let least = least_peak_of_checks(&batch, &mut scratch);
        // The libraries for gzip and lz4 keep their windows on the heap, anew each time.
        let allowed = match codec {
            Codec::None | Codec::Snappy | Codec::Zstd => 0,
            Codec::Gzip => 64 * 1024,
            Codec::Lz4 => 128 * 1024,
        };
        assert!(least <= allowed, "{codec}: {least} bytes");
    }
}

fn bombs_stay_within_a_multiple_of_the_limit() {
    let zeros = vec![0; 64 * MIB];
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let bomb = compress(codec, &zeros, None).unwrap();
        let mut scratch = Scratch::new();
        let (peak, result) = peak_bytes(|| scratch.decompress(codec, &bomb, MIB).map(<[u8]>::len));
        assert!(result.is_err(), "{codec}");
        assert!(peak <= 4 * MIB, "{codec}: {peak} bytes for a limit of 1 MiB");
    }
}

fn damaged_streams_stay_within_a_multiple_of_the_limit() {
    let text: Vec<u8> = (0..200_000_u32).map(|n| u8::try_from(n / 7 % 251).unwrap()).collect();
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let stream = compress(codec, &text, None).unwrap();
        let mut highest = 0;
        for bit in (0..stream.len().min(64) * 8).chain((0..stream.len() * 8).step_by(97)) {
            let mut damaged = stream.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut scratch = Scratch::new();
            let (peak, _) = peak_bytes(|| scratch.decompress(codec, &damaged, MIB).map(<[u8]>::len));
            highest = highest.max(peak);
        }
        // The largest block of lz4 has 4 MiB (8 in its legacy form), whatever the limit is.
        let allowed = if codec == Codec::Lz4 { 24 * MIB } else { 4 * MIB };
        assert!(highest <= allowed, "{codec}: {highest} bytes for a limit of 1 MiB");
    }
}

fn claimed_sizes_are_not_reserved() {
    let limit = 100 * MIB;
    let mut scratch = Scratch::new();
    // Snappy: a length of almost 4 GiB, and one within the limit, without the bytes.
    for claim in [&[0xff, 0xff, 0xff, 0xff, 0x0f, 0][..], &[0x80, 0x80, 0x80, 0x20, 0]] {
        let (peak, result) = peak_bytes(|| scratch.decompress(Codec::Snappy, claim, limit).map(<[u8]>::len));
        assert!(result.is_err());
        assert!(peak <= 4096, "{peak} bytes");
    }
    // Zstd: a frame that states a content of 64 MiB and ends.
    let mut frame = compress(Codec::Zstd, &vec![0; 64 * MIB], None).unwrap();
    frame.truncate(16);
    let (peak, result) = peak_bytes(|| scratch.decompress(Codec::Zstd, &frame, limit).map(<[u8]>::len));
    assert!(result.is_err());
    assert!(peak <= MIB, "{peak} bytes");
    // Lz4: the largest block size there is, and no block.
    let frame = compress(Codec::Lz4, b"", None).unwrap();
    let (peak, _) = peak_bytes(|| scratch.decompress(Codec::Lz4, &frame, limit).map(<[u8]>::len));
    assert!(peak <= MIB, "{peak} bytes");
    // A record count without records.
    let mut batch = BatchBuilder::new().record(0, None, None).build().unwrap();
    batch[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    corelog_protocol::batch::update_crc(&mut batch);
    let (peak, result) = peak_bytes(|| check_batch(&batch, &ProduceRules::default(), 0, &mut scratch));
    assert!(result.is_err());
    assert!(peak <= 4096, "{peak} bytes");
}

/// Decodes with every decoder there is; returns the highest peak.
fn decode_everything(bytes: &[u8]) -> usize {
    let body = Bytes::copy_from_slice(bytes);
    let mut highest = 0;
    macro_rules! decode {
        ($($request:ty),*) => {
            $(
                for version in -1..=14 {
                    let (peak, _) =
                        peak_bytes(|| decode_request::<$request>(version, body.clone()).is_ok());
                    highest = highest.max(peak);
                    let (peak, _) =
                        peak_bytes(|| decode_response::<$request>(version, body.clone()).is_ok());
                    highest = highest.max(peak);
                }
            )*
        };
    }
    decode!(
        ApiVersionsRequest,
        CreateTopicsRequest,
        DeleteTopicsRequest,
        DeleteRecordsRequest,
        DescribeClusterRequest,
        DescribeConfigsRequest,
        DescribeTopicPartitionsRequest,
        FindCoordinatorRequest,
        InitProducerIdRequest,
        ListOffsetsRequest,
        MetadataRequest,
        OffsetForLeaderEpochRequest,
        OffsetCommitRequest,
        OffsetFetchRequest,
        JoinGroupRequest,
        HeartbeatRequest,
        LeaveGroupRequest,
        SyncGroupRequest,
        DescribeGroupsRequest,
        ListGroupsRequest,
        DeleteGroupsRequest,
        OffsetDeleteRequest,
        ConsumerGroupHeartbeatRequest,
        ConsumerGroupDescribeRequest
    );
    for version in -1..=18 {
        let frame = BytesMut::from(bytes);
        let (peak, _) = peak_bytes(|| ProduceRequest::decode(version, frame).is_ok());
        highest = highest.max(peak);
        let (peak, _) = peak_bytes(|| ProduceResponse::decode(version, bytes).is_ok());
        highest = highest.max(peak);
        let (peak, _) = peak_bytes(|| FetchRequest::decode(version, bytes).is_ok());
        highest = highest.max(peak);
        let (peak, _) = peak_bytes(|| FetchResponse::decode(version, body.clone()).is_ok());
        highest = highest.max(peak);
    }
    highest
}

fn claimed_counts_are_not_reserved() {
    // Large counts in both forms at every position of an otherwise empty message.
    for claim in [&[0x7f, 0xff, 0xff, 0xff][..], &[0xff, 0xff, 0xff, 0xff, 0x0f]] {
        for before in 0..40 {
            let mut bytes = vec![0; before];
            bytes.extend_from_slice(claim);
            bytes.extend_from_slice(&[0; 60]);
            let peak = decode_everything(&bytes);
            assert!(peak <= 8 * 1024, "{peak} bytes for {} at {before}", bytes.len());
        }
    }
}

fn minimal_elements_cost_a_bounded_multiple() {
    let count = 100_000;
    // Metadata version 0: a topic is two bytes of an empty name.
    let mut body = BytesMut::new();
    body.put_i32(i32::try_from(count).unwrap());
    body.put_bytes(0, 2 * count);
    let body = body.freeze();
    let (peak, result) = peak_bytes(|| check_request(Api::Metadata, 0, &body));
    result.unwrap();
    assert!(peak <= 4096, "the walk itself: {peak} bytes");
    let (peak, result) = peak_bytes(|| decode_request::<MetadataRequest>(0, body.clone()));
    assert_eq!(result.unwrap().topics.unwrap().len(), count);
    assert!(peak <= 64 * body.len(), "{} bytes a byte", peak / body.len());
    // Produce: an empty topic is six bytes.
    let mut body = BytesMut::new();
    body.put_bytes(0, 2 + 2 + 4);
    body.put_i32(i32::try_from(count).unwrap());
    body.put_bytes(0, 6 * count);
    let size = body.len();
    let (peak, result) = peak_bytes(|| ProduceRequest::decode(3, body));
    assert_eq!(result.unwrap().topics.len(), count);
    assert!(peak <= 64 * size, "{} bytes a byte", peak / size);
}

fn random_bytes_cost_a_bounded_multiple() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..300 {
        let mut bytes = Vec::new();
        for _ in 0..50 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Mostly small numbers, so that some of it makes sense.
            let [a, b, ..] = state.to_be_bytes();
            bytes.push(if a < 200 { b % 4 } else { b });
        }
        let peak = decode_everything(&bytes);
        assert!(peak <= 64 * bytes.len() + 4096, "{peak} bytes for {bytes:?}");
    }
}
