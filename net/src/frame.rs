//! Cuts what a client sends into frames.
//!
//! Small frames are read many at a time into a buffer that they share; a large one gets memory of
//! its own size, so that what is kept of it pins nothing else. No frame is assembled before it fits
//! into the shard's budget for requests.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use corelog_runtime::net::ReadHalf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Size of the length before each frame.
const LENGTH_BYTES: usize = 4;
/// Size of the buffer that small frames share.
pub(crate) const SHARED_BUFFER_BYTES: usize = 32 << 10;
/// A larger frame has memory of its own.
const SMALL_FRAME_BYTES_MAX: usize = SHARED_BUFFER_BYTES / 2;
/// With less room than this the shared buffer is replaced before a read.
const READ_ROOM_BYTES_MIN: usize = 4 << 10;

/// A frame without its length.
pub(crate) struct Frame {
    pub(crate) bytes: BytesMut,
    /// The size of the memory that a part of the frame keeps from being freed.
    pub(crate) pinned_bytes: usize,
    /// The frame's share of the budget, given back when the request is answered.
    pub(crate) permit: OwnedSemaphorePermit,
}

/// Why no more frames come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The connection failed, or ended within a frame.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No client of this protocol sends that.
    #[error("a frame of {0} bytes, where at most {1} are allowed (socket.request.max.bytes)")]
    Length(i32, usize),
}

/// Where bytes come from.
pub(crate) trait Source {
    /// Reads what there is into the spare capacity of `buffer`; 0 is the end.
    async fn read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize>;
}

impl Source for ReadHalf {
    async fn read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        ReadHalf::read_buf(self, buffer).await
    }
}

/// Reads frames.
pub(crate) struct FrameReader<S> {
    source: S,
    buffer: BytesMut,
    frame_bytes_max: usize,
    budget: Arc<Semaphore>,
    budget_bytes: usize,
}

impl<S: Source> FrameReader<S> {
    /// Frames of at most `frame_bytes_max`, within `budget` of `budget_bytes` permits.
    pub(crate) fn new(
        source: S,
        frame_bytes_max: usize,
        budget: Arc<Semaphore>,
        budget_bytes: usize,
    ) -> Self {
        Self { source, buffer: BytesMut::new(), frame_bytes_max, budget, budget_bytes }
    }

    /// What the frames were read from.
    pub(crate) fn into_source(self) -> S {
        self.source
    }

    /// The next frame; `None` when the client has closed the connection between two frames.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        while self.buffer.len() < LENGTH_BYTES {
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(ended().into()) };
            }
        }
        let length = self.buffer.get_i32();
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= self.frame_bytes_max)
            .ok_or(FrameError::Length(length, self.frame_bytes_max))?;
        let permit = self.permit(length).await;
        let (bytes, pinned_bytes) = if length <= SMALL_FRAME_BYTES_MAX {
            while self.buffer.len() < length {
                if !self.fill().await? {
                    return Err(ended().into());
                }
            }
            (self.buffer.split_to(length), SHARED_BUFFER_BYTES)
        } else {
            (self.large(length).await?, length)
        };
        Ok(Some(Frame { bytes, pinned_bytes, permit }))
    }

    /// Waits for a frame's share; one that is larger than the whole budget waits for all of it.
    async fn permit(&self, length: usize) -> OwnedSemaphorePermit {
        let share = u32::try_from(length.min(self.budget_bytes)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.budget).acquire_many_owned(share).await;
        permit.expect("the budget is never closed")
    }

    /// Reads into the shared buffer; false at the end.
    async fn fill(&mut self) -> io::Result<bool> {
        if self.buffer.capacity() - self.buffer.len() < READ_ROOM_BYTES_MIN {
            // Never more than half full here, so that a small frame always fits.
            self.buffer.reserve(SHARED_BUFFER_BYTES - self.buffer.len());
        }
        Ok(self.source.read_buf(&mut self.buffer).await? > 0)
    }

    async fn large(&mut self, length: usize) -> io::Result<BytesMut> {
        let mut frame = BytesMut::with_capacity(length);
        let have = self.buffer.len().min(length);
        frame.extend_from_slice(&self.buffer[..have]);
        self.buffer.advance(have);
        while frame.len() < length {
            if self.source.read_buf(&mut frame).await? == 0 {
                return Err(ended());
            }
        }
        // An allocator may give more than was asked for, so that the next frame's begin came along.
        self.buffer.extend_from_slice(&frame[length..]);
        frame.truncate(length);
        Ok(frame)
    }
}

