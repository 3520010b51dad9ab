//! The search for the knee: the highest rate that a broker holds.
//!
//! Decides which rate is tried next and when the search is over; it runs nothing itself. Rates are
//! doubled until one fails (or halved until one holds), then the gap is bisected until it is at
//! most 5%. A rate has failed when it failed twice in a row, unless it failed by far: one hiccup of
//! the machine must not decide the result.

use serde::{Deserialize, Serialize};

use crate::plan::PlanError;
use crate::result::report::Knee;

/// The search ends when the rate that failed exceeds the one that held by at most this share.
const PRECISION: f64 = 0.05;
/// A broker that keeps up is within this share of the intended rate.
const ACHIEVED_SHARE_MIN: f64 = 0.95;
/// Below this share of the intended rate, a second try would be a waste of time.
const ACHIEVED_SHARE_HOPELESS: f64 = 0.8;
/// The lag keeps growing when the median is so many times as long at the end as at the beginning...
const LAG_GROWTH: f64 = 2.0;
/// ...and longer by this much: below it, ratios of medians are noise.
const LAG_GROWTH_MS_MIN: f64 = 1.0;
/// When not even this share of the first rate holds, there is no knee.
const START_SHARE_MIN: f64 = 1.0 / 1024.0;

/// What a sweep tries, and what a rate must keep to hold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SweepSpec {
    /// The first rate, in records a second.
    pub start_rate: f64,
    /// The response's p99 must not exceed so many ms. Without it, only that the broker keeps up.
    pub p99_ms: Option<f64>,
    /// How long each rate is measured, in seconds, after the plan's warm-up.
    pub step_s: f64,
    /// No rate above this is tried, in records a second.
    pub max_rate: f64,
}

impl Default for SweepSpec {
    fn default() -> Self {
        Self { start_rate: 10_000.0, p99_ms: None, step_s: 5.0, max_rate: 10e6 }
    }
}

impl SweepSpec {
    /// Checks what its types do not say.
    ///
    /// # Errors
    /// The first key whose value cannot be, and what would be right.
    pub fn check(&self) -> Result<(), PlanError> {
        let is = |key, is_fine, reason: &str| match is_fine {
            true => Ok(()),
            false => Err(PlanError::new(key, reason)),
        };
        is(
            "start_rate",
            (1.0..=1e9).contains(&self.start_rate),
            "must be 1 to 1,000,000,000 records a second",
        )?;
        is(
            "max_rate",
            (self.start_rate..=1e9).contains(&self.max_rate),
            "must be start_rate to 1,000,000,000 records a second",
        )?;
        is(
            "p99_ms",
            self.p99_ms.is_none_or(|it| (0.001..=1e6).contains(&it)),
            "must be 0.001 to 1,000,000 ms",
        )?;
        is("step_s", (0.1..=3600.0).contains(&self.step_s), "must be 0.1 to 3,600 s")
    }
}

/// What came of one rate. Latencies are of the response, from intended times; absent ones, of which
/// there were no samples, break no bound.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepResult {
    /// Records acknowledged a second.
    pub achieved_per_s: f64,
    /// The 99th percentile.
    pub p99_ms: Option<f64>,
    /// The median of the first third of the step.
    pub p50_first_third_ms: Option<f64>,
    /// The median of the last third of the step.
    pub p50_last_third_ms: Option<f64>,
    /// Records that were refused, or not answered in time.
    pub errors: u64,
    /// Why the generator was the bottleneck, if it was.
    pub client_bound: Option<String>,
}

/// A search under way.
#[derive(Debug, Clone)]
pub struct Sweep {
    spec: SweepSpec,
    /// The highest rate that held.
    held: Option<f64>,
    /// The lowest rate that failed, and why.
    failed: Option<(f64, String)>,
    next: Option<f64>,
    /// Whether `next` has failed once.
    is_second_try: bool,
}

impl Sweep {
    /// A search that begins at the first rate of `spec`.
    #[must_use]
    pub fn new(spec: SweepSpec) -> Self {
        Self { spec, held: None, failed: None, next: Some(spec.start_rate), is_second_try: false }
    }

    /// The rate to try now, in records a second; `None` when the search is over.
    #[must_use]
    pub fn next_rate(&self) -> Option<f64> {
        self.next
    }

