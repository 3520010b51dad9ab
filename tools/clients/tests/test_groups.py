"""Consumer groups with unmodified clients, in both protocols where the client has them."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient
from driving import LIMIT_S, PARTITIONS, RECORDS, error_of, receive, send
from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaTopicPartition


@pytest.fixture
def member(make_consumer, name):
    """Members of one group."""

    def make(protocol: str, **config: object) -> Consumer:
        return make_consumer(
            group_id=name, group_protocol=protocol, auto_offset_reset="earliest", **config
        )

    return make


def share(members: list[Consumer], counts: list[int]) -> Counter:
    """Polls until the members have so many partitions each; what they read meanwhile."""
    read: Counter = Counter()
    deadline = time.monotonic() + LIMIT_S
    while sorted(len(it.assignment()) for it in members) != sorted(counts):
        held = [it.assignment() for it in members]
        assert time.monotonic() < deadline, f"the partitions are shared as {held}"
        for consumer in members:
            message = consumer.poll(0.05)
            if message is not None:
                assert message.error() is None, message.error()
                read[message.partition(), message.offset()] += 1
    return read


def test_members_share_the_partitions_and_take_over_from_who_leaves(filled, member, protocol):
    first, second = member(protocol), member(protocol)
    for consumer in (first, second):
        consumer.subscribe([filled])
    share([first, second], [2, 2])
    owned = [(it.topic, it.partition) for c in (first, second) for it in c.assignment()]
    assert sorted(owned) == [(filled, partition) for partition in range(PARTITIONS)]
    second.close()
    share([first], [PARTITIONS])


def test_who_comes_next_goes_on_where_the_last_one_committed(filled, member, protocol):
    first = member(protocol)
    first.subscribe([filled])
    seen = {(it.partition(), it.offset()) for it in receive(first, RECORDS // 2)}
    committed = first.commit(asynchronous=False)
    assert all(it.error is None for it in committed)
    first.close()
    second = member(protocol)
    second.subscribe([filled])
    rest = {(it.partition(), it.offset()) for it in receive(second, RECORDS - len(seen))}
    assert not seen & rest and len(seen | rest) == RECORDS


def test_offsets_are_kept_with_their_metadata(filled, member):
    consumer = member("classic")
    offsets = [TopicPartition(filled, 1, 17, "why"), TopicPartition(filled, 2, 0, "")]
    consumer.commit(offsets=offsets, asynchronous=False)
    wanted = [TopicPartition(filled, partition) for partition in range(3)]
    found = consumer.committed(wanted, LIMIT_S)
    assert [(it.offset, it.metadata or "") for it in found[1:]] == [(17, "why"), (0, "")]
    assert found[0].offset < 0


def test_a_commit_for_what_is_not_there_is_refused(filled, member):
    consumer = member("classic")
    missing = [TopicPartition(filled, PARTITIONS, 1)]
    code = error_of(lambda: consumer.commit(offsets=missing, asynchronous=False))
    assert code == KafkaError.UNKNOWN_TOPIC_OR_PART


def test_a_static_member_that_comes_back_causes_no_rebalance(filled, member):
    revoked = []
    other = member("classic", group_instance_id="one", session_timeout_ms=20_000)
    other.subscribe([filled], on_revoke=lambda _consumer, lost: revoked.extend(lost))
    back = member("classic", group_instance_id="two", session_timeout_ms=20_000)
    back.subscribe([filled])
    share([other, back], [2, 2])
    revoked.clear()
    held = {(it.topic, it.partition) for it in back.assignment()}
    back.close()
    again = member("classic", group_instance_id="two", session_timeout_ms=20_000)
    again.subscribe([filled])
    share([other, again], [2, 2])
    assert {(it.topic, it.partition) for it in again.assignment()} == held
    assert not revoked


def test_a_pattern_finds_topics_that_come_later(make_topic, make_producer, member, name, protocol):
    consumer = member(protocol, topic_metadata_refresh_interval_ms=500)
    consumer.subscribe([f"^{name}-.*"])
    nothing = consumer.poll(1.0)
    # The classic consumer may say that no topic fits.
    assert nothing is None or nothing.error().code() == KafkaError.UNKNOWN_TOPIC_OR_PART, nothing.error()
    topic = make_topic()
    send(make_producer(), topic, [b"late"])
    assert [it.topic() for it in receive(consumer, 1)] == [topic]


def test_an_operator_sees_groups_and_deletes_them(admin: AdminClient, filled, member, name, protocol, soon):
    consumer = member(protocol)
    consumer.subscribe([filled])
    receive(consumer, RECORDS)
    consumer.commit(asynchronous=False)
    listed = admin.list_consumer_groups().result(LIMIT_S).valid
    assert name in [group.group_id for group in listed]
    described = admin.describe_consumer_groups([name])[name].result(LIMIT_S)
    assert described.state.name == "STABLE"
    assigned = described.members[0].assignment.topic_partitions
    assert sorted(it.partition for it in assigned) == list(range(PARTITIONS))
    assert error_of(lambda: admin.delete_consumer_groups([name])[name].result(LIMIT_S)) == (
        KafkaError.NON_EMPTY_GROUP
    )
    consumer.close()

    def is_deleted() -> bool:
        try:
            admin.delete_consumer_groups([name])[name].result(LIMIT_S)
        except Exception:  # noqa: BLE001: it has a member for a moment after that was closed
            return False
        return True

    assert soon(is_deleted)
    code = error_of(lambda: admin.delete_consumer_groups([name])[name].result(LIMIT_S))
    assert code == KafkaError.GROUP_ID_NOT_FOUND


def test_an_operator_sets_offsets_of_a_group_without_members(admin, filled, name):
    new = ConsumerGroupTopicPartitions(name, [TopicPartition(filled, 0, 33)])
    admin.alter_consumer_group_offsets([new])[name].result(LIMIT_S)
    asked = ConsumerGroupTopicPartitions(name)
    found = admin.list_consumer_group_offsets([asked])[name].result(LIMIT_S)
    assert [(it.partition, it.offset) for it in found.topic_partitions] == [(0, 33)]


def test_members_of_another_library_share_as_well(bootstrap, filled, name):
    read: Counter = Counter()
    stop = threading.Event()
    lock = threading.Lock()

    def consume() -> None:
        consumer = KafkaConsumer(
            filled, bootstrap_servers=bootstrap, group_id=name, auto_offset_reset="earliest"
        )
        try:
            while not stop.is_set():
                for messages in consumer.poll(timeout_ms=100).values():
                    with lock:
                        read.update((it.partition, it.offset) for it in messages)
        finally:
            consumer.close()

    threads = [threading.Thread(target=consume) for _ in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + LIMIT_S
    while len(read) < RECORDS and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join(LIMIT_S)
    assert len(read) == RECORDS
    checker = KafkaConsumer(bootstrap_servers=bootstrap, group_id=name)
    try:
        offsets = [
            checker.committed(KafkaTopicPartition(filled, partition)) for partition in range(PARTITIONS)
        ]
    finally:
        checker.close()
    assert offsets == [RECORDS // PARTITIONS] * PARTITIONS


def test_a_member_that_goes_silent_is_replaced(filled, member):
    silent = member("classic", session_timeout_ms=6000, max_poll_interval_ms=6000)
    silent.subscribe([filled])
    share([silent], [PARTITIONS])
    # It is not polled any more, which its library takes as a reason to leave.
    heir = member("classic", session_timeout_ms=6000)
    heir.subscribe([filled])
    share([heir], [PARTITIONS])
    # It hears of its loss when it is polled again; closed before that, it may hang (librdkafka's issue 4884).
    deadline = time.monotonic() + LIMIT_S
    while (told := silent.poll(0.1)) is None or told.error() is None:
        assert time.monotonic() < deadline, "nobody told it that it was silent for too long"
    assert told.error().code() == KafkaError._MAX_POLL_EXCEEDED, told.error()
    share([silent, heir], [PARTITIONS // 2, PARTITIONS // 2])
