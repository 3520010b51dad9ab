//! The run itself.

pub mod arrivals;
pub mod keys;
pub mod payload;
pub mod scenario;
pub mod stamp;
pub mod sweep;
pub mod verify;

/// The whole part of a number that is not negative; larger ones than fit become the largest.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from a float saturates, which is what is wanted"
)]
fn whole(value: f64) -> u64 {
    value as u64
}
