"""Requests that are wrong in one thing each, for every API that can be asked for something wrong."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from asking import ask
from kafka.protocol.admin import (
    AlterConfigsRequest,
    AlterPartitionReassignmentsRequest,
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteGroupsRequest,
    DeleteRecordsRequest,
    DeleteTopicsRequest,
    DescribeClusterRequest,
    DescribeConfigsRequest,
    DescribeGroupsRequest,
    DescribeLogDirsRequest,
    DescribeProducersRequest,
    DescribeTopicPartitionsRequest,
    ElectLeadersRequest,
    IncrementalAlterConfigsRequest,
    ListConfigResourcesRequest,
    ListGroupsRequest,
    ListPartitionReassignmentsRequest,
)
from kafka.protocol.consumer import (
    FetchRequest,
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    ListOffsetsRequest,
    OffsetCommitRequest,
    OffsetDeleteRequest,
    OffsetFetchRequest,
    OffsetForLeaderEpochRequest,
    SyncGroupRequest,
)
from kafka.protocol.metadata import FindCoordinatorRequest, MetadataRequest
from kafka.protocol.producer import InitProducerIdRequest, ProduceRequest
from test_wire import batch

UNKNOWN_ID = uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")
OFFSETS_TOPIC = "__consumer_offsets"
TOPIC_RESOURCE, BROKER_RESOURCE = 2, 4
SET, DELETE, APPEND = 0, 1, 2
SESSION_MS = 600_000


def build(kind: type, version: int, **values: object) -> object:
    """A request of kafka-python's from plain dictionaries and lists."""

    def values_of(outer: type, given: dict) -> dict:
        return {name: filled(outer, outer._struct.fields[name], value) for name, value in given.items()}

    def filled(outer: type, field, value: object) -> object:
        if value is None or not (field.is_struct() or field.is_struct_array()):
            return value
        inner = getattr(outer, field.type_str)
        if field.is_struct_array():
            return [inner(version=version, **values_of(inner, element)) for element in value]
        return inner(version=version, **values_of(inner, value))

    return kind[version](**values_of(kind, values))


def error_codes(answer: object) -> list[int]:
    """All error codes of an answer, in the order of its fields."""
    if isinstance(answer, list | tuple):
        return [code for element in answer for code in error_codes(element)]
    if not hasattr(answer, "_struct"):
        return []
    codes = []
    for field in answer._struct._fields:
        if not field.for_version_q(answer.version):
            continue
        value = getattr(answer, field.name)
        codes += [value] if field.name == "error_code" else error_codes(value)
    return codes


@dataclass
class World:
    """What there is for the requests to be wrong about."""

    bootstrap: str
    # With two partitions, and three records in the first one.
    topic: str
    # Of the classic protocol, with one member; its generation is 1.
    classic: str
    member: str
    # Of the new protocol, with one member.
    modern: str
    modern_member: str
    # Without members, with an offset for the topic.
    empty: str
    # One that nobody uses.
    nobody: str

    def ask(self, kind: type, version: int, **values: object) -> object:
        return ask(self.bootstrap, build(kind, version, **values))


def join_fields(group: str, **changed: object) -> dict:
    return {
        "group_id": group,
        "session_timeout_ms": SESSION_MS,
        "rebalance_timeout_ms": 30_000,
        "member_id": "",
        "protocol_type": "consumer",
        "protocols": [{"name": "range", "metadata": b""}],
        **changed,
    }


def commit_fields(group: str, topic: str, **changed: object) -> dict:
    metadata = changed.pop("metadata", "")
    partition = {"partition_index": 0, "committed_offset": 1, "committed_metadata": metadata}
    return {
        "group_id": group,
        "generation_id_or_member_epoch": -1,
        "member_id": "",
        "topics": [{"name": topic, "partitions": [partition]}],
        **changed,
    }


Ask = Callable[[World], tuple[type, int, dict]]
CASES: dict[str, Ask] = {}


def case(name: str, asking: Ask) -> None:
    assert name not in CASES
    CASES[name] = asking


