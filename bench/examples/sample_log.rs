//! Writes what a run leaves behind (`run.hlog`, `run.response.hgrm`) with made-up latencies: two
//! paths through a broker, a slow disk now and then, and stalls that queue everything behind them.
//!
//! `cargo run -p corelog-bench --example sample_log -- DIR [SEED [SECONDS [FACTOR]]]`. The pictures
//! of `corelog hist` are looked at with it, and `cargo xtask test` compares what the Java tools
//! make of its files.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use corelog_bench::result::interval_log::IntervalLogWriter;
use corelog_bench::result::percentile_file::write_hgrm;
use corelog_bench::result::report::Metric;
use hdrhistogram::Histogram;

const RECORDS_PER_S: u32 = 20_000;
/// One in so many seconds has a stall.
const STALL_EVERY_S: u64 = 9;
const STALL_NS: f64 = 80e6;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().context("which directory?")?);
    let mut number = |default: f64| arguments.next().map_or(Ok(default), |it| it.parse());
    let (seed, seconds, factor) = (number(1.0)?, number(60.0)?, number(1.0)?);
    fs::create_dir_all(&dir)?;
    let mut random = fastrand::Rng::with_seed(seed.to_bits());
    let started = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    let comments = ["made-up latencies".to_owned()];
    let mut log =
        IntervalLogWriter::new(BufWriter::new(File::create(dir.join("run.hlog"))?), started, &comments)?;
    let mut sum = Histogram::<u64>::new(3)?;
    for second in (0_u64..).take_while(|second| Duration::from_secs(*second).as_secs_f64() < seconds) {
        let [mut response, mut service] = [Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?];
        let stall_at = (second % STALL_EVERY_S == STALL_EVERY_S - 1).then(|| random.f64() * 0.9);
        for record in 0..RECORDS_PER_S {
            let at = f64::from(record) / f64::from(RECORDS_PER_S);
            let own = factor * latency_ns(&mut random);
            // Open loop: what was to be sent while the broker stood still waited for the rest of it.
            let waited = stall_at.map_or(0.0, |stall| STALL_NS * factor - (at - stall) * 1e9);
            let is_behind = stall_at.is_some_and(|stall| at >= stall && waited > 0.0);
            response.record(whole(own + if is_behind { waited } else { 0.0 }))?;
            service.record(whole(own))?;
        }
        let start = Duration::from_secs(second);
        log.write(Metric::Response, start, Duration::from_secs(1), &response)?;
        log.write(Metric::Service, start, Duration::from_secs(1), &service)?;
        sum.add(&response)?;
    }
    log.finish()?;
    write_hgrm(BufWriter::new(File::create(dir.join("run.response.hgrm"))?), &sum, 1e6)?;
    Ok(())
}

fn latency_ns(random: &mut fastrand::Rng) -> f64 {
    let (median_ns, sigma) = match random.f64() {
        share if share < 0.70 => (95e3, 0.18),
        share if share < 0.9985 => (310e3, 0.25),
        _ => (4e6, 0.6),
    };
    // Twelve evenly distributed numbers add up to nearly a normal one.
    let normal: f64 = (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
    median_ns * (sigma * normal).exp()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few seconds in ns")]
fn whole(ns: f64) -> u64 {
    ns.max(0.0) as u64
}
