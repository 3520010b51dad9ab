//! The newest offset of each key in the dirty part of a log, in memory of a fixed size.
//!
//! Pure; filled and asked on the shard that owns the log, and dropped after the round. Keys are
//! not kept but their digests, 96 bits of a SipHash with a key of the round's own: two of ten
//! million keys share one with a probability of 6·10⁻¹⁶, and nobody can choose keys that do. It
//! never grows: when it is full, the round ends before the first record that it has no room for.

use std::hash::Hasher;

use corelog_protocol::batch::{BatchError, BatchRef, Scratch};
use hashbrown::HashTable;
use siphasher::sip128::{Hash128, Hasher128, SipHasher13};

use crate::types::Offset;

/// Bytes of a bucket: an entry and the byte by which the table finds it.
const BUCKET_BYTES: usize = size_of::<Entry>() + 1;
/// Beside the buckets: the table looks at so many of those bytes at once, also behind the last.
const TABLE_BYTES: usize = 64;
/// The smallest table: a round needs room for one key to get anywhere.
const BUCKETS_MIN: usize = 8;

/// There was no memory for a round's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no memory for the offsets of {keys_max} keys")]
pub struct OutOfMemory {
    /// How many were to be kept.
    pub keys_max: usize,
}

struct Entry {
    /// By these the table is searched.
    high: u64,
    low: u32,
    /// The offset, counted from the round's first.
    distance: u32,
}

/// The newest offset of each key.
pub struct KeyMap {
    table: HashTable<Entry>,
    keys_max: usize,
    hash_key: (u64, u64),
    first: Offset,
}

impl KeyMap {
    /// How many keys fit into so many bytes; at least some.
    pub fn keys_within(memory_bytes: usize) -> usize {
        let buckets = memory_bytes.saturating_sub(TABLE_BYTES) / BUCKET_BYTES;
        // A table has a power of two of buckets, of which it leaves one in eight free.
        let buckets = buckets.checked_ilog2().map_or(0, |log| 1 << log);
        buckets.max(BUCKETS_MIN) / 8 * 7
    }

    /// A map of at most `keys_max` keys, for offsets from `first` on. `hash_key` is drawn anew for
    /// each round.
    ///
    /// # Errors
    /// When there is not so much memory.
    ///
    /// # Panics
    /// When there is to be room for no key.
    pub fn new(keys_max: usize, first: Offset, hash_key: (u64, u64)) -> Result<Self, OutOfMemory> {
        assert!(keys_max > 0, "a round needs room for a key");
        let mut table = HashTable::new();
        table.try_reserve(keys_max, |entry: &Entry| entry.high).map_err(|_| OutOfMemory { keys_max })?;
        Ok(Self { table, keys_max, hash_key, first })
    }

    /// Notes that `key` is at `offset`, which is not below those noted before. Returns whether
    /// there was room for it; where not, nothing is noted.
    #[must_use = "a key that is not noted must not be taken for one that is"]
    pub fn note(&mut self, key: &[u8], offset: Offset) -> bool {
        assert!(offset >= self.first, "a round begins with its first offset");
        let Ok(distance) = u32::try_from(offset.0 - self.first.0) else {
            return false;
        };
        let (high, low) = self.digest(key);
        if let Some(entry) = self.table.find_mut(high, |entry| (entry.high, entry.low) == (high, low)) {
            assert!(distance >= entry.distance, "records are mapped in order");
            entry.distance = distance;
            return true;
        }
        if self.table.len() == self.keys_max {
            return false;
        }
        let entry = Entry { high, low, distance };
        self.table.insert_unique(high, entry, |entry| entry.high);
        true
    }

    /// The newest offset of `key` that was noted.
    pub fn newest(&self, key: &[u8]) -> Option<Offset> {
        let (high, low) = self.digest(key);
        let entry = self.table.find(high, |entry| (entry.high, entry.low) == (high, low))?;
        Some(self.first.plus(i64::from(entry.distance)))
    }

