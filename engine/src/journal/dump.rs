//! Reading a journal's files for a human or a check, without changing anything and without a
//! running journal: the same decoders, but nothing is followed or judged beyond one file.

use std::io;
use std::path::Path;

use super::format::{CommitHeader, EntryHeader, EntryIter, FileHeader, FormatError, check_commit_body};
use super::scan::{FIRST_COMMIT_BYTES, Window, list_files};
use corelog_runtime::fs::BLOCK_BYTES;
use corelog_runtime::task;

/// Something found in a journal file.
#[derive(Debug)]
pub enum Item<'a> {
    /// The file itself and its header.
    File {
        /// Where it is.
        path: &'a Path,
        /// Its length.
        len_bytes: u64,
        /// Its header, or what is wrong with it; `Blank` for a file that was never used.
        header: Result<FileHeader, FormatError>,
    },
    /// A commit with an intact header.
    Commit {
        /// Its header, with its position.
        header: CommitHeader,
        /// Whether it belongs to an earlier use of the file, and so does not count.
        stale: bool,
        /// Whether it continues the commit before it in this file; `None` for the file's first.
        continues: Option<bool>,
        /// What is wrong with its entries, if anything.
        body: Result<(), FormatError>,
    },
    /// An entry of the commit before.
    Entry {
        /// Position of the entry in the file.
        position_bytes: u64,
        /// Its header.
        header: EntryHeader,
        /// The payload.
        payload: &'a [u8],
        /// Whether the payload is what was appended.
        intact: bool,
    },
    /// The commit's remaining entries cannot be told apart.
    BadEntry {
        /// What is wrong.
        error: FormatError,
    },
    /// A block that starts like a commit but is none.
    BadCommit {
        /// Position of the block in the file.
        position_bytes: u64,
        /// What is wrong.
        error: FormatError,
    },
}

/// Which items are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detail {
    /// The entries of each commit.
    pub entries: bool,
    /// Commits of earlier uses of a file.
    pub stale: bool,
}

/// Hands everything in the journal's directory to `visit`, file by file in the order of
/// generations, each from its beginning.
///
/// # Errors
/// I/O errors. What is wrong in a file is an item.
pub async fn read_dir(dir: &Path, detail: Detail, mut visit: impl FnMut(Item<'_>)) -> io::Result<()> {
    let mut files = list_files(dir).await?;
    files.sort_by_key(|file| (file.generation(), file.index));
    for file in files {
        read_file(&file.path, detail, &mut visit).await?;
    }
    Ok(())
}

/// Hands everything in one journal file to `visit`.
///
/// # Errors
/// I/O errors. What is wrong in the file is an item.
pub async fn read_file(path: &Path, detail: Detail, visit: &mut impl FnMut(Item<'_>)) -> io::Result<()> {
    let mut window = Window::open(path).await?;
    let header = FileHeader::decode(&window.get(0, BLOCK_BYTES).await?);
    visit(Item::File { path, len_bytes: window.len(), header });
    let mut position = FIRST_COMMIT_BYTES;
    let mut before: Option<CommitHeader> = None;
    while position < window.len() {
        let block = window.get(position, BLOCK_BYTES).await?;
        let here = position;
        position += BLOCK_BYTES as u64;
        if !CommitHeader::may_start(&block) {
            continue;
        }
        let commit = match CommitHeader::decode(&block) {
            Ok(commit) if commit.position_bytes == here && window.contains(&commit) => commit,
            Ok(_) => {
                visit(Item::BadCommit { position_bytes: here, error: FormatError::Length });
                continue;
            }
            Err(error) => {
                visit(Item::BadCommit { position_bytes: here, error });
                continue;
            }
        };
        let stale =
            header.is_ok_and(|file| (file.generation, file.run.run) != (commit.generation, commit.run));
        // The blocks of a stale commit may be partly overwritten: look at each.
        if !stale {
            position = commit.end_position_bytes();
        }
        if !stale || detail.stale {
            let bytes = window.commit(&commit).await?;
            let continues = before.map(|before| {
                before.sequence.checked_add(1) == Some(commit.sequence) && before.crc == commit.predecessor
            });
            let body = check_commit_body(&commit, &bytes);
            visit(Item::Commit { header: commit, stale, continues, body });
            if detail.entries {
                visit_entries(&commit, &bytes, visit);
            }
        }
        if !stale {
            before = Some(commit);
        }
        task::yield_if_needed().await;
    }
    window.close().await
}

fn visit_entries(commit: &CommitHeader, bytes: &[u8], visit: &mut impl FnMut(Item<'_>)) {
    let mut position_bytes = commit.position_bytes + super::format::COMMIT_HEADER_BYTES as u64;
    for entry in EntryIter::new(commit, bytes) {
        match entry {
            Ok(entry) => {
                visit(Item::Entry {
                    position_bytes,
                    header: entry.header,
                    payload: entry.payload,
                    intact: entry.content_ok(),
                });
                position_bytes += super::format::entry_bytes(entry.payload.len()) as u64;
            }
            Err(error) => visit(Item::BadEntry { error }),
        }
    }
}
