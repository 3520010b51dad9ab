//! Requests and replies between the shards of one node.
//!
//! Messages of one ordered pair of shards arrive in the order in which they were sent. Sending
//! never blocks: behind the bounded ring of a pair is an overflow queue, and once that is not empty
//! nothing overtakes it. The overflow is bounded by the callers: they look at [`Mesh::queued`] and
//! push back to their connections. A message carries `Bytes`, never a copy of a payload.

mod calls;
mod link;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use self::calls::Calls;
use self::link::Link;
pub(crate) use self::link::{RealEnd, real_ends};

/// Why a call has no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MeshError {
    /// The other shard ended.
    #[error("shard {0} has ended")]
    Closed(usize),
    /// The other shard dropped the request without a reply.
    #[error("shard {0} dropped the request without a reply")]
    NoReply(usize),
}

/// What travels between two shards.
pub(crate) enum Packet<Q, A> {
    Call { id: u64, q: Q },
    Cast { q: Q },
    Reply { id: u64, a: A },
    NoReply { id: u64 },
    Closed,
}

/// One shard's end of the mesh. Cloning is cheap; all clones are the same end.
pub struct Mesh<Q: Send + 'static, A: Send + 'static>(Rc<Core<Q, A>>);

impl<Q: Send + 'static, A: Send + 'static> Clone for Mesh<Q, A> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

/// A request that has arrived.
pub struct Incoming<Q, A> {
    /// The shard that sent it, possibly this one.
    pub from: usize,
    /// The request.
    pub q: Q,
    /// Where the reply goes; `None` for a [`Mesh::cast`].
    pub reply: Option<Reply<A>>,
}

/// The right to answer one request, at any time and in any order. Dropping it unused tells the
/// caller so.
pub struct Reply<A>(Option<(Rc<dyn Answer<A>>, usize, u64)>);

impl<A> Reply<A> {
    /// Answers.
    pub fn send(mut self, a: A) {
        if let Some((answer, to, id)) = self.0.take() {
            answer.answer(to, id, Some(a));
        }
    }
}

impl<A> Drop for Reply<A> {
    fn drop(&mut self) {
        if let Some((answer, to, id)) = self.0.take() {
            answer.answer(to, id, None);
        }
    }
}

trait Answer<A> {
    fn answer(&self, to: usize, id: u64, a: Option<A>);
}

struct Inbox<Q> {
    requests: VecDeque<(usize, Option<u64>, Q)>,
    /// How many of them each shard has sent.
    unread: Vec<usize>,
    waiter: Option<Waker>,
}

struct Core<Q: Send + 'static, A: Send + 'static> {
    shard: usize,
    link: Link<Q, A>,
    calls: RefCell<Calls<A>>,
    inbox: RefCell<Inbox<Q>>,
    closed: Cell<bool>,
    /// Which shards have ended.
    ended: RefCell<Vec<bool>>,
    me: Weak<Self>,
}

