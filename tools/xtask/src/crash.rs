//! The real crash test: `kill -9` again and again under an idempotent producer's load, the same
//! producer all the while, and at the end every acknowledged record must be there exactly once.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::broker::{Broker, BrokerKind, BrokerOptions, Durability};
use crate::process::{Conversation, tethered};
use crate::project::Project;
use crate::setup::Toolbox;

/// For the load to be acknowledged again after a restart.
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);
/// For the final flush and for reading everything.
const VERIFY_LIMIT: Duration = Duration::from_secs(240);
/// Acknowledgements that must have come since the restart before the next kill.
const ACKNOWLEDGED_MIN: u64 = 100;
/// The kill comes up to so much later than that.
const DELAY_MAX_MS: u64 = 600;

/// What to kill, and how often.
pub(crate) struct Plan {
    pub(crate) durability: Durability,
    pub(crate) shards: usize,
    pub(crate) kills: u32,
    /// Draws the moments of the kills.
    pub(crate) seed: u64,
}

/// Runs the plan, and returns a sentence about what passed.
pub(crate) fn run(project: &Project, tools: &Toolbox, kind: &BrokerKind, plan: &Plan) -> Result<String> {
    attempt(project, tools, kind, plan).with_context(|| {
        let Plan { shards, seed, .. } = plan;
        let mode = plan.durability.name();
        let data = project.scratch().join(name(kind, plan));
        let data = data.display();
        format!("--durability {mode} --shards {shards} --seed {seed}, data kept in {data}")
    })
}

/// Of the broker's log and data.
fn name(kind: &BrokerKind, plan: &Plan) -> String {
    format!("{}-crash-{}-{}", kind.name(), plan.durability.name(), plan.shards)
}

fn attempt(project: &Project, tools: &Toolbox, kind: &BrokerKind, plan: &Plan) -> Result<String> {
    let mode = plan.durability.name();
    let name = name(kind, plan);
    let options = BrokerOptions { shards: plan.shards, ..BrokerOptions::named(&name) };
    let mut broker = Broker::start(project, kind, options)?;
    let mut command = tethered(tools.python()?);
    command
        .arg(project.clients().join("crash_load.py"))
        .args(["--bootstrap", &broker.address().to_string()])
        .args(["--topic", "crash"])
        .env("PYTHONDONTWRITEBYTECODE", "1");
    if matches!(kind, BrokerKind::Corelog { .. }) {
        command.args(["--config", &format!("corelog.durability={mode}")]);
    }
    let log = project.logs().join(format!("{name}-load.log"));
    let mut load = Load { conversation: Conversation::start(command, &log)?, acknowledged: 0 };
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let mut slowest_restart = Duration::ZERO;
    for number in 1..=plan.kills {
        load.wait_for(ACKNOWLEDGED_MIN).with_context(|| format!("before kill {number}"))?;
        thread::sleep(Duration::from_millis(random.u64(..DELAY_MAX_MS)));
        broker.kill().with_context(|| format!("kill {number}"))?;
        let began = Instant::now();
        broker.restart().with_context(|| format!("after kill {number}"))?;
        slowest_restart = slowest_restart.max(began.elapsed());
    }
    load.wait_for(ACKNOWLEDGED_MIN).context("after the last kill")?;
    let (acknowledged, there) = load.verify()?;
    broker.stop().context("stopping the broker")?;
    Ok(format!(
        "{} kills at {} shards, {mode}: {acknowledged} acknowledged records, each there once \
         ({there} in all), slowest restart {} ms, seed {}",
        plan.kills,
        plan.shards,
        slowest_restart.as_millis(),
        plan.seed
    ))
}

/// `crash_load.py`, and how much it has said to be acknowledged.
struct Load {
    conversation: Conversation,
    acknowledged: u64,
}

impl Load {
    /// Waits until so many more records are acknowledged than when it last looked.
    fn wait_for(&mut self, more: u64) -> Result<()> {
        // What was said before this call may be from before the last kill.
        while let Some(line) = self.conversation.heard() {
            self.note(&line)?;
        }
        let wanted = self.acknowledged + more;
        let deadline = Instant::now() + PROGRESS_LIMIT;
        while self.acknowledged < wanted {
            if Instant::now() >= deadline {
                bail!("the producer got no acknowledgement within {PROGRESS_LIMIT:?}");
            }
            let line = self.conversation.hear(PROGRESS_LIMIT)?;
            self.note(&line)?;
        }
        Ok(())
    }

    fn note(&mut self, line: &str) -> Result<()> {
        self.acknowledged =
            line.strip_prefix("acked ").with_context(|| format!("the load said {line:?}"))?.parse()?;
        Ok(())
    }

    /// Ends the load, and returns how many records were acknowledged and how many there are.
    fn verify(mut self) -> Result<(u64, u64)> {
        self.conversation.say("stop")?;
        let deadline = Instant::now() + VERIFY_LIMIT;
        loop {
            let line = self.conversation.hear(deadline.saturating_duration_since(Instant::now()))?;
            if let Some(counts) = line.strip_prefix("verified ") {
                let (acknowledged, there) = counts.split_once(' ').context("two counts")?;
                let counts = (acknowledged.parse()?, there.parse()?);
                self.conversation.finish(VERIFY_LIMIT)?;
                return Ok(counts);
            }
        }
    }
}
