//! Lists of cores.

use anyhow::{Context, Result, ensure};

/// No machine has a core of a higher number; bounds what a range may mean.
const CORE_MAX: usize = 4095;

/// `"all"` is `None`; otherwise numbers and ranges, as in `0,2-3`.
pub(crate) fn parse_cores(text: &str) -> Result<Option<Vec<usize>>> {
    let text = text.trim();
    if text == "all" {
        return Ok(None);
    }
    let wrong = || format!("'{text}' is not \"all\" or a list of cores such as \"0,2-3\"");
    let mut cores = Vec::new();
    for item in text.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let first: usize = first.trim().parse().with_context(wrong)?;
        let last: usize = last.trim().parse().with_context(wrong)?;
        ensure!(first <= last && last <= CORE_MAX, wrong());
        for core in first..=last {
            ensure!(!cores.contains(&core), "core {core} is listed twice in '{text}'");
            cores.push(core);
        }
    }
    Ok(Some(cores))
}
