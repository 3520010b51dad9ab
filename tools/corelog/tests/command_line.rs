//! The binary as a user meets it: a node, and every command against it.

#![allow(clippy::unwrap_used, missing_docs)]

mod live;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use live::{BINARY, Node, on_disk, run, succeeded};

fn failure(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn what_is_produced_is_consumed() {
    let dir = on_disk();
    let node = Node::start(dir.path(), &[]);
    assert_eq!(
        node.text(&["topic", "create", "t", "--partitions", "3"]),
        "created topic t with 3 partitions\n"
    );
    let lines: Vec<String> = (0..10_000).map(|number| format!("k{}:value {number}", number % 50)).collect();
    node.produce(
        &["t", "--key-separator", ":", "--compression", "zstd"],
        (lines.join("\n") + "\n").as_bytes(),
    );
    let mut consumed: Vec<String> =
        node.text(&["consume", "t", "--key-separator", ":"]).lines().map(str::to_owned).collect();
    let order_of = |lines: &[String]| {
        let of_key: Vec<String> = lines.iter().filter(|line| line.starts_with("k7:")).cloned().collect();
        of_key
    };
    assert_eq!(order_of(&consumed), order_of(&lines), "order is kept per key");
    consumed.sort();
    let mut expected = lines;
    expected.sort();
    assert_eq!(consumed, expected);
}

#[test]
fn consuming_begins_and_ends_where_it_is_told() {
    let dir = on_disk();
    let node = Node::start(dir.path(), &[]);
    node.text(&["topic", "create", "t"]);
    node.produce(&["t"], b"a\nb\n\nd");
    assert_eq!(node.text(&["consume", "t"]), "a\nb\n\nd\n");
    assert_eq!(node.text(&["consume", "t", "--from", "1", "--count", "1"]), "b\n");
    assert_eq!(node.text(&["consume", "t", "--partition", "0", "--from", "3"]), "d\n");
    assert_eq!(node.text(&["consume", "t", "--from", "end"]), "");
    assert_eq!(node.text(&["consume", "t", "--from", "2000-01-01"]), "a\nb\n\nd\n");
    assert_eq!(node.text(&["consume", "t", "--from", "@99999999999999"]), "");
    let error = failure(&node.run(&["consume", "t", "--partition", "0", "--from", "9"]), 1);
    assert!(error.contains("offset 9") && error.contains("[0, 4)"), "{error}");
}

#[test]
fn json_keeps_what_text_cannot_show() {
    let dir = on_disk();
    let node = Node::start(dir.path(), &[]);
    node.produce(&["t", "--key-separator", "="], b"k\xff=v\xfe\nplain\n");
    let json = node.text(&["consume", "t", "--output", "json"]);
    let lines: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["key_base64"], &lines[0]["value_base64"]), (&"a/8=".into(), &"dv4=".into()));
    assert_eq!((&lines[1]["key"], &lines[1]["value"]), (&serde_json::Value::Null, &"plain".into()));
    assert_eq!((&lines[1]["offset"], &lines[1]["topic"]), (&1.into(), &"t".into()));
    let topics: serde_json::Value =
        serde_json::from_str(&node.text(&["topic", "list", "--output", "json"])).unwrap();
    assert_eq!(topics[0]["name"], "t");
    let topic = node.text(&["topic", "describe", "t", "--output", "json"]);
    let topic: serde_json::Value = serde_json::from_str(&topic).unwrap();
    assert_eq!(topic["partitions"][0]["log_end_offset"], 2);
    assert_eq!(topic["configs"]["corelog.durability"], "fsync");
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let dir = on_disk();
    let node = Node::start(dir.path(), &[]);
    let lines: String = (0..200_000).map(|number| format!("{number}\n")).collect();
    node.produce(&["t"], lines.as_bytes());
    let mut process =
        node.command(&["consume", "t"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn following_ends_with_a_signal() {
    let dir = on_disk();
    let node = Node::start(dir.path(), &[]);
    node.produce(&["t"], b"one\n");
    let mut process = node.command(&["consume", "t", "--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(process.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    node.produce(&["t"], b"two\n");
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "one\ntwo\n");
    let id = process.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert_eq!(process.wait().unwrap().code(), Some(0));
}

#[test]
fn errors_say_what_to_do() {
    let dir = on_disk();
    let node = Node::start(dir.path(), &[]);
    let error = failure(&node.run(&["consume", "nope"]), 1);
    assert!(error.contains("no topic 'nope'") && error.contains("corelog topic create nope"), "{error}");
    node.text(&["topic", "create", "t"]);
    let error = failure(&node.run(&["topic", "create", "t"]), 1);
    assert!(error.contains("TOPIC_ALREADY_EXISTS") && error.contains("--if-not-exists"), "{error}");
    node.text(&["topic", "create", "t", "--if-not-exists"]);
    let error = failure(&node.run(&["topic", "create", "u", "--config", "no.such=1"]), 1);
    assert!(error.contains("INVALID_CONFIG") && error.contains("no.such"), "{error}");
    let error = failure(&node.run(&["produce", "t", "--partition", "5"]), 0);
    assert!(error.starts_with("0 records"), "{error}");
    let error = failure(&run(&mut node.command(&["produce", "t", "--partition", "5"]), b"x\n"), 1);
    assert!(error.contains("no partition 5"), "{error}");
    let error = failure(&node.run(&["produce", "t", "--acks", "2"]), 2);
    assert!(error.contains("--acks"), "{error}");
    let error = failure(&node.run(&["topic", "delete", "v"]), 1);
    assert!(error.contains("no topic 'v'"), "{error}");
    node.text(&["topic", "delete", "v", "--if-exists"]);
    assert_eq!(node.text(&["topic", "delete", "t"]), "deleted topic t\n");
}

#[test]
fn a_topic_is_trimmed_to_an_offset_a_time_or_its_end() {
    let dir = on_disk();
    let node = Node::start(dir.path(), &[]);
    node.create("t", 2);
    for partition in ["0", "1"] {
        node.produce(&["t", "--partition", partition], b"a\nb\nc\nd\n");
    }
    let starts = |arguments: &[&str]| {
        let text = node.text(&[&["topic", "trim"], arguments, &["--yes", "--output", "json"]].concat());
        let trimmed: serde_json::Value = serde_json::from_str(&text).unwrap();
        let partitions = trimmed["partitions"].as_array().unwrap().iter();
        let number = |row: &serde_json::Value, key: &str| row[key].as_i64().unwrap();
        let rows = partitions.map(|row| (number(row, "partition"), number(row, "log_start_after")));
        rows.collect::<Vec<_>>()
    };

    let error = failure(&node.run(&["topic", "trim", "t", "--to", "1"]), 1);
    assert!(error.contains("--yes"), "{error}");
    assert_eq!(starts(&["t:1", "--to", "1"]), [(1, 1)]);
    assert_eq!(starts(&["t", "--to", "2"]), [(0, 2), (1, 2)]);
    assert_eq!(node.text(&["consume", "t", "--partition", "1"]), "c\nd\n");
    // Nothing is deleted twice, and nothing comes back.
    assert_eq!(starts(&["t", "--to", "1"]), [(0, 2), (1, 2)]);
    assert_eq!(starts(&["t", "--to", "beginning"]), [(0, 2), (1, 2)]);
    // Nothing is older than the records themselves.
    assert_eq!(starts(&["t", "--to", "2020-01-01"]), [(0, 2), (1, 2)]);
    // One partition that ends before is enough to delete nothing.
    node.produce(&["t", "--partition", "0"], b"e\n");
    let error = failure(&node.run(&["topic", "trim", "t", "--to", "5", "--yes"]), 1);
    assert!(error.contains("t-1 ends at offset 4"), "{error}");
    let text = node.text(&["topic", "trim", "t", "--to", "end", "--yes"]);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1..], [["0", "2", "5", "5", "3"], ["1", "2", "4", "4", "2"]]);
    assert_eq!(node.text(&["consume", "t"]), "");

    node.text(&["topic", "create", "kept", "--config", "cleanup.policy=compact"]);
    node.produce(&["kept", "--key-separator", ":"], b"k:v\n");
    let error = failure(&node.run(&["topic", "trim", "kept", "--to", "end", "--yes"]), 1);
    assert!(error.contains("POLICY_VIOLATION"), "{error}");
    let error = failure(&node.run(&["topic", "trim", "nope", "--to", "end", "--yes"]), 1);
    assert!(error.contains("no topic 'nope'"), "{error}");
}

/// An address at which nobody listens.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn nobody_at_the_address_is_said_when_the_time_is_up() {
    let arguments = ["topic", "list", "--timeout", "0.7", "--bootstrap", &free_address()];
    let error = failure(&run(Command::new(BINARY).args(arguments), b""), 1);
    assert!(error.contains("within 700ms") && error.contains("connection refused"), "{error}");
    assert!(error.contains("is a node running"), "{error}");
    assert_eq!(error.lines().count(), 2, "an error and a hint: {error}");
    // What cannot become right is said at once.
    let arguments = ["topic", "list", "--timeout", "86400", "--bootstrap", "nowhere"];
    assert!(failure(&run(Command::new(BINARY).args(arguments), b""), 1).contains("host:port"));
}

