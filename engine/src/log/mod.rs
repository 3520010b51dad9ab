//! A partition's segments: files of whole record batches, written behind the journal.
//!
//! Owns the segment and index files in one partition's directory, on the shard that owns the
//! partition. A [`SegmentPosition`] says how much of them counts: whole blocks that are synced.
//! Synced blocks are never rewritten, what lies behind the position never counts, and what is
//! not a whole block yet stays with the caller (it is in the journal). Batches are checked each
//! time they come from the disk, and a bad one is never served.
//!
//! It never journals, never assigns offsets, never decides when to flush, and knows nothing of
//! high watermarks: `upto` of a read is the caller's business.
//!
//! Read from here down: `write` flushes, truncates and deletes; `segments` knows which files
//! there are; `read` is a position in them; `time` looks timestamps up; `plan`, `header` and
//! `index` are pure; `files` is what the logs of a shard share; `verify` reads offline. `retain`
//! judges what is too old or too much, from what `age` knows of the segments; `clean` is compaction.

mod age;
pub mod clean;
mod error;
mod files;
mod header;
mod index;
mod load;
mod plan;
mod read;
pub mod retain;
mod segments;
mod time;
pub mod verify;
mod write;

use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;

pub use self::age::Unflushed;
use self::clean::Swaps;
use self::clean::choose::{CleanRules, Segment};
use self::clean::keys::KeyMap;
use self::clean::look::{Cleanable, Known};
use self::clean::pace::Pace;
use self::clean::retain::Retention;
use self::clean::round::{self, CleanError};
use self::clean::source::ClosedBatches;
use self::clean::swap::{self, Replacement};
pub use self::error::{CorruptReason, Corruption, LogError};
pub use self::files::{FileCache, FileCacheOptions};
pub use self::header::{HEADER_BYTES, HeaderError, Replaced, SegmentHeader};
use self::retain::{Policy, Unknown, Verdict};
use self::segments::{Inner, Wanted};
use crate::planted::PlantedBug;
use crate::types::{LeaderEpoch, Offset, TopicPartition};

/// How much of a partition's segments counts: whole, synced blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SegmentPosition {
    /// Base offset of the active segment, which also names its file.
    pub segment_base: Offset,
    /// Bytes of that file that are written and synced, the header block included: whole blocks.
    /// With only the header block, the file need not exist.
    pub position_bytes: u64,
    /// The offset behind the last record in the segments: the next batch begins there, in the file
    /// at `position_bytes`.
    pub next: Offset,
}

impl SegmentPosition {
    /// A segment that begins at `first` and of which nothing is written yet: no file is needed.
    pub fn start(first: Offset) -> Self {
        Self { segment_base: first, position_bytes: HEADER_BYTES, next: first }
    }

    /// Whether such a position can be: whole blocks count, and batches begin behind the header's.
    pub fn is_possible(&self) -> bool {
        self.segment_base.0 >= 0
            && self.segment_base <= self.next
            && self.position_bytes >= HEADER_BYTES
            && self.position_bytes.is_multiple_of(HEADER_BYTES)
    }

    /// Whether the segments hold anything of a batch that begins at or after `end`.
    pub fn reaches_beyond(&self, end: Offset) -> bool {
        end < self.next
    }
}

/// When segments roll and how finely they are indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentOptions {
    /// A segment ends before the batch that would make its file larger than this.
    pub segment_bytes: u64,
    /// A segment ends at the first flush after it has become so old, counted from the creation
    /// of its file.
    pub segment_ms: i64,
    /// Each segment takes its own share of this off `segment_ms`.
    pub segment_jitter_ms: i64,
    /// At least so many bytes lie between two index entries.
    pub index_interval_bytes: u64,
    /// For the crash test.
    pub planted: PlantedBug,
}

impl Default for SegmentOptions {
    /// Kafka's defaults.
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3_600_000,
            segment_jitter_ms: 0,
            index_interval_bytes: 4096,
            planted: PlantedBug::NONE,
        }
    }
}

/// Whether a flush leaves the active segment open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roll {
    /// Close it where its size, age or span of offsets demands.
    AsNeeded,
    /// Write everything, the last partial block too, and close the segment: nothing of the
    /// partition is left in the journal then.
    CloseAll,
}

