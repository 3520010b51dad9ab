//! `cargo xtask pressure`: one node with ten thousand partitions, a backfill that reads as fast as it
//! can, and two hundred consumers that read slowly, while a tail is produced and consumed at a rate.
//!
//! Two questions, a verdict for each: does the tail's p99 with the backfill stay within twice of what
//! it is without, and does the node's memory stay within what its configuration adds up to? Both need
//! a machine that does nothing else and has two cores: the node has the one at which the disk's
//! interrupts arrive, everything else the other. The ratio is the median of some rounds, since a disk
//! that stands still for a moment decides a single one. Not part of `cargo xtask test`.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, gettid};

use crate::broker::{Broker, BrokerKind, BrokerOptions, Purpose};
use crate::cores::Cores;
use crate::process::{run, run_into, tethered};
use crate::project::Project;
use crate::sink::{Generated, generate};
use crate::versus::statistics::Spread;

const PREPARE_LIMIT: Duration = Duration::from_secs(600);
const REPLY_LIMIT: Duration = Duration::from_secs(30);
const BACKLOG: &str = "backlog";
const BACKLOG_PARTITIONS: i32 = 16;
/// What a consumer asks for at once.
const FETCH_BYTES: i32 = 8 << 20;
/// What the backfill reads from its socket at once.
const READ_BYTES: usize = 32 << 10;
/// A slow consumer takes so much…
const SIP_BYTES: usize = 4 << 10;
/// …this often.
const SIP_INTERVAL: Duration = Duration::from_millis(100);
/// How much worse the tail's p99 may be beside a backfill.
const RATIO_MAX: f64 = 2.0;
/// Code, stacks, sockets, caches of the allocator: what no option bounds.
const OVERHEAD_BYTES: u64 = 96 << 20;
/// What one more partition may cost.
const PARTITION_BYTES: u64 = 8 << 10;
const MIB: u64 = 1 << 20;

/// How much of everything.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Partitions of a topic that nobody uses
    #[arg(long, default_value_t = 10_000)]
    partitions: u64,
    /// Records that the backfill reads, in MiB
    #[arg(long, default_value_t = 2048)]
    backlog_mib: u64,
    /// Connections of the backfill
    #[arg(long, default_value_t = 4)]
    backfills: i32,
    /// What the backfill reads a second at most, in MB, all connections together; 0 is no limit. Without
    /// one it takes the client's core from the tail's client, too
    #[arg(long, default_value_t = 200)]
    backfill_mb: u64,
    /// Consumers that read 40 KB a second
    #[arg(long, default_value_t = 200)]
    slow: i32,
    /// Records a second of the tail, 1 KiB each
    #[arg(long, default_value_t = 5_000)]
    rate: u32,
    /// How often each of the three loads is measured, in turns; the ratio is the median of the rounds'
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each of the three loads is measured in a round, in seconds
    #[arg(long, default_value_t = 12)]
    seconds: u32,
    /// Shards of the node
    #[arg(long, default_value_t = 1)]
    shards: usize,
}

/// What the loads of a round are called, in their order.
const LOADS: [&str; 3] = ["the tail alone", "with a backfill", "with slow consumers too"];

/// What one of them came to.
struct Measured {
    p50_ms: f64,
    p99_ms: f64,
    resident_mib: u64,
    /// What others read meanwhile, a second.
    beside_mb_per_s: f64,
}

/// Runs everything; whether both verdicts are good.
pub(crate) fn run_all(project: &Project, arguments: &Arguments) -> Result<bool> {
    let mut own = CpuSet::new();
    let cores = Cores::of_disk(&project.scratch())?;
    own.set(cores.client)?;
    sched_setaffinity(Pid::from_raw(0), &own).context("this needs two cores")?;
    let kind = BrokerKind::corelog(project)?;
    let BrokerKind::Corelog { binary } = &kind else { bail!("only Corelog has these budgets") };
    let purpose = Purpose::Compare { core: cores.node };
    let options =
        BrokerOptions { shards: arguments.shards, purpose, ..BrokerOptions::named("pressure-node") };
    let broker = Broker::start(project, &kind, options)?;
    let stage = Stage { project, binary, broker, cores, arguments };
    let good = stage.play()?;
    stage.broker.stop()?;
    Ok(good)
}

struct Stage<'a> {
    project: &'a Project,
    binary: &'a Path,
    broker: Broker,
    cores: Cores,
    arguments: &'a Arguments,
}

