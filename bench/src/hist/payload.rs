//! One encoded histogram, as it is in a line of an interval log: the encodings V0, V1 and V2 of
//! HdrHistogram, deflated or not.
//!
//! The `hdrhistogram` crate reads V2 only, trusts the length in a header with an allocation, and
//! adds up counts unchecked; files come from anywhere, so decoding is done here, within limits.
//!
//! ```text
//! deflated   cookie u32 | length u32 | zlib stream of one of the following
//! V1, V2     cookie u32 | payload length u32 | normalizing offset i32 | digits u32
//!            | lowest u64 | highest u64 | ratio f64 | counts
//! V0         cookie u32 | digits u32 | lowest u64 | highest u64 | total u64 | counts
//! ```
//!
//! All big endian. Counts of V0 and V1 are words of 2, 4 or 8 bytes, the size being in the cookie;
//! those of V2 are zig-zag varints of 9 bytes at the most, where a negative one skips so many
//! zeros.
//!
//! Source: `AbstractHistogram` of <https://github.com/HdrHistogram/HdrHistogram>, 2.2.2.

use std::io::Read as _;

use bytes::Buf;
use flate2::read::ZlibDecoder;
use thiserror::Error;

/// A histogram of five digits over all of 64 bits takes 54 MB with all of its counts at their
/// longest; nothing that was recorded comes near.
const INFLATED_BYTES_MAX: u64 = 64 << 20;
/// Beyond this, sums over files would not fit.
const COUNT_MAX: u64 = 1 << 53;

const V0: u32 = 0x1c84_9308;
const V0_DEFLATED: u32 = 0x1c84_9309;
const V1: u32 = 0x1c84_9301;
const V1_DEFLATED: u32 = 0x1c84_9302;
const V2: u32 = 0x1c84_9303;
const V2_DEFLATED: u32 = 0x1c84_9304;
const DOUBLE: [u32; 2] = [0x0c72_124e, 0x0c72_124f];
/// Bits of the cookie that hold the size of a word.
const WORD_SIZE_BITS: u32 = 0xf0;

/// Why bytes are no histogram that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PayloadError {
    /// They do not begin as one.
    #[error("its payload is no encoded histogram")]
    NotAHistogram,
    /// Histograms of floating-point numbers have a scale of their own.
    #[error("histograms of doubles are not supported")]
    Double,
    /// A histogram that was shifted, or has a ratio: how counts are placed differs among libraries.
    #[error("shifted and scaled histograms are not supported")]
    Shifted,
    /// They end too early.
    #[error("its payload is cut off")]
    CutOff,
    /// What was deflated does not inflate.
    #[error("its payload does not inflate")]
    Inflate,
    /// The parameters contradict each other or the format.
    #[error("its histogram's parameters are invalid")]
    Parameters,
    /// A count is negative, or beyond what a histogram can hold.
    #[error("its histogram's counts are invalid")]
    Counts,
}

/// How counts are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Words {
    Two,
    Four,
    Eight,
    ZigZag,
}

/// A histogram whose counts are still encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    digits: u8,
    lowest: u64,
    words: Words,
    counts: Vec<u8>,
}

impl Encoded {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// When it is none, or of a kind that is not supported.
    pub fn parse(bytes: &[u8]) -> Result<Self, PayloadError> {
        let mut rest = bytes;
        let cookie = rest.try_get_u32().map_err(|_| PayloadError::NotAHistogram)?;
        match cookie & !WORD_SIZE_BITS {
            V0_DEFLATED | V1_DEFLATED | V2_DEFLATED => {
                let length = rest.try_get_u32().map_err(|_| PayloadError::CutOff)?;
                let length = usize::try_from(length).map_err(|_| PayloadError::CutOff)?;
                let deflated = rest.get(..length).ok_or(PayloadError::CutOff)?;
                let mut inflated = Vec::new();
                ZlibDecoder::new(deflated)
                    .take(INFLATED_BYTES_MAX)
                    .read_to_end(&mut inflated)
                    .map_err(|_| PayloadError::Inflate)?;
                Self::parse_inflated(&inflated)
            }
            _ => Self::parse_inflated(bytes),
        }
    }

