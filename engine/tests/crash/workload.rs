//! Clients that do a bit of everything until the node dies under them.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use corelog_engine::api::{Acks, NewTopic, PartitionError, ProducePart, TopicError, TopicRef};
use corelog_engine::engine::Engine;
use corelog_engine::types::{Durability, Offset, PartitionId, TopicId, TopicPartition};
use corelog_protocol::ErrorCode;
use corelog_protocol::batch::{BatchBuilder, Codec};
use corelog_runtime::{rand, time};

use crate::model::{
    self, Model, PartitionModel, ProducerModel, Retention, SentBatch, Topic, Violation, filler_of,
};
use crate::sim_node;

pub type SharedModel = Rc<RefCell<Model>>;

/// One random operation of a client.
pub async fn step(engine: &Engine, model: &SharedModel) -> Result<(), Violation> {
    match rand::below(100) {
        0..=3 => create_topic(engine, model).await,
        4 => delete_topic(engine, model).await,
        5..=7 => truncate(engine, model).await,
        8..=10 => trim(engine, model).await,
        11..=25 => read_some(engine, model).await,
        26..=50 => produce_idempotent(engine, model).await,
        51..=90 => produce_plain(engine, model).await,
        _ => {
            time::sleep(Duration::from_micros(rand::below(2_000))).await;
            Ok(())
        }
    }
}

async fn create_topic(engine: &Engine, model: &SharedModel) -> Result<(), Violation> {
    if model.borrow().topics.len() >= 6 {
        return Ok(());
    }
    let name = new_name(model);
    let durability = if rand::below(4) == 0 { Durability::Write } else { Durability::Fsync };
    let mode = match durability {
        Durability::Fsync => "fsync",
        Durability::Write => "write",
    };
    let partitions = 1 + i32::try_from(rand::below(4)).expect("below four");
    let (retention, configs) = some_retention();
    let new = NewTopic {
        name: name.clone(),
        partitions,
        replication_factor: 1,
        assignments: Vec::new(),
        configs: [vec![("corelog.durability".to_owned(), Some(mode.to_owned()))], configs].concat(),
    };
    let created = engine.create_topics(vec![new], false).await.pop().ok_or("no answer")?;
    let meta = match created {
        Ok(meta) => meta,
        Err(TopicError::Unavailable(_)) => return Ok(()),
        Err(error) => return Err(format!("{name} was not created: {error}")),
    };
    let partitions = (0..partitions).map(|partition| {
        let target = TopicPartition::new(meta.id, PartitionId(partition));
        Rc::new(RefCell::new(PartitionModel::new(target, durability, retention)))
    });
    let topic = Topic { name: name.clone(), partitions: partitions.collect(), maybe_deleted: false };
    let mut model = model.borrow_mut();
    if model.topics.insert(meta.id, topic).is_some() || model.deleted.contains(&meta.id) {
        return Err(format!("topic id {} was given twice", meta.id));
    }
    Ok(())
}

/// What the node may delete of a topic, and the configs that say so.
fn some_retention() -> (Retention, Vec<(String, Option<String>)>) {
    let between = |least: u64, most: u64| i64::try_from(least + rand::below(most - least)).expect("small");
    let mut configs = vec![("segment.bytes", if rand::below(2) == 0 { 1 << 20 } else { 1 << 16 })];
    let retention = match rand::below(3) {
        0 => Retention::Nothing,
        1 => {
            let kept_ms = between(5, 60);
            configs.extend([("retention.ms", kept_ms), ("segment.ms", between(5, 60))]);
            configs.push(("segment.jitter.ms", between(0, 60)));
            Retention::Time(kept_ms)
        }
        _ => {
            configs.push(("retention.bytes", between(1, 200_000)));
            Retention::Size
        }
    };
    let configs = configs.into_iter().map(|(name, value)| (name.to_owned(), Some(value.to_string())));
    (retention, configs.collect())
}

/// A name that no topic has: new, or that of a deleted topic.
fn new_name(model: &SharedModel) -> String {
    let mut model = model.borrow_mut();
    if rand::below(2) == 0
        && let Some(name) = model.free_names.pop_first()
    {
        return name;
    }
    let number = model.next_name.get();
    model.next_name.set(number + 1);
    format!("topic-{number}")
}

