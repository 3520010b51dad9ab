//! Altering configs, adding partitions, sizes: what administrators do to a cluster that exists.

use std::collections::BTreeMap;

use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{
    CreatePartitionsRequest, DescribeLogDirsRequest, IncrementalAlterConfigsRequest,
    ListConfigResourcesRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::admin::{Admin, ConfigTarget};
use super::cluster::{Lane, topic_name};
use super::error::ClientError;
use super::metadata::Topic;

/// `AlterConfigOp.OpType`.
const SET: i8 = 0;
const DELETE: i8 = 1;

/// What becomes of a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigChange {
    /// It is set to this.
    Set(String),
    /// It has its default again.
    Unset,
}

impl Admin {
    /// Changes configs of a topic or of brokers, all of them or none. With `validate_only` it is only
    /// checked whether they could be changed.
    ///
    /// # Errors
    /// When the broker refuses or does not answer.
    pub async fn alter_configs(
        &self,
        target: &ConfigTarget,
        changes: &[(String, ConfigChange)],
        validate_only: bool,
    ) -> Result<(), ClientError> {
        let (kind, name) = target.resource();
        let what = format!("changing the configs of {target}");
        let configs = changes.iter().map(|(name, change)| {
            let config = AlterableConfig::default().with_name(StrBytes::from_string(name.clone()));
            match change {
                ConfigChange::Set(value) => {
                    config.with_config_operation(SET).with_value(Some(StrBytes::from_string(value.clone())))
                }
                ConfigChange::Unset => config.with_config_operation(DELETE).with_value(None),
            }
        });
        let resource = AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(StrBytes::from_string(name.clone()))
            .with_configs(configs.collect());
        let request = IncrementalAlterConfigsRequest::default()
            .with_resources(vec![resource])
            .with_validate_only(validate_only);
        let connection = self.connection_for(target).await?;
        let response = connection.call(&request).await?;
        for result in response.responses {
            if result.error_code == ErrorCode::UnknownTopicOrPartition.code() {
                return Err(ClientError::UnknownTopic { topic: name });
            }
            ClientError::check(result.error_code, result.error_message.as_deref(), || what.clone())?;
        }
        Ok(())
    }

    /// Whose configs can be described: topics and brokers (Kafka 4.1 on).
    ///
    /// # Errors
    /// When the broker refuses or does not answer.
    pub async fn list_config_targets(&self) -> Result<Vec<ConfigTarget>, ClientError> {
        let kinds = [ConfigTarget::TOPIC, ConfigTarget::BROKER];
        let request = ListConfigResourcesRequest::default().with_resource_types(kinds.to_vec());
        let response = self.client().any().await?.call_up_to(&request, 1).await?;
        ClientError::check(response.error_code, None, || "listing what has configs".to_owned())?;
        let target = |resource: ConfigResource| match resource.resource_type {
            ConfigTarget::TOPIC => Some(ConfigTarget::Topic(resource.resource_name.to_string())),
            ConfigTarget::BROKER => resource.resource_name.parse().ok().map(ConfigTarget::Broker),
            _ => None,
        };
        Ok(response.config_resources.into_iter().filter_map(target).collect())
    }

    /// Gives a topic `count` partitions in all. With `validate_only` it is only checked whether it
    /// could have them.
    ///
    /// # Errors
    /// When the broker refuses or does not answer.
    pub async fn create_partitions(
        &self,
        topic: &str,
        count: i32,
        validate_only: bool,
    ) -> Result<(), ClientError> {
        let wanted = CreatePartitionsTopic::default().with_name(topic_name(topic)).with_count(count);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![wanted.with_assignments(None)])
            .with_timeout_ms(self.timeout_ms())
            .with_validate_only(validate_only);
        let response = self.client().controller().await?.call(&request).await?;
        self.client().forget(topic);
        for result in response.results {
            if result.error_code == ErrorCode::UnknownTopicOrPartition.code() {
                return Err(ClientError::UnknownTopic { topic: topic.to_owned() });
            }
            let what = || format!("adding partitions to topic '{topic}'");
            ClientError::check(result.error_code, result.error_message.as_deref(), what)?;
        }
        Ok(())
    }

    /// How many bytes each partition of a topic takes at its leader, as far as leaders say.
    ///
    /// # Errors
    /// When a broker refuses or does not answer.
    pub async fn partition_sizes(&self, topic: &Topic) -> Result<BTreeMap<i32, u64>, ClientError> {
        use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;

        let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for partition in &topic.partitions {
            if let Some(leader) = partition.leader {
                by_leader.entry(leader).or_default().push(partition.id);
            }
        }
        let mut sizes = BTreeMap::new();
        for (leader, partitions) in by_leader {
            let wanted = DescribableLogDirTopic::default().with_topic(topic_name(&topic.name));
            let wanted = wanted.with_partitions(partitions);
            let request = DescribeLogDirsRequest::default().with_topics(Some(vec![wanted]));
            let connection = self.client().node(leader, Lane::Control).await?;
            let response = connection.call(&request).await?;
            let what = || format!("asking broker {leader} for sizes");
            ClientError::check(response.error_code, None, what)?;
            for result in response.results {
                ClientError::check(result.error_code, None, what)?;
                for partition in result.topics.into_iter().flat_map(|topic| topic.partitions) {
                    let bytes = u64::try_from(partition.partition_size).unwrap_or(0);
                    if !partition.is_future_key {
                        sizes.insert(partition.partition_index, bytes);
                    }
                }
            }
        }
        Ok(sizes)
    }
}
