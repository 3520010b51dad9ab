//! Our histogram files against the Java library's own tools: `HistogramLogProcessor` and `corelog
//! hist` must say the same percentiles of every log, whoever wrote it, and a percentile file of
//! ours must be the one that Java prints.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::broker::{Broker, BrokerKind, BrokerOptions};
use crate::java::Java;
use crate::process::{self, tethered};
use crate::project::Project;

const LIMIT: Duration = Duration::from_secs(120);
/// What three digits tell apart, and half of the last decimal (in ms) that Java's tool prints.
const PRECISION: f64 = 1e-3;
const HALF_DECIMAL_MS: f64 = 0.5e-3;
/// In the order in which `HistogramLogProcessor` prints them, before the largest.
const PERCENTILES: [&str; 5] = ["50", "90", "99", "99.9", "99.99"];
const PROCESSOR: &str = "org.HdrHistogram.HistogramLogProcessor";

/// Compares; returns a sentence about what was.
pub(crate) fn check(project: &Project, java: &Java) -> Result<String> {
    let folder = project.scratch().join("histograms");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let kind = BrokerKind::corelog(project)?;
    let binary = kind.command_line(project).context("the release build is its own command line")?;
    let test = Test { project, java, binary, folder };

    let run = test.drive(&kind)?;
    let mut compared = 0;
    for tag in ["response", "service", "schedule_lag", "end_to_end"] {
        let table = test.compare(&run.join("run.hlog"), Some(tag)).with_context(|| format!("our {tag}"))?;
        let ours = rows(&run.join(format!("run.{tag}.hgrm")))?;
        ensure!(!ours.is_empty(), "our percentile file of {tag} is empty");
        for (ours, java) in ours.iter().zip(&table) {
            ensure!(ours == java, "our percentile file of {tag} has {ours:?} where Java has {java:?}");
        }
        ensure!(ours.len() == table.len(), "our percentile file of {tag} is not as long as Java's");
        compared += 1;
    }
    let log = test.folder.join("java.hlog");
    let mut command = test.java.command();
    command.arg(project.clients().join("java/Histograms.java"));
    process::run_into(command, &log, &project.logs().join("histograms.log"), LIMIT)?;
    for tag in [Some("response"), Some("service"), None] {
        test.compare(&log, tag).with_context(|| format!("Java's {}", tag.unwrap_or("untagged")))?;
        compared += 1;
    }
    fs::remove_dir_all(&test.folder)?;
    Ok(format!("{compared} distributions, ours and Java's: the same percentiles in both tools"))
}

struct Test<'a> {
    project: &'a Project,
    java: &'a Java,
    binary: PathBuf,
    folder: PathBuf,
}

impl Test<'_> {
    /// A short run of the load generator. Returns its directory.
    fn drive(&self, kind: &BrokerKind) -> Result<PathBuf> {
        let broker = Broker::start(self.project, kind, BrokerOptions::named("histograms-node"))?;
        let out = self.folder.join("run");
        let mut command = tethered(&self.binary);
        command
            .args(["bench", "--bootstrap", &broker.address().to_string(), "--rate", "20000"])
            .args(["--warm-up", "0.5", "--duration", "2", "--consumers", "1", "--out"])
            .arg(&out);
        process::run(command, &self.project.logs().join("histograms-run.log"), LIMIT)?;
        broker.stop()?;
        Ok(out)
    }

    /// Percentiles of one tag by both tools. Returns the lines of Java's percentile file.
    fn compare(&self, log: &Path, tag: Option<&str>) -> Result<Vec<String>> {
        let java = self.folder.join("processed");
        let mut command = self.java.command();
        command.arg(PROCESSOR).arg("-i").arg(log).arg("-o").arg(&java);
        command.args(tag.iter().flat_map(|tag| ["-tag", tag]));
        process::run(command, &self.project.logs().join("histograms.log"), LIMIT)?;
        let text = fs::read_to_string(&java)?;
        let expected = totals(&text).with_context(|| format!("{PROCESSOR} said: {text}"))?;

        let json = self.folder.join("hist.json");
        let mut command = tethered(&self.binary);
        command.args(["hist", "--output", "json", "--unit", "ms"]).arg(log);
        command.args(tag.iter().flat_map(|tag| ["--tag", tag]));
        process::run_into(command, &json, &self.project.logs().join("histograms.log"), LIMIT)?;
        let read: Value = serde_json::from_slice(&fs::read(&json)?)?;
        let ours = read
            .as_array()
            .context("corelog hist prints a list")?
            .iter()
            .find(|it| it["tag"].as_str() == tag)
            .context("corelog hist does not know the tag")?;
        ensure!(
            ours["samples"].as_u64() == Some(expected.samples),
            "{} samples of {}",
            ours["samples"],
            expected.samples
        );
        for (name, expected_ms) in PERCENTILES.iter().zip(&expected.percentiles_ms) {
            // Left out for want of samples, which Java's tool does not do.
            if let Some(ours_ms) = ours["percentiles"][*name].as_f64() {
                ensure!(is_close(ours_ms, *expected_ms), "p{name}: {ours_ms} ms, Java says {expected_ms}");
            }
        }
        ensure!(ours["percentiles"]["99"].is_number(), "there are too few samples for a p99");
        let max_ms = ours["max"].as_f64().context("a largest value")?;
        ensure!(is_close(max_ms, expected.max_ms), "max: {max_ms} ms, Java says {}", expected.max_ms);
        rows(&self.folder.join("processed.hgrm"))
    }
}

fn is_close(ours_ms: f64, java_ms: f64) -> bool {
    (ours_ms - java_ms).abs() <= java_ms * PRECISION + HALF_DECIMAL_MS
}

struct Totals {
    samples: u64,
    percentiles_ms: Vec<f64>,
    max_ms: f64,
}

/// What the last line of `HistogramLogProcessor` says of the whole log:
/// `TIME: I:… ( … ) T:COUNT ( p50 p90 p99 p99.9 p99.99 max )`.
fn totals(text: &str) -> Option<Totals> {
    let (_, total) = text.lines().next_back()?.split_once("T:")?;
    let (samples, values) = total.split_once('(')?;
    let values = values.trim_end().strip_suffix(')')?;
    let mut values: Vec<f64> = values.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let max_ms = values.pop()?;
    (values.len() == PERCENTILES.len()).then_some(())?;
    Some(Totals { samples: samples.trim().parse().ok()?, percentiles_ms: values, max_ms })
}

/// The lines of a percentile file from its header on; before it, Java's tool writes comments.
fn rows(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let lines = text.lines().map(str::trim).skip_while(|line| line.starts_with('#'));
    // How many buckets a histogram has depends on how it grew, not on what is in it.
    Ok(lines.filter(|line| !line.starts_with("#[Buckets")).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_javas_log_is_read() {
        let text = "I:9 ( 1 )\n1.0: I:10 ( 1.0 2.0 ) T:1234 ( 1.0 2.0 3.0 4.0 5.0 6.5 )\n";
        let totals = totals(text).expect("a line of that form");
        assert_eq!(
            (totals.samples, totals.percentiles_ms.len(), totals.max_ms),
            (1234, PERCENTILES.len(), 6.5)
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_totals_or_nothing(text in "(.{0,9} )?T: ?[0-9]{0,21} ?\\(( [0-9.e]{0,9}){0,8} ?\\)?|.{0,40}") {
            let _ = totals(&text).map(|it| it.samples);
        }
    }
}
