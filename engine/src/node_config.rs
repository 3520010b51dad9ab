//! Node configs that can be changed while nodes run: what topics default to.
//!
//! Each is a topic config under the name that Kafka has for it on a broker, with the same type,
//! range and meaning (`ServerTopicConfigSynonyms` of Kafka 4.0; Kafka lets exactly these be changed
//! of its log configs). Pure data, on any shard; it stores nothing.

use std::collections::BTreeMap;

use crate::meta::image::NodeConfigs;
use crate::topic_config::{ConfigDescriptor, ConfigError, NodeDefaults, descriptor};
use crate::types::NodeId;

/// Node configs and the topic configs whose defaults they are, by the name of the latter, as in
/// [`TopicConfig::descriptors`](crate::topic_config::TopicConfig::descriptors).
static NAMES: &[(&str, &str)] = &[
    ("log.cleanup.policy", "cleanup.policy"),
    ("compression.gzip.level", "compression.gzip.level"),
    ("compression.lz4.level", "compression.lz4.level"),
    ("compression.type", "compression.type"),
    ("compression.zstd.level", "compression.zstd.level"),
    ("corelog.durability", "corelog.durability"),
    ("log.cleaner.delete.retention.ms", "delete.retention.ms"),
    ("log.segment.delete.delay.ms", "file.delete.delay.ms"),
    ("log.flush.interval.messages", "flush.messages"),
    ("log.flush.interval.ms", "flush.ms"),
    ("log.index.interval.bytes", "index.interval.bytes"),
    ("log.cleaner.max.compaction.lag.ms", "max.compaction.lag.ms"),
    ("message.max.bytes", "max.message.bytes"),
    ("log.message.timestamp.after.max.ms", "message.timestamp.after.max.ms"),
    ("log.message.timestamp.before.max.ms", "message.timestamp.before.max.ms"),
    ("log.message.timestamp.type", "message.timestamp.type"),
    ("log.cleaner.min.cleanable.ratio", "min.cleanable.dirty.ratio"),
    ("log.cleaner.min.compaction.lag.ms", "min.compaction.lag.ms"),
    ("min.insync.replicas", "min.insync.replicas"),
    ("log.preallocate", "preallocate"),
    ("log.retention.bytes", "retention.bytes"),
    ("log.retention.ms", "retention.ms"),
    ("log.segment.bytes", "segment.bytes"),
    ("log.index.size.max.bytes", "segment.index.bytes"),
    ("log.roll.jitter.ms", "segment.jitter.ms"),
    ("log.roll.ms", "segment.ms"),
    ("unclean.leader.election.enable", "unclean.leader.election.enable"),
];

/// Every node config there is, with the topic config whose default it is.
pub fn all() -> impl Iterator<Item = (&'static str, &'static ConfigDescriptor)> {
    NAMES.iter().filter_map(|(node, topic)| Some((*node, descriptor(topic)?)))
}

/// The topic config whose default is set by this node config.
pub fn named(name: &str) -> Option<&'static ConfigDescriptor> {
    NAMES.iter().find(|(node, _)| *node == name).and_then(|(_, topic)| descriptor(topic))
}

/// The node config that sets the default of this topic config.
pub fn name_of(topic_config: &ConfigDescriptor) -> &'static str {
    let found = NAMES.iter().find(|(_, topic)| *topic == topic_config.name);
    found.map(|(node, _)| *node).expect("every topic config has a node's name")
}

/// Checks a node config's name and value.
///
/// # Errors
/// An unknown name, or a value that is not allowed on this node.
pub fn validate(name: &str, value: &str, defaults: &NodeDefaults) -> Result<(), ConfigError> {
    let descriptor = named(name).ok_or_else(|| ConfigError::UnknownNodeConfig(name.to_owned()))?;
    descriptor.check(value, defaults).map_err(|error| match error {
        ConfigError::InvalidValue { value, why, .. } => {
            ConfigError::InvalidValue { name: name.to_owned(), value, why }
        }
        error => error,
    })
}

/// What was set for nodes at run time, as one node sees it, by the names of topic configs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DynamicDefaults {
    /// For this node.
    pub node: BTreeMap<&'static str, String>,
    /// For all nodes.
    pub all: BTreeMap<&'static str, String>,
}

impl DynamicDefaults {
    /// What holds for `node`. What this version would refuse, since another one took it, does not
    /// count.
    pub fn of(configs: &NodeConfigs, node: NodeId) -> Self {
        let own = configs.by_node.get(&node);
        Self { node: own.map(usable).unwrap_or_default(), all: usable(&configs.all) }
    }

    /// The value that holds for a topic config, if one was set.
    pub fn get(&self, topic_config: &str) -> Option<&String> {
        self.node.get(topic_config).or_else(|| self.all.get(topic_config))
    }
}

fn usable(set: &BTreeMap<String, String>) -> BTreeMap<&'static str, String> {
    let unlimited = NodeDefaults::default();
    let usable = set.iter().filter_map(|(name, value)| {
        let descriptor = named(name)?;
        descriptor.check(value, &unlimited).ok()?;
        Some((descriptor.name, value.clone()))
    });
    usable.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic_config::TopicConfig;

    fn set(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_topic_config_has_one_node_config() {
        let topics: Vec<_> = NAMES.iter().map(|(_, topic)| *topic).collect();
        let descriptors: Vec<_> = TopicConfig::descriptors().iter().map(|it| it.name).collect();
        assert_eq!(topics, descriptors);
        let mut nodes: Vec<_> = NAMES.iter().map(|(node, _)| *node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        assert_eq!(nodes.len(), NAMES.len());
    }

    #[test]
    fn a_nodes_own_value_wins_over_that_of_all_nodes_and_both_over_the_file() {
        let mut configs = NodeConfigs {
            all: set(&[("log.retention.ms", "5"), ("log.roll.ms", "6")]),
            ..Default::default()
        };
        configs.by_node.insert(NodeId(1), set(&[("log.retention.ms", "7")]));
        configs.by_node.insert(NodeId(2), set(&[("log.retention.ms", "8")]));
        let file = NodeDefaults { segment_ms: 1_000, ..NodeDefaults::default() };
        let defaults = file.with_dynamic(&configs, NodeId(1));
        let config = TopicConfig::effective(&BTreeMap::new(), &defaults);
        assert_eq!((config.retention_ms, config.segment_ms), (7, 6));
        let topics_own = TopicConfig::effective(&set(&[("retention.ms", "9")]), &defaults);
        assert_eq!(topics_own.retention_ms, 9);
        let before = defaults.with_dynamic(&NodeConfigs::default(), NodeId(1));
        assert_eq!(before, file);
    }

    #[test]
    fn what_another_version_set_does_not_count() {
        let configs = NodeConfigs {
            all: set(&[("log.retention.ms", "soon"), ("from.the.future", "1")]),
            ..Default::default()
        };
        let defaults = NodeDefaults::default().with_dynamic(&configs, NodeId(1));
        assert_eq!(TopicConfig::effective(&BTreeMap::new(), &defaults).retention_ms, 604_800_000);
    }

    #[test]
    fn refusals_have_the_node_configs_name() {
        let defaults = NodeDefaults::default();
        let refused = |name: &str, value: &str| validate(name, value, &defaults).unwrap_err().to_string();
        assert_eq!(
            refused("log.retention.ms", "x"),
            "Invalid value x for configuration log.retention.ms: Not a number of type LONG"
        );
        assert_eq!(refused("retention.ms", "1"), "Unknown config name: retention.ms");
    }
}
