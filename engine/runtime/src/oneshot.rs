//! A single-threaded slot for one value: how a completion reaches the task that waits for it.
//! It never crosses a shard.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

enum State<T> {
    Empty(Option<Waker>),
    Full(T),
    Taken,
}

/// The filling side and the waiting side share one slot.
pub(crate) struct Slot<T>(Rc<RefCell<State<T>>>);

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Slot<T> {
    pub(crate) fn new() -> Self {
        Self(Rc::new(RefCell::new(State::Empty(None))))
    }

    /// Stores the value and wakes the waiter. Only the first value counts.
    pub(crate) fn fill(&self, value: T) {
        let waker = {
            let mut state = self.0.borrow_mut();
            let State::Empty(waker) = &mut *state else {
                return;
            };
            let waker = waker.take();
            *state = State::Full(value);
            waker
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for Slot<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = self.0.borrow_mut();
        match &mut *state {
            State::Empty(Some(waker)) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            State::Empty(waker @ None) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Full(_) => match std::mem::replace(&mut *state, State::Taken) {
                State::Full(value) => Poll::Ready(value),
                State::Empty(_) | State::Taken => unreachable!("matched as full above"),
            },
            State::Taken => panic!("a completion was polled after it was taken"),
        }
    }
}
