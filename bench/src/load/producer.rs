//! One producer: draws records when they are due, batches them, sends them, times the replies.
//!
//! Runs on one executor. In an open loop a record is due at its intended time whatever the broker
//! does; what cannot be sent then waits in the schedule, and its wait counts. With idempotence a
//! batch whose connection broke is sent again, in order, until it is answered or the run ends;
//! otherwise its records are undecided.

mod replies;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use corelog_net::client::ClientError;
use corelog_net::client::partitioner::partition_for_key;
use corelog_protocol::api::Api;
use corelog_protocol::batch::Codec;
use corelog_protocol::produce::{ProducePartition, ProduceRequest, ProduceTopic};
use corelog_runtime::{task, time};
use futures_util::future::select;
use kafka_protocol::messages::InitProducerIdRequest;
use tokio::sync::Notify;

use super::arrivals::Schedule;
use super::batch::{BatchLimits, ClosedBatch, Identity, OpenBatch, OpenOrder, Take};
use super::link::{Broken, Link, Owner};
use super::payload::{Record, Records};
use super::recorder::{Counts, Recorder, Side};
use super::routes::Routes;
use super::shared::{Clock, Shared};
use super::stamp::Stamp;
use super::verify;
use crate::plan::{Acks, Arrivals, Keys, Plan};

/// First version of Produce with record batches of format 2, the first with zstd, the last here.
const VERSION_MIN: i16 = 3;
const VERSION_MIN_ZSTD: i16 = 7;
const VERSION_MAX: i16 = 12;
/// A request takes batches of several partitions up to this size, as Kafka's own producer does.
const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Records drawn between two looks at the clock.
const DRAWN_AT_ONCE: u32 = 64;
const CLIENT_ID: &str = "corelog-bench";
/// After the end of an overloaded open loop, what is due is still sent for this share of its
/// duration, and this long at least.
const OVERTIME_SHARE: f64 = 0.2;
const OVERTIME_MIN: Duration = Duration::from_secs(2);

type Request = Vec<ClosedBatch>;

/// What it sends to one leader.
struct Leader {
    link: Option<Link<Request>>,
    version: i16,
    in_flight: usize,
    open: OpenOrder,
    /// Sent before on a connection that broke, to be sent again first.
    again: VecDeque<Request>,
}

struct State {
    records: Records,
    /// By partition of the run.
    open: Vec<Option<OpenBatch>>,
    /// Numbers of the next record, by partition of the run: for verification, for idempotence.
    next_sequence: Vec<u64>,
    next_idempotent: Vec<i32>,
    undecided: BTreeMap<usize, Vec<Range<u64>>>,
    leaders: BTreeMap<i32, Leader>,
    /// Where records without a key go until that batch is complete.
    current_part: usize,
    /// Drawn, and its batch is full.
    held: Option<(Record, u64)>,
    drawn: u64,
}

/// One producer of a run.
pub(super) struct Producer {
    index: u32,
    plan: Plan,
    shared: Arc<Shared>,
    routes: Rc<Routes>,
    clock: Rc<Clock>,
    recorder: Rc<Recorder>,
    identity: Option<Identity>,
    limits: BatchLimits,
    linger_ns: u64,
    /// After so many records it is done.
    records_max: u64,
    state: RefCell<State>,
    wake: Notify,
    /// The broker kept it from drawing a record when it was due.
    was_held_back: Cell<bool>,
    /// It looks for the leaders at the moment.
    is_following: Cell<bool>,
    /// What breaks now breaks because it is done.
    is_ended: Cell<bool>,
    this: Weak<Self>,
}

