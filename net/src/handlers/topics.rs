//! CreateTopics and DeleteTopics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use corelog_engine::api::{NewTopic, TopicError, TopicRef};
use corelog_engine::meta::image::TopicMeta;
use corelog_engine::topic_config::{NodeDefaults, TopicConfig};
use corelog_engine::types::{NodeId, TopicId};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
};

use super::{owned, words};
use crate::service::Service;

/// Answers CreateTopics: one result per topic, each of which succeeds or fails alone.
pub(crate) async fn create(
    service: &Service,
    version: i16,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let topics = once_each(request.topics, |topic| Some(topic.name.clone()));
    let checked = topics.iter().map(|(topic, is_repeated)| new_topic(topic, *is_repeated));
    let checked: Vec<Result<NewTopic, TopicError>> = checked.collect();
    let accepted = checked.iter().filter_map(|topic| topic.as_ref().ok().cloned()).collect();
    let mut outcomes = service.engine.create_topics(accepted, request.validate_only).await.into_iter();
    let results = topics.iter().zip(checked).map(|((topic, _), checked)| {
        let outcome = match checked {
            Ok(_) => outcomes.next().expect("one outcome per topic that was passed on"),
            Err(error) => Err(error),
        };
        created(topic, version, outcome, &service.engine.defaults())
    });
    CreateTopicsResponse::default().with_topics(results.collect())
}

/// Each topic of a request once, and whether it is named again: Kafka does nothing with such a one,
/// and answers it once. What has no key is never the same.
fn once_each<T, K: Ord>(named: Vec<T>, key: impl Fn(&T) -> Option<K>) -> Vec<(T, bool)> {
    let mut places = BTreeMap::new();
    let mut topics: Vec<(T, bool)> = Vec::with_capacity(named.len());
    for topic in named {
        if let Some(key) = key(&topic) {
            let place = *places.entry(key).or_insert(topics.len());
            if let Some((_, is_repeated)) = topics.get_mut(place) {
                *is_repeated = true;
                continue;
            }
        }
        topics.push((topic, false));
    }
    topics
}

fn named_twice() -> TopicError {
    TopicError::InvalidRequest("this topic is named more than once in the request".to_owned())
}

/// The topic as the engine wants it; contradictions within the request are found here.
fn new_topic(topic: &CreatableTopic, repeated: bool) -> Result<NewTopic, TopicError> {
    if repeated {
        return Err(named_twice());
    }
    if !topic.assignments.is_empty() && (topic.num_partitions != -1 || topic.replication_factor != -1) {
        let message = "either assignments or a number of partitions and replicas can be set, not both";
        return Err(TopicError::InvalidRequest(message.to_owned()));
    }
    let text = |text: &kafka_protocol::protocol::StrBytes| text.as_str().to_owned();
    Ok(NewTopic {
        name: topic.name.as_str().to_owned(),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic
            .assignments
            .iter()
            .map(|a| (a.partition_index, a.broker_ids.iter().map(|id| NodeId(id.0)).collect()))
            .collect(),
        configs: topic.configs.iter().map(|c| (text(&c.name), c.value.as_ref().map(text))).collect(),
    })
}

fn created(
    topic: &CreatableTopic,
    version: i16,
    outcome: Result<Arc<TopicMeta>, TopicError>,
    defaults: &NodeDefaults,
) -> CreatableTopicResult {
    let result = CreatableTopicResult::default().with_name(topic.name.clone());
    match outcome {
        Err(error) => result.with_error_code(error.code().code()).with_error_message(words(&error)),
        Ok(meta) => {
            let partitions = i32::try_from(meta.partitions.len()).expect("partition indexes are 32 bits");
            let replicas = meta.partitions.first().map_or(0, |partition| partition.replicas.len());
            let result = result.with_topic_id(meta.id.0);
            if version < 5 {
                return result;
            }
            result
                .with_num_partitions(partitions)
                .with_replication_factor(i16::try_from(replicas).unwrap_or(i16::MAX))
                .with_configs(Some(configs(&meta, defaults)))
        }
    }
}

fn configs(meta: &TopicMeta, defaults: &NodeDefaults) -> Vec<CreatableTopicConfigs> {
    let described = TopicConfig::describe(&meta.configs, defaults).into_iter().map(|config| {
        CreatableTopicConfigs::default()
            .with_name(owned(config.descriptor.name))
            .with_value(Some(owned(config.value())))
            .with_config_source(config.source().code())
    });
    described.collect()
}

