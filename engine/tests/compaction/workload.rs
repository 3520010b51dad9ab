//! Clients of compacted topics that do a bit of everything until the node dies under them.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use corelog_engine::api::{Acks, NewTopic, PartitionError, ProducePart, TopicError, TopicRef};
use corelog_engine::engine::Engine;
use corelog_engine::types::{Durability, Offset, PartitionId, TopicId, TopicPartition};
use corelog_protocol::ErrorCode;
use corelog_protocol::batch::{BatchBuilder, BatchHeader, Codec, Header};
use corelog_runtime::{rand, time};

use crate::model::{self, PartitionModel, Policy, Read, Sent, Topic, Violation};
use crate::{SharedModel, sim_node};

/// Keys that clients write; others are the test's own.
const KEYS: u64 = 12;
const OWN_KEY: u8 = 100;

fn pick(count: usize) -> usize {
    usize::try_from(rand::below(count as u64)).expect("below a usize")
}

/// One random operation of a client.
pub async fn step(engine: &Engine, model: &SharedModel, pause_us_max: u64) -> Result<(), Violation> {
    match rand::below(100) {
        0..=3 => create_topic(engine, model).await,
        4 => delete_topic(engine, model).await,
        5..=6 => truncate(engine, model).await,
        7..=8 => trim(engine, model).await,
        9..=22 => read_some(engine, model).await,
        23..=80 => produce(engine, model).await,
        _ => {
            time::sleep(Duration::from_micros(rand::below(pause_us_max))).await;
            Ok(())
        }
    }
}

async fn create_topic(engine: &Engine, model: &SharedModel) -> Result<(), Violation> {
    if model.borrow().topics.len() >= 3 {
        return Ok(());
    }
    let name = {
        let mut model = model.borrow_mut();
        model.topics_made += 1;
        format!("topic-{}", model.topics_made)
    };
    let between = |least: u64, most: u64| i64::try_from(least + rand::below(most - least)).expect("small");
    let policy = Policy {
        durability: if rand::below(4) == 0 { Durability::Write } else { Durability::Fsync },
        delete_retention_ms: if rand::below(3) == 0 { 0 } else { between(1, 80) },
        lag_min_ms: if rand::below(3) == 0 { between(1, 60) } else { 0 },
        deletes: rand::below(4) == 0,
    };
    let mut configs = vec![
        ("cleanup.policy", if policy.deletes { "compact,delete" } else { "compact" }.to_owned()),
        ("delete.retention.ms", policy.delete_retention_ms.to_string()),
        ("min.compaction.lag.ms", policy.lag_min_ms.to_string()),
        ("max.compaction.lag.ms", "200".to_owned()),
        ("min.cleanable.dirty.ratio", ["0.0", "0.1", "0.5"][pick(3)].to_owned()),
        ("segment.ms", between(2, 30).to_string()),
        ("segment.bytes", ["16384", "65536", "1048576"][pick(3)].to_owned()),
    ];
    if policy.deletes {
        configs.push(("retention.bytes", between(10_000, 200_000).to_string()));
    }
    if policy.durability == Durability::Write {
        configs.push(("corelog.durability", "write".to_owned()));
    }
    let partitions = 1 + i32::try_from(rand::below(2)).expect("below two");
    let new = NewTopic {
        name: name.clone(),
        partitions,
        replication_factor: 1,
        configs: configs.into_iter().map(|(name, value)| (name.to_owned(), Some(value))).collect(),
        ..NewTopic::default()
    };
    let meta = match engine.create_topics(vec![new], false).await.pop().ok_or("no answer")? {
        Ok(meta) => meta,
        Err(TopicError::Unavailable(_)) => return Ok(()),
        Err(error) => return Err(format!("{name} was not created: {error}")),
    };
    let partitions = (0..partitions).map(|partition| {
        let target = TopicPartition::new(meta.id, PartitionId(partition));
        Rc::new(RefCell::new(PartitionModel::new(target, policy)))
    });
    let topic = Topic { partitions: partitions.collect(), maybe_deleted: false };
    model.borrow_mut().topics.insert(meta.id, topic);
    Ok(())
}

