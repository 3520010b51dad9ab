//! Retention of a whole node: what goes by time, by size and below the log start, and what stays.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod sim_node;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use corelog_engine::api::{Acks, NewTopic, OffsetQuery, PartitionError, ProducePart, TrimTo};
use corelog_engine::engine::{Engine, EngineOptions};
use corelog_engine::level::Level;
use corelog_engine::log::retain::Reason;
use corelog_engine::messages::{ShardReply, ShardRequest};
use corelog_engine::planted::PlantedBug;
use corelog_engine::types::{Offset, PartitionId, TopicPartition};
use corelog_protocol::batch::BatchBuilder;
use corelog_runtime::shards::ShardContext;
use corelog_runtime::sim::{FaultOn, Sim, SimOptions};
use corelog_runtime::time;
use futures_util::future::LocalBoxFuture;

use crate::sim_node::fetch;

const NODE: u32 = 1;
const SECOND: Duration = Duration::from_secs(1);
/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(10);
/// After this every partition was looked at, also those of which something had to be looked up.
const LOOKED: Duration = Duration::from_secs(25);
const VALUE_BYTES: usize = 4000;
/// Records of that size that one segment takes.
const IN_SEGMENT: i64 = 16;
const FETCH_BYTES: usize = 1 << 20;

fn options() -> EngineOptions {
    let mut options = sim_node::options(PlantedBug::NONE);
    options.shard.retention_check_interval = INTERVAL;
    options
}

type Story = Rc<dyn Fn(Engine) -> LocalBoxFuture<'static, ()>>;

/// How a node's life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stopped,
    Killed,
    PowerLost,
}

/// Runs a node of one shard until the story has been told.
fn live<T: 'static>(sim: &Sim, end: End, story: impl AsyncFn(Engine) -> T + 'static) -> T {
    live_with(options, sim, end, story)
}

fn live_with<T: 'static>(
    options: fn() -> EngineOptions,
    sim: &Sim,
    end: End,
    story: impl AsyncFn(Engine) -> T + 'static,
) -> T {
    let told: Rc<RefCell<Option<T>>> = Rc::default();
    let (story, result) = (Rc::new(story), Rc::clone(&told));
    let story: Story = Rc::new(move |engine| {
        let (story, result) = (Rc::clone(&story), Rc::clone(&result));
        Box::pin(async move {
            let told = story(engine).await;
            *result.borrow_mut() = Some(told);
        })
    });
    let ended = Rc::new(Level::default());
    let exit = sim.start_node(NODE, 1, {
        let ended = Rc::clone(&ended);
        move |context: ShardContext<ShardRequest, ShardReply>| {
            let (story, ended) = (Rc::clone(&story), Rc::clone(&ended));
            async move {
                let engine = Engine::start(context.mesh, options()).await.unwrap();
                story(engine.clone()).await;
                ended.raise(1);
                if end == End::Stopped {
                    return engine.shut_down().await;
                }
                ended.reached(2).await;
                Ok(())
            }
        }
    });
    sim.run_until(async {
        match end {
            End::Stopped => exit.await.unwrap(),
            End::Killed | End::PowerLost => ended.reached(1).await,
        }
    });
    match end {
        End::Stopped => {}
        End::Killed => sim.kill_process(NODE),
        End::PowerLost => sim.crash_node(NODE),
    }
    told.take().expect("the story was told")
}

fn sim() -> Sim {
    Sim::new(1, SimOptions { time_max: Duration::from_secs(7200), ..SimOptions::default() })
}

async fn create(engine: &Engine, name: &str, configs: &[(&str, &str)]) -> TopicPartition {
    let mut all = vec![("segment.bytes".to_owned(), Some("65536".to_owned()))];
    all.extend(configs.iter().map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned()))));
    let new = NewTopic {
        name: name.to_owned(),
        partitions: 1,
        replication_factor: 1,
        configs: all,
        ..NewTopic::default()
    };
    let id = engine.create_topics(vec![new], false).await.pop().unwrap().unwrap().id;
    TopicPartition::new(id, PartitionId(0))
}

