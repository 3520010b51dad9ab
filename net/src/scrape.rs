//! Reads what a node's `/metrics` says: Prometheus' text format, version 0.0.4, and strictly, so
//! that a test which reads it with this shows that others can read it too. Pure; no sockets.
//!
//! Beyond the format's grammar it insists on what makes metrics usable: HELP and TYPE before every
//! family and once, a family in one place, no series twice, counters that are named `_total` and not
//! negative, histograms whose buckets ascend up to `+Inf` and agree with their count.

use std::collections::{BTreeMap, BTreeSet};

/// A series' labels, by name.
pub type Labels = BTreeMap<String, String>;

/// What kind of family it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by size.
    Histogram,
}

impl Kind {
    /// The word in the text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Counter, Self::Gauge, Self::Histogram].into_iter().find(|kind| kind.name() == name)
    }
}

/// All series of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Its kind.
    pub kind: Kind,
    /// What it says about itself.
    pub help: String,
    /// Counters and gauges.
    pub values: BTreeMap<Labels, f64>,
    /// Histograms.
    pub histograms: BTreeMap<Labels, Buckets>,
}

/// One histogram.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Buckets {
    /// Inclusive upper bounds, ascending; the last one is infinite.
    pub bounds: Vec<f64>,
    /// How many values lie at or below the bound.
    pub below: Vec<u64>,
    /// All values added up.
    pub sum: f64,
    /// How many values there are.
    pub count: u64,
}

/// Families by name.
pub type Families = BTreeMap<String, Family>;

/// The text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ScrapeError {
    /// Counted from 1; of a histogram that is incomplete, the line behind it.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// The families in a text.
///
/// # Errors
/// Where the text is not as the module says.
pub fn parse(text: &str) -> Result<Families, ScrapeError> {
    let mut reader = Reader::default();
    let mut number = 0;
    for line in text.lines() {
        number += 1;
        reader.line(line).map_err(|reason| ScrapeError { line: number, reason })?;
    }
    let end = |reason: String| ScrapeError { line: number + 1, reason };
    if !text.ends_with('\n') {
        return Err(end("the text does not end with a line".to_owned()));
    }
    reader.finish_family().map_err(end)?;
    Ok(reader.families)
}

/// What was read so far.
#[derive(Default)]
struct Reader {
    families: Families,
    /// The family that the next sample belongs to.
    current: Option<Current>,
}

struct Current {
    name: String,
    help: Option<String>,
    family: Option<Family>,
    /// Parts of histograms that were seen: sum, count.
    seen: BTreeMap<Labels, (bool, bool)>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or("HELP without words")?;
            return self.begin(name, help);
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("TYPE without a kind")?;
            return self.set_kind(name, kind);
        }
        if line.starts_with('#') || line.trim().is_empty() {
            return Err("neither HELP, TYPE nor a sample".to_owned());
        }
        self.sample(line)
    }

    fn begin(&mut self, name: &str, help: &str) -> Result<(), String> {
        self.finish_family()?;
        if !is_name(name, true) {
            return Err(format!("'{name}' is no name of a metric"));
        }
        if self.families.contains_key(name) {
            return Err(format!("{name} is in two places"));
        }
        self.current = Some(Current {
            name: name.to_owned(),
            help: Some(help.to_owned()),
            family: None,
            seen: BTreeMap::new(),
        });
        Ok(())
    }

    fn set_kind(&mut self, name: &str, kind: &str) -> Result<(), String> {
        let current = self.current.as_mut().filter(|it| it.name == name);
        let current = current.ok_or_else(|| format!("TYPE of {name} does not follow its HELP"))?;
        let help = current.help.take().ok_or("a second TYPE")?;
        let kind = Kind::from_name(kind).ok_or_else(|| format!("'{kind}' is no kind"))?;
        if (kind == Kind::Counter) != name.ends_with("_total") {
            return Err(format!("counters are named _total, and nothing else is: {name}"));
        }
        current.family = Some(Family { kind, help, values: BTreeMap::new(), histograms: BTreeMap::new() });
        Ok(())
    }

    fn finish_family(&mut self) -> Result<(), String> {
        let Some(Current { name, family, seen, .. }) = self.current.take() else { return Ok(()) };
        let family = family.ok_or_else(|| format!("{name} has no TYPE"))?;
        for (labels, buckets) in &family.histograms {
            if seen.get(labels) != Some(&(true, true)) {
                return Err(format!("{name} {labels:?} lacks its sum or count"));
            }
            buckets.check().map_err(|reason| format!("{name} {labels:?}: {reason}"))?;
        }
        self.families.insert(name, family);
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Result<(), String> {
        let name_end = line.find(['{', ' ']).ok_or("a sample without a value")?;
        let (name, rest) = line.split_at(name_end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (Labels::new(), rest),
        };
        let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
        let value = number(value).ok_or_else(|| format!("'{value}' is no value"))?;
        let current = self.current.as_mut().ok_or("a sample before any HELP")?;
        let family = current.family.as_mut().ok_or("a sample before its TYPE")?;
        let suffix = name.strip_prefix(current.name.as_str());
        match (family.kind, suffix) {
            (Kind::Counter | Kind::Gauge, Some("")) => {
                if family.kind == Kind::Counter && !(value >= 0.0 && value.is_finite()) {
                    return Err(format!("a counter of {value}"));
                }
                let doubled = family.values.insert(labels, value).is_some();
                if doubled { Err("the series was there already".to_owned()) } else { Ok(()) }
            }
            (Kind::Histogram, Some(suffix)) => current.part(suffix, labels, value),
            _ => Err(format!("{name} is no sample of {}", current.name)),
        }
    }
}

