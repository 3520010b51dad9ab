//! Topic configs by Kafka's names: types, ranges, defaults and documentation.
//!
//! One table describes every config ([`TopicConfig::descriptors`]); creation, DescribeConfigs and
//! the engine's effective values all come from it. Pure data, on any shard; it stores nothing.
//!
//! Names, types, ranges and messages follow Apache Kafka 4.0's `LogConfig` and `ConfigDef`. Each
//! description says whether Corelog enforces the config, will, or never needs it.

mod descriptor;
mod table;

use std::collections::BTreeMap;

use corelog_protocol::batch::{Codec, Compression};
use corelog_protocol::validate::{ProduceRules, TimestampRule};

pub(crate) use self::descriptor::items;
use self::descriptor::parse_bool;
pub use self::descriptor::{ConfigDescriptor, ConfigSource, ConfigType, DescribedConfig, Enforcement};
use self::table::DESCRIPTORS;
pub use self::table::descriptor;
use crate::meta::image::NodeConfigs;
use crate::node_config::DynamicDefaults;
use crate::types::{Durability, NodeId};

/// Stands for "no limit" in retention configs.
const NO_LIMIT: i64 = -1;

/// What a node's own configuration says where a topic says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDefaults {
    /// Default of `corelog.durability`.
    pub durability: Durability,
    /// Default of `max.message.bytes`.
    pub max_message_bytes: i32,
    /// No topic may raise `max.message.bytes` above this: what one journal entry can hold.
    pub max_message_bytes_ceiling: i32,
    /// Default of `segment.bytes`.
    pub segment_bytes: i32,
    /// Default of `segment.ms`.
    pub segment_ms: i64,
    /// What was set at run time; it wins over the others.
    pub dynamic: DynamicDefaults,
}

impl NodeDefaults {
    /// Kafka's defaults, under the given ceiling for `max.message.bytes`.
    pub fn with_ceiling(max_message_bytes_ceiling: i32) -> Self {
        let kafka = Self::default();
        Self {
            max_message_bytes: kafka.max_message_bytes.min(max_message_bytes_ceiling),
            max_message_bytes_ceiling,
            ..kafka
        }
    }

    /// The same, with what is set at run time.
    #[must_use]
    pub fn with_dynamic(&self, configs: &NodeConfigs, node: NodeId) -> Self {
        Self { dynamic: DynamicDefaults::of(configs, node), ..self.clone() }
    }
}

impl Default for NodeDefaults {
    /// Kafka's defaults, durability `fsync`, no ceiling.
    fn default() -> Self {
        Self {
            durability: Durability::Fsync,
            max_message_bytes: 1_048_588,
            max_message_bytes_ceiling: i32::MAX,
            segment_bytes: 1 << 30,
            segment_ms: 604_800_000,
            dynamic: DynamicDefaults::default(),
        }
    }
}

/// A refused config; the messages are Kafka's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No config of that name.
    #[error("Unknown topic config name: {0}")]
    UnknownName(String),
    /// Topic configs have no null values.
    #[error("Null value not supported for topic configs: {0}")]
    NullValue(String),
    /// Not of the config's type, or out of its range.
    #[error("Invalid value {value} for configuration {name}: {why}")]
    InvalidValue {
        /// The config.
        name: String,
        /// What it was to be set to.
        value: String,
        /// What is wrong with that.
        why: String,
    },
    /// No node config of that name.
    #[error("Unknown config name: {0}")]
    UnknownNodeConfig(String),
    /// Only lists can be added to.
    #[error("Can't {operation} to key {name} because its type is not LIST.")]
    NoList {
        /// The config.
        name: String,
        /// APPEND or SUBTRACT.
        operation: &'static str,
    },
    /// The same config twice in one request.
    #[error("Config {0} is given more than once")]
    Repeated(String),
    /// `min.compaction.lag.ms` above `max.compaction.lag.ms`.
    #[error("conflict topic config setting min.compaction.lag.ms ({min}) > max.compaction.lag.ms ({max})")]
    CompactionLags {
        /// The smaller limit.
        min: i64,
        /// The larger limit.
        max: i64,
    },
}