/// Produces so many batches of one record each.
async fn produce(engine: &Engine, target: TopicPartition, count: i64) {
    for _ in 0..count {
        produce_at(engine, target, time::unix_time_ms()).await;
    }
}

async fn produce_at(engine: &Engine, target: TopicPartition, timestamp_ms: i64) {
    let value = vec![7; VALUE_BYTES];
    let batch = BatchBuilder::new().record(timestamp_ms, None, Some(&value)).build().unwrap();
    engine.produce(Acks::All, vec![ProducePart { target, batch }]).await.pop().unwrap().unwrap();
}

/// Where the log starts and ends; everything in between can be read, and nothing before.
async fn readable(engine: &Engine, target: TopicPartition) -> (i64, i64) {
    let found = engine.list_offsets(vec![(target, None, OffsetQuery::Earliest)]).await.pop().unwrap();
    let start = found.unwrap().offset.0;
    if start > 0 {
        let below = fetch(engine, target, start - 1, FETCH_BYTES).await.unwrap_err();
        assert!(matches!(below, PartitionError::OffsetOutOfRange { .. }), "{below}");
    }
    let mut next = start;
    loop {
        let fetched = fetch(engine, target, next, FETCH_BYTES).await.unwrap();
        assert_eq!(fetched.log_start_offset.0, start);
        if next == fetched.high_watermark.0 {
            return (start, next);
        }
        assert!(!fetched.batches.is_empty(), "{next} of {start}..{}", fetched.high_watermark);
        next += i64::try_from(fetched.batches.len()).unwrap();
    }
}

/// Names of the partition's segment files.
fn files(sim: &Sim, target: TopicPartition) -> Vec<String> {
    let dir = format!("/data/topics/{}/{}", target.topic, target.partition.0);
    let mut names = sim.disk(NODE).names(dir);
    names.retain(|name| name.ends_with(".log"));
    names.sort();
    names
}

async fn removed(engine: &Engine, reason: Reason) -> u64 {
    engine.stats().await[0].retention.removed[reason as usize].segments
}

#[test]
fn segments_go_by_their_newest_record_and_the_newest_records_go_too() {
    let sim = sim();
    let target = live(&sim, End::Stopped, async |engine| {
        let target = create(&engine, "t", &[("retention.ms", "60000")]).await;
        produce(&engine, target, 100).await;
        time::sleep(40 * SECOND).await;
        assert_eq!(readable(&engine, target).await, (0, 100), "nothing is old yet");
        produce(&engine, target, 3).await;
        time::sleep(40 * SECOND).await;
        let (start, end) = readable(&engine, target).await;
        assert!((IN_SEGMENT..=100).contains(&start), "what is old is gone: {start}");
        assert_eq!(end, 103, "what is not, is there");
        assert!(removed(&engine, Reason::Time).await > 1);
        time::sleep(100 * SECOND).await;
        assert_eq!(readable(&engine, target).await, (103, 103));
        target
    });
    assert_eq!(files(&sim, target), Vec::<String>::new(), "and so is the space");
    live(&sim, End::Stopped, async move |engine| {
        assert_eq!(readable(&engine, target).await, (103, 103));
        produce(&engine, target, 2).await;
        assert_eq!(readable(&engine, target).await, (103, 105), "offsets go on");
    });
}

#[test]
fn a_trickle_does_not_keep_old_records() {
    let sim = sim();
    live(&sim, End::Stopped, async |engine| {
        let configs = [("retention.ms", "60000"), ("segment.ms", "20000")];
        let target = create(&engine, "t", &configs).await;
        for _ in 0..100 {
            produce(&engine, target, 1).await;
            time::sleep(2 * SECOND).await;
        }
        // A record every two seconds: a segment closes after 20 s, and goes 60 s after its last.
        let (start, end) = readable(&engine, target).await;
        assert_eq!(end, 100);
        let kept = end - start;
        assert!((30..=50).contains(&kept), "of 100 records the last {kept} are there");
    });
}

