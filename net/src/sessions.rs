//! Incremental fetch sessions (KIP-227): which partitions a client follows, and what it was told
//! of each, so that a poll names only what changed.
//!
//! Owned by one shard, for the connections of that shard: a client that reconnects elsewhere is
//! told `FETCH_SESSION_ID_NOT_FOUND` and begins anew, as after a restart of the node. Pure state:
//! the time and new ids come from the caller. Does no I/O and knows no log.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use corelog_protocol::error::ErrorCode;
use uuid::Uuid;

/// No session.
pub(crate) const NO_SESSION: i32 = 0;
/// The epoch of a request that opens a session.
const INITIAL_EPOCH: i32 = 0;
/// The epoch of a request that wants no session, and closes the one it names.
const FINAL_EPOCH: i32 = -1;

/// Milliseconds on some clock that never goes back.
pub(crate) type Millis = u64;

/// A topic as a fetch names it: by id since version 13.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TopicKey {
    /// By name.
    Name(Rc<str>),
    /// By id.
    Id(Uuid),
}

/// A partition as a fetch names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartitionKey {
    pub(crate) topic: TopicKey,
    pub(crate) partition: i32,
}

/// What a client wants of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) key: PartitionKey,
    pub(crate) fetch_offset: i64,
    pub(crate) max_bytes: i32,
    /// −1 when the client does not know.
    pub(crate) current_leader_epoch: i32,
}

/// What a client is about to be told of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) high_watermark: i64,
    pub(crate) log_start_offset: i64,
    pub(crate) has_records: bool,
    pub(crate) is_error: bool,
}

/// How a fetch is to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FetchContext {
    /// All partitions, and no session.
    Sessionless(Vec<Wanted>),
    /// All partitions, and a new session if there is room.
    Full(Vec<Wanted>),
    /// The partitions of a session, of which only what changed is told.
    Incremental {
        /// Which session.
        session_id: i32,
        /// The epoch that the session has after this request; it changes when another request
        /// comes before this one is answered.
        epoch: i32,
        /// All its partitions, those that gave records longest ago first.
        wanted: Vec<Wanted>,
    },
}

impl FetchContext {
    /// The partitions to read.
    pub(crate) fn wanted(&self) -> &[Wanted] {
        match self {
            Self::Sessionless(wanted) | Self::Full(wanted) | Self::Incremental { wanted, .. } => wanted,
        }
    }
}

/// What to write into the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The session's id, or [`NO_SESSION`].
    pub(crate) session_id: i32,
    /// For each partition of the context, whether it is in the answer.
    pub(crate) included: Vec<bool>,
}

#[derive(Debug)]
struct Cached {
    wanted: Wanted,
    /// −1 when the partition has to be told again.
    high_watermark: i64,
    log_start_offset: i64,
}

impl Cached {
    fn new(wanted: Wanted) -> Self {
        Self { wanted, high_watermark: -1, log_start_offset: -1 }
    }

    /// Remembers what is told; whether that is news.
    fn tell(&mut self, told: Told) -> bool {
        let news = told.is_error
            || told.has_records
            || told.high_watermark != self.high_watermark
            || told.log_start_offset != self.log_start_offset;
        // After an error the partition is told again as soon as the error is gone.
        self.high_watermark = if told.is_error { -1 } else { told.high_watermark };
        self.log_start_offset = told.log_start_offset;
        news
    }
}

#[derive(Debug)]
struct Session {
    /// The epoch that the next request must have.
    epoch: i32,
    uses_ids: bool,
    created: Millis,
    last_used: Millis,
    /// Partitions in the order in which they are read; the key counts up.
    by_turn: BTreeMap<u64, Cached>,
    turns: BTreeMap<PartitionKey, u64>,
    next_turn: u64,
}

impl Session {
    fn put(&mut self, wanted: Wanted) {
        if let Some(cached) = self.turns.get(&wanted.key).and_then(|turn| self.by_turn.get_mut(turn)) {
            cached.wanted = wanted;
            return;
        }
        self.append(Cached::new(wanted));
    }

