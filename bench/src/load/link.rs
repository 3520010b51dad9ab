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
        while let Some(length) = buffer.first_chunk::<LENGTH_BYTES>() {
            let length = i32::from_be_bytes(*length);
            let length = usize::try_from(length)
                .ok()
                .filter(|length| *length <= REPLY_BYTES_MAX)
                .ok_or_else(|| format!("a reply of {length} bytes is no reply"))?;
            if buffer.len() < LENGTH_BYTES + length {
                return Ok(LENGTH_BYTES + length - buffer.len());
            }
            buffer.advance(LENGTH_BYTES);
            let reply = buffer.split_to(length).freeze();
            let sent = self.0.waiting.borrow_mut().pop_front().ok_or("a reply that nobody asked for")?;
            let id = reply.first_chunk().map(|id| i32::from_be_bytes(*id));
            if id != Some(sent.correlation_id) {
                self.0.waiting.borrow_mut().push_front(sent);
                return Err(format!("a reply with correlation id {id:?} out of order"));
            }
            if let Some(owner) = self.0.owner.upgrade() {
                owner.answered(self, sent, reply);
            }
        }
        Ok(0)
    }
}

fn flush_joined(joined: &mut BytesMut, chunks: &mut Vec<Bytes>) {
    if !joined.is_empty() {
        chunks.push(joined.split().freeze());
    }
}
