//! The task that sends a producer's batches.
//!
//! Each round looks at the partitions with something to send, builds one request per leader with at
//! most one batch per partition, and hands it to the connection; a task per request waits for the
//! reply and puts back what is to be sent again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use corelog_protocol::api::Api;
use corelog_protocol::error::ErrorCode;
use corelog_protocol::produce::{
    ProducePartition, ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopic,
};
use corelog_runtime::{task, time};
use kafka_protocol::messages::InitProducerIdRequest;

use super::batch::{Identity, PartitionQueue, SealedBatch};
use super::{Acks, Codec, Core};
use crate::client::cluster::{AutoCreate, Lane};
use crate::client::connection::{Connection, PendingReply, Reply};
use crate::client::error::ClientError;

/// First version of Produce with record batches of format 2.
const VERSION_MIN: i16 = 3;
/// First version of Produce that accepts zstd (KIP-110).
const VERSION_MIN_ZSTD: i16 = 7;
const WHAT: &str = "Produce";

#[derive(Clone)]
pub(super) struct Sender {
    core: Rc<Core>,
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    leaders: RefCell<BTreeMap<i32, Leader>>,
    refreshing: Cell<bool>,
    identifying: Cell<bool>,
}

/// What is known of the way to one leader.
#[derive(Default)]
struct Leader {
    connection: Option<Connection>,
    connecting: bool,
    in_flight: usize,
}

/// A batch taken from its queue, to be sent.
struct Sending {
    queue: usize,
    partition: i32,
    topic: Rc<str>,
    batch: SealedBatch,
    bytes: Bytes,
}

#[derive(Default)]
struct Plan {
    batches: Vec<Sending>,
    bytes: usize,
}

/// What a round found out besides the plans.
#[derive(Default)]
struct Round {
    plans: BTreeMap<i32, Plan>,
    /// Batches that failed without being sent.
    failed: Vec<(SealedBatch, ClientError)>,
    wake_at: Option<time::Instant>,
    needs_metadata: bool,
    needs_identity: bool,
    needs_connection: Vec<i32>,
}

impl Round {
    fn wake_at(&mut self, at: time::Instant) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

impl Sender {
    pub(super) fn new(core: Rc<Core>) -> Self {
        Self { core, shared: Rc::default() }
    }

    pub(super) async fn run(self) {
        loop {
            if self.core.closed.get() {
                self.fail_all(&ClientError::Closed);
                return;
            }
            let fatal = self.core.fatal.borrow().clone();
            if let Some(error) = fatal {
                self.fail_all(&error);
            }
            match self.send_all() {
                None => self.core.wake.notified().await,
                Some(at) => {
                    let pause = at.saturating_duration_since(time::Instant::now());
                    // Either way the next rounds look at everything.
                    let _ = time::timeout(pause, self.core.wake.notified()).await;
                }
            }
        }
    }

    /// Rounds until there is nothing that could be sent now. Says when there will be.
    fn send_all(&self) -> Option<time::Instant> {
        loop {
            let round = self.round(time::Instant::now());
            for (batch, error) in round.failed {
                self.settle(batch, Err(error));
            }
            if round.needs_metadata {
                self.refresh_metadata();
            }
            if round.needs_identity {
                self.ask_identity();
            }
            for leader in round.needs_connection {
                self.connect(leader);
            }
            if round.plans.is_empty() {
                return round.wake_at;
            }
            for (leader, plan) in round.plans {
                self.submit(leader, plan.batches);
            }
        }
    }

    fn round(&self, now: time::Instant) -> Round {
        let mut round = Round::default();
        let mut active = std::mem::take(&mut *self.core.active.borrow_mut());
        // Where a request is full before all had their turn, another one begins the next.
        if !active.is_empty() {
            active.rotate_left(1);
        }
        let mut partitions = self.core.partitions.borrow_mut();
        active.retain(|&queue| {
            let partition = &mut partitions[queue];
            self.consider(queue, partition, now, &mut round);
            partition.listed = !partition.is_idle();
            partition.listed
        });
        drop(partitions);
        let mut listed = self.core.active.borrow_mut();
        assert!(listed.is_empty(), "nobody else ran during the round");
        *listed = active;
        round
    }

