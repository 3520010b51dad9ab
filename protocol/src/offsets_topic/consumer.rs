//! Values of consumer groups (KIP-848). All of them are version 0 and flexible.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::array;
use crate::wire::{Form, Reader, WireError, Writer};

const VERSION: i16 = 0;
/// The tag of the hash in `ConsumerGroupMetadataValue`, and of the classic part in
/// `ConsumerGroupMemberMetadataValue`.
const TAG: u32 = 0;

/// `ConsumerGroupMetadataValue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerGroupEpoch {
    /// Counts changes of members, subscriptions and topics.
    pub epoch: i32,
    /// What the topics subscribed to were like at that epoch, condensed; 0 when unknown.
    pub metadata_hash: i64,
}

/// `ConsumerGroupMemberMetadataValue`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConsumerMember {
    /// The id that a static member has over its restarts.
    pub instance_id: Option<Arc<str>>,
    /// Where it runs.
    pub rack_id: Option<Arc<str>>,
    /// What the client calls itself.
    pub client_id: Arc<str>,
    /// Where it connected from.
    pub client_host: Arc<str>,
    /// Topics subscribed to by name.
    pub topics: Vec<Arc<str>>,
    /// Topics subscribed to by a regular expression.
    pub regex: Option<Arc<str>>,
    /// How long it may take to give up partitions; −1 when unknown.
    pub rebalance_timeout_ms: i32,
    /// The assignor that it prefers.
    pub assignor: Option<Arc<str>>,
    /// Set when it speaks the classic protocol.
    pub classic: Option<ConsumerClassicMember>,
}

/// What is kept of a member that speaks the classic protocol in a consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerClassicMember {
    /// How long it may be silent.
    pub session_timeout_ms: i32,
    /// Its assignors, the preferred one first.
    pub protocols: Vec<ClassicProtocol>,
}

/// An assignor that a classic member supports, with the member's metadata for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassicProtocol {
    /// The assignor's name.
    pub name: Arc<str>,
    /// The subscription.
    pub metadata: Bytes,
}

/// `ConsumerGroupTargetAssignmentMetadataValue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerTargetEpoch {
    /// The group's epoch for which the target was computed.
    pub epoch: i32,
}

/// Partitions of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPartitions {
    /// The topic.
    pub topic: Uuid,
    /// Its partitions' indexes.
    pub partitions: Vec<i32>,
}

/// `ConsumerGroupCurrentMemberAssignmentValue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerCurrent {
    /// The epoch that the member is at.
    pub epoch: i32,
    /// The epoch before it, which the member may still send when a response was lost.
    pub previous_epoch: i32,
    /// 0 stable, 1 it has partitions to give up, 2 it waits for others to give up theirs, 127 unknown.
    pub state: i8,
    /// What it owns.
    pub assigned: Vec<TopicPartitions>,
    /// What it must give up.
    pub revoking: Vec<TopicPartitions>,
}

/// `ConsumerGroupRegularExpressionValue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerRegex {
    /// The topics whose names match.
    pub topics: Vec<Arc<str>>,
    /// The version of the metadata in which that was so.
    pub version: i64,
    /// When that was found, in milliseconds since 1970.
    pub timestamp_ms: i64,
}

fn version(reader: &mut Reader<'_>) -> Result<(), WireError> {
    match reader.i16()? {
        VERSION => Ok(()),
        other => Err(WireError::UnsupportedVersion(other)),
    }
}

fn string(reader: &mut Reader<'_>) -> Result<Arc<str>, WireError> {
    Ok(Arc::from(reader.str(Form::Compact)?))
}

fn nullable(reader: &mut Reader<'_>) -> Result<Option<Arc<str>>, WireError> {
    Ok(reader.nullable_str(Form::Compact)?.map(Arc::from))
}

fn put_strings(out: &mut BytesMut, strings: &[Arc<str>]) {
    out.put_length(Form::Compact, strings.len());
    for string in strings {
        out.put_str(Form::Compact, string);
    }
}

/// The number of a section's tagged fields, when there are none.
fn put_no_tags(out: &mut BytesMut) {
    out.put_uvarint(0);
}

fn put_tag(out: &mut BytesMut, field: &[u8]) {
    out.put_uvarint(1);
    out.put_uvarint(TAG);
    out.put_uvarint(u32::try_from(field.len()).expect("a field that we write is below 4 GiB"));
    out.put_slice(field);
}

impl ConsumerGroupEpoch {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_i16(VERSION);
        out.put_i32(self.epoch);
        if self.metadata_hash == 0 {
            put_no_tags(out);
        } else {
            put_tag(out, &self.metadata_hash.to_be_bytes());
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        version(reader)?;
        let epoch = reader.i32()?;
        let mut metadata_hash = 0;
        reader.tagged_fields(|tag, field| {
            if tag == TAG {
                metadata_hash = field.i64()?;
                field.finish()?;
            }
            Ok(())
        })?;
        Ok(Self { epoch, metadata_hash })
    }
}

