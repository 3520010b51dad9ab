//! What the executors of one run share: when it starts, what was sent, when it is over.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use corelog_runtime::time::{Instant, unix_time_ms};
use tokio::sync::watch;

use super::payload::Pool;
use super::recorder::Interval;
use super::verify::{Sent, Verifier};
use crate::plan::Plan;

/// Time since the start of the run. It is made before the start is agreed on: connections have it.
pub(super) struct Clock {
    start: Cell<Instant>,
    start_unix_ms: Cell<i64>,
}

impl Clock {
    /// It starts now, until it is set.
    pub(super) fn new() -> Self {
        Self { start: Cell::new(Instant::now()), start_unix_ms: Cell::new(unix_time_ms()) }
    }

    /// The run starts (or has started) at this many nanoseconds of the process' clock.
    pub(super) fn set(&self, start_ns: u64) {
        let now = Instant::now();
        let ahead = Duration::from_nanos(start_ns.saturating_sub(now.as_nanos()));
        let behind = Duration::from_nanos(now.as_nanos().saturating_sub(start_ns));
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        self.start.set(now + ahead - behind);
        self.start_unix_ms.set(unix_time_ms() + ms(ahead) - ms(behind));
    }

    /// The wall clock's time `ns` after the start, as records carry it.
    pub(super) fn unix_ms(&self, ns: u64) -> i64 {
        self.start_unix_ms.get() + i64::try_from(ns / 1_000_000).unwrap_or(i64::MAX)
    }

    /// Nanoseconds since the start; 0 before it.
    pub(super) fn now_ns(&self) -> u64 {
        Instant::now().as_nanos().saturating_sub(self.start.get().as_nanos())
    }

    /// The moment `ns` after the start.
    pub(super) fn at(&self, ns: u64) -> Instant {
        self.start.get() + Duration::from_nanos(ns)
    }
}

/// The parts of a run, in nanoseconds since its start.
#[derive(Debug, Clone)]
pub(crate) struct Phases {
    /// What is measured.
    pub(crate) measured: Range<u64>,
    /// When consumers start.
    pub(crate) consume_ns: u64,
}

impl Phases {
    pub(crate) fn of(plan: &Plan) -> Self {
        let ns =
            |seconds: f64| u64::try_from(Duration::from_secs_f64(seconds).as_nanos()).unwrap_or(u64::MAX);
        let begin = ns(plan.warm_up_s);
        // A run of so many records lasts as long as it lasts.
        let end = if plan.records.is_some() { u64::MAX } else { begin + ns(plan.duration_s) };
        Self { measured: begin..end, consume_ns: ns(plan.catch_up_s) }
    }
}

/// The log ends at which consumers are done: by partition of the run.
pub(super) type Ends = Arc<Vec<i64>>;

/// What the first executor found out before the start.
#[derive(Clone)]
pub(super) struct Setup {
    /// Names of the topics that the run uses.
    pub(super) topics: Vec<String>,
    /// Where consumers begin, by partition of the run.
    pub(super) starts: Ends,
}

/// Counters that the live line shows.
#[derive(Default)]
pub(crate) struct Live {
    /// Nanoseconds since the process' clock's zero at which the run starts; 0 before that is known.
    pub(crate) start_ns: AtomicU64,
    /// When the last producer was done, since the start; 0 before.
    pub(crate) produced_ns: AtomicU64,
    /// Consumers of the run, those that are done, and those that had everything there was at some
    /// moment.
    pub(crate) consumers: AtomicUsize,
    pub(crate) consumers_done: AtomicUsize,
    pub(crate) consumers_caught_up: AtomicUsize,
    /// When the last of those that started late first had everything, since the start.
    pub(crate) caught_up_ns: AtomicU64,
    /// When the last consumer was done, since the start; 0 before.
    pub(crate) consumed_ns: AtomicU64,
    /// Records whose time came and that were never sent.
    pub(crate) unsent: AtomicU64,
    /// Everybody is done, or failed.
    pub(crate) over: AtomicBool,
}

/// Shared by the executors of a run, and by the thread that watches it.
pub(super) struct Shared {
    pub(super) plan: Plan,
    pub(super) bootstrap: String,
    /// The plan's topics are there already, and stay.
    pub(super) uses_existing_topics: bool,
    pub(super) phases: Phases,
    /// Tells this run's records from those of others on the same topic.
    pub(super) run: u32,
    pub(super) pool: Arc<Pool>,
    pub(super) setup: watch::Sender<Option<Setup>>,
    /// Executors that are not ready to start yet.
    pub(super) unready: AtomicUsize,
    pub(super) start: watch::Sender<Option<u64>>,
    /// Producers that have not ended.
    pub(super) producing: watch::Sender<usize>,
    pub(super) ends: watch::Sender<Option<Ends>>,
    /// Executors that are done.
    pub(super) ended: watch::Sender<usize>,
    pub(super) interval: Mutex<Interval>,
    pub(super) live: Live,
    pub(super) outcome: Mutex<Outcome>,
}

/// What the executors leave behind.
#[derive(Default)]
pub(super) struct Outcome {
    /// Partitions of the run, as people call them.
    pub(super) part_names: Vec<String>,
    /// By producer and partition.
    pub(super) sent: BTreeMap<(u32, u32), Sent>,
    /// By group.
    pub(super) verifiers: BTreeMap<usize, Verifier>,
    /// What went wrong on the way, by words, and how often.
    pub(super) errors: BTreeMap<String, u64>,
    /// Why the run ended early.
    pub(super) failure: Option<anyhow::Error>,
    pub(super) interrupted: bool,
}

impl Shared {
    /// What the executors leave behind; never held while waiting.
    pub(super) fn outcome(&self) -> std::sync::MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an error by its words.
    pub(super) fn blame(&self, what: String) {
        *self.outcome().errors.entry(what).or_default() += 1;
    }

    /// Ends the run early, with the first reason.
    pub(super) fn fail(&self, error: anyhow::Error) {
        let mut outcome = self.outcome();
        outcome.failure.get_or_insert(error);
        drop(outcome);
        self.live.over.store(true, SeqCst);
        corelog_runtime::shards::request_stop();
    }

    /// A producer has ended.
    pub(super) fn producer_ended(&self, at_ns: u64) {
        self.live.produced_ns.fetch_max(at_ns.max(1), SeqCst);
        self.producing.send_modify(|producing| *producing -= 1);
    }
}
