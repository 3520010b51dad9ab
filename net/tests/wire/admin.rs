//! What administrators ask for, over real sockets: every version, and the protocol's own errors for
//! what is wrong.

use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use super::{Connection, Node};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

type Ops<'a> = &'a [(&'a str, i8, Option<&'a str>)];

fn incremental(resources: &[(i8, &str, Ops<'_>)], validate_only: bool) -> IncrementalAlterConfigsRequest {
    use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let config = |(name, op, value): &(&str, i8, Option<&str>)| {
        let config = AlterableConfig::default().with_name(text(name)).with_config_operation(*op);
        config.with_value(value.map(text))
    };
    let resource = |(kind, name, ops): &(i8, &str, Ops<'_>)| {
        let resource = AlterConfigsResource::default().with_resource_type(*kind);
        resource.with_resource_name(text(name)).with_configs(ops.iter().map(config).collect())
    };
    IncrementalAlterConfigsRequest::default()
        .with_resources(resources.iter().map(resource).collect())
        .with_validate_only(validate_only)
}

/// Error code and message of one change.
fn altered(client: &mut Connection, kind: i8, name: &str, ops: Ops<'_>) -> (i16, String) {
    let response = client.call(1, &incremental(&[(kind, name, ops)], false));
    let result = &response.responses[0];
    (result.error_code, result.error_message.as_deref().unwrap_or_default().to_owned())
}

/// The value of a config and where it is set.
fn config(client: &mut Connection, kind: i8, name: &str, config: &str) -> Option<(String, i8)> {
    let resource = describe_configs_request::DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(Some(vec![text(config)]));
    let response = client.call(4, &DescribeConfigsRequest::default().with_resources(vec![resource]));
    assert_eq!(response.results[0].error_code, 0);
    let found = response.results[0].configs.first()?;
    Some((found.value.as_ref()?.to_string(), found.config_source))
}

fn partitions(topic: &str, count: i32, assignments: Option<&[&[i32]]>) -> CreatePartitionsRequest {
    use create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
    let assignment = |nodes: &&[i32]| {
        let nodes = nodes.iter().copied().map(BrokerId).collect();
        CreatePartitionsAssignment::default().with_broker_ids(nodes)
    };
    let assignments = assignments.map(|given| given.iter().map(assignment).collect());
    let topic = CreatePartitionsTopic::default().with_name(text(topic).into()).with_count(count);
    CreatePartitionsRequest::default().with_topics(vec![topic.with_assignments(assignments)])
}

#[test]
fn topics_grow_and_never_shrink() {
    let node = Node::start(2);
    let mut client = node.connect();
    client.create("t");
    let mut ask = |version: i16, request: &CreatePartitionsRequest| {
        let result = client.call(version, request).results.remove(0);
        (result.error_code, result.error_message.as_deref().unwrap_or_default().to_owned())
    };
    assert_eq!(ask(3, &partitions("t", 4, None)), (37, "Topic already has 4 partition(s).".to_owned()));
    let fewer = "The topic t currently has 4 partition(s); 3 would not be an increase.";
    assert_eq!(ask(3, &partitions("t", 3, None)), (37, fewer.to_owned()));
    assert_eq!(ask(3, &partitions("x", 3, None)).0, 3);
    assert_eq!(ask(3, &partitions("t", 5, Some(&[]))).0, 39);
    assert_eq!(ask(3, &partitions("t", 5, Some(&[&[2]]))).0, 39);
    assert_eq!(ask(3, &partitions("t", i32::MAX, None)).0, 44);
    assert_eq!(ask(3, &partitions("t", 6, None).with_validate_only(true)).0, 0);
    for version in 0..=3 {
        let assignments: Option<&[&[i32]]> = if version % 2 == 0 { Some(&[&[1]]) } else { None };
        assert_eq!(ask(version, &partitions("t", 5 + i32::from(version), assignments)).0, 0);
    }
    let mut twice = partitions("t", 9, None);
    twice.topics.push(twice.topics[0].clone());
    let refused = client.call(3, &twice).results;
    assert_eq!((refused.len(), refused[0].error_code), (1, 42));
    for partition in [0, 7] {
        let sent = client.send_produce(9, -1, "t", partition, &["x"]);
        assert_eq!(client.produced(9, sent), (0, 0));
    }
    let sent = client.send_produce(9, -1, "t", 8, &["x"]);
    assert_eq!(client.produced(9, sent).0, 3);
}

#[test]
fn configs_of_a_topic_are_changed_and_a_running_partition_obeys() {
    let node = Node::start(2);
    let mut client = node.connect();
    client.create("t");
    let large = "x".repeat(2000);
    let sent = client.send_produce(9, -1, "t", 1, &[&large]);
    assert_eq!(client.produced(9, sent), (0, 0));
    assert_eq!(altered(&mut client, TOPIC, "t", &[("max.message.bytes", SET, Some("1000"))]).0, 0);
    let sent = client.send_produce(9, -1, "t", 1, &[&large]);
    assert_eq!(client.produced(9, sent).0, 10);
    assert_eq!(config(&mut client, TOPIC, "t", "max.message.bytes"), Some(("1000".to_owned(), 1)));
    let ops: Ops<'_> = &[("max.message.bytes", DELETE, None), ("cleanup.policy", APPEND, Some("compact"))];
    assert_eq!(altered(&mut client, TOPIC, "t", ops).0, 0);
    let policy = |client: &mut Connection| config(client, TOPIC, "t", "cleanup.policy").unwrap();
    assert_eq!(policy(&mut client), ("delete,compact".to_owned(), 1));
    assert_eq!(altered(&mut client, TOPIC, "t", &[("cleanup.policy", SUBTRACT, Some("delete"))]).0, 0);
    assert_eq!(policy(&mut client), ("compact".to_owned(), 1));
    let sent = client.send_produce(9, -1, "t", 1, &[&large]);
    assert_eq!(client.produced(9, sent), (0, 1));
    let dry = incremental(&[(TOPIC, "t", &[("cleanup.policy", SET, Some("delete"))])], true);
    assert_eq!(client.call(0, &dry).responses[0].error_code, 0);
    assert_eq!(policy(&mut client).0, "compact");
}

#[test]
fn alterations_that_are_wrong_are_refused_as_kafka_does() {
    let node = Node::start(2);
    let mut client = node.connect();
    client.create("t");
    let mut refused = |kind, name: &str, ops: Ops<'_>| altered(&mut client, kind, name, ops);
    let set = |name, value| [(name, SET, Some(value))];
    let message = |message: &str| message.to_owned();
    assert_eq!(
        refused(TOPIC, "t", &set("no.such", "1")),
        (40, message("Unknown topic config name: no.such"))
    );
    let soon = "Invalid value soon for configuration retention.ms: Not a number of type LONG";
    assert_eq!(refused(TOPIC, "t", &set("retention.ms", "soon")), (40, message(soon)));
    assert_eq!(
        refused(TOPIC, "t", &[("retention.ms", APPEND, Some("1"))]),
        (40, message("Can't APPEND to key retention.ms because its type is not LIST."))
    );
    assert_eq!(refused(TOPIC, "x", &set("retention.ms", "1")).0, 3);
    assert_eq!(refused(TOPIC, "x y", &set("retention.ms", "1")).0, 17);
    assert_eq!(refused(TOPIC, "", &set("retention.ms", "1")).0, 42);
    assert_eq!(
        refused(TOPIC, "t", &[("retention.ms", SET, Some("1")), ("retention.ms", DELETE, None)]),
        (42, message("Error due to duplicate config keys"))
    );
    assert_eq!(
        refused(TOPIC, "t", &[("retention.ms", SET, None)]),
        (42, message("Null value not supported for : retention.ms"))
    );
    assert_eq!(refused(7, "t", &[]), (42, message("Unknown resource type 7")));
    assert_eq!(refused(BROKER, "2", &[]), (42, message("Unexpected broker id, expected 1, but received 2")));
    assert_eq!(
        refused(BROKER, "1", &set("node.id", "2")),
        (42, message("Cannot update these configs dynamically: Set(node.id)"))
    );
    assert_eq!(refused(BROKER, "1", &set("log.retention.ms", "soon")).0, 42);
    assert_eq!(refused(BROKER, "1", &set("no.such", "1")).0, 40);
    // One that is wrong does not spoil the others, and a change is made as a whole.
    let ops: Ops<'_> = &[("retention.ms", SET, Some("1")), ("segment.ms", SET, Some("x"))];
    let others: Ops<'_> = &[("log.retention.ms", SET, Some("5"))];
    let response = client.call(1, &incremental(&[(TOPIC, "t", ops), (BROKER, "", others)], false));
    assert_eq!((response.responses[0].error_code, response.responses[1].error_code), (40, 0));
    assert_eq!(config(&mut client, TOPIC, "t", "retention.ms"), Some(("5".to_owned(), 3)));
    let twice = incremental(&[(TOPIC, "t", others), (TOPIC, "t", others)], false);
    let codes: Vec<_> = client.call(1, &twice).responses.iter().map(|it| it.error_code).collect();
    assert_eq!(codes, [42, 42]);
}

#[test]
fn the_older_alteration_replaces_everything() {
    use alter_configs_request::{AlterConfigsResource, AlterableConfig};

    let node = Node::start(2);
    let mut client = node.connect();
    client.create("t");
    let replace = |name: &str, value: Option<&str>| {
        let config = AlterableConfig::default().with_name(text(name)).with_value(value.map(text));
        let resource = AlterConfigsResource::default().with_resource_type(TOPIC);
        let resource = resource.with_resource_name(text("t")).with_configs(vec![config]);
        AlterConfigsRequest::default().with_resources(vec![resource])
    };
    for (version, name) in [(0, "retention.ms"), (1, "segment.ms"), (2, "flush.ms")] {
        assert_eq!(client.call(version, &replace(name, Some("77"))).responses[0].error_code, 0);
        assert_eq!(config(&mut client, TOPIC, "t", name), Some(("77".to_owned(), 1)));
    }
    assert_eq!(config(&mut client, TOPIC, "t", "retention.ms").unwrap().1, 5);
    assert_eq!(client.call(2, &replace("flush.ms", None)).responses[0].error_code, 42);
    assert_eq!(client.call(2, &replace("no.such", Some("1"))).responses[0].error_code, 40);
}

#[test]
fn configs_of_nodes_are_what_topics_default_to() {
    let node = Node::start(2);
    let mut client = node.connect();
    client.create("t");
    let set = |value| [("message.max.bytes", SET, Some(value))];
    assert_eq!(altered(&mut client, BROKER, "", &set("1000")).0, 0);
    assert_eq!(config(&mut client, TOPIC, "t", "max.message.bytes"), Some(("1000".to_owned(), 3)));
    assert_eq!(config(&mut client, BROKER, "", "message.max.bytes"), Some(("1000".to_owned(), 3)));
    let sent = client.send_produce(9, -1, "t", 1, &[&"x".repeat(2000)]);
    assert_eq!(client.produced(9, sent).0, 10);
    assert_eq!(altered(&mut client, BROKER, "1", &set("3000")).0, 0);
    assert_eq!(config(&mut client, BROKER, "1", "message.max.bytes"), Some(("3000".to_owned(), 2)));
    let sent = client.send_produce(9, -1, "t", 1, &[&"x".repeat(2000)]);
    assert_eq!(client.produced(9, sent), (0, 0));
    for name in ["", "1"] {
        assert_eq!(altered(&mut client, BROKER, name, &[("message.max.bytes", DELETE, None)]).0, 0);
    }
    assert_eq!(config(&mut client, BROKER, "", "message.max.bytes"), None);
    assert_eq!(config(&mut client, BROKER, "1", "message.max.bytes").unwrap().1, 5);
    assert_eq!(config(&mut client, BROKER, "1", "node.id"), Some(("1".to_owned(), 4)));
}

#[test]
fn what_has_configs_is_listed() {
    let node = Node::start(1);
    let mut client = node.connect();
    client.create("t");
    let request = ListConfigResourcesRequest::default().with_resource_types(vec![TOPIC, BROKER]);
    let listed = client.call(1, &request);
    let listed: Vec<_> =
        listed.config_resources.iter().map(|it| (it.resource_type, it.resource_name.to_string())).collect();
    assert_eq!(listed, [(BROKER, "1".to_owned()), (TOPIC, "t".to_owned())]);
    let none = client.call(0, &ListConfigResourcesRequest::default());
    assert_eq!((none.error_code, none.config_resources.len()), (0, 0));
    let unknown = ListConfigResourcesRequest::default().with_resource_types(vec![99]);
    assert_eq!(client.call(1, &unknown).error_code, 35);
}

#[test]
fn the_directory_is_described_with_its_partitions_and_its_volume() {
    use describe_log_dirs_request::DescribableLogDirTopic;

    let node = Node::start(2);
    let mut client = node.connect();
    client.create("t");
    for partition in 0..4 {
        let values = "x".repeat(1000 * (usize::try_from(partition).unwrap() + 1));
        let sent = client.send_produce(9, -1, "t", partition, &[&values]);
        assert_eq!(client.produced(9, sent), (0, 0));
    }
    for version in 1..=4 {
        let all = client.call(version, &DescribeLogDirsRequest::default().with_topics(None));
        assert_eq!((all.error_code, all.results.len()), (0, 1));
        let dir = &all.results[0];
        assert_eq!(dir.error_code, 0);
        assert!(std::path::Path::new(dir.log_dir.as_str()).is_absolute(), "{}", dir.log_dir);
        if version == 4 {
            assert!(dir.total_bytes >= dir.usable_bytes && dir.usable_bytes > 0, "{dir:?}");
        }
        let sizes: Vec<_> = dir.topics[0]
            .partitions
            .iter()
            .map(|it| (it.partition_index, it.partition_size / 1000))
            .collect();
        assert_eq!(sizes, [(0, 1), (1, 2), (2, 3), (3, 4)]);
        assert!(dir.topics[0].partitions.iter().all(|it| it.offset_lag == 0 && !it.is_future_key));
    }
    let wanted = |name: &str, indexes: &[i32]| {
        let topic = DescribableLogDirTopic::default().with_topic(text(name).into());
        topic.with_partitions(indexes.to_vec())
    };
    let some = vec![wanted("t", &[3, 9, 3]), wanted("x", &[0])];
    let some = client.call(4, &DescribeLogDirsRequest::default().with_topics(Some(some)));
    let topics = &some.results[0].topics;
    assert_eq!((topics.len(), topics[0].partitions.len()), (1, 1));
    let here = some.results[0].log_dir.as_str();
    for version in 1..=2 {
        for (path, code) in [(here, 0), ("/elsewhere", 57)] {
            let topic = alter_replica_log_dirs_request::AlterReplicaLogDirTopic::default()
                .with_name(text("t").into())
                .with_partitions(vec![1]);
            let dir = alter_replica_log_dirs_request::AlterReplicaLogDir::default()
                .with_path(text(path))
                .with_topics(vec![topic]);
            let moved = client.call(version, &AlterReplicaLogDirsRequest::default().with_dirs(vec![dir]));
            assert_eq!(moved.results[0].partitions[0].error_code, code, "{path}");
        }
    }
    let none = client.call(4, &DescribeLogDirsRequest::default().with_topics(Some(vec![])));
    assert!(none.results[0].topics.is_empty());
}

#[test]
fn version_5_says_that_the_directory_is_not_cordoned() {
    use corelog_protocol::api::{Api, check_response, decode_response, encode_request};

    let node = Node::start(1);
    let mut client = node.connect();
    client.create("t");
    // The codec has no version 5 to write: the request is that of version 4.
    let request = DescribeLogDirsRequest::default().with_topics(None);
    let mut frame = encode_request(4, 7, "raw", &request).unwrap();
    frame[6..8].copy_from_slice(&5_i16.to_be_bytes());
    client.send_bytes(&frame);
    let answer = client.receive().unwrap();
    // Behind the correlation id and the tagged fields of the header.
    assert_eq!(check_response(Api::DescribeLogDirs, 5, &answer[5..]), Ok(()));
    // What ends it: not cordoned, no tagged fields of the directory, none of the answer.
    assert!(answer.ends_with(&[0; 3]), "{answer:?}");
    let fourth = answer.slice(..answer.len() - 1);
    let (correlation_id, response) = decode_response::<DescribeLogDirsRequest>(4, fourth).unwrap();
    assert_eq!((correlation_id, response.results.len()), (7, 1));
    assert_eq!(response.results[0].topics[0].name.as_str(), "t");
}

#[test]
fn producers_are_described() {
    use corelog_protocol::batch::BatchBuilder;
    use corelog_protocol::produce::{ProducePartition, ProduceRequest, ProduceTopic};
    use describe_producers_request::TopicRequest;

    let node = Node::start(2);
    let mut client = node.connect();
    client.create("t");
    let batch = BatchBuilder::new().producer(4711, 2, 8).record(1_700_000_000_000, None, Some(b"a"));
    let records = batch.record(1_700_000_000_000, None, Some(b"b")).build().unwrap().freeze();
    let produce = ProduceRequest {
        transactional_id: None,
        acks: -1,
        timeout_ms: 1000,
        topics: vec![ProduceTopic {
            name: "t".to_owned(),
            partitions: vec![ProducePartition { index: 2, records }],
        }],
    };
    client.correlation_id += 1;
    for chunk in produce.encode(9, client.correlation_id, "raw") {
        client.send_bytes(&chunk);
    }
    assert_eq!(client.produced(9, client.correlation_id).0, 0);
    let topic = |name: &str, indexes: &[i32]| {
        TopicRequest::default().with_name(text(name).into()).with_partition_indexes(indexes.to_vec())
    };
    let topics = vec![topic("t", &[2, 1, 7, 2]), topic("x", &[0]), topic("x y", &[0])];
    let described = client.call(0, &DescribeProducersRequest::default().with_topics(topics));
    let codes: Vec<Vec<i16>> =
        described.topics.iter().map(|t| t.partitions.iter().map(|p| p.error_code).collect()).collect();
    assert_eq!(codes, [vec![0, 0, 3, 42], vec![3], vec![17]]);
    let known = &described.topics[0].partitions[0].active_producers;
    assert_eq!(known.len(), 1);
    assert_eq!((known[0].producer_id.0, known[0].producer_epoch, known[0].last_sequence), (4711, 2, 9));
    assert_eq!((known[0].coordinator_epoch, known[0].current_txn_start_offset), (-1, -1));
    assert!(described.topics[0].partitions[1].active_producers.is_empty());
}

#[test]
fn leaders_and_replicas_are_where_they_can_be() {
    use alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
    use elect_leaders_request::TopicPartitions;

    let node = Node::start(1);
    let mut client = node.connect();
    client.create("t");
    let topic = TopicPartitions::default().with_topic(text("t").into()).with_partitions(vec![0, 9]);
    for version in 0..=2 {
        let elect = ElectLeadersRequest::default().with_topic_partitions(Some(vec![topic.clone()]));
        let elected = client.call(version, &elect).replica_election_results;
        let codes: Vec<_> = elected[0].partition_result.iter().map(|it| it.error_code).collect();
        assert_eq!(codes, [84, 3]);
    }
    let all = client.call(2, &ElectLeadersRequest::default().with_topic_partitions(None));
    assert!(all.replica_election_results.iter().all(|topic| topic.partition_result.is_empty()));
    let partition = |index: i32, replicas: Option<&[i32]>| {
        let replicas = replicas.map(|ids| ids.iter().copied().map(BrokerId).collect());
        ReassignablePartition::default().with_partition_index(index).with_replicas(replicas)
    };
    let partitions =
        vec![partition(0, Some(&[1])), partition(1, None), partition(2, Some(&[2])), partition(9, None)];
    let topic = ReassignableTopic::default().with_name(text("t").into()).with_partitions(partitions);
    for version in 0..=1 {
        let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic.clone()]);
        let answer = client.call(version, &request);
        assert_eq!(answer.error_code, 0);
        let codes: Vec<_> = answer.responses[0].partitions.iter().map(|it| it.error_code).collect();
        assert_eq!(codes, [0, 85, 39, 3]);
    }
    let listed = client.call(0, &ListPartitionReassignmentsRequest::default().with_topics(None));
    assert_eq!((listed.error_code, listed.topics.len()), (0, 0));
}
