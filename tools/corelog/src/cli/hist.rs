//! `corelog hist`: what can be typed.

use std::path::PathBuf;

use clap::Args;
use corelog_bench::hist::scale::Unit;

use super::units;

const EXAMPLES: &str = "\
Examples:
  corelog hist corelog-bench-20260131-120000
  corelog hist before/run.hlog after/run.hlog --tag response --html compared.html
  corelog hist run.hlog --from 10 --to 40 --unit ms
  corelog hist jhiccup.hlog --output json

A FILE is an interval log of any HdrHistogram library, a percentile file (.hgrm), or the directory
or report.json of a run of corelog bench. A percentile is left out when fewer than 10 samples lie
beyond it. Of a percentile file, a percentile between two of its lines is that of the higher one.";

/// Which histograms, and how to show them.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Hist {
    /// Logs, percentile files and runs.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Only what has this tag, such as response, service, schedule_lag or end_to_end.
    #[arg(long, value_name = "TAG")]
    pub(crate) tag: Option<String>,
    /// Only intervals that begin so long after the log's start, in seconds or as 2m, or later.
    #[arg(long, default_value = "0", value_name = "TIME", value_parser = units::seconds)]
    pub(crate) from: f64,
    /// Only intervals that begin before so long after the log's start.
    #[arg(long, value_name = "TIME", value_parser = units::seconds)]
    pub(crate) to: Option<f64>,
    /// Unit of the times in the table and in JSON: ns, us or ms.
    #[arg(long, default_value = "us", value_name = "UNIT", value_parser = unit)]
    pub(crate) unit: Unit,
    /// Unit of the values in the files: ns, us or ms [default: ns in logs, ms in percentile files].
    #[arg(long, value_name = "UNIT", value_parser = unit)]
    pub(crate) recorded_in: Option<Unit>,
    /// Draws with ASCII only.
    #[arg(long)]
    pub(crate) ascii: bool,
    /// Also writes a self-contained HTML page with percentile plots, heat maps over time and tables.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Also writes the plots as one SVG picture.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Heading of the page or picture [default: the names of the files].
    #[arg(long, value_name = "TEXT")]
    pub(crate) title: Option<String>,
}

fn unit(text: &str) -> Result<Unit, String> {
    text.parse().map_err(str::to_owned)
}
