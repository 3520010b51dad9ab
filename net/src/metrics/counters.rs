//! What the network side of one shard counts. Written by the shard, read by whoever is scraped.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use corelog_engine::metric::{Counter, Histogram, Snapshot};
use corelog_protocol::api::Api;
use corelog_protocol::error::ErrorCode;
use corelog_runtime::time::Instant;

use super::ErrorCodes;

/// APIs that are served.
const APIS: usize = 36;

/// One shard's counters. Shards do not share a cache line.
#[repr(align(128))]
pub(crate) struct ShardCounters {
    pub(super) connections_accepted: Counter,
    pub(super) connections_refused: Counter,
    pub(super) received_bytes: Counter,
    pub(super) sent_bytes: Counter,
    pub(super) requests_refused: Counter,
    pub(super) requests_malformed: Counter,
    fetch_sessions: AtomicU64,
    fetch_session_evictions: AtomicU64,
    pub(super) queue: Histogram,
    pub(super) reply: Histogram,
    /// In the order of [`Api::all`].
    apis: [ApiCounters; APIS],
}

/// Requests of one API.
pub(super) struct ApiCounters {
    pub(super) requests: Counter,
    pub(super) duration: Histogram,
    /// In the order of [`ErrorCode::ALL`].
    errors: [Counter; ErrorCode::ALL.len()],
}

impl ApiCounters {
    /// Errors that there were, and how many.
    pub(super) fn errors(&self) -> impl Iterator<Item = (ErrorCode, u64)> {
        let all = ErrorCode::ALL.iter().zip(&self.errors);
        all.map(|(code, count)| (*code, count.get())).filter(|(_, count)| *count > 0)
    }
}

/// A request whose answer is ready.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered {
    /// `None` when it was not a served API's.
    pub(crate) api: Option<Api>,
    /// When its last byte had been read.
    pub(crate) received: Instant,
    pub(crate) ready: Instant,
}

impl Default for ShardCounters {
    fn default() -> Self {
        let api = |_| ApiCounters {
            requests: Counter::default(),
            duration: Histogram::of_durations(),
            errors: std::array::from_fn(|_| Counter::default()),
        };
        Self {
            connections_accepted: Counter::default(),
            connections_refused: Counter::default(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            requests_refused: Counter::default(),
            requests_malformed: Counter::default(),
            fetch_sessions: AtomicU64::default(),
            fetch_session_evictions: AtomicU64::default(),
            queue: Histogram::of_durations(),
            reply: Histogram::of_durations(),
            apis: std::array::from_fn(api),
        }
    }
}

impl ShardCounters {
    pub(crate) fn connected(&self) {
        self.connections_accepted.add(1);
    }

    pub(crate) fn connection_refused(&self) {
        self.connections_refused.add(1);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received_bytes.add_len(bytes);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.sent_bytes.add_len(bytes);
    }

    /// A request for what is not served.
    pub(crate) fn refused(&self) {
        self.requests_refused.add(1);
    }

    /// A request that nobody can read.
    pub(crate) fn malformed(&self) {
        self.requests_malformed.add(1);
    }

    /// So many sessions there are, and so many had to go for others.
    pub(crate) fn fetch_sessions(&self, sessions: usize, evictions: u64) {
        self.fetch_sessions.store(sessions as u64, Relaxed);
        self.fetch_session_evictions.store(evictions, Relaxed);
    }

    pub(super) fn open_fetch_sessions(&self) -> u64 {
        self.fetch_sessions.load(Relaxed)
    }

    pub(super) fn fetch_session_evictions(&self) -> u64 {
        self.fetch_session_evictions.load(Relaxed)
    }

    /// Every API and its place among the counters.
    pub(crate) fn apis() -> impl Iterator<Item = (usize, Api)> {
        Api::all().enumerate()
    }

    /// The counters of the API at that place.
    pub(super) fn api(&self, index: usize) -> &ApiCounters {
        &self.apis[index]
    }

    /// Requests of the API at that place.
    pub(crate) fn requests_of(&self, index: usize) -> u64 {
        self.apis[index].requests.get()
    }

