//! Members that leave, and members that are gone.

use std::sync::Arc;

use corelog_protocol::ErrorCode;

use super::{ClassicGroup, State};
use crate::group::api::{LeaveReply, LeavingMember};
use crate::group::effects::Scope;

impl ClassicGroup {
    pub(in crate::group) fn leave(
        &mut self,
        scope: &mut Scope<'_>,
        members: Vec<LeavingMember>,
    ) -> LeaveReply {
        let mut left = false;
        let mut outcomes = Vec::with_capacity(members.len());
        for member in members {
            let outcome = self.leave_one(scope, &member);
            left |= outcome == ErrorCode::None;
            outcomes.push((member, outcome));
        }
        if left {
            match self.state {
                State::Stable | State::CompletingRebalance => self.prepare(scope),
                State::PreparingRebalance { .. } => self.maybe_complete(scope),
                State::Empty => {}
            }
        }
        LeaveReply { error: ErrorCode::None, members: outcomes }
    }

    fn leave_one(&mut self, scope: &mut Scope<'_>, member: &LeavingMember) -> ErrorCode {
        let member_id = if member.member_id.is_empty() {
            // An operator removes a static member by its instance id.
            let instance_id = member.instance_id.as_ref();
            let Some(member_id) = instance_id.and_then(|instance_id| self.instances.get(instance_id)) else {
                return ErrorCode::UnknownMemberId;
            };
            member_id.clone()
        } else {
            member.member_id.clone()
        };
        if !self.pending.contains(&member_id)
            && let Err(error) = self.check_member(&member_id, member.instance_id.as_ref())
        {
            return error;
        }
        self.dismiss(scope, &member_id);
        ErrorCode::None
    }

    /// A member's time is over.
    pub(in crate::group) fn session_timed_out(&mut self, scope: &mut Scope<'_>, member_id: &Arc<str>) {
        if self.pending.contains(member_id) {
            self.dismiss(scope, member_id);
            return self.maybe_complete(scope);
        }
        let Some(member) = self.members.get(member_id) else {
            return;
        };
        // While its own request waits here it is alive; that is not held against it. A new member is
        // not trusted so far.
        if !member.is_new && (member.joining.is_some() || member.syncing.is_some()) {
            return;
        }
        self.dismiss(scope, member_id);
        match self.state {
            State::Stable | State::CompletingRebalance => self.prepare(scope),
            State::PreparingRebalance { .. } => self.maybe_complete(scope),
            State::Empty => {}
        }
    }
}
