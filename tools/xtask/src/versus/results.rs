//! The results as data: the file beside the page, from which the page is made.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::plan::{Row, Settings, Variant};
use super::statistics::Spread;
use crate::machine::Machine;

/// Version of the file's form.
const FORMAT: u32 = 1;

/// Everything that the page says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    format: u32,
    /// The day of the first round.
    pub(crate) date: String,
    pub(crate) machine: Machine,
    /// Of everything that took part, by its name.
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) settings: Settings,
    pub(crate) knee: Option<Knee>,
    /// Apache Kafka's `server.properties`.
    pub(crate) kafka_config: String,
    /// What was typed, by what it was for.
    pub(crate) commands: BTreeMap<String, String>,
    /// Pictures beside this file.
    pub(crate) plots: Vec<Plot>,
    pub(crate) rounds: Vec<Round>,
}

/// Where Apache Kafka begins to fall behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Knee {
    pub(crate) records_per_s: f64,
    /// How it was found, and what ended the search.
    pub(crate) found_by: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plot {
    pub(crate) file: String,
    pub(crate) title: String,
}

/// Every variant once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Round {
    /// From 1.
    pub(crate) number: u32,
    /// RFC 3339, UTC.
    pub(crate) started: String,
    /// Share of the machine's time that other guests of its host took, in per cent.
    pub(crate) steal_percent: f64,
    pub(crate) cells: Vec<Cell>,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) row: Row,
    pub(crate) variant: Variant,
    /// Which part of the row; empty when it has only one.
    pub(crate) step: String,
    pub(crate) values: BTreeMap<Measure, f64>,
    /// Why the load generator and not the broker was the limit, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client_bound: Option<String>,
    /// Why there are no values, or not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

impl Cell {
    pub(crate) fn new(row: Row, variant: Variant, step: &str) -> Self {
        Self { row, variant, step: step.to_owned(), values: BTreeMap::new(), client_bound: None, error: None }
    }
}

/// What a value says, with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    RecordsPerS,
    MbPerS,
    MbWritten,
    ResponseP50Us,
    ResponseP99Us,
    ResponseP999Us,
    EndToEndP50Us,
    EndToEndP99Us,
    EndToEndP999Us,
    Samples,
    Errors,
    ServerCpuUsPerRecord,
    ServerCpuSPerGb,
    ServerResidentMb,
    ClientCpuPercent,
    StartEmptyMs,
    StartUsedMs,
    StartKilledMs,
    IdleCpuPercent,
    IdleResidentMb,
    CreateMs,
    PartitionKib,
    ToolMeanMs,
    ToolP50Ms,
    ToolP95Ms,
    ToolP99Ms,
    ToolP999Ms,
    ToolMaxMs,
}