/// One segment, for descriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its first offset.
    pub base: Offset,
    /// One past its last offset.
    pub end: Offset,
    /// Size of its file; of the active one what is synced.
    pub bytes: u64,
    /// Whether it still grows.
    pub is_active: bool,
}

/// What a read for consumers found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordsRead {
    /// Whole batches.
    pub batches: Vec<Bytes>,
    /// When there are none, the last filler that was passed over: the read goes on behind it.
    pub filler: Option<Bytes>,
}

/// A segment whose file is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// Its first offset.
    pub base: Offset,
    /// Size of the file.
    pub file_bytes: u64,
}

/// What the partition knows of its leader epochs: the epoch of the record at an offset, as far
/// as it is known. See [`SegmentLog::check_epochs_with`].
pub type EpochAt = Rc<dyn Fn(Offset) -> Option<LeaderEpoch>>;

/// One partition's segments. Cheap to clone; all clones are the same log.
///
/// Flushes, truncations and deletions queue behind each other; reads go on beside them, and see
/// what counted when they looked. Once begun, a flush, truncation or deletion is completed even
/// if the future is dropped.
#[derive(Clone)]
pub struct SegmentLog {
    inner: Rc<Inner>,
}

impl SegmentLog {
    /// A log as a checkpoint knows it. Touches no file: everything is listed and opened when it
    /// is needed, and left-overs of an unfinished flush are removed before the first write.
    pub fn new(
        dir: PathBuf,
        target: TopicPartition,
        at: SegmentPosition,
        log_start: Offset,
        options: SegmentOptions,
        files: Rc<FileCache>,
    ) -> Self {
        let inner = Inner::new(dir, target, at, log_start, options, files);
        Self { inner: Rc::new(inner) }
    }

    /// Says what the stored state knows of replacements by compaction, before the log is used.
    #[must_use]
    pub fn with_swaps(self, swaps: Swaps) -> Self {
        self.inner.state.borrow_mut().swaps = swaps;
        self
    }

    /// Replacements by compaction, as the state that is stored next has to say.
    pub fn swaps(&self) -> Swaps {
        self.inner.state.borrow().swaps
    }

    /// Counts truncations.
    pub fn truncations(&self) -> u64 {
        self.inner.state.borrow().truncations
    }

    /// What is written and synced.
    pub fn position(&self) -> SegmentPosition {
        self.inner.position()
    }

    /// Changes when segments roll from now on.
    pub fn set_options(&self, options: SegmentOptions) {
        self.inner.set_options(options);
    }

    /// Lets every batch that is read be checked against the partition's leader epochs. A batch's
    /// checksum does not cover its leader epoch; without this only an epoch below that of the
    /// batches before it is noticed.
    pub fn check_epochs_with(&self, epoch_at: EpochAt) {
        self.inner.set_epochs(epoch_at);
    }

    /// Writes `batches` as far as they fill blocks, syncs, and then moves the position.
    ///
    /// `batches` are whole, contiguous and begin with the one at the position's `batch_base`, of
    /// which a first part may be on disk already. Runs in the class of the caller's task.
    ///
    /// # Errors
    /// I/O errors: the position has not moved, and the flush may be repeated unless a sync
    /// failed ([`LogError::Fenced`] from then on). Corrupt when the active segment's file is
    /// missing, too short or not this partition's.
    ///
    /// # Panics
    /// When the batches are not the ones that follow the position.
    pub async fn flush(&self, batches: &[Bytes], roll: Roll) -> Result<SegmentPosition, LogError> {
        write::flush(Rc::clone(&self.inner), batches.to_vec(), roll).await
    }

