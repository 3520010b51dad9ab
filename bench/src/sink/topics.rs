//! Which topics there are: every one that somebody asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use uuid::Uuid;

use super::log::Partition;

/// Limits that keep a mistyped number from taking the machine.
const TOPICS_MAX: usize = 100_000;
pub(super) const PARTITIONS_MAX: i32 = 100_000;

/// A topic.
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) id: Uuid,
    pub(super) partitions: Vec<Partition>,
    /// Whether a client created it; the others came into being when they were asked for.
    is_created: bool,
}

impl Topic {
    pub(super) fn partition(&self, index: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    fn is_unused(&self) -> bool {
        self.partitions.iter().all(|partition| partition.bounds().1 == 0)
    }
}

/// Why a topic was not created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotCreated {
    Exists,
    TooMany,
}

#[derive(Default)]
struct Tables {
    by_name: BTreeMap<String, Arc<Topic>>,
    by_id: BTreeMap<Uuid, Arc<Topic>>,
}

/// All topics of a sink.
pub(super) struct Topics {
    /// Partitions of a topic that does not say.
    partitions: i32,
    tables: RwLock<Tables>,
}

/// The same for a name in every sink, so that a client survives the restart of one: FNV-1a.
fn id_of(name: &str) -> Uuid {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let step = |hash: u128, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME);
    Uuid::from_u128(name.bytes().fold(BASIS, step))
}

impl Topics {
    pub(super) fn new(partitions: i32) -> Self {
        Self { partitions, tables: RwLock::default() }
    }

    fn read<T>(&self, look: impl FnOnce(&Tables) -> T) -> T {
        look(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Tables) -> T) -> T {
        change(&mut self.tables.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn all(&self) -> Vec<Arc<Topic>> {
        self.read(|tables| tables.by_name.values().cloned().collect())
    }

    /// The topic of that name, which comes into being; `None` when there are too many.
    pub(super) fn named(&self, name: &str) -> Option<Arc<Topic>> {
        self.find(name).or_else(|| {
            self.write(|tables| match tables.by_name.get(name) {
                Some(topic) => Some(Arc::clone(topic)),
                None => tables.insert(name, self.partitions, false),
            })
        })
    }

    /// The topic of that name, if somebody asked for it before.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Topic>> {
        self.read(|tables| tables.by_name.get(name).cloned())
    }

    pub(super) fn with_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        self.read(|tables| tables.by_id.get(&id).cloned())
    }

    /// Creates a topic. One that only was asked for, and that nobody has produced to, is made anew.
    pub(super) fn create(&self, name: &str, partitions: Option<i32>) -> Result<Arc<Topic>, NotCreated> {
        self.write(|tables| match tables.by_name.get(name) {
            Some(topic) if topic.is_created || !topic.is_unused() => Err(NotCreated::Exists),
            _ => {
                let partitions = partitions.unwrap_or(self.partitions);
                tables.insert(name, partitions, true).ok_or(NotCreated::TooMany)
            }
        })
    }

    /// Forgets a topic and what it holds.
    pub(super) fn delete(&self, topic: &Topic) {
        self.write(|tables| {
            tables.by_name.remove(&topic.name);
            tables.by_id.remove(&topic.id);
        });
        topic.partitions.iter().for_each(Partition::close);
    }
}

impl Tables {
    fn insert(&mut self, name: &str, partitions: i32, is_created: bool) -> Option<Arc<Topic>> {
        if self.by_name.len() >= TOPICS_MAX || !(1..=PARTITIONS_MAX).contains(&partitions) {
            return None;
        }
        let topic = Arc::new(Topic {
            name: name.to_owned(),
            id: id_of(name),
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            is_created,
        });
        self.by_name.insert(topic.name.clone(), Arc::clone(&topic));
        self.by_id.insert(topic.id, Arc::clone(&topic));
        Some(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_exists_when_it_is_asked_for_and_can_then_still_be_created() {
        let topics = Topics::new(4);
        let asked_for = topics.named("a").unwrap();
        assert_eq!(asked_for.partitions.len(), 4);
        assert!(Arc::ptr_eq(&asked_for, &topics.with_id(asked_for.id).unwrap()));
        let created = topics.create("a", Some(9)).unwrap();
        assert_eq!((created.partitions.len(), created.id), (9, asked_for.id), "ids are stable");
        assert_eq!(topics.create("a", None).err(), Some(NotCreated::Exists));
        topics.delete(&created);
        assert!(topics.with_id(created.id).is_none());
        let used = topics.named("a").unwrap();
        used.partitions[0].try_reserve(0, 0).unwrap().count(1);
        assert_eq!(topics.create("a", None).err(), Some(NotCreated::Exists));
        assert_ne!(topics.named("b").unwrap().id, used.id);
        assert_eq!(topics.all().len(), 2);
    }
}
