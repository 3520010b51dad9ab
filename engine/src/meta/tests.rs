//! The state machine's rules, and what recovery makes of a journal. Whole-node behaviour is in
//! `tests/meta.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::{CommittedLeaderId, EntryPayload};
use proptest::prelude::*;
use uuid::Uuid;

use super::command::{
    ConfigChange, ConfigOutcome, ConfigOwner, MetaCommand, MetaReply, NewPartitions, Placement, TopicSpec,
};
use super::image::{ListenerMeta, MetaImage, NodeConfigs};
use super::log::RaftLog;
use super::raft::{LogId, RaftEntry, SnapshotMeta, Vote};
use super::recovery::{MetaRecovery, Piece, RecoveryError};
use super::topics::{self, CreationDefaults};
use super::{state, wire};
use crate::api::{NewTopic, TopicError, TopicRef};
use crate::journal::{Entry, EntryKind};
use crate::topic_config::NodeDefaults;
use crate::types::{LeaderEpoch, Lsn, NodeId, Offset, PartitionId, TopicId, TopicPartition};

fn id(number: u128) -> TopicId {
    TopicId(Uuid::from_u128(number))
}

fn register(node: i32) -> MetaCommand {
    let listener = ListenerMeta { name: "PLAIN".to_owned(), host: "localhost".to_owned(), port: 9092 };
    MetaCommand::RegisterNode { node: NodeId(node), listeners: vec![listener], rack: None }
}

fn spread(number: u128, name: &str, partitions: i32, replication_factor: i16) -> TopicSpec {
    TopicSpec {
        id: id(number),
        name: name.to_owned(),
        placement: Placement::Spread { partitions, replication_factor },
        configs: BTreeMap::new(),
    }
}

fn manual(name: &str, assignments: &[(i32, &[i32])]) -> TopicSpec {
    let nodes = |nodes: &[i32]| nodes.iter().copied().map(NodeId).collect();
    let assignments = assignments.iter().map(|(partition, replicas)| (*partition, nodes(replicas)));
    TopicSpec { placement: Placement::Manual(assignments.collect()), ..spread(1, name, 1, 1) }
}

fn image_of(commands: &[MetaCommand]) -> Arc<MetaImage> {
    let mut image = Arc::default();
    for command in commands {
        state::apply(&mut image, command.clone());
    }
    image
}

fn refused(image: &MetaImage, spec: TopicSpec) -> String {
    topics::plan(image, spec).unwrap_err().to_string()
}

#[test]
fn names_follow_kafkas_rules() {
    let image = image_of(&[register(1)]);
    for good in ["a", "A.b_c-9", &"x".repeat(249)] {
        assert!(topics::plan(&image, spread(1, good, 1, 1)).is_ok(), "{good}");
    }
    for bad in ["", ".", "..", "a b", "a/b", "ü", &"x".repeat(250)] {
        let error = topics::plan(&image, spread(1, bad, 1, 1)).unwrap_err();
        assert!(matches!(error, TopicError::InvalidName(_)), "{bad}: {error}");
    }
}

#[test]
fn names_that_differ_only_in_dot_and_underscore_collide() {
    let create = |number, name: &str| MetaCommand::CreateTopics { topics: vec![spread(number, name, 1, 1)] };
    let image = image_of(&[register(1), create(1, "a.b_c"), create(2, "az"), create(3, "_x")]);
    assert!(refused(&image, spread(9, "a_b.c", 1, 1)).contains("collides with existing topic: a.b_c"));
    assert!(refused(&image, spread(9, ".x", 1, 1)).contains("collides with existing topic: _x"));
    assert_eq!(refused(&image, spread(9, "a.b_c", 1, 1)), "topic 'a.b_c' already exists");
    assert!(topics::plan(&image, spread(9, "a.b.d", 1, 1)).is_ok());
}

