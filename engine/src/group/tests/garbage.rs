//! Requests in any order, of both protocols, with ids, epochs and generations that are right, wrong or
//! somebody else's: a coordinator never panics, answers every call once, and a replay gives the same
//! groups.

use std::env;
use std::sync::Arc;

use bytes::Bytes;
use corelog_protocol::ErrorCode;
use corelog_protocol::offsets_topic::{STRING_BYTES_MAX, encode_assignment};

use super::harness::{Random, World, subscription, text};
use crate::group::api::{
    Commit, CommitPartition, ConsumerHeartbeat, DeleteOffsets, FetchOffsets, Heartbeat, JoinGroup,
    LeaveGroup, LeavingMember, ListGroups, Partitions, Protocol, Reply, Request, SyncGroup,
};
use crate::group::{GroupConfig, Topics};

struct Garbage {
    world: World,
    random: Random,
    /// Ids that clients made up or were given.
    ids: Vec<Arc<str>>,
    sent: u64,
    answered: u64,
}

impl Garbage {
    fn new(seed: u64) -> Self {
        let config = GroupConfig {
            min_session_timeout_ms: 0,
            max_size: 4,
            consumer_max_size: 4,
            offsets_retention_ms: 700_000,
            ..GroupConfig::default()
        };
        let long = "m".repeat(STRING_BYTES_MAX);
        let ids = ["", "a", "b", long.as_str()].map(text).to_vec();
        Self { world: World::new(config, seed), random: Random(seed), ids, sent: 0, answered: 0 }
    }

    fn id(&mut self) -> Arc<str> {
        let place = self.random.below(self.ids.len() as u64) as usize;
        self.ids[place].clone()
    }

    fn instance(&mut self) -> Option<Arc<str>> {
        ["i", "j", "k"].get(self.random.below(8) as usize).map(|name| text(name))
    }

    fn group(&mut self) -> Arc<str> {
        match self.random.below(40) {
            // As long as a request can bring, and longer.
            0 => text(&"g".repeat(STRING_BYTES_MAX)),
            1 => text(&"g".repeat(STRING_BYTES_MAX + 1)),
            place => text(["g", "g", "g", "h", ""][place as usize % 5]),
        }
    }

    fn metadata(&mut self) -> Bytes {
        match self.random.below(10) {
            0 => Bytes::from_static(b"\0"),
            1 => subscription(&["u"]),
            2 => subscription(&["t", "u", "nothing"]),
            _ => subscription(&["t"]),
        }
    }

    fn join(&mut self) -> JoinGroup {
        let count = if self.random.chance(2) { 101 } else { self.random.below(3) };
        let protocols = (0..count).map(|place| Protocol {
            name: text(["range", "sticky", "own"][((place + self.random.below(2)) % 3) as usize]),
            metadata: self.metadata(),
        });
        let protocols = protocols.collect();
        JoinGroup {
            group: self.group(),
            member_id: self.id(),
            instance_id: self.instance(),
            protocol_type: text(if self.random.chance(95) { "consumer" } else { "connect" }),
            protocols,
            session_timeout_ms: self.random.below(20_000) as i32 - 10,
            rebalance_timeout_ms: self.random.below(20_000) as i32 - 10,
            member_id_required: self.random.chance(30),
            can_skip_assignment: self.random.chance(50),
        }
    }

    fn sync(&mut self) -> SyncGroup {
        let count = self.random.below(4);
        let assignments = (0..count).map(|_| {
            let bytes = encode_assignment(1, &[(text("t"), vec![self.random.below(20) as i32, 3])]);
            (self.id(), if self.random.chance(90) { bytes } else { Bytes::from_static(b"??") })
        });
        let assignments = assignments.collect();
        SyncGroup {
            group: self.group(),
            generation: self.random.below(8) as i32,
            member_id: self.id(),
            instance_id: self.instance(),
            protocol_type: None,
            protocol: self.random.chance(20).then(|| text("range")),
            assignments,
        }
    }

