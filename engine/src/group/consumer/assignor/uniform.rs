//! `uniform`: members have equally many partitions as far as subscriptions allow, and keep what they had
//! as far as that allows.
//!
//! First every member keeps what it had and still may have, up to its fair share. Then what nobody has
//! goes to whoever may have it and has least. Last, while somebody has at least two more than another
//! who may have one of them, that one moves: each move makes the sum of squares smaller, so it ends.
//!
//! What clients subscribe to decides how much work that is; so it is bounded ([`WORK_MAX`]), after which
//! the loads stay as even as they have become.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use super::Demand;
use crate::group::consumer::assignment::Assignment;
use crate::types::TopicId;

pub(super) fn assign(demand: &Demand<'_>) -> BTreeMap<Arc<str>, Assignment> {
    assign_within(demand, WORK_MAX)
}

pub(super) fn assign_within(demand: &Demand<'_>, work_max: usize) -> BTreeMap<Arc<str>, Assignment> {
    let ids: Vec<&Arc<str>> = demand.members.keys().collect();
    let mut balance = Balance::new(demand, work_max);
    let alike = demand.members.values().all(|member| Some(&member.topics) == balance.first_topics);
    if alike {
        balance.keep_fair_shares(demand);
    } else {
        balance.keep_all(demand);
    }
    balance.hand_out_rest();
    if !alike {
        balance.even_out();
    }
    let mut target: BTreeMap<_, _> =
        ids.iter().map(|member_id| (Arc::clone(member_id), Assignment::default())).collect();
    for (slot, owner) in balance.slots.iter().zip(&balance.owners) {
        if let Some(owner) = owner {
            target.get_mut(ids[*owner]).expect("every member has an entry").insert(slot.0, slot.1);
        }
    }
    target
}

/// How many looks at a member's load an assignment takes at most to find out who has least. With that
/// many members and partitions that this is not enough for, each partition goes to whom it can.
const WORK_MAX: usize = 4_000_000;
/// Topics with the same subscribers are of one class. Of so many classes the loads are kept in order.
const ORDERED_CLASSES_MAX: usize = 16;

/// Members are numbers here, in the order of their ids; so are partitions.
struct Balance<'a> {
    first_topics: Option<&'a BTreeSet<TopicId>>,
    /// Who may have partitions of a topic.
    subscribers: BTreeMap<TopicId, Rc<Class>>,
    /// The classes whose loads are kept in order, and each member's.
    ordered: Vec<BTreeSet<(usize, usize)>>,
    classes_of: Vec<Vec<usize>>,
    work: Cell<usize>,
    work_max: usize,
    slots: Vec<(TopicId, i32)>,
    places: BTreeMap<(TopicId, i32), usize>,
    owners: Vec<Option<usize>>,
    loads: Vec<usize>,
}

/// Topics with the same subscribers.
struct Class {
    members: Vec<usize>,
    /// The place among those that are kept in order.
    ordered: Option<usize>,
}

impl<'a> Balance<'a> {
    fn new(demand: &'a Demand<'_>, work_max: usize) -> Self {
        let mut by_topic: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        for (number, member) in demand.members.values().enumerate() {
            for topic in &member.topics {
                by_topic.entry(*topic).or_default().push(number);
            }
        }
        let mut classes: BTreeMap<Vec<usize>, Rc<Class>> = BTreeMap::new();
        let mut ordered: Vec<BTreeSet<(usize, usize)>> = Vec::new();
        let mut classes_of = vec![Vec::new(); demand.members.len()];
        let mut subscribers = BTreeMap::new();
        for (topic, members) in by_topic {
            let class = classes.entry(members).or_insert_with_key(|members| {
                let place = (ordered.len() < ORDERED_CLASSES_MAX).then_some(ordered.len());
                if let Some(place) = place {
                    // The least loaded first.
                    ordered.push(members.iter().map(|number| (0, *number)).collect());
                    members.iter().for_each(|number| classes_of[*number].push(place));
                }
                Rc::new(Class { members: members.clone(), ordered: place })
            });
            subscribers.insert(topic, Rc::clone(class));
        }
        let wanted = demand.topics.iter().filter(|(topic, _)| subscribers.contains_key(topic));
        let slots: Vec<_> =
            wanted.flat_map(|(topic, count)| (0..*count).map(|partition| (*topic, partition))).collect();
        Self {
            first_topics: demand.members.values().next().map(|member| &member.topics),
            subscribers,
            ordered,
            classes_of,
            work: Cell::new(0),
            work_max,
            places: slots.iter().enumerate().map(|(place, slot)| (*slot, place)).collect(),
            owners: vec![None; slots.len()],
            slots,
            loads: vec![0; demand.members.len()],
        }
    }

