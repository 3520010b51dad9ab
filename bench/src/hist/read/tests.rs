use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::result::interval_log::IntervalLogWriter;
use crate::result::percentile_file::write_hgrm;
use crate::result::report::Metric;

fn histogram(values: &[u64]) -> Histogram<u64> {
    let mut histogram = Histogram::new(3).unwrap();
    for value in values {
        histogram.record(*value).unwrap();
    }
    histogram
}

fn log(intervals: &[(Metric, u64, &Histogram<u64>)]) -> Vec<u8> {
    let started = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let mut log = IntervalLogWriter::new(Vec::new(), started, &["a run".to_owned()]).unwrap();
    for (metric, second, histogram) in intervals {
        log.write(*metric, Duration::from_secs(*second), Duration::from_secs(1), histogram).unwrap();
    }
    log.finish().unwrap()
}

fn read_bytes(bytes: &[u8], options: &ReadOptions) -> Result<Reading, ReadError> {
    read_text(bytes, Path::new("dir/some.hlog"), "some", options)
}

fn all(bytes: &[u8]) -> Reading {
    read_bytes(bytes, &ReadOptions::default()).unwrap()
}

fn message(bytes: &[u8], options: &ReadOptions) -> String {
    read_bytes(bytes, options).unwrap_err().to_string()
}

#[test]
fn tags_are_added_up_apart_in_the_order_of_their_appearance() {
    let (a, b, c) = (histogram(&[1_000, 2_000]), histogram(&[5_000]), histogram(&[1_000_000]));
    let bytes = log(&[(Metric::Response, 0, &a), (Metric::Service, 0, &b), (Metric::Response, 1, &c)]);
    let reading = all(&bytes);
    assert_eq!(reading.warnings, [""; 0]);
    let [response, service] = reading.recordings.as_slice() else { panic!("{reading:?}") };
    assert_eq!((response.tag.as_deref(), service.tag.as_deref()), (Some("response"), Some("service")));
    assert_eq!(response.histogram, histogram(&[1_000, 2_000, 1_000_000]));
    assert_eq!(service.histogram, b);
    let slices: Vec<_> = response.over_time.slices().iter().map(|it| (it.start_s, it.end_s)).collect();
    assert_eq!(slices, [(0.0, 1.0), (1.0, 2.0)]);
}

#[test]
fn a_tag_and_a_window_select() {
    let (a, b) = (histogram(&[1_000]), histogram(&[5_000]));
    let bytes = log(&[(Metric::Response, 0, &a), (Metric::Response, 1, &b), (Metric::Service, 1, &a)]);
    let options = ReadOptions { tag: Some("response".to_owned()), from_s: 1.0, ..ReadOptions::default() };
    let reading = read_bytes(&bytes, &options).unwrap();
    assert_eq!(reading.recordings.len(), 1);
    assert_eq!(reading.recordings[0].histogram, b);
    let none = ReadOptions { tag: Some("lag".to_owned()), ..ReadOptions::default() };
    assert_eq!(
        message(&bytes, &none),
        "dir/some.hlog holds nothing tagged \"lag\": it holds response, service"
    );
    let late = ReadOptions { from_s: 5.0, to_s: 9.0, ..ReadOptions::default() };
    assert_eq!(message(&bytes, &late), "dir/some.hlog holds no interval between 5 s and 9 s");
}

#[test]
fn a_log_that_is_still_written_is_read_without_its_last_line() {
    let a = histogram(&[1_000]);
    let bytes = log(&[(Metric::Response, 0, &a), (Metric::Response, 1, &a)]);
    let whole = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for cut in whole + 1..bytes.len() - 1 {
        let reading = all(&bytes[..cut]);
        assert_eq!(reading.recordings[0].histogram, a, "{cut}");
        assert_eq!(reading.warnings, ["dir/some.hlog: the last line is cut off and was left out"]);
    }
    // Only its end is missing: nothing is cut off.
    assert_eq!(all(&bytes[..bytes.len() - 1]).warnings, [""; 0]);
}

#[test]
fn a_damaged_line_is_named() {
    let a = histogram(&[1_000]);
    let mut bytes = log(&[(Metric::Response, 0, &a)]);
    bytes.extend(b"Tag=response,1.0,1.0,1.0,HIST\n");
    let error = message(&bytes, &ReadOptions::default());
    assert_eq!(error, "dir/some.hlog, line 7: its payload is no encoded histogram");
}

#[test]
fn what_is_no_histogram_is_said_in_one_line() {
    for bytes in [&b""[..], b"hello\n", b"\0\xff\xfe", b"# only a comment\n", b"a,b,c,d\n"] {
        let error = message(bytes, &ReadOptions::default());
        assert!(error.starts_with("dir/some.hlog is no histogram") && !error.contains('\n'), "{error}");
    }
    assert_eq!(
        message(b"#[StartTime: 1.0 (seconds since epoch)]\n", &ReadOptions::default()),
        "dir/some.hlog holds no interval"
    );
    let missing = read(Path::new("/nowhere/at-all"), &ReadOptions::default()).unwrap_err().to_string();
    assert!(missing.starts_with("cannot read /nowhere/at-all: "), "{missing}");
}

