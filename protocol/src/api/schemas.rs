//! The schemas of the messages that go through the generated codec, field by field.
//!
//! Source: `clients/src/main/resources/common/message/*.json` of Kafka 4.1. A property test
//! makes random messages along these and holds them against the generated decoders.

use super::schema::{Field, Kind, Schema};

pub(super) const fn bool(name: &'static str) -> Field {
    Field::new(name, Kind::Fixed(1))
}

pub(super) const fn int8(name: &'static str) -> Field {
    Field::new(name, Kind::Fixed(1))
}

pub(super) const fn int16(name: &'static str) -> Field {
    Field::new(name, Kind::Fixed(2))
}

pub(super) const fn int32(name: &'static str) -> Field {
    Field::new(name, Kind::Fixed(4))
}

pub(super) const fn int64(name: &'static str) -> Field {
    Field::new(name, Kind::Fixed(8))
}

pub(super) const fn uuid(name: &'static str) -> Field {
    Field::new(name, Kind::Fixed(16))
}

pub(super) const fn bytes(name: &'static str) -> Field {
    Field::new(name, Kind::ArrayOfFixed(1))
}

pub(super) const fn string(name: &'static str) -> Field {
    Field::new(name, Kind::String)
}

pub(super) const fn int32s(name: &'static str) -> Field {
    Field::new(name, Kind::ArrayOfFixed(4))
}

pub(super) const fn strings(name: &'static str) -> Field {
    Field::new(name, Kind::ArrayOfStrings)
}

pub(super) const fn structs(name: &'static str, fields: &'static [Field]) -> Field {
    Field::new(name, Kind::ArrayOfStructs(fields))
}

pub(super) const fn structure(name: &'static str, fields: &'static [Field]) -> Field {
    Field::new(name, Kind::Struct(fields))
}

pub(super) const fn message(versions: (i16, i16), flexible_from: i16, fields: &'static [Field]) -> Schema {
    Schema { flexible_from, versions, fields }
}

pub(super) static API_VERSIONS_REQUEST: Schema =
    message((0, 4), 3, &[string("ClientSoftwareName").since(3), string("ClientSoftwareVersion").since(3)]);

pub(super) static API_VERSIONS_RESPONSE: Schema = message(
    (0, 4),
    3,
    &[
        int16("ErrorCode"),
        structs("ApiKeys", &[int16("ApiKey"), int16("MinVersion"), int16("MaxVersion")]),
        int32("ThrottleTimeMs").since(1),
        structs("SupportedFeatures", &[string("Name"), int16("MinVersion"), int16("MaxVersion")])
            .since(3)
            .tagged(0),
        int64("FinalizedFeaturesEpoch").since(3).tagged(1),
        structs("FinalizedFeatures", &[string("Name"), int16("MaxVersionLevel"), int16("MinVersionLevel")])
            .since(3)
            .tagged(2),
        bool("ZkMigrationReady").since(3).tagged(3),
    ],
);

pub(super) static METADATA_REQUEST: Schema = message(
    (0, 13),
    9,
    &[
        structs("Topics", &[uuid("TopicId").since(10), string("Name").nullable(10)]).nullable(1),
        bool("AllowAutoTopicCreation").since(4),
        bool("IncludeClusterAuthorizedOperations").since(8).until(10),
        bool("IncludeTopicAuthorizedOperations").since(8),
    ],
);

pub(super) static METADATA_RESPONSE: Schema = message(
    (0, 13),
    9,
    &[
        int32("ThrottleTimeMs").since(3),
        structs(
            "Brokers",
            &[int32("NodeId"), string("Host"), int32("Port"), string("Rack").since(1).nullable(1)],
        ),
        string("ClusterId").since(2).nullable(2),
        int32("ControllerId").since(1),
        structs(
            "Topics",
            &[
                int16("ErrorCode"),
                string("Name").nullable(12),
                uuid("TopicId").since(10),
                bool("IsInternal").since(1),
                structs(
                    "Partitions",
                    &[
                        int16("ErrorCode"),
                        int32("PartitionIndex"),
                        int32("LeaderId"),
                        int32("LeaderEpoch").since(7),
                        int32s("ReplicaNodes"),
                        int32s("IsrNodes"),
                        int32s("OfflineReplicas").since(5),
                    ],
                ),
                int32("TopicAuthorizedOperations").since(8),
            ],
        ),
        int32("ClusterAuthorizedOperations").since(8).until(10),
        int16("ErrorCode").since(13),
    ],
);