    /// Reads whole batches from the one that contains `from`: batches that lie entirely in the
    /// segments and below `upto`, at most `max_bytes` of them, but the first one even if it is
    /// larger when `at_least_one`. Empty when `from` is not in the segments yet.
    ///
    /// # Errors
    /// Out of range below the log start or the first segment; corrupt when the batch at `from`
    /// is (an error behind good batches waits for the next read); I/O errors.
    pub async fn read(
        &self,
        from: Offset,
        upto: Offset,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Vec<Bytes>, LogError> {
        let wanted = Wanted { from, upto, max_bytes, at_least_one, only_records: false };
        Ok(self.inner.read(wanted).await?.batches)
    }

    /// As [`SegmentLog::read`], but without the fillers that stand for removed batches, as far as
    /// there are others.
    ///
    /// # Errors
    /// As [`SegmentLog::read`].
    pub async fn read_records(
        &self,
        from: Offset,
        upto: Offset,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<RecordsRead, LogError> {
        let wanted = Wanted { from, upto, max_bytes, at_least_one, only_records: true };
        self.inner.read(wanted).await
    }

    /// The batches of the closed segment that begins at `base`, for compaction.
    ///
    /// # Errors
    /// Out of range or truncated when there is no such segment; corrupt; I/O errors.
    pub async fn closed_batches(&self, base: Offset) -> Result<ClosedBatches, LogError> {
        ClosedBatches::open(Rc::clone(&self.inner), base).await
    }

    /// The first record in the segments, at or above the log start, whose timestamp is
    /// `timestamp_ms` or later: its offset and timestamp.
    ///
    /// # Errors
    /// As [`SegmentLog::read`].
    pub async fn offset_for_time(&self, timestamp_ms: i64) -> Result<Option<(Offset, i64)>, LogError> {
        self.inner.offset_for_time(timestamp_ms).await
    }

    /// The largest timestamp of a record in the segments, at or above the log start, and the
    /// first offset that has it. Nothing when no record has a timestamp.
    ///
    /// # Errors
    /// As [`SegmentLog::read`].
    pub async fn max_timestamp(&self) -> Result<Option<(i64, Offset)>, LogError> {
        self.inner.max_timestamp().await
    }

    /// The base offset of the batch that contains `offset`: a place where the log may be cut.
    /// Nothing when the batch is not in the segments.
    ///
    /// # Errors
    /// As [`SegmentLog::read`].
    pub async fn batch_base_of(&self, offset: Offset) -> Result<Option<Offset>, LogError> {
        self.inner.batch_base_of(offset).await
    }

    /// Cuts the segments so that nothing at or above `offset` is in them, and returns the
    /// position that counts from then on: the caller's next flush begins there. `offset` must be
    /// where a batch begins or the log ends, see [`SegmentLog::batch_base_of`].
    ///
    /// Synced blocks are not rewritten here either: the segment that holds `offset` ends there
    /// and a new one begins. The truncation must be synced in the journal before. After a crash
    /// it is repeated from the older position, in order with the truncations behind it, and leads
    /// to the same: nothing of the data is read for it.
    ///
    /// # Errors
    /// I/O errors: the cut counts nevertheless, and what was not removed is removed before the
    /// next write.
    pub async fn truncate_to(&self, offset: Offset) -> Result<SegmentPosition, LogError> {
        write::truncate_to(Rc::clone(&self.inner), offset).await
    }

    /// Removes the partition's directory. Every later operation fails with
    /// [`LogError::Deleted`]; reads that are under way may still finish.
    ///
    /// # Errors
    /// I/O errors: it may be repeated.
    pub async fn delete_all(&self) -> Result<(), LogError> {
        write::delete_all(Rc::clone(&self.inner)).await
    }

    /// Moves the log start: nothing below it is read from now on. It never goes back.
    pub fn set_log_start(&self, log_start: Offset) {
        self.inner.set_log_start(log_start);
    }

    /// Moves the log start and removes the segments that are wholly below it. `stored` is the
    /// position that a synced checkpoint names, together with a log start that is as far: the
    /// segment that was active then stays, though it may be closed and below the log start by now,
    /// since a replay from that checkpoint opens it.
    ///
    /// # Errors
    /// I/O errors: the log start has moved, what was not removed goes with the next call.
    pub async fn delete_below(
        &self,
        log_start: Offset,
        stored: SegmentPosition,
    ) -> Result<Vec<Removed>, LogError> {
        write::delete_below(Rc::clone(&self.inner), log_start, stored).await
    }

    /// Which segments have to go under this policy, and what has to be looked up before that can be
    /// said. `roll_ms` of the policy is a yes or no: the age itself is that of the options.
    pub fn judge(&self, policy: &Policy, unflushed: &Unflushed, now_ms: i64) -> Verdict {
        self.inner.judge(policy, unflushed, now_ms)
    }

    /// Looks up what a verdict wanted to know. Runs in the class of the caller's task.
    ///
    /// # Errors
    /// I/O errors, and corrupt where the active segment is.
    pub async fn learn(&self, unknown: Unknown) -> Result<(), LogError> {
        self.inner.learn(unknown).await
    }

    /// How dirty the log is for compaction, or what has to be looked up before that can be said (see
    /// [`SegmentLog::learn`]). `wants_newest`: whether the times of segments are wanted in any case.
    ///
    /// # Errors
    /// What is not known.
    pub fn cleanable(
        &self,
        known: &Known,
        rules: &CleanRules,
        wants_newest: bool,
        now_ms: i64,
    ) -> Result<Cleanable, Unknown> {
        self.inner.cleanable(known, rules, wants_newest, now_ms)
    }

    /// Maps the keys of the dirty part, in `keys_bytes` of memory. Returns the map and the first offset
    /// that is not in it.
    ///
    /// # Errors
    /// See [`CleanError`].
    pub async fn map_keys(
        &self,
        cleanable: &Cleanable,
        keys_bytes: usize,
        hash_key: (u64, u64),
        pace: &mut Pace,
    ) -> Result<(KeyMap, Offset), CleanError> {
        round::map(&self.inner, cleanable, keys_bytes, hash_key, pace).await
    }

    /// Writes what stays of a group of closed segments to a file that may take their place; nothing
    /// when that is all of one segment.
    ///
    /// # Errors
    /// See [`CleanError`]. Nothing has changed then.
    pub async fn rewrite(
        &self,
        group: &[Segment],
        truncations: u64,
        retention: &mut Retention,
        pace: &mut Pace,
    ) -> Result<Option<Replacement>, CleanError> {
        round::rewrite(&self.inner, group, truncations, retention, pace).await
    }

    /// Lets [`SegmentLog::swaps`] say that the replacement takes the place of its segments. It does
    /// once the state that says so is synced ([`SegmentLog::swap_committed`]). Gives the replacement
    /// back when the segments are not what they were.
    ///
    /// # Errors
    /// The replacement, which is to be discarded.
    pub fn begin_swap(&self, replacement: Replacement) -> Result<(), Replacement> {
        self.inner.begin_swap(replacement)
    }

    /// The state is synced that says that segments are replaced.
    pub fn swap_committed(&self) {
        self.inner.swap_committed();
    }

    /// Whether segments are being replaced, and the state that says so is not known to be synced.
    pub fn is_swap_undecided(&self) -> bool {
        self.inner.is_swap_undecided()
    }

    /// Puts a committed replacement in the place of its segments. Truncations and deletions do that
    /// first, too, and so does the first listing after a crash.
    ///
    /// # Errors
    /// I/O errors; corrupt when the replacement is gone.
    pub async fn finish_swap(&self) -> Result<(), LogError> {
        let log = Rc::clone(&self.inner);
        write::run_to_end(async move {
            let _writer = log.writer.lock().await;
            log.ensure_listed().await?;
            swap::finish(&log).await
        })
        .await
    }

    /// Whether an earlier sync failed: the log takes no more writes.
    pub fn is_fenced(&self) -> bool {
        self.inner.state.borrow().is_fenced
    }

    /// Lists the files, unless that was done before; [`SegmentLog::size_bytes`] is right then.
    ///
    /// # Errors
    /// I/O errors.
    pub async fn list(&self) -> Result<(), LogError> {
        self.inner.ensure_listed().await
    }

    /// Bytes in the segments: the active one only until something made the log list its files.
    pub fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    /// All segments in order, the active one last (where it has data).
    ///
    /// # Errors
    /// I/O errors.
    pub async fn segments(&self) -> Result<Vec<SegmentInfo>, LogError> {
        self.inner.describe().await
    }
}
