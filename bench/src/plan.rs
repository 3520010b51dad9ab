//! What a run is: every axis of the load, with its unit and its limits.
//!
//! A plan is data: it is made from the command line or from a scenario's file, written into the
//! report as it was, and says nothing of the broker it is run against.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use byte_unit::Byte;
use corelog_protocol::batch::Codec;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a plan cannot be run; the text names the key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{key}: {reason}")]
pub struct PlanError {
    /// The key as it is in a scenario's file.
    pub key: &'static str,
    /// What is wrong with its value, and what would be right.
    pub reason: String,
}

impl PlanError {
    /// An error of this key.
    pub fn new(key: &'static str, reason: impl Into<String>) -> Self {
        Self { key, reason: reason.into() }
    }
}

/// When records are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Open loop: evenly spaced, whatever the broker does.
    Constant,
    /// Open loop: independent of each other, with exponentially distributed gaps.
    Poisson,
    /// Closed loop: the next request of a connection leaves when the one before it was answered.
    Closed,
    /// As fast as the connections take it, with several requests under way.
    Max,
}

impl Arrivals {
    /// Whether records have intended times that do not depend on the broker.
    #[must_use]
    pub fn is_open_loop(self) -> bool {
        matches!(self, Self::Constant | Self::Poisson)
    }
}

/// How many records a second, over all producers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// Records per second.
    PerSecond(f64),
    /// A share of the knee that a sweep of the same scenario found: `"50% of knee"`.
    ShareOfKnee(f64),
}

/// How large record values are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Size {
    /// All the same: `1024`, `"1KiB"`.
    Fixed(usize),
    /// Evenly distributed, both ends included: `"uniform:100..2000"`.
    Uniform(usize, usize),
    /// Log-normal about this median, with this sigma, cut at 1 MiB: `"lognormal:800,0.7"`.
    LogNormal(usize, f64),
}

/// Which keys records have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keys {
    /// None: batches go to the partitions in turn.
    None,
    /// So many, each as likely as any other: `"uniform:100000"`. The key decides the partition.
    Uniform(u64),
    /// So many, with Zipf's distribution of this exponent: `"zipf:100000,0.99"`.
    Zipf(u64, f64),
}

/// Which acknowledgement a produce waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Acks {
    /// None: there is no reply.
    #[serde(rename = "0")]
    None,
    /// The leader's.
    #[serde(rename = "1")]
    Leader,
    /// That of all in-sync replicas.
    #[serde(rename = "all")]
    All,
}

