//! How many bytes of answers one shard has waiting to be written to its clients.
//!
//! What a fetch will bring is not known before it is done: it reserves what it may bring, and
//! counts what it brought afterwards. The first batch of a fetch comes whole, so that the limit may
//! be exceeded by a batch for each fetch under way.
//!
//! Clients that do not read their answers must not take everything from those that do. The more is
//! on its way, the less a fetch may bring; the last quarter is given out in small pieces; and while
//! somebody waits for room, `connection` cuts off whoever takes an answer too slowly.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;

/// A fetch may bring so many bytes even when little is left.
const PIECE_BYTES: usize = 64 << 10;
/// This share of the limit is given out in such pieces.
const PIECES_SHARE: usize = 4;
/// A fetch may bring this share of what is left above that.
const LEFT_SHARE: usize = 2;

/// Counts bytes on their way out.
pub(crate) struct ResponseBudget {
    limit_bytes: usize,
    outstanding: Rc<Outstanding>,
}

#[derive(Default)]
struct Outstanding {
    /// Written by the shard only; others may look.
    bytes: Arc<AtomicUsize>,
    /// Requests that wait for room.
    waiting: Cell<usize>,
    sent: Notify,
}

/// Bytes that count until this is dropped.
pub(crate) struct Charge {
    bytes: usize,
    outstanding: Rc<Outstanding>,
}

/// Counts as waiting until dropped.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a Cell<usize>) -> Self {
        waiting.set(waiting.get() + 1);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl ResponseBudget {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, outstanding: Rc::default() }
    }

    /// Bytes on their way out, for any shard to look at.
    pub(crate) fn outstanding(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.outstanding.bytes)
    }

    /// Whether somebody waits for room that there is not.
    pub(crate) fn is_short(&self) -> bool {
        self.outstanding.waiting.get() > 0 && self.outstanding.bytes.load(Relaxed) >= self.limit_bytes
    }

    /// Reserves what an answer of up to `wanted_bytes` may bring, which may be less; waits while
    /// there is nothing left.
    pub(crate) async fn reserve(&self, wanted_bytes: usize) -> Charge {
        let mut waiting = None;
        loop {
            let sent = self.outstanding.sent.notified();
            if let Some(granted) = self.granted(wanted_bytes) {
                return self.charge(granted);
            }
            waiting.get_or_insert_with(|| Waiting::new(&self.outstanding.waiting));
            sent.await;
        }
    }

    fn granted(&self, wanted_bytes: usize) -> Option<usize> {
        let left = self.limit_bytes.saturating_sub(self.outstanding.bytes.load(Relaxed));
        let in_pieces = self.limit_bytes / PIECES_SHARE;
        let share = left.saturating_sub(in_pieces) / LEFT_SHARE;
        (left > 0).then(|| wanted_bytes.min(share.max(PIECE_BYTES)))
    }

    /// Counts bytes.
    pub(crate) fn charge(&self, bytes: usize) -> Charge {
        let outstanding = Rc::clone(&self.outstanding);
        outstanding.bytes.store(outstanding.bytes.load(Relaxed) + bytes, Relaxed);
        Charge { bytes, outstanding }
    }
}

impl Charge {
    /// How much counts.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts what there is in place of what was reserved.
    pub(crate) fn settle(&mut self, bytes: usize) {
        let others = self.outstanding.bytes.load(Relaxed).checked_sub(self.bytes);
        let others = others.expect("every charge was counted once");
        self.outstanding.bytes.store(others + bytes, Relaxed);
        if bytes < self.bytes {
            self.outstanding.sent.notify_waiters();
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.settle(0);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const LIMIT: usize = 1 << 20;

    fn reserve(budget: &ResponseBudget, wanted: usize) -> Charge {
        budget.reserve(wanted).now_or_never().expect("there is room")
    }

    #[test]
    fn a_fetch_waits_while_nothing_is_left() {
        let budget = ResponseBudget::new(LIMIT);
        assert_eq!(reserve(&budget, LIMIT).bytes(), LIMIT * 3 / 8);
        let first = budget.charge(LIMIT - 1);
        let second = reserve(&budget, LIMIT);
        assert_eq!(second.bytes(), PIECE_BYTES);
        {
            let mut room = Box::pin(budget.reserve(LIMIT));
            assert!((&mut room).now_or_never().is_none());
            assert!(budget.is_short());
            drop(second);
            assert_eq!(room.now_or_never().expect("there is room again").bytes(), PIECE_BYTES);
        }
        assert!(!budget.is_short());
        drop(first);
        assert_eq!(budget.outstanding().load(Relaxed), 0);
    }

    #[test]
    fn who_gives_up_waiting_does_not_wait() {
        let budget = ResponseBudget::new(LIMIT);
        let _all = budget.charge(LIMIT);
        assert!(budget.reserve(1).now_or_never().is_none());
        assert!(!budget.is_short());
    }

    #[test]
    fn many_that_do_not_read_leave_something_for_one_that_does() {
        let limit = 64 << 20;
        let budget = ResponseBudget::new(limit);
        let unread: Vec<_> = (0..200).map(|_| reserve(&budget, 8 << 20)).collect();
        assert_eq!(unread[0].bytes(), 8 << 20);
        assert!(budget.outstanding().load(Relaxed) <= limit);
        assert_eq!(reserve(&budget, 8 << 20).bytes(), PIECE_BYTES);
    }

    #[test]
    fn a_reservation_becomes_what_was_brought() {
        let budget = ResponseBudget::new(LIMIT);
        let mut charge = reserve(&budget, 1000);
        assert_eq!(budget.outstanding().load(Relaxed), 1000);
        charge.settle(10);
        assert_eq!(budget.outstanding().load(Relaxed), 10);
        charge.settle(5000);
        assert_eq!(budget.outstanding().load(Relaxed), 5000);
        drop(charge);
        assert_eq!(budget.outstanding().load(Relaxed), 0);
    }
}
