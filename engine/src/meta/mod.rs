//! Cluster metadata: one deterministic state machine, replicated by Raft. Runs on shard 0.
//!
//! A change is proposed ([`Meta::propose`]), journalled and synced, committed by a quorum (of one,
//! so far), applied to the state machine ([`state`]), published as a new [`MetaImage`], and only
//! then answered. Reads never come here: every shard has the image. Raft itself is openraft's; here
//! are its executor, its storage in shard 0's journal, and the state machine. Nothing here depends
//! on there being one node.
//!
//! - [`command`], [`state`], [`topics`], `configs`: what can change, and the rules; pure
//! - `log`, `recovery`, `store`: vote, log and snapshot, in memory and in the journal
//! - `raft_runtime`, `raft_storage`, `raft_network`: openraft's traits

pub mod command;
mod configs;
pub mod ids;
pub mod image;
mod log;
mod raft;
mod raft_network;
mod raft_runtime;
mod raft_storage;
mod recovery;
pub mod state;
mod store;
#[cfg(test)]
mod tests;
pub mod topics;
pub mod wire;

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelog_runtime::time;
use openraft::error::{ClientWriteError, InitializeError, RaftError};
use openraft::{BasicNode, Config, SnapshotPolicy};

use self::command::{MetaCommand, MetaReply, NewPartitions, TopicSpec};
use self::image::{ListenerMeta, MetaImage, TopicMeta};
use self::raft::{Fatal, Raft};
use self::raft_network::Links;
use self::raft_storage::{Publisher, StateMachine};
pub use self::recovery::{MetaRecovery, RecoveryError};
use self::store::Store;
use crate::api::{NewTopic, TopicError, TopicRef};
use crate::journal::{Journal, JournalError};
use crate::topic_config::NodeDefaults;
use crate::types::{Lsn, NodeId, TopicId};

/// The largest command that is proposed, where the journal's entries can hold it; what is larger is
/// split, or refused.
const COMMAND_BYTES_MAX: usize = 96 << 10;

/// How long a start waits for a leader.
const LEADER_WAIT: Duration = Duration::from_secs(30);

/// What this node brings into the cluster.
#[derive(Debug, Clone)]
pub struct MetaOptions {
    /// This node.
    pub node: NodeId,
    /// Where clients reach it. The first listener's address is what other nodes are told.
    pub listeners: Vec<ListenerMeta>,
    /// Its rack.
    pub rack: Option<String>,
    /// Partitions of a topic that is created without a count.
    pub default_partitions: i32,
    /// Replicas of a topic that is created without a factor.
    pub default_replication_factor: i16,
    /// Defaults and limits of topic configs.
    pub configs: NodeDefaults,
    /// A snapshot is taken when the log has grown by so many entries; the last eighth of them stays
    /// in the log for members that are a little behind.
    pub entries_per_snapshot: u64,
}

impl MetaOptions {
    /// A node that clients reach at `listeners`; one partition and one replica by default.
    pub fn new(node: NodeId, listeners: Vec<ListenerMeta>) -> Self {
        Self {
            node,
            listeners,
            rack: None,
            default_partitions: 1,
            default_replication_factor: 1,
            configs: NodeDefaults::default(),
            entries_per_snapshot: 4096,
        }
    }
}

