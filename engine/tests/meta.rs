//! Metadata under crashes, on the real journal and a simulated disk: what was acknowledged is there
//! after each restart, no producer id is given twice, and no epoch is led twice.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corelog_engine::api::{AlterConfigs, ConfigOp, ConfigResource, NewTopic, TopicError, TopicRef};
use corelog_engine::journal::{Entry, EntryKind, Journal, JournalOptions};
use corelog_engine::meta::command::NewPartitions;
use corelog_engine::meta::image::{ListenerMeta, MetaImage, TopicMeta};
use corelog_engine::meta::{Meta, MetaError, MetaOptions, MetaRecovery};
use corelog_engine::types::{LeaderEpoch, Lsn, NodeId, Offset, TopicId, TopicPartition};
use corelog_runtime::shards::ShardContext;
use corelog_runtime::sim::{FaultOn, Sim, SimOptions, block_on};
use corelog_runtime::{fs, rand, task, time};

const NODE: u32 = 1;
const DIR: &str = "/data/journal";
const CLIENTS: u64 = 3;
const NAMES_PER_CLIENT: u64 = 4;

fn seeds() -> u64 {
    std::env::var("CORELOG_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(300)
}

/// Small files, so that they are filled, compacted and released again and again.
fn journal_options() -> JournalOptions {
    JournalOptions {
        file_bytes: 128 << 10,
        first_file_bytes: 64 << 10,
        max_commit_bytes: 16 << 10,
        flush_interval: Duration::from_millis(5),
        ..JournalOptions::new(PathBuf::from(DIR), 7)
    }
}

fn options() -> MetaOptions {
    let listener = ListenerMeta { name: "PLAIN".to_owned(), host: "localhost".to_owned(), port: 9092 };
    MetaOptions { entries_per_snapshot: 16, ..MetaOptions::new(NodeId(1), vec![listener]) }
}

async fn start(publish: Rc<dyn Fn(Arc<MetaImage>)>) -> Result<(Journal, Meta), MetaError> {
    let mut recovery = MetaRecovery::default();
    let (journal, report) =
        Journal::open(journal_options(), |lsn, entry| recovery.replay(lsn, &entry)).await?;
    assert!(report.corruption.is_none(), "false alarm: {:?}", report.corruption);
    let meta = Meta::start(options(), recovery, journal.clone(), publish).await?;
    Ok((journal, meta))
}

fn topic(name: &str, partitions: i32) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions, replication_factor: -1, ..NewTopic::default() }
}

/// What was promised, over all lives of the node.
#[derive(Default)]
struct Model {
    cluster_id: String,
    /// Acknowledged topics.
    live: BTreeMap<String, TopicId>,
    /// Names with a change whose outcome is not known.
    open: BTreeSet<String>,
    ids_ever: BTreeSet<TopicId>,
    producer_ids: Vec<Range<i64>>,
    /// The newest epoch in which anyone was told that the node leads.
    epochs: BTreeMap<(TopicId, usize), LeaderEpoch>,
    /// Where each topic's partitions begin to be placed.
    first_slots: BTreeMap<TopicId, u64>,
    /// How many partitions a topic has at least, and how many were ever asked for.
    partitions: BTreeMap<TopicId, (usize, usize)>,
    /// Configs of topics and of all nodes: what was acknowledged, and what else may have been set.
    configs: BTreeMap<Setting, (Option<String>, Vec<Option<String>>)>,
    altered: u64,
    version: u64,
    incarnation: u64,
    starts: u64,
    acknowledged: u64,
    compactions: u64,
    released: Lsn,
}

/// A topic's or, without one, all nodes' config.
type Setting = (Option<TopicId>, String);

type Shared = Rc<RefCell<Model>>;

fn set_in<'a>(image: &'a MetaImage, (topic, name): &Setting) -> Option<&'a String> {
    match topic {
        Some(id) => image.topics.get(id)?.configs.get(name),
        None => image.node_configs.all.get(name),
    }
}

