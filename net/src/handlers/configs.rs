//! DescribeConfigs, of topics and of this node. Nothing can be altered yet.

use std::collections::BTreeSet;

use corelog_engine::meta::image::MetaImage;
use corelog_engine::topic_config::{ConfigSource, DescribedConfig, NodeDefaults, TopicConfig};
use corelog_engine::types::NodeId;
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use super::metadata::is_legal_name;
use super::{owned, words};
use crate::options::NetOptions;
use crate::service::Service;

/// `ConfigResource.Type`.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// `ConfigDef.Type.STRING`, of configs that are shown as text.
const TYPE_STRING: i8 = 2;
/// First version with config types and documentation.
const TYPES_FROM: i16 = 3;

/// Answers DescribeConfigs.
pub(crate) fn serve(
    service: &Service,
    version: i16,
    request: &DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let image = service.engine.image();
    let mut seen = BTreeSet::new();
    let results = request.resources.iter().map(|resource| {
        let is_first = seen.insert((resource.resource_type, resource.resource_name.as_str()));
        let described = match resource.resource_type {
            // Its answer would be as large as somebody likes.
            _ if !is_first => {
                let message = "this resource is named more than once in the request";
                Err((ErrorCode::InvalidRequest, message.to_owned()))
            }
            TOPIC => of_topic(&image, service.engine.defaults(), resource, version, request),
            BROKER => of_node(&service.options, service.engine.node(), resource),
            other => {
                Err((ErrorCode::InvalidRequest, format!("resources of type {other} have no configs here")))
            }
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

type Described = Result<Vec<DescribeConfigsResourceResult>, (ErrorCode, String)>;

/// Whether the client wants that config; without a list it wants all.
fn is_wanted(resource: &DescribeConfigsResource, name: &str) -> bool {
    let keys = resource.configuration_keys.as_ref();
    keys.is_none_or(|keys| keys.is_empty() || keys.iter().any(|key| key.as_str() == name))
}

fn of_topic(
    image: &MetaImage,
    defaults: &NodeDefaults,
    resource: &DescribeConfigsResource,
    version: i16,
    request: &DescribeConfigsRequest,
) -> Described {
    let name = resource.resource_name.as_str();
    if !is_legal_name(name) {
        return Err((ErrorCode::InvalidTopicException, format!("topic name '{name}' is illegal")));
    }
    let missing = || (ErrorCode::UnknownTopicOrPartition, format!("there is no topic '{name}'"));
    let topic = image.topic_named(name).ok_or_else(missing)?;
    let configs = TopicConfig::describe(&topic.configs, defaults).into_iter();
    let wanted = configs.filter(|config| is_wanted(resource, config.descriptor.name));
    Ok(wanted.map(|config| topic_config(&config, defaults, version, request)).collect())
}

fn topic_config(
    config: &DescribedConfig,
    defaults: &NodeDefaults,
    version: i16,
    request: &DescribeConfigsRequest,
) -> DescribeConfigsResourceResult {
    let name = owned(config.descriptor.name);
    let mut synonyms = Vec::new();
    if request.include_synonyms {
        let synonym = |value: &str, source: ConfigSource| {
            let synonym = DescribeConfigsSynonym::default().with_name(name.clone());
            synonym.with_value(Some(owned(value))).with_source(source.code())
        };
        synonyms.push(synonym(&config.value, config.source));
        if config.source == ConfigSource::Topic {
            synonyms.push(synonym(&config.descriptor.default_value(defaults), ConfigSource::Default));
        }
    }
    let result = DescribeConfigsResourceResult::default()
        .with_name(name)
        .with_value(Some(owned(&config.value)))
        .with_config_source(config.source.code())
        .with_synonyms(synonyms);
    if version < TYPES_FROM {
        return result;
    }
    let documentation = request.include_documentation.then(|| owned(config.descriptor.doc));
    result.with_config_type(config.descriptor.config_type().code()).with_documentation(documentation)
}

fn of_node(options: &NetOptions, node: NodeId, resource: &DescribeConfigsResource) -> Described {
    let name = resource.resource_name.as_str();
    // The empty name means the defaults of all brokers, of which there are none.
    if name.is_empty() {
        return Ok(Vec::new());
    }
    if name != node.0.to_string() {
        let message =
            format!("configs of broker '{name}' have to be asked of that broker; this is {}", node.0);
        return Err((ErrorCode::InvalidRequest, message));
    }
    let shown = shown(options, node).into_iter().filter(|(name, _)| is_wanted(resource, name));
    let configs = shown.map(|(name, value)| {
        DescribeConfigsResourceResult::default()
            .with_name(StrBytes::from_string(name))
            .with_value(Some(StrBytes::from_string(value)))
            .with_read_only(true)
            .with_config_source(ConfigSource::Node.code())
            .with_config_type(TYPE_STRING)
    });
    Ok(configs.collect())
}

/// The node's options by Kafka's names.
fn shown(options: &NetOptions, node: NodeId) -> Vec<(String, String)> {
    let listeners: Vec<_> = options.listeners.iter().map(|l| format!("{}://{}", l.name, l.bind)).collect();
    let mut shown = vec![
        ("auto.create.topics.enable".to_owned(), options.auto_create_topics.to_string()),
        ("broker.id".to_owned(), node.0.to_string()),
        ("connections.max.idle.ms".to_owned(), options.idle_timeout.as_millis().to_string()),
        ("listeners".to_owned(), listeners.join(",")),
        ("max.connections".to_owned(), options.max_connections.to_string()),
        ("max.incremental.fetch.session.cache.slots".to_owned(), options.fetch_session_slots.to_string()),
        ("node.id".to_owned(), node.0.to_string()),
        ("socket.request.max.bytes".to_owned(), options.max_frame_bytes.to_string()),
    ];
    shown.extend(options.shown_configs.iter().cloned());
    shown.sort();
    shown
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::Encodable;

    use super::super::metadata::tests::image;
    use super::*;

    fn resource(kind: i8, name: &str, keys: Option<&[&str]>) -> DescribeConfigsResource {
        DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(owned(name))
            .with_configuration_keys(keys.map(|keys| keys.iter().map(|key| owned(key)).collect()))
    }

    #[test]
    fn a_topic_shows_every_config_or_those_asked_for() {
        let request = DescribeConfigsRequest::default().with_include_synonyms(true);
        let ask = |name: &str, keys: Option<&[&str]>| {
            of_topic(&image(), &NodeDefaults::default(), &resource(TOPIC, name, keys), 4, &request)
        };
        assert_eq!(ask("a", None).unwrap().len(), TopicConfig::descriptors().len());
        let asked = ask("a", Some(&["cleanup.policy", "no.such.config"])).unwrap();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].value.as_ref().unwrap().as_str(), "delete");
        assert_eq!((asked[0].config_source, asked[0].synonyms.len()), (5, 1));
        assert_eq!(ask("x", None).unwrap_err().0, ErrorCode::UnknownTopicOrPartition);
        assert_eq!(ask("x y", None).unwrap_err().0, ErrorCode::InvalidTopicException);
    }

    #[test]
    fn a_node_shows_its_own_configs_only() {
        let ask = |name: &str| of_node(&NetOptions::default(), NodeId(1), &resource(BROKER, name, None));
        let configs = ask("1").unwrap();
        assert!(configs.iter().all(|config| config.read_only));
        assert!(configs.iter().any(|config| config.name.as_str() == "node.id"));
        assert_eq!(ask("").unwrap(), []);
        assert_eq!(ask("2").unwrap_err().0, ErrorCode::InvalidRequest);
    }

    #[test]
    fn every_version_can_be_written() {
        for version in 1..=4 {
            let request = DescribeConfigsRequest::default()
                .with_include_synonyms(true)
                .with_include_documentation(version >= 3);
            let resource = resource(TOPIC, "a", None);
            let mut configs =
                of_topic(&image(), &NodeDefaults::default(), &resource, version, &request).unwrap();
            configs.extend(
                of_node(&NetOptions::default(), NodeId(1), &self::resource(BROKER, "1", None)).unwrap(),
            );
            let result = DescribeConfigsResult::default().with_configs(configs);
            let response = DescribeConfigsResponse::default().with_results(vec![result]);
            response.encode(&mut BytesMut::new(), version).unwrap();
        }
    }
}
