//! What records consist of: keys, sizes and the bytes of their values, all from a seed.
//!
//! Values are consecutive pieces of a pool that is made once and shared by all producers, so that
//! a record costs a copy and a checksum and no randomness per byte. What a producer sends is
//! decided by the plan's seed and its number alone.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, LogNormal};
use thiserror::Error;

use super::keys::{Key, KeyPicker};
use super::stamp::{STAMP_BYTES, Stamp};
use super::whole;
use crate::plan::{Plan, RECORD_BYTES_MAX, Size};

/// Smallest pool: a piece comes again only long after a compressor's window has passed it.
const POOL_BYTES_MIN: usize = 4 << 20;
/// Largest part of a payload file that is used.
const PAYLOAD_FILE_BYTES_MAX: u64 = 256 << 20;

/// Random and repeating bytes alternate in blocks of these sizes. They vary so that no record size
/// is in step with them; they are long enough for the repeating parts to be found by every codec.
const BLOCK_BYTES: std::ops::RangeInclusive<usize> = 128..=384;
/// What repeats.
const FILLER: u8 = b'-';

/// Keeps the pool's randomness apart from the producers'.
const POOL_SEED: u64 = 0x706f_6f6c;

/// Why there are no bytes to send.
#[derive(Debug, Error)]
pub enum PoolError {
    /// The payload file cannot be read.
    #[error("payload_file: cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The payload file has nothing in it.
    #[error("payload_file: {} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// The bytes that values are pieces of.
#[derive(Debug)]
pub struct Pool {
    bytes: Vec<u8>,
}

impl Pool {
    /// At least 4 MiB, and more than a batch, of bytes with the plan's entropy; or the payload file,
    /// repeated when it is smaller, its first 256 MiB when it is larger.
    ///
    /// # Errors
    /// When the payload file is empty or cannot be read.
    pub fn new(plan: &Plan) -> Result<Self, PoolError> {
        let least = POOL_BYTES_MIN.max(plan.batch_bytes + RECORD_BYTES_MAX);
        let bytes = match &plan.payload_file {
            Some(path) => repeated(read_payload(path)?, least),
            None => mixed(least, plan.entropy_percent, plan.seed),
        };
        assert!(bytes.len() >= RECORD_BYTES_MAX, "the largest record is a piece of the pool");
        Ok(Self { bytes })
    }

    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn read_payload(path: &Path) -> Result<Vec<u8>, PoolError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(PAYLOAD_FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|source| PoolError::Unreadable { path: path.to_owned(), source })?;
    match bytes.is_empty() {
        true => Err(PoolError::Empty { path: path.to_owned() }),
        false => Ok(bytes),
    }
}

fn repeated(bytes: Vec<u8>, least: usize) -> Vec<u8> {
    let times = least.div_ceil(bytes.len());
    if times == 1 { bytes } else { bytes.repeat(times) }
}

/// Blocks of which the first `entropy_percent` are random and the rest repeats.
fn mixed(least: usize, entropy_percent: u8, seed: u64) -> Vec<u8> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed ^ POOL_SEED);
    let mut bytes = vec![FILLER; least];
    if entropy_percent >= 100 {
        random.fill_bytes(&mut bytes);
        return bytes;
    }
    let mut rest = &mut bytes[..];
    while !rest.is_empty() {
        let block_bytes = random.random_range(BLOCK_BYTES).min(rest.len());
        let (block, after) = rest.split_at_mut(block_bytes);
        random.fill_bytes(&mut block[..block_bytes * usize::from(entropy_percent) / 100]);
        rest = after;
    }
    bytes
}

/// One record as it was drawn: its key, and which piece of the pool its value is. The same record
/// with the same stamp always has the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    key: Option<Key>,
    /// Where its piece begins in the pool.
    piece: usize,
    bytes: usize,
}

impl Record {
    /// Its key.
    #[must_use]
    #[inline]
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_ref().map(<[u8; _]>::as_slice)
    }

    /// Size of its value.
    #[must_use]
    #[inline]
    pub fn value_bytes(&self) -> usize {
        self.bytes
    }
}

/// Draws one producer's records.
#[derive(Debug)]
pub struct Records {
    pool: Arc<Pool>,
    keys: KeyPicker,
    sizes: SizePicker,
    random: Xoshiro256PlusPlus,
    /// Where the next piece begins in the pool.
    position: usize,
    scratch: Vec<u8>,
}

