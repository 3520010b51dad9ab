//! DeleteRecords in each version, and what it refuses.

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};

use super::*;

const OFFSET_OUT_OF_RANGE: i16 = 1;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const INVALID_TOPIC: i16 = 17;
const POLICY_VIOLATION: i16 = 44;

fn delete(topic: &'static str, wanted: &[(i32, i64)]) -> DeleteRecordsTopic {
    let partition = |(index, offset): &(i32, i64)| {
        DeleteRecordsPartition::default().with_partition_index(*index).with_offset(*offset)
    };
    DeleteRecordsTopic::default()
        .with_name(StrBytes::from_static_str(topic).into())
        .with_partitions(wanted.iter().map(partition).collect())
}

/// Low watermark and error code of each partition, in the order of the request.
fn answers(client: &mut Connection, version: i16, topics: Vec<DeleteRecordsTopic>) -> Vec<(i64, i16)> {
    let request = DeleteRecordsRequest::default().with_topics(topics).with_timeout_ms(1000);
    let response = client.call(version, &request);
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|partition| (partition.low_watermark, partition.error_code)).collect()
}

fn start_of(client: &mut Connection, topic: &'static str, partition: i32) -> i64 {
    let partition = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(-2);
    let topic = ListOffsetsTopic::default()
        .with_name(StrBytes::from_static_str(topic).into())
        .with_partitions(vec![partition.with_current_leader_epoch(-1)]);
    let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    client.call(5, &request).topics[0].partitions[0].offset
}

fn create(client: &mut Connection, topic: &'static str, policy: &'static str) {
    let config = CreatableTopicConfig::default()
        .with_name(StrBytes::from_static_str("cleanup.policy"))
        .with_value(Some(StrBytes::from_static_str(policy)));
    let topic = CreatableTopic::default()
        .with_name(StrBytes::from_static_str(topic).into())
        .with_num_partitions(4)
        .with_replication_factor(1)
        .with_configs(vec![config]);
    let created = client.call(7, &CreateTopicsRequest::default().with_topics(vec![topic]));
    assert_eq!(created.topics[0].error_code, 0);
}

fn produce(client: &mut Connection, topic: &'static str, partition: i32, values: &[&str]) {
    let sent = client.send_produce(9, -1, topic, partition, values);
    assert_eq!(client.produced(9, sent).0, 0);
}

#[test]
fn records_are_deleted_across_shards_in_every_version() {
    let node = Node::start(2);
    let mut client = node.connect();
    create(&mut client, "t", "delete");
    for partition in 0..4 {
        produce(&mut client, "t", partition, &["a", "b", "c", "d", "e"]);
    }
    assert_eq!(answers(&mut client, 0, vec![delete("t", &[(0, 1), (1, 1)])]), [(1, 0), (1, 0)]);
    assert_eq!(
        answers(&mut client, 1, vec![delete("t", &[(2, 2)]), delete("t", &[(3, 3)])]),
        [(2, 0), (3, 0)]
    );
    let all: Vec<_> = (0..4).map(|partition| (partition, -1)).collect();
    assert_eq!(answers(&mut client, 2, vec![delete("t", &all)]), [(5, 0); 4]);
    // Below the start nothing is left to delete, and that is no error.
    assert_eq!(answers(&mut client, 2, vec![delete("t", &[(0, 2)])]), [(5, 0)]);
    assert_eq!(start_of(&mut client, "t", 0), 5);
    assert_eq!(answers(&mut client, 2, Vec::new()), []);
}

#[test]
fn what_cannot_be_deleted_is_refused_each_for_itself() {
    let node = Node::start(2);
    let mut client = node.connect();
    create(&mut client, "t", "delete");
    create(&mut client, "kept", "compact");
    create(&mut client, "both", "compact,delete");
    produce(&mut client, "t", 0, &["a", "b"]);
    let wanted = vec![
        delete("t", &[(0, 3), (0, -2), (0, i64::MIN), (0, i64::MAX), (4, 0), (-1, 0), (0, 1)]),
        delete("nowhere", &[(0, 0)]),
        delete("kept", &[(0, 0), (9, 0)]),
        delete("both", &[(0, -1)]),
    ];
    let out_of_range = (-1, OFFSET_OUT_OF_RANGE);
    let unknown = (-1, UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(
        answers(&mut client, 2, wanted),
        [
            out_of_range,
            out_of_range,
            out_of_range,
            out_of_range,
            unknown,
            unknown,
            (1, 0),
            unknown,
            (-1, POLICY_VIOLATION),
            unknown,
            (0, 0),
        ]
    );
    assert_eq!(start_of(&mut client, "t", 0), 1);
}

#[test]
fn the_clusters_own_topics_are_not_deleted_from() {
    let node = Node::start(1);
    let mut client = node.connect();
    let offsets = "__consumer_offsets";
    assert_eq!(answers(&mut client, 2, vec![delete(offsets, &[(0, 0)])]), [(-1, UNKNOWN_TOPIC_OR_PARTITION)]);
    let find = FindCoordinatorRequest::default()
        .with_key_type(0)
        .with_coordinator_keys(vec![StrBytes::from_static_str("group")]);
    client.call(4, &find);
    assert_eq!(answers(&mut client, 2, vec![delete(offsets, &[(0, 0)])]), [(-1, INVALID_TOPIC)]);
}
