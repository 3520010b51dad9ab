//! Topics that come and go beside the load: created with configs at random, filled with records with
//! keys, read in whole and from anywhere, deleted, and sometimes made anew under the same name at
//! once.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::command::{Commands, From, Record};
use super::ground::{Counts, Ground};
use super::plan::Stream;
use super::readers::check_offsets;
use crate::verify::Corpus;

const PAUSE_MS: std::ops::Range<u64> = 500..4_000;
const PARTITIONS: std::ops::RangeInclusive<u32> = 1..=64;
const RECORDS: std::ops::RangeInclusive<u32> = 1_000..=5_000;
const KEYS: std::ops::RangeInclusive<u32> = 1..=1_000;
/// Beside what makes a value the only one of its kind.
const FILLER_BYTES: std::ops::RangeInclusive<usize> = 0..=1_500;
const BATCH_BYTES: std::ops::RangeInclusive<u32> = 1_024..=65_536;
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
/// After the whole topic was read.
const READS_FROM_ANYWHERE: u32 = 3;
/// One topic in so many is made anew under its name.
const AGAIN_SHARE: u32 = 3;

/// Creates, fills, reads and deletes until the end.
pub(crate) fn run(ground: &Ground<'_>) -> Result<()> {
    let commands = Commands::new(ground, "churn");
    let mut churn = Churn { ground, commands, random: ground.plan.random(Stream::Churn), generation: 0 };
    let mut number = 0;
    while !ground.is_over() {
        let name = format!("churn-{number}");
        loop {
            churn.generation += 1;
            churn.one(&name).with_context(|| format!("topic {name}, generation {}", churn.generation))?;
            if ground.is_over() || churn.random.u32(..AGAIN_SHARE) > 0 {
                break;
            }
            Counts::add(&ground.counts.created_again, 1);
        }
        number += 1;
        ground.rest(Duration::from_millis(churn.random.u64(PAUSE_MS)));
    }
    Ok(())
}

struct Churn<'a> {
    ground: &'a Ground<'a>,
    commands: Commands<'a>,
    random: fastrand::Rng,
    /// Of all topics: what tells the records of a name's second topic from those of its first.
    generation: u32,
}

impl Churn<'_> {
    /// One topic's life.
    fn one(&mut self, name: &str) -> Result<()> {
        let counts = &self.ground.counts;
        let partitions = self.random.u32(PARTITIONS);
        let configs = configs(&mut self.random);
        self.commands.create(name, partitions, &configs).context("creating it")?;
        counts.created.fetch_add(1, SeqCst);
        let lines = self.commands.file("lines");
        let records = self.write_lines(&lines)?;
        let codec = self.random.choice(&CODECS).copied().unwrap_or("none");
        let batch_bytes = self.random.u32(BATCH_BYTES);
        let produced = self.commands.produce(name, &lines, codec, batch_bytes).context("producing")?;
        match produced {
            Ok(acknowledged) => {
                ensure!(acknowledged == u64::from(records), "{acknowledged} of {records} were acknowledged");
                counts.churn_produced.fetch_add(acknowledged, SeqCst);
                self.verify(name, &lines).context("reading it")?;
                self.check_configs(name, partitions, &configs).context("describing it")?;
            }
            // The client gave up over a kill: what it had not heard of may be there or not.
            Err(why) => {
                println!("left undecided by a kill: {why}");
                counts.undecided.fetch_add(1, SeqCst);
            }
        }
        self.commands.delete(name).context("deleting it")?;
        counts.deleted.fetch_add(1, SeqCst);
        Ok(())
    }

    /// Each value is there once, whichever topic of this name it is in.
    fn write_lines(&mut self, path: &Path) -> Result<u32> {
        let records = self.random.u32(RECORDS);
        let keys = self.random.u32(KEYS);
        let filler: String =
            std::iter::repeat_with(|| self.random.alphanumeric()).take(*FILLER_BYTES.end()).collect();
        let mut file = std::io::BufWriter::new(fs::File::create(path)?);
        for record in 0..records {
            let key = self.random.u32(..keys);
            let filler = &filler[..self.random.usize(FILLER_BYTES)];
            writeln!(file, "key-{key}\t{}-{record}-{filler}", self.generation)?;
        }
        file.flush()?;
        Ok(records)
    }

    /// Reads everything, and then parts of it.
    fn verify(&mut self, name: &str, lines: &Path) -> Result<()> {
        let all = self.commands.consume(name, None, None, None)?;
        let dump = self.commands.file("dump");
        write_dump(&all, &dump)?;
        Corpus::read(lines)?.check(&dump)?;
        Counts::add(&self.ground.counts.churn_read, all.len());
        for _ in 0..READS_FROM_ANYWHERE {
            let Some(begin) = self.random.choice(&all) else { break };
            let of_partition: Vec<&Record> =
                all.iter().filter(|record| record.partition == begin.partition).collect();
            let from = match self.random.bool() {
                true => From::Offset(begin.offset),
                false => From::Time(begin.timestamp_ms),
            };
            let count = self.random.usize(1..=200);
            let read = self.commands.consume(name, Some(begin.partition), Some(from), Some(count))?;
            check_part(&of_partition, from, count, &read)?;
            Counts::add(&self.ground.counts.churn_read, read.len());
        }
        Ok(())
    }

    /// The topic is as it was created.
    fn check_configs(&self, name: &str, partitions: u32, configs: &[(&str, String)]) -> Result<()> {
        let description = self.commands.describe(name)?;
        let there = description.partitions.len();
        ensure!(there == usize::try_from(partitions)?, "it has {there} partitions, not {partitions}");
        for (config, value) in configs {
            let there = description.configs.get(*config).and_then(Option::as_deref);
            ensure!(there == Some(value), "{config} is {there:?}, not {value}");
        }
        Ok(())
    }
}

