//! TEMP engine face
#![allow(missing_docs, clippy::all)]
use std::{rc::Rc, sync::Arc, future::Future};
use crate::{api::*, types::*, meta::image::*};
use corelog_runtime::net::Accepted;
#[derive(Clone)]
pub struct Engine;
use crate::shard::ShardStats;
impl Engine {
    pub fn shard(&self) -> usize { 0 }
    pub fn shards(&self) -> usize { 0 }
    pub fn node(&self) -> NodeId { unimplemented!() }
    pub fn image(&self) -> Arc<MetaImage> { unimplemented!() }
    pub async fn image_at_least(&self, _v: u64) { unimplemented!() }
    pub fn produce(&self, _acks: Acks, _parts: Vec<ProducePart>) -> impl Future<Output = Vec<ProduceOutcome>> + 'static { async { unimplemented!() } }
    pub fn fetch(&self, _spec: FetchSpec) -> impl Future<Output = Vec<FetchOutcome>> + 'static { async { unimplemented!() } }
    pub async fn list_offsets(&self, _p: Vec<(TopicPartition, Option<LeaderEpoch>, OffsetQuery)>) -> Vec<Result<FoundOffset, PartitionError>> { unimplemented!() }
    pub async fn epoch_ends(&self, _p: Vec<(TopicPartition, Option<LeaderEpoch>, LeaderEpoch)>) -> Vec<Result<EpochEnd, PartitionError>> { unimplemented!() }
    pub async fn create_topics(&self, _t: Vec<NewTopic>, _v: bool) -> Vec<Result<Arc<TopicMeta>, TopicError>> { unimplemented!() }
    pub async fn delete_topics(&self, _t: Vec<TopicRef>) -> Vec<Result<Arc<TopicMeta>, TopicError>> { unimplemented!() }
    pub async fn new_producer_id(&self) -> Result<i64, TopicError> { unimplemented!() }
    pub fn defaults(&self) -> &crate::topic_config::NodeDefaults { unimplemented!() }
    pub fn admits(&self) -> bool { true }
    pub async fn admitted(&self) { unimplemented!() }
    pub async fn stats(&self) -> Vec<ShardStats> { unimplemented!() }
    pub fn hand_over(&self, _to: usize, _a: Accepted, _listener: usize) { unimplemented!() }
    pub fn on_connection(&self, _f: Rc<dyn Fn(Accepted, usize)>) { unimplemented!() }
}
