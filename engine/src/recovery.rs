//! Turns a journal's entries back into partitions.
//!
//! Pure: [`Replay`] is fed every replayed entry in order and does no I/O; what it leaves is what a
//! shard adopts. An entry that contradicts its partition's state makes that partition faulty: it is
//! reported and taken offline, never repaired by guessing.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use corelog_protocol::batch::{BatchHeader, BatchIter};

use crate::journal::{Entry, EntryKind};
use crate::partition::state::PartitionState;
use crate::partition::tail::TailBatch;
use crate::planted::{Planted, PlantedBug};
use crate::types::{Lsn, Offset, TopicPartition};

/// One partition as a journal tells it.
#[derive(Debug)]
pub struct RecoveredPartition {
    /// Its state at the journal's end.
    pub state: PartitionState,
    /// Batches that are not in segments, up to the log's end.
    pub tail: Vec<TailBatch>,
    /// The oldest entry that rebuilding the state needs.
    pub state_lsn: Lsn,
    /// The segments must be cut to this offset before they are used.
    pub cut_segments_to: Option<Offset>,
    /// Why it cannot be served.
    pub fault: Option<String>,
    /// Whether the state is complete: the replay saw the first append or a checkpoint.
    anchored: bool,
}

/// What a journal holds, as far as it was replayed.
#[derive(Debug, Default)]
pub struct Replay {
    partitions: BTreeMap<TopicPartition, RecoveredPartition>,
    deleted: BTreeSet<TopicPartition>,
    planted: PlantedBug,
    now_ms: i64,
}

/// The partitions of one journal.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Partitions that exist.
    pub partitions: BTreeMap<TopicPartition, RecoveredPartition>,
    /// Partitions whose deletion was journalled; their files may still be there.
    pub deleted: BTreeSet<TopicPartition>,
}

impl Replay {
    /// An empty replay. `now_ms` is when producers seen in it count as active.
    pub fn new(now_ms: i64, planted: PlantedBug) -> Self {
        Self { planted, now_ms, ..Self::default() }
    }

    /// Takes the next entry. Raft entries are not for it.
    pub fn entry(&mut self, lsn: Lsn, entry: &Entry) {
        let skipped = self.planted.has(Planted::TruncationNotReplayed);
        match entry.kind {
            EntryKind::Append => self.append(lsn, entry),
            EntryKind::Checkpoint => self.checkpoint(lsn, entry.payload.clone()),
            EntryKind::CarryForward => self.carry_forward(lsn, entry),
            EntryKind::TruncateTo if !skipped => self.truncate_to(entry),
            EntryKind::LogStart if !skipped => self.log_start(entry),
            EntryKind::DeletePartition if !skipped => {
                self.partitions.remove(&entry.target);
                self.deleted.insert(entry.target);
            }
            EntryKind::TruncateTo | EntryKind::LogStart | EntryKind::DeletePartition => {}
            EntryKind::RaftVote
            | EntryKind::RaftEntry
            | EntryKind::RaftTruncate
            | EntryKind::RaftSnapshot
            | EntryKind::RaftPurge => {}
        }
    }

    /// The result, once every entry was seen.
    pub fn finish(mut self) -> Recovered {
        for partition in self.partitions.values_mut() {
            if !partition.anchored {
                partition.blame("the journal holds neither its first record nor a checkpoint of it");
            }
            partition.state.high_watermark = partition.state.log_end;
            partition.keep_contiguous();
        }
        Recovered { partitions: self.partitions, deleted: self.deleted }
    }

    fn partition(&mut self, lsn: Lsn, target: TopicPartition, first: Offset) -> &mut RecoveredPartition {
        self.partitions.entry(target).or_insert_with(|| {
            let mut state = PartitionState::empty(target);
            state.log_end = first;
            RecoveredPartition {
                state,
                tail: Vec::new(),
                state_lsn: lsn,
                cut_segments_to: None,
                fault: None,
                anchored: first == Offset(0),
            }
        })
    }

