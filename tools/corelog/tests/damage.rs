//! Disks that change bits or are full, under a real node: what is wrong is reported and never
//! served, and what can go on does.

#![allow(clippy::unwrap_used, missing_docs)]

mod live;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use corelog_protocol::batch::{BatchBuilder, BatchIter, Scratch};
use live::{BINARY, Node, PATIENCE, Raw, on_disk};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const CORRUPT_MESSAGE: i16 = 2;
const STORAGE_ERROR: i16 = 56;

fn verify(data_dir: &Path) -> Output {
    Command::new(BINARY).arg("verify").arg(data_dir).output().unwrap()
}

/// A value that nothing else looks like.
fn value_of(topic: &str, number: i64, size: usize) -> Vec<u8> {
    let mut value = format!("<{topic} record {number:06}>").into_bytes();
    value.resize(size.max(value.len()), b'.');
    value
}

fn batch_of(value: &[u8]) -> BytesMut {
    BatchBuilder::new().record(live::now_ms(), None, Some(value)).build().unwrap()
}

fn produce(client: &mut Raw, topic: &str, partition: i32, numbers: std::ops::Range<i64>, size: usize) {
    for number in numbers {
        let batch = batch_of(&value_of(topic, number, size));
        assert_eq!(client.produce(topic, partition, &batch), Some((0, number)));
    }
}

/// What the node says of one offset: its record, or the error. Anything but the record that was
/// acknowledged there fails the test.
fn read(client: &mut Raw, topic: &str, partition: i32, offset: i64, size: usize) -> Result<(), i16> {
    let (code, batches) = client.fetch(topic, partition, offset, 1);
    if code != 0 {
        return Err(code);
    }
    let batch = BatchIter::new(&batches[0]).next().unwrap().unwrap();
    assert_eq!(batch.header.base_offset, offset);
    assert!(corelog_protocol::batch::crc_ok(batch.bytes));
    let mut scratch = Scratch::default();
    let record = batch.records(&mut scratch, 1 << 24).unwrap().next().unwrap().unwrap();
    assert!(record.value == Some(&value_of(topic, offset, size)), "offset {offset} holds something else");
    Ok(())
}

/// All files below `dir` whose names end so.
fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, suffix));
        } else if path.to_str().unwrap().ends_with(suffix) {
            found.push(path);
        }
    }
    found
}

/// Flips a bit in the middle of `pattern`, in each place where it is; how many there are.
fn flip_in(paths: &[PathBuf], pattern: &[u8]) -> usize {
    let mut flipped = 0;
    for path in paths {
        let bytes = fs::read(path).unwrap();
        let file = OpenOptions::new().write(true).open(path).unwrap();
        for at in 0..bytes.len().saturating_sub(pattern.len()) {
            if bytes[at] == pattern[0] && bytes[at..].starts_with(pattern) {
                let middle = at + pattern.len() / 2;
                file.write_all_at(&[bytes[middle] ^ 1], middle as u64).unwrap();
                flipped += 1;
            }
        }
    }
    flipped
}

#[test]
fn a_flipped_bit_in_a_segment_is_reported_and_never_served() {
    const SIZE: usize = 100_000;
    let dir = on_disk();
    let node = Node::start(dir.path(), &[]);
    node.create("t", 2);
    let mut client = node.connect();
    produce(&mut client, "t", 0, 0..100, SIZE);
    produce(&mut client, "t", 1, 0..100, SIZE);
    node.stop();
    assert!(verify(&dir.path().join("data")).status.success());
    // Value 40 is in partition 0 and in partition 1: damage the first file that has it.
    let segments = files(&dir.path().join("data/topics"), ".log");
    let damaged = segments.iter().find(|path| path.parent().unwrap().ends_with("0")).unwrap();
    assert_eq!(flip_in(std::slice::from_ref(damaged), b"<t record 000040>"), 1);

    let verified = verify(&dir.path().join("data"));
    let told = String::from_utf8(verified.stdout).unwrap();
    assert_eq!(verified.status.code(), Some(1), "{told}");
    assert!(told.contains(damaged.to_str().unwrap()) && told.contains("checksum"), "{told}");

    let node = Node::start(dir.path(), &[]);
    let mut client = node.connect();
    let outcomes: Vec<_> = (0..100).map(|offset| read(&mut client, "t", 0, offset, SIZE)).collect();
    assert_eq!(outcomes[40], Err(CORRUPT_MESSAGE));
    assert!(outcomes[..40].iter().all(Result::is_ok), "{outcomes:?}");
    assert!(outcomes[40..].iter().all(|outcome| matches!(outcome, Ok(()) | Err(CORRUPT_MESSAGE))));
    println!(
        "behind the flipped bit {} of 59 can be read",
        outcomes[41..].iter().filter(|it| it.is_ok()).count()
    );
    for offset in 0..100 {
        assert_eq!(read(&mut client, "t", 1, offset, SIZE), Ok(()), "another partition");
    }
    // Clients repeat a failed fetch: the log does not fill up with it.
    for _ in 0..200 {
        assert_eq!(read(&mut client, "t", 0, 40, SIZE), Err(CORRUPT_MESSAGE));
    }
    let log = node.log();
    let lines = log.lines().filter(|line| line.contains("corrupt segment")).count();
    assert!((1..100).contains(&lines), "{lines} lines");
    // And the partition takes more.
    produce(&mut client, "t", 0, 100..110, SIZE);
    node.stop();
}

