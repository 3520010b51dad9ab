//! Producing records: batches per partition, requests per leader, acknowledgements back.
//!
//! Owns what has been given to it and is not acknowledged yet, bounded by
//! [`ProducerOptions::buffer_bytes`]. One task (in [`sender`]) decides what is sent when; records
//! of a partition leave and, if sent again, leave again in the order in which they were given. With
//! idempotence (the default) none is written twice.

mod batch;
mod sender;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

pub use corelog_protocol::batch::{Codec, Header};
use corelog_runtime::{rand, task, time};
use tokio::sync::Notify;

use super::cluster::{AutoCreate, Client};
use super::error::ClientError;
use super::partitioner::partition_for_key;
pub use batch::{BatchReport, Delivered, Delivery};
use batch::{Identity, PartitionQueue};
use sender::Sender;

/// A record's fields around its key, value and headers take at most this much in a batch.
const RECORD_OVERHEAD_MAX: usize = 36;
/// What a header takes beyond its key and value, at most.
const HEADER_OVERHEAD_MAX: usize = 10;
/// Largest number of requests under way to one leader for idempotence: brokers remember the last
/// five batches of a producer.
pub const IN_FLIGHT_MAX_IDEMPOTENT: usize = 5;

/// Which acknowledgement a produce waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// None: a batch counts as delivered when it was handed to the system; it has no offset.
    None,
    /// The leader's.
    Leader,
    /// All in-sync replicas'.
    All,
}

impl Acks {
    fn to_wire(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// Is told about every batch when its outcome is known.
pub type OnBatch = Rc<dyn Fn(&BatchReport<'_>)>;

/// Settings of a [`Producer`].
#[derive(Clone)]
pub struct ProducerOptions {
    /// Which acknowledgement is waited for.
    pub acks: Acks,
    /// How batches are compressed.
    pub codec: Codec,
    /// On the codec's own scale; `None` is its default.
    pub level: Option<i32>,
    /// How long a batch waits for more records before it is sent.
    pub linger: Duration,
    /// A batch of this size (before compression) is sent at once.
    pub batch_bytes: usize,
    /// No request, and so no record, is larger.
    pub request_bytes_max: usize,
    /// Records that are not acknowledged yet may take so much; at the limit, sending waits.
    pub buffer_bytes: usize,
    /// Requests under way to one leader; [`IN_FLIGHT_MAX_IDEMPOTENT`] at most with idempotence.
    pub in_flight_max: usize,
    /// Whether the broker recognises what is sent again. Needs [`Acks::All`].
    pub idempotent: bool,
    /// A batch that is not acknowledged after this time has failed.
    pub delivery_timeout: Duration,
    /// Whether producing to a topic may create it.
    pub auto_create: AutoCreate,
    /// Called for every batch when its outcome is known.
    pub on_batch: Option<OnBatch>,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            codec: Codec::None,
            level: None,
            linger: Duration::from_millis(5),
            batch_bytes: 64 * 1024,
            request_bytes_max: 1024 * 1024,
            buffer_bytes: 32 * 1024 * 1024,
            in_flight_max: IN_FLIGHT_MAX_IDEMPOTENT,
            idempotent: true,
            delivery_timeout: Duration::from_secs(120),
            auto_create: AutoCreate::No,
            on_batch: None,
        }
    }
}

/// A record to send; copied into its batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct OutRecord<'a> {
    /// Where to; by key, or evenly without one, when `None`.
    pub partition: Option<i32>,
    /// In ms since 1970; now when `None`.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: &'a [Header<'a>],
}

impl OutRecord<'_> {
    /// What it takes in a batch, at most.
    fn bytes_max(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|it| it.key.len() + it.value.map_or(0, <[u8]>::len) + HEADER_OVERHEAD_MAX)
            .sum();
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + headers + RECORD_OVERHEAD_MAX
    }
}

/// Sends records; clones share it. Dropping the last one fails what is not acknowledged:
/// [`Producer::flush`] first.
#[derive(Clone)]
pub struct Producer(Rc<Owner>);

struct Owner(Rc<Core>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.closed.set(true);
        self.0.wake.notify_one();
        self.0.space.notify_waiters();
    }
}

