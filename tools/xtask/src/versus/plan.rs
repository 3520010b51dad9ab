//! What is compared: the brokers, the rows of the comparison, and how long each of them takes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Samples below which a p99.9 is left out.
pub(crate) const SAMPLES_MIN: f64 = 100_000.0;
/// Open-loop loads last at most so long to reach [`SAMPLES_MIN`].
const OPEN_LOOP_MAX_S: f64 = 20.0;
/// What a run of the load generator takes beyond its own phases: connecting, reading the rest.
const OVERHEAD_S: f64 = 1.0;
/// What starting a broker takes, for the estimate of the remaining time.
const START_S: f64 = 3.0;

/// A broker in one of its modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Variant {
    /// Apache Kafka as it is, which acknowledges before anything is on disk.
    Kafka,
    /// Apache Kafka with `flush.messages=1` on its topics.
    KafkaFlush,
    /// Corelog as it is, which acknowledges after the sync.
    CorelogFsync,
    /// Corelog with `corelog.durability=write` on its topics.
    CorelogWrite,
}

impl Variant {
    pub(crate) const ALL: [Self; 4] = [Self::Kafka, Self::KafkaFlush, Self::CorelogFsync, Self::CorelogWrite];
    /// Where a row is about the process and not about when it acknowledges.
    pub(crate) const DEFAULTS: [Self; 2] = [Self::Kafka, Self::CorelogFsync];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::KafkaFlush => "kafka-flush",
            Self::CorelogFsync => "corelog-fsync",
            Self::CorelogWrite => "corelog-write",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Kafka => "Apache Kafka, its default durability: acknowledged before it is on disk",
            Self::KafkaFlush => {
                "Apache Kafka, topics with `flush.messages=1`: synced before it is acknowledged"
            }
            Self::CorelogFsync => "Corelog, its default durability: synced before it is acknowledged",
            Self::CorelogWrite => {
                "Corelog, topics with `corelog.durability=write`: acknowledged after the write, synced soon after"
            }
        }
    }

    pub(crate) fn is_kafka(self) -> bool {
        matches!(self, Self::Kafka | Self::KafkaFlush)
    }

    /// What topics are created with.
    pub(crate) fn topic_config(self) -> Option<&'static str> {
        match self {
            Self::Kafka => None,
            Self::KafkaFlush => Some("flush.messages=1"),
            Self::CorelogFsync => Some("corelog.durability=fsync"),
            Self::CorelogWrite => Some("corelog.durability=write"),
        }
    }
}

/// A row of the comparison. The numbers are those of `--rows`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Row {
    /// As much as it takes, in batches.
    Throughput = 1,
    /// One record a request, closed loop.
    Single = 2,
    /// The same rates for everybody: shares of Kafka's knee.
    Latency = 3,
    /// Reading a backlog.
    Fetch = 4,
    /// Start, restart, idle.
    Start = 5,
    /// 1,000 partitions against 1.
    Partitions = 6,
    /// Kafka's own performance tools.
    JavaTools = 7,
    /// 10,000 partitions: their memory, and a start after `kill -9`.
    ManyPartitions = 8,
}

impl Row {
    pub(crate) const ALL: [Self; 8] = [
        Self::Throughput,
        Self::Single,
        Self::Latency,
        Self::Fetch,
        Self::Start,
        Self::Partitions,
        Self::JavaTools,
        Self::ManyPartitions,
    ];

