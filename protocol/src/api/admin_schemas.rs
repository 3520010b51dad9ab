//! The schemas of the messages of administrators: partitions, configs, directories, producers,
//! leaders, reassignments.
//!
//! Source and tests as of [`super::schemas`].

use super::schema::{Field, Schema};
use super::schemas::{bool, int8, int16, int32, int32s, int64, message, string, structs};

/// An array of `INT8`.
const fn int8s(name: &'static str) -> Field {
    super::schemas::bytes(name)
}

pub(super) static CREATE_PARTITIONS_REQUEST: Schema = message(
    (0, 3),
    2,
    &[
        structs(
            "Topics",
            &[string("Name"), int32("Count"), structs("Assignments", &[int32s("BrokerIds")]).nullable(0)],
        ),
        int32("TimeoutMs"),
        bool("ValidateOnly"),
    ],
);

pub(super) static CREATE_PARTITIONS_RESPONSE: Schema = message(
    (0, 3),
    2,
    &[
        int32("ThrottleTimeMs"),
        structs("Results", &[string("Name"), int16("ErrorCode"), string("ErrorMessage").nullable(0)]),
    ],
);

pub(super) static ALTER_CONFIGS_REQUEST: Schema = message(
    (0, 2),
    2,
    &[
        structs(
            "Resources",
            &[
                int8("ResourceType"),
                string("ResourceName"),
                structs("Configs", &[string("Name"), string("Value").nullable(0)]),
            ],
        ),
        bool("ValidateOnly"),
    ],
);

pub(super) static ALTER_CONFIGS_RESPONSE: Schema =
    message((0, 2), 2, &[int32("ThrottleTimeMs"), structs("Responses", ALTERED_RESOURCE)]);

const ALTERED_RESOURCE: &[Field] =
    &[int16("ErrorCode"), string("ErrorMessage").nullable(0), int8("ResourceType"), string("ResourceName")];

pub(super) static INCREMENTAL_ALTER_CONFIGS_REQUEST: Schema = message(
    (0, 1),
    1,
    &[
        structs(
            "Resources",
            &[
                int8("ResourceType"),
                string("ResourceName"),
                structs("Configs", &[string("Name"), int8("ConfigOperation"), string("Value").nullable(0)]),
            ],
        ),
        bool("ValidateOnly"),
    ],
);

pub(super) static INCREMENTAL_ALTER_CONFIGS_RESPONSE: Schema =
    message((0, 1), 1, &[int32("ThrottleTimeMs"), structs("Responses", ALTERED_RESOURCE)]);

pub(super) static LIST_CONFIG_RESOURCES_REQUEST: Schema =
    message((0, 1), 0, &[int8s("ResourceTypes").since(1)]);

pub(super) static LIST_CONFIG_RESOURCES_RESPONSE: Schema = message(
    (0, 1),
    0,
    &[
        int32("ThrottleTimeMs"),
        int16("ErrorCode"),
        structs("ConfigResources", &[string("ResourceName"), int8("ResourceType").since(1)]),
    ],
);

pub(super) static ALTER_REPLICA_LOG_DIRS_REQUEST: Schema = message(
    (1, 2),
    2,
    &[structs("Dirs", &[string("Path"), structs("Topics", &[string("Name"), int32s("Partitions")])])],
);

pub(super) static ALTER_REPLICA_LOG_DIRS_RESPONSE: Schema = message(
    (1, 2),
    2,
    &[
        int32("ThrottleTimeMs"),
        structs(
            "Results",
            &[string("TopicName"), structs("Partitions", &[int32("PartitionIndex"), int16("ErrorCode")])],
        ),
    ],
);

pub(super) static DESCRIBE_LOG_DIRS_REQUEST: Schema =
    message((1, 5), 2, &[structs("Topics", &[string("Topic"), int32s("Partitions")]).nullable(0)]);

