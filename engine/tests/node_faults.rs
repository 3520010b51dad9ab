//! A whole node on a disk that is full, or fails: what it refuses, what goes on, what it takes back.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod sim_node;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use corelog_engine::api::{
    Acks, FetchPart, FetchSpec, Fetched, NewTopic, PartitionError, ProducePart, TopicRef,
};
use corelog_engine::engine::{Engine, EngineOptions};
use corelog_engine::journal::JournalFull;
use corelog_engine::level::Level;
use corelog_engine::messages::{ShardReply, ShardRequest};
use corelog_engine::planted::PlantedBug;
use corelog_engine::types::{Offset, PartitionId, TopicPartition};
use corelog_protocol::ErrorCode;
use corelog_protocol::batch::{BatchBuilder, BatchIter, Scratch};
use corelog_runtime::shards::ShardContext;
use corelog_runtime::sim::{DiskHandle, FaultOn, Sim, SimOptions};
use corelog_runtime::{task, time};
use futures_util::future::LocalBoxFuture;

const NODE: u32 = 1;
const SECOND: Duration = Duration::from_secs(1);
const JOURNAL_FILE_BYTES: usize = 256 << 10;
const VALUE_BYTES: usize = 4000;

fn options() -> EngineOptions {
    let mut options = sim_node::options(PlantedBug::NONE);
    options.journal.file_bytes = JOURNAL_FILE_BYTES as u64;
    options
}

type Story = Rc<dyn Fn(Engine) -> LocalBoxFuture<'static, ()>>;

/// Runs a node with so many shards until the story, told on shard 0, has ended. `ends_well` is
/// whether the node can be stopped in order after it.
fn live(sim: &Sim, shards: usize, ends_well: bool, story: impl AsyncFn(Engine) + 'static) {
    live_with(options, sim, shards, ends_well, story);
}

fn live_with(
    options: fn() -> EngineOptions,
    sim: &Sim,
    shards: usize,
    ends_well: bool,
    story: impl AsyncFn(Engine) + 'static,
) {
    let story = Rc::new(story);
    let told: Story = Rc::new(move |engine| {
        let story = Rc::clone(&story);
        Box::pin(async move { story(engine).await })
    });
    let ended = Rc::new(Level::default());
    let exit = sim.start_node(NODE, shards, {
        let ended = Rc::clone(&ended);
        move |context: ShardContext<ShardRequest, ShardReply>| {
            let (told, ended) = (Rc::clone(&told), Rc::clone(&ended));
            async move {
                let shard = context.shard;
                let engine = Engine::start(context.mesh, options()).await.unwrap();
                if shard == 0 {
                    told(engine.clone()).await;
                    ended.raise(1);
                }
                ended.reached(1).await;
                if ends_well {
                    return engine.shut_down().await;
                }
                ended.reached(2).await;
                Ok(())
            }
        }
    });
    sim.run_until(async move {
        ended.reached(1).await;
        if ends_well {
            exit.await.unwrap();
        } else {
            sim.kill_process(NODE);
        }
    });
}

fn sim() -> Sim {
    Sim::new(1, SimOptions { time_max: Duration::from_secs(3600), ..SimOptions::default() })
}

async fn create(engine: &Engine, name: &str, partitions: i32) -> Vec<TopicPartition> {
    let new = NewTopic {
        name: name.to_owned(),
        partitions,
        replication_factor: 1,
        configs: vec![("segment.bytes".to_owned(), Some((1 << 20).to_string()))],
        ..NewTopic::default()
    };
    let id = engine.create_topics(vec![new], false).await.pop().unwrap().unwrap().id;
    (0..partitions).map(|partition| TopicPartition::new(id, PartitionId(partition))).collect()
}

/// What one life of the node leaves to the next.
type Kept<T> = Rc<RefCell<Option<T>>>;

/// What was acknowledged: the value's number by offset.
#[derive(Default)]
struct Promised(BTreeMap<i64, u64>);

/// Produces one record; the node has to decide within `patience`.
async fn produce(
    engine: &Engine,
    target: TopicPartition,
    promised: &mut Promised,
    patience: Duration,
) -> Result<(), ErrorCode> {
    let number = promised.0.len() as u64 + 1;
    let mut value = number.to_le_bytes().to_vec();
    value.resize(VALUE_BYTES, 7);
    let batch = BatchBuilder::new().record(time::unix_time_ms(), None, Some(&value)).build().unwrap();
    let part = ProducePart { target, batch };
    let outcome = time::timeout(patience, engine.produce(Acks::All, vec![part])).await;
    match outcome.expect("every produce is decided in time").pop().unwrap() {
        Ok(produced) => {
            assert!(promised.0.insert(produced.base_offset.0, number).is_none());
            Ok(())
        }
        Err(error) => Err(error.code),
    }
}

