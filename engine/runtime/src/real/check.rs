//! Start-up checks: everything that would otherwise fail later and less clearly. Public through
//! [`crate::checks`].

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use glommio::{GlommioError, LocalExecutorBuilder, Placement};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::Pid;

use super::probe::{self, Probe};
use crate::error::StartError;

/// glommio does not start an executor below this limit of locked memory.
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;

/// glommio registers an executor's buffers with each of its rings, and each counts.
const RINGS: u64 = 3;

/// In the data directory: locked by the node that uses it, with its process id in it.
const LOCK_FILE: &str = "LOCK";

/// glommio's own minimum for an executor's buffers.
const IO_MEMORY_BYTES_MIN: usize = 64 * 1024;

/// The cores that this process may use, in order.
///
/// # Errors
/// What the operating system says.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect())
}

/// The cores to use: those asked for, or all that are allowed.
///
/// # Errors
/// [`StartError::BadCoreList`], [`StartError::BadCore`].
pub fn check_cores(wanted: Option<&[usize]>) -> Result<Vec<usize>, StartError> {
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

/// How much memory `shards` executors lock when each of them registers `io_memory_bytes`.
#[must_use]
pub fn locked_bytes(io_memory_bytes: usize, shards: usize) -> u64 {
    (io_memory_bytes as u64).saturating_mul(RINGS).saturating_mul(shards as u64)
}

/// Checks the limit of locked memory, and returns how much of `wanted` each executor may register.
///
/// # Errors
/// [`StartError::MemlockTooSmall`] where no executor would start.
pub fn check_memlock(wanted: usize, shards: usize) -> Result<usize, StartError> {
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

/// Checks that io_uring works at all, by setting up a ring and then an executor.
///
/// # Errors
/// [`StartError::IoUringDisabled`], [`StartError::IoUringForbidden`],
/// [`StartError::IoUringMissing`], [`StartError::MemlockTooSmall`].
pub fn check_io_uring() -> Result<(), StartError> {
    // glommio panics where the kernel refuses a ring, and tells nothing of why.
    probe::try_ring().map_err(explain)?;
    let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(IO_MEMORY_BYTES_MIN);
    match builder.make() {
        Ok(executor) => {
            drop(executor);
            Ok(())
        }
        Err(GlommioError::IoError(source) | GlommioError::EnhancedIoError { source, .. }) => {
            Err(explain(source))
        }
        Err(other) => Err(StartError::IoUringMissing { message: other.to_string() }),
    }
}

/// What is wrong when a ring or an executor cannot be made.
fn explain(source: io::Error) -> StartError {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => match io_uring_setting() {
            Some(setting) if setting > 0 => StartError::IoUringDisabled { setting },
            _ => StartError::IoUringForbidden { source },
        },
        // Some seccomp profiles pretend that the system call does not exist.
        Some(Errno::ENOSYS) if io_uring_setting().is_some() => StartError::IoUringForbidden { source },
        Some(Errno::ENOMEM) => StartError::MemlockTooSmall {
            have_bytes: getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft),
            need_bytes: 8 << 20,
        },
        _ => StartError::IoUringMissing { message: source.to_string() },
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
    check_direct_io(dir)
}

/// Checks that files in `dir`, which is there, can be written with direct I/O in blocks of
/// [`BLOCK_BYTES`](crate::fs::BLOCK_BYTES): one is, and is removed.
///
/// # Errors
/// [`StartError::NoDirectIo`], [`StartError::Permission`], [`StartError::DataDir`].
pub fn check_direct_io(dir: &Path) -> Result<(), StartError> {
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

/// The exclusive use of a data directory; held until it is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct DirLock(#[allow(dead_code, reason = "held, not read")] Flock<std::fs::File>);

/// Locks `dir` for this process, and leaves the process id for whoever comes next.
pub(crate) fn lock_data_dir(dir: &Path) -> Result<DirLock, StartError> {
    std::fs::create_dir_all(dir).map_err(|source| data_dir_error(dir, source))?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(dir.join(LOCK_FILE)).map_err(|source| data_dir_error(dir, source))?;
    let mut lock = lock(file, dir, FlockArg::LockExclusiveNonblock)?;
    let written = lock
        .set_len(0)
        .and_then(|()| lock.seek(SeekFrom::Start(0)))
        .and_then(|_| write!(lock, "{}", std::process::id()));
    written.map_err(|source| data_dir_error(dir, source))?;
    Ok(DirLock(lock))
}

/// Checks that no process has locked `dir`, and changes nothing in it. A node that starts in the same
/// instant may be told that the directory is in use.
///
/// # Errors
/// [`StartError::DataDirLocked`]; [`StartError::Permission`] and [`StartError::DataDir`] when that
/// cannot be found out.
pub fn check_data_dir_is_free(dir: &Path) -> Result<(), StartError> {
    match OpenOptions::new().read(true).open(dir.join(LOCK_FILE)) {
        Ok(file) => lock(file, dir, FlockArg::LockSharedNonblock).map(drop),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(data_dir_error(dir, source)),
    }
}

fn lock(file: std::fs::File, dir: &Path, how: FlockArg) -> Result<Flock<std::fs::File>, StartError> {
    match Flock::lock(file, how) {
        Ok(lock) => Ok(lock),
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
