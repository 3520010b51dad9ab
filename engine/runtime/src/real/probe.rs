//! Files that are written to find something out, and what else only the machine itself can tell.

use std::fs::{File, OpenOptions};
use std::io;
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
