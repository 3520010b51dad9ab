//! Randomness: the operating system's seed on the real backend, the run's seed in the simulator.
//! Not for secrets.

use crate::ctx::{Current, current_or_none};

/// A uniformly distributed 64-bit number.
#[must_use]
pub fn u64() -> u64 {
    match current_or_none() {
        Some(Current::Sim(place)) => place.random_u64(),
        Some(Current::Real(_)) | None => fastrand::u64(..),
    }
}

/// A uniformly distributed number in `0..n`.
///
/// # Panics
/// When `n` is 0.
#[must_use]
pub fn below(n: u64) -> u64 {
    assert!(n > 0, "an empty range has no random number");
    match current_or_none() {
        Some(Current::Sim(place)) => place.random_below(n),
        Some(Current::Real(_)) | None => fastrand::u64(..n),
    }
}

/// Fills `bytes` with random bytes.
pub fn fill(bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        let random = u64().to_le_bytes();
        chunk.copy_from_slice(&random[..chunk.len()]);
    }
}
