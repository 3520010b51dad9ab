//! The directory of a node that was started for a run: made for it, and removed with it.
//!
//! | In it | |
//! |---|---|
//! | `corelog-bench.owner` | whose it is: locked as long as the process lives that took the directory |
//! | `data/` | the node's data directory |
//! | `log` | what it printed; the end of it is part of every error |
//!
//! Nothing else is ever removed. What a process left behind that was killed is recognised by its
//! mark, which nobody locks any more and which names the directory's inode: a copy that someone made
//! of it is not ours.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use corelog_runtime::checks::check_data_dir_is_free;
use nix::fcntl::{Flock, FlockArg, OFlag};

use super::END_INTERVAL;
use crate::result::machine::{describe_storage, is_memory};

/// Directories that nobody named are called so, with the process id of their owner.
pub(super) const OWN_PREFIX: &str = "corelog-bench-data-";
const MARK: &str = "corelog-bench.owner";
/// A mark is shorter.
const MARK_BYTES_MAX: u64 = 256;
/// A node is killed with its owner, but is not gone before its writes in flight are done.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(20);
/// So much of the end of a node's log is part of an error.
const LOG_TAIL_BYTES: u64 = 2048;

/// A directory that is this process's; emptied or removed when dropped.
#[derive(Debug)]
pub(super) struct Dir {
    path: PathBuf,
    origin: Origin,
    _mark: Flock<File>,
}

/// What becomes of the directory itself in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// It was made for the node, and goes with it.
    Made,
    /// It was there and empty, such as a mount point, and stays.
    Found,
}

impl Dir {
    /// Takes a directory that is not there, or empty, or left behind.
    pub(super) fn take(path: &Path) -> Result<Self> {
        let storage = describe_storage(path)?;
        ensure!(
            !is_memory(&storage),
            "{} is on {}, which is memory: nothing is durable there; name a directory on a disk with \
             --data-dir",
            path.display(),
            storage.file_system
        );
        let path = std::path::absolute(path)?;
        remove_left_behind(&path);
        if is_own_name(&path) {
            remove_left_behind_beside(&path);
        }
        let origin = if path.exists() { Origin::Found } else { Origin::Made };
        if origin == Origin::Found {
            ensure_empty(&path)?;
        }
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let mark =
            set_mark(&path, origin).with_context(|| format!("cannot write {}", path.join(MARK).display()))?;
        let dir = Self { path, origin, _mark: mark };
        fs::create_dir(dir.data()).with_context(|| format!("cannot create {}", dir.data().display()))?;
        Ok(dir)
    }

    pub(super) fn data(&self) -> PathBuf {
        data_in(&self.path)
    }

    pub(super) fn log(&self) -> PathBuf {
        log_in(&self.path)
    }

    /// Where the node listens, once it says so. The file may be half-written.
    pub(super) fn address(&self) -> Result<Option<SocketAddr>> {
        let text = match fs::read_to_string(self.data().join("corelog.addresses")) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        address_of(&text)
    }

    /// The end of the log, for an error's text.
    pub(super) fn log_tail(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(self.log())?;
            let from = file.metadata()?.len().saturating_sub(LOG_TAIL_BYTES);
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        match read() {
            Ok(text) if text.is_empty() => String::new(),
            Ok(text) => format!("; the end of its log:\n{text}"),
            Err(error) => format!("; its log cannot be read: {error}"),
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.path, self.origin) {
            tracing::warn!(dir = %self.path.display(), %error, "the node's directory cannot be removed");
        }
    }
}

fn data_in(dir: &Path) -> PathBuf {
    dir.join("data")
}

fn log_in(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// The address in the first line, if that is whole.
fn address_of(text: &str) -> Result<Option<SocketAddr>> {
    let Some((line, _)) = text.split_once('\n') else {
        return Ok(None);
    };
    let address = line.strip_prefix("kafka=").with_context(|| format!("no address: {line}"))?;
    Ok(Some(address.parse().with_context(|| format!("no address: {line}"))?))
}

fn ensure_empty(path: &Path) -> Result<()> {
    let mut entries = fs::read_dir(path)
        .with_context(|| format!("{} is not a directory that can be read", path.display()))?;
    // Every ext4 file system has one of these in its root.
    let foreign = entries.find(|entry| !matches!(entry, Ok(it) if it.file_name() == "lost+found"));
    ensure!(
        foreign.is_none(),
        "{} is not empty: --data-dir names a directory for the node alone, which is removed afterwards",
        path.display()
    );
    Ok(())
}

/// Removes what [`Dir`] made. The mark is the last to go: what is left of an attempt that does not
/// come to its end is recognised by it.
fn clear(path: &Path, origin: Origin) -> io::Result<()> {
    fn unless_gone(removed: io::Result<()>) -> io::Result<()> {
        removed.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
    }
    unless_gone(fs::remove_dir_all(data_in(path)))?;
    unless_gone(fs::remove_file(log_in(path)))?;
    unless_gone(fs::remove_file(path.join(MARK)))?;
    match origin {
        Origin::Made => unless_gone(fs::remove_dir(path)),
        Origin::Found => Ok(()),
    }
}

/// What the mark of a directory says.
fn mark_text(dir: &Path, origin: Origin) -> io::Result<String> {
    let inode = fs::symlink_metadata(dir)?.ino();
    let origin = match origin {
        Origin::Made => "made",
        Origin::Found => "found",
    };
    Ok(format!("corelog bench has {origin} this directory, inode {inode}, and removes what it puts here\n"))
}

fn set_mark(dir: &Path, origin: Origin) -> io::Result<Flock<File>> {
    let file = OpenOptions::new().write(true).create_new(true).open(dir.join(MARK))?;
    // Another process may be looking at it for a moment. It does nothing, as the text is not there yet.
    let mut mark = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))?;
    mark.write_all(mark_text(dir, origin)?.as_bytes())?;
    Ok(mark)
}