/// Everything about one run of the load generator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// Topics are called so, with a number behind it when there are several.
    pub topic: String,
    /// How many topics, from 1.
    pub topics: u32,
    /// Partitions of each.
    pub partitions: i32,
    /// Replicas of each.
    pub replication_factor: i16,
    /// Configs that the topics are created with, such as `flush.messages` or `corelog.durability`.
    pub topic_configs: BTreeMap<String, String>,
    /// Producers, each with a connection to every leader that it sends to.
    pub producers: usize,
    /// Consumers of each group; partitions are divided among them.
    pub consumers: usize,
    /// Groups of consumers, each of which reads every record.
    pub groups: usize,
    /// When records are sent.
    pub arrivals: Arrivals,
    /// How many a second over all producers; only with open-loop arrivals, where it is 10,000 when
    /// left out.
    #[serde(with = "as_text::optional")]
    pub rate: Option<Rate>,
    /// Size of the values.
    #[serde(with = "as_text")]
    pub record_bytes: Size,
    /// The keys.
    #[serde(with = "as_text")]
    pub keys: Keys,
    /// How much of a value is random, in per cent; the rest repeats and can be compressed.
    pub entropy_percent: u8,
    /// Values are pieces of this file instead.
    pub payload_file: Option<PathBuf>,
    /// How batches are compressed.
    #[serde(with = "as_text")]
    pub codec: Codec,
    /// Which acknowledgement is waited for.
    pub acks: Acks,
    /// Whether producers have an id, so that what is sent again is recognised. Needs `acks = "all"`.
    pub idempotent: bool,
    /// How long a batch waits for more records, in ms.
    pub linger_ms: f64,
    /// A batch of so many bytes is sent at once. A record that is larger is a batch of its own.
    pub batch_bytes: usize,
    /// A batch of so many records is sent at once.
    pub batch_records: Option<u32>,
    /// Requests without a reply on one connection; 5 at most with idempotence.
    pub in_flight: usize,
    /// How long the load runs before it is measured, in seconds.
    pub warm_up_s: f64,
    /// How long it is measured, in seconds.
    pub duration_s: f64,
    /// It ends after so many records over all producers, warm-up included, whatever its duration.
    pub records: Option<u64>,
    /// Consumers start so many seconds after the producers, and read the backlog while the tail
    /// goes on.
    pub catch_up_s: f64,
    /// Whether every record carries a sequence number and a checksum, and is checked when read.
    pub verify: bool,
    /// Most that a fetch asks of each partition, in bytes.
    pub fetch_bytes: i32,
    /// How long a fetch may wait for records, in ms.
    pub fetch_wait_ms: i32,
    /// A request that is not answered for so long has failed, in seconds.
    pub request_timeout_s: f64,
    /// Seed of all randomness of the load.
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            topic: "corelog-bench".to_owned(),
            topics: 1,
            partitions: 4,
            replication_factor: 1,
            topic_configs: BTreeMap::new(),
            producers: 4,
            consumers: 1,
            groups: 1,
            arrivals: Arrivals::Constant,
            rate: None,
            record_bytes: Size::Fixed(1024),
            keys: Keys::None,
            entropy_percent: 100,
            payload_file: None,
            codec: Codec::None,
            acks: Acks::All,
            idempotent: false,
            linger_ms: 0.0,
            batch_bytes: 64 * 1024,
            batch_records: None,
            in_flight: 5,
            warm_up_s: 2.0,
            duration_s: 10.0,
            records: None,
            catch_up_s: 0.0,
            verify: true,
            fetch_bytes: 1 << 20,
            fetch_wait_ms: 500,
            request_timeout_s: 30.0,
            seed: 1,
        }
    }
}

/// Records a second of an open loop that does not say.
const DEFAULT_RATE: f64 = 10_000.0;

/// Limits that keep a mistyped number from taking the machine.
const TOPICS_MAX: u32 = 10_000;
const PARTITIONS_MAX: i32 = 100_000;
const CLIENTS_MAX: usize = 10_000;
/// Largest value: what the usual `max.message.bytes` has room for.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// A key has eight hexadecimal digits.
const KEYS_MAX: u64 = 1 << 32;
/// Requests under way with idempotence: brokers remember the last five batches.
const IN_FLIGHT_MAX_IDEMPOTENT: usize = 5;

impl Plan {
    /// Checks what its types do not say.
    ///
    /// # Errors
    /// The first key whose value cannot be, and what would be right.
    pub fn check(&self) -> Result<(), PlanError> {
        let range = |key, is_fine: bool, reason: &str| match is_fine {
            true => Ok(()),
            false => Err(PlanError::new(key, reason)),
        };
        let seconds = |key, value: f64| range(key, (0.0..=1e6).contains(&value), "must be 0 to 1,000,000 s");
        range("topic", !self.topic.is_empty(), "must not be empty")?;
        range("topics", (1..=TOPICS_MAX).contains(&self.topics), "must be 1 to 10,000")?;
        range("partitions", (1..=PARTITIONS_MAX).contains(&self.partitions), "must be 1 to 100,000")?;
        range("replication_factor", self.replication_factor >= 1, "must be at least 1")?;
        range("producers", (1..=CLIENTS_MAX).contains(&self.producers), "must be 1 to 10,000")?;
        range("consumers", self.consumers <= CLIENTS_MAX, "must be 0 to 10,000")?;
        range("groups", self.groups <= CLIENTS_MAX, "must be 0 to 10,000")?;
        match (self.arrivals.is_open_loop(), self.rate) {
            (false, Some(_)) => {
                return Err(PlanError::new(
                    "rate",
                    "goes with arrivals constant or poisson; closed and max are as fast as they are",
                ));
            }
            (true, Some(Rate::PerSecond(rate))) => {
                range(
                    "rate",
                    (0.001..=1e9).contains(&rate),
                    "must be 0.001 to 1,000,000,000 records a second",
                )?;
            }
            (true, Some(Rate::ShareOfKnee(share))) => {
                range("rate", (0.001..=10.0).contains(&share), "must be 0.1% to 1000% of the knee")?;
            }
            (_, None) => {}
        }
        self.check_records()?;
        range("batch_bytes", (1..=64 << 20).contains(&self.batch_bytes), "must be 1 B to 64 MiB")?;
        range("batch_records", self.batch_records != Some(0), "must be at least 1")?;
        range("linger_ms", (0.0..=60_000.0).contains(&self.linger_ms), "must be 0 to 60,000 ms")?;
        let in_flight_max = if self.idempotent { IN_FLIGHT_MAX_IDEMPOTENT } else { 1_000 };
        range(
            "in_flight",
            (1..=in_flight_max).contains(&self.in_flight),
            "must be 1 to 1,000, or to 5 with idempotence",
        )?;
        range("idempotent", !self.idempotent || self.acks == Acks::All, "needs acks = \"all\"")?;
        seconds("warm_up_s", self.warm_up_s)?;
        seconds("duration_s", self.duration_s)?;
        seconds("catch_up_s", self.catch_up_s)?;
        range(
            "request_timeout_s",
            (0.1..=3600.0).contains(&self.request_timeout_s),
            "must be 0.1 to 3,600 s",
        )?;
        range("fetch_bytes", self.fetch_bytes >= 1, "must be at least 1")?;
        range("fetch_wait_ms", (0..=60_000).contains(&self.fetch_wait_ms), "must be 0 to 60,000 ms")?;
        Ok(())
    }

