//! TEMP runtime face
#![allow(missing_docs, async_fn_in_trait, clippy::all)]
pub mod task {
    use std::future::Future;
    pub enum Class { Journal, Serve, Read, Background }
    pub fn spawn(_f: impl Future<Output = ()> + 'static) { unimplemented!() }
    pub fn spawn_in(_c: Class, _f: impl Future<Output = ()> + 'static) { unimplemented!() }
}
pub mod time {
    use std::time::Duration;
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Instant(u64);
    impl Instant {
        pub fn now() -> Self { Self(0) }
        pub fn elapsed(self) -> Duration { Duration::ZERO }
        pub fn saturating_duration_since(self, _e: Self) -> Duration { Duration::ZERO }
        pub fn as_nanos(self) -> u64 { 0 }
    }
    impl std::ops::Add<Duration> for Instant { type Output = Self; fn add(self, _: Duration) -> Self { self } }
    #[derive(Debug)]
    pub struct Elapsed;
    pub async fn sleep(_d: Duration) { unimplemented!() }
    pub async fn timeout<F: Future>(_d: Duration, _f: F) -> Result<F::Output, Elapsed> { unimplemented!() }
}
pub mod rand { pub fn u64() -> u64 { 4 } pub fn below(_n: u64) -> u64 { 4 } }
pub mod net {
    use std::{io, net::{SocketAddr, Shutdown}};
    use bytes::{Bytes, BytesMut};
    pub struct TcpListener;
    impl TcpListener {
        pub fn bind(_a: SocketAddr, _reuse_port: bool) -> io::Result<Self> { unimplemented!() }
        pub fn local_addr(&self) -> SocketAddr { unimplemented!() }
        pub async fn accept(&self) -> io::Result<Accepted> { unimplemented!() }
    }
    pub struct Accepted;
    impl Accepted { pub fn peer_addr(&self) -> SocketAddr { unimplemented!() } pub fn into_stream(self) -> TcpStream { unimplemented!() } }
    pub struct TcpStream(std::rc::Rc<()>);
    impl futures_lite::io::AsyncRead for TcpStream { fn poll_read(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>, _: &mut [u8]) -> std::task::Poll<io::Result<usize>> { unimplemented!() } }
    impl futures_lite::io::AsyncWrite for TcpStream {
        fn poll_write(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>, _: &[u8]) -> std::task::Poll<io::Result<usize>> { unimplemented!() }
        fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> { unimplemented!() }
        fn poll_close(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> { unimplemented!() }
    }
    pub struct ReadHalf(std::rc::Rc<()>);
    pub struct WriteHalf(std::rc::Rc<()>);
    impl TcpStream { pub fn peer_addr(&self) -> SocketAddr { unimplemented!() } pub fn split(self) -> (ReadHalf, WriteHalf) { unimplemented!() } }
    impl ReadHalf { pub async fn read_buf(&self, _b: &mut BytesMut) -> io::Result<usize> { unimplemented!() } }
    impl WriteHalf {
        pub async fn write_all(&self, _b: &[u8]) -> io::Result<()> { unimplemented!() }
        pub async fn write_vectored_all(&self, _b: &[Bytes]) -> io::Result<()> { unimplemented!() }
        pub fn shutdown(&self, _h: Shutdown) -> io::Result<()> { unimplemented!() }
    }
}
