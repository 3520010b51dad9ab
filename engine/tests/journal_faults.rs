//! The journal on a bad disk: flipped bits, errors, no space.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, dead_code)]

mod journal_sim;

use std::path::Path;
use std::time::Duration;

use corelog_engine::journal::dump::{self, Detail, Item};
use corelog_engine::journal::{Entry, Journal, JournalError, JournalFull, JournalOptions, ReplayReport};
use corelog_engine::types::{Lsn, PartitionId};
use corelog_runtime::sim::{FaultOn, Latency, Sim, SimOptions};
use corelog_runtime::{rand, time};
use journal_sim::{DIR, NODE, entry, new_sim, small_options};

type Replayed = Vec<(Lsn, Entry)>;

async fn open(options: JournalOptions) -> (Journal, ReplayReport, Replayed) {
    let mut replayed = Vec::new();
    let (journal, report) = Journal::open(options, |lsn, entry| replayed.push((lsn, entry))).await.unwrap();
    (journal, report, replayed)
}

fn reopen(sim: &Sim) -> (ReplayReport, Replayed) {
    sim.run_on(NODE, async {
        let (_journal, report, replayed) = open(small_options()).await;
        (report, replayed)
    })
}

fn payload(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(len.max(8), 0xa5);
    bytes
}

/// Appends `count` entries to the partitions in turn, each synced before the next.
async fn append_synced(journal: &Journal, count: u64, partitions: i32) {
    for number in 0..count {
        let partition = i32::try_from(number).unwrap() % partitions;
        let len = 8 + usize::try_from(rand::below(6000)).unwrap();
        let lsn = journal.append(entry(partition, payload(number, len)));
        journal.wait_synced(lsn).await.unwrap();
    }
}

/// Position and length in the file of each commit that counts, and its LSNs.
#[derive(Debug, Clone)]
struct Found {
    path: std::path::PathBuf,
    position_bytes: u64,
    used_bytes: u64,
    lsn: Lsn,
    entries: u32,
}

fn commits(sim: &Sim) -> Vec<Found> {
    sim.run_on(NODE, async {
        let mut found = Vec::new();
        let mut file = std::path::PathBuf::new();
        let detail = Detail { entries: false, stale: false };
        dump::read_dir(Path::new(DIR), detail, |item| match item {
            Item::File { path, .. } => file = path.to_path_buf(),
            Item::Commit { header, body, stale, .. } => {
                assert!(body.is_ok());
                assert!(!stale);
                found.push(Found {
                    path: file.clone(),
                    position_bytes: header.position_bytes,
                    used_bytes: 88 + u64::from(header.body_bytes),
                    lsn: header.first_lsn,
                    entries: header.entries,
                });
            }
            Item::Entry { .. } | Item::BadEntry { .. } | Item::BadCommit { .. } => {
                panic!("{item:?}")
            }
        })
        .await
        .unwrap();
        found
    })
}

fn pick(sim: &Sim, below: u64) -> u64 {
    sim.run_until(async { rand::below(below) })
}

#[test]
fn a_flipped_bit_in_acknowledged_data_is_corruption_and_stays_reported() {
    for seed in 0..60 {
        let sim = new_sim(seed);
        sim.run_on(NODE, async {
            let (journal, ..) = open(small_options()).await;
            append_synced(&journal, 30, 3).await;
        });
        let all = commits(&sim);
        let hit = &all[usize::try_from(pick(&sim, all.len() as u64 - 1)).unwrap()];
        let at = hit.position_bytes + pick(&sim, hit.used_bytes);
        sim.disk(NODE).flip_bit(&hit.path, at, 3);

        let (report, replayed) = reopen(&sim);
        let corruption = report.corruption.expect("a corruption");
        assert_eq!(corruption.at_lsn, hit.lsn, "seed {seed}");
        assert_eq!(replayed.len() as u64, hit.lsn.0, "seed {seed}");
        assert_eq!(report.next_lsn, Lsn(30), "seed {seed}: LSNs of lost entries are not reused");
        let lost: Vec<i32> = match &corruption.partitions {
            None => (0..3).collect(),
            Some(partitions) => partitions.iter().map(|target| target.partition.0).collect(),
        };
        let concerned = i32::try_from(hit.lsn.0 % 3).unwrap();
        assert!(lost.contains(&concerned), "seed {seed}: {lost:?}");

        // The healthy partitions go on, and the next start says the same.
        sim.run_on(NODE, async {
            let (journal, ..) = open(small_options()).await;
            append_synced(&journal, 5, 1).await;
        });
        sim.crash_node(NODE);
        let (report, again) = reopen(&sim);
        assert_eq!(report.corruption.map(|it| it.partitions), Some(corruption.partitions));
        assert_eq!(again.len(), replayed.len() + 5, "seed {seed}");
        assert_eq!(again.last().unwrap().0, Lsn(34));
    }
}

