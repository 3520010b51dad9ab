//! What a node tells of itself in the text format of Prometheus.
//!
//! The network side's numbers ([`ShardCounters`]) are written by their shard and read from here;
//! the engine's come as messages. `docs/METRICS.md` lists every metric; a test holds it against
//! what a node exports.

mod counters;
mod errors;
mod lag;
mod names;
mod text;

use corelog_engine::engine::NodeDetails;
use corelog_engine::journal::JournalFull;
use corelog_engine::metric::Snapshot;
use corelog_engine::shard::{MemoryUse, ProducedStats, ReadStats, RemovedStats, ShardStats};
use corelog_engine::types::Durability;
use corelog_runtime::process::ProcessUse;

pub(crate) use self::counters::{Answered, ShardCounters};
pub(crate) use self::errors::ErrorCodes;
pub(crate) use self::lag::LAG_OFFSETS_MAX;
use self::names::*;
use self::text::{Text, wide};
use crate::options::BuildInfo;

/// Everything that is exported, as of one moment.
pub(crate) struct Scrape<'a> {
    pub(crate) build: &'a BuildInfo,
    /// `None` where the operating system does not tell.
    pub(crate) process: Option<ProcessUse>,
    /// By shard.
    pub(crate) counters: &'a [ShardCounters],
    /// Open connections by shard.
    pub(crate) connections: &'a [usize],
    pub(crate) connections_max: usize,
    /// By shard.
    pub(crate) memory: &'a [NetMemory],
    /// Of the shards that answered.
    pub(crate) stats: &'a [ShardStats],
    /// Of groups, and of the partitions that they read; `None` where there are none.
    pub(crate) details: Option<&'a NodeDetails>,
}

/// What one shard's connections hold.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NetMemory {
    /// Frames of requests that are not answered.
    pub(crate) requests: MemoryUse,
    /// Fetched batches that are not written to clients.
    pub(crate) responses: MemoryUse,
}

