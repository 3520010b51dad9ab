//! Running a node in this process: logging, the executors, what is said at the start.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use corelog_engine::engine::EngineOptions;
use corelog_engine::group::{GroupConfig, MigrationPolicy};
use corelog_engine::journal::JournalOptions;
use corelog_engine::log::clean::pace::PaceRules;
use corelog_engine::meta::MetaOptions;
use corelog_engine::meta::image::ListenerMeta;
use corelog_engine::planted::PlantedBug;
use corelog_engine::shard::{CleanOptions, ShardOptions};
use corelog_engine::topic_config::NodeDefaults;
use corelog_engine::types::{Durability, NodeId};
use corelog_net::node::{self, NodeSpec};
use corelog_net::options::{BuildInfo, ListenerOptions, NetOptions};
use corelog_net::server::{Addresses, NodeNet};
use corelog_runtime::{fs, shards};
use nix::sys::resource::{Resource, getrlimit};
use tracing_subscriber::EnvFilter;

use crate::config::{Compaction, Config, DefaultDurability, Groups, Listener, Migration, parse_cores};
use crate::notify;
use crate::revision::REVISION;

/// A partition with so much unflushed data is written to its segments: large enough that a sync per
/// flush costs little, small enough that many hot partitions stay within the journal.
const FLUSH_CHUNK_BYTES: usize = 4 << 20;
/// Smaller tails are carried forward in the journal instead of being written to segments.
const CARRY_BYTES_MAX: usize = 64 << 10;
/// Appended and not yet written to a shard's journal: more than the device takes in a few ms.
const JOURNAL_QUEUE_BYTES_MAX: usize = 16 << 20;
/// Segment files that one shard holds open at least and at most: a quarter of the limit of open
/// files, shared by all shards, is in between.
const OPEN_FILES: RangeInclusive<usize> = 512..=8192;

/// In the data directory, for whoever started the node with port 0.
pub(crate) const ADDRESSES_FILE: &str = "corelog.addresses";

/// What a node says when it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// Where it listens.
    Addresses,
    /// Also what to try first.
    FirstSteps,
}

