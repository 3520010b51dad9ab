//! The network side of a node: one [`Server`] per shard.
//!
//! Every shard listens on every port (`SO_REUSEPORT`). A connection goes to the shard with the
//! fewest, since the kernel's hash leaves cores empty when clients are few; there it stays. Nothing
//! here waits for a client.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use corelog_engine::engine::Engine;
use corelog_engine::shard::MemoryUse;
use corelog_runtime::net::{Accepted, TcpListener};
use corelog_runtime::task::{self, Class};
use corelog_runtime::time;
use futures_util::future::{Either, select};
use tokio::sync::watch;

use crate::connection;
use crate::frame::RequestBudget;
use crate::http::Http;
use crate::metrics::{NetMemory, ShardCounters};
use crate::options::NetOptions;
use crate::service::Service;
use crate::signal::Signal;

/// After an error of `accept`, such as no free file descriptor.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long a start waits for a port, and how often it looks.
const PORT_PATIENCE: Duration = Duration::from_secs(2);
const PORT_RETRY: Duration = Duration::from_millis(5);
/// A connection that is idle for too long is noticed within this part of the idle time-out.
const IDLE_SWEEPS: u32 = 10;
/// How long connections that were cut off at the stop may take to notice.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a shard does not listen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ServerError {
    /// Somebody else listens there, or the address is not this machine's.
    #[error("cannot listen on {address} ({purpose}): {reason}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What for.
        purpose: String,
        /// What the operating system says, and what to do about it.
        reason: String,
    },
    /// There has to be a listener for clients.
    #[error("no listener is configured")]
    NoListener,
    /// Shard 0 does not listen, so that this one does not either.
    #[error("shard 0 could not listen")]
    OtherShard,
}

/// Where a node listens, with the ports that the system chose for 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// One per configured listener, in order.
    pub listeners: Vec<SocketAddr>,
    /// The HTTP endpoint.
    pub http: Option<SocketAddr>,
}

/// What tells how much memory a shard's connections hold.
struct WatchedMemory {
    /// Bytes of request frames.
    requests: RequestBudget,
    /// Bytes of fetched batches on their way out.
    responses: Arc<AtomicUsize>,
}

/// What the network sides of one node's shards share. Made once, before the shards.
pub struct NodeNet {
    counters: Vec<ShardCounters>,
    /// Open connections by shard, those on their way to it included.
    open: Vec<AtomicUsize>,
    /// By shard, once it serves.
    memory: Vec<OnceLock<WatchedMemory>>,
    /// Published by shard 0.
    addresses: watch::Sender<Option<Result<Addresses, ServerError>>>,
}

impl NodeNet {
    /// For a node of that many shards.
    pub fn new(shards: usize) -> Arc<Self> {
        Arc::new(Self {
            counters: std::iter::repeat_with(ShardCounters::default).take(shards).collect(),
            open: std::iter::repeat_with(AtomicUsize::default).take(shards).collect(),
            memory: std::iter::repeat_with(OnceLock::new).take(shards).collect(),
            addresses: watch::Sender::new(None),
        })
    }

    pub(crate) fn counters(&self, shard: usize) -> &ShardCounters {
        &self.counters[shard]
    }

    pub(crate) fn all_counters(&self) -> &[ShardCounters] {
        &self.counters
    }

    /// Open connections by shard.
    pub fn connections(&self) -> Vec<usize> {
        self.open.iter().map(|open| open.load(Relaxed)).collect()
    }

    /// From now on [`NodeNet::memory`] knows of that shard. Said once by each.
    pub(crate) fn watch_memory(&self, shard: usize, requests: RequestBudget, responses: Arc<AtomicUsize>) {
        let first = self.memory[shard].set(WatchedMemory { requests, responses });
        assert!(first.is_ok(), "a shard begins to serve once");
    }

