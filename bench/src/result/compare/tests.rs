use std::collections::BTreeMap;
use std::fs;
use std::slice::from_ref;

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::report::{
    Broker, ClientUse, FORMAT, Flow, Knee, Latency, Machine, Metric, Report, Run, ServerUse,
};
use super::*;
use crate::plan::Plan;

/// A run with this throughput and 99th percentile.
fn run(name: &str, records_per_s: f64, p99_us: f64) -> Run {
    let latency = Latency {
        samples: 100_000,
        percentiles_us: BTreeMap::from([("99".to_owned(), p99_us)]),
        ..Latency::default()
    };
    Run {
        name: name.to_owned(),
        plan: Plan::default(),
        seconds: 10.0,
        intended_per_s: None,
        produced: Flow { records_per_s, ..Flow::default() },
        consumed: Flow::default(),
        latency: BTreeMap::from([(Metric::Response, latency)]),
        verification: None,
        client: ClientUse::default(),
        server: Some(ServerUse { cpu_us_per_record: 2.0, resident_bytes: 1 << 25, ..ServerUse::default() }),
        server_consuming: None,
        errors: BTreeMap::new(),
        caught_up_s: None,
        files: BTreeMap::new(),
    }
}

fn report(runs: Vec<Run>) -> Report {
    Report {
        format: FORMAT,
        version: "0.1.0".to_owned(),
        revision: "abc".to_owned(),
        command: Vec::new(),
        started: "2026-01-31T12:00:00Z".to_owned(),
        scenario: None,
        machine: Machine::default(),
        broker: Broker::default(),
        runs,
        knee: None,
    }
}

fn side(name: &str, values: &[(f64, f64)]) -> Vec<Loaded> {
    let numbered = values.iter().enumerate().map(|(at, (records_per_s, p99_us))| Loaded {
        path: format!("{name}/{at}.json").into(),
        report: report(vec![run("run", *records_per_s, *p99_us)]),
    });
    numbered.collect()
}

fn find<'a>(comparison: &'a Comparison, figure: &str) -> &'a Row {
    comparison.rows.iter().find(|row| row.figure == figure).unwrap()
}

const P99: &str = "response p99, µs";
const PRODUCED: &str = "produced, records/s";

const STEADY: [(f64, f64); 5] =
    [(1000.0, 500.0), (1010.0, 520.0), (990.0, 480.0), (1005.0, 510.0), (995.0, 490.0)];

#[test]
fn a_regression_past_the_threshold_is_found() {
    let slower: Vec<(f64, f64)> = STEADY.iter().map(|(rate, p99)| (rate * 0.8, p99 * 1.5)).collect();
    let comparison = compare(&side("a", &STEADY), &side("b", &slower), Some(0.1)).unwrap();
    let p99 = find(&comparison, P99);
    assert!((p99.ratio - 1.5).abs() < 1e-9 && p99.regression, "{p99:?}");
    assert_eq!(p99.verdict, Some(Verdict::Worse));
    let (low, high) = p99.interval.unwrap();
    assert!(low > 1.35 && low < 1.5 && high > 1.5 && high < 1.65, "{p99:?}");
    let produced = find(&comparison, PRODUCED);
    assert!((produced.ratio - 0.8).abs() < 1e-9 && produced.regression, "{produced:?}");
    assert_eq!(comparison.regressions().count(), 2);
    // The other way round everything is better.
    let comparison = compare(&side("b", &slower), &side("a", &STEADY), Some(0.1)).unwrap();
    assert_eq!(comparison.regressions().count(), 0);
    assert_eq!(find(&comparison, P99).verdict, Some(Verdict::Better));
    assert_eq!(find(&comparison, PRODUCED).verdict, Some(Verdict::Better));
}

#[test]
fn noise_is_no_regression_although_its_medians_are_apart() {
    let quiet = [(1000.0, 300.0), (1000.0, 500.0), (1000.0, 900.0), (1000.0, 400.0), (1000.0, 700.0)];
    let noisy = [(1000.0, 350.0), (1000.0, 800.0), (1000.0, 600.0), (1000.0, 1200.0), (1000.0, 450.0)];
    let comparison = compare(&side("a", &quiet), &side("b", &noisy), Some(0.1)).unwrap();
    let p99 = find(&comparison, P99);
    assert!(p99.ratio > 1.15, "{p99:?}");
    assert_eq!(p99.verdict, Some(Verdict::Undecided));
    assert_eq!(comparison.regressions().count(), 0);
}

#[test]
fn what_is_worse_within_the_threshold_is_said_and_no_regression() {
    let slower: Vec<(f64, f64)> = STEADY.iter().map(|(rate, p99)| (rate * 0.95, *p99)).collect();
    let comparison = compare(&side("a", &STEADY), &side("b", &slower), Some(0.1)).unwrap();
    assert_eq!(find(&comparison, PRODUCED).verdict, Some(Verdict::Worse));
    assert_eq!(comparison.regressions().count(), 0);
}

#[test]
fn single_runs_have_a_ratio_without_interval_and_no_threshold() {
    let (one, other) = (side("a", &STEADY[..1]), side("b", &STEADY[..3]));
    let comparison = compare(&one, &other, None).unwrap();
    let p99 = find(&comparison, P99);
    assert_eq!((p99.interval, p99.verdict, p99.baseline_runs, p99.candidate_runs), (None, None, 1, 3));
    assert!((p99.ratio - 1.0).abs() < 1e-9);
    let error = compare(&one, &other, Some(0.1)).unwrap_err().to_string();
    assert!(error.contains("at least 4 runs of each side"), "{error}");
}

