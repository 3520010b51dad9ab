//! The sink as a client sees it: our own, over a socket.

#![allow(clippy::unwrap_used, missing_docs)]

use std::convert::Infallible;
use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use corelog_bench::sink::fault::Fault;
use corelog_bench::sink::{Event, FaultPlan, Options, Sink, StallPlan};
use corelog_net::client::admin::{Admin, TopicSpec};
use corelog_net::client::consumer::{Assignment, StartAt};
use corelog_net::client::producer::{Acks, Codec, OutRecord};
use corelog_net::client::{Client, ClientOptions, Consumer, ConsumerOptions, Producer, ProducerOptions};
use corelog_protocol::ErrorCode;
use corelog_protocol::batch::{BatchBuilder, BatchIter, Scratch};
use corelog_protocol::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use corelog_protocol::produce::{ProducePartition, ProduceRequest, ProduceResponse, ProduceTopic};
use corelog_runtime::shards;
use uuid::Uuid;

fn options() -> Options {
    Options {
        listen: "127.0.0.1:0".parse().unwrap(),
        core: None,
        partitions: 1,
        retain_bytes: 16 << 20,
        fault: None,
        stall: None,
    }
}

type Events = Arc<Mutex<Vec<Event>>>;

fn start(options: Options) -> (Sink, Events) {
    let events = Events::default();
    let told = Arc::clone(&events);
    let sink = Sink::start(options, move |event| told.lock().unwrap().push(event)).unwrap();
    (sink, events)
}

