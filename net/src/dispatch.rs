//! From a frame to the future of its answer: reads the header, finds the handler, writes the
//! response. Runs on the connection's shard; knows no connection and no data.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use corelog_protocol::api::{
    self, Api, HeaderError, RequestHeader, decode_request, decode_request_header,
    encode_describe_log_dirs_response, encode_response,
};
use corelog_protocol::error::ErrorCode;
use corelog_protocol::fetch::FetchRequest;
use corelog_protocol::produce::{ProduceRequest, ProduceResponse};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use kafka_protocol::messages::{ApiKey, DescribeClusterResponse, ListPartitionReassignmentsRequest};
use kafka_protocol::protocol::{Encodable, HeaderVersion, Request};
use tokio::sync::OwnedSemaphorePermit;

use crate::connection::{Client, Reply};
use crate::frame::Frame;
use crate::handlers::{
    api_versions, cluster, configs, coordinator, fetch, groups, leaders, log_dirs, metadata, offsets,
    partitions, produce, producer_ids, producers, records, topics,
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
    /// The frame's share of the memory for requests, to be kept until the answer is there; `None`
    /// when the future has it, and gives it back then or earlier.
    pub(crate) share: Option<OwnedSemaphorePermit>,
}

/// Finds the handler of a request. Produces are started here if `may_start`, so that they reach
/// their partitions in the order in which they came.
pub(crate) fn dispatch(
    service: &Rc<Service>,
    client: &Rc<Client>,
    frame: Frame,
    may_start: bool,
) -> Dispatched {
    let Frame { bytes: mut frame, pinned_bytes, permit: share } = frame;
    let header = match decode_request_header(&mut frame) {
        Ok(header) => header,
        Err(error) => return at_once(None, refuse(service, client, &error, frame), share),
    };
    let RequestHeader { api, version, correlation_id, .. } = header;
    if api != Api::Produce {
        let (service, client) = (Rc::clone(service), Rc::clone(client));
        let reply = async move {
            let answered = serve(&service, &client, &header, frame.freeze(), share).await;
            answered.unwrap_or_else(|error| malformed(&service, &client, &header, &error))
        };
        return Dispatched { api: Some(api), reply: reply.boxed_local(), is_started: false, share: None };
    }
    let request = match ProduceRequest::decode(version, frame) {
        Ok(request) => request,
        Err(error) => return at_once(Some(api), malformed(service, client, &header, &error), share),
    };
    if !api.is_served(version) {
        service.counters().refused();
        let response = ProduceResponse::refuse(&request, ErrorCode::UnsupportedVersion);
        service.counters().errors(api, &response);
        let reply = match request.acks {
            0 => Reply::Close,
            _ => Reply::Frame(response.encode(version, correlation_id).freeze()),
        };
        return at_once(Some(api), reply, share);
    }
    let reply = if may_start {
        produce::start(service, &header, request, pinned_bytes).boxed_local()
    } else {
        let service = Rc::clone(service);
        let start = async move { produce::start(&service, &header, request, pinned_bytes).await };
        start.boxed_local()
    };
    Dispatched { api: Some(api), reply, is_started: may_start, share: Some(share) }
}

/// An answer that waits for nothing but its turn. It counts as not begun, which costs nothing.
fn at_once(api: Option<Api>, reply: Reply, share: OwnedSemaphorePermit) -> Dispatched {
    let reply = std::future::ready(reply).boxed_local();
    Dispatched { api, reply, is_started: false, share: Some(share) }
}

/// Why a request gets no answer of its API.
type Failure = Box<dyn std::error::Error>;

