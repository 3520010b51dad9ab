//! Requests that are not served: read only to be refused item by item.
//!
//! The generated decoders reserve memory for whatever count the wire claims, so that these
//! requests are held against their schemas, too, as those of the table are.

use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, RequestKind};

use super::schema::{self, Schema};
use super::schemas::{bool, bytes, int8, int16, int32, int32s, int64, message, string, strings, structs};

macro_rules! refused {
    ($($key:ident $request:ident $versions:tt $flexible_from:literal [$($field:expr),* $(,)?];)*) => {
        fn schema_of(key: ApiKey) -> Option<&'static Schema> {
            match key {
                $(ApiKey::$key => {
                    static SCHEMA: Schema = message($versions, $flexible_from, &[$($field),*]);
                    Some(&SCHEMA)
                })*
                _ => None,
            }
        }

        #[cfg(test)]
        mod tests {
            use kafka_protocol::messages::*;
            use kafka_protocol::protocol::HeaderVersion;

            use super::super::tests::{agrees_with_the_generated_codec, survives_mutation};
            use super::schema_of;

            #[test]
            fn schemas_of_refused_requests_agree_with_the_generated_codec() {
                $({
                    let schema = schema_of(ApiKey::$key).expect("it is in the list");
                    for version in schema.versions.0..=schema.versions.1 {
                        let flexible = version >= schema.flexible_from;
                        let header = <$request as HeaderVersion>::header_version(version);
                        assert_eq!(header >= 2, flexible, "{} {version}", stringify!($key));
                    }
                    agrees_with_the_generated_codec::<$request>(schema);
                    survives_mutation::<$request>(schema);
                })*
            }
        }
    };
}

refused! {
    AddPartitionsToTxn AddPartitionsToTxnRequest (0, 5) 3 [
        structs("Transactions", &[
            string("TransactionalId").since(4),
            int64("ProducerId").since(4),
            int16("ProducerEpoch").since(4),
            bool("VerifyOnly").since(4),
            structs("Topics", &[string("Name"), int32s("Partitions")]).since(4),
        ]).since(4),
        string("V3AndBelowTransactionalId").until(3),
        int64("V3AndBelowProducerId").until(3),
        int16("V3AndBelowProducerEpoch").until(3),
        structs("V3AndBelowTopics", &[string("Name"), int32s("Partitions")]).until(3),
    ];
    WriteTxnMarkers WriteTxnMarkersRequest (1, 1) 0 [
        structs("Markers", &[
            int64("ProducerId"),
            int16("ProducerEpoch"),
            bool("TransactionResult"),
            structs("Topics", &[string("Name"), int32s("PartitionIndexes")]),
            int32("CoordinatorEpoch"),
        ]),
    ];
    TxnOffsetCommit TxnOffsetCommitRequest (0, 5) 3 [
        string("TransactionalId"),
        string("GroupId"),
        int64("ProducerId"),
        int16("ProducerEpoch"),
        int32("GenerationId").since(3),
        string("MemberId").since(3),
        string("GroupInstanceId").since(3).nullable(3),
        structs("Topics", &[
            string("Name"),
            structs("Partitions", &[
                int32("PartitionIndex"),
                int64("CommittedOffset"),
                int32("CommittedLeaderEpoch").since(2),
                string("CommittedMetadata").nullable(0),
            ]),
        ]),
    ];
    CreateAcls CreateAclsRequest (1, 3) 2 [
        structs("Creations", &[
            int8("ResourceType"),
            string("ResourceName"),
            int8("ResourcePatternType"),
            string("Principal"),
            string("Host"),
            int8("Operation"),
            int8("PermissionType"),
        ]),
    ];
    DeleteAcls DeleteAclsRequest (1, 3) 2 [
        structs("Filters", &[
            int8("ResourceTypeFilter"),
            string("ResourceNameFilter").nullable(1),
            int8("PatternTypeFilter"),
            string("PrincipalFilter").nullable(1),
            string("HostFilter").nullable(1),
            int8("Operation"),
            int8("PermissionType"),
        ]),
    ];
    AlterClientQuotas AlterClientQuotasRequest (0, 1) 1 [
        structs("Entries", &[
            structs("Entity", &[string("EntityType"), string("EntityName").nullable(0)]),
            structs("Ops", &[string("Key"), int64("Value"), bool("Remove")]),
        ]),
        bool("ValidateOnly"),
    ];
    AlterUserScramCredentials AlterUserScramCredentialsRequest (0, 0) 0 [
        structs("Deletions", &[string("Name"), int8("Mechanism")]),
        structs("Upsertions", &[
            string("Name"),
            int8("Mechanism"),
            int32("Iterations"),
            bytes("Salt"),
            bytes("SaltedPassword"),
        ]),
    ];
    DescribeTransactions DescribeTransactionsRequest (0, 0) 0 [strings("TransactionalIds")];
    ShareGroupDescribe ShareGroupDescribeRequest (1, 1) 0 [
        strings("GroupIds"),
        bool("IncludeAuthorizedOperations"),
    ];
    DescribeShareGroupOffsets DescribeShareGroupOffsetsRequest (0, 0) 0 [
        structs("Groups", &[
            string("GroupId"),
            structs("Topics", &[string("TopicName"), int32s("Partitions")]).nullable(0),
        ]),
    ];
}

/// Decodes a request of an API outside the table whose response has its errors in items;
/// `None` for other APIs, and for bytes that are not such a request.
pub fn decode_refused(key: ApiKey, version: i16, mut body: Bytes) -> Option<RequestKind> {
    schema::check(schema_of(key)?, version, &body).ok()?;
    RequestKind::decode(key, &mut body, version).ok()
}
