//! What a shard tells of its partitions and groups one by one: for the lag in metrics, and for the
//! console. Read on demand, in steps that let others run; nothing is counted for it beforehand but
//! the bytes appended to a partition.

use std::ops::Bound;
use std::rc::Rc;

use corelog_runtime::task::yield_if_needed;

use super::{PartitionCell, Shard};
use crate::group::api::GroupDetails;
use crate::types::{Offset, TopicPartition};

/// Partitions that are looked at before others may run.
const STEP: usize = 256;

/// What is asked for beyond offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DetailsWanted {
    /// At most so many committed offsets of a shard's groups.
    pub commits_max: usize,
    /// Whether the sizes of partitions have to be right: a log that was not touched since the start
    /// then lists its files.
    pub sizes: bool,
}

/// One partition of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionDetails {
    /// Which one.
    pub target: TopicPartition,
    /// The shard that has it.
    pub shard: usize,
    /// The first offset that exists.
    pub log_start: Offset,
    /// Exclusive end of what consumers may see.
    pub high_watermark: Offset,
    /// Its size: segments, and what is not in them yet.
    pub bytes: u64,
    /// Bytes of the batches that were appended since the start.
    pub appended_bytes: u64,
    /// Whether it serves nothing.
    pub is_offline: bool,
}

/// A shard's partitions and groups.
#[derive(Debug, Default)]
pub struct ShardDetails {
    /// Partitions, in order.
    pub partitions: Vec<PartitionDetails>,
    /// Groups, by coordinator and name.
    pub groups: Vec<GroupDetails>,
}

impl Shard {
    /// The partitions and groups of this shard. What changes meanwhile may be told as it was before
    /// or after.
    pub(crate) async fn details(self: &Rc<Self>, wanted: DetailsWanted) -> ShardDetails {
        // Groups first: an end that is read after an offset is not before it.
        let groups = self.group_details(wanted.commits_max).await;
        ShardDetails { groups, partitions: self.partition_details(wanted.sizes).await }
    }

    async fn partition_details(&self, sizes: bool) -> Vec<PartitionDetails> {
        let mut details = Vec::with_capacity(self.partitions.borrow().len());
        let mut after: Bound<TopicPartition> = Bound::Unbounded;
        loop {
            let step: Vec<(TopicPartition, PartitionCell)> = {
                let partitions = self.partitions.borrow();
                let next = partitions.range((after, Bound::Unbounded)).take(STEP);
                next.map(|(target, cell)| (*target, Rc::clone(cell))).collect()
            };
            let Some((last, _)) = step.last() else { return details };
            after = Bound::Excluded(*last);
            for (target, cell) in step {
                if sizes {
                    let log = Rc::clone(cell.borrow().log());
                    if let Err(error) = log.list().await {
                        tracing::debug!(partition = %target, %error, "the size of a partition is not known");
                    }
                }
                let partition = cell.borrow();
                details.push(PartitionDetails {
                    target,
                    shard: self.index,
                    log_start: partition.log_start(),
                    high_watermark: partition.high_watermark(),
                    bytes: partition.log().size_bytes() + partition.tail().unflushed_bytes() as u64,
                    appended_bytes: partition.appended_bytes(),
                    is_offline: partition.offline().is_some(),
                });
            }
            yield_if_needed().await;
        }
    }
}
