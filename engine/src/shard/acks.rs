//! Who waits for which journal entry.
//!
//! Every append leaves a pending high watermark, in journal order; a produce that wants a reply also
//! leaves a waiter behind its last entry. Both queues are sorted by LSN because entries are appended
//! in order, so progress only ever takes from the front.

use std::cell::RefCell;
use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::PartitionCell;
use crate::journal::{Journal, Progress};
use crate::types::{Durability, Lsn, Offset};

/// Entries of one durability mode that are not durable yet.
#[derive(Default)]
struct Pending {
    watermarks: VecDeque<(Lsn, PartitionCell, Offset)>,
    waiters: VecDeque<(Lsn, oneshot::Sender<()>)>,
}

/// Everything that waits for the journal of one shard.
#[derive(Default)]
pub(super) struct AckQueue {
    fsync: RefCell<Pending>,
    write: RefCell<Pending>,
}

impl AckQueue {
    fn of(&self, durability: Durability) -> &RefCell<Pending> {
        match durability {
            Durability::Fsync => &self.fsync,
            Durability::Write => &self.write,
        }
    }

    /// `cell`'s high watermark becomes `end` once the entry at `lsn` is durable.
    pub(super) fn watermark(&self, durability: Durability, lsn: Lsn, cell: PartitionCell, end: Offset) {
        self.of(durability).borrow_mut().watermarks.push_back((lsn, cell, end));
    }

    /// A receiver that resolves once everything appended so far is durable, or fails when it never
    /// will be. `lsn` is the newest entry.
    pub(super) fn wait(&self, durability: Durability, lsn: Lsn, journal: &Journal) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.of(durability).borrow_mut().waiters.push_back((lsn, sender));
        if durability == Durability::Fsync {
            journal.request_sync(lsn);
        }
        receiver
    }

    /// The journal got this far.
    pub(super) fn advance(&self, progress: Progress) {
        self.fsync.borrow_mut().advance(progress.synced);
        self.write.borrow_mut().advance(progress.written);
    }

    /// Nothing that waits will become durable.
    pub(super) fn abandon(&self) {
        for pending in [&self.fsync, &self.write] {
            let mut pending = pending.borrow_mut();
            pending.waiters.clear();
            pending.watermarks.clear();
        }
    }
}

impl Pending {
    /// `end` is exclusive. Watermarks first: whoever gets an acknowledgement can read its records.
    fn advance(&mut self, end: Lsn) {
        while let Some((lsn, cell, offset)) = self.watermarks.pop_front_if(|(lsn, ..)| *lsn < end) {
            let _ = lsn;
            cell.borrow_mut().advance_high_watermark(offset);
        }
        while let Some((_, sender)) = self.waiters.pop_front_if(|(lsn, _)| *lsn < end) {
            // The client may be gone already.
            let _ = sender.send(());
        }
    }
}
