//! The buffer of direct writes: aligned memory that the kernel may read from while we wait. And the
//! memory of large reads.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use bytes::Bytes;
use glommio::io::DmaBuffer;

use crate::fs::BLOCK_BYTES;

/// Memory aligned to [`BLOCK_BYTES`], whose length is a multiple of it. Not `Send`.
pub struct AlignedBuf {
    // Shared with glommio for the time of a write only, so that the write can give it back.
    inner: Rc<DmaBuffer>,
}

impl AlignedBuf {
    /// A buffer of `len` zero bytes.
    ///
    /// # Panics
    /// When `len` is zero or not a multiple of [`BLOCK_BYTES`].
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let mut buf = Self::unfilled(len);
        buf.fill(0);
        buf
    }

    /// `bytes`, padded with zeros to the next multiple of [`BLOCK_BYTES`].
    #[must_use]
    pub fn padded(bytes: &[u8]) -> Self {
        let len = bytes.len().next_multiple_of(BLOCK_BYTES).max(BLOCK_BYTES);
        let mut buf = Self::unfilled(len);
        buf[..bytes.len()].copy_from_slice(bytes);
        buf[bytes.len()..].fill(0);
        buf
    }

    /// A buffer of `len` bytes of anything: for somebody who writes every one of them. On a shard it
    /// is often one that was used before ([`crate::alloc`]).
    ///
    /// # Panics
    /// When `len` is zero or not a multiple of [`BLOCK_BYTES`].
    #[must_use]
    pub fn unfilled(len: usize) -> Self {
        assert!(len > 0, "an aligned buffer is not empty");
        assert!(len.is_multiple_of(BLOCK_BYTES), "an aligned buffer is whole blocks, not {len} bytes");
        // Not from the executor's registered memory: that is at most 1 MiB and serves the reads.
        Self { inner: Rc::new(glommio::allocate_dma_buffer_global(len)) }
    }

    /// Shortens the buffer to `len` bytes for good: it cannot grow back.
    ///
    /// # Panics
    /// When `len` is zero, longer than the buffer, or not a multiple of [`BLOCK_BYTES`].
    pub fn truncate(&mut self, len: usize) {
        assert!(len > 0, "an aligned buffer is not empty");
        assert!(len.is_multiple_of(BLOCK_BYTES), "an aligned buffer is whole blocks");
        self.exclusive().trim_to_size(len);
    }

    fn exclusive(&mut self) -> &mut DmaBuffer {
        Rc::get_mut(&mut self.inner).expect("a write gives its share back before it returns")
    }

    pub(crate) fn share(&self) -> Rc<DmaBuffer> {
        Rc::clone(&self.inner)
    }

    /// The buffer after a write; a fresh one where the backend still holds a share.
    pub(crate) fn reclaim(self) -> Self {
        if Rc::strong_count(&self.inner) == 1 {
            return self;
        }
        Self::zeroed(self.inner.len())
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.inner.as_bytes()
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.exclusive().as_bytes_mut()
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.inner.len())
    }
}

/// As much as is aligned at once.
#[repr(C, align(4096))]
struct Page([u8; BLOCK_BYTES]);

const _: () = assert!(size_of::<Page>() == BLOCK_BYTES && align_of::<Page>() == BLOCK_BYTES);

/// Bytes that were read, in memory aligned to blocks: once it is dropped, a shard keeps that for its
/// next read ([`crate::alloc`]). Other memory of this size goes back to the kernel between two reads,
/// and faulting it in again costs more than the copy.
pub(crate) struct ReadBuf {
    pages: Vec<Page>,
    len: usize,
}

impl ReadBuf {
    /// Room for `capacity` bytes.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { pages: Vec::with_capacity(capacity.div_ceil(BLOCK_BYTES)), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// # Panics
    /// When there is no room for them.
    pub(crate) fn extend_from_slice(&mut self, bytes: &[u8]) {
        let room = self.pages.capacity() * BLOCK_BYTES - self.len;
        assert!(bytes.len() <= room, "{} bytes do not fit in {room}", bytes.len());
        // SAFETY: the memory is this buffer's, `bytes` fit behind what is in it (see above), and nobody
        // else has a reference to it.
        unsafe {
            let end = self.pages.as_mut_ptr().cast::<u8>().add(self.len);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), end, bytes.len());
        }
        self.len += bytes.len();
    }

    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for ReadBuf {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: that many bytes were written, from the beginning.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_in_aligned_memory_and_in_order() {
        let data: Vec<u8> = (0..300_000).map(|i| (i % 251) as u8).collect();
        let mut buf = ReadBuf::with_capacity(data.len());
        for part in data.chunks(70_001) {
            buf.extend_from_slice(part);
        }
        assert_eq!(buf.len(), data.len());
        let bytes = buf.freeze();
        assert_eq!(bytes, data);
        assert!(bytes.as_ptr().addr().is_multiple_of(BLOCK_BYTES));
        assert_eq!(bytes.slice(5_000..9_000), data[5_000..9_000]);
        assert!(ReadBuf::with_capacity(0).freeze().is_empty());
    }

    #[test]
    #[should_panic(expected = "2 bytes do not fit in 1")]
    fn more_than_there_is_room_for_is_refused() {
        let mut buf = ReadBuf::with_capacity(BLOCK_BYTES);
        buf.extend_from_slice(&[1; BLOCK_BYTES - 1]);
        buf.extend_from_slice(&[1; 2]);
    }
}
