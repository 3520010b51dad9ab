//! Committed offsets, rule by rule.

use std::sync::Arc;

use corelog_protocol::ErrorCode;

use super::harness::{World, subscription, text};
use crate::group::GroupConfig;
use crate::group::api::{
    Commit, CommitPartition, DeleteOffsets, DeleteOffsetsReply, FetchOffsets, FetchedOffset, JoinGroup,
    LeaveGroup, LeavingMember, Protocol, Reply, Request, SyncGroup,
};

const RETENTION_MS: i64 = 3_600_000;

fn world() -> World {
    let config = GroupConfig { offsets_retention_ms: RETENTION_MS, ..GroupConfig::default() };
    World::new(config, 1)
}

fn commit(topic: &str, offset: i64) -> Commit {
    let partition = CommitPartition { partition: 3, offset, leader_epoch: 5, metadata: text("note") };
    Commit {
        group: text("g"),
        member_id: text(""),
        instance_id: None,
        generation: -1,
        knows_epochs: true,
        retention_ms: None,
        topics: vec![(text(topic), vec![partition])],
    }
}

impl World {
    fn commit(&mut self, request: Commit) -> ErrorCode {
        match self.ask("c", Request::Commit(request)) {
            Reply::Commit(outcomes) => outcomes[0].1[0].1,
            other => panic!("{other:?}"),
        }
    }

    fn fetch(&mut self, topics: Option<Vec<(Arc<str>, Vec<i32>)>>) -> Vec<(Arc<str>, Vec<FetchedOffset>)> {
        let request = FetchOffsets { group: text("g"), member: None, require_stable: false, topics };
        match self.ask("c", Request::FetchOffsets(request)) {
            Reply::FetchOffsets(reply) => {
                assert_eq!(reply.error, ErrorCode::None);
                reply.topics
            }
            other => panic!("{other:?}"),
        }
    }

    fn offset(&mut self, topic: &str) -> i64 {
        self.fetch(Some(vec![(text(topic), vec![3])]))[0].1[0].offset
    }

    fn delete(&mut self, topic: &str) -> Result<ErrorCode, ErrorCode> {
        let request = DeleteOffsets { group: text("g"), topics: vec![(text(topic), vec![3, 4])] };
        match self.ask("c", Request::DeleteOffsets(request)) {
            Reply::DeleteOffsets(reply) if reply.error == ErrorCode::None => Ok(reply.topics[0].1[0].1),
            Reply::DeleteOffsets(reply) => Err(reply.error),
            other => panic!("{other:?}"),
        }
    }

    /// A stable group of one member.
    fn member(&mut self, protocol_type: &str) -> Arc<str> {
        let call = self.send(
            "c",
            Request::Join(JoinGroup {
                group: text("g"),
                member_id: text(""),
                instance_id: None,
                protocol_type: text(protocol_type),
                protocols: vec![Protocol { name: text("range"), metadata: subscription(&["t"]) }],
                session_timeout_ms: 1_800_000,
                rebalance_timeout_ms: 1_800_000,
                member_id_required: false,
                can_skip_assignment: false,
            }),
        );
        self.pass(3_000);
        let Some(Reply::Join(reply)) = self.replies.remove(&call) else { panic!("not joined") };
        let sync = SyncGroup {
            group: text("g"),
            generation: reply.generation,
            member_id: reply.member_id.clone(),
            instance_id: None,
            protocol_type: None,
            protocol: None,
            assignments: Vec::new(),
        };
        let early = Commit { member_id: reply.member_id.clone(), generation: 1, ..commit("t", 1) };
        assert_eq!(self.commit(early), ErrorCode::RebalanceInProgress, "the leader has not assigned yet");
        self.ask("c", Request::Sync(sync));
        reply.member_id
    }
}