pub(super) static DESCRIBE_LOG_DIRS_RESPONSE: Schema = message(
    (1, 5),
    2,
    &[
        int32("ThrottleTimeMs"),
        int16("ErrorCode").since(3),
        structs(
            "Results",
            &[
                int16("ErrorCode"),
                string("LogDir"),
                structs(
                    "Topics",
                    &[
                        string("Name"),
                        structs(
                            "Partitions",
                            &[
                                int32("PartitionIndex"),
                                int64("PartitionSize"),
                                int64("OffsetLag"),
                                bool("IsFutureKey"),
                            ],
                        ),
                    ],
                ),
                int64("TotalBytes").since(4),
                int64("UsableBytes").since(4),
                bool("IsCordoned").since(5),
            ],
        ),
    ],
);

pub(super) static DESCRIBE_PRODUCERS_REQUEST: Schema =
    message((0, 0), 0, &[structs("Topics", &[string("Name"), int32s("PartitionIndexes")])]);

pub(super) static DESCRIBE_PRODUCERS_RESPONSE: Schema = message(
    (0, 0),
    0,
    &[
        int32("ThrottleTimeMs"),
        structs(
            "Topics",
            &[
                string("Name"),
                structs(
                    "Partitions",
                    &[
                        int32("PartitionIndex"),
                        int16("ErrorCode"),
                        string("ErrorMessage").nullable(0),
                        structs(
                            "ActiveProducers",
                            &[
                                int64("ProducerId"),
                                int32("ProducerEpoch"),
                                int32("LastSequence"),
                                int64("LastTimestamp"),
                                int32("CoordinatorEpoch"),
                                int64("CurrentTxnStartOffset"),
                            ],
                        ),
                    ],
                ),
            ],
        ),
    ],
);

pub(super) static ELECT_LEADERS_REQUEST: Schema = message(
    (0, 2),
    2,
    &[
        int8("ElectionType").since(1),
        structs("TopicPartitions", &[string("Topic"), int32s("Partitions")]).nullable(0),
        int32("TimeoutMs"),
    ],
);

pub(super) static ELECT_LEADERS_RESPONSE: Schema = message(
    (0, 2),
    2,
    &[
        int32("ThrottleTimeMs"),
        int16("ErrorCode").since(1),
        structs(
            "ReplicaElectionResults",
            &[
                string("Topic"),
                structs(
                    "PartitionResult",
                    &[int32("PartitionId"), int16("ErrorCode"), string("ErrorMessage").nullable(0)],
                ),
            ],
        ),
    ],
);

pub(super) static ALTER_PARTITION_REASSIGNMENTS_REQUEST: Schema = message(
    (0, 1),
    0,
    &[
        int32("TimeoutMs"),
        bool("AllowReplicationFactorChange").since(1),
        structs(
            "Topics",
            &[
                string("Name"),
                structs("Partitions", &[int32("PartitionIndex"), int32s("Replicas").nullable(0)]),
            ],
        ),
    ],
);

pub(super) static ALTER_PARTITION_REASSIGNMENTS_RESPONSE: Schema = message(
    (0, 1),
    0,
    &[
        int32("ThrottleTimeMs"),
        bool("AllowReplicationFactorChange").since(1),
        int16("ErrorCode"),
        string("ErrorMessage").nullable(0),
        structs(
            "Responses",
            &[
                string("Name"),
                structs(
                    "Partitions",
                    &[int32("PartitionIndex"), int16("ErrorCode"), string("ErrorMessage").nullable(0)],
                ),
            ],
        ),
    ],
);

pub(super) static LIST_PARTITION_REASSIGNMENTS_REQUEST: Schema = message(
    (0, 0),
    0,
    &[int32("TimeoutMs"), structs("Topics", &[string("Name"), int32s("PartitionIndexes")]).nullable(0)],
);

pub(super) static LIST_PARTITION_REASSIGNMENTS_RESPONSE: Schema = message(
    (0, 0),
    0,
    &[
        int32("ThrottleTimeMs"),
        int16("ErrorCode"),
        string("ErrorMessage").nullable(0),
        structs(
            "Topics",
            &[
                string("Name"),
                structs(
                    "Partitions",
                    &[
                        int32("PartitionIndex"),
                        int32s("Replicas"),
                        int32s("AddingReplicas"),
                        int32s("RemovingReplicas"),
                    ],
                ),
            ],
        ),
    ],
);
