//! The one member of a group, in the consumer protocol (KIP-848): it joins, has all partitions, and
//! gives signs of life as often as the broker wants them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use corelog_net::client::ClientError;
use corelog_runtime::rand;
use corelog_runtime::task;
use corelog_runtime::time::{self, Instant};
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::consumer_group_heartbeat_response::ConsumerGroupHeartbeatResponse;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::crowd::{Crowd, Group, again};

const WHAT: &str = "ConsumerGroupHeartbeat";
/// The epoch with which a member joins, and the one with which it leaves.
const JOINS: i32 = 0;
const LEAVES: i32 = -1;
const REBALANCE_TIMEOUT_MS: i32 = 300_000;
/// Between two looks at whether the partitions have been assigned.
const JOIN_LOOK: Duration = Duration::from_millis(20);

/// A member, and what the broker told it.
pub(super) struct Member {
    id: StrBytes,
    epoch: Cell<i32>,
    heartbeat: Cell<Duration>,
    assigned: RefCell<Vec<i32>>,
}

impl Member {
    /// One that has not joined yet.
    pub(super) fn new() -> Self {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes);
        let id = uuid::Builder::from_random_bytes(bytes).into_uuid();
        Self {
            id: StrBytes::from_string(id.to_string()),
            epoch: Cell::new(JOINS),
            heartbeat: Cell::new(Duration::ZERO),
            assigned: RefCell::default(),
        }
    }

    pub(super) fn id(&self) -> &StrBytes {
        &self.id
    }

    pub(super) fn epoch(&self) -> i32 {
        self.epoch.get()
    }

    /// Joins, and waits until it has every partition.
    pub(super) async fn join(&self, crowd: &Crowd, group: &Group, limit: Instant) -> Result<()> {
        let all = usize::try_from(crowd.plan.partitions)?;
        loop {
            let request = if self.epoch() == JOINS { self.joining(crowd, group) } else { self.alive(group) };
            match self.beat(group, request).await {
                Ok(()) if self.assigned.borrow().len() == all => break,
                Ok(()) if Instant::now() >= limit => bail!("group '{}' got no partitions", group.id.0),
                Ok(()) => {}
                Err(error) => again(&error, limit)?,
            }
            time::sleep(JOIN_LOOK).await;
        }
        // It owns them: without this the coordinator waits for it.
        Ok(self.beat(group, self.owning(crowd.topic_id, group)).await?)
    }

    /// Leaves the group, which is then empty.
    pub(super) async fn leave(&self, group: &Group) -> Result<(), ClientError> {
        self.beat(group, self.alive(group).with_member_epoch(LEAVES)).await
    }

    fn alive(&self, group: &Group) -> ConsumerGroupHeartbeatRequest {
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group.id.clone())
            .with_member_id(self.id.clone())
            .with_member_epoch(self.epoch())
    }

    fn joining(&self, crowd: &Crowd, group: &Group) -> ConsumerGroupHeartbeatRequest {
        let topic = TopicName(StrBytes::from_string(crowd.topic.clone()));
        self.alive(group)
            .with_rebalance_timeout_ms(REBALANCE_TIMEOUT_MS)
            .with_subscribed_topic_names(Some(vec![topic]))
            .with_topic_partitions(Some(Vec::new()))
    }

    fn owning(&self, topic_id: Uuid, group: &Group) -> ConsumerGroupHeartbeatRequest {
        let partitions = self.assigned.borrow().clone();
        let owned = TopicPartitions::default().with_topic_id(topic_id).with_partitions(partitions);
        self.alive(group).with_topic_partitions(Some(vec![owned]))
    }

    async fn beat(&self, group: &Group, request: ConsumerGroupHeartbeatRequest) -> Result<(), ClientError> {
        let response: ConsumerGroupHeartbeatResponse = group.connection.call(&request).await?;
        let message = response.error_message.as_deref();
        let what = || format!("a sign of life of group '{}'", group.id.0.as_str());
        ClientError::check(response.error_code, message, what)?;
        self.epoch.set(response.member_epoch);
        let interval_ms = u64::try_from(response.heartbeat_interval_ms).unwrap_or_default();
        self.heartbeat.set(Duration::from_millis(interval_ms.max(1)));
        if let Some(assignment) = response.assignment {
            let partitions = assignment.topic_partitions.into_iter().flat_map(|topic| topic.partitions);
            *self.assigned.borrow_mut() = partitions.collect();
        }
        Ok(())
    }
}

/// Starts the signs of life of every member, spread over their interval.
pub(super) fn keep_alive(crowd: &Rc<Crowd>) {
    for place in 0..crowd.groups.len() {
        if crowd.groups[place].member.is_some() {
            task::spawn(live(Rc::clone(crowd), place));
        }
    }
}

async fn live(crowd: Rc<Crowd>, place: usize) {
    let group = &crowd.groups[place];
    let Some(member) = &group.member else { return };
    let share = place as f64 / crowd.groups.len() as f64;
    let mut next = crowd.at(0) + member.heartbeat.get().mul_f64(share);
    loop {
        time::sleep_until(next).await;
        if crowd.lost_at().is_some() || crowd.now_ns() >= crowd.until_ns() {
            return;
        }
        crowd.began();
        match member.beat(group, member.alive(group)).await {
            Ok(()) => {
                let is_measured = crowd.measured.contains(&crowd.now_ns());
                crowd.tally.borrow_mut().heartbeats_measured += u64::from(is_measured);
            }
            Err(error) => crowd.failed(WHAT, &group.connection, error),
        }
        crowd.ended();
        next += member.heartbeat.get();
    }
}
