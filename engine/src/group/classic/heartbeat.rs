//! Heartbeat, and whether a member may commit, which is a sign of life too.

use std::sync::Arc;

use corelog_protocol::ErrorCode;

use super::{ClassicGroup, State};
use crate::group::api::Heartbeat;
use crate::group::effects::Scope;

impl ClassicGroup {
    /// Heartbeat.
    pub(in crate::group) fn heartbeat(&self, scope: &mut Scope<'_>, request: &Heartbeat) -> ErrorCode {
        if let Err(error) = self.check_member(&request.member_id, request.instance_id.as_ref()) {
            return error;
        }
        if request.generation != self.generation {
            return ErrorCode::IllegalGeneration;
        }
        self.expect_life(scope, &request.member_id);
        match self.state {
            State::Empty => ErrorCode::UnknownMemberId,
            State::PreparingRebalance { .. } => ErrorCode::RebalanceInProgress,
            State::CompletingRebalance | State::Stable => ErrorCode::None,
        }
    }

    /// Whether offsets may be committed by that member in that generation; it counts as a sign of
    /// life.
    pub(in crate::group) fn check_commit(
        &self,
        scope: &mut Scope<'_>,
        member_id: &Arc<str>,
        instance_id: Option<&Arc<str>>,
        generation: i32,
    ) -> Result<(), ErrorCode> {
        if generation < 0 && self.is_empty() {
            return Ok(());
        }
        if generation >= 0 || !member_id.is_empty() || instance_id.is_some() {
            self.check_member(member_id, instance_id)?;
            if generation != self.generation {
                return Err(ErrorCode::IllegalGeneration);
            }
        } else if !self.is_empty() {
            // Whoever is in no group must not disturb one that has members.
            return Err(ErrorCode::UnknownMemberId);
        }
        if self.state == State::CompletingRebalance {
            return Err(ErrorCode::RebalanceInProgress);
        }
        self.expect_life(scope, member_id);
        Ok(())
    }
}
