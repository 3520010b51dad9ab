//! The same bodies on both backends: what the layers above may rely on holds on either.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use corelog_runtime::fs::{self, AlignedBuf, BLOCK_BYTES, File, OpenMode};
use corelog_runtime::mesh::MeshError;
use corelog_runtime::shards::{self, Options, ShardContext};
use corelog_runtime::sim::{Sim, SimOptions};
use corelog_runtime::task::{self, Class};
use corelog_runtime::{rand, time};
use futures_util::future::{join, join_all};

/// Runs `body` on every shard of a simulated node for several seeds, and of a real process.
/// The path is an empty directory that the shards share.
fn on_both<Q, A, F, Fut>(shards: usize, body: F)
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Fn(ShardContext<Q, A>, PathBuf) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = ()> + 'static,
{
    for seed in 0..30 {
        let sim = Sim::new(seed, SimOptions::default());
        sim.run_on(1, async { fs::create_dir_all("/data").await.unwrap() });
        let body = body.clone();
        let exit = sim.start_node(1, shards, move |context: ShardContext<Q, A>| {
            let done = body(context, PathBuf::from("/data"));
            async move {
                done.await;
                Ok::<(), String>(())
            }
        });
        sim.run_until(exit).unwrap();
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_path_buf();
    let options = Options { shards, data_dirs: vec![path.clone()], ..Options::default() };
    shards::run(options, move |context: ShardContext<Q, A>| {
        let done = body(context, path.clone());
        async move {
            done.await;
            Ok::<(), String>(())
        }
    })
    .unwrap();
}

/// As [`on_both`], on one shard that sends no messages.
fn alone<F, Fut>(body: F)
where
    F: Fn(PathBuf) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = ()> + 'static,
{
    on_both(1, move |_: ShardContext<(), ()>, dir| body(dir));
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

#[test]
fn what_was_written_is_read_at_any_alignment_and_short_only_at_the_end() {
    alone(|dir| async move {
        let file = File::create(&dir.join("f")).await.unwrap();
        let data = pattern(3 * BLOCK_BYTES);
        let buf = file.write_at(AlignedBuf::padded(&data), BLOCK_BYTES as u64).await.unwrap();
        assert_eq!(buf.len(), 3 * BLOCK_BYTES);
        file.sync_data().await.unwrap();
        assert_eq!(file.len().await.unwrap(), 4 * BLOCK_BYTES as u64);
        let all = [vec![0; BLOCK_BYTES], data].concat();
        for (position, len) in [(0, 1), (4_095, 2), (4_000, 8_192), (5_000, 1), (8_192, 4_096)] {
            let read = file.read_at(position as u64, len).await.unwrap();
            assert_eq!(read, all[position..position + len], "{len} bytes at {position}");
        }
        let end = all.len() as u64;
        assert_eq!(file.read_at(end - 10, 100).await.unwrap(), all[all.len() - 10..]);
        assert!(file.read_at(end, 100).await.unwrap().is_empty());
        assert!(file.read_at(end + 50_000, 100).await.unwrap().is_empty());
        assert!(file.read_at(3, 0).await.unwrap().is_empty());
        file.truncate(5_001).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 5_001);
        assert_eq!(file.read_at(4_990, 100).await.unwrap(), all[4_990..5_001]);
        assert_eq!(file.read_at(5_000, 100).await.unwrap(), all[5_000..5_001]);
        assert!(file.read_at(5_001, 100).await.unwrap().is_empty());
        file.close().await.unwrap();
    });
}

#[test]
fn files_are_created_once_and_opened_only_if_they_exist() {
    alone(|dir| async move {
        let path = dir.join("f");
        let missing = File::open(&path, OpenMode::ReadWrite).await.err().unwrap();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
        File::create(&path).await.unwrap().close().await.unwrap();
        let twice = File::create(&path).await.err().unwrap();
        assert_eq!(twice.kind(), std::io::ErrorKind::AlreadyExists);
        let read_only = File::open(&path, OpenMode::Read).await.unwrap();
        assert!(read_only.is_empty().await.unwrap());
        let refused = read_only.write_at(AlignedBuf::zeroed(BLOCK_BYTES), 0).await;
        assert_eq!(refused.err().unwrap().raw_os_error(), Some(9), "EBADF");
        let orphan = dir.join("missing").join("f");
        assert_eq!(File::create(&orphan).await.err().unwrap().kind(), std::io::ErrorKind::NotFound);
    });
}

#[test]
fn a_durable_write_is_read_like_any_other() {
    alone(|dir| async move {
        let path = dir.join("f");
        let file = File::create_for(&path, OpenMode::Durable).await.unwrap();
        file.zero_fill(0, 4 * BLOCK_BYTES as u64).await.unwrap();
        let data = pattern(2 * BLOCK_BYTES);
        let buf = file.write_durably(AlignedBuf::padded(&data), BLOCK_BYTES as u64).await.unwrap();
        assert_eq!(buf.len(), data.len());
        assert_eq!(file.read_at(BLOCK_BYTES as u64, data.len()).await.unwrap(), data);
        file.close().await.unwrap();
        let file = File::open(&path, OpenMode::Durable).await.unwrap();
        file.write_durably(AlignedBuf::padded(&data[..BLOCK_BYTES]), 0).await.unwrap();
        assert_eq!(file.read_at(0, BLOCK_BYTES).await.unwrap(), data[..BLOCK_BYTES]);
        assert_eq!(file.len().await.unwrap(), 4 * BLOCK_BYTES as u64);
        file.close().await.unwrap();
    });
}

#[test]
fn zero_filling_gives_the_file_its_full_size_and_only_zeros() {
    alone(|dir| async move {
        let file = File::create(&dir.join("journal")).await.unwrap();
        let size = (5 << 20) / 2 + BLOCK_BYTES as u64;
        file.zero_fill(0, size).await.unwrap();
        assert_eq!(file.len().await.unwrap(), size);
        let content = file.read_at(0, size as usize).await.unwrap();
        assert_eq!(content.len() as u64, size);
        assert!(content.iter().all(|byte| *byte == 0));
    });
}

#[test]
fn directories_list_sorted_and_renames_replace() {
    alone(|dir| async move {
        fs::create_dir_all(dir.join("a/b/c")).await.unwrap();
        fs::create_dir_all(dir.join("a/b")).await.unwrap();
        for name in ["z", "m", "d"] {
            File::create(&dir.join("a").join(name)).await.unwrap().close().await.unwrap();
        }
        let names = |entries: Vec<fs::DirEntry>| -> Vec<_> {
            entries.into_iter().map(|entry| (entry.name, entry.is_dir, entry.len)).collect()
        };
        let file = |name: &str| (name.to_owned(), false, 0);
        let listed = names(fs::list_dir(dir.join("a")).await.unwrap());
        assert_eq!(listed, [("b".to_owned(), true, 0), file("d"), file("m"), file("z")]);
        fs::rename(dir.join("a/m"), dir.join("a/z")).await.unwrap();
        fs::rename(dir.join("a/z"), dir.join("moved")).await.unwrap();
        assert!(fs::exists(dir.join("moved")).await.unwrap());
        assert!(!fs::exists(dir.join("a/z")).await.unwrap());
        let space = fs::space(&dir).await.unwrap();
        assert!(space.total_bytes > 0 && space.usable_bytes <= space.total_bytes, "{space:?}");
        let gone = fs::space(dir.join("a/z")).await.unwrap_err();
        assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
        let full = fs::remove_dir(dir.join("a")).await.unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::DirectoryNotEmpty);
        fs::remove_dir(dir.join("a/b/c")).await.unwrap();
        fs::remove_file(dir.join("a/d")).await.unwrap();
        let gone = fs::remove_file(dir.join("a/d")).await.unwrap_err();
        assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
        fs::sync_dir(&dir).await.unwrap();
        fs::remove_dir_all(dir.join("a")).await.unwrap();
        assert_eq!(names(fs::list_dir(&dir).await.unwrap()), [file("moved")]);
    });
}

