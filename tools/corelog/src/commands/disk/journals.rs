//! Checking one journal: which commits count, whether any is missing, what they add up to.
//!
//! The rules are those of the engine's replay (see `docs/FORMAT.md`): commits form a chain by
//! sequence number and predecessor; a hole at the end of the newest run is a torn write, unless a
//! later commit of that run proves that more had been synced.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::Bytes;
use corelog_engine::journal::Entry;
use corelog_engine::journal::dump::{Detail, Item, read_dir};
use corelog_engine::journal::format::{CommitHeader, FormatError, RunEnd};
use corelog_engine::planted::PlantedBug;
use corelog_engine::recovery::{Recovered, Replay};
use corelog_engine::types::Lsn;
use corelog_runtime::time;

/// What was found in one journal.
#[derive(Debug, Default)]
pub(super) struct JournalReport {
    pub(super) files: usize,
    pub(super) commits: usize,
    pub(super) entries: u64,
    pub(super) next_lsn: u64,
    /// The journal was closed in order: nothing was under way.
    pub(super) closed: bool,
    /// Not damage, but worth telling.
    pub(super) notes: Vec<String>,
    pub(super) problems: Vec<String>,
    pub(super) recovered: Recovered,
}

struct Seen {
    header: CommitHeader,
    file: usize,
    body: Result<(), FormatError>,
}

impl Seen {
    fn end_lsn(&self) -> Lsn {
        Lsn(self.header.first_lsn.0 + u64::from(self.header.entries))
    }

    fn follows(&self, before: &Seen) -> bool {
        before.header.sequence.checked_add(1) == Some(self.header.sequence)
            && before.header.crc == self.header.predecessor
    }
}

/// Everything that the first reading leaves.
#[derive(Default)]
struct Survey {
    files: Vec<PathBuf>,
    /// Files whose header cannot be read.
    bad_headers: Vec<(usize, FormatError)>,
    commits: Vec<Seen>,
    /// Where runs ended, as their successors say.
    ends: BTreeMap<u64, RunEnd>,
    live_generation: u64,
    after_corruption: bool,
}

impl Survey {
    fn take(&mut self, item: Item<'_>) {
        match item {
            Item::File { path, header, .. } => {
                self.files.push(path.to_owned());
                match header {
                    Ok(header) => {
                        self.live_generation = self.live_generation.max(header.live_generation);
                        self.after_corruption |= header.run.after_corruption;
                        if let Some(end) = header.run.previous {
                            self.ends.insert(end.run, end);
                        }
                    }
                    Err(FormatError::Blank) => {}
                    Err(error) => self.bad_headers.push((self.files.len() - 1, error)),
                }
            }
            Item::Commit { header, stale: false, body, .. } => {
                let file = self.files.len() - 1;
                self.commits.push(Seen { header, file, body });
            }
            Item::Commit { .. } | Item::Entry { .. } | Item::BadEntry { .. } | Item::BadCommit { .. } => {}
        }
    }

    /// The commits that are not released and not behind the end of their run, in order.
    fn live(&self) -> Vec<&Seen> {
        let newest = self.commits.iter().filter(|it| it.body.is_ok()).max_by_key(|it| it.header.sequence);
        let live_generation = newest.map_or(0, |it| it.header.live_generation).max(self.live_generation);
        let counts = |it: &&Seen| {
            let header = &it.header;
            let ended = self.ends.get(&header.run).is_some_and(|end| header.sequence >= end.sequence);
            header.generation >= live_generation && !ended
        };
        let mut live: Vec<&Seen> = self.commits.iter().filter(counts).collect();
        live.sort_by_key(|it| (it.header.sequence, it.header.generation));
        live
    }

    fn place(&self, it: &Seen) -> String {
        format!("{}:{}", self.files[it.file].display(), it.header.position_bytes)
    }
}

/// Checks a journal and replays what counts of it.
pub(super) async fn check(dir: &Path) -> Result<JournalReport> {
    let failed = || format!("cannot read the journal {}", dir.display());
    let mut survey = Survey::default();
    let headers = Detail { entries: false, stale: false };
    read_dir(dir, headers, |item| survey.take(item)).await.with_context(failed)?;
    let mut report = JournalReport { files: survey.files.len(), ..JournalReport::default() };
    let counted = judge(&survey, &mut report);

    let mut replay = Replay::new(time::unix_time_ms(), PlantedBug::NONE);
    let mut counts = false;
    let entries = Detail { entries: true, stale: false };
    let take = |item: Item<'_>| match item {
        Item::Commit { header, .. } => {
            counts = counted.contains(&(header.generation, header.sequence));
        }
        Item::Entry { header, payload, .. } if counts => {
            report.entries += 1;
            let entry = Entry {
                kind: header.kind,
                target: header.target,
                base_offset: header.base_offset,
                leader_epoch: header.leader_epoch,
                payload: Bytes::copy_from_slice(payload),
            };
            replay.entry(header.lsn, &entry);
        }
        Item::File { .. } | Item::Entry { .. } | Item::BadEntry { .. } | Item::BadCommit { .. } => {}
    };
    read_dir(dir, entries, take).await.with_context(failed)?;
    report.recovered = replay.finish();
    Ok(report)
}

/// Walks the chain of commits; gives those that count, by generation and sequence.
fn judge(survey: &Survey, report: &mut JournalReport) -> BTreeSet<(u64, u64)> {
    let live = survey.live();
    let mut counted = BTreeSet::new();
    let mut before: Option<&Seen> = None;
    let mut broken_run = None;
    for (at, it) in live.iter().enumerate() {
        if broken_run == Some(it.header.run) {
            continue;
        }
        let fits = before.is_none_or(|before| it.follows(before));
        if fits && it.body.is_ok() {
            counted.insert((it.header.generation, it.header.sequence));
            report.closed = it.header.closed;
            report.next_lsn = it.end_lsn().0;
            before = Some(it);
            continue;
        }
        broken_run = Some(it.header.run);
        report.closed = false;
        let end = before.map_or(it.header.first_lsn, Seen::end_lsn);
        let proof = live[at..]
            .iter()
            .find(|later| later.header.run == it.header.run && later.header.known_synced > end);
        let ended = survey.ends.contains_key(&it.header.run);
        let what = match it.body {
            Err(error) => error.to_string(),
            Ok(()) => "commits before it are missing".to_owned(),
        };
        match proof {
            Some(later) => report.problems.push(format!(
                "{}: {what}; entries from {end} on are lost, although {} says that they were synced up \
                 to {}",
                survey.place(it),
                survey.place(later),
                later.header.known_synced
            )),
            None if ended => report.problems.push(format!(
                "{}: {what}; entries from {end} on are lost, and a later run relied on them",
                survey.place(it)
            )),
            None => report.notes.push(format!(
                "{}: ends in a torn write ({what}): normal after a crash, nothing behind it was \
                 acknowledged",
                survey.place(it)
            )),
        }
    }
    report.commits = counted.len();
    for (file, error) in &survey.bad_headers {
        let path = survey.files[*file].display();
        let has_commits = live.iter().any(|it| it.file == *file);
        match has_commits {
            true => report.problems.push(format!("{path}: the file's header: {error}")),
            false => report.notes.push(format!("{path}: never completely set up ({error})")),
        }
    }
    if survey.after_corruption {
        report.problems.push("an earlier start found that acknowledged entries were lost".to_owned());
    }
    counted
}
