//! The node's data directory: its format, and which journal belongs to which shard.
//!
//! ```text
//! format                    version of everything below
//! layout                    journal ids in the order of the shards
//! journal/<id>/             one shard's journal
//! topics/<topic id>/<p>/    one partition's segments: no shard in the path
//! ```
//! Read and written by shard 0 while the node starts; nobody touches it afterwards.

use std::io;
use std::path::{Path, PathBuf};

use corelog_runtime::fs;

use crate::types::TopicPartition;

/// The newest format that this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// Holds the format, see [`format_version`].
pub const FORMAT_FILE: &str = "format";
/// Names the journals, a line each, in the order of the shards.
pub const LAYOUT_FILE: &str = "layout";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NodeDirError {
    /// Written by a newer program.
    #[error(
        "{path} was written in format {found}, this corelog reads up to {FORMAT_VERSION}: start it with a newer corelog, or use another --data-dir"
    )]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// A file in it is not ours.
    #[error("{path} is not a file of corelog: {reason}; is --data-dir right?")]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system failed.
    #[error("{path}: {error}")]
    Io {
        /// What was accessed.
        path: PathBuf,
        /// How it failed.
        error: io::Error,
    },
}

/// Which journals a node has, and what must happen to them before it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalPlan {
    /// The journal of each shard.
    pub journals: Vec<u64>,
    /// Journals of a layout with another number of shards: to be drained, then removed.
    pub drain: Vec<u64>,
}

/// Where a journal's files are.
pub fn journal_dir(data_dir: &Path, id: u64) -> PathBuf {
    data_dir.join("journal").join(format!("{id:08}"))
}

/// Where a partition's segments are.
pub fn partition_dir(data_dir: &Path, target: &TopicPartition) -> PathBuf {
    topic_dir(data_dir, target).join(target.partition.to_string())
}

/// Where a topic's partitions are.
pub fn topic_dir(data_dir: &Path, target: &TopicPartition) -> PathBuf {
    data_dir.join("topics").join(target.topic.to_string())
}

/// Checks the directory's format, makes what is missing, and says which journals to open.
///
/// # Errors
/// See [`NodeDirError`]. Nothing is changed in a directory that is not ours or newer.
pub async fn prepare(data_dir: &Path, shards: usize) -> Result<JournalPlan, NodeDirError> {
    check_format(data_dir).await?;
    let layout = read_layout(data_dir).await?;
    remove_unlisted_journals(data_dir, &layout).await?;
    let next = layout.iter().max().map_or(1, |id| id + 1);
    let plan = if layout.len() == shards {
        JournalPlan { journals: layout, drain: Vec::new() }
    } else {
        let journals = (next..).take(shards).collect();
        JournalPlan { journals, drain: layout }
    };
    for id in &plan.journals {
        let dir = journal_dir(data_dir, *id);
        fs::create_dir_all(&dir).await.map_err(io_at(&dir))?;
    }
    let journals = data_dir.join("journal");
    fs::sync_dir(&journals).await.map_err(io_at(&journals))?;
    if plan.drain.is_empty() {
        write_layout(data_dir, &plan.journals).await?;
    }
    Ok(plan)
}

/// Makes `journals` the node's journals. From here on a crash finds these and no others.
///
/// # Errors
/// The file system's.
pub async fn write_layout(data_dir: &Path, journals: &[u64]) -> Result<(), NodeDirError> {
    let path = data_dir.join(LAYOUT_FILE);
    let mut text = String::new();
    for id in journals {
        text.push_str(&format!("journal {id}\n"));
    }
    if let Ok(current) = fs::read_small(&path).await
        && current == text.as_bytes()
    {
        return Ok(());
    }
    fs::write_small_atomic(&path, text.as_bytes()).await.map_err(io_at(&path))
}

/// Removes journals that the layout does not name.
///
/// # Errors
/// The file system's.
pub async fn remove_unlisted_journals(data_dir: &Path, listed: &[u64]) -> Result<(), NodeDirError> {
    let journals = data_dir.join("journal");
    for entry in fs::list_dir(&journals).await.map_err(io_at(&journals))? {
        let ours = entry.name.parse::<u64>().ok().filter(|_| entry.is_dir);
        if let Some(id) = ours
            && !listed.contains(&id)
        {
            let dir = journals.join(&entry.name);
            fs::remove_dir_all(&dir).await.map_err(io_at(&dir))?;
        }
    }
    fs::sync_dir(&journals).await.map_err(io_at(&journals))
}

/// The version that the content of [`FORMAT_FILE`] names, unless it is not ours.
pub fn format_version(content: &[u8]) -> Option<u32> {
    std::str::from_utf8(content).ok()?.trim().strip_prefix("corelog ")?.parse().ok()
}

async fn check_format(data_dir: &Path) -> Result<(), NodeDirError> {
    let path = data_dir.join(FORMAT_FILE);
    for dir in [data_dir.join("journal"), data_dir.join("topics")] {
        fs::create_dir_all(&dir).await.map_err(io_at(&dir))?;
    }
    // An earlier process may have made them and died before it synced them: never rely on that.
    let parent = data_dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    for dir in [parent.unwrap_or(Path::new(".")), data_dir] {
        fs::sync_dir(dir).await.map_err(io_at(dir))?;
    }
    if !fs::exists(&path).await.map_err(io_at(&path))? {
        let text = format!("corelog {FORMAT_VERSION}\n");
        return fs::write_small_atomic(&path, text.as_bytes()).await.map_err(io_at(&path));
    }
    let bytes = fs::read_small(&path).await.map_err(io_at(&path))?;
    match format_version(&bytes) {
        Some(found) if found > FORMAT_VERSION => {
            Err(NodeDirError::NewerFormat { path: data_dir.to_owned(), found })
        }
        Some(_) => Ok(()),
        None => Err(NodeDirError::NotOurs { path, reason: "no version in it".to_owned() }),
    }
}

/// The journals of the layout; none in a new directory.
async fn read_layout(data_dir: &Path) -> Result<Vec<u64>, NodeDirError> {
    let path = data_dir.join(LAYOUT_FILE);
    if !fs::exists(&path).await.map_err(io_at(&path))? {
        return no_layout(data_dir, path).await;
    }
    let bytes = fs::read_small(&path).await.map_err(io_at(&path))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let id = |line: &str| line.strip_prefix("journal ").and_then(|id| id.parse::<u64>().ok());
    let unreadable = |line: &str| NodeDirError::NotOurs {
        path: path.clone(),
        reason: format!("unreadable line '{line}'"),
    };
    text.lines().map(|line| id(line).ok_or_else(|| unreadable(line))).collect()
}

/// Without a layout there may be journal directories that a first start made, but nothing in them.
async fn no_layout(data_dir: &Path, layout: PathBuf) -> Result<Vec<u64>, NodeDirError> {
    let journals = data_dir.join("journal");
    for entry in fs::list_dir(&journals).await.map_err(io_at(&journals))? {
        let dir = journals.join(&entry.name);
        let in_use = entry.is_dir && !fs::list_dir(&dir).await.map_err(io_at(&dir))?.is_empty();
        if in_use {
            let reason = format!(
                "it is missing, though {} holds a journal: restore it (a line `journal ID` for each \
                 shard, in order), nothing was changed",
                dir.display()
            );
            return Err(NodeDirError::NotOurs { path: layout, reason });
        }
    }
    Ok(Vec::new())
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> NodeDirError + use<> {
    let path = path.to_owned();
    move |error| NodeDirError::Io { path, error }
}
