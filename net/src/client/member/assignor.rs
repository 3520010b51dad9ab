//! Who of a classic group's members reads what, as its leader says it. Pure.
//!
//! `range` is Kafka's: per topic, consecutive partitions to the members in the order of their names.
//! `cooperative-sticky` keeps what members own as far as that is even; it is Kafka's in what it
//! promises, not in each choice. What changes hands is given to nobody first (KIP-429): its owner has
//! to let go of it, and joins again.

use std::collections::{BTreeMap, BTreeSet};

use super::TopicPartitionName;

/// Partitions by member.
pub(super) type Assignments = BTreeMap<String, BTreeSet<TopicPartitionName>>;

/// A member as the leader knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Subscriber {
    pub(super) id: String,
    /// Of a static member.
    pub(super) instance_id: Option<String>,
    pub(super) topics: BTreeSet<String>,
    /// What it says that it owns.
    pub(super) owned: BTreeSet<TopicPartitionName>,
    /// In which generation it came to own that; −1 when unknown.
    pub(super) generation: i32,
}

/// Kafka's `range`: `partitions` has the topics that exist, and how many partitions they have.
pub(super) fn range(members: &[Subscriber], partitions: &BTreeMap<String, i32>) -> Assignments {
    let mut assignments = nothing(members);
    for (topic, count) in partitions {
        let mut of_topic: Vec<&Subscriber> = members.iter().filter(|it| it.topics.contains(topic)).collect();
        // Static members first, by the name that outlives a restart.
        of_topic.sort_by_key(|it| (it.instance_id.is_none(), it.instance_id.as_deref(), it.id.as_str()));
        let Ok(readers) = i32::try_from(of_topic.len()) else { continue };
        if readers == 0 {
            continue;
        }
        let (each, more) = (count / readers, count % readers);
        let mut next = 0;
        for (place, member) in (0..readers).zip(of_topic) {
            let end = next + each + i32::from(place < more);
            let own = assignments.get_mut(&member.id).expect("every member has its place");
            own.extend((next..end).map(|partition| (topic.as_str().into(), partition)));
            next = end;
        }
    }
    assignments
}

/// What each is to have now: what it keeps, and what nobody owns.
pub(super) fn cooperative(members: &[Subscriber], partitions: &BTreeMap<String, i32>) -> Assignments {
    let owners = owners(members, partitions);
    let mut assignments = balanced(members, partitions, &owners);
    for (id, own) in &mut assignments {
        own.retain(|partition| owners.get(partition).is_none_or(|owner| owner == id));
    }
    assignments
}

fn nothing(members: &[Subscriber]) -> Assignments {
    members.iter().map(|member| (member.id.clone(), BTreeSet::new())).collect()
}

/// Whose a partition is: of several that say so, the one of the latest generation; nobody's when
/// that is not one alone, or does not want the topic any more.
fn owners(
    members: &[Subscriber],
    partitions: &BTreeMap<String, i32>,
) -> BTreeMap<TopicPartitionName, String> {
    let mut claims: BTreeMap<TopicPartitionName, (i32, Option<&str>)> = BTreeMap::new();
    for member in members {
        for partition in &member.owned {
            let exists =
                partitions.get(&*partition.0).is_some_and(|count| (0..*count).contains(&partition.1));
            if !exists || !member.topics.contains(&*partition.0) {
                continue;
            }
            let claim = (member.generation, Some(member.id.as_str()));
            claims
                .entry(partition.clone())
                .and_modify(|best| match member.generation.cmp(&best.0) {
                    std::cmp::Ordering::Greater => *best = claim,
                    std::cmp::Ordering::Equal => best.1 = None,
                    std::cmp::Ordering::Less => {}
                })
                .or_insert(claim);
        }
    }
    claims.into_iter().filter_map(|(partition, (_, id))| Some((partition, id?.to_owned()))).collect()
}