impl Model {
    /// The first image of a life: everything that was acknowledged, and nothing in an old epoch.
    fn restarted(&mut self, image: &MetaImage) {
        self.starts += 1;
        if !self.cluster_id.is_empty() {
            assert_eq!(image.cluster_id, self.cluster_id);
        }
        self.cluster_id.clone_from(&image.cluster_id);
        assert_eq!(image.cluster_id.len(), 22);
        assert!(image.version > self.version, "version {} after {}", image.version, self.version);
        let incarnation = image.nodes[&NodeId(1)].incarnation;
        assert!(incarnation > self.incarnation);
        self.incarnation = incarnation;
        for name in std::mem::take(&mut self.open) {
            match image.names.get(&name) {
                Some(id) => self.live.insert(name, *id),
                None => self.live.remove(&name),
            };
        }
        assert_eq!(image.names, self.live, "acknowledged topics");
        for topic in image.topics.values() {
            for (index, partition) in topic.partitions.iter().enumerate() {
                let led = self.epochs.get(&(topic.id, index)).copied();
                assert!(led.is_none_or(|led| partition.leader_epoch > led), "{} leads twice", topic.name);
            }
            if let Some((least, most)) = self.partitions.get_mut(&topic.id) {
                let count = topic.partitions.len();
                assert!((*least..=*most).contains(&count), "{count} partitions, not {least} to {most}");
                *least = count;
            }
        }
        for (setting, (acknowledged, open)) in &mut self.configs {
            if setting.0.is_none_or(|id| image.topics.contains_key(&id)) {
                let present = set_in(image, setting).cloned();
                let is_open = std::mem::take(open).contains(&present);
                assert!(
                    is_open || present == *acknowledged,
                    "{setting:?}: {present:?}, not {acknowledged:?}"
                );
                *acknowledged = present;
            }
        }
    }

    fn published(&mut self, image: &MetaImage) {
        assert!(image.version > self.version);
        self.version = image.version;
        for topic in image.topics.values() {
            let first_slot = *self.first_slots.entry(topic.id).or_insert(topic.first_slot);
            assert_eq!(topic.first_slot, first_slot, "the partitions of {} move", topic.name);
            for (index, partition) in topic.partitions.iter().enumerate() {
                self.epochs.insert((topic.id, index), partition.leader_epoch);
            }
        }
    }

    fn created(&mut self, name: &str, result: Result<Arc<TopicMeta>, TopicError>) {
        match result {
            Ok(topic) => {
                assert!(self.ids_ever.insert(topic.id), "an id is used twice");
                assert!(self.live.insert(name.to_owned(), topic.id).is_none());
                let count = topic.partitions.len();
                self.partitions.insert(topic.id, (count, count));
            }
            Err(TopicError::Exists(_)) => assert!(self.live.contains_key(name), "{name} is gone"),
            // The journal was stopped under it: the outcome stays open.
            Err(TopicError::Unavailable(_)) => return,
            Err(error) => panic!("{name}: {error}"),
        }
        self.acknowledged += 1;
        self.open.remove(name);
    }

    fn deleted(&mut self, name: &str, result: Result<Arc<TopicMeta>, TopicError>) {
        match result {
            Ok(topic) => assert_eq!(self.live.remove(name), Some(topic.id)),
            Err(TopicError::UnknownName(_)) => assert!(!self.live.contains_key(name), "{name} is gone"),
            Err(TopicError::Unavailable(_)) => return,
            Err(error) => panic!("{name}: {error}"),
        }
        self.acknowledged += 1;
        self.open.remove(name);
    }

    fn grown(&mut self, name: &str, asked: usize, result: Result<Arc<TopicMeta>, TopicError>) {
        match result {
            Ok(topic) => {
                assert_eq!((topic.id, topic.partitions.len()), (self.live[name], asked));
                if let Some((least, _)) = self.partitions.get_mut(&topic.id) {
                    *least = asked;
                }
            }
            Err(TopicError::UnknownName(_)) => return self.may_be_gone(name),
            Err(TopicError::Unavailable(_)) => return,
            Err(error) => panic!("{name}: {error}"),
        }
        self.acknowledged += 1;
    }

    /// A topic is unknown only if its deletion was begun, or told of.
    fn may_be_gone(&self, name: &str) {
        assert!(!self.live.contains_key(name) || self.open.contains(name), "{name} is gone");
    }

    fn altered(
        &mut self,
        setting: &Setting,
        name: &str,
        value: Option<String>,
        result: Result<(), TopicError>,
    ) {
        let (acknowledged, open) = self.configs.get_mut(setting).expect("it was noted before");
        match result {
            Ok(()) => *acknowledged = value,
            Err(TopicError::UnknownName(_)) if setting.0.is_some() => return self.may_be_gone(name),
            Err(TopicError::Unavailable(_)) => return,
            Err(error) => panic!("{setting:?}: {error}"),
        }
        open.clear();
        self.acknowledged += 1;
        self.altered += 1;
    }

    fn given(&mut self, ids: Range<i64>) {
        let overlaps = self.producer_ids.iter().any(|old| ids.start < old.end && old.start < ids.end);
        assert!(!overlaps, "producer ids {ids:?} were given before");
        self.acknowledged += 1;
        self.producer_ids.push(ids);
    }
}