/// Whose timestamp records carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The node's, at the append.
    LogAppendTime,
}

/// What becomes of old segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleanup {
    /// The latest record of each key stays.
    pub compact: bool,
    /// Segments go by age and size.
    pub delete: bool,
}

/// A topic's effective configs. Sizes in bytes, times in ms; −1 stands for "no limit" where said.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicConfig {
    /// `cleanup.policy`.
    pub cleanup: Cleanup,
    /// `compression.type` with its level; nothing: as the producer did it.
    pub compression: Option<Compression>,
    /// `corelog.durability`.
    pub durability: Durability,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `index.interval.bytes`.
    pub index_interval_bytes: u64,
    /// `max.compaction.lag.ms`.
    pub max_compaction_lag_ms: i64,
    /// `max.message.bytes`.
    pub max_message_bytes: usize,
    /// `message.timestamp.after.max.ms`.
    pub message_timestamp_after_max_ms: i64,
    /// `message.timestamp.before.max.ms`.
    pub message_timestamp_before_max_ms: i64,
    /// `message.timestamp.type`.
    pub message_timestamp_type: TimestampType,
    /// `min.cleanable.dirty.ratio`.
    pub min_cleanable_dirty_ratio: f64,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: i64,
    /// `min.insync.replicas`.
    pub min_insync_replicas: usize,
    /// `retention.bytes`, −1 for no limit.
    pub retention_bytes: i64,
    /// `retention.ms`, −1 for no limit.
    pub retention_ms: i64,
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `segment.jitter.ms`.
    pub segment_jitter_ms: i64,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// `unclean.leader.election.enable`.
    pub unclean_leader_election: bool,
}

