//! One connection to one broker: requests are pipelined, replies come back in order.
//!
//! Owns the socket, the queue of frames to write and the queue of requests that wait for their
//! reply. Two tasks serve it: one writes whatever is queued, one reads and hands out replies. It
//! never retries and never decides where a request goes; after the first error it is closed for
//! good, and whoever holds it makes another one.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use corelog_protocol::api::{self, Api};
use corelog_runtime::{net, task, time};
use kafka_protocol::messages::ApiVersionsRequest;
use kafka_protocol::protocol::{Request, StrBytes};
use tokio::sync::{Notify, Semaphore, oneshot};

use super::error::ClientError;
use super::versions::{self, ApiRanges};

/// Room that is made before each read.
const READ_BYTES: usize = 64 * 1024;
/// Size of the length that precedes a frame.
const LENGTH_BYTES: usize = 4;
/// The version of ApiVersions that is tried first; the answer to an older broker is repeated in 0.
const API_VERSIONS_FIRST: i16 = 3;

/// Limits of one connection.
#[derive(Debug, Clone)]
pub struct ConnectionOptions {
    /// What the broker sees in its logs.
    pub client_id: String,
    /// How long connecting and agreeing on versions may take.
    pub connect_timeout: Duration,
    /// How long a reply may take; a fetch adds its own wait.
    pub request_timeout: Duration,
    /// At most so many requests without a reply.
    pub max_in_flight: usize,
    /// A reply that claims to be larger is refused.
    pub max_response_bytes: usize,
}

/// A connection to a broker with agreed versions; clones share it, the last one closes it.
#[derive(Clone)]
pub struct Connection(Rc<Owner>);

/// Closes the socket when the last [`Connection`] goes, although the tasks still hold `Shared`.
struct Owner(Rc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close(ClientError::Closed);
    }
}

struct Shared {
    address: String,
    options: ConnectionOptions,
    ranges: OnceCell<ApiRanges>,
    next_correlation: Cell<i32>,
    queues: RefCell<Queues>,
    written: Notify,
    permits: Semaphore,
    socket: net::WriteHalf,
}

#[derive(Default)]
struct Queues {
    outgoing: Vec<Bytes>,
    /// Frames in `outgoing` that get no reply: told when all of it is written.
    unanswered: VecDeque<Slot>,
    waiting: VecDeque<(i32, Slot)>,
    closed: Option<ClientError>,
}

type Slot = oneshot::Sender<Result<Bytes, ClientError>>;

/// A reply that is on its way. Dropping it is fine: the reply is then thrown away.
pub struct PendingReply {
    receiver: oneshot::Receiver<Result<Bytes, ClientError>>,
    connection: Connection,
    what: &'static str,
    timeout: Duration,
}

impl PendingReply {
    /// Waits for the reply: a frame without its length.
    ///
    /// # Errors
    /// When the connection breaks, or the time is up; replies come in order, so a reply that does
    /// not come ends the whole connection.
    pub async fn wait(self) -> Result<Bytes, ClientError> {
        match time::timeout(self.timeout, self.receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_dropped)) => Err(self.connection.closed_error()),
            Err(_elapsed) => {
                let error = ClientError::TimedOut {
                    address: self.connection.address().to_owned(),
                    what: self.what,
                    after: self.timeout,
                };
                self.connection.0.0.close(error.clone());
                Err(error)
            }
        }
    }
}

impl Connection {
    /// Connects to `socket_address`, called `address` in errors, and agrees on versions.
    ///
    /// # Errors
    /// When the broker cannot be reached in time, or does not speak Kafka's protocol.
    pub async fn connect(
        address: String,
        socket_address: SocketAddr,
        options: ConnectionOptions,
    ) -> Result<Self, ClientError> {
        let timeout = options.connect_timeout;
        let failed = |kind, reason| ClientError::Connect { address: address.clone(), kind, reason };
        let stream = time::timeout(timeout, net::TcpStream::connect(socket_address))
            .await
            .map_err(|_| failed(std::io::ErrorKind::TimedOut, format!("no answer within {timeout:?}")))?
            .map_err(|error| failed(error.kind(), reason_of(&error)))?;
        let (reader, writer) = stream.split();
        let permits = Semaphore::new(options.max_in_flight);
        let shared = Rc::new(Shared {
            address,
            options,
            ranges: OnceCell::new(),
            next_correlation: Cell::new(0),
            queues: RefCell::default(),
            written: Notify::new(),
            permits,
            socket: writer,
        });
        task::spawn(write_frames(Rc::clone(&shared)));
        task::spawn(read_frames(Rc::clone(&shared), reader));
        let connection = Self(Rc::new(Owner(shared)));
        let ranges = connection.ask_versions().await?;
        connection.0.0.ranges.set(ranges).expect("versions are agreed once, here");
        Ok(connection)
    }

