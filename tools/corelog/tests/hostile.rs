//! A real node among clients that send garbage, claim what they do not send, send it slowly, or do
//! not read what they asked for: it serves the others, in bounded memory, and says little of it.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod live;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use corelog_protocol::batch::{BatchBuilder, Codec, compress, update_crc};
use live::{Node, PATIENCE, Raw, on_disk};

const MIB: usize = 1 << 20;
const TOPIC: &str = "served";
/// What a client of good manners waits for at most: long enough for a machine that does much else,
/// far shorter than what a connection that is in the way could hold up others for (it was ten minutes).
const WAIT_MAX: Duration = Duration::from_secs(40);

/// Budgets of the node in these tests, by shard.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("CORELOG_JOURNAL_FILE_BYTES", "8388608"),
    ("CORELOG_JOURNAL_FIRST_FILE_BYTES", "4194304"),
    ("CORELOG_NETWORK_REQUEST_MEMORY_BYTES", "33554432"),
    ("CORELOG_NETWORK_RESPONSE_MEMORY_BYTES", "33554432"),
    ("CORELOG_MEMORY_TAIL_CACHE_BYTES", "16777216"),
    ("CORELOG_LOG_LEVEL", "info"),
];
const SHARDS: usize = 2;
/// All budgets of both shards. Records that are not in segments yet take up to half of the journal.
const BUDGETS_BYTES: usize = SHARDS * (32 + 32 + 16 + 16) * MIB;

/// Clients that ask for much and read nothing.
const DEAF: usize = 200;

fn batch_of(value: &[u8]) -> BytesMut {
    BatchBuilder::new().record(live::now_ms(), None, Some(value)).build().unwrap()
}

/// A client that produces and consumes all the time, on each shard, and is never let down.
struct GoodClient {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Duration>>,
}

impl GoodClient {
    fn start(node: &Node) -> Self {
        let (stop, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let thread = |partition: i32| {
            let (mut client, stop, rounds) = (node.connect(), Arc::clone(&stop), Arc::clone(&rounds));
            client.stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
            thread::spawn(move || {
                let (mut next, mut longest) = (0, Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let value = format!("record {next}");
                    let produced = client.produce(TOPIC, partition, &batch_of(value.as_bytes()));
                    assert_eq!(produced, Some((0, next)), "a produce of the good client");
                    let (code, batches) = client.fetch(TOPIC, partition, next, 1 << 20);
                    assert_eq!((code, batches.len()), (0, 1), "a fetch of the good client");
                    next += 1;
                    longest = longest.max(began.elapsed());
                    rounds.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                }
                longest
            })
        };
        let threads = (0..4).map(thread).collect();
        Self { stop, rounds, threads }
    }

    /// Waits until every one of its connections surely made some rounds from now on.
    fn goes_on(&self) {
        let (before, began) = (self.rounds.load(Ordering::Relaxed), Instant::now());
        while self.rounds.load(Ordering::Relaxed) < before + 40 {
            assert!(began.elapsed() < 2 * WAIT_MAX, "the good client goes on");
            assert!(self.threads.iter().all(|thread| !thread.is_finished()), "the good client was let down");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The longest that a produce and a fetch took together.
    fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap();
        println!(
            "the good client waited {longest:?} at most, {} rounds",
            self.rounds.load(Ordering::Relaxed)
        );
        assert!(longest < WAIT_MAX);
        longest
    }
}

/// What a test sees of waiting and memory is its own only while no other runs.
static ALONE: Mutex<()> = Mutex::new(());

/// A node, its good client, and how much memory it may come to.
struct Scene {
    _alone: MutexGuard<'static, ()>,
    node: Node,
    good: GoodClient,
    base_bytes: u64,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn start() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        raise_descriptor_limit();
        let dir = on_disk();
        let node = Node::start(dir.path(), &ENVIRONMENT);
        node.create(TOPIC, 4);
        let good = GoodClient::start(&node);
        good.goes_on();
        let base_bytes = node.resident_bytes();
        Self { _alone: alone, node, good, base_bytes, _dir: dir }
    }

    /// The others are served, and no more memory is used than `allowed_bytes` beyond the base.
    fn is_unharmed(&mut self, what: &str, allowed_bytes: usize) {
        self.good.goes_on();
        let bytes = self.node.resident_bytes();
        println!("{what}: {} MiB, {} MiB at first", bytes >> 20, self.base_bytes >> 20);
        assert!(!self.node.has_ended(), "{}", self.node.log());
        let allowed = self.base_bytes + allowed_bytes as u64;
        assert!(bytes <= allowed, "{what}: {bytes} bytes are in memory, {allowed} allowed");
    }

    /// At most a line in the log for each of `bad` connections, and not too many in all.
    fn end(self, bad: usize) {
        self.good.stop();
        let log = self.node.log();
        let lines = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).count();
        println!("{lines} lines in the log about {bad} connections");
        assert!(lines <= bad, "{log}");
        assert!(!log.contains("panicked"), "{log}");
        self.node.stop();
    }
}

