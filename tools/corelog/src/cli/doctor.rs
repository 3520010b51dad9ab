//! What can be typed after `corelog doctor`.

use clap::Args;

use super::NodeFlags;

const EXAMPLES: &str = "\
Examples:
  corelog doctor --data-dir /var/lib/corelog
  sudo -u corelog corelog doctor --config /etc/corelog/corelog.toml --output json

Takes the configuration that `corelog serve` would take: the same flags, file and environment. Limits
of memory and files are those of whoever runs it, so a service's are seen only from inside its unit or
container; docs/OPERATIONS.md says how.

A line is ok, warn (a node runs, but slower, with less, or not for long) or fail (a node would not
start, or could not keep what it promises). Exit code 0: nothing fails; 1: something does.

It really sets up a ring of io_uring, writes blocks of 4096 bytes with direct I/O in the data directory
and times their syncs for about a second. The files for that are removed, and nothing else is changed;
a data directory that is not there is not created.";

/// Checks whether a node can run here: kernel, io_uring, limits, CPU, clock, disk, ports; says what to
/// set.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) node: NodeFlags,
}
