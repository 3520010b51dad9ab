//! `corelog config …`, and what `corelog topic alter` has in common with it.

use std::process::ExitCode;

use anyhow::{Result, bail};
use corelog_net::client::admin::{ConfigEntry, ConfigSource, ConfigTarget};
use corelog_net::client::configs::ConfigChange;
use corelog_net::client::{Admin, Client, ClientError};
use serde::Serialize;
use serde_json::json;

use super::confirm;
use crate::cli::{Care, Config, ConfigDescribe, ConfigList, ConfigSet, ConfigUnset, Whose};
use crate::client_run::{OnSignal, with_client};
use crate::out::{self, Format, print_json, print_text};

/// Limits above which records are deleted: smaller ones delete more. −1 is none.
const LIMITS: [&str; 4] = ["retention.ms", "retention.bytes", "log.retention.ms", "log.retention.bytes"];
/// What says whether records are deleted at all.
const POLICIES: [&str; 2] = ["cleanup.policy", "log.cleanup.policy"];

pub(crate) fn run(command: Config, format: Format) -> Result<ExitCode> {
    match command {
        Config::List(arguments) => with_client(arguments.connect.clone(), OnSignal::Ends, move |client| {
            list(client, arguments.clone(), format)
        }),
        Config::Describe(arguments) => {
            with_client(arguments.connect.clone(), OnSignal::Ends, move |client| {
                describe(client, arguments.clone(), format)
            })
        }
        Config::Set(ConfigSet { whose, configs, care, connect }) => {
            let set = |(name, value)| (name, ConfigChange::Set(value));
            let changes: Vec<_> = configs.into_iter().map(set).collect();
            with_client(connect, OnSignal::Ends, move |client| {
                alter(client, target(&whose), changes.clone(), care.clone(), format)
            })
        }
        Config::Unset(ConfigUnset { whose, names, care, connect }) => {
            let changes: Vec<_> = names.into_iter().map(|name| (name, ConfigChange::Unset)).collect();
            with_client(connect, OnSignal::Ends, move |client| {
                alter(client, target(&whose), changes.clone(), care.clone(), format)
            })
        }
    }
}

fn target(whose: &Whose) -> ConfigTarget {
    one_of(whose.topic.as_ref(), whose.node).unwrap_or(ConfigTarget::AllBrokers)
}

fn one_of(topic: Option<&String>, node: Option<i32>) -> Option<ConfigTarget> {
    topic.cloned().map(ConfigTarget::Topic).or(node.map(ConfigTarget::Broker))
}

/// Where a value comes from, in words.
pub(super) fn source(source: ConfigSource) -> &'static str {
    match source {
        ConfigSource::Topic => "topic",
        ConfigSource::Broker => "node",
        ConfigSource::AllBrokers => "all nodes",
        ConfigSource::BrokerFile => "node's file",
        ConfigSource::Default => "default",
        ConfigSource::Other(_) => "other",
    }
}

fn value_of(entry: &ConfigEntry) -> &str {
    entry.value.as_deref().unwrap_or("(secret)")
}

#[derive(Serialize)]
struct Row {
    of: String,
    name: String,
    value: Option<String>,
    source: &'static str,
    is_default: bool,
    read_only: bool,
}

