//! Suites that are crates: built with their own lock files, each test called by its exact name.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::results::Verdict;
use super::runner::{Ground, Runner};
use super::suite::Suite;
use crate::process::{self, tethered};
use crate::project::Project;

const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);

/// A crate whose tests are built.
pub(crate) struct Crate {
    suite: Suite,
    source: PathBuf,
    /// The name of each file of tests, and its program.
    programs: Vec<(String, PathBuf)>,
}

impl Crate {
    pub(crate) fn build(project: &Project, suite: Suite, source: PathBuf) -> Result<Self> {
        set_apart(&source.join("Cargo.toml"))?;
        // Our compiler builds it, whichever its authors use.
        let toolchain = source.join("rust-toolchain.toml");
        if toolchain.exists() {
            fs::remove_file(toolchain)?;
        }
        let name = suite.name();
        for (package, version) in replaced(suite) {
            let mut update = Command::new(env!("CARGO"));
            update.args(["update", "--package", package, "--precise", version]).current_dir(&source);
            let log = project.logs().join(format!("conformance-update-{name}.log"));
            process::run(update, &log, BUILD_LIMIT)?;
        }
        let target = source.parent().context("sources are in a suite's folder")?.join("target");
        let said = target.with_extension("json");
        let log = project.logs().join(format!("conformance-build-{name}.log"));
        println!("building {name}; {} says how far it is", log.display());
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["test", "--no-run", "--message-format=json"])
            .current_dir(&source)
            .env("CARGO_TARGET_DIR", &target)
            // A third of the disk space.
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_PROFILE_TEST_DEBUG", "0");
        if source.join("Cargo.lock").is_file() {
            cargo.arg("--locked");
        }
        // What cargo set for xtask is not for the suite.
        for (variable, _) in std::env::vars() {
            if variable.starts_with("CARGO_PKG_") || variable.starts_with("CARGO_MANIFEST_") {
                cargo.env_remove(variable);
            }
        }
        process::run_into(cargo, &said, &log, BUILD_LIMIT).with_context(|| format!("building {name}"))?;
        let programs = programs(&fs::read_to_string(&said)?)?;
        ensure!(!programs.is_empty(), "{name} has no tests");
        Ok(Self { suite, source, programs })
    }

    fn program(&self, test: &str) -> Result<(&Path, String)> {
        let (file, name) = test.split_once("::").with_context(|| format!("{test} names no file"))?;
        let found = self.programs.iter().find(|(known, _)| known == file);
        let (_, program) = found.with_context(|| format!("there is no file of tests {file}"))?;
        Ok((program, name.to_owned()))
    }
}

/// Packages of a suite's lock file that our compiler does not take, and the first versions that it does.
fn replaced(suite: Suite) -> &'static [(&'static str, &'static str)] {
    match suite {
        Suite::Rskafka => &[("rsasl", "2.3.1")],
        _ => &[],
    }
}

/// Makes a manifest the root of a workspace of its own, below ours as it is.
fn set_apart(manifest: &Path) -> Result<()> {
    let text = fs::read_to_string(manifest).with_context(|| manifest.display().to_string())?;
    if text.lines().any(|line| line.trim() == "[workspace]") {
        return Ok(());
    }
    fs::OpenOptions::new().append(true).open(manifest)?.write_all(b"\n[workspace]\n")?;
    Ok(())
}

/// The programs of tests, from what cargo said while it built them.
fn programs(said: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut programs = Vec::new();
    for line in said.lines() {
        let message: Value = serde_json::from_str(line).with_context(|| format!("cargo said {line:?}"))?;
        let is_test =
            message["target"]["kind"].as_array().is_some_and(|kinds| kinds.contains(&"test".into()));
        if let (true, Some(program), Some(name)) =
            (is_test, message["executable"].as_str(), message["target"]["name"].as_str())
        {
            programs.push((name.to_owned(), PathBuf::from(program)));
        }
    }
    programs.sort();
    Ok(programs)
}

/// rskafka's tests with Java return at once where no JVM is to be used, and so pass without a try.
fn needs_java(suite: Suite, test: &str) -> bool {
    suite == Suite::Rskafka && test.contains("java")
}

impl Runner for Crate {
    fn tests(&self, _kafka_version: &str) -> Result<Vec<String>> {
        let mut tests = Vec::new();
        for (file, program) in &self.programs {
            let output = Command::new(program)
                .args(["--list", "--format", "terse"])
                .current_dir(&self.source)
                .output()?;
            if !output.status.success() {
                bail!("{file} does not list its tests: {}", String::from_utf8_lossy(&output.stderr));
            }
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                let Some(name) = line.strip_suffix(": test") else { continue };
                // Each file has those of the module that they share.
                if !name.starts_with("utils::") {
                    tests.push(format!("{file}::{name}"));
                }
            }
        }
        Ok(tests)
    }

    fn command(&self, test: &str, ground: &Ground) -> Result<Command> {
        let (program, name) = self.program(test)?;
        let mut command = tethered(program);
        command
            .args(["--exact", &name, "--nocapture", "--test-threads=1"])
            .current_dir(&self.source)
            .env("KAFKA_HOST", ground.bootstrap.to_string())
            .env("KAFKA_VERSION", &ground.kafka_version)
            .env("KAFKA_CONNECT", ground.bootstrap.to_string())
            .env("TEST_INTEGRATION", "1")
            .env("TEST_BROKER_IMPL", "kafka");
        Ok(command)
    }

    fn verdict(&self, test: &str, well: bool, said: &str, _ground: &Ground) -> Verdict {
        let skips = said.lines().any(|line| line.to_lowercase().starts_with("skipping "));
        match well {
            false => Verdict::Failed,
            true if skips || needs_java(self.suite, test) || !said.contains("1 passed") => Verdict::Skipped,
            true => Verdict::Passed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_of_tests_are_taken_from_what_cargo_says() -> Result<()> {
        let said = concat!(
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"x"},"executable":"/t/x"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"client"},"executable":"/t/client"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n"
        );
        assert_eq!(programs(said)?, [("client".to_owned(), PathBuf::from("/t/client"))]);
        Ok(())
    }

    #[test]
    fn a_manifest_is_set_apart_once() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let manifest = folder.path().join("Cargo.toml");
        fs::write(&manifest, "[package]\nname = \"x\"\n")?;
        set_apart(&manifest)?;
        set_apart(&manifest)?;
        assert_eq!(fs::read_to_string(&manifest)?, "[package]\nname = \"x\"\n\n[workspace]\n");
        Ok(())
    }
}
