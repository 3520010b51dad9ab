//! The replacement of segments by one file, and what remains to be done of one after a crash.
//!
//! A replacement is written and synced beside the segments under a name of its own. It counts from
//! the moment on at which the partition's stored state says so ([`Swaps::pending`]): only then is it
//! renamed over the first segment, and the others go. All of that may be done again. So until the
//! state is stored nothing of the old segments is touched, and from then on nothing of them counts.
//!
//! Who reads the old files reads on: nothing in them changes. Who opens files from then on gets
//! the new one, whatever its name is at that moment.
//!
//! [`Swaps::pending`]: super::Swaps::pending

use std::io;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use corelog_protocol::batch::BatchHeader;
use corelog_runtime::fs::{self, AlignedBuf, BLOCK_BYTES, File, OpenMode};
use futures_util::future::join;

use super::PendingSwap;
use super::choose::Segment;
use crate::log::error::{CorruptReason, Corruption, LogError};
use crate::log::files::OpenSegment;
use crate::log::header::{HEADER_BYTES, Replaced, SegmentHeader};
use crate::log::index::{Index, IndexedSegment, MaxTimestamp};
use crate::log::load::{Blocks, Loaded};
use crate::log::plan::{BatchPlace, batch_start};
use crate::log::segments::{Closed, Inner, Listing, list};
use crate::log::write::{check_writable, fence_if_failed};
use crate::planted::Planted;
use crate::types::{LeaderEpoch, Offset};

/// Size of a write. One is on its way at a time: nobody waits for it.
const WRITE_BYTES: usize = 64 << 10;

/// A file that is to take the place of closed segments, while it is written.
pub struct ReplacementWriter {
    log: Rc<Inner>,
    replaced: Vec<(Offset, u64)>,
    end: Offset,
    truncations: u64,
    header: SegmentHeader,
    file: File,
    index: Index,
    buf: AlignedBuf,
    /// Bytes of the file that are written.
    written: u64,
    /// Where the data ends.
    data_end: u64,
}

/// A file that is written and synced, and may take the place of closed segments.
pub struct Replacement {
    log: Rc<Inner>,
    replaced: Vec<(Offset, u64)>,
    truncations: u64,
    pending: PendingSwap,
    generation: u64,
    file_bytes: u64,
    max: MaxTimestamp,
    file: Rc<OpenSegment>,
}

/// The pending replacement of this run.
pub(in crate::log) struct Replacing {
    replacement: Replacement,
    /// Whether the stored state is synced that says so.
    is_committed: bool,
}

impl ReplacementWriter {
    /// Begins a file for these closed segments, which follow each other and are as they were when
    /// `truncations` of the log had been counted.
    pub(in crate::log) async fn create(
        log: Rc<Inner>,
        group: &[Segment],
        truncations: u64,
    ) -> Result<Self, LogError> {
        let (first, last) = (group[0], group[group.len() - 1]);
        let created_ms = log.open(first.base).await?.header.created_ms;
        let header = SegmentHeader {
            target: log.target,
            leader_epoch: LeaderEpoch(-1),
            base_offset: first.base,
            // Retention may ask how new the segment before is: no newer than this one was once.
            created_ms,
            replaces: Some(Replaced { generation: log.state.borrow().swaps.generation + 1, end: last.end }),
        };
        assert!(log.state.borrow().replacing.is_none(), "one replacement of a log at a time");
        let path = log.cleaned_path(first.base);
        let file = {
            // Nothing must appear in a directory that is being removed.
            let _writer = log.writer.lock().await;
            check_writable(&log)?;
            // Before, that name may be the one of a file that counts.
            finish(&log).await?;
            remove_if_there(&path).await?;
            File::create(&path).await.map_err(LogError::io("creating", &path))?
        };
        let interval_bytes = log.state.borrow().interval_bytes();
        Ok(Self {
            log,
            replaced: group.iter().map(|segment| (segment.base, segment.bytes)).collect(),
            end: last.end,
            truncations,
            header,
            file,
            index: Index::new(first.base, interval_bytes),
            buf: AlignedBuf::zeroed(WRITE_BYTES),
            written: 0,
            data_end: HEADER_BYTES,
        })
    }

