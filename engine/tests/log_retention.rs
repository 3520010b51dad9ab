//! What retention asks of one log: how old its segments are, and removing them.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;

use bytes::Bytes;
use corelog_engine::log::retain::{Policy, Reason, Unknown};
use corelog_engine::log::{
    FileCache, FileCacheOptions, LogError, Roll, SegmentLog, SegmentOptions, SegmentPosition, Unflushed,
};
use corelog_engine::types::{Offset, PartitionId, TopicId, TopicPartition};
use corelog_protocol::batch::BatchBuilder;
use corelog_runtime::sim::{FaultOn, Sim, SimOptions};
use corelog_runtime::time;
use uuid::Uuid;

const NODE: u32 = 1;
const BY_TIME: Policy = Policy { retention_ms: Some(1_000), retention_bytes: None, roll_ms: None };

fn dir() -> PathBuf {
    PathBuf::from("/data/topic/0")
}

fn open(at: SegmentPosition, log_start: i64) -> SegmentLog {
    let target = TopicPartition::new(TopicId(Uuid::from_u128(7)), PartitionId(0));
    let files = FileCache::new(FileCacheOptions::default());
    SegmentLog::new(dir(), target, at, Offset(log_start), SegmentOptions::default(), files)
}

/// A batch of one record at each offset, with this timestamp.
fn batches(offsets: std::ops::Range<i64>, timestamp_ms: i64) -> Vec<Bytes> {
    let batch = |offset| {
        let builder = BatchBuilder::new().base_offset(offset).record(timestamp_ms, None, Some(&[7; 1000]));
        builder.build().unwrap().freeze()
    };
    offsets.map(batch).collect()
}

/// Three closed segments of ten records, and five in the active one; each with a timestamp of its own.
async fn write(timestamps_ms: [i64; 4]) -> SegmentPosition {
    let log = open(SegmentPosition::start(Offset(0)), 0);
    for (base, timestamp_ms) in [0, 10, 20].into_iter().zip(timestamps_ms) {
        log.flush(&batches(base..base + 10, timestamp_ms), Roll::CloseAll).await.unwrap();
    }
    log.flush(&batches(30..35, timestamps_ms[3]), Roll::AsNeeded).await.unwrap()
}

fn nothing_unflushed(at: SegmentPosition, now_ms: i64) -> Unflushed {
    Unflushed { end: at.next, bytes: 0, newest_ms: -1, since_ms: now_ms }
}

/// Looks until all is known, and says what was looked up and what goes.
async fn judged(log: &SegmentLog, policy: &Policy, now_ms: i64) -> (Vec<Unknown>, Vec<(i64, Reason)>, bool) {
    let mut asked = Vec::new();
    loop {
        let verdict = log.judge(policy, &nothing_unflushed(log.position(), now_ms), now_ms);
        match verdict.unknown {
            Some(unknown) if asked.last() != Some(&unknown) => {
                log.learn(unknown).await.unwrap();
                asked.push(unknown);
            }
            _ => {
                let cuts = verdict.cuts.iter().map(|cut| (cut.end.0, cut.reason)).collect();
                return (asked, cuts, verdict.closes);
            }
        }
    }
}

#[test]
fn a_reopened_log_is_looked_into_as_far_as_it_matters_and_once() {
    Sim::new(1, SimOptions::default()).run_on(NODE, async {
        let at = write([5_000, 6_000, 9_000, 1]).await;
        let log = open(at, 0);
        let (asked, cuts, closes) = judged(&log, &BY_TIME, 7_500).await;
        let closed = |base| Unknown::Closed(Offset(base));
        assert_eq!(asked, [Unknown::Segments, closed(0), closed(10), closed(20)]);
        assert_eq!((cuts, closes), (vec![(10, Reason::Time), (20, Reason::Time)], false));
        let (asked, cuts, closes) = judged(&log, &BY_TIME, 10_001).await;
        assert_eq!(asked, [Unknown::Active], "the others are known");
        assert_eq!((cuts.len(), closes), (3, true));
        assert_eq!(judged(&log, &BY_TIME, 10_001).await.0, []);
        // By size no timestamp matters.
        let by_size = Policy { retention_bytes: Some(0), ..Policy::default() };
        let (asked, cuts, closes) = judged(&open(at, 0), &by_size, 7_500).await;
        assert_eq!((asked, cuts.len(), closes), (vec![Unknown::Segments], 3, true));
        assert_eq!(judged(&open(at, 0), &Policy::default(), 7_500).await.0, []);
    });
}

#[test]
fn what_is_not_flushed_yet_keeps_the_newest_records() {
    Sim::new(2, SimOptions::default()).run_on(NODE, async {
        let at = write([1, 1, 1, 1]).await;
        let log = open(at, 0);
        judged(&log, &BY_TIME, 10_000).await;
        let with = |newest_ms| {
            let unflushed = Unflushed { end: Offset(40), bytes: 100, newest_ms, since_ms: 0 };
            log.judge(&BY_TIME, &unflushed, 10_000)
        };
        assert!(!with(9_500).closes);
        assert!(with(8_500).closes);
    });
}

