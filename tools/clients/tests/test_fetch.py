"""Fetching and finding offsets, as clients see them."""

from __future__ import annotations

import threading
import time

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, TopicPartition
from driving import LIMIT_S, at, error_of, receive, send
from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaPythonPartition
from kafka.errors import OffsetOutOfRangeError

FIRST_TIMESTAMP = 1_700_000_000_000


@pytest.fixture
def stamped(make_producer, make_topic):
    """A topic of 100 records in batches of 10, one second apart."""
    topic = make_topic(retention_ms="-1")
    producer = make_producer(batch_num_messages=10, linger_ms=50)
    for number in range(100):
        producer.produce(
            topic, b"%d" % number, partition=0, timestamp=FIRST_TIMESTAMP + number * 1000
        )
    assert producer.flush(LIMIT_S) == 0
    return topic


def test_the_watermarks_are_the_first_and_the_next_offset(make_consumer, stamped):
    consumer = make_consumer()
    assert consumer.get_watermark_offsets(TopicPartition(stamped, 0), LIMIT_S) == (0, 100)


@pytest.mark.parametrize(
    ("after_first_ms", "offset"), [(-5000, 0), (0, 0), (1, 1), (47_000, 47), (47_001, 48)]
)
def test_a_timestamp_finds_the_first_record_at_or_after_it(
    make_consumer, stamped, after_first_ms, offset
):
    wanted = TopicPartition(stamped, 0, FIRST_TIMESTAMP + after_first_ms)
    (found,) = make_consumer().offsets_for_times([wanted], LIMIT_S)
    assert found.offset == offset


def test_a_timestamp_after_the_last_record_finds_the_end(make_consumer, stamped):
    wanted = TopicPartition(stamped, 0, FIRST_TIMESTAMP + 1_000_000)
    (found,) = make_consumer().offsets_for_times([wanted], LIMIT_S)
    assert found.offset == OFFSET_END


def test_kafka_python_finds_offsets(bootstrap, stamped):
    partition = KafkaPythonPartition(stamped, 0)
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None)
    assert consumer.beginning_offsets([partition]) == {partition: 0}
    assert consumer.end_offsets([partition]) == {partition: 100}
    found = consumer.offsets_for_times({partition: FIRST_TIMESTAMP + 30_500})
    assert (found[partition].offset, found[partition].timestamp) == (31, FIRST_TIMESTAMP + 31_000)
    consumer.close()


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
def test_fetching_from_the_middle_of_a_batch_starts_there(
    make_producer, make_consumer, topic, codec
):
    producer = make_producer(linger_ms=200, batch_num_messages=1000, compression_type=codec)
    send(producer, topic, [b"%d" % number for number in range(1000)])
    consumer = make_consumer()
    for offset in (503, 999, 1):
        consumer.assign(at(topic, offset))
        message = receive(consumer, 1)[0]
        assert (message.offset(), message.value()) == (offset, b"%d" % offset)


def test_the_end_is_found_and_nothing_before_it_is_read(make_producer, make_consumer, topic):
    producer = make_producer()
    send(producer, topic, [b"before"])
    consumer = make_consumer()
    consumer.assign(at(topic, OFFSET_END))
    assert consumer.poll(1.0) is None
    # On a busy machine the end may be found only now: what comes before that is not read either.
    for number in range(LIMIT_S):
        send(producer, topic, [b"after %d" % number])
        message = consumer.poll(1.0)
        if message is not None:
            break
    assert message is not None and message.error() is None
    assert message.value().startswith(b"after")


def test_an_offset_out_of_range_is_an_error(make_consumer, stamped):
    consumer = make_consumer()
    consumer.assign(at(stamped, 5000))
    code = error_of(lambda: receive(consumer, 1))
    assert code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)


def test_kafka_python_is_told_that_an_offset_is_out_of_range(bootstrap, stamped):
    partition = KafkaPythonPartition(stamped, 0)
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="none")
    consumer.assign([partition])
    consumer.seek(partition, 5000)
    with pytest.raises(OffsetOutOfRangeError):
        for _ in range(LIMIT_S):
            consumer.poll(timeout_ms=1000)
    consumer.close()


def test_a_waiting_fetch_is_woken_by_a_record(make_producer, make_consumer, topic):
    # The broker may hold a fetch for 60 s; a record must end the wait, not the time.
    consumer = make_consumer(fetch_wait_max_ms=60_000, socket_timeout_ms=90_000)
    consumer.assign(at(topic, 0))
    assert consumer.poll(1.0) is None
    producer = make_producer(linger_ms=0)
    for number in range(5):
        value = b"%d" % number
        assert not send(producer, topic, [value]).errors
        assert receive(consumer, 1)[0].value() == value


def test_a_waiting_fetch_over_many_partitions_is_woken(make_producer, make_consumer, make_topic):
    name = make_topic(partitions=12)
    consumer = make_consumer(fetch_wait_max_ms=60_000, socket_timeout_ms=90_000)
    consumer.assign([TopicPartition(name, p, OFFSET_BEGINNING) for p in range(12)])
    assert consumer.poll(1.0) is None
    producer = make_producer(linger_ms=0)
    for partition in (11, 0, 5):
        assert not send(producer, name, [b"record"], partition=partition).errors
        assert receive(consumer, 1)[0].partition() == partition


def test_a_consumer_that_keeps_up_sees_every_record_in_order(make_producer, make_consumer, topic):
    count = 5000
    consumer = make_consumer()
    consumer.assign(at(topic, OFFSET_BEGINNING))

    def produce() -> None:
        producer = make_producer(linger_ms=1)
        for number in range(count):
            producer.produce(topic, b"%d" % number, partition=0)
            if number % 100 == 0:
                producer.flush(LIMIT_S)
        producer.flush(LIMIT_S)

    writer = threading.Thread(target=produce)
    writer.start()
    values = [int(message.value()) for message in receive(consumer, count)]
    writer.join()
    assert values == list(range(count))


def test_offsets_of_an_unknown_topic_are_an_error(make_consumer, name):
    consumer = make_consumer(allow_auto_create_topics=False)
    code = error_of(lambda: consumer.get_watermark_offsets(TopicPartition(name, 0), LIMIT_S))
    assert code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION)


def test_metadata_of_an_unknown_topic_says_so(make_consumer, name):
    topics = make_consumer(allow_auto_create_topics=False).list_topics(name, LIMIT_S).topics
    assert topics[name].error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
def test_either_isolation_reads_plain_records(make_consumer, stamped, isolation):
    consumer = make_consumer(isolation_level=isolation)
    consumer.assign(at(stamped, 0))
    assert len(receive(consumer, 100)) == 100
