//! A node as a child process, on a directory and on cores of its own.
//!
//! Plain threads start and stop it, never an executor: everything here blocks. The directory is
//! the node's from [`Node::start`] on and is removed with it. A node never outlives this process;
//! when that is killed, the directory stays, until the next node is started there or beside it.

mod dir;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use corelog_runtime::child::die_with_spawner;
use corelog_runtime::error::with_causes;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use self::dir::Dir;
pub use crate::cores::pick_cores;

/// How long a node may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a node may take to stop in order.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at whether it is ready: the error of the start time.
const READY_INTERVAL: Duration = Duration::from_millis(1);
/// Between two looks at whether it has ended.
const END_INTERVAL: Duration = Duration::from_millis(10);
/// How long one attempt to be answered may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Variables that configure a node begin so; those of this process are not the child's.
const VARIABLE_PREFIX: &str = "CORELOG_";

/// What an acknowledgement of the node means where a topic does not say otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeDurability {
    /// The record is on disk.
    #[default]
    Fsync,
    /// The record was given to the operating system.
    Write,
}

impl NodeDurability {
    /// Its name in the configuration and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::Write => "write",
        }
    }
}

/// Which node to start.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// The `corelog` binary: usually the running one.
    pub binary: PathBuf,
    /// A directory on a real disk that is empty or not there, or was left behind by a process that was
    /// killed; removed afterwards.
    pub data_dir: PathBuf,
    /// The cores that it is pinned to, with all its threads; one shard on each.
    pub cores: Vec<usize>,
    /// Default of its topics.
    pub durability: NodeDurability,
    /// Further settings, as the environment has them: `CORELOG_JOURNAL_MAX_FILES` and its value.
    pub environment: Vec<(String, String)>,
}

impl NodeSpec {
    /// A node of the running binary on these cores, in `./corelog-bench-data-<pid>`.
    ///
    /// # Errors
    /// The operating system does not know which binary runs.
    pub fn new(cores: Vec<usize>) -> Result<Self> {
        Ok(Self {
            binary: std::env::current_exe().context("cannot find the running binary")?,
            data_dir: PathBuf::from(format!("./{}{}", dir::OWN_PREFIX, std::process::id())),
            cores,
            durability: NodeDurability::default(),
            environment: Vec::new(),
        })
    }
}

/// A running node. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct Node {
    address: SocketAddr,
    command: Vec<String>,
    start_ms: f64,
    process: Process,
    // Last: the data go when the process is gone.
    dir: Dir,
}

impl Node {
    /// Starts a node, and waits until it answers.
    ///
    /// # Errors
    /// A directory that is in use, or in memory; a node that ends, or does not answer within 30 s,
    /// with the end of its log.
    pub fn start(spec: NodeSpec) -> Result<Self> {
        let dir = Dir::take(&spec.data_dir)?;
        let (mut command, shown) = command(&spec, &dir)?;
        let started = Instant::now();
        let mut process = Process::start(&mut command, &spec.cores)
            .with_context(|| format!("cannot start {}", spec.binary.display()))?;
        let address = match wait_until_ready(&mut process, &dir, started + START_TIMEOUT) {
            Ok(address) => address,
            Err(error) => bail!("{}{}", with_causes(error.as_ref()), dir.log_tail()),
        };
        let start_ms = started.elapsed().as_secs_f64() * 1e3;
        Ok(Self { address, command: shown, start_ms, process, dir })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// What started it: variables, the binary, its arguments.
    #[must_use]
    pub fn command(&self) -> &[String] {
        &self.command
    }

    /// From before its process was made to its first answer to a Kafka request, in ms.
    #[must_use]
    pub fn start_ms(&self) -> f64 {
        self.start_ms
    }

    /// Stops it in order, and removes its data.
    ///
    /// # Errors
    /// A node that has ended before, ends with an error or not within 30 s, with the end of its log.
    pub fn stop(mut self) -> Result<()> {
        let ended = self.process.stop(STOP_TIMEOUT);
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => bail!("the node ended with {status}{}", self.dir.log_tail()),
            Err(error) => bail!("{}{}", with_causes(error.as_ref()), self.dir.log_tail()),
        }
    }
}

