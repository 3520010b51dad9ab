//! Wire forms only: Kafka frames and messages, record batch views.

pub mod error;
