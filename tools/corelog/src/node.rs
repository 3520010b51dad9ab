//! Running a node in this process: logging, the executors, what is said at the start.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use corelog_runtime::shards;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, parse_cores};

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

/// Logs go to stderr from here on.
pub(crate) fn start_logging(level: &str) -> Result<()> {
    let filter = EnvFilter::builder()
        .parse(level)
        .with_context(|| format!("'{level}' is no log level: error, warn, info, debug or trace"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init()
        .map_err(|error| anyhow!("logging cannot be started: {error}"))
}

/// How the executors are started.
pub(crate) fn shard_options(config: &Config) -> Result<shards::Options> {
    Ok(shards::Options {
        cores: parse_cores(&config.cores)?,
        shards: config.shards,
        data_dirs: vec![config.data_dir.clone()],
        ..shards::Options::default()
    })
}

/// The addresses that were bound.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    /// By listener, in the configuration's order: its name and address.
    pub(crate) kafka: Vec<(String, SocketAddr)>,
    pub(crate) http: Option<SocketAddr>,
}

/// Says on stdout where the node listens, once it does, and leaves the same in the data directory.
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
    Ok(out.flush()?)
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
