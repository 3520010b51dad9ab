//! `corelog bench`, one file a command.

mod compare;
mod groups;
mod journal;
mod machine;
mod run;
mod sink;
mod summary;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{Bench, BenchCommand};
use crate::out::Format;

/// Runs one of them.
pub(crate) fn run(bench: Bench, format: Format) -> Result<ExitCode> {
    match bench.command {
        None => run::run(&bench.run, format),
        Some(BenchCommand::Journal(arguments)) => journal::run(arguments, format),
        Some(BenchCommand::Groups(arguments)) => groups::run(&arguments, format),
        Some(BenchCommand::Sink(arguments)) => sink::run(arguments, format),
        Some(BenchCommand::Compare(arguments)) => compare::run(arguments, format),
        Some(BenchCommand::Machine(arguments)) => machine::run(&arguments, format),
    }
}