    /// In the order of a round: what leaves most behind on the disk comes last.
    const IN_A_ROUND: [Self; 6] =
        [Self::Latency, Self::Single, Self::Partitions, Self::Throughput, Self::Fetch, Self::JavaTools];

    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Throughput => 1,
            Self::Single => 2,
            Self::Latency => 3,
            Self::Fetch => 4,
            Self::Start => 5,
            Self::Partitions => 6,
            Self::JavaTools => 7,
            Self::ManyPartitions => 8,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Single => "single",
            Self::Latency => "latency",
            Self::Fetch => "fetch",
            Self::Start => "start",
            Self::Partitions => "partitions",
            Self::JavaTools => "java-tools",
            Self::ManyPartitions => "many-partitions",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Throughput => "Batched produce, as much as it takes",
            Self::Single => "One record a request, closed loop",
            Self::Latency => "Latency at the same rates",
            Self::Fetch => "Reading a backlog",
            Self::Start => "Start, restart, idle",
            Self::Partitions => "1,000 partitions against 1",
            Self::JavaTools => "Kafka's own performance tools",
            Self::ManyPartitions => "10,000 partitions",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Throughput => {
                "Records of 1 KiB in batches of 64 KiB over 16 connections into 16 partitions, acks=all, nobody reads."
            }
            Self::Single => {
                "One record of 1 KiB a request, 64 connections, each with one request under way, 16 partitions, acks=all."
            }
            Self::Latency => {
                "Records of 1 KiB, 4 producers, Poisson arrivals, linger 0, 4 partitions, acks=all, one consumer. Times \
                 are from the moment at which a record was to be sent. A p99.9 has at least 100,000 samples behind it in \
                 each round, or is left out."
            }
            Self::Fetch => {
                "Records of 1 KiB that were produced before the consumer started; one consumer, and nobody produces \
                 meanwhile."
            }
            Self::Start => {
                "From starting the process to the acknowledgement of a first record, on a raw socket that tries to \
                 connect every 0.2 ms. \"Used\" is the same directory after a graceful stop; \"killed\" after `kill -9` \
                 behind 64 produces of 1 MB each. Idle is measured from 3 s after the first record on an empty directory."
            }
            Self::Partitions => {
                "As much as it takes into 1 and into 1,000 partitions (16 connections, batches of 64 KiB, records of \
                 1 KiB), and both at the same rate, half of Kafka's knee (4 producers, linger 0)."
            }
            Self::JavaTools => {
                "`ProducerPerformance`, `ConsumerPerformance` and `ConsoleConsumer` of Apache Kafka, 1 KiB records, \
                 acks=all, one partition, once for each variant in the last round. Their own numbers; the server's CPU is \
                 counted over the whole run of the tool."
            }
            Self::ManyPartitions => {
                "10 topics of 1,000 partitions each are created on an empty broker, a record is acknowledged, the \
                 broker is killed with `kill -9` and started again. Once, in the last round."
            }
        }
    }

    /// Who takes part.
    pub(crate) fn variants(self) -> &'static [Variant] {
        const LATENCY: [Variant; 3] = [Variant::Kafka, Variant::CorelogFsync, Variant::CorelogWrite];
        match self {
            Self::Throughput | Self::Single | Self::JavaTools => &Variant::ALL,
            Self::Latency => &LATENCY,
            Self::Fetch | Self::Start | Self::Partitions | Self::ManyPartitions => &Variant::DEFAULTS,
        }
    }

    /// Whether it runs in the last round only.
    pub(crate) fn is_once(self) -> bool {
        matches!(self, Self::JavaTools | Self::ManyPartitions)
    }

    /// Whether its rates are shares of the knee.
    pub(crate) fn needs_knee(self) -> bool {
        matches!(self, Self::Latency | Self::Partitions)
    }
}

