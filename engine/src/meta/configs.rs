//! What the configs of a topic or a node become when somebody alters them.
//!
//! Decided here by the proposer, with this node's limits and what is set now; the state machine
//! takes the outcome over if nothing else was set in between ([`ConfigChange`]), and otherwise it is
//! decided anew. Messages are Kafka's (`ConfigurationControlManager`).

use std::collections::BTreeMap;

use super::command::{ConfigChange, ConfigOutcome, ConfigOwner, MetaCommand, MetaReply};
use super::image::{MetaImage, NodeConfigs};
use super::{Meta, batches, state, topics, unavailable, wire};
use crate::api::{AlterConfigs, ConfigOp, ConfigResource, TopicError};
use crate::node_config;
use crate::topic_config::{self, ConfigDescriptor, ConfigError, ConfigType, NodeDefaults, TopicConfig};
use crate::types::NodeId;

/// How often a change is decided anew since somebody else's came first.
const ATTEMPTS_MAX: usize = 32;

type Configs = BTreeMap<String, String>;

impl Meta {
    /// Alters configs, each resource by itself; the results are in the order of `requests`. With
    /// `validate_only` the results say what would happen, and nothing does.
    pub async fn alter_configs(
        &self,
        requests: Vec<AlterConfigs>,
        validate_only: bool,
    ) -> Vec<Result<(), TopicError>> {
        let mut results: Vec<Option<Result<(), TopicError>>> = vec![None; requests.len()];
        for _ in 0..ATTEMPTS_MAX {
            let open: Vec<usize> = (0..results.len()).filter(|at| results[*at].is_none()).collect();
            if open.is_empty() {
                break;
            }
            let image = self.image();
            let mut changes = Vec::new();
            for at in open {
                match self.plan(&image, &requests[at]) {
                    Err(error) => results[at] = Some(Err(error)),
                    Ok(change) if validate_only || change.before == change.after => {
                        results[at] = Some(Ok(()));
                    }
                    Ok(change) => changes.push((at, change)),
                }
            }
            self.propose_changes(changes, &mut results).await;
        }
        let busy = || Err(TopicError::Unavailable("others change the same configs all the time".to_owned()));
        results.into_iter().map(|result| result.unwrap_or_else(busy)).collect()
    }

    /// A result remains open when its change came too late.
    async fn propose_changes(
        &self,
        changes: Vec<(usize, ConfigChange)>,
        results: &mut [Option<Result<(), TopicError>>],
    ) {
        let (places, changes): (Vec<usize>, Vec<ConfigChange>) = changes.into_iter().unzip();
        let mut places = places.into_iter();
        for changes in batches(changes, self.command_bytes_max() / 2) {
            let places: Vec<usize> = places.by_ref().take(changes.len()).collect();
            match self.propose(MetaCommand::AlterConfigs { changes }).await {
                Ok(MetaReply::ConfigsAltered(outcomes)) => {
                    for (at, outcome) in places.into_iter().zip(outcomes) {
                        match outcome {
                            ConfigOutcome::Made => results[at] = Some(Ok(())),
                            // The next attempt says what there is now.
                            ConfigOutcome::Outdated | ConfigOutcome::UnknownTopic => {}
                        }
                    }
                }
                Ok(reply) => unreachable!("an alteration was answered with {reply:?}"),
                Err(error) => {
                    for at in places {
                        results[at] = Some(Err(unavailable(&error)));
                    }
                }
            }
        }
    }

    fn plan(&self, image: &MetaImage, request: &AlterConfigs) -> Result<ConfigChange, TopicError> {
        let change = plan(image, &self.defaults(), self.node(), request)?;
        let (bytes, max) = (wire::encode(&change).len(), self.command_bytes_max() / 2);
        if bytes > max {
            return Err(TopicError::PolicyViolation(format!(
                "The configs take {bytes} bytes, and {max} are the limit."
            )));
        }
        Ok(change)
    }
}

/// Decides what a request makes of what is set. Changes nothing.
pub(super) fn plan(
    image: &MetaImage,
    defaults: &NodeDefaults,
    node: NodeId,
    request: &AlterConfigs,
) -> Result<ConfigChange, TopicError> {
    match &request.resource {
        ConfigResource::Topic(name) => {
            if name.is_empty() {
                let why = "Default topic resources are not allowed.".to_owned();
                return Err(TopicError::InvalidRequest(why));
            }
            topics::check_name(name)?;
            let topic = image.topic_named(name);
            let before = topic.map(|topic| topic.configs.clone()).unwrap_or_default();
            let after = of_topic(&before, defaults, request)
                .map_err(|error| TopicError::InvalidConfig(error.to_string()))?;
            let topic = topic.ok_or_else(|| TopicError::UnknownName(name.clone()))?;
            Ok(ConfigChange { owner: ConfigOwner::Topic(topic.id), before, after })
        }
        ConfigResource::AllNodes => of_nodes(image, defaults, node, ConfigOwner::AllNodes, request),
        ConfigResource::Node(id) => of_nodes(image, defaults, node, ConfigOwner::Node(*id), request),
    }
}

