//! Consuming as a member of a group.
//!
//! [`GroupConsumer`] owns the membership and a [`Consumer`] of what the group assigns to it. Driven by
//! its caller: [`GroupConsumer::next`] joins, gives signs of life, takes and hands over partitions and
//! commits, while it waits for records. So a caller that does not come back is thrown out of the group
//! after the session's time-out, as one that has died. It commits what the caller has
//! [marked](GroupConsumer::mark), never more; who takes a partition over begins there.
//!
//! | Module | Owns |
//! |---|---|
//! | `session` | who this member is, and the connection to its coordinator |
//! | `classic`, `modern` | the two protocols: one step each, from a request to what it means |
//! | `assignor` | who reads what, as a classic group's leader decides it |
//! | `offsets` | commits, and where to go on |

mod assignor;
mod classic;
mod modern;
mod offsets;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, pending};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use corelog_protocol::error::ErrorCode;
use corelog_runtime::time::{self, Instant};
use futures_util::future::{Either, select};
use kafka_protocol::messages::ConsumerGroupHeartbeatRequest;

use self::offsets::{Begin, Position, may_commit_later};
use self::session::{Outcome, Session};
pub use super::admin::TopicPartitionName;
use super::cluster::{AutoCreate, Client, Lane};
use super::consumer::{Chunk, Consumer, ConsumerOptions, StartAt};
use super::error::ClientError;
use super::retry::Retry;

/// How long offsets of partitions that are handed over, or that are left, may take to be committed.
const LAST_COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long leaving may take; the coordinator notices in the end all the same.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// By which rules a group lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupProtocol {
    /// JoinGroup and its like: a member assigns.
    Classic,
    /// KIP-848: the coordinator assigns.
    Consumer,
}

/// How partitions are given to members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupAssignor {
    /// Consecutive partitions of each topic. In both protocols; the classic one stops everybody.
    Range,
    /// As few changes as possible, and nobody stops who has none (KIP-429). Classic.
    Cooperative,
    /// As even as possible. Of the consumer protocol.
    Uniform,
}

impl GroupAssignor {
    /// Its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::Cooperative => "cooperative-sticky",
            Self::Uniform => "uniform",
        }
    }
}

/// Settings of a [`GroupConsumer`].
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// The group.
    pub group: String,
    /// What to read.
    pub topics: Vec<String>,
    /// `None`: the consumer protocol where the broker has it, the classic one elsewhere.
    pub protocol: Option<GroupProtocol>,
    /// `None`: cooperative in the classic protocol, the coordinator's choice in the other.
    pub assignor: Option<GroupAssignor>,
    /// Where to begin in partitions for which the group has committed nothing.
    pub start: StartAt,
    /// How often to commit; `None`: never.
    pub commit_interval: Option<Duration>,
    /// A static member's name (KIP-345): it may be away for the session's time-out.
    pub instance_id: Option<String>,
    /// After so much silence the group goes on without this member. In the consumer protocol the
    /// coordinator decides.
    pub session_timeout: Duration,
    /// How long a rebalance waits for this member.
    pub rebalance_timeout: Duration,
    /// Between signs of life. In the consumer protocol the coordinator decides.
    pub heartbeat_interval: Duration,
}

impl GroupOptions {
    /// The defaults, which are those of Kafka's consumer; beginning at the oldest records.
    pub fn new(group: String, topics: Vec<String>) -> Self {
        Self {
            group,
            topics,
            protocol: None,
            assignor: None,
            start: StartAt::Beginning,
            commit_interval: Some(Duration::from_secs(5)),
            instance_id: None,
            session_timeout: Duration::from_secs(45),
            rebalance_timeout: Duration::from_secs(60),
            heartbeat_interval: Duration::from_secs(3),
        }
    }
}

/// What [`GroupConsumer::next`] brings.
#[derive(Debug)]
pub enum GroupEvent {
    /// Records of a partition that this member owns.
    Records(Chunk),
    /// What this member owns from now on.
    Assignment {
        /// All of it, in order.
        partitions: Vec<TopicPartitionName>,
        /// The group went on without this member: what it had read and not committed may be read
        /// again by others.
        was_lost: bool,
    },
}

/// A partition that this member owns.
struct Owned {
    /// How it begins; `None` once it is fetched.
    begin: Option<Begin>,
    /// The next record that the caller has not dealt with.
    marked: Option<i64>,
    committed: Option<i64>,
}

impl Owned {
    /// What is to be committed.
    fn due(&self) -> Option<i64> {
        self.marked.filter(|marked| self.committed != Some(*marked))
    }
}

