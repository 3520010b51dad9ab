//! What can be typed.

mod bench;
mod bench_compare;
mod bench_groups;
mod bench_machine;
mod bench_sink;
mod config;
mod doctor;
pub(crate) mod hist;
pub(crate) mod stages;
mod units;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub(crate) use bench::{Bench, BenchCommand, BenchJournal, BenchPlace, BenchRun, NodeDurability};
pub(crate) use bench_compare::BenchCompare;
pub(crate) use bench_groups::BenchGroups;
pub(crate) use bench_machine::{BenchMachine, MachinePart};
pub(crate) use bench_sink::BenchSink;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
pub(crate) use config::{Care, Config, ConfigDescribe, ConfigList, ConfigSet, ConfigUnset, Whose};
use corelog_net::client::member::{GroupAssignor, GroupProtocol};
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
    /// Creates, lists, describes, alters and deletes topics.
    #[command(subcommand)]
    Topic(Topic),
    /// Lists, describes and changes configs of topics and nodes.
    #[command(subcommand)]
    Config(Config),
    /// Lists and describes consumer groups, resets their offsets, deletes them.
    #[command(subcommand)]
    Group(Group),
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
    /// Prints a script that completes commands in a shell.
    Completion(Completion),
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
    /// Where /healthz, /metrics and /console answer; empty switches them off [default:
    /// 127.0.0.1:9644].
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
    /// Shows a topic's partitions, offsets, sizes and configs.
    Describe(TopicDescribe),
    /// Deletes the oldest records of a topic.
    #[command(after_help = TRIM_EXAMPLES)]
    Trim(TopicTrim),
    /// Changes a topic's configs.
    #[command(after_help = "Example:\n  corelog topic alter clicks --set retention.ms=86400000 --unset \
                            segment.bytes")]
    Alter(TopicAlter),
    /// Gives a topic more partitions. Keys go to other partitions from then on, and there is no way
    /// back.
    #[command(after_help = "Example:\n  corelog topic add-partitions clicks --to 12")]
    AddPartitions(TopicAddPartitions),
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

const TRIM_EXAMPLES: &str = "\
Examples:
  corelog topic trim clicks --to 2026-01-31T12:00:00Z
  corelog topic trim clicks:0,3 --to 1500
  corelog topic trim clicks --to end --yes

What is deleted is gone for every reader, at once and for good. The space that it took is given back
when a whole segment is gone.";

#[derive(Debug, Clone, Args)]
pub(crate) struct TopicTrim {
    /// The topic, or some partitions of it as topic:0,2.
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: TopicSelection,
    /// The first record to keep: an offset, a time (2026-01-31T12:00:00Z, or ms since 1970 as
    /// @1767225600000), or end, which keeps none.
    #[arg(long, value_name = "WHERE")]
    pub(crate) to: From,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("change").required(true).multiple(true)))]
pub(crate) struct TopicAlter {
    /// Its name.
    pub(crate) name: String,
    /// A config to set; may be repeated.
    #[arg(long, group = "change", value_name = "NAME=VALUE", value_parser = name_value)]
    pub(crate) set: Vec<(String, String)>,
    /// A config to give its default again; may be repeated.
    #[arg(long, group = "change", value_name = "NAME")]
    pub(crate) unset: Vec<String>,
    #[command(flatten)]
    pub(crate) care: Care,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("how-many").required(true)))]
pub(crate) struct TopicAddPartitions {
    /// Its name.
    pub(crate) name: String,
    /// How many partitions it has then, in all.
    #[arg(long, group = "how-many", value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) to: Option<i32>,
    /// How many are added.
    #[arg(long, group = "how-many", value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) add: Option<i32>,
    #[command(flatten)]
    pub(crate) care: Care,
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

#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    /// Lists groups.
    List(GroupList),
    /// Shows a group's members, and how far behind it is in each partition.
    Describe(GroupDescribe),
    /// Sets where a group goes on; without --execute it only says what would change.
    #[command(after_help = RESET_EXAMPLES)]
    ResetOffsets(GroupReset),
    /// Deletes groups without members, and their offsets.
    Delete(GroupDelete),
}

#[derive(Debug, Args)]
pub(crate) struct GroupList {
    /// Only groups in this state (Stable, Empty, …); may be repeated.
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Vec<String>,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

#[derive(Debug, Args)]
pub(crate) struct GroupDescribe {
    /// Its name.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

const RESET_EXAMPLES: &str = "\
Examples:
  corelog group reset-offsets billing --topic clicks --to beginning
  corelog group reset-offsets billing --topic clicks:0,3 --to 1500 --execute
  corelog group reset-offsets billing --all-topics --to 2026-01-31T12:00:00Z --execute
  corelog group reset-offsets billing --all-topics --shift -100 --execute

Offsets outside of what a partition has become its first or its end. The group must have no members.";

#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("where").required(true)))]
#[command(group(ArgGroup::new("what").required(true).multiple(true)))]
pub(crate) struct GroupReset {
    /// The group's name; one that does not exist yet is made.
    pub(crate) name: String,
    /// A topic, or some partitions of it as topic:0,2; may be repeated.
    #[arg(long, group = "what", value_name = "TOPIC")]
    pub(crate) topic: Vec<TopicSelection>,
    /// All partitions for which the group has committed something.
    #[arg(long, group = "what")]
    pub(crate) all_topics: bool,
    /// Where to go on: beginning, end, an offset, or a time (2026-01-31T12:00:00Z, or ms since 1970
    /// as @1767225600000).
    #[arg(long, group = "where", value_name = "WHERE")]
    pub(crate) to: Option<From>,
    /// So many records after (or, negative, before) where it is.
    #[arg(long, group = "where", value_name = "N", allow_negative_numbers = true)]
    pub(crate) shift: Option<i64>,
    /// Do it.
    #[arg(long)]
    pub(crate) execute: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

/// A topic, or some of its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicSelection {
    pub(crate) topic: String,
    /// All of them when there are none.
    pub(crate) partitions: Option<Vec<i32>>,
}

impl FromStr for TopicSelection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A topic's name has no colon.
        let Some((topic, partitions)) = text.split_once(':') else {
            return Ok(Self { topic: text.to_owned(), partitions: None });
        };
        let number = |text: &str| text.trim().parse().ok().filter(|number: &i32| *number >= 0);
        let partitions: Option<Vec<i32>> = partitions.split(',').map(number).collect();
        let partitions = partitions.ok_or("after the colon come partitions, as in clicks:0,2")?;
        Ok(Self { topic: topic.to_owned(), partitions: Some(partitions) })
    }
}

