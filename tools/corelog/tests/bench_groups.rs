//! `corelog bench groups` as a user meets it: against a node, and through a kill of it.

#![allow(clippy::unwrap_used, missing_docs)]

mod live;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use corelog_bench::groups::report::GroupsReport;
use corelog_bench::result::report::Metric;
use live::{BINARY, Node, PATIENCE, on_disk};

fn bench(node: &Node, out: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["bench", "groups", "--quiet", "--bootstrap", &node.address, "--out"]).arg(out);
    command.args(["--server-pid", &node.pid().to_string(), "--warm-up", "200ms"]);
    command
}

fn report(out: &Path) -> GroupsReport {
    serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap()
}

#[test]
fn every_group_commits_at_its_times_and_nothing_of_them_stays() {
    for members in [false, true] {
        let (dir, out) = (on_disk(), on_disk());
        let node = Node::start(dir.path(), &[]);
        let mut command = bench(&node, out.path());
        command.args(["--groups", "40", "--partitions", "3", "--interval", "200ms", "--duration", "2s"]);
        command.args(["--connections", "3", "--verify"]);
        if members {
            command.arg("--members");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report = report(out.path());
        let run = &report.runs[0];
        assert!(run.errors.is_empty(), "{:?}", run.errors);
        // Every commit that was due in the phase was answered: an open loop drops none.
        assert_eq!(run.latency[&Metric::Response].samples, 40 * 10);
        let check = run.verification.as_ref().unwrap();
        assert!(check.as_promised, "{:?}", check.findings);
        assert_eq!((check.groups, check.offsets, check.unanswered), (40, 120, 0));
        assert!(run.server.unwrap().resident_bytes > 0);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains("120 offsets of 40 groups were read") && text.contains("as promised"),
            "{text}"
        );
        let out = out.path().to_str().unwrap();
        assert!(node.text(&["hist", out]).contains("response"));
        assert_eq!(node.text(&["group", "list", "--output", "json"]).matches("corelog-bench").count(), 0);
        assert_eq!(node.text(&["topic", "list"]).matches("corelog-bench").count(), 0);
        node.stop();
    }
}

#[test]
fn all_offsets_are_there_after_a_kill_and_it_is_told_how_soon() {
    let (dir, out) = (on_disk(), on_disk());
    let node = Node::start(dir.path(), &[]);
    let address = node.address.clone();
    let mut command = bench(&node, out.path());
    command.args(["--groups", "60", "--partitions", "4", "--interval", "100ms", "--duration", "1s"]);
    command.args(["--members", "--through-restart"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut load = command.spawn().unwrap();
    let mut said = BufReader::new(load.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.starts_with("measured"), "{line}");
    node.kill();
    let node = Node::start_at(&address, dir.path(), &[]);
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    let output = load.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(rest.starts_with("lost") && rest.contains("as promised"), "{rest}");
    let report = report(out.path());
    let run = &report.runs[0];
    let (check, restart) = (run.verification.as_ref().unwrap(), run.restart.unwrap());
    assert!(check.as_promised && check.offsets == 240, "{check:?}");
    assert!(restart.connected_ms > 0.0 && restart.first_ms >= restart.connected_ms, "{restart:?}");
    assert!(restart.all_ms >= restart.first_ms, "{restart:?}");
    node.stop();
}

#[test]
fn a_broker_that_goes_away_unasked_ends_the_run_with_an_error() {
    let (dir, out) = (on_disk(), on_disk());
    let node = Node::start(dir.path(), &[]);
    let mut command = bench(&node, out.path());
    command.args(["--groups", "10", "--interval", "50ms", "--duration", "1h"]);
    let load = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let limit = Instant::now() + PATIENCE;
    while !node.text(&["group", "list"]).contains("corelog-bench-groups") {
        assert!(Instant::now() < limit, "no group committed");
    }
    node.kill();
    let output = load.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    // One line, and what to do about it in another.
    let (error, rest) = said.split_once('\n').unwrap();
    assert!(error.starts_with("error:") && error.contains("connect"), "{said}");
    assert!(rest.is_empty() || rest.starts_with("hint:") && rest.lines().count() == 1, "{said}");
}

#[test]
fn what_cannot_be_is_refused_by_its_name() {
    let out = on_disk();
    for (arguments, word) in [
        (["--bootstrap", "127.0.0.1:1", "--groups", "0"], "groups"),
        (["--bootstrap", "127.0.0.1:1", "--interval", "0"], "interval_s"),
    ] {
        let mut command = Command::new(BINARY);
        command.args(["bench", "groups", "--out"]).arg(out.path()).args(arguments);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(word));
    }
    let output = Command::new(BINARY).args(["bench", "groups", "--through-restart"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--bootstrap"));
}
