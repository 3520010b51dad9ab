//! The records of `__consumer_offsets`, byte for byte as Kafka writes them.
//!
//! A key begins with a number that says what the record is about (Kafka's schemas call it the key's
//! version), a value with the version of its own schema. A null value is a tombstone. Keys that are
//! not known here, those of share groups for example, are told apart from garbage, so that a reader
//! can skip them.
//!
//! Source: the schemas in `group-coordinator/src/main/resources/common/message` of Kafka 4.1.

mod classic;
mod consumer;
mod embedded;

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::{Form, Reader, WireError, Writer};

/// The most bytes that a name in a record may have: no request can bring a longer one.
pub use crate::wire::STRING_BYTES_MAX;

pub use classic::{GroupMember, GroupMetadata, OffsetCommit};
pub use consumer::{
    ClassicProtocol, ConsumerClassicMember, ConsumerCurrent, ConsumerGroupEpoch, ConsumerMember,
    ConsumerRegex, ConsumerTargetEpoch, TopicPartitions,
};
pub use embedded::{
    ByTopic, Subscription, decode_assignment, decode_subscription, encode_assignment, has_user_data,
    subscription_version,
};

/// A record of `__consumer_offsets`; `None` as the value is a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A committed offset (keys 0 and 1; written as 1).
    Offset {
        /// The group.
        group: Arc<str>,
        /// The topic's name.
        topic: Arc<str>,
        /// The partition's index.
        partition: i32,
        /// What was committed.
        value: Option<OffsetCommit>,
    },
    /// A classic group (key 2).
    Group {
        /// The group.
        group: Arc<str>,
        /// Its last generation.
        value: Option<GroupMetadata>,
    },
    /// A consumer group's epoch (key 3).
    ConsumerGroup {
        /// The group.
        group: Arc<str>,
        /// The epoch.
        value: Option<ConsumerGroupEpoch>,
    },
    /// What a consumer group's member says of itself (key 5).
    ConsumerMember {
        /// The group.
        group: Arc<str>,
        /// The member.
        member: Arc<str>,
        /// Its subscription and more.
        value: Option<ConsumerMember>,
    },
    /// The epoch of a consumer group's target assignment (key 6).
    ConsumerTarget {
        /// The group.
        group: Arc<str>,
        /// The epoch.
        value: Option<ConsumerTargetEpoch>,
    },
    /// What a member is to have (key 7).
    ConsumerTargetMember {
        /// The group.
        group: Arc<str>,
        /// The member.
        member: Arc<str>,
        /// Its partitions.
        value: Option<Vec<TopicPartitions>>,
    },
    /// What a member has (key 8).
    ConsumerCurrent {
        /// The group.
        group: Arc<str>,
        /// The member.
        member: Arc<str>,
        /// Its partitions and its epoch.
        value: Option<ConsumerCurrent>,
    },
    /// The topics that a regular expression stands for (key 16).
    ConsumerRegex {
        /// The group.
        group: Arc<str>,
        /// The expression.
        regex: Arc<str>,
        /// The topics.
        value: Option<ConsumerRegex>,
    },
}

const KEY_OFFSET_OLD: i16 = 0;
const KEY_OFFSET: i16 = 1;
const KEY_GROUP: i16 = 2;
const KEY_CONSUMER_GROUP: i16 = 3;
const KEY_CONSUMER_MEMBER: i16 = 5;
const KEY_CONSUMER_TARGET: i16 = 6;
const KEY_CONSUMER_TARGET_MEMBER: i16 = 7;
const KEY_CONSUMER_CURRENT: i16 = 8;
const KEY_CONSUMER_REGEX: i16 = 16;

impl Record {
    /// The group that the record is about.
    pub fn group(&self) -> &Arc<str> {
        match self {
            Self::Offset { group, .. }
            | Self::Group { group, .. }
            | Self::ConsumerGroup { group, .. }
            | Self::ConsumerMember { group, .. }
            | Self::ConsumerTarget { group, .. }
            | Self::ConsumerTargetMember { group, .. }
            | Self::ConsumerCurrent { group, .. }
            | Self::ConsumerRegex { group, .. } => group,
        }
    }

