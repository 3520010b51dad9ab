//! Every metric: its name, its kind, one sentence. `docs/METRICS.md` has more to say about each.

/// A metric as the text format introduces it.
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $kind:literal $name:literal: $help:literal;)*) => {
        $(pub(super) const $constant: Metric = Metric { name: $name, kind: $kind, help: $help };)*
    };
}

metrics! {
    BUILD_INFO = "gauge" "corelog_build_info": "Always 1; what runs is in the labels.";
    PROCESS_CPU = "counter" "process_cpu_seconds_total": "CPU time of all threads, user and system.";
    PROCESS_START = "gauge" "process_start_time_seconds": "When the process started, in seconds since 1970.";
    PROCESS_MEMORY = "gauge" "process_resident_memory_bytes": "Resident memory.";
    PROCESS_THREADS = "gauge" "process_threads": "Threads, io_uring's workers included.";
    PROCESS_FILES = "gauge" "process_open_fds": "Open file descriptors.";
    PROCESS_FILES_MAX = "gauge" "process_max_fds": "How many file descriptors may be open.";

    CONNECTIONS = "gauge" "corelog_net_connections": "Open connections of Kafka clients.";
    CONNECTIONS_LIMIT = "gauge" "corelog_net_connections_limit": "Connections above this number, over all shards, are refused.";
    CONNECTIONS_ACCEPTED = "counter" "corelog_net_connections_accepted_total": "Connections that this shard took to serve.";
    CONNECTIONS_REFUSED = "counter" "corelog_net_connections_refused_total": "Connections closed at once because there were too many.";
    RECEIVED_BYTES = "counter" "corelog_net_received_bytes_total": "Bytes read from clients.";
    SENT_BYTES = "counter" "corelog_net_sent_bytes_total": "Bytes written to clients.";
    FETCH_SESSIONS = "gauge" "corelog_net_fetch_sessions": "Incremental fetch sessions that are remembered.";
    FETCH_SESSION_EVICTIONS = "counter" "corelog_net_fetch_session_evictions_total": "Incremental fetch sessions forgotten for others.";

    REQUESTS = "counter" "corelog_net_requests_total": "Requests of served APIs that were read.";
    REQUEST_ERRORS = "counter" "corelog_net_request_errors_total": "Error codes in answers; one answer can hold several, one a partition.";
    REQUESTS_REFUSED = "counter" "corelog_net_requests_refused_total": "Requests for an API or version that is not served.";
    REQUESTS_MALFORMED = "counter" "corelog_net_requests_malformed_total": "Requests that could not be read; their connections were closed.";
    REQUEST_SECONDS = "histogram" "corelog_net_request_duration_seconds": "From a request's last byte read to its answer written.";
    STAGE_SECONDS = "histogram" "corelog_stage_duration_seconds": "Time spent in one stage of the way of a request, or of what it waits for.";

    MEMORY_BYTES = "gauge" "corelog_memory_bytes": "Memory in use for one purpose.";
    MEMORY_BUDGET_BYTES = "gauge" "corelog_memory_budget_bytes": "Memory that may be used for one purpose.";

    SHARD_UP = "gauge" "corelog_engine_shard_up": "1 while the shard serves, 0 after a fault.";
    PARTITIONS = "gauge" "corelog_engine_partitions": "Partitions placed on the shard.";
    PARTITIONS_OFFLINE = "gauge" "corelog_engine_partitions_offline": "Of these, the ones that are offline after corruption or an I/O error.";
    PARTITIONS_STRAY = "gauge" "corelog_engine_partitions_stray": "Partitions on disk that no topic claims.";
    PRODUCES_PARKED = "gauge" "corelog_engine_produces_parked": "Produces that wait for room in the journal.";
    FLUSH_QUEUE = "gauge" "corelog_engine_flush_queue_partitions": "Partitions that wait to be written to their segments.";
    FLUSHED_BYTES = "counter" "corelog_engine_flushed_bytes_total": "Records written to segments behind the journal, in bytes.";
    OPEN_FILES = "gauge" "corelog_engine_open_segment_files": "Segment files held open.";
    OPEN_FILES_LIMIT = "gauge" "corelog_engine_open_segment_files_limit": "Segment files above this number are closed, least recently used first.";
    MESH_QUEUED = "gauge" "corelog_engine_mesh_queued_messages": "Messages to other shards that these have not taken yet.";
    SEGMENT_BYTES = "gauge" "corelog_engine_segment_bytes": "Bytes of segment files, as far as it was looked which ones there are.";

    RETENTION_SEGMENTS = "counter" "corelog_retention_deleted_segments_total": "Segments that retention deleted, by reason.";
    RETENTION_BYTES = "counter" "corelog_retention_deleted_bytes_total": "Bytes of the segments that retention deleted, by reason.";
    CLEANER_ROUNDS = "counter" "corelog_log_cleaner_rounds_total": "Rounds of log compaction over one partition that came to their end.";
    CLEANER_ROUNDS_FAILED = "counter" "corelog_log_cleaner_failed_rounds_total": "Rounds of log compaction that ended early by an error.";
    CLEANER_READ = "counter" "corelog_log_cleaner_read_bytes_total": "Bytes of record batches that log compaction judged.";
    CLEANER_WRITTEN = "counter" "corelog_log_cleaner_written_bytes_total": "Bytes of the segments that log compaction put in the place of others.";
    CLEANER_REPLACED = "counter" "corelog_log_cleaner_replaced_segments_total": "Segments whose place was taken by compacted ones.";
    CLEANER_RECORDS = "counter" "corelog_log_cleaner_read_records_total": "Records that log compaction judged.";
    CLEANER_REMOVED = "counter" "corelog_log_cleaner_removed_records_total": "Records that log compaction removed.";
    CLEANER_KEYLESS = "counter" "corelog_log_cleaner_removed_keyless_records_total": "Records that log compaction removed since they have no key.";
    CLEANER_TOMBSTONES = "counter" "corelog_log_cleaner_removed_tombstones_total": "Tombstones that log compaction removed since their time had passed.";
    CLEANER_UNCLEANABLE = "gauge" "corelog_log_cleaner_uncleanable_partitions": "Partitions that log compaction leaves alone since a segment of theirs cannot be read.";
    CLEANER_DIRTY_RATIO = "gauge" "corelog_log_cleaner_dirty_ratio_max": "The share of what is not compacted in the closed segments of the dirtiest log, from 0 to 1, at the last look.";
    CLEANER_OVERDUE = "gauge" "corelog_log_cleaner_overdue_seconds_max": "For how long a record has been waiting beyond max.compaction.lag.ms, at the last look.";
    RETENTION_SWEEP = "gauge" "corelog_retention_sweep_timestamp_seconds": "When retention had looked at every partition, in seconds since 1970; 0 before the first time.";

    GROUPS = "gauge" "corelog_engine_groups": "Consumer groups that the shard coordinates.";
    GROUP_COORDINATORS_LOADING = "gauge" "corelog_engine_group_coordinators_loading": "Partitions of __consumer_offsets whose groups are not served yet.";
    GROUP_REQUESTS = "counter" "corelog_engine_group_requests_total": "Requests that reached a group's coordinator.";

    GROUP_COMMITTED = "gauge" "corelog_group_committed_offset": "The offset from which a group goes on in a partition.";
    GROUP_LAG = "gauge" "corelog_group_lag_records": "How many records a group has in front of it in a partition that this node leads.";
    GROUP_END = "gauge" "corelog_group_high_watermark_offset": "Where a partition ends for consumers, if this node leads it and a group committed an offset for it.";
    GROUP_LEFT_OUT = "gauge" "corelog_group_offsets_left_out": "Committed offsets that are not told here, since there are too many.";

    PRODUCED_BATCHES = "counter" "corelog_engine_produced_batches_total": "Record batches appended, by the durability mode of their topics.";
    PRODUCED_RECORDS = "counter" "corelog_engine_produced_records_total": "Records appended, by the durability mode of their topics.";
    PRODUCED_BYTES = "counter" "corelog_engine_produced_bytes_total": "Record batches appended, in bytes as stored, by the durability mode of their topics.";
    FETCHED_BATCHES = "counter" "corelog_engine_fetched_batches_total": "Record batches read for clients.";
    FETCHED_BYTES = "counter" "corelog_engine_fetched_bytes_total": "Record batches read for clients, in bytes as stored.";
    TAIL_CACHE_HITS = "counter" "corelog_engine_tail_cache_hits_total": "Reads of a partition that memory answered with records.";
    TAIL_CACHE_MISSES = "counter" "corelog_engine_tail_cache_misses_total": "Reads of a partition that had to go to its segments.";

    JOURNAL_ENTRIES = "counter" "corelog_journal_entries_total": "Entries appended to the journal since the start.";
    COMMIT_ENTRIES = "histogram" "corelog_journal_commit_entries": "Entries in one write to the journal.";
    COMMIT_BYTES = "histogram" "corelog_journal_commit_bytes": "Bytes of one write to the journal, header and padding included.";
    JOURNAL_FILES = "gauge" "corelog_journal_files_in_use": "Journal files whose entries are needed.";
    JOURNAL_FILES_FREE = "gauge" "corelog_journal_files_free": "Journal files that are ready to be written to.";
    JOURNAL_FILES_LIMIT = "gauge" "corelog_journal_files_limit": "With so many journal files in use produces are held back.";
    JOURNAL_FULL = "gauge" "corelog_journal_full": "1 while produces are refused (reason disk) or held back (reason files) for lack of room.";
}
