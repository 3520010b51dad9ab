//! The rules for new topics: names, counts, placement. Messages are Kafka's where Kafka has one.
//! Pure; used by the proposer to answer early and by the state machine to decide.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::command::{NewPartitions, Placement, TopicSpec};
use super::image::{MetaImage, PartitionMeta, TopicMeta};
use crate::api::{NewTopic, TopicError, TopicRef};
use crate::topic_config::{NodeDefaults, overrides_of};
use crate::types::{LeaderEpoch, NodeId, TopicId};

/// Kafka's longest topic name.
const NAME_BYTES_MAX: usize = 249;

/// How many partitions a cluster takes for each of its nodes.
pub const PARTITIONS_PER_NODE_MAX: usize = 100_000;

/// Topics that the cluster keeps for itself.
const INTERNAL_TOPICS: [&str; 2] = ["__consumer_offsets", "__transaction_state"];

/// What a node fills in where a request says −1, and checks configs against.
#[derive(Debug, Clone, Copy)]
pub struct CreationDefaults<'a> {
    /// Partitions of a topic.
    pub partitions: i32,
    /// Replicas of a partition.
    pub replication_factor: i16,
    /// Defaults and limits of configs.
    pub configs: &'a NodeDefaults,
}

/// Turns a request into a command's topic: checks what only this node can, fills in defaults.
pub fn spec(topic: &NewTopic, id: TopicId, defaults: CreationDefaults<'_>) -> Result<TopicSpec, TopicError> {
    check_name(&topic.name)?;
    let placement = placement(topic, defaults)?;
    let configs = overrides_of(&topic.configs, defaults.configs)
        .map_err(|error| TopicError::InvalidConfig(error.to_string()))?;
    Ok(TopicSpec { id, name: topic.name.clone(), placement, configs })
}

fn placement(topic: &NewTopic, defaults: CreationDefaults<'_>) -> Result<Placement, TopicError> {
    if !topic.assignments.is_empty() {
        let both = |what: &str| {
            TopicError::InvalidRequest(format!(
                "A manual partition assignment was specified, but {what} was not set to -1."
            ))
        };
        if topic.replication_factor != -1 {
            return Err(both("replication factor"));
        }
        if topic.partitions != -1 {
            return Err(both("numPartitions"));
        }
        return Ok(Placement::Manual(topic.assignments.clone()));
    }
    let replication_factor = match topic.replication_factor {
        -1 => defaults.replication_factor,
        given => given,
    };
    let partitions = match topic.partitions {
        -1 => defaults.partitions,
        given => given,
    };
    Ok(Placement::Spread { partitions, replication_factor })
}

/// Decides what a new topic looks like, if it may exist. Changes nothing.
pub fn plan(image: &MetaImage, spec: TopicSpec) -> Result<TopicMeta, TopicError> {
    check_name(&spec.name)?;
    check_free(image, &spec)?;
    let replicas = match spec.placement {
        Placement::Spread { partitions, replication_factor } => {
            let replicas = usize::try_from(replication_factor).unwrap_or(0);
            spread(image, partitions, replicas)?
        }
        Placement::Manual(assignments) => {
            check_room(image, assignments.len())?;
            manual(image, assignments)?
        }
    };
    Ok(TopicMeta {
        id: spec.id,
        internal: INTERNAL_TOPICS.contains(&spec.name.as_str()),
        name: spec.name,
        partitions: replicas.into_iter().map(new_partition).collect(),
        configs: spec.configs,
        first_slot: image.next_slot,
    })
}

fn new_partition(replicas: Vec<NodeId>) -> PartitionMeta {
    PartitionMeta {
        leader: replicas.first().copied(),
        leader_epoch: LeaderEpoch(0),
        isr: replicas.clone(),
        replicas,
    }
}

