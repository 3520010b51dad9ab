"""One member of a consumer group, as a process that can be paused and killed.

It appends what happens to it to a file, a line for each event with the machine's monotonic clock in
microseconds, in the order in which it happens:

    assigned PARTITION...      it owns these from now on
    revoked PARTITION...       it does not from now on, and has committed
    lost PARTITION...          it learned that it does not own them any more
    read PARTITION FIRST NEXT  it processed the records from FIRST up to NEXT, exclusive
    sent PARTITION NEXT        it asks for an offset to be committed
    committed PARTITION NEXT   it was told that it is committed
    refused PARTITION ERROR    it was told that it is not
    closing                    it is about to leave; what it owns is still revoked
    closed                     it has left

SIGTERM makes it commit and leave, or just stop if it is static. SIGUSR1 makes it print where it is on stderr.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import time
from collections.abc import Iterable

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

POLL_S = 0.1
BATCH = 100
COMMIT_INTERVAL_S = 0.2


class Member:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.leaves = False
        faulthandler.register(signal.SIGUSR1)
        # Before the journal is there: who has none can be told to leave by the signal itself.
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "leaves", True))
        self.journal = os.open(arguments.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.topic = arguments.topic
        self.next: dict[int, int] = {}
        self.uncommitted: set[int] = set()
        config = {
            "bootstrap.servers": arguments.bootstrap,
            "group.id": arguments.group,
            "client.id": arguments.name,
            "group.protocol": arguments.protocol,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "socket.timeout.ms": 10_000,
            "reconnect.backoff.max.ms": 200,
            "max.poll.interval.ms": 30_000,
        }
        if arguments.protocol == "classic":
            config["session.timeout.ms"] = arguments.session_ms
            config["heartbeat.interval.ms"] = 500
            config["partition.assignment.strategy"] = arguments.assignor
        if arguments.static:
            config["group.instance.id"] = arguments.name
        self.consumer = Consumer(config)

    def say(self, *words: object) -> None:
        line = " ".join(str(word) for word in (time.monotonic_ns() // 1000, *words))
        # One write, so that a kill leaves whole lines.
        os.write(self.journal, f"{line}\n".encode())

    def on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.say("assigned", *numbers(partitions))

    def on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.commit()
        self.forget(partitions)
        self.say("revoked", *numbers(partitions))

    def on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.forget(partitions)
        self.say("lost", *numbers(partitions))

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in numbers(partitions):
            self.next.pop(partition, None)
            self.uncommitted.discard(partition)

    def process(self, messages: list[Message]) -> None:
        runs: dict[int, list[int]] = {}
        for message in messages:
            if message.error():
                if message.error().code() != KafkaError._PARTITION_EOF:
                    self.say("error", message.error().name())
                continue
            partition, offset = message.partition(), message.offset()
            run = runs.setdefault(partition, [offset, offset])
            if run[1] != offset:
                self.say("read", partition, *run)
                run[0] = offset
            run[1] = offset + 1
        for partition, run in runs.items():
            self.say("read", partition, *run)
            self.next[partition] = run[1]
            self.uncommitted.add(partition)

    def commit(self) -> None:
        partitions = sorted(self.uncommitted)
        if not partitions:
            return
        self.uncommitted.clear()
        offsets = [TopicPartition(self.topic, number, self.next[number]) for number in partitions]
        for offset in offsets:
            self.say("sent", offset.partition, offset.offset)
        try:
            results = self.consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as exception:
            error = exception.args[0]
            for number in partitions:
                self.say("refused", number, error.name())
            # Whoever owns it reads on from what is committed; this one tries again if it still is its.
            self.uncommitted.update(number for number in partitions if number in self.next)
            return
        for result in results:
            if result.error:
                self.say("refused", result.partition, result.error.name())
                self.uncommitted.update({result.partition} & self.next.keys())
            else:
                self.say("committed", result.partition, result.offset)

    def run(self) -> None:
        self.consumer.subscribe(
            [self.topic], on_assign=self.on_assign, on_revoke=self.on_revoke, on_lost=self.on_lost
        )
        committed_at = time.monotonic()
        while not self.leaves:
            self.process(self.consumer.consume(BATCH, POLL_S))
            if time.monotonic() - committed_at >= COMMIT_INTERVAL_S:
                self.commit()
                committed_at = time.monotonic()
        self.commit()
        self.say("closing")
        self.consumer.close()
        self.say("closed")


def numbers(partitions: Iterable[TopicPartition]) -> list[int]:
    return [partition.partition for partition in partitions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--journal", required=True)
    parser.add_argument("--protocol", choices=["classic", "consumer"], required=True)
    parser.add_argument("--assignor", default="cooperative-sticky")
    parser.add_argument("--session-ms", type=int, default=6000)
    parser.add_argument("--static", action="store_true")
    Member(parser.parse_args()).run()


if __name__ == "__main__":
    main()
