//! A node with real sockets, spoken to in raw Kafka frames: what no client library sends, and what
//! one would hide.

#![allow(clippy::unwrap_used)]

#[path = "wire/admin.rs"]
mod admin;
#[path = "wire/console.rs"]
mod console;
#[path = "wire/groups.rs"]
mod groups;
#[path = "wire/metrics.rs"]
mod metrics;
#[path = "wire/records.rs"]
mod records;

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use corelog_engine::engine::{Engine, EngineOptions};
use corelog_engine::journal::JournalOptions;
use corelog_engine::meta::MetaOptions;
use corelog_engine::meta::image::ListenerMeta;
use corelog_engine::shard::ShardOptions;
use corelog_engine::topic_config::NodeDefaults;
use corelog_engine::types::NodeId;
use corelog_net::options::{ListenerOptions, NetOptions};
use corelog_net::server::{Addresses, Bound, NodeNet, Server};
use corelog_protocol::batch::BatchBuilder;
use corelog_protocol::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use corelog_protocol::produce::{ProducePartition, ProduceRequest, ProduceResponse, ProduceTopic};
use corelog_runtime::shards::{self, ShardContext};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::protocol::{Decodable, Encodable, Request};
use tokio::sync::watch;

const TIMEOUT: Duration = Duration::from_secs(20);
const RETENTION_CHECK_INTERVAL: Duration = Duration::from_secs(300);

/// A running node with its data in a directory of its own.
struct Node {
    addresses: Addresses,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Node {
    fn start(shards: usize) -> Self {
        let loopback = |name: &str| ListenerOptions {
            name: name.to_owned(),
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let options = NetOptions {
            listeners: vec![loopback("plain"), loopback("other")],
            http: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            max_frame_bytes: 4 << 20,
            ..NetOptions::default()
        };
        Self::start_with(shards, options)
    }

    fn start_with(shards: usize, net: NetOptions) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let data_dir = dir.path().join("data");
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = watch::channel(false);
        let run = shards::Options { shards, data_dirs: vec![data_dir.clone()], ..shards::Options::default() };
        let shared = NodeNet::new(shards);
        let thread = std::thread::spawn(move || {
            let main = move |context: ShardContext<_, _>| {
                let (net, shared, tell) = (net.clone(), shared.clone(), tell.clone());
                let (data_dir, mut stopped) = (data_dir.clone(), stopped.clone());
                async move {
                    let shard = context.shard;
                    let bound = Bound::bind(&shared, shard, &net).await.unwrap();
                    let addresses = bound.addresses().clone();
                    let listeners = net.listeners.iter().zip(&addresses.listeners);
                    let listeners = listeners.map(|(listener, address)| ListenerMeta {
                        name: listener.name.clone(),
                        host: address.ip().to_string(),
                        port: address.port(),
                    });
                    let engine = engine_options(data_dir, listeners.collect());
                    let engine = Engine::start(context.mesh, engine).await.unwrap();
                    let server = Server::start(engine.clone(), net, shared, bound);
                    if shard == 0 {
                        tell.send(addresses).unwrap();
                    }
                    stopped.wait_for(|stopped| *stopped).await.unwrap();
                    server.stop().await;
                    engine.shut_down().await.unwrap();
                    Ok::<(), Infallible>(())
                }
            };
            shards::run(run, main).unwrap();
        });
        let addresses = told.recv_timeout(TIMEOUT).expect("the node starts");
        Self { addresses, stop, thread: Some(thread), _dir: dir }
    }

    fn connect(&self) -> Connection {
        self.connect_to(0)
    }

    fn connect_to(&self, listener: usize) -> Connection {
        let stream = TcpStream::connect(self.addresses.listeners[listener]).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream, correlation_id: 0 }
    }

