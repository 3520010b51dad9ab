//! Files on glommio: reads and writes through io_uring, directory operations on the executor's
//! blocking thread.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use glommio::GlommioError;
use glommio::io::{DmaFile, OpenOptions};

use super::Shard;
use super::probe::Probe;
use crate::buf::ReadBuf;
use crate::fs::{AlignedBuf, BLOCK_BYTES, DirEntry, OpenMode, Space};
use crate::oneshot::Slot;

/// Permissions of new files, before the umask.
const FILE_MODE: u32 = 0o640;

/// An open file.
#[derive(Clone)]
pub(crate) struct File {
    file: Rc<DmaFile>,
    /// The same one, opened such that its writes are synced.
    durable: Option<Rc<DmaFile>>,
    dir: Rc<Path>,
    shard: Rc<Shard>,
}

/// The operating system's error without glommio's wrapping, which loses the error number.
pub(super) fn plain<T>(error: GlommioError<T>) -> io::Error {
    match error {
        GlommioError::IoError(source) | GlommioError::EnhancedIoError { source, .. } => source,
        other => other.into(),
    }
}

impl File {
    pub(crate) async fn create(shard: &Rc<Shard>, path: &Path, mode: OpenMode) -> io::Result<Self> {
        learn_device(shard, path).await?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(FILE_MODE);
        Self::opened(shard, path, mode, &options).await
    }

    async fn opened(
        shard: &Rc<Shard>,
        path: &Path,
        mode: OpenMode,
        options: &OpenOptions,
    ) -> io::Result<Self> {
        let file = Rc::new(options.dma_open(path).await.map_err(plain)?);
        let durable = if mode == OpenMode::Durable {
            let mut options = OpenOptions::new();
            options.write(true).custom_flags(nix::libc::O_DSYNC);
            Some(Rc::new(options.dma_open(path).await.map_err(plain)?))
        } else {
            None
        };
        Ok(Self { file, durable, dir: dir_of(path).into(), shard: Rc::clone(shard) })
    }

    pub(crate) async fn open(shard: &Rc<Shard>, path: &Path, mode: OpenMode) -> io::Result<Self> {
        match learn_device(shard, path).await {
            // Where nothing can be written, nothing empty will be read either.
            Err(error) if mode.writes() => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut options = OpenOptions::new();
        options.read(true).write(mode.writes());
        Self::opened(shard, path, mode, &options).await
    }

    pub(crate) async fn write_at(&self, buf: AlignedBuf, position: u64) -> io::Result<AlignedBuf> {
        self.write(&self.file, buf, position).await
    }

    pub(crate) async fn write_durably(&self, buf: AlignedBuf, position: u64) -> io::Result<AlignedBuf> {
        let durable = self.durable.as_ref().expect("the file is open for durable writes");
        self.write(durable, buf, position).await
    }

    /// In a task of its own: glommio forgets a write whose future is dropped before the ring was
    /// submitted. The task also keeps the buffer alive.
    async fn write(&self, file: &Rc<DmaFile>, buf: AlignedBuf, position: u64) -> io::Result<AlignedBuf> {
        let done = Slot::new();
        let result = done.clone();
        let (file, shard) = (Rc::clone(file), Rc::clone(&self.shard));
        super::task::spawn_inline(async move {
            let _permit = shard.admit(buf.len()).await;
            result.fill(write_all(&file, buf, position).await);
        });
        done.await
    }

    /// Reads the blocks around the range and copies out of them once.
    pub(crate) async fn read_at(&self, position: u64, len: usize) -> io::Result<Bytes> {
        let _permit = self.shard.admit(len).await;
        let block = BLOCK_BYTES as u64;
        let start = position - position % block;
        let end = position.saturating_add(len as u64).next_multiple_of(block);
        let mut out = ReadBuf::with_capacity(len);
        let mut at = start;
        // One turn, unless the kernel reads short before the end of the file.
        while at < end && out.len() < len {
            let size = usize::try_from(end - at).map_err(|_| io::ErrorKind::InvalidInput)?;
            let read = self.file.read_at_aligned(at, size).await.map_err(plain)?;
            let skip = usize::try_from(position.saturating_sub(at)).unwrap_or(usize::MAX);
            let useful = read.get(skip..).unwrap_or_default();
            out.extend_from_slice(&useful[..useful.len().min(len - out.len())]);
            if read.len() < size && !read.len().is_multiple_of(BLOCK_BYTES) || read.is_empty() {
                break;
            }
            at += read.len() as u64;
        }
        Ok(out.freeze())
    }

    pub(crate) async fn sync_data(&self) -> io::Result<()> {
        self.file.fdatasync().await.map_err(plain)
    }

    pub(crate) async fn sync_behind(&self) -> io::Result<()> {
        super::sync::sync(&self.shard, self.dir.to_path_buf(), Some(Rc::clone(&self.file))).await
    }

    pub(crate) async fn len(&self) -> io::Result<u64> {
        self.file.file_size().await.map_err(plain)
    }

    pub(crate) async fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len).await.map_err(plain)
    }

    pub(crate) async fn close(self) -> io::Result<()> {
        for file in self.durable.into_iter().chain([self.file]) {
            if let Ok(last) = Rc::try_unwrap(file) {
                last.close().await.map_err(plain)?;
            }
        }
        Ok(())
    }
}

