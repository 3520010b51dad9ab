//! What goes into and comes out of every event.

use corelog_protocol::offsets_topic::Record;

use super::api::Reply;
use super::config::GroupConfig;
use super::consumer::Patterns;
use super::timers::Timers;
use super::topics::Topics;

/// The time of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// A clock that only goes forward, in milliseconds from anywhere: sessions and rebalances.
    pub clock_ms: u64,
    /// Milliseconds since 1970: what is written into records, and the expiry of offsets.
    pub wall_ms: i64,
}

/// Whose reply it is: a number that the driver gives to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call(pub u64);

/// What an event brings about.
#[derive(Debug, Default)]
pub struct Effects {
    /// To be appended in this order: as one batch, so that a crash leaves all or none, unless
    /// [`Effects::separable`]. At most [`EVENT_BYTES_MAX`](super::EVENT_BYTES_MAX) then.
    pub records: Vec<Record>,
    /// The records do not depend on each other: they may go into several batches.
    pub separable: bool,
    /// To be sent once all records up to and including these are durable.
    pub replies: Vec<(Call, Reply)>,
}

/// What the machines have at hand while they work on an event.
pub(super) struct Scope<'a> {
    pub(super) now: Now,
    pub(super) config: &'a GroupConfig,
    pub(super) topics: &'a dyn Topics,
    pub(super) timers: &'a mut Timers,
    pub(super) patterns: &'a mut Patterns,
    pub(super) effects: &'a mut Effects,
}

impl Scope<'_> {
    pub(super) fn reply(&mut self, call: Call, reply: impl Into<Reply>) {
        self.effects.replies.push((call, reply.into()));
    }

    pub(super) fn record(&mut self, record: Record) {
        self.effects.records.push(record);
    }
}