/// Calls the handler. `share` of the memory for requests is kept until it is done.
async fn serve(
    service: &Service,
    client: &Client,
    header: &RequestHeader,
    body: Bytes,
    share: OwnedSemaphorePermit,
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
        Api::FindCoordinator => {
            let request = decode(header, body)?;
            answer(service, header, &coordinator::serve(service, client, version, request).await)
        }
        Api::ApiVersions => {
            let (request, epoch) = (decode(header, body)?, service.engine.image().version);
            answer(service, header, &api_versions::serve(client, version, &request, epoch))
        }
        Api::CreateTopics => {
            let request = decode(header, body)?;
            answer(service, header, &topics::create(service, version, request).await)
        }
        Api::DeleteTopics => {
            let request = decode(header, body)?;
            answer(service, header, &topics::delete(service, version, request).await)
        }
        Api::DeleteRecords => {
            let request = decode(header, body)?;
            answer(service, header, &records::delete(service, request).await)
        }
        Api::InitProducerId => {
            let request = decode(header, body)?;
            answer(service, header, &producer_ids::serve(service, &request).await)
        }
        Api::OffsetForLeaderEpoch => {
            let request = decode(header, body)?;
            answer(service, header, &offsets::epoch_ends(service, request).await)
        }
        Api::DescribeConfigs
        | Api::AlterConfigs
        | Api::AlterReplicaLogDirs
        | Api::DescribeLogDirs
        | Api::CreatePartitions
        | Api::ElectLeaders
        | Api::IncrementalAlterConfigs
        | Api::AlterPartitionReassignments
        | Api::ListPartitionReassignments
        | Api::DescribeProducers
        | Api::ListConfigResources => serve_admin(service, header, body).await,
        Api::DescribeCluster => {
            let response: DescribeClusterResponse =
                cluster::describe_cluster(service, client, &decode(header, body)?);
            answer(service, header, &response)
        }
        Api::DescribeTopicPartitions => {
            answer(service, header, &cluster::describe_topic_partitions(service, &decode(header, body)?))
        }
        Api::JoinGroup | Api::Heartbeat | Api::LeaveGroup | Api::SyncGroup | Api::ConsumerGroupHeartbeat => {
            serve_member(service, client, header, body, share).await
        }
        Api::OffsetCommit
        | Api::OffsetFetch
        | Api::OffsetDelete
        | Api::DescribeGroups
        | Api::ListGroups
        | Api::DeleteGroups
        | Api::ConsumerGroupDescribe => serve_groups(service, client, header, body).await,
    }
}

/// As [`serve`], of what administrators ask for.
async fn serve_admin(service: &Service, header: &RequestHeader, body: Bytes) -> Result<Reply, Failure> {
    let version = header.version;
    match header.api {
        Api::DescribeConfigs => {
            answer(service, header, &configs::describe::serve(service, version, &decode(header, body)?))
        }
        Api::AlterConfigs => {
            let request = decode(header, body)?;
            answer(service, header, &configs::alter::replace(service, request).await)
        }
        Api::IncrementalAlterConfigs => {
            let request = decode(header, body)?;
            answer(service, header, &configs::alter::change(service, request).await)
        }
        Api::ListConfigResources => {
            answer(service, header, &configs::list::serve(service, version, &decode(header, body)?))
        }
        Api::CreatePartitions => {
            let request = decode(header, body)?;
            answer(service, header, &partitions::create(service, request).await)
        }
        Api::AlterReplicaLogDirs => {
            answer(service, header, &log_dirs::alter(service, &decode(header, body)?))
        }
        Api::DescribeLogDirs => {
            let request = decode(header, body)?;
            let response = log_dirs::describe(service, request).await;
            service.counters().errors(header.api, &response);
            let frame = encode_describe_log_dirs_response(version, header.correlation_id, &response)?;
            Ok(reply(service, frame.freeze()))
        }
        Api::DescribeProducers => {
            let request = decode(header, body)?;
            answer(service, header, &producers::describe(service, request).await)
        }
        Api::ElectLeaders => {
            answer(service, header, &leaders::elect(&service.engine.image(), &decode(header, body)?))
        }
        Api::AlterPartitionReassignments => {
            answer(service, header, &leaders::reassign(&service.engine.image(), &decode(header, body)?))
        }
        Api::ListPartitionReassignments => {
            let _: ListPartitionReassignmentsRequest = decode(header, body)?;
            answer(service, header, &leaders::reassignments())
        }
        api => unreachable!("{api} is of no administrator"),
    }
}

