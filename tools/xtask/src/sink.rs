//! `corelog bench sink` and `corelog bench` as processes: the broker that only acknowledges, and
//! the load generator that drives it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::{Conversation, Process, tail, tethered};
use crate::project::Project;

const START_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A running sink; it ends with this.
pub(crate) struct Sink {
    process: Conversation,
    address: String,
    log: PathBuf,
}

impl Sink {
    /// Starts the sink of this binary on a free port. `name` names its log.
    pub(crate) fn start(project: &Project, binary: &Path, name: &str, arguments: &[&str]) -> Result<Self> {
        let log = project.logs().join(format!("{name}.log"));
        let mut command = tethered(binary);
        command.args(["bench", "sink", "--listen", "127.0.0.1:0"]).args(arguments);
        let process = Conversation::start(command, &log)?;
        let greeting = process.hear(START_LIMIT)?;
        let address = greeting.strip_prefix("listening on ");
        let address = address.with_context(|| format!("the sink began with {greeting:?}"))?.to_owned();
        Ok(Self { process, address, log })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What it said on stderr.
    pub(crate) fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// Stops it with SIGTERM, upon which it must end with status 0 and a line that is returned.
    pub(crate) fn stop(self) -> Result<String> {
        let log = self.log;
        let (status, last) = self.process.terminate(STOP_LIMIT)?;
        ensure!(status.success(), "the sink stopped with {status}{}", tail(&log));
        last.with_context(|| format!("the sink said nothing when it stopped{}", tail(&log)))
    }
}

/// What a run of the load generator left behind.
pub(crate) struct Generated {
    pub(crate) status: ExitStatus,
    pub(crate) report: Value,
    pub(crate) log: PathBuf,
}

impl Generated {
    /// A number of the report, at a pointer as RFC 6901 has them.
    pub(crate) fn number(&self, pointer: &str) -> Result<f64> {
        let value = self.report.pointer(pointer).and_then(Value::as_f64);
        value.with_context(|| format!("the report has no number {pointer}{}", tail(&self.log)))
    }

    /// As [`Self::number`], for counts.
    pub(crate) fn count(&self, pointer: &str) -> Result<u64> {
        let value = self.report.pointer(pointer).and_then(Value::as_u64);
        value.with_context(|| format!("the report has no count {pointer}{}", tail(&self.log)))
    }
}

/// Runs `corelog bench` to its end, whichever that is, and reads its report.
pub(crate) fn generate(
    project: &Project,
    binary: &Path,
    name: &str,
    arguments: &[&str],
    limit: Duration,
) -> Result<Generated> {
    let out = project.scratch().join(name);
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    let log = project.logs().join(format!("{name}.log"));
    let mut command = tethered(binary);
    command.arg("bench").args(arguments).arg("--quiet").arg("--out").arg(&out);
    let output = fs::File::create(&log)?;
    command.stdin(std::process::Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let status = Process::spawn(&mut command, &log)?.wait(limit)?;
    let report = out.join("report.json");
    let text = fs::read(&report).with_context(|| format!("{status}, no report{}", tail(&log)))?;
    let report = serde_json::from_slice(&text).with_context(|| report.display().to_string())?;
    Ok(Generated { status, report, log })
}
