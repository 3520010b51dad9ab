//! The request: what is wanted, from where, and how long to wait for it.

use bytes::{BufMut, BytesMut};
use uuid::Uuid;

use super::{FLEXIBLE_FROM, IsolationLevel, SESSIONS_FROM, TOPIC_IDS_FROM, check_version, non_null};
use crate::api::{self, Api};
use crate::wire::{Form, Reader, WireError, Writer};

/// A fetch request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchRequest {
    /// The cluster that the client believes to talk to (version 12).
    pub cluster_id: Option<String>,
    /// The following node, or −1 for a consumer.
    pub replica_id: i32,
    /// The epoch of the following node, or −1 (version 15).
    pub replica_epoch: i64,
    /// How long to wait for `min_bytes`.
    pub max_wait_ms: i32,
    /// The response may wait until there is this much.
    pub min_bytes: i32,
    /// The response should have no more than this.
    pub max_bytes: i32,
    /// What the consumer may see.
    pub isolation_level: IsolationLevel,
    /// The fetch session, or 0 (version 7).
    pub session_id: i32,
    /// Counts requests in the session; 0 asks for a new one, −1 for none (version 7).
    pub session_epoch: i32,
    /// What is wanted, or in a session what has changed of it.
    pub topics: Vec<FetchTopic>,
    /// What to remove from the session (version 7).
    pub forgotten_topics: Vec<ForgottenTopic>,
    /// The rack of the consumer, or empty (version 11).
    pub rack_id: String,
}

/// What is wanted of one topic: it has a name up to version 12, an id from 13 on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FetchTopic {
    /// The name; empty from version 13 on.
    pub name: String,
    /// The id; nil up to version 12.
    pub topic_id: Uuid,
    /// The partitions.
    pub partitions: Vec<FetchPartition>,
}

/// What is wanted of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchPartition {
    /// The partition.
    pub index: i32,
    /// The leader epoch that the client knows, or −1 (version 9).
    pub current_leader_epoch: i32,
    /// The first offset wanted.
    pub fetch_offset: i64,
    /// The leader epoch of the last record that the client has, or −1 (version 12).
    pub last_fetched_epoch: i32,
    /// A follower's log start offset, or −1 (version 5).
    pub log_start_offset: i64,
    /// The response should have no more than this for the partition.
    pub max_bytes: i32,
    /// A follower's log directory (version 17).
    pub replica_directory_id: Uuid,
}

/// Partitions to remove from a session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForgottenTopic {
    /// The name; empty from version 13 on.
    pub name: String,
    /// The id; nil up to version 12.
    pub topic_id: Uuid,
    /// The partitions.
    pub partitions: Vec<i32>,
}

impl Default for FetchRequest {
    /// A consumer's request without a session, as librdkafka would send it.
    fn default() -> Self {
        Self {
            cluster_id: None,
            replica_id: -1,
            replica_epoch: -1,
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: 52_428_800,
            isolation_level: IsolationLevel::ReadUncommitted,
            session_id: 0,
            session_epoch: -1,
            topics: Vec::new(),
            forgotten_topics: Vec::new(),
            rack_id: String::new(),
        }
    }
}

impl FetchPartition {
    /// From this offset on, for a consumer.
    pub fn new(index: i32, fetch_offset: i64, max_bytes: i32) -> Self {
        Self {
            index,
            current_leader_epoch: -1,
            fetch_offset,
            last_fetched_epoch: -1,
            log_start_offset: -1,
            max_bytes,
            replica_directory_id: Uuid::nil(),
        }
    }
}

/// A topic's name or id, whichever the version has.
fn read_topic(version: i16, reader: &mut Reader<'_>) -> Result<(String, Uuid), WireError> {
    if version >= TOPIC_IDS_FROM {
        Ok((String::new(), reader.uuid()?))
    } else {
        let name = reader.str(Form::string(version >= FLEXIBLE_FROM))?;
        Ok((name.to_owned(), Uuid::nil()))
    }
}

