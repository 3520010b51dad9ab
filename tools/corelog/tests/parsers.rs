//! What a user writes for the load generator: any text is a value or an error.

#![allow(missing_docs)]

use std::path::Path;

use corelog_bench::load::scenario::Scenario;
use corelog_bench::plan::{Keys, Rate, Size};
use proptest::prelude::*;

const EXAMPLE: &str = include_str!("../../../bench/scenarios/backlog.toml");

proptest! {
    #[test]
    fn any_text_is_a_size_a_rate_or_keys_or_an_error(
        text in "(uniform|lognormal|zipf|none|constant)?:?[0-9.,eE+-]{0,25}(\\.\\.[0-9]{0,22})?|.{0,30}",
    ) {
        let _ = (text.parse::<Size>(), text.parse::<Rate>(), text.parse::<Keys>());
    }

    #[test]
    fn any_text_is_a_scenario_or_an_error(
        line in any::<prop::sample::Index>(),
        with in "([a-z_]{1,12} = )?(\"[ -~]{0,20}\"|[0-9.eE+-]{0,22}|\\[\\[?[a-z]{0,8}\\]?\\]|.{0,20})",
        text in ".{0,60}",
    ) {
        let mut lines: Vec<&str> = EXAMPLE.lines().collect();
        let at = line.index(lines.len());
        lines[at] = &with;
        for text in [lines.join("\n"), text] {
            let _ = Scenario::parse(Path::new("scenario.toml"), &text);
        }
    }
}
