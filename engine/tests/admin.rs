//! A whole node whose topics grow and whose configs change while it works: what a running partition
//! sees of it, what stays, and what is left after a crash.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod sim_node;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use corelog_engine::api::{
    Acks, AlterConfigs, ConfigOp, ConfigResource, NewTopic, OffsetQuery, ProducePart, TopicError,
};
use corelog_engine::engine::Engine;
use corelog_engine::level::Level;
use corelog_engine::messages::{ShardReply, ShardRequest};
use corelog_engine::meta::command::NewPartitions;
use corelog_engine::planted::PlantedBug;
use corelog_engine::types::{Durability, NodeId, PartitionId, TopicPartition};
use corelog_protocol::ErrorCode;
use corelog_protocol::batch::BatchBuilder;
use corelog_runtime::shards::ShardContext;
use corelog_runtime::sim::{Sim, SimOptions};
use corelog_runtime::time;
use futures_util::future::LocalBoxFuture;

const NODE: u32 = 1;

type Story = Rc<dyn Fn(Engine) -> LocalBoxFuture<'static, ()>>;

/// Runs a node with so many shards until the story, told on its last shard, has ended; then the power
/// fails.
fn live(sim: &Sim, shards: usize, story: impl AsyncFn(Engine) + 'static) {
    let story = Rc::new(story);
    let told: Story = Rc::new(move |engine| {
        let story = Rc::clone(&story);
        Box::pin(async move { story(engine).await })
    });
    let ended = Rc::new(Level::default());
    let _running = sim.start_node(NODE, shards, {
        let ended = Rc::clone(&ended);
        move |context: ShardContext<ShardRequest, ShardReply>| {
            let (told, ended) = (Rc::clone(&told), Rc::clone(&ended));
            async move {
                let shard = context.shard;
                let engine = Engine::start(context.mesh, sim_node::options(PlantedBug::NONE)).await.unwrap();
                if shard == shards - 1 {
                    told(engine.clone()).await;
                    ended.raise(1);
                }
                // The power fails before this comes.
                ended.reached(2).await;
                Ok::<(), String>(())
            }
        }
    });
    sim.run_until(async {
        ended.reached(1).await;
        sim.crash_node(NODE);
    });
}

fn sim() -> Sim {
    Sim::new(7, SimOptions { time_max: Duration::from_secs(3600), ..SimOptions::default() })
}

async fn create(engine: &Engine, name: &str, partitions: i32) -> Vec<TopicPartition> {
    let new = NewTopic { name: name.to_owned(), partitions, replication_factor: 1, ..NewTopic::default() };
    let id = engine.create_topics(vec![new], false).await.pop().unwrap().unwrap().id;
    (0..partitions).map(|partition| TopicPartition::new(id, PartitionId(partition))).collect()
}

async fn grow(engine: &Engine, name: &str, count: i32) -> Result<usize, TopicError> {
    let wanted = NewPartitions { name: name.to_owned(), count, assignments: None };
    let grown = engine.create_partitions(vec![wanted], false).await.remove(0);
    grown.map(|topic| topic.partitions.len())
}

async fn set(engine: &Engine, resource: ConfigResource, name: &str, value: &str) -> Result<(), TopicError> {
    let ops = vec![(name.to_owned(), ConfigOp::Set(value.to_owned()))];
    engine.alter_configs(vec![AlterConfigs { resource, replace: false, ops }], false).await.remove(0)
}

fn topic(name: &str) -> ConfigResource {
    ConfigResource::Topic(name.to_owned())
}

/// Produces one record of so many bytes; gives its offset.
async fn produce(engine: &Engine, target: TopicPartition, bytes: usize) -> Result<i64, ErrorCode> {
    let value = vec![7; bytes];
    let batch = BatchBuilder::new().record(time::unix_time_ms(), None, Some(&value)).build().unwrap();
    let outcome = engine.produce(Acks::All, vec![ProducePart { target, batch }]).await.remove(0);
    outcome.map(|produced| produced.base_offset.0).map_err(|error| error.code)
}