#[test]
fn counts_are_refused_in_kafkas_words() {
    let image = image_of(&[register(1)]);
    let plan = |partitions, factor| topics::plan(&image, spread(1, "t", partitions, factor)).unwrap_err();
    assert!(matches!(plan(0, 1), TopicError::InvalidPartitions(_)));
    assert!(matches!(plan(-1, 1), TopicError::InvalidPartitions(_)));
    assert!(matches!(plan(1, 0), TopicError::InvalidReplicationFactor(_)));
    assert_eq!(
        plan(1, 3),
        TopicError::InvalidReplicationFactor(
            "Unable to replicate the partition 3 time(s): The target replication factor of 3 cannot be \
             reached because only 1 broker(s) are registered."
                .to_owned()
        )
    );
    assert!(matches!(plan(i32::MAX, 1), TopicError::PolicyViolation(_)));
}

#[test]
fn a_manual_assignment_must_be_consistent() {
    let image = image_of(&[register(1), register(2)]);
    let topic = topics::plan(&image, manual("t", &[(1, &[2, 1]), (0, &[1, 2])])).unwrap();
    assert_eq!(topic.partition(PartitionId(1)).unwrap().leader, Some(NodeId(2)));
    for (assignments, why) in [
        (&[(0, &[][..])][..], "empty replica list"),
        (&[(0, &[3][..])], "broker 3, but no such broker"),
        (&[(0, &[1, 1][..])], "broker 1 more than once"),
        (&[(0, &[1, 2][..]), (1, &[1])], "not consistent"),
        (&[(0, &[1][..]), (0, &[2])], "multiple manual partition assignments for partition 0"),
        (&[(0, &[1][..]), (2, &[2])], "consecutive"),
        (&[(1, &[1][..])], "consecutive"),
    ] {
        let error = refused(&image, manual("t", assignments));
        assert!(error.contains(why), "{error} should contain {why}");
    }
}

#[test]
fn a_request_gives_counts_or_assignments_and_known_configs() {
    let configs = NodeDefaults::default();
    let defaults = CreationDefaults { partitions: 4, replication_factor: 1, configs: &configs };
    let topic = |partitions, replication_factor| NewTopic {
        name: "t".to_owned(),
        partitions,
        replication_factor,
        ..NewTopic::default()
    };
    let spec = |topic: &NewTopic| topics::spec(topic, id(1), defaults);
    assert_eq!(
        spec(&topic(-1, -1)).unwrap().placement,
        Placement::Spread { partitions: 4, replication_factor: 1 }
    );
    let assigned = |topic| NewTopic { assignments: vec![(0, vec![NodeId(1)])], ..topic };
    assert!(spec(&assigned(topic(-1, -1))).is_ok());
    assert!(matches!(spec(&assigned(topic(1, -1))), Err(TopicError::InvalidRequest(_))));
    assert!(matches!(spec(&assigned(topic(-1, 1))), Err(TopicError::InvalidRequest(_))));
    let bad = NewTopic { configs: vec![("no.such".to_owned(), Some("1".to_owned()))], ..topic(1, 1) };
    assert_eq!(spec(&bad), Err(TopicError::InvalidConfig("Unknown topic config name: no.such".to_owned())));
}

#[test]
fn one_request_cannot_name_a_topic_twice() {
    let mut image = image_of(&[register(1)]);
    let topics = vec![spread(1, "t", 1, 1), spread(2, "u", 1, 1), spread(3, "t", 1, 1)];
    let MetaReply::Created(created) = state::apply(&mut image, MetaCommand::CreateTopics { topics }) else {
        panic!("not a creation's reply")
    };
    assert_eq!(created.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false]);
    let refs = vec![TopicRef::Name("u".to_owned()), TopicRef::Id(id(2)), TopicRef::Id(id(7))];
    let MetaReply::Deleted(deleted) = state::apply(&mut image, MetaCommand::DeleteTopics { topics: refs })
    else {
        panic!("not a deletion's reply")
    };
    assert!(matches!(deleted[0], Err(TopicError::InvalidRequest(_))));
    assert!(matches!(deleted[1], Err(TopicError::InvalidRequest(_))));
    assert_eq!(deleted[2], Err(TopicError::UnknownId(id(7))));
    assert!(image.names.contains_key("u"));
}

