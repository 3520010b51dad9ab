//! Kafka's wire forms: frames, messages, error codes, record batches and their codecs.
//!
//! Everything here is a pure function of bytes: no sockets, no files, no clock, no state
//! that outlives a call but the scratch buffers which the caller owns and passes in. Bytes
//! come from strangers, so nothing here panics on them, and no length from the wire is
//! believed before it is compared with the bytes that remain.
//!
//! | Module | Owns |
//! |---|---|
//! | [`batch`] | the record batch (format 2): header, patching in place, records, builder |
//! | [`codec`] | compression of batches, bounded decompression |
//! | [`validate`] | what a batch must satisfy before it is appended |
//! | [`error`] | Kafka's error codes |
//! | [`produce`], [`fetch`] | our own framing of the two requests that carry batches |
//! | [`leader`] | who leads now, as error responses tell clients |
//! | [`offsets_topic`] | the records of `__consumer_offsets` |
//! | [`api`] | the table of APIs, headers, and the bounded use of the generated codec |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_sign_loss))]

pub mod api;
pub mod batch;
mod chunks;
pub mod codec;
pub mod error;
pub mod fetch;
pub mod leader;
pub mod offsets_topic;
pub mod produce;
pub mod validate;
mod wire;

pub use error::ErrorCode;
pub use wire::WireError;
