//! The report of a run: one JSON file that says what was done, where, and what came of it.
//!
//! Only data. A report is read again by `corelog bench compare`, by the side-by-side run, and by
//! whoever wants to check a claim; fields are only ever added, and [`FORMAT`] counts changes that
//! old readers would misunderstand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::plan::Plan;

/// Version of the report's form.
pub const FORMAT: u32 = 1;

/// Everything about one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// See [`FORMAT`].
    pub format: u32,
    /// The generator's version.
    pub version: String,
    /// Revision of the sources that the generator was built from; `unknown` outside a checkout.
    pub revision: String,
    /// The command, as it was given.
    pub command: Vec<String>,
    /// When the run began: RFC 3339, UTC.
    pub started: String,
    /// The scenario, when it was one.
    pub scenario: Option<String>,
    /// Where it ran.
    pub machine: Machine,
    /// What was driven.
    pub broker: Broker,
    /// One per step of the scenario; one for a plain run.
    pub runs: Vec<Run>,
    /// What a sweep found, in records a second.
    pub knee: Option<Knee>,
}

/// The machine that the generator ran on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Main memory, in bytes.
    pub memory_bytes: u64,
    /// The kernel's release and version.
    pub kernel: String,
    /// Limits and settings that change results: frequency governor, clock source, virtualisation.
    pub settings: BTreeMap<String, String>,
}

/// The broker that was driven.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Broker {
    /// Where it was reached.
    pub bootstrap: String,
    /// What it says that it is, as far as it does.
    pub kind: String,
    /// Durability mode of the topics (`fsync`, `write`), or what is known of it.
    pub durability: String,
    /// Command of a node that was started for the run.
    pub command: Option<Vec<String>>,
    /// Cores that it was pinned to.
    pub cores: Option<String>,
    /// Where its data are, for a node that was started for the run.
    pub storage: Option<Storage>,
}

/// A directory's disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Storage {
    /// The directory.
    pub path: PathBuf,
    /// Type of the file system, with its mount options.
    pub file_system: String,
    /// The device.
    pub device: String,
    /// Its write cache: `write back`, `write through` or `unknown`.
    pub write_cache: String,
}

/// One measured run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The step's name; `run` for a plain one.
    pub name: String,
    /// What was asked for.
    pub plan: Plan,
    /// How long the measured phase lasted, in seconds.
    pub seconds: f64,
    /// Records a second that were intended; absent when the broker decides.
    pub intended_per_s: Option<f64>,
    /// The producers' side of the measured phase.
    pub produced: Flow,
    /// The consumers' side, all groups together.
    pub consumed: Flow,
    /// Latencies of the measured phase, by name: see [`Metric`].
    pub latency: BTreeMap<Metric, Latency>,
    /// Whether all is there, over the whole run with its warm-up; absent when nobody reads.
    pub verification: Option<Verification>,
    /// How the generator itself fared.
    pub client: ClientUse,
    /// What the node used that was started for the run, or whose process id was given.
    pub server: Option<ServerUse>,
    /// What it used while consumers read what had been produced before, if they started when
    /// producers were done; per record and byte consumed.
    #[serde(default)]
    pub server_consuming: Option<ServerUse>,
    /// What was refused or went wrong on the way, in the broker's words, and how often.
    #[serde(default)]
    pub errors: BTreeMap<String, u64>,
    /// How long consumers that started late took to catch up, in seconds.
    pub caught_up_s: Option<f64>,
    /// Files beside the report, by what they are: `hlog`, `hgrm.response` and so on.
    pub files: BTreeMap<String, PathBuf>,
}

impl Run {
    /// Whether something is lost, doubled, reordered or changed that should not be.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.verification.as_ref().is_some_and(|it| !it.as_promised)
    }
}

/// What went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Records acknowledged, or read.
    pub records: u64,
    /// Their keys and values, in bytes.
    pub bytes: u64,
    /// Requests answered.
    pub requests: u64,
    /// Records a second.
    pub records_per_s: f64,
    /// Keys and values a second, in units of 1,000,000 bytes.
    pub mb_per_s: f64,
    /// Records that were refused, or whose connection broke.
    pub errors: u64,
    /// Records that were not answered in time.
    pub timeouts: u64,
    /// Connections made again.
    pub reconnects: u64,
    /// Records whose time came, and that were never sent because the broker was too slow.
    #[serde(default)]
    pub unsent: u64,
}

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// From the time at which a record was to be sent to its acknowledgement. The one that counts.
    Response,
    /// From the moment at which a record's request was written to its acknowledgement.
    Service,
    /// From the time at which a record was to be sent to the moment at which its request was
    /// written: what the generator, and a broker that pushes back, add.
    ScheduleLag,
    /// From the time at which a record was to be sent to the moment at which a consumer had it.
    EndToEnd,
}

impl Metric {
    /// Every one, in the order of a report.
    pub const ALL: [Self; 4] = [Self::Response, Self::Service, Self::ScheduleLag, Self::EndToEnd];

    /// Its name in files: the tag in an interval log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::Service => "service",
            Self::ScheduleLag => "schedule_lag",
            Self::EndToEnd => "end_to_end",
        }
    }
}

/// A distribution of times, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many were measured.
    pub samples: u64,
    /// Smallest.
    pub min_us: f64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Largest.
    pub max_us: f64,
    /// By percentile as text (`"50"`, `"99.9"`); those that too few samples lie beyond are left out.
    pub percentiles_us: BTreeMap<String, f64>,
}

/// What became of every record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// Records given to a request.
    pub sent: u64,
    /// Of those, acknowledged.
    pub acknowledged: u64,
    /// Of those, refused, or without an answer: they may be there or not.
    pub undecided: u64,
    /// Records read, the sum over groups.
    pub read: u64,
    /// Acknowledged and not read, the sum over groups.
    pub lost: u64,
    /// Read once more after the first time.
    pub duplicated: u64,
    /// Read after a later one of the same producer and partition.
    pub reordered: u64,
    /// With a wrong checksum, or not what a generator writes.
    pub corrupt: u64,
    /// Of another run on the same topic; ignored.
    pub foreign: u64,
    /// Whether that is what was promised for these acknowledgements.
    pub as_promised: bool,
    /// What is not, in words; the first few examples with partition and offset.
    pub findings: Vec<String>,
}

/// How the generator fared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientUse {
    /// Cores that it was pinned to.
    pub cores: Vec<usize>,
    /// Share of them that it used in the measured phase, 0 to 1.
    pub cpu_share: f64,
    /// CPU seconds in the measured phase.
    pub cpu_s: f64,
    /// Why it was the bottleneck, if it was: the numbers are then the generator's, not the broker's.
    pub client_bound: Option<String>,
}

/// What a broker's process used in the measured phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerUse {
    /// CPU seconds, user and system, with the kernel's workers on its behalf.
    pub cpu_s: f64,
    /// CPU per record produced, in microseconds.
    pub cpu_us_per_record: f64,
    /// CPU seconds per 1,000,000,000 bytes produced.
    pub cpu_s_per_gb: f64,
    /// Resident memory at the end, in bytes.
    pub resident_bytes: u64,
    /// From before its process was made to its first answer to a Kafka request, in ms, if it was
    /// started for the run.
    pub start_ms: Option<f64>,
}

/// What a sweep found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Knee {
    /// The highest rate that held, in records a second.
    pub records_per_s: f64,
    /// What ended the search, in words: the bound that the next rate broke.
    pub limit: String,
}
