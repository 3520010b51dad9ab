//! TCP on the real backend; the simulator says that it has none.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use corelog_runtime::net::{Accepted, TcpListener, TcpStream};
use corelog_runtime::shards::{self, Options, ShardContext};
use corelog_runtime::task::{self, Class};
use corelog_runtime::{sim, time};
use futures_lite::{AsyncReadExt, AsyncWriteExt};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn on_shards<Q, A, F, Fut>(count: usize, body: F)
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Fn(ShardContext<Q, A>) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let options = Options { shards: count, ..Options::default() };
    shards::run(options, move |context| {
        let done = body(context);
        async move {
            done.await;
            Ok::<(), String>(())
        }
    })
    .unwrap();
}

async fn read_to_end(stream: &TcpStream, room: usize) -> BytesMut {
    let mut all = BytesMut::new();
    loop {
        all.reserve(room);
        if stream.read_buf(&mut all).await.unwrap() == 0 {
            return all;
        }
    }
}

#[test]
fn large_parts_arrive_whole_and_in_order_while_both_directions_are_busy() {
    on_shards(1, |_: ShardContext<(), ()>| async {
        let listener = TcpListener::bind(ANY_PORT, true).unwrap();
        let addr = listener.local_addr();
        let parts: Vec<Bytes> =
            (0..200_usize).map(|i| Bytes::from(vec![i as u8; [0, 1, 100, 70_000][i % 4]])).collect();
        let expected = parts.concat();
        let echo = task::spawn_join(Class::Serve, async move {
            let (reader, writer) = listener.accept().await.unwrap().into_stream().unwrap().split();
            let mut buf = BytesMut::new();
            loop {
                buf.reserve(64 * 1024);
                if reader.read_buf(&mut buf).await.unwrap() == 0 {
                    return;
                }
                writer.write_all(&buf.split()).await.unwrap();
            }
        });
        let stream = TcpStream::connect(addr).await.unwrap();
        assert_eq!(stream.peer_addr(), addr);
        let (reader, writer) = stream.split();
        let sender = task::spawn_join(Class::Serve, async move {
            writer.write_vectored_all(&parts).await.unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = BytesMut::new();
        loop {
            back.reserve(4_096);
            if reader.read_buf(&mut back).await.unwrap() == 0 {
                break;
            }
        }
        assert!(back == expected, "{} of {} bytes", back.len(), expected.len());
        sender.await;
        echo.await;
    });
}

#[test]
fn an_accepted_connection_moves_to_another_shard() {
    on_shards(2, |context: ShardContext<Accepted, ()>| async move {
        if context.shard == 1 {
            let incoming = context.mesh.next().await.unwrap();
            let peer = incoming.q.peer_addr();
            let stream = incoming.q.into_stream().unwrap();
            assert_eq!(stream.peer_addr(), peer);
            stream.write_all(b"from shard 1").await.unwrap();
            return;
        }
        let listener = TcpListener::bind(ANY_PORT, false).unwrap();
        let client = TcpStream::connect(listener.local_addr()).await.unwrap();
        let accepted = listener.accept().await.unwrap();
        assert_eq!(accepted.peer_addr(), client.local_addr().unwrap());
        context.mesh.cast(1, accepted);
        assert_eq!(read_to_end(&client, 5).await, b"from shard 1"[..]);
    });
}

#[test]
fn a_smaller_send_buffer_takes_less_for_who_does_not_read() {
    on_shards(1, |_: ShardContext<(), ()>| async {
        let listener = TcpListener::bind(ANY_PORT, false).unwrap();
        let mut taken = Vec::new();
        for bytes in [16 << 10, 96 << 10] {
            let _client = TcpStream::connect(listener.local_addr()).await.unwrap();
            let accepted = listener.accept().await.unwrap();
            accepted.set_send_buffer(bytes).unwrap();
            let (_, writer) = accepted.into_stream().unwrap().split();
            let write = writer.write_all(&[7; 16 << 20]);
            assert!(time::timeout(Duration::from_millis(200), write).await.is_err(), "nobody reads");
            taken.push(writer.sent_bytes());
        }
        assert!(taken[0] + (64 << 10) < taken[1], "{taken:?}");
    });
}

#[test]
fn listeners_share_a_port_only_when_told_so() {
    on_shards(1, |_: ShardContext<(), ()>| async {
        let first = TcpListener::bind(ANY_PORT, true).unwrap();
        let _second = TcpListener::bind(first.local_addr(), true).unwrap();
        let alone = TcpListener::bind(ANY_PORT, false).unwrap();
        let refused = TcpListener::bind(alone.local_addr(), false).err().unwrap();
        assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse);
    });
}

#[test]
fn a_probe_finds_whoever_listens_and_only_them() {
    on_shards(1, |_: ShardContext<(), ()>| async {
        let free = TcpListener::probe(ANY_PORT).unwrap();
        assert_ne!(free.port(), 0);
        let shared = TcpListener::bind(free, true).unwrap();
        assert_eq!(TcpListener::probe(free).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        // What the listener accepted outlives it, as in a process that was killed.
        let client = TcpStream::connect(free).await.unwrap();
        let accepted = shared.accept().await.unwrap();
        drop(shared);
        assert_eq!(TcpListener::probe(free).unwrap(), free);
        TcpListener::bind(free, true).unwrap();
        drop((client, accepted));
    });
}

#[test]
fn a_stream_serves_as_futures_io() {
    on_shards(1, |_: ShardContext<(), ()>| async {
        let listener = TcpListener::bind(ANY_PORT, true).unwrap();
        let mut client = TcpStream::connect(listener.local_addr()).await.unwrap();
        let mut server = listener.accept().await.unwrap().into_stream().unwrap();
        client.write_all(b"ping").await.unwrap();
        client.close().await.unwrap();
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"ping");
        let nobody = listener.local_addr();
        drop(listener);
        assert!(TcpStream::connect(nobody).await.is_err());
    });
}

#[test]
fn the_simulator_has_no_network() {
    sim::block_on(1, async {
        let bound = TcpListener::bind(ANY_PORT, true).err().unwrap();
        assert_eq!(bound.kind(), std::io::ErrorKind::Unsupported);
        let connected = TcpStream::connect(ANY_PORT).await.err().unwrap();
        assert_eq!(connected.kind(), std::io::ErrorKind::Unsupported);
    });
}
