//! One connection: frames in, answers out, in order. Runs on a thread of its own.
//!
//! What one read brings is answered with one write, so that many small requests in flight cost few
//! system calls; answers that are ready never wait behind a request that has to.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use bytes::Bytes;
use corelog_protocol::WireError;
use corelog_protocol::api::{
    Api, DecodeError, EncodeError, HeaderError, RequestHeader, decode_request, decode_request_header,
    encode_response, unsupported_api_versions_response,
};
use corelog_protocol::error::ErrorCode;
use corelog_protocol::fetch::FetchRequest;
use corelog_protocol::produce::{ProduceRequest, ProduceResponse};
use kafka_protocol::protocol::{Encodable, HeaderVersion, Request};
use thiserror::Error;

use super::fetch::{self, Reading};
use super::log::ConnectionId;
use super::{Event, Shared, add, answers, produce};

/// There is room for so much in every read.
const READ_BYTES: usize = 256 * 1024;
/// `socket.request.max.bytes` of Kafka.
const FRAME_BYTES_MAX: usize = 100 << 20;
const LENGTH_BYTES: usize = 4;
/// Answers of so many bytes are written before more requests are read.
const OUTPUT_BYTES: usize = 256 * 1024;

/// Why a connection was closed from this side.
#[derive(Debug, Error)]
pub(super) enum Hangup {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("a frame of {0} bytes")]
    FrameSize(i32),
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("malformed request: {0}")]
    Wire(#[from] WireError),
    #[error(transparent)]
    Body(#[from] DecodeError),
    #[error(transparent)]
    Answer(#[from] EncodeError),
    #[error("this sink does not serve {0}")]
    NotServed(Api),
    #[error("a produce without acknowledgement failed with {0:?}")]
    Unacknowledged(ErrorCode),
}

/// Bytes read and not yet served.
struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    fn new() -> Self {
        Self { buffer: vec![0; 2 * READ_BYTES], start: 0, end: 0 }
    }

    /// The next whole frame, without its length.
    fn frame(&mut self) -> Result<Option<&[u8]>, Hangup> {
        let Some(bytes) = self.frame_bytes()? else {
            return Ok(None);
        };
        if self.end - self.start < LENGTH_BYTES + bytes {
            return Ok(None);
        }
        let from = self.start + LENGTH_BYTES;
        self.start = from + bytes;
        Ok(Some(&self.buffer[from..from + bytes]))
    }

    /// The length of the frame at the front, when so much is there.
    fn frame_bytes(&self) -> Result<Option<usize>, Hangup> {
        let Some(length) = self.buffer[self.start..self.end].first_chunk() else {
            return Ok(None);
        };
        let length = i32::from_be_bytes(*length);
        let bytes = usize::try_from(length).ok().filter(|bytes| *bytes <= FRAME_BYTES_MAX);
        bytes.map(Some).ok_or(Hangup::FrameSize(length))
    }

    /// Reads once; gives false at the end of the stream.
    fn fill(&mut self, stream: &mut TcpStream) -> Result<bool, Hangup> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < READ_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        // Grows with what has come, not with what a length claims.
        if self.buffer.len() - self.end < READ_BYTES {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let read = loop {
            match stream.read(&mut self.buffer[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome?,
            }
        };
        self.end += read;
        Ok(read > 0)
    }
}

/// Answers not yet written.
struct Output {
    shared: Arc<Shared>,
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Output {
    fn put<T: Encodable + HeaderVersion>(
        &mut self,
        header: &RequestHeader,
        response: &T,
    ) -> Result<(), Hangup> {
        let frame = encode_response(header.api, header.version, header.correlation_id, response)?;
        self.bytes.extend_from_slice(&frame);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Hangup> {
        if !self.bytes.is_empty() {
            let notify = &self.shared.notify;
            self.shared.stalls.hold(|length| notify(Event::Stalled { length }));
            self.stream.write_all(&self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }
}

/// A connection that is served.
pub(super) struct Session {
    id: ConnectionId,
    shared: Arc<Shared>,
    /// Where the client reached this sink, and so can reach it again.
    address: SocketAddr,
    stream: TcpStream,
    output: Output,
    reading: Reading,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, id: ConnectionId, stream: TcpStream) -> io::Result<Self> {
        let output = Output { shared: Arc::clone(&shared), stream: stream.try_clone()?, bytes: Vec::new() };
        let address = stream.local_addr()?;
        Ok(Self { id, shared, address, stream, output, reading: Reading::default() })
    }

    /// Serves until the client leaves or the sink stops.
    pub(super) fn run(&mut self) -> Result<(), Hangup> {
        match self.serve_all() {
            Err(Hangup::Io(error)) if is_departure(&error) => Ok(()),
            Err(_) if self.shared.is_stopping() => Ok(()),
            outcome => outcome,
        }
    }

    /// Gives back what the connection held.
    pub(super) fn close(&mut self) {
        self.reading.leave(self.id);
        // The sink keeps a handle of the socket, which would stay open.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    fn serve_all(&mut self) -> Result<(), Hangup> {
        let mut input = Input::new();
        while input.fill(&mut self.stream)? {
            while let Some(frame) = input.frame()? {
                self.serve(frame)?;
                if self.output.bytes.len() >= OUTPUT_BYTES {
                    self.output.flush()?;
                }
            }
            self.output.flush()?;
        }
        Ok(())
    }

    fn serve(&mut self, mut frame: &[u8]) -> Result<(), Hangup> {
        add(&self.shared.counters.requests, 1);
        let header = match decode_request_header(&mut frame) {
            Ok(header) => header,
            Err(HeaderError::UnsupportedVersion { api: Api::ApiVersions, correlation_id, .. }) => {
                self.output.bytes.extend_from_slice(&unsupported_api_versions_response(correlation_id));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        match header.api {
            Api::Produce => self.produce(&header, frame),
            Api::Fetch => self.fetch(&header, frame),
            _ => self.answer(&header, Bytes::copy_from_slice(frame)),
        }
    }

    fn produce(&mut self, header: &RequestHeader, body: &[u8]) -> Result<(), Hangup> {
        let request = ProduceRequest::decode(header.version, body)?;
        let output = &mut self.output;
        let response = if header.api.is_served(header.version) {
            produce::serve(&self.shared, &request, || output.flush())?
        } else {
            ProduceResponse::refuse(&request, ErrorCode::UnsupportedVersion)
        };
        if request.acks != 0 {
            output.bytes.extend_from_slice(&response.encode(header.version, header.correlation_id));
            return Ok(());
        }
        // There is no answer that could say it.
        let mut partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        match partitions.find(|partition| partition.error != ErrorCode::None) {
            Some(failed) => Err(Hangup::Unacknowledged(failed.error)),
            None => Ok(()),
        }
    }

    fn fetch(&mut self, header: &RequestHeader, body: &[u8]) -> Result<(), Hangup> {
        let request = FetchRequest::decode(header.version, body)?;
        let (output, reading) = (&mut self.output, &mut self.reading);
        let flush = || output.flush();
        let response = fetch::serve(&self.shared, self.id, reading, header.version, &request, flush)?;
        for chunk in response.encode(header.version, header.correlation_id) {
            self.output.bytes.extend_from_slice(&chunk);
        }
        Ok(())
    }

    fn answer(&mut self, header: &RequestHeader, body: Bytes) -> Result<(), Hangup> {
        let version = header.version;
        let (shared, output) = (&*self.shared, &mut self.output);
        match header.api {
            Api::ApiVersions => output.put(header, &answers::api_versions()),
            Api::Metadata => {
                output.put(header, &answers::metadata(shared, self.address, version, &decode(header, body)?))
            }
            Api::ListOffsets => {
                output.put(header, &answers::list_offsets(shared, version, &decode(header, body)?))
            }
            Api::InitProducerId => {
                output.put(header, &answers::init_producer_id(shared, &decode(header, body)?))
            }
            Api::CreateTopics => {
                output.put(header, &answers::create_topics(shared, version, decode(header, body)?))
            }
            Api::DeleteTopics => {
                output.put(header, &answers::delete_topics(shared, version, decode(header, body)?))
            }
            Api::FindCoordinator => {
                output.put(header, &answers::find_coordinator(version, decode(header, body)?))
            }
            Api::DescribeConfigs => output.put(header, &answers::describe_configs(decode(header, body)?)),
            Api::DescribeCluster => output.put(header, &answers::describe_cluster(self.address)),
            Api::Produce
            | Api::Fetch
            | Api::OffsetForLeaderEpoch
            | Api::DeleteRecords
            | Api::DescribeTopicPartitions
            | Api::OffsetCommit
            | Api::OffsetFetch
            | Api::OffsetDelete
            | Api::JoinGroup
            | Api::Heartbeat
            | Api::LeaveGroup
            | Api::SyncGroup
            | Api::DescribeGroups
            | Api::ListGroups
            | Api::DeleteGroups
            | Api::ConsumerGroupHeartbeat
            | Api::ConsumerGroupDescribe
            | Api::AlterConfigs
            | Api::IncrementalAlterConfigs
            | Api::ListConfigResources
            | Api::CreatePartitions
            | Api::AlterReplicaLogDirs
            | Api::DescribeLogDirs
            | Api::DescribeProducers
            | Api::ElectLeaders
            | Api::AlterPartitionReassignments
            | Api::ListPartitionReassignments => Err(Hangup::NotServed(header.api)),
        }
    }
}

fn decode<T: Request>(header: &RequestHeader, body: Bytes) -> Result<T, Hangup> {
    Ok(decode_request(header.version, body)?)
}

/// The client has gone, in whichever way.
fn is_departure(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::atomic::Ordering;

    use bytes::{BufMut, BytesMut};
    use corelog_protocol::api::encode_request;
    use corelog_protocol::batch::BatchBuilder;
    use corelog_protocol::fetch::{FetchPartition, FetchTopic};
    use corelog_protocol::produce::{ProducePartition, ProduceTopic};
    use kafka_protocol::messages::create_topics_request::CreatableTopic;
    use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
    use kafka_protocol::messages::{
        CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest, FindCoordinatorRequest,
        InitProducerIdRequest, ListOffsetsRequest, MetadataRequest,
    };
    use kafka_protocol::protocol::StrBytes;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::super::Options;
    use super::*;

    /// A session, and the client's end of its connection. Its sink is stopping: nothing waits.
    fn session(retain_bytes: usize) -> (Session, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let listen = listener.local_addr().unwrap();
        let options = Options { listen, core: None, partitions: 4, retain_bytes, fault: None, stall: None };
        let shared = Shared::new(options, |_| ());
        shared.stopping.store(true, Ordering::SeqCst);
        (Session::new(Arc::new(shared), 1, listener.accept().unwrap().0).unwrap(), client)
    }

    /// Requests as clients send them, without their lengths.
    fn requests() -> Vec<Vec<u8>> {
        fn name<T: From<StrBytes>>() -> T {
            StrBytes::from_static_str("t").into()
        }
        fn encoded<T: Request>(version: i16, request: &T) -> Vec<u8> {
            encode_request(version, 7, "client", request).unwrap()[LENGTH_BYTES..].to_vec()
        }
        let partition = ListOffsetsPartition::default().with_timestamp(-1);
        let offsets = ListOffsetsTopic::default().with_name(name()).with_partitions(vec![partition]);
        let records = BatchBuilder::new().record(1, Some(b"k"), Some(b"v")).build().unwrap().freeze();
        let produced = vec![ProducePartition { index: 0, records }];
        let produce = ProduceRequest {
            transactional_id: None,
            acks: -1,
            timeout_ms: 0,
            topics: vec![ProduceTopic { name: "t".to_owned(), partitions: produced }],
        };
        let partitions = vec![FetchPartition::new(0, 0, 1 << 20)];
        let topics = vec![FetchTopic { name: "t".to_owned(), partitions, ..FetchTopic::default() }];
        let fetch = FetchRequest { max_bytes: 1 << 20, topics, ..FetchRequest::default() };
        vec![
            encoded(9, &MetadataRequest::default()),
            encoded(
                7,
                &CreateTopicsRequest::default()
                    .with_topics(vec![CreatableTopic::default().with_name(name()).with_num_partitions(3)]),
            ),
            encoded(4, &DeleteTopicsRequest::default().with_topic_names(vec![name()])),
            encoded(5, &ListOffsetsRequest::default().with_topics(vec![offsets])),
            encoded(4, &FindCoordinatorRequest::default().with_coordinator_keys(vec![name()])),
            encoded(4, &InitProducerIdRequest::default()),
            encoded(4, &DescribeConfigsRequest::default()),
            produce.encode(9, 7, "client").concat()[LENGTH_BYTES..].to_vec(),
            fetch.encode(12, 7, "client")[LENGTH_BYTES..].to_vec(),
        ]
    }

    #[test]
    fn what_clients_send_is_answered() {
        let (mut session, _client) = session(1 << 20);
        for request in requests() {
            session.output.bytes.clear();
            session.serve(&request).unwrap();
            assert_eq!(session.output.bytes[LENGTH_BYTES..8], 7_i32.to_be_bytes(), "{request:?}");
        }
    }

    proptest! {
        #[test]
        fn any_request_is_answered_or_ends_the_connection(
            (which, at) in any::<(Index, Index)>(),
            changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..5),
            (key, version) in (0..80_i16, -1..18_i16),
            body in prop::collection::vec(any::<u8>(), 0..80),
            retain_bytes in prop::sample::select(vec![0, 1 << 16]),
        ) {
            let (mut session, _client) = session(retain_bytes);
            let requests = requests();
            let mut changed = requests[which.index(requests.len())].clone();
            for (at, value) in changes {
                let at = at.index(changed.len());
                changed[at] = value;
            }
            let cut = changed[..at.index(changed.len())].to_vec();
            let mut made = BytesMut::new();
            made.put_i16(key);
            made.put_i16(version);
            made.put_i32(7);
            made.put_i16(-1);
            made.put_slice(&body);
            for frame in [&changed[..], &cut, &made, &body] {
                let _ = session.serve(frame);
            }
        }

        #[test]
        fn any_bytes_are_frames_or_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0..20_i32) {
            for front in [&[][..], &length.to_be_bytes()] {
                let buffer = [front, &bytes].concat();
                let mut input = Input { start: 0, end: buffer.len(), buffer };
                let mut taken = 0;
                while let Ok(Some(frame)) = input.frame() {
                    taken += LENGTH_BYTES + frame.len();
                }
                prop_assert_eq!(input.start, taken);
                prop_assert!(input.start <= input.end);
            }
        }
    }
}
