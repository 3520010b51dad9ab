//! Groups over real sockets: members, offsets, and what an operator sees of both.

use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use super::{Connection, ListenerOptions, NetOptions, Node, SocketAddr};

const GROUP: &str = "g";
/// For a coordinator to get ready, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a coordinator answers while it gets ready: 14 loads, 15 and 16 are not there yet.
const AGAIN: [i16; 3] = [14, 15, 16];

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Tries until the coordinator is ready.
fn patiently<T>(mut attempt: impl FnMut() -> (i16, T)) -> T {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let (code, answer) = attempt();
        if !AGAIN.contains(&code) {
            assert_eq!(code, 0);
            return answer;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the coordinator does not get ready");
}

/// Where the coordinator is; all of them are ready then.
pub(super) fn find(client: &mut Connection) -> find_coordinator_response::Coordinator {
    let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(GROUP)]);
    let found = patiently(|| {
        let found = client.call(4, &request).coordinators.remove(0);
        (found.error_code, found)
    });
    patiently(|| (client.call(0, &ListGroupsRequest::default()).error_code, ()));
    found
}

fn join_of(group: &str, member_id: &str) -> JoinGroupRequest {
    let protocol = join_group_request::JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"subscription"));
    JoinGroupRequest::default()
        .with_group_id(text(group).into())
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_member_id(text(member_id))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

/// A member that has its id and is not in the group yet.
fn member_id(client: &mut Connection, group: &str) -> String {
    let joined = client.call(9, &join_of(group, ""));
    assert_eq!(joined.error_code, 79);
    assert!(joined.member_id.starts_with("raw-"), "{}", joined.member_id);
    joined.member_id.to_string()
}