impl TopicConfig {
    /// Every topic config there is, by name.
    pub fn descriptors() -> &'static [ConfigDescriptor] {
        DESCRIPTORS
    }

    /// The effective configs of a topic that sets `overrides`.
    ///
    /// # Errors
    /// A name that is unknown, or a value that is not allowed on this node.
    pub fn from_overrides(
        overrides: &BTreeMap<String, String>,
        defaults: &NodeDefaults,
    ) -> Result<Self, ConfigError> {
        for (name, value) in overrides {
            validate(name, value, defaults)?;
        }
        Self::check_together(overrides, defaults)?;
        Ok(Self::read(overrides, defaults))
    }

    /// Checks what no config says by itself. What this node would refuse does not count.
    ///
    /// # Errors
    /// Configs that contradict each other.
    pub fn check_together(
        overrides: &BTreeMap<String, String>,
        defaults: &NodeDefaults,
    ) -> Result<(), ConfigError> {
        let config = Self::effective(overrides, defaults);
        if config.min_compaction_lag_ms > config.max_compaction_lag_ms {
            return Err(ConfigError::CompactionLags {
                min: config.min_compaction_lag_ms,
                max: config.max_compaction_lag_ms,
            });
        }
        Ok(())
    }

    /// The effective configs of a topic that exists. What this node would refuse today, since
    /// another version or another node configuration took it, falls back to the default; a
    /// `max.message.bytes` above this node's ceiling becomes the ceiling.
    pub fn effective(overrides: &BTreeMap<String, String>, defaults: &NodeDefaults) -> Self {
        let unlimited = NodeDefaults { max_message_bytes_ceiling: i32::MAX, ..defaults.clone() };
        let usable: BTreeMap<String, String> = overrides
            .iter()
            .filter(|(name, value)| validate(name, value, &unlimited).is_ok())
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        Self::read(&usable, defaults)
    }

    /// Whether the node overwrites the producer's timestamps.
    pub fn is_log_append_time(&self) -> bool {
        self.message_timestamp_type == TimestampType::LogAppendTime
    }

    /// What a produced batch must satisfy.
    pub fn produce_rules(&self) -> ProduceRules {
        ProduceRules {
            max_message_bytes: self.max_message_bytes,
            compacted: self.cleanup.compact,
            timestamps: match self.message_timestamp_type {
                TimestampType::CreateTime => TimestampRule::CreateTime {
                    before_max_ms: self.message_timestamp_before_max_ms,
                    after_max_ms: self.message_timestamp_after_max_ms,
                },
                TimestampType::LogAppendTime => TimestampRule::LogAppendTime,
            },
            ..ProduceRules::default()
        }
    }

    /// Every config of a topic with its value and source, by name.
    pub fn describe(overrides: &BTreeMap<String, String>, defaults: &NodeDefaults) -> Vec<DescribedConfig> {
        DESCRIPTORS
            .iter()
            .map(|descriptor| {
                let own = overrides.get(descriptor.name).map(|value| (ConfigSource::Topic, value.clone()));
                let in_order: Vec<_> =
                    own.into_iter().chain(descriptor.defaults_in_order(defaults)).collect();
                DescribedConfig { descriptor, in_order }
            })
            .collect()
    }

    /// Reads checked overrides.
    fn read(overrides: &BTreeMap<String, String>, defaults: &NodeDefaults) -> Self {
        let values = Values { overrides, defaults };
        let policy = values.text("cleanup.policy");
        Self {
            cleanup: Cleanup {
                compact: items(&policy).any(|item| item == "compact"),
                delete: items(&policy).any(|item| item == "delete"),
            },
            compression: values.compression(),
            durability: match values.text("corelog.durability").as_str() {
                "write" => Durability::Write,
                _ => Durability::Fsync,
            },
            delete_retention_ms: values.parsed("delete.retention.ms"),
            index_interval_bytes: values.unsigned("index.interval.bytes"),
            max_compaction_lag_ms: values.parsed("max.compaction.lag.ms"),
            max_message_bytes: values
                .unsigned::<usize>("max.message.bytes")
                .min(usize::try_from(defaults.max_message_bytes_ceiling).unwrap_or(0)),
            message_timestamp_after_max_ms: values.parsed("message.timestamp.after.max.ms"),
            message_timestamp_before_max_ms: values.parsed("message.timestamp.before.max.ms"),
            message_timestamp_type: match values.text("message.timestamp.type").as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            min_cleanable_dirty_ratio: values.parsed("min.cleanable.dirty.ratio"),
            min_compaction_lag_ms: values.parsed("min.compaction.lag.ms"),
            min_insync_replicas: values.unsigned("min.insync.replicas"),
            retention_bytes: values.parsed("retention.bytes"),
            retention_ms: values.parsed("retention.ms"),
            segment_bytes: values.unsigned("segment.bytes"),
            segment_jitter_ms: values.parsed("segment.jitter.ms"),
            segment_ms: values.parsed("segment.ms"),
            unclean_leader_election: parse_bool(&values.text("unclean.leader.election.enable"))
                .expect("booleans were checked before they are read"),
        }
    }
}

/// Looks values up: the topic's, else the default.
struct Values<'a> {
    overrides: &'a BTreeMap<String, String>,
    defaults: &'a NodeDefaults,
}

impl Values<'_> {
    fn text(&self, name: &str) -> String {
        match self.overrides.get(name) {
            Some(value) => value.trim().to_owned(),
            None => {
                descriptor(name).expect("every name read here is in the table").default_value(self.defaults)
            }
        }
    }

    fn compression(&self) -> Option<Compression> {
        let codec = match self.text("compression.type").as_str() {
            "producer" => return None,
            "uncompressed" => Codec::None,
            name => Codec::from_name(name).expect("it was checked to be one of these"),
        };
        let level = match codec {
            Codec::Gzip => Some(self.parsed("compression.gzip.level")).filter(|level| *level >= 0),
            Codec::Zstd => Some(self.parsed("compression.zstd.level")),
            Codec::None | Codec::Snappy | Codec::Lz4 => None,
        };
        Some(Compression { codec, level })
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str) -> T {
        let parsed = self.text(name).parse().ok();
        parsed.expect("numbers were checked before they are read")
    }

    /// Read with a sign, as they were checked: "-0" is a number to Kafka, and none to an unsigned
    /// type.
    fn unsigned<T: TryFrom<i64>>(&self, name: &str) -> T {
        let number = T::try_from(self.parsed::<i64>(name)).ok();
        number.expect("their minimum is not below zero")
    }
}

