//! The calls of one shard that wait for a reply, found by a number that is never used again.

use std::task::{Poll, Waker};

use super::MeshError;

enum State<A> {
    Free,
    Waiting(Option<Waker>),
    Done(Result<A, MeshError>),
    /// The caller is gone; the slot is freed when the reply comes.
    Abandoned,
}

struct Slot<A> {
    generation: u32,
    to: usize,
    state: State<A>,
}

/// Slots are reused; a number is the slot's index and, above it, the slot's generation.
pub(super) struct Calls<A> {
    slots: Vec<Slot<A>>,
    free: Vec<u32>,
}

impl<A> Calls<A> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    pub(super) fn begin(&mut self, to: usize) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, to, state: State::Free });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 calls wait at a time")
        });
        let slot = &mut self.slots[index as usize];
        slot.to = to;
        slot.state = State::Waiting(None);
        u64::from(slot.generation) << 32 | u64::from(index)
    }

    /// The slot of a call, unless it is over.
    fn slot(&mut self, id: u64) -> Option<(u32, &mut Slot<A>)> {
        let index = u32::try_from(id & u64::from(u32::MAX)).ok()?;
        let generation = u32::try_from(id >> 32).ok()?;
        let slot = self.slots.get_mut(index as usize)?;
        (slot.generation == generation).then_some((index, slot))
    }

    fn free(&mut self, index: u32) -> State<A> {
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        std::mem::replace(&mut slot.state, State::Free)
    }

    pub(super) fn complete(&mut self, id: u64, result: Result<A, MeshError>) {
        let Some((index, slot)) = self.slot(id) else {
            return;
        };
        match &mut slot.state {
            State::Waiting(waker) => {
                let waker = waker.take();
                slot.state = State::Done(result);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            State::Abandoned => drop(self.free(index)),
            State::Done(_) | State::Free => {}
        }
    }

    pub(super) fn fail_all_to(&mut self, to: usize) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.to == to && matches!(slot.state, State::Waiting(_) | State::Abandoned) {
                let id = u64::from(slot.generation) << 32 | index as u64;
                self.complete(id, Err(MeshError::Closed(to)));
            }
        }
    }

    pub(super) fn poll(&mut self, id: u64, by: &Waker) -> Poll<Result<A, MeshError>> {
        let (index, slot) = self.slot(id).expect("a call is polled until it is ready, not after");
        match &mut slot.state {
            State::Waiting(Some(waker)) => {
                waker.clone_from(by);
                Poll::Pending
            }
            State::Waiting(waker @ None) => {
                *waker = Some(by.clone());
                Poll::Pending
            }
            State::Done(_) => match self.free(index) {
                State::Done(result) => Poll::Ready(result),
                State::Free | State::Waiting(_) | State::Abandoned => {
                    unreachable!("matched as done above")
                }
            },
            State::Free | State::Abandoned => unreachable!("the caller still holds this call"),
        }
    }

    /// The caller is gone. Returns a reply that had arrived, to be dropped by the caller.
    pub(super) fn abandon(&mut self, id: u64) -> Option<Result<A, MeshError>> {
        let (index, slot) = self.slot(id)?;
        if matches!(slot.state, State::Waiting(_)) {
            slot.state = State::Abandoned;
            return None;
        }
        match self.free(index) {
            State::Done(result) => Some(result),
            State::Free | State::Waiting(_) | State::Abandoned => None,
        }
    }
}
