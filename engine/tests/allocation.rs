//! What is read from a disk claims nothing that is not there: memory follows the bytes.
//!
//! One test function: the allocator counts for the whole process.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;

use bytes::Bytes;
use corelog_engine::journal::dump::{self, Detail, Item};
use corelog_engine::journal::format::{CommitHeader, EntryHeader, EntryIter, FileHeader, check_commit_body};
use corelog_engine::log::clean::Swaps;
use corelog_engine::log::verify::{SegmentScan, segments};
use corelog_engine::meta::image::MetaImage;
use corelog_engine::meta::wire;
use corelog_engine::partition::state::PartitionState;
use corelog_engine::types::Lsn;
use corelog_protocol::batch::BatchBuilder;
use corelog_runtime::fs::{self, AlignedBuf, BLOCK_BYTES, File};
use corelog_runtime::sim::{Sim, SimOptions};
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
fn memory_is_bounded_by_what_is_there() {
    claims_in_pure_decoders();
    a_commit_longer_than_its_file();
    a_batch_longer_than_its_segment();
    a_small_file_that_is_not_small();
}

/// A claim of a great many, at every position of otherwise small numbers.
fn claims_in_pure_decoders() {
    for claim in [&[0xff; 4][..], &[0xff, 0xff, 0xff, 0x7f], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[0xff; 9]] {
        for before in 0..200 {
            for filler in [0, 1] {
                let mut bytes = vec![filler; before];
                bytes.extend_from_slice(claim);
                bytes.extend_from_slice(&[filler; 100]);
                // Serialized metadata and states begin with a version.
                bytes[0] = 1;
                let (peak, ()) = peak_bytes(|| decode_everything(&bytes));
                assert!(peak <= 64 * bytes.len() + 4096, "{peak} bytes for {claim:?} at {before}");
            }
        }
    }
}

fn decode_everything(bytes: &[u8]) {
    let _ = PartitionState::decode(&mut Bytes::copy_from_slice(bytes));
    let _ = wire::decode::<MetaImage>(bytes);
    let _ = FileHeader::decode(bytes);
    let _ = EntryHeader::decode(bytes);
    let _ = CommitHeader::decode(bytes);
}

/// The header of a commit that claims 4 GiB of entries, and is right about nothing else.
fn greedy_commit(position_bytes: u64) -> Vec<u8> {
    let mut header = CommitHeader {
        run: 1,
        generation: 1,
        sequence: 0,
        position_bytes,
        first_lsn: Lsn(0),
        known_synced: Lsn(0),
        live_generation: 1,
        entries: u32::MAX,
        body_bytes: u32::MAX,
        predecessor: 0,
        body_crc: 0,
        closed: false,
        crc: 0,
    };
    let mut bytes = vec![0; BLOCK_BYTES];
    header.encode(&mut bytes);
    let header = CommitHeader::decode(&bytes).unwrap();
    let (peak, ()) = peak_bytes(|| {
        assert!(check_commit_body(&header, &bytes).is_err());
        assert!(EntryIter::new(&header, &bytes).all(|entry| entry.is_err()));
    });
    assert!(peak <= 4096, "{peak} bytes");
    bytes
}

async fn write(path: &str, bytes: &[u8]) {
    let path = Path::new(path);
    fs::create_dir_all(path.parent().unwrap()).await.unwrap();
    let file = File::create(path).await.unwrap();
    file.write_at(AlignedBuf::padded(bytes), 0).await.unwrap();
    file.close().await.unwrap();
}

fn sim() -> Sim {
    Sim::new(1, SimOptions::default())
}

fn a_commit_longer_than_its_file() {
    let sim = sim();
    sim.run_on(1, async {
        let mut file = vec![0; BLOCK_BYTES];
        file.extend(greedy_commit(BLOCK_BYTES as u64));
        write("/journal/00000001.journal", &file).await;
    });
    let detail = Detail { entries: true, stale: true };
    let (peak, bad) = peak_bytes(|| {
        sim.run_on(1, async move {
            let mut bad = 0;
            let visit = |item: Item<'_>| bad += usize::from(matches!(item, Item::BadCommit { .. }));
            dump::read_dir(Path::new("/journal"), detail, visit).await.unwrap();
            bad
        })
    });
    assert_eq!(bad, 1);
    assert!(peak <= 8 * MIB, "{peak} bytes");
}

fn a_batch_longer_than_its_segment() {
    let sim = sim();
    sim.run_on(1, async {
        let mut batch = BatchBuilder::new().record(0, None, Some(b"value")).build().unwrap();
        batch[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
        let mut file = vec![0; BLOCK_BYTES];
        file.extend_from_slice(&batch);
        write("/segments/0/00000000000000000000.log", &file).await;
    });
    let (peak, ()) = peak_bytes(|| {
        sim.run_on(1, async {
            let found = segments(Path::new("/segments/0"), None, None, Swaps::default()).await.unwrap();
            let mut scan = SegmentScan::open(&found[0]).await.unwrap();
            while scan.next().await.unwrap().is_some() {}
        });
    });
    assert!(peak <= 8 * MIB, "{peak} bytes");
}

fn a_small_file_that_is_not_small() {
    let sim = sim();
    let (peak, refused) = peak_bytes(|| {
        sim.run_on(1, async {
            write("/data/layout", b"journal 1\n").await;
            let file = File::open(Path::new("/data/layout"), fs::OpenMode::ReadWrite).await.unwrap();
            file.write_at(AlignedBuf::zeroed(BLOCK_BYTES), 64 << 20).await.unwrap();
            file.close().await.unwrap();
            fs::read_small("/data/layout").await.map(drop)
        })
    });
    assert!(refused.is_err());
    assert!(peak <= 8 * MIB, "{peak} bytes");
}
