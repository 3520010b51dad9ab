"""What a broker owes to any bytes that follow the protocol's framing: an answer, in order."""

from __future__ import annotations

import struct
import time

import pytest
import wire
from driving import LIMIT_S
from kafka.record.default_records import DefaultRecordBatchBuilder
from wire import Connection, request

UNKNOWN_TOPIC_OR_PARTITION = 3


def batch(count: int) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for offset in range(count):
        builder.append(offset, int(time.time() * 1000), None, b"record", [])
    return bytes(builder.build())


def test_the_oldest_produce_version_on_offer_is_0(bootstrap):
    # librdkafka takes a broker that does not offer it for too old (KAFKA-18659).
    with Connection(bootstrap) as connection:
        ranges = wire.api_ranges(connection)
    assert ranges[wire.PRODUCE][0] == 0
    assert ranges[wire.FETCH][0] <= 4


def test_an_unknown_version_of_api_versions_is_answered_in_version_0(bootstrap):
    with Connection(bootstrap) as connection:
        no_tagged_fields = b"\0"
        software = b"\5wire\2" + b"1" + b"\0"
        connection.send(request(wire.API_VERSIONS, 99, 5, no_tagged_fields + software))
        correlation, body = connection.receive()
        assert correlation == 5
        error, count = struct.unpack(">hi", body[:6])
        assert error == wire.UNSUPPORTED_VERSION
        rows = {api: (low, high) for api, low, high in struct.iter_unpack(">hhh", body[6:])}
        assert len(rows) == count
        assert wire.API_VERSIONS in rows
        # The connection goes on.
        assert wire.api_ranges(connection)


def test_answers_leave_in_the_order_of_requests(bootstrap, topic):
    with Connection(bootstrap) as connection:
        frames = []
        for correlation in range(40):
            if correlation % 10 == 3:
                # Nothing is there to fetch, so that this one waits while the others are ready.
                frames.append(
                    request(wire.FETCH, 4, correlation, wire.fetch_body(topic, 0, 300))
                )
            elif correlation % 2:
                frames.append(request(wire.API_VERSIONS, 0, correlation))
            else:
                topics = struct.pack(">i", 1) + wire.string(topic)
                frames.append(request(wire.METADATA, 1, correlation, topics))
        connection.send(b"".join(frames))
        assert [connection.receive()[0] for _ in range(40)] == list(range(40))


def test_pipelined_produces_keep_their_order(bootstrap, make_topic):
    name = make_topic()
    with Connection(bootstrap) as connection:
        wait_until_writable(connection, name)
        body = wire.produce_body(name, batch(3), -1)
        connection.send(
            b"".join(request(wire.PRODUCE, 3, correlation, body) for correlation in range(50))
        )
        offsets = []
        for correlation in range(50):
            answered, answer = connection.receive()
            assert answered == correlation
            error, offset = produce_answer(answer, name)
            assert error == 0
            offsets.append(offset)
        assert offsets == [offsets[0] + 3 * n for n in range(50)]


def test_acks_0_has_no_answer(bootstrap, make_topic):
    name = make_topic()
    with Connection(bootstrap) as connection:
        wait_until_writable(connection, name)
        body = wire.produce_body(name, batch(1), 0)
        frames = [request(wire.PRODUCE, 3, 7, body), request(wire.API_VERSIONS, 0, 8)]
        connection.send(b"".join(frames))
        assert connection.receive()[0] == 8


def test_a_damaged_batch_is_refused(bootstrap, make_topic):
    name = make_topic()
    with Connection(bootstrap) as connection:
        wait_until_writable(connection, name)
        damaged = bytearray(batch(1))
        damaged[-3] ^= 1
        connection.send(request(wire.PRODUCE, 3, 9, wire.produce_body(name, bytes(damaged), -1)))
        correlation, answer = connection.receive()
        assert correlation == 9
        error, _ = produce_answer(answer, name)
        assert error in (2, 87), "CORRUPT_MESSAGE or INVALID_RECORD"


def test_fetching_an_unknown_topic_is_answered_with_the_error(bootstrap, name):
    with Connection(bootstrap) as connection:
        connection.send(request(wire.FETCH, 4, 1, wire.fetch_body(name, 0, 5000)))
        assert fetch_error(connection.receive()[1], name) == UNKNOWN_TOPIC_OR_PARTITION


