//! What is queued, being written, synced and released: decisions without I/O.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;

use corelog_runtime::fs::{AlignedBuf, BLOCK_BYTES, File};

use super::format::{
    BodyCrc, COMMIT_HEADER_BYTES, CommitHeader, ENTRY_HEADER_BYTES, Entry, RunHeader, encode_entry,
    entry_bytes, padded,
};
use super::recovery::OldFile;
use super::scan::{FIRST_COMMIT_BYTES, Link};
use super::{JournalError, JournalFull, JournalOptions, Progress};
use crate::types::Lsn;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A commit smaller than this waits while a write is under way: it would only make the next sync
/// cover more writes, not come earlier.
const WORTHWHILE_COMMIT_BYTES: usize = 256 << 10;

/// Blocks at a file's end that no entry uses, so that a release can be recorded (and so make
/// room) even when the journal is full.
const MARK_BLOCKS_MAX: u64 = 16;

/// A file whose entries count.
pub(super) struct LiveFile {
    pub(super) path: PathBuf,
    /// Open if this run wrote it.
    pub(super) file: Option<File>,
    pub(super) generation: u64,
    /// LSNs of its entries; the end is unknown (and empty) for the head.
    pub(super) lsns: Range<Lsn>,
    /// Sequence of its first commit; `None` for an earlier run's file and for the run's first.
    pub(super) first_sequence: Option<u64>,
    pub(super) bytes: u64,
    /// Set aside and not used again.
    pub(super) unreplayed: bool,
    pub(super) old_run: bool,
}

impl From<OldFile> for LiveFile {
    fn from(old: OldFile) -> Self {
        Self {
            path: old.path,
            file: None,
            generation: old.generation,
            lsns: old.lsns,
            first_sequence: None,
            bytes: old.bytes,
            unreplayed: old.unreplayed,
            old_run: true,
        }
    }
}

/// A file with nothing that counts in it.
pub(super) struct SpareFile {
    pub(super) path: PathBuf,
    pub(super) file: Option<File>,
    pub(super) bytes: u64,
}

/// A file on its way to being a spare.
pub(super) struct UnfilledFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Zero-filled up to here.
    pub(super) filled_bytes: u64,
}

/// The file that becomes the head at the next roll: its header is synced.
pub(super) struct PreparedFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) generation: u64,
    pub(super) bytes: u64,
}

/// The file being written to.
pub(super) struct Head {
    pub(super) file: File,
    pub(super) generation: u64,
    pub(super) position_bytes: u64,
    /// Zero-filled up to here.
    pub(super) ready_bytes: u64,
    pub(super) bytes: u64,
}

/// A released file, and the commit that records that (once it is built).
struct Released {
    recorded_in: Option<u64>,
    file: LiveFile,
}

/// A write to be submitted.
pub(super) struct Commit {
    pub(super) header: CommitHeader,
    pub(super) buf: AlignedBuf,
    pub(super) file: File,
    /// Of its entries, as counted by [`State::queued_bytes`].
    pub(super) queued_bytes: usize,
    /// To be written and synced in one request.
    pub(super) durable: bool,
}

/// Everything that a sync covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SyncTarget {
    pub(super) lsn: Lsn,
    pub(super) sequence: u64,
}

