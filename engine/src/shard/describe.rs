//! What administrators ask of a shard's partitions: sizes, producers.

use std::rc::Rc;

use corelog_runtime::task::yield_if_needed;

use super::Shard;
use crate::api::{ActiveProducer, PartitionError};
use crate::types::TopicPartition;

impl Shard {
    /// How many bytes the records of each partition take: in its segments, and of its tail what is in
    /// the journal only. Lists the files of partitions that nobody looked at since the start.
    pub(crate) async fn sizes(&self, targets: &[TopicPartition]) -> Vec<Result<u64, PartitionError>> {
        let mut sizes = Vec::with_capacity(targets.len());
        for target in targets {
            sizes.push(self.size(target).await);
            yield_if_needed().await;
        }
        sizes
    }

    async fn size(&self, target: &TopicPartition) -> Result<u64, PartitionError> {
        let cell = self.partition(target)?;
        let log = Rc::clone(cell.borrow().log());
        // The size of one that cannot be listed is that of what is known.
        if let Err(error) = log.segments().await {
            tracing::debug!(partition = %target, %error, "the segments of a partition cannot be listed");
        }
        let unflushed = cell.borrow().tail().unflushed_bytes();
        Ok(log.size_bytes() + unflushed as u64)
    }

    /// The producers that each partition remembers.
    pub(crate) fn producers(
        &self,
        targets: &[TopicPartition],
    ) -> Vec<Result<Vec<ActiveProducer>, PartitionError>> {
        let of = |target| {
            let cell = self.serving(target, None)?;
            Ok(cell.borrow().producers())
        };
        targets.iter().map(of).collect()
    }
}
