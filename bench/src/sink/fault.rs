//! Faults that a broker must never have, to prove that a verification notices them: one record of
//! a batch is dropped, repeated, swapped with its neighbour, or damaged.
//!
//! Owns the rebuilding of one batch. The result is a batch without reproach: its checksum fits, its
//! counts and deltas fit, its offsets have no gaps, so that nothing but the records' own numbers
//! and checksums can tell. Pure.

use std::fmt;
use std::str::FromStr;

use bytes::BytesMut;
use corelog_protocol::batch::{
    BatchBuilder, BatchError, BatchRef, Codec, CodecError, Header, Record, RecordIter,
};
use thiserror::Error;

/// What is done to one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is missing.
    Drop,
    /// It is there twice.
    Repeat,
    /// It and its neighbour change places.
    Reorder,
    /// One bit of its value is another.
    Corrupt,
}

impl Fault {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Drop, Self::Repeat, Self::Reorder, Self::Corrupt];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Repeat => "repeat",
            Self::Reorder => "reorder",
            Self::Corrupt => "corrupt",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no fault has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("one of drop, repeat, reorder, corrupt")]
pub struct UnknownFault;

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        Self::ALL.into_iter().find(|fault| fault.name() == text).ok_or(UnknownFault)
    }
}

/// Why a fault cannot be planted in a batch.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RefusedFault {
    /// Its records would have to be decompressed.
    #[error("the batch is compressed ({0}): faults are for uncompressed batches")]
    Compressed(Codec),
    /// A record without a neighbour has nothing to change places with.
    #[error("the batch has only one record: there is no neighbour to change places with")]
    Alone,
    /// There is no bit in it.
    #[error("the record has no value to damage")]
    NoValue,
    /// A control batch, or one that is none.
    #[error("the batch is not one of a producer's records")]
    NotRecords,
    /// Its records cannot be read.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The new batch could not be written.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// One batch with a fault, and where the fault is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faulty {
    /// The batch at base offset 0; empty when it had only the record that was dropped.
    pub batch: BytesMut,
    /// Records in it.
    pub records: u32,
    /// Position of the record within the new batch; of the one that follows where it was dropped.
    pub position: u32,
}

/// Makes the batch anew with a fault at the record of this position, which must be in it. The bit
/// that [`Fault::Corrupt`] flips is drawn from `seed`.
///
/// # Errors
/// See [`RefusedFault`].
pub fn plant(fault: Fault, batch: &BatchRef<'_>, position: u32, seed: u64) -> Result<Faulty, RefusedFault> {
    let codec = batch.header.codec()?;
    if codec != Codec::None {
        return Err(RefusedFault::Compressed(codec));
    }
    if batch.header.is_control() {
        return Err(RefusedFault::NotRecords);
    }
    let records = RecordIter::new(batch.payload(), batch.header.record_count);
    let mut records = records.collect::<Result<Vec<Record<'_>>, BatchError>>()?;
    let mut at = usize::try_from(position).unwrap_or(usize::MAX);
    if at >= records.len() {
        return Err(RefusedFault::NotRecords);
    }
    let damaged;
    match fault {
        Fault::Drop => drop(records.remove(at)),
        Fault::Repeat => records.insert(at, records[at].clone()),
        Fault::Reorder => {
            let neighbour = if at + 1 < records.len() { at + 1 } else { at.wrapping_sub(1) };
            if neighbour >= records.len() {
                return Err(RefusedFault::Alone);
            }
            records.swap(at, neighbour);
            at = neighbour;
        }
        Fault::Corrupt => {
            let value = records[at].value.filter(|value| !value.is_empty()).ok_or(RefusedFault::NoValue)?;
            damaged = flip_bit(value, seed);
            records[at].value = Some(&damaged);
        }
    }
    let count = |length: usize| u32::try_from(length).expect("a batch has fewer than 2^31 records");
    let (records_left, position) = (count(records.len()), count(at));
    let batch = if records.is_empty() { BytesMut::new() } else { rebuild(batch, &records)? };
    Ok(Faulty { batch, records: records_left, position })
}

fn flip_bit(value: &[u8], seed: u64) -> Vec<u8> {
    let mut damaged = value.to_vec();
    // The finalizer of SplitMix64: neighbouring seeds draw unrelated bits.
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let mixed = mixed ^ (mixed >> 31);
    let bits = u64::try_from(damaged.len()).unwrap_or(u64::MAX).saturating_mul(8);
    let bit = mixed % bits;
    let byte = usize::try_from(bit / 8).expect("the bit is inside the value");
    damaged[byte] ^= 1 << (bit % 8);
    damaged
}

