//! A reader of one partition's batches: large reads, and the checks that every batch passes before
//! anybody sees it. For fetches it reads one chunk ahead when it reads on, see [`Gait`].

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use corelog_protocol::batch::{self, BatchHeader};
use corelog_runtime::fs::BLOCK_BYTES;
use corelog_runtime::task::{Class, Join, spawn_join, yield_if_needed};

use super::error::{CorruptReason, Corruption, LogError};
use super::files::OpenSegment;
use super::header::HEADER_BYTES;
use super::index::Entry;
use super::plan::{TELLING_BYTES, align_down, align_up, is_padding_for_sure};
use crate::types::{LeaderEpoch, Offset};

/// How a reader goes through a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gait {
    class: Class,
    chunk_bytes: u64,
    reads_ahead: bool,
}

impl Gait {
    /// Somebody waits. A chunk is as much as a shard may have in flight, see ADR 7.
    pub(super) const FETCH: Self = Self { class: Class::Read, chunk_bytes: 256 << 10, reads_ahead: true };
    /// Nobody waits, and only the first batch is wanted.
    pub(super) const LOOK: Self =
        Self { class: Class::Background, chunk_bytes: BLOCK_BYTES as u64, reads_ahead: false };
    /// Nobody waits: little at a time, and one thing after the other.
    pub(super) const CLEAN: Self =
        Self { class: Class::Background, chunk_bytes: 64 << 10, reads_ahead: false };
}

/// Up to where a segment may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The offset behind the last batch.
    pub(super) end: Offset,
    /// Whole blocks that may be read: up to the synced position or the end of the file.
    pub(super) file_bytes: u64,
}

struct Chunk {
    start: u64,
    bytes: Bytes,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn holds(&self, position_bytes: u64) -> bool {
        (self.start..self.end()).contains(&position_bytes)
    }

    /// At most `len` bytes from there, as far as they are in this chunk.
    fn slice(&self, position_bytes: u64, len: usize) -> Bytes {
        let from = usize::try_from(position_bytes - self.start).expect("inside the chunk");
        self.bytes.slice(from..self.bytes.len().min(from.saturating_add(len)))
    }
}

struct Ahead {
    start: u64,
    read: Join<io::Result<Bytes>>,
}

/// A position in a segment, and the chunks around it.
pub(super) struct Reader {
    gait: Gait,
    segment: Rc<OpenSegment>,
    position_bytes: u64,
    offset: Offset,
    epoch_min: LeaderEpoch,
    /// At most two: a batch may begin in one and end in the next.
    chunks: VecDeque<Chunk>,
    ahead: Option<Ahead>,
    /// It has read on at least once, so the next chunk is likely wanted as well.
    is_sequential: bool,
}

/// Where a reader stood.
pub(super) struct Mark {
    segment: Rc<OpenSegment>,
    position_bytes: u64,
    offset: Offset,
    epoch_min: LeaderEpoch,
}

impl Reader {
    /// Starts at a batch that an index knows.
    pub(super) fn new(segment: Rc<OpenSegment>, at: Entry) -> Self {
        Self::with_gait(segment, at, Gait::FETCH)
    }

    pub(super) fn with_gait(segment: Rc<OpenSegment>, at: Entry, gait: Gait) -> Self {
        let epoch_min = segment.header.leader_epoch;
        Self {
            gait,
            segment,
            position_bytes: at.position_bytes,
            offset: at.offset,
            epoch_min,
            chunks: VecDeque::new(),
            ahead: None,
            is_sequential: false,
        }
    }

    /// Goes on with the first batch of the next segment.
    pub(super) fn continue_in(&mut self, segment: Rc<OpenSegment>) {
        self.offset = segment.header.base_offset;
        self.epoch_min = self.epoch_min.max(segment.header.leader_epoch);
        self.position_bytes = HEADER_BYTES;
        self.segment = segment;
        self.chunks.clear();
        self.ahead = None;
    }

    /// Base offset of the next batch.
    pub(super) fn offset(&self) -> Offset {
        self.offset
    }

    /// Where that batch begins in the file, once it was peeked at; before, padding may come first.
    pub(super) fn position_bytes(&self) -> u64 {
        self.position_bytes
    }

    pub(super) fn segment(&self) -> &OpenSegment {
        &self.segment
    }

    pub(super) fn segment_base(&self) -> Offset {
        self.segment.header.base_offset
    }

    /// Where it stands, to come back to.
    pub(super) fn mark(&self) -> Mark {
        Mark {
            segment: Rc::clone(&self.segment),
            position_bytes: self.position_bytes,
            offset: self.offset,
            epoch_min: self.epoch_min,
        }
    }

    /// Goes back to where it stood.
    pub(super) fn return_to(&mut self, mark: Mark) {
        let Mark { segment, position_bytes, offset, epoch_min } = mark;
        if !Rc::ptr_eq(&self.segment, &segment) {
            self.chunks.clear();
            self.ahead = None;
        }
        (self.segment, self.position_bytes, self.offset) = (segment, position_bytes, offset);
        self.epoch_min = epoch_min;
    }

    /// Called when a read takes up where an earlier one stopped.
    pub(super) fn resume(&mut self) {
        self.is_sequential = true;
    }

    /// Gives the memory back: nothing is left to read for now.
    pub(super) fn release(&mut self) {
        self.chunks.clear();
        self.ahead = None;
    }

