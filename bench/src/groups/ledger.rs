//! What every group sent and what was acknowledged of it, and what a broker must therefore have.
//!
//! The n-th commit of a group gives partition p the offset n × partitions + p: each offset tells
//! which commit it is of, and that it is where it belongs. Pure.

use super::report::OffsetCheck;

/// So many findings are told in words.
const FINDINGS_MAX: usize = 10;

/// One group's commits, counted from 1; 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Account {
    sent: u64,
    acknowledged: u64,
}

/// The commits of all groups.
#[derive(Debug)]
pub struct Ledger {
    accounts: Vec<Account>,
    partitions: i32,
}

impl Ledger {
    /// Nothing is sent yet.
    #[must_use]
    pub fn new(groups: usize, partitions: i32) -> Self {
        Self { accounts: vec![Account::default(); groups], partitions }
    }

    /// The number of the group's next commit, which is taken as sent.
    ///
    /// # Panics
    /// With a group that there is not.
    pub fn next(&mut self, group: usize) -> u64 {
        let account = &mut self.accounts[group];
        account.sent += 1;
        account.sent
    }

    /// That commit was acknowledged, and with it all before.
    ///
    /// # Panics
    /// With a commit that was not sent.
    pub fn acknowledge(&mut self, group: usize, commit: u64) {
        let account = &mut self.accounts[group];
        assert!(commit <= account.sent, "only what was sent is acknowledged");
        account.acknowledged = account.acknowledged.max(commit);
    }

    /// The offset of a partition in a commit.
    #[must_use]
    pub fn offset(&self, commit: u64, partition: i32) -> i64 {
        let commit = i64::try_from(commit).unwrap_or(i64::MAX);
        commit.saturating_mul(i64::from(self.partitions)).saturating_add(i64::from(partition))
    }

    /// Holds what a broker has of a group, each partition with its offset, against what it must have.
    ///
    /// # Panics
    /// With a group that there is not.
    pub fn check(&self, group: usize, name: &str, found: &[(i32, i64)], into: &mut OffsetCheck) {
        let account = self.accounts[group];
        into.groups += 1;
        for partition in 0..self.partitions {
            let offset = found.iter().find(|(of, _)| *of == partition).map(|(_, offset)| *offset);
            let offset = offset.filter(|offset| *offset >= 0);
            into.offsets += u64::from(account.acknowledged > 0);
            let lowest = self.offset(account.acknowledged, partition);
            let wrong = match offset {
                None if account.acknowledged == 0 => continue,
                None => {
                    into.missing += 1;
                    "nothing".to_owned()
                }
                Some(offset) if !self.is_of(account.sent, partition, offset) => {
                    into.foreign += 1;
                    format!("{offset}, which nobody committed there")
                }
                Some(offset) if offset < lowest => {
                    into.gone_back += 1;
                    offset.to_string()
                }
                Some(offset) => {
                    into.unanswered += u64::from(offset > lowest);
                    continue;
                }
            };
            if into.findings.len() < FINDINGS_MAX {
                let finding = format!("{name}, partition {partition}: {wrong} instead of {lowest}");
                into.findings.push(finding);
            }
        }
        into.as_promised = into.missing + into.gone_back + into.foreign == 0;
    }

    /// Whether an offset is this partition's in one of the first `sent` commits.
    fn is_of(&self, sent: u64, partition: i32, offset: i64) -> bool {
        let partitions = i64::from(self.partitions);
        let commit = u64::try_from(offset / partitions).unwrap_or(u64::MAX);
        offset % partitions == i64::from(partition) && (1..=sent).contains(&commit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three commits sent, two acknowledged, four partitions.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(2, 4);
        let commits: Vec<u64> = (0..3).map(|_| ledger.next(1)).collect();
        assert_eq!(commits, [1, 2, 3]);
        ledger.acknowledge(1, 2);
        ledger.acknowledge(1, 1);
        ledger
    }

    fn check(found: &[(i32, i64)]) -> OffsetCheck {
        let mut check = OffsetCheck::default();
        ledger().check(1, "g", found, &mut check);
        check
    }

    #[test]
    fn what_was_acknowledged_must_be_there_and_what_was_sent_may() {
        let acknowledged = check(&[(0, 8), (1, 9), (2, 10), (3, 11)]);
        assert!(acknowledged.as_promised && acknowledged.offsets == 4 && acknowledged.unanswered == 0);
        let newer = check(&[(3, 15), (2, 14), (1, 13), (0, 12)]);
        assert!(newer.as_promised && newer.unanswered == 4);
    }

    #[test]
    fn what_is_missing_old_or_of_nobody_is_found() {
        let found = check(&[(0, 4), (1, -1), (2, 11)]);
        assert_eq!((found.gone_back, found.missing, found.foreign), (1, 2, 1));
        assert!(!found.as_promised);
        assert_eq!(
            found.findings,
            [
                "g, partition 0: 4 instead of 8",
                "g, partition 1: nothing instead of 9",
                "g, partition 2: 11, which nobody committed there instead of 10",
                "g, partition 3: nothing instead of 11",
            ]
        );
        // Never sent.
        assert_eq!(check(&[(0, 16), (1, 9), (2, 10), (3, 11)]).foreign, 1);
        assert_eq!(check(&[(0, 0), (1, 9), (2, 10), (3, 11)]).foreign, 1);
    }

    #[test]
    fn a_group_without_an_acknowledged_commit_may_have_nothing() {
        let mut check = OffsetCheck::default();
        Ledger::new(1, 3).check(0, "g", &[], &mut check);
        assert!(check.as_promised && check.groups == 1 && check.offsets == 0);
    }

    proptest::proptest! {
        #[test]
        fn an_offset_of_any_commit_is_judged_by_what_was_acknowledged(
            partitions in 1..50_i32, sent in 1..200_u64, acknowledged in 0..200_u64, have in 0..210_u64,
        ) {
            let acknowledged = acknowledged.min(sent);
            let mut ledger = Ledger::new(1, partitions);
            for _ in 0..sent {
                ledger.next(0);
            }
            ledger.acknowledge(0, acknowledged);
            let found: Vec<_> = (0..partitions).map(|it| (it, ledger.offset(have, it))).collect();
            let mut check = OffsetCheck::default();
            ledger.check(0, "g", &found, &mut check);
            let all = u64::from(partitions.unsigned_abs());
            proptest::prop_assert_eq!(check.as_promised, have >= acknowledged.max(1) && have <= sent);
            proptest::prop_assert_eq!(check.gone_back == all, have >= 1 && have < acknowledged);
            proptest::prop_assert_eq!(check.foreign == all, have == 0 || have > sent);
        }
    }
}
