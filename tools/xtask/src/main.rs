//! `cargo xtask`: the project's own tasks.
//!
//! `test` runs every check that the project has, in a fixed order, and sums them up. The other
//! commands are parts of it that are useful alone: the client matrix against any broker, the real
//! crash test, and a real Apache Kafka to compare with. Nothing here is part of the product, and
//! nothing here reaches into it: a broker is a process with an address.

mod broker;
mod client;
mod compaction;
mod conformance;
mod console;
mod cores;
mod crash;
mod direction;
mod generator;
mod groups;
mod histograms;
mod interrupts;
mod java;
mod load;
mod machine;
mod matrix;
mod pressure;
mod process;
mod project;
mod rebalance;
mod setup;
mod sink;
mod soak;
mod speed;
mod steps;
mod verify;
mod versus;

use std::process::ExitCode;

use anyhow::Result;
use broker::{Broker, BrokerKind, BrokerOptions, Durability};
use clap::{Parser, Subcommand};
use matrix::Part;
use project::Project;
use setup::Toolbox;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own tasks")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every check: format, lints, unit, property, simulation, client and crash tests
    Test {
        /// Run only these steps
        #[arg(long, value_delimiter = ',', value_name = "STEP")]
        only: Vec<String>,
        /// Say which steps there are, and stop
        #[arg(long)]
        list: bool,
    },
    /// Fetch what the client tests need into .xtask
    Setup,
    /// Run real Kafka clients against a broker: by default Corelog's release build
    Clients {
        /// A broker that is running already
        #[arg(long, value_name = "HOST:PORT", conflicts_with = "kafka")]
        bootstrap: Option<String>,
        /// Start an Apache Kafka and test that
        #[arg(long)]
        kafka: bool,
        /// Shards of the Corelog node
        #[arg(long, default_value_t = 1)]
        shards: usize,
        /// Run only these parts
        #[arg(long, value_delimiter = ',', value_enum)]
        only: Vec<Part>,
    },
    /// Run suites that others wrote against Apache Kafka and then against Corelog, and compare
    Conformance(conformance::Arguments),
    /// Kill a broker again and again under load, and look for every acknowledged record
    Crash {
        /// Kill an Apache Kafka instead of Corelog
        #[arg(long)]
        kafka: bool,
        /// When Corelog acknowledges
        #[arg(long, value_enum, default_value_t = Durability::Fsync)]
        durability: Durability,
        /// Shards of the Corelog node
        #[arg(long, default_value_t = 1)]
        shards: usize,
        /// How often to kill
        #[arg(long, default_value_t = 50)]
        kills: u32,
        /// Seed of the moments to kill at; drawn when left out
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Compare load generators, ours and others, against a sink on another core
    Generator {
        /// How often each one runs
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// Measure Apache Kafka and Corelog side by side, and write the page in docs/benchmarks
    Versus(versus::Arguments),
    /// Measure one node by itself: batches, single records, partitions, tail, shards, start, rest
    Speed(speed::Arguments),
    /// Hold a node's memory and its tail against 10,000 partitions, a backfill and slow consumers
    Pressure(pressure::Arguments),
    /// Measure a tail while a topic beside it is compacted, and without
    Compaction(compaction::Arguments),
    /// Let 1,000 consumer groups commit every second, and kill the broker under them
    Groups(groups::Arguments),
    /// Load a node for long while topics come and go, readers begin anywhere, and `kill -9` comes again
    /// and again
    Soak(soak::Arguments),
    /// A consumer group of twenty processes that join, leave, pause and are killed at random: one owner
    /// for each partition, no committed offset that goes back, no record skipped
    Rebalance(rebalance::Arguments),
    /// Run a real Apache Kafka on 127.0.0.1 until interrupted, to compare with
    Kafka {
        /// Port of its listener
        #[arg(long, default_value_t = 19092)]
        port: u16,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether everything that ran passed.
fn run(task: Task) -> Result<bool> {
    let project = Project::locate()?;
    match task {
        Task::Test { list: true, .. } => {
            steps::list();
            Ok(true)
        }
        Task::Test { only, list: false } => steps::run(&project, &only),
        Task::Setup => {
            Toolbox::prepare(&project)?;
            Ok(true)
        }
        Task::Clients { bootstrap, kafka, shards, only } => {
            let tools = Toolbox::prepare(&project)?;
            let kind = match (bootstrap, kafka) {
                (Some(address), _) => BrokerKind::external(&address)?,
                (None, true) => BrokerKind::kafka(&tools)?,
                (None, false) => BrokerKind::corelog(&project)?,
            };
            println!("{}", matrix::run(&project, &tools, &kind, shards, &only)?);
            Ok(true)
        }
        Task::Conformance(arguments) => conformance::run(&project, &arguments),
        Task::Crash { kafka, durability, shards, kills, seed } => {
            let tools = Toolbox::prepare(&project)?;
            let kind = if kafka { BrokerKind::kafka(&tools)? } else { BrokerKind::corelog(&project)? };
            let plan =
                crash::Plan { durability, shards, kills, seed: seed.unwrap_or_else(|| fastrand::u64(..)) };
            println!("{}", crash::run(&project, &tools, &kind, &plan)?);
            Ok(true)
        }
        Task::Generator { rounds } => {
            println!("{}", generator::run(&project, rounds)?);
            Ok(true)
        }
        Task::Versus(arguments) => versus::run(&project, &arguments),
        Task::Speed(arguments) => speed::run(&project, &arguments),
        Task::Pressure(arguments) => pressure::run_all(&project, &arguments),
        Task::Compaction(arguments) => compaction::run_all(&project, &arguments),
        Task::Groups(arguments) => groups::run(&project, &arguments),
        Task::Soak(arguments) => soak::run(&project, &arguments),
        Task::Rebalance(arguments) => rebalance::run(&project, &arguments),
        Task::Kafka { port } => {
            let tools = Toolbox::prepare(&project)?;
            let options = BrokerOptions { port: Some(port), ..BrokerOptions::named("kafka") };
            let mut broker = Broker::start(&project, &BrokerKind::kafka(&tools)?, options)?;
            println!("Apache Kafka is listening on {}", broker.address());
            broker.wait()?;
            Ok(true)
        }
    }
}