    /// Number of keys in it.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no key is in it.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        self.table.allocation_size()
    }

    fn digest(&self, key: &[u8]) -> (u64, u32) {
        let mut hasher = SipHasher13::new_with_keys(self.hash_key.0, self.hash_key.1);
        hasher.write(key);
        let Hash128 { h1, h2 } = hasher.finish128();
        (h1, u32::try_from(h2 & u64::from(u32::MAX)).expect("32 bits are left"))
    }
}

/// Fills a map with the records of a log, batch after batch, until it is full.
pub struct Mapper {
    keys: KeyMap,
    mapped_to: Offset,
    is_full: bool,
}

impl Mapper {
    /// Begins where the map does.
    pub fn new(keys: KeyMap) -> Self {
        let mapped_to = keys.first;
        Self { keys, mapped_to, is_full: false }
    }

    /// Takes the records of the next batch that are not below the map's first offset. Returns
    /// whether to go on: not, when one did not fit.
    ///
    /// Batches of transactions are passed over, see [`super::retain`].
    ///
    /// # Errors
    /// When the records cannot be read. Nothing may be judged by the map then.
    pub fn add(
        &mut self,
        batch: &BatchRef<'_>,
        scratch: &mut Scratch,
        limit_bytes: usize,
    ) -> Result<bool, BatchError> {
        assert!(!self.is_full, "nothing is mapped behind what did not fit");
        let header = batch.header;
        if !header.is_transactional() && !header.is_control() {
            for record in batch.records(scratch, limit_bytes)? {
                let record = record?;
                let offset = Offset(header.base_offset.saturating_add(i64::from(record.offset_delta)));
                let Some(key) = record.key.filter(|_| offset >= self.mapped_to) else { continue };
                if !self.keys.note(key, offset) {
                    self.mapped_to = offset;
                    self.is_full = true;
                    return Ok(false);
                }
            }
        }
        self.mapped_to = self.mapped_to.max(Offset(header.next_offset()));
        Ok(true)
    }

    /// The map, and the first offset that was not mapped: every record below it is in the map or
    /// has no key.
    pub fn finish(self) -> (KeyMap, Offset) {
        (self.keys, self.mapped_to)
    }

