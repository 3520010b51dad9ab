//! The page of all results, and the part of another that sums them up.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::reasons;
use super::results::{Recorded, Results, Standing, Subject, Verdict};
use super::suite::Suite;
use crate::project::Project;

const PAGE: &str = "docs/CONFORMANCE.md";
const SUMMARY: &str = "docs/COMPATIBILITY.md";
const BEGIN: &str = "<!-- cargo xtask conformance --page writes this part -->";
const END: &str = "<!-- end of it -->";

/// Writes both.
pub(crate) fn write(project: &Project, results: &Results) -> Result<()> {
    let page = project.root().join(PAGE);
    fs::write(&page, render(results)?).with_context(|| page.display().to_string())?;
    replace_part(&project.root().join(SUMMARY), &summary(results)?)
}

fn replace_part(path: &Path, part: &str) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (before, rest) =
        text.split_once(BEGIN).with_context(|| format!("{} has no {BEGIN}", path.display()))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{} has no {END}", path.display()))?;
    fs::write(path, format!("{before}{BEGIN}\n{part}{END}{after}"))?;
    Ok(())
}

/// The suites that were run, in their order.
fn recorded(results: &Results) -> impl Iterator<Item = (Suite, &Recorded)> {
    Suite::all().iter().filter_map(|suite| Some((*suite, results.0.get(suite.name())?)))
}

/// A line for each suite: how many tests pass on Kafka, how many of those on Corelog, and what of the
/// rest.
fn summary(results: &Results) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "| Suite | Version | Tests | Pass on Kafka | Of those on Corelog | With a reason |")?;
    writeln!(text, "|---|---|---:|---:|---:|---:|")?;
    for (suite, recorded) in recorded(results) {
        let standings: Vec<Standing> =
            recorded.tests.keys().map(|test| recorded.standing(suite, test)).collect();
        let count = |fits: fn(&Standing) -> bool| standings.iter().filter(|it| fits(it)).count();
        let same = count(|it| *it == Standing::Same);
        let known = count(|it| matches!(it, Standing::Known(_)));
        let (kafka, _) = results.passes(suite, Subject::Kafka);
        writeln!(
            text,
            "| {} | {} | {} | {kafka} | {same} | {known} |",
            suite.name(),
            suite.version(),
            recorded.tests.len(),
        )?;
    }
    Ok(text)
}

/// The whole page.
pub(crate) fn render(results: &Results) -> Result<String> {
    let mut text = String::from(
        "# Conformance\n\n\
         Tests that others wrote for Apache Kafka, run against it and against Corelog by `cargo xtask conformance --page`.\n\
         What passes on Kafka is right; a test that does not pass there demands nothing of Corelog. Each test is a process\n\
         of its own with a limit of time; one that fails is tried once more, since some are races. Both brokers are one node\n\
         on loopback that creates topics by itself (not for rskafka), with as many default partitions as the suite counts\n\
         on, sessions from 1 s and no wait for a group's first members.\n\n",
    );
    text += &summary(results)?;
    text.push_str(
        "\nThe librdkafka suites run `TESTS=… ./test-runner -p1 -Q -L`: those that need no broker are left out. Where several\n\
         of its tests have one number, they are run and judged together; `0081_admin` is run in parts (`SUBTESTS=…`).\n\
         `-kip848` is a suite once more, with groups of the new protocol.\n",
    );
    for (suite, recorded) in recorded(results) {
        section(&mut text, suite, recorded)?;
    }
    Ok(text)
}

fn section(text: &mut String, suite: Suite, recorded: &Recorded) -> Result<()> {
    let subject = |subject| recorded.subjects.get(&subject).map_or("not run", String::as_str);
    writeln!(text, "\n## {}\n", suite.name())?;
    let about = suite.about();
    let about = format!("{}{}", about[..1].to_uppercase(), &about[1..]);
    writeln!(
        text,
        "{about}; {}. Against {}, and against {}.\n",
        suite.origin(),
        subject(Subject::Kafka),
        subject(Subject::Corelog)
    )?;
    writeln!(text, "| Test | Kafka | Corelog | Reason |\n|---|---|---|---|")?;
    for (test, verdicts) in &recorded.tests {
        let words = |subject| verdicts.get(&subject).copied().map_or("not run", Verdict::words);
        let reason = match recorded.standing(suite, test) {
            Standing::Known(why) => why,
            Standing::NoMeasure => reasons::of(suite, test).unwrap_or_default(),
            Standing::Unexplained => "**unexplained**",
            Standing::Same | Standing::Unknown => "",
        };
        let test = test.replace('|', "\\|");
        writeln!(text, "| `{test}` | {} | {} | {reason} |", words(Subject::Kafka), words(Subject::Corelog))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_names_what_has_no_reason() -> Result<()> {
        let mut results = Results::default();
        let recorded = results.of(Suite::Kcat);
        recorded.set("0009-none.sh", Subject::Kafka, Verdict::Passed);
        recorded.set("0009-none.sh", Subject::Corelog, Verdict::TimedOut);
        let text = render(&results)?;
        assert!(text.contains("| `0009-none.sh` | passed | timed out | **unexplained** |"), "{text}");
        assert!(text.contains("| kcat | 1.7.1-2 | 1 | 1 | 0 | 0 |"), "{text}");
        Ok(())
    }

    #[test]
    fn only_the_part_between_the_marks_is_replaced() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("page.md");
        fs::write(&path, format!("a\n{BEGIN}\nold\n{END}\nz\n"))?;
        replace_part(&path, "new\n")?;
        assert_eq!(fs::read_to_string(&path)?, format!("a\n{BEGIN}\nnew\n{END}\nz\n"));
        fs::write(&path, "no marks")?;
        assert!(replace_part(&path, "new\n").is_err());
        Ok(())
    }

    #[test]
    fn the_pages_in_the_repository_say_what_the_results_in_it_say() -> Result<()> {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let results = Results::read(&docs.join("conformance.json"))?;
        let page = fs::read_to_string(docs.join("CONFORMANCE.md"))?;
        assert!(page == render(&results)?, "run cargo xtask conformance --only-page");
        let summary_page = fs::read_to_string(docs.join("COMPATIBILITY.md"))?;
        assert!(summary_page.contains(&format!("{BEGIN}\n{}{END}", summary(&results)?)));
        Ok(())
    }
}
