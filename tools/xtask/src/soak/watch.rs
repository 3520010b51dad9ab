//! What the node uses while it is driven, and whether that grows.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::machine::{Usage, as_f64, field};
use crate::versus::statistics::Spread;

/// A life is judged from when the node has been given so many times what its budget holds: until
/// then it fills its caches.
pub(crate) const FILLS: f64 = 2.0;
/// Windows of time whose trend is judged.
pub(crate) const WINDOWS_MIN: usize = 4;
/// Memory is flat when it grows by less than this share…
pub(crate) const GROWTH_MAX: f64 = 0.1;
/// …or by less than this: an allocator's steps.
pub(crate) const GROWTH_FINE_MB: f64 = 8.0;
/// Code, stacks, io_uring's rings, indexes, metadata, producers' state: what no budget names.
pub(crate) const OVERHEAD_MB: f64 = 64.0;
/// Appended and not yet written, for each shard: see `JOURNAL_QUEUE_BYTES_MAX` in the node.
const JOURNAL_QUEUE_MB: f64 = 16.8;
const BLOCK_BYTES: u64 = 512;

/// What the node used at a time.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    /// Since the load's start.
    pub(crate) at_s: f64,
    /// How often the node had been started.
    pub(crate) life: usize,
    pub(crate) resident_mb: f64,
    pub(crate) cpu_s: f64,
    pub(crate) file_descriptors: u64,
    pub(crate) threads: u64,
    /// Blocks of the data directory.
    pub(crate) disk_mb: f64,
}

impl Sample {
    pub(crate) fn take(pid: u32, data: &Path, at_s: f64, life: usize) -> Result<Self> {
        let usage = Usage::of(pid)?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let threads = field(&status, "Threads:").context("a process has threads")?;
        let file_descriptors = u64::try_from(fs::read_dir(format!("/proc/{pid}/fd"))?.count())?;
        let disk_mb = as_f64(disk_bytes(data)?) / 1e6;
        let Usage { resident_mb, cpu_s } = usage;
        Ok(Self { at_s, life, resident_mb, cpu_s, file_descriptors, threads, disk_mb })
    }
}

/// Files may go while this looks.
fn disk_bytes(folder: &Path) -> Result<u64> {
    let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let entries = match fs::read_dir(folder) {
        Err(error) if is_gone(&error) => return Ok(0),
        entries => entries?,
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Err(error) if is_gone(&error) => continue,
            metadata => metadata?,
        };
        bytes += match metadata.is_dir() {
            true => disk_bytes(&entry.path())?,
            false => metadata.blocks() * BLOCK_BYTES,
        };
    }
    Ok(bytes)
}

/// What a node may keep in memory, from its configuration as `--print-config` shows it.
pub(crate) fn budget_mb(config: &str, shards: usize) -> Result<f64> {
    let number = |key: &str| {
        let value = config.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_prefix('='));
        let value = value.and_then(|value| value.trim().parse::<f64>().ok());
        value.with_context(|| format!("the configuration has no number {key}"))
    };
    // Unflushed records stay in memory, up to half of the journal.
    let unflushed = number("file_bytes")? * number("max_files")? / 2.0;
    let bounded =
        number("tail_cache_bytes")? + number("request_memory_bytes")? + number("response_memory_bytes")?;
    Ok(as_f64(u64::try_from(shards)?) * ((unflushed + bounded) / 1e6 + JOURNAL_QUEUE_MB))
}

/// Whether memory stayed flat, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Memory {
    pub(crate) first_mb: f64,
    pub(crate) last_mb: f64,
    pub(crate) max_mb: f64,
    /// The configured budget and [`OVERHEAD_MB`].
    pub(crate) bound_mb: f64,
    /// What the slopes within lives, of all lives together, come to over the longest of them.
    pub(crate) within_lives: Option<Growth>,
    /// What the slopes between windows of different lives come to over the whole run.
    pub(crate) over_lives: Option<Growth>,
}

/// The memory of some time: as long as a topic of the load lives, since what its deletion gives back
/// and what its records take is the same in each.
struct Window {
    life: usize,
    middle_s: f64,
    median_mb: f64,
}