    /// Writes the next batch, which begins where the one before ended.
    pub(in crate::log) async fn push(&mut self, batch: &Bytes) -> Result<(), LogError> {
        let header = BatchHeader::parse(batch).expect("whoever judged it has parsed it");
        if self.data_end == HEADER_BYTES {
            self.header.leader_epoch = LeaderEpoch(header.leader_epoch);
            self.header.encode(&mut self.buf[..BLOCK_BYTES]);
        }
        let start = batch_start(self.data_end);
        self.skip_to(start).await?;
        let mut left = &batch[..];
        while !left.is_empty() {
            let room = self.room();
            let now = room.min(left.len());
            let at = WRITE_BYTES - room;
            self.buf[at..at + now].copy_from_slice(&left[..now]);
            left = &left[now..];
            self.advance(now).await?;
        }
        self.index.push(&BatchPlace::of(&header).indexed, start);
        Ok(())
    }

    /// Leaves zeros up to `start`.
    async fn skip_to(&mut self, start: u64) -> Result<(), LogError> {
        while self.data_end < start {
            let gap = usize::try_from(start - self.data_end).expect("less than a block");
            self.advance(gap.min(self.room())).await?;
        }
        Ok(())
    }

    /// Bytes that are free in the buffer; never 0 between two calls.
    fn room(&self) -> usize {
        WRITE_BYTES - usize::try_from(self.data_end - self.written).expect("inside the buffer")
    }

    async fn advance(&mut self, len: usize) -> Result<(), LogError> {
        self.data_end += len as u64;
        if self.data_end - self.written < WRITE_BYTES as u64 {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buf, AlignedBuf::zeroed(WRITE_BYTES));
        self.write(full).await
    }

    async fn write(&mut self, buf: AlignedBuf) -> Result<(), LogError> {
        let len = buf.len() as u64;
        let path = || self.log.cleaned_path(self.header.base_offset);
        self.file
            .write_at(buf, self.written)
            .await
            .map_err(|error| LogError::io("writing", &path())(error))?;
        self.written += len;
        Ok(())
    }

    /// Writes the rest and syncs: from now on the file may take the place of the segments.
    pub(in crate::log) async fn close(self) -> Result<Replacement, LogError> {
        let (log, base) = (Rc::clone(&self.log), self.header.base_offset);
        let closed = self.write_end().await;
        if closed.is_err() {
            remove_unused(&log, base).await;
        }
        closed
    }

    async fn write_end(mut self) -> Result<Replacement, LogError> {
        assert!(
            self.index.covered().offset == self.end,
            "a replacement holds the offsets of what it replaces"
        );
        let rest = usize::try_from(self.data_end - self.written).expect("inside the buffer");
        if rest > 0 {
            let mut last = std::mem::replace(&mut self.buf, AlignedBuf::zeroed(BLOCK_BYTES));
            last.truncate(rest.next_multiple_of(BLOCK_BYTES));
            self.write(last).await?;
        }
        let log = Rc::clone(&self.log);
        let path = log.cleaned_path(self.header.base_offset);
        // At once: the file system then often needs to write only once.
        let is_planted = log.options().planted.has(Planted::SwapBeforeDirSync);
        let sync_dir = async { if is_planted { Ok(()) } else { fs::sync_dir(&log.dir).await } };
        let (synced, dir_synced) = join(self.file.sync_behind(), sync_dir).await;
        fence_if_failed(&log, dir_synced).map_err(LogError::io("syncing", &log.dir))?;
        synced.map_err(LogError::io("syncing", &path))?;
        let Replaced { generation, end } = self.header.replaces.expect("a replacement says what it replaces");
        let file =
            OpenSegment::new(&log.segment_path(self.header.base_offset), self.file.clone(), self.header);
        let max = self.index.covered().max_before;
        self.index.close();
        assert!(
            file.index.set(Loaded { index: self.index, broken: None }).is_ok(),
            "nobody else has the file yet"
        );
        Ok(Replacement {
            replaced: self.replaced,
            truncations: self.truncations,
            pending: PendingSwap { base: self.header.base_offset, end },
            generation,
            file_bytes: self.written,
            max,
            file: Rc::new(file),
            log,
        })
    }