    fn append(&mut self, cached: Cached) {
        self.turns.insert(cached.wanted.key.clone(), self.next_turn);
        self.by_turn.insert(self.next_turn, cached);
        self.next_turn += 1;
    }

    fn take(&mut self, key: &PartitionKey) -> Option<Cached> {
        let turn = self.turns.remove(key)?;
        self.by_turn.remove(&turn)
    }
}

/// Partitions in all sessions of one shard: each costs some 250 bytes.
const PARTITIONS_MAX: usize = 1 << 18;

/// The fetch sessions of one shard.
#[derive(Debug)]
pub(crate) struct Sessions {
    slots: usize,
    partitions_max: usize,
    /// In all sessions.
    partitions: usize,
    /// A session unused for this long may be evicted by anyone; a younger one by nobody.
    evict_after: Millis,
    by_id: BTreeMap<i32, Session>,
    by_last_use: BTreeMap<(Millis, i32), ()>,
    evictions: u64,
}

/// `min.incremental.fetch.session.eviction.ms`, as in Kafka.
pub(crate) const EVICT_AFTER: Duration = Duration::from_secs(120);

impl Sessions {
    /// No sessions; at most `slots` of them.
    pub(crate) fn new(slots: usize, evict_after: Duration) -> Self {
        Self {
            slots,
            partitions_max: PARTITIONS_MAX,
            partitions: 0,
            evict_after: u64::try_from(evict_after.as_millis()).unwrap_or(u64::MAX),
            by_id: BTreeMap::new(),
            by_last_use: BTreeMap::new(),
            evictions: 0,
        }
    }

