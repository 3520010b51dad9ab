//! Topics, configs, offsets and the cluster's description.

use std::collections::BTreeMap;
use std::rc::Rc;

use corelog_protocol::error::ErrorCode;
use corelog_protocol::fetch::IsolationLevel;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsSynonym;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeClusterRequest,
    DescribeConfigsRequest, ListOffsetsRequest, ListOffsetsResponse,
};
use kafka_protocol::protocol::{Request, StrBytes};
use uuid::Uuid;

use super::cluster::{AutoCreate, Client, Lane, topic_name};
use super::connection::Connection;
use super::error::ClientError;
use super::metadata::{Broker, Topic};
use super::retry::Retry;

/// First version of DeleteTopics that names topics in a structure.
const DELETE_STRUCTURES_FROM: i16 = 6;

/// First version of DescribeConfigs that has documentation.
const DOCUMENTATION_FROM: i16 = 3;

/// A topic to create.
#[derive(Debug, Clone, Default)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// How many partitions; `None` is the cluster's default.
    pub partitions: Option<i32>,
    /// How many replicas; `None` is the cluster's default.
    pub replication_factor: Option<i16>,
    /// Configs by Kafka's names.
    pub configs: Vec<(String, String)>,
}

/// A topic that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its name.
    pub name: String,
    /// Its id; nil from brokers before Kafka 2.8.
    pub id: Uuid,
    /// Partitions, where the broker says (Kafka 2.4 on).
    pub partitions: Option<i32>,
    /// Replicas, where the broker says.
    pub replication_factor: Option<i16>,
}

/// A setting of a topic or a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Kafka's name.
    pub name: String,
    /// The value in force; `None` when it is a secret.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether it cannot be changed while running.
    pub read_only: bool,
    /// What the broker says about it, where asked for.
    pub documentation: Option<String>,
    /// Everything that sets it, what counts first: the name by which it does, the value, where.
    pub synonyms: Vec<(String, Option<String>, ConfigSource)>,
}

/// Where a setting's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set on this topic.
    Topic,
    /// Set on this broker at run time.
    Broker,
    /// Set on all brokers at run time.
    AllBrokers,
    /// Set in the broker's file.
    BrokerFile,
    /// Nobody set it.
    Default,
    /// A number that this client does not know.
    Other(i8),
}

impl ConfigSource {
    fn from_wire(source: i8) -> Self {
        match source {
            1 => Self::Topic,
            2 => Self::Broker,
            3 => Self::AllBrokers,
            4 => Self::BrokerFile,
            5 => Self::Default,
            other => Self::Other(other),
        }
    }
}

/// Whose settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigTarget {
    /// A topic's, by name.
    Topic(String),
    /// A broker's, by node id.
    Broker(i32),
    /// What is set on all brokers at run time.
    AllBrokers,
}

impl ConfigTarget {
    /// `resource_type` of a topic.
    pub(super) const TOPIC: i8 = 2;
    /// `resource_type` of a broker.
    pub(super) const BROKER: i8 = 4;

    /// Type and name on the wire.
    pub(super) fn resource(&self) -> (i8, String) {
        match self {
            Self::Topic(name) => (Self::TOPIC, name.clone()),
            Self::Broker(id) => (Self::BROKER, id.to_string()),
            Self::AllBrokers => (Self::BROKER, String::new()),
        }
    }
}

impl std::fmt::Display for ConfigTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic '{name}'"),
            Self::Broker(id) => write!(f, "node {id}"),
            Self::AllBrokers => f.write_str("all nodes"),
        }
    }
}

/// Which offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first that exists.
    Earliest,
    /// The end: the high watermark, or the last stable offset with read committed.
    Latest,
    /// Of the first record at or after this time, in ms since 1970.
    AtTimestamp(i64),
    /// Of the record with the largest timestamp (Kafka 3.0 on).
    MaxTimestamp,
}