impl Producer {
    /// Connects it to every leader.
    pub(super) async fn new(
        index: u32,
        shared: Arc<Shared>,
        routes: Rc<Routes>,
        clock: Rc<Clock>,
        recorder: Rc<Recorder>,
    ) -> Result<Rc<Self>> {
        let plan = shared.plan.clone();
        let identity = match plan.idempotent {
            true => Some(new_identity(&routes).await?),
            false => None,
        };
        let parts = routes.parts.len();
        let state = State {
            records: Records::new(&plan, Arc::clone(&shared.pool), index),
            open: (0..parts).map(|_| None).collect(),
            next_sequence: vec![0; parts],
            next_idempotent: vec![0; parts],
            undecided: BTreeMap::new(),
            leaders: BTreeMap::new(),
            current_part: usize::try_from(index)? % parts,
            held: None,
            drawn: 0,
        };
        let producers = plan.producers as u64;
        let share = |total: u64| total / producers + u64::from(u64::from(index) < total % producers);
        let producer = Rc::new_cyclic(|this| Self {
            index,
            limits: BatchLimits {
                bytes: plan.batch_bytes,
                records: plan
                    .batch_records
                    .map_or(usize::MAX, |it| usize::try_from(it).unwrap_or(usize::MAX)),
            },
            linger_ns: u64::try_from(Duration::from_secs_f64(plan.linger_ms / 1e3).as_nanos())
                .unwrap_or(u64::MAX),
            records_max: plan.records.map_or(u64::MAX, share),
            plan,
            shared,
            routes: Rc::clone(&routes),
            clock,
            recorder,
            identity,
            state: RefCell::new(state),
            wake: Notify::new(),
            was_held_back: Cell::new(false),
            is_following: Cell::new(false),
            is_ended: Cell::new(false),
            this: Weak::clone(this),
        });
        for node in routes.nodes() {
            producer.connect(node).await?;
        }
        Ok(producer)
    }

