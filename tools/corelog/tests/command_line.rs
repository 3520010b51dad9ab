//! The binary as a user meets it: a node, and every command against it.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_corelog");

/// A node on ports and a directory of its own; killed when dropped.
struct Node {
    process: Child,
    address: String,
    dir: TempDir,
}

impl Node {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    fn start_in(dir: TempDir) -> Self {
        let mut process = Command::new(BINARY)
            .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--shards", "2"])
            .args(["--log-level", "warn", "--data-dir"])
            .arg(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect(&line).to_owned();
        Self { process, address, dir }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_input(arguments, b"")
    }

    fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(arguments).env("CORELOG_BOOTSTRAP", &self.address);
        run(&mut command, input)
    }

    /// The output of a command that must succeed.
    fn text(&self, arguments: &[&str]) -> String {
        succeeded(self.run(arguments))
    }

    fn produce(&self, arguments: &[&str], input: &str) {
        let arguments = [&["produce"], arguments].concat();
        succeeded(self.run_with_input(&arguments, input.as_bytes()));
    }

    fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Stops in order and gives the directory back.
    fn stop(mut self) -> TempDir {
        self.signal("-TERM");
        assert_eq!(self.process.wait().unwrap().code(), Some(0), "SIGTERM ends it in order");
        let empty = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::mem::replace(&mut self.dir, empty)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    // A command that fails early does not read its input.
    let _ = process.stdin.take().unwrap().write_all(input);
    process.wait_with_output().unwrap()
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn failure(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn what_is_produced_is_consumed() {
    let node = Node::start();
    assert_eq!(
        node.text(&["topic", "create", "t", "--partitions", "3"]),
        "created topic t with 3 partitions\n"
    );
    let lines: Vec<String> = (0..10_000).map(|number| format!("k{}:value {number}", number % 50)).collect();
    node.produce(&["t", "--key-separator", ":", "--compression", "zstd"], &(lines.join("\n") + "\n"));
    let mut consumed: Vec<String> =
        node.text(&["consume", "t", "--key-separator", ":"]).lines().map(str::to_owned).collect();
    let order_of = |lines: &[String]| {
        let of_key: Vec<String> = lines.iter().filter(|line| line.starts_with("k7:")).cloned().collect();
        of_key
    };
    assert_eq!(order_of(&consumed), order_of(&lines), "order is kept per key");
    consumed.sort();
    let mut expected = lines;
    expected.sort();
    assert_eq!(consumed, expected);
}

#[test]
fn consuming_begins_and_ends_where_it_is_told() {
    let node = Node::start();
    node.text(&["topic", "create", "t"]);
    node.produce(&["t"], "a\nb\n\nd");
    assert_eq!(node.text(&["consume", "t"]), "a\nb\n\nd\n");
    assert_eq!(node.text(&["consume", "t", "--from", "1", "--count", "1"]), "b\n");
    assert_eq!(node.text(&["consume", "t", "--partition", "0", "--from", "3"]), "d\n");
    assert_eq!(node.text(&["consume", "t", "--from", "end"]), "");
    assert_eq!(node.text(&["consume", "t", "--from", "2000-01-01"]), "a\nb\n\nd\n");
    assert_eq!(node.text(&["consume", "t", "--from", "@99999999999999"]), "");
    let error = failure(&node.run(&["consume", "t", "--partition", "0", "--from", "9"]), 1);
    assert!(error.contains("offset 9") && error.contains("[0, 4)"), "{error}");
}

#[test]
fn json_keeps_what_text_cannot_show() {
    let node = Node::start();
    succeeded(node.run_with_input(&["produce", "t", "--key-separator", "="], b"k\xff=v\xfe\nplain\n"));
    let json = node.text(&["consume", "t", "--output", "json"]);
    let lines: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["key_base64"], &lines[0]["value_base64"]), (&"a/8=".into(), &"dv4=".into()));
    assert_eq!((&lines[1]["key"], &lines[1]["value"]), (&serde_json::Value::Null, &"plain".into()));
    assert_eq!((&lines[1]["offset"], &lines[1]["topic"]), (&1.into(), &"t".into()));
    let topics: serde_json::Value =
        serde_json::from_str(&node.text(&["topic", "list", "--output", "json"])).unwrap();
    assert_eq!(topics[0]["name"], "t");
    let topic = node.text(&["topic", "describe", "t", "--output", "json"]);
    let topic: serde_json::Value = serde_json::from_str(&topic).unwrap();
    assert_eq!(topic["partitions"][0]["log_end_offset"], 2);
    assert_eq!(topic["configs"]["corelog.durability"], "fsync");
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let node = Node::start();
    let lines: String = (0..200_000).map(|number| format!("{number}\n")).collect();
    node.produce(&["t"], &lines);
    let mut process = Command::new(BINARY)
        .args(["consume", "t"])
        .env("CORELOG_BOOTSTRAP", &node.address)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn following_ends_with_a_signal() {
    let node = Node::start();
    node.produce(&["t"], "one\n");
    let mut process = Command::new(BINARY)
        .args(["consume", "t", "--follow"])
        .env("CORELOG_BOOTSTRAP", &node.address)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(process.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    node.produce(&["t"], "two\n");
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "one\ntwo\n");
    let id = process.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert_eq!(process.wait().unwrap().code(), Some(0));
}

#[test]
fn errors_say_what_to_do() {
    let node = Node::start();
    let error = failure(&node.run(&["consume", "nope"]), 1);
    assert!(error.contains("no topic 'nope'") && error.contains("corelog topic create nope"), "{error}");
    node.text(&["topic", "create", "t"]);
    let error = failure(&node.run(&["topic", "create", "t"]), 1);
    assert!(error.contains("TOPIC_ALREADY_EXISTS") && error.contains("--if-not-exists"), "{error}");
    node.text(&["topic", "create", "t", "--if-not-exists"]);
    let error = failure(&node.run(&["topic", "create", "u", "--config", "no.such=1"]), 1);
    assert!(error.contains("INVALID_CONFIG") && error.contains("no.such"), "{error}");
    let error = failure(&node.run(&["produce", "t", "--partition", "5"]), 0);
    assert!(error.starts_with("0 records"), "{error}");
    let error = failure(&node.run_with_input(&["produce", "t", "--partition", "5"], b"x\n"), 1);
    assert!(error.contains("no partition 5"), "{error}");
    let error = failure(&node.run(&["produce", "t", "--acks", "2"]), 2);
    assert!(error.contains("--acks"), "{error}");
    let error = failure(&node.run(&["topic", "delete", "v"]), 1);
    assert!(error.contains("no topic 'v'"), "{error}");
    node.text(&["topic", "delete", "v", "--if-exists"]);
    assert_eq!(node.text(&["topic", "delete", "t"]), "deleted topic t\n");
}

#[test]
fn nobody_at_the_address_is_said_at_once() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = run(Command::new(BINARY).args(["topic", "list", "--bootstrap", &free]), b"");
    let error = failure(&output, 1);
    assert!(error.contains("connection refused") && error.contains("is a node running"), "{error}");
    let output = run(Command::new(BINARY).args(["topic", "list", "--bootstrap", "nowhere"]), b"");
    assert!(failure(&output, 1).contains("host:port"));
}

#[test]
fn configurations_are_refused_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    fs::write(&file, "node_id = 1\nshrads = 2\n").unwrap();
    let output = run(Command::new(BINARY).args(["serve", "--config"]).arg(&file), b"");
    let error = failure(&output, 1);
    assert!(error.contains("node.toml") && error.contains("line 2") && error.contains("shrads"), "{error}");
    let output = run(Command::new(BINARY).args(["serve", "--listen", "0.0.0.0:0"]), b"");
    assert!(failure(&output, 1).contains("--advertise"));
    let output = run(Command::new(BINARY).args(["serve", "--print-config", "--shards", "7"]), b"");
    assert!(succeeded(output).contains("\nshards = 7\n"));
}

