//! Which cores the node and the generator get.

use std::collections::BTreeMap;
use std::fs;

/// Divides `allowed` between a node and the generator that drives it: first the node's, then the
/// generator's, which are half of them at most. They have no core in common where there are two,
/// and no two threads of one physical core where there are two of those. [`conflict`] says where
/// they do.
///
/// # Panics
/// When `allowed` is empty: a process always may use a core.
#[must_use]
pub fn pick_cores(allowed: &[usize]) -> (Vec<usize>, Vec<usize>) {
    divide(allowed, physical_core)
}

/// Why measurements with these cores disturb each other, in words, if they do.
#[must_use]
pub fn conflict(node: &[usize], generator: &[usize]) -> Option<String> {
    conflict_by(node, generator, physical_core)
}

fn divide(allowed: &[usize], physical: impl Fn(usize) -> usize) -> (Vec<usize>, Vec<usize>) {
    assert!(!allowed.is_empty(), "a process may use a core");
    let mut threads: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for core in allowed {
        threads.entry(physical(*core)).or_default().push(*core);
    }
    let mut groups: Vec<Vec<usize>> = threads.into_values().collect();
    if let [only] = &groups[..] {
        // The threads of a single core have to do.
        groups = only.iter().map(|thread| vec![*thread]).collect();
    }
    if let [only] = &groups[..] {
        return (only.clone(), only.clone());
    }
    let generator = groups.split_off(groups.len().div_ceil(2));
    let sorted = |groups: Vec<Vec<usize>>| {
        let mut cores = groups.concat();
        cores.sort_unstable();
        cores
    };
    (sorted(groups), sorted(generator))
}

fn conflict_by(node: &[usize], generator: &[usize], physical: impl Fn(usize) -> usize) -> Option<String> {
    if let Some(core) = node.iter().find(|core| generator.contains(core)) {
        return Some(format!("node and generator share core {core}: they take time from each other"));
    }
    let pair = node.iter().find_map(|ours| {
        let theirs = generator.iter().find(|theirs| physical(*ours) == physical(**theirs))?;
        Some((ours, theirs))
    });
    pair.map(|(ours, theirs)| {
        format!("the node's core {ours} and the generator's {theirs} are threads of one physical core")
    })
}

/// A number that threads of one physical core have in common: the first of them.
fn physical_core(core: usize) -> usize {
    let siblings = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    let first = fs::read_to_string(siblings)
        .ok()
        .and_then(|text| text.trim().split([',', '-']).next().and_then(|it| it.parse().ok()));
    first.unwrap_or(core)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_and_generator_get_cores_of_their_own() {
        let alone = |core| core;
        assert_eq!(divide(&[0, 1], alone), (vec![0], vec![1]));
        assert_eq!(divide(&[1, 4, 6], alone), (vec![1, 4], vec![6]));
        assert_eq!(divide(&[0, 1, 2, 3], alone), (vec![0, 1], vec![2, 3]));
    }

    #[test]
    fn threads_of_a_physical_core_stay_together() {
        // Threads 0 and 4, 1 and 5 and so on are one core each.
        let modulo = |core| core % 4;
        assert_eq!(divide(&[0, 1, 2, 3, 4, 5, 6, 7], modulo), (vec![0, 1, 4, 5], vec![2, 3, 6, 7]));
        assert_eq!(divide(&[0, 4], modulo), (vec![0], vec![4]));
        assert_eq!(conflict_by(&[0, 1], &[2, 3], modulo), None);
        assert!(conflict_by(&[0], &[4], modulo).unwrap().contains("threads of one physical core"));
    }

    #[test]
    fn on_one_core_both_share_it_and_that_is_said() {
        assert_eq!(divide(&[3], |core| core), (vec![3], vec![3]));
        assert!(conflict_by(&[3], &[3], |core| core).unwrap().contains("share core 3"));
    }
}
