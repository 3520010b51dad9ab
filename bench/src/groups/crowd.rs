//! The groups, their connections, and one run of them on the executor, from set-up to end.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use corelog_net::client::admin::TopicSpec;
use corelog_net::client::connection::Connection;
use corelog_net::client::{Admin, AutoCreate, Client, ClientError, ClientOptions, Lane};
use corelog_protocol::error::ErrorCode;
use corelog_runtime::rand;
use corelog_runtime::shards::stop_signal;
use corelog_runtime::task;
use corelog_runtime::time::{self, Instant};
use futures_util::future::try_join_all;
use kafka_protocol::messages::{DeleteGroupsRequest, FindCoordinatorRequest, GroupId};
use kafka_protocol::protocol::{Request, StrBytes};
use tokio::sync::Notify;
use uuid::Uuid;

use super::ledger::Ledger;
use super::member::Member;
use super::plan::{GroupsPlan, whole};
use super::report::{OffsetCheck, Restart};
use super::tally::Tally;
use super::{commit, offsets};

/// Groups that one request asks about, or deletes.
const GROUPS_AT_ONCE: usize = 100;
/// First version of FindCoordinator that asks for several groups at once.
const COORDINATORS_FROM: i16 = 4;
/// Coordinators and the topic of a broker that has had no group yet take a moment.
const SET_UP_LIMIT: Duration = Duration::from_secs(60);
const SET_UP_LOOK: Duration = Duration::from_millis(20);
/// Between the moment at which all groups are there, and the start.
const START_DELAY: Duration = Duration::from_millis(20);
/// How long the broker may take to go away, in a run through a restart.
const GONE_LIMIT: Duration = Duration::from_secs(120);
const SECOND: Duration = Duration::from_secs(1);

/// What the thread that watches hears.
pub(super) enum Event {
    /// The measured phase begins.
    Measuring,
    /// A second is over.
    Second(Box<Tally>),
    /// The measured phase is over.
    Measured,
    /// The broker is gone.
    Lost,
}

/// What came of a run, besides what was measured.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) verification: Option<OffsetCheck>,
    pub(super) restart: Option<Restart>,
    pub(super) interrupted: bool,
}

/// One group.
pub(super) struct Group {
    pub(super) id: GroupId,
    /// The node that coordinates it.
    pub(super) coordinator: i32,
    pub(super) connection: Connection,
    pub(super) member: Option<Member>,
}

/// How commits ended.
pub(super) enum End {
    Done,
    Lost(Instant),
    Interrupted,
}

/// All groups of a run.
pub(super) struct Crowd {
    pub(super) plan: GroupsPlan,
    pub(super) topic: String,
    pub(super) topic_id: Uuid,
    pub(super) groups: Vec<Group>,
    pub(super) ledger: RefCell<Ledger>,
    pub(super) tally: RefCell<Tally>,
    /// The measured phase.
    pub(super) measured: Range<u64>,
    start: Cell<Instant>,
    /// When the first connection was lost, and why.
    lost: RefCell<Option<(Instant, ClientError)>>,
    /// Requests without an answer.
    under_way: Cell<usize>,
    /// A connection was lost.
    pub(super) gone: Notify,
    /// Nothing is under way any more.
    quiet: Notify,
    clients: Vec<Client>,
}

/// One run.
///
/// # Errors
/// What keeps it from being made; a connection that is lost when that is not the point.
pub(super) async fn drive(plan: GroupsPlan, bootstrap: String, events: Sender<Event>) -> Result<Outcome> {
    let crowd = Rc::new(Crowd::gather(plan, &bootstrap).await?);
    crowd.start.set(Instant::now() + START_DELAY);
    task::spawn(tick(Rc::clone(&crowd), events.clone()));
    super::member::keep_alive(&crowd);
    let end = commit::all(&crowd).await;
    crowd.idle().await;
    // Whoever watches has gone: there is nobody to tell.
    let _ = events.send(Event::Second(Box::new(crowd.tally.replace(Tally::new()))));
    let mut outcome = Outcome::default();
    match end {
        End::Interrupted => outcome.interrupted = true,
        End::Lost(at) if crowd.plan.through_restart => {
            let _ = events.send(Event::Lost);
            let (check, restart) = offsets::after_restart(&crowd, &bootstrap, at).await?;
            outcome.verification = Some(check);
            outcome.restart = Some(restart);
            // It was not this run that started the broker again: its data are left to whoever did.
            return Ok(outcome);
        }
        End::Lost(_) => {
            let lost = crowd.lost.borrow_mut().take().context("it was noted")?;
            return Err(lost.1.into());
        }
        End::Done if crowd.plan.through_restart => bail!("the broker did not end within {GONE_LIMIT:?}"),
        End::Done => {
            if crowd.plan.verify {
                outcome.verification = Some(offsets::check(&crowd, &crowd.clients).await?);
            }
        }
    }
    if let Err(error) = crowd.clean_up().await {
        tracing::warn!(%error, "the groups of this run could not be deleted");
    }
    Ok(outcome)
}

