//! `corelog bench machine`: starts the probe on two shards, and prints what it found.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use corelog_bench::cores::{conflict, pick_cores};
use corelog_bench::machine::{
    self, Ask, Cell, FORMAT, Limits, MachineProbe, Parts, Pattern, ProbeDir, Progress, is_interruption,
    size_text,
};
use corelog_bench::result::machine::{allowed_cores, describe_machine, describe_storage, is_memory};
use corelog_bench::result::report::Storage;
use corelog_runtime::shards::{self, ShardContext};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::{BenchMachine, MachinePart};
use crate::config::parse_cores;
use crate::out::{self, Format, grouped};
use crate::revision::REVISION;

/// Exit code of a command that SIGINT or SIGTERM ended.
const INTERRUPTED: u8 = 130;

/// Measures the machine.
pub(crate) fn run(arguments: &BenchMachine, format: Format) -> Result<ExitCode> {
    let parts = Parts {
        disk: arguments.only != Some(MachinePart::Network),
        network: arguments.only != Some(MachinePart::Disk),
    };
    let cores = cores(arguments.cores.as_deref())?;
    let storage = if parts.disk { Some(storage(arguments)?) } else { None };
    let machine = describe_machine();
    let dir = if parts.disk { Some(ProbeDir::make(&arguments.dir)?) } else { None };
    let probe = MachineProbe {
        dir: dir.as_ref().map(|it| it.path().to_owned()).unwrap_or_default(),
        cell: arguments.seconds,
        parts,
        progress: progress(),
    };
    let measured = on_two_shards(&probe, &cores);
    drop(dir);
    let cells = match measured {
        Err(error) if is_interruption(&error) => return Ok(ExitCode::from(INTERRUPTED)),
        other => other?,
    };
    let limits = Limits {
        format: FORMAT,
        revision: REVISION.to_owned(),
        machine,
        cores,
        storage,
        file_bytes: machine::FILE_BYTES,
        cells,
    };
    match format {
        Format::Json => out::print_json(&limits)?,
        Format::Text => out::print_text(&text(&limits))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The driving core, then the other one; twice the same where there is only one.
fn cores(wanted: Option<&str>) -> Result<Vec<usize>> {
    let wanted = wanted.map(parse_cores).transpose()?.flatten();
    if let Some(cores) = wanted {
        ensure!(cores.len() == 2, "--cores names two cores, such as 0,1");
        return Ok(cores);
    }
    let (first, second) = pick_cores(&allowed_cores()?);
    Ok(first.into_iter().take(1).chain(second.into_iter().take(1)).collect())
}

fn storage(arguments: &BenchMachine) -> Result<Storage> {
    let dir = &arguments.dir;
    ensure!(dir.is_dir(), "{} is no directory: --dir names one on the disk to measure", dir.display());
    let storage = describe_storage(dir)?;
    ensure!(
        !is_memory(&storage),
        "{} is on {}, which is memory and no disk: name a directory on a disk with --dir, or measure \
         --only network",
        dir.display(),
        storage.file_system
    );
    Ok(storage)
}

/// On stderr, and only if that is a terminal.
fn progress() -> Progress {
    let style =
        ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}").expect("a template of known keys");
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style);
    Arc::new(move |what, done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        bar.set_message(what.to_owned());
        if done + 1 == all {
            bar.finish_and_clear();
        }
    })
}

fn on_two_shards(probe: &MachineProbe, cores: &[usize]) -> Result<Vec<Cell>> {
    let mut distinct = cores.to_vec();
    distinct.dedup();
    let options = shards::Options {
        cores: Some(distinct),
        shards: 2,
        data_dirs: if probe.parts.disk { vec![probe.dir.clone()] } else { Vec::new() },
        ..shards::Options::default()
    };
    let outcome = Arc::new(Mutex::new(None));
    let (probe, place) = (probe.clone(), Arc::clone(&outcome));
    shards::run(options, move |context: ShardContext<Ask, SocketAddr>| {
        let (probe, place) = (probe.clone(), Arc::clone(&place));
        async move {
            let first = context.shard == 0;
            let measured = machine::run(&probe, context).await;
            if first {
                *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(measured);
                return Ok(());
            }
            measured.map(|_| ())
        }
    })?;
    let measured = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
    measured.context("nothing was measured")??.context("nothing was measured")
}

