//! The run itself.

pub mod stamp;
