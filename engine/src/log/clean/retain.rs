//! What stays of a log: the verdict on each record, and what is written in the place of batches.
//!
//! Pure; runs on the shard that owns the log, one batch at a time in the order of their offsets.
//! What it gives out is as contiguous as what it takes in: where batches go, fillers stand for
//! their offsets, so that every check of a reader stays as strict as it is.
//!
//! A record goes when it lies below the log start, has no key, is not the newest of its key, or is
//! a tombstone whose time has passed; but never at or behind the first offset that was not mapped.
//! As `Cleaner.shouldRetainRecord` of Kafka. Batches of transactions and their markers stay byte
//! for byte and are not mapped: which of them were aborted is not known here yet. As long as no
//! partition takes transactional batches, nothing older of a key can hide in one.

use bytes::Bytes;
use corelog_protocol::batch::filter::{
    FILLER_OFFSETS_MAX, FilterError, FilterRules, Filtered, filler, filter, is_filler,
};
use corelog_protocol::batch::{BatchHeader, BatchRef, Record, Scratch};

use super::keys::KeyMap;
use crate::planted::{Planted, PlantedBug};
use crate::types::{LeaderEpoch, Offset};

/// What a round knows and its log's configs say, beside the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionRules {
    /// The first offset that is not in the map: everything from there on stays.
    pub mapped_to: Offset,
    /// What is below goes: nobody can read it.
    pub log_start: Offset,
    /// The time of the round, ms since 1970.
    pub now_ms: i64,
    /// `delete.retention.ms`: how long a tombstone stays after the first round that meets it.
    pub delete_retention_ms: i64,
    /// Each producer that the partition remembers, in order of the ids, and where its last batch
    /// begins: that batch stays as a header at least.
    pub last_batches: Vec<(i64, Offset)>,
    /// Largest size of a batch's records once decompressed.
    pub limit_bytes: usize,
    /// For the crash test.
    pub planted: PlantedBug,
}

/// What a round found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Batches that came in, fillers of earlier rounds not among them.
    pub batches_read: u64,
    /// Records that were judged.
    pub records_read: u64,
    /// Those of them that stay.
    pub records_kept: u64,
    /// Those that went because they have no key.
    pub keyless: u64,
    /// Tombstones that went because their time had passed.
    pub tombstones_expired: u64,
    /// Bytes that came in.
    pub bytes_read: u64,
    /// Bytes that went out.
    pub bytes_kept: u64,
}

/// A batch that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// It came in like this.
    Same(Bytes),
    /// Other bytes, for the offsets of what came in.
    New(Bytes),
}

impl Piece {
    /// The batch.
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Same(bytes) | Self::New(bytes) => bytes,
        }
    }
}

/// Judges a log's batches.
pub struct Retention {
    keys: KeyMap,
    rules: RetentionRules,
    horizon_ms: i64,
    run: Option<Run>,
    counts: Counts,
}

/// Batches of one leader epoch that follow each other and of which nothing stays.
struct Run {
    base: Offset,
    next: Offset,
    leader_epoch: LeaderEpoch,
    /// The run as it came in, when it is one filler.
    source: Option<Bytes>,
}

impl Run {
    /// As fillers: one, unless there are more offsets than one can stand for.
    fn write(self, out: &mut Vec<Piece>) {
        let mut base = self.base.0;
        while base < self.next.0 {
            let next = self.next.0.min(base.saturating_add(FILLER_OFFSETS_MAX));
            let bytes = filler(base, next, self.leader_epoch.0);
            let is_same = self.source.as_ref() == Some(&bytes);
            out.push(if is_same { Piece::Same(bytes) } else { Piece::New(bytes) });
            base = next;
        }
    }
}

impl Retention {
    /// A round over the log whose dirty part is in `keys`.
    ///
    /// # Panics
    /// When the producers are not in order.
    pub fn new(keys: KeyMap, rules: RetentionRules) -> Self {
        assert!(rules.last_batches.is_sorted_by_key(|(id, _)| *id), "producers are searched by their ids");
        let horizon_ms = rules.now_ms.saturating_add(rules.delete_retention_ms).max(0);
        Self { keys, rules, horizon_ms, run: None, counts: Counts::default() }
    }