    /// The record's key. Panics when a name has more than [`STRING_BYTES_MAX`] bytes: what reads
    /// requests refuses those.
    pub fn key(&self) -> Bytes {
        let mut out = BytesMut::new();
        let mut put = |kind: i16, names: [Option<&str>; 2]| {
            out.put_i16(kind);
            for name in names.into_iter().flatten() {
                out.put_str(Form::Short, name);
            }
        };
        match self {
            Self::Offset { group, topic, partition, .. } => {
                put(KEY_OFFSET, [Some(group), Some(topic)]);
                out.put_i32(*partition);
            }
            Self::Group { group, .. } => put(KEY_GROUP, [Some(group), None]),
            Self::ConsumerGroup { group, .. } => put(KEY_CONSUMER_GROUP, [Some(group), None]),
            Self::ConsumerMember { group, member, .. } => {
                put(KEY_CONSUMER_MEMBER, [Some(group), Some(member)]);
            }
            Self::ConsumerTarget { group, .. } => put(KEY_CONSUMER_TARGET, [Some(group), None]),
            Self::ConsumerTargetMember { group, member, .. } => {
                put(KEY_CONSUMER_TARGET_MEMBER, [Some(group), Some(member)]);
            }
            Self::ConsumerCurrent { group, member, .. } => {
                put(KEY_CONSUMER_CURRENT, [Some(group), Some(member)]);
            }
            Self::ConsumerRegex { group, regex, .. } => put(KEY_CONSUMER_REGEX, [Some(group), Some(regex)]),
        }
        out.freeze()
    }

    /// The record's value, `None` for a tombstone. Panics as [`Record::key`] does.
    pub fn value(&self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        match self {
            Self::Offset { value, .. } => value.as_ref()?.encode(&mut out),
            Self::Group { value, .. } => value.as_ref()?.encode(&mut out),
            Self::ConsumerGroup { value, .. } => value.as_ref()?.encode(&mut out),
            Self::ConsumerMember { value, .. } => value.as_ref()?.encode(&mut out),
            Self::ConsumerTarget { value, .. } => value.as_ref()?.encode(&mut out),
            Self::ConsumerTargetMember { value, .. } => {
                consumer::encode_target(value.as_ref()?, &mut out);
            }
            Self::ConsumerCurrent { value, .. } => value.as_ref()?.encode(&mut out),
            Self::ConsumerRegex { value, .. } => value.as_ref()?.encode(&mut out),
        }
        Some(out.freeze())
    }

    /// Reads a record; `Ok(None)` when its key is of a kind that is not known here.
    ///
    /// # Errors
    /// When key or value is not what its schema says.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Self>, WireError> {
        let mut key = Reader::new(key);
        let kind = key.i16()?;
        if !matches!(kind, KEY_OFFSET_OLD..=KEY_CONSUMER_GROUP | KEY_CONSUMER_MEMBER..=KEY_CONSUMER_CURRENT | KEY_CONSUMER_REGEX)
        {
            return Ok(None);
        }
        let group = name(&mut key)?;
        let record = match kind {
            KEY_OFFSET_OLD | KEY_OFFSET => {
                let topic = name(&mut key)?;
                let partition = key.i32()?;
                Self::Offset { group, topic, partition, value: some(value, OffsetCommit::decode)? }
            }
            KEY_GROUP => Self::Group { group, value: some(value, GroupMetadata::decode)? },
            KEY_CONSUMER_GROUP => {
                Self::ConsumerGroup { group, value: some(value, ConsumerGroupEpoch::decode)? }
            }
            KEY_CONSUMER_MEMBER => {
                let member = name(&mut key)?;
                Self::ConsumerMember { group, member, value: some(value, ConsumerMember::decode)? }
            }
            KEY_CONSUMER_TARGET => {
                Self::ConsumerTarget { group, value: some(value, ConsumerTargetEpoch::decode)? }
            }
            KEY_CONSUMER_TARGET_MEMBER => {
                let member = name(&mut key)?;
                Self::ConsumerTargetMember { group, member, value: some(value, consumer::decode_target)? }
            }
            KEY_CONSUMER_CURRENT => {
                let member = name(&mut key)?;
                Self::ConsumerCurrent { group, member, value: some(value, ConsumerCurrent::decode)? }
            }
            _ => {
                let regex = name(&mut key)?;
                Self::ConsumerRegex { group, regex, value: some(value, ConsumerRegex::decode)? }
            }
        };
        key.finish()?;
        Ok(Some(record))
    }
}

fn some<T>(
    value: Option<&[u8]>,
    decode: impl FnOnce(&mut Reader<'_>) -> Result<T, WireError>,
) -> Result<Option<T>, WireError> {
    let Some(value) = value else {
        return Ok(None);
    };
    let mut reader = Reader::new(value);
    let decoded = decode(&mut reader)?;
    reader.finish()?;
    Ok(Some(decoded))
}

fn name(reader: &mut Reader<'_>) -> Result<Arc<str>, WireError> {
    Ok(Arc::from(reader.str(Form::Short)?))
}

/// An array's elements, one after the other. `element_bytes_min` bounds what is reserved by the
/// bytes that remain.
fn array<T>(
    reader: &mut Reader<'_>,
    form: Form,
    element_bytes_min: usize,
    mut element: impl FnMut(&mut Reader<'_>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let count = reader.count(form, element_bytes_min)?.ok_or(WireError::InvalidLength(-1))?;
    let mut elements = Vec::new();
    for _ in 0..count {
        elements.push(element(reader)?);
    }
    Ok(elements)
}

#[cfg(test)]
mod tests;
