//! Replay: from the files on disk to the entries that count, and to where the next run starts.
//!
//! Runs on the journal's shard before the journal accepts anything. It only reads and syncs; a
//! crash at any time leaves the files as they were. The order of events:
//!
//! 1. The file with the greatest generation names the newest run; its commits say which files
//!    still count (`live_generation`); run headers lead back to the runs before it.
//! 2. The chain of each run is followed, oldest run first. An older run ends where the next one
//!    recorded its end, the newest one at the first commit that is missing or broken.
//! 3. A later commit of the newest run that knew more to be synced than was reached, or an older
//!    run that does not reach its recorded end, is a corruption. Else it is a torn tail.

mod lost;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;

use corelog_runtime::fs::{File, OpenMode};

use self::lost::Lost;
use super::format::{EntryIter, FileHeader, FormatError, RunEnd, RunHeader};
use super::scan::{
    FIRST_COMMIT_BYTES, FoundFile, Link, Stop, Walk, Window, begins_with_commit, index_commits, list_files,
};
use super::{Corruption, Entry, JournalError, JournalOptions, ReplayReport, io_error, sync_file};
use crate::types::Lsn;

/// A file of an earlier run whose entries were replayed and are not released yet.
#[derive(Debug, Clone)]
pub(super) struct OldFile {
    pub(super) path: PathBuf,
    pub(super) generation: u64,
    pub(super) lsns: Range<Lsn>,
    pub(super) bytes: u64,
    /// It holds entries behind a corruption: never overwritten, set aside when it is released.
    pub(super) unreplayed: bool,
}

/// A file whose content is of no use any more.
#[derive(Debug, Clone)]
pub(super) struct DeadFile {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// What recovery found, and how the next run begins.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) report: ReplayReport,
    /// Where the run before the next one ended.
    pub(super) previous: Option<RunEnd>,
    pub(super) after_corruption: bool,
    /// Greater than every generation on disk.
    pub(super) generation: u64,
    pub(super) next_index: u64,
    pub(super) live: Vec<OldFile>,
    pub(super) dead: Vec<DeadFile>,
    /// The last file of the newest run, and where its chain ends in it.
    pub(super) tail: Option<(FileHeader, PathBuf, RunEnd)>,
}

/// One run that counts, as the headers describe it.
struct RunPlan {
    run: u64,
    header: Option<RunHeader>,
    /// Where the run after it recorded its end; `None` for the newest run.
    end: Option<RunEnd>,
    /// The recorded end is a corruption found by an earlier recovery.
    cut: bool,
}

/// Replays everything that counts into `sink`.
pub(super) async fn recover(
    options: &JournalOptions,
    sink: impl FnMut(Lsn, Entry),
) -> Result<Recovered, JournalError> {
    let files = list_files(&options.dir).await.map_err(io_error("list", &options.dir))?;
    check_identity(&files, options.journal_id)?;
    let mut recovery = Recovery {
        options,
        sink,
        newest: newest_header(&files),
        files,
        live_generation: 0,
        report: ReplayReport::default(),
        live: BTreeMap::new(),
        lost: Vec::new(),
        end: None,
    };
    recovery.index_newest().await?;
    recovery.replay_runs().await?;
    recovery.sync_replayed().await?;
    recovery.conclude().await
}

fn newest_header(files: &[FoundFile]) -> Option<FileHeader> {
    files.iter().filter_map(|file| file.header.ok()).max_by_key(|header| header.generation)
}

