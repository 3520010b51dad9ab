//! What retention has to know of a log: which segments there are and how new their records are.
//! Looks that up where it is not known yet, once for each segment. Decides nothing.

use corelog_runtime::time;

use super::error::LogError;
use super::header::HEADER_BYTES;
use super::load;
use super::retain::{Newest, Policy, Segment, Unit, Unknown, Verdict, roll_after_ms};
use super::segments::{Inner, State};
use crate::types::Offset;

/// The acknowledged records that are not in segments yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unflushed {
    /// One past the last of them, or the position's `next` when there is none.
    pub end: Offset,
    /// Their size.
    pub bytes: u64,
    /// Their largest timestamp, −1 when there is none.
    pub newest_ms: i64,
    /// When the first record came that is in no closed segment.
    pub since_ms: i64,
}

impl Inner {
    /// Holds the log against a policy. Its age is that of the active segment.
    pub(super) fn judge(&self, policy: &Policy, unflushed: &Unflushed, now_ms: i64) -> Verdict {
        let state = self.state.borrow();
        let base = state.position.segment_base;
        let is_looked_for = policy.retention_ms.is_some() || policy.retention_bytes.is_some();
        let unit = unit(&state, unflushed);
        let roll_ms = policy.roll_ms.map(|_| {
            let options = &state.options;
            roll_after_ms(self.target, base, options.segment_ms, options.segment_jitter_ms)
        });
        let policy = Policy { roll_ms, ..*policy };
        let Some(closed) = &state.closed else {
            // Nothing was ever closed before the first segment.
            if base == Offset(0) {
                return policy.judge([], &unit, unit.bytes, state.log_start, now_ms);
            }
            let is_unknown = is_looked_for || state.log_start > Offset(0);
            return Verdict { unknown: is_unknown.then_some(Unknown::Segments), ..Verdict::default() };
        };
        let ends = closed.keys().skip(1).chain([&base]);
        let segments = closed.iter().zip(ends).map(|((base, closed), end)| Segment {
            base: *base,
            end: *end,
            bytes: closed.file_bytes,
            newest_ms: closed.newest_ms,
        });
        let size_bytes = match policy.retention_bytes {
            Some(_) => unit.bytes + closed.values().map(|closed| closed.file_bytes).sum::<u64>(),
            None => 0,
        };
        policy.judge(segments, &unit, size_bytes, state.log_start, now_ms)
    }

    /// Looks up what a verdict wanted to know.
    pub(super) async fn learn(&self, unknown: Unknown) -> Result<(), LogError> {
        self.ensure_listed().await?;
        match unknown {
            Unknown::Segments => Ok(()),
            Unknown::Closed(base) => self.learn_closed(base).await,
            Unknown::Active => self.learn_active().await,
            Unknown::First(base) => self.learn_first(base).await,
        }
    }

    async fn learn_closed(&self, base: Offset) -> Result<(), LogError> {
        let asked = async {
            let segment = self.open(base).await?;
            self.with_index(&segment, |loaded| loaded.index.covered().max_before.timestamp_ms).await
        };
        let known_ms = match asked.await {
            Ok(known_ms) => known_ms,
            Err(error) if error.is_stale() => return Ok(()),
            Err(error) => {
                // What cannot be read must not stay for ever.
                tracing::debug!(partition = %self.target, base = base.0, %error, "a segment's age is estimated");
                -1
            }
        };
        let is_known = |state: &State| {
            state.closed.iter().flatten().any(|(at, closed)| *at == base && closed.newest_ms.is_some())
        };
        if is_known(&self.state.borrow()) {
            return Ok(());
        }
        let closed_ms = self.created_behind(base).await?;
        let mut state = self.state.borrow_mut();
        if let Some(closed) = state.closed.as_mut().and_then(|closed| closed.get_mut(&base)) {
            closed.newest_ms = Some(known_ms.max(closed_ms));
        }
        Ok(())
    }

    /// When the segment behind the one at `base` was made: nothing in that one is newer. Where none
    /// was made yet, nothing is newer than now.
    async fn created_behind(&self, base: Offset) -> Result<i64, LogError> {
        let next = self.bounds(base).map(|bounds| bounds.end);
        let position = self.position();
        let has_file =
            |next: &Offset| *next < position.segment_base || position.position_bytes > HEADER_BYTES;
        match next.filter(has_file) {
            Some(next) => match self.open(next).await {
                Ok(segment) => Ok(segment.header.created_ms),
                Err(error) if error.is_stale() => Ok(time::unix_time_ms()),
                Err(error) => Err(error),
            },
            None => Ok(time::unix_time_ms()),
        }
    }

    /// The index itself is not kept: of a log that is not written to nobody else may want it.
    async fn learn_active(&self) -> Result<(), LogError> {
        let at = {
            let state = self.state.borrow();
            if state.active.is_some() || state.position.position_bytes == HEADER_BYTES {
                return Ok(());
            }
            state.position
        };
        let segment = self.open(at.segment_base).await?;
        let Some(bounds) = self.bounds(at.segment_base) else { return Ok(()) };
        let interval_bytes = self.state.borrow().interval_bytes();
        let path = self.index_path(at.segment_base);
        let loaded = load::load(&segment, &path, interval_bytes, bounds).await?;
        let mut state = self.state.borrow_mut();
        if state.position == at && loaded.broken.is_none() {
            state.active_newest = Some((at, loaded.index.covered().max_before.timestamp_ms));
            state.active_created_ms = Some(segment.header.created_ms);
        }
        Ok(())
    }
}

/// The active segment and the records behind it.
fn unit(state: &State, unflushed: &Unflushed) -> Unit {
    let at = state.position;
    let has_data = at.position_bytes > HEADER_BYTES;
    let in_active = match (&state.active, state.active_newest) {
        _ if !has_data => Some(-1),
        (Some(active), _) if active.broken.is_none() => Some(active.index.covered().max_before.timestamp_ms),
        (None, Some((looked_at, newest_ms))) if looked_at == at => Some(newest_ms),
        _ => None,
    };
    let newest = match in_active {
        Some(newest_ms) => Newest::Exactly(newest_ms.max(unflushed.newest_ms)),
        None => Newest::AtLeast(unflushed.newest_ms),
    };
    let created_ms = state.active_created_ms.filter(|_| has_data).unwrap_or(i64::MAX);
    Unit {
        base: at.segment_base,
        end: unflushed.end.max(at.next),
        bytes: unflushed.bytes + if has_data { at.position_bytes } else { 0 },
        segment_bytes: state.options.segment_bytes,
        newest,
        since_ms: unflushed.since_ms.min(created_ms),
    }
}