/// What callers and the sender share. Borrows of the cells end before anything is awaited or
/// woken.
struct Core {
    client: Client,
    options: ProducerOptions,
    topics: RefCell<BTreeMap<Rc<str>, Rc<TopicState>>>,
    partitions: RefCell<Vec<PartitionQueue>>,
    /// Indexes of `partitions` that have something to send.
    active: RefCell<Vec<usize>>,
    identity: Cell<Option<Identity>>,
    /// Ids of batches whose outcome is not known yet.
    outstanding: RefCell<BTreeSet<u64>>,
    next_batch: Cell<u64>,
    buffered_bytes: Cell<usize>,
    /// Callers that wait for everything to be sent.
    flushes: Cell<usize>,
    closed: Cell<bool>,
    /// What makes every further batch fail.
    fatal: RefCell<Option<ClientError>>,
    /// Something for the sender to do.
    wake: Notify,
    /// Buffer space was freed, or a batch's outcome became known.
    space: Notify,
}

struct TopicState {
    name: Rc<str>,
    /// Indexes of `Core::partitions`, by partition.
    queues: Vec<usize>,
    /// Where records without a key go until that batch is closed.
    sticky: Cell<usize>,
    sticky_batch: Cell<u64>,
}

impl Producer {
    /// Starts its sender; the producer id is asked for with the first batch.
    pub fn new(client: Client, mut options: ProducerOptions) -> Self {
        options.idempotent &= options.acks == Acks::All;
        options.in_flight_max = match options.idempotent {
            true => options.in_flight_max.clamp(1, IN_FLIGHT_MAX_IDEMPOTENT),
            false => options.in_flight_max.clamp(1, client.options().max_in_flight.max(1)),
        };
        let core = Rc::new(Core {
            client,
            options,
            topics: RefCell::default(),
            partitions: RefCell::default(),
            active: RefCell::default(),
            identity: Cell::new(None),
            outstanding: RefCell::default(),
            next_batch: Cell::new(1),
            buffered_bytes: Cell::new(0),
            flushes: Cell::new(0),
            closed: Cell::new(false),
            fatal: RefCell::default(),
            wake: Notify::new(),
            space: Notify::new(),
        });
        task::spawn(Sender::new(Rc::clone(&core)).run());
        Self(Rc::new(Owner(core)))
    }

    /// The way to one topic; looked up once and then kept.
    ///
    /// # Errors
    /// When there is no such topic (and it may not be created), or no broker answers.
    pub async fn topic(&self, name: &str) -> Result<TopicProducer, ClientError> {
        let core = &self.0.0;
        let known = core.topics.borrow().get(name).cloned();
        let state = match known {
            Some(state) => state,
            None => {
                let topic = core.client.topic(name, core.options.auto_create).await?;
                core.topic_state(&topic.name, topic.partitions.len())
            }
        };
        Ok(TopicProducer { producer: self.clone(), state })
    }

    /// Waits until the outcome of everything sent so far is known.
    ///
    /// # Errors
    /// [`ClientError::Closed`] when the sender is gone. Failures of batches are told by their
    /// [`Delivery`] and [`ProducerOptions::on_batch`].
    pub async fn flush(&self) -> Result<(), ClientError> {
        let core = &self.0.0;
        let last = core.next_batch.get();
        core.flushes.set(core.flushes.get() + 1);
        core.wake.notify_one();
        let result = core.until(|| core.outstanding.borrow().first().is_none_or(|id| *id >= last));
        let result = result.await;
        core.flushes.set(core.flushes.get() - 1);
        result
    }

    /// Bytes that are not acknowledged yet.
    pub fn buffered_bytes(&self) -> usize {
        self.0.0.buffered_bytes.get()
    }
}

impl Core {
    fn topic_state(&self, name: &Rc<str>, count: usize) -> Rc<TopicState> {
        let mut topics = self.topics.borrow_mut();
        if let Some(state) = topics.get(name) {
            return Rc::clone(state);
        }
        let mut partitions = self.partitions.borrow_mut();
        let queues = (0..count).map(|partition| {
            let partition = i32::try_from(partition).expect("the wire counts them in 32 bits");
            partitions.push(PartitionQueue::new(Rc::clone(name), partition));
            partitions.len() - 1
        });
        let state = Rc::new(TopicState {
            name: Rc::clone(name),
            queues: queues.collect(),
            sticky: Cell::new(first_sticky(count)),
            sticky_batch: Cell::new(0),
        });
        topics.insert(Rc::clone(name), Rc::clone(&state));
        state
    }

    /// Waits for a condition that changes with `space`.
    async fn until(&self, condition: impl Fn() -> bool) -> Result<(), ClientError> {
        loop {
            // Registered before the look, so that no change is missed in between.
            let mut changed = std::pin::pin!(self.space.notified());
            changed.as_mut().enable();
            if condition() {
                return Ok(());
            }
            if self.closed.get() {
                return Err(ClientError::Closed);
            }
            changed.await;
        }
    }

