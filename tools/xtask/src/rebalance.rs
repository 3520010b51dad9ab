//! A group of processes that join, leave, pause and are killed at random, against a real broker: see
//! `tools/clients/rebalance.py`, which does it and judges it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::broker::{Broker, BrokerKind, BrokerOptions};
use crate::process::{run_into, tethered};
use crate::project::Project;
use crate::setup::Toolbox;

/// For the members to start, to calm down, to end, and for the static ones.
const REST_LIMIT: Duration = Duration::from_secs(300);

/// Which group protocol.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// The clients assign
    Classic,
    /// The broker assigns (KIP-848)
    Consumer,
}

impl Protocol {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Classic, Self::Consumer];

    fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
        }
    }
}

/// What to run.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Run only this protocol
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// How long members come and go, for each protocol, in minutes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
    /// Shards of the node
    #[arg(long, default_value_t = 1)]
    shards: usize,
    /// Against an Apache Kafka instead of Corelog
    #[arg(long)]
    kafka: bool,
    /// Seed of what happens to whom; drawn when left out
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs the protocols one after the other, and prints what came of it.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<bool> {
    let tools = Toolbox::prepare(project)?;
    let kind = if arguments.kafka { BrokerKind::kafka(&tools)? } else { BrokerKind::corelog(project)? };
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let only = arguments.protocol;
    for protocol in Protocol::ALL.into_iter().filter(|one| only.is_none_or(|only| only == *one)) {
        let seconds = arguments.minutes * 60;
        println!("{}", play(project, &tools, &kind, protocol, seconds, arguments.shards, seed)?);
    }
    Ok(true)
}

/// Runs one protocol for so long, and returns what came of it.
pub(crate) fn play(
    project: &Project,
    tools: &Toolbox,
    kind: &BrokerKind,
    protocol: Protocol,
    seconds: u64,
    shards: usize,
    seed: u64,
) -> Result<String> {
    let name = format!("{}-rebalance-{}", kind.name(), protocol.name());
    let broker = Broker::start(project, kind, BrokerOptions { shards, ..BrokerOptions::named(&name) })?;
    let journals = project.scratch().join(format!("{name}-members"));
    if journals.exists() {
        fs::remove_dir_all(&journals)?;
    }
    let mut command = tethered(tools.python()?);
    command
        .arg(project.clients().join("rebalance.py"))
        .args(["--bootstrap", &broker.address().to_string(), "--protocol", protocol.name()])
        .args(["--seconds", &seconds.to_string(), "--seed", &seed.to_string()])
        .arg("--directory")
        .arg(&journals)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let (said, log) =
        (project.scratch().join(format!("{name}.txt")), project.logs().join(format!("{name}.log")));
    let limit = Duration::from_secs(seconds) + REST_LIMIT;
    run_into(command, &said, &log, limit).with_context(|| {
        let said = summary(&said).unwrap_or_default();
        format!(
            "{} seed {seed}, {said}; what the members wrote is in {}",
            protocol.name(),
            journals.display()
        )
    })?;
    broker.stop().context("stopping the broker")?;
    fs::remove_dir_all(&journals)?;
    summary(&said)
}

/// What a script said, in one line.
fn summary(said: &Path) -> Result<String> {
    let text = fs::read_to_string(said)?;
    Ok(text.lines().collect::<Vec<_>>().join("; "))
}
