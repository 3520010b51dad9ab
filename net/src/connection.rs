//! One client's connection, on one shard: reads requests, starts them in order, writes the answers
//! in the same order.
//!
//! Two halves run as one task. The reader takes frames and queues what they started; it stops
//! reading while enough is in flight, here or on the shard. The writer waits for the answer at the
//! head of the queue, takes along all that are ready behind it, and writes them in one go. Only the
//! head is polled: a produce is under way in the engine from the moment it is queued, and anything
//! else begins when everything before it is answered, so that a client that pipelines sees the
//! effects of its own requests in order, as from Kafka.
//!
//! Knows no API: that is `dispatch`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use corelog_protocol::api::Api;
use corelog_runtime::net::{ReadHalf, TcpStream, WriteHalf};
use corelog_runtime::task::yield_if_needed;
use corelog_runtime::time::{self, Instant};
use futures_util::future::{LocalBoxFuture, join};
use tokio::sync::OwnedSemaphorePermit;

use crate::budget::Charge;
use crate::dispatch::{self, Dispatched};
use crate::frame::{Frame, FrameError, FrameReader, Source};
use crate::metrics::{Answered, ShardCounters};
use crate::service::Service;
use crate::signal::Signal;

/// Answers are put together up to this size before they are written.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// At a graceful end, how long what the client still sends is read and thrown away: closing a
/// socket with unread bytes would take the last answers with it.
const LINGER: Duration = Duration::from_millis(250);

/// While others wait for room, a client takes its answers at this rate at least…
const TAKE_BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// …and this long more.
const TAKE_GRACE: Duration = Duration::from_secs(2);
/// How often that is looked at.
const TAKE_LOOK: Duration = Duration::from_secs(1);

/// Who is connected.
pub(crate) struct Client {
    /// Index of the listener that it came in on.
    pub(crate) listener: usize,
    /// Its address.
    pub(crate) peer: SocketAddr,
    /// On when the connection is about to end: nothing should wait for long any more.
    pub(crate) leaving: Signal,
    /// The log has, or could have, a line about it.
    pub(crate) is_known_bad: Cell<bool>,
}

/// The answer to a request.
pub(crate) enum Reply {
    /// One frame, its length included.
    Frame(Bytes),
    /// The same in pieces, with what it costs the shard until it is written.
    Chunks(Vec<Bytes>, Charge),
    /// None is wanted.
    Silent,
    /// The connection has to end.
    Close,
}

/// A request on its way.
struct Pending {
    reply: LocalBoxFuture<'static, Reply>,
    is_started: bool,
    /// `None` when it was not a served API's.
    api: Option<Api>,
    /// When its last byte was read.
    received: Instant,
    /// The frame's share of the budget, unless the answer's future has it.
    _share: Option<OwnedSemaphorePermit>,
}

/// A request's answer, and when it was ready.
struct Done {
    reply: Reply,
    answered: Answered,
}

/// What reader, writer and the server's stop share of a connection.
pub(crate) struct Conversation {
    pub(crate) client: Rc<Client>,
    write_half: WriteHalf,
    queue: RefCell<VecDeque<Pending>>,
    /// Requests that are not answered yet, the head of the queue included.
    in_flight: Cell<usize>,
    /// Of these, how many begin only when they are the head.
    unstarted: Cell<usize>,
    /// The reader has ended: the queue gets no longer.
    is_read: Cell<bool>,
    /// The writer has ended: answers go nowhere.
    is_broken: Cell<bool>,
    last_traffic: Cell<Instant>,
    last_read: Cell<Instant>,
    reader: Cell<Option<Waker>>,
    writer: Cell<Option<Waker>>,
}

fn wake(waker: &Cell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// Serves a connection until it ends. Returns when nothing of it is left.
pub(crate) async fn run(service: Rc<Service>, stream: TcpStream, listener: usize) {
    let now = Instant::now();
    let client = Rc::new(Client {
        listener,
        peer: stream.peer_addr(),
        leaving: Signal::default(),
        is_known_bad: Cell::new(false),
    });
    let (read_half, write_half) = stream.split();
    let conversation = Rc::new(Conversation {
        client,
        write_half,
        queue: RefCell::default(),
        in_flight: Cell::new(0),
        unstarted: Cell::new(0),
        is_read: Cell::new(false),
        is_broken: Cell::new(false),
        last_traffic: Cell::new(now),
        last_read: Cell::new(now),
        reader: Cell::default(),
        writer: Cell::default(),
    });
    let number = service.draw_connection();
    service.connections.borrow_mut().insert(number, Rc::clone(&conversation));
    let source = Counted { read_half, conversation: Rc::clone(&conversation), service: Rc::clone(&service) };
    let (source, ()) = join(conversation.read(&service, source), conversation.write(&service)).await;
    conversation.hang_up(source).await;
    service.connections.borrow_mut().remove(&number);
    service.connection_ended.notify_waiters();
}

/// A read half whose bytes are counted.
struct Counted {
    read_half: ReadHalf,
    conversation: Rc<Conversation>,
    service: Rc<Service>,
}

impl Source for Counted {
    async fn read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let read = self.read_half.read_buf(buffer).await?;
        let now = Instant::now();
        self.conversation.last_traffic.set(now);
        self.conversation.last_read.set(now);
        self.service.counters().received(read);
        Ok(read)
    }
}

