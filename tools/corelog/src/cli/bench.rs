//! `corelog bench`: the load generator, and probes of this machine.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use corelog_bench::plan::{Acks, Arrivals, Keys, Plan, Rate, Size};
use corelog_net::client::producer::Codec;

use super::bench_compare::BenchCompare;
use super::bench_groups::BenchGroups;
use super::bench_machine::BenchMachine;
use super::{BenchSink, units};

const EXAMPLES: &str = "\
Examples:
  corelog bench                                       a node of its own: knee, latency at half of it
  corelog bench --bootstrap 127.0.0.1:9092 --rate 20000 --duration 30s
  corelog bench --arrivals max --producers 16 --record-bytes 1KiB --consumers 0
  corelog bench --arrivals closed --producers 64 --batch-records 1 --in-flight 1
  corelog bench --sweep --sweep-p99-ms 10 --record-bytes uniform:100..2000 --keys zipf:100000,0.99
  corelog bench --scenario bench/scenarios/backlog.toml --out results

A time is a number of seconds, or has its unit: 500ms, 8s, 2m, 1h. A size is a number of bytes, or has
its unit: 1KiB, 64KiB, 1MiB, where KB and MB are powers of 1000.

Latency is counted from the time at which a record was to be sent, so that a stall of the broker is
seen by every record that was due in it (open loop: no coordinated omission). Every record carries a
sequence number and a checksum; the exit code is 1 when one is lost, repeated, out of order or
changed without that having been allowed.";

/// Drives a Kafka with load and measures it; without --bootstrap a node of its own.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(crate) command: Option<BenchCommand>,
    #[command(flatten)]
    pub(crate) run: BenchRun,
}

/// What else to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// The journal's commit time, alone and beside the write-behind of many segments.
    Journal(BenchJournal),
    Groups(BenchGroups),
    Sink(BenchSink),
    Compare(BenchCompare),
    Machine(BenchMachine),
}

/// Which broker is driven, from where.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchPlace {
    /// Brokers to drive, as host:port, separated by commas. Without it a node is started as a child
    /// process, and stopped at the end.
    #[arg(long, value_name = "ADDR", help_heading = "Where")]
    pub(crate) bootstrap: Option<String>,
    /// Cores of the generator, as in 1 or 2-3; without it, cores that the node does not use.
    #[arg(long, value_name = "LIST", help_heading = "Where")]
    pub(crate) cores: Option<String>,
    /// Cores of the node that is started.
    #[arg(long, value_name = "LIST", conflicts_with = "bootstrap", help_heading = "Where")]
    pub(crate) node_cores: Option<String>,
    /// When that node acknowledges: after the sync, or after the write.
    #[arg(
        long,
        value_enum,
        default_value_t = NodeDurability::Fsync,
        conflicts_with = "bootstrap",
        help_heading = "Where"
    )]
    pub(crate) durability: NodeDurability,
    /// A new directory on a real disk for that node's data; removed at the end.
    #[arg(long, value_name = "DIR", conflicts_with = "bootstrap", help_heading = "Where")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Process of the broker on this machine, whose CPU and memory are measured too.
    #[arg(long, value_name = "PID", requires = "bootstrap", help_heading = "Where")]
    pub(crate) server_pid: Option<u32>,
}

/// Which load, where, and what becomes of the results.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchRun {
    #[command(flatten)]
    pub(crate) place: BenchPlace,
    /// An existing topic to use, and to leave alone at the end; its earlier records are not read.
    #[arg(long, value_name = "NAME", help_heading = "Where")]
    pub(crate) topic: Option<String>,

    /// A scenario's file; other flags replace what it says.
    #[arg(long, value_name = "FILE", help_heading = "Load")]
    pub(crate) scenario: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) load: LoadFlags,

    /// Looks for the highest rate that holds, and stops there. A scenario's file has its own sweep.
    #[arg(long, conflicts_with = "scenario", help_heading = "Sweep")]
    pub(crate) sweep: bool,
    /// A rate holds as long as the 99th percentile of the response time is at most so many ms.
    #[arg(long, value_name = "MS", default_value_t = 50.0, requires = "sweep", help_heading = "Sweep")]
    pub(crate) sweep_p99_ms: f64,
    /// The rate to begin with, in records a second.
    #[arg(long, value_name = "RATE", default_value_t = 5_000.0, requires = "sweep", help_heading = "Sweep")]
    pub(crate) sweep_start: f64,
    /// No rate above this is tried, in records a second.
    #[arg(long, value_name = "RATE", default_value_t = 10e6, requires = "sweep", help_heading = "Sweep")]
    pub(crate) sweep_max: f64,
    /// How long each rate is measured.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "3s",
        value_parser = units::seconds,
        requires = "sweep",
        help_heading = "Sweep"
    )]
    pub(crate) sweep_step: f64,

    /// A directory for report.json, the interval log and percentile files [default:
    /// corelog-bench-DATE-TIME, here].
    #[arg(long, value_name = "DIR", help_heading = "Results")]
    pub(crate) out: Option<PathBuf>,
    /// No line while it runs.
    #[arg(long, short, help_heading = "Results")]
    pub(crate) quiet: bool,
}

