//! Consumer groups (KIP-848), rule by rule.

use std::collections::BTreeSet;

use corelog_protocol::ErrorCode;

use super::harness::{World, text};
use crate::group::api::{
    Commit, CommitPartition, ConsumerHeartbeat, ConsumerHeartbeatReply, DescribedConsumerGroup, FetchOffsets,
    LeaveGroup, LeavingMember, ListGroups, Partitions, Refused, Reply, Request,
};
use crate::group::{GroupConfig, Topics};

const REBALANCE_MS: u64 = 30_000;

pub(super) fn world() -> World {
    World::new(GroupConfig { consumer_max_size: 4, ..GroupConfig::default() }, 1)
}

pub(super) fn joining(member_id: &str) -> ConsumerHeartbeat {
    ConsumerHeartbeat {
        group: text("g"),
        member_id: text(member_id),
        must_bring_member_id: false,
        member_epoch: 0,
        instance_id: None,
        rack_id: None,
        rebalance_timeout_ms: Some(REBALANCE_MS as i32),
        topics: Some(vec![text("t")]),
        regex: None,
        assignor: None,
        owned: Some(Vec::new()),
    }
}

pub(super) fn going_on(member_id: &str, member_epoch: i32) -> ConsumerHeartbeat {
    ConsumerHeartbeat {
        member_epoch,
        rebalance_timeout_ms: None,
        topics: None,
        owned: None,
        ..joining(member_id)
    }
}

fn owning(member_id: &str, member_epoch: i32, owned: &[Partitions]) -> ConsumerHeartbeat {
    ConsumerHeartbeat { owned: Some(owned.to_vec()), ..going_on(member_id, member_epoch) }
}

pub(super) fn count(reply: &ConsumerHeartbeatReply) -> Option<usize> {
    reply
        .assignment
        .as_ref()
        .map(|assignment| assignment.iter().map(|(_, partitions)| partitions.len()).sum())
}

