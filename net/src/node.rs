//! One shard of a running node: engine and network side, from start to graceful stop.
//!
//! Ports are bound before anything else, since a port that is taken is the most likely thing to go
//! wrong and what the kernel chose for port 0 is advertised; nothing is accepted before the engine
//! is in service.

use std::sync::Arc;

use corelog_engine::engine::{BootError, Engine, EngineOptions};
use corelog_engine::messages::{ShardReply, ShardRequest};
use corelog_engine::meta::image::ListenerMeta;
use corelog_runtime::shards::{ShardContext, stop_signal};

use crate::options::NetOptions;
use crate::server::{Addresses, Bound, NodeNet, Server, ServerError};

/// Turns the addresses that were bound into what clients are told.
pub type Advertise = Arc<dyn Fn(&Addresses) -> Result<Vec<ListenerMeta>, String> + Send + Sync>;

/// Called once, on shard 0, when the node accepts connections.
pub type OnReady = Arc<dyn Fn(&Addresses) -> Result<(), String> + Send + Sync>;

/// What every shard of a node is started with.
#[derive(Clone)]
pub struct NodeSpec {
    /// The engine's options; the advertised listeners are filled in.
    pub engine: EngineOptions,
    /// The network side's options.
    pub net: NetOptions,
    /// What the shards' network sides share.
    pub shared: Arc<NodeNet>,
    /// See [`Advertise`].
    pub advertise: Advertise,
    /// See [`OnReady`].
    pub on_ready: OnReady,
}

/// Why a node did not start, or did not stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A port could not be had.
    #[error(transparent)]
    Listen(#[from] ServerError),
    /// The engine did not start.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// The state could not be written down.
    #[error("the node did not stop cleanly: {0}")]
    Stop(String),
}

/// Runs one shard until the process is asked to stop.
///
/// # Errors
/// See [`NodeError`].
pub async fn run_shard(
    context: ShardContext<ShardRequest, ShardReply>,
    spec: NodeSpec,
) -> Result<(), NodeError> {
    let NodeSpec { mut engine, net, shared, advertise, on_ready } = spec;
    let bound = Bound::bind(&shared, context.shard, &net).await?;
    let addresses = bound.addresses().clone();
    engine.meta.listeners = advertise(&addresses).map_err(NodeError::Config)?;
    let engine = Engine::start(context.mesh, engine).await?;
    let server = Server::start(engine.clone(), net, shared, bound);
    if context.shard == 0 {
        on_ready(&addresses).map_err(NodeError::Config)?;
    }
    stop_signal().wait().await;
    server.stop().await;
    engine.shut_down().await.map_err(NodeError::Stop)
}
