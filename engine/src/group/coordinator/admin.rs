//! ListGroups, DescribeGroups, ConsumerGroupDescribe, DeleteGroups.

use std::sync::Arc;

use corelog_protocol::ErrorCode;

use super::{Coordinator, Group, Kind};
use crate::group::api::{
    DescribedConsumerGroup, DescribedGroup, GroupDetails, ListGroups, ListedGroup, Refused,
};
use crate::group::classic::CONSUMER;
use crate::group::effects::Effects;
use crate::group::topics::Topics;

impl Group {
    /// How many ids were given out to clients that have not come back with them.
    pub(super) fn pending_count(&self) -> usize {
        match &self.kind {
            Kind::Classic(group) => group.pending_count(),
            Kind::Consumer(_) => 0,
        }
    }

    pub(super) fn is_forming(&self) -> bool {
        matches!(&self.kind, Kind::Classic(group) if group.is_forming())
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.offsets.is_empty() && matches!(&self.kind, Kind::Classic(group) if group.is_nothing())
    }

    fn listed(&self, id: &Arc<str>) -> ListedGroup {
        let (protocol_type, state, group_type) = match &self.kind {
            Kind::Classic(group) => {
                let protocol_type = group.protocol_type().cloned().unwrap_or_else(|| Arc::from(""));
                (protocol_type, group.state().name(), "classic")
            }
            Kind::Consumer(group) => (Arc::from(CONSUMER), group.state(), "consumer"),
        };
        ListedGroup { group: id.clone(), protocol_type, state, group_type }
    }
}

impl Coordinator {
    /// The groups that pass a filter, in the order of names.
    pub fn list(&self, request: &ListGroups) -> Vec<ListedGroup> {
        let passes = |filter: &[String], value: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
        };
        let listed = self.groups.iter().map(|(id, group)| group.listed(id));
        listed
            .filter(|group| passes(&request.states, group.state) && passes(&request.types, group.group_type))
            .collect()
    }

    /// Every group in the order of names, with as many committed offsets as there are `left`.
    pub fn details<'a>(&'a self, left: &'a mut usize) -> impl Iterator<Item = GroupDetails> + 'a {
        self.groups.iter().map(move |(id, group)| {
            let ListedGroup { group: name, protocol_type, state, group_type } = group.listed(id);
            let (commits, commits_left_out) = group.offsets.told(left);
            let members = match &group.kind {
                Kind::Classic(group) => group.member_count(),
                Kind::Consumer(group) => group.member_count(),
            };
            GroupDetails { group: name, group_type, state, protocol_type, members, commits, commits_left_out }
        })
    }

    pub(super) fn describe(&self, id: &Arc<str>, not_found_is_error: bool) -> DescribedGroup {
        // A consumer group is not described by this request either.
        let what = match self.groups.get(id).map(|group| &group.kind) {
            Some(Kind::Classic(group)) => return group.describe(),
            Some(Kind::Consumer(_)) => "is not a classic group",
            None => "not found",
        };
        match not_found_is_error {
            true => {
                let message = format!("Group {id} {what}.");
                DescribedGroup::dead(id.clone(), ErrorCode::GroupIdNotFound, Some(message))
            }
            false => DescribedGroup::dead(id.clone(), ErrorCode::None, None),
        }
    }

    pub(super) fn describe_consumer(
        &self,
        id: &Arc<str>,
        topics: &dyn Topics,
    ) -> Result<DescribedConsumerGroup, Refused> {
        let not_found = |what: &str| {
            let message = format!("Group {id} {what}.");
            Err(Refused { error: ErrorCode::GroupIdNotFound, message })
        };
        if id.is_empty() {
            let message = "GroupId can't be empty.".to_owned();
            return Err(Refused { error: ErrorCode::InvalidGroupId, message });
        }
        match self.groups.get(id).map(|group| &group.kind) {
            Some(Kind::Consumer(group)) => Ok(group.describe(topics)),
            Some(Kind::Classic(_)) => not_found("is not a consumer group"),
            None => not_found("not found"),
        }
    }

    pub(super) fn delete(&mut self, id: &Arc<str>, effects: &mut Effects) -> ErrorCode {
        let Some(group) = self.groups.get(id) else {
            return ErrorCode::GroupIdNotFound;
        };
        if !group.is_empty() {
            return ErrorCode::NonEmptyGroup;
        }
        effects.separable = true;
        group.offsets.tombstones(id, |_, _| true, &mut effects.records);
        group.tombstones(id, &mut effects.records);
        self.groups.remove(id);
        ErrorCode::None
    }
}
