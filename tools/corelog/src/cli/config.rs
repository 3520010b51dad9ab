//! `corelog config …`

use clap::{ArgGroup, Args, Subcommand};

use super::{Connect, name_value};

const LIST_EXAMPLES: &str = "\
Examples:
  corelog config list                  what is set anywhere in the cluster
  corelog config list --topic clicks
  corelog config list --node 1 --all   with everything that has its default";

const SET_EXAMPLES: &str = "\
Examples:
  corelog config set --topic clicks retention.ms=86400000 max.message.bytes=2000000
  corelog config set --all-nodes log.retention.ms=604800000
  corelog config set --node 1 message.max.bytes=4000000 --dry-run

All of the values are taken, or none. What is set on a topic wins over its node, that over all nodes,
that over the node's file. Nodes' configs are what topics have that do not set them: Kafka's names of
them begin with log. mostly, as in log.retention.ms.";

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Lists configs that somebody set, or all of them, and where they are set.
    #[command(after_help = LIST_EXAMPLES)]
    List(ConfigList),
    /// Shows what configs mean, their values, and everything that sets them.
    #[command(after_help = "Example:\n  corelog config describe --topic clicks cleanup.policy retention.ms")]
    Describe(ConfigDescribe),
    /// Sets configs of a running cluster.
    #[command(after_help = SET_EXAMPLES)]
    Set(ConfigSet),
    /// Gives configs their defaults again.
    #[command(after_help = "Example:\n  corelog config unset --topic clicks retention.ms")]
    Unset(ConfigUnset),
}

/// Whose configs.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("whose").required(true)))]
pub(crate) struct Whose {
    /// A topic's.
    #[arg(long, group = "whose", value_name = "NAME")]
    pub(crate) topic: Option<String>,
    /// A node's.
    #[arg(long, group = "whose", value_name = "N")]
    pub(crate) node: Option<i32>,
    /// What is set on all nodes.
    #[arg(long, group = "whose")]
    pub(crate) all_nodes: bool,
}

#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("whose").required(false)))]
pub(crate) struct ConfigList {
    /// Only this topic's.
    #[arg(long, group = "whose", value_name = "NAME")]
    pub(crate) topic: Option<String>,
    /// Only this node's.
    #[arg(long, group = "whose", value_name = "N")]
    pub(crate) node: Option<i32>,
    /// Only what is set on all nodes.
    #[arg(long, group = "whose")]
    pub(crate) all_nodes: bool,
    /// Also those that have their defaults.
    #[arg(long, requires = "whose")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigDescribe {
    #[command(flatten)]
    pub(crate) whose: Whose,
    /// Their names [default: all].
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigSet {
    #[command(flatten)]
    pub(crate) whose: Whose,
    /// Names and their new values.
    #[arg(required = true, value_name = "NAME=VALUE", value_parser = name_value)]
    pub(crate) configs: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) care: Care,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigUnset {
    #[command(flatten)]
    pub(crate) whose: Whose,
    /// Their names.
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) care: Care,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

/// How careful to be.
#[derive(Debug, Clone, Args)]
pub(crate) struct Care {
    /// Only checks whether it could be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask, even about what cannot be undone.
    #[arg(long, short)]
    pub(crate) yes: bool,
}
