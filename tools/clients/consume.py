"""Reads whole topics with one of the Python clients, partitions assigned by hand.

Each topic is written to a file of `partition<TAB>offset<TAB>key<TAB>value` lines, in the order in
which the client handed the records out. The end of a partition is its end when reading starts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import BinaryIO

STALL_LIMIT_S = 60


def write_record(out: BinaryIO, partition: int, offset: int, key: bytes, value: bytes) -> None:
    out.write(b"%d\t%d\t%s\t%s\n" % (partition, offset, key or b"", value or b""))


def consume_confluent(bootstrap: str, topics: list[tuple[str, Path]]) -> None:
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            # The library wants a name, but nothing here joins a group or commits.
            "group.id": "unused",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "check.crcs": True,
            # A topic is left when its end is reached, which waits for the last fetch.
            "fetch.wait.max.ms": 50,
        }
    )
    for topic, path in topics:
        partitions = sorted(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
        end = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), 30)[1] for p in partitions}
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
        open_partitions = {p for p in partitions if end[p] > 0}
        heard = time.monotonic()
        with path.open("wb") as out:
            while open_partitions:
                messages = consumer.consume(10_000, timeout=0.05)
                for message in messages:
                    if message.error() is not None:
                        raise SystemExit(f"{topic}: {message.error()}")
                    partition, offset = message.partition(), message.offset()
                    write_record(out, partition, offset, message.key(), message.value())
                    if offset + 1 >= end[partition]:
                        open_partitions.discard(partition)
                if messages:
                    heard = time.monotonic()
                elif time.monotonic() - heard > STALL_LIMIT_S:
                    raise SystemExit(f"{topic}: nothing came from {open_partitions}, ends {end}")
        consumer.unassign()
    consumer.close()


def consume_kafka_python(bootstrap: str, topics: list[tuple[str, Path]]) -> None:
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        check_crcs=True,
    )
    for topic, path in topics:
        partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
        end = consumer.end_offsets(partitions)
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        open_partitions = {p for p in partitions if end[p] > 0}
        heard = time.monotonic()
        with path.open("wb") as out:
            while open_partitions:
                batches = consumer.poll(timeout_ms=200, max_records=10_000)
                for partition, records in batches.items():
                    for record in records:
                        write_record(
                            out, record.partition, record.offset, record.key, record.value
                        )
                    if records and records[-1].offset + 1 >= end[partition]:
                        open_partitions.discard(partition)
                if batches:
                    heard = time.monotonic()
                elif time.monotonic() - heard > STALL_LIMIT_S:
                    raise SystemExit(f"{topic}: nothing came from {open_partitions}, ends {end}")
    consumer.close()


CONSUMERS = {"confluent": consume_confluent, "kafka-python": consume_kafka_python}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", choices=sorted(CONSUMERS), required=True)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument(
        "--read", metavar="TOPIC=FILE", action="append", required=True, help="may be given often"
    )
    args = parser.parse_args()
    topics = [read.partition("=") for read in args.read]
    CONSUMERS[args.client](args.bootstrap, [(topic, Path(path)) for topic, _, path in topics])


if __name__ == "__main__":
    main()
