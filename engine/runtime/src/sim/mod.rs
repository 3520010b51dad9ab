//! The simulator: several nodes, each with shards and a disk, in one OS thread. One seed is one
//! run: scheduling, latencies, randomness, what a crash leaves on a disk.
//!
//! ```
//! use corelog_runtime::{fs, sim::{Sim, SimOptions}};
//! let sim = Sim::new(7, SimOptions::default());
//! sim.run_on(1, async { fs::create_dir_all("/data").await }).expect("an empty disk takes a directory");
//! sim.crash_node(1);
//! let there = sim.run_on(1, async { fs::exists("/data").await }).expect("a disk without faults");
//! // `there` depends on the seed: nobody synced "/".
//! # let _ = there;
//! ```

mod disk;
mod exec;
mod inode;
mod io;
mod node;

use std::cell::RefCell;
use std::fmt::Display;
use std::future::Future;
use std::ops::RangeInclusive;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;

pub use self::disk::FaultOn;
pub(crate) use self::exec::yield_now;
use self::exec::{Core, Meta, Sleep};
pub(crate) use self::io::SimFile;
use self::node::Node;
use crate::ctx::{Current, current};
use crate::mesh::Mesh;
use crate::oneshot::Slot;
use crate::shards::{ShardContext, StopFlag};
use crate::task::Class;

/// Wall-clock time at which every simulation starts: 2026-01-01, in milliseconds since 1970.
const UNIX_START_MS: i64 = 1_767_225_600_000;

/// Mesh messages arrive up to this much later.
const MESH_LATENCY_NS_MAX: u64 = 20_000;

/// How long I/O takes, in virtual time, drawn anew for each operation. A few operations are slower.
#[derive(Debug, Clone)]
pub struct Latency {
    /// Reads.
    pub read: RangeInclusive<Duration>,
    /// Writes.
    pub write: RangeInclusive<Duration>,
    /// Syncs of files and directories.
    pub sync: RangeInclusive<Duration>,
    /// Directory operations, opening and truncating.
    pub directory: RangeInclusive<Duration>,
}

/// What a simulation may take.
#[derive(Debug, Clone)]
pub struct SimOptions {
    /// How long I/O takes.
    pub latency: Latency,
    /// The run fails when it needs more virtual time than this.
    pub time_max: Duration,
}

impl Default for SimOptions {
    fn default() -> Self {
        let us = Duration::from_micros;
        Self {
            latency: Latency {
                read: us(20)..=us(500),
                write: us(20)..=us(500),
                sync: us(50)..=us(2_000),
                directory: us(10)..=us(200),
            },
            time_max: Duration::from_secs(24 * 3600),
        }
    }
}

/// One task's place in a simulation: what the facade modules call.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) core: Rc<Core>,
    meta: Meta,
}

impl Place {
    pub(crate) fn class(&self) -> Class {
        self.meta.class
    }

    pub(crate) fn spawn(&self, class: Class, future: impl Future<Output = ()> + 'static) {
        self.core.spawn(Meta { class, ..self.meta }, future);
    }

    pub(crate) fn wants_yield(&self) -> bool {
        self.core.one_in(4)
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.core.now_ns()
    }

    pub(crate) fn sleep_until_ns(&self, deadline_ns: u64) -> Sleep {
        self.core.sleep_until(deadline_ns)
    }

    pub(crate) fn unix_time_ms(&self) -> i64 {
        let nodes = self.core.nodes.borrow();
        let skew_ms = nodes.get(&self.meta.node).map_or(0, |node| node.clock_skew_ms.get());
        let passed_ms = (self.core.now_ns() - crate::time::CLOCK_START_NS) / 1_000_000;
        UNIX_START_MS + i64::try_from(passed_ms).unwrap_or(i64::MAX) + skew_ms
    }

    pub(crate) fn random_u64(&self) -> u64 {
        self.core.random_u64()
    }

    pub(crate) fn random_below(&self, n: u64) -> u64 {
        self.core.random_below(n)
    }

    pub(crate) fn stop_flag(&self) -> StopFlag {
        let nodes = self.core.nodes.borrow();
        nodes.get(&self.meta.node).map(|node| node.stop.borrow().clone()).unwrap_or_default()
    }

    /// Runs `deliver` after a mesh message's way.
    pub(crate) fn after_mesh_latency(&self, deliver: impl FnOnce() + 'static) {
        let delay_ns = self.core.io_rng.borrow_mut().u64(..MESH_LATENCY_NS_MAX);
        let place = self.clone();
        self.core.after(delay_ns, move |core| {
            core.trace(&[3, core.now_ns(), place.meta.shard as u64]);
            deliver();
        });
    }
}

