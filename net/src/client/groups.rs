//! Consumer groups: who is in them, what they committed, and changes of both.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use corelog_protocol::error::ErrorCode;
use corelog_protocol::offsets_topic::decode_assignment;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest,
    GroupId, ListGroupsRequest, OffsetCommitRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::admin::{Admin, TopicPartitionName};
use super::cluster::{Client, Lane, topic_name};
use super::connection::Connection;
use super::error::ClientError;

/// First version of FindCoordinator that asks for several keys at once.
const COORDINATOR_KEYS_FROM: i16 = 4;
/// First version of OffsetFetch that asks for several groups at once.
pub(super) const FETCH_GROUPS_FROM: i16 = 8;
/// Later versions of OffsetCommit and OffsetFetch name topics by ids.
pub(super) const OFFSETS_BY_NAME_TO: i16 = 9;
/// How a group of the new protocol (KIP-848) calls its type.
const CONSUMER_TYPE: &str = "consumer";

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedGroup {
    /// Its name.
    pub name: String,
    /// For example `consumer`; empty for a group that only has offsets.
    pub protocol_type: String,
    /// Its state, where the broker says (Kafka 2.6 on).
    pub state: Option<String>,
    /// `classic` or `consumer`, where the broker says (Kafka 3.8 on).
    pub group_type: Option<String>,
}

/// A group and its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its name.
    pub name: String,
    /// Its state, as Kafka writes it.
    pub state: String,
    /// `classic` or `consumer`.
    pub group_type: &'static str,
    /// The assignor; empty while there is none.
    pub assignor: String,
    /// The node that coordinates it.
    pub coordinator: i32,
    /// The members.
    pub members: Vec<GroupMember>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Its id.
    pub id: String,
    /// Of a static member.
    pub instance_id: Option<String>,
    /// What the client calls itself.
    pub client_id: String,
    /// Where it connected from.
    pub host: String,
    /// Its partitions, by topic; `None` when its assignment is not a consumer's.
    pub assignment: Option<Vec<(String, Vec<i32>)>>,
}

/// What a group committed for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The topic.
    pub topic: Rc<str>,
    /// The partition.
    pub partition: i32,
    /// The next record to consume.
    pub offset: i64,
    /// What the consumer kept with it.
    pub metadata: String,
}

fn group_id(name: &str) -> GroupId {
    GroupId(StrBytes::from_string(name.to_owned()))
}

fn looking_up(group: &str) -> String {
    format!("looking up the coordinator of group '{group}'")
}

/// Asks any broker which node coordinates a group, once.
pub(super) async fn find_coordinator(client: &Client, group: &str) -> Result<i32, ClientError> {
    let connection = client.any().await?;
    let version = connection.version::<FindCoordinatorRequest>(i16::MAX)?;
    let key = StrBytes::from_string(group.to_owned());
    let request = if version >= COORDINATOR_KEYS_FROM {
        FindCoordinatorRequest::default().with_coordinator_keys(vec![key])
    } else {
        FindCoordinatorRequest::default().with_key(key)
    };
    let response = connection.call_up_to(&request, version).await?;
    let (code, message, node) = match response.coordinators.into_iter().next() {
        Some(found) => (found.error_code, found.error_message, found.node_id),
        None => (response.error_code, response.error_message, response.node_id),
    };
    ClientError::check(code, message.as_deref(), || looking_up(group))?;
    Ok(node.0)
}

/// A commit as nobody's member.
pub(super) fn offset_commit(group: &str, offsets: &[(TopicPartitionName, i64)]) -> OffsetCommitRequest {
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for ((topic, partition), offset) in offsets {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(*partition)
            .with_committed_offset(*offset)
            .with_committed_leader_epoch(-1)
            .with_committed_metadata(Some(StrBytes::from_static_str("")));
        topics.entry(topic).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions)
    });
    OffsetCommitRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id_or_member_epoch(-1)
        .with_retention_time_ms(-1)
        .with_topics(topics.collect())
}

impl Admin {
    /// The node that coordinates a group, and a connection to it.
    async fn coordinator(&self, group: &str) -> Result<(i32, Connection), ClientError> {
        let mut retry = self.client().retry();
        let node = loop {
            match find_coordinator(self.client(), group).await {
                Ok(node) => break node,
                Err(error) => retry.after(&looking_up(group), error).await?,
            }
        };
        Ok((node, self.client().node(node, Lane::Control).await?))
    }