/// Answers DeleteTopics: by name, or since version 6 by name or id.
pub(crate) async fn delete(
    service: &Service,
    version: i16,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let by_name = |name| DeleteTopicState::default().with_name(Some(name));
    let named: Vec<DeleteTopicState> = match version {
        6.. => request.topics,
        _ => request.topic_names.into_iter().map(by_name).collect(),
    };
    let states = once_each(named, |state| {
        let is_named = state.name.is_some() || !state.topic_id.is_nil();
        is_named.then(|| (state.name.clone(), state.topic_id))
    });
    let image = service.engine.image();
    let mut seen = BTreeSet::new();
    let checked: Vec<Result<TopicRef, TopicError>> = states
        .iter()
        .map(|(state, is_repeated)| {
            let topic = topic_ref(state)?;
            if *is_repeated {
                return Err(named_twice());
            }
            // A name and an id may mean the same topic.
            let id = match &topic {
                TopicRef::Name(name) => image.names.get(name).copied(),
                TopicRef::Id(id) => Some(*id),
            };
            match id {
                Some(id) if !seen.insert(id) => Err(named_twice()),
                Some(_) | None => Ok(topic),
            }
        })
        .collect();
    let accepted = checked.iter().filter_map(|topic| topic.as_ref().ok().cloned()).collect();
    let mut outcomes = service.engine.delete_topics(accepted).await.into_iter();
    let results = states.iter().zip(checked).map(|((state, _), checked)| {
        let outcome = match checked {
            Ok(_) => outcomes.next().expect("one outcome per topic that was passed on"),
            Err(error) => Err(error),
        };
        deleted(state, version, outcome)
    });
    DeleteTopicsResponse::default().with_responses(results.collect())
}

fn topic_ref(state: &DeleteTopicState) -> Result<TopicRef, TopicError> {
    match &state.name {
        Some(name) if state.topic_id.is_nil() => Ok(TopicRef::Name(name.as_str().to_owned())),
        None if !state.topic_id.is_nil() => Ok(TopicRef::Id(TopicId(state.topic_id))),
        Some(_) | None => {
            let message = "a topic is deleted either by name or by id";
            Err(TopicError::InvalidRequest(message.to_owned()))
        }
    }
}

fn deleted(
    state: &DeleteTopicState,
    version: i16,
    outcome: Result<Arc<TopicMeta>, TopicError>,
) -> DeletableTopicResult {
    let result = DeletableTopicResult::default();
    match outcome {
        Ok(meta) => result.with_name(Some(owned(&meta.name).into())).with_topic_id(meta.id.0),
        Err(error) => {
            let result = result.with_name(state.name.clone()).with_topic_id(state.topic_id);
            let message = if version >= 5 { words(&error) } else { None };
            result.with_error_code(error.code().code()).with_error_message(message)
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment;
    use kafka_protocol::protocol::Encodable;
    use uuid::Uuid;

    use super::super::metadata::tests::image;
    use super::*;

    #[test]
    fn contradictions_in_a_request_are_refused() {
        let topic = CreatableTopic::default().with_name(owned("a").into()).with_num_partitions(2);
        let assigned = topic.clone().with_assignments(vec![CreatableReplicaAssignment::default()]);
        assert!(matches!(new_topic(&topic, true), Err(TopicError::InvalidRequest(_))));
        assert!(matches!(new_topic(&assigned, false), Err(TopicError::InvalidRequest(_))));
        assert_eq!(new_topic(&topic, false).unwrap().partitions, 2);
    }

    #[test]
    fn a_topic_to_delete_has_one_name() {
        let both =
            DeleteTopicState::default().with_name(Some(owned("a").into())).with_topic_id(Uuid::from_u128(1));
        assert!(topic_ref(&both).is_err());
        assert!(topic_ref(&DeleteTopicState::default().with_name(None)).is_err());
        let id = DeleteTopicState::default().with_name(None).with_topic_id(Uuid::from_u128(1));
        assert_eq!(topic_ref(&id), Ok(TopicRef::Id(TopicId(Uuid::from_u128(1)))));
    }

    #[test]
    fn a_topic_that_is_named_again_is_answered_once() {
        let named = |name| DeleteTopicState::default().with_name(Some(owned(name).into()));
        let unnamed = DeleteTopicState::default().with_name(None);
        let given = vec![named("a"), named("b"), unnamed.clone(), named("a"), unnamed.clone()];
        let topics = once_each(given, |state| state.name.clone());
        let expected = [(named("a"), true), (named("b"), false), (unnamed.clone(), false), (unnamed, false)];
        assert_eq!(topics, expected);
    }

    #[test]
    fn results_can_be_written_in_every_version() {
        let image = image();
        let meta = image.topic_named("b").unwrap();
        let error = || Err(TopicError::Exists("b".to_owned()));
        let topic = CreatableTopic::default().with_name(owned("b").into());
        for version in 2..=7 {
            let defaults = NodeDefaults::default();
            let ok = created(&topic, version, Ok(Arc::clone(meta)), &defaults);
            assert!(version < 5 || (ok.num_partitions == 3 && ok.replication_factor == 1));
            let results = vec![ok, created(&topic, version, error(), &defaults)];
            let response = CreateTopicsResponse::default().with_topics(results);
            response.encode(&mut BytesMut::new(), version).unwrap();
        }
        let state = DeleteTopicState::default().with_name(Some(owned("b").into()));
        for version in 1..=6 {
            let results =
                vec![deleted(&state, version, Ok(Arc::clone(meta))), deleted(&state, version, error())];
            let response = DeleteTopicsResponse::default().with_responses(results);
            response.encode(&mut BytesMut::new(), version).unwrap();
        }
    }
}
