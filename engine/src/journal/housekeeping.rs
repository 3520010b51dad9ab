//! Files made ready before they are needed, used again, and removed. One background task of the
//! journal's shard, which ends when there is nothing to do.
//!
//! A file goes: created and zero-filled (spare) → its header written with a new generation and
//! synced (next) → head → sealed → released, and spare again. Until the new header is synced
//! nothing is written behind it, so that old commits never look like new ones.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::fs::{self, AlignedBuf, BLOCK_BYTES, File, OpenMode};
use corelog_runtime::task::{self, Class};
use corelog_runtime::time;

use super::format::FileHeader;
use super::scan::file_name;
use super::state::{LiveFile, PreparedFile, SpareFile, State, UnfilledFile};
use super::{Inner, JournalError, io_error};

/// What is zero-filled of a new run's head before it is used.
pub(super) const FIRST_FILL_BYTES: u64 = 1 << 20;

/// The rest of it is filled while it is in use, each time up to this many times what was ready:
/// each step's sync makes the file longer, which holds up the syncs of commits meanwhile.
const FILL_FACTOR: u64 = 4;

/// A new file is zero-filled in steps of this size, so that neither the next head's header nor a close
/// has to wait for all of it.
const CREATE_STEP_BYTES: u64 = 4 << 20;

/// Spares kept: the next file and the reserve.
const SPARES_MAX: usize = 2;

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

enum Job {
    /// Use a dead file again, or get rid of it.
    Retire(LiveFile),
    /// Give a spare its header.
    Prepare(SpareFile),
    /// Zero-fill more of the head.
    Fill { file: File, from: u64, to: u64, generation: u64 },
    /// Create a file that becomes a spare.
    Create { index: u64 },
    /// Zero-fill more of it.
    Grow(UnfilledFile),
}

/// Starts the background task if it has work and does not run.
pub(super) fn start_if_needed(inner: &Rc<Inner>) {
    {
        let mut state = inner.state.borrow_mut();
        if state.housekeeping || !has_job(&state) {
            return;
        }
        state.housekeeping = true;
    }
    let inner = Rc::clone(inner);
    task::spawn_in(Class::Background, async move {
        run(&inner).await;
        inner.state.borrow_mut().housekeeping = false;
        // A close waits for this task to end.
        inner.progress.wake();
    });
}

fn is_over(state: &State) -> bool {
    state.fenced.is_some() || state.stopped || (state.closing && !state.is_stalled())
}

fn wants_fill(state: &State) -> bool {
    state.ready_files_wanted() > 0 && state.head.ready_bytes < state.head.bytes
}

fn has_job(state: &State) -> bool {
    let prepare = state.next.is_none() && state.ready_files_wanted() > 0;
    let grow = state.unfilled.is_some() || state.lacks_ready_file();
    !is_over(state) && (!state.dead.is_empty() || prepare || wants_fill(state) || grow)
}

fn next_job(state: &mut State) -> Option<Job> {
    if is_over(state) {
        return None;
    }
    if let Some(file) = state.dead.pop() {
        return Some(Job::Retire(file));
    }
    let wants_next = state.next.is_none() && state.ready_files_wanted() > 0;
    if let Some(spare) = state.spares.pop_if(|_| wants_next) {
        return Some(Job::Prepare(spare));
    }
    if wants_fill(state) {
        let from = state.head.ready_bytes;
        let to = from.saturating_mul(FILL_FACTOR).min(state.head.bytes);
        let (file, generation) = (state.head.file.clone(), state.head.generation);
        return Some(Job::Fill { file, from, to, generation });
    }
    // Last, and a step at a time: all of a file takes longer than the head lasts under load.
    if let Some(unfilled) = state.unfilled.take() {
        return Some(Job::Grow(unfilled));
    }
    if state.lacks_ready_file() {
        let index = state.next_index;
        state.next_index += 1;
        return Some(Job::Create { index });
    }
    None
}

async fn run(inner: &Rc<Inner>) {
    let mut retry = RETRY_FIRST;
    loop {
        let job = next_job(&mut inner.state.borrow_mut());
        let Some(job) = job else {
            // The end of the journal: what is not a spare by now will not be one.
            let unfilled = inner.state.borrow_mut().unfilled.take();
            let Some(unfilled) = unfilled else { break };
            give_up(unfilled).await;
            // Meanwhile a close may have come to need another file.
            continue;
        };
        let full = match perform(inner, job).await {
            Ok(()) => false,
            Err(JournalError::Io { source, .. }) if is_no_space(&source) => true,
            Err(error) => {
                inner.fence(error);
                continue;
            }
        };
        note_space(inner, full);
        if full {
            // A release may make a file available at any time; other space is looked for again.
            let news = || {
                let state = inner.state.borrow();
                (is_over(&state) || !state.dead.is_empty()).then_some(())
            };
            match time::timeout(retry, inner.files.until(news)).await {
                Ok(()) | Err(_) => retry = (retry * 2).min(RETRY_LAST),
            }
        } else if !inner.state.borrow().lacks_ready_file() {
            // Not for a part of a file: on a full disk the last one would fail again and again.
            retry = RETRY_FIRST;
        }
    }
}

