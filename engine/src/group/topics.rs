//! What a coordinator must know of topics, and the cluster's metadata as such.

use crate::meta::image::MetaImage;
use crate::types::TopicId;

/// A topic as a coordinator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicView {
    /// Its identity.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: i32,
}

/// The topics that there are at some moment.
pub trait Topics {
    /// Grows whenever something about topics may have changed.
    fn version(&self) -> u64;
    /// The topic of that name.
    fn named(&self, name: &str) -> Option<TopicView>;
    /// A topic's name.
    fn name_of(&self, id: TopicId) -> Option<&str>;
    /// Tells every topic's name, in order.
    fn each_name(&self, found: &mut dyn FnMut(&str));
}

impl Topics for MetaImage {
    fn version(&self) -> u64 {
        self.version
    }

    fn named(&self, name: &str) -> Option<TopicView> {
        let topic = self.topic_named(name)?;
        let partitions =
            i32::try_from(topic.partitions.len()).expect("a topic's partitions have i32 indexes");
        Some(TopicView { id: topic.id, partitions })
    }

    fn name_of(&self, id: TopicId) -> Option<&str> {
        self.topics.get(&id).map(|topic| topic.name.as_str())
    }

    fn each_name(&self, found: &mut dyn FnMut(&str)) {
        for name in self.names.keys() {
            found(name);
        }
    }
}
