//! `/api/v1/groups` and `/api/v1/group`.

use std::collections::BTreeMap;
use std::sync::Arc;

use corelog_engine::engine::{Lag, NodeDetails};
use corelog_engine::group::api::{Client as Asker, GroupDetails, NamedPartitions, Reply, Request};
use corelog_engine::shard::DetailsWanted;
use corelog_protocol::error::ErrorCode;
use corelog_protocol::offsets_topic::decode_assignment;
use corelog_runtime::time;
use serde_json::{Value, json};
use uuid::Uuid;

use super::query::Query;
use super::{ConsoleError, LISTED_MAX};
use crate::metrics::LAG_OFFSETS_MAX;
use crate::service::Service;

/// Partitions, and members, of one group that are told.
const ROWS_MAX: usize = 2_000;

const WANTED: DetailsWanted = DetailsWanted { commits_max: LAG_OFFSETS_MAX, sizes: false };

/// Groups whose names contain `search`, those that are farthest behind first.
pub(super) async fn list(service: &Service, query: &Query) -> Value {
    let details = service.engine.details(WANTED).await;
    let search = query.get("search").unwrap_or_default();
    let found = details.groups.iter().filter(|it| it.group.contains(search));
    let mut groups: Vec<(i64, Value)> = found.map(|it| summary(&details, it)).collect();
    let left_out = groups.len().saturating_sub(LISTED_MAX);
    groups.sort_by_key(|(lag, _)| std::cmp::Reverse(*lag));
    let groups: Vec<Value> = groups.into_iter().take(LISTED_MAX).map(|(_, told)| told).collect();
    let commits_left_out = details.commits_left_out();
    json!({
        "time_ms": time::unix_time_ms(),
        "groups": groups,
        "left_out": left_out,
        "commits_left_out": commits_left_out,
    })
}

fn summary(details: &NodeDetails, group: &GroupDetails) -> (i64, Value) {
    let (mut lag, mut partitions, mut unknown) = (0_i64, 0_usize, 0_usize);
    for it in details.lags(group) {
        partitions += 1;
        match it.records() {
            Some(records) => lag = lag.saturating_add(records),
            None => unknown += 1,
        }
    }
    let topics: Vec<&Arc<str>> = group.commits.iter().map(|(topic, _)| topic).collect();
    let told = json!({
        "group": group.group,
        "type": group.group_type,
        "state": group.state,
        "protocol_type": group.protocol_type,
        "members": group.members,
        "topics": topics.iter().take(ROWS_MAX).collect::<Vec<_>>(),
        "partitions": partitions,
        "partitions_unknown": unknown,
        "partitions_left_out": group.commits_left_out,
        "lag": lag,
    });
    (lag, told)
}

/// A member of a group, of either protocol.
struct Member {
    id: Arc<str>,
    instance_id: Option<Arc<str>>,
    client_id: Arc<str>,
    host: Arc<str>,
    assignment: Vec<(Arc<str>, Vec<i32>)>,
}

/// The group `name` with members and partitions.
pub(super) async fn one(service: &Service, query: &Query) -> Result<Value, ConsoleError> {
    let name: Arc<str> = Arc::from(query.required("name")?);
    let details = service.engine.details(WANTED).await;
    let missing = || ConsoleError::Missing(format!("there is no group '{name}'"));
    let at = details.groups.binary_search_by(|it| it.group.cmp(&name)).map_err(|_| missing())?;
    let group = &details.groups[at];
    let (assignor, members) = members(service, group).await?;
    let mut owners: BTreeMap<(&str, i32), usize> = BTreeMap::new();
    for (number, member) in members.iter().enumerate() {
        for (topic, partitions) in &member.assignment {
            owners.extend(partitions.iter().map(|partition| ((&**topic, *partition), number)));
        }
    }
    let committed = details.lags(group).take(ROWS_MAX);
    let mut rows: BTreeMap<(Arc<str>, i32), Option<Lag>> =
        committed.map(|lag| ((Arc::clone(&lag.topic), lag.partition), Some(lag))).collect();
    for (topic, partition) in owners.keys().take(ROWS_MAX) {
        rows.entry((Arc::from(*topic), *partition)).or_default();
    }
    let partitions = rows.iter().take(ROWS_MAX).map(|((topic, partition), lag)| {
        json!({
            "topic": topic,
            "partition": partition,
            "committed": lag.as_ref().map(|lag| lag.committed),
            "end": lag.as_ref().and_then(|lag| lag.high_watermark),
            "lag": lag.as_ref().and_then(Lag::records),
            "member": owners.get(&(&**topic, *partition)),
        })
    });
    let partitions: Vec<Value> = partitions.collect();
    let (_, mut told) = summary(&details, group);
    told["time_ms"] = json!(time::unix_time_ms());
    told["assignor"] = json!(assignor);
    told["member_list"] = members.iter().take(ROWS_MAX).map(told_member).collect();
    told["partition_list"] = json!(partitions);
    Ok(told)
}

fn told_member(member: &Member) -> Value {
    json!({
        "id": member.id,
        "instance_id": member.instance_id,
        "client_id": member.client_id,
        "host": member.host,
        "partitions": member.assignment.iter().map(|(_, partitions)| partitions.len()).sum::<usize>(),
    })
}

/// The assignor and the members, as the group's coordinator describes them.
async fn members(service: &Service, group: &GroupDetails) -> Result<(Arc<str>, Vec<Member>), ConsoleError> {
    let name = Arc::clone(&group.group);
    let request = match group.group_type {
        "consumer" => Request::ConsumerDescribe { group: name },
        _ => Request::Describe { group: name, not_found_is_error: true },
    };
    let asker = Asker { id: Arc::from("console"), host: Arc::from(""), fresh_id: Uuid::nil() };
    let reply = service.engine.group(asker, request).await;
    let refused = |code: ErrorCode| ConsoleError::refused("the group's coordinator", code);
    match reply.map_err(refused)? {
        Reply::ConsumerDescribe(Ok(described)) => {
            let members = described.members.into_iter().map(|it| Member {
                id: it.member_id,
                instance_id: it.instance_id,
                client_id: it.client_id,
                host: it.client_host,
                assignment: it.assignment.into_iter().map(by_name).collect(),
            });
            Ok((described.assignor, members.collect()))
        }
        Reply::ConsumerDescribe(Err(error)) => Err(refused(error.error)),
        Reply::Describe(described) if described.error == ErrorCode::None => {
            let members = described.members.into_iter().map(|it| Member {
                id: it.member_id,
                instance_id: it.instance_id,
                client_id: it.client_id,
                host: it.client_host,
                // Other kinds of groups have assignments of their own.
                assignment: decode_assignment(&it.assignment).unwrap_or_default(),
            });
            Ok((described.protocol, members.collect()))
        }
        Reply::Describe(described) => Err(refused(described.error)),
        _ => unreachable!("a reply is of its request's kind"),
    }
}

fn by_name(partitions: NamedPartitions) -> (Arc<str>, Vec<i32>) {
    (partitions.name, partitions.partitions)
}
