//! Running a node in this process: logging, the executors, what is said at the start.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use corelog_engine::engine::{Engine, EngineOptions};
use corelog_engine::journal::JournalOptions;
use corelog_engine::messages::{ShardReply, ShardRequest};
use corelog_engine::meta::MetaOptions;
use corelog_engine::meta::image::ListenerMeta;
use corelog_engine::planted::PlantedBug;
use corelog_engine::shard::ShardOptions;
use corelog_engine::topic_config::NodeDefaults;
use corelog_engine::types::{Durability, NodeId};
use corelog_net::options::{ListenerOptions, NetOptions};
use corelog_net::server::{Addresses, Bound, NodeNet, Server};
use corelog_runtime::fs::lock_data_dir;
use corelog_runtime::shards::{self, ShardContext, stop_signal};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, DefaultDurability, Listener, parse_cores};

/// In the data directory, for whoever started the node with port 0.
const ADDRESSES_FILE: &str = "corelog.addresses";

/// What a node says when it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// Where it listens.
    Addresses,
    /// Also what to try first.
    FirstSteps,
}

/// Below warnings, openraft tells its state rather than events; a level for it can be asked for.
const QUIET: &str = "openraft=warn";

/// Logs go to stderr from here on.
pub(crate) fn start_logging(level: &str) -> Result<()> {
    let directives = match level.contains("openraft") {
        true => level.to_owned(),
        false => format!("{level},{QUIET}"),
    };
    let filter = EnvFilter::builder()
        .parse(directives)
        .with_context(|| format!("'{level}' is no log level: error, warn, info, debug or trace"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|error| anyhow!("logging cannot be started: {error}"))
}

/// A partition with so much unflushed data is written to its segments.
const FLUSH_CHUNK_BYTES: usize = 1 << 20;
/// A smaller tail is carried forward in the journal when its file is freed.
const CARRY_BYTES_MAX: usize = 64 << 10;
/// Appended and not yet written to the journal: at this size produces wait.
const JOURNAL_QUEUE_BYTES_MAX: usize = 16 << 20;
/// Segment files of one shard held open.
const OPEN_FILES_MAX: usize = 256;

/// Runs a node until it is told to stop.
pub(crate) fn run(config: &Config, greeting: Greeting) -> Result<()> {
    let options = shards::Options {
        cores: parse_cores(&config.cores)?,
        shards: config.shards,
        data_dirs: vec![config.data_dir.clone()],
        ..shards::Options::default()
    };
    let node = Node {
        net: net_options(config)?,
        config: config.clone(),
        greeting,
        shared: Arc::default(),
    };
    shards::run(options, move |context| shard_main(node.clone(), context))?;
    Ok(())
}

/// What every shard of this process is given.
#[derive(Clone)]
struct Node {
    config: Config,
    net: NetOptions,
    greeting: Greeting,
    /// Made by the first shard that needs it: only shards know how many they are.
    shared: Arc<OnceLock<Arc<NodeNet>>>,
}

async fn shard_main(node: Node, context: ShardContext<ShardRequest, ShardReply>) -> Result<(), String> {
    serve(node, context).await.map_err(|error| format!("{error:#}"))
}

/// One shard's life: its sockets first, so that a port that is taken changes nothing on disk.
async fn serve(node: Node, context: ShardContext<ShardRequest, ShardReply>) -> Result<()> {
    let stop = stop_signal();
    let _lock = match context.shard {
        0 => Some(lock_data_dir(&node.config.data_dir)?),
        _ => None,
    };
    let shared = Arc::clone(node.shared.get_or_init(|| NodeNet::new(context.shards)));
    let bound = Bound::bind(&shared, context.shard, &node.net).await?;
    let addresses = bound.addresses().clone();
    let options = engine_options(&node.config, &addresses)?;
    let engine = Engine::start(context.mesh, options).await?;
    let server = Server::start(engine.clone(), node.net.clone(), shared, bound);
    if context.shard == 0 {
        announce(&node.config, &addresses, node.greeting)?;
    }
    stop.wait().await;
    if context.shard == 0 {
        tracing::info!("stopping");
    }
    server.stop().await;
    engine.shut_down().await.map_err(|reason| anyhow!(reason))
}

fn net_options(config: &Config) -> Result<NetOptions> {
    let mut listeners = Vec::new();
    for listener in &config.listener {
        listeners.push(ListenerOptions {
            name: listener.name.clone(),
            bind: listener.bind_addr()?,
        });
    }
    Ok(NetOptions {
        listeners,
        http: config.http_addr()?,
        max_frame_bytes: config.network.max_frame_bytes,
        max_connections: config.network.max_connections,
        request_memory_bytes: config.network.request_memory_bytes,
        response_memory_bytes: config.network.response_memory_bytes,
        idle_timeout: Duration::from_millis(config.network.idle_timeout_ms),
        auto_create_topics: config.topics.auto_create,
        ..NetOptions::default()
    })
}

fn engine_options(config: &Config, addresses: &Addresses) -> Result<EngineOptions> {
    let advertised = |(listener, bound): (&Listener, &std::net::SocketAddr)| {
        let (host, port) = listener.advertised(*bound)?;
        Ok(ListenerMeta { name: listener.name.clone(), host, port })
    };
    let listeners = config.listener.iter().zip(&addresses.listeners).map(advertised);
    let node = NodeId(config.node_id);
    let journal = JournalOptions {
        file_bytes: config.journal.file_bytes,
        first_file_bytes: config.journal.first_file_bytes,
        max_files: config.journal.max_files,
        flush_interval: Duration::from_millis(config.journal.flush_interval_ms),
        // Directory and id are each shard's own.
        ..JournalOptions::new(PathBuf::new(), 0)
    };
    let entry_bytes_max = i32::try_from(journal.max_entry_bytes()).unwrap_or(i32::MAX);
    let defaults = NodeDefaults {
        durability: match config.topics.durability {
            DefaultDurability::Fsync => Durability::Fsync,
            DefaultDurability::Write => Durability::Write,
        },
        segment_bytes: config.segments.segment_bytes,
        ..NodeDefaults::with_ceiling(entry_bytes_max)
    };
    // What only the journal holds must fit into it, with room for what is being freed.
    let journal_files = u64::try_from(config.journal.max_files).unwrap_or(u64::MAX);
    let unflushed_bytes = config.journal.file_bytes.saturating_mul(journal_files) / 2;
    Ok(EngineOptions {
        shard: ShardOptions {
            data_dir: config.data_dir.clone(),
            node,
            tail_cache_bytes: config.memory.tail_cache_bytes,
            unflushed_bytes_max: usize::try_from(unflushed_bytes).unwrap_or(usize::MAX),
            flush_chunk_bytes: FLUSH_CHUNK_BYTES,
            carry_bytes_max: CARRY_BYTES_MAX,
            journal_queue_bytes_max: JOURNAL_QUEUE_BYTES_MAX,
            open_files_max: OPEN_FILES_MAX,
            planted: PlantedBug::NONE,
        },
        journal,
        meta: MetaOptions {
            default_partitions: config.topics.default_partitions,
            configs: defaults.clone(),
            ..MetaOptions::new(node, listeners.collect::<Result<_>>()?)
        },
        defaults,
    })
}

/// Says on stdout where the node listens, once it does, and leaves the same in the data directory.
fn announce(config: &Config, addresses: &Addresses, greeting: Greeting) -> Result<()> {
    let path = config.data_dir.join(ADDRESSES_FILE);
    let names = config.listener.iter().map(|listener| listener.name.as_str());
    // Nothing is promised about this file after a crash: a plain write is enough.
    std::fs::write(&path, addresses_text(names, addresses))
        .with_context(|| format!("cannot write {}", path.display()))?;
    let mut out = std::io::stdout().lock();
    for address in &addresses.listeners {
        writeln!(out, "listening on {address}")?;
    }
    if greeting == Greeting::FirstSteps {
        out.write_all(first_steps(&config.data_dir, addresses).as_bytes())?;
    }
    Ok(out.flush()?)
}

fn addresses_text<'a>(names: impl Iterator<Item = &'a str>, addresses: &Addresses) -> String {
    let mut text = String::new();
    if let Some(first) = addresses.listeners.first() {
        text.push_str(&format!("kafka={first}\n"));
    }
    for (name, address) in names.zip(&addresses.listeners) {
        text.push_str(&format!("kafka.{name}={address}\n"));
    }
    if let Some(http) = addresses.http {
        text.push_str(&format!("http={http}\n"));
    }
    text
}

fn first_steps(data_dir: &Path, addresses: &Addresses) -> String {
    let kafka = addresses.listeners.first().map(ToString::to_string).unwrap_or_default();
    let http = match addresses.http {
        Some(http) => format!("  metrics  curl http://{http}/metrics\n"),
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
        let addresses = Addresses {
            listeners: vec!["127.0.0.1:9092".parse().unwrap(), "10.0.0.1:9093".parse().unwrap()],
            http: Some("127.0.0.1:9644".parse().unwrap()),
        };
        assert_eq!(
            addresses_text(["main", "inside"].into_iter(), &addresses),
            "kafka=127.0.0.1:9092\nkafka.main=127.0.0.1:9092\nkafka.inside=10.0.0.1:9093\n\
             http=127.0.0.1:9644\n"
        );
    }
}