pub(super) struct State {
    pub(super) options: JournalOptions,
    pub(super) run: RunHeader,
    pending: VecDeque<Entry>,
    pending_bytes: usize,
    in_flight_bytes: usize,
    pub(super) in_flight: usize,
    /// LSN of this run's first entry.
    first_lsn: Lsn,
    next_lsn: Lsn,
    /// What the next commit says of itself.
    link: Link,
    start_sequence: u64,
    pub(super) progress: Progress,
    /// Like `progress`, in commits.
    written_sequence: u64,
    synced_sequence: u64,
    sync_requested: Lsn,
    /// Files with completed writes that no sync was issued for.
    dirty: Vec<(u64, File)>,
    pub(super) live: VecDeque<LiveFile>,
    pub(super) head: Head,
    pub(super) next: Option<PreparedFile>,
    pub(super) spares: Vec<SpareFile>,
    pub(super) unfilled: Option<UnfilledFile>,
    released: Vec<Released>,
    pub(super) dead: Vec<LiveFile>,
    release_below: Lsn,
    recorded_live: u64,
    pub(super) next_generation: u64,
    pub(super) next_index: u64,
    pub(super) disk_full: bool,
    pub(super) fenced: Option<JournalError>,
    pub(super) closing: bool,
    closed_mark: bool,
    /// The driver has ended.
    pub(super) stopped: bool,
    /// The background task runs.
    pub(super) housekeeping: bool,
}

/// What a run starts with.
pub(super) struct Start {
    pub(super) run: RunHeader,
    pub(super) link: Link,
    pub(super) head: Head,
    pub(super) live: VecDeque<LiveFile>,
    pub(super) dead: Vec<LiveFile>,
    pub(super) next_generation: u64,
    pub(super) next_index: u64,
}

fn mark_bytes(file_bytes: u64) -> u64 {
    (file_bytes / BLOCK / 8).clamp(1, MARK_BLOCKS_MAX) * BLOCK
}

/// Longest payload of an entry.
pub(super) fn max_entry_bytes(options: &JournalOptions) -> usize {
    let room = options.file_bytes - FIRST_COMMIT_BYTES - mark_bytes(options.file_bytes);
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(u32::MAX as usize - BLOCK_BYTES);
    room - COMMIT_HEADER_BYTES - ENTRY_HEADER_BYTES
}

impl State {
    pub(super) fn new(options: JournalOptions, start: Start) -> Self {
        let Start { run, link, head, live, dead, next_generation, next_index } = start;
        Self {
            options,
            run,
            pending: VecDeque::new(),
            pending_bytes: 0,
            in_flight_bytes: 0,
            in_flight: 0,
            first_lsn: link.lsn,
            next_lsn: link.lsn,
            link,
            start_sequence: link.sequence,
            progress: Progress { written: link.lsn, synced: link.lsn },
            written_sequence: link.sequence,
            synced_sequence: link.sequence,
            sync_requested: Lsn(0),
            dirty: Vec::new(),
            recorded_live: live.front().map_or(head.generation, |file| file.generation),
            live,
            head,
            next: None,
            spares: Vec::new(),
            unfilled: None,
            released: Vec::new(),
            dead,
            release_below: Lsn(0),
            next_generation,
            next_index,
            disk_full: false,
            fenced: None,
            closing: false,
            closed_mark: false,
            stopped: false,
            housekeeping: false,
        }
    }

    pub(super) fn append(&mut self, entry: Entry) -> Lsn {
        let lsn = self.next_lsn;
        self.next_lsn = lsn.next();
        if self.fenced.is_none() && !self.closing {
            self.pending_bytes += entry_bytes(entry.payload.len());
            self.pending.push_back(entry);
        }
        lsn
    }

    pub(super) fn last_appended(&self) -> Option<Lsn> {
        (self.next_lsn > self.first_lsn).then(|| Lsn(self.next_lsn.0 - 1))
    }

    /// Entries of this run, the fenced journal's that are lost included.
    pub(super) fn appended(&self) -> u64 {
        self.next_lsn.0 - self.first_lsn.0
    }

    pub(super) fn failure(&self) -> Option<JournalError> {
        self.fenced.clone().or_else(|| self.stopped.then_some(JournalError::Closed))
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.pending_bytes + self.in_flight_bytes
    }

    /// Whether that asks for more than before.
    pub(super) fn request_sync(&mut self, lsn: Lsn) -> bool {
        let news = lsn.next() > self.sync_requested;
        self.sync_requested = self.sync_requested.max(lsn.next());
        news
    }

    // ---- files ----

