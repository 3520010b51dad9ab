//! What came of a soak, for people: a sentence, a table, a page. They say nothing that the outcome
//! does not hold.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::watch::{self, Growth, Sample};
use super::{Outcome, benchmarks};
use crate::project::Project;

/// One line, for the sum of the project's checks.
pub(crate) fn sentence(outcome: &Outcome) -> String {
    let sums = Sums::of(outcome);
    format!(
        "{} records acknowledged and {} read in {:.0} s over {} kills, slowest restart {:.0} ms, {} topics came and {} went",
        grouped(sums.acknowledged),
        grouped(sums.read),
        outcome.seconds,
        outcome.kills.len(),
        slowest_ms(outcome),
        outcome.totals.topics_created,
        outcome.totals.topics_deleted,
    )
}

/// Over all segments of the load.
#[derive(Default)]
struct Sums {
    sent: u64,
    acknowledged: u64,
    undecided: u64,
    read: u64,
    unsent: u64,
    reconnects: u64,
    errors: BTreeMap<String, u64>,
}

impl Sums {
    fn of(outcome: &Outcome) -> Self {
        let mut sums = Self::default();
        for segment in &outcome.segments {
            sums.sent += segment.sent;
            sums.acknowledged += segment.acknowledged;
            sums.undecided += segment.undecided;
            sums.read += segment.read;
            sums.unsent += segment.unsent;
            sums.reconnects += segment.reconnects;
            for (error, count) in &segment.errors {
                *sums.errors.entry(error.clone()).or_default() += count;
            }
        }
        sums
    }
}

fn slowest_ms(outcome: &Outcome) -> f64 {
    outcome.kills.iter().map(|kill| kill.restart_ms).fold(0.0, f64::max)
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn verdict(outcome: &Outcome) -> &'static str {
    match (outcome.violations.is_empty(), outcome.interrupted) {
        (false, _) => "FAILED",
        (true, true) => "none: interrupted",
        (true, false) => "held",
    }
}

/// Name and value of everything that counts.
fn rows(outcome: &Outcome) -> Vec<(&'static str, String)> {
    let Outcome { totals, memory, samples, .. } = outcome;
    let sums = Sums::of(outcome);
    let growth =
        |growth: Option<Growth>| growth.map_or("lives were too short or too few".to_owned(), |it| it.words());
    let knee =
        outcome.knee_records_per_s.map(|knee| format!(", the knee is at {knee:.0}")).unwrap_or_default();
    let errors: Vec<String> = sums.errors.iter().map(|(error, count)| format!("{count} × {error}")).collect();
    let spread = |of: fn(&Sample) -> u64| {
        let values = || samples.iter().map(of);
        let ends = samples.first().zip(samples.last()).map(|(first, last)| (of(first), of(last)));
        let (first, last) = ends.unwrap_or_default();
        format!("{first} at the start, {last} at the end, {} at most", values().max().unwrap_or_default())
    };
    let disk_mb = samples.iter().map(|sample| sample.disk_mb).fold(0.0, f64::max);
    let mut rows = vec![
        ("verdict", verdict(outcome).to_owned()),
        ("load", format!("{:.0} records/s of {} bytes{knee}", outcome.records_per_s, outcome.record_bytes)),
        ("time", format!("{:.0} s, {} topics one after the other", outcome.seconds, outcome.segments.len())),
        ("records sent", grouped(sums.sent)),
        ("acknowledged", grouped(sums.acknowledged)),
        ("read and verified, over all groups", grouped(sums.read)),
        ("without an outcome", grouped(sums.undecided)),
        ("never sent: the rate was not held", grouped(sums.unsent)),
        ("what the load was told", if errors.is_empty() { "nothing".to_owned() } else { errors.join("; ") }),
        ("connections made again", grouped(sums.reconnects)),
        (
            "kill -9",
            format!(
                "{}, slowest answer after the next start {:.0} ms",
                outcome.kills.len(),
                slowest_ms(outcome)
            ),
        ),
        (
            "topics created, deleted beside the load",
            format!(
                "{}, {}; {} at once under the name of one just deleted",
                totals.topics_created, totals.topics_deleted, totals.topics_created_again
            ),
        ),
        (
            "records produced, read there",
            format!("{}, {}", grouped(totals.churn_produced), grouped(totals.churn_read)),
        ),
        ("topics left undecided by a kill", totals.undecided_topics.to_string()),
        (
            "reads from anywhere",
            format!(
                "{}, {} records, {} of them seen before and the same",
                totals.reads,
                grouped(totals.records_read),
                grouped(totals.records_compared)
            ),
        ),
        ("commands repeated because of a kill", totals.commands_repeated.to_string()),
        (
            "resident memory",
            format!(
                "{:.0} MB at the start, {:.0} MB at the end, {:.0} MB at most; bound {:.0} MB",
                memory.first_mb, memory.last_mb, memory.max_mb, memory.bound_mb
            ),
        ),
        ("growth within lives, over the longest", growth(memory.within_lives)),
        ("growth from life to life", growth(memory.over_lives)),
        ("file descriptors", spread(|sample| sample.file_descriptors)),
        ("threads", spread(|sample| sample.threads)),
        ("disk", format!("{disk_mb:.0} MB at most")),
    ];
    for (words, count) in &outcome.log.explained {
        rows.push(("explained in the log", format!("{count} × {words}")));
    }
    rows.push(("unexplained lines in the log", outcome.log.unexplained.len().to_string()));
    rows.push(("seed", outcome.seed.to_string()));
    rows
}

