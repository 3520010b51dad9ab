//! Consumer groups: what each version of a request means, and how each version says what came of it.
//! Everything else about groups is the engine's.
//!
//! A request's translation owns what it takes: nothing that a coordinator keeps, and nothing that
//! waits for one, pins the frame that it came in.

pub(crate) mod admin;
pub(crate) mod consumer;
pub(crate) mod members;
pub(crate) mod offsets;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use corelog_engine::group::api::{Client as Asker, Reply, Request};
use corelog_protocol::error::ErrorCode;
use corelog_runtime::rand;
use futures_util::future::{Either, select};
use futures_util::stream::{self, StreamExt};
use kafka_protocol::messages::GroupId;
use kafka_protocol::protocol::StrBytes;

use super::{OPERATIONS_NOT_ASKED, bits, owned};
use crate::connection::Client;
use crate::service::Service;

/// Groups of one request that are asked about at a time.
const GROUPS_AT_A_TIME: usize = 64;

/// Every operation on a group: read, delete, describe, describe and alter configs.
const OPERATIONS_ON_GROUP: i32 = bits(&[3, 6, 8, 10, 11]);

/// Who asks, as a coordinator wants to know it.
pub(crate) fn asker(client: &Client, client_id: Option<&str>) -> Asker {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes);
    Asker {
        id: Arc::from(client_id.unwrap_or_default()),
        host: host(client.peer).into(),
        fresh_id: uuid::Builder::from_random_bytes(bytes).into_uuid(),
    }
}

/// An address as Java writes one without a name.
fn host(peer: SocketAddr) -> String {
    match peer.ip().to_canonical() {
        IpAddr::V4(ip) => format!("/{ip}"),
        IpAddr::V6(ip) => {
            let segments = ip.segments().map(|segment| format!("{segment:x}"));
            format!("/{}", segments.join(":"))
        }
    }
}

/// Asks a coordinator, and takes the one kind of reply that goes with the request.
async fn ask<T>(
    service: &Service,
    asker: Asker,
    request: Request,
    take: impl FnOnce(Reply) -> Option<T>,
) -> Result<T, ErrorCode> {
    let reply = service.engine.group(asker, request).await?;
    Ok(take(reply).expect("a reply is of its request's kind"))
}

/// As [`ask`], of what may take minutes: ends with the connection, too.
async fn ask_patiently<T>(
    service: &Service,
    client: &Client,
    asker: Asker,
    request: Request,
    take: impl FnOnce(Reply) -> Option<T>,
) -> Result<T, ErrorCode> {
    let asking = std::pin::pin!(ask(service, asker, request, take));
    match select(asking, std::pin::pin!(client.leaving.wait())).await {
        Either::Left((outcome, _)) => outcome,
        // Whoever still hears it looks for the coordinator again.
        Either::Right(((), _)) => Err(ErrorCode::NotCoordinator),
    }
}

/// Answers about several groups, asked at once as far as that is allowed, in the order of `groups`.
async fn each<G, T, F>(groups: Vec<G>, answer: impl FnMut(G) -> F) -> Vec<T>
where
    F: Future<Output = T>,
{
    stream::iter(groups).map(answer).buffered(GROUPS_AT_A_TIME).collect().await
}

/// Each group once, in the order in which they are first named. A large group that is named often
/// would make a small request's answer as large as somebody likes.
fn distinct(groups: Vec<GroupId>) -> Vec<Arc<str>> {
    let mut seen = BTreeSet::new();
    let groups = groups.iter().map(|group| text(group));
    groups.filter(|group| seen.insert(Arc::clone(group))).collect()
}

/// The bit field of operations on a group.
fn operations(is_asked: bool, error: ErrorCode) -> i32 {
    if is_asked && error == ErrorCode::None { OPERATIONS_ON_GROUP } else { OPERATIONS_NOT_ASKED }
}

fn text(wire: &StrBytes) -> Arc<str> {
    Arc::from(wire.as_str())
}

fn optional_text(wire: Option<&StrBytes>) -> Option<Arc<str>> {
    wire.map(text)
}

fn optional(text: Option<&Arc<str>>) -> Option<StrBytes> {
    text.map(|text| owned(text))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::{Decodable, Encodable};

    use super::*;

    /// What a client of that version gets of a response.
    pub(super) fn over_the_wire<T: Encodable + Decodable>(version: i16, response: &T) -> T {
        let mut bytes = BytesMut::new();
        let encoded = response.encode(&mut bytes, version);
        encoded.unwrap_or_else(|error| panic!("version {version}: {error:#}"));
        T::decode(&mut bytes.freeze(), version).unwrap()
    }

    #[test]
    fn hosts_are_written_as_java_writes_them() {
        let hosts = [
            ("127.0.0.1:9", "/127.0.0.1"),
            ("[::ffff:10.0.0.7]:9", "/10.0.0.7"),
            ("[::1]:9", "/0:0:0:0:0:0:0:1"),
            ("[fe80::a:0b0c]:9", "/fe80:0:0:0:0:0:a:b0c"),
        ];
        for (address, expected) in hosts {
            assert_eq!(host(address.parse().unwrap()), expected);
        }
    }

    #[test]
    fn answers_come_in_the_order_of_groups_and_each_group_once() {
        let groups: Vec<GroupId> = ["b", "a", "b", ""].map(|name| owned(name).into()).to_vec();
        let groups = distinct(groups);
        assert_eq!(groups.iter().map(|group| &**group).collect::<Vec<_>>(), ["b", "a", ""]);
        let many = (0..200_u32).collect::<Vec<_>>();
        let doubled = futures_lite::future::block_on(each(many, async |number| 2 * number));
        assert_eq!(doubled, (0..200).map(|number| 2 * number).collect::<Vec<_>>());
    }

    #[test]
    fn operations_are_told_when_asked_for() {
        assert_eq!(operations(false, ErrorCode::None), i32::MIN);
        assert_eq!(operations(true, ErrorCode::GroupIdNotFound), i32::MIN);
        assert_eq!(operations(true, ErrorCode::None), 0b1101_0100_1000);
    }
}
