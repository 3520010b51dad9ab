//! One run of `corelog bench`, on the client's core, and what its report says.
//!
//! The report is read through types of its own: xtask uses no other crate of the workspace, so that
//! what it compares are programs and files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::plan::{Load, SAMPLES_MIN};
use super::results::Measure;
use crate::broker::Broker;
use crate::machine::{Usage, as_f64};
use crate::process::{Process, pinned};

/// Nothing that is run here takes as long as this.
const LIMIT: Duration = Duration::from_secs(300);
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// How `corelog bench` is run.
pub(crate) struct Generator {
    pub(crate) binary: PathBuf,
    pub(crate) core: usize,
}

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) values: BTreeMap<Measure, f64>,
    pub(crate) client_bound: Option<String>,
    /// Why it failed, when it did; there may be values all the same.
    pub(crate) error: Option<String>,
    /// As it was typed.
    pub(crate) command: Vec<String>,
    pub(crate) report: Option<Report>,
    /// The server's CPU seconds by the time since the generator was started.
    pub(crate) server: Vec<(f64, f64)>,
}

impl Generator {
    /// Drives `broker`; the report and the histograms go into `out`, which is made anew.
    pub(crate) fn run(&self, broker: &mut Broker, load: &Load, out: &Path) -> Result<Outcome> {
        let pid = broker.pid().context("the broker does not run")?;
        if out.exists() {
            fs::remove_dir_all(out)?;
        }
        fs::create_dir_all(out)?;
        let mut command = self.command();
        command
            .args(["--bootstrap", &broker.address().to_string()])
            .args(load.arguments())
            .args(["--server-pid", &pid.to_string()])
            .arg("--out")
            .arg(out);
        let words = crate::process::words(&command);
        let log = out.join("log");
        let output = fs::File::create(&log)?;
        command.stdout(output.try_clone()?).stderr(output);
        let (ended_well, server) = watch(&mut command, &log, pid)?;
        broker.check_running()?;
        let report = read_report(&out.join("report.json"));
        let error = match (&report, ended_well) {
            (_, false) => Some(last_words(&log)),
            (Err(error), true) => Some(format!("{error:#}")),
            (Ok(report), true) => report.broken_promise(),
        };
        let report = report.ok();
        let run = report.as_ref().and_then(|report| report.runs.first());
        let mut values = run.map(Run::values).unwrap_or_default();
        if !values.is_empty() {
            values.insert(Measure::ServerResidentMb, Usage::of(pid)?.resident_mb);
        }
        let client_bound = run.and_then(|run| run.client_bound());
        Ok(Outcome { values, client_bound, error, command: words, report, server })
    }

    /// `corelog bench`, on its core.
    fn command(&self) -> Command {
        let mut command = pinned(&self.binary, self.core);
        command.args(["bench", "--cores", &self.core.to_string()]);
        command
    }
}

/// Runs a command to its end while it looks at the server. Returns whether it ended well.
pub(crate) fn watch(command: &mut Command, log: &Path, server: u32) -> Result<(bool, Vec<(f64, f64)>)> {
    command.stdin(Stdio::null());
    let began = Instant::now();
    let mut samples = vec![(0.0, Usage::of(server)?.cpu_s)];
    let mut process = Process::spawn(command, log)?;
    loop {
        let ended = process.ended()?;
        samples.push((began.elapsed().as_secs_f64(), Usage::of(server)?.cpu_s));
        if let Some(status) = ended {
            return Ok((status.success(), samples));
        }
        if began.elapsed() > LIMIT {
            process.kill()?;
            return Ok((false, samples));
        }
        thread::sleep(SAMPLE_INTERVAL);
    }
}

/// The line that says why a program failed.
pub(crate) fn last_words(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let telling = |line: &&str| line.contains("rror") || line.contains("xception");
    let line = lines().find(telling).or_else(|| lines().next_back()).unwrap_or("it printed nothing");
    line.chars().take(300).collect()
}

fn read_report(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path).context("the load generator left no report")?;
    serde_json::from_str(&text).context("the load generator's report has another form")
}

/// What is used of a report: see `bench/src/result/report.rs`.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    pub(crate) runs: Vec<Run>,
    pub(crate) knee: Option<Knee>,
}