/// Produces until so many in a row were refused, a second apart, because there is no space.
async fn until_refused(engine: &Engine, target: TopicPartition, promised: &mut Promised, times: u32) {
    let mut refused = 0;
    for _ in 0..1000 {
        match produce(engine, target, promised, 10 * SECOND).await {
            Ok(()) => refused = 0,
            Err(code) => {
                assert_eq!(code, ErrorCode::KafkaStorageError, "retriable, and says what it is");
                refused += 1;
                if refused == times {
                    return;
                }
                time::sleep(SECOND).await;
            }
        }
    }
    assert_eq!(refused, times, "there is no space by now");
}

async fn fetch(engine: &Engine, target: TopicPartition, from: i64) -> Result<Fetched, PartitionError> {
    let part = FetchPart { target, offset: Offset(from), max_bytes: 64 << 10, current_leader_epoch: None };
    let spec = FetchSpec {
        parts: vec![part],
        max_bytes: 64 << 10,
        min_bytes: 0,
        max_wait: Duration::ZERO,
        read_committed: false,
    };
    time::timeout(10 * SECOND, engine.fetch(spec)).await.expect("fetches go on").pop().unwrap()
}

/// Everything that was promised at or after `from` is there.
async fn check(engine: &Engine, target: TopicPartition, promised: &Promised, from: i64) {
    let mut found = BTreeMap::new();
    let mut next = from;
    loop {
        let fetched = fetch(engine, target, next).await.unwrap();
        if next >= fetched.high_watermark.0 {
            break;
        }
        for (offset, number) in fetched.batches.iter().flat_map(records) {
            found.insert(offset, number);
            next = offset + 1;
        }
    }
    let wanted: BTreeMap<_, _> =
        promised.0.range(from..).map(|(offset, number)| (*offset, *number)).collect();
    let missing: Vec<_> =
        wanted.iter().filter(|(offset, number)| found.get(*offset) != Some(*number)).collect();
    assert!(missing.is_empty(), "{target}: {missing:?} of {} records are not there", wanted.len());
}

fn records(bytes: &Bytes) -> Vec<(i64, u64)> {
    let mut scratch = Scratch::default();
    let batch = BatchIter::new(bytes).next().unwrap().unwrap();
    let base = batch.header.base_offset;
    let records = batch.records(&mut scratch, 1 << 24).unwrap().map(Result::unwrap);
    records
        .map(|record| {
            let number = u64::from_le_bytes(*record.value.unwrap().first_chunk().unwrap());
            (base + i64::from(record.offset_delta), number)
        })
        .collect()
}

async fn until<T>(patience: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            time::sleep(Duration::from_millis(50)).await;
        }
    };
    time::timeout(patience, looking).await.unwrap_or_else(|_| panic!("{what}"))
}

