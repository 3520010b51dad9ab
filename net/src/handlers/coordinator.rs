//! FindCoordinator: this node coordinates every group. There are no transactions yet, and clients
//! are told so in a way that they retry.

use corelog_engine::meta::image::{ListenerMeta, MetaImage};
use corelog_engine::types::NodeId;
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::owned;
use crate::connection::Client;
use crate::service::Service;

/// First version that asks for several keys at once.
const KEYS_FROM: i16 = 4;
/// Types of keys; others are not served: 2, of share groups' states, is for brokers among themselves.
const KEY_GROUP: i8 = 0;
const KEY_TRANSACTION: i8 = 1;

/// Where a coordinator is, or why there is none.
type Found = Result<(NodeId, ListenerMeta), (ErrorCode, &'static str)>;

/// Answers FindCoordinator. Creates what groups are kept in when nobody asked before.
pub(crate) async fn serve(
    service: &Service,
    client: &Client,
    version: i16,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let found = match request.key_type {
        KEY_GROUP => find(service, client).await,
        KEY_TRANSACTION => {
            Err((ErrorCode::CoordinatorNotAvailable, "this broker has no transaction coordinator yet"))
        }
        _ => Err((ErrorCode::InvalidRequest, "this broker has no coordinator for keys of this type")),
    };
    respond(version, request, found)
}

async fn find(service: &Service, client: &Client) -> Found {
    if let Err(error) = service.engine.ready_for_groups().await {
        tracing::warn!(%error, "groups have no topic");
        return Err((ErrorCode::CoordinatorNotAvailable, "the topic for groups could not be created"));
    }
    let listener = &service.options.listeners[client.listener].name;
    locate(&service.engine.image(), service.engine.node(), listener)
}

/// The node as a client of this listener reaches it.
fn locate(image: &MetaImage, node: NodeId, listener: &str) -> Found {
    let listeners = image.nodes.get(&node).map(|node| node.listeners.iter());
    let found = listeners.into_iter().flatten().find(|advertised| advertised.name == listener);
    let found = found.ok_or((ErrorCode::CoordinatorNotAvailable, "the coordinator has no such listener"))?;
    Ok((node, found.clone()))
}

fn respond(version: i16, request: FindCoordinatorRequest, found: Found) -> FindCoordinatorResponse {
    let (code, message, node, host, port) = match found {
        Ok((node, listener)) => {
            // What Kafka says there of a success.
            let message = if version < KEYS_FROM { "NONE" } else { "" };
            (ErrorCode::None, message, BrokerId(node.0), owned(&listener.host), i32::from(listener.port))
        }
        Err((code, message)) => (code, message, BrokerId(-1), StrBytes::new(), -1),
    };
    let message = Some(StrBytes::from_static_str(message));
    if version < KEYS_FROM {
        return FindCoordinatorResponse::default()
            .with_error_code(code.code())
            .with_error_message(if version >= 1 { message } else { None })
            .with_node_id(node)
            .with_host(host)
            .with_port(port);
    }
    let coordinator = Coordinator::default().with_node_id(node).with_host(host).with_port(port);
    let coordinator = coordinator.with_error_code(code.code()).with_error_message(message);
    let coordinators = request.coordinator_keys.into_iter().map(|key| coordinator.clone().with_key(key));
    FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::{Decodable, Encodable};

    use super::super::metadata::tests::image;
    use super::*;

    fn ask(version: i16, found: Found) -> FindCoordinatorResponse {
        let request = FindCoordinatorRequest::default().with_key(owned("a"));
        let request = request.with_coordinator_keys(vec![owned("a"), owned("")]);
        let mut bytes = BytesMut::new();
        respond(version, request, found).encode(&mut bytes, version).unwrap();
        FindCoordinatorResponse::decode(&mut bytes.freeze(), version).unwrap()
    }

    #[test]
    fn every_key_is_answered_in_every_version() {
        for version in 0..=6 {
            let response = ask(version, Err((ErrorCode::CoordinatorNotAvailable, "why")));
            let codes: Vec<_> =
                response.coordinators.iter().map(|c| (c.key.to_string(), c.error_code)).collect();
            match version {
                ..KEYS_FROM => assert_eq!((response.error_code, response.node_id.0), (15, -1)),
                _ => assert_eq!(codes, [("a".to_owned(), 15), (String::new(), 15)]),
            }
        }
    }

    #[test]
    fn the_coordinator_is_where_the_client_came_in() {
        let found = |listener| locate(&image(), NodeId(1), listener);
        for version in 0..=6 {
            let response = ask(version, found("outside"));
            let (code, node, host, port) = match version {
                ..KEYS_FROM => (response.error_code, response.node_id, response.host, response.port),
                _ => {
                    let one = response.coordinators[1].clone();
                    (one.error_code, one.node_id, one.host, one.port)
                }
            };
            assert_eq!((code, node.0, host.as_str(), port), (0, 1, "outside.example", 19092));
        }
        assert!(found("elsewhere").is_err());
        assert!(locate(&image(), NodeId(2), "inside").is_err());
    }
}
