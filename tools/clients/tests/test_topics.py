"""Topics created, described, listed and deleted through the clients' admin interfaces."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType
from driving import LIMIT_S, error_of, send
from kafka.admin import KafkaAdminClient
from kafka.admin import NewTopic as KafkaPythonTopic


def test_a_topic_is_created_listed_and_deleted(admin, name, soon):
    admin.create_topics([NewTopic(name, 3, 1)])[name].result(LIMIT_S)
    assert soon(lambda: name in admin.list_topics(timeout=LIMIT_S).topics)
    listed = admin.list_topics(timeout=LIMIT_S).topics
    assert sorted(listed[name].partitions) == [0, 1, 2]
    assert all(partition.leader >= 0 for partition in listed[name].partitions.values())
    admin.delete_topics([name])[name].result(LIMIT_S)
    assert soon(lambda: name not in admin.list_topics(timeout=LIMIT_S).topics)


def test_kafka_python_creates_lists_and_deletes(bootstrap, name, soon):
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([KafkaPythonTopic(name, num_partitions=2, replication_factor=1)])
    assert soon(lambda: name in admin.list_topics())
    described = admin.describe_topics([name])
    assert len(described[0]["partitions"]) == 2
    admin.delete_topics([name])
    assert soon(lambda: name not in admin.list_topics())
    admin.close()


def test_the_broker_chooses_partitions_and_replicas_when_left_out(admin, name, soon):
    admin.create_topics([NewTopic(name, -1, -1)])[name].result(LIMIT_S)
    assert soon(lambda: name in admin.list_topics(timeout=LIMIT_S).topics)
    assert admin.list_topics(timeout=LIMIT_S).topics[name].partitions


def test_a_topic_created_again_after_its_deletion_is_empty(
    admin, make_topic, make_producer, make_consumer
):
    name = make_topic()
    send(make_producer(), name, [b"old"] * 10)
    admin.delete_topics([name])[name].result(LIMIT_S)
    deadline = time.monotonic() + LIMIT_S
    while True:
        created = admin.create_topics([NewTopic(name, 1, 1)])[name]
        try:
            created.result(LIMIT_S)
            break
        except Exception as failure:
            # Apache Kafka deletes in the background.
            assert failure.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
            assert time.monotonic() < deadline
    deliveries = send(make_producer(), name, [b"new"])
    assert deliveries.offsets == [0]


@pytest.mark.parametrize(
    ("partitions", "replicas", "code"),
    [
        (0, 1, KafkaError.INVALID_PARTITIONS),
        (1, 2, KafkaError.INVALID_REPLICATION_FACTOR),
    ],
)
def test_impossible_topics_are_refused(admin, name, partitions, replicas, code):
    refused = admin.create_topics([NewTopic(name, partitions, replicas)])[name]
    assert error_of(lambda: refused.result(LIMIT_S)) == code


def test_an_invalid_name_is_refused(admin):
    refused = admin.create_topics([NewTopic("no/slash", 1, 1)])["no/slash"]
    assert error_of(lambda: refused.result(LIMIT_S)) == KafkaError.TOPIC_EXCEPTION


def test_an_unknown_config_is_refused(admin, name):
    refused = admin.create_topics([NewTopic(name, 1, 1, config={"no.such.config": "1"})])[name]
    assert error_of(lambda: refused.result(LIMIT_S)) == KafkaError.INVALID_CONFIG


def test_creating_a_topic_twice_is_refused(admin, topic):
    again = admin.create_topics([NewTopic(topic, 1, 1)])[topic]
    assert error_of(lambda: again.result(LIMIT_S)) == KafkaError.TOPIC_ALREADY_EXISTS


def test_validating_only_creates_nothing(admin, name):
    admin.create_topics([NewTopic(name, 1, 1)], validate_only=True)[name].result(LIMIT_S)
    assert name not in admin.list_topics(timeout=LIMIT_S).topics


def test_deleting_an_unknown_topic_is_refused(admin, name):
    refused = admin.delete_topics([name])[name]
    assert error_of(lambda: refused.result(LIMIT_S)) == KafkaError.UNKNOWN_TOPIC_OR_PART


def test_configs_are_described_with_what_was_set(admin, make_topic):
    name = make_topic(max_message_bytes="2000000", cleanup_policy="compact")
    resource = ConfigResource(ResourceType.TOPIC, name)
    entries = admin.describe_configs([resource])[resource].result(LIMIT_S)
    assert entries["max.message.bytes"].value == "2000000"
    assert entries["cleanup.policy"].value == "compact"
    assert entries["retention.ms"].is_default


def test_the_cluster_is_described(admin, bootstrap):
    cluster = admin.describe_cluster().result(LIMIT_S)
    assert cluster.cluster_id
    assert [f"{node.host}:{node.port}" for node in cluster.nodes] == [bootstrap]
    assert cluster.controller is not None


def test_a_client_that_writes_to_an_unknown_topic_makes_it(admin, make_producer, name):
    deliveries = send(make_producer(), name, [b"first"], partition=-1)
    assert not deliveries.errors
    assert name in admin.list_topics(timeout=LIMIT_S).topics


def test_asking_for_an_unknown_topic_does_not_make_it(admin, name):
    futures = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name)])
    (described,) = futures.values()
    assert error_of(lambda: described.result(LIMIT_S)) == KafkaError.UNKNOWN_TOPIC_OR_PART
    assert name not in admin.list_topics(timeout=LIMIT_S).topics


@pytest.mark.without_auto_create
def test_an_unknown_topic_stays_unknown_when_creation_is_off(admin, make_producer, name):
    producer = make_producer(message_timeout_ms=3000)
    deliveries = send(producer, name, [b"never"], partition=-1)
    assert [error.code() for error in deliveries.errors] in (
        [KafkaError.UNKNOWN_TOPIC_OR_PART],
        [KafkaError._UNKNOWN_TOPIC],
        [KafkaError._MSG_TIMED_OUT],
    )
    assert name not in admin.list_topics(timeout=LIMIT_S).topics


@pytest.mark.without_auto_create
def test_topics_can_still_be_created_when_automatic_creation_is_off(make_topic, make_producer):
    assert send(make_producer(), make_topic(), [b"record"]).offsets == [0]