impl World {
    pub(super) fn heartbeat(&mut self, request: ConsumerHeartbeat) -> ConsumerHeartbeatReply {
        match self.ask("c", Request::ConsumerHeartbeat(request)) {
            Reply::ConsumerHeartbeat(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn described(&mut self) -> DescribedConsumerGroup {
        match self.ask("c", Request::ConsumerDescribe { group: text("g") }) {
            Reply::ConsumerDescribe(described) => described.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn refused(&mut self, request: ConsumerHeartbeat) -> ErrorCode {
        let reply = self.heartbeat(request);
        assert!(reply.error == ErrorCode::None || reply.message.is_some());
        reply.error
    }
}

#[test]
fn a_second_member_gets_its_share_once_the_first_gave_it_up() {
    let mut world = world();
    let first = world.heartbeat(joining("a"));
    assert_eq!((first.member_epoch, count(&first), first.heartbeat_interval_ms), (1, Some(12), 5_000));
    let second = world.heartbeat(joining("b"));
    assert_eq!((second.member_epoch, count(&second)), (2, Some(0)), "everything still belongs to the first");
    assert_eq!(world.described().state, "Reconciling");
    let told = world.heartbeat(going_on("a", 1));
    assert_eq!((told.member_epoch, count(&told)), (1, Some(6)), "it is to give up six");
    assert_eq!(count(&world.heartbeat(going_on("b", 2))), None);
    assert_eq!(count(&world.heartbeat(owning("a", 1, first.assignment.as_ref().unwrap()))), None);
    let done = world.heartbeat(owning("a", 1, told.assignment.as_ref().unwrap()));
    assert_eq!((done.member_epoch, count(&done)), (2, None));
    let second = world.heartbeat(going_on("b", 2));
    assert_eq!((second.member_epoch, count(&second)), (2, Some(6)));
    let described = world.described();
    assert_eq!((described.state, described.epoch, described.assignment_epoch), ("Stable", 2, 2));
    assert_eq!(&*described.assignor, "uniform");
    let owned: BTreeSet<_> = described.members.iter().flat_map(|m| &m.assignment[0].partitions).collect();
    assert_eq!(owned.len(), 12);
    assert!(described.members.iter().all(|member| member.assignment == member.target));
    world.check_replay();
}

#[test]
fn heartbeats_that_cannot_be() {
    let mut world = world();
    let invalid = [
        ConsumerHeartbeat { group: text(""), ..joining("a") },
        ConsumerHeartbeat { instance_id: Some(text("")), ..joining("a") },
        ConsumerHeartbeat { rack_id: Some(text("")), ..joining("a") },
        ConsumerHeartbeat { rebalance_timeout_ms: None, ..joining("a") },
        ConsumerHeartbeat { topics: None, ..joining("a") },
        ConsumerHeartbeat { group: text(" "), ..joining("a") },
        ConsumerHeartbeat { instance_id: Some(text("\t ")), ..joining("a") },
        ConsumerHeartbeat { must_bring_member_id: true, ..joining("") },
        ConsumerHeartbeat { must_bring_member_id: true, ..joining(" ") },
        ConsumerHeartbeat { topics: Some(vec![text("t"); 10_001]), ..joining("a") },
        going_on(" ", 1),
        ConsumerHeartbeat { owned: None, ..joining("a") },
        ConsumerHeartbeat {
            owned: Some(vec![(world.topics.named("t").unwrap().id, vec![1])]),
            ..joining("a")
        },
        going_on("", 1),
        going_on("", -1),
        going_on("a", -2),
        going_on("a", -3),
    ];
    for request in invalid {
        assert_eq!(world.refused(request.clone()), ErrorCode::InvalidRequest, "{request:?}");
    }
    let assignor = ConsumerHeartbeat { assignor: Some(text("mine")), ..joining("a") };
    assert_eq!(world.refused(assignor), ErrorCode::UnsupportedAssignor);
    let regex = ConsumerHeartbeat { topics: None, regex: Some(text("a)(b")), ..joining("a") };
    let reply = world.heartbeat(regex);
    assert_eq!(reply.error, ErrorCode::InvalidRegularExpression);
    let message = "SubscribedTopicRegex `a)(b` is not a valid regular expression: unopened group.";
    assert_eq!(reply.message.as_deref(), Some(message));
    for regex in ["x".repeat(4_097), "(?:[a-z]{1000}){1000}".to_owned()] {
        let regex = ConsumerHeartbeat { topics: None, regex: Some(text(&regex)), ..joining("a") };
        assert_eq!(world.refused(regex), ErrorCode::InvalidRegularExpression);
    }
    for epoch in [1, -1] {
        assert_eq!(world.refused(going_on("a", epoch)), ErrorCode::GroupIdNotFound);
    }
    assert_eq!(world.coordinator.group_count(), 0, "a refusal makes no group");
    assert!(world.log.is_empty());
}

#[test]
fn epochs_fence() {
    let mut world = world();
    let first = world.heartbeat(joining("a"));
    world.heartbeat(joining("b"));
    assert_eq!(world.refused(going_on("nobody", 1)), ErrorCode::UnknownMemberId);
    assert_eq!(world.refused(going_on("a", 2)), ErrorCode::FencedMemberEpoch);
    let told = world.heartbeat(going_on("a", 1));
    let kept = told.assignment.unwrap();
    assert_eq!(world.heartbeat(owning("a", 1, &kept)).member_epoch, 2);
    // That answer may be lost: the epoch before counts as long as it owns no more than it was given.
    assert_eq!(world.heartbeat(owning("a", 1, &kept)).member_epoch, 2);
    assert_eq!(world.refused(going_on("a", 1)), ErrorCode::FencedMemberEpoch);
    assert_eq!(
        world.refused(owning("a", 1, first.assignment.as_ref().unwrap())),
        ErrorCode::FencedMemberEpoch
    );
    let again = world.heartbeat(joining("a"));
    assert_eq!((again.member_epoch, count(&again)), (2, Some(6)), "a fenced member joins again");
    world.check_replay();
}

#[test]
fn a_member_that_is_silent_or_does_not_give_up_is_removed() {
    let mut world = world();
    world.heartbeat(joining("a"));
    world.heartbeat(joining("b"));
    world.heartbeat(going_on("a", 1));
    for _ in 0..3 {
        world.pass(REBALANCE_MS / 3 - 1);
        world.heartbeat(going_on("b", 2));
        assert_eq!(world.refused(going_on("a", 1)), ErrorCode::None);
    }
    world.pass(3);
    assert_eq!(world.refused(going_on("a", 1)), ErrorCode::UnknownMemberId);
    let alone = world.heartbeat(going_on("b", 2));
    assert_eq!((alone.member_epoch, count(&alone)), (3, Some(12)));
    world.check_replay();
    world.restart();
    world.pass(45_000);
    assert_eq!(world.described().state, "Empty");
    world.check_replay();
}

#[test]
fn the_time_to_give_up_runs_on_after_a_restart() {
    let mut world = world();
    world.heartbeat(joining("a"));
    world.heartbeat(joining("b"));
    world.heartbeat(going_on("a", 1));
    world.restart();
    world.pass(REBALANCE_MS - 1);
    assert_eq!(world.refused(going_on("a", 1)), ErrorCode::None);
    world.pass(1);
    assert_eq!(world.refused(going_on("a", 1)), ErrorCode::UnknownMemberId);
}

#[test]
fn a_full_group_takes_nobody_else() {
    let mut world = world();
    for member in ["a", "b", "c", "d"] {
        assert_eq!(world.refused(joining(member)), ErrorCode::None);
    }
    assert_eq!(world.refused(joining("e")), ErrorCode::GroupMaxSizeReached);
    assert_eq!(world.refused(joining("d")), ErrorCode::None);
    let left = world.heartbeat(going_on("d", -1));
    assert_eq!((left.error, left.member_epoch), (ErrorCode::None, -1));
    assert_eq!(world.refused(joining("e")), ErrorCode::None);
}

#[test]
fn a_rolling_restart_of_five_static_members_causes_no_rebalance() {
    let mut world = World::new(GroupConfig::default(), 1);
    let of = |instance: &str, request: ConsumerHeartbeat| ConsumerHeartbeat {
        instance_id: Some(text(instance)),
        ..request
    };
    let instances = ["a", "b", "c", "d", "e"];
    for instance in instances {
        world.heartbeat(of(instance, joining(&format!("{instance}1"))));
    }
    // Everybody says in every heartbeat what it owns, until all have what they are to have.
    let mut owned = [const { Vec::new() }; 5];
    let mut epochs = [0; 5];
    for round in 0..8 {
        for (place, instance) in instances.iter().enumerate() {
            let member = format!("{instance}1");
            let request =
                if round == 0 { joining(&member) } else { owning(&member, epochs[place], &owned[place]) };
            let reply = world.heartbeat(of(instance, request));
            assert_eq!(reply.error, ErrorCode::None);
            epochs[place] = reply.member_epoch;
            if let Some(assignment) = reply.assignment {
                owned[place] = assignment;
            }
        }
    }
    assert_eq!((world.described().state, world.described().epoch), ("Stable", 5));
    for (place, instance) in instances.iter().enumerate() {
        let (old, new) = (format!("{instance}1"), format!("{instance}2"));
        let too_early = world.refused(of(instance, joining(&new)));
        assert_eq!(too_early, ErrorCode::UnreleasedInstanceId, "the former has not left");
        assert_eq!(world.heartbeat(of(instance, going_on(&old, -2))).member_epoch, -2);
        world.pass(2_000);
        let back = world.heartbeat(of(instance, joining(&new)));
        assert_eq!((back.error, back.member_epoch), (ErrorCode::None, 5));
        assert_eq!(back.assignment.as_ref(), Some(&owned[place]));
        assert_eq!(world.refused(of(instance, going_on(&old, 5))), ErrorCode::FencedInstanceId);
        let described = world.described();
        assert_eq!((described.state, described.epoch), ("Stable", 5), "nobody noticed");
        world.check_replay();
    }
    // Without coming back a static member loses its place with its session.
    world.heartbeat(of("a", going_on("a2", -2)));
    world.pass(45_000);
    assert_eq!(world.refused(of("a", going_on("a2", 5))), ErrorCode::UnknownMemberId);
}

#[test]
fn a_regular_expression_follows_the_topics() {
    let mut world = world();
    let reply = world.heartbeat(ConsumerHeartbeat {
        topics: Some(Vec::new()),
        regex: Some(text("[tv]")),
        ..joining("a")
    });
    assert_eq!(count(&reply), Some(12), "`t` alone matches, and `u` does not");
    world.topics.set("v", 3);
    world.topics.set("tv", 30);
    assert_eq!(count(&world.heartbeat(going_on("a", 1))), None, "not looked up that often");
    world.pass(10_000);
    let more = world.heartbeat(going_on("a", 1));
    assert_eq!((more.member_epoch, count(&more)), (2, Some(15)));
    world.check_replay();
    let other = ConsumerHeartbeat { regex: Some(text("u")), ..going_on("a", 2) };
    assert_eq!(count(&world.heartbeat(other)), Some(0), "a new one is not looked up more often either");
    let waits = world.heartbeat(owning("a", 2, &[]));
    world.pass(10_000);
    let given_up = world.heartbeat(owning("a", waits.member_epoch, &[]));
    assert_eq!(count(&given_up), Some(7));
    let by_name = ConsumerHeartbeat {
        regex: Some(text("")),
        topics: Some(vec![text("u"), text("u")]),
        ..going_on("a", given_up.member_epoch)
    };
    assert_eq!(count(&world.heartbeat(by_name)), None, "it has that already");
    assert_eq!(world.described().members[0].regex, None);
    world.check_replay();
}

#[test]
fn new_partitions_and_deleted_topics_are_noticed() {
    let mut world = world();
    world.heartbeat(ConsumerHeartbeat { topics: Some(vec![text("t"), text("w")]), ..joining("a") });
    world.topics.set("w", 2);
    world.topics.set("t", 14);
    let more = world.heartbeat(going_on("a", 1));
    assert_eq!((more.member_epoch, count(&more)), (2, Some(16)));
    world.topics.set("unrelated", 5);
    assert_eq!(world.heartbeat(going_on("a", 2)).member_epoch, 2);
    world.topics.remove("w");
    assert_eq!(count(&world.heartbeat(going_on("a", 2))), Some(14));
    world.check_replay();
}

#[test]
fn the_preferred_assignor_of_most_is_used() {
    let mut world = world();
    let with = |assignor: &str, member: &str| ConsumerHeartbeat {
        assignor: Some(text(assignor)),
        ..joining(member)
    };
    world.heartbeat(with("range", "a"));
    assert_eq!(&*world.described().assignor, "range");
    world.heartbeat(with("uniform", "b"));
    world.heartbeat(with("uniform", "c"));
    assert_eq!(&*world.described().assignor, "uniform");
}

#[test]
fn members_commit_and_fetch_at_their_epoch_only() {
    let mut world = world();
    world.heartbeat(joining("a"));
    let commit = |member_id: &str, generation, knows_epochs| {
        let partition = CommitPartition { partition: 0, offset: 1, leader_epoch: -1, metadata: text("") };
        Request::Commit(Commit {
            group: text("g"),
            member_id: text(member_id),
            instance_id: None,
            generation,
            knows_epochs,
            retention_ms: None,
            topics: vec![(text("t"), vec![partition])],
        })
    };
    let mut outcome = |member_id: &str, generation, knows_epochs| match world
        .ask("c", commit(member_id, generation, knows_epochs))
    {
        Reply::Commit(outcomes) => outcomes[0].1[0].1,
        other => panic!("{other:?}"),
    };
    assert_eq!(outcome("a", 1, true), ErrorCode::None);
    assert_eq!(outcome("a", 0, true), ErrorCode::StaleMemberEpoch);
    assert_eq!(outcome("a", 1, false), ErrorCode::UnsupportedVersion);
    assert_eq!(outcome("b", 1, true), ErrorCode::UnknownMemberId);
    assert_eq!(outcome("", -1, true), ErrorCode::UnknownMemberId, "the group has members");
    let mut fetch = |member: Option<(&str, i32)>| {
        let member = member.map(|(member_id, epoch)| (text(member_id), epoch));
        let topics = Some(vec![(text("t"), vec![0])]);
        let request = FetchOffsets { group: text("g"), member, require_stable: true, topics };
        match world.ask("c", Request::FetchOffsets(request)) {
            Reply::FetchOffsets(reply) => (reply.error, reply.topics.len()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(fetch(Some(("a", 1))), (ErrorCode::None, 1));
    assert_eq!(fetch(None), (ErrorCode::None, 1));
    assert_eq!(fetch(Some(("a", 0))), (ErrorCode::StaleMemberEpoch, 0), "the error alone");
    assert_eq!(fetch(Some(("b", 1))), (ErrorCode::UnknownMemberId, 0));
}

#[test]
fn lists_filter_by_state_and_type_and_an_empty_group_can_be_deleted() {
    let mut world = world();
    world.heartbeat(joining("a"));
    let mut listed = |states: &[&str], types: &[&str]| {
        let own = |filter: &[&str]| filter.iter().map(|value| (*value).to_owned()).collect();
        match world.ask("c", Request::List(ListGroups { states: own(states), types: own(types) })) {
            Reply::List(groups) => groups.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((listed(&[], &[]), listed(&["stable"], &["Consumer"])), (1, 1));
    assert_eq!((listed(&["Empty"], &[]), listed(&[], &["classic"])), (0, 0));
    let delete = Request::Delete { group: text("g") };
    assert_eq!(world.ask("c", delete.clone()), Reply::Delete(ErrorCode::NonEmptyGroup));
    world.heartbeat(going_on("a", -1));
    assert_eq!(world.ask("c", delete), Reply::Delete(ErrorCode::None));
    world.check_replay();
    world.restart();
    assert_eq!(world.coordinator.group_count(), 0);
    let described = world.ask("c", Request::ConsumerDescribe { group: text("g") });
    let error = ErrorCode::GroupIdNotFound;
    let refused = Refused { error, message: "Group g not found.".to_owned() };
    assert_eq!(described, Reply::ConsumerDescribe(Err(refused)));
    match world.ask("c", Request::ConsumerDescribe { group: text("") }) {
        Reply::ConsumerDescribe(Err(refused)) => assert_eq!(refused.error, ErrorCode::InvalidGroupId),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_member_that_names_another_instance_id_lets_go_of_the_former() {
    let mut world = world();
    let of = |instance: &str, member: &str| ConsumerHeartbeat {
        instance_id: Some(text(instance)),
        ..joining(member)
    };
    assert_eq!(world.refused(of("i", "a")), ErrorCode::None);
    assert_eq!(world.refused(of("j", "a")), ErrorCode::None);
    world.check_replay();
    assert_eq!(world.heartbeat(going_on("a", -1)).error, ErrorCode::None);
    assert_eq!(world.refused(of("i", "b")), ErrorCode::None, "nobody has that one");
    world.check_replay();
}

#[test]
fn a_member_may_join_with_no_topics_and_name_them_later() {
    let mut world = world();
    let none = world.heartbeat(ConsumerHeartbeat { topics: Some(Vec::new()), ..joining("a") });
    assert_eq!((none.error, count(&none)), (ErrorCode::None, Some(0)));
    let some = ConsumerHeartbeat { topics: Some(vec![text("t")]), ..going_on("a", none.member_epoch) };
    assert_eq!(count(&world.heartbeat(some)), Some(12));
    world.check_replay();
}

#[test]
fn a_full_heartbeat_with_an_expression_is_told_its_assignment_again() {
    let mut world = world();
    let by_regex = |request| ConsumerHeartbeat { topics: None, regex: Some(text("t")), ..request };
    let first = world.heartbeat(by_regex(joining("a")));
    assert_eq!(count(&first), Some(12));
    let full = ConsumerHeartbeat {
        rebalance_timeout_ms: Some(REBALANCE_MS as i32),
        ..by_regex(owning("a", first.member_epoch, &[]))
    };
    assert_eq!(count(&world.heartbeat(full)), Some(12));
}

#[test]
fn an_operator_removes_a_consumer() {
    let mut world = world();
    world.heartbeat(joining("a"));
    world.heartbeat(joining("b"));
    let leaving = |member_id: &str| LeavingMember { member_id: text(member_id), instance_id: None };
    let members = vec![leaving("a"), leaving("a"), leaving("nobody")];
    let outcomes = match world.ask("c", Request::Leave(LeaveGroup { group: text("g"), members })) {
        Reply::Leave(reply) => reply.members.into_iter().map(|(_, error)| error).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let unknown = ErrorCode::UnknownMemberId;
    assert_eq!(outcomes, [ErrorCode::None, unknown, unknown]);
    assert_eq!(world.described().members.len(), 1);
    world.check_replay();
}

#[test]
fn a_tombstone_makes_no_member() {
    let mut world = world();
    world.heartbeat(joining("a"));
    let (group, member) = (text("g"), text("ghost"));
    let record = corelog_protocol::offsets_topic::Record::ConsumerCurrent { group, member, value: None };
    world.coordinator.load(&record.key(), None).unwrap();
    assert_eq!(world.described().members.len(), 1);
}

#[test]
fn a_group_that_would_not_fit_into_an_event_takes_nobody_else() {
    let mut world = World::new(GroupConfig::default(), 1);
    let names: Vec<_> = (0..300).map(|number| text(&format!("{number:03}{}", "x".repeat(3_000)))).collect();
    let mut admitted = 0;
    loop {
        let member = format!("m{admitted}");
        let reply = world.heartbeat(ConsumerHeartbeat { topics: Some(names.clone()), ..joining(&member) });
        if reply.error != ErrorCode::None {
            assert_eq!(reply.error, ErrorCode::GroupMaxSizeReached);
            break;
        }
        admitted += 1;
    }
    assert_eq!(admitted, 2);
    assert_eq!(world.refused(going_on("m1", 2)), ErrorCode::None);
    let mut world = self::world();
    world.topics.set("wide", 300_000);
    let wide = ConsumerHeartbeat { topics: Some(vec![text("wide")]), ..joining("a") };
    assert_eq!(world.refused(wide), ErrorCode::GroupMaxSizeReached);
    let enough = "x".repeat(1 << 20);
    let large = ConsumerHeartbeat { topics: Some(vec![text(&enough[..30_000]); 40]), ..joining("a") };
    assert_eq!(world.refused(large), ErrorCode::InvalidRequest);
    assert!(world.log.is_empty());
}