fn grow(name: &str, count: i32, assignments: Option<&[&[i32]]>) -> NewPartitions {
    let nodes = |nodes: &&[i32]| nodes.iter().copied().map(NodeId).collect();
    let assignments = assignments.map(|given| given.iter().map(nodes).collect());
    NewPartitions { name: name.to_owned(), count, assignments }
}

fn grown(image: &mut Arc<MetaImage>, topic: NewPartitions) -> Result<usize, TopicError> {
    match state::apply(image, MetaCommand::CreatePartitions { topics: vec![topic] }) {
        MetaReply::PartitionsCreated(mut grown) => grown.remove(0).map(|topic| topic.partitions.len()),
        reply => panic!("not a reply about partitions: {reply:?}"),
    }
}

#[test]
fn a_topic_grows_and_its_older_partitions_stay_where_they_are() {
    let create = |number, name: &str, partitions| MetaCommand::CreateTopics {
        topics: vec![spread(number, name, partitions, 1)],
    };
    let mut image = image_of(&[register(1), create(1, "t", 3), create(2, "u", 2), register(1)]);
    let before = Arc::clone(&image);
    assert_eq!(grown(&mut image, grow("t", 5, None)), Ok(5));
    assert_eq!((image.next_slot, image.version), (before.next_slot + 2, before.version + 1));
    let (old, new) = (&before.topics[&id(1)], &image.topics[&id(1)]);
    assert_eq!(old.partitions[..], new.partitions[..3]);
    for shards in 1..5 {
        for partition in (0..3).map(PartitionId) {
            assert_eq!(old.shard_of(partition, shards), new.shard_of(partition, shards));
        }
    }
    assert_eq!(new.partitions[4].leader, Some(NodeId(1)));
    assert_eq!(new.partitions[4].leader_epoch, LeaderEpoch(0));
    assert_eq!(before.topics[&id(2)], image.topics[&id(2)]);
}

#[test]
fn growth_is_refused_in_kafkas_words() {
    let topics = vec![spread(1, "t", 3, 1), spread(2, "__consumer_offsets", 2, 1)];
    let mut image = image_of(&[register(1), register(2), MetaCommand::CreateTopics { topics }]);
    let before = wire::encode_image(&image);
    let mut refused = |topic| grown(&mut image, topic).unwrap_err();
    let count = |why: &str| TopicError::InvalidPartitions(why.to_owned());
    assert_eq!(refused(grow("t", 3, None)), count("Topic already has 3 partition(s)."));
    let fewer = "The topic t currently has 3 partition(s); 2 would not be an increase.";
    assert_eq!(refused(grow("t", 2, None)), count(fewer));
    let negative = "The topic t currently has 3 partition(s); -1 would not be an increase.";
    assert_eq!(refused(grow("t", -1, None)), count(negative));
    assert_eq!(refused(grow("x", 3, None)), TopicError::UnknownName("x".to_owned()));
    assert!(matches!(refused(grow("__consumer_offsets", 3, None)), TopicError::InvalidRequest(_)));
    assert!(matches!(refused(grow("t", i32::MAX, None)), TopicError::PolicyViolation(_)));
    for (assignments, why) in [
        (&[][..], "Attempted to add 2 additional partition(s), but only 0 assignment(s) were specified."),
        (&[&[1][..]], "but only 1 assignment(s)"),
        (&[&[1][..], &[]], "empty replica list"),
        (&[&[1][..], &[3]], "broker 3, but no such broker"),
        (&[&[1][..], &[1, 2]], "not consistent with previous partitions, which have 1 replica(s)"),
    ] {
        let error = refused(grow("t", 5, Some(assignments)));
        assert!(matches!(error, TopicError::InvalidAssignment(_)), "{error:?}");
        assert!(error.to_string().contains(why), "{error} should contain {why}");
    }
    let twice = vec![grow("t", 4, None), grow("t", 5, None)];
    let reply = state::apply(&mut image, MetaCommand::CreatePartitions { topics: twice });
    let MetaReply::PartitionsCreated(grown) = reply else { panic!("not a reply about partitions") };
    assert!(grown.iter().all(|it| matches!(it, Err(TopicError::InvalidRequest(_)))), "{grown:?}");
    assert_eq!(wire::encode_image(&image), before);
    assert_eq!(self::grown(&mut image, grow("t", 5, Some(&[&[2], &[1]]))), Ok(5));
    assert_eq!(image.topics[&id(1)].partitions[3].leader, Some(NodeId(2)));
}

