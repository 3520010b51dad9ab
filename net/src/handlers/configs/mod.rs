//! Configs of topics and nodes: describing, altering and listing what has any.

pub(crate) mod alter;
pub(crate) mod describe;
pub(crate) mod list;

use corelog_engine::meta::image::MetaImage;
use corelog_engine::types::NodeId;
use corelog_protocol::error::ErrorCode;

use crate::options::NetOptions;

/// `ConfigResource.Type`.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

/// Why something about configs is refused.
type Refusal = (ErrorCode, String);

/// A broker's configs are asked of that broker. `or_empty` says what else would have been right.
fn check_broker(name: &str, node: NodeId, or_empty: &str) -> Result<(), Refusal> {
    let refuse = |message: String| Err((ErrorCode::InvalidRequest, message));
    match name.parse::<i32>() {
        Err(_) => refuse(format!("Node id must be an integer, but it is: {name}")),
        Ok(id) if id != node.0 => {
            refuse(format!("Unexpected broker id, expected {}{or_empty}, but received {name}", node.0))
        }
        Ok(_) => Ok(()),
    }
}

/// The node's configs that cannot be changed while it runs, by Kafka's names.
fn fixed(options: &NetOptions, image: &MetaImage, node: NodeId) -> Vec<(String, String)> {
    let told = image.nodes.get(&node).map(|node| node.listeners.as_slice()).unwrap_or_default();
    let advertised: Vec<_> = told.iter().map(|l| format!("{}://{}:{}", l.name, l.host, l.port)).collect();
    let listeners: Vec<_> = options.listeners.iter().map(|l| format!("{}://{}", l.name, l.bind)).collect();
    let mut fixed = vec![
        ("advertised.listeners".to_owned(), advertised.join(",")),
        ("auto.create.topics.enable".to_owned(), options.auto_create_topics.to_string()),
        ("broker.id".to_owned(), node.0.to_string()),
        ("connections.max.idle.ms".to_owned(), options.idle_timeout.as_millis().to_string()),
        ("listeners".to_owned(), listeners.join(",")),
        ("max.connections".to_owned(), options.max_connections.to_string()),
        ("max.incremental.fetch.session.cache.slots".to_owned(), options.fetch_session_slots.to_string()),
        ("node.id".to_owned(), node.0.to_string()),
        ("socket.request.max.bytes".to_owned(), options.max_frame_bytes.to_string()),
        (
            "socket.send.buffer.bytes".to_owned(),
            options.send_buffer_bytes.map_or("-1".to_owned(), |bytes| bytes.to_string()),
        ),
    ];
    fixed.extend(options.shown_configs.iter().cloned());
    fixed.sort();
    fixed
}
