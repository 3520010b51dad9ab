//! A partition's segments on a real disk, through io_uring.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;

use bytes::Bytes;
use corelog_engine::log::clean::choose::{CleanRules, GroupRules, groups};
use corelog_engine::log::clean::look::Known;
use corelog_engine::log::clean::pace::{Pace, PaceRules};
use corelog_engine::log::clean::retain::{Retention, RetentionRules};
use corelog_engine::log::clean::round::RECORDS_BYTES_MAX;
use corelog_engine::log::{FileCache, FileCacheOptions, Roll, SegmentLog, SegmentOptions, SegmentPosition};
use corelog_engine::planted::PlantedBug;
use corelog_engine::types::{Offset, PartitionId, TopicId, TopicPartition};
use corelog_protocol::batch::BatchBuilder;
use corelog_runtime::shards::{self, Options, ShardContext};
use corelog_runtime::time::Instant;
use uuid::Uuid;

const BATCH_BYTES: usize = 16 << 10;

fn batches(count: i64) -> Vec<Bytes> {
    let batch = |number: i64| {
        let value = vec![u8::try_from(number % 251).unwrap(); BATCH_BYTES];
        let builder = BatchBuilder::new().base_offset(number).leader_epoch(1);
        builder.record(1_000 + number, None, Some(&value)).build().unwrap().freeze()
    };
    (0..count).map(batch).collect()
}

async fn write_and_read(dir: PathBuf, mib: i64) {
    let target = TopicPartition::new(TopicId(Uuid::from_u128(1)), PartitionId(0));
    let options = SegmentOptions { segment_bytes: 48 << 20, ..SegmentOptions::default() };
    let dir = dir.join("topic").join("0");
    let open = |at| {
        // So few files that they are closed and opened all the time.
        let files = FileCache::new(FileCacheOptions { open_files_max: 1, readers_max: 2 });
        SegmentLog::new(dir.clone(), target, at, Offset(0), options, files)
    };
    let batches = batches(mib * 64);
    let end = Offset(mib * 64);

    let log = open(SegmentPosition::start(Offset(0)));
    let started = Instant::now();
    let mut from = 0;
    for upto in (8..=batches.len()).step_by(8) {
        let at = log.flush(&batches[from..upto], Roll::AsNeeded).await.unwrap();
        from = usize::try_from(at.next.0).unwrap();
    }
    println!("flushed {mib} MiB by 128 KiB in {:?}", started.elapsed());
    let at = log.flush(&batches[from..], Roll::CloseAll).await.unwrap();
    assert_eq!(at, SegmentPosition::start(end));
    assert!(log.segments().await.unwrap().len() > 1);

    let log = open(at);
    let started = Instant::now();
    let mut from = Offset(0);
    while from < end {
        let read = log.read(from, end, 1 << 20, true).await.unwrap();
        let first = usize::try_from(from.0).unwrap();
        assert_eq!(read, batches[first..first + read.len()]);
        from = from.plus(i64::try_from(read.len()).unwrap());
    }
    println!("read {mib} MiB by 1 MiB in {:?}", started.elapsed());
    for offset in (0..end.0).step_by(97) {
        let read = log.read(Offset(offset), end, 1, true).await.unwrap();
        assert_eq!(read[0], batches[usize::try_from(offset).unwrap()]);
        assert_eq!(
            log.offset_for_time(1_000 + offset).await.unwrap(),
            Some((Offset(offset), 1_000 + offset))
        );
    }
    let cut = log.truncate_to(Offset(end.0 / 2)).await.unwrap();
    assert_eq!(log.max_timestamp().await.unwrap(), Some((1_000 + cut.next.0 - 1, cut.next.plus(-1))));
    log.delete_below(Offset(end.0 / 2), log.position()).await.unwrap();
    log.delete_all().await.unwrap();
    assert!(!corelog_runtime::fs::exists(&dir).await.unwrap());
}

