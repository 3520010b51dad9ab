//! Compaction of one log on the simulated disk: rounds, crashes in the middle of them, readers beside
//! them, against a model of what was appended. What the shard does is done here by hand: storing the
//! state, and letting one at a time write.
//!
//! `CORELOG_LOG_SEEDS=1000` sets how many seeds are run, `CORELOG_LOG_SEED=17` runs one.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use corelog_engine::log::clean::Swaps;
use corelog_engine::log::clean::choose::{CleanRules, GroupRules, groups};
use corelog_engine::log::clean::look::{Cleanable, Known};
use corelog_engine::log::clean::pace::{Pace, PaceRules};
use corelog_engine::log::clean::retain::{Retention, RetentionRules};
use corelog_engine::log::clean::round::{CleanError, RECORDS_BYTES_MAX};
use corelog_engine::log::{
    FileCache, FileCacheOptions, LogError, Roll, SegmentInfo, SegmentLog, SegmentOptions, SegmentPosition,
};
use corelog_engine::planted::PlantedBug;
use corelog_engine::types::{Offset, PartitionId, TopicId, TopicPartition};
use corelog_protocol::batch::filter::is_filler;
use corelog_protocol::batch::{BatchBuilder, BatchHeader, BatchRef, Codec, Scratch};
use corelog_runtime::sim::{FaultOn, Sim, SimOptions};
use corelog_runtime::{fs, rand, task, time};
use tokio::sync::Mutex;
use uuid::Uuid;

const NODE: u32 = 1;
const ALL: usize = usize::MAX;
const KEYS: u64 = 12;
const DELETE_RETENTION_MS: i64 = 20;
const RULES: CleanRules = CleanRules { dirty_ratio_min: 0.0, lag_min_ms: 0, lag_max_ms: i64::MAX };

fn dir() -> PathBuf {
    PathBuf::from("/data/topic/0")
}

fn target() -> TopicPartition {
    TopicPartition::new(TopicId(Uuid::from_u128(0xC1EA)), PartitionId(3))
}

fn below(range: Range<u64>) -> u64 {
    range.start + rand::below(range.end - range.start)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap()
}

/// A record as it was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wrote {
    key: Option<u8>,
    /// The record's own number; none in a tombstone.
    value: Option<u64>,
}

/// A round that came so far that what it did may be seen.
#[derive(Debug, Clone, Copy)]
struct Round {
    at_ms: i64,
    mapped_to: i64,
}

/// What the journal keeps over a crash.
#[derive(Debug, Clone)]
struct Stored {
    position: SegmentPosition,
    swaps: Swaps,
    cleaned_to: i64,
    log_start: i64,
    /// Truncations behind it.
    truncations: Vec<i64>,
}

struct World {
    /// By offset.
    records: Vec<Wrote>,
    batches: Vec<Bytes>,
    stored: Stored,
    cleaned_to: i64,
    log_start: i64,
    rounds: Vec<Round>,
    options: SegmentOptions,
    next_value: u64,
    swaps_done: u64,
    /// Counts truncations, from where they begin.
    cuts: u64,
    /// Records whose newer ones were truncated away after a round had seen them: they may be gone.
    /// A log's owner never takes back what it let compaction see; here it does.
    bereft: BTreeSet<i64>,
}

type Shared = Rc<RefCell<World>>;

/// One run's log, and the right to write it.
#[derive(Clone)]
struct Life {
    world: Shared,
    log: SegmentLog,
    claim: Rc<Mutex<()>>,
}

impl World {
    fn new(options: SegmentOptions) -> Shared {
        let position = SegmentPosition::start(Offset(0));
        let stored = Stored {
            position,
            swaps: Swaps::default(),
            cleaned_to: 0,
            log_start: 0,
            truncations: Vec::new(),
        };
        Rc::new(RefCell::new(Self {
            records: Vec::new(),
            batches: Vec::new(),
            stored,
            cleaned_to: 0,
            log_start: 0,
            rounds: Vec::new(),
            options,
            next_value: 0,
            swaps_done: 0,
            cuts: 0,
            bereft: BTreeSet::new(),
        }))
    }

    fn end(&self) -> i64 {
        i64::try_from(self.records.len()).unwrap()
    }

    fn record(&self, offset: i64) -> Wrote {
        self.records[usize::try_from(offset).unwrap()]
    }

