//! A shard's commit log: everything that must survive a crash goes through here first.
//!
//! Owns one directory of journal files. Runs on one shard, and never looks into a payload. Every
//! entry gets an LSN; what was appended together goes to disk as one *commit*, an aligned write,
//! and one `fdatasync` acknowledges everything written before it; a small commit is written and
//! synced in one request. Files are zero-filled ahead of time, and used again once the shard has
//! released what is in them; nothing here decides what is still needed.
//!
//! - [`format`]: the bytes; drawn in `docs/FORMAT.md`
//! - `state.rs`: what is queued, being written, synced, released; no I/O
//! - `driver.rs`: the one task that writes and syncs
//! - `stats.rs`: what is measured meanwhile
//! - `housekeeping.rs`: files made ready, recycled, removed, in the background
//! - `recovery.rs`, `scan.rs`: replay
//! - [`dump`]: readers for offline tools

mod driver;
pub mod dump;
pub mod format;
mod housekeeping;
mod recovery;
mod scan;
mod signal;
mod start;
mod state;
mod stats;

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelog_runtime::fs::{AlignedBuf, File};

pub use self::format::{Entry, EntryKind};
use self::signal::Signal;
use self::state::State;
pub use self::stats::JournalStats;
use crate::planted::{Planted, PlantedBug};
use crate::types::{Lsn, TopicPartition};

/// How a journal is laid out and how it behaves.
#[derive(Debug, Clone)]
pub struct JournalOptions {
    /// Its directory; created if missing, in a parent that is itself durable. Nothing else is in
    /// it.
    pub dir: PathBuf,
    /// Written to every file: another journal's file is refused.
    pub journal_id: u64,
    /// Length of a file.
    pub file_bytes: u64,
    /// Length of the first file of a run, so that an empty node starts at once.
    pub first_file_bytes: u64,
    /// Files that may hold entries before produces are pushed back. One more is kept as a reserve
    /// for what frees them.
    pub max_files: usize,
    /// Largest write; an entry that is larger makes a commit of its own.
    pub max_commit_bytes: usize,
    /// Writes under way at the same time.
    pub writes_in_flight: usize,
    /// Written data is synced after this time even if nobody asked for it.
    pub flush_interval: Duration,
    /// For the crash test.
    pub planted: PlantedBug,
}

impl JournalOptions {
    /// The defaults, for a journal in `dir`.
    pub fn new(dir: PathBuf, journal_id: u64) -> Self {
        Self {
            dir,
            journal_id,
            file_bytes: 64 << 20,
            first_file_bytes: 16 << 20,
            max_files: 4,
            max_commit_bytes: 1 << 20,
            writes_in_flight: 4,
            flush_interval: Duration::from_millis(100),
            planted: PlantedBug::NONE,
        }
    }
}

/// How far the journal is. Both ends are exclusive, and only ever grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Entries below survive the death of the process.
    pub written: Lsn,
    /// Entries below survive the loss of power.
    pub synced: Lsn,
}

/// Why produces should be refused for now, with a retriable error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalFull {
    /// The disk is full, and what is left of the journal is for what frees space.
    Disk,
    /// As many files are in use as may be: the oldest has to be released.
    Files,
}

/// Why a journal does not open, or takes nothing any more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// The disk answered with an error. Never retried: what a failed sync was for may be gone.
    #[error("journal: cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A newer version of this program wrote the file.
    #[error("journal file {} has format version {version}: a newer corelog wrote it", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The file belongs to another journal.
    #[error("journal file {} belongs to journal {found:#x}, not {expected:#x}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The id in it.
        found: u64,
        /// The id expected.
        expected: u64,
    },
    /// Entries could not be written before the close, since the disk is full.
    #[error("journal: the disk is full, and {entries} entries were not written before the close")]
    ClosedFull {
        /// How many.
        entries: usize,
    },
    /// The journal was closed.
    #[error("journal: closed")]
    Closed,
}

/// What a replay found.
#[derive(Debug, Clone, Default)]
pub struct ReplayReport {
    /// LSN of the first entry to be appended.
    pub next_lsn: Lsn,
    /// Commits replayed.
    pub commits: u64,
    /// Entries replayed.
    pub entries: u64,
    /// Their payloads' bytes.
    pub bytes: u64,
    /// The newest run ended in the middle of a write; nothing acknowledged is missing.
    pub torn_at: Option<TornTail>,
    /// Entries that had been acknowledged cannot be read.
    pub corruption: Option<Corruption>,
}