async fn delete_topic(engine: &Engine, model: &SharedModel) -> Result<(), Violation> {
    let id = {
        let mut model = model.borrow_mut();
        if model.topics.len() < 3 || rand::below(3) > 0 {
            return Ok(());
        }
        let index = pick(model.topics.len());
        let (id, topic) = model.topics.iter_mut().nth(index).expect("below the count");
        if std::mem::replace(&mut topic.maybe_deleted, true) {
            return Ok(());
        }
        *id
    };
    match engine.delete_topics(vec![TopicRef::Id(id)]).await.pop().ok_or("no answer")? {
        Ok(_) => {
            model.borrow_mut().topics.remove(&id);
            Ok(())
        }
        Err(TopicError::Unavailable(_)) => Ok(()),
        Err(error) => Err(format!("{id} was not deleted: {error}")),
    }
}

/// The partitions that should be there.
pub fn partitions(model: &SharedModel) -> Vec<Rc<RefCell<PartitionModel>>> {
    let model = model.borrow();
    let topics = model.topics.values().filter(|topic| !topic.maybe_deleted);
    topics.flat_map(|topic| topic.partitions.clone()).collect()
}

fn pick_partition(model: &SharedModel) -> Option<Rc<RefCell<PartitionModel>>> {
    let all = partitions(model);
    if all.is_empty() { None } else { Some(Rc::clone(&all[pick(all.len())])) }
}

/// A batch of records, and their numbers.
fn build(model: &SharedModel, keys: &[u8], tombstones_in: u64, now_ms: i64) -> (BytesMut, Vec<usize>) {
    let codecs = [Codec::None, Codec::None, Codec::Lz4, Codec::Gzip];
    let mut builder = BatchBuilder::new().codec(codecs[pick(codecs.len())]);
    let large = rand::below(10) == 0;
    let mut numbers = Vec::new();
    for key in keys {
        let is_tombstone = tombstones_in > 0 && rand::below(tombstones_in) == 0;
        let number = model.borrow().sent.len();
        model.borrow_mut().sent.push(Sent { key: *key, is_tombstone, born_ms: now_ms });
        let size = if large { rand::below(8_000) } else { rand::below(300) };
        let value = vec![*key; usize::try_from(size).expect("small")];
        let number_bytes = (number as u64).to_be_bytes();
        let header = Header { key: b"n", value: Some(&number_bytes) };
        let value = Some(&value[..]).filter(|_| !is_tombstone);
        builder = builder.record_with_headers(now_ms, Some(&[*key, *key]), value, &[header]);
        numbers.push(number);
    }
    (builder.build().expect("a small batch can be built"), numbers)
}

async fn send(
    engine: &Engine,
    model: &SharedModel,
    cell: &Rc<RefCell<PartitionModel>>,
    (batch, numbers): (BytesMut, Vec<usize>),
) -> Result<(), Violation> {
    let target = cell.borrow().target;
    cell.borrow_mut().limbo.extend(&numbers);
    let outcome = engine.produce(Acks::All, vec![ProducePart { target, batch }]).await.pop();
    match outcome.expect("one part, one outcome") {
        Ok(produced) => {
            model.borrow_mut().acknowledged += 1;
            cell.borrow_mut().acknowledge(produced.base_offset.0, &numbers)
        }
        Err(error) => match error.code {
            ErrorCode::UnknownTopicOrPartition
            | ErrorCode::NotLeaderOrFollower
            | ErrorCode::RequestTimedOut
            | ErrorCode::KafkaStorageError => Ok(()),
            code => Err(format!("{target}: produce failed with {code:?}")),
        },
    }
}

async fn produce(engine: &Engine, model: &SharedModel) -> Result<(), Violation> {
    let Some(cell) = pick_partition(model) else { return Ok(()) };
    let gate = Rc::clone(&cell.borrow().gate);
    let _shared = gate.read().await;
    let keys: Vec<u8> =
        (0..=rand::below(4)).map(|_| u8::try_from(rand::below(KEYS)).expect("small")).collect();
    let built = build(model, &keys, 5, time::unix_time_ms());
    send(engine, model, &cell, built).await
}

/// A record with the test's own key in every partition.
pub async fn produce_everywhere(engine: &Engine, model: &SharedModel) -> Result<(), Violation> {
    for cell in partitions(model) {
        let built = build(model, &[OWN_KEY], 0, time::unix_time_ms());
        send(engine, model, &cell, built).await?;
    }
    Ok(())
}

/// Whether the node may say so: it goes down, or the topic does.
fn is_expected(error: &PartitionError) -> bool {
    matches!(error, PartitionError::UnknownPartition | PartitionError::Stopping | PartitionError::Changed)
}

