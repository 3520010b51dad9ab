//! TCP: connections are accepted through io_uring, then watched by the shard's [`Poller`]; the bytes
//! go through ordinary non-blocking calls.
//!
//! [`Poller`]: super::poller::Poller

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use glommio::net::TcpListener as GlommioListener;
use nix::libc::{EINPROGRESS, MSG_DONTWAIT, MSG_NOSIGNAL};
use smallvec::SmallVec;
use socket2::{Domain, Protocol, Socket, Type};

use super::Shard;
use super::fs::plain;
use super::poller::Registration;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// Parts of one `sendmsg`: the kernel takes up to 1,024.
const PARTS_MAX: usize = 64;

const SEND_FLAGS: i32 = MSG_DONTWAIT | MSG_NOSIGNAL;

pub(crate) struct Listener {
    inner: GlommioListener,
    local_addr: SocketAddr,
}

impl Listener {
    pub(crate) fn bind(addr: SocketAddr, reuse_port: bool) -> io::Result<Self> {
        let socket = bind(addr, reuse_port)?;
        socket.listen(BACKLOG)?;
        let local_addr = local_addr(&socket)?;
        // SAFETY: the descriptor is a listening TCP socket, and its ownership goes along.
        let inner = unsafe { GlommioListener::from_raw_fd(socket.into_raw_fd()) };
        Ok(Self { inner, local_addr })
    }

    /// The kernel lets nobody bind where somebody listens, unless both share the port.
    pub(crate) fn probe(addr: SocketAddr) -> io::Result<SocketAddr> {
        local_addr(&bind(addr, false)?)
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    pub(crate) async fn accept(&self) -> io::Result<(OwnedFd, SocketAddr)> {
        let accepted = self.inner.accept().await.map_err(plain)?;
        accepted.set_nodelay(true).map_err(plain)?;
        let peer = accepted.peer_addr().map_err(plain)?;
        // A stream cannot give its descriptor back, and closes it when dropped.
        let fd = borrow(accepted.as_raw_fd()).try_clone_to_owned()?;
        Ok((fd, peer))
    }
}

fn bind(addr: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a node that was killed linger; only somebody who listens is in the way.
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn local_addr(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: only called with the descriptor of a stream that outlives the use of the result.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

pub(crate) struct Stream {
    // Before the socket: nothing is watched that is closed.
    readiness: Registration,
    socket: Socket,
    peer: SocketAddr,
    /// What the kernel took of what was to be sent.
    sent_bytes: Cell<u64>,
}

impl Stream {
    pub(crate) async fn connect(shard: &Shard, addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&addr.into()) {
            Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let stream = Self::new(shard, socket, addr)?;
        // The kernel tells when it is connected, or when it failed.
        stream.readiness.wrote_nothing();
        poll_fn(|cx| stream.readiness.poll_writable(cx)).await;
        match stream.socket.take_error()? {
            Some(error) => Err(error),
            None => {
                stream.socket.set_tcp_nodelay(true)?;
                Ok(stream)
            }
        }
    }

    pub(crate) fn from_accepted(shard: &Shard, fd: OwnedFd, peer: SocketAddr) -> io::Result<Self> {
        Self::new(shard, fd.into(), peer)
    }

    fn new(shard: &Shard, socket: Socket, peer: SocketAddr) -> io::Result<Self> {
        let readiness = shard.poller.register(socket.as_fd())?;
        Ok(Self { readiness, socket, peer, sent_bytes: Cell::new(0) })
    }

    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        local_addr(&self.socket)
    }

    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.get()
    }

    pub(crate) fn poll_read(&self, cx: &Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_recv(cx, as_uninit(buf))
    }

    fn poll_recv(&self, cx: &Context<'_>, buf: &mut [MaybeUninit<u8>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.readiness.poll_readable(cx));
            match self.socket.recv_with_flags(buf, MSG_DONTWAIT) {
                Ok(read) => {
                    if read < buf.len() && read > 0 {
                        self.readiness.read_short();
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readiness.read_nothing(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Sends with `send` as soon as the socket takes anything.
    fn poll_send(
        &self,
        cx: &Context<'_>,
        send: impl Fn(&Socket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.readiness.poll_writable(cx));
            match send(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readiness.wrote_nothing(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    pub(crate) fn poll_write(&self, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |socket| socket.send_with_flags(bytes, SEND_FLAGS))
    }

    pub(crate) async fn read_buf(&self, buf: &mut BytesMut) -> io::Result<usize> {
        poll_fn(|cx| {
            let spare = buf.chunk_mut();
            // SAFETY: uninitialised bytes may be seen as such, and recv initialises what it says.
            let spare = unsafe { spare.as_uninit_slice_mut() };
            let len = spare.len();
            let read = ready!(self.poll_recv(cx, spare))?;
            assert!(read <= len, "recv returns at most what it was given room for");
            // SAFETY: recv initialised that many bytes.
            unsafe { buf.advance_mut(read) };
            Poll::Ready(Ok(read))
        })
        .await
    }

    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match poll_fn(|cx| self.poll_write(cx, bytes)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => bytes = &bytes[written..],
            }
        }
        Ok(())
    }

    /// Sends all parts, many in one call.
    pub(crate) async fn write_vectored_all(&self, parts: &[Bytes]) -> io::Result<()> {
        let mut parts = parts;
        // Bytes of the first part that are sent already.
        let mut sent = 0;
        while let Some(first) = parts.first() {
            if sent == first.len() {
                parts = &parts[1..];
                sent = 0;
                continue;
            }
            let slices: SmallVec<[IoSlice<'_>; 8]> = std::iter::once(&first[sent..])
                .chain(parts[1..].iter().map(|part| &part[..]))
                .take(PARTS_MAX)
                .map(IoSlice::new)
                .collect();
            let send = |socket: &Socket| socket.send_vectored_with_flags(&slices, SEND_FLAGS);
            let mut written = poll_fn(|cx| self.poll_send(cx, send)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.sent_bytes.set(self.sent_bytes.get() + written as u64);
            while written > 0 {
                let left = parts[0].len() - sent;
                if written < left {
                    sent += written;
                    break;
                }
                written -= left;
                sent = 0;
                parts = &parts[1..];
            }
        }
        Ok(())
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }
}

fn as_uninit(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the same layout; recv only writes initialised bytes.
    unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>]) }
}
