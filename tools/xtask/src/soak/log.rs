//! The node's log of all its lives: what is in it that an operator would look at, and why.

use serde::Serialize;

/// Why a warning or an error is in the log of a node that is killed again and again while nothing
/// is wrong with it: part of the line, and the reason.
const EXPLAINED: [(&str, &str); 0] = [];

/// What the log says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Findings {
    /// Warnings and errors with a reason, and how often.
    pub(crate) explained: Vec<(String, u64)>,
    /// Everything else that is no usual line.
    pub(crate) unexplained: Vec<String>,
}

impl Findings {
    pub(crate) fn of(log: &str) -> Self {
        Self::with(log, &EXPLAINED)
    }

    fn with(log: &str, table: &[(&str, &str)]) -> Self {
        let mut findings = Self::default();
        for line in log.lines().filter(|line| !is_usual(line)) {
            let Some((part, reason)) = table.iter().find(|(part, _)| line.contains(part)) else {
                findings.unexplained.push(line.to_owned());
                continue;
            };
            let words = format!("{part}: {reason}");
            match findings.explained.iter_mut().find(|(known, _)| *known == words) {
                Some((_, count)) => *count += 1,
                None => findings.explained.push((words, 1)),
            }
        }
        findings
    }
}

/// A line of a level below WARN, or one of those in which the node says where it listens. Anything
/// without a level is not usual: a panic, for one.
fn is_usual(line: &str) -> bool {
    let level = line.split_whitespace().nth(1);
    matches!(level, Some("INFO" | "DEBUG" | "TRACE")) || line.starts_with("listening on ") || line.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_usual_nor_explained_is_found() {
        let log = "listening on 127.0.0.1:9092\n\
                   2026-11-21T16:00:00.000000Z  INFO corelog_net::server: listening\n\
                   2026-11-21T16:00:01.000000Z  WARN a::b: torn tail bytes=7\n\
                   2026-11-21T16:00:01.000000Z  WARN a::b: torn tail bytes=9\n\
                   2026-11-21T16:00:02.000000Z ERROR c: journal failed\n\
                   thread 'shard-0' panicked at x.rs:1:1:\n";
        let findings = Findings::with(log, &[("torn tail", "the kill tore it")]);
        assert_eq!(findings.explained, [("torn tail: the kill tore it".to_owned(), 2)]);
        assert_eq!(findings.unexplained.len(), 2);
        assert!(findings.unexplained[0].ends_with("journal failed"));
        assert!(findings.unexplained[1].starts_with("thread"));
    }
}