impl Current {
    /// One line of a histogram.
    fn part(&mut self, suffix: &str, mut labels: Labels, value: f64) -> Result<(), String> {
        let family = self.family.as_mut().ok_or("a sample before its TYPE")?;
        let bound = labels.remove("le");
        let seen = self.seen.entry(labels.clone()).or_default();
        let buckets = family.histograms.entry(labels).or_default();
        match (suffix, bound) {
            ("_bucket", Some(bound)) => {
                buckets.bounds.push(number(&bound).ok_or_else(|| format!("le is '{bound}'"))?);
                buckets.below.push(whole(value)?);
            }
            ("_sum", None) if !std::mem::replace(&mut seen.0, true) => buckets.sum = value,
            ("_count", None) if !std::mem::replace(&mut seen.1, true) => buckets.count = whole(value)?,
            _ => return Err(format!("{suffix} is no part of a histogram, or there a second time")),
        }
        Ok(())
    }
}

impl Buckets {
    fn check(&self) -> Result<(), String> {
        if !self.bounds.is_sorted_by(|a, b| a < b) || self.bounds.last() != Some(&f64::INFINITY) {
            return Err("bounds do not ascend up to +Inf".to_owned());
        }
        if !self.below.is_sorted() || self.below.last() != Some(&self.count) {
            return Err("buckets do not add up to the count".to_owned());
        }
        if !(self.sum >= 0.0 && self.sum.is_finite()) {
            return Err(format!("the sum is {}", self.sum));
        }
        Ok(())
    }
}

/// Whether it names a metric, or else a label.
fn is_name(text: &str, colons: bool) -> bool {
    let letter = |it: char| it.is_ascii_alphabetic() || it == '_' || (colons && it == ':');
    text.starts_with(letter) && text.chars().all(|it| letter(it) || it.is_ascii_digit())
}

/// A number as Go writes it.
fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        // Rust would also take words such as "infinity".
        _ if text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) => {
            text.parse().ok()
        }
        _ => None,
    }
}

/// A number of things.
fn whole(value: f64) -> Result<u64, String> {
    // Above this, not every whole number is a double.
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && (0.0..=WHOLE_MAX).contains(&value) {
        format!("{value:.0}").parse().map_err(|_| format!("{value} is no count"))
    } else {
        Err(format!("{value} is no count"))
    }
}

/// The labels behind the opening bracket, and what follows the closing one.
fn labels(text: &str) -> Result<(Labels, &str), String> {
    let mut labels = Labels::new();
    let mut names = BTreeSet::new();
    let mut rest = text;
    loop {
        let (name, behind) = rest.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(name, false) || !names.insert(name) {
            return Err(format!("'{name}' is no label, or there twice"));
        }
        let (value, behind) = quoted(behind)?;
        labels.insert(name.to_owned(), value);
        match behind.split_at_checked(1) {
            Some((",", behind)) => rest = behind,
            Some(("}", behind)) => return Ok((labels, behind)),
            _ => return Err(format!("neither , nor }} behind the label {name}")),
        }
    }
}

