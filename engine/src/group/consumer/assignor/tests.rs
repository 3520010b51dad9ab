use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn topic(number: usize) -> TopicId {
    TopicId(Uuid::from_u128(number as u128 + 1))
}

fn member(number: usize) -> Arc<str> {
    Arc::from(format!("m{number:02}"))
}

type Plan = (Vec<i32>, Vec<Vec<usize>>);

fn demand<'a>(plan: &Plan, before: Option<&'a BTreeMap<Arc<str>, Assignment>>) -> Demand<'a> {
    let (topics, members) = plan;
    let members = members.iter().enumerate().map(|(number, wanted)| {
        let topics = wanted.iter().map(|wanted| topic(wanted % topics.len())).collect();
        let before = before.and_then(|before| before.get(&member(number)));
        (member(number), Subscriber { instance_id: None, topics, before })
    });
    Demand {
        members: members.collect(),
        topics: topics.iter().enumerate().map(|(number, count)| (topic(number), *count)).collect(),
    }
}

fn plan() -> impl Strategy<Value = Plan> {
    let topics = prop::collection::vec(1i32..12, 1..5);
    let members = prop::collection::vec(prop::collection::vec(0usize..5, 0..5), 1..9);
    (topics, members)
}

/// Every partition of a topic that has subscribers belongs to exactly one, who subscribes to it.
fn check(demand: &Demand<'_>, target: &BTreeMap<Arc<str>, Assignment>) {
    let mut owners = BTreeMap::new();
    for (member_id, assignment) in target {
        for (topic, partition) in assignment.iter() {
            assert!(demand.members[member_id].topics.contains(&topic), "{member_id} does not want that");
            assert!(partition < demand.topics[&topic]);
            assert_eq!(owners.insert((topic, partition), member_id), None, "two owners");
        }
    }
    for (topic, partitions) in &demand.topics {
        if demand.subscribers(*topic).next().is_some() {
            for partition in 0..*partitions {
                assert!(owners.contains_key(&(*topic, partition)), "nobody has {topic}-{partition}");
            }
        }
    }
}

fn sizes(target: &BTreeMap<Arc<str>, Assignment>) -> BTreeMap<Arc<str>, usize> {
    target.iter().map(|(member_id, assignment)| (member_id.clone(), assignment.iter().count())).collect()
}

fn moved(before: &BTreeMap<Arc<str>, Assignment>, after: &BTreeMap<Arc<str>, Assignment>) -> usize {
    let lost = before.iter().map(|(member_id, assignment)| {
        let now = after.get(member_id);
        assignment.iter().filter(|(t, p)| !now.is_some_and(|now| now.contains(*t, *p))).count()
    });
    lost.sum()
}

proptest! {
    #[test]
    fn every_partition_has_one_subscriber(plan in plan()) {
        let demand = demand(&plan, None);
        for name in NAMES {
            check(&demand, &assign(name, &demand));
        }
    }

    #[test]
    fn uniform_is_balanced_as_far_as_subscriptions_allow(plan in plan()) {
        let demand = demand(&plan, None);
        let target = assign("uniform", &demand);
        let sizes = sizes(&target);
        for (member_id, assignment) in &target {
            for (topic, _) in assignment.iter() {
                for other in demand.subscribers(topic) {
                    prop_assert!(sizes[member_id] <= sizes[other] + 1);
                }
            }
        }
    }

    #[test]
    fn nothing_moves_when_nothing_changed(plan in plan()) {
        for name in NAMES {
            let first = assign(name, &demand(&plan, None));
            prop_assert_eq!(&assign(name, &demand(&plan, Some(&first))), &first);
        }
    }

    #[test]
    fn uniform_moves_no_more_than_a_new_member_gets(
        topics in prop::collection::vec(1i32..12, 1..5),
        count in 1usize..9,
    ) {
        let wanted: Vec<usize> = (0..topics.len()).collect();
        let mut plan = (topics, vec![wanted.clone(); count]);
        let before = assign("uniform", &demand(&plan, None));
        plan.1.push(wanted);
        let grown = demand(&plan, Some(&before));
        let after = assign("uniform", &grown);
        check(&grown, &after);
        prop_assert_eq!(moved(&before, &after), sizes(&after)[&member(count)]);
        plan.1.pop();
        let shrunk = assign("uniform", &demand(&plan, Some(&after)));
        prop_assert_eq!(moved(&after, &shrunk), sizes(&after)[&member(count)]);
    }
}

#[test]
fn range_gives_runs_and_assigns_topics_alike() {
    let plan = (vec![5, 5], vec![vec![0, 1], vec![0, 1]]);
    let target = assign("range", &demand(&plan, None));
    for number in 0..2 {
        let first: Vec<_> = target[&member(0)].topics().map(|(_, p)| p.clone()).collect();
        assert_eq!(first[number], BTreeSet::from([0, 1, 2]));
        let second: Vec<_> = target[&member(1)].topics().map(|(_, p)| p.clone()).collect();
        assert_eq!(second[number], BTreeSet::from([3, 4]));
    }
}

#[test]
fn members_with_many_kinds_of_subscriptions_are_served_evenly_and_in_bounded_work() {
    // Topic n is for the members n, n + 1 and n + 2: forty kinds of subscribers, more than are kept in
    // order.
    let members = (0..40).map(|number| (0..3).map(|back| (number + 40 - back) % 40).collect());
    let plan: Plan = (vec![4; 40], members.collect());
    let demand = demand(&plan, None);
    let even = uniform::assign(&demand);
    check(&demand, &even);
    let sizes = sizes(&even);
    assert!(sizes.values().all(|size| (2..=6).contains(size)), "{sizes:?}");
    // Without any work left everything still belongs to somebody who wants it.
    check(&demand, &uniform::assign_within(&demand, 0));
}
