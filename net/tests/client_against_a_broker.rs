//! The client against a running broker: Corelog or any Kafka. Run with
//! `CORELOG_TEST_BOOTSTRAP=host:port cargo test -p corelog-net --test client_against_a_broker -- --ignored`.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::ops::ControlFlow;
use std::time::Duration;

use corelog_net::client::admin::{ConfigTarget, OffsetSpec, TopicSpec};
use corelog_net::client::consumer::{Assignment, IsolationLevel, StartAt};
use corelog_net::client::member::{GroupAssignor, GroupConsumer, GroupEvent, GroupOptions, GroupProtocol};
use corelog_net::client::partitioner::partition_for_key;
use corelog_net::client::producer::{Acks, Codec, Header, OutRecord};
use corelog_net::client::{
    Admin, Client, ClientError, ClientOptions, Consumer, ConsumerOptions, Producer, ProducerOptions,
};
use corelog_protocol::batch::Scratch;
use corelog_runtime::{shards, time};

/// A machine that is busy with other tests may take so long.
const PATIENCE: Duration = Duration::from_secs(60);

fn run<F>(test: impl Fn(Client) -> F + Send + Clone + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let bootstrap = std::env::var("CORELOG_TEST_BOOTSTRAP")
        .expect("CORELOG_TEST_BOOTSTRAP names the broker to test against");
    let options = shards::Options { shards: 1, ..shards::Options::default() };
    shards::run(options, move |_: shards::ShardContext<(), ()>| {
        let (test, bootstrap) = (test.clone(), bootstrap.clone());
        async move {
            let client = Client::connect(ClientOptions::new([bootstrap])).await.unwrap();
            test(client).await;
            Ok::<(), Infallible>(())
        }
    })
    .unwrap();
}

fn unique(name: &str) -> String {
    format!("{name}-{}-{}", std::process::id(), time::unix_time_ms())
}

