//! `corelog topic …`

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::Result;
use corelog_net::client::admin::{
    ConfigEntry, ConfigSource, ConfigTarget, ListedOffset, OffsetSpec, TopicSpec,
};
use corelog_net::client::configs::ConfigChange;
use corelog_net::client::consumer::IsolationLevel;
use corelog_net::client::metadata::Topic as TopicMetadata;
use corelog_net::client::{Admin, Client, ClientError};
use corelog_protocol::error::ErrorCode;
use serde::Serialize;
use serde_json::json;

use super::config::source;
use super::{config, confirm};
use crate::cli::{Topic, TopicAddPartitions, TopicAlter, TopicCreate, TopicDelete, TopicDescribe, TopicList};
use crate::client_run::{OnSignal, with_client};
use crate::out::{self, Format, print_json, print_text};

/// Shown even when nobody set it: what an acknowledgement of this topic means.
const DURABILITY: &str = "corelog.durability";

pub(crate) fn run(command: Topic, format: Format) -> Result<ExitCode> {
    match command {
        Topic::Create(arguments) => with_client(arguments.connect.clone(), OnSignal::Ends, move |client| {
            create(client, arguments.clone(), format)
        }),
        Topic::List(TopicList { internal, connect }) => {
            with_client(connect, OnSignal::Ends, move |client| list(client, internal, format))
        }
        Topic::Describe(TopicDescribe { name, all_configs, connect }) => {
            with_client(connect, OnSignal::Ends, move |client| {
                describe(client, name.clone(), all_configs, format)
            })
        }
        Topic::Trim(arguments) => with_client(arguments.connect.clone(), OnSignal::Ends, move |client| {
            super::trim::run(client, arguments.clone(), format)
        }),
        Topic::Alter(TopicAlter { name, set, unset, care, connect }) => {
            let set = set.into_iter().map(|(name, value)| (name, ConfigChange::Set(value)));
            let changes: Vec<_> =
                set.chain(unset.into_iter().map(|name| (name, ConfigChange::Unset))).collect();
            let target = ConfigTarget::Topic(name);
            with_client(connect, OnSignal::Ends, move |client| {
                config::alter(client, target.clone(), changes.clone(), care.clone(), format)
            })
        }
        Topic::AddPartitions(arguments) => {
            with_client(arguments.connect.clone(), OnSignal::Ends, move |client| {
                add_partitions(client, arguments.clone(), format)
            })
        }
        Topic::Delete(TopicDelete { names, if_exists, connect }) => {
            with_client(connect, OnSignal::Ends, move |client| {
                delete(client, names.clone(), if_exists, format)
            })
        }
    }
}

