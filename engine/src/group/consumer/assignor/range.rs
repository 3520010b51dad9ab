//! `range`: of each topic, every subscriber gets a run of neighbouring partitions.
//!
//! Subscribers stand in the order of instance ids, then of member ids, for every topic: topics with the
//! same subscribers and as many partitions are assigned alike (co-partitioned), and a static member has
//! the same place after a restart.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Demand;
use crate::group::consumer::assignment::Assignment;

pub(super) fn assign(demand: &Demand<'_>) -> BTreeMap<Arc<str>, Assignment> {
    let mut target: BTreeMap<_, _> =
        demand.members.keys().map(|member_id| (member_id.clone(), Assignment::default())).collect();
    for (topic, partitions) in &demand.topics {
        let mut subscribers: Vec<_> = demand.subscribers(*topic).collect();
        subscribers.sort_by_key(|member_id| {
            let instance_id = &demand.members[*member_id].instance_id;
            (instance_id.is_none(), instance_id.clone(), Arc::clone(member_id))
        });
        let Ok(count) = i32::try_from(subscribers.len()) else {
            continue;
        };
        let mut next = 0;
        for (place, member_id) in (0..count).zip(subscribers) {
            let length = partitions / count + i32::from(place < partitions % count);
            let assignment = target.get_mut(member_id).expect("every member has an entry");
            for partition in next..next + length {
                assignment.insert(*topic, partition);
            }
            next += length;
        }
    }
    target
}
