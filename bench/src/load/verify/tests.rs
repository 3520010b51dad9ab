use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::load::stamp::STAMP_BYTES;

const RUN: u32 = 77;
const KEY: &[u8] = b"a key";
const STRICT: Promise = Promise { may_lose: false, may_duplicate: false, may_reorder: false };

/// A record as it is in a log.
#[derive(Debug, Clone, Copy)]
struct Logged {
    producer: u32,
    sequence: u64,
    is_corrupt: bool,
}

fn value(run: u32, producer: u32, sequence: u64) -> Vec<u8> {
    let mut value = vec![9; STAMP_BYTES + 8];
    Stamp { run, producer, sequence, intended_ns: sequence.wrapping_mul(10) }.write(Some(KEY), &mut value);
    value
}

fn see(verifier: &mut Verifier, partition: u32, offset: i64, record: Logged) -> Option<u64> {
    let mut value = value(RUN, record.producer, record.sequence);
    if record.is_corrupt {
        value[STAMP_BYTES] ^= 4;
    }
    verifier.see(partition, offset, Some(KEY), Some(&value))
}

fn good(producer: u32, sequence: u64) -> Logged {
    Logged { producer, sequence, is_corrupt: false }
}

/// Reads these sequence numbers of producer 0 from partition 0, from offset 0.
fn read(sequences: &[u64]) -> Verifier {
    let mut verifier = Verifier::new(RUN);
    for (offset, sequence) in (0..).zip(sequences) {
        see(&mut verifier, 0, offset, good(0, *sequence));
    }
    verifier
}

fn sent(next_sequence: u64, undecided: &[Range<u64>]) -> SentBy {
    SentBy::from([((0, 0), Sent { next_sequence, undecided: undecided.to_vec() })])
}

fn name_of(partition: u32) -> String {
    format!("topic-{partition}")
}

fn verdict(verifier: Verifier, sent: &SentBy) -> Verification {
    judge(&[verifier], sent, STRICT, &name_of)
}

/// Lost, duplicated, reordered, corrupt.
fn counts(verdict: &Verification) -> [u64; 4] {
    [verdict.lost, verdict.duplicated, verdict.reordered, verdict.corrupt]
}

#[test]
fn what_is_read_once_and_in_order_is_as_promised() {
    let verifier = read(&[0, 1, 2, 3]);
    assert!(verifier.has_all(&sent(4, &[])));
    let verdict = verdict(verifier, &sent(4, &[]));
    assert!(verdict.as_promised);
    assert_eq!((verdict.sent, verdict.acknowledged, verdict.undecided, verdict.read), (4, 4, 0, 4));
    assert_eq!(counts(&verdict), [0; 4]);
    assert!(verdict.findings.is_empty());
}

#[test]
fn the_intended_time_of_a_good_record_is_returned_at_its_first_sight_only() {
    let mut verifier = Verifier::new(RUN);
    assert_eq!(see(&mut verifier, 0, 0, good(0, 1)), Some(10));
    assert_eq!(see(&mut verifier, 0, 1, good(0, 0)), Some(0));
    assert_eq!(see(&mut verifier, 0, 2, good(0, 1)), None);
    assert_eq!(see(&mut verifier, 0, 3, Logged { is_corrupt: true, ..good(0, 2) }), None);
    assert_eq!(see(&mut verifier, 0, 4, good(0, 2)), Some(20));
}

#[test]
fn an_acknowledged_record_that_is_never_read_is_lost() {
    let verifier = read(&[0, 1, 3, 4, 8]);
    assert!(!verifier.has_all(&sent(9, &[])));
    let verdict = verdict(verifier, &sent(9, &[]));
    assert_eq!(counts(&verdict), [4, 0, 0, 0]);
    assert!(!verdict.as_promised);
    assert_eq!(
        verdict.findings,
        [
            "lost: topic-0: record 2 of producer 0, noticed at offset 2, where record 3 was read",
            "lost: topic-0: records 5 to 7 (3) of producer 0, noticed at offset 4, where record 8 was read",
        ]
    );
}

#[test]
fn a_lost_tail_and_a_stream_of_which_nothing_came_are_lost() {
    let mut sent = sent(5, &[]);
    sent.insert((1, 7), Sent { next_sequence: 1, undecided: vec![] });
    let verifier = read(&[0, 1, 2]);
    assert!(!verifier.has_all(&sent));
    let verdict = verdict(verifier, &sent);
    assert_eq!(counts(&verdict), [3, 0, 0, 0]);
    assert_eq!(
        verdict.findings,
        [
            "lost: topic-0: records 3 to 4 (2) of producer 0, after record 2 at offset 2, the last that was read",
            "lost: topic-7: record 0 of producer 1, of which nothing was read here",
        ]
    );
}