fn ended() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;

    use bytes::BufMut;
    use futures_lite::future::block_on;
    use proptest::prelude::*;

    use super::*;

    /// Gives out one piece at a time, or as much of it as there is room for.
    struct Pieces(RefCell<VecDeque<Vec<u8>>>);

    impl Source for Pieces {
        async fn read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
            let Some(mut piece) = self.0.borrow_mut().pop_front() else { return Ok(0) };
            assert!(buffer.capacity() > buffer.len(), "there is room");
            let read = piece.len().min(buffer.capacity() - buffer.len());
            buffer.put_slice(&piece[..read]);
            if read < piece.len() {
                self.0.borrow_mut().push_front(piece.split_off(read));
            }
            Ok(read)
        }
    }

    const BUDGET_BYTES: usize = 1 << 20;

    fn reader(pieces: Vec<Vec<u8>>) -> FrameReader<Pieces> {
        let budget = Arc::new(Semaphore::new(BUDGET_BYTES));
        FrameReader::new(Pieces(RefCell::new(pieces.into())), 200_000, budget, BUDGET_BYTES)
    }

    fn framed(lengths: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, length) in lengths.iter().enumerate() {
            bytes.put_i32(i32::try_from(*length).unwrap());
            bytes.resize(bytes.len() + length, u8::try_from(number % 251).unwrap());
        }
        bytes
    }

    proptest! {
        #[test]
        fn frames_come_back_however_they_were_cut(
            lengths in prop::collection::vec(prop_oneof![0..40usize, 16_000..17_000usize, 30_000..90_000usize], 0..12),
            cut in 1..70_000usize,
        ) {
            let bytes = framed(&lengths);
            let mut reader = reader(bytes.chunks(cut).map(<[u8]>::to_vec).collect());
            for (number, length) in lengths.iter().enumerate() {
                let frame = block_on(reader.next()).unwrap().unwrap();
                prop_assert_eq!(frame.bytes.len(), *length);
                prop_assert!(frame.bytes.iter().all(|byte| usize::from(*byte) == number % 251));
                prop_assert!(frame.pinned_bytes >= *length);
            }
            prop_assert!(block_on(reader.next()).unwrap().is_none());
            prop_assert_eq!(reader.budget.available_permits(), BUDGET_BYTES);
        }
    }

    #[test]
    fn lengths_that_nobody_sends_are_refused_before_memory_is_taken() {
        for length in [-1, i32::MIN, 200_001, i32::MAX] {
            let refused = block_on(reader(vec![length.to_be_bytes().to_vec()]).next());
            assert!(matches!(refused, Err(FrameError::Length(refused, 200_000)) if refused == length));
        }
    }

    #[test]
    fn an_end_within_a_frame_is_an_error() {
        for bytes in [vec![0], framed(&[9])[..10].to_vec(), framed(&[50_000])[..40_000].to_vec()] {
            assert!(matches!(block_on(reader(vec![bytes]).next()), Err(FrameError::Io(_))));
        }
    }

    #[test]
    fn frames_wait_until_the_budget_has_room() {
        use futures_util::FutureExt;

        let budget = Arc::new(Semaphore::new(100));
        let pieces = Pieces(RefCell::new(vec![framed(&[60, 60])].into()));
        let mut reader = FrameReader::new(pieces, 1000, budget, 100);
        let first = block_on(reader.next()).unwrap().unwrap();
        {
            let mut second = Box::pin(reader.next());
            assert!((&mut second).now_or_never().is_none());
            drop(first);
            assert!(second.now_or_never().unwrap().unwrap().is_some());
        }
    }
}