async fn create(client: &Client, name: &str, partitions: i32) {
    let admin = Admin::new(client.clone());
    let spec = TopicSpec { name: name.to_owned(), partitions: Some(partitions), ..TopicSpec::default() };
    let created = admin.create_topics(&[spec], false).await.unwrap().remove(0).unwrap();
    assert_eq!(created.partitions, Some(partitions));
    // Other brokers than the controller learn of it a moment later.
    let started = time::Instant::now();
    loop {
        match admin.describe_topic(name).await {
            Ok(topic) if topic.partitions.iter().all(|it| it.leader.is_some()) => return,
            Ok(_) | Err(ClientError::UnknownTopic { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(started.elapsed() < PATIENCE, "never described");
        time::sleep(Duration::from_millis(20)).await;
    }
}

/// Values by partition, from the beginning to the end as it is now.
async fn read_all(client: &Client, topic: &str, partitions: i32) -> BTreeMap<i32, Vec<(i64, Vec<u8>)>> {
    let assignments = (0..partitions).map(|partition| Assignment {
        topic: topic.into(),
        partition,
        start: StartAt::Beginning,
    });
    let options = ConsumerOptions::default();
    let mut consumer = Consumer::new(client.clone(), assignments.collect(), options).await.unwrap();
    let ends = consumer.end_offsets().await.unwrap();
    let mut read: BTreeMap<i32, Vec<(i64, Vec<u8>)>> = BTreeMap::new();
    let mut scratch = Scratch::new();
    for (partition, end) in (0..partitions).zip(&ends) {
        if *end == 0 {
            consumer.stop(topic, partition);
        }
    }
    while let Some(chunk) = consumer.next().await.unwrap() {
        let of_partition = read.entry(chunk.partition).or_default();
        chunk
            .visit(&mut scratch, |record| {
                of_partition.push((record.offset, record.value.unwrap().to_vec()));
                ControlFlow::Continue(())
            })
            .unwrap();
        if chunk.next_offset >= ends[usize::try_from(chunk.partition).unwrap()] {
            consumer.stop(topic, chunk.partition);
        }
    }
    read
}

#[test]
#[ignore = "needs a broker"]
fn every_record_comes_back_once_in_order_with_each_codec() {
    run(|client| async move {
        for codec in Codec::ALL {
            let topic = unique("codecs");
            create(&client, &topic, 3).await;
            let options = ProducerOptions { codec, ..ProducerOptions::default() };
            let producer = Producer::new(client.clone(), options);
            let to_topic = producer.topic(&topic).await.unwrap();
            let mut deliveries = Vec::new();
            for number in 0..50_000_u32 {
                let (key, value) = (format!("key-{}", number % 100), format!("value-{number}"));
                let record = OutRecord {
                    key: Some(key.as_bytes()),
                    value: Some(value.as_bytes()),
                    ..OutRecord::default()
                };
                deliveries.push((number, to_topic.send(record).await.unwrap()));
            }
            producer.flush().await.unwrap();
            let read = read_all(&client, &topic, 3).await;
            assert_eq!(read.values().map(Vec::len).sum::<usize>(), 50_000, "{codec}");
            for (number, delivery) in deliveries {
                let delivered = delivery.await.unwrap();
                let key = format!("key-{}", number % 100);
                assert_eq!(delivered.partition, partition_for_key(key.as_bytes(), 3));
                let offset = delivered.offset.unwrap();
                let (at, value) = &read[&delivered.partition][usize::try_from(offset).unwrap()];
                assert_eq!((*at, value.as_slice()), (offset, format!("value-{number}").as_bytes()));
            }
        }
    });
}

#[test]
#[ignore = "needs a broker"]
fn headers_nulls_and_timestamps_come_back_as_they_were() {
    run(|client| async move {
        let topic = unique("fields");
        create(&client, &topic, 1).await;
        let producer = Producer::new(client.clone(), ProducerOptions::default());
        let to_topic = producer.topic(&topic).await.unwrap();
        let now = time::unix_time_ms();
        let headers = [Header { key: b"a", value: Some(b"1") }, Header { key: b"a", value: None }];
        let record = OutRecord { timestamp_ms: Some(now - 1000), headers: &headers, ..OutRecord::default() };
        to_topic.send(record).await.unwrap().await.unwrap();
        let record = OutRecord { timestamp_ms: Some(now), value: Some(b""), ..OutRecord::default() };
        to_topic.send(record).await.unwrap().await.unwrap();
        let assignment = |start| vec![Assignment { topic: topic.as_str().into(), partition: 0, start }];
        let mut consumer =
            Consumer::new(client.clone(), assignment(StartAt::Offset(0)), ConsumerOptions::default())
                .await
                .unwrap();
        let mut seen = Vec::new();
        let mut scratch = Scratch::new();
        while seen.len() < 2 {
            let chunk = consumer.next().await.unwrap().unwrap();
            chunk
                .visit(&mut scratch, |record| {
                    let headers: Vec<_> = record
                        .headers
                        .clone()
                        .map(|it| (it.key.to_vec(), it.value.map(<[u8]>::to_vec)))
                        .collect();
                    let value = record.value.map(<[u8]>::to_vec);
                    seen.push((record.timestamp_ms, record.key.is_none(), value, headers));
                    ControlFlow::Continue(())
                })
                .unwrap();
        }
        assert_eq!(seen[0].0, now - 1000);
        assert!(seen[0].1);
        assert_eq!(seen[0].2, None);
        let expected = vec![(b"a".to_vec(), Some(b"1".to_vec())), (b"a".to_vec(), None)];
        assert_eq!(seen[0].3, expected);
        assert_eq!((seen[1].0, seen[1].2.as_deref()), (now, Some(b"".as_slice())));

        let by_time = assignment(StartAt::Timestamp(now - 500));
        let consumer = Consumer::new(client.clone(), by_time, ConsumerOptions::default()).await.unwrap();
        assert_eq!(consumer.position(&topic, 0), Some(1));
        let beyond = assignment(StartAt::Timestamp(now + 60_000));
        let consumer = Consumer::new(client.clone(), beyond, ConsumerOptions::default()).await.unwrap();
        assert_eq!(consumer.position(&topic, 0), Some(2));
    });
}

#[test]
#[ignore = "needs a broker"]
fn keyless_records_are_spread_and_acks_0_and_1_work() {
    run(|client| async move {
        for acks in [Acks::None, Acks::Leader] {
            let topic = unique("acks");
            create(&client, &topic, 4).await;
            let options = ProducerOptions { acks, batch_bytes: 4096, ..ProducerOptions::default() };
            let producer = Producer::new(client.clone(), options);
            let to_topic = producer.topic(&topic).await.unwrap();
            let mut last = None;
            for number in 0..20_000_u32 {
                let value = number.to_be_bytes();
                let record = OutRecord { value: Some(&value), ..OutRecord::default() };
                last = Some(to_topic.send(record).await.unwrap());
            }
            let delivered = last.unwrap().await.unwrap();
            assert_eq!(delivered.offset.is_some(), acks == Acks::Leader);
            producer.flush().await.unwrap();
            let started = time::Instant::now();
            loop {
                let read = read_all(&client, &topic, 4).await;
                if read.values().map(Vec::len).sum::<usize>() == 20_000 {
                    assert!(read.values().all(|of_partition| of_partition.len() > 1000));
                    break;
                }
                // With acks=0 the records may still be on their way.
                assert!(started.elapsed() < PATIENCE, "records are missing");
                time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
}

#[test]
#[ignore = "needs a broker"]
fn errors_name_what_is_missing() {
    run(|client| async move {
        let nowhere = unique("nowhere");
        let admin = Admin::new(client.clone());
        let unknown = ClientError::UnknownTopic { topic: nowhere.clone() };
        assert_eq!(admin.describe_topic(&nowhere).await.unwrap_err(), unknown);
        let deleted = admin.delete_topics(std::slice::from_ref(&nowhere)).await.unwrap().remove(0);
        assert_eq!(deleted.unwrap_err(), unknown);
        let topic = unique("small");
        create(&client, &topic, 2).await;
        let wanted = [((topic.as_str().into(), 7), OffsetSpec::Latest)];
        let error = admin.list_offsets(&wanted, IsolationLevel::ReadUncommitted).await.unwrap_err();
        assert!(matches!(error, ClientError::UnknownPartition { partitions: 2, .. }), "{error}");
        let producer = Producer::new(client.clone(), ProducerOptions::default());
        let error = producer.topic(&nowhere).await.err().unwrap();
        assert_eq!(error, unknown);
        let assignment =
            Assignment { topic: topic.as_str().into(), partition: 0, start: StartAt::Offset(99) };
        let mut consumer =
            Consumer::new(client.clone(), vec![assignment], ConsumerOptions::default()).await.unwrap();
        let error = consumer.next().await.unwrap_err();
        assert!(matches!(error, ClientError::OffsetOutOfRange { offset: 99, .. }), "{error}");
    });
}

#[test]
#[ignore = "needs a broker"]
fn topics_are_created_listed_described_and_deleted() {
    run(|client| async move {
        let topic = unique("life");
        create(&client, &topic, 2).await;
        let admin = Admin::new(client.clone());
        let listed = admin.list_topics().await.unwrap();
        assert!(listed.iter().any(|it| it.name.as_ref() == topic && it.partitions.len() == 2));
        let configs = admin.describe_configs(&ConfigTarget::Topic(topic.clone())).await.unwrap();
        assert!(configs.iter().any(|it| it.name == "max.message.bytes"));
        let cluster = admin.describe_cluster().await.unwrap();
        assert!(!cluster.brokers.is_empty());
        let again = TopicSpec { name: topic.clone(), ..TopicSpec::default() };
        let error = admin.create_topics(&[again], false).await.unwrap().remove(0).unwrap_err();
        assert!(error.to_string().contains("TOPIC_ALREADY_EXISTS"), "{error}");
        admin.delete_topics(std::slice::from_ref(&topic)).await.unwrap().remove(0).unwrap();
        let started = time::Instant::now();
        while admin.describe_topic(&topic).await.is_ok() {
            assert!(started.elapsed() < PATIENCE, "still there");
            time::sleep(Duration::from_millis(20)).await;
        }
    });
}

/// What one member has read, and marked at once.
#[derive(Default)]
struct Read {
    records: Vec<String>,
    assigned: usize,
}

/// Reads until `holds`, or for so long.
async fn read_until(member: &mut GroupConsumer, read: &mut Read, holds: impl Fn(&Read) -> bool) {
    let mut scratch = Scratch::new();
    let started = time::Instant::now();
    while !holds(read) {
        assert!(started.elapsed() < PATIENCE, "{} records", read.records.len());
        let Ok(event) = time::timeout(Duration::from_millis(200), member.next()).await else { continue };
        match event.unwrap() {
            GroupEvent::Assignment { partitions, .. } => read.assigned = partitions.len(),
            GroupEvent::Records(chunk) => {
                chunk
                    .visit(&mut scratch, |record| {
                        read.records.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
                        ControlFlow::Continue(())
                    })
                    .unwrap();
                member.mark(&chunk.topic, chunk.partition, chunk.next_offset);
            }
        }
    }
}

async fn produce_numbers(client: &Client, topic: &str, numbers: std::ops::Range<u32>) {
    let producer = Producer::new(client.clone(), ProducerOptions::default());
    let to_topic = producer.topic(topic).await.unwrap();
    for number in numbers {
        let value = format!("{number:05}");
        let record =
            OutRecord { key: Some(value.as_bytes()), value: Some(value.as_bytes()), ..OutRecord::default() };
        to_topic.send(record).await.unwrap();
    }
    producer.flush().await.unwrap();
}

#[test]
#[ignore = "needs a broker"]
fn members_share_a_group_and_take_over_in_both_protocols() {
    let kinds = [
        (GroupProtocol::Classic, Some(GroupAssignor::Range)),
        (GroupProtocol::Classic, None),
        (GroupProtocol::Consumer, None),
        (GroupProtocol::Consumer, Some(GroupAssignor::Uniform)),
        (GroupProtocol::Consumer, Some(GroupAssignor::Range)),
    ];
    run(move |client| async move {
        for (protocol, assignor) in kinds {
            let (group, topics) = (unique("group"), [unique("one"), unique("two")]);
            for topic in &topics {
                create(&client, topic, 4).await;
                produce_numbers(&client, topic, 0..500).await;
            }
            let options = GroupOptions {
                protocol: Some(protocol),
                assignor,
                session_timeout: Duration::from_secs(10),
                heartbeat_interval: Duration::from_millis(300),
                ..GroupOptions::new(group.clone(), topics.to_vec())
            };
            let member = async || {
                GroupConsumer::new(client.clone(), options.clone(), ConsumerOptions::default()).await.unwrap()
            };
            let mut one = member().await;
            let mut of_one = Read::default();
            read_until(&mut one, &mut of_one, |read| read.records.len() == 1000 && read.assigned == 8).await;
            let (mut two, mut of_two) = (member().await, Read::default());
            let started = time::Instant::now();
            while (of_one.assigned, of_two.assigned) != (4, 4) {
                assert!(started.elapsed() < PATIENCE, "{protocol:?} {assignor:?}");
                for (member, read) in [(&mut one, &mut of_one), (&mut two, &mut of_two)] {
                    let began = time::Instant::now();
                    read_until(member, read, |_| began.elapsed() > Duration::from_millis(300)).await;
                }
            }
            produce_numbers(&client, &topics[0], 500..700).await;
            // It leaves with what it has: the other goes on from there.
            two.close().await.unwrap();
            let seen = of_two.records.len();
            read_until(&mut one, &mut of_one, |read| read.records.len() + seen >= 1200 && read.assigned == 8)
                .await;
            one.close().await.unwrap();
            let mut all = [of_one.records, of_two.records].concat();
            all.sort();
            let mut expected: Vec<String> =
                (0..700).chain(0..500).map(|number| format!("{number:05}")).collect();
            expected.sort();
            assert_eq!(all, expected, "{protocol:?} {assignor:?}: each record once");
            let admin = Admin::new(client.clone());
            let committed = admin.committed_offsets(&group).await.unwrap();
            assert_eq!(committed.iter().map(|it| it.offset).sum::<i64>(), 1200, "{protocol:?} {assignor:?}");
            let described = admin.describe_group(&group).await.unwrap();
            assert_eq!((described.members.len(), described.state.as_str()), (0, "Empty"));
        }
    });
}