#[test]
fn a_flipped_bit_in_a_journal_is_reported_and_never_served() {
    const SIZE: usize = 1000;
    let dir = on_disk();
    let node = Node::start(dir.path(), &[]);
    node.create("a", 1);
    node.create("b", 1);
    let mut client = node.connect();
    for number in 0..50 {
        produce(&mut client, "a", 0, number..number + 1, SIZE);
        produce(&mut client, "b", 0, number..number + 1, SIZE);
    }
    node.kill();
    let journals = files(&dir.path().join("data/journal"), ".journal");
    assert_eq!(flip_in(&journals, b"<a record 000020>"), 1);
    let verified = verify(&dir.path().join("data"));
    let told = String::from_utf8(verified.stdout).unwrap();
    assert_eq!(verified.status.code(), Some(1), "{told}");

    for _ in 0..2 {
        let node = Node::start(dir.path(), &[]);
        let mut client = node.connect();
        for offset in 0..50 {
            assert_eq!(read(&mut client, "a", 0, offset, SIZE), Err(STORAGE_ERROR), "offset {offset}");
        }
        let refused = client.produce("a", 0, &batch_of(b"more")).unwrap();
        assert_eq!(refused.0, STORAGE_ERROR, "nothing is acknowledged behind what was lost");
        let b: Vec<_> = (0..50).map(|offset| read(&mut client, "b", 0, offset, SIZE)).collect();
        assert!(b.iter().all(Result::is_ok) || b.iter().all(|it| *it == Err(STORAGE_ERROR)), "{b:?}");
        assert!(node.log().contains("lost acknowledged entries"), "{}", node.log());
        node.kill();
    }
}

/// What the layout does not name is removed at the start.
/// What is done to a file: a byte at a place is another one, or the file ends there.
type Damage = (prop::sample::Index, prop::sample::Index, Option<u8>);