    fn append(&mut self, lsn: Lsn, entry: &Entry) {
        let now_ms = self.now_ms;
        let partition = self.partition(lsn, entry.target, entry.base_offset);
        match read_batch(lsn, entry.payload.clone()) {
            Ok((header, batch)) if batch.base == partition.state.log_end => {
                partition.state.epochs.note(batch.leader_epoch, batch.base);
                partition.state.producers.note(&header, now_ms);
                partition.state.log_end = batch.next;
                partition.tail.push(batch);
            }
            Ok((_, batch)) => {
                let end = partition.state.log_end;
                partition.blame(&format!("the journal goes on at offset {} after {end}", batch.base));
            }
            Err(reason) => partition.blame(&format!("a journalled batch is unreadable: {reason}")),
        }
    }

    fn checkpoint(&mut self, lsn: Lsn, mut payload: Bytes) {
        while !payload.is_empty() {
            match PartitionState::decode(&mut payload) {
                Ok(state) => self.adopt_state(lsn, state),
                // The entry's CRC was right, so this is a newer format or our own bug: nothing in
                // this journal can be trusted to be complete.
                Err(error) => {
                    for partition in self.partitions.values_mut() {
                        partition.blame(&format!("a checkpoint is unreadable: {error}"));
                    }
                    return;
                }
            }
        }
    }

    /// The checkpointed state replaces what was replayed; batches that it does not find in segments
    /// were replayed before it, in order.
    fn adopt_state(&mut self, lsn: Lsn, state: PartitionState) {
        let partition = self.partition(lsn, state.target, state.log_end);
        // What was wrong before is of no matter if this state is whole.
        partition.fault = None;
        let flushed_to = state.position.next;
        partition.tail.retain(|batch| batch.next > flushed_to && batch.base < state.log_end);
        let first = partition.tail.first().map_or(state.log_end, |batch| batch.base);
        let end = partition.tail.last().map_or(flushed_to, |batch| batch.next);
        if first > flushed_to || end < state.log_end {
            let (want, have) = (flushed_to..state.log_end, first..end);
            partition
                .blame(&format!("the checkpoint relies on offsets {want:?}, the journal holds {have:?}"));
        }
        let relies_on = partition.tail.first().map_or(lsn, |batch| batch.lsn.min(lsn));
        partition.adopt(relies_on, state);
    }

    fn carry_forward(&mut self, lsn: Lsn, entry: &Entry) {
        let mut payload = entry.payload.clone();
        let partition = self.partition(lsn, entry.target, entry.base_offset);
        match PartitionState::decode(&mut payload) {
            Ok(state) if state.target == entry.target => match read_tail(lsn, payload, &state) {
                Ok(tail) => {
                    partition.tail = tail;
                    partition.fault = None;
                    partition.adopt(lsn, state);
                }
                Err(reason) => partition.blame(&format!("a carried tail is unreadable: {reason}")),
            },
            Ok(_) => partition.blame("a carry-forward names another partition"),
            Err(error) => partition.blame(&format!("a carry-forward is unreadable: {error}")),
        }
    }

    fn truncate_to(&mut self, entry: &Entry) {
        // Unknown so far means that a later checkpoint anchors it, and includes this.
        let Some(partition) = self.partitions.get_mut(&entry.target) else { return };
        let end = entry.base_offset;
        if end < partition.state.log_start {
            let start = partition.state.log_start;
            partition.blame(&format!("the journal cuts the log to {end}, it starts at {start}"));
            return;
        }
        let state = &mut partition.state;
        partition.tail.retain(|batch| batch.base < end);
        state.log_end = state.log_end.min(end);
        // What is appended instead was not mapped.
        state.cleaned_to = state.cleaned_to.min(end);
        // All of it is cut off with what it replaces, perhaps already.
        state.swaps.pending = state.swaps.pending.filter(|pending| pending.base < end);
        state.epochs.truncate_to(end);
        state.producers.truncate_to(end);
        if partition.anchored && state.position.reaches_beyond(end) {
            let cut = partition.cut_segments_to.unwrap_or(end);
            partition.cut_segments_to = Some(cut.min(end));
        }
    }

