//! How metadata is written down: one version byte, then postcard.
//!
//! The version counts changes that old readers cannot understand. Everything that reaches the
//! journal goes through here, so `docs/FORMAT.md` has one place to point to.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that is written, and the only one so far.
pub const VERSION: u8 = 1;

/// Bytes that are no metadata of a known version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Nothing there.
    #[error("empty")]
    Empty,
    /// Written by another version of Corelog.
    #[error("format version {0}, this node reads {VERSION}")]
    Version(u8),
    /// Not what the version says.
    #[error("malformed: {0}")]
    Malformed(#[from] postcard::Error),
    /// More than one value.
    #[error("{0} bytes are left over")]
    LeftOver(usize),
}

/// The bytes of a value.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let bytes = vec![VERSION];
    // Growing a vector does not fail, and no metadata type has an unsized sequence.
    postcard::to_extend(value, bytes).expect("metadata types serialize into memory")
}

/// The bytes of a value, and other bytes behind them.
pub fn encode_before<T: Serialize + ?Sized>(value: &T, rest: &[u8]) -> Vec<u8> {
    let mut bytes = encode(value);
    bytes.extend_from_slice(rest);
    bytes
}

/// The value of bytes that [`encode`] wrote.
///
/// # Errors
/// Anything else.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let (value, rest) = decode_before(bytes)?;
    if !rest.is_empty() {
        return Err(WireError::LeftOver(rest.len()));
    }
    Ok(value)
}

/// The value and the rest of bytes that [`encode_before`] wrote.
///
/// # Errors
/// Bytes that do not begin with a value.
pub fn decode_before<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), WireError> {
    let (version, body) = bytes.split_first().ok_or(WireError::Empty)?;
    if *version != VERSION {
        return Err(WireError::Version(*version));
    }
    Ok(postcard::take_from_bytes(body)?)
}