    fn check_records(&self) -> Result<(), PlanError> {
        let smallest = self.record_bytes.smallest();
        let least = if self.verify { crate::load::stamp::STAMP_BYTES } else { 0 };
        if smallest < least {
            return Err(PlanError::new(
                "record_bytes",
                format!(
                    "must be at least {least}, the sequence number and checksum of a record, or verification \
                     must be switched off"
                ),
            ));
        }
        if self.record_bytes.largest() > RECORD_BYTES_MAX {
            return Err(PlanError::new("record_bytes", "must not exceed 1 MiB"));
        }
        match self.keys {
            Keys::Uniform(0) | Keys::Zipf(0, _) => Err(PlanError::new("keys", "there must be at least one")),
            Keys::Zipf(_, exponent) if !(0.01..=10.0).contains(&exponent) => {
                Err(PlanError::new("keys", "Zipf's exponent must be 0.01 to 10"))
            }
            Keys::Uniform(count) | Keys::Zipf(count, _) if count > KEYS_MAX => {
                Err(PlanError::new("keys", "must not exceed 4,294,967,296 (2^32)"))
            }
            _ if self.entropy_percent > 100 => Err(PlanError::new("entropy_percent", "must be 0 to 100")),
            _ => Ok(()),
        }
    }

    /// How many records a second are intended; `None` when the broker decides. A share of a knee
    /// has to have been resolved.
    #[must_use]
    pub fn records_per_s(&self) -> Option<f64> {
        match (self.arrivals.is_open_loop(), self.rate) {
            (false, _) | (true, Some(Rate::ShareOfKnee(_))) => None,
            (true, Some(Rate::PerSecond(rate))) => Some(rate),
            (true, None) => Some(DEFAULT_RATE),
        }
    }

    /// Names of the topics, in their order.
    #[must_use]
    pub fn topic_names(&self) -> Vec<String> {
        match self.topics {
            1 => vec![self.topic.clone()],
            many => (0..many).map(|index| format!("{}-{index}", self.topic)).collect(),
        }
    }
}

impl Size {
    /// Smallest size that it gives.
    #[must_use]
    pub fn smallest(self) -> usize {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Uniform(from, _) => from,
            // Cut where a stamp still fits: see the payload.
            Self::LogNormal(..) => crate::load::stamp::STAMP_BYTES,
        }
    }

    /// Largest size that it gives.
    #[must_use]
    pub fn largest(self) -> usize {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Uniform(_, to) => to,
            Self::LogNormal(..) => RECORD_BYTES_MAX,
        }
    }
}

/// A value of the command line or of a scenario's file that is not what its key takes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{text}' is not {expected}")]
pub struct ParseError {
    text: String,
    expected: &'static str,
}

fn parse<T: FromStr>(text: &str, whole: &str, expected: &'static str) -> Result<T, ParseError> {
    text.trim().parse().map_err(|_| ParseError { text: whole.to_owned(), expected })
}