#[test]
fn a_flipped_payload_bit_names_the_partitions_behind_it_and_no_other() {
    let sim = new_sim(1);
    sim.run_on(NODE, async {
        let (journal, ..) = open(small_options()).await;
        append_synced(&journal, 4, 1).await;
        for number in 4..7_u64 {
            let lsn = journal.append(entry(2, payload(number, 100)));
            journal.wait_synced(lsn).await.unwrap();
        }
    });
    let all = commits(&sim);
    let hit = all.iter().find(|commit| commit.lsn == Lsn(4)).unwrap();
    sim.disk(NODE).flip_bit(&hit.path, hit.position_bytes + 88 + 64 + 50, 0);
    let (report, replayed) = reopen(&sim);
    let corruption = report.corruption.unwrap();
    assert_eq!(corruption.at_lsn, Lsn(4));
    let partitions: Vec<_> = corruption.partitions.unwrap().iter().map(|target| target.partition).collect();
    assert_eq!(partitions, [PartitionId(2)]);
    assert_eq!(replayed.len(), 4);
}

#[test]
fn a_flipped_bit_in_a_file_header_is_corruption_of_everything() {
    let sim = new_sim(5);
    sim.run_on(NODE, async {
        let (journal, ..) = open(small_options()).await;
        append_synced(&journal, 3, 1).await;
    });
    let path = commits(&sim)[0].path.clone();
    sim.disk(NODE).flip_bit(&path, 30, 1);
    for _ in 0..2 {
        let (report, replayed) = reopen(&sim);
        assert_eq!(report.corruption.unwrap().partitions, None);
        assert!(replayed.is_empty());
        assert_eq!(report.next_lsn, Lsn(3), "LSNs of lost entries are not reused");
    }
}

#[test]
fn a_torn_tail_is_not_a_corruption() {
    let mut torn = 0;
    for seed in 0..60 {
        let sim = new_sim(seed);
        sim.run_on(NODE, async {
            let (journal, ..) = open(small_options()).await;
            append_synced(&journal, 5, 1).await;
            let lsn = journal.append(entry(0, payload(5, 9000)));
            let mut progress = journal.progress();
            while progress.written <= lsn {
                progress = journal.changed(progress).await.unwrap();
            }
        });
        let all = commits(&sim);
        let last = all.last().unwrap();
        assert_eq!(last.lsn, Lsn(5));
        let at = last.position_bytes + pick(&sim, last.used_bytes);
        sim.disk(NODE).flip_bit(&last.path, at, 5);
        let (report, replayed) = reopen(&sim);
        assert!(report.corruption.is_none(), "seed {seed}");
        assert_eq!(replayed.len(), 5, "seed {seed}");
        torn += u64::from(report.torn_at.is_some());
    }
    // A flip in the commit's magic number looks as if nothing was written.
    assert!(torn > 50, "{torn} torn tails were noticed");
}

#[test]
fn after_a_close_a_flipped_bit_in_the_last_entries_is_noticed_too() {
    let sim = new_sim(2);
    sim.run_on(NODE, async {
        let (journal, ..) = open(small_options()).await;
        append_synced(&journal, 3, 1).await;
        journal.close().await.unwrap();
    });
    let all = commits(&sim);
    let last = all.iter().rfind(|commit| commit.entries > 0).unwrap();
    sim.disk(NODE).flip_bit(&last.path, last.position_bytes + 100, 5);
    let (report, _) = reopen(&sim);
    assert_eq!(report.corruption.unwrap().at_lsn, Lsn(2));
}

