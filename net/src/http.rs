//! The node's HTTP port, on shard 0, from the bind to the end of the node: `/healthz`, `/metrics`,
//! and the console with what it asks for.
//!
//! One request per connection: scrapers ask seldom, and a page asks every second. Whoever connects
//! is bounded: so many connections, so long for a whole request and its answer, so many answers in
//! the making, so many bytes of them on their way. Nothing here changes anything.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use corelog_engine::engine::OFFSETS_TOPIC;
use corelog_engine::shard::{DetailsWanted, ShardStats};
use corelog_runtime::net::{Accepted, TcpListener, TcpStream};
use corelog_runtime::task::{self, Class};
use corelog_runtime::{process, time};
use futures_lite::io::{AsyncRead, AsyncWrite};
use futures_util::future;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::console;
use crate::metrics::{LAG_OFFSETS_MAX, Scrape};
use crate::server;
use crate::service::Service;
use crate::signal::Signal;

/// From the connection to the end of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections at a time; the next ones wait in the kernel. Far more than ask: some that say nothing
/// must not keep a health check waiting until somebody restarts the node for it.
const REQUESTS_MAX: usize = 256;
/// Answers that are made at a time, of all but health and the page; the next ones wait.
const IN_THE_MAKING_MAX: usize = 4;
/// What is made waits until no more than so much of others' is not written yet.
const UNWRITTEN_KIB_MAX: u32 = 64 << 10;
/// Bytes of one read.
const READ_BYTES: usize = 4096;
/// What a connection may send before its request is whole.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;

pub(crate) const JSON: &str = "application/json";
pub(crate) const PLAIN: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Sent with every answer. What is not allowed here, a browser does not do with it.
const HEADERS: [(&str, &str); 6] = [
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("cross-origin-resource-policy", "same-origin"),
];

/// A node's HTTP endpoint. Dropping it ends it.
pub(crate) struct Http(Rc<State>);

struct State {
    /// Set once the node serves.
    service: RefCell<Option<Rc<Service>>>,
    making: Semaphore,
    /// A permit for each KiB.
    unwritten: Arc<Semaphore>,
    end: Signal,
}

/// What is answered, before it is HTTP.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) body: Bytes,
    /// Where to look instead.
    pub(crate) location: Option<&'static str>,
}

impl Answer {
    pub(crate) fn new(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, kind, body: body.into(), location: None }
    }

    pub(crate) fn json(status: StatusCode, value: &Value) -> Self {
        Self::new(status, JSON, format!("{value}\n"))
    }

    fn plain(status: StatusCode, text: &'static str) -> Self {
        Self::new(status, PLAIN, text)
    }
}

impl Http {
    /// Answers from now on, that the node is starting.
    pub(crate) fn start(listener: TcpListener) -> Self {
        let unwritten_max = usize::try_from(UNWRITTEN_KIB_MAX).expect("it fits any machine's");
        let state = Rc::new(State {
            service: RefCell::default(),
            making: Semaphore::new(IN_THE_MAKING_MAX),
            unwritten: Arc::new(Semaphore::new(unwritten_max)),
            end: Signal::default(),
        });
        task::spawn_in(Class::Serve, serve(Rc::clone(&state), listener));
        Self(state)
    }

    /// Answers from now on for a node in service.
    pub(crate) fn serve(&self, service: Rc<Service>) {
        *self.0.service.borrow_mut() = Some(service);
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.0.end.switch_on();
        drop(self.0.service.take());
    }
}

async fn serve(state: Rc<State>, listener: TcpListener) {
    let slots = Rc::new(Semaphore::new(REQUESTS_MAX));
    loop {
        let free = slots.acquire().await.expect("the semaphore is never closed");
        free.forget();
        let Some(accepted) = server::accept(&state.end, &listener).await else { return };
        let (state, slots) = (Rc::clone(&state), Rc::clone(&slots));
        task::spawn_in(Class::Serve, async move {
            if let Err(error) = answer(&state, accepted).await {
                tracing::debug!(error = &*error, "http request failed");
            }
            slots.add_permits(1);
        });
    }
}

/// Answers the one request of a connection.
async fn answer(state: &State, accepted: Accepted) -> Result<(), Box<dyn std::error::Error>> {
    let stream = Adapter(accepted.into_stream()?);
    let handler = service_fn(|request| respond(state, request));
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(stream, handler);
    Ok(time::timeout(REQUEST_TIMEOUT, connection).await??)
}

async fn respond(state: &State, request: Request<Incoming>) -> Result<Response<Text>, Infallible> {
    let answer = route(state, &request).await;
    let kib = u32::try_from(answer.body.len().div_ceil(1 << 10)).unwrap_or(u32::MAX);
    let unwritten = Arc::clone(&state.unwritten).acquire_many_owned(kib.min(UNWRITTEN_KIB_MAX)).await;
    let unwritten = unwritten.expect("the semaphore is never closed");
    let mut response = Response::new(Text { body: Some(answer.body), _unwritten: unwritten });
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.kind));
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if let Some(location) = answer.location {
        headers.insert(header::LOCATION, HeaderValue::from_static(location));
    }
    Ok(response)
}

