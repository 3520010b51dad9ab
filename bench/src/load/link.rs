//! One connection of the generator: requests out, replies in, and when each was written.
//!
//! Leaner than the client library's connection, since a generator that costs as much as the broker
//! measures itself: no future and no channel per request, many requests in one system call, replies
//! handed to the owner where they are read. After the first error it is closed for good, and the
//! owner gets back what was not answered.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::Shutdown;
use std::rc::{Rc, Weak};

use bytes::{Buf, Bytes, BytesMut};
use corelog_runtime::net::{ReadHalf, TcpStream, WriteHalf};
use corelog_runtime::task;
use tokio::sync::Notify;

use super::shared::Clock;

const LENGTH_BYTES: usize = 4;
/// Room made before each read.
const READ_BYTES: usize = 256 * 1024;
/// A reply that claims to be larger is refused.
const REPLY_BYTES_MAX: usize = 256 << 20;
/// Frames up to this size are joined before they are written: a system call costs more than a copy.
const JOIN_BYTES_MAX: usize = 16 * 1024;

/// Why a link is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Broken {
    /// The connection was lost, or what came was not a reply.
    Lost(String),
    /// A reply did not come in time.
    TimedOut,
}

/// A request that was written, or is about to be.
#[derive(Debug)]
pub(super) struct Sent<T> {
    pub(super) request: T,
    /// When it was written.
    pub(super) sent_ns: u64,
    correlation_id: i32,
}

/// Who hears of replies. Called from the link's tasks: it must not wait.
pub(super) trait Owner<T>: 'static {
    /// A reply, without its length; empty for a request that gets none, once that is written.
    fn answered(&self, link: &Link<T>, sent: Sent<T>, reply: Bytes);
    /// The link is closed, and these were not answered, in the order in which they were given.
    fn broken(&self, link: &Link<T>, unanswered: Vec<Sent<T>>, why: &Broken);
}

struct Outgoing<T> {
    chunks: Vec<Bytes>,
    sent: Sent<T>,
    is_answered: bool,
}

struct Inner<T> {
    node: i32,
    socket: WriteHalf,
    clock: Rc<Clock>,
    owner: Weak<dyn Owner<T>>,
    outgoing: RefCell<VecDeque<Outgoing<T>>>,
    waiting: RefCell<VecDeque<Sent<T>>>,
    next_correlation: Cell<i32>,
    is_closed: Cell<bool>,
    wake: Notify,
}

/// A connection to one broker; clones share it.
pub(super) struct Link<T>(Rc<Inner<T>>);