    async fn ask_versions(&self) -> Result<ApiRanges, ClientError> {
        const WHAT: &str = "ApiVersions";
        let mut version = API_VERSIONS_FIRST;
        loop {
            let mut request = ApiVersionsRequest::default();
            if version >= 3 {
                request.client_software_name = StrBytes::from_static_str("corelog");
                request.client_software_version = StrBytes::from_static_str(env!("CARGO_PKG_VERSION"));
            }
            let timeout = self.0.0.options.connect_timeout;
            let frame = self.start(&request, version, timeout)?.wait().await?;
            let answer = versions::read_answer(version, frame);
            match answer.map_err(|reason| self.protocol_error(WHAT, reason))? {
                Some(response) => {
                    ClientError::check(response.error_code, None, || WHAT.to_owned())?;
                    return Ok(ApiRanges::new(&response));
                }
                None => version = 0,
            }
        }
    }

    /// The broker's address as it was configured or advertised.
    pub fn address(&self) -> &str {
        &self.0.0.address
    }

    /// What the broker serves.
    ///
    /// # Panics
    /// Never: [`Connection::connect`] gives out no connection without them.
    pub fn ranges(&self) -> &ApiRanges {
        self.0.0.ranges.get().expect("set before the connection is given out")
    }

    /// Why the connection is closed, if it is.
    pub fn closed(&self) -> Option<ClientError> {
        self.0.0.queues.borrow().closed.clone()
    }

    fn closed_error(&self) -> ClientError {
        self.closed().unwrap_or(ClientError::Closed)
    }

