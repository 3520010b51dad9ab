//! Partitions as the command line names them.

use std::rc::Rc;

use anyhow::Result;
use corelog_net::client::admin::TopicPartitionName;
use corelog_net::client::{AutoCreate, Client, ClientError};

use crate::cli::TopicSelection;

/// The partitions of a topic, or those of them that are named, which must exist.
pub(crate) async fn partitions_of(
    client: &Client,
    selection: &TopicSelection,
) -> Result<Vec<TopicPartitionName>> {
    let TopicSelection { topic, partitions } = selection;
    let known = client.topic(topic, AutoCreate::No).await?;
    let all = || known.partitions.iter().map(|it| it.id).collect();
    let wanted = partitions.clone().unwrap_or_else(all);
    let mut selected = Vec::with_capacity(wanted.len());
    for partition in wanted {
        if !known.partitions.iter().any(|it| it.id == partition) {
            let partitions = i32::try_from(known.partitions.len()).unwrap_or(i32::MAX);
            return Err(ClientError::UnknownPartition { topic: topic.clone(), partition, partitions }.into());
        }
        selected.push((Rc::clone(&known.name), partition));
    }
    Ok(selected)
}