#[derive(Debug, Args)]
pub(crate) struct GroupDelete {
    /// Their names.
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
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
  corelog consume clicks orders --group billing    a share of them, as a member of a group

Without --follow it stops at the ends that the partitions had when it began. With --group it goes on
until Ctrl-C or --count; then it commits what it has printed, and leaves the group. Records of one
partition come in order. As text, a record is its value and a line end; with --output json, one object a line,
in which bytes that are not UTF-8 are in key_base64 or value_base64, so that nothing is lost.";

#[derive(Debug, Clone, Args)]
#[command(after_help = CONSUME_EXAMPLES)]
pub(crate) struct Consume {
    /// The topics.
    #[arg(required = true, value_name = "TOPIC")]
    pub(crate) topics: Vec<String>,
    /// Where to begin: beginning, end, an offset, or a time (2026-01-31T12:00:00Z, or ms since 1970
    /// as @1767225600000). With --group, in partitions for which nothing was committed.
    #[arg(long, default_value = "beginning", value_name = "WHERE")]
    pub(crate) from: From,
    /// Only this partition of the one topic; may be repeated.
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
    /// Read as a member of this group: its members share the partitions, and it remembers how far
    /// they are.
    #[arg(long, short, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) group: Option<String>,
    /// The group's protocol: classic, or consumer (KIP-848), in which the node assigns; auto is
    /// consumer where the node has it.
    #[arg(long, value_enum, requires = "group", value_name = "PROTOCOL")]
    pub(crate) protocol: Option<ProtocolArgument>,
    /// How partitions are shared: range (both protocols), cooperative (classic; its default), uniform
    /// (consumer) [default: the node's in the consumer protocol].
    #[arg(long, value_enum, requires = "group", value_name = "ASSIGNOR")]
    pub(crate) assignor: Option<AssignorArgument>,
    /// A name that outlives restarts: the group waits for this member instead of sharing anew.
    #[arg(long, requires = "group", value_name = "NAME")]
    pub(crate) instance_id: Option<String>,
    /// After so much silence the group goes on without this member (classic protocol; in the other
    /// one the node decides).
    #[arg(long, requires = "group", default_value = "45s", value_parser = units::duration, value_name = "TIME")]
    pub(crate) session_timeout: Duration,
    /// How often what was printed is committed.
    #[arg(long, requires = "group", default_value = "5s", value_parser = units::duration, value_name = "TIME")]
    pub(crate) commit_interval: Duration,
    /// Commit nothing, not at the end either.
    #[arg(long, requires = "group")]
    pub(crate) no_commit: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

/// A group's protocol, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProtocolArgument {
    Auto,
    Classic,
    Consumer,
}

impl ProtocolArgument {
    pub(crate) fn protocol(self) -> Option<GroupProtocol> {
        match self {
            Self::Auto => None,
            Self::Classic => Some(GroupProtocol::Classic),
            Self::Consumer => Some(GroupProtocol::Consumer),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Classic => "classic",
            Self::Consumer => "consumer",
        }
    }
}

/// An assignor, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AssignorArgument {
    Range,
    #[value(alias = "cooperative-sticky")]
    Cooperative,
    Uniform,
}

impl AssignorArgument {
    pub(crate) fn assignor(self) -> GroupAssignor {
        match self {
            Self::Range => GroupAssignor::Range,
            Self::Cooperative => GroupAssignor::Cooperative,
            Self::Uniform => GroupAssignor::Uniform,
        }
    }

    pub(crate) fn is_of(self, protocol: GroupProtocol) -> bool {
        match self {
            Self::Range => true,
            Self::Cooperative => protocol == GroupProtocol::Classic,
            Self::Uniform => protocol == GroupProtocol::Consumer,
        }
    }
}

const COMPLETION_EXAMPLES: &str = "\
Examples:
  corelog completion bash > ~/.local/share/bash-completion/completions/corelog
  corelog completion zsh > \"${fpath[1]}/_corelog\"
  corelog completion fish > ~/.config/fish/completions/corelog.fish

A new shell completes commands, flags and their values; for the running one: source <(corelog
completion bash).";

#[derive(Debug, Clone, Args)]
#[command(after_help = COMPLETION_EXAMPLES)]
pub(crate) struct Completion {
    /// Which shell.
    #[arg(value_enum)]
    pub(crate) shell: ShellArgument,
}

/// A shell that completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShellArgument {
    Bash,
    Zsh,
    Fish,
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