impl Report {
    fn broken_promise(&self) -> Option<String> {
        let verification = self.runs.first()?.verification.as_ref()?;
        (!verification.as_promised)
            .then(|| format!("records are not as promised: {}", verification.findings.join("; ")))
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Knee {
    pub(crate) records_per_s: f64,
    pub(crate) limit: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Run {
    produced: Flow,
    consumed: Flow,
    latency: BTreeMap<String, Latency>,
    verification: Option<Verification>,
    client: ClientUse,
    server: Option<ServerUse>,
    /// There when consumers began after producers were done.
    server_consuming: Option<ServerUse>,
}

#[derive(Debug, Deserialize)]
struct Flow {
    records: u64,
    bytes: u64,
    records_per_s: f64,
    mb_per_s: f64,
    errors: u64,
    timeouts: u64,
    /// Records whose time came and that were never sent.
    #[serde(default)]
    unsent: u64,
}

impl Flow {
    fn failed(&self) -> f64 {
        as_f64(self.errors + self.timeouts + self.unsent)
    }
}

#[derive(Debug, Deserialize)]
struct Latency {
    samples: u64,
    percentiles_us: BTreeMap<String, f64>,
}

#[derive(Debug, Deserialize)]
struct Verification {
    as_promised: bool,
    findings: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct ClientUse {
    cpu_share: f64,
    client_bound: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ServerUse {
    cpu_us_per_record: f64,
    cpu_s_per_gb: f64,
}

impl Run {
    fn client_bound(&self) -> Option<String> {
        let why = self.client.client_bound.as_deref()?;
        Some(why.strip_prefix("client-bound: ").unwrap_or(why).to_owned())
    }

    /// Whether consumers read what producers had finished before.
    pub(crate) fn is_read_afterwards(&self) -> bool {
        self.server_consuming.is_some()
    }

    /// The consumers' side, and how many records they read.
    pub(crate) fn consumed_values(&self) -> (BTreeMap<Measure, f64>, u64) {
        let values = BTreeMap::from([
            (Measure::RecordsPerS, self.consumed.records_per_s),
            (Measure::MbPerS, self.consumed.mb_per_s),
            (Measure::Errors, self.consumed.failed()),
        ]);
        (values, self.consumed.records)
    }

    /// The producers' side; percentiles that have too few samples are left out.
    fn values(&self) -> BTreeMap<Measure, f64> {
        let mut values = BTreeMap::from([
            (Measure::RecordsPerS, self.produced.records_per_s),
            (Measure::MbPerS, self.produced.mb_per_s),
            (Measure::MbWritten, as_f64(self.produced.bytes) / 1e6),
            (Measure::Errors, self.produced.failed()),
            (Measure::ClientCpuPercent, self.client.cpu_share * 100.0),
        ]);
        if let Some(server) = &self.server {
            values.insert(Measure::ServerCpuUsPerRecord, server.cpu_us_per_record);
            values.insert(Measure::ServerCpuSPerGb, server.cpu_s_per_gb);
        }
        let metrics = [
            ("response", [Measure::ResponseP50Us, Measure::ResponseP99Us, Measure::ResponseP999Us]),
            ("end_to_end", [Measure::EndToEndP50Us, Measure::EndToEndP99Us, Measure::EndToEndP999Us]),
        ];
        for (metric, [p50, p99, p999]) in metrics {
            let Some(latency) = self.latency.get(metric) else {
                continue;
            };
            let samples = as_f64(latency.samples);
            if metric == "response" {
                values.insert(Measure::Samples, samples);
            }
            for (measure, percentile) in [(p50, "50"), (p99, "99"), (p999, "99.9")] {
                let is_enough = percentile != "99.9" || samples >= SAMPLES_MIN;
                if let Some(value) = latency.percentiles_us.get(percentile).filter(|_| is_enough) {
                    values.insert(measure, *value);
                }
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(samples: u64) -> serde_json::Value {
        let flow = json!({
            "records": 600_000, "bytes": 614_400_000, "requests": 1, "records_per_s": 100_000.0,
            "mb_per_s": 102.4, "errors": 1, "timeouts": 2, "reconnects": 0
        });
        let latency = json!({
            "samples": samples, "min_us": 50.0, "mean_us": 100.0, "max_us": 900.0,
            "percentiles_us": {"50": 90.0, "99": 300.0, "99.9": 500.0}
        });
        json!({
            "format": 1, "version": "0.1.0", "knee": {"records_per_s": 1000.0, "limit": "p99"},
            "runs": [{
                "name": "run", "plan": {}, "seconds": 6.0, "intended_per_s": null,
                "produced": flow, "consumed": flow, "latency": {"response": latency, "service": latency},
                "verification": {"read": 600_000, "as_promised": true, "findings": []},
                "client": {"cores": [1], "cpu_share": 0.97, "cpu_s": 5.8, "client_bound": "client-bound: its core is busy"},
                "server": {"cpu_s": 3.0, "cpu_us_per_record": 5.0, "cpu_s_per_gb": 4.88, "resident_bytes": 1},
                "server_consuming": null, "caught_up_s": null, "files": {"hlog": "run.hlog"}
            }]
        })
    }

    #[test]
    fn a_report_is_read() -> Result<()> {
        let report: Report = serde_json::from_value(report(100_000))?;
        let run = &report.runs[0];
        let values = run.values();
        assert_eq!(values[&Measure::RecordsPerS], 100_000.0);
        assert_eq!(values[&Measure::Errors], 3.0);
        assert_eq!(values[&Measure::ServerCpuUsPerRecord], 5.0);
        assert_eq!(values[&Measure::ResponseP999Us], 500.0);
        assert_eq!(values.get(&Measure::EndToEndP50Us), None);
        assert_eq!(run.client_bound().as_deref(), Some("its core is busy"));
        assert_eq!(report.broken_promise(), None);
        Ok(())
    }

    #[test]
    fn a_p999_with_too_few_samples_is_left_out() -> Result<()> {
        let report: Report = serde_json::from_value(report(99_999))?;
        let values = report.runs[0].values();
        assert_eq!(values.get(&Measure::ResponseP999Us), None);
        assert_eq!(values[&Measure::ResponseP99Us], 300.0);
        Ok(())
    }

    #[test]
    fn records_that_are_not_as_promised_are_an_error() -> Result<()> {
        let mut report = report(1);
        report["runs"][0]["verification"] =
            json!({"read": 1, "as_promised": false, "findings": ["1 lost: partition 0, sequence 7"]});
        let report: Report = serde_json::from_value(report)?;
        assert!(report.broken_promise().is_some_and(|words| words.contains("1 lost")));
        Ok(())
    }
}