#[test]
fn an_earlier_record_after_a_later_one_is_reordered_and_not_lost() {
    let verifier = read(&[0, 2, 1, 3]);
    assert!(verifier.has_all(&sent(4, &[])));
    let verdict = verdict(verifier, &sent(4, &[]));
    assert_eq!(counts(&verdict), [0, 0, 1, 0]);
    assert!(!verdict.as_promised);
    assert_eq!(verdict.findings, ["reordered: topic-0, offset 2: record 1 of producer 0 came after 2"]);
}

#[test]
fn a_record_that_is_read_at_another_offset_once_more_is_duplicated() {
    for sequences in [[0, 0, 1, 2], [0, 1, 1, 2], [0, 1, 2, 0], [0, 1, 2, 2]] {
        let verdict = verdict(read(&sequences), &sent(3, &[]));
        assert_eq!(counts(&verdict), [0, 1, 0, 0], "{sequences:?}");
        assert!(!verdict.as_promised);
    }
    let verdict = verdict(read(&[0, 1, 2, 1]), &sent(3, &[]));
    assert_eq!(
        verdict.findings,
        ["duplicated: topic-0, offset 3: record 1 of producer 0 was read once more"]
    );
}

#[test]
fn a_changed_record_and_one_without_a_stamp_are_corrupt() {
    let mut verifier = read(&[0]);
    see(&mut verifier, 0, 1, Logged { is_corrupt: true, ..good(0, 1) });
    assert_eq!(verifier.see(0, 2, None, None), None);
    assert_eq!(verifier.see(0, 3, None, Some(b"a word")), None);
    assert_eq!(verifier.see(0, 4, Some(b"other key"), Some(&value(RUN, 0, 1))), None);
    let verdict = verdict(verifier, &sent(2, &[]));
    assert_eq!(
        counts(&verdict),
        [1, 0, 0, 4],
        "its sequence number is not to be trusted: it is lost as well"
    );
    assert_eq!(verdict.read, 5);
    assert_eq!(verdict.findings[1], "corrupt: topic-0, offset 1: its checksum is wrong");
    assert_eq!(verdict.findings[2], "corrupt: topic-0, offset 2: it is nothing that the generator wrote");
}

#[test]
fn a_record_that_was_never_sent_is_corrupt() {
    let mut verifier = read(&[0, 1, 2, 3]);
    see(&mut verifier, 5, 0, good(9, 0));
    let verdict = verdict(verifier, &sent(2, &[]));
    assert_eq!(counts(&verdict), [0, 0, 0, 3]);
    assert!(!verdict.as_promised);
    assert_eq!(
        verdict.findings[0],
        "corrupt: topic-0: 2 of producer 0 that were never sent, the last one record 3 at offset 3"
    );
}

#[test]
fn undecided_records_may_be_there_or_not() {
    for sequences in [&[0, 1, 4, 5][..], &[0, 1, 2, 4, 5, 6], &[0, 1, 2, 3, 4, 5, 6, 7]] {
        let sent = sent(8, &[6..8, 2..4, 3..4]);
        let verifier = read(sequences);
        assert!(verifier.has_all(&sent));
        let verdict = verdict(verifier, &sent);
        assert!(verdict.as_promised, "{verdict:?}");
        assert_eq!((verdict.sent, verdict.acknowledged, verdict.undecided), (8, 4, 4));
    }
    let next_to_them = verdict(read(&[0, 5]), &sent(8, &[6..8, 2..4]));
    assert_eq!(counts(&next_to_them), [2, 0, 0, 0], "1 and 4 were acknowledged");
}

#[test]
fn records_of_another_run_are_counted_and_ignored() {
    let mut verifier = read(&[0, 1]);
    for sequence in [0, 5, 1] {
        assert_eq!(verifier.see(0, 9, Some(KEY), Some(&value(RUN + 1, 0, sequence))), None);
    }
    let verdict = verdict(verifier, &sent(2, &[]));
    assert!(verdict.as_promised);
    assert_eq!((verdict.foreign, verdict.read), (3, 2));
}

#[test]
fn a_promise_allows_what_it_says_and_nothing_else() {
    let everything = || {
        let mut verifier = read(&[0, 2, 1, 1]);
        see(&mut verifier, 0, 9, Logged { is_corrupt: true, ..good(0, 1) });
        verifier
    };
    let cases = [
        (read(&[1]), Promise { may_lose: true, ..STRICT }),
        (read(&[0, 0, 1]), Promise { may_duplicate: true, ..STRICT }),
        (read(&[1, 0]), Promise { may_reorder: true, ..STRICT }),
    ];
    for (verifier, promise) in cases {
        let verifiers = [verifier];
        let verdict = judge(&verifiers, &sent(2, &[]), promise, &name_of);
        assert!(verdict.as_promised && verdict.findings.is_empty() && counts(&verdict) != [0; 4]);
        assert!(!judge(&verifiers, &sent(2, &[]), STRICT, &name_of).as_promised);
        assert!(!judge(&[everything()], &sent(4, &[]), promise, &name_of).as_promised);
    }
    let all = Promise { may_lose: true, may_duplicate: true, may_reorder: true };
    let verdict = judge(&[everything()], &sent(4, &[]), all, &name_of);
    assert_eq!(verdict.findings, ["corrupt: topic-0, offset 9: its checksum is wrong"]);
    assert!(!verdict.as_promised);
}