/// Why metadata does not start, or did not take a change.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// What the journal holds of it is not whole.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The journal does not take any more.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// openraft refuses its configuration.
    #[error("metadata: {0}")]
    Config(#[from] openraft::ConfigError),
    /// The quorum was formed before.
    #[error("metadata: {0}")]
    Initialize(InitializeError<NodeId, BasicNode>),
    /// openraft stopped, after an I/O error or since the node is stopping.
    #[error("metadata: {0}")]
    Stopped(#[from] Fatal),
    /// No leader was elected in time.
    #[error("metadata: no leader was elected within {} s", LEADER_WAIT.as_secs())]
    NoLeader,
    /// Another node leads the quorum.
    #[error("metadata: this node does not lead the quorum (leader: {leader:?})")]
    NotLeader {
        /// Who does, where known.
        leader: Option<NodeId>,
    },
    /// More than one entry can hold.
    #[error("metadata: the change takes {bytes} bytes, and {max} are the limit")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The cluster has used up all producer ids.
    #[error("metadata: there are no more producer ids")]
    ProducerIdsExhausted,
}

/// This node's member of the metadata quorum. Clones are handles to the same member.
#[derive(Clone)]
pub struct Meta(Rc<Inner>);

struct Inner {
    options: MetaOptions,
    raft: Raft,
    store: Store,
    publisher: Rc<Publisher>,
    command_bytes_max: usize,
}

impl Meta {
    /// Brings metadata back from what was replayed, forms a quorum of one when there is nothing,
    /// and registers this node, by which nothing is led in an old epoch. Every image from then on
    /// goes to `publish`, the current one before this returns.
    ///
    /// # Errors
    /// When the replayed entries make no sense, the journal fails, or no leader is elected.
    pub async fn start(
        options: MetaOptions,
        recovered: MetaRecovery,
        journal: Journal,
        publish: Rc<dyn Fn(Arc<MetaImage>)>,
    ) -> Result<Self, MetaError> {
        let command_bytes_max = COMMAND_BYTES_MAX.min(journal.max_entry_bytes() / 2);
        let recovered = recovered.finish()?;
        let store = Store::new(journal, recovered.log);
        let publisher = Rc::new(Publisher::new(publish));
        let machine = StateMachine::new(store.clone(), recovered.image, Rc::clone(&publisher));
        let config = Arc::new(raft_config(&options).validate()?);
        let raft = Box::pin(Raft::new(options.node, config, Links, store.clone(), machine)).await?;
        let meta = Self(Rc::new(Inner { options, raft, store, publisher, command_bytes_max }));
        meta.join_quorum().await?;
        meta.register().await?;
        meta.0.publisher.open();
        Ok(meta)
    }

    /// Forms the quorum if there is none, and waits for a leader.
    async fn join_quorum(&self) -> Result<(), MetaError> {
        let Inner { raft, options, .. } = &*self.0;
        if !raft.is_initialized().await? {
            let address = options.listeners.first();
            let address = address.map(|first| format!("{}:{}", first.host, first.port));
            let members = BTreeMap::from([(options.node, BasicNode::new(address.unwrap_or_default()))]);
            raft.initialize(members).await.map_err(|error| match error {
                RaftError::APIError(error) => MetaError::Initialize(error),
                RaftError::Fatal(fatal) => MetaError::Stopped(fatal),
            })?;
        }
        let node = options.node;
        let only_voter = raft.with_raft_state(move |state| {
            state.membership_state.effective().membership().voter_ids().eq([node])
        });
        if only_voter.await? {
            // Nobody else could win: there is no election to wait for.
            raft.trigger().elect().await?;
        }
        let mut metrics = raft.metrics();
        let elected = async {
            loop {
                if metrics.borrow_and_update().current_leader.is_some() {
                    return Ok(());
                }
                metrics.changed().await.map_err(|_| MetaError::Stopped(Fatal::Stopped))?;
            }
        };
        time::timeout(LEADER_WAIT, elected).await.unwrap_or(Err(MetaError::NoLeader))
    }

    /// Registers this node, and names a new cluster. The registration is applied after everything
    /// older, so that the image is complete then.
    async fn register(&self) -> Result<(), MetaError> {
        let options = &self.0.options;
        let (node, listeners, rack) = (options.node, options.listeners.clone(), options.rack.clone());
        self.propose(MetaCommand::RegisterNode { node, listeners, rack }).await?;
        if self.image().cluster_id.is_empty() {
            let cluster_id = ids::base64url(ids::random());
            self.propose(MetaCommand::InitCluster { cluster_id }).await?;
        }
        Ok(())
    }

    /// The metadata as it is now.
    pub fn image(&self) -> Arc<MetaImage> {
        self.0.publisher.image()
    }

    /// Proposes a change, and waits until it is synced, committed, applied and published.
    ///
    /// # Errors
    /// When this node does not lead, or stops. After [`MetaError::Stopped`] the change may or may
    /// not have been made.
    pub async fn propose(&self, command: MetaCommand) -> Result<MetaReply, MetaError> {
        let bytes = wire::encode(&command).len();
        let max = self.0.command_bytes_max;
        if bytes > max {
            return Err(MetaError::TooLarge { bytes, max });
        }
        let written = Box::pin(self.0.raft.client_write(command)).await;
        written.map(|written| written.data).map_err(|error| match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                MetaError::NotLeader { leader: to.leader_id }
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(_)) => {
                unreachable!("a command changes no membership")
            }
            RaftError::Fatal(fatal) => MetaError::Stopped(fatal),
        })
    }

    /// Creates topics, each by itself; the results are in the order of `topics`. With
    /// `validate_only` the results say what would happen, and nothing does.
    pub async fn create_topics(
        &self,
        topics: Vec<NewTopic>,
        validate_only: bool,
    ) -> Vec<Result<Arc<TopicMeta>, TopicError>> {
        let repeated = topics::repeated(topics.iter().map(|topic| topic.name.as_str()));
        let configs = self.defaults();
        let defaults = topics::CreationDefaults {
            partitions: self.0.options.default_partitions,
            replication_factor: self.0.options.default_replication_factor,
            configs: &configs,
        };
        let specs: Vec<_> = topics
            .iter()
            .map(|topic| {
                if repeated.contains(&topic.name) {
                    return Err(topics::duplicate_name());
                }
                let spec = topics::spec(topic, TopicId(ids::random()), defaults)?;
                check_size(&spec, self.0.command_bytes_max / 2)?;
                Ok(spec)
            })
            .collect();
        let (specs, refused) = apart(specs);
        let created = if validate_only {
            created(state::apply(&mut self.image(), MetaCommand::CreateTopics { topics: specs }))
        } else {
            self.create(specs).await
        };
        together(created, refused)
    }

    async fn create(&self, specs: Vec<TopicSpec>) -> Vec<Result<Arc<TopicMeta>, TopicError>> {
        let mut results = Vec::with_capacity(specs.len());
        for topics in batches(specs, self.0.command_bytes_max / 2) {
            let count = topics.len();
            match self.propose(MetaCommand::CreateTopics { topics }).await {
                Ok(reply) => results.extend(created(reply)),
                Err(error) => results.extend(vec![Err(unavailable(&error)); count]),
            }
        }
        results
    }

    /// What topic configs default to on this node now, and their limits.
    fn defaults(&self) -> NodeDefaults {
        let options = &self.0.options;
        options.configs.with_dynamic(&self.image().node_configs, options.node)
    }

    /// This node.
    fn node(&self) -> NodeId {
        self.0.options.node
    }

    /// The largest command that is proposed.
    fn command_bytes_max(&self) -> usize {
        self.0.command_bytes_max
    }

    /// Gives topics more partitions, each by itself; the results are in the order of `topics`. With
    /// `validate_only` the results say what would happen, and nothing does.
    pub async fn create_partitions(
        &self,
        topics: Vec<NewPartitions>,
        validate_only: bool,
    ) -> Vec<Result<Arc<TopicMeta>, TopicError>> {
        let max = self.0.command_bytes_max / 2;
        let checked = topics.into_iter().map(|topic| check_size(&topic, max).map(|()| topic)).collect();
        let (topics, refused) = apart(checked);
        let mut results = Vec::with_capacity(topics.len());
        if validate_only {
            let command = MetaCommand::CreatePartitions { topics };
            results.extend(grown(state::apply(&mut self.image(), command)));
        } else {
            for topics in batches(topics, max) {
                let count = topics.len();
                match self.propose(MetaCommand::CreatePartitions { topics }).await {
                    Ok(reply) => results.extend(grown(reply)),
                    Err(error) => results.extend(vec![Err(unavailable(&error)); count]),
                }
            }
        }
        together(results, refused)
    }

    /// Deletes topics, each by itself; the results, in the order of `topics`, are the topics as
    /// they were.
    pub async fn delete_topics(&self, topics: Vec<TopicRef>) -> Vec<Result<Arc<TopicMeta>, TopicError>> {
        let mut results = Vec::with_capacity(topics.len());
        for topics in batches(topics, self.0.command_bytes_max / 2) {
            let count = topics.len();
            match self.propose(MetaCommand::DeleteTopics { topics }).await {
                Ok(MetaReply::Deleted(deleted)) => results.extend(deleted),
                Ok(reply) => unreachable!("a deletion was answered with {reply:?}"),
                Err(error) => results.extend(vec![Err(unavailable(&error)); count]),
            }
        }
        results
    }

    /// Takes `count` producer ids that nobody was ever given.
    ///
    /// # Errors
    /// Like [`propose`](Self::propose); then the ids may be lost, but are not given to another.
    pub async fn allocate_producer_ids(&self, count: u32) -> Result<Range<i64>, MetaError> {
        let node = self.0.options.node;
        match self.propose(MetaCommand::AllocateProducerIds { node, count }).await? {
            MetaReply::ProducerIds { first, count } => Ok(first..first + i64::from(count)),
            MetaReply::ProducerIdsExhausted => Err(MetaError::ProducerIdsExhausted),
            reply => unreachable!("an allocation of producer ids was answered with {reply:?}"),
        }
    }

    /// The oldest journal entry that metadata still needs.
    pub fn needed_from(&self) -> Option<Lsn> {
        self.0.store.needed_from()
    }

    /// Sees to it that nothing below `below` is needed: by a [`rewrite`](Self::rewrite), unless that
    /// is so already.
    ///
    /// # Errors
    /// The journal's.
    pub async fn compact(&self, below: Lsn) -> Result<(), MetaError> {
        if self.needed_from().is_some_and(|needed| needed < below) {
            self.rewrite().await?;
        }
        Ok(())
    }

    /// Writes vote, snapshot and log down again at the journal's head: what was replayed, even from
    /// another journal, is not needed any more. Returns after the sync.
    ///
    /// # Errors
    /// The journal's.
    pub async fn rewrite(&self) -> Result<(), MetaError> {
        Ok(self.0.store.restate().await?)
    }

    /// Leaves the quorum's work. What was answered is in the journal.
    pub async fn stop(&self) {
        // The only error is that its task has ended already.
        let _ = self.0.raft.shutdown().await;
    }
}

