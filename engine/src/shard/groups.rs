//! The coordinators of this shard: one for each partition of `__consumer_offsets` that it has.
//!
//! Drives the machines of [`crate::group`]: reads a partition's records back, appends what an event
//! emits through the same path as a produce, and sends replies once that is acknowledged, in the
//! order of events. Each coordinator has one task, so that one that loads delays no other.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use corelog_protocol::batch::{BatchBuilder, BatchIter, Scratch};
use corelog_protocol::error::ErrorCode;
use corelog_protocol::offsets_topic::Record;
use corelog_runtime::rate::RateLimit;
use corelog_runtime::task::{self, Class, yield_if_needed};
use corelog_runtime::time::{self, Instant};
use futures_lite::future::or;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::sync::{Notify, Semaphore, oneshot};

use super::{GroupStats, Shard};
use crate::api::{Acks, FetchPart, PartitionError, ProduceError, ProduceOutcome, ProducePart};
use crate::engine::OFFSETS_TOPIC;
use crate::group::api::{Client, GroupDetails, ListGroups, ListedGroup, Reply, Request};
use crate::group::{Call, Coordinator, Effects, LoadError, Now};
use crate::types::{Offset, PartitionId, TopicPartition};

/// Read at a time while a partition is loaded.
const LOAD_BYTES: usize = 1 << 20;
/// Bound on what one batch of the partition may decompress to.
const DECOMPRESSED_BYTES_MAX: usize = 128 << 20;
/// Records that may be separated are appended in batches of about this size.
const BATCH_BYTES: usize = 512 << 10;
/// After a partition could not be loaded, or an append failed; doubled each time that it fails again.
const RELOAD_DELAY_MIN: Duration = Duration::from_secs(1);
const RELOAD_DELAY_MAX: Duration = Duration::from_secs(30);
/// Lines in the log about such failures, in a second.
const FAILURES_PER_SECOND: u32 = 2;

/// What a request is told: its reply, or why there is no coordinator.
pub(crate) type Answer = Result<Reply, ErrorCode>;

/// Partitions of a shard that are loaded at a time.
const LOADERS: usize = 2;

/// The coordinators of a shard.
pub(super) struct Coordinators {
    seats: RefCell<BTreeMap<TopicPartition, Rc<Seat>>>,
    loaders: Semaphore,
    failures: RateLimit,
    requests: Cell<u64>,
}

impl Default for Coordinators {
    fn default() -> Self {
        let failures = RateLimit::new(FAILURES_PER_SECOND);
        Self { seats: RefCell::default(), loaders: Semaphore::new(LOADERS), failures, requests: Cell::new(0) }
    }
}

/// One partition's coordinator, as far as it is there.
struct Seat {
    target: TopicPartition,
    serving: RefCell<Option<Serving>>,
    /// The partition is not this shard's any more.
    is_closed: Cell<bool>,
    /// There is something to send, an earlier deadline, or the end.
    changed: Notify,
}

/// A coordinator that is loaded.
struct Serving {
    coordinator: Coordinator,
    next_call: u64,
    asked: BTreeMap<Call, oneshot::Sender<Answer>>,
    outgoing: VecDeque<Outgoing>,
}

/// An event's replies, and those of later events that appended nothing.
struct Outgoing {
    /// What they wait for; the seat's task has it while it waits.
    appended: Option<LocalBoxFuture<'static, Vec<ProduceOutcome>>>,
    replies: Vec<(Call, Reply)>,
}

/// What a coordinator's task woke up for.
enum Woken {
    Appended(Vec<ProduceOutcome>),
    Due,
    Changed,
}

/// Why a coordinator serves no more.
enum Ended {
    /// The partition is gone.
    Closed,
    /// Memory and log differ.
    AppendFailed(ProduceError),
}

/// Why a partition could not be loaded.
#[derive(Debug, thiserror::Error)]
enum LoadFailed {
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error("offset {0}: {1}")]
    Record(Offset, LoadError),
    #[error("offset {0}: {1}")]
    Batch(Offset, String),
}

fn now() -> Now {
    Now { clock_ms: Instant::now().as_nanos() / 1_000_000, wall_ms: time::unix_time_ms() }
}

