//! What groups commit is kept in a compacted topic: compaction takes the older commits away, and
//! after a crash the newest are there.

use std::sync::Arc;
use std::time::Duration;

use corelog_engine::api::NewTopic;
use corelog_engine::engine::{Engine, OFFSETS_TOPIC};
use corelog_engine::group::api::{Client, Commit, CommitPartition, FetchOffsets, Reply, Request};
use corelog_engine::planted::PlantedBug;
use corelog_engine::shard::CleanOptions;
use corelog_protocol::ErrorCode;
use corelog_runtime::sim::{Sim, SimOptions};
use corelog_runtime::{rand, time};
use uuid::Uuid;

use crate::{NODE, sim_node};

const GROUPS: i64 = 20;
const COMMITS: i64 = 150;
const TOPIC: &str = "log";

fn text(value: &str) -> Arc<str> {
    Arc::from(value)
}

async fn ask(engine: &Engine, request: Request) -> Reply {
    let fresh_id = Uuid::from_u64_pair(rand::u64(), rand::u64());
    let client = Client { id: text("test"), host: text("/127.0.0.1"), fresh_id };
    loop {
        match engine.group(client.clone(), request.clone()).await {
            Ok(reply) => return reply,
            Err(
                ErrorCode::CoordinatorLoadInProgress
                | ErrorCode::NotCoordinator
                | ErrorCode::CoordinatorNotAvailable,
            ) => time::sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn commit(engine: &Engine, group: i64, offset: i64) {
    let partition =
        CommitPartition { partition: 0, offset, leader_epoch: -1, metadata: text("as far as this") };
    let request = Request::Commit(Commit {
        group: text(&format!("group-{group}")),
        member_id: text(""),
        instance_id: None,
        generation: -1,
        knows_epochs: true,
        retention_ms: None,
        topics: vec![(text(TOPIC), vec![partition])],
    });
    let Reply::Commit(reply) = ask(engine, request).await else { panic!() };
    assert_eq!(reply[0].1, [(0, ErrorCode::None)]);
}

async fn committed(engine: &Engine, group: i64) -> i64 {
    let topics = Some(vec![(text(TOPIC), vec![0])]);
    let group = text(&format!("group-{group}"));
    let request = FetchOffsets { group, member: None, require_stable: false, topics };
    let Reply::FetchOffsets(reply) = ask(engine, Request::FetchOffsets(request)).await else { panic!() };
    reply.topics[0].1[0].offset
}

/// One life of a node, told on its first shard.
fn live(sim: &Sim, story: impl AsyncFn(Engine) + 'static) {
    let options = || {
        let mut options = sim_node::options(PlantedBug::NONE);
        options.shard.retention_check_interval = Duration::from_millis(20);
        options.shard.clean = CleanOptions { backoff: Duration::from_millis(10), ..CleanOptions::default() };
        options.defaults.segment_ms = 100;
        options.meta.configs = options.defaults.clone();
        options
    };
    sim_node::live(sim, NODE, options, story);
}

async fn removed(engine: &Engine) -> u64 {
    engine.stats().await.iter().map(|stats| stats.cleaner.records_removed).sum()
}

#[test]
fn committed_offsets_are_compacted_and_outlive_a_crash() {
    let sim = Sim::new(11, SimOptions { time_max: Duration::from_secs(3600), ..SimOptions::default() });
    live(&sim, async |engine| {
        let topic =
            NewTopic { name: TOPIC.to_owned(), partitions: 1, replication_factor: 1, ..NewTopic::default() };
        engine.create_topics(vec![topic], false).await;
        engine.ready_for_groups().await.unwrap();
        assert!(engine.image().topic_named(OFFSETS_TOPIC).is_some());
        for offset in 1..=COMMITS {
            for group in 0..GROUPS {
                commit(&engine, group, offset * 1_000 + group).await;
            }
        }
        // Every segment is closed by then, and what is dirty was looked for.
        time::sleep(Duration::from_secs(2)).await;
        let removed = removed(&engine).await;
        let all = u64::try_from(COMMITS * GROUPS).unwrap();
        assert!(removed > all / 2 && removed < all, "{removed} of {all} commits are gone");
    });
    live(&sim, async |engine| {
        engine.ready_for_groups().await.unwrap();
        for group in 0..GROUPS {
            assert_eq!(committed(&engine, group).await, COMMITS * 1_000 + group, "group {group}");
        }
        commit(&engine, 3, 7).await;
        time::sleep(Duration::from_secs(2)).await;
    });
    live(&sim, async |engine| {
        engine.ready_for_groups().await.unwrap();
        assert_eq!((committed(&engine, 3).await, committed(&engine, 4).await), (7, COMMITS * 1_000 + 4));
    });
}
