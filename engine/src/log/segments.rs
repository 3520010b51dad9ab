//! Which segments a log has and what is known of them; opening them, and reading across them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use corelog_protocol::batch::BatchHeader;
use corelog_protocol::batch::filter::is_filler;
use corelog_runtime::fs::{self, OpenMode};
use tokio::sync::{Mutex, MutexGuard};

use super::clean::Swaps;
use super::clean::swap::{self, Replacing};
use super::error::{CorruptReason, Corruption, LogError};
use super::files::{FileCache, LogId, OpenError, OpenSegment};
use super::header::HEADER_BYTES;
use super::index::{Entry, MaxTimestamp, interval_bytes};
use super::load::{self, Loaded};
use super::read::{Bounds, Reader};
use super::retain::roll_after_ms;
use super::write::Writer;
use super::{EpochAt, RecordsRead, SegmentInfo, SegmentOptions, SegmentPosition};
use crate::types::{LeaderEpoch, Offset, TopicPartition};

const SEGMENT_SUFFIX: &str = ".log";
const INDEX_SUFFIX: &str = ".index";
/// What compaction wrote to take the place of a segment, until it has its name.
const CLEANED_SUFFIX: &str = ".log.cleaned";

/// A read of up to so many bytes is copied out of the chunks.
const COPIED_BYTES_MAX: usize = 64 << 10;

/// A read that leaves fillers out passes over so many of them in a row at most.
const FILLERS_PASSED_MAX: usize = 8;

/// What a read is to find.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) from: Offset,
    pub(super) upto: Offset,
    pub(super) max_bytes: usize,
    pub(super) at_least_one: bool,
    /// Whether fillers are left out.
    pub(super) only_records: bool,
}

/// A closed segment: it ends where the next one begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closed {
    pub(super) file_bytes: u64,
    /// The largest timestamp in it, once known.
    pub(super) max: Option<MaxTimestamp>,
    /// When its newest record was written, as retention counts it, once known: the largest timestamp,
    /// or an upper bound where there is none.
    pub(super) newest_ms: Option<i64>,
    /// The largest timestamp of its first batch, once somebody asked.
    pub(super) first_ms: Option<i64>,
    /// Which replacement wrote its file, where that happened in this run: who has opened it before
    /// has another file.
    pub(super) generation: Option<u64>,
}

impl Closed {
    /// One of which only the file is known.
    pub(super) fn unread(file_bytes: u64) -> Self {
        Self { file_bytes, max: None, newest_ms: None, first_ms: None, generation: None }
    }

    /// One of whose records some are gone.
    pub(super) fn cut(&self) -> Self {
        Self { generation: self.generation, ..Self::unread(self.file_bytes) }
    }
}

pub(super) struct State {
    pub(super) position: SegmentPosition,
    pub(super) log_start: Offset,
    pub(super) options: SegmentOptions,
    /// The closed segments by base offset, once listed.
    pub(super) closed: Option<BTreeMap<Offset, Closed>>,
    /// Covers exactly what is below the position's `next`, unless it is broken.
    pub(super) active: Option<Loaded>,
    /// When the active segment's file was made, where that is known.
    pub(super) active_created_ms: Option<i64>,
    /// The largest timestamp in the active segment up to a position, where its index is not loaded.
    pub(super) active_newest: Option<(SegmentPosition, i64)>,
    /// Counts the changes of `position` and `closed`: whoever awaited in between looks again.
    pub(super) layout: u64,
    /// Counts truncations: what was read before does not count any more.
    pub(super) truncations: u64,
    /// Replacements by compaction, as the stored state has to know them.
    pub(super) swaps: Swaps,
    /// The pending one, while this run makes it.
    pub(super) replacing: Option<Replacing>,
    /// Counts those that were made in this run: who goes from segment to segment looks again.
    pub(super) replaced: u64,
    pub(super) is_deleted: bool,
    pub(super) is_fenced: bool,
    epoch_at: Option<EpochAt>,
}

impl State {
    /// The distance between index entries.
    pub(super) fn interval_bytes(&self) -> u64 {
        interval_bytes(self.options.index_interval_bytes, self.options.segment_bytes)
    }
}

