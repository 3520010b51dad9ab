//! DescribeGroups.

use std::sync::Arc;

use bytes::Bytes;
use corelog_protocol::ErrorCode;

use super::{ClassicGroup, State};
use crate::group::api::{DescribedGroup, DescribedMember};

impl ClassicGroup {
    pub(in crate::group) fn describe(&self) -> DescribedGroup {
        let stable = self.state == State::Stable;
        let protocol = self.protocol.clone().filter(|_| stable).unwrap_or_else(|| Arc::from(""));
        let members = self.members.iter().map(|(member_id, member)| DescribedMember {
            member_id: member_id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: if stable { member.metadata(&protocol) } else { Bytes::new() },
            // Also while members join again: what they have had is what an operator asks for.
            assignment: member.assignment.clone(),
        });
        DescribedGroup {
            error: ErrorCode::None,
            message: None,
            group: self.id.clone(),
            state: self.state.name(),
            protocol_type: self.protocol_type.clone().unwrap_or_else(|| Arc::from("")),
            members: members.collect(),
            protocol,
        }
    }
}
