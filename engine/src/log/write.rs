//! What changes files: flush, truncation, deletion. One at a time per log, each in a task of its
//! own, so that it is completed even when nobody waits for it any more.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use corelog_protocol::batch::BatchHeader;
use corelog_runtime::fs::{self, AlignedBuf, BLOCK_BYTES, File};
use corelog_runtime::{task, time};
use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;

use super::clean::swap;
use super::error::{CorruptReason, LogError};
use super::files::OpenSegment;
use super::header::{HEADER_BYTES, SegmentHeader};
use super::index::{Index, IndexedSegment};
use super::load::{self, Blocks, Loaded};
use super::plan::{BatchPlace, Piece, Plan, plan};
use super::segments::{Closed, Inner, State, list};
use super::{Removed, Roll, SegmentPosition};
use crate::planted::Planted;
use crate::types::Offset;

/// Size of a write: the best block for one writer is 256 KiB to 1 MiB.
const WRITE_BYTES_MAX: u64 = 1 << 20;

/// Writes of one flush in flight. Bounds the memory of a flush as well.
const WRITES_IN_FLIGHT_MAX: usize = 4;

/// New entries of the active segment's index that are worth a write.
const INDEX_ENTRIES_BEHIND_MAX: usize = 32;

/// What whoever holds the lock knows of the active segment's files.
#[derive(Default)]
pub(super) struct Writer {
    /// Left-overs are gone and the rest is known. False again while something is under way, and
    /// after it failed.
    is_prepared: bool,
    /// The partition's directory was made, and the directories above it are not synced yet.
    is_dir_new: bool,
    /// Entries that the active segment's index file has.
    indexed: usize,
}

/// Blocks of an index, to be written once the flush has been answered.
struct Behind {
    base: Offset,
    blocks: Blocks,
    /// Entries in the file afterwards, where it is the active segment's.
    indexed: Option<usize>,
}

pub(super) async fn flush(
    log: Rc<Inner>,
    batches: Vec<Bytes>,
    roll: Roll,
) -> Result<SegmentPosition, LogError> {
    let (done, flushed) = oneshot::channel();
    task::spawn(async move {
        let mut writer = log.writer.lock().await;
        let (result, behind) = match writer.flush(&log, &batches, roll).await {
            Ok(behind) => (Ok(log.position()), behind),
            Err(error) => (Err(error), Vec::new()),
        };
        // Nobody may be waiting any more; the position tells.
        let _ = done.send(result);
        for index in behind {
            writer.write_behind(&log, index).await;
        }
    });
    flushed.await.expect("the task answers before it ends")
}

pub(super) async fn truncate_to(log: Rc<Inner>, offset: Offset) -> Result<SegmentPosition, LogError> {
    run_to_end(async move { log.writer.lock().await.truncate_to(&log, offset).await }).await
}

pub(super) async fn delete_all(log: Rc<Inner>) -> Result<(), LogError> {
    run_to_end(async move {
        let mut writer = log.writer.lock().await;
        let _alone = log.not_listing().await;
        writer.is_prepared = false;
        {
            let mut state = log.state.borrow_mut();
            state.is_deleted = true;
            state.layout += 1;
            state.closed = Some(BTreeMap::new());
            state.active = None;
            state.replacing = None;
        }
        log.files.forget_log(log.id);
        match fs::remove_dir_all(&log.dir).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed.map_err(LogError::io("deleting", &log.dir))?,
        }
        match sync_parent(&log.dir).await {
            // The topic's last partition, on another shard, took the whole directory with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced.map_err(LogError::io("syncing the parent of", &log.dir)),
        }
    })
    .await
}

pub(super) async fn delete_below(
    log: Rc<Inner>,
    log_start: Offset,
    stored: SegmentPosition,
) -> Result<Vec<Removed>, LogError> {
    run_to_end(async move {
        let _writer = log.writer.lock().await;
        check_writable(&log)?;
        log.set_log_start(log_start);
        log.ensure_listed().await?;
        swap::finish(&log).await?;
        let below = take_below(&mut log.state.borrow_mut(), log_start, stored);
        let bases: Vec<_> = below.iter().map(|(base, _)| *base).collect();
        let result = remove_segments(&log, &bases).await;
        if result.is_err()
            && let Some(closed) = &mut log.state.borrow_mut().closed
        {
            // Some of the files may be there still. To remove what is gone does no harm.
            closed.extend(below.iter().copied());
        }
        result?;
        let removed = |(base, closed): (Offset, Closed)| Removed { base, file_bytes: closed.file_bytes };
        Ok(below.into_iter().map(removed).collect())
    })
    .await
}

