//! `corelog consume --group` as a user meets it: members that share, come, go and die, in both
//! protocols.

#![allow(clippy::unwrap_used, missing_docs)]

mod live;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use live::{Node, PATIENCE, on_disk};
use serde_json::Value;

const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Groups that form at once.
const QUICK: [(&str, &str); 4] = [
    ("CORELOG_GROUPS_INITIAL_REBALANCE_DELAY_MS", "0"),
    ("CORELOG_GROUPS_CONSUMER_HEARTBEAT_INTERVAL_MS", "200"),
    ("CORELOG_GROUPS_OFFSETS_TOPIC_PARTITIONS", "4"),
    ("CORELOG_LOG_LEVEL", "info"),
];
const PROTOCOLS: [&[&str]; 3] = [
    &["--protocol", "consumer"],
    &["--protocol", "classic"],
    &["--protocol", "classic", "--assignor", "range"],
];

/// A running `corelog consume --group`, and what it has printed.
struct Member {
    process: Child,
    printed: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Member {
    fn start(node: &Node, arguments: &[&str]) -> Self {
        let arguments = [&["consume", "--group", "g"], arguments].concat();
        let mut process =
            node.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (printed, out) = (Arc::new(Mutex::new(Vec::new())), process.stdout.take().unwrap());
        let place = Arc::clone(&printed);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                place.lock().unwrap().push(line.unwrap());
            }
        });
        Self { process, printed, reader: Some(reader) }
    }

    fn printed(&self) -> Vec<String> {
        self.printed.lock().unwrap().clone()
    }

    fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// Ctrl-C, and everything that it printed.
    fn interrupt(mut self) -> Vec<String> {
        self.signal("-INT");
        let ended = self.process.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        let mut errors = String::new();
        std::io::Read::read_to_string(&mut self.process.stderr.take().unwrap(), &mut errors).unwrap();
        assert_eq!(ended.code(), Some(0), "{errors}");
        self.printed()
    }

    fn kill(mut self) -> Vec<String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        self.printed()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn until(what: &str, node: &Node, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}\n{}", node.log());
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn describe(node: &Node) -> Option<Value> {
    let described = node.run(&["group", "describe", "g", "--output", "json"]);
    described.status.success().then(|| serde_json::from_slice(&described.stdout).unwrap())
}

/// How many partitions each member has, once every one of `partitions` is somebody's.
fn shares(node: &Node, members: usize, partitions: usize) -> Vec<usize> {
    let mut found = Vec::new();
    until(&format!("{members} members with {partitions} partitions"), node, || {
        let Some(group) = describe(node) else { return false };
        let mut of_member: BTreeMap<String, usize> = BTreeMap::new();
        for row in group["partitions"].as_array().unwrap() {
            if let Some(member) = row["member"].as_str() {
                *of_member.entry(member.to_owned()).or_default() += 1;
            }
        }
        found = of_member.values().copied().collect();
        let is_whole = found.iter().sum::<usize>() == partitions;
        group["state"] == "Stable" && group["members"].as_array().unwrap().len() == members && is_whole
    });
    found.sort_unstable();
    found
}

fn lines(prefix: &str, count: usize) -> (Vec<String>, Vec<u8>) {
    let lines: Vec<String> = (0..count).map(|number| format!("{prefix}{number:04}")).collect();
    let input = lines.iter().map(|line| format!("{line}:{line}\n")).collect::<String>();
    (lines, input.into_bytes())
}

