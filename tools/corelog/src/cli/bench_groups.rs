//! What can be typed after `corelog bench groups`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use corelog_bench::groups::plan::GroupsPlan;

use super::{BenchPlace, units};

const EXAMPLES: &str = "\
Examples:
  corelog bench groups                                a node of its own, 1,000 groups
  corelog bench groups --members --verify
  corelog bench groups --bootstrap 127.0.0.1:9092 --server-pid 4711 --groups 200 --interval 500ms
  corelog bench groups --bootstrap 127.0.0.1:9092 --through-restart

Each group commits the offsets of all partitions of one topic once in each interval; the groups are
spread evenly over it. Latency is counted from the time at which a commit was due, and none waits for
the one before it. The groups have no members, unless --members gives each one of the consumer
protocol (KIP-848), with signs of life as often as the broker wants them.

With --through-restart the load goes on after the measured phase; then \"measured\" is printed, and
somebody else ends the broker (kill -9) and starts it again. How long it takes until the first group's
and all groups' offsets are read is counted from the loss of the connections.

The exit code is 1 when an offset that was acknowledged is not there.";

/// Lets many consumer groups commit, and measures what that costs.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchGroups {
    #[command(flatten)]
    pub(crate) place: BenchPlace,

    /// Groups: 1 to 100,000.
    #[arg(long, value_name = "N", default_value_t = 1_000, help_heading = "Load")]
    groups: usize,
    /// Partitions of the topic, all of which are in each commit: 1 to 10,000.
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Load")]
    partitions: i32,
    /// Each group commits once in this time.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::seconds, help_heading = "Load")]
    interval: f64,
    /// Connections to each coordinator, over which the groups are spread: 1 to 1,000.
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = "Load")]
    connections: usize,
    /// Each group has a member of the consumer protocol.
    #[arg(long, help_heading = "Load")]
    members: bool,
    /// How long the load runs before it is measured.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::seconds, help_heading = "Load")]
    warm_up: f64,
    /// How long it is measured.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::seconds, help_heading = "Load")]
    duration: f64,
    /// A request that is not answered for so long has failed.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::duration, help_heading = "Load")]
    request_timeout: Duration,
    /// At the end, reads the offsets of all groups and compares them with what was acknowledged.
    #[arg(long, help_heading = "Load")]
    verify: bool,
    /// Goes on until the broker is gone, waits for it, and reads and compares all offsets.
    #[arg(long, requires = "bootstrap", help_heading = "Load")]
    through_restart: bool,

    /// A directory for report.json, the interval log and percentile files [default:
    /// corelog-bench-DATE-TIME, here].
    #[arg(long, value_name = "DIR", help_heading = "Results")]
    pub(crate) out: Option<PathBuf>,
    /// No line while it runs.
    #[arg(long, short, help_heading = "Results")]
    pub(crate) quiet: bool,
}

impl BenchGroups {
    /// What is asked for.
    pub(crate) fn plan(&self) -> GroupsPlan {
        GroupsPlan {
            groups: self.groups,
            partitions: self.partitions,
            interval_s: self.interval,
            connections: self.connections,
            members: self.members,
            warm_up_s: self.warm_up,
            duration_s: self.duration,
            verify: self.verify,
            through_restart: self.through_restart,
            request_timeout_s: self.request_timeout.as_secs_f64(),
        }
    }
}