    /// Adds a partition's next batch to its leader's request, if it may be sent now.
    fn consider(&self, queue: usize, it: &mut PartitionQueue, now: time::Instant, round: &mut Round) {
        let core = &self.core;
        if it.is_draining() && it.in_flight > 0 {
            return;
        }
        self.expire(it, now, round);
        if let Some(at) = it.again_at.filter(|at| *at > now) {
            round.wake_at(at);
            return;
        }
        if it.ready.is_empty() {
            let Some(opened_at) = it.opened_at() else {
                return;
            };
            let due = opened_at + core.options.linger;
            let full = core.buffered_bytes.get() >= core.options.buffer_bytes;
            if due > now && core.flushes.get() == 0 && !full {
                round.wake_at(due);
                return;
            }
            it.seal();
        }
        if it.in_flight >= core.options.in_flight_max {
            return;
        }
        if core.options.idempotent && it.identity.is_none() {
            it.identity = core.identity.get();
            it.next_sequence = 0;
            if it.identity.is_none() {
                round.needs_identity = true;
                return;
            }
        }
        let leader = match core.client.leader(&it.topic, it.partition) {
            Ok((leader, _)) => leader,
            Err(error) => {
                self.pause(it, error, now);
                round.needs_metadata = true;
                round.wake_at(it.again_at.expect("just set"));
                return;
            }
        };
        if self.leader_is_ready(leader, round) {
            self.plan(queue, it, leader, now, round);
        }
    }

    fn leader_is_ready(&self, leader: i32, round: &mut Round) -> bool {
        let mut leaders = self.shared.leaders.borrow_mut();
        let state = leaders.entry(leader).or_default();
        let works = state.connection.as_ref().is_some_and(|it| it.closed().is_none());
        if !works {
            if !state.connecting {
                state.connecting = true;
                round.needs_connection.push(leader);
            }
            return false;
        }
        state.in_flight < self.core.options.in_flight_max
    }

    fn plan(
        &self,
        queue: usize,
        it: &mut PartitionQueue,
        leader: i32,
        now: time::Instant,
        round: &mut Round,
    ) {
        let plan = round.plans.entry(leader).or_default();
        let front = it.ready.front().expect("sealed or waiting");
        if !plan.batches.is_empty() && plan.bytes + front.bytes > self.core.options.request_bytes_max {
            return;
        }
        let mut batch = it.ready.pop_front().expect("sealed or waiting");
        match batch.encode(&self.core.options, it.identity, &mut it.next_sequence) {
            Ok(bytes) => {
                plan.bytes += bytes.len();
                batch.sent_at = Some(now);
                it.in_flight += 1;
                plan.batches.push(Sending {
                    queue,
                    partition: it.partition,
                    topic: Rc::clone(&it.topic),
                    batch,
                    bytes,
                });
            }
            Err(error) => {
                let error = ClientError::BadBatch {
                    topic: it.topic.to_string(),
                    partition: it.partition,
                    offset: -1,
                    reason: error.to_string(),
                };
                round.failed.push((batch, error));
            }
        }
        if round.plans.get(&leader).is_some_and(|plan| plan.batches.is_empty()) {
            round.plans.remove(&leader);
        }
    }

    /// Gives up on batches that have waited too long; they are at the front, being the oldest.
    fn expire(&self, it: &mut PartitionQueue, now: time::Instant, round: &mut Round) {
        let limit = self.core.options.delivery_timeout;
        while let Some(front) = it.ready.front()
            && front.opened_at + limit <= now
        {
            let batch = it.ready.pop_front().expect("just seen");
            let last = it.last_error.clone().unwrap_or_else(|| ClientError::NoLeader {
                topic: it.topic.to_string(),
                partition: it.partition,
            });
            let gave_up = ClientError::GaveUp {
                what: format!("producing to {}-{}", it.topic, it.partition),
                after: limit,
                last: Box::new(last),
            };
            let error = match batch.ambiguous {
                true => ClientError::OutcomeUnknown { last: Box::new(gave_up) },
                false => gave_up,
            };
            if batch.identity.is_some() {
                self.lose_identity(it);
            }
            round.failed.push((batch, error));
        }
        if it.is_draining() && it.in_flight == 0 {
            round.failed.extend(it.requeue().into_iter().map(unknown_outcome));
        }
    }

