//! Medians with their spread, and ratios of what was measured in the same round.

/// The middle of some numbers, and their ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) count: usize,
}

impl Spread {
    /// `None` for no numbers.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max, count: values.len() })
    }

    /// Of `ours / theirs` in every round that has both. Each side is `(round, value)`.
    pub(crate) fn of_ratios(ours: &[(u32, f64)], theirs: &[(u32, f64)]) -> Option<Self> {
        let ratios = ours.iter().filter_map(|(round, our)| {
            let (_, their) = theirs.iter().find(|(other, _)| other == round)?;
            (*their > 0.0).then(|| our / their)
        });
        Self::of(ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0, count: 3 }));
        assert_eq!(spread(&[4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0, count: 2 }));
        assert_eq!(spread(&[f64::NAN, 1.0]).map(|it| it.count), Some(1));
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine is twice as slow in round 3: the ratio is the same.
        let ours = [(2, 30.0), (3, 15.0), (4, 40.0)];
        let theirs = [(3, 5.0), (2, 10.0), (5, 10.0)];
        let spread = Spread::of_ratios(&ours, &theirs);
        assert_eq!(spread, Some(Spread { median: 3.0, min: 3.0, max: 3.0, count: 2 }));
        assert_eq!(Spread::of_ratios(&ours, &[(2, 0.0)]), None);
    }
}
