//! From a frame to the future of its answer: reads the header, finds the handler, writes the
//! response. Runs on the connection's shard; knows no connection and no data.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use corelog_protocol::api::{
    self, Api, HeaderError, RequestHeader, decode_request, decode_request_header, encode_response,
};
use corelog_protocol::error::ErrorCode;
use corelog_protocol::fetch::FetchRequest;
use corelog_protocol::produce::{ProduceRequest, ProduceResponse};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use kafka_protocol::messages::{ApiKey, DescribeClusterResponse};
use kafka_protocol::protocol::{Encodable, HeaderVersion, Request};

use crate::connection::{Client, Reply};
use crate::handlers::{
    api_versions, cluster, configs, coordinator, fetch, metadata, offsets, produce, producer_ids, topics,
};
use crate::metrics::ErrorCodes;
use crate::refusals;
use crate::service::Service;

/// Answers of this size count in the budget for responses.
const CHARGED_BYTES_MIN: usize = 16 << 10;

/// A request that found its handler.
pub(crate) struct Dispatched {
    /// `None` when it was not a served API's.
    pub(crate) api: Option<Api>,
    /// Its answer.
    pub(crate) reply: LocalBoxFuture<'static, Reply>,
    /// Whether it is under way already, and not only when the future is polled.
    pub(crate) is_started: bool,
}

/// Finds the handler of a request. Produces are started here if `may_start`, so that they reach
/// their partitions in the order in which they came.
pub(crate) fn dispatch(
    service: &Rc<Service>,
    client: &Rc<Client>,
    mut frame: BytesMut,
    pinned_bytes: usize,
    may_start: bool,
) -> Dispatched {
    let header = match decode_request_header(&mut frame) {
        Ok(header) => header,
        Err(error) => return at_once(None, refuse(service, client, &error, frame)),
    };
    let RequestHeader { api, version, correlation_id, .. } = header;
    if api != Api::Produce {
        let (service, client) = (Rc::clone(service), Rc::clone(client));
        let reply = async move {
            let answered = serve(&service, &client, &header, frame.freeze()).await;
            answered.unwrap_or_else(|error| malformed(&service, &client, &header, &error))
        };
        return Dispatched { api: Some(api), reply: reply.boxed_local(), is_started: false };
    }
    let request = match ProduceRequest::decode(version, frame) {
        Ok(request) => request,
        Err(error) => return at_once(Some(api), malformed(service, client, &header, &error)),
    };
    if !api.is_served(version) {
        service.counters().refused();
        let response = ProduceResponse::refuse(&request, ErrorCode::UnsupportedVersion);
        service.counters().errors(api, &response);
        let reply = match request.acks {
            0 => Reply::Close,
            _ => Reply::Frame(response.encode(version, correlation_id).freeze()),
        };
        return at_once(Some(api), reply);
    }
    let reply = if may_start {
        produce::start(service, version, correlation_id, request, pinned_bytes).boxed_local()
    } else {
        let service = Rc::clone(service);
        let start =
            async move { produce::start(&service, version, correlation_id, request, pinned_bytes).await };
        start.boxed_local()
    };
    Dispatched { api: Some(api), reply, is_started: may_start }
}

/// An answer that waits for nothing but its turn. It counts as not begun, which costs nothing.
fn at_once(api: Option<Api>, reply: Reply) -> Dispatched {
    Dispatched { api, reply: std::future::ready(reply).boxed_local(), is_started: false }
}

/// Why a request gets no answer of its API.
type Failure = Box<dyn std::error::Error>;

