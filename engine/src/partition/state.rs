//! A partition's state as a checkpoint holds it. The format is drawn in `docs/FORMAT.md`.
//!
//! Pure: bytes in, state out. Bytes from disk are never trusted: every count is bounded by the
//! bytes that remain before anything is reserved for it.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::epochs::EpochHistory;
use super::producers::{Producer, Producers, REMEMBERED_BATCHES, SeenBatch};
use crate::log::SegmentPosition;
use crate::log::clean::{PendingSwap, Swaps};
use crate::types::{LeaderEpoch, Offset, PartitionId, TopicId, TopicPartition};

/// Version of the encoding below.
const STATE_VERSION: u8 = 3;
/// The version before, without what compaction knows: it is still read.
const UNCLEANED_VERSION: u8 = 2;
const FIXED_BYTES: usize = 1 + 16 + 4 + 3 * 8 + 3 * 8;
const CLEANED_BYTES: usize = 8 + 8 + 1;
const PENDING_BYTES: usize = 8 + 8;
const EPOCH_BYTES: usize = 4 + 8;
const PRODUCER_BYTES: usize = 8 + 2 + 8 + 1;
const BATCH_BYTES: usize = 4 + 4 + 8 + 8;
/// A longer fault message is cut.
const FAULT_BYTES_MAX: usize = 1024;

/// Everything about a partition that its segments do not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionState {
    /// Which partition.
    pub target: TopicPartition,
    /// What its segments hold, synced.
    pub position: SegmentPosition,
    /// The first offset that exists.
    pub log_start: Offset,
    /// Exclusive end of the log.
    pub log_end: Offset,
    /// Exclusive end of what was acknowledged.
    pub high_watermark: Offset,
    /// Below it, no record has a newer one of its key below it. May be anywhere, also inside a
    /// batch; 0 is always true.
    pub cleaned_to: Offset,
    /// Replacements of segments by compaction.
    pub swaps: Swaps,
    /// Leader epochs.
    pub epochs: EpochHistory,
    /// Idempotent producers.
    pub producers: Producers,
    /// Why the partition is out of service for good: acknowledged data of it was lost.
    pub fault: Option<String>,
}

/// Stored state that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Written by a newer Corelog.
    #[error("partition state has version {0}, this program reads up to {STATE_VERSION}")]
    Version(u8),
    /// It ends too early.
    #[error("partition state is cut short")]
    Short,
    /// Its numbers contradict each other.
    #[error("partition state contradicts itself")]
    Inconsistent,
}

impl PartitionState {
    /// The state of a partition that never held a record.
    pub fn empty(target: TopicPartition) -> Self {
        Self {
            target,
            position: SegmentPosition::start(Offset(0)),
            log_start: Offset(0),
            log_end: Offset(0),
            high_watermark: Offset(0),
            cleaned_to: Offset(0),
            swaps: Swaps::default(),
            epochs: EpochHistory::default(),
            producers: Producers::default(),
            fault: None,
        }
    }

    /// Appends the stored form to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(
            FIXED_BYTES
                + CLEANED_BYTES
                + 8
                + self.producers.iter().len() * (PRODUCER_BYTES + 5 * BATCH_BYTES),
        );
        out.put_u8(STATE_VERSION);
        out.put_slice(self.target.topic.0.as_bytes());
        out.put_i32_le(self.target.partition.0);
        out.put_i64_le(self.position.segment_base.0);
        out.put_u64_le(self.position.position_bytes);
        out.put_i64_le(self.position.next.0);
        out.put_i64_le(self.log_start.0);
        out.put_i64_le(self.log_end.0);
        out.put_i64_le(self.high_watermark.0);
        out.put_i64_le(self.cleaned_to.0);
        encode_swaps(&self.swaps, out);
        let epochs = self.epochs.starts();
        out.put_u32_le(u32::try_from(epochs.len()).expect("epochs are counted in i32"));
        for (epoch, start) in epochs {
            out.put_i32_le(epoch.0);
            out.put_i64_le(start.0);
        }
        let producers = self.producers.iter();
        out.put_u32_le(u32::try_from(producers.len()).expect("fewer than 2^32 producers"));
        for (id, producer) in producers {
            encode_producer(id, producer, out);
        }
        let fault = self.fault.as_deref().unwrap_or_default();
        let fault = &fault.as_bytes()[..fault.len().min(FAULT_BYTES_MAX)];
        out.put_u16_le(u16::try_from(fault.len()).expect("bounded by FAULT_BYTES_MAX"));
        out.put_slice(fault);
    }

    /// Reads one state from the front of `bytes`.
    pub fn decode(bytes: &mut Bytes) -> Result<Self, StateError> {
        if bytes.remaining() < FIXED_BYTES {
            return Err(StateError::Short);
        }
        let version = bytes.get_u8();
        if version != STATE_VERSION && version != UNCLEANED_VERSION {
            return Err(StateError::Version(version));
        }
        let mut topic = [0; 16];
        bytes.copy_to_slice(&mut topic);
        let topic = TopicId(Uuid::from_bytes(topic));
        let target = TopicPartition::new(topic, PartitionId(bytes.get_i32_le()));
        let position = SegmentPosition {
            segment_base: Offset(bytes.get_i64_le()),
            position_bytes: bytes.get_u64_le(),
            next: Offset(bytes.get_i64_le()),
        };
        let [log_start, log_end, high_watermark] = [(); 3].map(|()| Offset(bytes.get_i64_le()));
        let ordered = log_start.0 >= 0
            && log_start <= high_watermark
            && high_watermark <= log_end
            && position.next <= log_end
            && position.segment_base <= position.next
            && position.is_possible();
        if !ordered {
            return Err(StateError::Inconsistent);
        }
        let (cleaned_to, swaps) = match version {
            STATE_VERSION => decode_cleaned(bytes)?,
            _ => (Offset(0), Swaps::default()),
        };
        let epochs = decode_epochs(bytes)?;
        let producers = decode_producers(bytes)?;
        let fault = decode_fault(bytes)?;
        Ok(Self {
            target,
            position,
            log_start,
            log_end,
            high_watermark,
            cleaned_to,
            swaps,
            epochs,
            producers,
            fault,
        })
    }
}

