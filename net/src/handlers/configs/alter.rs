//! AlterConfigs, which replaces, and IncrementalAlterConfigs, which changes. Each resource's change is
//! made as a whole or refused. Messages are Kafka's (`ConfigAdminManager`).

use std::collections::{BTreeMap, BTreeSet};

use corelog_engine::api::{AlterConfigs, ConfigOp, ConfigResource};
use corelog_engine::meta::image::MetaImage;
use corelog_engine::types::NodeId;
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, alter_configs_response, incremental_alter_configs_response,
};
use kafka_protocol::protocol::StrBytes;

use super::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, Refusal, TOPIC, check_broker, fixed};
use crate::handlers::words;
use crate::options::NetOptions;
use crate::service::Service;

/// `AlterConfigOp.OpType`.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// A resource of either API.
struct Asked {
    kind: i8,
    name: StrBytes,
    /// Whether what is not named is not set any more.
    replace: bool,
    /// Name, operation, value.
    configs: Vec<(StrBytes, i8, Option<StrBytes>)>,
}

/// Answers AlterConfigs.
pub(crate) async fn replace(service: &Service, request: AlterConfigsRequest) -> AlterConfigsResponse {
    use alter_configs_response::AlterConfigsResourceResponse as Item;

    let asked = request.resources.into_iter().map(|resource| Asked {
        kind: resource.resource_type,
        name: resource.resource_name,
        replace: true,
        configs: resource.configs.into_iter().map(|config| (config.name, SET, config.value)).collect(),
    });
    let asked: Vec<Asked> = asked.collect();
    let outcomes = alter(service, &asked, request.validate_only).await;
    let responses = asked.into_iter().zip(outcomes).map(|(asked, outcome)| {
        let item = Item::default().with_resource_type(asked.kind).with_resource_name(asked.name);
        match outcome {
            Ok(()) => item.with_error_message(None),
            Err((code, message)) => item.with_error_code(code.code()).with_error_message(words(message)),
        }
    });
    AlterConfigsResponse::default().with_responses(responses.collect())
}

/// Answers IncrementalAlterConfigs.
pub(crate) async fn change(
    service: &Service,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    use incremental_alter_configs_response::AlterConfigsResourceResponse as Item;

    let asked = request.resources.into_iter().map(|resource| Asked {
        kind: resource.resource_type,
        name: resource.resource_name,
        replace: false,
        configs: resource.configs.into_iter().map(|it| (it.name, it.config_operation, it.value)).collect(),
    });
    let asked: Vec<Asked> = asked.collect();
    let outcomes = alter(service, &asked, request.validate_only).await;
    let responses = asked.into_iter().zip(outcomes).map(|(asked, outcome)| {
        let item = Item::default().with_resource_type(asked.kind).with_resource_name(asked.name);
        match outcome {
            Ok(()) => item.with_error_message(None),
            Err((code, message)) => item.with_error_code(code.code()).with_error_message(words(message)),
        }
    });
    IncrementalAlterConfigsResponse::default().with_responses(responses.collect())
}

/// One outcome for each resource, in their order.
async fn alter(service: &Service, asked: &[Asked], validate_only: bool) -> Vec<Result<(), Refusal>> {
    let checked = check(asked, &service.options, &service.engine.image(), service.engine.node());
    let accepted = checked.iter().filter_map(|it| it.as_ref().ok().cloned()).collect();
    let mut altered = service.engine.alter_configs(accepted, validate_only).await.into_iter();
    let outcome = |checked: Result<AlterConfigs, Refusal>| {
        checked?;
        let altered = altered.next().expect("one outcome per resource that was passed on");
        altered.map_err(|error| (error.code(), error.to_string()))
    };
    checked.into_iter().map(outcome).collect()
}

/// What can be said of the request by itself.
fn check(
    asked: &[Asked],
    options: &NetOptions,
    image: &MetaImage,
    node: NodeId,
) -> Vec<Result<AlterConfigs, Refusal>> {
    let mut named = BTreeMap::new();
    for resource in asked {
        *named.entry((resource.kind, resource.name.as_str())).or_insert(0_u32) += 1;
    }
    let check_one = |resource: &Asked| {
        if named[&(resource.kind, resource.name.as_str())] > 1 {
            return Err(invalid("Each resource must appear at most once."));
        }
        let ops = operations(resource)?;
        let target = target(resource, options, image, node)?;
        Ok(AlterConfigs { resource: target, replace: resource.replace, ops })
    };
    asked.iter().map(check_one).collect()
}

fn invalid(message: impl Into<String>) -> Refusal {
    (ErrorCode::InvalidRequest, message.into())
}

fn operations(resource: &Asked) -> Result<Vec<(String, ConfigOp)>, Refusal> {
    let mut seen = BTreeSet::new();
    if !resource.configs.iter().all(|(name, ..)| seen.insert(name.as_str())) {
        return Err(invalid("Error due to duplicate config keys"));
    }
    let is_null = |(_, op, value): &&(StrBytes, i8, Option<StrBytes>)| *op != DELETE && value.is_none();
    let nulls: Vec<&str> = resource.configs.iter().filter(is_null).map(|(name, ..)| name.as_str()).collect();
    if !nulls.is_empty() {
        return Err(invalid(format!("Null value not supported for : {}", nulls.join(", "))));
    }
    let operation = |(name, op, value): &(StrBytes, i8, Option<StrBytes>)| {
        let value = value.as_ref().map(|value| value.as_str().to_owned()).unwrap_or_default();
        let op = match *op {
            SET => ConfigOp::Set(value),
            DELETE => ConfigOp::Delete,
            APPEND => ConfigOp::Append(value),
            SUBTRACT => ConfigOp::Subtract(value),
            other => return Err(invalid(format!("Unknown operations type {other}"))),
        };
        Ok((name.as_str().to_owned(), op))
    };
    resource.configs.iter().map(operation).collect()
}

