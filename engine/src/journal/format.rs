//! The bytes of a journal file: file header, commits, entries. Pure functions, any shard.
//!
//! `docs/FORMAT.md` draws them field by field. All numbers are little-endian. Nothing here asserts
//! on bytes from the disk: a decoder answers with an error, and bounds every length by the bytes
//! that are there before it uses it.

use bytes::Bytes;
use corelog_runtime::fs::BLOCK_BYTES;
use uuid::Uuid;

use crate::types::{LeaderEpoch, Lsn, Offset, PartitionId, TopicId, TopicPartition};

/// Version of the file layout. A file with a greater one is refused, not guessed at.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes of a commit's header.
pub const COMMIT_HEADER_BYTES: usize = 88;
/// Bytes of an entry's header.
pub const ENTRY_HEADER_BYTES: usize = 64;

/// A file header is protected, and torn at worst, as one sector.
const FILE_HEADER_BYTES: usize = 512;
const FILE_MAGIC: [u8; 8] = *b"CLOGJRNL";
const COMMIT_MAGIC: [u8; 8] = *b"CLOGCMMT";
const COMMIT_VERSION: u16 = 1;
const ENTRY_VERSION: u8 = 1;

const FILE_FLAG_AFTER_CORRUPTION: u32 = 1;
const COMMIT_FLAG_CLOSED: u16 = 1;

/// What an entry is about. The numbers are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A record batch, or several, of one partition.
    Append = 1,
    /// The partition's log was cut back to the base offset.
    TruncateTo = 2,
    /// The partition's log start offset moved to the base offset.
    LogStart = 3,
    /// The partition was deleted.
    DeletePartition = 4,
    /// A Raft vote.
    RaftVote = 5,
    /// A Raft log entry.
    RaftEntry = 6,
    /// The Raft log was cut back.
    RaftTruncate = 7,
    /// What is in segments, for the partitions that it names.
    Checkpoint = 8,
    /// Batches repeated from an older file, so that the file can be released.
    CarryForward = 9,
    /// A snapshot of the metadata state machine.
    RaftSnapshot = 10,
    /// The Raft log was cut at its beginning.
    RaftPurge = 11,
}

impl EntryKind {
    fn from_byte(byte: u8) -> Option<Self> {
        const ALL: [EntryKind; 11] = [
            EntryKind::Append,
            EntryKind::TruncateTo,
            EntryKind::LogStart,
            EntryKind::DeletePartition,
            EntryKind::RaftVote,
            EntryKind::RaftEntry,
            EntryKind::RaftTruncate,
            EntryKind::Checkpoint,
            EntryKind::CarryForward,
            EntryKind::RaftSnapshot,
            EntryKind::RaftPurge,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether the entry concerns the partition that it names and no other.
    pub(crate) fn is_of_one_partition(self) -> bool {
        match self {
            Self::Append | Self::TruncateTo | Self::LogStart | Self::DeletePartition | Self::CarryForward => {
                true
            }
            Self::Checkpoint
            | Self::RaftVote
            | Self::RaftEntry
            | Self::RaftTruncate
            | Self::RaftSnapshot
            | Self::RaftPurge => false,
        }
    }
}

/// One entry of the journal. Its LSN is given by the append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is about.
    pub kind: EntryKind,
    /// The partition concerned; of no meaning for Raft's entries.
    pub target: TopicPartition,
    /// First offset of the payload, or the offset that the entry sets.
    pub base_offset: Offset,
    /// Leader epoch in which it was appended.
    pub leader_epoch: LeaderEpoch,
    /// The content, of any form.
    pub payload: Bytes,
}

/// Where a run ended: everything up to here counts, nothing behind it ever does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunEnd {
    /// The run that ended.
    pub run: u64,
    /// Generation of the file in which its last commit ends.
    pub generation: u64,
    /// Position in that file behind the last commit.
    pub position_bytes: u64,
    /// LSN behind its last entry.
    pub lsn: Lsn,
    /// Sequence number behind its last commit.
    pub sequence: u64,
    /// Header CRC of its last commit: the first commit of the next run names it as predecessor.
    pub crc: u32,
}

/// What is the same in the headers of all files of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunHeader {
    /// Random number of the run, in all its commits too: bytes of another origin that look like a
    /// commit (a client's record may hold a copy of some journal) do not have it.
    pub run: u64,
    /// Generation of the run's first file.
    pub first_generation: u64,
    /// LSN of the run's first entry.
    pub first_lsn: Lsn,
    /// Where the run before this one ended; `None` in a new journal.
    pub previous: Option<RunEnd>,
    /// The previous run was cut at a corruption: entries behind its end had been acknowledged.
    pub after_corruption: bool,
}