    pub(super) fn oldest_live(&self) -> Option<Range<Lsn>> {
        (self.live.len() > 1).then(|| self.live[0].lsns.clone())
    }

    pub(super) fn live_bytes(&self) -> u64 {
        let sealed: u64 = self.live.iter().take(self.live.len() - 1).map(|file| file.bytes).sum();
        sealed + self.head.position_bytes
    }

    fn is_idle(&self) -> bool {
        self.queued_bytes() == 0
    }

    pub(super) fn is_pressed(&self) -> bool {
        let many = self.live.len() >= self.options.max_files.saturating_sub(1).max(2);
        let leftovers = self.live.len() > 1 && self.live[0].old_run && self.is_idle();
        many || leftovers
    }

    /// Files ready to be written to after the head.
    pub(super) fn ready_files(&self) -> usize {
        usize::from(self.next.is_some()) + self.spares.len()
    }

    /// How many files should be ready: none before the first commit, then the next one, and, once
    /// the journal is used in earnest, the reserve.
    pub(super) fn ready_files_wanted(&self) -> usize {
        let used = self.link.sequence > self.start_sequence || !self.pending.is_empty();
        let in_earnest = self.live.len() > 1 || self.head.position_bytes > self.head.bytes / 2;
        let below_limit = self.live.len() < self.options.max_files;
        usize::from(used) + usize::from(used && in_earnest && below_limit)
    }

    pub(super) fn lacks_ready_file(&self) -> bool {
        self.ready_files() < self.ready_files_wanted()
    }

    /// The room for entries in the head, less what is queued for it.
    fn head_room(&self) -> u64 {
        let end = self.head.bytes - mark_bytes(self.head.bytes);
        end.saturating_sub(self.head.position_bytes).saturating_sub(self.pending_bytes as u64)
    }

    pub(super) fn full(&self) -> Option<JournalFull> {
        let (live, limit) = (self.live.len(), self.options.max_files);
        let nearly_used_up = self.head_room() < self.head.bytes / 8;
        if live > limit || (live == limit && nearly_used_up) {
            return Some(JournalFull::Files);
        }
        // Without a file behind it the head is the reserve; a run's only file is so by half.
        let half_used = self.head_room() < self.head.bytes / 2;
        let in_reserve = self.ready_files() == 0 && (live > 1 || half_used);
        (self.disk_full && (nearly_used_up || in_reserve)).then_some(JournalFull::Disk)
    }

    pub(super) fn release(&mut self, below: Lsn) {
        self.release_below = self.release_below.max(below);
        self.release_files();
    }

    /// Takes files that are not needed from the front. The file that becomes the oldest has its
    /// first commit synced (or is a run's first), so that replay can always start with it.
    fn release_files(&mut self) {
        while self.live.len() > 1 && self.live[0].lsns.end <= self.release_below {
            let startable = self.live[1].first_sequence.is_none_or(|first| self.synced_sequence > first);
            if !startable || self.live[0].lsns.end > self.progress.synced {
                return;
            }
            if let Some(file) = self.live.pop_front() {
                self.released.push(Released { recorded_in: None, file });
            }
        }
    }

    pub(super) fn live_generation(&self) -> u64 {
        self.live.front().map_or(self.head.generation, |file| file.generation)
    }

    /// Makes the prepared file the head.
    fn roll(&mut self, next: PreparedFile) {
        if let Some(sealed) = self.live.back_mut() {
            sealed.lsns.end = self.link.lsn;
        }
        self.live.push_back(LiveFile {
            path: next.path,
            file: Some(next.file.clone()),
            generation: next.generation,
            lsns: self.link.lsn..self.link.lsn,
            first_sequence: Some(self.link.sequence),
            bytes: next.bytes,
            unreplayed: false,
            old_run: false,
        });
        self.head = Head {
            file: next.file,
            generation: next.generation,
            position_bytes: FIRST_COMMIT_BYTES,
            ready_bytes: next.bytes,
            bytes: next.bytes,
        };
    }