/// How memory grew over a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Growth {
    pub(crate) mean_mb: f64,
    pub(crate) by_mb: f64,
    pub(crate) over_s: f64,
}

impl Growth {
    /// The growth over `over_s` by the median of the slopes between pairs of windows, which a window
    /// that is unlike the others does not move.
    fn of(windows: &[Window], over_s: f64, is_pair: impl Fn(&Window, &Window) -> bool) -> Option<Self> {
        if windows.len() < WINDOWS_MIN {
            return None;
        }
        let is_pair = &is_pair;
        let slopes = windows.iter().enumerate().flat_map(|(at, one)| {
            let later = windows[at + 1..].iter().filter(move |other| is_pair(one, other));
            later.map(move |other| (other.median_mb - one.median_mb) / (other.middle_s - one.middle_s))
        });
        let slope = Spread::of(slopes)?.median;
        let mean_mb = windows.iter().map(|window| window.median_mb).sum::<f64>()
            / as_f64(u64::try_from(windows.len()).ok()?);
        Some(Self { mean_mb, by_mb: slope * over_s, over_s })
    }

    pub(crate) fn is_flat(&self) -> bool {
        self.by_mb < GROWTH_FINE_MB || self.by_mb < self.mean_mb * GROWTH_MAX
    }
}

impl Memory {
    /// Caches are full so long after a start, and a topic of the load lives for `period_s`.
    pub(crate) fn of(samples: &[Sample], bound_mb: f64, full_after_s: f64, period_s: f64) -> Self {
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
            return Self { bound_mb, ..Self::default() };
        };
        let lives = || samples.chunk_by(|a, b| a.life == b.life);
        let windows: Vec<Window> = lives().flat_map(|life| windows(life, full_after_s, period_s)).collect();
        let longest_s = lives().map(|life| life[life.len() - 1].at_s - life[0].at_s).fold(0.0, f64::max);
        Self {
            first_mb: first.resident_mb,
            last_mb: last.resident_mb,
            max_mb: samples.iter().map(|sample| sample.resident_mb).fold(0.0, f64::max),
            bound_mb,
            within_lives: Growth::of(&windows, longest_s, |one, other| one.life == other.life),
            over_lives: Growth::of(&windows, last.at_s - first.at_s, |one, other| one.life != other.life),
        }
    }

    /// What is not as it should be.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.max_mb > self.bound_mb {
            complaints.push(format!("memory reached {:.0} MB, above {:.0} MB", self.max_mb, self.bound_mb));
        }
        for (what, growth) in [("within lives", self.within_lives), ("from life to life", self.over_lives)] {
            if let Some(growth) = growth.filter(|growth| !growth.is_flat()) {
                complaints.push(format!("memory is not flat {what}: {}", growth.words()));
            }
        }
        complaints
    }
}

/// The whole windows of a life.
fn windows(life: &[Sample], full_after_s: f64, period_s: f64) -> Vec<Window> {
    let (from_s, ended_s) = (life[0].at_s + full_after_s, life[life.len() - 1].at_s);
    let mut windows = Vec::new();
    let mut begins_s = from_s;
    while begins_s + period_s <= ended_s {
        let ends_s = begins_s + period_s;
        let within = life.iter().filter(|sample| (begins_s..ends_s).contains(&sample.at_s));
        if let Some(spread) = Spread::of(within.map(|sample| sample.resident_mb)) {
            let middle_s = begins_s + period_s / 2.0;
            windows.push(Window { life: life[0].life, middle_s, median_mb: spread.median });
        }
        begins_s = ends_s;
    }
    windows
}

