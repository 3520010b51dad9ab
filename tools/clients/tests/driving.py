"""Steps that many tests take with confluent-kafka."""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

LIMIT_S = 30
# Of a topic that groups read.
PARTITIONS = 4
RECORDS = 400


class Deliveries:
    """What became of the records of one producer, in the order of the answers."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.errors: list[KafkaError] = []

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.offsets.append(message.offset())
        else:
            self.errors.append(error)


def send(
    producer: Producer, topic: str, values: Iterable[bytes], *, partition: int = 0, **options: object
) -> Deliveries:
    """Produces values to one partition and waits for the answers."""
    deliveries = Deliveries()
    for value in values:
        producer.produce(topic, value, partition=partition, on_delivery=deliveries, **options)
        producer.poll(0)
    assert producer.flush(LIMIT_S) == 0, "records were never answered"
    return deliveries


def receive(consumer: Consumer, count: int, limit_s: float = LIMIT_S) -> list[Message]:
    """The next so many records; a consumer's error is raised."""
    messages: list[Message] = []
    deadline = time.monotonic() + limit_s
    while len(messages) < count:
        assert time.monotonic() < deadline, f"only {len(messages)} of {count} records came"
        message = consumer.poll(0.1)
        if message is None:
            continue
        if message.error() is not None:
            raise KafkaException(message.error())
        messages.append(message)
    return messages


def at(topic: str, offset: int, partition: int = 0) -> list[TopicPartition]:
    return [TopicPartition(topic, partition, offset)]


def error_of(call) -> int:
    """The code of the KafkaException that the call must raise."""
    try:
        call()
    except KafkaException as failure:
        return failure.args[0].code()
    raise AssertionError("it did not fail")
