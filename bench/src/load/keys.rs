//! Which key a record has: drawn from a distribution, from a seed, without a table of keys.

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use rand_distr::{Distribution, Zipf};

use super::whole;
use crate::plan::Keys;

/// Size of a key: eight hexadecimal digits.
pub const KEY_BYTES: usize = 8;

/// A record's key, as it is sent.
pub type Key = [u8; KEY_BYTES];

/// Draws keys.
#[derive(Debug, Clone)]
pub(super) enum KeyPicker {
    None,
    Uniform {
        count: u64,
    },
    /// Rank 1 is the most frequent; rejection sampling, so that a billion keys take no memory.
    Zipf {
        count: u64,
        ranks: Zipf<f64>,
    },
}

impl KeyPicker {
    /// # Panics
    /// With keys that `Plan::check` refuses.
    pub(super) fn new(keys: Keys) -> Self {
        match keys {
            Keys::None => Self::None,
            Keys::Uniform(count) => Self::Uniform { count },
            Keys::Zipf(count, exponent) => {
                let ranks = Zipf::new(count as f64, exponent).expect("the plan was checked");
                Self::Zipf { count, ranks }
            }
        }
    }

    #[inline]
    pub(super) fn pick(&self, random: &mut Xoshiro256PlusPlus) -> Option<Key> {
        self.pick_number(random).map(key_of)
    }

    #[inline]
    fn pick_number(&self, random: &mut Xoshiro256PlusPlus) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Uniform { count } => Some(random.random_range(0..*count)),
            // Rounding may give a rank beyond the last.
            Self::Zipf { count, ranks } => Some((whole(ranks.sample(random)) - 1).min(count - 1)),
        }
    }
}

/// The hexadecimal digits of the lower 32 bits.
#[inline]
fn key_of(number: u64) -> Key {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let mut key = [0; KEY_BYTES];
    for (digits, byte) in key.chunks_exact_mut(2).zip(&number.to_be_bytes()[4..]) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 0xf)];
    }
    key
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn counts(keys: Keys, count: usize, draws: u32) -> Vec<f64> {
        let picker = KeyPicker::new(keys);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
        let mut counts = vec![0.0; count];
        for _ in 0..draws {
            counts[usize::try_from(picker.pick_number(&mut random).unwrap()).unwrap()] += 1.0;
        }
        counts
    }

    #[test]
    fn a_key_is_eight_hexadecimal_digits_and_different_for_different_numbers() {
        assert_eq!(&key_of(0), b"00000000");
        assert_eq!(&key_of(0x0012_cdef), b"0012cdef");
        assert_eq!(&key_of(u64::from(u32::MAX)), b"ffffffff");
    }

    #[test]
    fn every_uniform_key_is_as_likely_as_any_other() {
        let (keys, draws) = (100, 200_000_u32);
        let counts = counts(Keys::Uniform(keys), 100, draws);
        let expected = f64::from(draws) / 100.0;
        let chi_squared: f64 = counts.iter().map(|it| (it - expected).powi(2) / expected).sum();
        // 99 degrees of freedom: the mean is 99, its standard deviation 14.
        assert!((40.0..170.0).contains(&chi_squared), "chi squared is {chi_squared}");
    }

    #[test]
    fn a_zipf_key_s_frequency_falls_with_its_rank_to_the_exponent() {
        for exponent in [0.5, 0.99, 1.0, 1.5] {
            let draws = 1_000_000;
            let counts = counts(Keys::Zipf(1000, exponent), 1000, draws);
            let sum: f64 = (1..=1000).map(|rank| f64::from(rank).powf(-exponent)).sum();
            for rank in [1_u32, 2, 3, 5, 10] {
                let expected = f64::from(draws) * f64::from(rank).powf(-exponent) / sum;
                let ratio = counts[rank as usize - 1] / expected;
                assert!((0.93..1.07).contains(&ratio), "rank {rank} at {exponent}: {ratio} of expected");
            }
        }
    }

    #[test]
    fn a_billion_zipf_keys_need_no_table_and_stay_in_range() {
        let count = 1_000_000_000;
        for exponent in [0.01, 0.99, 1.0, 2.0, 10.0] {
            let picker = KeyPicker::new(Keys::Zipf(count, exponent));
            let mut random = Xoshiro256PlusPlus::seed_from_u64(4);
            assert!((0..100_000).all(|_| picker.pick_number(&mut random).unwrap() < count));
        }
        let one = KeyPicker::new(Keys::Zipf(1, 0.99));
        let mut random = Xoshiro256PlusPlus::seed_from_u64(5);
        assert!((0..1000).all(|_| one.pick_number(&mut random) == Some(0)));
    }
}
