//! One seed: a journal used at random on a simulated disk, crashed again and again, and held
//! against a model after each recovery.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use corelog_engine::journal::{Entry, EntryKind, Journal, JournalError, JournalOptions};
use corelog_engine::planted::PlantedBug;
use corelog_engine::types::{LeaderEpoch, Lsn, Offset, PartitionId, TopicId, TopicPartition};
use corelog_runtime::shards::ShardContext;
use corelog_runtime::sim::{Sim, SimOptions};
use corelog_runtime::{fs, rand, task, time};
use futures_util::future::{Either, select};

pub const NODE: u32 = 1;
pub const DIR: &str = "/data/journal";

/// An entry of partition `partition` with `payload`.
pub fn entry(partition: i32, payload: impl Into<Bytes>) -> Entry {
    Entry {
        kind: EntryKind::Append,
        target: TopicPartition::new(TopicId::default(), PartitionId(partition)),
        base_offset: Offset(0),
        leader_epoch: LeaderEpoch(1),
        payload: payload.into(),
    }
}

/// Small files, so that a few hundred entries roll them.
pub fn small_options() -> JournalOptions {
    JournalOptions {
        file_bytes: 128 << 10,
        first_file_bytes: 64 << 10,
        max_commit_bytes: 16 << 10,
        flush_interval: Duration::from_millis(5),
        ..JournalOptions::new(PathBuf::from(DIR), 7)
    }
}

/// What the journal promised.
#[derive(Default)]
pub struct Model {
    /// Entries that may be replayed, by LSN.
    appended: BTreeMap<Lsn, Entry>,
    /// Promised to survive the death of the process.
    written: Lsn,
    /// Promised to survive the loss of power.
    synced: Lsn,
    /// Given back: need not be replayed.
    released: Lsn,
    next: Lsn,
    counter: u64,
    broken: Option<String>,
    pub replays: u64,
}

type Shared = Rc<RefCell<Model>>;

impl Model {
    fn check(&mut self, ok: bool, message: impl FnOnce() -> String) {
        if !ok && self.broken.is_none() {
            self.broken = Some(message());
        }
    }

    fn observe(&mut self, journal: &Journal) {
        let progress = journal.progress();
        let next = self.next;
        self.check(progress.synced <= next && progress.written <= next, || {
            format!("progress {progress:?} beyond the last append {next}")
        });
        self.written = self.written.max(progress.written);
        self.synced = self.synced.max(progress.synced);
        self.written = self.written.max(self.synced);
    }

    /// Holds a finished replay against what was promised.
    fn replayed(&mut self, entries: &[(Lsn, Entry)], next: Lsn) {
        self.replays += 1;
        let (written, released) = (self.written, self.released);
        self.check(next >= written, || format!("replay ended at {next}, {written} was promised"));
        if let Some((first, _)) = entries.first() {
            self.check(*first <= released.max(Lsn(0)), || {
                format!("replay starts at {first}, only {released} was released")
            });
        } else {
            self.check(next <= released, || format!("nothing replayed of {released}..{next}"));
        }
        let mut expected = entries.first().map_or(next, |(first, _)| *first);
        for (lsn, entry) in entries {
            self.check(*lsn == expected, || format!("replayed {lsn} where {expected} was due"));
            expected = lsn.next();
            let same = self.appended.get(lsn).map_or(*lsn < released, |known| known == entry);
            self.check(same, || format!("replayed {lsn} is not what was appended"));
        }
        self.check(expected == next, || format!("replay ends at {expected}, next is {next}"));
        self.appended.split_off(&next);
        (self.next, self.written, self.synced) = (next, next, next);
    }
}

fn random_entry(model: &mut Model) -> Entry {
    model.counter += 1;
    let len = match rand::below(20) {
        0 => rand::below(40_000),
        1..=4 => rand::below(8_000),
        5 => 0,
        _ => rand::below(1_500),
    };
    let len = usize::try_from(len).unwrap();
    let mut payload = vec![u8::try_from(model.counter % 251).unwrap(); len];
    for (to, from) in payload.iter_mut().zip(model.counter.to_le_bytes()) {
        *to = from;
    }
    let mut entry = entry(i32::try_from(rand::below(3)).unwrap(), payload);
    entry.base_offset = Offset(i64::try_from(model.counter).unwrap());
    entry
}

/// One process: recovers, appends and releases at random until it is crashed or closes.
async fn life(model: Shared, options: JournalOptions) -> Result<(), JournalError> {
    let mut replayed = Vec::new();
    let (journal, report) = Journal::open(options, |lsn, entry| replayed.push((lsn, entry))).await?;
    {
        let mut model = model.borrow_mut();
        model.replayed(&replayed, report.next_lsn);
        model.check(report.corruption.is_none(), || format!("false alarm: {:?}", report.corruption));
    }
    observe_progress(&model, &journal);
    release_under_pressure(&model, &journal);
    let steps = rand::below(400);
    for _ in 0..steps {
        if model.borrow().broken.is_some() {
            return Ok(());
        }
        step(&model, &journal).await?;
    }
    journal.clone().close().await?;
    let mut model = model.borrow_mut();
    model.observe(&journal);
    let (next, synced) = (model.next, model.synced);
    model.check(next == synced, || format!("closed at {synced} of {next}"));
    Ok(())
}