#[test]
fn a_topic_grows_while_it_works_and_stays_so_after_a_power_loss() {
    let sim = sim();
    let kept = Rc::new(RefCell::new(Vec::new()));
    let targets = Rc::clone(&kept);
    live(&sim, 3, async move |engine: Engine| {
        let older = create(&engine, "t", 2).await;
        create(&engine, "other", 1).await;
        for target in &older {
            assert_eq!(produce(&engine, *target, 10).await, Ok(0));
        }
        assert_eq!(grow(&engine, "t", 5).await, Ok(5));
        let newer = TopicPartition::new(older[0].topic, PartitionId(4));
        assert_eq!(produce(&engine, newer, 10).await, Ok(0));
        for target in &older {
            assert_eq!(produce(&engine, *target, 10).await, Ok(1));
        }
        assert!(matches!(grow(&engine, "t", 5).await, Err(TopicError::InvalidPartitions(_))));
        targets.borrow_mut().extend([older[0], older[1], newer]);
    });
    // With another number of shards, so that everything moves.
    for shards in [3, 2] {
        let targets = Rc::clone(&kept);
        live(&sim, shards, async move |engine: Engine| {
            let targets = targets.borrow().clone();
            assert_eq!(engine.image().topic_named("t").unwrap().partitions.len(), 5);
            let before = if shards == 3 { 0 } else { 1 };
            assert_eq!(produce(&engine, targets[0], 10).await, Ok(2 + before));
            assert_eq!(produce(&engine, targets[1], 10).await, Ok(2 + before));
            assert_eq!(produce(&engine, targets[2], 10).await, Ok(1 + before));
        });
    }
}

#[test]
fn a_running_partition_sees_new_configs_and_a_restarted_one_too() {
    let sim = sim();
    live(&sim, 2, async |engine: Engine| {
        let target = create(&engine, "t", 1).await[0];
        assert_eq!(produce(&engine, target, 5_000).await, Ok(0));
        set(&engine, topic("t"), "max.message.bytes", "1000").await.unwrap();
        assert_eq!(produce(&engine, target, 5_000).await, Err(ErrorCode::MessageTooLarge));
        assert_eq!(produce(&engine, target, 500).await, Ok(1));
        set(&engine, topic("t"), "cleanup.policy", "compact").await.unwrap();
        assert_eq!(produce(&engine, target, 500).await, Err(ErrorCode::InvalidRecord));
        let refused = set(&engine, topic("t"), "retention.ms", "soon").await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidConfig);
        let unknown = set(&engine, topic("u"), "retention.ms", "1").await.unwrap_err();
        assert_eq!(unknown.code(), ErrorCode::UnknownTopicOrPartition);
    });
    live(&sim, 2, async |engine: Engine| {
        let id = engine.image().topic_named("t").unwrap().id;
        let target = TopicPartition::new(id, PartitionId(0));
        assert_eq!(produce(&engine, target, 500).await, Err(ErrorCode::InvalidRecord));
        let ops = vec![("max.message.bytes".to_owned(), ConfigOp::Set("2000".to_owned()))];
        let replaced = AlterConfigs { resource: topic("t"), replace: true, ops };
        assert_eq!(engine.alter_configs(vec![replaced], false).await, [Ok(())]);
        assert_eq!(produce(&engine, target, 500).await, Ok(2));
        assert_eq!(produce(&engine, target, 5_000).await, Err(ErrorCode::MessageTooLarge));
    });
}

#[test]
fn what_is_only_validated_is_not_done() {
    live(&sim(), 2, async |engine: Engine| {
        create(&engine, "t", 1).await;
        let version = engine.image().version;
        let ops = vec![("retention.ms".to_owned(), ConfigOp::Set("1".to_owned()))];
        let altered = AlterConfigs { resource: topic("t"), replace: false, ops };
        assert_eq!(engine.alter_configs(vec![altered], true).await, [Ok(())]);
        let wanted = NewPartitions { name: "t".to_owned(), count: 4, assignments: None };
        assert_eq!(
            engine.create_partitions(vec![wanted], true).await[0].as_ref().unwrap().partitions.len(),
            4
        );
        assert_eq!(engine.image().version, version);
    });
}

#[test]
fn node_configs_reach_every_topic_that_does_not_say_otherwise() {
    let sim = sim();
    live(&sim, 2, async |engine: Engine| {
        let own = create(&engine, "own", 1).await[0];
        let none = create(&engine, "none", 1).await[0];
        set(&engine, topic("own"), "max.message.bytes", "10000").await.unwrap();
        set(&engine, ConfigResource::AllNodes, "message.max.bytes", "1000").await.unwrap();
        assert_eq!(produce(&engine, own, 5_000).await, Ok(0));
        assert_eq!(produce(&engine, none, 5_000).await, Err(ErrorCode::MessageTooLarge));
        set(&engine, ConfigResource::Node(NodeId(1)), "message.max.bytes", "6000").await.unwrap();
        assert_eq!(produce(&engine, none, 5_000).await, Ok(0));
    });
    live(&sim, 2, async |engine: Engine| {
        let id = engine.image().topic_named("none").unwrap().id;
        let none = TopicPartition::new(id, PartitionId(0));
        assert_eq!(produce(&engine, none, 5_000).await, Ok(1));
        assert_eq!(produce(&engine, none, 7_000).await, Err(ErrorCode::MessageTooLarge));
        let delete = |resource| AlterConfigs {
            resource,
            replace: false,
            ops: vec![("message.max.bytes".to_owned(), ConfigOp::Delete)],
        };
        let both = vec![delete(ConfigResource::AllNodes), delete(ConfigResource::Node(NodeId(1)))];
        assert_eq!(engine.alter_configs(both, false).await, [Ok(()), Ok(())]);
        assert_eq!(produce(&engine, none, 7_000).await, Ok(2));
    });
}

