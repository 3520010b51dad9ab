//! DescribeConfigs, of topics, of this node and of groups.

use std::collections::BTreeSet;

use corelog_engine::group::GroupConfig;
use corelog_engine::meta::image::MetaImage;
use corelog_engine::node_config;
use corelog_engine::topic_config::{ConfigDescriptor, ConfigSource, NodeDefaults, TopicConfig};
use corelog_engine::types::NodeId;
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

use super::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, Refusal, TOPIC, check_broker, fixed};
use crate::handlers::metadata::is_legal_name;
use crate::handlers::{owned, words};
use crate::options::NetOptions;
use crate::service::Service;

/// `ConfigDef.Type.STRING`, of configs that are shown as text.
const TYPE_STRING: i8 = 2;
/// `ConfigDef.Type.INT`.
const TYPE_INT: i8 = 3;
/// First version with config types and documentation.
const TYPES_FROM: i16 = 3;

/// Answers DescribeConfigs.
pub(crate) fn serve(
    service: &Service,
    version: i16,
    request: &DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let (image, defaults) = (service.engine.image(), service.engine.defaults());
    let asked = Asked { version, synonyms: request.include_synonyms, docs: request.include_documentation };
    let mut seen = BTreeSet::new();
    let results = request.resources.iter().map(|resource| {
        let is_first = seen.insert((resource.resource_type, resource.resource_name.as_str()));
        let described = match resource.resource_type {
            // Its answer would be as large as somebody likes.
            _ if !is_first => {
                let message = "this resource is named more than once in the request";
                Err((ErrorCode::InvalidRequest, message.to_owned()))
            }
            TOPIC => of_topic(&image, &defaults, resource, asked),
            BROKER => of_node(&service.options, &image, service.engine.node(), &defaults, resource, asked),
            BROKER_LOGGER => of_loggers(service.engine.node(), resource),
            CLIENT_METRICS => {
                named(resource, "Client metrics subscription name must not be empty").map(|()| Vec::new())
            }
            GROUP => named(resource, "Group name must not be empty")
                .map(|()| of_group(service.engine.group_config(), resource, asked)),
            other => Err((ErrorCode::InvalidRequest, format!("Unsupported resource type: {other}"))),
        };
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match described {
            Ok(configs) => result.with_configs(configs),
            Err((code, message)) => result.with_error_code(code.code()).with_error_message(words(message)),
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

type Described = Result<Vec<DescribeConfigsResourceResult>, Refusal>;

/// How much the client wants to know, and in which version.
#[derive(Debug, Clone, Copy)]
struct Asked {
    version: i16,
    synonyms: bool,
    docs: bool,
}

/// Whether the client wants that config; without a list it wants all.
fn is_wanted(resource: &DescribeConfigsResource, name: &str) -> bool {
    let keys = resource.configuration_keys.as_ref();
    keys.is_none_or(|keys| keys.is_empty() || keys.iter().any(|key| key.as_str() == name))
}

fn named(resource: &DescribeConfigsResource, otherwise: &str) -> Result<(), Refusal> {
    if resource.resource_name.is_empty() {
        return Err((ErrorCode::InvalidRequest, otherwise.to_owned()));
    }
    Ok(())
}

/// A config and everything that sets it, what counts first: by which name, to what, and where.
struct Entry<'a> {
    name: &'a str,
    set: Vec<(&'a str, String, ConfigSource)>,
    read_only: bool,
    config_type: i8,
    doc: Option<&'static str>,
}

impl Entry<'_> {
    fn result(self, asked: Asked) -> DescribeConfigsResourceResult {
        let (value, source) = match self.set.first() {
            Some((_, value, source)) => (Some(owned(value)), source.code()),
            None => (None, ConfigSource::Default.code()),
        };
        let mut synonyms = Vec::new();
        if asked.synonyms {
            synonyms.extend(self.set.iter().map(|(name, value, source)| {
                let synonym = DescribeConfigsSynonym::default().with_name(owned(name));
                synonym.with_value(Some(owned(value))).with_source(source.code())
            }));
        }
        let result = DescribeConfigsResourceResult::default()
            .with_name(owned(self.name))
            .with_value(value)
            .with_read_only(self.read_only)
            .with_config_source(source)
            .with_synonyms(synonyms);
        if asked.version < TYPES_FROM {
            return result;
        }
        let doc = self.doc.filter(|_| asked.docs).map(owned);
        result.with_config_type(self.config_type).with_documentation(doc)
    }
}

fn of_topic(
    image: &MetaImage,
    defaults: &NodeDefaults,
    resource: &DescribeConfigsResource,
    asked: Asked,
) -> Described {
    let name = resource.resource_name.as_str();
    if !is_legal_name(name) {
        return Err((ErrorCode::InvalidTopicException, format!("topic name '{name}' is illegal")));
    }
    let missing = || (ErrorCode::UnknownTopicOrPartition, format!("there is no topic '{name}'"));
    let topic = image.topic_named(name).ok_or_else(missing)?;
    let configs = TopicConfig::describe(&topic.configs, defaults).into_iter();
    let wanted = configs.filter(|config| is_wanted(resource, config.descriptor.name));
    let entry = |config: corelog_engine::topic_config::DescribedConfig| {
        let descriptor = config.descriptor;
        let name_of = |source| match source {
            ConfigSource::Topic => descriptor.name,
            _ => node_config::name_of(descriptor),
        };
        let set = config.in_order.into_iter().map(|(source, value)| (name_of(source), value, source));
        let entry = Entry { set: set.collect(), ..unset(descriptor.name, descriptor) };
        entry.result(asked)
    };
    Ok(wanted.map(entry).collect())
}

/// A config that can be changed, before it is said what sets it.
fn unset<'a>(name: &'a str, descriptor: &ConfigDescriptor) -> Entry<'a> {
    let config_type = descriptor.config_type().code();
    Entry { name, set: Vec::new(), read_only: false, config_type, doc: Some(descriptor.doc) }
}

fn of_node(
    options: &NetOptions,
    image: &MetaImage,
    node: NodeId,
    defaults: &NodeDefaults,
    resource: &DescribeConfigsResource,
    asked: Asked,
) -> Described {
    // The empty name means what is set for all nodes, and nothing else.
    let all_nodes = resource.resource_name.is_empty();
    if !all_nodes {
        check_broker(&resource.resource_name, node, " or empty string")?;
    }
    let changeable = node_config::all().filter_map(|(name, descriptor)| {
        let set = descriptor.defaults_in_order(defaults).into_iter();
        let set = set.filter(|(source, _)| !all_nodes || *source == ConfigSource::DynamicNodes);
        let set: Vec<_> = set.map(|(source, value)| (name, value, source)).collect();
        (!set.is_empty()).then(|| Entry { set, ..unset(name, descriptor) })
    });
    let mut results: Vec<_> =
        changeable.filter(|entry| is_wanted(resource, entry.name)).map(|entry| entry.result(asked)).collect();
    if !all_nodes {
        let fixed = fixed(options, image, node).into_iter().filter(|(name, _)| is_wanted(resource, name));
        results.extend(fixed.map(|(name, value)| {
            let set = vec![(name.as_str(), value, ConfigSource::Node)];
            Entry { name: &name, set, read_only: true, config_type: TYPE_STRING, doc: None }.result(asked)
        }));
        results.sort_by(|one, other| one.name.cmp(&other.name));
    }
    Ok(results)
}

/// Log levels are given at the start: there are none that could be changed.
fn of_loggers(node: NodeId, resource: &DescribeConfigsResource) -> Described {
    named(resource, "Broker id must not be empty")?;
    check_broker(&resource.resource_name, node, "")?;
    Ok(Vec::new())
}

/// What holds for every group: groups have no configs of their own.
fn of_group(
    groups: &GroupConfig,
    resource: &DescribeConfigsResource,
    asked: Asked,
) -> Vec<DescribeConfigsResourceResult> {
    let kafkas = GroupConfig::default();
    let known: [(&str, i64, i64); 2] = [
        (
            "consumer.heartbeat.interval.ms",
            groups.consumer_heartbeat_interval_ms.into(),
            kafkas.consumer_heartbeat_interval_ms.into(),
        ),
        (
            "consumer.session.timeout.ms",
            groups.consumer_session_timeout_ms.into(),
            kafkas.consumer_session_timeout_ms.into(),
        ),
    ];
    let entry = |(name, value, kafkas): (&str, i64, i64)| {
        let source = if value == kafkas { ConfigSource::Default } else { ConfigSource::Node };
        let set = vec![(name, value.to_string(), source)];
        Entry { name, set, read_only: true, config_type: TYPE_INT, doc: None }.result(asked)
    };
    known.into_iter().filter(|(name, ..)| is_wanted(resource, name)).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::Encodable;

    use super::*;
    use crate::handlers::metadata::tests::image;

    fn resource(kind: i8, name: &str, keys: Option<&[&str]>) -> DescribeConfigsResource {
        DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(owned(name))
            .with_configuration_keys(keys.map(|keys| keys.iter().map(|key| owned(key)).collect()))
    }

    const ASKED: Asked = Asked { version: 4, synonyms: true, docs: true };

    #[test]
    fn a_topic_shows_every_config_or_those_asked_for() {
        let ask = |name: &str, keys: Option<&[&str]>| {
            of_topic(&image(), &NodeDefaults::default(), &resource(TOPIC, name, keys), ASKED)
        };
        assert_eq!(ask("a", None).unwrap().len(), TopicConfig::descriptors().len());
        assert_eq!(ask("a", Some(&[])).unwrap().len(), TopicConfig::descriptors().len());
        let asked = ask("a", Some(&["cleanup.policy", "no.such.config"])).unwrap();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].value.as_ref().unwrap().as_str(), "delete");
        assert_eq!((asked[0].config_source, asked[0].synonyms.len()), (5, 1));
        assert!(asked[0].documentation.as_ref().unwrap().contains("old segments"));
        assert_eq!(ask("x", None).unwrap_err().0, ErrorCode::UnknownTopicOrPartition);
        assert_eq!(ask("x y", None).unwrap_err().0, ErrorCode::InvalidTopicException);
    }

    /// What sets `retention.ms`: everything that can.
    fn set_everywhere() -> (MetaImage, NodeDefaults) {
        let mut image = image();
        let topic = image.topics.values_mut().next().unwrap();
        std::sync::Arc::make_mut(topic).configs.insert("segment.ms".to_owned(), "1".to_owned());
        let mut configs = corelog_engine::meta::image::NodeConfigs::default();
        let set = |value: &str| [("log.roll.ms".to_owned(), value.to_owned())].into();
        configs.by_node.insert(NodeId(1), set("2"));
        configs.all = set("3");
        let file = NodeDefaults { segment_ms: 4, ..NodeDefaults::default() };
        (image, file.with_dynamic(&configs, NodeId(1)))
    }

    #[test]
    fn synonyms_come_in_kafkas_order_under_the_names_by_which_they_were_set() {
        let (image, defaults) = set_everywhere();
        let asked = of_topic(&image, &defaults, &resource(TOPIC, "a", Some(&["segment.ms"])), ASKED);
        let synonyms = asked.unwrap().remove(0).synonyms;
        let synonyms: Vec<_> = synonyms
            .iter()
            .map(|it| (it.name.as_str(), it.value.as_ref().unwrap().as_str(), it.source))
            .collect();
        assert_eq!(
            synonyms,
            [
                ("segment.ms", "1", 1),
                ("log.roll.ms", "2", 2),
                ("log.roll.ms", "3", 3),
                ("log.roll.ms", "4", 4),
                ("log.roll.ms", "604800000", 5),
            ]
        );
    }

    #[test]
    fn a_node_shows_its_own_configs_only() {
        let (image, defaults) = set_everywhere();
        let ask = |name: &str| {
            let resource = resource(BROKER, name, None);
            of_node(&NetOptions::default(), &image, NodeId(1), &defaults, &resource, ASKED)
        };
        let configs = ask("1").unwrap();
        let of = |name: &str| configs.iter().find(|config| config.name.as_str() == name).unwrap();
        assert!(of("node.id").read_only);
        let advertised = of("advertised.listeners");
        assert_eq!((advertised.read_only, advertised.config_source), (true, 4));
        let value = advertised.value.as_ref().unwrap().as_str();
        assert_eq!(value, "inside://inside.example:9092,outside://outside.example:19092");
        let roll = of("log.roll.ms");
        assert_eq!((roll.read_only, roll.config_source), (false, 2));
        assert_eq!(roll.value.as_ref().unwrap().as_str(), "2");
        let names: Vec<_> = configs.iter().map(|config| config.name.as_str()).collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
        let all_nodes = ask("").unwrap();
        assert_eq!(all_nodes.len(), 1);
        assert_eq!((all_nodes[0].name.as_str(), all_nodes[0].config_source), ("log.roll.ms", 3));
        assert_eq!(ask("2").unwrap_err().0, ErrorCode::InvalidRequest);
        assert_eq!(ask("x").unwrap_err().0, ErrorCode::InvalidRequest);
    }

    #[test]
    fn groups_and_loggers_show_what_there_is() {
        let shown = of_group(&GroupConfig::default(), &resource(GROUP, "g", None), ASKED);
        let shown: Vec<_> = shown.iter().map(|it| (it.name.as_str(), it.config_source)).collect();
        assert_eq!(shown, [("consumer.heartbeat.interval.ms", 5), ("consumer.session.timeout.ms", 5)]);
        assert_eq!(of_loggers(NodeId(1), &resource(BROKER_LOGGER, "1", None)), Ok(vec![]));
        assert!(of_loggers(NodeId(1), &resource(BROKER_LOGGER, "", None)).is_err());
        assert!(of_loggers(NodeId(1), &resource(BROKER_LOGGER, "2", None)).is_err());
    }

    #[test]
    fn every_version_can_be_written() {
        let (image, defaults) = set_everywhere();
        for version in 1..=4 {
            let asked = Asked { version, synonyms: true, docs: version >= 3 };
            let mut configs = of_topic(&image, &defaults, &resource(TOPIC, "a", None), asked).unwrap();
            let broker = resource(BROKER, "1", None);
            configs.extend(
                of_node(&NetOptions::default(), &image, NodeId(1), &defaults, &broker, asked).unwrap(),
            );
            let result = DescribeConfigsResult::default().with_configs(configs);
            let response = DescribeConfigsResponse::default().with_results(vec![result]);
            response.encode(&mut BytesMut::new(), version).unwrap();
        }
    }
}