/// Gives a topic more partitions.
async fn grow(model: &Shared, meta: &Meta, name: &str) {
    let asked = {
        let mut model = model.borrow_mut();
        let id = model.live.get(name).copied();
        let Some((_, most)) = id.and_then(|id| model.partitions.get_mut(&id)) else { return };
        *most += 1 + usize::try_from(rand::below(3)).unwrap();
        *most
    };
    let count = i32::try_from(asked).unwrap();
    let wanted = NewPartitions { name: name.to_owned(), count, assignments: None };
    let grown = meta.create_partitions(vec![wanted], false).await.remove(0);
    model.borrow_mut().grown(name, asked, grown);
}

/// Sets or deletes a config of a topic, or this client's own one of all nodes, which the others'
/// changes meet.
async fn alter(model: &Shared, meta: &Meta, client: u64, name: &str) {
    let of_topic = rand::below(2) == 0;
    let value = (rand::below(4) > 0).then(|| (1 + rand::below(1_000_000)).to_string());
    let (resource, setting) = {
        let mut model = model.borrow_mut();
        let node_configs = ["log.retention.ms", "log.roll.ms", "log.retention.bytes"];
        let (resource, setting) = match (of_topic, model.live.get(name)) {
            (true, None) => return,
            (true, Some(id)) => {
                (ConfigResource::Topic(name.to_owned()), (Some(*id), "retention.ms".to_owned()))
            }
            (false, _) => {
                let name = node_configs[usize::try_from(client).unwrap()];
                (ConfigResource::AllNodes, (None, name.to_owned()))
            }
        };
        model.configs.entry(setting.clone()).or_default().1.push(value.clone());
        (resource, setting)
    };
    let op = value.clone().map_or(ConfigOp::Delete, ConfigOp::Set);
    let request = AlterConfigs { resource, replace: false, ops: vec![(setting.1.clone(), op)] };
    let altered = meta.alter_configs(vec![request], false).await.remove(0);
    model.borrow_mut().altered(&setting, name, value, altered);
}

/// One client: changes its own names, one after the other.
async fn client(model: Shared, meta: Meta, client: u64) {
    loop {
        time::sleep(Duration::from_micros(rand::below(4_000))).await;
        let name = format!("topic-{client}-{}", rand::below(NAMES_PER_CLIENT));
        match rand::below(14) {
            0..=4 => {
                let large = rand::below(12) == 0;
                let partitions = if large { 3_000 } else { 1 + i32::try_from(rand::below(8)).unwrap() };
                model.borrow_mut().open.insert(name.clone());
                let created = meta.create_topics(vec![topic(&name, partitions)], false).await;
                model.borrow_mut().created(&name, created.into_iter().next().unwrap());
            }
            5..=7 => {
                model.borrow_mut().open.insert(name.clone());
                let deleted = meta.delete_topics(vec![TopicRef::Name(name.clone())]).await;
                model.borrow_mut().deleted(&name, deleted.into_iter().next().unwrap());
            }
            8 => {
                let count = 1 + u32::try_from(rand::below(1000)).unwrap();
                if let Ok(ids) = meta.allocate_producer_ids(count).await {
                    model.borrow_mut().given(ids);
                }
            }
            9..=10 => grow(&model, &meta, &name).await,
            11..=12 => alter(&model, &meta, client, &name).await,
            _ => {
                let version = meta.image().version;
                let valid = meta.create_topics(vec![topic("never", 1)], true).await;
                assert!(valid[0].is_ok(), "{valid:?}");
                let image = meta.image();
                assert!(image.version >= version && !image.names.contains_key("never"));
            }
        }
    }
}

/// Data of partitions beside the metadata, so that files fill.
async fn fill(journal: Journal) {
    loop {
        time::sleep(Duration::from_micros(rand::below(1_500))).await;
        journal.append(Entry {
            kind: EntryKind::Append,
            target: TopicPartition::default(),
            base_offset: Offset(0),
            leader_epoch: LeaderEpoch(0),
            payload: Bytes::from(vec![7; usize::try_from(rand::below(6_000)).unwrap()]),
        });
    }
}

