//! What replies say, and what becomes of a request whose connection broke.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use corelog_protocol::error::ErrorCode;
use corelog_protocol::produce::{ProducePartitionResponse, ProduceResponse};
use corelog_runtime::{task, time};

use super::{Producer, Request};
use crate::load::batch::ClosedBatch;
use crate::load::link::{Broken, Link, Owner, Sent};
use crate::load::recorder::{Counts, Side};
use crate::plan::Acks;
use crate::result::report::Metric;

const RECONNECT_FIRST: Duration = Duration::from_millis(20);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

impl Producer {
    /// A batch was acknowledged.
    fn acknowledged(&self, batch: &ClosedBatch, sent_ns: u64, now_ns: u64) {
        for run in batch.intended_ns.chunk_by(|a, b| a == b) {
            let (intended, count) = (run[0], run.len() as u64);
            self.recorder.latency(Metric::Response, intended, intended, now_ns, count);
            self.recorder.latency(Metric::Service, intended, sent_ns, now_ns, count);
            self.recorder.latency(Metric::ScheduleLag, intended, intended, sent_ns, count);
        }
        let counts = Counts { records: batch.records(), bytes: batch.bytes, ..Counts::default() };
        self.recorder.count(Side::Produced, now_ns, &counts);
    }

    /// What a reply says of one batch; `Err` with what ends the connection, or the run.
    fn judge(&self, batch: &ClosedBatch, answer: Option<&ProducePartitionResponse>) -> Verdict {
        let Some(answer) = answer else {
            return Verdict::Broken("a reply without one of the request's partitions".to_owned());
        };
        match answer.error {
            ErrorCode::None | ErrorCode::DuplicateSequenceNumber => Verdict::Acknowledged,
            code if code.is_retriable() && self.plan.idempotent => Verdict::Broken(code.to_string()),
            code if code.is_retriable() => Verdict::Refused(code.to_string()),
            code => {
                let part = &self.routes.parts[batch.part];
                let topic = &self.routes.topics[part.topic].name;
                let detail = answer.error_message.as_ref().map(|it| format!(" ({it})")).unwrap_or_default();
                let partition = part.partition;
                Verdict::Fatal(anyhow!(
                    "producing to '{topic}' partition {partition} was refused: {code}{detail}"
                ))
            }
        }
    }

    /// What has to be sent again on a new connection, and why, if that is so.
    fn take_reply(
        &self,
        sent: Sent<Request>,
        reply: &[u8],
        version: i16,
    ) -> Result<Option<(Request, String)>> {
        let (_, response) =
            ProduceResponse::decode(version, reply).context("a produce was answered wrongly")?;
        let now_ns = self.clock.now_ns();
        let mut counts = Counts { requests: 1, ..Counts::default() };
        let mut again = Request::new();
        let mut why = None;
        for (place, batch) in sent.request.into_iter().enumerate() {
            let part = &self.routes.parts[batch.part];
            let answer = answer_to(&response, place, &self.routes.topics[part.topic].name, part.partition);
            match self.judge(&batch, answer) {
                Verdict::Acknowledged => self.acknowledged(&batch, sent.sent_ns, now_ns),
                Verdict::Refused(reason) => {
                    counts.errors += batch.records();
                    self.shared.blame(reason);
                    self.state.borrow_mut().give_up(&batch);
                    self.follow_leaders();
                }
                Verdict::Broken(reason) => {
                    why.get_or_insert(reason);
                    again.push(batch);
                }
                Verdict::Fatal(error) => return Err(error),
            }
        }
        self.recorder.count(Side::Produced, now_ns, &counts);
        Ok(why.map(|why| (again, why)))
    }

    /// What became of a request is not known. With idempotence it is sent again, after those that
    /// were taken back before it, until it is answered or the run ends: a gap in the sequence would
    /// make the broker refuse all that follows.
    fn take_back(&self, node: i32, request: Request, why: &Broken) {
        if request.is_empty() {
            return;
        }
        let mut state = self.state.borrow_mut();
        if self.plan.idempotent {
            state.leader(node).again.push_back(request);
            return;
        }
        let records = request.iter().map(ClosedBatch::records).sum::<u64>();
        request.iter().for_each(|batch| state.give_up(batch));
        drop(state);
        let counts = match why {
            Broken::TimedOut => Counts { timeouts: records, ..Counts::default() },
            Broken::Lost(_) => Counts { errors: records, ..Counts::default() },
        };
        self.recorder.count(Side::Produced, self.clock.now_ns(), &counts);
    }

