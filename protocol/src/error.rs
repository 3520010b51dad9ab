//! Kafka error codes.

pub use kafka_protocol::ResponseError as ErrorCode;