    async fn connect(&self, node: i32) -> Result<()> {
        let least = if self.plan.codec == Codec::Zstd { VERSION_MIN_ZSTD } else { VERSION_MIN };
        let version = self.routes.version(node, Api::Produce, (least, VERSION_MAX)).await?;
        let stream = self.routes.connect(node).await?;
        let owner: Weak<dyn Owner<Request>> = self.this.clone();
        let link = Link::new(node, stream, Rc::clone(&self.clock), owner);
        let mut state = self.state.borrow_mut();
        let leader = state.leader(node);
        leader.link = Some(link);
        leader.version = version;
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Produces until the end of the measured phase, and waits for the last reply.
    pub(super) async fn run(self: Rc<Self>) {
        task::spawn(Rc::clone(&self).watch_time_outs());
        match self.plan.arrivals {
            Arrivals::Constant | Arrivals::Poisson => self.open_loop().await,
            Arrivals::Closed | Arrivals::Max => self.as_fast_as_answered().await,
        }
        self.drain().await;
        self.account();
        self.shared.producer_ended(self.clock.now_ns());
    }

    /// Sends every record when it is due.
    async fn open_loop(&self) {
        let end_ns = self.shared.phases.measured.end;
        let overtime = OVERTIME_MIN.max(Duration::from_secs_f64(self.plan.duration_s * OVERTIME_SHARE));
        let stop_ns = end_ns.saturating_add(u64::try_from(overtime.as_nanos()).unwrap_or(u64::MAX));
        let mut schedule = self.schedule();
        loop {
            let now_ns = self.clock.now_ns();
            let is_over = self.is_stopping() || now_ns >= stop_ns;
            let is_drawn = self.draw_due(&mut schedule, end_ns, now_ns);
            if is_over {
                self.count_unsent(&mut schedule, end_ns.min(now_ns));
                return;
            }
            self.send_ready(now_ns, false);
            if is_drawn && self.state.borrow().held.is_none() {
                return;
            }
            let next = match self.state.borrow().held {
                Some(_) => None,
                None => Some(schedule.peek_ns().min(end_ns)),
            };
            let wait_until = match (next, self.next_linger_ns()) {
                (Some(due), Some(linger)) => Some(due.min(linger)),
                (due, linger) => due.or(linger),
            };
            self.wait(wait_until.map(|at| at.min(stop_ns))).await;
        }
    }

    fn schedule(&self) -> Schedule {
        let rate = self.plan.records_per_s().expect("a plan is checked before it is run");
        let producers = f64::from(u32::try_from(self.plan.producers).expect("checked: at most 10,000"));
        let place = f64::from(self.index) / producers;
        let seed = self.plan.seed ^ (u64::from(self.index) << 32);
        Schedule::new(self.plan.arrivals, rate / producers, place, seed)
    }

    /// Draws what is due; whether nothing is left to draw, ever.
    fn draw_due(&self, schedule: &mut Schedule, end_ns: u64, now_ns: u64) -> bool {
        let mut now_ns = now_ns;
        let mut until_look = DRAWN_AT_ONCE;
        let mut state = self.state.borrow_mut();
        loop {
            let (record, intended_ns) = match state.held.take() {
                Some(held) => held,
                None => {
                    let due_ns = schedule.peek_ns();
                    if due_ns >= end_ns || state.drawn >= self.records_max {
                        return true;
                    }
                    if due_ns > now_ns {
                        self.was_held_back.set(false);
                        return false;
                    }
                    state.drawn += 1;
                    if !self.was_held_back.get() {
                        self.recorder.own_lag(due_ns, now_ns);
                    }
                    (state.records.next(), schedule.take_ns())
                }
            };
            drop(state);
            let is_added = self.add(record, intended_ns, now_ns);
            state = self.state.borrow_mut();
            if let Some(record) = is_added {
                state.held = Some((record, intended_ns));
                self.was_held_back.set(true);
                return false;
            }
            until_look -= 1;
            if until_look == 0 {
                until_look = DRAWN_AT_ONCE;
                drop(state);
                now_ns = self.clock.now_ns();
                self.send_ready(now_ns, false);
                state = self.state.borrow_mut();
            }
        }
    }

    /// Adds a record to its partition's batch; gives it back when that is full and cannot leave.
    fn add(&self, record: Record, intended_ns: u64, now_ns: u64) -> Option<Record> {
        let (part, bytes) = {
            let state = self.state.borrow();
            let key = record.key();
            (self.part_of(&state, key), key.map_or(0, <[u8]>::len) + record.value_bytes())
        };
        let has_room =
            |state: &State| state.open[part].as_ref().is_none_or(|batch| batch.has_room(bytes, self.limits));
        if !has_room(&self.state.borrow()) {
            self.send_ready(now_ns, false);
            if !has_room(&self.state.borrow()) {
                return Some(record);
            }
        }
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.open[part].is_none() {
            let leader = self.routes.leader(part);
            state.leader(leader).open.push(part);
        }
        let sequence = state.next_sequence[part];
        let open = state.open[part].get_or_insert_with(|| OpenBatch::new(self.plan.codec, now_ns, sequence));
        self.push(&mut state.records, open, &record, intended_ns, sequence);
        state.next_sequence[part] = sequence + 1;
        if open.is_full(self.limits) {
            self.next_part(state);
        }
        None
    }

    fn push(
        &self,
        records: &mut Records,
        open: &mut OpenBatch,
        record: &Record,
        intended_ns: u64,
        sequence: u64,
    ) {
        let stamp = Stamp { run: self.shared.run, producer: self.index, sequence, intended_ns };
        let value = records.value(record, self.plan.verify.then_some(&stamp));
        open.push(intended_ns, self.clock.unix_ms(intended_ns), record.key(), value);
    }

    fn part_of(&self, state: &State, key: Option<&[u8]>) -> usize {
        match key {
            None => state.current_part,
            Some(key) => {
                let parts =
                    i32::try_from(self.routes.parts.len()).expect("partitions are counted in 32 bits");
                usize::try_from(partition_for_key(key, parts)).expect("not negative")
            }
        }
    }

    /// Records without a key go to the next partition with the next batch.
    fn next_part(&self, state: &mut State) {
        if self.plan.keys == Keys::None {
            state.current_part = (state.current_part + 1) % self.routes.parts.len();
        }
    }

    /// Sends what is complete, or has waited long enough, as far as there may be more in flight.
    fn send_ready(&self, now_ns: u64, is_last: bool) {
        let nodes: smallvec::SmallVec<[i32; 4]> = self.state.borrow().leaders.keys().copied().collect();
        for node in nodes {
            while let Some(request) = self.next_request(node, now_ns, is_last) {
                self.send(node, request);
            }
        }
    }

    fn next_request(&self, node: i32, now_ns: u64, is_last: bool) -> Option<Request> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let in_flight_max = self.plan.in_flight;
        let leader = state.leaders.get_mut(&node)?;
        if leader.link.is_none() || leader.in_flight >= in_flight_max {
            return None;
        }
        if let Some(again) = leader.again.pop_front() {
            return Some(again);
        }
        let mut request = Vec::new();
        let mut bytes = 0;
        let mut turned = false;
        let open = &mut state.open;
        let current_part = state.current_part;
        leader.open.take(|part| {
            let batch = open[part].as_ref().expect("listed while it is open");
            let is_due = now_ns >= batch.opened_ns.saturating_add(self.linger_ns);
            if !(is_due || is_last || batch.is_full(self.limits)) {
                return Take::No;
            }
            if bytes >= REQUEST_BYTES_MAX {
                return Take::Stop;
            }
            let batch = open[part].take().expect("just looked at");
            let sequence = &mut state.next_idempotent[part];
            let closed =
                batch.close(part, self.identity, sequence).expect("the codecs write what they are given");
            bytes += closed.batch.len();
            turned |= part == current_part;
            request.push(closed);
            Take::Yes
        });
        if turned {
            self.next_part(state);
        }
        (!request.is_empty()).then_some(request)
    }

