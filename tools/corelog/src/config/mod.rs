//! A node's configuration: one typed file, the environment, flags.
//!
//! Flags win over the environment, the environment over the file, the file over the defaults. Each
//! layer is checked where it is read, so that an error names the file and line, or the variable.
//! `docs/corelog.example.toml` documents every key; a test keeps it equal to the defaults.

mod cores;
mod environment;
mod print;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

pub(crate) use cores::parse_cores;
pub(crate) use environment::Environment;

/// Everything that can be set. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) node_id: i32,
    pub(crate) cores: String,
    pub(crate) shards: usize,
    pub(crate) http: Http,
    pub(crate) network: Network,
    pub(crate) topics: Topics,
    pub(crate) groups: Groups,
    pub(crate) journal: Journal,
    pub(crate) segments: Segments,
    pub(crate) retention: Retention,
    pub(crate) compaction: Compaction,
    pub(crate) memory: Memory,
    pub(crate) log: Log,
    pub(crate) listener: Vec<Listener>,
}

/// A place where Kafka clients connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    pub(crate) name: String,
    pub(crate) bind: String,
    #[serde(default)]
    pub(crate) advertise: String,
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($key:ident: $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct $name {
            $(pub(crate) $key: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }
    };
}

section! {
    /// `/healthz`, `/metrics` and the console.
    Http {
        bind: String = "127.0.0.1:9644".to_owned(),
        console: bool = true,
    }
}

section! {
    /// Connections.
    Network {
        max_connections: usize = 20_000,
        max_frame_bytes: usize = 100 << 20,
        idle_timeout_ms: u64 = 600_000,
        send_buffer_bytes: usize = 128 << 10,
        request_memory_bytes: usize = 128 << 20,
        response_memory_bytes: usize = 64 << 20,
    }
}

section! {
    /// Defaults of topics.
    Topics {
        auto_create: bool = true,
        default_partitions: i32 = 1,
        durability: DefaultDurability = DefaultDurability::Fsync,
    }
}

section! {
    /// Consumer groups and their offsets.
    Groups {
        offsets_topic_partitions: i32 = 50,
        offsets_retention_minutes: u32 = 7 * 24 * 60,
        offset_metadata_max_bytes: usize = 4096,
        initial_rebalance_delay_ms: u32 = 3000,
        min_session_timeout_ms: i32 = 6000,
        max_session_timeout_ms: i32 = 1_800_000,
        max_size: u32 = MAX_SIZE_NONE,
        consumer_session_timeout_ms: u32 = 45_000,
        consumer_heartbeat_interval_ms: i32 = 5000,
        consumer_max_size: u32 = MAX_SIZE_NONE,
        consumer_migration: Migration = Migration::Bidirectional,
    }
}

/// `groups.consumer_migration`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Migration {
    Bidirectional,
    Upgrade,
    Downgrade,
    Disabled,
}

section! {
    /// Each shard's journal.
    Journal {
        file_bytes: u64 = 64 << 20,
        first_file_bytes: u64 = 16 << 20,
        max_files: usize = 4,
        flush_interval_ms: u64 = 100,
    }
}

section! {
    /// Defaults of segments.
    Segments {
        segment_bytes: u64 = 1 << 30,
        segment_ms: u64 = 7 * 24 * 3_600_000,
    }
}

section! {
    /// Deleting what is too old or too much.
    Retention {
        check_interval_ms: u64 = 300_000,
    }
}

section! {
    /// Keeping only the newest record of each key.
    Compaction {
        enabled: bool = true,
        keys_memory_bytes: usize = 32 << 20,
        check_interval_ms: u64 = 15_000,
        busy_percent: u32 = 20,
        bytes_per_second: u64 = 0,
    }
}

section! {
    /// Memory budgets.
    Memory {
        tail_cache_bytes: usize = 64 << 20,
    }
}

section! {
    /// What is logged.
    Log {
        level: String = "info".to_owned(),
    }
}

/// `topics.durability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DefaultDurability {
    Fsync,
    Write,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./corelog-data"),
            node_id: 1,
            cores: "all".to_owned(),
            shards: 0,
            http: Http::default(),
            network: Network::default(),
            topics: Topics::default(),
            groups: Groups::default(),
            journal: Journal::default(),
            segments: Segments::default(),
            retention: Retention::default(),
            compaction: Compaction::default(),
            memory: Memory::default(),
            log: Log::default(),
            listener: vec![Listener::main()],
        }
    }
}

/// The listener that flags are about.
pub(crate) const MAIN_LISTENER: &str = "main";

