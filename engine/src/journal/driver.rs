//! The one task that writes and syncs. Runs on the journal's shard, in the journal's class.
//!
//! It sleeps until something was appended, a write or sync completed, or a flush is due; no task
//! is between an append and its write. Up to `writes_in_flight` writes and one sync are under way; a
//! small commit that has the disk for itself is written and synced in one request.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use corelog_runtime::fs::File;
use corelog_runtime::task::{self, Class};
use corelog_runtime::time::{self, Instant};

use super::format::CommitHeader;
use super::state::{Commit, SyncTarget};
use super::{Inner, JournalError, housekeeping, io_error, sync_file, write_durably};
use crate::planted::Planted;

type Boxed<T> = Pin<Box<dyn Future<Output = T>>>;

/// Bytes written before other tasks get their turn: building commits is copying and checksums.
const BYTES_PER_TURN: u64 = 1 << 20;

/// Starts the driver of an open journal.
pub(super) fn spawn(inner: Rc<Inner>) {
    task::spawn_in(Class::Journal, async move {
        let mut driver =
            Driver { inner: Rc::clone(&inner), writes: VecDeque::new(), sync: None, flush: None };
        poll_fn(|cx| driver.poll(cx)).await;
        inner.state.borrow_mut().stopped = true;
        inner.progress.wake();
        inner.files.wake();
    });
}

/// A write under way, or completed behind one that is not.
struct Write {
    header: CommitHeader,
    file: File,
    queued_bytes: usize,
    submitted: Instant,
    /// Synced, too, once completed.
    durable: bool,
    /// `None` once completed.
    future: Option<Boxed<io::Result<()>>>,
}

struct Driver {
    inner: Rc<Inner>,
    /// In the order of the journal.
    writes: VecDeque<Write>,
    /// What it covers, and when it was issued.
    sync: Option<(SyncTarget, Instant, Boxed<io::Result<()>>)>,
    /// When written data is synced though nobody asked.
    flush: Option<Boxed<()>>,
}

impl Driver {
    /// Ready when the journal is closed or fenced.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.work.register(cx.waker());
        let mut built_bytes = 0;
        loop {
            match self.turn(cx) {
                Ok(Turn::Idle) => break,
                Ok(Turn::Moved) => {}
                Ok(Turn::Submitted(bytes)) => built_bytes += bytes,
                Err(error) => self.inner.fence(error),
            }
            if self.is_over() {
                return Poll::Ready(());
            }
            if built_bytes >= BYTES_PER_TURN {
                cx.waker().wake_by_ref();
                break;
            }
        }
        housekeeping::start_if_needed(&self.inner);
        if self.is_over() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// One step, completions first: they free what the next write and the next sync need.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<Turn, JournalError> {
        if self.inner.state.borrow().fenced.is_some() {
            return Ok(Turn::Idle);
        }
        let moved = self.poll_writes(cx)? | self.poll_sync(cx)?;
        let submitted = self.submit();
        if submitted > 0 {
            return Ok(Turn::Submitted(submitted));
        }
        if moved || self.issue_sync(cx) {
            return Ok(Turn::Moved);
        }
        self.give_up_when_full()?;
        Ok(Turn::Idle)
    }

    fn is_over(&self) -> bool {
        let state = self.inner.state.borrow();
        state.fenced.is_some() || (self.sync.is_none() && state.is_closed())
    }

    fn poll_writes(&mut self, cx: &mut Context<'_>) -> Result<bool, JournalError> {
        for write in &mut self.writes {
            let Some(future) = &mut write.future else {
                continue;
            };
            if let Poll::Ready(result) = future.as_mut().poll(cx) {
                write.future = None;
                result.map_err(|error| io_error("write to", &self.inner.options.dir)(error))?;
                self.inner.meter.written(&write.header, write.submitted, write.durable);
                if !write.durable {
                    let mut state = self.inner.state.borrow_mut();
                    state.completed(write.header.generation, &write.file);
                }
            }
        }
        let (mut moved, mut durable) = (false, false);
        while let Some(write) = self.writes.pop_front_if(|write| write.future.is_none()) {
            let mut state = self.inner.state.borrow_mut();
            state.written(&write.header, write.queued_bytes);
            if write.durable {
                state.written_durably(&write.header);
                durable = true;
            }
            moved = true;
        }
        if moved {
            self.inner.progress.wake();
            self.inner.drained.wake();
        }
        if durable {
            self.inner.files.wake();
        }
        Ok(moved)
    }

    fn poll_sync(&mut self, cx: &mut Context<'_>) -> Result<bool, JournalError> {
        let Some((target, issued, future)) = &mut self.sync else {
            return Ok(false);
        };
        let Poll::Ready(result) = future.as_mut().poll(cx) else {
            return Ok(false);
        };
        let (target, issued) = (*target, *issued);
        self.sync = None;
        result.map_err(|error| io_error("sync", &self.inner.options.dir)(error))?;
        self.inner.meter.synced(issued);
        self.inner.state.borrow_mut().synced(target);
        self.inner.progress.wake();
        self.inner.files.wake();
        Ok(true)
    }

    /// Submits the next write; answers its length, 0 if there is none.
    fn submit(&mut self) -> u64 {
        let (commit, rolled) = {
            let mut state = self.inner.state.borrow_mut();
            let before = state.head.generation;
            let commit = state.next_commit();
            let rolled = state.head.generation != before;
            (commit, rolled)
        };
        if rolled {
            self.inner.files.wake();
        }
        let Some(Commit { header, buf, file, queued_bytes, durable }) = commit else {
            return 0;
        };
        let (writing, planted) = (file.clone(), self.inner.options.planted);
        let future = async move {
            let position = header.position_bytes;
            let write = if durable {
                write_durably(&writing, buf, position, planted).await
            } else {
                writing.write_at(buf, position).await
            };
            write.map(drop)
        };
        let submitted = Instant::now();
        self.writes.push_back(Write {
            header,
            file,
            queued_bytes,
            submitted,
            durable,
            future: Some(Box::pin(future)),
        });
        if self.inner.options.planted.has(Planted::AckBeforeSync) {
            self.inner.state.borrow_mut().progress.synced = header.end_lsn();
            self.inner.progress.wake();
        }
        header.total_bytes()
    }

    /// Issues a sync if one is wanted and none is under way.
    fn issue_sync(&mut self, cx: &mut Context<'_>) -> bool {
        if self.sync.is_some() {
            return false;
        }
        let (unsynced, wanted) = {
            let state = self.inner.state.borrow();
            (state.has_unsynced(), state.wants_sync())
        };
        if !unsynced {
            self.flush = None;
            return false;
        }
        let interval = self.inner.options.flush_interval;
        let flush = self.flush.get_or_insert_with(|| Box::pin(time::sleep(interval)));
        if !wanted && flush.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.flush = None;
        let (target, files) = self.inner.state.borrow_mut().start_sync();
        let planted = self.inner.options.planted;
        let future = async move {
            let syncs = files.iter().map(|file| sync_file(file, planted));
            futures_util::future::try_join_all(syncs).await.map(|_| ())
        };
        self.sync = Some((target, Instant::now(), Box::pin(future)));
        true
    }

    /// A close must not wait for space on the disk.
    fn give_up_when_full(&self) -> Result<(), JournalError> {
        let state = self.inner.state.borrow();
        if state.closing && state.disk_full && state.is_stalled() && self.writes.is_empty() {
            return Err(JournalError::ClosedFull { entries: state.unwritten_entries() });
        }
        Ok(())
    }
}

/// What one step of the driver did.
enum Turn {
    Idle,
    Moved,
    Submitted(u64),
}
