//! A simulated disk: a directory tree, the directory operations that are not durable yet, faults,
//! and the writes in flight. Everything here happens at one instant; latency is the caller's.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Component, Path};
use std::rc::Rc;

use nix::errno::Errno;

use super::inode::{Block, ChangeKind, FileRef, Inode};
use crate::fs::{BLOCK_BYTES, DirEntry, Space};

type DirRef = Rc<RefCell<Dir>>;

#[derive(Clone)]
enum Entry {
    File(FileRef),
    Dir(DirRef),
}

/// What a disk without a limit says that it holds: 1 TiB.
const UNLIMITED_BLOCKS: u64 = 1 << 28;

/// A directory as it is seen, and as a power loss would leave it.
#[derive(Default)]
struct Dir {
    entries: BTreeMap<String, Entry>,
    durable: BTreeMap<String, Entry>,
}

/// One atomic change of the directory tree that is not durable yet.
struct DirChange {
    seq: u64,
    /// The entries that it sets or (with `None`) removes.
    sets: Vec<(DirRef, String, Option<Entry>)>,
}

/// A write that was submitted and has not completed.
struct InFlight {
    file: FileRef,
    change: ChangeKind,
}

/// Which operations a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOn {
    /// `File::read_at`
    Read,
    /// `File::write_at`, and the write in `File::write_durably`
    Write,
    /// `File::sync_data`, and the sync in `File::write_durably`
    Sync,
    /// Creating, renaming, removing and syncing directory entries.
    Directory,
}

struct Fault {
    on: FaultOn,
    path_part: String,
    skip: u32,
    times: u32,
    errno: Errno,
}

pub(super) struct Disk {
    root: DirRef,
    dir_changes: VecDeque<DirChange>,
    next_seq: u64,
    next_inode: u64,
    in_flight: BTreeMap<u64, InFlight>,
    next_flight: u64,
    faults: Vec<Fault>,
    used_blocks: Rc<Cell<u64>>,
    capacity_blocks: Option<u64>,
    /// Multiplies every latency.
    pub(super) slowness: u64,
}

