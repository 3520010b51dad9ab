//! What is counted of a group's members, so that no request has to look at all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use corelog_protocol::offsets_topic::ConsumerMember;

use crate::group::limits::consumer_member_bytes;

/// How many there are of each; none has 0.
type Counts = BTreeMap<Arc<str>, usize>;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// How many members name a topic.
    pub(super) names: Counts,
    /// How many members use an expression.
    pub(super) regexes: Counts,
    /// How many classic members support an assignor.
    protocols: Counts,
    classic: usize,
    /// What the members take in records, but for partitions.
    pub(super) bytes: usize,
}

impl Tally {
    pub(super) fn add(&mut self, group: &str, member_id: &str, meta: &ConsumerMember) {
        let increase = |counts: &mut Counts, name: &Arc<str>| *counts.entry(name.clone()).or_default() += 1;
        meta.topics.iter().for_each(|name| increase(&mut self.names, name));
        meta.regex.iter().for_each(|regex| increase(&mut self.regexes, regex));
        protocols(meta).for_each(|name| increase(&mut self.protocols, name));
        self.classic += usize::from(meta.classic.is_some());
        self.bytes += consumer_member_bytes(group, member_id, meta);
    }

    pub(super) fn remove(&mut self, group: &str, member_id: &str, meta: &ConsumerMember) {
        meta.topics.iter().for_each(|name| decrease(&mut self.names, name));
        meta.regex.iter().for_each(|regex| decrease(&mut self.regexes, regex));
        protocols(meta).for_each(|name| decrease(&mut self.protocols, name));
        self.classic -= usize::from(meta.classic.is_some());
        self.bytes -= consumer_member_bytes(group, member_id, meta);
    }

    /// Whether all classic members support the assignor.
    pub(super) fn is_common(&self, protocol: &Arc<str>) -> bool {
        self.protocols.get(protocol).copied().unwrap_or(0) == self.classic
    }
}

fn decrease(counts: &mut Counts, name: &Arc<str>) {
    let count = counts.get_mut(name).expect("it was counted when it came");
    *count -= 1;
    if *count == 0 {
        counts.remove(name);
    }
}

/// Each assignor's name once, whatever the client repeats.
fn protocols(meta: &ConsumerMember) -> impl Iterator<Item = &Arc<str>> {
    let all = meta.classic.iter().flat_map(|classic| &classic.protocols);
    all.map(|protocol| &protocol.name).collect::<std::collections::BTreeSet<_>>().into_iter()
}
