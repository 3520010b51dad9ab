"""A member of a group with aiokafka that says what it does as Kafka's own verifiable consumer does.

Every event is a JSON object on a line of its own: `partitions_assigned`, `partitions_revoked`,
`records_consumed`, `offsets_committed`, and `shutdown_complete` when it has left its group after
SIGTERM or after as many records as it was asked for. It commits after every batch of records.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError

# A member hears of a rebalance with its next heartbeat: tests wait for that.
HEARTBEAT_INTERVAL_MS = 500
POLL_LIMIT_MS = 100


def say(name: str, **fields: object) -> None:
    print(json.dumps({"name": name, **fields}), flush=True)


def named(partitions: Iterable[TopicPartition]) -> list[dict[str, object]]:
    return [{"topic": it.topic, "partition": it.partition} for it in partitions]


class Rebalances(ConsumerRebalanceListener):
    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        say("partitions_revoked", partitions=named(revoked))

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        say("partitions_assigned", partitions=named(assigned))


async def consume(args: argparse.Namespace) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=args.bootstrap_server,
        group_id=args.group_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        heartbeat_interval_ms=HEARTBEAT_INTERVAL_MS,
    )
    consumer.subscribe([args.topic], listener=Rebalances())
    await consumer.start()
    left = args.max_messages
    try:
        while left > 0 and not stopping.is_set():
            batches = await consumer.getmany(timeout_ms=POLL_LIMIT_MS, max_records=left)
            if batches:
                left -= sum(len(records) for records in batches.values())
                await take(consumer, batches)
    finally:
        await consumer.stop()
    say("shutdown_complete")


async def take(consumer: AIOKafkaConsumer, batches: dict[TopicPartition, list]) -> None:
    read = [
        {
            "topic": partition.topic,
            "partition": partition.partition,
            "count": len(records),
            "minOffset": records[0].offset,
            "maxOffset": records[-1].offset,
        }
        for partition, records in batches.items()
    ]
    say("records_consumed", count=sum(it["count"] for it in read), partitions=read)
    offsets = {partition: records[-1].offset + 1 for partition, records in batches.items()}
    try:
        await consumer.commit(offsets)
    except CommitFailedError as failure:
        # The group has gone on to another generation meanwhile, which hands the records out again.
        say("offsets_committed", success=False, error=str(failure))
        return
    committed = [
        {"topic": it.topic, "partition": it.partition, "offset": offset}
        for it, offset in offsets.items()
    ]
    say("offsets_committed", success=True, offsets=committed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-server", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group-id", required=True)
    parser.add_argument("--max-messages", type=int, default=2**31)
    asyncio.run(consume(parser.parse_args()))


if __name__ == "__main__":
    main()