/// As even as the subscriptions allow, with as few changes of owners as that takes.
fn balanced(
    members: &[Subscriber],
    partitions: &BTreeMap<String, i32>,
    owners: &BTreeMap<TopicPartitionName, String>,
) -> Assignments {
    let mut assignments = nothing(members);
    let mut free = Vec::new();
    for (topic, count) in partitions {
        for partition in 0..*count {
            let name: TopicPartitionName = (topic.as_str().into(), partition);
            match owners.get(&name).and_then(|owner| assignments.get_mut(owner)) {
                Some(own) => {
                    own.insert(name);
                }
                None => free.push(name),
            }
        }
    }
    for name in free {
        let readers = members.iter().filter(|it| it.topics.contains(&*name.0));
        if let Some(fewest) = readers.min_by_key(|it| (assignments[&it.id].len(), it.id.as_str())) {
            assignments.get_mut(&fewest.id).expect("every member has its place").insert(name);
        }
    }
    // Each move brings two members nearer to each other, so there is an end.
    while let Some((from, to, name)) = uneven(members, &assignments) {
        assignments.get_mut(&from).expect("every member has its place").remove(&name);
        assignments.get_mut(&to).expect("every member has its place").insert(name);
    }
    assignments
}

/// A partition of a member that has at least two more than another one who wants it, too.
fn uneven(members: &[Subscriber], assignments: &Assignments) -> Option<(String, String, TopicPartitionName)> {
    let mut by_size: Vec<&Subscriber> = members.iter().collect();
    by_size.sort_by_key(|it| (assignments[&it.id].len(), it.id.as_str()));
    for most in by_size.iter().rev() {
        let own = &assignments[&most.id];
        for fewest in &by_size {
            if own.len() < assignments[&fewest.id].len() + 2 {
                break;
            }
            if let Some(name) = own.iter().rev().find(|name| fewest.topics.contains(&*name.0)) {
                return Some((most.id.clone(), fewest.id.clone(), name.clone()));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(id: &str, topics: &[&str]) -> Subscriber {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        Subscriber { id: id.to_owned(), topics, generation: -1, ..Subscriber::default() }
    }

    fn counts(topics: &[(&str, i32)]) -> BTreeMap<String, i32> {
        topics.iter().map(|(topic, count)| ((*topic).to_owned(), *count)).collect()
    }

    fn told(assignments: &Assignments, id: &str) -> Vec<String> {
        assignments[id].iter().map(|(topic, partition)| format!("{topic}{partition}")).collect()
    }

    #[test]
    fn range_gives_consecutive_partitions_by_topic() {
        // What Kafka's RangeAssignor says in its documentation.
        let members = [member("C1", &["b", "a"]), member("C0", &["a", "b"])];
        let assigned = range(&members, &counts(&[("a", 3), ("b", 3)]));
        assert_eq!(told(&assigned, "C0"), ["a0", "a1", "b0", "b1"]);
        assert_eq!(told(&assigned, "C1"), ["a2", "b2"]);
        let mut fixed = member("z", &["a"]);
        fixed.instance_id = Some("first".to_owned());
        let assigned = range(&[member("a", &["a"]), fixed, member("b", &["other"])], &counts(&[("a", 3)]));
        assert_eq!((told(&assigned, "z").len(), told(&assigned, "a").len()), (2, 1));
        assert!(told(&assigned, "b").is_empty());
    }

    /// Assigns until nobody has to let go of anything; how many rounds that took.
    fn settle(members: &mut [Subscriber], partitions: &BTreeMap<String, i32>) -> (Assignments, usize) {
        for round in 1.. {
            let assigned = cooperative(members, partitions);
            let mut is_settled = true;
            for member in &mut *members {
                let next = &assigned[&member.id];
                is_settled &= member.owned.is_subset(next);
                member.owned.clone_from(next);
                member.generation = i32::try_from(round).unwrap();
            }
            if is_settled {
                return (assigned, round);
            }
            assert!(round < 10, "it never settles");
        }
        unreachable!("the rounds have no end");
    }

    #[test]
    fn what_changes_hands_is_let_go_of_first() {
        let partitions = counts(&[("a", 4)]);
        let mut members = vec![member("one", &["a"])];
        assert_eq!(told(&settle(&mut members, &partitions).0, "one"), ["a0", "a1", "a2", "a3"]);
        members.push(member("two", &["a"]));
        let first = cooperative(&members, &partitions);
        assert_eq!((told(&first, "one"), told(&first, "two")), (vec!["a0".into(), "a1".into()], vec![]));
        let (settled, rounds) = settle(&mut members, &partitions);
        assert_eq!((told(&settled, "two"), rounds), (vec!["a2".to_owned(), "a3".to_owned()], 2));
    }

    #[test]
    fn of_two_that_claim_a_partition_the_later_generation_has_it() {
        let claim = |id: &str, generation| Subscriber {
            owned: BTreeSet::from([("a".into(), 0)]),
            generation,
            ..member(id, &["a"])
        };
        let partitions = counts(&[("a", 1)]);
        let assigned = cooperative(&[claim("old", 3), claim("new", 4)], &partitions);
        assert_eq!((assigned["old"].len(), assigned["new"].len()), (0, 1));
        let assigned = cooperative(&[claim("x", 4), claim("y", 4)], &partitions);
        assert_eq!(assigned["x"].len() + assigned["y"].len(), 1, "it is nobody's, and given to one");
    }

    prop_compose! {
        fn groups()(
            sizes in prop::collection::btree_map("[abc]", 0..9_i32, 1..4),
            wants in prop::collection::vec(prop::collection::btree_set("[abc]", 1..4), 1..6),
            owned in prop::collection::vec(prop::collection::btree_set(("[abc]", 0..10_i32), 0..8), 6),
            generations in prop::collection::vec(-1..3_i32, 6),
        ) -> (Vec<Subscriber>, BTreeMap<String, i32>) {
            let members = wants.into_iter().enumerate().map(|(at, topics)| Subscriber {
                id: format!("m{at}"),
                instance_id: None,
                topics,
                owned: owned[at].iter().map(|(topic, partition)| (topic.as_str().into(), *partition)).collect(),
                generation: generations[at],
            });
            (members.collect(), sizes)
        }
    }

    proptest! {
        #[test]
        fn everything_that_somebody_wants_is_read_once((mut members, partitions) in groups()) {
            let wanted: BTreeSet<TopicPartitionName> = partitions
                .iter()
                .filter(|(topic, _)| members.iter().any(|it| it.topics.contains(*topic)))
                .flat_map(|(topic, count)| (0..*count).map(|partition| (topic.as_str().into(), partition)))
                .collect();
            let first = cooperative(&members, &partitions);
            for (id, own) in &first {
                for other in members.iter().filter(|it| it.id != *id) {
                    let newest = members.iter().map(|it| it.generation).max().unwrap();
                    let owns = |name| other.generation == newest && other.owned.contains(name) && other.topics.contains(&*name.0);
                    let contested = |name: &TopicPartitionName| members.iter().filter(|it| it.owned.contains(name)).count() > 1;
                    prop_assert!(!own.iter().any(|name| owns(name) && !contested(name)), "two read at once");
                }
            }
            let range = range(&members, &partitions);
            let (settled, _) = settle(&mut members, &partitions);
            for assignments in [range, settled] {
                let all: Vec<_> = assignments.values().flatten().cloned().collect();
                prop_assert_eq!(all.len(), wanted.len());
                prop_assert_eq!(&all.into_iter().collect::<BTreeSet<_>>(), &wanted);
                for member in &members {
                    prop_assert!(assignments[&member.id].iter().all(|(topic, _)| member.topics.contains(&**topic)));
                }
            }
        }

        #[test]
        fn members_who_want_the_same_differ_by_one_at_most((mut members, partitions) in groups()) {
            let all: BTreeSet<String> = partitions.keys().cloned().collect();
            members.iter_mut().for_each(|it| it.topics.clone_from(&all));
            let (settled, _) = settle(&mut members, &partitions);
            let sizes: Vec<usize> = settled.values().map(BTreeSet::len).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{:?}", sizes);
        }
    }
}