/// What the membership needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Join,
    /// To say what was taken and let go of (consumer protocol).
    Acknowledge,
    Heartbeat,
}

type Offsets = Vec<(TopicPartitionName, i64)>;
type Running<T> = Pin<Box<dyn Future<Output = T>>>;

/// What a step of the membership came to.
enum Step {
    Membership(Result<Outcome, ClientError>),
    Positions(Result<Vec<Position>, ClientError>),
}

/// What [`GroupConsumer::next`] woke up for.
enum Woken {
    Step(Step),
    Committed(Offsets, Result<(), ClientError>),
    Due,
    Records(Result<Option<Chunk>, ClientError>),
}

/// A member of a group.
pub struct GroupConsumer {
    session: Rc<Session>,
    consumer: Consumer,
    owned: BTreeMap<TopicPartitionName, Owned>,
    want: Want,
    /// When that is due.
    due: Instant,
    /// When positions that are not known are looked up next.
    positions_due: Instant,
    commit_due: Instant,
    step: Option<Running<Step>>,
    committing: Option<Running<(Offsets, Result<(), ClientError>)>>,
    /// Offsets of partitions that are let go of: committed before the group is told.
    handed_over: Offsets,
    /// While steps fail.
    failing: Option<Retry>,
}

impl GroupConsumer {
    /// A member that joins when it is asked for records first.
    ///
    /// # Errors
    /// When a topic does not exist, no broker answers, or the broker lacks the protocol.
    pub async fn new(
        client: Client,
        options: GroupOptions,
        consumer: ConsumerOptions,
    ) -> Result<Self, ClientError> {
        for topic in &options.topics {
            client.topic(topic, AutoCreate::No).await?;
        }
        let now = Instant::now();
        let session = Session::new(client.clone(), options);
        let member = Self {
            consumer: Consumer::unassigned(client, consumer),
            session: Rc::new(session),
            owned: BTreeMap::new(),
            want: Want::Join,
            due: now,
            positions_due: now,
            commit_due: now,
            step: None,
            committing: None,
            handed_over: Vec::new(),
            failing: None,
        };
        member.choose_protocol().await?;
        Ok(member)
    }

    async fn choose_protocol(&self) -> Result<(), ClientError> {
        let session = &self.session;
        let mut retry = session.client.retry();
        let connection = loop {
            match session.connection(Lane::Control).await {
                Ok(connection) => break connection,
                Err(error) => retry.after("looking for the group's coordinator", error).await?,
            }
        };
        let modern = connection.version::<ConsumerGroupHeartbeatRequest>(i16::MAX);
        let protocol = match (session.options.protocol, session.options.assignor) {
            (Some(protocol), _) => protocol,
            (None, Some(GroupAssignor::Cooperative)) => GroupProtocol::Classic,
            (None, Some(GroupAssignor::Uniform)) => GroupProtocol::Consumer,
            (None, Some(GroupAssignor::Range) | None) if modern.is_ok() => GroupProtocol::Consumer,
            (None, Some(GroupAssignor::Range) | None) => GroupProtocol::Classic,
        };
        if protocol == GroupProtocol::Consumer {
            modern?;
        }
        session.protocol.set(Some(protocol));
        Ok(())
    }

    /// The protocol that was chosen.
    pub fn protocol(&self) -> GroupProtocol {
        self.session.protocol.get().expect("chosen when it was made")
    }

    /// This member's id; empty before it joined.
    pub fn member_id(&self) -> String {
        self.session.member_id.borrow().clone()
    }

    /// The caller has dealt with everything below `next` of a partition. Of one that this member
    /// does not own any more, this is of no effect.
    pub fn mark(&mut self, topic: &Rc<str>, partition: i32, next: i64) {
        if let Some(owned) = self.owned.get_mut(&(Rc::clone(topic), partition)) {
            owned.marked = Some(next);
        }
    }

    /// Waits for records, or for other partitions. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the coordinator refuses this member for good, or does not come back in time; as
    /// [`Consumer::next`].
    pub async fn next(&mut self) -> Result<GroupEvent, ClientError> {
        loop {
            self.begin_step();
            self.begin_commit();
            match self.woken().await {
                Woken::Step(Step::Membership(outcome)) => {
                    self.step = None;
                    if let Some(event) = self.take_membership(outcome)? {
                        return Ok(event);
                    }
                }
                Woken::Step(Step::Positions(positions)) => {
                    self.step = None;
                    self.take_positions(positions)?;
                }
                Woken::Committed(offsets, outcome) => {
                    self.committing = None;
                    self.committed(offsets, outcome)?;
                }
                Woken::Due => {}
                Woken::Records(Ok(Some(chunk))) => return Ok(GroupEvent::Records(chunk)),
                Woken::Records(Ok(None)) => {}
                Woken::Records(Err(error)) => self.begin_anew(error)?,
            }
        }
    }