/// Says once a second what was measured, and where the measured phase is.
async fn tick(crowd: Rc<Crowd>, events: Sender<Event>) {
    let edges = [(crowd.measured.start, false), (crowd.measured.end, true)];
    let mut edges = edges.into_iter().peekable();
    for second in 1_u32.. {
        let next = crowd.at(0) + SECOND * second;
        while let Some((_, is_end)) = edges.next_if(|(ns, _)| crowd.at(*ns) <= next) {
            time::sleep_until(crowd.at(if is_end { crowd.measured.end } else { crowd.measured.start })).await;
            if events.send(if is_end { Event::Measured } else { Event::Measuring }).is_err() {
                return;
            }
        }
        time::sleep_until(next).await;
        let tally = crowd.tally.replace(Tally::new());
        if events.send(Event::Second(Box::new(tally))).is_err() {
            return;
        }
    }
}

/// Settings of the clients.
pub(super) fn options(plan: &GroupsPlan, bootstrap: &str) -> ClientOptions {
    ClientOptions {
        client_id: "corelog-bench".to_owned(),
        request_timeout: Duration::from_secs_f64(plan.request_timeout_s),
        // Commits that a slow broker holds up, a sign of life and an offset fetch of each group.
        max_in_flight: plan.groups.max(1_000) * 100,
        ..ClientOptions::new([bootstrap])
    }
}

