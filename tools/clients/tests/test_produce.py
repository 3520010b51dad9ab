"""Producing: acknowledgements, idempotence, limits and refusals, as clients see them."""

from __future__ import annotations

import struct

import pytest
from confluent_kafka import KafkaError
from driving import LIMIT_S, at, receive, send
from kafka import KafkaProducer
from kafka.errors import MessageSizeTooLargeError
from wire import FETCH, Connection, fetch_body, request

KIB = 1024


@pytest.mark.parametrize("acks", ["all", "1"])
def test_offsets_are_dense_and_start_at_zero(make_producer, topic, acks):
    deliveries = send(make_producer(acks=acks), topic, [b"%d" % n for n in range(5000)])
    assert deliveries.offsets == list(range(5000))


def test_acks_0_records_arrive_in_order(make_producer, make_consumer, topic):
    send(make_producer(acks="0"), topic, [b"%d" % n for n in range(1000)])
    consumer = make_consumer()
    consumer.assign(at(topic, 0))
    values = [message.value() for message in receive(consumer, 1000)]
    assert values == [b"%d" % n for n in range(1000)]


def test_kafka_python_gets_offsets_for_each_acks(bootstrap, topic):
    next_offset = 0
    for acks in (0, 1, "all"):
        producer = KafkaProducer(bootstrap_servers=bootstrap, acks=acks, enable_idempotence=False)
        future = producer.send(topic, b"record", b"key", partition=0)
        metadata = future.get(LIMIT_S)
        # Nobody tells the producer an offset when it asks for no acknowledgement.
        assert acks == 0 or metadata.offset == next_offset
        next_offset += 1
        producer.close()


def test_an_idempotent_producer_writes_each_record_once(make_producer, make_consumer, topic):
    producer = make_producer(enable_idempotence=True, linger_ms=1, batch_num_messages=50)
    deliveries = send(producer, topic, [b"%d" % n for n in range(20_000)])
    assert deliveries.offsets == list(range(20_000))
    consumer = make_consumer()
    consumer.assign(at(topic, 0))
    values = [int(message.value()) for message in receive(consumer, 20_000)]
    assert values == list(range(20_000))


def test_producers_do_not_disturb_each_other(make_producer, make_consumer, topic):
    producers = [make_producer(enable_idempotence=True) for _ in range(5)]
    for number, producer in enumerate(producers):
        for record in range(200):
            producer.produce(topic, b"%d:%d" % (number, record), partition=0)
    for producer in producers:
        assert producer.flush(LIMIT_S) == 0
    consumer = make_consumer()
    consumer.assign(at(topic, 0))
    seen: dict[int, list[int]] = {}
    for message in receive(consumer, 1000):
        number, record = message.value().split(b":")
        seen.setdefault(int(number), []).append(int(record))
    assert seen == {number: list(range(200)) for number in range(5)}


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_a_large_record_near_the_limit_is_kept(make_producer, make_consumer, topic, codec):
    value = bytes(range(256)) * (4 * KIB - 16)
    producer = make_producer(message_max_bytes=4_000_000, compression_type=codec)
    assert not send(producer, topic, [value]).errors
    consumer = make_consumer(fetch_message_max_bytes=1000)
    consumer.assign(at(topic, 0))
    assert receive(consumer, 1)[0].value() == value


def test_a_batch_over_the_limit_is_refused_and_the_rest_goes_on(make_producer, topic):
    producer = make_producer(message_max_bytes=8_000_000, linger_ms=0)
    deliveries = send(producer, topic, [b"x" * 1_200_000])
    assert [error.code() for error in deliveries.errors] == [KafkaError.MSG_SIZE_TOO_LARGE]
    assert send(producer, topic, [b"small"]).offsets == [0]


def test_kafka_python_is_told_that_a_batch_is_too_large(bootstrap, topic):
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, max_request_size=8_000_000, enable_idempotence=False
    )
    with pytest.raises(MessageSizeTooLargeError):
        producer.send(topic, b"x" * 1_200_000, partition=0).get(LIMIT_S)
    producer.close()


def test_a_topics_own_limit_counts(make_producer, make_topic):
    small, large = make_topic(max_message_bytes="1000"), make_topic(max_message_bytes="3000000")
    producer = make_producer(message_max_bytes=8_000_000)
    refused = send(producer, small, [b"x" * 2000])
    assert [error.code() for error in refused.errors] == [KafkaError.MSG_SIZE_TOO_LARGE]
    assert send(producer, large, [b"x" * 2_500_000]).offsets == [0]


