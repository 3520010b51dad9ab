//! `corelog bench sink`: a broker that only acknowledges.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Error, Result};
use corelog_bench::sink::{self, Summary};
use indicatif::DecimalBytes;

use crate::cli::BenchSink;
use crate::out::{self, Format, grouped};

/// Runs it until SIGTERM or Ctrl-C.
pub(crate) fn run(arguments: BenchSink, format: Format) -> Result<ExitCode> {
    let options = arguments.into_options().map_err(Error::msg)?;
    let say = |event| eprintln!("sink: {event}");
    let ready = |address| {
        let mut stdout = std::io::stdout();
        // Nobody may be reading it, which is no reason not to run.
        let _ = writeln!(stdout, "listening on {address}").and_then(|()| stdout.flush());
    };
    let summary = sink::run_until_signal(options, say, ready)?;
    match format {
        Format::Json => out::print_json(&summary)?,
        Format::Text => out::print_text(&sentence(&summary))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn sentence(summary: &Summary) -> String {
    format!(
        "{} records ({}) in {} produces; {} requests in all, {} of them fetches, over {} connections\n",
        grouped(summary.records),
        DecimalBytes(summary.bytes),
        grouped(summary.produces),
        grouped(summary.requests),
        grouped(summary.fetches),
        grouped(summary.connections),
    )
}
