//! What one shard keeps open for all of its partitions' segments: a bounded number of files and
//! of readers that wait where the last read ended. Never writes; never decides what is valid.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use corelog_runtime::fs::{BLOCK_BYTES, File, OpenMode};
use corelog_runtime::task;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

use super::header::{HeaderError, SegmentHeader};
use super::load::Loaded;
use super::read::Reader;
use crate::types::{Offset, TopicPartition};

/// What the flushes of a shard's logs write at a time: a large one (see `WRITES_IN_FLIGHT_MAX`) or a few
/// small ones. More of it would only queue up in the device, and the journal's writes behind it. Their
/// syncs are not bounded here: the more wait for one, the fewer are needed.
const WRITES_KIB_MAX: u32 = 4 << 10;

/// Bounds of a [`FileCache`].
#[derive(Debug, Clone, Copy)]
pub struct FileCacheOptions {
    /// Segment files kept open. More are open while more are being read at the same time.
    pub open_files_max: usize,
    /// Readers kept where they stopped. Each holds up to three chunks of 1 MiB, nothing once it
    /// has come to the end of the log.
    pub readers_max: usize,
}

impl Default for FileCacheOptions {
    fn default() -> Self {
        Self { open_files_max: 512, readers_max: 16 }
    }
}

/// A log among those that share the cache. Never reused, unlike paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogId(u64);

/// An open segment file whose header was checked.
pub(super) struct OpenSegment {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) header: SegmentHeader,
    /// The index, once somebody needed it and only while the segment is closed.
    pub(super) index: OnceCell<Loaded>,
}

/// Why a segment did not open.
#[derive(Debug)]
pub(super) enum OpenError {
    Io(io::Error),
    Header(HeaderError),
}

type Key = (LogId, Offset);

struct Slot {
    /// Set by the first who opens; others that come meanwhile wait for it.
    segment: Rc<OnceCell<Rc<OpenSegment>>>,
    used: u64,
}

#[derive(Default)]
struct State {
    clock: u64,
    logs: u64,
    slots: BTreeMap<Key, Slot>,
    by_use: BTreeMap<u64, Key>,
    /// Oldest first; at most `readers_max`.
    readers: Vec<(LogId, Reader)>,
    /// Evicted or forgotten while somebody was reading them: closed once nobody is.
    retired: Vec<Rc<OpenSegment>>,
}

/// A shard's open segment files and waiting readers, bounded, least recently used first out.
pub struct FileCache {
    options: FileCacheOptions,
    state: RefCell<State>,
    writes_kib: Semaphore,
}

impl FileCache {
    /// An empty cache.
    ///
    /// # Panics
    /// When it may not even hold one file.
    pub fn new(options: FileCacheOptions) -> Rc<Self> {
        assert!(options.open_files_max > 0, "a cache holds at least one file");
        Rc::new(Self {
            options,
            state: RefCell::default(),
            writes_kib: Semaphore::new(WRITES_KIB_MAX as usize),
        })
    }

    /// How many files it holds open.
    pub fn open_files(&self) -> usize {
        self.state.borrow().slots.len()
    }

