//! A client of one cluster: connections to its brokers, what is known of its topics, and where a
//! request goes.
//!
//! Lives on one executor and is shared there by cloning. Requests that may wait long (fetches) or
//! that are many (produces) have connections of their own, because replies on one connection come
//! in order.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use corelog_protocol::error::ErrorCode;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, TopicName};
use kafka_protocol::protocol::{Request, StrBytes};

use super::connection::{Connection, ConnectionOptions};
use super::error::ClientError;
use super::metadata::{Metadata, Partition, Topic};
use super::resolve::resolve;
use super::retry::{Retry, RetryOptions};

/// A topic that may be created by asking for it is unknown for a moment; after this long it is
/// taken that the cluster does not create topics.
const CREATION_TAKES_AT_MOST: Duration = Duration::from_secs(3);

/// Settings of a [`Client`].
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Addresses (`host:port`) to begin with; one that answers is enough.
    pub bootstrap: Vec<String>,
    /// What brokers see in their logs.
    pub client_id: String,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a reply may take.
    pub request_timeout: Duration,
    /// How failed requests are repeated.
    pub retry: RetryOptions,
    /// At most so many requests without a reply per connection.
    pub max_in_flight: usize,
    /// A reply that claims to be larger is refused.
    pub max_response_bytes: usize,
}

impl ClientOptions {
    /// The defaults, for the cluster at these addresses (separated by commas, or several).
    pub fn new(bootstrap: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut addresses = Vec::new();
        for list in bootstrap {
            let list = list.as_ref().split(',').map(str::trim);
            addresses.extend(list.filter(|address| !address.is_empty()).map(str::to_owned));
        }
        Self {
            bootstrap: addresses,
            client_id: "corelog".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            retry: RetryOptions::default(),
            max_in_flight: 64,
            max_response_bytes: 256 * 1024 * 1024,
        }
    }
}

/// Which of its connections to a broker a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Everything that is neither of the others.
    Control,
    /// Produces.
    Produce,
    /// Fetches.
    Fetch,
    /// One of the groups' members, by its number in this client: joining waits for others, and those
    /// may be members of this client, too.
    Member(u64),
}

/// Whether asking for an unknown topic may create it, where the cluster does that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCreate {
    /// It may.
    Allowed,
    /// It does not (from Metadata version 4 on; older brokers decide alone).
    No,
}

/// A cluster's client; clones share it.
#[derive(Clone)]
pub struct Client(Rc<Inner>);

struct Inner {
    options: ClientOptions,
    connections: RefCell<BTreeMap<(String, Lane), Rc<Link>>>,
    metadata: RefCell<Metadata>,
    /// Topics that someone asked about: refreshed together.
    interest: RefCell<BTreeSet<Rc<str>>>,
    /// How many members of groups there were.
    members: Cell<u64>,
}

/// The current connection to one address, made by one task at a time.
#[derive(Default)]
struct Link(tokio::sync::Mutex<Option<Connection>>);

impl Client {
    /// Connects to the first bootstrap address that answers and learns the cluster's brokers.
    ///
    /// # Errors
    /// When none answers: at once, without trying again, since an address may just be wrong.
    pub async fn connect(options: ClientOptions) -> Result<Self, ClientError> {
        let client = Self::unconnected(options);
        client.refresh(AutoCreate::No).await?;
        Ok(client)
    }

    /// As [`Client::connect`], but tries again as the settings say: brokers may just be starting.
    /// `waiting` is told what each attempt that was not the last one failed with.
    ///
    /// # Errors
    /// The last failure, when the time is up or trying again cannot help.
    pub async fn connect_in_time(
        options: ClientOptions,
        mut waiting: impl FnMut(&ClientError),
    ) -> Result<Self, ClientError> {
        let client = Self::unconnected(options);
        let mut retry = client.retry();
        while let Err(error) = client.refresh(AutoCreate::No).await {
            if error.is_retriable() {
                waiting(&error);
            }
            retry.after("connecting", error).await?;
        }
        Ok(client)
    }

