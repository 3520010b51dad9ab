//! Which broker leads which partition, for one executor's producers and consumers.

use std::cell::{Cell, RefCell};
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use corelog_net::client::{AutoCreate, Client, Lane};
use corelog_protocol::api::Api;
use corelog_runtime::net::TcpStream;
use corelog_runtime::time;
use uuid::Uuid;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One partition of the run; its place in the list is what the run calls it by.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Place of its topic in [`Routes::topics`].
    pub(super) topic: usize,
    pub(super) partition: i32,
}

pub(super) struct Topic {
    pub(super) name: Rc<str>,
    pub(super) id: Uuid,
}

/// The partitions of a run and their leaders.
pub(super) struct Routes {
    client: Client,
    pub(super) topics: Vec<Topic>,
    pub(super) parts: Vec<Part>,
    leaders: RefCell<Vec<i32>>,
    is_refreshing: Cell<bool>,
}

impl Routes {
    /// Looks up the topics, which must be there.
    pub(super) async fn new(client: Client, names: &[String]) -> Result<Self> {
        let mut topics = Vec::with_capacity(names.len());
        let mut parts = Vec::new();
        for (place, name) in names.iter().enumerate() {
            let topic = client.topic(name, AutoCreate::No).await?;
            let count = topic.partition_count();
            ensure!(count > 0, "topic '{name}' has no partitions");
            topics.push(Topic { name: Rc::clone(&topic.name), id: topic.id });
            parts.extend((0..count).map(|partition| Part { topic: place, partition }));
        }
        let routes =
            Self { client, topics, parts, leaders: RefCell::default(), is_refreshing: Cell::new(false) };
        routes.look_up()?;
        Ok(routes)
    }

    fn look_up(&self) -> Result<()> {
        let leader = |part: &Part| {
            let name = &self.topics[part.topic].name;
            self.client.leader(name, part.partition).map(|(leader, _)| leader)
        };
        *self.leaders.borrow_mut() = self.parts.iter().map(leader).collect::<Result<_, _>>()?;
        Ok(())
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The node that leads a partition, as last seen.
    pub(super) fn leader(&self, part: usize) -> i32 {
        self.leaders.borrow()[part]
    }

    /// Every node that leads any of them.
    pub(super) fn nodes(&self) -> Vec<i32> {
        let mut nodes = self.leaders.borrow().clone();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Asks again who leads. One at a time is enough: the others go on with what was known.
    pub(super) async fn refresh(&self) {
        if self.is_refreshing.replace(true) {
            return;
        }
        let refreshed = self.client.refresh(AutoCreate::No).await;
        self.is_refreshing.set(false);
        if let Err(error) = refreshed.map_err(anyhow::Error::from).and_then(|()| self.look_up()) {
            tracing::debug!(%error, "leaders could not be looked up");
        }
    }

    /// The highest version of `api` within `range` that a node serves.
    pub(super) async fn version(&self, node: i32, api: Api, range: (i16, i16)) -> Result<i16> {
        Ok(self.client.node(node, Lane::Control).await?.pick(api.key(), range.0, range.1)?)
    }

    /// A new connection to a node.
    pub(super) async fn connect(&self, node: i32) -> Result<TcpStream> {
        let address = self.client.metadata().brokers.get(&node).map(|broker| broker.address.clone());
        let address = address.with_context(|| format!("node {node} is not known"))?;
        let resolved = resolve(&address)?;
        let connecting = time::timeout(CONNECT_TIMEOUT, TcpStream::connect(resolved));
        let connected = connecting.await.map_err(anyhow::Error::from).and_then(|it| Ok(it?));
        connected.with_context(|| format!("cannot connect to {address}"))
    }
}

fn resolve(address: &str) -> Result<SocketAddr> {
    let mut resolved = address.to_socket_addrs().with_context(|| format!("{address} does not resolve"))?;
    resolved.next().with_context(|| format!("{address} has no address"))
}