/// Logs go to stderr from here on.
pub(crate) fn start_logging(level: &str) -> Result<()> {
    // openraft tells its whole state at level info; whoever wants that asks for it by name.
    let filter = EnvFilter::builder()
        .parse(format!("openraft=warn,{level}"))
        .with_context(|| format!("'{level}' is no log level: error, warn, info, debug or trace"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        // It would panic where stderr cannot be written to: a log on a full disk must not end the node.
        .log_internal_errors(false)
        .try_init()
        .map_err(|error| anyhow!("logging cannot be started: {error}"))
}

/// How the executors are started; the number of shards is decided here.
pub(crate) fn shard_options(config: &Config) -> Result<shards::Options> {
    let cores = parse_cores(&config.cores)?;
    let shards = match (config.shards, &cores) {
        (0, Some(cores)) => cores.len(),
        (0, None) => std::thread::available_parallelism()?.get(),
        (shards, _) => shards,
    };
    Ok(shards::Options {
        cores,
        shards,
        data_dirs: vec![config.data_dir.clone()],
        ..shards::Options::default()
    })
}

/// Runs a node until it is asked to stop.
pub(crate) fn run(config: &Config, greeting: Greeting) -> Result<()> {
    let options = shard_options(config)?;
    let _lock = fs::lock_data_dir(&config.data_dir)?;
    let spec = node_spec(config, options.shards, greeting)?;
    shards::run(options, move |context| node::run_shard(context, spec.clone()))?;
    Ok(())
}

fn node_spec(config: &Config, shards: usize, greeting: Greeting) -> Result<NodeSpec> {
    let listeners = config.listener.clone();
    let for_announcement = config.clone();
    Ok(NodeSpec {
        engine: engine_options(config)?,
        net: net_options(config)?,
        shared: NodeNet::new(shards),
        advertise: Arc::new(move |bound| advertised(&listeners, bound).map_err(|error| format!("{error:#}"))),
        on_ready: Arc::new(move |bound| {
            let names = for_announcement.listener.iter().map(|listener| listener.name.clone());
            let kafka = names.zip(bound.listeners.iter().copied()).collect();
            let bound = Bound { kafka, http: bound.http };
            announce(&for_announcement.data_dir, &bound, greeting).map_err(|error| format!("{error:#}"))
        }),
    })
}

fn advertised(listeners: &[Listener], bound: &Addresses) -> Result<Vec<ListenerMeta>> {
    let advertised = listeners.iter().zip(&bound.listeners).map(|(listener, address)| {
        let (host, port) = listener.advertised(*address)?;
        Ok(ListenerMeta { name: listener.name.clone(), host, port })
    });
    advertised.collect()
}

pub(crate) fn engine_options(config: &Config) -> Result<EngineOptions> {
    let mut journal = JournalOptions::new(PathBuf::new(), 0);
    journal.file_bytes = config.journal.file_bytes;
    journal.first_file_bytes = config.journal.first_file_bytes.min(config.journal.file_bytes);
    journal.max_files = config.journal.max_files;
    journal.flush_interval = Duration::from_millis(config.journal.flush_interval_ms);
    let capacity = usize::try_from(journal.file_bytes)? * journal.max_files;
    // A batch has to fit a journal file, together with a state when it is carried forward.
    let largest_batch = i32::try_from(journal.first_file_bytes / 2)?;
    let defaults = NodeDefaults {
        durability: match config.topics.durability {
            DefaultDurability::Fsync => Durability::Fsync,
            DefaultDurability::Write => Durability::Write,
        },
        segment_bytes: i32::try_from(config.segments.segment_bytes).unwrap_or(i32::MAX),
        segment_ms: i64::try_from(config.segments.segment_ms).unwrap_or(i64::MAX),
        ..NodeDefaults::with_ceiling(largest_batch)
    };
    let node = NodeId(config.node_id);
    Ok(EngineOptions {
        shard: ShardOptions {
            data_dir: config.data_dir.clone(),
            node,
            tail_cache_bytes: config.memory.tail_cache_bytes,
            // Half of the journal: the other half is room for what is being reclaimed.
            unflushed_bytes_max: capacity / 2,
            flush_chunk_bytes: FLUSH_CHUNK_BYTES,
            carry_bytes_max: CARRY_BYTES_MAX,
            journal_queue_bytes_max: JOURNAL_QUEUE_BYTES_MAX,
            open_files_max: open_files_max(config)?,
            groups: group_config(&config.groups),
            retention_check_interval: Duration::from_millis(config.retention.check_interval_ms),
            clean: clean_options(config)?,
            planted: PlantedBug::NONE,
        },
        journal,
        meta: MetaOptions {
            default_partitions: config.topics.default_partitions,
            configs: defaults.clone(),
            ..MetaOptions::new(node, Vec::new())
        },
        defaults,
    })
}

/// What the whole node may take, a share for each shard.
fn clean_options(config: &Config) -> Result<CleanOptions> {
    let compaction = &config.compaction;
    let shards = shard_options(config)?.shards;
    let bytes_per_second = compaction.bytes_per_second / u64::try_from(shards)?;
    Ok(CleanOptions {
        is_enabled: compaction.enabled,
        keys_bytes: compaction.keys_memory_bytes / shards,
        backoff: Duration::from_millis(compaction.check_interval_ms),
        pace: PaceRules {
            bytes_per_second: (compaction.bytes_per_second > 0).then_some(bytes_per_second.max(1)),
            busy_percent: compaction.busy_percent,
        },
    })
}

/// As Kafka shows it: a number with a fraction, and its largest one for no limit.
fn cleaner_limit(compaction: &Compaction) -> String {
    match compaction.bytes_per_second {
        0 => "1.7976931348623157E308".to_owned(),
        limit => format!("{limit}.0"),
    }
}

fn group_config(groups: &Groups) -> GroupConfig {
    let members = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    GroupConfig {
        offsets_topic_partitions: groups.offsets_topic_partitions,
        min_session_timeout_ms: groups.min_session_timeout_ms,
        max_session_timeout_ms: groups.max_session_timeout_ms,
        initial_rebalance_delay_ms: groups.initial_rebalance_delay_ms,
        max_size: members(groups.max_size),
        offset_metadata_max_bytes: groups.offset_metadata_max_bytes,
        offsets_retention_ms: i64::from(groups.offsets_retention_minutes) * 60_000,
        consumer_session_timeout_ms: groups.consumer_session_timeout_ms,
        consumer_heartbeat_interval_ms: groups.consumer_heartbeat_interval_ms,
        consumer_max_size: members(groups.consumer_max_size),
        migration: match groups.consumer_migration {
            Migration::Bidirectional => MigrationPolicy::Bidirectional,
            Migration::Upgrade => MigrationPolicy::Upgrade,
            Migration::Downgrade => MigrationPolicy::Downgrade,
            Migration::Disabled => MigrationPolicy::Disabled,
        },
        ..GroupConfig::default()
    }
}

fn open_files_max(config: &Config) -> Result<usize> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let share = usize::try_from(limit)? / 4 / shard_options(config)?.shards;
    Ok(share.clamp(*OPEN_FILES.start(), *OPEN_FILES.end()))
}

fn net_options(config: &Config) -> Result<NetOptions> {
    let listeners = config
        .listener
        .iter()
        .map(|listener| Ok(ListenerOptions { name: listener.name.clone(), bind: listener.bind_addr()? }));
    let text = |value: &dyn std::fmt::Display| value.to_string();
    Ok(NetOptions {
        listeners: listeners.collect::<Result<_>>()?,
        http: config.http_addr()?,
        console: config.http.console,
        max_frame_bytes: config.network.max_frame_bytes,
        max_connections: config.network.max_connections,
        send_buffer_bytes: Some(config.network.send_buffer_bytes).filter(|bytes| *bytes > 0),
        request_memory_bytes: config.network.request_memory_bytes,
        response_memory_bytes: config.network.response_memory_bytes,
        idle_timeout: Duration::from_millis(config.network.idle_timeout_ms),
        auto_create_topics: config.topics.auto_create,
        shown_configs: vec![
            ("num.partitions".to_owned(), text(&config.topics.default_partitions)),
            ("default.replication.factor".to_owned(), "1".to_owned()),
            ("log.retention.check.interval.ms".to_owned(), text(&config.retention.check_interval_ms)),
            ("log.cleaner.enable".to_owned(), text(&config.compaction.enabled)),
            ("log.cleaner.dedupe.buffer.size".to_owned(), text(&config.compaction.keys_memory_bytes)),
            ("log.cleaner.backoff.ms".to_owned(), text(&config.compaction.check_interval_ms)),
            ("log.cleaner.io.max.bytes.per.second".to_owned(), cleaner_limit(&config.compaction)),
            ("log.dirs".to_owned(), config.data_dir.display().to_string()),
        ],
        build: BuildInfo { revision: REVISION.to_owned(), ..BuildInfo::default() },
        ..NetOptions::default()
    })
}

/// The addresses that were bound.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    /// By listener, in the configuration's order: its name and address.
    pub(crate) kafka: Vec<(String, SocketAddr)>,
    pub(crate) http: Option<SocketAddr>,
}

