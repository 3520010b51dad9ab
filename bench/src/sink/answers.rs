//! Everything but records: what clients ask before they produce and fetch. Functions of the request
//! and of the topics; none of them waits.

use std::net::SocketAddr;
use std::sync::Arc;

use corelog_protocol::api::{Api, api_versions_response};
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiVersionsResponse, BrokerId, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse, DescribeClusterResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, InitProducerIdRequest, InitProducerIdResponse,
    ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse, ProducerId,
};
use kafka_protocol::protocol::StrBytes;

use super::log::LEADER_EPOCH;
use super::topics::{NotCreated, Topic};
use super::{Shared, add};

/// The sink's node id.
const NODE: BrokerId = BrokerId(1);
const CLUSTER_ID: &str = "corelog-bench-sink";
const NO_COORDINATOR: &str = "this is a sink for load generators: it has no groups and no transactions";

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn host_and_port(address: SocketAddr) -> (StrBytes, i32) {
    (StrBytes::from_string(address.ip().to_string()), i32::from(address.port()))
}

pub(super) fn api_versions() -> ApiVersionsResponse {
    let mut response = api_versions_response();
    response.api_keys.retain(|api| Api::from_key(api.api_key).is_some_and(is_served));
    response
}

fn is_served(api: Api) -> bool {
    match api {
        Api::Produce
        | Api::Fetch
        | Api::ListOffsets
        | Api::Metadata
        | Api::FindCoordinator
        | Api::ApiVersions
        | Api::CreateTopics
        | Api::DeleteTopics
        | Api::InitProducerId
        | Api::DescribeConfigs
        | Api::DescribeCluster => true,
        Api::OffsetForLeaderEpoch
        | Api::DeleteRecords
        | Api::DescribeTopicPartitions
        | Api::AlterConfigs
        | Api::IncrementalAlterConfigs
        | Api::ListConfigResources
        | Api::CreatePartitions
        | Api::AlterReplicaLogDirs
        | Api::DescribeLogDirs
        | Api::DescribeProducers
        | Api::ElectLeaders
        | Api::AlterPartitionReassignments
        | Api::ListPartitionReassignments
        | Api::OffsetCommit
        | Api::OffsetFetch
        | Api::OffsetDelete
        | Api::JoinGroup
        | Api::Heartbeat
        | Api::LeaveGroup
        | Api::SyncGroup
        | Api::DescribeGroups
        | Api::ListGroups
        | Api::DeleteGroups
        | Api::ConsumerGroupHeartbeat
        | Api::ConsumerGroupDescribe => false,
    }
}

/// Every topic that is asked for by name exists.
pub(super) fn metadata(
    shared: &Shared,
    address: SocketAddr,
    version: i16,
    request: &MetadataRequest,
) -> MetadataResponse {
    let (host, port) = host_and_port(address);
    let broker = MetadataResponseBroker::default().with_node_id(NODE).with_host(host).with_port(port);
    let topics = match &request.topics {
        Some(topics) if version > 0 || !topics.is_empty() => {
            topics.iter().map(|asked| metadata_of(shared, asked)).collect()
        }
        _ => shared.topics.all().iter().map(|topic| described(topic)).collect(),
    };
    MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_cluster_id(Some(text(CLUSTER_ID)))
        .with_controller_id(NODE)
        .with_topics(topics)
}

fn metadata_of(shared: &Shared, asked: &MetadataRequestTopic) -> MetadataResponseTopic {
    let failed = |code: ErrorCode| {
        MetadataResponseTopic::default()
            .with_error_code(code.code())
            .with_name(asked.name.clone())
            .with_topic_id(asked.topic_id)
    };
    match &asked.name {
        Some(name) if name.is_empty() => failed(ErrorCode::InvalidTopicException),
        Some(name) => match shared.topics.named(name.as_str()) {
            Some(topic) => described(&topic),
            None => failed(ErrorCode::PolicyViolation),
        },
        None => match shared.topics.with_id(asked.topic_id) {
            Some(topic) => described(&topic),
            None => failed(ErrorCode::UnknownTopicId),
        },
    }
}

fn described(topic: &Topic) -> MetadataResponseTopic {
    let partitions = (0..).zip(&topic.partitions).map(|(index, _)| {
        MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_id(NODE)
            .with_leader_epoch(LEADER_EPOCH)
            .with_replica_nodes(vec![NODE])
            .with_isr_nodes(vec![NODE])
    });
    MetadataResponseTopic::default()
        .with_name(Some(text(&topic.name).into()))
        .with_topic_id(topic.id)
        .with_partitions(partitions.collect())
}

