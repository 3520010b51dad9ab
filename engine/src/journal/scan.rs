//! Reading journal files: which commits are in a file, and following their chain. Runs on the
//! journal's shard, or offline; never writes.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use corelog_runtime::fs::{self, BLOCK_BYTES, File, OpenMode};
use corelog_runtime::task;

use super::format::{CommitHeader, FileHeader, FormatError, RunEnd, RunHeader, check_commit_body};
use crate::planted::{Planted, PlantedBug};
use crate::types::Lsn;

/// Position of a file's first commit.
pub(crate) const FIRST_COMMIT_BYTES: u64 = BLOCK_BYTES as u64;

/// Bytes read at a time: large enough for sequential speed.
const WINDOW_BYTES: usize = 1 << 20;

const FILE_SUFFIX: &str = ".journal";

/// The name of the journal file with this index. Names say nothing about content.
pub(crate) fn file_name(index: u64) -> String {
    format!("{index:08}{FILE_SUFFIX}")
}

/// The index in a journal file's name; `None` for files that are not of a journal.
pub(crate) fn file_index(name: &str) -> Option<u64> {
    name.strip_suffix(FILE_SUFFIX)?.parse().ok()
}

/// A file of the journal's directory.
#[derive(Debug)]
pub(crate) struct FoundFile {
    pub(crate) path: PathBuf,
    pub(crate) index: u64,
    pub(crate) len: u64,
    pub(crate) header: Result<FileHeader, FormatError>,
    /// Headers of the commits in it, by position; empty until [`index_commits`].
    pub(crate) commits: Vec<CommitHeader>,
}

impl FoundFile {
    pub(crate) fn generation(&self) -> Option<u64> {
        self.header.as_ref().ok().map(|header| header.generation)
    }
}

/// The journal files in `dir` with their headers, by name.
pub(crate) async fn list_files(dir: &Path) -> io::Result<Vec<FoundFile>> {
    let mut found = Vec::new();
    for entry in fs::list_dir(dir).await? {
        let Some(index) = file_index(&entry.name).filter(|_| !entry.is_dir) else {
            continue;
        };
        let path = dir.join(&entry.name);
        let file = File::open(&path, OpenMode::Read).await?;
        let block = file.read_at(0, BLOCK_BYTES).await?;
        file.close().await?;
        found.push(FoundFile {
            path,
            index,
            len: entry.len,
            header: FileHeader::decode(&block),
            commits: Vec::new(),
        });
    }
    Ok(found)
}

/// Sequential reads of a file through a buffer.
pub(crate) struct Window {
    file: File,
    len: u64,
    start: u64,
    bytes: Bytes,
}

impl Window {
    pub(crate) async fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path, OpenMode::Read).await?;
        let len = file.len().await?;
        Ok(Self { file, len, start: 0, bytes: Bytes::new() })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// `len` bytes at `position`; shorter only at the end of the file.
    pub(crate) async fn get(&mut self, position: u64, len: usize) -> io::Result<Bytes> {
        let wanted = len.min(usize::try_from(self.len.saturating_sub(position)).unwrap_or(len));
        if let Some(bytes) = self.buffered(position, wanted) {
            return Ok(bytes);
        }
        self.bytes = self.file.read_at(position, wanted.max(WINDOW_BYTES)).await?;
        self.start = position;
        let available = wanted.min(self.bytes.len());
        Ok(self.bytes.slice(..available))
    }

    fn buffered(&self, position: u64, len: usize) -> Option<Bytes> {
        let from = usize::try_from(position.checked_sub(self.start)?).ok()?;
        let to = from.checked_add(len)?;
        (to <= self.bytes.len()).then(|| self.bytes.slice(from..to))
    }

    /// The commit header at `position`.
    pub(crate) async fn commit_header(
        &mut self,
        position: u64,
    ) -> io::Result<Result<CommitHeader, FormatError>> {
        let block = self.get(position, BLOCK_BYTES).await?;
        Ok(CommitHeader::decode(&block))
    }

    /// The whole commit, which must be inside of the file.
    pub(crate) async fn commit(&mut self, header: &CommitHeader) -> io::Result<Bytes> {
        let len = usize::try_from(header.total_bytes()).unwrap_or(usize::MAX);
        self.get(header.position_bytes, len).await
    }

    pub(crate) fn contains(&self, header: &CommitHeader) -> bool {
        header.end_position_bytes() <= self.len
    }

    pub(crate) async fn close(self) -> io::Result<()> {
        self.file.close().await
    }
}

