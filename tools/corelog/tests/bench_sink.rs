//! `corelog bench sink` as a user meets it.

#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_corelog");

/// A sink on a free port; killed when dropped.
struct Sink {
    process: Child,
    stdout: BufReader<ChildStdout>,
    address: String,
}

impl Sink {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(BINARY)
            .args(["bench", "sink", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect(&line).to_owned();
        Self { process, stdout, address }
    }

    fn run(&self, arguments: &[&str], input: &str) -> String {
        let mut command = Command::new(BINARY);
        command.args(arguments).args(["--bootstrap", &self.address]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it prints on stdout and stderr when this signal ends it.
    fn stop(mut self, signal: &str) -> (String, String) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        let (mut out, mut err) = (String::new(), String::new());
        self.stdout.read_to_string(&mut out).unwrap();
        self.process.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!(self.process.wait().unwrap().code(), Some(0));
        (out, err)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn it_says_where_it_listens_where_it_did_wrong_and_at_the_end_what_it_did() {
    let sink = Sink::start(&["--retain", "1000000", "--fault", "drop", "--fault-at", "3", "--core", "0"]);
    sink.run(&["produce", "t", "--partition", "2"], "1\n2\n3\n4\n5\n");
    assert_eq!(sink.run(&["consume", "t", "--partition", "2"], ""), "1\n2\n4\n5\n");
    let (out, err) = sink.stop("-TERM");
    assert!(out.starts_with("5 records (") && out.ends_with(" connections\n"), "{out}");
    assert_eq!(out.lines().count(), 1);
    assert_eq!(err, "sink: planted drop at record 3: topic t partition 2 offset 2\n");
}

#[test]
fn its_summary_can_be_read_by_a_program_and_ctrl_c_ends_it_too() {
    let sink = Sink::start(&["--output", "json"]);
    sink.run(&["produce", "t"], "a\nb\n");
    let (out, err) = sink.stop("-INT");
    let summary: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(summary["records"], 2);
    assert_eq!(err, "");
}

#[test]
fn what_it_cannot_do_is_one_line_and_no_success() {
    for (arguments, words) in [
        (&["--fault", "drop", "--fault-at", "3", "--retain", "0"][..], "retained bytes"),
        (&["--stall-ms", "100"], "--stall-at"),
        (&["--stall-every", "0.1", "--stall-ms", "100"], "before the next one"),
        (&["--core", "1000"], "core 1000"),
        (&["--listen", "192.0.2.1:9092"], "cannot listen on 192.0.2.1:9092"),
    ] {
        let output = Command::new(BINARY).args(["bench", "sink"]).args(arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert!(error.contains(words) && error.trim().lines().count() == 1, "{arguments:?}: {error}");
    }
}
