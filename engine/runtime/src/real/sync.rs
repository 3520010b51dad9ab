//! Syncs that nobody waits for with an acknowledgement in hand: those of segments and directories.
//!
//! A sync of a file that grew, or of a directory, commits the file system's journal, which takes a
//! few milliseconds and commits what all others did as well. So a few go on at a time, and what has
//! gathered meanwhile is synced together, by one `syncfs`. That also writes what other programs
//! left in the page cache of the same file system: one more reason to give the data directory its
//! own.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;

use glommio::io::DmaFile;

use super::Shard;
use super::fs::{blocking, plain};
use crate::oneshot::Slot;

/// Syncs of single files that go on at a time; when more wait, they are synced together. Fewer than
/// the 4 for each core that io_uring has workers for, because the journal's syncs need one too.
const ALONE_MAX: usize = 3;

/// The oldest kernel whose `syncfs` tells of a failed commit: before, it said that all is well.
const KERNEL_MIN: (u32, u32) = (5, 17);

/// The syncs of one shard.
pub(super) struct Syncs {
    waiting: RefCell<Vec<Request>>,
    under_way: Cell<usize>,
    is_together: Cell<bool>,
    can_sync_together: bool,
}

struct Request {
    /// The directory to sync, or the one that the file is in.
    dir: PathBuf,
    file: Option<Rc<DmaFile>>,
    done: Slot<io::Result<()>>,
}

impl Syncs {
    pub(super) fn new() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            waiting: RefCell::default(),
            under_way: Cell::new(0),
            is_together: Cell::new(false),
            can_sync_together: is_at_least(&release, KERNEL_MIN),
        }
    }
}

fn is_at_least(release: &str, min: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= min,
        _ => false,
    }
}

/// `fdatasync` of a file in `dir`, or an `fsync` of `dir`, at once or together with others.
pub(super) async fn sync(shard: &Rc<Shard>, dir: PathBuf, file: Option<Rc<DmaFile>>) -> io::Result<()> {
    let done = Slot::new();
    shard.syncs.waiting.borrow_mut().push(Request { dir, file, done: done.clone() });
    begin(shard);
    done.await
}

/// Begins what may begin.
fn begin(shard: &Rc<Shard>) {
    let syncs = &shard.syncs;
    while !syncs.is_together.get() {
        let mut waiting = syncs.waiting.borrow_mut();
        if syncs.can_sync_together && waiting.len() > ALONE_MAX {
            // More come together until what is under way is over.
            if syncs.under_way.get() > 0 {
                return;
            }
            let all = std::mem::take(&mut *waiting);
            drop(waiting);
            syncs.is_together.set(true);
            run(shard, together(all));
            return;
        }
        if syncs.under_way.get() >= ALONE_MAX {
            return;
        }
        if waiting.is_empty() {
            return;
        }
        let mut same = vec![waiting.remove(0)];
        if same[0].file.is_none() {
            let is_same = |request: &mut Request| request.file.is_none() && request.dir == same[0].dir;
            let others: Vec<_> = waiting.extract_if(.., is_same).collect();
            same.extend(others);
        }
        drop(waiting);
        run(shard, alone(same));
    }
}

/// Runs one sync in a task, and then what waited for it.
fn run(shard: &Rc<Shard>, sync: impl Future<Output = ()> + 'static) {
    let shard = Rc::clone(shard);
    shard.syncs.under_way.set(shard.syncs.under_way.get() + 1);
    super::task::spawn_inline(async move {
        sync.await;
        shard.syncs.under_way.set(shard.syncs.under_way.get() - 1);
        shard.syncs.is_together.set(false);
        begin(&shard);
    });
}

/// Syncs one file, or one directory for everybody who asked for it.
async fn alone(same: Vec<Request>) {
    let synced = match &same[0].file {
        Some(file) => file.fdatasync().await.map_err(plain),
        None => {
            let dir = same[0].dir.clone();
            blocking(move || fs::File::open(dir)?.sync_all()).await
        }
    };
    answer(same, &synced);
}

/// Syncs all file systems that the requests are for.
async fn together(requests: Vec<Request>) {
    let dirs: Vec<_> = requests.iter().map(|request| request.dir.clone()).collect();
    // Each request with what became of its file system; `None` where its directory is not there.
    let synced = blocking(move || Ok(sync_file_systems(&dirs))).await;
    let Ok(synced) = synced else {
        return answer(requests, &synced.map(drop));
    };
    let mut left = Vec::new();
    for (request, synced) in requests.into_iter().zip(synced) {
        match synced {
            Some(result) => request.done.fill(result),
            None => left.push(request),
        }
    }
    // Deleted meanwhile, mostly; the file itself says what is wrong otherwise.
    for request in left {
        alone(vec![request]).await;
    }
}

fn sync_file_systems(dirs: &[PathBuf]) -> Vec<Option<io::Result<()>>> {
    let mut done: Vec<(u64, io::Result<()>)> = Vec::new();
    let mut sync_one = |dir: &PathBuf| {
        let device = fs::metadata(dir).ok()?.dev();
        if let Some((_, result)) = done.iter().find(|(synced, _)| *synced == device) {
            return Some(again(result));
        }
        let opened = fs::File::open(dir).ok()?;
        let result = nix::unistd::syncfs(&opened).map_err(io::Error::from);
        let answer = again(&result);
        done.push((device, result));
        Some(answer)
    };
    dirs.iter().map(&mut sync_one).collect()
}

fn answer(requests: Vec<Request>, result: &io::Result<()>) {
    for request in requests {
        request.done.fill(again(result));
    }
}

/// The same result for somebody else.
fn again(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => error.kind().into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_the_kernel_are_in_order_of_their_numbers() {
        for (release, is) in [
            ("5.17.0", true),
            ("5.16.20-generic", false),
            ("6.1.0-18-amd64", true),
            ("10.0", true),
            ("", false),
        ] {
            assert_eq!(is_at_least(release, KERNEL_MIN), is, "{release}");
        }
    }
}
