//! A produced batch in the codec of its topic (`compression.type`).
//!
//! Pure: the records stay as they are, byte for byte once decompressed; length, codec and checksum
//! change. Runs on the shard that appends, only where producer and topic use different codecs.

use bytes::BytesMut;

use super::{BatchError, BatchHeader, BatchRef, CODEC_MASK, Codec, CodecError, Scratch, packed, sealed};

/// A codec, and how hard it is to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// The codec.
    pub codec: Codec,
    /// The codec's own scale, as for [`super::compress`]; nothing: its default.
    pub level: Option<i32>,
}

/// The same records in another codec. The checksum of `batch` is the caller's to check.
///
/// # Errors
/// When the records decompress to more than `limit_bytes` or not at all, or the codec refuses.
pub fn recompress(
    batch: &BatchRef<'_>,
    to: Compression,
    limit_bytes: usize,
    scratch: &mut Scratch,
) -> Result<BytesMut, BatchError> {
    let header = batch.header;
    let records = scratch.decompress(header.codec()?, batch.payload(), limit_bytes)?;
    let payload = packed(to.codec, records, to.level)?;
    let attributes = (header.attributes & !CODEC_MASK) | i16::from(to.codec.bits());
    let made = sealed(BatchHeader { attributes, ..header }, &payload);
    Ok(made.ok_or(CodecError::TooLarge { limit_bytes })?)
}

#[cfg(test)]
mod tests {
    use super::super::{BatchBuilder, crc_ok};
    use super::*;
    use proptest::prelude::*;

    const LIMIT_BYTES: usize = 1 << 20;

    fn codec() -> impl Strategy<Value = Codec> {
        proptest::sample::select(Codec::ALL.to_vec())
    }

    fn built(values: &[Vec<u8>], codec: Codec) -> Vec<u8> {
        let mut builder = BatchBuilder::new().codec(codec).producer(7, 1, 40);
        for (timestamp, value) in (1_700_000_000_000..).zip(values) {
            builder = builder.record(timestamp, Some(b"key"), Some(value));
        }
        builder.build().unwrap().to_vec()
    }

    proptest! {
        #[test]
        fn all_but_the_codec_stays(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..20),
            from in codec(),
            to in codec(),
        ) {
            let original = built(&values, from);
            let batch = BatchRef::parse(&original).unwrap();
            let mut scratch = Scratch::new();
            let to = Compression { codec: to, level: None };
            let made = recompress(&batch, to, LIMIT_BYTES, &mut scratch).unwrap();
            prop_assert!(crc_ok(&made));
            let made = BatchRef::parse(&made).unwrap();
            prop_assert_eq!(made.header.codec().unwrap(), to.codec);
            let same = BatchHeader {
                length: batch.header.length,
                attributes: batch.header.attributes,
                crc: batch.header.crc,
                ..made.header
            };
            prop_assert_eq!(same, batch.header);
            let plain = |batch: &BatchRef<'_>| {
                let codec = batch.header.codec().unwrap();
                crate::codec::decompress(codec, batch.payload(), LIMIT_BYTES).unwrap()
            };
            prop_assert_eq!(plain(&made), plain(&batch));
        }
    }

    #[test]
    fn a_level_is_used() {
        let values = vec![b"a text that has some of itself in it, some of itself, a text".repeat(50); 20];
        let original = built(&values, Codec::None);
        let batch = BatchRef::parse(&original).unwrap();
        let size = |codec, level| {
            let to = Compression { codec, level: Some(level) };
            recompress(&batch, to, LIMIT_BYTES, &mut Scratch::new()).unwrap().len()
        };
        assert!(size(Codec::Gzip, 9) < size(Codec::Gzip, 1));
        assert!(size(Codec::Zstd, 19) < size(Codec::Zstd, -100));
    }

    #[test]
    fn a_bomb_is_refused() {
        let original = built(&[vec![0; 100_000]], Codec::Gzip);
        let batch = BatchRef::parse(&original).unwrap();
        let to = Compression { codec: Codec::Lz4, level: None };
        let refused = recompress(&batch, to, 10_000, &mut Scratch::new());
        assert!(matches!(refused, Err(BatchError::Codec(CodecError::TooLarge { limit_bytes: 10_000 }))));
    }
}
