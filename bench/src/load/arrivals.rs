//! When records are to be sent: the intended times of an open loop.
//!
//! A schedule belongs to one producer and knows nothing of clocks or of the broker. Times that
//! were intended never move, however late a record is sent: that is what latency is measured from.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand_distr::{Distribution, Exp1};

use super::whole;
use crate::plan::Arrivals;

const NS_PER_S: f64 = 1e9;

/// Intended times of one producer's records, in ns since the run's start.
#[derive(Debug, Clone)]
pub struct Schedule {
    kind: Kind,
    /// Mean time between two records.
    period_ns: f64,
    /// Intended time of the next record.
    next_ns: u64,
}

#[derive(Debug, Clone)]
enum Kind {
    /// Record `index` is due after `index + offset_share` periods. Computed from the index, so that
    /// no error adds up.
    Constant { index: u64, offset_share: f64 },
    /// A gap is independent of all before it, thus the exact time is carried on, unrounded.
    Poisson { at_ns: f64, random: Box<Xoshiro256PlusPlus> },
}

impl Schedule {
    /// A schedule of `rate_per_s` records a second of this producer. `offset_share`, 0 to 1, shifts
    /// a constant schedule by a share of its period: with `i / n` for producer `i` of `n`, their
    /// records are evenly spaced altogether. Poisson arrivals follow `seed` instead, which must
    /// differ between producers.
    ///
    /// # Panics
    /// With arrivals that are not an open loop, and with a rate that is not a positive number.
    #[must_use]
    pub fn new(arrivals: Arrivals, rate_per_s: f64, offset_share: f64, seed: u64) -> Self {
        assert!(rate_per_s > 0.0 && rate_per_s.is_finite(), "a rate is a positive number");
        let kind = match arrivals {
            Arrivals::Constant => Kind::Constant { index: 0, offset_share },
            Arrivals::Poisson => {
                Kind::Poisson { at_ns: 0.0, random: Box::new(Xoshiro256PlusPlus::seed_from_u64(seed)) }
            }
            Arrivals::Closed | Arrivals::Max => panic!("only an open loop has a schedule"),
        };
        let mut schedule = Self { kind, period_ns: NS_PER_S / rate_per_s, next_ns: 0 };
        schedule.draw();
        schedule
    }

    /// Intended time of the next record.
    #[must_use]
    #[inline]
    pub fn peek_ns(&self) -> u64 {
        self.next_ns
    }

    /// Intended time of the next record; goes on to the one after it.
    #[inline]
    pub fn take_ns(&mut self) -> u64 {
        let taken = self.next_ns;
        self.draw();
        taken
    }

    #[inline]
    fn draw(&mut self) {
        let at_ns = match &mut self.kind {
            Kind::Constant { index, offset_share } => {
                // Exact up to 2^53 records.
                let periods = *index as f64 + *offset_share;
                *index += 1;
                periods * self.period_ns
            }
            Kind::Poisson { at_ns, random } => {
                let gap: f64 = Exp1.sample(random.as_mut());
                *at_ns += gap * self.period_ns;
                *at_ns
            }
        };
        self.next_ns = whole(at_ns);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(schedule: &mut Schedule, count: usize) -> Vec<u64> {
        (0..count).map(|_| schedule.take_ns()).collect()
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced_from_the_start() {
        let mut schedule = Schedule::new(Arrivals::Constant, 1000.0, 0.0, 1);
        assert_eq!(schedule.peek_ns(), 0);
        assert_eq!(take(&mut schedule, 4), [0, 1_000_000, 2_000_000, 3_000_000]);
        assert_eq!(schedule.peek_ns(), 4_000_000);
    }

    #[test]
    fn constant_arrivals_do_not_drift_over_a_day() {
        // A period that is no whole number of ns: what a sum of rounded periods would lose shows.
        for rate in [3.0, 7_777.0, 333_333.3, 2_999_999.0] {
            let a_day = whole(rate * 86_400.0);
            let mut schedule = Schedule::new(Arrivals::Constant, rate, 0.0, 1);
            let Kind::Constant { index, .. } = &mut schedule.kind else { unreachable!() };
            *index = a_day;
            schedule.draw();
            // In whole numbers: the time of record `a_day` is a_day * 1e10 / (rate * 10).
            let exact_ns = u128::from(a_day) * 10_000_000_000 / u128::from(whole((rate * 10.0).round()));
            let off_ns = schedule.peek_ns().abs_diff(u64::try_from(exact_ns).unwrap());
            assert!(off_ns <= 1, "{off_ns} ns off at {rate} a second");
        }
    }

    #[test]
    fn constant_arrivals_of_several_producers_interleave() {
        let producers = 5;
        let mut all: Vec<u64> = (0..producers)
            .flat_map(|it| {
                let share = f64::from(it) / f64::from(producers);
                take(&mut Schedule::new(Arrivals::Constant, 1000.0, share, 1), 100)
            })
            .collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|it| (199_999..=200_001).contains(&(it[1] - it[0]))));
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_exponential_independent_gaps() {
        let (rate, count) = (20_000.0, 400_000);
        let mut schedule = Schedule::new(Arrivals::Poisson, rate, 0.0, 42);
        let times = take(&mut schedule, count);
        let gaps: Vec<f64> = times.windows(2).map(|it| (it[1] - it[0]) as f64 * rate / NS_PER_S).collect();
        let n = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / n;
        // The mean's standard error is 1/sqrt(n) = 0.16%.
        assert!((mean - 1.0).abs() < 0.01, "mean gap of {mean} periods");
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / n;
        assert!((variance - 1.0).abs() < 0.03, "variance of {variance} periods");
        // The distribution function at several points, as Kolmogorov and Smirnov compare it.
        for at in [0.01, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0_f64] {
            let share = gaps.iter().filter(|gap| **gap > at).count() as f64 / n;
            assert!((share - (-at).exp()).abs() < 0.004, "{share} of the gaps exceed {at} periods");
        }
        let neighbours = gaps.windows(2).map(|it| (it[0] - mean) * (it[1] - mean)).sum::<f64>() / n;
        assert!(neighbours.abs() < 0.01, "gaps depend on each other: {neighbours}");
    }

    #[test]
    fn poisson_arrivals_follow_the_seed() {
        let times = |seed| take(&mut Schedule::new(Arrivals::Poisson, 1000.0, 0.0, seed), 100);
        assert_eq!(times(7), times(7));
        assert_ne!(times(7), times(8));
    }

    proptest! {
        #[test]
        fn times_never_go_back_and_a_peek_is_what_is_taken(
            poisson: bool, rate in 0.001..1e7_f64, share in 0.0..1.0_f64, seed: u64,
        ) {
            let arrivals = if poisson { Arrivals::Poisson } else { Arrivals::Constant };
            let mut schedule = Schedule::new(arrivals, rate, share, seed);
            let mut last_ns = 0;
            for _ in 0..100 {
                let peeked_ns = schedule.peek_ns();
                prop_assert_eq!(schedule.take_ns(), peeked_ns);
                prop_assert!(peeked_ns >= last_ns);
                last_ns = peeked_ns;
            }
        }
    }
}
