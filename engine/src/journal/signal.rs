//! Waking the tasks that wait for a condition of the journal. One shard, no allocation per wait
//! once the list has grown.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// The tasks that look at something again when it changed.
#[derive(Default)]
pub(super) struct Signal {
    wakers: RefCell<Vec<Waker>>,
}

impl Signal {
    /// Everybody looks again.
    pub(super) fn wake(&self) {
        let wakers = std::mem::take(&mut *self.wakers.borrow_mut());
        for waker in wakers {
            waker.wake();
        }
    }

    /// Registers the task for the next [`Signal::wake`].
    pub(super) fn register(&self, waker: &Waker) {
        let mut wakers = self.wakers.borrow_mut();
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    /// Waits until `ready` has an answer; it is asked again after each [`Signal::wake`].
    pub(super) async fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        poll_fn(|cx| match ready() {
            Some(answer) => Poll::Ready(answer),
            None => {
                self.register(cx.waker());
                Poll::Pending
            }
        })
        .await
    }
}
