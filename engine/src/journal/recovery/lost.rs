//! Where a run's chain stops: torn tail or corruption, and what is lost behind a corruption.

use std::collections::BTreeSet;

use super::{OldFile, Recovery};
use crate::journal::format::{CommitHeader, EntryIter, RunEnd, RunHeader};
use crate::journal::scan::{FIRST_COMMIT_BYTES, FoundFile, Stop, Window, index_commits};
use crate::journal::{Entry, JournalError, TornTail, io_error};
use crate::types::{Lsn, TopicPartition};

/// Entries that are on disk behind a corruption: from `stop` on, in generations below `until`.
pub(super) struct Lost {
    pub(super) stop: RunEnd,
    pub(super) until: u64,
    pub(super) message: String,
}

impl<S: FnMut(Lsn, Entry)> Recovery<'_, S> {
    /// Torn tail or corruption?
    pub(super) fn judge_newest(&mut self, run: &RunHeader, end: &RunEnd, stop: Stop) {
        let at_end = (end.generation, end.position_bytes);
        let of_run = |file: &&FoundFile| file.header.is_ok_and(|header| header.run.run == run.run);
        let mut commits = self.files.iter().filter(of_run).flat_map(|file| &file.commits);
        let synced = commits.clone().map(|commit| commit.known_synced).max().unwrap_or_default();
        let behind = commits.any(|commit| (commit.generation, commit.position_bytes) >= at_end);
        let counting = run.first_generation.max(self.live_generation);
        let headerless = |file: &FoundFile| {
            file.header.is_err() && file.commits.iter().any(|commit| commit.generation >= counting)
        };
        let message = if synced > end.lsn {
            format!("a later commit knew LSN {synced} to be synced")
        } else if let Some(file) = self.files.iter().find(|file| headerless(file)) {
            format!("the header of {} is broken", file.path.display())
        } else if end.sequence == 0 && counting > run.first_generation {
            format!("the oldest file that counts, of generation {counting}, cannot be read")
        } else {
            if stop == Stop::Broken || behind {
                let path = self
                    .file_of(run.run, end.generation)
                    .map(|at| self.files[at].path.clone())
                    .unwrap_or_default();
                let position_bytes = end.position_bytes;
                self.report.torn_at = Some(TornTail { at_lsn: end.lsn, path, position_bytes });
            }
            return;
        };
        let message = format!("replay stopped at LSN {}: {message}", end.lsn);
        self.lost.push(Lost { stop: *end, until: u64::MAX, message });
    }

    /// No file has an intact header. New files that a crash kept from being used have no commits.
    pub(super) fn judge_headerless(&mut self) {
        let commits = self.files.iter().flat_map(|file| &file.commits);
        let Some(oldest) = commits.min_by_key(|commit| commit.generation) else {
            return;
        };
        let stop = RunEnd {
            run: oldest.run,
            generation: oldest.generation,
            position_bytes: FIRST_COMMIT_BYTES,
            ..RunEnd::default()
        };
        let message = "no file has an intact header".to_owned();
        self.lost.push(Lost { stop, until: u64::MAX, message });
        self.end = Some(stop);
    }

    /// Looks at what is on disk behind a corruption: keeps the files, moves `next_lsn` behind all
    /// of it, and answers which partitions are concerned, `None` if that cannot be told.
    pub(super) async fn look_behind(
        &mut self,
        lost: &Lost,
        next_lsn: &mut Lsn,
    ) -> Result<Option<BTreeSet<TopicPartition>>, JournalError> {
        let mut partitions = Some(BTreeSet::new());
        let mut sequences = BTreeSet::new();
        let mut kept = Vec::new();
        let mut end_lsn = lost.stop.lsn;
        for file in &mut self.files {
            let failed = io_error("read", &file.path);
            let Ok(header) = file.header else {
                // Of which generation a file without a header is, only its commits can say.
                let behind = file
                    .commits
                    .iter()
                    .filter(|commit| (lost.stop.generation..lost.until).contains(&commit.generation));
                if let Some(oldest) = behind.clone().map(|commit| commit.generation).min() {
                    partitions = None;
                    end_lsn = behind.map(CommitHeader::end_lsn).fold(end_lsn, Lsn::max);
                    kept.push((oldest, file.path.clone(), file.len));
                }
                continue;
            };
            if header.generation < lost.stop.generation || header.generation >= lost.until {
                continue;
            }
            file.commits = index_commits(file).await.map_err(&failed)?;
            let at_stop = |commit: &&CommitHeader| {
                (commit.generation, commit.position_bytes) >= (lost.stop.generation, lost.stop.position_bytes)
            };
            let behind: Vec<CommitHeader> = file.commits.iter().filter(at_stop).copied().collect();
            let Some(last) = behind.last() else { continue };
            end_lsn = end_lsn.max(last.end_lsn());
            sequences.extend(behind.iter().map(|commit| commit.sequence));
            let targets = targets(file, &behind).await.map_err(&failed)?;
            partitions = partitions.zip(targets).map(|(mut all, more)| {
                all.extend(more);
                all
            });
            kept.push((header.generation, file.path.clone(), file.len));
        }
        if lost.until == u64::MAX {
            *next_lsn = end_lsn.max(*next_lsn);
        }
        for (generation, path, bytes) in kept {
            let lsns = lost.stop.lsn..end_lsn;
            let file = self.live.entry(generation).or_insert(OldFile {
                path,
                generation,
                lsns: lsns.clone(),
                bytes,
                unreplayed: true,
            });
            file.unreplayed = true;
            file.lsns.end = file.lsns.end.max(lsns.end);
        }
        let (first, last) = (sequences.first().copied(), sequences.last().copied());
        let gapless = first == Some(lost.stop.sequence)
            && first.zip(last).is_some_and(|(first, last)| last - first + 1 == sequences.len() as u64);
        Ok(partitions.filter(|_| gapless))
    }
}

/// The partitions that the commits name, `None` if that cannot be told.
async fn targets(
    file: &FoundFile,
    commits: &[CommitHeader],
) -> std::io::Result<Option<BTreeSet<TopicPartition>>> {
    let mut window = Window::open(&file.path).await?;
    let mut targets = Some(BTreeSet::new());
    for commit in commits {
        let bytes = window.commit(commit).await?;
        for entry in EntryIter::new(commit, &bytes) {
            match entry {
                Ok(entry) if entry.header.kind.is_of_one_partition() => {
                    targets.iter_mut().for_each(|all| {
                        all.insert(entry.header.target);
                    });
                }
                Ok(_) | Err(_) => targets = None,
            }
        }
    }
    window.close().await?;
    Ok(targets)
}