    /// Looks up who leads now, and connects to those that it has no connection to, until that has
    /// succeeded or the producer has ended. One such search at a time.
    fn follow_leaders(&self) {
        if self.is_ended.get() || self.is_following.replace(true) {
            return;
        }
        if let Some(this) = self.this.upgrade() {
            task::spawn(this.follow());
        }
    }

    async fn follow(self: Rc<Self>) {
        let this = Rc::downgrade(&self);
        drop(self);
        let mut pause = RECONNECT_FIRST;
        loop {
            time::sleep(pause).await;
            let Some(producer) = this.upgrade() else { return };
            if producer.is_stopping() || producer.is_ended.get() {
                return;
            }
            producer.routes.refresh().await;
            producer.state.borrow_mut().reroute(&producer.routes);
            if producer.connect_to_leaders().await {
                producer.is_following.set(false);
                producer.wake.notify_one();
                return;
            }
            pause = (pause * 2).min(RECONNECT_MAX);
        }
    }

    /// Whether it is connected to every leader now.
    async fn connect_to_leaders(&self) -> bool {
        let is_connected = |node: &i32| self.state.borrow_mut().leader(*node).link.is_some();
        for node in self.routes.nodes() {
            if is_connected(&node) {
                continue;
            }
            match self.connect(node).await {
                Ok(()) => {
                    let counts = Counts { reconnects: 1, ..Counts::default() };
                    self.recorder.count(Side::Produced, self.clock.now_ns(), &counts);
                }
                Err(error) => tracing::debug!(%error, node, "reconnecting failed"),
            }
        }
        // One may have broken while another was made.
        self.routes.nodes().iter().all(is_connected)
    }
}

enum Verdict {
    Acknowledged,
    /// Not written, or nobody knows: goes on without it.
    Refused(String),
    /// Everything in flight is sent again on a new connection.
    Broken(String),
    Fatal(anyhow::Error),
}

/// The answer for a partition: brokers answer in the order of the request, but need not.
fn answer_to<'r>(
    response: &'r ProduceResponse,
    place: usize,
    topic: &str,
    partition: i32,
) -> Option<&'r ProducePartitionResponse> {
    let answers = response.topics.iter().filter(|it| it.name == topic).flat_map(|it| &it.partitions);
    if let [only] = response.topics.as_slice()
        && only.name == topic
        && let Some(answer) = only.partitions.get(place).filter(|it| it.index == partition)
    {
        return Some(answer);
    }
    answers.into_iter().find(|it| it.index == partition)
}

impl Owner<Request> for Producer {
    fn answered(&self, link: &Link<Request>, sent: Sent<Request>, reply: Bytes) {
        let version = {
            let mut state = self.state.borrow_mut();
            let leader = state.leader(link.node());
            leader.in_flight -= 1;
            leader.version
        };
        if self.plan.acks == Acks::None {
            let now_ns = self.clock.now_ns();
            sent.request.iter().for_each(|batch| self.acknowledged(batch, sent.sent_ns, now_ns));
            self.recorder.count(Side::Produced, now_ns, &Counts { requests: 1, ..Counts::default() });
        } else {
            match self.take_reply(sent, &reply, version) {
                Ok(None) => {}
                Ok(Some((again, why))) => {
                    self.shared.blame(why.clone());
                    self.take_back(link.node(), again, &Broken::Lost(why.clone()));
                    link.close(&Broken::Lost(why));
                }
                Err(error) => self.shared.fail(error),
            }
        }
        self.wake.notify_one();
    }

    fn broken(&self, link: &Link<Request>, unanswered: Vec<Sent<Request>>, why: &Broken) {
        for Sent { request, .. } in unanswered {
            self.take_back(link.node(), request, why);
        }
        let mut state = self.state.borrow_mut();
        let leader = state.leader(link.node());
        leader.link = None;
        leader.in_flight = 0;
        drop(state);
        if let Broken::Lost(reason) = why
            && !self.is_stopping()
        {
            self.shared.blame(reason.clone());
        }
        self.follow_leaders();
        self.wake.notify_one();
    }
}
