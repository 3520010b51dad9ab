//! What the node uses while it is driven, and whether that grows.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::machine::{Usage, as_f64, field};
use crate::versus::statistics::Spread;

/// What is judged of a life lasts at least so long: its second half, or what of it comes after the
/// node has been given twice what its budget holds. Until then it fills its caches.
pub(crate) const JUDGED_MIN_S: f64 = 30.0;
pub(crate) const FILLS: f64 = 2.0;
/// Lives whose trend is judged.
pub(crate) const LIVES_MIN: usize = 4;
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
    /// Within the lives that were long enough: what a line through the part that is judged says of the
    /// whole life. The one that grew most.
    pub(crate) worst_life: Option<Growth>,
    /// What a line through the means of the lives says of the whole run.
    pub(crate) over_lives: Option<Growth>,
}

/// How memory grew over a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Growth {
    pub(crate) mean_mb: f64,
    pub(crate) by_mb: f64,
    pub(crate) over_s: f64,
}

impl Growth {
    /// The growth over `over_s` of a line through points of time and MB. Its slope is the median of
    /// those between any two points: memory that a deleted topic gave back for a moment is no trend.
    fn of(points: &[(f64, f64)], over_s: f64) -> Option<Self> {
        let mean_mb =
            points.iter().map(|point| point.1).sum::<f64>() / as_f64(u64::try_from(points.len()).ok()?);
        let slopes = points.iter().enumerate().flat_map(|(at, (s, mb))| {
            let later = points[at + 1..].iter().filter(move |(later_s, _)| later_s > s);
            later.map(move |(later_s, later_mb)| (later_mb - mb) / (later_s - s))
        });
        let slope = Spread::of(slopes)?.median;
        Some(Self { mean_mb, by_mb: slope * over_s, over_s })
    }

    pub(crate) fn is_flat(&self) -> bool {
        self.by_mb < GROWTH_FINE_MB || self.by_mb < self.mean_mb * GROWTH_MAX
    }
}

impl Memory {
    /// Caches are full so long after a start.
    pub(crate) fn of(samples: &[Sample], bound_mb: f64, full_after_s: f64) -> Self {
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
            return Self { bound_mb, ..Self::default() };
        };
        let mut means = Vec::new();
        let mut worst_life: Option<Growth> = None;
        for life in samples.chunk_by(|a, b| a.life == b.life) {
            let (began_s, ended_s) = (life[0].at_s, life[life.len() - 1].at_s);
            let length_s = ended_s - began_s;
            let from_s = began_s + full_after_s.max(length_s / 2.0);
            let judged = life.iter().filter(|sample| sample.at_s >= from_s);
            let judged: Vec<(f64, f64)> = judged.map(|sample| (sample.at_s, sample.resident_mb)).collect();
            let is_enough = ended_s - from_s >= JUDGED_MIN_S;
            let Some(growth) = Growth::of(&judged, length_s).filter(|_| is_enough) else {
                continue;
            };
            means.push((from_s, growth.mean_mb));
            if worst_life.is_none_or(|worst| growth.by_mb > worst.by_mb) {
                worst_life = Some(growth);
            }
        }
        let over_s = last.at_s - first.at_s;
        let over_lives = (means.len() >= LIVES_MIN).then(|| Growth::of(&means, over_s)).flatten();
        Self {
            first_mb: first.resident_mb,
            last_mb: last.resident_mb,
            max_mb: samples.iter().map(|sample| sample.resident_mb).fold(0.0, f64::max),
            bound_mb,
            worst_life,
            over_lives,
        }
    }

    /// What is not as it should be.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.max_mb > self.bound_mb {
            complaints.push(format!("memory reached {:.0} MB, above {:.0} MB", self.max_mb, self.bound_mb));
        }
        for (what, growth) in [("within a life", self.worst_life), ("from life to life", self.over_lives)] {
            if let Some(growth) = growth.filter(|growth| !growth.is_flat()) {
                complaints.push(format!("memory is not flat {what}: {}", growth.words()));
            }
        }
        complaints
    }
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

    #[test]
    fn buffers_that_fill_at_the_start_are_no_growth() {
        let memory = Memory::of(&samples(5, |_, s| 50.0 + s.min(45.0)), 200.0, 10.0);
        assert_eq!(memory.complaints(), Vec::<String>::new());
        assert_eq!((memory.first_mb, memory.max_mb), (50.0, 95.0));
        assert!(memory.over_lives.is_some());
    }

    #[test]
    fn what_a_deletion_gives_back_for_a_moment_is_no_growth() {
        let dip = |_, s: f64| if (50.0..55.0).contains(&s) { 50.0 } else { 200.0 + s % 10.0 };
        assert_eq!(Memory::of(&samples(5, dip), 300.0, 10.0).complaints(), Vec::<String>::new());
    }

    #[test]
    fn what_goes_on_growing_is_found_within_a_life_and_over_lives() {
        let within = Memory::of(&samples(1, |_, s| 50.0 + s * 0.2), 200.0, 10.0);
        assert!(within.complaints()[0].contains("within a life: +19.0 MB"), "{:?}", within.complaints());
        let steps = |life: usize, _| 50.0 + 5.0 * as_f64(u64::try_from(life).unwrap_or_default());
        let over = Memory::of(&samples(6, steps), 200.0, 10.0);
        assert!(over.complaints()[0].contains("from life to life"), "{:?}", over.complaints());
        let above = Memory::of(&samples(1, |_, _| 201.0), 200.0, 10.0);
        assert_eq!(above.complaints(), ["memory reached 201 MB, above 200 MB"]);
    }

    #[test]
    fn a_cache_that_is_still_filling_is_no_growth() {
        let filling = samples(1, |_, s| 50.0 + s);
        assert_eq!(Memory::of(&filling, 200.0, 90.0).complaints(), Vec::<String>::new());
        assert_eq!(Memory::of(&filling, 200.0, 60.0).complaints().len(), 1);
    }

    #[test]
    fn short_lives_are_not_judged() {
        let mut samples = samples(1, |_, s| s * 10.0);
        samples.truncate(10);
        assert_eq!(Memory::of(&samples, 1e6, 0.0).complaints(), Vec::<String>::new());
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