fn configs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn altered(image: &mut Arc<MetaImage>, changes: Vec<ConfigChange>) -> Vec<ConfigOutcome> {
    match state::apply(image, MetaCommand::AlterConfigs { changes }) {
        MetaReply::ConfigsAltered(outcomes) => outcomes,
        reply => panic!("not a reply about configs: {reply:?}"),
    }
}

#[test]
fn configs_change_if_they_are_what_the_proposer_knew() {
    let create = MetaCommand::CreateTopics { topics: vec![spread(1, "t", 3, 1)] };
    let mut image = image_of(&[register(1), create]);
    let change = |owner: &ConfigOwner, before: &[(&str, &str)], after: &[(&str, &str)]| ConfigChange {
        owner: owner.clone(),
        before: configs(before),
        after: configs(after),
    };
    for owner in [ConfigOwner::Topic(id(1)), ConfigOwner::AllNodes, ConfigOwner::Node(NodeId(7))] {
        let one = [("a", "1")];
        let two = [("a", "1"), ("b", "2")];
        let changes =
            vec![change(&owner, &[], &one), change(&owner, &[], &[("a", "9")]), change(&owner, &one, &two)];
        let expected = [ConfigOutcome::Made, ConfigOutcome::Outdated, ConfigOutcome::Made];
        assert_eq!(altered(&mut image, changes), expected);
        assert_eq!(state::configs_of(&image, &owner), Some(&configs(&two)));
        let version = image.version;
        assert_eq!(altered(&mut image, vec![change(&owner, &two, &two)]), [ConfigOutcome::Made]);
        assert_eq!(image.version, version, "nothing changed");
        assert_eq!(altered(&mut image, vec![change(&owner, &two, &[])]), [ConfigOutcome::Made]);
    }
    assert_eq!(*image.node_configs, NodeConfigs::default(), "nothing is left of what is not set");
    let gone = change(&ConfigOwner::Topic(id(2)), &[], &[("a", "1")]);
    assert_eq!(altered(&mut image, vec![gone]), [ConfigOutcome::UnknownTopic]);
}

#[test]
fn producer_ids_end_with_an_error_and_do_not_wrap() {
    let mut image = Arc::new(MetaImage { next_producer_id: i64::MAX - 5, ..MetaImage::default() });
    let take = |image: &mut _, count| {
        state::apply(image, MetaCommand::AllocateProducerIds { node: NodeId(1), count })
    };
    assert_eq!(take(&mut image, 6), MetaReply::ProducerIdsExhausted);
    assert_eq!(take(&mut image, 5), MetaReply::ProducerIds { first: i64::MAX - 5, count: 5 });
}

#[test]
fn the_written_form_does_not_change_unnoticed() {
    let command = MetaCommand::CreateTopics { topics: vec![spread(7, "t", 3, 1)] };
    assert_eq!(
        wire::encode(&command),
        [1, 2, 1, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 1, b't', 0, 6, 2, 0]
    );
    let entry = RaftEntry {
        log_id: LogId::new(CommittedLeaderId::new(3, NodeId(1)), 9),
        payload: EntryPayload::Normal(command),
    };
    assert_eq!(wire::encode(&entry)[..6], [1, 3, 2, 9, 1, 2]);
    assert_eq!(wire::decode::<MetaCommand>(&[2, 0]), Err(wire::WireError::Version(2)));
    assert_eq!(wire::decode::<MetaCommand>(&[]), Err(wire::WireError::Empty));
    let growth = MetaCommand::CreatePartitions { topics: vec![grow("t", 4, Some(&[&[2]]))] };
    assert_eq!(wire::encode(&growth), [1, 5, 1, 1, b't', 8, 1, 1, 1, 4]);
    let change = ConfigChange {
        owner: ConfigOwner::Node(NodeId(1)),
        before: BTreeMap::new(),
        after: configs(&[("a", "1")]),
    };
    let change = MetaCommand::AlterConfigs { changes: vec![change] };
    assert_eq!(wire::encode(&change), [1, 6, 1, 2, 2, 0, 1, 1, b'a', 1, b'1']);
}

