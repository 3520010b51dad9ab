//! What a run leaves behind.

pub mod compare;
pub mod interval_log;
pub mod latency;
pub mod machine;
pub mod percentile_file;
pub mod report;
