//! Groups on a whole node: what was committed and who is a member, through kills and power losses.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod sim_node;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corelog_engine::api::NewTopic;
use corelog_engine::engine::{Engine, OFFSETS_TOPIC};
use corelog_engine::group::api::{
    Client, Commit, CommitPartition, DescribedGroup, FetchOffsets, Heartbeat, JoinGroup, JoinReply,
    ListGroups, Protocol, Reply, Request, SyncGroup,
};
use corelog_engine::level::Level;
use corelog_engine::messages::{ShardReply, ShardRequest};
use corelog_engine::planted::PlantedBug;
use corelog_protocol::ErrorCode;
use corelog_runtime::rand;
use corelog_runtime::shards::ShardContext;
use corelog_runtime::sim::{Sim, SimOptions};
use corelog_runtime::{task, time};
use uuid::Uuid;

const NODE: u32 = 1;
const TOPIC: &str = "log";
const GROUPS: usize = 12;

fn text(value: &str) -> Arc<str> {
    Arc::from(value)
}

fn client() -> Client {
    let fresh_id = Uuid::from_u64_pair(rand::u64(), rand::u64());
    Client { id: text("test"), host: text("/127.0.0.1"), fresh_id }
}

/// Asks until there is a coordinator.
async fn ask(engine: &Engine, request: Request) -> Reply {
    let asking = async {
        loop {
            match engine.group(client(), request.clone()).await {
                Ok(reply) => return reply,
                Err(
                    ErrorCode::CoordinatorLoadInProgress
                    | ErrorCode::NotCoordinator
                    | ErrorCode::CoordinatorNotAvailable,
                ) => time::sleep(Duration::from_millis(1)).await,
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    time::timeout(Duration::from_secs(600), asking).await.expect("a coordinator answers")
}

fn commit(group: &str, member: &str, generation: i32, offset: i64) -> Request {
    let partition =
        CommitPartition { partition: 0, offset, leader_epoch: -1, metadata: text(&offset.to_string()) };
    Request::Commit(Commit {
        group: text(group),
        member_id: text(member),
        instance_id: None,
        generation,
        knows_epochs: true,
        retention_ms: None,
        topics: vec![(text(TOPIC), vec![partition])],
    })
}

async fn committed(engine: &Engine, group: &str) -> i64 {
    let topics = Some(vec![(text(TOPIC), vec![0])]);
    let request = FetchOffsets { group: text(group), member: None, require_stable: false, topics };
    let Reply::FetchOffsets(reply) = ask(engine, Request::FetchOffsets(request)).await else { panic!() };
    assert_eq!(reply.error, ErrorCode::None);
    let found = &reply.topics[0].1[0];
    assert_eq!(found.error, ErrorCode::None);
    assert!(found.offset == -1 || *found.metadata == *found.offset.to_string(), "{found:?}");
    found.offset
}

async fn prepare(engine: &Engine) {
    let topic =
        NewTopic { name: TOPIC.to_owned(), partitions: 1, replication_factor: 1, ..NewTopic::default() };
    engine.create_topics(vec![topic], false).await;
    engine.ready_for_groups().await.unwrap();
    assert!(engine.image().topic_named(OFFSETS_TOPIC).unwrap().internal);
}

/// How far a group is: the last commit that was answered, and the last that was tried.
#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    answered: Option<i64>,
    tried: i64,
}

type Model = Rc<RefCell<BTreeMap<usize, Progress>>>;

async fn commit_on_and_on(engine: Engine, number: usize, model: Model) {
    let group = format!("group-{number}");
    loop {
        let next = {
            let mut model = model.borrow_mut();
            let progress = model.entry(number).or_default();
            progress.tried += 1;
            progress.tried
        };
        let Reply::Commit(reply) = ask(&engine, commit(&group, "", -1, next)).await else { panic!() };
        assert_eq!(reply[0].1, [(0, ErrorCode::None)]);
        model.borrow_mut().get_mut(&number).unwrap().answered = Some(next);
    }
}

async fn shard_main(
    context: ShardContext<ShardRequest, ShardReply>,
    model: Model,
    checked: Rc<Level>,
) -> Result<(), String> {
    let (shard, shards) = (context.shard, context.shards);
    let engine = Engine::start(context.mesh, sim_node::options(PlantedBug::NONE)).await;
    let engine = engine.map_err(|error| error.to_string())?;
    if shard == 0 {
        prepare(&engine).await;
        let known: Vec<_> = model.borrow().iter().map(|(number, progress)| (*number, *progress)).collect();
        for (number, progress) in known {
            let found = committed(&engine, &format!("group-{number}")).await;
            let least = progress.answered.unwrap_or(-1);
            assert!((least..=progress.tried).contains(&found), "group {number}: {found}, {progress:?}");
            // What a crash let through unanswered counts from now on.
            model.borrow_mut().get_mut(&number).unwrap().answered = Some(found).filter(|found| *found >= 0);
        }
        checked.raise(1);
    }
    checked.reached(1).await;
    for number in (0..GROUPS).filter(|number| number % shards == shard) {
        task::spawn(commit_on_and_on(engine.clone(), number, Rc::clone(&model)));
    }
    std::future::pending().await
}

fn run(seed: u64) -> i64 {
    let sim = Sim::new(seed, SimOptions { time_max: Duration::from_secs(3600), ..SimOptions::default() });
    let model = Model::default();
    let told = Rc::clone(&model);
    sim.run_until(async {
        let lives = 3 + rand::below(5);
        for _ in 0..lives {
            let shards = 1 + usize::try_from(rand::below(3)).unwrap();
            let checked = Rc::new(Level::default());
            let (model, for_shards) = (Rc::clone(&told), Rc::clone(&checked));
            let exit = sim.start_node(NODE, shards, move |context| {
                shard_main(context, Rc::clone(&model), Rc::clone(&for_shards))
            });
            let up = async {
                checked.reached(1).await;
                time::sleep(Duration::from_micros(rand::below(200_000))).await;
                Ok(())
            };
            // Some lives end before the groups are loaded.
            let early = async {
                if rand::below(3) > 0 {
                    std::future::pending::<()>().await;
                }
                time::sleep(Duration::from_micros(rand::below(20_000))).await;
                Ok(())
            };
            futures_lite::future::or(exit, futures_lite::future::or(up, early)).await.unwrap();
            match rand::below(2) {
                0 => sim.kill_process(NODE),
                _ => sim.crash_node(NODE),
            }
        }
    });
    let answered: i64 = model.borrow().values().filter_map(|progress| progress.answered).sum();
    answered
}

#[test]
fn an_answered_commit_never_goes_back() {
    let seeds: u32 = std::env::var("CORELOG_GROUP_SEEDS").map_or(20, |seeds| seeds.parse().unwrap());
    let answered: i64 = (0..seeds)
        .map(|seed| {
            println!("seed {seed}");
            run(u64::from(seed))
        })
        .sum();
    assert!(answered > i64::from(seeds) * 10, "{answered} commits were answered");
}

fn join(member: &str) -> Request {
    Request::Join(JoinGroup {
        group: text("readers"),
        member_id: text(member),
        instance_id: None,
        protocol_type: text("consumer"),
        protocols: vec![Protocol { name: text("range"), metadata: Bytes::from_static(b"what I like") }],
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        member_id_required: false,
        can_skip_assignment: false,
    })
}

async fn describe(engine: &Engine) -> DescribedGroup {
    let request = Request::Describe { group: text("readers"), not_found_is_error: true };
    let Reply::Describe(described) = ask(engine, request).await else { panic!() };
    described
}

/// One life of a node with two shards, told on shard 0.
fn live(sim: &Sim, story: impl AsyncFn(Engine) + 'static) {
    let options = || sim_node::options(PlantedBug::NONE);
    sim_node::live(sim, NODE, options, async move |engine| {
        prepare(&engine).await;
        story(engine).await;
    });
}

#[test]
fn a_group_outlives_a_crash_and_a_member_that_stays_silent_does_not() {
    let sim = Sim::new(7, SimOptions { time_max: Duration::from_secs(3600), ..SimOptions::default() });
    let member: Rc<RefCell<Option<JoinReply>>> = Rc::default();
    let joined = Rc::clone(&member);
    live(&sim, async move |engine| {
        let Reply::Join(reply) = ask(&engine, join("")).await else { panic!() };
        assert_eq!((reply.error, reply.generation, reply.members.len()), (ErrorCode::None, 1, 1));
        let sync = SyncGroup {
            group: text("readers"),
            generation: 1,
            member_id: reply.member_id.clone(),
            instance_id: None,
            protocol_type: None,
            protocol: None,
            assignments: vec![(reply.member_id.clone(), Bytes::from_static(b"all of it"))],
        };
        let Reply::Sync(synced) = ask(&engine, Request::Sync(sync)).await else { panic!() };
        assert_eq!((synced.error, &synced.assignment[..]), (ErrorCode::None, &b"all of it"[..]));
        let Reply::Commit(reply_to) = ask(&engine, commit("readers", &reply.member_id, 1, 41)).await else {
            panic!()
        };
        assert_eq!(reply_to[0].1, [(0, ErrorCode::None)]);
        *joined.borrow_mut() = Some(reply);
    });
    live(&sim, async move |engine| {
        let member = member.borrow().clone().unwrap();
        let beat = Heartbeat {
            group: text("readers"),
            generation: 1,
            member_id: member.member_id.clone(),
            instance_id: None,
        };
        assert_eq!(
            ask(&engine, Request::Heartbeat(beat.clone())).await,
            Reply::Heartbeat(ErrorCode::None),
            "it is still a member"
        );
        let described = describe(&engine).await;
        assert_eq!((described.state, described.members.len()), ("Stable", 1));
        assert_eq!(&described.members[0].assignment[..], b"all of it");
        assert_eq!(committed(&engine, "readers").await, 41);
        let listed = engine.list_groups(&ListGroups::default()).await.unwrap();
        assert_eq!(listed.iter().map(|group| &*group.group).collect::<Vec<_>>(), ["readers"]);

        time::sleep(Duration::from_secs(11)).await;
        assert_eq!(
            ask(&engine, Request::Heartbeat(beat)).await,
            Reply::Heartbeat(ErrorCode::UnknownMemberId),
            "its session has ended"
        );
        assert_eq!(describe(&engine).await.state, "Empty");
        assert_eq!(committed(&engine, "readers").await, 41);
    });
}