impl Crowd {
    /// Makes the topic and the groups, each with one commit (and a member, if they have one).
    async fn gather(plan: GroupsPlan, bootstrap: &str) -> Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..plan.connections.min(plan.groups) {
            clients.push(Client::connect(options(&plan, bootstrap)).await?);
        }
        let topic = format!("corelog-bench-groups-{:08x}", rand::below(1 << 32));
        let topic_id = make_topic(&clients[0], &topic, plan.partitions).await?;
        let names: Vec<String> = (0..plan.groups).map(|index| format!("{topic}-{index:05}")).collect();
        let coordinators = coordinators(&clients[0], &names).await?;
        let mut groups = Vec::new();
        for (index, (name, coordinator)) in names.into_iter().zip(coordinators).enumerate() {
            let connection = match clients[index % clients.len()].node(coordinator, Lane::Control).await {
                Ok(connection) => connection,
                Err(error) => return Err(error).with_context(|| format!("the coordinator of {name}")),
            };
            let id = GroupId(StrBytes::from_string(name));
            let member = plan.members.then(Member::new);
            groups.push(Group { id, coordinator, connection, member });
        }
        let warm_up_ns = whole(plan.warm_up_s * 1e9);
        let crowd = Self {
            ledger: RefCell::new(Ledger::new(plan.groups, plan.partitions)),
            tally: RefCell::new(Tally::new()),
            measured: warm_up_ns..warm_up_ns + whole(plan.duration_s * 1e9),
            start: Cell::new(Instant::now()),
            lost: RefCell::new(None),
            under_way: Cell::new(0),
            gone: Notify::new(),
            quiet: Notify::new(),
            plan,
            topic,
            topic_id,
            groups,
            clients,
        };
        try_join_all((0..crowd.clients.len()).map(|lane| crowd.settle(lane))).await?;
        Ok(crowd)
    }

    /// The first commits of the groups of one lane, one after the other.
    async fn settle(&self, lane: usize) -> Result<()> {
        for index in self.of_lane(lane) {
            let limit = Instant::now() + SET_UP_LIMIT;
            if let Some(member) = &self.groups[index].member {
                member.join(self, &self.groups[index], limit).await?;
            }
            while let Err(error) = commit::first(self, index).await {
                again(&error, limit)?;
                time::sleep(SET_UP_LOOK).await;
            }
        }
        Ok(())
    }

    /// The groups of one lane.
    pub(super) fn of_lane(&self, lane: usize) -> impl Iterator<Item = usize> {
        (lane..self.groups.len()).step_by(self.clients.len())
    }

    /// A time of the run on the clock.
    pub(super) fn at(&self, ns: u64) -> Instant {
        self.start.get() + Duration::from_nanos(ns)
    }

    /// The time since its start.
    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from(self.start.get().elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// No commit is due from here on, unless the broker is to go away first.
    pub(super) fn until_ns(&self) -> u64 {
        let end = self.measured.end;
        if self.plan.through_restart { end.saturating_add(nanos(GONE_LIMIT)) } else { end }
    }

    /// When the broker went away.
    pub(super) fn lost_at(&self) -> Option<Instant> {
        self.lost.borrow().as_ref().map(|(at, _)| *at)
    }

    /// A request failed: what the broker said, or the end of its connection.
    pub(super) fn failed(&self, what: &str, connection: &Connection, error: ClientError) {
        if connection.closed().is_some() {
            self.lost.borrow_mut().get_or_insert((Instant::now(), error));
            self.gone.notify_waiters();
            return;
        }
        let said = error.code().map_or_else(|| error.to_string(), |code| code.to_string());
        self.tally.borrow_mut().error(format!("{what}: {said}"));
    }

    pub(super) fn began(&self) {
        self.under_way.set(self.under_way.get() + 1);
    }

    pub(super) fn ended(&self) {
        self.under_way.set(self.under_way.get() - 1);
        if self.under_way.get() == 0 {
            self.quiet.notify_waiters();
        }
    }

    /// Waits until every request is answered; each has its own limit of time.
    async fn idle(&self) {
        while self.under_way.get() > 0 {
            self.quiet.notified().await;
        }
    }

    /// Leaves, deletes the groups and the topic.
    async fn clean_up(&self) -> Result<(), ClientError> {
        for group in &self.groups {
            if let Some(member) = &group.member {
                member.leave(group).await?;
            }
        }
        let mut groups: Vec<&Group> = self.groups.iter().collect();
        groups.sort_by_key(|group| group.coordinator);
        for alike in groups.chunk_by(|one, other| one.coordinator == other.coordinator) {
            for some in alike.chunks(GROUPS_AT_ONCE) {
                let ids = some.iter().map(|group| group.id.clone()).collect();
                let request = DeleteGroupsRequest::default().with_groups_names(ids);
                let response = some[0].connection.call(&request).await?;
                for result in response.results {
                    ClientError::check(result.error_code, None, || {
                        format!("deleting {}", result.group_id.0)
                    })?;
                }
            }
        }
        let admin = Admin::new(self.clients[0].clone());
        admin.delete_topics(std::slice::from_ref(&self.topic)).await?.into_iter().collect()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether to try again what was refused while setting up; a connection that is lost is not made again.
pub(super) fn again(error: &ClientError, limit: Instant) -> Result<(), ClientError> {
    let is_late = Instant::now() >= limit || stop_signal().is_raised();
    let may_help = matches!(error, ClientError::Refused { .. }) && error.is_retriable();
    if may_help && !is_late { Ok(()) } else { Err(error.clone()) }
}

async fn make_topic(client: &Client, name: &str, partitions: i32) -> Result<Uuid> {
    let spec = TopicSpec {
        name: name.to_owned(),
        partitions: Some(partitions),
        replication_factor: Some(1),
        configs: Vec::new(),
    };
    for created in Admin::new(client.clone()).create_topics(&[spec], false).await? {
        created?;
    }
    let limit = Instant::now() + SET_UP_LIMIT;
    loop {
        match client.topic(name, AutoCreate::No).await {
            Ok(topic) => return Ok(topic.id),
            // Another node may not know it yet.
            Err(ClientError::UnknownTopic { .. }) if Instant::now() < limit => time::sleep(SET_UP_LOOK).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// The node that coordinates each group.
async fn coordinators(client: &Client, names: &[String]) -> Result<Vec<i32>> {
    let limit = Instant::now() + SET_UP_LIMIT;
    let mut nodes = Vec::with_capacity(names.len());
    for some in names.chunks(GROUPS_AT_ONCE) {
        loop {
            match coordinators_of(client, some).await {
                Ok(found) => {
                    nodes.extend(found);
                    break;
                }
                Err(error) => again(&error, limit)?,
            }
            time::sleep(SET_UP_LOOK).await;
        }
    }
    ensure!(nodes.len() == names.len(), "the broker did not name the coordinator of every group");
    Ok(nodes)
}

async fn coordinators_of(client: &Client, names: &[String]) -> Result<Vec<i32>, ClientError> {
    let connection = client.any().await?;
    let version = connection.pick(FindCoordinatorRequest::KEY, COORDINATORS_FROM, i16::MAX)?;
    let keys = names.iter().map(|name| StrBytes::from_string(name.clone())).collect();
    let request = FindCoordinatorRequest::default().with_coordinator_keys(keys);
    let response = connection.call_up_to(&request, version).await?;
    let mut nodes = Vec::with_capacity(names.len());
    for name in names {
        let what = || format!("looking up the coordinator of group '{name}'");
        let found = response.coordinators.iter().find(|found| found.key.as_str() == name);
        let found = found.ok_or_else(|| ClientError::Refused {
            what: what(),
            code: ErrorCode::CoordinatorNotAvailable,
            message: None,
        })?;
        ClientError::check(found.error_code, found.error_message.as_deref(), what)?;
        nodes.push(found.node_id.0);
    }
    Ok(nodes)
}
