//! `corelog group`: who reads what, how far behind they are, and setting them back.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Result, bail};
use corelog_net::client::admin::{OffsetSpec, TopicPartitionName};
use corelog_net::client::consumer::IsolationLevel;
use corelog_net::client::groups::{CommittedOffset, GroupDescription, GroupMember};
use corelog_net::client::{Admin, AutoCreate, Client, ClientError};
use corelog_protocol::error::ErrorCode;
use serde::Serialize;
use serde_json::json;

use super::confirm;
use super::selection::partitions_of;
use super::start::From;
use crate::cli::{Group, GroupDelete, GroupDescribe, GroupList, GroupReset, TopicSelection};
use crate::client_run::{OnSignal, with_client};
use crate::out::{self, Format, print_json, print_text};

pub(crate) fn run(command: Group, format: Format) -> Result<ExitCode> {
    match command {
        Group::List(GroupList { state, connect }) => {
            with_client(connect, OnSignal::Ends, move |client| list(client, state.clone(), format))
        }
        Group::Describe(GroupDescribe { name, connect }) => {
            with_client(connect, OnSignal::Ends, move |client| describe(client, name.clone(), format))
        }
        Group::ResetOffsets(arguments) => {
            with_client(arguments.connect.clone(), OnSignal::Ends, move |client| {
                reset(client, arguments.clone(), format)
            })
        }
        Group::Delete(GroupDelete { names, yes, connect }) => {
            with_client(connect, OnSignal::Ends, move |client| delete(client, names.clone(), yes, format))
        }
    }
}

