//! What classic consumers put into a group's opaque bytes: `ConsumerProtocolSubscription` and
//! `ConsumerProtocolAssignment`. A newer version than the ones known here is read as the newest
//! known one, as the schemas demand; what follows is ignored.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::array;
use crate::wire::{Form, Reader, WireError, Writer};

const VERSION_MAX: i16 = 3;

/// Partitions' indexes by topic name.
pub type ByTopic = Vec<(Arc<str>, Vec<i32>)>;

/// What a classic consumer subscribes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscription {
    /// Topics by name.
    pub topics: Vec<Arc<str>>,
    /// What its assignor wants to keep.
    pub user_data: Option<Bytes>,
    /// What it owns, from version 1 on.
    pub owned: ByTopic,
    /// The generation in which it came to own that, from version 2 on; −1 when unknown.
    pub generation: i32,
    /// Where it runs, from version 3 on.
    pub rack_id: Option<Arc<str>>,
}

/// The version in front of a subscription.
///
/// # Errors
/// When there are fewer than two bytes, or the version is negative.
pub fn subscription_version(bytes: &[u8]) -> Result<i16, WireError> {
    let version = Reader::new(bytes).i16()?;
    if version < 0 { Err(WireError::UnsupportedVersion(version)) } else { Ok(version) }
}

fn topics(reader: &mut Reader<'_>) -> Result<ByTopic, WireError> {
    array(reader, Form::Long, 6, |reader| {
        let topic = Arc::from(reader.str(Form::Short)?);
        Ok((topic, array(reader, Form::Long, 4, |reader| reader.i32())?))
    })
}

/// Reads a subscription.
///
/// # Errors
/// When the bytes are not one.
pub fn decode_subscription(bytes: &[u8]) -> Result<Subscription, WireError> {
    let version = subscription_version(bytes)?.min(VERSION_MAX);
    let mut reader = Reader::new(bytes);
    reader.i16()?;
    let names = array(&mut reader, Form::Long, 2, |reader| Ok(Arc::from(reader.str(Form::Short)?)))?;
    let user_data = reader.nullable_bytes(Form::Long)?.map(Bytes::copy_from_slice);
    Ok(Subscription {
        topics: names,
        user_data,
        owned: if version >= 1 { topics(&mut reader)? } else { Vec::new() },
        generation: if version >= 2 { reader.i32()? } else { -1 },
        rack_id: if version >= 3 { reader.nullable_str(Form::Short)?.map(Arc::from) } else { None },
    })
}

/// Reads an assignment: partitions by topic name, and the assignor's own data.
///
/// # Errors
/// When the bytes are not one.
pub fn decode_assignment(bytes: &[u8]) -> Result<ByTopic, WireError> {
    subscription_version(bytes)?;
    let mut reader = Reader::new(bytes);
    reader.i16()?;
    let assigned = topics(&mut reader)?;
    reader.nullable_bytes(Form::Long)?;
    Ok(assigned)
}

/// Whether the assignor put data of its own into an assignment.
///
/// # Errors
/// When the bytes are not an assignment.
pub fn has_user_data(bytes: &[u8]) -> Result<bool, WireError> {
    subscription_version(bytes)?;
    let mut reader = Reader::new(bytes);
    reader.i16()?;
    topics(&mut reader)?;
    Ok(reader.nullable_bytes(Form::Long)?.is_some_and(|data| !data.is_empty()))
}

/// Writes an assignment for a consumer whose subscription has that version.
pub fn encode_assignment(version: i16, assigned: &[(Arc<str>, Vec<i32>)]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(version.min(VERSION_MAX));
    out.put_length(Form::Long, assigned.len());
    for (topic, partitions) in assigned {
        out.put_str(Form::Short, topic);
        out.put_length(Form::Long, partitions.len());
        for partition in partitions {
            out.put_i32(*partition);
        }
    }
    out.put_null(Form::Long);
    out.freeze()
}
