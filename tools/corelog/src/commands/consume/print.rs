//! Records on stdout.

use std::io::{BufWriter, Stdout, Write};
use std::ops::ControlFlow;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use corelog_net::client::consumer::{Chunk, ConsumedRecord};
use corelog_protocol::batch::Scratch;
use serde::Serialize;

use crate::cli::Consume;
use crate::out::{Format, stdout};

pub(super) struct Printer<W: Write> {
    out: W,
    format: Format,
    key_separator: Option<Vec<u8>>,
    /// How many more records are wanted.
    left: u64,
    scratch: Scratch,
}

impl Printer<BufWriter<Stdout>> {
    pub(super) fn new(arguments: &Consume, format: Format) -> Self {
        Self {
            out: stdout(),
            format,
            key_separator: arguments.key_separator.clone().map(String::into_bytes),
            left: arguments.count.unwrap_or(u64::MAX),
            scratch: Scratch::new(),
        }
    }
}

impl<W: Write> Printer<W> {
    /// How many more records are wanted.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    pub(super) fn finish(&mut self) -> Result<()> {
        self.out.flush().context("cannot write to stdout")
    }

    /// Prints a chunk's records below `end`, and gives the offset behind the last one that it has
    /// dealt with.
    pub(super) fn print(&mut self, chunk: &Chunk, end: i64) -> Result<i64> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut outcome = Ok(());
        let mut next = chunk.next_offset.min(end);
        let visited = chunk.visit(&mut scratch, |record| {
            if self.left == 0 || record.offset >= end {
                next = next.min(record.offset);
                return ControlFlow::Break(());
            }
            self.left -= 1;
            outcome = match self.format {
                Format::Text => self.print_text(&record),
                Format::Json => self.print_json(chunk, &record),
            };
            match outcome {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        self.scratch = scratch;
        outcome.and_then(|()| self.out.flush()).context("cannot write to stdout")?;
        visited?;
        Ok(next)
    }

    fn print_text(&mut self, record: &ConsumedRecord<'_>) -> std::io::Result<()> {
        if let Some(separator) = &self.key_separator {
            self.out.write_all(record.key.unwrap_or_default())?;
            self.out.write_all(separator)?;
        }
        self.out.write_all(record.value.unwrap_or_default())?;
        self.out.write_all(b"\n")
    }

    fn print_json(&mut self, chunk: &Chunk, record: &ConsumedRecord<'_>) -> std::io::Result<()> {
        let json = RecordJson::new(&chunk.topic, chunk.partition, record);
        serde_json::to_writer(&mut self.out, &json).map_err(std::io::Error::from)?;
        self.out.write_all(b"\n")
    }
}

/// A record as one JSON object. Text is as it is, null is null, and other bytes are in base64 under
/// another name, so that the three can be told apart.
#[derive(Serialize)]
struct RecordJson<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp_ms: i64,
    #[serde(flatten)]
    key: Key<'a>,
    #[serde(flatten)]
    value: Bytes<'a>,
    headers: Vec<HeaderJson<'a>>,
}

#[derive(Serialize)]
struct HeaderJson<'a> {
    #[serde(flatten)]
    key: Key<'a>,
    #[serde(flatten)]
    value: Bytes<'a>,
}

#[derive(Serialize)]
enum Key<'a> {
    #[serde(rename = "key")]
    Text(Option<&'a str>),
    #[serde(rename = "key_base64")]
    Base64(String),
}

#[derive(Serialize)]
enum Bytes<'a> {
    #[serde(rename = "value")]
    Text(Option<&'a str>),
    #[serde(rename = "value_base64")]
    Base64(String),
}

impl<'a> Key<'a> {
    fn new(bytes: Option<&'a [u8]>) -> Self {
        text(bytes).map_or_else(Self::Base64, Self::Text)
    }
}

impl<'a> Bytes<'a> {
    fn new(bytes: Option<&'a [u8]>) -> Self {
        text(bytes).map_or_else(Self::Base64, Self::Text)
    }
}

/// Text or null, or else base64.
fn text(bytes: Option<&[u8]>) -> Result<Option<&str>, String> {
    let checked = bytes.map(|bytes| str::from_utf8(bytes).map_err(|_| BASE64.encode(bytes)));
    checked.transpose()
}

impl<'a> RecordJson<'a> {
    fn new(topic: &'a str, partition: i32, record: &ConsumedRecord<'a>) -> Self {
        let headers = record
            .headers
            .clone()
            .map(|header| HeaderJson { key: Key::new(Some(header.key)), value: Bytes::new(header.value) });
        Self {
            topic,
            partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: Key::new(record.key),
            value: Bytes::new(record.value),
            headers: headers.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_null_and_other_bytes_are_told_apart_in_json() {
        let json = |key: Option<&[u8]>, value: Option<&[u8]>| {
            let object = HeaderJson { key: Key::new(key), value: Bytes::new(value) };
            serde_json::to_string(&object).unwrap()
        };
        assert_eq!(json(Some("é".as_bytes()), None), r#"{"key":"é","value":null}"#);
        assert_eq!(json(None, Some(b"")), r#"{"key":null,"value":""}"#);
        assert_eq!(json(Some(b"\xff\x00"), Some(b"\xfe")), r#"{"key_base64":"/wA=","value_base64":"/g=="}"#);
    }
}
