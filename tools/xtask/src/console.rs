//! The console in a headless Chromium, against nodes of the tests' own.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::broker::BrokerKind;
use crate::process;
use crate::project::Project;
use crate::setup;

const TEST_LIMIT_S: u32 = 180;
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// What came of it.
pub(crate) enum Checked {
    /// A sentence about what passed.
    Passed(String),
    /// Why it could not be tried.
    Skipped(String),
}

/// Runs the tests in `tools/clients/console`. `CORELOG_CONSOLE_PICTURES` names a folder for pictures
/// of each view.
pub(crate) fn check(project: &Project) -> Result<Checked> {
    let tools = setup::chromium().and_then(|chromium| Ok((chromium, setup::python(project)?)));
    let (chromium, python) = match tools {
        Ok(tools) => tools,
        Err(error) if Project::is_ci() => return Err(error.context("CI needs the browser")),
        Err(error) => return Ok(Checked::Skipped(format!("no browser to look with: {error:#}"))),
    };
    let binary = BrokerKind::corelog(project)?;
    let binary = binary.command_line(project).context("the release build is its own command line")?;
    let scratch = project.scratch().join("console");
    fs::create_dir_all(&scratch)?;
    let mut command = process::tethered(python);
    command
        .args(["-m", "pytest", "-p", "no:cacheprovider", "-ra", "--tb=short"])
        .args(["--timeout", &TEST_LIMIT_S.to_string()])
        .arg(format!("--corelog={}", binary.display()))
        .arg(format!("--chromium={}", chromium.display()))
        .arg(format!("--scratch={}", scratch.display()))
        .current_dir(project.clients().join("console"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    if let Some(pictures) = std::env::var_os("CORELOG_CONSOLE_PICTURES") {
        fs::create_dir_all(&pictures)?;
        let pictures = fs::canonicalize(&pictures)?;
        command.arg(format!("--pictures={}", pictures.display()));
    }
    let log = project.logs().join("console.log");
    process::run(command, &log, LIMIT).context("the console")?;
    let text = fs::read_to_string(&log)?;
    let Some(summary) = text.lines().next_back() else { bail!("the tests said nothing") };
    Ok(Checked::Passed(summary.trim_matches(['=', ' ']).to_owned()))
}
