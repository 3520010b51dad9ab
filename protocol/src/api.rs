//! The APIs that a node serves, request and response headers, and the use of the generated
//! codec for everything that carries no record batch.
//!
//! Owns the one table of versions. The generated decoders reserve memory for whatever
//! count the wire claims, so every message is first walked along its schema
//! ([`check_request`], [`check_response`]): only bytes that begin with a well-formed
//! message reach them.

mod admin_schemas;
mod frame;
mod group_schemas;
mod log_dirs;
mod refused;
mod schema;
mod schemas;

pub use frame::{
    DecodeError, EncodeError, HeaderError, RequestHeader, api_versions_response, decode_request,
    decode_request_header, decode_response, encode_request, encode_response,
    unsupported_api_versions_response,
};
pub(crate) use frame::{begin_request, begin_response, finish_frame, put_frame_length, read_response_header};
pub use log_dirs::encode_describe_log_dirs_response;
pub use refused::decode_refused;
use schema::Schema;
pub use schema::SchemaError;

/// An API that this node serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
pub enum Api {
    /// Appends record batches; framed by [`crate::produce`].
    Produce = 0,
    /// Reads record batches; framed by [`crate::fetch`].
    Fetch = 1,
    /// Offsets by timestamp.
    ListOffsets = 2,
    /// Nodes, topics and partitions.
    Metadata = 3,
    /// Keeps offsets of a group.
    OffsetCommit = 8,
    /// Offsets that groups keep.
    OffsetFetch = 9,
    /// The node that coordinates a group or transaction.
    FindCoordinator = 10,
    /// A member joins a classic group.
    JoinGroup = 11,
    /// A member of a classic group lives.
    Heartbeat = 12,
    /// Members leave a group.
    LeaveGroup = 13,
    /// What the leader of a classic group assigned.
    SyncGroup = 14,
    /// Classic groups and their members.
    DescribeGroups = 15,
    /// Every group.
    ListGroups = 16,
    /// This table.
    ApiVersions = 18,
    /// Creates topics.
    CreateTopics = 19,
    /// Deletes topics.
    DeleteTopics = 20,
    /// Forgets the oldest records of partitions.
    DeleteRecords = 21,
    /// Ids for idempotent producers.
    InitProducerId = 22,
    /// End offset of a leader epoch.
    OffsetForLeaderEpoch = 23,
    /// Settings of topics and nodes.
    DescribeConfigs = 32,
    /// Replaces settings of topics and nodes.
    AlterConfigs = 33,
    /// Moves replicas between the directories of a node.
    AlterReplicaLogDirs = 34,
    /// Directories of a node, and what is in them.
    DescribeLogDirs = 35,
    /// Adds partitions to topics.
    CreatePartitions = 37,
    /// Deletes groups.
    DeleteGroups = 42,
    /// Makes preferred replicas leaders.
    ElectLeaders = 43,
    /// Changes single settings of topics and nodes.
    IncrementalAlterConfigs = 44,
    /// Moves partitions to other nodes.
    AlterPartitionReassignments = 45,
    /// Partitions that are being moved.
    ListPartitionReassignments = 46,
    /// Deletes offsets that a group keeps.
    OffsetDelete = 47,
    /// Nodes and cluster id.
    DescribeCluster = 60,
    /// Producers that partitions remember.
    DescribeProducers = 61,
    /// A member of a consumer group joins, lives, leaves (KIP-848).
    ConsumerGroupHeartbeat = 68,
    /// Consumer groups and their members.
    ConsumerGroupDescribe = 69,
    /// What has settings.
    ListConfigResources = 74,
    /// Partitions of topics, in pages.
    DescribeTopicPartitions = 75,
}

/// One row of the table.
struct Row {
    api: Api,
    name: &'static str,
    /// Advertised versions.
    min: i16,
    max: i16,
    /// First version that is not answered with UNSUPPORTED_VERSION.
    served_from: i16,
    /// Schemas, where the generated codec is used.
    schemas: Option<(&'static Schema, &'static Schema)>,
    /// First version with compact lengths and tagged fields.
    flexible_from: i16,
}