async fn create(client: Client, arguments: TopicCreate, format: Format) -> Result<ExitCode> {
    let name = arguments.name.clone();
    let spec = TopicSpec {
        name: arguments.name,
        partitions: arguments.partitions,
        replication_factor: arguments.replication_factor,
        configs: arguments.config,
    };
    let outcome = Admin::new(client).create_topics(&[spec], false).await?.remove(0);
    let exists = |error: &ClientError| error.code() == Some(ErrorCode::TopicAlreadyExists);
    let created = match outcome {
        Ok(created) => Some(created),
        Err(error) if arguments.if_not_exists && exists(&error) => None,
        Err(error) => return Err(error.into()),
    };
    match (format, created) {
        (Format::Text, Some(created)) => {
            let partitions = match created.partitions {
                Some(1) => " with 1 partition".to_owned(),
                Some(count) => format!(" with {count} partitions"),
                None => String::new(),
            };
            print_text(&format!("created topic {name}{partitions}\n"))?;
        }
        (Format::Text, None) => print_text(&format!("topic {name} exists\n"))?,
        (Format::Json, created) => print_json(&json!({
            "name": name,
            "created": created.is_some(),
            "id": created.as_ref().map(|it| it.id.to_string()),
            "partitions": created.as_ref().and_then(|it| it.partitions),
            "replication_factor": created.as_ref().and_then(|it| it.replication_factor),
        }))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: Client, internal: bool, format: Format) -> Result<ExitCode> {
    #[derive(Serialize)]
    struct Row {
        name: String,
        partitions: usize,
        replication_factor: usize,
        id: String,
        internal: bool,
    }
    let topics = Admin::new(client).list_topics().await?;
    let rows: Vec<Row> = topics
        .iter()
        .filter(|topic| internal || !topic.internal)
        .map(|topic| Row {
            name: topic.name.to_string(),
            partitions: topic.partitions.len(),
            replication_factor: topic.partitions.first().map_or(0, |it| it.replicas.len()),
            id: topic.id.to_string(),
            internal: topic.internal,
        })
        .collect();
    match format {
        Format::Json => print_json(&rows)?,
        Format::Text if rows.is_empty() => {
            eprintln!("there are no topics; `corelog topic create NAME` creates one");
        }
        Format::Text => {
            let mut table = out::table(["topic", "partitions", "replicas"]);
            for row in rows {
                table.add_row([row.name, row.partitions.to_string(), row.replication_factor.to_string()]);
            }
            out::align_right(&mut table, 1..3);
            print_text(&out::render(&table))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn describe(client: Client, name: String, all_configs: bool, format: Format) -> Result<ExitCode> {
    let admin = Admin::new(client);
    let topic = admin.describe_topic(&name).await?;
    let offsets = |spec: OffsetSpec| {
        let with_leader = topic.partitions.iter().filter(|it| it.leader.is_some());
        let wanted = with_leader.map(|it| ((Rc::clone(&topic.name), it.id), spec));
        wanted.collect::<Vec<_>>()
    };
    let isolation = IsolationLevel::ReadUncommitted;
    let first = admin.list_offsets(&offsets(OffsetSpec::Earliest), isolation).await?;
    let end = admin.list_offsets(&offsets(OffsetSpec::Latest), isolation).await?;
    let configs = match admin.describe_configs(&ConfigTarget::Topic(name)).await {
        Ok(configs) => configs,
        // Some brokers and proxies have no configs to show.
        Err(ClientError::Unsupported { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let sizes = match admin.partition_sizes(&topic).await {
        Ok(sizes) => sizes,
        Err(ClientError::Unsupported { .. }) => BTreeMap::new(),
        Err(error) => return Err(error.into()),
    };
    let shown =
        configs.iter().filter(|it| all_configs || it.source == ConfigSource::Topic || it.name == DURABILITY);
    let shown: Vec<&ConfigEntry> = shown.collect();
    let partitions = describe_partitions(&topic, &first, &end, &sizes);
    match format {
        Format::Json => print_json(&json!({
            "name": topic.name.as_ref(),
            "id": topic.id.to_string(),
            "internal": topic.internal,
            "partitions": partitions,
            "configs": shown.iter().map(|it| (it.name.clone(), json!(it.value)))
                .collect::<serde_json::Map<_, _>>(),
        }))?,
        Format::Text => print_text(&describe_text(&topic, &partitions, &shown))?,
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct PartitionRow {
    partition: i32,
    leader: Option<i32>,
    leader_epoch: i32,
    replicas: Vec<i32>,
    isr: Vec<i32>,
    log_start_offset: Option<i64>,
    log_end_offset: Option<i64>,
    /// Bytes of its records on disk, at its leader.
    size_bytes: Option<u64>,
}

/// `first` and `end` are those of the partitions that have a leader.
fn describe_partitions(
    topic: &TopicMetadata,
    first: &[ListedOffset],
    end: &[ListedOffset],
    sizes: &BTreeMap<i32, u64>,
) -> Vec<PartitionRow> {
    let mut offsets = first.iter().zip(end);
    let rows = topic.partitions.iter().map(|it| {
        let found = it.leader.and_then(|_| offsets.next());
        PartitionRow {
            partition: it.id,
            leader: it.leader,
            leader_epoch: it.leader_epoch,
            replicas: it.replicas.clone(),
            isr: it.isr.clone(),
            log_start_offset: found.and_then(|(first, _)| first.offset),
            log_end_offset: found.and_then(|(_, end)| end.offset),
            size_bytes: sizes.get(&it.id).copied(),
        }
    });
    rows.collect()
}

fn describe_text(topic: &TopicMetadata, partitions: &[PartitionRow], configs: &[&ConfigEntry]) -> String {
    let optional = |number: Option<i64>| number.map_or("-".to_owned(), |it| it.to_string());
    let list = |ids: &[i32]| ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let mut table = out::table([
        "partition",
        "leader",
        "epoch",
        "replicas",
        "isr",
        "first offset",
        "end offset",
        "bytes",
    ]);
    for it in partitions {
        table.add_row([
            it.partition.to_string(),
            it.leader.map_or("none".to_owned(), |id| id.to_string()),
            it.leader_epoch.to_string(),
            list(&it.replicas),
            list(&it.isr),
            optional(it.log_start_offset),
            optional(it.log_end_offset),
            it.size_bytes.map_or("-".to_owned(), out::grouped),
        ]);
    }
    out::align_right(&mut table, 0..3);
    out::align_right(&mut table, 5..8);
    let mut text = format!("topic {}\nid    {}\n", topic.name, topic.id);
    for config in configs {
        let value = config.value.as_deref().unwrap_or("(secret)");
        let note = match config.source {
            ConfigSource::Topic => String::new(),
            other => format!("  ({})", source(other)),
        };
        text.push_str(&format!("{} = {value}{note}\n", config.name));
    }
    text.push('\n');
    text.push_str(&out::render(&table));
    text
}

async fn add_partitions(client: Client, arguments: TopicAddPartitions, format: Format) -> Result<ExitCode> {
    let TopicAddPartitions { name, to, add, care, .. } = arguments;
    let admin = Admin::new(client);
    let present = i32::try_from(admin.describe_topic(&name).await?.partitions.len())?;
    let count = match (to, add) {
        (Some(to), _) => to,
        (None, add) => present.saturating_add(add.unwrap_or(1)),
    };
    // First whether it could be done at all: nobody is asked in vain.
    admin.create_partitions(&name, count, true).await?;
    if !care.dry_run {
        let what = format!("topic {name} with {count} partitions instead of {present}");
        let question = format!("{what}: keys go to other partitions, and there is no way back; go on?");
        if !care.yes && !confirm::ask(question, &format!("{what} cannot be undone")).await? {
            eprintln!("nothing was changed");
            return Ok(ExitCode::FAILURE);
        }
        admin.create_partitions(&name, count, false).await?;
    }
    match format {
        Format::Text if care.dry_run => print_text(&format!("topic {name} could have {count} partitions\n"))?,
        Format::Text => print_text(&format!("topic {name} has {count} partitions now\n"))?,
        Format::Json => print_json(&json!({
            "name": name,
            "changed": !care.dry_run,
            "partitions_before": present,
            "partitions": count,
        }))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn delete(client: Client, names: Vec<String>, if_exists: bool, format: Format) -> Result<ExitCode> {
    let outcomes = Admin::new(client).delete_topics(&names).await?;
    let mut first_error = None;
    let mut rows = Vec::new();
    for (name, outcome) in names.iter().zip(outcomes) {
        let unknown = matches!(outcome, Err(ClientError::UnknownTopic { .. }));
        rows.push(json!({ "name": name, "deleted": outcome.is_ok() }));
        match (outcome, format) {
            (Ok(()), Format::Text) => print_text(&format!("deleted topic {name}\n"))?,
            (Ok(()), Format::Json) => {}
            (Err(_), _) if unknown && if_exists => {}
            (Err(error), _) => first_error = first_error.or(Some(error)),
        }
    }
    if format == Format::Json {
        print_json(&rows)?;
    }
    match first_error {
        Some(error) => Err(error.into()),
        None => Ok(ExitCode::SUCCESS),
    }
}
