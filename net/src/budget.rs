//! How many bytes of fetched records one shard has waiting to be written to its clients.
//!
//! What a fetch will bring is not known before it is done, so it is charged afterwards, and the
//! limit is kept by what may begin: a fetch waits while nothing is left, and asks for no more than
//! what is left.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;

/// A fetch may ask for so many bytes even when less is left.
const ROOM_BYTES_MIN: usize = 64 << 10;

/// Counts bytes on their way out.
pub(crate) struct ResponseBudget {
    limit_bytes: usize,
    outstanding: Rc<Outstanding>,
}

#[derive(Default)]
struct Outstanding {
    /// Written by the shard only; others may look.
    bytes: Arc<AtomicUsize>,
    sent: Notify,
}

/// Bytes that count until this is dropped.
pub(crate) struct Charge {
    bytes: usize,
    outstanding: Rc<Outstanding>,
}

impl ResponseBudget {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, outstanding: Rc::default() }
    }

    /// Bytes on their way out, for any shard to look at.
    pub(crate) fn outstanding(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.outstanding.bytes)
    }

    /// How many bytes a fetch that begins now may bring; waits while there is nothing left.
    pub(crate) async fn room(&self) -> usize {
        loop {
            let sent = self.outstanding.sent.notified();
            let left = self.limit_bytes.saturating_sub(self.outstanding.bytes.load(Relaxed));
            if left > 0 {
                return left.max(ROOM_BYTES_MIN);
            }
            sent.await;
        }
    }

    /// Counts bytes that were fetched.
    pub(crate) fn charge(&self, bytes: usize) -> Charge {
        let outstanding = Rc::clone(&self.outstanding);
        outstanding.bytes.store(outstanding.bytes.load(Relaxed) + bytes, Relaxed);
        Charge { bytes, outstanding }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let bytes = self.outstanding.bytes.load(Relaxed).checked_sub(self.bytes);
        self.outstanding.bytes.store(bytes.expect("every charge was counted once"), Relaxed);
        self.outstanding.sent.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_fetch_waits_while_nothing_is_left() {
        let budget = ResponseBudget::new(1 << 20);
        assert_eq!(budget.room().now_or_never(), Some(1 << 20));
        let first = budget.charge((1 << 20) - 1);
        assert_eq!(budget.room().now_or_never(), Some(ROOM_BYTES_MIN));
        let second = budget.charge(ROOM_BYTES_MIN);
        let mut room = Box::pin(budget.room());
        assert_eq!((&mut room).now_or_never(), None);
        drop(second);
        assert_eq!(room.now_or_never(), Some(ROOM_BYTES_MIN));
        drop(first);
        assert_eq!(budget.outstanding().load(Relaxed), 0);
    }
}
