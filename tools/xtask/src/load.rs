//! The load generator put to the test, against a sink that does wrong on purpose: its verification
//! must find one bad record in ten million and name what is bad, and its open loop must see a
//! broker's pause that the service time hides.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::machine::Processors;
use crate::process::tail;
use crate::project::Project;
use crate::sink::{Generated, Sink, generate};

const RUN_LIMIT: Duration = Duration::from_secs(180);
const RECORDS: u64 = 10_000_000;
/// The last batches may be too short for their records to have neighbours.
const FAULTS_BELOW: u64 = RECORDS - 100_000;
/// A partition of the sink keeps so much; producers wait for the consumer beyond it.
const RETAIN_BYTES: &str = "67108864";
/// How often a stall is measured at most, because of what the host withheld, in percent of the time.
const STALL_ATTEMPTS_MAX: u32 = 4;
const WITHHELD_PERCENT_MAX: f64 = 1.0;

/// What one fault must look like: lost, duplicated, reordered and corrupt records. A corrupt record
/// is lost as well, since nobody can tell which one it was.
const FAULTS: [(&str, [u64; 4]); 4] =
    [("drop", [1, 0, 0, 0]), ("repeat", [0, 1, 0, 0]), ("reorder", [0, 0, 1, 0]), ("corrupt", [1, 0, 0, 1])];

/// Runs both parts; returns a sentence about what passed. `seed` draws the records that are spoilt.
pub(crate) fn check(project: &Project, seed: u64) -> Result<String> {
    let binary = binary(project)?;
    let test = Test { project, binary };
    let mut random = fastrand::Rng::with_seed(seed);
    test.verification(None).context("without a fault")?;
    for (fault, expected) in FAULTS {
        let record = random.u64(1..FAULTS_BELOW);
        test.verification(Some((fault, record, expected)))
            .with_context(|| format!("{fault} of record {record}"))?;
        println!("  {fault} of record {record}: found");
    }
    let stall = test.stall().context("a stall")?;
    Ok(format!("one bad record in {RECORDS} found 4 times of 4; {stall}"))
}

/// The release build, which must be there.
pub(crate) fn binary(project: &Project) -> Result<PathBuf> {
    let binary = project.root().join("target/release/corelog");
    ensure!(binary.is_file(), "{} is not there: run cargo build --release", binary.display());
    Ok(binary)
}

struct Test<'a> {
    project: &'a Project,
    binary: PathBuf,
}

impl Test<'_> {
    fn sink(&self, arguments: &[&str]) -> Result<Sink> {
        Sink::start(self.project, &self.binary, "load-sink", arguments)
    }

    fn generate(&self, sink: &Sink, arguments: &str) -> Result<Generated> {
        let mut words = vec!["--bootstrap", sink.address()];
        words.extend(arguments.split_whitespace());
        generate(self.project, &self.binary, "load", &words, RUN_LIMIT)
    }

    /// Ten million records through a sink that spoils this one.
    fn verification(&self, fault: Option<(&str, u64, [u64; 4])>) -> Result<()> {
        let at = fault.map_or(0, |(_, record, _)| record).to_string();
        let mut arguments = vec!["--retain", RETAIN_BYTES];
        if let Some((fault, _, _)) = fault {
            arguments.extend(["--fault", fault, "--fault-at", &at]);
        }
        let sink = self.sink(&arguments)?;
        let load = format!(
            "--arrivals max --records {RECORDS} --record-bytes 100 --batch-bytes 65536 --warm-up 0 --duration 170"
        );
        let run = self.generate(&sink, &load)?;
        let said = sink.said()?;
        let found = ["lost", "duplicated", "reordered", "corrupt"]
            .map(|what| run.count(&format!("/runs/0/verification/{what}")));
        let [lost, duplicated, reordered, corrupt] = found;
        let found = [lost?, duplicated?, reordered?, corrupt?];
        let expected = fault.map_or([0; 4], |(_, _, expected)| expected);
        if found != expected {
            bail!("lost, duplicated, reordered, corrupt: {found:?}, not {expected:?}; the sink said: {said}");
        }
        let sent = run.count("/runs/0/verification/sent")?;
        ensure!(sent == RECORDS, "{sent} records were sent");
        match fault {
            None => ensure!(run.status.success(), "ended with {}{}", run.status, tail(&run.log)),
            Some((fault, record, _)) => {
                ensure!(
                    said.contains(&format!("planted {fault} at record {record}:")),
                    "the sink said: {said}"
                );
                ensure!(run.status.code() == Some(1), "ended with {}, not 1{}", run.status, tail(&run.log));
            }
        }
        sink.stop().map(drop)
    }

    /// A host that holds the whole machine up does the same to requests, so it is measured again then.
    fn stall(&self) -> Result<String> {
        for _ in 1..STALL_ATTEMPTS_MAX {
            let before = Processors::now()?;
            let seen = self.stall_once();
            if seen.is_ok() || Processors::now()?.steal_percent_since(before) <= WITHHELD_PERCENT_MAX {
                return seen;
            }
        }
        self.stall_once()
    }

    /// A pause of 200 ms in six seconds of a constant rate. It holds up every record that is due in
    /// it, 3.3% of all, and their times from when they were due are spread evenly up to 200 ms: the
    /// 99th percentile of all is then at 140 ms, and more where the backlog takes time. Of the
    /// requests that were under way, it holds up no more than may be: 20 in 60,000. So which
    /// histogram sees it depends on what is counted and not on how fast this machine is.
    fn stall_once(&self) -> Result<String> {
        let sink = self.sink(&["--stall-at", "4", "--stall-ms", "200"])?;
        let load = "--arrivals constant --rate 10000 --producers 4 --in-flight 5 --batch-records 1 \
                    --linger-ms 0 --record-bytes 100 --consumers 0 --no-verify --warm-up 1 --duration 6";
        let run = self.generate(&sink, load)?;
        ensure!(run.status.success(), "ended with {}{}", run.status, tail(&run.log));
        let said = sink.said()?;
        ensure!(said.contains("holding all answers back for 200 ms"), "the sink said: {said}");
        let ms = |what: &str| Ok::<f64, anyhow::Error>(run.number(&format!("/runs/0/latency/{what}"))? / 1e3);
        let response = ms("response/percentiles_us/99")?;
        let service = ms("service/percentiles_us/99")?;
        let service_max = ms("service/max_us")?;
        let numbers = format!(
            "a stall of 200 ms: response p99 {response:.1} ms, service p99 {service:.2} ms, max {service_max:.0} ms"
        );
        ensure!(service_max >= 100.0, "no request was under way in the stall; {numbers}");
        ensure!(response >= 100.0, "the open loop has not seen it; {numbers}");
        ensure!(service < 50.0, "the service time has: the test shows nothing; {numbers}");
        sink.stop()?;
        Ok(numbers)
    }
}
