//! `corelog bench groups`: runs it, says how it goes, and sums it up.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;

use anyhow::{Result, bail};
use corelog_bench::groups::report::{GroupsReport, GroupsRun, OffsetCheck};
use corelog_bench::groups::run::{self, Done, Heard};
use corelog_bench::hist::terminal::{self, Series};
use corelog_bench::result::report::Metric;

use super::run::{INTERRUPTED, PLAIN_INTERVAL, options};
use super::summary::{label, rounded, time};
use crate::cli::BenchGroups;
use crate::commands::hist;
use crate::out::{self, Format, grouped};

/// Runs it.
pub(crate) fn run(arguments: &BenchGroups, format: Format) -> Result<ExitCode> {
    let plan = arguments.plan();
    let options = options(&arguments.place, arguments.out.as_deref(), false)?;
    let live = Live { is_quiet: arguments.quiet, is_terminal: std::io::stderr().is_terminal(), format };
    let mut hear = |heard| live.hear(heard, plan.through_restart);
    let done = run::run(&plan, &options, &mut hear)?;
    live.clear();
    match format {
        Format::Text => out::print_text(&render(&done))?,
        Format::Json => out::print_json(&done.report)?,
    }
    match done {
        Done { report, .. } if report.runs.iter().any(GroupsRun::is_broken) => {
            bail!("not every offset that was acknowledged is there")
        }
        Done { interrupted: true, .. } => Ok(ExitCode::from(INTERRUPTED)),
        Done { .. } => Ok(ExitCode::SUCCESS),
    }
}

struct Live {
    is_quiet: bool,
    is_terminal: bool,
    format: Format,
}

impl Live {
    fn hear(&self, heard: Heard, through_restart: bool) {
        match heard {
            Heard::Second { seconds, commits, p50_us, p99_us, errors } => {
                if !self.is_terminal && !seconds.is_multiple_of(PLAIN_INTERVAL.as_secs()) {
                    return;
                }
                self.say(&format!(
                    "{seconds:>3} s: {}/s committed, p50 {}, p99 {}, {errors} errors",
                    grouped(commits),
                    time(p50_us),
                    time(p99_us)
                ));
            }
            Heard::Measured if through_restart => self.tell("measured: end the broker and start it again"),
            Heard::Measured => {}
            Heard::Lost => self.tell("lost: waiting for the broker"),
        }
    }

    fn say(&self, line: &str) {
        if self.is_quiet {
            return;
        }
        // Nobody reads stderr: nothing is wrong with the run.
        let _ = match self.is_terminal {
            true => write!(std::io::stderr(), "\r\x1b[K{line}"),
            false => writeln!(std::io::stderr(), "{line}"),
        };
    }

    fn clear(&self) {
        if self.is_terminal && !self.is_quiet {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    /// What whoever ends the broker waits for: on stdout, unless that is for the report.
    fn tell(&self, line: &str) {
        self.clear();
        let mut stdout = std::io::stdout();
        // Nobody may be reading it, which is no reason not to go on.
        let _ = match self.format {
            Format::Text => writeln!(stdout, "{line}").and_then(|()| stdout.flush()),
            Format::Json => writeln!(std::io::stderr(), "{line}"),
        };
    }
}

fn render(done: &Done) -> String {
    let mut text = String::new();
    write_head(&mut text, &done.report);
    for run in &done.report.runs {
        write_run(&mut text, run);
    }
    if !done.response.is_empty() {
        let _ = writeln!(text, "\nresponse time of commits");
        let series = Series { name: "groups".to_owned(), histogram: &done.response };
        text.push_str(&terminal::draw(&[series], &hist::draw_options(false)));
    }
    let _ = writeln!(text, "\nreport: {}", done.path.display());
    text
}

fn write_head(text: &mut String, report: &GroupsReport) {
    let machine = &report.machine;
    let _ = writeln!(text, "broker: {}", report.bootstrap);
    if let Some(storage) = &report.storage {
        let (system, device, cache) = (&storage.file_system, &storage.device, &storage.write_cache);
        let _ = writeln!(text, "disk: {system} on {device}, write cache: {cache}");
    }
    let _ = writeln!(text, "machine: {}, {} cores, Linux {}", machine.cpu, machine.cores, machine.kernel);
}

fn write_run(text: &mut String, run: &GroupsRun) {
    let plan = &run.plan;
    let _ = writeln!(
        text,
        "groups: {} {}, each committing {} partitions every {} s\n",
        grouped(plan.groups as u64),
        if plan.members { "with one member" } else { "without members" },
        plan.partitions,
        plan.interval_s,
    );
    text.push_str(&out::render(&rates(run)));
    let _ = write!(text, "\n{}", out::render(&latencies(run)));
    if let Some(check) = &run.verification {
        write_check(text, check);
    }
    if let Some(restart) = &run.restart {
        let _ = writeln!(
            text,
            "\nrestart: connected after {:.1} ms, the first group's offsets after {:.1} ms, all after {:.1} ms; {} \
             requests were refused until then",
            restart.connected_ms,
            restart.first_ms,
            restart.all_ms,
            grouped(restart.refused),
        );
    }
    for (error, count) in &run.errors {
        let _ = writeln!(text, "  {count} × {error}");
    }
    if let Some(why) = &run.client.client_bound {
        let _ = writeln!(text, "  {why}: these numbers are the generator's, not the broker's");
    }
}

fn rates(run: &GroupsRun) -> comfy_table::Table {
    let mut table = out::table([
        "intended/s",
        "commits/s",
        "offsets/s",
        "errors",
        "server CPU",
        "µs/commit",
        "memory MB",
        "client CPU",
    ]);
    let server = run.server.as_ref();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    table.add_row([
        grouped(rounded(run.intended_per_s)),
        grouped(rounded(run.commits_per_s)),
        grouped(rounded(run.offsets_per_s)),
        grouped(run.errors.values().sum()),
        or_dash(server.map(|it| format!("{:.1}%", it.cpu_share * 100.0))),
        or_dash(server.map(|it| format!("{:.1}", it.cpu_us_per_commit))),
        or_dash(server.map(|it| (it.resident_bytes / 1_000_000).to_string())),
        format!("{:.0}%", run.client.cpu_share * 100.0),
    ]);
    table
}

fn latencies(run: &GroupsRun) -> comfy_table::Table {
    const PERCENTILES: [&str; 4] = ["50", "90", "99", "99.9"];
    let mut table = out::table(["latency", "samples", "p50", "p90", "p99", "p99.9", "max"]);
    for metric in Metric::ALL {
        let Some(latency) = run.latency.get(&metric) else { continue };
        let mut row = vec![label(metric).to_owned(), grouped(latency.samples)];
        row.extend(PERCENTILES.iter().map(|name| time(latency.percentiles_us.get(*name).copied())));
        row.push(time((latency.samples > 0).then_some(latency.max_us)));
        table.add_row(row);
    }
    table
}

fn write_check(text: &mut String, check: &OffsetCheck) {
    let _ = writeln!(
        text,
        "\n{} offsets of {} groups were read: missing {}, gone back {}, foreign {}, newer than acknowledged {}: {}",
        grouped(check.offsets),
        grouped(check.groups),
        grouped(check.missing),
        grouped(check.gone_back),
        grouped(check.foreign),
        grouped(check.unanswered),
        if check.as_promised { "as promised" } else { "NOT AS PROMISED" },
    );
    for finding in &check.findings {
        let _ = writeln!(text, "  {finding}");
    }
}