#[test]
fn what_is_more_than_retention_bytes_goes() {
    let sim = sim();
    let target = live(&sim, End::Stopped, async |engine| {
        let target = create(&engine, "t", &[("retention.bytes", "200000")]).await;
        produce(&engine, target, 300).await;
        time::sleep(LOOKED).await;
        let (start, end) = readable(&engine, target).await;
        let kept = usize::try_from(end - start).unwrap() * VALUE_BYTES;
        assert!((150_000..=300_000).contains(&kept), "{kept} bytes of {}", 300 * VALUE_BYTES);
        assert!(removed(&engine, Reason::Size).await > 5);
        assert_eq!(removed(&engine, Reason::Time).await, 0);
        let stats = &engine.stats().await[0];
        assert!((100_000..=300_000).contains(&stats.segment_bytes), "{}", stats.segment_bytes);
        assert!(stats.retention.swept_ms > 0);
        target
    });
    assert!(files(&sim, target).len() <= 5, "{:?}", files(&sim, target));
}

#[test]
fn what_is_only_in_memory_and_too_much_goes() {
    let lazy = || {
        let mut options = options();
        options.shard.flush_chunk_bytes = usize::MAX;
        (options.journal.file_bytes, options.journal.first_file_bytes) = (4 << 20, 4 << 20);
        options
    };
    live_with(lazy, &sim(), End::Stopped, async |engine| {
        let target = create(&engine, "t", &[("retention.bytes", "100000")]).await;
        // Three segments, which nothing but retention has a reason to write.
        let count = 3 * IN_SEGMENT;
        produce(&engine, target, count).await;
        assert_eq!(engine.stats().await[0].segment_bytes, 0);
        time::sleep(LOOKED).await;
        let (start, end) = readable(&engine, target).await;
        assert!((1..=IN_SEGMENT).contains(&start), "the first of them is gone: {start}");
        assert_eq!(end, count);
    });
}

#[test]
fn a_topic_that_is_not_deleted_from_keeps_everything() {
    let sim = sim();
    live(&sim, End::Stopped, async |engine| {
        let kept = create(&engine, "kept", &[("retention.ms", "-1")]).await;
        let configs = [("cleanup.policy", "compact"), ("retention.ms", "1"), ("retention.bytes", "1")];
        let compacted = create(&engine, "compacted", &configs).await;
        produce(&engine, kept, 50).await;
        for _ in 0..50 {
            let now_ms = time::unix_time_ms();
            let batch =
                BatchBuilder::new().record(now_ms, Some(b"k"), Some(&[7; VALUE_BYTES])).build().unwrap();
            let part = ProducePart { target: compacted, batch };
            engine.produce(Acks::All, vec![part]).await.pop().unwrap().unwrap();
        }
        time::sleep(10 * LOOKED).await;
        assert_eq!(readable(&engine, kept).await, (0, 50));
        assert_eq!(readable(&engine, compacted).await, (0, 50));
    });
}

/// Timestamps are the producers': old ones go at once, and one from the future keeps its segment.
#[test]
fn the_records_timestamps_decide() {
    let sim = sim();
    live(&sim, End::Stopped, async |engine| {
        let configs = [("retention.ms", "60000"), ("message.timestamp.after.max.ms", "9000000000000")];
        let (old, future) = (create(&engine, "old", &configs).await, create(&engine, "new", &configs).await);
        let now_ms = time::unix_time_ms();
        for _ in 0..40 {
            produce_at(&engine, old, now_ms - 120_000).await;
        }
        produce_at(&engine, future, now_ms + 3_600_000).await;
        produce(&engine, future, 40).await;
        time::sleep(LOOKED).await;
        assert_eq!(readable(&engine, old).await, (40, 40));
        time::sleep(100 * SECOND).await;
        assert_eq!(
            readable(&engine, future).await,
            (0, 41),
            "the oldest segment stays, and so do later ones"
        );
    });
}