def test_a_waiting_fetch_is_answered_when_its_topic_is_deleted(bootstrap, admin, make_topic):
    name = make_topic()
    with Connection(bootstrap) as connection:
        wait_until_writable(connection, name)
        connection.send(request(wire.FETCH, 4, 1, wire.fetch_body(name, 1, 3000)))
        admin.delete_topics([name])[name].result(LIMIT_S)
        assert connection.receive()[0] == 1
        # Apache Kafka deletes a moment later than it says.
        error = 0
        deadline = time.monotonic() + LIMIT_S
        while error == 0 and time.monotonic() < deadline:
            connection.send(request(wire.FETCH, 4, 2, wire.fetch_body(name, 1, 100)))
            error = fetch_error(connection.receive()[1], name)
        assert error == UNKNOWN_TOPIC_OR_PARTITION


def test_a_frame_that_comes_byte_by_byte_is_answered(bootstrap):
    with Connection(bootstrap) as connection:
        for byte in request(wire.API_VERSIONS, 0, 3):
            connection.send(bytes([byte]))
        assert connection.receive()[0] == 3


@pytest.mark.parametrize(
    ("api", "version", "body"),
    [
        (wire.FIND_COORDINATOR, 0, wire.string("group")),
        (
            wire.JOIN_GROUP,
            0,
            wire.string("group")
            + struct.pack(">i", 6000)
            + wire.string("")
            + wire.string("consumer")
            + struct.pack(">i", 1)
            + wire.string("range")
            + struct.pack(">i", 0),
        ),
        (wire.HEARTBEAT, 0, wire.string("group") + struct.pack(">i", 1) + wire.string("member")),
        (wire.OFFSET_FETCH, 1, wire.string("group") + struct.pack(">i", 0)),
    ],
    ids=["find-coordinator", "join-group", "heartbeat", "offset-fetch"],
)
def test_group_requests_are_answered(bootstrap, api, version, body):
    with Connection(bootstrap) as connection:
        connection.send(request(api, version, 11, body))
        assert connection.receive()[0] == 11
        assert wire.api_ranges(connection)


def test_an_unknown_api_does_not_hang_or_harm(bootstrap):
    with Connection(bootstrap) as connection:
        connection.send(request(999, 0, 12))
        try:
            assert connection.receive()[0] == 12
        except ConnectionError:
            pass  # Apache Kafka closes the connection, and there is no layout to answer in.
    with Connection(bootstrap) as connection:
        assert wire.api_ranges(connection)


@pytest.mark.parametrize("length", [-1, 0x7FFFFFFF], ids=["negative", "huge"])
def test_an_impossible_frame_length_ends_the_connection(bootstrap, length):
    with Connection(bootstrap) as connection:
        connection.send(struct.pack(">i", length) + b"\0" * 64)
        with pytest.raises(ConnectionError):
            connection.receive()
    with Connection(bootstrap) as connection:
        assert wire.api_ranges(connection)


def test_many_connections_at_once_are_served(bootstrap):
    connections = [Connection(bootstrap) for _ in range(100)]
    for number, connection in enumerate(connections):
        connection.send(request(wire.API_VERSIONS, 0, number))
    for number, connection in enumerate(connections):
        assert connection.receive()[0] == number
        connection.socket.close()


def wait_until_writable(connection: Connection, topic: str) -> None:
    """Apache Kafka says that a topic is created a moment before its partitions have a leader."""
    deadline = time.monotonic() + 10
    while True:
        connection.send(request(wire.PRODUCE, 3, 1000, wire.produce_body(topic, batch(1), -1)))
        error, _ = produce_answer(connection.receive()[1], topic)
        if error == 0:
            return
        assert error in (3, 6), f"error {error}"
        assert time.monotonic() < deadline


def produce_answer(answer: bytes, topic: str) -> tuple[int, int]:
    """Error and base offset of a Produce version 3 answer for one partition."""
    start = 4 + 2 + len(topic) + 4
    partition, error, offset = struct.unpack(">ihq", answer[start : start + 14])
    assert partition == 0
    return error, offset


def fetch_error(answer: bytes, topic: str) -> int:
    """The error of a Fetch version 4 answer for one partition."""
    start = 4 + 4 + 2 + len(topic) + 4
    partition, error = struct.unpack(">ih", answer[start : start + 6])
    assert partition == 0
    return error