impl Measure {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::RecordsPerS => "records/s",
            Self::MbPerS => "MB/s",
            Self::MbWritten => "MB in the measured phase",
            Self::ResponseP50Us => "response p50",
            Self::ResponseP99Us => "response p99",
            Self::ResponseP999Us => "response p99.9",
            Self::EndToEndP50Us => "end to end p50",
            Self::EndToEndP99Us => "end to end p99",
            Self::EndToEndP999Us => "end to end p99.9",
            Self::Samples => "samples",
            Self::Errors => "errors and time-outs",
            Self::ServerCpuUsPerRecord => "server CPU, µs a record",
            Self::ServerCpuSPerGb => "server CPU, s a GB",
            Self::ServerResidentMb => "server memory, MB resident",
            Self::ClientCpuPercent => "client CPU, % of its core",
            Self::StartEmptyMs => "first record, empty directory",
            Self::StartUsedMs => "first record, used directory",
            Self::StartKilledMs => "first record, killed",
            Self::IdleCpuPercent => "idle CPU, % of a core",
            Self::IdleResidentMb => "idle memory, MB resident",
            Self::CreateMs => "creating the topics",
            Self::PartitionKib => "memory of each partition, KiB",
            Self::ToolMeanMs => "mean latency",
            Self::ToolP50Ms => "p50 latency",
            Self::ToolP95Ms => "p95 latency",
            Self::ToolP99Ms => "p99 latency",
            Self::ToolP999Ms => "p99.9 latency",
            Self::ToolMaxMs => "largest latency",
        }
    }

    /// Whether a load generator that is the bottleneck changes it.
    pub(crate) fn depends_on_client(self) -> bool {
        matches!(
            self,
            Self::RecordsPerS
                | Self::MbPerS
                | Self::MbWritten
                | Self::ResponseP50Us
                | Self::ResponseP99Us
                | Self::ResponseP999Us
                | Self::EndToEndP50Us
                | Self::EndToEndP99Us
                | Self::EndToEndP999Us
        )
    }

    /// Its value, with a unit in any case.
    pub(crate) fn show_alone(self, value: f64) -> String {
        let unit = match self {
            Self::RecordsPerS => "/s",
            Self::MbPerS => " MB/s",
            Self::MbWritten | Self::ServerResidentMb | Self::IdleResidentMb => " MB",
            Self::ServerCpuUsPerRecord => " µs",
            Self::ServerCpuSPerGb => " s",
            Self::ClientCpuPercent | Self::IdleCpuPercent => " %",
            Self::PartitionKib => " KiB",
            _ => "",
        };
        format!("{}{unit}", self.show(value))
    }

    /// Its value, with the unit where the label has none.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::ResponseP50Us
            | Self::ResponseP99Us
            | Self::ResponseP999Us
            | Self::EndToEndP50Us
            | Self::EndToEndP99Us
            | Self::EndToEndP999Us => time(value / 1e3),
            Self::StartEmptyMs
            | Self::StartUsedMs
            | Self::StartKilledMs
            | Self::CreateMs
            | Self::ToolMeanMs
            | Self::ToolP50Ms
            | Self::ToolP95Ms
            | Self::ToolP99Ms
            | Self::ToolP999Ms
            | Self::ToolMaxMs => time(value),
            _ => number(value),
        }
    }
}

/// A time in ms, in the unit that suits it.
fn time(ms: f64) -> String {
    if ms >= 10_000.0 {
        format!("{} s", number(ms / 1e3))
    } else if ms >= 1.0 {
        format!("{} ms", number(ms))
    } else {
        format!("{} µs", number(ms * 1e3))
    }
}

/// Three significant digits, or all before the point, in groups of three.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        // Where rounding would add a digit, one less is shown.
        small if small < 0.9995 => 3,
        small if small < 9.995 => 2,
        small if small < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let whole = text.split('.').next().map_or(0, str::len);
    let mut grouped = String::new();
    for (index, letter) in text.char_indices() {
        if index > 0 && index < whole && (whole - index) % 3 == 0 && !text[..index].ends_with('-') {
            grouped.push(',');
        }
        grouped.push(letter);
    }
    grouped
}

/// One value of the comparison, over all rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point<'a> {
    pub(crate) row: Row,
    pub(crate) variant: Variant,
    pub(crate) step: &'a str,
    pub(crate) measure: Measure,
}