/// Such records are as old as the segment behind them, which was made when theirs was closed.
#[test]
fn segments_without_timestamps_and_damaged_ones_go_with_their_age() {
    let sim = Sim::new(3, SimOptions::default());
    let (at, written_ms) = sim.run_on(NODE, async {
        let written_ms = time::unix_time_ms();
        (write([-1, 1, -1, 1]).await, written_ms)
    });
    // A header of a batch in the second segment, and nothing else says how new that one is.
    sim.disk(NODE).flip_bit(dir().join(format!("{:020}.log", 10)), 4096 + 16, 1);
    sim.run_on(NODE, async move {
        let log = open(at, 0);
        let soon_ms = written_ms + 900;
        let (_, cuts, _) = judged(&log, &BY_TIME, soon_ms).await;
        assert_eq!(cuts, []);
        let (_, cuts, _) = judged(&log, &BY_TIME, time::unix_time_ms() + 1_001).await;
        assert_eq!(cuts.len(), 3, "a bad block keeps nothing for ever");
    });
}

/// A flush may close the segment that the newest checkpoint names, and a trim pass it by, before the
/// files below the log start go: a replay would look for it in vain.
#[test]
fn the_segment_that_a_checkpoint_names_stays() {
    Sim::new(4, SimOptions::default()).run_on(NODE, async {
        let stored = write([1, 1, 1, 1]).await;
        let log = open(stored, 0);
        log.flush(&batches(35..40, 1), Roll::CloseAll).await.unwrap();
        let removed = log.delete_below(Offset(40), stored).await.unwrap();
        assert_eq!(removed.iter().map(|removed| removed.base.0).collect::<Vec<_>>(), [0, 10, 20]);
        // A crash here, and the checkpoint counts.
        let again = open(stored, 40);
        let at = again.flush(&batches(35..45, 1), Roll::AsNeeded).await.unwrap();
        assert_eq!(again.read(Offset(40), Offset(45), usize::MAX, true).await.unwrap(), batches(40..45, 1));
        assert_eq!(again.delete_below(Offset(45), at).await.unwrap(), [], "it is the active one now");
    });
}

#[test]
fn what_could_not_be_removed_is_removed_the_next_time() {
    let sim = Sim::new(5, SimOptions::default());
    let disk = sim.disk(NODE);
    sim.run_on(NODE, async move {
        let at = write([1, 1, 1, 1]).await;
        let log = open(at, 0);
        disk.fail(FaultOn::Directory, "/data/topic/0/00000000000000000010.log", 1);
        let error = log.delete_below(Offset(30), at).await.unwrap_err();
        assert!(matches!(error, LogError::Io { .. }) && !log.is_fenced(), "{error}");
        assert_eq!(log.segments().await.unwrap().len(), 4);
        let below = log.read(Offset(29), Offset(35), usize::MAX, true).await;
        assert!(matches!(below, Err(LogError::OutOfRange { .. })), "the log start has moved: {below:?}");
        let (_, cuts, _) = judged(&log, &Policy::default(), 0).await;
        assert_eq!(cuts, [10, 20, 30].map(|end| (end, Reason::LogStart)));
        assert_eq!(log.delete_below(Offset(30), at).await.unwrap().len(), 3);
        assert_eq!(log.segments().await.unwrap().len(), 1);
        assert_eq!(log.read(Offset(30), Offset(35), usize::MAX, true).await.unwrap(), batches(30..35, 1));
    });
    assert_eq!(sim.disk(NODE).names(dir()), ["00000000000000000030.log"]);
}

/// After a crash between checkpoint and removal nobody knows of those files but the directory.
#[test]
fn what_a_crash_left_below_the_log_start_is_found() {
    Sim::new(6, SimOptions::default()).run_on(NODE, async {
        let at = write([1, 1, 1, 1]).await;
        let log = open(at, 25);
        let (asked, cuts, _) = judged(&log, &Policy::default(), 0).await;
        assert_eq!(asked, [Unknown::Segments]);
        assert_eq!(cuts, [(10, Reason::LogStart), (20, Reason::LogStart)]);
    });
}

/// A reader that waits to read on would keep the file, and its space, open.
#[test]
fn a_removed_file_is_not_held_by_who_may_read_on() {
    let sim = Sim::new(7, SimOptions::default());
    let disk = sim.disk(NODE);
    let used = sim.run_on(NODE, async move {
        let at = write([1, 1, 1, 1]).await;
        let log = open(at, 0);
        let read = log.read(Offset(0), Offset(35), 2_500, true).await.unwrap();
        assert_eq!(read, batches(0..2, 1));
        let before = disk.used_bytes();
        log.delete_below(Offset(10), at).await.unwrap();
        time::sleep(std::time::Duration::from_secs(1)).await;
        (before, disk.used_bytes())
    });
    assert!(used.1 + 10_000 < used.0, "{used:?}");
}