impl FromStr for Row {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|row| row.name() == text || row.number().to_string() == text);
        found.ok_or_else(|| {
            let known: Vec<String> =
                Self::ALL.iter().map(|row| format!("{} or {}", row.number(), row.name())).collect();
            format!("rows are {}", known.join(", "))
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Names of the steps of rows that have several.
pub(crate) mod step {
    pub(crate) const ONLY: &str = "";
    pub(crate) const SHARES: [(&str, f64); 3] =
        [("25% of knee", 0.25), ("50% of knee", 0.5), ("75% of knee", 0.75)];
    pub(crate) const HALF_OF_KNEE: &str = "50% of knee";
    pub(crate) const ONE_MAX: &str = "1 partition, as much as it takes";
    pub(crate) const MANY_MAX: &str = "1,000 partitions, as much as it takes";
    pub(crate) const ONE_LOADED: &str = "1 partition, 50% of knee";
    pub(crate) const MANY_LOADED: &str = "1,000 partitions, 50% of knee";
    pub(crate) const PRODUCER: &str = "ProducerPerformance";
    pub(crate) const CONSUMER: &str = "ConsumerPerformance";
    pub(crate) const CONSOLE: &str = "ConsoleConsumer";
}

/// How the comparison is made; results of other settings are not mixed with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Rounds, with the discarded one.
    pub(crate) rounds: u32,
    /// What is compared.
    pub(crate) rows: Vec<Row>,
    /// Short times: to see whether it works, not to measure.
    pub(crate) quick: bool,
    pub(crate) server_core: usize,
    pub(crate) client_core: usize,
    /// Load before the first measured cell of a broker, the same for every variant.
    pub(crate) broker_warm_up_s: f64,
    /// Load before each measurement.
    pub(crate) warm_up_s: f64,
    /// How long loads are measured.
    pub(crate) duration_s: f64,
    /// The same for throughput, which must outgrow every buffer.
    pub(crate) throughput_s: f64,
    /// How long an idle broker is watched.
    pub(crate) idle_s: f64,
    /// Records of the backlog that is read.
    pub(crate) backlog_records: u64,
    /// When reading it begins; producers are done by then.
    pub(crate) backlog_wait_s: f64,
    /// Records of Kafka's own tools.
    pub(crate) tool_records: u64,
}

impl Settings {
    /// The rounds whose results are not used: JIT compilers, caches and the disk are cold.
    pub(crate) const DISCARDED_ROUNDS: u32 = 1;

    pub(crate) fn new(rounds: u32, rows: Vec<Row>, quick: bool) -> Self {
        let times = |full: f64, short: f64| if quick { short } else { full };
        Self {
            rounds,
            rows,
            quick,
            server_core: 0,
            client_core: 1,
            broker_warm_up_s: times(5.0, 1.0),
            warm_up_s: times(1.5, 0.5),
            duration_s: times(5.0, 2.0),
            throughput_s: times(7.0, 2.0),
            idle_s: times(8.0, 1.0),
            backlog_records: if quick { 100_000 } else { 1_000_000 },
            backlog_wait_s: times(14.0, 4.0),
            tool_records: if quick { 50_000 } else { 500_000 },
        }
    }

    /// Whether a round counts.
    pub(crate) fn is_kept(&self, round: u32) -> bool {
        // A single round is all there is, and the page says that it is one.
        self.rounds == 1 || round > Self::DISCARDED_ROUNDS
    }

    /// How long an open loop of this rate is measured: until a p99.9 has its samples, where that does
    /// not take too long.
    pub(crate) fn open_loop_s(&self, rate: f64) -> f64 {
        let enough = SAMPLES_MIN * 1.05 / rate.max(1.0);
        if self.quick { self.duration_s } else { enough.clamp(self.duration_s, OPEN_LOOP_MAX_S) }
    }

    /// What runs in this round, in its order: every row of one variant, then those of the next one.
    pub(crate) fn cells(&self, round: u32) -> Vec<(Variant, Vec<Row>)> {
        let wanted = |row: Row, variant: Variant| {
            self.rows.contains(&row)
                && row.variants().contains(&variant)
                && (!row.is_once() || round == self.rounds)
        };
        Variant::ALL
            .into_iter()
            .map(|variant| {
                let shared = Row::IN_A_ROUND.into_iter();
                let own = [Row::Start, Row::ManyPartitions].into_iter();
                (variant, shared.chain(own).filter(|row| wanted(*row, variant)).collect::<Vec<_>>())
            })
            .filter(|(_, rows)| !rows.is_empty())
            .collect()
    }

    /// About how long a row takes, in seconds.
    pub(crate) fn estimate_s(&self, row: Row, variant: Variant, knee: Option<f64>) -> f64 {
        let cell = |duration: f64| self.warm_up_s + duration + OVERHEAD_S;
        let start = if variant.is_kafka() { START_S } else { 0.1 };
        let knee = knee.unwrap_or(SAMPLES_MIN);
        match row {
            Row::Throughput => cell(self.throughput_s),
            Row::Single => cell(self.duration_s),
            Row::Latency => step::SHARES.iter().map(|(_, share)| cell(self.open_loop_s(knee * share))).sum(),
            Row::Fetch => self.backlog_wait_s + 2.0 * OVERHEAD_S,
            Row::Start => 3.0 * start + 4.0 + self.idle_s,
            Row::Partitions => 4.0 * cell(self.duration_s),
            Row::JavaTools => 30.0,
            Row::ManyPartitions => 25.0 * start + 10.0,
        }
    }

    /// About how long a whole round takes, in seconds.
    pub(crate) fn round_estimate_s(&self, round: u32, knee: Option<f64>) -> f64 {
        let variant_s = |(variant, rows): &(Variant, Vec<Row>)| {
            let rows_s: f64 = rows.iter().map(|row| self.estimate_s(*row, *variant, knee)).sum();
            let start_s = if variant.is_kafka() { START_S } else { 0.1 };
            rows_s + start_s + self.broker_warm_up_s + OVERHEAD_S
        };
        self.cells(round).iter().map(variant_s).sum()
    }
}

/// A load for `corelog bench`: its flags without the broker's address.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Load {
    flags: BTreeMap<&'static str, String>,
    /// Flags without a value.
    switches: Vec<&'static str>,
    topic_config: Option<&'static str>,
}