/// Frees the oldest file whenever the journal asks for it.
async fn reclaim(model: Shared, journal: Journal, meta: Meta) {
    loop {
        journal.pressure().await;
        let Some(oldest) = journal.oldest_live() else {
            time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        if meta.compact(oldest.end).await.is_err() {
            return;
        }
        let needed = meta.needed_from().unwrap();
        assert!(needed >= oldest.end, "{needed} is needed after a compaction below {}", oldest.end);
        model.borrow_mut().compactions += 1;
        model.borrow_mut().released = oldest.end;
        journal.release(oldest.end);
        task::yield_now().await;
    }
}

async fn life(model: Shared) -> Result<(), MetaError> {
    let first = Rc::new(Cell::new(true));
    let publish = {
        let model = Rc::clone(&model);
        move |image: Arc<MetaImage>| {
            let mut model = model.borrow_mut();
            if first.replace(false) {
                model.restarted(&image);
            }
            model.published(&image);
        }
    };
    let (journal, meta) = start(Rc::new(publish)).await?;
    task::spawn(reclaim(Rc::clone(&model), journal.clone(), meta.clone()));
    task::spawn(fill(journal.clone()));
    for number in 0..CLIENTS {
        task::spawn(client(Rc::clone(&model), meta.clone(), number));
    }
    if rand::below(3) > 0 {
        std::future::pending::<()>().await;
    }
    // Some lives end in order.
    time::sleep(Duration::from_millis(rand::below(60))).await;
    meta.stop().await;
    journal.close().await?;
    Ok(())
}

/// What a run came to: for comparison, and to see that it did something.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    trace: u64,
    starts: u64,
    acknowledged: u64,
    altered: u64,
    compactions: u64,
    released: Lsn,
}

fn run_seed(seed: u64) -> Outcome {
    let sim = Sim::new(seed, SimOptions::default());
    let model = Shared::default();
    // The data directory is there before the node is.
    sim.run_on(NODE, async {
        fs::create_dir_all("/data").await.unwrap();
        fs::sync_dir("/").await.unwrap();
    });
    sim.run_until(async {
        for _ in 0..3 + rand::below(6) {
            let lived = Rc::clone(&model);
            let exit = sim.start_node(NODE, 1, move |_: ShardContext<(), ()>| life(Rc::clone(&lived)));
            let short = rand::below(3) == 0;
            let lifetime = Duration::from_micros(rand::below(if short { 4_000 } else { 150_000 }));
            match time::timeout(lifetime, exit).await {
                Ok(ended) => ended.unwrap(),
                Err(_) if rand::below(4) == 0 => sim.kill_process(NODE),
                Err(_) => sim.crash_node(NODE),
            }
        }
    });
    // Whatever happened, the node comes up again with all of it.
    let last = Rc::clone(&model);
    sim.run_on(NODE, async move {
        let publish = move |image: Arc<MetaImage>| last.borrow_mut().restarted(&image);
        start(Rc::new(publish)).await.unwrap();
    });
    let model = model.borrow();
    Outcome {
        trace: sim.trace_hash(),
        starts: model.starts,
        acknowledged: model.acknowledged,
        altered: model.altered,
        compactions: model.compactions,
        released: model.released,
    }
}