async fn list(client: Client, states: Vec<String>, format: Format) -> Result<ExitCode> {
    let groups = Admin::new(client).list_groups().await?;
    let wanted = |state: Option<&String>| {
        states.is_empty() || state.is_some_and(|state| states.iter().any(|it| it.eq_ignore_ascii_case(state)))
    };
    let groups: Vec<_> = groups.into_iter().filter(|group| wanted(group.state.as_ref())).collect();
    match format {
        Format::Json => print_json(
            &groups
                .iter()
                .map(|group| {
                    json!({
                        "group": group.name,
                        "state": group.state,
                        "type": group.group_type,
                        "protocol_type": group.protocol_type,
                    })
                })
                .collect::<Vec<_>>(),
        )?,
        Format::Text if groups.is_empty() => eprintln!("there are no such groups"),
        Format::Text => {
            let mut table = out::table(["group", "state", "type", "protocol type"]);
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            for group in groups {
                table.add_row([
                    group.name,
                    or_dash(group.state),
                    or_dash(group.group_type),
                    group.protocol_type,
                ]);
            }
            print_text(&out::render(&table))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One partition of a group: what was committed, where the log ends, who reads it.
#[derive(Debug, Serialize)]
struct Row {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    log_end_offset: Option<i64>,
    lag: Option<i64>,
    member: Option<String>,
    client_id: Option<String>,
    host: Option<String>,
}

async fn describe(client: Client, name: String, format: Format) -> Result<ExitCode> {
    let admin = Admin::new(client.clone());
    let group = admin.describe_group(&name).await?;
    let committed = admin.committed_offsets(&name).await?;
    let rows = rows(&client, &admin, &group, &committed).await?;
    match format {
        Format::Json => print_json(&json!({
            "group": group.name,
            "state": group.state,
            "type": group.group_type,
            "assignor": group.assignor,
            "coordinator": group.coordinator,
            "members": group.members.iter().map(|member| json!({
                "id": member.id,
                "instance_id": member.instance_id,
                "client_id": member.client_id,
                "host": member.host,
            })).collect::<Vec<_>>(),
            "partitions": rows,
            "lag": rows.iter().filter_map(|row| row.lag).sum::<i64>(),
        }))?,
        Format::Text => print_text(&describe_text(&group, &rows))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Every partition that was committed or is assigned.
async fn rows(
    client: &Client,
    admin: &Admin,
    group: &GroupDescription,
    committed: &[CommittedOffset],
) -> Result<Vec<Row>> {
    #[derive(Default)]
    struct Known<'a> {
        committed: Option<i64>,
        member: Option<&'a GroupMember>,
    }
    let mut partitions: BTreeMap<(String, i32), Known<'_>> = BTreeMap::new();
    for it in committed {
        partitions.entry((it.topic.to_string(), it.partition)).or_default().committed = Some(it.offset);
    }
    for member in &group.members {
        for (topic, indexes) in member.assignment.iter().flatten() {
            for partition in indexes {
                partitions.entry((topic.clone(), *partition)).or_default().member = Some(member);
            }
        }
    }
    let ends = ends(client, admin, partitions.keys()).await?;
    let rows = partitions.into_iter().map(|((topic, partition), Known { committed, member })| {
        let end = ends.get(&(topic.clone(), partition)).copied();
        Row {
            lag: committed.zip(end).map(|(committed, end)| (end - committed).max(0)),
            topic,
            partition,
            committed,
            log_end_offset: end,
            member: member.map(|it| it.id.clone()),
            client_id: member.map(|it| it.client_id.clone()),
            host: member.map(|it| it.host.clone()),
        }
    });
    Ok(rows.collect())
}

/// Where these partitions end; those of topics that are gone are left out.
async fn ends(
    client: &Client,
    admin: &Admin,
    partitions: impl Iterator<Item = &(String, i32)>,
) -> Result<BTreeMap<(String, i32), i64>> {
    let mut wanted: Vec<(TopicPartitionName, OffsetSpec)> = Vec::new();
    for (topic, partition) in partitions {
        let known = match client.topic(topic, AutoCreate::No).await {
            Ok(known) => known,
            Err(ClientError::UnknownTopic { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        if known.partitions.iter().any(|it| it.id == *partition) {
            wanted.push(((Rc::clone(&known.name), *partition), OffsetSpec::Latest));
        }
    }
    let found = admin.list_offsets(&wanted, IsolationLevel::ReadUncommitted).await?;
    let ends = wanted.into_iter().zip(found);
    Ok(ends
        .filter_map(|(((topic, partition), _), found)| Some(((topic.to_string(), partition), found.offset?)))
        .collect())
}

fn describe_text(group: &GroupDescription, rows: &[Row]) -> String {
    let lag: i64 = rows.iter().filter_map(|row| row.lag).sum();
    let mut text = format!(
        "group        {}\nstate        {}\ntype         {}\nassignor     {}\ncoordinator  node {}\nmembers      {}\nlag          {lag}\n",
        group.name,
        group.state,
        group.group_type,
        if group.assignor.is_empty() { "-" } else { &group.assignor },
        group.coordinator,
        group.members.len(),
    );
    if rows.is_empty() {
        return text;
    }
    let mut table = out::table(["topic", "partition", "committed", "end", "lag", "member", "client", "host"]);
    let number = |number: Option<i64>| number.map_or("-".to_owned(), |it| it.to_string());
    let name = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for row in rows {
        table.add_row([
            row.topic.clone(),
            row.partition.to_string(),
            number(row.committed),
            number(row.log_end_offset),
            number(row.lag),
            name(&row.member),
            name(&row.client_id),
            name(&row.host),
        ]);
    }
    out::align_right(&mut table, 1..5);
    text.push('\n');
    text.push_str(&out::render(&table));
    text
}

/// One partition of a reset.
#[derive(Debug, Serialize)]
struct Change {
    topic: String,
    partition: i32,
    before: Option<i64>,
    after: i64,
}

async fn reset(client: Client, arguments: GroupReset, format: Format) -> Result<ExitCode> {
    let admin = Admin::new(client.clone());
    let GroupReset { name, topic, all_topics, to, shift, execute, .. } = arguments;
    match admin.describe_group(&name).await {
        Ok(group) if !group.members.is_empty() => bail!(
            "group '{name}' has {} members ({}): offsets can be set while nobody uses them",
            group.members.len(),
            group.state
        ),
        Ok(_) => {}
        // Nobody has used it yet: it begins where this says.
        Err(error) if error.code() == Some(ErrorCode::GroupIdNotFound) => {}
        Err(error) => return Err(error.into()),
    }
    let committed: BTreeMap<(String, i32), i64> = admin
        .committed_offsets(&name)
        .await?
        .into_iter()
        .map(|it| ((it.topic.to_string(), it.partition), it.offset))
        .collect();
    let selected = selected(&client, &topic, all_topics, &committed).await?;
    if selected.is_empty() {
        bail!("group '{name}' has committed nothing: name topics with --topic");
    }
    let changes = changes(&admin, &selected, &committed, to, shift).await?;
    if execute {
        let offsets: Vec<_> = selected.iter().cloned().zip(changes.iter().map(|it| it.after)).collect();
        admin.commit_offsets(&name, &offsets).await?;
    }
    match format {
        Format::Json => print_json(&json!({ "group": name, "executed": execute, "partitions": changes }))?,
        Format::Text => {
            let mut table = out::table(["topic", "partition", "before", "after", "change"]);
            for it in &changes {
                let before = it.before.map_or("-".to_owned(), |before| before.to_string());
                let change = it.before.map_or("-".to_owned(), |before| format!("{:+}", it.after - before));
                table.add_row([
                    it.topic.clone(),
                    it.partition.to_string(),
                    before,
                    it.after.to_string(),
                    change,
                ]);
            }
            out::align_right(&mut table, 1..5);
            print_text(&out::render(&table))?;
            if !execute {
                eprintln!("nothing was changed: this is what --execute would do");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The partitions to reset.
async fn selected(
    client: &Client,
    topics: &[TopicSelection],
    all_topics: bool,
    committed: &BTreeMap<(String, i32), i64>,
) -> Result<Vec<TopicPartitionName>> {
    let mut selected = BTreeMap::new();
    if all_topics {
        for (topic, partition) in committed.keys() {
            let known = client.topic(topic, AutoCreate::No).await?;
            selected.insert((topic.clone(), *partition), Rc::clone(&known.name));
        }
    }
    for selection in topics {
        for (topic, partition) in partitions_of(client, selection).await? {
            selected.insert((topic.to_string(), partition), topic);
        }
    }
    Ok(selected.into_iter().map(|((_, partition), name)| (name, partition)).collect())
}

/// Where each partition is to go on, within what its log has.
async fn changes(
    admin: &Admin,
    selected: &[TopicPartitionName],
    committed: &BTreeMap<(String, i32), i64>,
    to: Option<From>,
    shift: Option<i64>,
) -> Result<Vec<Change>> {
    let ask = async |spec: OffsetSpec| {
        let wanted: Vec<_> = selected.iter().map(|name| (name.clone(), spec)).collect();
        let found = admin.list_offsets(&wanted, IsolationLevel::ReadUncommitted).await?;
        Ok::<_, ClientError>(found.into_iter().map(|found| found.offset).collect::<Vec<_>>())
    };
    let (starts, ends) = (ask(OffsetSpec::Earliest).await?, ask(OffsetSpec::Latest).await?);
    let at_time = match to {
        Some(From::Timestamp(timestamp_ms)) => Some(ask(OffsetSpec::AtTimestamp(timestamp_ms)).await?),
        _ => None,
    };
    let mut changes = Vec::with_capacity(selected.len());
    for (at, (topic, partition)) in selected.iter().enumerate() {
        let (start, end) = (starts[at].unwrap_or(0), ends[at].unwrap_or(0));
        let before = committed.get(&(topic.to_string(), *partition)).copied();
        let wanted = match (to, shift) {
            (Some(From::Beginning), _) => start,
            (Some(From::End), _) => end,
            (Some(From::Offset(offset)), _) => offset,
            // Nothing is that young: it goes on behind the last.
            (Some(From::Timestamp(_)), _) => at_time.as_ref().and_then(|found| found[at]).unwrap_or(end),
            (None, Some(shift)) => match before {
                Some(before) => before.saturating_add(shift),
                None => bail!("nothing was committed for {topic}-{partition}, so it cannot be shifted"),
            },
            (None, None) => unreachable!("one of the two has to be given"),
        };
        changes.push(Change {
            topic: topic.to_string(),
            partition: *partition,
            before,
            after: wanted.clamp(start, end),
        });
    }
    Ok(changes)
}

async fn delete(client: Client, names: Vec<String>, yes: bool, format: Format) -> Result<ExitCode> {
    let question = format!("delete {} with all offsets?", names.join(", "));
    let refusal = "deleting groups with their offsets cannot be undone";
    if !yes && !confirm::ask(question, refusal).await? {
        eprintln!("nothing was deleted");
        return Ok(ExitCode::FAILURE);
    }
    let admin = Admin::new(client);
    let mut first_error = None;
    let mut rows = Vec::new();
    for name in &names {
        let outcome = admin.delete_group(name).await;
        rows.push(json!({ "group": name, "deleted": outcome.is_ok() }));
        match (outcome, format) {
            (Ok(()), Format::Text) => print_text(&format!("deleted group {name}\n"))?,
            (Ok(()), Format::Json) => {}
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
