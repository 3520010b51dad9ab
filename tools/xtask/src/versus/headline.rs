//! What is compared with the aims, and what came of it.

use super::plan::{Row, Variant, step};
use super::results::{Measure, Point, Results, number};
use super::statistics::Spread;

/// A ratio or a number, and what it was to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    fn is_reached(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }

    /// Whether a ratio to Kafka is on Kafka's side of 1.
    fn is_lost(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(_) => ratio < 1.0,
            Self::AtMost(_) => ratio > 1.0,
        }
    }

    fn show(self, unit: &str) -> String {
        match self {
            Self::AtLeast(least) => format!("≥ {least}{unit}"),
            Self::AtMost(most) if (most - 1.0 / 3.0).abs() < 1e-9 => "≤ 1/3".to_owned(),
            Self::AtMost(most) if (most - 0.25).abs() < 1e-9 => "≤ 1/4".to_owned(),
            Self::AtMost(most) => format!("≤ {most}{unit}"),
        }
    }
}

/// What the aim is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject {
    /// Corelog's value in units of Kafka's.
    Ratio { corelog: Point<'static>, kafka: Point<'static>, aim: Aim },
    /// The same without an aim: it is better below 1.
    NoAim { corelog: Point<'static>, kafka: Point<'static> },
    /// Corelog's value with its unit; Kafka's is shown beside it.
    Absolute { corelog: Point<'static>, kafka: Point<'static>, aim: Aim, unit: &'static str },
    /// Corelog with many of something in units of Corelog with one; Kafka's ratio is shown beside it.
    Own { many: Point<'static>, one: Point<'static>, aim: Aim },
}

/// A row of the table of aims.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Headline {
    pub(crate) what: &'static str,
    pub(crate) subject: Subject,
}

/// What came of an aim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Reached,
    /// There is no aim, and Corelog is better.
    Better,
    /// Not as good as it was to be.
    Missed,
    /// Worse than Kafka.
    Lost,
    /// Corelog's runs failed.
    Failed,
    NotMeasured,
}

impl Verdict {
    /// Whether the row is one of "What we lost".
    pub(crate) fn is_bad(self) -> bool {
        matches!(self, Self::Missed | Self::Lost | Self::Failed)
    }

    pub(crate) fn show(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Better => "better",
            Self::Missed => "**missed**",
            Self::Lost => "**lost**",
            Self::Failed => "**lost** (failed)",
            Self::NotMeasured => "not measured",
        }
    }
}

/// A headline with its numbers.
pub(crate) struct Line {
    pub(crate) what: &'static str,
    pub(crate) kafka: String,
    pub(crate) corelog: String,
    pub(crate) ratio: String,
    pub(crate) aim: String,
    pub(crate) verdict: Verdict,
    /// The cells that it is made of, for their footnotes: Kafka's, then Corelog's.
    pub(crate) points: Vec<Point<'static>>,
}

/// The aims of the design that this comparison can speak of.
pub(crate) fn all() -> Vec<Headline> {
    use Variant::{CorelogFsync, Kafka, KafkaFlush};
    let point = |row, variant, step, measure| Point { row, variant, step, measure };
    let ratio = |what, row, step, measure, kafka, aim| Headline {
        what,
        subject: Subject::Ratio {
            corelog: point(row, CorelogFsync, step, measure),
            kafka: point(row, kafka, step, measure),
            aim,
        },
    };
    let absolute = |what, row, measure, most, unit| Headline {
        what,
        subject: Subject::Absolute {
            corelog: point(row, CorelogFsync, step::ONLY, measure),
            kafka: point(row, Kafka, step::ONLY, measure),
            aim: Aim::AtMost(most),
            unit,
        },
    };
    let own = |what, many, one, measure, aim| Headline {
        what,
        subject: Subject::Own {
            many: point(Row::Partitions, CorelogFsync, many, measure),
            one: point(Row::Partitions, CorelogFsync, one, measure),
            aim,
        },
    };
    let third = Aim::AtMost(1.0 / 3.0);
    let half = step::HALF_OF_KNEE;
    let p50 = Measure::ResponseP50Us;
    vec![
        ratio(
            "durable produce, batched, 1 KiB records, against Kafka's default",
            Row::Throughput,
            step::ONLY,
            Measure::RecordsPerS,
            Kafka,
            Aim::AtLeast(3.0),
        ),
        ratio(
            "single-record requests, each on disk before its acknowledgement, against `flush.messages=1`",
            Row::Single,
            step::ONLY,
            Measure::RecordsPerS,
            KafkaFlush,
            Aim::AtLeast(10.0),
        ),
        Headline {
            what: "p50 response at half of Kafka's knee, durable, against Kafka's default",
            subject: Subject::NoAim {
                corelog: point(Row::Latency, CorelogFsync, half, p50),
                kafka: point(Row::Latency, Kafka, half, p50),
            },
        },
        ratio(
            "p99 response at half of Kafka's knee, durable, against Kafka's default",
            Row::Latency,
            half,
            Measure::ResponseP99Us,
            Kafka,
            third,
        ),
        ratio(
            "p99.9 response at half of Kafka's knee, durable, against Kafka's default",
            Row::Latency,
            half,
            Measure::ResponseP999Us,
            Kafka,
            third,
        ),
        ratio(
            "server CPU a 1 KiB record, produce",
            Row::Throughput,
            step::ONLY,
            Measure::ServerCpuUsPerRecord,
            Kafka,
            Aim::AtMost(0.25),
        ),
        ratio(
            "server CPU a 1 KiB record, fetch",
            Row::Fetch,
            step::ONLY,
            Measure::ServerCpuUsPerRecord,
            Kafka,
            Aim::AtMost(1.0),
        ),
        own(
            "1,000 partitions in units of 1: throughput",
            step::MANY_MAX,
            step::ONE_MAX,
            Measure::RecordsPerS,
            Aim::AtLeast(0.9),
        ),
        own(
            "1,000 partitions in units of 1: p99 at the same load",
            step::MANY_LOADED,
            step::ONE_LOADED,
            Measure::ResponseP99Us,
            Aim::AtMost(1.5),
        ),
        absolute(
            "start to first acknowledged record, empty directory",
            Row::Start,
            Measure::StartEmptyMs,
            100.0,
            " ms",
        ),
        absolute(
            "start to first acknowledged record, used directory",
            Row::Start,
            Measure::StartUsedMs,
            100.0,
            " ms",
        ),
        absolute(
            "start after `kill -9` with 10,000 partitions",
            Row::ManyPartitions,
            Measure::StartKilledMs,
            1_000.0,
            " ms",
        ),
        absolute("idle memory", Row::Start, Measure::IdleResidentMb, 40.0, " MB"),
        absolute("idle CPU", Row::Start, Measure::IdleCpuPercent, 0.5, " %"),
        absolute("memory of each further partition", Row::ManyPartitions, Measure::PartitionKib, 8.0, " KiB"),
    ]
}