/// As many files as may be: a thousand connections have an end in this process, another in the node.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = hard.min(16_384);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).unwrap();
    }
}

/// xorshift: the same bytes in every run.
struct Noise(u64);

impl Noise {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u8
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }
}

#[test]
fn what_is_no_request_ends_its_connection_and_harms_nobody() {
    let mut scene = Scene::start();
    let mut bad = 0;
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    // Lengths that nobody sends.
    for length in [i32::MAX, -1, i32::MIN, 100 * 1024 * 1024 + 1] {
        let mut client = scene.node.connect();
        client.send(&length.to_be_bytes());
        assert_eq!(client.receive(), None, "a frame of {length} bytes");
        bad += 1;
    }
    // Noise, with a length before it or without.
    for round in 0..200 {
        let mut client = scene.node.connect();
        let mut bytes = noise.bytes(1 + round * 20);
        if round % 2 == 0 {
            let length = (bytes.len() as i32).to_be_bytes();
            bytes.splice(..0, length);
        }
        client.send(&bytes);
        client.wait_for_the_end();
        bad += 1;
    }
    // Headers of every API and version, with noise behind them.
    for api in -1..=80 {
        for version in [0, 3, 9, 12, 17] {
            let mut client = scene.node.connect();
            let body = noise.bytes(60);
            let frame = client.request(api, version, &body);
            client.send(&frame);
            client.wait_for_the_end();
            bad += 1;
        }
    }
    scene.is_unharmed("noise", 32 * MIB);
    // A frame that is cut off anywhere.
    let whole = scene.node.connect().produce_frame(TOPIC, 0, &batch_of(&[1; 40_000]));
    for cut in [1, 3, 4, 5, 20, 100, 20_000, whole.len() - 1] {
        let mut client = scene.node.connect();
        client.send(&whole[..cut]);
        client.wait_for_the_end();
        bad += 1;
    }
    scene.is_unharmed("cut frames", 32 * MIB);
    scene.end(bad);
}

