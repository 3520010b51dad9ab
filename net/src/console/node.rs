//! `/api/v1/node`: the node, its shards, and where time goes.

use std::collections::BTreeMap;

use corelog_engine::journal::JournalFull;
use corelog_engine::metric::{Scale, Snapshot};
use corelog_engine::shard::{MemoryUse, ProducedStats, ShardStats};
use corelog_runtime::{process, time};
use serde_json::{Value, json};

use crate::http;
use crate::metrics::{NetMemory, ShardCounters};
use crate::service::Service;

pub(super) async fn node(service: &Service) -> Value {
    let stats = service.engine.stats().await;
    let (_, mut health) = http::health(service.engine.shards(), &stats);
    if service.stopping.is_on() {
        health = json!({ "status": "stopping", "reason": "the node is stopping" });
    }
    let image = service.engine.image();
    let nodes = image.nodes.iter().map(|(id, node)| {
        let listeners = node.listeners.iter().map(|it| format!("{} {}:{}", it.name, it.host, it.port));
        json!({ "node": id.0, "listeners": listeners.collect::<Vec<_>>(), "rack": node.rack })
    });
    let process = process::usage().map(|used| {
        json!({
            "cpu_s": used.cpu_s,
            "resident_bytes": used.resident_bytes,
            "threads": used.threads,
            "open_files": used.open_files,
            "open_files_max": used.open_files_max,
            "started_ms": used.started_unix_s * 1e3,
        })
    });
    let topics = image.topics.values().filter(|topic| !topic.internal).count();
    let counters = service.node.all_counters();
    let memory = service.node.memory(&service.options);
    let connections = service.node.connections();
    let shards = stats.iter().map(|it| {
        let index = it.shard;
        shard(it, &counters[index], connections[index], memory[index])
    });
    json!({
        "time_ms": time::unix_time_ms(),
        "node": service.engine.node().0,
        "cluster": image.cluster_id,
        "version": service.options.build.version,
        "revision": service.options.build.revision,
        "health": health,
        "nodes": nodes.collect::<Vec<_>>(),
        "process": process,
        "topics": topics,
        "connections_max": service.options.max_connections,
        "shards": shards.collect::<Vec<_>>(),
        "bounds_ns": Scale::Durations.bounds(),
        "stages": stages(&stats, counters),
        "requests": requests(counters),
    })
}

fn shard(stats: &ShardStats, counters: &ShardCounters, connections: usize, memory: NetMemory) -> Value {
    let sum = |value: fn(&ProducedStats) -> u64| stats.stages.produced.iter().map(value).sum::<u64>();
    let used = |it: MemoryUse| json!({ "bytes": it.bytes, "budget_bytes": it.budget_bytes });
    let (from_memory, from_segments) = (stats.stages.memory, stats.stages.segments);
    json!({
        "shard": stats.shard,
        "fault": stats.fault,
        "connections": connections,
        "received_bytes": counters.received_bytes(),
        "sent_bytes": counters.sent_bytes(),
        "requests": ShardCounters::apis().map(|(at, _)| counters.requests_of(at)).sum::<u64>(),
        "produced_records": sum(|it| it.records),
        "produced_bytes": sum(|it| it.bytes),
        "fetched_bytes": from_memory.bytes + from_segments.bytes,
        "memory_hits": from_memory.reads,
        "memory_misses": from_segments.reads,
        "flushed_bytes": stats.stages.flushed_bytes,
        "partitions": stats.partitions,
        "partitions_offline": stats.partitions_offline,
        "groups": stats.groups.groups,
        "coordinators_loading": stats.groups.loading,
        "group_requests": stats.groups.requests,
        "produces_parked": stats.produces_parked,
        "mesh_queued": stats.mesh_queued,
        "memory": {
            "requests": used(memory.requests),
            "responses": used(memory.responses),
            "tail_cache": used(stats.tail_cache),
            "unflushed": used(stats.unflushed),
            "journal_queue": used(stats.journal_queue),
        },
        "journal": {
            "entries": stats.journal.entries,
            "commits": stats.journal.commit_entries.count(),
            "files_in_use": stats.journal.files_in_use,
            "files_free": stats.journal.files_free,
            "files_max": stats.journal.files_max,
            "full": stats.journal.full.map(|full| match full {
                JournalFull::Disk => "disk",
                JournalFull::Files => "files",
            }),
        },
    })
}

/// Counts by bucket, all shards together; the sum in ns.
fn times(snapshots: impl Iterator<Item = Snapshot>) -> Value {
    let (mut counts, mut sum_ns) = (vec![0_u64; Scale::Durations.bounds().len() + 1], 0_u64);
    for snapshot in snapshots {
        for (total, count) in counts.iter_mut().zip(&snapshot.counts) {
            *total += count;
        }
        sum_ns = sum_ns.saturating_add(snapshot.sum);
    }
    json!({ "counts": counts, "sum_ns": sum_ns })
}

/// The stages of `docs/METRICS.md`, in the order in which a produce comes by, then those of reads.
fn stages(stats: &[ShardStats], counters: &[ShardCounters]) -> Value {
    let engine = |value: fn(&ShardStats) -> &Snapshot| times(stats.iter().map(|it| value(it).clone()));
    json!([
        { "stage": "queue", "times": times(counters.iter().map(ShardCounters::queue_times)) },
        { "stage": "forward", "times": engine(|it| &it.stages.forward) },
        { "stage": "park", "times": engine(|it| &it.stages.park) },
        { "stage": "journal_write", "times": engine(|it| &it.journal.write) },
        { "stage": "journal_sync", "times": engine(|it| &it.journal.sync) },
        { "stage": "reply", "times": times(counters.iter().map(ShardCounters::reply_times)) },
        { "stage": "segment_read", "times": engine(|it| &it.stages.segment_read) },
        { "stage": "segment_flush", "times": engine(|it| &it.stages.segment_flush) },
    ])
}

/// APIs that were ever asked for.
fn requests(counters: &[ShardCounters]) -> Value {
    let asked = ShardCounters::apis().filter_map(|(at, api)| {
        let requests: u64 = counters.iter().map(|it| it.requests_of(at)).sum();
        if requests == 0 {
            return None;
        }
        let mut errors: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (code, count) in counters.iter().flat_map(|it| it.errors_of(at)) {
            *errors.entry(code.name()).or_default() += count;
        }
        let times = times(counters.iter().map(|it| it.durations_of(at)));
        Some(json!({ "api": api.to_string(), "requests": requests, "errors": errors, "times": times }))
    });
    asked.collect()
}
