//! SyncGroup: the leader's assignment, and who did not fetch it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use corelog_protocol::ErrorCode;

use super::{ClassicGroup, State};
use crate::group::api::{SyncGroup, SyncReply};
use crate::group::effects::{Call, Scope};
use crate::group::limits::GROUP_BYTES_MAX;
use crate::group::timers::Timer;

/// Whether what a leader assigns fits into the group's record.
fn fits(assignments: &[(Arc<str>, Bytes)]) -> bool {
    assignments.iter().map(|(_, assignment)| assignment.len()).sum::<usize>() <= GROUP_BYTES_MAX
}

impl ClassicGroup {
    pub(in crate::group) fn sync(&mut self, scope: &mut Scope<'_>, call: Call, request: SyncGroup) {
        if let Err(error) = self.check_sync(&request) {
            return scope.reply(call, SyncReply::refused(error));
        }
        let member_id = request.member_id;
        match self.state {
            State::Empty => scope.reply(call, SyncReply::refused(ErrorCode::UnknownMemberId)),
            State::PreparingRebalance { .. } => {
                scope.reply(call, SyncReply::refused(ErrorCode::RebalanceInProgress));
            }
            State::CompletingRebalance if !fits(&request.assignments) => {
                // What Kafka answers when its record is too large. The others wait on, until their
                // time is over or the leader comes with less.
                scope.reply(call, SyncReply::refused(ErrorCode::UnknownServerError));
            }
            State::CompletingRebalance => {
                let member = self.members.get_mut(&member_id).expect("checked above");
                if let Some(earlier) = member.syncing.replace(call) {
                    scope.reply(earlier, SyncReply::refused(ErrorCode::RebalanceInProgress));
                }
                self.synced(scope, &member_id);
                if self.leader.as_ref() == Some(&member_id) {
                    self.assign(scope, request.assignments);
                }
            }
            State::Stable => {
                self.synced(scope, &member_id);
                scope.reply(call, self.assignment_of(&member_id));
            }
        }
    }

    fn check_sync(&self, request: &SyncGroup) -> Result<(), ErrorCode> {
        self.check_member(&request.member_id, request.instance_id.as_ref())?;
        if request.generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |asked: &Option<Arc<str>>, ours: &Option<Arc<str>>| {
            asked.is_some() && ours.is_some() && asked != ours
        };
        if differs(&request.protocol_type, &self.protocol_type) || differs(&request.protocol, &self.protocol)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        Ok(())
    }

    fn synced(&mut self, scope: &mut Scope<'_>, member_id: &Arc<str>) {
        self.unsynced.remove(member_id);
        if self.unsynced.is_empty() {
            scope.timers.cancel(&Timer::Sync(self.id.clone()));
        }
    }

    fn assignment_of(&self, member_id: &Arc<str>) -> SyncReply {
        SyncReply {
            error: ErrorCode::None,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self
                .members
                .get(member_id)
                .map(|member| member.assignment.clone())
                .unwrap_or_default(),
        }
    }

    /// The leader's assignment; whom it leaves out gets nothing.
    fn assign(&mut self, scope: &mut Scope<'_>, assignments: Vec<(Arc<str>, Bytes)>) {
        let mut assignments: BTreeMap<_, _> = assignments.into_iter().collect();
        for (member_id, member) in &mut self.members {
            member.assignment = assignments.remove(member_id).unwrap_or_default();
        }
        self.enter(scope, State::Stable);
        scope.record(self.record());
        let member_ids: Vec<_> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            let reply = self.assignment_of(&member_id);
            let member = self.members.get_mut(&member_id).expect("its id is from the map");
            if let Some(call) = member.syncing.take() {
                scope.reply(call, reply);
                self.expect_life(scope, &member_id);
            }
        }
    }

    /// A rebalance begins before the leader assigned: who waits for that is told to join again.
    pub(super) fn take_assignments_back(&mut self, scope: &mut Scope<'_>) {
        let mut told = Vec::new();
        for (member_id, member) in &mut self.members {
            member.assignment = Bytes::new();
            if let Some(call) = member.syncing.take() {
                scope.reply(call, SyncReply::refused(ErrorCode::RebalanceInProgress));
                told.push(member_id.clone());
            }
        }
        for member_id in told {
            self.expect_life(scope, &member_id);
        }
    }

    /// The time to fetch the assignment is over: who did not is out.
    pub(in crate::group) fn sync_timed_out(&mut self, scope: &mut Scope<'_>) {
        if !matches!(self.state, State::CompletingRebalance | State::Stable) || self.unsynced.is_empty() {
            return;
        }
        for member_id in std::mem::take(&mut self.unsynced) {
            self.dismiss(scope, &member_id);
        }
        self.prepare(scope);
    }
}