impl<T> Clone for Link<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T: 'static> Link<T> {
    /// Takes over a connection to `node`.
    pub(super) fn new(node: i32, stream: TcpStream, clock: Rc<Clock>, owner: Weak<dyn Owner<T>>) -> Self {
        let (reader, socket) = stream.split();
        let link = Self(Rc::new(Inner {
            node,
            socket,
            clock,
            owner,
            outgoing: RefCell::default(),
            waiting: RefCell::default(),
            next_correlation: Cell::new(0),
            is_closed: Cell::new(false),
            wake: Notify::new(),
        }));
        task::spawn(link.clone().write_all());
        task::spawn(link.clone().read_all(reader));
        link
    }

    pub(super) fn node(&self) -> i32 {
        self.0.node
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.is_closed.get()
    }

    /// Queues a request; `encode` is given its correlation id.
    pub(super) fn send(&self, request: T, is_answered: bool, encode: impl FnOnce(&T, i32) -> Vec<Bytes>) {
        let correlation_id = self.0.next_correlation.get();
        self.0.next_correlation.set(correlation_id.wrapping_add(1) & i32::MAX);
        let chunks = encode(&request, correlation_id);
        let sent = Sent { request, sent_ns: 0, correlation_id };
        self.0.outgoing.borrow_mut().push_back(Outgoing { chunks, sent, is_answered });
        self.0.wake.notify_one();
    }

    /// When the oldest request that still waits for its reply was written.
    pub(super) fn oldest_ns(&self) -> Option<u64> {
        self.0.waiting.borrow().front().map(|sent| sent.sent_ns)
    }

    /// Closes it; the owner gets back what was not answered.
    pub(super) fn close(&self, why: &Broken) {
        if self.0.is_closed.replace(true) {
            return;
        }
        let mut unanswered: Vec<_> = self.0.waiting.borrow_mut().drain(..).collect();
        unanswered.extend(self.0.outgoing.borrow_mut().drain(..).map(|outgoing| outgoing.sent));
        self.0.wake.notify_one();
        // A socket that is gone already is as good.
        let _ = self.0.socket.shutdown(Shutdown::Both);
        if let Some(owner) = self.0.owner.upgrade() {
            owner.broken(self, unanswered, why);
        }
    }

    async fn write_all(self) {
        let mut chunks = Vec::new();
        let mut without_reply = Vec::new();
        loop {
            if self.is_closed() {
                return;
            }
            let now_ns = self.0.clock.now_ns();
            let mut joined = BytesMut::new();
            for mut outgoing in self.0.outgoing.borrow_mut().drain(..) {
                outgoing.sent.sent_ns = now_ns;
                match outgoing.is_answered {
                    true => self.0.waiting.borrow_mut().push_back(outgoing.sent),
                    false => without_reply.push(outgoing.sent),
                }
                if outgoing.chunks.iter().map(Bytes::len).sum::<usize>() <= JOIN_BYTES_MAX {
                    outgoing.chunks.iter().for_each(|chunk| joined.extend_from_slice(chunk));
                } else {
                    flush_joined(&mut joined, &mut chunks);
                    chunks.append(&mut outgoing.chunks);
                }
            }
            flush_joined(&mut joined, &mut chunks);
            if chunks.is_empty() {
                self.0.wake.notified().await;
                continue;
            }
            if let Err(error) = self.0.socket.write_vectored_all(&chunks).await {
                self.close(&Broken::Lost(error.to_string()));
                return;
            }
            chunks.clear();
            if let Some(owner) = self.0.owner.upgrade() {
                for sent in without_reply.drain(..) {
                    owner.answered(&self, sent, Bytes::new());
                }
            }
        }
    }

    async fn read_all(self, reader: ReadHalf) {
        let mut buffer = BytesMut::new();
        loop {
            match self.take_replies(&mut buffer) {
                Ok(missing) => buffer.reserve(missing.max(READ_BYTES)),
                Err(reason) => return self.close(&Broken::Lost(reason)),
            }
            match reader.read_buf(&mut buffer).await {
                Ok(0) => return self.close(&Broken::Lost("the broker closed the connection".to_owned())),
                Ok(_) => {}
                Err(error) => return self.close(&Broken::Lost(error.to_string())),
            }
            if self.is_closed() {
                return;
            }
        }
    }

    /// Hands out every whole reply in `buffer`; how many bytes of the next one are missing.
    fn take_replies(&self, buffer: &mut BytesMut) -> Result<usize, String> {
        loop {
            let next = next_reply(buffer, &mut self.0.waiting.borrow_mut())?;
            match next {
                Next::Reply(sent, reply) => {
                    if let Some(owner) = self.0.owner.upgrade() {
                        owner.answered(self, sent, reply);
                    }
                }
                Next::Missing(bytes) => return Ok(bytes),
            }
        }
    }
}

/// What is at the front of what was read.
#[derive(Debug)]
enum Next<T> {
    /// A whole reply, without its length, and the request that it is for.
    Reply(Sent<T>, Bytes),
    /// So many bytes are missing of the next one, as far as that is known.
    Missing(usize),
}

/// Takes the next reply out of `buffer`: it is for the request that has waited longest.
fn next_reply<T>(buffer: &mut BytesMut, waiting: &mut VecDeque<Sent<T>>) -> Result<Next<T>, String> {
    let Some(length) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(Next::Missing(0)) };
    let length = i32::from_be_bytes(*length);
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= REPLY_BYTES_MAX)
        .ok_or_else(|| format!("a reply of {length} bytes is no reply"))?;
    if buffer.len() < LENGTH_BYTES + length {
        return Ok(Next::Missing(LENGTH_BYTES + length - buffer.len()));
    }
    buffer.advance(LENGTH_BYTES);
    let reply = buffer.split_to(length).freeze();
    let sent = waiting.pop_front().ok_or("a reply that nobody asked for")?;
    let id = reply.first_chunk().map(|id| i32::from_be_bytes(*id));
    if id != Some(sent.correlation_id) {
        waiting.push_front(sent);
        return Err(format!("a reply with correlation id {id:?} out of order"));
    }
    Ok(Next::Reply(sent, reply))
}