def topic_case(what: str, **topic: object) -> None:
    new = {"num_partitions": 1, "replication_factor": 1, **topic}

    def asking(world: World) -> tuple[type, int, dict]:
        named = {**new, "name": new.get("name", world.nobody)}
        return CreateTopicsRequest, 7, {"topics": [named], "timeout_ms": 10_000}

    case(f"create-topic-{what}", asking)


def on_topic(
    kind: type, version: int, topic: Callable[[World], str], partition: dict, **rest: object
) -> Ask:
    """Of APIs that are asked about partitions of topics."""
    topics_field = "topic_data" if kind is ProduceRequest else "topics"
    name_field = "topic" if kind in (FetchRequest, OffsetForLeaderEpochRequest) else "name"
    inner_field = "partition_data" if kind is ProduceRequest else "partitions"
    return lambda world: (
        kind,
        version,
        {topics_field: [{name_field: topic(world), inner_field: [partition]}], **rest},
    )


def own(world: World) -> str:
    return world.topic


def nobodys(world: World) -> str:
    return world.nobody


def newcomers(world: World) -> str:
    return f"{world.nobody}-new"


def internal(_: World) -> str:
    return OFFSETS_TOPIC


# Topics.
topic_case("with-a-space", name="a b")
topic_case("without-a-name", name="")
topic_case("of-dots", name="..")
topic_case("of-250-characters", name="x" * 250)
topic_case("that-is-internal", name=OFFSETS_TOPIC)
topic_case("without-partitions", num_partitions=0)
topic_case("with-negative-partitions", num_partitions=-2)
topic_case("without-replicas", replication_factor=0)
topic_case("with-too-many-replicas", replication_factor=9)
topic_case("with-an-unknown-config", configs=[{"name": "no.such", "value": "1"}])
topic_case("with-a-wrong-config", configs=[{"name": "retention.ms", "value": "soon"}])
topic_case("with-a-config-out-of-range", configs=[{"name": "segment.bytes", "value": "-5"}])
topic_case("with-an-empty-config", configs=[{"name": "cleanup.policy", "value": None}])
topic_case("with-a-wrong-policy", configs=[{"name": "cleanup.policy", "value": "burn"}])
topic_case(
    "with-partitions-twice",
    num_partitions=2,
    assignments=[{"partition_index": 0, "broker_ids": [1]}],
)
topic_case(
    "on-a-broker-that-is-not-there",
    num_partitions=-1,
    replication_factor=-1,
    assignments=[{"partition_index": 0, "broker_ids": [77]}],
)
topic_case(
    "with-a-gap-in-its-partitions",
    num_partitions=-1,
    replication_factor=-1,
    assignments=[{"partition_index": 1, "broker_ids": [1]}],
)
topic_case(
    "with-a-replica-twice",
    num_partitions=-1,
    replication_factor=-1,
    assignments=[{"partition_index": 0, "broker_ids": [1, 1]}],
)
case(
    "create-topic-that-exists",
    lambda world: (
        CreateTopicsRequest,
        7,
        {
            "topics": [{"name": world.topic, "num_partitions": 1, "replication_factor": 1}],
            "timeout_ms": 10_000,
        },
    ),
)
case(
    "create-topic-twice-in-a-request",
    lambda world: (
        CreateTopicsRequest,
        7,
        {
            "topics": [{"name": world.nobody, "num_partitions": 1, "replication_factor": 1}] * 2,
            "timeout_ms": 10_000,
        },
    ),
)
for name, topics in {
    "unknown": [{"name": "no-such-topic"}],
    "of-an-unknown-id": [{"name": None, "topic_id": UNKNOWN_ID}],
    "by-name-and-id": [{"name": "no-such-topic", "topic_id": UNKNOWN_ID}],
    "by-nothing": [{"name": None}],
    "twice": [{"name": "no-such-topic"}, {"name": "no-such-topic"}],
}.items():
    case(
        f"delete-topic-{name}",
        lambda _, topics=topics: (DeleteTopicsRequest, 6, {"topics": topics, "timeout_ms": 10_000}),
    )
