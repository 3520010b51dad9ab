"""What wrong requests are answered with: the same error codes as Apache Kafka gives for the same bytes.

`kafka_answers.json` has all error codes of Kafka's answers, in the order of their fields. They are
what Kafka 4.3.1 gave; `cargo xtask clients --kafka --only behaviours` compares them with Kafka again.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import consumer_group_error, heartbeat
from kafka.protocol.admin import CreateTopicsRequest
from kafka.protocol.consumer import (
    JoinGroupRequest,
    LeaveGroupRequest,
    OffsetCommitRequest,
    SyncGroupRequest,
)
from kafka.protocol.metadata import FindCoordinatorRequest
from kafka.protocol.producer import ProduceRequest
from programs import eventually
from test_wire import batch
from wrong_requests import CASES, HEARTBEATS, World, commit_fields, error_codes, join_fields

KAFKAS: dict[str, list[int]] = json.loads((Path(__file__).parent / "kafka_answers.json").read_text())
# Where Corelog answers otherwise: Kafka has an exception of its own there, UNKNOWN_SERVER_ERROR.
OF_ITS_OWN = {"incremental-alter-configs-of-a-topic-unknown-operation": [42]}


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    bootstrap = request.config.getoption("--bootstrap")
    run = uuid.uuid4().hex[:8]
    made = World(
        bootstrap,
        topic=f"bad-input-{run}",
        classic=f"classic-{run}",
        member="",
        modern=f"modern-{run}",
        modern_member=str(uuid.uuid4()),
        empty=f"empty-{run}",
        nobody=f"nobody-{run}",
    )
    new = {"name": made.topic, "num_partitions": 2, "replication_factor": 1}
    assert error_codes(made.ask(CreateTopicsRequest, 5, topics=[new], timeout_ms=10_000)) == [0]
    data = {"name": made.topic, "partition_data": [{"index": 0, "records": batch(3)}]}

    def is_produced() -> bool:
        answer = made.ask(ProduceRequest, 9, acks=-1, timeout_ms=10_000, topic_data=[data])
        return error_codes(answer) == [0]

    eventually(is_produced, lambda: "the topic is never there")

    def is_coordinated() -> bool:
        keys = {"key_type": 0, "coordinator_keys": [made.classic]}
        return error_codes(made.ask(FindCoordinatorRequest, 4, **keys)) == [0]

    eventually(is_coordinated, lambda: "groups have no coordinator")

    def is_joined() -> bool:
        answer = made.ask(JoinGroupRequest, 3, **join_fields(made.classic))
        made.member = answer.member_id
        return answer.error_code == 0

    eventually(is_joined, lambda: "the classic group has no coordinator")
    sync = {"group_id": made.classic, "generation_id": 1, "member_id": made.member}
    assignment = [{"member_id": made.member, "assignment": b""}]
    assert error_codes(made.ask(SyncGroupRequest, 3, **sync, assignments=assignment)) == [0]

    def is_in() -> bool:
        return heartbeat(bootstrap, made.modern, made.modern_member, topics=[made.topic]) == 0

    eventually(is_in, lambda: "the new group has no coordinator")

    def is_committed() -> bool:
        return error_codes(
            made.ask(OffsetCommitRequest, 8, **commit_fields(made.empty, made.topic))
        ) == [0]

    eventually(is_committed, lambda: "no offset can be committed")
    yield made
    leave = {"group_id": made.classic, "members": [{"member_id": made.member}]}
    made.ask(LeaveGroupRequest, 3, **leave)
    heartbeat(bootstrap, made.modern, made.modern_member, -1)


def expected(request: pytest.FixtureRequest, name: str) -> list[int]:
    if request.config.getoption("--broker") == "corelog" and name in OF_ITS_OWN:
        return OF_ITS_OWN[name]
    return KAFKAS[name]


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_request_is_answered_as_by_kafka(request, world, name):
    kind, version, values = CASES[name](world)
    assert error_codes(world.ask(kind, version, **values)) == expected(request, name)


@pytest.mark.parametrize("name", HEARTBEATS)
def test_a_wrong_heartbeat_is_answered_as_by_kafka(request, world, name):
    code = heartbeat(world.bootstrap, **HEARTBEATS[name](world))
    assert [code] == expected(request, f"consumer-group-heartbeat-{name}")


@pytest.mark.parametrize("group", ["nobody", "classic", "empty"])
def test_groups_of_no_or_another_protocol_are_not_described(request, world, group):
    code = consumer_group_error(world.bootstrap, getattr(world, group))
    assert [code] == expected(request, f"consumer-group-describe-{group}")