/// Runs a client of this sink to its end.
fn run<F>(sink: &Sink, test: impl Fn(Client) -> F + Send + Clone + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let bootstrap = sink.address().to_string();
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

fn value(number: u32) -> [u8; 8] {
    (u64::from(number) << 8).to_be_bytes()
}

/// Sends the numbers `0..count` to partition 0; gives their offsets.
async fn produce(client: &Client, topic: &str, count: u32, options: ProducerOptions) -> Vec<Option<i64>> {
    let producer = Producer::new(client.clone(), options);
    let to_topic = producer.topic(topic).await.unwrap();
    let mut deliveries = Vec::new();
    for number in 0..count {
        let value = value(number);
        let record = OutRecord { partition: Some(0), value: Some(&value), ..OutRecord::default() };
        deliveries.push(to_topic.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
    let mut offsets = Vec::new();
    for delivery in deliveries {
        offsets.push(delivery.await.unwrap().offset);
    }
    offsets
}

/// Offsets and values of the first `count` records of partition 0.
async fn read(client: &Client, topic: &str, count: usize) -> Vec<(i64, Vec<u8>)> {
    let assignment = Assignment { topic: topic.into(), partition: 0, start: StartAt::Beginning };
    let options = ConsumerOptions::default();
    let mut consumer = Consumer::new(client.clone(), vec![assignment], options).await.unwrap();
    let mut scratch = Scratch::new();
    let mut records = Vec::new();
    while records.len() < count {
        let chunk = consumer.next().await.unwrap().unwrap();
        chunk
            .visit(&mut scratch, |record| {
                records.push((record.offset, record.value.unwrap().to_vec()));
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    records
}

#[test]
fn what_is_produced_comes_back_with_each_codec() {
    let (sink, _) = start(options());
    run(&sink, |client| async move {
        for codec in Codec::ALL {
            let options = ProducerOptions { codec, batch_bytes: 4096, ..ProducerOptions::default() };
            let topic = format!("codec-{codec}");
            let offsets = produce(&client, &topic, 5000, options).await;
            let read = read(&client, &topic, 5000).await;
            for (number, offset) in (0..).zip(offsets) {
                let (at, read) = &read[usize::try_from(number).unwrap()];
                assert_eq!((Some(*at), read.as_slice()), (offset, value(number).as_slice()));
            }
        }
    });
    let summary = sink.stop();
    assert_eq!(summary.records, 5000 * 5);
    assert!(summary.produces > 5 && summary.fetches >= 5 && summary.requests > 10 && summary.bytes > 0);
}

#[test]
fn without_retained_bytes_records_are_counted_and_forgotten() {
    let (sink, _) = start(Options { retain_bytes: 0, ..options() });
    run(&sink, |client| async move {
        let offsets = produce(&client, "t", 1000, ProducerOptions::default()).await;
        assert_eq!(offsets, (0..1000).map(Some).collect::<Vec<_>>());
        let options = ProducerOptions { acks: Acks::None, idempotent: false, ..ProducerOptions::default() };
        produce(&client, "t", 1000, options).await;
        let options = ProducerOptions { acks: Acks::Leader, idempotent: false, ..ProducerOptions::default() };
        // On the same connection, and so behind them.
        let offsets = produce(&client, "t", 1, options).await;
        assert_eq!(offsets, [Some(2000)]);
    });
    assert_eq!(sink.stop().records, 2001);
}

#[test]
fn a_ring_that_is_full_waits_for_its_reader_and_loses_nothing() {
    const COUNT: u32 = 50_000;
    let (sink, _) = start(Options { retain_bytes: 64 * 1024, ..options() });
    run(&sink, |client| async move {
        let options = ProducerOptions { batch_bytes: 8192, ..ProducerOptions::default() };
        let produced = produce(&client, "t", COUNT, options);
        let read = read(&client, "t", usize::try_from(COUNT).unwrap());
        let (_, read) = futures_lite::future::zip(produced, read).await;
        for (number, (offset, read)) in (0..).zip(&read) {
            assert_eq!((*offset, read.as_slice()), (i64::from(number), value(number).as_slice()));
        }
    });
    assert_eq!(sink.stop().records, u64::from(COUNT));
}

/// One connection that speaks what it is told to.
struct Raw(TcpStream);

impl Raw {
    fn connect(sink: &Sink) -> Self {
        Self(TcpStream::connect(sink.address()).unwrap())
    }

    /// Sends a frame, in pieces of so many bytes.
    fn send(&mut self, frame: &[u8], piece_bytes: usize) {
        self.0.set_nodelay(true).unwrap();
        for piece in frame.chunks(piece_bytes) {
            self.0.write_all(piece).unwrap();
        }
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        self.0.read_exact(&mut frame).unwrap();
        frame
    }
}

fn produce_frame(version: i16, value_bytes: usize, timeout_ms: i32) -> Vec<u8> {
    let batch = BatchBuilder::new().record(1, None, Some(&vec![7; value_bytes])).build().unwrap();
    let partition = ProducePartition { index: 0, records: batch.freeze() };
    let topic = ProduceTopic { name: "t".to_owned(), partitions: vec![partition] };
    let request = ProduceRequest { transactional_id: None, acks: -1, timeout_ms, topics: vec![topic] };
    request.encode(version, i32::from(version), "raw").concat()
}

fn produced(frame: &[u8], version: i16) -> (ErrorCode, i64) {
    let (correlation_id, response) = ProduceResponse::decode(version, frame).unwrap();
    assert_eq!(correlation_id, i32::from(version));
    let partition = &response.topics[0].partitions[0];
    (partition.error, partition.base_offset)
}

#[test]
fn every_version_of_produce_and_fetch_is_served_however_its_bytes_arrive() {
    let (sink, _) = start(options());
    let mut raw = Raw::connect(&sink);
    for version in 3..=12 {
        // Larger than what one read has room for.
        raw.send(&produce_frame(version, 700_000, 1000), 10_000);
        assert_eq!(produced(&raw.receive(), version), (ErrorCode::None, i64::from(version) - 3));
    }
    // Several at once are answered in their order.
    let frames: Vec<_> = (3..=12).map(|version| produce_frame(version, 10, 1000)).collect();
    raw.send(&frames.concat(), usize::MAX);
    for version in 3..=12 {
        assert_eq!(produced(&raw.receive(), version), (ErrorCode::None, i64::from(version) + 7));
    }
    // FNV-1a of one byte.
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let id = (0x6c62_272e_07bb_0142_62b8_2175_6295_c58d ^ u128::from(b't')).wrapping_mul(PRIME);
    for version in 4..=17 {
        let topic = FetchTopic {
            name: "t".to_owned(),
            topic_id: Uuid::from_u128(id),
            partitions: vec![FetchPartition::new(0, 10, 1 << 20)],
        };
        let request = FetchRequest { topics: vec![topic], ..FetchRequest::default() };
        raw.send(&request.encode(version, 1, "raw"), usize::MAX);
        let (_, response) = FetchResponse::decode(version, raw.receive().into()).unwrap();
        let partition = &response.topics[0].partitions[0];
        assert_eq!((partition.error, partition.high_watermark), (ErrorCode::None, 20));
        let batches = BatchIter::new(&partition.records[0]).map(Result::unwrap);
        let bases: Vec<i64> = batches.map(|batch| batch.header.base_offset).collect();
        assert_eq!(bases, (10..20).collect::<Vec<_>>());
    }
}

#[test]
fn a_full_ring_that_nobody_reads_fails_the_produce_when_its_time_is_up() {
    let (sink, _) = start(Options { retain_bytes: 4096, ..options() });
    let mut raw = Raw::connect(&sink);
    raw.send(&[produce_frame(9, 3000, 0), produce_frame(9, 3000, 100)].concat(), usize::MAX);
    assert_eq!(produced(&raw.receive(), 9), (ErrorCode::None, 0));
    assert_eq!(produced(&raw.receive(), 9), (ErrorCode::RequestTimedOut, -1));
    assert_eq!(sink.stop().records, 1);
}

#[test]
fn each_fault_is_where_it_was_announced_and_nothing_else_has_changed() {
    for fault in Fault::ALL {
        for at_record in [1, 2, 2500, 4999, 5000] {
            check_fault(FaultPlan { fault, at_record });
        }
    }
}

fn check_fault(plan: FaultPlan) {
    const COUNT: u32 = 5000;
    let FaultPlan { fault, at_record } = plan;
    let (sink, events) = start(Options { fault: Some(plan), ..options() });
    let seen = Arc::new(Mutex::new(Vec::new()));
    let place = Arc::clone(&seen);
    run(&sink, move |client| {
        let place = Arc::clone(&place);
        async move {
            let options = ProducerOptions { batch_bytes: 1024, ..ProducerOptions::default() };
            produce(&client, "t", COUNT, options).await;
            let expected = match fault {
                Fault::Drop => COUNT - 1,
                Fault::Repeat => COUNT + 1,
                Fault::Reorder | Fault::Corrupt => COUNT,
            };
            *place.lock().unwrap() = read(&client, "t", usize::try_from(expected).unwrap()).await;
        }
    });
    drop(sink);
    let events = std::mem::take(&mut *events.lock().unwrap());
    let [Event::Planted { fault: planted, topic, partition: 0, offset, record }] = &events[..] else {
        panic!("{fault} at {at_record}: {events:?}");
    };
    assert_eq!((*planted, topic.as_str(), *record), (fault, "t", at_record));
    let read = std::mem::take(&mut *seen.lock().unwrap());
    assert!((0..).zip(&read).all(|(expected, (offset, _))| *offset == expected), "offsets have no gaps");
    let mut expected: Vec<Vec<u8>> = (0..COUNT).map(|number| value(number).to_vec()).collect();
    let index = usize::try_from(at_record - 1).unwrap();
    let at = usize::try_from(*offset).unwrap();
    match fault {
        Fault::Drop => drop(expected.remove(index)),
        Fault::Repeat => expected.insert(index, expected[index].clone()),
        Fault::Reorder => expected.swap(index, at),
        Fault::Corrupt => {
            let pairs = expected[index].iter().zip(&read[at].1);
            let changed: u32 = pairs.map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!((changed, at), (1, index));
            expected[index].clone_from(&read[at].1);
        }
    }
    assert!(index.abs_diff(at) <= 1);
    assert_eq!(read.into_iter().map(|(_, value)| value).collect::<Vec<_>>(), expected);
}

#[test]
fn a_fault_waits_for_a_batch_in_which_it_can_be_planted() {
    let plan = FaultPlan { fault: Fault::Repeat, at_record: 1 };
    let (sink, events) = start(Options { fault: Some(plan), ..options() });
    run(&sink, |client| async move {
        let compressed = ProducerOptions { codec: Codec::Lz4, ..ProducerOptions::default() };
        produce(&client, "t", 10, compressed).await;
        produce(&client, "t", 10, ProducerOptions::default()).await;
        assert_eq!(read(&client, "t", 21).await.len(), 21);
    });
    let events = events.lock().unwrap();
    let refused = matches!(events[0], Event::NotPlanted { fault: Fault::Repeat, .. });
    assert!(refused && matches!(events[1], Event::Planted { offset: 10, record: 11, .. }), "{events:?}");
}

#[test]
fn a_stall_holds_answers_back() {
    let length = Duration::from_millis(300);
    let stall = StallPlan { after: Duration::ZERO, length, every: None };
    let (sink, events) = start(Options { stall: Some(stall), ..options() });
    run(&sink, move |client| async move {
        let producer = Producer::new(client, ProducerOptions::default());
        let to_topic = producer.topic("t").await.unwrap();
        let record = OutRecord { value: Some(b"a"), ..OutRecord::default() };
        let began = Instant::now();
        to_topic.send(record).await.unwrap().await.unwrap();
        assert!(began.elapsed() >= length);
    });
    assert_eq!(events.lock().unwrap()[..], [Event::Stalled { length }]);
}

#[test]
fn topics_are_created_deleted_and_there_when_asked_for() {
    let (sink, _) = start(Options { partitions: 3, ..options() });
    run(&sink, |client| async move {
        let admin = Admin::new(client.clone());
        assert_eq!(admin.describe_topic("asked-for").await.unwrap().partitions.len(), 3);
        let spec =
            |name: &str| TopicSpec { name: name.to_owned(), partitions: Some(7), ..TopicSpec::default() };
        let create = async |name: &str| admin.create_topics(&[spec(name)], false).await.unwrap().remove(0);
        assert_eq!(create("asked-for").await.unwrap().partitions, Some(7));
        assert_eq!(create("new").await.unwrap().partitions, Some(7));
        assert!(create("new").await.unwrap_err().to_string().contains("TOPIC_ALREADY_EXISTS"));
        admin.delete_topics(&["new".to_owned()]).await.unwrap().remove(0).unwrap();
        create("new").await.unwrap();
        assert_eq!(admin.describe_cluster().await.unwrap().brokers.len(), 1);
        assert_eq!(admin.list_topics().await.unwrap().len(), 2);
    });
}

#[test]
fn what_a_sink_cannot_be_is_said() {
    let refused = |options| Sink::start(options, |_| {}).err().expect("it is refused").to_string();
    assert!(refused(Options { partitions: 0, ..options() }).contains("partitions"));
    let fault = Some(FaultPlan { fault: Fault::Drop, at_record: 1 });
    assert!(refused(Options { retain_bytes: 0, fault, ..options() }).contains("retained"));
    assert!(refused(Options { core: Some(1000), ..options() }).contains("core 1000"));
    let (sink, _) = start(options());
    assert!(refused(Options { listen: sink.address(), ..options() }).contains("cannot listen"));
}