/// An image as the first version of Corelog wrote it: cluster "c", version 3, node 1, topic "t" of one
/// partition, and one deleted topic.
const OLD_IMAGE: &[u8] = &[
    1, 1, b'c', 3, 1, 2, 1, 1, 1, b'P', 1, b'h', 0x84, 0x47, 0, 1, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 7, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 1, b't', 0, 1, 1, 2, 4, 1, 2, 1, 2, 1, 1,
    b'a', 1, b'1', 0, 1, 1, b't', 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 1, 0, 1, 16, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9,
];

#[test]
fn an_image_of_the_first_version_is_read() {
    let image = wire::decode_image(OLD_IMAGE).unwrap();
    assert_eq!((image.cluster_id.as_str(), image.version, image.next_slot), ("c", 3, 1));
    assert_eq!(image.nodes[&NodeId(1)].listeners[0].port, 9092);
    let topic = image.topic_named("t").unwrap();
    assert_eq!((topic.id, topic.partitions[0].leader_epoch), (id(7), LeaderEpoch(2)));
    assert_eq!(topic.configs, configs(&[("a", "1")]));
    assert!(image.deleted_topics.contains(&id(9)));
    assert_eq!(*image.node_configs, NodeConfigs::default());
    // Written anew it has the version of today, and node configs at its end.
    let new = wire::encode_image(&image);
    assert_eq!((new[0], &new[1..new.len() - 2], &new[new.len() - 2..]), (2, &OLD_IMAGE[1..], &[0, 0][..]));
    assert_eq!(
        wire::decode_image(&OLD_IMAGE[..40]).unwrap_err().to_string().split(':').next(),
        Some("malformed")
    );
    assert_eq!(wire::decode_image(&[3, 0]).unwrap_err(), wire::WireError::Version(3));
    assert_eq!(wire::decode_image(&[OLD_IMAGE, &[0]].concat()).unwrap_err(), wire::WireError::LeftOver(1));
}

#[test]
fn a_snapshot_of_the_first_version_starts_a_node() {
    let meta = SnapshotMeta { last_log_id: Some(raft_entry(4).log_id), ..SnapshotMeta::default() };
    let bytes = wire::encode_before(&meta, OLD_IMAGE);
    let payload = wire::encode_before(&Piece { index: 0, count: 1 }, &bytes);
    assert_eq!(recovered(&[journal_entry(EntryKind::RaftSnapshot, payload)]).unwrap(), (3, Some(Lsn(0))));
}

fn raft_entry(index: u64) -> RaftEntry {
    RaftEntry {
        log_id: LogId::new(CommittedLeaderId::new(1, NodeId(1)), index),
        payload: EntryPayload::Blank,
    }
}

#[test]
fn what_a_change_supersedes_is_needed_until_the_change_is_synced() {
    let mut log = RaftLog::default();
    assert_eq!(log.needed_from(Lsn(0)), None);
    log.save_vote(Lsn(3), Vote::new(1, NodeId(1)));
    log.append(Lsn(4), raft_entry(0));
    log.append(Lsn(5), raft_entry(1));
    log.save_vote(Lsn(6), Vote::new_committed(1, NodeId(1)));
    assert_eq!(log.needed_from(Lsn(6)), Some(Lsn(3)), "the new vote is not synced");
    assert_eq!(log.needed_from(Lsn(7)), Some(Lsn(4)));

    log.purge(Lsn(8), raft_entry(0).log_id);
    assert_eq!(log.needed_from(Lsn(8)), Some(Lsn(4)), "the purge is not synced");
    assert_eq!(log.needed_from(Lsn(9)), Some(Lsn(5)));

    let mut next = 10;
    let last = log.restate(|_| {
        next += 1;
        (Lsn(next), Lsn(next))
    });
    assert_eq!(last, Some(Lsn(13)), "purge, vote and one entry");
    assert_eq!(log.needed_from(Lsn(13)), Some(Lsn(5)), "the last statement is not synced");
    assert_eq!(log.needed_from(Lsn(14)), Some(Lsn(11)));
}

