//! Probes of what a machine and Corelog's own parts can do. The load generator joins them here.

pub mod journal;