/// Fills the disk, and gives space back, on a node that has written `before` records.
fn a_full_disk(before: usize, free_bytes: u64) {
    let sim = sim();
    let disk = sim.disk(NODE);
    let kept: Kept<(TopicPartition, Promised)> = Rc::default();
    let keep = Rc::clone(&kept);
    live(&sim, 1, true, async move |engine| {
        let mut promised = Promised::default();
        let (log, spare) = (create(&engine, "log", 1).await[0], create(&engine, "spare", 1).await[0]);
        let mut in_spare = Promised::default();
        for _ in 0..20 {
            produce(&engine, spare, &mut in_spare, 10 * SECOND).await.unwrap();
        }
        for _ in 0..before {
            produce(&engine, log, &mut promised, 10 * SECOND).await.unwrap();
        }
        disk.set_free_bytes(Some(free_bytes));
        until_refused(&engine, log, &mut promised, 10).await;
        for shard in engine.stats().await {
            assert_eq!((shard.partitions_offline, shard.journal.full), (0, Some(JournalFull::Disk)));
        }

        // What does not need space goes on.
        check(&engine, log, &promised, 0).await;
        let end = promised.0.last_key_value().unwrap().0 + 1;
        let trimmed = time::timeout(30 * SECOND, sim_node::trim(&engine, log, Offset(end / 2))).await;
        assert_eq!(trimmed.expect("a trim goes on"), Ok(Offset(end / 2)));
        check(&engine, log, &promised, end / 2).await;
        let deleted = engine.delete_topics(vec![TopicRef::Name("spare".to_owned())]);
        let deleted = time::timeout(30 * SECOND, deleted).await.expect("a deletion goes on");
        assert!(deleted[0].is_ok(), "{:?}", deleted[0]);
        assert_eq!(fetch(&engine, spare, 0).await.err(), Some(PartitionError::UnknownPartition));

        // Some space comes back, less than what waits to be written, and then all of it: nobody has to
        // restart anything.
        if before > 100 {
            // More than one journal file holds: so much has to be flushed before that can be used again.
            disk.set_free_bytes(Some(JOURNAL_FILE_BYTES as u64 * 5 / 4));
            let mut some = async || produce(&engine, log, &mut promised, 10 * SECOND).await.ok();
            until(15 * SECOND, "produces go on when there is some space", &mut some).await;
        }
        disk.set_free_bytes(None);
        for _ in 0..300 {
            let mut again = async || produce(&engine, log, &mut promised, 10 * SECOND).await.ok();
            until(15 * SECOND, "produces go on when there is space again", &mut again).await;
        }
        check(&engine, log, &promised, end / 2).await;
        *keep.borrow_mut() = Some((log, promised));
    });
    live(&sim, 1, true, async move |engine| {
        let (log, mut promised) = kept.borrow_mut().take().unwrap();
        let start = fetch(&engine, log, i64::MAX).await.unwrap_err();
        let PartitionError::OffsetOutOfRange { log_start_offset, .. } = start else { panic!("{start}") };
        check(&engine, log, &promised, log_start_offset.0).await;
        produce(&engine, log, &mut promised, 10 * SECOND).await.unwrap();
    });
}

#[test]
fn a_disk_that_is_full_before_the_journal_has_its_files_refuses_produces_and_nothing_else() {
    for free_bytes in [0, 64 << 10, 600 << 10] {
        a_full_disk(5, free_bytes);
    }
}

/// The journal needs no more space then, and segments do.
#[test]
fn a_disk_that_is_full_once_the_journal_has_its_files_refuses_produces_and_nothing_else() {
    for free_bytes in [0, 64 << 10] {
        a_full_disk(6 * JOURNAL_FILE_BYTES / VALUE_BYTES, free_bytes);
    }
}

/// No tail is large enough for a flush of its own, and the journal has files left: only all of them
/// together fill the memory.
#[test]
fn many_small_tails_do_not_stop_a_node() {
    fn options() -> EngineOptions {
        let mut options = self::options();
        options.journal.max_files = 16;
        options
    }
    let sim = sim();
    let limit = options().shard.unflushed_bytes_max;
    live_with(options, &sim, 1, true, async move |engine| {
        let targets = create(&engine, "log", 64).await;
        let mut promised: Vec<_> = targets.iter().map(|_| Promised::default()).collect();
        for _ in 0..5 {
            for (target, promised) in targets.iter().zip(&mut promised) {
                produce(&engine, *target, promised, 10 * SECOND).await.unwrap();
            }
        }
        for shard in engine.stats().await {
            assert!(shard.unflushed.bytes < limit);
            assert!(shard.journal.files_in_use < 15, "the journal was never under pressure");
        }
        for (target, promised) in targets.iter().zip(&promised) {
            check(&engine, *target, promised, 0).await;
        }
    });
}

/// One partition on each of two shards, and which shard has which.
async fn one_on_each(engine: &Engine, name: &str) -> [TopicPartition; 2] {
    let targets = create(engine, name, 2).await;
    let image = engine.image();
    let topic = &image.topics[&targets[0].topic];
    let on = |shard: usize| *targets.iter().find(|it| topic.shard_of(it.partition, 2) == shard).unwrap();
    [on(0), on(1)]
}

async fn is_refused_for_good(engine: &Engine, target: TopicPartition, promised: &mut Promised) {
    for _ in 0..5 {
        let refused = produce(engine, target, promised, SECOND).await;
        assert_eq!(refused, Err(ErrorCode::KafkaStorageError), "{target}");
        time::sleep(SECOND).await;
    }
    assert!(matches!(fetch(engine, target, 0).await, Err(PartitionError::Offline(_))));
}

