//! What is in `tools/deploy` and `docs` fits the program: metrics are those that `docs/METRICS.md`
//! lists, settings are keys of the configuration.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names of metrics in `text`: ours, and those that every process has.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_name(c));
    words.filter(|it| it.starts_with("corelog_") || it.starts_with("process_")).map(str::to_owned).collect()
}

/// The metrics that `docs/METRICS.md` lists, a row each that begins with name and type, and whether
/// they are histograms. Other rows of its tables do no harm: they are no names of metrics.
fn documented() -> BTreeMap<String, bool> {
    let page = read("docs/METRICS.md");
    let rows = page.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (kind, _) = rest.split_once(" |")?;
        Some((name.to_owned(), kind == "histogram"))
    });
    rows.collect()
}

/// Of what is queried a histogram is there in its parts only.
fn check_queries(file: &str, used: &BTreeSet<String>) {
    let documented = documented();
    assert!(!used.is_empty(), "{file} uses no metric");
    for name in used {
        let part = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let of_histogram = part.is_some_and(|base| documented.get(base) == Some(&true));
        let whole = documented.get(name) == Some(&false);
        assert!(whole || of_histogram, "{file}: docs/METRICS.md lists no {name}");
    }
}

/// Every value of `key`, anywhere in `value`.
fn values_of<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get(key));
            object.values().for_each(|inner| values_of(inner, key, found));
        }
        Value::Array(array) => array.iter().for_each(|inner| values_of(inner, key, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_dashboard_shows_metrics_that_exist() {
    let dashboard: Value = serde_json::from_str(&read("tools/deploy/grafana/corelog.json")).unwrap();
    let mut texts = Vec::new();
    for key in ["expr", "definition"] {
        values_of(&dashboard, key, &mut texts);
    }
    let used = texts.iter().flat_map(|text| metrics_in(text.as_str().unwrap())).collect();
    check_queries("tools/deploy/grafana/corelog.json", &used);
}

#[test]
fn the_dashboards_panels_have_numbers_of_their_own_and_one_data_source() {
    let dashboard: Value = serde_json::from_str(&read("tools/deploy/grafana/corelog.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"], panel["datasource"], "{}", panel["title"]);
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"datasource") && names.contains(&"shard"), "{names:?}");
}

#[test]
fn alerts_are_about_metrics_that_exist() {
    let alerts = read("tools/deploy/prometheus/alerts.yaml");
    check_queries("tools/deploy/prometheus/alerts.yaml", &metrics_in(&alerts));
    let operations = read("docs/OPERATIONS.md");
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(!names.is_empty());
    for name in names {
        assert!(operations.contains(&format!("`{name}`")), "docs/OPERATIONS.md says nothing of {name}");
    }
}

#[test]
fn the_operators_page_names_metrics_that_exist() {
    let (page, documented) = (read("docs/OPERATIONS.md"), documented());
    let used = metrics_in(&page);
    assert!(!used.is_empty());
    for name in used {
        assert!(documented.contains_key(&name), "docs/METRICS.md lists no {name}");
    }
}

#[test]
fn the_image_sets_what_can_be_set() {
    let file = read("tools/deploy/Dockerfile");
    let variables: Vec<(&str, &str)> =
        file.lines().filter_map(|line| line.strip_prefix("ENV ")?.split_once('=')).collect();
    assert!(!variables.is_empty());
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelog"));
    command.args(["serve", "--print-config"]).envs(variables.iter().copied());
    let refused = command.output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "what clients are told has to be set");
    let output = command.env("CORELOG_LISTENER_MAIN_ADVERTISE", "localhost:9092").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (name, value) in variables {
        assert!(printed.contains(&format!("= \"{value}\"")), "{name} is in no effect:\n{printed}");
    }
}

#[test]
fn the_services_configuration_is_one() {
    let output = Command::new(env!("CARGO_BIN_EXE_corelog"))
        .args(["serve", "--print-config", "--config"])
        .arg(root().join("tools/deploy/corelog.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("data_dir = \"/var/lib/corelog\""), "where the unit's StateDirectory is");
    assert!(read("tools/deploy/corelog.service").contains("StateDirectory=corelog\n"));
}