fn check_identity(files: &[FoundFile], journal_id: u64) -> Result<(), JournalError> {
    for file in files {
        match &file.header {
            Ok(header) if header.journal_id != journal_id => {
                return Err(JournalError::Foreign {
                    path: file.path.clone(),
                    found: header.journal_id,
                    expected: journal_id,
                });
            }
            Err(FormatError::Version(version)) => {
                return Err(JournalError::NewerFormat { path: file.path.clone(), version: *version });
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

struct Recovery<'a, S> {
    options: &'a JournalOptions,
    sink: S,
    files: Vec<FoundFile>,
    newest: Option<FileHeader>,
    live_generation: u64,
    report: ReplayReport,
    /// Files with replayed entries, by generation.
    live: BTreeMap<u64, OldFile>,
    lost: Vec<Lost>,
    /// Where the last run that was followed ended.
    end: Option<RunEnd>,
}

impl<S: FnMut(Lsn, Entry)> Recovery<'_, S> {
    /// Indexes files whose header is broken, and of the newest run's files those from the last one
    /// on that begins with a commit: they tell which files count. The files before are only
    /// followed, which reads them once.
    async fn index_newest(&mut self) -> Result<(), JournalError> {
        for file in &mut self.files {
            if matches!(&file.header, Err(error) if *error != FormatError::Blank) {
                file.commits = index_commits(file).await.map_err(io_error("read", &file.path))?;
            }
        }
        let Some(newest) = self.newest else {
            return Ok(());
        };
        let mut of_run = self.files_of_run(newest.run.run);
        let mut skip = 0;
        for (nth, at) in of_run.iter().enumerate().rev() {
            let file = &self.files[*at];
            if begins_with_commit(file).await.map_err(io_error("read", &file.path))? {
                skip = nth;
                break;
            }
        }
        self.index(of_run.split_off(skip)).await?;
        let of_run = self.files_of_run(newest.run.run).into_iter().map(|at| &self.files[at]);
        self.live_generation = of_run
            .flat_map(|file| {
                let of_header = file.header.map_or(0, |header| header.live_generation);
                file.commits.iter().map(|commit| commit.live_generation).chain([of_header])
            })
            .max()
            .unwrap_or(0);
        Ok(())
    }

    /// The files of a run, by generation.
    fn files_of_run(&self, run: u64) -> Vec<usize> {
        let of_run = |at: &usize| self.files[*at].header.is_ok_and(|header| header.run.run == run);
        let mut files: Vec<usize> = (0..self.files.len()).filter(of_run).collect();
        files.sort_by_key(|at| self.files[*at].generation());
        files
    }

    /// Indexes these files of one run, up to where it was closed.
    async fn index(&mut self, files: Vec<usize>) -> Result<(), JournalError> {
        for at in files {
            let file = &mut self.files[at];
            file.commits = index_commits(file).await.map_err(io_error("read", &file.path))?;
            if file.commits.iter().any(|commit| commit.closed) {
                break;
            }
        }
        Ok(())
    }

    /// Indexes what is behind the newest run's end and was not looked at before.
    async fn index_behind(&mut self, end: &RunEnd) -> Result<(), JournalError> {
        let mut files = self.files_of_run(end.run);
        files.retain(|at| {
            let file = &self.files[*at];
            file.generation() >= Some(end.generation) && file.commits.is_empty()
        });
        let closed = self
            .files
            .iter()
            .any(|file| file.header.is_ok() && file.commits.iter().any(|commit| commit.closed));
        if closed { Ok(()) } else { self.index(files).await }
    }

    /// The runs that count, oldest first.
    fn plan_runs(&self, newest: RunHeader) -> Vec<RunPlan> {
        let mut runs = vec![RunPlan { run: newest.run, header: Some(newest), end: None, cut: false }];
        let mut later = newest;
        while let Some(previous) = later.previous {
            let goes_back = previous.generation < later.first_generation;
            if previous.generation < self.live_generation || !goes_back {
                break;
            }
            let header = self.run_header(previous.run);
            let cut = later.after_corruption;
            runs.push(RunPlan { run: previous.run, header, end: Some(previous), cut });
            match header {
                Some(header) => later = header,
                None => break,
            }
        }
        runs.reverse();
        runs
    }

    fn run_header(&self, run: u64) -> Option<RunHeader> {
        self.files
            .iter()
            .filter_map(|file| file.header.ok())
            .map(|file| file.run)
            .find(|header| header.run == run)
    }

    fn file_of(&self, run: u64, generation: u64) -> Option<usize> {
        self.files.iter().position(|file| {
            file.header.is_ok_and(|header| header.run.run == run && header.generation == generation)
        })
    }

    async fn replay_runs(&mut self) -> Result<(), JournalError> {
        let Some(newest) = self.newest else {
            self.judge_headerless();
            return Ok(());
        };
        let runs = self.plan_runs(newest.run);
        for (at, plan) in runs.iter().enumerate() {
            let (end, stop) = self.follow_run(plan).await?;
            self.end = Some(end);
            let reached = plan.end.is_some_and(|recorded| end == recorded);
            if plan.end.is_none() {
                self.index_behind(&end).await?;
            }
            match plan.end {
                None => self.judge_newest(&newest.run, &end, stop),
                Some(recorded) if plan.cut && (reached || plan.header.is_none()) => {
                    let later = runs.get(at + 1).and_then(|run| run.header);
                    self.lost.push(Lost {
                        stop: recorded,
                        until: later.map_or(u64::MAX, |run| run.first_generation),
                        message: format!("an earlier start found a corruption at LSN {}", recorded.lsn),
                    });
                }
                Some(_) if reached => {}
                Some(recorded) => {
                    let message = format!(
                        "an earlier run ends at LSN {}, it had been replayed up to LSN {}",
                        end.lsn, recorded.lsn
                    );
                    self.lost.push(Lost { stop: end, until: u64::MAX, message });
                    break;
                }
            }
        }
        Ok(())
    }

    /// Follows one run's chain from the oldest file that counts.
    async fn follow_run(&mut self, plan: &RunPlan) -> Result<(RunEnd, Stop), JournalError> {
        let first = plan.header.map_or(0, |header| header.first_generation);
        let oldest = first.max(self.live_generation);
        let mut end = self.start_of_run(plan, oldest);
        let mut link = plan.header.filter(|_| oldest == first).map(|header| Link::of_run(&header));
        let mut stop = Stop::Nothing;
        for generation in oldest.. {
            let at_start = (generation, FIRST_COMMIT_BYTES);
            if let Some(recorded) = plan.end.filter(|end| (end.generation, end.position_bytes) == at_start) {
                return Ok((recorded, Stop::AtEnd));
            }
            let Some(at) = self.file_of(plan.run, generation) else {
                break;
            };
            let (next, why) = self.follow_file(at, link, plan.end).await?;
            stop = if why == Stop::Nothing { stop } else { why };
            match next {
                Some((link_after, end_after)) => {
                    link = Some(link_after);
                    end = end_after;
                    stop = why;
                }
                // Only a first file, which may be small, can be left without a commit in it.
                None if generation == first => {}
                None => break,
            }
            if why == Stop::AtEnd {
                break;
            }
        }
        Ok((end, stop))
    }

    /// Where the run ends if nothing of it can be replayed.
    fn start_of_run(&self, plan: &RunPlan, oldest: u64) -> RunEnd {
        let nothing = RunEnd {
            run: plan.run,
            generation: oldest,
            position_bytes: FIRST_COMMIT_BYTES,
            ..RunEnd::default()
        };
        let Some(header) = plan.header else {
            return nothing;
        };
        let link = Link::of_run(&header);
        if oldest == header.first_generation {
            return RunEnd { lsn: link.lsn, sequence: link.sequence, crc: link.predecessor, ..nothing };
        }
        let floor = self
            .file_of(plan.run, oldest)
            .and_then(|at| self.files[at].header.ok())
            .map_or(header.first_lsn, |header| header.lsn_floor);
        RunEnd { lsn: floor, ..nothing }
    }

    /// Replays the commits of one file that continue the chain. Answers where the chain is then,
    /// `None` if no commit of the file continued it.
    async fn follow_file(
        &mut self,
        at: usize,
        link: Option<Link>,
        end: Option<RunEnd>,
    ) -> Result<(Option<(Link, RunEnd)>, Stop), JournalError> {
        let found = &self.files[at];
        let Ok(header) = found.header else {
            return Ok((None, Stop::Broken));
        };
        let failed = io_error("read", &found.path);
        let mut walk = Walk {
            file: &header,
            window: Window::open(&found.path).await.map_err(&failed)?,
            position: FIRST_COMMIT_BYTES,
            link,
            end_bytes: end.filter(|end| end.generation == header.generation).map(|end| end.position_bytes),
            planted: self.options.planted,
        };
        let mut first_lsn = None;
        let stop = loop {
            match walk.next().await.map_err(&failed)? {
                Err(stop) => break stop,
                Ok((commit, bytes)) => {
                    first_lsn = first_lsn.or(Some(commit.first_lsn));
                    self.report.commits += 1;
                    for entry in EntryIter::new(&commit, &bytes).flatten() {
                        self.report.entries += 1;
                        self.report.bytes += entry.payload.len() as u64;
                        (self.sink)(entry.header.lsn, entry.to_entry());
                    }
                }
            }
        };
        let position = walk.position;
        let after = walk.link.filter(|_| first_lsn.is_some());
        walk.window.close().await.map_err(&failed)?;
        let (Some(first_lsn), Some(link)) = (first_lsn, after) else {
            return Ok((None, stop));
        };
        let file = OldFile {
            path: found.path.clone(),
            generation: header.generation,
            lsns: first_lsn..link.lsn,
            bytes: found.len,
            unreplayed: false,
        };
        self.live.insert(header.generation, file);
        Ok((Some((link, link.end_at(&header, position))), stop))
    }

    /// What was replayed may never have been synced: the process died before, and the system's
    /// caches survived. Older runs were synced by the recovery that ended them.
    async fn sync_replayed(&self) -> Result<(), JournalError> {
        let Some(newest) = self.newest else {
            return Ok(());
        };
        let replayed = self.live.range(newest.run.first_generation..);
        for (_, old) in replayed {
            let failed = io_error("sync", &old.path);
            let file = File::open(&old.path, OpenMode::ReadWrite).await.map_err(&failed)?;
            sync_file(&file, self.options.planted).await.map_err(&failed)?;
            file.close().await.map_err(&failed)?;
        }
        Ok(())
    }

    async fn conclude(mut self) -> Result<Recovered, JournalError> {
        let mut next_lsn = self.end.map_or(Lsn(0), |end| end.lsn);
        let mut concerned = Some(BTreeSet::new());
        let lost = std::mem::take(&mut self.lost);
        for lost in &lost {
            let partitions = self.look_behind(lost, &mut next_lsn).await?;
            concerned = concerned.zip(partitions).map(|(mut all, more)| {
                all.extend(more);
                all
            });
        }
        if let Some(newest) = lost.last() {
            let messages: Vec<&str> = lost.iter().map(|lost| lost.message.as_str()).collect();
            self.report.corruption = Some(Corruption {
                message: messages.join("; "),
                at_lsn: newest.stop.lsn,
                partitions: concerned.map(|all| all.into_iter().collect()),
            });
        }
        self.report.next_lsn = next_lsn;
        let (previous, after_corruption) = self.link_back(&lost);
        let generations = self
            .files
            .iter()
            .flat_map(|file| file.commits.iter().map(|commit| commit.generation).chain(file.generation()));
        Ok(Recovered {
            previous,
            after_corruption,
            generation: generations.max().unwrap_or(0).saturating_add(1),
            next_index: self.files.iter().map(|file| file.index + 1).max().unwrap_or(0),
            dead: self.dead_files(!lost.is_empty()),
            tail: self.tail(),
            live: self.live.into_values().collect(),
            report: self.report,
        })
    }

    /// What the next run's header says about the runs before it. A run without commits leaves no
    /// trace: its own link is taken over.
    fn link_back(&self, lost: &[Lost]) -> (Option<RunEnd>, bool) {
        let newly_lost = lost.iter().any(|lost| lost.until == u64::MAX);
        match (self.end, self.newest) {
            (Some(end), Some(newest)) if !newly_lost => {
                let start = Link::of_run(&newest.run);
                let empty = end.generation == newest.run.first_generation && end.sequence == start.sequence;
                if empty { (newest.run.previous, newest.run.after_corruption) } else { (Some(end), false) }
            }
            (end, _) => (end, newly_lost),
        }
    }

    fn tail(&self) -> Option<(FileHeader, PathBuf, RunEnd)> {
        let end = self.end?;
        let file = &self.files[self.file_of(end.run, end.generation)?];
        Some((file.header.ok()?, file.path.clone(), end))
    }

    /// Files without anything that counts. Behind a corruption nothing is touched that might.
    fn dead_files(&self, any_lost: bool) -> Vec<DeadFile> {
        let is_dead = |file: &&FoundFile| match &file.header {
            Ok(header) if self.live.contains_key(&header.generation) => false,
            Ok(header) => !any_lost || header.generation < self.live_generation,
            Err(FormatError::Blank) => true,
            Err(_) => !any_lost || file.commits.is_empty(),
        };
        let dead = self.files.iter().filter(is_dead);
        dead.map(|file| DeadFile { path: file.path.clone(), bytes: file.len }).collect()
    }
}
