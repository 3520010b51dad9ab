//! Files with direct I/O, and directories.
//!
//! What survives what: a completed write survives the death of the process; it survives the death
//! of the power after a [`File::sync_data`] that was *called* after the write completed. A directory
//! operation survives a power loss after [`sync_dir`] of the parent. Writes in flight at the same
//! time complete, and reach the disk, in any order.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

pub use crate::buf::AlignedBuf;
use crate::ctx::{Current, current, current_or_none};
use crate::error::StartError;
use crate::task::{Class, spawn_join, yield_now};
use crate::{real, sim, time};

/// Alignment of every direct write: position and length.
pub const BLOCK_BYTES: usize = 4096;

/// Largest single write of [`File::zero_fill`]: long enough to be sequential, short enough that a
/// journal write behind it on the device waits well under a millisecond.
const ZERO_FILL_WRITE_BYTES: usize = 1 << 20;

/// Zero-filling is idle for as many parts of the time that a write took.
const ZERO_FILL_PAUSE_PARTS: u32 = 1;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// For reads only.
    Read,
    /// For reads and writes.
    ReadWrite,
    /// For [`File::write_durably`] as well, which takes another file descriptor.
    Durable,
}

impl OpenMode {
    /// Whether there will be writes.
    pub(crate) fn writes(self) -> bool {
        self != Self::Read
    }
}

/// An entry of a directory, see [`list_dir`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// File name without the directory.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Length in bytes, 0 for a directory.
    pub len: u64,
}

/// A file opened for direct I/O. Cloning is cheap, and all clones are the same open file.
#[derive(Clone)]
pub struct File(Kind);

#[derive(Clone)]
enum Kind {
    Real(real::fs::File),
    Sim(sim::SimFile),
}

impl File {
    /// Creates a file for reading and writing; it must not exist. It survives a power loss only
    /// after [`sync_dir`] of its directory.
    ///
    /// # Errors
    /// `AlreadyExists`, or whatever the operating system says.
    pub async fn create(path: &Path) -> io::Result<Self> {
        Self::create_for(path, OpenMode::ReadWrite).await
    }