fn names(path: &Path) -> io::Result<Vec<&str>> {
    path.components()
        .filter(|part| !matches!(part, Component::RootDir | Component::CurDir))
        .map(|part| match part {
            Component::Normal(name) => name.to_str().ok_or(io::ErrorKind::InvalidInput.into()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        })
        .collect()
}

impl Disk {
    pub(super) fn new() -> Self {
        Self {
            root: DirRef::default(),
            dir_changes: VecDeque::new(),
            next_seq: 0,
            next_inode: 1,
            in_flight: BTreeMap::new(),
            next_flight: 0,
            faults: Vec::new(),
            used_blocks: Rc::default(),
            capacity_blocks: None,
            slowness: 1,
        }
    }

    fn next_seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq - 1
    }

    /// A sync that is called now covers every change with an earlier position.
    pub(super) fn mark(&self) -> u64 {
        self.next_seq
    }

    // --- faults ---

    pub(super) fn add_fault(&mut self, on: FaultOn, path_part: &str, skip: u32, times: u32, errno: Errno) {
        self.faults.push(Fault { on, path_part: path_part.to_owned(), skip, times, errno });
    }

    pub(super) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    /// Fails if a fault is set for this operation.
    pub(super) fn check(&mut self, on: FaultOn, path: &str) -> io::Result<()> {
        for fault in &mut self.faults {
            if fault.on != on || fault.times == 0 || !path.contains(&fault.path_part) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            fault.times -= 1;
            return Err(fault.errno.into());
        }
        Ok(())
    }

    pub(super) fn set_free_bytes(&mut self, free: Option<u64>) {
        self.capacity_blocks = free.map(|free| self.used_blocks.get() + free / BLOCK_BYTES as u64);
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_blocks.get() * BLOCK_BYTES as u64
    }

    // --- files ---

    pub(super) fn create(&mut self, path: &Path) -> io::Result<FileRef> {
        let (dir, name) = self.parent_of(path)?;
        if dir.borrow().entries.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = Inode::new(self.next_inode, Rc::clone(&self.used_blocks));
        self.next_inode += 1;
        let file = Rc::new(RefCell::new(inode));
        self.change(vec![(dir, name, Some(Entry::File(Rc::clone(&file))))]);
        Ok(file)
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<FileRef> {
        match self.find(path)? {
            Entry::File(file) => Ok(file),
            Entry::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// Takes note of a write on its way; [`Self::write_arrives`] ends it.
    pub(super) fn write_departs(&mut self, file: &FileRef, first: usize, blocks: Vec<Rc<Block>>) -> u64 {
        let flight = self.next_flight;
        self.next_flight += 1;
        let change = ChangeKind::Write { first, blocks };
        self.in_flight.insert(flight, InFlight { file: Rc::clone(file), change });
        flight
    }

    /// The write completes, as the change with the answered number. `None`: it went down with its
    /// process.
    pub(super) fn write_arrives(&mut self, flight: u64, path: &str) -> Option<io::Result<u64>> {
        let InFlight { file, change } = self.in_flight.remove(&flight)?;
        let ChangeKind::Write { first, blocks } = change else {
            return None;
        };
        if let Err(error) = self.check(FaultOn::Write, path) {
            return Some(Err(error));
        }
        let missing = file.borrow().missing(first, blocks.len());
        let full = |capacity| self.used_blocks.get() + missing > capacity;
        if self.capacity_blocks.is_some_and(full) {
            return Some(Err(Errno::ENOSPC.into()));
        }
        let seq = self.next_seq();
        file.borrow_mut().write(seq, first, blocks);
        Some(Ok(seq))
    }

    pub(super) fn truncate(&mut self, file: &FileRef, len: u64) {
        let seq = self.next_seq();
        file.borrow_mut().truncate(seq, len);
    }

    // --- directories ---

    fn find(&self, path: &Path) -> io::Result<Entry> {
        let mut at = Entry::Dir(Rc::clone(&self.root));
        for name in names(path)? {
            let Entry::Dir(dir) = at else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            let entry = dir.borrow().entries.get(name).cloned();
            at = entry.ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    fn find_dir(&self, path: &Path) -> io::Result<DirRef> {
        match self.find(path)? {
            Entry::Dir(dir) => Ok(dir),
            Entry::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn parent_of(&self, path: &Path) -> io::Result<(DirRef, String)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let name = name.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.find_dir(parent)?, name.to_owned()))
    }

    /// Makes a change visible, and notes that it is not durable.
    fn change(&mut self, sets: Vec<(DirRef, String, Option<Entry>)>) {
        for (dir, name, entry) in &sets {
            set(&mut dir.borrow_mut().entries, name, entry);
        }
        let seq = self.next_seq();
        self.dir_changes.push_back(DirChange { seq, sets });
    }

    pub(super) fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.find(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn space(&self, path: &Path) -> io::Result<Space> {
        self.find(path)?;
        let total = self.capacity_blocks.unwrap_or(UNLIMITED_BLOCKS);
        let usable = total.saturating_sub(self.used_blocks.get());
        let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
        Ok(Space { total_bytes: bytes(total), usable_bytes: bytes(usable) })
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut at = Rc::clone(&self.root);
        for name in names(path)? {
            let found = at.borrow().entries.get(name).cloned();
            let next = match found {
                Some(Entry::Dir(dir)) => dir,
                Some(Entry::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => {
                    let dir = DirRef::default();
                    self.change(vec![(at, name.to_owned(), Some(Entry::Dir(Rc::clone(&dir))))]);
                    dir
                }
            };
            at = next;
        }
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.open(path)?;
        let (dir, name) = self.parent_of(path)?;
        self.change(vec![(dir, name, None)]);
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, path: &Path, all: bool) -> io::Result<()> {
        let dir = self.find_dir(path)?;
        if all {
            let children: Vec<_> = dir.borrow().entries.clone().into_iter().collect();
            for (name, entry) in children {
                match entry {
                    Entry::File(_) => self.change(vec![(Rc::clone(&dir), name, None)]),
                    Entry::Dir(_) => self.remove_dir(&path.join(name), true)?,
                }
            }
        } else if !dir.borrow().entries.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (parent, name) = self.parent_of(path)?;
        self.change(vec![(parent, name, None)]);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let moved = self.find(from)?;
        let (from_dir, from_name) = self.parent_of(from)?;
        let (to_dir, to_name) = self.parent_of(to)?;
        let replaced = to_dir.borrow().entries.get(&to_name).cloned();
        match (&moved, replaced) {
            (_, None) | (Entry::File(_), Some(Entry::File(_))) => {}
            (Entry::Dir(_), Some(Entry::Dir(dir))) if dir.borrow().entries.is_empty() => {}
            (Entry::Dir(_), Some(Entry::Dir(_))) => {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            (Entry::File(_), Some(Entry::Dir(_))) => return Err(io::ErrorKind::IsADirectory.into()),
            (Entry::Dir(_), Some(Entry::File(_))) => {
                return Err(io::ErrorKind::NotADirectory.into());
            }
        }
        self.change(vec![(from_dir, from_name, None), (to_dir, to_name, Some(moved))]);
        Ok(())
    }

    pub(super) fn list_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let dir = self.find_dir(path)?;
        let describe = |(name, entry): (&String, &Entry)| {
            let (is_dir, len) = match entry {
                Entry::File(file) => (false, file.borrow().len()),
                Entry::Dir(_) => (true, 0),
            };
            DirEntry { name: name.clone(), is_dir, len }
        };
        Ok(dir.borrow().entries.iter().map(describe).collect())
    }

    /// A directory sync that was called at `mark`.
    pub(super) fn sync_dir(&mut self, path: &Path, mark: u64) -> io::Result<()> {
        let dir = self.find_dir(path)?;
        let (synced, rest) = std::mem::take(&mut self.dir_changes).into_iter().partition(|change| {
            change.seq < mark && change.sets.iter().any(|(at, _, _)| Rc::ptr_eq(at, &dir))
        });
        self.dir_changes = rest;
        land_dir_changes(synced);
        Ok(())
    }

    // --- death ---

    /// The process died: completed operations stay, writes in flight may have landed.
    pub(super) fn kill(&mut self, rng: &mut fastrand::Rng) {
        for (_, InFlight { file, change }) in std::mem::take(&mut self.in_flight) {
            if rng.bool() {
                let seq = self.next_seq();
                file.borrow_mut().kill_in_flight(seq, change, rng);
            }
        }
    }

    /// The power failed: only what was synced is certain, anything else may have landed.
    pub(super) fn lose_power(&mut self, rng: &mut fastrand::Rng) {
        let changes = std::mem::take(&mut self.dir_changes);
        let landed: Vec<DirChange> = match rng.u8(..4) {
            0 => changes.into_iter().collect(),
            1 => Vec::new(),
            2 => {
                let cut = rng.usize(..=changes.len());
                changes.into_iter().take(cut).collect()
            }
            _ => changes.into_iter().filter(|_| rng.bool()).collect(),
        };
        land_dir_changes(landed);
        let mut flights: Vec<InFlight> = std::mem::take(&mut self.in_flight).into_values().collect();
        rng.shuffle(&mut flights);
        let mut dirs = vec![Rc::clone(&self.root)];
        while let Some(dir) = dirs.pop() {
            let mut dir = dir.borrow_mut();
            dir.entries = dir.durable.clone();
            for entry in dir.entries.values() {
                match entry {
                    Entry::Dir(child) => dirs.push(Rc::clone(child)),
                    Entry::File(file) => {
                        let own = flights.extract_if(.., |flight| Rc::ptr_eq(&flight.file, file));
                        let own = own.map(|flight| flight.change).collect();
                        file.borrow_mut().lose_power(own, rng);
                    }
                }
            }
        }
    }
}

fn set(entries: &mut BTreeMap<String, Entry>, name: &str, entry: &Option<Entry>) {
    match entry {
        Some(entry) => entries.insert(name.to_owned(), entry.clone()),
        None => entries.remove(name),
    };
}

fn land_dir_changes(changes: impl IntoIterator<Item = DirChange>) {
    for change in changes {
        for (dir, name, entry) in &change.sets {
            set(&mut dir.borrow_mut().durable, name, entry);
        }
    }
}