impl Growth {
    pub(crate) fn words(&self) -> String {
        format!("{:+.1} MB over {:.0} s, mean {:.0} MB", self.by_mb, self.over_s, self.mean_mb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lives of 100 s with a sample each 5 s.
    fn samples(lives: usize, resident_mb: impl Fn(usize, f64) -> f64) -> Vec<Sample> {
        let times = (0..lives).flat_map(|life| (0_u32..20).map(move |at| (life, f64::from(at) * 5.0)));
        times
            .map(|(life, in_life_s)| Sample {
                at_s: as_f64(u64::try_from(life).unwrap_or_default()) * 100.0 + in_life_s,
                life,
                resident_mb: resident_mb(life, in_life_s),
                cpu_s: 0.0,
                file_descriptors: 0,
                threads: 0,
                disk_mb: 0.0,
            })
            .collect()
    }

    fn memory(samples: &[Sample], bound_mb: f64, full_after_s: f64) -> Memory {
        Memory::of(samples, bound_mb, full_after_s, 15.0)
    }

    #[test]
    fn buffers_that_fill_at_the_start_are_no_growth() {
        let memory = memory(&samples(5, |_, s| 50.0 + s.min(45.0)), 200.0, 45.0);
        assert_eq!(memory.complaints(), Vec::<String>::new());
        assert_eq!((memory.first_mb, memory.max_mb), (50.0, 95.0));
        assert!(memory.within_lives.is_some() && memory.over_lives.is_some());
    }

    #[test]
    fn what_a_deletion_gives_back_for_a_moment_is_no_growth() {
        let dip = |_, s: f64| if (50.0..55.0).contains(&s) { 50.0 } else { 200.0 + s % 10.0 };
        assert_eq!(memory(&samples(5, dip), 300.0, 10.0).complaints(), Vec::<String>::new());
    }

    #[test]
    fn what_each_topic_takes_anew_is_no_growth_wherever_a_life_ends() {
        // Most of a life's samples can be of one half of a saw's tooth.
        let saw = |life: usize, s: f64| {
            100.0 + 80.0 * ((s + 7.0 * as_f64(u64::try_from(life).unwrap_or_default())) % 15.0) / 15.0
        };
        let flat = memory(&samples(12, saw), 300.0, 10.0);
        assert_eq!(flat.complaints(), Vec::<String>::new());
        let grows = |life, s: f64| saw(life, s) + 0.3 * s;
        assert!(!memory(&samples(12, grows), 300.0, 10.0).complaints().is_empty());
    }

    #[test]
    fn what_goes_on_growing_is_found_within_a_life_and_over_lives() {
        let within = memory(&samples(1, |_, s| 50.0 + s * 0.2), 200.0, 10.0);
        assert!(within.complaints()[0].contains("within lives: +19.0 MB"), "{:?}", within.complaints());
        let steps = |life: usize, _| 50.0 + 5.0 * as_f64(u64::try_from(life).unwrap_or_default());
        let over = memory(&samples(6, steps), 200.0, 10.0);
        assert!(over.complaints()[0].contains("from life to life"), "{:?}", over.complaints());
        let above = memory(&samples(1, |_, _| 201.0), 200.0, 10.0);
        assert_eq!(above.complaints(), ["memory reached 201 MB, above 200 MB"]);
    }

    #[test]
    fn a_cache_that_is_still_filling_is_no_growth() {
        let filling = samples(1, |_, s| 50.0 + s);
        assert_eq!(memory(&filling, 200.0, 90.0).complaints(), Vec::<String>::new());
        assert_eq!(memory(&filling, 200.0, 30.0).complaints().len(), 1);
    }

    #[test]
    fn short_lives_are_not_judged() {
        let mut samples = samples(1, |_, s| s * 10.0);
        samples.truncate(10);
        assert_eq!(memory(&samples, 1e6, 0.0).complaints(), Vec::<String>::new());
    }

    #[test]
    fn the_budget_is_the_configurations() -> Result<()> {
        let config = "[network]\n# comment\nrequest_memory_bytes = 100000000\nresponse_memory_bytes = 50000000\n\
                      [journal]\nfile_bytes = 10000000\nfirst_file_bytes = 1\nmax_files = 4\n\
                      [memory]\ntail_cache_bytes = 30000000\n";
        let budget = budget_mb(config, 2)?;
        assert!((budget - 2.0 * (100.0 + 50.0 + 20.0 + 30.0 + JOURNAL_QUEUE_MB)).abs() < 1e-6, "{budget}");
        assert!(budget_mb("", 1).is_err());
        Ok(())
    }
}
