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

    fn take_reply(&self, sent: &Sent<Request>, reply: &[u8], version: i16) -> Result<Option<String>> {
        let (_, response) =
            ProduceResponse::decode(version, reply).context("a produce was answered wrongly")?;
        let now_ns = self.clock.now_ns();
        let mut refused = Counts::default();
        for (place, batch) in sent.request.iter().enumerate() {
            let part = &self.routes.parts[batch.part];
            let answer = answer_to(&response, place, &self.routes.topics[part.topic].name, part.partition);
            match self.judge(batch, answer) {
                Verdict::Acknowledged => self.acknowledged(batch, sent.sent_ns, now_ns),
                Verdict::Refused(why) => {
                    refused.errors += batch.records();
                    self.shared.blame(why);
                    self.state.borrow_mut().give_up(batch);
                }
                Verdict::Broken(why) => return Ok(Some(why)),
                Verdict::Fatal(error) => return Err(error),
            }
        }
        refused.requests = 1;
        self.recorder.count(Side::Produced, now_ns, &refused);
        Ok(None)
    }

    /// Connects again until that succeeds, or the producer has ended.
    async fn reconnect(self: Rc<Self>, node: i32) {
        let this = Rc::downgrade(&self);
        drop(self);
        let mut pause = RECONNECT_FIRST;
        loop {
            time::sleep(pause).await;
            let Some(producer) = this.upgrade() else { return };
            if producer.is_stopping() {
                return;
            }
            producer.routes.refresh().await;
            match producer.connect(node).await {
                Ok(()) => {
                    let counts = Counts { reconnects: 1, ..Counts::default() };
                    producer.recorder.count(Side::Produced, producer.clock.now_ns(), &counts);
                    return;
                }
                Err(error) => tracing::debug!(%error, node, "reconnecting failed"),
            }
            pause = (pause * 2).min(RECONNECT_MAX);
        }
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
            match self.take_reply(&sent, &reply, version) {
                Ok(None) => {}
                Ok(Some(why)) => {
                    self.shared.blame(why.clone());
                    let node = link.node();
                    self.state.borrow_mut().leader(node).again.push_front(sent.request);
                    link.close(&Broken::Lost(why));
                }
                Err(error) => self.shared.fail(error),
            }
        }
        self.wake.notify_one();
    }

    fn broken(&self, link: &Link<Request>, unanswered: Vec<Sent<Request>>, why: &Broken) {
        let now_ns = self.clock.now_ns();
        let deadline_ns = u64::try_from(self.request_timeout().as_nanos()).unwrap_or(u64::MAX);
        let mut counts = Counts::default();
        {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let mut again = Vec::new();
            for Sent { request, .. } in unanswered {
                let oldest = request.iter().map(|batch| batch.first_sent_ns).min().unwrap_or(now_ns);
                if self.plan.idempotent && now_ns.saturating_sub(oldest) <= deadline_ns {
                    again.push(request);
                    continue;
                }
                let records = request.iter().map(ClosedBatch::records).sum::<u64>();
                match why {
                    Broken::TimedOut => counts.timeouts += records,
                    Broken::Lost(_) => counts.errors += records,
                }
                request.iter().for_each(|batch| state.give_up(batch));
            }
            let leader = state.leader(link.node());
            leader.link = None;
            leader.in_flight = 0;
            leader.again.extend(again);
        }
        self.recorder.count(Side::Produced, now_ns, &counts);
        if let Broken::Lost(reason) = why
            && !self.is_stopping()
        {
            self.shared.blame(reason.clone());
        }
        if let Some(this) = self.this.upgrade() {
            task::spawn(this.reconnect(link.node()));
        }
        self.wake.notify_one();
    }
}