#[test]
fn the_same_reports_give_the_same_intervals() {
    let twice = [(); 2].map(|()| compare(&side("a", &STEADY), &side("b", &STEADY), None).unwrap());
    assert_eq!(twice[0], twice[1]);
    let p99 = find(&twice[0], P99);
    assert!(p99.ratio == 1.0 && p99.verdict == Some(Verdict::Undecided), "{p99:?}");
}

#[test]
fn figures_that_did_not_happen_are_left_out_and_the_knee_is_one() {
    let mut reports = side("a", &STEADY[..1]);
    reports[0].report.knee = Some(Knee { records_per_s: 4e5, limit: "p99".to_owned() });
    let comparison = compare(&reports, &reports, None).unwrap();
    let names: Vec<&str> = comparison.rows.iter().map(|row| row.figure).collect();
    assert_eq!(names, [PRODUCED, P99, "server CPU, µs/record", "server memory, bytes", "knee, records/s"]);
}

#[test]
fn what_spoils_a_comparison_is_told() {
    let mut other = side("b", &STEADY[..1]);
    let other_report = &mut other[0].report;
    other_report.machine.cores = 64;
    other_report.runs[0].plan.producers += 1;
    other_report.runs[0].client.client_bound = Some("its core was busy".to_owned());
    other_report.runs[0].produced.timeouts = 3;
    other_report.runs.push(run("more", 1.0, 1.0));
    let warnings = compare(&side("a", &STEADY[..1]), &other, None).unwrap().warnings.join("\n");
    for words in [
        "different machines",
        "run 'run' was asked for differently",
        "run 'more' is in the candidate only",
        "limited by the generator: its core was busy",
        "3 records with errors or time-outs",
    ] {
        assert!(warnings.contains(words), "no '{words}' in:\n{warnings}");
    }
    let mut renamed = side("b", &STEADY[..1]);
    renamed[0].report.runs[0].name = "else".to_owned();
    let error = compare(&side("a", &STEADY[..1]), &renamed, None).unwrap_err().to_string();
    assert_eq!(error, "the reports have no run in common: run against else");
}

#[test]
fn reports_are_found_in_files_and_directories() {
    let dir = tempfile::tempdir().unwrap();
    let json = serde_json::to_vec(&report(vec![run("run", 1.0, 1.0)])).unwrap();
    for name in ["2", "10", "empty"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    for file in ["2/report.json", "10/report.json", "plain.json", "notes.txt"] {
        fs::write(dir.path().join(file), &json).unwrap();
    }
    let names = |path: &str| {
        let loaded = load(&[dir.path().join(path)]).unwrap();
        let relative =
            loaded.iter().map(|it| it.path.strip_prefix(dir.path()).unwrap().display().to_string());
        relative.collect::<Vec<_>>()
    };
    assert_eq!(names(""), ["10/report.json", "2/report.json", "plain.json"]);
    assert_eq!(names("2"), ["2/report.json"]);
    assert_eq!(names("notes.txt"), ["notes.txt"]);
    let error = load(&[dir.path().join("empty")]).unwrap_err().to_string();
    assert!(error.contains("has no reports"), "{error}");
}

#[test]
fn what_is_no_report_is_told_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    for (text, words) in [
        ("", "is no report of corelog bench: EOF"),
        ("[1, 2]", "it has no format"),
        ("{\"format\": 1}", "missing field"),
        ("{\"format\": 2, \"whatever\": 1}", "a newer corelog is needed"),
    ] {
        fs::write(&path, text).unwrap();
        let error = load(std::slice::from_ref(&path)).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("x.json") && error.lines().count() == 1, "{error}");
    }
    let error = load(&[dir.path().join("none.json")]).unwrap_err().to_string();
    assert!(error.starts_with("cannot read"), "{error}");
}

fn digit(byte: &u8) -> bool {
    byte.is_ascii_digit() || *byte == b'.'
}

/// A report's text with other numbers, or other bytes, in places.
fn changed(text: &str, changes: &[(Index, Option<String>, u8)]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (at, number, byte) in changes {
        let at = at.index(bytes.len());
        match number {
            // Instead of the next number.
            Some(number) => {
                let Some(from) = bytes[at..].iter().position(digit).map(|it| at + it) else {
                    continue;
                };
                let len = bytes[from..].iter().take_while(|it| digit(it)).count();
                bytes.splice(from..from + len, number.bytes());
            }
            None => bytes[at] = *byte,
        }
    }
    bytes
}

proptest! {
    #[test]
    fn any_text_is_a_report_that_can_be_compared_or_an_error(
        changes in prop::collection::vec(
            (any::<Index>(), prop::option::weighted(0.8, "-?[0-9]{1,21}(\\.[0-9]{1,3})?(e-?[0-9]{1,3})?|null"), any::<u8>()), 0..6,
        ),
        text in ".{0,80}",
    ) {
        let whole = report(vec![run("run", 1000.0, 500.0), run("other", 5.0, 0.0)]);
        let whole = Loaded { path: PathBuf::new(), report: whole };
        let written = serde_json::to_string(&whole.report).unwrap();
        prop_assert_eq!(&load::parse(PathBuf::new(), written.as_bytes()).unwrap(), &whole);
        prop_assert!(load::parse(PathBuf::new(), text.as_bytes()).is_err());
        if let Ok(read) = load::parse(PathBuf::new(), &changed(&written, &changes)) {
            let _ = compare(from_ref(&whole), from_ref(&read), None).map(|it| serde_json::to_string(&it).unwrap());
            let several = [(); RUNS_MIN].map(|()| read.clone());
            let _ = compare(&several, &[whole.clone(), whole.clone(), whole.clone(), whole], Some(0.1));
        }
    }
}