/// A few are synced one by one, many at once, and what is gone meanwhile says so.
#[test]
fn syncs_that_are_not_urgent_are_all_answered() {
    alone(|dir| async move {
        let mut files = Vec::new();
        for number in 0..40 {
            let dir = dir.join(format!("d{}", number % 4));
            fs::create_dir_all(&dir).await.unwrap();
            let file = File::create(&dir.join(number.to_string())).await.unwrap();
            file.write_at(AlignedBuf::padded(&pattern(9_000)), 0).await.unwrap();
            files.push(file);
        }
        fs::remove_dir_all(dir.join("d3")).await.unwrap();
        for together in [1, 3, 5, 40] {
            let syncs = files[..together].iter().map(File::sync_behind);
            let dirs = (0..together).map(|number| fs::sync_dir(dir.join(format!("d{}", number % 4))));
            let (synced, dirs) = join(join_all(syncs), join_all(dirs)).await;
            assert!(synced.iter().all(Result::is_ok), "{together}: {synced:?}");
            for (number, synced) in dirs.into_iter().enumerate() {
                assert_eq!(synced.is_ok(), number % 4 != 3, "{together}: directory {number}");
            }
        }
        for file in files {
            file.close().await.unwrap();
        }
    });
}

#[test]
fn a_small_file_is_replaced_as_a_whole() {
    alone(|dir| async move {
        let path = dir.join("meta");
        for content in [&b"first"[..], b"", &pattern(10_000), b"last"] {
            fs::write_small_atomic(&path, content).await.unwrap();
            assert_eq!(fs::read_small(&path).await.unwrap(), content);
        }
        assert_eq!(fs::list_dir(&dir).await.unwrap().len(), 1);
    });
}