/// Decides which partitions a topic gets, if it may grow so: its id, and the new ones. Changes
/// nothing.
pub fn plan_growth(
    image: &MetaImage,
    wanted: NewPartitions,
) -> Result<(TopicId, Vec<PartitionMeta>), TopicError> {
    let NewPartitions { name, count, assignments } = wanted;
    let topic = image.topic_named(&name).ok_or_else(|| TopicError::UnknownName(name.clone()))?;
    let present = topic.partitions.len();
    let additional = usize::try_from(count).unwrap_or(0).checked_sub(present).filter(|new| *new > 0);
    let Some(additional) = additional else {
        return Err(TopicError::InvalidPartitions(if usize::try_from(count) == Ok(present) {
            format!("Topic already has {present} partition(s).")
        } else {
            format!(
                "The topic {name} currently has {present} partition(s); {count} would not be an increase."
            )
        }));
    };
    if topic.internal {
        // Groups are spread over the partitions by the number of them.
        return Err(TopicError::InvalidRequest(format!(
            "The number of partitions of the internal topic {name} cannot be changed: what it holds is \
             placed by that number."
        )));
    }
    if let Some(given) = assignments.as_ref().filter(|given| given.len() != additional) {
        return Err(TopicError::InvalidAssignment(format!(
            "Attempted to add {additional} additional partition(s), but only {} assignment(s) were \
             specified.",
            given.len()
        )));
    }
    check_room(image, additional)?;
    let factor = topic.partitions.first().map_or(1, |first| first.replicas.len());
    let replicas = match assignments {
        Some(assignments) => {
            for replicas in &assignments {
                check_replicas(image, replicas, Some(factor))?;
            }
            assignments
        }
        None => spread(image, count - i32::try_from(present).unwrap_or(0), factor)?,
    };
    Ok((topic.id, replicas.into_iter().map(new_partition).collect()))
}

/// Kafka's rules for topic names.
pub(super) fn check_name(name: &str) -> Result<(), TopicError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fault = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        format!("'{name}' is not allowed")
    } else if name.len() > NAME_BYTES_MAX {
        format!("the length of '{name}' is longer than the max allowed length {NAME_BYTES_MAX}")
    } else if !name.chars().all(legal) {
        format!("'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")
    } else {
        return Ok(());
    };
    Err(TopicError::InvalidName(fault))
}

/// The name must be free, and must not collide once '.' becomes '_' (as in metrics).
fn check_free(image: &MetaImage, spec: &TopicSpec) -> Result<(), TopicError> {
    if image.names.contains_key(&spec.name) {
        return Err(TopicError::Exists(spec.name.clone()));
    }
    if image.topics.contains_key(&spec.id) || image.deleted_topics.contains(&spec.id) {
        return Err(TopicError::InvalidRequest(format!("topic id {} was used before", spec.id)));
    }
    if !spec.name.contains(['.', '_']) {
        return Ok(());
    }
    match colliding(&image.names, &spec.name) {
        Some(other) => Err(TopicError::InvalidName(format!(
            "Topic '{}' collides with existing topic: {other}",
            spec.name
        ))),
        None => Ok(()),
    }
}

/// The name that becomes the same once '.' is '_'. Goes only where names go that exist: a hundred
/// thousand of them that begin with '_' must not be looked through for each new one.
fn colliding(names: &BTreeMap<String, TopicId>, new: &str) -> Option<String> {
    // What begins like the new name up to here, and is the beginning of a name that exists.
    let mut begun = vec![String::new()];
    for piece in new.split_inclusive(['.', '_']) {
        let plain = piece.strip_suffix(['.', '_']);
        let ends = if plain.is_some() { &[".", "_"][..] } else { &[""] };
        let longer = |begin: &String| {
            let longer = format!("{begin}{}", plain.unwrap_or(piece));
            ends.iter().map(move |end| format!("{longer}{end}"))
        };
        begun = begun.iter().flat_map(longer).filter(|begin| is_begin_of_any(names, begin)).collect();
    }
    begun.into_iter().find(|name| names.contains_key(name))
}

fn is_begin_of_any(names: &BTreeMap<String, TopicId>, begin: &str) -> bool {
    let first = names.range::<str, _>((Bound::Included(begin), Bound::Unbounded)).next();
    first.is_some_and(|(name, _)| name.starts_with(begin))
}

