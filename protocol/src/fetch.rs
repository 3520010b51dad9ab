//! The framing of Fetch, versions 4 to 17.
//!
//! Records go out as the chunks that the log handed over, without a copy, and come in as
//! slices of the frame. Topics are named up to version 12 and have ids from 13 on; sessions
//! (KIP-227) begin with version 7.

mod request;
mod response;

use crate::wire::WireError;

pub use request::{FetchPartition, FetchRequest, FetchTopic, ForgottenTopic};
pub use response::{
    AbortedTransaction, EpochEndOffset, FetchPartitionResponse, FetchResponse, FetchTopicResponse,
};

/// First version with compact lengths and tagged fields.
pub(crate) const FLEXIBLE_FROM: i16 = 12;
/// First version that names topics by id alone.
pub const TOPIC_IDS_FROM: i16 = 13;

const VERSION_MIN: i16 = 4;
const VERSION_MAX: i16 = 17;
/// First version with sessions.
const SESSIONS_FROM: i16 = 7;

/// What a consumer may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IsolationLevel {
    /// Everything below the high watermark.
    #[default]
    ReadUncommitted,
    /// Everything below the last stable offset, with the aborted transactions named.
    ReadCommitted,
}

impl IsolationLevel {
    /// The level with this number, here and in ListOffsets.
    pub const fn from_wire(level: i8) -> Option<Self> {
        match level {
            0 => Some(IsolationLevel::ReadUncommitted),
            1 => Some(IsolationLevel::ReadCommitted),
            _ => None,
        }
    }

    /// The number on the wire.
    pub const fn to_wire(self) -> i8 {
        match self {
            IsolationLevel::ReadUncommitted => 0,
            IsolationLevel::ReadCommitted => 1,
        }
    }
}

fn check_version(version: i16) -> Result<(), WireError> {
    if (VERSION_MIN..=VERSION_MAX).contains(&version) {
        Ok(())
    } else {
        Err(WireError::UnsupportedVersion(version))
    }
}

fn non_null<T>(value: Option<T>) -> Result<T, WireError> {
    value.ok_or(WireError::InvalidLength(-1))
}

#[cfg(test)]
mod tests;
