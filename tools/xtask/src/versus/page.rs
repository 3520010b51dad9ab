//! The page: Markdown, made from the results alone. It says nothing that they do not hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::headline::{self, Line};
use super::plan::{Row, SAMPLES_MIN, Settings, Variant};
use super::results::{Measure, Point, Results, number};

/// Rounds below which a median is not one.
const ROUNDS_MIN: usize = 5;

/// Makes the page. `notes` is what somebody found out about the rows that were lost.
pub(crate) fn render(results: &Results, notes: Option<&str>) -> String {
    let mut page = Page { results, text: String::new(), footnotes: Vec::new() };
    page.opening();
    let lines: Vec<Line> = headline::all()
        .iter()
        .map(|headline| headline.line(results))
        .filter(|line| line.points.iter().any(|point| results.settings.rows.contains(&point.row)))
        .collect();
    page.headlines(&lines);
    page.plots();
    for row in Row::ALL.into_iter().filter(|row| results.settings.rows.contains(row)) {
        page.row(row);
    }
    page.losses(&lines, notes);
    page.machine();
    page.method();
    page.commands();
    page.finish()
}

struct Page<'a> {
    results: &'a Results,
    text: String,
    footnotes: Vec<String>,
}

impl Page<'_> {
    fn say(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn heading(&mut self, title: &str) {
        self.say(&format!("\n## {title}\n"));
    }

    fn table(&mut self, heads: &[&str], rows: &[Vec<String>]) {
        let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
        let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
        self.say(&line(&heads));
        self.say(&line(&vec!["---".to_owned(); heads.len()]));
        for row in rows {
            let escaped: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            self.say(&line(&escaped));
        }
    }

    /// The mark of a footnote, which is made when nobody has said the same yet.
    fn footnote(&mut self, text: String) -> String {
        let index = self.footnotes.iter().position(|known| *known == text).unwrap_or_else(|| {
            self.footnotes.push(text);
            self.footnotes.len() - 1
        });
        format!("[^{}]", index + 1)
    }

    /// Footnotes that a value needs.
    fn remarks(&mut self, point: Point<'_>) -> String {
        let Point { row, variant, step, measure } = point;
        let mut marks = String::new();
        let client_bound = self.results.client_bound(row, variant, step).map(str::to_owned);
        if let Some(why) = client_bound.filter(|_| measure.depends_on_client()) {
            marks.push_str(&self.footnote(format!("client-bound: the number is the client's ({why}).")));
        }
        if let Some(error) = self.results.error(row, variant, step).map(str::to_owned) {
            let cells = self.results.cells(row, variant, step);
            let failed = cells.iter().filter(|(_, cell)| cell.error.is_some()).count();
            let all = cells.len();
            marks.push_str(&self.footnote(format!("failed in {failed} of {all} rounds: {error}")));
        }
        marks
    }

    fn opening(&mut self) {
        let results = self.results;
        self.say("# Corelog and Apache Kafka, side by side\n");
        let version =
            |name: &str| results.versions.get(name).cloned().unwrap_or_else(|| "unknown".to_owned());
        let kept = results.kept().count();
        let discarded = results.rounds.len() - kept;
        let core = results.settings.server_core;
        let client = results.settings.client_core;
        self.say(&format!(
            "Measured on {} with Apache Kafka {} and Corelog {}, on one machine: the broker has core {core} and \
             nothing else, the client has core {client}. The same client drives both. Made by `cargo xtask versus`; \
             every number of every round is in [{date}-versus.json]({date}-versus.json).",
            results.date,
            version("Apache Kafka"),
            version("Corelog"),
            date = results.date,
        ));
        self.say(&format!(
            "\nCells are medians of {kept} interleaved rounds with the smallest and the largest value in brackets; \
             {discarded} rounds before them were discarded. Ratios are medians of the rounds' own ratios."
        ));
        if results.settings.quick {
            self.say("\n**This was a quick run, to see that everything works: its times are too short to compare.**");
        }
        if kept < ROUNDS_MIN {
            self.say(&format!("\n**Only {kept} rounds were kept: too few to rely on.**"));
        }
        if results.rounds.len() < usize::try_from(results.settings.rounds).unwrap_or(usize::MAX) {
            self.say(&format!("\n**Not complete: {} rounds were asked for.**", results.settings.rounds));
        }
        self.say("");
        for variant in Variant::ALL {
            self.say(&format!("- **{}**: {}", variant.name(), variant.about()));
        }
    }

    fn headlines(&mut self, lines: &[Line]) {
        self.heading("Against the aims");
        self.say(
            "The aims are those of the design. \"Missed\" is not as good as it was to be; \"lost\" is worse than \
             Kafka. A ratio is Corelog's value in units of Kafka's.\n",
        );
        let mut rows = Vec::new();
        for line in lines {
            let marks = |page: &mut Self, is_kafka: bool| -> String {
                let points = line.points.iter().filter(|point| point.variant.is_kafka() == is_kafka);
                let marks: BTreeSet<String> = points.map(|point| page.remarks(*point)).collect();
                marks.into_iter().collect()
            };
            let (kafkas, ours) = (marks(self, true), marks(self, false));
            rows.push(vec![
                line.what.to_owned(),
                format!("{}{kafkas}", line.kafka),
                format!("{}{ours}", line.corelog),
                line.ratio.clone(),
                line.aim.clone(),
                line.verdict.show().to_owned(),
            ]);
        }
        self.table(&["What", "Kafka", "Corelog, durable", "Ratio", "Aim", ""], &rows);
    }

    fn plots(&mut self) {
        for plot in &self.results.plots {
            self.text.push_str(&format!("\n![{}]({})\n", plot.title, plot.file));
        }
    }

    fn row(&mut self, row: Row) {
        self.heading(&format!("{}. {}", row.number(), row.title()));
        self.say(row.about());
        if row.needs_knee() {
            match &self.results.knee {
                Some(knee) => {
                    let rate = number(knee.records_per_s);
                    self.say(&format!("\nKafka's knee: {rate} records/s, found by {}.", knee.found_by));
                }
                None => self.say("\nKafka's knee was not found."),
            }
        }
        self.say("");
        let results = self.results;
        let steps = results.steps(row);
        if steps.is_empty() {
            self.say("Not measured.");
            return;
        }
        let takes_part =
            |variant: &Variant| steps.iter().any(|step| !results.cells(row, *variant, step).is_empty());
        let variants: Vec<Variant> = Variant::ALL.into_iter().filter(takes_part).collect();
        let mut rows = Vec::new();
        for step in steps {
            rows.extend(self.step(row, step, &variants));
        }
        let mut heads = vec![""];
        heads.extend(variants.iter().map(|variant| variant.name()));
        self.table(&heads, &rows);
    }

    /// The lines of one step: a measure each.
    fn step(&mut self, row: Row, step: &str, variants: &[Variant]) -> Vec<Vec<String>> {
        let results = self.results;
        let cells = || variants.iter().flat_map(|variant| results.cells(row, *variant, step));
        // How much goes through is given where the rate is.
        let is_given = |measure: &Measure| {
            use Measure::{MbPerS, MbWritten, ServerCpuSPerGb};
            row == Row::Latency && [MbPerS, MbWritten, ServerCpuSPerGb].contains(measure)
        };
        let measures: BTreeSet<Measure> = cells()
            .flat_map(|(_, cell)| cell.values.keys().copied())
            .filter(|measure| !is_given(measure))
            .collect();
        let label = |name: &str| match step {
            "" => name.to_owned(),
            step => format!("{step}: {name}"),
        };
        let mut lines = Vec::new();
        for measure in measures {
            let mut line = vec![label(measure.label())];
            for variant in variants {
                let point = Point { row, variant: *variant, step, measure };
                let value = match results.spread(point) {
                    Some(spread) if spread.count == 1 => measure.show(spread.median),
                    Some(spread) => format!(
                        "{} [{}–{}]",
                        measure.show(spread.median),
                        measure.show(spread.min),
                        measure.show(spread.max)
                    ),
                    None => "—".to_owned(),
                };
                line.push(format!("{value}{}", self.remarks(point)));
            }
            lines.push(line);
        }
        // Where everybody failed there is no measure to hang the reasons on.
        if lines.is_empty() {
            let mut line = vec![label("failed")];
            for variant in variants {
                let point = Point { row, variant: *variant, step, measure: Measure::Errors };
                line.push(format!("—{}", self.remarks(point)));
            }
            lines.push(line);
        }
        lines
    }

    fn losses(&mut self, lines: &[Line], notes: Option<&str>) {
        self.heading("What we lost");
        let bad: Vec<&Line> = lines.iter().filter(|line| line.verdict.is_bad()).collect();
        if bad.is_empty() {
            self.say("No row of the table of aims was lost or missed.");
        }
        for line in bad {
            let ratio = if line.ratio == "—" { String::new() } else { format!(", ratio {}", line.ratio) };
            self.say(&format!(
                "- {}: {}. Kafka {}, Corelog {}{ratio}, aim {}.",
                line.what,
                line.verdict.show(),
                line.kafka,
                line.corelog,
                line.aim
            ));
        }
        if let Some(notes) = notes {
            self.say("");
            self.say(notes.trim_end());
        }
    }

    fn machine(&mut self) {
        self.heading("Machine and versions");
        let machine = &self.results.machine;
        let mut rows = vec![
            vec!["processor".to_owned(), format!("{}, {} cores", machine.cpu, machine.cores)],
            vec![
                "memory".to_owned(),
                format!("{} MB", number((crate::machine::as_f64(machine.memory_bytes) / 1e6).round())),
            ],
            vec!["kernel".to_owned(), machine.kernel.clone()],
            vec!["file system of the data".to_owned(), machine.file_system.clone()],
            vec!["device".to_owned(), machine.device.clone()],
        ];
        rows.extend(machine.settings.iter().map(|(name, value)| vec![name.clone(), value.clone()]));
        let versions = self.results.versions.iter();
        rows.extend(versions.map(|(name, value)| vec![name.clone(), value.clone()]));
        let steal = self.results.kept().map(|round| round.steal_percent).fold(0.0, f64::max);
        rows.push(vec!["time withheld by the host, worst round".to_owned(), format!("{steal:.2} %")]);
        self.table(&["", ""], &rows);
    }

    fn method(&mut self) {
        self.heading("How it was done");
        let Settings { broker_warm_up_s, warm_up_s, duration_s, throughput_s, .. } = self.results.settings;
        self.say(&format!(
            "- A round runs every variant once, in the order above, each on a fresh broker with an empty data \
             directory; old data are removed. Rows 5 and 8 have brokers of their own.\n\
             - Every broker is warmed up for {broker_warm_up_s} s before its first row, every load for {warm_up_s} s \
             before it is measured. Loads are measured for {duration_s} s, throughput for {throughput_s} s, open loops \
             longer where a p99.9 needs it for its {} samples. Between rows the machine's dirty pages are written \
             (`sync`).\n\
             - Server CPU is user and system time of the broker's process from `/proc/<pid>/stat`, with all of its \
             threads; io_uring's kernel workers are threads of the process. Work that the kernel does later for \
             nobody in particular, such as writing dirty pages, is in nobody's number.\n\
             - Memory is resident memory at the end of the row, page cache not included.\n\
             - Apache Kafka runs with the settings of its `config/server.properties` as far as they differ from what \
             is built in, with the JVM flags of its own scripts, and logs warnings only.",
            number(SAMPLES_MIN),
        ));
        if !self.results.kafka_config.is_empty() {
            self.say("\nApache Kafka's `server.properties`:\n");
            self.say(&format!("```properties\n{}\n```", self.results.kafka_config.trim_end()));
        }
    }

    fn commands(&mut self) {
        self.heading("Commands");
        self.say(
            "As they were run in the root of the work tree, from the last round; `$PID` is the broker's process.\n",
        );
        let mut text = String::new();
        for (command, what) in grouped(&self.results.commands) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# {}\n{command}", what.join("; "));
        }
        self.say(&format!("```sh\n{}\n```", text.trim_end()));
    }

    fn finish(mut self) -> String {
        for (index, footnote) in std::mem::take(&mut self.footnotes).iter().enumerate() {
            self.say(&format!("\n[^{}]: {footnote}", index + 1));
        }
        self.text
    }
}

