//! What is asked for: how many groups commit what, how often, for how long.

use serde::{Deserialize, Serialize};

use crate::plan::PlanError;

/// Limits that keep a mistyped number from taking the machine.
const GROUPS_MAX: usize = 100_000;
const PARTITIONS_MAX: i32 = 10_000;
const CONNECTIONS_MAX: usize = 1_000;

/// Everything about one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupsPlan {
    /// Groups.
    pub groups: usize,
    /// Partitions of the one topic; each commit names all of them.
    pub partitions: i32,
    /// Each group commits once in so many seconds.
    pub interval_s: f64,
    /// Connections over which the groups are spread evenly, to each of the coordinators.
    pub connections: usize,
    /// Whether each group has a member of the consumer protocol (KIP-848).
    pub members: bool,
    /// How long the load runs before it is measured, in seconds.
    pub warm_up_s: f64,
    /// How long it is measured, in seconds.
    pub duration_s: f64,
    /// Whether the offsets of all groups are read at the end and held against what was acknowledged.
    pub verify: bool,
    /// After the measured phase the load goes on until the broker is gone; then it is waited for, and
    /// all offsets are read as soon as it gives them.
    pub through_restart: bool,
    /// A request that is not answered for so long has failed, in seconds.
    pub request_timeout_s: f64,
}

impl Default for GroupsPlan {
    fn default() -> Self {
        Self {
            groups: 1_000,
            partitions: 10,
            interval_s: 1.0,
            connections: 8,
            members: false,
            warm_up_s: 5.0,
            duration_s: 30.0,
            verify: false,
            through_restart: false,
            request_timeout_s: 30.0,
        }
    }
}

impl GroupsPlan {
    /// Checks what its types do not say.
    ///
    /// # Errors
    /// The first key whose value cannot be, and what would be right.
    pub fn check(&self) -> Result<(), PlanError> {
        let range = |key, is_fine: bool, reason: &str| match is_fine {
            true => Ok(()),
            false => Err(PlanError::new(key, reason)),
        };
        range("groups", (1..=GROUPS_MAX).contains(&self.groups), "must be 1 to 100,000")?;
        range("partitions", (1..=PARTITIONS_MAX).contains(&self.partitions), "must be 1 to 10,000")?;
        range("interval_s", (0.001..=3_600.0).contains(&self.interval_s), "must be 0.001 to 3,600 s")?;
        range("connections", (1..=CONNECTIONS_MAX).contains(&self.connections), "must be 1 to 1,000")?;
        range("warm_up_s", (0.0..=1e6).contains(&self.warm_up_s), "must be 0 to 1,000,000 s")?;
        range("duration_s", (0.1..=1e6).contains(&self.duration_s), "must be 0.1 to 1,000,000 s")?;
        let timeout = (0.1..=3_600.0).contains(&self.request_timeout_s);
        range("request_timeout_s", timeout, "must be 0.1 to 3,600 s")
    }

    /// Commits a second that are intended.
    #[must_use]
    pub fn commits_per_s(&self) -> f64 {
        self.groups as f64 / self.interval_s
    }

    /// When the `index`-th commit of all groups is due, in nanoseconds from the start; it is that of
    /// the group `index % groups`.
    #[must_use]
    pub fn due_ns(&self, index: u64) -> u64 {
        let groups = self.groups as u64;
        let interval_ns = (self.interval_s * 1e9).round();
        let (rounds, place) = (index / groups, index % groups);
        whole((rounds as f64 + place as f64 / groups as f64) * interval_ns)
    }
}

/// The whole part of a number that is not negative; larger ones than fit become the largest.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from a float saturates, which is what is wanted"
)]
pub(super) fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn each_group_commits_once_an_interval_and_all_are_spread_evenly(
            groups in 1..3_000_usize, interval_ms in 1..5_000_u32, index in 0..1_000_000_u64,
        ) {
            let interval_s = f64::from(interval_ms) / 1e3;
            let plan = GroupsPlan { groups, interval_s, ..GroupsPlan::default() };
            let ns = u64::from(interval_ms) * 1_000_000;
            // To the precision of a float with that many seconds in it.
            let close = |have: u64, want: u64| have.abs_diff(want) <= 1_000;
            let due = plan.due_ns(index);
            proptest::prop_assert!(close(plan.due_ns(index + groups as u64), due + ns));
            proptest::prop_assert!(close(plan.due_ns(index + 1), due + ns / groups as u64));
        }
    }

    #[test]
    fn a_key_that_cannot_be_is_named() {
        assert_eq!(GroupsPlan::default().check(), Ok(()));
        let key = |plan: GroupsPlan| plan.check().unwrap_err().key;
        assert_eq!(key(GroupsPlan { groups: 0, ..GroupsPlan::default() }), "groups");
        assert_eq!(key(GroupsPlan { partitions: 0, ..GroupsPlan::default() }), "partitions");
        assert_eq!(key(GroupsPlan { interval_s: 0.0, ..GroupsPlan::default() }), "interval_s");
        assert_eq!(key(GroupsPlan { interval_s: f64::NAN, ..GroupsPlan::default() }), "interval_s");
        assert_eq!(key(GroupsPlan { connections: 0, ..GroupsPlan::default() }), "connections");
        assert_eq!(key(GroupsPlan { duration_s: 0.0, ..GroupsPlan::default() }), "duration_s");
        assert_eq!(key(GroupsPlan { request_timeout_s: 0.0, ..GroupsPlan::default() }), "request_timeout_s");
    }
}