    fn append(&mut self, records: &[Wrote], value_bytes: usize) {
        let base = self.end();
        let codec = [Codec::None, Codec::None, Codec::Lz4, Codec::Zstd][pick(4)];
        let mut builder = BatchBuilder::new().base_offset(base).codec(codec);
        for (offset, record) in (base..).zip(records) {
            let key = record.key.map(|key| vec![key; 3]);
            let value = record.value.map(|value| {
                let mut bytes = value.to_be_bytes().to_vec();
                bytes.resize(8 + value_bytes, 7);
                bytes
            });
            builder = builder.record(1_000 + offset, key.as_deref(), value.as_deref());
        }
        self.batches.push(builder.build().unwrap().freeze());
        self.records.extend(records);
    }

    fn append_random(&mut self) {
        let count = below(1..6);
        let records: Vec<_> = (0..count)
            .map(|_| {
                let key = (below(0..40) > 0).then(|| u8::try_from(below(0..KEYS)).unwrap());
                self.next_value += 1;
                let value = (key.is_none() || below(0..5) > 0).then_some(self.next_value);
                Wrote { key, value }
            })
            .collect();
        let value_bytes = if below(0..15) == 0 { below(2_000..9_000) } else { below(0..200) };
        self.append(&records, usize::try_from(value_bytes).unwrap());
    }

    fn from(&self, offset: Offset) -> Vec<Bytes> {
        let from = self.batches.partition_point(|batch| header(batch).next_offset() <= offset.0);
        self.batches[from..].to_vec()
    }

    /// Holds what a reader found in `[from, upto)` against what was appended.
    fn check(&self, found: &[(i64, Wrote)], from: i64, upto: i64, now_ms: i64) {
        assert!(found.is_sorted_by(|a, b| a.0 < b.0), "records are in order");
        for (offset, record) in found {
            assert_eq!(self.record(*offset), *record, "the record at {offset}");
        }
        let there: BTreeSet<i64> = found.iter().map(|(offset, _)| *offset).collect();
        let mapped_max = self.mapped_max();
        let mut newest = BTreeMap::new();
        // It may have moved meanwhile.
        for offset in from.max(self.log_start)..self.end() {
            if let Some(key) = self.record(offset).key {
                newest.insert(key, offset);
            }
            let is_there = offset >= upto || there.contains(&offset);
            assert!(offset < mapped_max || is_there, "offset {offset} was never mapped");
        }
        // Who reads on sees those behind.
        for (key, offset) in newest.into_iter().filter(|(_, offset)| *offset < upto) {
            if there.contains(&offset) || self.bereft.contains(&offset) {
                continue;
            }
            let is_tombstone = self.record(offset).value.is_none();
            assert!(is_tombstone, "the newest record of key {key}, at {offset}, is gone");
            let is_mapped = |round: &&Round| round.mapped_to > offset;
            let first = self.rounds.iter().find(is_mapped).expect("some round mapped it");
            assert!(
                now_ms >= first.at_ms + DELETE_RETENTION_MS,
                "the tombstone at {offset} was mapped at {first:?} and is gone at {now_ms}"
            );
            let older = found.iter().find(|(_, record)| record.key == Some(key));
            assert_eq!(older, None, "older than the tombstone of key {key} that was at {offset}");
        }
    }

    fn mapped_max(&self) -> i64 {
        self.rounds.iter().map(|round| round.mapped_to).max().unwrap_or(0)
    }

    fn truncate(&mut self, end: i64) {
        self.cuts += 1;
        // A round that has just read them, and will not get further, may be ahead.
        let mapped_max = self.mapped_max().min(self.end());
        for offset in 0..end {
            let key = self.record(offset).key;
            if (end..mapped_max).any(|newer| self.record(newer).key == key) {
                self.bereft.insert(offset);
            }
        }
        self.stored.truncations.push(end);
        self.records.truncate(usize::try_from(end).unwrap());
        self.batches.retain(|batch| header(batch).base_offset < end);
        let last = self.batches.last().map_or(0, |batch| header(batch).next_offset());
        assert_eq!(last, end, "batches end where they did");
        self.bereft.split_off(&end);
        self.cleaned_to = self.cleaned_to.min(end);
        for round in &mut self.rounds {
            round.mapped_to = round.mapped_to.min(end);
        }
    }