fn of_topic(
    before: &Configs,
    defaults: &NodeDefaults,
    request: &AlterConfigs,
) -> Result<Configs, ConfigError> {
    let after = changed(before, request, topic_config::descriptor)?;
    for (name, value) in new_in(&after, before) {
        topic_config::validate(name, value, defaults)?;
    }
    TopicConfig::check_together(&after, defaults)?;
    Ok(after)
}

fn of_nodes(
    image: &MetaImage,
    defaults: &NodeDefaults,
    node: NodeId,
    owner: ConfigOwner,
    request: &AlterConfigs,
) -> Result<ConfigChange, TopicError> {
    let before = state::configs_of(image, &owner).cloned().unwrap_or_default();
    let after = changed(&before, request, node_config::named)
        .map_err(|error| TopicError::InvalidConfig(error.to_string()))?;
    for (name, value) in new_in(&after, &before) {
        node_config::validate(name, value, defaults).map_err(|error| match error {
            ConfigError::UnknownNodeConfig(_) => TopicError::InvalidConfig(error.to_string()),
            // Kafka's code for a value that a broker cannot take over (KAFKA-13609).
            error => TopicError::InvalidRequest(error.to_string()),
        })?;
    }
    let mut configs = NodeConfigs::clone(&image.node_configs);
    let seen_by = match &owner {
        ConfigOwner::Node(id) => {
            configs.by_node.insert(*id, after.clone());
            *id
        }
        ConfigOwner::AllNodes | ConfigOwner::Topic(_) => {
            configs.all.clone_from(&after);
            node
        }
    };
    TopicConfig::check_together(&Configs::new(), &defaults.with_dynamic(&configs, seen_by))
        .map_err(|error| TopicError::InvalidRequest(error.to_string()))?;
    Ok(ConfigChange { owner, before, after })
}

/// What was not set like that before.
fn new_in<'a>(after: &'a Configs, before: &'a Configs) -> impl Iterator<Item = (&'a String, &'a String)> {
    after.iter().filter(|(name, value)| before.get(*name) != Some(*value))
}