fn write_topic(version: i16, name: &str, topic_id: Uuid, frame: &mut BytesMut) {
    if version >= TOPIC_IDS_FROM {
        frame.put_uuid(topic_id);
    } else {
        frame.put_str(Form::string(version >= FLEXIBLE_FROM), name);
    }
}

impl FetchRequest {
    /// Decodes the body of a request (what [`api::decode_request_header`] leaves).
    ///
    /// # Errors
    /// When the bytes are not exactly one such request.
    pub fn decode(version: i16, body: &[u8]) -> Result<Self, WireError> {
        check_version(version)?;
        let flexible = version >= FLEXIBLE_FROM;
        let array = Form::array(flexible);
        let mut reader = Reader::new(body);
        let mut request = Self::default();
        if version <= 14 {
            request.replica_id = reader.i32()?;
        }
        request.max_wait_ms = reader.i32()?;
        request.min_bytes = reader.i32()?;
        request.max_bytes = reader.i32()?;
        let level = reader.i8()?;
        request.isolation_level =
            IsolationLevel::from_wire(level).ok_or(WireError::UnknownValue(level.into()))?;
        if version >= SESSIONS_FROM {
            request.session_id = reader.i32()?;
            request.session_epoch = reader.i32()?;
        }
        for _ in 0..non_null(reader.count(array, 3)?)? {
            request.topics.push(FetchTopic::read(version, &mut reader)?);
        }
        if version >= SESSIONS_FROM {
            for _ in 0..non_null(reader.count(array, 3)?)? {
                let topic = ForgottenTopic::read(version, &mut reader)?;
                request.forgotten_topics.push(topic);
            }
        }
        if version >= 11 {
            request.rack_id = reader.str(Form::string(flexible))?.to_owned();
        }
        if flexible {
            reader.tagged_fields(|tag, content| match tag {
                0 => {
                    let id = content.nullable_str(Form::Compact)?;
                    request.cluster_id = id.map(str::to_owned);
                    content.finish()
                }
                1 if version >= 15 => {
                    request.replica_id = content.i32()?;
                    request.replica_epoch = content.i64()?;
                    content.skip_tagged_fields()?;
                    content.finish()
                }
                _ => Ok(()),
            })?;
        }
        reader.finish()?;
        Ok(request)
    }

    /// Encodes a whole frame on the client's side, length and header included. What the
    /// version cannot say is left out.
    ///
    /// # Panics
    /// For a version that is not in the table.
    pub fn encode(&self, version: i16, correlation_id: i32, client_id: &str) -> BytesMut {
        assert!(check_version(version).is_ok(), "version {version}");
        let flexible = version >= FLEXIBLE_FROM;
        let array = Form::array(flexible);
        let key = Api::Fetch.key();
        let mut frame = api::begin_request(key, version, flexible, correlation_id, client_id, 128);
        if version <= 14 {
            frame.put_i32(self.replica_id);
        }
        frame.put_i32(self.max_wait_ms);
        frame.put_i32(self.min_bytes);
        frame.put_i32(self.max_bytes);
        frame.put_i8(self.isolation_level.to_wire());
        if version >= SESSIONS_FROM {
            frame.put_i32(self.session_id);
            frame.put_i32(self.session_epoch);
        }
        frame.put_length(array, self.topics.len());
        for topic in &self.topics {
            topic.write(version, &mut frame);
        }
        if version >= SESSIONS_FROM {
            frame.put_length(array, self.forgotten_topics.len());
            for topic in &self.forgotten_topics {
                topic.write(version, &mut frame);
            }
        }
        if version >= 11 {
            frame.put_str(Form::string(flexible), &self.rack_id);
        }
        if flexible {
            self.write_tagged_fields(version, &mut frame);
        }
        api::finish_frame(frame)
    }

