//! A broker that only acknowledges: it measures load generators, since it is never what limits
//! them, and tests their verification, since it can be told to do wrong.
//!
//! It speaks enough Kafka for real clients. A produce costs it the parsing of the frame and of the
//! batches' headers, no checksum and no disk; records are forgotten unless it is told to retain
//! some for consumers. Plain threads and blocking sockets, one thread per connection: none of this
//! runs inside a node, on a shard, or in a simulation.
//!
//! | Module | Owns |
//! |---|---|
//! | `connection` | a socket: frames in, answers out, who gets which request |
//! | `produce`, `fetch`, `answers` | what is answered: the two with records, and all others |
//! | `topics`, `log` | which topics there are; offsets and retained batches of a partition |
//! | [`fault`] | the rebuilding of one batch with a fault in it |
//! | `stall` | when answers are held back |

mod answers;
mod connection;
pub mod fault;
mod fetch;
mod log;
mod produce;
mod stall;
mod topics;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use serde::Serialize;
use thiserror::Error;

use connection::Session;
use fault::{Fault, RefusedFault};
use log::ConnectionId;
pub use stall::StallPlan;
use stall::Stalls;
use topics::Topics;

/// Connections at a time; each is a thread.
const CONNECTIONS_MAX: usize = 10_000;
/// Requests are parsed and answered without recursion.
const STACK_BYTES: usize = 256 * 1024;
/// After an error of `accept` that is not the listener's own, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// One record to do wrong with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultPlan {
    /// What to do.
    pub fault: Fault,
    /// To which record, counted from 1 over all topics as they are acknowledged. When the fault
    /// cannot be planted in its batch, it is planted in the next one in which it can.
    pub at_record: u64,
}

/// How a sink runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The one core that it runs on.
    pub core: Option<usize>,
    /// Partitions of a topic that does not say, 1 to 100,000.
    pub partitions: i32,
    /// Bytes of batches that each partition keeps for consumers. Beyond them, what all connected
    /// readers of the partition have read is forgotten, and a produce waits while there is nothing
    /// of that kind: for the time-out of its request, which then fails with `REQUEST_TIMED_OUT`.
    pub retain_bytes: usize,
    /// Needs retained bytes, or nobody would see it.
    pub fault: Option<FaultPlan>,
    /// When it hangs.
    pub stall: Option<StallPlan>,
}

/// What a sink cannot be.
#[derive(Debug, Error)]
pub enum SinkError {
    /// An option out of range, in words.
    #[error("{0}")]
    Option(&'static str),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The core cannot be used.
    #[error("cannot run on core {core}: {error}")]
    Core {
        /// Which.
        core: usize,
        /// Why.
        error: io::Error,
    },
    /// The system gives no thread or no signals.
    #[error("the system refused: {0}")]
    System(#[from] io::Error),
}

/// Something worth telling the user at once.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The fault is there to be found.
    Planted {
        /// Which.
        fault: Fault,
        /// Where.
        topic: String,
        /// Where.
        partition: i32,
        /// Where: of the record, or of the one that follows a dropped one.
        offset: i64,
        /// The record's number overall, from 1.
        record: u64,
    },
    /// The fault is not in the batch of its record; a later one is tried. Said once.
    NotPlanted {
        /// Which.
        fault: Fault,
        /// Why.
        reason: RefusedFault,
    },
    /// Answers are held back.
    Stalled {
        /// How long.
        length: Duration,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Planted { fault, topic, partition, offset, record } => {
                write!(
                    f,
                    "planted {fault} at record {record}: topic {topic} partition {partition} offset {offset}"
                )
            }
            Self::NotPlanted { fault, reason } => {
                write!(f, "cannot plant {fault} yet: {reason}; trying the batches that follow")
            }
            Self::Stalled { length } => write!(f, "holding all answers back for {} ms", length.as_millis()),
        }
    }
}

/// What a sink has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Records acknowledged.
    pub records: u64,
    /// Their batches, in bytes.
    pub bytes: u64,
    /// Produce requests answered.
    pub produces: u64,
    /// Fetch requests answered.
    pub fetches: u64,
    /// All requests answered.
    pub requests: u64,
    /// Connections accepted.
    pub connections: u64,
}

#[derive(Default)]
struct Counters {
    records: AtomicU64,
    bytes: AtomicU64,
    produces: AtomicU64,
    fetches: AtomicU64,
    requests: AtomicU64,
    connections: AtomicU64,
}

fn add(counter: &AtomicU64, number: u64) -> u64 {
    counter.fetch_add(number, Ordering::Relaxed)
}

/// What all connections share.
struct Shared {
    options: Options,
    topics: Topics,
    trap: Option<produce::Trap>,
    stalls: Stalls,
    arrivals: fetch::Arrivals,
    counters: Counters,
    producer_ids: AtomicU64,
    stopping: AtomicBool,
    open: Mutex<BTreeMap<ConnectionId, (TcpStream, JoinHandle<()>)>>,
    notify: Box<dyn Fn(Event) + Send + Sync>,
}

