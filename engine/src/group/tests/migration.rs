//! Groups that change from one protocol to the other, with and without members.

use corelog_protocol::ErrorCode;
use corelog_protocol::offsets_topic::{decode_assignment, encode_assignment};

use super::consumer::{count, going_on, joining};
use super::harness::{World, subscription, text};
use crate::group::api::{
    Commit, CommitPartition, ConsumerHeartbeat, Heartbeat, JoinGroup, JoinReply, LeaveGroup, LeavingMember,
    Protocol, Refused, Reply, Request, SyncGroup, SyncReply,
};
use crate::group::{GroupConfig, MigrationPolicy};

fn join(member_id: &str) -> JoinGroup {
    JoinGroup {
        group: text("g"),
        member_id: text(member_id),
        instance_id: None,
        protocol_type: text("consumer"),
        protocols: vec![Protocol { name: text("range"), metadata: subscription(&["t"]) }],
        session_timeout_ms: 45_000,
        rebalance_timeout_ms: 60_000,
        member_id_required: false,
        can_skip_assignment: true,
    }
}

fn world(migration: MigrationPolicy) -> World {
    World::new(GroupConfig { migration, ..GroupConfig::default() }, 1)
}

impl World {
    fn classic_join(&mut self, request: JoinGroup) -> JoinReply {
        let call = self.send("c", Request::Join(request));
        self.pass(3_000);
        match self.replies.remove(&call) {
            Some(Reply::Join(reply)) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn classic_sync(&mut self, joined: &JoinReply, assignment: &[i32]) -> SyncReply {
        let bytes =
            corelog_protocol::offsets_topic::encode_assignment(1, &[(text("t"), assignment.to_vec())]);
        let request = SyncGroup {
            group: text("g"),
            generation: joined.generation,
            member_id: joined.member_id.clone(),
            instance_id: None,
            protocol_type: Some(text("consumer")),
            protocol: Some(text("range")),
            assignments: vec![(joined.member_id.clone(), bytes)],
        };
        match self.ask("c", Request::Sync(request)) {
            Reply::Sync(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn classic_beat(&mut self, joined: &JoinReply) -> ErrorCode {
        let request = Heartbeat {
            group: text("g"),
            generation: joined.generation,
            member_id: joined.member_id.clone(),
            instance_id: None,
        };
        match self.ask("c", Request::Heartbeat(request)) {
            Reply::Heartbeat(error) => error,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn empty_groups_change_freely() {
    let mut world = world(MigrationPolicy::Disabled);
    let joined = world.classic_join(join(""));
    let members = vec![LeavingMember { member_id: joined.member_id, instance_id: None }];
    world.ask("c", Request::Leave(LeaveGroup { group: text("g"), members }));
    world.check_replay();
    assert_eq!(world.heartbeat(joining("a")).error, ErrorCode::None);
    world.check_replay();
    assert_eq!(world.classic_join(join("someone")).error, ErrorCode::None, "it joins a consumer group");
    world.heartbeat(going_on("a", -1));
    world.pass(60_000);
    assert_eq!(world.described().state, "Empty");
    assert_eq!(world.classic_join(join("someone")).error, ErrorCode::UnknownMemberId);
    let joined = world.classic_join(join(""));
    assert_eq!((joined.error, joined.generation), (ErrorCode::None, 1));
    assert_eq!(world.classic_sync(&joined, &[0]).error, ErrorCode::None);
    world.check_replay();
}

#[test]
fn a_group_with_members_is_upgraded_and_downgraded_and_nobody_loses_its_offsets() {
    let mut world = world(MigrationPolicy::Bidirectional);
    let all: Vec<i32> = (0..12).collect();
    let joined = world.classic_join(join(""));
    world.classic_sync(&joined, &all);

    let new = world.heartbeat(joining("new"));
    assert_eq!((new.error, new.member_epoch, count(&new)), (ErrorCode::None, 2, Some(0)));
    world.check_replay();
    assert_eq!(world.classic_beat(&joined), ErrorCode::RebalanceInProgress);
    // Having joined again, it has given up everything (it is eager), and gets its half.
    let again = world.classic_join(join(&joined.member_id));
    assert_eq!((again.error, again.generation), (ErrorCode::None, 2));
    let synced = world.classic_sync(&again, &[]);
    let assigned = decode_assignment(&synced.assignment).unwrap();
    assert_eq!((synced.error, assigned[0].1.len()), (ErrorCode::None, 6));
    assert_eq!(world.classic_beat(&again), ErrorCode::None);
    assert_eq!(count(&world.heartbeat(going_on("new", 2))), Some(6));
    let described = world.described();
    assert_eq!(described.state, "Stable");
    assert_eq!(described.members.iter().filter(|member| member.is_classic).count(), 1);
    world.check_replay();

    world.heartbeat(going_on("new", -1));
    world.check_replay();
    assert_eq!(world.classic_beat(&again), ErrorCode::RebalanceInProgress, "nobody is thrown out");
    let partition = CommitPartition { partition: 0, offset: 9, leader_epoch: -1, metadata: text("") };
    let commit = Request::Commit(Commit {
        group: text("g"),
        member_id: again.member_id.clone(),
        instance_id: None,
        generation: again.generation,
        knows_epochs: false,
        retention_ms: None,
        topics: vec![(text("t"), vec![partition])],
    });
    let committed = Reply::Commit(vec![(text("t"), vec![(0, ErrorCode::None)])]);
    assert_eq!(world.ask("c", commit), committed, "what it has it may commit before it gives it up");
    let back = world.classic_join(join(&joined.member_id));
    assert_eq!((back.error, back.members.len()), (ErrorCode::None, 1), "it leads again");
    assert_eq!(world.classic_sync(&back, &all).error, ErrorCode::None);
    world.check_replay();
    let not_found = world.ask("c", Request::ConsumerDescribe { group: text("g") });
    let message = "Group g is not a consumer group.".to_owned();
    let refused = Refused { error: ErrorCode::GroupIdNotFound, message };
    assert_eq!(not_found, Reply::ConsumerDescribe(Err(refused)));
}

#[test]
fn a_group_with_members_is_not_upgraded_when_the_policy_or_its_type_forbids() {
    let mut disabled = world(MigrationPolicy::Downgrade);
    let joined = disabled.classic_join(join(""));
    disabled.classic_sync(&joined, &[0]);
    assert_eq!(disabled.heartbeat(joining("new")).error, ErrorCode::GroupIdNotFound);
    assert_eq!(disabled.classic_beat(&joined), ErrorCode::None);

    let mut world = world(MigrationPolicy::Bidirectional);
    let joined = world.classic_join(JoinGroup { protocol_type: text("connect"), ..join("") });
    assert_eq!(world.heartbeat(joining("new")).error, ErrorCode::GroupIdNotFound);
    let garbage = vec![Protocol { name: text("range"), metadata: bytes::Bytes::from_static(b"?") }];
    let members = vec![LeavingMember { member_id: joined.member_id, instance_id: None }];
    world.ask("c", Request::Leave(LeaveGroup { group: text("g"), members }));
    world.classic_join(JoinGroup { protocols: garbage, ..join("") });
    let before = world.log.len();
    assert_eq!(world.heartbeat(joining("new")).error, ErrorCode::GroupIdNotFound);
    assert_eq!(world.log.len(), before, "a refusal writes nothing");
}

#[test]
fn a_classic_member_that_is_told_to_join_again_and_does_not_is_removed() {
    let mut world = world(MigrationPolicy::Upgrade);
    world.heartbeat(joining("new"));
    let joined = world.classic_join(join(""));
    assert_eq!(world.classic_sync(&joined, &[]).error, ErrorCode::None);
    world.heartbeat(joining("newer"));
    for _ in 0..6 {
        assert_eq!(world.classic_beat(&joined), ErrorCode::RebalanceInProgress);
        for member in ["new", "newer"] {
            world.heartbeat(joining(member));
        }
        world.pass(10_000);
    }
    assert_eq!(world.classic_beat(&joined), ErrorCode::UnknownMemberId);
    assert_eq!(world.described().members.len(), 2);
    world.check_replay();
}

#[test]
fn a_refused_join_prolongs_nobodys_life() {
    let config = GroupConfig { consumer_max_size: 1, ..GroupConfig::default() };
    let mut world = World::new(config, 1);
    let joined = world.classic_join(join(""));
    world.classic_sync(&joined, &[0]);
    for _ in 0..4 {
        world.pass(10_000);
        assert_eq!(world.heartbeat(joining("new")).error, ErrorCode::GroupMaxSizeReached);
    }
    world.pass(6_000);
    assert_eq!(world.classic_beat(&joined), ErrorCode::UnknownMemberId);
}

#[test]
fn an_assignors_own_data_is_not_thrown_away() {
    let mut world = world(MigrationPolicy::Bidirectional);
    let joined = world.classic_join(join(""));
    let mut bytes = encode_assignment(1, &[(text("t"), vec![0])]).to_vec();
    bytes.truncate(bytes.len() - 4);
    bytes.extend([0, 0, 0, 1, 7]);
    let request = SyncGroup {
        group: text("g"),
        generation: joined.generation,
        member_id: joined.member_id.clone(),
        instance_id: None,
        protocol_type: None,
        protocol: None,
        assignments: vec![(joined.member_id.clone(), bytes.into())],
    };
    world.ask("c", Request::Sync(request));
    let before = world.log.len();
    let refused = world.heartbeat(joining("new"));
    assert_eq!(refused.error, ErrorCode::GroupIdNotFound);
    let message = "Cannot upgrade classic group g to consumer group because an unsupported custom assignor is in use. Please refer to the documentation or switch to a default assignor before re-attempting the upgrade.";
    assert_eq!(refused.message.as_deref(), Some(message));
    assert_eq!(world.log.len(), before);
    assert_eq!(world.classic_beat(&joined), ErrorCode::None);
}

#[test]
fn a_sync_must_name_the_assignor_that_the_join_was_answered_with() {
    let mut world = world(MigrationPolicy::Bidirectional);
    world.heartbeat(joining("new"));
    let mut request = join("");
    request.protocols.insert(0, Protocol { name: text("sticky"), metadata: subscription(&["t"]) });
    let joined = world.classic_join(request);
    assert_eq!(joined.protocol.as_deref(), Some("sticky"));
    assert_eq!(world.classic_sync(&joined, &[]).error, ErrorCode::InconsistentGroupProtocol, "it says range");
}

#[test]
fn a_group_that_a_replaced_static_member_downgrades_rebalances_unless_all_is_settled() {
    let of = |request| ConsumerHeartbeat { instance_id: Some(text("i")), ..request };
    let replacing = |topics: &[&str]| JoinGroup {
        instance_id: Some(text("i")),
        protocols: vec![Protocol { name: text("range"), metadata: subscription(topics) }],
        ..join("")
    };
    for (topics, settled) in [(["t"], true), (["u"], false)] {
        let mut world = world(MigrationPolicy::Bidirectional);
        let new = world.heartbeat(of(joining("new")));
        let left = world.heartbeat(of(going_on("new", -2)));
        assert_eq!((count(&new), left.error), (Some(12), ErrorCode::None));
        let joined = world.classic_join(replacing(&topics));
        assert_eq!(joined.error, ErrorCode::None);
        world.check_replay();
        let expected = if settled { ErrorCode::None } else { ErrorCode::RebalanceInProgress };
        assert_eq!(world.classic_beat(&joined), expected, "{topics:?}");
    }
}