/// Takes the closed segments off the list that end at or below the log start, and that the stored
/// position does not name.
fn take_below(state: &mut State, log_start: Offset, stored: SegmentPosition) -> Vec<(Offset, Closed)> {
    let active = state.position.segment_base;
    let closed = state.closed.as_mut().expect("listed before");
    let mut below = Vec::new();
    while let Some((base, segment)) = closed.pop_first() {
        let end = closed.first_key_value().map_or(active, |(next, _)| *next);
        // What is being replaced goes once it is known which of the two files counts.
        let is_replaced = state.swaps.pending.is_some_and(|pending| base >= pending.base);
        if end > log_start || base >= stored.segment_base || is_replaced {
            closed.insert(base, segment);
            break;
        }
        below.push((base, segment));
    }
    state.layout += 1;
    below
}

pub(super) async fn run_to_end<T: 'static>(work: impl Future<Output = T> + 'static) -> T {
    let (done, result) = oneshot::channel();
    task::spawn(async move {
        // Nobody may be waiting any more.
        let _ = done.send(work.await);
    });
    result.await.expect("the task answers before it ends")
}

impl Writer {
    async fn flush(&mut self, log: &Inner, batches: &[Bytes], roll: Roll) -> Result<Vec<Behind>, LogError> {
        check_writable(log)?;
        if batches.is_empty() && roll == Roll::AsNeeded {
            return Ok(Vec::new());
        }
        self.prepare(log).await?;
        let places: Vec<_> = batches.iter().map(place).collect();
        let created_ms = log.state.borrow().active_created_ms.unwrap_or(i64::MAX);
        let age_ms = time::unix_time_ms().saturating_sub(created_ms);
        let plan = plan(log.position(), &places, roll, &log.options_now(), age_ms);
        if plan.pieces.is_empty() {
            return Ok(Vec::new());
        }
        self.is_prepared = false;
        let mut segments = Vec::with_capacity(plan.pieces.len());
        for piece in &plan.pieces {
            // Others have their turn between many small segments.
            let _turn = log.files.turn_to_write(piece.write.end - piece.write.start).await;
            segments.push(self.write_piece(log, piece, batches, &places).await?);
        }
        self.sync(log, &plan, &segments).await?;
        self.is_prepared = true;
        Ok(self.commit(log, &plan, &places, &segments))
    }

    /// Makes durable what a flush wrote: segments, and the directories on the way to new ones. All
    /// at once, since none of it counts before all of it is.
    async fn sync(&mut self, log: &Inner, plan: &Plan, segments: &[Rc<OpenSegment>]) -> Result<(), LogError> {
        let pieces = plan.pieces.iter().zip(segments).filter(|(piece, _)| !piece.write.is_empty());
        let is_planted = log.options().planted.has(Planted::CheckpointBeforeSync);
        let files = pieces.clone().filter(|_| !is_planted).map(|(_, segment)| async {
            segment.file.sync_behind().await.map_err(LogError::io("syncing", &segment.path))
        });
        let mut dirs = Vec::new();
        if pieces.clone().any(|(piece, _)| piece.is_new()) {
            dirs.push(log.dir.as_path());
        }
        if self.is_dir_new {
            // Also the parent: the topic's directory is as new.
            dirs.extend(log.dir.ancestors().skip(1).take(2).filter(|dir| !dir.as_os_str().is_empty()));
        }
        let dirs = dirs
            .into_iter()
            .map(|dir| async move { fs::sync_dir(dir).await.map_err(LogError::io("syncing", dir)) });
        // None is given up because another one failed: a sync has to be waited for.
        let (files, dirs) = join(join_all(files), join_all(dirs)).await;
        let synced: Result<(), LogError> = files.into_iter().chain(dirs).collect();
        fence_if_failed(log, synced)?;
        self.is_dir_new = false;
        Ok(())
    }