#[test]
fn a_node_that_starts_within_the_time_is_waited_for() {
    let dir = on_disk();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let waiting = Command::new(BINARY)
        .args(["topic", "list", "--timeout", "60", "--bootstrap", &address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first attempt is cut off; the next ones find nobody, until the node is there.
    drop(listener.accept().unwrap());
    drop(listener);
    let _node = Node::start_at(&address, dir.path(), &[]);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("there are no topics") && said.lines().count() == 1,
        "no terminal, no note: {said}"
    );
}

#[test]
fn configurations_are_refused_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    fs::write(&file, "node_id = 1\nshrads = 2\n").unwrap();
    let output = run(Command::new(BINARY).args(["serve", "--config"]).arg(&file), b"");
    let error = failure(&output, 1);
    assert!(error.contains("node.toml") && error.contains("line 2") && error.contains("shrads"), "{error}");
    let output = run(Command::new(BINARY).args(["serve", "--listen", "0.0.0.0:0"]), b"");
    assert!(failure(&output, 1).contains("--advertise"));
    let output = run(Command::new(BINARY).args(["serve", "--print-config", "--shards", "7"]), b"");
    assert!(succeeded(output).contains("\nshards = 7\n"));
}

fn verify(dir: &Path) -> Output {
    run(Command::new(BINARY).arg("verify").arg(dir), b"")
}

