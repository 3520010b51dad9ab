//! `/api/v1/records`: some records of one partition, to look at.
//!
//! What is read, decompressed, looked at and told is bounded; what does not fit is cut and said to
//! be. Bytes come as text where they are UTF-8 without control characters, as base64 otherwise, so
//! that whoever shows them can tell the two apart; what they hold is nobody's markup here.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use corelog_engine::api::{FetchPart, FetchSpec, Fetched, OffsetQuery};
use corelog_engine::types::{Offset, PartitionId, TopicPartition};
use corelog_protocol::batch::{BatchIter, BatchRef, Scratch, TimestampType};
use corelog_runtime::task::yield_if_needed;
use serde_json::{Value, json};

use super::ConsoleError;
use super::query::Query;
use crate::service::Service;

/// Records of one answer, unless fewer are asked for.
const RECORDS_DEFAULT: usize = 50;
const RECORDS_MAX: usize = 200;
/// Bytes of one read; a batch that is larger comes whole.
const READ_BYTES: usize = 1 << 20;
/// Reads for one answer.
const READS_MAX: usize = 4;
/// A batch that would take more is not looked into.
const DECOMPRESSED_BYTES_MAX: usize = 16 << 20;
/// Bytes told of one value, and of a key or a header's value.
const VALUE_BYTES_MAX: usize = 64 << 10;
const KEY_BYTES_MAX: usize = 4 << 10;
/// Headers told of one record.
const HEADERS_MAX: usize = 64;
/// When so many bytes are told, the answer ends.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Beginning,
    /// So many records before the end that an answer is full.
    End,
    Offset(i64),
    /// At the first record of this time, or a later one.
    Time(i64),
}

impl Start {
    fn parse(text: &str) -> Result<Self, ConsoleError> {
        let bad = || {
            ConsoleError::Bad(format!("from={text} is none of beginning, end, an offset, and a time as @MS"))
        };
        match text {
            "beginning" => Ok(Self::Beginning),
            "end" => Ok(Self::End),
            _ => match text.strip_prefix('@') {
                Some(time) => time.parse().map(Self::Time).map_err(|_| bad()),
                None => text.parse().ok().filter(|it| *it >= 0).map(Self::Offset).ok_or_else(bad),
            },
        }
    }
}

/// Records of `topic` and `partition`, `from` somewhere on, at most `limit`.
pub(super) async fn read(service: &Service, query: &Query) -> Result<Value, ConsoleError> {
    let name = query.required("topic")?;
    let partition = query.number("partition", 0_i32)?;
    let limit = query.number("limit", RECORDS_DEFAULT)?.clamp(1, RECORDS_MAX);
    let start = Start::parse(query.get("from").unwrap_or("end"))?;
    let image = service.engine.image();
    let topic = image.topic_named(name).ok_or_else(|| ConsoleError::no_topic(name))?;
    let target = TopicPartition::new(topic.id, PartitionId(partition));
    topic
        .partition(target.partition)
        .ok_or_else(|| ConsoleError::Missing(format!("topic '{name}' has no partition {partition}")))?;
    let (log_start, end) = bounds(service, target).await?;
    let wanted = match start {
        Start::Beginning => log_start,
        Start::End => end.saturating_sub(i64::try_from(limit).unwrap_or(i64::MAX)),
        Start::Offset(offset) => offset,
        Start::Time(time_ms) => match offset_of(service, target, OffsetQuery::AtTimestamp(time_ms)).await? {
            -1 => end,
            offset => offset,
        },
    };
    let from = wanted.clamp(log_start, end.max(log_start));
    let mut page = Page::new(from, limit);
    let mut scratch = Scratch::new();
    for _ in 0..READS_MAX {
        if page.is_full() || page.next >= end {
            break;
        }
        let fetched = fetch(service, target, page.next).await?;
        if fetched.batches.is_empty() {
            break;
        }
        for chunk in &fetched.batches {
            page.take(chunk, &mut scratch);
            yield_if_needed().await;
        }
    }
    Ok(json!({
        "topic": name,
        "partition": partition,
        "log_start": log_start,
        "high_watermark": end,
        "from": from,
        "next": page.next,
        "records": page.records,
    }))
}

/// Where the partition begins and ends for consumers.
async fn bounds(service: &Service, target: TopicPartition) -> Result<(i64, i64), ConsoleError> {
    let end = offset_of(service, target, OffsetQuery::Latest { read_committed: false }).await?;
    Ok((offset_of(service, target, OffsetQuery::Earliest).await?, end))
}

