//! Who this member is to its coordinator, and how that is reached. Shared by the steps of a member;
//! one of them runs at a time, commits beside them.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use corelog_protocol::error::ErrorCode;
use corelog_runtime::{rand, time};
use kafka_protocol::messages::GroupId;
use kafka_protocol::protocol::{Request, StrBytes};

use super::{GroupOptions, GroupProtocol, TopicPartitionName};
use crate::client::cluster::{Client, Lane};
use crate::client::connection::Connection;
use crate::client::error::ClientError;
use crate::client::groups::find_coordinator;

/// What came of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A member as before.
    Steady,
    /// What the member is to own from now on.
    Assigned(Vec<TopicPartitionName>),
    /// Everybody joins again.
    Rejoin,
    /// The group has gone on without this member: what it owned may be somebody else's.
    Lost,
}

/// A member's identity.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) options: GroupOptions,
    coordinator: Cell<Option<i32>>,
    /// For what may wait for other members.
    pub(super) lane: Lane,
    /// Empty until the group has given one, or it was made up here.
    pub(super) member_id: RefCell<String>,
    /// The generation, or the member's epoch; see [`Session::leave`].
    pub(super) epoch: Cell<i32>,
    /// `None` until the group was joined.
    pub(super) protocol: Cell<Option<GroupProtocol>>,
    /// What the coordinator wants, or the options say.
    pub(super) heartbeat_interval: Cell<Duration>,
    /// The coordinator may not know what it was told before.
    pub(super) tells_all: Cell<bool>,
    /// On the leader of a classic group: when it looks for new partitions next, and how many there were.
    pub(super) next_look: Cell<Option<time::Instant>>,
    pub(super) partitions: RefCell<Vec<(String, i32)>>,
}

/// Not a member, in either protocol's words: no generation, and epoch 0, with which one joins.
const OUTSIDE: i32 = -1;

impl Session {
    pub(super) fn new(client: Client, options: GroupOptions) -> Self {
        let heartbeat_interval = Cell::new(options.heartbeat_interval);
        Self {
            lane: client.member_lane(),
            client,
            options,
            coordinator: Cell::new(None),
            member_id: RefCell::default(),
            epoch: Cell::new(OUTSIDE),
            protocol: Cell::new(None),
            heartbeat_interval,
            tells_all: Cell::new(true),
            next_look: Cell::new(None),
            partitions: RefCell::default(),
        }
    }

    pub(super) fn group_id(&self) -> GroupId {
        GroupId(text(&self.options.group))
    }

    pub(super) fn member_id(&self) -> StrBytes {
        text(&self.member_id.borrow())
    }

    pub(super) fn instance_id(&self) -> Option<StrBytes> {
        self.options.instance_id.as_deref().map(text)
    }

    pub(super) fn is_member(&self) -> bool {
        self.epoch.get() != OUTSIDE
    }

    /// Forgets the membership, not the name.
    pub(super) fn set_outside(&self) {
        self.epoch.set(OUTSIDE);
        self.tells_all.set(true);
    }

    /// A connection to the coordinator. What may wait for others has a lane of its own.
    pub(super) async fn connection(&self, lane: Lane) -> Result<Connection, ClientError> {
        let node = match self.coordinator.get() {
            Some(node) => node,
            None => {
                let node = find_coordinator(&self.client, &self.options.group).await?;
                self.coordinator.set(Some(node));
                node
            }
        };
        let connection = self.client.node(node, lane).await;
        if connection.is_err() {
            self.coordinator.set(None);
        }
        connection
    }

    /// Asks the coordinator for something that may take `patience` beyond the usual.
    pub(super) async fn call<R: Request>(
        &self,
        lane: Lane,
        request: &R,
        version_max: i16,
        patience: Duration,
    ) -> Result<R::Response, ClientError> {
        let connection = self.connection(lane).await?;
        let timeout = connection.request_timeout() + patience;
        let answer = connection.call_within(request, version_max, timeout).await;
        if answer.is_err() {
            self.coordinator.set(None);
            self.tells_all.set(true);
        }
        answer
    }

    /// `Err` when the code is an error, which may mean that the coordinator is elsewhere.
    pub(super) fn check(&self, code: i16, message: Option<&str>, what: &str) -> Result<(), ClientError> {
        let checked = ClientError::check(code, message, || format!("{what} group '{}'", self.options.group));
        if let Err(error) = &checked
            && error.is_retriable()
        {
            self.coordinator.set(None);
            self.tells_all.set(true);
        }
        checked
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.client.leave_lane(self.lane);
    }
}

/// Whether the group has gone on without the member that is told this.
pub(super) fn is_lost(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::UnknownMemberId
            | ErrorCode::IllegalGeneration
            | ErrorCode::FencedMemberEpoch
            | ErrorCode::StaleMemberEpoch
    )
}

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(super) fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

/// A name that no other member has.
pub(super) fn random_id() -> String {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}
