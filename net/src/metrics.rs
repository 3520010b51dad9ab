//! What the network side counts, and the text in which Prometheus reads it.
//!
//! Each shard writes its own counters, which any shard may read: they are atomics with one writer,
//! so that counting costs a load and a store.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use corelog_engine::shard::ShardStats;
use corelog_protocol::api::Api;

/// A metric as the text format introduces it.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
}

const fn metric(name: &'static str, kind: &'static str, help: &'static str) -> Metric {
    Metric { name, kind, help }
}

const CONNECTIONS: Metric = metric("corelog_net_connections", "gauge", "Open connections of Kafka clients.");
const CONNECTIONS_TOTAL: Metric =
    metric("corelog_net_connections_total", "counter", "Connections of Kafka clients ever taken.");
const CONNECTIONS_REFUSED: Metric = metric(
    "corelog_net_connections_refused_total",
    "counter",
    "Connections closed at once because max.connections was reached.",
);
const RECEIVED_BYTES: Metric =
    metric("corelog_net_received_bytes_total", "counter", "Bytes of requests read from clients.");
const SENT_BYTES: Metric =
    metric("corelog_net_sent_bytes_total", "counter", "Bytes of responses written to clients.");
const REFUSED: Metric = metric(
    "corelog_net_requests_refused_total",
    "counter",
    "Requests for an API or version that is not served.",
);
const FETCH_SESSIONS: Metric =
    metric("corelog_net_fetch_sessions", "gauge", "Incremental fetch sessions that are remembered.");
const FETCH_SESSION_EVICTIONS: Metric = metric(
    "corelog_net_fetch_session_evictions_total",
    "counter",
    "Incremental fetch sessions that were forgotten for others.",
);
const RESPONSE_BYTES: Metric = metric(
    "corelog_net_response_bytes",
    "gauge",
    "Bytes of fetched records that wait to be written to clients.",
);
const REQUEST_SECONDS: Metric = metric(
    "corelog_net_request_duration_seconds",
    "histogram",
    "From a request's arrival to its answer being ready, waiting behind earlier requests included.",
);
const PARTITIONS: Metric = metric("corelog_engine_partitions", "gauge", "Partitions in service, by shard.");
const PARTITIONS_OFFLINE: Metric = metric(
    "corelog_engine_partitions_offline",
    "gauge",
    "Partitions that are offline after corruption or an I/O error.",
);
const STRAYS: Metric =
    metric("corelog_engine_partitions_stray", "gauge", "Partitions on disk that no topic claims.");
const TAIL_BYTES: Metric = metric("corelog_engine_tail_bytes", "gauge", "Records kept in memory, in bytes.");
const UNFLUSHED_BYTES: Metric =
    metric("corelog_engine_unflushed_bytes", "gauge", "Records that only the journal holds, in bytes.");
const JOURNAL_FILES: Metric =
    metric("corelog_journal_files", "gauge", "Journal files that are still needed.");
const JOURNAL_QUEUED_BYTES: Metric =
    metric("corelog_journal_queued_bytes", "gauge", "Appended and not yet written, in bytes.");
const JOURNAL_ENTRIES: Metric =
    metric("corelog_journal_entries_total", "counter", "Entries ever appended to the journal.");
const PRODUCES_PARKED: Metric =
    metric("corelog_engine_produces_parked", "gauge", "Produces that wait for room in the journal.");
const SHARD_UP: Metric =
    metric("corelog_engine_shard_up", "gauge", "1 while the shard serves, 0 after a fault.");

/// Upper bounds of the latency buckets: powers of two microseconds, up to 2^23 (8.4 s).
const BUCKETS: usize = 24;

/// Requests of one API.
#[derive(Default)]
struct Latency {
    /// `buckets[i]` counts what took at most 2^i µs and more than 2^(i−1) µs; longer ones count
    /// in `count` only.
    buckets: [AtomicU64; BUCKETS],
    count: AtomicU64,
    sum_us: AtomicU64,
}

