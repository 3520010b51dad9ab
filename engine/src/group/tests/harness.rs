//! A coordinator with a log and topics around it, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use corelog_protocol::offsets_topic::Record;
use uuid::Uuid;

use crate::group::api::{Client, Reply, Request};
use crate::group::coordinator::Coordinator;
use crate::group::{Call, Effects, GroupConfig, Now, TopicView, Topics};
use crate::types::TopicId;

pub(crate) fn text(value: &str) -> Arc<str> {
    Arc::from(value)
}

/// splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Default)]
pub(crate) struct TestTopics {
    pub(crate) version: u64,
    topics: BTreeMap<String, TopicView>,
}

impl TestTopics {
    pub(crate) fn set(&mut self, name: &str, partitions: i32) {
        self.version += 1;
        let id = TopicId(Uuid::from_u128(self.topics.len() as u128 + 1));
        let topic = self.topics.entry(name.to_owned()).or_insert(TopicView { id, partitions });
        topic.partitions = partitions;
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.version += 1;
        self.topics.remove(name);
    }
}

impl Topics for TestTopics {
    fn version(&self) -> u64 {
        self.version
    }

    fn named(&self, name: &str) -> Option<TopicView> {
        self.topics.get(name).copied()
    }

    fn name_of(&self, id: TopicId) -> Option<&str> {
        self.topics.iter().find(|(_, topic)| topic.id == id).map(|(name, _)| name.as_str())
    }

    fn each_name(&self, found: &mut dyn FnMut(&str)) {
        for name in self.topics.keys() {
            found(name);
        }
    }
}

type Entry = (Bytes, Option<Bytes>);

/// A partition by its topic's name.
pub(crate) type Slot = (Arc<str>, i32);

/// One coordinator, its log, and the time. Time of day and clock start apart.
pub(crate) struct World {
    pub(crate) coordinator: Coordinator,
    pub(crate) config: GroupConfig,
    pub(crate) topics: TestTopics,
    pub(crate) clock_ms: u64,
    pub(crate) log: Vec<Entry>,
    /// Where in the log each event's batch ends.
    pub(crate) ends: Vec<usize>,
    pub(crate) replies: BTreeMap<Call, Reply>,
    calls: u64,
    random: Random,
}

impl World {
    pub(crate) fn new(config: GroupConfig, seed: u64) -> Self {
        let mut topics = TestTopics::default();
        topics.set("t", 12);
        topics.set("u", 7);
        let mut coordinator = Coordinator::new(config.clone());
        let mut world = Self {
            coordinator: Coordinator::new(config.clone()),
            config,
            topics,
            clock_ms: 1_000_000,
            log: Vec::new(),
            ends: Vec::new(),
            replies: BTreeMap::new(),
            calls: 0,
            random: Random(seed),
        };
        let effects = coordinator.loaded(world.now(), &world.topics);
        assert!(effects.records.is_empty(), "nothing was there");
        world.coordinator = coordinator;
        world
    }

    pub(crate) fn now(&self) -> Now {
        Now { clock_ms: self.clock_ms, wall_ms: self.clock_ms as i64 + 1_700_000_000_000 }
    }

    pub(crate) fn client(&mut self, id: &str) -> Client {
        let fresh = (u128::from(self.random.next()) << 64) | u128::from(self.random.next());
        Client { id: text(id), host: text("/127.0.0.1"), fresh_id: Uuid::from_u128(fresh) }
    }

    /// Sends a request; its reply, now or later, is in [`World::replies`].
    pub(crate) fn send(&mut self, client: &str, request: Request) -> Call {
        self.calls += 1;
        let (call, client, now) = (Call(self.calls), self.client(client), self.now());
        let effects = self.coordinator.handle(now, &self.topics, call, &client, request);
        self.take(effects);
        call
    }

    /// Sends a request that is answered at once.
    pub(crate) fn ask(&mut self, client: &str, request: Request) -> Reply {
        let call = self.send(client, request);
        self.replies.remove(&call).expect("an answer at once")
    }

    pub(crate) fn take(&mut self, effects: Effects) {
        for record in &effects.records {
            self.log.push((record.key(), record.value()));
        }
        if !effects.records.is_empty() {
            self.ends.push(self.log.len());
        }
        for (call, reply) in effects.replies {
            assert_eq!(self.replies.insert(call, reply), None, "{call:?} was answered twice");
        }
    }

    /// Lets time pass, and what is due in it happen.
    pub(crate) fn pass(&mut self, ms: u64) {
        let until_ms = self.clock_ms + ms;
        while let Some(at_ms) = self.coordinator.next_deadline_ms().filter(|at_ms| *at_ms <= until_ms) {
            self.clock_ms = self.clock_ms.max(at_ms);
            let effects = self.coordinator.tick(self.now(), &self.topics).expect("it is due");
            self.take(effects);
        }
        self.clock_ms = until_ms;
    }

    /// A new coordinator with what is in the log.
    pub(crate) fn load(&self, entries: &[Entry]) -> (Coordinator, Effects) {
        let mut coordinator = Coordinator::new(self.config.clone());
        for (key, value) in entries {
            coordinator.load(key, value.as_deref()).expect("we wrote it");
        }
        let effects = coordinator.loaded(self.now(), &self.topics);
        (coordinator, effects)
    }

    pub(crate) fn restart(&mut self) {
        let effects;
        (self.coordinator, effects) = self.load(&self.log);
        self.take(effects);
    }

    /// What the log comes to when it is compacted: each key's last value, in the order of the log, and
    /// some of the tombstones, which go at different times.
    fn compacted(&self) -> Vec<Entry> {
        let mut random = Random(self.log.len() as u64);
        let mut last = BTreeMap::new();
        for (place, (key, _)) in self.log.iter().enumerate() {
            last.insert(key.clone(), place);
        }
        let kept =
            self.log.iter().enumerate().filter(|(place, (key, value))| {
                last[key] == *place && (value.is_some() || random.chance(50))
            });
        kept.map(|(_, entry)| entry.clone()).collect()
    }

    /// Replaying what was emitted gives the same groups, also when the log was compacted.
    pub(crate) fn check_replay(&self) {
        let live = self.coordinator.snapshot(None);
        let transient = self.coordinator.rebalancing();
        for entries in [&self.log, &self.compacted()] {
            let replayed = self.load(entries).0.snapshot(Some(&transient));
            if live != replayed {
                let missing = live.iter().filter(|record| !replayed.contains(record));
                let added = replayed.iter().filter(|record| !live.contains(record));
                panic!(
                    "a replay differs: missing {:#?}, added {:#?}",
                    missing.collect::<Vec<_>>(),
                    added.collect::<Vec<_>>()
                );
            }
        }
    }

    /// The offsets that entries of the log commit, in order; `None` is a tombstone.
    pub(crate) fn commits(&self, from: usize) -> Vec<(Slot, Option<i64>)> {
        let commits = self.log[from..].iter().filter_map(|(key, value)| {
            match Record::decode(key, value.as_deref()).expect("we wrote it") {
                Some(Record::Offset { topic, partition, value, .. }) => {
                    Some(((topic, partition), value.map(|value| value.offset)))
                }
                _ => None,
            }
        });
        commits.collect()
    }
}

/// A classic consumer's subscription, version 1, to which it says that it owns nothing.
pub(crate) fn subscription(topics: &[&str]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(1);
    out.put_i32(topics.len() as i32);
    for topic in topics {
        out.put_i16(topic.len() as i16);
        out.put_slice(topic.as_bytes());
    }
    out.put_i32(-1);
    out.put_i32(0);
    out.freeze()
}
