//! Regular expressions over topic names. Kafka uses RE2's syntax; so does the `regex` crate, which like
//! RE2 takes time proportional to the text.
//!
//! To compile one costs up to some milliseconds, to match all topics as much again, on the thread that
//! serves everything else: so both are remembered ([`Patterns`]), and a group looks its expressions up
//! at most once in an interval, a new one too. Until then a new one stands for no topics.

use std::collections::VecDeque;
use std::sync::Arc;

use corelog_protocol::offsets_topic::{ConsumerRegex, Record};
use regex::{Error, Regex, RegexBuilder};

use super::ConsumerGroup;
use crate::group::effects::Scope;
use crate::group::topics::Topics;

/// The most bytes that a compiled expression may take.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// How many expressions a coordinator remembers.
const PATTERNS_MAX: usize = 8;
/// How many expressions one event looks up at most.
const LOOKED_UP_PER_EVENT_MAX: usize = 64;
/// After so many bytes of names an event looks no further expression up.
const NAMES_BYTES_PER_EVENT_MAX: usize = 4 << 20;

/// The expressions that a coordinator's groups used last, the latest one last.
#[derive(Debug, Default)]
pub(in crate::group) struct Patterns(VecDeque<Pattern>);

#[derive(Debug)]
struct Pattern {
    text: Arc<str>,
    compiled: Result<Regex, String>,
    /// The names that match, and in which version of the topics.
    matches: Option<(u64, Vec<Arc<str>>)>,
}

impl Patterns {
    fn get(&mut self, text: &Arc<str>) -> &mut Pattern {
        let place = self.0.iter().position(|pattern| pattern.text == *text);
        let pattern = match place.and_then(|place| self.0.remove(place)) {
            Some(pattern) => pattern,
            None => Pattern { text: text.clone(), compiled: compile(text), matches: None },
        };
        if self.0.len() >= PATTERNS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(pattern);
        self.0.back_mut().expect("it was put there a line ago")
    }

    /// Why it is no expression, if so.
    pub(super) fn check(&mut self, text: &Arc<str>) -> Result<(), String> {
        self.get(text).compiled.as_ref().map(drop).map_err(Clone::clone)
    }

    /// The names that match, in order; `None` when it is no expression.
    fn matches(&mut self, text: &Arc<str>, topics: &dyn Topics) -> Option<&[Arc<str>]> {
        let Pattern { compiled, matches, .. } = self.get(text);
        let compiled = compiled.as_ref().ok()?;
        let version = topics.version();
        if matches.as_ref().is_none_or(|(seen, _)| *seen != version) {
            let mut names = Vec::new();
            topics.each_name(&mut |name| {
                if compiled.is_match(name) {
                    names.push(Arc::from(name));
                }
            });
            *matches = Some((version, names));
        }
        matches.as_ref().map(|(_, names)| names.as_slice())
    }
}

/// An expression that matches whole names.
fn compile(pattern: &str) -> Result<Regex, String> {
    // By itself first: `a)(b` is only one together with the parentheses around it. With no room for
    // the program it is parsed, which is all that is wanted of it.
    let parsed = RegexBuilder::new(pattern).size_limit(0).build();
    let compiled = match parsed {
        Ok(_) | Err(Error::CompiledTooBig(_)) => {
            RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(COMPILED_BYTES_MAX).build()
        }
        Err(error) => Err(error),
    };
    compiled.map_err(|error| {
        let text = error.to_string();
        // The parser draws where it is; its last line says what it is.
        let reason = text.lines().last().unwrap_or_default();
        let reason = reason.strip_prefix("error: ").unwrap_or(reason).trim_end_matches('.');
        format!("SubscribedTopicRegex `{pattern}` is not a valid regular expression: {reason}.")
    })
}

impl ConsumerGroup {
    /// Finds the topics of every expression that members use, and forgets the others; but not too
    /// often, and not too many at once: `false` when some are still to come.
    pub(super) fn resolve_regexes(&mut self, scope: &mut Scope<'_>) -> bool {
        let unused = self.regexes.keys().filter(|regex| !self.tally.regexes.contains_key(*regex));
        for regex in unused.cloned().collect::<Vec<_>>() {
            self.emit(scope, Record::ConsumerRegex { group: self.id.clone(), regex, value: None });
        }
        self.regexes_seen.retain(|regex, _| self.tally.regexes.contains_key(regex));
        let version = scope.topics.version();
        let open = self.tally.regexes.keys().filter(|regex| self.regexes_seen.get(*regex) != Some(&version));
        let open: Vec<_> = open.cloned().collect();
        if open.is_empty() {
            return true;
        }
        let interval_ms = u64::from(scope.config.regex_refresh_min_interval_ms);
        if self.regexes_resolved_ms.is_some_and(|last_ms| scope.now.clock_ms < last_ms + interval_ms) {
            return false;
        }
        self.regexes_resolved_ms = Some(scope.now.clock_ms);
        let (count, mut looked_up, mut bytes) = (open.len(), 0, 0);
        for regex in open {
            if looked_up >= LOOKED_UP_PER_EVENT_MAX || bytes >= NAMES_BYTES_PER_EVENT_MAX {
                break;
            }
            self.regexes_seen.insert(regex.clone(), version);
            bytes += self.resolve(scope, regex);
            looked_up += 1;
        }
        looked_up == count
    }

    /// Looks one up; returns how many bytes of names were written.
    fn resolve(&mut self, scope: &mut Scope<'_>, regex: Arc<str>) -> usize {
        let Some(names) = scope.patterns.matches(&regex, scope.topics) else {
            // It was one when it came; what is no longer one matches nothing.
            return 0;
        };
        if self.regexes.get(&regex).is_some_and(|known| known.topics == names) {
            return 0;
        }
        let topics = names.to_vec();
        let bytes = topics.iter().map(|name| name.len()).sum();
        let version = i64::try_from(scope.topics.version()).unwrap_or(i64::MAX);
        let value = Some(ConsumerRegex { topics, version, timestamp_ms: scope.now.wall_ms });
        self.emit(scope, Record::ConsumerRegex { group: self.id.clone(), regex, value });
        bytes
    }
}