/// After a start nothing is known of the segments: it is looked up, not forgotten.
#[test]
fn what_was_old_before_a_restart_goes_after_it() {
    for end in [End::Stopped, End::Killed, End::PowerLost] {
        let sim = sim();
        let target = live(&sim, end, async |engine| {
            let target = create(&engine, "t", &[("retention.ms", "60000")]).await;
            produce(&engine, target, 100).await;
            target
        });
        live(&sim, End::Stopped, async move |engine| {
            time::sleep(LOOKED).await;
            assert_eq!(readable(&engine, target).await, (0, 100), "{end:?}");
            time::sleep(60 * SECOND).await;
            assert_eq!(readable(&engine, target).await, (100, 100), "{end:?}");
        });
        assert_eq!(files(&sim, target), Vec::<String>::new());
    }
}

#[test]
fn a_trim_is_durable_when_it_answers_and_gives_back_whole_segments() {
    for end in [End::Killed, End::PowerLost] {
        let sim = sim();
        let target = live(&sim, end, async |engine| {
            let target = create(&engine, "t", &[]).await;
            produce(&engine, target, 100).await;
            assert_eq!(sim_node::trim(&engine, target, Offset(50)).await, Ok(Offset(50)));
            assert_eq!(readable(&engine, target).await, (50, 100));
            assert_eq!(sim_node::trim(&engine, target, Offset(20)).await, Ok(Offset(50)), "never back");
            for beyond in [Offset(101), Offset(-2)] {
                let refused = sim_node::trim(&engine, target, beyond).await.unwrap_err();
                assert!(matches!(refused, PartitionError::OffsetOutOfRange { .. }), "{refused}");
            }
            target
        });
        let before = files(&sim, target).len();
        live(&sim, end, async move |engine| {
            assert_eq!(readable(&engine, target).await, (50, 100), "{end:?}");
            time::sleep(LOOKED).await;
        });
        assert!(files(&sim, target).len() < before, "{before} files before, {:?}", files(&sim, target));
        live(&sim, End::Stopped, async move |engine| {
            let all = engine.trim(vec![(target, TrimTo::HighWatermark)]).await;
            assert_eq!(all, [Ok(Offset(100))]);
            produce(&engine, target, 1).await;
            assert_eq!(readable(&engine, target).await, (100, 101));
        });
    }
}

/// A checkpoint holds all of a partition's producers: one for each of many trims would fill disks.
#[test]
fn a_thousand_trims_cost_no_checkpoint_each() {
    let sim = sim();
    live(&sim, End::Stopped, async |engine| {
        let target = create(&engine, "t", &[]).await;
        produce(&engine, target, 1000).await;
        time::sleep(LOOKED).await;
        let entries = async || engine.stats().await[0].journal.entries;
        let before = entries().await;
        for to in 0..1000 {
            assert_eq!(sim_node::trim(&engine, target, Offset(to)).await, Ok(Offset(to)));
        }
        time::sleep(2 * SECOND).await;
        let written = entries().await - before;
        assert!((999..1200).contains(&written), "{written} entries for 999 trims and some checkpoints");
        assert!(removed(&engine, Reason::LogStart).await > 50);
    });
}