#[test]
fn whatever_is_in_its_files_a_directory_is_dumped_and_verified_or_that_is_an_error() {
    const SIZE: usize = 10_000;
    let small = [("CORELOG_JOURNAL_FILE_BYTES", "8388608"), ("CORELOG_JOURNAL_FIRST_FILE_BYTES", "4194304")];
    let dir = on_disk();
    let node = Node::start(dir.path(), &small);
    node.create("t", 2);
    let mut client = node.connect();
    // More than the journals hold: some of it is in segments.
    produce(&mut client, "t", 0, 0..500, SIZE);
    produce(&mut client, "t", 1, 0..20, 100);
    let data_dir = node.data_dir.clone();
    node.kill();
    let originals: Vec<_> =
        files(&data_dir, "").into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    assert!(
        originals.iter().any(|(_, path)| path.extension().is_some_and(|it| it == "log")),
        "{originals:?}"
    );

    let damages = prop::collection::vec(
        (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<Option<u8>>()),
        1..4,
    );
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&damages, |damages: Vec<Damage>| {
        for (file, at, byte) in &damages {
            let (bytes, path) = &originals[file.index(originals.len())];
            // Journals are mostly empty: what is in them is at their beginning.
            let at = at.index(bytes.len().clamp(1, 100_000)) as u64;
            let file = OpenOptions::new().write(true).open(path).unwrap();
            match byte {
                Some(byte) => file.write_all_at(&[*byte], at).unwrap(),
                None => file.set_len(at).unwrap(),
            }
        }
        for command in [&["dump", "--stale", "--output", "json"][..], &["verify"]] {
            // One that hangs is an error too.
            let limit = PATIENCE.as_secs().to_string();
            let mut limited = Command::new("timeout");
            let output = limited.args([&limit, BINARY]).args(command).arg(&data_dir).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            prop_assert!(
                matches!(output.status.code(), Some(0 | 1)),
                "{command:?}: {:?} {said}",
                output.status
            );
            prop_assert!(!said.contains("panicked"), "{command:?}: {said}");
        }
        for (file, ..) in &damages {
            let (bytes, path) = &originals[file.index(originals.len())];
            fs::write(path, bytes).unwrap();
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(verify(&data_dir).status.success(), "all is as it was");
}

#[test]
fn a_damaged_layout_stops_the_start_and_removes_nothing() {
    let dir = on_disk();
    let node = Node::start(dir.path(), &[]);
    node.create("t", 1);
    let mut client = node.connect();
    produce(&mut client, "t", 0, 0..10, 100);
    node.stop();
    let (data, layout) = (dir.path().join("data"), dir.path().join("data/layout"));
    let whole = fs::read(&layout).unwrap();
    let journals = files(&data.join("journal"), ".journal");
    for damaged in [whole.iter().map(|byte| byte ^ 2).collect(), whole[..10].to_vec(), Vec::new(), {
        let mut flipped = whole.clone();
        flipped[8] ^= 4;
        flipped
    }] {
        fs::write(&layout, &damaged).unwrap();
        // It may not start, and it may not hang either.
        let output = Command::new("timeout")
            .args([
                "60",
                BINARY,
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--http",
                "",
                "--shards",
                "2",
                "--data-dir",
            ])
            .arg(&data)
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("layout"), "{told}");
        assert_eq!(files(&data.join("journal"), ".journal"), journals, "nothing is removed");
    }
    fs::write(&layout, &whole).unwrap();
    let node = Node::start(dir.path(), &[]);
    let mut client = node.connect();
    for offset in 0..10 {
        assert_eq!(read(&mut client, "t", 0, offset, 100), Ok(()));
    }
}

/// A file system of its own in a file, unmounted when dropped.
struct Mounted {
    at: PathBuf,
}

impl Mounted {
    fn new(dir: &Path, mebibytes: u32) -> Self {
        let (image, at) = (dir.join("image"), dir.join("mounted"));
        fs::create_dir(&at).unwrap();
        let ran = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().unwrap();
            assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        };
        ran("truncate", &["-s", &format!("{mebibytes}M"), image.to_str().unwrap()]);
        ran("mkfs.ext4", &["-q", "-m", "0", image.to_str().unwrap()]);
        ran("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()]);
        Self { at }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
    }
}

/// Produces until it is refused for good; the number of records that are there.
fn fill(client: &mut Raw, topic: &str, mut number: i64, size: usize) -> i64 {
    let began = Instant::now();
    let mut refused = 0;
    while refused < 5 {
        assert!(began.elapsed() < 3 * PATIENCE, "the file system is full by now");
        let batch = batch_of(&value_of(topic, number, size));
        let asked = Instant::now();
        match client.produce(topic, 0, &batch).unwrap() {
            (0, offset) => {
                assert_eq!(offset, number);
                number += 1;
                refused = 0;
            }
            (code, _) => {
                assert_eq!(code, STORAGE_ERROR);
                refused += 1;
                std::thread::sleep(Duration::from_millis(300));
            }
        }
        assert!(asked.elapsed() < PATIENCE, "a produce is decided in time");
    }
    number
}

fn resumes(node: &Node, client: &mut Raw, topic: &str, number: i64, size: usize) {
    let began = Instant::now();
    loop {
        let produced = client.produce(topic, 0, &batch_of(&value_of(topic, number, size)));
        match produced.unwrap_or_else(|| panic!("the node has ended: {}", node.log())) {
            (0, offset) => {
                assert_eq!(offset, number, "what was refused was not appended");
                break;
            }
            (code, _) => assert_eq!(code, STORAGE_ERROR),
        }
        assert!(began.elapsed() < PATIENCE, "produces go on when there is space again: {}", node.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("produces went on {:?} after there was space again", began.elapsed());
}

#[test]
#[ignore = "mounts a file system of its own, which needs root: cargo xtask test --only full-disk"]
fn a_full_file_system_refuses_produces_and_nothing_else() {
    const SIZE: usize = 100_000;
    let dir = on_disk();
    let mounted = Mounted::new(dir.path(), 160);
    let environment = [
        ("CORELOG_JOURNAL_FILE_BYTES", "8388608"),
        ("CORELOG_JOURNAL_FIRST_FILE_BYTES", "4194304"),
        ("CORELOG_MEMORY_TAIL_CACHE_BYTES", "4194304"),
    ];
    let node = Node::start(&mounted.at, &environment);
    node.create("spare", 1);
    node.create("log", 1);
    let mut client = node.connect();
    produce(&mut client, "spare", 0, 0..300, SIZE);
    let full = fill(&mut client, "log", 0, SIZE);
    println!("refused behind {full} records of {SIZE} bytes");
    for offset in 0..full {
        assert_eq!(read(&mut client, "log", 0, offset, SIZE), Ok(()), "fetches go on");
    }
    let deleted = node.run(&["topic", "delete", "spare"]);
    assert!(deleted.status.success(), "{deleted:?}");
    resumes(&node, &mut client, "log", full, SIZE);

    // Something else takes the space, and gives it back.
    let ballast = mounted.at.join("ballast");
    let took = fs::write(&ballast, vec![1; 160 << 20]);
    assert!(took.is_err(), "there is no space for all of it");
    let again = fill(&mut client, "log", full + 1, SIZE);
    for offset in 0..again {
        assert_eq!(read(&mut client, "log", 0, offset, SIZE), Ok(()), "fetches go on");
    }
    println!("ballast of {} bytes, {again} records", fs::metadata(&ballast).unwrap().len());
    fs::remove_file(&ballast).unwrap();
    resumes(&node, &mut client, "log", again, SIZE);
    for offset in 0..=again {
        assert_eq!(read(&mut client, "log", 0, offset, SIZE), Ok(()));
    }
    node.stop();
    assert!(verify(&mounted.at.join("data")).status.success());
}
