//! What a simulated crash takes and what it leaves.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::fs::{self, AlignedBuf, BLOCK_BYTES, File, OpenMode};
use corelog_runtime::sim::{FaultOn, Sim, SimOptions};
use corelog_runtime::{task, time};

fn filled(byte: u8, blocks: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(blocks * BLOCK_BYTES);
    buf.fill(byte);
    buf
}

/// A file of `blocks` blocks of ones, everything synced, at /d/f.
async fn synced_file(blocks: usize) -> File {
    fs::create_dir_all("/d").await.unwrap();
    let file = File::create("/d/f".as_ref()).await.unwrap();
    file.write_at(filled(1, blocks), 0).await.unwrap();
    file.sync_data().await.unwrap();
    fs::sync_dir("/d").await.unwrap();
    fs::sync_dir("/").await.unwrap();
    file
}

#[test]
fn synced_data_survives_every_crash() {
    for seed in 0..200 {
        let sim = Sim::new(seed, SimOptions::default());
        sim.run_on(1, async {
            let _file = synced_file(8).await;
        });
        sim.crash_node(1);
        assert_eq!(sim.disk(1).content("/d/f").unwrap(), vec![1; 8 * BLOCK_BYTES], "seed {seed}");
    }
}

#[test]
fn an_unsynced_write_may_land_wholly_partly_or_not_in_sectors_of_either_size() {
    let (mut all, mut nothing, mut torn_in_block, mut torn_at_block, mut hole) =
        (false, false, false, false, false);
    for seed in 0..300 {
        let sim = Sim::new(seed, SimOptions::default());
        sim.run_on(1, async {
            let file = synced_file(4).await;
            file.write_at(filled(2, 4), 0).await.unwrap();
        });
        assert_eq!(sim.disk(1).content("/d/f").unwrap(), vec![2; 4 * BLOCK_BYTES]);
        sim.crash_node(1);
        let content = sim.disk(1).content("/d/f").unwrap();
        assert_eq!(content.len(), 4 * BLOCK_BYTES);
        let sectors: Vec<u8> = content
            .chunks(512)
            .map(|sector| {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector never tears");
                sector[0]
            })
            .collect();
        all |= sectors.iter().all(|sector| *sector == 2);
        nothing |= sectors.iter().all(|sector| *sector == 1);
        let mixed = |block: &[u8]| block.contains(&1) && block.contains(&2);
        let in_block = sectors.chunks(8).any(mixed);
        torn_in_block |= in_block;
        torn_at_block |= !in_block && mixed(&sectors);
        let first_old = sectors.iter().position(|sector| *sector == 1);
        let last_new = sectors.iter().rposition(|sector| *sector == 2);
        hole |= matches!((first_old, last_new), (Some(old), Some(new)) if old < new);
    }
    assert!(all && nothing && torn_in_block && torn_at_block && hole);
}

#[test]
fn unsynced_writes_are_reordered() {
    let mut second_without_first = false;
    for seed in 0..100 {
        let sim = Sim::new(seed, SimOptions::default());
        sim.run_on(1, async {
            let file = synced_file(2).await;
            file.write_at(filled(2, 1), 0).await.unwrap();
            file.write_at(filled(3, 1), BLOCK_BYTES as u64).await.unwrap();
        });
        sim.crash_node(1);
        let content = sim.disk(1).content("/d/f").unwrap();
        second_without_first |=
            content[..BLOCK_BYTES] == [1; BLOCK_BYTES] && content[BLOCK_BYTES..] == [3; BLOCK_BYTES];
    }
    assert!(second_without_first);
}

#[test]
fn a_durable_write_survives_every_crash_and_vouches_for_no_other() {
    let mut other_lost = false;
    for seed in 0..200 {
        let sim = Sim::new(seed, SimOptions::default());
        sim.run_on(1, async {
            let _ones = synced_file(4).await;
            let file = File::open("/d/f".as_ref(), OpenMode::Durable).await.unwrap();
            file.write_at(filled(2, 2), 0).await.unwrap();
            file.write_at(filled(3, 1), 3 * BLOCK_BYTES as u64).await.unwrap();
            file.write_durably(filled(4, 2), BLOCK_BYTES as u64).await.unwrap();
        });
        sim.crash_node(1);
        let content = sim.disk(1).content("/d/f").unwrap();
        assert_eq!(content[BLOCK_BYTES..3 * BLOCK_BYTES], [4; 2 * BLOCK_BYTES], "seed {seed}");
        other_lost |= content[3 * BLOCK_BYTES..].contains(&1);
    }
    assert!(other_lost);
}