/// The records as one batch with the producer's other fields as they were.
fn rebuild(batch: &BatchRef<'_>, records: &[Record<'_>]) -> Result<BytesMut, CodecError> {
    let header = &batch.header;
    let mut builder = BatchBuilder::new().leader_epoch(header.leader_epoch).producer(
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
    );
    if header.is_transactional() {
        builder = builder.transactional();
    }
    for record in records {
        let headers: Vec<Header<'_>> = record.headers.clone().collect();
        let timestamp_ms = header.record_timestamp(record.timestamp_delta);
        builder.push(timestamp_ms, record.key, record.value, &headers);
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use corelog_protocol::batch::crc_ok;
    use proptest::prelude::*;

    use super::*;

    type Owned = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

    fn built(records: &[Owned]) -> BytesMut {
        let mut builder = BatchBuilder::new().producer(7, 3, 40);
        for (timestamp, key, value, headers) in records {
            let headers: Vec<_> =
                headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect();
            builder.push(*timestamp, key.as_deref(), value.as_deref(), &headers);
        }
        builder.build().unwrap()
    }

    /// What is in a batch that must be without reproach.
    fn read(batch: &[u8]) -> Vec<Owned> {
        if batch.is_empty() {
            return Vec::new();
        }
        assert!(crc_ok(batch));
        let batch = BatchRef::parse(batch).unwrap();
        let header = batch.header;
        assert_eq!(header.last_offset_delta, header.record_count - 1);
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (7, 3, 40));
        let records = RecordIter::new(batch.payload(), header.record_count).map(Result::unwrap);
        let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        (0..)
            .zip(records)
            .map(|(index, record)| {
                assert_eq!(record.offset_delta, index, "offsets have no gaps");
                let headers = record.headers.map(|header| (header.key.to_vec(), own(header.value)));
                (
                    header.record_timestamp(record.timestamp_delta),
                    own(record.key),
                    own(record.value),
                    headers.collect(),
                )
            })
            .collect()
    }

    fn payload() -> impl Strategy<Value = Option<Vec<u8>>> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..50))
    }

    fn records() -> impl Strategy<Value = Vec<Owned>> {
        let header = (prop::collection::vec(any::<u8>(), 0..5), payload());
        let headers = prop::collection::vec(header, 0..3);
        prop::collection::vec((0..1i64 << 41, payload(), payload(), headers), 1..20)
    }

    proptest! {
        #[test]
        fn each_fault_changes_what_it_says_and_nothing_else(
            records in records(), position in any::<prop::sample::Index>(), seed in any::<u64>(),
        ) {
            let at = position.index(records.len());
            let bytes = built(&records);
            let batch = BatchRef::parse(&bytes).unwrap();
            for fault in Fault::ALL {
                let planted = plant(fault, &batch, u32::try_from(at).unwrap(), seed);
                let mut expected = records.clone();
                match (fault, &planted) {
                    (Fault::Drop, _) => drop(expected.remove(at)),
                    (Fault::Repeat, _) => expected.insert(at, records[at].clone()),
                    (Fault::Reorder, Err(error)) => {
                        prop_assert_eq!(error, &RefusedFault::Alone);
                        prop_assert_eq!(records.len(), 1);
                        continue;
                    }
                    (Fault::Reorder, Ok(planted)) => {
                        expected.swap(at, usize::try_from(planted.position).unwrap());
                        prop_assert_eq!(at.abs_diff(usize::try_from(planted.position).unwrap()), 1);
                    }
                    (Fault::Corrupt, Err(error)) => {
                        prop_assert_eq!(error, &RefusedFault::NoValue);
                        prop_assert!(records[at].2.as_ref().is_none_or(Vec::is_empty));
                        continue;
                    }
                    (Fault::Corrupt, Ok(planted)) => {
                        let damaged = read(&planted.batch)[at].2.clone().unwrap();
                        let value = records[at].2.as_ref().unwrap();
                        let bits = value.iter().zip(&damaged).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
                        prop_assert_eq!((damaged.len(), bits), (value.len(), 1));
                        expected[at].2 = Some(damaged);
                    }
                }
                let planted = planted.unwrap();
                prop_assert_eq!(usize::try_from(planted.records).unwrap(), expected.len());
                prop_assert_eq!(read(&planted.batch), expected);
            }
        }
    }

    #[test]
    fn what_cannot_be_rebuilt_is_refused() {
        for codec in Codec::ALL {
            let bytes = BatchBuilder::new().codec(codec).record(1, None, Some(b"a")).build().unwrap();
            let batch = BatchRef::parse(&bytes).unwrap();
            let outcome = plant(Fault::Repeat, &batch, 0, 1);
            match codec {
                Codec::None => assert_eq!(outcome.unwrap().records, 2),
                _ => assert_eq!(outcome, Err(RefusedFault::Compressed(codec))),
            }
            assert!(plant(Fault::Drop, &batch, 1, 1).is_err());
        }
        let bytes = BatchBuilder::new().control().record(1, Some(b"a"), Some(b"b")).build().unwrap();
        let outcome = plant(Fault::Drop, &BatchRef::parse(&bytes).unwrap(), 0, 1);
        assert_eq!(outcome, Err(RefusedFault::NotRecords));
    }

    #[test]
    fn names_are_read_back() {
        for fault in Fault::ALL {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        assert_eq!("lose".parse::<Fault>(), Err(UnknownFault));
    }
}