/// A label's value up to its closing quote, and what follows that.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => value.push(match characters.next() {
                Some((_, '\\')) => '\\',
                Some((_, '"')) => '"',
                Some((_, 'n')) => '\n',
                _ => return Err("an unknown escape".to_owned()),
            }),
            other => value.push(other),
        }
    }
    Err("a label's value does not end".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "\
# HELP a_total Some words.
# TYPE a_total counter
a_total 3
a_total{x=\"1\",y=\"q\\\"\\\\\\n\"} 4
# HELP b A gauge.
# TYPE b gauge
# HELP h_seconds A histogram.
# TYPE h_seconds histogram
h_seconds_bucket{s=\"0\",le=\"0.001\"} 1
h_seconds_bucket{s=\"0\",le=\"0.5\"} 3
h_seconds_bucket{s=\"0\",le=\"+Inf\"} 4
h_seconds_sum{s=\"0\"} 7.25
h_seconds_count{s=\"0\"} 4
";

    #[test]
    fn what_is_well_formed_is_read() {
        let families = parse(GOOD).unwrap();
        let a = &families["a_total"];
        assert_eq!((a.kind, a.help.as_str(), a.values.len()), (Kind::Counter, "Some words.", 2));
        let labels = Labels::from([("x".to_owned(), "1".to_owned()), ("y".to_owned(), "q\"\\\n".to_owned())]);
        assert_eq!((a.values[&Labels::new()], a.values[&labels]), (3.0, 4.0));
        assert_eq!((families["b"].kind, families["b"].values.len()), (Kind::Gauge, 0));
        let labels = Labels::from([("s".to_owned(), "0".to_owned())]);
        let expected =
            Buckets { bounds: vec![0.001, 0.5, f64::INFINITY], below: vec![1, 3, 4], sum: 7.25, count: 4 };
        assert_eq!(families["h_seconds"].histograms[&labels], expected);
    }

    proptest! {
        #[test]
        fn any_text_is_families_or_an_error(
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0..12_usize, "[ -~]{0,6}|\\\\|\"|\n|[0-9e+.-]{1,24}|.{0,3}"), 1..6),
            text in "(# (HELP|TYPE) )?[a-z_:]{0,4}(\\{([a-z]=\".{0,3}\",?){0,2}\\}?)? ?[0-9e+Inf-]{0,9}\n?|.{0,40}",
        ) {
            let _ = parse(&text);
            let mut changed = GOOD.to_owned();
            for (at, len, with) in changes {
                let from = changed.floor_char_boundary(at.index(changed.len() + 1));
                let to = changed.ceil_char_boundary((from + len).min(changed.len()));
                changed.replace_range(from..to, &with);
            }
            for families in parse(&changed).iter().chain(&parse(&format!("{GOOD}{text}"))) {
                for buckets in families.values().flat_map(|family| family.histograms.values()) {
                    prop_assert_eq!(buckets.check(), Ok(()));
                }
            }
        }
    }

    #[test]
    fn each_mistake_is_found() {
        for (right, wrong) in [
            ("# HELP a_total Some words.\n", ""),
            ("# TYPE a_total counter\n", ""),
            ("# TYPE a_total counter", "# TYPE a_total count"),
            ("# TYPE a_total counter", "# TYPE a_total counter\n# TYPE a_total counter"),
            ("# TYPE b gauge", "# TYPE b counter"),
            ("# TYPE b gauge", "# TYPE b gauge\n\n"),
            ("# TYPE b gauge", "# TYPE b gauge\na_total{x=\"3\"} 1"),
            ("# HELP b A gauge.\n# TYPE b gauge", "# HELP a_total Again.\n# TYPE a_total counter"),
            ("a_total 3", "a_total 3\na_total 3"),
            ("a_total 3", "a_total -3"),
            ("a_total 3", "a_total infinity"),
            ("a_total 3", "a_total  3"),
            ("a_total 3", "a_total 3 1700000000"),
            ("a_total 3", "a_total{} 3"),
            ("x=\"1\"", "x=1"),
            ("x=\"1\"", "1x=\"1\""),
            ("x=\"1\"", "y=\"1\""),
            ("x=\"1\",", "x=\"1\";"),
            ("\\n\"", "\\t\""),
            ("le=\"0.5\"} 3", "le=\"0.0005\"} 3"),
            ("le=\"0.5\"} 3", "le=\"0.5\"} 5"),
            ("le=\"0.5\"} 3", "le=\"0.5\"} 1.5"),
            ("le=\"+Inf\"} 4", "le=\"1\"} 4"),
            ("h_seconds_count{s=\"0\"} 4", "h_seconds_count{s=\"0\"} 5"),
            ("h_seconds_count{s=\"0\"} 4\n", ""),
            ("h_seconds_sum{s=\"0\"} 7.25\n", ""),
            ("h_seconds_sum{s=\"0\"} 7.25", "h_seconds_sum{s=\"0\"} -1"),
            ("h_seconds_sum{s=\"0\"} 7.25", "h_seconds_sum{s=\"0\"} 7.25\nh_seconds_sum{s=\"0\"} 7.25"),
            ("h_seconds_count{s=\"0\"} 4\n", "h_seconds_count{s=\"0\"} 4"),
        ] {
            assert!(GOOD.contains(right), "{right}");
            let text = GOOD.replacen(right, wrong, 1);
            assert!(parse(&text).is_err(), "{right} → {wrong}");
        }
    }
}
