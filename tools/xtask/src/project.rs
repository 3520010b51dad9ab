//! Where things are: the work tree, and `.xtask`, which holds all that a task fetches or writes.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The work tree that this xtask was built from.
pub(crate) struct Project {
    root: PathBuf,
}

impl Project {
    pub(crate) fn locate() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").context("run this as `cargo xtask`")?;
        let root = Path::new(&manifest)
            .ancestors()
            .nth(2)
            .context("xtask lives two levels below the workspace root")?
            .to_path_buf();
        let project = Self { root };
        fs::create_dir_all(project.logs())?;
        fs::create_dir_all(project.scratch())?;
        Ok(project)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the scripts that drive clients in other languages.
    pub(crate) fn clients(&self) -> PathBuf {
        self.root.join("tools/clients")
    }

    /// What tasks fetch and write; ignored by git, and may be deleted at any time.
    pub(crate) fn state(&self) -> PathBuf {
        self.root.join(".xtask")
    }

    /// The output of every process that a task started.
    pub(crate) fn logs(&self) -> PathBuf {
        self.state().join("logs")
    }

    /// Data directories and dumps of the running task. On the work tree's own file system, since
    /// the usual temporary directory may not do direct I/O.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.state().join("run")
    }

    /// What git says that the sources are: their revision, and whether they were changed since.
    pub(crate) fn revision(&self) -> String {
        let git = |arguments: &[&str]| -> Option<String> {
            let output = Command::new("git").args(arguments).current_dir(&self.root).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let revision = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
        let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"]);
        let changed = if changed.is_none_or(|files| files.is_empty()) { "" } else { " with changes" };
        format!("revision {revision}{changed}")
    }

    /// Whether a toolchain that is missing is a failure and not a skipped step.
    pub(crate) fn is_ci() -> bool {
        env::var("CI").is_ok_and(|value| value == "true")
    }
}