/// Lets glommio find out about the device of a file that is to be opened.
///
/// glommio decides, on each thread and once per device, whether I/O there can be polled for, by
/// reading from the first file that it opens there. When that one is empty or its blocks are
/// unwritten, the read never gets to the device and "works"; from then on all I/O is polled for,
/// and fails or takes 4 ms. So the first file that it opens is one with written and synced blocks.
async fn learn_device(shard: &Shard, path: &Path) -> io::Result<()> {
    let dir = dir_of(path).to_path_buf();
    // A call that blocks, but for a microsecond: the directory is about to be used anyway.
    let device = std::fs::metadata(&dir)?.dev();
    if shard.known_devices.borrow().contains(&device) {
        return Ok(());
    }
    let probe = blocking(move || Probe::write(&dir)).await?;
    let file = DmaFile::open(probe.path()).await.map_err(plain)?;
    file.close().await.map_err(plain)?;
    shard.known_devices.borrow_mut().insert(device);
    Ok(())
}

fn dir_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

async fn write_all(file: &DmaFile, buf: AlignedBuf, position: u64) -> io::Result<AlignedBuf> {
    let mut written = file.write_rc_at(buf.share(), position).await.map_err(plain)?;
    // Short writes happen when the disk fills up: the next one then tells why.
    while written < buf.len() {
        if written == 0 || !written.is_multiple_of(BLOCK_BYTES) {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let rest = AlignedBuf::padded(&buf[written..]);
        let more = file.write_rc_at(rest.share(), position + written as u64).await;
        match more.map_err(plain)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            more => written += more,
        }
    }
    Ok(buf.reclaim())
}

pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    glommio::executor().spawn_blocking(call).await
}

pub(crate) async fn create_dir_all(_: &Rc<Shard>, path: PathBuf) -> io::Result<()> {
    blocking(move || std::fs::create_dir_all(path)).await
}

pub(crate) async fn remove_file(_: &Rc<Shard>, path: PathBuf) -> io::Result<()> {
    blocking(move || std::fs::remove_file(path)).await
}

pub(crate) async fn remove_dir(_: &Rc<Shard>, path: PathBuf) -> io::Result<()> {
    blocking(move || std::fs::remove_dir(path)).await
}

pub(crate) async fn remove_dir_all(_: &Rc<Shard>, path: PathBuf) -> io::Result<()> {
    blocking(move || std::fs::remove_dir_all(path)).await
}

pub(crate) async fn rename(_: &Rc<Shard>, from: PathBuf, to: PathBuf) -> io::Result<()> {
    blocking(move || std::fs::rename(from, to)).await
}

pub(crate) async fn sync_dir(shard: &Rc<Shard>, path: PathBuf) -> io::Result<()> {
    super::sync::sync(shard, path, None).await
}

pub(crate) async fn exists(_: &Rc<Shard>, path: PathBuf) -> io::Result<bool> {
    blocking(move || std::fs::exists(path)).await
}

pub(crate) async fn space(_: &Rc<Shard>, path: PathBuf) -> io::Result<Space> {
    blocking(move || {
        let stat = nix::sys::statvfs::statvfs(&path)?;
        let bytes = |fragments: nix::libc::fsblkcnt_t| fragments.saturating_mul(stat.fragment_size());
        Ok(Space { total_bytes: bytes(stat.blocks()), usable_bytes: bytes(stat.blocks_available()) })
    })
    .await
}

pub(crate) async fn list_dir(_: &Rc<Shard>, path: PathBuf) -> io::Result<Vec<DirEntry>> {
    blocking(move || {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let len = if metadata.is_dir() { 0 } else { metadata.len() };
            if let Ok(name) = entry.file_name().into_string()
                && !name.starts_with(Probe::PREFIX)
            {
                entries.push(DirEntry { name, is_dir: metadata.is_dir(), len });
            }
        }
        entries.sort();
        Ok(entries)
    })
    .await
}