impl Stage<'_> {
    fn play(&self) -> Result<bool> {
        let allowed_mib = self.allowed_bytes()? / MIB;
        self.prepare()?;
        let Arguments { rounds, seconds, slow, .. } = *self.arguments;
        println!("measuring {rounds} times three loads of {seconds} s; the p99 of each, in ms:");
        let (mut measured, mut filled, mut still_there) = (Vec::new(), 0, 0);
        for round in 1..=rounds {
            let alone = self.tail(None)?;
            let backfills = Backfill::start(self.broker.address(), self.arguments);
            let beside = self.tail(Some(&backfills.bytes))?;
            let consumers = Slow::start(self.broker.address(), slow)?;
            let crowded = self.tail(Some(&backfills.bytes))?;
            filled += backfills.stop()?;
            still_there += consumers.stop();
            let [a, b, c] = [&alone, &beside, &crowded].map(|load| load.p99_ms);
            println!("  round {round}: {} {a:.2}, {} {b:.2}, {} {c:.2}", LOADS[0], LOADS[1], LOADS[2]);
            measured.push([alone, beside, crowded]);
        }
        let peak_mib = self.status("VmHWM:")? / MIB;
        print(&measured, self.arguments);
        println!(
            "the backfills read {} MB; {still_there} of {} slow consumers were connected to the end",
            filled / 1_000_000,
            i64::from(slow) * i64::from(rounds)
        );
        let ratio = median(measured.iter().map(|[alone, beside, _]| beside.p99_ms / alone.p99_ms));
        let tail = ratio <= RATIO_MAX;
        let memory = peak_mib <= allowed_mib;
        let said = |good| if good { "holds" } else { "DOES NOT HOLD" };
        println!(
            "{}: the tail's p99 is {ratio:.2} times that without a backfill (at most {RATIO_MAX})",
            said(tail)
        );
        println!("{}: at most {peak_mib} MiB were in memory (configured: {allowed_mib} MiB)", said(memory));
        Ok(tail && memory)
    }

    /// What the options in force add up to.
    fn allowed_bytes(&self) -> Result<u64> {
        let path = self.project.scratch().join("pressure.toml");
        let mut command = tethered(self.binary);
        command.args(["serve", "--print-config"]);
        run_into(command, &path, &self.project.logs().join("pressure-config.log"), REPLY_LIMIT)?;
        let text = fs::read_to_string(&path)?;
        let key = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix('='));
            let value = line.with_context(|| format!("the configuration has no {name}"))?;
            Ok(value.trim().parse()?)
        };
        // Half of the journal may hold records that are not in segments yet.
        let unflushed = key("file_bytes")? * key("max_files")? / 2;
        let shard = key("request_memory_bytes")?
            + key("response_memory_bytes")?
            + key("tail_cache_bytes")?
            + unflushed;
        let partitions = self.arguments.partitions * PARTITION_BYTES;
        Ok(shard * self.arguments.shards as u64 + partitions + OVERHEAD_BYTES)
    }

    fn prepare(&self) -> Result<()> {
        let began = Instant::now();
        self.command(&["topic", "create", "many", "--partitions", &self.arguments.partitions.to_string()])?;
        self.command(&["topic", "create", BACKLOG, "--partitions", &BACKLOG_PARTITIONS.to_string()])?;
        println!(
            "{} partitions in {:.1} s, {} MiB in memory",
            self.arguments.partitions,
            began.elapsed().as_secs_f64(),
            self.status("VmRSS:")? / MIB
        );
        let records = (self.arguments.backlog_mib * 1024).to_string();
        let fill = format!(
            "--topic {BACKLOG} --arrivals max --records {records} --record-bytes 1024 --consumers 0 --no-verify \
             --warm-up 0 --duration 550"
        );
        self.bench("pressure-fill", &fill)?;
        println!(
            "{} MiB to read in {:.1} s, {} MiB in memory",
            self.arguments.backlog_mib,
            began.elapsed().as_secs_f64(),
            self.status("VmRSS:")? / MIB
        );
        Ok(())
    }

    /// Produces and consumes a tail at the rate.
    fn tail(&self, beside: Option<&AtomicU64>) -> Result<Measured> {
        let Arguments { rate, seconds, .. } = self.arguments;
        let load = format!(
            "--arrivals constant --rate {rate} --producers 4 --consumers 1 --partitions 4 --record-bytes 1024 \
             --batch-records 8 --linger-ms 1 --warm-up 5 --duration {seconds}"
        );
        let read = || beside.map_or(0, |bytes| bytes.load(Ordering::Relaxed));
        let (before, began) = (read(), Instant::now());
        let run = self.bench("pressure-tail", &load)?;
        let beside_mb_per_s = (read() - before) as f64 / 1e6 / began.elapsed().as_secs_f64();
        let ms = |percentile: &str| -> Result<f64> {
            Ok(run.number(&format!("/runs/0/latency/end_to_end/percentiles_us/{percentile}"))? / 1e3)
        };
        let resident_mib = self.status("VmRSS:")? / MIB;
        Ok(Measured { p50_ms: ms("50")?, p99_ms: ms("99")?, resident_mib, beside_mb_per_s })
    }

    fn bench(&self, name: &str, words: &str) -> Result<Generated> {
        let (address, core) = (self.broker.address().to_string(), self.cores.client.to_string());
        let mut arguments = vec!["--bootstrap", &address, "--cores", &core];
        arguments.extend(words.split_whitespace());
        let run = generate(self.project, self.binary, name, &arguments, PREPARE_LIMIT)?;
        ensure!(run.status.success(), "{name} ended with {}{}", run.status, crate::process::tail(&run.log));
        Ok(run)
    }

    fn command(&self, arguments: &[&str]) -> Result<()> {
        let mut command = tethered(self.binary);
        command.args(arguments).args(["--bootstrap", &self.broker.address().to_string()]);
        run(command, &self.project.logs().join("pressure-command.log"), PREPARE_LIMIT)
    }

    /// A number of bytes of the node's `/proc/PID/status`.
    fn status(&self, field: &str) -> Result<u64> {
        let pid = self.broker.pid().context("the node runs")?;
        let path = PathBuf::from(format!("/proc/{pid}/status"));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kib.with_context(|| format!("{} has no {field}", path.display()))?.trim().parse::<u64>()? << 10)
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    Spread::of(values).map_or(f64::NAN, |spread| spread.median)
}