    /// What the connections hold, by shard.
    pub(crate) fn memory(&self, options: &NetOptions) -> Vec<NetMemory> {
        let (requests_max, responses_max) = (options.request_memory_bytes, options.response_memory_bytes);
        let shard = |watched: &OnceLock<WatchedMemory>| {
            let watched = watched.get();
            let requests = watched.map_or(0, |it| it.requests.held_bytes());
            let responses = watched.map_or(0, |it| it.responses.load(Relaxed));
            NetMemory {
                requests: MemoryUse { bytes: requests, budget_bytes: requests_max },
                responses: MemoryUse { bytes: responses, budget_bytes: responses_max },
            }
        };
        self.memory.iter().map(shard).collect()
    }

    /// Finds a place for a connection that `shard` accepted; `None` when there are too many.
    fn place(&self, shard: usize, max_connections: usize) -> Option<usize> {
        let open = self.connections();
        if open.iter().sum::<usize>() >= max_connections {
            return None;
        }
        let to = fewest(&open, shard);
        self.open[to].fetch_add(1, Relaxed);
        Some(to)
    }

    fn left(&self, shard: usize) {
        self.open[shard].fetch_sub(1, Relaxed);
    }
}

/// The shard with the fewest connections; `own` if it is one of them.
fn fewest(open: &[usize], own: usize) -> usize {
    let least = open.iter().copied().min().unwrap_or(0);
    match open.get(own) {
        Some(count) if *count == least => own,
        _ => open.iter().position(|count| *count == least).unwrap_or(own),
    }
}

/// One shard's sockets, which listen but from which nothing is accepted yet; except for HTTP, where
/// `/healthz` says that the node is starting.
pub struct Bound {
    listeners: Vec<TcpListener>,
    /// Shard 0 only.
    http: Option<Http>,
    addresses: Addresses,
}

impl Bound {
    /// Listens on every configured address. Called on every shard; the others wait for shard 0,
    /// which finds out whether the ports are free, and chooses one for 0.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub async fn bind(node: &NodeNet, shard: usize, options: &NetOptions) -> Result<Self, ServerError> {
        if shard == 0 {
            let bound = Self::bind_first(options).await;
            let addresses = bound.as_ref().map(|bound| bound.addresses.clone());
            node.addresses.send_replace(Some(addresses.map_err(Clone::clone)));
            return bound;
        }
        let mut published = node.addresses.subscribe();
        let addresses = match published.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Ok(addresses))) => addresses.clone(),
            Ok(Some(Err(_)) | None) | Err(_) => return Err(ServerError::OtherShard),
        };
        let listen = |(address, name): (&SocketAddr, &str)| {
            TcpListener::bind(*address, true).map_err(|error| cannot_listen(*address, name, &error))
        };
        let names = options.listeners.iter().map(|listener| listener.name.as_str());
        let listeners = addresses.listeners.iter().zip(names).map(listen).collect::<Result<_, _>>()?;
        Ok(Self { listeners, http: None, addresses })
    }

    async fn bind_first(options: &NetOptions) -> Result<Self, ServerError> {
        if options.listeners.is_empty() {
            return Err(ServerError::NoListener);
        }
        let mut listeners = Vec::new();
        for listener in &options.listeners {
            // A port that may be shared is shared with another node of the same user, too.
            let bind = || TcpListener::bind(TcpListener::probe(listener.bind)?, true);
            listeners.push(patiently(listener.bind, &listener.name, bind).await?);
        }
        let http = match options.http {
            Some(address) => Some(patiently(address, "http", || TcpListener::bind(address, false)).await?),
            None => None,
        };
        let addresses = Addresses {
            listeners: listeners.iter().map(TcpListener::local_addr).collect(),
            http: http.as_ref().map(TcpListener::local_addr),
        };
        Ok(Self { listeners, http: http.map(Http::start), addresses })
    }

    /// Where this node listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }
}

