//! What can go wrong when talking to a Kafka, in words that say what to do.

use std::io;
use std::time::Duration;

use corelog_protocol::error::ErrorCode;

/// A failed operation of the client.
///
/// Cloneable, because one broken connection fails many requests and one refused batch many
/// records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// A broker's address is not `host:port`, or the name does not resolve.
    #[error("'{address}' is not a usable broker address: {reason}")]
    Address {
        /// The address as it was given or advertised.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No connection could be made.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// Where to.
        address: String,
        /// The system's kind of error, to tell a refusal from an unreachable network.
        kind: io::ErrorKind,
        /// The system's words.
        reason: String,
    },
    /// A broker closed the connection, or it broke.
    #[error("the connection to {address} was lost: {reason}")]
    Disconnected {
        /// The broker.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// No answer in time.
    #[error("{address} did not answer {what} within {after:?}")]
    TimedOut {
        /// The broker.
        address: String,
        /// The request.
        what: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The peer sent bytes that are not the protocol's.
    #[error("{address} sent an answer that is not Kafka's protocol ({what}): {reason}")]
    Protocol {
        /// The broker.
        address: String,
        /// The request.
        what: &'static str,
        /// What was wrong.
        reason: String,
    },
    /// A request cannot be written in the version that the broker understands.
    #[error("{what} cannot be sent to {address} in version {version}: {reason}")]
    Encode {
        /// The broker.
        address: String,
        /// The request.
        what: &'static str,
        /// The version that both sides have.
        version: i16,
        /// What that version lacks.
        reason: String,
    },
    /// The broker does not serve the request, or no version that this client speaks.
    #[error(
        "{address} does not serve {what} in a version of this client's \
         (broker: {broker}, client: {client})"
    )]
    Unsupported {
        /// The broker.
        address: String,
        /// The request.
        what: &'static str,
        /// The broker's range.
        broker: String,
        /// This client's range.
        client: String,
    },
    /// Too many requests wait on one connection.
    #[error("{limit} requests are already in flight to {address}")]
    TooManyInFlight {
        /// The broker.
        address: String,
        /// The named maximum.
        limit: usize,
    },
    /// No broker of the cluster could be reached.
    #[error("no broker could be reached; last: {last}")]
    NoBroker {
        /// The last failure.
        last: Box<ClientError>,
    },
    /// The client was given no address at all.
    #[error("no bootstrap address was given")]
    NoBootstrap,
    /// The cluster has no such topic.
    #[error("there is no topic '{topic}'")]
    UnknownTopic {
        /// Its name.
        topic: String,
    },
    /// The topic has no such partition.
    #[error("topic '{topic}' has no partition {partition}: it has 0 to {}", partitions.saturating_sub(1))]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// The partition asked for.
        partition: i32,
        /// How many there are.
        partitions: i32,
    },
    /// The partition has no leader now.
    #[error("partition {partition} of topic '{topic}' has no leader at the moment")]
    NoLeader {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// The start of a consumer lies outside the log.
    #[error(
        "offset {offset} of {topic}-{partition} is outside the log, \
         which has [{log_start_offset}, {log_end_offset})"
    )]
    OffsetOutOfRange {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset asked for.
        offset: i64,
        /// First offset that exists.
        log_start_offset: i64,
        /// Exclusive end.
        log_end_offset: i64,
    },
    /// A fetched batch cannot be read.
    #[error("a batch of {topic}-{partition} at offset {offset} cannot be read: {reason}")]
    BadBatch {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The batch's base offset, or the position of the fetch.
        offset: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// What a group's leader assigned cannot be read.
    #[error("what the leader of group '{group}' assigned cannot be read: {reason}")]
    Assignment {
        /// The group.
        group: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A record alone is larger than a request may be.
    #[error("a record of {record_bytes} bytes is larger than the limit of {limit_bytes}")]
    RecordTooLarge {
        /// Its size in a batch.
        record_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The broker refused.
    #[error("{what} was refused: {code}{}", detail(.message))]
    Refused {
        /// The request and what it was about.
        what: String,
        /// The protocol's code.
        code: ErrorCode,
        /// The broker's own words, where the protocol carries any.
        message: Option<String>,
    },
    /// Retried until the time was up.
    #[error("{what} did not succeed within {after:?}; last: {last}")]
    GaveUp {
        /// The operation.
        what: String,
        /// The time that was allowed.
        after: Duration,
        /// The last failure.
        last: Box<ClientError>,
    },
    /// A batch was sent and nobody can tell whether it was written.
    #[error("it is not known whether the batch was written: {last}")]
    OutcomeUnknown {
        /// Why.
        last: Box<ClientError>,
    },
    /// The producer or consumer was closed.
    #[error("the client is closed")]
    Closed,
}

fn detail(message: &Option<String>) -> String {
    message.as_ref().map(|message| format!(" ({message})")).unwrap_or_default()
}

impl ClientError {
    /// `Err` when `code` is an error; 0 is none.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code and the broker's own words.
    pub fn check(code: i16, message: Option<&str>, what: impl FnOnce() -> String) -> Result<(), Self> {
        match ErrorCode::from_code(code) {
            ErrorCode::None => Ok(()),
            code => Err(Self::Refused { what: what(), code, message: message.map(str::to_owned) }),
        }
    }

    /// Whether trying again, perhaps elsewhere, may help.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Disconnected { .. }
            | Self::TimedOut { .. }
            | Self::TooManyInFlight { .. }
            | Self::NoBroker { .. }
            | Self::NoLeader { .. } => true,
            Self::Refused { code, .. } => code.is_retriable(),
            Self::Address { .. }
            | Self::Protocol { .. }
            | Self::Encode { .. }
            | Self::Unsupported { .. }
            | Self::NoBootstrap
            | Self::UnknownTopic { .. }
            | Self::UnknownPartition { .. }
            | Self::OffsetOutOfRange { .. }
            | Self::BadBatch { .. }
            | Self::Assignment { .. }
            | Self::RecordTooLarge { .. }
            | Self::GaveUp { .. }
            | Self::OutcomeUnknown { .. }
            | Self::Closed => false,
        }
    }

    /// The broker's code, where it is a refusal (also behind retries).
    pub fn code(&self) -> Option<ErrorCode> {
        match self.root() {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The failure behind retries.
    pub fn root(&self) -> &Self {
        match self {
            Self::GaveUp { last, .. } | Self::NoBroker { last } | Self::OutcomeUnknown { last } => {
                last.root()
            }
            other => other,
        }
    }
}
