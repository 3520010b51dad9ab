//! Files that are written to find something out, and what else only the machine itself can tell.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::libc;

use crate::fs::{AlignedBuf, BLOCK_BYTES};

/// Blocks of a probe: the second is there for readers that want more than one.
const PROBE_BLOCKS: usize = 2;

/// Blocks of the file in which syncs are timed: large enough that a device does not see the same one
/// again at once, small enough to be zero-filled in one write.
const TIMED_BLOCKS: usize = 256;

/// A file whose blocks were written with direct I/O and synced; removed when dropped.
pub(super) struct Probe(PathBuf);

impl Probe {
    /// How the names of probes start. They are no part of a directory's listing.
    pub(super) const PREFIX: &str = ".corelog-probe-";

    pub(super) fn write(dir: &Path) -> io::Result<Self> {
        Self::write_blocks(dir, PROBE_BLOCKS).map(|(probe, _file)| probe)
    }

    fn write_blocks(dir: &Path, blocks: usize) -> io::Result<(Self, File)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let probe = Self(dir.join(format!("{}{}-{number}", Self::PREFIX, std::process::id())));
        let buf = AlignedBuf::zeroed(blocks * BLOCK_BYTES);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT);
        let file = options.open(&probe.0)?;
        file.write_all_at(&buf, 0)?;
        file.sync_all()?;
        Ok((probe, file))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.0)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // It may be gone already, or never have been created; a left-over does no harm.
        let _removed = std::fs::remove_file(&self.0);
    }
}

/// How long direct writes of one block take in `dir`, each with an `fdatasync` behind it, as a journal
/// makes them for a client that waits for each record: in blocks that were written before, one after
/// the other. Ends after `during` or `count_max` of them, whichever comes first. The file is removed.
///
/// # Errors
/// The file system's.
pub fn time_syncs(dir: &Path, during: Duration, count_max: usize) -> io::Result<Vec<Duration>> {
    let (probe, file) = Probe::write_blocks(dir, TIMED_BLOCKS)?;
    // Not zeros: a thin device may have a short way for them.
    let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
    block.fill(0xc3);
    let start = Instant::now();
    let mut times = Vec::new();
    for turn in 0..count_max {
        let begun = Instant::now();
        file.write_all_at(&block, ((turn % TIMED_BLOCKS) * BLOCK_BYTES) as u64)?;
        file.sync_data()?;
        times.push(begun.elapsed());
        if start.elapsed() >= during {
            break;
        }
    }
    probe.remove()?;
    Ok(times)
}

/// Size of the kernel's `struct io_uring_params`, in words of 8 bytes.
const RING_PARAMS_WORDS: usize = 15;
/// Asks which operations a ring has: `IORING_REGISTER_PROBE`.
const REGISTER_PROBE: libc::c_long = 8;
/// Operations that there is room for in the answer: the most that may be asked for.
const PROBED_OPERATIONS: libc::c_long = 256;
/// Size of that answer: a header of 16 bytes, and 8 for each operation.
const RING_PROBE_WORDS: usize = 2 + 256;

/// Sets up a ring of io_uring, and makes each of the three system calls that it takes once: a seccomp
/// filter can forbid any of them. The ring is closed.
///
/// # Errors
/// What the operating system says.
pub(super) fn try_ring() -> io::Result<()> {
    let checked = |result: libc::c_long| match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    };
    let mut params = [0_u64; RING_PARAMS_WORDS];
    // SAFETY: the kernel reads and writes one `io_uring_params`, which is as long as `params`; zeros ask
    // for an ordinary ring.
    let ring = checked(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1_u32, params.as_mut_ptr()) })?;
    let ring = RawFd::try_from(ring).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the descriptor is new, and nobody else's.
    let ring = unsafe { OwnedFd::from_raw_fd(ring) };
    let mut answer = [0_u64; RING_PROBE_WORDS];
    // SAFETY: the descriptor is open; the kernel writes at most as many operations as it is told that
    // there is room for, and `answer` has that room.
    checked(unsafe {
        let (fd, answer) = (ring.as_raw_fd(), answer.as_mut_ptr());
        libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_PROBE, answer, PROBED_OPERATIONS)
    })?;
    // SAFETY: nothing is submitted and nothing waited for; there is no signal mask.
    checked(unsafe {
        let no_mask = std::ptr::null::<libc::sigset_t>();
        libc::syscall(libc::SYS_io_uring_enter, ring.as_raw_fd(), 0_u32, 0_u32, 0_u32, no_mask, 0_usize)
    })
    .map(drop)
}

/// Whether the kernel takes its wall clock for synchronised, as NTP and PTP daemons tell it.
///
/// # Errors
/// What the operating system says: a sandbox may forbid the question.
pub fn wall_clock_is_synchronised() -> io::Result<bool> {
    // SAFETY: a structure of plain integers, for which zeros are a value. Mode 0 changes nothing.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live structure of the type that the call fills in.
    if unsafe { libc::adjtimex(&raw mut clock) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(clock.status & libc::STA_UNSYNC == 0)
}
