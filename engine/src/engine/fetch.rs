//! Fetch across shards: read, and if that is not enough, wait for more and read again.

use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use corelog_runtime::time::{self, Instant};
use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, join_all, select_all};

use super::Engine;
use crate::api::{FetchOutcome, FetchPart, FetchSpec, PartitionError, ReadBudget};
use crate::messages::{ShardReply, ShardRequest};
use crate::types::{Offset, TopicPartition};

/// The partitions of a fetch that live on one shard.
struct Group {
    owner: usize,
    indexes: Vec<usize>,
    parts: Vec<FetchPart>,
}

/// A watch that another shard keeps for us; dropping it tells that shard.
struct RemoteWatch {
    engine: Engine,
    owner: usize,
    name: u64,
}

impl Drop for RemoteWatch {
    fn drop(&mut self) {
        self.engine.inner.mesh.cast(self.owner, ShardRequest::Unwatch(self.name));
    }
}

impl Engine {
    /// Reads batches, waiting for `min_bytes` up to `max_wait` over all partitions and shards. One
    /// outcome per part, in the order of the parts.
    pub fn fetch(&self, spec: FetchSpec) -> impl Future<Output = Vec<FetchOutcome>> + 'static {
        let engine = self.clone();
        async move { engine.fetch_within(spec, &mut ()).await }
    }

    /// The same, asking `budget` before each read.
    pub async fn fetch_within(&self, spec: FetchSpec, budget: &mut impl ReadBudget) -> Vec<FetchOutcome> {
        let deadline = Instant::now() + spec.max_wait;
        let (groups, total) = self.by_owner(&spec.parts);
        loop {
            let granted = budget.reserve(spec.max_bytes).await;
            let outcomes = self.read_groups(&groups, total, granted).await;
            budget.brought(size(&outcomes));
            let min_bytes = if granted < spec.max_bytes {
                // Whole batches fill half of what each shard may bring; waiting brings no more.
                spec.min_bytes.min(granted / 2 / groups.len().max(1))
            } else {
                spec.min_bytes
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if is_enough(&outcomes, min_bytes) || left == Duration::ZERO {
                return outcomes;
            }
            // Whether something changed or time ran out, the next read tells.
            let _ = time::timeout(left, self.any_change(&groups, &outcomes)).await;
        }
    }

    fn by_owner(&self, parts: &[FetchPart]) -> (Vec<Group>, usize) {
        let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
        for (index, part) in parts.iter().enumerate() {
            if let Some(owner) = self.owner(&part.target) {
                let empty = || Group { owner, indexes: Vec::new(), parts: Vec::new() };
                let group = groups.entry(owner).or_insert_with(empty);
                group.indexes.push(index);
                group.parts.push(part.clone());
            }
        }
        (groups.into_values().collect(), parts.len())
    }

    /// Reads every group; the byte limit is divided among the shards, not multiplied.
    async fn read_groups(&self, groups: &[Group], total: usize, max_bytes: usize) -> Vec<FetchOutcome> {
        let share = max_bytes / groups.len().max(1);
        let read = join_all(groups.iter().map(|group| self.read_group(group, share))).await;
        let mut outcomes: Vec<_> =
            std::iter::repeat_with(|| Err(PartitionError::UnknownPartition)).take(total).collect();
        for (group, answers) in groups.iter().zip(read) {
            for (index, answer) in group.indexes.iter().zip(answers) {
                outcomes[*index] = answer;
            }
        }
        outcomes
    }

    async fn read_group(&self, group: &Group, max_bytes: usize) -> Vec<FetchOutcome> {
        if group.owner == self.shard() {
            return self.local().read(&group.parts, max_bytes).await;
        }
        let request = ShardRequest::Read(group.parts.clone(), max_bytes);
        let sent = Instant::now();
        match self.inner.mesh.call(group.owner, request).await {
            Ok(ShardReply::Read(outcomes, work)) => {
                self.local().stages().forward.record_since(sent + work);
                outcomes
            }
            Ok(_) | Err(_) => group.parts.iter().map(|_| Err(PartitionError::Stopping)).collect(),
        }
    }

    /// Resolves when one of the partitions has more than was just read.
    async fn any_change(&self, groups: &[Group], outcomes: &[FetchOutcome]) {
        let mut changes = Vec::with_capacity(groups.len());
        for group in groups {
            let seen = group.indexes.iter().zip(&group.parts).map(|(index, part)| {
                (part.target, outcomes[*index].as_ref().map_or(Offset(-1), |read| read.high_watermark))
            });
            changes.push(self.change_on(group.owner, seen.collect()));
        }
        if !changes.is_empty() {
            select_all(changes).await;
        }
    }

    fn change_on(&self, owner: usize, seen: Vec<(TopicPartition, Offset)>) -> LocalBoxFuture<'static, ()> {
        if owner == self.shard() {
            let watch = Rc::clone(self.local()).watch(&seen);
            return async move { watch.changed().await }.boxed_local();
        }
        let name = self.inner.next_watch.replace(self.inner.next_watch.get() + 1);
        let call = self.inner.mesh.call(owner, ShardRequest::Watch(name, seen));
        let watch = RemoteWatch { engine: self.clone(), owner, name };
        async move {
            let _ = call.await;
            drop(watch);
        }
        .boxed_local()
    }
}

/// Whether a fetch is answered now: enough bytes, or an error that the client should see at once.
fn is_enough(outcomes: &[FetchOutcome], min_bytes: usize) -> bool {
    outcomes.is_empty() || outcomes.iter().any(Result::is_err) || size(outcomes) >= min_bytes
}

fn size(outcomes: &[FetchOutcome]) -> usize {
    outcomes.iter().flatten().flat_map(|read| &read.batches).map(Bytes::len).sum()
}
