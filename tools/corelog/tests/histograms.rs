//! `corelog hist` as a user meets it.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

fn hist(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_corelog")).arg("hist").args(arguments).output().unwrap()
}

/// A percentile file of 10,000 values that Java printed.
fn table() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../bench/tests/data/java.hgrm");
    path.to_str().unwrap().to_owned()
}

#[test]
fn percentiles_are_printed_drawn_and_written_as_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let (html, svg) = (dir.path().join("page.html"), dir.path().join("plot.svg"));
    let files = ["--html", html.to_str().unwrap(), "--svg", svg.to_str().unwrap(), "--title", "Squares"];
    let output = hist(&[&[table().as_str(), "--unit", "ms"], files.as_slice()].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("SOURCE") && text.contains("10,000") && text.contains("P99.9 ms"), "{text}");
    assert!(fs::read_to_string(html).unwrap().contains("<h1>Squares</h1>"));
    assert!(fs::read_to_string(svg).unwrap().starts_with("<svg"));
}

#[test]
fn numbers_for_programs_are_json_in_the_unit_that_was_asked_for() {
    let output = hist(&[&table(), "--output", "json", "--unit", "ms"]);
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read[0]["samples"], 10_000);
    let p50 = read[0]["percentiles"]["50"].as_f64().unwrap();
    assert!((249.9..250.2).contains(&p50), "{p50}");
    assert!(read[0]["percentiles"].get("99.99").is_none(), "one sample beyond it bears no percentile");
}

#[test]
fn what_cannot_be_read_is_one_line_and_a_failure() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let table = table();
    for arguments in [
        vec![manifest],
        vec!["/nowhere"],
        vec![&table, "--tag", "x"],
        vec![&table, "--from", "2", "--to", "1"],
    ] {
        let output = hist(&arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.starts_with("error: ") && output.stdout.is_empty(), "{error}");
    }
}