pub(super) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) target: TopicPartition,
    pub(super) files: Rc<FileCache>,
    pub(super) id: LogId,
    pub(super) state: RefCell<State>,
    /// Held by whoever changes files.
    pub(super) writer: Mutex<Writer>,
    /// Held by whoever lists the files for the first time.
    listing: Mutex<()>,
}

/// Where an offset is.
enum Place {
    Segment(Offset),
    /// At or behind the end of what is in the segments.
    Behind,
}

impl Inner {
    pub(super) fn new(
        dir: PathBuf,
        target: TopicPartition,
        position: SegmentPosition,
        log_start: Offset,
        options: SegmentOptions,
        files: Rc<FileCache>,
    ) -> Self {
        assert!(position.is_possible(), "a position that was read from a journal was checked there");
        let id = files.register();
        let state = RefCell::new(State {
            position,
            log_start,
            options,
            closed: None,
            active: None,
            active_created_ms: None,
            active_newest: None,
            layout: 0,
            truncations: 0,
            swaps: Swaps::default(),
            replacing: None,
            replaced: 0,
            is_deleted: false,
            is_fenced: false,
            epoch_at: None,
        });
        Self { dir, target, files, id, state, writer: Mutex::default(), listing: Mutex::default() }
    }

    pub(super) fn position(&self) -> SegmentPosition {
        self.state.borrow().position
    }

    pub(super) fn options(&self) -> SegmentOptions {
        self.state.borrow().options
    }

    /// The options as they count for the active segment: less its share of the jitter.
    pub(super) fn options_now(&self) -> SegmentOptions {
        let state = self.state.borrow();
        let SegmentOptions { segment_ms, segment_jitter_ms, .. } = state.options;
        let base = state.position.segment_base;
        let segment_ms = roll_after_ms(self.target, base, segment_ms, segment_jitter_ms);
        SegmentOptions { segment_ms, ..state.options }
    }

    pub(super) fn set_log_start(&self, log_start: Offset) {
        let mut state = self.state.borrow_mut();
        state.log_start = state.log_start.max(log_start);
    }

    pub(super) fn set_options(&self, options: SegmentOptions) {
        self.state.borrow_mut().options = options;
    }

    pub(super) fn set_epochs(&self, epoch_at: EpochAt) {
        self.state.borrow_mut().epoch_at = Some(epoch_at);
    }

    pub(super) fn segment_path(&self, base: Offset) -> PathBuf {
        segment_path(&self.dir, base)
    }

    pub(super) fn index_path(&self, base: Offset) -> PathBuf {
        self.dir.join(format!("{:020}{INDEX_SUFFIX}", base.0))
    }

    pub(super) fn cleaned_path(&self, base: Offset) -> PathBuf {
        cleaned_path(&self.dir, base)
    }