impl FromStr for Rate {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        const EXPECTED: &str = "a rate: records a second such as 5000, or a share such as '50% of knee'";
        match text.split_once('%') {
            Some((share, rest)) if rest.trim() == "of knee" => {
                Ok(Self::ShareOfKnee(parse::<f64>(share, text, EXPECTED)? / 100.0))
            }
            Some(_) => Err(ParseError { text: text.to_owned(), expected: EXPECTED }),
            None => Ok(Self::PerSecond(parse(text, text, EXPECTED)?)),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerSecond(rate) => write!(f, "{rate}"),
            Self::ShareOfKnee(share) => write!(f, "{}% of knee", share * 100.0),
        }
    }
}

/// A number of bytes, or a size with its unit: `1024`, `64KiB`, `1.5MB`. Units with an `i` are powers
/// of 1024, those without are powers of 1000.
///
/// # Errors
/// Anything else, and what is more than 2^64 - 1.
pub fn parse_bytes(text: &str) -> Result<u64, ParseError> {
    let text = text.trim();
    let parsed = match text.parse() {
        Ok(bytes) => Some(bytes),
        // No part of a byte.
        Err(_) if text.ends_with(|it: char| it.is_ascii_digit()) => None,
        Err(_) => Byte::parse_str(text, true).ok().map(Byte::as_u64),
    };
    parsed.ok_or_else(|| ParseError { text: text.to_owned(), expected: "a size in bytes, or such as 64KiB" })
}

impl FromStr for Size {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        const EXPECTED: &str =
            "a size: bytes such as 1024 or 1KiB, 'uniform:100..2000' or 'lognormal:800,0.7'";
        let wrong = || ParseError { text: text.to_owned(), expected: EXPECTED };
        let bytes = |part| parse_bytes(part).ok().and_then(|it| usize::try_from(it).ok()).ok_or_else(wrong);
        match text.split_once(':') {
            None => Ok(Self::Fixed(bytes(text)?)),
            Some(("uniform", range)) => {
                let (from, to) = range.split_once("..").ok_or_else(wrong)?;
                let (from, to) = (bytes(from)?, bytes(to)?);
                if from > to { Err(wrong()) } else { Ok(Self::Uniform(from, to)) }
            }
            Some(("lognormal", parameters)) => {
                let (median, sigma) = parameters.split_once(',').ok_or_else(wrong)?;
                let sigma: f64 = parse(sigma, text, EXPECTED)?;
                if !(0.0..=10.0).contains(&sigma) {
                    return Err(wrong());
                }
                Ok(Self::LogNormal(bytes(median)?, sigma))
            }
            Some(_) => Err(wrong()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(bytes) => write!(f, "{bytes}"),
            Self::Uniform(from, to) => write!(f, "uniform:{from}..{to}"),
            Self::LogNormal(median, sigma) => write!(f, "lognormal:{median},{sigma}"),
        }
    }
}

impl FromStr for Keys {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        const EXPECTED: &str = "a kind of keys: 'none', 'uniform:100000' or 'zipf:100000,0.99'";
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            Some(("uniform", count)) => Ok(Self::Uniform(parse(count, text, EXPECTED)?)),
            Some(("zipf", parameters)) => {
                let (count, exponent) = parameters.split_once(',').unwrap_or((parameters, "0.99"));
                Ok(Self::Zipf(parse(count, text, EXPECTED)?, parse(exponent, text, EXPECTED)?))
            }
            _ => Err(ParseError { text: text.to_owned(), expected: EXPECTED }),
        }
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "none"),
            Self::Uniform(count) => write!(f, "uniform:{count}"),
            Self::Zipf(count, exponent) => write!(f, "zipf:{count},{exponent}"),
        }
    }
}