    /// Waits for whatever comes first of all that is under way.
    async fn woken(&mut self) -> Woken {
        let wake_at = self.wake_at();
        let Self { step, committing, consumer, .. } = self;
        let step = std::pin::pin!(async {
            match step {
                Some(step) => Woken::Step(step.await),
                None => pending().await,
            }
        });
        let committing = std::pin::pin!(async {
            match committing {
                Some(committing) => {
                    let (offsets, outcome) = committing.await;
                    Woken::Committed(offsets, outcome)
                }
                None => pending().await,
            }
        });
        let due = std::pin::pin!(async {
            match wake_at {
                Some(at) => time::sleep_until(at).await,
                None => pending().await,
            }
            Woken::Due
        });
        let records = std::pin::pin!(async {
            if consumer.is_idle() {
                return pending().await;
            }
            Woken::Records(consumer.next().await)
        });
        let under_way = std::pin::pin!(first(step, committing));
        let others = std::pin::pin!(first(due, records));
        first(under_way, others).await
    }

    fn wake_at(&self) -> Option<Instant> {
        let commit = (self.committing.is_none() && self.has_due()).then_some(self.commit_due);
        if self.step.is_some() {
            return commit;
        }
        let positions = self.wants_positions().then_some(self.positions_due);
        [Some(self.due), positions, commit].into_iter().flatten().min()
    }

    fn wants_positions(&self) -> bool {
        self.want == Want::Heartbeat && self.owned.values().any(|owned| owned.begin.is_some())
    }

    fn has_due(&self) -> bool {
        self.session.options.commit_interval.is_some()
            && self.owned.values().any(|owned| owned.due().is_some())
    }

    fn begin_step(&mut self) {
        if self.step.is_some() {
            return;
        }
        let now = Instant::now();
        let session = Rc::clone(&self.session);
        if now >= self.due {
            let owned: Vec<TopicPartitionName> = self.owned.keys().cloned().collect();
            let (want, protocol) = (self.want, self.protocol());
            let handed_over = match want {
                Want::Heartbeat => Vec::new(),
                Want::Join | Want::Acknowledge => std::mem::take(&mut self.handed_over),
            };
            self.step = Some(Box::pin(async move {
                commit_last(&session, &handed_over).await;
                Step::Membership(match (protocol, want) {
                    (GroupProtocol::Classic, Want::Join) => classic::join(&session, &owned).await,
                    (GroupProtocol::Classic, Want::Heartbeat | Want::Acknowledge) => {
                        classic::heartbeat(&session).await
                    }
                    (GroupProtocol::Consumer, want) => {
                        modern::heartbeat(&session, &owned, want == Want::Acknowledge).await
                    }
                })
            }));
        } else if self.wants_positions() && now >= self.positions_due {
            let unknown = self.owned.iter().filter_map(|(name, owned)| Some((name.clone(), owned.begin?)));
            let unknown: Vec<_> = unknown.collect();
            let isolation = self.consumer.options().isolation;
            self.step = Some(Box::pin(async move {
                Step::Positions(offsets::positions(&session, unknown, isolation).await)
            }));
        }
    }

    fn begin_commit(&mut self) {
        let Some(interval) = self.session.options.commit_interval else { return };
        let now = Instant::now();
        if self.committing.is_some() || now < self.commit_due || !self.session.is_member() || !self.has_due()
        {
            return;
        }
        self.commit_due = now + interval;
        let (session, offsets) = (Rc::clone(&self.session), self.due_offsets());
        self.committing = Some(Box::pin(async move {
            let outcome = offsets::commit(&session, &offsets).await;
            (offsets, outcome)
        }));
    }

    fn due_offsets(&self) -> Offsets {
        let due = self.owned.iter().filter_map(|(name, owned)| Some((name.clone(), owned.due()?)));
        due.collect()
    }

