//! What every verified record carries at the front of its value.

/// Size of a stamp.
pub const STAMP_BYTES: usize = 32;