    fn unconnected(options: ClientOptions) -> Self {
        Self(Rc::new(Inner {
            options,
            connections: RefCell::default(),
            metadata: RefCell::default(),
            interest: RefCell::default(),
            members: Cell::default(),
        }))
    }

    /// The settings.
    pub fn options(&self) -> &ClientOptions {
        &self.0.options
    }

    /// Attempts of one operation, by the client's settings.
    pub(crate) fn retry(&self) -> Retry {
        Retry::new(self.0.options.retry)
    }

    /// What is known of the cluster.
    pub fn metadata(&self) -> Metadata {
        self.0.metadata.borrow().clone()
    }

    /// A lane for one more member of a group.
    pub(super) fn member_lane(&self) -> Lane {
        let number = self.0.members.get();
        self.0.members.set(number + 1);
        Lane::Member(number)
    }

    /// Nobody needs the connections of this lane any more.
    pub(super) fn leave_lane(&self, lane: Lane) {
        self.0.connections.borrow_mut().retain(|(_, of), _| *of != lane);
    }

    /// The connection to an address, made when there is none that works.
    async fn connection_to(&self, address: &str, lane: Lane) -> Result<Connection, ClientError> {
        let key = (address.to_owned(), lane);
        let link = Rc::clone(self.0.connections.borrow_mut().entry(key).or_default());
        let mut current = link.0.lock().await;
        if let Some(connection) = current.as_ref().filter(|it| it.closed().is_none()) {
            return Ok(connection.clone());
        }
        let options = &self.0.options;
        let options = ConnectionOptions {
            client_id: options.client_id.clone(),
            connect_timeout: options.connect_timeout,
            request_timeout: options.request_timeout,
            max_in_flight: options.max_in_flight,
            max_response_bytes: options.max_response_bytes,
        };
        let bad = |reason: String| ClientError::Address { address: address.to_owned(), reason };
        let candidates = resolve(address).map_err(bad)?;
        let mut last = bad("the name has no address".to_owned());
        for candidate in candidates {
            match Connection::connect(address.to_owned(), candidate, options.clone()).await {
                Ok(connection) => {
                    *current = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A connection to a broker by its node id.
    ///
    /// # Errors
    /// When the node is not known or not reachable.
    pub async fn node(&self, id: i32, lane: Lane) -> Result<Connection, ClientError> {
        let address = self.0.metadata.borrow().brokers.get(&id).map(|it| it.address.clone());
        let address = address.ok_or_else(|| ClientError::Refused {
            what: format!("looking up node {id}"),
            code: ErrorCode::BrokerNotAvailable,
            message: None,
        })?;
        self.connection_to(&address, lane).await
    }

    /// A connection to any broker: the known ones first, then the bootstrap addresses.
    ///
    /// # Errors
    /// When none can be reached.
    pub async fn any(&self) -> Result<Connection, ClientError> {
        let mut addresses: Vec<String> = Vec::new();
        {
            let metadata = self.0.metadata.borrow();
            addresses.extend(metadata.brokers.values().map(|it| it.address.clone()));
        }
        addresses.extend(self.0.options.bootstrap.iter().cloned());
        let mut last = ClientError::NoBootstrap;
        for (index, address) in addresses.iter().enumerate() {
            if addresses[..index].contains(address) {
                continue;
            }
            match self.connection_to(address, Lane::Control).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        match (addresses.len(), last) {
            (0 | 1, last) => Err(last),
            (_, last) => Err(ClientError::NoBroker { last: Box::new(last) }),
        }
    }

    /// The connection for requests that only the controller answers (before KRaft).
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn controller(&self) -> Result<Connection, ClientError> {
        let controller = self.0.metadata.borrow().controller;
        match controller {
            Some(id) => self.node(id, Lane::Control).await,
            None => self.any().await,
        }
    }

    /// Sends a request to any broker, repeating it as long as that may help.
    ///
    /// # Errors
    /// The last one.
    pub async fn call_any<R: Request>(&self, what: &str, request: &R) -> Result<R::Response, ClientError> {
        let mut retry = Retry::new(self.0.options.retry);
        loop {
            let result = match self.any().await {
                Ok(connection) => connection.call(request).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(response) => return Ok(response),
                Err(error) => retry.after(what, error).await?,
            }
        }
    }

    /// Asks for brokers and all topics of interest, once.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn refresh(&self, auto_create: AutoCreate) -> Result<(), ClientError> {
        let topics = self.0.interest.borrow().iter().map(|name| metadata_topic(name)).collect();
        self.fetch_metadata(Some(topics), auto_create).await
    }

    /// Asks for brokers and every topic there is, once.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn refresh_all(&self) -> Result<(), ClientError> {
        self.0.metadata.borrow_mut().topics.clear();
        self.fetch_metadata(None, AutoCreate::No).await
    }

    async fn fetch_metadata(
        &self,
        topics: Option<Vec<MetadataRequestTopic>>,
        auto_create: AutoCreate,
    ) -> Result<(), ClientError> {
        // Version 0 cannot ask for brokers alone: its empty list means every topic.
        let connection = self.any().await?;
        let version = connection.version::<MetadataRequest>(i16::MAX)?;
        let mut request = MetadataRequest::default().with_topics(topics);
        if version >= 4 {
            request.allow_auto_topic_creation = auto_create == AutoCreate::Allowed;
        }
        let response = connection.call(&request).await?;
        ClientError::check(response.error_code, None, || "asking for metadata".to_owned())?;
        self.0.metadata.borrow_mut().update(response);
        Ok(())
    }

    /// A topic, asked for when it is not known yet.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`] when there is none, and what the broker says otherwise.
    pub async fn topic(&self, name: &str, auto_create: AutoCreate) -> Result<Rc<Topic>, ClientError> {
        let known = self.0.metadata.borrow().topics.get(name).cloned();
        if let Some(Ok(topic)) = known {
            return Ok(topic);
        }
        self.0.interest.borrow_mut().insert(Rc::from(name));
        let result = self.look_up_topic(name, auto_create).await;
        if result.is_err() {
            self.forget(name);
        }
        result
    }

    async fn look_up_topic(&self, name: &str, auto_create: AutoCreate) -> Result<Rc<Topic>, ClientError> {
        let mut retry = Retry::new(self.0.options.retry);
        let what = format!("looking up topic '{name}'");
        loop {
            let error = match self.refresh(auto_create).await {
                Ok(()) => match self.0.metadata.borrow().topics.get(name).cloned() {
                    Some(Ok(topic)) => return Ok(topic),
                    None => ClientError::UnknownTopic { topic: name.to_owned() },
                    Some(Err(ErrorCode::UnknownTopicOrPartition))
                        if auto_create == AutoCreate::No || retry.elapsed() > CREATION_TAKES_AT_MOST =>
                    {
                        ClientError::UnknownTopic { topic: name.to_owned() }
                    }
                    Some(Err(code)) => ClientError::Refused { what: what.clone(), code, message: None },
                },
                Err(error) => error,
            };
            retry.after(&what, error).await?;
        }
    }

    /// Stops asking about a topic.
    pub fn forget(&self, name: &str) {
        self.0.interest.borrow_mut().remove(name);
        self.0.metadata.borrow_mut().topics.remove(name);
    }

    /// A partition as last seen, with its leader's node id.
    ///
    /// # Errors
    /// When it is not known or has no leader: refresh, and ask again.
    pub fn leader(&self, topic: &str, partition: i32) -> Result<(i32, Partition), ClientError> {
        let metadata = self.0.metadata.borrow();
        let known = match metadata.topics.get(topic) {
            Some(Ok(known)) => known,
            Some(Err(_)) | None => {
                return Err(ClientError::NoLeader { topic: topic.to_owned(), partition });
            }
        };
        let found = known.partition(partition).ok_or_else(|| ClientError::UnknownPartition {
            topic: topic.to_owned(),
            partition,
            partitions: known.partition_count(),
        })?;
        match found.leader {
            Some(leader) => Ok((leader, found.clone())),
            None => Err(ClientError::NoLeader { topic: topic.to_owned(), partition }),
        }
    }
}

fn metadata_topic(name: &str) -> MetadataRequestTopic {
    MetadataRequestTopic::default().with_name(Some(topic_name(name)))
}

pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}
