//! The node that `corelog bench` starts as its child.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use corelog_bench::node::{Node, NodeDurability, NodeSpec};
use corelog_bench::process::usage;
use corelog_bench::result::machine::{allowed_cores, describe_storage, is_memory};
use tempfile::TempDir;

fn spec(data_dir: &Path) -> NodeSpec {
    NodeSpec {
        binary: env!("CARGO_BIN_EXE_corelog").into(),
        data_dir: data_dir.to_owned(),
        cores: allowed_cores().unwrap().into_iter().take(1).collect(),
        durability: NodeDurability::Write,
        environment: Vec::new(),
    }
}

fn on_disk() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn a_node_runs_on_its_cores_answers_and_leaves_nothing() {
    let dir = on_disk();
    let data_dir = dir.path().join("node");
    let spec = spec(&data_dir);
    let core = spec.cores[0].to_string();
    let node = Node::start(spec).unwrap();
    assert!(node.start_ms() > 0.0);
    assert!(node.command().contains(&"CORELOG_TOPICS_DURABILITY=write".to_owned()), "{:?}", node.command());
    std::net::TcpStream::connect(node.address()).unwrap();
    assert!(usage(node.pid()).unwrap().resident_bytes > 0);
    for task in fs::read_dir(format!("/proc/{}/task", node.pid())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        assert_eq!(cores.trim(), core, "{status}");
    }
    assert!(data_dir.join("data").exists());
    node.stop().unwrap();
    assert!(!data_dir.exists());
}

#[test]
fn a_node_that_is_dropped_is_gone_with_its_data_and_an_existing_directory_stays() {
    let dir = on_disk();
    let node = Node::start(spec(dir.path())).unwrap();
    let pid = node.pid();
    drop(node);
    assert!(usage(pid).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_with_something_in_it_is_left_alone() {
    let dir = on_disk();
    fs::write(dir.path().join("precious"), "x").unwrap();
    let error = Node::start(spec(dir.path())).unwrap_err().to_string();
    assert!(error.contains("is not empty") && error.contains("--data-dir"), "{error}");
    assert!(dir.path().join("precious").exists());
}

#[test]
fn memory_is_refused_as_a_disk() {
    let shm = Path::new("/dev/shm");
    if !shm.exists() || !is_memory(&describe_storage(shm).unwrap()) {
        return;
    }
    let error = Node::start(spec(&shm.join("corelog-test-node"))).unwrap_err().to_string();
    assert!(error.contains("which is memory") && error.contains("--data-dir"), "{error}");
    assert!(!shm.join("corelog-test-node").exists());
}

#[test]
fn why_a_node_does_not_start_is_told_with_its_own_words() {
    let dir = on_disk();
    let mut spec = spec(&dir.path().join("node"));
    spec.environment.push(("CORELOG_JOURNAL_MAX_FILES".to_owned(), "many".to_owned()));
    let error = Node::start(spec).unwrap_err().to_string();
    assert!(error.contains("before it answered") && error.contains("CORELOG_JOURNAL_MAX_FILES"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_node_that_was_killed_is_not_stopped_in_order() {
    let dir = on_disk();
    let node = Node::start(spec(&dir.path().join("node"))).unwrap();
    let killed = Command::new("kill").args(["-9", &node.pid().to_string()]).status();
    assert!(killed.unwrap().success());
    let error = node.stop().unwrap_err().to_string();
    assert!(error.contains("ended") && error.contains("signal: 9"), "{error}");
}

fn bench_in(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelog"));
    command.args(["bench", "--quiet", "--arrivals", "max", "--warm-up", "0", "--out", "results"]);
    command.args(arguments).current_dir(dir).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Kills a load generator while its node runs.
fn killed_in(dir: &Path, arguments: &[&str]) {
    let mut process = bench_in(dir, &[arguments, &["--duration", "10m"]].concat()).spawn().unwrap();
    let data_dir = || {
        let mut entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.find(|path| path.join("data/corelog.addresses").exists())
    };
    let limit = Instant::now() + Duration::from_secs(60);
    while data_dir().is_none() {
        assert!(Instant::now() < limit && process.try_wait().unwrap().is_none(), "no node was started");
        thread::sleep(Duration::from_millis(5));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(data_dir().is_some(), "what is killed cleans nothing up");
}

#[test]
fn what_a_killed_generator_left_behind_goes_with_the_next_run_and_nothing_else_does() {
    let dir = on_disk();
    let own = dir.path().join("corelog-bench-data-1");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("data"), "of somebody else").unwrap();
    killed_in(dir.path(), &[]);
    let output = bench_in(dir.path(), &["--records", "1000"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("had left behind"), "{said}");
    let mut left: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["corelog-bench-data-1", "results"]);
}

#[test]
fn a_directory_that_was_named_can_be_named_again_after_a_kill() {
    let dir = on_disk();
    killed_in(dir.path(), &["--data-dir", "mine"]);
    let mine = dir.path().join("mine");
    Node::start(spec(&mine)).unwrap().stop().unwrap();
    assert!(!mine.exists());
}
