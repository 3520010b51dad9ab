//! What happened between two readings of a node's metrics. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use corelog_net::scrape::{Buckets, Families, Labels};

/// The stages, in the order in which a produce comes by; then those of a fetch, and what goes on
/// behind both.
const STAGES: [&str; 8] =
    ["queue", "forward", "park", "journal_write", "journal_sync", "reply", "segment_read", "segment_flush"];

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Whole requests of one API.
    Request,
    /// One stage of their way.
    Stage,
    /// Commits of the journal.
    Commit,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Stage => "stage",
            Self::Commit => "commit",
        }
    }
}

/// One histogram's difference.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) kind: Kind,
    /// An API, a stage, or what of a commit is measured.
    pub(super) name: String,
    /// `None` for all of them together.
    pub(super) shard: Option<u64>,
    pub(super) count: u64,
    pub(super) rate_per_s: f64,
    /// In seconds, entries or bytes; none when nothing happened.
    pub(super) values: Option<Values>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Values {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// The differences by kind, name and shard, all shards together first. APIs that nobody used
/// meanwhile are left out.
pub(super) fn rows(before: &Families, after: &Families, interval: Duration) -> Result<Vec<Row>> {
    let difference = |family: &str, labels: &[&str]| difference(before, after, family, labels);
    let requests = difference("corelog_net_request_duration_seconds", &["api"])?;
    let mut stages = difference("corelog_stage_duration_seconds", &["stage"])?;
    let mut rows = Vec::new();
    for (name, shards) in requests {
        if shards.values().any(|buckets| buckets.count > 0) {
            of_shards(&mut rows, Kind::Request, &name, &shards, interval);
        }
    }
    for name in STAGES {
        let shards = stages.remove(name).with_context(|| format!("the node knows no stage '{name}'"))?;
        of_shards(&mut rows, Kind::Stage, name, &shards, interval);
    }
    for (name, family) in
        [("entries", "corelog_journal_commit_entries"), ("bytes", "corelog_journal_commit_bytes")]
    {
        for shards in difference(family, &[])?.values() {
            of_shards(&mut rows, Kind::Commit, name, shards, interval);
        }
    }
    Ok(rows)
}

fn of_shards(
    rows: &mut Vec<Row>,
    kind: Kind,
    name: &str,
    shards: &BTreeMap<u64, Buckets>,
    interval: Duration,
) {
    let mut row = |shard: Option<u64>, buckets: &Buckets| {
        rows.push(Row {
            kind,
            name: name.to_owned(),
            shard,
            count: buckets.count,
            rate_per_s: float(buckets.count) / interval.as_secs_f64(),
            values: values(buckets),
        });
    };
    let mut all = Buckets::default();
    for buckets in shards.values() {
        add(&mut all, buckets);
    }
    row(None, &all);
    if shards.len() > 1 {
        for (shard, buckets) in shards {
            row(Some(*shard), buckets);
        }
    }
}

/// By the values of `labels`, joined, and by shard. What was not there before began at zero.
fn difference(
    before: &Families,
    after: &Families,
    family: &str,
    labels: &[&str],
) -> Result<BTreeMap<String, BTreeMap<u64, Buckets>>> {
    let missing = || format!("there is no {family}: is that a Corelog node of this version?");
    let after = &after.get(family).with_context(missing)?.histograms;
    let before = &before.get(family).with_context(missing)?.histograms;
    let mut grouped: BTreeMap<String, BTreeMap<u64, Buckets>> = BTreeMap::new();
    for (series, buckets) in after {
        let value = |label: &str| series.get(label).with_context(|| format!("{family} has no {label}"));
        let shard = value("shard")?.parse().context("a shard is no number")?;
        let names = labels.iter().map(|label| value(label).cloned()).collect::<Result<Vec<_>>>()?;
        let buckets = subtract(buckets, before.get(series), series)?;
        grouped.entry(names.join(" ")).or_default().insert(shard, buckets);
    }
    Ok(grouped)
}

fn subtract(after: &Buckets, before: Option<&Buckets>, series: &Labels) -> Result<Buckets> {
    let Some(before) = before else { return Ok(after.clone()) };
    let restarted = || format!("the node was started again meanwhile ({series:?} became fewer)");
    ensure!(after.bounds == before.bounds, restarted());
    let below = after.below.iter().zip(&before.below);
    let below = below.map(|(after, before)| after.checked_sub(*before)).collect::<Option<Vec<_>>>();
    Ok(Buckets {
        bounds: after.bounds.clone(),
        below: below.with_context(restarted)?,
        sum: (after.sum - before.sum).max(0.0),
        count: after.count.checked_sub(before.count).with_context(restarted)?,
    })
}

fn add(to: &mut Buckets, more: &Buckets) {
    if to.bounds.is_empty() {
        *to = more.clone();
        return;
    }
    for (to, more) in to.below.iter_mut().zip(&more.below) {
        *to = to.saturating_add(*more);
    }
    to.sum += more.sum;
    to.count = to.count.saturating_add(more.count);
}

fn values(buckets: &Buckets) -> Option<Values> {
    (buckets.count > 0).then(|| Values {
        mean: buckets.sum / float(buckets.count),
        p50: quantile(buckets, 0.5),
        p99: quantile(buckets, 0.99),
    })
}

/// Between two bounds values are taken to be spread evenly; beyond the last finite one, at it.
fn quantile(buckets: &Buckets, share: f64) -> f64 {
    let rank = share * float(buckets.count);
    let (mut lower, mut below_lower) = (0.0, 0);
    for (bound, below) in buckets.bounds.iter().zip(&buckets.below) {
        if float(*below) >= rank && *below > below_lower {
            if bound.is_infinite() {
                return lower;
            }
            let within = (rank - float(below_lower)) / float(*below - below_lower);
            return lower + (bound - lower) * within.clamp(0.0, 1.0);
        }
        (lower, below_lower) = (*bound, *below);
    }
    lower
}

#[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 are out of reach")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use corelog_net::scrape::parse;
    use proptest::prelude::*;

    use super::*;

    fn histogram(name: &str, labels: &str, below: [u64; 4], sum: f64) -> String {
        let comma = if labels.is_empty() { "" } else { "," };
        let bounds = ["0.001", "0.002", "0.005", "+Inf"];
        let mut text = String::new();
        for (bound, below) in bounds.iter().zip(below) {
            text.push_str(&format!("{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}\n"));
        }
        text + &format!("{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {}\n", below[3])
    }

    /// A node of two shards, of which the first synced so often.
    fn node(syncs: [u64; 4], sum: f64, is_fetched: bool) -> Families {
        parse(&metrics(syncs, sum, is_fetched)).unwrap()
    }

    fn metrics(syncs: [u64; 4], sum: f64, is_fetched: bool) -> String {
        let family = |name: &str| format!("# HELP {name} words\n# TYPE {name} histogram\n");
        let mut text = family("corelog_net_request_duration_seconds");
        for api in if is_fetched { &["Fetch", "Produce"][..] } else { &["Produce"][..] } {
            for shard in 0..2 {
                let labels = format!("shard=\"{shard}\",api=\"{api}\"");
                let below = if is_fetched && *api == "Fetch" { [1, 1, 1, 1] } else { [7; 4] };
                text.push_str(&histogram("corelog_net_request_duration_seconds", &labels, below, 0.001));
            }
        }
        text.push_str(&family("corelog_stage_duration_seconds"));
        for stage in STAGES {
            for shard in 0..2 {
                let labels = format!("shard=\"{shard}\",stage=\"{stage}\"");
                let is_sync = stage == "journal_sync" && shard == 0;
                let (below, sum) = if is_sync { (syncs, sum) } else { ([1; 4], 0.0005) };
                text.push_str(&histogram("corelog_stage_duration_seconds", &labels, below, sum));
            }
        }
        for name in ["corelog_journal_commit_entries", "corelog_journal_commit_bytes"] {
            text.push_str(&family(name));
            for shard in 0..2 {
                text.push_str(&histogram(name, &format!("shard=\"{shard}\""), [0, 0, 0, 3], 30.0));
            }
        }
        text
    }

    fn find(rows: &[Row], name: &str, shard: Option<u64>) -> Row {
        rows.iter().find(|row| row.name == name && row.shard == shard).unwrap().clone()
    }

    #[test]
    fn only_what_happened_in_between_counts() {
        let before = node([10, 10, 10, 10], 0.005, false);
        let after = node([10, 110, 110, 110], 0.155, true);
        let rows = rows(&before, &after, Duration::from_secs(2)).unwrap();
        let sync = find(&rows, "journal_sync", Some(0));
        assert_eq!((sync.kind, sync.count, sync.rate_per_s), (Kind::Stage, 100, 50.0));
        let values = sync.values.unwrap();
        assert!((values.mean - 0.0015).abs() < 1e-9 && (values.p50 - 0.0015).abs() < 1e-9, "{values:?}");
        assert!((values.p99 - 0.001_99).abs() < 1e-9, "{values:?}");
        assert_eq!(find(&rows, "journal_sync", None).count, 100);
        let idle = find(&rows, "journal_sync", Some(1));
        assert_eq!((idle.count, idle.values), (0, None));
        // A series that was not there before began at zero; one in which nothing happened is left out.
        assert_eq!(find(&rows, "Fetch", None).count, 2);
        assert!(rows.iter().all(|row| row.name != "Produce"));
    }

    proptest! {
        /// A node that is not ours, or a proxy, may say anything.
        #[test]
        fn any_metrics_are_rows_or_an_error(
            changes in prop::collection::vec((any::<prop::sample::Index>(), "[0-9]{1,17}(e[0-9]{1,3})?|[0-9.]{1,5}|[a-z]{1,7}"), 0..8),
            interval_ns in 0..10_000_000_000_u64,
        ) {
            let text = metrics([1, 2, 3, 4], 0.5, true);
            let is_value = |it: char| it.is_ascii_digit() || it == '.';
            let mut changed = text.clone();
            for (at, with) in changes {
                // Instead of a number somewhere: a value, a bound, a shard.
                let mut at = at.index(changed.len());
                at = changed[at..].find(is_value).map_or(at, |found| at + found);
                let end = changed[at..].find(|it| !is_value(it)).map_or(changed.len(), |len| at + len);
                changed.replace_range(at..end, &with);
            }
            let (before, interval) = (parse(&text).unwrap(), Duration::from_nanos(interval_ns));
            let Ok(after) = parse(&changed) else { return Ok(()) };
            for (before, after) in [(&before, &after), (&after, &before), (&Families::new(), &after)] {
                if let Ok(rows) = rows(before, after, interval) {
                    let _ = (super::super::to_text(&rows, interval), super::super::to_json(&rows, "", interval));
                }
            }
        }
    }

    #[test]
    fn beyond_the_last_bound_a_percentile_is_that_bound() {
        let none = node([0; 4], 0.0, false);
        let mut after = node([0, 0, 1, 100], 50.0, false);
        let rows_of = |after: &Families| rows(&none, after, Duration::from_secs(1)).unwrap();
        let values = find(&rows_of(&after), "journal_sync", Some(0)).values.unwrap();
        assert_eq!((values.p50, values.p99), (0.005, 0.005));
        // Empty buckets in front do not draw a percentile down.
        after = node([0, 0, 100, 100], 0.4, false);
        let values = find(&rows_of(&after), "journal_sync", Some(0)).values.unwrap();
        assert!(values.p50 > 0.002 && values.p50 < 0.005, "{values:?}");
    }

    #[test]
    fn a_restart_in_between_is_an_error() {
        let error = rows(&node([5; 4], 0.1, false), &node([4; 4], 0.1, false), Duration::from_secs(1));
        assert!(error.unwrap_err().to_string().contains("started again"));
        let error = rows(&Families::new(), &Families::new(), Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("is that a Corelog node"), "{error}");
    }
}
