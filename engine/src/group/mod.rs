//! Consumer groups and their offsets: what one partition of `__consumer_offsets` coordinates.
//!
//! Owns the rules of Kafka's group coordinator, as pure state machines: an event goes in (a request
//! with who sent it, or a point in time), [`Effects`] come out (records to append, replies to send).
//! Belongs to the shard that leads the partition. Never reads a clock, draws a number, waits, or
//! touches a file or a socket; whoever drives it does.
//!
//! [`Coordinator`] is the face. Its rules for the one that drives it:
//!
//! 1. **Load.** Give [`Coordinator::load`] every record of the partition, in order, then
//!    [`Coordinator::loaded`], whose effects are the first event. Until then clients get
//!    COORDINATOR_LOAD_IN_PROGRESS from the driver.
//! 2. **Events.** [`Coordinator::handle`] takes a request, [`Coordinator::tick`] the time: when
//!    [`Coordinator::next_deadline_ms`] is reached, until it says that nothing is due. A tick may set
//!    the next one to the same moment (a look-out for expired offsets takes many): yield in between.
//! 3. **Records** of one event are appended as one batch, in the order of events. What clients send is
//!    bounded (`limits.rs`) so that they take at most [`EVENT_BYTES_MAX`], which the driver asserts.
//! 4. **Replies** of an event leave when everything that was ever emitted up to that event, by
//!    whichever event, is durable and below the high watermark. State changes in memory at once; this
//!    rule is what keeps a client from seeing what a crash could take back. An event that emitted
//!    nothing while nothing is outstanding is answered at once.
//! 5. **A failed append** means that memory and log differ: drop the coordinator, answer what waits
//!    ([`Coordinator::abandon`] and replies not yet sent) with NOT_COORDINATOR, and load again.
//!
//! | File | What is in it |
//! |---|---|
//! | `api.rs` | requests and replies |
//! | `coordinator.rs`, `coordinator/` | the map of groups: load, dispatch, list, describe, delete, changes of protocol |
//! | `classic.rs`, `classic/` | the classic protocol: join, sync, heartbeat, leave |
//! | `consumer.rs`, `consumer/` | KIP-848: heartbeat, reconciliation, assignors, regular expressions |
//! | `limits.rs` | how large what clients ask for may be |
//! | `offsets.rs` | committed offsets |
//! | `timers.rs` | deadlines by name |
//! | `topics.rs` | what a coordinator must know of topics |

pub mod api;
mod classic;
mod config;
mod consumer;
mod coordinator;
mod effects;
mod limits;
mod offsets;
mod timers;
mod topics;

pub use config::{GroupConfig, MigrationPolicy};
pub use coordinator::{Coordinator, LoadError};
pub use effects::{Call, Effects, Now};
pub use limits::EVENT_BYTES_MAX;
pub use topics::{TopicView, Topics};

#[cfg(test)]
mod tests;
