//! A broker under test: Corelog's release build, an Apache Kafka, or one that runs elsewhere.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::java::Java;
use crate::process::{self, Process, tail, tethered};
use crate::project::Project;
use crate::setup::Toolbox;

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// For a broker that runs until it is interrupted.
const RUN_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
const PROBE_LIMIT: Duration = Duration::from_secs(5);
const PROBE_INTERVAL: Duration = Duration::from_millis(10);
/// Below the range from which the kernel draws: a broker that restarts finds its port free.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
/// So often tests let a broker look for what is too old or too much.
const RETENTION_CHECK_INTERVAL_MS: u32 = 1000;

/// As `kafka-server-start.sh` sets it.
const KAFKA_HEAP: [&str; 2] = ["-Xmx1G", "-Xms1G"];
/// A member that died is missed soon, as the oldest clients are at best.
const GROUPS_FOR_TESTS: &str = "[groups]\ninitial_rebalance_delay_ms = 0\nconsumer_session_timeout_ms = 6000\n\
    consumer_heartbeat_interval_ms = 1000\n";
const GROUPS_FOR_CONFORMANCE: &str = "min_session_timeout_ms = 1000\n";
const KAFKA_FOR_CONFORMANCE: &str = "group.min.session.timeout.ms=1000\n\
     authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
     allow.everyone.if.no.acl.found=true\n";
const CLUSTER_ID: &str = "Y29yZWxvZy1jbGllbnRzMQ";

/// When a produce is acknowledged: the values of the topic config `corelog.durability`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    /// After the sync
    Fsync,
    /// After the write
    Write,
}

impl Durability {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::Write => "write",
        }
    }
}

/// Which broker.
#[derive(Clone)]
pub(crate) enum BrokerKind {
    Corelog { binary: PathBuf },
    Kafka(Java),
    External { address: SocketAddr },
}

impl BrokerKind {
    /// The release build, which must be there.
    pub(crate) fn corelog(project: &Project) -> Result<Self> {
        let binary = project.root().join("target/release/corelog");
        ensure!(binary.is_file(), "{} is not there: run cargo build --release", binary.display());
        Ok(Self::Corelog { binary })
    }

    /// Any build of it.
    pub(crate) fn corelog_at(binary: &Path) -> Result<Self> {
        ensure!(binary.is_file(), "{} is not there", binary.display());
        Ok(Self::Corelog { binary: binary.to_path_buf() })
    }

    pub(crate) fn kafka(tools: &Toolbox) -> Result<Self> {
        let java = tools.java.clone().context("Apache Kafka needs Java")?;
        Ok(Self::Kafka(java))
    }

    pub(crate) fn external(address: &str) -> Result<Self> {
        let address = address
            .to_socket_addrs()
            .with_context(|| format!("resolving {address}"))?
            .next()
            .with_context(|| format!("{address} has no address"))?;
        Ok(Self::External { address })
    }

    /// What the tests' scripts call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Corelog { .. } => "corelog",
            Self::Kafka(_) => "kafka",
            Self::External { .. } => "external",
        }
    }

    /// Corelog's command line, which is one of the clients.
    pub(crate) fn command_line(&self, project: &Project) -> Option<PathBuf> {
        match self {
            Self::Corelog { binary } => Some(binary.clone()),
            Self::Kafka(_) | Self::External { .. } => {
                let binary = project.root().join("target/release/corelog");
                binary.is_file().then_some(binary)
            }
        }
    }
}

/// What a broker is run for, which decides how it is set up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be tested: set up so that tests are quick and alike for every broker.
    Test,
    /// As [`Purpose::Test`], and with what suites of other projects count on: an authorizer that allows
    /// all, so many partitions in a topic that names no number, short sessions, no wait for a group's
    /// first members.
    Conformance { partitions: u32 },
    /// To be measured: its own defaults, its usual JVM flags, and nothing but this core.
    Compare { core: usize },
    /// To be driven for long: its own defaults, but no topic that nobody created, and nothing but
    /// this core.
    Soak { core: usize },
}

impl Purpose {
    /// How often it looks for what is too old.
    fn retention_check_interval_ms(self) -> u32 {
        match self {
            // As without a word about it: some tests write records of 1970.
            Self::Conformance { .. } => 300_000,
            _ => RETENTION_CHECK_INTERVAL_MS,
        }
    }
}

/// How to run it.
#[derive(Clone)]
pub(crate) struct BrokerOptions {
    /// Names its log and its data directory.
    pub(crate) name: String,
    pub(crate) shards: usize,
    /// Its number in the cluster.
    pub(crate) node_id: u32,
    /// Whether a topic that a client asks for comes into being.
    pub(crate) auto_create: bool,
    /// Port of the Kafka listener; any free one when left out.
    pub(crate) port: Option<u16>,
    pub(crate) purpose: Purpose,
    /// Corelog's own settings beside those that follow from its purpose, as TOML.
    pub(crate) settings: String,
}

