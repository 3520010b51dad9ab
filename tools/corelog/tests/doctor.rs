//! `corelog doctor` as an operator meets it, and the node that tells its service manager of its start.

#![allow(clippy::unwrap_used, missing_docs)]

mod live;

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output};

use live::{BINARY, Node, on_disk};
use serde_json::Value;

fn doctor(dir: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["doctor", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--output", "json"]);
    command.arg("--data-dir").arg(dir);
    command
}

/// What it says, and that the exit code fits it.
fn report(output: &Output) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let code = i32::from(report["failed"].as_u64().unwrap() > 0);
    assert_eq!(output.status.code(), Some(code), "{report:#}");
    report
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let all = report["checks"].as_array().unwrap();
    all.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("no check {name} in {report:#}"))
}

fn level<'a>(report: &'a Value, name: &str) -> &'a str {
    check(report, name)["level"].as_str().unwrap()
}

fn text<'a>(check: &'a Value, part: &str) -> &'a str {
    check[part].as_str().unwrap_or_default()
}

#[test]
fn every_line_has_a_level_and_a_finding_and_nothing_stays() {
    let dir = on_disk();
    let report = report(&doctor(dir.path()).output().unwrap());
    let checks = report["checks"].as_array().unwrap();
    for check in checks {
        let level = text(check, "level");
        assert!(["ok", "warn", "fail"].contains(&level), "{check}");
        assert!(!text(check, "found").is_empty(), "{check}");
        assert_ne!((level, &check["set"]), ("ok", &Value::from("")), "{check}");
    }
    // What a machine on which these tests run has to have.
    for name in ["kernel", "io_uring", "data directory", "direct I/O", "listener main", "http"] {
        assert_eq!(level(&report, name), "ok", "{report:#}");
    }
    for name in ["locked memory", "open files", "memory", "cores", "CPU quota", "clock source", "wall clock"]
    {
        assert_ne!(level(&report, name), "fail", "{report:#}");
    }
    for name in ["file system", "device", "free space", "sync"] {
        check(&report, name);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn text_is_a_line_a_check_and_a_sum() {
    let dir = on_disk();
    let output = Command::new(BINARY)
        .args(["doctor", "--listen", "127.0.0.1:0", "--http", "", "--shards", "2", "--data-dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("ok    kernel "), "{text}");
    assert!(!text.contains("http"), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("A node can run here") || last.starts_with("Failed: "), "{text}");
}

#[test]
fn a_missing_directory_is_told_and_not_created() {
    let dir = on_disk();
    let missing = dir.path().join("data");
    let found = report(&doctor(&missing).output().unwrap());
    assert_eq!(level(&found, "data directory"), "ok");
    assert!(text(check(&found, "data directory"), "found").contains("does not exist yet"), "{found:#}");
    assert_eq!(level(&found, "direct I/O"), "ok", "tried where a start would create it");
    let found = report(&doctor(&missing.join("deeper")).output().unwrap());
    assert_eq!(level(&found, "data directory"), "warn");
    assert!(text(check(&found, "data directory"), "set").contains("install -d"), "{found:#}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn memory_that_calls_itself_a_disk_fails() {
    if !fs::read_to_string("/proc/mounts").unwrap().contains(" /dev/shm tmpfs ") {
        return;
    }
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let report = report(&doctor(memory.path()).output().unwrap());
    for name in ["file system", "direct I/O"] {
        let check = check(&report, name);
        assert_eq!(text(check, "level"), "fail");
        assert!(text(check, "found").contains("tmpfs"), "{check}");
    }
    assert_eq!(fs::read_dir(memory.path()).unwrap().count(), 0);
}

/// With limits lowered by a shell: `-l` is locked memory in KiB, `-n` open files.
fn limited(limit: &str, dir: &Path) -> Value {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\""), BINARY, "doctor"]);
    shell.args(["--listen", "127.0.0.1:0", "--http", "", "--shards", "2", "--output", "json", "--data-dir"]);
    report(&shell.arg(dir).output().unwrap())
}

#[test]
fn lowered_limits_are_told_with_what_to_set() {
    let dir = on_disk();
    let found = limited("-l 256", dir.path());
    assert_eq!(level(&found, "locked memory"), "fail");
    assert!(text(check(&found, "locked memory"), "found").contains("LimitMEMLOCK=infinity"), "{found:#}");
    assert_eq!(level(&found, "io_uring"), "warn", "not tried");
    let found = limited("-l 1024", dir.path());
    assert_eq!(level(&found, "locked memory"), "warn");
    assert!(text(check(&found, "locked memory"), "set").contains("LimitMEMLOCK=infinity"), "{found:#}");
    let found = limited("-n 256", dir.path());
    assert_eq!(level(&found, "open files"), "fail");
    let found = limited("-n 4096", dir.path());
    assert_eq!(level(&found, "open files"), "warn");
    assert!(text(check(&found, "open files"), "set").contains("LimitNOFILE=65536"), "{found:#}");
}

#[test]
fn a_port_that_is_taken_fails() {
    let dir = on_disk();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Command::new(BINARY)
        .args(["doctor", "--listen", &address, "--http", "127.0.0.1:0", "--output", "json", "--data-dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    let report = report(&output);
    let check = check(&report, "listener main");
    assert_eq!(text(check, "level"), "fail");
    assert!(text(check, "found").contains(&address) && text(check, "set").contains("ss -ltnp"), "{check}");
    assert_eq!(level(&report, "http"), "ok");
}

#[test]
fn a_configuration_is_read_as_serve_reads_it() {
    let dir = on_disk();
    let file = dir.path().join("node.toml");
    fs::write(&file, "shards = 3\n[journal]\nmax_files = 2\n").unwrap();
    let output = doctor(dir.path()).arg("--config").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("journal.max_files is 2"));
    fs::write(&file, "shards = 3\n").unwrap();
    let report = report(&doctor(dir.path()).arg("--config").arg(&file).output().unwrap());
    assert!(text(check(&report, "cores"), "found").starts_with("3 shards"), "{report:#}");
}

#[test]
fn beside_a_running_node_its_directory_and_ports_are_no_failure() {
    let dir = on_disk();
    let sockets = tempfile::tempdir().unwrap();
    let path = sockets.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let node = Node::start(dir.path(), &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    let mut message = [0; 64];
    let len = manager.recv(&mut message).unwrap();
    assert_eq!(&message[..len], b"READY=1\n", "the service manager is told");

    let output = Command::new(BINARY)
        .args(["doctor", "--listen", &node.address, "--http", "", "--shards", "2", "--output", "json"])
        .arg("--data-dir")
        .arg(&node.data_dir)
        .output()
        .unwrap();
    let report = report(&output);
    let directory = check(&report, "data directory");
    assert_eq!(text(directory, "level"), "warn");
    let found = text(directory, "found");
    assert!(found.contains(&format!("process {} uses it", node.pid())), "{directory}");
    assert!(found.contains("2 journals;"), "a layout's checksum is no journal: {directory}");
    assert_eq!(level(&report, "listener main"), "ok", "{report:#}");
}