impl Results {
    pub(crate) fn new(date: String, settings: Settings) -> Self {
        Self {
            format: FORMAT,
            date,
            machine: Machine::default(),
            versions: BTreeMap::new(),
            settings,
            knee: None,
            kafka_config: String::new(),
            commands: BTreeMap::new(),
            plots: Vec::new(),
            rounds: Vec::new(),
        }
    }

    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let results: Self =
            serde_json::from_str(&text).with_context(|| format!("{} holds no results", path.display()))?;
        ensure!(results.format == FORMAT, "{} has another form", path.display());
        Ok(results)
    }

    /// Replaces the file in one step: a crash leaves the old one.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let new = path.with_extension("json.new");
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(&new, text).with_context(|| format!("writing {}", new.display()))?;
        fs::rename(&new, path).with_context(|| format!("writing {}", path.display()))
    }

    /// The rounds that count.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &Round> {
        self.rounds.iter().filter(|round| self.settings.is_kept(round.number))
    }

    /// The cells that count, with their rounds' numbers.
    pub(crate) fn cells(&self, row: Row, variant: Variant, step: &str) -> Vec<(u32, &Cell)> {
        let mut found = Vec::new();
        for round in self.kept() {
            let is_of = |cell: &&Cell| cell.row == row && cell.variant == variant && cell.step == step;
            found.extend(round.cells.iter().filter(is_of).map(|cell| (round.number, cell)));
        }
        found
    }

    /// What was measured of it, by round.
    pub(crate) fn values(&self, point: Point<'_>) -> Vec<(u32, f64)> {
        self.cells(point.row, point.variant, point.step)
            .into_iter()
            .filter_map(|(round, cell)| Some((round, *cell.values.get(&point.measure)?)))
            .collect()
    }

    pub(crate) fn spread(&self, point: Point<'_>) -> Option<Spread> {
        Spread::of(self.values(point).into_iter().map(|(_, value)| value))
    }

    /// The steps of a row, in the order in which they ran.
    pub(crate) fn steps(&self, row: Row) -> Vec<&str> {
        let mut steps: Vec<&str> = Vec::new();
        for cell in self.kept().flat_map(|round| &round.cells).filter(|cell| cell.row == row) {
            if !steps.contains(&cell.step.as_str()) {
                steps.push(&cell.step);
            }
        }
        steps
    }

    /// Why the load generator was the limit in a round of this cell, if it was.
    pub(crate) fn client_bound(&self, row: Row, variant: Variant, step: &str) -> Option<&str> {
        self.cells(row, variant, step).into_iter().find_map(|(_, cell)| cell.client_bound.as_deref())
    }

    /// Why a round of this cell failed, if one did.
    pub(crate) fn error(&self, row: Row, variant: Variant, step: &str) -> Option<&str> {
        self.cells(row, variant, step).into_iter().find_map(|(_, cell)| cell.error.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_groups() {
        let shown: Vec<String> =
            [0.0, 0.1234, 0.9999, 1.234, 12.34, 123.4, 1234.0, 228_123.4, -1234.0].map(number).to_vec();
        assert_eq!(shown, ["0", "0.123", "1.00", "1.23", "12.3", "123", "1,234", "228,123", "-1,234"]);
        assert_eq!(Measure::ResponseP50Us.show(134.2), "134 µs");
        assert_eq!(Measure::ResponseP50Us.show(3912.0), "3.91 ms");
        assert_eq!(Measure::StartEmptyMs.show(23_000.0), "23.0 s");
    }

    #[test]
    fn a_file_is_read_as_it_was_written() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("results.json");
        let mut results = Results::new("2026-01-02".into(), Settings::new(3, Row::ALL.to_vec(), true));
        let mut cell = Cell::new(Row::Latency, Variant::Kafka, "25% of knee");
        cell.values.insert(Measure::ResponseP999Us, 1.5);
        results.rounds.push(Round {
            number: 1,
            started: "now".into(),
            steal_percent: 0.0,
            cells: vec![cell],
        });
        results.save(&path)?;
        assert_eq!(Results::load(&path)?, results);
        assert!(fs::read_to_string(&path)?.contains("\"response_p999_us\": 1.5"));
        fs::write(&path, "{}")?;
        assert!(Results::load(&path).is_err());
        Ok(())
    }

    #[test]
    fn what_the_discarded_round_measured_is_not_used() {
        let mut results = Results::new("2026-01-02".into(), Settings::new(3, Row::ALL.to_vec(), true));
        for (number, value) in [(1, 100.0), (2, 4.0), (3, 2.0)] {
            let mut cell = Cell::new(Row::Single, Variant::Kafka, "");
            cell.values.insert(Measure::RecordsPerS, value);
            let cells = vec![cell];
            results.rounds.push(Round { number, started: String::new(), steal_percent: 0.0, cells });
        }
        let point =
            Point { row: Row::Single, variant: Variant::Kafka, step: "", measure: Measure::RecordsPerS };
        assert_eq!(results.values(point), [(2, 4.0), (3, 2.0)]);
        assert_eq!(results.spread(point).map(|it| it.median), Some(3.0));
    }
}
