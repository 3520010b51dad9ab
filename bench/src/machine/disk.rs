//! Direct writes, syncs and reads on a file like the journal's: zero-filled, so that a write
//! allocates nothing and its sync does not commit the file system's journal.

use std::cell::{Cell as Value, RefCell};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result};
use corelog_runtime::fs::{self, AlignedBuf, File};
use corelog_runtime::task::{Class, spawn_join};
use corelog_runtime::time::Instant;
use tokio::sync::{Notify, Semaphore, watch};

use super::{Clock, Pattern, Plan, Recorder};

/// As much as a shard's journal has.
pub(super) const FILE_BYTES: u64 = 256 << 20;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const WRITE_BLOCKS: [usize; 6] = [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB];
const COMMIT_BLOCKS: [usize; 4] = [4 * KIB, 64 * KIB, 256 * KIB, MIB];
const READ_BLOCKS: [usize; 3] = [64 * KIB, 256 * KIB, MIB];
const DEPTHS: [usize; 3] = [1, 4, 16];

/// Those who wait for a group commit.
const COMMITTERS: usize = 16;
/// The journal's default.
const COMMIT_WRITES: usize = 4;

/// Every cell, in order.
pub(super) fn plans() -> impl Iterator<Item = Plan> {
    let of = |pattern, blocks: &'static [usize], depths: &'static [usize]| {
        let plan =
            move |(block, depth): (&usize, &usize)| Plan { pattern, block_bytes: *block, depth: *depth };
        blocks.iter().flat_map(|block| depths.iter().map(move |depth| (block, depth))).map(plan)
    };
    of(Pattern::Write, &WRITE_BLOCKS, &DEPTHS)
        .chain(of(Pattern::WriteSync, &WRITE_BLOCKS, &DEPTHS))
        .chain(of(Pattern::GroupCommit, &COMMIT_BLOCKS, &[COMMITTERS]))
        .chain(of(Pattern::Read, &READ_BLOCKS, &DEPTHS))
}

/// Measures all cells, on a file in `dir`.
pub(super) async fn run(dir: &Path, recorder: &Recorder) -> Result<()> {
    let path = dir.join("probe");
    recorder.announce("filling the file with zeros");
    let file = File::create(&path).await.with_context(|| format!("cannot create {}", path.display()))?;
    file.zero_fill(0, FILE_BYTES).await.context("cannot fill the file")?;
    fs::sync_dir(dir).await?;
    let noise = noise();
    for plan in plans() {
        // Made before the time runs.
        let buffers = (0..plan.depth).map(|_| AlignedBuf::padded(&noise[..plan.block_bytes])).collect();
        let ring = Rc::new(Ring {
            file: file.clone(),
            block_bytes: plan.block_bytes,
            next: Value::new(0),
            buffers: RefCell::new(buffers),
        });
        let clock = Rc::new(recorder.begin(plan)?);
        match plan.pattern {
            Pattern::Write => {
                workers(plan, || write(Rc::clone(&ring), Rc::clone(&clock), Syncs::Never)).await?
            }
            Pattern::WriteSync => {
                workers(plan, || write(Rc::clone(&ring), Rc::clone(&clock), Syncs::Each)).await?;
            }
            Pattern::GroupCommit => group_commits(plan, &ring, &clock).await?,
            Pattern::Read => workers(plan, || read(Rc::clone(&ring), Rc::clone(&clock))).await?,
            Pattern::Stream | Pattern::RoundTrip => unreachable!("no plan of the disk's"),
        }
        recorder.end(plan, &clock);
        // What is in the device's cache must not be the next cell's burden.
        file.sync_data().await?;
    }
    Ok(file.close().await?)
}

/// Positions through the file, again and again.
struct Ring {
    file: File,
    block_bytes: usize,
    next: Value<u64>,
    buffers: RefCell<Vec<AlignedBuf>>,
}

impl Ring {
    fn take(&self) -> u64 {
        let position = self.next.get();
        let next = position + self.block_bytes as u64;
        self.next.set(if next + self.block_bytes as u64 > FILE_BYTES { 0 } else { next });
        position
    }

    /// One of those that were made for the cell: as many as it is deep.
    fn buffer(&self) -> AlignedBuf {
        self.buffers.borrow_mut().pop().expect("every worker of a cell takes one")
    }
}

