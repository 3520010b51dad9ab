//! Opening a journal: replay, then a new run in a new file. Runs on the journal's shard.
//!
//! Nothing of an earlier run is changed before the new run's header, which records where the
//! earlier one ended, is synced: a crash before that repeats the same recovery.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;

use corelog_runtime::fs::{self, BLOCK_BYTES, File, OpenMode};
use corelog_runtime::rand;

use super::format::{Entry, FileHeader, RunEnd, RunHeader};
use super::housekeeping::{FIRST_FILL_BYTES, write_header};
use super::recovery::{DeadFile, Recovered, recover};
use super::scan::{FIRST_COMMIT_BYTES, Link, file_name};
use super::signal::Signal;
use super::state::{Head, LiveFile, Start, State};
use super::stats::Meter;
use super::{Inner, JournalError, JournalOptions, ReplayReport, io_error};
use crate::planted::Planted;
use crate::types::Lsn;

/// A file has at least this many blocks, or there is no room for entries beside header and marks.
const FILE_BLOCKS_MIN: u64 = 4;

/// Replays and starts the new run.
pub(super) async fn open(
    options: JournalOptions,
    sink: impl FnMut(Lsn, Entry),
) -> Result<(Rc<Inner>, ReplayReport), JournalError> {
    check_options(&options);
    let dir = &options.dir;
    fs::create_dir_all(dir).await.map_err(io_error("create", dir))?;
    if let Some(parent) = dir.parent() {
        fs::sync_dir(parent).await.map_err(io_error("sync", parent))?;
    }
    let mut recovered = recover(&options, sink).await?;
    let report = recovered.report.clone();
    log_report(&options, &report);
    let tail = recovered.tail.take().filter(|_| options.planted.has(Planted::TailReused));
    let start = match tail {
        Some(tail) => reuse_tail(&options, &mut recovered, tail).await?,
        None => new_run(&options, &mut recovered).await?,
    };
    let state = RefCell::new(State::new(options.clone(), start));
    let inner = Inner {
        options,
        state,
        meter: Meter::new(),
        work: Signal::default(),
        progress: Signal::default(),
        drained: Signal::default(),
        files: Signal::default(),
    };
    Ok((Rc::new(inner), report))
}

fn check_options(options: &JournalOptions) {
    let block = BLOCK_BYTES as u64;
    for bytes in [options.file_bytes, options.first_file_bytes] {
        assert!(bytes.is_multiple_of(block), "journal files are whole blocks");
        assert!(bytes >= FILE_BLOCKS_MIN * block, "a journal file has room for entries");
    }
    assert!(options.max_files >= 2, "one file is released while another is written");
    assert!(options.max_commit_bytes >= BLOCK_BYTES, "a commit is at least a block");
    assert!(options.writes_in_flight >= 1, "a journal writes");
}

fn log_report(options: &JournalOptions, report: &ReplayReport) {
    let dir = options.dir.display();
    tracing::info!(%dir, next_lsn = %report.next_lsn, entries = report.entries, "journal replayed");
    if let Some(torn) = &report.torn_at {
        tracing::info!(%dir, at_lsn = %torn.at_lsn, "journal had an unfinished write at its end");
    }
    if let Some(corruption) = &report.corruption {
        tracing::error!(%dir, message = %corruption.message, "journal has lost acknowledged entries");
    }
}

/// Starts a run in a new file.
async fn new_run(options: &JournalOptions, recovered: &mut Recovered) -> Result<Start, JournalError> {
    let generation = recovered.generation;
    let run = RunHeader {
        run: rand::u64(),
        first_generation: generation,
        first_lsn: recovered.report.next_lsn,
        previous: recovered.previous,
        after_corruption: recovered.after_corruption,
    };
    let header = FileHeader {
        journal_id: options.journal_id,
        generation,
        file_bytes: options.first_file_bytes,
        lsn_floor: run.first_lsn,
        live_generation: recovered.live.first().map_or(generation, |file| file.generation),
        run,
    };
    let path = options.dir.join(file_name(recovered.next_index));
    let failed = io_error("create", &path);
    let file = File::create_for(&path, OpenMode::Durable).await.map_err(&failed)?;
    write_header(&file, &header).await.map_err(&failed)?;
    let ready_bytes = options.first_file_bytes.min(FIRST_FILL_BYTES);
    file.zero_fill(FIRST_COMMIT_BYTES, ready_bytes).await.map_err(&failed)?;
    fs::sync_dir(&options.dir).await.map_err(io_error("sync", &options.dir))?;
    let head = Head {
        file,
        generation,
        position_bytes: FIRST_COMMIT_BYTES,
        ready_bytes,
        bytes: options.first_file_bytes,
    };
    Ok(start_with(recovered, run, Link::of_run(&run), head, path))
}

/// The planted bug: the next entries go behind the old run's last one, in its file.
async fn reuse_tail(
    options: &JournalOptions,
    recovered: &mut Recovered,
    (header, path, end): (FileHeader, PathBuf, RunEnd),
) -> Result<Start, JournalError> {
    for leftover in recovered.dead.drain(..).filter(|dead| dead.path != path) {
        fs::remove_file(&leftover.path).await.map_err(io_error("remove", &leftover.path))?;
    }
    fs::sync_dir(&options.dir).await.map_err(io_error("sync", &options.dir))?;
    let file = File::open(&path, OpenMode::Durable).await.map_err(io_error("open", &path))?;
    let bytes = file.len().await.map_err(io_error("open", &path))?;
    recovered.live.retain(|live| live.generation < header.generation);
    let head = Head {
        file,
        generation: header.generation,
        position_bytes: end.position_bytes,
        ready_bytes: bytes,
        bytes,
    };
    let link = Link { sequence: end.sequence, lsn: end.lsn, predecessor: end.crc };
    recovered.generation = header.generation;
    Ok(start_with(recovered, header.run, link, head, path))
}

/// A journal whose head is `head`, behind the files of earlier runs.
fn start_with(recovered: &mut Recovered, run: RunHeader, link: Link, head: Head, path: PathBuf) -> Start {
    let mut live: VecDeque<LiveFile> = recovered.live.drain(..).map(LiveFile::from).collect();
    live.push_back(LiveFile {
        path,
        file: Some(head.file.clone()),
        generation: head.generation,
        lsns: link.lsn..link.lsn,
        first_sequence: None,
        bytes: head.bytes,
        unreplayed: false,
        old_run: false,
    });
    Start {
        run,
        link,
        next_generation: head.generation + 1,
        head,
        live,
        dead: recovered.dead.drain(..).map(dead).collect(),
        next_index: recovered.next_index + 1,
    }
}

fn dead(file: DeadFile) -> LiveFile {
    LiveFile {
        path: file.path,
        file: None,
        generation: 0,
        lsns: Lsn(0)..Lsn(0),
        first_sequence: None,
        bytes: file.bytes,
        unreplayed: false,
        old_run: true,
    }
}