impl Headline {
    pub(crate) fn line(&self, results: &Results) -> Line {
        match self.subject {
            Subject::Ratio { corelog, kafka, aim } => self.against_kafka(results, corelog, kafka, Some(aim)),
            Subject::NoAim { corelog, kafka } => self.against_kafka(results, corelog, kafka, None),
            Subject::Absolute { corelog, kafka, aim, unit } => {
                self.absolute(results, corelog, kafka, (aim, unit))
            }
            Subject::Own { many, one, aim } => self.own(results, many, one, aim),
        }
    }

    fn against_kafka(
        &self,
        results: &Results,
        corelog: Point<'static>,
        kafka: Point<'static>,
        aim: Option<Aim>,
    ) -> Line {
        let ratio = ratio(results, corelog, kafka);
        let direction = aim.unwrap_or(Aim::AtMost(1.0));
        let verdict = match (ratio, aim) {
            (None, _) => without_numbers(results, &[corelog]),
            (Some(ratio), _) if direction.is_lost(ratio.median) => Verdict::Lost,
            (Some(_), None) => Verdict::Better,
            (Some(ratio), Some(aim)) if aim.is_reached(ratio.median) => Verdict::Reached,
            (Some(_), Some(_)) => Verdict::Missed,
        };
        Line {
            what: self.what,
            kafka: median(results, kafka),
            corelog: median(results, corelog),
            ratio: show_ratio(ratio),
            aim: aim.map_or_else(|| "none".to_owned(), |aim| aim.show("×")),
            verdict,
            points: vec![kafka, corelog],
        }
    }

    fn absolute(
        &self,
        results: &Results,
        corelog: Point<'static>,
        kafka: Point<'static>,
        (aim, unit): (Aim, &str),
    ) -> Line {
        let ratio = ratio(results, corelog, kafka);
        let verdict = match results.spread(corelog) {
            None => without_numbers(results, &[corelog]),
            Some(_) if ratio.is_some_and(|ratio| aim.is_lost(ratio.median)) => Verdict::Lost,
            Some(spread) if aim.is_reached(spread.median) => Verdict::Reached,
            Some(_) => Verdict::Missed,
        };
        Line {
            what: self.what,
            kafka: median(results, kafka),
            corelog: median(results, corelog),
            ratio: show_ratio(ratio),
            aim: aim.show(unit),
            verdict,
            points: vec![kafka, corelog],
        }
    }

    fn own(&self, results: &Results, many: Point<'static>, one: Point<'static>, aim: Aim) -> Line {
        let of = |variant| {
            let on = |point: Point<'static>| Point { variant, ..point };
            ratio(results, on(many), on(one))
        };
        let verdict = match of(Variant::CorelogFsync) {
            None => without_numbers(results, &[many, one]),
            Some(spread) if aim.is_reached(spread.median) => Verdict::Reached,
            Some(_) => Verdict::Missed,
        };
        let kafkas = |point: Point<'static>| Point { variant: Variant::Kafka, ..point };
        Line {
            what: self.what,
            kafka: show_ratio(of(Variant::Kafka)),
            corelog: show_ratio(of(Variant::CorelogFsync)),
            ratio: "—".to_owned(),
            aim: aim.show("×"),
            verdict,
            points: vec![kafkas(many), kafkas(one), many, one],
        }
    }
}

fn ratio(results: &Results, ours: Point<'_>, theirs: Point<'_>) -> Option<Spread> {
    Spread::of_ratios(&results.values(ours), &results.values(theirs))
}

fn without_numbers(results: &Results, points: &[Point<'_>]) -> Verdict {
    let failed = |point: &Point<'_>| results.error(point.row, point.variant, point.step).is_some();
    if points.iter().any(failed) { Verdict::Failed } else { Verdict::NotMeasured }
}

fn median(results: &Results, point: Point<'_>) -> String {
    match results.spread(point) {
        Some(spread) => point.measure.show_alone(spread.median),
        None => "—".to_owned(),
    }
}

fn show_ratio(spread: Option<Spread>) -> String {
    match spread {
        Some(spread) if spread.count == 1 => format!("{}×", number(spread.median)),
        Some(spread) => {
            format!("{}× [{}–{}]", number(spread.median), number(spread.min), number(spread.max))
        }
        None => "—".to_owned(),
    }
}