fn journal_entry(kind: EntryKind, payload: Vec<u8>) -> Entry {
    Entry {
        kind,
        target: TopicPartition::default(),
        base_offset: Offset(0),
        leader_epoch: LeaderEpoch(0),
        payload: payload.into(),
    }
}

/// The entries of a snapshot in three pieces that covers everything up to `index`.
fn pieces(index: u64, image: &MetaImage) -> Vec<Entry> {
    let meta = SnapshotMeta { last_log_id: Some(raft_entry(index).log_id), ..SnapshotMeta::default() };
    let bytes = wire::encode_before(&meta, &wire::encode_image(image));
    let pieces = bytes.chunks(bytes.len().div_ceil(3));
    assert_eq!(pieces.len(), 3);
    (0..3)
        .zip(pieces)
        .map(|(index, bytes)| {
            let payload = wire::encode_before(&Piece { index, count: 3 }, bytes);
            journal_entry(EntryKind::RaftSnapshot, payload)
        })
        .collect()
}

/// What starting from these entries gives: the image's version, and which entry is needed first.
fn recovered(entries: &[Entry]) -> Result<(u64, Option<Lsn>), RecoveryError> {
    let mut recovery = MetaRecovery::default();
    for (lsn, entry) in (0..).zip(entries) {
        recovery.replay(Lsn(lsn), entry);
    }
    let mut recovered = recovery.finish()?;
    Ok((recovered.image.version, recovered.log.needed_from(Lsn(u64::MAX))))
}

#[test]
fn a_snapshot_counts_once_all_of_its_pieces_are_there() {
    let image = |version| MetaImage { version, ..MetaImage::default() };
    let (old, new) = (pieces(5, &image(50)), pieces(9, &image(90)));
    assert_eq!(recovered(&old).unwrap(), (50, Some(Lsn(0))));
    assert_eq!(recovered(&[&old[..], &new].concat()).unwrap(), (90, Some(Lsn(3))));
    assert_eq!(recovered(&[&old[..], &new[..2]].concat()).unwrap(), (50, Some(Lsn(0))), "no end");
    assert_eq!(recovered(&[&old[1..], &new].concat()).unwrap(), (90, Some(Lsn(2))), "no beginning");
    assert_eq!(recovered(&[&new[..2], &new].concat()).unwrap(), (90, Some(Lsn(2))), "begun again");
    assert_eq!(recovered(&[&new[..], &old].concat()).unwrap(), (90, Some(Lsn(0))), "an older one");
}

#[test]
fn entries_that_a_torn_restatement_brought_back_stay_purged() {
    let entry = |index| journal_entry(EntryKind::RaftEntry, wire::encode(&raft_entry(index)));
    let purge = |index| journal_entry(EntryKind::RaftPurge, wire::encode(&raft_entry(index).log_id));
    let snapshot = pieces(2, &MetaImage { version: 7, ..MetaImage::default() });
    let begun = [&snapshot[..], &[entry(1), entry(2), entry(3), purge(2), entry(1), entry(2)]].concat();
    assert_eq!(recovered(&begun).unwrap(), (7, Some(Lsn(0))));
    let gone = [entry(0), entry(1), purge(1)];
    assert!(matches!(recovered(&gone), Err(RecoveryError::NoSnapshot { purged: 1 })));
    assert!(matches!(recovered(&[entry(1)]), Err(RecoveryError::Hole { expected: 0, found: 1 })));
}