async fn delete_topic(engine: &Engine, model: &SharedModel) -> Result<(), Violation> {
    let picked = {
        let mut model = model.borrow_mut();
        let count = model.topics.len();
        if count < 3 {
            return Ok(());
        }
        let index = pick(count);
        let (id, topic) = model.topics.iter_mut().nth(index).expect("below the count");
        if topic.maybe_deleted {
            return Ok(());
        }
        topic.maybe_deleted = true;
        (*id, topic.name.clone())
    };
    let (id, name) = picked;
    let by = if rand::below(2) == 0 { TopicRef::Id(id) } else { TopicRef::Name(name.clone()) };
    match engine.delete_topics(vec![by]).await.pop().ok_or("no answer")? {
        Ok(_) => {
            let mut model = model.borrow_mut();
            model.topics.remove(&id);
            model.free_names.insert(name);
            model.deleted.insert(id);
            Ok(())
        }
        Err(TopicError::Unavailable(_)) => Ok(()),
        Err(error) => Err(format!("{name} was not deleted: {error}")),
    }
}

fn pick(count: usize) -> usize {
    usize::try_from(rand::below(count as u64)).expect("below a usize")
}

/// A random partition of a topic that nobody is deleting.
fn pick_partition(model: &SharedModel) -> Option<Rc<RefCell<PartitionModel>>> {
    let model = model.borrow();
    let all: Vec<_> = model
        .topics
        .values()
        .filter(|topic| !topic.maybe_deleted)
        .flat_map(|topic| &topic.partitions)
        .collect();
    // The first partitions are hot, so that some tails grow large and others stay small.
    let index = if rand::below(2) == 0 { pick(all.len().max(1)) } else { pick(all.len().clamp(1, 2)) };
    all.get(index).map(|cell| Rc::clone(cell))
}

/// Errors that a client sees when its topic is deleted or the node goes down.
fn is_expected(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::UnknownTopicOrPartition
            | ErrorCode::NotLeaderOrFollower
            | ErrorCode::RequestTimedOut
            | ErrorCode::KafkaStorageError
    )
}

fn build(model: &SharedModel, producer: Option<(i64, i32)>) -> SentBatch {
    let codecs = [Codec::None, Codec::None, Codec::Lz4, Codec::Gzip];
    let mut builder = BatchBuilder::new().codec(codecs[pick(codecs.len())]);
    if let Some((id, sequence)) = producer {
        builder = builder.producer(id, 0, sequence);
    }
    let large = rand::below(10) == 0;
    let mut records = Vec::new();
    for _ in 0..=rand::below(4) {
        let number = model.borrow().next_record.get();
        model.borrow().next_record.set(number + 1);
        let now_ms = time::unix_time_ms();
        model.borrow_mut().born_ms.insert(number, now_ms);
        let size = if large { rand::below(20_000) } else { rand::below(400) };
        let mut value = number.to_le_bytes().to_vec();
        value.resize(8 + usize::try_from(size).expect("small"), filler_of(number));
        builder = builder.record(now_ms, Some(b"key"), Some(&value));
        records.push(number);
    }
    SentBatch { bytes: builder.build().expect("a small batch can be built"), records }
}

async fn send(engine: &Engine, target: TopicPartition, bytes: BytesMut) -> Result<i64, ErrorCode> {
    let acks = if rand::below(2) == 0 { Acks::All } else { Acks::Leader };
    let outcome = engine.produce(acks, vec![ProducePart { target, batch: bytes }]).await.pop();
    match outcome.expect("one part, one outcome") {
        Ok(produced) => Ok(produced.base_offset.0),
        Err(error) => Err(error.code),
    }
}

async fn produce_plain(engine: &Engine, model: &SharedModel) -> Result<(), Violation> {
    let Some(cell) = pick_partition(model) else { return Ok(()) };
    let gate = Rc::clone(&cell.borrow().gate);
    let _shared = gate.read().await;
    let sent = build(model, None);
    let target = cell.borrow().target;
    cell.borrow_mut().limbo.extend(&sent.records);
    match send(engine, target, sent.bytes).await {
        Ok(base) => {
            model.borrow().acknowledged.set(model.borrow().acknowledged.get() + 1);
            cell.borrow_mut().acknowledge(base, &sent.records)
        }
        Err(code) if is_expected(code) => Ok(()),
        Err(code) => Err(format!("{target}: produce failed with {code:?}")),
    }
}

