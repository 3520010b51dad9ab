//! What administrators ask for: partitions, configs, sizes, producers.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use corelog_runtime::fs::{self, Space};
use futures_util::FutureExt;

use super::Engine;
use crate::api::{ActiveProducer, AlterConfigs, PartitionError, TopicError};
use crate::group::GroupConfig;
use crate::messages::{Change, ShardReply, ShardRequest};
use crate::meta::command::NewPartitions;
use crate::meta::image::TopicMeta;
use crate::types::TopicPartition;

impl Engine {
    /// Gives topics more partitions; returns once every shard has them.
    pub async fn create_partitions(
        &self,
        topics: Vec<NewPartitions>,
        validate_only: bool,
    ) -> Vec<Result<Arc<TopicMeta>, TopicError>> {
        let count = topics.len();
        self.ask_metadata(Change::CreatePartitions(topics, validate_only), count).await
    }

    /// Alters configs; returns once they hold on every shard.
    pub async fn alter_configs(
        &self,
        requests: Vec<AlterConfigs>,
        validate_only: bool,
    ) -> Vec<Result<(), TopicError>> {
        let count = requests.len();
        let change = Change::AlterConfigs(requests, validate_only);
        match self.inner.mesh.call(0, ShardRequest::Change(change)).await {
            Ok(ShardReply::ConfigsAltered(altered)) if altered.len() == count => altered,
            Ok(_) | Err(_) => {
                vec![Err(TopicError::Unavailable("shard 0 does not answer".to_owned())); count]
            }
        }
    }

    /// Where this node's data is.
    pub fn data_dir(&self) -> &Path {
        &self.inner.options.shard.data_dir
    }

    /// How much the file system of this node's data holds.
    ///
    /// # Errors
    /// I/O errors.
    pub async fn space(&self) -> io::Result<Space> {
        fs::space(self.data_dir()).await
    }

    /// How groups are coordinated on this node.
    pub fn group_config(&self) -> &GroupConfig {
        &self.inner.options.shard.groups
    }

    /// How many bytes the records of each partition take: in segments, and in the journal only.
    pub async fn sizes(&self, targets: Vec<TopicPartition>) -> Vec<Result<u64, PartitionError>> {
        let ask = |owner, targets: Vec<TopicPartition>| {
            if owner == self.shard() {
                let shard = Rc::clone(self.local());
                return async move { shard.sizes(&targets).await }.boxed_local();
            }
            let call = self.inner.mesh.call(owner, ShardRequest::Sizes(targets));
            async move {
                match call.await {
                    Ok(ShardReply::Sizes(sizes)) => sizes,
                    Ok(_) | Err(_) => Vec::new(),
                }
            }
            .boxed_local()
        };
        self.scatter(targets, |target| *target, ask, || Err(PartitionError::UnknownPartition)).await
    }

    /// The producers that each partition remembers, in the order of their ids.
    pub async fn producers(
        &self,
        targets: Vec<TopicPartition>,
    ) -> Vec<Result<Vec<ActiveProducer>, PartitionError>> {
        let ask = |owner, targets: Vec<TopicPartition>| {
            if owner == self.shard() {
                return std::future::ready(self.local().producers(&targets)).boxed_local();
            }
            let call = self.inner.mesh.call(owner, ShardRequest::Producers(targets));
            async move {
                match call.await {
                    Ok(ShardReply::Producers(producers)) => producers,
                    Ok(_) | Err(_) => Vec::new(),
                }
            }
            .boxed_local()
        };
        self.scatter(targets, |target| *target, ask, || Err(PartitionError::UnknownPartition)).await
    }
}
