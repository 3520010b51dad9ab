//! DeleteRecords.

use corelog_engine::api::TrimTo;
use corelog_engine::engine::Engine;
use corelog_engine::messages::TrimPart;
use corelog_engine::meta::image::MetaImage;
use corelog_engine::types::Offset;
use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::delete_records_request::DeleteRecordsTopic;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

use super::offsets::target;
use crate::service::Service;

/// The offset that stands for the high watermark.
const HIGH_WATERMARK: i64 = -1;
/// What an answer has in place of a log start when there is none to tell.
const NO_LOW_WATERMARK: i64 = -1;

/// Answers DeleteRecords. What it forgets is gone for good when it answers. It waits for one sync and
/// for no other node, so that the client's limit for that has nothing to bound.
pub(crate) async fn delete(service: &Service, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let asked = questions(&service.engine, &service.engine.image(), &request.topics);
    let parts = asked.iter().filter_map(|asked| asked.as_ref().ok().copied()).collect();
    let mut starts = service.engine.trim(parts).await.into_iter();
    let mut asked = asked.into_iter();
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let start = match asked.next().expect("one question per partition") {
                Ok(_) => starts.next().expect("one answer per question").map_err(|error| error.code()),
                Err(code) => Err(code),
            };
            let result =
                DeleteRecordsPartitionResult::default().with_partition_index(partition.partition_index);
            match start {
                Ok(start) => result.with_low_watermark(start.0),
                Err(code) => result.with_low_watermark(NO_LOW_WATERMARK).with_error_code(code.code()),
            }
        });
        DeleteRecordsTopicResult::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    DeleteRecordsResponse::default().with_topics(topics.collect())
}

/// What the engine is asked for each partition of the request, in order, or why it is not. As Kafka
/// has it: records of an internal topic, or of one without "delete" in its policy, are not for
/// clients to delete.
fn questions(
    engine: &Engine,
    image: &MetaImage,
    topics: &[DeleteRecordsTopic],
) -> Vec<Result<TrimPart, ErrorCode>> {
    let mut questions = Vec::new();
    for topic in topics {
        let known = image.topic_named(topic.name.as_str());
        let refusal = known.and_then(|known| {
            if known.internal {
                return Some(ErrorCode::InvalidTopicException);
            }
            (!engine.topic_config(known).cleanup.delete).then_some(ErrorCode::PolicyViolation)
        });
        for partition in &topic.partitions {
            let to = match partition.offset {
                HIGH_WATERMARK => TrimTo::HighWatermark,
                offset => TrimTo::Offset(Offset(offset)),
            };
            let target = target(image, topic.name.as_str(), partition.partition_index);
            questions.push(match (target, refusal) {
                (Ok(_), Some(refusal)) => Err(refusal),
                (target, _) => target.map(|target| (target, to)),
            });
        }
    }
    questions
}
