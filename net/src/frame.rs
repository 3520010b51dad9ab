//! Cuts what a client sends into frames.
//!
//! Small frames are read many at a time into a buffer that they share; a large one gets memory of
//! its own size, so that what is kept of it pins nothing else. No frame gets more than its part of
//! the shared buffer before it fits into the shard's budget for requests, and none gets a share of
//! the budget for a length that its client only claims: it has filled that part by then. Whoever
//! then lets others wait for memory by sending slowly loses the connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use corelog_runtime::net::ReadHalf;
use corelog_runtime::time::{self, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Size of the length before each frame.
const LENGTH_BYTES: usize = 4;
/// Size of the buffer that small frames share.
pub(crate) const SHARED_BUFFER_BYTES: usize = 32 << 10;
/// A larger frame has memory of its own.
const SMALL_FRAME_BYTES_MAX: usize = SHARED_BUFFER_BYTES / 2;
/// With less room than this the shared buffer is replaced before a read.
const READ_ROOM_BYTES_MIN: usize = 4 << 10;

/// While others wait for memory, a frame that has its share arrives at this rate at least…
const ARRIVAL_BYTES_PER_SECOND_MIN: u64 = 128 << 10;
/// …this long after it got it. What was sent meanwhile is in the socket by then.
const ARRIVAL_GRACE: Duration = Duration::from_millis(500);
/// How often that is looked at when nothing comes.
const ARRIVAL_LOOK: Duration = Duration::from_millis(250);
/// Larger frames have a half of the budget to themselves, and nothing of the other.
const ORDINARY_FRAME_BYTES_MAX: usize = 1 << 20;

/// A frame without its length.
pub(crate) struct Frame {
    pub(crate) bytes: BytesMut,
    /// The size of the memory that a part of the frame keeps from being freed.
    pub(crate) pinned_bytes: usize,
    /// The frame's share of the budget, given back when nothing of it is needed any more.
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
    /// It holds memory that others wait for.
    #[error("a frame of {0} bytes came too slowly while others waited for its memory")]
    Slow(usize),
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

/// How many bytes of frames one shard holds. One permit per byte; who asked first gets his share
/// first. A half is for ordinary frames, so that those who send very large ones hold up each other
/// and nobody else. A frame that is larger than its half takes all of that.
#[derive(Clone)]
pub(crate) struct RequestBudget {
    ordinary: Arc<Semaphore>,
    large: Arc<Semaphore>,
    half_bytes: usize,
}

impl RequestBudget {
    pub(crate) fn new(bytes: usize) -> Self {
        let half_bytes = (bytes / 2).max(1);
        let half = || Arc::new(Semaphore::new(half_bytes));
        Self { ordinary: half(), large: half(), half_bytes }
    }

    fn half_for(&self, frame_bytes: usize) -> &Arc<Semaphore> {
        if frame_bytes <= ORDINARY_FRAME_BYTES_MAX { &self.ordinary } else { &self.large }
    }

    /// Waits for a frame's share.
    async fn share(&self, frame_bytes: usize) -> OwnedSemaphorePermit {
        let share = u32::try_from(frame_bytes.min(self.half_bytes)).unwrap_or(u32::MAX);
        let permit = Arc::clone(self.half_for(frame_bytes)).acquire_many_owned(share).await;
        permit.expect("the budget is never closed")
    }

    /// What frames hold now.
    pub(crate) fn held_bytes(&self) -> usize {
        let held = |half: &Semaphore| self.half_bytes.saturating_sub(half.available_permits());
        held(&self.ordinary) + held(&self.large)
    }

    /// Whether somebody waits for what a frame of this size holds. The semaphore gives what there is
    /// to whoever waits, so nothing is left while somebody does.
    fn is_short(&self, frame_bytes: usize) -> bool {
        self.half_for(frame_bytes).available_permits() == 0
    }
}

/// Reads frames.
pub(crate) struct FrameReader<S> {
    source: S,
    buffer: BytesMut,
    frame_bytes_max: usize,
    budget: RequestBudget,
}

impl<S: Source> FrameReader<S> {
    /// Frames of at most `frame_bytes_max`, within `budget`.
    pub(crate) fn new(source: S, frame_bytes_max: usize, budget: RequestBudget) -> Self {
        Self { source, buffer: BytesMut::new(), frame_bytes_max, budget }
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
        while self.buffer.len() < length.min(SMALL_FRAME_BYTES_MAX) {
            if !self.fill().await? {
                return Err(ended().into());
            }
        }
        let permit = self.budget.share(length).await;
        let (bytes, pinned_bytes) = if length <= SMALL_FRAME_BYTES_MAX {
            (self.buffer.split_to(length), SHARED_BUFFER_BYTES)
        } else {
            (self.large(length).await?, length)
        };
        Ok(Some(Frame { bytes, pinned_bytes, permit }))
    }

    /// Reads into the shared buffer; false at the end.
    async fn fill(&mut self) -> io::Result<bool> {
        if self.buffer.capacity() - self.buffer.len() < READ_ROOM_BYTES_MIN {
            // Never more than half full here, so that a small frame always fits.
            self.buffer.reserve(SHARED_BUFFER_BYTES - self.buffer.len());
        }
        Ok(self.source.read_buf(&mut self.buffer).await? > 0)
    }

    async fn large(&mut self, length: usize) -> Result<BytesMut, FrameError> {
        let began = Instant::now();
        let mut frame = BytesMut::with_capacity(length);
        let have = self.buffer.len().min(length);
        frame.extend_from_slice(&self.buffer[..have]);
        self.buffer.advance(have);
        while frame.len() < length {
            match time::timeout(ARRIVAL_LOOK, self.source.read_buf(&mut frame)).await {
                Ok(Ok(0)) => return Err(ended().into()),
                Ok(Ok(_)) | Err(time::Elapsed) => {}
                Ok(Err(error)) => return Err(error.into()),
            }
            if is_late(began, frame.len()) && frame.len() < length && self.budget.is_short(length) {
                return Err(FrameError::Slow(length));
            }
        }
        // An allocator may give more than was asked for, so that the next frame's begin came along.
        self.buffer.extend_from_slice(&frame[length..]);
        frame.truncate(length);
        Ok(frame)
    }
}

/// Whether less has come than of a frame that has had its share since `began`.
fn is_late(began: Instant, arrived_bytes: usize) -> bool {
    let late = began.elapsed().saturating_sub(ARRIVAL_GRACE);
    let expected = late.as_millis().saturating_mul(u128::from(ARRIVAL_BYTES_PER_SECOND_MIN)) / 1000;
    (arrived_bytes as u128) < expected
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

    const BUDGET_BYTES: usize = 2 << 20;
    const HALF_BYTES: usize = BUDGET_BYTES / 2;

    fn reader(pieces: Vec<Vec<u8>>) -> FrameReader<Pieces> {
        let budget = RequestBudget::new(BUDGET_BYTES);
        FrameReader::new(Pieces(RefCell::new(pieces.into())), 200_000, budget)
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
            prop_assert_eq!(reader.budget.ordinary.available_permits(), HALF_BYTES);
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

    /// Gives out what there is, then a byte a second for ever.
    struct Trickle(std::cell::Cell<usize>);

    impl Source for Trickle {
        async fn read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
            let read = self.0.replace(0).min(buffer.capacity() - buffer.len());
            if read > 0 {
                buffer.put_bytes(0, read);
                return Ok(read);
            }
            time::sleep(Duration::from_secs(1)).await;
            buffer.put_u8(0);
            Ok(1)
        }
    }

    const NEARLY_ALL_BYTES: usize = HALF_BYTES - 1;

    fn trickle(at_once: usize, budget: &RequestBudget) -> FrameReader<Trickle> {
        let source = Trickle(std::cell::Cell::new(at_once));
        let mut reader = FrameReader::new(source, 1 << 30, budget.clone());
        reader.buffer.put_i32(i32::try_from(NEARLY_ALL_BYTES).unwrap());
        reader
    }

    /// Two connections that claimed 100 MiB each and sent nothing stopped a shard from reading.
    #[test]
    fn a_claim_takes_nothing_of_the_budget() {
        let sim = corelog_runtime::sim::Sim::new(1, corelog_runtime::sim::SimOptions::default());
        sim.run_on(1, async move {
            let budget = RequestBudget::new(BUDGET_BYTES);
            let mut claims: Vec<_> = (0..100).map(|_| trickle(1000, &budget)).collect();
            let claims = claims.iter_mut().map(FrameReader::next);
            let waiting = futures_util::future::join_all(claims);
            let minutes = time::timeout(Duration::from_secs(600), waiting).await;
            assert_eq!(minutes.err(), Some(time::Elapsed));
            assert_eq!(budget.ordinary.available_permits(), HALF_BYTES);
        });
    }

    #[test]
    fn a_slow_frame_is_given_up_when_others_wait_for_its_memory_and_only_then() {
        let sim = corelog_runtime::sim::Sim::new(1, corelog_runtime::sim::SimOptions::default());
        sim.run_on(1, async move {
            let budget = RequestBudget::new(BUDGET_BYTES);
            let mut undisturbed = trickle(20_000, &budget);
            assert!(time::timeout(Duration::from_secs(600), undisturbed.next()).await.is_err());

            let mut slow = trickle(20_000, &budget);
            let pieces = Pieces(RefCell::new(vec![framed(&[60])].into()));
            let mut other = FrameReader::new(pieces, 1000, budget.clone());
            let began = Instant::now();
            let give_up = async {
                let given_up = slow.next().await;
                assert!(matches!(given_up, Err(FrameError::Slow(NEARLY_ALL_BYTES))));
            };
            let served = async {
                time::sleep(Duration::from_millis(1)).await;
                assert_eq!(budget.ordinary.available_permits(), HALF_BYTES - NEARLY_ALL_BYTES);
                assert!(other.next().await.unwrap().is_some());
            };
            futures_util::future::join(give_up, served).await;
            assert!(began.elapsed() <= ARRIVAL_GRACE + 2 * ARRIVAL_LOOK);
        });
    }

    #[test]
    fn very_large_frames_take_nothing_from_ordinary_ones() {
        let budget = RequestBudget::new(BUDGET_BYTES);
        let _large = block_on(budget.share(100 << 20));
        assert!(budget.is_short(2 << 20));
        let _ordinary = block_on(budget.share(ORDINARY_FRAME_BYTES_MAX - 1));
        assert!(!budget.is_short(1));
    }

    #[test]
    fn frames_wait_until_the_budget_has_room() {
        use futures_util::FutureExt;

        let budget = RequestBudget::new(200);
        let pieces = Pieces(RefCell::new(vec![framed(&[60, 60])].into()));
        let mut reader = FrameReader::new(pieces, 1000, budget);
        let first = block_on(reader.next()).unwrap().unwrap();
        {
            let mut second = Box::pin(reader.next());
            assert!((&mut second).now_or_never().is_none());
            drop(first);
            assert!(second.now_or_never().unwrap().unwrap().is_some());
        }
    }
}
