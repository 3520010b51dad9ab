//! What a config is: its type, its allowed values, and where its value comes from. Messages are those
//! of Kafka's `ConfigDef`.

use super::{ConfigError, NodeDefaults};
use crate::types::Durability;

/// A config's type, as DescribeConfigs names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigType {
    /// true or false.
    Boolean,
    /// Text.
    String,
    /// 32-bit number.
    Int,
    /// 64-bit number.
    Long,
    /// Floating-point number.
    Double,
    /// Comma-separated texts.
    List,
}

impl ConfigType {
    /// The protocol's number of this type.
    pub fn code(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::String => 2,
            Self::Int => 3,
            Self::Long => 5,
            Self::Double => 6,
            Self::List => 7,
        }
    }
}

/// Whether a config does anything in this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// It has the effect that its description says.
    Enforced,
    /// It is kept and described, and has no effect yet.
    NotYet,
    /// It is kept and described for compatibility; Corelog has no use for it.
    NotNeeded,
}

/// Which values are allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Range {
    Boolean,
    Int {
        min: i32,
    },
    IntUpTo {
        min: i32,
        max: i32,
    },
    /// Like `Int`, and no larger than [`NodeDefaults::max_message_bytes_ceiling`].
    MessageBytes,
    GzipLevel,
    Long {
        min: i64,
    },
    Double {
        min: f64,
        max: f64,
    },
    OneOf(&'static [&'static str]),
    ListOf(&'static [&'static str]),
}

/// Where a default comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DefaultValue {
    Fixed(&'static str),
    Durability,
    MaxMessageBytes,
    SegmentBytes,
    SegmentMs,
}

/// One config: its name, type, allowed values, default and documentation.
#[derive(Debug)]
pub struct ConfigDescriptor {
    /// Kafka's name.
    pub name: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// Whether it has an effect.
    pub enforcement: Enforcement,
    pub(super) range: Range,
    pub(super) default: DefaultValue,
}

impl ConfigDescriptor {
    /// The type, as DescribeConfigs names it.
    pub fn config_type(&self) -> ConfigType {
        match self.range {
            Range::Boolean => ConfigType::Boolean,
            Range::Int { .. } | Range::IntUpTo { .. } | Range::MessageBytes | Range::GzipLevel => {
                ConfigType::Int
            }
            Range::Long { .. } => ConfigType::Long,
            Range::Double { .. } => ConfigType::Double,
            Range::OneOf(_) => ConfigType::String,
            Range::ListOf(_) => ConfigType::List,
        }
    }

    /// The value where the topic sets none.
    pub fn default_value(&self, defaults: &NodeDefaults) -> String {
        match defaults.dynamic.get(self.name) {
            Some(value) => value.clone(),
            None => self.static_value(defaults),
        }
    }

    /// The value where nothing was set at run time.
    pub fn static_value(&self, defaults: &NodeDefaults) -> String {
        match self.default {
            DefaultValue::Fixed(value) => value.to_owned(),
            DefaultValue::Durability => durability_name(defaults.durability).to_owned(),
            DefaultValue::MaxMessageBytes => {
                defaults.max_message_bytes.min(defaults.max_message_bytes_ceiling).to_string()
            }
            DefaultValue::SegmentBytes => defaults.segment_bytes.to_string(),
            DefaultValue::SegmentMs => defaults.segment_ms.to_string(),
        }
    }

    /// The value that is built in.
    pub fn built_in_value(&self) -> String {
        self.static_value(&NodeDefaults::default())
    }

    /// What the value is where the topic sets none, and what it would be if the first of these were
    /// not set, and so on: at run time for this node or all nodes, in the node's file, built in.
    pub fn defaults_in_order(&self, defaults: &NodeDefaults) -> Vec<(ConfigSource, String)> {
        let dynamic = &defaults.dynamic;
        let own = dynamic.node.get(self.name).map(|value| (ConfigSource::DynamicNode, value.clone()));
        let all = dynamic.all.get(self.name).map(|value| (ConfigSource::DynamicNodes, value.clone()));
        let (file, built_in) = (self.static_value(defaults), self.built_in_value());
        let file = (file != built_in).then_some((ConfigSource::Node, file));
        own.into_iter().chain(all).chain(file).chain([(ConfigSource::Default, built_in)]).collect()
    }