    fn log_start(&mut self, entry: &Entry) {
        let Some(partition) = self.partitions.get_mut(&entry.target) else { return };
        let start = entry.base_offset;
        if start > partition.state.log_end {
            let end = partition.state.log_end;
            partition.blame(&format!("the journal moves the log start to {start}, the log ends at {end}"));
            return;
        }
        partition.state.log_start = partition.state.log_start.max(start);
        partition.state.epochs.start_at(partition.state.log_start);
    }
}

impl RecoveredPartition {
    /// A partition of which nothing but losses is known, from `lsn` on.
    pub fn lost(target: TopicPartition, lsn: Lsn) -> Self {
        Self {
            state: PartitionState::empty(target),
            tail: Vec::new(),
            state_lsn: lsn,
            cut_segments_to: None,
            fault: None,
            anchored: true,
        }
    }

    /// Notes the first thing that was wrong.
    pub fn blame(&mut self, reason: &str) {
        self.fault.get_or_insert_with(|| reason.to_owned());
    }

    /// What contradicted itself may have left a gap in the tail. Nothing of such a partition is
    /// served; what is before the gap stays in the journal with it.
    fn keep_contiguous(&mut self) {
        let gap = self.tail.windows(2).position(|pair| pair[0].next != pair[1].base);
        if let Some(before) = gap {
            self.blame("the journal holds batches that do not follow each other");
            self.tail.truncate(before + 1);
        }
    }

    fn adopt(&mut self, lsn: Lsn, state: PartitionState) {
        self.state = state;
        self.state_lsn = lsn;
        self.anchored = true;
        // A checkpoint is journalled after the cut, so its position is that of the cut segments.
        self.cut_segments_to = None;
    }
}

/// Decodes a journalled batch.
fn read_batch(lsn: Lsn, bytes: Bytes) -> Result<(BatchHeader, TailBatch), String> {
    let header = BatchHeader::parse(&bytes).map_err(|error| error.to_string())?;
    if header.total_len() != bytes.len() || header.base_offset >= header.next_offset() {
        return Err("its header contradicts its length".to_owned());
    }
    let batch = TailBatch {
        base: Offset(header.base_offset),
        next: Offset(header.next_offset()),
        lsn,
        leader_epoch: crate::types::LeaderEpoch(header.leader_epoch),
        max_timestamp_ms: header.max_timestamp,
        bytes,
    };
    Ok((header, batch))
}