    fn http(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.addresses.http.unwrap()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let ended = self.thread.take().expect("it ends once").join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

fn engine_options(data_dir: std::path::PathBuf, listeners: Vec<ListenerMeta>) -> EngineOptions {
    let mut journal = JournalOptions::new(std::path::PathBuf::new(), 0);
    journal.file_bytes = 4 << 20;
    journal.first_file_bytes = 1 << 20;
    EngineOptions {
        shard: ShardOptions {
            data_dir,
            node: NodeId(1),
            tail_cache_bytes: 4 << 20,
            unflushed_bytes_max: 8 << 20,
            flush_chunk_bytes: 1 << 20,
            carry_bytes_max: 64 << 10,
            journal_queue_bytes_max: 4 << 20,
            open_files_max: 64,
            groups: corelog_engine::group::GroupConfig::default(),
            retention_check_interval: RETENTION_CHECK_INTERVAL,
            clean: corelog_engine::shard::CleanOptions::default(),
            planted: corelog_engine::planted::PlantedBug::default(),
        },
        journal,
        meta: MetaOptions {
            node: NodeId(1),
            listeners,
            rack: None,
            default_partitions: 4,
            default_replication_factor: 1,
            configs: NodeDefaults::default(),
            entries_per_snapshot: 1000,
        },
        defaults: NodeDefaults::default(),
    }
}

/// A client that knows how to wait for exactly one frame, and nothing else.
struct Connection {
    stream: TcpStream,
    correlation_id: i32,
}

impl Connection {
    fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next frame without its length; `None` when the node closed the connection.
    fn receive(&mut self) -> Option<Bytes> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer"),
            Err(_) => return None,
        }
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        self.stream.read_exact(&mut frame).unwrap();
        Some(Bytes::from(frame))
    }

    fn send<T: Request>(&mut self, version: i16, request: &T) -> i32 {
        self.correlation_id += 1;
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        RequestHeader::default()
            .with_request_api_key(T::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("raw")))
            .encode(&mut frame, T::header_version(version))
            .unwrap();
        request.encode(&mut frame, version).unwrap();
        let length = i32::try_from(frame.len() - 4).unwrap();
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.send_bytes(&frame);
        self.correlation_id
    }

    fn answer<T: Request>(&mut self, version: i16, correlation_id: i32) -> T::Response {
        let mut frame = self.receive().expect("an answer");
        let header_version =
            <T::Response as kafka_protocol::protocol::HeaderVersion>::header_version(version);
        let header = ResponseHeader::decode(&mut frame, header_version).unwrap();
        assert_eq!(header.correlation_id, correlation_id, "answers come in the order of requests");
        let response = T::Response::decode(&mut frame, version).unwrap();
        assert_eq!(frame.remaining(), 0);
        response
    }

    fn call<T: Request>(&mut self, version: i16, request: &T) -> T::Response {
        let correlation_id = self.send(version, request);
        self.answer::<T>(version, correlation_id)
    }

    fn send_produce(&mut self, version: i16, acks: i16, topic: &str, partition: i32, values: &[&str]) -> i32 {
        self.correlation_id += 1;
        let mut batch = BatchBuilder::new();
        for value in values {
            batch = batch.record(1_700_000_000_000, Some(b"key"), Some(value.as_bytes()));
        }
        let request = ProduceRequest {
            transactional_id: None,
            acks,
            timeout_ms: 1000,
            topics: vec![ProduceTopic {
                name: topic.to_owned(),
                partitions: vec![ProducePartition {
                    index: partition,
                    records: batch.build().unwrap().freeze(),
                }],
            }],
        };
        for chunk in request.encode(version, self.correlation_id, "raw") {
            self.send_bytes(&chunk);
        }
        self.correlation_id
    }

    /// Error code and base offset.
    fn produced(&mut self, version: i16, correlation_id: i32) -> (i16, i64) {
        let frame = self.receive().expect("an answer");
        let (correlated, response) = ProduceResponse::decode(version, &frame).unwrap();
        assert_eq!(correlated, correlation_id, "answers come in the order of requests");
        let partition = &response.topics[0].partitions[0];
        (partition.error.code(), partition.base_offset)
    }

    fn fetch(&mut self, version: i16, request: &FetchRequest) -> FetchResponse {
        self.correlation_id += 1;
        let frame = request.encode(version, self.correlation_id, "raw");
        self.send_bytes(&frame);
        let (correlated, response) =
            FetchResponse::decode(version, self.receive().expect("an answer")).unwrap();
        assert_eq!(correlated, self.correlation_id);
        response
    }

    /// Creates a topic by asking for it; gives its id.
    fn create(&mut self, topic: &str) -> uuid::Uuid {
        let response = self.call(12, &metadata_of(topic));
        assert_eq!(response.topics[0].error_code, 0);
        response.topics[0].topic_id
    }
}

fn metadata_of(topic: &str) -> MetadataRequest {
    let topic = metadata_request::MetadataRequestTopic::default()
        .with_name(Some(StrBytes::from_string(topic.to_owned()).into()));
    MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(true)
}