/// Bytes that a device does not shrink: zeros are all too easy to write.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(WRITE_BLOCKS.into_iter().max().unwrap_or_default() / 8).flatten().collect()
}

/// As many as the cell is deep, to their end.
async fn workers<F>(plan: Plan, work: impl Fn() -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + 'static,
{
    let workers: Vec<_> = (0..plan.depth).map(|_| spawn_join(Class::Journal, work())).collect();
    let mut result = Ok(());
    for worker in workers {
        result = result.and(worker.await);
    }
    result
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Syncs {
    Never,
    Each,
}

async fn write(ring: Rc<Ring>, clock: Rc<Clock>, syncs: Syncs) -> Result<()> {
    let mut buf = ring.buffer();
    while !clock.is_over() {
        let begun = Instant::now();
        buf = ring.file.write_at(buf, ring.take()).await?;
        if syncs == Syncs::Each {
            ring.file.sync_data().await?;
        }
        clock.record(begun);
    }
    Ok(())
}

async fn read(ring: Rc<Ring>, clock: Rc<Clock>) -> Result<()> {
    while !clock.is_over() {
        let begun = Instant::now();
        let bytes = ring.file.read_at(ring.take(), ring.block_bytes).await?;
        anyhow::ensure!(bytes.len() == ring.block_bytes, "the file became shorter");
        clock.record(begun);
    }
    Ok(())
}

/// Instead of a count of syncs: the last one failed, which its task tells. Nobody waits on.
const FAILED: u64 = u64::MAX;

/// What the committers of a cell share.
struct Group {
    writes: Semaphore,
    /// Somebody waits for a sync, or nobody will any more.
    wanted: Notify,
    waiting: Value<usize>,
    committing: Value<usize>,
    /// Syncs that have begun.
    begun: Value<u64>,
    /// Syncs that have ended; all of them began before the next one did.
    ended: watch::Sender<u64>,
}

async fn group_commits(plan: Plan, ring: &Rc<Ring>, clock: &Rc<Clock>) -> Result<()> {
    let group = Rc::new(Group {
        writes: Semaphore::new(COMMIT_WRITES),
        wanted: Notify::new(),
        waiting: Value::new(0),
        committing: Value::new(plan.depth),
        begun: Value::new(0),
        ended: watch::Sender::new(0),
    });
    let syncs = spawn_join(Class::Journal, sync_for(Rc::clone(&group), ring.file.clone()));
    let work = || {
        let (group, ring, clock) = (Rc::clone(&group), Rc::clone(ring), Rc::clone(clock));
        async move {
            let result = commit(&group, &ring, &clock).await;
            group.committing.set(group.committing.get() - 1);
            group.wanted.notify_one();
            result
        }
    };
    let committed = workers(plan, work).await;
    syncs.await.and(committed)
}

async fn commit(group: &Group, ring: &Ring, clock: &Clock) -> Result<()> {
    let mut buf = ring.buffer();
    let mut ended = group.ended.subscribe();
    while !clock.is_over() {
        let begun = Instant::now();
        let permit = group.writes.acquire().await?;
        buf = ring.file.write_at(buf, ring.take()).await?;
        drop(permit);
        // A sync that is under way may have begun before the write was complete.
        let after = group.begun.get() + 1;
        group.waiting.set(group.waiting.get() + 1);
        group.wanted.notify_one();
        let ended = ended.wait_for(|ended| *ended >= after).await.context("the syncs ended")?;
        if *ended == FAILED {
            return Ok(());
        }
        drop(ended);
        clock.record(begun);
    }
    Ok(())
}

/// One sync after the other, as long as somebody waits for one.
async fn sync_for(group: Rc<Group>, file: File) -> Result<()> {
    loop {
        while group.waiting.get() == 0 {
            if group.committing.get() == 0 {
                return Ok(());
            }
            group.wanted.notified().await;
        }
        group.waiting.set(0);
        group.begun.set(group.begun.get() + 1);
        if let Err(error) = file.sync_data().await {
            group.ended.send_replace(FAILED);
            return Err(error.into());
        }
        group.ended.send_replace(group.begun.get());
    }
}