fn encode_swaps(swaps: &Swaps, out: &mut BytesMut) {
    out.put_u64_le(swaps.generation);
    out.put_u8(u8::from(swaps.pending.is_some()));
    if let Some(pending) = swaps.pending {
        out.put_i64_le(pending.base.0);
        out.put_i64_le(pending.end.0);
    }
}

/// What compaction knows: up to where the log is clean, and the replacements of its segments.
fn decode_cleaned(bytes: &mut Bytes) -> Result<(Offset, Swaps), StateError> {
    if bytes.remaining() < CLEANED_BYTES {
        return Err(StateError::Short);
    }
    let cleaned_to = Offset(bytes.get_i64_le());
    let generation = bytes.get_u64_le();
    let pending = match bytes.get_u8() {
        0 => None,
        1 if bytes.remaining() < PENDING_BYTES => return Err(StateError::Short),
        1 => Some(PendingSwap { base: Offset(bytes.get_i64_le()), end: Offset(bytes.get_i64_le()) }),
        _ => return Err(StateError::Inconsistent),
    };
    let is_possible =
        |pending: PendingSwap| generation > 0 && pending.base.0 >= 0 && pending.base < pending.end;
    if cleaned_to.0 < 0 || !pending.is_none_or(is_possible) {
        return Err(StateError::Inconsistent);
    }
    Ok((cleaned_to, Swaps { generation, pending }))
}

fn encode_producer(id: i64, producer: &Producer, out: &mut BytesMut) {
    out.put_i64_le(id);
    out.put_i16_le(producer.epoch);
    out.put_i64_le(producer.last_write_ms);
    out.put_u8(u8::try_from(producer.batches.len()).expect("at most five batches"));
    for batch in &producer.batches {
        out.put_i32_le(batch.first_sequence);
        out.put_i32_le(batch.last_sequence);
        out.put_i64_le(batch.base_offset.0);
        out.put_i64_le(batch.log_append_time_ms);
    }
}

/// Reads a count of things that take at least `each` bytes.
fn decode_count(bytes: &mut Bytes, each: usize) -> Result<usize, StateError> {
    if bytes.remaining() < 4 {
        return Err(StateError::Short);
    }
    let count = usize::try_from(bytes.get_u32_le()).map_err(|_| StateError::Short)?;
    if count > bytes.remaining() / each { Err(StateError::Short) } else { Ok(count) }
}

fn decode_epochs(bytes: &mut Bytes) -> Result<EpochHistory, StateError> {
    let count = decode_count(bytes, EPOCH_BYTES)?;
    let starts = (0..count).map(|_| (LeaderEpoch(bytes.get_i32_le()), Offset(bytes.get_i64_le()))).collect();
    EpochHistory::from_starts(starts).ok_or(StateError::Inconsistent)
}

fn decode_producers(bytes: &mut Bytes) -> Result<Producers, StateError> {
    let mut producers = Producers::default();
    for _ in 0..decode_count(bytes, PRODUCER_BYTES)? {
        if bytes.remaining() < PRODUCER_BYTES {
            return Err(StateError::Short);
        }
        let id = bytes.get_i64_le();
        let epoch = bytes.get_i16_le();
        let last_write_ms = bytes.get_i64_le();
        let count = usize::from(bytes.get_u8());
        if count == 0 || count > REMEMBERED_BATCHES {
            return Err(StateError::Inconsistent);
        }
        if bytes.remaining() < count * BATCH_BYTES {
            return Err(StateError::Short);
        }
        let batches: VecDeque<_> = (0..count)
            .map(|_| SeenBatch {
                first_sequence: bytes.get_i32_le(),
                last_sequence: bytes.get_i32_le(),
                base_offset: Offset(bytes.get_i64_le()),
                log_append_time_ms: bytes.get_i64_le(),
            })
            .collect();
        producers.restore(id, Producer { epoch, last_write_ms, batches });
    }
    Ok(producers)
}