#[test]
fn each_group_has_to_read_everything() {
    let verdict = judge(&[read(&[0, 1, 2]), read(&[0, 2, 2])], &sent(3, &[]), STRICT, &name_of);
    assert_eq!(counts(&verdict), [1, 1, 0, 0]);
    assert_eq!((verdict.sent, verdict.read), (3, 6));
    assert!(verdict.findings.iter().all(|it| it.starts_with("group 1: ")), "{:?}", verdict.findings);
}

#[test]
fn only_the_first_of_many_findings_are_told_and_the_rest_is_counted() {
    let every_other: Vec<u64> = (0..1000).step_by(2).collect();
    let verdict = verdict(read(&every_other), &sent(1000, &[]));
    assert_eq!(counts(&verdict), [500, 0, 0, 0]);
    assert_eq!(verdict.findings.len(), EXAMPLES_MAX + 1);
    assert_eq!(verdict.findings.last().unwrap(), "lost: 490 more");
}

#[test]
fn a_sequence_number_at_the_end_of_the_range_is_no_panic() {
    let mut verifier = read(&[0, u64::MAX, u64::MAX, u64::MAX - 1]);
    verifier.merge(read(&[u64::MAX]));
    assert!(!verdict(verifier, &sent(1, &[])).as_promised);
}

#[test]
fn a_good_stream_takes_no_memory_per_record() {
    let sequences: Vec<u64> = (0..10_000).collect();
    let verifier = read(&sequences);
    assert_eq!(verifier.streams.len(), 1);
    assert!(verifier.streams[0].missing.is_empty());
}

/// What is done to one record of a log.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Drop,
    /// Put there once more, this far on.
    Repeat(usize),
    /// Swapped with the next one of its producer.
    Swap,
    Corrupt,
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Drop),
        (0..20_usize).prop_map(Fault::Repeat),
        Just(Fault::Swap),
        Just(Fault::Corrupt)
    ]
}

/// Logs of several partitions, each with the records of several producers in some order.
fn logs() -> impl Strategy<Value = Vec<Vec<Logged>>> {
    let log = vec(0..4_u32, 1..120).prop_map(|producers| {
        let mut next = [0; 4];
        let log = producers.into_iter().map(|producer| {
            let sequence = next[producer as usize];
            next[producer as usize] += 1;
            good(producer, sequence)
        });
        log.collect::<Vec<_>>()
    });
    vec(log, 1..5)
}

fn sent_of(logs: &[Vec<Logged>]) -> SentBy {
    let mut sent = SentBy::new();
    for (partition, log) in (0..).zip(logs) {
        for record in log {
            sent.entry((record.producer, partition)).or_default().next_sequence = record.sequence + 1;
        }
    }
    sent
}

/// Whether there was something to do it to.
fn plant(log: &mut Vec<Logged>, at: Index, fault: Fault) -> bool {
    if log.is_empty() {
        return false;
    }
    let at = at.index(log.len());
    match fault {
        Fault::Drop => drop(log.remove(at)),
        Fault::Repeat(further) => log.insert((at + 1 + further).min(log.len()), log[at]),
        Fault::Swap => {
            let next = (at + 1..log.len()).find(|it| log[*it].producer == log[at].producer);
            let Some(next) = next else { return false };
            log.swap(at, next);
        }
        Fault::Corrupt => log[at].is_corrupt = true,
    }
    true
}

/// Reads the logs with this many consumers, which share the partitions, in turns.
fn read_logs(logs: &[Vec<Logged>], consumers: usize) -> Verifier {
    let mut verifiers: Vec<_> = (0..consumers).map(|_| Verifier::new(RUN)).collect();
    let longest = logs.iter().map(Vec::len).max().unwrap_or(0);
    for offset in 0..longest {
        for (partition, log) in (0_u32..).zip(logs) {
            if let Some(record) = log.get(offset) {
                let verifier = &mut verifiers[partition as usize % consumers];
                see(verifier, partition, offset as i64, *record);
            }
        }
    }
    let merged = verifiers.into_iter().reduce(|mut all, one| {
        all.merge(one);
        all
    });
    merged.unwrap()
}

