//! What all tasks of a soak share: the plan, the time, the first violation, counts, and the topic
//! that the load goes to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, bail};
use serde::Serialize;

use super::plan::Plan;
use super::readers::LongTopic;
use crate::interrupts::Interrupts;
use crate::process::{self, Process};
use crate::project::Project;

const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// A signal from a terminal reaches our children at the same time as us.
const SIGNAL_GRACE: Duration = Duration::from_millis(300);

/// See the module.
pub(crate) struct Ground<'a> {
    pub(crate) project: &'a Project,
    pub(crate) plan: &'a Plan,
    pub(crate) address: SocketAddr,
    /// The node's data.
    pub(crate) data: PathBuf,
    /// Reports of the segments.
    pub(crate) folder: PathBuf,
    pub(crate) began: Instant,
    pub(crate) ends: Instant,
    pub(crate) counts: Counts,
    /// What the load goes to at the moment. Whoever reads it holds it; it is deleted by whoever has
    /// it alone.
    pub(crate) long: RwLock<Option<LongTopic>>,
    /// What the load says about itself.
    pub(crate) doing: Mutex<String>,
    /// No kill before this time.
    spared_until: Mutex<Instant>,
    /// How often the node was killed and was started: odd while it is down.
    changes: AtomicU64,
    violation: Mutex<Option<String>>,
}

/// What was done, over all tasks.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) created: AtomicU64,
    pub(crate) deleted: AtomicU64,
    pub(crate) created_again: AtomicU64,
    pub(crate) churn_produced: AtomicU64,
    pub(crate) churn_read: AtomicU64,
    /// Topics whose produce a kill left without an outcome.
    pub(crate) undecided: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) records_read: AtomicU64,
    pub(crate) records_compared: AtomicU64,
    /// Commands that a kill interrupted and that were given again.
    pub(crate) repeated: AtomicU64,
}

impl Counts {
    pub(crate) fn add(count: &AtomicU64, more: usize) {
        count.fetch_add(u64::try_from(more).unwrap_or(u64::MAX), SeqCst);
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals {
            topics_created: self.created.load(SeqCst),
            topics_deleted: self.deleted.load(SeqCst),
            topics_created_again: self.created_again.load(SeqCst),
            churn_produced: self.churn_produced.load(SeqCst),
            churn_read: self.churn_read.load(SeqCst),
            undecided_topics: self.undecided.load(SeqCst),
            reads: self.reads.load(SeqCst),
            records_read: self.records_read.load(SeqCst),
            records_compared: self.records_compared.load(SeqCst),
            commands_repeated: self.repeated.load(SeqCst),
        }
    }
}

/// [`Counts`] at the end.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Totals {
    pub(crate) topics_created: u64,
    pub(crate) topics_deleted: u64,
    pub(crate) topics_created_again: u64,
    pub(crate) churn_produced: u64,
    pub(crate) churn_read: u64,
    pub(crate) undecided_topics: u64,
    pub(crate) reads: u64,
    pub(crate) records_read: u64,
    pub(crate) records_compared: u64,
    pub(crate) commands_repeated: u64,
}

impl<'a> Ground<'a> {
    /// The time begins now.
    pub(crate) fn new(project: &'a Project, plan: &'a Plan, address: SocketAddr, data: PathBuf) -> Self {
        let began = Instant::now();
        Self {
            project,
            plan,
            address,
            data,
            folder: plan.folder(project),
            began,
            ends: began + plan.duration,
            counts: Counts::default(),
            long: RwLock::new(None),
            doing: Mutex::new(String::new()),
            spared_until: Mutex::new(began),
            changes: AtomicU64::new(0),
            violation: Mutex::new(None),
        }
    }

    /// Whether everything is to end at once.
    pub(crate) fn is_aborted(&self) -> bool {
        Interrupts::raised() || locked(&self.violation).is_some()
    }

    /// Whether nothing new is to be begun.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.ends || self.is_aborted()
    }

    /// Something is not as promised, or could not be done. What fails because of an interruption, or
    /// after something else has failed, does not count.
    pub(crate) fn violate(&self, error: &Error) {
        let deadline = Instant::now() + SIGNAL_GRACE;
        while !self.is_aborted() && Instant::now() < deadline {
            thread::sleep(POLL_INTERVAL);
        }
        if !Interrupts::raised() {
            locked(&self.violation).get_or_insert_with(|| format!("{error:#}"));
        }
    }

    pub(crate) fn violation(&self) -> Option<String> {
        locked(&self.violation).clone()
    }

    /// Sleeps, but not beyond the end.
    pub(crate) fn rest(&self, time: Duration) {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline && !self.is_over() {
            thread::sleep(POLL_INTERVAL);
        }
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// A kill that is due comes so much later.
    pub(crate) fn spare_node_for(&self, time: Duration) {
        *locked(&self.spared_until) = Instant::now() + time;
    }

    pub(crate) fn is_node_spared(&self) -> bool {
        Instant::now() < *locked(&self.spared_until)
    }

    /// The node is killed, or answers again.
    pub(crate) fn node_changes(&self) {
        self.changes.fetch_add(1, SeqCst);
    }

    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(SeqCst)
    }

    /// Whether the node was down at some time since it had changed so often.
    pub(crate) fn was_down_since(&self, changes: u64) -> bool {
        !changes.is_multiple_of(2) || self.changes() != changes
    }

    /// Waits while the node is down.
    pub(crate) fn wait_for_node(&self) {
        while !self.changes().is_multiple_of(2) && !self.is_aborted() {
            thread::sleep(POLL_INTERVAL);
        }
    }

    pub(crate) fn say(&self, what: impl Into<String>) {
        *locked(&self.doing) = what.into();
    }

    /// Waits for a child, and ends it when the soak is aborted.
    pub(crate) fn wait(&self, process: &mut Process, limit: Duration) -> Result<ExitStatus> {
        wait(process, limit, || self.is_aborted())
    }
}

/// Waits for a child, and ends it when there is no use for it any more.
pub(crate) fn wait(
    process: &mut Process,
    limit: Duration,
    is_aborted: impl Fn() -> bool,
) -> Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = process.ended()? {
            return Ok(status);
        }
        if is_aborted() {
            process.kill()?;
            bail!("given up, since the soak ends");
        }
        if Instant::now() >= deadline {
            process.kill()?;
            bail!("not done after {} s, and killed{}", limit.as_secs(), process::tail(process.log()));
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// What a mutex holds; a task that panicked ends the soak by itself.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