fn raft_config(options: &MetaOptions) -> Config {
    Config {
        cluster_name: "corelog".to_owned(),
        heartbeat_interval: 500,
        election_timeout_min: 1_500,
        election_timeout_max: 3_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.entries_per_snapshot),
        max_in_snapshot_log_to_keep: options.entries_per_snapshot / 8,
        ..Config::default()
    }
}

fn unavailable(error: &MetaError) -> TopicError {
    TopicError::Unavailable(error.to_string())
}

fn created(reply: MetaReply) -> Vec<Result<Arc<TopicMeta>, TopicError>> {
    match reply {
        MetaReply::Created(created) => created,
        reply => unreachable!("a creation was answered with {reply:?}"),
    }
}

fn grown(reply: MetaReply) -> Vec<Result<Arc<TopicMeta>, TopicError>> {
    match reply {
        MetaReply::PartitionsCreated(grown) => grown,
        reply => unreachable!("a creation of partitions was answered with {reply:?}"),
    }
}

/// What is said of one topic must fit in a command.
fn check_size(spec: &impl serde::Serialize, max: usize) -> Result<(), TopicError> {
    let bytes = wire::encode(spec).len();
    if bytes > max {
        return Err(TopicError::PolicyViolation(format!(
            "The topic's assignments and configs take {bytes} bytes, and {max} are the limit."
        )));
    }
    Ok(())
}

