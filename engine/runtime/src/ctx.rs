//! Which backend, node and shard the code that runs now belongs to. One thread-local; on the real
//! backend it is set once per executor thread, in the simulator around every poll.

use std::cell::RefCell;
use std::rc::Rc;

use crate::real;
use crate::sim;

/// The current shard.
#[derive(Clone)]
pub(crate) enum Current {
    Real(Rc<real::Shard>),
    Sim(sim::Place),
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// The current shard, or `None` on a thread that belongs to no runtime.
pub(crate) fn current_or_none() -> Option<Current> {
    CURRENT.with(|current| current.borrow().clone())
}

/// The current shard.
///
/// # Panics
/// On a thread that belongs to no runtime: that is a programming error.
pub(crate) fn current() -> Current {
    current_or_none()
        .expect("this needs a shard: call it under shards::run or inside a simulation, not on a bare thread")
}

/// Makes `current` the current shard until the guard is dropped.
pub(crate) fn enter(current: Current) -> Entered {
    Entered(CURRENT.with(|slot| slot.replace(Some(current))))
}

/// Makes `current` the current shard of this thread until the thread ends.
pub(crate) fn enter_for_good(current: Current) {
    std::mem::forget(enter(current));
}

pub(crate) struct Entered(Option<Current>);

impl Drop for Entered {
    fn drop(&mut self) {
        let previous = self.0.take();
        // The replaced value is dropped after the borrow ends, since its destructor may look here.
        let _entered = CURRENT.with(|slot| slot.replace(previous));
    }
}