#[test]
fn a_consumer_in_no_group_commits_fetches_and_deletes() {
    let mut world = world();
    assert_eq!(world.offset("t"), -1);
    assert_eq!(world.commit(commit("t", 7)), ErrorCode::None);
    assert_eq!(world.commit(commit("u", 8)), ErrorCode::None);
    let topics = world.fetch(None);
    assert_eq!(topics.len(), 2);
    let expected = FetchedOffset {
        partition: 3,
        offset: 7,
        leader_epoch: 5,
        metadata: text("note"),
        error: ErrorCode::None,
    };
    assert_eq!(topics[0], (text("t"), vec![expected]));
    world.check_replay();
    world.restart();
    assert_eq!((world.offset("t"), world.offset("u")), (7, 8));
    assert_eq!(world.delete("t"), Ok(ErrorCode::None));
    assert_eq!(world.offset("t"), -1);
    assert_eq!(world.ask("c", Request::Delete { group: text("g") }), Reply::Delete(ErrorCode::None));
    assert_eq!(world.offset("u"), -1);
    world.check_replay();
    assert_eq!(world.delete("u"), Err(ErrorCode::GroupIdNotFound));
    let nobody = DeleteOffsets { group: text(""), topics: Vec::new() };
    let reply = world.ask("c", Request::DeleteOffsets(nobody));
    let refused = DeleteOffsetsReply { error: ErrorCode::InvalidGroupId, topics: Vec::new() };
    assert_eq!(reply, Reply::DeleteOffsets(refused));
}

#[test]
fn who_may_commit() {
    let mut world = world();
    let of =
        |member_id: &str, generation| Commit { member_id: text(member_id), generation, ..commit("t", 1) };
    assert_eq!(world.commit(of("m", 1)), ErrorCode::GroupIdNotFound);
    assert_eq!(world.commit(Commit { knows_epochs: false, ..of("m", 1) }), ErrorCode::IllegalGeneration);
    assert_eq!(world.coordinator.group_count(), 0);
    let member_id = world.member("consumer");
    assert_eq!(world.commit(of(&member_id, 1)), ErrorCode::None);
    assert_eq!(world.commit(of(&member_id, 0)), ErrorCode::IllegalGeneration);
    assert_eq!(world.commit(of(&member_id, -1)), ErrorCode::IllegalGeneration);
    assert_eq!(world.commit(of("other", 1)), ErrorCode::UnknownMemberId);
    assert_eq!(world.commit(of("", -1)), ErrorCode::UnknownMemberId, "the group has members");
    let instance = Commit { instance_id: Some(text("i")), ..of(&member_id, 1) };
    assert_eq!(world.commit(instance), ErrorCode::UnknownMemberId);
    assert_eq!(world.offset("t"), 1);
}

#[test]
fn metadata_has_a_limit() {
    let mut world = world();
    let mut request = commit("t", 1);
    request.topics[0].1[0].metadata = text(&"x".repeat(4_097));
    assert_eq!(world.commit(request.clone()), ErrorCode::OffsetMetadataTooLarge);
    assert_eq!(world.coordinator.group_count(), 0);
    request.topics[0].1[0].metadata = text(&"x".repeat(4_096));
    assert_eq!(world.commit(request.clone()), ErrorCode::None);
    // It counts what Java counts: one for most letters, two for those beyond.
    request.topics[0].1[0].metadata = text(&"\u{4e2d}".repeat(4_096));
    assert_eq!(world.commit(request.clone()), ErrorCode::None);
    request.topics[0].1[0].metadata = text(&"\u{1f600}".repeat(2_049));
    assert_eq!(world.commit(request.clone()), ErrorCode::OffsetMetadataTooLarge);
    let mut lavish =
        World::new(GroupConfig { offset_metadata_max_bytes: 1 << 20, ..GroupConfig::default() }, 1);
    request.topics[0].1[0].metadata = text(&"x".repeat(32_768));
    assert_eq!(lavish.commit(request), ErrorCode::OffsetMetadataTooLarge, "a record has no room for it");
}

#[test]
fn offsets_of_topics_that_are_consumed_cannot_be_deleted() {
    let mut world = world();
    world.commit(commit("u", 1));
    world.member("consumer");
    assert_eq!(world.delete("t"), Ok(ErrorCode::GroupSubscribedToTopic));
    assert_eq!(world.delete("u"), Ok(ErrorCode::None));
    assert_eq!(world.offset("u"), -1);
    let mut other = self::world();
    other.commit(commit("u", 1));
    other.member("connect");
    assert_eq!(other.delete("u"), Err(ErrorCode::NonEmptyGroup));
}

#[test]
fn offsets_expire_after_their_retention_and_take_the_group_along() {
    let mut world = world();
    world.commit(commit("t", 1));
    world.pass(RETENTION_MS as u64 - 1);
    assert_eq!(world.offset("t"), 1);
    world.commit(commit("u", 2));
    world.pass(600_000);
    assert_eq!((world.offset("t"), world.offset("u")), (-1, 2));
    world.pass(RETENTION_MS as u64);
    assert_eq!(world.coordinator.group_count(), 0);
    world.check_replay();
}

