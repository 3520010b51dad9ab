//! What a consumer read, held against what a producer was given.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// A file of `key<TAB>value` lines, each value in it once.
pub(crate) struct Corpus {
    text: String,
}

impl Corpus {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Self { text })
    }

    pub(crate) fn len(&self) -> usize {
        self.text.lines().count()
    }

    fn records(&self) -> impl Iterator<Item = (&str, &str)> {
        self.text.lines().map(|line| line.split_once('\t').unwrap_or(("", line)))
    }

    /// Checks a dump of `partition<TAB>offset<TAB>key<TAB>value` lines: the same records as in the
    /// corpus, none lost, none twice, the offsets of each partition without a gap and read in
    /// order, each key in one partition and its values in the corpus's order.
    pub(crate) fn check(&self, dump: &Path) -> Result<()> {
        let text = fs::read_to_string(dump).with_context(|| format!("reading {}", dump.display()))?;
        let mut positions: HashMap<&str, (usize, &str)> = HashMap::new();
        for (position, (key, value)) in self.records().enumerate() {
            let earlier = positions.insert(value, (position, key));
            ensure!(earlier.is_none(), "{value:?} is twice in the corpus");
        }
        let mut next_offsets: HashMap<u32, u64> = HashMap::new();
        let mut keys: HashMap<&str, (u32, usize)> = HashMap::new();
        let mut seen = vec![false; positions.len()];
        for line in text.lines() {
            let read = Read::parse(line)?;
            let next = next_offsets.entry(read.partition).or_insert(0);
            ensure!(
                read.offset == *next,
                "partition {}: offset {next} is due, not {}",
                read.partition,
                read.offset
            );
            *next += 1;
            let Some(&(position, key)) = positions.get(read.value) else {
                bail!("{line:?} was never produced");
            };
            ensure!(key == read.key, "{line:?} was produced with key {key:?}");
            ensure!(!seen[position], "{line:?} is there twice");
            seen[position] = true;
            if let Some((partition, earlier)) = keys.insert(key, (read.partition, position)) {
                ensure!(
                    partition == read.partition,
                    "key {key:?} is in partitions {partition} and {}",
                    read.partition
                );
                ensure!(earlier < position, "{line:?} is out of its key's order");
            }
        }
        let lost = seen.iter().filter(|seen| !**seen).count();
        ensure!(lost == 0, "{lost} of {} records are missing", seen.len());
        Ok(())
    }
}

struct Read<'a> {
    partition: u32,
    offset: u64,
    key: &'a str,
    value: &'a str,
}

impl<'a> Read<'a> {
    fn parse(line: &'a str) -> Result<Self> {
        let mut fields = line.splitn(4, '\t');
        let mut field = || fields.next().with_context(|| format!("{line:?} is not a dumped record"));
        Ok(Self { partition: field()?.parse()?, offset: field()?.parse()?, key: field()?, value: field()? })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_line_is_a_dumped_record_or_an_error(line in "[0-9]{0,12}(\t[0-9]{0,21}){0,4}|.{0,40}") {
            let _ = Read::parse(&line).map(|it| it.offset);
        }
    }

    fn check(dump: &str) -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump");
        fs::write(&path, dump).unwrap();
        let corpus = Corpus { text: "a\tone\nb\ttwo\na\tthree\n".to_owned() };
        corpus.check(&path)
    }

    #[test]
    fn partitions_may_come_in_any_order() {
        check("1\t0\tb\ttwo\n0\t0\ta\tone\n0\t1\ta\tthree\n").unwrap();
    }

    #[test]
    fn every_deviation_is_an_error() {
        let cases = [
            ("lost", "0\t0\ta\tone\n0\t1\ta\tthree\n"),
            ("twice", "0\t0\ta\tone\n0\t1\tb\ttwo\n0\t2\ta\tthree\n0\t3\tb\ttwo\n"),
            ("key's order", "0\t0\ta\tthree\n0\t1\ta\tone\n0\t2\tb\ttwo\n"),
            ("two partitions for a key", "0\t0\ta\tone\n1\t0\ta\tthree\n0\t1\tb\ttwo\n"),
            ("a gap", "0\t0\ta\tone\n0\t2\ta\tthree\n0\t3\tb\ttwo\n"),
            ("another key", "0\t0\ta\tone\n0\t1\ta\ttwo\n0\t2\ta\tthree\n"),
            ("unknown", "0\t0\ta\tone\n0\t1\tb\tzwei\n0\t2\ta\tthree\n"),
        ];
        for (case, dump) in cases {
            assert!(check(dump).is_err(), "{case} went unnoticed");
        }
    }
}
