//! The framing of Produce, versions 0 to 12.
//!
//! On the server the batches of a request are split off the frame's own memory, disjoint
//! and without a copy, so that they can be patched in place before they are shared.
//! Versions 0 to 2 are read only to be refused properly.

use std::ops::Deref;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::api::{self, Api};
use crate::chunks::Chunks;
use crate::error::ErrorCode;
use crate::leader::{CurrentLeader, NodeEndpoint};
use crate::wire::{Form, Reader, WireError, Writer};

/// First version with compact lengths and tagged fields.
pub(crate) const FLEXIBLE_FROM: i16 = 9;

/// Newest version here; 13 names topics by id.
const VERSION_MAX: i16 = 12;

/// A produce request; `Records` is [`BytesMut`] or a slice where it was received (see
/// [`FrameBytes`]) and [`Bytes`] where it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceRequest<Records = BytesMut> {
    /// Of a transactional producer.
    pub transactional_id: Option<String>,
    /// 0: no response at all, 1: the leader, −1: all in-sync replicas.
    pub acks: i16,
    /// How long to wait for replicas.
    pub timeout_ms: i32,
    /// The topics, in the client's order.
    pub topics: Vec<ProduceTopic<Records>>,
}

/// The partitions of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceTopic<Records = BytesMut> {
    /// The topic.
    pub name: String,
    /// Its partitions, in the client's order.
    pub partitions: Vec<ProducePartition<Records>>,
}

/// What to append to one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducePartition<Records = BytesMut> {
    /// The partition.
    pub index: i32,
    /// The batches; null on the wire is the same as empty. Not checked yet: see
    /// [`crate::validate`].
    pub records: Records,
}

/// The memory of a frame that was received, of which records become a part without a copy.
pub trait FrameBytes: Buf + Deref<Target = [u8]> {
    /// Takes the first `length` bytes off, of which there are at least so many.
    fn take_front(&mut self, length: usize) -> Self;
}

/// Records that can be patched in place, and that live as long as they are needed.
impl FrameBytes for BytesMut {
    fn take_front(&mut self, length: usize) -> Self {
        self.split_to(length)
    }
}

/// Records that are only looked at.
impl FrameBytes for &[u8] {
    fn take_front(&mut self, length: usize) -> Self {
        let (front, rest) = self.split_at(length);
        *self = rest;
        front
    }
}

/// Reads fields off the front of a frame, and whole byte strings as parts of its memory.
struct FrameReader<Frame>(Frame);

impl<Frame: FrameBytes> FrameReader<Frame> {
    fn read<T>(
        &mut self,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, WireError>,
    ) -> Result<T, WireError> {
        let mut reader = Reader::new(&self.0);
        let value = read(&mut reader)?;
        let position = reader.position();
        self.0.advance(position);
        Ok(value)
    }

    fn split(&mut self, length: usize) -> Result<Frame, WireError> {
        let remaining = self.0.len();
        if length > remaining {
            return Err(WireError::Truncated { needed: length, remaining });
        }
        Ok(self.0.take_front(length))
    }
}

impl<Records: FrameBytes> ProduceRequest<Records> {
    /// Decodes the body of a request (what [`api::decode_request_header`] leaves).
    ///
    /// # Errors
    /// When the bytes are not exactly one such request.
    pub fn decode(version: i16, body: Records) -> Result<Self, WireError> {
        if !(0..=VERSION_MAX).contains(&version) {
            return Err(WireError::UnsupportedVersion(version));
        }
        let flexible = version >= FLEXIBLE_FROM;
        let (string, array) = (Form::string(flexible), Form::array(flexible));
        let mut frame = FrameReader(body);
        let transactional_id = if version >= 3 {
            frame.read(|reader| Ok(reader.nullable_str(string)?.map(str::to_owned)))?
        } else {
            None
        };
        let acks = frame.read(|reader| reader.i16())?;
        let timeout_ms = frame.read(|reader| reader.i32())?;
        // A topic is at least a name and an array, a partition an index and its records.
        let count = frame.read(|reader| non_null(reader.count(array, 2)?))?;
        let mut topics = Vec::new();
        for _ in 0..count {
            let name = frame.read(|reader| Ok(reader.str(string)?.to_owned()))?;
            let count = frame.read(|reader| non_null(reader.count(array, 5)?))?;
            let mut partitions = Vec::new();
            for _ in 0..count {
                let index = frame.read(|reader| reader.i32())?;
                let length = frame.read(|reader| reader.length(array))?;
                let records = frame.split(length.unwrap_or(0))?;
                skip_tagged_fields(&mut frame, flexible)?;
                partitions.push(ProducePartition { index, records });
            }
            skip_tagged_fields(&mut frame, flexible)?;
            topics.push(ProduceTopic { name, partitions });
        }
        skip_tagged_fields(&mut frame, flexible)?;
        frame.read(|reader| reader.finish())?;
        Ok(Self { transactional_id, acks, timeout_ms, topics })
    }
}

