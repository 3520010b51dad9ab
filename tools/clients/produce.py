"""Produces a file of `key<TAB>value` lines to one or more topics with one of the Python clients.

Every record must be acknowledged by all replicas: the first error ends the script with status 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

DELIVERY_TIMEOUT_S = 120


def records(path: Path) -> Iterator[tuple[bytes, bytes]]:
    with path.open("rb") as lines:
        for line in lines:
            key, _, value = line.rstrip(b"\n").partition(b"\t")
            yield key, value


def produce_confluent(bootstrap: str, topic: str, codec: str, path: Path) -> int:
    from confluent_kafka import Producer

    failures: list[str] = []
    delivered = 0

    def on_delivery(error: object, _message: object) -> None:
        nonlocal delivered
        if error is None:
            delivered += 1
        else:
            failures.append(str(error))

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "compression.type": codec,
            "linger.ms": 5,
            "delivery.timeout.ms": DELIVERY_TIMEOUT_S * 1000,
        }
    )
    for key, value in records(path):
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=on_delivery)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    left = producer.flush(DELIVERY_TIMEOUT_S)
    if failures or left:
        raise SystemExit(f"{topic}: {len(failures)} records failed, {left} unsent: {failures[:3]}")
    return delivered


def produce_kafka_python(bootstrap: str, topic: str, codec: str, path: Path) -> int:
    from kafka import KafkaProducer

    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        compression_type=None if codec == "none" else codec,
        linger_ms=5,
        delivery_timeout_ms=DELIVERY_TIMEOUT_S * 1000,
    )
    sent = [producer.send(topic, value, key) for key, value in records(path)]
    producer.flush(timeout=DELIVERY_TIMEOUT_S)
    for future in sent:
        future.get(timeout=DELIVERY_TIMEOUT_S)
    producer.close()
    return len(sent)


PRODUCERS = {"confluent": produce_confluent, "kafka-python": produce_kafka_python}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", choices=sorted(PRODUCERS), required=True)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument(
        "--to", metavar="TOPIC=CODEC", action="append", required=True, help="may be given often"
    )
    args = parser.parse_args()
    for target in args.to:
        topic, _, codec = target.partition("=")
        count = PRODUCERS[args.client](args.bootstrap, topic, codec, args.file)
        print(f"{topic}: {count} records acknowledged")


if __name__ == "__main__":
    main()
