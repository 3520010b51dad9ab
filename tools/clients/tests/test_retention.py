"""Records deleted by clients, and by the broker since they are too old or too much."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec
from driving import LIMIT_S, at, error_of, receive, send
from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaPythonPartition
from kafka.admin import KafkaAdminClient

# Apache Kafka looks for the first time 30 s after its start.
SWEPT_S = 90
HIGH_WATERMARK = -1


def delete_before(admin, topic: str, offset: int, partition: int = 0):
    wanted = TopicPartition(topic, partition, offset)
    (deleted,) = admin.delete_records([wanted]).values()
    return deleted.result(LIMIT_S)


def bounds(make_consumer, topic: str) -> tuple[int, int]:
    consumer = make_consumer()
    return consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=LIMIT_S)


def until_start_is(make_consumer, topic: str, reached) -> tuple[int, int]:
    consumer = make_consumer()
    deadline = time.monotonic() + SWEPT_S
    while True:
        start, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=LIMIT_S)
        if reached(start):
            return start, end
        assert time.monotonic() < deadline, f"the log still starts at {start}, its end is {end}"
        time.sleep(0.2)


def test_records_before_an_offset_are_deleted(admin, topic, make_producer, make_consumer):
    send(make_producer(), topic, [b"%d" % number for number in range(10)])
    assert delete_before(admin, topic, 4).low_watermark == 4
    assert bounds(make_consumer, topic) == (4, 10)
    consumer = make_consumer(auto_offset_reset="earliest")
    consumer.assign(at(topic, 0))
    assert [message.value() for message in receive(consumer, 6)] == [b"%d" % n for n in range(4, 10)]


def test_the_middle_of_a_batch_can_be_the_start(admin, topic, make_producer, make_consumer):
    producer = make_producer(linger_ms=200)
    for number in range(10):
        producer.produce(topic, b"%d" % number, partition=0)
    assert producer.flush(LIMIT_S) == 0
    assert delete_before(admin, topic, 7).low_watermark == 7
    consumer = make_consumer(auto_offset_reset="earliest")
    consumer.assign(at(topic, 7))
    assert [message.offset() for message in receive(consumer, 3)] == [7, 8, 9]


def test_all_records_are_deleted_with_the_high_watermark(admin, topic, make_producer, make_consumer):
    producer = make_producer()
    send(producer, topic, [b"x"] * 5)
    assert delete_before(admin, topic, HIGH_WATERMARK).low_watermark == 5
    assert bounds(make_consumer, topic) == (5, 5)
    assert send(producer, topic, [b"y"]).offsets == [5], "offsets go on"


def test_a_start_never_moves_back(admin, topic, make_producer):
    send(make_producer(), topic, [b"x"] * 5)
    assert delete_before(admin, topic, 3).low_watermark == 3
    assert delete_before(admin, topic, 1).low_watermark == 3


def test_a_reader_before_the_start_is_out_of_range(admin, topic, make_producer, make_consumer):
    send(make_producer(), topic, [b"x"] * 5)
    delete_before(admin, topic, 3)
    consumer = make_consumer()
    consumer.assign(at(topic, 1))
    with pytest.raises(KafkaException) as failure:
        receive(consumer, 1)
    assert failure.value.args[0].code() in (
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError._AUTO_OFFSET_RESET,
    )


def test_a_reader_at_the_end_goes_on_through_a_deletion(
    admin, topic, make_producer, make_consumer
):
    producer = make_producer()
    send(producer, topic, [b"old"] * 5)
    consumer = make_consumer()
    consumer.assign(at(topic, 0))
    receive(consumer, 5)
    delete_before(admin, topic, HIGH_WATERMARK)
    send(producer, topic, [b"new"])
    (message,) = receive(consumer, 1)
    assert (message.offset(), message.value()) == (5, b"new")


def test_a_look_up_by_time_finds_nothing_that_was_deleted(admin, topic, make_producer):
    producer = make_producer()
    first_ms = int(time.time() * 1000) - 1000
    for number in range(5):
        send(producer, topic, [b"x"], timestamp=first_ms + number)
    delete_before(admin, topic, 3)
    wanted = TopicPartition(topic, 0)
    (found,) = admin.list_offsets({wanted: OffsetSpec.for_timestamp(first_ms + 1)}).values()
    assert found.result(LIMIT_S).offset == 3
    (found,) = admin.list_offsets({wanted: OffsetSpec.earliest()}).values()
    assert found.result(LIMIT_S).offset == 3


@pytest.mark.parametrize("offset", [6, -2])
def test_an_offset_that_is_not_there_is_out_of_range(admin, topic, make_producer, offset):
    send(make_producer(), topic, [b"x"] * 5)
    if offset == -2:
        # librdkafka takes only -1 and offsets.
        with pytest.raises((KafkaException, ValueError)):
            delete_before(admin, topic, offset)
        return
    refused = error_of(lambda: delete_before(admin, topic, offset))
    assert refused == KafkaError.OFFSET_OUT_OF_RANGE


def test_an_unknown_partition_is_refused(admin, topic):
    refused = error_of(lambda: delete_before(admin, topic, 0, partition=7))
    # librdkafka knows by itself that there is none.
    assert refused in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._NOENT)


def test_a_compacted_topic_is_not_deleted_from(admin, make_topic, make_producer):
    topic = make_topic(cleanup_policy="compact")
    send(make_producer(), topic, [b"x"] * 5, key=b"key")
    assert error_of(lambda: delete_before(admin, topic, 3)) == KafkaError.POLICY_VIOLATION
    both = make_topic(cleanup_policy="compact,delete")
    send(make_producer(), both, [b"x"] * 5, key=b"key")
    assert delete_before(admin, both, 3).low_watermark == 3


def test_kafka_python_deletes_records(bootstrap, topic, make_producer):
    send(make_producer(), topic, [b"x"] * 5)
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    partition = KafkaPythonPartition(topic, 0)
    deleted = admin.delete_records({partition: 2})
    assert deleted[partition]["low_watermark"] == 2
    admin.close()
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    assert consumer.beginning_offsets([partition]) == {partition: 2}
    assert consumer.end_offsets([partition]) == {partition: 5}
    consumer.close()


def test_old_records_go_and_new_ones_stay(make_topic, make_producer, make_consumer):
    topic = make_topic(retention_ms="3000", segment_ms="1000")
    producer = make_producer()
    send(producer, topic, [b"old"] * 20)
    time.sleep(4)
    send(producer, topic, [b"new"])
    start, end = until_start_is(make_consumer, topic, lambda start: start >= 20)
    assert (start, end) in ((20, 21), (21, 21))
    # The end of the log is deleted like the rest, and offsets go on.
    assert until_start_is(make_consumer, topic, lambda start: start == 21) == (21, 21)
    assert send(producer, topic, [b"x"]).offsets == [21]


def test_records_go_when_there_are_too_many(make_topic, make_producer, make_consumer):
    # Apache Kafka takes no smaller segments.
    topic = make_topic(retention_bytes="3000000", segment_bytes="1048576")
    value = bytes(10_000)
    send(make_producer(compression_type="none"), topic, [value] * 1000)
    start, end = until_start_is(make_consumer, topic, lambda start: start >= 500)
    assert end == 1000
    kept = (end - start) * len(value)
    assert kept >= 2_900_000, f"{kept} bytes are left"
    consumer = make_consumer(auto_offset_reset="earliest")
    consumer.assign(at(topic, 0))
    # More may have gone meanwhile.
    first = receive(consumer, 1)[0].offset()
    assert start <= first <= bounds(make_consumer, topic)[0]


def test_a_topic_without_a_limit_keeps_its_records(make_topic, make_producer, make_consumer):
    kept = make_topic(retention_ms="-1", segment_ms="1000")
    gone = make_topic(retention_ms="1000", segment_ms="1000")
    producer = make_producer()
    for topic in (kept, gone):
        send(producer, topic, [b"x"] * 5)
    until_start_is(make_consumer, gone, lambda start: start == 5)
    assert bounds(make_consumer, kept) == (0, 5)
