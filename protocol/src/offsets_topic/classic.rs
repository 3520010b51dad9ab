//! Values of committed offsets and of classic groups.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::array;
use crate::wire::{Form, Reader, WireError, Writer};

/// The version in which committed offsets are written: the last one that is not flexible, as
/// Kafka 4.0 writes it.
const OFFSET_VERSION: i16 = 3;
const OFFSET_VERSION_MAX: i16 = 4;
const GROUP_VERSION: i16 = 3;
const GROUP_VERSION_MAX: i16 = 4;

/// A committed offset: `OffsetCommitValue`, versions 0 to 4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommit {
    /// The next record to consume.
    pub offset: i64,
    /// The leader epoch of the last consumed record, −1 when unknown.
    pub leader_epoch: i32,
    /// Whatever the consumer wants to keep with it.
    pub metadata: Arc<str>,
    /// When it was committed, in milliseconds since 1970.
    pub commit_timestamp_ms: i64,
    /// When it expires (version 1 only), −1 for the group's retention.
    pub expire_timestamp_ms: i64,
}

impl OffsetCommit {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        // Version 1 is the only one that has a time of expiry.
        let version = if self.expire_timestamp_ms == -1 { OFFSET_VERSION } else { 1 };
        out.put_i16(version);
        out.put_i64(self.offset);
        if version >= 3 {
            out.put_i32(self.leader_epoch);
        }
        out.put_str(Form::Short, &self.metadata);
        out.put_i64(self.commit_timestamp_ms);
        if version == 1 {
            out.put_i64(self.expire_timestamp_ms);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let version = reader.i16()?;
        if !(0..=OFFSET_VERSION_MAX).contains(&version) {
            return Err(WireError::UnsupportedVersion(version));
        }
        let flexible = version >= 4;
        let value = Self {
            offset: reader.i64()?,
            leader_epoch: if version >= 3 { reader.i32()? } else { -1 },
            metadata: Arc::from(reader.str(Form::string(flexible))?),
            commit_timestamp_ms: reader.i64()?,
            expire_timestamp_ms: if version == 1 { reader.i64()? } else { -1 },
        };
        if flexible {
            reader.skip_tagged_fields()?;
        }
        Ok(value)
    }
}

/// A classic group's last generation: `GroupMetadataValue`, versions 0 to 4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMetadata {
    /// For example `consumer`; empty when no member ever joined.
    pub protocol_type: Arc<str>,
    /// Counts completed joins.
    pub generation: i32,
    /// The assignment strategy that the members agreed on.
    pub protocol: Option<Arc<str>>,
    /// The member that assigns.
    pub leader: Option<Arc<str>>,
    /// Since when the group is in its state, in milliseconds since 1970; −1 when unknown.
    pub state_timestamp_ms: i64,
    /// The members.
    pub members: Vec<GroupMember>,
}

/// A member of a classic group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Its id.
    pub member_id: Arc<str>,
    /// The id that a static member has over its restarts.
    pub instance_id: Option<Arc<str>>,
    /// What the client calls itself.
    pub client_id: Arc<str>,
    /// Where it connected from.
    pub client_host: Arc<str>,
    /// How long it may take to join again.
    pub rebalance_timeout_ms: i32,
    /// How long it may be silent.
    pub session_timeout_ms: i32,
    /// Its metadata for the group's protocol.
    pub subscription: Bytes,
    /// What the leader assigned to it.
    pub assignment: Bytes,
}

impl GroupMetadata {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_i16(GROUP_VERSION);
        out.put_str(Form::Short, &self.protocol_type);
        out.put_i32(self.generation);
        out.put_nullable_str(Form::Short, self.protocol.as_deref());
        out.put_nullable_str(Form::Short, self.leader.as_deref());
        out.put_i64(self.state_timestamp_ms);
        out.put_length(Form::Long, self.members.len());
        for member in &self.members {
            member.encode(out);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let version = reader.i16()?;
        if !(0..=GROUP_VERSION_MAX).contains(&version) {
            return Err(WireError::UnsupportedVersion(version));
        }
        let flexible = version >= 4;
        let string = Form::string(flexible);
        let value = Self {
            protocol_type: Arc::from(reader.str(string)?),
            generation: reader.i32()?,
            protocol: reader.nullable_str(string)?.map(Arc::from),
            leader: reader.nullable_str(string)?.map(Arc::from),
            state_timestamp_ms: if version >= 2 { reader.i64()? } else { -1 },
            members: array(reader, Form::array(flexible), 1, |reader| GroupMember::decode(reader, version))?,
        };
        if flexible {
            reader.skip_tagged_fields()?;
        }
        Ok(value)
    }
}

impl GroupMember {
    fn encode(&self, out: &mut BytesMut) {
        out.put_str(Form::Short, &self.member_id);
        out.put_nullable_str(Form::Short, self.instance_id.as_deref());
        out.put_str(Form::Short, &self.client_id);
        out.put_str(Form::Short, &self.client_host);
        out.put_i32(self.rebalance_timeout_ms);
        out.put_i32(self.session_timeout_ms);
        for bytes in [&self.subscription, &self.assignment] {
            out.put_length(Form::Long, bytes.len());
            out.put_slice(bytes);
        }
    }

    fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        let flexible = version >= 4;
        let string = Form::string(flexible);
        let member_id = Arc::from(reader.str(string)?);
        let instance_id = if version >= 3 { reader.nullable_str(string)?.map(Arc::from) } else { None };
        let client_id = Arc::from(reader.str(string)?);
        let client_host = Arc::from(reader.str(string)?);
        let rebalance_timeout_ms = if version >= 1 { reader.i32()? } else { -1 };
        let session_timeout_ms = reader.i32()?;
        let mut bytes = || {
            let bytes = reader.nullable_bytes(Form::array(flexible))?.ok_or(WireError::InvalidLength(-1))?;
            Ok::<_, WireError>(Bytes::copy_from_slice(bytes))
        };
        let (subscription, assignment) = (bytes()?, bytes()?);
        if flexible {
            reader.skip_tagged_fields()?;
        }
        Ok(Self {
            member_id,
            instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms,
            session_timeout_ms,
            subscription,
            assignment,
        })
    }
}
