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
use crate::types::{LeaderEpoch, Offset, PartitionId, TopicId, TopicPartition};

/// Version of the encoding below.
const STATE_VERSION: u8 = 2;
const FIXED_BYTES: usize = 1 + 16 + 4 + 3 * 8 + 3 * 8;
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
            epochs: EpochHistory::default(),
            producers: Producers::default(),
            fault: None,
        }
    }

    /// Appends the stored form to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(FIXED_BYTES + 8 + self.producers.iter().len() * (PRODUCER_BYTES + 5 * BATCH_BYTES));
        out.put_u8(STATE_VERSION);
        out.put_slice(self.target.topic.0.as_bytes());
        out.put_i32_le(self.target.partition.0);
        out.put_i64_le(self.position.segment_base.0);
        out.put_u64_le(self.position.position_bytes);
        out.put_i64_le(self.position.next.0);
        out.put_i64_le(self.log_start.0);
        out.put_i64_le(self.log_end.0);
        out.put_i64_le(self.high_watermark.0);
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
        if version != STATE_VERSION {
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
        let epochs = decode_epochs(bytes)?;
        let producers = decode_producers(bytes)?;
        let fault = decode_fault(bytes)?;
        Ok(Self { target, position, log_start, log_end, high_watermark, epochs, producers, fault })
    }
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
}