/// Configs that a node acts upon, each of them sometimes.
fn configs(random: &mut fastrand::Rng) -> Vec<(&'static str, String)> {
    const CHOICES: [(&str, &[&str]); 6] = [
        ("corelog.durability", &["fsync", "write"]),
        ("segment.bytes", &["131072", "1048576", "16777216"]),
        ("segment.ms", &["100", "1000", "60000"]),
        ("index.interval.bytes", &["0", "512", "65536"]),
        ("max.message.bytes", &["131072", "1048588"]),
        ("message.timestamp.type", &["CreateTime", "LogAppendTime"]),
    ];
    let mut configs = Vec::new();
    for (name, values) in CHOICES {
        if random.bool() {
            configs.extend(random.choice(values).map(|value| (name, (*value).to_owned())));
        }
    }
    configs
}

fn write_dump(records: &[Record], path: &Path) -> Result<()> {
    let mut file = std::io::BufWriter::new(fs::File::create(path)?);
    for Record { partition, offset, key, value, .. } in records {
        let (key, value) = (key.as_deref().unwrap_or_default(), value.as_deref().unwrap_or_default());
        writeln!(file, "{partition}\t{offset}\t{key}\t{value}")?;
    }
    Ok(file.flush()?)
}

/// What was read from somewhere in a partition, held against the whole of it.
fn check_part(all: &[&Record], from: From, count: usize, read: &[Record]) -> Result<()> {
    let is_due = |record: &Record| match from {
        From::Offset(offset) => record.offset >= offset,
        From::Time(time) => record.timestamp_ms >= time,
    };
    let first = all.iter().position(|record| is_due(record)).unwrap_or(all.len());
    let due: Vec<&Record> = all.iter().skip(first).take(count).copied().collect();
    let partition = all.first().map_or(0, |record| record.partition);
    check_offsets(partition, due.first().map(|record| record.offset), read)?;
    ensure!(
        due.len() == read.len(),
        "partition {partition}: {} records came from {from:?} on, and {} are due",
        read.len(),
        due.len()
    );
    for (due, read) in due.iter().zip(read) {
        ensure!(*due == read, "partition {partition} offset {}: another record than before", read.offset);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(of: &[(u64, i64)]) -> Result<Vec<Record>> {
        of.iter()
            .map(|(offset, timestamp_ms)| {
                let text = format!(
                    r#"{{"partition":0,"offset":{offset},"timestamp_ms":{timestamp_ms},"key":"k","value":"{offset}"}}"#
                );
                Ok(serde_json::from_str(&text)?)
            })
            .collect()
    }

    #[test]
    fn a_part_is_what_follows_the_offset_or_the_first_record_that_is_not_older() -> Result<()> {
        let all = records(&[(0, 10), (1, 30), (2, 20), (3, 40)])?;
        let borrowed: Vec<&Record> = all.iter().collect();
        let check = |from, count, read: &[Record]| check_part(&borrowed, from, count, read).is_ok();
        assert!(check(From::Offset(1), 2, &all[1..3]));
        assert!(check(From::Time(15), 9, &all[1..]));
        assert!(check(From::Time(41), 9, &[]));
        assert!(!check(From::Time(15), 9, &all[2..]), "the first one was skipped");
        assert!(!check(From::Offset(1), 2, &all[1..2]), "one is missing");
        let mut other = all[1..3].to_vec();
        other[1].value = Some("x".to_owned());
        assert!(!check(From::Offset(1), 2, &other), "one is another");
        Ok(())
    }
}
