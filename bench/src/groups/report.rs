//! What a run leaves behind: `report.json`. Only data; fields are only ever added, and [`FORMAT`]
//! counts changes that old readers would misunderstand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::plan::GroupsPlan;
use crate::result::report::{ClientUse, Latency, Machine, Metric, Storage};

/// Version of the report's form.
pub const FORMAT: u32 = 1;

/// Everything about one run. Readers of histograms find its files where a load's report has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupsReport {
    /// See [`FORMAT`].
    pub format: u32,
    /// The generator's version.
    pub version: String,
    /// Revision of the sources that it was built from; `unknown` outside a checkout.
    pub revision: String,
    /// The command, as it was given.
    pub command: Vec<String>,
    /// When the run began: RFC 3339, UTC.
    pub started: String,
    /// Where it ran.
    pub machine: Machine,
    /// Where the broker was reached.
    pub bootstrap: String,
    /// Where the data of a broker are that was started for the run.
    pub storage: Option<Storage>,
    /// The one run.
    pub runs: Vec<GroupsRun>,
}

/// What was asked for, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupsRun {
    /// Its name, as in the names of its files.
    pub name: String,
    /// What was asked for.
    pub plan: GroupsPlan,
    /// How long the measured phase lasted, in seconds.
    pub seconds: f64,
    /// Commits a second that were intended.
    pub intended_per_s: f64,
    /// Commits acknowledged in the measured phase.
    pub commits: u64,
    /// Of those, a second.
    pub commits_per_s: f64,
    /// Offsets in them, a second: one for each partition.
    pub offsets_per_s: f64,
    /// Signs of life that were answered in the measured phase.
    pub heartbeats: u64,
    /// Times of commits that were due in the measured phase: response, and how late they were sent.
    pub latency: BTreeMap<Metric, Latency>,
    /// What went wrong in the whole run, by request and the broker's word for it, and how often.
    pub errors: BTreeMap<String, u64>,
    /// What the broker's process used in the measured phase.
    pub server: Option<CoordinatorUse>,
    /// How the generator fared in it.
    pub client: ClientUse,
    /// What the broker had of all groups at the end.
    pub verification: Option<OffsetCheck>,
    /// How soon after a crash it had that, in a run through a restart.
    pub restart: Option<Restart>,
    /// Files beside the report, by what they are.
    pub files: BTreeMap<String, PathBuf>,
}

impl GroupsRun {
    /// Whether an offset that was acknowledged is not there.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.verification.as_ref().is_some_and(|it| !it.as_promised)
    }
}

/// What a broker's process used in the measured phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct CoordinatorUse {
    /// CPU seconds, user and system, with the kernel's workers on its behalf.
    pub cpu_s: f64,
    /// Share of one core, 0 to 1 (and more, if it has several).
    pub cpu_share: f64,
    /// CPU per commit acknowledged, in microseconds: with members, their signs of life are in it.
    pub cpu_us_per_commit: f64,
    /// Resident memory at the end, in bytes.
    pub resident_bytes: u64,
    /// The most resident memory that it ever had, in bytes.
    pub peak_resident_bytes: u64,
}

/// Every group's offsets against what was acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OffsetCheck {
    /// Groups that were asked for.
    pub groups: u64,
    /// Offsets that must be there: of each partition of each group with a commit acknowledged.
    pub offsets: u64,
    /// Of those, not there at all.
    pub missing: u64,
    /// Lower than what was acknowledged.
    pub gone_back: u64,
    /// Of a commit that was never sent, or of another partition.
    pub foreign: u64,
    /// Higher than acknowledged, from a commit that was sent and not answered: as it may be.
    pub unanswered: u64,
    /// Whether that is what was promised: nothing missing, gone back or foreign.
    pub as_promised: bool,
    /// What is not, in words; the first few.
    pub findings: Vec<String>,
}

/// The way back after a crash, in ms since the connections were lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    /// A connection was there again, and the broker told who coordinates.
    pub connected_ms: f64,
    /// The first group's offsets were read.
    pub first_ms: f64,
    /// Every group's offsets were read.
    pub all_ms: f64,
    /// Requests that were refused until then, since a coordinator was not ready.
    pub refused: u64,
}