#[test]
fn a_group_keeps_the_offsets_of_what_it_consumes_and_the_rest_from_when_it_is_empty() {
    let mut world = world();
    let member_id = world.member("consumer");
    let of_member =
        |topic, offset| Commit { member_id: member_id.clone(), generation: 1, ..commit(topic, offset) };
    assert_eq!(world.commit(of_member("t", 1)), ErrorCode::None);
    assert_eq!(world.commit(of_member("u", 2)), ErrorCode::None);
    for _ in 0..8 {
        world.pass(RETENTION_MS as u64 / 4);
        let heartbeat = crate::group::api::Heartbeat {
            group: text("g"),
            generation: 1,
            member_id: member_id.clone(),
            instance_id: None,
        };
        assert_eq!(world.ask("c", Request::Heartbeat(heartbeat)), Reply::Heartbeat(ErrorCode::None));
    }
    assert_eq!((world.offset("t"), world.offset("u")), (1, -1), "only `t` is subscribed to");
    let members = vec![LeavingMember { member_id, instance_id: None }];
    world.ask("c", Request::Leave(LeaveGroup { group: text("g"), members }));
    world.restart();
    world.pass(RETENTION_MS as u64 - 600_000);
    assert_eq!(world.offset("t"), 1, "it counts from when the group became empty");
    world.pass(1_200_000);
    assert_eq!(world.coordinator.group_count(), 0);
    world.check_replay();
}

#[test]
fn a_commit_may_have_a_retention_of_its_own() {
    let mut world = world();
    world.commit(Commit { retention_ms: Some(10), ..commit("t", 1) });
    world.commit(commit("u", 2));
    world.restart();
    world.pass(600_000);
    assert_eq!((world.offset("t"), world.offset("u")), (-1, 2));
}

#[test]
fn a_deleted_topic_takes_its_offsets_along() {
    let mut world = world();
    world.commit(commit("t", 1));
    world.commit(commit("u", 2));
    let effects = world.coordinator.topics_deleted(&[text("t")]);
    assert!(effects.separable);
    world.take(effects);
    assert_eq!((world.offset("t"), world.offset("u")), (-1, 2));
    world.check_replay();
}

#[test]
fn many_expired_offsets_go_in_several_events() {
    let mut world = world();
    for group in 0..40 {
        let partitions = (0..100).map(|partition| CommitPartition {
            partition,
            offset: 1,
            leader_epoch: -1,
            metadata: text(""),
        });
        let topics = vec![(text("t"), partitions.collect())];
        let group = text(&format!("g{group}"));
        assert_eq!(world.commit(Commit { group, topics, ..commit("t", 1) }), ErrorCode::None);
    }
    let events = world.ends.len();
    world.pass(RETENTION_MS as u64 + 600_000);
    assert_eq!(world.coordinator.group_count(), 0);
    assert_eq!(world.ends.len() - events, 4);
    world.check_replay();
}

#[test]
fn offsets_of_a_topic_that_was_deleted_while_nobody_looked_are_gone_after_a_load() {
    let mut world = world();
    world.commit(commit("t", 1));
    world.commit(commit("u", 2));
    world.topics.remove("t");
    let before = world.log.len();
    world.restart();
    assert_eq!(world.commits(before), [((text("t"), 3), None)]);
    world.topics.set("t", 12);
    assert_eq!((world.offset("t"), world.offset("u")), (-1, 2));
    world.check_replay();
}

#[test]
fn a_commit_that_would_not_fit_into_an_event_is_cut() {
    let mut world = world();
    let partitions = (0..10_000).map(|partition| CommitPartition {
        partition,
        offset: 1,
        leader_epoch: -1,
        metadata: text(&"x".repeat(4_000)),
    });
    let request = Commit { topics: vec![(text("t"), partitions.collect())], ..commit("t", 1) };
    let outcomes = match world.ask("c", Request::Commit(request)) {
        Reply::Commit(mut outcomes) => outcomes.remove(0).1,
        other => panic!("{other:?}"),
    };
    let refused = outcomes.iter().filter(|(_, error)| *error == ErrorCode::InvalidCommitOffsetSize).count();
    assert!((9_000..9_700).contains(&refused), "{refused}");
    let bytes: usize = world.log.iter().map(|(key, value)| key.len() + value.as_ref().unwrap().len()).sum();
    assert!(bytes <= crate::group::EVENT_BYTES_MAX);
}
