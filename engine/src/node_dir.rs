//! The node's data directory: its format, and which journal belongs to which shard.
//!
//! ```text
//! format                    version of everything below
//! layout                    journal ids in the order of the shards, and a checksum of these lines
//! journal/<id>/             one shard's journal
//! topics/<topic id>/<p>/    one partition's segments: no shard in the path
//! ```
//! Read and written by shard 0 while the node starts; nobody touches it afterwards.

use std::io;
use std::path::{Path, PathBuf};

use corelog_runtime::fs;

use crate::types::TopicPartition;

/// The format that this program writes. It also reads the one before, and makes it this one: an older
/// program would not understand what is written from then on.
pub const FORMAT_VERSION: u32 = 3;

/// Holds the format, see [`format_version`].
pub const FORMAT_FILE: &str = "format";
/// Names the journals, a line each, in the order of the shards.
pub const LAYOUT_FILE: &str = "layout";

/// No machine has as many cores.
const SHARDS_MAX: usize = 1 << 16;

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
    let format = check_format(data_dir).await?;
    let Layout { journals: layout, is_checked } = read_layout(data_dir).await?;
    if is_checked {
        remove_unlisted_journals(data_dir, &layout).await?;
    } else {
        check_all_are_listed(data_dir, &layout).await?;
    }
    let next = layout.iter().max().map_or(1, |id| id + 1);
    assert!(layout.len() <= SHARDS_MAX, "a layout that was read names no more journals");
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
    if format < FORMAT_VERSION {
        tracing::info!(from = format, to = FORMAT_VERSION, "the data directory's format is renewed");
        write_format(data_dir).await?;
    }
    Ok(plan)
}

/// Makes `journals` the node's journals. From here on a crash finds these and no others.
///
/// # Errors
/// The file system's.
pub async fn write_layout(data_dir: &Path, journals: &[u64]) -> Result<(), NodeDirError> {
    let path = data_dir.join(LAYOUT_FILE);
    let text = layout_text(journals);
    if let Ok(current) = fs::read_small(&path).await
        && current == text.as_bytes()
    {
        return Ok(());
    }
    fs::write_small_atomic(&path, text.as_bytes()).await.map_err(io_at(&path))
}

fn layout_text(journals: &[u64]) -> String {
    let mut text = String::new();
    for id in journals {
        text.push_str(&format!("journal {id}\n"));
    }
    let checksum = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("checksum {checksum:08x}\n"));
    text
}

/// What a layout says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Layout {
    journals: Vec<u64>,
    /// Otherwise it was written by hand, or before there were checksums: nothing is removed for it.
    is_checked: bool,
}

/// The journals of a layout. What it does not name is removed, so that a damaged one must not be
/// taken for another.
fn parse_layout(bytes: &[u8]) -> Result<Layout, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    let mut journals = Vec::new();
    for line in text.lines().take_while(|line| !line.starts_with("checksum ")) {
        let id = line.strip_prefix("journal ").and_then(|id| id.parse::<u64>().ok());
        match id.filter(|id| *id < u64::MAX) {
            Some(id) if !journals.contains(&id) => journals.push(id),
            Some(_) | None => return Err(format!("unreadable line '{}'", line.escape_debug())),
        }
        if journals.len() > SHARDS_MAX {
            return Err(format!("it names more than {SHARDS_MAX} journals"));
        }
    }
    if journals.is_empty() {
        return Err("it names no journal".to_owned());
    }
    let checked = layout_text(&journals);
    let is_checked = text == checked;
    if !is_checked && text != &checked[..checked.find("checksum").unwrap_or_default()] {
        return Err("its checksum does not match".to_owned());
    }
    Ok(Layout { journals, is_checked })
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

/// The journals that the content of [`LAYOUT_FILE`] names, in the order of the shards.
///
/// # Errors
/// What is wrong with it, where a node would not start with it.
pub fn layout_journals(content: &[u8]) -> Result<Vec<u64>, String> {
    parse_layout(content).map(|layout| layout.journals)
}

/// The version that the content of [`FORMAT_FILE`] names, unless it is not ours.
pub fn format_version(content: &[u8]) -> Option<u32> {
    std::str::from_utf8(content).ok()?.trim().strip_prefix("corelog ")?.parse().ok()
}

