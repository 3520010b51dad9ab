//! `corelog bench machine`

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::units;

const EXAMPLES: &str = "\
Examples:
  corelog bench machine
  corelog bench machine --dir /var/lib/corelog --seconds 5 --output json
  corelog bench machine --only network --cores 2,3

Sequential direct writes by block size and depth, without a sync and with an fdatasync after each;
the journal's pattern, in which 16 committers share syncs; direct reads; TCP over the loopback device
between two cores: all through the runtime that a node runs on. The disk's cells use a zero-filled
file of 256 MiB, as large as a journal, in a directory that is made for it and removed. What was
written a moment ago is often read from a cache of the device, and a virtual disk's sync promises what
its host makes of it.

MB are 1,000,000 bytes. Anything else that runs on the machine makes the numbers smaller.";

/// Measures what this machine can do at best: disk writes, syncs and reads, and loopback TCP.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchMachine {
    /// A directory on the disk to measure.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// How long each of the 52 measurements lasts, in seconds or as 500ms: 0.1 to 600 s.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = cell)]
    pub(crate) seconds: Duration,
    /// Two cores, as in 0,1: the first drives everything, the second is the other end of the TCP
    /// connections; without it, two that do not share a physical core, if there are.
    #[arg(long, value_name = "LIST")]
    pub(crate) cores: Option<String>,
    /// Only one part.
    #[arg(long, value_enum)]
    pub(crate) only: Option<MachinePart>,
}

/// A part of the probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MachinePart {
    /// Writes, syncs and reads
    Disk,
    /// Loopback TCP
    Network,
}

fn cell(text: &str) -> Result<Duration, String> {
    const RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);
    let cell = units::duration(text)?;
    if RANGE.contains(&cell) { Ok(cell) } else { Err("must be from 0.1 to 600 s".to_owned()) }
}