fn fetch_of(topic: &str, id: uuid::Uuid, offsets: &[(i32, i64)]) -> FetchRequest {
    let partition = |(index, offset): &(i32, i64)| FetchPartition::new(*index, *offset, 1 << 20);
    FetchRequest {
        max_wait_ms: 0,
        topics: vec![FetchTopic {
            name: topic.to_owned(),
            topic_id: id,
            partitions: offsets.iter().map(partition).collect(),
        }],
        ..FetchRequest::default()
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_and_see_each_others_effects() {
    let node = Node::start(2);
    let mut client = node.connect();
    client.create("t");
    let mut sent = Vec::new();
    for round in 0..100 {
        sent.push(client.send_produce(9, -1, "t", round % 4, &["a", "b"]));
    }
    let asked = ListOffsetsRequest::default().with_topics(vec![
        list_offsets_request::ListOffsetsTopic::default()
            .with_name(StrBytes::from_static_str("t").into())
            .with_partitions(vec![
                list_offsets_request::ListOffsetsPartition::default()
                    .with_partition_index(0)
                    .with_timestamp(-1),
            ]),
    ]);
    let offsets = client.send(5, &asked);
    let last = client.send_produce(9, -1, "t", 0, &["c"]);
    for (round, correlation_id) in (0..).zip(sent) {
        assert_eq!(client.produced(9, correlation_id), (0, round / 4 * 2));
    }
    let answered = client.answer::<ListOffsetsRequest>(5, offsets);
    assert_eq!(answered.topics[0].partitions[0].offset, 50);
    assert_eq!(client.produced(9, last), (0, 50));
}

#[test]
fn each_listener_is_told_its_own_address() {
    let node = Node::start(2);
    for (index, address) in node.addresses.listeners.iter().enumerate() {
        let response = node.connect_to(index).call(9, &MetadataRequest::default().with_topics(None));
        assert_eq!(response.brokers.len(), 1);
        assert_eq!(response.brokers[0].port, i32::from(address.port()));
        assert_eq!(response.controller_id.0, 1);
    }
}

#[test]
fn what_is_not_served_is_refused_and_the_connection_goes_on() {
    let node = Node::start(1);
    let mut client = node.connect();
    let ended = client.call(3, &EndTxnRequest::default());
    assert_eq!(ended.error_code, 35);
    let commit = TxnOffsetCommitRequest::default().with_topics(vec![
        txn_offset_commit_request::TxnOffsetCommitRequestTopic::default()
            .with_name(StrBytes::from_static_str("t").into())
            .with_partitions(vec![Default::default()]),
    ]);
    assert_eq!(client.call(3, &commit).topics[0].partitions[0].error_code, 35);
    assert_eq!(client.call(1, &SaslHandshakeRequest::default()).error_code, 34);

    // A version of ApiVersions that nobody knows: the body is version 0.
    client.correlation_id += 1;
    let mut frame = BytesMut::new();
    frame.put_slice(&[0, 0, 0, 11, 0, 18, 0, 99]);
    frame.put_i32(client.correlation_id);
    frame.put_slice(&[0xff, 0xff, 0]);
    client.send_bytes(&frame);
    let versions = client.answer::<ApiVersionsRequest>(0, client.correlation_id);
    assert_eq!((versions.error_code, versions.api_keys[0].api_key), (35, 18));

    let id = StrBytes::from_static_str("raw");
    let hello =
        ApiVersionsRequest::default().with_client_software_name(id.clone()).with_client_software_version(id);
    let versions = client.call(4, &hello);
    let produce = versions.api_keys.iter().find(|api| api.api_key == 0).unwrap();
    assert_eq!((versions.error_code, produce.min_version), (0, 0));
    assert!(versions.api_keys.iter().all(|api| api.api_key != 26), "EndTxn is not advertised");

    // A key that nobody knows ends the connection; others live on.
    client.send_bytes(&[0, 0, 0, 10, 0x7f, 0xff, 0, 0, 0, 0, 0, 9, 0xff, 0xff]);
    assert_eq!(client.receive(), None);
    assert_eq!(node.connect().call(4, &hello).error_code, 0);
}

#[test]
fn frames_that_are_too_large_or_malformed_end_their_connection_only() {
    let node = Node::start(1);
    for bytes in [
        &[0x7f, 0xff, 0xff, 0xff][..],
        &[0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 2, 0, 0],
        // Metadata version 9 with an array of four thousand million topics.
        &[0, 0, 0, 16, 0, 3, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0x0f],
        // Half of a header, then the end.
        &[0, 0, 0, 6, 0, 3, 0, 9, 0, 0],
    ] {
        let mut client = node.connect();
        client.send_bytes(bytes);
        assert_eq!(client.receive(), None, "{bytes:?}");
    }
    node.connect().create("t");
}

#[test]
fn produces_without_acks_are_silent_and_a_failed_one_ends_the_connection() {
    let node = Node::start(2);
    let mut client = node.connect();
    client.create("t");
    for _ in 0..10 {
        client.send_produce(7, 0, "t", 1, &["x"]);
    }
    let acked = client.send_produce(7, 1, "t", 1, &["y"]);
    assert_eq!(client.produced(7, acked), (0, 10));
    client.send_produce(7, 0, "no-such-topic", 0, &["x"]);
    assert_eq!(client.receive(), None);
}

#[test]
fn a_fetch_waits_for_records_and_a_session_tells_only_news() {
    let node = Node::start(2);
    let mut consumer = node.connect();
    let id = consumer.create("t");
    let full = FetchRequest { session_epoch: 0, ..fetch_of("t", id, &[(0, 0), (1, 0), (2, 0), (3, 0)]) };
    let opened = consumer.fetch(13, &full);
    assert_eq!((opened.error.code(), opened.topics[0].partitions.len()), (0, 4));
    assert_ne!(opened.session_id, 0);

    let session_id = opened.session_id;
    let poll = move |epoch| FetchRequest {
        session_id,
        session_epoch: epoch,
        max_wait_ms: 10_000,
        ..FetchRequest::default()
    };
    let waiting = std::thread::spawn(move || (consumer.fetch(13, &poll(1)), consumer));
    let mut producer = node.connect();
    let sent = producer.send_produce(9, -1, "t", 2, &["a", "b", "c"]);
    assert_eq!(producer.produced(9, sent), (0, 0));
    let (polled, mut consumer) = waiting.join().unwrap();
    let partitions: Vec<_> = polled.topics.iter().flat_map(|topic| &topic.partitions).collect();
    assert_eq!(partitions.len(), 1);
    assert_eq!((partitions[0].index, partitions[0].high_watermark), (2, 3));
    assert!(partitions[0].records_bytes() > 61);

    let stale = consumer.fetch(13, &poll(1));
    assert_eq!(stale.error.code(), 71);
    let unknown = FetchRequest { session_id: session_id.wrapping_add(1), ..poll(2) };
    assert_eq!(consumer.fetch(13, &unknown).error.code(), 70);
}

#[test]
fn fetches_name_their_errors() {
    let node = Node::start(2);
    let mut client = node.connect();
    let id = client.create("t");
    let code = |response: FetchResponse| response.topics[0].partitions[0].error.code();
    assert_eq!(code(client.fetch(12, &fetch_of("t", id, &[(0, 7)]))), 1);
    assert_eq!(code(client.fetch(12, &fetch_of("t", id, &[(9, 0)]))), 3);
    assert_eq!(code(client.fetch(12, &fetch_of("x", id, &[(0, 0)]))), 3);
    assert_eq!(code(client.fetch(13, &fetch_of("", uuid::Uuid::from_u128(1), &[(0, 0)]))), 100);
    let follower = FetchRequest { replica_id: 2, ..fetch_of("t", id, &[(0, 0)]) };
    assert_eq!(client.fetch(12, &follower).error.code(), 31);
    let mut fenced = fetch_of("t", id, &[(0, 0)]);
    fenced.topics[0].partitions[0].current_leader_epoch = 1000;
    assert_eq!(code(client.fetch(12, &fenced)), 75);
}

#[test]
fn topics_are_created_described_and_deleted() {
    let node = Node::start(2);
    let mut client = node.connect();
    let name = |name: &'static str| TopicName(StrBytes::from_static_str(name));
    let topic = |n: &'static str, partitions| {
        create_topics_request::CreatableTopic::default()
            .with_name(name(n))
            .with_num_partitions(partitions)
            .with_replication_factor(-1)
    };
    let create = |topics| CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(1000);
    let dry = client.call(7, &create(vec![topic("a", 3)]).with_validate_only(true));
    assert_eq!(dry.topics[0].error_code, 0);
    let topics = vec![topic("a", 3), topic("bad name", 1), topic("b", 0), topic("c", 1), topic("c", 1)];
    let created = client.call(7, &create(topics));
    let codes: Vec<_> = created.topics.iter().map(|t| (t.name.to_string(), t.error_code)).collect();
    let expected = [("a", 0), ("bad name", 17), ("b", 37), ("c", 42)];
    assert_eq!(codes, expected.map(|(name, code)| (name.to_owned(), code)));
    assert_eq!((created.topics[0].num_partitions, created.topics[0].replication_factor), (3, 1));
    assert_eq!(client.call(7, &create(vec![topic("a", 1)])).topics[0].error_code, 36);

    let described =
        client.call(0, &DescribeTopicPartitionsRequest::default().with_response_partition_limit(2));
    assert_eq!(described.topics[0].partitions.len(), 2);
    assert_eq!(described.next_cursor.unwrap().partition_index, 2);
    let resource = describe_configs_request::DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(StrBytes::from_static_str("a"))
        .with_configuration_keys(None);
    let configs = client.call(4, &DescribeConfigsRequest::default().with_resources(vec![resource]));
    assert!(configs.results[0].configs.iter().any(|c| c.name.as_str() == "corelog.durability"));

    let id = created.topics[0].topic_id;
    let state = delete_topics_request::DeleteTopicState::default().with_name(None).with_topic_id(id);
    let delete = DeleteTopicsRequest::default().with_topics(vec![state]).with_timeout_ms(1000);
    let deleted = client.call(6, &delete);
    assert_eq!(
        (deleted.responses[0].error_code, deleted.responses[0].name.as_ref().unwrap().to_string()),
        (0, "a".into())
    );
    assert_eq!(client.call(6, &delete).responses[0].error_code, 100);
    let sent = client.send_produce(9, 1, "a", 0, &["x"]);
    assert_eq!(client.produced(9, sent).0, 3);
}

#[test]
fn producer_ids_are_given_once() {
    let node = Node::start(2);
    let request = InitProducerIdRequest::default().with_transactional_id(None);
    let ids: std::collections::BTreeSet<_> =
        (0..6).map(|_| node.connect().call(4, &request)).map(|r| (r.error_code, r.producer_id.0)).collect();
    assert_eq!(ids.len(), 6);
    assert!(ids.iter().all(|(code, id)| *code == 0 && *id >= 0));
}

#[test]
fn connections_are_spread_and_counted() {
    let node = Node::start(2);
    let mut clients: Vec<_> = (0..8).map(|_| node.connect()).collect();
    for client in &mut clients {
        client.create("t");
    }
    let metrics = node.http("/metrics");
    for shard in 0..2 {
        let line = format!("corelog_net_connections{{shard=\"{shard}\"}} 4");
        assert!(metrics.lines().any(|l| l == line), "{metrics}");
    }
    for shard in 0..2 {
        let line = format!("corelog_net_requests_total{{shard=\"{shard}\",api=\"Metadata\"}} 4");
        assert!(metrics.lines().any(|l| l == line), "{metrics}");
    }
    assert!(node.http("/healthz").starts_with("HTTP/1.1 200"));
    assert!(node.http("/other").starts_with("HTTP/1.1 404"));
}

#[test]
fn idle_connections_are_closed_and_busy_ones_are_not() {
    let node = Node::start_with(
        1,
        NetOptions {
            listeners: vec![ListenerOptions {
                name: "plain".to_owned(),
                bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            }],
            idle_timeout: Duration::from_secs(2),
            ..NetOptions::default()
        },
    );
    let mut idle = node.connect();
    let mut busy = node.connect();
    let id = busy.create("t");
    let wait = FetchRequest { max_wait_ms: 4000, ..fetch_of("t", id, &[(0, 0)]) };
    assert_eq!(busy.fetch(12, &wait).error.code(), 0);
    assert_eq!(idle.receive(), None);
}

#[test]
fn a_stop_answers_what_is_in_flight() {
    let node = Node::start(2);
    let mut client = node.connect();
    let id = client.create("t");
    let mut consumer = node.connect();
    let wait = FetchRequest { max_wait_ms: 600_000, ..fetch_of("t", id, &[(0, 0)]) };
    consumer.correlation_id += 1;
    let frame = wait.encode(12, consumer.correlation_id, "raw");
    consumer.send_bytes(&frame);
    let sent: Vec<_> = (0..50).map(|_| client.send_produce(9, -1, "t", 1, &["x"])).collect();
    // The last answer shows that all of them are in flight or answered.
    for (offset, correlation_id) in (0..).zip(sent) {
        assert_eq!(client.produced(9, correlation_id), (0, offset));
    }
    node.stop.send_replace(true);
    let (_, response) = FetchResponse::decode(12, consumer.receive().expect("an answer")).unwrap();
    assert_eq!(response.topics[0].partitions[0].error.code(), 6);
    assert_eq!(consumer.receive(), None);
    assert_eq!(client.receive(), None);
}