/// A round over some segments, and what is read of them afterwards, also through their new index.
async fn compact(dir: PathBuf) {
    const KEYS: i64 = 300;
    let target = TopicPartition::new(TopicId(Uuid::from_u128(2)), PartitionId(0));
    let options = SegmentOptions { segment_bytes: 4 << 20, ..SegmentOptions::default() };
    let dir = dir.join("compacted").join("0");
    let open = |at, swaps| {
        let files = FileCache::new(FileCacheOptions { open_files_max: 1, readers_max: 2 });
        SegmentLog::new(dir.clone(), target, at, Offset(0), options, files).with_swaps(swaps)
    };
    let batch = |number: i64| {
        let key = (number % KEYS).to_be_bytes();
        let value = vec![u8::try_from(number % 251).unwrap(); BATCH_BYTES];
        let builder = BatchBuilder::new().base_offset(number).leader_epoch(1);
        builder.record(1_000 + number, Some(&key), Some(&value)).build().unwrap().freeze()
    };
    let end = 1_000;
    let batches: Vec<Bytes> = (0..end).map(batch).collect();
    let log = open(SegmentPosition::start(Offset(0)), Default::default());
    let at = log.flush(&batches, Roll::CloseAll).await.unwrap();
    // Whoever was reading goes on reading.
    log.read(Offset(0), Offset(end), 1 << 20, true).await.unwrap();

    let known = Known { cleaned_to: Offset(0), last_stable: Offset(end), log_end: Offset(end) };
    let rules = CleanRules { dirty_ratio_min: 0.0, lag_min_ms: 0, lag_max_ms: i64::MAX };
    log.list().await.unwrap();
    let cleanable = log.cleanable(&known, &rules, false, 5_000).unwrap();
    let mut pace = Pace::new(PaceRules::UNLIMITED, || false, || false);
    let (keys, mapped_to) = log.map_keys(&cleanable, 1 << 20, (1, 2), &mut pace).await.unwrap();
    assert_eq!(mapped_to, Offset(end));
    let rules = RetentionRules {
        mapped_to,
        log_start: Offset(0),
        now_ms: 5_000,
        delete_retention_ms: 0,
        last_batches: Vec::new(),
        limit_bytes: RECORDS_BYTES_MAX,
        planted: PlantedBug::NONE,
    };
    let mut retention = Retention::new(keys, rules);
    let group_rules = GroupRules { segment_bytes: 16 << 20, newest_apart_ms_max: None };
    let groups = groups(&cleanable.closed, Offset(0), mapped_to, &group_rules);
    assert!(groups.len() < cleanable.closed.len(), "several become one");
    for group in groups {
        let group = &cleanable.closed[group];
        let rewritten = log.rewrite(group, 0, &mut retention, &mut pace).await.unwrap();
        let begun = log.begin_swap(rewritten.expect("something goes of each"));
        assert!(begun.is_ok());
        log.swap_committed();
        log.finish_swap().await.unwrap();
    }
    for log in [log.clone(), open(at, log.swaps())] {
        for from in (0..end).step_by(37) {
            let read = log.read_records(Offset(from), Offset(end), 1, true).await.unwrap();
            let first = usize::try_from(from.max(end - KEYS)).unwrap();
            assert_eq!(read.batches, batches[first..=first], "from {from}");
        }
        let last = Some((Offset(end - KEYS), 1_000 + end - KEYS));
        assert_eq!(log.offset_for_time(0).await.unwrap(), last);
        assert_eq!(log.max_timestamp().await.unwrap(), Some((1_000 + end - 1, Offset(end - 1))));
        assert!(log.size_bytes() < 6 << 20, "{}", log.size_bytes());
    }
}

#[test]
fn segments_work_on_a_real_disk() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_path_buf();
    let mib = std::env::var("CORELOG_LOG_MIB").ok().and_then(|mib| mib.parse().ok()).unwrap_or(96);
    let options = Options { shards: 1, data_dirs: vec![path.clone()], ..Options::default() };
    shards::run(options, move |_: ShardContext<(), ()>| {
        let path = path.clone();
        async move {
            write_and_read(path.clone(), mib).await;
            compact(path).await;
            Ok::<(), String>(())
        }
    })
    .unwrap();
}