    /// Asks a group's coordinator, and again as long as that may help.
    async fn ask_coordinator<T>(
        &self,
        group: &str,
        what: &str,
        ask: impl AsyncFn(i32, Connection) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut retry = self.client().retry();
        loop {
            let asked = match self.coordinator(group).await {
                Ok((node, connection)) => ask(node, connection).await,
                Err(error) => Err(error),
            };
            match asked {
                Ok(answer) => return Ok(answer),
                Err(error) => retry.after(what, error).await?,
            }
        }
    }

    /// Every group of the cluster, by name.
    ///
    /// # Errors
    /// When a broker does not answer.
    pub async fn list_groups(&self) -> Result<Vec<ListedGroup>, ClientError> {
        self.client().refresh_all().await?;
        let mut groups = BTreeMap::new();
        for node in self.client().metadata().brokers.into_keys() {
            let mut retry = self.client().retry();
            let response = loop {
                let connection = self.client().node(node, Lane::Control).await?;
                let answer = connection.call(&ListGroupsRequest::default()).await;
                let answer = answer.and_then(|response| {
                    ClientError::check(response.error_code, None, || "listing groups".to_owned())?;
                    Ok(response)
                });
                match answer {
                    Ok(response) => break response,
                    Err(error) => retry.after("listing groups", error).await?,
                }
            };
            let told = |text: StrBytes| Some(text.to_string()).filter(|text| !text.is_empty());
            for group in response.groups {
                let listed = ListedGroup {
                    name: group.group_id.0.to_string(),
                    protocol_type: group.protocol_type.to_string(),
                    state: told(group.group_state),
                    group_type: told(group.group_type),
                };
                groups.insert(listed.name.clone(), listed);
            }
        }
        Ok(groups.into_values().collect())
    }

    /// A group and its members.
    ///
    /// # Errors
    /// [`ErrorCode::GroupIdNotFound`] when there is none.
    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription, ClientError> {
        let what = format!("describing group '{group}'");
        self.ask_coordinator(group, &what, async |node, connection| {
            match describe_consumer_group(&connection, group, node, &what).await {
                // Of the other kind, or a broker that does not know this kind.
                Err(ClientError::Unsupported { .. }) => {}
                Err(error) if error.code() == Some(ErrorCode::GroupIdNotFound) => {}
                described => return described,
            }
            describe_classic_group(&connection, group, node, &what).await
        })
        .await
    }

    /// Everything that a group committed, by topic and partition.
    ///
    /// # Errors
    /// When the coordinator refuses. A group that is not there has no offsets.
    pub async fn committed_offsets(&self, group: &str) -> Result<Vec<CommittedOffset>, ClientError> {
        let what = format!("reading the offsets of group '{group}'");
        self.ask_coordinator(group, &what, async |_, connection| {
            let version = connection.version::<OffsetFetchRequest>(OFFSETS_BY_NAME_TO)?;
            let request = if version >= FETCH_GROUPS_FROM {
                let asked =
                    OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_topics(None);
                OffsetFetchRequest::default().with_groups(vec![asked])
            } else {
                OffsetFetchRequest::default().with_group_id(group_id(group)).with_topics(None)
            };
            let response = connection.call_up_to(&request, version).await?;
            let mut offsets = Vec::new();
            let mut keep = |topic: &str, partition, offset, metadata: Option<StrBytes>| {
                if offset >= 0 {
                    let metadata = metadata.map(|text| text.to_string()).unwrap_or_default();
                    offsets.push(CommittedOffset { topic: Rc::from(topic), partition, offset, metadata });
                }
            };
            ClientError::check(response.error_code, None, || what.clone())?;
            for topic in response.topics {
                for it in topic.partitions {
                    ClientError::check(it.error_code, None, || what.clone())?;
                    keep(topic.name.0.as_str(), it.partition_index, it.committed_offset, it.metadata);
                }
            }
            for group in response.groups {
                ClientError::check(group.error_code, None, || what.clone())?;
                for topic in group.topics {
                    for it in topic.partitions {
                        ClientError::check(it.error_code, None, || what.clone())?;
                        keep(topic.name.0.as_str(), it.partition_index, it.committed_offset, it.metadata);
                    }
                }
            }
            offsets.sort_by(|one, other| (&one.topic, one.partition).cmp(&(&other.topic, other.partition)));
            Ok(offsets)
        })
        .await
    }

