//! Frames that carry payloads without copying them.

use bytes::{Bytes, BytesMut};

use crate::api;
use crate::wire::Writer;

/// A frame as a list of chunks: what we write, and payloads between.
pub(crate) struct Chunks {
    head: Option<BytesMut>,
    /// Its first element is the place of the head.
    chunks: Vec<Bytes>,
    buffer: BytesMut,
    size_bytes: usize,
}

impl Chunks {
    /// Begins with the place of the length and a header.
    pub(crate) fn new(head: BytesMut) -> Self {
        Self { head: None, chunks: vec![Bytes::new()], buffer: head, size_bytes: 0 }
    }

    /// Where fields are written.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Adds a payload as it is.
    pub(crate) fn push(&mut self, payload: Bytes) {
        if payload.is_empty() {
            return;
        }
        self.flush();
        self.size_bytes += payload.len();
        self.chunks.push(payload);
    }

    pub(crate) fn put_no_tagged_fields(&mut self, flexible: bool) {
        if flexible {
            self.buffer.put_uvarint(0);
        }
    }

    fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let written = self.buffer.split();
        self.size_bytes += written.len();
        if self.head.is_none() {
            self.head = Some(written);
        } else {
            self.chunks.push(written.freeze());
        }
    }

    /// Writes the frame's length and returns all chunks in order, none of them empty.
    pub(crate) fn finish(mut self) -> Vec<Bytes> {
        self.flush();
        let mut head = self.head.expect("a frame begins with a header");
        api::put_frame_length(&mut head, self.size_bytes);
        self.chunks[0] = head.freeze();
        self.chunks
    }
}
