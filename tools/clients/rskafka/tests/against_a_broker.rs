//! What rskafka is used for, against the broker at `CORELOG_TEST_BOOTSTRAP`: topics made and deleted,
//! records of every kind written and read, the stream consumer and the batching producer, offsets by
//! time, and records deleted. Run by `cargo xtask clients`, on Corelog and on Apache Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use rskafka::client::consumer::{StartOffset, StreamConsumerBuilder};
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::producer::BatchProducerBuilder;
use rskafka::client::producer::aggregator::RecordAggregator;
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;

const PARTITIONS: i32 = 3;
const TIMEOUT_MS: i32 = 10_000;
const MAX_WAIT_MS: i32 = 500;
/// What one fetch asks for.
const BYTES: std::ops::Range<i32> = 1..1_000_000;

/// A broker, and a topic of a test's own in it, deleted in the end.
struct Stage {
    client: Client,
    topic: String,
}

impl Stage {
    async fn set(name: &str) -> Self {
        let bootstrap = std::env::var("CORELOG_TEST_BOOTSTRAP").expect("CORELOG_TEST_BOOTSTRAP is set");
        let client = ClientBuilder::new(vec![bootstrap]).build().await.expect("a client");
        let topic = format!("rskafka-{name}-{}", Utc::now().timestamp_micros());
        let controller = client.controller_client().expect("a controller");
        controller.create_topic(&topic, PARTITIONS, 1, TIMEOUT_MS).await.expect("a new topic");
        Self { client, topic }
    }

    /// One of its partitions. A real Kafka needs a moment after it said that a topic is there.
    async fn partition(&self, partition: i32) -> PartitionClient {
        let wait = UnknownTopicHandling::Retry;
        self.client.partition_client(&self.topic, partition, wait).await.expect("a leader")
    }

    async fn clear(self) {
        let controller = self.client.controller_client().expect("a controller");
        controller.delete_topic(&self.topic, TIMEOUT_MS).await.expect("the topic is deleted");
    }
}

/// With the whole milliseconds that a record can say.
fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(Utc::now().timestamp_millis()).expect("a time of today")
}

fn record(key: Option<&str>, value: Option<&str>) -> Record {
    let bytes = |text: &str| text.as_bytes().to_vec();
    Record { key: key.map(bytes), value: value.map(bytes), headers: BTreeMap::new(), timestamp: now() }
}

/// All records from an offset on, until there are so many.
async fn read(partition: &PartitionClient, mut offset: i64, count: usize) -> Vec<(i64, Record)> {
    let mut all = Vec::new();
    while all.len() < count {
        let (records, high_watermark) =
            partition.fetch_records(offset, BYTES, MAX_WAIT_MS).await.expect("records");
        assert!(!records.is_empty(), "{} of {count} records below {high_watermark}", all.len());
        offset = records.last().expect("at least one").offset + 1;
        all.extend(records.into_iter().map(|found| (found.offset, found.record)));
    }
    all
}

#[tokio::test]
async fn a_topic_is_listed_with_its_partitions_until_it_is_deleted() {
    let stage = Stage::set("topics").await;
    stage.partition(PARTITIONS - 1).await;
    let listed = stage.client.list_topics().await.expect("topics");
    let topic = listed.iter().find(|topic| topic.name == stage.topic).expect("the new topic");
    assert_eq!(topic.partitions, BTreeSet::from([0, 1, 2]));

    let controller = stage.client.controller_client().expect("a controller");
    let twice = controller.create_topic(&stage.topic, 1, 1, TIMEOUT_MS).await.expect_err("it is there");
    assert!(
        matches!(twice, Error::ServerError { protocol_error: ProtocolError::TopicAlreadyExists, .. }),
        "{twice}"
    );
    let name = stage.topic.clone();
    stage.clear().await;
    let beside = Stage::set("beside").await;
    let listed = beside.client.list_topics().await.expect("topics");
    assert!(listed.iter().all(|topic| topic.name != name), "{name} is still listed");
    beside.clear().await;
}

