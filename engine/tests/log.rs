//! A partition's segments on the simulated disk, against a model: the batches one after another.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::cell::RefCell;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use corelog_engine::log::clean::Swaps;
use corelog_engine::log::verify::{self, Found, SegmentScan};
use corelog_engine::log::{
    FileCache, FileCacheOptions, LogError, RecordsRead, Roll, SegmentLog, SegmentOptions, SegmentPosition,
};
use corelog_engine::types::{LeaderEpoch, Offset, PartitionId, TopicId, TopicPartition};
use corelog_protocol::batch::filter::{FilterRules, Filtered, filler, filter};
use corelog_protocol::batch::{BatchBuilder, BatchHeader, BatchRef, Scratch};
use corelog_runtime::sim::{FaultOn, Sim, SimOptions};
use corelog_runtime::{fs, rand, task, time};
use uuid::Uuid;

const NODE: u32 = 1;
const ALL: usize = usize::MAX;

fn dir() -> PathBuf {
    PathBuf::from("/data/topic/0")
}

fn target() -> TopicPartition {
    TopicPartition::new(TopicId(Uuid::from_u128(0xC0FFEE)), PartitionId(3))
}

fn below(range: Range<u64>) -> u64 {
    range.start + rand::below(range.end - range.start)
}

/// The records that the log should have: what the journal would know as well.
#[derive(Default)]
struct Model {
    batches: Vec<Bytes>,
    /// Timestamp of each record from offset 0 on, and whether it can be found.
    timestamps: Vec<i64>,
    epoch: i32,
}

impl Model {
    fn end(&self) -> Offset {
        Offset(i64::try_from(self.timestamps.len()).unwrap())
    }

    fn append(&mut self, records: u64, value_bytes: u64, timestamp: impl Fn() -> i64) {
        let mut builder = BatchBuilder::new().base_offset(self.end().0).leader_epoch(self.epoch);
        let mut value = vec![0; usize::try_from(value_bytes).unwrap()];
        for _ in 0..records {
            rand::fill(&mut value);
            let timestamp = timestamp();
            self.timestamps.push(timestamp);
            builder = builder.record(timestamp, None, Some(&value));
        }
        self.batches.push(builder.build().unwrap().freeze());
    }

    fn append_random(&mut self) {
        let value_bytes = match rand::below(20) {
            0 => below(5_000..40_000),
            1..4 => below(500..5_000),
            _ => below(0..300),
        };
        if rand::below(30) == 0 {
            self.epoch += 1;
        }
        // In no order, now and then far in the future.
        let timestamp = || i64::try_from(below(0..1_000) * if rand::below(50) == 0 { 5 } else { 1 }).unwrap();
        self.append(below(1..6), value_bytes, timestamp);
    }

    /// Number of the batch that holds the offset.
    fn number_at(&self, offset: Offset) -> usize {
        self.batches.partition_point(|batch| header(batch).next_offset() <= offset.0)
    }

    fn from(&self, offset: Offset) -> &[Bytes] {
        &self.batches[self.number_at(offset)..]
    }

    /// Batches from the one that holds `from` to the one that ends at `upto`.
    fn between(&self, from: Offset, upto: Offset) -> &[Bytes] {
        &self.batches[self.number_at(from)..self.number_at(upto)]
    }

    fn truncate(&mut self, offset: Offset) {
        self.batches.truncate(self.number_at(offset));
        let end = self.batches.last().map_or(0, |batch| header(batch).next_offset());
        self.timestamps.truncate(usize::try_from(end).unwrap());
        assert_eq!(self.end(), offset, "the test truncates at batches");
    }

    fn records(&self, log_start: Offset, end: Offset) -> impl Iterator<Item = (Offset, i64)> {
        (log_start.0..end.0).map(|offset| (Offset(offset), self.timestamps[usize::try_from(offset).unwrap()]))
    }

    fn at_or_after(&self, log_start: Offset, end: Offset, ts: i64) -> Option<(Offset, i64)> {
        self.records(log_start, end).find(|(_, timestamp)| *timestamp >= ts)
    }

    fn max_timestamp(&self, log_start: Offset, end: Offset) -> Option<(i64, Offset)> {
        let max = self.records(log_start, end).map(|(_, timestamp)| timestamp).max()?;
        self.at_or_after(log_start, end, max).map(|(offset, timestamp)| (timestamp, offset))
    }
}

fn header(batch: &[u8]) -> BatchHeader {
    BatchHeader::parse(batch).unwrap()
}

/// What the journal keeps over a crash.
struct Journal {
    checkpoint: SegmentPosition,
    log_start: Offset,
    /// Truncations behind the checkpoint.
    truncations: Vec<Offset>,
}

struct World {
    model: Model,
    journal: Journal,
    options: SegmentOptions,
}

type Shared = Rc<RefCell<World>>;