async fn step(model: &Shared, journal: &Journal) -> Result<(), JournalError> {
    match rand::below(10) {
        0..=5 if journal.full().is_none() => {
            let mut last = None;
            for _ in 0..=rand::below(4) {
                let mut model = model.borrow_mut();
                let entry = random_entry(&mut model);
                let lsn = journal.append(entry.clone());
                let next = model.next;
                model.check(lsn == next, || format!("append got {lsn}, not {next}"));
                model.next = lsn.next();
                model.appended.insert(lsn, entry);
                last = Some(lsn);
            }
            match (last, rand::below(3)) {
                (Some(lsn), 0) => {
                    journal.wait_synced(lsn).await?;
                    let progress = journal.progress();
                    model.borrow_mut().check(progress.synced > lsn, || "wait_synced lied".into());
                }
                (Some(lsn), 1) => journal.request_sync(lsn),
                _ => {}
            }
        }
        6 => journal.drained_below(1 + usize::try_from(rand::below(30_000)).unwrap()).await,
        7 => time::sleep(Duration::from_micros(rand::below(8_000))).await,
        _ => time::sleep(Duration::from_micros(rand::below(300))).await,
    }
    model.borrow_mut().observe(journal);
    Ok(())
}

fn observe_progress(model: &Shared, journal: &Journal) {
    let (model, journal) = (Rc::clone(model), journal.clone());
    task::spawn(async move {
        let mut seen = journal.progress();
        while let Ok(progress) = journal.changed(seen).await {
            let grew = progress.written >= seen.written && progress.synced >= seen.synced;
            model.borrow_mut().check(grew, || "progress went back".into());
            model.borrow_mut().observe(&journal);
            seen = progress;
        }
    });
}

fn release_under_pressure(model: &Shared, journal: &Journal) {
    let (model, journal) = (Rc::clone(model), journal.clone());
    let lazy = rand::below(3) == 0;
    task::spawn(async move {
        loop {
            journal.pressure().await;
            if lazy {
                time::sleep(Duration::from_micros(rand::below(20_000))).await;
            }
            let Some(oldest) = journal.oldest_live() else {
                time::sleep(Duration::from_millis(1)).await;
                continue;
            };
            if oldest.end > journal.progress().synced
                && (oldest.end == Lsn(0) || journal.wait_synced(Lsn(oldest.end.0 - 1)).await.is_err())
            {
                return;
            }
            let below =
                Lsn(oldest.end.0 + if lazy { 0 } else { rand::below(3) }).min(journal.progress().synced);
            {
                let mut model = model.borrow_mut();
                model.released = model.released.max(below);
                let keep = model.appended.split_off(&below);
                model.appended = keep;
            }
            journal.release(below);
            time::sleep(Duration::from_micros(rand::below(2_000))).await;
        }
    });
}

/// Random options: many rolls in some seeds, many writes in flight in others.
fn random_options(planted: PlantedBug) -> JournalOptions {
    let small = small_options();
    JournalOptions {
        file_bytes: (12 + rand::below(40)) << 12,
        first_file_bytes: (4 + rand::below(20)) << 12,
        max_files: 2 + usize::try_from(rand::below(4)).unwrap(),
        max_commit_bytes: 4096 << rand::below(5),
        writes_in_flight: 1 + usize::try_from(rand::below(5)).unwrap(),
        planted,
        ..small
    }
}

/// A simulation whose node has the directory that the journal's is made in.
pub fn new_sim(seed: u64) -> Sim {
    let sim = Sim::new(seed, SimOptions::default());
    sim.run_on(NODE, async {
        fs::create_dir_all("/data").await.unwrap();
        fs::sync_dir("/").await.unwrap();
    });
    sim
}

/// Runs one seed. `Err` says which promise was broken.
pub fn run_seed(seed: u64, planted: PlantedBug) -> Result<u64, String> {
    let sim = new_sim(seed);
    let model = Shared::default();
    sim.run_until(async {
        let options = random_options(planted);
        let crashes = 3 + rand::below(8);
        for round in 0..=crashes {
            let (shared, options) = (Rc::clone(&model), options.clone());
            let exit = sim.start_node(NODE, 1, move |_: ShardContext<(), ()>| {
                life(Rc::clone(&shared), options.clone())
            });
            let patience = match rand::below(3) {
                0 => rand::below(6_000),
                _ => rand::below(120_000),
            };
            let patience = if round == crashes { 3_600_000_000 } else { patience };
            let deadline = Box::pin(time::sleep(Duration::from_micros(patience)));
            match select(exit, deadline).await {
                Either::Left((Ok(()), _)) => {}
                Either::Left((Err(error), _)) => {
                    model.borrow_mut().check(false, || format!("the journal failed: {error}"));
                }
                Either::Right(_) if rand::below(2) == 0 => sim.kill_process(NODE),
                Either::Right(_) => {
                    sim.crash_node(NODE);
                    let mut model = model.borrow_mut();
                    model.written = model.synced;
                }
            }
            // A process that ended leaves nothing unsynced behind; power may fail after it.
            if rand::below(4) == 0 && !sim.is_running(NODE) {
                sim.crash_node(NODE);
                let mut model = model.borrow_mut();
                model.written = model.synced;
            }
            if model.borrow().broken.is_some() {
                break;
            }
        }
    });
    let model = model.borrow();
    match &model.broken {
        Some(broken) => Err(broken.clone()),
        None => Ok(sim.trace_hash()),
    }
}