    /// A sequence of this partition will never be written: what follows needs another producer id.
    fn lose_identity(&self, it: &mut PartitionQueue) {
        it.identity_lost = true;
        if it.identity.is_some() && self.core.identity.get() == it.identity {
            self.core.identity.set(None);
        }
    }

    /// Nothing of this partition is sent for a while, longer each time.
    fn pause(&self, it: &mut PartitionQueue, error: ClientError, now: time::Instant) {
        let retry = self.core.client.options().retry;
        let pause = retry.backoff_min.saturating_mul(1 << it.attempts.min(16));
        it.attempts = it.attempts.saturating_add(1);
        it.again_at = Some(now + pause.min(retry.backoff_max));
        it.last_error = Some(error);
    }

    fn submit(&self, leader: i32, batches: Vec<Sending>) {
        let connection = {
            let mut leaders = self.shared.leaders.borrow_mut();
            let state = leaders.entry(leader).or_default();
            state.in_flight += 1;
            state.connection.clone().expect("planned only over a connection that works")
        };
        match self.write(&connection, &batches) {
            Ok((version, reply)) => {
                let sender = self.clone();
                task::spawn(async move {
                    let result = reply.wait().await;
                    sender.replied(leader, &connection, version, batches, result);
                });
            }
            Err(error) => self.completed(leader, batches, Err(error)),
        }
    }

    fn write(
        &self,
        connection: &Connection,
        batches: &[Sending],
    ) -> Result<(i16, PendingReply), ClientError> {
        let options = &self.core.options;
        let min = match options.codec {
            Codec::Zstd => VERSION_MIN_ZSTD,
            Codec::None | Codec::Gzip | Codec::Snappy | Codec::Lz4 => VERSION_MIN,
        };
        let max = *Api::Produce.versions().end();
        let version = connection.pick(Api::Produce.key(), min, max)?;
        let mut topics: Vec<ProduceTopic<Bytes>> = Vec::new();
        for sending in batches {
            let partition = ProducePartition { index: sending.partition, records: sending.bytes.clone() };
            match topics.iter_mut().find(|topic| topic.name == sending.topic.as_ref()) {
                Some(topic) => topic.partitions.push(partition),
                None => {
                    topics.push(ProduceTopic { name: sending.topic.to_string(), partitions: vec![partition] })
                }
            }
        }
        let timeout = connection.request_timeout();
        let request = ProduceRequest {
            transactional_id: None,
            acks: options.acks.to_wire(),
            timeout_ms: i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX),
            topics,
        };
        let correlation_id = connection.next_correlation();
        let frame = request.encode(version, correlation_id, connection.client_id());
        let reply = match options.acks {
            Acks::None => Reply::None,
            Acks::Leader | Acks::All => Reply::Expected,
        };
        let pending = connection.submit(correlation_id, frame, reply, WHAT, timeout)?;
        Ok((version, pending))
    }

    fn replied(
        &self,
        leader: i32,
        connection: &Connection,
        version: i16,
        batches: Vec<Sending>,
        result: Result<Bytes, ClientError>,
    ) {
        let result = match result {
            Ok(_written) if self.core.options.acks == Acks::None => Ok(None),
            Ok(frame) => ProduceResponse::decode(version, &frame)
                .map(|(_, response)| Some(response))
                .map_err(|error| connection.protocol_error(WHAT, error.to_string())),
            Err(error) => Err(error),
        };
        self.completed(leader, batches, result);
    }