/// A line for each load, with the medians of the rounds; of the memory, the most.
fn print(rounds: &[[Measured; 3]], arguments: &Arguments) {
    println!(
        "\n{} records a second of 1 KiB, {} partitions, {} backfills, {} slow consumers, {} shards",
        arguments.rate, arguments.partitions, arguments.backfills, arguments.slow, arguments.shards
    );
    println!(
        "{:26} {:>10} {:>10} {:>12} {:>14}",
        "end to end, medians", "p50 ms", "p99 ms", "memory MiB", "backfill MB/s"
    );
    for (number, what) in LOADS.iter().enumerate() {
        let of = |value: fn(&Measured) -> f64| median(rounds.iter().map(|round| value(&round[number])));
        let resident_mib = rounds.iter().map(|round| round[number].resident_mib).max().unwrap_or(0);
        println!(
            "{what:26} {:>10.2} {:>10.2} {resident_mib:>12} {:>14.0}",
            of(|load| load.p50_ms),
            of(|load| load.p99_ms),
            of(|load| load.beside_mb_per_s)
        );
    }
}

/// Connections that read the backlog from its beginning to its end, again and again.
struct Backfill {
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Backfill {
    fn start(address: SocketAddr, arguments: &Arguments) -> Self {
        let (stop, bytes) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let limit = arguments.backfill_mb * 1_000_000;
        let thread = |number: i32| {
            let pace = Pace { began: Instant::now(), bytes_per_s: limit, bytes: Arc::clone(&bytes) };
            let stop = Arc::clone(&stop);
            thread::spawn(move || backfill(address, number % BACKLOG_PARTITIONS, &stop, &pace))
        };
        let threads = (0..arguments.backfills).map(thread).collect();
        Self { stop, bytes, threads }
    }

    /// How many bytes were read.
    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a backfill does not panic").context("backfill")?;
        }
        Ok(self.bytes.load(Ordering::Relaxed))
    }
}

/// How much was read over all connections, and how fast that may go.
struct Pace {
    began: Instant,
    bytes_per_s: u64,
    bytes: Arc<AtomicU64>,
}

impl Pace {
    fn read(&self, bytes: usize) {
        let read = self.bytes.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if let Some(due_us) = read.saturating_mul(1_000_000).checked_div(self.bytes_per_s) {
            thread::sleep(Duration::from_micros(due_us).saturating_sub(self.began.elapsed()));
        }
    }
}

/// Lets the tail's client, on the same core, have the core whenever it wants it: the node is to be
/// measured, and not how two clients share a core. Being nice is not enough, since who wakes up waits
/// for the end of a nice thread's time slice, too.
fn step_back() -> Result<()> {
    let mut command = Command::new("chrt");
    command.args(["--idle", "--pid", "0", &gettid().to_string()]).stdout(Stdio::null());
    ensure!(command.status().context("chrt")?.success(), "chrt failed");
    Ok(())
}

/// Fills the buffer in small steps: a kernel that is preempted at its clock's ticks only copies
/// megabytes before anybody else has the core.
fn read_in_steps(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<()> {
    buffer.chunks_mut(READ_BYTES).try_for_each(|step| stream.read_exact(step))
}

fn backfill(address: SocketAddr, mut partition: i32, stop: &AtomicBool, pace: &Pace) -> Result<()> {
    step_back()?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(REPLY_LIMIT))?;
    let mut offset = 0;
    let mut reply = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&fetch_frame(partition, offset))?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        reply.resize(usize::try_from(i32::from_be_bytes(length)).context("a frame's length")?, 0);
        read_in_steps(&mut stream, &mut reply)?;
        pace.read(reply.len());
        match next_offset(&reply)? {
            Some(next) => offset = next,
            None => (partition, offset) = ((partition + 1) % BACKLOG_PARTITIONS, 0),
        }
    }
    Ok(())
}