impl BrokerOptions {
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            shards: 1,
            node_id: 1,
            auto_create: true,
            port: None,
            purpose: Purpose::Test,
            settings: String::new(),
        }
    }
}

/// A running broker. What this started ends with it. Its data stay for whoever wants to know what
/// went wrong, until it is stopped in good order or another of the same name starts.
pub(crate) struct Broker {
    kind: BrokerKind,
    options: BrokerOptions,
    address: SocketAddr,
    folder: PathBuf,
    log: PathBuf,
    /// How it was last started.
    command: Vec<String>,
    process: Option<Process>,
}

impl Broker {
    /// Starts it on an empty data directory, and returns when it answers.
    pub(crate) fn start(project: &Project, kind: &BrokerKind, options: BrokerOptions) -> Result<Self> {
        let mut broker = Self::prepare(project, kind, options)?;
        broker.restart()?;
        Ok(broker)
    }

    /// Makes an empty data directory that it could be started on.
    pub(crate) fn prepare(project: &Project, kind: &BrokerKind, options: BrokerOptions) -> Result<Self> {
        let address = match (kind, options.port) {
            (BrokerKind::External { address }, _) => *address,
            (_, Some(port)) => SocketAddr::from(([127, 0, 0, 1], port)),
            (_, None) => free_address()?,
        };
        let folder = project.scratch().join(&options.name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let log = project.logs().join(format!("{}.log", options.name));
        File::create(&log)?;
        let kind = kind.clone();
        let broker = Self { kind, options, address, folder, log, command: Vec::new(), process: None };
        if let BrokerKind::Kafka(java) = &broker.kind {
            broker.format_kafka(java)?;
        }
        Ok(broker)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn data_folder(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Its process, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// How it was last started, for whoever wants to do the same.
    pub(crate) fn command(&self) -> &[String] {
        &self.command
    }

    /// Starts it again on the same address and data, and returns when it answers.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_until_it_answers()
    }

    /// Starts it on the same address and data, and returns at once.
    pub(crate) fn spawn(&mut self) -> Result<()> {
        assert!(self.process.is_none(), "the broker runs already");
        let mut command = match &self.kind {
            BrokerKind::External { .. } => return Ok(()),
            BrokerKind::Corelog { binary } => self.corelog_command(binary)?,
            BrokerKind::Kafka(java) => {
                let mut command = match self.options.purpose {
                    Purpose::Test | Purpose::Conformance { .. } => {
                        let mut command = java.command();
                        command.arg("-Xmx1g");
                        command
                    }
                    Purpose::Compare { core } | Purpose::Soak { core } => {
                        java.stock_command(core, &KAFKA_HEAP)
                    }
                };
                command.arg("kafka.Kafka").arg(self.kafka_config());
                command
            }
        };
        let log = File::options().append(true).open(&self.log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.command = process::words(&command);
        self.process = Some(Process::spawn(&mut command, &self.log)?);
        Ok(())
    }

    /// An error when it has ended by itself.
    pub(crate) fn check_running(&mut self) -> Result<()> {
        match &mut self.process {
            Some(process) => match process.ended()? {
                Some(status) => bail!("the broker ended by itself: {status}{}", tail(&self.log)),
                None => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.check_running()?;
        self.process.take().context("the broker does not run")?.kill()
    }

    /// SIGTERM, upon which a broker of ours must end with status 0; what it checks of its data then.
    pub(crate) fn stop(mut self) -> Result<()> {
        if self.process.is_none() {
            return Ok(());
        }
        self.terminate()?;
        self.verify_data()?;
        fs::remove_dir_all(&self.folder).context("removing the data of a broker that passed")
    }

    /// SIGTERM, upon which a broker of ours must end with status 0. Its data stay.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the broker does not run")?;
        let status = process.terminate(STOP_LIMIT)?;
        if matches!(self.kind, BrokerKind::Corelog { .. }) {
            ensure!(status.success(), "stopped with {status}{}", tail(&self.log));
        }
        Ok(())
    }

    /// Ends it without ceremony, and removes its data.
    pub(crate) fn discard(mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
        }
        fs::remove_dir_all(&self.folder).context("removing the data of a broker")
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self) -> Result<()> {
        match &mut self.process {
            Some(process) => process.wait(RUN_LIMIT).map(drop),
            None => Ok(()),
        }
    }

    /// Corelog's own check of what it left on disk.
    pub(crate) fn verify_data(&self) -> Result<()> {
        let BrokerKind::Corelog { binary } = &self.kind else {
            return Ok(());
        };
        let mut command = Command::new(binary);
        command.arg("verify").arg(self.data_folder());
        let log = self.log.with_extension("verify.log");
        process::run(command, &log, START_LIMIT).context("corelog verify")
    }

    fn corelog_command(&self, binary: &Path) -> Result<Command> {
        let core = match self.options.purpose {
            Purpose::Test | Purpose::Conformance { .. } => None,
            Purpose::Compare { core } | Purpose::Soak { core } => Some(core),
        };
        let mut command = core.map_or_else(|| tethered(binary), |core| process::pinned(binary, core));
        command
            .arg("serve")
            .args(["--listen", &self.address.to_string()])
            .args(["--http", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(self.data_folder())
            .args(["--shards", &self.options.shards.to_string()])
            .args(["--node-id", &self.options.node_id.to_string()]);
        if let Some(core) = core {
            command.args(["--cores", &core.to_string()]);
        }
        let mut settings = self.options.settings.clone();
        if !matches!(self.options.purpose, Purpose::Compare { .. }) {
            settings += &format!("[topics]\nauto_create = {}\n", self.options.auto_create);
            if let Purpose::Conformance { partitions } = self.options.purpose {
                settings += &format!("default_partitions = {partitions}\n");
            }
            if matches!(self.options.purpose, Purpose::Test | Purpose::Conformance { .. }) {
                settings += GROUPS_FOR_TESTS;
                if matches!(self.options.purpose, Purpose::Conformance { .. }) {
                    settings += GROUPS_FOR_CONFORMANCE;
                }
                let interval_ms = self.options.purpose.retention_check_interval_ms();
                settings += &format!("[retention]\ncheck_interval_ms = {interval_ms}\n");
            }
        }
        if !settings.is_empty() {
            let config = self.folder.join("corelog.toml");
            fs::write(&config, settings)?;
            command.arg("--config").arg(config);
        }
        Ok(command)
    }

    pub(crate) fn kafka_config(&self) -> PathBuf {
        self.folder.join("server.properties")
    }

    /// What `kafka-storage.sh format` does, once per data directory.
    fn format_kafka(&self, java: &Java) -> Result<()> {
        let broker = self.address;
        let controller = free_address()?;
        let data = self.data_folder();
        let (partitions, for_conformance) = match self.options.purpose {
            Purpose::Conformance { partitions } => (partitions, KAFKA_FOR_CONFORMANCE),
            _ => (1, ""),
        };
        let for_tests = match self.options.purpose {
            Purpose::Test | Purpose::Conformance { .. } => format!(
                "auto.create.topics.enable={}\n\
                 num.partitions={partitions}\n\
                 {for_conformance}\
                 group.initial.rebalance.delay.ms=0\n\
                 group.consumer.min.session.timeout.ms=6000\n\
                 group.consumer.session.timeout.ms=6000\n\
                 group.consumer.min.heartbeat.interval.ms=1000\n\
                 group.consumer.heartbeat.interval.ms=1000\n\
                 log.retention.check.interval.ms={}\n",
                self.options.auto_create,
                self.options.purpose.retention_check_interval_ms(),
            ),
            Purpose::Compare { .. } | Purpose::Soak { .. } => String::new(),
        };
        let config = format!(
            "process.roles=broker,controller\n\
             node.id={node_id}\n\
             controller.quorum.voters={node_id}@{controller}\n\
             listeners=PLAINTEXT://{broker},CONTROLLER://{controller}\n\
             advertised.listeners=PLAINTEXT://{broker}\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
             log.dirs={data}\n\
             offsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             share.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\n\
             {for_tests}",
            node_id = self.options.node_id,
            data = data.display(),
        );
        fs::write(self.kafka_config(), config)?;
        let mut command = java.command();
        command
            .args(["kafka.tools.StorageTool", "format"])
            .args(["--cluster-id", CLUSTER_ID, "--config"])
            .arg(self.kafka_config());
        process::run(command, &self.log.with_extension("format.log"), START_LIMIT)
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let last = match ask_for_versions(self.address) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if let Some(process) = &mut self.process
                && let Some(status) = process.ended()?
            {
                bail!("the broker did not start: {status}{}", tail(&self.log));
            }
            if Instant::now() >= deadline {
                return Err(last.context(format!(
                    "no answer from {} within {} s{}",
                    self.address,
                    START_LIMIT.as_secs(),
                    tail(&self.log)
                )));
            }
            thread::sleep(PROBE_INTERVAL);
        }
    }
}

/// One ApiVersions request, version 0, and the length of its answer: something speaks Kafka there.
fn ask_for_versions(address: SocketAddr) -> Result<()> {
    const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];
    let mut stream = TcpStream::connect_timeout(&address, PROBE_LIMIT)?;
    stream.set_read_timeout(Some(PROBE_LIMIT))?;
    stream.set_write_timeout(Some(PROBE_LIMIT))?;
    stream.write_all(&REQUEST)?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    ensure!(answer[4..] == [0, 0, 0, 7], "not the answer to our request");
    Ok(())
}

fn free_address() -> Result<SocketAddr> {
    for _ in 0..100 {
        let address = SocketAddr::from(([127, 0, 0, 1], fastrand::u16(PORTS)));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port is free in {PORTS:?}")
}
