//! Where each response has its error codes.

use corelog_protocol::fetch::FetchResponse;
use corelog_protocol::produce::ProduceResponse;
use kafka_protocol::messages::{
    AlterConfigsResponse, AlterPartitionReassignmentsResponse, AlterReplicaLogDirsResponse,
    ApiVersionsResponse, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatResponse,
    CreatePartitionsResponse, CreateTopicsResponse, DeleteGroupsResponse, DeleteRecordsResponse,
    DeleteTopicsResponse, DescribeClusterResponse, DescribeConfigsResponse, DescribeGroupsResponse,
    DescribeLogDirsResponse, DescribeProducersResponse, DescribeTopicPartitionsResponse,
    ElectLeadersResponse, FindCoordinatorResponse, HeartbeatResponse, IncrementalAlterConfigsResponse,
    InitProducerIdResponse, JoinGroupResponse, LeaveGroupResponse, ListConfigResourcesResponse,
    ListGroupsResponse, ListOffsetsResponse, ListPartitionReassignmentsResponse, MetadataResponse,
    OffsetCommitResponse, OffsetDeleteResponse, OffsetFetchResponse, OffsetForLeaderEpochResponse,
    SyncGroupResponse,
};

/// A response that says what went wrong.
pub(crate) trait ErrorCodes {
    /// Tells every code in it, zero included.
    fn each_code(&self, tell: &mut impl FnMut(i16));
}

macro_rules! codes {
    ($($response:ty: |$it:ident| [$($codes:expr),*];)*) => {
        $(impl ErrorCodes for $response {
            fn each_code(&self, tell: &mut impl FnMut(i16)) {
                let $it = self;
                $($codes.into_iter().for_each(&mut *tell);)*
            }
        })*
    };
}

codes! {
    ProduceResponse: |it| [it.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error.code())];
    FetchResponse: |it| [
        [it.error.code()],
        it.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error.code())
    ];
    ListOffsetsResponse: |it| [it.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code)];
    MetadataResponse: |it| [
        [it.error_code],
        it.topics.iter().map(|topic| topic.error_code),
        it.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code)
    ];
    FindCoordinatorResponse: |it| [[it.error_code], it.coordinators.iter().map(|found| found.error_code)];
    ApiVersionsResponse: |it| [[it.error_code]];
    CreateTopicsResponse: |it| [it.topics.iter().map(|topic| topic.error_code)];
    DeleteTopicsResponse: |it| [it.responses.iter().map(|topic| topic.error_code)];
    DeleteRecordsResponse: |it| [it.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code)];
    InitProducerIdResponse: |it| [[it.error_code]];
    OffsetForLeaderEpochResponse: |it| [
        it.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code)
    ];
    OffsetCommitResponse: |it| [it.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code)];
    OffsetFetchResponse: |it| [
        [it.error_code],
        it.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code),
        it.groups.iter().map(|group| group.error_code),
        it.groups.iter().flat_map(|group| &group.topics).flat_map(|t| &t.partitions).map(|p| p.error_code)
    ];
    OffsetDeleteResponse: |it| [
        [it.error_code],
        it.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code)
    ];
    JoinGroupResponse: |it| [[it.error_code]];
    SyncGroupResponse: |it| [[it.error_code]];
    HeartbeatResponse: |it| [[it.error_code]];
    LeaveGroupResponse: |it| [[it.error_code], it.members.iter().map(|member| member.error_code)];
    DescribeGroupsResponse: |it| [it.groups.iter().map(|group| group.error_code)];
    ListGroupsResponse: |it| [[it.error_code]];
    DeleteGroupsResponse: |it| [it.results.iter().map(|result| result.error_code)];
    ConsumerGroupHeartbeatResponse: |it| [[it.error_code]];
    ConsumerGroupDescribeResponse: |it| [it.groups.iter().map(|group| group.error_code)];
    DescribeConfigsResponse: |it| [it.results.iter().map(|result| result.error_code)];
    AlterConfigsResponse: |it| [it.responses.iter().map(|resource| resource.error_code)];
    IncrementalAlterConfigsResponse: |it| [it.responses.iter().map(|resource| resource.error_code)];
    ListConfigResourcesResponse: |it| [[it.error_code]];
    CreatePartitionsResponse: |it| [it.results.iter().map(|topic| topic.error_code)];
    AlterReplicaLogDirsResponse: |it| [
        it.results.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code)
    ];
    DescribeLogDirsResponse: |it| [[it.error_code], it.results.iter().map(|dir| dir.error_code)];
    DescribeProducersResponse: |it| [
        it.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code)
    ];
    ElectLeadersResponse: |it| [
        [it.error_code],
        it.replica_election_results.iter().flat_map(|t| &t.partition_result).map(|p| p.error_code)
    ];
    AlterPartitionReassignmentsResponse: |it| [
        [it.error_code],
        it.responses.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code)
    ];
    ListPartitionReassignmentsResponse: |it| [[it.error_code]];
    DescribeClusterResponse: |it| [[it.error_code]];
    DescribeTopicPartitionsResponse: |it| [
        it.topics.iter().map(|topic| topic.error_code),
        it.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code)
    ];
}