async fn offset_of(
    service: &Service,
    target: TopicPartition,
    query: OffsetQuery,
) -> Result<i64, ConsoleError> {
    let found = service.engine.list_offsets(vec![(target, None, query)]).await.pop();
    let found = found.expect("as many answers as questions");
    found.map(|it| it.offset.0).map_err(|error| ConsoleError::Unavailable(error.to_string()))
}

async fn fetch(service: &Service, target: TopicPartition, offset: i64) -> Result<Fetched, ConsoleError> {
    let part =
        FetchPart { target, offset: Offset(offset), max_bytes: READ_BYTES, current_leader_epoch: None };
    let spec = FetchSpec {
        parts: vec![part],
        max_bytes: READ_BYTES,
        min_bytes: 0,
        max_wait: Duration::ZERO,
        read_committed: false,
    };
    let fetched = service.engine.fetch(spec).await.pop().expect("one outcome per part");
    fetched.map_err(|error| ConsoleError::Unavailable(error.to_string()))
}

/// The records of an answer so far.
struct Page {
    records: Vec<Value>,
    limit: usize,
    /// The next offset to look at.
    next: i64,
    told_bytes: usize,
}

impl Page {
    fn new(from: i64, limit: usize) -> Self {
        Self { records: Vec::new(), limit, next: from, told_bytes: 0 }
    }

    fn is_full(&self) -> bool {
        self.records.len() >= self.limit || self.told_bytes >= ANSWER_BYTES_MAX
    }

    /// Takes in whole batches. The engine has checked them; what cannot be read all the same is one
    /// entry that says so, and the next batch may be well.
    fn take(&mut self, batches: &Bytes, scratch: &mut Scratch) {
        for batch in BatchIter::new(batches) {
            if self.is_full() {
                return;
            }
            let Ok(batch) = batch else { return };
            let next = batch.header.next_offset();
            if next <= self.next {
                continue;
            }
            if !batch.header.is_control()
                && let Err(reason) = self.take_records(&batch, scratch)
            {
                self.records.push(json!({
                    "offset": self.next.max(batch.header.base_offset),
                    "last_offset": next - 1,
                    "error": reason,
                }));
                self.next = next;
            } else if !self.is_full() {
                self.next = next;
            }
        }
    }

    fn take_records(&mut self, batch: &BatchRef<'_>, scratch: &mut Scratch) -> Result<(), String> {
        let header = &batch.header;
        let codec = header.codec().map_err(|error| error.to_string())?;
        let time = match header.timestamp_type() {
            TimestampType::CreateTime => "create",
            TimestampType::LogAppendTime => "append",
        };
        let records = batch.records(scratch, DECOMPRESSED_BYTES_MAX).map_err(|error| error.to_string())?;
        for record in records {
            let record = record.map_err(|error| error.to_string())?;
            let offset = header.base_offset.saturating_add(i64::from(record.offset_delta));
            if offset < self.next {
                continue;
            }
            if self.is_full() {
                return Ok(());
            }
            let mut told = |bytes: Option<&[u8]>, bytes_max| told(bytes, bytes_max, &mut self.told_bytes);
            let headers = record.headers.clone().take(HEADERS_MAX).map(|it| {
                json!({
                    "key": told(Some(it.key), KEY_BYTES_MAX),
                    "value": told(it.value, KEY_BYTES_MAX),
                })
            });
            let headers: Vec<Value> = headers.collect();
            let value = json!({
                "offset": offset,
                "timestamp_ms": header.record_timestamp(record.timestamp_delta),
                "timestamp_type": time,
                "key": told(record.key, KEY_BYTES_MAX),
                "value": told(record.value, VALUE_BYTES_MAX),
                "headers": headers,
                "headers_left_out": record.headers.len() - record.headers.len().min(HEADERS_MAX),
                "codec": codec.to_string(),
            });
            self.records.push(value);
            self.next = offset + 1;
        }
        Ok(())
    }
}