    fn send(&self, node: i32, request: Request) {
        let mut state = self.state.borrow_mut();
        let leader = state.leader(node);
        leader.in_flight += 1;
        let version = leader.version;
        let link = leader.link.clone().expect("looked at before a request is made");
        drop(state);
        let is_answered = self.plan.acks != Acks::None;
        link.send(request, is_answered, |request, id| self.encode(request, version, id));
    }

    fn encode(&self, request: &Request, version: i16, correlation_id: i32) -> Vec<Bytes> {
        let mut topics: Vec<(usize, ProduceTopic<Bytes>)> = Vec::with_capacity(1);
        for batch in request {
            let part = &self.routes.parts[batch.part];
            let partition = ProducePartition { index: part.partition, records: batch.batch.clone() };
            match topics.iter_mut().find(|(topic, _)| *topic == part.topic) {
                Some((_, topic)) => topic.partitions.push(partition),
                None => {
                    let name = self.routes.topics[part.topic].name.to_string();
                    topics.push((part.topic, ProduceTopic { name, partitions: vec![partition] }));
                }
            }
        }
        let request = ProduceRequest {
            transactional_id: None,
            acks: match self.plan.acks {
                Acks::None => 0,
                Acks::Leader => 1,
                Acks::All => -1,
            },
            timeout_ms: i32::try_from(self.request_timeout().as_millis()).unwrap_or(i32::MAX),
            topics: topics.into_iter().map(|(_, topic)| topic).collect(),
        };
        request.encode(version, correlation_id, CLIENT_ID)
    }