#[test]
fn what_is_wrong_with_a_request_is_said_and_its_connection_goes_on() {
    let mut scene = Scene::start();
    let mut client = scene.node.connect();
    // A version of Fetch that nobody knows; an AddOffsetsToTxn, which is not served.
    for (api, version) in [(1, 99), (25, 0)] {
        let frame = client.request(api, version, &[0; 60]);
        client.send(&frame);
        let answer = client.receive().expect("an answer");
        assert!(answer.windows(2).any(|code| code == [0, 35]), "UNSUPPORTED_VERSION in {answer:?}");
    }
    let good = batch_of(b"value");
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut short = good.clone();
    short.truncate(70);
    let mut old = good.clone();
    old[16] = 1;
    let mut counted = good.clone();
    counted[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    update_crc(&mut counted);
    let twice = BytesMut::from(&[&good[..], &good[..]].concat()[..]);
    let cases = [("a flipped bit", flipped, 2), ("a cut batch", short, 2), ("magic 1", old, 87)];
    for (what, batch, expected) in cases {
        assert_eq!(client.produce(TOPIC, 0, &batch).expect("an answer").0, expected, "{what}");
    }
    for (what, batch) in
        [("a count that is a lie", counted), ("two batches", twice), ("nothing", BytesMut::new())]
    {
        assert!(client.produce(TOPIC, 0, &batch).expect("an answer").0 > 0, "{what}");
    }
    scene.is_unharmed("wrong batches", 32 * MIB);
    scene.end(1);
}

/// A batch that says it holds one record and holds `bytes` zeros under a codec.
fn bomb(codec: Codec, bytes: usize) -> BytesMut {
    let payload = compress(codec, &vec![0; bytes], None).unwrap();
    let mut batch = batch_of(b"");
    batch.truncate(61);
    batch.extend_from_slice(&payload);
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[22] = codec.bits();
    update_crc(&mut batch);
    batch
}

#[test]
fn decompression_bombs_of_every_codec_are_refused_in_bounded_memory() {
    let mut scene = Scene::start();
    // Snappy makes at most 21 bytes of one, so that more than this is larger than a batch may be.
    let bombs = [(Codec::Gzip, 200), (Codec::Lz4, 200), (Codec::Zstd, 200), (Codec::Snappy, 16)];
    let mut bad = 0;
    for (codec, mebibytes) in bombs {
        let bomb = bomb(codec, mebibytes * MIB);
        assert!(bomb.len() < MIB, "{codec}: {} bytes", bomb.len());
        let began = Instant::now();
        let threads: Vec<_> = (0..4)
            .map(|_| (scene.node.connect(), bomb.clone()))
            .map(|(mut client, bomb)| {
                thread::spawn(move || (0..2).map(|_| client.produce(TOPIC, 1, &bomb).unwrap().0).collect())
            })
            .collect();
        for thread in threads {
            let codes: Vec<i16> = thread.join().unwrap();
            assert!(codes.iter().all(|code| *code > 0), "{codec}: {codes:?}");
        }
        println!("{codec}: {:?} for each of 8 bombs", began.elapsed() / 8);
        bad += 4;
        // A batch may have 100 MiB of records once decompressed, on each shard at a time.
        scene.is_unharmed(codec.name(), 2 * 128 * MIB);
    }
    scene.end(bad);
}

/// Requests that are right, and large: 262,144 empty names in half a megabyte.
#[test]
fn the_largest_requests_hold_up_nobody_for_long() {
    let mut scene = Scene::start();
    let count = 1 << 18;
    let mut body = (count as i32).to_be_bytes().to_vec();
    body.resize(body.len() + 2 * count, 0);
    for _ in 0..3 {
        let mut client = scene.node.connect();
        let began = Instant::now();
        let frame = client.request(3, 0, &body);
        client.send(&frame);
        let answer = client.receive();
        println!("{count} names: {:?} in {:?}", answer.map(|bytes| bytes.len()), began.elapsed());
    }
    scene.is_unharmed("large requests", 256 * MIB);
    scene.end(5);
}

#[test]
fn the_port_for_metrics_takes_garbage_too() {
    let mut scene = Scene::start();
    let addresses = std::fs::read_to_string(scene.node.data_dir.join("corelog.addresses")).unwrap();
    let http = addresses.lines().find_map(|line| line.strip_prefix("http=")).unwrap().to_owned();
    let connect = || {
        let stream = std::net::TcpStream::connect(&http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let mut noise = Noise(3);
    for round in 0..50 {
        let mut stream = connect();
        let bytes = if round % 2 == 0 {
            noise.bytes(3000)
        } else {
            format!("GET /healthz HTTP/1.1\r\nX: {}", "y".repeat(round * 10_000)).into_bytes()
        };
        // It may be refused before all of it is sent.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{round}");
    }
    // Some that say nothing, and one that does.
    let silent: Vec<_> = (0..100).map(|_| connect()).collect();
    let mut stream = connect();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(silent);
    scene.is_unharmed("garbage on the port for metrics", 32 * MIB);
    scene.end(0);
}

#[test]
fn a_thousand_idle_connections_cost_little() {
    let mut scene = Scene::start();
    let mut idle: Vec<Raw> = Vec::new();
    for number in 0..1000 {
        let mut client = scene.node.connect();
        if number % 2 == 0 {
            // Half of them did something before they fell silent.
            let frame = client.request(18, 0, &[]);
            assert!(client.send(&frame));
            assert!(client.receive().is_some());
        }
        idle.push(client);
    }
    scene.is_unharmed("1,000 idle connections", 64 * MIB);
    // They are still there, too.
    let last = idle.last_mut().unwrap();
    let frame = last.request(18, 0, &[]);
    assert!(last.send(&frame));
    assert!(last.receive().is_some());
    drop(idle);
    scene.end(0);
}

#[test]
fn who_sends_slowly_keeps_nobody_from_being_served() {
    let mut scene = Scene::start();
    let mut slow = Vec::new();
    for number in 0..300 {
        let mut client = scene.node.connect();
        let claimed: i32 = if number % 2 == 0 { 90 * 1024 * 1024 } else { 1000 };
        client.send(&claimed.to_be_bytes());
        slow.push(client);
    }
    // These have sent enough to be taken seriously.
    for _ in 0..20 {
        let mut client = scene.node.connect();
        client.send(&(30_i32 * 1024 * 1024).to_be_bytes());
        client.send(&[0; 20_000]);
        slow.push(client);
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(6) {
        for client in &mut slow {
            // Some of them were closed meanwhile, as they should be.
            let _ = client.stream.write(&[0]);
        }
        thread::sleep(Duration::from_millis(900));
        scene.is_unharmed("slow senders", BUDGETS_BYTES);
    }
    drop(slow);
    scene.end(320);
}

#[test]
fn who_does_not_read_keeps_nobody_from_being_served() {
    let mut scene = Scene::start();
    scene.node.create("large", 4);
    // More than is kept in memory, so that some of it comes from segments.
    let value: Vec<u8> = Noise(7).bytes(900_000);
    let batch = batch_of(&value);
    let mut writer = scene.node.connect();
    for round in 0..80 {
        assert_eq!(writer.produce("large", round % 4, &batch).unwrap().0, 0);
    }
    let mut deaf = Vec::new();
    for number in 0..DEAF {
        let mut client = scene.node.connect();
        client.stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut asked = Vec::new();
        for _ in 0..60 {
            asked.extend_from_slice(&client.fetch_frame("large", number as i32 % 4, 0, 50 << 20));
            asked.extend(client.metadata());
        }
        client.send(&asked);
        deaf.push(client);
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        // Beside the budgets: a fetch under way always has one batch, and of these each client has one. And
        // what readers of segments keep (16 on each shard, with two chunks of 1 MiB), and what the
        // allocator does not give back.
        scene.is_unharmed("clients that do not read", BUDGETS_BYTES + DEAF * value.len() + 96 * MIB);
        thread::sleep(Duration::from_millis(500));
    }
    drop(deaf);
    scene.end(DEAF);
}
