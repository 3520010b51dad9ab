//! `corelog verify`: whether a data directory is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use corelog_engine::recovery::RecoveredPartition;
use corelog_engine::types::TopicPartition;
use corelog_runtime::fs::lock_data_dir;
use serde_json::{Value, json};

use super::{Kind, journal_dirs, journals, kind_of, partition_dirs, segments};
use crate::cli::Verify;
use crate::client_run::{OnSignal, on_executor};
use crate::out::{Format, grouped, print_json, print_text};

pub(crate) fn run(arguments: Verify, format: Format) -> Result<ExitCode> {
    on_executor(OnSignal::Ends, move || verify(arguments.dir.clone(), format))
}

/// Everything that was found.
#[derive(Default)]
struct Report {
    journals: Vec<(PathBuf, journals::JournalReport)>,
    partitions: Vec<(PathBuf, segments::PartitionReport)>,
    notes: Vec<String>,
    problems: Vec<String>,
}

async fn verify(dir: PathBuf, format: Format) -> Result<ExitCode> {
    if kind_of(&dir).await? != Kind::DataDir {
        bail!("{} is not a data directory; `corelog dump` shows a part of one", dir.display());
    }
    // A running node would write while this reads.
    let _lock = lock_data_dir(&dir)?;
    let mut report = Report::default();
    let mut known: BTreeMap<TopicPartition, RecoveredPartition> = BTreeMap::new();
    let mut deleted = BTreeSet::new();
    for path in journal_dirs(&dir).await? {
        let mut found = journals::check(&path).await?;
        report.notes.append(&mut found.notes);
        report.problems.append(&mut found.problems);
        for (target, partition) in std::mem::take(&mut found.recovered.partitions) {
            if let Some(fault) = &partition.fault {
                report.problems.push(format!("partition {target}: {fault}"));
            }
            known.insert(target, partition);
        }
        deleted.append(&mut found.recovered.deleted);
        report.journals.push((path, found));
    }
    let mut with_segments = BTreeSet::new();
    for path in partition_dirs(&dir).await? {
        let Some(target) = segments::target_of(&path) else {
            report.notes.push(format!("{}: not a partition's directory", path.display()));
            continue;
        };
        let partition = known.get(&target);
        if partition.is_none() {
            let why = if deleted.contains(&target) { "deleted" } else { "in no journal: a stray" };
            report.notes.push(format!("{}: {why}", path.display()));
        }
        let mut found = segments::check(&path, target, partition).await?;
        report.notes.append(&mut found.notes);
        report.problems.append(&mut found.problems);
        report.partitions.push((path, found));
        with_segments.insert(target);
    }
    check_missing(&known, &with_segments, &mut report);
    print(&dir, &report, known.len(), format)?;
    Ok(match report.problems.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Partitions that should have segments and have no directory.
fn check_missing(
    known: &BTreeMap<TopicPartition, RecoveredPartition>,
    with_segments: &BTreeSet<TopicPartition>,
    report: &mut Report,
) {
    for (target, partition) in known {
        let state = &partition.state;
        if state.position.next > state.log_start && !with_segments.contains(target) {
            report.problems.push(format!(
                "partition {target}: its segments are missing (offsets {} to {})",
                state.log_start, state.position.next
            ));
        }
    }
}

fn print(dir: &Path, report: &Report, partitions: usize, format: Format) -> Result<()> {
    match format {
        Format::Json => print_json(&to_json(report, partitions)),
        Format::Text => Ok(print_text(&to_text(dir, report, partitions))?),
    }
}

fn to_json(report: &Report, partitions: usize) -> Value {
    let journals = report.journals.iter().map(|(path, it)| {
        json!({
            "path": path.display().to_string(),
            "files": it.files,
            "commits": it.commits,
            "entries": it.entries,
            "next_lsn": it.next_lsn,
            "closed": it.closed,
        })
    });
    let with_segments = report.partitions.iter().map(|(path, it)| {
        json!({
            "path": path.display().to_string(),
            "segments": it.segments,
            "batches": it.batches,
            "records": it.records,
            "bytes": it.bytes,
        })
    });
    json!({
        "ok": report.problems.is_empty(),
        "problems": report.problems,
        "notes": report.notes,
        "partitions": partitions,
        "journals": journals.collect::<Vec<_>>(),
        "partitions_with_segments": with_segments.collect::<Vec<_>>(),
    })
}

fn to_text(dir: &Path, report: &Report, partitions: usize) -> String {
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("a string takes everything");
    for (path, it) in &report.journals {
        line(format!(
            "journal {}: {} files, {} commits, {} entries{}",
            path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default(),
            it.files,
            grouped(u64::try_from(it.commits).unwrap_or(u64::MAX)),
            grouped(it.entries),
            if it.closed { ", closed in order" } else { "" }
        ));
    }
    let sum = |number: fn(&segments::PartitionReport) -> u64| {
        grouped(report.partitions.iter().map(|(_, it)| number(it)).sum())
    };
    line(format!(
        "{partitions} partitions, {} of them with segments: {} segments, {} batches, {} records",
        report.partitions.len(),
        sum(|it| u64::try_from(it.segments).unwrap_or(u64::MAX)),
        sum(|it| it.batches),
        sum(|it| it.records)
    ));
    for note in &report.notes {
        line(format!("note: {note}"));
    }
    for problem in &report.problems {
        line(format!("PROBLEM: {problem}"));
    }
    line(match report.problems.len() {
        0 => format!("{} is whole", dir.display()),
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    });
    text
}
