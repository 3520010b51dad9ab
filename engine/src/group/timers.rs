//! Deadlines by name. Setting one again replaces it. Equal deadlines are due in the order of names,
//! so that a run can be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a deadline is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A member was silent for too long.
    Session(Arc<str>, Arc<str>),
    /// A classic group's join phase ends.
    Join(Arc<str>),
    /// Members of a classic group did not fetch their assignment.
    Sync(Arc<str>),
    /// A member of a consumer group did not give up its partitions.
    Revoke(Arc<str>, Arc<str>),
    /// A classic member of a consumer group did not join again.
    Rejoin(Arc<str>, Arc<str>),
    /// A classic member of a consumer group did not fetch its assignment.
    MemberSync(Arc<str>, Arc<str>),
    /// Offsets and empty groups are looked through for expired ones.
    Expiry,
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(u64, Timer)>,
    by_name: BTreeMap<Timer, u64>,
}

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, at_ms: u64) {
        if let Some(before) = self.by_name.insert(timer.clone(), at_ms) {
            if before == at_ms {
                return;
            }
            self.by_time.remove(&(before, timer.clone()));
        }
        self.by_time.insert((at_ms, timer));
    }

    pub(super) fn cancel(&mut self, timer: &Timer) {
        if let Some(at_ms) = self.by_name.remove(timer) {
            self.by_time.remove(&(at_ms, timer.clone()));
        }
    }

    pub(super) fn is_set(&self, timer: &Timer) -> bool {
        self.by_name.contains_key(timer)
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        self.by_time.first().map(|(at_ms, _)| *at_ms)
    }

    /// Takes the first one that is due.
    pub(super) fn pop(&mut self, now_ms: u64) -> Option<Timer> {
        if self.next_ms()? > now_ms {
            return None;
        }
        let (_, timer) = self.by_time.pop_first()?;
        self.by_name.remove(&timer);
        Some(timer)
    }
}