    /// Sends a request in the best version that both sides have, and waits for the reply.
    ///
    /// # Errors
    /// When the broker does not serve it, the connection breaks, or the time is up.
    pub async fn call<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        self.call_up_to(request, i16::MAX).await
    }

    /// As [`Connection::call`], in version `limit` at most.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn call_up_to<R: Request>(&self, request: &R, limit: i16) -> Result<R::Response, ClientError> {
        self.call_within(request, limit, self.request_timeout()).await
    }

    /// As [`Connection::call_up_to`], with so much time for the reply.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn call_within<R: Request>(
        &self,
        request: &R,
        limit: i16,
        timeout: Duration,
    ) -> Result<R::Response, ClientError> {
        let version = self.version::<R>(limit)?;
        // Held until the reply: requests over the limit wait here, in order.
        let _permit = self.0.0.permits.acquire().await.map_err(|_| self.closed_error())?;
        let frame = self.start(request, version, timeout)?.wait().await?;
        let (_, response) = api::decode_response::<R>(version, frame)
            .map_err(|error| self.protocol_error(versions::name(R::KEY), error.to_string()))?;
        Ok(response)
    }

    /// The version in which `R` is sent.
    ///
    /// # Errors
    /// [`ClientError::Unsupported`] when there is none.
    pub fn version<R: Request>(&self, limit: i16) -> Result<i16, ClientError> {
        // A reply is decoded along the protocol crate's schemas, by the generated codec: newer ones are
        // not asked for.
        let ours = Api::from_key(R::KEY).map_or(0..=0, Api::versions);
        self.pick(R::KEY, *ours.start(), limit.min(*ours.end()).min(R::VERSIONS.max))
    }

    /// The highest version of an API that the broker serves within `[min, max]`.
    ///
    /// # Errors
    /// [`ClientError::Unsupported`] when there is none.
    pub fn pick(&self, api_key: i16, min: i16, max: i16) -> Result<i16, ClientError> {
        self.ranges().pick(api_key, min, max).ok_or_else(|| ClientError::Unsupported {
            address: self.address().to_owned(),
            what: versions::name(api_key),
            broker: match self.ranges().get(api_key) {
                Some((min, max)) => format!("{min} to {max}"),
                None => "none".to_owned(),
            },
            client: format!("{min} to {max}"),
        })
    }

    fn start<R: Request>(
        &self,
        request: &R,
        version: i16,
        timeout: Duration,
    ) -> Result<PendingReply, ClientError> {
        let what = versions::name(R::KEY);
        let correlation_id = self.next_correlation();
        let client_id = &self.0.0.options.client_id;
        let frame = api::encode_request(version, correlation_id, client_id, request).map_err(|error| {
            ClientError::Encode { address: self.address().to_owned(), what, version, reason: error.reason }
        })?;
        self.submit(correlation_id, [frame.freeze()], Reply::Expected, what, timeout)
    }

    /// The correlation id for the next frame: the caller builds the frame with it and submits it
    /// before anyone else takes another.
    pub fn next_correlation(&self) -> i32 {
        let id = self.0.0.next_correlation.get();
        self.0.0.next_correlation.set(id.wrapping_add(1) & i32::MAX);
        id
    }

    /// What this side calls itself.
    pub fn client_id(&self) -> &str {
        &self.0.0.options.client_id
    }

    /// How long a reply may take.
    pub fn request_timeout(&self) -> Duration {
        self.0.0.options.request_timeout
    }

    /// Queues one frame, given in pieces, synchronously: frames leave in the order of these calls.
    /// With [`Reply::None`] the reply is empty and comes when the frame is handed to the system.
    ///
    /// # Errors
    /// When the connection is closed, or too much is in flight.
    pub fn submit(
        &self,
        correlation_id: i32,
        pieces: impl IntoIterator<Item = Bytes>,
        reply: Reply,
        what: &'static str,
        timeout: Duration,
    ) -> Result<PendingReply, ClientError> {
        let shared = &self.0.0;
        let (slot, receiver) = oneshot::channel();
        {
            let mut queues = shared.queues.borrow_mut();
            if let Some(error) = &queues.closed {
                return Err(error.clone());
            }
            let limit = shared.options.max_in_flight;
            if queues.waiting.len() + queues.unanswered.len() >= limit {
                return Err(ClientError::TooManyInFlight { address: shared.address.clone(), limit });
            }
            queues.outgoing.extend(pieces);
            match reply {
                Reply::Expected => queues.waiting.push_back((correlation_id, slot)),
                Reply::None => queues.unanswered.push_back(slot),
            }
        }
        shared.written.notify_one();
        Ok(PendingReply { receiver, connection: self.clone(), what, timeout })
    }

    /// A reply that cannot be understood; the connection is closed, since nothing after it can.
    pub(crate) fn protocol_error(&self, what: &'static str, reason: String) -> ClientError {
        let error = ClientError::Protocol { address: self.address().to_owned(), what, reason };
        self.0.0.close(error.clone());
        error
    }
}

/// Whether the broker answers a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// As nearly all.
    Expected,
    /// A produce with acks=0.
    None,
}

impl Shared {
    /// Fails everything in flight and everything to come. Only the first reason counts.
    fn close(&self, error: ClientError) {
        let (waiting, unanswered) = {
            let mut queues = self.queues.borrow_mut();
            if queues.closed.is_some() {
                return;
            }
            queues.closed = Some(error.clone());
            queues.outgoing.clear();
            (std::mem::take(&mut queues.waiting), std::mem::take(&mut queues.unanswered))
        };
        self.permits.close();
        self.written.notify_one();
        // The reader sees the end of the stream; a socket that is already gone is as good.
        let _ = self.socket.shutdown(Shutdown::Both);
        for slot in waiting.into_iter().map(|(_, slot)| slot).chain(unanswered) {
            let _ = slot.send(Err(error.clone()));
        }
    }

    fn disconnected(&self, reason: String) {
        self.close(ClientError::Disconnected { address: self.address.clone(), reason });
    }