/// Tries `bind` again while the port is taken. The kernel closes the sockets of a killed process only
/// after its rings are gone, a little after the process itself: whoever restarts a node at once finds
/// its own port taken for that long.
async fn patiently<L>(
    address: SocketAddr,
    purpose: &str,
    bind: impl Fn() -> io::Result<L>,
) -> Result<L, ServerError> {
    let start = time::Instant::now();
    loop {
        match bind() {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < PORT_PATIENCE => {
                time::sleep(PORT_RETRY).await;
            }
            Err(error) => return Err(cannot_listen(address, purpose, &error)),
        }
    }
}

fn cannot_listen(address: SocketAddr, purpose: &str, error: &io::Error) -> ServerError {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "; another process listens there: stop it, or choose another port",
        io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege",
        _ => "",
    };
    ServerError::Bind { address, purpose: purpose.to_owned(), reason: format!("{error}{advice}") }
}

/// One shard's running network side.
/// Dropping it ends the HTTP endpoint.
pub struct Server {
    service: Rc<Service>,
    /// Shard 0 only.
    _http: Option<Http>,
}

impl Server {
    /// Begins to accept connections. The engine has to be in service on this shard.
    pub fn start(engine: Engine, options: NetOptions, node: Arc<NodeNet>, bound: Bound) -> Self {
        let service = Rc::new(Service::new(engine, options, node));
        let taken = Rc::clone(&service);
        service.engine.on_connection(Rc::new(move |accepted, listener| take(&taken, accepted, listener)));
        for (index, listener) in bound.listeners.into_iter().enumerate() {
            task::spawn_in(Class::Serve, accept_all(Rc::clone(&service), listener, index));
        }
        if let Some(http) = &bound.http {
            http.serve(Rc::clone(&service));
        }
        Self { service, _http: bound.http }
    }

    /// Stops accepting, answers what is in flight, and closes all connections. Returns when none
    /// of this shard's is left. HTTP goes on: `/healthz` says that the node is stopping.
    pub async fn stop(&self) {
        let service = &self.service;
        service.stopping.switch_on();
        for connection in service.connections.borrow().values() {
            connection.drain();
        }
        if time::timeout(service.options.stop_timeout, all_ended(service)).await.is_ok() {
            return;
        }
        tracing::warn!(
            connections = service.connections.borrow().len(),
            "connections that did not take their answers in time are cut off"
        );
        for connection in service.connections.borrow().values() {
            connection.abort();
        }
        if time::timeout(ABORT_TIMEOUT, all_ended(service)).await.is_err() {
            tracing::warn!("requests in flight are abandoned");
        }
    }
}

async fn all_ended(service: &Service) {
    loop {
        let ended = service.connection_ended.notified();
        if service.connections.borrow().is_empty() {
            return;
        }
        ended.await;
    }
}

/// Accepts connections on one listener until the node stops.
async fn accept_all(service: Rc<Service>, listener: TcpListener, index: usize) {
    while let Some(accepted) = accept(&service.stopping, &listener).await {
        let shard = service.engine.shard();
        match service.node.place(shard, service.options.max_connections) {
            Some(to) if to == shard => take(&service, accepted, index),
            Some(to) => service.engine.hand_over(to, accepted, index),
            None => {
                service.counters().connection_refused();
                tracing::debug!(peer = %accepted.peer_addr(), "connection refused: there are too many");
            }
        }
    }
}