    /// Waits until nobody lists the files, and keeps it so.
    pub(super) async fn not_listing(&self) -> MutexGuard<'_, ()> {
        self.listing.lock().await
    }

    fn is_listed(&self) -> Result<bool, LogError> {
        let state = self.state.borrow();
        if state.is_deleted { Err(LogError::Deleted) } else { Ok(state.closed.is_some()) }
    }

    /// Lists the closed segments unless that has been done. Finishes the replacement first that the
    /// stored state says is pending: until then it is not known which segments count.
    pub(super) async fn ensure_listed(&self) -> Result<(), LogError> {
        if self.is_listed()? {
            return Ok(());
        }
        let _alone = self.listing.lock().await;
        while !self.is_listed()? {
            let layout = self.state.borrow().layout;
            let found = swap::settle(self).await?;
            let mut state = self.state.borrow_mut();
            if state.layout == layout && state.closed.is_none() {
                let active = state.position.segment_base;
                let closed = found.segments.into_iter().filter(|(base, _)| *base < active);
                let closed = closed.map(|(base, file_bytes)| (base, Closed::unread(file_bytes)));
                state.closed = Some(closed.collect());
            }
        }
        Ok(())
    }

    /// Which segment holds `offset`. The log must be listed.
    fn locate(&self, offset: Offset) -> Result<Place, LogError> {
        let state = self.state.borrow();
        if state.is_deleted {
            return Err(LogError::Deleted);
        }
        if offset < state.log_start {
            return Err(LogError::OutOfRange { wanted: offset, log_start: state.log_start });
        }
        if offset >= state.position.next {
            return Ok(Place::Behind);
        }
        if offset >= state.position.segment_base {
            return Ok(Place::Segment(state.position.segment_base));
        }
        match state.closed.iter().flatten().rfind(|(base, _)| **base <= offset) {
            Some((base, _)) => Ok(Place::Segment(*base)),
            None => Err(self.missing(offset)),
        }
    }

    /// Up to where an open segment may be read; nothing when there is no such segment any more, or
    /// compaction has replaced the file.
    pub(super) fn bounds_of(&self, segment: &OpenSegment) -> Option<Bounds> {
        self.bounds(segment.header.base_offset).filter(|_| self.is_current(segment))
    }

    /// Whether compaction has not replaced the file since it was opened.
    fn is_current(&self, segment: &OpenSegment) -> bool {
        let state = self.state.borrow();
        let closed = state.closed.as_ref().and_then(|closed| closed.get(&segment.header.base_offset));
        let generation = closed.and_then(|closed| closed.generation);
        generation.is_none_or(|generation| generation == segment.header.generation())
    }

    /// Up to where the segment may be read; nothing when there is no such segment any more.
    pub(super) fn bounds(&self, base: Offset) -> Option<Bounds> {
        let state = self.state.borrow();
        let at = state.position;
        if base == at.segment_base {
            return Some(Bounds { end: at.next, file_bytes: at.position_bytes });
        }
        let closed = state.closed.as_ref()?;
        let file_bytes = closed.get(&base)?.file_bytes;
        let next = closed.range(base.plus(1)..).next().map(|(next, _)| *next);
        Some(Bounds { end: next.unwrap_or(at.segment_base), file_bytes })
    }

    /// The bases of all segments from the one that holds `from` on, the active one included.
    pub(super) fn bases_from(&self, from: Offset) -> Vec<Offset> {
        let state = self.state.borrow();
        let closed = state.closed.iter().flatten().map(|(base, _)| *base);
        let all: Vec<_> = closed.chain([state.position.segment_base]).collect();
        let first = all.partition_point(|base| *base <= from).saturating_sub(1);
        all[first..].to_vec()
    }

    fn missing(&self, offset: Offset) -> LogError {
        let corruption =
            Corruption { path: self.dir.clone(), position_bytes: 0, offset, reason: CorruptReason::Missing };
        Box::new(corruption).into()
    }

    /// The error for a segment that was there a moment ago.
    pub(super) fn gone(&self, base: Offset) -> LogError {
        let state = self.state.borrow();
        let mut bases = state.closed.iter().flatten().map(|(base, _)| *base);
        let first = bases.next().unwrap_or(state.position.segment_base);
        if state.is_deleted {
            LogError::Deleted
        } else if base < state.log_start && base < first {
            LogError::OutOfRange { wanted: base, log_start: state.log_start }
        } else {
            LogError::Truncated
        }
    }

    /// Opens a segment, or finds it open, and checks whose it is.
    pub(super) async fn open(&self, base: Offset) -> Result<Rc<OpenSegment>, LogError> {
        let is_active = base == self.position().segment_base;
        let mode = if is_active { OpenMode::ReadWrite } else { OpenMode::Read };
        let path = self.segment_path(base);
        match self.files.open(self.id, base, self.target, &path, mode).await {
            Ok(segment) if self.is_current(&segment) => Ok(segment),
            Ok(_) => {
                // The name is about to be that of the replacement.
                self.files.forget(self.id, base);
                Err(LogError::Truncated)
            }
            Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                if self.state.borrow().is_deleted || self.bounds(base).is_none() {
                    return Err(self.gone(base));
                }
                Err(self.missing(base))
            }
            Err(OpenError::Io(error)) => Err(LogError::io("opening a segment", &path)(error)),
            Err(OpenError::Header(error)) => {
                Err(Box::new(Corruption { path, position_bytes: 0, offset: base, reason: error.into() })
                    .into())
            }
        }
    }

    /// Asks the segment's index something, loading it where needed.
    pub(super) async fn with_index<T>(
        &self,
        segment: &Rc<OpenSegment>,
        ask: impl FnOnce(&Loaded) -> T,
    ) -> Result<T, LogError> {
        let base = segment.header.base_offset;
        let bounds = self.bounds_of(segment).ok_or_else(|| self.gone(base))?;
        let path = self.index_path(base);
        let interval = self.state.borrow().interval_bytes();
        if base != self.position().segment_base {
            let load = || load::load(segment, &path, interval, bounds);
            let loaded = segment.index.get_or_try_init(load).await?;
            if !self.is_current(segment) {
                return Err(self.gone(base));
            }
            self.remember_max(base, bounds, loaded);
            return Ok(ask(loaded));
        }
        let layout = {
            let state = self.state.borrow();
            if let Some(active) = &state.active {
                return Ok(ask(active));
            }
            state.layout
        };
        let loaded = load::load(segment, &path, interval, bounds).await?;
        let answer = ask(&loaded);
        let mut state = self.state.borrow_mut();
        if state.layout == layout && state.active.is_none() {
            state.active = Some(loaded);
        }
        Ok(answer)
    }

    /// Keeps a closed segment's largest timestamp for as long as the log lives.
    fn remember_max(&self, base: Offset, bounds: Bounds, loaded: &Loaded) {
        let covered = loaded.index.covered();
        let mut state = self.state.borrow_mut();
        let closed = state.closed.as_mut().and_then(|closed| closed.get_mut(&base));
        if let Some(closed) = closed
            && covered.offset == bounds.end
        {
            closed.max = Some(covered.max_before);
            if covered.max_before.timestamp_ms >= 0 {
                closed.newest_ms = Some(covered.max_before.timestamp_ms);
            }
        }
    }

    /// A reader at the batch that contains `offset`, which lies in the segment at `base`.
    pub(super) async fn seek(&self, base: Offset, offset: Offset) -> Result<Reader, LogError> {
        let segment = self.open(base).await?;
        let entry = self.with_index(&segment, |loaded| loaded.index.before_offset(offset)).await?;
        match self.scan_to(Rc::clone(&segment), entry, offset).await {
            Err(LogError::Corrupt(corruption))
                if corruption.position_bytes == entry.position_bytes && entry.offset > base =>
            {
                // Either the data is bad there or the index is: the entry before tells.
                let before = Offset(entry.offset.0 - 1);
                let entry = self.with_index(&segment, |loaded| loaded.index.before_offset(before)).await?;
                self.scan_to(segment, entry, offset).await
            }
            result => result,
        }
    }

    async fn scan_to(
        &self,
        segment: Rc<OpenSegment>,
        entry: Entry,
        offset: Offset,
    ) -> Result<Reader, LogError> {
        let base = segment.header.base_offset;
        let mut reader = Reader::new(segment, entry);
        loop {
            let bounds = self.bounds_of(reader.segment()).ok_or_else(|| self.gone(base))?;
            if reader.offset() >= offset {
                return Ok(reader);
            }
            match reader.peek(bounds).await? {
                Some(header) if header.next_offset() <= offset.0 => {
                    reader.take(&header, bounds).await?;
                }
                _ => return Ok(reader),
            }
        }
    }

    /// The header of the reader's next batch, going on to the next segment where one ends;
    /// nothing at the end of what is in the segments.
    pub(super) async fn peek(&self, reader: &mut Reader) -> Result<Option<(BatchHeader, Bounds)>, LogError> {
        loop {
            let base = reader.segment_base();
            let bounds = self.bounds_of(reader.segment()).ok_or_else(|| self.gone(base))?;
            if let Some(header) = reader.peek(bounds).await? {
                self.check_epoch(reader, &header)?;
                return Ok(Some((header, bounds)));
            }
            // At the end nothing was awaited, so these bounds still hold.
            let is_active = base == self.position().segment_base;
            if is_active || reader.offset() >= self.position().next {
                return Ok(None);
            }
            let next = self.open(reader.offset()).await?;
            reader.continue_in(next);
        }
    }

    pub(super) fn check_epoch(&self, reader: &Reader, header: &BatchHeader) -> Result<(), LogError> {
        let epoch_at = self.state.borrow().epoch_at.clone();
        let known = epoch_at.and_then(|epoch_at| epoch_at(Offset(header.base_offset)));
        match known {
            Some(expected) if expected.0 != header.leader_epoch => {
                let found = LeaderEpoch(header.leader_epoch);
                Err(reader.corrupt(CorruptReason::LeaderEpoch { found, expected }))
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) async fn read(&self, wanted: Wanted) -> Result<RecordsRead, LogError> {
        self.ensure_listed().await?;
        let mut found = RecordsRead::default();
        let Place::Segment(base) = self.locate(wanted.from)? else {
            return Ok(found);
        };
        let truncations = self.state.borrow().truncations;
        let mut reader = self.reader_at(base, wanted.from).await?;
        let collected = self.collect(&mut reader, &wanted, &mut found).await;
        self.check_untouched(truncations)?;
        match collected {
            Ok(()) if self.bounds_of(reader.segment()).is_some() => self.files.keep_reader(self.id, reader),
            // The file is gone, and its space should be.
            Ok(()) => {}
            // What came before the error is good; the next read meets the error first.
            Err(error) if !found.batches.is_empty() => {
                tracing::debug!(partition = %self.target, %error, "a read ends early");
            }
            Err(error) => return Err(error),
        }
        found.batches = copied_if_small(found.batches);
        // A slice would keep the whole chunk in memory.
        let filler = found.filler.filter(|_| found.batches.is_empty());
        found.filler = filler.map(|filler| Bytes::copy_from_slice(&filler));
        Ok(found)
    }

    pub(super) async fn batch_base_of(&self, offset: Offset) -> Result<Option<Offset>, LogError> {
        self.ensure_listed().await?;
        let Place::Segment(base) = self.locate(offset)? else {
            return Ok(None);
        };
        let truncations = self.state.borrow().truncations;
        let reader = self.seek(base, offset).await?;
        self.check_untouched(truncations)?;
        Ok(Some(reader.offset()))
    }

    /// The reader that stopped there, or a new one.
    async fn reader_at(&self, base: Offset, from: Offset) -> Result<Reader, LogError> {
        let Some(mut reader) = self.files.take_reader(self.id, from) else {
            return self.seek(base, from).await;
        };
        reader.resume();
        if reader.segment_base() != base && from == base {
            reader.continue_in(self.open(base).await?);
        }
        // Compaction may have replaced what it stopped in.
        let is_there = reader.segment_base() == base && self.is_current(reader.segment());
        if is_there { Ok(reader) } else { self.seek(base, from).await }
    }

    async fn collect(
        &self,
        reader: &mut Reader,
        wanted: &Wanted,
        found: &mut RecordsRead,
    ) -> Result<(), LogError> {
        let mut room = wanted.max_bytes;
        // Where the fillers begin that no batch has followed yet, and how many there are.
        let mut gap = None;
        let mut passed = 0;
        loop {
            let Some((header, bounds)) = self.peek(reader).await? else {
                reader.release();
                break;
            };
            let len = header.total_len();
            let is_passed = wanted.only_records && is_filler(&header);
            let is_free = is_passed || (wanted.at_least_one && found.batches.is_empty());
            // What is in memory from `upto` on begins with a batch as it was appended: a filler may stand
            // for that one, too.
            let beyond = if is_passed {
                header.base_offset >= wanted.upto.0
            } else {
                header.next_offset() > wanted.upto.0
            };
            if beyond || (len > room && !is_free) {
                break;
            }
            if !is_passed {
                found.batches.push(reader.take(&header, bounds).await?);
                room = room.saturating_sub(len);
                (gap, passed) = (None, 0);
            } else if passed < FILLERS_PASSED_MAX {
                gap.get_or_insert_with(|| reader.mark());
                found.filler = Some(reader.take(&header, bounds).await?);
                passed += 1;
            } else {
                break;
            }
        }
        // The next read begins behind the last batch, and so must the reader.
        if let Some(gap) = gap.filter(|_| !found.batches.is_empty()) {
            reader.return_to(gap);
        }
        Ok(())
    }

    /// Whether what was read since then still counts.
    pub(super) fn check_untouched(&self, truncations: u64) -> Result<(), LogError> {
        let state = self.state.borrow();
        if state.is_deleted {
            return Err(LogError::Deleted);
        }
        if state.truncations != truncations {
            return Err(LogError::Truncated);
        }
        Ok(())
    }

    pub(super) fn size_bytes(&self) -> u64 {
        let state = self.state.borrow();
        let closed: u64 = state.closed.iter().flatten().map(|(_, closed)| closed.file_bytes).sum();
        let active = state.position.position_bytes;
        closed + if active > HEADER_BYTES { active } else { 0 }
    }

    pub(super) async fn describe(&self) -> Result<Vec<SegmentInfo>, LogError> {
        self.ensure_listed().await?;
        let at = self.position();
        let info = |base| {
            let bounds = self.bounds(base)?;
            let is_active = base == at.segment_base;
            let has_data = !is_active || at.position_bytes > HEADER_BYTES;
            has_data.then_some(SegmentInfo { base, end: bounds.end, bytes: bounds.file_bytes, is_active })
        };
        Ok(self.bases_from(Offset(i64::MIN)).into_iter().filter_map(info).collect())
    }
}

/// A slice of a chunk keeps the whole chunk in memory for as long as somebody sends it: what is
/// small against that is copied out.
fn copied_if_small(batches: Vec<Bytes>) -> Vec<Bytes> {
    let len = batches.iter().map(Bytes::len).sum();
    if len > COPIED_BYTES_MAX {
        return batches;
    }
    let mut whole = BytesMut::with_capacity(len);
    batches.iter().for_each(|batch| whole.extend_from_slice(batch));
    let whole = whole.freeze();
    let mut from = 0;
    let slice = |batch: &Bytes| {
        from += batch.len();
        whole.slice(from - batch.len()..from)
    };
    batches.iter().map(slice).collect()
}

/// The files of a partition's directory that are ours.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Segment files by base offset, with their lengths.
    pub(super) segments: BTreeMap<Offset, u64>,
    /// Base offsets of index files.
    pub(super) indexes: Vec<Offset>,
    /// Base offsets of files that compaction wrote and that have not taken their place.
    pub(super) cleaned: Vec<Offset>,
}

