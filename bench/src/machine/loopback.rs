//! TCP between two shards of one process, over the loopback device: what a connection of a client
//! on the same machine can be at best.

use std::cell::RefCell;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use corelog_runtime::mesh::Mesh;
use corelog_runtime::net::{Accepted, TcpListener, TcpStream};
use corelog_runtime::shards::stop_signal;
use corelog_runtime::task::{Class, spawn_in};
use corelog_runtime::time::Instant;
use futures_util::future::{Either, select};

use super::{Clock, Pattern, Plan, Recorder};

const MESSAGE_BYTES: usize = 100;
/// Room for one read, as a node's connections have it.
const READ_BYTES: usize = 256 << 10;

/// Every cell, in order.
pub(super) const PLANS: [Plan; 3] = [
    Plan { pattern: Pattern::Stream, block_bytes: 64 << 10, depth: 1 },
    Plan { pattern: Pattern::Stream, block_bytes: 1 << 20, depth: 1 },
    Plan { pattern: Pattern::RoundTrip, block_bytes: MESSAGE_BYTES, depth: 1 },
];

/// What the first shard wants of the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Where it listens.
    Address,
    /// Nothing more.
    End,
}

/// The first byte of a connection.
const COUNT: u8 = b'c';
const ECHO: u8 = b'e';

/// The second shard: listens and serves until the first has had enough.
pub(super) async fn serve(mesh: &Mesh<Ask, SocketAddr>) -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), false)?;
    let address = listener.local_addr();
    let failed = Rc::new(RefCell::new(None));
    let failure = Rc::clone(&failed);
    // Ends with the executor.
    spawn_in(Class::Serve, async move {
        loop {
            let served = match listener.accept().await.and_then(Accepted::into_stream) {
                Ok(stream) => answer(&stream).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = served {
                *failure.borrow_mut() = Some(error);
            }
        }
    });
    let stop = stop_signal();
    loop {
        let next = std::pin::pin!(mesh.next());
        match select(next, std::pin::pin!(stop.wait())).await {
            Either::Left((Some(incoming), _)) if incoming.q == Ask::Address => {
                if let Some(reply) = incoming.reply {
                    reply.send(address);
                }
            }
            Either::Left(_) | Either::Right(_) => break,
        }
    }
    mesh.close();
    match failed.borrow_mut().take() {
        // The other end of what was interrupted.
        Some(error) if !stop.is_raised() => Err(error),
        Some(_) | None => Ok(()),
    }
}

/// Lets the second shard end.
pub(super) fn end(mesh: &Mesh<Ask, SocketAddr>) {
    mesh.cast(1, Ask::End);
}

async fn answer(stream: &TcpStream) -> Result<()> {
    let mut buf = BytesMut::with_capacity(READ_BYTES);
    let mut kind = None;
    let mut count = 0_u64;
    loop {
        buf.reserve(READ_BYTES);
        let read = stream.read_buf(&mut buf).await?;
        if read == 0 {
            break;
        }
        if kind.is_none() {
            kind = buf.first().copied();
            let _first = buf.split_to(1);
        }
        match kind {
            Some(ECHO) => {
                while buf.len() >= MESSAGE_BYTES {
                    let message = buf.split_to(MESSAGE_BYTES);
                    stream.write_all(&message).await?;
                }
            }
            Some(COUNT) => {
                count += buf.len() as u64;
                buf.clear();
            }
            _ => bail!("a connection of somebody else"),
        }
    }
    Ok(stream.write_all(&count.to_le_bytes()).await?)
}

/// The first shard: measures all cells.
pub(super) async fn run(mesh: &Mesh<Ask, SocketAddr>, recorder: &Recorder) -> Result<()> {
    let address = mesh.call(1, Ask::Address).await.context("the other shard ended")?;
    for plan in PLANS {
        let stream = TcpStream::connect(address).await?;
        let kind = if plan.pattern == Pattern::RoundTrip { ECHO } else { COUNT };
        stream.write_all(&[kind]).await?;
        let clock = recorder.begin(plan)?;
        match plan.pattern {
            Pattern::RoundTrip => round_trips(&stream, &clock).await?,
            _ => one_way(&stream, plan, &clock).await?,
        }
        recorder.end(plan, &clock);
    }
    Ok(())
}

/// Until everything has arrived: the count of the other side is what ends the cell.
async fn one_way(stream: &TcpStream, plan: Plan, clock: &Clock) -> Result<()> {
    let block = vec![0x5a; plan.block_bytes];
    let mut sent = 0;
    while !clock.is_over() {
        let begun = Instant::now();
        stream.write_all(&block).await?;
        clock.record(begun);
        sent += block.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let arrived = read_exactly(stream, 8).await?;
    ensure!(arrived[..] == sent.to_le_bytes(), "bytes were lost on the way");
    Ok(())
}

async fn round_trips(stream: &TcpStream, clock: &Clock) -> Result<()> {
    let message = [0x5a; MESSAGE_BYTES];
    while !clock.is_over() {
        let begun = Instant::now();
        stream.write_all(&message).await?;
        let back = read_exactly(stream, MESSAGE_BYTES).await?;
        clock.record(begun);
        ensure!(back[..] == message, "a message changed on the way");
    }
    Ok(stream.shutdown(Shutdown::Write)?)
}

async fn read_exactly(stream: &TcpStream, len: usize) -> Result<BytesMut> {
    let mut buf = BytesMut::with_capacity(len);
    while buf.len() < len {
        ensure!(stream.read_buf(&mut buf).await? > 0, "the other side closed the connection");
    }
    Ok(buf)
}
