//! `corelog consume`

use std::io::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use corelog_net::client::admin::OffsetSpec;
use corelog_net::client::cluster::AutoCreate;
use corelog_net::client::consumer::{Assignment, Chunk, ConsumedRecord, IsolationLevel, StartAt};
use corelog_net::client::{Admin, Client, ClientError, Consumer, ConsumerOptions};
use corelog_protocol::batch::Scratch;
use corelog_runtime::shards::stop_signal;
use futures_lite::future;
use serde::Serialize;

use super::start::From;
use crate::cli::Consume;
use crate::client_run::{OnSignal, with_client};
use crate::out::{Format, stdout};

pub(crate) fn run(arguments: Consume, format: Format) -> Result<ExitCode> {
    with_client(arguments.connect.clone(), OnSignal::Handles, move |client| {
        consume(client, arguments.clone(), format)
    })
}

async fn consume(client: Client, arguments: Consume, format: Format) -> Result<ExitCode> {
    let topic = client.topic(&arguments.topic, AutoCreate::No).await?;
    let partitions: Vec<i32> = match arguments.partition.is_empty() {
        true => topic.partitions.iter().map(|it| it.id).collect(),
        false => arguments.partition.clone(),
    };
    let options = ConsumerOptions {
        isolation: match arguments.read_committed {
            true => IsolationLevel::ReadCommitted,
            false => IsolationLevel::ReadUncommitted,
        },
        ..ConsumerOptions::default()
    };
    let starts = starts(&client, &topic.name, &partitions, &arguments).await?;
    let assignments = partitions.iter().zip(starts).map(|(partition, start)| Assignment {
        topic: Rc::clone(&topic.name),
        partition: *partition,
        start,
    });
    let mut consumer = Consumer::new(client, assignments.collect(), options).await?;
    // Without --follow: the offset before which to stop, by partition.
    let ends = match arguments.follow {
        true => None,
        false => Some(consumer.end_offsets().await?),
    };
    if let Some(ends) = &ends {
        for (partition, end) in partitions.iter().zip(ends) {
            if consumer.position(&topic.name, *partition).is_some_and(|at| at >= *end) {
                consumer.stop(&topic.name, *partition);
            }
        }
    }
    let mut printer = Printer {
        out: stdout(),
        format,
        key_separator: arguments.key_separator.clone().map(String::into_bytes),
        left: arguments.count.unwrap_or(u64::MAX),
        scratch: Scratch::new(),
    };
    let stop = stop_signal();
    while printer.left > 0 {
        let interrupted = async {
            stop.wait().await;
            Ok(None)
        };
        let Some(chunk) = future::or(interrupted, consumer.next()).await? else {
            break;
        };
        let end = ends.as_ref().and_then(|ends| {
            let at = partitions.iter().position(|it| *it == chunk.partition)?;
            Some(ends[at])
        });
        printer.print(&chunk, end.unwrap_or(i64::MAX))?;
        if end.is_some_and(|end| chunk.next_offset >= end) {
            consumer.stop(&topic.name, chunk.partition);
        }
    }
    printer.out.flush().context("cannot write to stdout")?;
    Ok(ExitCode::SUCCESS)
}

/// Where each partition begins. An offset is held against what the partitions have: with several,
/// it is in the nature of things that one has not come so far or begins later; with one, it is an
/// error.
async fn starts(
    client: &Client,
    topic: &Rc<str>,
    partitions: &[i32],
    arguments: &Consume,
) -> Result<Vec<StartAt>> {
    let offset = match arguments.from {
        From::Beginning => return Ok(vec![StartAt::Beginning; partitions.len()]),
        From::End => return Ok(vec![StartAt::End; partitions.len()]),
        From::Timestamp(timestamp_ms) => {
            return Ok(vec![StartAt::Timestamp(timestamp_ms); partitions.len()]);
        }
        From::Offset(offset) => offset,
    };
    let admin = Admin::new(client.clone());
    let wanted = |spec| {
        let of_partition = partitions.iter().map(|it| ((Rc::clone(topic), *it), spec));
        of_partition.collect::<Vec<_>>()
    };
    let isolation = IsolationLevel::ReadUncommitted;
    let first = admin.list_offsets(&wanted(OffsetSpec::Earliest), isolation).await?;
    let end = admin.list_offsets(&wanted(OffsetSpec::Latest), isolation).await?;
    let mut starts = Vec::new();
    for ((partition, first), end) in partitions.iter().zip(first).zip(end) {
        let (first, end) = (first.offset.unwrap_or(0), end.offset.unwrap_or(0));
        if partitions.len() == 1 && !(first..=end).contains(&offset) {
            return Err(ClientError::OffsetOutOfRange {
                topic: topic.to_string(),
                partition: *partition,
                offset,
                log_start_offset: first,
                log_end_offset: end,
            }
            .into());
        }
        starts.push(StartAt::Offset(offset.clamp(first, end.max(first))));
    }
    Ok(starts)
}

struct Printer<W: Write> {
    out: W,
    format: Format,
    key_separator: Option<Vec<u8>>,
    /// How many more records are wanted.
    left: u64,
    scratch: Scratch,
}

impl<W: Write> Printer<W> {
    /// Prints a chunk's records below `end`.
    fn print(&mut self, chunk: &Chunk, end: i64) -> Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut outcome = Ok(());
        let visited = chunk.visit(&mut scratch, |record| {
            if self.left == 0 || record.offset >= end {
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
        Ok(visited?)
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