/// Bytes as JSON: null, text, or base64; with their number, of which the first `bytes_max` are told.
fn told(bytes: Option<&[u8]>, bytes_max: usize, told_bytes: &mut usize) -> Value {
    let Some(bytes) = bytes else { return Value::Null };
    let shown = &bytes[..bytes.len().min(bytes_max)];
    *told_bytes += shown.len();
    // A character that was cut in two does not make it another kind of bytes.
    let text = match str::from_utf8(shown) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() && shown.len() < bytes.len() => {
            str::from_utf8(&shown[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    let is_readable = |text: &&str| !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'));
    match text.filter(is_readable) {
        Some(text) => json!({ "bytes": bytes.len(), "text": text, "is_cut": text.len() < bytes.len() }),
        None => json!({
            "bytes": bytes.len(),
            "base64": BASE64.encode(shown),
            "is_cut": shown.len() < bytes.len(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use corelog_protocol::batch::BatchBuilder;
    use proptest::prelude::*;

    use super::*;

    fn shown(bytes: &[u8], bytes_max: usize) -> Value {
        told(Some(bytes), bytes_max, &mut 0)
    }

    #[test]
    fn text_and_other_bytes_are_told_apart_and_cut() {
        assert_eq!(told(None, 10, &mut 0), Value::Null);
        assert_eq!(shown(b"", 10), json!({ "bytes": 0, "text": "", "is_cut": false }));
        assert_eq!(shown("é\n".as_bytes(), 10), json!({ "bytes": 3, "text": "é\n", "is_cut": false }));
        // The é is cut in two: it is text all the same.
        assert_eq!(shown("aé".as_bytes(), 2), json!({ "bytes": 3, "text": "a", "is_cut": true }));
        assert_eq!(shown(b"a\0", 10), json!({ "bytes": 2, "base64": "YQA=", "is_cut": false }));
        assert_eq!(shown(b"\xff\xfe", 1), json!({ "bytes": 2, "base64": "/w==", "is_cut": true }));
        assert_eq!(shown(b"a\xc3", 10)["base64"], "YcM=", "the end of all is no cut");
    }

    #[test]
    fn places_to_begin_are_read_or_refused() {
        let parse = |text| Start::parse(text).ok();
        assert_eq!(parse("beginning"), Some(Start::Beginning));
        assert_eq!(parse("end"), Some(Start::End));
        assert_eq!((parse("7"), parse("@7")), (Some(Start::Offset(7)), Some(Start::Time(7))));
        assert_eq!((parse("-7"), parse("x"), parse("@x"), parse("")), (None, None, None, None));
    }

    fn batches(count: i64) -> Bytes {
        let batches = (0..count).map(|number| {
            let base = 3 * number;
            let mut builder = BatchBuilder::new().base_offset(base);
            for record in base..base + 3 {
                builder = builder.record(1, Some(b"k"), Some(record.to_string().as_bytes()));
            }
            builder.build().unwrap().freeze()
        });
        Bytes::from(batches.collect::<Vec<_>>().concat())
    }

    #[test]
    fn a_page_begins_and_ends_inside_batches_and_goes_on_there() {
        let (all, mut scratch) = (batches(4), Scratch::new());
        let mut page = Page::new(2, 3);
        page.take(&all, &mut scratch);
        let offsets =
            |page: &Page| page.records.iter().map(|it| it["offset"].as_i64().unwrap()).collect::<Vec<_>>();
        assert_eq!((offsets(&page), page.next), (vec![2, 3, 4], 5));
        let mut page = Page::new(page.next, 100);
        page.take(&all, &mut scratch);
        assert_eq!((offsets(&page), page.next), ((5..12).collect(), 12));
        assert_eq!(page.records[0]["value"]["text"], "5");
    }

    #[test]
    fn a_batch_that_cannot_be_read_is_said_and_passed() {
        let bad = BatchBuilder::new().base_offset(3).record(1, None, Some(b"x")).build().unwrap();
        let mut bad = bad.to_vec();
        // The record claims another length than it has.
        let at = bad.len() - 8;
        bad[at] = 0x7f;
        let all = [&batches(1)[..], &bad].concat();
        let mut page = Page::new(0, 100);
        page.take(&Bytes::from(all), &mut Scratch::new());
        assert_eq!(page.records.len(), 4);
        assert!(page.records[3]["error"].is_string(), "{}", page.records[3]);
        assert_eq!(page.next, 4);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_page(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            from: i64,
        ) {
            let mut bytes = batches(3).to_vec();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let mut page = Page::new(from, 5);
            page.take(&Bytes::from(bytes), &mut Scratch::new());
            prop_assert!(page.records.len() <= 6 && page.next >= from);
        }
    }
}
