//! What a partition remembers of its idempotent producers (KIP-98).
//!
//! Pure data. A partition keeps the last five batches of each producer, so that a repeat gets the
//! original offset; the rest of the rules is in [`Producers::check`].

use std::collections::{BTreeMap, VecDeque};

use corelog_protocol::batch::{BatchHeader, TimestampType, add_to_sequence};

use crate::types::Offset;

/// How many batches of one producer are remembered: the most that an idempotent client has in
/// flight (`max.in.flight.requests.per.connection` ≤ 5).
pub const REMEMBERED_BATCHES: usize = 5;

/// A producer that was silent for so long is forgotten (`producer.id.expiration.ms`).
pub const EXPIRATION_MS: i64 = 86_400_000;

/// Producers that one partition remembers; with more of them, those that were silent for longest are
/// forgotten as if they had expired. Anybody may make up producer ids, and a partition's state is one
/// entry of the journal, whose smallest files have 1 MiB: this many take less than half of it.
pub const PRODUCERS_MAX: usize = 3_000;

/// One remembered batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenBatch {
    /// Sequence of its first record.
    pub first_sequence: i32,
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Its LogAppendTime, −1 when the topic does not use it.
    pub log_append_time_ms: i64,
}

/// One producer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Producer {
    /// The newest epoch seen.
    pub epoch: i16,
    /// When it wrote last.
    pub last_write_ms: i64,
    /// Its last batches in this epoch, oldest first; never empty.
    pub batches: VecDeque<SeenBatch>,
}

/// All producers of a partition, by producer id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Producers {
    by_id: BTreeMap<i64, Producer>,
}

/// What a batch's sequence says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is next: append it.
    Next,
    /// It was appended before.
    Duplicate(SeenBatch),
}

/// Why a batch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// A newer incarnation of the producer wrote already.
    #[error("producer epoch {got} is older than {current}")]
    OldEpoch {
        /// In the batch.
        got: i16,
        /// In the partition.
        current: i16,
    },
    /// A batch is missing before this one.
    #[error("out of order sequence number: {got} in epoch {epoch}, expected {expected}")]
    OutOfOrder {
        /// In the batch.
        got: i32,
        /// Next in order.
        expected: i32,
        /// The batch's epoch.
        epoch: i16,
    },
}

impl Producers {
    /// Judges a batch that names a producer.
    pub fn check(&self, header: &BatchHeader) -> Result<Verdict, SequenceError> {
        let Some(producer) = self.by_id.get(&header.producer_id) else {
            // Unknown: expired, trimmed away or new. Kafka accepts any sequence here.
            return Ok(Verdict::Next);
        };
        let (got, epoch) = (header.base_sequence, header.producer_epoch);
        if epoch < producer.epoch {
            return Err(SequenceError::OldEpoch { got: epoch, current: producer.epoch });
        }
        if epoch > producer.epoch {
            return match got {
                0 => Ok(Verdict::Next),
                _ => Err(SequenceError::OutOfOrder { got, expected: 0, epoch }),
            };
        }
        let last = header.last_sequence();
        let repeat = |seen: &&SeenBatch| seen.first_sequence == got && seen.last_sequence == last;
        if let Some(seen) = producer.batches.iter().find(repeat) {
            return Ok(Verdict::Duplicate(*seen));
        }
        let newest = producer.batches.back().expect("a producer has a batch");
        let expected = add_to_sequence(newest.last_sequence, 1);
        if got == expected {
            Ok(Verdict::Next)
        } else {
            Err(SequenceError::OutOfOrder { got, expected, epoch })
        }
    }

    /// Remembers an appended batch. `header` has its final base offset; batches without a producer
    /// id are ignored.
    pub fn note(&mut self, header: &BatchHeader, now_ms: i64) {
        if header.producer_id < 0 {
            return;
        }
        let producer = self.by_id.entry(header.producer_id).or_default();
        if producer.epoch != header.producer_epoch {
            producer.batches.clear();
            producer.epoch = header.producer_epoch;
        }
        if producer.batches.len() == REMEMBERED_BATCHES {
            producer.batches.pop_front();
        }
        producer.last_write_ms = now_ms;
        producer.batches.push_back(SeenBatch {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: Offset(header.base_offset),
            log_append_time_ms: match header.timestamp_type() {
                TimestampType::LogAppendTime => header.max_timestamp,
                TimestampType::CreateTime => -1,
            },
        });
        if self.by_id.len() > PRODUCERS_MAX {
            self.forget_longest_silent();
        }
    }

    /// Makes room for some more, by the offsets of their last batches.
    fn forget_longest_silent(&mut self) {
        let last = |producer: &Producer| producer.batches.back().map(|batch| batch.base_offset);
        let mut by_last: Vec<_> = self.by_id.iter().map(|(id, producer)| (last(producer), *id)).collect();
        let (oldest, _, _) = by_last.select_nth_unstable(PRODUCERS_MAX / 8);
        for (_, id) in oldest {
            self.by_id.remove(id);
        }
    }

