"""Kafka's protocol by hand, for what no client library would send."""

from __future__ import annotations

import socket
import struct

PRODUCE, FETCH, LIST_OFFSETS, METADATA = 0, 1, 2, 3
FIND_COORDINATOR, JOIN_GROUP, HEARTBEAT, OFFSET_FETCH = 10, 11, 12, 9
API_VERSIONS = 18
UNSUPPORTED_VERSION = 35
LIMIT_S = 15.0


def string(text: str | None) -> bytes:
    if text is None:
        return struct.pack(">h", -1)
    encoded = text.encode()
    return struct.pack(">h", len(encoded)) + encoded


def request(api: int, version: int, correlation: int, body: bytes = b"") -> bytes:
    """A request with header version 1, which all non-flexible versions have.

    What a flexible version has beyond that, tagged fields, may begin the body.
    """
    payload = struct.pack(">hhi", api, version, correlation) + string("wire") + body
    return struct.pack(">i", len(payload)) + payload


def fetch_body(topic: str, offset: int, max_wait_ms: int) -> bytes:
    """The body of Fetch version 4 for partition 0."""
    head = struct.pack(">iiiib", -1, max_wait_ms, 1, 1 << 20, 0)
    partition = struct.pack(">iqi", 0, offset, 1 << 20)
    return head + struct.pack(">i", 1) + string(topic) + struct.pack(">i", 1) + partition


def produce_body(topic: str, batch: bytes, acks: int) -> bytes:
    """The body of Produce version 3 for partition 0."""
    head = string(None) + struct.pack(">hi", acks, 10_000)
    partition = struct.pack(">ii", 0, len(batch)) + batch
    return head + struct.pack(">i", 1) + string(topic) + struct.pack(">i", 1) + partition


class Connection:
    """A socket that sends frames and receives answers."""

    def __init__(self, bootstrap: str) -> None:
        host, _, port = bootstrap.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), LIMIT_S)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> tuple[int, bytes]:
        """The next answer's correlation id and the rest of it."""
        (length,) = struct.unpack(">i", self._exactly(4))
        frame = self._exactly(length)
        return struct.unpack(">i", frame[:4])[0], frame[4:]

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise ConnectionError("the broker closed the connection")
            data += more
        return data


def api_ranges(connection: Connection) -> dict[int, tuple[int, int]]:
    """The versions of each API that the broker says it serves."""
    connection.send(request(API_VERSIONS, 0, 1))
    _, body = connection.receive()
    error, count = struct.unpack(">hi", body[:6])
    assert error == 0
    rows = struct.iter_unpack(">hhh", body[6 : 6 + count * 6])
    return {api: (low, high) for api, low, high in rows}
