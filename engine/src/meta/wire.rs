//! How metadata is written down: one version byte, then postcard.
//!
//! The version counts changes that old readers cannot understand. Everything that reaches the
//! journal goes through here, so `docs/FORMAT.md` has one place to point to.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::image::{MetaImage, MetaImageV1};

/// The version of everything but images; the only one so far.
pub const VERSION: u8 = 1;

/// The version of images that is written. Version 1 is read, too.
pub const IMAGE_VERSION: u8 = 2;

/// Bytes that are no metadata of a known version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Nothing there.
    #[error("empty")]
    Empty,
    /// Written by another version of Corelog.
    #[error("format version {0}, which this node does not read")]
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

/// The bytes of an image.
pub fn encode_image(image: &MetaImage) -> Vec<u8> {
    postcard::to_extend(image, vec![IMAGE_VERSION]).expect("metadata types serialize into memory")
}

/// The image of bytes that [`encode_image`] wrote, in this or an earlier version of Corelog.
///
/// # Errors
/// Anything else.
pub fn decode_image(bytes: &[u8]) -> Result<MetaImage, WireError> {
    let (version, body) = bytes.split_first().ok_or(WireError::Empty)?;
    let (image, rest) = match *version {
        1 => {
            let (image, rest) = postcard::take_from_bytes::<MetaImageV1>(body)?;
            (image.into(), rest)
        }
        IMAGE_VERSION => postcard::take_from_bytes::<MetaImage>(body)?,
        other => return Err(WireError::Version(other)),
    };
    if !rest.is_empty() {
        return Err(WireError::LeftOver(rest.len()));
    }
    Ok(image)
}
