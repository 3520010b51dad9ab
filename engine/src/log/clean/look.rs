//! What compaction has to know of a log: its closed segments, how new their records are, how dirty
//! it is. Looks up what is not known yet, once for each segment. Decides nothing.

use super::choose::{CleanRules, Dirt, Log, Segment};
use crate::log::error::LogError;
use crate::log::header::HEADER_BYTES;
use crate::log::index::{Entry, MaxTimestamp};
use crate::log::read::{Gait, Reader};
use crate::log::retain::Unknown;
use crate::log::segments::{Inner, State};
use crate::types::Offset;

/// What the partition knows of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Below it, no record has a newer one of its key below it.
    pub cleaned_to: Offset,
    /// The last stable offset.
    pub last_stable: Offset,
    /// One past the last record.
    pub log_end: Offset,
}

/// A log as compaction sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleanable {
    /// Its closed segments.
    pub closed: Vec<Segment>,
    /// What of them is dirty.
    pub dirt: Dirt,
    /// Counts truncations: what is read of a log that was truncated since does not count.
    pub truncations: u64,
}

impl Inner {
    /// How dirty the log is; or what has to be looked up before that can be said. `wants_newest`:
    /// whether the times of segments matter beyond that.
    pub(in crate::log) fn cleanable(
        &self,
        known: &Known,
        rules: &CleanRules,
        wants_newest: bool,
        now_ms: i64,
    ) -> Result<Cleanable, Unknown> {
        let state = self.state.borrow();
        let active = state.position.segment_base;
        let first_dirty = match known.cleaned_to > known.log_end {
            true => state.log_start,
            false => known.cleaned_to.max(state.log_start),
        };
        // Most logs are clean, and then nobody has to look at their files.
        let closed = if first_dirty >= active {
            Vec::new()
        } else {
            segments(&state, first_dirty, rules, wants_newest)?
        };
        let log = Log {
            closed: &closed,
            cleaned_to: known.cleaned_to,
            log_start: state.log_start,
            last_stable: known.last_stable,
            log_end: known.log_end,
        };
        let dirt = Dirt::of(&log, rules, now_ms);
        Ok(Cleanable { dirt, closed, truncations: state.truncations })
    }

    /// Looks up the largest timestamp of a closed segment's first batch.
    pub(in crate::log) async fn learn_first(&self, base: Offset) -> Result<(), LogError> {
        let first_ms = match self.read_first(base).await {
            Ok(first_ms) => first_ms,
            Err(error) if error.is_stale() => return Ok(()),
            // Whoever cleans it meets that again, and says so.
            Err(LogError::Corrupt(_)) => -1,
            Err(error) => return Err(error),
        };
        let mut state = self.state.borrow_mut();
        if let Some(closed) = state.closed.as_mut().and_then(|closed| closed.get_mut(&base)) {
            closed.first_ms = Some(first_ms);
        }
        Ok(())
    }

    async fn read_first(&self, base: Offset) -> Result<i64, LogError> {
        let segment = self.open(base).await?;
        let bounds = self.bounds_of(&segment).ok_or_else(|| self.gone(base))?;
        let first = Entry { offset: base, position_bytes: HEADER_BYTES, max_before: MaxTimestamp::NONE };
        let mut reader = Reader::with_gait(segment, first, Gait::LOOK);
        let header = reader.peek(bounds).await?;
        Ok(header.map_or(-1, |header| header.max_timestamp))
    }
}

fn segments(
    state: &State,
    first_dirty: Offset,
    rules: &CleanRules,
    wants_newest: bool,
) -> Result<Vec<Segment>, Unknown> {
    let active = state.position.segment_base;
    let Some(closed) = &state.closed else {
        return Err(Unknown::Segments);
    };
    let wants_newest = wants_newest || rules.lag_min_ms > 0;
    let wants_first = rules.lag_max_ms < i64::MAX;
    let ends = closed.keys().skip(1).chain([&active]);
    let segment = |((base, closed), end): ((&Offset, &crate::log::segments::Closed), &Offset)| {
        let is_dead = *end <= state.log_start;
        let is_dirty = *end > first_dirty;
        if wants_newest && !is_dead && closed.newest_ms.is_none() {
            return Err(Unknown::Closed(*base));
        }
        if wants_first && is_dirty && closed.first_ms.is_none() {
            return Err(Unknown::First(*base));
        }
        Ok(Segment {
            base: *base,
            end: *end,
            bytes: closed.file_bytes,
            newest_ms: closed.newest_ms.unwrap_or(i64::MIN),
            first_ms: closed.first_ms,
        })
    };
    closed.iter().zip(ends).map(segment).collect()
}