    /// A request's outcome is known. `Ok(None)` is acks=0.
    fn completed(
        &self,
        leader: i32,
        batches: Vec<Sending>,
        result: Result<Option<ProduceResponse>, ClientError>,
    ) {
        if let Some(state) = self.shared.leaders.borrow_mut().get_mut(&leader) {
            state.in_flight -= 1;
        }
        let mut answers = result.map(|response| response.map(by_partition));
        for sending in batches {
            let outcome = match &mut answers {
                Ok(None) => Ok(None),
                Ok(Some(answers)) => {
                    read_answer(&sending, answers.remove(&(sending.topic.to_string(), sending.partition)))
                }
                Err(error) => Err(error.clone()),
            };
            self.batch_completed(sending, outcome);
        }
        self.core.wake.notify_one();
    }

    fn batch_completed(&self, sending: Sending, outcome: Result<Option<i64>, ClientError>) {
        let Sending { queue, mut batch, .. } = sending;
        let mut settled = Vec::new();
        let mut needs_metadata = false;
        {
            let mut partitions = self.core.partitions.borrow_mut();
            let it = &mut partitions[queue];
            it.in_flight -= 1;
            match outcome {
                Ok(base_offset) => {
                    it.attempts = 0;
                    it.again_at = None;
                    settled.push((batch, Ok(base_offset)));
                }
                Err(error) if self.core.closed.get() => settled.push((batch, Err(error))),
                Err(error) if self.may_be_sent_again(it, &batch, &error) => {
                    batch.ambiguous |= !matches!(error, ClientError::Refused { .. });
                    needs_metadata = true;
                    if error.code() == Some(ErrorCode::UnknownProducerId) {
                        self.lose_identity(it);
                    }
                    self.pause(it, error, time::Instant::now());
                    it.returned.push(batch);
                    self.list(queue, it);
                }
                Err(error) => {
                    if batch.identity.is_some() {
                        self.lose_identity(it);
                    }
                    settled.push((batch, Err(error)));
                }
            }
            if it.is_draining() && it.in_flight == 0 {
                let unknown = it.requeue().into_iter().map(unknown_outcome);
                settled.extend(unknown.map(|(batch, error)| (batch, Err(error))));
            }
        }
        if needs_metadata {
            self.refresh_metadata();
        }
        for (batch, outcome) in settled {
            self.settle(batch, outcome);
        }
    }

    fn may_be_sent_again(&self, it: &PartitionQueue, batch: &SealedBatch, error: &ClientError) -> bool {
        match error {
            // An earlier batch of the partition came back: this one arrived before it, that is all.
            ClientError::Refused { code: ErrorCode::OutOfOrderSequenceNumber, .. } => it.is_draining(),
            // The broker has forgotten the producer, so it has not written this.
            ClientError::Refused { code: ErrorCode::UnknownProducerId, .. } => batch.identity.is_some(),
            error => error.is_retriable(),
        }
    }

    fn list(&self, queue: usize, it: &mut PartitionQueue) {
        if !it.listed {
            it.listed = true;
            self.core.active.borrow_mut().push(queue);
        }
    }

    /// Outside of every borrow: callers are told here.
    fn settle(&self, batch: SealedBatch, outcome: Result<Option<i64>, ClientError>) {
        let (id, bytes) = (batch.id(), batch.bytes);
        if let Err(error) = &outcome {
            tracing::debug!(batch = id, %error, "batch failed");
        }
        batch.settle(outcome, &self.core.options);
        self.core.settled(id, bytes);
    }

    fn fail_all(&self, error: &ClientError) {
        let mut failed = Vec::new();
        for it in self.core.partitions.borrow_mut().iter_mut() {
            it.seal();
            failed.extend(it.returned.drain(..));
            failed.extend(it.ready.drain(..));
        }
        for batch in failed {
            let error = match batch.ambiguous {
                true => ClientError::OutcomeUnknown { last: Box::new(error.clone()) },
                false => error.clone(),
            };
            self.settle(batch, Err(error));
        }
    }

