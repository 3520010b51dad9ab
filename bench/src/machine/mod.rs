//! What this machine can do at best: its disk and loopback TCP, through the runtime that a node
//! uses, so that a result can be given as a share of the limit.
//!
//! Runs on two shards. The first drives everything; the second is the other end of the connections
//! and sleeps until then. A *cell* is one measurement of a fixed time. The disk is measured on a
//! zero-filled file of the journal's size in a directory of its own, which the caller makes and
//! removes.

mod disk;
mod loopback;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use corelog_runtime::mesh::Mesh;
use corelog_runtime::shards::{ShardContext, stop_signal};
use corelog_runtime::time::Instant;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::result::report::{Machine, Storage};

pub use loopback::Ask;

/// Version of the form of [`Limits`].
pub const FORMAT: u32 = 1;

/// Which parts are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Writes, syncs and reads.
    pub disk: bool,
    /// Loopback TCP.
    pub network: bool,
}

/// Told before each cell: what it is, how many there were before it, and how many there are.
pub type Progress = Arc<dyn Fn(&str, usize, usize) + Send + Sync>;

/// What to measure.
#[derive(Clone)]
pub struct MachineProbe {
    /// An empty directory on the disk to measure, for the probe alone.
    pub dir: PathBuf,
    /// How long each cell is measured.
    pub cell: Duration,
    /// Which parts.
    pub parts: Parts,
    /// Who is told how far it is.
    pub progress: Progress,
}

/// What is done again and again in a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// A direct write, one after the other through the file; nothing is synced.
    Write,
    /// A direct write, then an `fdatasync` of its own.
    WriteSync,
    /// The journal's: up to 4 writes and one `fdatasync` under way; a write is done when a sync has
    /// ended that began after it.
    GroupCommit,
    /// A direct read, one after the other through the file.
    Read,
    /// Bytes in one direction over a connection.
    Stream,
    /// A message there and back over a connection.
    RoundTrip,
}

impl Pattern {
    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::WriteSync => "write, sync",
            Self::GroupCommit => "group commit",
            Self::Read => "read",
            Self::Stream => "TCP stream",
            Self::RoundTrip => "TCP round trip",
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// What was done.
    pub pattern: Pattern,
    /// In pieces of so many bytes.
    pub block_bytes: usize,
    /// With so many under way at the same time.
    pub depth: usize,
    /// How long, in seconds.
    pub seconds: f64,
    /// How often.
    pub operations: u64,
    /// In units of 1,000,000 bytes a second.
    pub mb_per_s: f64,
    /// Median of an operation, in µs.
    pub p50_us: f64,
    /// Its 99th percentile, in µs.
    pub p99_us: f64,
    /// The longest, in µs.
    pub max_us: f64,
}

/// What the machine can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// See [`FORMAT`].
    pub format: u32,
    /// Revision of the sources of the probe.
    pub revision: String,
    /// The machine.
    pub machine: Machine,
    /// The cores of the two shards.
    pub cores: Vec<usize>,
    /// The disk, when it was measured.
    pub storage: Option<Storage>,
    /// Size of the file, in bytes: what is read again may come out of a cache of the device.
    pub file_bytes: u64,
    /// All measurements.
    pub cells: Vec<Cell>,
}

/// Size of the file that is written and read.
pub const FILE_BYTES: u64 = disk::FILE_BYTES;

/// Measures. To be called on both shards of a run; the first returns the cells, the second none.
///
/// # Errors
/// The disk's, the network's; an interruption by SIGINT or SIGTERM, see [`is_interruption`].
pub async fn run(probe: &MachineProbe, context: ShardContext<Ask, SocketAddr>) -> Result<Option<Vec<Cell>>> {
    if context.shard > 0 {
        loopback::serve(&context.mesh).await?;
        return Ok(None);
    }
    let recorder = Recorder::new(probe);
    let measured = measure(probe, &context.mesh, &recorder).await;
    loopback::end(&context.mesh);
    measured.map(|()| Some(recorder.cells.into_inner()))
}