    /// A batch's outcome is known: its space is free again.
    fn settled(&self, id: u64, bytes: usize) {
        self.outstanding.borrow_mut().remove(&id);
        let left = self.buffered_bytes.get().checked_sub(bytes);
        self.buffered_bytes.set(left.expect("freed once, and what was taken"));
        self.space.notify_waiters();
    }
}

/// Producers begin at different partitions.
fn first_sticky(count: usize) -> usize {
    let count = u64::try_from(count.max(1)).expect("usize is at most 64 bits");
    usize::try_from(rand::below(count)).expect("below a usize")
}

/// The way to one topic.
#[derive(Clone)]
pub struct TopicProducer {
    producer: Producer,
    state: Rc<TopicState>,
}

impl TopicProducer {
    /// The topic's name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// The number of partitions when the topic was looked up.
    pub fn partitions(&self) -> i32 {
        i32::try_from(self.state.queues.len()).expect("the wire counts them in 32 bits")
    }

    /// Takes a record, waiting while the buffer is full. The record is sent whether or not the
    /// [`Delivery`] is looked at.
    ///
    /// # Errors
    /// When the record is too large or names a partition that does not exist, or the producer is
    /// closed.
    pub async fn send(&self, record: OutRecord<'_>) -> Result<Delivery, ClientError> {
        loop {
            if let Some(delivery) = self.try_send(record)? {
                if delivery.begins_batch() {
                    // The sender gets its turn even if the caller never waits for anything.
                    task::yield_if_needed().await;
                }
                return Ok(delivery);
            }
            let core = &self.producer.0.0;
            let limit = core.options.buffer_bytes;
            core.wake.notify_one();
            core.until(|| core.buffered_bytes.get() < limit).await?;
        }
    }

    /// Takes a record, unless the buffer is full: `None`.
    ///
    /// # Errors
    /// As [`TopicProducer::send`].
    pub fn try_send(&self, record: OutRecord<'_>) -> Result<Option<Delivery>, ClientError> {
        let core = &self.producer.0.0;
        if core.closed.get() {
            return Err(ClientError::Closed);
        }
        if let Some(error) = &*core.fatal.borrow() {
            return Err(error.clone());
        }
        let record_bytes = record.bytes_max();
        let limit_bytes = core.options.request_bytes_max;
        if record_bytes > limit_bytes {
            return Err(ClientError::RecordTooLarge { record_bytes, limit_bytes });
        }
        if core.buffered_bytes.get() >= core.options.buffer_bytes {
            return Ok(None);
        }
        let queue = self.queue_for(&record)?;
        let mut partitions = core.partitions.borrow_mut();
        let partition = &mut partitions[queue];
        let timestamp_ms = record.timestamp_ms.unwrap_or_else(time::unix_time_ms);
        let next_batch = || {
            let id = core.next_batch.get();
            core.next_batch.set(id + 1);
            core.outstanding.borrow_mut().insert(id);
            id
        };
        let pushed = partition.push(&record, timestamp_ms, record_bytes, &core.options, next_batch);
        core.buffered_bytes.set(core.buffered_bytes.get() + pushed.bytes);
        if !partition.listed {
            partition.listed = true;
            core.active.borrow_mut().push(queue);
        }
        if record.partition.is_none() && record.key.is_none() {
            self.state.sticky_batch.set(pushed.delivery.batch_id());
        }
        if pushed.wakes {
            core.wake.notify_one();
        }
        Ok(Some(pushed.delivery))
    }

    fn queue_for(&self, record: &OutRecord<'_>) -> Result<usize, ClientError> {
        let state = &self.state;
        let partitions = self.partitions();
        let partition = match (record.partition, record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_for_key(key, partitions),
            (None, None) => return Ok(self.sticky_queue(record.bytes_max())),
        };
        usize::try_from(partition).ok().and_then(|at| state.queues.get(at).copied()).ok_or_else(|| {
            ClientError::UnknownPartition { topic: state.name.to_string(), partition, partitions }
        })
    }

    /// The partition whose batch the last record without a key joined, while that has room; then
    /// the next one.
    fn sticky_queue(&self, bytes_max: usize) -> usize {
        let state = &self.state;
        let core = &self.producer.0.0;
        let queue = state.queues[state.sticky.get()];
        let open = core.partitions.borrow()[queue].open_batch(bytes_max, &core.options);
        if open == Some(state.sticky_batch.get()) {
            return queue;
        }
        state.sticky.set((state.sticky.get() + 1) % state.queues.len());
        state.queues[state.sticky.get()]
    }
}