fn text(limits: &Limits) -> String {
    let machine = &limits.machine;
    let mut text = format!(
        "machine  {}, {} cores, kernel {}, hypervisor {}\n",
        machine.cpu,
        machine.cores,
        machine.kernel,
        machine.settings.get("hypervisor").map_or("unknown", String::as_str)
    );
    if let Some(storage) = &limits.storage {
        text.push_str(&format!(
            "disk     {} on {}, write cache: {}\n",
            storage.file_system, storage.device, storage.write_cache
        ));
    }
    if let [first, second] = limits.cores[..] {
        text.push_str(&format!("cores    {first} and {second}\n"));
        if conflict(&[first], &[second]).is_some() {
            text.push_str("warning  that is one physical core: the two ends of a connection share it\n");
        }
    }
    text.push('\n');
    let mut table =
        out::table(["pattern", "block", "depth", "mb/s", "a second", "p50 us", "p99 us", "max us"]);
    for (at, cell) in limits.cells.iter().enumerate() {
        let again = at > 0 && limits.cells[at - 1].pattern == cell.pattern;
        table.add_row([
            if again { "" } else { cell.pattern.name() }.to_owned(),
            size_text(cell.block_bytes),
            cell.depth.to_string(),
            format!("{:.0}", cell.mb_per_s),
            per_second(cell),
            format!("{:.0}", cell.p50_us),
            format!("{:.0}", cell.p99_us),
            format!("{:.0}", cell.max_us),
        ]);
    }
    out::align_right(&mut table, 1..);
    text.push_str(&out::render(&table));
    text.push_str(&summary(&limits.cells));
    text
}

fn per_second(cell: &Cell) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded, not negative")]
    let rounded = (cell.operations as f64 / cell.seconds).round() as u64;
    grouped(rounded)
}

/// What a result is a share of.
fn summary(cells: &[Cell]) -> String {
    const LIMITS: [(Pattern, &str); 5] = [
        (Pattern::Write, "writes without a sync"),
        (Pattern::WriteSync, "writes with a sync each"),
        (Pattern::GroupCommit, "the journal's pattern"),
        (Pattern::Read, "reads"),
        (Pattern::Stream, "loopback TCP, one connection"),
    ];
    let mut text = String::new();
    for (pattern, name) in LIMITS {
        let of_pattern = cells.iter().filter(|cell| cell.pattern == pattern);
        let best = of_pattern.max_by(|one, other| one.mb_per_s.total_cmp(&other.mb_per_s));
        if let Some(best) = best {
            let block = size_text(best.block_bytes);
            text.push_str(&format!("  {name:<30} {:>6.0} MB/s  {block} × {}\n", best.mb_per_s, best.depth));
        }
    }
    let smallest = cells.iter().find(|cell| cell.pattern == Pattern::WriteSync && cell.depth == 1);
    if let Some(cell) = smallest {
        let (block, us) = (size_text(cell.block_bytes), cell.p50_us);
        text.push_str(&format!("  {:<30} {us:>6.0} µs    {block}, p50\n", "a write and its sync"));
    }
    if let Some(cell) = cells.iter().find(|cell| cell.pattern == Pattern::RoundTrip) {
        let (block, us) = (size_text(cell.block_bytes), cell.p50_us);
        text.push_str(&format!("  {:<30} {us:>6.0} µs    {block}, p50\n", "a TCP round trip"));
    }
    format!("\nAt best:\n{text}")
}
