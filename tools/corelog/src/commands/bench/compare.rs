//! `corelog bench compare`: prints what [`corelog_bench::result::compare`] finds.

use std::process::ExitCode;

use anyhow::Result;
use corelog_bench::result::compare::{Comparison, RUNS_MIN, Row, Side, Verdict, compare, load};

use crate::cli::BenchCompare;
use crate::out::{self, Format, grouped};

/// Compares the reports.
pub(crate) fn run(arguments: BenchCompare, format: Format) -> Result<ExitCode> {
    let side = |one: Option<_>, several: Vec<_>| load(&one.into_iter().chain(several).collect::<Vec<_>>());
    let baseline = side(arguments.a, arguments.baseline)?;
    let candidate = side(arguments.b, arguments.candidate)?;
    let comparison = compare(&baseline, &candidate, arguments.threshold)?;
    match format {
        Format::Json => out::print_json(&comparison)?,
        Format::Text => out::print_text(&text(&comparison))?,
    }
    let regressed = comparison.regressions().next().is_some();
    Ok(if regressed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(comparison: &Comparison) -> String {
    let mut text = String::new();
    text.push_str(&format!("A  {}\n", side(&comparison.baseline)));
    text.push_str(&format!("B  {}\n\n", side(&comparison.candidate)));
    let mut table = out::table(["run", "figure", "a", "b", "b / a", "95% interval", ""]);
    for (at, row) in comparison.rows.iter().enumerate() {
        let again = at > 0 && comparison.rows[at - 1].run == row.run;
        table.add_row([
            if again { String::new() } else { row.run.clone() },
            row.figure.to_owned(),
            number(row.baseline),
            number(row.candidate),
            format!("{:.3}", row.ratio),
            row.interval.map_or("-".to_owned(), |(low, high)| format!("{low:.3} to {high:.3}")),
            verdict(row).to_owned(),
        ]);
    }
    out::align_right(&mut table, 2..6);
    text.push_str(&out::render(&table));
    text.push('\n');
    if comparison.rows.iter().any(|row| row.interval.is_none()) {
        text.push_str(&format!(
            "Without an interval nobody knows what is chance: that takes at least {RUNS_MIN} runs of \
             each side.\n"
        ));
    }
    for warning in &comparison.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    if let Some(threshold) = comparison.threshold {
        let found: Vec<String> =
            comparison.regressions().map(|row| format!("{} {}", row.run, row.figure)).collect();
        let percent = threshold * 100.0;
        text.push_str(&match found.is_empty() {
            true => format!("No figure is shown to be worse by more than {percent}%.\n"),
            false => format!("Worse by more than {percent}%: {}.\n", found.join("; ")),
        });
    }
    text
}

fn side(side: &Side) -> String {
    let count = match side.reports.len() {
        1 => format!("{}", side.reports[0].display()),
        several => format!("{several} reports, {} and so on", side.reports[0].display()),
    };
    let named = |name: &str, values: &[String]| {
        let values: Vec<&str> = values.iter().map(String::as_str).filter(|it| !it.is_empty()).collect();
        if values.is_empty() { String::new() } else { format!(", {name} {}", values.join(" and ")) }
    };
    count + &named("of", &side.brokers) + &named("driven by revision", &side.revisions)
}

fn verdict(row: &Row) -> &'static str {
    match row.verdict {
        _ if row.regression => "REGRESSION",
        Some(Verdict::Better) => "better",
        Some(Verdict::Worse) => "worse",
        Some(Verdict::Undecided) | None => "",
    }
}

/// With at least three digits that say something.
fn number(value: f64) -> String {
    match value {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded, positive")]
        _ if value >= 1000.0 => grouped(value.round() as u64),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [1_234_567.8, 999.6, 99.96, 9.999, 0.034].map(number);
        assert_eq!(shown, ["1,234,568", "1000", "100.0", "9.999", "0.034"]);
    }
}
