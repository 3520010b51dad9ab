//! Where each response has its error codes.

use corelog_protocol::fetch::FetchResponse;
use corelog_protocol::produce::ProduceResponse;
use kafka_protocol::messages::{
    ApiVersionsResponse, CreateTopicsResponse, DeleteTopicsResponse, DescribeClusterResponse,
    DescribeConfigsResponse, DescribeTopicPartitionsResponse, FindCoordinatorResponse,
    InitProducerIdResponse, ListOffsetsResponse, MetadataResponse, OffsetForLeaderEpochResponse,
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
    InitProducerIdResponse: |it| [[it.error_code]];
    OffsetForLeaderEpochResponse: |it| [
        it.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code)
    ];
    DescribeConfigsResponse: |it| [it.results.iter().map(|result| result.error_code)];
    DescribeClusterResponse: |it| [[it.error_code]];
    DescribeTopicPartitionsResponse: |it| [
        it.topics.iter().map(|topic| topic.error_code),
        it.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code)
    ];
}