/// Checks one config's name and value.
///
/// # Errors
/// An unknown name, or a value that is not allowed on this node.
pub fn validate(name: &str, value: &str, defaults: &NodeDefaults) -> Result<(), ConfigError> {
    let descriptor = descriptor(name).ok_or_else(|| ConfigError::UnknownName(name.to_owned()))?;
    descriptor.check(value, defaults)
}

/// Checks the configs of a topic to be created, and gives them as overrides.
///
/// # Errors
/// An unknown name, a name given twice, a null, or a value that is not allowed on this node.
pub fn overrides_of(
    configs: &[(String, Option<String>)],
    defaults: &NodeDefaults,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut overrides = BTreeMap::new();
    for (name, value) in configs {
        if descriptor(name).is_none() {
            return Err(ConfigError::UnknownName(name.clone()));
        }
        let value = value.as_ref().ok_or_else(|| ConfigError::NullValue(name.clone()))?;
        if overrides.insert(name.clone(), value.clone()).is_some() {
            return Err(ConfigError::Repeated(name.clone()));
        }
    }
    TopicConfig::from_overrides(&overrides, defaults)?;
    Ok(overrides)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 24 * 60 * 60 * 1000;

    fn set(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_table_is_sorted_and_its_defaults_pass_its_own_checks() {
        assert!(DESCRIPTORS.windows(2).all(|pair| pair[0].name < pair[1].name));
        let defaults = NodeDefaults::default();
        for descriptor in DESCRIPTORS {
            let value = descriptor.default_value(&defaults);
            descriptor.check(&value, &defaults).unwrap();
        }
    }

    #[test]
    fn defaults_are_those_of_kafka_4() {
        let config = TopicConfig::from_overrides(&BTreeMap::new(), &NodeDefaults::default()).unwrap();
        assert_eq!(config.cleanup, Cleanup { compact: false, delete: true });
        assert_eq!(config.max_message_bytes, 1_048_588);
        assert_eq!(config.segment_bytes, 1_073_741_824);
        assert_eq!(config.segment_ms, 7 * DAY_MS);
        assert_eq!(config.retention_ms, 7 * DAY_MS);
        assert_eq!(config.retention_bytes, NO_LIMIT);
        assert_eq!(config.delete_retention_ms, DAY_MS);
        assert_eq!(config.message_timestamp_after_max_ms, 3_600_000);
        assert_eq!(config.message_timestamp_before_max_ms, i64::MAX);
        assert_eq!(config.message_timestamp_type, TimestampType::CreateTime);
        assert_eq!(config.min_insync_replicas, 1);
        assert_eq!(config.compression, None);
        assert_eq!(config.durability, Durability::Fsync);
    }

    #[test]
    fn refusals_name_the_config_and_say_what_kafka_says() {
        let defaults = NodeDefaults::with_ceiling(2_000_000);
        let refused = |name: &str, value: &str| validate(name, value, &defaults).unwrap_err().to_string();
        assert_eq!(refused("no.such", "1"), "Unknown topic config name: no.such");
        assert_eq!(
            refused("retention.ms", "soon"),
            "Invalid value soon for configuration retention.ms: Not a number of type LONG"
        );
        assert_eq!(
            refused("retention.ms", "-2"),
            "Invalid value -2 for configuration retention.ms: Value must be at least -1"
        );
        assert_eq!(
            refused("cleanup.policy", "compact,shred"),
            "Invalid value compact,shred for configuration cleanup.policy: String must be one of: \
             compact, delete"
        );
        assert_eq!(
            refused("preallocate", "yes"),
            "Invalid value yes for configuration preallocate: Expected value to be either true or \
             false"
        );
        assert_eq!(
            refused("max.message.bytes", "2000001"),
            "Invalid value 2000001 for configuration max.message.bytes: Value must be no more than \
             2000000"
        );
        assert!(refused("min.cleanable.dirty.ratio", "NaN").contains("no more than"));
        assert!(refused("compression.gzip.level", "0").contains("between 1 and 9"));
    }

    #[test]
    fn a_null_value_and_a_repeated_name_are_refused() {
        let defaults = NodeDefaults::default();
        let null = [("retention.ms".to_owned(), None)];
        assert_eq!(overrides_of(&null, &defaults), Err(ConfigError::NullValue("retention.ms".to_owned())));
        let one = ("retention.ms".to_owned(), Some("1".to_owned()));
        assert_eq!(
            overrides_of(&[one.clone(), one], &defaults),
            Err(ConfigError::Repeated("retention.ms".to_owned()))
        );
    }

    #[test]
    fn compaction_lags_must_not_cross() {
        let overrides = set(&[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "5")]);
        assert_eq!(
            TopicConfig::from_overrides(&overrides, &NodeDefaults::default()),
            Err(ConfigError::CompactionLags { min: 10, max: 5 })
        );
    }

    #[test]
    fn an_existing_topic_keeps_working_when_the_ceiling_falls_or_a_name_is_gone() {
        let overrides =
            set(&[("max.message.bytes", "5000000"), ("from.the.future", "x"), ("retention.ms", "60000")]);
        let config = TopicConfig::effective(&overrides, &NodeDefaults::with_ceiling(1_000_000));
        assert_eq!(config.max_message_bytes, 1_000_000);
        assert_eq!(config.retention_ms, 60_000);
    }

    #[test]
    fn describe_tells_whose_value_it_is() {
        let defaults = NodeDefaults { segment_bytes: 1 << 20, ..NodeDefaults::default() };
        let described = TopicConfig::describe(&set(&[("retention.ms", "5")]), &defaults);
        assert_eq!(described.len(), DESCRIPTORS.len());
        let of = |name: &str| described.iter().find(|one| one.descriptor.name == name).unwrap();
        assert_eq!((of("retention.ms").source(), of("retention.ms").value()), (ConfigSource::Topic, "5"));
        assert_eq!(of("segment.bytes").source(), ConfigSource::Node);
        assert_eq!(of("segment.ms").source(), ConfigSource::Default);
        assert_eq!(of("segment.bytes").descriptor.config_type().code(), 3);
    }

    /// A client could end the node with a topic whose max.message.bytes is "-0".
    #[test]
    fn every_name_takes_every_spelling_of_a_number_that_passes_its_check() {
        let spellings =
            ["-0", "+1", "00", " 5 ", "+2147483647", "1e3", "NaN", "inf", "-inf", "", "-1", "0x1"];
        for descriptor in DESCRIPTORS {
            for value in spellings {
                let _ =
                    TopicConfig::from_overrides(&set(&[(descriptor.name, value)]), &NodeDefaults::default());
            }
        }
        let zero =
            TopicConfig::from_overrides(&set(&[("max.message.bytes", "-0")]), &NodeDefaults::default());
        assert_eq!(zero.unwrap().max_message_bytes, 0);
    }

    mod properties {
        use proptest::prelude::*;

        use super::*;

        proptest! {
            #[test]
            fn no_value_makes_a_config_panic(
                pairs in prop::collection::vec(
                    (0..DESCRIPTORS.len(), "([+-]?[0-9]{1,20}|[+-]?[0-9.e]{1,8}|[a-zA-Z,]{0,12}|.{0,8})"), 1..5,
                ),
                stray in "[a-z.]{0,12}",
            ) {
                let mut overrides: BTreeMap<_, _> = pairs
                    .into_iter()
                    .map(|(index, value)| (DESCRIPTORS[index].name.to_owned(), value))
                    .collect();
                let _ = TopicConfig::from_overrides(&overrides, &NodeDefaults::default());
                overrides.insert(stray, "1".to_owned());
                let effective = TopicConfig::effective(&overrides, &NodeDefaults::default());
                let _ = (effective.produce_rules(), TopicConfig::describe(&overrides, &NodeDefaults::default()));
            }
        }
    }
}