    /// Removes the file: it is not needed.
    pub(in crate::log) async fn discard(self) {
        remove_unused(&self.log, self.header.base_offset).await;
    }
}

impl Replacement {
    /// What it replaces.
    pub fn pending(&self) -> PendingSwap {
        self.pending
    }

    /// Size of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Removes the file: it is not needed.
    pub async fn discard(self) {
        remove_unused(&self.log, self.pending.base).await;
    }

    /// Whether the segments are still those that it was made of, and no other replacement is under
    /// way.
    fn fits(&self) -> bool {
        let state = self.log.state.borrow();
        let Some(closed) = &state.closed else { return false };
        let PendingSwap { base, end } = self.pending;
        let found = closed.range(base..end).map(|(base, closed)| (*base, closed.file_bytes));
        let next = closed.range(end..).next().map_or(state.position.segment_base, |(next, _)| *next);
        !state.is_deleted
            && !state.is_fenced
            && state.truncations == self.truncations
            && state.swaps.pending.is_none()
            && state.swaps.generation + 1 == self.generation
            && found.eq(self.replaced.iter().copied())
            && next == end
    }
}

impl Inner {
    /// Notes that the segments are to be replaced, for the next state that is stored. Gives the
    /// replacement back when it does not fit any more.
    pub(in crate::log) fn begin_swap(&self, replacement: Replacement) -> Result<(), Replacement> {
        if !replacement.fits() {
            return Err(replacement);
        }
        let mut state = self.state.borrow_mut();
        state.swaps.generation = replacement.generation;
        state.swaps.pending = Some(replacement.pending);
        state.replacing = Some(Replacing { replacement, is_committed: false });
        Ok(())
    }

    /// The state that says so is synced.
    pub(in crate::log) fn swap_committed(&self) {
        if let Some(replacing) = &mut self.state.borrow_mut().replacing {
            replacing.is_committed = true;
        }
    }

    pub(in crate::log) fn is_swap_undecided(&self) -> bool {
        self.state.borrow().replacing.as_ref().is_some_and(|replacing| !replacing.is_committed)
    }

    /// Lets the replacement count for whoever looks from now on, in memory.
    fn switch_over(&self, replacement: &Replacement) {
        let PendingSwap { base, end } = replacement.pending;
        let mut state = self.state.borrow_mut();
        let closed = state.closed.as_mut().expect("a log whose segments are replaced is listed");
        let old = |closed: &Closed| closed.newest_ms;
        let known: Option<Vec<_>> = closed.range(base..end).map(|(_, closed)| old(closed)).collect();
        let newest_ms = match replacement.max.timestamp_ms {
            told @ 0.. => Some(told),
            // Where timestamps do not tell, it is as new as what it was made of.
            _ => known.and_then(|known| known.into_iter().max()),
        };
        for (gone, _) in &replacement.replaced[1..] {
            closed.remove(gone);
        }
        let replaced = Closed {
            max: Some(replacement.max),
            newest_ms,
            generation: Some(replacement.generation),
            ..Closed::unread(replacement.file_bytes)
        };
        closed.insert(base, replaced);
        state.layout += 1;
        state.replaced += 1;
        drop(state);
        for (gone, _) in &replacement.replaced[1..] {
            self.files.forget(self.id, *gone);
        }
        self.files.insert(self.id, base, Rc::clone(&replacement.file));
    }
}

/// Finishes the pending replacement if it is committed. The caller holds the right to write.
pub(in crate::log) async fn finish(log: &Inner) -> Result<(), LogError> {
    let (pending, generation, replacing) = {
        let mut state = log.state.borrow_mut();
        let Some(pending) = state.swaps.pending else { return Ok(()) };
        if state.replacing.as_ref().is_some_and(|replacing| !replacing.is_committed) {
            return Ok(());
        }
        (pending, state.swaps.generation, state.replacing.take())
    };
    if let Some(Replacing { replacement, .. }) = &replacing {
        log.switch_over(replacement);
    }
    finish_files(log, pending, generation).await?;
    log.state.borrow_mut().swaps.pending = None;
    if let Some(Replacing { replacement, .. }) = replacing {
        write_index(log, &replacement).await;
    }
    Ok(())
}

