//! `/healthz` and `/metrics`, on shard 0. One request per connection: scrapers ask seldom.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use corelog_engine::shard::ShardStats;
use corelog_runtime::net::{TcpListener, TcpStream};
use corelog_runtime::task::{self, Class};
use corelog_runtime::time;
use futures_lite::io::{AsyncRead, AsyncWrite};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use tokio::sync::Semaphore;

use crate::metrics;
use crate::server;
use crate::service::Service;

/// From the connection to the end of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests at a time; the next ones wait in the kernel.
const REQUESTS_MAX: usize = 16;
/// Bytes of one read.
const READ_BYTES: usize = 4096;

const PLAIN: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers HTTP requests until the node stops.
pub(crate) async fn serve(service: Rc<Service>, listener: TcpListener) {
    let slots = Rc::new(Semaphore::new(REQUESTS_MAX));
    loop {
        let free = slots.acquire().await.expect("the semaphore is never closed");
        free.forget();
        let Some(accepted) = server::accept(&service, &listener).await else { return };
        let (service, slots) = (Rc::clone(&service), Rc::clone(&slots));
        task::spawn_in(Class::Serve, async move {
            let stream = Adapter(accepted.into_stream());
            let handler = service_fn(|request| respond(&service, request));
            let connection = http1::Builder::new().keep_alive(false).serve_connection(stream, handler);
            match time::timeout(REQUEST_TIMEOUT, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "http request failed"),
                Err(_) => tracing::debug!("http request took too long"),
            }
            slots.add_permits(1);
        });
    }
}

async fn respond(service: &Service, request: Request<Incoming>) -> Result<Response<Text>, Infallible> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, kind, text) = match request.uri().path() {
        "/healthz" | "/metrics" if !is_read => {
            (StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET is answered here\n".to_owned())
        }
        "/healthz" => {
            let health = health(
                service.stopping.is_on(),
                service.engine.image().version,
                &service.engine.stats().await,
            );
            match health {
                Ok(()) => (StatusCode::OK, PLAIN, "ok\n".to_owned()),
                Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{reason}\n")),
            }
        }
        "/metrics" => {
            let stats = service.engine.stats().await;
            let text = metrics::render(service.node.all_counters(), &service.node.connections(), &stats);
            (StatusCode::OK, PROMETHEUS, text)
        }
        _ => (StatusCode::NOT_FOUND, PLAIN, "there are /healthz and /metrics\n".to_owned()),
    };
    let mut response = Response::new(Text(Some(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    Ok(response)
}

/// Whether the node serves, and why it does not.
fn health(is_stopping: bool, image_version: u64, stats: &[ShardStats]) -> Result<(), String> {
    if is_stopping {
        return Err("stopping".to_owned());
    }
    if image_version == 0 {
        return Err("starting: metadata is not published yet".to_owned());
    }
    for shard in stats {
        if let Some(fault) = &shard.fault {
            return Err(format!("shard {} serves nothing: {fault}", shard.shard));
        }
    }
    Ok(())
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
        let good = ShardStats::default();
        let bad =
            ShardStats { shard: 3, fault: Some("the journal's sync failed".to_owned()), ..good.clone() };
        assert_eq!(health(false, 1, std::slice::from_ref(&good)), Ok(()));
        assert!(health(true, 1, std::slice::from_ref(&good)).unwrap_err().contains("stopping"));
        assert!(health(false, 0, std::slice::from_ref(&good)).unwrap_err().contains("starting"));
        assert!(health(false, 1, &[good, bad]).unwrap_err().contains("shard 3"));
    }
}
