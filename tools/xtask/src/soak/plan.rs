//! What a soak does, and how much room that takes.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use crate::broker::Durability;
use crate::machine::as_f64;
use crate::project::Project;

/// Of a record beside its value: lengths, deltas, its part of the batch's header.
const RECORD_OVERHEAD_BYTES: f64 = 24.0;
/// Files of a journal, and a deleted topic's files that are still being removed.
const JOURNAL_BYTES: f64 = 4.0 * 67_108_864.0 + 134_217_728.0;
/// Topics of the churn, dumps, logs, reports.
const OTHER_BYTES: f64 = 1e9;
/// Of the free space that a soak may use.
const USABLE_SHARE: f64 = 0.85;
/// The load of a segment lasts at least so long.
const SEGMENT_MIN: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct Arguments {
    /// How long the load runs, in minutes
    #[arg(long, default_value = "60", value_parser = minutes, value_name = "MINUTES")]
    minutes: Duration,
    /// `kill -9` of the node once in each period of so many seconds, at a moment that the seed draws
    #[arg(long, default_value = "300", value_parser = seconds, value_name = "SECONDS")]
    kill_every: Duration,
    /// The load: a share of the knee, which is then looked for first, as in 50%, or records a second
    #[arg(long, default_value = "50%", value_name = "RATE")]
    rate: Rate,
    /// Size of the load's values
    #[arg(long, default_value_t = 1024, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(32..=1_000_000))]
    record_bytes: u32,
    /// The load's topic is verified, deleted and made anew after so many seconds, which bounds the
    /// disk space; memory is judged by windows of this length
    #[arg(long, default_value = "75", value_parser = seconds, value_name = "SECONDS")]
    recreate_every: Duration,
    /// Shards of the node, all on one core
    #[arg(long, default_value_t = 1, value_name = "N")]
    shards: usize,
    /// When the topics of the load acknowledge
    #[arg(long, value_enum, default_value_t = Durability::Fsync)]
    durability: Durability,
    /// Seed of all choices; drawn when left out
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The node and its clients [default: target/release/corelog]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Keep the node's data and what the clients wrote
    #[arg(long)]
    keep: bool,
    /// Write the page docs/benchmarks/<date>-soak.md, with <date>-soak.json
    #[arg(long)]
    pub(crate) page: bool,
}

impl Arguments {
    /// Short enough for every check of the project: a fixed, low rate, two kills or three, two topics.
    pub(crate) fn short() -> Self {
        Self {
            minutes: Duration::from_secs(30),
            kill_every: Duration::from_secs(10),
            rate: Rate::RecordsPerS(2_000.0),
            record_bytes: 512,
            recreate_every: Duration::from_secs(15),
            shards: 2,
            durability: Durability::Fsync,
            seed: None,
            binary: None,
            keep: false,
            page: false,
        }
    }

    /// The plan, on these cores.
    pub(crate) fn plan(&self, binary: PathBuf, server_core: usize, client_core: usize) -> Result<Plan> {
        ensure!(
            self.recreate_every >= SEGMENT_MIN,
            "--recreate-every is at least {} s",
            SEGMENT_MIN.as_secs()
        );
        ensure!(self.minutes >= SEGMENT_MIN, "--minutes is at least {} s", SEGMENT_MIN.as_secs());
        ensure!(self.kill_every >= Duration::from_secs(1), "--kill-every is at least 1 s");
        ensure!(self.shards > 0, "a node has a shard at least");
        Ok(Plan {
            duration: self.minutes,
            kill_every: self.kill_every,
            rate: self.rate,
            record_bytes: self.record_bytes,
            recreate_every: self.recreate_every,
            shards: self.shards,
            durability: self.durability,
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..)),
            binary,
            keep: self.keep,
            server_core,
            client_core,
        })
    }

    pub(crate) fn binary(&self) -> Option<&Path> {
        self.binary.as_deref()
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(minutes * 60.0).map_err(|error| error.to_string())
}

/// How much load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rate {
    ShareOfKnee(f64),
    RecordsPerS(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a share of the knee as in 50%, or records a second".to_owned();
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| *number > 0.0);
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent = number(percent).filter(|percent| *percent <= 100.0);
                Ok(Self::ShareOfKnee(percent.ok_or_else(wrong)? / 100.0))
            }
            None => Ok(Self::RecordsPerS(number(text).ok_or_else(wrong)?)),
        }
    }
}

/// See [`Arguments`].
pub(crate) struct Plan {
    pub(crate) duration: Duration,
    pub(crate) kill_every: Duration,
    pub(crate) rate: Rate,
    pub(crate) record_bytes: u32,
    pub(crate) recreate_every: Duration,
    pub(crate) shards: usize,
    pub(crate) durability: Durability,
    pub(crate) seed: u64,
    pub(crate) binary: PathBuf,
    pub(crate) keep: bool,
    pub(crate) server_core: usize,
    pub(crate) client_core: usize,
}

/// Streams of choices: each task has its own, so that one does not change what another one draws.
#[derive(Clone, Copy)]
pub(crate) enum Stream {
    Kills,
    Churn,
    LastLooks,
    Reader(u64),
}