fn flush_joined(joined: &mut BytesMut, chunks: &mut Vec<Bytes>) {
    if !joined.is_empty() {
        chunks.push(joined.split().freeze());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waiting(count: i32) -> VecDeque<Sent<()>> {
        (0..count).map(|correlation_id| Sent { request: (), sent_ns: 0, correlation_id }).collect()
    }

    fn frame(correlation_id: i32, body: &[u8]) -> Vec<u8> {
        let length = i32::try_from(4 + body.len()).unwrap();
        [&length.to_be_bytes(), &correlation_id.to_be_bytes(), body].concat()
    }

    /// Replies and the end, in words: everything that was read in these pieces.
    fn read(pieces: &[&[u8]], count: i32) -> (Vec<(i32, Bytes)>, Result<usize, String>, usize) {
        let (mut buffer, mut waiting, mut replies) = (BytesMut::new(), waiting(count), Vec::new());
        let mut end = Ok(0);
        for piece in pieces {
            buffer.extend_from_slice(piece);
            end = loop {
                match next_reply(&mut buffer, &mut waiting) {
                    Ok(Next::Reply(sent, reply)) => replies.push((sent.correlation_id, reply)),
                    Ok(Next::Missing(bytes)) => break Ok(bytes),
                    Err(reason) => break Err(reason),
                }
            };
            if end.is_err() {
                break;
            }
        }
        (replies, end, waiting.len())
    }

    /// What a broker might send: replies in order, at times another one, at times bytes of any kind.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let body = || prop::collection::vec(any::<u8>(), 0..40);
        let part = prop_oneof![
            8 => body().prop_map(|body| (true, 0, body)),
            1 => (any::<i32>(), body()).prop_map(|(id, body)| (true, id, body)),
            1 => body().prop_map(|bytes| (false, 0, bytes)),
        ];
        prop::collection::vec(part, 0..12).prop_map(|parts| {
            let parts = (0..).zip(parts);
            parts
                .flat_map(|(at, (framed, id, body))| if framed { frame(at ^ id, &body) } else { body })
                .collect()
        })
    }

    proptest! {
        /// However the bytes are cut: each request gets its own reply or goes on waiting, in order, and
        /// never is room made for more than a reply may have.
        #[test]
        fn any_bytes_are_replies_in_order_or_an_end(
            bytes in stream(), count in 0..12_i32, piece in 1..60_usize,
        ) {
            let (replies, end, left) = read(&[&bytes], count);
            prop_assert_eq!(replies.len() + left, usize::try_from(count).unwrap());
            for (at, (id, reply)) in (0..).zip(&replies) {
                prop_assert_eq!(*id, at);
                prop_assert_eq!(reply.first_chunk(), Some(&id.to_be_bytes()));
            }
            if let Ok(missing) = end {
                prop_assert!(missing <= LENGTH_BYTES + REPLY_BYTES_MAX);
            }
            let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
            let (in_pieces, end_in_pieces, left_in_pieces) = read(&pieces, count);
            prop_assert_eq!((in_pieces, left_in_pieces), (replies, left));
            prop_assert_eq!(end_in_pieces, end);
        }
    }

    #[test]
    fn a_length_that_no_reply_has_is_refused_before_there_is_room_for_it() {
        for length in [-1, i32::MIN, i32::MAX, i32::try_from(REPLY_BYTES_MAX + 1).unwrap()] {
            let (_, end, left) = read(&[&length.to_be_bytes()], 1);
            assert!(end.unwrap_err().contains("is no reply") && left == 1, "{length}");
        }
    }
}