    /// Takes the next batch, whose checksum was checked, and gives out what is to be written so
    /// far.
    ///
    /// # Errors
    /// When its records cannot be read. The batch must then stay, and so must its whole segment.
    ///
    /// # Panics
    /// When the batch does not follow the one before.
    pub fn add(
        &mut self,
        bytes: Bytes,
        scratch: &mut Scratch,
        out: &mut Vec<Piece>,
    ) -> Result<(), FilterError> {
        let batch = BatchRef::parse(&bytes)?;
        let header = batch.header;
        if let Some(run) = &self.run {
            assert!(run.next.0 == header.base_offset, "batches are judged in order");
        }
        let filtered = self.judge(&batch, scratch)?;
        self.counts.bytes_read += bytes.len() as u64;
        self.counts.batches_read += u64::from(!is_filler(&header));
        let from = out.len();
        match filtered {
            Filtered::Gone => self.join_run(&header, bytes, out),
            Filtered::Kept => self.write(Piece::Same(bytes), out),
            Filtered::Rewritten(new) | Filtered::Emptied(new) => self.write(Piece::New(new), out),
        }
        self.count(&out[from..]);
        Ok(())
    }

    /// Ends a file: what begins behind it is not joined to what was before.
    pub fn end_file(&mut self, out: &mut Vec<Piece>) {
        let from = out.len();
        if let Some(run) = self.run.take() {
            run.write(out);
        }
        self.count(&out[from..]);
    }