fn non_null<T>(value: Option<T>) -> Result<T, WireError> {
    value.ok_or(WireError::InvalidLength(-1))
}

fn skip_tagged_fields(frame: &mut FrameReader<impl FrameBytes>, flexible: bool) -> Result<(), WireError> {
    if flexible {
        frame.read(|reader| reader.skip_tagged_fields())?;
    }
    Ok(())
}

impl ProduceRequest<Bytes> {
    /// Encodes a whole frame on the client's side, length and header included, as chunks to
    /// be written one after the other; the records are not copied.
    ///
    /// # Panics
    /// For a version other than 3 to 12, which no client of ours uses.
    pub fn encode(&self, version: i16, correlation_id: i32, client_id: &str) -> Vec<Bytes> {
        assert!((3..=VERSION_MAX).contains(&version), "version {version}");
        let flexible = version >= FLEXIBLE_FROM;
        let (string, array) = (Form::string(flexible), Form::array(flexible));
        let head = api::begin_request(Api::Produce.key(), version, flexible, correlation_id, client_id, 64);
        let mut frame = Chunks::new(head);
        let buffer = frame.buffer();
        buffer.put_nullable_str(string, self.transactional_id.as_deref());
        buffer.put_i16(self.acks);
        buffer.put_i32(self.timeout_ms);
        buffer.put_length(array, self.topics.len());
        for topic in &self.topics {
            let buffer = frame.buffer();
            buffer.put_str(string, &topic.name);
            buffer.put_length(array, topic.partitions.len());
            for partition in &topic.partitions {
                let buffer = frame.buffer();
                buffer.put_i32(partition.index);
                buffer.put_length(array, partition.records.len());
                frame.push(partition.records.clone());
                frame.put_no_tagged_fields(flexible);
            }
            frame.put_no_tagged_fields(flexible);
        }
        frame.put_no_tagged_fields(flexible);
        frame.finish()
    }
}

/// The answer to a produce request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProduceResponse {
    /// The topics, in the order of the request.
    pub topics: Vec<ProduceTopicResponse>,
    /// How long the client was held back by a quota.
    pub throttle_time_ms: i32,
    /// Where the leaders named in the partitions can be reached (version 10).
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// The answer for one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceTopicResponse {
    /// The topic.
    pub name: String,
    /// Its partitions, in the order of the request.
    pub partitions: Vec<ProducePartitionResponse>,
}

/// The answer for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducePartitionResponse {
    /// The partition.
    pub index: i32,
    /// What went wrong, if anything.
    pub error: ErrorCode,
    /// Offset of the first record, or −1.
    pub base_offset: i64,
    /// The leader's timestamp, or −1 when the producer's counts.
    pub log_append_time_ms: i64,
    /// First offset of the partition (version 5).
    pub log_start_offset: i64,
    /// The records to blame (version 8).
    pub record_errors: Vec<RecordErrorEntry>,
    /// For the eyes of a person (version 8).
    pub error_message: Option<String>,
    /// Who leads, with NOT_LEADER_OR_FOLLOWER (version 10).
    pub current_leader: Option<CurrentLeader>,
}

/// A record to blame for the failure of its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordErrorEntry {
    /// Position of the record in the batch.
    pub batch_index: i32,
    /// For the eyes of a person.
    pub message: Option<String>,
}

impl ProducePartitionResponse {
    /// The answer for a batch that was appended.
    pub fn appended(index: i32, base_offset: i64, log_start_offset: i64) -> Self {
        Self { base_offset, log_start_offset, ..Self::failed(index, ErrorCode::None) }
    }

    /// The answer for a batch that was not.
    pub fn failed(index: i32, error: ErrorCode) -> Self {
        Self {
            index,
            error,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: Vec::new(),
            error_message: None,
            current_leader: None,
        }
    }
}

impl ProduceResponse {
    /// The same error for everything in `request`.
    pub fn refuse<Records>(request: &ProduceRequest<Records>, error: ErrorCode) -> Self {
        let topics = request.topics.iter().map(|topic| ProduceTopicResponse {
            name: topic.name.clone(),
            partitions: topic
                .partitions
                .iter()
                .map(|partition| ProducePartitionResponse::failed(partition.index, error))
                .collect(),
        });
        Self { topics: topics.collect(), ..Self::default() }
    }

