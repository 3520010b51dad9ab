//! What a run leaves behind.

pub mod interval_log;
pub mod percentile_file;
pub mod report;