fn produce(node: &Node, topic: &str, prefix: &str, count: usize) -> Vec<String> {
    let (lines, input) = lines(prefix, count);
    node.produce(&[topic, "--key-separator", ":"], &input);
    lines
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn two_members_share_two_topics_and_one_goes_on_where_the_other_left() {
    for protocol in PROTOCOLS {
        let dir = on_disk();
        let node = Node::start(dir.path(), &QUICK);
        node.create("a", 4);
        node.create("b", 2);
        let mut all = produce(&node, "a", "a", 200);
        all.extend(produce(&node, "b", "b", 100));
        let arguments = [&["a", "b"][..], protocol].concat();
        let one = Member::start(&node, &arguments);
        assert_eq!(shares(&node, 1, 6), [6], "{protocol:?}");
        until("the backlog", &node, || one.printed().len() == 300);
        let two = Member::start(&node, &arguments);
        assert_eq!(shares(&node, 2, 6), [3, 3], "{protocol:?}");
        all.extend(produce(&node, "a", "c", 200));
        until("both read", &node, || one.printed().len() + two.printed().len() >= 500);
        assert!(one.printed().len() > 300 && !two.printed().is_empty(), "{protocol:?}");
        let mut seen = two.interrupt();
        // Nobody waits for the session's time-out: it has left.
        assert_eq!(shares(&node, 1, 6), [6], "{protocol:?}");
        all.extend(produce(&node, "b", "d", 100));
        until("the rest", &node, || one.printed().len() + seen.len() >= 600);
        seen.extend(one.interrupt());
        assert_eq!(sorted(seen), sorted(all), "{protocol:?}: each record once");
        let group = describe(&node).unwrap();
        assert_eq!(
            (&group["state"], &group["lag"]),
            (&Value::from("Empty"), &Value::from(0)),
            "{protocol:?}"
        );
        let last = node.text(&["consume", "b", "--group", "g", "--count", "0"]);
        assert_eq!(last, "", "{protocol:?}");
    }
}

#[test]
fn what_a_killed_member_had_is_read_by_the_other_and_nothing_is_skipped() {
    for protocol in &PROTOCOLS[..2] {
        let dir = on_disk();
        // Only here somebody has to be found dead, and soon.
        let sessions = [
            ("CORELOG_GROUPS_MIN_SESSION_TIMEOUT_MS", "1000"),
            ("CORELOG_GROUPS_CONSUMER_SESSION_TIMEOUT_MS", "2000"),
        ];
        let quick = [&QUICK[..], &sessions].concat();
        let node = Node::start(dir.path(), &quick);
        node.create("a", 4);
        let mut all = produce(&node, "a", "a", 100);
        let arguments =
            [&["a", "--commit-interval", "100ms", "--session-timeout", "2s"][..], *protocol].concat();
        let (one, two) = (Member::start(&node, &arguments), Member::start(&node, &arguments));
        assert_eq!(shares(&node, 2, 4), [2, 2], "{protocol:?}");
        all.extend(produce(&node, "a", "b", 100));
        until("both read", &node, || one.printed().len() + two.printed().len() >= 200);
        let mut seen = two.kill();
        all.extend(produce(&node, "a", "c", 100));
        assert_eq!(shares(&node, 1, 4), [4], "{protocol:?}");
        until("everything", &node, || {
            let mut read = sorted([one.printed(), seen.clone()].concat());
            read.dedup();
            read.len() == 300
        });
        seen.extend(one.interrupt());
        let mut seen = sorted(seen);
        seen.dedup();
        assert_eq!(seen, sorted(all), "{protocol:?}");
        assert_eq!(describe(&node).unwrap()["lag"], 0, "{protocol:?}");
    }
}

#[test]
fn a_coordinator_that_is_killed_and_comes_back_finds_its_members() {
    for protocol in &PROTOCOLS[..2] {
        let dir = on_disk();
        let node = Node::start(dir.path(), &QUICK);
        let address = node.address.clone();
        node.create("a", 4);
        let mut all = produce(&node, "a", "a", 100);
        let arguments = [&["a", "--commit-interval", "100ms"][..], *protocol].concat();
        let one = Member::start(&node, &arguments);
        assert_eq!(shares(&node, 1, 4), [4], "{protocol:?}");
        until("the backlog", &node, || one.printed().len() == 100);
        until("its commit", &node, || describe(&node).is_some_and(|group| group["lag"] == 0));
        node.kill();
        let node = Node::start_at(&address, dir.path(), &QUICK);
        all.extend(produce(&node, "a", "b", 100));
        until("the rest", &node, || one.printed().len() >= 200);
        assert_eq!(shares(&node, 1, 4), [4], "{protocol:?}");
        let seen = one.interrupt();
        assert_eq!(sorted(seen), sorted(all), "{protocol:?}: each record once, since all was committed");
    }
}

#[test]
fn offsets_move_by_what_was_printed_or_not_at_all() {
    let dir = on_disk();
    let node = Node::start(dir.path(), &QUICK);
    node.create("a", 1);
    produce(&node, "a", "a", 20);
    let consume = |arguments: &[&str]| node.text(&[&["consume", "a", "--group", "g"], arguments].concat());
    for protocol in PROTOCOLS {
        let begin = consume(&[&["--count", "3", "--no-commit"], protocol].concat());
        assert_eq!(begin, consume(&[&["--count", "3", "--no-commit"], protocol].concat()), "{protocol:?}");
    }
    // In the middle of a batch.
    assert_eq!(consume(&["--count", "3"]), "a0000\na0001\na0002\n");
    assert_eq!(consume(&["--count", "2"]), "a0003\na0004\n");
    assert_eq!(describe(&node).unwrap()["partitions"][0]["committed"], 5);
    node.text(&["group", "reset-offsets", "g", "--all-topics", "--to", "end", "--execute"]);
    produce(&node, "a", "b", 1);
    assert_eq!(consume(&["--count", "1"]), "b0000\n");
    let other = node.text(&["consume", "a", "--group", "other", "--from", "end", "--count", "0"]);
    assert_eq!(other, "");
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    let dir = on_disk();
    let node = Node::start(dir.path(), &QUICK);
    node.create("a", 1);
    let refused = |arguments: &[&str], words: &str| {
        let output = node.run(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(words), "{arguments:?}: {error}");
    };
    refused(&["consume", "a", "--group", "g", "--partition", "0"], "exclude each other");
    refused(&["consume", "a", "--group", "g", "--from", "7"], "reset-offsets");
    refused(&["consume", "a", "--no-commit"], "--group");
    refused(
        &["consume", "a", "--group", "g", "--protocol", "classic", "--assignor", "uniform"],
        "no such assignor",
    );
    refused(&["consume", "no", "--group", "g"], "no topic 'no'");
    refused(&["consume", "a", "b", "--partition", "0"], "one topic");
    // A group has one protocol's rules as long as it has members that cannot follow.
    let one = Member::start(&node, &["a", "--protocol", "classic", "--assignor", "range"]);
    assert_eq!(shares(&node, 1, 1), [1]);
    refused(
        &["consume", "a", "--group", "g", "--protocol", "classic", "--assignor", "cooperative"],
        "another assignor",
    );
    one.interrupt();
}