    fn give(&mut self, place: usize, to: usize) {
        if let Some(from) = self.owners[place].replace(to) {
            self.count(from, self.loads[from] - 1);
        }
        self.count(to, self.loads[to] + 1);
    }

    fn count(&mut self, number: usize, load: usize) {
        for class in &self.classes_of[number] {
            let by_load = &mut self.ordered[*class];
            by_load.remove(&(self.loads[number], number));
            by_load.insert((load, number));
        }
        self.loads[number] = load;
    }

    /// Where the partitions are that each member had and may still have.
    fn kept(&self, demand: &Demand<'_>) -> Vec<Vec<usize>> {
        let kept = demand.members.values().map(|member| {
            let before = member.before.into_iter().flat_map(Assignment::iter);
            let still = before.filter(|(topic, _)| member.topics.contains(topic));
            still.filter_map(|slot| self.places.get(&slot).copied()).collect()
        });
        kept.collect()
    }

    fn keep_all(&mut self, demand: &Demand<'_>) {
        for (number, places) in self.kept(demand).into_iter().enumerate() {
            for place in places {
                if self.owners[place].is_none() {
                    self.give(place, number);
                }
            }
        }
    }

    /// All may have everything: each keeps up to the fair share, and as many as there are partitions
    /// left over keep one more.
    fn keep_fair_shares(&mut self, demand: &Demand<'_>) {
        let members = self.loads.len().max(1);
        let (share, mut over) = (self.slots.len() / members, self.slots.len() % members);
        for (number, places) in self.kept(demand).into_iter().enumerate() {
            let mut room = share;
            for place in places {
                if self.owners[place].is_some() {
                    continue;
                }
                if room == 0 {
                    if over == 0 || self.loads[number] > share {
                        break;
                    }
                    over -= 1;
                    room = 1;
                }
                room -= 1;
                self.give(place, number);
            }
        }
    }

    /// Who may have the partition and has least.
    fn least_loaded(&self, place: usize) -> Option<usize> {
        let class = self.subscribers.get(&self.slots[place].0)?;
        if let Some(ordered) = class.ordered {
            self.work.set(self.work.get() + 1);
            return self.ordered[ordered].first().map(|(_, number)| *number);
        }
        if self.is_tired() {
            // One after the other.
            return class.members.get(place % class.members.len()).copied();
        }
        self.work.set(self.work.get() + class.members.len());
        class.members.iter().copied().min_by_key(|number| (self.loads[*number], *number))
    }

    fn is_tired(&self) -> bool {
        self.work.get() >= self.work_max
    }

    fn hand_out_rest(&mut self) {
        // Partitions that few may have come first: others can give way to them, not the reverse.
        let mut rest: Vec<usize> =
            (0..self.slots.len()).filter(|place| self.owners[*place].is_none()).collect();
        rest.sort_by_key(|place| (self.subscribers[&self.slots[*place].0].members.len(), *place));
        for place in rest {
            if let Some(to) = self.least_loaded(place) {
                self.give(place, to);
            }
        }
    }

    fn even_out(&mut self) {
        let mut moved = true;
        while moved {
            moved = false;
            for place in 0..self.slots.len() {
                if self.is_tired() {
                    return;
                }
                let (Some(from), Some(to)) = (self.owners[place], self.least_loaded(place)) else {
                    continue;
                };
                if self.loads[from] > self.loads[to] + 1 {
                    self.give(place, to);
                    moved = true;
                }
            }
        }
    }
}