/// The command, and what it is in words.
fn command(spec: &NodeSpec, dir: &Dir) -> Result<(Command, Vec<String>)> {
    let mut variables = vec![("CORELOG_TOPICS_DURABILITY".to_owned(), spec.durability.name().to_owned())];
    variables.extend(spec.environment.iter().cloned());
    let cores: Vec<String> = spec.cores.iter().map(ToString::to_string).collect();
    let data = dir.data();
    let data = data.to_str().with_context(|| format!("{} is not UTF-8", data.display()))?;
    let cores = cores.join(",");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--http", "", "--data-dir", data, "--cores", &cores];

    let log = File::create(dir.log()).with_context(|| format!("cannot write {}", dir.log().display()))?;
    let mut command = Command::new(&spec.binary);
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with(VARIABLE_PREFIX))
    {
        command.env_remove(name);
    }
    command.args(arguments).envs(variables.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Ctrl-C is for us: we stop the node when we are done with it.
    command.process_group(0);

    let mut shown: Vec<String> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
    shown.push(spec.binary.display().to_string());
    shown.extend(arguments.map(str::to_owned));
    Ok((command, shown))
}

/// Waits for the file with the address, then for an answer.
fn wait_until_ready(process: &mut Process, dir: &Dir, deadline: Instant) -> Result<SocketAddr> {
    loop {
        if let Some(status) = process.child.try_wait()? {
            bail!("the node ended with {status} before it answered");
        }
        if let Some(address) = dir.address()?
            && answers(address).is_ok()
        {
            return Ok(address);
        }
        ensure!(Instant::now() < deadline, "the node did not answer within {} s", START_TIMEOUT.as_secs());
        std::thread::sleep(READY_INTERVAL);
    }
}

/// Asks for the API versions, the first thing that every Kafka client asks for.
fn answers(address: SocketAddr) -> io::Result<()> {
    const CORRELATION: [u8; 4] = *b"core";
    let mut request = Vec::new();
    request.extend(10_i32.to_be_bytes());
    request.extend(18_i16.to_be_bytes());
    request.extend(0_i16.to_be_bytes());
    request.extend(CORRELATION);
    // No client id.
    request.extend((-1_i16).to_be_bytes());
    let mut stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.write_all(&request)?;
    // Length, correlation id, error code.
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    let good = reply[4..8] == CORRELATION && reply[8..] == [0, 0];
    if good { Ok(()) } else { Err(io::Error::from(io::ErrorKind::InvalidData)) }
}

/// The child, and the thread that it is bound to.
#[derive(Debug)]
struct Process {
    child: Child,
    /// The kernel kills the child when the thread ends that started it. That thread lives until
    /// this is dropped.
    release: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Process {
    fn start(command: &mut Command, cores: &[usize]) -> Result<Self> {
        let mut set = CpuSet::new();
        for core in cores {
            set.set(*core).map_err(|_| anyhow!("there is no core {core}"))?;
        }
        ensure!(!cores.is_empty(), "a node needs a core");
        die_with_spawner(command);
        let (release, released) = mpsc::channel::<()>();
        let (give, given) = mpsc::channel();
        let mut command = std::mem::replace(command, Command::new(""));
        let keeper = std::thread::Builder::new().name("node-keeper".into()).spawn(move || {
            // The child inherits cores and blocked signals of this thread.
            let prepared =
                sched_setaffinity(Pid::from_raw(0), &set).and_then(|()| SigSet::empty().thread_set_mask());
            let child = prepared.map_err(io::Error::from).and_then(|()| command.spawn());
            if give.send(child).is_ok() {
                // An error: the other end is gone, which is what this waits for.
                let _gone = released.recv();
            }
        })?;
        let child = given.recv().context("the thread that starts the node ended")??;
        Ok(Self { child, release: Some(release), keeper: Some(keeper) })
    }

    /// Asks it to end, and kills it if it does not.
    fn stop(&mut self, timeout: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the node had ended before, with {status}");
        }
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "the node did not stop within {} s", timeout.as_secs());
            std::thread::sleep(END_INTERVAL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already: then both do nothing.
        let _killed = self.child.kill();
        let _status = self.child.wait();
        drop(self.release.take());
        if let Some(keeper) = self.keeper.take() {
            let _ended = keeper.join();
        }
    }
}