    /// Whether it ended for want of room.
    pub fn is_full(&self) -> bool {
        self.is_full
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use corelog_protocol::batch::{BatchBuilder, Codec};
    use proptest::prelude::*;

    use super::*;

    const HASH_KEY: (u64, u64) = (3, 4);
    const LIMIT_BYTES: usize = 1 << 20;

    fn key_map(keys_max: usize, first: i64) -> KeyMap {
        KeyMap::new(keys_max, Offset(first), HASH_KEY).unwrap()
    }

    proptest! {
        #[test]
        fn it_knows_what_a_sorted_map_knows_until_it_is_full(
            keys in prop::collection::vec(prop::collection::vec(0u8..3, 0..4), 0..120),
            keys_max in 1usize..70,
            first in 0i64..1 << 60,
        ) {
            let mut map = key_map(keys_max, first);
            let mut model = BTreeMap::new();
            for (key, offset) in keys.iter().zip(first..) {
                let fits = model.contains_key(key) || model.len() < keys_max;
                prop_assert_eq!(map.note(key, Offset(offset)), fits);
                if fits {
                    model.insert(key.clone(), Offset(offset));
                }
                prop_assert_eq!(map.len(), model.len());
            }
            for key in &keys {
                prop_assert_eq!(map.newest(key), model.get(key).copied());
            }
            prop_assert_eq!(map.newest(b"never noted"), None);
        }

        /// Whatever the batches look like, what is below the end is mapped and nothing else is.
        #[test]
        fn mapping_ends_at_a_record(
            batches in prop::collection::vec(
                (prop::collection::vec(prop::option::of(0u8..12), 1..9), 0usize..5, any::<bool>()), 1..12,
            ),
            keys_max in 1usize..14,
            skipped in 0i64..12,
        ) {
            let first = 1_000 + skipped;
            let mut mapper = Mapper::new(key_map(keys_max, first));
            let mut scratch = Scratch::new();
            let mut records = Vec::new();
            let mut next = 1_000;
            let mut goes_on = true;
            for (keys, codec, is_transactional) in batches {
                let mut builder = BatchBuilder::new().base_offset(next).codec(Codec::ALL[codec]);
                if is_transactional {
                    builder = builder.producer(1, 0, 0).transactional();
                }
                for key in keys {
                    let key = key.map(|key| [key]);
                    builder.push(5, key.as_ref().map(|key| &key[..]), Some(b"v"), &[]);
                    records.push((next, key.filter(|_| !is_transactional)));
                    next += 1;
                }
                let bytes = builder.build().unwrap();
                if goes_on {
                    let batch = BatchRef::parse(&bytes).unwrap();
                    goes_on = mapper.add(&batch, &mut scratch, LIMIT_BYTES).unwrap();
                }
            }
            prop_assert_eq!(mapper.is_full(), !goes_on);
            let (map, mapped_to) = mapper.finish();
            prop_assert_eq!(goes_on, mapped_to.0 == next.max(first));
            let mapped = |(offset, _): &&(i64, _)| (first..mapped_to.0).contains(offset);
            let model: BTreeMap<_, _> =
                records.iter().filter(mapped).filter_map(|(offset, key)| Some((key.as_ref()?, *offset))).collect();
            prop_assert_eq!(map.len(), model.len());
            for (key, offset) in &model {
                prop_assert_eq!(map.newest(*key), Some(Offset(*offset)));
            }
            // The record that it ended with is one that did not fit.
            if !goes_on {
                prop_assert_eq!(map.len(), keys_max);
                let (_, key) = records.iter().find(|(offset, _)| *offset == mapped_to.0).unwrap();
                prop_assert!(!model.contains_key(key.as_ref().unwrap()));
            }
        }
    }

    #[test]
    fn a_full_map_still_takes_newer_offsets_of_its_keys() {
        let mut map = key_map(1, 10);
        assert!(map.note(b"a", Offset(10)));
        assert!(!map.note(b"b", Offset(11)));
        assert!(map.note(b"a", Offset(12)));
        assert_eq!((map.newest(b"a"), map.newest(b"b")), (Some(Offset(12)), None));
    }

    #[test]
    fn offsets_too_far_from_the_first_do_not_fit() {
        let mut map = key_map(9, 10);
        let last = Offset(10 + i64::from(u32::MAX));
        assert!(map.note(b"a", last) && !map.note(b"a", last.plus(1)) && !map.note(b"b", last.plus(1)));
        assert_eq!(map.newest(b"a"), Some(last));
    }

    #[test]
    fn a_map_stays_within_its_memory_and_does_not_waste_it() {
        for memory_bytes in [0, 1, 100, 1_000, 4096, 70_000, 1 << 20, (4 << 20) + 17] {
            let keys_max = KeyMap::keys_within(memory_bytes);
            let mut map = key_map(keys_max, 0);
            let taken = map.memory_bytes();
            assert!(taken <= memory_bytes || keys_max == 7, "{keys_max} keys take {taken} of {memory_bytes}");
            assert!(taken * 2 + TABLE_BYTES * 2 > memory_bytes, "{taken} of {memory_bytes}");
            for key in 0..keys_max {
                assert!(map.note(&key.to_be_bytes(), Offset(1)));
            }
            assert_eq!((map.memory_bytes(), map.len()), (taken, keys_max));
            assert!(!map.note(b"one more", Offset(1)));
        }
    }

    #[test]
    fn the_digest_depends_on_the_rounds_key() {
        let other = KeyMap::new(1, Offset(0), (4, 3)).unwrap();
        assert_ne!(key_map(1, 0).digest(b"key"), other.digest(b"key"));
    }
}
