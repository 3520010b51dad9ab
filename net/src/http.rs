//! `/healthz` and `/metrics`, on shard 0, from the bind to the end of the node. One request per
//! connection: scrapers ask seldom.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use corelog_engine::shard::ShardStats;
use corelog_runtime::net::{Accepted, TcpListener, TcpStream};
use corelog_runtime::task::{self, Class};
use corelog_runtime::{process, time};
use futures_lite::io::{AsyncRead, AsyncWrite};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::metrics::Scrape;
use crate::server;
use crate::service::Service;
use crate::signal::Signal;

/// From the connection to the end of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections at a time; the next ones wait in the kernel. Far more than ask: some that say nothing
/// must not keep a health check waiting until somebody restarts the node for it.
const REQUESTS_MAX: usize = 256;
/// Bytes of one read.
const READ_BYTES: usize = 4096;

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A node's HTTP endpoint. Dropping it ends it.
pub(crate) struct Http(Rc<State>);

#[derive(Default)]
struct State {
    /// Set once the node serves.
    service: RefCell<Option<Rc<Service>>>,
    end: Signal,
}

impl Http {
    /// Answers from now on, that the node is starting.
    pub(crate) fn start(listener: TcpListener) -> Self {
        let state = Rc::new(State::default());
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
    let connection = http1::Builder::new().keep_alive(false).serve_connection(stream, handler);
    Ok(time::timeout(REQUEST_TIMEOUT, connection).await??)
}

async fn respond(state: &State, request: Request<Incoming>) -> Result<Response<Text>, Infallible> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let service = state.service.borrow().clone();
    let (status, kind, text) = match (request.uri().path(), service) {
        ("/healthz" | "/metrics", _) if !is_read => {
            (StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET is answered here\n".to_owned())
        }
        ("/healthz", service) => {
            let (status, health) = match service {
                Some(service) => in_service(&service).await,
                None => unwell("starting", "the node is starting"),
            };
            (status, JSON, format!("{health}\n"))
        }
        ("/metrics", Some(service)) => (StatusCode::OK, PROMETHEUS, scrape(&service).await),
        ("/metrics", None) => (StatusCode::SERVICE_UNAVAILABLE, PLAIN, "the node is starting\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, PLAIN, "there are /healthz and /metrics\n".to_owned()),
    };
    let mut response = Response::new(Text(Some(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    Ok(response)
}

async fn scrape(service: &Service) -> String {
    let stats = service.engine.stats().await;
    let scrape = Scrape {
        build: &service.options.build,
        process: process::usage(),
        counters: service.node.all_counters(),
        connections: &service.node.connections(),
        connections_max: service.options.max_connections,
        memory: &service.node.memory(&service.options),
        stats: &stats,
    };
    scrape.text()
}

async fn in_service(service: &Service) -> (StatusCode, Value) {
    if service.stopping.is_on() {
        return unwell("stopping", "the node is stopping");
    }
    health(service.engine.shards(), &service.engine.stats().await)
}

/// Whether every one of the node's shards serves, and what is wrong with those that do not.
fn health(shards: usize, stats: &[ShardStats]) -> (StatusCode, Value) {
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
struct Text(Option<Bytes>);

impl Body for Text {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|text| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |text| u64::try_from(text.len()).unwrap_or(u64::MAX)))
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