    fn parse_inflated(bytes: &[u8]) -> Result<Self, PayloadError> {
        let mut header = Header { rest: bytes };
        let cookie = header.u32().map_err(|_| PayloadError::NotAHistogram)?;
        if DOUBLE.contains(&cookie) {
            return Err(PayloadError::Double);
        }
        let version = cookie & !WORD_SIZE_BITS;
        let words = match (version, (cookie & WORD_SIZE_BITS) >> 4) {
            (V2, _) => Words::ZigZag,
            // The lowest bit of the size is no part of it, as in Java.
            (V0 | V1, 2 | 3) => Words::Two,
            (V0 | V1, 4 | 5) => Words::Four,
            (V0 | V1, 8 | 9) => Words::Eight,
            _ => return Err(PayloadError::NotAHistogram),
        };
        let is_v0 = version == V0;
        let (mut length, mut offset) = (None, 0);
        if !is_v0 {
            length = Some(header.u32()?);
            offset = header.u32()?;
        }
        let digits = header.u32()?;
        let lowest = header.u64()?;
        let highest = header.u64()?;
        // Of V0, the total, which the counts say again.
        let ratio = f64::from_bits(header.u64()?);
        #[expect(clippy::float_cmp, reason = "exactly one is what a histogram of integers has")]
        let is_scaled = !is_v0 && ratio != 1.0;
        if is_scaled || offset != 0 {
            return Err(PayloadError::Shifted);
        }
        let digits = u8::try_from(digits).ok().filter(|it| *it <= 5).ok_or(PayloadError::Parameters)?;
        if lowest == 0 || lowest > 1 << 40 || highest < lowest {
            return Err(PayloadError::Parameters);
        }
        let counts = match length {
            Some(length) => {
                let length = usize::try_from(length).map_err(|_| PayloadError::CutOff)?;
                header.rest.get(..length).ok_or(PayloadError::CutOff)?
            }
            None => header.rest,
        };
        Ok(Self { digits, lowest, words, counts: counts.to_vec() })
    }

    /// Its precision: 0 to 5 significant decimal digits.
    #[must_use]
    pub fn digits(&self) -> u8 {
        self.digits
    }

    /// The smallest value that it tells from 0.
    #[must_use]
    pub fn lowest(&self) -> u64 {
        self.lowest
    }

    /// The values, in ascending order, with how often each was recorded. A value stands for those
    /// that the histogram does not tell from it, of which it is the smallest.
    ///
    /// # Errors
    ///
    /// When the counts are not well-formed, or stand for more than 63 bits.
    pub fn counts(&self) -> Result<Vec<(u64, u64)>, PayloadError> {
        let mut found = Vec::new();
        let (mut rest, mut index, mut total) = (self.counts.as_slice(), 0_u64, 0_u64);
        while !rest.is_empty() {
            let count = match self.words {
                Words::Two => rest.try_get_i16().map(i64::from).map_err(|_| PayloadError::CutOff)?,
                Words::Four => rest.try_get_i32().map(i64::from).map_err(|_| PayloadError::CutOff)?,
                Words::Eight => rest.try_get_i64().map_err(|_| PayloadError::CutOff)?,
                Words::ZigZag => zig_zag(&mut rest)?,
            };
            match u64::try_from(count) {
                Ok(0) => index += 1,
                Ok(count) => {
                    total =
                        total.checked_add(count).filter(|it| *it <= COUNT_MAX).ok_or(PayloadError::Counts)?;
                    found.push((self.value(index).ok_or(PayloadError::Counts)?, count));
                    index += 1;
                }
                Err(_) if self.words == Words::ZigZag => {
                    index = index.checked_add(count.unsigned_abs()).ok_or(PayloadError::Counts)?;
                }
                Err(_) => return Err(PayloadError::Counts),
            }
            // No histogram has as many counts, and the sums above stay in range.
            if index > u64::from(u32::MAX) {
                return Err(PayloadError::Counts);
            }
        }
        Ok(found)
    }

    /// The smallest value that the count at `index` stands for; none if it has more than 63 bits.
    fn value(&self, index: u64) -> Option<u64> {
        let unit_bits = self.lowest.ilog2();
        let half_bits = (2 * 10_u64.pow(u32::from(self.digits))).next_power_of_two().ilog2() - 1;
        let half = 1_u64 << half_bits;
        let (bucket, sub_bucket) = match index >> half_bits {
            0 => (0, index),
            above => (u32::try_from(above - 1).ok()?, (index & (half - 1)) + half),
        };
        let shift = bucket + unit_bits;
        (sub_bucket == 0 || shift < sub_bucket.leading_zeros()).then(|| sub_bucket << shift)
    }
}

struct Header<'a> {
    rest: &'a [u8],
}

impl Header<'_> {
    fn u32(&mut self) -> Result<u32, PayloadError> {
        self.rest.try_get_u32().map_err(|_| PayloadError::CutOff)
    }

    fn u64(&mut self) -> Result<u64, PayloadError> {
        self.rest.try_get_u64().map_err(|_| PayloadError::CutOff)
    }
}

