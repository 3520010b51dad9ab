//! `corelog stages`: where a running node's time goes, from its own metrics.

mod between;
mod get;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use corelog_bench::hist::scale::Time;
use corelog_net::scrape::{Families, parse};
use serde_json::{Value, json};

use self::between::{Kind, Row, rows};
use crate::cli::stages::Stages;
use crate::out::{self, Format};

const PATH: &str = "/metrics";

pub(crate) fn run(arguments: &Stages, format: Format) -> Result<ExitCode> {
    let (before, began) = read(&arguments.http)?;
    std::thread::sleep(arguments.interval);
    let (after, ended) = read(&arguments.http)?;
    let interval = ended - began;
    let rows = rows(&before, &after, interval)?;
    match format {
        Format::Json => out::print_json(&to_json(&rows, &arguments.http, interval))?,
        Format::Text => out::print_text(&to_text(&rows, interval))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The metrics, and when they were there.
fn read(address: &str) -> Result<(Families, Instant)> {
    let text = get::get(address, PATH)?;
    let at = Instant::now();
    let families = parse(&text).with_context(|| format!("the metrics of {address} are not well-formed"))?;
    Ok((families, at))
}

fn to_text(rows: &[Row], interval: Duration) -> String {
    let mut text = format!("in {:.2} s\n", interval.as_secs_f64());
    for (kind, heading) in [(Kind::Request, "request"), (Kind::Stage, "stage"), (Kind::Commit, "per commit")]
    {
        let of_kind: Vec<&Row> = rows.iter().filter(|row| row.kind == kind).collect();
        if of_kind.is_empty() {
            continue;
        }
        let mut table = out::table([heading, "shard", "rate/s", "mean", "p50", "p99"]);
        out::align_right(&mut table, 1..);
        for row in of_kind {
            let shard = row.shard.map_or_else(|| "all".to_owned(), |shard| shard.to_string());
            let mut cells = vec![row.name.clone(), shard, format!("{:.1}", row.rate_per_s)];
            let value = |value: f64| match kind {
                Kind::Request | Kind::Stage => Time(value * 1e9).to_string(),
                Kind::Commit => format!("{value:.1}"),
            };
            match row.values {
                Some(values) => cells.extend([values.mean, values.p50, values.p99].map(value)),
                None => cells.extend(["", "", ""].map(str::to_owned)),
            }
            table.add_row(cells);
        }
        text.push('\n');
        text.push_str(&out::render(&table));
    }
    text
}

fn to_json(rows: &[Row], address: &str, interval: Duration) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let (unit, scale) = match row.kind {
                Kind::Request | Kind::Stage => ("us", 1e6),
                Kind::Commit => (row.name.as_str(), 1.0),
            };
            let value = |value: Option<f64>| value.map(|value| thousandths(value * scale));
            json!({
                "kind": row.kind.name(),
                "name": row.name,
                "shard": row.shard,
                "count": row.count,
                "rate_per_s": thousandths(row.rate_per_s),
                "unit": unit,
                "mean": value(row.values.map(|values| values.mean)),
                "p50": value(row.values.map(|values| values.p50)),
                "p99": value(row.values.map(|values| values.p99)),
            })
        })
        .collect();
    json!({ "http": address, "interval_s": thousandths(interval.as_secs_f64()), "rows": rows })
}

/// Without digits that arithmetic made up.
fn thousandths(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