impl ConsumerMember {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_i16(VERSION);
        out.put_nullable_str(Form::Compact, self.instance_id.as_deref());
        out.put_nullable_str(Form::Compact, self.rack_id.as_deref());
        out.put_str(Form::Compact, &self.client_id);
        out.put_str(Form::Compact, &self.client_host);
        put_strings(out, &self.topics);
        out.put_nullable_str(Form::Compact, self.regex.as_deref());
        out.put_i32(self.rebalance_timeout_ms);
        out.put_nullable_str(Form::Compact, self.assignor.as_deref());
        let Some(classic) = &self.classic else {
            return put_no_tags(out);
        };
        let mut field = BytesMut::new();
        // A nullable structure is preceded by a byte that says whether it is there.
        field.put_i8(1);
        field.put_i32(classic.session_timeout_ms);
        field.put_length(Form::Compact, classic.protocols.len());
        for protocol in &classic.protocols {
            field.put_str(Form::Compact, &protocol.name);
            field.put_length(Form::Compact, protocol.metadata.len());
            field.put_slice(&protocol.metadata);
            put_no_tags(&mut field);
        }
        put_no_tags(&mut field);
        put_tag(out, &field);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        version(reader)?;
        let mut value = Self {
            instance_id: nullable(reader)?,
            rack_id: nullable(reader)?,
            client_id: string(reader)?,
            client_host: string(reader)?,
            topics: array(reader, Form::Compact, 1, string)?,
            regex: nullable(reader)?,
            rebalance_timeout_ms: reader.i32()?,
            assignor: nullable(reader)?,
            classic: None,
        };
        reader.tagged_fields(|tag, field| {
            if tag == TAG && field.i8()? >= 0 {
                value.classic = Some(ConsumerClassicMember::decode(field)?);
                field.finish()?;
            }
            Ok(())
        })?;
        Ok(value)
    }
}

impl ConsumerClassicMember {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let session_timeout_ms = reader.i32()?;
        let protocols = array(reader, Form::Compact, 3, |reader| {
            let name = string(reader)?;
            let metadata = reader.nullable_bytes(Form::Compact)?.ok_or(WireError::InvalidLength(-1))?;
            let metadata = Bytes::copy_from_slice(metadata);
            reader.skip_tagged_fields()?;
            Ok(ClassicProtocol { name, metadata })
        })?;
        reader.skip_tagged_fields()?;
        Ok(Self { session_timeout_ms, protocols })
    }
}

impl ConsumerTargetEpoch {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_i16(VERSION);
        out.put_i32(self.epoch);
        put_no_tags(out);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        version(reader)?;
        let epoch = reader.i32()?;
        reader.skip_tagged_fields()?;
        Ok(Self { epoch })
    }
}

fn put_partitions(out: &mut BytesMut, topics: &[TopicPartitions]) {
    out.put_length(Form::Compact, topics.len());
    for topic in topics {
        out.put_uuid(topic.topic);
        out.put_length(Form::Compact, topic.partitions.len());
        for partition in &topic.partitions {
            out.put_i32(*partition);
        }
        put_no_tags(out);
    }
}

fn partitions(reader: &mut Reader<'_>) -> Result<Vec<TopicPartitions>, WireError> {
    array(reader, Form::Compact, 18, |reader| {
        let topic = reader.uuid()?;
        let partitions = array(reader, Form::Compact, 4, |reader| reader.i32())?;
        reader.skip_tagged_fields()?;
        Ok(TopicPartitions { topic, partitions })
    })
}

/// `ConsumerGroupTargetAssignmentMemberValue`.
pub(super) fn encode_target(topics: &[TopicPartitions], out: &mut BytesMut) {
    out.put_i16(VERSION);
    put_partitions(out, topics);
    put_no_tags(out);
}

pub(super) fn decode_target(reader: &mut Reader<'_>) -> Result<Vec<TopicPartitions>, WireError> {
    version(reader)?;
    let topics = partitions(reader)?;
    reader.skip_tagged_fields()?;
    Ok(topics)
}

impl ConsumerCurrent {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_i16(VERSION);
        out.put_i32(self.epoch);
        out.put_i32(self.previous_epoch);
        out.put_i8(self.state);
        put_partitions(out, &self.assigned);
        put_partitions(out, &self.revoking);
        put_no_tags(out);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        version(reader)?;
        let value = Self {
            epoch: reader.i32()?,
            previous_epoch: reader.i32()?,
            state: reader.i8()?,
            assigned: partitions(reader)?,
            revoking: partitions(reader)?,
        };
        reader.skip_tagged_fields()?;
        Ok(value)
    }
}

impl ConsumerRegex {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_i16(VERSION);
        put_strings(out, &self.topics);
        out.put_i64(self.version);
        out.put_i64(self.timestamp_ms);
        put_no_tags(out);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        version(reader)?;
        let value = Self {
            topics: array(reader, Form::Compact, 1, string)?,
            version: reader.i64()?,
            timestamp_ms: reader.i64()?,
        };
        reader.skip_tagged_fields()?;
        Ok(value)
    }
}