/// A zig-zag number of 7 bits a byte, the ninth byte having 8.
fn zig_zag(rest: &mut &[u8]) -> Result<i64, PayloadError> {
    let mut number = 0_u64;
    for at in 0..9 {
        let byte = u64::from(rest.try_get_u8().map_err(|_| PayloadError::CutOff)?);
        if at == 8 {
            number |= byte << 56;
            break;
        }
        number |= (byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer, V2Serializer};
    use proptest::prelude::*;

    use super::*;

    fn histogram(lowest: u64, digits: u8, values: &[(u64, u64)]) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(lowest, 2 * lowest, digits).unwrap();
        histogram.auto(true);
        for (value, count) in values {
            histogram.record_n(*value, *count).unwrap();
        }
        histogram
    }

    fn of_library(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
        histogram
            .iter_recorded()
            .map(|it| (histogram.lowest_equivalent(it.value_iterated_to()), it.count_at_value()))
            .collect()
    }

    /// The same in V1 with words of 8 bytes, or in V0.
    fn old_encoding(histogram: &Histogram<u64>, is_v0: bool) -> Vec<u8> {
        let mut words = Vec::new();
        for it in histogram.iter_all().take_while(|it| it.value_iterated_to() <= histogram.max()) {
            words.extend(it.count_at_value().to_be_bytes());
        }
        let mut bytes = ((if is_v0 { V0 } else { V1 }) | 0x80).to_be_bytes().to_vec();
        if !is_v0 {
            bytes.extend(u32::try_from(words.len()).unwrap().to_be_bytes());
            bytes.extend(0_u32.to_be_bytes());
        }
        bytes.extend(u32::from(histogram.sigfig()).to_be_bytes());
        bytes.extend(histogram.low().to_be_bytes());
        bytes.extend(histogram.high().to_be_bytes());
        bytes.extend(if is_v0 { histogram.len().to_be_bytes() } else { 1_f64.to_be_bytes() });
        bytes.extend(words);
        bytes
    }

    fn values() -> impl Strategy<Value = Vec<(u64, u64)>> {
        let value = (0_u32..62, any::<u64>()).prop_map(|(bits, noise)| noise >> (63 - bits));
        prop::collection::vec((value, 1_u64..1 << 40), 0..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_the_library_encodes_is_decoded(values in values(), digits in 1_u8..=3, low in 1_u64..5_000) {
            let histogram = histogram(low, digits, &values);
            let expected = of_library(&histogram);
            let mut plain = Vec::new();
            V2Serializer::new().serialize(&histogram, &mut plain).unwrap();
            let mut deflated = Vec::new();
            V2DeflateSerializer::new().serialize(&histogram, &mut deflated).unwrap();
            for bytes in [plain, deflated] {
                let encoded = Encoded::parse(&bytes).unwrap();
                prop_assert_eq!((encoded.digits(), encoded.lowest()), (digits, low));
                prop_assert_eq!(encoded.counts().unwrap(), expected.clone());
            }
        }

        #[test]
        fn older_encodings_are_decoded(
            values in prop::collection::vec((0_u64..1 << 18, 1_u64..1 << 40), 1..40), is_v0: bool,
        ) {
            let histogram = histogram(1, 2, &values);
            let encoded = Encoded::parse(&old_encoding(&histogram, is_v0)).unwrap();
            prop_assert_eq!(encoded.counts().unwrap(), of_library(&histogram));
        }

        #[test]
        fn bytes_from_anywhere_are_an_error_at_worst(
            values in values(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            noise in prop::collection::vec(any::<u8>(), 0..80), cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = Vec::new();
            V2Serializer::new().serialize(&histogram(1, 3, &values), &mut bytes).unwrap();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            bytes.extend(&noise);
            for bytes in [bytes, [V2.to_be_bytes().as_slice(), &noise].concat(), noise] {
                let _ = Encoded::parse(&bytes).and_then(|it| it.counts());
            }
        }
    }

    #[test]
    fn a_count_that_skips_further_than_any_histogram_is_an_error() {
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&histogram(1, 3, &[]), &mut bytes).unwrap();
        bytes.truncate(40);
        bytes.extend([0xff; 9]);
        bytes[7] = 9;
        assert_eq!(Encoded::parse(&bytes).unwrap().counts(), Err(PayloadError::Counts));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        assert_eq!(Encoded::parse(b"HIST"), Err(PayloadError::NotAHistogram));
        assert_eq!(Encoded::parse(&[]), Err(PayloadError::NotAHistogram));
        assert_eq!(Encoded::parse(&DOUBLE[0].to_be_bytes()), Err(PayloadError::Double));
        assert_eq!(Encoded::parse(&(V2 | 0x10).to_be_bytes()), Err(PayloadError::CutOff));
    }
}
