//! The load generator, what it measures, and probes of what a machine can do.
//!
//! | Module | Owns |
//! |---|---|
//! | [`plan`] | what a run is: every axis, with its units and limits |
//! | [`load`] | the run itself: arrivals, records, producers, consumers, verification |
//! | [`result`] | what a run leaves behind: the report, histogram logs, percentile files |
//! | [`sink`] | a broker that only acknowledges, to measure and to test load generators |
//! | [`journal`] | a probe of the journal |

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod journal;
pub mod load;
pub mod plan;
pub mod result;
pub mod sink;
