//! `corelog stages` beside a node under load.

#![allow(clippy::unwrap_used, missing_docs)]

mod live;

use std::process::{Command, Stdio};

use live::{BINARY, Node, on_disk, succeeded};
use serde_json::Value;

fn stages(node: &Node, arguments: &[&str]) -> Command {
    let mut command = node.command(&["stages", "--http", &node.http]);
    command.args(arguments);
    command
}

fn row<'a>(rows: &'a [Value], kind: &str, name: &str, shard: Option<u64>) -> &'a Value {
    let is_it = |row: &&Value| row["kind"] == kind && row["name"] == name && row["shard"].as_u64() == shard;
    rows.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name} of {shard:?} in {rows:#?}"))
}

#[test]
fn stages_are_those_of_the_interval_by_shard_and_in_all() {
    let dir = on_disk();
    let node = Node::start(dir.path(), &[]);
    node.produce(&["t"], b"a\nb\n");
    let mut measuring =
        stages(&node, &["--interval", "4", "--output", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    // As long as it measures, there is something to measure.
    while measuring.try_wait().unwrap().is_none() {
        node.produce(&["t"], b"a\nb\n");
    }
    let measured: Value = serde_json::from_str(&succeeded(measuring.wait_with_output().unwrap())).unwrap();
    assert!(measured["interval_s"].as_f64().unwrap() >= 4.0);
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
    // A commit is written alone or together with its sync.
    let [commits, writes, syncs] =
        [("commit", "entries"), ("stage", "journal_write"), ("stage", "journal_sync")]
            .map(|(kind, name)| count(kind, name, None));
    assert!(writes <= commits && commits <= writes + syncs, "{commits} commits: {rows:#?}");
    assert_eq!(row(rows, "commit", "bytes", None)["unit"], "bytes");
    let idle = row(rows, "stage", "segment_read", None);
    assert_eq!((&idle["count"], &idle["mean"]), (&0.into(), &Value::Null));
    assert!(rows.iter().all(|row| row["name"] != "Fetch"), "nobody fetched");
}

#[test]
fn an_idle_node_has_its_stages_too_and_what_is_none_is_an_error() {
    let dir = on_disk();
    let node = Node::start(dir.path(), &[]);
    let shown = succeeded(stages(&node, &["--interval", "0.01"]).output().unwrap());
    let interval_s = shown.strip_prefix("in ").and_then(|shown| shown.split_once(" s\n"));
    assert!(interval_s.unwrap().0.parse::<f64>().unwrap() >= 0.01, "{shown}");
    for words in ["STAGE", "journal_sync", "PER COMMIT", "entries"] {
        assert!(shown.contains(words), "{shown}");
    }
    let output = Command::new(BINARY).args(["stages", "--http", &node.address]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.starts_with("error: cannot read http://"), "{error}");
    let output = stages(&node, &["--interval", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
