"""Members of consumer groups with clients in other languages, and with aiokafka."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from driving import LIMIT_S, PARTITIONS, RECORDS
from programs import SCRIPTS, eventually

CLIENTS = [
    "aiokafka",
    pytest.param("kafkajs", marks=pytest.mark.node),
    pytest.param("java-classic", marks=pytest.mark.java),
    pytest.param("java-consumer", marks=pytest.mark.java),
]
ALL = set(range(PARTITIONS))


@pytest.mark.parametrize("client", CLIENTS)
def test_a_second_member_gets_its_share_and_leaves_it_again(filled, start_member, client):
    first = start_member(client, filled)
    eventually(lambda: first.held() == ALL, first.held)
    eventually(lambda: sum(first.read().values()) >= RECORDS, first.read)
    second = start_member(client, filled)

    def is_shared() -> bool:
        counts = [len(first.held()), len(second.held())]
        return counts == [2, 2] and first.held() | second.held() == ALL

    eventually(is_shared, lambda: (first.held(), second.held()))
    second.stop()
    eventually(lambda: first.held() == ALL, first.held)
    first.stop()
    # All was committed before the second one came.
    assert not second.read()
    assert len(first.read()) == RECORDS


# Those of Java are in test_java_tools.py.
@pytest.mark.parametrize("client", CLIENTS[:2])
def test_a_member_that_starts_again_goes_on_where_it_committed(filled, start_member, client):
    first = start_member(client, filled, max_messages=RECORDS // 2 - 10)
    first.wait()
    assert sum(first.committed().values()) == RECORDS // 2 - 10
    again = start_member(client, filled, max_messages=RECORDS // 2 + 10)
    again.wait()
    read = first.read() + again.read()
    assert len(read) == RECORDS and set(read.values()) == {1}
    committed = {**first.committed(), **again.committed()}
    assert committed == {partition: RECORDS // PARTITIONS for partition in ALL}


def test_aiokafka_writes_what_it_reads_and_finds_the_ends(bootstrap, topic):
    async def run() -> None:
        for codec in (None, "gzip", "snappy", "lz4", "zstd"):
            producer = AIOKafkaProducer(
                bootstrap_servers=bootstrap, compression_type=codec, enable_idempotence=True
            )
            async with producer:
                sent = [await producer.send(topic, b"%d" % n * 50, b"key") for n in range(20)]
                await asyncio.gather(*sent)
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
        async with consumer:
            read = [await asyncio.wait_for(consumer.getone(), LIMIT_S) for _ in range(100)]
            (partition,) = consumer.assignment()
            assert await consumer.beginning_offsets([partition]) == {partition: 0}
            assert await consumer.end_offsets([partition]) == {partition: 100}
        assert [it.offset for it in read] == list(range(100))
        assert [it.value for it in read] == [b"%d" % (n % 20) * 50 for n in range(100)]

    asyncio.run(run())


def test_aiokafka_shows_an_operator_the_group(bootstrap, filled, start_member, name):
    member = start_member("aiokafka", filled)
    eventually(lambda: sum(member.committed().values()) == RECORDS, member.committed)

    async def look() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            groups = await admin.list_consumer_groups()
            assert (name, "consumer") in [tuple(group[:2]) for group in groups]
            offsets = await admin.list_consumer_group_offsets(name)
            each = RECORDS // PARTITIONS
            assert {it.partition: at.offset for it, at in offsets.items()} == dict.fromkeys(ALL, each)
            (described,) = await admin.describe_consumer_groups([name])
            assert described.to_object()["groups"][0]["state"] == "Stable"
        finally:
            await admin.close()

    asyncio.run(look())
    member.stop()


@pytest.fixture
def kafkajs(bootstrap, toolchains):
    """Runs a script with kafkajs to its end; what it prints."""

    def run(script: str, *arguments: str, fails: bool = False) -> str:
        ended = subprocess.run(
            [toolchains.node, str(SCRIPTS / "kafkajs" / script), bootstrap, *arguments],
            stdout=subprocess.PIPE,
            env={**os.environ, "NODE_PATH": toolchains.node_modules},
            timeout=LIMIT_S,
            check=False,
            text=True,
        )
        assert (ended.returncode != 0) == fails, ended.stdout
        return ended.stdout

    return run


@pytest.fixture
def kafkajs_admin(kafkajs):
    """Calls a method of kafkajs' admin client."""

    def call(method: str, argument: object, **options: bool) -> object:
        return json.loads(kafkajs("admin.js", method, json.dumps(argument), **options))

    return call


@pytest.mark.node
@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_kafkajs_reads_what_it_writes(kafkajs, make_topic, start_member, codec):
    topic = make_topic(PARTITIONS)
    kafkajs("produce.js", topic, codec, "1000")
    member = start_member("kafkajs", topic, max_messages=1000)
    member.wait()
    assert len(member.read()) == 1000


@pytest.mark.node
def test_kafkajs_lets_an_operator_see_set_and_delete_a_group(kafkajs_admin, filled, start_member, name):
    member = start_member("kafkajs", filled)
    eventually(lambda: sum(member.committed().values()) == RECORDS, member.committed)
    assert {"groupId": name, "protocolType": "consumer"} in kafkajs_admin("listGroups", {})["groups"]
    (described,) = kafkajs_admin("describeGroups", [name])["groups"]
    assert (described["state"], len(described["members"])) == ("Stable", 1)
    refused = kafkajs_admin("deleteGroups", [name], fails=True)
    assert refused["groups"][0]["error"]["type"] == "NON_EMPTY_GROUP"
    member.stop()

    def offsets() -> set[str]:
        (found,) = kafkajs_admin("fetchOffsets", {"groupId": name, "topics": [filled]})
        return {it["offset"] for it in found["partitions"]}

    assert offsets() == {str(RECORDS // PARTITIONS)}
    new = [{"partition": partition, "offset": "17"} for partition in ALL]
    kafkajs_admin("setOffsets", {"groupId": name, "topic": filled, "partitions": new})
    assert offsets() == {"17"}
    kafkajs_admin("deleteGroups", [name])
    assert name not in [it["groupId"] for it in kafkajs_admin("listGroups", {})["groups"]]