#[test]
fn verify_tells_a_whole_directory_from_a_damaged_one() {
    let dir = on_disk();
    let node = Node::start(dir.path(), &[]);
    node.text(&["topic", "create", "t"]);
    for number in 0..5 {
        node.produce(&["t"], format!("the record with number {number}\n").as_bytes());
    }
    let data_dir = node.data_dir.clone();
    let error = failure(&verify(&data_dir), 1);
    assert!(error.contains("in use by another process"), "{error}");
    node.stop();
    assert!(succeeded(verify(&data_dir)).ends_with("is whole\n"));
    let dump = succeeded(run(Command::new(BINARY).arg("dump").arg(&data_dir), b""));
    assert!(dump.contains("append") && dump.contains("closes the journal"), "{dump}");

    // Restarted, killed, and whole again.
    let node = Node::start(dir.path(), &[]);
    node.produce(&["t"], b"one more\n");
    assert_eq!(node.text(&["consume", "t"]).lines().count(), 6);
    node.kill();
    let needle = b"the record with number 1";
    let journals = glob_journals(&data_dir);
    assert!(succeeded(verify(&data_dir)).ends_with("is whole\n"));

    // One flipped bit in something that was acknowledged. A file of the run before may still hold
    // it too, though it counts no more: every copy is damaged.
    let mut damaged = 0;
    for path in &journals {
        let mut bytes = fs::read(path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            bytes[at] ^= 1;
            fs::write(path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "small records are in a journal");
    let output = verify(&data_dir);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("PROBLEM") && text.contains("lost"), "{text}");
}

fn glob_journals(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for journal in fs::read_dir(dir.join("journal")).unwrap() {
        for file in fs::read_dir(journal.unwrap().path()).unwrap() {
            found.push(file.unwrap().path());
        }
    }
    found
}

#[test]
fn configs_are_listed_described_set_and_unset() {
    let dir = on_disk();
    let node = Node::start(dir.path(), &[]);
    node.text(&["topic", "create", "t", "--config", "retention.ms=1000000"]);
    assert_eq!(
        node.text(&["config", "set", "--topic", "t", "segment.ms=5000"]),
        "changed topic 't': segment.ms = 5000\n"
    );
    let described = node.text(&["config", "describe", "--topic", "t", "segment.ms"]);
    assert!(described.starts_with("segment.ms = 5000  (topic)\n  else log.roll.ms = "), "{described}");
    assert_eq!(
        node.text(&["config", "unset", "--topic", "t", "segment.ms"]),
        "changed topic 't': segment.ms has its default\n"
    );
    let listed = node.text(&["config", "list", "--topic", "t"]);
    assert!(listed.contains("retention.ms") && !listed.contains("segment.ms"), "{listed}");

    // Nobody is there to answer, so that what may delete records is not done.
    let error = failure(&node.run(&["config", "set", "--topic", "t", "retention.ms=10"]), 1);
    assert!(error.contains("cannot be undone") && error.contains("--yes"), "{error}");
    node.text(&["config", "set", "--topic", "t", "retention.ms=10", "--yes"]);
    node.text(&["config", "set", "--topic", "t", "retention.ms=20"]);
    let error = failure(&node.run(&["config", "set", "--topic", "t", "retention.ms=soon"]), 1);
    assert!(error.contains("Not a number of type LONG"), "{error}");
    let error = failure(&node.run(&["config", "set", "--topic", "u", "segment.ms=1"]), 1);
    assert!(error.contains("no topic 'u'"), "{error}");

    node.text(&["config", "set", "--all-nodes", "log.roll.ms=7000"]);
    node.text(&["config", "set", "--node", "1", "message.max.bytes=2000", "--dry-run"]);
    let listed = node.text(&["config", "list", "--output", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let row = |of: &str, name: &str, value: &str, source: &str| {
        serde_json::json!({
            "of": of, "name": name, "value": value, "source": source, "is_default": false, "read_only": false,
        })
    };
    assert_eq!(
        listed,
        serde_json::json!([
            row("all nodes", "log.roll.ms", "7000", "all nodes"),
            row("topic 't'", "retention.ms", "20", "topic"),
        ])
    );
    let all = node.text(&["config", "list", "--node", "1", "--all"]);
    assert!(all.lines().any(|line| line.contains("node.id") && line.contains("(fixed)")), "{all}");
    assert!(all.lines().any(|line| line.contains("log.retention.ms") && line.contains("default")), "{all}");
    let error = failure(&node.run(&["config", "describe", "--topic", "t", "no.such"]), 1);
    assert!(error.contains("no config 'no.such'"), "{error}");
    failure(&node.run(&["config", "set", "segment.ms=1"]), 2);
}

#[test]
fn topics_are_altered_and_grow() {
    let dir = on_disk();
    let node = Node::start(dir.path(), &[]);
    node.text(&["topic", "create", "t", "--partitions", "2", "--config", "segment.ms=5000"]);
    node.text(&["topic", "alter", "t", "--set", "max.message.bytes=5000", "--unset", "segment.ms"]);
    let topic: serde_json::Value =
        serde_json::from_str(&node.text(&["topic", "describe", "t", "--output", "json"])).unwrap();
    assert_eq!(topic["configs"]["max.message.bytes"], "5000");
    assert!(topic["configs"].get("segment.ms").is_none());
    node.produce(&["t", "--partition", "1"], "x".repeat(3000).as_bytes());
    let error = failure(&node.run(&["topic", "add-partitions", "t", "--to", "4"]), 1);
    assert!(error.contains("cannot be undone"), "{error}");
    let error = failure(&node.run(&["topic", "add-partitions", "t", "--to", "2", "--yes"]), 1);
    assert!(error.contains("Topic already has 2 partition(s)."), "{error}");
    assert_eq!(
        node.text(&["topic", "add-partitions", "t", "--to", "4", "--yes"]),
        "topic t has 4 partitions now\n"
    );
    node.text(&["topic", "add-partitions", "t", "--add", "1", "--yes"]);
    let topic: serde_json::Value =
        serde_json::from_str(&node.text(&["topic", "describe", "t", "--output", "json"])).unwrap();
    let sizes: Vec<u64> =
        topic["partitions"].as_array().unwrap().iter().map(|it| it["size_bytes"].as_u64().unwrap()).collect();
    assert_eq!((sizes.len(), sizes[0]), (5, 0));
    assert!((3000..4000).contains(&sizes[1]), "{sizes:?}");
    let described = node.text(&["topic", "describe", "t"]);
    assert!(described.lines().any(|line| line.ends_with("BYTES")), "{described}");
}
