//! Fetch: retained batches, and the wait for them. Without sessions: every request names all that it
//! wants.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use corelog_protocol::error::ErrorCode;
use corelog_protocol::fetch::{
    FetchPartition, FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopic, FetchTopicResponse,
    TOPIC_IDS_FROM,
};
use uuid::Uuid;

use super::log::ConnectionId;
use super::topics::Topic;
use super::{Shared, add, lock};

/// No answer has more records than this, in bytes.
const RESPONSE_BYTES_MAX: usize = 64 << 20;
/// The longest that a fetch waits, whatever it says.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// Wakes fetches when something has come.
#[derive(Default)]
pub(super) struct Arrivals {
    /// Fetches that look, or wait to look again.
    waiting: AtomicUsize,
    turn: Mutex<()>,
    come: Condvar,
}

impl Arrivals {
    /// Something was appended. Nothing but a load when nobody waits: a fetch counts itself before
    /// it looks, and both look under the partition's lock, so one of the two sees the other.
    pub(super) fn tell(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.wake_all();
        }
    }

    pub(super) fn wake_all(&self) {
        // Whoever has looked in vain waits before this lock is had.
        drop(lock(&self.turn));
        self.come.notify_all();
    }

    /// Calls `look` until it gives something, again after each arrival.
    fn wait_for<T>(&self, mut look: impl FnMut() -> Result<T, Duration>) -> T {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut turn = lock(&self.turn);
        let found = loop {
            match look() {
                Ok(found) => break found,
                Err(limit) => {
                    turn = self.come.wait_timeout(turn, limit).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        found
    }
}

/// The partitions that one connection has read, so that it can leave them.
#[derive(Default)]
pub(super) struct Reading(BTreeMap<(Uuid, i32), Arc<Topic>>);

impl Reading {
    pub(super) fn leave(&mut self, reader: ConnectionId) {
        for ((_, partition), topic) in std::mem::take(&mut self.0) {
            topic.partition(partition).expect("it was read").forget(reader);
        }
    }
}

/// Answers a fetch; waits as long as the client allows. `before_waiting` is called when there is
/// nothing yet.
///
/// # Errors
/// Those of `before_waiting`.
pub(super) fn serve<E>(
    shared: &Shared,
    reader: ConnectionId,
    reading: &mut Reading,
    version: i16,
    request: &FetchRequest,
    before_waiting: impl FnOnce() -> Result<(), E>,
) -> Result<FetchResponse, E> {
    add(&shared.counters.fetches, 1);
    if request.session_id != 0 {
        return Ok(FetchResponse::failed(ErrorCode::FetchSessionIdNotFound));
    }
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(WAIT_MAX);
    let deadline = Instant::now() + wait;
    let min_bytes = usize::try_from(request.min_bytes).unwrap_or(0);
    let mut look = || {
        let (response, is_enough) = look_once(shared, reader, reading, version, request, min_bytes);
        let left = deadline.saturating_duration_since(Instant::now());
        if is_enough || left.is_zero() || shared.is_stopping() { Ok(response) } else { Err(left) }
    };
    if let Ok(response) = look() {
        return Ok(response);
    }
    before_waiting()?;
    Ok(shared.arrivals.wait_for(look))
}

/// What there is now, and whether that is worth an answer: enough bytes, or an error.
fn look_once(
    shared: &Shared,
    reader: ConnectionId,
    reading: &mut Reading,
    version: i16,
    request: &FetchRequest,
    min_bytes: usize,
) -> (FetchResponse, bool) {
    let mut budget = usize::try_from(request.max_bytes).unwrap_or(0).min(RESPONSE_BYTES_MAX);
    let mut bytes = 0;
    let mut has_failed = false;
    let topics = request.topics.iter().map(|asked| {
        let (topic, unknown) = find(shared, version, asked);
        let partitions = asked.partitions.iter().map(|wanted| {
            let response = match &topic {
                Some(topic) => read(reader, reading, topic, wanted, budget, bytes == 0),
                None => FetchPartitionResponse::failed(wanted.index, unknown),
            };
            let read_bytes = response.records_bytes();
            bytes += read_bytes;
            budget = budget.saturating_sub(read_bytes);
            has_failed |= response.error != ErrorCode::None;
            response
        });
        FetchTopicResponse {
            name: asked.name.clone(),
            topic_id: asked.topic_id,
            partitions: partitions.collect(),
        }
    });
    let response = FetchResponse { topics: topics.collect(), ..FetchResponse::default() };
    (response, bytes >= min_bytes || has_failed)
}

/// The topic, or the error that says that there is none.
fn find(shared: &Shared, version: i16, asked: &FetchTopic) -> (Option<Arc<Topic>>, ErrorCode) {
    if version >= TOPIC_IDS_FROM {
        (shared.topics.with_id(asked.topic_id), ErrorCode::UnknownTopicId)
    } else {
        (shared.topics.find(&asked.name), ErrorCode::UnknownTopicOrPartition)
    }
}

fn read(
    reader: ConnectionId,
    reading: &mut Reading,
    topic: &Arc<Topic>,
    wanted: &FetchPartition,
    budget: usize,
    first_whole: bool,
) -> FetchPartitionResponse {
    let failed = |code| FetchPartitionResponse::failed(wanted.index, code);
    let Some(partition) = topic.partition(wanted.index) else {
        return failed(ErrorCode::UnknownTopicOrPartition);
    };
    let budget = usize::try_from(wanted.max_bytes).unwrap_or(0).min(budget);
    let found = partition.read(reader, wanted.fetch_offset, budget, first_whole);
    if found.is_new_reader {
        reading.0.insert((topic.id, wanted.index), Arc::clone(topic));
    }
    let Some(records) = found.batches else {
        return FetchPartitionResponse {
            high_watermark: found.next_offset,
            log_start_offset: found.start_offset,
            ..failed(ErrorCode::OffsetOutOfRange)
        };
    };
    FetchPartitionResponse {
        high_watermark: found.next_offset,
        last_stable_offset: found.next_offset,
        log_start_offset: found.start_offset,
        records,
        ..failed(ErrorCode::None)
    }
}
