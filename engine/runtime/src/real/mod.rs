//! The real backend: one pinned glommio executor per shard.
//!
//! All that glommio 0.9 needs care about stays in here and says so where it is done.

pub(crate) mod check;
pub(crate) mod fs;
pub(crate) mod net;
mod poller;
pub(crate) mod probe;
mod run;
mod signals;
mod sync;
pub(crate) mod task;
mod watch;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use glommio::{Latency, Shares, TaskQueueHandle};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::shards::StopFlag;
use crate::task::Class;

pub(crate) use self::check::{DirLock, lock_data_dir};
use self::poller::Poller;
pub(crate) use self::run::{KEEP_AWAKE_TURNS, run};

const CLASSES: [Class; 4] = [Class::Journal, Class::Serve, Class::Read, Class::Background];

/// A journal write waits behind the bytes of other classes and not behind a number of reads and writes:
/// a few large ones may be in flight, or many small ones.
const UNIT_BYTES: usize = 64 << 10;
/// Of cold reads 256 KiB, see ADR 7.
const READ_UNITS: usize = 4;
const BACKGROUND_UNITS: usize = 64;

/// What one executor thread knows of itself.
pub(crate) struct Shard {
    queues: [TaskQueueHandle; CLASSES.len()],
    /// How many reads and writes each class may have in flight, in the read and background classes how
    /// many [`UNIT_BYTES`]. glommio sends all disk I/O through one ring whatever the queue, so a
    /// class keeps out of the journal's way by having little in flight. The bounds also keep the
    /// wakers of one task far below glommio's 32,767.
    in_flight: [Semaphore; CLASSES.len()],
    /// Devices that glommio knows on this thread, see `fs`.
    known_devices: RefCell<BTreeSet<u64>>,
    syncs: sync::Syncs,
    poller: Rc<Poller>,
    stop: StopFlag,
}

fn index(class: Class) -> usize {
    match class {
        Class::Journal => 0,
        Class::Serve => 1,
        Class::Read => 2,
        Class::Background => 3,
    }
}

impl Shard {
    /// Must be called on the executor.
    fn new(preempt: Duration, stop: StopFlag) -> io::Result<Self> {
        let queue = |class| {
            let (shares, latency, name) = match class {
                Class::Journal => (1000, Latency::Matters(preempt), "journal"),
                Class::Serve => (1000, Latency::Matters(preempt), "serve"),
                Class::Read => (300, Latency::NotImportant, "read"),
                Class::Background => (100, Latency::NotImportant, "background"),
            };
            glommio::executor().create_task_queue(Shares::Static(shares), latency, name)
        };
        let in_flight = |class| {
            Semaphore::new(match class {
                Class::Journal => 64,
                Class::Serve => 256,
                Class::Read => READ_UNITS,
                Class::Background => BACKGROUND_UNITS,
            })
        };
        Ok(Self {
            queues: CLASSES.map(queue),
            in_flight: CLASSES.map(in_flight),
            known_devices: RefCell::default(),
            syncs: sync::Syncs::new(),
            poller: Poller::new()?,
            stop,
        })
    }

    pub(crate) fn queue(&self, class: Class) -> TaskQueueHandle {
        self.queues[index(class)]
    }

    /// Waits until the class that the current task runs in may have a read or write of `len` bytes
    /// in flight.
    async fn admit(&self, len: usize) -> SemaphorePermit<'_> {
        let here = glommio::executor().current_task_queue();
        let class = self.queues.iter().position(|queue| *queue == here).unwrap_or(index(Class::Serve));
        let units = match CLASSES[class] {
            Class::Read => len.div_ceil(UNIT_BYTES).clamp(1, READ_UNITS),
            Class::Background => len.div_ceil(UNIT_BYTES).clamp(1, BACKGROUND_UNITS),
            Class::Journal | Class::Serve => 1,
        };
        let units = u32::try_from(units).expect("at most 64");
        self.in_flight[class].acquire_many(units).await.expect("never closed")
    }

    pub(crate) fn stop_flag(&self) -> StopFlag {
        self.stop.clone()
    }
}
