//! The schemas of the messages about groups; as in [`super::schemas`].

use super::schema::{Field, Schema};
use super::schemas::{
    bool, bytes, int8, int16, int32, int32s, int64, message, string, strings, structs, structure, uuid,
};

pub(super) static OFFSET_COMMIT_REQUEST: Schema = message(
    (2, 9),
    8,
    &[
        string("GroupId"),
        int32("GenerationIdOrMemberEpoch"),
        string("MemberId"),
        string("GroupInstanceId").since(7).nullable(7),
        int64("RetentionTimeMs").until(4),
        structs(
            "Topics",
            &[
                string("Name"),
                structs(
                    "Partitions",
                    &[
                        int32("PartitionIndex"),
                        int64("CommittedOffset"),
                        int32("CommittedLeaderEpoch").since(6),
                        string("CommittedMetadata").nullable(2),
                    ],
                ),
            ],
        ),
    ],
);

pub(super) static OFFSET_COMMIT_RESPONSE: Schema = message(
    (2, 9),
    8,
    &[
        int32("ThrottleTimeMs").since(3),
        structs(
            "Topics",
            &[string("Name"), structs("Partitions", &[int32("PartitionIndex"), int16("ErrorCode")])],
        ),
    ],
);

pub(super) static OFFSET_FETCH_REQUEST: Schema = message(
    (1, 9),
    6,
    &[
        string("GroupId").until(7),
        structs("Topics", &[string("Name"), int32s("PartitionIndexes")]).until(7).nullable(2),
        structs(
            "Groups",
            &[
                string("GroupId"),
                string("MemberId").since(9).nullable(9),
                int32("MemberEpoch").since(9),
                structs("Topics", &[string("Name"), int32s("PartitionIndexes")]).nullable(8),
            ],
        )
        .since(8),
        bool("RequireStable").since(7),
    ],
);

const FETCHED_PARTITION: &[Field] = &[
    int32("PartitionIndex"),
    int64("CommittedOffset"),
    int32("CommittedLeaderEpoch").since(5),
    string("Metadata").nullable(0),
    int16("ErrorCode"),
];

const FETCHED_TOPIC: &[Field] = &[string("Name"), structs("Partitions", FETCHED_PARTITION)];

pub(super) static OFFSET_FETCH_RESPONSE: Schema = message(
    (1, 9),
    6,
    &[
        int32("ThrottleTimeMs").since(3),
        structs("Topics", FETCHED_TOPIC).until(7),
        int16("ErrorCode").since(2).until(7),
        structs("Groups", &[string("GroupId"), structs("Topics", FETCHED_TOPIC), int16("ErrorCode")])
            .since(8),
    ],
);

pub(super) static JOIN_GROUP_REQUEST: Schema = message(
    (0, 9),
    6,
    &[
        string("GroupId"),
        int32("SessionTimeoutMs"),
        int32("RebalanceTimeoutMs").since(1),
        string("MemberId"),
        string("GroupInstanceId").since(5).nullable(5),
        string("ProtocolType"),
        structs("Protocols", &[string("Name"), bytes("Metadata")]),
        string("Reason").since(8).nullable(8),
    ],
);

pub(super) static JOIN_GROUP_RESPONSE: Schema = message(
    (0, 9),
    6,
    &[
        int32("ThrottleTimeMs").since(2),
        int16("ErrorCode"),
        int32("GenerationId"),
        string("ProtocolType").since(7).nullable(7),
        string("ProtocolName").nullable(7),
        string("Leader"),
        bool("SkipAssignment").since(9),
        string("MemberId"),
        structs(
            "Members",
            &[string("MemberId"), string("GroupInstanceId").since(5).nullable(5), bytes("Metadata")],
        ),
    ],
);

pub(super) static HEARTBEAT_REQUEST: Schema = message(
    (0, 4),
    4,
    &[
        string("GroupId"),
        int32("GenerationId"),
        string("MemberId"),
        string("GroupInstanceId").since(3).nullable(3),
    ],
);

pub(super) static HEARTBEAT_RESPONSE: Schema =
    message((0, 4), 4, &[int32("ThrottleTimeMs").since(1), int16("ErrorCode")]);

pub(super) static LEAVE_GROUP_REQUEST: Schema = message(
    (0, 5),
    4,
    &[
        string("GroupId"),
        string("MemberId").until(2),
        structs(
            "Members",
            &[
                string("MemberId"),
                string("GroupInstanceId").nullable(3),
                string("Reason").since(5).nullable(5),
            ],
        )
        .since(3),
    ],
);

pub(super) static LEAVE_GROUP_RESPONSE: Schema = message(
    (0, 5),
    4,
    &[
        int32("ThrottleTimeMs").since(1),
        int16("ErrorCode"),
        structs("Members", &[string("MemberId"), string("GroupInstanceId").nullable(3), int16("ErrorCode")])
            .since(3),
    ],
);

pub(super) static SYNC_GROUP_REQUEST: Schema = message(
    (0, 5),
    4,
    &[
        string("GroupId"),
        int32("GenerationId"),
        string("MemberId"),
        string("GroupInstanceId").since(3).nullable(3),
        string("ProtocolType").since(5).nullable(5),
        string("ProtocolName").since(5).nullable(5),
        structs("Assignments", &[string("MemberId"), bytes("Assignment")]),
    ],
);