#[test]
fn files_that_could_not_be_removed_go_with_the_next_look() {
    let sim = sim();
    let disk = sim.disk(NODE);
    let target = live(&sim, End::Stopped, async move |engine| {
        let target = create(&engine, "t", &[]).await;
        produce(&engine, target, 100).await;
        disk.fail(FaultOn::Directory, &format!("topics/{}", target.topic), 1);
        assert_eq!(sim_node::trim(&engine, target, Offset(90)).await, Ok(Offset(90)));
        time::sleep(4 * LOOKED).await;
        assert_eq!(readable(&engine, target).await, (90, 100));
        assert_eq!(engine.stats().await[0].partitions_offline, 0);
        target
    });
    let oldest = files(&sim, target).into_iter().next().unwrap();
    let base: i64 = oldest.trim_end_matches(".log").parse().unwrap();
    assert!(base + IN_SEGMENT >= 90, "{:?}", files(&sim, target));
}

/// Between the checkpoint and the removal there is nothing but files.
#[test]
fn a_power_failure_between_checkpoint_and_removal_leaves_nothing_for_ever() {
    let sim = sim();
    let disk = sim.disk(NODE);
    let target = live(&sim, End::PowerLost, async move |engine| {
        let target = create(&engine, "t", &[]).await;
        produce(&engine, target, 100).await;
        assert_eq!(sim_node::trim(&engine, target, Offset(90)).await, Ok(Offset(90)));
        disk.fail(FaultOn::Directory, &format!("topics/{}", target.topic), u32::MAX);
        time::sleep(2 * SECOND).await;
        disk.clear_faults();
        target
    });
    assert!(files(&sim, target).len() > 3, "{:?}", files(&sim, target));
    live(&sim, End::Stopped, async move |engine| {
        assert_eq!(readable(&engine, target).await, (90, 100));
        time::sleep(LOOKED).await;
        assert_eq!(readable(&engine, target).await, (90, 100));
    });
    assert!(files(&sim, target).len() <= 2, "{:?}", files(&sim, target));
}

/// A clock that is set a year ahead, by mistake, must not delete everything.
#[test]
fn a_clock_that_jumps_is_not_believed_at_once() {
    let sim = Rc::new(sim());
    let clock = Rc::clone(&sim);
    live(&sim, End::Stopped, async move |engine| {
        let target = create(&engine, "t", &[("retention.ms", "60000")]).await;
        time::sleep(LOOKED).await;
        produce(&engine, target, 100).await;
        clock.set_clock_skew_ms(NODE, 365 * 24 * 3_600_000);
        time::sleep(200 * SECOND).await;
        assert_eq!(readable(&engine, target).await, (0, 100));
        time::sleep(200 * SECOND).await;
        assert_eq!(readable(&engine, target).await, (100, 100), "after five minutes it is the time");
    });
}

/// Readers at the edge are told what there is; none is told that the storage failed.
#[test]
fn a_reader_whose_records_go_is_told_where_the_log_starts() {
    for seed in 0..20 {
        let sim = Sim::new(seed, SimOptions { time_max: Duration::from_secs(600), ..SimOptions::default() });
        live(&sim, End::Stopped, async |engine| {
            let target = create(&engine, "t", &[]).await;
            produce(&engine, target, 200).await;
            let reader = engine.clone();
            let reading =
                corelog_runtime::task::spawn_join(corelog_runtime::task::Class::Serve, async move {
                    let mut next = 0;
                    while next < 200 {
                        match fetch(&reader, target, next, FETCH_BYTES).await {
                            Ok(fetched) => next += i64::try_from(fetched.batches.len()).unwrap(),
                            Err(PartitionError::OffsetOutOfRange { log_start_offset, .. }) => {
                                assert!(log_start_offset.0 > next);
                                next = log_start_offset.0;
                            }
                            Err(error) => panic!("at {next}: {error}"),
                        }
                        let query = OffsetQuery::AtTimestamp(0);
                        let found = reader.list_offsets(vec![(target, None, query)]).await.pop().unwrap();
                        assert!(found.is_ok(), "{found:?}");
                    }
                });
            for to in (10..200).step_by(10) {
                sim_node::trim(&engine, target, Offset(to)).await.unwrap();
                time::sleep(Duration::from_millis(corelog_runtime::rand::below(300))).await;
            }
            reading.await;
        });
    }
}
