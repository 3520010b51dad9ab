//! Which sockets of a shard can be read or written.
//!
//! glommio polls for each socket anew after every read: a source, a submission and a completion for
//! each. Under load that costs more than the bytes do. Here the kernel keeps the list: one
//! edge-triggered epoll set holds a shard's sockets, and glommio polls for the set alone. One such
//! poll and one `epoll_wait` serve all sockets that became ready meanwhile, so that the more there
//! is to do, the less each of it costs.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_lite::io::AsyncRead;
use glommio::net::TcpStream as GlommioStream;
use nix::errno::Errno;
use nix::libc::ENOTSOCK;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Events taken in one system call.
const EVENTS_AT_ONCE: usize = 256;

/// Without a free descriptor nobody can poll for the set: it is looked at this often instead.
const WITHOUT_DESCRIPTOR: Duration = Duration::from_millis(1);

/// For so long sockets are looked at again before disks and timers get their turn.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// The sockets of one shard.
pub(crate) struct Poller {
    epoll: Epoll,
    sockets: RefCell<Sockets>,
}

#[derive(Default)]
struct Sockets {
    /// By the number that the kernel knows a socket by.
    readiness: Vec<Option<Rc<Readiness>>>,
    free: Vec<usize>,
}

impl Poller {
    pub(super) fn new() -> io::Result<Rc<Self>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Rc::new(Self { epoll, sockets: RefCell::default() }))
    }

    /// Watches a socket until the registration is dropped, which has to be before the socket is
    /// closed. Closing takes it out of the kernel's list.
    pub(super) fn register(self: &Rc<Self>, socket: BorrowedFd<'_>) -> io::Result<Registration> {
        let readiness = Rc::new(Readiness::new());
        let mut sockets = self.sockets.borrow_mut();
        let number = match sockets.free.pop() {
            Some(number) => number,
            None => {
                sockets.readiness.push(None);
                sockets.readiness.len() - 1
            }
        };
        sockets.readiness[number] = Some(Rc::clone(&readiness));
        drop(sockets);
        let registration = Registration { readiness, number, poller: Rc::clone(self) };
        let events =
            EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll.add(socket, EpollEvent::new(events, number as u64))?;
        Ok(registration)
    }

    /// Serves the shard's sockets for as long as it lives.
    pub(super) async fn run(self: Rc<Self>) {
        loop {
            if let Err(error) = self.ready().await {
                tracing::debug!(%error, "the sockets of a shard cannot be polled for");
                glommio::timer::sleep(WITHOUT_DESCRIPTOR).await;
            }
            // Going through glommio's loop costs nearly ten system calls. While more arrives as fast as
            // it is dealt with, several rounds of it are dealt with for each.
            let begun = Instant::now();
            while self.look() > 0 && begun.elapsed() < LOOK_AGAIN {
                glommio::executor().yield_task_queue_now().await;
            }
        }
    }

    /// Waits until there is something to be looked at.
    async fn ready(&self) -> io::Result<()> {
        // glommio polls only for what it takes for a socket, and closes it afterwards.
        let set = self.epoll.0.try_clone()?;
        // SAFETY: the descriptor is open, and its ownership goes along.
        let mut set = unsafe { GlommioStream::from_raw_fd(set.into_raw_fd()) };
        match poll_fn(|cx| Pin::new(&mut set).poll_read(cx, &mut [0])).await {
            // Once the set is ready glommio tries to receive from it, and learns what it is.
            Err(error) if error.raw_os_error() == Some(ENOTSOCK) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Takes the kernel's list and wakes whoever waits for what is on it; how much that was.
    fn look(&self) -> usize {
        let mut looked_at = 0;
        let mut events = [EpollEvent::empty(); EVENTS_AT_ONCE];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "the sockets of a shard cannot be looked at");
                    return looked_at;
                }
            };
            for event in &events[..count] {
                // A number may be another socket's by now: that one then tries in vain, once.
                let number = usize::try_from(event.data()).unwrap_or(usize::MAX);
                let readiness = self.sockets.borrow().readiness.get(number).cloned().flatten();
                if let Some(readiness) = readiness {
                    readiness.take(event.events());
                }
            }
            looked_at += count;
            if count < EVENTS_AT_ONCE {
                return looked_at;
            }
        }
    }
}

/// A socket that is watched.
pub(super) struct Registration {
    readiness: Rc<Readiness>,
    number: usize,
    poller: Rc<Poller>,
}

impl std::ops::Deref for Registration {
    type Target = Readiness;

    fn deref(&self) -> &Readiness {
        &self.readiness
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut sockets = self.poller.sockets.borrow_mut();
        sockets.readiness[self.number] = None;
        sockets.free.push(self.number);
    }
}

/// What the kernel last said of a socket. It says each thing once: who has used something up has to
/// say so here, and is told when there is more.
pub(super) struct Readiness {
    is_readable: Cell<bool>,
    /// The other side sends no more: the end may lie behind a short read, and is not told of again.
    is_ending: Cell<bool>,
    is_writable: Cell<bool>,
    reader: Cell<Option<Waker>>,
    writer: Cell<Option<Waker>>,
}

impl Readiness {
    /// A new socket can be written to until it says otherwise; whether it can be read, the kernel
    /// tells.
    fn new() -> Self {
        Self {
            is_readable: Cell::new(false),
            is_ending: Cell::new(false),
            is_writable: Cell::new(true),
            reader: Cell::default(),
            writer: Cell::default(),
        }
    }

    pub(super) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_readable.get() {
            return Poll::Ready(());
        }
        self.reader.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    pub(super) fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_writable.get() {
            return Poll::Ready(());
        }
        self.writer.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Less was read than there was room for: nothing is left, but perhaps the end.
    pub(super) fn read_short(&self) {
        self.is_readable.set(self.is_ending.get());
    }

    /// There was nothing to read.
    pub(super) fn read_nothing(&self) {
        self.is_readable.set(false);
    }

    /// The socket took nothing.
    pub(super) fn wrote_nothing(&self) {
        self.is_writable.set(false);
    }

    fn take(&self, events: EpollFlags) {
        let broken = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        if events.intersects(broken | EpollFlags::EPOLLRDHUP) {
            self.is_ending.set(true);
        }
        if events.intersects(broken | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLIN) {
            self.is_readable.set(true);
            wake(&self.reader);
        }
        if events.intersects(broken | EpollFlags::EPOLLOUT) {
            self.is_writable.set(true);
            wake(&self.writer);
        }
    }
}

fn wake(waker: &Cell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