async fn produce_idempotent(engine: &Engine, model: &SharedModel) -> Result<(), Violation> {
    let Some(cell) = pick_partition(model) else { return Ok(()) };
    let gate = Rc::clone(&cell.borrow().gate);
    let _shared = gate.read().await;
    let Some(producer) = idle_producer(engine, model, &cell).await? else { return Ok(()) };
    let repeat = rand::below(4) == 0;
    let (sent, is_repeat) = {
        let mut producer = producer.borrow_mut();
        producer.busy = true;
        match (producer.in_flight.clone(), producer.last.clone()) {
            (Some(unanswered), _) => (unanswered, false),
            (None, Some((last, _))) if repeat => (last, true),
            (None, _) => (build(model, Some((producer.id, producer.next_sequence))), false),
        }
    };
    if !is_repeat {
        producer.borrow_mut().in_flight = Some(sent.clone());
        cell.borrow_mut().limbo.extend(&sent.records);
    }
    let target = cell.borrow().target;
    let result = send(engine, target, sent.bytes.clone()).await;
    let mut producer = producer.borrow_mut();
    producer.busy = false;
    match result {
        Ok(base) if is_repeat => {
            let original = producer.last.as_ref().map(|(_, offset)| *offset);
            if original == Some(base) {
                return Ok(());
            }
            Err(format!("{target}: a repeat got offset {base}, the original {original:?}"))
        }
        Ok(base) => {
            producer.in_flight = None;
            producer.next_sequence += i32::try_from(sent.records.len()).expect("few records");
            cell.borrow_mut().acknowledge(base, &sent.records)?;
            producer.last = Some((sent, base));
            Ok(())
        }
        Err(code) if is_expected(code) => Ok(()),
        Err(code) => {
            Err(format!("{target}: idempotent produce of producer {} failed with {code:?}", producer.id))
        }
    }
}

/// A producer of this partition that has nothing in flight in this life of the node.
async fn idle_producer(
    engine: &Engine,
    model: &SharedModel,
    cell: &Rc<RefCell<PartitionModel>>,
) -> Result<Option<Rc<RefCell<ProducerModel>>>, Violation> {
    let idle = cell.borrow().producers.iter().find(|producer| !producer.borrow().busy).map(Rc::clone);
    if idle.is_some() || cell.borrow().producers.len() >= 3 {
        return Ok(idle);
    }
    let Ok(id) = engine.new_producer_id().await else { return Ok(None) };
    if !model.borrow_mut().producer_ids.insert(id) {
        return Err(format!("producer id {id} was given twice"));
    }
    let producer = Rc::new(RefCell::new(ProducerModel {
        id,
        next_sequence: 0,
        busy: false,
        in_flight: None,
        last: None,
    }));
    cell.borrow_mut().producers.push(Rc::clone(&producer));
    Ok(Some(producer))
}

async fn truncate(engine: &Engine, model: &SharedModel) -> Result<(), Violation> {
    let Some(cell) = pick_partition(model) else { return Ok(()) };
    let gate = Rc::clone(&cell.borrow().gate);
    let _alone = gate.write().await;
    let target = cell.borrow().target;
    // Only whole batches can be taken back, so a boundary is looked for first.
    let (start, promised) = {
        let cell = cell.borrow();
        (cell.start(), cell.end())
    };
    if promised <= start {
        return Ok(());
    }
    let back = i64::try_from(rand::below(12)).expect("small");
    let near = (promised - 1 - back).max(start);
    let Ok(fetched) = sim_node::fetch(engine, target, near, 1).await else { return Ok(()) };
    let Some(first) = model::numbers(&fetched.batches, 0)?.first().copied() else { return Ok(()) };
    let end = first.0;
    if end < cell.borrow().start() {
        return Ok(());
    }
    cell.borrow_mut().maybe_cut = Some(end);
    match engine.truncate(target, Offset(end)).await {
        Ok(_) => {
            let mut cell = cell.borrow_mut();
            cell.maybe_cut = None;
            cell.forget_from(end);
            Ok(())
        }
        Err(PartitionError::UnknownPartition | PartitionError::Stopping | PartitionError::Offline(_)) => {
            Ok(())
        }
        // Retention was there first.
        Err(PartitionError::OffsetOutOfRange { log_start_offset, .. }) if log_start_offset.0 > end => {
            cell.borrow_mut().maybe_cut = None;
            may_start_at(model, &cell, log_start_offset)
        }
        Err(error) => Err(format!("{target}: truncation to {end} failed: {error}")),
    }
}