    /// Forgets batches at and after `end`, and producers that have none left.
    pub fn truncate_to(&mut self, end: Offset) {
        self.by_id.retain(|_, producer| {
            producer.batches.retain(|batch| batch.base_offset < end);
            !producer.batches.is_empty()
        });
    }

    /// Forgets producers that were silent for [`EXPIRATION_MS`].
    pub fn expire(&mut self, now_ms: i64) {
        self.by_id.retain(|_, producer| producer.last_write_ms.saturating_add(EXPIRATION_MS) > now_ms);
    }

    /// All producers, by id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (i64, &Producer)> {
        self.by_id.iter().map(|(id, producer)| (*id, producer))
    }

    /// Restores one producer from its stored form; one without batches is dropped.
    pub fn restore(&mut self, id: i64, producer: Producer) {
        if !producer.batches.is_empty() {
            self.by_id.insert(id, producer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: i16, sequence: i32, count: i32, offset: i64) -> BatchHeader {
        BatchHeader {
            base_offset: offset,
            length: 0,
            leader_epoch: 0,
            magic: 2,
            crc: 0,
            attributes: 0,
            last_offset_delta: count - 1,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: 7,
            producer_epoch: epoch,
            base_sequence: sequence,
            record_count: count,
        }
    }

    fn with(batches: &[BatchHeader]) -> Producers {
        let mut producers = Producers::default();
        for header in batches {
            assert_eq!(producers.check(header), Ok(Verdict::Next));
            producers.note(header, 1);
        }
        producers
    }

    #[test]
    fn a_repeat_of_any_of_the_last_five_batches_gets_the_original_offset() {
        let all: Vec<_> = (0..7).map(|i| batch(0, i * 10, 10, i64::from(i) * 10)).collect();
        let producers = with(&all);
        for header in &all[2..] {
            match producers.check(header) {
                Ok(Verdict::Duplicate(seen)) => assert_eq!(seen.base_offset.0, header.base_offset),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(producers.check(&all[1]), Err(SequenceError::OutOfOrder { .. })));
    }

    #[test]
    fn a_gap_is_out_of_order() {
        let producers = with(&[batch(0, 0, 5, 0)]);
        let expected = Err(SequenceError::OutOfOrder { got: 6, expected: 5, epoch: 0 });
        assert_eq!(producers.check(&batch(0, 6, 1, 5)), expected);
        // The same first sequence with another length is not a repeat.
        assert!(producers.check(&batch(0, 0, 4, 5)).is_err());
    }

    #[test]
    fn sequences_wrap_to_zero_after_the_largest() {
        let producers = with(&[batch(0, i32::MAX - 2, 5, 0)]);
        assert_eq!(producers.check(&batch(0, 2, 1, 5)), Ok(Verdict::Next));
        assert!(matches!(producers.check(&batch(0, i32::MAX - 2, 5, 9)), Ok(Verdict::Duplicate(_))));
    }

    #[test]
    fn a_new_epoch_starts_at_zero_and_fences_the_old_one() {
        let mut producers = with(&[batch(0, 0, 5, 0)]);
        assert!(producers.check(&batch(1, 5, 1, 5)).is_err());
        assert_eq!(producers.check(&batch(1, 0, 1, 5)), Ok(Verdict::Next));
        producers.note(&batch(1, 0, 1, 5), 1);
        let old = Err(SequenceError::OldEpoch { got: 0, current: 1 });
        assert_eq!(producers.check(&batch(0, 5, 1, 6)), old);
    }

    #[test]
    fn truncation_makes_a_lost_batch_next_again() {
        let mut producers = with(&[batch(0, 0, 5, 0), batch(0, 5, 5, 5)]);
        producers.truncate_to(Offset(5));
        assert_eq!(producers.check(&batch(0, 5, 5, 5)), Ok(Verdict::Next));
    }

    #[test]
    fn of_too_many_producers_those_that_were_silent_for_longest_are_forgotten() {
        let mut producers = Producers::default();
        let count = i64::try_from(PRODUCERS_MAX).unwrap() * 3;
        for number in 0..count {
            let producer_id = number * 7919 % count;
            producers.note(&BatchHeader { producer_id, ..batch(0, 0, 1, number) }, 1);
            // One that goes on writing.
            producers.note(&BatchHeader { producer_id: count, ..batch(0, 0, 1, number) }, 1);
            assert!(producers.iter().len() <= PRODUCERS_MAX);
        }
        assert!(producers.iter().len() > PRODUCERS_MAX / 2);
        assert!(producers.iter().any(|(id, _)| id == count));
        let mut state = crate::partition::state::PartitionState::empty(Default::default());
        state.producers = producers;
        let mut stored = bytes::BytesMut::new();
        state.encode(&mut stored);
        assert!(stored.len() < 512 << 10, "{} bytes", stored.len());
    }

    #[test]
    fn silent_producers_expire() {
        let mut producers = with(&[batch(0, 0, 5, 0)]);
        producers.expire(EXPIRATION_MS);
        assert_eq!(producers.iter().len(), 1);
        producers.expire(EXPIRATION_MS + 1);
        assert_eq!(producers.iter().len(), 0);
    }
}
