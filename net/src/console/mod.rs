//! The console: one page for people, and the JSON that it shows. Read-only, on shard 0, in the
//! turns that [`crate::http`] gives out; every answer has a bound that is named here.
//!
//! The page is three files in the binary, which ask for nothing from anywhere else. What is behind
//! `/api/v1/` is listed in `docs/OPERATIONS.md`. Counters are told as they are since the start: rates
//! and what happened lately are the page's business. Configs are told only where they are a topic's;
//! none of these is a secret.

mod groups;
mod node;
mod query;
mod records;
mod topics;

use std::net::SocketAddr;

use corelog_protocol::error::ErrorCode;
use hyper::header::{self, HeaderMap};
use hyper::{Request, StatusCode};
use serde_json::{Value, json};

use self::query::Query;
use crate::http::{Answer, PLAIN};
use crate::service::Service;

/// Topics, or groups, of one answer.
const LISTED_MAX: usize = 1_000;

/// The page: path, type, content.
static FILES: [(&str, &str, &str); 9] = [
    ("/console", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/console/style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("/console/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("/console/script.js", SCRIPT, include_str!("page/script.js")),
    ("/console/dom.js", SCRIPT, include_str!("page/dom.js")),
    ("/console/charts.js", SCRIPT, include_str!("page/charts.js")),
    ("/console/overview.js", SCRIPT, include_str!("page/overview.js")),
    ("/console/lists.js", SCRIPT, include_str!("page/lists.js")),
    ("/console/records.js", SCRIPT, include_str!("page/records.js")),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum ConsoleError {
    /// The request makes no sense.
    #[error("{0}")]
    Bad(String),
    /// There is no such thing.
    #[error("{0}")]
    Missing(String),
    /// It is there, and cannot be read now.
    #[error("{0}")]
    Unavailable(String),
}

impl ConsoleError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::Missing(_) => StatusCode::NOT_FOUND,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn no_topic(name: &str) -> Self {
        Self::Missing(format!("there is no topic '{name}'"))
    }

    fn refused(what: &str, code: ErrorCode) -> Self {
        Self::Unavailable(format!("{what}: {}", code.name()))
    }
}

/// The page's own files; `None` when it is none of them.
pub(crate) fn page<B>(service: &Service, request: &Request<B>) -> Option<Answer> {
    let path = request.uri().path();
    if path == "/" && service.options.console {
        let found = Answer::new(StatusCode::FOUND, PLAIN, "the console is at /console\n");
        return Some(Answer { location: Some("console"), ..found });
    }
    let &(_, kind, text) = FILES.iter().find(|(file, ..)| *file == path)?;
    Some(refusal(service, request).unwrap_or_else(|| Answer::new(StatusCode::OK, kind, text)))
}

/// What the page asks for; `None` when it is nothing of that.
pub(crate) async fn data<B>(service: &Service, request: &Request<B>) -> Option<Answer> {
    let what = request.uri().path().strip_prefix("/api/v1/")?;
    if let Some(refused) = refusal(service, request) {
        return Some(refused);
    }
    let found = match Query::parse(request.uri().query().unwrap_or_default()) {
        Ok(query) => find(service, what, &query).await,
        Err(error) => Err(error),
    };
    Some(match found {
        Ok(value) => Answer::json(StatusCode::OK, &value),
        Err(error) => Answer::json(error.status(), &json!({ "error": error.to_string() })),
    })
}

async fn find(service: &Service, what: &str, query: &Query) -> Result<Value, ConsoleError> {
    match what {
        "node" => Ok(node::node(service).await),
        "topics" => Ok(topics::list(service, query).await),
        "topic" => topics::one(service, query).await,
        "groups" => Ok(groups::list(service, query).await),
        "group" => groups::one(service, query).await,
        "records" => records::read(service, query).await,
        _ => {
            Err(ConsoleError::Missing("there are node, topics, topic, groups, group and records".to_owned()))
        }
    }
}

/// Whom nothing is told.
fn refusal<B>(service: &Service, request: &Request<B>) -> Option<Answer> {
    let forbidden = |reason: &str| Some(Answer::json(StatusCode::FORBIDDEN, &json!({ "error": reason })));
    if !service.options.console {
        return forbidden("the console is switched off (http.console)");
    }
    if !is_own_page(request.headers()) {
        return forbidden("another site's page asks");
    }
    let is_local = service.options.http.is_some_and(|address| address.ip().is_loopback());
    if is_local && !is_local_name(host(request)) {
        return forbidden(
            "this port listens on the loopback address, so it is called localhost or by that address; \
             a proxy has to say so in the header Host",
        );
    }
    None
}

/// Browsers say whose page asks.
fn is_own_page(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    let mode = headers.get("sec-fetch-mode").map(|mode| mode.as_bytes());
    matches!(site, None | Some(b"same-origin" | b"none")) || mode == Some(&b"navigate"[..])
}

fn host<B>(request: &Request<B>) -> &str {
    let of_header = || request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    request.uri().authority().map(|it| it.as_str()).or_else(of_header).unwrap_or_default()
}

/// Whether a name in `Host` can only be this machine's: any other can be made to lead here by
/// whoever owns it, and then that owner's page in a browser on this machine could read everything.
fn is_local_name(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|digit| digit.is_ascii_digit()) { name } else { host }
    });
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_loopback = bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    is_loopback || name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in ["localhost", "LOCALHOST:9644", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:9644"] {
            assert!(is_local_name(host), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example", "10.0.0.1:9644", "[::2]:1", "localhost:x"]
        {
            assert!(!is_local_name(host), "{host}");
        }
    }

    #[test]
    fn another_sites_page_is_not_answered_but_a_link_is() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.iter().map(|(name, value)| {
                (header::HeaderName::from_static(name), header::HeaderValue::from_static(value))
            });
            pairs.collect::<HeaderMap>()
        };
        assert!(is_own_page(&headers(&[])));
        assert!(is_own_page(&headers(&[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")])));
        assert!(is_own_page(&headers(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")])));
        assert!(!is_own_page(&headers(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")])));
        assert!(!is_own_page(&headers(&[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")])));
    }

    #[test]
    fn the_page_asks_nobody_else_and_makes_no_markup_of_what_it_is_told() {
        for (path, kind, text) in FILES {
            for (at, _) in text.match_indices("://") {
                assert!(text[at..].starts_with("://www.w3.org/"), "{path} has an address");
            }
            for inline in ["<style", "style=", "onclick=", "javascript:", "<script>"] {
                assert!(!text.contains(inline), "{path}: {inline} is forbidden by the page's own policy");
            }
            if kind == SCRIPT {
                for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                    assert!(!text.contains(sink), "{path}: {sink} makes markup of what records hold");
                }
            }
        }
    }

    #[test]
    fn every_file_that_the_page_wants_is_there() {
        let is_file = |name: &str| FILES.iter().any(|(path, ..)| *path == format!("/console/{name}"));
        let mut wanted = 0;
        for (_, _, text) in FILES {
            let named =
                text.split('"').filter_map(|part| part.strip_prefix("./").or(part.strip_prefix("console/")));
            for name in named {
                assert!(is_file(name), "{name}");
                wanted += 1;
            }
        }
        assert!(wanted >= FILES.len() - 1, "{wanted}");
    }
}
