//! The journal's commit time, alone and beside the write-behind of many segments.
//!
//! Runs on one pinned executor, on a directory of its own on a real disk, through the same runtime,
//! journal and segment log that a node uses. A round appends some entries and waits for their sync;
//! its latency is what an acknowledgement costs at least.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use corelog_engine::journal::{Entry, EntryKind, Journal, JournalOptions};
use corelog_engine::log::{FileCache, FileCacheOptions, Roll, SegmentLog, SegmentOptions, SegmentPosition};
use corelog_engine::types::{LeaderEpoch, Lsn, Offset, PartitionId, TopicId, TopicPartition};
use corelog_protocol::batch::{BatchBuilder, set_base_offset};
use corelog_runtime::task::{self, Class, spawn_join};
use corelog_runtime::time::{self, Instant};
use hdrhistogram::Histogram;
use serde::Serialize;

/// Largest commit time that is told apart from larger ones.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// What to measure.
#[derive(Debug, Clone)]
pub struct JournalProbe {
    /// An empty directory on the disk to measure; removed afterwards.
    pub dir: PathBuf,
    /// How long each of the two phases is measured.
    pub duration: Duration,
    /// Entries appended per round, as if from so many partitions.
    pub entries: usize,
    /// Payload of each.
    pub entry_bytes: usize,
    /// Segments that are created, written, synced and deleted in the second phase.
    pub segments: usize,
    /// What one write-behind flush adds to a segment.
    pub flush_bytes: usize,
}

/// Commit times of one phase.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    /// Which one.
    pub name: &'static str,
    /// Rounds measured.
    pub rounds: u64,
    /// Median, µs.
    pub p50_us: f64,
    /// 99th percentile, µs.
    pub p99_us: f64,
    /// 99.9th percentile, µs.
    pub p999_us: f64,
    /// Largest, µs.
    pub max_us: f64,
    /// Journalled payload, MB/s.
    pub journal_mb_per_s: f64,
    /// Written to segments meanwhile, MB/s.
    pub segment_mb_per_s: f64,
    /// Segment flushes (each with its sync) meanwhile.
    pub flushes: u64,
    /// Segments deleted and created again meanwhile.
    pub recreated: u64,
}

/// What the second phase does besides.
#[derive(Default)]
struct Beside {
    stop: Cell<bool>,
    flushes: Cell<u64>,
    bytes: Cell<u64>,
    recreated: Cell<u64>,
    error: RefCell<Option<anyhow::Error>>,
}

/// Measures both phases. Runs on an executor of the real runtime.
///
/// # Errors
/// The disk's.
pub async fn run(probe: &JournalProbe) -> Result<Vec<Phase>> {
    let (journal, _) = Journal::open(JournalOptions::new(probe.dir.join("journal"), 1), |_, _| {}).await?;
    let stop_release = Rc::new(Cell::new(false));
    task::spawn_in(Class::Background, release(journal.clone(), Rc::clone(&stop_release)));
    let alone = Rc::new(Beside::default());
    // The first rounds wait for the journal's files to be filled.
    rounds(&journal, probe, Duration::from_secs(1), &alone, "warm-up").await?;
    let alone = rounds(&journal, probe, probe.duration, &alone, "alone").await?;
    let beside = Rc::new(Beside::default());
    let workers: Vec<_> = (0..2)
        .map(|worker| spawn_join(Class::Background, write_behind(probe.clone(), worker, Rc::clone(&beside))))
        .collect();
    let measured = rounds(&journal, probe, probe.duration, &beside, "beside write-behind").await;
    beside.stop.set(true);
    for worker in workers {
        worker.await;
    }
    stop_release.set(true);
    journal.close().await?;
    if let Some(error) = beside.error.borrow_mut().take() {
        return Err(error.context("write-behind failed"));
    }
    Ok(vec![alone, measured?])
}

/// Gives journal files back as a shard would.
async fn release(journal: Journal, stop: Rc<Cell<bool>>) {
    while !stop.get() {
        journal.pressure().await;
        journal.release(journal.progress().synced);
        task::yield_now().await;
    }
}

