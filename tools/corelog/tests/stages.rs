//! `corelog stages` beside a node under load.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_corelog");

/// A node of two shards on ports and a directory of its own; killed when dropped.
struct Node {
    process: Child,
    kafka: String,
    http: String,
    _dir: TempDir,
}

impl Node {
    fn start() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut process = Command::new(BINARY)
            .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--shards", "2"])
            .args(["--log-level", "warn", "--data-dir"])
            .arg(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let addresses = fs::read_to_string(dir.path().join("corelog.addresses")).unwrap();
        let address = |name: &str| {
            addresses.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap().to_owned()
        };
        Self { process, kafka: address("kafka"), http: address("http"), _dir: dir }
    }

    fn produce(&self) {
        let mut process = Command::new(BINARY)
            .args(["produce", "t", "--bootstrap", &self.kafka])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        process.stdin.take().unwrap().write_all(b"a\nb\n").unwrap();
        assert!(process.wait().unwrap().success());
    }

    fn stages(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(["stages", "--http", &self.http]).args(arguments);
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn row<'a>(rows: &'a [Value], kind: &str, name: &str, shard: Option<u64>) -> &'a Value {
    let is_it = |row: &&Value| row["kind"] == kind && row["name"] == name && row["shard"].as_u64() == shard;
    rows.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name} of {shard:?} in {rows:#?}"))
}

#[test]
fn stages_are_those_of_the_interval_by_shard_and_in_all() {
    let node = Node::start();
    node.produce();
    let mut measuring =
        node.stages(&["--interval", "1", "--output", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    // As long as it measures, there is something to measure.
    while measuring.try_wait().unwrap().is_none() {
        node.produce();
    }
    let measured: Value = serde_json::from_str(&text(measuring.wait_with_output().unwrap())).unwrap();
    assert!(measured["interval_s"].as_f64().unwrap() >= 1.0);
    let rows = measured["rows"].as_array().unwrap();
    let count = |kind, name, shard| row(rows, kind, name, shard)["count"].as_u64().unwrap();
    for (kind, name) in [("request", "Produce"), ("stage", "queue"), ("stage", "journal_sync")] {
        let all = count(kind, name, None);
        assert!(all > 0, "{rows:#?}");
        assert_eq!(all, count(kind, name, Some(0)) + count(kind, name, Some(1)), "{kind} {name}");
        let row = row(rows, kind, name, None);
        assert!(row["mean"].as_f64().unwrap() > 0.0 && row["rate_per_s"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["p50"].as_f64().unwrap() <= row["p99"].as_f64().unwrap(), "{row}");
        assert_eq!(row["unit"], "us");
    }
    assert_eq!(count("commit", "entries", None), count("stage", "journal_write", None));
    assert_eq!(row(rows, "commit", "bytes", None)["unit"], "bytes");
    let idle = row(rows, "stage", "segment_read", None);
    assert_eq!((&idle["count"], &idle["mean"]), (&0.into(), &Value::Null));
    assert!(rows.iter().all(|row| row["name"] != "Fetch"), "nobody fetched");
}

#[test]
fn an_idle_node_has_its_stages_too_and_what_is_none_is_an_error() {
    let node = Node::start();
    let shown = text(node.stages(&["--interval", "0.01"]).output().unwrap());
    assert!(shown.starts_with("in 0.0"), "{shown}");
    for words in ["STAGE", "journal_sync", "PER COMMIT", "entries"] {
        assert!(shown.contains(words), "{shown}");
    }
    let output = Command::new(BINARY).args(["stages", "--http", &node.kafka]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.starts_with("error: cannot read http://"), "{error}");
    let output = node.stages(&["--interval", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