/// The first block of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// Which journal the file belongs to.
    pub journal_id: u64,
    /// Number of this use of the file: greater than every earlier use of any file of the journal.
    pub generation: u64,
    /// Length that the file was given.
    pub file_bytes: u64,
    /// No entry of the file has a smaller LSN.
    pub lsn_floor: Lsn,
    /// The oldest file that still counted when the header was written.
    pub live_generation: u64,
    /// The run that the file belongs to.
    pub run: RunHeader,
}

/// What precedes the entries of one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitHeader {
    /// The run that wrote it.
    pub run: u64,
    /// Generation of the file it was written to.
    pub generation: u64,
    /// Counts the commits of the journal.
    pub sequence: u64,
    /// Where in the file the commit starts.
    pub position_bytes: u64,
    /// LSN of its first entry; of the next one if it has none.
    pub first_lsn: Lsn,
    /// LSN up to which (exclusive) everything was known to be synced when the commit was built.
    pub known_synced: Lsn,
    /// The oldest file that still counted.
    pub live_generation: u64,
    /// Number of its entries.
    pub entries: u32,
    /// Bytes of its entries, without this header and the padding.
    pub body_bytes: u32,
    /// Header CRC of the commit before.
    pub predecessor: u32,
    /// CRC over the CRCs of its entries: ties this header to them.
    pub body_crc: u32,
    /// The journal was closed after this commit: nothing follows in its run.
    pub closed: bool,
    /// CRC of this header.
    pub crc: u32,
}

impl CommitHeader {
    /// Bytes of the commit on disk, with the padding.
    pub fn total_bytes(&self) -> u64 {
        padded(COMMIT_HEADER_BYTES as u64 + u64::from(self.body_bytes))
    }

    /// LSN behind the last entry.
    pub fn end_lsn(&self) -> Lsn {
        Lsn(self.first_lsn.0.saturating_add(u64::from(self.entries)))
    }

    /// Position behind the commit.
    pub fn end_position_bytes(&self) -> u64 {
        self.position_bytes.saturating_add(self.total_bytes())
    }
}

/// An entry's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHeader {
    /// What it is about.
    pub kind: EntryKind,
    /// Generation of the file it was written to.
    pub generation: u64,
    /// Its place in the journal.
    pub lsn: Lsn,
    /// The partition concerned.
    pub target: TopicPartition,
    /// See [`Entry::base_offset`].
    pub base_offset: Offset,
    /// See [`Entry::leader_epoch`].
    pub leader_epoch: LeaderEpoch,
    /// Bytes of the payload.
    pub payload_bytes: u32,
    /// CRC over header and payload.
    pub crc: u32,
}

/// Why bytes are not what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// All zeros where a header would be: never written.
    #[error("nothing was written here")]
    Blank,
    /// Other bytes than the magic number.
    #[error("no magic number")]
    Magic,
    /// A version that this program does not know.
    #[error("format version {0}, this program knows {FORMAT_VERSION}")]
    Version(u32),
    /// The header's checksum does not match.
    #[error("checksum of the header does not match")]
    HeaderCrc,
    /// The checksum over header and payload does not match.
    #[error("checksum of the content does not match")]
    ContentCrc,
    /// A length goes beyond the bytes that are there.
    #[error("length goes beyond the bytes that are there")]
    Length,
    /// A kind of entry that this program does not know.
    #[error("unknown kind of entry {0}")]
    Kind(u8),
    /// The entry belongs to another commit or generation, or is out of order.
    #[error("entry of another commit")]
    Foreign,
}

/// Rounds up to whole blocks.
pub(crate) fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES as u64)
}

/// Bytes that an entry takes in a commit.
pub(crate) fn entry_bytes(payload_bytes: usize) -> usize {
    ENTRY_HEADER_BYTES + payload_bytes
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

/// CRC of `header` without the four bytes at `at`, which hold it.
fn crc_without(header: &[u8], at: usize) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..at]), &header[at + 4..])
}

const FILE_CRC_AT: usize = 12;
const COMMIT_CRC_AT: usize = 12;