#[test]
fn a_durable_write_in_flight_is_as_torn_as_any_and_one_whose_sync_fails_is_not_durable() {
    let (mut torn, mut lost) = (false, false);
    for seed in 0..200 {
        for fails in [false, true] {
            let sim = Sim::new(seed, SimOptions::default());
            if fails {
                sim.disk(1).fail_after(FaultOn::Sync, "/d/f", 1, 1);
            }
            sim.run_on(1, async move {
                let ones = synced_file(4).await;
                let file = File::open("/d/f".as_ref(), OpenMode::Durable).await.unwrap();
                let write = async move { file.write_durably(filled(2, 4), 0).await.is_err() };
                if fails {
                    assert!(write.await);
                    // The next sync reports success, and what the failed one was for is gone all the same.
                    ones.sync_data().await.unwrap();
                } else {
                    task::spawn(async move {
                        write.await;
                    });
                    task::yield_now().await;
                }
            });
            sim.crash_node(1);
            let content = sim.disk(1).content("/d/f").unwrap();
            torn |= !fails && content.contains(&1) && content.contains(&2);
            lost |= fails && content.contains(&1);
        }
    }
    assert!(torn && lost);
}

#[test]
fn a_sync_covers_only_the_writes_that_completed_before_it_was_called() {
    let mut lost = false;
    for seed in 0..200 {
        let sim = Sim::new(seed, SimOptions::default());
        sim.run_on(1, async {
            let file = synced_file(1).await;
            let writer = file.clone();
            let write = task::spawn_join(task::Class::Journal, async move {
                writer.write_at(filled(2, 1), 0).await.unwrap();
            });
            task::yield_now().await;
            file.sync_data().await.unwrap();
            write.await;
        });
        sim.crash_node(1);
        lost |= sim.disk(1).content("/d/f").unwrap()[0] == 1;
    }
    assert!(lost);
}

#[test]
fn writes_in_flight_complete_in_any_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..50 {
        let order = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&order);
        Sim::new(seed, SimOptions::default()).run_on(1, async move {
            let file = synced_file(3).await;
            let mut joins = Vec::new();
            for i in 0..3_u64 {
                let (file, log) = (file.clone(), Rc::clone(&log));
                joins.push(task::spawn_join(task::Class::Journal, async move {
                    file.write_at(filled(i as u8, 1), i * BLOCK_BYTES as u64).await.unwrap();
                    log.borrow_mut().push(i);
                }));
            }
            for join in joins {
                join.await;
            }
        });
        orders.insert(order.take());
    }
    assert_eq!(orders.len(), 6, "all permutations of three writes");
}

#[test]
fn an_unsynced_length_may_be_lost_and_never_exceeds_what_was_written() {
    let mut lengths = BTreeSet::new();
    for seed in 0..200 {
        let sim = Sim::new(seed, SimOptions::default());
        sim.run_on(1, async {
            let file = synced_file(1).await;
            file.write_at(filled(2, 2), BLOCK_BYTES as u64).await.unwrap();
        });
        sim.crash_node(1);
        let content = sim.disk(1).content("/d/f").unwrap();
        assert_eq!(content[..BLOCK_BYTES], [1; BLOCK_BYTES]);
        assert!(content[BLOCK_BYTES..].iter().all(|byte| [0, 2].contains(byte)));
        lengths.insert(content.len() / BLOCK_BYTES);
    }
    assert_eq!(lengths, BTreeSet::from([1, 2, 3]));
}

#[test]
fn a_truncation_is_durable_after_a_sync_and_uncertain_before() {
    let mut lengths = BTreeSet::new();
    for seed in 0..100 {
        let sim = Sim::new(seed, SimOptions::default());
        sim.run_on(1, async {
            let file = synced_file(4).await;
            file.truncate(5_000).await.unwrap();
            assert_eq!(file.read_at(4_990, 100).await.unwrap(), vec![1; 10]);
            file.sync_data().await.unwrap();
            file.truncate(100).await.unwrap();
            file.truncate(200).await.unwrap();
            assert_eq!(file.read_at(90, 20).await.unwrap(), [[1; 10], [0; 10]].concat());
        });
        sim.crash_node(1);
        let content = sim.disk(1).content("/d/f").unwrap();
        lengths.insert(content.len());
        assert_eq!(content[..100], [1; 100]);
    }
    assert!(lengths.contains(&5_000) && lengths.contains(&200), "{lengths:?}");
    assert!(lengths.is_subset(&BTreeSet::from([5_000, 200, 100])), "{lengths:?}");
}

#[test]
fn unsynced_directory_operations_may_be_lost_and_synced_ones_are_not() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let sim = Sim::new(seed, SimOptions::default());
        sim.run_on(1, async {
            let file = synced_file(1).await;
            file.close().await.unwrap();
            File::create("/d/synced".as_ref()).await.unwrap();
            fs::sync_dir("/d").await.unwrap();
            File::create("/d/new".as_ref()).await.unwrap();
            fs::rename("/d/f", "/d/g").await.unwrap();
            fs::remove_file("/d/synced").await.unwrap();
            assert_eq!(fs::list_dir("/d").await.unwrap().len(), 2);
        });
        sim.crash_node(1);
        let names = sim.disk(1).names("/d");
        let has = |name: &str| names.iter().any(|other| other == name);
        assert!(has("f") ^ has("g"), "a rename is atomic: {names:?}");
        let moved = if has("f") { "/d/f" } else { "/d/g" };
        assert_eq!(sim.disk(1).content(moved).unwrap(), vec![1; BLOCK_BYTES]);
        outcomes.insert((has("new"), has("g"), has("synced")));
    }
    assert_eq!(outcomes.len(), 8, "any subset: {outcomes:?}");
}