async fn read_some(engine: &Engine, model: &SharedModel) -> Result<(), Violation> {
    let Some(cell) = pick_partition(model) else { return Ok(()) };
    let gate = Rc::clone(&cell.borrow().gate);
    let _shared = gate.read().await;
    let (target, start, end) = {
        let cell = cell.borrow();
        (cell.target, cell.log_start, cell.end())
    };
    let from = start + i64::try_from(rand::below((end - start).unsigned_abs() + 1)).expect("small");
    let max_bytes = [500, 4_000, 60_000][pick(3)];
    match model::read(engine, target, Some(from), max_bytes).await? {
        Read::Whole(range, found) => {
            let model = model.borrow();
            cell.borrow_mut().seen(&found, range, &model.sent, time::unix_time_ms())
        }
        Read::Nothing(error) if is_expected(&error) => Ok(()),
        Read::Nothing(PartitionError::Offline(reason)) if reason.contains("deleted") => Ok(()),
        Read::Nothing(PartitionError::OffsetOutOfRange { log_start_offset, .. })
            if cell.borrow().policy.deletes && log_start_offset.0 > from =>
        {
            Ok(())
        }
        Read::Nothing(error) => Err(format!("{target}: reading from {from} failed: {error}")),
    }
}

async fn truncate(engine: &Engine, model: &SharedModel) -> Result<(), Violation> {
    let Some(cell) = pick_partition(model) else { return Ok(()) };
    let gate = Rc::clone(&cell.borrow().gate);
    let _alone = gate.write().await;
    let (target, start, end) = {
        let cell = cell.borrow();
        (cell.target, cell.log_start, cell.end())
    };
    if end <= start {
        return Ok(());
    }
    let near = (end - 1 - i64::try_from(rand::below(30)).expect("small")).max(start);
    // Only whole batches can be taken back.
    let Ok(fetched) = sim_node::fetch(engine, target, near, 1).await else { return Ok(()) };
    let Some(header) = fetched.batches.first().and_then(|bytes| BatchHeader::parse(bytes).ok()) else {
        return Ok(());
    };
    let cut = header.base_offset;
    if cut < fetched.log_start_offset.0 {
        return Ok(());
    }
    cell.borrow_mut().maybe_cut = Some(cut);
    match engine.truncate(target, Offset(cut)).await {
        Ok(_) => {
            let model = model.borrow();
            let mut cell = cell.borrow_mut();
            cell.maybe_cut = None;
            cell.truncated_to(cut, &model.sent);
            Ok(())
        }
        // Retention or compaction was there first.
        Err(PartitionError::OffsetOutOfRange { .. }) => {
            cell.borrow_mut().maybe_cut = None;
            Ok(())
        }
        Err(PartitionError::Offline(_)) => Ok(()),
        Err(error) if is_expected(&error) => Ok(()),
        Err(error) => Err(format!("{target}: truncation to {cut} failed: {error}")),
    }
}

async fn trim(engine: &Engine, model: &SharedModel) -> Result<(), Violation> {
    let Some(cell) = pick_partition(model) else { return Ok(()) };
    let gate = Rc::clone(&cell.borrow().gate);
    let _alone = gate.write().await;
    let (target, start, end) = {
        let cell = cell.borrow();
        (cell.target, cell.log_start, cell.end())
    };
    let to = start + i64::try_from(rand::below((end - start).unsigned_abs() / 2 + 1)).expect("small");
    cell.borrow_mut().maybe_trim = Some(to);
    match sim_node::trim(engine, target, Offset(to)).await {
        Ok(log_start) => {
            let mut cell = cell.borrow_mut();
            cell.maybe_trim = None;
            cell.trimmed_to(log_start.0);
            Ok(())
        }
        Err(PartitionError::Offline(_)) => Ok(()),
        Err(error) if is_expected(&error) => Ok(()),
        Err(error) => Err(format!("{target}: trim to {to} failed: {error}")),
    }
}

/// Topics that may or may not exist after a restart, resolved by looking.
pub fn resolve_topics(engine: &Engine, model: &SharedModel) -> Result<(), Violation> {
    let image = engine.image();
    let mut model = model.borrow_mut();
    let ids: Vec<TopicId> = model.topics.keys().copied().collect();
    for id in ids {
        let topic = model.topics.get_mut(&id).expect("just listed");
        match (image.topics.contains_key(&id), topic.maybe_deleted) {
            (true, _) => topic.maybe_deleted = false,
            (false, true) => {
                model.topics.remove(&id);
            }
            (false, false) => return Err(format!("{id} is gone")),
        }
    }
    Ok(())
}