const fn row(
    api: Api,
    name: &'static str,
    min: i16,
    max: i16,
    request: &'static Schema,
    response: &'static Schema,
) -> Row {
    Row {
        api,
        name,
        min,
        max,
        served_from: min,
        schemas: Some((request, response)),
        flexible_from: request.flexible_from,
    }
}

/// Ordered by key. Ranges: what Kafka 4.1 serves and the codec crate has; beyond that what [`log_dirs`] has.
static TABLE: &[Row] = &[
    Row {
        api: Api::Produce,
        name: "Produce",
        // librdkafka takes the whole node for too old without 0 (KAFKA-18659).
        min: 0,
        max: 12,
        served_from: 3,
        schemas: None,
        flexible_from: crate::produce::FLEXIBLE_FROM,
    },
    Row {
        api: Api::Fetch,
        name: "Fetch",
        min: 4,
        max: 17,
        served_from: 4,
        schemas: None,
        flexible_from: crate::fetch::FLEXIBLE_FROM,
    },
    row(
        Api::ListOffsets,
        "ListOffsets",
        1,
        10,
        &schemas::LIST_OFFSETS_REQUEST,
        &schemas::LIST_OFFSETS_RESPONSE,
    ),
    row(Api::Metadata, "Metadata", 0, 13, &schemas::METADATA_REQUEST, &schemas::METADATA_RESPONSE),
    row(
        Api::OffsetCommit,
        "OffsetCommit",
        2,
        9,
        &group_schemas::OFFSET_COMMIT_REQUEST,
        &group_schemas::OFFSET_COMMIT_RESPONSE,
    ),
    row(
        Api::OffsetFetch,
        "OffsetFetch",
        1,
        9,
        &group_schemas::OFFSET_FETCH_REQUEST,
        &group_schemas::OFFSET_FETCH_RESPONSE,
    ),
    row(
        Api::FindCoordinator,
        "FindCoordinator",
        0,
        6,
        &schemas::FIND_COORDINATOR_REQUEST,
        &schemas::FIND_COORDINATOR_RESPONSE,
    ),
    row(
        Api::JoinGroup,
        "JoinGroup",
        0,
        9,
        &group_schemas::JOIN_GROUP_REQUEST,
        &group_schemas::JOIN_GROUP_RESPONSE,
    ),
    row(
        Api::Heartbeat,
        "Heartbeat",
        0,
        4,
        &group_schemas::HEARTBEAT_REQUEST,
        &group_schemas::HEARTBEAT_RESPONSE,
    ),
    row(
        Api::LeaveGroup,
        "LeaveGroup",
        0,
        5,
        &group_schemas::LEAVE_GROUP_REQUEST,
        &group_schemas::LEAVE_GROUP_RESPONSE,
    ),
    row(
        Api::SyncGroup,
        "SyncGroup",
        0,
        5,
        &group_schemas::SYNC_GROUP_REQUEST,
        &group_schemas::SYNC_GROUP_RESPONSE,
    ),
    row(
        Api::DescribeGroups,
        "DescribeGroups",
        0,
        6,
        &group_schemas::DESCRIBE_GROUPS_REQUEST,
        &group_schemas::DESCRIBE_GROUPS_RESPONSE,
    ),
    row(
        Api::ListGroups,
        "ListGroups",
        0,
        5,
        &group_schemas::LIST_GROUPS_REQUEST,
        &group_schemas::LIST_GROUPS_RESPONSE,
    ),
    row(
        Api::ApiVersions,
        "ApiVersions",
        0,
        4,
        &schemas::API_VERSIONS_REQUEST,
        &schemas::API_VERSIONS_RESPONSE,
    ),
    row(
        Api::CreateTopics,
        "CreateTopics",
        2,
        7,
        &schemas::CREATE_TOPICS_REQUEST,
        &schemas::CREATE_TOPICS_RESPONSE,
    ),
    row(
        Api::DeleteTopics,
        "DeleteTopics",
        1,
        6,
        &schemas::DELETE_TOPICS_REQUEST,
        &schemas::DELETE_TOPICS_RESPONSE,
    ),
    row(
        Api::DeleteRecords,
        "DeleteRecords",
        0,
        2,
        &schemas::DELETE_RECORDS_REQUEST,
        &schemas::DELETE_RECORDS_RESPONSE,
    ),
    row(
        Api::InitProducerId,
        "InitProducerId",
        0,
        5,
        &schemas::INIT_PRODUCER_ID_REQUEST,
        &schemas::INIT_PRODUCER_ID_RESPONSE,
    ),
    row(
        Api::OffsetForLeaderEpoch,
        "OffsetForLeaderEpoch",
        2,
        4,
        &schemas::OFFSET_FOR_LEADER_EPOCH_REQUEST,
        &schemas::OFFSET_FOR_LEADER_EPOCH_RESPONSE,
    ),
    row(
        Api::DescribeConfigs,
        "DescribeConfigs",
        1,
        4,
        &schemas::DESCRIBE_CONFIGS_REQUEST,
        &schemas::DESCRIBE_CONFIGS_RESPONSE,
    ),
    row(
        Api::AlterConfigs,
        "AlterConfigs",
        0,
        2,
        &admin_schemas::ALTER_CONFIGS_REQUEST,
        &admin_schemas::ALTER_CONFIGS_RESPONSE,
    ),
    row(
        Api::AlterReplicaLogDirs,
        "AlterReplicaLogDirs",
        1,
        2,
        &admin_schemas::ALTER_REPLICA_LOG_DIRS_REQUEST,
        &admin_schemas::ALTER_REPLICA_LOG_DIRS_RESPONSE,
    ),
    row(
        Api::DescribeLogDirs,
        "DescribeLogDirs",
        1,
        log_dirs::VERSION_MAX,
        &admin_schemas::DESCRIBE_LOG_DIRS_REQUEST,
        &admin_schemas::DESCRIBE_LOG_DIRS_RESPONSE,
    ),
    row(
        Api::CreatePartitions,
        "CreatePartitions",
        0,
        3,
        &admin_schemas::CREATE_PARTITIONS_REQUEST,
        &admin_schemas::CREATE_PARTITIONS_RESPONSE,
    ),
    row(
        Api::DeleteGroups,
        "DeleteGroups",
        0,
        2,
        &group_schemas::DELETE_GROUPS_REQUEST,
        &group_schemas::DELETE_GROUPS_RESPONSE,
    ),
    row(
        Api::ElectLeaders,
        "ElectLeaders",
        0,
        2,
        &admin_schemas::ELECT_LEADERS_REQUEST,
        &admin_schemas::ELECT_LEADERS_RESPONSE,
    ),
    row(
        Api::IncrementalAlterConfigs,
        "IncrementalAlterConfigs",
        0,
        1,
        &admin_schemas::INCREMENTAL_ALTER_CONFIGS_REQUEST,
        &admin_schemas::INCREMENTAL_ALTER_CONFIGS_RESPONSE,
    ),
    row(
        Api::AlterPartitionReassignments,
        "AlterPartitionReassignments",
        0,
        1,
        &admin_schemas::ALTER_PARTITION_REASSIGNMENTS_REQUEST,
        &admin_schemas::ALTER_PARTITION_REASSIGNMENTS_RESPONSE,
    ),
    row(
        Api::ListPartitionReassignments,
        "ListPartitionReassignments",
        0,
        0,
        &admin_schemas::LIST_PARTITION_REASSIGNMENTS_REQUEST,
        &admin_schemas::LIST_PARTITION_REASSIGNMENTS_RESPONSE,
    ),
    row(
        Api::OffsetDelete,
        "OffsetDelete",
        0,
        0,
        &group_schemas::OFFSET_DELETE_REQUEST,
        &group_schemas::OFFSET_DELETE_RESPONSE,
    ),
    row(
        Api::DescribeCluster,
        "DescribeCluster",
        0,
        2,
        &schemas::DESCRIBE_CLUSTER_REQUEST,
        &schemas::DESCRIBE_CLUSTER_RESPONSE,
    ),
    row(
        Api::DescribeProducers,
        "DescribeProducers",
        0,
        0,
        &admin_schemas::DESCRIBE_PRODUCERS_REQUEST,
        &admin_schemas::DESCRIBE_PRODUCERS_RESPONSE,
    ),
    row(
        Api::ConsumerGroupHeartbeat,
        "ConsumerGroupHeartbeat",
        0,
        1,
        &group_schemas::CONSUMER_GROUP_HEARTBEAT_REQUEST,
        &group_schemas::CONSUMER_GROUP_HEARTBEAT_RESPONSE,
    ),
    row(
        Api::ConsumerGroupDescribe,
        "ConsumerGroupDescribe",
        0,
        1,
        &group_schemas::CONSUMER_GROUP_DESCRIBE_REQUEST,
        &group_schemas::CONSUMER_GROUP_DESCRIBE_RESPONSE,
    ),
    row(
        Api::ListConfigResources,
        "ListConfigResources",
        0,
        1,
        &admin_schemas::LIST_CONFIG_RESOURCES_REQUEST,
        &admin_schemas::LIST_CONFIG_RESOURCES_RESPONSE,
    ),
    row(
        Api::DescribeTopicPartitions,
        "DescribeTopicPartitions",
        0,
        0,
        &schemas::DESCRIBE_TOPIC_PARTITIONS_REQUEST,
        &schemas::DESCRIBE_TOPIC_PARTITIONS_RESPONSE,
    ),
];

