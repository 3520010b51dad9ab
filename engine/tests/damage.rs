//! Any damage to any file of a node: it starts or says why not, and what it serves is what was
//! acknowledged there. Whether each damage is noticed is the subject of other tests.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod sim_node;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use corelog_engine::api::{Acks, FetchPart, FetchSpec, NewTopic, ProducePart};
use corelog_engine::engine::{Engine, EngineOptions};
use corelog_engine::journal::dump::{self, Detail};
use corelog_engine::log::clean::Swaps;
use corelog_engine::log::verify::{SegmentScan, segments};
use corelog_engine::messages::{ShardReply, ShardRequest};
use corelog_engine::node_dir::{FORMAT_FILE, FORMAT_VERSION, format_version};
use corelog_engine::planted::PlantedBug;
use corelog_engine::types::{Offset, PartitionId, TopicPartition};
use corelog_protocol::batch::{BatchBuilder, BatchIter, Scratch, crc_ok};
use corelog_runtime::fs::{self, AlignedBuf, BLOCK_BYTES, File, OpenMode};
use corelog_runtime::shards::ShardContext;
use corelog_runtime::sim::{Sim, SimOptions};
use corelog_runtime::{rand, time};

const NODE: u32 = 1;
const DATA: &str = "/data";

/// Half of everything: the more files there are to damage.
fn options() -> EngineOptions {
    let mut options = sim_node::options(PlantedBug::NONE);
    options.journal.file_bytes = 128 << 10;
    options.journal.max_commit_bytes = 32 << 10;
    options.shard.data_dir = PathBuf::from(DATA);
    options.shard.tail_cache_bytes = 32 << 10;
    options.shard.unflushed_bytes_max = 256 << 10;
    options.shard.flush_chunk_bytes = 16 << 10;
    options.shard.journal_queue_bytes_max = 64 << 10;
    options
}

/// Values by partition and offset.
type Acknowledged = BTreeMap<TopicPartition, BTreeMap<i64, Vec<u8>>>;

/// Runs a node of one shard; `Err` when it does not start.
fn live<T: 'static>(sim: &Sim, story: impl AsyncFn(Engine) -> T + 'static) -> Result<T, String> {
    let told: Rc<RefCell<Option<Result<T, String>>>> = Rc::default();
    let (tell, story) = (Rc::clone(&told), Rc::new(story));
    let exit = sim.start_node(NODE, 1, move |context: ShardContext<ShardRequest, ShardReply>| {
        let (tell, story) = (Rc::clone(&tell), Rc::clone(&story));
        async move {
            match Engine::start(context.mesh, options()).await {
                Ok(engine) => {
                    let result = story(engine.clone()).await;
                    *tell.borrow_mut() = Some(Ok(result));
                    // On a damaged directory this may fail; the next start is another test.
                    let _ = time::timeout(Duration::from_secs(60), engine.shut_down()).await;
                }
                Err(error) => *tell.borrow_mut() = Some(Err(error.to_string())),
            }
            Ok::<(), String>(())
        }
    });
    sim.run_until(exit).unwrap();
    told.borrow_mut().take().expect("the story was told")
}

async fn write(engine: Engine) -> Acknowledged {
    let mut acknowledged = Acknowledged::new();
    let names = ["a", "b"];
    for name in names {
        let new = NewTopic {
            name: name.to_owned(),
            partitions: 2,
            replication_factor: 1,
            configs: vec![("segment.bytes".to_owned(), Some((1 << 20).to_string()))],
            ..NewTopic::default()
        };
        let topic = engine.create_topics(vec![new], false).await.pop().unwrap().unwrap();
        for partition in 0..2 {
            acknowledged.insert(TopicPartition::new(topic.id, PartitionId(partition)), BTreeMap::new());
        }
    }
    let targets: Vec<_> = acknowledged.keys().copied().collect();
    for number in 0..60_usize {
        let target = targets[number % 4];
        let mut value = format!("{target} {number}").into_bytes();
        value.resize(value.len() + usize::try_from(rand::below(9000)).unwrap(), b'.');
        let now_ms = time::unix_time_ms();
        let batch = BatchBuilder::new().record(now_ms, None, Some(&value)).build().unwrap();
        let part = ProducePart { target, batch };
        let produced = engine.produce(Acks::All, vec![part]).await.pop().unwrap().unwrap();
        acknowledged.get_mut(&target).unwrap().insert(produced.base_offset.0, value);
    }
    acknowledged
}