#[test]
fn a_kill_keeps_completed_operations_and_a_later_power_loss_still_takes_them() {
    let mut lost = false;
    for seed in 0..100 {
        let sim = Sim::new(seed, SimOptions::default());
        let node = sim.start_node(1, 1, |_: corelog_runtime::shards::ShardContext<(), ()>| async {
            let file = synced_file(1).await;
            file.write_at(filled(2, 1), 0).await.unwrap();
            fs::rename("/d/f", "/d/g").await.unwrap();
            std::future::pending::<Result<(), String>>().await
        });
        sim.run_until(time::sleep(Duration::from_secs(1)));
        drop(node);
        sim.kill_process(1);
        assert!(!sim.is_running(1));
        assert_eq!(sim.disk(1).names("/d"), ["g"]);
        assert_eq!(sim.disk(1).content("/d/g").unwrap(), vec![2; BLOCK_BYTES]);
        sim.crash_node(1);
        let name = format!("/d/{}", sim.disk(1).names("/d")[0]);
        lost |= sim.disk(1).content(name).unwrap()[0] == 1;
    }
    assert!(lost);
}

#[test]
fn a_write_whose_future_was_dropped_still_happens() {
    let sim = Sim::new(1, SimOptions::default());
    sim.run_on(1, async {
        let file = synced_file(1).await;
        {
            let mut write = Box::pin(file.write_at(filled(2, 1), 0));
            assert!(futures_lite::future::poll_once(&mut write).await.is_none());
        }
        time::sleep(Duration::from_secs(1)).await;
        assert_eq!(file.read_at(0, 4).await.unwrap(), [2; 4].as_slice());
    });
}

#[test]
fn injected_faults_hit_once_and_a_failed_sync_loses_data_for_good() {
    let mut lost = false;
    for seed in 0..50 {
        let sim = Sim::new(seed, SimOptions::default());
        let disk = sim.disk(1);
        sim.run_on(1, async move {
            let file = synced_file(1).await;
            disk.fail(FaultOn::Write, "f", 1);
            assert_eq!(file.write_at(filled(3, 1), 0).await.unwrap_err().raw_os_error(), Some(5));
            disk.fail(FaultOn::Read, "f", 1);
            assert_eq!(file.read_at(0, 1).await.unwrap_err().raw_os_error(), Some(5));
            file.write_at(filled(2, 1), 0).await.unwrap();
            disk.fail_after(FaultOn::Sync, "f", 0, 1);
            assert_eq!(file.sync_data().await.unwrap_err().raw_os_error(), Some(5));
            file.sync_data().await.unwrap();
            assert_eq!(file.read_at(0, 1).await.unwrap()[0], 2);
        });
        sim.crash_node(1);
        lost |= sim.disk(1).content("/d/f").unwrap().contains(&1);
    }
    assert!(lost, "the second sync said that all was well");
}

#[test]
fn a_full_disk_refuses_new_blocks_and_takes_old_ones() {
    let sim = Sim::new(3, SimOptions::default());
    let disk = sim.disk(1);
    sim.run_on(1, async move {
        let file = synced_file(4).await;
        disk.set_free_bytes(Some(2 * BLOCK_BYTES as u64));
        let full = file.write_at(filled(2, 3), 4 * BLOCK_BYTES as u64).await.unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        file.write_at(filled(2, 4), 0).await.unwrap();
        file.write_at(filled(2, 2), 4 * BLOCK_BYTES as u64).await.unwrap();
        let other = File::create("/d/other".as_ref()).await.unwrap();
        other.write_at(filled(2, 1), 0).await.unwrap_err();
        file.truncate(0).await.unwrap();
        other.write_at(filled(2, 6), 0).await.unwrap();
        assert_eq!(disk.used_bytes(), 6 * BLOCK_BYTES as u64);
        let read_only = File::open("/d/f".as_ref(), OpenMode::Read).await.unwrap();
        read_only.write_at(filled(2, 1), 0).await.unwrap_err();
    });
}

#[test]
fn a_flipped_bit_is_seen() {
    let sim = Sim::new(3, SimOptions::default());
    sim.run_on(1, async {
        let _file = synced_file(2).await;
    });
    sim.disk(1).flip_bit("/d/f", 5_000, 3);
    sim.crash_node(1);
    let content = sim.disk(1).content("/d/f").unwrap();
    assert_eq!(content[5_000], 1 ^ 8);
    assert_eq!(content.iter().filter(|byte| **byte != 1).count(), 1);
}