impl Plan {
    pub(crate) fn random(&self, stream: Stream) -> fastrand::Rng {
        let number = match stream {
            Stream::Kills => 1,
            Stream::Churn => 2,
            Stream::LastLooks => 3,
            Stream::Reader(number) => 4 + number,
        };
        // Far apart: neighbouring seeds may give similar streams.
        fastrand::Rng::with_seed(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Where reports of the load go.
    pub(crate) fn folder(&self, project: &Project) -> PathBuf {
        project.state().join("soak")
    }

    /// When the node is killed: once in each period, not in its first tenth, so that it has run.
    pub(crate) fn kills(&self) -> Vec<Duration> {
        let mut random = self.random(Stream::Kills);
        let mut kills = Vec::new();
        let mut period = Duration::ZERO;
        while period < self.duration {
            let kill = period + self.kill_every.mul_f64(0.1 + 0.85 * random.f64());
            if kill < self.duration {
                kills.push(kill);
            }
            period += self.kill_every;
        }
        kills
    }

    /// How long the next topic is loaded when so much time is left; `None` when it is not worth one.
    pub(crate) fn segment(&self, left: Duration) -> Option<Duration> {
        let next = left.min(self.recreate_every);
        // What would be too short for a segment of its own is added to this one.
        let next = if left - next < SEGMENT_MIN { left } else { next };
        (left >= SEGMENT_MIN).then_some(next)
    }

    /// Bytes on disk, at most, with this load: one topic, since it is gone before the next one begins.
    pub(crate) fn disk_need(&self, records_per_s: f64) -> f64 {
        let longest = (self.recreate_every + SEGMENT_MIN).min(self.duration).as_secs_f64();
        records_per_s * longest * self.bytes_per_record() + self.fixed_need()
    }

    fn bytes_per_record(&self) -> f64 {
        f64::from(self.record_bytes) + RECORD_OVERHEAD_BYTES
    }

    fn fixed_need(&self) -> f64 {
        let shards = as_f64(u64::try_from(self.shards).unwrap_or(u64::MAX));
        shards * JOURNAL_BYTES + OTHER_BYTES
    }

    /// Refuses what does not fit, and says what would.
    pub(crate) fn check_space(&self, records_per_s: f64, free_bytes: f64) -> Result<()> {
        let usable = free_bytes * USABLE_SHARE;
        let need = self.disk_need(records_per_s);
        let fits_s = (usable - self.fixed_need()) / (records_per_s * self.bytes_per_record());
        let longest_s = (fits_s - SEGMENT_MIN.as_secs_f64()).floor().max(0.0);
        ensure!(
            need <= usable,
            "a segment of {:.0} s at {records_per_s:.0} records/s takes {:.1} GB, and {:.1} GB of the free {:.1} GB may \
             be used: --recreate-every {longest_s:.0} would fit, or a lower --rate",
            self.recreate_every.as_secs_f64(),
            need / 1e9,
            usable / 1e9,
            free_bytes / 1e9,
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_text_is_a_rate_and_a_time_or_an_error(text in "-?[0-9.e]{0,21} ?%?|.{0,20}") {
            let _ = (text.parse::<Rate>(), seconds(&text), minutes(&text));
        }
    }

    fn plan(seed: u64) -> Result<Plan> {
        let arguments =
            Arguments { minutes: Duration::from_secs(3_600), seed: Some(seed), ..Arguments::short() };
        let arguments = Arguments {
            kill_every: Duration::from_secs(300),
            recreate_every: Duration::from_secs(300),
            record_bytes: 1_000,
            shards: 1,
            ..arguments
        };
        arguments.plan(PathBuf::new(), 0, 1)
    }

    #[test]
    fn there_is_a_kill_in_each_period_and_the_seed_says_when() -> Result<()> {
        let kills = plan(7)?.kills();
        assert_eq!(kills.len(), 12);
        for (period, kill) in (0_u32..).zip(&kills) {
            let period_began = Duration::from_secs(300) * period;
            assert!(*kill > period_began && *kill < period_began + Duration::from_secs(300), "{kill:?}");
        }
        assert_eq!(kills, plan(7)?.kills());
        assert_ne!(kills, plan(8)?.kills());
        Ok(())
    }

    #[test]
    fn segments_cover_the_time_and_none_is_tiny() -> Result<()> {
        let plan = plan(1)?;
        let seconds = Duration::from_secs;
        assert_eq!(plan.segment(seconds(3_600)), Some(seconds(300)));
        assert_eq!(plan.segment(seconds(303)), Some(seconds(303)));
        assert_eq!(plan.segment(seconds(42)), Some(seconds(42)));
        assert_eq!(plan.segment(seconds(3)), None);
        Ok(())
    }

    #[test]
    fn what_does_not_fit_on_the_disk_is_refused_with_what_would() -> Result<()> {
        let plan = plan(1)?;
        assert!(plan.check_space(10_000.0, 20e9).is_ok());
        let refused = plan.check_space(100_000.0, 20e9).map_err(|error| error.to_string());
        let Err(words) = refused else { panic!("31 GB do not fit") };
        assert!(words.contains("32.6 GB") && words.contains("--recreate-every 147 would fit"), "{words}");
        Ok(())
    }

    #[test]
    fn a_rate_is_a_share_or_a_number() {
        assert_eq!("50%".parse(), Ok(Rate::ShareOfKnee(0.5)));
        assert_eq!("20000".parse(), Ok(Rate::RecordsPerS(20_000.0)));
        for wrong in ["", "%", "0%", "101%", "-3", "half"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
