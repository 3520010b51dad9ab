//! Errors, and what to do about them.

use std::io::ErrorKind;

use corelog_net::client::ClientError;
use corelog_protocol::error::ErrorCode;
use corelog_runtime::error::with_causes;
use serde_json::json;

use crate::out::Format;

/// Prints an error to stderr: in one line, and if there is something to do, that in another.
pub(crate) fn print(error: &anyhow::Error, format: Format) {
    let message = with_causes(error.as_ref());
    let hint = error.chain().find_map(|it| it.downcast_ref::<ClientError>()).and_then(hint);
    match format {
        Format::Text => {
            eprintln!("error: {message}");
            if let Some(hint) = hint {
                eprintln!("hint: {hint}");
            }
        }
        Format::Json => eprintln!("{}", json!({ "error": message, "hint": hint })),
    }
}

fn hint(error: &ClientError) -> Option<String> {
    match error.root() {
        ClientError::Connect { address, kind: ErrorKind::ConnectionRefused, .. } => Some(format!(
            "is a node running at {address}? `corelog` starts one; --bootstrap or CORELOG_BOOTSTRAP \
             names another"
        )),
        ClientError::Connect { .. } | ClientError::Address { .. } => Some(
            "--bootstrap or CORELOG_BOOTSTRAP names the cluster; a broker also tells clients its \
             advertised address, which must be reachable from here"
                .to_owned(),
        ),
        ClientError::Protocol { .. } | ClientError::Disconnected { .. } => {
            Some("is that the port of a Kafka listener without TLS and SASL?".to_owned())
        }
        ClientError::UnknownTopic { topic } => Some(format!(
            "`corelog topic list` shows what there is, `corelog topic create {topic}` creates it"
        )),
        ClientError::UnknownPartition { topic, .. } => {
            Some(format!("`corelog topic describe {topic}` shows its partitions"))
        }
        ClientError::OffsetOutOfRange { .. } => {
            Some("`--from beginning` begins with the first record that still exists".to_owned())
        }
        ClientError::RecordTooLarge { .. } => {
            Some("the largest record is bounded by the topic's max.message.bytes".to_owned())
        }
        ClientError::Refused { code, .. } => match code {
            ErrorCode::TopicAlreadyExists => Some("--if-not-exists accepts that".to_owned()),
            ErrorCode::MessageTooLarge => {
                Some("a smaller --batch-bytes, or a larger max.message.bytes of the topic".to_owned())
            }
            _ => None,
        },
        ClientError::TimedOut { .. }
        | ClientError::Encode { .. }
        | ClientError::Unsupported { .. }
        | ClientError::TooManyInFlight { .. }
        | ClientError::NoBroker { .. }
        | ClientError::NoBootstrap
        | ClientError::NoLeader { .. }
        | ClientError::BadBatch { .. }
        | ClientError::Assignment { .. }
        | ClientError::GaveUp { .. }
        | ClientError::OutcomeUnknown { .. }
        | ClientError::Closed => None,
    }
}
