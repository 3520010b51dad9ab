//! The classic protocol, rule by rule.

use std::sync::Arc;

use bytes::Bytes;
use corelog_protocol::ErrorCode;

use super::harness::{World, subscription, text};
use crate::group::api::{
    Heartbeat, JoinGroup, JoinReply, LeaveGroup, LeavingMember, ListGroups, Protocol, Reply, Request,
    SyncGroup, SyncReply,
};
use crate::group::{Call, Coordinator, GroupConfig};

const DELAY_MS: u64 = 3_000;

fn world() -> World {
    World::new(GroupConfig { max_size: 3, ..GroupConfig::default() }, 1)
}

fn join(member_id: &str) -> JoinGroup {
    JoinGroup {
        group: text("g"),
        member_id: text(member_id),
        instance_id: None,
        protocol_type: text("consumer"),
        protocols: vec![Protocol { name: text("range"), metadata: subscription(&["t"]) }],
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 20_000,
        member_id_required: false,
        can_skip_assignment: true,
    }
}

fn static_join(instance_id: &str) -> JoinGroup {
    JoinGroup { instance_id: Some(text(instance_id)), ..join("") }
}

fn sync(member_id: &Arc<str>, generation: i32, assignments: &[(&Arc<str>, &'static str)]) -> SyncGroup {
    let assignments = assignments
        .iter()
        .map(|(member_id, bytes)| (Arc::clone(member_id), Bytes::from_static(bytes.as_bytes())));
    SyncGroup {
        group: text("g"),
        generation,
        member_id: member_id.clone(),
        instance_id: None,
        protocol_type: None,
        protocol: None,
        assignments: assignments.collect(),
    }
}

impl World {
    fn joined(&mut self, call: Call) -> JoinReply {
        match self.replies.remove(&call) {
            Some(Reply::Join(reply)) => reply,
            other => panic!("not joined: {other:?}"),
        }
    }

    fn join_now(&mut self, request: JoinGroup) -> JoinReply {
        let call = self.send("c", Request::Join(request));
        self.joined(call)
    }

    fn sync_now(&mut self, request: SyncGroup) -> SyncReply {
        match self.ask("c", Request::Sync(request)) {
            Reply::Sync(reply) => reply,
            other => panic!("not synced: {other:?}"),
        }
    }

    fn beat(&mut self, member_id: &Arc<str>, generation: i32) -> ErrorCode {
        let request =
            Heartbeat { group: text("g"), generation, member_id: member_id.clone(), instance_id: None };
        match self.ask("c", Request::Heartbeat(request)) {
            Reply::Heartbeat(error) => error,
            other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, members: &[(&str, Option<&str>)]) -> Vec<ErrorCode> {
        let members = members.iter().map(|(member_id, instance_id)| LeavingMember {
            member_id: text(member_id),
            instance_id: instance_id.map(text),
        });
        match self.ask("c", Request::Leave(LeaveGroup { group: text("g"), members: members.collect() })) {
            Reply::Leave(reply) => reply.members.into_iter().map(|(_, error)| error).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn state(&mut self) -> &'static str {
        match self.ask("c", Request::Describe { group: text("g"), not_found_is_error: false }) {
            Reply::Describe(group) => group.state,
            other => panic!("{other:?}"),
        }
    }

    /// A stable group of members that join at once; the leader is the first of the replies.
    fn stable(&mut self, requests: Vec<JoinGroup>) -> Vec<JoinReply> {
        let calls: Vec<_> = requests.into_iter().map(|join| self.send("c", Request::Join(join))).collect();
        self.pass(2 * DELAY_MS);
        let mut replies: Vec<_> = calls.into_iter().map(|call| self.joined(call)).collect();
        replies.sort_by_key(|reply| reply.leader != reply.member_id);
        let generation = replies[0].generation;
        let leader = replies[0].member_id.clone();
        let assignments: Vec<_> = replies.iter().map(|reply| (&reply.member_id, "mine")).collect();
        let reply = self.sync_now(sync(&leader, generation, &assignments));
        assert_eq!(reply.error, ErrorCode::None);
        for reply in &replies[1..] {
            assert_eq!(&self.sync_now(sync(&reply.member_id, generation, &[])).assignment[..], b"mine");
        }
        assert_eq!(self.state(), "Stable");
        replies
    }
}

#[test]
fn an_empty_group_waits_for_more_members_and_the_first_one_leads() {
    let mut world = world();
    let first = world.send("c", Request::Join(join("")));
    world.pass(DELAY_MS - 1);
    assert!(world.replies.is_empty());
    let second = world.send("c", Request::Join(join("")));
    world.pass(1);
    assert!(world.replies.is_empty(), "somebody came: it waits once more");
    world.pass(DELAY_MS);
    let (first, second) = (world.joined(first), world.joined(second));
    assert_eq!((first.error, first.generation), (ErrorCode::None, 1));
    assert_eq!(first.leader, first.member_id);
    assert_eq!((first.members.len(), second.members.len()), (2, 0));
    assert_eq!(second.leader, first.member_id);
    assert_eq!(
        (first.protocol.as_deref(), first.protocol_type.as_deref()),
        (Some("range"), Some("consumer"))
    );
    assert_eq!(world.state(), "CompletingRebalance");
    let waiting = world.send("c", Request::Sync(sync(&second.member_id, 1, &[])));
    assert!(world.replies.is_empty());
    let assignments = [(&second.member_id, "two")];
    assert_eq!(world.sync_now(sync(&first.member_id, 1, &assignments)).assignment, Bytes::new());
    let Some(Reply::Sync(reply)) = world.replies.remove(&waiting) else { panic!() };
    assert_eq!((reply.error, &reply.assignment[..]), (ErrorCode::None, &b"two"[..]));
    assert_eq!(world.state(), "Stable");
    world.check_replay();
}

#[test]
fn a_member_without_an_id_is_given_one_and_must_come_back_with_it() {
    let mut world = world();
    let request = JoinGroup { member_id_required: true, ..join("") };
    let given = world.join_now(request.clone());
    assert_eq!(given.error, ErrorCode::MemberIdRequired);
    assert!(given.member_id.starts_with("c-"));
    let call =
        world.send("c", Request::Join(JoinGroup { member_id: given.member_id.clone(), ..request.clone() }));
    world.pass(DELAY_MS);
    assert_eq!(world.joined(call).member_id, given.member_id);
    // An id that nobody came back for holds nobody up for longer than a session.
    let other = world.join_now(request.clone());
    assert_eq!(other.error, ErrorCode::MemberIdRequired);
    world.pass(10_000);
    let late = world.join_now(JoinGroup { member_id: other.member_id, ..request });
    assert_eq!(late.error, ErrorCode::UnknownMemberId);
}

#[test]
fn joins_that_cannot_be() {
    let mut world = world();
    let error = |world: &mut World, request: JoinGroup| world.join_now(request).error;
    let nowhere = JoinGroup { group: text(""), ..join("") };
    assert_eq!(error(&mut world, nowhere), ErrorCode::InvalidGroupId);
    for session_timeout_ms in [5_999, 1_800_001, -1] {
        let request = JoinGroup { session_timeout_ms, ..join("") };
        assert_eq!(error(&mut world, request), ErrorCode::InvalidSessionTimeout);
    }
    assert_eq!(error(&mut world, join("nobody")), ErrorCode::UnknownMemberId);
    let without = JoinGroup { protocols: Vec::new(), ..join("") };
    assert_eq!(error(&mut world, without), ErrorCode::InconsistentGroupProtocol);
    let untyped = JoinGroup { protocol_type: text(""), ..join("") };
    assert_eq!(error(&mut world, untyped), ErrorCode::InconsistentGroupProtocol);
    assert_eq!(world.coordinator.group_count(), 0, "a refusal makes no group");
    world.stable(vec![join("")]);
    let other_type = JoinGroup { protocol_type: text("connect"), ..join("") };
    assert_eq!(error(&mut world, other_type), ErrorCode::InconsistentGroupProtocol);
    let protocols = vec![Protocol { name: text("sticky"), metadata: Bytes::new() }];
    let other_assignor = JoinGroup { protocols, ..join("") };
    assert_eq!(error(&mut world, other_assignor), ErrorCode::InconsistentGroupProtocol);
    let unknown_instance = JoinGroup { instance_id: Some(text("i")), ..join("someone") };
    assert_eq!(error(&mut world, unknown_instance), ErrorCode::UnknownMemberId);
}

#[test]
fn a_full_group_takes_nobody_else() {
    let mut world = world();
    let members = world.stable(vec![join(""), join(""), join("")]);
    assert_eq!(world.join_now(join("")).error, ErrorCode::GroupMaxSizeReached);
    assert_eq!(world.beat(&members[1].member_id, 1), ErrorCode::None);
    assert_eq!(world.state(), "Stable");
}

#[test]
fn the_assignor_is_one_that_all_support_by_majority() {
    let mut world = world();
    let with = |names: &[&str]| {
        let protocols =
            names.iter().map(|name| Protocol { name: text(name), metadata: subscription(&["t"]) });
        JoinGroup { protocols: protocols.collect(), ..join("") }
    };
    let requests = [with(&["only", "b", "a"]), with(&["a", "b"]), with(&["b", "a"])];
    let calls = requests.map(|request| world.send("c", Request::Join(request)));
    world.pass(2 * DELAY_MS);
    for call in calls {
        assert_eq!(world.joined(call).protocol.as_deref(), Some("b"));
    }
}

#[test]
fn heartbeats_keep_a_member_and_silence_loses_it() {
    let mut world = world();
    let members = world.stable(vec![join(""), join("")]);
    let (leader, follower) = (members[0].member_id.clone(), members[1].member_id.clone());
    assert_eq!(world.beat(&follower, 0), ErrorCode::IllegalGeneration);
    assert_eq!(world.beat(&text("nobody"), 1), ErrorCode::UnknownMemberId);
    for _ in 0..4 {
        world.pass(5_000);
        assert_ne!(world.beat(&leader, 1), ErrorCode::UnknownMemberId);
    }
    assert_eq!(world.beat(&follower, 1), ErrorCode::UnknownMemberId);
    assert_eq!(world.beat(&leader, 1), ErrorCode::RebalanceInProgress);
    let alone = world.join_now(join(&leader));
    assert_eq!((alone.error, alone.generation, alone.members.len()), (ErrorCode::None, 2, 1));
}

#[test]
fn a_rebalance_goes_on_without_those_that_do_not_come_in_time() {
    let mut world = world();
    let members = world.stable(vec![join(""), join("")]);
    let (leader, follower) = (members[0].member_id.clone(), members[1].member_id.clone());
    let call = world.send("c", Request::Join(join(&leader)));
    assert_eq!(world.state(), "PreparingRebalance");
    assert_eq!(world.sync_now(sync(&follower, 1, &[])).error, ErrorCode::RebalanceInProgress);
    for _ in 0..3 {
        world.pass(6_000);
        assert_eq!(world.beat(&follower, 1), ErrorCode::RebalanceInProgress);
    }
    world.pass(2_000);
    let reply = world.joined(call);
    assert_eq!((reply.generation, reply.members.len()), (2, 1));
    assert_eq!(world.beat(&follower, 1), ErrorCode::UnknownMemberId);
    world.check_replay();
}

#[test]
fn who_does_not_fetch_the_assignment_is_out() {
    let mut world = world();
    let calls = [(); 2].map(|()| world.send("c", Request::Join(join(""))));
    world.pass(2 * DELAY_MS);
    let [leader, follower] = calls.map(|call| world.joined(call));
    for _ in 0..3 {
        world.pass(6_000);
        assert_eq!(world.beat(&follower.member_id, 1), ErrorCode::None);
        assert_eq!(world.beat(&leader.member_id, 1), ErrorCode::None);
    }
    let reply = world.sync_now(sync(&leader.member_id, 1, &[]));
    assert_eq!(reply.error, ErrorCode::None);
    world.pass(2_000);
    assert_eq!(world.beat(&follower.member_id, 1), ErrorCode::UnknownMemberId);
    assert_eq!(world.beat(&leader.member_id, 1), ErrorCode::RebalanceInProgress);
}

#[test]
fn a_follower_that_asks_again_disturbs_nobody_and_a_leader_starts_a_rebalance() {
    let mut world = world();
    let members = world.stable(vec![join(""), join("")]);
    let again = world.join_now(join(&members[1].member_id));
    assert_eq!((again.error, again.generation), (ErrorCode::None, 1));
    assert_eq!(world.state(), "Stable");
    let protocols = vec![Protocol { name: text("range"), metadata: subscription(&["t", "u"]) }];
    world.send("c", Request::Join(JoinGroup { protocols, ..join(&members[1].member_id) }));
    assert_eq!(world.state(), "PreparingRebalance", "it wants something else");
    let other = world.join_now(join(&members[0].member_id));
    assert_eq!(other.generation, 2);
}

#[test]
fn members_leave_one_by_one_or_many_at_once() {
    let mut world = world();
    let members = world.stable(vec![join(""), static_join("i"), static_join("j")]);
    let dynamic = members.iter().find(|member| member.member_id.starts_with("c-")).unwrap().member_id.clone();
    let named = |instance: &str| {
        let prefix = format!("{instance}-");
        members.iter().find(|member| member.member_id.starts_with(&prefix)).unwrap().member_id.clone()
    };
    let outcomes = world.leave(&[
        ("nobody", None),
        (&dynamic, None),
        ("", Some("i")),
        ("", Some("unknown")),
        ("somebody", Some("j")),
        (&named("j"), Some("j")),
        (&dynamic, None),
    ]);
    let (ok, unknown) = (ErrorCode::None, ErrorCode::UnknownMemberId);
    assert_eq!(outcomes, [unknown, ok, ok, unknown, ErrorCode::FencedInstanceId, ok, unknown]);
    assert_eq!(world.state(), "Empty");
    world.check_replay();
    assert_eq!(world.join_now(join(&dynamic)).error, unknown);
}

#[test]
fn a_rolling_restart_of_five_static_members_causes_no_rebalance() {
    for can_skip_assignment in [true, false] {
        let mut world = World::new(GroupConfig::default(), 7);
        let requests: Vec<_> = ["a", "b", "c", "d", "e"]
            .map(|instance| JoinGroup { can_skip_assignment, ..static_join(instance) })
            .to_vec();
        let before = world.stable(requests.clone());
        let leader_before = before[0].member_id.clone();
        let mut leader_now = leader_before.clone();
        for request in requests {
            world.pass(1_000);
            let instance = request.instance_id.clone();
            let back = world.join_now(request);
            assert_eq!((back.error, back.generation), (ErrorCode::None, 1));
            let old =
                before.iter().find(|old| old.member_id.split('-').next() == instance.as_deref()).unwrap();
            assert_ne!(old.member_id, back.member_id);
            let was_leader = old.member_id == leader_now;
            if was_leader {
                leader_now = back.member_id.clone();
            }
            // A leader must not assign again: it is told to skip that, or that another one leads.
            assert_eq!(back.skip_assignment, can_skip_assignment && was_leader);
            if !can_skip_assignment {
                assert_ne!(back.leader, back.member_id);
            }
            assert_eq!(&world.sync_now(sync(&back.member_id, 1, &[])).assignment[..], b"mine");
            let fenced = SyncGroup { instance_id: instance, ..sync(&old.member_id, 1, &[]) };
            assert_eq!(world.sync_now(fenced).error, ErrorCode::FencedInstanceId);
            assert_eq!(world.state(), "Stable");
            world.check_replay();
        }
        world.restart();
        assert_eq!(world.beat(&leader_now, 1), ErrorCode::None);
        assert_eq!(world.beat(&leader_before, 1), ErrorCode::UnknownMemberId);
    }
}

#[test]
fn a_static_member_that_comes_back_with_another_assignor_causes_one() {
    let mut world = world();
    let both = |first: &str, second: &str| {
        let protocols =
            [first, second].map(|name| Protocol { name: text(name), metadata: subscription(&["t"]) });
        JoinGroup { protocols: protocols.to_vec(), ..static_join("i") }
    };
    world.stable(vec![both("range", "sticky")]);
    let back = world.join_now(both("sticky", "range"));
    assert_eq!((back.generation, back.protocol.as_deref()), (2, Some("sticky")));
}

#[test]
fn protocol_types_other_than_consumer_work_the_same() {
    let mut world = world();
    let protocols = vec![Protocol { name: text("v1"), metadata: Bytes::from_static(b"anything") }];
    let request = JoinGroup { protocol_type: text("connect"), protocols, ..join("") };
    let members = world.stable(vec![request.clone(), request]);
    assert_eq!(&members[0].members[0].metadata[..], b"anything");
    world.check_replay();
    let Reply::List(groups) = world.ask("c", Request::List(ListGroups::default())) else { panic!() };
    assert_eq!(
        (&*groups[0].protocol_type, groups[0].state, groups[0].group_type),
        ("connect", "Stable", "classic")
    );
}

#[test]
fn a_loaded_group_goes_on_where_it_was() {
    let mut world = world();
    let members = world.stable(vec![join(""), join("")]);
    world.restart();
    assert_eq!(world.beat(&members[1].member_id, 1), ErrorCode::None);
    assert_eq!(&world.sync_now(sync(&members[1].member_id, 1, &[])).assignment[..], b"mine");
    world.pass(10_000);
    assert_eq!(world.state(), "Empty", "nobody gave a sign of life");
    world.check_replay();
}

#[test]
fn requests_about_a_group_that_is_not_there() {
    let mut world = world();
    assert_eq!(world.beat(&text("m"), 1), ErrorCode::UnknownMemberId);
    assert_eq!(world.sync_now(sync(&text("m"), 1, &[])).error, ErrorCode::UnknownMemberId);
    assert_eq!(world.leave(&[("m", None)]), [ErrorCode::UnknownMemberId]);
    assert_eq!(world.state(), "Dead");
    let request = Request::Describe { group: text("g"), not_found_is_error: true };
    let Reply::Describe(described) = world.ask("c", request) else { panic!() };
    assert_eq!(described.error, ErrorCode::GroupIdNotFound);
    let gone = world.ask("c", Request::Delete { group: text("g") });
    assert_eq!(gone, Reply::Delete(ErrorCode::GroupIdNotFound));
    assert_eq!(world.coordinator.group_count(), 0);
}

#[test]
fn only_an_empty_group_can_be_deleted_and_then_nothing_is_left() {
    let mut world = world();
    let members = world.stable(vec![join("")]);
    let delete = Request::Delete { group: text("g") };
    assert_eq!(world.ask("c", delete.clone()), Reply::Delete(ErrorCode::NonEmptyGroup));
    world.leave(&[(&members[0].member_id, None)]);
    assert_eq!(world.ask("c", delete), Reply::Delete(ErrorCode::None));
    world.check_replay();
    world.restart();
    assert_eq!(world.coordinator.group_count(), 0);
}

#[test]
fn whoever_waits_is_told_when_the_coordinator_goes() {
    let mut world = world();
    let call = world.send("c", Request::Join(join("")));
    let replies = world.coordinator.abandon(ErrorCode::NotCoordinator);
    let refused = JoinReply::refused(ErrorCode::NotCoordinator, text(""));
    let Reply::Join(reply) = &replies[0].1 else { panic!() };
    assert_eq!((replies[0].0, reply.error, reply.generation), (call, refused.error, -1));
}

#[test]
fn ids_are_not_given_out_without_end() {
    let mut world = world();
    let request = JoinGroup { member_id_required: true, ..join("") };
    for _ in 0..10_000 {
        assert_eq!(world.join_now(request.clone()).error, ErrorCode::MemberIdRequired);
    }
    assert_eq!(world.join_now(request.clone()).error, ErrorCode::CoordinatorNotAvailable);
    world.pass(10_000);
    assert_eq!(world.join_now(request).error, ErrorCode::MemberIdRequired);
}

impl World {
    fn described_classic(&mut self) -> crate::group::api::DescribedGroup {
        match self.ask("c", Request::Describe { group: text("g"), not_found_is_error: true }) {
            Reply::Describe(group) => group,
            other => panic!("{other:?}"),
        }
    }
}

fn metadata(bytes: usize) -> Vec<Protocol> {
    vec![Protocol { name: text("range"), metadata: vec![0; bytes].into() }]
}

#[test]
fn a_member_id_is_no_longer_than_a_name_may_be() {
    let mut world = world();
    for instance_id in [None, Some(text(&"\u{20ac}".repeat(10_000)))] {
        let call =
            world.send(&"\u{20ac}".repeat(10_922), Request::Join(JoinGroup { instance_id, ..join("") }));
        world.pass(2 * DELAY_MS);
        let joined = world.joined(call);
        assert_eq!(joined.error, ErrorCode::None);
        assert!(joined.member_id.len() <= 255, "{}", joined.member_id.len());
        assert_eq!(world.sync_now(sync(&joined.member_id, joined.generation, &[])).error, ErrorCode::None);
        world.check_replay();
        world.leave(&[(&*joined.member_id, None)]);
    }
}

#[test]
fn a_member_that_says_too_much_is_refused() {
    let mut world = world();
    let names = (0..101).map(|number| Protocol { name: text(&number.to_string()), metadata: Bytes::new() });
    let mut protocols: Vec<_> = names.collect();
    let many = JoinGroup { protocols: protocols.clone(), ..join("") };
    assert_eq!(world.join_now(many).error, ErrorCode::InvalidRequest);
    protocols.pop();
    let large = JoinGroup { protocols: metadata(1 << 20), ..join("") };
    assert_eq!(world.join_now(large).error, ErrorCode::InvalidRequest);
    let call = world.send("c", Request::Join(JoinGroup { protocols, ..join("") }));
    world.pass(DELAY_MS);
    assert_eq!(world.joined(call).error, ErrorCode::None);
}

#[test]
fn a_group_that_would_not_fit_into_an_event_takes_nobody_else() {
    let mut world = World::new(GroupConfig::default(), 1);
    let request = || JoinGroup { protocols: metadata(1_000_000), ..join("") };
    let members: Vec<_> = (0..2).map(|_| world.send("c", Request::Join(request()))).collect();
    assert_eq!(world.join_now(request()).error, ErrorCode::GroupMaxSizeReached);
    world.pass(2 * DELAY_MS);
    let replies: Vec<_> = members.into_iter().map(|call| world.joined(call)).collect();
    assert_eq!(replies[0].members.len(), 2);
    let leader = &replies[0].member_id;
    let too_much = SyncGroup {
        assignments: vec![(leader.clone(), vec![0; (16 << 20) + 1].into())],
        ..sync(leader, 1, &[])
    };
    assert_eq!(world.sync_now(too_much).error, ErrorCode::UnknownServerError);
    assert_eq!(world.state(), "CompletingRebalance");
    assert_eq!(world.sync_now(sync(leader, 1, &[(leader, "less")])).assignment, "less");
    let call = world.send("c", Request::Join(JoinGroup { member_id: leader.clone(), ..request() }));
    assert!(!world.replies.contains_key(&call), "who is there may come again");
}

#[test]
fn what_members_have_is_described_while_they_join_again() {
    let mut world = world();
    let members = world.stable(vec![join(""), join("")]);
    world.send("c", Request::Join(join(&members[0].member_id)));
    let described = world.described_classic();
    assert_eq!(described.state, "PreparingRebalance");
    assert!(described.members.iter().all(|member| member.assignment == "mine" && member.metadata.is_empty()));
    let missing = Request::Describe { group: text("none"), not_found_is_error: true };
    match world.ask("c", missing) {
        Reply::Describe(group) => assert_eq!(group.message.as_deref(), Some("Group none not found.")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_loaded_group_that_is_too_large_by_now_rebalances() {
    let mut world = world();
    world.stable(vec![join(""), join(""), join("")]);
    world.config.max_size = 2;
    world.restart();
    assert_eq!(world.state(), "PreparingRebalance");
}

#[test]
fn generations_begin_again_after_the_last_one() {
    let mut world = world();
    let members = world.stable(vec![join("")]);
    let mut records = world.coordinator.snapshot(None);
    let Some(corelog_protocol::offsets_topic::Record::Group { value: Some(value), .. }) = records.first_mut()
    else {
        panic!("no group");
    };
    value.generation = i32::MAX;
    world.coordinator = Coordinator::new(world.config.clone());
    world.coordinator.load(&records[0].key(), records[0].value().as_deref()).unwrap();
    world.coordinator.loaded(world.now(), &world.topics);
    let call = world.send("c", Request::Join(join(&members[0].member_id)));
    assert_eq!(world.joined(call).generation, 1);
}

#[test]
fn ids_given_out_and_groups_that_only_begin_have_a_maximum() {
    let config = GroupConfig { pending_ids_max: 3, forming_groups_max: 2, ..GroupConfig::default() };
    let mut world = World::new(config, 1);
    let of = |group: &str| JoinGroup { group: text(group), member_id_required: true, ..join("") };
    for group in ["g", "h", "g"] {
        assert_eq!(world.join_now(of(group)).error, ErrorCode::MemberIdRequired);
    }
    assert_eq!(world.join_now(of("g")).error, ErrorCode::CoordinatorNotAvailable);
    let other = JoinGroup { member_id_required: false, ..of("i") };
    assert_eq!(world.join_now(other.clone()).error, ErrorCode::CoordinatorNotAvailable);
    world.check_replay();
    world.pass(10_000);
    world.check_replay();
    assert_eq!(world.coordinator.group_count(), 0);
    assert_eq!(world.join_now(of("g")).error, ErrorCode::MemberIdRequired);
    let call = world.send("c", Request::Join(other));
    world.pass(DELAY_MS);
    assert_eq!(world.joined(call).error, ErrorCode::None);
}
