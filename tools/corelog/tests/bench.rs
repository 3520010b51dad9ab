//! `corelog bench` as a user meets it: against a node, against one that is killed under it, and with
//! bad input.

#![allow(clippy::unwrap_used, missing_docs)]

mod live;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use corelog_bench::result::report::{Metric, Report};
use live::{BINARY, Node, on_disk};

fn bench(bootstrap: &str, out: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["bench", "--quiet", "--bootstrap", bootstrap, "--out"]).arg(out);
    command
}

/// The interval log appears with the first second that was measured.
fn wait_until_measured(out: &Path) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !out.join("run.hlog").exists() {
        assert!(Instant::now() < limit, "nothing was measured");
        thread::sleep(Duration::from_millis(20));
    }
}

fn report(output: &Output, out: &Path) -> Report {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap()
}

#[test]
fn an_open_loop_sends_every_record_and_every_group_reads_it_once() {
    let (dir, out) = (on_disk(), on_disk());
    let node = Node::start(dir.path(), &[]);
    let mut command = bench(&node.address, out.path());
    command.args(["--rate", "2000", "--arrivals", "poisson", "--record-bytes", "uniform:40..400"]);
    command.args(["--keys", "zipf:100,0.9", "--codec", "lz4", "--consumers", "2", "--groups", "2"]);
    command.args(["--warm-up", "200ms", "--duration", "1.5s", "--topics", "2", "--partitions", "3"]);
    command.args(["--batch-bytes", "16KiB", "--fetch-bytes", "1MiB", "--request-timeout", "1m"]);
    let report = report(&command.output().unwrap(), out.path());
    let run = &report.runs[0];
    let verified = run.verification.as_ref().unwrap();
    assert!(verified.as_promised, "{:?}", verified.findings);
    assert_eq!((run.plan.warm_up_s, run.plan.duration_s, run.plan.request_timeout_s), (0.2, 1.5, 60.0));
    assert_eq!((run.plan.batch_bytes, run.plan.fetch_bytes), (16 << 10, 1 << 20));
    assert!(verified.sent > 1_000, "{verified:?}");
    assert_eq!(verified.read, 2 * verified.sent);
    for metric in Metric::ALL {
        let latency = &run.latency[&metric];
        assert!(latency.samples > 0 && latency.max_us >= latency.min_us, "{metric:?}: {latency:?}");
    }
    assert!(out.path().join(&run.files["hlog"]).is_file());
    assert!(out.path().join(&run.files["hgrm.response"]).is_file());
}

#[test]
fn what_an_idempotent_producer_sends_again_after_a_kill_is_there_once() {
    let (dir, out) = (on_disk(), on_disk());
    let node = Node::start(dir.path(), &[]);
    let address = node.address.clone();
    let mut command = bench(&address, out.path());
    command.args(["--arrivals", "max", "--idempotent", "--batch-records", "20", "--producers", "3"]);
    command.args(["--warm-up", "0", "--duration", "12", "--record-bytes", "200"]);
    let load = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until_measured(out.path());
    let mut node = Some(node);
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(800));
        drop(node.take());
        node = Some(Node::start_at(&address, dir.path(), &[]));
    }
    let report = report(&load.wait_with_output().unwrap(), out.path());
    let run = &report.runs[0];
    let verified = run.verification.as_ref().unwrap();
    assert!(verified.as_promised, "{:?} {:?}", verified.findings, run.errors);
    assert_eq!(verified.undecided, 0, "{:?}", run.errors);
    assert!(run.produced.reconnects >= 3, "{:?}", run.produced);
}