fn verify(dir: &Path) -> Output {
    run(Command::new(BINARY).arg("verify").arg(dir), b"")
}

#[test]
fn verify_tells_a_whole_directory_from_a_damaged_one() {
    let node = Node::start();
    node.text(&["topic", "create", "t"]);
    for number in 0..5 {
        node.produce(&["t"], &format!("the record with number {number}\n"));
    }
    let error = failure(&verify(node.dir.path()), 1);
    assert!(error.contains("in use by another process"), "{error}");
    let dir = node.stop();
    assert!(succeeded(verify(dir.path())).ends_with("is whole\n"));
    let dump = succeeded(run(Command::new(BINARY).arg("dump").arg(dir.path()), b""));
    assert!(dump.contains("append") && dump.contains("closes the journal"), "{dump}");

    // Restarted, killed, and whole again.
    let node = Node::start_in(dir);
    node.produce(&["t"], "one more\n");
    assert_eq!(node.text(&["consume", "t"]).lines().count(), 6);
    node.signal("-KILL");
    let needle = b"the record with number 1";
    let journals = glob_journals(node.dir.path());
    assert!(succeeded(verify(node.dir.path())).ends_with("is whole\n"));

    // One flipped bit in something that was acknowledged. A file of the run before may still hold
    // it too, though it counts no more: every copy is damaged.
    let mut damaged = 0;
    for path in &journals {
        let mut bytes = fs::read(path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            bytes[at] ^= 1;
            fs::write(path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "small records are in a journal");
    let output = verify(node.dir.path());
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("PROBLEM") && text.contains("lost"), "{text}");
}

fn glob_journals(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for journal in fs::read_dir(dir.join("journal")).unwrap() {
        for file in fs::read_dir(journal.unwrap().path()).unwrap() {
            found.push(file.unwrap().path());
        }
    }
    found
}