/// Reads from every offset; how many records were served.
async fn read(engine: &Engine, acknowledged: &Acknowledged) -> usize {
    let mut served = 0;
    for (target, values) in acknowledged {
        for offset in values.keys() {
            let part = FetchPart {
                target: *target,
                offset: Offset(*offset),
                max_bytes: 1,
                current_leader_epoch: None,
            };
            let spec = FetchSpec {
                parts: vec![part],
                max_bytes: 1,
                min_bytes: 0,
                max_wait: Duration::ZERO,
                read_committed: false,
            };
            let fetched = time::timeout(Duration::from_secs(60), engine.fetch(spec)).await;
            let Ok(fetched) = fetched.expect("a read ends").pop().unwrap() else { continue };
            for bytes in &fetched.batches {
                for batch in BatchIter::new(bytes) {
                    let batch = batch.expect("what is served is whole");
                    assert!(crc_ok(batch.bytes), "{target}: a bad batch was served");
                    let mut scratch = Scratch::default();
                    for record in batch.records(&mut scratch, 1 << 24).unwrap() {
                        let record = record.unwrap();
                        let at = batch.header.base_offset + i64::from(record.offset_delta);
                        assert_eq!(record.value, values.get(&at).map(Vec::as_slice), "{target} at {at}");
                        served += 1;
                    }
                }
            }
        }
    }
    served
}

