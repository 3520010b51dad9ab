//! One member's way from what it has to what it is to have: first it gives up, then it gets.

use std::sync::Arc;

use corelog_protocol::offsets_topic::Record;

use super::assignment::Assignment;
use super::{ConsumerGroup, Member, MemberState};
use crate::group::effects::Scope;
use crate::group::timers::Timer;

impl ConsumerGroup {
    /// Moves a member one step on. `owned` is what it says that it has; unknown counts as everything.
    pub(super) fn reconcile(
        &mut self,
        scope: &mut Scope<'_>,
        member_id: &Arc<str>,
        owned: Option<&Assignment>,
    ) {
        let Some(member) = self.members.get(member_id) else {
            return;
        };
        let next = match member.state {
            MemberState::Stable if member.epoch == self.target_epoch => return,
            MemberState::Revoking if still_owns(owned, &member.revoking) => return,
            // It has given up what it had to, and is past the epoch in which it had it.
            MemberState::Revoking => self.next(member_id, member, member.epoch.saturating_add(1), owned),
            MemberState::Stable | MemberState::Waiting => self.next(member_id, member, member.epoch, owned),
            MemberState::Unknown => self.next(member_id, member, self.target_epoch, owned),
        };
        if next == *member {
            return;
        }
        let is_classic = next.is_classic();
        let is_revoking = next.state == MemberState::Revoking;
        let value = Some(next.to_record());
        let record = Record::ConsumerCurrent { group: self.id.clone(), member: member_id.clone(), value };
        self.emit(scope, record);
        if is_classic {
            // Its time runs from the heartbeat that tells it to join again.
        } else if is_revoking {
            self.expect_revocation(scope, member_id);
        } else {
            scope.timers.cancel(&Timer::Revoke(self.id.clone(), member_id.clone()));
        }
    }

    /// Where the member gets now. While it has something to give up it stays at `epoch`; otherwise it
    /// gets what is free and reaches the target's epoch.
    fn next(&self, member_id: &Arc<str>, member: &Member, epoch: i32, owned: Option<&Assignment>) -> Member {
        let nothing = Assignment::default();
        let target = self.target.get(member_id).unwrap_or(&nothing);
        let (mut assigned, mut revoking) = (Assignment::default(), Assignment::default());
        for (topic, partition) in member.assigned.iter() {
            let kept = if target.contains(topic, partition) { &mut assigned } else { &mut revoking };
            kept.insert(topic, partition);
        }
        let mut next = Member { previous_epoch: member.epoch, ..member.clone() };
        if !revoking.is_empty() && still_owns(owned, &revoking) {
            next.state = MemberState::Revoking;
            next.epoch = epoch;
            next.assigned = assigned;
            next.revoking = revoking;
            return next;
        }
        let mut waits = false;
        for (topic, partition) in target.iter() {
            match self.owners.get(&(topic, partition)) {
                Some(owner) if owner != member_id => waits = true,
                _ => {
                    assigned.insert(topic, partition);
                }
            }
        }
        next.state = if waits { MemberState::Waiting } else { MemberState::Stable };
        next.epoch = self.target_epoch;
        next.assigned = assigned;
        next.revoking = Assignment::default();
        if next.assigned == member.assigned && next.state == member.state && next.epoch == member.epoch {
            // It still waits: there is nothing to write.
            next.previous_epoch = member.previous_epoch;
        }
        next
    }
}

fn still_owns(owned: Option<&Assignment>, revoking: &Assignment) -> bool {
    match owned {
        None => true,
        Some(owned) => revoking.iter().any(|(topic, partition)| owned.contains(topic, partition)),
    }
}