impl FileHeader {
    /// Writes the header to `block`, whose other bytes are zeros.
    ///
    /// # Panics
    /// When `block` is shorter than a block.
    pub fn encode(&self, block: &mut [u8]) {
        assert!(block.len() >= BLOCK_BYTES, "a file header has a block of its own");
        let flags = if self.run.after_corruption { FILE_FLAG_AFTER_CORRUPTION } else { 0 };
        let previous = self.run.previous.unwrap_or_default();
        put(block, 0, FILE_MAGIC);
        put(block, 8, FORMAT_VERSION.to_le_bytes());
        put(block, 16, self.journal_id.to_le_bytes());
        put(block, 24, self.generation.to_le_bytes());
        put(block, 32, self.file_bytes.to_le_bytes());
        put(block, 40, self.lsn_floor.0.to_le_bytes());
        put(block, 48, self.live_generation.to_le_bytes());
        put(block, 56, self.run.run.to_le_bytes());
        put(block, 64, self.run.first_generation.to_le_bytes());
        put(block, 72, self.run.first_lsn.0.to_le_bytes());
        put(block, 80, previous.run.to_le_bytes());
        put(block, 88, previous.generation.to_le_bytes());
        put(block, 96, previous.position_bytes.to_le_bytes());
        put(block, 104, previous.lsn.0.to_le_bytes());
        put(block, 112, previous.sequence.to_le_bytes());
        put(block, 120, previous.crc.to_le_bytes());
        put(block, 124, flags.to_le_bytes());
        let crc = crc_without(&block[..FILE_HEADER_BYTES], FILE_CRC_AT);
        put(block, FILE_CRC_AT, crc.to_le_bytes());
    }

    /// Reads a header. The magic number, the version and the place and reach of the CRC are the
    /// same in every version, so that a newer version is told apart from a broken header.
    ///
    /// # Errors
    /// When `block` holds none.
    pub fn decode(block: &[u8]) -> Result<Self, FormatError> {
        let header = block.get(..FILE_HEADER_BYTES).ok_or(FormatError::Length)?;
        if header[..8] != FILE_MAGIC {
            let blank = header.iter().all(|byte| *byte == 0);
            return Err(if blank { FormatError::Blank } else { FormatError::Magic });
        }
        if u32_at(header, FILE_CRC_AT) != crc_without(header, FILE_CRC_AT) {
            return Err(FormatError::HeaderCrc);
        }
        if u32_at(header, 8) != FORMAT_VERSION {
            return Err(FormatError::Version(u32_at(header, 8)));
        }
        let previous = RunEnd {
            run: u64_at(header, 80),
            generation: u64_at(header, 88),
            position_bytes: u64_at(header, 96),
            lsn: Lsn(u64_at(header, 104)),
            sequence: u64_at(header, 112),
            crc: u32_at(header, 120),
        };
        Ok(Self {
            journal_id: u64_at(header, 16),
            generation: u64_at(header, 24),
            file_bytes: u64_at(header, 32),
            lsn_floor: Lsn(u64_at(header, 40)),
            live_generation: u64_at(header, 48),
            run: RunHeader {
                run: u64_at(header, 56),
                first_generation: u64_at(header, 64),
                first_lsn: Lsn(u64_at(header, 72)),
                previous: (previous.generation != 0).then_some(previous),
                after_corruption: u32_at(header, 124) & FILE_FLAG_AFTER_CORRUPTION != 0,
            },
        })
    }
}

impl CommitHeader {
    /// Writes the header to the start of `out`, and its CRC to `self`.
    ///
    /// # Panics
    /// When `out` is too short.
    pub fn encode(&mut self, out: &mut [u8]) {
        let header = &mut out[..COMMIT_HEADER_BYTES];
        let flags = if self.closed { COMMIT_FLAG_CLOSED } else { 0 };
        put(header, 0, COMMIT_MAGIC);
        put(header, 8, COMMIT_VERSION.to_le_bytes());
        put(header, 10, flags.to_le_bytes());
        put(header, 16, self.run.to_le_bytes());
        put(header, 24, self.generation.to_le_bytes());
        put(header, 32, self.sequence.to_le_bytes());
        put(header, 40, self.position_bytes.to_le_bytes());
        put(header, 48, self.first_lsn.0.to_le_bytes());
        put(header, 56, self.known_synced.0.to_le_bytes());
        put(header, 64, self.live_generation.to_le_bytes());
        put(header, 72, self.entries.to_le_bytes());
        put(header, 76, self.body_bytes.to_le_bytes());
        put(header, 80, self.predecessor.to_le_bytes());
        put(header, 84, self.body_crc.to_le_bytes());
        self.crc = crc_without(header, COMMIT_CRC_AT);
        put(header, COMMIT_CRC_AT, self.crc.to_le_bytes());
    }