/// The same by the definition: sets of what was seen.
fn counts_by_definition(logs: &[Vec<Logged>], sent: &SentBy) -> [u64; 4] {
    let mut seen: BTreeMap<(u32, u32), BTreeSet<u64>> = BTreeMap::new();
    let [mut lost, mut duplicated, mut reordered, mut corrupt] = [0; 4];
    for (partition, log) in (0..).zip(logs) {
        for record in log {
            let seen = seen.entry((record.producer, partition)).or_default();
            let latest = seen.last().copied();
            if record.is_corrupt {
                corrupt += 1;
            } else if !seen.insert(record.sequence) {
                duplicated += 1;
            } else if latest > Some(record.sequence) {
                reordered += 1;
            }
        }
    }
    for (id, sent) in sent {
        let seen = seen.entry(*id).or_default();
        let is_undecided = |it: &u64| sent.undecided.iter().any(|range| range.contains(it));
        lost += (0..sent.next_sequence).filter(|it| !seen.contains(it) && !is_undecided(it)).count() as u64;
    }
    [lost, duplicated, reordered, corrupt]
}

proptest! {
    #[test]
    fn nothing_is_reported_of_streams_without_faults(logs in logs(), consumers in 1..4_usize) {
        let sent = sent_of(&logs);
        let verifier = read_logs(&logs, consumers);
        prop_assert!(verifier.has_all(&sent));
        let verdict = verdict(verifier, &sent);
        prop_assert!(verdict.as_promised);
        prop_assert_eq!(counts(&verdict), [0; 4]);
        prop_assert_eq!(verdict.read, verdict.sent);
        prop_assert!(verdict.findings.is_empty());
    }

    #[test]
    fn one_fault_anywhere_is_found_for_what_it_is(
        mut logs in logs(), log in any::<Index>(), at in any::<Index>(), fault in faults(),
        consumers in 1..4_usize,
    ) {
        let sent = sent_of(&logs);
        let log = log.index(logs.len());
        prop_assume!(plant(&mut logs[log], at, fault));
        let verifier = read_logs(&logs, consumers);
        prop_assert_eq!(verifier.has_all(&sent), matches!(fault, Fault::Repeat(_) | Fault::Swap));
        let verdict = verdict(verifier, &sent);
        let expected = match fault {
            Fault::Drop => [1, 0, 0, 0],
            Fault::Repeat(_) => [0, 1, 0, 0],
            Fault::Swap => [0, 0, 1, 0],
            Fault::Corrupt => [1, 0, 0, 1],
        };
        prop_assert_eq!(counts(&verdict), expected);
        prop_assert!(!verdict.as_promised);
        let place = name_of(u32::try_from(log).unwrap());
        prop_assert!(verdict.findings.iter().all(|it| it.contains(&place)), "{:?}", verdict.findings);
    }

    #[test]
    fn many_faults_are_counted_as_the_definition_counts_them(
        mut logs in logs(), planted in vec((any::<Index>(), any::<Index>(), faults()), 0..40),
        undecided in vec((any::<Index>(), 0..100_u64, 0..10_u64), 0..6), consumers in 1..4_usize,
    ) {
        let mut sent = sent_of(&logs);
        for (stream, start, length) in undecided {
            let stream = stream.index(sent.len());
            let stream = sent.values_mut().nth(stream).unwrap();
            stream.undecided.push(start..start + length);
        }
        for (log, at, fault) in planted {
            let log = log.index(logs.len());
            plant(&mut logs[log], at, fault);
        }
        let expected = counts_by_definition(&logs, &sent);
        let verifier = read_logs(&logs, consumers);
        prop_assert_eq!(verifier.has_all(&sent), expected[0] == 0);
        let verdict = verdict(verifier, &sent);
        prop_assert_eq!(counts(&verdict), expected);
        prop_assert_eq!(verdict.as_promised, expected == [0; 4]);
        prop_assert_eq!(verdict.findings.is_empty(), verdict.as_promised);
        prop_assert_eq!(verdict.acknowledged + verdict.undecided, verdict.sent);
    }

    #[test]
    fn merged_streams_have_read_what_either_has(
        one in vec(0..60_u64, 0..60), other in vec(0..60_u64, 0..60),
    ) {
        let mut merged = read(&one);
        merged.merge(read(&other));
        let (sent, verdict) = (sent(60, &[]), |it| verdict(it, &sent(60, &[])));
        let together = one.iter().chain(&other).collect::<BTreeSet<_>>().len();
        prop_assert_eq!(merged.has_all(&sent), together == 60);
        let verdict = verdict(merged);
        prop_assert_eq!(verdict.lost, 60 - together as u64);
        prop_assert_eq!(verdict.duplicated, (one.len() + other.len() - together) as u64);
    }
}
