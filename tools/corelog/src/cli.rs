//! What can be typed.

mod bench;
mod bench_compare;
mod bench_machine;
mod bench_sink;
mod doctor;
pub(crate) mod hist;
pub(crate) mod stages;
mod units;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use bench::{Bench, BenchCommand, BenchJournal, BenchRun, NodeDurability};
pub(crate) use bench_compare::BenchCompare;
pub(crate) use bench_machine::{BenchMachine, MachinePart};
pub(crate) use bench_sink::BenchSink;
use clap::{Args, Parser, Subcommand, ValueEnum};
use corelog_net::client::producer::Codec;
pub(crate) use doctor::Doctor;

use crate::commands::start::From;
use crate::out::Format;

const EXAMPLES: &str = "\
Examples:
  corelog                                   a development node on 127.0.0.1:9092
  corelog serve --config /etc/corelog.toml  a node as configured
  corelog topic create clicks --partitions 6
  seq 1000 | corelog produce clicks
  corelog consume clicks --from beginning --count 10

Without a command, a development node is started, with its data in ./corelog-data. Commands that
have --bootstrap are Kafka clients: they work with any Kafka that it names.";

/// An event streaming engine that every Kafka client can use unchanged.
#[derive(Debug, Parser)]
#[command(name = "corelog", version = crate::revision::VERSION, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    /// What is logged, to stderr: error, warn, info, debug or trace; also per module, as in
    /// "info,corelog_net=debug".
    #[arg(long, global = true, env = "CORELOG_LOG", value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,

    /// The form of what is printed.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a node until SIGTERM or Ctrl-C.
    Serve(Serve),
    /// Checks whether a node can run here, and says what to set.
    Doctor(Doctor),
    /// Creates, lists, describes and deletes topics.
    #[command(subcommand)]
    Topic(Topic),
    /// Produces lines, from stdin or a file, as records.
    Produce(Produce),
    /// Prints the records of a topic.
    Consume(Consume),
    /// Prints what is on disk: journals, segments, checkpoints.
    Dump(Dump),
    /// Checks a data directory while its node is stopped.
    Verify(Verify),
    /// Shows where a running node's time goes, from its metrics.
    Stages(stages::Stages),
    /// Drives this or any other Kafka with load and measures it.
    Bench(Box<Bench>),
    /// Shows latency histograms: percentiles, a drawing, a page.
    Hist(hist::Hist),
}

const SERVE_EXAMPLES: &str = "\
Examples:
  corelog serve --data-dir /var/lib/corelog
  corelog serve --listen 0.0.0.0:9092 --advertise broker.example.org:9092
  corelog serve --config node.toml --print-config

Each of these can also be set in the file, and by environment variables such as CORELOG_DATA_DIR or
CORELOG_TOPICS_AUTO_CREATE; flags win over the environment, the environment over the file. All keys
are in docs/corelog.example.toml, and shown by --print-config.";

#[derive(Debug, Default, Args)]
#[command(after_help = SERVE_EXAMPLES)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) node: NodeFlags,
    /// Prints the configuration in force, as a file with comments, and ends.
    #[arg(long)]
    pub(crate) print_config: bool,
}

/// How a node is configured.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct NodeFlags {
    /// Where Kafka clients connect: address and port; port 0 takes a free one [default:
    /// 127.0.0.1:9092].
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// What clients are told to connect to, as host:port; needed when --listen is 0.0.0.0, behind
    /// NAT and in containers [default: as --listen].
    #[arg(long, value_name = "ADDR")]
    pub(crate) advertise: Option<String>,
    /// Where /healthz and /metrics answer; empty switches them off [default: 127.0.0.1:9644].
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<String>,
    /// Where journals and segments are [default: ./corelog-data].
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// This node's number, unique in its cluster [default: 1].
    #[arg(long, value_name = "N")]
    pub(crate) node_id: Option<i32>,
    /// Which CPU cores to use: "all" or a list such as 0,2-3 [default: all].
    #[arg(long, value_name = "LIST")]
    pub(crate) cores: Option<String>,
    /// How many shards; more than cores is allowed [default: one per core].
    #[arg(long, value_name = "N")]
    pub(crate) shards: Option<usize>,
    /// A configuration file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Which cluster.