impl Shard {
    /// Asks the coordinator of a partition. The event has taken place when this returns; a receiver
    /// without a sender means that the coordinator is gone.
    pub(crate) fn group(
        self: &Rc<Self>,
        target: TopicPartition,
        client: Client,
        request: Request,
    ) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let seat = self.coordinators.seats.borrow().get(&target).cloned();
        let Some(seat) = seat else {
            let _ = answer.send(Err(ErrorCode::NotCoordinator));
            return receiver;
        };
        let mut state = seat.serving.borrow_mut();
        let Some(serving) = state.as_mut() else {
            let _ = answer.send(Err(ErrorCode::CoordinatorLoadInProgress));
            return receiver;
        };
        if self.is_disk_full() && may_write(&request) {
            // The machine cannot take back what was refused a place on the disk.
            let _ = answer.send(Err(ErrorCode::CoordinatorNotAvailable));
            return receiver;
        }
        self.coordinators.requests.set(self.coordinators.requests.get() + 1);
        let call = Call(serving.next_call);
        serving.next_call += 1;
        serving.asked.insert(call, answer);
        let deadline_ms = serving.coordinator.next_deadline_ms();
        let effects = serving.coordinator.handle(now(), &*self.image(), call, &client, request);
        self.perform(&seat, serving, effects);
        if serving.coordinator.next_deadline_ms() != deadline_ms {
            seat.changed.notify_one();
        }
        receiver
    }

    /// The groups of this shard's coordinators.
    ///
    /// # Errors
    /// COORDINATOR_LOAD_IN_PROGRESS while one of them loads.
    pub(crate) fn list_groups(&self, filter: &ListGroups) -> Result<Vec<ListedGroup>, ErrorCode> {
        let mut all = Vec::new();
        for seat in self.coordinators.seats.borrow().values() {
            let state = seat.serving.borrow();
            let serving = state.as_ref().ok_or(ErrorCode::CoordinatorLoadInProgress)?;
            all.extend(serving.coordinator.list(filter));
        }
        Ok(all)
    }

    pub(super) fn group_stats(&self) -> GroupStats {
        let mut stats = GroupStats { requests: self.coordinators.requests.get(), ..GroupStats::default() };
        for seat in self.coordinators.seats.borrow().values() {
            match seat.serving.borrow().as_ref() {
                Some(serving) => stats.groups += serving.coordinator.group_count(),
                None => stats.loading += 1,
            }
        }
        stats
    }

    /// The groups of this shard's coordinators that serve, with `commits_max` committed offsets at
    /// most.
    pub(super) async fn group_details(&self, commits_max: usize) -> Vec<GroupDetails> {
        let seats: Vec<Rc<Seat>> = self.coordinators.seats.borrow().values().cloned().collect();
        let (mut groups, mut left) = (Vec::new(), commits_max);
        for seat in seats {
            if let Some(serving) = seat.serving.borrow().as_ref() {
                groups.extend(serving.coordinator.details(&mut left));
            }
            yield_if_needed().await;
        }
        groups
    }

    /// Gives every partition of the offsets topic here a coordinator, and takes those away whose
    /// partition is gone.
    pub(super) fn seat_coordinators(self: &Rc<Self>) {
        let image = self.image();
        let mut here = Vec::new();
        if let Some(topic) = image.topic_named(OFFSETS_TOPIC) {
            let partitions = (0_i32..).take(topic.partitions.len()).map(PartitionId);
            let targets = partitions.map(|partition| TopicPartition::new(topic.id, partition));
            here.extend(targets.filter(|target| self.partitions.borrow().contains_key(target)));
        }
        let mut seats = self.coordinators.seats.borrow_mut();
        seats.retain(|target, seat| {
            let stays = here.contains(target);
            if !stays {
                seat.close();
            }
            stays
        });
        for target in here {
            seats.entry(target).or_insert_with(|| {
                let seat = Rc::new(Seat::new(target));
                task::spawn_in(Class::Serve, Rc::clone(self).coordinate(Rc::clone(&seat)));
                seat
            });
        }
    }

    /// Answers everybody who waits for a group: the node stops.
    pub(super) fn close_coordinators(&self) {
        for seat in self.coordinators.seats.borrow().values() {
            seat.close();
        }
    }

    /// A coordinator's task: loads it, lets it serve, and loads it again when an append failed.
    async fn coordinate(self: Rc<Self>, seat: Rc<Seat>) {
        let mut delay = RELOAD_DELAY_MIN;
        while !seat.is_closed.get() && !self.stopping.get() {
            let began = Instant::now();
            match self.load_coordinator(seat.target).await {
                Ok((coordinator, effects)) => {
                    tracing::debug!(
                        partition = %seat.target,
                        groups = coordinator.group_count(),
                        took = ?began.elapsed(),
                        "group coordinator loaded"
                    );
                    delay = RELOAD_DELAY_MIN;
                    *seat.serving.borrow_mut() = Some(Serving::new(coordinator));
                    seat.with(|serving| self.perform(&seat, serving, effects));
                    let ended = self.lead(&seat).await;
                    if let Ended::AppendFailed(error) = &ended
                        && !self.stopping.get()
                        && let Some(unsaid) = self.coordinators.failures.pass()
                    {
                        let partition = seat.target;
                        tracing::error!(%partition, %error, unsaid, "groups cannot be written, loading them again");
                    }
                    let serving = seat.serving.borrow_mut().take();
                    if let Some(serving) = serving {
                        serving.abandon(ErrorCode::NotCoordinator);
                    }
                }
                Err(LoadFailed::Partition(PartitionError::UnknownPartition | PartitionError::Stopping)) => {}
                Err(error) => {
                    if let Some(unsaid) = self.coordinators.failures.pass() {
                        let partition = seat.target;
                        tracing::error!(%partition, %error, unsaid, "groups cannot be loaded, trying again");
                    }
                }
            }
            // Not at once: a disk that is full, or a partition that is offline, is so for a while.
            or(time::sleep(delay), seat.changed.notified()).await;
            delay = (delay * 2).min(RELOAD_DELAY_MAX);
        }
    }

    async fn load_coordinator(
        self: &Rc<Self>,
        target: TopicPartition,
    ) -> Result<(Coordinator, Effects), LoadFailed> {
        let _turn = self.coordinators.loaders.acquire().await.expect("it is never closed");
        let mut coordinator = Coordinator::new(self.options.groups.clone());
        let mut scratch = Scratch::default();
        let mut next = self.serving(&target, None)?.borrow().log_start();
        loop {
            let part = FetchPart { target, offset: next, max_bytes: LOAD_BYTES, current_leader_epoch: None };
            let mut outcomes = self.read(&[part], LOAD_BYTES).await;
            let fetched = outcomes.pop().unwrap_or(Err(PartitionError::UnknownPartition))?;
            let watch = self.watch(&[(target, fetched.high_watermark)]);
            for batches in &fetched.batches {
                next = load_batches(&mut coordinator, batches, next, &mut scratch)?;
                yield_if_needed().await;
            }
            if next >= self.serving(&target, None)?.borrow().log_end() {
                break;
            }
            if fetched.batches.is_empty() {
                // Appended, and not acknowledged yet.
                watch.changed().await;
            }
        }
        let effects = coordinator.loaded(now(), &*self.image());
        Ok((coordinator, effects))
    }

    /// Sends replies and looks at deadlines, until that ends.
    async fn lead(self: &Rc<Self>, seat: &Seat) -> Ended {
        let mut appending = None;
        loop {
            if seat.is_closed.get() {
                return Ended::Closed;
            }
            let deadline_ms = seat.with(|serving| {
                if appending.is_none() {
                    appending = serving.outgoing.front_mut().and_then(|first| first.appended.take());
                }
                serving.coordinator.next_deadline_ms()
            });
            let appended = async {
                match &mut appending {
                    Some(appended) => Woken::Appended(appended.await),
                    None => pending().await,
                }
            };
            let due = async {
                sleep_until_ms(deadline_ms).await;
                Woken::Due
            };
            let changed = async {
                seat.changed.notified().await;
                Woken::Changed
            };
            match or(appended, or(changed, due)).await {
                Woken::Appended(outcomes) => {
                    if let Some(error) = outcomes.into_iter().find_map(Result::err) {
                        return Ended::AppendFailed(error);
                    }
                    appending = None;
                    seat.with(|serving| {
                        let first = serving.outgoing.pop_front();
                        serving.send(first.map(|first| first.replies).unwrap_or_default());
                    });
                }
                Woken::Due => self.tick(seat).await,
                Woken::Changed => {}
            }
        }
    }

    /// Does what is due, one thing at a time: others want the core, too.
    async fn tick(self: &Rc<Self>, seat: &Seat) {
        let now = now();
        loop {
            if self.is_disk_full() {
                // Nobody is thrown out of a group because nothing can be written.
                time::sleep(RELOAD_DELAY_MIN).await;
                return;
            }
            let is_done = seat.with(|serving| match serving.coordinator.tick(now, &*self.image()) {
                Some(effects) => {
                    self.perform(seat, serving, effects);
                    false
                }
                None => true,
            });
            if is_done {
                return;
            }
            yield_if_needed().await;
        }
    }

    /// Appends an event's records and puts its replies behind them.
    fn perform(self: &Rc<Self>, seat: &Seat, serving: &mut Serving, effects: Effects) {
        let Effects { records, separable, replies } = effects;
        if !records.is_empty() {
            let batches = batches_of(&records, separable, time::unix_time_ms());
            let parts = batches.into_iter().map(|batch| ProducePart { target: seat.target, batch }).collect();
            let appended = self.produce(Acks::All, parts).boxed_local();
            serving.outgoing.push_back(Outgoing { appended: Some(appended), replies });
            seat.changed.notify_one();
        } else if let Some(before) = serving.outgoing.back_mut() {
            // Whatever was emitted before has to be durable first.
            before.replies.extend(replies);
        } else {
            serving.send(replies);
        }
    }
}

