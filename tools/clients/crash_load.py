"""Keeps an idempotent producer busy while the broker is killed and started again under it.

Records go to a topic at a steady rate, each with a number of its own per partition. On stdout the
script says `acked COUNT` all the while. The line `stop` on stdin ends the load: what is in flight
is flushed, the topic is read from its beginning, and every acknowledged record must be there once,
at the offset that its acknowledgement named, in the order in which it was produced. A record that
was produced and not acknowledged may be there or not, but never twice.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

TICK_S = 0.01
REPORT_INTERVAL_S = 0.02
FLUSH_LIMIT_S = 90
READ_LIMIT_S = 120
PADDING = b"x" * 2000


class Load:
    """The producer, and the offset of every record that it was told about."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        self.topic = topic
        self.partitions = partitions
        self.next_number = [0] * partitions
        self.acked: list[dict[int, int]] = [{} for _ in range(partitions)]
        self.acked_count = 0
        self.failures: list[str] = []
        self.producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 2,
                # The load outlives every restart of the broker: nothing may time out.
                "message.timeout.ms": 600_000,
                "socket.timeout.ms": 10_000,
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 100,
                "retry.backoff.ms": 20,
                "retry.backoff.max.ms": 200,
                "error_cb": self.on_error,
            }
        )

    def on_error(self, error: object) -> None:
        if error.fatal():
            self.failures.append(f"fatal: {error}")
        print(f"client: {error}", file=sys.stderr)

    def on_delivery(self, error: object, message: Message) -> None:
        partition = message.partition()
        number = int(message.key())
        if error is not None:
            self.failures.append(f"partition {partition}, record {number}: {error}")
            return
        self.acked[partition][number] = message.offset()
        self.acked_count += 1

    def produce(self, count: int) -> None:
        for _ in range(count):
            partition = random.randrange(self.partitions)
            number = self.next_number[partition]
            value = b"%d:%d:%s" % (partition, number, PADDING[: random.randrange(len(PADDING))])
            try:
                self.producer.produce(
                    self.topic,
                    value,
                    str(number).encode(),
                    partition=partition,
                    on_delivery=self.on_delivery,
                )
            except BufferError:
                # The broker is away: what it did not take yet fills the queue.
                return
            self.next_number[partition] = number + 1


def create_topic(bootstrap: str, topic: str, partitions: int, config: dict[str, str]) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    created = admin.create_topics([NewTopic(topic, partitions, 1, config=config)])
    created[topic].result(30)


def run_load(load: Load, rate: int) -> None:
    stopped = threading.Event()

    def listen() -> None:
        # Also the end of stdin: nobody is there any more to stop the load.
        sys.stdin.readline()
        stopped.set()

    threading.Thread(target=listen, daemon=True).start()
    reported = 0.0
    owed = 0.0
    last = time.monotonic()
    while not stopped.is_set() and not load.failures:
        now = time.monotonic()
        owed = min(owed + (now - last) * rate, rate * 0.1)
        last = now
        load.produce(int(owed))
        owed -= int(owed)
        load.producer.poll(TICK_S)
        if now - reported >= REPORT_INTERVAL_S:
            reported = now
            print(f"acked {load.acked_count}", flush=True)


def read_all(bootstrap: str, topic: str, partitions: int) -> list[list[tuple[int, int]]]:
    """The (offset, number) of every record, per partition, in the order of reading."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "unused",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "check.crcs": True,
        }
    )
    everything = [TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(partitions)]
    ends = [consumer.get_watermark_offsets(partition, 30)[1] for partition in everything]
    consumer.assign(everything)
    records: list[list[tuple[int, int]]] = [[] for _ in range(partitions)]
    positions = [0] * partitions
    deadline = time.monotonic() + READ_LIMIT_S
    while any(position < end for position, end in zip(positions, ends)):
        if time.monotonic() > deadline:
            raise SystemExit(f"reading stalled at {positions} of {ends}")
        for message in consumer.consume(10_000, timeout=0.2):
            if message.error() is not None:
                raise SystemExit(f"reading: {message.error()}")
            partition = message.partition()
            named, number, _ = message.value().split(b":", 2)
            if int(named) != partition or number != message.key():
                raise SystemExit(f"{topic}-{partition}@{message.offset()} holds another record")
            records[partition].append((message.offset(), int(number)))
            positions[partition] = message.offset() + 1
    consumer.close()
    return records


def check(load: Load, records: list[list[tuple[int, int]]]) -> list[str]:
    """Every way in which what was read differs from what was acknowledged."""
    wrong: list[str] = []
    for partition, read in enumerate(records):
        acked = load.acked[partition]
        offset_of: dict[int, int] = {}
        previous = (-1, -1)
        for offset, number in read:
            if number in offset_of:
                wrong.append(f"{partition}: record {number} at {offset_of[number]} and {offset}")
            elif (offset, number) < previous or number < previous[1]:
                wrong.append(f"{partition}: record {number} at {offset} comes after {previous}")
            offset_of[number] = offset
            previous = (offset, number)
        for number, offset in acked.items():
            if number not in offset_of:
                wrong.append(f"{partition}: acknowledged record {number} ({offset}) is lost")
            elif offset_of[number] != offset:
                wrong.append(
                    f"{partition}: record {number} was acknowledged at {offset} "
                    f"and is at {offset_of[number]}"
                )
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", type=int, default=6)
    parser.add_argument("--rate", type=int, default=2000, help="records a second")
    parser.add_argument("--config", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    config = dict(pair.split("=", 1) for pair in args.config)

    create_topic(args.bootstrap, args.topic, args.partitions, config)
    load = Load(args.bootstrap, args.topic, args.partitions)
    run_load(load, args.rate)
    unsent = load.producer.flush(FLUSH_LIMIT_S)
    print(f"acked {load.acked_count}", flush=True)
    if load.failures or unsent:
        raise SystemExit(f"{unsent} records never answered; failed: {load.failures[:5]}")
    records = read_all(args.bootstrap, args.topic, args.partitions)
    wrong = check(load, records)
    if wrong:
        raise SystemExit("\n".join([f"{len(wrong)} records are wrong", *wrong[:20]]))
    print(f"verified {load.acked_count} {sum(map(len, records))}", flush=True)


if __name__ == "__main__":
    main()
