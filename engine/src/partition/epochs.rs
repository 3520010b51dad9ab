//! Which leader epoch began at which offset (KIP-101, KIP-279).
//!
//! Pure data; owned by a partition, stored in its checkpoint.

use crate::api::EpochEnd;
use crate::types::{LeaderEpoch, Offset};

/// The start offset of every leader epoch that wrote records, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EpochHistory {
    starts: Vec<(LeaderEpoch, Offset)>,
}

impl EpochHistory {
    /// Restores a history from its stored form; pairs must ascend in both epoch and offset.
    pub fn from_starts(starts: Vec<(LeaderEpoch, Offset)>) -> Option<Self> {
        let ascending = starts.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
        ascending.then_some(Self { starts })
    }

    /// The stored form.
    pub fn starts(&self) -> &[(LeaderEpoch, Offset)] {
        &self.starts
    }

    /// The newest epoch that wrote something.
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.starts.last().map(|(epoch, _)| *epoch)
    }

    /// Notes that a batch of `epoch` starts at `offset`.
    pub fn note(&mut self, epoch: LeaderEpoch, offset: Offset) {
        if self.latest().is_none_or(|latest| latest < epoch) {
            // An epoch that wrote nothing leaves no trace, so ends stay those of real batches.
            while self.starts.last().is_some_and(|(_, start)| *start >= offset) {
                self.starts.pop();
            }
            self.starts.push((epoch, offset));
        }
    }

    /// Forgets everything at and after `end`.
    pub fn truncate_to(&mut self, end: Offset) {
        self.starts.retain(|(_, start)| *start < end);
    }

    /// Forgets the epochs of which no record at or after `log_start` is left.
    pub fn start_at(&mut self, log_start: Offset) {
        let began = self.starts.partition_point(|(_, start)| *start <= log_start);
        self.starts.drain(..began.saturating_sub(1));
    }

    /// The epoch of the record at `offset`.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.starts.partition_point(|(_, start)| *start <= offset);
        after.checked_sub(1).map(|index| self.starts[index].0)
    }

    /// The largest epoch ≤ `asked` and its exclusive end, as OffsetForLeaderEpoch wants it.
    ///
    /// `current` is the epoch in which this node leads, which may not have written anything yet. An
    /// epoch older than all that are known ends where those begin: its records are gone, and a client
    /// that read the last of them has lost nothing.
    pub fn end_of(&self, asked: LeaderEpoch, current: LeaderEpoch, log_end: Offset) -> EpochEnd {
        let none = EpochEnd { leader_epoch: LeaderEpoch(-1), end_offset: Offset(-1) };
        if asked == current {
            return EpochEnd { leader_epoch: asked, end_offset: log_end };
        }
        if asked > current {
            return none;
        }
        let after = self.starts.partition_point(|(epoch, _)| *epoch <= asked);
        let end_offset = self.starts.get(after).map_or(log_end, |(_, start)| *start);
        match after.checked_sub(1) {
            Some(index) => EpochEnd { leader_epoch: self.starts[index].0, end_offset },
            None if self.starts.is_empty() => none,
            None => EpochEnd { leader_epoch: asked, end_offset },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(pairs: &[(i32, i64)]) -> EpochHistory {
        let mut history = EpochHistory::default();
        for (epoch, offset) in pairs {
            history.note(LeaderEpoch(*epoch), Offset(*offset));
        }
        history
    }

    fn end(history: &EpochHistory, asked: i32) -> (i32, i64) {
        let end = history.end_of(LeaderEpoch(asked), LeaderEpoch(9), Offset(100));
        (end.leader_epoch.0, end.end_offset.0)
    }

    #[test]
    fn the_end_of_an_epoch_is_the_start_of_the_next_that_wrote() {
        let history = history(&[(1, 0), (1, 5), (3, 10), (7, 40)]);
        assert_eq!(end(&history, 0), (0, 0));
        assert_eq!(end(&EpochHistory::default(), 0), (-1, -1));
        assert_eq!(end(&history, 1), (1, 10));
        assert_eq!(end(&history, 2), (1, 10));
        assert_eq!(end(&history, 3), (3, 40));
        assert_eq!(end(&history, 8), (7, 100));
        assert_eq!(end(&history, 9), (9, 100));
        assert_eq!(end(&history, 10), (-1, -1));
    }

    #[test]
    fn an_epoch_that_wrote_nothing_leaves_no_trace() {
        let mut h = history(&[(1, 0), (2, 10)]);
        h.note(LeaderEpoch(3), Offset(10));
        assert_eq!(h.starts(), &[(LeaderEpoch(1), Offset(0)), (LeaderEpoch(3), Offset(10))]);
        assert_eq!(h.epoch_at(Offset(9)), Some(LeaderEpoch(1)));
        assert_eq!(h.epoch_at(Offset(10)), Some(LeaderEpoch(3)));
    }

    #[test]
    fn the_epoch_at_the_log_start_is_the_oldest_that_is_kept() {
        for (log_start, oldest) in [(0, 1), (9, 1), (10, 2), (15, 2), (20, 4), (25, 4)] {
            let mut h = history(&[(1, 0), (2, 10), (4, 20)]);
            h.start_at(Offset(log_start));
            assert_eq!(h.starts()[0].0, LeaderEpoch(oldest), "{log_start}");
            assert_eq!(h.epoch_at(Offset(log_start)), Some(LeaderEpoch(oldest)));
            // Who read the last record before the start goes on.
            let all = history(&[(1, 0), (2, 10), (4, 20)]);
            if let Some(read) = all.epoch_at(Offset(log_start - 1)) {
                let (epoch, end_offset) = end(&h, read.0);
                assert_eq!(epoch, read.0);
                assert!(end_offset >= log_start, "{end_offset} is not before {log_start}");
            }
            assert_eq!(end(&h, 4), (4, 100));
        }
        let mut none = EpochHistory::default();
        none.start_at(Offset(7));
        assert_eq!(none, EpochHistory::default());
    }

    #[test]
    fn truncation_forgets_later_epochs() {
        let mut h = history(&[(1, 0), (2, 10), (4, 20)]);
        h.truncate_to(Offset(20));
        assert_eq!(h.latest(), Some(LeaderEpoch(2)));
    }
}
