//! The simulator's side of `fs`: every operation takes a seeded virtual time, so that several are
//! in flight and complete in any order, and takes effect when it completes. An operation whose node
//! has died meanwhile never completes.

use std::cell::RefMut;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::Place;
use super::disk::{Disk, FaultOn};
use super::exec::Core;
use super::inode::{FileRef, to_blocks};
use super::node::Node;
use crate::fs::{AlignedBuf, BLOCK_BYTES, DirEntry, OpenMode, Space};
use crate::oneshot::Slot;

/// One operation in so many is slow.
const SLOW_ONE_IN: u32 = 64;
/// How much slower it is.
const SLOW_FACTOR: u64 = 16;

/// Kinds of operations, as they appear in the trace.
#[derive(Clone, Copy)]
enum Op {
    Write = 10,
    Read = 11,
    Sync = 12,
    Length = 13,
    Truncate = 14,
    Directory = 15,
    SyncDirectory = 16,
    WriteDurably = 17,
}

/// The node's disk as seen by one life of the node.
#[derive(Clone)]
struct Volume {
    core: Rc<Core>,
    node: Rc<Node>,
    incarnation: u64,
}

/// An open simulated file.
#[derive(Clone)]
pub(crate) struct SimFile {
    volume: Volume,
    file: FileRef,
    path: Rc<str>,
    mode: OpenMode,
}

impl Volume {
    fn disk(&self) -> RefMut<'_, Disk> {
        self.node.disk.borrow_mut()
    }

    fn latency_ns(&self, op: Op) -> u64 {
        let latency = &self.core.options.latency;
        let range: &RangeInclusive<Duration> = match op {
            Op::Write => &latency.write,
            Op::Read => &latency.read,
            Op::Sync | Op::SyncDirectory | Op::WriteDurably => &latency.sync,
            Op::Length | Op::Truncate | Op::Directory => &latency.directory,
        };
        let ns = |duration: &Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let mut rng = self.core.io_rng.borrow_mut();
        let drawn = rng.u64(ns(range.start())..=ns(range.end()));
        let slow = if rng.u32(..SLOW_ONE_IN) == 0 { SLOW_FACTOR } else { 1 };
        drawn * slow * self.disk().slowness
    }

    /// Runs `effect` after a latency if the node still lives then. Submitted when called.
    fn submit<T: 'static>(
        &self,
        op: Op,
        subject: [u64; 2],
        effect: impl FnOnce(&Self) -> Option<io::Result<T>> + 'static,
    ) -> Slot<io::Result<T>> {
        let slot = Slot::new();
        let done = slot.clone();
        let volume = self.clone();
        self.core.after(self.latency_ns(op), move |core| {
            if !volume.node.is_alive_in(volume.incarnation) {
                return;
            }
            if let Some(result) = effect(&volume) {
                let failed = u64::from(result.is_err());
                core.trace(&[op as u64, core.now_ns(), subject[0], subject[1], failed]);
                done.fill(result);
            }
        });
        slot
    }

    async fn directory<T: 'static>(
        &self,
        path: &Path,
        effect: impl FnOnce(&mut Disk) -> io::Result<T> + 'static,
    ) -> io::Result<T> {
        let path = path.to_string_lossy().into_owned();
        let run = move |volume: &Self| {
            let mut disk = volume.disk();
            Some(disk.check(FaultOn::Directory, &path).and_then(|()| effect(&mut disk)))
        };
        self.submit(Op::Directory, [0; 2], run).await
    }
}

impl SimFile {
    fn id(&self) -> u64 {
        self.file.borrow().id
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.mode.writes() { Ok(()) } else { Err(nix::errno::Errno::EBADF.into()) }
    }

    pub(crate) async fn write_at(&self, buf: AlignedBuf, position: u64) -> io::Result<AlignedBuf> {
        let flight = self.departs(&buf, position)?;
        let path = Rc::clone(&self.path);
        let effect = move |volume: &Volume| {
            let arrived = volume.disk().write_arrives(flight, &path)?;
            Some(arrived.map(drop))
        };
        self.volume.submit(Op::Write, [self.id(), position], effect).await?;
        Ok(buf)
    }

    /// In flight until it is durable: what a crash before that leaves is what a write in flight
    /// leaves.
    pub(crate) async fn write_durably(&self, buf: AlignedBuf, position: u64) -> io::Result<AlignedBuf> {
        assert!(self.mode == OpenMode::Durable, "the file is open for durable writes");
        let flight = self.departs(&buf, position)?;
        let this = self.clone();
        let effect = move |volume: &Volume| {
            let arrived = volume.disk().write_arrives(flight, &this.path)?;
            Some(arrived.and_then(|seq| {
                let synced = volume.disk().check(FaultOn::Sync, &this.path);
                let mut file = this.file.borrow_mut();
                match &synced {
                    Ok(()) => file.sync_one(seq),
                    Err(_) => file.fail_sync_of_one(seq, &mut volume.core.io_rng.borrow_mut()),
                }
                synced
            }))
        };
        self.volume.submit(Op::WriteDurably, [self.id(), position], effect).await?;
        Ok(buf)
    }

