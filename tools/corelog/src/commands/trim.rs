//! `corelog topic trim`: forgets the oldest records of a topic.

use std::process::ExitCode;

use anyhow::{Result, bail};
use corelog_net::client::admin::{OffsetSpec, TopicPartitionName};
use corelog_net::client::consumer::IsolationLevel;
use corelog_net::client::{Admin, Client, ClientError};
use serde::Serialize;
use serde_json::json;

use super::confirm;
use super::selection::partitions_of;
use super::start::From;
use crate::cli::TopicTrim;
use crate::out::{self, Format, print_json, print_text};

/// One partition: where its log starts, and where it is to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    partition: i32,
    log_start_before: i64,
    log_start_after: i64,
    log_end_offset: i64,
}

impl Row {
    /// Offsets that go. Fewer records may have been there.
    fn gone(&self) -> i64 {
        self.log_start_after - self.log_start_before
    }
}

pub(crate) async fn run(client: Client, arguments: TopicTrim, format: Format) -> Result<ExitCode> {
    let TopicTrim { topic, to, yes, .. } = arguments;
    let admin = Admin::new(client.clone());
    let selected = partitions_of(&client, &topic).await?;
    let rows = plan(&admin, &selected, to).await?;
    if rows.iter().all(|row| row.gone() == 0) {
        eprintln!("no partition of {} has records before that: nothing was deleted", topic.topic);
        return print(&topic.topic, &rows, format);
    }
    if !yes {
        let gone: i64 = rows.iter().map(Row::gone).sum();
        let partitions = rows.iter().filter(|row| row.gone() > 0).count();
        if format == Format::Text {
            eprint!("{}", text(&rows));
        }
        let records = out::grouped(gone.unsigned_abs());
        let question = format!("delete {records} records in {partitions} partitions of {}?", topic.topic);
        if !confirm::ask(question, "deleting records cannot be undone").await? {
            eprintln!("nothing was deleted");
            return Ok(ExitCode::FAILURE);
        }
    }
    let (rows, error) = trim(&admin, &selected, rows).await?;
    let code = print(&topic.topic, &rows, format)?;
    match error {
        Some(error) => Err(error.into()),
        None => Ok(code),
    }
}

/// Where each partition would start.
async fn plan(admin: &Admin, selected: &[TopicPartitionName], to: From) -> Result<Vec<Row>> {
    let ask = async |spec: OffsetSpec| {
        let wanted: Vec<_> = selected.iter().map(|name| (name.clone(), spec)).collect();
        let found = admin.list_offsets(&wanted, IsolationLevel::ReadUncommitted).await?;
        Ok::<_, ClientError>(found.into_iter().map(|found| found.offset).collect::<Vec<_>>())
    };
    let (starts, ends) = (ask(OffsetSpec::Earliest).await?, ask(OffsetSpec::Latest).await?);
    let at_time = match to {
        From::Timestamp(timestamp_ms) => ask(OffsetSpec::AtTimestamp(timestamp_ms)).await?,
        From::Beginning | From::End | From::Offset(_) => vec![None; selected.len()],
    };
    let mut rows = Vec::with_capacity(selected.len());
    for (at, (topic, partition)) in selected.iter().enumerate() {
        let (start, end) = (starts[at].unwrap_or(0), ends[at].unwrap_or(0));
        let wanted = match to {
            From::Beginning => start,
            From::End => end,
            // A mistyped offset must not delete everything.
            From::Offset(offset) if offset > end => {
                bail!("{topic}-{partition} ends at offset {end}, before {offset}: nothing was deleted")
            }
            From::Offset(offset) => offset,
            // All of it is older.
            From::Timestamp(_) => at_time[at].unwrap_or(end),
        };
        rows.push(Row {
            partition: *partition,
            log_start_before: start,
            log_start_after: wanted.max(start),
            log_end_offset: end,
        });
    }
    Ok(rows)
}

/// Does it. The rows then have what the leaders answered, and as before where one refused.
async fn trim(
    admin: &Admin,
    selected: &[TopicPartitionName],
    mut rows: Vec<Row>,
) -> Result<(Vec<Row>, Option<ClientError>)> {
    let changed = |row: &&mut Row| row.gone() > 0;
    let wanted: Vec<_> = selected
        .iter()
        .zip(&rows)
        .filter(|(_, row)| row.gone() > 0)
        .map(|(name, row)| (name.clone(), Some(row.log_start_after)))
        .collect();
    let outcomes = admin.delete_records(&wanted).await?;
    let mut first_error = None;
    for (row, outcome) in rows.iter_mut().filter(changed).zip(outcomes) {
        match outcome {
            Ok(log_start) => row.log_start_after = log_start,
            Err(error) => {
                row.log_start_after = row.log_start_before;
                first_error = first_error.or(Some(error));
            }
        }
    }
    Ok((rows, first_error))
}

fn print(topic: &str, rows: &[Row], format: Format) -> Result<ExitCode> {
    match format {
        Format::Json => print_json(&json!({ "topic": topic, "partitions": rows }))?,
        Format::Text => print_text(&text(rows))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(rows: &[Row]) -> String {
    let mut table = out::table(["partition", "first offset", "new first offset", "end offset", "deleted"]);
    for row in rows {
        let numbers = [row.log_start_before, row.log_start_after, row.log_end_offset, row.gone()];
        let mut cells = vec![row.partition.to_string()];
        cells.extend(numbers.iter().map(i64::to_string));
        table.add_row(cells);
    }
    out::align_right(&mut table, ..);
    out::render(&table)
}
