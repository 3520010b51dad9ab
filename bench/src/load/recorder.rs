//! What one executor measured since the last second.
//!
//! Times are nanoseconds since the start of the run. A record belongs to the measured phase by the
//! time at which it was to be sent, so that what a stall at its end delays still counts; throughput
//! is counted by the time of the acknowledgement.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;

use crate::result::report::Metric;

/// Precision of every histogram, in digits.
const DIGITS: u8 = 3;

/// An empty histogram of nanoseconds that grows with its values: nothing is clamped.
pub(crate) fn histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new(DIGITS).expect("three digits are allowed");
    histogram.auto(true);
    histogram
}

/// What went through in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) timeouts: u64,
    pub(crate) reconnects: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.requests += other.requests;
        self.errors += other.errors;
        self.timeouts += other.timeouts;
        self.reconnects += other.reconnects;
    }
}

/// One second of one executor, or of all of them.
pub(crate) struct Interval {
    /// In the order of [`Metric::ALL`]; only records of the measured phase.
    pub(crate) latency: [Histogram<u64>; Metric::ALL.len()],
    /// How late the generator itself was, while no broker held it back.
    pub(crate) own_lag: Histogram<u64>,
    /// Everything, also outside of the measured phase.
    pub(crate) produced: Counts,
    pub(crate) consumed: Counts,
    /// Inside of it.
    pub(crate) produced_measured: Counts,
    pub(crate) consumed_measured: Counts,
}

impl Interval {
    pub(crate) fn new() -> Self {
        Self {
            latency: std::array::from_fn(|_| histogram()),
            own_lag: histogram(),
            produced: Counts::default(),
            consumed: Counts::default(),
            produced_measured: Counts::default(),
            consumed_measured: Counts::default(),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, part) in self.latency.iter_mut().zip(&other.latency) {
            sum.add(part).expect("it grows with its values");
        }
        self.own_lag.add(&other.own_lag).expect("it grows with its values");
        self.produced.add(&other.produced);
        self.consumed.add(&other.consumed);
        self.produced_measured.add(&other.produced_measured);
        self.consumed_measured.add(&other.consumed_measured);
    }

    fn clear(&mut self) {
        self.latency.iter_mut().for_each(Histogram::reset);
        self.own_lag.reset();
        self.produced = Counts::default();
        self.consumed = Counts::default();
        self.produced_measured = Counts::default();
        self.consumed_measured = Counts::default();
    }

    pub(crate) fn of(&self, metric: Metric) -> &Histogram<u64> {
        &self.latency[place(metric)]
    }
}

fn place(metric: Metric) -> usize {
    match metric {
        Metric::Response => 0,
        Metric::Service => 1,
        Metric::ScheduleLag => 2,
        Metric::EndToEnd => 3,
    }
}

/// Which side of a run something was counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Produced,
    Consumed,
}

/// One executor's side of the measurement.
pub(crate) struct Recorder {
    current: RefCell<Interval>,
    /// The measured phase.
    measured: Range<u64>,
}

impl Recorder {
    pub(crate) fn new(measured: Range<u64>) -> Self {
        Self { current: RefCell::new(Interval::new()), measured }
    }

    /// `count` records that were to be sent at `intended_ns` took until `at_ns`, in the metric's
    /// sense, counted from `from_ns`.
    pub(crate) fn latency(&self, metric: Metric, intended_ns: u64, from_ns: u64, at_ns: u64, count: u64) {
        if self.measured.contains(&intended_ns) {
            let mut current = self.current.borrow_mut();
            let histogram = &mut current.latency[place(metric)];
            histogram.record_n(at_ns.saturating_sub(from_ns), count).expect("it grows with its values");
        }
    }

    pub(crate) fn own_lag(&self, intended_ns: u64, now_ns: u64) {
        if self.measured.contains(&intended_ns) {
            let mut current = self.current.borrow_mut();
            current.own_lag.record(now_ns.saturating_sub(intended_ns)).expect("it grows with its values");
        }
    }

    pub(crate) fn count(&self, side: Side, at_ns: u64, counts: &Counts) {
        let mut current = self.current.borrow_mut();
        let is_measured = self.measured.contains(&at_ns);
        let current = &mut *current;
        let (all, measured) = match side {
            Side::Produced => (&mut current.produced, &mut current.produced_measured),
            Side::Consumed => (&mut current.consumed, &mut current.consumed_measured),
        };
        all.add(counts);
        if is_measured {
            measured.add(counts);
        }
    }

    /// Adds what was measured since the last call to `sum`.
    pub(crate) fn hand_over(&self, sum: &Mutex<Interval>) {
        let mut current = self.current.borrow_mut();
        sum.lock().unwrap_or_else(PoisonError::into_inner).add(&current);
        current.clear();
    }
}
