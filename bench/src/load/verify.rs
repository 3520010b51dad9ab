//! Whether every record that was sent has been read, once, in order and unchanged.
//!
//! A [`Verifier`] belongs to one consumer and sees what it reads; it keeps the next sequence number
//! of every producer and partition, and of what is missing below it, ranges. So its memory does not
//! grow with the number of records as long as all is well. When the run is over, those of a group
//! are merged, and [`judge()`] compares them with what the producers sent.
//!
//! It does not look at offsets, except to say where something was found: a consumer passes in what
//! it reads once, and compacted or transactional topics have gaps.

use std::collections::BTreeMap;
use std::ops::Range;

use indexmap::IndexMap;

use super::stamp::{Stamp, StampError};
use crate::result::report::Verification;

mod judge;
mod ranges;

pub use judge::{Promise, judge};

/// How many examples of each kind are kept, and told.
const EXAMPLES_MAX: usize = 10;

/// What one producer sent to one partition: sequences `0..next_sequence`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// The first sequence number that was not given to a request.
    pub next_sequence: u64,
    /// Those that were refused, or not answered: they may be there or not. In any order; they may
    /// overlap.
    pub undecided: Vec<Range<u64>>,
}

/// What was sent, by producer and partition. The partition is its index among all of the run, over
/// topics.
pub type SentBy = BTreeMap<(u32, u32), Sent>;

/// Looks at every record that a consumer reads.
#[derive(Debug)]
pub struct Verifier {
    run: u32,
    read: u64,
    duplicated: u64,
    reordered: u64,
    corrupt: u64,
    foreign: u64,
    examples: Examples,
    /// By producer and partition.
    streams: IndexMap<(u32, u32), Stream>,
    /// Index of the stream of the record before: usually this one's, as batches are a producer's.
    latest: usize,
}

/// What was read of one producer in one partition: all of `0..next` that is not missing.
#[derive(Debug, Default)]
struct Stream {
    next: u64,
    /// Where `next - 1` was read.
    last_offset: i64,
    /// Not read, although a later one was; by the first sequence number. Neither empty nor
    /// overlapping, and none reaches `next`.
    missing: BTreeMap<u64, Missing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Missing {
    end: u64,
    /// Where the record was read that came instead.
    noticed_at: i64,
}

/// The first of each kind.
#[derive(Debug, Default)]
struct Examples {
    duplicated: Vec<Example>,
    reordered: Vec<Example>,
    corrupt: Vec<(u32, i64, StampError)>,
}

/// A record that was not expected where it was read.
#[derive(Debug, Clone, Copy)]
struct Example {
    producer: u32,
    partition: u32,
    offset: i64,
    sequence: u64,
    /// The latest sequence number that had been read before it.
    after: u64,
}

impl Verifier {
    /// One that looks for records of this run.
    #[must_use]
    pub fn new(run: u32) -> Self {
        Self {
            run,
            read: 0,
            duplicated: 0,
            reordered: 0,
            corrupt: 0,
            foreign: 0,
            examples: Examples::default(),
            streams: IndexMap::new(),
            latest: 0,
        }
    }

    /// A batch was fetched whose records cannot be read: it counts as one corrupt record, and those
    /// that were in it are missing.
    pub fn see_bad_batch(&mut self, partition: u32, base_offset: i64) {
        self.see_corrupt(partition, base_offset, StampError::BadBatch);
    }

    /// A record was read from this partition, which is its index among all of the run. Returns when
    /// it was to be sent, in ns since the run's start, if it is a good record of this run that was
    /// not read before.
    #[inline]
    pub fn see(
        &mut self,
        partition: u32,
        offset: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Option<u64> {
        let stamp = match value.ok_or(StampError::NotOurs).and_then(|value| Stamp::read(key, value)) {
            Ok(stamp) => stamp,
            Err(error) => {
                self.see_corrupt(partition, offset, error);
                return None;
            }
        };
        if stamp.run != self.run {
            self.foreign += 1;
            return None;
        }
        self.read += 1;
        let stream = self.stream(stamp.producer, partition);
        if stamp.sequence == stream.next {
            stream.next = stream.next.saturating_add(1);
            stream.last_offset = offset;
            return Some(stamp.intended_ns);
        }
        self.see_out_of_turn(partition, offset, &stamp).then_some(stamp.intended_ns)
    }

    /// Whether all that is in `sent` has been read, apart from what is undecided. `sent` may be a
    /// part of what a run sent, such as the partitions of this consumer. Once something is lost or
    /// corrupt, this stays false.
    pub fn has_all<'a>(&self, sent: impl IntoIterator<Item = (&'a (u32, u32), &'a Sent)>) -> bool {
        sent.into_iter().all(|(id, sent)| match self.streams.get(id) {
            Some(stream) if stream.next >= sent.next_sequence && stream.missing.is_empty() => true,
            Some(stream) => stream.lost(sent).is_empty(),
            None => Stream::default().lost(sent).is_empty(),
        })
    }

