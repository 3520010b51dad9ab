//! The buffer of direct writes: aligned memory that the kernel may read from while we wait.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

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