async fn write_index(log: &Inner, replacement: &Replacement) {
    let interval_bytes = log.state.borrow().interval_bytes().max(HEADER_BYTES);
    // A short segment is scanned as fast as its index would be read.
    if replacement.file_bytes - HEADER_BYTES <= interval_bytes {
        return;
    }
    let Some(loaded) = replacement.file.index.get() else { return };
    let blocks = Blocks::of(&loaded.index, &IndexedSegment::of(&replacement.file.header), 0);
    let path = log.index_path(replacement.pending.base);
    if let Err(error) = blocks.write(&path).await {
        tracing::warn!(path = %path.display(), %error, "writing an index failed");
    }
}

/// Lists a log's files for the first time: finishes the replacement that the stored state says is
/// pending, and removes those that were never committed.
pub(in crate::log) async fn settle(log: &Inner) -> Result<Listing, LogError> {
    let swaps = log.state.borrow().swaps;
    let is_ignored = log.options().planted.has(Planted::SwapNotRedone);
    if let Some(pending) = swaps.pending.filter(|_| !is_ignored) {
        finish_files(log, pending, swaps.generation).await?;
    }
    log.state.borrow_mut().swaps.pending = None;
    let mut found = list(&log.dir).await.map_err(LogError::io("listing", &log.dir))?;
    for base in found.cleaned.drain(..) {
        tracing::info!(partition = %log.target, base = base.0, "removing an unfinished compaction's file");
        remove_if_there(&log.cleaned_path(base)).await?;
    }
    Ok(found)
}

/// Brings the files of a committed replacement to where they belong. May be done again.
async fn finish_files(log: &Inner, pending: PendingSwap, generation: u64) -> Result<(), LogError> {
    let PendingSwap { base, end } = pending;
    let (path, cleaned) = (log.segment_path(base), log.cleaned_path(base));
    if !is_of(log, &path, base, generation).await? {
        if is_of(log, &cleaned, base, generation).await? {
            fs::rename(&cleaned, &path).await.map_err(LogError::io("renaming", &cleaned))?;
            // It describes what was there before; nobody would use it.
            remove_if_there(&log.index_path(base)).await?;
        } else if !is_of(log, &path, base, generation).await? && end > log.state.borrow().log_start {
            let missing = CorruptReason::Missing;
            let corruption = Corruption { path, position_bytes: 0, offset: base, reason: missing };
            return Err(Box::new(corruption).into());
        }
    }
    let found = list(&log.dir).await.map_err(LogError::io("listing", &log.dir))?;
    let inside = base.plus(1)..end;
    let segments = found.segments.range(inside.clone()).map(|(base, _)| log.segment_path(*base));
    let indexes = found.indexes.iter().filter(|base| inside.contains(base));
    for path in segments.chain(indexes.map(|base| log.index_path(*base))) {
        remove_if_there(&path).await?;
    }
    let synced = fs::sync_dir(&log.dir).await;
    match synced {
        // Retention or a deletion had everything.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        synced => fence_if_failed(log, synced).map_err(LogError::io("syncing", &log.dir)),
    }
}

/// Whether the file is there and was written by this replacement.
async fn is_of(log: &Inner, path: &Path, base: Offset, generation: u64) -> Result<bool, LogError> {
    let file = match File::open(path, OpenMode::Read).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.map_err(LogError::io("opening", path))?,
    };
    let block = file.read_at(0, BLOCK_BYTES).await;
    let _ = file.close().await;
    let header = SegmentHeader::decode(&block.map_err(LogError::io("reading", path))?);
    Ok(header.is_ok_and(|header| header.check(log.target, base).is_ok() && header.generation() == generation))
}

async fn remove_if_there(path: &Path) -> Result<(), LogError> {
    match fs::remove_file(path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(LogError::io("removing", path)),
    }
}

/// Where that fails, the next start does it.
async fn remove_unused(log: &Inner, base: Offset) {
    let _writer = log.writer.lock().await;
    if let Err(error) = remove_if_there(&log.cleaned_path(base)).await {
        tracing::debug!(partition = %log.target, %error, "an unused file of compaction remains");
    }
}