    /// Checks a value for this config.
    ///
    /// # Errors
    /// Not of its type, or out of its range.
    pub fn check(&self, value: &str, defaults: &NodeDefaults) -> Result<(), ConfigError> {
        let refuse = |why: String| ConfigError::InvalidValue {
            name: self.name.to_owned(),
            value: value.to_owned(),
            why,
        };
        let text = value.trim();
        match self.range {
            Range::Boolean => parse_bool(text)
                .map(drop)
                .ok_or_else(|| refuse("Expected value to be either true or false".to_owned())),
            Range::Int { min } => check_int(text, min, i32::MAX).map_err(refuse),
            Range::IntUpTo { min, max } => check_int(text, min, max).map_err(refuse),
            Range::MessageBytes => check_int(text, 0, defaults.max_message_bytes_ceiling).map_err(refuse),
            Range::GzipLevel => match text.parse::<i32>() {
                Ok(-1 | 1..=9) => Ok(()),
                Ok(_) => Err(refuse("Value must be between 1 and 9 or equal to -1".to_owned())),
                Err(_) => Err(refuse("Not a number of type INT".to_owned())),
            },
            Range::Long { min } => match text.parse::<i64>() {
                Ok(number) if number >= min => Ok(()),
                Ok(_) => Err(refuse(format!("Value must be at least {min}"))),
                Err(_) => Err(refuse("Not a number of type LONG".to_owned())),
            },
            Range::Double { min, max } => match text.parse::<f64>() {
                Ok(number) if number >= min && number <= max => Ok(()),
                Ok(number) if number < min => Err(refuse(format!("Value must be at least {min}"))),
                Ok(_) => Err(refuse(format!("Value must be no more than {max}"))),
                Err(_) => Err(refuse("Not a number of type DOUBLE".to_owned())),
            },
            Range::OneOf(allowed) if allowed.contains(&text) => Ok(()),
            Range::OneOf(allowed) => Err(refuse(format!("String must be one of: {}", allowed.join(", ")))),
            Range::ListOf(allowed) => match items(text).find(|item| !allowed.contains(item)) {
                None => Ok(()),
                Some(_) => Err(refuse(format!("String must be one of: {}", allowed.join(", ")))),
            },
        }
    }
}

fn check_int(text: &str, min: i32, max: i32) -> Result<(), String> {
    match text.parse::<i32>() {
        Ok(number) if number < min => Err(format!("Value must be at least {min}")),
        Ok(number) if number > max => Err(format!("Value must be no more than {max}")),
        Ok(_) => Ok(()),
        Err(_) => Err("Not a number of type INT".to_owned()),
    }
}

pub(super) fn parse_bool(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// The items of a list's value.
pub(crate) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn durability_name(durability: Durability) -> &'static str {
    match durability {
        Durability::Fsync => "fsync",
        Durability::Write => "write",
    }
}

/// Whose value a config has, as DescribeConfigs names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set on the topic.
    Topic,
    /// Set at run time for the node.
    DynamicNode,
    /// Set at run time for all nodes.
    DynamicNodes,
    /// Set in the node's configuration.
    Node,
    /// Built in.
    Default,
}

impl ConfigSource {
    /// The protocol's number of this source.
    pub fn code(self) -> i8 {
        match self {
            Self::Topic => 1,
            Self::DynamicNode => 2,
            Self::DynamicNodes => 3,
            Self::Node => 4,
            Self::Default => 5,
        }
    }
}

/// One config of one topic, for DescribeConfigs.
#[derive(Debug, Clone)]
pub struct DescribedConfig {
    /// What it is.
    pub descriptor: &'static ConfigDescriptor,
    /// Everything that sets it, what counts first; the last is built in.
    pub in_order: Vec<(ConfigSource, String)>,
}

impl DescribedConfig {
    /// Its effective value.
    pub fn value(&self) -> &str {
        self.in_order.first().map_or("", |(_, value)| value)
    }

    /// Whose value that is.
    pub fn source(&self) -> ConfigSource {
        self.in_order.first().map_or(ConfigSource::Default, |(source, _)| *source)
    }
}