async fn list(client: Client, arguments: ConfigList, format: Format) -> Result<ExitCode> {
    let admin = Admin::new(client);
    let one = one_of(arguments.topic.as_ref(), arguments.node);
    let one = one.or(arguments.all_nodes.then_some(ConfigTarget::AllBrokers));
    let is_wanted = |target: &ConfigTarget, source: ConfigSource| match (&one, target) {
        _ if arguments.all => true,
        (Some(_), _) => source != ConfigSource::Default,
        // What is set elsewhere is listed there; files are a node's own affair.
        (None, ConfigTarget::Topic(_)) => source == ConfigSource::Topic,
        (None, ConfigTarget::Broker(_)) => source == ConfigSource::Broker,
        (None, ConfigTarget::AllBrokers) => true,
    };
    let targets = match &one {
        Some(target) => vec![target.clone()],
        None => every_target(&admin).await?,
    };
    let mut rows = Vec::new();
    for target in targets {
        let entries = match admin.describe_configs(&target).await {
            Ok(entries) => entries,
            // It was deleted just now.
            Err(ClientError::UnknownTopic { .. }) if one.is_none() => continue,
            Err(error) => return Err(error.into()),
        };
        let wanted = entries.into_iter().filter(|entry| is_wanted(&target, entry.source));
        rows.extend(wanted.map(|entry| Row {
            of: target.to_string(),
            name: entry.name,
            value: entry.value,
            source: source(entry.source),
            is_default: entry.source == ConfigSource::Default,
            read_only: entry.read_only,
        }));
    }
    match format {
        Format::Json => print_json(&rows)?,
        Format::Text if rows.is_empty() => {
            eprintln!("nothing is set; --all with --topic or --node shows defaults")
        }
        Format::Text => {
            let mut table = out::table(["of", "config", "value", "set by"]);
            for row in rows {
                let value = row.value.unwrap_or_else(|| "(secret)".to_owned());
                let fixed = if row.read_only { " (fixed)" } else { "" };
                table.add_row([row.of, row.name, value, format!("{}{fixed}", row.source)]);
            }
            print_text(&out::render(&table))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// All topics, all nodes, and what is set on all nodes.
async fn every_target(admin: &Admin) -> Result<Vec<ConfigTarget>> {
    let mut targets = vec![ConfigTarget::AllBrokers];
    let cluster = admin.describe_cluster().await?;
    targets.extend(cluster.brokers.iter().map(|broker| ConfigTarget::Broker(broker.id)));
    let topics = admin.list_topics().await?;
    targets.extend(topics.iter().map(|topic| ConfigTarget::Topic(topic.name.to_string())));
    Ok(targets)
}

async fn describe(client: Client, arguments: ConfigDescribe, format: Format) -> Result<ExitCode> {
    let target = target(&arguments.whose);
    let mut entries = Admin::new(client).describe_configs(&target).await?;
    let names = &arguments.names;
    if let Some(unknown) = names.iter().find(|name| entries.iter().all(|entry| entry.name != **name)) {
        bail!(
            "{target} has no config '{unknown}'; without names, `corelog config describe` shows all of them"
        );
    }
    entries.retain(|entry| names.is_empty() || names.contains(&entry.name));
    if format == Format::Json {
        let rows = entries.iter().map(|entry| {
            let set_by = entry
                .synonyms
                .iter()
                .map(|(name, value, by)| json!({ "name": name, "value": value, "source": source(*by) }));
            json!({
                "of": target.to_string(),
                "name": entry.name,
                "value": entry.value,
                "source": source(entry.source),
                "is_default": entry.source == ConfigSource::Default,
                "read_only": entry.read_only,
                "set_by": set_by.collect::<Vec<_>>(),
                "documentation": entry.documentation,
            })
        });
        print_json(&rows.collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let texts: Vec<String> = entries.iter().map(described).collect();
    print_text(&texts.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn described(entry: &ConfigEntry) -> String {
    let fixed = if entry.read_only { ", fixed while the node runs" } else { "" };
    let mut text = format!("{} = {}  ({}{fixed})\n", entry.name, value_of(entry), source(entry.source));
    for (name, value, by) in entry.synonyms.iter().skip(1) {
        let value = value.as_deref().unwrap_or("(secret)");
        text.push_str(&format!("  else {name} = {value}  ({})\n", source(*by)));
    }
    if let Some(documentation) = &entry.documentation {
        for line in wrapped(documentation, 96) {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}

/// Words in lines of at most so many characters.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Changes configs, after a question if that may delete records.
pub(super) async fn alter(
    client: Client,
    target: ConfigTarget,
    changes: Vec<(String, ConfigChange)>,
    care: Care,
    format: Format,
) -> Result<ExitCode> {
    let admin = Admin::new(client);
    // First whether it could be done at all: nobody is asked in vain.
    admin.alter_configs(&target, &changes, true).await?;
    if !care.dry_run {
        let present = admin.describe_configs(&target).await?;
        let deleting: Vec<&str> = changes
            .iter()
            .filter(|(name, change)| deletes(&present, name, change))
            .map(|(name, _)| name.as_str())
            .collect();
        if !care.yes && !deleting.is_empty() {
            let names = deleting.join(", ");
            let question = format!("records of {target} may be deleted by the new {names}; go on?");
            let refusal = format!("the new {names} may delete records of {target}, which cannot be undone");
            if !confirm::ask(question, &refusal).await? {
                eprintln!("nothing was changed");
                return Ok(ExitCode::FAILURE);
            }
        }
        admin.alter_configs(&target, &changes, false).await?;
    }
    let done = if care.dry_run { "would change" } else { "changed" };
    match format {
        Format::Text => {
            let mut text = String::new();
            for (name, change) in &changes {
                text.push_str(&match change {
                    ConfigChange::Set(value) => format!("{done} {target}: {name} = {value}\n"),
                    ConfigChange::Unset => format!("{done} {target}: {name} has its default\n"),
                });
            }
            print_text(&text)?;
        }
        Format::Json => print_json(&json!({
            "of": target.to_string(),
            "changed": !care.dry_run,
            "configs": changes.iter().map(|(name, change)| (name.clone(), match change {
                ConfigChange::Set(value) => json!(value),
                ConfigChange::Unset => json!(null),
            })).collect::<serde_json::Map<_, _>>(),
        }))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a change may delete records that are there: a smaller limit, or another policy.
fn deletes(present: &[ConfigEntry], name: &str, change: &ConfigChange) -> bool {
    let is_limit = LIMITS.contains(&name);
    if !is_limit && !POLICIES.contains(&name) {
        return false;
    }
    let entry = present.iter().find(|entry| entry.name == name);
    let Some(before) = entry.and_then(|entry| entry.value.as_deref()) else { return true };
    let after = match change {
        ConfigChange::Set(value) => Some(value.as_str()),
        // What counts when the first does not any more.
        ConfigChange::Unset => {
            entry.and_then(|entry| entry.synonyms.get(1)).and_then(|(_, value, _)| value.as_deref())
        }
    };
    let Some(after) = after else { return true };
    if before == after {
        return false;
    }
    let limit = |text: &str| text.trim().parse::<i64>().map(|limit| if limit < 0 { i64::MAX } else { limit });
    match (is_limit, limit(before), limit(after)) {
        (true, Ok(before), Ok(after)) => after < before,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, values: &[&str]) -> ConfigEntry {
        let synonym = |value: &&str| (name.to_owned(), Some((*value).to_owned()), ConfigSource::Topic);
        ConfigEntry {
            name: name.to_owned(),
            value: values.first().map(|value| (*value).to_owned()),
            source: ConfigSource::Topic,
            read_only: false,
            documentation: None,
            synonyms: values.iter().map(synonym).collect(),
        }
    }

    #[test]
    fn only_what_may_delete_records_is_asked_about() {
        let present = [
            entry("retention.ms", &["100", "500"]),
            entry("retention.bytes", &["-1"]),
            entry("cleanup.policy", &["delete"]),
        ];
        let set = |name: &str, value: &str| deletes(&present, name, &ConfigChange::Set(value.to_owned()));
        assert!(set("retention.ms", "99") && !set("retention.ms", "101") && !set("retention.ms", "-1"));
        assert!(set("retention.bytes", "1000000"));
        assert!(set("cleanup.policy", "compact") && !set("cleanup.policy", "delete"));
        assert!(!set("segment.ms", "1"));
        assert!(!deletes(&present, "retention.ms", &ConfigChange::Unset));
        let longer = [entry("retention.ms", &["900", "500"])];
        assert!(deletes(&longer, "retention.ms", &ConfigChange::Unset));
        assert!(deletes(&present[1..], "retention.ms", &ConfigChange::Set("1".to_owned())));
    }

    #[test]
    fn a_description_has_the_order_of_what_counts() {
        let mut config = entry("retention.ms", &["1", "2"]);
        config.documentation = Some("After which time segments are deleted.".to_owned());
        config.synonyms[1].2 = ConfigSource::Default;
        assert_eq!(
            described(&config),
            "retention.ms = 1  (topic)\n  else retention.ms = 2  (default)\n  After which time segments are deleted.\n"
        );
        assert_eq!(wrapped("a bc def", 4), ["a bc", "def"]);
    }
}
