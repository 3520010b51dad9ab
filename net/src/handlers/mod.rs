//! One handler per API: a request of one version in, its response out. They run on the
//! connection's shard and reach data through the engine only.
//!
//! What depends on nothing but the request and the metadata's image is a pure function of both.

pub(crate) mod api_versions;
pub(crate) mod cluster;
pub(crate) mod configs;
pub(crate) mod coordinator;
pub(crate) mod fetch;
pub(crate) mod groups;
pub(crate) mod leaders;
pub(crate) mod log_dirs;
pub(crate) mod metadata;
pub(crate) mod offsets;
pub(crate) mod partitions;
pub(crate) mod produce;
pub(crate) mod producer_ids;
pub(crate) mod producers;
pub(crate) mod records;
pub(crate) mod topics;

use kafka_protocol::protocol::StrBytes;

/// Partitions that a request may name by bare numbers: an answer is many times as large as its
/// question. What is beyond that is not answered.
const PARTITIONS_NAMED_MAX: usize = 1 << 18;

/// What a bit field of authorized operations says when nobody asked.
const OPERATIONS_NOT_ASKED: i32 = i32::MIN;
/// Every operation on a topic, by the numbers of `AclOperation`: read, write, create, delete,
/// alter, describe, describe and alter configs. Without access control everyone may do all of it.
const OPERATIONS_ON_TOPIC: i32 = bits(&[3, 4, 5, 6, 7, 8, 10, 11]);
/// Every operation on the cluster: create, alter, describe, cluster action, describe and alter
/// configs, idempotent write.
const OPERATIONS_ON_CLUSTER: i32 = bits(&[5, 7, 8, 9, 10, 11, 12]);

const fn bits(operations: &[u32]) -> i32 {
    let mut field = 0;
    let mut index = 0;
    while index < operations.len() {
        field |= 1 << operations[index];
        index += 1;
    }
    field
}

/// A copy of `text` as the codec wants it.
fn owned(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// An error's words as the codec wants them.
fn words(error: impl ToString) -> Option<StrBytes> {
    Some(StrBytes::from_string(error.to_string()))
}