    /// How many sessions there are.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// How many sessions had to go for others.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Takes in a request: what it wants, what it forgets. The answer is made by [`Self::finish`].
    pub(crate) fn begin(
        &mut self,
        session_id: i32,
        epoch: i32,
        uses_ids: bool,
        wanted: Vec<Wanted>,
        forgotten: &[PartitionKey],
        now: Millis,
    ) -> Result<FetchContext, ErrorCode> {
        if epoch == INITIAL_EPOCH || epoch == FINAL_EPOCH {
            if session_id != NO_SESSION {
                self.remove(session_id);
            }
            return Ok(match epoch {
                FINAL_EPOCH => FetchContext::Sessionless(wanted),
                _ => FetchContext::Full(wanted),
            });
        }
        let session = self.by_id.get_mut(&session_id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.uses_ids != uses_ids {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        let before = session.by_turn.len();
        for partition in wanted {
            session.put(partition);
        }
        for key in forgotten {
            session.take(key);
        }
        session.epoch = next_epoch(session.epoch);
        let has_grown = session.by_turn.len() > before;
        self.partitions = self.partitions - before + session.by_turn.len();
        if has_grown && self.partitions > self.partitions_max {
            // The client asks for everything anew, and gets no session if that is too much.
            self.remove(session_id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        let Some(session) = self.by_id.get(&session_id) else {
            return Err(ErrorCode::FetchSessionIdNotFound);
        };
        if session.by_turn.is_empty() {
            self.remove(session_id);
            return Ok(FetchContext::Sessionless(Vec::new()));
        }
        let context = FetchContext::Incremental {
            session_id,
            epoch: session.epoch,
            wanted: session.by_turn.values().map(|cached| cached.wanted.clone()).collect(),
        };
        self.touch(session_id, now);
        Ok(context)
    }

    /// Decides what a request is told, and remembers it. `told` has one element for each
    /// partition of the context.
    pub(crate) fn finish(
        &mut self,
        context: FetchContext,
        uses_ids: bool,
        told: &[Told],
        now: Millis,
        draw_id: impl FnMut() -> i32,
    ) -> Result<Answer, ErrorCode> {
        assert_eq!(context.wanted().len(), told.len(), "one outcome per partition");
        match context {
            FetchContext::Sessionless(_) => Ok(everything(NO_SESSION, told.len())),
            FetchContext::Full(wanted) => {
                let id = self.open(wanted, uses_ids, told, now, draw_id).unwrap_or(NO_SESSION);
                Ok(everything(id, told.len()))
            }
            FetchContext::Incremental { session_id, epoch, wanted } => {
                // Closed meanwhile by another connection, or evicted: the client begins anew.
                let session = self.by_id.get_mut(&session_id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
                if session.epoch != epoch {
                    return Err(ErrorCode::InvalidFetchSessionEpoch);
                }
                let mut included = Vec::with_capacity(told.len());
                for (partition, told) in wanted.iter().zip(told) {
                    included.push(tell(session, &partition.key, *told));
                }
                Ok(Answer { session_id, included })
            }
        }
    }

    fn open(
        &mut self,
        wanted: Vec<Wanted>,
        uses_ids: bool,
        told: &[Told],
        now: Millis,
        mut draw_id: impl FnMut() -> i32,
    ) -> Option<i32> {
        while self.by_id.len() >= self.slots || self.partitions + wanted.len() > self.partitions_max {
            if !self.evict(wanted.len(), now) {
                return None;
            }
        }
        let mut session = Session {
            epoch: next_epoch(INITIAL_EPOCH),
            uses_ids,
            created: now,
            last_used: now,
            by_turn: BTreeMap::new(),
            turns: BTreeMap::new(),
            next_turn: 0,
        };
        for (partition, told) in wanted.into_iter().zip(told) {
            let key = partition.key.clone();
            session.put(partition);
            tell(&mut session, &key, *told);
        }
        let id = loop {
            let id = draw_id();
            if id > NO_SESSION && !self.by_id.contains_key(&id) {
                break id;
            }
        };
        self.partitions += session.by_turn.len();
        self.by_id.insert(id, session);
        self.by_last_use.insert((now, id), ());
        Some(id)
    }

    /// Makes room for a session of `size` partitions: the one unused for longest goes when that
    /// is long enough ago, otherwise the smallest that has had its time and is smaller.
    fn evict(&mut self, size: usize, now: Millis) -> bool {
        let old = |since: Millis| since.saturating_add(self.evict_after) < now;
        let stale = self.by_last_use.keys().next().filter(|(used, _)| old(*used)).map(|(_, id)| *id);
        let smaller = || {
            let mature = self.by_id.iter().filter(|(_, session)| old(session.created));
            let (id, session) = mature.min_by_key(|(id, session)| (session.by_turn.len(), **id))?;
            (session.by_turn.len() < size).then_some(*id)
        };
        let Some(id) = stale.or_else(smaller) else { return false };
        self.remove(id);
        self.evictions += 1;
        true
    }

    fn remove(&mut self, id: i32) {
        if let Some(session) = self.by_id.remove(&id) {
            self.partitions -= session.by_turn.len();
            self.by_last_use.remove(&(session.last_used, id));
        }
    }

    fn touch(&mut self, id: i32, now: Millis) {
        let Some(session) = self.by_id.get_mut(&id) else { return };
        self.by_last_use.remove(&(session.last_used, id));
        session.last_used = now;
        self.by_last_use.insert((now, id), ());
    }
}

/// Remembers what is told of a partition, and puts it at the end of the turns if it gave records,
/// so that the others come first next time.
fn tell(session: &mut Session, key: &PartitionKey, told: Told) -> bool {
    let Some(cached) = session.turns.get(key).and_then(|turn| session.by_turn.get_mut(turn)) else {
        return false;
    };
    let news = cached.tell(told);
    if told.has_records
        && let Some(cached) = session.take(key)
    {
        session.append(cached);
    }
    news
}

fn everything(session_id: i32, partitions: usize) -> Answer {
    Answer { session_id, included: vec![true; partitions] }
}

/// The epoch after this one; it wraps to 1, since 0 opens sessions.
fn next_epoch(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key(partition: i32) -> PartitionKey {
        PartitionKey { topic: TopicKey::Name("topic".into()), partition }
    }

    fn want(partition: i32, fetch_offset: i64) -> Wanted {
        Wanted { key: key(partition), fetch_offset, max_bytes: 100, current_leader_epoch: -1 }
    }

    fn quiet(high_watermark: i64) -> Told {
        Told { high_watermark, log_start_offset: 0, has_records: false, is_error: false }
    }

    fn ids() -> impl FnMut() -> i32 {
        let next = Cell::new(0);
        move || {
            next.set(next.get() + 1);
            next.get()
        }
    }

    fn open(sessions: &mut Sessions, partitions: &[i32], now: Millis, id: i32) -> i32 {
        let wanted = partitions.iter().map(|p| want(*p, 0)).collect::<Vec<_>>();
        let told = vec![quiet(0); wanted.len()];
        let context = sessions.begin(NO_SESSION, INITIAL_EPOCH, false, wanted, &[], now).unwrap();
        sessions.finish(context, false, &told, now, || id).unwrap().session_id
    }

    fn wanted_partitions(context: &FetchContext) -> Vec<i32> {
        context.wanted().iter().map(|w| w.key.partition).collect()
    }

    #[test]
    fn an_incremental_fetch_tells_only_what_changed() {
        let mut sessions = Sessions::new(10, EVICT_AFTER);
        let id = open(&mut sessions, &[0, 1, 2], 0, 7);
        assert_eq!(id, 7);
        let context = sessions.begin(id, 1, false, vec![], &[], 1).unwrap();
        assert_eq!(wanted_partitions(&context), [0, 1, 2]);
        let told = [quiet(0), Told { has_records: true, ..quiet(5) }, quiet(1)];
        let answer = sessions.finish(context, false, &told, 1, ids()).unwrap();
        assert_eq!(answer, Answer { session_id: 7, included: vec![false, true, true] });
    }

    #[test]
    fn partitions_that_gave_records_come_last_next_time() {
        let mut sessions = Sessions::new(10, EVICT_AFTER);
        let id = open(&mut sessions, &[0, 1, 2], 0, 7);
        let context = sessions.begin(id, 1, false, vec![], &[], 1).unwrap();
        let told = [Told { has_records: true, ..quiet(1) }, quiet(0), quiet(0)];
        sessions.finish(context, false, &told, 1, ids()).unwrap();
        let context = sessions.begin(id, 2, false, vec![want(0, 1)], &[], 2).unwrap();
        assert_eq!(wanted_partitions(&context), [1, 2, 0]);
        assert_eq!(context.wanted()[2].fetch_offset, 1);
    }

    #[test]
    fn a_partition_is_told_again_when_its_error_is_gone() {
        let mut sessions = Sessions::new(10, EVICT_AFTER);
        let id = open(&mut sessions, &[0], 0, 7);
        for (epoch, told, included) in [
            (1, Told { is_error: true, ..quiet(0) }, true),
            (2, Told { is_error: true, ..quiet(0) }, true),
            (3, quiet(0), true),
            (4, quiet(0), false),
        ] {
            let context = sessions.begin(id, epoch, false, vec![], &[], 1).unwrap();
            let answer = sessions.finish(context, false, &[told], 1, ids()).unwrap();
            assert_eq!(answer.included, [included], "epoch {epoch}");
        }
    }

    #[test]
    fn wrong_ids_and_epochs_are_refused() {
        let mut sessions = Sessions::new(10, EVICT_AFTER);
        let id = open(&mut sessions, &[0], 0, 7);
        let mut begin = |id, epoch, ids| sessions.begin(id, epoch, ids, vec![], &[], 1).unwrap_err();
        assert_eq!(begin(8, 1, false), ErrorCode::FetchSessionIdNotFound);
        assert_eq!(begin(NO_SESSION, 1, false), ErrorCode::FetchSessionIdNotFound);
        assert_eq!(begin(id, 2, false), ErrorCode::InvalidFetchSessionEpoch);
        assert_eq!(begin(id, 1, true), ErrorCode::FetchSessionTopicIdError);
    }

    #[test]
    fn the_final_epoch_closes_the_session() {
        let mut sessions = Sessions::new(10, EVICT_AFTER);
        let id = open(&mut sessions, &[0], 0, 7);
        let context = sessions.begin(id, FINAL_EPOCH, false, vec![want(0, 0)], &[], 1).unwrap();
        assert_eq!(context, FetchContext::Sessionless(vec![want(0, 0)]));
        assert_eq!(sessions.len(), 0);
    }

    #[test]
    fn forgetting_the_last_partition_closes_the_session() {
        let mut sessions = Sessions::new(10, EVICT_AFTER);
        let id = open(&mut sessions, &[0, 1], 0, 7);
        let context = sessions.begin(id, 1, false, vec![], &[key(0)], 1).unwrap();
        assert_eq!(wanted_partitions(&context), [1]);
        let context = sessions.begin(id, 2, false, vec![], &[key(1)], 1).unwrap();
        assert_eq!(context, FetchContext::Sessionless(vec![]));
        assert_eq!(sessions.len(), 0);
    }

    #[test]
    fn epochs_wrap_to_one() {
        assert_eq!(next_epoch(i32::MAX), 1);
        assert_eq!(next_epoch(INITIAL_EPOCH), 1);
    }

    #[test]
    fn a_full_cache_evicts_what_is_stale_or_smaller_and_otherwise_opens_no_session() {
        let mut sessions = Sessions::new(2, Duration::from_millis(100));
        assert_eq!(open(&mut sessions, &[0, 1, 2], 0, 1), 1);
        assert_eq!(open(&mut sessions, &[0], 0, 2), 2);
        // Both are young.
        assert_eq!(open(&mut sessions, &[0, 1], 50, 3), NO_SESSION);
        // Both in use but mature: the smaller one goes, for a larger one only.
        for id in [1, 2] {
            sessions.begin(id, 1, false, vec![], &[], 150).unwrap();
        }
        assert_eq!(open(&mut sessions, &[0], 160, 4), NO_SESSION);
        assert_eq!(open(&mut sessions, &[0, 1], 160, 5), 5);
        assert_eq!(sessions.by_id.keys().copied().collect::<Vec<_>>(), [1, 5]);
        // Nobody used 1 since 150.
        assert_eq!(open(&mut sessions, &[0], 255, 6), 6);
        assert_eq!(sessions.by_id.keys().copied().collect::<Vec<_>>(), [5, 6]);
        assert_eq!(sessions.evictions(), 2);
    }

    #[test]
    fn sessions_have_a_number_of_partitions_in_all() {
        let mut sessions = Sessions::new(10, Duration::from_millis(100));
        sessions.partitions_max = 5;
        assert_eq!(open(&mut sessions, &[0, 1, 2], 0, 1), 1);
        assert_eq!(open(&mut sessions, &[0, 1, 2], 1, 2), NO_SESSION);
        assert_eq!(open(&mut sessions, &[0, 1], 1, 3), 3);
        // What a session has already may change.
        let context = sessions.begin(1, 1, false, vec![want(0, 9), want(1, 9)], &[], 2).unwrap();
        assert_eq!(context.wanted().len(), 3);
        // One that would grow beyond the limit is gone, and the others are not.
        let grown = sessions.begin(3, 1, false, vec![want(7, 0)], &[], 3);
        assert_eq!(grown, Err(ErrorCode::FetchSessionIdNotFound));
        assert_eq!((sessions.len(), sessions.partitions), (1, 3));
        // A session that nobody uses makes room.
        assert_eq!(open(&mut sessions, &[0, 1, 2, 3], 300, 4), 4);
        assert_eq!((sessions.len(), sessions.partitions, sessions.evictions()), (1, 4, 1));
        sessions.remove(4);
        assert_eq!(sessions.partitions, 0);
    }

    #[test]
    fn an_answer_overtaken_by_another_request_is_an_error() {
        let mut sessions = Sessions::new(10, EVICT_AFTER);
        let id = open(&mut sessions, &[0], 0, 7);
        let first = sessions.begin(id, 1, false, vec![], &[], 1).unwrap();
        let second = sessions.begin(id, 2, false, vec![], &[], 1).unwrap();
        let refused = sessions.finish(first, false, &[quiet(0)], 1, ids());
        assert_eq!(refused, Err(ErrorCode::InvalidFetchSessionEpoch));
        assert!(sessions.finish(second, false, &[quiet(0)], 1, ids()).is_ok());
    }

    #[derive(Debug, Clone)]
    struct Step {
        put: Vec<(i32, i64)>,
        forget: Vec<i32>,
        told: Vec<(i64, bool, bool)>,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let put = proptest::collection::vec((0..6i32, 0..9i64), 0..4);
        let forget = proptest::collection::vec(0..6i32, 0..3);
        let told = proptest::collection::vec((0..3i64, any::<bool>(), proptest::bool::weighted(0.2)), 6);
        let step = (put, forget, told).prop_map(|(put, forget, told)| Step { put, forget, told });
        proptest::collection::vec(step, 1..30)
    }

    proptest! {
        /// A client that applies what it is told always knows what a full fetch would say.
        #[test]
        fn a_client_that_merges_answers_knows_what_a_full_fetch_says(steps in steps()) {
            let mut sessions = Sessions::new(1, EVICT_AFTER);
            let mut session = (NO_SESSION, INITIAL_EPOCH);
            // The model: what the client wants, and what it was told last.
            let mut wanted = BTreeMap::new();
            let mut known: BTreeMap<i32, (i64, bool)> = BTreeMap::new();
            for (now, step) in (1u64..).zip(&steps) {
                let full = session.1 == INITIAL_EPOCH;
                for (partition, offset) in &step.put {
                    wanted.insert(*partition, *offset);
                }
                let forget: Vec<_> = if full { vec![] } else { step.forget.iter().map(|p| key(*p)).collect() };
                for key in &forget {
                    wanted.remove(&key.partition);
                    known.remove(&key.partition);
                }
                let sent = if full {
                    wanted.iter().map(|(p, o)| want(*p, *o)).collect()
                } else {
                    step.put.iter().map(|(p, o)| want(*p, *o)).collect()
                };
                let context = sessions.begin(session.0, session.1, false, sent, &forget, now).unwrap();
                let mut expected: Vec<_> = wanted.iter().map(|(p, o)| want(*p, *o)).collect();
                let mut given = context.wanted().to_vec();
                expected.sort_by_key(|w| w.key.partition);
                given.sort_by_key(|w| w.key.partition);
                prop_assert_eq!(&given, &expected);

                let order = wanted_partitions(&context);
                let told: Vec<_> = order.iter().map(|p| {
                    let (high_watermark, has_records, is_error) = step.told[usize::try_from(*p).unwrap()];
                    Told { high_watermark, log_start_offset: 0, has_records: has_records && !is_error, is_error }
                }).collect();
                let answer = sessions.finish(context, false, &told, now, ids()).unwrap();
                for ((partition, told), included) in order.iter().zip(&told).zip(&answer.included) {
                    if *included {
                        known.insert(*partition, (told.high_watermark, told.is_error));
                    }
                    prop_assert!(*included || !told.has_records);
                    prop_assert_eq!(known[partition], (told.high_watermark, told.is_error));
                }
                session = match answer.session_id {
                    NO_SESSION => (NO_SESSION, INITIAL_EPOCH),
                    id if full => (id, 1),
                    id => (id, next_epoch(session.1)),
                };
                prop_assert_eq!(sessions.by_id.len(), sessions.by_last_use.len());
            }
        }
    }
}