    fn departs(&self, buf: &AlignedBuf, position: u64) -> io::Result<u64> {
        self.check_writable()?;
        let first = usize::try_from(position / BLOCK_BYTES as u64)
            .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        Ok(self.volume.disk().write_departs(&self.file, first, to_blocks(buf)))
    }

    pub(crate) async fn read_at(&self, position: u64, len: usize) -> io::Result<Bytes> {
        let this = self.clone();
        let effect = move |volume: &Volume| {
            let checked = volume.disk().check(FaultOn::Read, &this.path);
            Some(checked.map(|()| this.file.borrow().read(position, len)))
        };
        self.volume.submit(Op::Read, [self.id(), position], effect).await
    }

    pub(crate) async fn sync_data(&self) -> io::Result<()> {
        let mark = self.volume.disk().mark();
        let this = self.clone();
        let effect = move |volume: &Volume| {
            let checked = volume.disk().check(FaultOn::Sync, &this.path);
            let mut file = this.file.borrow_mut();
            match &checked {
                Ok(()) => file.sync(mark),
                Err(_) => file.fail_sync(mark, &mut volume.core.io_rng.borrow_mut()),
            }
            Some(checked)
        };
        self.volume.submit(Op::Sync, [self.id(), mark], effect).await
    }

    pub(crate) async fn len(&self) -> io::Result<u64> {
        let file = Rc::clone(&self.file);
        let effect = move |_: &Volume| Some(Ok(file.borrow().len()));
        self.volume.submit(Op::Length, [self.id(), 0], effect).await
    }

    pub(crate) async fn truncate(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let file = Rc::clone(&self.file);
        let effect = move |volume: &Volume| {
            volume.disk().truncate(&file, len);
            Some(Ok(()))
        };
        self.volume.submit(Op::Truncate, [self.id(), len], effect).await
    }
}

impl Place {
    fn volume(&self) -> Volume {
        let node = self.core.nodes.borrow().get(&self.meta.node).cloned();
        let node = node.expect("the driver has no disk: run file operations on a node");
        Volume { core: Rc::clone(&self.core), node, incarnation: self.meta.incarnation }
    }

    async fn file(
        &self,
        path: &Path,
        mode: OpenMode,
        find: impl FnOnce(&mut Disk, &Path) -> io::Result<FileRef> + 'static,
    ) -> io::Result<SimFile> {
        let volume = self.volume();
        let owned = path.to_path_buf();
        let file = volume.directory(path, move |disk| find(disk, &owned)).await?;
        Ok(SimFile { volume, file, path: path.to_string_lossy().into(), mode })
    }

    pub(crate) async fn create_file(&self, path: &Path, mode: OpenMode) -> io::Result<SimFile> {
        self.file(path, mode, |disk, path| disk.create(path)).await
    }

    pub(crate) async fn open_file(&self, path: &Path, mode: OpenMode) -> io::Result<SimFile> {
        self.file(path, mode, |disk, path| disk.open(path)).await
    }

    pub(crate) async fn create_dir_all(&self, path: PathBuf) -> io::Result<()> {
        self.volume().directory(&path.clone(), move |disk| disk.create_dir_all(&path)).await
    }

    pub(crate) async fn remove_file(&self, path: PathBuf) -> io::Result<()> {
        self.volume().directory(&path.clone(), move |disk| disk.remove_file(&path)).await
    }

    pub(crate) async fn remove_dir(&self, path: PathBuf) -> io::Result<()> {
        self.volume().directory(&path.clone(), move |disk| disk.remove_dir(&path, false)).await
    }

    pub(crate) async fn remove_dir_all(&self, path: PathBuf) -> io::Result<()> {
        self.volume().directory(&path.clone(), move |disk| disk.remove_dir(&path, true)).await
    }

    pub(crate) async fn rename(&self, from: PathBuf, to: PathBuf) -> io::Result<()> {
        self.volume().directory(&from.clone(), move |disk| disk.rename(&from, &to)).await
    }

    pub(crate) async fn list_dir(&self, path: PathBuf) -> io::Result<Vec<DirEntry>> {
        self.volume().directory(&path.clone(), move |disk| disk.list_dir(&path)).await
    }

    pub(crate) async fn exists(&self, path: PathBuf) -> io::Result<bool> {
        self.volume().directory(&path.clone(), move |disk| disk.exists(&path)).await
    }

    pub(crate) async fn space(&self, path: PathBuf) -> io::Result<Space> {
        self.volume().directory(&path.clone(), move |disk| disk.space(&path)).await
    }

    pub(crate) async fn sync_dir(&self, path: PathBuf) -> io::Result<()> {
        let volume = self.volume();
        let mark = volume.disk().mark();
        let effect = move |volume: &Volume| {
            let mut disk = volume.disk();
            let checked = disk.check(FaultOn::Directory, &path.to_string_lossy());
            Some(checked.and_then(|()| disk.sync_dir(&path, mark)))
        };
        volume.submit(Op::SyncDirectory, [mark, 0], effect).await
    }
}
