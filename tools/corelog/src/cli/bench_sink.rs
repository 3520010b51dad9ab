//! What can be typed after `corelog bench sink`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use corelog_bench::sink::fault::Fault;
use corelog_bench::sink::{FaultPlan, Options, StallPlan};

use super::units;

const EXAMPLES: &str = "\
Examples:
  corelog bench sink --core 0                           measure a generator: nothing is kept
  corelog bench sink --retain 64MiB                     with consumers
  corelog bench sink --retain 64MiB --fault drop --fault-at 4000000
  corelog bench sink --stall-at 3 --stall-ms 200        hang once, 3 s after the first produce

Then, from other cores, anything that produces:
  corelog bench --bootstrap 127.0.0.1:19999 --arrivals max --record-bytes 100

Every topic that is asked for exists. There are no groups, no transactions and no look-up of offsets
by time. Produces are not checked, but for their framing, and what is produced is forgotten, so that
a consumer sees nothing, unless --retain keeps the last bytes of each partition. What comes after
them pushes out only what all connected readers of the partition have read: while there is nothing
of that kind, a produce waits, for the time-out of its request, and then fails with
REQUEST_TIMED_OUT. So start the consumers, or retain more than is produced.

The address is printed when it is ready. SIGTERM and Ctrl-C end it, with a line that says what it
has done.";

/// Runs a broker that only acknowledges, to measure and test load generators.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchSink {
    /// Where Kafka clients connect: address and port; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:19999")]
    listen: SocketAddr,
    /// Run on this one CPU core [default: wherever the system likes].
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Partitions of topics that are not created with a number of their own: 1 to 100,000.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=100_000))]
    partitions: i32,
    /// Keep so many bytes of each partition for consumers, also as 64MiB; 0 keeps nothing.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = units::bytes::<usize>)]
    retain: usize,
    /// Do wrong with one record, as no checksum of its batch can tell: drop it, repeat it, reorder
    /// it with its neighbour, or corrupt one bit of its value. Where it was done is said on stderr.
    /// Only in uncompressed batches; needs --retain.
    #[arg(long, value_name = "FAULT", requires_all = ["fault_at", "retain"])]
    fault: Option<Fault>,
    /// Which record that is, counted from 1 over all topics. If it cannot be done in its batch, it
    /// is done in the next one in which it can.
    #[arg(long, value_name = "N", requires = "fault", value_parser = clap::value_parser!(u64).range(1..))]
    fault_at: Option<u64>,
    /// Hold all answers back, for the first time so long after the first produce: in seconds, or as
    /// 500ms, 2m and so on.
    #[arg(long, value_name = "TIME", requires = "stall_ms", value_parser = units::duration)]
    stall_at: Option<Duration>,
    /// For how long, in ms.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    stall_ms: Option<u64>,
    /// And again and again, so far apart; the first time after as long, too, if --stall-at does not
    /// say otherwise.
    #[arg(long, value_name = "TIME", requires = "stall_ms", value_parser = units::duration)]
    stall_every: Option<Duration>,
}

impl BenchSink {
    pub(crate) fn into_options(self) -> Result<Options, &'static str> {
        let fault = self.fault.zip(self.fault_at);
        let stall = match (self.stall_ms, self.stall_at.or(self.stall_every)) {
            (Some(ms), Some(after)) => {
                Some(StallPlan { after, length: Duration::from_millis(ms), every: self.stall_every })
            }
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err("--stall-ms goes with --stall-at or --stall-every");
            }
        };
        Ok(Options {
            listen: self.listen,
            core: self.core,
            partitions: self.partitions,
            retain_bytes: self.retain,
            fault: fault.map(|(fault, at_record)| FaultPlan { fault, at_record }),
            stall,
        })
    }
}