    /// Writes one segment's share.
    async fn write_piece(
        &mut self,
        log: &Inner,
        piece: &Piece,
        batches: &[Bytes],
        places: &[BatchPlace],
    ) -> Result<Rc<OpenSegment>, LogError> {
        if !piece.is_new() && piece.write.is_empty() {
            return log.open(piece.segment_base).await;
        }
        let segment = if piece.is_new() {
            let header = SegmentHeader {
                target: log.target,
                leader_epoch: places[piece.batches.start].leader_epoch,
                base_offset: piece.segment_base,
                created_ms: time::unix_time_ms(),
                replaces: None,
            };
            create(log, header).await?
        } else {
            log.open(piece.segment_base).await?
        };
        let header = piece.is_new().then_some(&segment.header);
        let source = Source { batches: &batches[piece.batches.clone()], positions: &piece.positions };
        write_range(&segment.file, piece.write.clone(), header, source)
            .await
            .map_err(LogError::io("writing", &segment.path))?;
        Ok(segment)
    }

    /// Makes a written and synced flush count. Nothing is awaited in here.
    fn commit(
        &mut self,
        log: &Inner,
        plan: &Plan,
        places: &[BatchPlace],
        segments: &[Rc<OpenSegment>],
    ) -> Vec<Behind> {
        let mut behind = Vec::new();
        let now_ms = time::unix_time_ms();
        let mut state = log.state.borrow_mut();
        let interval_bytes = state.interval_bytes();
        let before = state.position;
        for (piece, segment) in plan.pieces.iter().zip(segments) {
            let mut loaded = if piece.is_new() {
                self.indexed = 0;
                Loaded { index: Index::new(piece.segment_base, interval_bytes), broken: None }
            } else {
                state.active.take().expect("prepared: the active index is loaded")
            };
            if loaded.broken.is_none() {
                let written = places[piece.batches.clone()].iter().zip(&piece.positions);
                written.for_each(|(place, position)| loaded.index.push(&place.indexed, *position));
            }
            if piece.closes {
                let file_bytes = piece.write.end.max(before.position_bytes_in(piece));
                behind.extend(self.close(segment, &mut state, piece, file_bytes, &mut loaded, now_ms));
                // Unless somebody has loaded it from the file in this very moment.
                let _ = segment.index.set(loaded);
                state.active_created_ms = None;
            } else {
                behind.extend(self.behind(segment, &loaded));
                state.active = Some(loaded);
                state.active_created_ms = Some(segment.header.created_ms);
            }
        }
        state.position = plan.end;
        state.layout += 1;
        behind
    }

    fn close(
        &self,
        segment: &OpenSegment,
        state: &mut State,
        piece: &Piece,
        file_bytes: u64,
        loaded: &mut Loaded,
        now_ms: i64,
    ) -> Option<Behind> {
        let is_whole = loaded.broken.is_none();
        let known = loaded.index.covered().max_before;
        let max = is_whole.then_some(known);
        // Where timestamps do not tell, nothing in it is newer than this moment.
        let is_told = is_whole && known.timestamp_ms >= 0;
        let newest_ms = if is_told { known.timestamp_ms } else { known.timestamp_ms.max(now_ms) };
        let closed = state.closed.as_mut().expect("prepared: the segments are listed");
        let newest_ms = Some(newest_ms);
        closed.insert(piece.segment_base, Closed { max, newest_ms, ..Closed::unread(file_bytes) });
        if !is_whole {
            return None;
        }
        loaded.index.close();
        // A short segment is scanned as fast as its index would be read.
        let is_short = file_bytes - HEADER_BYTES <= state.interval_bytes().max(HEADER_BYTES);
        (!is_short).then(|| Behind {
            base: piece.segment_base,
            blocks: Blocks::of(&loaded.index, &IndexedSegment::of(&segment.header), self.indexed),
            indexed: None,
        })
    }

    /// The active segment's new index entries, when there are enough.
    fn behind(&self, segment: &OpenSegment, loaded: &Loaded) -> Option<Behind> {
        let entries = loaded.index.entries();
        let is_due = entries.len() >= self.indexed + INDEX_ENTRIES_BEHIND_MAX;
        is_due.then(|| Behind {
            base: entries[0].offset,
            blocks: Blocks::of(&loaded.index, &IndexedSegment::of(&segment.header), self.indexed),
            indexed: Some(entries.len()),
        })
    }