/// Every axis of the load. What is left out is the scenario's, or the default.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub(crate) struct LoadFlags {
    /// When records are sent.
    #[arg(long, value_enum, help_heading = "Load")]
    pub(crate) arrivals: Option<ArrivalsFlag>,
    /// Records a second over all producers, in an open loop [default: 10000].
    #[arg(long, value_name = "RATE", help_heading = "Load")]
    pub(crate) rate: Option<Rate>,
    /// Producers, each with connections of its own [default: 4].
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub(crate) producers: Option<usize>,
    /// Consumers of each group [default: 1].
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub(crate) consumers: Option<usize>,
    /// Groups of consumers; each reads every record [default: 1].
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub(crate) groups: Option<usize>,
    /// Topics [default: 1].
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub(crate) topics: Option<u32>,
    /// Partitions of each topic [default: 4].
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub(crate) partitions: Option<i32>,
    /// Replicas of each partition [default: 1].
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub(crate) replication_factor: Option<i16>,
    /// A config of the topics, as name=value; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_and_value, help_heading = "Load")]
    pub(crate) topic_config: Vec<(String, String)>,
    /// Size of values: 1KiB, uniform:100..2000, lognormal:800,0.7 [default: 1KiB].
    #[arg(long, value_name = "SIZE", help_heading = "Load")]
    pub(crate) record_bytes: Option<Size>,
    /// Keys: none, uniform:100000, zipf:100000,0.99 [default: none].
    #[arg(long, value_name = "KEYS", help_heading = "Load")]
    pub(crate) keys: Option<Keys>,
    /// How much of a value is random, in per cent [default: 100].
    #[arg(long, value_name = "PERCENT", help_heading = "Load")]
    pub(crate) entropy_percent: Option<u8>,
    /// Values are pieces of this file.
    #[arg(long, value_name = "FILE", help_heading = "Load")]
    pub(crate) payload_file: Option<PathBuf>,
    /// How batches are compressed: none, gzip, snappy, lz4, zstd [default: none].
    #[arg(long, value_name = "CODEC", value_parser = super::codec, help_heading = "Load")]
    pub(crate) codec: Option<Codec>,
    /// Which acknowledgement is waited for [default: all].
    #[arg(long, value_enum, help_heading = "Load")]
    pub(crate) acks: Option<AcksFlag>,
    /// Producers have ids: what is sent again is recognised.
    #[arg(long, help_heading = "Load")]
    pub(crate) idempotent: bool,
    /// How long a batch waits for more records, in ms [default: 0].
    #[arg(long, value_name = "MS", help_heading = "Load")]
    pub(crate) linger_ms: Option<f64>,
    /// A batch of this size is complete [default: 64KiB].
    #[arg(long, value_name = "SIZE", value_parser = units::bytes::<usize>, help_heading = "Load")]
    pub(crate) batch_bytes: Option<usize>,
    /// A batch of so many records is complete.
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub(crate) batch_records: Option<u32>,
    /// Requests under way on each connection [default: 5].
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub(crate) in_flight: Option<usize>,
    /// How long the load runs before it is measured [default: 2s].
    #[arg(long, value_name = "TIME", value_parser = units::duration, help_heading = "Load")]
    pub(crate) warm_up: Option<Duration>,
    /// How long it is measured [default: 10s].
    #[arg(long, value_name = "TIME", value_parser = units::duration, help_heading = "Load")]
    pub(crate) duration: Option<Duration>,
    /// It ends after so many records instead.
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub(crate) records: Option<u64>,
    /// Consumers start so much later, and read the backlog while the tail goes on.
    #[arg(long, value_name = "TIME", value_parser = units::duration, help_heading = "Load")]
    pub(crate) catch_up: Option<Duration>,
    /// Records carry no sequence number and no checksum: nothing is verified, and no end-to-end
    /// latency known.
    #[arg(long, help_heading = "Load")]
    pub(crate) no_verify: bool,
    /// Most that a fetch asks of a partition [default: 1MiB].
    #[arg(long, value_name = "SIZE", value_parser = units::bytes::<i32>, help_heading = "Load")]
    pub(crate) fetch_bytes: Option<i32>,
    /// How long a fetch may wait for records, in ms [default: 500].
    #[arg(long, value_name = "MS", help_heading = "Load")]
    pub(crate) fetch_wait_ms: Option<i32>,
    /// A request that is not answered for so long has failed [default: 30s].
    #[arg(long, value_name = "TIME", value_parser = units::duration, help_heading = "Load")]
    pub(crate) request_timeout: Option<Duration>,
    /// Seed of all randomness of the load [default: 1].
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub(crate) seed: Option<u64>,
}

