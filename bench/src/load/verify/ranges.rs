//! Half-open ranges of sequence numbers, in order and without overlaps.

use std::ops::Range;

/// The same numbers in order, each range once.
pub(super) fn normalized(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|it| !it.is_empty()).cloned().collect();
    sorted.sort_unstable_by_key(|it| it.start);
    let mut normalized: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match normalized.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => normalized.push(range),
        }
    }
    normalized
}

/// What of `from`, which is in order, is not in `taken`, which is normalized.
pub(super) fn subtract(from: impl Iterator<Item = Range<u64>>, taken: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut rest = Vec::new();
    let mut first = 0;
    for range in from {
        let mut start = range.start;
        // What ends before this range ends before all that follow it.
        first += taken[first..].iter().take_while(|it| it.end <= start).count();
        for hole in taken[first..].iter().take_while(|it| it.start < range.end) {
            if start < hole.start {
                rest.push(start..hole.start);
            }
            start = start.max(hole.end);
        }
        if start < range.end {
            rest.push(start..range.end);
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn some_ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
        vec((0..100_u64, 0..20_u64).prop_map(|(start, length)| start..start + length), 0..12)
    }

    fn numbers(ranges: &[Range<u64>]) -> BTreeSet<u64> {
        ranges.iter().cloned().flatten().collect()
    }

    proptest! {
        #[test]
        fn ranges_are_sets_of_numbers(from in some_ranges(), taken in some_ranges()) {
            let (from, taken) = (normalized(&from), normalized(&taken));
            prop_assert!(from.windows(2).all(|it| it[0].end < it[1].start));
            let rest = subtract(from.iter().cloned(), &taken);
            prop_assert_eq!(numbers(&rest), &numbers(&from) - &numbers(&taken));
            prop_assert_eq!(rest.iter().map(|it| it.end - it.start).sum::<u64>(), numbers(&rest).len() as u64);
        }
    }
}