    /// Errors that the API at that place was answered with, and how many.
    pub(crate) fn errors_of(&self, index: usize) -> impl Iterator<Item = (ErrorCode, u64)> {
        self.apis[index].errors()
    }

    /// How long requests of the API at that place took.
    pub(crate) fn durations_of(&self, index: usize) -> Snapshot {
        self.apis[index].duration.snapshot()
    }

    /// How long requests waited for somebody to look at them.
    pub(crate) fn queue_times(&self) -> Snapshot {
        self.queue.snapshot()
    }

    /// How long answers waited to be written.
    pub(crate) fn reply_times(&self) -> Snapshot {
        self.reply.snapshot()
    }

    /// Bytes read from clients.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received_bytes.get()
    }

    /// Bytes written to clients.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.get()
    }

    fn of(&self, api: Api) -> &ApiCounters {
        let index = Api::all().position(|known| known == api).expect("the table has every API");
        &self.apis[index]
    }

    /// A request was read.
    pub(crate) fn requested(&self, api: Option<Api>) {
        if let Some(api) = api {
            self.of(api).requests.add(1);
        }
    }

    /// A request that was received then is looked at now.
    pub(crate) fn begun(&self, received: Instant, now: Instant) {
        self.queue.record_time(received, now);
    }

    /// Counts the errors in an answer.
    pub(crate) fn errors(&self, api: Api, response: &impl ErrorCodes) {
        response.each_code(&mut |code| {
            if code != 0 {
                let code = ErrorCode::from_code(code).code();
                // The codes are numbered from −1 without gaps.
                let index = usize::try_from(code + 1).expect("no code is below −1");
                self.of(api).errors[index].add(1);
            }
        });
    }

    /// A request is done with that has no answer.
    pub(crate) fn done(&self, answered: &Answered) {
        if let Some(api) = answered.api {
            self.of(api).duration.record_time(answered.received, answered.ready);
        }
    }

    /// Answers were written to the client.
    pub(crate) fn written(&self, answered: &[Answered], now: Instant) {
        for Answered { api, received, ready } in answered {
            self.reply.record_time(*ready, now);
            if let Some(api) = api {
                self.of(*api).duration.record_time(*received, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use corelog_protocol::produce::{ProducePartitionResponse, ProduceResponse, ProduceTopicResponse};

    use super::*;

    #[test]
    fn every_served_api_has_its_counters() {
        assert_eq!(Api::all().len(), APIS);
    }

    #[test]
    fn every_error_code_has_its_counter() {
        let (counters, none) = (ShardCounters::default(), ErrorCode::None);
        for code in ErrorCode::ALL {
            let partitions = vec![
                ProducePartitionResponse::failed(0, *code),
                ProducePartitionResponse::failed(1, none),
                ProducePartitionResponse::failed(2, *code),
            ];
            let topics = vec![ProduceTopicResponse { name: "t".to_owned(), partitions }];
            counters.errors(Api::Produce, &ProduceResponse { topics, ..ProduceResponse::default() });
        }
        let counted: Vec<_> = counters.of(Api::Produce).errors().collect();
        let errors = ErrorCode::ALL.iter().filter(|code| **code != none);
        assert_eq!(counted, errors.map(|code| (*code, 2)).collect::<Vec<_>>());
        assert_eq!(counters.of(Api::Fetch).errors().count(), 0);
    }

    #[test]
    fn a_request_without_an_answer_has_a_duration_and_no_reply() {
        let counters = ShardCounters::default();
        let received = Instant::now();
        let ready = received + Duration::from_micros(30);
        let answered = Answered { api: Some(Api::Produce), received, ready };
        counters.done(&answered);
        counters.written(&[answered], ready + Duration::from_micros(5));
        let duration = counters.of(Api::Produce).duration.snapshot();
        assert_eq!((duration.count(), duration.sum), (2, 65_000));
        let reply = counters.reply.snapshot();
        assert_eq!((reply.count(), reply.sum), (1, 5_000));
    }
}