/// Calls the handler.
async fn serve(
    service: &Service,
    client: &Client,
    header: &RequestHeader,
    body: Bytes,
) -> Result<Reply, Failure> {
    let version = header.version;
    if may_be_large(header.api) {
        // Waits while too much is on its way out; what this brings counts once it is known.
        drop(service.responses.reserve(0).await);
    }
    match header.api {
        Api::Produce => unreachable!("a produce is started before its turn"),
        Api::Fetch => {
            let request = FetchRequest::decode(version, &body)?;
            Ok(fetch::serve(service, client, version, header.correlation_id, request).await)
        }
        Api::ListOffsets => {
            let request = decode(header, body)?;
            answer(service, header, &offsets::list(service, version, request).await)
        }
        Api::Metadata => {
            let request = decode(header, body)?;
            answer(service, header, &metadata::serve(service, client, version, request).await)
        }
        Api::FindCoordinator => answer(service, header, &coordinator::serve(version, decode(header, body)?)),
        Api::ApiVersions => {
            answer(service, header, &api_versions::serve(client, version, &decode(header, body)?))
        }
        Api::CreateTopics => {
            let request = decode(header, body)?;
            answer(service, header, &topics::create(service, version, request).await)
        }
        Api::DeleteTopics => {
            let request = decode(header, body)?;
            answer(service, header, &topics::delete(service, version, request).await)
        }
        Api::InitProducerId => {
            let request = decode(header, body)?;
            answer(service, header, &producer_ids::serve(service, &request).await)
        }
        Api::OffsetForLeaderEpoch => {
            let request = decode(header, body)?;
            answer(service, header, &offsets::epoch_ends(service, request).await)
        }
        Api::DescribeConfigs => {
            answer(service, header, &configs::serve(service, version, &decode(header, body)?))
        }
        Api::DescribeCluster => {
            let response: DescribeClusterResponse =
                cluster::describe_cluster(service, client, &decode(header, body)?);
            answer(service, header, &response)
        }
        Api::DescribeTopicPartitions => {
            answer(service, header, &cluster::describe_topic_partitions(service, &decode(header, body)?))
        }
    }
}

/// Whether an answer may be as large as all metadata. Fetch has a budget of its own.
fn may_be_large(api: Api) -> bool {
    match api {
        Api::Metadata | Api::DescribeConfigs | Api::DescribeTopicPartitions | Api::ListOffsets => true,
        Api::Produce
        | Api::Fetch
        | Api::FindCoordinator
        | Api::ApiVersions
        | Api::CreateTopics
        | Api::DeleteTopics
        | Api::InitProducerId
        | Api::OffsetForLeaderEpoch
        | Api::DescribeCluster => false,
    }
}

fn decode<T: Request>(header: &RequestHeader, body: Bytes) -> Result<T, Failure> {
    Ok(decode_request(header.version, body)?)
}

fn answer<T: Encodable + HeaderVersion + ErrorCodes>(
    service: &Service,
    header: &RequestHeader,
    response: &T,
) -> Result<Reply, Failure> {
    service.counters().errors(header.api, response);
    let frame = encode_response(header.api, header.version, header.correlation_id, response)?.freeze();
    if frame.len() < CHARGED_BYTES_MIN {
        return Ok(Reply::Frame(frame));
    }
    let charge = service.responses.charge(frame.len());
    Ok(Reply::Chunks(vec![frame], charge))
}

/// Bytes that are not a request of their version: nobody knows what would be an answer to them.
fn malformed(
    service: &Service,
    client: &Client,
    header: &RequestHeader,
    error: &dyn std::fmt::Display,
) -> Reply {
    service.counters().malformed();
    if let Some(unsaid) = service.may_complain(client) {
        let RequestHeader { api, version, .. } = header;
        let peer = client.peer;
        tracing::warn!(%peer, %api, version, %error, unsaid, "malformed request, connection closed");
    }
    Reply::Close
}

/// The answer to what the table does not have.
fn refuse(service: &Service, client: &Client, error: &HeaderError, frame: BytesMut) -> Reply {
    let (key, version, correlation_id) = match *error {
        HeaderError::UnsupportedVersion { api: Api::ApiVersions, correlation_id, .. } => {
            return Reply::Frame(api::unsupported_api_versions_response(correlation_id).freeze());
        }
        HeaderError::UnsupportedVersion { api, version, correlation_id } => {
            (api.key(), version, correlation_id)
        }
        HeaderError::UnknownApi { api_key, api_version, correlation_id } => {
            (api_key, api_version, correlation_id)
        }
        HeaderError::Malformed(_) => {
            service.counters().malformed();
            if let Some(unsaid) = service.may_complain(client) {
                tracing::warn!(peer = %client.peer, %error, unsaid, "connection closed");
            }
            return Reply::Close;
        }
    };
    service.counters().refused();
    let Ok(key) = ApiKey::try_from(key) else {
        if let Some(unsaid) = service.may_complain(client) {
            tracing::warn!(peer = %client.peer, %error, unsaid, "no Kafka knows this API, connection closed");
        }
        return Reply::Close;
    };
    if let Some(unsaid) = service.may_complain(client) {
        tracing::info!(peer = %client.peer, api = ?key, version, unsaid, "request refused: this is not served");
    }
    match refusals::response(key, version, correlation_id, frame.freeze()) {
        Ok(frame) => Reply::Frame(frame),
        Err(error) => {
            tracing::error!(api = ?key, version, %error, "a refusal could not be written, connection closed");
            Reply::Close
        }
    }
}