    /// As [`create`](Self::create), opened in `mode`.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub async fn create_for(path: &Path, mode: OpenMode) -> io::Result<Self> {
        match current() {
            Current::Real(shard) => Ok(Self(Kind::Real(real::fs::File::create(&shard, path, mode).await?))),
            Current::Sim(place) => Ok(Self(Kind::Sim(place.create_file(path, mode).await?))),
        }
    }

    /// Opens an existing file.
    ///
    /// # Errors
    /// `NotFound`, or whatever the operating system says.
    pub async fn open(path: &Path, mode: OpenMode) -> io::Result<Self> {
        match current() {
            Current::Real(shard) => Ok(Self(Kind::Real(real::fs::File::open(&shard, path, mode).await?))),
            Current::Sim(place) => Ok(Self(Kind::Sim(place.open_file(path, mode).await?))),
        }
    }

    /// Writes the whole buffer, and gives it back (its content is unspecified then).
    ///
    /// Once this future was polled, the write happens even if the future is dropped.
    ///
    /// # Errors
    /// I/O errors and a full disk; some of the bytes may have been written then.
    ///
    /// # Panics
    /// When `position_bytes` is not a multiple of [`BLOCK_BYTES`].
    pub async fn write_at(&self, buf: AlignedBuf, position_bytes: u64) -> io::Result<AlignedBuf> {
        check_position(position_bytes);
        match &self.0 {
            Kind::Real(file) => file.write_at(buf, position_bytes).await,
            Kind::Sim(file) => file.write_at(buf, position_bytes).await,
        }
    }

    /// As [`write_at`](Self::write_at), and what it wrote survives a power loss when it is complete:
    /// a write and its sync in one request. It vouches for no other write. For blocks that have been
    /// written before; others make each of these writes commit the file system's journal.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at) and [`sync_data`](Self::sync_data), and never to be repeated.
    ///
    /// # Panics
    /// As [`write_at`](Self::write_at), and when the file is not open in [`OpenMode::Durable`].
    pub async fn write_durably(&self, buf: AlignedBuf, position_bytes: u64) -> io::Result<AlignedBuf> {
        check_position(position_bytes);
        match &self.0 {
            Kind::Real(file) => file.write_durably(buf, position_bytes).await,
            Kind::Sim(file) => file.write_durably(buf, position_bytes).await,
        }
    }

    /// Reads `len` bytes at any alignment; shorter only at the end of the file.
    ///
    /// # Errors
    /// I/O errors.
    pub async fn read_at(&self, position_bytes: u64, len: usize) -> io::Result<Bytes> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        match &self.0 {
            Kind::Real(file) => file.read_at(position_bytes, len).await,
            Kind::Sim(file) => file.read_at(position_bytes, len).await,
        }
    }

    /// `fdatasync`: everything whose write completed before this call survives a power loss, and
    /// so does the length of the file.
    ///
    /// # Errors
    /// I/O errors. A failed sync must not be repeated: the data it was for may be gone, while the
    /// next sync reports success.
    pub async fn sync_data(&self) -> io::Result<()> {
        match &self.0 {
            Kind::Real(file) => file.sync_data().await,
            Kind::Sim(file) => file.sync_data().await,
        }
    }

    /// As [`sync_data`](Self::sync_data), for what is written behind: it may wait for syncs of other
    /// files and be made together with them, which takes far less than each alone and a little
    /// longer for the first.
    ///
    /// # Errors
    /// As [`sync_data`](Self::sync_data).
    pub async fn sync_behind(&self) -> io::Result<()> {
        match &self.0 {
            Kind::Real(file) => file.sync_behind().await,
            Kind::Sim(file) => file.sync_data().await,
        }
    }

    /// The file's length in bytes.
    ///
    /// # Errors
    /// I/O errors.
    pub async fn len(&self) -> io::Result<u64> {
        match &self.0 {
            Kind::Real(file) => file.len().await,
            Kind::Sim(file) => file.len().await,
        }
    }

    /// Whether the file is empty.
    ///
    /// # Errors
    /// I/O errors.
    pub async fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len().await? == 0)
    }

    /// Sets the length. What is cut off is gone; what is added reads as zeros.
    ///
    /// # Errors
    /// I/O errors.
    pub async fn truncate(&self, len: u64) -> io::Result<()> {
        match &self.0 {
            Kind::Real(file) => file.truncate(len).await,
            Kind::Sim(file) => file.truncate(len).await,
        }
    }

    /// Writes zeros over `from..to` and syncs, so that later writes there neither allocate nor
    /// change the file's length (each of their syncs would commit the file system's journal).
    /// Real zeros: `fallocate`d extents are "unwritten" and cost the same commit.
    ///
    /// Runs in the background class, paced to half of the time, in writes of at most 1 MiB.
    ///
    /// # Errors
    /// I/O errors and a full disk.
    ///
    /// # Panics
    /// When a bound is not a multiple of [`BLOCK_BYTES`].
    pub async fn zero_fill(&self, from: u64, to: u64) -> io::Result<()> {
        assert!(from.is_multiple_of(BLOCK_BYTES as u64), "zero-filling starts at a block");
        assert!(to.is_multiple_of(BLOCK_BYTES as u64), "zero-filling ends at a block");
        let file = self.clone();
        spawn_join(Class::Background, async move { file.zero_fill_here(from, to).await }).await
    }

    async fn zero_fill_here(&self, from: u64, to: u64) -> io::Result<()> {
        let mut position = from;
        let mut spare: Option<AlignedBuf> = None;
        while position < to {
            let left = usize::try_from(to - position).unwrap_or(usize::MAX);
            let len = left.min(ZERO_FILL_WRITE_BYTES);
            let buf = match spare.take() {
                Some(buf) if buf.len() == len => buf,
                _ => AlignedBuf::zeroed(len),
            };
            let started = time::Instant::now();
            spare = Some(self.write_at(buf, position).await?);
            position += len as u64;
            if position < to {
                time::sleep(started.elapsed() * ZERO_FILL_PAUSE_PARTS).await;
            }
            yield_now().await;
        }
        self.sync_data().await
    }

    /// Closes the file once its last clone is closed or dropped.
    ///
    /// # Errors
    /// I/O errors of the close itself.
    pub async fn close(self) -> io::Result<()> {
        match self.0 {
            Kind::Real(file) => file.close().await,
            Kind::Sim(_) => Ok(()),
        }
    }
}

fn check_position(position_bytes: u64) {
    assert!(
        position_bytes.is_multiple_of(BLOCK_BYTES as u64),
        "a direct write starts at a block, not at {position_bytes}"
    );
}

/// The exclusive use of a data directory, see [`lock_data_dir`].
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct DirLock {
    _lock: Option<real::DirLock>,
}

/// Takes a data directory for this process, and creates it if it is not there. The lock is held
/// until it is dropped or the process ends. May be called before the shards run. In the simulator
/// a disk belongs to one node, and this does nothing.
///
/// # Errors
/// [`StartError::DataDirLocked`] when another process has it, [`StartError::Permission`],
/// [`StartError::DataDir`].
pub fn lock_data_dir(path: impl AsRef<Path>) -> Result<DirLock, StartError> {
    if let Some(Current::Sim(_)) = current_or_none() {
        return Ok(DirLock { _lock: None });
    }
    Ok(DirLock { _lock: Some(real::lock_data_dir(path.as_ref())?) })
}