#[tokio::test]
async fn records_come_back_as_they_were_written_with_each_codec() {
    let stage = Stage::set("records").await;
    let partition = stage.partition(1).await;
    let mut written = Vec::new();
    for (number, codec) in
        [Compression::NoCompression, Compression::Gzip, Compression::Snappy].into_iter().enumerate()
    {
        let headers = BTreeMap::from([
            ("codec".to_owned(), format!("{codec:?}").into_bytes()),
            ("nothing".to_owned(), Vec::new()),
        ]);
        let long = "x".repeat(50_000);
        let records = vec![
            Record { headers, ..record(Some("key"), Some("value")) },
            record(None, Some(&long)),
            record(Some("a tombstone"), None),
            record(Some(""), Some("")),
        ];
        let offsets = partition.produce(records.clone(), codec).await.expect("acknowledged");
        let first = i64::try_from(number * records.len()).expect("few");
        assert_eq!(offsets, (first..first + 4).collect::<Vec<_>>(), "{codec:?}");
        written.extend(offsets.into_iter().zip(records));
    }
    assert_eq!(read(&partition, 0, written.len()).await, written);
    // From the middle of a batch on, and at the end of the log.
    assert_eq!(read(&partition, 6, 6).await, written[6..]);
    assert_eq!(partition.fetch_records(12, BYTES, 10).await.expect("an empty answer"), (vec![], 12));
    let beyond = partition.fetch_records(13, BYTES, 10).await.expect_err("behind the end");
    assert!(
        matches!(beyond, Error::ServerError { protocol_error: ProtocolError::OffsetOutOfRange, .. }),
        "{beyond}"
    );
    stage.clear().await;
}

#[tokio::test]
async fn offsets_are_found_by_time_and_records_deleted() {
    let stage = Stage::set("offsets").await;
    let partition = stage.partition(0).await;
    let began = now();
    for number in 0..4 {
        let timestamp = began + TimeDelta::seconds(number);
        let written = vec![Record { timestamp, ..record(None, Some("value")) }; 10];
        partition.produce(written, Compression::NoCompression).await.expect("acknowledged");
    }
    let offset = async |at| partition.get_offset(at).await.expect("an offset");
    assert_eq!((offset(OffsetAt::Earliest).await, offset(OffsetAt::Latest).await), (0, 40));
    assert_eq!(offset(OffsetAt::Timestamp(began)).await, 0);
    assert_eq!(offset(OffsetAt::Timestamp(began + TimeDelta::milliseconds(1500))).await, 20);
    assert_eq!(offset(OffsetAt::Timestamp(began + TimeDelta::seconds(9))).await, -1);

    partition.delete_records(25, TIMEOUT_MS).await.expect("deleted");
    assert_eq!((offset(OffsetAt::Earliest).await, offset(OffsetAt::Latest).await), (25, 40));
    let gone = partition.fetch_records(24, BYTES, 10).await.expect_err("deleted");
    assert!(
        matches!(gone, Error::ServerError { protocol_error: ProtocolError::OffsetOutOfRange, .. }),
        "{gone}"
    );
    let left: Vec<i64> = read(&partition, 25, 15).await.into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(left, (25..40).collect::<Vec<_>>());
    stage.clear().await;
}

#[tokio::test]
async fn a_stream_reads_what_a_batching_producer_writes() {
    const COUNT: usize = 500;
    let stage = Stage::set("stream").await;
    let partition = Arc::new(stage.partition(2).await);
    let producer = BatchProducerBuilder::new(Arc::clone(&partition))
        .with_linger(Duration::from_millis(5))
        .with_compression(Compression::Gzip)
        .build(RecordAggregator::new(10_000));
    let writes = (0..COUNT).map(|number| producer.produce(record(None, Some(&number.to_string()))));
    let offsets = futures::future::try_join_all(writes).await.expect("all are acknowledged");

    let mut stream = StreamConsumerBuilder::new(Arc::clone(&partition), StartOffset::Earliest)
        .with_max_wait_ms(MAX_WAIT_MS)
        .build();
    let mut seen = BTreeMap::new();
    while seen.len() < COUNT {
        let (found, high_watermark) = stream.next().await.expect("a stream has no end").expect("a record");
        assert!(found.offset < high_watermark);
        assert_eq!(found.offset, i64::try_from(seen.len()).expect("few"), "in order, each once");
        seen.insert(found.offset, found.record.value.expect("a value"));
    }
    for (number, offset) in offsets.iter().enumerate() {
        assert_eq!(seen[offset], number.to_string().into_bytes(), "where it was said to be");
    }
    stage.clear().await;
}
