//! The load generator, what it measures, and probes of what a machine can do.
//!
//! | Module | Owns |
//! |---|---|
//! | [`plan`] | what a run is: every axis, with its units and limits |
//! | [`load`] | the run itself: arrivals, records, producers, consumers, verification |
//! | [`result`] | what a run leaves behind: the report, histogram logs, percentile files |
//! | [`hist`] | histograms from files: percentiles, drawings in a terminal, a page |
//! | [`journal`] | a probe of the journal |

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod hist;
pub mod journal;
pub mod load;
pub mod plan;
pub mod result;