/// Values that are text or a plain number in a file.
mod as_text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Codec, Keys, Rate, Size};

    pub(super) trait AsText: Sized {
        fn to_text(&self) -> String;
        fn from_text(text: &str) -> Result<Self, String>;
    }

    macro_rules! by_display {
        ($($type:ty),*) => {$(
            impl AsText for $type {
                fn to_text(&self) -> String {
                    self.to_string()
                }
                fn from_text(text: &str) -> Result<Self, String> {
                    text.parse().map_err(|error: super::ParseError| error.to_string())
                }
            }
        )*};
    }
    by_display!(Rate, Size, Keys);

    impl AsText for Codec {
        fn to_text(&self) -> String {
            self.name().to_owned()
        }
        fn from_text(text: &str) -> Result<Self, String> {
            Self::from_name(text)
                .ok_or_else(|| format!("'{text}' is not a codec: none, gzip, snappy, lz4 or zstd"))
        }
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum TextOrNumber {
        Text(String),
        Integer(u64),
        Number(f64),
    }

    impl TextOrNumber {
        fn into_text(self) -> String {
            match self {
                Self::Text(text) => text,
                Self::Integer(number) => number.to_string(),
                Self::Number(number) => number.to_string(),
            }
        }
    }

    pub(super) fn serialize<T: AsText, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.to_text())
    }

    pub(super) fn deserialize<'de, T: AsText, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let text = TextOrNumber::deserialize(deserializer)?.into_text();
        T::from_text(&text).map_err(D::Error::custom)
    }

    pub(super) mod optional {
        use super::{AsText, Deserialize, Deserializer, Error, Serializer, TextOrNumber};

        pub(in super::super) fn serialize<T: AsText, S: Serializer>(
            value: &Option<T>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => serializer.serialize_some(&value.to_text()),
                None => serializer.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, T: AsText, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<T>, D::Error> {
            let value = Option::<TextOrNumber>::deserialize(deserializer)?;
            value.map(|it| T::from_text(&it.into_text()).map_err(D::Error::custom)).transpose()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plan_is_written_as_is_read_as_the_same_plan() {
        let plan = Plan {
            rate: Some(Rate::ShareOfKnee(0.5)),
            record_bytes: Size::Uniform(100, 2000),
            keys: Keys::Zipf(1000, 0.99),
            codec: Codec::Zstd,
            ..Plan::default()
        };
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
        assert_eq!(
            serde_json::from_str::<Plan>("{\"rate\": 5000, \"record_bytes\": 100}").unwrap(),
            Plan { rate: Some(Rate::PerSecond(5000.0)), record_bytes: Size::Fixed(100), ..Plan::default() }
        );
        Plan::default().check().unwrap();
    }

    #[test]
    fn a_size_is_a_number_of_bytes_or_has_its_unit() {
        for (text, bytes) in
            [("0", 0), ("1000", 1000), ("1KiB", 1024), ("64 KiB", 65_536), ("1MiB", 1 << 20), ("1kib", 1024)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        assert_eq!((parse_bytes("1KB"), parse_bytes("1.5MB")), (Ok(1_000), Ok(1_500_000)));
        assert_eq!(parse_bytes("18446744073709551615"), Ok(u64::MAX));
        for wrong in ["", "KiB", "1.5", "-1", "1e3", "1 apple", "18446744073709551616", "99999999EiB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!("uniform:1KiB..2KiB".parse(), Ok(Size::Uniform(1024, 2048)));
        assert_eq!("lognormal:1KB,0.7".parse(), Ok(Size::LogNormal(1000, 0.7)));
        let file = serde_json::from_str::<Plan>("{\"record_bytes\": \"1KiB\"}").unwrap();
        assert_eq!(file.record_bytes, Size::Fixed(1024));
    }

    #[test]
    fn a_wrong_value_is_named() {
        let error = serde_json::from_str::<Plan>("{\"producer\": 1}").unwrap_err().to_string();
        assert!(error.contains("unknown field `producer`"), "{error}");
        for (text, words) in [
            ("{\"keys\": \"some\"}", "kind of keys"),
            ("{\"rate\": \"50% of everything\"}", "a share such as"),
            ("{\"record_bytes\": \"uniform:9..3\"}", "is not a size"),
            ("{\"codec\": \"brotli\"}", "is not a codec"),
        ] {
            let error = serde_json::from_str::<Plan>(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let too_small = Plan { record_bytes: Size::Fixed(10), ..Plan::default() };
        assert_eq!(too_small.check().unwrap_err().key, "record_bytes");
        let rate = Plan { arrivals: Arrivals::Max, rate: Some(Rate::PerSecond(1.0)), ..Plan::default() };
        assert_eq!(rate.check().unwrap_err().key, "rate");
    }
}