    fn refresh_metadata(&self) {
        if self.shared.refreshing.replace(true) {
            return;
        }
        let sender = self.clone();
        task::spawn(async move {
            if let Err(error) = sender.core.client.refresh(AutoCreate::No).await {
                tracing::debug!(%error, "metadata could not be refreshed");
            }
            sender.shared.refreshing.set(false);
            sender.core.wake.notify_one();
        });
    }

    fn ask_identity(&self) {
        if self.shared.identifying.replace(true) {
            return;
        }
        let sender = self.clone();
        task::spawn(async move {
            match sender.new_identity().await {
                Ok(identity) => sender.core.identity.set(Some(identity)),
                Err(error) => *sender.core.fatal.borrow_mut() = Some(error),
            }
            sender.shared.identifying.set(false);
            sender.core.wake.notify_one();
        });
    }

    async fn new_identity(&self) -> Result<Identity, ClientError> {
        let what = || "asking for a producer id".to_owned();
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(i32::MAX)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let mut retry = self.core.client.retry();
        loop {
            let response = self.core.client.call_any(&what(), &request).await?;
            match ClientError::check(response.error_code, None, what) {
                Ok(()) => {
                    return Ok(Identity {
                        producer_id: response.producer_id.0,
                        producer_epoch: response.producer_epoch,
                    });
                }
                Err(error) => retry.after(&what(), error).await?,
            }
        }
    }

    fn connect(&self, leader: i32) {
        let sender = self.clone();
        task::spawn(async move {
            let result = sender.core.client.node(leader, Lane::Produce).await;
            let failed = result.as_ref().err().cloned();
            if let Some(error) = failed {
                tracing::debug!(leader, %error, "the leader cannot be reached");
                sender.note_unreachable(leader, &error);
                sender.refresh_metadata();
                let pause: Duration = sender.core.client.options().retry.backoff_min;
                time::sleep(pause).await;
            }
            if let Some(state) = sender.shared.leaders.borrow_mut().get_mut(&leader) {
                state.connecting = false;
                state.connection = result.ok();
            }
            sender.core.wake.notify_one();
        });
    }

    /// So that a batch that expires says why.
    fn note_unreachable(&self, leader: i32, error: &ClientError) {
        for it in self.core.partitions.borrow_mut().iter_mut().filter(|it| it.listed) {
            let led = self.core.client.leader(&it.topic, it.partition);
            if led.is_ok_and(|(id, _)| id == leader) {
                it.last_error = Some(error.clone());
            }
        }
    }
}

fn unknown_outcome(batch: SealedBatch) -> (SealedBatch, ClientError) {
    let last = Box::new(ClientError::Refused {
        what: "an earlier batch".to_owned(),
        code: ErrorCode::OutOfOrderSequenceNumber,
        message: None,
    });
    (batch, ClientError::OutcomeUnknown { last })
}

type Answers = BTreeMap<(String, i32), ProducePartitionResponse>;

fn by_partition(response: ProduceResponse) -> Answers {
    let mut answers = Answers::new();
    for topic in response.topics {
        for partition in topic.partitions {
            answers.insert((topic.name.clone(), partition.index), partition);
        }
    }
    answers
}

fn read_answer(
    sending: &Sending,
    answer: Option<ProducePartitionResponse>,
) -> Result<Option<i64>, ClientError> {
    let what = || format!("producing to {}-{}", sending.topic, sending.partition);
    let Some(answer) = answer else {
        return Err(ClientError::Refused {
            what: what(),
            code: ErrorCode::UnknownServerError,
            message: Some("the answer leaves the partition out".to_owned()),
        });
    };
    match answer.error {
        ErrorCode::None => Ok((answer.base_offset >= 0).then_some(answer.base_offset)),
        // Written already, and so long ago that the broker no longer knows where.
        ErrorCode::DuplicateSequenceNumber => Ok(None),
        code => {
            let of_record = answer.record_errors.into_iter().find_map(|record| record.message);
            Err(ClientError::Refused { what: what(), code, message: answer.error_message.or(of_record) })
        }
    }
}
