//! How far groups are behind, as this node sees it.

use std::collections::BTreeMap;
use std::sync::Arc;

use corelog_engine::engine::NodeDetails;
use corelog_runtime::task::yield_if_needed;

use super::names::*;
use super::text::{Label, Text, wide};

/// Committed offsets that a scrape tells of. What is above it is counted.
pub(crate) const LAG_OFFSETS_MAX: usize = 20_000;

/// The lag of every group that this node coordinates. Lets others run in between: there can be
/// tens of thousands of lines.
pub(super) async fn lag(text: &mut Text, details: Option<&NodeDetails>) {
    let groups = || details.into_iter().flat_map(|it| it.groups.iter().map(move |group| (it, group)));
    let mut ends: BTreeMap<(Arc<str>, i32), i64> = BTreeMap::new();
    text.introduce(&GROUP_COMMITTED);
    for (details, group) in groups() {
        for lag in details.lags(group) {
            let labels = labels(&group.group, &lag.topic, &lag.partition);
            text.sample(&GROUP_COMMITTED, &labels, lag.committed);
            if let Some(end) = lag.high_watermark {
                ends.insert((lag.topic, lag.partition), end);
            }
        }
        yield_if_needed().await;
    }
    text.introduce(&GROUP_LAG);
    for (details, group) in groups() {
        for lag in details.lags(group) {
            if let Some(records) = lag.records() {
                text.sample(&GROUP_LAG, &labels(&group.group, &lag.topic, &lag.partition), records);
            }
        }
        yield_if_needed().await;
    }
    text.introduce(&GROUP_END);
    for (number, ((topic, partition), end)) in ends.iter().enumerate() {
        text.sample(&GROUP_END, &[("topic", topic), ("partition", partition)], end);
        if number.is_multiple_of(LINES_AT_A_TIME) {
            yield_if_needed().await;
        }
    }
    text.alone(&GROUP_LEFT_OUT, wide(details.map_or(0, NodeDetails::commits_left_out)));
}

const LINES_AT_A_TIME: usize = 64;

fn labels<'a>(
    group: &'a Arc<str>,
    topic: &'a Arc<str>,
    partition: &'a i32,
) -> [(&'static str, Label<'a>); 3] {
    [("group", group), ("topic", topic), ("partition", partition)]
}
