//! What the connections of one shard share: the engine, the options, budgets, sessions, counters.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use corelog_engine::engine::Engine;
use corelog_runtime::rate::RateLimit;
use tokio::sync::Notify;

use crate::budget::ResponseBudget;
use crate::connection::{Client, Conversation};
use crate::frame::RequestBudget;
use crate::metrics::ShardCounters;
use crate::options::NetOptions;
use crate::server::NodeNet;
use crate::sessions::{EVICT_AFTER, Sessions};
use crate::signal::Signal;

/// Lines in the log about what clients do wrong, in a second.
const COMPLAINTS_PER_SECOND: u32 = 10;

/// One shard's network side.
pub(crate) struct Service {
    pub(crate) engine: Engine,
    pub(crate) options: NetOptions,
    pub(crate) node: Arc<NodeNet>,
    pub(crate) sessions: RefCell<Sessions>,
    /// Bytes of request frames.
    pub(crate) requests: RequestBudget,
    pub(crate) responses: ResponseBudget,
    /// On when the node is asked to stop.
    pub(crate) stopping: Signal,
    /// Open connections, by a number of this shard's own.
    pub(crate) connections: RefCell<BTreeMap<u64, Rc<Conversation>>>,
    /// Told when a connection ends.
    pub(crate) connection_ended: Notify,
    /// Whether a task looks for idle connections.
    pub(crate) is_sweeping: Cell<bool>,
    complaints: RateLimit,
    next_connection: Cell<u64>,
}

impl Service {
    pub(crate) fn new(engine: Engine, options: NetOptions, node: Arc<NodeNet>) -> Self {
        let requests = RequestBudget::new(options.request_memory_bytes);
        let responses = ResponseBudget::new(options.response_memory_bytes);
        node.watch_memory(engine.shard(), requests.clone(), responses.outstanding());
        Self {
            sessions: RefCell::new(Sessions::new(options.fetch_session_slots, EVICT_AFTER)),
            requests,
            responses,
            stopping: Signal::default(),
            connections: RefCell::default(),
            connection_ended: Notify::new(),
            is_sweeping: Cell::new(false),
            complaints: RateLimit::new(COMPLAINTS_PER_SECOND),
            next_connection: Cell::new(0),
            engine,
            options,
            node,
        }
    }

    /// This shard's counters.
    pub(crate) fn counters(&self) -> &ShardCounters {
        self.node.counters(self.engine.shard())
    }

    /// Whether a line may say what a client does wrong: one for each connection, and not too many
    /// in all. Gives how many were not written since the last.
    pub(crate) fn may_complain(&self, client: &Client) -> Option<u64> {
        let is_first = !client.is_known_bad.replace(true);
        is_first.then(|| self.complaints.pass()).flatten()
    }

    /// A number for a new connection.
    pub(crate) fn draw_connection(&self) -> u64 {
        let number = self.next_connection.get();
        self.next_connection.set(number + 1);
        number
    }
}