pub(super) static CREATE_TOPICS_REQUEST: Schema = message(
    (2, 7),
    5,
    &[
        structs(
            "Topics",
            &[
                string("Name"),
                int32("NumPartitions"),
                int16("ReplicationFactor"),
                structs("Assignments", &[int32("PartitionIndex"), int32s("BrokerIds")]),
                structs("Configs", &[string("Name"), string("Value").nullable(0)]),
            ],
        ),
        int32("TimeoutMs"),
        bool("ValidateOnly"),
    ],
);

pub(super) static CREATE_TOPICS_RESPONSE: Schema = message(
    (2, 7),
    5,
    &[
        int32("ThrottleTimeMs"),
        structs(
            "Topics",
            &[
                string("Name"),
                uuid("TopicId").since(7),
                int16("ErrorCode"),
                string("ErrorMessage").nullable(0),
                int16("TopicConfigErrorCode").since(5).tagged(0),
                int32("NumPartitions").since(5),
                int16("ReplicationFactor").since(5),
                structs(
                    "Configs",
                    &[
                        string("Name"),
                        string("Value").nullable(0),
                        bool("ReadOnly"),
                        int8("ConfigSource"),
                        bool("IsSensitive"),
                    ],
                )
                .since(5)
                .nullable(5),
            ],
        ),
    ],
);

pub(super) static DELETE_TOPICS_REQUEST: Schema = message(
    (1, 6),
    4,
    &[
        structs("Topics", &[string("Name").nullable(6), uuid("TopicId")]).since(6),
        strings("TopicNames").until(5),
        int32("TimeoutMs"),
    ],
);

pub(super) static DELETE_TOPICS_RESPONSE: Schema = message(
    (1, 6),
    4,
    &[
        int32("ThrottleTimeMs"),
        structs(
            "Responses",
            &[
                string("Name").nullable(6),
                uuid("TopicId").since(6),
                int16("ErrorCode"),
                string("ErrorMessage").since(5).nullable(5),
            ],
        ),
    ],
);

pub(super) static LIST_OFFSETS_REQUEST: Schema = message(
    (1, 10),
    6,
    &[
        int32("ReplicaId"),
        int8("IsolationLevel").since(2),
        structs(
            "Topics",
            &[
                string("Name"),
                structs(
                    "Partitions",
                    &[int32("PartitionIndex"), int32("CurrentLeaderEpoch").since(4), int64("Timestamp")],
                ),
            ],
        ),
        int32("TimeoutMs").since(10),
    ],
);

pub(super) static LIST_OFFSETS_RESPONSE: Schema = message(
    (1, 10),
    6,
    &[
        int32("ThrottleTimeMs").since(2),
        structs(
            "Topics",
            &[
                string("Name"),
                structs(
                    "Partitions",
                    &[
                        int32("PartitionIndex"),
                        int16("ErrorCode"),
                        int64("Timestamp"),
                        int64("Offset"),
                        int32("LeaderEpoch").since(4),
                    ],
                ),
            ],
        ),
    ],
);

pub(super) static DELETE_RECORDS_REQUEST: Schema = message(
    (0, 2),
    2,
    &[
        structs(
            "Topics",
            &[string("Name"), structs("Partitions", &[int32("PartitionIndex"), int64("Offset")])],
        ),
        int32("TimeoutMs"),
    ],
);

pub(super) static DELETE_RECORDS_RESPONSE: Schema = message(
    (0, 2),
    2,
    &[
        int32("ThrottleTimeMs"),
        structs(
            "Topics",
            &[
                string("Name"),
                structs("Partitions", &[int32("PartitionIndex"), int64("LowWatermark"), int16("ErrorCode")]),
            ],
        ),
    ],
);

pub(super) static INIT_PRODUCER_ID_REQUEST: Schema = message(
    (0, 5),
    2,
    &[
        string("TransactionalId").nullable(0),
        int32("TransactionTimeoutMs"),
        int64("ProducerId").since(3),
        int16("ProducerEpoch").since(3),
    ],
);

pub(super) static INIT_PRODUCER_ID_RESPONSE: Schema = message(
    (0, 5),
    2,
    &[int32("ThrottleTimeMs"), int16("ErrorCode"), int64("ProducerId"), int16("ProducerEpoch")],
);

pub(super) static OFFSET_FOR_LEADER_EPOCH_REQUEST: Schema = message(
    (2, 4),
    4,
    &[
        int32("ReplicaId").since(3),
        structs(
            "Topics",
            &[
                string("Topic"),
                structs(
                    "Partitions",
                    &[int32("Partition"), int32("CurrentLeaderEpoch"), int32("LeaderEpoch")],
                ),
            ],
        ),
    ],
);

