//! `corelog bench`: probes of this machine.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use corelog_bench::journal::{JournalProbe, Phase};
use corelog_runtime::shards::{self, ShardContext};

use crate::cli::BenchJournal;
use crate::out::{self, Format};

/// Measures the journal.
pub(crate) fn run(arguments: BenchJournal, format: Format) -> Result<ExitCode> {
    let dir = &arguments.dir;
    ensure!(!dir.exists(), "{} exists: --dir names a directory that is made and removed", dir.display());
    let probe = JournalProbe {
        dir: dir.clone(),
        duration: arguments.seconds,
        entries: arguments.entries,
        entry_bytes: arguments.entry_bytes,
        segments: arguments.segments,
        flush_bytes: arguments.flush_bytes,
    };
    let options = shards::Options {
        cores: Some(vec![arguments.core]),
        shards: 1,
        data_dirs: vec![dir.clone()],
        ..shards::Options::default()
    };
    let measured = Arc::new(Mutex::new(None));
    let result = Arc::clone(&measured);
    let ran = shards::run(options, move |_: ShardContext<(), ()>| {
        let (probe, result) = (probe.clone(), Arc::clone(&result));
        async move {
            let phases = corelog_bench::journal::run(&probe).await?;
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(phases);
            anyhow::Ok(())
        }
    });
    std::fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    ran?;
    let phases = measured.lock().unwrap_or_else(PoisonError::into_inner).take();
    print(&phases.context("nothing was measured")?, format)?;
    Ok(ExitCode::SUCCESS)
}

fn print(phases: &[Phase], format: Format) -> Result<()> {
    if format == Format::Json {
        return out::print_json(&phases);
    }
    let mut table = out::table([
        "phase",
        "commits",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "max µs",
        "journal MB/s",
        "segments MB/s",
        "flushes",
        "recreated",
    ]);
    for phase in phases {
        let us = |value: f64| format!("{value:.0}");
        table.add_row([
            phase.name.to_owned(),
            phase.rounds.to_string(),
            us(phase.p50_us),
            us(phase.p99_us),
            us(phase.p999_us),
            us(phase.max_us),
            us(phase.journal_mb_per_s),
            us(phase.segment_mb_per_s),
            phase.flushes.to_string(),
            phase.recreated.to_string(),
        ]);
    }
    out::print_text(&out::render(&table))?;
    Ok(())
}
