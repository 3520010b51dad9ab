//! TCP on glommio: readiness through io_uring, the bytes through ordinary non-blocking calls.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener as GlommioListener, TcpStream as GlommioStream};
use nix::libc::{MSG_DONTWAIT, MSG_NOSIGNAL};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::fs::plain;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// Parts of one `sendmsg`: the kernel takes up to 1,024.
const PARTS_MAX: usize = 64;

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
    /// Borrowed for the time of one poll only.
    inner: RefCell<GlommioStream>,
    fd: RawFd,
    peer: SocketAddr,
    /// What the kernel took of what was to be sent.
    sent_bytes: Cell<u64>,
}

impl Stream {
    pub(crate) async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let inner = GlommioStream::connect(addr).await.map_err(plain)?;
        inner.set_nodelay(true).map_err(plain)?;
        Ok(Self::new(inner, addr))
    }

    pub(crate) fn from_accepted(fd: OwnedFd, peer: SocketAddr) -> Self {
        // SAFETY: the descriptor is a connected TCP socket, and its ownership goes along.
        Self::new(unsafe { GlommioStream::from_raw_fd(fd.into_raw_fd()) }, peer)
    }

    fn new(inner: GlommioStream, peer: SocketAddr) -> Self {
        let fd = inner.as_raw_fd();
        Self { inner: RefCell::new(inner), fd, peer, sent_bytes: Cell::new(0) }
    }

    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.borrow().local_addr().map_err(plain)
    }

    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.get()
    }

    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.inner.borrow_mut()).poll_read(cx, buf)
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.inner.borrow_mut()).poll_write(cx, bytes)
    }

    pub(crate) async fn read_buf(&self, buf: &mut BytesMut) -> io::Result<usize> {
        poll_fn(|cx| {
            let spare = buf.chunk_mut();
            // SAFETY: glommio hands the slice to recv(2), which writes to it and reads nothing, so
            // that it need not be initialised; nobody else sees it before `advance_mut`.
            let spare = unsafe { std::slice::from_raw_parts_mut(spare.as_mut_ptr(), spare.len()) };
            let len = spare.len();
            let read = ready!(self.poll_read(cx, spare))?;
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

    /// Sends all parts. What fits goes out in one call for many parts; when the socket is full,
    /// glommio waits for room (it can do that only by writing one part).
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
            let slices: Vec<IoSlice<'_>> = std::iter::once(&first[sent..])
                .chain(parts[1..].iter().map(|part| &part[..]))
                .take(PARTS_MAX)
                .map(IoSlice::new)
                .collect();
            let socket = borrow(self.fd);
            let now = SockRef::from(&socket).send_vectored_with_flags(&slices, MSG_DONTWAIT | MSG_NOSIGNAL);
            let mut written = match now {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|cx| self.poll_write(cx, &first[sent..])).await?
                }
                other => other?,
            };
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
        let socket = borrow(self.fd);
        SockRef::from(&socket).shutdown(how)
    }
}
