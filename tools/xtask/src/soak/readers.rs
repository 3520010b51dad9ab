//! Readers of the load's topic: they begin anywhere, at an offset or a time, and know what they have
//! seen before.
//!
//! The load generator's own consumers follow the tail and judge the whole stream. These ones judge
//! what somebody sees who comes later: offsets without a gap, ends that never go back, and at an
//! offset always the same record, before a kill and after it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use super::command::{Commands, Description, From, Record};
use super::ground::{Counts, Ground, locked};
use super::plan::Stream;

/// Records that one read asks for.
const COUNTS: std::ops::RangeInclusive<usize> = 1..=500;
/// Of the records that are read, one in so many is remembered…
const REMEMBERED_SHARE: usize = 16;
/// …up to so many of a topic.
const REMEMBERED_MAX: usize = 50_000;
/// Read once more before a topic is deleted.
const LAST_LOOKS: usize = 20;
const PAUSE_MS: std::ops::Range<u64> = 20..500;

/// The topic that the load goes to, and what readers have seen of it.
pub(crate) struct LongTopic {
    name: String,
    /// In ms since 1970.
    began_ms: i64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Fingerprints by partition and offset.
    records: BTreeMap<(u32, u64), u64>,
    /// The furthest end of each partition.
    ends: Vec<u64>,
}

impl LongTopic {
    pub(crate) fn new(name: &str) -> Result<Self> {
        Ok(Self { name: name.to_owned(), began_ms: now_ms()?, seen: Mutex::new(Seen::default()) })
    }
}

fn now_ms() -> Result<i64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(i64::try_from(since.as_millis())?)
}

/// Reads until the end.
pub(crate) fn run(ground: &Ground<'_>, number: u64) -> Result<()> {
    let commands = Commands::new(ground, &format!("reader-{number}"));
    let mut random = ground.plan.random(Stream::Reader(number));
    while !ground.is_over() {
        {
            let long = ground.long.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(topic) = &*long {
                let reader = Reader { ground, commands: &commands, topic };
                reader.read_anywhere(&mut random).with_context(|| format!("reading {}", topic.name))?;
            }
        }
        ground.rest(Duration::from_millis(random.u64(PAUSE_MS)));
    }
    Ok(())
}

/// Looks once more at what readers have seen of a topic.
pub(crate) fn look_again(ground: &Ground<'_>, topic: &LongTopic, random: &mut fastrand::Rng) -> Result<()> {
    let commands = Commands::new(ground, "last-look");
    let reader = Reader { ground, commands: &commands, topic };
    for _ in 0..LAST_LOOKS {
        if let Some((partition, offset)) = reader.remembered(random) {
            reader
                .read_up_to(partition, offset, 1, offset + 1)
                .with_context(|| format!("reading {}", topic.name))?;
        }
    }
    Ok(())
}

struct Reader<'a> {
    ground: &'a Ground<'a>,
    commands: &'a Commands<'a>,
    topic: &'a LongTopic,
}

impl Reader<'_> {
    fn read_anywhere(&self, random: &mut fastrand::Rng) -> Result<()> {
        let known = locked(&self.topic.seen).ends.clone();
        let ranges = ranges(&self.commands.describe(&self.topic.name)?)?;
        locked(&self.topic.seen).note_ends(&known, &ranges)?;
        let filled: Vec<u32> =
            (0..).zip(&ranges).filter(|(_, (first, end))| first < end).map(|(at, _)| at).collect();
        let Some(&partition) = random.choice(&filled) else {
            return Ok(());
        };
        let (first, end) = ranges[usize::try_from(partition)?];
        let count = random.usize(COUNTS);
        Counts::add(&self.ground.counts.reads, 1);
        match random.u8(..4) {
            // Where somebody has read before.
            0 | 1 => {
                let (partition, offset) = self.remembered(random).unwrap_or((partition, first));
                let end = ranges[usize::try_from(partition)?].1;
                self.read_up_to(partition, offset, count, end)
            }
            2 => self.read_from_time(random, partition, (first, end), count),
            _ => self.read_up_to(partition, random.u64(first..end), count, end),
        }
    }

    fn remembered(&self, random: &mut fastrand::Rng) -> Option<(u32, u64)> {
        let seen = locked(&self.topic.seen);
        let at = random.usize(..seen.records.len().max(1));
        seen.records.keys().nth(at).copied()
    }

    /// Reads records that are known to be there up to `end`.
    fn read_up_to(&self, partition: u32, from: u64, count: usize, end: u64) -> Result<()> {
        let there = usize::try_from(end.saturating_sub(from))?;
        let records = self.read(partition, from, count)?;
        ensure!(
            records.len() >= count.min(there),
            "partition {partition}: {} records from offset {from} on, where the end was {end} and {count} were asked for",
            records.len()
        );
        Ok(())
    }

    fn read(&self, partition: u32, from: u64, count: usize) -> Result<Vec<Record>> {
        let name = &self.topic.name;
        let records = self.commands.consume(name, Some(partition), Some(From::Offset(from)), Some(count))?;
        self.take(partition, Some(from), count, &records)?;
        Ok(records)
    }

    /// The first record that is not older, and those behind it. The time is not behind that of the
    /// last record that is there: of a later one there is no first record, and a reader that waits at
    /// the end may be given records that were due earlier and come late.
    fn read_from_time(
        &self,
        random: &mut fastrand::Rng,
        partition: u32,
        (first, end): (u64, u64),
        count: usize,
    ) -> Result<()> {
        let last = self.read(partition, end - 1, 1)?;
        let last_ms = last.first().context("the last record is there")?.timestamp_ms;
        let time = random.i64(self.topic.began_ms..=last_ms.max(self.topic.began_ms));
        let name = &self.topic.name;
        let records = self.commands.consume(name, Some(partition), Some(From::Time(time)), Some(count))?;
        self.take(partition, None, count, &records)?;
        let Some(found) = records.first() else {
            return Ok(());
        };
        let (offset, at_ms) = (found.offset, found.timestamp_ms);
        ensure!(
            at_ms >= time,
            "partition {partition}: time {time} was asked for, and offset {offset} is of {at_ms}"
        );
        if offset > first
            && let Some(before) = self.read(partition, offset - 1, 1)?.first()
        {
            ensure!(
                before.timestamp_ms < time,
                "partition {partition}: time {time} was asked for and offset {offset} found, but the one before is of {}",
                before.timestamp_ms
            );
        }
        Ok(())
    }

    fn take(&self, partition: u32, from: Option<u64>, count: usize, records: &[Record]) -> Result<()> {
        ensure!(records.len() <= count, "{} records, and {count} were asked for", records.len());
        check_offsets(partition, from, records)?;
        let compared = locked(&self.topic.seen).compare(records)?;
        Counts::add(&self.ground.counts.records_read, records.len());
        Counts::add(&self.ground.counts.records_compared, compared);
        Ok(())
    }
}