    // ---- commits ----

    /// The next write, if there is one to be made now.
    pub(super) fn next_commit(&mut self) -> Option<Commit> {
        if self.in_flight >= self.options.writes_in_flight {
            return None;
        }
        if self.in_flight > 0 && self.pending_bytes < self.worthwhile_bytes() {
            return None;
        }
        if let Some((entries, body_bytes)) = self.next_entries() {
            return Some(self.build(entries, body_bytes, false));
        }
        if self.in_flight == 0 && self.wants_mark() && self.has_mark_room() {
            let closed = self.is_closing_time();
            self.closed_mark |= closed;
            return Some(self.build(0, 0, closed));
        }
        None
    }

    /// How many pending entries, and bytes of them, go into the next commit.
    fn next_entries(&mut self) -> Option<(usize, usize)> {
        let first = self.pending.front()?;
        let at_least = padded((COMMIT_HEADER_BYTES + entry_bytes(first.payload.len())) as u64);
        let mut end = self.head.bytes - mark_bytes(self.head.bytes);
        if self.head.position_bytes + at_least > end {
            let next = self.next.take()?;
            self.roll(next);
            end = self.head.bytes - mark_bytes(self.head.bytes);
        }
        let room = end.min(self.head.ready_bytes).saturating_sub(self.head.position_bytes);
        if room < at_least {
            return None;
        }
        let limit = room.min(at_least.max(self.options.max_commit_bytes as u64));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX) - COMMIT_HEADER_BYTES;
        let (mut entries, mut body_bytes) = (0, 0);
        for entry in &self.pending {
            let with = body_bytes + entry_bytes(entry.payload.len());
            if with > limit {
                break;
            }
            entries += 1;
            body_bytes = with;
        }
        Some((entries, body_bytes))
    }

    /// Whether entries are waiting for a file.
    pub(super) fn is_stalled(&self) -> bool {
        !self.pending.is_empty() && self.next.is_none()
    }

    pub(super) fn unwritten_entries(&self) -> usize {
        self.pending.len()
    }

    fn is_closing_time(&self) -> bool {
        self.closing && self.pending.is_empty() && self.in_flight == 0 && !self.closed_mark
    }

    /// Whether a commit without entries is needed: to record a release, or the close.
    fn wants_mark(&self) -> bool {
        self.live_generation() > self.recorded_live || self.is_closing_time()
    }

    fn has_mark_room(&self) -> bool {
        self.head.position_bytes + BLOCK <= self.head.ready_bytes.min(self.head.bytes)
    }

    /// Whether a commit's write and sync should be one request, which takes less time and CPU than
    /// two: if somebody waits for the sync, and the write has no company that a sync of its own would
    /// cover as well. Only behind what is synced, since the request syncs no other write.
    fn is_best_durable(&self, total_bytes: u64) -> bool {
        let alone = self.in_flight == 0 && !self.has_unsynced();
        let waited_for = self.sync_requested > self.link.lsn;
        alone && waited_for && total_bytes < self.worthwhile_bytes() as u64
    }

    fn worthwhile_bytes(&self) -> usize {
        self.options.max_commit_bytes.min(WORTHWHILE_COMMIT_BYTES)
    }

    fn build(&mut self, entries: usize, body_bytes: usize, closed: bool) -> Commit {
        let total = padded((COMMIT_HEADER_BYTES + body_bytes) as u64);
        let mut buf = AlignedBuf::unfilled(usize::try_from(total).expect("a commit fits the memory"));
        buf[..COMMIT_HEADER_BYTES].fill(0);
        let mut at = COMMIT_HEADER_BYTES;
        let mut lsn = self.link.lsn;
        let mut body_crc = BodyCrc::default();
        for entry in self.pending.drain(..entries) {
            let (len, crc) = encode_entry(&entry, lsn, self.head.generation, &mut buf[at..]);
            body_crc.add(crc);
            at += len;
            lsn = lsn.next();
        }
        assert_eq!(at, COMMIT_HEADER_BYTES + body_bytes, "entries are as long as was counted");
        buf[at..].fill(0);
        let durable = self.is_best_durable(total);
        let mut header = CommitHeader {
            run: self.run.run,
            generation: self.head.generation,
            sequence: self.link.sequence,
            position_bytes: self.head.position_bytes,
            first_lsn: self.link.lsn,
            known_synced: self.progress.synced,
            live_generation: self.live_generation(),
            entries: u32::try_from(entries).expect("a commit fits a file"),
            body_bytes: u32::try_from(body_bytes).expect("a commit fits a file"),
            predecessor: self.link.predecessor,
            body_crc: body_crc.0,
            closed,
            crc: 0,
        };
        header.encode(&mut buf);
        self.link = Link::after(&header);
        self.head.position_bytes += total;
        self.pending_bytes -= body_bytes;
        self.in_flight_bytes += body_bytes;
        self.in_flight += 1;
        self.recorded_live = header.live_generation;
        for released in &mut self.released {
            released.recorded_in.get_or_insert(header.sequence);
        }
        Commit { header, buf, file: self.head.file.clone(), queued_bytes: body_bytes, durable }
    }

    // ---- completions ----

    /// A write completed (not necessarily all before it).
    pub(super) fn completed(&mut self, generation: u64, file: &File) {
        if !self.dirty.iter().any(|(dirty, _)| *dirty == generation) {
            self.dirty.push((generation, file.clone()));
        }
    }

    /// This write and all before it completed.
    pub(super) fn written(&mut self, header: &CommitHeader, queued_bytes: usize) {
        assert_eq!(header.sequence, self.written_sequence, "commits count as written in order");
        self.written_sequence = header.sequence + 1;
        self.progress.written = self.progress.written.max(header.end_lsn());
        self.in_flight -= 1;
        self.in_flight_bytes -= queued_bytes;
    }

    /// This write completed durably, and all before it are synced.
    pub(super) fn written_durably(&mut self, header: &CommitHeader) {
        assert_eq!(header.sequence, self.synced_sequence, "a durable write is behind what is synced");
        self.synced(SyncTarget { lsn: header.end_lsn(), sequence: header.sequence + 1 });
    }

    /// Whether something was written that is not synced.
    pub(super) fn has_unsynced(&self) -> bool {
        self.written_sequence > self.synced_sequence
    }

    /// Whether somebody waits for a sync that would cover something new.
    pub(super) fn wants_sync(&self) -> bool {
        let unrecorded = |released: &Released| {
            released.recorded_in.is_some_and(|sequence| sequence < self.written_sequence)
        };
        self.has_unsynced()
            && (self.sync_requested > self.progress.synced
                || self.closing
                || self.released.iter().any(unrecorded))
    }

    /// What a sync issued now covers, and the files to sync for it.
    pub(super) fn start_sync(&mut self) -> (SyncTarget, Vec<File>) {
        let target = SyncTarget { lsn: self.progress.written, sequence: self.written_sequence };
        (target, self.dirty.drain(..).map(|(_, file)| file).collect())
    }

    pub(super) fn synced(&mut self, target: SyncTarget) {
        assert!(target.sequence >= self.synced_sequence, "syncs end in the order they start");
        self.synced_sequence = target.sequence;
        self.progress.synced = self.progress.synced.max(target.lsn);
        let released = std::mem::take(&mut self.released);
        for entry in released {
            match entry.recorded_in {
                Some(sequence) if sequence < self.synced_sequence => self.dead.push(entry.file),
                _ => self.released.push(entry),
            }
        }
        self.release_files();
    }

    /// Everything is written, synced and recorded.
    pub(super) fn is_closed(&self) -> bool {
        self.closing
            && self.pending.is_empty()
            && self.in_flight == 0
            && !self.has_unsynced()
            && (self.closed_mark || !self.has_mark_room())
    }
}