#[test]
fn what_was_acknowledged_survives_crashes_at_any_time() {
    let first: u64 = std::env::var("CORELOG_FIRST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let (mut acknowledged, mut altered, mut compactions) = (0, 0, 0);
    for seed in first..first + seeds() {
        // The simulator prints the seed of a run that panics.
        let outcome = run_seed(seed);
        acknowledged += outcome.acknowledged;
        altered += outcome.altered;
        compactions += outcome.compactions;
    }
    assert!(acknowledged > seeds() * 10, "the test did hardly anything: {acknowledged} changes");
    assert!(altered > seeds(), "configs were hardly ever altered: {altered} times");
    assert!(compactions > seeds() / 4, "files were hardly ever released: {compactions} times");
}

#[test]
fn a_seed_replays_the_same_run() {
    for seed in 5000..5010 {
        assert_eq!(run_seed(seed), run_seed(seed), "seed {seed}");
    }
}

#[test]
fn a_new_node_forms_a_quorum_of_one_and_names_the_cluster() {
    let image = block_on(1, async {
        let (_journal, meta) = start(Rc::new(|_| {})).await.unwrap();
        meta.image()
    });
    assert_eq!(image.cluster_id.len(), 22);
    assert_eq!(image.nodes[&NodeId(1)].incarnation, 1);
    assert_eq!(image.nodes[&NodeId(1)].listeners[0].port, 9092);
}

#[test]
fn one_request_creates_more_topics_than_one_entry_holds() {
    block_on(2, async {
        let (_journal, meta) = start(Rc::new(|_| {})).await.unwrap();
        let mut topics: Vec<_> = (0..2_000).map(|n| topic(&format!("{n:0>120}"), 1)).collect();
        topics.insert(1_000, topic("bad name", 1));
        topics.push(topic("no replicas", 1));
        let last = topics.len() - 1;
        topics[last] = NewTopic { replication_factor: 2, ..topic("too-many", 1) };
        let created = meta.create_topics(topics, false).await;
        for (place, result) in created.iter().enumerate() {
            match place {
                1_000 => assert!(matches!(result, Err(TopicError::InvalidName(_)))),
                _ if place == last => assert!(matches!(result, Err(TopicError::InvalidReplicationFactor(_)))),
                _ => assert_eq!(
                    result.as_ref().unwrap().name,
                    format!("{:0>120}", place - usize::from(place > 1_000))
                ),
            }
        }
        assert_eq!(meta.image().topics.len(), 2_000);
    });
}

#[test]
fn a_failed_sync_stops_metadata_and_acknowledges_nothing() {
    let sim = Sim::new(3, SimOptions::default());
    let disk = sim.disk(NODE);
    sim.run_on(NODE, async move {
        let (_journal, meta) = start(Rc::new(|_| {})).await.unwrap();
        disk.fail(FaultOn::Sync, DIR, 1);
        let created = meta.create_topics(vec![topic("t", 1)], false).await;
        assert!(matches!(created[0], Err(TopicError::Unavailable(_))), "{created:?}");
        assert!(!meta.image().names.contains_key("t"));
        assert!(matches!(meta.allocate_producer_ids(1).await, Err(MetaError::Stopped(_))));
    });
}

#[test]
fn metadata_moves_to_another_journal() {
    let sim = Sim::new(4, SimOptions::default());
    let image = sim.run_on(NODE, async {
        let (journal, meta) = start(Rc::new(|_| {})).await.unwrap();
        meta.create_topics(vec![topic("kept", 3)], false).await.remove(0).unwrap();
        meta.stop().await;
        let image = meta.image();
        journal.close().await.unwrap();
        image
    });
    let other = || JournalOptions { dir: PathBuf::from("/data/other"), ..journal_options() };
    sim.run_on(NODE, async move {
        let mut recovery = MetaRecovery::default();
        let (old, _) =
            Journal::open(journal_options(), |lsn, entry| recovery.replay(lsn, &entry)).await.unwrap();
        let (journal, _) = Journal::open(other(), |_, _| {}).await.unwrap();
        let meta = Meta::start(options(), recovery, journal.clone(), Rc::new(|_| {})).await.unwrap();
        meta.rewrite().await.unwrap();
        old.close().await.unwrap();
    });
    let later = sim.run_on(NODE, async move {
        let mut recovery = MetaRecovery::default();
        let (journal, _) = Journal::open(other(), |lsn, entry| recovery.replay(lsn, &entry)).await.unwrap();
        Meta::start(options(), recovery, journal, Rc::new(|_| {})).await.unwrap().image()
    });
    assert_eq!((&later.names, &later.cluster_id), (&image.names, &image.cluster_id));
    assert_eq!(later.nodes[&NodeId(1)].incarnation, 3);
}

#[test]
fn a_hole_or_garbage_in_the_log_is_an_error_and_not_a_loss() {
    let sim = Sim::new(5, SimOptions::default());
    let replay = |spoil: fn(usize, Entry) -> Option<Entry>| {
        sim.run_on(NODE, async move {
            let (mut recovery, mut count) = (MetaRecovery::default(), 0);
            let opened = Journal::open(journal_options(), |lsn, entry| {
                if entry.kind == EntryKind::RaftEntry {
                    count += 1;
                    if let Some(entry) = spoil(count, entry) {
                        recovery.replay(lsn, &entry);
                    }
                } else {
                    recovery.replay(lsn, &entry);
                }
            });
            let (journal, _) = opened.await.unwrap();
            let started = Meta::start(options(), recovery, journal, Rc::new(|_| {})).await;
            started.err().map(|error| error.to_string())
        })
    };
    assert_eq!(replay(|_, entry| Some(entry)), None);
    let hole = replay(|count, entry| (count != 2).then_some(entry)).unwrap();
    assert!(hole.contains("hole"), "{hole}");
    let garbage = replay(|count, entry| {
        let payload = if count == 2 { Bytes::from_static(&[9, 9]) } else { entry.payload.clone() };
        Some(Entry { payload, ..entry })
    });
    assert!(garbage.clone().unwrap().contains("format version 9"), "{garbage:?}");
    assert_eq!(replay(|_, entry| Some(entry)), None);
}