/// Every intact commit header in the file, also behind a hole: of this use of the file if its own
/// header is known, of any use otherwise.
pub(crate) async fn index_commits(found: &FoundFile) -> io::Result<Vec<CommitHeader>> {
    let mut window = Window::open(&found.path).await?;
    let mut commits = Vec::new();
    let mut position = FIRST_COMMIT_BYTES;
    while position < window.len() {
        let block = window.get(position, BLOCK_BYTES).await?;
        let commit = CommitHeader::may_start(&block)
            .then(|| CommitHeader::decode(&block).ok())
            .flatten()
            .filter(|commit| commit.position_bytes == position && window.contains(commit))
            .filter(|commit| found.header.as_ref().map_or(true, |file| is_of_use(commit, file)));
        position += BLOCK_BYTES as u64;
        if let Some(commit) = commit {
            position = commit.end_position_bytes();
            commits.push(commit);
            if commit.closed && found.header.is_ok() {
                break;
            }
        }
        task::yield_if_needed().await;
    }
    window.close().await?;
    Ok(commits)
}

/// Whether the first commit of this use of the file has an intact header.
pub(crate) async fn begins_with_commit(found: &FoundFile) -> io::Result<bool> {
    let Ok(header) = &found.header else {
        return Ok(false);
    };
    let file = File::open(&found.path, OpenMode::Read).await?;
    let block = file.read_at(FIRST_COMMIT_BYTES, BLOCK_BYTES).await?;
    file.close().await?;
    Ok(CommitHeader::decode(&block).is_ok_and(|commit| is_of_use(&commit, header)))
}

fn is_of_use(commit: &CommitHeader, file: &FileHeader) -> bool {
    commit.generation == file.generation && commit.run == file.run.run
}

/// What the next commit of a run must say about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) sequence: u64,
    pub(crate) lsn: Lsn,
    pub(crate) predecessor: u32,
}

impl Link {
    /// What the first commit of a run says.
    pub(crate) fn of_run(run: &RunHeader) -> Self {
        let previous = run.previous.unwrap_or_default();
        Self { sequence: previous.sequence, lsn: run.first_lsn, predecessor: previous.crc }
    }

    pub(crate) fn after(commit: &CommitHeader) -> Self {
        Self { sequence: commit.sequence.saturating_add(1), lsn: commit.end_lsn(), predecessor: commit.crc }
    }

    /// Where a run ends if nothing follows at `position` of `file`.
    pub(crate) fn end_at(&self, file: &FileHeader, position_bytes: u64) -> RunEnd {
        RunEnd {
            run: file.run.run,
            generation: file.generation,
            position_bytes,
            lsn: self.lsn,
            sequence: self.sequence,
            crc: self.predecessor,
        }
    }

    /// Whether `commit`, found at `position` of `file`, is the next one of the run.
    fn leads_to(&self, commit: &CommitHeader, file: &FileHeader, position: u64, planted: PlantedBug) -> bool {
        if planted.has(Planted::GenerationIgnored) {
            return commit.position_bytes == position;
        }
        // A file reused behind a torn commit would be harmless if the chain were checked.
        let chained = commit.predecessor == self.predecessor || planted.has(Planted::TailReused);
        is_of_use(commit, file)
            && commit.position_bytes == position
            && commit.sequence == self.sequence
            && commit.first_lsn == self.lsn
            && chained
    }
}

/// Why following the chain in a file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The position that the caller asked for was reached.
    AtEnd,
    /// Nothing of this use of the file is there.
    Nothing,
    /// There is a part of a commit, or one that does not continue the chain.
    Broken,
}

/// Following the chain of commits through one file.
pub(crate) struct Walk<'a> {
    pub(crate) file: &'a FileHeader,
    pub(crate) window: Window,
    pub(crate) position: u64,
    /// `None`: any commit may be the first (what preceded it was released).
    pub(crate) link: Option<Link>,
    pub(crate) end_bytes: Option<u64>,
    pub(crate) planted: PlantedBug,
}

impl Walk<'_> {
    /// The next commit of the chain with its bytes, all checked.
    pub(crate) async fn next(&mut self) -> io::Result<Result<(CommitHeader, Bytes), Stop>> {
        if self.end_bytes == Some(self.position) {
            return Ok(Err(Stop::AtEnd));
        }
        let commit = match self.window.commit_header(self.position).await? {
            Ok(commit) => commit,
            Err(FormatError::HeaderCrc | FormatError::Version(_)) => return Ok(Err(Stop::Broken)),
            Err(_) => return Ok(Err(Stop::Nothing)),
        };
        let link = self.link.unwrap_or(Link {
            sequence: commit.sequence,
            lsn: commit.first_lsn,
            predecessor: commit.predecessor,
        });
        if !link.leads_to(&commit, self.file, self.position, self.planted) {
            let ours = is_of_use(&commit, self.file);
            return Ok(Err(if ours { Stop::Broken } else { Stop::Nothing }));
        }
        let within = self.end_bytes.is_none_or(|end| commit.end_position_bytes() <= end);
        if !within || !self.window.contains(&commit) {
            return Ok(Err(Stop::Broken));
        }
        let bytes = self.window.commit(&commit).await?;
        if check_commit_body(&commit, &bytes).is_err() {
            return Ok(Err(Stop::Broken));
        }
        self.link = Some(Link::after(&commit));
        self.position = commit.end_position_bytes();
        task::yield_if_needed().await;
        Ok(Ok((commit, bytes)))
    }
}