    /// Encodes a whole frame, length and header included. What the version cannot say is
    /// left out.
    ///
    /// # Panics
    /// For a version that is not in the table.
    pub fn encode(&self, version: i16, correlation_id: i32) -> BytesMut {
        assert!((0..=VERSION_MAX).contains(&version), "version {version}");
        let flexible = version >= FLEXIBLE_FROM;
        let array = Form::array(flexible);
        let estimate = self
            .topics
            .iter()
            .map(|topic| 16 + topic.name.len() + 48 * topic.partitions.len())
            .sum::<usize>();
        let mut frame = api::begin_response(Api::Produce, version, correlation_id, 16 + estimate);
        frame.put_length(array, self.topics.len());
        for topic in &self.topics {
            frame.put_str(Form::string(flexible), &topic.name);
            frame.put_length(array, topic.partitions.len());
            for partition in &topic.partitions {
                partition.write(version, &mut frame);
            }
            if flexible {
                frame.put_uvarint(0);
            }
        }
        if version >= 1 {
            frame.put_i32(self.throttle_time_ms);
        }
        match version {
            10.. => NodeEndpoint::write_section(&self.node_endpoints, &mut frame),
            FLEXIBLE_FROM.. => frame.put_uvarint(0),
            _ => {}
        }
        api::finish_frame(frame)
    }

    /// Decodes a response frame without its length on the client's side; gives the
    /// correlation id too.
    ///
    /// # Errors
    /// When the bytes are not exactly one such response.
    pub fn decode(version: i16, frame: &[u8]) -> Result<(i32, Self), WireError> {
        if !(0..=VERSION_MAX).contains(&version) {
            return Err(WireError::UnsupportedVersion(version));
        }
        let flexible = version >= FLEXIBLE_FROM;
        let array = Form::array(flexible);
        let (correlation_id, header_bytes) = api::read_response_header(Api::Produce, version, frame)?;
        let mut reader = Reader::new(&frame[header_bytes..]);
        let mut response = Self::default();
        for _ in 0..non_null(reader.count(array, 2)?)? {
            let name = reader.str(Form::string(flexible))?.to_owned();
            let mut partitions = Vec::new();
            for _ in 0..non_null(reader.count(array, 14)?)? {
                partitions.push(ProducePartitionResponse::read(version, &mut reader)?);
            }
            if flexible {
                reader.skip_tagged_fields()?;
            }
            response.topics.push(ProduceTopicResponse { name, partitions });
        }
        if version >= 1 {
            response.throttle_time_ms = reader.i32()?;
        }
        if flexible {
            reader.tagged_fields(|tag, content| {
                if tag == 0 {
                    response.node_endpoints = NodeEndpoint::read_all(content)?;
                }
                Ok(())
            })?;
        }
        reader.finish()?;
        Ok((correlation_id, response))
    }
}

impl ProducePartitionResponse {
    fn write(&self, version: i16, frame: &mut BytesMut) {
        let flexible = version >= FLEXIBLE_FROM;
        let string = Form::string(flexible);
        frame.put_i32(self.index);
        frame.put_i16(self.error.code());
        frame.put_i64(self.base_offset);
        if version >= 2 {
            frame.put_i64(self.log_append_time_ms);
        }
        if version >= 5 {
            frame.put_i64(self.log_start_offset);
        }
        if version >= 8 {
            frame.put_length(Form::array(flexible), self.record_errors.len());
            for record in &self.record_errors {
                frame.put_i32(record.batch_index);
                frame.put_nullable_str(string, record.message.as_deref());
                if flexible {
                    frame.put_uvarint(0);
                }
            }
            frame.put_nullable_str(string, self.error_message.as_deref());
        }
        if flexible {
            match self.current_leader {
                Some(leader) if version >= 10 => {
                    frame.put_uvarint(1);
                    leader.write_tagged(0, frame);
                }
                _ => frame.put_uvarint(0),
            }
        }
    }

    fn read(version: i16, reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let flexible = version >= FLEXIBLE_FROM;
        let string = Form::string(flexible);
        let index = reader.i32()?;
        let error = ErrorCode::from_code(reader.i16()?);
        let mut partition = Self::failed(index, error);
        partition.base_offset = reader.i64()?;
        if version >= 2 {
            partition.log_append_time_ms = reader.i64()?;
        }
        if version >= 5 {
            partition.log_start_offset = reader.i64()?;
        }
        if version >= 8 {
            for _ in 0..non_null(reader.count(Form::array(flexible), 5)?)? {
                partition.record_errors.push(RecordErrorEntry {
                    batch_index: reader.i32()?,
                    message: reader.nullable_str(string)?.map(str::to_owned),
                });
                if flexible {
                    reader.skip_tagged_fields()?;
                }
            }
            partition.error_message = reader.nullable_str(string)?.map(str::to_owned);
        }
        if flexible {
            reader.tagged_fields(|tag, content| {
                if tag == 0 {
                    partition.current_leader = Some(CurrentLeader::read(content)?);
                }
                Ok(())
            })?;
        }
        Ok(partition)
    }
}

#[cfg(test)]
mod tests;