/// Where an unfinished write was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// LSN behind the last entry that counts.
    pub at_lsn: Lsn,
    /// The file.
    pub path: PathBuf,
    /// Position in it.
    pub position_bytes: u64,
}

/// Acknowledged entries that are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corruption {
    /// What was found, for a human.
    pub message: String,
    /// LSN of the first lost entry.
    pub at_lsn: Lsn,
    /// Partitions that lost entries, or may have; `None` if that cannot be told: all.
    pub partitions: Option<Vec<TopicPartition>>,
}

/// A shard's journal. Cheap to clone; all clones are the same journal.
#[derive(Clone)]
pub struct Journal {
    inner: Rc<Inner>,
}

struct Inner {
    options: JournalOptions,
    state: RefCell<State>,
    meter: stats::Meter,
    /// Work for the driver.
    work: Signal,
    /// Progress was made, or the journal fenced itself.
    progress: Signal,
    /// Queued bytes became fewer.
    drained: Signal,
    /// Files were filled, released or made ready.
    files: Signal,
}

impl Journal {
    /// Replays what is in the directory into `sink`, in the order of LSNs, syncs it, and starts a
    /// new run in a new file.
    ///
    /// # Errors
    /// I/O errors, and files of another journal or a newer format. A corruption is not an error:
    /// the report tells it.
    ///
    /// # Panics
    /// When the options are not usable (lengths that are no multiple of a block, or too small).
    pub async fn open(
        options: JournalOptions,
        sink: impl FnMut(Lsn, Entry),
    ) -> Result<(Self, ReplayReport), JournalError> {
        let (inner, report) = start::open(options, sink).await?;
        driver::spawn(Rc::clone(&inner));
        Ok((Self { inner }, report))
    }

    /// Queues an entry. It is written soon, together with what is appended meanwhile.
    ///
    /// After the journal fenced itself the answer is an LSN that is never reached.
    ///
    /// # Panics
    /// When the payload is longer than [`Journal::max_entry_bytes`]: the caller refuses it before.
    pub fn append(&self, entry: Entry) -> Lsn {
        assert!(
            entry.payload.len() <= self.max_entry_bytes(),
            "a journal entry of {} bytes does not fit a file",
            entry.payload.len()
        );
        let lsn = self.inner.state.borrow_mut().append(entry);
        self.inner.work.wake();
        lsn
    }

    /// The newest entry that was appended to this run, if any was.
    pub fn last_appended(&self) -> Option<Lsn> {
        self.inner.state.borrow().last_appended()
    }

    /// Size of a file.
    pub fn file_bytes(&self) -> u64 {
        self.inner.options.file_bytes
    }

    /// Longest payload that fits.
    pub fn max_entry_bytes(&self) -> usize {
        state::max_entry_bytes(&self.inner.options)
    }

    /// How far writes and syncs are.
    pub fn progress(&self) -> Progress {
        self.inner.state.borrow().progress
    }

    /// Waits until there is progress beyond `seen`.
    ///
    /// # Errors
    /// When the journal fenced itself or was closed, and `seen` is all there will be.
    pub async fn changed(&self, seen: Progress) -> Result<Progress, JournalError> {
        let inner = &self.inner;
        inner
            .progress
            .until(|| {
                let state = inner.state.borrow();
                if state.progress != seen { Some(Ok(state.progress)) } else { state.failure().map(Err) }
            })
            .await
    }

    /// Waits until the entry at `lsn` is synced, and asks for that sync.
    ///
    /// # Errors
    /// When the journal fenced itself or was closed before.
    pub async fn wait_synced(&self, lsn: Lsn) -> Result<(), JournalError> {
        self.request_sync(lsn);
        let inner = &self.inner;
        inner
            .progress
            .until(|| {
                let state = inner.state.borrow();
                if state.progress.synced > lsn { Some(Ok(())) } else { state.failure().map(Err) }
            })
            .await
    }