fn check_room(image: &MetaImage, new: usize) -> Result<(), TopicError> {
    let existing: usize = image.topics.values().map(|topic| topic.partitions.len()).sum();
    let max = PARTITIONS_PER_NODE_MAX.saturating_mul(image.nodes.len().max(1));
    if existing.saturating_add(new) > max {
        return Err(TopicError::PolicyViolation(format!(
            "The cluster has {existing} partitions and takes {max} at most: there is no room for {new} more."
        )));
    }
    Ok(())
}

/// Round robin over the registered nodes, beginning where the last topic ended.
fn spread(image: &MetaImage, partitions: i32, replicas: usize) -> Result<Vec<Vec<NodeId>>, TopicError> {
    if replicas == 0 {
        return Err(TopicError::InvalidReplicationFactor(
            "Replication factor must be larger than 0, or -1 to use the default value.".to_owned(),
        ));
    }
    let count = usize::try_from(partitions).unwrap_or(0);
    if count == 0 {
        return Err(TopicError::InvalidPartitions(
            "Number of partitions was set to an invalid non-positive value.".to_owned(),
        ));
    }
    check_room(image, count)?;
    let nodes: Vec<NodeId> = image.nodes.keys().copied().collect();
    if replicas > nodes.len() {
        return Err(TopicError::InvalidReplicationFactor(format!(
            "Unable to replicate the partition {replicas} time(s): The target replication factor of {replicas} \
             cannot be reached because only {} broker(s) are registered.",
            nodes.len()
        )));
    }
    let first = usize::try_from(image.next_slot % nodes.len() as u64).expect("smaller than a length");
    let place = |partition: usize| {
        (0..replicas).map(|replica| nodes[(first + partition + replica) % nodes.len()]).collect()
    };
    Ok((0..count).map(place).collect())
}

/// The client's own assignment, if it is one for consecutive partitions on registered nodes.
fn manual(image: &MetaImage, assignments: Vec<(i32, Vec<NodeId>)>) -> Result<Vec<Vec<NodeId>>, TopicError> {
    let refuse = |why: String| Err(TopicError::InvalidAssignment(why));
    let mut by_partition = BTreeMap::new();
    let mut replicas_before = None;
    for (partition, replicas) in assignments {
        check_replicas(image, &replicas, replicas_before)?;
        replicas_before = Some(replicas.len());
        if by_partition.insert(partition, replicas).is_some() {
            return refuse(format!("Found multiple manual partition assignments for partition {partition}"));
        }
    }
    if !by_partition.keys().copied().eq((0..).take(by_partition.len())) {
        return refuse("partitions should be a consecutive 0-based integer sequence".to_owned());
    }
    Ok(by_partition.into_values().collect())
}

fn check_replicas(
    image: &MetaImage,
    replicas: &[NodeId],
    replicas_before: Option<usize>,
) -> Result<(), TopicError> {
    let refuse = |why: String| Err(TopicError::InvalidAssignment(why));
    if replicas.is_empty() {
        return refuse("The manual partition assignment includes an empty replica list.".to_owned());
    }
    let mut seen = BTreeSet::new();
    for node in replicas {
        if !image.nodes.contains_key(node) {
            return refuse(format!(
                "The manual partition assignment includes broker {node}, but no such broker is registered."
            ));
        }
        if !seen.insert(node) {
            return refuse(format!(
                "The manual partition assignment includes the broker {node} more than once."
            ));
        }
    }
    match replicas_before {
        Some(before) if before != replicas.len() => refuse(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not \
             consistent with previous partitions, which have {before} replica(s).",
            replicas.len()
        )),
        Some(_) | None => Ok(()),
    }
}

/// The topic of that name or id.
pub fn find(image: &MetaImage, topic: &TopicRef) -> Result<Arc<TopicMeta>, TopicError> {
    match topic {
        TopicRef::Name(name) => {
            image.topic_named(name).cloned().ok_or_else(|| TopicError::UnknownName(name.clone()))
        }
        TopicRef::Id(id) => image.topics.get(id).cloned().ok_or(TopicError::UnknownId(*id)),
    }
}

/// The names that occur more than once.
pub fn repeated<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    names.filter(|name| !seen.insert(*name)).map(str::to_owned).collect()
}

/// The refusal of a topic that one request names twice.
pub fn duplicate_name() -> TopicError {
    TopicError::InvalidRequest("Duplicate topic name.".to_owned())
}
