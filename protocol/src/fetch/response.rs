//! The response: records as chunks, and what a client must know to go on.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::{FLEXIBLE_FROM, SESSIONS_FROM, TOPIC_IDS_FROM, check_version, non_null};
use crate::api::{self, Api};
use crate::chunks::Chunks;
use crate::error::ErrorCode;
use crate::leader::{CurrentLeader, NodeEndpoint};
use crate::wire::{Form, Reader, WireError, Writer};

/// A fetch response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchResponse {
    /// How long the client was held back by a quota.
    pub throttle_time_ms: i32,
    /// What is wrong with the session or the request as a whole (version 7).
    pub error: ErrorCode,
    /// The session, or 0 (version 7).
    pub session_id: i32,
    /// The topics; in a session only those with something to say.
    pub topics: Vec<FetchTopicResponse>,
    /// Where the leaders named in the partitions can be reached (version 16).
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// The answer for one topic: it has a name up to version 12, an id from 13 on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FetchTopicResponse {
    /// The name; not sent from version 13 on.
    pub name: String,
    /// The id; not sent up to version 12.
    pub topic_id: Uuid,
    /// The partitions.
    pub partitions: Vec<FetchPartitionResponse>,
}

/// The answer for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchPartitionResponse {
    /// The partition.
    pub index: i32,
    /// What went wrong, if anything.
    pub error: ErrorCode,
    /// Everything below it is replicated, or −1.
    pub high_watermark: i64,
    /// Everything below it is decided, or −1.
    pub last_stable_offset: i64,
    /// First offset of the partition, or −1 (version 5).
    pub log_start_offset: i64,
    /// Where the follower's log leaves the leader's (version 12).
    pub diverging_epoch: Option<EpochEndOffset>,
    /// Who leads, with an error that says that this node does not (version 12).
    pub current_leader: Option<CurrentLeader>,
    /// With read committed, the aborted transactions among the records, by first offset.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// The replica to read from instead, or −1 (version 11).
    pub preferred_read_replica: i32,
    /// Whole record batches, in order; a batch may be cut across chunks.
    pub records: Vec<Bytes>,
}

/// The end of a leader epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// The largest epoch known at or below the one asked for.
    pub epoch: i32,
    /// Where it ends.
    pub end_offset: i64,
}

/// A transaction whose records are to be skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// Its first offset.
    pub first_offset: i64,
}

impl Default for FetchResponse {
    fn default() -> Self {
        Self {
            throttle_time_ms: 0,
            error: ErrorCode::None,
            session_id: 0,
            topics: Vec::new(),
            node_endpoints: Vec::new(),
        }
    }
}

impl FetchPartitionResponse {
    /// The answer when there is nothing but an error.
    pub fn failed(index: i32, error: ErrorCode) -> Self {
        Self {
            index,
            error,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: None,
            current_leader: None,
            aborted_transactions: None,
            preferred_read_replica: -1,
            records: Vec::new(),
        }
    }

    /// Size of the records.
    pub fn records_bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }
}

impl FetchResponse {
    /// The answer when the request as a whole fails. Before version 7 it has no place for
    /// that error, so that the caller names every partition instead.
    pub fn failed(error: ErrorCode) -> Self {
        Self { error, ..Self::default() }
    }

    /// Encodes a whole frame, length and header included, as chunks to be written one
    /// after the other; the records are not copied. What the version cannot say is left
    /// out.
    ///
    /// # Panics
    /// For a version that is not in the table.
    pub fn encode(&self, version: i16, correlation_id: i32) -> Vec<Bytes> {
        assert!(check_version(version).is_ok(), "version {version}");
        let flexible = version >= FLEXIBLE_FROM;
        let array = Form::array(flexible);
        let estimate = self
            .topics
            .iter()
            .map(|topic| 32 + topic.name.len() + 64 * topic.partitions.len())
            .sum::<usize>();
        let head = api::begin_response(Api::Fetch, version, correlation_id, 32 + estimate);
        let mut frame = Chunks::new(head);
        let buffer = frame.buffer();
        buffer.put_i32(self.throttle_time_ms);
        if version >= SESSIONS_FROM {
            buffer.put_i16(self.error.code());
            buffer.put_i32(self.session_id);
        }
        buffer.put_length(array, self.topics.len());
        for topic in &self.topics {
            let buffer = frame.buffer();
            if version >= TOPIC_IDS_FROM {
                buffer.put_uuid(topic.topic_id);
            } else {
                buffer.put_str(Form::string(flexible), &topic.name);
            }
            buffer.put_length(array, topic.partitions.len());
            for partition in &topic.partitions {
                partition.write(version, &mut frame);
            }
            frame.put_no_tagged_fields(flexible);
        }
        match version {
            16.. => NodeEndpoint::write_section(&self.node_endpoints, frame.buffer()),
            _ => frame.put_no_tagged_fields(flexible),
        }
        frame.finish()
    }