/// A simulation. Cloning gives another handle; when the last one is dropped, all nodes die.
#[derive(Clone)]
pub struct Sim(Rc<Owner>);

struct Owner(Rc<Core>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.shut_down();
    }
}

/// How a node's life ended: a future of `Ok` when all its shards returned `Ok`, and otherwise of
/// the error. Never ready when the node is killed or crashes.
pub struct NodeExit(Slot<Result<(), String>>);

impl Future for NodeExit {
    type Output = Result<(), String>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0).poll(cx)
    }
}

impl Sim {
    /// A simulation without nodes.
    #[must_use]
    pub fn new(seed: u64, options: SimOptions) -> Self {
        Self(Rc::new(Owner(Rc::new(Core::new(seed, options)))))
    }

    fn core(&self) -> &Rc<Core> {
        &self.0.0
    }

    /// The seed of this run.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.core().seed
    }

    /// A hash of everything that happened so far. The same seed and program give the same.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.core().trace_hash()
    }

    fn node(&self, node: u32) -> Rc<Node> {
        assert!(node != exec::DRIVER, "node number {node} is the driver's");
        let mut nodes = self.core().nodes.borrow_mut();
        Rc::clone(nodes.entry(node).or_insert_with(|| Rc::new(Node::new(node))))
    }

    /// Starts a node: `shard_main` runs once for each shard, as under [`crate::shards::run`]. When
    /// all shards have returned the process is over, and what it spawned dies with it; when one
    /// returns an error, that is at once.
    ///
    /// # Panics
    /// When the node runs already.
    pub fn start_node<Q, A, F, Fut, E>(&self, node: u32, shards: usize, shard_main: F) -> NodeExit
    where
        Q: Send + 'static,
        A: Send + 'static,
        F: Fn(ShardContext<Q, A>) -> Fut + Clone + 'static,
        Fut: Future<Output = Result<(), E>> + 'static,
        E: Display + 'static,
    {
        assert!(shards > 0, "a node has at least one shard");
        let node = self.node(node);
        let (incarnation, exit) = node.start(shards);
        let meshes = Mesh::<Q, A>::simulated(shards);
        for (shard, mesh) in meshes.into_iter().enumerate() {
            let meta = Meta { id: 0, node: node.id, incarnation, shard, class: Class::Serve };
            let (core, node, shard_main) = (Rc::clone(self.core()), Rc::clone(&node), shard_main.clone());
            let weak = Rc::downgrade(self.core());
            core.spawn(meta, async move {
                let context = ShardContext { shard, shards, mesh: mesh.clone() };
                let result = shard_main(context).await.map_err(|error| format!("{error:#}"));
                mesh.close();
                node.running_shards.set(node.running_shards.get() - 1);
                if result.is_err() || node.running_shards.get() == 0 {
                    // Not from here: a task cannot drop itself.
                    let Some(core) = weak.upgrade() else { return };
                    core.after(0, move |core| end_process(core, &node, incarnation, result));
                }
            });
        }
        NodeExit(exit)
    }

    /// Runs `future` on a node that is not running, as a process with one shard, until it returns.
    ///
    /// # Panics
    /// When the node runs already.
    pub fn run_on<T: 'static>(&self, node: u32, future: impl Future<Output = T> + 'static) -> T {
        let output = Rc::new(RefCell::new(None));
        let future = Rc::new(RefCell::new(Some(future)));
        let result = Rc::clone(&output);
        let exit = self.start_node(node, 1, move |_: ShardContext<(), ()>| {
            let future = future.borrow_mut().take().expect("the only shard starts once");
            let result = Rc::clone(&result);
            async move {
                let value = future.await;
                *result.borrow_mut() = Some(value);
                Ok::<(), std::convert::Infallible>(())
            }
        });
        self.run_until(exit).expect("this process cannot fail");
        output.borrow_mut().take().expect("the process ended after it set its result")
    }

    /// Runs everything until `driver` is ready. The driver belongs to no node and has no disk; it
    /// may use time and randomness, and start, stop, kill and crash nodes.
    ///
    /// # Panics
    /// When any task panics, when nothing can run any more, or when [`SimOptions::time_max`] is
    /// over; the seed is printed.
    pub fn run_until<T>(&self, driver: impl Future<Output = T>) -> T {
        self.core().run_until(driver)
    }

    /// Asks a node to stop, as SIGTERM does: see [`crate::shards::stop_signal`].
    pub fn stop_node(&self, node: u32) {
        let flag = self.node(node).stop.borrow().clone();
        flag.raise();
    }

    /// `kill -9`: the tasks are gone. Completed writes and directory operations stay, synced or
    /// not; writes in flight may have landed.
    pub fn kill_process(&self, node: u32) {
        let node = self.node(node);
        kill(self.core(), &node);
        self.core().trace(&[4, u64::from(node.id)]);
    }

    /// Power loss: the tasks are gone, and of all that was not synced any part may be lost: sectors
    /// of writes (512 or 4096 bytes), lengths, directory operations.
    pub fn crash_node(&self, node: u32) {
        let node = self.node(node);
        node.die();
        drop_node_tasks(self.core(), &node);
        node.disk.borrow_mut().lose_power(&mut self.core().io_rng.borrow_mut());
        self.core().trace(&[5, u64::from(node.id)]);
    }

    /// Whether the node runs.
    #[must_use]
    pub fn is_running(&self, node: u32) -> bool {
        self.node(node).is_alive()
    }

    /// Sets how far the node's wall clock is off. The monotonic clock is never touched.
    pub fn set_clock_skew_ms(&self, node: u32, skew_ms: i64) {
        self.node(node).clock_skew_ms.set(skew_ms);
    }

    /// The node's disk, for faults and for a look from outside.
    #[must_use]
    pub fn disk(&self, node: u32) -> DiskHandle {
        DiskHandle(self.node(node))
    }
}