impl Conversation {
    /// Asks the connection to end as soon as what is in flight is answered.
    pub(crate) fn drain(&self) {
        self.client.leaving.switch_on();
        // Wakes the reader; an error means that the connection is gone already.
        let _ = self.write_half.shutdown(Shutdown::Read);
        wake(&self.reader);
    }

    /// Ends the connection at once.
    pub(crate) fn abort(&self) {
        self.client.leaving.switch_on();
        let _ = self.write_half.shutdown(Shutdown::Both);
        wake(&self.reader);
    }

    /// Whether nothing happened for so long, and nothing is about to.
    pub(crate) fn is_idle_for(&self, duration: Duration) -> bool {
        self.in_flight.get() == 0 && self.last_traffic.get().elapsed() >= duration
    }

    async fn read(&self, service: &Rc<Service>, source: Counted) -> Counted {
        let options = &service.options;
        let mut frames = FrameReader::new(source, options.max_frame_bytes, service.requests.clone());
        while self.has_room(options.max_in_flight).await {
            match frames.next().await {
                Ok(Some(frame)) if !self.client.leaving.is_on() => {
                    self.take(service, frame);
                    // To check a batch may take long, and many may have come.
                    yield_if_needed().await;
                }
                Ok(_) => break,
                Err(FrameError::Io(error)) => {
                    tracing::debug!(peer = %self.client.peer, %error, "connection lost");
                    break;
                }
                Err(error @ (FrameError::Length(..) | FrameError::Slow(_))) => {
                    service.counters().malformed();
                    if let Some(unsaid) = service.may_complain(&self.client) {
                        tracing::warn!(peer = %self.client.peer, %error, unsaid, "connection closed");
                    }
                    break;
                }
            }
        }
        self.client.leaving.switch_on();
        self.is_read.set(true);
        wake(&self.writer);
        frames.into_source()
    }

