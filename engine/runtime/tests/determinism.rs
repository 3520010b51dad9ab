//! A seed replays a run.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use corelog_runtime::fs::{self, AlignedBuf, BLOCK_BYTES, File, OpenMode};
use corelog_runtime::shards::{self, ShardContext};
use corelog_runtime::sim::{FaultOn, Sim, SimOptions};
use corelog_runtime::task::{self, Class};
use corelog_runtime::{rand, time};

/// Writers, a mesh, timers and file operations, in any interleaving; some shards fail on the way.
async fn busy_shard(context: ShardContext<u64, u64>) -> Result<(), String> {
    let path = format!("/shard-{}", context.shard);
    fs::create_dir_all(&path).await.map_err(|error| error.to_string())?;
    let file = format!("{path}/{}", rand::u64());
    let file = File::create(file.as_ref()).await.map_err(|error| error.to_string())?;
    let mesh = context.mesh.clone();
    task::spawn(async move {
        while let Some(incoming) = mesh.next().await {
            time::sleep(Duration::from_micros(rand::below(300))).await;
            if let Some(reply) = incoming.reply {
                reply.send(incoming.q + 1);
            }
        }
    });
    let stop = shards::stop_signal();
    for round in 0.. {
        if stop.is_raised() {
            break;
        }
        let mut joins = Vec::new();
        for _ in 0..rand::below(4) {
            let (file, at) = (file.clone(), rand::below(16) * BLOCK_BYTES as u64);
            joins.push(task::spawn_join(Class::Journal, async move {
                file.write_at(AlignedBuf::padded(&[round as u8; 3]), at).await.map(drop)
            }));
        }
        let call = context.mesh.call(rand::below(context.shards as u64) as usize, round);
        let _late = time::timeout(Duration::from_micros(200), call).await;
        for join in joins {
            join.await.map_err(|error| error.to_string())?;
        }
        file.sync_data().await.map_err(|error| error.to_string())?;
        task::yield_if_needed().await;
    }
    Ok(())
}

/// One run with crashes; returns its trace, what is left on the disks, and how the nodes ended.
fn run(seed: u64) -> (u64, Vec<String>) {
    let sim = Sim::new(seed, SimOptions::default());
    let log = Rc::new(RefCell::new(Vec::new()));
    sim.run_until(async {
        for round in 0..4 {
            for node in 1..=2 {
                if !sim.is_running(node) {
                    let exit = sim.start_node(node, 2, busy_shard);
                    let log = Rc::clone(&log);
                    task::spawn(async move {
                        let exit = exit.await;
                        log.borrow_mut().push(format!("{round} {node} {exit:?}"));
                    });
                }
            }
            time::sleep(Duration::from_micros(rand::below(20_000))).await;
            let node = 1 + rand::below(2) as u32;
            match rand::below(4) {
                0 => sim.crash_node(node),
                1 => sim.kill_process(node),
                2 => sim.stop_node(node),
                _ => sim.disk(node).fail(FaultOn::Sync, "shard-1", 1),
            }
        }
        time::sleep(Duration::from_millis(100)).await;
    });
    for node in 1..=2 {
        sim.crash_node(node);
        for shard in 0..2 {
            let dir = format!("/shard-{shard}");
            for name in sim.disk(node).names(&dir) {
                let content = sim.disk(node).content(format!("{dir}/{name}")).unwrap();
                log.borrow_mut().push(format!("{node} {name} {content:?}"));
            }
        }
    }
    (sim.trace_hash(), log.take())
}

#[test]
fn a_seed_run_twice_gives_the_same_trace_and_the_same_disks() {
    let mut traces = BTreeSet::new();
    for seed in 0..100 {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first.0, second.0, "the traces of seed {seed} differ");
        assert_eq!(first.1, second.1, "the outcomes of seed {seed} differ");
        traces.insert(first.0);
    }
    assert_eq!(traces.len(), 100, "another seed is another run");
}

#[test]
fn the_clock_jumps_while_nothing_is_runnable_and_stands_still_otherwise() {
    let sim = Sim::new(1, SimOptions::default());
    sim.run_until(async {
        let start = time::Instant::now();
        for _ in 0..1_000 {
            task::yield_now().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        time::sleep(Duration::from_secs(3_600)).await;
        assert!(start.elapsed() < Duration::from_secs(3_601));
    });
}

#[test]
fn wall_clocks_are_skewed_per_node_and_the_monotonic_one_is_not() {
    let sim = Sim::new(1, SimOptions::default());
    let times = || async { (time::unix_time_ms(), time::Instant::now()) };
    let straight = sim.run_on(1, times());
    sim.set_clock_skew_ms(1, -5_000);
    let skewed = sim.run_on(1, times());
    assert_eq!(straight.0 - skewed.0, 5_000);
    assert_eq!(straight.1, skewed.1);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_driver_that_nothing_can_wake_fails_with_its_seed() {
    Sim::new(9, SimOptions::default()).run_until(std::future::pending::<()>());
}

#[test]
#[should_panic(expected = "livelock")]
fn a_loop_without_time_fails_with_its_seed() {
    Sim::new(9, SimOptions::default()).run_until(async {
        loop {
            task::yield_now().await;
        }
    });
}

#[test]
#[should_panic(expected = "within 5s of virtual time")]
fn a_run_that_takes_too_much_virtual_time_fails() {
    let options = SimOptions { time_max: Duration::from_secs(5), ..SimOptions::default() };
    Sim::new(9, options).run_until(time::sleep(Duration::from_secs(6)));
}

#[test]
#[should_panic(expected = "told so")]
fn a_panic_in_a_task_fails_the_run() {
    Sim::new(9, SimOptions::default()).run_on(1, async {
        task::spawn(async { panic!("told so") });
        time::sleep(Duration::from_secs(1)).await;
    });
}

#[test]
fn a_failed_shard_ends_its_node_with_the_error_and_its_neighbours_die() {
    let sim = Sim::new(4, SimOptions::default());
    let exit = sim.start_node(1, 3, |context: ShardContext<(), ()>| async move {
        time::sleep(Duration::from_millis(5)).await;
        if context.shard == 1 {
            return Err("the disk is broken");
        }
        std::future::pending().await
    });
    assert_eq!(sim.run_until(exit), Err("the disk is broken".to_owned()));
    assert!(!sim.is_running(1));
}

#[test]
fn files_of_a_dead_node_are_closed_and_a_new_life_opens_them_again() {
    let sim = Sim::new(4, SimOptions::default());
    let _exit = sim.start_node(1, 1, |_: ShardContext<(), ()>| async move {
        let file = File::create("/f".as_ref()).await.unwrap();
        for block in 0.. {
            file.write_at(AlignedBuf::zeroed(BLOCK_BYTES), block * BLOCK_BYTES as u64).await.unwrap();
        }
        Ok::<(), String>(())
    });
    sim.run_until(time::sleep(Duration::from_millis(20)));
    sim.kill_process(1);
    let before = sim.disk(1).content("/f").unwrap().len();
    assert!(before > 0);
    sim.run_until(time::sleep(Duration::from_millis(20)));
    assert_eq!(sim.disk(1).content("/f").unwrap().len(), before, "the dead do not write");
    let len = sim.run_on(1, async {
        File::open("/f".as_ref(), OpenMode::ReadWrite).await.unwrap().len().await.unwrap()
    });
    assert_eq!(len as usize, before);
}
