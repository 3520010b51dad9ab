//! The `corelog` binary: a node, and a command line that is itself a Kafka client.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage. Results go to stdout, everything about them (logs,
//! progress, errors) to stderr.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cli;
mod client_run;
mod commands;
mod config;
mod explain;
mod node;
mod notify;
mod out;
mod revision;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};
use config::{Config, Environment, Overrides};
use corelog_runtime::alloc::Kept;

/// A request of a KiB or more is beyond what the C library's allocator keeps at hand (ADR 0005).
/// Without huge pages, which would take twice the memory of an idle node. A shard keeps its buffers.
#[global_allocator]
static ALLOCATOR: Kept<mimalloc::MiMalloc> = Kept::new(mimalloc::MiMalloc);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = cli.output;
    match run(cli) {
        Ok(code) => code,
        Err(error) if out::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            explain::print(&error, format);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let format = cli.output;
    if let Err(error) = corelog_runtime::process::raise_open_files() {
        eprintln!("corelog: the limit of open files stays as it is: {error}");
    }
    match cli.command {
        None => serve(cli.log_level, cli::Serve::default(), node::Greeting::FirstSteps),
        Some(Command::Serve(serve_args)) => serve(cli.log_level, serve_args, node::Greeting::Addresses),
        Some(command) => {
            node::start_logging(cli.log_level.as_deref().unwrap_or("warn"))?;
            match command {
                Command::Serve(_) => unreachable!("handled above"),
                Command::Doctor(doctor) => {
                    let config = configuration(doctor.node, &Environment::of_process(), cli.log_level)?;
                    commands::doctor::run(&config, format)
                }
                Command::Config(config) => commands::config::run(config, format),
                Command::Group(group) => commands::group::run(group, format),
                Command::Topic(topic) => commands::topic::run(topic, format),
                Command::Produce(produce) => commands::produce::run(produce, format),
                Command::Consume(consume) => commands::consume::run(consume, format),
                Command::Dump(dump) => commands::disk::dump::run(dump, format),
                Command::Verify(verify) => commands::disk::verify::run(verify, format),
                Command::Stages(stages) => commands::stages::run(&stages, format),
                Command::Bench(bench) => commands::bench::run(*bench, format),
                Command::Hist(hist) => commands::hist::run(&hist, format),
                Command::Completion(completion) => commands::completion::run(&completion),
            }
        }
    }
}

fn serve(
    log_level: Option<String>,
    arguments: cli::Serve,
    greeting: node::Greeting,
) -> anyhow::Result<ExitCode> {
    let environment = Environment::of_process();
    let config = configuration(arguments.node, &environment, log_level)?;
    if arguments.print_config {
        out::print_text(&config.to_commented_toml())?;
        return Ok(ExitCode::SUCCESS);
    }
    node::start_logging(&config.log.level)?;
    for name in environment.unknown() {
        tracing::warn!(name, "an environment variable begins with CORELOG_ and sets nothing");
    }
    node::run(&config, greeting)?;
    Ok(ExitCode::SUCCESS)
}

/// What a node with these flags would run with.
fn configuration(
    flags: cli::NodeFlags,
    environment: &Environment,
    log_level: Option<String>,
) -> anyhow::Result<Config> {
    let overrides = Overrides {
        listen: flags.listen,
        advertise: flags.advertise,
        http: flags.http,
        data_dir: flags.data_dir,
        node_id: flags.node_id,
        cores: flags.cores,
        shards: flags.shards,
        log_level,
    };
    Config::load(flags.config.as_deref(), environment, overrides)
}
