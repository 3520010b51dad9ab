//! The load generator, what it measures, and probes of what a machine can do.
//!
//! | Module | Owns |
//! |---|---|
//! | [`plan`] | what a run is: every axis, with its units and limits |
//! | [`load`] | the run itself: arrivals, records, producers, consumers, verification |
//! | [`result`] | what a run leaves behind: the report, histogram logs, percentile files |
//! | [`hist`] | histograms from files: percentiles, drawings in a terminal, a page |
//! | [`groups`] | many consumer groups that commit, and their offsets after a crash |
//! | [`suite`] | several runs against one broker, and their report |
//! | [`node`] | a node as a child process |
//! | [`cores`] | which cores the node and the generator get |
//! | [`process`] | what a process uses: CPU, memory |
//! | [`sink`] | a broker that only acknowledges, to measure and to test load generators |
//! | [`journal`] | a probe of the journal |
//! | [`machine`] | what the disk and loopback TCP can do at best |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod cores;
pub mod groups;
pub mod hist;
pub mod journal;
pub mod load;
pub mod machine;
pub mod node;
pub mod plan;
pub mod process;
pub mod result;
pub mod sink;
pub mod suite;