pub(super) static SYNC_GROUP_RESPONSE: Schema = message(
    (0, 5),
    4,
    &[
        int32("ThrottleTimeMs").since(1),
        int16("ErrorCode"),
        string("ProtocolType").since(5).nullable(5),
        string("ProtocolName").since(5).nullable(5),
        bytes("Assignment"),
    ],
);

pub(super) static DESCRIBE_GROUPS_REQUEST: Schema =
    message((0, 6), 5, &[strings("Groups"), bool("IncludeAuthorizedOperations").since(3)]);

pub(super) static DESCRIBE_GROUPS_RESPONSE: Schema = message(
    (0, 6),
    5,
    &[
        int32("ThrottleTimeMs").since(1),
        structs(
            "Groups",
            &[
                int16("ErrorCode"),
                string("ErrorMessage").since(6).nullable(6),
                string("GroupId"),
                string("GroupState"),
                string("ProtocolType"),
                string("ProtocolData"),
                structs(
                    "Members",
                    &[
                        string("MemberId"),
                        string("GroupInstanceId").since(4).nullable(4),
                        string("ClientId"),
                        string("ClientHost"),
                        bytes("MemberMetadata"),
                        bytes("MemberAssignment"),
                    ],
                ),
                int32("AuthorizedOperations").since(3),
            ],
        ),
    ],
);

pub(super) static LIST_GROUPS_REQUEST: Schema =
    message((0, 5), 3, &[strings("StatesFilter").since(4), strings("TypesFilter").since(5)]);

pub(super) static LIST_GROUPS_RESPONSE: Schema = message(
    (0, 5),
    3,
    &[
        int32("ThrottleTimeMs").since(1),
        int16("ErrorCode"),
        structs(
            "Groups",
            &[
                string("GroupId"),
                string("ProtocolType"),
                string("GroupState").since(4),
                string("GroupType").since(5),
            ],
        ),
    ],
);

pub(super) static DELETE_GROUPS_REQUEST: Schema = message((0, 2), 2, &[strings("GroupsNames")]);

pub(super) static DELETE_GROUPS_RESPONSE: Schema = message(
    (0, 2),
    2,
    &[int32("ThrottleTimeMs"), structs("Results", &[string("GroupId"), int16("ErrorCode")])],
);

/// No version of it is flexible.
pub(super) static OFFSET_DELETE_REQUEST: Schema = message(
    (0, 0),
    i16::MAX,
    &[
        string("GroupId"),
        structs("Topics", &[string("Name"), structs("Partitions", &[int32("PartitionIndex")])]),
    ],
);

pub(super) static OFFSET_DELETE_RESPONSE: Schema = message(
    (0, 0),
    i16::MAX,
    &[
        int16("ErrorCode"),
        int32("ThrottleTimeMs"),
        structs(
            "Topics",
            &[string("Name"), structs("Partitions", &[int32("PartitionIndex"), int16("ErrorCode")])],
        ),
    ],
);

const TOPIC_PARTITIONS: &[Field] = &[uuid("TopicId"), int32s("Partitions")];

pub(super) static CONSUMER_GROUP_HEARTBEAT_REQUEST: Schema = message(
    (0, 1),
    0,
    &[
        string("GroupId"),
        string("MemberId"),
        int32("MemberEpoch"),
        string("InstanceId").nullable(0),
        string("RackId").nullable(0),
        int32("RebalanceTimeoutMs"),
        strings("SubscribedTopicNames").nullable(0),
        string("SubscribedTopicRegex").since(1).nullable(1),
        string("ServerAssignor").nullable(0),
        structs("TopicPartitions", TOPIC_PARTITIONS).nullable(0),
    ],
);

pub(super) static CONSUMER_GROUP_HEARTBEAT_RESPONSE: Schema = message(
    (0, 1),
    0,
    &[
        int32("ThrottleTimeMs"),
        int16("ErrorCode"),
        string("ErrorMessage").nullable(0),
        string("MemberId").nullable(0),
        int32("MemberEpoch"),
        int32("HeartbeatIntervalMs"),
        structure("Assignment", &[structs("TopicPartitions", TOPIC_PARTITIONS)]).nullable(0),
    ],
);

pub(super) static CONSUMER_GROUP_DESCRIBE_REQUEST: Schema =
    message((0, 1), 0, &[strings("GroupIds"), bool("IncludeAuthorizedOperations")]);

const ASSIGNMENT: &[Field] =
    &[structs("TopicPartitions", &[uuid("TopicId"), string("TopicName"), int32s("Partitions")])];

pub(super) static CONSUMER_GROUP_DESCRIBE_RESPONSE: Schema = message(
    (0, 1),
    0,
    &[
        int32("ThrottleTimeMs"),
        structs(
            "Groups",
            &[
                int16("ErrorCode"),
                string("ErrorMessage").nullable(0),
                string("GroupId"),
                string("GroupState"),
                int32("GroupEpoch"),
                int32("AssignmentEpoch"),
                string("AssignorName"),
                structs(
                    "Members",
                    &[
                        string("MemberId"),
                        string("InstanceId").nullable(0),
                        string("RackId").nullable(0),
                        int32("MemberEpoch"),
                        string("ClientId"),
                        string("ClientHost"),
                        strings("SubscribedTopicNames"),
                        string("SubscribedTopicRegex").nullable(0),
                        structure("Assignment", ASSIGNMENT),
                        structure("TargetAssignment", ASSIGNMENT),
                        int8("MemberType").since(1),
                    ],
                ),
                int32("AuthorizedOperations"),
            ],
        ),
    ],
);