fn decode_fault(bytes: &mut Bytes) -> Result<Option<String>, StateError> {
    if bytes.remaining() < 2 {
        return Err(StateError::Short);
    }
    let len = usize::from(bytes.get_u16_le());
    if bytes.remaining() < len {
        return Err(StateError::Short);
    }
    let fault = bytes.split_to(len);
    Ok((len > 0).then(|| String::from_utf8_lossy(&fault).into_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn states() -> impl Strategy<Value = PartitionState> {
        let batches = proptest::collection::vec(any::<(i32, i32, i64, i64)>(), 1..=5);
        let producers =
            proptest::collection::btree_map(any::<i64>(), (any::<i16>(), any::<i64>(), batches), 0..4);
        let numbers = proptest::collection::vec(0..1_000_000_i64, 5);
        let epochs = proptest::collection::btree_map(0..1000_i32, Just(()), 0..5);
        (any::<u128>(), any::<i32>(), numbers, producers, epochs).prop_map(
            |(topic, partition, mut numbers, producers, epochs)| {
                numbers.sort_unstable();
                let target = TopicPartition::new(TopicId(Uuid::from_u128(topic)), PartitionId(partition));
                let mut state = PartitionState::empty(target);
                state.position.segment_base = Offset(numbers[0]);
                state.position.next = Offset(numbers[1]);
                state.position.position_bytes = (1 + numbers[2].unsigned_abs()) * 4096;
                state.log_start = Offset(numbers[2]);
                state.high_watermark = Offset(numbers[3]);
                state.log_end = Offset(numbers[4]);
                state.cleaned_to = Offset(numbers[1]);
                state.swaps.generation = numbers[0].unsigned_abs();
                state.swaps.pending = (numbers[0] > 0 && numbers[1] % 2 == 0)
                    .then(|| PendingSwap { base: Offset(numbers[0]), end: Offset(numbers[4] + 1) });
                state.fault = (numbers[4] % 2 == 0).then(|| "a flipped bit".to_owned());
                for (index, epoch) in epochs.into_keys().enumerate() {
                    state.epochs.note(LeaderEpoch(epoch), Offset(i64::try_from(index).unwrap()));
                }
                for (id, (epoch, last_write_ms, batches)) in producers {
                    let seen = |(first_sequence, last_sequence, offset, log_append_time_ms)| SeenBatch {
                        first_sequence,
                        last_sequence,
                        base_offset: Offset(offset),
                        log_append_time_ms,
                    };
                    let batches = batches.into_iter().map(seen).collect();
                    state.producers.restore(id, Producer { epoch, last_write_ms, batches });
                }
                state
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_stored_is_read_back(state in states(), rest in proptest::collection::vec(any::<u8>(), 0..9)) {
            let mut stored = BytesMut::new();
            state.encode(&mut stored);
            stored.put_slice(&rest);
            let mut stored = stored.freeze();
            prop_assert_eq!(PartitionState::decode(&mut stored), Ok(state));
            prop_assert_eq!(&stored[..], &rest[..]);
        }

        /// As the version before wrote it.
        #[test]
        fn a_state_without_what_compaction_knows_is_read(state in states()) {
            let state = PartitionState { cleaned_to: Offset(0), swaps: Swaps::default(), ..state };
            let mut stored = BytesMut::new();
            state.encode(&mut stored);
            let rest = stored.split_off(FIXED_BYTES + CLEANED_BYTES);
            stored.truncate(FIXED_BYTES);
            stored[0] = UNCLEANED_VERSION;
            stored.put_slice(&rest);
            prop_assert_eq!(PartitionState::decode(&mut stored.freeze()), Ok(state));
        }

        #[test]
        fn damaged_bytes_are_an_error_or_another_state_but_never_a_panic(
            state in states(),
            cut in any::<prop::sample::Index>(),
            flip in any::<prop::sample::Index>(),
            with in 1..=255_u8,
        ) {
            let mut stored = BytesMut::new();
            state.encode(&mut stored);
            let at = flip.index(stored.len());
            stored[at] ^= with;
            let _ = PartitionState::decode(&mut stored.clone().freeze());
            stored.truncate(cut.index(stored.len()));
            let _ = PartitionState::decode(&mut stored.freeze());
        }
    }

    #[test]
    fn a_replacement_that_cannot_be_is_refused() {
        let mut state = PartitionState::empty(TopicPartition::default());
        let mut decoded = |generation, base, end, cleaned_to| {
            state.cleaned_to = Offset(cleaned_to);
            let pending = Some(PendingSwap { base: Offset(base), end: Offset(end) });
            state.swaps = Swaps { generation, pending };
            let mut stored = BytesMut::new();
            state.encode(&mut stored);
            PartitionState::decode(&mut stored.freeze()).is_ok()
        };
        assert!(decoded(1, 0, 1, 0));
        assert!(
            !decoded(0, 0, 1, 0) && !decoded(1, 1, 1, 0) && !decoded(1, -1, 1, 0) && !decoded(1, 0, 1, -1)
        );
    }
}