#[test]
fn a_truncation_is_replayed() {
    let entry = |index| journal_entry(EntryKind::RaftEntry, wire::encode(&raft_entry(index)));
    let truncate = journal_entry(EntryKind::RaftTruncate, wire::encode(&raft_entry(1).log_id));
    let mut recovery = MetaRecovery::default();
    for (lsn, entry) in (0..).zip([entry(0), entry(1), entry(2), truncate, entry(1)]) {
        recovery.replay(Lsn(lsn), &entry);
    }
    assert_eq!(recovery.finish().unwrap().log.last(), Some(raft_entry(1).log_id));
}

fn any_command() -> impl Strategy<Value = MetaCommand> {
    let name = prop_oneof!["[a-c][._][a-c]", "[a-f]", Just("bad name".to_owned())];
    let number = prop_oneof![2 => any::<u128>(), 1 => 0..6_u128];
    let topic = (number, name.clone(), -1..6_i32, -1..4_i16)
        .prop_map(|(number, name, partitions, factor)| spread(number, &name, partitions, factor));
    let growth = (name.clone(), -1..12_i32, prop::option::of(prop::collection::vec(1..5_i32, 0..4)));
    let growth = growth.prop_map(|(name, count, nodes)| {
        let assignments = nodes.map(|nodes| nodes.into_iter().map(|node| vec![NodeId(node)]).collect());
        NewPartitions { name, count, assignments }
    });
    let owner = prop_oneof![
        2 => (0..6_u128).prop_map(|number| ConfigOwner::Topic(id(number))),
        1 => Just(ConfigOwner::AllNodes),
        1 => (1..3_i32).prop_map(|node| ConfigOwner::Node(NodeId(node))),
    ];
    let values = || prop::collection::btree_map("[ab]", "[12]", 0..2);
    let change = (owner, values(), values());
    let change = change.prop_map(|(owner, before, after)| ConfigChange { owner, before, after });
    let reference =
        prop_oneof![name.prop_map(TopicRef::Name), any::<u128>().prop_map(|n| TopicRef::Id(id(n)))];
    prop_oneof![
        1 => "[a-z]{4}".prop_map(|cluster_id| MetaCommand::InitCluster { cluster_id }),
        2 => (1..5_i32).prop_map(register),
        6 => prop::collection::vec(topic, 1..4).prop_map(|topics| MetaCommand::CreateTopics { topics }),
        3 => prop::collection::vec(reference, 1..3).prop_map(|topics| MetaCommand::DeleteTopics { topics }),
        2 => (1..1000_u32).prop_map(|count| MetaCommand::AllocateProducerIds { node: NodeId(1), count }),
        4 => prop::collection::vec(growth, 1..4).prop_map(|topics| MetaCommand::CreatePartitions { topics }),
        4 => prop::collection::vec(change, 1..4).prop_map(|changes| MetaCommand::AlterConfigs { changes }),
    ]
}

/// What must hold of every image.
fn check(image: &MetaImage) {
    assert_eq!(image.names.len(), image.topics.len());
    for (id, topic) in &image.topics {
        assert_eq!(image.names.get(&topic.name), Some(id));
        assert_eq!(*id, topic.id);
        assert!(!image.deleted_topics.contains(id));
        assert!(topic.first_slot + topic.partitions.len() as u64 <= image.next_slot);
        for partition in &topic.partitions {
            assert_eq!(partition.leader, partition.replicas.first().copied());
            assert_eq!(partition.isr, partition.replicas);
            assert!(partition.replicas.iter().all(|node| image.nodes.contains_key(node)));
        }
    }
}

/// What must hold between an image and a later one.
fn check_later(before: &MetaImage, after: &MetaImage) {
    assert!(before.version <= after.version);
    assert!(before.next_slot <= after.next_slot);
    assert!(before.next_producer_id <= after.next_producer_id);
    assert!(before.cluster_id.is_empty() || before.cluster_id == after.cluster_id);
    let changed = wire::encode_image(before) != wire::encode_image(after);
    assert_eq!(changed, before.version != after.version, "the version tells images apart");
    for (id, topic) in &before.topics {
        let Some(later) = after.topics.get(id) else {
            assert!(after.deleted_topics.contains(id));
            continue;
        };
        assert_eq!((later.name.as_str(), later.first_slot), (topic.name.as_str(), topic.first_slot));
        assert!(topic.partitions.len() <= later.partitions.len(), "a topic shrinks");
        for (old, new) in topic.partitions.iter().zip(&later.partitions) {
            assert!(old.leader_epoch <= new.leader_epoch);
            assert_eq!(old.replicas, new.replicas);
        }
    }
    for (node, meta) in &before.nodes {
        assert!(after.nodes[node].incarnation >= meta.incarnation);
    }
}

