//! Bytes of files that are read as they are found: any of them is what it was, or an error.

#![allow(clippy::unwrap_used)]

use corelog_engine::log::{HEADER_BYTES, SegmentHeader};
use proptest::prelude::*;

/// Where a header's checksum is: over all that precedes it.
const CRC_BYTES: usize = 4;

proptest! {
    #[test]
    fn any_bytes_are_a_segments_header_or_an_error(
        fields in prop::collection::vec(any::<u8>(), 0..60),
        len in 0..9000_usize,
        has_magic: bool,
        version in 0..5_u8,
    ) {
        let mut block = vec![0; len];
        let given = fields.len().min(len);
        block[..given].copy_from_slice(&fields[..given]);
        let block_bytes = usize::try_from(HEADER_BYTES).unwrap();
        if let Some(block) = block.get_mut(..block_bytes) {
            if has_magic {
                block[..8].copy_from_slice(b"CLSEGMNT");
            }
            block[8..16].copy_from_slice(&[0, 0, 0, version, 0, 0, 0, 0]);
            let crc_at = block_bytes - CRC_BYTES;
            let crc = crc32c::crc32c(&block[..crc_at]);
            block[crc_at..].copy_from_slice(&crc.to_be_bytes());
        }
        let decoded = SegmentHeader::decode(&block);
        let is_known = version == 2 || version == 3;
        prop_assert_eq!(decoded.is_ok(), len >= block_bytes && has_magic && is_known);
    }
}