fn sync_of(member_id: &str, generation: i32, assignments: &[(&str, &'static [u8])]) -> SyncGroupRequest {
    let assignments = assignments.iter().map(|(member, assignment)| {
        sync_group_request::SyncGroupRequestAssignment::default()
            .with_member_id(text(member))
            .with_assignment(Bytes::from_static(assignment))
    });
    SyncGroupRequest::default()
        .with_group_id(text(GROUP).into())
        .with_generation_id(generation)
        .with_member_id(text(member_id))
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")))
        .with_assignments(assignments.collect())
}

fn heartbeat_of(member_id: &str, generation: i32) -> HeartbeatRequest {
    HeartbeatRequest::default()
        .with_group_id(text(GROUP).into())
        .with_generation_id(generation)
        .with_member_id(text(member_id))
}

fn commit_of(member_id: &str, generation: i32, offsets: &[(&str, i32, i64)]) -> OffsetCommitRequest {
    use offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
    let topics = offsets.iter().map(|(topic, partition, offset)| {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(*partition)
            .with_committed_offset(*offset)
            .with_committed_metadata(Some(text("note")));
        OffsetCommitRequestTopic::default().with_name(text(topic).into()).with_partitions(vec![partition])
    });
    OffsetCommitRequest::default()
        .with_group_id(text(GROUP).into())
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(text(member_id))
        .with_topics(topics.collect())
}

fn leave_of(group: &str, member_id: &str) -> LeaveGroupRequest {
    let member = leave_group_request::MemberIdentity::default().with_member_id(text(member_id));
    LeaveGroupRequest::default().with_group_id(text(group).into()).with_members(vec![member])
}

/// Two members of one generation, the leader first; each with what it was assigned.
fn two_members(one: &mut Connection, two: &mut Connection) -> (String, String, i32) {
    let ids = (member_id(one, GROUP), member_id(two, GROUP));
    // Both wait for the same rebalance, the first at the longest for the initial delay.
    let sent = (one.send(9, &join_of(GROUP, &ids.0)), two.send(9, &join_of(GROUP, &ids.1)));
    let joined = one.answer::<JoinGroupRequest>(9, sent.0);
    let other = two.answer::<JoinGroupRequest>(9, sent.1);
    assert_eq!((joined.error_code, other.error_code), (0, 0));
    assert_eq!(joined.generation_id, other.generation_id);
    assert_eq!(joined.leader, other.leader);
    assert_eq!(joined.members.len() + other.members.len(), 2, "the leader knows both");
    (ids.0, ids.1, joined.generation_id)
}

#[test]
fn two_members_share_a_group_from_join_to_leave() {
    let node = Node::start(3);
    let (mut one, mut two) = (node.connect(), node.connect_to(1));
    one.create("t");
    // Each is sent to the listener that it came in by.
    assert_eq!(find(&mut one).port, i32::from(node.addresses.listeners[0].port()));
    assert_eq!(find(&mut two).port, i32::from(node.addresses.listeners[1].port()));
    let (first, second, generation) = two_members(&mut one, &mut two);

    let unnamed = sync_of(&first, generation, &[]).with_protocol_name(None);
    assert_eq!(one.call(5, &unnamed).error_code, 23);
    // Whoever leads assigns; what others bring is not looked at.
    let assignments: [(&str, &[u8]); 2] = [(&first, b"for one"), (&second, b"for two")];
    let sent = (
        one.send(5, &sync_of(&first, generation, &assignments)),
        two.send(5, &sync_of(&second, generation, &assignments)),
    );
    let synced = (one.answer::<SyncGroupRequest>(5, sent.0), two.answer::<SyncGroupRequest>(5, sent.1));
    assert_eq!((synced.0.error_code, &synced.0.assignment[..]), (0, &b"for one"[..]));
    assert_eq!((synced.1.error_code, &synced.1.assignment[..]), (0, &b"for two"[..]));
    assert_eq!(one.call(4, &heartbeat_of(&first, generation)).error_code, 0);
    assert_eq!(two.call(0, &heartbeat_of(&second, generation + 1)).error_code, 22);

    let commit = commit_of(&first, generation, &[("t", 1, 42), ("t", 99, 1), ("x", 0, 1)]);
    let committed = one.call(8, &commit);
    let codes: Vec<_> = committed.topics.iter().map(|topic| topic.partitions[0].error_code).collect();
    assert_eq!(codes, [0, 3, 3]);
    for version in 2..=7 {
        let fetch = OffsetFetchRequest::default().with_group_id(text(GROUP).into()).with_topics(None);
        let fetched = two.call(version, &fetch);
        let partition = &fetched.topics[0].partitions[0];
        assert_eq!((partition.partition_index, partition.committed_offset), (1, 42));
        assert_eq!(partition.metadata.as_ref().unwrap().as_str(), "note");
    }

    let described = describe(&mut two);
    assert_eq!((described.group_state.as_str(), described.members.len()), ("Stable", 2));
    assert!(described.members.iter().all(|member| member.client_host.as_str() == "/127.0.0.1"));
    assert!(described.members.iter().all(|member| &member.member_metadata[..] == b"subscription"));

    // One leaves: the other has to join again.
    assert_eq!(one.call(5, &leave_of(GROUP, &first)).members[0].error_code, 0);
    assert_eq!(two.call(4, &heartbeat_of(&second, generation)).error_code, 27);
    let rejoined = two.call(9, &join_of(GROUP, &second));
    assert_eq!((rejoined.error_code, rejoined.generation_id), (0, generation + 1));
    let leave = LeaveGroupRequest::default().with_group_id(text(GROUP).into()).with_member_id(text(&second));
    assert_eq!(two.call(1, &leave).error_code, 0);
    assert_eq!(describe(&mut one).group_state.as_str(), "Empty");
}

fn describe(client: &mut Connection) -> describe_groups_response::DescribedGroup {
    let request = DescribeGroupsRequest::default().with_groups(vec![text(GROUP).into()]);
    let mut groups = client.call(5, &request).groups;
    assert_eq!((groups.len(), groups[0].error_code), (1, 0));
    groups.remove(0)
}

/// A consumer that is in no group commits.
pub(super) fn commit_alone(client: &mut Connection, group: &str, offset: i64) {
    let commit = commit_of("", -1, &[("t", 0, offset)]).with_group_id(text(group).into());
    patiently(|| (client.call(8, &commit).topics[0].partitions[0].error_code, ()));
}

#[test]
fn many_groups_are_asked_at_once_and_answered_in_order() {
    let node = Node::start(3);
    let mut client = node.connect();
    client.create("t");
    find(&mut client);
    let names: Vec<String> = (0..30).map(|number| format!("group-{number}")).collect();
    for (offset, name) in (0..).zip(&names) {
        commit_alone(&mut client, name, offset);
    }
    let group = |name: &String| {
        let group = offset_fetch_request::OffsetFetchRequestGroup::default().with_topics(None);
        group.with_group_id(text(name).into())
    };
    let fetched =
        client.call(8, &OffsetFetchRequest::default().with_groups(names.iter().map(group).collect()));
    let offsets = fetched
        .groups
        .iter()
        .map(|group| (group.group_id.to_string(), group.topics[0].partitions[0].committed_offset));
    assert_eq!(offsets.collect::<Vec<_>>(), names.iter().cloned().zip(0..).collect::<Vec<_>>());

    let listed = patiently(|| {
        let listed = client.call(5, &ListGroupsRequest::default());
        (listed.error_code, listed)
    });
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(listed.groups.iter().map(|group| group.group_id.to_string()).collect::<Vec<_>>(), sorted);

    let ids = |names: &[&str]| names.iter().map(|name| text(name).into()).collect::<Vec<GroupId>>();
    let describe = DescribeGroupsRequest::default().with_groups(ids(&["none", "group-7"]));
    let described = client.call(6, &describe);
    let codes: Vec<_> =
        described.groups.iter().map(|group| (group.error_code, group.group_state.as_str())).collect();
    assert_eq!(codes, [(69, "Dead"), (0, "Empty")]);
    assert_eq!(described.groups[0].error_message.as_ref().unwrap().as_str(), "Group none not found.");

    let delete = OffsetDeleteRequest::default().with_group_id(text("group-3").into()).with_topics(vec![
        offset_delete_request::OffsetDeleteRequestTopic::default()
            .with_name(text("t").into())
            .with_partitions(
                [0, 77]
                    .map(|index| {
                        offset_delete_request::OffsetDeleteRequestPartition::default()
                            .with_partition_index(index)
                    })
                    .to_vec(),
            ),
    ]);
    let deleted = client.call(0, &delete);
    let codes: Vec<_> = deleted.topics[0].partitions.iter().map(|partition| partition.error_code).collect();
    assert_eq!((deleted.error_code, codes), (0, vec![0, 3]));

    let delete = DeleteGroupsRequest::default().with_groups_names(ids(&["group-7", "none", "group-8"]));
    let codes: Vec<_> = client.call(2, &delete).results.iter().map(|result| result.error_code).collect();
    assert_eq!(codes, [0, 69, 0]);
    assert_eq!(client.call(6, &describe).groups[1].error_code, 69);
}

#[test]
fn a_join_that_waits_ends_with_the_node_and_with_its_connection() {
    let node = Node::start(2);
    let mut client = node.connect();
    find(&mut client);
    let (mut stays, mut goes) = (node.connect(), node.connect());
    let ids = (member_id(&mut stays, GROUP), member_id(&mut goes, GROUP));
    // Who waits for others that do not come: the initial delay is some seconds.
    let sent = stays.send(9, &join_of(GROUP, &ids.0));
    goes.send(9, &join_of(GROUP, &ids.1));
    drop(goes);
    patiently(|| {
        let is_waiting = describe(&mut client).members.iter().any(|member| *member.member_id == *ids.0);
        (if is_waiting { 0 } else { AGAIN[0] }, ())
    });
    node.stop.send_replace(true);
    let answer = stays.answer::<JoinGroupRequest>(9, sent);
    assert!([0, 16].contains(&answer.error_code), "{}", answer.error_code);
    assert_eq!(stays.receive(), None);
}

/// A second one would wait for the memory that the first has, until the first is answered; and then
/// for the first member, which does not come back.
#[test]
fn joins_that_wait_hold_none_of_the_memory_for_requests() {
    let listener = ListenerOptions { name: "plain".to_owned(), bind: SocketAddr::from(([127, 0, 0, 1], 0)) };
    let options =
        NetOptions { listeners: vec![listener], request_memory_bytes: 300_000, ..NetOptions::default() };
    let node = Node::start_with(1, options);
    let mut client = node.connect();
    find(&mut client);
    let mut waiting: Vec<_> = (0..4).map(|_| node.connect()).collect();
    for member in &mut waiting {
        let mut join = join_of(GROUP, "");
        join.protocols[0].metadata = Bytes::from(vec![0; 100_000]);
        // Before version 4 a member is in the group at once, and waits for others.
        member.send(3, &join);
    }
    patiently(|| {
        let are_all_there = describe(&mut client).members.len() == waiting.len();
        (if are_all_there { 0 } else { AGAIN[0] }, ())
    });
}

#[test]
fn the_new_protocol_is_announced_and_served() {
    let node = Node::start(3);
    let mut client = node.connect();
    let topic = client.create("t");
    let name = StrBytes::from_static_str("raw");
    let hello = ApiVersionsRequest::default();
    let hello = hello.with_client_software_name(name.clone()).with_client_software_version(name);
    let versions = client.call(4, &hello);
    let feature = &versions.finalized_features[0];
    assert_eq!((feature.name.as_str(), feature.max_version_level), ("group.version", 1));
    assert!(versions.finalized_features_epoch >= 0);

    find(&mut client);
    let beat = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(text(GROUP).into())
        .with_member_id(text("me"))
        .with_rebalance_timeout_ms(30_000)
        .with_subscribed_topic_names(Some(vec![text("t").into()]))
        .with_topic_partitions(Some(Vec::new()));
    let nameless = client.call(1, &beat.clone().with_member_id(text("")));
    assert_eq!(nameless.error_code, 42);
    let joined = patiently(|| {
        let joined = client.call(1, &beat);
        (joined.error_code, joined)
    });
    assert_eq!(joined.member_id.as_ref().unwrap().as_str(), "me");
    let assigned = &joined.assignment.unwrap().topic_partitions[0];
    assert_eq!((assigned.topic_id, assigned.partitions.len()), (topic, 4));

    let describe = ConsumerGroupDescribeRequest::default().with_group_ids(vec![
        text(GROUP).into(),
        text("none").into(),
        text("").into(),
    ]);
    let described = client.call(1, &describe).groups;
    assert_eq!(described.iter().map(|group| group.error_code).collect::<Vec<_>>(), [0, 69, 24]);
    assert_eq!((described[0].group_state.as_str(), described[0].members[0].member_type), ("Stable", 1));
    let leave = beat.with_member_epoch(-1).with_subscribed_topic_names(None).with_topic_partitions(None);
    assert_eq!(client.call(1, &leave).member_epoch, -1);
}

#[test]
fn clients_write_to_no_internal_topic() {
    let node = Node::start(2);
    let mut client = node.connect();
    // Who asks for it creates it as FindCoordinator does.
    let described = client.call(12, &super::metadata_of("__consumer_offsets"));
    assert_eq!(described.topics[0].error_code, 0);
    assert_eq!((described.topics[0].partitions.len(), described.topics[0].is_internal), (50, true));
    find(&mut client);
    let sent = client.send_produce(9, -1, "__consumer_offsets", 0, &["x"]);
    assert_eq!(client.produced(9, sent).0, 17);
    let transaction = FindCoordinatorRequest::default().with_key(text("t")).with_key_type(1);
    assert_eq!(client.call(3, &transaction).error_code, 15);
    assert_eq!(client.call(3, &transaction.clone().with_key_type(9)).error_code, 42);
}