/// Creates a directory and its missing parents.
///
/// # Errors
/// I/O errors; `NotADirectory` when a file is in the way.
pub async fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref().to_path_buf();
    match current() {
        Current::Real(shard) => real::fs::create_dir_all(&shard, path).await,
        Current::Sim(place) => place.create_dir_all(path).await,
    }
}

/// Removes a file.
///
/// # Errors
/// `NotFound`, I/O errors.
pub async fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref().to_path_buf();
    match current() {
        Current::Real(shard) => real::fs::remove_file(&shard, path).await,
        Current::Sim(place) => place.remove_file(path).await,
    }
}

/// Removes an empty directory.
///
/// # Errors
/// `NotFound`, `DirectoryNotEmpty`, I/O errors.
pub async fn remove_dir(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref().to_path_buf();
    match current() {
        Current::Real(shard) => real::fs::remove_dir(&shard, path).await,
        Current::Sim(place) => place.remove_dir(path).await,
    }
}

/// Removes a directory and everything in it.
///
/// # Errors
/// `NotFound`, I/O errors; some of it may be gone then.
pub async fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref().to_path_buf();
    match current() {
        Current::Real(shard) => real::fs::remove_dir_all(&shard, path).await,
        Current::Sim(place) => place.remove_dir_all(path).await,
    }
}

/// Renames a file or directory, replacing a file at `to`. Atomic, also at a crash.
///
/// # Errors
/// `NotFound`, I/O errors.
pub async fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (from.as_ref().to_path_buf(), to.as_ref().to_path_buf());
    match current() {
        Current::Real(shard) => real::fs::rename(&shard, from, to).await,
        Current::Sim(place) => place.rename(from, to).await,
    }
}

/// Makes the directory's entries durable: what was created, renamed or removed in it.
///
/// # Errors
/// I/O errors.
pub async fn sync_dir(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref().to_path_buf();
    match current() {
        Current::Real(shard) => real::fs::sync_dir(&shard, path).await,
        Current::Sim(place) => place.sync_dir(path).await,
    }
}

/// The directory's entries, sorted by name. A name that is not UTF-8 is none of ours and left out.
///
/// # Errors
/// `NotFound`, I/O errors.
pub async fn list_dir(path: impl AsRef<Path>) -> io::Result<Vec<DirEntry>> {
    let path = path.as_ref().to_path_buf();
    match current() {
        Current::Real(shard) => real::fs::list_dir(&shard, path).await,
        Current::Sim(place) => place.list_dir(path).await,
    }
}

/// Whether there is a file or directory at `path`.
///
/// # Errors
/// I/O errors other than `NotFound`.
pub async fn exists(path: impl AsRef<Path>) -> io::Result<bool> {
    let path = path.as_ref().to_path_buf();
    match current() {
        Current::Real(shard) => real::fs::exists(&shard, path).await,
        Current::Sim(place) => place.exists(path).await,
    }
}

/// How much the file system of a path holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// In all.
    pub total_bytes: u64,
    /// What this process may still take.
    pub usable_bytes: u64,
}

/// How much the file system of `path` holds.
///
/// # Errors
/// `NotFound`, I/O errors.
pub async fn space(path: impl AsRef<Path>) -> io::Result<Space> {
    let path = path.as_ref().to_path_buf();
    match current() {
        Current::Real(shard) => real::fs::space(&shard, path).await,
        Current::Sim(place) => place.space(path).await,
    }
}

/// What [`read_small`] reads at most.
const SMALL_FILE_BYTES_MAX: u64 = 4 << 20;

/// Reads a whole small file.
///
/// # Errors
/// `NotFound`, I/O errors; `FileTooLarge` for one that is not small.
pub async fn read_small(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let file = File::open(path.as_ref(), OpenMode::Read).await?;
    let len = file.len().await?;
    let bytes = match usize::try_from(len) {
        Ok(len) if len as u64 <= SMALL_FILE_BYTES_MAX => file.read_at(0, len).await,
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    };
    file.close().await?;
    Ok(bytes?.to_vec())
}

/// Replaces a small file by `bytes`, durably: a crash leaves the old content or the new one.
/// A file with `.tmp` added to the name is used on the way; two at a time on one path race.
///
/// # Errors
/// I/O errors and a full disk; the old content is then still there, unless the very last sync (of
/// the directory) failed.
pub async fn write_small_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
    let path = path.as_ref();
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = temporary_path(path)?;
    match remove_file(&temporary).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let file = File::create(&temporary).await?;
    if !bytes.is_empty() {
        file.write_at(AlignedBuf::padded(bytes), 0).await?;
        file.truncate(bytes.len() as u64).await?;
    }
    file.sync_data().await?;
    file.close().await?;
    rename(&temporary, path).await?;
    sync_dir(parent).await
}

fn temporary_path(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_os_string();
    name.push(".tmp");
    Ok(path.with_file_name(name))
}
