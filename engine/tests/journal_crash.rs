//! The journal under crashes: every promise holds for every seed, and planted bugs are noticed.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod journal_sim;

use std::panic::{AssertUnwindSafe, catch_unwind};

use corelog_engine::planted::{Planted, PlantedBug};
use journal_sim::run_seed;

/// Seeds of a run; `CORELOG_SEEDS` asks for more.
fn seeds() -> u64 {
    std::env::var("CORELOG_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(300)
}

#[test]
fn every_promise_holds_across_crashes() {
    let first: u64 = std::env::var("CORELOG_FIRST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds() {
        if let Err(broken) = run_seed(seed, PlantedBug::NONE) {
            panic!("seed {seed}: {broken}");
        }
    }
}

#[test]
fn a_seed_replays_the_same_run() {
    for seed in 1000..1010 {
        assert_eq!(run_seed(seed, PlantedBug::NONE), run_seed(seed, PlantedBug::NONE));
    }
}

/// The first seed whose run shows the bug.
fn caught_by(bug: Planted) -> Option<u64> {
    (0..400).find(|seed| {
        let run = || run_seed(*seed, PlantedBug::plant(bug));
        !matches!(catch_unwind(AssertUnwindSafe(run)), Ok(Ok(_)))
    })
}

#[test]
fn acknowledging_before_the_sync_is_noticed() {
    assert!(caught_by(Planted::AckBeforeSync).is_some());
}

#[test]
fn never_syncing_is_noticed() {
    assert!(caught_by(Planted::NoSync).is_some());
}

#[test]
fn replaying_an_older_use_of_a_file_is_noticed() {
    assert!(caught_by(Planted::GenerationIgnored).is_some());
}

#[test]
fn appending_to_the_old_run_is_noticed() {
    assert!(caught_by(Planted::TailReused).is_some());
}