async fn route(state: &State, request: &Request<Incoming>) -> Answer {
    let service = state.service.borrow().clone();
    let path = request.uri().path();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Answer::plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
    }
    if path == "/healthz" {
        let (status, health) = match service {
            Some(service) => in_service(&service).await,
            None => unwell("starting", "the node is starting"),
        };
        return Answer::json(status, &health);
    }
    let Some(service) = service else {
        return Answer::plain(StatusCode::SERVICE_UNAVAILABLE, "the node is starting\n");
    };
    if let Some(answer) = console::page(&service, request) {
        return answer;
    }
    let _turn = state.making.acquire().await.expect("the semaphore is never closed");
    if path == "/metrics" {
        return Answer::new(StatusCode::OK, PROMETHEUS, scrape(&service).await);
    }
    let answer = console::data(&service, request).await;
    answer.unwrap_or_else(|| {
        Answer::plain(StatusCode::NOT_FOUND, "there are /healthz, /metrics and /console\n")
    })
}

async fn scrape(service: &Service) -> String {
    // Without that topic no group has committed anything.
    let has_groups = service.engine.image().topic_named(OFFSETS_TOPIC).is_some();
    let details = async {
        let wanted = DetailsWanted { commits_max: LAG_OFFSETS_MAX, sizes: false };
        if has_groups { Some(service.engine.details(wanted).await) } else { None }
    };
    let (stats, details) = future::join(service.engine.stats(), details).await;
    let scrape = Scrape {
        build: &service.options.build,
        process: process::usage(),
        counters: service.node.all_counters(),
        connections: &service.node.connections(),
        connections_max: service.options.max_connections,
        memory: &service.node.memory(&service.options),
        stats: &stats,
        details: details.as_ref(),
    };
    scrape.text().await
}

async fn in_service(service: &Service) -> (StatusCode, Value) {
    if service.stopping.is_on() {
        return unwell("stopping", "the node is stopping");
    }
    health(service.engine.shards(), &service.engine.stats().await)
}

/// Whether every one of the node's shards serves, and what is wrong with those that do not.
pub(crate) fn health(shards: usize, stats: &[ShardStats]) -> (StatusCode, Value) {
    let mut faults = Vec::new();
    for shard in 0..shards {
        match stats.iter().find(|stats| stats.shard == shard) {
            Some(stats) => faults.extend(stats.fault.as_ref().map(|fault| (shard, fault.as_str()))),
            None => faults.push((shard, "it does not answer")),
        }
    }
    let Some((first, fault)) = faults.first() else {
        let offline: usize = stats.iter().map(|stats| stats.partitions_offline).sum();
        let well = json!({ "status": "ok", "shards": shards, "partitions_offline": offline });
        return (StatusCode::OK, well);
    };
    let (status, mut health) = unwell("fault", &format!("shard {first} serves nothing: {fault}"));
    let fault = |(shard, fault): &(usize, &str)| json!({ "shard": shard, "fault": fault });
    health["faults"] = faults.iter().map(fault).collect();
    (status, health)
}

fn unwell(status: &str, reason: &str) -> (StatusCode, Value) {
    (StatusCode::SERVICE_UNAVAILABLE, json!({ "status": status, "reason": reason }))
}

/// A body that is there as a whole.
struct Text {
    body: Option<Bytes>,
    /// Its share of what may be unwritten, until it is written.
    _unwritten: OwnedSemaphorePermit,
}

impl Body for Text {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.body.take().map(|text| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(
            self.body.as_ref().map_or(0, |text| u64::try_from(text.len()).unwrap_or(u64::MAX)),
        )
    }
}

/// The runtime's stream as hyper wants it.
struct Adapter(TcpStream);

impl hyper::rt::Read for Adapter {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // hyper's buffer may be uninitialised; a copy of a request's few bytes spares unsafe code.
        let mut bytes = [0; READ_BYTES];
        let room = buffer.remaining().min(READ_BYTES);
        let read = ready!(Pin::new(&mut self.0).poll_read(cx, &mut bytes[..room]))?;
        buffer.put_slice(&bytes[..read]);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Adapter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_healthy_when_every_shard_serves() {
        let good = |shard| ShardStats { shard, partitions_offline: shard, ..ShardStats::default() };
        let (status, health_of_all) = health(2, &[good(0), good(1)]);
        assert_eq!(status, StatusCode::OK);
        assert_eq!(health_of_all, json!({ "status": "ok", "shards": 2, "partitions_offline": 1 }));
    }

    #[test]
    fn every_shard_that_does_not_serve_is_named() {
        let bad = |shard: usize| ShardStats {
            shard,
            fault: Some("the journal's \"sync\" failed".to_owned()),
            ..ShardStats::default()
        };
        let (status, health) = health(4, &[ShardStats::default(), bad(1), bad(3)]);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(health["status"], "fault");
        assert_eq!(health["reason"], "shard 1 serves nothing: the journal's \"sync\" failed");
        let shards: Vec<_> = health["faults"].as_array().unwrap().iter().map(|it| &it["shard"]).collect();
        assert_eq!(shards, [1, 2, 3]);
        assert_eq!(health["faults"][1]["fault"], "it does not answer");
    }
}