/// No journal file is smaller.
const JOURNAL_FILE_BYTES_MIN: u64 = 1 << 20;
/// A journal needs one file to write to, one that is being freed and one in reserve.
const JOURNAL_FILES_MIN: usize = 3;
/// Some thousand keys for each shard of a large machine: less, and rounds get nowhere.
const COMPACTION_KEYS_BYTES_MIN: usize = 1 << 20;
/// Kafka's own lower limit is 14; a file of less than this holds next to nothing.
const SEGMENT_BYTES_MIN: u64 = 1 << 16;
/// Kafka's `segment.bytes` is a signed number of 32 bits.
const SEGMENT_BYTES_MAX: u64 = (1 << 31) - 1;
/// Direct writes are multiples of this.
const BLOCK_BYTES: u64 = 4096;
/// Kafka's way to say that a group may have any number of members.
const MAX_SIZE_NONE: u32 = i32::MAX.unsigned_abs();
/// A record of the offsets topic can hold no more.
const OFFSET_METADATA_BYTES_MAX: usize = 32_767;
/// The kernel's own limits are about these; a number that does not fit its type would be another one.
const SEND_BUFFER_BYTES: RangeInclusive<usize> = 4096..=1 << 30;
/// More partitions than this are surely a mistake.
const DEFAULT_PARTITIONS_MAX: i32 = 10_000;

impl Listener {
    fn main() -> Self {
        Self { name: MAIN_LISTENER.to_owned(), bind: "127.0.0.1:9092".to_owned(), advertise: String::new() }
    }

    /// Where to listen.
    pub(crate) fn bind_addr(&self) -> Result<SocketAddr> {
        let what = || format!("listener '{}': bind", self.name);
        parse_bind(&self.bind).with_context(what)
    }

    /// What to tell clients, as host and port, once the port that was bound is known.
    pub(crate) fn advertised(&self, bound: SocketAddr) -> Result<(String, u16)> {
        let (host, port) = if self.advertise.is_empty() {
            (bound.ip().to_string(), bound.port())
        } else {
            split_host_port(&self.advertise)
                .with_context(|| format!("listener '{}': advertise", self.name))?
        };
        let port = if port == 0 { bound.port() } else { port };
        let unspecified = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        ensure!(
            !unspecified,
            "listener '{}' would tell clients to connect to {host}, which is no address of any host; \
             set advertise (--advertise HOST:PORT) to the name or address by which clients reach this \
             machine",
            self.name
        );
        Ok((host, port))
    }
}

/// What flags can set.
#[derive(Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) listen: Option<String>,
    pub(crate) advertise: Option<String>,
    pub(crate) http: Option<String>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) node_id: Option<i32>,
    pub(crate) cores: Option<String>,
    pub(crate) shards: Option<usize>,
    pub(crate) log_level: Option<String>,
}

impl Config {
    /// All layers together, checked.
    pub(crate) fn load(file: Option<&Path>, environment: &Environment, overrides: Overrides) -> Result<Self> {
        let mut config = match file {
            Some(path) => Self::from_file(path)?,
            None => Self::default(),
        };
        config = environment.apply(config)?;
        config.apply_flags(overrides)?;
        config.check()?;
        Ok(config)
    }

    fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        Self::from_toml(&text).with_context(|| format!("in {}", path.display()))
    }

    /// The file alone over the defaults. An error shows line and key.
    fn from_toml(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| anyhow::anyhow!("{}", error.to_string().trim_end()))
    }

    fn apply_flags(&mut self, flags: Overrides) -> Result<()> {
        if flags.listen.is_some() || flags.advertise.is_some() {
            let at = self.listener.iter().position(|it| it.name == MAIN_LISTENER);
            let listener = match (at, self.listener.len()) {
                (Some(at), _) => &mut self.listener[at],
                (None, 1) => &mut self.listener[0],
                (None, 0) => self.listener.push_mut(Listener::main()),
                (None, _) => bail!(
                    "--listen and --advertise are about the listener '{MAIN_LISTENER}', and the \
                     configuration has several of other names"
                ),
            };
            if let Some(bind) = flags.listen {
                listener.bind = bind;
            }
            if let Some(advertise) = flags.advertise {
                listener.advertise = advertise;
            }
        }
        set(&mut self.http.bind, flags.http);
        set(&mut self.data_dir, flags.data_dir);
        set(&mut self.node_id, flags.node_id);
        set(&mut self.cores, flags.cores);
        set(&mut self.shards, flags.shards);
        set(&mut self.log.level, flags.log_level);
        Ok(())
    }

    /// What each key alone cannot say.
    fn check(&self) -> Result<()> {
        ensure!(!self.listener.is_empty(), "no listener is configured: add a [[listener]] section");
        for (at, listener) in self.listener.iter().enumerate() {
            let earlier = &self.listener[..at];
            ensure!(!listener.name.is_empty(), "a listener has an empty name");
            ensure!(
                earlier.iter().all(|it| it.name != listener.name),
                "two listeners are called '{}'",
                listener.name
            );
            listener.advertised(listener.bind_addr()?)?;
        }
        self.http_addr()?;
        parse_cores(&self.cores).context("cores")?;
        ensure!(self.node_id >= 0, "node_id is {}: it must not be negative", self.node_id);
        let partitions = self.topics.default_partitions;
        ensure!(
            (1..=DEFAULT_PARTITIONS_MAX).contains(&partitions),
            "topics.default_partitions is {partitions}: from 1 to {DEFAULT_PARTITIONS_MAX} are possible"
        );
        self.check_groups()?;
        let journal = &self.journal;
        for (key, bytes) in
            [("file_bytes", journal.file_bytes), ("first_file_bytes", journal.first_file_bytes)]
        {
            ensure!(
                bytes >= JOURNAL_FILE_BYTES_MIN && bytes % BLOCK_BYTES == 0,
                "journal.{key} is {bytes}: at least {JOURNAL_FILE_BYTES_MIN}, and a multiple of \
                 {BLOCK_BYTES}"
            );
        }
        ensure!(
            journal.max_files >= JOURNAL_FILES_MIN,
            "journal.max_files is {}: at least {JOURNAL_FILES_MIN}",
            journal.max_files
        );
        let segment_bytes = self.segments.segment_bytes;
        ensure!(
            (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes),
            "segments.segment_bytes is {segment_bytes}: from {SEGMENT_BYTES_MIN} to \
             {SEGMENT_BYTES_MAX} are possible"
        );
        ensure!(journal.flush_interval_ms > 0, "journal.flush_interval_ms must not be 0");
        ensure!(self.retention.check_interval_ms > 0, "retention.check_interval_ms must not be 0");
        ensure!(self.compaction.check_interval_ms > 0, "compaction.check_interval_ms must not be 0");
        ensure!(
            self.compaction.keys_memory_bytes >= COMPACTION_KEYS_BYTES_MIN,
            "compaction.keys_memory_bytes must be at least {COMPACTION_KEYS_BYTES_MIN}"
        );
        let busy_percent = self.compaction.busy_percent;
        ensure!((1..=100).contains(&busy_percent), "compaction.busy_percent must be from 1 to 100");
        ensure!(self.network.max_connections > 0, "network.max_connections must not be 0");
        let send_buffer_bytes = self.network.send_buffer_bytes;
        ensure!(
            send_buffer_bytes == 0 || SEND_BUFFER_BYTES.contains(&send_buffer_bytes),
            "network.send_buffer_bytes is {send_buffer_bytes}: 0, or from {} to {}",
            SEND_BUFFER_BYTES.start(),
            SEND_BUFFER_BYTES.end()
        );
        Ok(())
    }

    fn check_groups(&self) -> Result<()> {
        let groups = &self.groups;
        let partitions = groups.offsets_topic_partitions;
        ensure!(
            (1..=DEFAULT_PARTITIONS_MAX).contains(&partitions),
            "groups.offsets_topic_partitions is {partitions}: from 1 to {DEFAULT_PARTITIONS_MAX} are possible"
        );
        let metadata = groups.offset_metadata_max_bytes;
        ensure!(
            metadata <= OFFSET_METADATA_BYTES_MAX,
            "groups.offset_metadata_max_bytes is {metadata}: at most {OFFSET_METADATA_BYTES_MAX}"
        );
        ensure!(groups.offsets_retention_minutes > 0, "groups.offsets_retention_minutes must not be 0");
        let (min, max) = (groups.min_session_timeout_ms, groups.max_session_timeout_ms);
        ensure!(min > 0, "groups.min_session_timeout_ms is {min}: it must be above 0");
        ensure!(
            min <= max,
            "groups.min_session_timeout_ms is {min}, which is above max_session_timeout_ms, {max}"
        );
        for (key, size) in [("max_size", groups.max_size), ("consumer_max_size", groups.consumer_max_size)] {
            ensure!(size > 0, "groups.{key} must not be 0");
        }
        let (interval, timeout) = (groups.consumer_heartbeat_interval_ms, groups.consumer_session_timeout_ms);
        ensure!(interval > 0, "groups.consumer_heartbeat_interval_ms is {interval}: it must be above 0");
        ensure!(
            interval.unsigned_abs() < timeout,
            "groups.consumer_heartbeat_interval_ms is {interval}: it must be below \
             consumer_session_timeout_ms, {timeout}"
        );
        Ok(())
    }

    /// Where `/healthz` and `/metrics` answer, if anywhere.
    pub(crate) fn http_addr(&self) -> Result<Option<SocketAddr>> {
        if self.http.bind.is_empty() {
            return Ok(None);
        }
        parse_bind(&self.http.bind).map(Some).context("http.bind")
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn parse_bind(address: &str) -> Result<SocketAddr> {
    let (host, port) = split_host_port(address)?;
    let host = if host == "localhost" { "127.0.0.1" } else { &host };
    let ip = host.parse().with_context(|| {
        format!("'{address}' does not begin with an IP address (0.0.0.0 listens on all interfaces)")
    })?;
    Ok(SocketAddr::new(ip, port))
}

fn split_host_port(address: &str) -> Result<(String, u16)> {
    let example = "write host:port, for example 127.0.0.1:9092";
    let (host, port) =
        address.rsplit_once(':').with_context(|| format!("'{address}' has no port; {example}"))?;
    let port = port.parse().with_context(|| format!("'{address}' has no valid port; {example}"))?;
    let host = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
    ensure!(!host.is_empty(), "'{address}' has no host; {example}");
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests;
