//! `corelog consume`: by itself from some offset on, or as a member of a group.

mod group;
mod print;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Result, bail};
use corelog_net::client::admin::{OffsetSpec, TopicPartitionName};
use corelog_net::client::cluster::AutoCreate;
use corelog_net::client::consumer::{Assignment, IsolationLevel, StartAt};
use corelog_net::client::{Admin, Client, ClientError, Consumer, ConsumerOptions};
use corelog_runtime::shards::stop_signal;
use futures_lite::future;

use self::print::Printer;
use super::start::From;
use crate::cli::Consume;
use crate::client_run::{OnSignal, with_client};
use crate::out::Format;

pub(crate) fn run(arguments: Consume, format: Format) -> Result<ExitCode> {
    with_client(arguments.connect.clone(), OnSignal::Handles, move |client| {
        let arguments = arguments.clone();
        async move {
            match arguments.group.clone() {
                Some(name) => group::consume(client, name, arguments, format).await,
                None => consume(client, arguments, format).await,
            }
        }
    })
}

fn options(arguments: &Consume) -> ConsumerOptions {
    let isolation = match arguments.read_committed {
        true => IsolationLevel::ReadCommitted,
        false => IsolationLevel::ReadUncommitted,
    };
    ConsumerOptions { isolation, ..ConsumerOptions::default() }
}

async fn consume(client: Client, arguments: Consume, format: Format) -> Result<ExitCode> {
    if arguments.topics.len() > 1 && !arguments.partition.is_empty() {
        bail!("--partition is for one topic");
    }
    let mut partitions: Vec<TopicPartitionName> = Vec::new();
    for topic in &arguments.topics {
        let topic = client.topic(topic, AutoCreate::No).await?;
        let all = || topic.partitions.iter().map(|it| it.id).collect();
        let wanted = if arguments.partition.is_empty() { all() } else { arguments.partition.clone() };
        partitions.extend(wanted.into_iter().map(|partition| (Rc::clone(&topic.name), partition)));
    }
    let starts = starts(&client, &partitions, &arguments).await?;
    let assignments = partitions.iter().zip(starts).map(|((topic, partition), start)| Assignment {
        topic: Rc::clone(topic),
        partition: *partition,
        start,
    });
    let mut consumer = Consumer::new(client, assignments.collect(), options(&arguments)).await?;
    // Without --follow: the offset before which to stop, by partition.
    let ends: Option<BTreeMap<TopicPartitionName, i64>> = match arguments.follow {
        true => None,
        false => Some(partitions.iter().cloned().zip(consumer.end_offsets().await?).collect()),
    };
    for ((topic, partition), end) in ends.iter().flatten() {
        if consumer.position(topic, *partition).is_some_and(|at| at >= *end) {
            consumer.stop(topic, *partition);
        }
    }
    let mut printer = Printer::new(&arguments, format);
    let stop = stop_signal();
    while printer.left() > 0 {
        let interrupted = async {
            stop.wait().await;
            Ok(None)
        };
        let Some(chunk) = future::or(interrupted, consumer.next()).await? else {
            break;
        };
        let name = (Rc::clone(&chunk.topic), chunk.partition);
        let end = ends.as_ref().and_then(|ends| ends.get(&name).copied());
        printer.print(&chunk, end.unwrap_or(i64::MAX))?;
        if end.is_some_and(|end| chunk.next_offset >= end) {
            consumer.stop(&chunk.topic, chunk.partition);
        }
    }
    printer.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Where each partition begins. An offset is held against what the partitions have: with several,
/// it is in the nature of things that one has not come so far or begins later; with one, it is an
/// error.
async fn starts(
    client: &Client,
    partitions: &[TopicPartitionName],
    arguments: &Consume,
) -> Result<Vec<StartAt>> {
    let offset = match arguments.from {
        From::Beginning => return Ok(vec![StartAt::Beginning; partitions.len()]),
        From::End => return Ok(vec![StartAt::End; partitions.len()]),
        From::Timestamp(timestamp_ms) => {
            return Ok(vec![StartAt::Timestamp(timestamp_ms); partitions.len()]);
        }
        From::Offset(offset) => offset,
    };
    let admin = Admin::new(client.clone());
    let wanted = |spec| partitions.iter().map(|it| (it.clone(), spec)).collect::<Vec<_>>();
    let isolation = IsolationLevel::ReadUncommitted;
    let first = admin.list_offsets(&wanted(OffsetSpec::Earliest), isolation).await?;
    let end = admin.list_offsets(&wanted(OffsetSpec::Latest), isolation).await?;
    let mut starts = Vec::new();
    for (((topic, partition), first), end) in partitions.iter().zip(first).zip(end) {
        let (first, end) = (first.offset.unwrap_or(0), end.offset.unwrap_or(0));
        if partitions.len() == 1 && !(first..=end).contains(&offset) {
            return Err(ClientError::OffsetOutOfRange {
                topic: topic.to_string(),
                partition: *partition,
                offset,
                log_start_offset: first,
                log_end_offset: end,
            }
            .into());
        }
        starts.push(StartAt::Offset(offset.clamp(first, end.max(first))));
    }
    Ok(starts)
}

/// Says something beside the records; nobody has to read it.
fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