for name, topic, count, assignments in [
    ("unknown", nobodys, 5, None),
    ("shrinks", own, 1, None),
    ("stays", own, 2, None),
    ("to-none", own, 0, None),
    ("to-less-than-none", own, -3, None),
    ("with-too-few-assignments", own, 4, [{"broker_ids": [1]}]),
    ("on-a-broker-that-is-not-there", own, 3, [{"broker_ids": [77]}]),
    ("without-replicas", own, 3, [{"broker_ids": []}]),
]:
    case(
        f"create-partitions-{name}",
        lambda world, topic=topic, count=count, assignments=assignments: (
            CreatePartitionsRequest,
            3,
            {
                "topics": [{"name": topic(world), "count": count, "assignments": assignments}],
                "timeout_ms": 10_000,
            },
        ),
    )
case(
    "create-partitions-twice-in-a-request",
    lambda world: (
        CreatePartitionsRequest,
        3,
        {"topics": [{"name": world.topic, "count": 3}] * 2, "timeout_ms": 10_000},
    ),
)
for name, topic, partition in [
    ("unknown-topic", nobodys, {"partition_index": 0, "offset": 0}),
    ("unknown-partition", own, {"partition_index": 9, "offset": 0}),
    ("negative-partition", own, {"partition_index": -1, "offset": 0}),
    ("beyond-the-end", own, {"partition_index": 0, "offset": 99}),
    ("negative-offset", own, {"partition_index": 0, "offset": -2}),
    ("internal", internal, {"partition_index": 0, "offset": 0}),
]:
    case(
        f"delete-records-{name}",
        on_topic(DeleteRecordsRequest, 2, topic, partition, timeout_ms=10_000),
    )
for name, topics in {
    "unknown": [{"name": "no-such-topic"}],
    "wrong-name": [{"name": "a b"}],
    "unknown-id": [{"name": None, "topic_id": UNKNOWN_ID}],
}.items():
    case(
        f"metadata-{name}",
        lambda _, topics=topics: (
            MetadataRequest,
            12,
            {"topics": topics, "allow_auto_topic_creation": False},
        ),
    )
for name, topics, cursor in [
    ("unknown", [{"name": "no-such-topic"}], None),
    ("wrong-name", [{"name": "a b"}], None),
]:
    case(
        f"describe-topic-partitions-{name}",
        lambda _, topics=topics, cursor=cursor: (
            DescribeTopicPartitionsRequest,
            0,
            {"topics": topics, "response_partition_limit": 10, "cursor": cursor},
        ),
    )

# Records.
for name, topic, partition, acks in [
    ("unknown-topic", nobodys, {"index": 0, "records": batch(1)}, -1),
    ("unknown-partition", own, {"index": 9, "records": batch(1)}, -1),
    ("negative-partition", own, {"index": -1, "records": batch(1)}, -1),
    ("internal", internal, {"index": 0, "records": batch(1)}, -1),
    ("wrong-acks", own, {"index": 0, "records": batch(1)}, 2),
    ("damaged", own, {"index": 0, "records": batch(1)[:-1] + b"!"}, -1),
]:
    case(
        f"produce-{name}",
        on_topic(ProduceRequest, 9, topic, partition, acks=acks, timeout_ms=10_000),
    )
FETCH = {"max_wait_ms": 0, "min_bytes": 0, "max_bytes": 1 << 20, "session_id": 0, "session_epoch": -1}
for name, topic, partition, session in [
    ("unknown-topic", nobodys, {"partition": 0}, {}),
    ("unknown-partition", own, {"partition": 9}, {}),
    ("negative-offset", own, {"partition": 0, "fetch_offset": -7}, {}),
    ("beyond-the-end", own, {"partition": 0, "fetch_offset": 99}, {}),
    ("epoch-of-the-future", own, {"partition": 0, "current_leader_epoch": 99}, {}),
    ("unknown-session", own, {"partition": 0}, {"session_id": 77, "session_epoch": 1}),
    ("session-without-epoch", own, {"partition": 0}, {"session_id": 77, "session_epoch": 0}),
]:
    partition = {
        "fetch_offset": 0,
        "partition_max_bytes": 1 << 20,
        "current_leader_epoch": -1,
        **partition,
    }
    case(f"fetch-{name}", on_topic(FetchRequest, 12, topic, partition, **{**FETCH, **session}))