fn open(world: &Shared) -> SegmentLog {
    let small = FileCacheOptions { open_files_max: 3, readers_max: 3 };
    let (at, log_start, options) = {
        let world = world.borrow();
        (world.journal.checkpoint, world.journal.log_start, world.options)
    };
    SegmentLog::new(dir(), target(), at, log_start, options, FileCache::new(small))
}

async fn replay(world: &Shared) -> SegmentLog {
    let log = open(world);
    let truncations = world.borrow().journal.truncations.clone();
    for offset in truncations {
        log.truncate_to(offset).await.unwrap();
    }
    log
}

async fn flush(world: &Shared, log: &SegmentLog, roll: Roll) {
    let before = log.position();
    let batches = {
        let world = world.borrow();
        let pending = world.model.from(before.next);
        let some = usize::try_from(rand::below(pending.len() as u64 + 1)).unwrap();
        pending[..some].to_vec()
    };
    let after = log.flush(&batches, roll).await.unwrap();
    assert_eq!(after, log.position());
    assert!(after.next >= before.next);
    if roll == Roll::CloseAll {
        let end = batches.last().map_or(before.next, |batch| Offset(header(batch).next_offset()));
        assert_eq!(after, SegmentPosition::start(end));
    }
}

async fn check_read(world: &Shared, log: &SegmentLog) {
    let (log_start, end) = {
        let world = world.borrow();
        (world.journal.log_start, log.position().next)
    };
    if log_start >= end {
        assert!(log.read(log_start, end, ALL, true).await.unwrap().is_empty());
        return;
    }
    let span = u64::try_from(end.0 - log_start.0).unwrap();
    let mut from = log_start.plus(i64::try_from(rand::below(span)).unwrap());
    let max_bytes = usize::try_from(below(1..200_000)).unwrap();
    for _ in 0..below(1..6) {
        let read = log.read(from, end, max_bytes, true).await.unwrap();
        let world = world.borrow();
        let expected = world.model.between(from, end);
        if expected.is_empty() {
            assert!(read.is_empty());
            return;
        }
        assert!(!read.is_empty(), "nothing from {from} below {end}");
        assert_eq!(read, expected[..read.len()]);
        let bytes: usize = read.iter().map(Bytes::len).sum();
        assert!(bytes <= max_bytes || read.len() == 1);
        if let Some(next) = expected.get(read.len()) {
            assert!(bytes + next.len() > max_bytes, "one more batch fits");
        }
        from = Offset(header(read.last().unwrap()).next_offset());
    }
}

async fn check_times(world: &Shared, log: &SegmentLog) {
    let ts = i64::try_from(below(0..1_200) * if rand::below(4) == 0 { 4 } else { 1 }).unwrap();
    let end = log.position().next;
    let found = log.offset_for_time(ts).await.unwrap();
    let max = log.max_timestamp().await.unwrap();
    let world = world.borrow();
    let log_start = world.journal.log_start;
    assert_eq!(found, world.model.at_or_after(log_start, end, ts), "first at or after {ts}");
    assert_eq!(max, world.model.max_timestamp(log_start, end));
}

fn random_offset(world: &Shared, upto: Offset) -> Option<Offset> {
    let world = world.borrow();
    let log_start = world.journal.log_start;
    let span = u64::try_from(upto.0 - log_start.0).ok().filter(|span| *span > 0)?;
    Some(log_start.plus(i64::try_from(rand::below(span)).unwrap()))
}

/// Truncates at a random batch; rarely far back.
async fn truncate(world: &Shared, log: &SegmentLog) {
    let offset = {
        let world = world.borrow();
        let first = world.model.number_at(world.journal.log_start);
        let count = u64::try_from(world.model.batches.len() - first).unwrap();
        let back = rand::below(if rand::below(5) == 0 { count + 1 } else { count.min(8) + 1 });
        let number = world.model.batches.len() - usize::try_from(back).unwrap();
        let at = world.model.batches.get(number).map(|batch| Offset(header(batch).base_offset));
        at.unwrap_or(world.model.end())
    };
    if offset < world.borrow().journal.log_start {
        return;
    }
    world.borrow_mut().journal.truncations.push(offset);
    world.borrow_mut().model.truncate(offset);
    let at = log.truncate_to(offset).await.unwrap();
    assert!(at.next <= offset);
}

async fn check_batch_base(world: &Shared, log: &SegmentLog) {
    let end = log.position().next;
    assert_eq!(log.batch_base_of(end).await.unwrap(), None);
    if let Some(offset) = random_offset(world, end) {
        let found = log.batch_base_of(offset).await.unwrap();
        let world = world.borrow();
        let batch = &world.model.batches[world.model.number_at(offset)];
        assert_eq!(found, Some(Offset(header(batch).base_offset)));
    }
}

