//! The run itself.
//!
//! A run is one plan against one broker. The generator's cores run one executor each; producers and
//! consumers are dealt out to them and share nothing but what [`shared`] holds: when to start, what
//! was sent, when it is over. A plain thread ([`run`]) watches the clock, samples CPU, and takes
//! what the executors measured, once a second.
//!
//! | Module | Owns |
//! |---|---|
//! | [`arrivals`], [`keys`], [`payload`], [`stamp`] | when a record is due, what is in it (pure) |
//! | [`verify`] | what must have arrived, and what did (pure) |
//! | [`sweep`], [`scenario`] | several runs in a row (pure) |
//! | `batch`, `producer` | records into batches into requests |
//! | `consumer` | fetches, and what they bring |
//! | `link` | one connection: requests out, replies in, when each was written |
//! | `routes` | which broker leads which partition |
//! | `recorder` | what one executor measured since the last second |
//! | `worker` | one executor's producers and consumers, from set-up to end |
//! | [`run`] | one run, from plan to [`crate::result::report::Run`] |

pub mod arrivals;
mod batch;
mod consumer;
pub mod keys;
mod link;
pub mod payload;
mod producer;
pub(crate) mod recorder;
mod routes;
pub mod run;
pub mod scenario;
mod shared;
pub mod stamp;
pub mod sweep;
pub mod verify;
mod worker;

/// The whole part of a number that is not negative; larger ones than fit become the largest.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from a float saturates, which is what is wanted"
)]
fn whole(value: f64) -> u64 {
    value as u64
}