    fn request_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.plan.request_timeout_s)
    }

    /// When the batch that was opened first has waited long enough; `None` when nothing waits for
    /// that, but for a reply or for records.
    fn next_linger_ns(&self) -> Option<u64> {
        let state = self.state.borrow();
        let waits = |leader: &Leader| leader.link.is_some() && leader.in_flight < self.plan.in_flight;
        let first = |leader: &Leader| {
            let part = leader.open.first()?;
            state.open[part].as_ref().map(|batch| batch.opened_ns.saturating_add(self.linger_ns))
        };
        state.leaders.values().filter(|leader| waits(leader)).filter_map(first).min()
    }

    /// A request of one full batch for every reply.
    async fn as_fast_as_answered(&self) {
        let in_flight_max = if self.plan.arrivals == Arrivals::Closed { 1 } else { self.plan.in_flight };
        let end_ns = self.shared.phases.measured.end;
        loop {
            let now_ns = self.clock.now_ns();
            let is_over = self.state.borrow().drawn >= self.records_max;
            if is_over || now_ns >= end_ns || self.is_stopping() {
                return;
            }
            match self.fill_one(in_flight_max, now_ns) {
                Some((node, request)) => {
                    self.send(node, request);
                    // The link's tasks write and read meanwhile.
                    task::yield_if_needed().await;
                }
                None => self.wait(Some(end_ns)).await,
            }
        }
    }

    /// One request of one full batch, if a leader takes one.
    fn fill_one(&self, in_flight_max: usize, now_ns: u64) -> Option<(i32, Request)> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if self.plan.keys == Keys::None {
            let node = self.routes.leader(state.current_part);
            let again = state.takes_one(node, in_flight_max)?;
            if let Some(again) = again {
                return Some((node, again));
            }
        }
        loop {
            if state.drawn >= self.records_max {
                // The rest leaves with what is left at the end.
                return None;
            }
            let (record, _) = match state.held.take() {
                Some(held) => held,
                None => (state.records.next(), now_ns),
            };
            let part = self.part_of(state, record.key());
            let node = self.routes.leader(part);
            let bytes = record.key().map_or(0, <[u8]>::len) + record.value_bytes();
            let has_room = state.open[part].as_ref().is_none_or(|batch| batch.has_room(bytes, self.limits));
            if !has_room {
                state.held = Some((record, now_ns));
                return self.complete(state, part, in_flight_max);
            }
            if state.open[part].is_none() {
                state.leader(node).open.push(part);
            }
            let sequence = state.next_sequence[part];
            let open =
                state.open[part].get_or_insert_with(|| OpenBatch::new(self.plan.codec, now_ns, sequence));
            self.push(&mut state.records, open, &record, now_ns, sequence);
            state.next_sequence[part] = sequence + 1;
            state.drawn += 1;
            if open.is_full(self.limits) {
                return self.complete(state, part, in_flight_max);
            }
        }
    }

    /// A request of the full batch of `part`, if its leader takes one.
    fn complete(&self, state: &mut State, part: usize, in_flight_max: usize) -> Option<(i32, Request)> {
        let node = self.routes.leader(part);
        if let Some(again) = state.takes_one(node, in_flight_max)? {
            return Some((node, again));
        }
        let batch = state.open[part].take()?;
        let leader = state.leader(node);
        leader.open.take(|open| if open == part { Take::Yes } else { Take::No });
        let sequence = &mut state.next_idempotent[part];
        let closed =
            batch.close(part, self.identity, sequence).expect("the codecs write what they are given");
        self.next_part(state);
        Some((node, vec![closed]))
    }

    /// Waits until something changed, or until then.
    async fn wait(&self, until_ns: Option<u64>) {
        let woken = std::pin::pin!(self.wake.notified());
        match until_ns {
            Some(at) if at < u64::MAX / 2 => {
                let due = std::pin::pin!(time::sleep_until(self.clock.at(at)));
                select(due, woken).await;
            }
            _ => woken.await,
        }
    }

    fn is_stopping(&self) -> bool {
        corelog_runtime::shards::stop_signal().is_raised()
    }

    /// Sends what is left, and waits for the replies.
    async fn drain(&self) {
        let limit = time::Instant::now() + self.request_timeout() + OVERTIME_MIN;
        loop {
            self.send_ready(self.clock.now_ns(), true);
            let is_done = self
                .state
                .borrow()
                .leaders
                .values()
                .all(|leader| leader.in_flight == 0 && leader.again.is_empty() && leader.open.is_empty());
            if is_done || time::Instant::now() >= limit || self.is_stopping() {
                break;
            }
            let due = std::pin::pin!(time::sleep_until(limit));
            select(due, std::pin::pin!(self.wake.notified())).await;
        }
        self.is_ended.set(true);
        let links: Vec<_> = self.state.borrow().leaders.values().filter_map(|it| it.link.clone()).collect();
        for link in links {
            link.close(&Broken::TimedOut);
        }
        self.give_up_the_rest();
    }

    /// What was drawn and never acknowledged may be there or not.
    fn give_up_the_rest(&self) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let mut unanswered: Vec<ClosedBatch> = Vec::new();
        for leader in state.leaders.values_mut() {
            unanswered.extend(leader.again.drain(..).flatten());
        }
        for (part, open) in state.open.iter_mut().enumerate() {
            if let Some(batch) = open.take() {
                unanswered.extend(batch.close(part, None, &mut 0).ok());
            }
        }
        unanswered.iter().for_each(|batch| state.give_up(batch));
        let timeouts = unanswered.iter().map(ClosedBatch::records).sum();
        self.recorder.count(Side::Produced, self.clock.now_ns(), &Counts { timeouts, ..Counts::default() });
    }

    /// Records whose time came before `until_ns`, and that never were.
    fn count_unsent(&self, schedule: &mut Schedule, until_ns: u64) {
        let mut unsent = u64::from(self.state.borrow_mut().held.take().is_some());
        let left = self.records_max.saturating_sub(self.state.borrow().drawn);
        while schedule.peek_ns() < until_ns && unsent < left {
            schedule.take_ns();
            unsent += 1;
        }
        self.shared.live.unsent.fetch_add(unsent, Relaxed);
    }

    /// Closes a link on which a reply is overdue.
    async fn watch_time_outs(self: Rc<Self>) {
        let timeout_ns = u64::try_from(self.request_timeout().as_nanos()).unwrap_or(u64::MAX);
        let pause = (self.request_timeout() / 10).min(Duration::from_secs(1));
        let this = Rc::downgrade(&self);
        drop(self);
        loop {
            time::sleep(pause).await;
            let Some(producer) = this.upgrade() else { return };
            let now_ns = producer.clock.now_ns();
            let links: Vec<_> =
                producer.state.borrow().leaders.values().filter_map(|it| it.link.clone()).collect();
            for link in links {
                if link.oldest_ns().is_some_and(|sent| now_ns.saturating_sub(sent) > timeout_ns) {
                    link.close(&Broken::TimedOut);
                }
            }
            if producer.is_stopping() {
                return;
            }
        }
    }

    /// Hands in what was sent.
    fn account(&self) {
        let state = self.state.borrow();
        let mut outcome = self.shared.outcome();
        for (part, next_sequence) in state.next_sequence.iter().enumerate() {
            if *next_sequence > 0 {
                let undecided = state.undecided.get(&part).cloned().unwrap_or_default();
                let part = u32::try_from(part).expect("partitions are counted in 32 bits");
                let sent = verify::Sent { next_sequence: *next_sequence, undecided };
                outcome.sent.insert((self.index, part), sent);
            }
        }
    }
}