/// Commands in their order, each with everything that it was typed for.
fn grouped(commands: &BTreeMap<String, String>) -> Vec<(&str, Vec<&str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for (what, command) in commands {
        match groups.iter_mut().find(|(known, _)| known == command) {
            Some((_, group)) => group.push(what),
            None => groups.push((command, vec![what])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::super::plan::step;
    use super::super::results::{Cell, Knee, Plot, Round};
    use super::*;

    /// Throughput and latency in three rounds, the first of which does not count.
    fn results(our_p99: f64) -> Results {
        let settings = Settings::new(3, vec![Row::Throughput, Row::Latency], false);
        let mut results = Results::new("2026-01-02".into(), settings);
        results.knee = Some(Knee { records_per_s: 50_000.0, found_by: "a sweep".into() });
        for number in 1..=3_u32 {
            let cell = |row, variant, step: &str, values: &[(Measure, f64)]| Cell {
                values: values.iter().copied().collect(),
                ..Cell::new(row, variant, step)
            };
            let rate = f64::from(number) * 100_000.0;
            let mut ours = cell(
                Row::Throughput,
                Variant::CorelogFsync,
                step::ONLY,
                &[(Measure::RecordsPerS, rate * 4.0)],
            );
            ours.client_bound = Some("its core is busy".into());
            let half = step::HALF_OF_KNEE;
            let cells = vec![
                cell(Row::Throughput, Variant::Kafka, step::ONLY, &[(Measure::RecordsPerS, rate)]),
                ours,
                cell(Row::Latency, Variant::Kafka, half, &[(Measure::ResponseP99Us, 1_000.0)]),
                cell(Row::Latency, Variant::CorelogFsync, half, &[(Measure::ResponseP99Us, our_p99)]),
            ];
            results.rounds.push(Round { number, started: String::new(), steal_percent: 0.5, cells });
        }
        results
    }

    fn line<'a>(page: &'a str, words: &str) -> &'a str {
        page.lines().find(|line| line.starts_with('|') && line.contains(words)).unwrap_or_default()
    }

    #[test]
    fn a_row_that_reached_its_aim_says_so() {
        let page = render(&results(250.0), None);
        assert_eq!(
            line(&page, "durable produce, batched"),
            "| durable produce, batched, 1 KiB records, against Kafka's default | 250,000/s | 1,000,000/s[^1] | \
             4.00× [4.00–4.00] | ≥ 3× | reached |"
        );
        assert!(line(&page, "p99 response at half").ends_with("| 0.250× [0.250–0.250] | ≤ 1/3 | reached |"));
        assert_eq!(
            line(&page, "| records/s"),
            "| records/s | 250,000 [200,000–300,000] | 1,000,000 [800,000–1,200,000][^1] |"
        );
    }

    #[test]
    fn rows_that_were_lost_or_missed_are_marked_and_listed() {
        let page = render(&results(1_500.0), None);
        assert!(line(&page, "p99 response at half").ends_with("| **lost** |"));
        assert!(page.contains("- p99 response at half of Kafka's knee, durable, against Kafka's default: **lost**. Kafka 1.00 ms, Corelog 1.50 ms"));
        let page = render(&results(500.0), None);
        assert!(line(&page, "p99 response at half").ends_with("| **missed** |"));
        assert!(!page.contains("No row of the table"));
        assert!(render(&results(100.0), None).contains("No row of the table"));
    }

    #[test]
    fn a_client_that_was_the_limit_is_a_footnote() {
        let page = render(&results(100.0), None);
        assert!(page.contains("[^1]: client-bound: the number is the client's (its core is busy)."));
    }

    #[test]
    fn what_failed_is_lost_and_says_why() {
        let mut results = results(100.0);
        for cell in results.rounds.iter_mut().flat_map(|round| &mut round.cells) {
            if cell.variant == Variant::CorelogFsync && cell.row == Row::Throughput {
                cell.values.clear();
                cell.client_bound = None;
                cell.error = Some("the broker | is gone".into());
            }
        }
        let page = render(&results, None);
        assert!(line(&page, "durable produce, batched").ends_with("| **lost** (failed) |"), "{page}");
        assert!(page.contains("[^1]: failed in 2 of 2 rounds: the broker | is gone"));
    }

    #[test]
    fn what_was_not_measured_is_not_claimed() {
        let page = render(&results(100.0), None);
        assert!(line(&page, "p99.9 response").ends_with("| not measured |"));
        assert!(!page.contains("idle memory"));
        assert!(!page.contains("!["));
        assert!(page.contains("Only 2 rounds were kept"));
    }

    #[test]
    fn plots_and_notes_are_on_the_page() {
        let mut results = results(500.0);
        results.plots.push(Plot { file: "a.svg".into(), title: "Latency".into() });
        let page = render(&results, Some("The profile says: fsync.\n"));
        assert!(page.contains("\n![Latency](a.svg)\n"));
        assert!(page.contains("\nThe profile says: fsync.\n"));
    }
}