async fn step(world: &Shared, log: &SegmentLog) {
    match rand::below(100) {
        0..30 => {
            for _ in 0..below(1..30) {
                world.borrow_mut().model.append_random();
            }
        }
        30..50 => flush(world, log, Roll::AsNeeded).await,
        50..53 => flush(world, log, Roll::CloseAll).await,
        53..75 => check_read(world, log).await,
        75..82 => check_times(world, log).await,
        82 => check_batch_base(world, log).await,
        83..90 => {
            let mut world = world.borrow_mut();
            world.journal.checkpoint = log.position();
            world.journal.truncations.clear();
        }
        90..93 => {
            let at = log.position();
            let log_start = random_offset(world, at.next);
            if let Some(log_start) = log_start {
                {
                    let mut world = world.borrow_mut();
                    world.journal.checkpoint = at;
                    world.journal.truncations.clear();
                    world.journal.log_start = log_start;
                }
                log.delete_below(log_start, at).await.unwrap();
                let segments = log.segments().await.unwrap();
                assert!(segments.iter().all(|segment| segment.end > log_start || segment.is_active));
            }
        }
        93..96 => truncate(world, log).await,
        _ => time::sleep(Duration::from_millis(below(1..3_000))).await,
    }
}

/// Reads and flushes at the same time, on one log.
async fn interleave(world: &Shared, log: &SegmentLog) {
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (world, log) = (Rc::clone(world), log.clone());
            task::spawn_join(task::Class::Read, async move {
                check_read(&world, &log).await;
                check_times_upto(&world, &log).await;
            })
        })
        .collect();
    flush(world, log, Roll::AsNeeded).await;
    for reader in readers {
        reader.await;
    }
}

/// As [`check_times`], while the end moves.
async fn check_times_upto(world: &Shared, log: &SegmentLog) {
    let ts = i64::try_from(below(0..1_000)).unwrap();
    let before = log.position().next;
    let found = log.offset_for_time(ts).await.unwrap();
    let after = log.position().next;
    let world = world.borrow();
    let log_start = world.journal.log_start;
    let allowed = [before, after].map(|end| world.model.at_or_after(log_start, end, ts));
    assert!(found == allowed[1] || found == allowed[0], "{found:?} is none of {allowed:?}");
}

async fn life(world: Shared) {
    let log = replay(&world).await;
    check_read(&world, &log).await;
    for _ in 0..below(5..60) {
        if rand::below(10) == 0 {
            interleave(&world, &log).await;
        } else {
            step(&world, &log).await;
        }
    }
    // The end comes in the middle of something.
    let (dying, doomed) = (Rc::clone(&world), log.clone());
    task::spawn(async move {
        let roll = if rand::below(4) == 0 { Roll::CloseAll } else { Roll::AsNeeded };
        match rand::below(8) {
            0 => truncate(&dying, &doomed).await,
            _ => flush(&dying, &doomed, roll).await,
        }
    });
    time::sleep(Duration::from_micros(below(0..5_000))).await;
}

fn run_seed(seed: u64) -> u64 {
    let sim = Sim::new(seed, SimOptions::default());
    let sizes = [4096, 20_000, 100_000, 3_000_000];
    let options = SegmentOptions {
        segment_bytes: sizes[usize::try_from(seed % 4).unwrap()],
        segment_ms: 60_000,
        index_interval_bytes: if seed.is_multiple_of(3) { 1 } else { 4096 },
        ..SegmentOptions::default()
    };
    let journal = Journal {
        checkpoint: SegmentPosition::start(Offset(0)),
        log_start: Offset(0),
        truncations: Vec::new(),
    };
    let world = Rc::new(RefCell::new(World { model: Model::default(), journal, options }));
    // The data directory is the node's business.
    sim.run_on(NODE, async {
        fs::create_dir_all("/data").await.unwrap();
        fs::sync_dir("/").await.unwrap();
    });
    for number in 0..6 {
        sim.run_on(NODE, life(Rc::clone(&world)));
        if number % 2 == 0 {
            sim.crash_node(NODE);
        } else {
            sim.kill_process(NODE);
        }
    }
    let last = Rc::clone(&world);
    sim.run_on(NODE, async move {
        let log = replay(&last).await;
        let (log_start, end) = (last.borrow().journal.log_start, log.position().next);
        let read = log.read(log_start, end, ALL, true).await.unwrap();
        assert_eq!(read, last.borrow().model.between(log_start, end));
        for _ in 0..20 {
            check_times(&last, &log).await;
        }
    });
    sim.trace_hash()
}

