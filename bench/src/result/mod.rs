//! What a run leaves behind.

pub mod latency;
pub mod machine;
pub mod report;