#[test]
fn a_missing_file_is_a_corruption() {
    let sim = new_sim(3);
    sim.run_on(NODE, async {
        let (journal, ..) = open(small_options()).await;
        append_synced(&journal, 60, 1).await;
        assert!(journal.files_live() > 2);
    });
    let all = commits(&sim);
    let middle = all.iter().find(|commit| commit.path != all[0].path).unwrap().clone();
    sim.run_on(NODE, async move {
        corelog_runtime::fs::remove_file(&middle.path).await.unwrap();
        let (_journal, report, replayed) = open(small_options()).await;
        assert_eq!(report.corruption.unwrap().at_lsn, middle.lsn);
        assert_eq!(replayed.len() as u64, middle.lsn.0);
        assert_eq!(report.next_lsn, Lsn(60));
    });
}

#[test]
fn a_missing_oldest_file_is_a_corruption() {
    let sim = new_sim(4);
    sim.run_on(NODE, async {
        let (journal, ..) = open(small_options()).await;
        append_synced(&journal, 60, 1).await;
        journal.release(journal.oldest_live().unwrap().end);
        append_synced(&journal, 2, 1).await;
    });
    let (_, replayed) = reopen(&sim);
    let oldest = commits(&sim).into_iter().find(|commit| commit.lsn >= replayed[0].0).unwrap();
    assert!(oldest.lsn > Lsn(0));
    sim.run_on(NODE, async move {
        corelog_runtime::fs::remove_file(&oldest.path).await.unwrap();
        let (_journal, report, replayed) = open(small_options()).await;
        assert_eq!(report.corruption.unwrap().partitions, None);
        assert!(replayed.is_empty());
        assert_eq!(report.next_lsn, Lsn(62));
    });
}

#[test]
fn a_failed_sync_fences_the_journal_for_good() {
    // A small commit is written and synced in one request, a large one is not.
    for (bytes, is_written) in [(10, false), (20_000, true)] {
        let sim = new_sim(1);
        let disk = sim.disk(NODE);
        let faults = disk.clone();
        sim.run_on(NODE, async move {
            let (journal, ..) = open(small_options()).await;
            append_synced(&journal, 3, 1).await;
            faults.fail(FaultOn::Sync, "journal", 1);
            let lsn = journal.append(entry(0, payload(3, bytes)));
            assert!(matches!(journal.wait_synced(lsn).await, Err(JournalError::Io { .. })));
            assert!(journal.fenced().is_some());
            let progress = journal.progress();
            assert_eq!((progress.synced, progress.written > lsn), (Lsn(3), is_written));
            let late = journal.append(entry(0, payload(4, 10)));
            assert!(journal.wait_synced(late).await.is_err());
            assert!(journal.changed(progress).await.is_err());
            assert_eq!(journal.progress(), progress);
            assert!(journal.close().await.is_err());
        });
        sim.crash_node(NODE);
        let (report, replayed) = reopen(&sim);
        assert!(report.corruption.is_none());
        assert!(replayed.len() >= 3, "what was acknowledged is there");
    }
}

#[test]
fn a_failed_write_fences_the_journal_and_nothing_behind_it_counts() {
    for seed in 0..20 {
        let sim = new_sim(seed);
        let disk = sim.disk(NODE);
        sim.run_on(NODE, async move {
            let (journal, ..) = open(small_options()).await;
            append_synced(&journal, 3, 1).await;
            disk.fail_after(FaultOn::Write, "journal", 1, 1);
            for number in 3..40 {
                journal.append(entry(0, payload(number, 9000)));
            }
            assert!(journal.wait_synced(Lsn(39)).await.is_err());
            assert!(journal.fenced().is_some());
            assert!(journal.progress().written < Lsn(40));
        });
        sim.kill_process(NODE);
        sim.disk(NODE).clear_faults();
        let (report, replayed) = reopen(&sim);
        assert!(report.corruption.is_none(), "seed {seed}");
        assert!(replayed.len() >= 3 && replayed.len() < 40, "seed {seed}");
    }
}