    /// Takes in what came of the rate that was to be tried; whether it held.
    ///
    /// # Panics
    /// When it was another rate.
    pub fn observe(&mut self, rate: f64, result: &StepResult) -> bool {
        assert_eq!(Some(rate), self.next, "the rate that was asked for is tried");
        let failure = self.failure(rate, result);
        let has_held = failure.is_none();
        match failure {
            None => self.held = Some(rate),
            Some(_) if !self.is_second_try && result.achieved_per_s >= ACHIEVED_SHARE_HOPELESS * rate => {
                self.is_second_try = true;
                return false;
            }
            Some(reason) => self.failed = Some((rate, reason)),
        }
        self.is_second_try = false;
        self.next = self.choose();
        has_held
    }

    /// The highest rate that held, and what ended the search. `None` before that, and when no rate
    /// held: see [`Sweep::why_not`].
    #[must_use]
    pub fn knee(&self) -> Option<Knee> {
        if self.next.is_some() {
            return None;
        }
        let limit = match &self.failed {
            Some((_, reason)) => reason.clone(),
            None => "nothing: the highest rate of the sweep held (max_rate)".to_owned(),
        };
        Some(Knee { records_per_s: self.held?, limit })
    }

    /// Why the lowest rate that failed has failed, so far.
    #[must_use]
    pub fn why_not(&self) -> Option<&str> {
        self.failed.as_ref().map(|(_, reason)| reason.as_str())
    }

    /// Which bound was broken, in words.
    fn failure(&self, rate: f64, result: &StepResult) -> Option<String> {
        let reason = self.broken_bound(rate, result)?;
        let by_client = result.client_bound.as_ref();
        let by_client = by_client.map_or_else(String::new, |it| format!("; {it}"));
        Some(format!("at {rate:.0} records/s {reason}{by_client}"))
    }

    fn broken_bound(&self, rate: f64, result: &StepResult) -> Option<String> {
        if result.errors > 0 {
            return Some(format!("{} records were refused or not answered in time", result.errors));
        }
        let share = result.achieved_per_s / rate;
        if share < ACHIEVED_SHARE_MIN {
            return Some(format!(
                "only {:.0} a second were acknowledged ({:.0}%)",
                result.achieved_per_s,
                100.0 * share
            ));
        }
        if let (Some(p99_ms), Some(bound_ms)) = (result.p99_ms, self.spec.p99_ms)
            && p99_ms > bound_ms
        {
            return Some(format!("the p99 of {p99_ms:.2} ms exceeded the bound of {bound_ms} ms"));
        }
        let (first_ms, last_ms) = (result.p50_first_third_ms?, result.p50_last_third_ms?);
        if last_ms >= LAG_GROWTH * first_ms && last_ms - first_ms >= LAG_GROWTH_MS_MIN {
            return Some(format!(
                "the lag kept growing: the median went from {first_ms:.2} to {last_ms:.2} ms"
            ));
        }
        None
    }