    fn consumer_heartbeat(&mut self) -> ConsumerHeartbeat {
        let joins = self.random.chance(40);
        let mut owned: Vec<Partitions> = Vec::new();
        for topic in ["t", "u"] {
            let partition = self.random.below(12) as i32;
            if self.random.chance(40) {
                owned.push((self.world.topics.named(topic).unwrap().id, vec![partition, partition + 1]));
            }
        }
        let regex = ["t", "[tu]", "", "(", ".*"].get(self.random.below(20) as usize).map(|name| text(name));
        ConsumerHeartbeat {
            group: self.group(),
            member_id: self.id(),
            must_bring_member_id: self.random.chance(50),
            member_epoch: if joins { 0 } else { self.random.below(12) as i32 - 3 },
            instance_id: self.instance(),
            rack_id: None,
            rebalance_timeout_ms: (joins || self.random.chance(10)).then_some(5_000),
            topics: (joins || self.random.chance(20))
                .then(|| [text("t"), text("u")][..=self.random.below(2) as usize].to_vec()),
            regex,
            assignor: ["uniform", "range", "mine"].get(self.random.below(12) as usize).map(|name| text(name)),
            owned: if joins { Some(Vec::new()) } else { self.random.chance(70).then_some(owned) },
        }
    }

    fn commit(&mut self) -> Commit {
        let partition = CommitPartition {
            partition: self.random.below(3) as i32,
            offset: self.random.next() as i64,
            leader_epoch: -1,
            metadata: text(""),
        };
        Commit {
            group: self.group(),
            member_id: self.id(),
            instance_id: self.instance(),
            generation: self.random.below(8) as i32 - 1,
            knows_epochs: self.random.chance(50),
            retention_ms: self.random.chance(20).then_some(1_000),
            topics: vec![(text("t"), vec![partition])],
        }
    }

    fn request(&mut self) -> Request {
        match self.random.below(20) {
            0..4 => Request::Join(self.join()),
            4..6 => Request::Sync(self.sync()),
            6 => Request::Heartbeat(Heartbeat {
                group: self.group(),
                generation: self.random.below(8) as i32,
                member_id: self.id(),
                instance_id: self.instance(),
            }),
            7 => {
                let count = self.random.below(4);
                let members =
                    (0..count).map(|_| LeavingMember { member_id: self.id(), instance_id: self.instance() });
                let members = members.collect();
                Request::Leave(LeaveGroup { group: self.group(), members })
            }
            8..14 => Request::ConsumerHeartbeat(self.consumer_heartbeat()),
            14 | 15 => Request::Commit(self.commit()),
            16 => Request::FetchOffsets(FetchOffsets {
                group: self.group(),
                member: self.random.chance(50).then(|| (self.id(), 1)),
                require_stable: true,
                topics: None,
            }),
            17 => Request::DeleteOffsets(DeleteOffsets {
                group: self.group(),
                topics: vec![(text("t"), vec![0, 1]), (text("u"), vec![0])],
            }),
            18 => match self.random.below(3) {
                0 => Request::List(ListGroups::default()),
                1 => Request::Describe { group: self.group(), not_found_is_error: true },
                _ => Request::ConsumerDescribe { group: self.group() },
            },
            _ => Request::Delete { group: self.group() },
        }
    }

    fn step(&mut self) {
        let request = self.request();
        let client = if self.random.chance(5) { "c".repeat(STRING_BYTES_MAX) } else { "c".to_owned() };
        self.world.send(&client, request);
        self.sent += 1;
        match self.random.below(40) {
            0 => self.world.topics.set("t", 12 + self.random.below(3) as i32),
            1 => {
                let effects = self.world.coordinator.topics_deleted(&[text("u")]);
                self.world.take(effects);
            }
            2 => self.world.pass(self.random.below(1_000_000)),
            3..20 => self.world.pass(self.random.below(4_000)),
            _ => {}
        }
        for reply in std::mem::take(&mut self.world.replies).into_values() {
            self.answered += 1;
            let given = match reply {
                Reply::Join(reply) => Some(reply.member_id),
                Reply::ConsumerHeartbeat(reply) => reply.member_id,
                _ => None,
            };
            if let Some(given) = given.filter(|given| !self.ids.contains(given)) {
                if self.ids.len() > 8 {
                    self.ids.remove(4);
                }
                self.ids.push(given);
            }
        }
    }
}

#[test]
fn nothing_that_clients_send_breaks_a_coordinator() {
    let count = env::var("CORELOG_GROUP_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(150);
    for seed in 0..count {
        let mut garbage = Garbage::new(seed);
        for step in 0..200 {
            garbage.step();
            if step % 20 == 0 {
                garbage.world.check_replay();
            }
        }
        // Whatever waits is answered when the coordinator goes.
        let Garbage { world, sent, answered, .. } = garbage;
        let waiting = world.coordinator.abandon(ErrorCode::NotCoordinator).len() as u64;
        assert_eq!(answered + waiting, sent, "seed {seed}");
    }
}
