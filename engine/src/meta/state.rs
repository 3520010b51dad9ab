//! The state machine: command in, new picture and reply out. Pure and deterministic: the same
//! commands give the same bytes on every node.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::command::{
    ConfigChange, ConfigOutcome, ConfigOwner, MetaCommand, MetaReply, NewPartitions, TopicSpec,
};
use super::image::{ListenerMeta, MetaImage, NodeMeta, TopicMeta};
use super::topics;
use crate::api::{TopicError, TopicRef};
use crate::types::{LeaderEpoch, NodeId};

/// How many deleted topics are remembered.
const DELETED_TOPICS_MAX: usize = 4096;

/// Applies one command. Clones the image only when others hold it and it changes.
pub fn apply(image: &mut Arc<MetaImage>, command: MetaCommand) -> MetaReply {
    match command {
        MetaCommand::InitCluster { cluster_id } => init_cluster(image, cluster_id),
        MetaCommand::RegisterNode { node, listeners, rack } => register(image, node, listeners, rack),
        MetaCommand::CreateTopics { topics } => MetaReply::Created(create_topics(image, topics)),
        MetaCommand::DeleteTopics { topics } => MetaReply::Deleted(delete_topics(image, &topics)),
        MetaCommand::AllocateProducerIds { node: _, count } => allocate_producer_ids(image, count),
        MetaCommand::CreatePartitions { topics } => {
            MetaReply::PartitionsCreated(create_partitions(image, topics))
        }
        MetaCommand::AlterConfigs { changes } => {
            let outcomes = changes.into_iter().map(|change| alter_configs(image, change));
            MetaReply::ConfigsAltered(outcomes.collect())
        }
    }
}

fn init_cluster(image: &mut Arc<MetaImage>, cluster_id: String) -> MetaReply {
    if image.cluster_id.is_empty() {
        let image = change(image);
        image.cluster_id = cluster_id;
    }
    MetaReply::ClusterId(image.cluster_id.clone())
}

/// A copy of the picture that may be changed, with the next version.
fn change(image: &mut Arc<MetaImage>) -> &mut MetaImage {
    let image = Arc::make_mut(image);
    image.version += 1;
    image
}

fn register(
    image: &mut Arc<MetaImage>,
    node: NodeId,
    listeners: Vec<ListenerMeta>,
    rack: Option<String>,
) -> MetaReply {
    let image = change(image);
    let incarnation = image.nodes.get(&node).map_or(0, |known| known.incarnation) + 1;
    image.nodes.insert(node, NodeMeta { incarnation, listeners, rack });
    for topic in image.topics.values_mut() {
        if topic.partitions.iter().all(|partition| partition.leader != Some(node)) {
            continue;
        }
        for partition in &mut Arc::make_mut(topic).partitions {
            if partition.leader == Some(node) {
                partition.leader_epoch = LeaderEpoch(partition.leader_epoch.0 + 1);
            }
        }
    }
    MetaReply::Registered { incarnation }
}

fn create_topics(
    image: &mut Arc<MetaImage>,
    specs: Vec<TopicSpec>,
) -> Vec<Result<Arc<TopicMeta>, TopicError>> {
    let repeated = topics::repeated(specs.iter().map(|spec| spec.name.as_str()));
    let mut results = Vec::with_capacity(specs.len());
    for spec in specs {
        if repeated.contains(&spec.name) {
            results.push(Err(topics::duplicate_name()));
            continue;
        }
        results.push(topics::plan(image, spec).map(|topic| insert(image, topic)));
    }
    results
}

fn insert(image: &mut Arc<MetaImage>, topic: TopicMeta) -> Arc<TopicMeta> {
    let image = change(image);
    let topic = Arc::new(topic);
    image.next_slot += topic.partitions.len() as u64;
    let previous = image.names.insert(topic.name.clone(), topic.id);
    assert!(previous.is_none(), "a planned topic's name is free");
    let previous = image.topics.insert(topic.id, Arc::clone(&topic));
    assert!(previous.is_none(), "a planned topic's id is free");
    topic
}

fn delete_topics(image: &mut Arc<MetaImage>, refs: &[TopicRef]) -> Vec<Result<Arc<TopicMeta>, TopicError>> {
    let found: Vec<_> = refs.iter().map(|topic| topics::find(image, topic)).collect();
    let repeated = topics::repeated(found.iter().flatten().map(|topic| topic.name.as_str()));
    found
        .into_iter()
        .map(|found| {
            let topic = found?;
            if repeated.contains(&topic.name) {
                return Err(topics::duplicate_name());
            }
            let image = change(image);
            image.topics.remove(&topic.id);
            image.names.remove(&topic.name);
            let deleted = Arc::make_mut(&mut image.deleted_topics);
            deleted.push_back(topic.id);
            if deleted.len() > DELETED_TOPICS_MAX {
                deleted.pop_front();
            }
            Ok(topic)
        })
        .collect()
}

fn create_partitions(
    image: &mut Arc<MetaImage>,
    topics: Vec<NewPartitions>,
) -> Vec<Result<Arc<TopicMeta>, TopicError>> {
    let repeated = topics::repeated(topics.iter().map(|topic| topic.name.as_str()));
    let grow = |topic: NewPartitions| {
        if repeated.contains(&topic.name) {
            return Err(topics::duplicate_name());
        }
        let (id, new) = topics::plan_growth(image, topic)?;
        let image = change(image);
        image.next_slot += new.len() as u64;
        let topic = image.topics.get_mut(&id).expect("growth was planned for a topic that is there");
        // Its first slot stays: it says where the older partitions are.
        Arc::make_mut(topic).partitions.extend(new);
        Ok(Arc::clone(topic))
    };
    topics.into_iter().map(grow).collect()
}

fn alter_configs(image: &mut Arc<MetaImage>, change: ConfigChange) -> ConfigOutcome {
    let ConfigChange { owner, before, after } = change;
    let Some(present) = configs_of(image, &owner) else { return ConfigOutcome::UnknownTopic };
    if *present != before {
        return ConfigOutcome::Outdated;
    }
    if before == after {
        return ConfigOutcome::Made;
    }
    let image = self::change(image);
    match owner {
        ConfigOwner::Topic(id) => {
            let topic = image.topics.get_mut(&id).expect("its configs were just looked at");
            Arc::make_mut(topic).configs = after;
        }
        ConfigOwner::AllNodes => Arc::make_mut(&mut image.node_configs).all = after,
        ConfigOwner::Node(id) => {
            let by_node = &mut Arc::make_mut(&mut image.node_configs).by_node;
            if after.is_empty() {
                by_node.remove(&id);
            } else {
                by_node.insert(id, after);
            }
        }
    }
    ConfigOutcome::Made
}

/// What is set of somebody's configs; nothing for a topic that is not there.
pub(super) fn configs_of<'a>(
    image: &'a MetaImage,
    owner: &ConfigOwner,
) -> Option<&'a BTreeMap<String, String>> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    match owner {
        ConfigOwner::Topic(id) => image.topics.get(id).map(|topic| &topic.configs),
        ConfigOwner::AllNodes => Some(&image.node_configs.all),
        ConfigOwner::Node(id) => Some(image.node_configs.by_node.get(id).unwrap_or(&NONE)),
    }
}

fn allocate_producer_ids(image: &mut Arc<MetaImage>, count: u32) -> MetaReply {
    let first = image.next_producer_id;
    let Some(next) = first.checked_add(i64::from(count)) else {
        return MetaReply::ProducerIdsExhausted;
    };
    change(image).next_producer_id = next;
    MetaReply::ProducerIds { first, count }
}
