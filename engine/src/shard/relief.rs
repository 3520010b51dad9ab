//! Flushing the largest tails while much is unflushed, whatever partitions that is of: many small
//! tails fill the memory without one of them being worth a flush of its own.
//!
//! It is a stream of flushes and not a round of them. One begins when so much was appended that more
//! than half of `unflushed_bytes_max` is neither in segments nor on its way there. So flushes are in step with
//! appends, which spares the journal's syncs, and nothing waits for the slowest flush of a round,
//! which would hold producers back on a fast device.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::task::yield_now;
use corelog_runtime::time;
use futures_util::future::select;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, poll};

use super::flush::SPACE_RETRY;
use super::reclaim::FLUSHES;
use super::{PartitionCell, Shard};
use crate::types::Lsn;

/// The largest tails are looked for again when they made up this share of what is unflushed.
const LOOK_SHARE: usize = 4;

/// How long it waits when none of the tails can be flushed now: nothing of them is acknowledged yet, or
/// others have the right to.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Tails that were the largest when it was looked for them.
#[derive(Default)]
struct Largest {
    cells: VecDeque<(usize, PartitionCell)>,
    /// Bytes ever flushed and appended at that time. The same ones would be found while these stand.
    looked_at: Option<(u64, u64)>,
}

impl Shard {
    /// Flushes the largest tails whenever much is unflushed, for as long as the shard lives.
    pub(super) async fn relief_worker(self: Rc<Self>) {
        let mut largest = Largest::default();
        let mut flushes = FuturesUnordered::new();
        while !self.stopping.get() {
            let wanted = self.relief_wanted.notified();
            if !self.is_much_unflushed() {
                if flushes.is_empty() {
                    wanted.await;
                } else {
                    select(pin!(wanted), flushes.next()).await;
                }
                continue;
            }
            // Whoever waits for a partition that a flush gave back is to have it first.
            yield_now().await;
            let next = if flushes.len() < FLUSHES { self.next_largest(&mut largest) } else { None };
            if let Some(cell) = next {
                flushes.push(Rc::clone(&self).flush_or_note(cell));
                // It begins, and counts as under way.
                let _ = poll!(flushes.next());
            } else if flushes.next().await.is_none() {
                let pause = if self.segments_full.get() { SPACE_RETRY } else { LOOK_AGAIN };
                // Either end is reason enough to look.
                let _ = time::timeout(pause, self.flush_ended.notified()).await;
                largest.looked_at = None;
            }
        }
        while flushes.next().await.is_some() {}
    }

    /// Whether so much is neither in segments nor on its way there that it has to become less.
    pub(super) fn is_much_unflushed(&self) -> bool {
        let waiting = self.unflushed_bytes.get().saturating_sub(self.flushing_bytes.get());
        // The other half is for what is appended while flushes are under way: with a device that takes
        // 500 MB/s that is about 40 MiB.
        waiting >= self.options.unflushed_bytes_max / 2
    }

    /// One of the largest tails; `None` until there are others.
    fn next_largest(&self, largest: &mut Largest) -> Option<PartitionCell> {
        loop {
            while let Some((size, cell)) = largest.cells.pop_front() {
                let partition = cell.borrow();
                // Otherwise others have flushed it meanwhile.
                if partition.tail().unflushed_bytes() >= size && !partition.is_flushing() {
                    drop(partition);
                    return Some(cell);
                }
            }
            let now = (self.stages.flushed_bytes.get(), self.appended_bytes.get());
            if largest.looked_at.replace(now) == Some(now) {
                return None;
            }
            largest.cells = self.largest_tails();
        }
    }

    /// What makes up a share of all unflushed bytes, the largest tails first. Of those of about the same
    /// size the one comes first that the journal's oldest entries are of.
    fn largest_tails(&self) -> VecDeque<(usize, PartitionCell)> {
        let partitions = self.partitions.borrow();
        let unflushed = |cell: &PartitionCell| {
            let partition = cell.borrow();
            let (size, from) = (partition.tail().unflushed_bytes(), partition.tail().needed_from());
            let can_be = size > 0 && !partition.is_flushing() && partition.offline().is_none();
            can_be.then(|| (size, from, Rc::clone(cell)))
        };
        let mut tails: Vec<(usize, Option<Lsn>, PartitionCell)> =
            partitions.values().filter_map(unflushed).collect();
        tails.sort_by_key(|(size, from, _)| (Reverse(size.ilog2()), *from));
        let wanted = self.unflushed_bytes.get() / LOOK_SHARE;
        let mut sum = 0;
        let is_among = |(size, ..): &(usize, Option<Lsn>, PartitionCell)| {
            let is_needed = sum < wanted;
            sum += size;
            is_needed
        };
        tails.into_iter().take_while(is_among).map(|(size, _, cell)| (size, cell)).collect()
    }
}