/// The next connection; `None` once `stop` is on. Errors are not the listener's end: most of
/// them are the connection's, and a lack of file descriptors passes.
pub(crate) async fn accept(stop: &Signal, listener: &TcpListener) -> Option<Accepted> {
    loop {
        let accepted = {
            let accepting = std::pin::pin!(listener.accept());
            match select(accepting, std::pin::pin!(stop.wait())).await {
                Either::Left((accepted, _)) => accepted,
                Either::Right(((), _)) => return None,
            }
        };
        match accepted {
            Ok(accepted) => return Some(accepted),
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Serves a connection that was placed on this shard.
fn take(service: &Rc<Service>, accepted: Accepted, listener: usize) {
    let shard = service.engine.shard();
    if service.stopping.is_on() {
        service.node.left(shard);
        return;
    }
    service.counters().connected();
    let service = Rc::clone(service);
    task::spawn_in(Class::Serve, async move {
        if !service.is_sweeping.replace(true) {
            task::spawn_in(Class::Serve, sweep_idle(Rc::clone(&service)));
        }
        let peer = accepted.peer_addr();
        let sized = service.options.send_buffer_bytes.map_or(Ok(()), |bytes| accepted.set_send_buffer(bytes));
        match sized.and_then(|()| accepted.into_stream()) {
            Ok(stream) => connection::run(Rc::clone(&service), stream, listener).await,
            Err(error) => tracing::warn!(%peer, %error, "connection refused"),
        }
        service.node.left(shard);
    });
}

/// Closes idle connections, as long as there are any connections.
async fn sweep_idle(service: Rc<Service>) {
    let idle_timeout = service.options.idle_timeout;
    loop {
        let pause = std::pin::pin!(time::sleep(idle_timeout / IDLE_SWEEPS));
        select(pause, std::pin::pin!(service.stopping.wait())).await;
        let connections = service.connections.borrow();
        if connections.is_empty() || service.stopping.is_on() {
            service.is_sweeping.set(false);
            return;
        }
        for connection in connections.values().filter(|connection| connection.is_idle_for(idle_timeout)) {
            tracing::debug!(peer = %connection.client.peer, "idle connection closed");
            connection.drain();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use corelog_runtime::sim::{Sim, SimOptions};

    use super::*;

    #[test]
    fn connections_go_to_the_shard_with_the_fewest() {
        assert_eq!(fewest(&[2, 1, 3], 0), 1);
        assert_eq!(fewest(&[1, 1, 1], 2), 2);
        let node = NodeNet::new(3);
        let placed: Vec<_> = (0..6).map(|_| node.place(0, 100).unwrap()).collect();
        assert_eq!(placed, [0, 1, 2, 0, 1, 2]);
        node.left(1);
        assert_eq!(node.place(0, 100), Some(1));
    }

    /// A port that is free at the second look was, too, once in a restart under load.
    #[test]
    fn a_port_that_becomes_free_is_taken_and_one_that_does_not_is_an_error() {
        let address = SocketAddr::from(([127, 0, 0, 1], 9092));
        let sim = Sim::new(1, SimOptions::default());
        sim.run_on(1, async move {
            let looks = Cell::new(0);
            let freed_after = |busy: u32| {
                looks.set(0);
                let looks = &looks;
                move || {
                    looks.set(looks.get() + 1);
                    if looks.get() > busy { Ok(looks.get()) } else { Err(io::ErrorKind::AddrInUse.into()) }
                }
            };
            assert_eq!(patiently(address, "main", freed_after(0)).await.unwrap(), 1);
            assert_eq!(patiently(address, "main", freed_after(7)).await.unwrap(), 8);
            let began = time::Instant::now();
            let error = patiently(address, "main", freed_after(u32::MAX)).await.unwrap_err();
            assert!(error.to_string().contains("another process listens there"), "{error}");
            assert!(began.elapsed() >= PORT_PATIENCE);
            let refused = || Err::<u32, _>(io::ErrorKind::PermissionDenied.into());
            assert!(patiently(address, "main", refused).await.is_err());
        });
    }

    #[test]
    fn there_are_no_more_connections_than_allowed() {
        let node = NodeNet::new(2);
        assert!(node.place(0, 2).is_some());
        assert!(node.place(1, 2).is_some());
        assert_eq!(node.place(0, 2), None);
        node.left(0);
        assert_eq!(node.place(1, 2), Some(0));
    }
}
