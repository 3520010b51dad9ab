use proptest::prelude::*;

use super::*;

fn entry(kind: EntryKind, payload: Vec<u8>) -> Entry {
    Entry {
        kind,
        target: TopicPartition::new(TopicId(Uuid::from_u128(0x1234_5678_9abc)), PartitionId(7)),
        base_offset: Offset(-3),
        leader_epoch: LeaderEpoch(12),
        payload: payload.into(),
    }
}

fn header() -> CommitHeader {
    CommitHeader {
        run: 0xfeed,
        generation: 9,
        sequence: 41,
        position_bytes: 8192,
        first_lsn: Lsn(1000),
        known_synced: Lsn(990),
        live_generation: 7,
        entries: 0,
        body_bytes: 0,
        predecessor: 0xdead_beef,
        body_crc: 0,
        closed: false,
        crc: 0,
    }
}

/// A commit as the journal builds it.
fn commit(entries: &[Entry]) -> (CommitHeader, Vec<u8>) {
    let body: usize = entries.iter().map(|entry| entry_bytes(entry.payload.len())).sum();
    let total = padded((COMMIT_HEADER_BYTES + body) as u64);
    let mut bytes = vec![0; usize::try_from(total).unwrap()];
    let mut header = header();
    let mut at = COMMIT_HEADER_BYTES;
    let mut crcs = BodyCrc::default();
    for (lsn, entry) in (header.first_lsn.0..).map(Lsn).zip(entries) {
        let (len, crc) = encode_entry(entry, lsn, header.generation, &mut bytes[at..]);
        at += len;
        crcs.add(crc);
    }
    header.entries = u32::try_from(entries.len()).unwrap();
    header.body_bytes = u32::try_from(body).unwrap();
    header.body_crc = crcs.0;
    header.encode(&mut bytes);
    (header, bytes)
}

fn file_header(previous: Option<RunEnd>) -> FileHeader {
    FileHeader {
        journal_id: 3,
        generation: 8,
        file_bytes: 1 << 26,
        lsn_floor: Lsn(77),
        live_generation: 6,
        run: RunHeader {
            run: 0xabcdef,
            first_generation: 7,
            first_lsn: Lsn(70),
            previous,
            after_corruption: previous.is_some(),
        },
    }
}

#[test]
fn a_file_header_reads_back_and_any_flipped_bit_of_it_is_noticed() {
    let end =
        RunEnd { run: 5, generation: 4, position_bytes: 12288, lsn: Lsn(70), sequence: 33, crc: 0x0102_0304 };
    for previous in [None, Some(end)] {
        let header = file_header(previous);
        let mut block = vec![0; BLOCK_BYTES];
        header.encode(&mut block);
        assert_eq!(FileHeader::decode(&block), Ok(header));
        for bit in 0..FILE_HEADER_BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(FileHeader::decode(&block).is_err(), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn a_file_of_a_newer_version_is_told_apart_from_a_broken_one() {
    let mut block = vec![0; BLOCK_BYTES];
    assert_eq!(FileHeader::decode(&block), Err(FormatError::Blank));
    file_header(None).encode(&mut block);
    block[8] = 2;
    assert_eq!(FileHeader::decode(&block), Err(FormatError::HeaderCrc));
    let crc = crc_without(&block[..FILE_HEADER_BYTES], FILE_CRC_AT);
    put(&mut block, FILE_CRC_AT, crc.to_le_bytes());
    assert_eq!(FileHeader::decode(&block), Err(FormatError::Version(2)));
}

#[test]
fn the_partition_of_an_entry_is_known_when_its_payload_is_broken() {
    let written = entry(EntryKind::Append, vec![5; 300]);
    let (header, mut bytes) = commit(std::slice::from_ref(&written));
    bytes[COMMIT_HEADER_BYTES + ENTRY_HEADER_BYTES + 100] ^= 4;
    assert_eq!(check_commit_body(&header, &bytes), Err(FormatError::ContentCrc));
    let read = EntryIter::new(&header, &bytes).next().unwrap().unwrap();
    assert_eq!(read.header.target, written.target);
    assert!(!read.content_ok());
}

#[test]
fn a_commit_without_entries_is_whole() {
    let (header, bytes) = commit(&[]);
    assert_eq!(CommitHeader::decode(&bytes), Ok(header));
    assert_eq!(check_commit_body(&header, &bytes), Ok(()));
}

fn any_kind() -> impl Strategy<Value = EntryKind> {
    (1u8..=11).prop_map(|byte| EntryKind::from_byte(byte).unwrap())
}

fn any_entries() -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec(
        (any_kind(), prop::collection::vec(any::<u8>(), 0..600))
            .prop_map(|(kind, payload)| entry(kind, payload)),
        0..20,
    )
}

proptest! {
    #[test]
    fn a_commit_reads_back(entries in any_entries()) {
        let (header, bytes) = commit(&entries);
        prop_assert_eq!(CommitHeader::decode(&bytes), Ok(header));
        prop_assert_eq!(bytes.len() as u64, header.total_bytes());
        prop_assert_eq!(check_commit_body(&header, &bytes), Ok(()));
        let read: Vec<Entry> = EntryIter::new(&header, &bytes)
            .map(|entry| entry.unwrap().to_entry())
            .collect();
        prop_assert_eq!(read, entries);
    }

    #[test]
    fn a_flipped_bit_anywhere_but_in_the_padding_is_noticed(
        entries in any_entries(),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let (header, mut bytes) = commit(&entries);
        let end = COMMIT_HEADER_BYTES + usize::try_from(header.body_bytes).unwrap();
        bytes[at.index(end)] ^= 1 << bit;
        let whole = CommitHeader::decode(&bytes).and_then(|header| check_commit_body(&header, &bytes));
        prop_assert!(whole.is_err());
    }

    #[test]
    fn entries_of_another_generation_or_lsn_do_not_make_a_commit(
        entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5),
        generation in 0u64..20,
        lsn in 990u64..1010,
    ) {
        let entries: Vec<Entry> =
            entries.into_iter().map(|payload| entry(EntryKind::Append, payload)).collect();
        let (mut header, bytes) = commit(&entries);
        let same = (header.generation, header.first_lsn) == (generation, Lsn(lsn));
        header.generation = generation;
        header.first_lsn = Lsn(lsn);
        prop_assert_eq!(check_commit_body(&header, &bytes).is_ok(), same);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let _header = FileHeader::decode(&bytes);
        let _entry = EntryHeader::decode(&bytes);
        let _commit = CommitHeader::decode(&bytes);
    }

    #[test]
    fn no_header_makes_reading_its_entries_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..9000),
        first in any_entries(),
        entries in any::<u32>(),
        body_bytes in any::<u32>(),
    ) {
        // Some begin with intact entries, so that the reader gets further than the first.
        let (whole, commit) = commit(&first);
        let keep = commit.len().min(bytes.len());
        bytes[..keep].copy_from_slice(&commit[..keep]);
        for (entries, body_bytes) in [(entries, body_bytes), (whole.entries + 1, body_bytes)] {
            let header = CommitHeader { entries, body_bytes, ..whole };
            // The last may be the error that ends them.
            prop_assert!(EntryIter::new(&header, &bytes).count() <= bytes.len() + 1);
            let _verdict = check_commit_body(&header, &bytes);
        }
    }
}