    /// Whether `block` could start a commit: the cheap test of a scan.
    pub(crate) fn may_start(block: &[u8]) -> bool {
        block.starts_with(&COMMIT_MAGIC)
    }

    /// Reads a header from the start of `block`.
    ///
    /// # Errors
    /// When there is none.
    pub fn decode(block: &[u8]) -> Result<Self, FormatError> {
        let header = block.get(..COMMIT_HEADER_BYTES).ok_or(FormatError::Length)?;
        if header[..8] != COMMIT_MAGIC {
            let blank = header.iter().all(|byte| *byte == 0);
            return Err(if blank { FormatError::Blank } else { FormatError::Magic });
        }
        let crc = u32_at(header, COMMIT_CRC_AT);
        if crc != crc_without(header, COMMIT_CRC_AT) {
            return Err(FormatError::HeaderCrc);
        }
        if u16_at(header, 8) != COMMIT_VERSION {
            return Err(FormatError::Version(u32::from(u16_at(header, 8))));
        }
        Ok(Self {
            run: u64_at(header, 16),
            generation: u64_at(header, 24),
            sequence: u64_at(header, 32),
            position_bytes: u64_at(header, 40),
            first_lsn: Lsn(u64_at(header, 48)),
            known_synced: Lsn(u64_at(header, 56)),
            live_generation: u64_at(header, 64),
            entries: u32_at(header, 72),
            body_bytes: u32_at(header, 76),
            predecessor: u32_at(header, 80),
            body_crc: u32_at(header, 84),
            closed: u16_at(header, 10) & COMMIT_FLAG_CLOSED != 0,
            crc,
        })
    }
}

const ENTRY_HEADER_CRC_AT: usize = 4;
const ENTRY_CRC_AT: usize = 8;

fn entry_header_crc(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..ENTRY_HEADER_CRC_AT]), &header[12..])
}

fn entry_crc(header: &[u8], payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&header[..ENTRY_CRC_AT]);
    let crc = crc32c::crc32c_append(crc, &header[12..]);
    crc32c::crc32c_append(crc, payload)
}

/// Writes `entry` to the start of `out`; returns its length and its CRC.
///
/// # Panics
/// When `out` is too short or the payload longer than 4 GiB: the caller made room for it.
pub(crate) fn encode_entry(entry: &Entry, lsn: Lsn, generation: u64, out: &mut [u8]) -> (usize, u32) {
    let total = entry_bytes(entry.payload.len());
    let payload_bytes = u32::try_from(entry.payload.len()).expect("an entry fits a file");
    let (header, payload) = out[..total].split_at_mut(ENTRY_HEADER_BYTES);
    header[0] = ENTRY_VERSION;
    header[1] = entry.kind as u8;
    put(header, 2, [0, 0]);
    put(header, 12, entry.target.partition.0.to_le_bytes());
    put(header, 16, generation.to_le_bytes());
    put(header, 24, lsn.0.to_le_bytes());
    put(header, 32, *entry.target.topic.0.as_bytes());
    put(header, 48, entry.base_offset.0.to_le_bytes());
    put(header, 56, entry.leader_epoch.0.to_le_bytes());
    put(header, 60, payload_bytes.to_le_bytes());
    let header_crc = entry_header_crc(header);
    put(header, ENTRY_HEADER_CRC_AT, header_crc.to_le_bytes());
    payload.copy_from_slice(&entry.payload);
    let crc = entry_crc(header, payload);
    put(header, ENTRY_CRC_AT, crc.to_le_bytes());
    (total, crc)
}