impl Load {
    fn new(variant: Variant, flags: &[(&'static str, &str)]) -> Self {
        let common = [("record-bytes", "1024"), ("acks", "all")];
        let flags = common.iter().chain(flags).map(|(flag, value)| (*flag, (*value).to_owned())).collect();
        Self { flags, switches: Vec::new(), topic_config: variant.topic_config() }
    }

    pub(crate) fn throughput(variant: Variant, partitions: u32, warm_up_s: f64, duration_s: f64) -> Self {
        Self::new(
            variant,
            &[("producers", "16"), ("batch-bytes", "65536"), ("arrivals", "max"), ("consumers", "0")],
        )
        .with("partitions", partitions)
        .with("warm-up", warm_up_s)
        .with("duration", duration_s)
    }

    pub(crate) fn single(variant: Variant, settings: &Settings) -> Self {
        Self::new(
            variant,
            &[
                ("producers", "64"),
                ("batch-records", "1"),
                ("in-flight", "1"),
                ("arrivals", "closed"),
                ("consumers", "0"),
                ("partitions", "16"),
            ],
        )
        .with("warm-up", settings.warm_up_s)
        .with("duration", settings.duration_s)
    }

    /// The load whose knee is looked for, and that is then run at shares of it.
    pub(crate) fn latency(variant: Variant, settings: &Settings, partitions: u32, rate: Option<f64>) -> Self {
        let load = Self::new(
            variant,
            &[("producers", "4"), ("linger-ms", "0"), ("arrivals", "poisson"), ("consumers", "1")],
        )
        .with("partitions", partitions)
        .with("warm-up", settings.warm_up_s);
        match rate {
            Some(rate) => load.with("rate", rate.round()).with("duration", settings.open_loop_s(rate).ceil()),
            None => load,
        }
    }

    pub(crate) fn with(mut self, flag: &'static str, value: impl fmt::Display) -> Self {
        self.flags.insert(flag, value.to_string());
        self
    }

    pub(crate) fn switch(mut self, flag: &'static str) -> Self {
        self.switches.push(flag);
        self
    }

    /// As arguments of `corelog bench`.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        for (flag, value) in &self.flags {
            arguments.extend([format!("--{flag}"), value.clone()]);
        }
        arguments.extend(self.switches.iter().map(|flag| format!("--{flag}")));
        if let Some(config) = self.topic_config {
            arguments.extend(["--topic-config".to_owned(), config.to_owned()]);
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_known_by_its_number_and_by_its_name() {
        for row in Row::ALL {
            assert_eq!(row.name().parse(), Ok(row));
            assert_eq!(row.number().to_string().parse(), Ok(row));
        }
        assert!("9".parse::<Row>().is_err_and(|words| words.contains("3 or latency")));
    }

    #[test]
    fn the_first_round_is_discarded_unless_it_is_the_only_one() {
        assert!(Settings::new(1, Row::ALL.to_vec(), true).is_kept(1));
        let settings = Settings::new(6, Row::ALL.to_vec(), false);
        assert!(!settings.is_kept(1));
        assert_eq!((1..=6).filter(|round| settings.is_kept(*round)).count(), 5);
    }

    #[test]
    fn rows_that_run_once_are_in_the_last_round() {
        let settings = Settings::new(3, Row::ALL.to_vec(), false);
        let has = |round, wanted| settings.cells(round).iter().any(|(_, rows)| rows.contains(&wanted));
        assert!(has(1, Row::Latency) && has(3, Row::Latency));
        assert!(!has(2, Row::JavaTools) && has(3, Row::JavaTools));
        let flush = &settings.cells(1)[1];
        assert_eq!(*flush, (Variant::KafkaFlush, vec![Row::Single, Row::Throughput]));
    }

    #[test]
    fn a_full_run_takes_about_half_an_hour() {
        let settings = Settings::new(6, Row::ALL.to_vec(), false);
        let all_s: f64 = (1..=6).map(|round| settings.round_estimate_s(round, Some(60_000.0))).sum();
        assert!((1200.0..=2100.0).contains(&all_s), "{all_s} s");
    }

    #[test]
    fn slow_loads_last_until_a_p999_has_its_samples() {
        let settings = Settings::new(6, Row::ALL.to_vec(), false);
        assert!((settings.open_loop_s(10_000.0) - 10.5).abs() < 1e-9);
        assert!((settings.open_loop_s(1_000_000.0) - settings.duration_s).abs() < 1e-9);
        assert!((settings.open_loop_s(100.0) - OPEN_LOOP_MAX_S).abs() < 1e-9);
    }
}