    /// Waits until another request may be in flight; false when none may ever be.
    async fn has_room(&self, max_in_flight: usize) -> bool {
        poll_fn(|cx| {
            if self.is_broken.get() || self.client.leaving.is_on() {
                return Poll::Ready(false);
            }
            if self.in_flight.get() < max_in_flight.max(1) {
                return Poll::Ready(true);
            }
            self.reader.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await
    }

    fn take(&self, service: &Rc<Service>, frame: Frame) {
        let (received, now) = (self.last_read.get(), Instant::now());
        let may_start = self.unstarted.get() == 0;
        let Dispatched { api, reply, is_started, share } =
            dispatch::dispatch(service, &self.client, frame, may_start);
        assert!(may_start || !is_started, "a request does not overtake one that has not begun");
        service.counters().requested(api);
        if is_started {
            service.counters().begun(received, now);
        }
        self.in_flight.set(self.in_flight.get() + 1);
        self.unstarted.set(self.unstarted.get() + usize::from(!is_started));
        let pending = Pending { reply, is_started, api, received, _share: share };
        self.queue.borrow_mut().push_back(pending);
        wake(&self.writer);
    }

    async fn write(&self, service: &Service) {
        if let Err(error) = self.write_replies(service).await {
            tracing::debug!(peer = %self.client.peer, %error, "connection lost while writing");
        }
        self.is_broken.set(true);
        // What is still queued goes nowhere; produces that have begun go on in the engine.
        self.queue.borrow_mut().clear();
        if !self.is_read.get() {
            self.abort();
        }
    }

    /// Returns when the last answer is written, or one says that the connection has to end.
    async fn write_replies(&self, service: &Service) -> io::Result<()> {
        let mut head = None;
        let mut out = Out::default();
        let mut answered = Vec::new();
        loop {
            let first = poll_fn(|cx| self.poll_reply(service, &mut head, cx)).await;
            let mut goes_on = out.take(first, &mut answered, service.counters());
            while goes_on && out.bytes < WRITE_BYTES_MAX {
                let ready = poll_fn(|cx| Poll::Ready(self.poll_reply(service, &mut head, cx))).await;
                let Poll::Ready(next) = ready else { break };
                goes_on = out.take(next, &mut answered, service.counters());
            }
            if !out.chunks.is_empty() {
                self.send(service, &out).await?;
                let now = Instant::now();
                self.last_traffic.set(now);
                service.counters().sent(out.bytes);
                service.counters().written(&answered, now);
                answered.clear();
                out = Out::default();
            }
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Writes answers. Gives up when the client takes nothing for as long as a connection may be
    /// idle; and while others wait for the memory that its answers are in, when it takes nothing
    /// for a moment or takes them too slowly.
    async fn send(&self, service: &Service, out: &Out) -> io::Result<()> {
        let mut writing = pin!(self.write_half.write_vectored_all(&out.chunks));
        let began = Instant::now();
        let (mut moved, mut sent) = (began, self.write_half.sent_bytes());
        loop {
            if let Ok(written) = time::timeout(TAKE_LOOK, writing.as_mut()).await {
                return written;
            }
            let is_stuck = sent == self.write_half.sent_bytes();
            if !is_stuck {
                (moved, sent) = (Instant::now(), self.write_half.sent_bytes());
            }
            let patience = TAKE_GRACE + Duration::from_secs(out.bytes as u64 / TAKE_BYTES_PER_SECOND_MIN);
            let is_in_the_way = (is_stuck || began.elapsed() > patience) && service.responses.is_short();
            if is_in_the_way || moved.elapsed() > service.options.idle_timeout {
                if let Some(unsaid) = service.may_complain(&self.client) {
                    let peer = self.client.peer;
                    tracing::warn!(%peer, bytes = out.bytes, unsaid, "answers are not taken, connection closed");
                }
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// The answer at the head of the queue; `None` after the last one.
    fn poll_reply(
        &self,
        service: &Service,
        head: &mut Option<Pending>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Done>> {
        if head.is_none() {
            *head = self.queue.borrow_mut().pop_front();
            if let Some(pending) = head.as_ref().filter(|pending| !pending.is_started) {
                service.counters().begun(pending.received, Instant::now());
            }
        }
        let Some(pending) = head else {
            if self.is_read.get() {
                return Poll::Ready(None);
            }
            self.writer.set(Some(cx.waker().clone()));
            return Poll::Pending;
        };
        let Poll::Ready(reply) = pending.reply.as_mut().poll(cx) else { return Poll::Pending };
        let answered = Answered { api: pending.api, received: pending.received, ready: Instant::now() };
        self.in_flight.set(self.in_flight.get() - 1);
        self.unstarted.set(self.unstarted.get() - usize::from(!pending.is_started));
        *head = None;
        wake(&self.reader);
        Poll::Ready(Some(Done { reply, answered }))
    }

    /// Closes the connection such that the client gets the last answers.
    async fn hang_up(&self, source: Counted) {
        // An error means that the connection is gone already.
        let _ = self.write_half.shutdown(Shutdown::Write);
        let _ = self.write_half.shutdown(Shutdown::Read);
        let throw_away = async {
            let mut bytes = BytesMut::with_capacity(4096);
            while let Ok(1..) = source.read_half.read_buf(&mut bytes).await {
                bytes.clear();
            }
        };
        let _ = time::timeout(LINGER, throw_away).await;
    }
}

/// Answers that are ready to be written.
#[derive(Default)]
struct Out {
    chunks: Vec<Bytes>,
    charges: Vec<Charge>,
    bytes: usize,
}

impl Out {
    /// Adds an answer; false when the connection has to end after it.
    fn take(&mut self, done: Option<Done>, answered: &mut Vec<Answered>, counters: &ShardCounters) -> bool {
        let Some(done) = done else { return false };
        match done.reply {
            Reply::Frame(frame) => {
                self.bytes += frame.len();
                self.chunks.push(frame);
            }
            Reply::Chunks(chunks, charge) => {
                self.bytes += chunks.iter().map(Bytes::len).sum::<usize>();
                self.chunks.extend(chunks);
                self.charges.push(charge);
            }
            Reply::Silent => {
                counters.done(&done.answered);
                return true;
            }
            Reply::Close => return false,
        }
        answered.push(done.answered);
        true
    }
}
