//! The batches of one closed segment, one after the other, as a round reads them.
//!
//! Runs on the shard that owns the log, in the class that disturbs nobody. Every batch passes the
//! checks of any other read. The segment is read up to where it ended when it was opened, whatever
//! becomes of it meanwhile: who judges batches by a newer end would take good ones for damage.

use std::rc::Rc;

use bytes::Bytes;

use crate::log::error::LogError;
use crate::log::header::HEADER_BYTES;
use crate::log::index::{Entry, MaxTimestamp};
use crate::log::read::{Bounds, Gait, Reader};
use crate::log::segments::Inner;
use crate::types::Offset;

/// A closed segment's batches.
pub struct ClosedBatches {
    log: Rc<Inner>,
    reader: Reader,
    bounds: Bounds,
    truncations: u64,
}

impl ClosedBatches {
    /// Opens the closed segment that begins at `base`.
    ///
    /// # Errors
    /// Out of range when there is none (any more), corrupt when its header is, I/O errors.
    pub(in crate::log) async fn open(log: Rc<Inner>, base: Offset) -> Result<Self, LogError> {
        log.ensure_listed().await?;
        let truncations = log.state.borrow().truncations;
        let is_closed = base != log.position().segment_base;
        let Some(bounds) = log.bounds(base).filter(|_| is_closed) else {
            return Err(log.gone(base));
        };
        let segment = log.open(base).await?;
        if log.bounds_of(&segment) != Some(bounds) {
            return Err(LogError::Truncated);
        }
        let first = Entry { offset: base, position_bytes: HEADER_BYTES, max_before: MaxTimestamp::NONE };
        let reader = Reader::with_gait(segment, first, Gait::CLEAN);
        Ok(Self { log, reader, bounds, truncations })
    }

    /// Where the segment ends.
    pub(in crate::log) fn end(&self) -> Offset {
        self.bounds.end
    }

    /// The next batch; nothing at the segment's end.
    ///
    /// # Errors
    /// Corrupt: nothing behind it is read. Truncated when the log was truncated since the segment
    /// was opened. I/O errors.
    pub async fn next(&mut self) -> Result<Option<Bytes>, LogError> {
        let Some(header) = self.reader.peek(self.bounds).await? else {
            self.log.check_untouched(self.truncations)?;
            return Ok(None);
        };
        self.log.check_epoch(&self.reader, &header)?;
        let bytes = self.reader.take(&header, self.bounds).await?;
        self.log.check_untouched(self.truncations)?;
        Ok(Some(bytes))
    }
}
