//! Reading reports back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

use super::super::report::{FORMAT, Report};

/// No report is larger by far.
const REPORT_BYTES_MAX: u64 = 64 << 20;

/// The name of a report in the directory of its run.
const REPORT_FILE: &str = "report.json";

/// Why a file is no report that can be read.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The operating system's word.
    #[error("cannot read {}", path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// Why it cannot be.
        source: io::Error,
    },
    /// A directory with nothing to compare.
    #[error("{} has no reports: neither *.json nor */{REPORT_FILE}", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// Something else.
    #[error("{} is no report of corelog bench: {reason}", path.display())]
    NoReport {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Written by a later version.
    #[error(
        "{} is a report of format {format}, and this version reads format {FORMAT} at most: a newer \
         corelog is needed",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u64,
    },
}

/// A report and where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Its file.
    pub path: PathBuf,
    /// What it says.
    pub report: Report,
}

/// Reads reports: files, directories of a run (with a `report.json`), and directories with several
/// of either, for repeated runs.
///
/// # Errors
/// The first file that is no report, and directories without any.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Loaded>, LoadError> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() { files.extend(reports_in(path)?) } else { files.push(path.clone()) }
    }
    files.into_iter().map(read).collect()
}

fn reports_in(dir: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let direct = dir.join(REPORT_FILE);
    if direct.is_file() {
        return Ok(vec![direct]);
    }
    let error = |source| LoadError::Io { path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(error)? {
        let path = entry.map_err(error)?.path();
        let inside = path.join(REPORT_FILE);
        if inside.is_file() {
            found.push(inside);
        } else if path.is_file() && path.extension().is_some_and(|it| it == "json") {
            found.push(path);
        }
    }
    found.sort();
    if found.is_empty() { Err(LoadError::Empty { path: dir.to_owned() }) } else { Ok(found) }
}

fn read(path: PathBuf) -> Result<Loaded, LoadError> {
    let io = |source| LoadError::Io { path: path.clone(), source };
    if fs::metadata(&path).map_err(io)?.len() > REPORT_BYTES_MAX {
        return Err(LoadError::NoReport { path, reason: "it is far too large".to_owned() });
    }
    let bytes = fs::read(&path).map_err(io)?;
    parse(path, &bytes)
}

/// What is in a report's file.
pub(super) fn parse(path: PathBuf, bytes: &[u8]) -> Result<Loaded, LoadError> {
    let no_report = |reason: &str| LoadError::NoReport { path: path.clone(), reason: reason.to_owned() };
    let value: Value = serde_json::from_slice(bytes).map_err(|error| no_report(&format!("{error}")))?;
    let format = value.get("format").and_then(Value::as_u64).ok_or_else(|| no_report("it has no format"))?;
    if format > u64::from(FORMAT) {
        return Err(LoadError::Newer { path, format });
    }
    let report = serde_json::from_value(value).map_err(|error| no_report(&format!("{error}")))?;
    Ok(Loaded { path, report })
}