    async fn write_behind(&mut self, log: &Inner, behind: Behind) {
        let path = log.index_path(behind.base);
        match behind.blocks.write(&path).await {
            Ok(()) => {
                if let Some(indexed) = behind.indexed {
                    self.indexed = indexed;
                }
            }
            // The index is only a hint; what is missing is scanned.
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "writing an index failed");
            }
        }
    }

    /// Before the first write of a run, and after a failure: removes what does not count, and
    /// learns what the active segment holds.
    async fn prepare(&mut self, log: &Inner) -> Result<(), LogError> {
        if self.is_prepared {
            return Ok(());
        }
        log.ensure_listed().await?;
        let at = log.position();
        let is_new = at.position_bytes == HEADER_BYTES;
        let is_first = is_new && log.bases_from(Offset(i64::MIN)).len() == 1;
        if is_first {
            // It may be there already, and not be durable: a process that was killed created it.
            fs::create_dir_all(&log.dir).await.map_err(LogError::io("creating", &log.dir))?;
            self.is_dir_new = true;
        }
        remove_left_overs(log, at).await?;
        if !is_new {
            let segment = log.open(at.segment_base).await?;
            log.state.borrow_mut().active_created_ms = Some(segment.header.created_ms);
            let len = segment.file.len().await;
            let len = len.map_err(LogError::io("reading the length of", &segment.path))?;
            if len < at.position_bytes {
                return Err(short(&segment, at, len));
            }
            if len > at.position_bytes {
                let cut = segment.file.truncate(at.position_bytes).await;
                cut.map_err(LogError::io("truncating", &segment.path))?;
            }
            let path = log.index_path(at.segment_base);
            let bounds = log.bounds(at.segment_base).expect("the active segment has bounds");
            let cut = load::cut_file(&path, &segment.header, bounds).await;
            self.indexed = fence_if_failed(log, cut).map_err(LogError::io("cutting", &path))?;
            log.with_index(&segment, |_| ()).await?;
        }
        self.is_prepared = true;
        Ok(())
    }

    async fn truncate_to(&mut self, log: &Inner, offset: Offset) -> Result<SegmentPosition, LogError> {
        check_writable(log)?;
        log.ensure_listed().await?;
        swap::finish(log).await?;
        let at = log.position();
        if offset >= at.next {
            return Ok(at);
        }
        self.is_prepared = false;
        let mut removed = {
            let mut state = log.state.borrow_mut();
            state.truncations += 1;
            state.layout += 1;
            state.position = SegmentPosition::start(offset);
            state.active = None;
            state.active_created_ms = None;
            let closed = state.closed.as_mut().expect("listed above");
            closed.insert(at.segment_base, Closed::unread(at.position_bytes));
            let removed: Vec<_> = closed.split_off(&offset).into_keys().collect();
            if let Some(mut last) = closed.last_entry() {
                // Of what it still holds.
                *last.get_mut() = last.get().cut();
            }
            removed
        };
        log.files.forget_log(log.id);
        // The newest first: a crash in between leaves no hole.
        removed.reverse();
        remove_segments(log, &removed).await?;
        Ok(log.position())
    }
}

pub(super) fn check_writable(log: &Inner) -> Result<(), LogError> {
    let state = log.state.borrow();
    if state.is_deleted {
        return Err(LogError::Deleted);
    }
    if state.is_fenced {
        return Err(LogError::Fenced);
    }
    Ok(())
}

/// A failed sync is never repeated: what it was for may be gone while the next one succeeds.
pub(super) fn fence_if_failed<T, E>(log: &Inner, synced: Result<T, E>) -> Result<T, E> {
    if synced.is_err() {
        log.state.borrow_mut().is_fenced = true;
    }
    synced
}

fn place(batch: &Bytes) -> BatchPlace {
    let header = BatchHeader::parse(batch).expect("batches are checked before they are journalled");
    assert!(header.total_len() == batch.len(), "exactly one whole batch");
    BatchPlace::of(&header)
}

fn short(segment: &OpenSegment, at: SegmentPosition, len: u64) -> LogError {
    Box::new(super::Corruption {
        path: segment.path.clone(),
        position_bytes: at.position_bytes,
        offset: at.next,
        reason: CorruptReason::Short { len },
    })
    .into()
}

impl SegmentPosition {
    /// The bytes of the piece's file that were there before.
    fn position_bytes_in(&self, piece: &Piece) -> u64 {
        if piece.is_new() { 0 } else { self.position_bytes }
    }
}

async fn create(log: &Inner, header: SegmentHeader) -> Result<Rc<OpenSegment>, LogError> {
    let path = log.segment_path(header.base_offset);
    let file = File::create(&path).await.map_err(LogError::io("creating", &path))?;
    let segment = Rc::new(OpenSegment::new(&path, file, header));
    log.files.insert(log.id, header.base_offset, Rc::clone(&segment));
    Ok(segment)
}