/// Says on stdout where the node listens, once it does, leaves the same in the data directory, and
/// tells the service manager.
pub(crate) fn announce(data_dir: &Path, bound: &Bound, greeting: Greeting) -> Result<()> {
    let path = data_dir.join(ADDRESSES_FILE);
    std::fs::write(&path, addresses_text(bound))
        .with_context(|| format!("cannot write {}", path.display()))?;
    let mut out = std::io::stdout().lock();
    for (_, address) in &bound.kafka {
        writeln!(out, "listening on {address}")?;
    }
    if greeting == Greeting::FirstSteps {
        out.write_all(first_steps(data_dir, bound).as_bytes())?;
    }
    out.flush()?;
    notify::ready();
    Ok(())
}

fn addresses_text(bound: &Bound) -> String {
    let mut text = String::new();
    for (at, (name, address)) in bound.kafka.iter().enumerate() {
        if at == 0 {
            text.push_str(&format!("kafka={address}\n"));
        }
        text.push_str(&format!("kafka.{name}={address}\n"));
    }
    if let Some(http) = bound.http {
        text.push_str(&format!("http={http}\n"));
    }
    text
}

fn first_steps(data_dir: &Path, bound: &Bound) -> String {
    let kafka = bound.kafka.first().map(|(_, address)| address.to_string()).unwrap_or_default();
    let http = match bound.http {
        Some(http) => format!("  console  http://{http}/console\n  metrics  curl http://{http}/metrics\n"),
        None => String::new(),
    };
    format!(
        "\
  data     {}
{http}
Try, in another terminal:

  corelog   seq 5 | corelog produce hello && corelog consume hello
  kcat      seq 5 | kcat -P -b {kafka} -t hello; kcat -C -b {kafka} -t hello -e
  Python    pip install confluent-kafka
            python3 -c 'from confluent_kafka import Producer as P; p = P({{\"bootstrap.servers\": \
\"{kafka}\"}}); p.produce(\"hello\", \"hi\"); p.flush()'
  Kafka     kafka-console-producer.sh --bootstrap-server {kafka} --topic hello
            kafka-console-consumer.sh --bootstrap-server {kafka} --topic hello --partition 0 \
--offset earliest

Ctrl-C stops the node; what was acknowledged stays.
",
        data_dir.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_file_names_the_first_listener_and_each() {
        let bound = Bound {
            kafka: vec![
                ("main".to_owned(), "127.0.0.1:9092".parse().unwrap()),
                ("inside".to_owned(), "10.0.0.1:9093".parse().unwrap()),
            ],
            http: Some("127.0.0.1:9644".parse().unwrap()),
        };
        assert_eq!(
            addresses_text(&bound),
            "kafka=127.0.0.1:9092\nkafka.main=127.0.0.1:9092\nkafka.inside=10.0.0.1:9093\n\
             http=127.0.0.1:9644\n"
        );
    }
}