/// Locks the mark of a directory whose owner is gone.
fn take_left_behind(dir: &Path) -> io::Result<Option<(Origin, Flock<File>)>> {
    if !fs::symlink_metadata(dir).is_ok_and(|it| it.is_dir()) {
        return Ok(None);
    }
    let path = dir.join(MARK);
    let mut options = OpenOptions::new();
    let file = match options.read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Ok(mut mark) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
        return Ok(None);
    };
    // Whoever was faster may have removed this mark, and set a new one that it has locked.
    if !fs::symlink_metadata(&path).is_ok_and(|now| mark.metadata().is_ok_and(|ours| now.ino() == ours.ino()))
    {
        return Ok(None);
    }
    let mut text = Vec::new();
    Read::take(&mut *mark, MARK_BYTES_MAX).read_to_end(&mut text)?;
    for origin in [Origin::Made, Origin::Found] {
        if text == mark_text(dir, origin)?.as_bytes() {
            return Ok(Some((origin, mark)));
        }
    }
    Ok(None)
}

/// Removes what a process that was killed left in `dir`, if it is that.
fn remove_left_behind(dir: &Path) {
    let remove = || -> io::Result<()> {
        let Some((origin, _mark)) = take_left_behind(dir)? else {
            return Ok(());
        };
        let deadline = Instant::now() + ORPHAN_TIMEOUT;
        // By now nobody but its node, or one that someone else has started on these data.
        while let Err(error) = check_data_dir_is_free(&data_in(dir)) {
            if Instant::now() >= deadline {
                return Err(io::Error::other(error));
            }
            std::thread::sleep(END_INTERVAL);
        }
        clear(dir, origin)?;
        tracing::warn!(dir = %dir.display(), "removed what a run that was killed had left behind");
        Ok(())
    };
    if let Err(error) = remove() {
        tracing::warn!(dir = %dir.display(), %error, "what a run that was killed has left behind stays");
    }
}

/// As [`remove_left_behind`], in every directory beside `dir` that nobody named.
fn remove_left_behind_beside(dir: &Path) {
    let Some(entries) = dir.parent().and_then(|parent| fs::read_dir(parent).ok()) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| is_own_name(path)) {
        remove_left_behind(&path);
    }
}

fn is_own_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let id = name.and_then(|name| name.strip_prefix(OWN_PREFIX)).unwrap_or_default();
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a killed process leaves: nobody holds the lock.
    fn leave_behind(path: &Path, origin: Origin) {
        fs::create_dir_all(data_in(path)).unwrap();
        drop(set_mark(path, origin).unwrap());
        fs::write(data_in(path).join("segment"), "x").unwrap();
        fs::write(log_in(path), "x").unwrap();
    }

    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<_> = entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_left_behind_goes_with_its_directory_if_that_was_made() {
        let dir = tempfile::tempdir().unwrap();
        let (made, found) =
            (dir.path().join("corelog-bench-data-1"), dir.path().join("corelog-bench-data-2"));
        leave_behind(&made, Origin::Made);
        leave_behind(&found, Origin::Found);
        remove_left_behind_beside(&dir.path().join("corelog-bench-data-3"));
        assert_eq!(names(dir.path()), ["corelog-bench-data-2"]);
        assert!(names(&found).is_empty());
    }

    #[test]
    fn what_is_in_use_copied_unmarked_or_of_another_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // Its process lives.
        leave_behind(&at("corelog-bench-data-1"), Origin::Made);
        fs::remove_file(at("corelog-bench-data-1").join(MARK)).unwrap();
        let _alive = set_mark(&at("corelog-bench-data-1"), Origin::Made).unwrap();
        // Someone has kept a copy.
        leave_behind(&at("original"), Origin::Made);
        fs::create_dir_all(data_in(&at("corelog-bench-data-2"))).unwrap();
        fs::copy(at("original").join(MARK), at("corelog-bench-data-2").join(MARK)).unwrap();
        // Only the name is ours.
        fs::create_dir_all(data_in(&at("corelog-bench-data-3"))).unwrap();
        // A link to one that is elsewhere, and names that we do not give.
        leave_behind(&at("elsewhere"), Origin::Made);
        std::os::unix::fs::symlink(at("elsewhere"), at("corelog-bench-data-4")).unwrap();
        leave_behind(&at("corelog-bench-data-"), Origin::Made);
        leave_behind(&at("corelog-bench-data-5.kept"), Origin::Made);
        // The mark is a link.
        fs::create_dir_all(data_in(&at("corelog-bench-data-6"))).unwrap();
        std::os::unix::fs::symlink(at("elsewhere").join(MARK), at("corelog-bench-data-6").join(MARK))
            .unwrap();
        let before = names(dir.path());
        remove_left_behind_beside(&at("corelog-bench-data-9"));
        assert_eq!(names(dir.path()), before);
        for name in before {
            assert!(data_in(&at(&name)).exists(), "{name}");
        }
    }

    #[test]
    fn what_someone_put_beside_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("corelog-bench-data-1");
        leave_behind(&path, Origin::Made);
        fs::write(path.join("notes"), "x").unwrap();
        remove_left_behind(&path);
        assert_eq!(names(&path), ["notes"]);
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_none_yet_or_an_error(text in "(kafka=)?[0-9.:\\[\\]a-f]{0,24}(\n.{0,20})?|.{0,40}") {
            let found = address_of(&text);
            prop_assert_eq!(matches!(found, Ok(None)), !text.contains('\n'));
        }
    }
}