    fn committed(&mut self, offsets: Offsets, outcome: Result<(), ClientError>) -> Result<(), ClientError> {
        match outcome {
            Ok(()) => {
                for (name, offset) in offsets {
                    if let Some(owned) = self.owned.get_mut(&name) {
                        owned.committed = Some(offset);
                    }
                }
                Ok(())
            }
            Err(error) if may_commit_later(&error) => {
                tracing::debug!(%error, "offsets are committed later");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn take_membership(
        &mut self,
        outcome: Result<Outcome, ClientError>,
    ) -> Result<Option<GroupEvent>, ClientError> {
        let now = Instant::now();
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) if self.may_fall_back(&error) => {
                self.session.protocol.set(Some(GroupProtocol::Classic));
                (self.want, self.due) = (Want::Join, now);
                return Ok(None);
            }
            Err(error) => {
                self.due = now + self.failed(error)?;
                return Ok(None);
            }
        };
        self.failing = None;
        match outcome {
            Outcome::Steady => {
                self.want = Want::Heartbeat;
                self.due = now + self.session.heartbeat_interval.get();
                Ok(None)
            }
            Outcome::Assigned(partitions) => Ok(self.assigned(partitions)),
            Outcome::Rejoin => {
                (self.want, self.due) = (Want::Join, now);
                if !classic::is_eager(self.session.options.assignor) || self.owned.is_empty() {
                    return Ok(None);
                }
                let all = self.owned.keys().cloned().collect::<Vec<_>>();
                self.let_go(&all);
                Ok(Some(GroupEvent::Assignment { partitions: Vec::new(), was_lost: false }))
            }
            Outcome::Lost => {
                (self.want, self.due) = (Want::Join, now);
                let all = self.owned.keys().cloned().collect::<Vec<_>>();
                self.let_go(&all);
                // They may be somebody else's, who is further on by now.
                self.handed_over.clear();
                let lost = GroupEvent::Assignment { partitions: Vec::new(), was_lost: true };
                Ok((!all.is_empty()).then_some(lost))
            }
        }
    }

    /// A broker may know the consumer protocol and have it switched off.
    fn may_fall_back(&self, error: &ClientError) -> bool {
        let options = &self.session.options;
        let is_free = options.protocol.is_none() && options.assignor != Some(GroupAssignor::Uniform);
        let is_off = error.code() == Some(ErrorCode::UnsupportedVersion);
        is_free && is_off && self.protocol() == GroupProtocol::Consumer && !self.session.is_member()
    }

    /// Takes what is new and lets go of what is not this member's any more.
    fn assigned(&mut self, partitions: Vec<TopicPartitionName>) -> Option<GroupEvent> {
        let now = Instant::now();
        let target: BTreeSet<TopicPartitionName> = partitions.into_iter().collect();
        let gone: Vec<_> = self.owned.keys().filter(|name| !target.contains(*name)).cloned().collect();
        let new: Vec<_> = target.iter().filter(|name| !self.owned.contains_key(*name)).cloned().collect();
        let joined = self.want == Want::Join;
        self.let_go(&gone);
        for name in &new {
            let owned = Owned { begin: Some(Begin::AtCommit), marked: None, committed: None };
            self.owned.insert(name.clone(), owned);
        }
        self.positions_due = now;
        let is_changed = !(gone.is_empty() && new.is_empty());
        let (want, due) = match self.protocol() {
            GroupProtocol::Consumer if is_changed => (Want::Acknowledge, now),
            // What was let go of is given to others when everybody has joined again.
            GroupProtocol::Classic
                if !gone.is_empty() && !classic::is_eager(self.session.options.assignor) =>
            {
                (Want::Join, now)
            }
            GroupProtocol::Classic | GroupProtocol::Consumer => {
                (Want::Heartbeat, now + self.session.heartbeat_interval.get())
            }
        };
        (self.want, self.due) = (want, due);
        let partitions = target.into_iter().collect();
        (is_changed || joined).then_some(GroupEvent::Assignment { partitions, was_lost: false })
    }

    fn let_go(&mut self, partitions: &[TopicPartitionName]) {
        for name in partitions {
            self.consumer.stop(&name.0, name.1);
            if let Some(owned) = self.owned.remove(name)
                && let Some(offset) = owned.due()
                && self.session.options.commit_interval.is_some()
            {
                self.handed_over.push((name.clone(), offset));
            }
        }
    }

    fn take_positions(&mut self, positions: Result<Vec<Position>, ClientError>) -> Result<(), ClientError> {
        let positions = match positions {
            Ok(positions) => positions,
            Err(error) => {
                let pause = match may_commit_later(&error) && !error.is_retriable() {
                    // The membership changes: its next sign of life says how.
                    true => {
                        self.due = Instant::now();
                        self.session.client.options().retry.backoff_min
                    }
                    false => self.failed(error)?,
                };
                self.positions_due = Instant::now() + pause;
                return Ok(());
            }
        };
        self.failing = None;
        let mut started = Vec::new();
        for Position { name, committed, started: position } in positions {
            // It may have been let go of meanwhile.
            if let Some(owned) = self.owned.get_mut(&name)
                && owned.begin.take().is_some()
            {
                owned.committed = committed;
                started.push(position);
            }
        }
        self.consumer.add_started(started);
        Ok(())
    }

    /// A position that is outside of the log is looked for anew, as the options say.
    fn begin_anew(&mut self, error: ClientError) -> Result<(), ClientError> {
        let ClientError::OffsetOutOfRange { topic, partition, offset, .. } = &error else {
            return Err(error);
        };
        let name: TopicPartitionName = (topic.as_str().into(), *partition);
        let is_settable = !matches!(self.session.options.start, StartAt::Offset(_));
        match self.owned.get_mut(&name) {
            Some(owned) if is_settable => owned.begin = Some(Begin::Anew),
            Some(_) | None => return Err(error),
        }
        tracing::warn!(topic, partition, offset, "the group's offset is outside of the log, beginning anew");
        self.consumer.stop(topic, *partition);
        self.positions_due = Instant::now();
        Ok(())
    }

    /// How long to wait before the next attempt.
    fn failed(&mut self, error: ClientError) -> Result<Duration, ClientError> {
        if !error.is_retriable() {
            return Err(self.explained(error));
        }
        let options = self.session.client.options().retry;
        let retry = self.failing.get_or_insert_with(|| Retry::new(options));
        if retry.elapsed() > options.give_up_after {
            return Err(ClientError::GaveUp {
                what: format!("staying in group '{}'", self.session.options.group),
                after: options.give_up_after,
                last: Box::new(error),
            });
        }
        tracing::debug!(%error, "the group's coordinator is tried again");
        Ok(retry.next_pause())
    }

    /// A group that lives by other rules says little about that.
    fn explained(&self, error: ClientError) -> ClientError {
        let ClientError::Refused { what, code, message } = error else { return error };
        let reason = match code {
            ErrorCode::InconsistentGroupProtocol => "its members use another assignor or protocol",
            ErrorCode::GroupIdNotFound => "it is of another kind",
            ErrorCode::UnsupportedVersion => "the broker has the consumer protocol switched off",
            ErrorCode::FencedInstanceId | ErrorCode::UnreleasedInstanceId => {
                "another member has the same instance id"
            }
            _ => return ClientError::Refused { what, code, message },
        };
        let message = message.map_or_else(|| reason.to_owned(), |message| format!("{reason}: {message}"));
        ClientError::Refused { what, code, message: Some(message) }
    }

    /// Commits what was marked, and leaves the group.
    ///
    /// # Errors
    /// When the offsets could not be committed. Leaving may fail: the group notices in the end.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.step = None;
        self.committing = None;
        let mut offsets = std::mem::take(&mut self.handed_over);
        if self.session.options.commit_interval.is_some() {
            offsets.extend(self.due_offsets());
        }
        let is_due = self.session.is_member() && !offsets.is_empty();
        let committed = match is_due {
            true => committed_in_time(&self.session, &offsets).await,
            false => Ok(()),
        };
        let leave = async {
            match self.protocol() {
                GroupProtocol::Classic => classic::leave(&self.session).await,
                GroupProtocol::Consumer => modern::leave(&self.session).await,
            }
        };
        match time::timeout(LEAVE_TIMEOUT, leave).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the group could not be left"),
            Err(_elapsed) => tracing::debug!("the group could not be left in time"),
        }
        committed
    }
}