impl Records {
    /// The records of this producer; another one has others.
    ///
    /// # Panics
    /// With a plan that its `check` refuses.
    #[must_use]
    pub fn new(plan: &Plan, pool: Arc<Pool>, producer: u32) -> Self {
        // Multiplied by a large odd number, so that seed 1 of producer 2 is not seed 2 of producer 1.
        let seed = plan.seed ^ (u64::from(producer) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self {
            position: random.random_range(0..pool.bytes.len()),
            keys: KeyPicker::new(plan.keys),
            sizes: SizePicker::new(plan.record_bytes),
            scratch: vec![0; plan.record_bytes.largest()],
            pool,
            random,
        }
    }

    /// Draws the next record.
    #[expect(clippy::should_implement_trait, reason = "it never ends, so nobody should have to unwrap it")]
    #[inline]
    pub fn next(&mut self) -> Record {
        let bytes = self.sizes.pick(&mut self.random);
        let piece = match self.position + bytes <= self.pool.bytes.len() {
            true => self.position,
            false => 0,
        };
        self.position = piece + bytes;
        Record { key: self.keys.pick(&mut self.random), piece, bytes }
    }

    /// The record's key.
    #[must_use]
    #[inline]
    pub fn key<'a>(&self, record: &'a Record) -> Option<&'a [u8]> {
        record.key()
    }

    /// The record's value, with the stamp at its front if there is one.
    ///
    /// # Panics
    /// With a stamp when the value is too small for it, and with a record of other `Records`.
    #[inline]
    pub fn value<'s>(&'s mut self, record: &Record, stamp: Option<&Stamp>) -> &'s [u8] {
        let piece = &self.pool.bytes[record.piece..][..record.bytes];
        let Some(stamp) = stamp else {
            return piece;
        };
        let value = &mut self.scratch[..record.bytes];
        fill(value, piece, record, stamp);
        value
    }

    /// As [`Records::value`] with a stamp, into a buffer of exactly [`Record::value_bytes`], such as
    /// the room for it in a batch: this saves copying it there.
    ///
    /// # Panics
    /// When the buffer is of another size.
    #[inline]
    pub fn write_value(&self, record: &Record, stamp: &Stamp, value: &mut [u8]) {
        fill(value, &self.pool.bytes[record.piece..][..record.bytes], record, stamp);
    }
}

#[inline]
fn fill(value: &mut [u8], piece: &[u8], record: &Record, stamp: &Stamp) {
    value.copy_from_slice(piece);
    stamp.write(record.key(), value);
}

/// Draws sizes of values.
#[derive(Debug, Clone)]
enum SizePicker {
    Fixed(usize),
    Uniform(std::ops::RangeInclusive<usize>),
    LogNormal(LogNormal<f64>),
}

impl SizePicker {
    fn new(size: Size) -> Self {
        match size {
            Size::Fixed(bytes) => Self::Fixed(bytes),
            Size::Uniform(from, to) => Self::Uniform(from..=to),
            Size::LogNormal(median, sigma) => {
                let mu = (median.max(1) as f64).ln();
                Self::LogNormal(LogNormal::new(mu, sigma).expect("sigma was checked when it was parsed"))
            }
        }
    }