    /// Asks for the entry at `lsn` to be synced as soon as it is written. Without such a request
    /// written entries are synced within the flush interval.
    pub fn request_sync(&self, lsn: Lsn) {
        let news = self.inner.state.borrow_mut().request_sync(lsn);
        if news {
            self.inner.work.wake();
        }
    }

    /// Bytes appended and not yet written.
    pub fn queued_bytes(&self) -> usize {
        self.inner.state.borrow().queued_bytes()
    }

    /// Waits until fewer than `bytes` are queued; for ever if the journal fenced itself.
    pub async fn drained_below(&self, bytes: usize) {
        let inner = &self.inner;
        inner.drained.until(|| (inner.state.borrow().queued_bytes() < bytes).then_some(())).await;
    }

    /// LSNs in the oldest file that still counts; `None` if that is the one being written to.
    pub fn oldest_live(&self) -> Option<Range<Lsn>> {
        self.inner.state.borrow().oldest_live()
    }

    /// Files that still count, with the one being written to.
    pub fn files_live(&self) -> usize {
        self.inner.state.borrow().live.len()
    }

    /// Bytes of the files that still count, as far as they were written.
    pub fn live_bytes(&self) -> u64 {
        self.inner.state.borrow().live_bytes()
    }

    /// Bytes that fit before produces are pushed back.
    pub fn capacity_bytes(&self) -> u64 {
        let options = &self.inner.options;
        options.file_bytes.saturating_mul(options.max_files as u64)
    }

    /// Waits until the oldest file should be released: files are running out, or there are files
    /// of an earlier run while nothing else is to do. Resolves at once as long as that is so.
    pub async fn pressure(&self) {
        let inner = &self.inner;
        inner.files.until(|| inner.state.borrow().is_pressed().then_some(())).await;
    }

    /// Entries below `below` are no longer needed: whatever replaces them is synced. Files wholly
    /// below are used again or removed.
    pub fn release(&self, below: Lsn) {
        self.inner.state.borrow_mut().release(below);
        self.inner.work.wake();
        self.inner.files.wake();
    }

    /// Whether produces should be refused for now. Internal entries still fit then.
    pub fn full(&self) -> Option<JournalFull> {
        self.inner.state.borrow().full()
    }

    /// Why the journal acknowledges nothing any more.
    pub fn fenced(&self) -> Option<JournalError> {
        self.inner.state.borrow().fenced.clone()
    }

    /// Writes and syncs everything, and stops.
    ///
    /// # Errors
    /// When the journal fenced itself, or the disk is too full for what is queued.
    pub async fn close(self) -> Result<(), JournalError> {
        self.inner.state.borrow_mut().closing = true;
        self.inner.work.wake();
        self.inner.files.wake();
        let inner = &self.inner;
        inner
            .progress
            .until(|| {
                let state = inner.state.borrow();
                let stopped = state.stopped && !state.housekeeping;
                stopped.then(|| state.fenced.clone().map_or(Ok(()), Err))
            })
            .await
    }
}

impl Inner {
    /// Nothing is acknowledged from here on.
    fn fence(&self, error: JournalError) {
        {
            let mut state = self.state.borrow_mut();
            if state.fenced.is_some() {
                return;
            }
            tracing::error!(dir = %self.options.dir.display(), %error, "journal fenced: nothing is acknowledged any more");
            state.fenced = Some(error);
        }
        self.work.wake();
        self.progress.wake();
        self.files.wake();
    }
}

/// Makes an I/O error ours.
fn io_error(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> JournalError + use<> {
    let path = path.to_path_buf();
    move |source| JournalError::Io { operation, path: path.clone(), source: Arc::new(source) }
}

/// The one place where a write of the journal is its own sync.
async fn write_durably(
    file: &File,
    buf: AlignedBuf,
    position_bytes: u64,
    planted: PlantedBug,
) -> io::Result<AlignedBuf> {
    if planted.has(Planted::NoSync) {
        return file.write_at(buf, position_bytes).await;
    }
    file.write_durably(buf, position_bytes).await
}

/// The one place where journal files are synced.
async fn sync_file(file: &File, planted: PlantedBug) -> io::Result<()> {
    if planted.has(Planted::NoSync) {
        return Ok(());
    }
    file.sync_data().await
}