/// The first of two that is there; of both, the one on the left.
async fn first<T>(one: Pin<&mut impl Future<Output = T>>, other: Pin<&mut impl Future<Output = T>>) -> T {
    match select(one, other).await {
        Either::Left((value, _)) | Either::Right((value, _)) => value,
    }
}

/// Commits for partitions that are handed over. Who takes over begins earlier if that fails.
async fn commit_last(session: &Session, offsets: &[(TopicPartitionName, i64)]) {
    if offsets.is_empty() || !session.is_member() {
        return;
    }
    if let Err(error) = committed_in_time(session, offsets).await {
        tracing::warn!(%error, "offsets were not committed: some records are read again");
    }
}

async fn committed_in_time(
    session: &Session,
    offsets: &[(TopicPartitionName, i64)],
) -> Result<(), ClientError> {
    let committing = async {
        let mut retry = session.client.retry();
        loop {
            match offsets::commit(session, offsets).await {
                Ok(()) => return Ok(()),
                Err(error) => retry.after("committing offsets", error).await?,
            }
        }
    };
    match time::timeout(LAST_COMMIT_TIMEOUT, committing).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(ClientError::GaveUp {
            what: "committing offsets".to_owned(),
            after: LAST_COMMIT_TIMEOUT,
            last: Box::new(ClientError::Closed),
        }),
    }
}