/// One shard's counters.
#[derive(Default)]
pub(crate) struct ShardCounters {
    connections_total: AtomicU64,
    connections_refused: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    refused: AtomicU64,
    fetch_sessions: AtomicU64,
    fetch_session_evictions: AtomicU64,
    response_bytes: AtomicU64,
    latencies: [Latency; 13],
}

/// One writer, so that no read-modify-write is needed.
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(count), Relaxed);
}

fn add_len(counter: &AtomicU64, len: usize) {
    add(counter, u64::try_from(len).unwrap_or(u64::MAX));
}

impl ShardCounters {
    pub(crate) fn connected(&self) {
        add(&self.connections_total, 1);
    }

    pub(crate) fn connection_refused(&self) {
        add(&self.connections_refused, 1);
    }

    pub(crate) fn received(&self, bytes: usize) {
        add_len(&self.received_bytes, bytes);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        add_len(&self.sent_bytes, bytes);
    }

    pub(crate) fn refused(&self) {
        add(&self.refused, 1);
    }

    /// So many sessions there are, and so many had to go for others.
    pub(crate) fn fetch_sessions(&self, sessions: usize, evictions: u64) {
        self.fetch_sessions.store(wide(sessions), Relaxed);
        self.fetch_session_evictions.store(evictions, Relaxed);
    }

    /// So many bytes are on their way out.
    pub(crate) fn response_bytes(&self, bytes: usize) {
        self.response_bytes.store(wide(bytes), Relaxed);
    }

    /// A request of `api` was answered.
    pub(crate) fn answered(&self, api: Api, after: Duration) {
        let Some(latency) = Api::all().position(|known| known == api).and_then(|at| self.latencies.get(at))
        else {
            return;
        };
        let us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        add(&latency.count, 1);
        add(&latency.sum_us, us);
        if let Some(bucket) = latency.buckets.get(bucket_of(us)) {
            add(bucket, 1);
        }
    }
}

/// The first power of two that is not less.
fn bucket_of(us: u64) -> usize {
    let power = us.max(1).checked_next_power_of_two();
    power.map_or(BUCKETS, |power| usize::try_from(power.trailing_zeros()).unwrap_or(BUCKETS))
}

/// Writes metrics in Prometheus' text format.
struct Text(String);

