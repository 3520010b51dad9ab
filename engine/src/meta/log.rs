//! What a voter must remember, and where each piece of it is in the journal.
//!
//! Pure. The same transitions run when something is journalled and when it is replayed, so that
//! what is in memory always equals what replaying the journal's entries in order would give.

use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::rc::Rc;

use openraft::RaftLogId;

use super::raft::{LogId, RaftEntry, SnapshotMeta, Vote};
use crate::types::Lsn;

/// Something with its place in the journal.
#[derive(Debug, Clone)]
struct At<T> {
    lsn: Lsn,
    value: T,
}

/// A snapshot of the state machine.
#[derive(Debug, Clone)]
pub(super) struct StoredSnapshot {
    /// What it covers.
    pub(super) meta: SnapshotMeta,
    /// The encoded image.
    pub(super) image: Rc<[u8]>,
}

/// Entries that were superseded by another one that may not be synced yet: until it is, replay
/// would need them.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// The superseding entry.
    by: Lsn,
    /// The oldest entry that was needed before.
    from: Lsn,
}

/// Vote, log and snapshot.
#[derive(Debug, Default)]
pub(super) struct RaftLog {
    vote: Option<At<Vote>>,
    /// Everything up to here is in the snapshot only.
    purged: Option<At<LogId>>,
    entries: BTreeMap<u64, At<RaftEntry>>,
    snapshot: Option<At<StoredSnapshot>>,
    held: Vec<Held>,
}

/// One thing to write so that the journal says again what it said before.
#[derive(Debug)]
pub(super) enum Statement<'a> {
    /// The snapshot.
    Snapshot(&'a StoredSnapshot),
    /// The end of what is in the snapshot only.
    Purge(&'a LogId),
    /// The vote.
    Vote(&'a Vote),
    /// An entry.
    Entry(&'a RaftEntry),
}

impl RaftLog {
    /// The last vote.
    pub(super) fn vote(&self) -> Option<Vote> {
        self.vote.as_ref().map(|vote| vote.value)
    }

    /// The newest snapshot.
    pub(super) fn snapshot(&self) -> Option<&StoredSnapshot> {
        self.snapshot.as_ref().map(|snapshot| &snapshot.value)
    }

    /// The last entry that is only in the snapshot.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged.as_ref().map(|purged| purged.value)
    }

    /// The last entry, be it purged.
    pub(super) fn last(&self) -> Option<LogId> {
        self.entries.values().next_back().map(|entry| *entry.value.get_log_id()).or(self.purged())
    }

    /// Entries by index.
    pub(super) fn range(&self, range: impl RangeBounds<u64>) -> Vec<RaftEntry> {
        self.entries.range(range).map(|(_, entry)| entry.value.clone()).collect()
    }

    /// Where the log has a hole, if it has: the index that should be the first, and the one that is.
    pub(super) fn hole(&self) -> Option<(u64, u64)> {
        let first = self.purged().map_or(0, |purged| purged.index + 1);
        (first..).zip(self.entries.keys().copied()).find(|(expected, found)| expected != found)
    }

    /// A vote was journalled.
    pub(super) fn save_vote(&mut self, lsn: Lsn, vote: Vote) {
        self.supersede(lsn, |log| log.vote = Some(At { lsn, value: vote }));
    }

    /// An entry was journalled, be it for the second time.
    pub(super) fn append(&mut self, lsn: Lsn, entry: RaftEntry) {
        let index = entry.get_log_id().index;
        self.entries.insert(index, At { lsn, value: entry });
    }

    /// The removal of the entry at `since` and of all after it was journalled.
    pub(super) fn truncate(&mut self, lsn: Lsn, since: u64) {
        self.supersede(lsn, |log| drop(log.entries.split_off(&since)));
    }

    /// The removal of all entries up to and including `upto` was journalled.
    pub(super) fn purge(&mut self, lsn: Lsn, upto: LogId) {
        if self.purged().is_some_and(|purged| purged > upto) {
            return;
        }
        self.supersede(lsn, |log| {
            log.purged = Some(At { lsn, value: upto });
            log.drop_purged();
        });
    }

    /// A snapshot was journalled, beginning at `first` and ending at `last`.
    pub(super) fn save_snapshot(&mut self, first: Lsn, last: Lsn, snapshot: StoredSnapshot) {
        let newer = self.snapshot().is_none_or(|known| known.meta.last_log_id <= snapshot.meta.last_log_id);
        if newer {
            self.supersede(last, |log| log.snapshot = Some(At { lsn: first, value: snapshot }));
        }
    }

    /// Removes entries that a restatement brought back although they are purged.
    pub(super) fn drop_purged(&mut self) {
        if let Some(purged) = self.purged() {
            self.entries = self.entries.split_off(&(purged.index + 1));
        }
    }

    /// Writes everything down again. `write` gives the first and the last LSN of what it wrote.
    /// Returns the last one of all.
    pub(super) fn restate(&mut self, mut write: impl FnMut(Statement<'_>) -> (Lsn, Lsn)) -> Option<Lsn> {
        let before = self.oldest();
        let mut last = None;
        let mut place = |statement: Statement<'_>| {
            let (begin, end) = write(statement);
            last = Some(end);
            begin
        };
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.lsn = place(Statement::Snapshot(&snapshot.value));
        }
        if let Some(purged) = &mut self.purged {
            purged.lsn = place(Statement::Purge(&purged.value));
        }
        if let Some(vote) = &mut self.vote {
            vote.lsn = place(Statement::Vote(&vote.value));
        }
        for entry in self.entries.values_mut() {
            entry.lsn = place(Statement::Entry(&entry.value));
        }
        if let (Some(by), Some(from)) = (last, before) {
            self.held.push(Held { by, from });
        }
        last
    }

    /// The oldest entry that replay needs, when everything below `synced` is synced.
    pub(super) fn needed_from(&mut self, synced: Lsn) -> Option<Lsn> {
        self.held.retain(|held| held.by >= synced);
        let held = self.held.iter().map(|held| held.from).min();
        held.into_iter().chain(self.oldest()).min()
    }

    fn oldest(&self) -> Option<Lsn> {
        let vote = self.vote.as_ref().map(|vote| vote.lsn);
        let purged = self.purged.as_ref().map(|purged| purged.lsn);
        let snapshot = self.snapshot.as_ref().map(|snapshot| snapshot.lsn);
        let entries = self.entries.values().map(|entry| entry.lsn).min();
        [vote, purged, snapshot, entries].into_iter().flatten().min()
    }

    fn supersede(&mut self, by: Lsn, change: impl FnOnce(&mut Self)) {
        let before = self.oldest();
        change(self);
        if let Some(from) = before.filter(|from| self.oldest().is_none_or(|oldest| oldest > *from)) {
            self.held.push(Held { by, from });
        }
    }
}