case(
    "fetch-unknown-id",
    lambda _: (
        FetchRequest,
        13,
        {
            **FETCH,
            "topics": [{"topic_id": UNKNOWN_ID, "partitions": [{"partition": 0, "fetch_offset": 0}]}],
        },
    ),
)
for name, topic, partition in [
    ("unknown-topic", nobodys, {"partition_index": 0}),
    ("unknown-partition", own, {"partition_index": 9}),
    ("epoch-of-the-future", own, {"partition_index": 0, "current_leader_epoch": 99}),
    ("unknown-special-time", own, {"partition_index": 0, "timestamp": -99}),
]:
    partition = {"timestamp": -1, "current_leader_epoch": -1, **partition}
    case(f"list-offsets-{name}", on_topic(ListOffsetsRequest, 7, topic, partition, replica_id=-1))
for name, topic, partition in [
    ("unknown-topic", nobodys, {"partition": 0}),
    ("unknown-partition", own, {"partition": 9}),
    ("epoch-of-the-future", own, {"partition": 0, "current_leader_epoch": 99}),
]:
    partition = {"leader_epoch": 0, "current_leader_epoch": -1, **partition}
    case(
        f"offset-for-leader-epoch-{name}",
        on_topic(OffsetForLeaderEpochRequest, 4, topic, partition, replica_id=-1),
    )
case(
    "init-producer-id-with-an-empty-transactional-id",
    lambda _: (InitProducerIdRequest, 4, {"transactional_id": "", "transaction_timeout_ms": 1000}),
)

# Configs.
RESOURCES = [
    ("unknown-topic", TOPIC_RESOURCE, nobodys),
    ("wrong-topic", TOPIC_RESOURCE, lambda _: "a b"),
    ("unnamed-topic", TOPIC_RESOURCE, lambda _: ""),
    ("other-node", BROKER_RESOURCE, lambda _: "77"),
    ("node-without-a-number", BROKER_RESOURCE, lambda _: "one"),
    ("unknown-type", 99, own),
]
for name, resource_type, named in RESOURCES:
    case(
        f"describe-configs-{name}",
        lambda world, resource_type=resource_type, named=named: (
            DescribeConfigsRequest,
            4,
            {"resources": [{"resource_type": resource_type, "resource_name": named(world)}]},
        ),
    )
    for kind, version, change in [
        (AlterConfigsRequest, 2, {"name": "retention.ms", "value": "1000"}),
        (
            IncrementalAlterConfigsRequest,
            1,
            {"name": "retention.ms", "value": "1000", "config_operation": SET},
        ),
    ]:
        case(
            f"{'incremental-' if kind is IncrementalAlterConfigsRequest else ''}alter-configs-{name}",
            lambda world, resource_type=resource_type, named=named, kind=kind, version=version, change=change: (
                kind,
                version,
                {
                    "resources": [
                        {
                            "resource_type": resource_type,
                            "resource_name": named(world),
                            "configs": [change],
                        }
                    ],
                    "validate_only": True,
                },
            ),
        )
for name, configs in {
    "unknown": [{"name": "no.such", "config_operation": SET, "value": "1"}],
    "wrong": [{"name": "retention.ms", "config_operation": SET, "value": "soon"}],
    "out-of-range": [{"name": "min.cleanable.dirty.ratio", "config_operation": SET, "value": "7"}],
    "nothing": [{"name": "retention.ms", "config_operation": SET, "value": None}],
    "appended-to-a-number": [{"name": "retention.ms", "config_operation": APPEND, "value": "1"}],
    "unknown-operation": [{"name": "retention.ms", "config_operation": 9, "value": "1"}],
    "twice": [{"name": "retention.ms", "config_operation": SET, "value": value} for value in "12"],
    "unknown-deleted": [{"name": "no.such", "config_operation": DELETE, "value": None}],
}.items():
    case(
        f"incremental-alter-configs-of-a-topic-{name}",
        lambda world, configs=configs: (
            IncrementalAlterConfigsRequest,
            1,
            {
                "resources": [
                    {"resource_type": TOPIC_RESOURCE, "resource_name": world.topic, "configs": configs}
                ],
                "validate_only": True,
            },
        ),
    )
