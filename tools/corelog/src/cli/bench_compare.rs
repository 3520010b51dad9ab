//! `corelog bench compare`

use std::path::PathBuf;

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  corelog bench compare before/report.json after/report.json
  corelog bench compare before after --threshold 10%
  corelog bench compare --baseline a1.json a2.json --candidate b1.json b2.json --output json

A and B are reports (report.json), the directories of a run, or directories with several of either:
repeated runs. The ratio is B's median as a multiple of A's; with at least 4 runs of each there is
a 95% confidence interval, from a bootstrap over the runs with a fixed seed. With many figures, one
in twenty lies outside by chance: a threshold is what tells a regression from that.

Exit code 1: a figure is worse by more than the threshold, and its interval excludes 1.";

/// Compares reports of runs with others: what is better, what is worse, and how sure that is.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchCompare {
    /// What is compared with: a report or a directory.
    #[arg(
        value_name = "A",
        required_unless_present = "baseline",
        conflicts_with = "baseline",
        requires = "b"
    )]
    pub(crate) a: Option<PathBuf>,
    /// What is judged: a report or a directory.
    #[arg(value_name = "B", conflicts_with = "candidate")]
    pub(crate) b: Option<PathBuf>,
    /// Reports or directories that are compared with, instead of A.
    #[arg(long, value_name = "REPORT", num_args = 1.., requires = "candidate")]
    pub(crate) baseline: Vec<PathBuf>,
    /// Reports or directories that are judged, instead of B.
    #[arg(long, value_name = "REPORT", num_args = 1.., requires = "baseline")]
    pub(crate) candidate: Vec<PathBuf>,
    /// By how much a figure may be worse, in per cent; without it, nothing is judged.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) threshold: Option<f64>,
}

/// As a share.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent.is_finite() => Ok(percent / 100.0),
        _ => Err("must be above 0, such as 10%".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_text_is_a_threshold_or_an_error(text in "-?[0-9.e]{0,12} ?%?|.{0,9}") {
            proptest::prop_assert!(percent(&text).is_ok_and(|it| it > 0.0) || percent(&text).is_err());
        }
    }

    #[test]
    fn a_threshold_is_in_per_cent_with_or_without_the_sign() {
        assert_eq!(percent("10%"), Ok(0.1));
        assert_eq!(percent("2.5"), Ok(0.025));
        for wrong in ["", "%", "0", "-3%", "ten", "NaN", "inf"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }
}