    fn choose(&self) -> Option<f64> {
        match (self.held, &self.failed) {
            (None, None) => Some(self.spec.start_rate),
            (Some(held), None) => (held < self.spec.max_rate).then(|| (held * 2.0).min(self.spec.max_rate)),
            (None, Some((failed, _))) => {
                (*failed > self.spec.start_rate * START_SHARE_MIN).then_some(failed / 2.0)
            }
            (Some(held), Some((failed, _))) => {
                (failed - held > PRECISION * held).then_some(f64::midpoint(held, *failed))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::Xoshiro256PlusPlus;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// A broker that handles `knee` records a second, whose latency rises before that as a queue's
    /// does.
    struct Synthetic {
        knee: f64,
        /// By how much its numbers are off, at most.
        noise: f64,
        /// Share of the steps that something else disturbs, though never two in a row.
        hiccups: f64,
        had_hiccup: bool,
        random: Xoshiro256PlusPlus,
    }

    impl Synthetic {
        fn new(knee: f64, noise: f64, hiccups: f64, seed: u64) -> Self {
            let random = Xoshiro256PlusPlus::seed_from_u64(seed);
            Self { knee, noise, hiccups, had_hiccup: false, random }
        }

        fn off(&mut self) -> f64 {
            1.0 + self.noise * self.random.random_range(-1.0..1.0)
        }

        fn run(&mut self, rate: f64, step_s: f64) -> StepResult {
            let load = rate / self.knee;
            let waiting_ms = 0.5 / (1.0 - load.min(0.99));
            // Above the knee the lag grows by this much in every second of the step.
            let growth_ms = 1000.0 * (load - 1.0).max(0.0);
            self.had_hiccup = !self.had_hiccup && self.random.random_bool(self.hiccups);
            let hiccup_ms = if self.had_hiccup { 500.0 } else { 0.0 };
            StepResult {
                achieved_per_s: rate.min(self.knee * self.off()),
                p99_ms: Some(4.0 * waiting_ms * self.off() + growth_ms * step_s + hiccup_ms),
                p50_first_third_ms: Some(waiting_ms * self.off() + growth_ms * step_s / 6.0),
                p50_last_third_ms: Some(waiting_ms * self.off() + growth_ms * step_s * 5.0 / 6.0 + hiccup_ms),
                errors: 0,
                client_bound: None,
            }
        }
    }

    /// Searches to the end; the rates that were tried.
    fn search(sweep: &mut Sweep, broker: &mut Synthetic) -> Vec<f64> {
        let mut tried = Vec::new();
        while let Some(rate) = sweep.next_rate() {
            assert!(sweep.knee().is_none(), "there is no knee before the end");
            let result = broker.run(rate, sweep.spec.step_s);
            sweep.observe(rate, &result);
            tried.push(rate);
            assert!(tried.len() < 100, "the search ends: {tried:?}");
        }
        tried
    }

    fn quiet(knee: f64) -> Synthetic {
        Synthetic::new(knee, 0.0, 0.0, 1)
    }

    fn held(rate: f64) -> StepResult {
        StepResult { achieved_per_s: rate, ..StepResult::default() }
    }

    #[test]
    fn rates_are_doubled_until_one_fails_and_then_bisected() {
        let mut sweep = Sweep::new(SweepSpec { start_rate: 1000.0, ..SweepSpec::default() });
        let tried = search(&mut sweep, &mut quiet(5000.0));
        assert_eq!(tried[..5], [1000.0, 2000.0, 4000.0, 8000.0, 6000.0]);
        let knee = sweep.knee().unwrap();
        assert!((4750.0..=5000.0).contains(&knee.records_per_s), "{knee:?}");
        assert!(knee.limit.contains("records/s"), "{knee:?}");
    }

    #[test]
    fn a_first_rate_that_is_too_high_is_halved_until_one_holds() {
        let mut sweep = Sweep::new(SweepSpec { start_rate: 100_000.0, ..SweepSpec::default() });
        search(&mut sweep, &mut quiet(3000.0));
        assert!((2800.0..=3100.0).contains(&sweep.knee().unwrap().records_per_s));
    }

    #[test]
    fn no_rate_above_the_highest_is_tried_and_it_is_the_knee_when_it_holds() {
        let spec = SweepSpec { start_rate: 1000.0, max_rate: 5000.0, ..SweepSpec::default() };
        let mut sweep = Sweep::new(spec);
        assert_eq!(search(&mut sweep, &mut quiet(1e9)), [1000.0, 2000.0, 4000.0, 5000.0]);
        let knee = sweep.knee().unwrap();
        assert_eq!(knee.records_per_s, 5000.0);
        assert!(knee.limit.starts_with("nothing"), "{knee:?}");
    }

    #[test]
    fn a_broker_that_holds_no_rate_has_no_knee() {
        let mut sweep = Sweep::new(SweepSpec { start_rate: 1000.0, ..SweepSpec::default() });
        search(&mut sweep, &mut quiet(0.01));
        assert_eq!(sweep.knee(), None);
        assert!(sweep.why_not().unwrap().contains("were acknowledged"));
    }

    #[test]
    fn each_bound_is_named_when_it_is_broken() {
        let spec = SweepSpec { p99_ms: Some(20.0), ..SweepSpec::default() };
        let rate = spec.start_rate;
        let cases = [
            (StepResult { errors: 3, ..held(rate) }, "3 records were refused"),
            (held(rate * 0.94), "only 9400 a second were acknowledged (94%)"),
            (
                StepResult { p99_ms: Some(20.1), ..held(rate) },
                "the p99 of 20.10 ms exceeded the bound of 20 ms",
            ),
            (
                StepResult {
                    p50_first_third_ms: Some(2.0),
                    p50_last_third_ms: Some(4.0),
                    client_bound: Some("client-bound: its core was busy".to_owned()),
                    ..held(rate)
                },
                "went from 2.00 to 4.00 ms; client-bound: its core was busy",
            ),
        ];
        for (result, words) in cases {
            let mut sweep = Sweep::new(spec);
            sweep.observe(rate, &result);
            assert_eq!(sweep.next_rate(), Some(rate), "it is tried once more");
            sweep.observe(rate, &result);
            assert_eq!(sweep.next_rate(), Some(rate / 2.0));
            let reason = sweep.why_not().unwrap();
            assert!(reason.starts_with("at 10000 records/s ") && reason.contains(words), "{reason}");
        }
    }

    #[test]
    fn what_stays_within_the_bounds_holds() {
        let spec = SweepSpec { p99_ms: Some(20.0), ..SweepSpec::default() };
        let rate = spec.start_rate;
        let fine = [
            held(rate * 0.951),
            StepResult { p99_ms: Some(20.0), ..held(rate) },
            StepResult { p50_first_third_ms: Some(3.0), p50_last_third_ms: Some(5.9), ..held(rate) },
            StepResult { p50_first_third_ms: Some(0.1), p50_last_third_ms: Some(0.9), ..held(rate) },
        ];
        for result in fine {
            let mut sweep = Sweep::new(spec);
            sweep.observe(rate, &result);
            assert_eq!(sweep.next_rate(), Some(rate * 2.0), "{result:?}");
        }
    }

    #[test]
    fn a_rate_that_fails_by_far_is_not_tried_again() {
        let mut sweep = Sweep::new(SweepSpec::default());
        sweep.observe(10_000.0, &held(7_999.0));
        assert_eq!(sweep.next_rate(), Some(5_000.0));
    }

    #[test]
    fn a_spec_that_cannot_be_is_refused_by_its_key() {
        let spec = SweepSpec::default();
        spec.check().unwrap();
        for (spec, key) in [
            (SweepSpec { start_rate: 0.0, ..spec }, "start_rate"),
            (SweepSpec { start_rate: f64::NAN, ..spec }, "start_rate"),
            (SweepSpec { max_rate: 9_999.0, ..spec }, "max_rate"),
            (SweepSpec { p99_ms: Some(0.0), ..spec }, "p99_ms"),
            (SweepSpec { step_s: 0.0, ..spec }, "step_s"),
        ] {
            assert_eq!(spec.check().unwrap_err().key, key);
        }
    }

    proptest! {
        #[test]
        fn the_knee_of_a_noisy_broker_is_found_from_below_and_from_above(
            knee in 1e3..1e6_f64, start in 0.05..20.0_f64, seed: u64,
        ) {
            let start_rate = start * knee;
            let mut sweep = Sweep::new(SweepSpec { start_rate, max_rate: 1e9, ..SweepSpec::default() });
            let mut broker = Synthetic::new(knee, 0.02, 0.1, seed);
            let tried = search(&mut sweep, &mut broker);
            let found = sweep.knee().unwrap().records_per_s;
            prop_assert!((0.93..1.04).contains(&(found / knee)), "{found} of {knee} by {tried:?}");
            prop_assert!(tried.len() <= 20, "{} steps", tried.len());
        }

        #[test]
        fn the_p99_bound_ends_the_search_before_the_broker_s_own_knee(
            knee in 1e3..1e6_f64, p99_ms in 4.0..40.0_f64, seed: u64,
        ) {
            let start_rate = knee / 10.0;
            let spec = SweepSpec { start_rate, p99_ms: Some(p99_ms), ..SweepSpec::default() };
            let mut sweep = Sweep::new(spec);
            search(&mut sweep, &mut Synthetic::new(knee, 0.01, 0.0, seed));
            // 4 * 0.5 / (1 - load) = p99
            let expected = knee * (1.0 - 2.0 / p99_ms);
            let found = sweep.knee().unwrap();
            prop_assert!((0.92..1.03).contains(&(found.records_per_s / expected)), "{found:?} of {expected}");
        }

        #[test]
        fn whatever_is_observed_the_search_ends_within_its_bounds(
            start_rate in 1.0..1e6_f64, factor in 1.0..1e3_f64,
            observed in prop::collection::vec((0.0..1.2_f64, prop::option::of(0.0..50.0_f64)), 100),
        ) {
            let spec =
                SweepSpec { start_rate, max_rate: start_rate * factor, p99_ms: Some(20.0), ..SweepSpec::default() };
            let mut sweep = Sweep::new(spec);
            let mut steps = 0;
            while let Some(rate) = sweep.next_rate() {
                prop_assert!(rate > 0.0 && rate <= spec.max_rate);
                let (share, p99_ms) = observed[steps];
                sweep.observe(rate, &StepResult { p99_ms, ..held(rate * share) });
                steps += 1;
                prop_assert!(steps < 100);
            }
            prop_assert!(sweep.knee().is_some() || sweep.why_not().is_some());
        }
    }
}
