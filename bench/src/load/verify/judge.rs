//! What was read, against what was sent.

use std::ops::Range;

use super::{EXAMPLES_MAX, Example, Sent, SentBy, Stream, Verification, Verifier, ranges};

/// What may become of records without the broker having broken its word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Promise {
    /// With `acks=0` nobody says that a record has arrived.
    pub may_lose: bool,
    /// Something was sent twice without idempotence.
    pub may_duplicate: bool,
    /// Something was sent again without idempotence while something later was under way.
    pub may_reorder: bool,
}

/// What became of every record that was sent. There is one verifier per group, of all its consumers
/// merged; each group should have read everything, and what is wrong is the sum over groups.
/// `name_of` names a partition by its index among all of the run.
///
/// A corrupt record is lost as well, since nobody can tell for sure which one it was. A record that
/// was never sent counts as corrupt. Findings are only about what is not as promised.
#[must_use]
pub fn judge(
    groups: &[Verifier],
    sent: &SentBy,
    promise: Promise,
    name_of: &dyn Fn(u32) -> String,
) -> Verification {
    let mut verdict = Verification {
        sent: sent.values().map(|it| it.next_sequence).sum(),
        undecided: sent.values().map(undecided_count).sum(),
        ..Verification::default()
    };
    verdict.acknowledged = verdict.sent - verdict.undecided;
    for (index, group) in groups.iter().enumerate() {
        let kinds = [
            (lost(group, sent, name_of), &mut verdict.lost, promise.may_lose),
            (duplicated(group, name_of), &mut verdict.duplicated, promise.may_duplicate),
            (reordered(group, name_of), &mut verdict.reordered, promise.may_reorder),
            (corrupt(group, sent, name_of), &mut verdict.corrupt, false),
        ];
        let label = if groups.len() > 1 { format!("group {index}: ") } else { String::new() };
        for (tally, total, is_allowed) in kinds {
            *total += tally.count;
            if !is_allowed {
                verdict.findings.extend(tally.into_lines().map(|line| format!("{label}{line}")));
            }
        }
        verdict.read += group.read;
        verdict.foreign += group.foreign;
    }
    verdict.as_promised = verdict.corrupt == 0
        && (verdict.lost == 0 || promise.may_lose)
        && (verdict.duplicated == 0 || promise.may_duplicate)
        && (verdict.reordered == 0 || promise.may_reorder);
    verdict
}

/// Records of one kind: how many, and examples in words.
struct Tally {
    what: &'static str,
    count: u64,
    /// How many of them the lines are about.
    told: u64,
    lines: Vec<String>,
}

impl Tally {
    fn new(what: &'static str) -> Self {
        Self { what, count: 0, told: 0, lines: Vec::new() }
    }

    fn add(&mut self, count: u64, line: impl FnOnce() -> String) {
        self.count += count;
        if self.lines.len() < EXAMPLES_MAX {
            self.told += count;
            self.lines.push(format!("{}: {}", self.what, line()));
        }
    }

    fn into_lines(self) -> impl Iterator<Item = String> {
        let more = self.count - self.told;
        let rest = (more > 0).then(|| format!("{}: {more} more", self.what));
        self.lines.into_iter().chain(rest)
    }
}

/// Undecided numbers that were given to a request at all.
fn undecided_count(sent: &Sent) -> u64 {
    let undecided = ranges::normalized(&sent.undecided);
    undecided.iter().map(|it| it.end.min(sent.next_sequence).saturating_sub(it.start)).sum()
}

fn lost(group: &Verifier, sent: &SentBy, name_of: &dyn Fn(u32) -> String) -> Tally {
    let mut tally = Tally::new("lost");
    let nothing = Stream::default();
    for (id @ (producer, partition), sent) in sent {
        let stream = group.streams.get(id).unwrap_or(&nothing);
        for range in stream.lost(sent) {
            tally.add(range.end - range.start, || {
                let records = words_of_range(&range);
                let place = name_of(*partition);
                format!("{place}: {records} of producer {producer}, {}", words_of_gap(stream, range.start))
            });
        }
    }
    tally
}

fn words_of_range(range: &Range<u64>) -> String {
    match range.end - range.start {
        1 => format!("record {}", range.start),
        many => format!("records {} to {} ({many})", range.start, range.end - 1),
    }
}

fn words_of_gap(stream: &Stream, sequence: u64) -> String {
    if stream.next == 0 {
        return "of which nothing was read here".to_owned();
    }
    match stream.missing.range(..=sequence).next_back() {
        Some((_, missing)) if sequence < missing.end => {
            format!("noticed at offset {}, where record {} was read", missing.noticed_at, missing.end)
        }
        _ => format!(
            "after record {} at offset {}, the last that was read",
            stream.next - 1,
            stream.last_offset
        ),
    }
}

fn duplicated(group: &Verifier, name_of: &dyn Fn(u32) -> String) -> Tally {
    let mut tally = Tally::new("duplicated");
    for it in &group.examples.duplicated {
        tally.add(1, || at(it, "was read once more", name_of));
    }
    tally.count = group.duplicated;
    tally
}

fn reordered(group: &Verifier, name_of: &dyn Fn(u32) -> String) -> Tally {
    let mut tally = Tally::new("reordered");
    for it in &group.examples.reordered {
        tally.add(1, || at(it, &format!("came after {}", it.after), name_of));
    }
    tally.count = group.reordered;
    tally
}

fn at(it: &Example, what: &str, name_of: &dyn Fn(u32) -> String) -> String {
    let place = name_of(it.partition);
    format!("{place}, offset {}: record {} of producer {} {what}", it.offset, it.sequence, it.producer)
}

fn corrupt(group: &Verifier, sent: &SentBy, name_of: &dyn Fn(u32) -> String) -> Tally {
    let mut tally = Tally::new("corrupt");
    for (partition, offset, error) in &group.examples.corrupt {
        tally.add(1, || format!("{}, offset {offset}: {error}", name_of(*partition)));
    }
    tally.count = group.corrupt;
    for (id @ (producer, partition), stream) in &group.streams {
        let next_sequence = sent.get(id).map_or(0, |it| it.next_sequence);
        let count = stream.read_from(next_sequence);
        if count > 0 {
            tally.add(count, || {
                let place = name_of(*partition);
                format!(
                    "{place}: {count} of producer {producer} that were never sent, the last one record {} at \
                     offset {}",
                    stream.next - 1,
                    stream.last_offset
                )
            });
        }
    }
    tally
}
