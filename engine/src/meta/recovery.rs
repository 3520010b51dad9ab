//! From journal entries back to vote, log and snapshot.

use std::rc::Rc;
use std::sync::Arc;

use super::image::MetaImage;
use super::log::{RaftLog, StoredSnapshot};
use super::raft::{LogId, RaftEntry, SnapshotMeta, Vote};
use super::wire::{self, WireError};
use crate::journal::{Entry, EntryKind};
use crate::types::Lsn;

/// Metadata's journal does not make sense.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecoveryError {
    /// An entry cannot be read.
    #[error("metadata: journal entry {lsn} ({kind:?}) is unreadable: {source}")]
    Unreadable {
        /// Its place.
        lsn: Lsn,
        /// Its kind.
        kind: EntryKind,
        /// What is wrong.
        source: WireError,
    },
    /// The snapshot cannot be read.
    #[error("metadata: the snapshot is unreadable: {0}")]
    Snapshot(WireError),
    /// Entries are missing.
    #[error("metadata: the log has a hole: entry {expected} is missing before entry {found}")]
    Hole {
        /// The first missing index.
        expected: u64,
        /// The next index that exists.
        found: u64,
    },
    /// The log was cut off at its beginning, and no snapshot has what was there.
    #[error("metadata: entries up to {purged} are gone, and no snapshot holds them")]
    NoSnapshot {
        /// The index up to which nothing is left.
        purged: u64,
    },
}

/// One piece of a snapshot: a journal entry holds no more than so much.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(super) struct Piece {
    /// Counts from 0.
    pub(super) index: u32,
    /// How many there are.
    pub(super) count: u32,
}

/// Collects metadata's entries while a journal is replayed. Fed in the order of the journal; other
/// kinds of entries are ignored.
#[derive(Debug, Default)]
pub struct MetaRecovery {
    log: RaftLog,
    /// Pieces of a snapshot that is not complete: place of the first one, number, bytes.
    pieces: Option<(Lsn, u32, Vec<u8>)>,
    error: Option<RecoveryError>,
}

/// What a voter starts with.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) log: RaftLog,
    /// The snapshot's image, or the empty one.
    pub(super) image: Arc<MetaImage>,
}

impl MetaRecovery {
    /// Takes in one entry. Errors are kept, and reported by [`Meta::start`](super::Meta::start).
    pub fn replay(&mut self, lsn: Lsn, entry: &Entry) {
        if self.error.is_none()
            && let Err(source) = self.take(lsn, entry)
        {
            self.error = Some(RecoveryError::Unreadable { lsn, kind: entry.kind, source });
        }
    }

    fn take(&mut self, lsn: Lsn, entry: &Entry) -> Result<(), WireError> {
        let payload = &entry.payload;
        match entry.kind {
            EntryKind::RaftVote => self.log.save_vote(lsn, wire::decode::<Vote>(payload)?),
            EntryKind::RaftEntry => self.log.append(lsn, wire::decode::<RaftEntry>(payload)?),
            EntryKind::RaftTruncate => self.log.truncate(lsn, wire::decode::<LogId>(payload)?.index),
            EntryKind::RaftPurge => self.log.purge(lsn, wire::decode::<LogId>(payload)?),
            EntryKind::RaftSnapshot => self.take_piece(lsn, payload)?,
            EntryKind::Append
            | EntryKind::TruncateTo
            | EntryKind::LogStart
            | EntryKind::DeletePartition
            | EntryKind::Checkpoint
            | EntryKind::CarryForward => {}
        }
        Ok(())
    }

    /// A snapshot's pieces follow each other. A series without its beginning (its journal file was
    /// released) or without its end (the journal ends there) is no snapshot.
    fn take_piece(&mut self, lsn: Lsn, payload: &[u8]) -> Result<(), WireError> {
        let (piece, bytes) = wire::decode_before::<Piece>(payload)?;
        let (first, taken, mut collected) = match self.pieces.take() {
            _ if piece.index == 0 => (lsn, 0, Vec::new()),
            Some(series) if series.1 == piece.index => series,
            Some(_) | None => return Ok(()),
        };
        collected.extend_from_slice(bytes);
        if taken + 1 < piece.count {
            self.pieces = Some((first, taken + 1, collected));
            return Ok(());
        }
        let (meta, image) = wire::decode_before::<SnapshotMeta>(&collected)?;
        self.log.save_snapshot(first, lsn, StoredSnapshot { meta, image: Rc::from(image) });
        Ok(())
    }

    /// Checks that what was collected is whole.
    pub(super) fn finish(self) -> Result<Recovered, RecoveryError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut log = self.log;
        log.drop_purged();
        if let Some((expected, found)) = log.hole() {
            return Err(RecoveryError::Hole { expected, found });
        }
        let covered = log.snapshot().and_then(|snapshot| snapshot.meta.last_log_id);
        if let Some(purged) = log.purged().filter(|purged| covered.is_none_or(|upto| upto < *purged)) {
            return Err(RecoveryError::NoSnapshot { purged: purged.index });
        }
        let image = match log.snapshot() {
            Some(snapshot) => Arc::new(wire::decode_image(&snapshot.image).map_err(RecoveryError::Snapshot)?),
            None => Arc::default(),
        };
        Ok(Recovered { log, image })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::types::{LeaderEpoch, NodeId, Offset, TopicPartition};

    fn log_id(index: u64) -> LogId {
        LogId::new(openraft::CommittedLeaderId::new(1, NodeId(1)), index)
    }

    /// Payloads that mostly make sense by themselves.
    fn payload() -> impl Strategy<Value = Vec<u8>> {
        let piece = (0..3_u32, 0..3_u32, prop::collection::vec(any::<u8>(), 0..40));
        prop_oneof![
            (0..5_u64).prop_map(|index| wire::encode(&RaftEntry {
                log_id: log_id(index),
                payload: openraft::EntryPayload::Blank,
            })),
            (0..5_u64).prop_map(|index| wire::encode(&log_id(index))),
            (0..5_u64).prop_map(|term| wire::encode(&Vote::new(term, NodeId(1)))),
            piece.prop_map(|(index, count, rest)| wire::encode_before(&Piece { index, count }, &rest)),
            Just(wire::encode_before(
                &Piece { index: 0, count: 1 },
                &wire::encode_before(&SnapshotMeta::default(), &wire::encode_image(&MetaImage::default())),
            )),
            prop::collection::vec(any::<u8>(), 0..60),
        ]
    }

    proptest! {
        #[test]
        fn no_entries_make_metadata_panic(
            entries in prop::collection::vec((5..=11_u8, payload(), any::<prop::sample::Index>(), any::<u8>()), 0..12),
        ) {
            let kinds = [
                EntryKind::RaftVote,
                EntryKind::RaftEntry,
                EntryKind::RaftTruncate,
                EntryKind::RaftSnapshot,
                EntryKind::RaftPurge,
            ];
            let mut recovery = MetaRecovery::default();
            for (number, (kind, mut payload, at, value)) in (0..).zip(entries) {
                // One in four is damaged.
                if value % 4 == 0 && !payload.is_empty() {
                    let at = at.index(payload.len());
                    payload[at] = value;
                }
                let entry = Entry {
                    kind: kinds[usize::from(kind) % kinds.len()],
                    target: TopicPartition::default(),
                    base_offset: Offset(0),
                    leader_epoch: LeaderEpoch(-1),
                    payload: Bytes::from(payload),
                };
                recovery.replay(Lsn(number), &entry);
            }
            let _ = recovery.finish();
        }
    }
}