impl EntryHeader {
    /// Reads the header at the start of `bytes`, whose payload must fit into what follows. The
    /// payload is not checked.
    ///
    /// # Errors
    /// When there is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let header = bytes.get(..ENTRY_HEADER_BYTES).ok_or(FormatError::Length)?;
        if u32_at(header, ENTRY_HEADER_CRC_AT) != entry_header_crc(header) {
            return Err(FormatError::HeaderCrc);
        }
        if header[0] != ENTRY_VERSION {
            return Err(FormatError::Version(u32::from(header[0])));
        }
        let payload_bytes = u32_at(header, 60);
        let remaining = (bytes.len() - ENTRY_HEADER_BYTES) as u64;
        if u64::from(payload_bytes) > remaining {
            return Err(FormatError::Length);
        }
        Ok(Self {
            kind: EntryKind::from_byte(header[1]).ok_or(FormatError::Kind(header[1]))?,
            generation: u64_at(header, 16),
            lsn: Lsn(u64_at(header, 24)),
            target: TopicPartition::new(
                TopicId(Uuid::from_bytes(array(header, 32))),
                PartitionId(i32::from_le_bytes(array(header, 12))),
            ),
            base_offset: Offset(i64::from_le_bytes(array(header, 48))),
            leader_epoch: LeaderEpoch(i32::from_le_bytes(array(header, 56))),
            payload_bytes,
            crc: u32_at(header, ENTRY_CRC_AT),
        })
    }

    /// Header and payload together.
    fn total_bytes(&self) -> usize {
        entry_bytes(usize::try_from(self.payload_bytes).unwrap_or(usize::MAX - ENTRY_HEADER_BYTES))
    }
}

/// An entry in a buffer, its header checked and its payload not yet.
#[derive(Debug, Clone, Copy)]
pub struct RawEntry<'a> {
    /// The header.
    pub header: EntryHeader,
    /// The payload.
    pub payload: &'a [u8],
    bytes: &'a [u8],
}

impl RawEntry<'_> {
    /// Whether the payload is what was appended.
    pub fn content_ok(&self) -> bool {
        entry_crc(&self.bytes[..ENTRY_HEADER_BYTES], self.payload) == self.header.crc
    }

    /// A copy, so that a kept entry does not pin the buffer that it was read into.
    pub(crate) fn to_entry(self) -> Entry {
        Entry {
            kind: self.header.kind,
            target: self.header.target,
            base_offset: self.header.base_offset,
            leader_epoch: self.header.leader_epoch,
            payload: Bytes::copy_from_slice(self.payload),
        }
    }
}

/// The entries of a commit, in order; ends after the first error.
#[derive(Debug, Clone)]
pub struct EntryIter<'a> {
    rest: &'a [u8],
    left: u32,
    lsn: Lsn,
    generation: u64,
}

impl<'a> EntryIter<'a> {
    /// The entries of the commit `header`; `commit` starts with the header's bytes.
    pub fn new(header: &CommitHeader, commit: &'a [u8]) -> Self {
        let body_bytes = usize::try_from(header.body_bytes).unwrap_or(usize::MAX);
        let end = COMMIT_HEADER_BYTES.saturating_add(body_bytes);
        Self {
            rest: commit.get(COMMIT_HEADER_BYTES..end).unwrap_or(&[]),
            left: header.entries,
            lsn: header.first_lsn,
            generation: header.generation,
        }
    }
}

impl<'a> Iterator for EntryIter<'a> {
    type Item = Result<RawEntry<'a>, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let result = EntryHeader::decode(self.rest).and_then(|header| {
            if header.lsn != self.lsn || header.generation != self.generation {
                return Err(FormatError::Foreign);
            }
            let (bytes, rest) =
                self.rest.split_at_checked(header.total_bytes()).ok_or(FormatError::Length)?;
            self.rest = rest;
            Ok(RawEntry { header, payload: &bytes[ENTRY_HEADER_BYTES..], bytes })
        });
        match &result {
            Ok(entry) => self.lsn = entry.header.lsn.next(),
            Err(_) => self.left = 0,
        }
        Some(result)
    }
}

/// Checks everything that a commit consists of, its header excepted.
///
/// # Errors
/// What is wrong with the first entry that is not what was written.
pub fn check_commit_body(header: &CommitHeader, commit: &[u8]) -> Result<(), FormatError> {
    if (commit.len() as u64) < header.total_bytes() {
        return Err(FormatError::Length);
    }
    let mut entries = EntryIter::new(header, commit);
    let mut body_crc = BodyCrc::default();
    for entry in &mut entries {
        let entry = entry?;
        if !entry.content_ok() {
            return Err(FormatError::ContentCrc);
        }
        body_crc.add(entry.header.crc);
    }
    if !entries.rest.is_empty() {
        return Err(FormatError::Length);
    }
    if body_crc.0 != header.body_crc {
        return Err(FormatError::ContentCrc);
    }
    Ok(())
}

/// CRC over the CRCs of a commit's entries.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BodyCrc(pub(crate) u32);

impl BodyCrc {
    pub(crate) fn add(&mut self, entry_crc: u32) {
        self.0 = crc32c::crc32c_append(self.0, &entry_crc.to_le_bytes());
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