    /// Waits until a flush of so many bytes may write. Bounds what is in flight, and the buffers for
    /// it.
    pub(super) async fn turn_to_write(&self, bytes: u64) -> SemaphorePermit<'_> {
        let kib = u32::try_from(bytes.div_ceil(1024)).map_or(WRITES_KIB_MAX, |kib| kib.min(WRITES_KIB_MAX));
        self.writes_kib.acquire_many(kib).await.expect("never closed")
    }

    pub(super) fn register(&self) -> LogId {
        let mut state = self.state.borrow_mut();
        state.logs += 1;
        LogId(state.logs)
    }

    /// The segment at `path`, opened and its header checked unless it is open already.
    pub(super) async fn open(
        &self,
        log: LogId,
        base: Offset,
        target: TopicPartition,
        path: &Path,
        mode: OpenMode,
    ) -> Result<Rc<OpenSegment>, OpenError> {
        let slot = self.slot((log, base));
        let opened = slot
            .get_or_try_init(|| async {
                let file = File::open(path, mode).await.map_err(OpenError::Io)?;
                let block = file.read_at(0, BLOCK_BYTES).await.map_err(OpenError::Io)?;
                let header = SegmentHeader::decode(&block)
                    .and_then(|header| header.check(target, base).map(|()| header))
                    .map_err(OpenError::Header)?;
                Ok(Rc::new(OpenSegment::new(path, file, header)))
            })
            .await;
        match opened {
            Ok(segment) => Ok(Rc::clone(segment)),
            Err(error) => {
                self.forget_failed((log, base), &slot);
                Err(error)
            }
        }
    }

    /// Adds a file that the log just created.
    pub(super) fn insert(&self, log: LogId, base: Offset, segment: Rc<OpenSegment>) {
        self.forget(log, base);
        let slot = self.slot((log, base));
        assert!(slot.set(segment).is_ok(), "a created file is not open yet");
    }

    fn slot(&self, key: Key) -> Rc<OnceCell<Rc<OpenSegment>>> {
        let (segment, evicted) = {
            let state = &mut *self.state.borrow_mut();
            state.clock += 1;
            let used = state.clock;
            let slot = state.slots.entry(key).or_insert_with(|| Slot { segment: Rc::default(), used });
            state.by_use.remove(&slot.used);
            slot.used = used;
            let segment = Rc::clone(&slot.segment);
            state.by_use.insert(used, key);
            let over = state.slots.len().saturating_sub(self.options.open_files_max);
            let evicted: Vec<_> = (0..over)
                .filter_map(|_| state.by_use.pop_first())
                .filter_map(|(_, key)| state.slots.remove(&key))
                .collect();
            (segment, evicted)
        };
        self.retire(evicted);
        segment
    }

    /// Closes what left the cache, now or when the last one who reads it is done.
    fn retire(&self, slots: impl IntoIterator<Item = Slot>) {
        let unused = {
            let mut state = self.state.borrow_mut();
            let segments = slots.into_iter().filter_map(|slot| slot.segment.get().cloned());
            state.retired.extend(segments);
            let unused: Vec<_> =
                state.retired.extract_if(.., |segment| Rc::strong_count(segment) == 1).collect();
            unused
        };
        unused.into_iter().for_each(close);
    }

    /// Forgets a file that is about to be removed or replaced. Who reads it goes on reading; who
    /// waits to read on would keep it on the disk.
    pub(super) fn forget(&self, log: LogId, base: Offset) {
        let (slot, readers) = {
            let mut state = self.state.borrow_mut();
            let slot = state.slots.remove(&(log, base));
            if let Some(slot) = &slot {
                state.by_use.remove(&slot.used);
            }
            let is_there =
                |(owner, reader): &mut (LogId, Reader)| *owner == log && reader.segment_base() == base;
            let readers: Vec<_> = state.readers.extract_if(.., is_there).collect();
            (slot, readers)
        };
        drop(readers);
        self.retire(slot);
    }

    fn forget_failed(&self, (log, base): Key, failed: &Rc<OnceCell<Rc<OpenSegment>>>) {
        let is_still_there = {
            let state = self.state.borrow();
            let slot = state.slots.get(&(log, base));
            slot.is_some_and(|slot| Rc::ptr_eq(&slot.segment, failed) && !failed.initialized())
        };
        if is_still_there {
            self.forget(log, base);
        }
    }

    /// Forgets everything of a log that is being truncated or deleted.
    pub(super) fn forget_log(&self, log: LogId) {
        let (bases, readers) = {
            let mut state = self.state.borrow_mut();
            let range = (log, Offset(i64::MIN))..=(log, Offset(i64::MAX));
            let bases: Vec<_> = state.slots.range(range).map(|((_, base), _)| *base).collect();
            let readers: Vec<_> = state.readers.extract_if(.., |(owner, _)| *owner == log).collect();
            (bases, readers)
        };
        drop(readers);
        bases.into_iter().for_each(|base| self.forget(log, base));
    }

    /// Takes the reader that waits at exactly this offset.
    pub(super) fn take_reader(&self, log: LogId, at: Offset) -> Option<Reader> {
        let mut state = self.state.borrow_mut();
        let found =
            state.readers.iter().rposition(|(owner, reader)| *owner == log && reader.offset() == at)?;
        Some(state.readers.remove(found).1)
    }

    /// Keeps a reader for the next read from where it stopped.
    pub(super) fn keep_reader(&self, log: LogId, reader: Reader) {
        let evicted = {
            let mut state = self.state.borrow_mut();
            state.readers.push((log, reader));
            (state.readers.len() > self.options.readers_max).then(|| state.readers.remove(0))
        };
        drop(evicted);
    }
}

impl OpenSegment {
    pub(super) fn new(path: &Path, file: File, header: SegmentHeader) -> Self {
        Self { path: path.to_path_buf(), file, header, index: OnceCell::new() }
    }
}

/// Closes a file that nobody reads, in a task of its own.
fn close(segment: Rc<OpenSegment>) {
    let segment = Rc::into_inner(segment).expect("nobody else holds it");
    task::spawn(async move {
        if let Err(error) = segment.file.close().await {
            tracing::warn!(path = %segment.path.display(), %error, "closing a segment failed");
        }
    });
}