impl<Q: Send + 'static, A: Send + 'static> Core<Q, A> {
    fn new(shard: usize, shards: usize, link: Link<Q, A>) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            shard,
            link,
            calls: RefCell::new(Calls::new()),
            inbox: RefCell::new(Inbox { requests: VecDeque::new(), unread: vec![0; shards], waiter: None }),
            closed: Cell::new(false),
            ended: RefCell::new(vec![false; shards]),
            me: me.clone(),
        })
    }

    fn send(&self, to: usize, packet: Packet<Q, A>) {
        if to == self.shard {
            self.deliver(to, packet);
        } else if !self.link.send(self.shard, to, packet) {
            self.deliver(to, Packet::Closed);
        }
    }

    /// A packet arrives from `from`. Wakes tasks, polls none.
    fn deliver(&self, from: usize, packet: Packet<Q, A>) {
        match packet {
            Packet::Call { id, .. } if self.closed.get() => self.answer(from, id, None),
            Packet::Call { id, q } => self.request(from, Some(id), q),
            Packet::Cast { q } => self.request(from, None, q),
            Packet::Reply { id, a } => self.calls.borrow_mut().complete(id, Ok(a)),
            Packet::NoReply { id } => {
                self.calls.borrow_mut().complete(id, Err(MeshError::NoReply(from)));
            }
            Packet::Closed => {
                self.ended.borrow_mut()[from] = true;
                self.calls.borrow_mut().fail_all_to(from);
            }
        }
    }

    fn request(&self, from: usize, id: Option<u64>, q: Q) {
        if self.closed.get() {
            return;
        }
        let waiter = {
            let mut inbox = self.inbox.borrow_mut();
            inbox.requests.push_back((from, id, q));
            inbox.unread[from] += 1;
            inbox.waiter.take()
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Requests from `from` that have arrived and that the server loop has not taken.
    fn unread_from(&self, from: usize) -> usize {
        self.inbox.borrow().unread[from]
    }
}

impl<Q: Send + 'static, A: Send + 'static> Answer<A> for Core<Q, A> {
    fn answer(&self, to: usize, id: u64, a: Option<A>) {
        self.send(to, a.map_or(Packet::NoReply { id }, |a| Packet::Reply { id, a }));
    }
}

impl<Q: Send + 'static, A: Send + 'static> Mesh<Q, A> {
    /// The ends of a simulated node's mesh.
    pub(crate) fn simulated(shards: usize) -> Vec<Self> {
        let (links, peers) = Link::simulated(shards);
        let cores: Vec<_> =
            links.into_iter().enumerate().map(|(shard, link)| Core::new(shard, shards, link)).collect();
        peers.borrow_mut().extend(cores.iter().map(Rc::downgrade));
        cores.into_iter().map(Self).collect()
    }

    /// This shard's end on the real backend; starts the task that receives.
    pub(crate) fn real(shard: usize, end: RealEnd<Q, A>) -> Self {
        let shards = end.shards();
        let (link, receivers) = Link::real(end);
        let core = Core::new(shard, shards, link);
        crate::task::spawn_in(crate::task::Class::Serve, link::receive(Rc::clone(&core), receivers));
        Self(core)
    }

    /// This shard.
    #[must_use]
    pub fn shard(&self) -> usize {
        self.0.shard
    }

    /// How many shards the node has.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.0.ended.borrow().len()
    }

    /// Sends a request, to this shard too, and returns the future of its reply. The request is on
    /// its way when this returns, polled or not; the future may be dropped.
    ///
    /// # Errors
    /// The future's: see [`MeshError`].
    ///
    /// # Panics
    /// When there is no shard `to`.
    pub fn call(&self, to: usize, q: Q) -> impl Future<Output = Result<A, MeshError>> + 'static {
        let ended = self.0.ended.borrow()[to];
        let id = self.0.calls.borrow_mut().begin(to);
        if ended {
            self.0.calls.borrow_mut().complete(id, Err(MeshError::Closed(to)));
        } else {
            self.0.send(to, Packet::Call { id, q });
        }
        Call { core: Rc::clone(&self.0), id, taken: false }
    }

    /// Sends a request that has no reply. It is lost if the other shard has ended.
    ///
    /// # Panics
    /// When there is no shard `to`.
    pub fn cast(&self, to: usize, q: Q) {
        if !self.0.ended.borrow()[to] {
            self.0.send(to, Packet::Cast { q });
        }
    }

    /// How many messages to `to` wait for that shard: for back-pressure.
    ///
    /// # Panics
    /// When there is no shard `to`.
    #[must_use]
    pub fn queued(&self, to: usize) -> usize {
        if to == self.0.shard { self.0.unread_from(to) } else { self.0.link.queued(self.0.shard, to) }
    }

    /// The next request, from any shard; `None` after [`Self::close`]. For one server loop.
    pub async fn next(&self) -> Option<Incoming<Q, A>> {
        std::future::poll_fn(|cx| {
            let mut inbox = self.0.inbox.borrow_mut();
            let Some((from, id, q)) = inbox.requests.pop_front() else {
                if self.0.closed.get() {
                    return Poll::Ready(None);
                }
                inbox.waiter = Some(cx.waker().clone());
                return Poll::Pending;
            };
            inbox.unread[from] -= 1;
            let answer = || -> Rc<dyn Answer<A>> {
                self.0.me.upgrade().expect("a mesh end is alive while it is used")
            };
            let reply = id.map(|id| Reply(Some((answer(), from, id))));
            Poll::Ready(Some(Incoming { from, q, reply }))
        })
        .await
    }

    /// Ends this shard's part: its server loop ends after what has arrived, and other shards' calls
    /// fail with [`MeshError::Closed`].
    pub fn close(&self) {
        if self.0.closed.replace(true) {
            return;
        }
        let waiter = self.0.inbox.borrow_mut().waiter.take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
        for to in 0..self.shards() {
            if to != self.0.shard {
                self.0.send(to, Packet::Closed);
            }
        }
    }

    /// Waits until everything sent is in the rings, where it outlives this shard.
    pub(crate) async fn flushed(&self) {
        while self.0.link.overflowing() {
            crate::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}

/// The future of a reply.
struct Call<Q: Send + 'static, A: Send + 'static> {
    core: Rc<Core<Q, A>>,
    id: u64,
    taken: bool,
}

impl<Q: Send + 'static, A: Send + 'static> Future for Call<Q, A> {
    type Output = Result<A, MeshError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.core.calls.borrow_mut().poll(self.id, cx.waker());
        self.taken = polled.is_ready();
        polled
    }
}

impl<Q: Send + 'static, A: Send + 'static> Drop for Call<Q, A> {
    fn drop(&mut self) {
        if !self.taken {
            let reply = self.core.calls.borrow_mut().abandon(self.id);
            drop(reply);
        }
    }
}