#[test]
fn times_count_from_the_start_whatever_the_header_says() {
    let payload = {
        let bytes = log(&[(Metric::Response, 0, &histogram(&[1_000]))]);
        let text = String::from_utf8(bytes).unwrap();
        text.trim_end().rsplit(',').next().unwrap().to_owned()
    };
    let starts = |header: &str, first: &str, second: &str| {
        let text = format!("{header}\n{first},1.0,0.001,{payload}\r\n{second},1,0.001,{payload}\n");
        let reading = all(text.as_bytes());
        assert_eq!(reading.recordings[0].tag, None);
        reading.recordings[0].over_time.slices().iter().map(|it| it.start_s).collect::<Vec<_>>()
    };
    assert_eq!(starts("#no header", "1800000005.5", "1800000006.5"), [0.0, 1.0]);
    let start = "#[StartTime: 1800000000.0 (seconds since epoch), Fri Jan 15 08:00:00 UTC 2027]";
    assert_eq!(starts(start, "1800000005.5", "1800000006.5"), [5.5, 6.5]);
    assert_eq!(starts(start, "5.5", "6.5"), [5.5, 6.5]);
    let base = "#[BaseTime: 1800000002.0 (seconds since epoch)]";
    assert_eq!(starts(base, "5.5", "6.5"), [5.5, 6.5]);
    assert_eq!(starts(&format!("{base}\n{start}"), "5.5", "6.5"), [7.5, 8.5]);
}

#[test]
fn values_in_another_unit_are_scaled() {
    let bytes = log(&[(Metric::Response, 0, &histogram(&[250]))]);
    let options = ReadOptions { recorded_in: Some(Unit::Microseconds), ..ReadOptions::default() };
    let reading = read_bytes(&bytes, &options).unwrap();
    let read = &reading.recordings[0].histogram;
    assert!(read.equivalent(read.min(), 250_000));
}

#[test]
fn a_run_is_found_by_its_directory_and_by_its_report() {
    let dir = tempfile::tempdir().unwrap();
    let a = histogram(&[1_000]);
    let run = dir.path().join("nightly");
    std::fs::create_dir(&run).unwrap();
    let is_none = read(&run, &ReadOptions::default()).unwrap_err();
    assert!(matches!(is_none, ReadError::NotAHistogram { .. }), "{is_none}");
    std::fs::write(run.join("run.hlog"), log(&[(Metric::Response, 0, &a)])).unwrap();
    let source = |path: &Path| {
        let reading = read(path, &ReadOptions::default()).unwrap();
        assert_eq!(reading.recordings[0].histogram, a);
        reading.recordings[0].source.clone()
    };
    assert_eq!(source(&run), "nightly");
    let report = run.join(REPORT);
    std::fs::write(&report, r#"{"format": 1, "runs": [{"name": "run", "files": {"hlog": "run.hlog"}}]}"#)
        .unwrap();
    assert_eq!(source(&run), "nightly");
    assert_eq!(source(&report), "nightly");
    assert_eq!(source(&run.join("run.hlog")), "run");
    std::fs::write(&report, r#"{"runs": []}"#).unwrap();
    let error = read(&run, &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.ends_with("is no report of corelog bench: it names no log"), "{error}");
}

fn values() -> impl Strategy<Value = Vec<u64>> {
    let value = (0_u32..40, any::<u64>()).prop_map(|(bits, noise)| noise >> (63 - bits));
    prop::collection::vec(value, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(parts in prop::collection::vec(values(), 1..4)) {
        let parts: Vec<_> = parts.iter().map(|it| histogram(it)).collect();
        let intervals: Vec<_> = (0..).zip(&parts).map(|(at, it)| (Metric::EndToEnd, at, it)).collect();
        let reading = all(&log(&intervals));
        let mut sum = Histogram::<u64>::new(3).unwrap();
        for part in &parts {
            sum.add(part).unwrap();
        }
        prop_assert_eq!(&reading.recordings[0].histogram, &sum);
        prop_assert_eq!(reading.recordings[0].over_time.slices().len(), parts.len());
    }

    #[test]
    fn percentile_files_say_the_percentiles_of_what_they_were_made_from(
        values in prop::collection::vec(1_000_000_u64..1 << 34, 1..300),
    ) {
        let original = histogram(&values);
        let mut bytes = Vec::new();
        write_hgrm(&mut bytes, &original, 1e6).unwrap();
        let reading = all(&bytes);
        let read = &reading.recordings[0];
        prop_assert_eq!(read.histogram.len(), original.len());
        let mut below = 0;
        let is_close = |a: f64, b: f64| (a / b - 1.0).abs() < 1.1e-3;
        #[expect(clippy::cast_precision_loss, reason = "compared to three digits")]
        for tick in original.iter_quantiles(5) {
            below += tick.count_since_last_iteration();
            let quantile = (below as f64 - 0.5) / original.len() as f64;
            let (a, b) = (read.histogram.value_at_quantile(quantile), tick.value_iterated_to());
            prop_assert!(is_close(a as f64, b as f64), "{quantile}: {a} {b}");
        }
        prop_assert!(is_close(read.stated_mean_ns.unwrap(), original.mean()));
    }

    #[test]
    fn files_from_anywhere_are_an_error_at_worst(
        values in values(), is_table: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(), noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let histogram = histogram(&values);
        let mut bytes = log(&[(Metric::Response, 0, &histogram), (Metric::Service, 0, &histogram)]);
        if is_table {
            bytes.clear();
            write_hgrm(&mut bytes, &histogram, 1e6).unwrap();
        }
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        for bytes in [bytes, noise] {
            let _ = read_bytes(&bytes, &ReadOptions::default());
        }
    }

    #[test]
    fn lines_that_nearly_are_intervals_are_an_error_at_worst(
        line in "(Tag=[a-z]{0,3},)?-?[0-9.e]{1,6},[0-9.]{1,4},[0-9.]{1,4},(HIST[A-Za-z0-9+/]{0,40}={0,2})?",
    ) {
        let _ = read_bytes(format!("{line}\n{line}").as_bytes(), &ReadOptions::default());
    }
}