impl Seat {
    fn new(target: TopicPartition) -> Self {
        Self { target, serving: RefCell::default(), is_closed: Cell::new(false), changed: Notify::new() }
    }

    /// Works on a coordinator that serves.
    fn with<T>(&self, work: impl FnOnce(&mut Serving) -> T) -> T {
        work(self.serving.borrow_mut().as_mut().expect("only its own task takes it away"))
    }

    fn close(&self) {
        self.is_closed.set(true);
        self.changed.notify_one();
    }
}

impl Serving {
    fn new(coordinator: Coordinator) -> Self {
        Self { coordinator, next_call: 0, asked: BTreeMap::new(), outgoing: VecDeque::new() }
    }

    fn send(&mut self, replies: Vec<(Call, Reply)>) {
        for (call, reply) in replies {
            if let Some(asker) = self.asked.remove(&call) {
                // Whoever asked may have gone.
                let _ = asker.send(Ok(reply));
            }
        }
    }

    /// Answers everybody who waits.
    fn abandon(mut self, error: ErrorCode) {
        for asker in std::mem::take(&mut self.asked).into_values() {
            let _ = asker.send(Err(error));
        }
    }
}

/// Whether a request may bring records.
fn may_write(request: &Request) -> bool {
    match request {
        Request::Join(_)
        | Request::Sync(_)
        | Request::Leave(_)
        | Request::ConsumerHeartbeat(_)
        | Request::Commit(_)
        | Request::DeleteOffsets(_)
        | Request::Delete { .. } => true,
        Request::Heartbeat(_)
        | Request::FetchOffsets(_)
        | Request::List(_)
        | Request::Describe { .. }
        | Request::ConsumerDescribe { .. } => false,
    }
}