impl Shared {
    fn new(options: Options, notify: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self {
            topics: Topics::new(options.partitions),
            trap: options.fault.map(produce::Trap::new),
            stalls: Stalls::new(options.stall),
            options,
            arrivals: fetch::Arrivals::default(),
            counters: Counters::default(),
            producer_ids: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            open: Mutex::default(),
            notify: Box::new(notify),
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn summary(&self) -> Summary {
        let Counters { records, bytes, produces, fetches, requests, connections } = &self.counters;
        let [records, bytes, produces, fetches, requests, connections] =
            [records, bytes, produces, fetches, requests, connections].map(|it| it.load(Ordering::Relaxed));
        Summary { records, bytes, produces, fetches, requests, connections }
    }
}

/// A running sink.
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Sink {
    /// Starts it. `notify` is called from its threads.
    ///
    /// # Errors
    /// See [`SinkError`].
    pub fn start(
        options: Options,
        notify: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Self, SinkError> {
        options.check()?;
        let listen = options.listen;
        let failed = |error| SinkError::Listen { address: listen, error };
        let listener = TcpListener::bind(listen).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let core = options.core;
        let shared = Arc::new(Shared::new(options, notify));
        let (pinned, is_pinned) = std::sync::mpsc::sync_channel(1);
        let for_acceptor = Arc::clone(&shared);
        let acceptor = thread::Builder::new().name("sink-accept".to_owned()).spawn(move || {
            // The threads of connections inherit this one's core.
            let outcome = core.map_or(Ok(()), pin);
            let go_on = outcome.is_ok();
            if pinned.send(outcome).is_ok() && go_on {
                accept(&listener, &for_acceptor);
            }
        })?;
        let sink = Self { address, shared, acceptor: Some(acceptor) };
        let outcome = is_pinned.recv().map_err(io::Error::other)?;
        match (outcome, core) {
            (Err(error), Some(core)) => Err(SinkError::Core { core, error }),
            _ => Ok(sink),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has done so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.shared.summary()
    }

    /// Closes everything, and says what was done.
    #[must_use]
    pub fn stop(mut self) -> Summary {
        self.close();
        self.summary()
    }

    fn close(&mut self) {
        let Some(acceptor) = self.acceptor.take() else {
            return;
        };
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, unless it has ended and with it the listener.
        let _ = TcpStream::connect(self.address);
        let _ = acceptor.join();
        for topic in self.shared.topics.all() {
            topic.partitions.iter().for_each(log::Partition::close);
        }
        self.shared.arrivals.wake_all();
        let open = std::mem::take(&mut *lock(&self.shared.open));
        for (stream, _) in open.values() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        for (_, thread) in open.into_values() {
            let _ = thread.join();
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.close();
    }
}

impl Options {
    fn check(&self) -> Result<(), SinkError> {
        if !(1..=topics::PARTITIONS_MAX).contains(&self.partitions) {
            return Err(SinkError::Option("a topic has 1 to 100,000 partitions"));
        }
        if let Some(fault) = self.fault {
            if fault.at_record == 0 {
                return Err(SinkError::Option("records are counted from 1"));
            }
            if self.retain_bytes == 0 {
                return Err(SinkError::Option(
                    "a fault is seen only by who reads the records: it needs retained bytes",
                ));
            }
        }
        if let Some(stall) = self.stall {
            if stall.length.is_zero() {
                return Err(SinkError::Option("a stall must last longer than 0 ms"));
            }
            if stall.every.is_some_and(|every| every <= stall.length) {
                return Err(SinkError::Option("a stall must end before the next one begins"));
            }
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Accepts until the sink stops.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.is_stopping() {
            return;
        }
        let started = accepted.and_then(|(stream, peer)| start_session(shared, stream, peer));
        if let Err(error) = started {
            tracing::warn!(%error, "a connection was not accepted");
            thread::sleep(ACCEPT_PAUSE);
        }
    }
}

fn start_session(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    let mut open = lock(&shared.open);
    // Those that have ended are taken off here, so that their threads are not waited for at the end.
    open.retain(|_, (_, thread)| !thread.is_finished());
    if open.len() >= CONNECTIONS_MAX {
        return Err(io::Error::other("there are too many connections"));
    }
    stream.set_nodelay(true)?;
    let id = add(&shared.counters.connections, 1);
    let mut session = Session::new(Arc::clone(shared), id, stream.try_clone()?)?;
    let thread =
        thread::Builder::new().name(format!("sink-{id}")).stack_size(STACK_BYTES).spawn(move || {
            if let Err(hangup) = session.run() {
                tracing::warn!(%peer, %hangup, "connection closed");
            }
            session.close();
        })?;
    open.insert(id, (stream, thread));
    Ok(())
}

/// Runs a sink until SIGINT or SIGTERM; `ready` is told where it listens. To be called before the
/// process has other threads, since a signal goes to any thread that does not block it.
///
/// # Errors
/// See [`SinkError`].
pub fn run_until_signal(
    options: Options,
    notify: impl Fn(Event) + Send + Sync + 'static,
    ready: impl FnOnce(SocketAddr),
) -> Result<Summary, SinkError> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    signals.thread_block().map_err(io::Error::from)?;
    let sink = Sink::start(options, notify)?;
    ready(sink.address());
    signals.wait().map_err(io::Error::from)?;
    Ok(sink.stop())
}