/// All files below a directory.
async fn files(dir: PathBuf) -> Vec<PathBuf> {
    let (mut found, mut dirs) = (Vec::new(), vec![dir]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::list_dir(&dir).await.unwrap() {
            let path = dir.join(&entry.name);
            if entry.is_dir { dirs.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn pick<T>(all: &[T]) -> &T {
    &all[usize::try_from(rand::below(all.len() as u64)).unwrap()]
}

/// Does something bad to some file. Says what.
async fn damage(files: &[PathBuf]) -> String {
    let path = pick(files);
    let file = File::open(path, OpenMode::ReadWrite).await.unwrap();
    let len = file.len().await.unwrap();
    let blocks = len.div_ceil(BLOCK_BYTES as u64);
    if blocks == 0 {
        return "nothing".to_owned();
    }
    // The first blocks hold most of what is there.
    let at = rand::below(if rand::below(2) == 0 { blocks } else { blocks.min(4) }) * BLOCK_BYTES as u64;
    let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
    let what = match rand::below(5) {
        0 => {
            file.truncate(rand::below(len)).await.unwrap();
            return format!("{} cut", path.display());
        }
        1 => "zeroed",
        2 => {
            block.iter_mut().for_each(|byte| *byte = u8::try_from(rand::below(256)).unwrap());
            "overwritten with noise"
        }
        3 => {
            // A block of another place, or of another file: valid, and wrong here.
            let other = File::open(pick::<PathBuf>(files), OpenMode::Read).await.unwrap();
            let from = rand::below(other.len().await.unwrap().div_ceil(BLOCK_BYTES as u64).max(1));
            let bytes = other.read_at(from * BLOCK_BYTES as u64, BLOCK_BYTES).await.unwrap();
            block[..bytes.len()].copy_from_slice(&bytes);
            "overwritten with another block"
        }
        _ => {
            let bytes = file.read_at(at, BLOCK_BYTES).await.unwrap();
            block[..bytes.len()].copy_from_slice(&bytes);
            for _ in 0..=rand::below(3) {
                let bit = usize::try_from(rand::below(BLOCK_BYTES as u64 * 8)).unwrap();
                block[bit / 8] ^= 1 << (bit % 8);
            }
            "with flipped bits"
        }
    };
    file.write_at(block, at).await.unwrap();
    format!("{} at {at} {what}", path.display())
}

/// The offline tools read everything, too.
async fn look_offline(files: &[PathBuf]) {
    for dir in ["journal/00000001", "journal/00000002"] {
        let dir = Path::new(DATA).join(dir);
        if fs::exists(&dir).await.unwrap() {
            dump::read_dir(&dir, Detail { entries: true, stale: true }, |_| {}).await.unwrap();
        }
    }
    let dirs: std::collections::BTreeSet<_> = files
        .iter()
        .filter(|path| path.starts_with("/data/topics"))
        .filter_map(|path| path.parent())
        .collect();
    for dir in dirs {
        for found in segments(dir, None, None, Swaps::default()).await.unwrap() {
            let Ok(mut scan) = SegmentScan::open(&found).await else { continue };
            while let Ok(Some(_)) = scan.next().await {}
        }
    }
}

fn a_damaged_node(seed: u64) -> (bool, usize) {
    let sim = Sim::new(seed, SimOptions { time_max: Duration::from_secs(3600), ..SimOptions::default() });
    let acknowledged = live(&sim, write).unwrap();
    let what = sim.run_on(NODE, async {
        let files = files(PathBuf::from(DATA)).await;
        let mut what = Vec::new();
        for _ in 0..=rand::below(3) {
            what.push(damage(&files).await);
        }
        look_offline(&files).await;
        what
    });
    let outcome = live(&sim, async move |engine: Engine| read(&engine, &acknowledged).await);
    println!("seed {seed}: {what:?}: {outcome:?}");
    (outcome.is_ok(), outcome.unwrap_or(0))
}

#[test]
fn a_directory_of_the_format_before_becomes_one_of_this_format() {
    let path = Path::new(DATA).join(FORMAT_FILE);
    let sim = Sim::new(1, SimOptions { time_max: Duration::from_secs(3600), ..SimOptions::default() });
    let acknowledged = live(&sim, write).unwrap();
    let set_format = |version: u32| {
        let (path, text) = (path.clone(), format!("corelog {version}\n"));
        sim.run_on(NODE, async move { fs::write_small_atomic(&path, text.as_bytes()).await.unwrap() });
    };
    set_format(FORMAT_VERSION - 1);
    let served = live(&sim, async move |engine: Engine| read(&engine, &acknowledged).await).unwrap();
    assert!(served > 0);
    let read_from = path.clone();
    let format = sim.run_on(NODE, async move { fs::read_small(&read_from).await.unwrap() });
    assert_eq!(format_version(&format), Some(FORMAT_VERSION));
    set_format(FORMAT_VERSION + 1);
    let refused = live(&sim, async |_: Engine| ()).unwrap_err();
    assert!(refused.contains("newer corelog"), "{refused}");
}

#[test]
fn a_node_with_damaged_files_starts_or_says_why_not_and_serves_nothing_wrong() {
    let seeds: Vec<u64> = match std::env::var("CORELOG_DAMAGE_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..150).collect(),
    };
    let (mut started, mut served) = (0, 0);
    for seed in &seeds {
        let caught = std::panic::catch_unwind(AssertUnwindSafe(|| a_damaged_node(*seed)));
        let (is_started, records) =
            caught.unwrap_or_else(|_| panic!("seed {seed} (CORELOG_DAMAGE_SEED={seed})"));
        started += usize::from(is_started);
        served += records;
    }
    println!("{started} of {} nodes started and served {served} records", seeds.len());
    assert!(seeds.len() == 1 || (started > 0 && started < seeds.len() && served > 0));
}
