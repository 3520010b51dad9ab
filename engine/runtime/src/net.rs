//! TCP. The simulator has no network: everything here answers `Unsupported` there.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_lite::io::{AsyncRead, AsyncWrite};

use crate::ctx::{Current, current};
use crate::real;

fn real_only() -> io::Result<Rc<real::Shard>> {
    match current() {
        Current::Real(shard) => Ok(shard),
        Current::Sim(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Accepts connections.
pub struct TcpListener(real::net::Listener);

impl TcpListener {
    /// Listens on `addr`. With `reuse_port` every shard may listen on the same port, and the kernel
    /// spreads the connections.
    ///
    /// # Errors
    /// What the operating system says; `Unsupported` in the simulator.
    pub fn bind(addr: SocketAddr, reuse_port: bool) -> io::Result<Self> {
        real_only()?;
        Ok(Self(real::net::Listener::bind(addr, reuse_port)?))
    }

    /// Finds out whether `addr` is free, without listening there. Gives it back with the port that
    /// was chosen if that was 0. A port that may be shared is shared with whoever else may: this is
    /// how the first shard of a node makes sure that it is nobody's yet.
    ///
    /// # Errors
    /// `AddrInUse` if anybody listens there; what else the operating system says; `Unsupported` in
    /// the simulator.
    pub fn probe(addr: SocketAddr) -> io::Result<SocketAddr> {
        real_only()?;
        real::net::Listener::probe(addr)
    }

    /// The address that it listens on: with the port that was chosen if that was 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr()
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// What the operating system says: running out of file descriptors must not end the loop.
    pub async fn accept(&self) -> io::Result<Accepted> {
        let (fd, peer) = self.0.accept().await?;
        Ok(Accepted { fd, peer })
    }
}

/// A connection that belongs to no shard yet: `Send`, for handing it to another one.
#[derive(Debug)]
pub struct Accepted {
    fd: OwnedFd,
    peer: SocketAddr,
}

impl Accepted {
    /// The other side's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// How much the kernel holds of what was sent and the other side has not taken, instead of what it
    /// finds out by itself. Linux takes about twice of it, for its own bookkeeping, and at most what
    /// `net.core.wmem_max` says.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn set_send_buffer(&self, bytes: usize) -> io::Result<()> {
        socket2::SockRef::from(&self.fd).set_send_buffer_size(bytes)
    }

    /// Makes it a stream of the shard that calls this.
    ///
    /// # Errors
    /// When the operating system cannot watch another connection: its memory, or the limit in
    /// `fs.epoll.max_user_watches`, is used up.
    pub fn into_stream(self) -> io::Result<TcpStream> {
        let shard = real_only()?;
        Ok(TcpStream(Rc::new(real::net::Stream::from_accepted(&shard, self.fd, self.peer)?)))
    }
}

/// A connection with TCP_NODELAY. One task may read while another one writes, see
/// [`TcpStream::split`]; two tasks must not read, or write, at the same time.
pub struct TcpStream(Rc<real::net::Stream>);

impl TcpStream {
    /// Connects to `addr`.
    ///
    /// # Errors
    /// What the operating system says; `Unsupported` in the simulator.
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let shard = real_only()?;
        Ok(Self(Rc::new(real::net::Stream::connect(&shard, addr).await?)))
    }

    /// The other side's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.0.peer_addr()
    }

    /// This side's address.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Reads what is there, at least a byte, into the spare capacity of `buf` (64 bytes are made if
    /// there is none: reserve as much as shall be read). Copied once, by the kernel. 0 is the end.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn read_buf(&self, buf: &mut BytesMut) -> io::Result<usize> {
        self.0.read_buf(buf).await
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// What the operating system says; some bytes may have been sent then.
    pub async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// Writes all of `parts`, in as few system calls as possible and without joining them.
    ///
    /// # Errors
    /// What the operating system says; some bytes may have been sent then.
    pub async fn write_vectored_all(&self, parts: &[Bytes]) -> io::Result<()> {
        self.0.write_vectored_all(parts).await
    }

    /// Ends reading, writing, or both; what waits on them returns.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }

    /// Two halves for two tasks; the connection is closed when both are dropped.
    #[must_use]
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        (ReadHalf(Rc::clone(&self.0)), WriteHalf(self.0))
    }
}

/// The half of a [`TcpStream`] that reads.
pub struct ReadHalf(Rc<real::net::Stream>);

impl ReadHalf {
    /// See [`TcpStream::read_buf`].
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn read_buf(&self, buf: &mut BytesMut) -> io::Result<usize> {
        self.0.read_buf(buf).await
    }

    /// The other side's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.0.peer_addr()
    }

    /// See [`TcpStream::shutdown`].
    ///
    /// # Errors
    /// What the operating system says.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }
}

/// The half of a [`TcpStream`] that writes.
pub struct WriteHalf(Rc<real::net::Stream>);

impl WriteHalf {
    /// See [`TcpStream::write_all`].
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// See [`TcpStream::write_vectored_all`].
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn write_vectored_all(&self, parts: &[Bytes]) -> io::Result<()> {
        self.0.write_vectored_all(parts).await
    }

    /// How many bytes [`WriteHalf::write_vectored_all`] could send so far, also while it waits: the
    /// other side takes them as long as this grows.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.0.sent_bytes()
    }

    /// See [`TcpStream::shutdown`].
    ///
    /// # Errors
    /// What the operating system says.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.poll_read(cx, buf)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shutdown(Shutdown::Write))
    }
}
