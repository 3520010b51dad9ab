//! What a journal measures of itself: its commits, and what they wait for. Two clock readings per
//! write and two per sync, none per entry.

use corelog_runtime::time::Instant;

use super::format::CommitHeader;
use super::{Journal, JournalFull};
use crate::metric::{Histogram, Scale, Snapshot};

/// Written by the driver.
pub(super) struct Meter {
    commit_entries: Histogram,
    commit_bytes: Histogram,
    write: Histogram,
    sync: Histogram,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            commit_entries: Histogram::new(Scale::Counts),
            commit_bytes: Histogram::new(Scale::Sizes),
            write: Histogram::of_durations(),
            sync: Histogram::of_durations(),
        }
    }

    /// The write of a commit completed; `durable` if that was its sync, too.
    pub(super) fn written(&self, header: &CommitHeader, submitted: Instant, durable: bool) {
        self.commit_entries.record(u64::from(header.entries));
        self.commit_bytes.record(header.total_bytes());
        let stage = if durable { &self.sync } else { &self.write };
        stage.record_since(submitted);
    }

    /// A sync completed.
    pub(super) fn synced(&self, issued: Instant) {
        self.sync.record_since(issued);
    }
}

/// A journal's numbers at one moment; what is counted is counted since it was opened.
#[derive(Debug, Clone, Default)]
pub struct JournalStats {
    /// Entries appended.
    pub entries: u64,
    /// Entries of each commit that was written; none in a commit that only records a release.
    pub commit_entries: Snapshot,
    /// Bytes of each commit's write, header and padding included.
    pub commit_bytes: Snapshot,
    /// From a write's submission to its completion, where its sync is another request.
    pub write: Snapshot,
    /// From the submission of a sync, or of a write that is synced in the same request, to its
    /// completion.
    pub sync: Snapshot,
    /// Files whose entries are needed, with the one being written to.
    pub files_in_use: usize,
    /// Files ready to be written to.
    pub files_free: usize,
    /// At so many files in use produces are held back.
    pub files_max: usize,
    /// Appended and not yet written, bytes.
    pub queued_bytes: usize,
    /// Why produces are refused or held back, if so.
    pub full: Option<JournalFull>,
}

impl Journal {
    /// The numbers as of now.
    pub fn stats(&self) -> JournalStats {
        let (state, meter) = (self.inner.state.borrow(), &self.inner.meter);
        JournalStats {
            entries: state.appended(),
            commit_entries: meter.commit_entries.snapshot(),
            commit_bytes: meter.commit_bytes.snapshot(),
            write: meter.write.snapshot(),
            sync: meter.sync.snapshot(),
            files_in_use: state.live.len(),
            files_free: state.ready_files(),
            files_max: self.inner.options.max_files,
            queued_bytes: state.queued_bytes(),
            full: state.full(),
        }
    }
}