/// First offset and end of each partition.
fn ranges(description: &Description) -> Result<Vec<(u64, u64)>> {
    let range = description.partitions.iter().map(|it| it.log_start_offset.zip(it.log_end_offset));
    range.collect::<Option<_>>().context("a partition has no leader")
}

/// One after the other, without a gap.
pub(crate) fn check_offsets(partition: u32, from: Option<u64>, records: &[Record]) -> Result<()> {
    let Some(first) = from.or(records.first().map(|record| record.offset)) else {
        return Ok(());
    };
    for (due, record) in (first..).zip(records) {
        ensure!(
            (record.partition, record.offset) == (partition, due),
            "partition {partition}: offset {due} is due, and offset {} of partition {} came",
            record.offset,
            record.partition
        );
    }
    Ok(())
}

impl Seen {
    /// Takes the ends that were asked for when these were `known`; another reader may know more by now.
    fn note_ends(&mut self, known: &[u64], ranges: &[(u64, u64)]) -> Result<()> {
        for (partition, (known, (_, end))) in known.iter().zip(ranges).enumerate() {
            ensure!(known <= end, "partition {partition} ended at {known}, and ends at {end} now");
        }
        self.ends.resize(ranges.len(), 0);
        for (known, (_, end)) in self.ends.iter_mut().zip(ranges) {
            *known = (*known).max(*end);
        }
        Ok(())
    }

    /// Holds records against what was seen at their offsets, and remembers some. Returns how many
    /// had been seen.
    fn compare(&mut self, records: &[Record]) -> Result<usize> {
        let mut compared = 0;
        for (at, record) in records.iter().enumerate() {
            let place = (record.partition, record.offset);
            let fingerprint = record.fingerprint();
            if let Some(known) = self.records.get(&place) {
                ensure!(
                    *known == fingerprint,
                    "partition {} offset {} holds another record than before",
                    record.partition,
                    record.offset
                );
                compared += 1;
            } else if at % REMEMBERED_SHARE == 0 && self.records.len() < REMEMBERED_MAX {
                self.records.insert(place, fingerprint);
            }
        }
        Ok(compared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: u64, value: &str) -> Result<Record> {
        let text =
            format!(r#"{{"partition":0,"offset":{offset},"timestamp_ms":1,"key":null,"value":"{value}"}}"#);
        Ok(serde_json::from_str(&text)?)
    }

    #[test]
    fn a_gap_a_repetition_and_another_beginning_are_errors() -> Result<()> {
        let check = |from, offsets: &[u64]| -> Result<bool> {
            let records: Result<Vec<Record>> = offsets.iter().map(|offset| record(*offset, "")).collect();
            Ok(check_offsets(0, from, &records?).is_ok())
        };
        assert!(check(Some(4), &[4, 5, 6])? && check(None, &[4, 5, 6])? && check(Some(4), &[])?);
        for (from, offsets) in
            [(Some(4), &[5, 6][..]), (Some(4), &[4, 6]), (None, &[4, 4, 5]), (None, &[5, 4])]
        {
            assert!(!check(from, offsets)?, "{offsets:?} went unnoticed");
        }
        assert!(check_offsets(1, None, &[record(0, "")?]).is_err());
        Ok(())
    }

    #[test]
    fn a_record_that_changes_and_an_end_that_goes_back_are_errors() -> Result<()> {
        let mut seen = Seen::default();
        assert_eq!(seen.compare(&[record(7, "a")?])?, 0);
        assert_eq!(seen.compare(&[record(7, "a")?])?, 1);
        assert!(seen.compare(&[record(7, "b")?]).is_err());
        seen.note_ends(&[], &[(0, 5), (0, 9)])?;
        seen.note_ends(&[5, 9], &[(0, 5), (0, 10)])?;
        seen.note_ends(&[5, 9], &[(0, 5), (0, 9)])?;
        assert_eq!(seen.ends, [5, 10]);
        assert!(seen.note_ends(&[5, 10], &[(0, 6), (0, 9)]).is_err());
        Ok(())
    }
}