/// Carries out what is asked for, one config after the other.
fn changed(
    before: &Configs,
    request: &AlterConfigs,
    describe: impl Fn(&str) -> Option<&'static ConfigDescriptor>,
) -> Result<Configs, ConfigError> {
    let mut after = if request.replace { Configs::new() } else { before.clone() };
    for (name, op) in &request.ops {
        let list = |operation: &'static str| {
            let descriptor = describe(name).filter(|it| it.config_type() == ConfigType::List);
            let no_list = || ConfigError::NoList { name: name.clone(), operation };
            let built_in = descriptor.ok_or_else(no_list)?.built_in_value();
            let value = before.get(name).map_or(built_in.as_str(), String::as_str);
            Ok(topic_config::items(value).map(str::to_owned).collect::<Vec<_>>())
        };
        match op {
            ConfigOp::Set(value) => {
                after.insert(name.clone(), value.clone());
            }
            ConfigOp::Delete => {
                after.remove(name);
            }
            ConfigOp::Append(value) => {
                let mut items = list("APPEND")?;
                for item in topic_config::items(value) {
                    if !items.iter().any(|present| present == item) {
                        items.push(item.to_owned());
                    }
                }
                after.insert(name.clone(), items.join(","));
            }
            ConfigOp::Subtract(value) => {
                let mut items = list("SUBTRACT")?;
                items.retain(|present| topic_config::items(value).all(|item| item != present));
                after.insert(name.clone(), items.join(","));
            }
        }
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::meta::image::TopicMeta;
    use crate::types::TopicId;

    fn image(configs: &[(&str, &str)]) -> MetaImage {
        let mut image = MetaImage::default();
        let id = TopicId(uuid::Uuid::from_u128(1));
        let configs = configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let topic = TopicMeta {
            id,
            name: "t".to_owned(),
            internal: false,
            partitions: Vec::new(),
            configs: configs.collect(),
            first_slot: 0,
        };
        image.names.insert("t".to_owned(), id);
        image.topics.insert(id, Arc::new(topic));
        image
    }

    fn ask(
        image: &MetaImage,
        resource: ConfigResource,
        ops: &[(&str, ConfigOp)],
    ) -> Result<String, TopicError> {
        let ops = ops.iter().map(|(name, op)| ((*name).to_owned(), op.clone())).collect();
        let request = AlterConfigs { resource, replace: false, ops };
        let change = plan(image, &NodeDefaults::with_ceiling(2_000_000), NodeId(1), &request)?;
        let after = change.after.iter().map(|(name, value)| format!("{name}={value}"));
        Ok(after.collect::<Vec<_>>().join(" "))
    }

    fn topic(image: &MetaImage, ops: &[(&str, ConfigOp)]) -> Result<String, TopicError> {
        ask(image, ConfigResource::Topic("t".to_owned()), ops)
    }

    fn set(value: &str) -> ConfigOp {
        ConfigOp::Set(value.to_owned())
    }

    fn append(value: &str) -> ConfigOp {
        ConfigOp::Append(value.to_owned())
    }

    fn subtract(value: &str) -> ConfigOp {
        ConfigOp::Subtract(value.to_owned())
    }

    #[test]
    fn operations_follow_kafkas_rules() {
        let image = image(&[("retention.ms", "5"), ("cleanup.policy", "compact")]);
        let after = |ops: &[(&str, ConfigOp)]| topic(&image, ops).unwrap();
        assert_eq!(after(&[("retention.ms", set("7"))]), "cleanup.policy=compact retention.ms=7");
        assert_eq!(after(&[("retention.ms", ConfigOp::Delete)]), "cleanup.policy=compact");
        assert_eq!(after(&[("segment.ms", ConfigOp::Delete)]), "cleanup.policy=compact retention.ms=5");
        let appended = after(&[("cleanup.policy", append("delete,compact"))]);
        assert_eq!(appended, "cleanup.policy=compact,delete retention.ms=5");
        let subtracted = after(&[("cleanup.policy", subtract("compact"))]);
        assert_eq!(subtracted, "cleanup.policy= retention.ms=5");
    }

    #[test]
    fn a_list_that_nobody_set_is_added_to_what_is_built_in() {
        let appended = topic(&image(&[]), &[("cleanup.policy", append("compact"))]).unwrap();
        assert_eq!(appended, "cleanup.policy=delete,compact");
    }

    #[test]
    fn replacing_leaves_nothing_else() {
        let resource = ConfigResource::Topic("t".to_owned());
        let request =
            AlterConfigs { resource, replace: true, ops: vec![("segment.ms".to_owned(), set("100"))] };
        let change =
            plan(&image(&[("retention.ms", "5")]), &NodeDefaults::default(), NodeId(1), &request).unwrap();
        assert_eq!(change.after.into_iter().collect::<Vec<_>>(), [("segment.ms".into(), "100".into())]);
    }

    #[test]
    fn refusals_have_kafkas_codes_and_words() {
        let image = image(&[("min.compaction.lag.ms", "10"), ("from.another.version", "x")]);
        let refused = |ops: &[(&str, ConfigOp)]| topic(&image, ops).unwrap_err();
        assert_eq!(
            refused(&[("no.such", set("1"))]),
            TopicError::InvalidConfig("Unknown topic config name: no.such".to_owned())
        );
        assert_eq!(
            refused(&[("retention.ms", append("1"))]),
            TopicError::InvalidConfig(
                "Can't APPEND to key retention.ms because its type is not LIST.".to_owned()
            )
        );
        assert_eq!(
            refused(&[("no.such", subtract("1"))]),
            TopicError::InvalidConfig(
                "Can't SUBTRACT to key no.such because its type is not LIST.".to_owned()
            )
        );
        assert!(matches!(refused(&[("cleanup.policy", append("shred"))]), TopicError::InvalidConfig(_)));
        assert!(matches!(refused(&[("max.message.bytes", set("2000001"))]), TopicError::InvalidConfig(_)));
        assert!(matches!(refused(&[("max.compaction.lag.ms", set("9"))]), TopicError::InvalidConfig(_)));
        let unknown = ask(&image, ConfigResource::Topic("u".to_owned()), &[("retention.ms", set("1"))]);
        assert_eq!(unknown, Err(TopicError::UnknownName("u".to_owned())));
        let illegal = ask(&image, ConfigResource::Topic("a b".to_owned()), &[]);
        assert!(matches!(illegal, Err(TopicError::InvalidName(_))));
        let empty = ask(&image, ConfigResource::Topic(String::new()), &[]);
        assert!(matches!(empty, Err(TopicError::InvalidRequest(_))));
        // What another version set is no reason to refuse something else.
        assert!(topic(&image, &[("retention.ms", set("1"))]).unwrap().contains("from.another.version=x"));
    }

    #[test]
    fn nodes_take_what_topics_default_to() {
        let image = image(&[]);
        let all = |ops: &[(&str, ConfigOp)]| ask(&image, ConfigResource::AllNodes, ops);
        assert_eq!(all(&[("log.retention.ms", set("5"))]).unwrap(), "log.retention.ms=5");
        assert_eq!(
            all(&[("log.cleanup.policy", append("compact"))]).unwrap(),
            "log.cleanup.policy=delete,compact"
        );
        assert!(matches!(all(&[("retention.ms", set("5"))]), Err(TopicError::InvalidConfig(_))));
        assert!(matches!(all(&[("log.retention.ms", set("x"))]), Err(TopicError::InvalidRequest(_))));
        let lags = [
            ("log.cleaner.max.compaction.lag.ms", set("5")),
            ("log.cleaner.min.compaction.lag.ms", set("6")),
        ];
        assert!(matches!(all(&lags), Err(TopicError::InvalidRequest(_))));
        assert!(ask(&image, ConfigResource::Node(NodeId(2)), &lags).is_err());
    }
}
