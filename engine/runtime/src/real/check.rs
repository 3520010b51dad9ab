//! Start-up checks: everything that would otherwise fail later and less clearly.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use glommio::{GlommioError, LocalExecutorBuilder, Placement};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::Pid;

use crate::error::StartError;
use crate::fs::{AlignedBuf, BLOCK_BYTES};

/// glommio does not start an executor below this limit of locked memory.
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;

/// glommio registers an executor's buffers with each of its rings, and each counts.
const RINGS: u64 = 3;

/// glommio's own minimum for an executor's buffers.
const IO_MEMORY_BYTES_MIN: usize = 64 * 1024;

/// The cores that this process may use.
pub(super) fn allowed_cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect())
}

/// The cores to use: those asked for, or all that are allowed.
pub(super) fn check_cores(wanted: Option<&[usize]>) -> Result<Vec<usize>, StartError> {
    let allowed = allowed_cores().map_err(|source| StartError::Thread { shard: 0, source })?;
    let Some(wanted) = wanted else {
        return Ok(allowed);
    };
    let mut sorted = wanted.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    if wanted.is_empty() || sorted.len() != wanted.len() {
        return Err(StartError::BadCoreList { cores: wanted.to_vec() });
    }
    match wanted.iter().find(|core| !allowed.contains(core)) {
        Some(core) => Err(StartError::BadCore { core: *core, allowed }),
        None => Ok(wanted.to_vec()),
    }
}

/// Checks the limit of locked memory, and returns how much of `wanted` each executor may register.
pub(super) fn check_memlock(wanted: usize, shards: usize) -> Result<usize, StartError> {
    let have_bytes = match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((soft, _)) => soft,
        Err(errno) => {
            return Err(StartError::Thread { shard: 0, source: errno.into() });
        }
    };
    if have_bytes < MEMLOCK_BYTES_MIN {
        return Err(StartError::MemlockTooSmall { have_bytes, need_bytes: MEMLOCK_BYTES_MIN });
    }
    // Beyond the limit glommio does without registered buffers; a smaller share is better.
    let share = have_bytes / RINGS / shards as u64;
    Ok(wanted.min(usize::try_from(share).unwrap_or(usize::MAX).max(IO_MEMORY_BYTES_MIN)))
}

/// Checks that io_uring works at all, by making an executor.
pub(super) fn check_io_uring() -> Result<(), StartError> {
    let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(IO_MEMORY_BYTES_MIN);
    builder.make().map(drop).map_err(explain)
}

/// What is wrong when an executor cannot be made.
fn explain(error: GlommioError<()>) -> StartError {
    let errno = |source: &io::Error| source.raw_os_error().map(Errno::from_raw);
    match error {
        GlommioError::IoError(source) | GlommioError::EnhancedIoError { source, .. } => {
            match errno(&source) {
                Some(Errno::EPERM | Errno::EACCES) => match io_uring_setting() {
                    Some(setting) if setting > 0 => StartError::IoUringDisabled { setting },
                    _ => StartError::IoUringForbidden { source },
                },
                // Some seccomp profiles pretend that the system call does not exist.
                Some(Errno::ENOSYS) if io_uring_setting().is_some() => {
                    StartError::IoUringForbidden { source }
                }
                Some(Errno::ENOMEM) => StartError::MemlockTooSmall {
                    have_bytes: getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft),
                    need_bytes: 8 << 20,
                },
                _ => StartError::IoUringMissing { message: source.to_string() },
            }
        }
        other => StartError::IoUringMissing { message: other.to_string() },
    }
}

fn io_uring_setting() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

fn data_dir_error(path: &Path, source: io::Error) -> StartError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StartError::Permission { path }
        }
        _ => StartError::DataDir { path, source },
    }
}

/// Checks that a data directory can be written with direct I/O. The directory is created.
pub(super) fn check_data_dir(dir: &Path) -> Result<(), StartError> {
    std::fs::create_dir_all(dir).map_err(|source| data_dir_error(dir, source))?;
    let no_direct_io = |file_system: &str| StartError::NoDirectIo {
        path: dir.to_path_buf(),
        file_system: file_system.to_owned(),
    };
    let on = statfs(dir).map_err(|errno| data_dir_error(dir, errno.into()))?;
    if on.filesystem_type() == TMPFS_MAGIC {
        return Err(no_direct_io("tmpfs, which is memory"));
    }
    match Probe::write(dir) {
        Err(source) if source.raw_os_error() == Some(Errno::EINVAL as i32) => {
            Err(no_direct_io("it refuses aligned direct writes"))
        }
        Err(source) => Err(data_dir_error(dir, source)),
        Ok(probe) => probe.remove().map_err(|source| data_dir_error(dir, source)),
    }
}

/// A file whose blocks were written with direct I/O and synced; removed when dropped.
pub(super) struct Probe(PathBuf);

impl Probe {
    /// How the names of probes start. They are no part of a directory's listing.
    pub(super) const PREFIX: &str = ".corelog-probe-";

    pub(super) fn write(dir: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let probe = Self(dir.join(format!("{}{}-{number}", Self::PREFIX, std::process::id())));
        let buf = AlignedBuf::zeroed(2 * BLOCK_BYTES);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).custom_flags(nix::libc::O_DIRECT);
        let file = options.open(&probe.0)?;
        file.write_all_at(&buf, 0)?;
        file.sync_all()?;
        Ok(probe)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.0)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // It may be gone already, or never have been created; a left-over does no harm.
        let _removed = std::fs::remove_file(&self.0);
    }
}
/// The exclusive use of a data directory; held until it is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct DirLock(#[allow(dead_code, reason = "held, not read")] Flock<std::fs::File>);

/// Locks `dir` for this process, and leaves the process id for whoever comes next.
pub(crate) fn lock_data_dir(dir: &Path) -> Result<DirLock, StartError> {
    std::fs::create_dir_all(dir).map_err(|source| data_dir_error(dir, source))?;
    let path: PathBuf = dir.join("LOCK");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(&path).map_err(|source| data_dir_error(dir, source))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let written = lock
                .set_len(0)
                .and_then(|()| lock.seek(SeekFrom::Start(0)))
                .and_then(|_| write!(lock, "{}", std::process::id()));
            written.map_err(|source| data_dir_error(dir, source))?;
            Ok(DirLock(lock))
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            let pid = match file.read_to_string(&mut holder) {
                Ok(_) => holder.trim().parse().ok(),
                Err(_) => None,
            };
            Err(StartError::DataDirLocked { path: dir.to_path_buf(), pid })
        }
        Err((_, errno)) => Err(data_dir_error(dir, errno.into())),
    }
}
