//! A real node in a process of its own, and clients that speak to it: commands, and raw frames.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part of it")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use corelog_protocol::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use corelog_protocol::produce::{ProducePartition, ProduceRequest, ProduceResponse, ProduceTopic};
use tempfile::TempDir;

pub const BINARY: &str = env!("CARGO_BIN_EXE_corelog");
/// Whatever takes longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const PRODUCE_VERSION: i16 = 9;
pub const FETCH_VERSION: i16 = 12;

/// A node on ports of its own; killed when dropped.
pub struct Node {
    process: Child,
    pub address: String,
    pub http: String,
    pub data_dir: PathBuf,
    log: PathBuf,
}

impl Node {
    /// Starts one with two shards on `dir/data`; its log goes to a file beside that.
    pub fn start(dir: &Path, environment: &[(&str, &str)]) -> Self {
        Self::start_at("127.0.0.1:0", dir, environment)
    }

    /// As [`Node::start`], for clients that know the address already.
    pub fn start_at(address: &str, dir: &Path, environment: &[(&str, &str)]) -> Self {
        let (data_dir, log) = (dir.join("data"), dir.join("log"));
        let mut process = Command::new(BINARY)
            .args(["serve", "--listen", address, "--http", "127.0.0.1:0", "--shards", "2", "--data-dir"])
            .arg(&data_dir)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ");
        let address = address.unwrap_or_else(|| panic!("{}", fs::read_to_string(&log).unwrap())).to_owned();
        let addresses = fs::read_to_string(data_dir.join("corelog.addresses")).unwrap();
        let http = addresses.lines().find_map(|line| line.strip_prefix("http=")).unwrap().to_owned();
        Self { process, address, http, data_dir, log }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn connect(&self) -> Raw {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Raw { stream, correlation_id: 0 }
    }

    /// A command against it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(arguments).env("CORELOG_BOOTSTRAP", &self.address);
        command
    }

    /// Runs a command against it.
    pub fn run(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments), b"")
    }

    /// The output of a command that must succeed.
    pub fn text(&self, arguments: &[&str]) -> String {
        succeeded(self.run(arguments))
    }

    pub fn create(&self, topic: &str, partitions: u32) {
        self.text(&["topic", "create", topic, "--partitions", &partitions.to_string()]);
    }

    /// Produces with these arguments what is read from stdin.
    pub fn produce(&self, arguments: &[&str], input: &[u8]) {
        let arguments = [&["produce"], arguments].concat();
        succeeded(run(&mut self.command(&arguments), input));
    }

    /// What is in memory now, bytes.
    pub fn resident_bytes(&self) -> u64 {
        corelog_bench::process::usage(self.process.id()).unwrap().resident_bytes
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Stops in order.
    pub fn stop(mut self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert_eq!(self.process.wait().unwrap().code(), Some(0), "{}", self.log());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// For records that are to stay: old ones are not kept.
pub fn now_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since_1970.as_millis()).unwrap()
}

/// Runs a command to its end.
pub fn run(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    // A command that fails early does not read its input.
    let _ = process.stdin.take().unwrap().write_all(input);
    process.wait_with_output().unwrap()
}

/// The output of a command that must succeed.
pub fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A directory on a real disk: a node refuses others.
pub fn on_disk() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A client that sends what no client library sends.
pub struct Raw {
    pub stream: TcpStream,
    correlation_id: i32,
}

impl Raw {
    /// Sends bytes; false when the node has closed the connection.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next frame without its length; `None` when the node closed the connection.
    pub fn receive(&mut self) -> Option<Bytes> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("neither an answer nor an end"),
            Err(_) => return None,
        }
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        self.stream.read_exact(&mut frame).unwrap();
        Some(Bytes::from(frame))
    }

    /// Says that nothing more comes, and waits until the node has closed the connection too.
    pub fn wait_for_the_end(mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        while self.receive().is_some() {}
    }

    /// A frame with a header of version 1, whose body is `body`.
    pub fn request(&mut self, api: i16, version: i16, body: &[u8]) -> Vec<u8> {
        self.correlation_id += 1;
        let mut frame = Vec::new();
        frame.put_i32(i32::try_from(10 + body.len()).unwrap());
        frame.put_i16(api);
        frame.put_i16(version);
        frame.put_i32(self.correlation_id);
        frame.put_i16(-1);
        frame.put_slice(body);
        frame
    }

    /// Metadata of all topics.
    pub fn metadata(&mut self) -> Vec<u8> {
        self.request(3, 1, &(-1_i32).to_be_bytes())
    }

    /// Produces one batch; the error code and the base offset.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: &BytesMut) -> Option<(i16, i64)> {
        let frame = self.produce_frame(topic, partition, batch);
        self.send(&frame);
        let answer = self.receive()?;
        let (correlated, response) = ProduceResponse::decode(PRODUCE_VERSION, &answer).unwrap();
        assert_eq!(correlated, self.correlation_id);
        let partition = &response.topics[0].partitions[0];
        Some((partition.error.code(), partition.base_offset))
    }

    pub fn produce_frame(&mut self, topic: &str, partition: i32, batch: &BytesMut) -> Vec<u8> {
        self.correlation_id += 1;
        let records = batch.clone().freeze();
        let partitions = vec![ProducePartition { index: partition, records }];
        let topics = vec![ProduceTopic { name: topic.to_owned(), partitions }];
        let request = ProduceRequest { transactional_id: None, acks: -1, timeout_ms: 10_000, topics };
        request.encode(PRODUCE_VERSION, self.correlation_id, "raw").concat()
    }

    pub fn fetch_frame(&mut self, topic: &str, partition: i32, offset: i64, max_bytes: i32) -> BytesMut {
        self.correlation_id += 1;
        let partition = FetchPartition::new(partition, offset, max_bytes);
        let topics =
            vec![FetchTopic { name: topic.to_owned(), partitions: vec![partition], ..FetchTopic::default() }];
        let request =
            FetchRequest { max_wait_ms: 0, max_bytes, session_epoch: -1, topics, ..FetchRequest::default() };
        request.encode(FETCH_VERSION, self.correlation_id, "raw")
    }

    /// Fetches from one partition: its error code, and the batches.
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64, max_bytes: i32) -> (i16, Vec<Bytes>) {
        let frame = self.fetch_frame(topic, partition, offset, max_bytes);
        self.send(&frame);
        let (correlated, response) = FetchResponse::decode(FETCH_VERSION, self.receive().unwrap()).unwrap();
        assert_eq!(correlated, self.correlation_id);
        let mut topics = response.topics;
        let partition = topics.remove(0).partitions.remove(0);
        (partition.error.code(), partition.records)
    }
}