/// Consumers that ask for much and take little of it at a time.
struct Slow {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Slow {
    fn start(address: SocketAddr, connections: i32) -> Result<Self> {
        let mut streams = Vec::new();
        for number in 0..connections {
            let mut stream = TcpStream::connect(address)?;
            // One request that fills the socket, and one that waits behind it.
            for _ in 0..2 {
                stream.write_all(&fetch_frame(number % BACKLOG_PARTITIONS, 0))?;
            }
            stream.set_nonblocking(true)?;
            streams.push(stream);
        }
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut sip = [0; SIP_BYTES];
            while !stopped.load(Ordering::Relaxed) {
                streams.retain_mut(|stream| match stream.read(&mut sip) {
                    Ok(read) => read > 0,
                    Err(error) => error.kind() == ErrorKind::WouldBlock,
                });
                thread::sleep(SIP_INTERVAL);
            }
            streams.len()
        });
        Ok(Self { stop, thread })
    }

    /// How many are still connected: some may have been cut off for the sake of others.
    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("reading does not panic")
    }
}

/// Fetch, version 4, of one partition of the backlog.
fn fetch_frame(partition: i32, offset: i64) -> Vec<u8> {
    let mut body = Vec::new();
    // API, version, correlation id, no client id; no replica, no wait, a byte at least.
    body.extend([0, 1, 0, 4, 0, 0, 0, 7, 0xff, 0xff]);
    for number in [-1, 0, 1, FETCH_BYTES] {
        body.extend(number.to_be_bytes());
    }
    body.push(0);
    body.extend(1_i32.to_be_bytes());
    body.extend(u16::try_from(BACKLOG.len()).expect("a short name").to_be_bytes());
    body.extend(BACKLOG.as_bytes());
    body.extend(1_i32.to_be_bytes());
    body.extend(partition.to_be_bytes());
    body.extend(offset.to_be_bytes());
    body.extend(FETCH_BYTES.to_be_bytes());
    let mut frame = u32::try_from(body.len()).expect("a short frame").to_be_bytes().to_vec();
    frame.extend(body);
    frame
}

/// The offset behind the last batch of a reply; `None` when there is none.
fn next_offset(reply: &[u8]) -> Result<Option<i64>> {
    let mut rest = Fields(reply);
    // Correlation id, throttle time, one topic with its name, one partition with its index.
    rest.skip(4 + 4 + 4 + 2 + BACKLOG.len() + 4 + 4)?;
    let error = i16::from_be_bytes(rest.take()?);
    ensure!(error == 0, "the fetch answered with error {error}");
    rest.skip(8 + 8)?;
    let aborted = i32::from_be_bytes(rest.take()?);
    rest.skip(16 * usize::try_from(aborted).unwrap_or(0))?;
    rest.skip(4)?;
    let mut next = None;
    while let Some(header) = rest.0.first_chunk::<27>() {
        let base = i64::from_be_bytes(*header.first_chunk().expect("8 of 27 bytes"));
        let length = i32::from_be_bytes(*header[8..].first_chunk().expect("4 of 19 bytes"));
        let last = i32::from_be_bytes(*header[23..].first_chunk().expect("4 of 4 bytes"));
        next = Some(base + i64::from(last) + 1);
        rest.skip(12 + usize::try_from(length).context("a batch's length")?)?;
    }
    Ok(next)
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn skip(&mut self, bytes: usize) -> Result<()> {
        self.0 = self.0.get(bytes..).context("the reply is too short")?;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk().context("the reply is too short")?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_says_where_to_go_on() {
        let mut reply = vec![0; 4 + 4 + 4 + 2 + BACKLOG.len() + 4 + 4];
        reply.extend([0; 2 + 8 + 8 + 4 + 4]);
        assert_eq!(next_offset(&reply).expect("a whole reply"), None);
        for (base, last) in [(100_i64, 9_i32), (110, 4)] {
            reply.extend(base.to_be_bytes());
            reply.extend(49_i32.to_be_bytes());
            reply.extend([0; 11]);
            reply.extend(last.to_be_bytes());
            reply.extend([0; 61 - 27]);
        }
        assert_eq!(next_offset(&reply).expect("a whole reply"), Some(115));
        assert!(next_offset(&reply[..reply.len() - 10]).is_err());
        assert!(next_offset(&[]).is_err());
    }

    #[test]
    fn a_request_is_as_long_as_it_says() {
        let frame = fetch_frame(3, 77);
        let (length, body) = frame.split_first_chunk().expect("a length");
        assert_eq!(u32::from_be_bytes(*length) as usize, body.len());
    }
}
