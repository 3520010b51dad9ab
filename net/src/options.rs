//! What an operator can set about connections, and the limits that hold when nobody sets anything.

use std::net::SocketAddr;
use std::time::Duration;

/// A place where clients can connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerOptions {
    /// Its name. A client is told, of every node, the listener by whose name it came in.
    pub name: String,
    /// Where this node listens. Port 0 lets the system choose.
    pub bind: SocketAddr,
}

/// Which program this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildInfo {
    /// Its version.
    pub version: String,
    /// The sources that it was built from.
    pub revision: String,
}

impl Default for BuildInfo {
    fn default() -> Self {
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), revision: "unknown".to_owned() }
    }
}

/// Limits and behaviour of the network side of one node.
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// Where Kafka clients connect; at least one.
    pub listeners: Vec<ListenerOptions>,
    /// Where `/healthz`, `/metrics` and the console answer, if anywhere.
    pub http: Option<SocketAddr>,
    /// Whether the console and what it shows are answered there, too.
    pub console: bool,
    /// The largest request frame, in bytes (`socket.request.max.bytes`).
    pub max_frame_bytes: usize,
    /// The most connections of this node, over all listeners (`max.connections`).
    pub max_connections: usize,
    /// What the kernel holds for a client that has not taken it, in bytes (`socket.send.buffer.bytes`);
    /// `None` is what it finds out by itself.
    pub send_buffer_bytes: Option<usize>,
    /// Bytes of request frames that one shard holds before it stops reading
    /// (`queued.max.request.bytes`, but by shard).
    pub request_memory_bytes: usize,
    /// Bytes of fetched batches that one shard may have waiting to be written to clients.
    pub response_memory_bytes: usize,
    /// Requests of one connection that may wait for their answers before it is read again.
    pub max_in_flight: usize,
    /// A connection without traffic is closed after this (`connections.max.idle.ms`).
    pub idle_timeout: Duration,
    /// At a graceful stop, answers in flight have this long.
    pub stop_timeout: Duration,
    /// Whether asking for the metadata of an unknown topic creates it
    /// (`auto.create.topics.enable`), when the client wants that too.
    pub auto_create_topics: bool,
    /// Fetch sessions kept by one shard (`max.incremental.fetch.session.cache.slots`).
    pub fetch_session_slots: usize,
    /// Read-only broker configs shown by DescribeConfigs besides those that follow from the
    /// fields above: name and value.
    pub shown_configs: Vec<(String, String)>,
    /// What the metrics say about the program.
    pub build: BuildInfo,
}

/// A fetch response carries at most so many bytes of batches, whatever the client asks
/// (the first batch excepted).
pub const FETCH_RESPONSE_BYTES_MAX: usize = 8 << 20;

/// As much as a client on the same network takes in a fraction of a millisecond. A larger buffer lets a shard
/// spend milliseconds on one answer, while others wait.
const SEND_BUFFER_BYTES: usize = 128 << 10;

impl Default for NetOptions {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            http: None,
            console: true,
            max_frame_bytes: 100 << 20,
            max_connections: 20_000,
            send_buffer_bytes: Some(SEND_BUFFER_BYTES),
            request_memory_bytes: 128 << 20,
            response_memory_bytes: 64 << 20,
            max_in_flight: 64,
            idle_timeout: Duration::from_secs(600),
            stop_timeout: Duration::from_secs(5),
            auto_create_topics: true,
            fetch_session_slots: 1000,
            shown_configs: Vec::new(),
            build: BuildInfo::default(),
        }
    }
}