fn target(
    resource: &Asked,
    options: &NetOptions,
    image: &MetaImage,
    node: NodeId,
) -> Result<ConfigResource, Refusal> {
    let name = resource.name.as_str();
    match resource.kind {
        TOPIC => Ok(ConfigResource::Topic(name.to_owned())),
        BROKER => {
            if !name.is_empty() {
                check_broker(name, node, "")?;
            }
            let fixed = fixed(options, image, node);
            let is_fixed = |name: &&str| fixed.iter().any(|(fixed, _)| fixed == name);
            let mut refused: Vec<&str> =
                resource.configs.iter().map(|(name, ..)| name.as_str()).filter(is_fixed).collect();
            refused.sort_unstable();
            if !refused.is_empty() {
                let refused = refused.join(", ");
                return Err(invalid(format!("Cannot update these configs dynamically: Set({refused})")));
            }
            Ok(if name.is_empty() { ConfigResource::AllNodes } else { ConfigResource::Node(node) })
        }
        BROKER_LOGGER if !resource.replace => {
            check_broker(name, node, "")?;
            Err(invalid("log levels cannot be changed while the node runs: start it with --log-level"))
        }
        CLIENT_METRICS => Err(invalid("this broker collects no metrics of clients")),
        GROUP => Err(invalid("groups have no configs of their own here: they are those of the node")),
        other => Err(invalid(format!("Unknown resource type {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::owned;

    fn resource(kind: i8, name: &str, configs: &[(&str, i8, Option<&str>)]) -> Asked {
        let configs = configs.iter().map(|(name, op, value)| (owned(name), *op, value.map(owned)));
        Asked { kind, name: owned(name), replace: false, configs: configs.collect() }
    }

    fn one(resource: Asked) -> Result<AlterConfigs, String> {
        let checked = check(&[resource], &NetOptions::default(), &MetaImage::default(), NodeId(1)).remove(0);
        checked.map_err(|(code, message)| {
            assert_eq!(code, ErrorCode::InvalidRequest);
            message
        })
    }

    #[test]
    fn operations_come_through() {
        let configs = [("a", 0, Some("1")), ("b", 1, None), ("c", 2, Some("2")), ("d", 3, Some("3"))];
        let altered = one(resource(TOPIC, "t", &configs)).unwrap();
        assert_eq!(altered.resource, ConfigResource::Topic("t".to_owned()));
        let ops: Vec<_> = altered.ops.into_iter().map(|(_, op)| op).collect();
        let text = |text: &str| text.to_owned();
        assert_eq!(
            ops,
            [
                ConfigOp::Set(text("1")),
                ConfigOp::Delete,
                ConfigOp::Append(text("2")),
                ConfigOp::Subtract(text("3"))
            ]
        );
    }

    #[test]
    fn what_kafka_refuses_is_refused_in_its_words() {
        let refused = |kind, name: &str, configs: &[(&str, i8, Option<&str>)]| {
            one(resource(kind, name, configs)).unwrap_err()
        };
        let set = |name| (name, 0, Some("1"));
        assert_eq!(refused(TOPIC, "t", &[set("a"), set("a")]), "Error due to duplicate config keys");
        let nulls = [("a", 0, None), ("b", 1, None), ("c", 2, None)];
        assert_eq!(refused(TOPIC, "t", &nulls), "Null value not supported for : a, c");
        assert_eq!(refused(TOPIC, "t", &[("a", 9, Some("1"))]), "Unknown operations type 9");
        assert_eq!(refused(7, "t", &[]), "Unknown resource type 7");
        assert_eq!(refused(BROKER, "x", &[]), "Node id must be an integer, but it is: x");
        assert_eq!(refused(BROKER, "2", &[]), "Unexpected broker id, expected 1, but received 2");
        assert_eq!(
            refused(BROKER, "", &[set("node.id"), set("advertised.listeners"), set("log.retention.ms")]),
            "Cannot update these configs dynamically: Set(advertised.listeners, node.id)"
        );
        assert!(refused(BROKER_LOGGER, "1", &[]).contains("--log-level"));
        let legacy = Asked { replace: true, ..resource(BROKER_LOGGER, "1", &[]) };
        assert_eq!(one(legacy).unwrap_err(), "Unknown resource type 8");
    }

    #[test]
    fn a_resource_that_is_named_twice_is_refused_both_times_and_no_other_is() {
        let asked = [resource(TOPIC, "t", &[]), resource(BROKER, "1", &[]), resource(TOPIC, "t", &[])];
        let checked = check(&asked, &NetOptions::default(), &MetaImage::default(), NodeId(1));
        let message = "Each resource must appear at most once.";
        assert_eq!(checked[0], Err(invalid(message)));
        assert_eq!(checked[1].as_ref().unwrap().resource, ConfigResource::Node(NodeId(1)));
        assert_eq!(checked[2], Err(invalid(message)));
    }
}