/// First and last offsets; there is no index by time.
pub(super) fn list_offsets(
    shared: &Shared,
    version: i16,
    request: &ListOffsetsRequest,
) -> ListOffsetsResponse {
    const LATEST: i64 = -1;
    const EARLIEST: i64 = -2;
    const EARLIEST_LOCAL: i64 = -4;
    let topics = request.topics.iter().map(|asked| {
        let topic = shared.topics.find(asked.name.as_str());
        let partitions = asked.partitions.iter().map(|asked| {
            let response =
                ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            let bounds =
                topic.as_ref().and_then(|topic| Some(topic.partition(asked.partition_index)?.bounds()));
            let found = match (bounds, asked.timestamp) {
                (None, _) => Err(ErrorCode::UnknownTopicOrPartition),
                (Some((_, next)), LATEST) => Ok(next),
                (Some((start, _)), EARLIEST | EARLIEST_LOCAL) => Ok(start),
                (Some(_), _) => Err(ErrorCode::UnsupportedForMessageFormat),
            };
            match found {
                Ok(offset) if version >= 4 => response.with_offset(offset).with_leader_epoch(LEADER_EPOCH),
                Ok(offset) => response.with_offset(offset),
                Err(code) => response.with_error_code(code.code()),
            }
        });
        ListOffsetsTopicResponse::default()
            .with_name(asked.name.clone())
            .with_partitions(partitions.collect())
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}

pub(super) fn init_producer_id(shared: &Shared, request: &InitProducerIdRequest) -> InitProducerIdResponse {
    if request.transactional_id.is_some() {
        return InitProducerIdResponse::default()
            .with_error_code(ErrorCode::CoordinatorNotAvailable.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
    }
    let id = i64::try_from(add(&shared.producer_ids, 1)).unwrap_or(i64::MAX);
    InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0)
}

pub(super) fn create_topics(
    shared: &Shared,
    version: i16,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let results = request.topics.into_iter().map(|topic| {
        let outcome = match create(shared, &topic, request.validate_only) {
            Ok(created) => Ok(created),
            Err(NotCreated::Exists) => Err(ErrorCode::TopicAlreadyExists),
            Err(NotCreated::TooMany) => Err(ErrorCode::InvalidPartitions),
        };
        let result = CreatableTopicResult::default().with_name(topic.name);
        match outcome {
            Err(code) => result.with_error_code(code.code()),
            Ok(topic) if version >= 5 => result
                .with_topic_id(topic.id)
                .with_num_partitions(i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX))
                .with_replication_factor(1)
                .with_configs(Some(Vec::new())),
            Ok(_) => result,
        }
    });
    CreateTopicsResponse::default().with_topics(results.collect())
}

fn create(shared: &Shared, topic: &CreatableTopic, validate_only: bool) -> Result<Arc<Topic>, NotCreated> {
    let partitions = match (topic.assignments.len(), topic.num_partitions) {
        (0, -1) => None,
        (0, partitions) => Some(partitions),
        (assigned, _) => i32::try_from(assigned).ok(),
    };
    if validate_only {
        // Nothing is created that was not there: a topic that is asked for exists anyway.
        return shared.topics.named(topic.name.as_str()).ok_or(NotCreated::TooMany);
    }
    shared.topics.create(topic.name.as_str(), partitions)
}

/// Deleting what does not exist succeeds, as everything exists here.
pub(super) fn delete_topics(
    shared: &Shared,
    version: i16,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let by_name = |name| DeleteTopicState::default().with_name(Some(name));
    let states = match version {
        6.. => request.topics,
        _ => request.topic_names.into_iter().map(by_name).collect(),
    };
    let results = states.into_iter().map(|state| {
        let topic = match &state.name {
            Some(name) => shared.topics.find(name.as_str()),
            None => shared.topics.with_id(state.topic_id),
        };
        let result = DeletableTopicResult::default();
        match (topic, &state.name) {
            (Some(topic), _) => {
                shared.topics.delete(&topic);
                let name = Some(text(&topic.name).into());
                result.with_name(name).with_topic_id(topic.id)
            }
            (None, Some(_)) => result.with_name(state.name).with_topic_id(state.topic_id),
            (None, None) => {
                let code = ErrorCode::UnknownTopicId.code();
                result.with_name(None).with_topic_id(state.topic_id).with_error_code(code)
            }
        }
    });
    DeleteTopicsResponse::default().with_responses(results.collect())
}

pub(super) fn find_coordinator(version: i16, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let code = ErrorCode::CoordinatorNotAvailable.code();
    let message = Some(StrBytes::from_static_str(NO_COORDINATOR));
    if version < 4 {
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

/// Nothing here has configs.
pub(super) fn describe_configs(request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let results = request.resources.into_iter().map(|resource| {
        DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name)
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

pub(super) fn describe_cluster(address: SocketAddr) -> DescribeClusterResponse {
    let (host, port) = host_and_port(address);
    let broker = DescribeClusterBroker::default().with_broker_id(NODE).with_host(host).with_port(port);
    DescribeClusterResponse::default()
        .with_cluster_id(text(CLUSTER_ID))
        .with_controller_id(NODE)
        .with_brokers(vec![broker])
}
