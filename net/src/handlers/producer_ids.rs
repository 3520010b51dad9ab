//! InitProducerId, for idempotent producers; transactions have no coordinator yet.

use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use crate::service::Service;

/// Not a producer id, not an epoch.
const NONE: i64 = -1;

/// Answers InitProducerId. An idempotent producer that already has an id (KIP-360) gets a new
/// one, as from Kafka: only transactional producers keep theirs.
pub(crate) async fn serve(service: &Service, request: &InitProducerIdRequest) -> InitProducerIdResponse {
    if let Some(code) = refused(request) {
        return failed(code);
    }
    match service.engine.new_producer_id().await {
        Ok(id) => InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0),
        Err(error) => {
            tracing::warn!(%error, "no producer id");
            failed(ErrorCode::CoordinatorNotAvailable)
        }
    }
}

fn refused(request: &InitProducerIdRequest) -> Option<ErrorCode> {
    if let Some(id) = &request.transactional_id {
        return Some(match id.is_empty() {
            true => ErrorCode::InvalidRequest,
            false => ErrorCode::CoordinatorNotAvailable,
        });
    }
    let half_known = (request.producer_id.0 == NONE) != (i64::from(request.producer_epoch) == NONE);
    half_known.then_some(ErrorCode::InvalidRequest)
}

fn failed(code: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse::default()
        .with_error_code(code.code())
        .with_producer_id(ProducerId(NONE))
        .with_producer_epoch(-1)
}

#[cfg(test)]
mod tests {
    use super::super::owned;
    use super::*;

    #[test]
    fn transactional_producers_are_told_that_there_is_no_coordinator() {
        let request = |id: Option<&str>| {
            InitProducerIdRequest::default().with_transactional_id(id.map(|id| owned(id).into()))
        };
        assert_eq!(refused(&request(Some("t"))), Some(ErrorCode::CoordinatorNotAvailable));
        assert_eq!(refused(&request(Some(""))), Some(ErrorCode::InvalidRequest));
        assert_eq!(refused(&request(None)), None);
    }

    #[test]
    fn an_id_comes_with_its_epoch() {
        let request = |id, epoch| {
            let request = InitProducerIdRequest::default().with_transactional_id(None);
            request.with_producer_id(ProducerId(id)).with_producer_epoch(epoch)
        };
        assert_eq!(refused(&request(5, 3)), None);
        assert_eq!(refused(&request(5, -1)), Some(ErrorCode::InvalidRequest));
        assert_eq!(refused(&request(-1, 3)), Some(ErrorCode::InvalidRequest));
    }
}