/// Never, without a deadline.
async fn sleep_until_ms(deadline_ms: Option<u64>) {
    match deadline_ms {
        Some(deadline_ms) => {
            let now_ms = now().clock_ms;
            time::sleep(Duration::from_millis(deadline_ms.saturating_sub(now_ms))).await;
        }
        None => pending().await,
    }
}

/// One batch, or more where the records may be separated.
fn batches_of(records: &[Record], separable: bool, timestamp_ms: i64) -> Vec<BytesMut> {
    let mut batches = Vec::new();
    let (mut builder, mut bytes) = (BatchBuilder::new(), 0);
    for record in records {
        let (key, value) = (record.key(), record.value());
        if separable && bytes >= BATCH_BYTES {
            batches.push(std::mem::take(&mut builder));
            bytes = 0;
        }
        bytes += key.len() + value.as_ref().map_or(0, |value| value.len());
        builder = builder.record(timestamp_ms, Some(&key), value.as_deref());
    }
    batches.push(builder);
    let build = |builder: BatchBuilder| builder.build().expect("nothing is compressed");
    batches.into_iter().map(build).collect()
}

/// Takes in the records of whole batches from `from` on; where the next one begins.
fn load_batches(
    coordinator: &mut Coordinator,
    batches: &Bytes,
    from: Offset,
    scratch: &mut Scratch,
) -> Result<Offset, LoadFailed> {
    let mut next = from;
    let unreadable =
        |offset: Offset, error: &dyn std::error::Error| LoadFailed::Batch(offset, error.to_string());
    for batch in BatchIter::new(batches) {
        let batch = batch.map_err(|error| unreadable(next, &error))?;
        let base = batch.header.base_offset;
        if !batch.header.is_control() {
            let records = batch.records(scratch, DECOMPRESSED_BYTES_MAX);
            for record in records.map_err(|error| unreadable(next, &error))? {
                let record = record.map_err(|error| unreadable(next, &error))?;
                let offset = Offset(base + i64::from(record.offset_delta));
                // The log may begin in the middle of a batch.
                if offset >= from
                    && let Some(key) = record.key
                {
                    let loaded = coordinator.load(key, record.value);
                    loaded.map_err(|error| LoadFailed::Record(offset, error))?;
                }
            }
        }
        next = Offset(base + i64::from(batch.header.last_offset_delta) + 1);
    }
    Ok(next)
}
