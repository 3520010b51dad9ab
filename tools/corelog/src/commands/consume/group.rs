//! `corelog consume --group`: as a member, until a signal or enough records.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use corelog_net::client::admin::TopicPartitionName;
use corelog_net::client::consumer::StartAt;
use corelog_net::client::member::{GroupConsumer, GroupEvent, GroupOptions};
use corelog_net::client::{Client, ClientError};
use corelog_runtime::shards::stop_signal;
use futures_lite::future;

use super::print::Printer;
use super::{note, options};
use crate::cli::{AssignorArgument, Consume, ProtocolArgument};
use crate::commands::start::From;
use crate::out::Format;

/// Signs of life in the time after which the group takes a silent member for dead.
const HEARTBEATS_PER_SESSION: u32 = 4;
const HEARTBEAT_INTERVAL_MAX: Duration = Duration::from_secs(3);

pub(super) async fn consume(
    client: Client,
    group: String,
    arguments: Consume,
    format: Format,
) -> Result<ExitCode> {
    let membership = membership(group, &arguments)?;
    let mut member = GroupConsumer::new(client, membership, options(&arguments)).await?;
    let mut printer = Printer::new(&arguments, format);
    let printed = print(&mut member, &mut printer).await;
    // Whatever ended it: what was printed is committed, and the others need not wait.
    let closed = member.close().await;
    printed?;
    closed?;
    printer.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Prints records until there are enough of them, or a signal comes.
async fn print<W: std::io::Write>(member: &mut GroupConsumer, printer: &mut Printer<W>) -> Result<()> {
    let stop = stop_signal();
    while printer.left() > 0 {
        let interrupted = async {
            stop.wait().await;
            Ok::<_, ClientError>(None)
        };
        let next = async { member.next().await.map(Some) };
        match future::or(interrupted, next).await? {
            Some(GroupEvent::Records(chunk)) => {
                let next = printer.print(&chunk, i64::MAX)?;
                member.mark(&chunk.topic, chunk.partition, next);
            }
            Some(GroupEvent::Assignment { partitions, was_lost }) => told(&partitions, was_lost),
            None => return Ok(()),
        }
    }
    Ok(())
}

/// For people only: a program reads `corelog group describe`.
fn told(partitions: &[TopicPartitionName], was_lost: bool) {
    if was_lost {
        note("the group went on without this member: some records may come again");
    } else if std::io::stderr().is_terminal() {
        note(&summary(partitions));
    }
}

fn summary(partitions: &[TopicPartitionName]) -> String {
    let mut text = String::new();
    for of_topic in partitions.chunk_by(|one, other| one.0 == other.0) {
        let mut numbers: Vec<String> = Vec::new();
        for run in of_topic.chunk_by(|one, other| other.1 == one.1 + 1) {
            let (first, last) = (run[0].1, run[run.len() - 1].1);
            numbers.push(if first == last { first.to_string() } else { format!("{first}-{last}") });
        }
        text.push_str(&format!(" {}:{}", of_topic[0].0, numbers.join(",")));
    }
    if text.is_empty() { "assigned: nothing".to_owned() } else { format!("assigned:{text}") }
}

fn membership(group: String, arguments: &Consume) -> Result<GroupOptions> {
    if !arguments.partition.is_empty() {
        bail!("--partition and --group exclude each other: the group says who reads what");
    }
    let start = match arguments.from {
        From::Beginning => StartAt::Beginning,
        From::End => StartAt::End,
        From::Timestamp(timestamp_ms) => StartAt::Timestamp(timestamp_ms),
        From::Offset(_) => bail!(
            "with --group, --from says where to begin in partitions for which nothing was committed: \
             beginning, end or a time; 'corelog group reset-offsets' sets offsets"
        ),
    };
    let protocol = arguments.protocol.and_then(ProtocolArgument::protocol);
    let assignor = arguments.assignor.map(AssignorArgument::assignor);
    if let (Some(protocol), Some(argument)) = (protocol, arguments.assignor)
        && !argument.is_of(protocol)
    {
        bail!("the {} protocol has no such assignor", arguments.protocol.map_or("", ProtocolArgument::name));
    }
    Ok(GroupOptions {
        protocol,
        assignor,
        start,
        commit_interval: (!arguments.no_commit).then_some(arguments.commit_interval),
        instance_id: arguments.instance_id.clone(),
        session_timeout: arguments.session_timeout,
        heartbeat_interval: (arguments.session_timeout / HEARTBEATS_PER_SESSION).min(HEARTBEAT_INTERVAL_MAX),
        ..GroupOptions::new(group, arguments.topics.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_told_in_ranges_by_topic() {
        let names = [("a", 0), ("a", 1), ("a", 2), ("a", 5), ("b", 7)];
        let names: Vec<_> = names.into_iter().map(|(topic, partition)| (topic.into(), partition)).collect();
        assert_eq!(summary(&names), "assigned: a:0-2,5 b:7");
        assert_eq!(summary(&[]), "assigned: nothing");
    }
}
