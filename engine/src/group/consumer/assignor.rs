//! Who is to have which partition: pure functions of subscriptions, topics, and what each member was
//! to have before.

mod range;
mod uniform;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::assignment::Assignment;
use crate::types::TopicId;

/// The assignors that there are, the default one first.
pub(super) const NAMES: [&str; 2] = ["uniform", "range"];

/// A member, to an assignor.
#[derive(Debug, Clone, Default)]
pub(super) struct Subscriber<'a> {
    /// Static members keep their place in the order by it.
    pub(super) instance_id: Option<Arc<str>>,
    /// Topics that it wants.
    pub(super) topics: BTreeSet<TopicId>,
    /// What it was to have before.
    pub(super) before: Option<&'a Assignment>,
}

/// What is to be assigned, to whom.
#[derive(Debug, Default)]
pub(super) struct Demand<'a> {
    pub(super) members: BTreeMap<Arc<str>, Subscriber<'a>>,
    /// How many partitions each topic has.
    pub(super) topics: BTreeMap<TopicId, i32>,
}

impl Demand<'_> {
    fn subscribers(&self, topic: TopicId) -> impl Iterator<Item = &Arc<str>> {
        self.members
            .iter()
            .filter(move |(_, member)| member.topics.contains(&topic))
            .map(|(member_id, _)| member_id)
    }
}

/// Assigns every partition of a topic that somebody subscribes to, to one who does.
pub(super) fn assign(assignor: &str, demand: &Demand<'_>) -> BTreeMap<Arc<str>, Assignment> {
    match assignor {
        "range" => range::assign(demand),
        _ => uniform::assign(demand),
    }
}

#[cfg(test)]
mod tests;