#[test]
fn a_full_disk_refuses_produces_keeps_a_reserve_and_recovers() {
    let sim = new_sim(1);
    let disk = sim.disk(NODE);
    let options = JournalOptions { max_files: 50, ..small_options() };
    let opened = options.clone();
    sim.run_on(NODE, async move {
        let (journal, ..) = open(opened.clone()).await;
        append_synced(&journal, 1, 1).await;
        disk.set_free_bytes(Some(opened.file_bytes * 4));
        let mut count = 1;
        while journal.full().is_none() {
            assert!(count < 1000, "the disk was to be full by now");
            let lsn = journal.append(entry(0, payload(count, 5000)));
            journal.wait_synced(lsn).await.unwrap();
            time::sleep(Duration::from_millis(5)).await;
            count += 1;
        }
        assert_eq!(journal.full(), Some(JournalFull::Disk));
        // Internal entries still fit: as many as the oldest file holds.
        let oldest = journal.oldest_live().unwrap();
        for _ in oldest.start.0..oldest.end.0 {
            let lsn = journal.append(entry(0, payload(count, 5000)));
            journal.wait_synced(lsn).await.unwrap();
            count += 1;
        }
        assert_eq!(journal.full(), Some(JournalFull::Disk));
        // Space comes back: no restart needed.
        disk.set_free_bytes(None);
        time::sleep(Duration::from_secs(11)).await;
        assert_eq!(journal.full(), None);
        append_synced(&journal, 50, 1).await;
        journal.close().await.unwrap();
        let (_journal, report, replayed) = open(opened).await;
        assert!(report.corruption.is_none());
        assert_eq!(replayed.len() as u64, count + 50);
    });
}

#[test]
fn a_release_frees_a_full_disk() {
    let sim = new_sim(2);
    let disk = sim.disk(NODE);
    let options = JournalOptions { max_files: 50, first_file_bytes: 128 << 10, ..small_options() };
    sim.run_on(NODE, async move {
        let (journal, ..) = open(options.clone()).await;
        append_synced(&journal, 1, 1).await;
        disk.set_free_bytes(Some(options.file_bytes * 2 + 8192));
        // Far more than there is room for: the rest stays queued.
        for number in 1..200 {
            journal.append(entry(0, payload(number, 5000)));
        }
        time::sleep(Duration::from_secs(1)).await;
        assert_eq!(journal.full(), Some(JournalFull::Disk));
        assert!(journal.queued_bytes() > 0);
        for _ in 0..100 {
            if let Some(oldest) = journal.oldest_live() {
                journal.release(oldest.end);
            }
            time::sleep(Duration::from_millis(50)).await;
        }
        journal.wait_synced(Lsn(199)).await.unwrap();
        assert_eq!(journal.queued_bytes(), 0);
    });
}

#[test]
fn a_file_that_cannot_be_finished_is_no_full_disk_where_another_came_back() {
    const FILE_BYTES: u64 = 24 << 20;
    const ENTRY_BYTES: usize = 900 << 10;
    // The space ends, and the oldest file is given back, at any moment of a file's making.
    let mut tried = 0;
    for moment in 0..12 {
        let sim = new_sim(moment);
        let disk = sim.disk(NODE);
        let was_tried = sim.run_on(NODE, async move {
            let options = JournalOptions {
                file_bytes: FILE_BYTES,
                first_file_bytes: FILE_BYTES,
                ..JournalOptions::new(DIR.into(), 7)
            };
            let (journal, ..) = open(options).await;
            let mut number = 0;
            while journal.files_live() < 3 {
                let lsn = journal.append(entry(0, payload(number, ENTRY_BYTES)));
                journal.wait_synced(lsn).await.unwrap();
                number += 1;
            }
            time::sleep(Duration::from_millis(moment)).await;
            journal.release(journal.oldest_live().unwrap().end);
            time::sleep(Duration::from_millis(2)).await;
            disk.set_free_bytes(Some(0));
            time::sleep(Duration::from_secs(1)).await;
            // The head, the one before it, and two that are ready: nothing is lacking.
            if disk.names(DIR).len() < 4 {
                return false;
            }
            for _ in 0..FILE_BYTES / ENTRY_BYTES as u64 - 3 {
                let lsn = journal.append(entry(0, payload(number, ENTRY_BYTES)));
                journal.wait_synced(lsn).await.unwrap();
                assert_eq!(journal.full(), None, "moment {moment}, entry {number}");
                number += 1;
            }
            true
        });
        tried += u32::from(was_tried);
    }
    assert!(tried > 0, "no moment was the right one");
}

#[test]
fn too_many_files_push_back_until_the_oldest_is_released() {
    let sim = new_sim(1);
    sim.run_on(NODE, async move {
        let (journal, ..) = open(small_options()).await;
        let mut number = 0;
        while journal.full().is_none() {
            let lsn = journal.append(entry(0, payload(number, 3000)));
            journal.wait_synced(lsn).await.unwrap();
            number += 1;
        }
        assert_eq!(journal.full(), Some(JournalFull::Files));
        assert!(journal.files_live() >= 4);
        journal.pressure().await;
        let lsn = journal.append(entry(0, payload(number, 3000)));
        journal.wait_synced(lsn).await.unwrap();
        journal.release(journal.oldest_live().unwrap().end);
        assert_eq!(journal.full(), None);
    });
}