impl Api {
    /// Every API of the table, ordered by key.
    pub fn all() -> impl ExactSizeIterator<Item = Api> {
        TABLE.iter().map(|row| row.api)
    }

    /// The API with this key, if it is served.
    pub fn from_key(key: i16) -> Option<Api> {
        Api::all().find(|api| api.key() == key)
    }

    fn row(self) -> &'static Row {
        TABLE.iter().find(|row| row.api == self).expect("the table has a row for every API")
    }

    /// The number on the wire.
    pub const fn key(self) -> i16 {
        self as i16
    }

    /// Kafka's own name.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The advertised versions, both inclusive.
    pub fn versions(self) -> std::ops::RangeInclusive<i16> {
        let row = self.row();
        row.min..=row.max
    }

    /// Whether a request of this advertised version gets more than UNSUPPORTED_VERSION:
    /// Produce 0 to 2 are advertised for the sake of librdkafka only.
    pub fn is_served(self, version: i16) -> bool {
        let row = self.row();
        (row.served_from..=row.max).contains(&version)
    }

    /// Whether this version has compact lengths and tagged fields.
    pub fn is_flexible(self, version: i16) -> bool {
        version >= self.row().flexible_from
    }

    /// The version of the header of such a request.
    pub fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// The version of the header of such a response. That of ApiVersions is always 0, so
    /// that a client understands the refusal of a version that it does not know yet.
    pub fn response_header_version(self, version: i16) -> i16 {
        i16::from(self != Api::ApiVersions && self.is_flexible(version))
    }
}

impl std::fmt::Display for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Checks that `body` is exactly one well-formed request of that version, without
/// allocating. Produce and Fetch have decoders of their own and pass unseen.
///
/// # Errors
/// Where the bytes differ from the schema, and for versions outside the table.
pub fn check_request(api: Api, version: i16, body: &[u8]) -> Result<(), SchemaError> {
    match api.row().schemas {
        Some((request, _)) => schema::check(request, version, body).map(drop),
        None => Ok(()),
    }
}

/// Checks that `body` is exactly one well-formed response of that version, as
/// [`check_request`].
///
/// # Errors
/// As [`check_request`].
pub fn check_response(api: Api, version: i16, body: &[u8]) -> Result<(), SchemaError> {
    match api.row().schemas {
        Some((_, response)) => schema::check(response, version, body).map(drop),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
