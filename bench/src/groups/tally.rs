//! What was measured since the last second. Times are nanoseconds since the start of the load.

use std::collections::BTreeMap;
use std::ops::Range;

use hdrhistogram::Histogram;

use crate::load::recorder::histogram;

/// One second, or all of them.
pub(super) struct Tally {
    /// From the intended time of a commit to its acknowledgement; of commits of the measured phase.
    pub(super) response: Histogram<u64>,
    /// From its intended time to its being sent.
    pub(super) lag: Histogram<u64>,
    /// Commits acknowledged, also outside of the measured phase.
    pub(super) commits: u64,
    /// Of those, within it.
    pub(super) commits_measured: u64,
    /// Signs of life answered within it.
    pub(super) heartbeats_measured: u64,
    /// By request and word; in the whole run.
    pub(super) errors: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            response: histogram(),
            lag: histogram(),
            commits: 0,
            commits_measured: 0,
            heartbeats_measured: 0,
            errors: BTreeMap::new(),
        }
    }

    /// A commit that was due, sent and acknowledged at these times.
    pub(super) fn commit(&mut self, due_ns: u64, sent_ns: u64, now_ns: u64, measured: &Range<u64>) {
        self.commits += 1;
        self.commits_measured += u64::from(measured.contains(&now_ns));
        if measured.contains(&due_ns) {
            let grows = "the histogram grows with its values";
            self.response.record(now_ns.saturating_sub(due_ns)).expect(grows);
            self.lag.record(sent_ns.saturating_sub(due_ns)).expect(grows);
        }
    }

    /// Something went wrong.
    pub(super) fn error(&mut self, what: String) {
        *self.errors.entry(what).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        let grows = "it grows with its values";
        self.response.add(&other.response).expect(grows);
        self.lag.add(&other.lag).expect(grows);
        self.commits += other.commits;
        self.commits_measured += other.commits_measured;
        self.heartbeats_measured += other.heartbeats_measured;
        for (what, count) in &other.errors {
            *self.errors.entry(what.clone()).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_belong_to_the_phase_of_the_intended_time_and_counts_to_that_of_the_answer() {
        let mut tally = Tally::new();
        let measured = 100..200;
        tally.commit(99, 100, 150, &measured);
        tally.commit(199, 230, 250, &measured);
        tally.commit(120, 120, 130, &measured);
        assert_eq!((tally.commits, tally.commits_measured), (3, 2));
        assert_eq!((tally.response.len(), tally.response.max(), tally.lag.max()), (2, 51, 31));
        let mut sum = Tally::new();
        tally.error("OffsetCommit: REFUSED".to_owned());
        sum.add(&tally);
        sum.add(&tally);
        assert_eq!((sum.commits, sum.response.len()), (6, 4));
        assert_eq!(sum.errors, BTreeMap::from([("OffsetCommit: REFUSED".to_owned(), 2)]));
    }
}