/// See [`Arrivals`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ArrivalsFlag {
    /// Open loop: evenly spaced, whatever the broker does
    Constant,
    /// Open loop: independent of each other
    Poisson,
    /// Closed loop: each connection sends when its last request was answered
    Closed,
    /// As fast as the connections take it
    Max,
}

/// See [`Acks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AcksFlag {
    /// None: there is no reply
    #[value(name = "0")]
    None,
    /// The leader's
    #[value(name = "1")]
    Leader,
    /// All in-sync replicas'
    All,
}

/// When a node acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NodeDurability {
    /// After the sync
    Fsync,
    /// After the write
    Write,
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be name=value".to_owned()),
    }
}

impl LoadFlags {
    /// Whether any was given.
    pub(crate) fn is_given(&self) -> bool {
        *self != Self::default()
    }

    /// Replaces what was given in a plan.
    pub(crate) fn apply(&self, plan: &mut Plan) {
        fn set<T: Clone>(place: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                place.clone_from(value);
            }
        }
        let set_seconds = |place: &mut f64, value: Option<Duration>| {
            if let Some(value) = value {
                *place = value.as_secs_f64();
            }
        };
        if let Some(arrivals) = self.arrivals {
            plan.arrivals = match arrivals {
                ArrivalsFlag::Constant => Arrivals::Constant,
                ArrivalsFlag::Poisson => Arrivals::Poisson,
                ArrivalsFlag::Closed => Arrivals::Closed,
                ArrivalsFlag::Max => Arrivals::Max,
            };
            if !plan.arrivals.is_open_loop() {
                plan.rate = None;
            }
        }
        if self.rate.is_some() {
            plan.rate = self.rate;
        }
        if let Some(acks) = self.acks {
            plan.acks = match acks {
                AcksFlag::None => Acks::None,
                AcksFlag::Leader => Acks::Leader,
                AcksFlag::All => Acks::All,
            };
        }
        set(&mut plan.producers, &self.producers);
        set(&mut plan.consumers, &self.consumers);
        set(&mut plan.groups, &self.groups);
        set(&mut plan.topics, &self.topics);
        set(&mut plan.partitions, &self.partitions);
        set(&mut plan.replication_factor, &self.replication_factor);
        plan.topic_configs.extend(self.topic_config.iter().cloned());
        set(&mut plan.record_bytes, &self.record_bytes);
        set(&mut plan.keys, &self.keys);
        set(&mut plan.entropy_percent, &self.entropy_percent);
        if self.payload_file.is_some() {
            plan.payload_file.clone_from(&self.payload_file);
        }
        set(&mut plan.codec, &self.codec);
        plan.idempotent |= self.idempotent;
        set(&mut plan.linger_ms, &self.linger_ms);
        set(&mut plan.batch_bytes, &self.batch_bytes);
        if self.batch_records.is_some() {
            plan.batch_records = self.batch_records;
        }
        set(&mut plan.in_flight, &self.in_flight);
        set_seconds(&mut plan.warm_up_s, self.warm_up);
        set_seconds(&mut plan.duration_s, self.duration);
        if self.records.is_some() {
            plan.records = self.records;
        }
        set_seconds(&mut plan.catch_up_s, self.catch_up);
        plan.verify &= !self.no_verify;
        set(&mut plan.fetch_bytes, &self.fetch_bytes);
        set(&mut plan.fetch_wait_ms, &self.fetch_wait_ms);
        set_seconds(&mut plan.request_timeout_s, self.request_timeout);
        set(&mut plan.seed, &self.seed);
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct BenchJournal {
    /// A directory on the disk to measure; it must not exist yet, and is removed afterwards.
    #[arg(long, value_name = "DIR", default_value = "./corelog-bench")]
    pub(crate) dir: PathBuf,
    /// Which CPU core to use.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) core: usize,
    /// How long each of the two phases lasts: in seconds, or as 500ms, 2m and so on.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    pub(crate) seconds: Duration,
    /// Entries appended per round, as if from so many partitions.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) entries: usize,
    /// Payload of each entry: in bytes, or as 4KiB.
    #[arg(long, value_name = "SIZE", default_value = "4KiB", value_parser = units::bytes::<usize>)]
    pub(crate) entry_bytes: usize,
    /// Segments that are created, written, synced and deleted beside the journal.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) segments: usize,
    /// What one flush writes to a segment: in bytes, or as 128KiB.
    #[arg(long, value_name = "SIZE", default_value = "128KiB", value_parser = units::bytes::<usize>)]
    pub(crate) flush_bytes: usize,
}