#[test]
fn files_are_used_again_and_none_pile_up() {
    let sim = new_sim(9);
    let disk = sim.disk(NODE);
    sim.run_on(NODE, async move {
        let (journal, ..) = open(small_options()).await;
        for _ in 0..20 {
            append_synced(&journal, 40, 1).await;
            while let Some(oldest) = journal.oldest_live() {
                journal.release(oldest.end);
                time::sleep(Duration::from_millis(20)).await;
            }
        }
        assert!(disk.names(DIR).len() <= 4, "{:?}", disk.names(DIR));
    });
}

#[test]
fn under_load_no_commit_waits_for_a_new_file_and_the_files_stay_the_same() {
    const FILE_BYTES: u64 = 48 << 20;
    const ENTRY_BYTES: usize = 900 << 10;
    let us = Duration::from_micros;
    // Making a file takes longer than filling one, as on a device that is busy.
    let latency =
        Latency { write: us(200)..=us(200), sync: us(20)..=us(20), ..SimOptions::default().latency };
    let sim = Sim::new(11, SimOptions { latency, ..SimOptions::default() });
    let disk = sim.disk(NODE);
    sim.run_on(NODE, async move {
        let options = JournalOptions {
            file_bytes: FILE_BYTES,
            first_file_bytes: FILE_BYTES,
            ..JournalOptions::new(DIR.into(), 7)
        };
        let (journal, ..) = open(options).await;
        let (mut settled, mut slowest) = (Vec::new(), Duration::ZERO);
        // Past the first file, which is filled while it is in use.
        for number in 0..500 {
            let began = time::Instant::now();
            let lsn = journal.append(entry(0, payload(number, ENTRY_BYTES)));
            journal.wait_synced(lsn).await.unwrap();
            if number >= 100 {
                slowest = slowest.max(began.elapsed());
            }
            if journal.files_live() > 2 {
                journal.release(journal.oldest_live().unwrap().end);
            }
            if number == 250 {
                settled = disk.names(DIR);
            }
        }
        assert_eq!(disk.names(DIR), settled, "files are used again");
        assert!(slowest < Duration::from_millis(10), "{slowest:?} for a commit");
    });
}

#[test]
fn an_idle_journal_touches_no_file() {
    let sim = new_sim(1);
    let disk = sim.disk(NODE);
    sim.run_on(NODE, async move {
        let (journal, ..) = open(small_options()).await;
        append_synced(&journal, 30, 1).await;
        time::sleep(Duration::from_secs(10)).await;
        // Any use of the disk would fence the journal.
        for on in [FaultOn::Read, FaultOn::Write, FaultOn::Sync, FaultOn::Directory] {
            disk.fail(on, "journal", u32::MAX);
        }
        time::sleep(Duration::from_secs(3600)).await;
        disk.clear_faults();
        assert!(journal.fenced().is_none());
        append_synced(&journal, 30, 1).await;
    });
}

#[test]
fn an_entry_larger_than_a_commit_and_than_the_first_file_is_kept_whole() {
    let sim = new_sim(1);
    sim.run_on(NODE, async {
        let (journal, ..) = open(small_options()).await;
        let large = payload(1, journal.max_entry_bytes());
        let lsn = journal.append(entry(0, large));
        journal.append(entry(0, payload(2, 10)));
        journal.wait_synced(lsn.next()).await.unwrap();
    });
    sim.crash_node(NODE);
    let (report, replayed) = reopen(&sim);
    assert!(report.corruption.is_none());
    assert_eq!(replayed.len(), 2);
}

#[test]
fn another_journals_files_are_refused() {
    let sim = new_sim(1);
    sim.run_on(NODE, async {
        let (journal, ..) = open(small_options()).await;
        journal.close().await.unwrap();
        let other = JournalOptions { journal_id: 8, ..small_options() };
        let result = Journal::open(other, |_, _| {}).await;
        assert!(matches!(result, Err(JournalError::Foreign { found: 7, expected: 8, .. })));
    });
}