case(
    "list-config-resources-of-an-unknown-type",
    lambda _: (ListConfigResourcesRequest, 1, {"resource_types": [99]}),
)

# Groups.
for name, key_type, keys in [("unknown-type", 9, ["a"]), ("nothing", 0, [])]:
    case(
        f"find-coordinator-{name}",
        lambda _, key_type=key_type, keys=keys: (
            FindCoordinatorRequest,
            4,
            {"key_type": key_type, "coordinator_keys": keys},
        ),
    )
for name, version, group, changed in [
    ("without-a-group", 5, lambda _: "", {}),
    ("with-a-short-session", 5, newcomers, {"session_timeout_ms": 1}),
    ("with-a-long-session", 5, newcomers, {"session_timeout_ms": 2_000_000_000}),
    ("without-a-member-id", 5, newcomers, {}),
    ("of-an-unknown-member", 5, newcomers, {"member_id": "who"}),
    ("of-an-unknown-member-of-a-group", 5, lambda world: world.classic, {"member_id": "who"}),
    ("without-protocols", 5, newcomers, {"protocols": []}),
    ("without-a-protocol-type", 5, newcomers, {"protocol_type": ""}),
    ("of-another-type", 3, lambda world: world.classic, {"protocol_type": "connect"}),
    (
        "with-other-protocols",
        3,
        lambda world: world.classic,
        {"protocols": [{"name": "mine", "metadata": b""}]},
    ),
    (
        "of-a-new-group-with-another-type",
        3,
        lambda world: world.modern,
        {"protocol_type": "connect"},
    ),
]:
    case(
        f"join-group-{name}",
        lambda world, version=version, group=group, changed=changed: (
            JoinGroupRequest,
            version,
            join_fields(group(world), **changed),
        ),
    )
MEMBERS = [
    ("unknown-group", lambda world: (world.nobody, 1, "who")),
    ("unknown-member", lambda world: (world.classic, 1, "who")),
    ("old-generation", lambda world: (world.classic, 0, world.member)),
    ("generation-of-the-future", lambda world: (world.classic, 7, world.member)),
    ("unnamed-group", lambda world: ("", 1, "who")),
    ("new-group", lambda world: (world.modern, 1, "who")),
    ("empty-group", lambda world: (world.empty, 1, "who")),
]
for name, of in MEMBERS:

    def fields(world: World, of: Callable = of) -> dict:
        group, generation, member = of(world)
        return {"group_id": group, "generation_id": generation, "member_id": member}

    case(f"heartbeat-{name}", lambda world, fields=fields: (HeartbeatRequest, 4, fields(world)))
    case(
        f"sync-group-{name}",
        lambda world, fields=fields: (
            SyncGroupRequest,
            5,
            {**fields(world), "protocol_type": "consumer", "protocol_name": "range", "assignments": []},
        ),
    )
    case(
        f"offset-commit-{name}",
        lambda world, of=of: (
            OffsetCommitRequest,
            8,
            commit_fields(
                of(world)[0],
                world.topic,
                generation_id_or_member_epoch=of(world)[1],
                member_id=of(world)[2],
            ),
        ),
    )
case(
    "sync-group-with-another-protocol",
    lambda world: (
        SyncGroupRequest,
        5,
        {
            "group_id": world.classic,
            "generation_id": 1,
            "member_id": world.member,
            "protocol_type": "connect",
            "protocol_name": "range",
            "assignments": [],
        },
    ),
)
for name, group, member in [
    ("unknown-group", nobodys, {"member_id": "who"}),
    ("unknown-member", lambda world: world.classic, {"member_id": "who"}),
    ("unknown-instance", lambda world: world.classic, {"member_id": "", "group_instance_id": "who"}),
    ("unnamed-group", lambda _: "", {"member_id": "who"}),
]:
    case(
        f"leave-group-{name}",
        lambda world, group=group, member=member: (
            LeaveGroupRequest,
            5,
            {"group_id": group(world), "members": [member]},
        ),
    )