/// As [`serve`], of a member of a group. What waits for other members gives back its `share`.
async fn serve_member(
    service: &Service,
    client: &Client,
    header: &RequestHeader,
    body: Bytes,
    share: OwnedSemaphorePermit,
) -> Result<Reply, Failure> {
    use groups::{consumer, members};

    let version = header.version;
    let asker = groups::asker(client, header.client_id.as_deref());
    match header.api {
        Api::JoinGroup => {
            let request = decode(header, body)?;
            let response = members::join(service, client, asker, version, request, share).await;
            answer(service, header, &response)
        }
        Api::SyncGroup => {
            let request = decode(header, body)?;
            let response = members::sync(service, client, asker, version, request, share).await;
            answer(service, header, &response)
        }
        Api::Heartbeat => {
            answer(service, header, &members::heartbeat(service, asker, &decode(header, body)?).await)
        }
        Api::LeaveGroup => {
            let request = decode(header, body)?;
            answer(service, header, &members::leave(service, asker, version, &request).await)
        }
        Api::ConsumerGroupHeartbeat => {
            let request = decode(header, body)?;
            answer(service, header, &consumer::heartbeat(service, asker, version, &request).await)
        }
        api => unreachable!("{api} is of no member"),
    }
}

/// As [`serve`], of what groups keep, and of groups as a whole.
async fn serve_groups(
    service: &Service,
    client: &Client,
    header: &RequestHeader,
    body: Bytes,
) -> Result<Reply, Failure> {
    use groups::{admin, consumer, offsets};

    let version = header.version;
    let asker = groups::asker(client, header.client_id.as_deref());
    match header.api {
        Api::OffsetCommit => {
            let request = decode(header, body)?;
            answer(service, header, &offsets::commit(service, asker, version, &request).await)
        }
        Api::OffsetFetch => {
            let request = decode(header, body)?;
            answer(service, header, &offsets::fetch(service, asker, version, request).await)
        }
        Api::OffsetDelete => {
            answer(service, header, &offsets::delete(service, asker, &decode(header, body)?).await)
        }
        Api::DescribeGroups => {
            let request = decode(header, body)?;
            answer(service, header, &admin::describe(service, asker, version, request).await)
        }
        Api::ListGroups => answer(service, header, &admin::list(service, &decode(header, body)?).await),
        Api::DeleteGroups => {
            answer(service, header, &admin::delete(service, asker, decode(header, body)?).await)
        }
        Api::ConsumerGroupDescribe => {
            let request = decode(header, body)?;
            answer(service, header, &consumer::describe(service, asker, version, request).await)
        }
        api => unreachable!("{api} is about no group"),
    }
}

/// Whether an answer may be as large as all metadata. Fetch has a budget of its own.
fn may_be_large(api: Api) -> bool {
    match api {
        Api::Metadata
        | Api::DescribeConfigs
        | Api::ListConfigResources
        | Api::DescribeLogDirs
        | Api::DescribeProducers
        | Api::ElectLeaders
        | Api::AlterPartitionReassignments
        | Api::DescribeTopicPartitions
        | Api::ListOffsets
        | Api::OffsetFetch
        | Api::DescribeGroups
        | Api::ListGroups
        | Api::ConsumerGroupDescribe => true,
        Api::Produce
        | Api::Fetch
        | Api::FindCoordinator
        | Api::ApiVersions
        | Api::CreateTopics
        | Api::DeleteTopics
        | Api::DeleteRecords
        | Api::InitProducerId
        | Api::OffsetForLeaderEpoch
        | Api::OffsetCommit
        | Api::OffsetDelete
        | Api::JoinGroup
        | Api::Heartbeat
        | Api::LeaveGroup
        | Api::SyncGroup
        | Api::DeleteGroups
        | Api::ConsumerGroupHeartbeat
        | Api::AlterConfigs
        | Api::AlterReplicaLogDirs
        | Api::IncrementalAlterConfigs
        | Api::CreatePartitions
        | Api::ListPartitionReassignments
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
    let frame = encode_response(header.api, header.version, header.correlation_id, response)?;
    Ok(reply(service, frame.freeze()))
}

/// A whole frame as a reply, charged when it is not small.
fn reply(service: &Service, frame: Bytes) -> Reply {
    if frame.len() < CHARGED_BYTES_MIN {
        return Reply::Frame(frame);
    }
    let charge = service.responses.charge(frame.len());
    Reply::Chunks(vec![frame], charge)
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