/// The file of the segment that begins there.
pub(super) fn segment_path(dir: &Path, base: Offset) -> PathBuf {
    dir.join(format!("{:020}{SEGMENT_SUFFIX}", base.0))
}

/// The file that is to take the place of that segment.
pub(super) fn cleaned_path(dir: &Path, base: Offset) -> PathBuf {
    dir.join(format!("{:020}{CLEANED_SUFFIX}", base.0))
}

/// Lists a partition's directory; empty when there is none.
pub(super) async fn list(dir: &Path) -> io::Result<Listing> {
    let entries = match fs::list_dir(dir).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        entries => entries?,
    };
    let mut listing = Listing::default();
    for entry in entries.into_iter().filter(|entry| !entry.is_dir) {
        if let Some(base) = base_of(&entry.name, SEGMENT_SUFFIX) {
            listing.segments.insert(base, entry.len);
        } else if let Some(base) = base_of(&entry.name, INDEX_SUFFIX) {
            listing.indexes.push(base);
        } else if let Some(base) = base_of(&entry.name, CLEANED_SUFFIX) {
            listing.cleaned.push(base);
        }
    }
    Ok(listing)
}

fn base_of(name: &str, suffix: &str) -> Option<Offset> {
    let digits = name.strip_suffix(suffix)?;
    let is_ours = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_ours.then(|| digits.parse().ok().map(Offset))?
}