async fn trim(engine: &Engine, model: &SharedModel) -> Result<(), Violation> {
    let Some(cell) = pick_partition(model) else { return Ok(()) };
    let gate = Rc::clone(&cell.borrow().gate);
    let _alone = gate.write().await;
    let target = cell.borrow().target;
    let (start, end) = {
        let cell = cell.borrow();
        (cell.start(), cell.end())
    };
    if end <= start {
        return Ok(());
    }
    let to = start + i64::try_from(rand::below((end - start).unsigned_abs() + 1)).expect("small");
    cell.borrow_mut().maybe_trim = Some(to);
    match sim_node::trim(engine, target, Offset(to)).await {
        Ok(log_start) if log_start.0 >= to => {
            may_start_at(model, &cell, log_start)?;
            let mut cell = cell.borrow_mut();
            cell.maybe_trim = None;
            // Retention may have been ahead. What a trim answers is durable.
            cell.trimmed_to(log_start.0);
            Ok(())
        }
        Ok(log_start) => Err(format!("{target}: trimmed to {to}, the log starts at {log_start}")),
        Err(PartitionError::UnknownPartition | PartitionError::Stopping | PartitionError::Offline(_)) => {
            Ok(())
        }
        Err(error) => Err(format!("{target}: trim to {to} failed: {error}")),
    }
}

/// A partition was seen to start there.
fn may_start_at(
    model: &SharedModel,
    cell: &Rc<RefCell<PartitionModel>>,
    start: Offset,
) -> Result<(), Violation> {
    let (model, now_ms) = (model.borrow(), time::unix_time_ms());
    cell.borrow_mut().may_start_at(start.0, now_ms, &model.born_ms)
}

async fn read_some(engine: &Engine, model: &SharedModel) -> Result<(), Violation> {
    let Some(cell) = pick_partition(model) else { return Ok(()) };
    let gate = Rc::clone(&cell.borrow().gate);
    let _shared = gate.read().await;
    let (target, start, end, durability) = {
        let cell = cell.borrow();
        (cell.target, cell.start(), cell.end(), cell.durability)
    };
    let from = start + i64::try_from(rand::below((end - start).unsigned_abs() + 1)).expect("small");
    let fetched = match sim_node::fetch(engine, target, from, 8 * 1024).await {
        Ok(fetched) => fetched,
        Err(PartitionError::UnknownPartition | PartitionError::Stopping | PartitionError::Offline(_)) => {
            return Ok(());
        }
        Err(PartitionError::OffsetOutOfRange { log_start_offset, .. }) if log_start_offset.0 > from => {
            return may_start_at(model, &cell, log_start_offset);
        }
        Err(error) => return Err(format!("{target}: fetch at {from} in [{start}, {end}) failed: {error}")),
    };
    let found = model::numbers(&fetched.batches, from)?;
    if from < end && found.first().is_none_or(|(offset, _)| *offset != from) {
        return Err(format!("{target}: fetch at {from} in [{start}, {end}) gave {:?}", found.first()));
    }
    let mut cell = cell.borrow_mut();
    if durability == Durability::Fsync {
        return cell.seen(&found);
    }
    // A power failure may take back what was read before its sync, so nothing is promised by it.
    let wrong = found.iter().find(|(offset, record)| cell.records.get(offset).is_some_and(|p| p != record));
    wrong.map_or(Ok(()), |(offset, record)| Err(format!("{target}: offset {offset} holds {record}")))
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
                let name = topic.name.clone();
                model.topics.remove(&id);
                model.free_names.insert(name);
                model.deleted.insert(id);
            }
            (false, false) => return Err(format!("{} is gone", topic.name)),
        }
    }
    match model.deleted.iter().find(|id| image.topics.contains_key(id)) {
        Some(id) => Err(format!("deleted topic {id} is back")),
        None => Ok(()),
    }
}
