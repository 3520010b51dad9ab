//! Metadata's part of shard 0's journal: writes down what a voter must remember.
//!
//! Everything is appended to the journal and to memory in one step without an await between, so
//! that both have the same order; waiting for the sync comes after.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use openraft::RaftLogId;
use serde::Serialize;

use super::log::{RaftLog, Statement, StoredSnapshot};
use super::raft::{LogId, RaftEntry, Vote};
use super::recovery::Piece;
use super::wire;
use crate::journal::{Entry, EntryKind, Journal, JournalError};
use crate::types::{LeaderEpoch, Lsn, Offset, TopicPartition};

/// The largest piece of a snapshot in one journal entry, where the journal's entries can hold it.
const SNAPSHOT_PIECE_BYTES: usize = 256 << 10;

/// The journal and the memory of it. Clones share both.
#[derive(Clone)]
pub(super) struct Store {
    journal: Journal,
    log: Rc<RefCell<RaftLog>>,
}

impl Store {
    pub(super) fn new(journal: Journal, log: RaftLog) -> Self {
        Self { journal, log: Rc::new(RefCell::new(log)) }
    }

    /// Looks at the memory.
    pub(super) fn with<T>(&self, look: impl FnOnce(&RaftLog) -> T) -> T {
        look(&self.log.borrow())
    }

    pub(super) async fn save_vote(&self, vote: Vote) -> Result<(), JournalError> {
        let lsn = write(&self.journal, EntryKind::RaftVote, 0, &vote);
        self.log.borrow_mut().save_vote(lsn, vote);
        self.journal.wait_synced(lsn).await
    }

    pub(super) async fn append(&self, entries: impl Iterator<Item = RaftEntry>) -> Result<(), JournalError> {
        let mut last = None;
        for entry in entries {
            let index = entry.get_log_id().index;
            let lsn = write(&self.journal, EntryKind::RaftEntry, index, &entry);
            self.log.borrow_mut().append(lsn, entry);
            last = Some(lsn);
        }
        match last {
            Some(lsn) => self.journal.wait_synced(lsn).await,
            None => Ok(()),
        }
    }

    pub(super) async fn truncate(&self, since: LogId) -> Result<(), JournalError> {
        let lsn = write(&self.journal, EntryKind::RaftTruncate, since.index, &since);
        self.log.borrow_mut().truncate(lsn, since.index);
        self.journal.wait_synced(lsn).await
    }

    pub(super) async fn purge(&self, upto: LogId) -> Result<(), JournalError> {
        let lsn = write(&self.journal, EntryKind::RaftPurge, upto.index, &upto);
        self.log.borrow_mut().purge(lsn, upto);
        self.journal.wait_synced(lsn).await
    }

    pub(super) async fn save_snapshot(&self, snapshot: StoredSnapshot) -> Result<(), JournalError> {
        let (first, last) = write_snapshot(&self.journal, &snapshot);
        self.log.borrow_mut().save_snapshot(first, last, snapshot);
        self.journal.wait_synced(last).await
    }

    /// Writes everything down again at the journal's head, and waits for the sync.
    pub(super) async fn restate(&self) -> Result<(), JournalError> {
        let journal = &self.journal;
        let last = self.log.borrow_mut().restate(|statement| {
            let at = |lsn: Lsn| (lsn, lsn);
            match statement {
                Statement::Snapshot(snapshot) => write_snapshot(journal, snapshot),
                Statement::Purge(upto) => at(write(journal, EntryKind::RaftPurge, upto.index, upto)),
                Statement::Vote(vote) => at(write(journal, EntryKind::RaftVote, 0, vote)),
                Statement::Entry(entry) => {
                    at(write(journal, EntryKind::RaftEntry, entry.get_log_id().index, entry))
                }
            }
        });
        match last {
            Some(lsn) => self.journal.wait_synced(lsn).await,
            None => Ok(()),
        }
    }

    pub(super) fn needed_from(&self) -> Option<Lsn> {
        self.log.borrow_mut().needed_from(self.journal.progress().synced)
    }
}

/// Journals a value. `index` shows in dumps; the payload says it all.
fn write<T: Serialize>(journal: &Journal, kind: EntryKind, index: u64, value: &T) -> Lsn {
    append(journal, kind, index, wire::encode(value))
}

fn append(journal: &Journal, kind: EntryKind, index: u64, payload: Vec<u8>) -> Lsn {
    journal.append(Entry {
        kind,
        target: TopicPartition::default(),
        base_offset: Offset(i64::try_from(index).expect("a log never has 2^63 entries")),
        leader_epoch: LeaderEpoch(0),
        payload: Bytes::from(payload),
    })
}

/// Journals a snapshot piece by piece; gives the first and the last piece's place.
fn write_snapshot(journal: &Journal, snapshot: &StoredSnapshot) -> (Lsn, Lsn) {
    let bytes = wire::encode_before(&snapshot.meta, &snapshot.image);
    let index = snapshot.meta.last_log_id.map_or(0, |upto| upto.index);
    let pieces = bytes.chunks(SNAPSHOT_PIECE_BYTES.min(journal.max_entry_bytes() / 2));
    let count = u32::try_from(pieces.len()).expect("an image fits in memory");
    let mut place: Option<(Lsn, Lsn)> = None;
    for (piece, bytes) in (0..count).zip(pieces) {
        let payload = wire::encode_before(&Piece { index: piece, count }, bytes);
        let lsn = append(journal, EntryKind::RaftSnapshot, index, payload);
        place = Some((place.map_or(lsn, |(first, _)| first), lsn));
    }
    place.expect("a snapshot has at least its version byte")
}