/// A quota counts as a full disk.
fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn note_space(inner: &Inner, full: bool) {
    let changed = {
        let mut state = inner.state.borrow_mut();
        let was = state.disk_full;
        // A file can be lacking while one is made, and have come back when that fails.
        state.disk_full = (full || was) && (state.lacks_ready_file() || wants_fill(&state));
        state.disk_full != was
    };
    if changed {
        tracing::warn!(dir = %inner.options.dir.display(), full, "journal disk space changed");
    }
    inner.work.wake();
    inner.files.wake();
}

async fn perform(inner: &Rc<Inner>, job: Job) -> Result<(), JournalError> {
    match job {
        Job::Retire(file) => retire(inner, file).await,
        Job::Prepare(spare) => prepare(inner, spare).await,
        Job::Fill { file, from, to, generation } => {
            file.zero_fill(from, to).await.map_err(io_error("zero-fill", &inner.options.dir))?;
            let mut state = inner.state.borrow_mut();
            if state.head.generation == generation {
                state.head.ready_bytes = to;
            }
            Ok(())
        }
        Job::Create { index } => create(inner, index).await,
        Job::Grow(unfilled) => grow(inner, unfilled).await,
    }
}

async fn retire(inner: &Rc<Inner>, file: LiveFile) -> Result<(), JournalError> {
    let reusable = {
        let state = inner.state.borrow();
        file.bytes == state.options.file_bytes && state.spares.len() < SPARES_MAX
    };
    if file.unreplayed {
        let aside = file.path.with_extension("corrupt");
        tracing::warn!(path = %aside.display(), "journal file with unread entries set aside");
        fs::rename(&file.path, &aside).await.map_err(io_error("rename", &file.path))?;
    } else if reusable {
        let spare = SpareFile { path: file.path, file: file.file, bytes: file.bytes };
        inner.state.borrow_mut().spares.push(spare);
        return Ok(());
    } else {
        fs::remove_file(&file.path).await.map_err(io_error("remove", &file.path))?;
    }
    if let Some(open) = file.file {
        open.close().await.map_err(io_error("close", &file.path))?;
    }
    let dir = &inner.options.dir;
    fs::sync_dir(dir).await.map_err(io_error("sync", dir))
}

async fn prepare(inner: &Rc<Inner>, spare: SpareFile) -> Result<(), JournalError> {
    let failed = io_error("write the header of", &spare.path);
    let file = match spare.file {
        Some(file) => file,
        None => File::open(&spare.path, OpenMode::Durable).await.map_err(&failed)?,
    };
    let header = {
        let mut state = inner.state.borrow_mut();
        let generation = state.next_generation;
        state.next_generation += 1;
        FileHeader {
            journal_id: state.options.journal_id,
            generation,
            file_bytes: spare.bytes,
            lsn_floor: state.progress.synced,
            live_generation: state.live_generation(),
            run: state.run,
        }
    };
    write_header(&file, &header).await.map_err(&failed)?;
    file.sync_data().await.map_err(&failed)?;
    let generation = header.generation;
    tracing::debug!(generation, "journal file ready");
    let prepared = PreparedFile { path: spare.path, file, generation, bytes: spare.bytes };
    inner.state.borrow_mut().next = Some(prepared);
    Ok(())
}

/// Writes a file header; the caller syncs.
pub(super) async fn write_header(file: &File, header: &FileHeader) -> io::Result<()> {
    let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
    header.encode(&mut block);
    file.write_at(block, 0).await.map(|_| ())
}

async fn create(inner: &Rc<Inner>, index: u64) -> Result<(), JournalError> {
    let path = inner.options.dir.join(file_name(index));
    let created = File::create_for(&path, OpenMode::Durable).await;
    let file = created.map_err(io_error("create", &path))?;
    inner.state.borrow_mut().unfilled = Some(UnfilledFile { path, file, filled_bytes: 0 });
    Ok(())
}

/// One step; after the last one it is a spare.
async fn grow(inner: &Rc<Inner>, mut unfilled: UnfilledFile) -> Result<(), JournalError> {
    let (dir, bytes) = (&inner.options.dir, inner.options.file_bytes);
    let to = (unfilled.filled_bytes + CREATE_STEP_BYTES).min(bytes);
    if let Err(error) = unfilled.file.zero_fill(unfilled.filled_bytes, to).await {
        let failed = io_error("zero-fill", &unfilled.path);
        give_up(unfilled).await;
        return Err(failed(error));
    }
    if to < bytes {
        unfilled.filled_bytes = to;
        inner.state.borrow_mut().unfilled = Some(unfilled);
        return Ok(());
    }
    fs::sync_dir(dir).await.map_err(io_error("sync", dir))?;
    let UnfilledFile { path, file, .. } = unfilled;
    inner.state.borrow_mut().spares.push(SpareFile { path, file: Some(file), bytes });
    Ok(())
}

/// Gives back the space of a file that could not be filled; if that fails too, the next start
/// finds a file without a header and removes it.
async fn give_up(unfilled: UnfilledFile) {
    let UnfilledFile { path, file, .. } = unfilled;
    drop(file);
    if let Err(error) = fs::remove_file(&path).await {
        tracing::warn!(path = %path.display(), %error, "partial journal file is left behind");
    }
}