/// The journal of a shard fails while clients produce: everything in flight is refused within a
/// second, nothing is acknowledged any more, other shards go on, and after a restart everything
/// acknowledged is there.
fn a_failing_journal(on: FaultOn, shard: usize) {
    let sim = sim();
    let disk = sim.disk(NODE);
    let kept: Kept<([TopicPartition; 2], Vec<Promised>)> = Rc::default();
    let keep = Rc::clone(&kept);
    live(&sim, 2, false, async move |engine| {
        let targets = one_on_each(&engine, "log").await;
        let mut promised = vec![Promised::default(), Promised::default()];
        for _ in 0..50 {
            for (target, promised) in targets.iter().zip(&mut promised) {
                produce(&engine, *target, promised, SECOND).await.unwrap();
            }
        }
        disk.fail(on, &format!("journal/{:08}", shard + 1), 1);
        let bad = &mut promised[shard];
        let mut failed = false;
        for _ in 0..100 {
            match produce(&engine, targets[shard], bad, SECOND).await {
                Ok(()) => assert!(!failed, "nothing is acknowledged after a failure"),
                Err(code) => {
                    assert_eq!(code, ErrorCode::KafkaStorageError);
                    failed = true;
                }
            }
        }
        assert!(failed);
        is_refused_for_good(&engine, targets[shard], &mut promised[shard]).await;
        let other = 1 - shard;
        for _ in 0..50 {
            produce(&engine, targets[other], &mut promised[other], SECOND).await.unwrap();
        }
        check(&engine, targets[other], &promised[other], 0).await;
        let stats = engine.stats().await;
        assert!(stats[shard].fault.as_ref().is_some_and(|fault| fault.contains("fenced")), "{stats:?}");
        assert_eq!(stats[other].fault, None);
        a_new_topic_is_refused_too(&engine, shard).await;
        *keep.borrow_mut() = Some((targets, promised));
    });
    live(&sim, 2, true, async move |engine| {
        let (targets, mut promised) = kept.borrow_mut().take().unwrap();
        for (target, promised) in targets.iter().zip(&mut promised) {
            check(&engine, *target, promised, 0).await;
            produce(&engine, *target, promised, SECOND).await.unwrap();
        }
    });
}

/// With shard 0's journal the metadata's log is gone: it takes no changes. On another shard a new
/// partition is as offline as the old ones.
async fn a_new_topic_is_refused_too(engine: &Engine, fenced: usize) {
    if fenced == 0 {
        let new =
            NewTopic { name: "new".to_owned(), partitions: 1, replication_factor: 1, ..NewTopic::default() };
        let created = time::timeout(10 * SECOND, engine.create_topics(vec![new], false)).await;
        let refused = created.expect("metadata answers").pop().unwrap();
        assert!(refused.is_err());
        return;
    }
    let targets = one_on_each(engine, "new").await;
    let mut nothing = Promised::default();
    is_refused_for_good(engine, targets[fenced], &mut nothing).await;
    assert!(nothing.0.is_empty());
    produce(engine, targets[1 - fenced], &mut nothing, SECOND).await.unwrap();
}

#[test]
fn a_failed_sync_fences_the_shard_within_a_second_and_nothing_is_acknowledged_after_it() {
    a_failing_journal(FaultOn::Sync, 1);
}

#[test]
fn a_failed_write_fences_the_shard_within_a_second_and_nothing_is_acknowledged_after_it() {
    a_failing_journal(FaultOn::Write, 1);
}

#[test]
fn a_failed_sync_on_the_shard_of_the_metadata_fences_that_too() {
    a_failing_journal(FaultOn::Sync, 0);
}

/// The other shards waited for shard 0 for ever, so that the process neither served nor ended.
#[test]
fn a_node_that_cannot_start_ends_on_every_shard() {
    for shards in 1..4 {
        let sim = sim();
        sim.run_on(NODE, async {
            corelog_runtime::fs::create_dir_all("/data").await.unwrap();
            corelog_runtime::fs::write_small_atomic("/data/layout", b"garbage").await.unwrap();
        });
        let exit =
            sim.start_node(NODE, shards, |context: ShardContext<ShardRequest, ShardReply>| async move {
                Engine::start(context.mesh, options()).await.map(drop).map_err(|error| error.to_string())
            });
        let exit = sim.run_until(async move { time::timeout(60 * SECOND, exit).await });
        let error = exit.expect("it ends").unwrap_err();
        assert!(error.contains("layout") || error.contains("shard 0 says why"), "{error}");
    }
}

