//! The table of topic configs: names, ranges and defaults as Apache Kafka 4.0's `LogConfig` has them.

use super::NO_LIMIT;
use super::descriptor::ConfigDescriptor;
use super::descriptor::DefaultValue::{self, Fixed};
use super::descriptor::Enforcement::{self, Enforced, NotNeeded, NotYet};
use super::descriptor::Range;

/// The descriptor of that name.
pub fn descriptor(name: &str) -> Option<&'static ConfigDescriptor> {
    let found = DESCRIPTORS.binary_search_by(|descriptor| descriptor.name.cmp(name));
    found.ok().and_then(|index| DESCRIPTORS.get(index))
}

const fn config(
    name: &'static str,
    range: Range,
    default: DefaultValue,
    enforcement: Enforcement,
    doc: &'static str,
) -> ConfigDescriptor {
    ConfigDescriptor { name, doc, enforcement, range, default }
}

const LONG_MAX: &str = "9223372036854775807";

/// Every topic config, by name.
pub(super) static DESCRIPTORS: &[ConfigDescriptor] = &[
    config(
        "cleanup.policy",
        Range::ListOf(&["compact", "delete"]),
        Fixed("delete"),
        Enforced,
        "What becomes of old segments: 'delete' removes them by time or size, 'compact' keeps the \
         latest record of each key, 'compact,delete' does both. Records without a key are refused \
         when 'compact' is set, and those that are there already go.",
    ),
    config(
        "compression.gzip.level",
        Range::GzipLevel,
        Fixed("-1"),
        Enforced,
        "The level when compression.type is gzip; -1 is the codec's own default.",
    ),
    config(
        "compression.lz4.level",
        Range::IntUpTo { min: 1, max: 17 },
        Fixed("9"),
        NotNeeded,
        "The level when compression.type is lz4. Corelog's lz4 has one level.",
    ),
    config(
        "compression.type",
        Range::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
        Fixed("producer"),
        Enforced,
        "The codec in which the topic is kept: as the producer compressed each batch ('producer'), \
         or this one. Then a batch in another codec is compressed anew when it is appended, on the \
         shard that has the partition: at 1 MiB a batch that is milliseconds for gzip and zstd, in \
         which the shard does nothing else.",
    ),
    config(
        "compression.zstd.level",
        Range::IntUpTo { min: -131_072, max: 22 },
        Fixed("3"),
        Enforced,
        "The level when compression.type is zstd.",
    ),
    config(
        "corelog.durability",
        Range::OneOf(&["fsync", "write"]),
        DefaultValue::Durability,
        Enforced,
        "When a record counts as acknowledged. 'fsync': after the journal's sync, so it survives a \
         power failure. 'write': after the journal's write, so it survives the death of the \
         process; it is synced a moment later.",
    ),
    config(
        "delete.retention.ms",
        Range::Long { min: 0 },
        Fixed("86400000"),
        Enforced,
        "How long a tombstone, a record without a value, is kept in a compacted topic after \
         compaction met it first: who reads the topic from its start within this time learns of it.",
    ),
    config(
        "file.delete.delay.ms",
        Range::Long { min: 0 },
        Fixed("60000"),
        NotNeeded,
        "How long Kafka waits before it removes a deleted segment's file. Corelog removes it when \
         no read needs it.",
    ),
    config(
        "flush.messages",
        Range::Long { min: 1 },
        Fixed(LONG_MAX),
        NotNeeded,
        "After how many records Kafka syncs a log. corelog.durability decides that here.",
    ),
    config(
        "flush.ms",
        Range::Long { min: 0 },
        Fixed(LONG_MAX),
        NotNeeded,
        "After what time Kafka syncs a log. corelog.durability decides that here.",
    ),
    config(
        "index.interval.bytes",
        Range::Int { min: 0 },
        Fixed("4096"),
        Enforced,
        "How many bytes of a segment lie between two entries of its sparse offset index.",
    ),
    config(
        "max.compaction.lag.ms",
        Range::Long { min: 1 },
        Fixed(LONG_MAX),
        Enforced,
        "The longest time that a record stays uncompacted: its segment is closed and compacted then, \
         whatever min.cleanable.dirty.ratio says.",
    ),
    config(
        "max.message.bytes",
        Range::MessageBytes,
        DefaultValue::MaxMessageBytes,
        Enforced,
        "The largest record batch, after compression, that the topic takes. What one journal entry \
         can hold is the upper limit.",
    ),
    config(
        "message.timestamp.after.max.ms",
        Range::Long { min: 0 },
        Fixed("3600000"),
        Enforced,
        "How far a record's timestamp may lie ahead of the node's clock, when \
         message.timestamp.type is CreateTime.",
    ),
    config(
        "message.timestamp.before.max.ms",
        Range::Long { min: 0 },
        Fixed(LONG_MAX),
        Enforced,
        "How far a record's timestamp may lie behind the node's clock, when \
         message.timestamp.type is CreateTime.",
    ),
    config(
        "message.timestamp.type",
        Range::OneOf(&["CreateTime", "LogAppendTime"]),
        Fixed("CreateTime"),
        Enforced,
        "Whether a record's timestamp is the producer's (CreateTime) or the node's at the time of \
         the append (LogAppendTime).",
    ),
    config(
        "min.cleanable.dirty.ratio",
        Range::Double { min: 0.0, max: 1.0 },
        Fixed("0.5"),
        Enforced,
        "Which share of a compacted log's closed segments must be uncompacted before they are \
         compacted.",
    ),
    config(
        "min.compaction.lag.ms",
        Range::Long { min: 0 },
        Fixed("0"),
        Enforced,
        "The shortest time that a record stays uncompacted.",
    ),
    config(
        "min.insync.replicas",
        Range::Int { min: 1 },
        Fixed("1"),
        Enforced,
        "How many replicas must be in sync for a produce with acks=all; with fewer it is refused. \
         Topics have one replica until nodes replicate, so a value above 1 refuses them all.",
    ),
    config(
        "preallocate",
        Range::Boolean,
        Fixed("false"),
        NotNeeded,
        "Whether Kafka preallocates a segment's file. Corelog's journal always is; its segments \
         are written in large blocks.",
    ),
    config(
        "retention.bytes",
        Range::Long { min: NO_LIMIT },
        Fixed("-1"),
        Enforced,
        "The oldest segments of a partition are deleted as long as at least this much is left, -1 \
         for no limit. Where cleanup.policy has 'delete'.",
    ),
    config(
        "retention.ms",
        Range::Long { min: NO_LIMIT },
        Fixed("604800000"),
        Enforced,
        "A segment is deleted when its newest record is older than this, -1 for never. Where \
         cleanup.policy has 'delete'.",
    ),
    config(
        "segment.bytes",
        Range::Int { min: 14 },
        DefaultValue::SegmentBytes,
        Enforced,
        "At which size a segment is closed and the next one begun.",
    ),
    config(
        "segment.index.bytes",
        Range::Int { min: 4 },
        Fixed("10485760"),
        NotNeeded,
        "The size of the index files that Kafka preallocates. Corelog's indexes grow as needed.",
    ),
    config(
        "segment.jitter.ms",
        Range::Long { min: 0 },
        Fixed("0"),
        Enforced,
        "How much is taken off segment.ms at most, for each segment another part of it, so that \
         segments do not close together.",
    ),
    config(
        "segment.ms",
        Range::Long { min: 1 },
        DefaultValue::SegmentMs,
        Enforced,
        "At which age a segment is closed and the next one begun: with the next records, or, where \
         records are deleted by time or compacted, without them.",
    ),
    config(
        "unclean.leader.election.enable",
        Range::Boolean,
        Fixed("false"),
        NotYet,
        "Whether a replica that is not in sync may become leader when no other can, at the price \
         of lost records. Topics have one replica until nodes replicate.",
    ),
];