    /// The header of the next batch, checked as far as that goes without its body; nothing at
    /// the end of the segment. Moves on over the padding before it.
    pub(super) async fn peek(&mut self, bounds: Bounds) -> Result<Option<BatchHeader>, LogError> {
        if self.offset >= bounds.end {
            return Ok(None);
        }
        let (bytes, available) = loop {
            if is_padding_for_sure(self.position_bytes) {
                self.position_bytes = align_up(self.position_bytes);
            }
            let is_at_block = self.position_bytes.is_multiple_of(BLOCK_BYTES as u64);
            let available = bounds.file_bytes.saturating_sub(self.position_bytes);
            let needed = batch::HEADER_BYTES as u64;
            if available >= needed {
                let bytes = self.bytes(batch::HEADER_BYTES, bounds).await?;
                if is_at_block || bytes.iter().take(TELLING_BYTES).any(|byte| *byte != 0) {
                    break (bytes, available);
                }
            } else if is_at_block {
                return Err(self.corrupt(CorruptReason::TooLong { needed, available }));
            }
            // What flushes wrote begins at a block, and is padded to one.
            self.position_bytes = align_up(self.position_bytes);
        };
        let header = BatchHeader::parse(&bytes).map_err(|error| self.corrupt(error.into()))?;
        self.check_header(&header, available, bounds.end).map_err(|reason| self.corrupt(reason))?;
        Ok(Some(header))
    }

    fn check_header(&self, header: &BatchHeader, available: u64, end: Offset) -> Result<(), CorruptReason> {
        let needed = header.total_len() as u64;
        if header.base_offset != self.offset.0 {
            return Err(CorruptReason::Offset { found: Offset(header.base_offset) });
        }
        if needed > available {
            return Err(CorruptReason::TooLong { needed, available });
        }
        if header.last_offset_delta < 0 || header.next_offset() > end.0 {
            return Err(CorruptReason::End { found: Offset(header.next_offset()), end });
        }
        if header.leader_epoch < self.epoch_min.0 {
            return Err(CorruptReason::LeaderEpoch {
                found: LeaderEpoch(header.leader_epoch),
                expected: self.epoch_min,
            });
        }
        Ok(())
    }

    /// The whole batch whose header [`Reader::peek`] just gave. Moves on behind it.
    pub(super) async fn take(&mut self, header: &BatchHeader, bounds: Bounds) -> Result<Bytes, LogError> {
        let len = header.total_len();
        let bytes = self.bytes(len, bounds).await?;
        if !batch::crc_ok(&bytes) {
            return Err(self.corrupt(CorruptReason::Checksum));
        }
        self.skip(header);
        while self.chunks.front().is_some_and(|chunk| chunk.end() <= self.position_bytes) {
            self.chunks.pop_front();
        }
        yield_if_needed().await;
        Ok(bytes)
    }

    /// Moves on behind the batch.
    pub(super) fn skip(&mut self, header: &BatchHeader) {
        self.position_bytes += header.total_len() as u64;
        self.offset = Offset(header.next_offset());
        self.epoch_min = LeaderEpoch(header.leader_epoch);
    }

    /// `len` bytes from the position; without a copy where one chunk has them all.
    async fn bytes(&mut self, len: usize, bounds: Bounds) -> Result<Bytes, LogError> {
        let at = self.position_bytes;
        if !self.chunks.iter().any(|chunk| chunk.holds(at)) {
            self.load(at, bounds).await?;
        }
        let first = self.chunks.iter().find(|chunk| chunk.holds(at)).expect("just loaded");
        let head = first.slice(at, len);
        if head.len() == len {
            self.read_ahead(bounds);
            return Ok(head);
        }
        let mut whole = BytesMut::with_capacity(len);
        whole.extend_from_slice(&head);
        while whole.len() < len {
            let next = at + whole.len() as u64;
            match self.chunks.iter().find(|chunk| chunk.holds(next)) {
                Some(chunk) => whole.extend_from_slice(&chunk.slice(next, len - whole.len())),
                None => self.load(next, bounds).await?,
            }
        }
        Ok(whole.freeze())
    }

    /// Reads the chunk that holds `position_bytes`.
    async fn load(&mut self, position_bytes: u64, bounds: Bounds) -> Result<(), LogError> {
        let start = align_down(position_bytes);
        let wanted = bounds.file_bytes.saturating_sub(start).min(self.gait.chunk_bytes);
        let read = match self.ahead.take() {
            Some(ahead) if ahead.start == start => ahead.read,
            _ => self.start_read(start, wanted),
        };
        let bytes = read.await.map_err(LogError::io("reading a segment", &self.segment.path))?;
        let end = start + bytes.len() as u64;
        if end <= position_bytes {
            return Err(self.corrupt(CorruptReason::Short { len: end }));
        }
        self.is_sequential |= !self.chunks.is_empty();
        self.chunks.push_back(Chunk { start, bytes });
        if self.chunks.len() > 2 {
            self.chunks.pop_front();
        }
        self.read_ahead(bounds);
        Ok(())
    }

    fn read_ahead(&mut self, bounds: Bounds) {
        if !self.gait.reads_ahead || !self.is_sequential || self.ahead.is_some() {
            return;
        }
        let Some(start) = self.chunks.back().map(Chunk::end) else {
            return;
        };
        let len = bounds.file_bytes.saturating_sub(start).min(self.gait.chunk_bytes);
        if len > 0 {
            let read = self.start_read(start, len);
            self.ahead = Some(Ahead { start, read });
        }
    }

    fn start_read(&self, start: u64, len: u64) -> Join<io::Result<Bytes>> {
        let file = self.segment.file.clone();
        let len = usize::try_from(len).expect("at most a chunk");
        spawn_join(self.gait.class, async move { file.read_at(start, len).await })
    }

    /// The error for what is wrong at the position.
    pub(super) fn corrupt(&self, reason: CorruptReason) -> LogError {
        let (path, position_bytes, offset) = (self.segment.path.clone(), self.position_bytes, self.offset);
        Box::new(Corruption { path, position_bytes, offset, reason }).into()
    }
}