#[test]
fn records_are_read_after_producers_are_done_when_consumers_start_late() {
    let (dir, out) = (on_disk(), on_disk());
    let node = Node::start(dir.path(), &[]);
    let mut command = bench(&node.address, out.path());
    command.args(["--arrivals", "max", "--records", "5000", "--warm-up", "0", "--catch-up", "30"]);
    command.args(["--server-pid", &node.pid().to_string(), "--record-bytes", "100"]);
    let report = report(&command.output().unwrap(), out.path());
    let run = &report.runs[0];
    assert_eq!(run.verification.as_ref().unwrap().read, 5_000);
    assert_eq!(run.consumed.records, 5_000);
    assert!(run.server_consuming.is_some() && run.caught_up_s.is_some());
}

#[test]
fn what_was_measured_before_an_interruption_is_reported_and_nothing_counts_as_lost() {
    let (dir, out) = (on_disk(), on_disk());
    let node = Node::start(dir.path(), &[]);
    let mut command = bench(&node.address, out.path());
    command.args(["--rate", "2000", "--warm-up", "0", "--duration", "600"]);
    let process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until_measured(out.path());
    let pid = nix::unistd::Pid::from_raw(i32::try_from(process.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Report = serde_json::from_slice(&fs::read(out.path().join("report.json")).unwrap()).unwrap();
    assert!(report.runs[0].produced.records > 0);
    assert!(report.runs[0].verification.as_ref().unwrap().as_promised);
}

#[test]
fn a_step_that_fails_leaves_the_report_of_those_before_it() {
    let (dir, out) = (on_disk(), on_disk());
    let node = Node::start(dir.path(), &[]);
    let scenario = out.path().join("two.toml");
    let text = "about = \"the second one cannot be\"\n\
                [plan]\narrivals = \"max\"\nrecords = 1000\nwarm_up_s = 0\n\
                [[step]]\nname = \"fine\"\n\
                [[step]]\nname = \"refused\"\nreplication_factor = 3\n";
    fs::write(&scenario, text).unwrap();
    let output = bench(&node.address, out.path()).arg("--scenario").arg(&scenario).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("step 'refused'") && said.contains("after 1 step"), "{said}");
    let report: Report = serde_json::from_slice(&fs::read(out.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(report.runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>(), ["fine"]);
}

#[test]
fn bad_input_is_one_clear_line() {
    let out = on_disk();
    let scenario = out.path().join("wrong.toml");
    fs::write(&scenario, "about = \"misspelt\"\n[plan]\nproducer = 3\n").unwrap();
    let scenario = scenario.to_string_lossy().into_owned();
    // Nobody listens on port 1.
    let cases: [(&[&str], &str); 8] = [
        (&["--bootstrap", "127.0.0.1:1", "--rate", "10"], "cannot connect to 127.0.0.1:1"),
        (&["--scenario", &scenario], "producer"),
        (&["--scenario", "there-is-none.toml"], "there-is-none.toml"),
        (&["--bootstrap", "127.0.0.1:1", "--payload-file", "there-is-none.txt"], "there-is-none.txt"),
        (&["--bootstrap", "127.0.0.1:1", "--record-bytes", "10"], "record_bytes"),
        (&["--bootstrap", "127.0.0.1:1", "--arrivals", "max", "--rate", "10"], "rate"),
        (&["--bootstrap", "127.0.0.1:1", "--rate", "10", "--cores", "4000"], "core 4000"),
        (&["--topic", "mine"], "--bootstrap"),
    ];
    for (arguments, words) in cases {
        let mut command = Command::new(BINARY);
        let output = command.args(["bench", "--out"]).arg(out.path()).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
        assert!(said.matches("os error").count() <= 1, "a cause is said once: {said}");
        let lines = said.lines().filter(|line| !line.starts_with("hint: ") && !line.is_empty());
        assert_eq!(lines.count(), 1, "{arguments:?}: {said}");
    }
}

#[test]
fn a_topic_that_is_not_there_is_said_to_be_missing() {
    let (dir, out) = (on_disk(), on_disk());
    let node = Node::start(dir.path(), &[]);
    let output = bench(&node.address, out.path()).args(["--topic", "nowhere"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nowhere"), "{said}");
}
