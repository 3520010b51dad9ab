//! FindCoordinator: there is none yet, and clients are told so in a way that they retry.

use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

const MESSAGE: &str = "this broker has no group or transaction coordinator yet";
/// First version that asks for several keys at once.
const KEYS_FROM: i16 = 4;

/// Answers FindCoordinator.
pub(crate) fn serve(version: i16, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let code = ErrorCode::CoordinatorNotAvailable.code();
    let message = Some(StrBytes::from_static_str(MESSAGE));
    if version < KEYS_FROM {
        return FindCoordinatorResponse::default()
            .with_error_code(code)
            .with_error_message(if version >= 1 { message } else { None })
            .with_node_id(BrokerId(-1))
            .with_port(-1);
    }
    let none = Coordinator::default().with_node_id(BrokerId(-1)).with_port(-1);
    let none = none.with_error_code(code).with_error_message(message);
    let coordinators = request.coordinator_keys.into_iter().map(|key| none.clone().with_key(key));
    FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::Encodable;

    use super::super::owned;
    use super::*;

    #[test]
    fn every_key_is_answered_in_every_version() {
        for version in 0..=6 {
            let request = FindCoordinatorRequest::default().with_key(owned("a"));
            let request = request.with_coordinator_keys(vec![owned("a"), owned("b")]);
            let response = serve(version, request);
            response.encode(&mut BytesMut::new(), version).unwrap();
            let codes: Vec<_> =
                response.coordinators.iter().map(|c| (c.key.to_string(), c.error_code)).collect();
            match version {
                ..KEYS_FROM => assert_eq!(response.error_code, 15),
                _ => assert_eq!(codes, [("a".to_owned(), 15), ("b".to_owned(), 15)]),
            }
        }
    }
}