for name, group, topic, changed in [
    ("unknown-topic", lambda world: world.empty, nobodys, {}),
    ("wrong-topic", lambda world: world.empty, lambda _: "a b", {}),
    ("much-metadata", lambda world: world.empty, own, {"metadata": "x" * 5000}),
    ("beside-members", lambda world: world.classic, own, {}),
    ("beside-new-members", lambda world: world.modern, own, {}),
]:
    case(
        f"offset-commit-{name}",
        lambda world, group=group, topic=topic, changed=changed: (
            OffsetCommitRequest,
            8,
            commit_fields(group(world), topic(world), **changed),
        ),
    )
for name, epoch, member in [
    ("unknown-new-member", 1, lambda _: "who"),
    ("stale-epoch", 0, lambda world: world.modern_member),
    ("epoch-of-the-future", 99, lambda world: world.modern_member),
]:
    case(
        f"offset-commit-{name}",
        lambda world, epoch=epoch, member=member: (
            OffsetCommitRequest,
            9,
            commit_fields(
                world.modern,
                world.topic,
                generation_id_or_member_epoch=epoch,
                member_id=member(world),
            ),
        ),
    )
    case(
        f"offset-fetch-{name}",
        lambda world, epoch=epoch, member=member: (
            OffsetFetchRequest,
            9,
            {"groups": [{"group_id": world.modern, "member_id": member(world), "member_epoch": epoch}]},
        ),
    )
for name, group, topic in [
    ("unknown-group", nobodys, own),
    ("unknown-topic", lambda world: world.empty, nobodys),
    ("unnamed-group", lambda _: "", own),
]:
    case(
        f"offset-fetch-{name}",
        lambda world, group=group, topic=topic: (
            OffsetFetchRequest,
            8,
            {
                "groups": [
                    {
                        "group_id": group(world),
                        "topics": [{"name": topic(world), "partition_indexes": [0]}],
                    }
                ]
            },
        ),
    )
for name, group, topic in [
    ("unknown-group", nobodys, own),
    ("unknown-topic", lambda world: world.empty, nobodys),
    ("unnamed-group", lambda _: "", own),
    ("topic-that-is-subscribed", lambda world: world.modern, own),
]:
    case(
        f"offset-delete-{name}",
        lambda world, group=group, topic=topic: (
            OffsetDeleteRequest,
            0,
            {
                "group_id": group(world),
                "topics": [{"name": topic(world), "partitions": [{"partition_index": 0}]}],
            },
        ),
    )
for name, group in [
    ("unknown", nobodys),
    ("unnamed", lambda _: ""),
    ("with-members", lambda world: world.classic),
    ("with-new-members", lambda world: world.modern),
]:
    case(
        f"delete-group-{name}",
        lambda world, group=group: (DeleteGroupsRequest, 2, {"groups_names": [group(world)]}),
    )
for version in (5, 6):
    for name, group in [
        ("unknown", nobodys),
        ("unnamed", lambda _: ""),
        ("of-the-new-protocol", lambda world: world.modern),
    ]:
        case(
            f"describe-group-{name}-{version}",
            lambda world, group=group, version=version: (
                DescribeGroupsRequest,
                version,
                {"groups": [group(world)]},
            ),
        )
case(
    "list-groups-of-unknown-states",
    lambda _: (ListGroupsRequest, 5, {"states_filter": ["Odd"], "types_filter": []}),
)
case(
    "list-groups-of-unknown-types",
    lambda _: (ListGroupsRequest, 5, {"states_filter": [], "types_filter": ["odd"]}),
)

