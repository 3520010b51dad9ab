//! Which distributions belong into one picture, and what they are called there.

use super::read::Recording;
use crate::result::report::Metric;

/// Distributions that are looked at together.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure<'a> {
    /// What they have in common.
    pub heading: String,
    /// What that is, in a sentence.
    pub about: Option<&'static str>,
    /// Each with its name among the others.
    pub series: Vec<(String, &'a Recording)>,
}

/// Of one source, everything is in one figure; of several, what has the same tag is.
#[must_use]
pub fn figures(recordings: &[Recording]) -> Vec<Figure<'_>> {
    let Some(first) = recordings.first() else { return Vec::new() };
    if recordings.iter().all(|it| it.file == first.file) {
        let name = |it: &Recording| match &it.tag {
            Some(tag) => title(tag),
            None => it.source.clone(),
        };
        let series: Vec<_> = recordings.iter().map(|it| (name(it), it)).collect();
        let (heading, about) = match &first.tag {
            Some(tag) if recordings.len() == 1 => (title(tag), about(tag)),
            _ => (first.source.clone(), None),
        };
        return vec![Figure { heading, about, series }];
    }
    let mut figures: Vec<Figure<'_>> = Vec::new();
    for recording in recordings {
        let tag = recording.tag.as_deref();
        let heading = tag.map_or_else(|| "Latency".to_owned(), title);
        let is_ambiguous = recordings
            .iter()
            .any(|it| it.tag == recording.tag && it.source == recording.source && it.file != recording.file);
        let name = if is_ambiguous { recording.file.display().to_string() } else { recording.source.clone() };
        match figures.iter_mut().find(|it| it.series[0].1.tag == recording.tag) {
            Some(figure) => figure.series.push((name, recording)),
            None => {
                figures.push(Figure { heading, about: tag.and_then(about), series: vec![(name, recording)] })
            }
        }
    }
    figures
}

fn metric(tag: &str) -> Option<Metric> {
    Metric::ALL.into_iter().find(|metric| metric.name() == tag)
}

fn title(tag: &str) -> String {
    match metric(tag) {
        Some(Metric::Response) => "Response time".to_owned(),
        Some(Metric::Service) => "Service time".to_owned(),
        Some(Metric::ScheduleLag) => "Schedule lag".to_owned(),
        Some(Metric::EndToEnd) => "End to end".to_owned(),
        None => tag.to_owned(),
    }
}

fn about(tag: &str) -> Option<&'static str> {
    Some(match metric(tag)? {
        Metric::Response => "From the time at which a record was to be sent to its acknowledgement.",
        Metric::Service => "From the moment at which a record’s request was written to its acknowledgement.",
        Metric::ScheduleLag => {
            "From the time at which a record was to be sent to the moment at which its request was written."
        }
        Metric::EndToEnd => {
            "From the time at which a record was to be sent to the moment at which a consumer had it."
        }
    })
}

/// A name of so many characters at the most. The end of a name, as of a path or a run, says more
/// than its beginning.
#[must_use]
pub fn shortened(name: &str, characters: usize) -> String {
    let length = name.chars().count();
    if length <= characters {
        return name.to_owned();
    }
    let kept = characters.saturating_sub(3);
    format!("...{}", name.chars().skip(length - kept).collect::<String>())
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;
    use crate::hist::over_time::OverTime;

    fn recording(file: &str, tag: Option<&str>) -> Recording {
        Recording {
            file: file.into(),
            source: "run".to_owned(),
            tag: tag.map(str::to_owned),
            histogram: Histogram::new(3).unwrap(),
            over_time: OverTime::default(),
            stated_mean_ns: None,
        }
    }

    fn outline(recordings: &[Recording]) -> Vec<(String, Vec<String>)> {
        let names = |it: Figure<'_>| (it.heading, it.series.into_iter().map(|(name, _)| name).collect());
        figures(recordings).into_iter().map(names).collect()
    }

    #[test]
    fn one_source_is_one_figure_and_several_are_compared_by_tag() {
        let one = [recording("a", Some("response")), recording("a", Some("gc"))];
        assert_eq!(outline(&one), [("run".to_owned(), vec!["Response time".to_owned(), "gc".to_owned()])]);
        let several =
            [recording("a", Some("service")), recording("b", Some("service")), recording("b", None)];
        assert_eq!(
            outline(&several),
            [
                ("Service time".to_owned(), vec!["a".to_owned(), "b".to_owned()]),
                ("Latency".to_owned(), vec!["run".to_owned()])
            ]
        );
    }

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("a-long-name", 8), "...-name");
    }
}