/// The table at the end.
pub(crate) fn table(outcome: &Outcome) -> String {
    let lines: Vec<String> =
        rows(outcome).into_iter().map(|(name, value)| format!("{name:<40} {value}")).collect();
    lines.join("\n")
}

/// Writes the page and the results beside it; returns where the page is.
pub(crate) fn write(project: &Project, outcome: &Outcome) -> Result<PathBuf> {
    let folder = benchmarks(project);
    let date = &outcome.started[..10];
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(format!("{date}-soak.json")), serde_json::to_string_pretty(outcome)? + "\n")?;
    let page = folder.join(format!("{date}-soak.md"));
    fs::write(&page, render(outcome, date)?)?;
    Ok(page)
}

fn render(outcome: &Outcome, date: &str) -> Result<String> {
    let mut text = String::new();
    let minutes = outcome.seconds / 60.0;
    let time = if minutes < 2.0 {
        format!("{:.0} seconds", outcome.seconds)
    } else {
        format!("{minutes:.0} minutes")
    };
    writeln!(text, "# A soak of {time}\n")?;
    writeln!(
        text,
        "Begun {} with Corelog {}, by `cargo xtask soak`: durability `{}`, {} on one core, clients on another one, \
         `kill -9` once in each {:.0} s. Every sample is in [{date}-soak.json]({date}-soak.json).\n",
        outcome.started,
        outcome.revision,
        outcome.durability,
        if outcome.shards == 1 { "1 shard".to_owned() } else { format!("{} shards", outcome.shards) },
        outcome.kill_every_s
    )?;
    for violation in &outcome.violations {
        writeln!(text, "- **Violation:** {}", violation.lines().next().unwrap_or_default())?;
    }
    writeln!(text, "\n| What | Value |\n|---|---|")?;
    for (name, value) in rows(outcome) {
        writeln!(text, "| {name} | {} |", value.replace('|', "\\|"))?;
    }
    writeln!(text, "\n## Topics of the load\n")?;
    writeln!(
        text,
        "| Topic | Seconds | Sent | Acknowledged | Without an outcome | Read | p99 ms | Max ms |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|"
    )?;
    let ms = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.1}"));
    for it in &outcome.segments {
        writeln!(
            text,
            "| {} | {:.0} | {} | {} | {} | {} | {} | {} |",
            it.topic,
            it.seconds,
            grouped(it.sent),
            grouped(it.acknowledged),
            grouped(it.undecided),
            grouped(it.read),
            ms(it.p99_ms),
            ms(it.max_ms)
        )?;
    }
    writeln!(
        text,
        "\nTimes are those from when a record was due; what was due while the node was down is in them."
    )?;
    writeln!(text, "\n## Kills\n\n| At s | First answer after the start, ms |\n|---:|---:|")?;
    for kill in &outcome.kills {
        writeln!(text, "| {:.1} | {:.0} |", kill.at_s, kill.restart_ms)?;
    }
    writeln!(text, "\n## Machine\n")?;
    let machine = &outcome.machine;
    writeln!(text, "- {}, {} cores, {} MB", machine.cpu, machine.cores, machine.memory_bytes / 1_000_000)?;
    writeln!(text, "- Linux {}, {}, {}", machine.kernel, machine.file_system, machine.device)?;
    writeln!(text, "\n## How it is judged\n\n{}", method())?;
    Ok(text)
}

fn method() -> String {
    format!(
        "- The load generator verifies every record of each topic in two groups: lost, duplicated, reordered, corrupt.\n\
         - Readers begin at offsets and times at random: offsets without a gap, ends that never go back, and at an \
         offset always the same record, before a kill and after it.\n\
         - Each topic that comes and goes is read in whole: every record once, keys in one partition and in order.\n\
         - Memory is flat when it grows by less than {:.0}% or {:.0} MB: within lives, over the longest of them, and \
         over the run. A life is cut into windows as long as a topic of the load lives, from when the node has been \
         given {:.0} times its budget; of each the median counts. The growth is by the median of the slopes between \
         all pairs of windows of a life, and of different lives; {} windows at least. The budget is \
         what the node's configuration allows: tail cache, requests, responses, half of the journal, its queue, for \
         each shard. The bound is that and {:.0} MB for what no budget names.\n\
         - Every line of the node's log that is a warning, an error, or of no level is in a table of reasons, or the \
         soak has failed.",
        watch::GROWTH_MAX * 100.0,
        watch::GROWTH_FINE_MB,
        watch::FILLS,
        watch::WINDOWS_MIN,
        watch::OVERHEAD_MB,
    )
}