    /// What is clean holds nothing that has a newer one there.
    fn check_clean(&self, found: &[(i64, Wrote)]) {
        let clean: Vec<_> = found.iter().filter(|(offset, _)| *offset < self.cleaned_to).collect();
        for (offset, record) in &clean {
            let key = record.key.unwrap_or_else(|| panic!("the record at {offset} has no key"));
            let newer = (offset + 1..self.cleaned_to).find(|newer| self.record(*newer).key == Some(key));
            assert_eq!(newer, None, "the record at {offset} is not the newest of its key");
        }
    }
}

fn pick(count: u64) -> usize {
    usize::try_from(rand::below(count)).unwrap()
}

fn header(batch: &[u8]) -> BatchHeader {
    BatchHeader::parse(batch).unwrap()
}

/// The records of batches that follow each other from `from` on, and where they end.
fn records_of(batches: &[Bytes], from: i64) -> (Vec<(i64, Wrote)>, i64) {
    let mut found = Vec::new();
    let mut scratch = Scratch::new();
    let mut next = None;
    for bytes in batches {
        let batch = BatchRef::parse(bytes).unwrap();
        assert!(next.is_none_or(|next| next == batch.header.base_offset), "batches follow each other");
        next = Some(batch.header.next_offset());
        for record in batch.records(&mut scratch, RECORDS_BYTES_MAX).unwrap() {
            let record = record.unwrap();
            let offset = batch.header.base_offset + i64::from(record.offset_delta);
            let key = record.key.map(|key| key[0]);
            let value = record.value.map(|value| u64::from_be_bytes(value[..8].try_into().unwrap()));
            assert_eq!(batch.header.record_timestamp(record.timestamp_delta), 1_000 + offset);
            if offset >= from {
                found.push((offset, Wrote { key, value }));
            }
        }
    }
    (found, next.unwrap_or(from))
}

/// Reads from there to the end in pieces, as a consumer does.
async fn read_on(
    log: &SegmentLog,
    from: i64,
    max_bytes: usize,
) -> Result<(Vec<(i64, Wrote)>, i64), LogError> {
    let (end, truncations) = (log.position().next, log.truncations());
    let (mut found, mut next) = (Vec::new(), from);
    while next < end.0 && log.truncations() == truncations {
        // Not up to where it ended then: one filler may stand for what was on both sides of it.
        // (Found by seed 2.)
        let end = log.position().next;
        let batches = match log.read(Offset(next), end, max_bytes, true).await {
            Err(LogError::Truncated) => continue,
            read => read?,
        };
        if log.truncations() != truncations {
            break;
        }
        assert!(!batches.is_empty(), "nothing at {next} below {end}");
        assert!(header(&batches[0]).base_offset <= next, "a read begins where it should");
        let (more, behind) = records_of(&batches, next);
        assert!(behind > next);
        found.extend(more);
        next = behind;
    }
    Ok((found, next))
}

impl Life {
    async fn begin(world: &Shared) -> Self {
        let small = FileCacheOptions { open_files_max: 3, readers_max: 3 };
        let (stored, options) = {
            let world = world.borrow();
            (world.stored.clone(), world.options)
        };
        let Stored { position, mut swaps, mut cleaned_to, log_start, truncations } = stored;
        // As the replay of a journal does it.
        for end in &truncations {
            swaps.pending = swaps.pending.filter(|pending| pending.base.0 < *end);
            cleaned_to = cleaned_to.min(*end);
        }
        let files = FileCache::new(small);
        let log = SegmentLog::new(dir(), target(), position, Offset(log_start), options, files);
        let log = log.with_swaps(swaps);
        if let Some(end) = truncations.iter().min() {
            log.truncate_to(Offset(*end)).await.unwrap();
        }
        {
            let mut world = world.borrow_mut();
            world.cleaned_to = cleaned_to;
            world.log_start = log_start;
        }
        Self { world: Rc::clone(world), log, claim: Rc::default() }
    }

    /// The state as of now, to be stored.
    fn state(&self) -> Stored {
        let world = self.world.borrow();
        Stored {
            position: self.log.position(),
            swaps: self.log.swaps(),
            cleaned_to: world.cleaned_to,
            log_start: world.log_start,
            truncations: Vec::new(),
        }
    }