/// Many clients at once, each with produces in flight when the sync fails.
#[test]
fn a_failed_sync_decides_everything_in_flight() {
    let sim = sim();
    let disk: DiskHandle = sim.disk(NODE);
    live(&sim, 2, false, async move |engine| {
        let targets = one_on_each(&engine, "log").await;
        let decided = Rc::new(Level::default());
        let failures = Rc::new(Level::default());
        for _ in 0..40 {
            let (engine, decided, failures) = (engine.clone(), Rc::clone(&decided), Rc::clone(&failures));
            task::spawn(async move {
                let mut own = Promised::default();
                while produce(&engine, targets[1], &mut own, SECOND).await.is_ok() {}
                failures.raise(failures.get() + 1);
                decided.raise(decided.get() + 1);
            });
        }
        time::sleep(Duration::from_millis(200)).await;
        disk.fail(FaultOn::Sync, "journal/00000002", 1);
        let all = time::timeout(SECOND, decided.reached(40)).await;
        assert!(all.is_ok(), "{} of 40 were decided within a second", decided.get());
        assert_eq!(failures.get(), 40);
    });
}

/// A segment that cannot be synced takes its partition out of service and no other; what was
/// acknowledged is in the journal.
#[test]
fn a_failed_sync_of_a_segment_costs_no_acknowledged_record() {
    let sim = sim();
    let disk = sim.disk(NODE);
    let kept: Rc<RefCell<Vec<(TopicPartition, Promised)>>> = Rc::default();
    let keep = Rc::clone(&kept);
    live(&sim, 1, false, async move |engine| {
        let (bad, good) = (create(&engine, "bad", 1).await[0], create(&engine, "good", 1).await[0]);
        let (mut in_bad, mut in_good) = (Promised::default(), Promised::default());
        disk.fail(FaultOn::Sync, &format!("topics/{}", bad.topic), 1);
        let mut failed = false;
        for _ in 0..100 {
            failed |= produce(&engine, bad, &mut in_bad, SECOND).await.is_err();
            produce(&engine, good, &mut in_good, SECOND).await.unwrap();
        }
        assert!(failed, "the partition goes offline");
        check(&engine, good, &in_good, 0).await;
        keep.borrow_mut().extend([(bad, in_bad), (good, in_good)]);
    });
    live(&sim, 1, true, async move |engine| {
        for (target, mut promised) in kept.take() {
            check(&engine, target, &promised, 0).await;
            produce(&engine, target, &mut promised, SECOND).await.unwrap();
        }
    });
}

/// What only the journal has of a partition that is out of service holds the journal's files. The others of
/// its shard are refused once these are used up, and nobody waits; they go on when the topic is gone.
#[test]
fn a_partition_out_of_service_that_holds_the_journal_lets_nobody_wait() {
    fn flushed_by_reclaims() -> EngineOptions {
        let mut options = options();
        options.shard.flush_chunk_bytes = usize::MAX;
        options.journal.first_file_bytes = JOURNAL_FILE_BYTES as u64;
        options
    }
    let sim = sim();
    let disk = sim.disk(NODE);
    live_with(flushed_by_reclaims, &sim, 1, true, async move |engine| {
        let (bad, good) = (create(&engine, "bad", 1).await[0], create(&engine, "good", 1).await[0]);
        let (mut in_bad, mut in_good) = (Promised::default(), Promised::default());
        // More than half of what one entry of the journal can carry.
        for _ in 0..35 {
            produce(&engine, bad, &mut in_bad, SECOND).await.unwrap();
        }
        disk.fail(FaultOn::Write, &format!("topics/{}", bad.topic), 1);
        until_refused(&engine, good, &mut in_good, 3).await;
        assert!(in_good.0.len() > 50, "{} were taken before", in_good.0.len());
        check(&engine, good, &in_good, 0).await;
        assert!(matches!(fetch(&engine, bad, 0).await, Err(PartitionError::Offline(_))));
        engine.delete_topics(vec![TopicRef::Id(bad.topic)]).await.pop().unwrap().unwrap();
        until(10 * SECOND, "records are taken again", async || {
            produce(&engine, good, &mut in_good, 10 * SECOND).await.ok()
        })
        .await;
        for _ in 0..300 {
            produce(&engine, good, &mut in_good, 10 * SECOND).await.unwrap();
        }
        check(&engine, good, &in_good, 0).await;
    });
}