    #[inline]
    fn pick(&self, random: &mut Xoshiro256PlusPlus) -> usize {
        match self {
            Self::Fixed(bytes) => *bytes,
            Self::Uniform(range) => random.random_range(range.clone()),
            Self::LogNormal(distribution) => {
                let bytes = whole(distribution.sample(random).round());
                usize::try_from(bytes).unwrap_or(usize::MAX).clamp(STAMP_BYTES, RECORD_BYTES_MAX)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use corelog_protocol::batch::Codec;
    use proptest::prelude::*;

    use super::*;
    use crate::plan::Keys;

    fn records(plan: &Plan, producer: u32) -> Records {
        plan.check().unwrap();
        Records::new(plan, Arc::new(Pool::new(plan).unwrap()), producer)
    }

    fn sizes(size: Size, draws: usize) -> Vec<usize> {
        let plan = Plan { record_bytes: size, verify: false, ..Plan::default() };
        let mut records = records(&plan, 0);
        (0..draws).map(|_| records.next().value_bytes()).collect()
    }

    const STAMP: Stamp = Stamp { run: 1, producer: 2, sequence: 3, intended_ns: 4 };

    #[test]
    fn a_share_of_the_pool_compresses_and_the_entropy_asked_for_does_not() {
        for entropy_percent in [0, 1, 10, 25, 50, 75, 90, 100] {
            let plan = Plan { entropy_percent, ..Plan::default() };
            let pool = Pool::new(&plan).unwrap();
            let input = &pool.bytes()[..1 << 20];
            for (codec, level) in [(Codec::Zstd, Some(1)), (Codec::Lz4, None), (Codec::Snappy, None)] {
                let output = corelog_protocol::codec::compress(codec, input, level).unwrap();
                let percent = 100.0 * output.len() as f64 / input.len() as f64;
                let off = percent - f64::from(entropy_percent);
                assert!((-2.0..7.0).contains(&off), "{entropy_percent}% became {percent}% with {codec:?}");
            }
        }
    }

    #[test]
    fn a_pool_outlasts_the_largest_batch() {
        let plan = Plan { batch_bytes: 16 << 20, ..Plan::default() };
        assert!(Pool::new(&plan).unwrap().bytes().len() > 16 << 20);
        assert!(Pool::new(&Plan::default()).unwrap().bytes().len() >= POOL_BYTES_MIN);
    }

    #[test]
    fn values_are_consecutive_pieces_of_a_payload_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("payload");
        let text: Vec<u8> = (0..100_000_u32).flat_map(|line| format!("line {line}\n").into_bytes()).collect();
        std::fs::write(&path, &text).unwrap();
        let plan = Plan {
            payload_file: Some(path.clone()),
            record_bytes: Size::Fixed(1000),
            verify: false,
            ..Plan::default()
        };
        let pool = Pool::new(&plan).unwrap();
        assert!(pool.bytes().len() >= POOL_BYTES_MIN && pool.bytes().starts_with(&text));
        let mut records = Records::new(&plan, Arc::new(pool), 0);
        let mut sent = Vec::new();
        for _ in 0..10 {
            let record = records.next();
            sent.extend_from_slice(records.value(&record, None));
        }
        let twice = text.repeat(2);
        assert!(twice.windows(sent.len()).any(|it| it == sent));

        std::fs::write(&path, b"").unwrap();
        assert!(matches!(Pool::new(&plan), Err(PoolError::Empty { .. })));
        std::fs::remove_file(&path).unwrap();
        let words = Pool::new(&plan).unwrap_err().to_string();
        assert!(words.starts_with("payload_file: cannot read /"), "{words}");
    }

    #[test]
    fn uniform_sizes_are_evenly_distributed_with_both_ends() {
        let sizes = sizes(Size::Uniform(10, 14), 50_000);
        for size in 10..=14 {
            let share = sizes.iter().filter(|it| **it == size).count() as f64 / 50_000.0;
            assert!((0.19..0.21).contains(&share), "{share} of the values have {size} bytes");
        }
        assert!(sizes.iter().all(|it| (10..=14).contains(it)));
    }

    #[test]
    fn log_normal_sizes_have_the_median_and_the_sigma() {
        let mut sizes = sizes(Size::LogNormal(800, 0.7), 100_000);
        sizes.sort_unstable();
        // At these ranks the logarithm is one standard deviation off.
        for (rank, expected) in
            [(50_000, 800.0), (84_134, 800.0 * 0.7_f64.exp()), (15_866, 800.0 / 0.7_f64.exp())]
        {
            let ratio = sizes[rank] as f64 / expected;
            assert!((0.97..1.03).contains(&ratio), "{} bytes at rank {rank}", sizes[rank]);
        }
    }

    #[test]
    fn log_normal_sizes_are_cut_to_a_stamp_and_to_the_largest_record() {
        let sizes = sizes(Size::LogNormal(5000, 5.0), 20_000);
        assert_eq!(sizes.iter().min(), Some(&STAMP_BYTES));
        assert_eq!(sizes.iter().max(), Some(&RECORD_BYTES_MAX));
    }

    #[test]
    fn a_record_of_no_bytes_can_be_drawn() {
        assert_eq!(sizes(Size::Fixed(0), 3), [0, 0, 0]);
    }

    #[test]
    fn producers_differ_and_a_seed_repeats_them() {
        let plan = Plan { keys: Keys::Uniform(1_000_000), ..Plan::default() };
        let drawn = |plan: &Plan, producer| {
            let mut records = records(plan, producer);
            (0..50)
                .map(|_| {
                    let record = records.next();
                    (record.key().unwrap().to_vec(), records.value(&record, None).to_vec())
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(drawn(&plan, 1), drawn(&plan, 1));
        assert_ne!(drawn(&plan, 1), drawn(&plan, 2));
        assert_ne!(drawn(&plan, 1), drawn(&Plan { seed: 2, ..plan.clone() }, 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_value_has_its_size_its_stamp_and_the_bytes_of_its_piece(
            bytes in STAMP_BYTES..=RECORD_BYTES_MAX, keyed: bool, seed: u64, producer: u32,
        ) {
            let keys = if keyed { Keys::Uniform(1000) } else { Keys::None };
            let plan = Plan { record_bytes: Size::Fixed(bytes), keys, seed, ..Plan::default() };
            let mut records = records(&plan, producer);
            for _ in 0..10 {
                let record = records.next();
                prop_assert_eq!(record.key().is_some(), keyed);
                let bare = records.value(&record, None).to_vec();
                let mut in_place = vec![0; record.value_bytes()];
                records.write_value(&record, &STAMP, &mut in_place);
                let stamped = records.value(&record, Some(&STAMP));
                prop_assert_eq!(stamped.len(), bytes);
                prop_assert_eq!(Stamp::read(record.key(), stamped), Ok(STAMP));
                prop_assert_eq!(&stamped[STAMP_BYTES..], &bare[STAMP_BYTES..]);
                prop_assert_eq!(stamped, &in_place[..]);
            }
        }
    }
}