# Partitions and the cluster.
case(
    "describe-producers-of-an-unknown-topic",
    lambda world: (
        DescribeProducersRequest,
        0,
        {"topics": [{"name": world.nobody, "partition_indexes": [0]}]},
    ),
)
case(
    "describe-producers-of-an-unknown-partition",
    lambda world: (
        DescribeProducersRequest,
        0,
        {"topics": [{"name": world.topic, "partition_indexes": [9]}]},
    ),
)
case(
    "describe-log-dirs-of-an-unknown-topic",
    lambda world: (DescribeLogDirsRequest, 4, {"topics": [{"topic": world.nobody, "partitions": [0]}]}),
)
for name, election, topic, partition in [
    ("unknown-topic", 0, nobodys, 0),
    ("unknown-partition", 0, own, 9),
    ("that-is-not-needed", 0, own, 0),
    ("of-an-unknown-kind", 9, own, 0),
]:
    case(
        f"elect-leaders-{name}",
        lambda world, election=election, topic=topic, partition=partition: (
            ElectLeadersRequest,
            2,
            {
                "election_type": election,
                "topic_partitions": [{"topic": topic(world), "partitions": [partition]}],
                "timeout_ms": 10_000,
            },
        ),
    )
for name, topic, partition, replicas in [
    ("unknown-topic", nobodys, 0, [1]),
    ("unknown-partition", own, 9, [1]),
    ("other-node", own, 0, [77]),
    ("no-replicas", own, 0, []),
    ("replica-twice", own, 0, [1, 1]),
    ("nothing-to-cancel", own, 0, None),
]:
    case(
        f"alter-partition-reassignments-{name}",
        lambda world, topic=topic, partition=partition, replicas=replicas: (
            AlterPartitionReassignmentsRequest,
            0,
            {
                "timeout_ms": 10_000,
                "topics": [
                    {
                        "name": topic(world),
                        "partitions": [{"partition_index": partition, "replicas": replicas}],
                    }
                ],
            },
        ),
    )
case(
    "list-partition-reassignments-unknown-topic",
    lambda world: (
        ListPartitionReassignmentsRequest,
        0,
        {"timeout_ms": 10_000, "topics": [{"name": world.nobody, "partition_indexes": [0]}]},
    ),
)
case(
    "describe-cluster-of-an-unknown-kind",
    lambda _: (DescribeClusterRequest, 1, {"endpoint_type": 9}),
)


HEARTBEATS: dict[str, Callable[[World], dict]] = {
    "unnamed-group": lambda world: {"group": "", "topics": [world.topic]},
    "epoch-below-the-smallest": lambda world: {
        "group": world.nobody,
        "member": "m",
        "epoch": -3,
        "topics": [world.topic],
    },
    "nothing-subscribed": lambda world: {"group": world.nobody, "member": "m"},
    "no-rebalance-timeout": lambda world: {
        "group": world.nobody,
        "member": "m",
        "topics": [world.topic],
        "rebalance_timeout_ms": -1,
    },
    "partitions-owned-while-joining": lambda world: {
        "group": world.nobody,
        "member": "m",
        "topics": [world.topic],
        "owned": b"\2" + UNKNOWN_ID.bytes + b"\2" + struct.pack(">i", 0) + b"\0",
    },
    "unknown-assignor": lambda world: {
        "group": world.nobody,
        "member": "m",
        "topics": [world.topic],
        "assignor": "mine",
    },
    "empty-assignor": lambda world: {
        "group": world.nobody,
        "member": "m",
        "topics": [world.topic],
        "assignor": "",
    },
    "empty-instance": lambda world: {
        "group": world.nobody,
        "member": "m",
        "topics": [world.topic],
        "instance": "",
    },
    "unknown-group": lambda world: {"group": world.nobody, "member": "m", "epoch": 3},
    "unknown-group-is-left": lambda world: {"group": world.nobody, "member": "m", "epoch": -1},
    "unknown-member": lambda world: {"group": world.modern, "member": "who", "epoch": 1},
    "unknown-member-leaves": lambda world: {"group": world.modern, "member": "who", "epoch": -1},
    "epoch-of-the-future": lambda world: {
        "group": world.modern,
        "member": world.modern_member,
        "epoch": 99,
    },
    "unknown-instance-leaves-for-a-while": lambda world: {
        "group": world.modern,
        "member": "who",
        "epoch": -2,
        "instance": "who",
    },
    "leaving-for-a-while-without-an-instance": lambda world: {
        "group": world.modern,
        "member": world.modern_member,
        "epoch": -2,
    },
    "classic-group": lambda world: {"group": world.classic, "member": "who", "epoch": 1},
}