#[derive(Debug, Clone, Args)]
pub(crate) struct Connect {
    /// Brokers to begin with, as host:port, separated by commas.
    #[arg(long, env = "CORELOG_BOOTSTRAP", default_value = "127.0.0.1:9092", value_name = "ADDR")]
    pub(crate) bootstrap: String,
    /// How long to try before giving up, in seconds or as 500ms, 2m and so on; a broker may just be
    /// starting.
    #[arg(long, default_value = "30", value_parser = units::duration, value_name = "TIME")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Topic {
    /// Creates a topic.
    #[command(after_help = "Example:\n  corelog topic create clicks --partitions 6 \
                            --config corelog.durability=write")]
    Create(TopicCreate),
    /// Lists topics.
    List(TopicList),
    /// Shows a topic's partitions, offsets and configs.
    Describe(TopicDescribe),
    /// Deletes topics and all their records.
    Delete(TopicDelete),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct TopicCreate {
    /// Its name: letters, digits, '.', '_' and '-'.
    pub(crate) name: String,
    /// How many partitions [default: the cluster's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) partitions: Option<i32>,
    /// How many replicas [default: the cluster's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    pub(crate) replication_factor: Option<i16>,
    /// A topic config by Kafka's name; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_value)]
    pub(crate) config: Vec<(String, String)>,
    /// It is no failure if the topic exists.
    #[arg(long)]
    pub(crate) if_not_exists: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

fn name_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

#[derive(Debug, Args)]
pub(crate) struct TopicList {
    /// Also the cluster's own topics.
    #[arg(long)]
    pub(crate) internal: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

#[derive(Debug, Args)]
pub(crate) struct TopicDescribe {
    /// Its name.
    pub(crate) name: String,
    /// All configs, also those that have their default.
    #[arg(long)]
    pub(crate) all_configs: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

#[derive(Debug, Args)]
pub(crate) struct TopicDelete {
    /// Their names.
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    /// It is no failure if a topic does not exist.
    #[arg(long)]
    pub(crate) if_exists: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

const PRODUCE_EXAMPLES: &str = "\
Examples:
  seq 1000 | corelog produce clicks
  corelog produce clicks --file clicks.log --compression zstd
  printf 'alice:1\\nbob:2\\n' | corelog produce clicks --key-separator :

Every line is a record, an empty one too; its end is not part of it. With --key-separator, what
precedes the first separator is the key, and a line without one has no key. Records of one key go to
one partition, the one that Kafka's Java client would choose.";

#[derive(Debug, Clone, Args)]
#[command(after_help = PRODUCE_EXAMPLES)]
pub(crate) struct Produce {
    /// The topic; created if it does not exist and the cluster does that.
    pub(crate) topic: String,
    /// Read lines from this file and not from stdin.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// What separates key and value in a line.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) key_separator: Option<String>,
    /// What counts as written: nothing is waited for (0), by the leader (1), by all in-sync
    /// replicas (all).
    #[arg(long, value_enum, default_value_t = AcksArgument::All, allow_negative_numbers = true)]
    pub(crate) acks: AcksArgument,
    /// How batches are compressed: none, gzip, snappy, lz4 or zstd.
    #[arg(long, default_value = "none", value_parser = codec, value_name = "CODEC")]
    pub(crate) compression: Codec,
    /// Only to this partition.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) partition: Option<i32>,
    /// How long a batch waits for more records, in ms.
    #[arg(long, default_value_t = 5, value_name = "MS")]
    pub(crate) linger_ms: u64,
    /// A batch of this size is sent at once, in bytes or as 64KiB.
    #[arg(long, default_value = "128KiB", value_parser = units::bytes::<usize>, value_name = "SIZE")]
    pub(crate) batch_bytes: usize,
    /// Lets a record be written twice when its acknowledgement was lost.
    #[arg(long)]
    pub(crate) no_idempotence: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AcksArgument {
    #[value(name = "0")]
    None,
    #[value(name = "1")]
    Leader,
    #[value(name = "all", alias = "-1")]
    All,
}

fn codec(text: &str) -> Result<Codec, String> {
    Codec::from_name(text).ok_or_else(|| "one of none, gzip, snappy, lz4, zstd".to_owned())
}

const CONSUME_EXAMPLES: &str = "\
Examples:
  corelog consume clicks                           everything up to the present end
  corelog consume clicks --follow --from end       only what comes from now on
  corelog consume clicks --partition 2 --from 1500 --count 10
  corelog consume clicks --from 2026-01-31T12:00:00Z --output json

Without --follow it stops at the ends that the partitions had when it began. Records of one partition
come in order. As text, a record is its value and a line end; with --output json, one object a line,
in which bytes that are not UTF-8 are in key_base64 or value_base64, so that nothing is lost.";

#[derive(Debug, Clone, Args)]
#[command(after_help = CONSUME_EXAMPLES)]
pub(crate) struct Consume {
    /// The topic.
    pub(crate) topic: String,
    /// Where to begin: beginning, end, an offset, or a time (2026-01-31T12:00:00Z, or ms since 1970
    /// as @1767225600000).
    #[arg(long, default_value = "beginning", value_name = "WHERE")]
    pub(crate) from: From,
    /// Only this partition; may be repeated.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) partition: Vec<i32>,
    /// Stop after so many records.
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Wait for more at the end.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Prints keys too, with this between key and value.
    #[arg(long, value_name = "TEXT")]
    pub(crate) key_separator: Option<String>,
    /// Only records of committed transactions.
    #[arg(long)]
    pub(crate) read_committed: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

const DUMP_EXAMPLES: &str = "\
Examples:
  corelog dump ./corelog-data
  corelog dump ./corelog-data/journal/00000001 --commits-only
  corelog dump ./corelog-data/topics/TOPIC_ID/0/00000000000000000000.log --output json

It reads while a node runs, too; what is being written then may look torn.";

#[derive(Debug, Clone, Args)]
#[command(after_help = DUMP_EXAMPLES)]
pub(crate) struct Dump {
    /// A data directory, a journal's or a partition's directory, or one file of them.
    pub(crate) path: PathBuf,
    /// No entries inside the journals' commits.
    #[arg(long)]
    pub(crate) commits_only: bool,
    /// Also commits of earlier uses of a journal file, which do not count.
    #[arg(long)]
    pub(crate) stale: bool,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "Reads everything and changes nothing. Exit code 0: whole; 1: acknowledged \
                        records are damaged or missing, or it could not be read.")]
pub(crate) struct Verify {
    /// The data directory.
    pub(crate) dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_after_a_command_are_understood() {
        let cli = Cli::try_parse_from(["corelog", "topic", "list", "--output", "json"]).unwrap();
        assert_eq!(cli.output, Format::Json);
        assert!(Cli::try_parse_from(["corelog", "produce", "t", "--acks", "-1"]).is_ok());
        let error = Cli::try_parse_from(["corelog", "produce", "t", "--acks", "2"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