/// Runs `future` as the only process of a simulation of its own.
pub fn block_on<T: 'static>(seed: u64, future: impl Future<Output = T> + 'static) -> T {
    Sim::new(seed, SimOptions::default()).run_on(1, future)
}

fn drop_node_tasks(core: &Rc<Core>, node: &Node) {
    core.drop_tasks(|meta| meta.node == node.id);
}

fn kill(core: &Rc<Core>, node: &Node) {
    node.die();
    drop_node_tasks(core, node);
    node.disk.borrow_mut().kill(&mut core.io_rng.borrow_mut());
}

fn end_process(core: &Rc<Core>, node: &Node, incarnation: u64, result: Result<(), String>) {
    if node.is_alive_in(incarnation) {
        kill(core, node);
        node.tell_exit(result);
    }
}

/// A handle to a node's virtual disk.
#[derive(Clone)]
pub struct DiskHandle(Rc<Node>);

impl DiskHandle {
    /// The next `times` operations of this kind on paths that contain `path_part` fail with EIO.
    /// After a failed sync, some of what it was for is never written, whatever a later sync says.
    pub fn fail(&self, on: FaultOn, path_part: &str, times: u32) {
        self.fail_after(on, path_part, 0, times);
    }

    /// As [`Self::fail`], after `skip` operations that succeed.
    pub fn fail_after(&self, on: FaultOn, path_part: &str, skip: u32, times: u32) {
        self.0.disk.borrow_mut().add_fault(on, path_part, skip, times, Errno::EIO);
    }

    /// Takes back all faults set by [`Self::fail`].
    pub fn clear_faults(&self) {
        self.0.disk.borrow_mut().clear_faults();
    }

    /// Writes that need more than `free` further bytes of space fail with ENOSPC; `None`: endless.
    pub fn set_free_bytes(&self, free: Option<u64>) {
        self.0.disk.borrow_mut().set_free_bytes(free);
    }

    /// Space that files use.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.0.disk.borrow().used_bytes()
    }

    /// Every operation takes `factor` times as long.
    pub fn set_slowness(&self, factor: u32) {
        self.0.disk.borrow_mut().slowness = u64::from(factor);
    }

    /// Inverts a bit of a file, as a bad disk might.
    ///
    /// # Panics
    /// When there is no such file, or `position_bytes` is past its end.
    pub fn flip_bit(&self, path: impl AsRef<Path>, position_bytes: u64, bit: u8) {
        assert!(bit < 8, "a byte has bits 0 to 7");
        let file = self.0.disk.borrow().open(path.as_ref()).expect("a file to damage");
        assert!(position_bytes < file.borrow().len(), "the damage lies inside of the file");
        file.borrow_mut().flip_bit(position_bytes, bit);
    }

    /// The file's content as reads would see it; `None` when there is no such file.
    #[must_use]
    pub fn content(&self, path: impl AsRef<Path>) -> Option<Bytes> {
        let file = self.0.disk.borrow().open(path.as_ref()).ok()?;
        let file = file.borrow();
        Some(file.read(0, usize::try_from(file.len()).ok()?))
    }

    /// The names in a directory, sorted; empty when there is no such directory.
    #[must_use]
    pub fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = self.0.disk.borrow().list_dir(path.as_ref()).unwrap_or_default();
        entries.into_iter().map(|entry| entry.name).collect()
    }
}

/// The simulation that the caller's task belongs to.
pub(crate) fn place() -> Place {
    match current() {
        Current::Sim(place) => place,
        Current::Real(_) => unreachable!("a simulated mesh is only used inside its simulation"),
    }
}
