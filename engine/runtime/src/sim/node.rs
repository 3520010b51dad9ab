//! A simulated node: one process with shards, on a disk that outlives it.

use std::cell::{Cell, RefCell};

use super::disk::Disk;
use crate::oneshot::Slot;
use crate::shards::StopFlag;

pub(super) struct Node {
    pub(super) id: u32,
    pub(super) disk: RefCell<Disk>,
    /// Counts the node's lives; operations of an earlier life have no effect.
    incarnation: Cell<u64>,
    alive: Cell<bool>,
    pub(super) running_shards: Cell<usize>,
    pub(super) stop: RefCell<StopFlag>,
    pub(super) clock_skew_ms: Cell<i64>,
    exit: RefCell<Slot<Result<(), String>>>,
}

impl Node {
    pub(super) fn new(id: u32) -> Self {
        Self {
            id,
            disk: RefCell::new(Disk::new()),
            incarnation: Cell::new(0),
            alive: Cell::new(false),
            running_shards: Cell::new(0),
            stop: RefCell::default(),
            clock_skew_ms: Cell::new(0),
            exit: RefCell::new(Slot::new()),
        }
    }

    /// Starts a life, and returns its number and where its exit will be told.
    pub(super) fn start(&self, shards: usize) -> (u64, Slot<Result<(), String>>) {
        assert!(!self.alive.get(), "node {} runs already", self.id);
        self.alive.set(true);
        self.incarnation.set(self.incarnation.get() + 1);
        self.running_shards.set(shards);
        *self.stop.borrow_mut() = StopFlag::default();
        let exit = Slot::new();
        *self.exit.borrow_mut() = exit.clone();
        (self.incarnation.get(), exit)
    }

    pub(super) fn is_alive(&self) -> bool {
        self.alive.get()
    }

    pub(super) fn is_alive_in(&self, incarnation: u64) -> bool {
        self.alive.get() && self.incarnation.get() == incarnation
    }

    pub(super) fn die(&self) {
        self.alive.set(false);
    }

    pub(super) fn tell_exit(&self, result: Result<(), String>) {
        let exit = self.exit.borrow().clone();
        exit.fill(result);
    }
}
