//! A number that only grows, and tasks that wait for it.
//!
//! Unlike a watch channel it wakes its waiters in the order in which they came, always: the
//! simulator replays a seed only if nothing outside it draws lots.

use std::cell::Cell;
use std::pin::pin;

use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub struct Level {
    value: Cell<u64>,
    grown: Notify,
}

impl Level {
    /// The number as of now.
    pub fn get(&self) -> u64 {
        self.value.get()
    }

    /// Raises it to `value`, if that is more.
    pub fn raise(&self, value: u64) {
        if value > self.value.get() {
            self.value.set(value);
            self.grown.notify_waiters();
        }
    }

    /// Waits until it is at least `value`.
    pub async fn reached(&self, value: u64) {
        loop {
            let mut grown = pin!(self.grown.notified());
            grown.as_mut().enable();
            if self.value.get() >= value {
                return;
            }
            grown.await;
        }
    }
}