    /// Takes a moment, in which a crash finds the state before.
    async fn store(&self) {
        let state = self.state();
        time::sleep(Duration::from_micros(below(0..400))).await;
        self.world.borrow_mut().stored = state;
    }

    async fn flush(&self, roll: Roll) {
        let _claim = self.claim.lock().await;
        let pending = self.world.borrow().from(self.log.position().next);
        let some = pick(pending.len() as u64 + 1);
        self.log.flush(&pending[..some], roll).await.unwrap();
        if below(0..3) == 0 {
            self.store().await;
        }
    }

    async fn truncate(&self) {
        let _claim = self.claim.lock().await;
        self.log.finish_swap().await.unwrap();
        let at = self.log.position();
        let log_start = self.world.borrow().log_start;
        if at.next.0 <= log_start {
            return;
        }
        let span = u64::try_from(at.next.0 - log_start).unwrap();
        let some = log_start + signed(rand::below(span));
        let end = self.log.batch_base_of(Offset(some)).await.unwrap().unwrap().0;
        if end < log_start {
            return;
        }
        self.world.borrow_mut().truncate(end);
        self.log.truncate_to(Offset(end)).await.unwrap();
        if below(0..2) == 0 {
            self.store().await;
        }
    }

    async fn trim(&self) {
        let (log_start, at) = {
            let _claim = self.claim.lock().await;
            let at = self.log.position();
            let log_start = self.world.borrow().log_start;
            if at.next.0 <= log_start || below(0..3) > 0 {
                return;
            }
            let span = u64::try_from(at.next.0 - log_start).unwrap();
            let log_start = log_start + signed(rand::below(span / 3 + 1));
            self.world.borrow_mut().log_start = log_start;
            self.log.set_log_start(Offset(log_start));
            self.store().await;
            (log_start, at)
        };
        match self.log.delete_below(Offset(log_start), at).await {
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn check_read(&self) {
        let truncations = self.log.truncations();
        let (from, cuts) = {
            let world = self.world.borrow();
            let end = self.log.position().next.0;
            if end <= world.log_start {
                return;
            }
            (world.log_start + signed(rand::below(u64::try_from(end - world.log_start).unwrap())), world.cuts)
        };
        let max_bytes = usize::try_from(below(1..60_000)).unwrap();
        match read_on(&self.log, from, max_bytes).await {
            Ok((found, upto))
                if (truncations, cuts) == (self.log.truncations(), self.world.borrow().cuts) =>
            {
                self.world.borrow().check(&found, from, upto, time::unix_time_ms());
            }
            Ok(_) => {}
            Err(LogError::OutOfRange { .. }) if self.world.borrow().log_start > from => {}
            Err(error) => panic!("reading from {from}: {error}"),
        }
    }

    /// The first record at or after a time is one that is there, and none before it is as late.
    async fn check_times(&self) {
        let _claim = self.claim.lock().await;
        let (log_start, end) = (self.world.borrow().log_start, self.log.position().next.0);
        if end <= log_start {
            return;
        }
        let wanted = log_start + signed(rand::below(u64::try_from(end - log_start).unwrap()));
        let found = match self.log.offset_for_time(1_000 + wanted).await {
            Err(LogError::Truncated) => return,
            found => found.unwrap(),
        };
        let Ok((records, _)) = read_on(&self.log, wanted, ALL).await else { return };
        let first = records.first().map(|(offset, _)| (Offset(*offset), 1_000 + offset));
        // A round may take it away between the two.
        if self.log.swaps().pending.is_none() && found != first {
            let (offset, _) = found.expect("what is read is found");
            assert!(offset.0 >= wanted && records.iter().all(|(at, _)| *at != offset.0));
        }
    }

    fn cleanable(&self) -> Option<Cleanable> {
        let world = self.world.borrow();
        let end = self.log.position().next;
        let known = Known { cleaned_to: Offset(world.cleaned_to), last_stable: end, log_end: end };
        self.log.cleanable(&known, &RULES, false, time::unix_time_ms()).ok()
    }

    /// One round, as the shard does it.
    async fn clean(&self, keys_max: usize) -> Result<(), CleanError> {
        self.log.list().await?;
        let Some(cleanable) = self.cleanable().filter(|it| it.dirt.is_due(&RULES)) else { return Ok(()) };
        let mut pace = Pace::new(PaceRules::UNLIMITED, || false, || false);
        let keys_bytes = 64 + 17 * keys_max;
        let (keys, mapped_to) = self.log.map_keys(&cleanable, keys_bytes, (1, 2), &mut pace).await?;
        let (log_start, now_ms, segment_bytes) = {
            let world = self.world.borrow();
            (world.log_start, time::unix_time_ms(), world.options.segment_bytes)
        };
        if self.log.truncations() != cleanable.truncations {
            return Err(CleanError::Changed);
        }
        self.world.borrow_mut().rounds.push(Round { at_ms: now_ms, mapped_to: mapped_to.0 });
        let rules = RetentionRules {
            mapped_to,
            log_start: Offset(log_start),
            now_ms,
            delete_retention_ms: DELETE_RETENTION_MS,
            last_batches: Vec::new(),
            limit_bytes: RECORDS_BYTES_MAX,
            planted: PlantedBug::NONE,
        };
        let mut retention = Retention::new(keys, rules);
        let group_rules = GroupRules { segment_bytes, newest_apart_ms_max: None };
        for group in groups(&cleanable.closed, Offset(log_start), mapped_to, &group_rules) {
            let group = &cleanable.closed[group];
            let rewritten = self.log.rewrite(group, cleanable.truncations, &mut retention, &mut pace).await?;
            let Some(replacement) = rewritten else { continue };
            {
                let _claim = self.claim.lock().await;
                if let Err(unused) = self.log.begin_swap(replacement) {
                    unused.discard().await;
                    return Err(CleanError::Changed);
                }
                self.store().await;
                self.log.swap_committed();
                self.world.borrow_mut().swaps_done += 1;
            }
            time::sleep(Duration::from_micros(below(0..200))).await;
            self.log.finish_swap().await?;
        }
        let _claim = self.claim.lock().await;
        if self.log.truncations() != cleanable.truncations {
            return Err(CleanError::Changed);
        }
        self.world.borrow_mut().cleaned_to = mapped_to.0;
        Ok(())
    }

    async fn clean_on(&self) {
        loop {
            let keys_max = [8, 16, 200][pick(3)];
            match self.clean(keys_max).await {
                Ok(()) | Err(CleanError::Changed) => {}
                Err(CleanError::Log(error)) if error.is_stale() => {}
                Err(error) => panic!("a round failed: {error}"),
            }
            time::sleep(Duration::from_micros(below(100..4_000))).await;
        }
    }

    async fn step(&self) {
        match below(0..100) {
            0..30 => {
                for _ in 0..below(1..20) {
                    self.world.borrow_mut().append_random();
                }
            }
            30..50 => self.flush(Roll::AsNeeded).await,
            50..60 => self.flush(Roll::CloseAll).await,
            60..76 => self.check_read().await,
            76..84 => self.check_times().await,
            84..88 => self.truncate().await,
            88..94 => self.trim().await,
            _ => time::sleep(Duration::from_millis(below(1..30))).await,
        }
    }

    async fn live(&self, is_cleaned: bool) {
        if is_cleaned {
            let cleaner = self.clone();
            task::spawn_in(task::Class::Background, async move { cleaner.clean_on().await });
        }
        for _ in 0..2 {
            let reader = self.clone();
            task::spawn_in(task::Class::Read, async move {
                loop {
                    reader.check_read().await;
                    time::sleep(Duration::from_micros(below(500..5_000))).await;
                }
            });
        }
        for _ in 0..below(5..60) {
            self.step().await;
        }
        // The end comes in the middle of something.
        let doomed = self.clone();
        task::spawn(async move { doomed.step().await });
        time::sleep(Duration::from_micros(below(0..3_000))).await;
    }
}

fn run_seed(seed: u64) -> (u64, u64) {
    let sim = Sim::new(seed, SimOptions::default());
    let sizes = [4096, 9_000, 20_000, 100_000];
    let options = SegmentOptions {
        segment_bytes: sizes[usize::try_from(seed % 4).unwrap()],
        index_interval_bytes: if seed.is_multiple_of(3) { 1 } else { 4096 },
        ..SegmentOptions::default()
    };
    let world = World::new(options);
    sim.run_on(NODE, async {
        fs::create_dir_all("/data").await.unwrap();
        fs::sync_dir("/").await.unwrap();
    });
    for number in 0..8 {
        let shared = Rc::clone(&world);
        sim.run_on(NODE, async move {
            let life = Life::begin(&shared).await;
            life.check_read().await;
            life.live(number % 4 != 3).await;
        });
        if number % 2 == 0 {
            sim.crash_node(NODE);
        } else {
            sim.kill_process(NODE);
        }
    }
    let last = Rc::clone(&world);
    sim.run_on(NODE, async move { quiescence(&last).await });
    let swaps = world.borrow().swaps_done;
    (sim.trace_hash(), swaps)
}

/// With everything flushed and closed, and rounds until nothing is dirty, the log is the newest
/// record of each key.
async fn quiescence(world: &Shared) {
    let life = Life::begin(world).await;
    let pending = life.world.borrow().from(life.log.position().next);
    life.log.flush(&pending, Roll::CloseAll).await.unwrap();
    let end = life.log.position().next.0;
    // Until the map was large enough for all.
    while world.borrow().cleaned_to < end.min(world.borrow().end()) {
        life.clean(8).await.unwrap();
    }
    let (log_start, end) = (world.borrow().log_start, world.borrow().end());
    let (found, upto) = read_on(&life.log, log_start, ALL).await.unwrap();
    assert_eq!(upto, end);
    world.borrow().check(&found, log_start, end, time::unix_time_ms());
    world.borrow().check_clean(&found);
    assert_eq!(life.log.swaps().pending, None);
    // Tombstones go in the first round behind their time, with what shows that a round is due.
    time::sleep(Duration::from_millis(u64::try_from(DELETE_RETENTION_MS).unwrap() + 1)).await;
    {
        let mut world = world.borrow_mut();
        world.append(&[Wrote { key: Some(200), value: Some(0) }], 10);
    }
    let pending = world.borrow().from(life.log.position().next);
    life.log.flush(&pending, Roll::CloseAll).await.unwrap();
    life.clean(1_000).await.unwrap();
    let (found, _) = read_on(&life.log, log_start, ALL).await.unwrap();
    let newest: BTreeMap<_, _> =
        (log_start..=end).filter_map(|offset| Some((world.borrow().record(offset).key?, offset))).collect();
    let mut expected: Vec<_> =
        newest.into_values().filter(|offset| world.borrow().record(*offset).value.is_some()).collect();
    expected.sort_unstable();
    let found: Vec<_> = found.iter().map(|(offset, _)| *offset).collect();
    expected.retain(|offset| found.contains(offset) || !world.borrow().bereft.contains(offset));
    assert_eq!(found, expected);
}

fn seeds() -> Range<u64> {
    let count = std::env::var("CORELOG_LOG_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(15);
    let first = std::env::var("CORELOG_LOG_SEED").ok().and_then(|seed| seed.parse().ok());
    first.map_or(0..count, |seed| seed..seed + 1)
}

#[test]
fn whatever_happens_the_newest_of_each_key_stays_where_it_was() {
    let mut swaps = 0;
    let seeds = seeds();
    for seed in seeds.clone() {
        match std::panic::catch_unwind(|| run_seed(seed)) {
            Ok((_, done)) => swaps += done,
            Err(panic) => {
                eprintln!("failed with CORELOG_LOG_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{seeds:?}: {swaps} replacements");
    assert!(swaps >= seeds.end - seeds.start, "segments are replaced");
}

#[test]
fn a_seed_replays_a_run() {
    assert_eq!(run_seed(4711), run_seed(4711));
}

// One thing at a time.

fn simple_options() -> SegmentOptions {
    SegmentOptions { segment_bytes: 50_000, ..SegmentOptions::default() }
}

/// Three closed segments of two batches, each with a record for the same two keys; and an active one.
async fn small(world: &Shared) -> Life {
    let life = Life::begin(world).await;
    for segment in 0..4 {
        for _ in 0..2 {
            let mut world = world.borrow_mut();
            let value = world.next_value;
            world.next_value += 2;
            let of = |key, value| Wrote { key: Some(key), value: Some(value) };
            world.append(&[of(1, value), of(2, value + 1)], 600);
        }
        let roll = if segment < 3 { Roll::CloseAll } else { Roll::AsNeeded };
        let pending = world.borrow().from(life.log.position().next);
        life.log.flush(&pending, roll).await.unwrap();
    }
    world.borrow_mut().stored = life.state();
    life
}

async fn offsets(log: &SegmentLog) -> Vec<i64> {
    let (found, _) = read_on(log, 0, ALL).await.unwrap();
    found.iter().map(|(offset, _)| *offset).collect()
}

fn bases(segments: &[SegmentInfo]) -> Vec<i64> {
    segments.iter().map(|segment| segment.base.0).collect()
}

fn on(seed: u64, story: impl Future<Output = ()> + 'static) -> Sim {
    let sim = Sim::new(seed, SimOptions::default());
    sim.run_on(NODE, async {
        fs::create_dir_all("/data").await.unwrap();
        fs::sync_dir("/").await.unwrap();
        story.await;
    });
    sim
}

#[test]
fn the_newest_of_each_key_keep_their_offsets_and_the_rest_is_a_filler() {
    let sim = on(1, async {
        let world = World::new(simple_options());
        let life = small(&world).await;
        life.clean(100).await.unwrap();
        // Offsets 0 to 11 were closed, 12 to 15 are in the active segment.
        assert_eq!(offsets(&life.log).await, (10..16).collect::<Vec<_>>());
        assert_eq!(bases(&life.log.segments().await.unwrap()), [0, 12]);
        let batches = life.log.read(Offset(0), Offset(16), ALL, true).await.unwrap();
        assert_eq!((is_filler(&header(&batches[0])), header(&batches[0]).next_offset()), (true, 10));
        let swaps = life.log.swaps();
        assert_eq!((swaps.generation, swaps.pending), (1, None));
        // Nothing changes any more.
        world.borrow_mut().cleaned_to = 0;
        life.clean(100).await.unwrap();
        assert_eq!(life.log.swaps().generation, 1);
        // And again after a start, which learns it all from the files.
        world.borrow_mut().stored = life.state();
        let again = Life::begin(&world).await;
        assert_eq!(offsets(&again.log).await, (10..16).collect::<Vec<_>>());
    });
    let names = sim.disk(NODE).names(dir());
    assert_eq!(names, ["00000000000000000000.log", "00000000000000000012.log"]);
}

/// A reader in the middle of a replaced file reads on there or looks again, and sees no damage.
#[test]
fn a_reader_beside_a_replacement_sees_what_it_would_have_seen() {
    on(2, async {
        let world = World::new(simple_options());
        let life = small(&world).await;
        for from in 0..12 {
            life.log.read(Offset(from), Offset(16), 700, true).await.unwrap();
        }
        life.clean(100).await.unwrap();
        for from in 0..16 {
            let (found, _) = read_on(&life.log, from, 700).await.unwrap();
            let found: Vec<_> = found.iter().map(|(offset, _)| *offset).collect();
            assert_eq!(found, (from.max(10)..16).collect::<Vec<_>>(), "from {from}");
        }
        assert_eq!(life.log.offset_for_time(1_000).await.unwrap(), Some((Offset(10), 1_010)));
        assert_eq!(life.log.max_timestamp().await.unwrap(), Some((1_015, Offset(15))));
    });
}

/// What is in memory begins with a batch as it was appended, which may be one of those that a filler
/// stands for by now: a reader that stopped before it would never get on. (Found by seed 4 of the crash
/// test.)
#[test]
fn a_filler_is_passed_over_also_where_memory_begins_inside() {
    on(6, async {
        let world = World::new(simple_options());
        let life = small(&world).await;
        life.clean(100).await.unwrap();
        for upto in [2, 4, 6, 8] {
            let read = life.log.read_records(Offset(0), Offset(upto), ALL, true).await.unwrap();
            let filler = read.filler.expect("there is one");
            assert_eq!((read.batches.len(), header(&filler).next_offset()), (0, 10), "up to {upto}");
        }
        let read = life.log.read_records(Offset(0), Offset(12), ALL, true).await.unwrap();
        assert_eq!(records_of(&read.batches, 0).0.iter().map(|it| it.0).collect::<Vec<_>>(), [10, 11]);
    });
}

#[test]
fn a_replacement_of_what_was_truncated_is_not_made() {
    let sim = on(3, async {
        let world = World::new(simple_options());
        let life = small(&world).await;
        let cleanable = life.cleanable().unwrap_or_else(|| panic!("all is known"));
        let mut pace = Pace::new(PaceRules::UNLIMITED, || false, || false);
        let (keys, mapped_to) = life.log.map_keys(&cleanable, 10_000, (1, 2), &mut pace).await.unwrap();
        let rules = RetentionRules {
            mapped_to,
            log_start: Offset(0),
            now_ms: 0,
            delete_retention_ms: 0,
            last_batches: Vec::new(),
            limit_bytes: RECORDS_BYTES_MAX,
            planted: PlantedBug::NONE,
        };
        let mut retention = Retention::new(keys, rules);
        let rewritten =
            life.log.rewrite(&cleanable.closed, cleanable.truncations, &mut retention, &mut pace).await;
        let replacement = rewritten.unwrap().expect("something goes");
        life.log.truncate_to(Offset(10)).await.unwrap();
        let Err(unused) = life.log.begin_swap(replacement) else { panic!("it does not fit any more") };
        unused.discard().await;
        assert_eq!(offsets(&life.log).await, (0..10).collect::<Vec<_>>());
    });
    assert!(sim.disk(NODE).names(dir()).iter().all(|name| !name.ends_with(".cleaned")));
}

#[test]
fn a_damaged_batch_stops_a_round_and_nothing_is_lost() {
    let sim = Sim::new(4, SimOptions::default());
    let world = World::new(simple_options());
    let shared = Rc::clone(&world);
    sim.run_on(NODE, async move {
        fs::create_dir_all("/data").await.unwrap();
        small(&shared).await;
    });
    sim.disk(NODE).flip_bit(dir().join("00000000000000000004.log"), 4096 + 200, 1);
    sim.run_on(NODE, async move {
        let life = Life::begin(&world).await;
        let error = life.clean(100).await.unwrap_err();
        assert!(error.is_damage(), "{error}");
        assert_eq!(life.log.swaps(), Swaps::default());
        let (found, _) = records_of(&life.log.read(Offset(0), Offset(4), ALL, true).await.unwrap(), 0);
        assert_eq!(found.len(), 4);
    });
}

#[test]
fn a_full_disk_ends_a_round_and_leaves_nothing_behind() {
    let sim = Sim::new(5, SimOptions::default());
    let disk = sim.disk(NODE);
    sim.run_on(NODE, async move {
        fs::create_dir_all("/data").await.unwrap();
        let world = World::new(simple_options());
        let life = small(&world).await;
        disk.set_free_bytes(Some(0));
        let error = life.clean(100).await.unwrap_err();
        let CleanError::Log(error) = error else { panic!("{error}") };
        assert!(error.is_disk_full(), "{error}");
        assert!(disk.names(dir()).iter().all(|name| !name.ends_with(".cleaned")));
        disk.set_free_bytes(None);
        life.clean(100).await.unwrap();
        assert_eq!(offsets(&life.log).await, (10..16).collect::<Vec<_>>());
    });
}

/// Whatever of renaming and removing fails or is lost, the next start does it again.
#[test]
fn a_committed_replacement_is_finished_after_any_failure() {
    let mut committed = 0;
    for skip in 0..16 {
        let sim = Sim::new(100 + u64::from(skip), SimOptions::default());
        let disk = sim.disk(NODE);
        let world = World::new(simple_options());
        let shared = Rc::clone(&world);
        sim.run_on(NODE, async move {
            fs::create_dir_all("/data/topic").await.unwrap();
            fs::sync_dir("/").await.unwrap();
            fs::sync_dir("/data").await.unwrap();
            let life = small(&shared).await;
            disk.fail_after(FaultOn::Directory, "topic/0", skip, 1);
            let _ = life.clean(100).await;
        });
        sim.disk(NODE).clear_faults();
        sim.crash_node(NODE);
        let is_committed = world.borrow().stored.swaps.generation > 0;
        committed += u32::from(is_committed);
        sim.run_on(NODE, async move {
            let life = Life::begin(&world).await;
            let left = offsets(&life.log).await;
            let expected: Vec<_> = if is_committed { (10..16).collect() } else { (0..16).collect() };
            assert_eq!(left, expected, "the failure behind {skip} operations");
        });
    }
    assert!((3..16).contains(&committed), "some fail before the commit and some behind it: {committed}");
}
