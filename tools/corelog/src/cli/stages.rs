//! `corelog stages`: what can be typed.

use std::time::Duration;

use clap::Args;

use super::units;

const EXAMPLES: &str = "\
Examples:
  corelog stages
  corelog stages --http 10.0.0.7:9644 --interval 30
  corelog stages --output json

It reads /metrics of a running node twice and shows what happened in between: for each stage how
often it was passed a second, the mean time, and percentiles. docs/METRICS.md says what each stage
is. Percentiles are interpolated between the bounds of the metrics' buckets, which are 1, 2, 5, 10,
20, 50 and so on from 1 us to 10 s: the mean is exact, they are not. A percentile of 10 s says 10 s
or more.";

/// Which node, and for how long.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Stages {
    /// The node's HTTP address.
    #[arg(long, default_value = "127.0.0.1:9644", value_name = "ADDR")]
    pub(crate) http: String,
    /// How long to measure: in seconds, or as 500ms, 2m and so on.
    #[arg(long, default_value = "5s", value_parser = interval, value_name = "TIME")]
    pub(crate) interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    const MAX: Duration = Duration::from_secs(86_400);
    let interval = units::duration(text)?;
    if interval.is_zero() || interval > MAX {
        return Err("must be above 0, and a day at most".to_owned());
    }
    Ok(interval)
}