impl Text {
    fn introduce(&mut self, metric: &Metric) {
        let Metric { name, kind, help } = metric;
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn by_shard<T>(&mut self, metric: &Metric, shards: &[T], value: impl Fn(usize, &T) -> u64) {
        self.introduce(metric);
        for (shard, counters) in shards.iter().enumerate() {
            let _ = writeln!(self.0, "{}{{shard=\"{shard}\"}} {}", metric.name, value(shard, counters));
        }
    }

    fn by_stats(&mut self, metric: &Metric, stats: &[ShardStats], value: impl Fn(&ShardStats) -> u64) {
        self.introduce(metric);
        for stats in stats {
            let _ = writeln!(self.0, "{}{{shard=\"{}\"}} {}", metric.name, stats.shard, value(stats));
        }
    }

    /// One histogram per API that was ever asked, over all shards.
    fn latencies(&mut self, shards: &[ShardCounters]) {
        self.introduce(&REQUEST_SECONDS);
        let name = REQUEST_SECONDS.name;
        for (at, api) in Api::all().enumerate() {
            let sum =
                |value: &dyn Fn(&Latency) -> u64| shards.iter().map(|s| value(&s.latencies[at])).sum::<u64>();
            let count = sum(&|latency| latency.count.load(Relaxed));
            if count == 0 {
                continue;
            }
            let mut below = 0;
            for bucket in 0..BUCKETS {
                below += sum(&|latency| latency.buckets[bucket].load(Relaxed));
                let bound = Duration::from_micros(1 << bucket).as_secs_f64();
                let _ = writeln!(self.0, "{name}_bucket{{api=\"{api}\",le=\"{bound}\"}} {below}");
            }
            let _ = writeln!(self.0, "{name}_bucket{{api=\"{api}\",le=\"+Inf\"}} {count}");
            let total = Duration::from_micros(sum(&|latency| latency.sum_us.load(Relaxed))).as_secs_f64();
            let _ = writeln!(
                self.0,
                "{name}_sum{{api=\"{api}\"}} {total}\n{name}_count{{api=\"{api}\"}} {count}"
            );
        }
    }
}

fn wide(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// All metrics of the node. `connections` has the open connections by shard.
pub(crate) fn render(shards: &[ShardCounters], connections: &[usize], stats: &[ShardStats]) -> String {
    let mut text = Text(String::with_capacity(16 << 10));
    text.by_shard(&CONNECTIONS, connections, |_, open| wide(*open));
    text.by_shard(&CONNECTIONS_TOTAL, shards, |_, s| s.connections_total.load(Relaxed));
    text.by_shard(&CONNECTIONS_REFUSED, shards, |_, s| s.connections_refused.load(Relaxed));
    text.by_shard(&RECEIVED_BYTES, shards, |_, s| s.received_bytes.load(Relaxed));
    text.by_shard(&SENT_BYTES, shards, |_, s| s.sent_bytes.load(Relaxed));
    text.by_shard(&REFUSED, shards, |_, s| s.refused.load(Relaxed));
    text.by_shard(&FETCH_SESSIONS, shards, |_, s| s.fetch_sessions.load(Relaxed));
    text.by_shard(&FETCH_SESSION_EVICTIONS, shards, |_, s| s.fetch_session_evictions.load(Relaxed));
    text.by_shard(&RESPONSE_BYTES, shards, |_, s| s.response_bytes.load(Relaxed));
    text.latencies(shards);
    text.by_stats(&SHARD_UP, stats, |s| u64::from(s.fault.is_none()));
    text.by_stats(&PARTITIONS, stats, |s| wide(s.partitions));
    text.by_stats(&PARTITIONS_OFFLINE, stats, |s| wide(s.partitions_offline));
    text.by_stats(&STRAYS, stats, |s| wide(s.strays));
    text.by_stats(&TAIL_BYTES, stats, |s| wide(s.tail_bytes));
    text.by_stats(&UNFLUSHED_BYTES, stats, |s| wide(s.unflushed_bytes));
    text.by_stats(&JOURNAL_FILES, stats, |s| wide(s.journal_files));
    text.by_stats(&JOURNAL_QUEUED_BYTES, stats, |s| wide(s.journal_queued_bytes));
    text.by_stats(&JOURNAL_ENTRIES, stats, |s| s.journal_entries);
    text.by_stats(&PRODUCES_PARKED, stats, |s| wide(s.produces_parked));
    text.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_served_api_has_a_histogram() {
        assert_eq!(ShardCounters::default().latencies.len(), Api::all().len());
    }

    #[test]
    fn a_duration_counts_in_the_first_bucket_that_is_not_less() {
        let cases = [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1 << 23, 23), ((1 << 23) + 1, 24)];
        for (us, bucket) in cases {
            assert_eq!(bucket_of(us), bucket, "{us}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS);
    }

    #[test]
    fn the_text_has_sums_over_shards_and_cumulative_buckets() {
        let shards = [ShardCounters::default(), ShardCounters::default()];
        shards[0].answered(Api::Fetch, Duration::from_micros(3));
        shards[1].answered(Api::Fetch, Duration::from_micros(100));
        shards[1].answered(Api::Fetch, Duration::from_secs(100));
        shards[1].received(10);
        let text = render(&shards, &[1, 2], &[ShardStats::default()]);
        for line in [
            "corelog_net_connections{shard=\"1\"} 2",
            "corelog_net_received_bytes_total{shard=\"1\"} 10",
            "corelog_net_request_duration_seconds_bucket{api=\"Fetch\",le=\"0.000004\"} 1",
            "corelog_net_request_duration_seconds_bucket{api=\"Fetch\",le=\"8.388608\"} 2",
            "corelog_net_request_duration_seconds_bucket{api=\"Fetch\",le=\"+Inf\"} 3",
            "corelog_net_request_duration_seconds_count{api=\"Fetch\"} 3",
            "corelog_engine_shard_up{shard=\"0\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("Produce\""));
    }
}
