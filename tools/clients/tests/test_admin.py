"""Partitions that are added, configs that change, sizes: as administrators do it."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)
from driving import LIMIT_S, error_of, send
from kafka.admin import ConfigResource as KafkaPythonResource
from kafka.admin import ConfigResourceType, KafkaAdminClient


def topic_resource(name, *operations):
    """A change of a topic's configs: (name, operation, value)."""
    entries = [
        ConfigEntry(config, value, incremental_operation=operation)
        for config, operation, value in operations
    ]
    return ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)


def alter(admin, resource, **options):
    return admin.incremental_alter_configs([resource], **options)[resource].result(LIMIT_S)


def configs_of(admin, kind, name):
    resource = ConfigResource(kind, name)
    return admin.describe_configs([resource])[resource].result(LIMIT_S)


def test_a_topic_gets_more_partitions(admin, make_topic, make_producer, soon):
    name = make_topic()
    assert send(make_producer(), name, [b"old"]).offsets == [0]
    admin.create_partitions([NewPartitions(name, 3)])[name].result(LIMIT_S)
    assert soon(lambda: len(admin.list_topics(name, timeout=LIMIT_S).topics[name].partitions) == 3)
    assert send(make_producer(), name, [b"new"], partition=2).offsets == [0]
    assert send(make_producer(), name, [b"old"], partition=0).offsets == [1]


@pytest.mark.parametrize("count", [1, 2])
def test_a_topic_does_not_shrink(admin, make_topic, count):
    name = make_topic(partitions=2)
    refused = admin.create_partitions([NewPartitions(name, count)])[name]
    assert error_of(lambda: refused.result(LIMIT_S)) == KafkaError.INVALID_PARTITIONS


def test_an_unknown_topic_does_not_grow(admin, name):
    refused = admin.create_partitions([NewPartitions(name, 2)])[name]
    assert error_of(lambda: refused.result(LIMIT_S)) == KafkaError.UNKNOWN_TOPIC_OR_PART


def test_partitions_go_to_brokers_that_exist(admin, topic):
    refused = admin.create_partitions([NewPartitions(topic, 2, replica_assignment=[[4711]])])[topic]
    assert error_of(lambda: refused.result(LIMIT_S)) == KafkaError.INVALID_REPLICA_ASSIGNMENT


def test_configs_are_set_added_to_and_deleted(admin, topic, soon):
    operations = [
        ("retention.ms", AlterConfigOpType.SET, "86400000"),
        ("cleanup.policy", AlterConfigOpType.APPEND, "compact"),
    ]
    alter(admin, topic_resource(topic, *operations))
    assert soon(lambda: configs_of(admin, ResourceType.TOPIC, topic)["retention.ms"].value == "86400000")
    configs = configs_of(admin, ResourceType.TOPIC, topic)
    assert configs["cleanup.policy"].value == "delete,compact"
    assert not configs["retention.ms"].is_default
    operations = [
        ("retention.ms", AlterConfigOpType.DELETE, None),
        ("cleanup.policy", AlterConfigOpType.SUBTRACT, "delete"),
    ]
    alter(admin, topic_resource(topic, *operations))
    assert soon(lambda: configs_of(admin, ResourceType.TOPIC, topic)["retention.ms"].is_default)
    assert configs_of(admin, ResourceType.TOPIC, topic)["cleanup.policy"].value == "compact"


def test_a_running_partition_obeys(admin, topic, make_producer, soon):
    producer = make_producer(message_timeout_ms=10000)
    assert send(producer, topic, [b"x" * 5000]).offsets == [0]
    alter(admin, topic_resource(topic, ("max.message.bytes", AlterConfigOpType.SET, "1000")))

    def is_refused():
        errors = send(producer, topic, [b"x" * 5000]).errors
        return [error.code() for error in errors] == [KafkaError.MSG_SIZE_TOO_LARGE]

    assert soon(is_refused)
    assert send(producer, topic, [b"x"]).errors == []