    /// What was found and done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn count(&mut self, written: &[Piece]) {
        self.counts.bytes_kept += written.iter().map(|piece| piece.bytes().len() as u64).sum::<u64>();
    }

    fn write(&mut self, piece: Piece, out: &mut Vec<Piece>) {
        if let Some(run) = self.run.take() {
            run.write(out);
        }
        out.push(piece);
    }

    fn join_run(&mut self, header: &BatchHeader, bytes: Bytes, out: &mut Vec<Piece>) {
        let (base, next) = (Offset(header.base_offset), Offset(header.next_offset()));
        let leader_epoch = LeaderEpoch(header.leader_epoch);
        match &mut self.run {
            // A log may be cut where the leader epoch changes, and must not be inside a filler.
            Some(run) if run.leader_epoch == leader_epoch => {
                run.next = next;
                run.source = None;
            }
            run => {
                let ended = run.replace(Run { base, next, leader_epoch, source: Some(bytes) });
                if let Some(ended) = ended {
                    ended.write(out);
                }
            }
        }
    }

    fn judge(&mut self, batch: &BatchRef<'_>, scratch: &mut Scratch) -> Result<Filtered, FilterError> {
        let header = batch.header;
        if header.is_transactional() || header.is_control() {
            return Ok(Filtered::Kept);
        }
        let is_mapped = header.next_offset() <= self.rules.mapped_to.0;
        let rules = FilterRules {
            keeps_empty: self.is_last_of_producer(&header),
            // A tombstone that is not mapped has not been the newest of its key in a cleaned log.
            horizon_ms: is_mapped.then_some(self.horizon_ms),
            limit_bytes: self.rules.limit_bytes,
        };
        // What is counted for a batch that turns out to be bad does not count.
        let mut counts = self.counts;
        let filtered = filter(batch, &rules, scratch, |offset, record| {
            let stays = self.stays(&header, Offset(offset), record, &mut counts);
            counts.records_read += 1;
            counts.records_kept += u64::from(stays);
            stays
        })?;
        self.counts = counts;
        Ok(filtered)
    }

    fn stays(&self, header: &BatchHeader, offset: Offset, record: &Record<'_>, counts: &mut Counts) -> bool {
        if offset >= self.rules.mapped_to {
            return true;
        }
        if offset < self.rules.log_start {
            return false;
        }
        let Some(key) = record.key else {
            counts.keyless += 1;
            return false;
        };
        if self.keys.newest(key).is_some_and(|newest| newest > offset) {
            return false;
        }
        let is_past = header.has_delete_horizon() && header.base_timestamp <= self.rules.now_ms;
        let is_expired =
            record.value.is_none() && (is_past || self.rules.planted.has(Planted::TombstoneAtOnce));
        counts.tombstones_expired += u64::from(is_expired);
        !is_expired
    }

    fn is_last_of_producer(&self, header: &BatchHeader) -> bool {
        let last_batches = &self.rules.last_batches;
        let found = last_batches.binary_search_by_key(&header.producer_id, |(id, _)| *id);
        found.is_ok_and(|at| last_batches[at].1.0 == header.base_offset)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use corelog_protocol::batch::{BatchBuilder, Codec, crc_ok};
    use proptest::prelude::*;

    use super::super::keys::Mapper;
    use super::*;

    const LIMIT_BYTES: usize = 1 << 20;
    const DELETE_RETENTION_MS: i64 = 1_000;
    const FIRST: i64 = 1_000;

    /// A record of the model: offset, key, whether it has a value.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Known {
        offset: i64,
        key: Option<u8>,
        has_value: bool,
    }

    #[derive(Debug, Clone)]
    struct NewBatch {
        /// Key and whether there is a value.
        records: Vec<(Option<u8>, bool)>,
        codec: Codec,
        producer: Option<i64>,
        is_next_epoch: bool,
    }

    fn new_batches(len: usize) -> impl Strategy<Value = Vec<NewBatch>> {
        let key = prop_oneof![9 => (0u8..6).prop_map(Some), 1 => Just(None)];
        let records = prop::collection::vec((key, prop::bool::weighted(0.7)), 1..6);
        let batch = (
            records,
            prop::sample::select(&Codec::ALL[..]),
            prop::option::of(0i64..3),
            prop::bool::weighted(0.1),
        );
        let batch = batch.prop_map(|(records, codec, producer, is_next_epoch)| NewBatch {
            records,
            codec,
            producer,
            is_next_epoch,
        });
        prop::collection::vec(batch, 1..len)
    }

    #[derive(Debug, Clone)]
    struct Round {
        appended: Vec<NewBatch>,
        keys_max: usize,
        /// How much time passes before it.
        pause_ms: i64,
        /// Where files end, as places in the list of batches.
        file_len: usize,
        log_start_moves: i64,
        forgets_producer: Option<i64>,
    }

    fn rounds() -> impl Strategy<Value = Vec<Round>> {
        let round = (
            new_batches(12),
            prop_oneof![1usize..7, Just(100)],
            prop_oneof![Just(0i64), Just(DELETE_RETENTION_MS), 0i64..2_000],
            1usize..20,
            prop_oneof![3 => Just(0i64), 1 => 0i64..12],
            prop::option::of(0i64..3),
        );
        let round =
            round.prop_map(|(appended, keys_max, pause_ms, file_len, log_start_moves, forgets_producer)| {
                Round { appended, keys_max, pause_ms, file_len, log_start_moves, forgets_producer }
            });
        prop::collection::vec(round, 1..6)
    }

    /// A log, and all that was ever appended to it.
    struct Model {
        batches: Vec<Bytes>,
        records: Vec<Known>,
        /// The leader epoch of each offset from [`FIRST`] on.
        epochs: Vec<i32>,
        last_batches: BTreeMap<i64, Offset>,
        next: i64,
        cleaned_to: Offset,
        log_start: Offset,
        now_ms: i64,
    }

    impl Model {
        fn new() -> Self {
            Self {
                batches: Vec::new(),
                records: Vec::new(),
                epochs: Vec::new(),
                last_batches: BTreeMap::new(),
                next: FIRST,
                cleaned_to: Offset(FIRST),
                log_start: Offset(FIRST),
                now_ms: 1_000_000,
            }
        }

        fn append(&mut self, batch: &NewBatch) {
            let epoch = self.epochs.last().unwrap_or(&5) + i32::from(batch.is_next_epoch);
            let mut builder =
                BatchBuilder::new().base_offset(self.next).leader_epoch(epoch).codec(batch.codec);
            if let Some(id) = batch.producer {
                builder = builder.producer(id, 0, 7);
                self.last_batches.insert(id, Offset(self.next));
            }
            for (key, has_value) in &batch.records {
                let (offset, has_value) = (self.next, *has_value);
                let key_bytes = key.map(|key| [key]);
                let value = offset.to_be_bytes();
                let value = has_value.then_some(&value[..]);
                builder.push(offset * 10, key_bytes.as_ref().map(|key| &key[..]), value, &[]);
                self.records.push(Known { offset, key: *key, has_value });
                self.epochs.push(epoch);
                self.next += 1;
            }
            self.batches.push(builder.build().unwrap().freeze());
        }

        /// One round as it is meant to be run. Returns what it did.
        fn clean(&mut self, round: &Round) -> Counts {
            let mut scratch = Scratch::new();
            let first = self.cleaned_to.max(self.log_start);
            let keys = KeyMap::new(round.keys_max, first, (1, 2)).unwrap();
            let mut mapper = Mapper::new(keys);
            for bytes in &self.batches {
                let batch = BatchRef::parse(bytes).unwrap();
                let is_dirty = batch.header.next_offset() > first.0;
                if is_dirty && !mapper.add(&batch, &mut scratch, LIMIT_BYTES).unwrap() {
                    break;
                }
            }
            let (keys, mapped_to) = mapper.finish();
            let rules = RetentionRules {
                mapped_to,
                log_start: self.log_start,
                now_ms: self.now_ms,
                delete_retention_ms: DELETE_RETENTION_MS,
                last_batches: self.last_batches.iter().map(|(id, base)| (*id, *base)).collect(),
                limit_bytes: LIMIT_BYTES,
                planted: PlantedBug::NONE,
            };
            let mut retention = Retention::new(keys, rules);
            let mut out = Vec::new();
            for file in self.batches.chunks(round.file_len) {
                for bytes in file {
                    let from = out.len();
                    retention.add(bytes.clone(), &mut scratch, &mut out).unwrap();
                    assert!(out[from..].iter().all(|piece| match piece {
                        Piece::Same(piece) => self.batches.contains(piece),
                        Piece::New(piece) => !self.batches.contains(piece),
                    }));
                }
                retention.end_file(&mut out);
            }
            let read: usize = self.batches.iter().map(Bytes::len).sum();
            self.batches = out.iter().map(|piece| piece.bytes().clone()).collect();
            let kept: usize = self.batches.iter().map(Bytes::len).sum();
            self.cleaned_to = mapped_to;
            let counts = retention.counts();
            assert_eq!((counts.bytes_read, counts.bytes_kept), (read as u64, kept as u64));
            counts
        }

        fn left(&self) -> Vec<Known> {
            let mut scratch = Scratch::new();
            let mut left = Vec::new();
            for bytes in &self.batches {
                let batch = BatchRef::parse(bytes).unwrap();
                for record in batch.records(&mut scratch, LIMIT_BYTES).unwrap() {
                    let record = record.unwrap();
                    let offset = batch.header.base_offset + i64::from(record.offset_delta);
                    let timestamp = batch.header.record_timestamp(record.timestamp_delta);
                    assert_eq!(timestamp, offset * 10);
                    assert!(record.value.is_none_or(|value| value == offset.to_be_bytes()));
                    let key = record.key.map(|key| key[0]);
                    left.push(Known { offset, key, has_value: record.value.is_some() });
                }
            }
            left
        }

        /// Offsets are contiguous, and every batch is of the epoch that its offsets had.
        fn check_cover(&self) {
            let mut next = FIRST;
            for bytes in &self.batches {
                let header = BatchHeader::parse(bytes).unwrap();
                assert!(crc_ok(bytes) && header.base_offset == next);
                for offset in next..header.next_offset() {
                    let index = usize::try_from(offset - FIRST).unwrap();
                    assert_eq!(self.epochs[index], header.leader_epoch, "offset {offset}");
                }
                next = header.next_offset();
            }
            assert_eq!(next, self.next);
        }

        /// Two fillers in a row, where one would do.
        fn has_double_filler(&self) -> bool {
            let headers: Vec<_> =
                self.batches.iter().map(|bytes| BatchHeader::parse(bytes).unwrap()).collect();
            headers
                .windows(2)
                .any(|pair| pair.iter().all(is_filler) && pair[0].leader_epoch == pair[1].leader_epoch)
        }

        /// The newest record of each key that was appended at or above the log start.
        fn newest(&self) -> BTreeMap<u8, Known> {
            let of_key = |record: &Known| Some((record.key?, *record));
            self.records
                .iter()
                .filter(|record| record.offset >= self.log_start.0)
                .filter_map(of_key)
                .collect()
        }

        fn check_records(&self, before: &[Known]) {
            let left = self.left();
            // Nothing comes back, and nothing changes.
            assert!(left.iter().all(|record| before.contains(record)), "{left:?} of {before:?}");
            let newest = self.newest();
            for (key, record) in &newest {
                assert!(!record.has_value || left.contains(record), "the value of {key}");
            }
            for record in &left {
                assert!(record.offset >= self.log_start.0.min(self.cleaned_to.0), "{record:?}");
                let Some(key) = record.key else {
                    assert!(record.offset >= self.cleaned_to.0, "{record:?} has no key");
                    continue;
                };
                // Below the cleaned part's end only the newest of the cleaned part is left.
                let is_newer = |other: &&Known| {
                    other.key == Some(key) && (record.offset + 1..self.cleaned_to.0).contains(&other.offset)
                };
                assert_eq!(self.records.iter().find(is_newer), None, "{record:?} is not the newest");
            }
            // What has no value for its key any more has none that is older either.
            for record in newest.values().filter(|record| !record.has_value && !left.contains(record)) {
                assert_eq!(left.iter().find(|other| other.key == record.key), None, "{record:?}");
            }
            for record in before.iter().filter(|record| record.offset >= self.cleaned_to.0) {
                assert!(left.contains(record), "{record:?} was not mapped");
            }
        }

        fn check_producers(&self) {
            for (id, base) in &self.last_batches {
                let batch = self.batches.iter().map(|bytes| BatchHeader::parse(bytes).unwrap());
                let found = batch.filter(|header| header.base_offset == base.0).last();
                assert!(found.is_some_and(|header| (header.producer_id, header.base_sequence) == (*id, 7)));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
        #[test]
        fn a_log_keeps_the_newest_of_each_key_and_its_shape(rounds in rounds()) {
            let mut model = Model::new();
            for round in &rounds {
                round.appended.iter().for_each(|batch| model.append(batch));
                model.now_ms += round.pause_ms;
                let log_start = (model.log_start.0 + round.log_start_moves).min(model.next);
                model.log_start = Offset(log_start);
                if let Some(id) = round.forgets_producer {
                    model.last_batches.remove(&id);
                }
                let before = model.left();
                let is_one_file = round.file_len >= model.batches.len();
                let counts = model.clean(round);
                model.check_cover();
                model.check_records(&before);
                model.check_producers();
                prop_assert_eq!(counts.records_read, before.len() as u64);
                prop_assert_eq!(counts.records_kept, model.left().len() as u64);
                prop_assert!(!is_one_file || !model.has_double_filler());
                // A second look at the same time changes nothing, but where files end.
                let again = Round { file_len: usize::MAX, keys_max: 100, ..round.clone() };
                let cleaned_to = model.cleaned_to;
                model.cleaned_to = Offset(FIRST);
                model.next_round_is_the_same(&again, cleaned_to);
            }
        }
    }

    impl Model {
        /// What was cleaned stays as it is when it is mapped and judged once more up to there.
        fn next_round_is_the_same(&mut self, round: &Round, cleaned_to: Offset) {
            let (batches, records) = (self.batches.clone(), self.left());
            let below = |records: Vec<Known>| -> Vec<Known> {
                records.into_iter().filter(|record| record.offset < cleaned_to.0).collect()
            };
            // Nothing behind the cleaned part takes part.
            self.batches.retain(|bytes| BatchHeader::parse(bytes).unwrap().next_offset() <= cleaned_to.0);
            let ends =
                self.batches.last().map_or(FIRST, |bytes| BatchHeader::parse(bytes).unwrap().next_offset());
            self.clean(round);
            let expected: Vec<_> = below(records).into_iter().filter(|record| record.offset < ends).collect();
            assert_eq!(self.left(), expected);
            self.batches = batches;
            self.cleaned_to = cleaned_to;
        }
    }

    fn one(header_to_keep: Option<(i64, Offset)>, mapped_to: i64, now_ms: i64, bytes: &Bytes) -> Vec<Piece> {
        let keys = KeyMap::new(9, Offset(0), (1, 2)).unwrap();
        let rules = RetentionRules {
            mapped_to: Offset(mapped_to),
            log_start: Offset(0),
            now_ms,
            delete_retention_ms: DELETE_RETENTION_MS,
            last_batches: header_to_keep.into_iter().collect(),
            limit_bytes: LIMIT_BYTES,
            planted: PlantedBug::NONE,
        };
        let mut retention = Retention::new(keys, rules);
        let mut out = Vec::new();
        retention.add(bytes.clone(), &mut Scratch::new(), &mut out).unwrap();
        retention.end_file(&mut out);
        out
    }

    /// The only piece, which is new.
    fn new_piece(pieces: Vec<Piece>) -> Bytes {
        match <[Piece; 1]>::try_from(pieces) {
            Ok([Piece::New(bytes)]) => bytes,
            other => panic!("{other:?}"),
        }
    }

    fn tombstone() -> Bytes {
        let builder = BatchBuilder::new().base_offset(10).leader_epoch(1).producer(4, 0, 0);
        builder.record(100, Some(b"a"), None).record(100, Some(b"b"), None).build().unwrap().freeze()
    }

    #[test]
    fn a_tombstone_stays_for_its_time_after_the_first_round_that_mapped_it() {
        let bytes = tombstone();
        // Half of the batch is mapped: it has to wait for another round.
        assert_eq!(one(None, 11, 500, &bytes), [Piece::Same(bytes.clone())]);
        let first = new_piece(one(None, 12, 500, &bytes));
        assert_eq!(BatchHeader::parse(&first).unwrap().base_timestamp, 500 + DELETE_RETENTION_MS);
        assert_eq!(one(None, 12, 1_499, &first), [Piece::Same(first.clone())]);
        assert_eq!(one(None, 12, 1_500, &first), [Piece::New(filler(10, 12, 1))]);
        // Behind what is mapped nothing goes, however old.
        assert_eq!(one(None, 10, 9_999, &first), [Piece::Same(first.clone())]);
        let half = new_piece(one(None, 11, 9_999, &first));
        assert_eq!(BatchHeader::parse(&half).unwrap().record_count, 1);
    }

    #[test]
    fn the_last_batch_of_a_producer_leaves_its_header() {
        let first = new_piece(one(None, 12, 500, &tombstone()));
        let empty = new_piece(one(Some((4, Offset(10))), 12, 9_999, &first));
        let header = BatchHeader::parse(&empty).unwrap();
        assert_eq!((header.record_count, header.producer_id, header.next_offset()), (0, 4, 12));
        assert_eq!(one(Some((4, Offset(10))), 12, 9_999, &empty), [Piece::Same(empty.clone())]);
        // The producer has written since, or is forgotten.
        assert_eq!(one(Some((4, Offset(15))), 12, 9_999, &empty), [Piece::New(filler(10, 12, 1))]);
        assert_eq!(one(None, 12, 9_999, &empty), [Piece::New(filler(10, 12, 1))]);
    }

    #[test]
    fn a_filler_that_stays_alone_is_the_same() {
        let filler = filler(10, 4_000, 1);
        assert_eq!(one(None, 12, 500, &filler), [Piece::Same(filler.clone())]);
    }

    #[test]
    fn a_bad_batch_is_an_error_and_counts_nothing() {
        let mut bytes = tombstone().to_vec();
        // One record more than there is.
        bytes[60] += 1;
        let keys = KeyMap::new(9, Offset(0), (1, 2)).unwrap();
        let rules = RetentionRules {
            mapped_to: Offset(50),
            log_start: Offset(0),
            now_ms: 0,
            delete_retention_ms: 0,
            last_batches: Vec::new(),
            limit_bytes: LIMIT_BYTES,
            planted: PlantedBug::NONE,
        };
        let mut retention = Retention::new(keys, rules);
        let mut out = Vec::new();
        assert!(retention.add(bytes.into(), &mut Scratch::new(), &mut out).is_err());
        retention.end_file(&mut out);
        assert_eq!((out, retention.counts()), (Vec::new(), Counts::default()));
    }

    #[test]
    fn batches_of_transactions_stay_as_they_are() {
        let builder = BatchBuilder::new().base_offset(10).producer(4, 0, 0).transactional();
        let bytes = builder.record(100, None, Some(b"1")).build().unwrap().freeze();
        assert_eq!(one(None, 12, 500, &bytes), [Piece::Same(bytes.clone())]);
    }
}
