"""One request and its answer, in any version, as kafka-python's protocol classes have them."""

from __future__ import annotations

import struct

from kafka.protocol.parser import KafkaProtocol
from wire import Connection, request

CONSUMER_GROUP_HEARTBEAT, CONSUMER_GROUP_DESCRIBE = 68, 69


def ask(bootstrap: str, message: object) -> object:
    """Sends a request of kafka-python's on a connection of its own, and returns the answer."""
    protocol = KafkaProtocol(client_id="asking")
    protocol.send_request(message)
    with Connection(bootstrap) as connection:
        connection.send(protocol.send_bytes())
        correlation, body = connection.receive()
    frame = struct.pack(">ii", len(body) + 4, correlation) + body
    ((_, answer),) = protocol.receive_bytes(frame)
    return answer


def _compact(text: str | None) -> bytes:
    return b"\0" if text is None else bytes([len(text.encode()) + 1]) + text.encode()


def _compact_list(texts: list[str] | None) -> bytes:
    if texts is None:
        return b"\0"
    return bytes([len(texts) + 1]) + b"".join(_compact(text) for text in texts)


def _ask_flexible(bootstrap: str, api: int, body: bytes) -> bytes:
    """Version 0 of an API that kafka-python does not have; what is behind the answer's header."""
    with Connection(bootstrap) as connection:
        connection.send(request(api, 0, 9, b"\0" + body + b"\0"))
        _, answer = connection.receive()
    return answer[1:]


def heartbeat(
    bootstrap: str,
    group: str,
    member: str = "",
    epoch: int = 0,
    *,
    topics: list[str] | None = None,
    assignor: str | None = None,
    instance: str | None = None,
    rebalance_timeout_ms: int = 30_000,
    owned: bytes = b"\1",
) -> int:
    """The error code that a ConsumerGroupHeartbeat is answered with."""
    body = (
        _compact(group)
        + _compact(member)
        + struct.pack(">i", epoch)
        + _compact(instance)
        + _compact(None)
        + struct.pack(">i", rebalance_timeout_ms)
        + _compact_list(topics)
        + _compact(assignor)
        + owned
    )
    answer = _ask_flexible(bootstrap, CONSUMER_GROUP_HEARTBEAT, body)
    return struct.unpack(">h", answer[4:6])[0]


def consumer_group_error(bootstrap: str, group: str) -> int:
    """The error code of one group in ConsumerGroupDescribe."""
    answer = _ask_flexible(bootstrap, CONSUMER_GROUP_DESCRIBE, _compact_list([group]) + b"\0")
    assert answer[4] == 2, "one group"
    return struct.unpack(">h", answer[5:7])[0]
