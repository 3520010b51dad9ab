//! The console's page and what it asks for, of a live node: what is told, to whom, and within which
//! bounds.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use corelog_protocol::batch::BatchBuilder;
use corelog_protocol::codec::Codec;
use serde_json::{Value, json};

use super::groups::{commit_alone, find};
use super::*;

/// Status, head and body of an answer.
fn ask_as(node: &Node, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(node.addresses.http.unwrap()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

fn ask(node: &Node, path: &str) -> (u16, String, String) {
    ask_as(node, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

fn told(node: &Node, path: &str) -> Value {
    let (status, head, body) = ask(node, &format!("/api/v1/{path}"));
    assert_eq!(status, 200, "{path}: {body}");
    assert!(head.contains("content-type: application/json"), "{head}");
    serde_json::from_str(&body).unwrap()
}

fn refused(node: &Node, path: &str, status: u16) -> String {
    let (found, _, body) = ask(node, &format!("/api/v1/{path}"));
    assert_eq!(found, status, "{path}: {body}");
    serde_json::from_str::<Value>(&body).unwrap()["error"].as_str().unwrap().to_owned()
}

/// Produces a batch as it is.
fn produce_batch(client: &mut Connection, topic: &str, partition: i32, batch: BytesMut) {
    client.correlation_id += 1;
    let partitions = vec![ProducePartition { index: partition, records: batch.freeze() }];
    let topics = vec![ProduceTopic { name: topic.to_owned(), partitions }];
    let request = ProduceRequest { transactional_id: None, acks: -1, timeout_ms: 1000, topics };
    for chunk in request.encode(9, client.correlation_id, "raw") {
        client.send_bytes(&chunk);
    }
    let correlation_id = client.correlation_id;
    assert_eq!(client.produced(9, correlation_id).0, 0);
}

#[test]
fn every_answer_forbids_browsers_what_it_does_not_need() {
    let node = Node::start(1);
    for path in
        ["/console", "/console/script.js", "/api/v1/node", "/api/v1/nothing", "/healthz", "/metrics", "/x"]
    {
        let (_, head, _) = ask(&node, path);
        for header in [
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
             img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
            "cache-control: no-store",
        ] {
            assert!(head.contains(header), "{path} lacks {header}:\n{head}");
        }
        assert!(!head.contains("access-control"), "{path}: no other site may read this");
    }
    let (status, head, body) = ask(&node, "/console");
    assert!(status == 200 && head.contains("text/html") && body.starts_with("<!doctype html>"), "{head}");
    let (status, head, _) = ask(&node, "/");
    assert!(status == 302 && head.contains("location: console"), "{head}");
}

#[test]
fn nothing_is_told_to_other_sites_and_other_names_of_the_machine() {
    let node = Node::start(1);
    let with = |headers: &str| ask_as(&node, &format!("GET /api/v1/node HTTP/1.1\r\n{headers}\r\n\r\n")).0;
    assert_eq!(with("Host: 127.0.0.1:9644"), 200);
    assert_eq!(with("Host: [::1]:9644"), 200);
    // A name that somebody else can let lead here.
    assert_eq!(with("Host: rebound.example:9644"), 403);
    assert_eq!(with("Host: localhost\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors"), 200);
    assert_eq!(with("Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors"), 403);
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request =
            format!("{method} /api/v1/node HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(ask_as(&node, &request).0, 405, "{method}");
    }
    // Metrics and health are for machines, which call the node as they like.
    for path in ["/metrics", "/healthz"] {
        assert_eq!(ask_as(&node, &format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n")).0, 200);
    }
}

#[test]
fn a_console_that_is_switched_off_tells_nothing() {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let net = NetOptions {
        listeners: vec![ListenerOptions { name: "plain".to_owned(), bind: loopback }],
        http: Some(loopback),
        console: false,
        ..NetOptions::default()
    };
    let node = Node::start_with(1, net);
    for path in ["/console", "/console/script.js", "/api/v1/node", "/api/v1/records?topic=t"] {
        let (status, _, body) = ask(&node, path);
        assert!(status == 403 && body.contains("http.console"), "{path}: {status} {body}");
    }
    assert_eq!(ask(&node, "/").0, 404);
    assert_eq!(ask(&node, "/metrics").0, 200);
}

#[test]
fn node_topics_and_groups_are_told_as_they_are() {
    let node = Node::start(2);
    let mut client = node.connect();
    client.create("t");
    client.create("other");
    for round in 0..8 {
        let sent = client.send_produce(9, -1, "t", round % 4, &["a", "b"]);
        assert_eq!(client.produced(9, sent).0, 0);
    }
    find(&mut client);
    commit_alone(&mut client, "billing", 1);
    commit_alone(&mut client, "done", 4);

    let found = told(&node, "node");
    assert_eq!((found["node"].as_i64(), found["health"]["status"].as_str()), (Some(1), Some("ok")));
    let shards = found["shards"].as_array().unwrap();
    let sum = |name: &str| shards.iter().map(|shard| shard[name].as_u64().unwrap()).sum::<u64>();
    // Sixteen records, and two commits.
    assert_eq!((shards.len(), sum("produced_records"), sum("groups"), sum("connections")), (2, 18, 2, 1));
    assert!(sum("received_bytes") > 0 && sum("sent_bytes") > 0);
    let produce = found["requests"].as_array().unwrap().iter().find(|it| it["api"] == "Produce").unwrap();
    assert_eq!(produce["requests"], 8);
    let bounds = found["bounds_ns"].as_array().unwrap().len();
    for stage in found["stages"].as_array().unwrap() {
        assert_eq!(stage["times"]["counts"].as_array().unwrap().len(), bounds + 1, "{stage}");
    }

    let topics = told(&node, "topics");
    let names = |told: &Value| {
        let topics = told["topics"].as_array().unwrap().iter();
        topics.map(|topic| topic["topic"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&topics), ["other", "t"]);
    let topic = &topics["topics"][1];
    assert_eq!(
        (&topic["records"], &topic["partitions"], &topic["durability"]),
        (&json!(16), &json!(4), &json!("fsync"))
    );
    assert!(topic["bytes"].as_u64().unwrap() > 0 && topic["bytes"] == topic["appended_bytes"], "{topic}");
    assert_eq!(names(&told(&node, "topics?search=th")), ["other"]);
    assert_eq!(names(&told(&node, "topics?internal=true&search=__")), ["__consumer_offsets"]);
    let topic = told(&node, "topic?name=t");
    let ends: Vec<_> =
        topic["partition_list"].as_array().unwrap().iter().map(|it| it["high_watermark"].as_i64()).collect();
    assert_eq!(ends, [Some(4); 4]);

    let groups = told(&node, "groups");
    let lag = |at: usize| (groups["groups"][at]["group"].as_str(), groups["groups"][at]["lag"].as_i64());
    assert_eq!((lag(0), lag(1)), ((Some("billing"), Some(3)), (Some("done"), Some(0))));
    let group = told(&node, "group?name=billing");
    let row = &group["partition_list"][0];
    assert_eq!(group["state"], "Empty");
    assert_eq!((&row["topic"], &row["partition"], &row["committed"]), (&json!("t"), &json!(0), &json!(1)));
    assert_eq!((&row["end"], &row["lag"], &row["member"]), (&json!(4), &json!(3), &Value::Null));

    for (path, status) in [
        ("topic?name=no", 404),
        ("group?name=no", 404),
        ("topic", 400),
        ("x", 404),
        ("records?topic=no", 404),
        ("records?topic=t&partition=4", 404),
        ("records?topic=t&partition=-1", 404),
        ("records?topic=t&from=x", 400),
        ("records?topic=t&from=-1", 400),
        ("records", 400),
        ("records?topic=%ff", 400),
        ("records?topic=t&partition=x", 400),
    ] {
        assert!(!refused(&node, path, status).is_empty());
    }
}

fn values(told: &Value) -> Vec<&str> {
    told["records"].as_array().unwrap().iter().map(|it| it["value"]["text"].as_str().unwrap_or("")).collect()
}

#[test]
fn records_are_read_from_wherever_one_likes() {
    let node = Node::start(2);
    let mut client = node.connect();
    client.create("t");
    for base in 0..10_i64 {
        let mut batch = BatchBuilder::new().codec(Codec::Zstd);
        for record in 10 * base..10 * base + 10 {
            batch = batch.record(1_000 * record, Some(b"k"), Some(record.to_string().as_bytes()));
        }
        produce_batch(&mut client, "t", 1, batch.build().unwrap());
    }
    let read = |rest: &str| told(&node, &format!("records?topic=t&partition=1&{rest}"));
    let first = read("from=beginning&limit=3");
    assert_eq!(values(&first), ["0", "1", "2"]);
    assert_eq!(
        (&first["next"], &first["high_watermark"], &first["log_start"]),
        (&json!(3), &json!(100), &json!(0))
    );
    assert_eq!(first["records"][0]["codec"], "zstd");
    assert_eq!(values(&read("from=57&limit=5")), ["57", "58", "59", "60", "61"]);
    assert_eq!(values(&read("from=end&limit=2")), ["98", "99"]);
    assert_eq!(values(&read("from=%4042500&limit=1")), ["43"], "the first one that is not older");
    assert_eq!(values(&read("from=%40999999999")), Vec::<&str>::new());
    assert_eq!(values(&read("from=1000")), Vec::<&str>::new(), "behind the end");
    assert_eq!(read("from=beginning&limit=100000")["records"].as_array().unwrap().len(), 100);
    let empty = told(&node, "records?topic=t&partition=0");
    assert_eq!((&empty["records"], &empty["next"]), (&json!([]), &json!(0)));
}

#[test]
fn whatever_is_in_records_is_told_within_bounds() {
    let node = Node::start(1);
    let mut client = node.connect();
    client.create("t");
    let markup = "<img src=x onerror=alert(1)>\"'&\u{202e}";
    let batch = BatchBuilder::new()
        .record(1, None, None)
        .record(1, Some(b"\x00\xff"), Some(markup.as_bytes()))
        .record(1, Some(&vec![b'k'; 10_000]), Some(&vec![b'v'; 100_000]));
    produce_batch(&mut client, "t", 0, batch.build().unwrap());
    // Small as it comes, and far more than may be looked into when it is decompressed.
    let bomb = BatchBuilder::new().codec(Codec::Zstd).record(1, None, Some(&vec![0; 40 << 20]));
    produce_batch(&mut client, "t", 0, bomb.build().unwrap());
    for _ in 0..40 {
        let batch = BatchBuilder::new().record(1, None, Some(&vec![b'x'; 64 << 10]));
        produce_batch(&mut client, "t", 0, batch.build().unwrap());
    }
    let found = told(&node, "records?topic=t&partition=0&from=beginning&limit=200");
    let records = found["records"].as_array().unwrap();
    assert_eq!((&records[0]["key"], &records[0]["value"]), (&Value::Null, &Value::Null));
    assert_eq!(records[1]["key"], json!({ "bytes": 2, "base64": "AP8=", "is_cut": false }));
    assert_eq!(records[1]["value"]["text"], markup);
    let large = &records[2];
    assert_eq!(
        (&large["key"]["bytes"], large["key"]["text"].as_str().unwrap().len()),
        (&json!(10_000), 4 << 10)
    );
    assert_eq!(
        (&large["value"]["is_cut"], large["value"]["text"].as_str().unwrap().len()),
        (&json!(true), 64 << 10)
    );
    assert!(records[3]["error"].is_string(), "{}", records[3]);
    assert_eq!((&records[3]["offset"], &records[3]["last_offset"]), (&json!(3), &json!(3)));
    assert!(records.len() < 24, "a mebibyte is enough for an answer: {}", records.len());
    let next = found["next"].as_i64().unwrap();
    assert_eq!(next, i64::try_from(records.len()).unwrap(), "and it says where it goes on");
    let rest = told(&node, &format!("records?topic=t&partition=0&from={next}"));
    assert_eq!(rest["records"][0]["offset"], next);
}

#[test]
fn clients_that_ask_slowly_or_never_read_keep_nobody_waiting() {
    let node = Node::start(1);
    let mut client = node.connect();
    client.create("t");
    let mut held = Vec::new();
    for number in 0..60 {
        let mut stream = TcpStream::connect(node.addresses.http.unwrap()).unwrap();
        match number % 3 {
            0 => stream.write_all(b"GET /api/v1/no").unwrap(),
            1 => stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap(),
            _ => {}
        }
        held.push(stream);
    }
    let began = Instant::now();
    assert!(node.http("/healthz").starts_with("HTTP/1.1 200"));
    assert_eq!(ask(&node, "/api/v1/node").0, 200);
    let sent = client.send_produce(9, -1, "t", 0, &["a"]);
    assert_eq!(client.produced(9, sent).0, 0);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // A head that does not end is refused when it is too large, or cut off in time. How much the
    // kernel takes of it until then is its own affair.
    let mut endless = TcpStream::connect(node.addresses.http.unwrap()).unwrap();
    endless.set_write_timeout(Some(TIMEOUT)).unwrap();
    let _ = endless.write_all(b"GET /metrics HTTP/1.1\r\n");
    let began = Instant::now();
    let refused = loop {
        if let Err(error) = endless.write_all(&[b'a'; 4096]) {
            break error.kind();
        }
        assert!(began.elapsed() < TIMEOUT, "a head without an end is still being read");
    };
    assert!(matches!(refused, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{refused}");
    drop(held);
}