async fn measure(probe: &MachineProbe, mesh: &Mesh<Ask, SocketAddr>, recorder: &Recorder) -> Result<()> {
    if probe.parts.disk {
        disk::run(&probe.dir, recorder).await.context("the disk cannot be measured")?;
    }
    if probe.parts.network {
        loopback::run(mesh, recorder).await.context("loopback TCP cannot be measured")?;
    }
    // The last cell may have been cut short.
    if stop_signal().is_raised() { Err(Interrupted.into()) } else { Ok(()) }
}

/// The process was asked to stop.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Interrupted;

/// Whether it is the error of a probe that was asked to stop.
#[must_use]
pub fn is_interruption(error: &anyhow::Error) -> bool {
    error.chain().any(|it| it.is::<Interrupted>())
}

/// A cell before it is measured.
#[derive(Debug, Clone, Copy)]
struct Plan {
    pattern: Pattern,
    block_bytes: usize,
    depth: usize,
}

/// The cells so far. On the first shard.
struct Recorder {
    duration: Duration,
    planned: usize,
    progress: Progress,
    cells: RefCell<Vec<Cell>>,
}

impl Recorder {
    fn new(probe: &MachineProbe) -> Self {
        let disk = if probe.parts.disk { disk::plans().count() } else { 0 };
        let network = if probe.parts.network { loopback::PLANS.len() } else { 0 };
        Self {
            duration: probe.cell,
            planned: disk + network,
            progress: Arc::clone(&probe.progress),
            cells: RefCell::default(),
        }
    }

    fn announce(&self, what: &str) {
        (self.progress)(what, self.cells.borrow().len(), self.planned);
    }

    fn begin(&self, plan: Plan) -> Result<Clock> {
        if stop_signal().is_raised() {
            return Err(Interrupted.into());
        }
        let Plan { pattern, block_bytes, depth } = plan;
        self.announce(&format!("{} {} × {depth}", pattern.name(), size_text(block_bytes)));
        Ok(Clock::start(self.duration))
    }

    fn end(&self, plan: Plan, clock: &Clock) {
        let seconds = clock.started.elapsed().as_secs_f64();
        let times = clock.times.borrow();
        let us = |nanos: u64| nanos as f64 / 1e3;
        self.cells.borrow_mut().push(Cell {
            pattern: plan.pattern,
            block_bytes: plan.block_bytes,
            depth: plan.depth,
            seconds,
            operations: times.len(),
            mb_per_s: times.len() as f64 * plan.block_bytes as f64 / 1e6 / seconds,
            p50_us: us(times.value_at_quantile(0.5)),
            p99_us: us(times.value_at_quantile(0.99)),
            max_us: us(times.max()),
        });
    }
}

/// The time of a cell and of its operations.
struct Clock {
    started: Instant,
    duration: Duration,
    times: RefCell<Histogram<u64>>,
}

impl Clock {
    fn start(duration: Duration) -> Self {
        let times = Histogram::new(3).expect("three digits are allowed");
        Self { started: Instant::now(), duration, times: RefCell::new(times) }
    }

    fn is_over(&self) -> bool {
        self.started.elapsed() >= self.duration || stop_signal().is_raised()
    }

    fn record(&self, since: Instant) {
        let nanos = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.times.borrow_mut().record(nanos).expect("the histogram grows with its values");
    }
}

/// A size as people write it: 4 KiB, 1 MiB, 100 B.
#[must_use]
pub fn size_text(bytes: usize) -> String {
    match bytes {
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}

/// A directory of its own inside `dir`, removed when dropped.
#[derive(Debug)]
pub struct ProbeDir(PathBuf);

impl ProbeDir {
    /// Makes it.
    ///
    /// # Errors
    /// A `dir` that is not there or cannot be written.
    pub fn make(dir: &Path) -> Result<Self> {
        let path = dir.join(format!("corelog-bench-machine-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ProbeDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(dir = %self.0.display(), %error, "the probe's directory cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_people_do() {
        let texts = [100, 4096, 65_536, 1 << 20, (1 << 20) + 1024].map(size_text);
        assert_eq!(texts, ["100 B", "4 KiB", "64 KiB", "1 MiB", "1025 KiB"]);
    }
}