@pytest.mark.parametrize(
    ("config", "operation", "value"),
    [
        ("no.such.config", AlterConfigOpType.SET, "1"),
        ("retention.ms", AlterConfigOpType.SET, "soon"),
        ("retention.ms", AlterConfigOpType.SET, "-2"),
        ("retention.ms", AlterConfigOpType.APPEND, "1"),
        ("cleanup.policy", AlterConfigOpType.APPEND, "shred"),
    ],
)
def test_wrong_configs_are_refused(admin, topic, config, operation, value):
    resource = topic_resource(topic, (config, operation, value))
    assert error_of(lambda: alter(admin, resource)) == KafkaError.INVALID_CONFIG


def test_validating_only_changes_nothing(admin, topic):
    resource = topic_resource(topic, ("retention.ms", AlterConfigOpType.SET, "86400000"))
    alter(admin, resource, validate_only=True)
    assert configs_of(admin, ResourceType.TOPIC, topic)["retention.ms"].is_default


def test_an_unknown_topic_has_no_configs(admin, name):
    resource = topic_resource(name, ("retention.ms", AlterConfigOpType.SET, "1"))
    assert error_of(lambda: alter(admin, resource)) == KafkaError.UNKNOWN_TOPIC_OR_PART


def test_the_older_request_replaces_all_configs(admin, make_topic, soon):
    name = make_topic(retention_ms="5000000")
    resource = ConfigResource(ResourceType.TOPIC, name, set_config={"segment.ms": "7000000"})
    admin.alter_configs([resource])[resource].result(LIMIT_S)
    assert soon(lambda: configs_of(admin, ResourceType.TOPIC, name)["segment.ms"].value == "7000000")
    assert configs_of(admin, ResourceType.TOPIC, name)["retention.ms"].is_default


def test_a_nodes_config_is_what_topics_default_to(admin, topic, soon):
    (node,) = admin.describe_cluster().result(LIMIT_S).nodes
    entry = ConfigEntry(
        "log.message.timestamp.after.max.ms", "7200000", incremental_operation=AlterConfigOpType.SET
    )
    broker = ConfigResource(ResourceType.BROKER, str(node.id), incremental_configs=[entry])
    alter(admin, broker)

    def of_topic():
        return configs_of(admin, ResourceType.TOPIC, topic)["message.timestamp.after.max.ms"]

    try:
        assert soon(lambda: of_topic().value == "7200000")
        of_node = configs_of(admin, ResourceType.BROKER, str(node.id))[entry.name]
        assert of_node.value == "7200000"
        assert not of_node.is_read_only
    finally:
        entry = ConfigEntry(entry.name, None, incremental_operation=AlterConfigOpType.DELETE)
        alter(admin, ConfigResource(ResourceType.BROKER, str(node.id), incremental_configs=[entry]))
    assert soon(lambda: of_topic().value == "3600000")


def test_what_is_fixed_cannot_be_changed(admin):
    (node,) = admin.describe_cluster().result(LIMIT_S).nodes
    entry = ConfigEntry("node.id", "7", incremental_operation=AlterConfigOpType.SET)
    broker = ConfigResource(ResourceType.BROKER, str(node.id), incremental_configs=[entry])
    assert error_of(lambda: alter(admin, broker)) == KafkaError.INVALID_REQUEST


def test_kafka_python_alters_and_grows(bootstrap, topic, soon):
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_partitions({topic: 2})
    assert soon(lambda: len(admin.describe_topics([topic])[0]["partitions"]) == 2)
    resource = KafkaPythonResource(ConfigResourceType.TOPIC, topic, configs={"retention.ms": "86400000"})
    admin.alter_configs([resource])
    described = str(admin.describe_configs([KafkaPythonResource(ConfigResourceType.TOPIC, topic)]))
    assert "86400000" in described
    (node,) = admin.describe_log_dirs()
    (directory,) = node["log_dirs"]
    assert directory["is_cordoned"] is False and directory["usable_bytes"] > 0
    assert topic in str(directory["topics"])
    admin.close()