fn seeds() -> Range<u64> {
    let count = std::env::var("CORELOG_LOG_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(80);
    let first = std::env::var("CORELOG_LOG_SEED").ok().and_then(|seed| seed.parse().ok());
    first.map_or(0..count, |seed| seed..seed + 1)
}

#[test]
fn whatever_happens_the_log_holds_what_was_flushed() {
    for seed in seeds() {
        let run = std::panic::catch_unwind(|| run_seed(seed));
        if let Err(panic) = run {
            eprintln!("failed with CORELOG_LOG_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_seed_replays_a_run() {
    assert_eq!(run_seed(4711), run_seed(4711));
}

// Damage.

/// Three closed segments and an active one of a few batches each.
async fn small_log(world: &Shared) -> SegmentLog {
    let log = open(world);
    for segment in 0..4 {
        for number in 0..5 {
            let mut world = world.borrow_mut();
            world.model.epoch = segment;
            world.model.append(3, 700 + number * 150, || 1_000 + i64::try_from(rand::below(99)).unwrap());
        }
        let roll = if segment < 3 { Roll::CloseAll } else { Roll::AsNeeded };
        let from = log.position().next;
        let batches = world.borrow().model.from(from).to_vec();
        log.flush(&batches, roll).await.unwrap();
    }
    world.borrow_mut().journal.checkpoint = log.position();
    log
}

fn new_world(options: SegmentOptions) -> Shared {
    let journal = Journal {
        checkpoint: SegmentPosition::start(Offset(0)),
        log_start: Offset(0),
        truncations: Vec::new(),
    };
    Rc::new(RefCell::new(World { model: Model::default(), journal, options }))
}

/// The epochs of the model, as a partition would know them.
fn epochs(world: &Shared) -> corelog_engine::log::EpochAt {
    let world = Rc::clone(world);
    Rc::new(move |offset| {
        let world = world.borrow();
        let batch = world.model.batches.get(world.model.number_at(offset))?;
        Some(LeaderEpoch(header(batch).leader_epoch))
    })
}

/// Reads everything in small and large steps; whatever comes must be right. Returns the error, if any.
async fn read_all(world: &Shared, log: &SegmentLog) -> Option<LogError> {
    let end = log.position().next;
    let mut from = Offset(0);
    while from < end {
        match log.read(from, end, 6_000, true).await {
            Ok(read) => {
                let world = world.borrow();
                assert_eq!(read, world.model.between(from, end)[..read.len()]);
                from = Offset(header(read.last().unwrap()).next_offset());
            }
            Err(error) => return Some(error),
        }
    }
    None
}

#[test]
fn a_flipped_bit_is_never_served() {
    let sim = Sim::new(1, SimOptions::default());
    let world = new_world(SegmentOptions::default());
    let build = Rc::clone(&world);
    sim.run_on(NODE, async move {
        small_log(&build).await;
    });
    let disk = sim.disk(NODE);
    let mut seen = [0usize; 2];
    for name in disk.names(dir()).into_iter().filter(|name| name.ends_with(".log")) {
        let path = dir().join(&name);
        let content = disk.content(&path).unwrap();
        let synced = is_active(&world, &name)
            .then(|| usize::try_from(world.borrow().journal.checkpoint.position_bytes).unwrap());
        // Every byte of the first batch's header, and a sample of everything else.
        let header_bytes = 4096..4096 + 61;
        let positions = header_bytes.chain((0..content.len()).step_by(53));
        for position in positions {
            let bit = u8::try_from(position % 8).unwrap();
            disk.flip_bit(&path, position as u64, bit);
            let check = Rc::clone(&world);
            let error = sim.run_on(NODE, async move {
                let log = open(&check);
                log.check_epochs_with(epochs(&check));
                read_all(&check, &log).await
            });
            disk.flip_bit(&path, position as u64, bit);
            let counts = synced.is_none_or(|synced| position < synced) && telling(&content, position);
            assert_eq!(
                matches!(error, Some(LogError::Corrupt(_))),
                counts,
                "{name} byte {position}: {error:?}"
            );
            seen[usize::from(counts)] += 1;
        }
    }
    assert!(seen.iter().all(|seen| *seen > 0), "both kinds of bytes were hit: {seen:?}");
}

fn is_active(world: &Shared, name: &str) -> bool {
    let active = world.borrow().journal.checkpoint.segment_base;
    name == format!("{:020}.log", active.0)
}

/// Whether a byte belongs to a batch, or to the padding before one where that must be seen as such.
fn telling(content: &[u8], position: usize) -> bool {
    if position < 4096 {
        return true;
    }
    let mut at = 4096;
    let mut gap = at..at;
    while at < content.len() {
        let rest = at.next_multiple_of(4096) - at;
        let is_batch = content.get(at + 16) == Some(&2) && content[at..at + 12].iter().any(|byte| *byte != 0);
        if is_batch && (rest == 0 || rest >= 12) {
            let end = at + header(&content[at..]).total_len();
            if (at..end).contains(&position) || gap.contains(&position) {
                return true;
            }
            (at, gap) = (end, end..end);
        } else if rest == 0 {
            return false;
        } else {
            gap = if rest < 12 { at..at } else { at..at + 12 };
            at += rest;
        }
    }
    false
}

#[test]
fn batches_before_and_behind_a_bad_one_are_served_without_an_epoch_hook() {
    let sim = Sim::new(2, SimOptions::default());
    let world = new_world(SegmentOptions::default());
    let build = Rc::clone(&world);
    sim.run_on(NODE, async move {
        small_log(&build).await;
    });
    let first = sim.disk(NODE).names(dir()).remove(0);
    sim.disk(NODE).flip_bit(dir().join(first), 4096 + 3_000, 1);
    sim.run_on(NODE, async move {
        let log = open(&world);
        let bad = log.read(Offset(3), Offset(1_000), ALL, true).await;
        let Err(LogError::Corrupt(corruption)) = bad else { panic!("{bad:?}") };
        assert_eq!(corruption.offset, Offset(3));
        assert_eq!(log.read(Offset(0), Offset(1_000), ALL, true).await.unwrap().len(), 1);
        let next = Offset(15);
        let read = log.read(next, Offset(1_000), ALL, true).await.unwrap();
        assert_eq!(read, world.borrow().model.between(next, log.position().next));
    });
}

#[test]
fn an_index_that_is_damaged_or_gone_changes_no_answer() {
    for seed in 0..30 {
        let sim = Sim::new(seed, SimOptions::default());
        let options = SegmentOptions { segment_bytes: 400_000, ..SegmentOptions::default() };
        let world = new_world(options);
        let build = Rc::clone(&world);
        sim.run_on(NODE, async move {
            let log = open(&build);
            for _ in 0..10 {
                for _ in 0..150 {
                    build.borrow_mut().model.append_random();
                }
                let batches = build.borrow().model.from(log.position().next).to_vec();
                log.flush(&batches, Roll::AsNeeded).await.unwrap();
            }
            build.borrow_mut().journal.checkpoint = log.position();
            // What is written behind is written.
            time::sleep(Duration::from_secs(1)).await;
        });
        let disk = sim.disk(NODE);
        let indexes: Vec<_> = disk.names(dir()).into_iter().filter(|name| name.ends_with(".index")).collect();
        assert!(indexes.len() > 2, "several segments have an index");
        for (number, name) in indexes.iter().enumerate() {
            let path = dir().join(name);
            let len = disk.content(&path).unwrap().len() as u64;
            if number % 3 == 0 {
                disk.flip_bit(&path, (seed * 997 + 13) % len, 3);
            } else if number % 3 == 1 {
                sim.run_on(NODE, async move { fs::remove_file(&path).await }).unwrap();
            }
        }
        let check = Rc::clone(&world);
        sim.run_on(NODE, async move {
            let log = open(&check);
            for _ in 0..30 {
                check_read(&check, &log).await;
                check_times(&check, &log).await;
            }
        });
    }
}

#[test]
fn index_entries_of_data_that_does_not_count_are_never_believed() {
    let sim = Sim::new(10, SimOptions::default());
    let options = SegmentOptions { index_interval_bytes: 1, segment_bytes: 1 << 20, ..Default::default() };
    let world = new_world(options);
    let (first, second) = (Rc::clone(&world), Rc::clone(&world));
    sim.run_on(NODE, async move {
        let log = open(&first);
        for number in 0..200 {
            first.borrow_mut().model.append(1, 600, || 1_000 + number);
            let batches = first.borrow().model.from(log.position().next).to_vec();
            let at = log.flush(&batches, Roll::AsNeeded).await.unwrap();
            if number == 20 {
                first.borrow_mut().journal.checkpoint = at;
            }
        }
        time::sleep(Duration::from_secs(1)).await;
    });
    // The journal lost what came after the checkpoint, as in mode `write` it may. Other records
    // take that place, too few for the index to be written again.
    let kept = world.borrow().journal.checkpoint.next.plus(1);
    world.borrow_mut().model.truncate(kept);
    sim.run_on(NODE, async move {
        let log = open(&second);
        for _ in 0..20 {
            second.borrow_mut().model.append(1, 4_000, || 50);
        }
        let batches = second.borrow().model.from(log.position().next).to_vec();
        log.flush(&batches, Roll::CloseAll).await.unwrap();
        let at = log.position();
        second.borrow_mut().journal.checkpoint = at;
    });
    sim.run_on(NODE, async move {
        let log = open(&world);
        let end = log.position().next;
        for offset in 0..end.0 {
            let read = log.read(Offset(offset), end, 1, true).await.unwrap();
            assert_eq!(read, world.borrow().model.from(Offset(offset))[..1]);
        }
        for ts in 990..1_210 {
            let found = log.offset_for_time(ts).await.unwrap();
            assert_eq!(found, world.borrow().model.at_or_after(Offset(0), end, ts), "{ts}");
        }
    });
}

#[test]
fn batches_larger_than_a_chunk_are_read_whole() {
    let world = new_world(SegmentOptions::default());
    corelog_runtime::sim::block_on(3, async move {
        let log = open(&world);
        for value_bytes in [10, 3 << 20, 700_000, 700_000, 700_000, 5 << 20, 100] {
            world.borrow_mut().model.append(1, value_bytes, || 7);
        }
        let batches = world.borrow().model.batches.clone();
        log.flush(&batches, Roll::CloseAll).await.unwrap();
        for from in 0..7 {
            for max_bytes in [0, 1 << 20, ALL] {
                let read = log.read(Offset(from), Offset(7), max_bytes, true).await.unwrap();
                let first = usize::try_from(from).unwrap();
                assert_eq!(read, batches[first..first + read.len()]);
                assert!(read.len() == batches.len() - first || max_bytes < ALL);
            }
        }
        assert!(log.read(Offset(0), Offset(7), 10, false).await.unwrap().is_empty());
    });
}

#[test]
fn a_closed_segments_batches_are_read_one_by_one() {
    let world = new_world(SegmentOptions { segment_bytes: 600_000, ..SegmentOptions::default() });
    corelog_runtime::sim::block_on(11, async move {
        let log = open(&world);
        for _ in 0..1_500 {
            world.borrow_mut().model.append_random();
        }
        let batches = world.borrow().model.batches.clone();
        log.flush(&batches, Roll::AsNeeded).await.unwrap();
        let segments = log.segments().await.unwrap();
        let mut found = Vec::new();
        for segment in segments.iter().filter(|segment| !segment.is_active) {
            let mut source = log.closed_batches(segment.base).await.unwrap();
            while let Some(bytes) = source.next().await.unwrap() {
                found.push(bytes);
            }
            assert_eq!(header(found.last().unwrap()).next_offset(), segment.end.0);
        }
        assert!(segments.len() > 3, "{segments:?}");
        assert_eq!(found, batches[..found.len()]);
        assert!(log.closed_batches(log.position().segment_base).await.is_err());
        assert!(log.closed_batches(Offset(1)).await.is_err());

        let mut source = log.closed_batches(Offset(0)).await.unwrap();
        assert_eq!(source.next().await.unwrap().as_ref(), Some(&batches[0]));
        log.truncate_to(Offset(header(&batches[1]).next_offset())).await.unwrap();
        assert!(matches!(source.next().await, Err(LogError::Truncated)));
    });
}

/// A batch with one record for each offset from `base` on.
fn batch(base: i64, records: i64, epoch: i32, timestamp: i64) -> Bytes {
    let mut builder = BatchBuilder::new().base_offset(base).leader_epoch(epoch).producer(7, 0, 0);
    for _ in 0..records {
        builder = builder.record(timestamp, Some(b"key"), Some(b"value"));
    }
    builder.build().unwrap().freeze()
}

/// The batch without its records, as compaction leaves it.
fn emptied(batch: &Bytes) -> Bytes {
    let rules = FilterRules { keeps_empty: true, horizon_ms: None, limit_bytes: 1 << 20 };
    let batch = BatchRef::parse(batch).unwrap();
    match filter(&batch, &rules, &mut Scratch::new(), |_, _| false).unwrap() {
        Filtered::Emptied(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn fillers_are_left_out_unless_there_is_nothing_else() {
    let world = new_world(SegmentOptions::default());
    corelog_runtime::sim::block_on(8, async move {
        let log = open(&world);
        // Two segments; what stands for removed batches also lies across the two.
        let first = [batch(0, 5, 0, 1), filler(5, 100, 0), batch(100, 3, 0, 1), filler(103, 200, 0)];
        let second = [filler(200, 300, 1), batch(300, 2, 1, 1), filler(302, 400, 1), filler(400, 450, 2)];
        log.flush(&first, Roll::CloseAll).await.unwrap();
        log.flush(&second, Roll::CloseAll).await.unwrap();
        let end = Offset(450);
        let raw = log.read(Offset(0), end, ALL, true).await.unwrap();
        assert_eq!(raw, [&first[..], &second[..]].concat());

        let batches = [&first[0], &first[2], &second[1]];
        let read =
            async |from, max_bytes| log.read_records(Offset(from), end, max_bytes, true).await.unwrap();
        let found = |from: usize| RecordsRead {
            batches: batches[from..].iter().copied().cloned().collect(),
            filler: None,
        };
        assert_eq!(read(0, ALL).await, found(0));
        for (from, first) in [(4, 0), (5, 1), (99, 1), (102, 1), (103, 2), (250, 2), (301, 2)] {
            assert_eq!(read(from, ALL).await, found(first), "{from}");
        }
        // From where the batch before ended, as a consumer goes on; one at a time.
        for (from, first) in [(0, 0), (5, 1), (103, 2)] {
            assert_eq!(read(from, 1).await.batches, found(first).batches[..1], "{from}");
        }
        // Nothing follows: the last one says where to go on.
        for from in [302, 350, 400, 449] {
            let nothing = RecordsRead { batches: Vec::new(), filler: Some(second[3].clone()) };
            assert_eq!(read(from, ALL).await, nothing, "{from}");
        }
        assert_eq!(read(450, ALL).await, RecordsRead::default());
        // Below a bound nothing is known of what is behind it.
        let below = log.read_records(Offset(5), Offset(100), ALL, true).await.unwrap();
        assert_eq!(below.filler, Some(first[1].clone()));
    });
}

#[test]
fn a_read_passes_over_some_fillers_at_a_time() {
    let world = new_world(SegmentOptions::default());
    corelog_runtime::sim::block_on(9, async move {
        let log = open(&world);
        let mut batches: Vec<_> =
            (0..20).map(|epoch| filler(i64::from(epoch), i64::from(epoch) + 1, epoch)).collect();
        batches.push(batch(20, 1, 20, 1));
        log.flush(&batches, Roll::CloseAll).await.unwrap();
        let mut from = Offset(0);
        for _ in 0..20 {
            let read = log.read_records(from, Offset(21), ALL, true).await.unwrap();
            let Some(filler) = read.filler else {
                assert_eq!(read.batches, batches[20..]);
                return;
            };
            assert!(read.batches.is_empty() && header(&filler).next_offset() > from.0);
            from = Offset(header(&filler).next_offset());
        }
        panic!("it never came to the batch");
    });
}

#[test]
fn timestamps_of_batches_without_records_count_nowhere() {
    let world = new_world(SegmentOptions::default());
    corelog_runtime::sim::block_on(10, async move {
        let log = open(&world);
        let empty = emptied(&batch(2, 3, 0, 9_000));
        assert_eq!(header(&empty).max_timestamp, 9_000);
        let batches = [batch(0, 2, 0, 50), empty, filler(5, 10, 0), batch(10, 1, 0, 70)];
        log.flush(&batches, Roll::CloseAll).await.unwrap();
        assert_eq!(log.max_timestamp().await.unwrap(), Some((70, Offset(10))));
        assert_eq!(log.offset_for_time(60).await.unwrap(), Some((Offset(10), 70)));
        assert_eq!(log.offset_for_time(71).await.unwrap(), None);
        // It is sent to consumers all the same: replicas learn the producer's sequence from it.
        let read = log.read_records(Offset(2), Offset(11), ALL, true).await.unwrap();
        assert_eq!(read.batches, [batches[1].clone(), batches[3].clone()]);
    });
}

#[test]
fn a_failed_write_leaves_the_position_and_may_be_repeated() {
    let sim = Sim::new(5, SimOptions::default());
    let world = new_world(SegmentOptions { segment_bytes: 50_000, ..SegmentOptions::default() });
    let disk = sim.disk(NODE);
    sim.run_on(NODE, async move {
        let log = open(&world);
        for _ in 0..100 {
            world.borrow_mut().model.append(2, 500, || 7);
        }
        let batches = world.borrow().model.batches.clone();
        disk.fail_after(FaultOn::Write, "/data", 1, 1);
        let error = log.flush(&batches, Roll::AsNeeded).await.unwrap_err();
        assert!(matches!(error, LogError::Io { .. }), "{error}");
        assert_eq!(log.position(), SegmentPosition::start(Offset(0)));
        assert!(log.read(Offset(0), Offset(200), ALL, true).await.unwrap().is_empty());

        disk.set_free_bytes(Some(0));
        let error = log.flush(&batches, Roll::AsNeeded).await.unwrap_err();
        assert!(error.is_disk_full(), "{error}");
        disk.set_free_bytes(None);

        let at = log.flush(&batches, Roll::CloseAll).await.unwrap();
        assert_eq!(at, SegmentPosition::start(Offset(200)));
        assert_eq!(log.read(Offset(0), Offset(200), ALL, true).await.unwrap(), batches);
    });
}

#[test]
fn after_a_failed_sync_nothing_more_is_written() {
    let sim = Sim::new(6, SimOptions::default());
    let world = new_world(SegmentOptions::default());
    let disk = sim.disk(NODE);
    sim.run_on(NODE, async move {
        let log = open(&world);
        for _ in 0..100 {
            world.borrow_mut().model.append(2, 500, || 7);
        }
        let batches = world.borrow().model.batches.clone();
        log.flush(&batches[..50], Roll::CloseAll).await.unwrap();
        disk.fail(FaultOn::Sync, ".log", 1);
        let error = log.flush(&batches[50..], Roll::AsNeeded).await.unwrap_err();
        assert!(matches!(error, LogError::Io { .. }), "{error}");
        let error = log.flush(&batches[50..], Roll::AsNeeded).await.unwrap_err();
        assert!(matches!(error, LogError::Fenced), "{error}");
        // What was synced before is still read.
        assert_eq!(log.read(Offset(0), Offset(200), ALL, true).await.unwrap(), batches[..50]);
    });
}

#[test]
fn deletion_during_a_read_is_safe_and_final() {
    for seed in 0..40 {
        let world = new_world(SegmentOptions { segment_bytes: 20_000, ..SegmentOptions::default() });
        let sim = Sim::new(seed, SimOptions::default());
        let disk = sim.disk(NODE);
        sim.run_on(NODE, async move {
            let log = open(&world);
            for _ in 0..100 {
                world.borrow_mut().model.append(2, 500, || 7);
            }
            let batches = world.borrow().model.batches.clone();
            log.flush(&batches, Roll::CloseAll).await.unwrap();
            let log = open_at(&world, log.position());
            let (reading, expected) = (log.clone(), batches.clone());
            let read = task::spawn_join(task::Class::Read, async move {
                match reading.read(Offset(50), Offset(200), ALL, true).await {
                    Ok(read) => assert_eq!(read, expected[25..25 + read.len()]),
                    Err(LogError::Deleted | LogError::OutOfRange { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            });
            time::sleep(Duration::from_micros(below(0..3_000))).await;
            if rand::below(2) == 0 {
                log.delete_below(Offset(150), log.position()).await.unwrap();
                let below = log.read(Offset(149), Offset(200), ALL, true).await;
                assert!(matches!(below, Err(LogError::OutOfRange { .. })), "{below:?}");
                assert_eq!(log.read(Offset(150), Offset(200), ALL, true).await.unwrap(), batches[75..]);
            }
            log.delete_all().await.unwrap();
            read.await;
            assert!(matches!(log.read(Offset(150), Offset(200), ALL, true).await, Err(LogError::Deleted)));
            assert!(matches!(log.flush(&[], Roll::CloseAll).await, Err(LogError::Deleted)));
        });
        assert!(disk.names(dir()).is_empty());
    }
}

fn open_at(world: &Shared, at: SegmentPosition) -> SegmentLog {
    world.borrow_mut().journal.checkpoint = at;
    open(world)
}

#[test]
fn an_idle_log_touches_no_file() {
    let sim = Sim::new(8, SimOptions::default());
    let world = new_world(SegmentOptions::default());
    let disk = sim.disk(NODE);
    sim.run_on(NODE, async move {
        let log = open(&world);
        assert_eq!(log.read(Offset(0), Offset(10), ALL, true).await.unwrap(), Vec::<Bytes>::new());
        assert_eq!(log.offset_for_time(0).await.unwrap(), None);
        assert_eq!(log.max_timestamp().await.unwrap(), None);
        assert_eq!(log.flush(&[], Roll::AsNeeded).await.unwrap(), SegmentPosition::start(Offset(0)));
        assert_eq!(log.size_bytes(), 0);
    });
    assert!(disk.names("/").is_empty());
}

// Offline.

#[test]
fn verify_tells_damage_from_padding_and_from_an_unfinished_tail() {
    let sim = Sim::new(9, SimOptions::default());
    let world = new_world(SegmentOptions::default());
    let build = Rc::clone(&world);
    sim.run_on(NODE, async move {
        small_log(&build).await;
    });
    let at = world.borrow().journal.checkpoint;
    let count = world.borrow().model.number_at(at.next);
    let good = verify_all(&sim, None);
    assert!(!good.iter().any(Found::is_problem));
    assert_eq!(good.iter().filter(|found| matches!(found, Found::Batch { .. })).count(), count);
    assert_eq!(good.iter().filter(|found| matches!(found, Found::Rest { .. })).count(), 3);
    assert_eq!(good.iter().filter(|found| matches!(found, Found::Tail { .. })).count(), 0);
    let known = verify_all(&sim, Some(at));
    assert!(!known.iter().any(|found| found.is_problem() || matches!(found, Found::Tail { .. })));

    // Without the checkpoint nobody knows whether the newest segment should go on there.
    let newest = format!("{:020}.log", at.segment_base.0);
    sim.disk(NODE).flip_bit(dir().join(&newest), 4096 + 8, 6);
    let unfinished = verify_all(&sim, None);
    assert!(matches!(unfinished.last(), Some(Found::Tail { position_bytes: 4096, .. })), "{unfinished:?}");
    assert!(!unfinished.iter().any(Found::is_problem));
    let damaged = verify_all(&sim, Some(at));
    assert!(matches!(damaged.last(), Some(Found::Damage { position_bytes: 4096, .. })), "{damaged:?}");
    sim.disk(NODE).flip_bit(dir().join(&newest), 4096 + 8, 6);

    let first = sim.disk(NODE).names(dir()).remove(0);
    // A payload: that batch is bad, the others are found. Then a length: what follows is lost.
    sim.disk(NODE).flip_bit(dir().join(&first), 4096 + 3_000, 1);
    let damaged = verify_all(&sim, Some(at));
    assert_eq!(damaged.len(), known.len());
    assert_eq!(damaged.iter().filter(|found| found.is_problem()).count(), 1);
    sim.disk(NODE).flip_bit(dir().join(&first), 4096 + 8, 6);
    let damaged = verify_all(&sim, Some(at));
    assert!(matches!(damaged[0], Found::Damage { position_bytes: 4096, .. }), "{:?}", damaged[0]);
    assert_eq!(damaged.len(), known.len() - 5, "the other segments are whole");
}

fn verify_all(sim: &Sim, at: Option<SegmentPosition>) -> Vec<Found> {
    sim.run_on(NODE, async move {
        let mut all = Vec::new();
        for segment in verify::segments(&dir(), Some(target()), at, Swaps::default()).await.unwrap() {
            assert!(segment.header.is_ok() && !segment.is_left_over);
            let mut scan = SegmentScan::open(&segment).await.unwrap();
            while let Some(found) = scan.next().await.unwrap() {
                all.push(found);
            }
        }
        all
    })
}