    /// Sets offsets of a group that has no members.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownMemberId`] while it has members; the first partition that is refused.
    pub async fn commit_offsets(
        &self,
        group: &str,
        offsets: &[(TopicPartitionName, i64)],
    ) -> Result<(), ClientError> {
        let what = format!("setting offsets of group '{group}'");
        let request = offset_commit(group, offsets);
        self.ask_coordinator(group, &what, async |_, connection| {
            let response = connection.call_up_to(&request, OFFSETS_BY_NAME_TO).await?;
            for topic in response.topics {
                for it in topic.partitions {
                    let place = || format!("{what}: {}-{}", topic.name.0.as_str(), it.partition_index);
                    ClientError::check(it.error_code, None, place)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Deletes a group without members, with its offsets.
    ///
    /// # Errors
    /// [`ErrorCode::NonEmptyGroup`] while it has members, [`ErrorCode::GroupIdNotFound`].
    pub async fn delete_group(&self, group: &str) -> Result<(), ClientError> {
        let what = format!("deleting group '{group}'");
        self.ask_coordinator(group, &what, async |_, connection| {
            let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id(group)]);
            let response = connection.call(&request).await?;
            let code = response.results.first().map_or(0, |result| result.error_code);
            ClientError::check(code, None, || what.clone())
        })
        .await
    }
}

async fn describe_consumer_group(
    connection: &Connection,
    group: &str,
    coordinator: i32,
    what: &str,
) -> Result<GroupDescription, ClientError> {
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group_id(group)]);
    let response = connection.call(&request).await?;
    let missing = || connection.protocol_error("ConsumerGroupDescribe", "it names no group".to_owned());
    let described = response.groups.into_iter().next().ok_or_else(missing)?;
    ClientError::check(described.error_code, described.error_message.as_deref(), || what.to_owned())?;
    let members = described.members.into_iter().map(|member| GroupMember {
        id: member.member_id.to_string(),
        instance_id: member.instance_id.map(|id| id.to_string()),
        client_id: member.client_id.to_string(),
        host: member.client_host.to_string(),
        assignment: Some(
            member
                .assignment
                .topic_partitions
                .into_iter()
                .map(|topic| (topic.topic_name.0.to_string(), topic.partitions))
                .collect(),
        ),
    });
    Ok(GroupDescription {
        name: group.to_owned(),
        state: described.group_state.to_string(),
        group_type: CONSUMER_TYPE,
        assignor: described.assignor_name.to_string(),
        coordinator,
        members: members.collect(),
    })
}

async fn describe_classic_group(
    connection: &Connection,
    group: &str,
    coordinator: i32,
    what: &str,
) -> Result<GroupDescription, ClientError> {
    let request = DescribeGroupsRequest::default().with_groups(vec![group_id(group)]);
    let response = connection.call(&request).await?;
    let missing = || connection.protocol_error("DescribeGroups", "it names no group".to_owned());
    let described = response.groups.into_iter().next().ok_or_else(missing)?;
    ClientError::check(described.error_code, described.error_message.as_deref(), || what.to_owned())?;
    // Before version 6 a group that is not there is one that is dead.
    if described.group_state.as_str() == "Dead" {
        return Err(ClientError::Refused {
            what: what.to_owned(),
            code: ErrorCode::GroupIdNotFound,
            message: None,
        });
    }
    let is_consumers = described.protocol_type.as_str() == "consumer";
    let members = described.members.into_iter().map(|member| GroupMember {
        id: member.member_id.to_string(),
        instance_id: member.group_instance_id.map(|id| id.to_string()),
        client_id: member.client_id.to_string(),
        host: member.client_host.to_string(),
        assignment: if is_consumers { assignment(&member.member_assignment) } else { None },
    });
    Ok(GroupDescription {
        name: group.to_owned(),
        state: described.group_state.to_string(),
        group_type: "classic",
        assignor: described.protocol_data.to_string(),
        coordinator,
        members: members.collect(),
    })
}

/// What a classic consumer was assigned; nothing yet, when there are no bytes.
fn assignment(bytes: &Bytes) -> Option<Vec<(String, Vec<i32>)>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let topics = decode_assignment(bytes).ok()?;
    Some(topics.into_iter().map(|(topic, partitions)| (topic.to_string(), partitions)).collect())
}