impl Scrape<'_> {
    /// All metrics as text.
    pub(crate) async fn text(&self) -> String {
        let mut text = Text::new();
        self.process(&mut text);
        self.connections(&mut text);
        self.requests(&mut text);
        self.stages(&mut text);
        self.memory(&mut text);
        self.engine(&mut text);
        self.retention(&mut text);
        self.cleaner(&mut text);
        self.records(&mut text);
        self.journal(&mut text);
        lag::lag(&mut text, self.details).await;
        text.into_string()
    }

    fn process(&self, text: &mut Text) {
        let BuildInfo { version, revision } = self.build;
        text.introduce(&BUILD_INFO);
        text.sample(&BUILD_INFO, &[("version", version), ("revision", revision)], 1);
        let Some(process) = &self.process else { return };
        text.alone(&PROCESS_CPU, process.cpu_s);
        text.alone(&PROCESS_START, process.started_unix_s);
        text.alone(&PROCESS_MEMORY, process.resident_bytes);
        text.alone(&PROCESS_THREADS, process.threads);
        text.alone(&PROCESS_FILES, process.open_files);
        text.alone(&PROCESS_FILES_MAX, process.open_files_max);
    }

    /// One sample a shard of the network side.
    fn by_shard(&self, text: &mut Text, metric: &Metric, value: impl Fn(&ShardCounters) -> u64) {
        text.introduce(metric);
        for (shard, counters) in self.counters.iter().enumerate() {
            text.sample(metric, &[("shard", &shard)], value(counters));
        }
    }

    fn connections(&self, text: &mut Text) {
        text.introduce(&CONNECTIONS);
        for (shard, open) in self.connections.iter().enumerate() {
            text.sample(&CONNECTIONS, &[("shard", &shard)], open);
        }
        text.alone(&CONNECTIONS_LIMIT, self.connections_max);
        self.by_shard(text, &CONNECTIONS_ACCEPTED, |c| c.connections_accepted.get());
        self.by_shard(text, &CONNECTIONS_REFUSED, |c| c.connections_refused.get());
        self.by_shard(text, &RECEIVED_BYTES, |c| c.received_bytes.get());
        self.by_shard(text, &SENT_BYTES, |c| c.sent_bytes.get());
        self.by_shard(text, &FETCH_SESSIONS, ShardCounters::open_fetch_sessions);
        self.by_shard(text, &FETCH_SESSION_EVICTIONS, ShardCounters::fetch_session_evictions);
    }

    /// By API, as far as the node was ever asked.
    fn requests(&self, text: &mut Text) {
        let counters = self.counters;
        let is_asked = |index: usize| counters.iter().any(|c| c.api(index).requests.get() > 0);
        let asked: Vec<_> = ShardCounters::apis().filter(|(index, _)| is_asked(*index)).collect();
        text.introduce(&REQUESTS);
        for (index, api) in &asked {
            for (shard, counters) in self.counters.iter().enumerate() {
                let requests = counters.api(*index).requests.get();
                text.sample(&REQUESTS, &[("shard", &shard), ("api", api)], requests);
            }
        }
        text.introduce(&REQUEST_ERRORS);
        for (index, api) in &asked {
            for (shard, counters) in self.counters.iter().enumerate() {
                for (code, count) in counters.api(*index).errors() {
                    let labels: &[(&str, text::Label<'_>)] =
                        &[("shard", &shard), ("api", api), ("error", &code.name())];
                    text.sample(&REQUEST_ERRORS, labels, count);
                }
            }
        }
        self.by_shard(text, &REQUESTS_REFUSED, |c| c.requests_refused.get());
        self.by_shard(text, &REQUESTS_MALFORMED, |c| c.requests_malformed.get());
        text.introduce(&REQUEST_SECONDS);
        for (index, api) in &asked {
            for (shard, counters) in self.counters.iter().enumerate() {
                let labels: &[(&str, text::Label<'_>)] = &[("shard", &shard), ("api", api)];
                text.histogram(&REQUEST_SECONDS, labels, &counters.api(*index).duration.snapshot());
            }
        }
    }

    /// Of the network side, then of the engine.
    fn stages(&self, text: &mut Text) {
        text.introduce(&STAGE_SECONDS);
        let mut stage = |shard: usize, name: &'static str, times: &Snapshot| {
            text.histogram(&STAGE_SECONDS, &[("shard", &shard), ("stage", &name)], times);
        };
        for (shard, counters) in self.counters.iter().enumerate() {
            stage(shard, "queue", &counters.queue.snapshot());
            stage(shard, "reply", &counters.reply.snapshot());
        }
        for ShardStats { shard, stages, journal, .. } in self.stats {
            stage(*shard, "forward", &stages.forward);
            stage(*shard, "park", &stages.park);
            stage(*shard, "journal_write", &journal.write);
            stage(*shard, "journal_sync", &journal.sync);
            stage(*shard, "segment_read", &stages.segment_read);
            stage(*shard, "segment_flush", &stages.segment_flush);
        }
    }

    fn memory(&self, text: &mut Text) {
        let mut uses: Vec<(usize, &'static str, MemoryUse)> = Vec::new();
        for (shard, memory) in self.memory.iter().enumerate() {
            uses.push((shard, "requests", memory.requests));
            uses.push((shard, "responses", memory.responses));
        }
        for stats in self.stats {
            uses.push((stats.shard, "tail_cache", stats.tail_cache));
            uses.push((stats.shard, "unflushed", stats.unflushed));
            uses.push((stats.shard, "journal_queue", stats.journal_queue));
        }
        let mut family = |metric: &Metric, value: fn(&MemoryUse) -> usize| {
            text.introduce(metric);
            for (shard, purpose, memory) in &uses {
                text.sample(metric, &[("shard", shard), ("purpose", purpose)], value(memory));
            }
        };
        family(&MEMORY_BYTES, |memory| memory.bytes);
        family(&MEMORY_BUDGET_BYTES, |memory| memory.budget_bytes);
    }

    /// One sample a shard of the engine.
    fn by_stats(&self, text: &mut Text, metric: &Metric, value: impl Fn(&ShardStats) -> u64) {
        text.introduce(metric);
        for stats in self.stats {
            text.sample(metric, &[("shard", &stats.shard)], value(stats));
        }
    }

    fn engine(&self, text: &mut Text) {
        self.by_stats(text, &SHARD_UP, |s| u64::from(s.fault.is_none()));
        self.by_stats(text, &PARTITIONS, |s| wide(s.partitions));
        self.by_stats(text, &PARTITIONS_OFFLINE, |s| wide(s.partitions_offline));
        self.by_stats(text, &GROUPS, |s| wide(s.groups.groups));
        self.by_stats(text, &GROUP_COORDINATORS_LOADING, |s| wide(s.groups.loading));
        self.by_stats(text, &GROUP_REQUESTS, |s| s.groups.requests);
        self.by_stats(text, &PARTITIONS_STRAY, |s| wide(s.strays));
        self.by_stats(text, &PRODUCES_PARKED, |s| wide(s.produces_parked));
        self.by_stats(text, &FLUSH_QUEUE, |s| wide(s.flush_queue));
        self.by_stats(text, &FLUSHED_BYTES, |s| s.stages.flushed_bytes);
        self.by_stats(text, &OPEN_FILES, |s| wide(s.open_files));
        self.by_stats(text, &OPEN_FILES_LIMIT, |s| wide(s.open_files_max));
        self.by_stats(text, &MESH_QUEUED, |s| wide(s.mesh_queued));
        self.by_stats(text, &SEGMENT_BYTES, |s| s.segment_bytes);
    }

    /// What was deleted since it was too old, too much or below the log start.
    fn retention(&self, text: &mut Text) {
        let mut removed = |metric: &Metric, value: fn(&RemovedStats) -> u64| {
            text.introduce(metric);
            for stats in self.stats {
                for removed in &stats.retention.removed {
                    let reason = removed.reason.name();
                    text.sample(metric, &[("shard", &stats.shard), ("reason", &reason)], value(removed));
                }
            }
        };
        removed(&RETENTION_SEGMENTS, |removed| removed.segments);
        removed(&RETENTION_BYTES, |removed| removed.bytes);
        self.by_stats(text, &RETENTION_SWEEP, |s| s.retention.swept_ms.unsigned_abs() / 1000);
    }

    /// What compaction did.
    fn cleaner(&self, text: &mut Text) {
        self.by_stats(text, &CLEANER_ROUNDS, |s| s.cleaner.rounds);
        self.by_stats(text, &CLEANER_ROUNDS_FAILED, |s| s.cleaner.rounds_failed);
        self.by_stats(text, &CLEANER_READ, |s| s.cleaner.bytes_read);
        self.by_stats(text, &CLEANER_WRITTEN, |s| s.cleaner.bytes_written);
        self.by_stats(text, &CLEANER_REPLACED, |s| s.cleaner.segments_replaced);
        self.by_stats(text, &CLEANER_RECORDS, |s| s.cleaner.records_read);
        self.by_stats(text, &CLEANER_REMOVED, |s| s.cleaner.records_removed);
        self.by_stats(text, &CLEANER_KEYLESS, |s| s.cleaner.keyless_removed);
        self.by_stats(text, &CLEANER_TOMBSTONES, |s| s.cleaner.tombstones_removed);
        self.by_stats(text, &CLEANER_UNCLEANABLE, |s| wide(s.cleaner.uncleanable));
        text.introduce(&CLEANER_DIRTY_RATIO);
        for stats in self.stats {
            text.sample(&CLEANER_DIRTY_RATIO, &[("shard", &stats.shard)], stats.cleaner.dirty_ratio_max);
        }
        self.by_stats(text, &CLEANER_OVERDUE, |s| s.cleaner.overdue_ms_max.unsigned_abs() / 1000);
    }

    /// What was appended and what was read.
    fn records(&self, text: &mut Text) {
        let mut produced = |metric: &Metric, value: fn(&ProducedStats) -> u64| {
            text.introduce(metric);
            for stats in self.stats {
                for produced in &stats.stages.produced {
                    let mode = mode_name(produced.durability);
                    let labels: &[(&str, text::Label<'_>)] =
                        &[("shard", &stats.shard), ("durability", &mode)];
                    text.sample(metric, labels, value(produced));
                }
            }
        };
        produced(&PRODUCED_BATCHES, |produced| produced.batches);
        produced(&PRODUCED_RECORDS, |produced| produced.records);
        produced(&PRODUCED_BYTES, |produced| produced.bytes);
        let mut fetched = |metric: &Metric, value: fn(&ReadStats) -> u64| {
            text.introduce(metric);
            for ShardStats { shard, stages, .. } in self.stats {
                for (source, reads) in [("memory", &stages.memory), ("segments", &stages.segments)] {
                    text.sample(metric, &[("shard", shard), ("source", &source)], value(reads));
                }
            }
        };
        fetched(&FETCHED_BATCHES, |reads| reads.batches);
        fetched(&FETCHED_BYTES, |reads| reads.bytes);
        self.by_stats(text, &TAIL_CACHE_HITS, |s| s.stages.memory.reads);
        self.by_stats(text, &TAIL_CACHE_MISSES, |s| s.stages.segments.reads);
    }

    fn journal(&self, text: &mut Text) {
        self.by_stats(text, &JOURNAL_ENTRIES, |s| s.journal.entries);
        let mut sizes = |metric: &Metric, value: fn(&ShardStats) -> &Snapshot| {
            text.introduce(metric);
            for stats in self.stats {
                text.histogram(metric, &[("shard", &stats.shard)], value(stats));
            }
        };
        sizes(&COMMIT_ENTRIES, |s| &s.journal.commit_entries);
        sizes(&COMMIT_BYTES, |s| &s.journal.commit_bytes);
        self.by_stats(text, &JOURNAL_FILES, |s| wide(s.journal.files_in_use));
        self.by_stats(text, &JOURNAL_FILES_FREE, |s| wide(s.journal.files_free));
        self.by_stats(text, &JOURNAL_FILES_LIMIT, |s| wide(s.journal.files_max));
        text.introduce(&JOURNAL_FULL);
        for stats in self.stats {
            for (reason, full) in [("disk", JournalFull::Disk), ("files", JournalFull::Files)] {
                let is_full = u64::from(stats.journal.full == Some(full));
                text.sample(&JOURNAL_FULL, &[("shard", &stats.shard), ("reason", &reason)], is_full);
            }
        }
    }
}

/// The mode as topic configs have it.
pub(crate) fn mode_name(durability: Durability) -> &'static str {
    match durability {
        Durability::Fsync => "fsync",
        Durability::Write => "write",
    }
}