impl OffsetSpec {
    fn timestamp(self) -> i64 {
        match self {
            Self::Earliest => -2,
            Self::Latest => -1,
            Self::MaxTimestamp => -3,
            Self::AtTimestamp(timestamp_ms) => timestamp_ms.max(0),
        }
    }
}

/// An offset that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedOffset {
    /// The offset; `None` when no record matches a timestamp.
    pub offset: Option<i64>,
    /// The record's timestamp, where one was asked for.
    pub timestamp_ms: Option<i64>,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDescription {
    /// Its id.
    pub id: Option<String>,
    /// The controller's node id.
    pub controller: Option<i32>,
    /// The brokers, by node id.
    pub brokers: Vec<Broker>,
}

/// One topic and partition.
pub type TopicPartitionName = (Rc<str>, i32);

/// Requests about a cluster rather than its records.
#[derive(Clone)]
pub struct Admin {
    client: Client,
}

impl Admin {
    /// Over a client that is connected.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn timeout_ms(&self) -> i32 {
        i32::try_from(self.client.options().request_timeout.as_millis()).unwrap_or(i32::MAX)
    }

    /// Creates topics; one outcome each, in their order. With `validate_only` it is only checked
    /// whether they could be created.
    ///
    /// # Errors
    /// When the request as a whole fails. It is not repeated once it was sent, since nobody could
    /// tell afterwards who created the topic.
    pub async fn create_topics(
        &self,
        topics: &[TopicSpec],
        validate_only: bool,
    ) -> Result<Vec<Result<CreatedTopic, ClientError>>, ClientError> {
        let creatable = topics.iter().map(|topic| {
            let configs = topic.configs.iter().map(|(name, value)| {
                CreatableTopicConfig::default()
                    .with_name(StrBytes::from_string(name.clone()))
                    .with_value(Some(StrBytes::from_string(value.clone())))
            });
            CreatableTopic::default()
                .with_name(topic_name(&topic.name))
                .with_num_partitions(topic.partitions.unwrap_or(-1))
                .with_replication_factor(topic.replication_factor.unwrap_or(-1))
                .with_configs(configs.collect())
        });
        let request = CreateTopicsRequest::default()
            .with_topics(creatable.collect())
            .with_timeout_ms(self.timeout_ms())
            .with_validate_only(validate_only);
        let response = self.call_controller(&request, i16::MAX).await?;
        let mut outcomes: BTreeMap<String, Result<CreatedTopic, ClientError>> = BTreeMap::new();
        for result in response.topics {
            let name = result.name.to_string();
            let message = result.error_message.as_deref();
            let outcome =
                ClientError::check(result.error_code, message, || format!("creating topic '{name}'"));
            let created = CreatedTopic {
                name: name.clone(),
                id: result.topic_id,
                partitions: (result.num_partitions > 0).then_some(result.num_partitions),
                replication_factor: (result.replication_factor > 0).then_some(result.replication_factor),
            };
            outcomes.insert(name, outcome.map(|()| created));
        }
        Ok(in_order(topics.iter().map(|topic| topic.name.as_str()), outcomes))
    }

    /// Deletes topics by name; one outcome each, in their order.
    ///
    /// # Errors
    /// When the request as a whole fails.
    pub async fn delete_topics(&self, names: &[String]) -> Result<Vec<Result<(), ClientError>>, ClientError> {
        let connection = self.client.controller().await?;
        let version = connection.version::<DeleteTopicsRequest>(i16::MAX)?;
        let mut request = DeleteTopicsRequest::default().with_timeout_ms(self.timeout_ms());
        if version >= DELETE_STRUCTURES_FROM {
            let states =
                names.iter().map(|name| DeleteTopicState::default().with_name(Some(topic_name(name))));
            request.topics = states.collect();
        } else {
            request.topic_names = names.iter().map(|name| topic_name(name)).collect();
        }
        let response = connection.call_up_to(&request, version).await?;
        let mut outcomes = BTreeMap::new();
        for result in response.responses {
            let name = result.name.map(|name| name.to_string()).unwrap_or_default();
            let message = result.error_message.as_deref();
            let outcome = match ErrorCode::from_code(result.error_code) {
                ErrorCode::UnknownTopicOrPartition => Err(ClientError::UnknownTopic { topic: name.clone() }),
                _ => ClientError::check(result.error_code, message, || format!("deleting topic '{name}'")),
            };
            self.client.forget(&name);
            outcomes.insert(name, outcome);
        }
        Ok(in_order(names.iter().map(String::as_str), outcomes))
    }

    /// Forgets the oldest records of partitions, for good, at their leaders: those before an offset,
    /// or all with `None`. One outcome each, in their order: where the log starts from now on.
    ///
    /// # Errors
    /// When the request as a whole fails. A leader that could not be asked is the outcome of its
    /// partitions. It may be repeated: what is gone stays gone.
    pub async fn delete_records(
        &self,
        wanted: &[(TopicPartitionName, Option<i64>)],
    ) -> Result<Vec<Result<i64, ClientError>>, ClientError> {
        let mut outcomes: BTreeMap<TopicPartitionName, Result<i64, ClientError>> = BTreeMap::new();
        let mut by_leader: BTreeMap<i32, BTreeMap<&str, Vec<DeleteRecordsPartition>>> = BTreeMap::new();
        for (name, before) in wanted {
            let (topic, partition) = name;
            self.client.topic(topic, AutoCreate::No).await?;
            match self.client.leader(topic, *partition) {
                Ok((leader, _)) => by_leader.entry(leader).or_default().entry(topic).or_default().push(
                    DeleteRecordsPartition::default()
                        .with_partition_index(*partition)
                        .with_offset(before.unwrap_or(-1)),
                ),
                Err(error) => drop(outcomes.insert(name.clone(), Err(error))),
            }
        }
        for (leader, topics) in by_leader {
            let topics = topics.into_iter().map(|(name, partitions)| {
                DeleteRecordsTopic::default().with_name(topic_name(name)).with_partitions(partitions)
            });
            let request = DeleteRecordsRequest::default()
                .with_topics(topics.collect())
                .with_timeout_ms(self.timeout_ms());
            let response = self.client.node(leader, Lane::Control).await?.call(&request).await?;
            for topic in response.topics {
                for answer in topic.partitions {
                    let partition = answer.partition_index;
                    let checked = ClientError::check(answer.error_code, None, || {
                        format!("deleting records of {}-{partition}", topic.name.as_str())
                    });
                    let name = (Rc::from(topic.name.as_str()), partition);
                    outcomes.insert(name, checked.map(|()| answer.low_watermark));
                }
            }
        }
        let left_out = |name: &TopicPartitionName| {
            Err(ClientError::Refused {
                what: format!("deleting records of {}-{}", name.0, name.1),
                code: ErrorCode::UnknownServerError,
                message: Some("the broker's answer leaves it out".to_owned()),
            })
        };
        let outcome = |(name, _): &(TopicPartitionName, Option<i64>)| {
            outcomes.remove(name).unwrap_or_else(|| left_out(name))
        };
        Ok(wanted.iter().map(outcome).collect())
    }

    /// Sends to the controller; before KRaft only that one changes topics.
    async fn call_controller<R: Request>(&self, request: &R, limit: i16) -> Result<R::Response, ClientError> {
        self.client.controller().await?.call_up_to(request, limit).await
    }

    /// Every topic of the cluster, by name.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn list_topics(&self) -> Result<Vec<Rc<Topic>>, ClientError> {
        self.client.refresh_all().await?;
        let metadata = self.client.metadata();
        Ok(metadata.topics.into_values().filter_map(Result::ok).collect())
    }

    /// One topic, fresh from a broker.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`] when there is none.
    pub async fn describe_topic(&self, name: &str) -> Result<Rc<Topic>, ClientError> {
        self.client.forget(name);
        self.client.topic(name, AutoCreate::No).await
    }

    /// All settings of a topic or a broker.
    ///
    /// # Errors
    /// When the broker refuses or does not answer.
    pub async fn describe_configs(&self, target: &ConfigTarget) -> Result<Vec<ConfigEntry>, ClientError> {
        let (kind, name) = target.resource();
        let what = format!("describing the configs of {target}");
        let connection = self.connection_for(target).await?;
        let version = connection.version::<DescribeConfigsRequest>(i16::MAX)?;
        let request = DescribeConfigsRequest::default()
            .with_include_synonyms(true)
            .with_include_documentation(version >= DOCUMENTATION_FROM)
            .with_resources(vec![
                DescribeConfigsResource::default()
                    .with_resource_type(kind)
                    .with_resource_name(StrBytes::from_string(name))
                    .with_configuration_keys(None),
            ]);
        let response = connection.call_up_to(&request, version).await?;
        let mut entries = Vec::new();
        for result in response.results {
            let message = result.error_message.as_deref();
            ClientError::check(result.error_code, message, || what.clone())?;
            entries.extend(result.configs.into_iter().map(|config| ConfigEntry {
                name: config.name.to_string(),
                value: config.value.map(|value| value.to_string()),
                source: ConfigSource::from_wire(config.config_source),
                read_only: config.read_only,
                documentation: config.documentation.map(|text| text.to_string()),
                synonyms: config.synonyms.into_iter().map(synonym).collect(),
            }));
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// A broker's own configs are that broker's to tell and to check.
    pub(super) async fn connection_for(&self, target: &ConfigTarget) -> Result<Connection, ClientError> {
        match target {
            ConfigTarget::Topic(_) | ConfigTarget::AllBrokers => self.client.any().await,
            ConfigTarget::Broker(id) => self.client.node(*id, Lane::Control).await,
        }
    }

    /// The brokers, the controller and the cluster's id.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, ClientError> {
        let connection = self.client.any().await?;
        match connection.call(&DescribeClusterRequest::default()).await {
            Ok(response) => {
                let message = response.error_message.as_deref();
                ClientError::check(response.error_code, message, || "describing the cluster".to_owned())?;
                let brokers = response.brokers.into_iter().map(|broker| Broker {
                    id: broker.broker_id.0,
                    address: format!("{}:{}", broker.host.as_str(), broker.port),
                    rack: broker.rack.map(|rack| rack.to_string()),
                });
                Ok(ClusterDescription {
                    id: Some(response.cluster_id.to_string()),
                    controller: Some(response.controller_id.0).filter(|id| *id >= 0),
                    brokers: brokers.collect(),
                })
            }
            // Before Kafka 2.8: what Metadata says.
            Err(ClientError::Unsupported { .. }) => {
                self.client.refresh(AutoCreate::No).await?;
                let metadata = self.client.metadata();
                Ok(ClusterDescription {
                    id: metadata.cluster_id,
                    controller: metadata.controller,
                    brokers: metadata.brokers.into_values().collect(),
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Looks offsets up at the partitions' leaders; one answer each, in their order.
    ///
    /// # Errors
    /// The first that does not go away by trying again.
    pub async fn list_offsets(
        &self,
        wanted: &[(TopicPartitionName, OffsetSpec)],
        isolation: IsolationLevel,
    ) -> Result<Vec<ListedOffset>, ClientError> {
        for ((topic, _), _) in wanted {
            self.client.topic(topic, AutoCreate::No).await?;
        }
        let mut found: Vec<Option<ListedOffset>> = vec![None; wanted.len()];
        let mut retry = Retry::new(self.client.options().retry);
        loop {
            let missing: Vec<usize> = (0..wanted.len()).filter(|at| found[*at].is_none()).collect();
            if missing.is_empty() {
                break;
            }
            if let Err(error) = self.list_offsets_once(wanted, &missing, isolation, &mut found).await {
                retry.after("looking up offsets", error).await?;
                if let Err(error) = self.client.refresh(AutoCreate::No).await {
                    tracing::debug!(%error, "metadata could not be refreshed");
                }
            }
        }
        Ok(found.into_iter().map(|it| it.expect("the loop ends when all are found")).collect())
    }

    /// One round over the leaders; answers what it can, and gives the last error.
    async fn list_offsets_once(
        &self,
        wanted: &[(TopicPartitionName, OffsetSpec)],
        missing: &[usize],
        isolation: IsolationLevel,
        found: &mut [Option<ListedOffset>],
    ) -> Result<(), ClientError> {
        let mut by_leader: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        let mut last = Ok(());
        for &at in missing {
            let ((topic, partition), _) = &wanted[at];
            match self.client.leader(topic, *partition) {
                Ok((leader, _)) => by_leader.entry(leader).or_default().push(at),
                Err(error) if error.is_retriable() => last = Err(error),
                Err(error) => return Err(error),
            }
        }
        for (leader, indexes) in by_leader {
            let connection = match self.client.node(leader, Lane::Control).await {
                Ok(connection) => connection,
                Err(error) => {
                    last = Err(error);
                    continue;
                }
            };
            match ask_leader(&connection, wanted, &indexes, isolation).await {
                Ok(response) => {
                    if let Err(error) = take_answers(wanted, &indexes, response, found) {
                        last = Err(error);
                    }
                }
                Err(error) => last = Err(error),
            }
        }
        last
    }
}

fn synonym(synonym: DescribeConfigsSynonym) -> (String, Option<String>, ConfigSource) {
    let value = synonym.value.map(|value| value.to_string());
    (synonym.name.to_string(), value, ConfigSource::from_wire(synonym.source))
}

async fn ask_leader(
    connection: &Connection,
    wanted: &[(TopicPartitionName, OffsetSpec)],
    indexes: &[usize],
    isolation: IsolationLevel,
) -> Result<ListOffsetsResponse, ClientError> {
    let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for &at in indexes {
        let ((topic, partition), spec) = &wanted[at];
        topics.entry(topic).or_default().push(
            ListOffsetsPartition::default()
                .with_partition_index(*partition)
                .with_current_leader_epoch(-1)
                .with_timestamp(spec.timestamp()),
        );
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        ListOffsetsTopic::default().with_name(topic_name(name)).with_partitions(partitions)
    });
    let mut request =
        ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(topics.collect());
    let version = connection.version::<ListOffsetsRequest>(i16::MAX)?;
    if version >= 2 {
        request.isolation_level = isolation.to_wire();
    }
    connection.call_up_to(&request, version).await
}

fn take_answers(
    wanted: &[(TopicPartitionName, OffsetSpec)],
    indexes: &[usize],
    response: ListOffsetsResponse,
    found: &mut [Option<ListedOffset>],
) -> Result<(), ClientError> {
    let mut last = Ok(());
    for topic in response.topics {
        for answer in topic.partitions {
            let partition = answer.partition_index;
            let outcome = ClientError::check(answer.error_code, None, || {
                format!("looking up an offset of {}-{partition}", topic.name.as_str())
            });
            if let Err(error) = outcome {
                last = Err(error);
                continue;
            }
            let matching = indexes.iter().copied().filter(|at| {
                let ((name, index), _) = &wanted[*at];
                name.as_ref() == topic.name.as_str() && *index == partition
            });
            for at in matching {
                found[at] = Some(ListedOffset {
                    offset: (answer.offset >= 0).then_some(answer.offset),
                    timestamp_ms: (answer.timestamp >= 0).then_some(answer.timestamp),
                });
            }
        }
    }
    last
}

/// Outcomes in the order of the request; a name that the broker left out is said.
fn in_order<'a, T>(
    names: impl Iterator<Item = &'a str>,
    mut outcomes: BTreeMap<String, Result<T, ClientError>>,
) -> Vec<Result<T, ClientError>> {
    names
        .map(|name| {
            outcomes.remove(name).unwrap_or_else(|| {
                Err(ClientError::Refused {
                    what: format!("topic '{name}'"),
                    code: ErrorCode::UnknownServerError,
                    message: Some("the broker's answer leaves it out".to_owned()),
                })
            })
        })
        .collect()
}