/// Decodes the batches behind a carried state, which reach from its segments to its end.
fn read_tail(lsn: Lsn, bytes: Bytes, state: &PartitionState) -> Result<Vec<TailBatch>, String> {
    let mut tail = Vec::new();
    let mut expected = state.position.next;
    for batch in BatchIter::new(&bytes) {
        let batch = batch.map_err(|error| error.to_string())?;
        let (_, batch) = read_batch(lsn, bytes.slice_ref(batch.bytes))?;
        if batch.base != expected {
            return Err(format!("offset {} follows {expected}", batch.base));
        }
        expected = batch.next;
        tail.push(batch);
    }
    if expected == state.log_end { Ok(tail) } else { Err(format!("it ends at {expected}")) }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use corelog_protocol::batch::{BatchBuilder, set_base_offset};

    use super::*;
    use crate::log::clean::{PendingSwap, Swaps};
    use crate::types::{LeaderEpoch, PartitionId, TopicId};

    fn target() -> TopicPartition {
        TopicPartition::new(TopicId(uuid::Uuid::from_u128(1)), PartitionId(3))
    }

    fn batch(base: i64, count: i64) -> Bytes {
        let mut builder = BatchBuilder::new();
        for _ in 0..count {
            builder = builder.record(1, None, Some(b"value"));
        }
        let mut bytes = builder.build().unwrap();
        set_base_offset(&mut bytes, base);
        bytes.freeze()
    }

    fn entry(kind: EntryKind, base: i64, payload: Bytes) -> Entry {
        Entry { kind, target: target(), base_offset: Offset(base), leader_epoch: LeaderEpoch(0), payload }
    }

    fn replay(entries: &[Entry]) -> Recovered {
        let mut replay = Replay::new(0, PlantedBug::NONE);
        for (index, entry) in entries.iter().enumerate() {
            replay.entry(Lsn(index as u64), entry);
        }
        replay.finish()
    }

    fn state(flushed_to: i64, log_end: i64) -> PartitionState {
        let mut state = PartitionState::empty(target());
        state.position.next = Offset(flushed_to);
        state.log_end = Offset(log_end);
        state
    }

    fn stored(state: &PartitionState, tail: &[Bytes]) -> Bytes {
        let mut bytes = BytesMut::new();
        state.encode(&mut bytes);
        for batch in tail {
            bytes.put_slice(batch);
        }
        bytes.freeze()
    }

    #[test]
    fn appends_are_replayed_in_order() {
        let recovered =
            replay(&[entry(EntryKind::Append, 0, batch(0, 3)), entry(EntryKind::Append, 3, batch(3, 2))]);
        let partition = &recovered.partitions[&target()];
        assert_eq!((partition.state.log_end, partition.tail.len()), (Offset(5), 2));
        assert_eq!((partition.state_lsn, &partition.fault), (Lsn(0), &None));
    }

    #[test]
    fn a_gap_is_a_fault() {
        let recovered =
            replay(&[entry(EntryKind::Append, 0, batch(0, 3)), entry(EntryKind::Append, 4, batch(4, 2))]);
        assert!(recovered.partitions[&target()].fault.is_some());
    }

    #[test]
    fn a_log_that_begins_in_the_middle_needs_a_checkpoint() {
        let appends = [entry(EntryKind::Append, 7, batch(7, 3)), entry(EntryKind::Append, 10, batch(10, 2))];
        assert!(replay(&appends).partitions[&target()].fault.is_some());
        let checkpoint = entry(EntryKind::Checkpoint, 0, stored(&state(10, 12), &[]));
        let recovered = replay(&[&appends[..], &[checkpoint]].concat());
        let partition = &recovered.partitions[&target()];
        assert_eq!(partition.fault, None);
        assert_eq!(
            (partition.state_lsn, partition.tail[0].base, partition.tail.len()),
            (Lsn(1), Offset(10), 1)
        );
    }

    #[test]
    fn a_checkpoint_that_relies_on_missing_batches_is_a_fault() {
        let checkpoint = entry(EntryKind::Checkpoint, 0, stored(&state(5, 12), &[]));
        let recovered = replay(&[entry(EntryKind::Append, 7, batch(7, 5)), checkpoint]);
        assert!(recovered.partitions[&target()].fault.is_some());
    }

    #[test]
    fn a_carry_forward_replaces_what_came_before() {
        let carried = stored(&state(10, 12), &[batch(10, 2)]);
        let recovered = replay(&[
            entry(EntryKind::CarryForward, 12, carried),
            entry(EntryKind::Append, 12, batch(12, 1)),
        ]);
        let partition = &recovered.partitions[&target()];
        assert_eq!(partition.fault, None);
        assert_eq!((partition.state.log_end, partition.tail.len()), (Offset(13), 2));
        let short = stored(&state(10, 13), &[batch(10, 2)]);
        let recovered = replay(&[entry(EntryKind::CarryForward, 13, short)]);
        assert!(recovered.partitions[&target()].fault.is_some());
    }

    #[test]
    fn truncations_trims_and_deletions_are_replayed() {
        let appends = [entry(EntryKind::Append, 0, batch(0, 3)), entry(EntryKind::Append, 3, batch(3, 2))];
        let cut = entry(EntryKind::TruncateTo, 3, Bytes::new());
        let trim = entry(EntryKind::LogStart, 2, Bytes::new());
        let recovered = replay(&[&appends[..], &[cut, trim]].concat());
        let partition = &recovered.partitions[&target()];
        assert_eq!((partition.state.log_end, partition.state.log_start), (Offset(3), Offset(2)));
        let gone = entry(EntryKind::DeletePartition, 0, Bytes::new());
        let recovered = replay(&[&appends[..], &[gone]].concat());
        assert!(recovered.partitions.is_empty() && recovered.deleted.contains(&target()));
    }

    /// What a shard makes of it: nothing that was replayed may be more than it can take.
    fn adopt(recovered: Recovered) {
        use crate::log::{FileCache, FileCacheOptions, SegmentLog};
        use crate::topic_config::{NodeDefaults, TopicConfig};

        let config = TopicConfig::effective(&BTreeMap::new(), &NodeDefaults::default());
        let config = std::rc::Rc::new(config);
        for recovered in recovered.partitions.into_values() {
            let RecoveredPartition { state, tail, state_lsn, .. } = recovered;
            let mut stored = BytesMut::new();
            state.encode(&mut stored);
            if recovered.fault.is_none() {
                assert!(PartitionState::decode(&mut stored.freeze()).is_ok(), "{state:?}");
            }
            let options = crate::shard::start::segment_options(&config, &shard_options());
            let files = FileCache::new(FileCacheOptions::default());
            let dir = std::path::PathBuf::new();
            let log = SegmentLog::new(dir, state.target, state.position, state.log_start, options, files);
            let log = std::rc::Rc::new(log);
            let partition = crate::partition::Partition::new(
                state,
                tail,
                Some(state_lsn),
                log,
                std::rc::Rc::clone(&config),
            );
            let read = partition.tail().read(partition.log_start(), partition.log_end());
            assert!(read.count() <= 100);
        }
    }

    fn shard_options() -> crate::shard::ShardOptions {
        crate::shard::ShardOptions {
            data_dir: std::path::PathBuf::new(),
            node: crate::types::NodeId(1),
            tail_cache_bytes: 1 << 20,
            unflushed_bytes_max: 1 << 20,
            flush_chunk_bytes: 1 << 20,
            carry_bytes_max: 1 << 10,
            journal_queue_bytes_max: 1 << 20,
            open_files_max: 8,
            groups: crate::group::GroupConfig::default(),
            retention_check_interval: std::time::Duration::from_secs(300),
            clean: crate::shard::CleanOptions::default(),
            planted: PlantedBug::NONE,
        }
    }

    mod properties {
        use proptest::prelude::*;

        use super::*;
        use crate::log::SegmentPosition;

        /// Batches, states and tails that mostly make sense, by themselves.
        fn payload() -> impl Strategy<Value = Bytes> {
            let small = 0..12_i64;
            let batches = || {
                let any = (small.clone(), 1..4_i64).prop_map(|(base, count)| batch(base, count));
                prop::collection::vec(any, 0..3)
            };
            let numbers = prop::collection::vec(small.clone(), 5).prop_map(|mut numbers| {
                numbers.sort_unstable();
                numbers
            });
            let states = (numbers, 0..3_u64, batches()).prop_map(|(numbers, blocks, tail)| {
                let mut state = state(numbers[1], numbers[4]);
                state.position = SegmentPosition {
                    segment_base: Offset(numbers[0]),
                    position_bytes: 4096 * (1 + blocks),
                    next: Offset(numbers[1]),
                };
                (state.log_start, state.high_watermark) = (Offset(numbers[2]), Offset(numbers[3]));
                stored(&state, &tail)
            });
            prop_oneof![
                4 => batches().prop_map(|all| all.concat().into()),
                4 => states,
                1 => prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from),
            ]
        }

        fn entries() -> impl Strategy<Value = Vec<Entry>> {
            let kind = prop_oneof![
                4 => Just(EntryKind::Append),
                2 => Just(EntryKind::Checkpoint),
                2 => Just(EntryKind::CarryForward),
                1 => Just(EntryKind::TruncateTo),
                1 => Just(EntryKind::LogStart),
                1 => Just(EntryKind::DeletePartition),
            ];
            let mutations = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
            let entry =
                (kind, -1..14_i64, payload(), mutations).prop_map(|(kind, base, payload, mutations)| {
                    let mut payload = payload.to_vec();
                    for (at, value) in &mutations {
                        if !payload.is_empty() {
                            let at = at.index(payload.len());
                            payload[at] = *value;
                        }
                    }
                    entry(kind, base, payload.into())
                });
            prop::collection::vec(entry, 0..12)
        }

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(2000))]

            /// A journal's checksums keep damage out; a newer version, or a mistake of ours, may
            /// still leave entries that contradict each other. The node starts, and says so.
            #[test]
            fn no_entries_are_more_than_a_shard_can_take(entries in entries()) {
                adopt(replay(&entries));
            }
        }
    }

    #[test]
    fn a_log_that_goes_on_behind_what_a_checkpoint_misses_is_a_fault_and_no_panic() {
        let missing = entry(EntryKind::Checkpoint, 0, stored(&state(0, 12), &[]));
        let recovered = replay(&[
            entry(EntryKind::Append, 0, batch(0, 5)),
            missing,
            entry(EntryKind::Append, 12, batch(12, 2)),
        ]);
        let partition = &recovered.partitions[&target()];
        assert!(partition.fault.is_some());
        assert_eq!(partition.tail.len(), 1);
        adopt(recovered);
    }

    #[test]
    fn what_is_cut_off_is_not_clean_any_more() {
        let known = PartitionState { cleaned_to: Offset(9), ..state(10, 10) };
        let checkpoint = entry(EntryKind::Checkpoint, 0, stored(&known, &[]));
        for (cut, cleaned_to) in [(10, 9), (9, 9), (4, 4)] {
            let recovered = replay(&[checkpoint.clone(), entry(EntryKind::TruncateTo, cut, Bytes::new())]);
            assert_eq!(recovered.partitions[&target()].state.cleaned_to, Offset(cleaned_to), "{cut}");
        }
    }

    /// The files of one that begins at or behind the cut may be gone with the cut already.
    #[test]
    fn a_replacement_that_is_cut_off_whole_is_not_pending_any_more() {
        let pending = Some(PendingSwap { base: Offset(4), end: Offset(8) });
        let known = PartitionState { swaps: Swaps { generation: 3, pending }, ..state(10, 10) };
        let checkpoint = entry(EntryKind::Checkpoint, 0, stored(&known, &[]));
        for (cut, left) in [(10, pending), (6, pending), (5, pending), (4, None), (0, None)] {
            let recovered = replay(&[checkpoint.clone(), entry(EntryKind::TruncateTo, cut, Bytes::new())]);
            let swaps = Swaps { generation: 3, pending: left };
            assert_eq!(recovered.partitions[&target()].state.swaps, swaps, "{cut}");
        }
    }

    #[test]
    fn a_truncation_below_the_segments_cuts_them_until_a_checkpoint_follows() {
        let checkpoint = entry(EntryKind::Checkpoint, 0, stored(&state(10, 10), &[]));
        let cut = entry(EntryKind::TruncateTo, 4, Bytes::new());
        let recovered = replay(&[checkpoint.clone(), cut.clone()]);
        let partition = &recovered.partitions[&target()];
        assert_eq!((partition.cut_segments_to, partition.state.log_end), (Some(Offset(4)), Offset(4)));
        let after = entry(EntryKind::Checkpoint, 0, stored(&state(4, 4), &[]));
        let recovered = replay(&[checkpoint, cut, after]);
        assert_eq!(recovered.partitions[&target()].cut_segments_to, None);
    }
}