/// Batches, and where each of them begins in the file.
struct Source<'a> {
    batches: &'a [Bytes],
    positions: &'a [u64],
}

impl Source<'_> {
    /// Copies what belongs to the file's bytes from `position` on, and zeros where nothing does.
    /// Called with positions in order.
    fn fill(&mut self, position: u64, room: &mut [u8]) {
        let mut filled = 0;
        while let Some((batch, start)) = self.batches.first().zip(self.positions.first()) {
            let here = position + filled as u64;
            let gap = usize::try_from(start.saturating_sub(here)).unwrap_or(usize::MAX);
            if gap >= room.len() - filled {
                break;
            }
            room[filled..filled + gap].fill(0);
            filled += gap;
            let done = usize::try_from(here.saturating_sub(*start)).expect("inside a batch in memory");
            let len = (batch.len() - done).min(room.len() - filled);
            room[filled..filled + len].copy_from_slice(&batch[done..done + len]);
            filled += len;
            if done + len < batch.len() {
                break;
            }
            (self.batches, self.positions) = (&self.batches[1..], &self.positions[1..]);
        }
        room[filled..].fill(0);
    }
}

/// Fills whole blocks from `source`, zeros behind its end, and writes them; several at a time.
async fn write_range(
    file: &File,
    range: Range<u64>,
    header: Option<&SegmentHeader>,
    mut source: Source<'_>,
) -> io::Result<()> {
    let mut in_flight = FuturesUnordered::new();
    let mut position = range.start;
    let mut result = Ok(());
    while position < range.end && result.is_ok() {
        let len = usize::try_from((range.end - position).min(WRITE_BYTES_MAX)).expect("1 MiB");
        let mut buf = AlignedBuf::unfilled(len);
        if position == 0 {
            buf[..BLOCK_BYTES].fill(0);
            header.expect("a new file begins with its header").encode(&mut buf[..BLOCK_BYTES]);
            source.fill(BLOCK_BYTES as u64, &mut buf[BLOCK_BYTES..]);
        } else {
            source.fill(position, &mut buf);
        }
        in_flight.push(file.write_at(buf, position));
        position += len as u64;
        if in_flight.len() == WRITES_IN_FLIGHT_MAX
            && let Some(written) = in_flight.next().await
        {
            result = written.map(drop);
        }
        task::yield_if_needed().await;
    }
    // Also after an error: no write may land behind whatever comes next.
    while let Some(written) = in_flight.next().await {
        result = result.and(written.map(drop));
    }
    result
}

async fn sync_parent(dir: &Path) -> io::Result<()> {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::sync_dir(parent).await,
        Some(_) | None => Ok(()),
    }
}

/// Removes files of an earlier run, or of a failed flush, that do not count.
async fn remove_left_overs(log: &Inner, at: SegmentPosition) -> Result<(), LogError> {
    let is_new = at.position_bytes == HEADER_BYTES;
    let first = if is_new { at.segment_base } else { at.segment_base.plus(1) };
    let found = list(&log.dir).await.map_err(LogError::io("listing", &log.dir))?;
    let segments = found.segments.range(first..).map(|(base, _)| *base);
    let stale = |base: &Offset| *base >= first || !found.segments.contains_key(base);
    let indexes = found.indexes.iter().copied().filter(stale);
    let mut bases: Vec<_> = segments.chain(indexes).collect();
    bases.sort_unstable();
    bases.dedup();
    bases.reverse();
    if !bases.is_empty() {
        tracing::info!(partition = %log.target, files = bases.len(), "removing left-over segments");
    }
    remove_segments(log, &bases).await
}

/// Removes segments with their indexes, in this order, durably.
pub(super) async fn remove_segments(log: &Inner, bases: &[Offset]) -> Result<(), LogError> {
    if bases.is_empty() {
        return Ok(());
    }
    for base in bases {
        log.files.forget(log.id, *base);
        for path in [log.segment_path(*base), log.index_path(*base)] {
            match fs::remove_file(&path).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(LogError::io("removing", &path))?,
            }
        }
    }
    let synced = fs::sync_dir(&log.dir).await;
    fence_if_failed(log, synced).map_err(LogError::io("syncing", &log.dir))
}
