//! What is on disk, without a running node: `corelog dump` and `corelog verify`.
//!
//! Both read through the engine's own decoders and change nothing.

pub(crate) mod dump;
mod journals;
mod segments;
pub(crate) mod verify;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use corelog_runtime::fs;

/// What a path is, by the layout of a data directory.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    DataDir,
    JournalDir,
    JournalFile,
    PartitionDir,
    SegmentFile,
}

const JOURNAL_EXTENSION: &str = "journal";
const SEGMENT_EXTENSION: &str = "log";

async fn kind_of(path: &Path) -> Result<Kind> {
    match path.extension().and_then(|it| it.to_str()) {
        Some(JOURNAL_EXTENSION) => return Ok(Kind::JournalFile),
        Some(SEGMENT_EXTENSION) => return Ok(Kind::SegmentFile),
        Some(_) | None => {}
    }
    if !fs::exists(path).await? {
        bail!("{} does not exist", path.display());
    }
    if fs::exists(path.join("format")).await? {
        return Ok(Kind::DataDir);
    }
    for entry in fs::list_dir(path).await? {
        match Path::new(&entry.name).extension().and_then(|it| it.to_str()) {
            Some(JOURNAL_EXTENSION) => return Ok(Kind::JournalDir),
            Some(SEGMENT_EXTENSION) => return Ok(Kind::PartitionDir),
            Some(_) | None => {}
        }
    }
    bail!(
        "{} is no data directory of corelog, nor a journal's or a partition's directory or file",
        path.display()
    )
}

/// The directories below `dir`, by name.
async fn directories(dir: &Path) -> Result<Vec<PathBuf>> {
    if !fs::exists(dir).await? {
        return Ok(Vec::new());
    }
    let entries = fs::list_dir(dir).await?;
    Ok(entries.into_iter().filter(|it| it.is_dir).map(|it| dir.join(it.name)).collect())
}

/// The journals of a data directory.
async fn journal_dirs(data_dir: &Path) -> Result<Vec<PathBuf>> {
    directories(&data_dir.join("journal")).await
}

/// The partitions of a data directory.
async fn partition_dirs(data_dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for topic in directories(&data_dir.join("topics")).await? {
        found.extend(directories(&topic).await?);
    }
    Ok(found)
}