proptest! {
    #[test]
    fn any_commands_keep_the_image_consistent(commands in prop::collection::vec(any_command(), 1..60)) {
        let mut image = Arc::new(MetaImage::default());
        let mut given = Vec::new();
        let mut ids = BTreeSet::new();
        for command in commands {
            let before = Arc::clone(&image);
            let reply = state::apply(&mut image, command.clone());
            check(&image);
            check_later(&before, &image);
            match reply {
                MetaReply::ProducerIds { first, count } => given.push(first..first + i64::from(count)),
                MetaReply::Created(created) => {
                    for topic in created.into_iter().flatten() {
                        prop_assert!(ids.insert(topic.id), "an id is used twice");
                    }
                }
                MetaReply::Registered { incarnation } => {
                    let MetaCommand::RegisterNode { node, .. } = command else { unreachable!() };
                    prop_assert_eq!(incarnation, before.nodes.get(&node).map_or(0, |n| n.incarnation) + 1);
                    prop_assert_eq!(&before.node_configs, &image.node_configs);
                    for (id, topic) in &before.topics {
                        for (old, new) in topic.partitions.iter().zip(&image.topics[id].partitions) {
                            let bump = i32::from(old.leader == Some(node));
                            prop_assert_eq!(new.leader_epoch, LeaderEpoch(old.leader_epoch.0 + bump));
                        }
                    }
                }
                _ => {}
            }
        }
        prop_assert!(given.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }

    #[test]
    fn the_same_commands_give_the_same_bytes(commands in prop::collection::vec(any_command(), 1..60)) {
        let image = image_of(&commands);
        let bytes = wire::encode_image(&image);
        // Once more, through the written form, and with a snapshot in the middle.
        let (before, after) = commands.split_at(commands.len() / 2);
        let snapshot = wire::encode_image(&image_of(before));
        let mut replayed = Arc::new(wire::decode_image(&snapshot).unwrap());
        for command in after {
            let command = wire::decode(&wire::encode(command)).unwrap();
            state::apply(&mut replayed, command);
        }
        prop_assert_eq!(bytes, wire::encode_image(&replayed));
    }

    #[test]
    fn a_new_topics_replicas_are_even_over_the_nodes(
        nodes in 1..6_i32, topics in prop::collection::vec((1..9_i32, 1..4_i16), 1..20)
    ) {
        let commands: Vec<_> = (0..nodes).map(register).collect();
        let mut image = image_of(&commands);
        for (number, (partitions, factor)) in (0..).zip(topics) {
            let factor = factor.min(i16::try_from(nodes).unwrap());
            let topics = vec![spread(number, &format!("t{number}"), partitions, factor)];
            state::apply(&mut image, MetaCommand::CreateTopics { topics });
        }
        let mut led = BTreeMap::<NodeId, u64>::new();
        for partition in image.topics.values().flat_map(|topic| &topic.partitions) {
            *led.entry(partition.leader.unwrap()).or_default() += 1;
        }
        let most = led.values().max().unwrap();
        let least = if led.len() == usize::try_from(nodes).unwrap() { *led.values().min().unwrap() } else { 0 };
        prop_assert!(most - least <= 1, "{led:?}");
    }

    #[test]
    fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = wire::decode_image(&bytes);
        let _ = wire::decode::<RaftEntry>(&bytes);
        let mut versioned = vec![wire::VERSION];
        versioned.extend(&bytes);
        let _ = wire::decode_image(&versioned);
        let _ = wire::decode::<RaftEntry>(&versioned);
        let _ = wire::decode::<Vote>(&versioned);
        versioned[0] = wire::IMAGE_VERSION;
        let _ = wire::decode_image(&versioned);
    }
}