    /// Hands a reply to the request that is first in line.
    fn deliver(&self, frame: Bytes) -> Result<(), ClientError> {
        let protocol =
            |reason: String| ClientError::Protocol { address: self.address.clone(), what: "a reply", reason };
        let correlation_id = frame
            .first_chunk()
            .map(|bytes| i32::from_be_bytes(*bytes))
            .ok_or_else(|| protocol("a frame without a correlation id".to_owned()))?;
        let (expected, slot) = self
            .queues
            .borrow_mut()
            .waiting
            .pop_front()
            .ok_or_else(|| protocol("a reply that nobody asked for".to_owned()))?;
        if expected != correlation_id {
            // This request's reply will never come either.
            let error = protocol(format!("correlation id {correlation_id} instead of {expected}"));
            let _ = slot.send(Err(error.clone()));
            return Err(error);
        }
        let _ = slot.send(Ok(frame));
        Ok(())
    }
}

async fn write_frames(shared: Rc<Shared>) {
    loop {
        let (frames, unanswered) = {
            let mut queues = shared.queues.borrow_mut();
            if queues.closed.is_some() {
                return;
            }
            (std::mem::take(&mut queues.outgoing), std::mem::take(&mut queues.unanswered))
        };
        if frames.is_empty() {
            shared.written.notified().await;
            continue;
        }
        match shared.socket.write_vectored_all(&frames).await {
            Ok(()) => {
                for slot in unanswered {
                    let _ = slot.send(Ok(Bytes::new()));
                }
            }
            Err(error) => {
                shared.disconnected(reason_of(&error));
                return;
            }
        }
    }
}

async fn read_frames(shared: Rc<Shared>, reader: net::ReadHalf) {
    let mut buffer = BytesMut::new();
    loop {
        let wanted = match next_frame_bytes(&buffer, shared.options.max_response_bytes) {
            Ok(Some(frame_bytes)) if buffer.len() >= LENGTH_BYTES + frame_bytes => {
                buffer.advance(LENGTH_BYTES);
                let frame = buffer.split_to(frame_bytes).freeze();
                if let Err(error) = shared.deliver(frame) {
                    shared.close(error);
                    return;
                }
                continue;
            }
            Ok(Some(frame_bytes)) => LENGTH_BYTES + frame_bytes - buffer.len(),
            Ok(None) => READ_BYTES,
            Err(reason) => {
                shared.close(ClientError::Protocol {
                    address: shared.address.clone(),
                    what: "a reply",
                    reason,
                });
                return;
            }
        };
        buffer.reserve(wanted.max(READ_BYTES));
        match reader.read_buf(&mut buffer).await {
            Ok(0) => {
                shared.disconnected("the broker closed it".to_owned());
                return;
            }
            Ok(_) => {}
            Err(error) => {
                shared.disconnected(reason_of(&error));
                return;
            }
        }
    }
}

/// The size of the frame at the start of `buffer`, once its length is there.
fn next_frame_bytes(buffer: &[u8], max_response_bytes: usize) -> Result<Option<usize>, String> {
    let Some(length) = buffer.first_chunk() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(*length);
    match usize::try_from(length) {
        Ok(bytes) if bytes <= max_response_bytes => Ok(Some(bytes)),
        _ => Err(format!("a frame of {length} bytes (at most {max_response_bytes} are accepted)")),
    }
}

/// The system's words without "(os error 111)".
fn reason_of(error: &std::io::Error) -> String {
    let text = error.to_string();
    let plain = text.split(" (os error").next().unwrap_or(&text);
    plain.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_frame_within_the_limit_or_an_error(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..12), limit in 0..1_usize << 31,
        ) {
            if let Ok(Some(frame_bytes)) = next_frame_bytes(&bytes, limit) {
                proptest::prop_assert!(frame_bytes <= limit && bytes.len() >= LENGTH_BYTES);
            }
        }
    }

    #[test]
    fn a_frame_larger_than_the_limit_is_refused_before_memory_is_reserved() {
        assert_eq!(next_frame_bytes(&[0, 0, 0], 10), Ok(None));
        assert_eq!(next_frame_bytes(&[0, 0, 0, 10], 10), Ok(Some(10)));
        assert!(next_frame_bytes(&[0, 0, 0, 11], 10).is_err());
        assert!(next_frame_bytes(&[0xff, 0xff, 0xff, 0xff], 10).is_err());
        assert!(next_frame_bytes(b"HTTP/1.1", 100 << 20).is_err());
    }
}