/// Makes the directory one of this program's format.
async fn write_format(data_dir: &Path) -> Result<(), NodeDirError> {
    let path = data_dir.join(FORMAT_FILE);
    let text = format!("corelog {FORMAT_VERSION}\n");
    fs::write_small_atomic(&path, text.as_bytes()).await.map_err(io_at(&path))
}

/// Returns the format that was found.
async fn check_format(data_dir: &Path) -> Result<u32, NodeDirError> {
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
        write_format(data_dir).await?;
        return Ok(FORMAT_VERSION);
    }
    let bytes = fs::read_small(&path).await.map_err(io_at(&path))?;
    match format_version(&bytes) {
        Some(found) if found > FORMAT_VERSION => {
            Err(NodeDirError::NewerFormat { path: data_dir.to_owned(), found })
        }
        Some(found) => Ok(found),
        None => Err(NodeDirError::NotOurs { path, reason: "no version in it".to_owned() }),
    }
}

/// The journals of the layout; none in a new directory.
async fn read_layout(data_dir: &Path) -> Result<Layout, NodeDirError> {
    let path = data_dir.join(LAYOUT_FILE);
    if !fs::exists(&path).await.map_err(io_at(&path))? {
        check_all_are_listed(data_dir, &[]).await?;
        return Ok(Layout::default());
    }
    let bytes = fs::read_small(&path).await.map_err(io_at(&path))?;
    parse_layout(&bytes).map_err(|reason| NodeDirError::NotOurs { path, reason })
}

/// Without a checked layout there may be journal directories that a first start made, but nothing in
/// them.
async fn check_all_are_listed(data_dir: &Path, listed: &[u64]) -> Result<(), NodeDirError> {
    let journals = data_dir.join("journal");
    for entry in fs::list_dir(&journals).await.map_err(io_at(&journals))? {
        let dir = journals.join(&entry.name);
        let is_listed = entry.name.parse::<u64>().is_ok_and(|id| listed.contains(&id));
        let in_use = entry.is_dir && !fs::list_dir(&dir).await.map_err(io_at(&dir))?.is_empty();
        if in_use && !is_listed {
            let reason = format!(
                "it is missing or not whole, though {} holds a journal: restore it (a line `journal ID` \
                 for each shard, in order), nothing was changed",
                dir.display()
            );
            return Err(NodeDirError::NotOurs { path: data_dir.join(LAYOUT_FILE), reason });
        }
    }
    Ok(())
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> NodeDirError + use<> {
    let path = path.to_owned();
    move |error| NodeDirError::Io { path, error }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_layout_comes_back() {
        for journals in [vec![1], vec![3, 1, 2], vec![u64::MAX - 1]] {
            let text = layout_text(&journals);
            let by_hand = text
                .lines()
                .filter(|line| line.starts_with("journal"))
                .fold(String::new(), |text, line| text + line + "\n");
            for (text, is_checked) in [(&text, true), (&by_hand, false)] {
                let layout = Layout { journals: journals.clone(), is_checked };
                assert_eq!(parse_layout(text.as_bytes()), Ok(layout));
            }
        }
    }

    /// What a layout does not name is removed: one flipped bit made a journal disappear.
    #[test]
    fn no_flipped_bit_and_no_cut_makes_another_layout() {
        let text = layout_text(&[1, 2, 10]);
        let is_taken = |bytes: &[u8]| parse_layout(bytes).is_ok_and(|layout| layout.is_checked);
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_taken(&bytes), "bit {bit}");
        }
        for cut in 0..text.len() {
            assert!(!is_taken(&text.as_bytes()[..cut]), "cut at {cut}");
        }
    }

    #[test]
    fn a_layout_names_each_journal_once_and_leaves_room_for_the_next() {
        for journals in [&[][..], &[1, 1], &[u64::MAX]] {
            assert!(parse_layout(layout_text(journals).as_bytes()).is_err(), "{journals:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_layout_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_layout(&bytes);
            let mut named = b"journal 1\n".to_vec();
            named.extend(bytes);
            let _ = parse_layout(&named);
        }

        #[test]
        fn any_bytes_are_a_format_or_not_ours(bytes in prop::collection::vec(any::<u8>(), 0..40), version: u32) {
            let _ = format_version(&bytes);
            let named = [format!("corelog {version}").as_bytes(), &bytes].concat();
            let _ = format_version(&named);
            prop_assert_eq!(format_version(format!("corelog {version}\n").as_bytes()), Some(version));
        }
    }
}