def test_a_partition_that_is_not_there_is_refused(make_producer, topic):
    deliveries = send(make_producer(), topic, [b"record"], partition=7)
    assert [error.code() for error in deliveries.errors] == [KafkaError._UNKNOWN_PARTITION]


def test_keyless_records_are_refused_on_a_compacted_topic(make_producer, make_topic):
    compacted = make_topic(cleanup_policy="compact")
    producer = make_producer()
    refused = send(producer, compacted, [b"keyless"])
    assert [error.code() for error in refused.errors] == [KafkaError.INVALID_RECORD]
    assert send(producer, compacted, [b"keyed"], key=b"key").offsets == [0]


def test_every_partition_of_many_can_be_written_and_read(make_producer, make_consumer, make_topic):
    count = 100
    name = make_topic(partitions=count)
    producer = make_producer(enable_idempotence=True)
    for partition in range(count):
        for record in range(10):
            producer.produce(name, b"%d:%d" % (partition, record), partition=partition)
    assert producer.flush(LIMIT_S) == 0
    consumer = make_consumer()
    consumer.assign([at(name, 0, partition)[0] for partition in range(count)])
    seen: dict[int, list[bytes]] = {}
    for message in receive(consumer, count * 10):
        seen.setdefault(message.partition(), []).append(message.value())
    assert seen == {p: [b"%d:%d" % (p, n) for n in range(10)] for p in range(count)}


def test_a_record_comes_back_as_it_was_sent(make_producer, make_consumer, make_topic):
    topic = make_topic(retention_ms="-1")
    headers = [("name", b"one"), ("name", b"two"), ("empty", b""), ("null", None)]
    producer = make_producer()
    producer.produce(topic, b"value", b"key", partition=0, timestamp=1234567890123, headers=headers)
    producer.produce(topic, None, b"tombstone", partition=0)
    producer.produce(topic, b"", None, partition=0)
    assert producer.flush(LIMIT_S) == 0
    consumer = make_consumer()
    consumer.assign(at(topic, 0))
    full, tombstone, empty = receive(consumer, 3)
    assert (full.key(), full.value(), full.headers()) == (b"key", b"value", headers)
    assert full.timestamp() == (1, 1234567890123)
    assert (tombstone.key(), tombstone.value()) == (b"tombstone", None)
    assert (empty.key(), empty.value()) == (None, b"")


def test_the_broker_stamps_records_where_the_topic_says_so(make_producer, make_consumer, make_topic):
    name = make_topic(message_timestamp_type="LogAppendTime")
    send(make_producer(), name, [b"record"], timestamp=1000)
    consumer = make_consumer()
    consumer.assign(at(name, 0))
    kind, timestamp = receive(consumer, 1)[0].timestamp()
    assert kind == 2
    assert timestamp > 1_600_000_000_000


@pytest.mark.parametrize("sent", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("kept", ["uncompressed", "gzip", "snappy", "lz4", "zstd"])
def test_a_topic_is_kept_in_its_own_codec(bootstrap, make_producer, make_consumer, make_topic, sent, kept):
    name = make_topic(compression_type=kept)
    values = [b"a value that says the same again and again: %d" % number for number in range(200)]
    producer = make_producer(compression_type=sent, linger_ms=200)
    assert not send(producer, name, values).errors
    consumer = make_consumer()
    consumer.assign(at(name, 0))
    assert [message.value() for message in receive(consumer, len(values))] == values
    with Connection(bootstrap) as connection:
        connection.send(request(FETCH, 4, 1, fetch_body(name, 0, 100)))
        _, answer = connection.receive()
    # Throttle time, one topic with its name, one partition with its number.
    partition = 4 + 4 + 2 + len(name) + 4 + 4
    (error,) = struct.unpack_from(">h", answer, partition)
    # Also for zstd, though that version of Fetch is older than the codec: so does Kafka 4.
    assert error == 0
    records = partition + 2 + 8 + 8 + 4 + 4
    (attributes,) = struct.unpack_from(">h", answer, records + 21)
    assert attributes & 7 == ["uncompressed", "gzip", "snappy", "lz4", "zstd"].index(kept)