    fn write_tagged_fields(&self, version: i16, frame: &mut BytesMut) {
        let follower = version >= 15 && (self.replica_id, self.replica_epoch) != (-1, -1);
        frame.put_uvarint(u32::from(self.cluster_id.is_some()) + u32::from(follower));
        if let Some(cluster_id) = &self.cluster_id {
            let mut content = BytesMut::new();
            content.put_str(Form::Compact, cluster_id);
            frame.put_uvarint(0);
            frame.put_uvarint(u32::try_from(content.len()).expect("a cluster id is short"));
            frame.put_slice(&content);
        }
        if follower {
            frame.put_uvarint(1);
            frame.put_uvarint(4 + 8 + 1);
            frame.put_i32(self.replica_id);
            frame.put_i64(self.replica_epoch);
            frame.put_uvarint(0);
        }
    }
}

impl FetchTopic {
    fn read(version: i16, reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let flexible = version >= FLEXIBLE_FROM;
        let (name, topic_id) = read_topic(version, reader)?;
        let mut partitions = Vec::new();
        for _ in 0..non_null(reader.count(Form::array(flexible), 16)?)? {
            partitions.push(FetchPartition::read(version, reader)?);
        }
        if flexible {
            reader.skip_tagged_fields()?;
        }
        Ok(Self { name, topic_id, partitions })
    }

    fn write(&self, version: i16, frame: &mut BytesMut) {
        let flexible = version >= FLEXIBLE_FROM;
        write_topic(version, &self.name, self.topic_id, frame);
        frame.put_length(Form::array(flexible), self.partitions.len());
        for partition in &self.partitions {
            partition.write(version, frame);
        }
        if flexible {
            frame.put_uvarint(0);
        }
    }
}

impl FetchPartition {
    fn read(version: i16, reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut partition = Self::new(reader.i32()?, 0, 0);
        if version >= 9 {
            partition.current_leader_epoch = reader.i32()?;
        }
        partition.fetch_offset = reader.i64()?;
        if version >= 12 {
            partition.last_fetched_epoch = reader.i32()?;
        }
        if version >= 5 {
            partition.log_start_offset = reader.i64()?;
        }
        partition.max_bytes = reader.i32()?;
        if version >= FLEXIBLE_FROM {
            reader.tagged_fields(|tag, content| {
                if tag == 0 && version >= 17 {
                    partition.replica_directory_id = content.uuid()?;
                    content.finish()?;
                }
                Ok(())
            })?;
        }
        Ok(partition)
    }

    fn write(&self, version: i16, frame: &mut BytesMut) {
        frame.put_i32(self.index);
        if version >= 9 {
            frame.put_i32(self.current_leader_epoch);
        }
        frame.put_i64(self.fetch_offset);
        if version >= 12 {
            frame.put_i32(self.last_fetched_epoch);
        }
        if version >= 5 {
            frame.put_i64(self.log_start_offset);
        }
        frame.put_i32(self.max_bytes);
        if version >= 17 && !self.replica_directory_id.is_nil() {
            frame.put_uvarint(1);
            frame.put_uvarint(0);
            frame.put_uvarint(16);
            frame.put_uuid(self.replica_directory_id);
        } else if version >= FLEXIBLE_FROM {
            frame.put_uvarint(0);
        }
    }
}

impl ForgottenTopic {
    fn read(version: i16, reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let flexible = version >= FLEXIBLE_FROM;
        let (name, topic_id) = read_topic(version, reader)?;
        let count = non_null(reader.count(Form::array(flexible), 4)?)?;
        let partitions = (0..count).map(|_| reader.i32()).collect::<Result<Vec<_>, _>>()?;
        if flexible {
            reader.skip_tagged_fields()?;
        }
        Ok(Self { name, topic_id, partitions })
    }

    fn write(&self, version: i16, frame: &mut BytesMut) {
        let flexible = version >= FLEXIBLE_FROM;
        write_topic(version, &self.name, self.topic_id, frame);
        frame.put_length(Form::array(flexible), self.partitions.len());
        for partition in &self.partitions {
            frame.put_i32(*partition);
        }
        if flexible {
            frame.put_uvarint(0);
        }
    }
}