/// Splits what one request asks for into commands of at most `max` bytes (an item alone may have
/// more).
fn batches<T: serde::Serialize>(items: Vec<T>, max: usize) -> Vec<Vec<T>> {
    let mut batches: Vec<Vec<T>> = Vec::new();
    let mut room = 0;
    for item in items {
        let bytes = wire::encode(&item).len();
        match batches.last_mut() {
            Some(batch) if bytes <= room => {
                batch.push(item);
                room -= bytes;
            }
            Some(_) | None => {
                batches.push(vec![item]);
                room = max.saturating_sub(bytes);
            }
        }
    }
    batches
}

/// Takes the refused ones out of a list, with their places.
fn apart<T, E>(items: Vec<Result<T, E>>) -> (Vec<T>, Vec<(usize, E)>) {
    let mut good = Vec::new();
    let mut refused = Vec::new();
    for (place, item) in items.into_iter().enumerate() {
        match item {
            Ok(item) => good.push(item),
            Err(error) => refused.push((place, error)),
        }
    }
    (good, refused)
}

/// Puts the refused ones back in their places.
fn together<T, E>(mut results: Vec<Result<T, E>>, refused: Vec<(usize, E)>) -> Vec<Result<T, E>> {
    for (place, error) in refused {
        results.insert(place, Err(error));
    }
    results
}