pub(super) static OFFSET_FOR_LEADER_EPOCH_RESPONSE: Schema = message(
    (2, 4),
    4,
    &[
        int32("ThrottleTimeMs"),
        structs(
            "Topics",
            &[
                string("Topic"),
                structs(
                    "Partitions",
                    &[int16("ErrorCode"), int32("Partition"), int32("LeaderEpoch"), int64("EndOffset")],
                ),
            ],
        ),
    ],
);

pub(super) static DESCRIBE_CONFIGS_REQUEST: Schema = message(
    (1, 4),
    4,
    &[
        structs(
            "Resources",
            &[int8("ResourceType"), string("ResourceName"), strings("ConfigurationKeys").nullable(0)],
        ),
        bool("IncludeSynonyms"),
        bool("IncludeDocumentation").since(3),
    ],
);

pub(super) static DESCRIBE_CONFIGS_RESPONSE: Schema = message(
    (1, 4),
    4,
    &[
        int32("ThrottleTimeMs"),
        structs(
            "Results",
            &[
                int16("ErrorCode"),
                string("ErrorMessage").nullable(0),
                int8("ResourceType"),
                string("ResourceName"),
                structs(
                    "Configs",
                    &[
                        string("Name"),
                        string("Value").nullable(0),
                        bool("ReadOnly"),
                        int8("ConfigSource"),
                        bool("IsSensitive"),
                        structs("Synonyms", &[string("Name"), string("Value").nullable(0), int8("Source")]),
                        int8("ConfigType").since(3),
                        string("Documentation").since(3).nullable(3),
                    ],
                ),
            ],
        ),
    ],
);

pub(super) static DESCRIBE_CLUSTER_REQUEST: Schema = message(
    (0, 2),
    0,
    &[
        bool("IncludeClusterAuthorizedOperations"),
        int8("EndpointType").since(1),
        bool("IncludeFencedBrokers").since(2),
    ],
);

pub(super) static DESCRIBE_CLUSTER_RESPONSE: Schema = message(
    (0, 2),
    0,
    &[
        int32("ThrottleTimeMs"),
        int16("ErrorCode"),
        string("ErrorMessage").nullable(0),
        int8("EndpointType").since(1),
        string("ClusterId"),
        int32("ControllerId"),
        structs(
            "Brokers",
            &[
                int32("BrokerId"),
                string("Host"),
                int32("Port"),
                string("Rack").nullable(0),
                bool("IsFenced").since(2),
            ],
        ),
        int32("ClusterAuthorizedOperations"),
    ],
);

pub(super) static DESCRIBE_TOPIC_PARTITIONS_REQUEST: Schema = message(
    (0, 0),
    0,
    &[
        structs("Topics", &[string("Name")]),
        int32("ResponsePartitionLimit"),
        structure("Cursor", CURSOR).nullable(0),
    ],
);

const CURSOR: &[Field] = &[string("TopicName"), int32("PartitionIndex")];

pub(super) static DESCRIBE_TOPIC_PARTITIONS_RESPONSE: Schema = message(
    (0, 0),
    0,
    &[
        int32("ThrottleTimeMs"),
        structs(
            "Topics",
            &[
                int16("ErrorCode"),
                string("Name").nullable(0),
                uuid("TopicId"),
                bool("IsInternal"),
                structs(
                    "Partitions",
                    &[
                        int16("ErrorCode"),
                        int32("PartitionIndex"),
                        int32("LeaderId"),
                        int32("LeaderEpoch"),
                        int32s("ReplicaNodes"),
                        int32s("IsrNodes"),
                        int32s("EligibleLeaderReplicas").nullable(0),
                        int32s("LastKnownElr").nullable(0),
                        int32s("OfflineReplicas"),
                    ],
                ),
                int32("TopicAuthorizedOperations"),
            ],
        ),
        structure("NextCursor", CURSOR).nullable(0),
    ],
);

pub(super) static FIND_COORDINATOR_REQUEST: Schema = message(
    (0, 6),
    3,
    &[string("Key").until(3), int8("KeyType").since(1), strings("CoordinatorKeys").since(4)],
);

pub(super) static FIND_COORDINATOR_RESPONSE: Schema = message(
    (0, 6),
    3,
    &[
        int32("ThrottleTimeMs").since(1),
        int16("ErrorCode").until(3),
        string("ErrorMessage").since(1).until(3).nullable(1),
        int32("NodeId").until(3),
        string("Host").until(3),
        int32("Port").until(3),
        structs(
            "Coordinators",
            &[
                string("Key"),
                int32("NodeId"),
                string("Host"),
                int32("Port"),
                int16("ErrorCode"),
                string("ErrorMessage").nullable(4),
            ],
        )
        .since(4),
    ],
);
