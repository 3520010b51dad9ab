//! A one-way switch that tasks of one shard can wait for.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// Off until somebody switches it on; it never goes off again. Clones are the same switch.
#[derive(Clone, Default)]
pub(crate) struct Signal(Rc<State>);

#[derive(Default)]
struct State {
    is_on: Cell<bool>,
    switched: Notify,
}

impl Signal {
    /// Switches it on.
    pub(crate) fn switch_on(&self) {
        self.0.is_on.set(true);
        self.0.switched.notify_waiters();
    }

    /// Whether it is on.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_on.get()
    }

    /// Returns when it is on.
    pub(crate) async fn wait(&self) {
        // A `Notified` hears of what happens after its making, so that nothing is missed here.
        let switched = self.0.switched.notified();
        if !self.is_on() {
            switched.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::Signal;

    #[test]
    fn waiting_ends_when_it_is_switched_on_and_never_begins_again() {
        let signal = Signal::default();
        let mut waiting = Box::pin(signal.wait());
        assert_eq!((&mut waiting).now_or_never(), None);
        signal.switch_on();
        assert_eq!(waiting.now_or_never(), Some(()));
        assert_eq!(signal.clone().wait().now_or_never(), Some(()));
    }
}