async fn rounds(
    journal: &Journal,
    probe: &JournalProbe,
    duration: Duration,
    beside: &Beside,
    name: &'static str,
) -> Result<Phase> {
    let mut histogram =
        Histogram::<u64>::new_with_bounds(100, LATENCY_NS_MAX, 3).context("histogram bounds")?;
    let payload = Bytes::from(vec![0x5a; probe.entry_bytes]);
    let (flushes, bytes, recreated) = (beside.flushes.get(), beside.bytes.get(), beside.recreated.get());
    let start = Instant::now();
    while start.elapsed() < duration {
        let round = Instant::now();
        let mut newest = Lsn(0);
        for partition in (0_i32..).take(probe.entries) {
            newest = journal.append(Entry {
                kind: EntryKind::Append,
                target: target(partition),
                base_offset: Offset(0),
                leader_epoch: LeaderEpoch(0),
                payload: payload.clone(),
            });
        }
        journal.wait_synced(newest).await?;
        let nanos = u64::try_from(round.elapsed().as_nanos()).unwrap_or(LATENCY_NS_MAX);
        histogram.saturating_record(nanos);
    }
    let seconds = start.elapsed().as_secs_f64();
    let us = |quantile: f64| nanos_to_us(histogram.value_at_quantile(quantile));
    let mb = |bytes: u64| bytes as f64 / 1e6 / seconds;
    Ok(Phase {
        name,
        rounds: histogram.len(),
        p50_us: us(0.5),
        p99_us: us(0.99),
        p999_us: us(0.999),
        max_us: nanos_to_us(histogram.max()),
        journal_mb_per_s: mb(histogram.len() * (probe.entries * probe.entry_bytes) as u64),
        segment_mb_per_s: mb(beside.bytes.get() - bytes),
        flushes: beside.flushes.get() - flushes,
        recreated: beside.recreated.get() - recreated,
    })
}

fn nanos_to_us(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

fn target(partition: i32) -> TopicPartition {
    TopicPartition::new(TopicId::default(), PartitionId(partition))
}

/// Writes, syncs, deletes and creates segments until it is told to stop.
async fn write_behind(probe: JournalProbe, worker: usize, beside: Rc<Beside>) {
    if let Err(error) = write_behind_inner(&probe, worker, &beside).await {
        *beside.error.borrow_mut() = Some(error);
    }
}

async fn write_behind_inner(probe: &JournalProbe, worker: usize, beside: &Beside) -> Result<()> {
    let files = FileCache::new(FileCacheOptions::default());
    let dir = |index: usize| probe.dir.join("segments").join(format!("{worker}-{index}"));
    let open = |dir: &Path, index: usize| -> Result<SegmentLog> {
        let at = SegmentPosition::start(Offset(0));
        let target = target(i32::try_from(index)?);
        let options = SegmentOptions::default();
        Ok(SegmentLog::new(dir.to_owned(), target, at, Offset(0), options, Rc::clone(&files)))
    };
    let value = vec![0xa5; 16 * 1024];
    let mut builder = BatchBuilder::new();
    while builder.size_bytes() + value.len() < probe.flush_bytes {
        builder = builder.record(time::unix_time_ms(), None, Some(&value));
    }
    let mut batch = builder.build()?;
    let count = i64::from(corelog_protocol::batch::BatchHeader::parse(&batch)?.record_count);
    let share = probe.segments.div_ceil(2);
    let mut logs: Vec<SegmentLog> =
        (0..share).map(|index| open(&dir(index), index)).collect::<Result<_>>()?;
    for round in 0_usize.. {
        for (index, log) in logs.iter_mut().enumerate() {
            if beside.stop.get() {
                return Ok(());
            }
            if (round + index) % 4 == 3 {
                log.delete_all().await?;
                *log = open(&dir(index), index)?;
                beside.recreated.set(beside.recreated.get() + 1);
            }
            let base = log.position().next;
            set_base_offset(&mut batch, base.0);
            // A segment keeps whole blocks; what is left of a batch stays in the journal, which is
            // what a node does as well. Here the next flush begins with that batch again.
            let first = Bytes::copy_from_slice(&batch);
            set_base_offset(&mut batch, base.plus(count).0);
            let second = Bytes::copy_from_slice(&batch);
            log.flush(&[first, second], Roll::AsNeeded).await?;
            beside.flushes.set(beside.flushes.get() + 1);
            beside.bytes.set(beside.bytes.get() + batch.len() as u64);
        }
    }
    Ok(())
}
