//! Loads a segment's index: what is good of its file, and the rest by a scan of the data.

use std::io;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use corelog_runtime::fs::{AlignedBuf, BLOCK_BYTES, File, OpenMode};

use super::error::{Corruption, LogError};
use super::files::OpenSegment;
use super::header::SegmentHeader;
use super::index::{ENTRIES_PER_BLOCK, Index, IndexedSegment};
use super::plan::BatchPlace;
use super::read::{Bounds, Reader};

/// A larger index file than this was not written by us: it is not read.
const INDEX_FILE_BYTES_MAX: u64 = 64 << 20;

/// An index that covers its segment up to the end, or up to the first corrupt batch.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) index: Index,
    pub(super) broken: Option<Box<Corruption>>,
}

/// Loads the index of `segment` up to `bounds`.
pub(super) async fn load(
    segment: &Rc<OpenSegment>,
    index_path: &Path,
    interval_bytes: u64,
    bounds: Bounds,
) -> Result<Loaded, LogError> {
    let bytes = read_file(index_path).await;
    let upto = (bounds.end, bounds.file_bytes);
    let index = Index::decode(&IndexedSegment::of(&segment.header), interval_bytes, &bytes, upto);
    let mut loaded = Loaded { index, broken: None };
    let mut reader = Reader::new(Rc::clone(segment), loaded.index.covered());
    match scan(&mut reader, &mut loaded.index, bounds).await {
        Ok(()) => {}
        Err(LogError::Corrupt(corruption)) => {
            tracing::error!(%corruption, "a segment's index ends where its data is corrupt");
            loaded.broken = Some(corruption);
        }
        Err(error) => return Err(error),
    }
    Ok(loaded)
}

async fn scan(reader: &mut Reader, index: &mut Index, bounds: Bounds) -> Result<(), LogError> {
    while let Some(header) = reader.peek(bounds).await? {
        let position_bytes = reader.position_bytes();
        reader.take(&header, bounds).await?;
        index.push(&BatchPlace::of(&header).indexed, position_bytes);
    }
    Ok(())
}

/// The content of an index file; nothing when there is none that can be read.
async fn read_file(path: &Path) -> Bytes {
    let read = async {
        let file = File::open(path, OpenMode::Read).await?;
        let len = file.len().await?.min(INDEX_FILE_BYTES_MAX);
        let bytes = file.read_at(0, usize::try_from(len).unwrap_or(0)).await;
        file.close().await?;
        bytes
    };
    match read.await {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "no index: the segment is scanned");
            Bytes::new()
        }
    }
}

/// Makes sure before a run's first write that the index file holds no entry beyond `bounds`:
/// such an entry describes data of an earlier run that does not count. Synced, since data written
/// from now on would otherwise meet it after a crash. Returns how many entries the file has.
pub(super) async fn cut_file(path: &Path, header: &SegmentHeader, bounds: Bounds) -> io::Result<usize> {
    let bytes = read_file(path).await;
    if bytes.is_empty() {
        return Ok(0);
    }
    let (segment, upto) = (IndexedSegment::of(header), (bounds.end, bounds.file_bytes));
    let index = Index::decode(&segment, 1, &bytes, upto);
    let from = (index.blocks() - 1) * BLOCK_BYTES;
    let mut last = AlignedBuf::zeroed(BLOCK_BYTES);
    index.encode_block(&segment, index.blocks() - 1, &mut last);
    if bytes[from..] != last[..] {
        let file = File::open(path, OpenMode::ReadWrite).await?;
        file.truncate((from + BLOCK_BYTES) as u64).await?;
        file.write_at(last, from as u64).await?;
        file.sync_data().await?;
        file.close().await?;
    }
    Ok(index.entries().len())
}

/// Blocks of an index file, ready to be written.
pub(super) struct Blocks {
    buf: AlignedBuf,
    position_bytes: u64,
}

impl Blocks {
    /// The blocks that hold the entries from number `from` on.
    pub(super) fn of(index: &Index, segment: &IndexedSegment, from: usize) -> Self {
        let first = from.min(index.entries().len() - 1) / ENTRIES_PER_BLOCK;
        let mut buf = AlignedBuf::zeroed((index.blocks() - first) * BLOCK_BYTES);
        for (number, block) in buf.chunks_mut(BLOCK_BYTES).enumerate() {
            index.encode_block(segment, first + number, block);
        }
        Self { buf, position_bytes: (first * BLOCK_BYTES) as u64 }
    }

    /// Writes them. Not synced: what is lost is scanned again.
    pub(super) async fn write(self, path: &Path) -> io::Result<()> {
        let file = match File::open(path, OpenMode::ReadWrite).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::create(path).await?,
            opened => opened?,
        };
        file.write_at(self.buf, self.position_bytes).await?;
        file.close().await
    }
}