    /// Adds what another consumer of the same group has read.
    ///
    /// # Panics
    /// When the other one looked for another run.
    pub fn merge(&mut self, other: Self) {
        assert_eq!(self.run, other.run, "verifiers of one run are merged");
        self.read += other.read;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupt += other.corrupt;
        self.foreign += other.foreign;
        self.examples.merge(other.examples);
        for (id, stream) in other.streams {
            self.duplicated += self.streams.entry(id).or_default().merge(&stream);
        }
    }

    #[inline]
    fn stream(&mut self, producer: u32, partition: u32) -> &mut Stream {
        let id = (producer, partition);
        if self.streams.get_index(self.latest).is_none_or(|(latest, _)| *latest != id) {
            let entry = self.streams.entry(id);
            self.latest = entry.index();
            entry.or_default();
        }
        &mut self.streams[self.latest]
    }

    #[cold]
    fn see_corrupt(&mut self, partition: u32, offset: i64, error: StampError) {
        self.read += 1;
        self.corrupt += 1;
        if self.examples.corrupt.len() < EXAMPLES_MAX {
            self.examples.corrupt.push((partition, offset, error));
        }
    }

    /// A record that is not the next one. Whether it was not read before.
    #[cold]
    fn see_out_of_turn(&mut self, partition: u32, offset: i64, stamp: &Stamp) -> bool {
        let stream = self.stream(stamp.producer, partition);
        if stamp.sequence > stream.next {
            stream.missing.insert(stream.next, Missing { end: stamp.sequence, noticed_at: offset });
            stream.next = stamp.sequence.saturating_add(1);
            stream.last_offset = offset;
            return true;
        }
        let is_first = stream.take_missing(stamp.sequence);
        let example = Example {
            producer: stamp.producer,
            partition,
            offset,
            sequence: stamp.sequence,
            after: stream.next - 1,
        };
        let (count, examples) = match is_first {
            true => (&mut self.reordered, &mut self.examples.reordered),
            false => (&mut self.duplicated, &mut self.examples.duplicated),
        };
        *count += 1;
        if examples.len() < EXAMPLES_MAX {
            examples.push(example);
        }
        is_first
    }
}

impl Stream {
    /// Takes a sequence number out of what is missing, if it is there.
    fn take_missing(&mut self, sequence: u64) -> bool {
        let Some((&start, &missing)) = self.missing.range(..=sequence).next_back() else {
            return false;
        };
        if missing.end <= sequence {
            return false;
        }
        self.missing.remove(&start);
        if start < sequence {
            self.missing.insert(start, Missing { end: sequence, ..missing });
        }
        if sequence + 1 < missing.end {
            self.missing.insert(sequence + 1, missing);
        }
        true
    }

    /// What was to be read, and was not: in order, without what is undecided.
    fn lost(&self, sent: &Sent) -> Vec<Range<u64>> {
        let missing = self.missing.iter().map(|(start, missing)| *start..missing.end);
        let tail = self.next..sent.next_sequence;
        let not_read = missing.chain([tail]).map(|it| it.start..it.end.min(sent.next_sequence));
        ranges::subtract(not_read, &ranges::normalized(&sent.undecided))
    }

    /// How many records were read whose sequence number is at least this one.
    fn read_from(&self, sequence: u64) -> u64 {
        let missing = self.missing.iter().map(|(start, missing)| *start..missing.end);
        let not_read: u64 = missing.map(|it| it.end.saturating_sub(it.start.max(sequence))).sum();
        self.next.saturating_sub(sequence) - not_read
    }

    /// Adds what another consumer read of the same stream; returns how many both have read.
    fn merge(&mut self, other: &Self) -> u64 {
        let both = self.read_from(0) + other.read_from(0);
        let (longer, shorter) = if self.next >= other.next { (&*self, other) } else { (other, &*self) };
        let missing_of = |stream: &Self| {
            stream.missing.iter().map(|(start, missing)| *start..missing.end).collect::<Vec<_>>()
        };
        // What the longer one misses, the shorter one may have.
        let read_by_shorter = ranges::subtract(std::iter::once(0..shorter.next), &missing_of(shorter));
        let missing = ranges::subtract(missing_of(longer).into_iter(), &read_by_shorter)
            .into_iter()
            .map(|it| {
                let (_, noticed) =
                    longer.missing.range(..=it.start).next_back().expect("it is a part of one");
                (it.start, Missing { end: it.end, ..*noticed })
            })
            .collect();
        *self = Self { next: longer.next, last_offset: longer.last_offset, missing };
        both - self.read_from(0)
    }
}

impl Examples {
    fn merge(&mut self, other: Self) {
        fn extend<T>(to: &mut Vec<T>, from: Vec<T>) {
            let room = EXAMPLES_MAX - to.len();
            to.extend(from.into_iter().take(room));
        }
        extend(&mut self.duplicated, other.duplicated);
        extend(&mut self.reordered, other.reordered);
        extend(&mut self.corrupt, other.corrupt);
    }
}

#[cfg(test)]
mod tests;