/// In mode `write`, records can be read once they are written. Those before them that promised a sync
/// must not become readable by that.
#[test]
fn a_change_of_durability_takes_no_promise_back() {
    for seed in 0..30 {
        live(&Sim::new(seed, SimOptions::default()), 2, async move |engine: Engine| {
            let targets = create(&engine, "t", 2).await;
            let image = engine.image();
            let owner = |target: &TopicPartition| image.topics[&target.topic].shard_of(target.partition, 2);
            let here = targets.into_iter().find(|target| owner(target) == engine.shard()).unwrap();
            // The offsets and journal entries of records that promised a sync.
            let promised = RefCell::new(Vec::new());
            for mode in ["write", "fsync", "write"] {
                let done = Level::default();
                let alter = async {
                    set(&engine, topic("t"), "corelog.durability", mode).await.unwrap();
                    time::sleep(Duration::from_millis(2)).await;
                    done.raise(1);
                };
                let work = async {
                    let mut offset = end(&engine, here).await;
                    while done.get() == 0 {
                        let image = engine.image();
                        let config = engine.topic_config(image.topic_named("t").unwrap());
                        // Appended when this returns; its answer is of no interest.
                        drop(engine.produce(Acks::Leader, vec![part(here)]));
                        if config.durability == Durability::Fsync {
                            let lsn = engine.local().journal().last_appended().unwrap();
                            promised.borrow_mut().push((offset, lsn));
                        }
                        offset += 1;
                        let readable = end(&engine, here).await;
                        let synced = engine.local().journal().progress().synced;
                        let broken = promised
                            .borrow()
                            .iter()
                            .find(|(at, lsn)| *lsn >= synced && *at < readable)
                            .copied();
                        assert_eq!(
                            broken, None,
                            "seed {seed}: readable up to {readable}, synced up to {synced}"
                        );
                        time::sleep(Duration::from_micros(20)).await;
                    }
                    time::sleep(Duration::from_millis(50)).await;
                };
                futures_util::join!(alter, work);
            }
            assert!(promised.borrow().len() > 10, "hardly anything was promised");
        });
    }
}

/// The high watermark.
async fn end(engine: &Engine, target: TopicPartition) -> i64 {
    let query = OffsetQuery::Latest { read_committed: false };
    let found = engine.list_offsets(vec![(target, None, query)]).await.remove(0);
    found.unwrap().offset.0
}

fn part(target: TopicPartition) -> ProducePart {
    let batch = BatchBuilder::new().record(time::unix_time_ms(), None, Some(b"v")).build().unwrap();
    ProducePart { target, batch }
}

#[test]
fn sizes_and_producers_are_told_across_shards() {
    live(&sim(), 2, async |engine: Engine| {
        let targets = create(&engine, "t", 4).await;
        produce(&engine, targets[1], 3_000).await.unwrap();
        let sizes = engine.sizes(targets.clone()).await;
        let sizes: Vec<u64> = sizes.into_iter().map(Result::unwrap).collect();
        assert_eq!((sizes[0], sizes[2], sizes[3]), (0, 0, 0));
        assert!((3_000..4_000).contains(&sizes[1]), "{sizes:?}");
        let batch = BatchBuilder::new()
            .producer(77, 3, 5)
            .record(time::unix_time_ms(), None, Some(b"v"))
            .build()
            .unwrap();
        let part = ProducePart { target: targets[2], batch };
        engine.produce(Acks::All, vec![part]).await.remove(0).unwrap();
        let unknown = TopicPartition::new(targets[0].topic, PartitionId(9));
        let producers = engine.producers(vec![targets[2], targets[1], unknown]).await;
        let known = producers[0].as_ref().unwrap();
        assert_eq!((known[0].producer_id, known[0].epoch, known[0].last_sequence), (77, 3, 5));
        assert_eq!(producers[1], Ok(Vec::new()));
        assert!(producers[2].is_err());
    });
}
