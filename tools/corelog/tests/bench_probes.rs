//! `corelog bench machine` and `corelog bench compare`, as a user meets them.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use corelog_bench::machine::{Limits, Pattern};
use tempfile::TempDir;

fn corelog(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelog"));
    command.args(arguments);
    command
}

fn on_disk() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_machine_is_measured_and_nothing_stays_on_its_disk() {
    let dir = on_disk();
    let output = corelog(&["bench", "machine", "--seconds", "0.1", "--output", "json", "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let limits: Limits = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(limits.cells.len(), 52);
    for cell in &limits.cells {
        assert!(cell.operations > 0 && cell.mb_per_s > 0.0 && cell.max_us >= cell.p50_us, "{cell:?}");
        assert!(cell.p50_us > 0.0, "{cell:?}");
    }
    assert!(limits.storage.is_some() && limits.machine.memory_bytes > 0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_network_alone_needs_no_disk() {
    let output = corelog(&["bench", "machine", "--seconds", "0.1", "--only", "network", "--output", "json"])
        .args(["--dir", "not/there"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let limits: Limits = serde_json::from_slice(&output.stdout).unwrap();
    let patterns: Vec<Pattern> = limits.cells.iter().map(|cell| cell.pattern).collect();
    assert_eq!(patterns, [Pattern::Stream, Pattern::Stream, Pattern::RoundTrip]);
    assert_eq!(limits.storage, None);
}

#[test]
fn an_interrupted_probe_leaves_nothing() {
    let dir = on_disk();
    let mut child = corelog(&["bench", "machine", "--dir"])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Once the file is there the signals are handled: the runtime makes it.
    let file = || {
        let probe = fs::read_dir(dir.path()).unwrap().next()?.ok()?;
        probe.path().join("probe").exists().then_some(())
    };
    while file().is_none() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(printed, "");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_is_not_there_is_told_in_one_line() {
    let output = corelog(&["bench", "machine", "--dir", "not/there"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("not/there is no directory"), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1);
}

/// Repeated runs whose p99 is a multiple of others.
fn reports(dir: &Path, factor: f64) {
    fs::create_dir(dir).unwrap();
    for at in 0..5_u8 {
        let p99 = (500.0 + f64::from(at)) * factor;
        let text = format!(
            r#"{{"format": 1, "version": "0.1.0", "revision": "r", "command": [], "started": "s",
                "scenario": null, "knee": null,
                "machine": {{"cpu": "c", "cores": 2, "memory_bytes": 1, "kernel": "k", "settings": {{}}}},
                "broker": {{"bootstrap": "b", "kind": "k", "durability": "fsync", "command": null,
                    "cores": null, "storage": null}},
                "runs": [{{"name": "run", "plan": {{}}, "seconds": 1.0, "intended_per_s": null,
                    "produced": {flow}, "consumed": {flow},
                    "latency": {{"response": {{"samples": 100000, "min_us": 1.0, "mean_us": 1.0,
                        "max_us": 1.0, "percentiles_us": {{"99": {p99}}}}}}},
                    "verification": null, "server": null, "caught_up_s": null, "files": {{}},
                    "client": {{"cores": [1], "cpu_share": 0.1, "cpu_s": 0.1, "client_bound": null}}}}]}}"#,
            flow = r#"{"records": 1, "bytes": 1, "requests": 1, "records_per_s": 1000.0, "mb_per_s": 1.0,
                "errors": 0, "timeouts": 0, "reconnects": 0}"#,
        );
        fs::write(dir.join(format!("{at}.json")), text).unwrap();
    }
}

#[test]
fn a_regression_is_an_exit_code() {
    let dir = on_disk();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    reports(&old, 1.0);
    reports(&new, 1.5);
    let compare = |one: &Path, other: &Path, more: &[&str]| {
        corelog(&["bench", "compare"]).args([one, other]).args(more).output().unwrap()
    };
    let worse = compare(&old, &new, &["--threshold", "10%"]);
    let text = String::from_utf8_lossy(&worse.stdout).into_owned();
    assert_eq!(worse.status.code(), Some(1), "{text}{}", stderr(&worse));
    assert!(text.contains("REGRESSION") && text.contains("1.500"), "{text}");
    assert_eq!(compare(&new, &old, &["--threshold", "10%"]).status.code(), Some(0));
    assert_eq!(compare(&old, &new, &["--threshold", "60%"]).status.code(), Some(0));
    assert_eq!(compare(&old, &new, &[]).status.code(), Some(0));
    let json = compare(&old, &new, &["--output", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["rows"][2]["verdict"], "worse", "{json}");
    fs::write(old.join("9.json"), "{}").unwrap();
    let wrong = compare(&old, &new, &[]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(stderr(&wrong).contains("9.json is no report"), "{}", stderr(&wrong));
}