    /// Decodes a response frame without its length on the client's side; records are slices
    /// of the frame. Gives the correlation id too.
    ///
    /// # Errors
    /// When the bytes are not exactly one such response.
    pub fn decode(version: i16, mut frame: Bytes) -> Result<(i32, Self), WireError> {
        check_version(version)?;
        let flexible = version >= FLEXIBLE_FROM;
        let array = Form::array(flexible);
        let (correlation_id, header_bytes) = api::read_response_header(Api::Fetch, version, &frame)?;
        frame.advance(header_bytes);
        let mut reader = Reader::new(&frame);
        let mut response = Self { throttle_time_ms: reader.i32()?, ..Self::default() };
        if version >= SESSIONS_FROM {
            response.error = ErrorCode::from_code(reader.i16()?);
            response.session_id = reader.i32()?;
        }
        for _ in 0..non_null(reader.count(array, 3)?)? {
            let mut topic = FetchTopicResponse::default();
            if version >= TOPIC_IDS_FROM {
                topic.topic_id = reader.uuid()?;
            } else {
                topic.name = reader.str(Form::string(flexible))?.to_owned();
            }
            for _ in 0..non_null(reader.count(array, 24)?)? {
                let partition = FetchPartitionResponse::read(version, &frame, &mut reader)?;
                topic.partitions.push(partition);
            }
            if flexible {
                reader.skip_tagged_fields()?;
            }
            response.topics.push(topic);
        }
        if flexible {
            reader.tagged_fields(|tag, content| {
                if tag == 0 && version >= 16 {
                    response.node_endpoints = NodeEndpoint::read_all(content)?;
                }
                Ok(())
            })?;
        }
        reader.finish()?;
        Ok((correlation_id, response))
    }
}

impl FetchPartitionResponse {
    fn write(&self, version: i16, frame: &mut Chunks) {
        let flexible = version >= FLEXIBLE_FROM;
        let array = Form::array(flexible);
        let buffer = frame.buffer();
        buffer.put_i32(self.index);
        buffer.put_i16(self.error.code());
        buffer.put_i64(self.high_watermark);
        buffer.put_i64(self.last_stable_offset);
        if version >= 5 {
            buffer.put_i64(self.log_start_offset);
        }
        match &self.aborted_transactions {
            None => buffer.put_null(array),
            Some(transactions) => {
                buffer.put_length(array, transactions.len());
                for transaction in transactions {
                    buffer.put_i64(transaction.producer_id);
                    buffer.put_i64(transaction.first_offset);
                    if flexible {
                        buffer.put_uvarint(0);
                    }
                }
            }
        }
        if version >= 11 {
            buffer.put_i32(self.preferred_read_replica);
        }
        // Never null: clients take null for a broken response.
        buffer.put_length(array, self.records_bytes());
        for chunk in &self.records {
            frame.push(chunk.clone());
        }
        if flexible {
            self.write_tagged_fields(frame.buffer());
        }
    }

    fn write_tagged_fields(&self, buffer: &mut BytesMut) {
        let fields = u32::from(self.diverging_epoch.is_some()) + u32::from(self.current_leader.is_some());
        buffer.put_uvarint(fields);
        if let Some(diverging) = self.diverging_epoch {
            buffer.put_uvarint(0);
            buffer.put_uvarint(4 + 8 + 1);
            buffer.put_i32(diverging.epoch);
            buffer.put_i64(diverging.end_offset);
            buffer.put_uvarint(0);
        }
        if let Some(leader) = self.current_leader {
            leader.write_tagged(1, buffer);
        }
    }

    /// `frame` is what `reader` reads.
    fn read(version: i16, frame: &Bytes, reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let flexible = version >= FLEXIBLE_FROM;
        let array = Form::array(flexible);
        let index = reader.i32()?;
        let error = ErrorCode::from_code(reader.i16()?);
        let mut partition = Self::failed(index, error);
        partition.high_watermark = reader.i64()?;
        partition.last_stable_offset = reader.i64()?;
        if version >= 5 {
            partition.log_start_offset = reader.i64()?;
        }
        if let Some(count) = reader.count(array, 16)? {
            let mut transactions = Vec::with_capacity(count);
            for _ in 0..count {
                transactions
                    .push(AbortedTransaction { producer_id: reader.i64()?, first_offset: reader.i64()? });
                if flexible {
                    reader.skip_tagged_fields()?;
                }
            }
            partition.aborted_transactions = Some(transactions);
        }
        if version >= 11 {
            partition.preferred_read_replica = reader.i32()?;
        }
        let length = reader.length(array)?.unwrap_or(0);
        let start = reader.position();
        reader.take(length)?;
        if length > 0 {
            partition.records = vec![frame.slice(start..start + length)];
        }
        if flexible {
            reader.tagged_fields(|tag, content| match tag {
                0 => {
                    partition.diverging_epoch =
                        Some(EpochEndOffset { epoch: content.i32()?, end_offset: content.i64()? });
                    content.skip_tagged_fields()?;
                    content.finish()
                }
                1 => {
                    partition.current_leader = Some(CurrentLeader::read(content)?);
                    Ok(())
                }
                _ => Ok(()),
            })?;
        }
        Ok(partition)
    }
}
