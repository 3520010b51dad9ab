//! What every verified record carries at the front of its value.
//!
//! | Bytes | Field | What |
//! |---|---|---|
//! | 0..4 | magic | `"CLb1"`: written by this generator |
//! | 4..8 | run | which run |
//! | 8..12 | producer | which producer of the run |
//! | 12..16 | crc | CRC-32C of the key, then of the value with this field zero |
//! | 16..24 | sequence | counts from 0 for each producer and topic-partition |
//! | 24..32 | intended | when it was to be sent, in ns since the run's start |
//!
//! Numbers are little-endian. The checksum is the generator's own, from before batching and
//! compression to after their opposites: it does not rely on that of a record batch.

use thiserror::Error;

/// Size of a stamp.
pub const STAMP_BYTES: usize = 32;

const MAGIC: [u8; 4] = *b"CLb1";

/// A record's identity, and when it was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Which run, so that records of another one on the same topic are told apart.
    pub run: u32,
    /// Which producer of the run.
    pub producer: u32,
    /// Counts from 0 for each producer and topic-partition.
    pub sequence: u64,
    /// When it was to be sent, in ns since the run's start.
    pub intended_ns: u64,
}

/// Why a value has no stamp that can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StampError {
    /// It is smaller than a stamp.
    #[error("it is too short for what the generator writes")]
    TooShort,
    /// It does not begin as a stamp does.
    #[error("it is nothing that the generator wrote")]
    NotOurs,
    /// The key or the value is not what was written.
    #[error("its checksum is wrong")]
    BadChecksum,
    /// The record batch that it came in cannot be read.
    #[error("its batch cannot be read, or has a wrong checksum")]
    BadBatch,
}

impl Stamp {
    /// Fills the first [`STAMP_BYTES`] of the value. The rest must be there already: the checksum
    /// covers it.
    ///
    /// # Panics
    /// When the value is smaller than a stamp.
    #[inline]
    pub fn write(&self, key: Option<&[u8]>, value: &mut [u8]) {
        let header = value.first_chunk_mut::<STAMP_BYTES>().expect("a value has room for its stamp");
        header[0..4].copy_from_slice(&MAGIC);
        header[4..8].copy_from_slice(&self.run.to_le_bytes());
        header[8..12].copy_from_slice(&self.producer.to_le_bytes());
        header[12..16].fill(0);
        header[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        header[24..32].copy_from_slice(&self.intended_ns.to_le_bytes());
        let crc = crc32c::crc32c_append(crc_of_key(key), value);
        value[12..16].copy_from_slice(&crc.to_le_bytes());
    }

    /// The stamp of a value whose checksum is right.
    ///
    /// # Errors
    /// When it is not one that [`Stamp::write`] made, or key or value have changed since.
    #[inline]
    pub fn read(key: Option<&[u8]>, value: &[u8]) -> Result<Self, StampError> {
        let Some((header, rest)) = value.split_first_chunk::<STAMP_BYTES>() else {
            return Err(StampError::TooShort);
        };
        if header[0..4] != MAGIC {
            return Err(StampError::NotOurs);
        }
        let mut without_crc = *header;
        without_crc[12..16].fill(0);
        let crc = crc32c::crc32c_append(crc_of_key(key), &without_crc);
        if crc32c::crc32c_append(crc, rest) != le_u32(header, 12) {
            return Err(StampError::BadChecksum);
        }
        Ok(Self {
            run: le_u32(header, 4),
            producer: le_u32(header, 8),
            sequence: le_u64(header, 16),
            intended_ns: le_u64(header, 24),
        })
    }
}

#[inline]
fn crc_of_key(key: Option<&[u8]>) -> u32 {
    key.map_or(0, crc32c::crc32c)
}

#[inline]
fn le_u32(header: &[u8; STAMP_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(*header[at..].first_chunk().expect("a stamp has this field"))
}

#[inline]
fn le_u64(header: &[u8; STAMP_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(*header[at..].first_chunk().expect("a stamp has this field"))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn stamps() -> impl Strategy<Value = Stamp> {
        (any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>())
            .prop_map(|(run, producer, sequence, intended_ns)| Stamp { run, producer, sequence, intended_ns })
    }

    #[test]
    fn a_value_that_the_generator_did_not_write_is_named_so() {
        assert_eq!(Stamp::read(None, b"short"), Err(StampError::TooShort));
        assert_eq!(Stamp::read(None, &[0; 100]), Err(StampError::NotOurs));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            stamp in stamps(), key in option::of(vec(any::<u8>(), 0..40)), rest in vec(any::<u8>(), 0..3000),
        ) {
            let mut value = vec![0xa5; STAMP_BYTES];
            value.extend(&rest);
            stamp.write(key.as_deref(), &mut value);
            prop_assert_eq!(Stamp::read(key.as_deref(), &value), Ok(stamp));
            prop_assert_eq!(&value[STAMP_BYTES..], &rest[..]);
        }

        #[test]
        fn every_flipped_bit_of_key_or_value_is_found(
            stamp in stamps(), key in vec(any::<u8>(), 0..20), rest in vec(any::<u8>(), 0..100),
        ) {
            let mut key = key;
            let mut value = vec![0; STAMP_BYTES];
            value.extend(&rest);
            stamp.write(Some(&key), &mut value);
            for bit in 0..key.len() * 8 {
                key[bit / 8] ^= 1 << (bit % 8);
                prop_assert_eq!(Stamp::read(Some(&key), &value), Err(StampError::BadChecksum));
                key[bit / 8] ^= 1 << (bit % 8);
            }
            for bit in 0..value.len() * 8 {
                value[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(Stamp::read(Some(&key), &value).is_err(), "bit {}", bit);
                value[bit / 8] ^= 1 << (bit % 8);
            }
            prop_assert_eq!(Stamp::read(Some(&key), &value), Ok(stamp));
        }

        #[test]
        fn a_value_of_another_length_is_found(
            stamp in stamps(), rest in vec(any::<u8>(), 1..200), cut in any::<prop::sample::Index>(),
        ) {
            let mut value = vec![0; STAMP_BYTES];
            value.extend(&rest);
            stamp.write(None, &mut value);
            let kept = STAMP_BYTES + cut.index(rest.len());
            prop_assert_eq!(Stamp::read(None, &value[..kept]), Err(StampError::BadChecksum));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(value in vec(any::<u8>(), 0..100)) {
            let _ = Stamp::read(None, &value);
        }
    }
}