#[test]
fn a_write_whose_future_was_dropped_still_happens() {
    alone(|dir| async move {
        let file = File::create(&dir.join("f")).await.unwrap();
        for block in 0..20 {
            let buf = AlignedBuf::padded(&[7; BLOCK_BYTES]);
            let mut write = Box::pin(file.write_at(buf, block * BLOCK_BYTES as u64));
            assert!(futures_lite::future::poll_once(&mut write).await.is_none());
        }
        // Writes at one position would be ordered by nothing but their completion.
        while file.len().await.unwrap() < 20 * BLOCK_BYTES as u64
            || file.read_at(0, 20 * BLOCK_BYTES).await.unwrap().contains(&0)
        {
            time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn many_writes_in_flight_all_arrive() {
    alone(|dir| async move {
        let file = File::create(&dir.join("f")).await.unwrap();
        let mut joins = Vec::new();
        for i in 0..300_u64 {
            let file = file.clone();
            let class = [Class::Journal, Class::Serve, Class::Read, Class::Background][i as usize % 4];
            joins.push(task::spawn_join(class, async move {
                let buf = AlignedBuf::padded(&i.to_le_bytes());
                file.write_at(buf, i * BLOCK_BYTES as u64).await.unwrap();
            }));
        }
        for join in joins {
            join.await;
        }
        file.sync_data().await.unwrap();
        for i in 0..300_u64 {
            let read = file.read_at(i * BLOCK_BYTES as u64, 8).await.unwrap();
            assert_eq!(read[..], i.to_le_bytes());
        }
    });
}

#[test]
fn spawning_polls_nothing_before_it_returns_and_joins_give_results() {
    alone(|_| async move {
        let ran = Rc::new(Cell::new(0));
        for class in [Class::Journal, Class::Serve, Class::Read, Class::Background] {
            let before = ran.get();
            let inner = Rc::clone(&ran);
            let join = task::spawn_join(class, async move {
                inner.set(inner.get() + 1);
                class
            });
            let inner = Rc::clone(&ran);
            task::spawn(async move { inner.set(inner.get() + 10) });
            assert_eq!(ran.get(), before, "the caller may hold a borrow");
            assert_eq!(join.await, class);
            while ran.get() != before + 11 {
                task::yield_now().await;
            }
        }
        let inner = Rc::clone(&ran);
        drop(task::spawn_join(Class::Serve, async move {
            time::sleep(Duration::from_millis(2)).await;
            inner.set(0);
        }));
        while ran.get() != 0 {
            task::yield_if_needed().await;
            time::sleep(Duration::from_micros(100)).await;
        }
    });
}

#[test]
fn sleeps_are_never_short_and_timeouts_pick_the_first() {
    alone(|_| async move {
        let start = time::Instant::now();
        time::sleep(Duration::from_millis(3)).await;
        assert!(start.elapsed() >= Duration::from_millis(3));
        time::sleep_until(start).await;
        assert!(time::Instant::now() >= start);
        let late = time::timeout(Duration::from_millis(1), std::future::pending::<()>()).await;
        assert_eq!(late, Err(time::Elapsed));
        assert_eq!(time::timeout(Duration::from_secs(60), async { 5 }).await, Ok(5));
        assert!(start.checked_sub(Duration::from_secs(900_000)).is_some(), "far from zero");
        let before = time::unix_time_ms();
        time::sleep(Duration::from_millis(2)).await;
        assert!(time::unix_time_ms() >= before);
        assert!(before > 1_767_000_000_000, "after 2025");
    });
}

#[test]
fn random_numbers_stay_below_their_bound() {
    alone(|_| async move {
        assert!((0..1_000).all(|_| rand::below(7) < 7));
        let mut bytes = [0; 37];
        rand::fill(&mut bytes);
        assert_ne!(bytes, [0; 37]);
        assert_ne!(rand::u64(), rand::u64());
    });
}

fn serve_doubling(context: &ShardContext<u64, u64>) {
    let mesh = context.mesh.clone();
    task::spawn(async move {
        while let Some(incoming) = mesh.next().await {
            if let Some(reply) = incoming.reply {
                reply.send(incoming.q * 2);
            }
        }
    });
}

/// Waits until all shards are done, so that none ends while another still calls it.
async fn barrier(dir: &Path, context: &ShardContext<u64, u64>) {
    File::create(&dir.join(format!("done-{}", context.shard))).await.unwrap();
    while fs::list_dir(dir).await.unwrap().len() < context.shards {
        time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn calls_to_all_shards_are_answered() {
    on_both(3, |context: ShardContext<u64, u64>, dir| async move {
        serve_doubling(&context);
        for i in 0..200 {
            for to in 0..context.shards {
                assert_eq!(context.mesh.call(to, i).await, Ok(i * 2));
            }
        }
        barrier(&dir, &context).await;
    });
}

#[test]
fn messages_of_a_pair_arrive_in_the_order_of_their_calls_also_through_the_overflow() {
    const MESSAGES: u64 = 5_000;
    on_both(3, |context: ShardContext<u64, u64>, dir| async move {
        let mesh = context.mesh.clone();
        let expected = Rc::new(RefCell::new(vec![0; context.shards]));
        let seen = Rc::clone(&expected);
        let server = task::spawn_join(Class::Serve, async move {
            while seen.borrow().iter().any(|next| *next < MESSAGES) {
                let incoming = mesh.next().await.unwrap();
                assert_eq!(incoming.q, seen.borrow()[incoming.from]);
                seen.borrow_mut()[incoming.from] += 1;
                if let Some(reply) = incoming.reply {
                    reply.send(incoming.q);
                }
            }
        });
        // Far more at once than a ring holds; nothing is awaited before all are sent.
        for to in 0..context.shards {
            let mut last = None;
            for i in 0..MESSAGES {
                if i % 2 == 0 {
                    context.mesh.cast(to, i);
                } else {
                    last = Some(context.mesh.call(to, i));
                }
            }
            assert!(context.mesh.queued(to) > 0);
            assert_eq!(last.unwrap().await, Ok(MESSAGES - 1));
        }
        server.await;
        // Replies of this shard may be on their way still.
        while (0..context.shards).any(|to| context.mesh.queued(to) > 0) {
            time::sleep(Duration::from_millis(1)).await;
        }
        barrier(&dir, &context).await;
    });
}

#[test]
fn replies_may_be_late_out_of_order_dropped_or_unwanted() {
    on_both(2, |context: ShardContext<u64, u64>, dir| async move {
        let mesh = context.mesh.clone();
        task::spawn(async move {
            let mut kept = Vec::new();
            while let Some(incoming) = mesh.next().await {
                match incoming.q {
                    0 => drop(incoming.reply),
                    q => kept.push((q, incoming.reply.unwrap())),
                }
                if kept.len() == 3 {
                    for (q, reply) in kept.drain(..).rev() {
                        reply.send(q);
                    }
                }
            }
        });
        let other = 1 - context.shard;
        assert_eq!(context.mesh.call(other, 0).await, Err(MeshError::NoReply(other)));
        let (first, unwanted) = (context.mesh.call(other, 1), context.mesh.call(other, 2));
        drop(unwanted);
        let third = context.mesh.call(other, 3);
        assert_eq!((third.await, first.await), (Ok(3), Ok(1)));
        barrier(&dir, &context).await;
    });
}

#[test]
fn calls_to_a_shard_that_ended_fail() {
    on_both(2, |context: ShardContext<u64, u64>, _| async move {
        if context.shard == 0 {
            // Takes one request and ends without an answer to any.
            context.mesh.next().await.unwrap();
            return;
        }
        let waiting: Vec<_> = (0..10).map(|i| context.mesh.call(0, i)).collect();
        for call in waiting {
            let error = call.await.unwrap_err();
            assert!(matches!(error, MeshError::Closed(0) | MeshError::NoReply(0)), "{error}");
        }
        while context.mesh.call(0, 1).await != Err(MeshError::Closed(0)) {
            task::yield_now().await;
        }
    });
}

#[test]
fn a_closed_mesh_ends_its_server_loop_after_what_has_arrived() {
    alone(|_| async {});
    on_both(1, |context: ShardContext<u64, u64>, _| async move {
        context.mesh.cast(0, 5);
        context.mesh.close();
        assert_eq!(context.mesh.next().await.unwrap().q, 5);
        assert!(context.mesh.next().await.is_none());
        assert_eq!(context.mesh.call(0, 1).await, Err(MeshError::NoReply(0)));
    });
}

#[test]
fn the_stop_signal_reaches_every_shard_and_stays() {
    on_both(3, |context: ShardContext<(), ()>, _| async move {
        let stop = shards::stop_signal();
        if context.shard == 1 {
            assert!(!stop.is_raised());
            shards::request_stop();
        }
        stop.wait().await;
        stop.wait().await;
        assert!(stop.is_raised());
    });
}

#[test]
fn a_payload_crosses_shards_without_a_copy() {
    on_both(2, |context: ShardContext<Bytes, Bytes>, _| async move {
        if context.shard == 1 {
            while let Some(incoming) = context.mesh.next().await {
                let last = incoming.q.is_empty();
                incoming.reply.unwrap().send(incoming.q);
                if last {
                    return;
                }
            }
        }
        let payload = Bytes::from(vec![1; 100_000]);
        let back = context.mesh.call(1, payload.clone()).await.unwrap();
        assert_eq!(back.as_ptr(), payload.as_ptr());
        context.mesh.call(1, Bytes::new()).await.unwrap();
    });
}
