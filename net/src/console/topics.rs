//! `/api/v1/topics` and `/api/v1/topic`.

use corelog_engine::engine::NodeDetails;
use corelog_engine::meta::image::TopicMeta;
use corelog_engine::shard::{DetailsWanted, PartitionDetails};
use corelog_runtime::time;
use serde_json::{Value, json};

use super::query::Query;
use super::{ConsoleError, LISTED_MAX};
use crate::metrics::mode_name;
use crate::service::Service;

/// Partitions of one topic that are told one by one.
const PARTITIONS_MAX: usize = 2_000;

const WANTED: DetailsWanted = DetailsWanted { commits_max: 0, sizes: true };

/// Topics whose names contain `search`, by name.
pub(super) async fn list(service: &Service, query: &Query) -> Value {
    let details = service.engine.details(WANTED).await;
    let image = details.image();
    let search = query.get("search").unwrap_or_default();
    let with_internal = query.get("internal") == Some("true");
    let (mut topics, mut left_out) = (Vec::new(), 0);
    for (name, id) in &image.names {
        let Some(topic) = image.topics.get(id) else { continue };
        if !name.contains(search) || (topic.internal && !with_internal) {
            continue;
        }
        if topics.len() == LISTED_MAX {
            left_out += 1;
            continue;
        }
        topics.push(summary(service, &details, topic));
    }
    json!({ "time_ms": time::unix_time_ms(), "topics": topics, "left_out": left_out })
}

fn summary(service: &Service, details: &NodeDetails, topic: &TopicMeta) -> Value {
    let config = service.engine.topic_config(topic);
    let sum = |value: fn(&PartitionDetails) -> u64| details.partitions_of(topic).map(value).sum::<u64>();
    let records = |it: &PartitionDetails| it.high_watermark.0.saturating_sub(it.log_start.0).unsigned_abs();
    json!({
        "topic": topic.name,
        "internal": topic.internal,
        "partitions": topic.partitions.len(),
        "replicas": topic.partitions.first().map_or(0, |it| it.replicas.len()),
        "durability": mode_name(config.durability),
        "offline": details.partitions_of(topic).filter(|it| it.is_offline).count(),
        "records": sum(records),
        "ends": sum(|it| it.high_watermark.0.unsigned_abs()),
        "bytes": sum(|it| it.bytes),
        "appended_bytes": sum(|it| it.appended_bytes),
    })
}

/// The topic `name`, partition by partition.
pub(super) async fn one(service: &Service, query: &Query) -> Result<Value, ConsoleError> {
    let name = query.required("name")?;
    let details = service.engine.details(WANTED).await;
    let topic = details.image().topic_named(name).ok_or_else(|| ConsoleError::no_topic(name))?;
    let partitions = details.partitions_of(topic).take(PARTITIONS_MAX).filter_map(|it| {
        let meta = topic.partition(it.target.partition)?;
        Some(json!({
            "partition": it.target.partition.0,
            "shard": it.shard,
            "leader": meta.leader.map(|leader| leader.0),
            "leader_epoch": meta.leader_epoch.0,
            "replicas": meta.replicas.iter().map(|node| node.0).collect::<Vec<_>>(),
            "isr": meta.isr.iter().map(|node| node.0).collect::<Vec<_>>(),
            "log_start": it.log_start.0,
            "high_watermark": it.high_watermark.0,
            "bytes": it.bytes,
            "appended_bytes": it.appended_bytes,
            "offline": it.is_offline,
        }))
    });
    let partitions: Vec<Value> = partitions.collect();
    let left_out = topic.partitions.len() - partitions.len();
    let mut told = summary(service, &details, topic);
    told["time_ms"] = json!(time::unix_time_ms());
    told["id"] = json!(topic.id.to_string());
    told["configs"] = json!(topic.configs);
    told["partition_list"] = json!(partitions);
    told["left_out"] = json!(left_out);
    Ok(told)
}