impl State {
    fn leader(&mut self, node: i32) -> &mut Leader {
        self.leaders.entry(node).or_insert_with(|| Leader {
            link: None,
            version: VERSION_MIN,
            in_flight: 0,
            open: OpenOrder::default(),
            again: VecDeque::new(),
        })
    }

    /// Whether a leader takes one more request; what has to be sent again goes first.
    #[expect(clippy::option_option, reason = "may it take one, and is there one already")]
    fn takes_one(&mut self, node: i32, in_flight_max: usize) -> Option<Option<Request>> {
        let leader = self.leader(node);
        let may = leader.link.is_some() && leader.in_flight < in_flight_max;
        may.then(|| leader.again.pop_front())
    }

    /// Moves what waits for a leader to the one that leads now, in order.
    fn reroute(&mut self, routes: &Routes) {
        let has_moved = |node: i32, part: usize| routes.leader(part) != node;
        let mut moved: Vec<Request> = Vec::new();
        let mut opened: Vec<usize> = Vec::new();
        for (node, leader) in &mut self.leaders {
            for mut request in std::mem::take(&mut leader.again) {
                moved.extend(request.extract_if(.., |batch| has_moved(*node, batch.part)).map(|it| vec![it]));
                if !request.is_empty() {
                    leader.again.push_back(request);
                }
            }
            leader.open.take(|part| match has_moved(*node, part) {
                true => {
                    opened.push(part);
                    Take::Yes
                }
                false => Take::No,
            });
        }
        for request in moved {
            let node = routes.leader(request[0].part);
            self.leader(node).again.push_back(request);
        }
        for part in opened {
            self.leader(routes.leader(part)).open.push(part);
        }
    }

    /// Its records may be there or not.
    fn give_up(&mut self, batch: &ClosedBatch) {
        let range = batch.first_sequence..batch.first_sequence + batch.records();
        self.undecided.entry(batch.part).or_default().push(range);
    }
}

async fn new_identity(routes: &Routes) -> Result<Identity> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(i32::MAX)
        .with_producer_id((-1).into())
        .with_producer_epoch(-1);
    let what = "asking for a producer id";
    let response = routes.client().call_any(what, &request).await?;
    ClientError::check(response.error_code, None, || what.to_owned())?;
    Ok(Identity { producer_id: response.producer_id.0, producer_epoch: response.producer_epoch })
}
