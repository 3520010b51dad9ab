"""Kafka's own command line tools do their work, unchanged, in both group protocols."""

from __future__ import annotations

import json
import subprocess

import pytest
from driving import LIMIT_S, PARTITIONS, RECORDS
from programs import eventually, java_command, table

pytestmark = pytest.mark.java

EACH = RECORDS // PARTITIONS
CONSUMER_GROUPS = "consumer.group.ConsumerGroupCommand"
CONFIGS = "kafka.admin.ConfigCommand"
FIRST_TIMESTAMP = 1_700_000_000_000


@pytest.fixture
def group_command(java_tools, name):
    """kafka-consumer-groups, for the group of the test."""

    def run(*arguments: str) -> str:
        return java_tools.run(CONSUMER_GROUPS, "--group", name, *arguments)

    return run


@pytest.fixture
def offsets(group_command):
    """The current offset of each partition that has one, as the tool describes the group."""

    def find() -> dict[int, int]:
        rows = table(group_command("--describe", "--offsets"))
        assert all(int(row["LAG"]) == EACH - int(row["CURRENT-OFFSET"]) for row in rows)
        return {int(row["PARTITION"]): int(row["CURRENT-OFFSET"]) for row in rows}

    return find


@pytest.fixture
def reset(group_command, filled):
    """Resets the offsets of the group; the new ones as the tool prints them."""

    def run(*how: str, topic: str = filled, execute: bool = True) -> dict[int, int]:
        mode = "--execute" if execute else "--dry-run"
        rows = table(group_command("--reset-offsets", "--topic", topic, mode, *how))
        return {int(row["PARTITION"]): int(row["NEW-OFFSET"]) for row in rows}

    return run


@pytest.fixture
def consume_some(java_tools, filled, name, protocol):
    """Reads so many records with the verifiable consumer; the partitions that they came from."""

    def run(count: int) -> set[int]:
        printed = java_tools.run(
            "VerifiableConsumer",
            *("--topic", filled, "--group-id", name, "--group-protocol", protocol),
            *("--max-messages", str(count)),
        )
        events = [json.loads(line) for line in printed.splitlines()]
        assert [it["success"] for it in events if it["name"] == "offsets_committed"].count(False) == 0
        # An event's own count has the records as well that came with the last ones and were left.
        read = [it for it in events if it["name"] == "records_consumed"]
        read = [it for event in read for it in event["partitions"]]
        assert sum(it["count"] for it in read) == count
        return {it["partition"] for it in read}

    return run


def on_all(offset: int) -> dict[int, int]:
    return dict.fromkeys(range(PARTITIONS), offset)


def test_the_console_consumer_goes_on_where_its_group_committed(java_tools, make_topic, name, protocol):
    topic = make_topic(PARTITIONS)
    lines = [f"{number % 7}\t{number}" for number in range(300)]
    keyed = ("--reader-property", "parse.key=true", "--reader-property", "key.separator=\t")
    java_tools.run("ConsoleProducer", "--topic", topic, *keyed, stdin="\n".join(lines) + "\n")

    def consume(count: int) -> list[str]:
        printed = java_tools.run(
            "consumer.ConsoleConsumer",
            *("--topic", topic, "--group", name, "--from-beginning"),
            *("--command-property", f"group.protocol={protocol}"),
            *("--max-messages", str(count), "--timeout-ms", "30000"),
            *("--formatter-property", "print.key=true"),
        )
        return printed.splitlines()

    first = consume(120)
    rest = consume(180)
    assert (len(first), len(rest)) == (120, 180)
    assert sorted(first + rest) == sorted(lines)
    described = table(java_tools.run(CONSUMER_GROUPS, "--describe", "--group", name))
    assert sum(int(row["CURRENT-OFFSET"]) for row in described) == 300
    assert {row["LAG"] for row in described} == {"0"}


def test_an_operator_sees_a_group_and_may_not_disturb_it(
    java_tools, group_command, offsets, filled, start_member, name, protocol
):
    member = start_member(f"java-{protocol}", filled)
    eventually(lambda: sum(member.committed().values()) == RECORDS, member.committed)
    assert name in java_tools.run(CONSUMER_GROUPS, "--list").splitlines()
    stable = table(java_tools.run(CONSUMER_GROUPS, "--list", "--state", "stable"))
    assert name in [row["GROUP"] for row in stable]
    kinds = {row["GROUP"]: row for row in table(java_tools.run("GroupsCommand", "--list"))}
    assert kinds[name] == {"GROUP": name, "TYPE": protocol.capitalize(), "PROTOCOL": "consumer"}
    of_kind = table(java_tools.run("GroupsCommand", "--list", "--group-type", protocol))
    assert name in [row["GROUP"] for row in of_kind]
    assert offsets() == on_all(EACH)
    (row,) = table(group_command("--describe", "--members"))
    assert row["#PARTITIONS"] == str(PARTITIONS)
    state = group_command("--describe", "--state")
    assert "Stable" in state and name in state
    assert "could not be deleted" in group_command("--delete")
    reset = group_command("--reset-offsets", "--to-earliest", "--all-topics", "--execute")
    assert "can only be reset if the group" in reset
    assert offsets() == on_all(EACH)
    member.stop()


def test_an_operator_resets_the_offsets_of_a_group_and_deletes_it(
    java_tools, group_command, offsets, reset, filled, consume_some, name
):
    consume_some(RECORDS // 2)
    consume_some(RECORDS // 2)
    assert offsets() == on_all(EACH)
    assert reset("--to-earliest", execute=False) == on_all(0)
    assert offsets() == on_all(EACH)
    assert reset("--to-offset", "30") == on_all(30)
    assert reset("--shift-by", "-10", topic=f"{filled}:1,2") == {1: 20, 2: 20}
    assert offsets() == {0: 30, 1: 20, 2: 20, 3: 30}
    assert reset("--by-duration", "PT1H") == on_all(0)
    assert reset("--to-latest") == on_all(EACH)
    assert reset("--to-datetime", "2001-02-03T04:05:06.000") == on_all(0)
    # Beyond the end there is nothing: the tool takes the end.
    assert reset("--to-offset", "1000000") == on_all(EACH)
    assert offsets() == on_all(EACH)
    group_command("--delete-offsets", "--topic", f"{filled}:0,3")
    assert offsets() == {1: EACH, 2: EACH}
    assert consume_some(2 * EACH) == {0, 3}
    assert "was successful" in group_command("--delete")
    assert name not in java_tools.run(CONSUMER_GROUPS, "--list").splitlines()


def test_the_verifiable_producer_is_acknowledged_and_offsets_are_found(
    bootstrap, java_tools, toolchains, make_topic
):
    # Its records are of 2023, and are to stay.
    topic = make_topic(PARTITIONS, retention_ms="-1")
    arguments = ["--bootstrap-server", bootstrap, "--topic", topic, "--max-messages", "1000"]
    arguments += ["--message-create-time", str(FIRST_TIMESTAMP), "--repeating-keys", "10"]
    # It sends the last records when its JVM shuts down, so it needs one for itself.
    command = java_command(toolchains, "VerifiableProducer", [*arguments, "--acks", "-1"])
    printed = subprocess.run(
        command, stdout=subprocess.PIPE, timeout=LIMIT_S, check=True, text=True
    ).stdout
    events = [json.loads(line) for line in printed.splitlines()]
    acknowledged = [it for it in events if it["name"] == "producer_send_success"]
    assert len({(it["partition"], it["offset"]) for it in acknowledged}) == 1000
    ends: dict[int, int] = {}
    for it in acknowledged:
        ends[it["partition"]] = max(ends.get(it["partition"], 0), it["offset"] + 1)

    def find(*arguments: str) -> dict[int, int]:
        found = java_tools.run("GetOffsetShell", "--topic-partitions", f"{topic}:0-{PARTITIONS}", *arguments)
        rows = (line.split(":") for line in found.splitlines())
        return {int(partition): int(offset) for _topic, partition, offset in rows if offset}

    every = {partition: ends.get(partition, 0) for partition in range(PARTITIONS)}
    assert find() == find("--time", "latest") == every
    assert find("--time", "earliest") == on_all(0)
    first = {partition: 0 for partition in ends}
    assert find("--time", str(FIRST_TIMESTAMP)) == first
    largest = find("--time", "max-timestamp")
    assert {it: at for it, at in largest.items() if at >= 0}.keys() == ends.keys()


def test_an_operator_changes_what_topics_and_nodes_are_set_to(java_tools, topic, bootstrap):
    def described(*of: str) -> dict[str, str]:
        """What was set, as the tool prints it: `  name=value sensitive=false synonyms={…}`."""
        lines = java_tools.run(CONFIGS, "--describe", *of).splitlines()
        words = (line.split()[0] for line in lines if line.startswith("  "))
        return dict(word.split("=", 1) for word in words)

    of_topic = ("--entity-type", "topics", "--entity-name", topic)
    assert described(*of_topic) == {}
    add = ("--alter", *of_topic, "--add-config")
    java_tools.run(CONFIGS, *add, "retention.ms=86400000,cleanup.policy=[compact,delete]")
    assert described(*of_topic) == {"retention.ms": "86400000", "cleanup.policy": "compact,delete"}
    assert described(*of_topic, "--all")["max.message.bytes"]
    for wrong in ("retention.ms=soon", "retention.m=1", "min.compaction.lag.ms=2,max.compaction.lag.ms=1"):
        assert java_tools.is_refused(CONFIGS, *add, wrong)
    java_tools.run(CONFIGS, "--alter", *of_topic, "--delete-config", "cleanup.policy")
    assert described(*of_topic) == {"retention.ms": "86400000"}
    missing = ("--entity-type", "topics", "--entity-name", f"{topic}-missing")
    assert java_tools.is_refused(CONFIGS, "--alter", *missing, "--add-config", "retention.ms=1")
    all_nodes = ("--entity-type", "brokers", "--entity-default")
    assert "log.retention.bytes" not in described(*all_nodes)
    java_tools.run(CONFIGS, "--alter", *all_nodes, "--add-config", "log.retention.bytes=123456789012")
    try:
        eventually(
            lambda: described(*all_nodes).get("log.retention.bytes") == "123456789012",
            lambda: described(*all_nodes),
        )
        assert described(*of_topic, "--all")["retention.bytes"] == "123456789012"
    finally:
        java_tools.run(CONFIGS, "--alter", *all_nodes, "--delete-config", "log.retention.bytes")


def test_an_operator_deletes_records(java_tools, filled, tmp_path):
    def delete(offsets: dict[int, int]) -> dict[int, str]:
        partitions = [{"topic": filled, "partition": it, "offset": at} for it, at in offsets.items()]
        path = tmp_path / "offsets.json"
        path.write_text(json.dumps({"partitions": partitions, "version": 1}))
        printed = java_tools.run("DeleteRecordsCommand", "--offset-json-file", str(path))
        rows = (line.split("\t") for line in printed.splitlines() if line.startswith("partition: "))
        return {int(name.rsplit("-", 1)[1]): outcome for name, outcome in rows}

    assert delete({0: 30, 2: -1}) == {0: "low_watermark: 30", 2: f"low_watermark: {EACH}"}
    found = java_tools.run("GetOffsetShell", "--topic", filled, "--time", "earliest").splitlines()
    assert sorted(found) == [f"{filled}:{it}:{at}" for it, at in enumerate([30, 0, EACH, 0])]
    refused = delete({0: EACH + 1, 1: 7})
    assert refused.pop(1) == "low_watermark: 7"
    assert refused.keys() == {0} and "error" in refused[0]


def test_an_operator_sees_what_logs_take_on_disk(java_tools, filled):
    printed = java_tools.run("LogDirsCommand", "--describe", "--topic-list", filled)
    (answer,) = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    directories = [directory for broker in answer["brokers"] for directory in broker["logDirs"]]
    assert [directory["error"] for directory in directories] == [None]
    sizes = {it["partition"]: it["size"] for directory in directories for it in directory["partitions"]}
    assert sizes.keys() == {f"{filled}-{it}" for it in range(PARTITIONS)}
    assert min(sizes.values()) >= EACH


def test_an_operator_gives_a_topic_more_partitions(java_tools, filled, name):
    def partitions() -> int:
        printed = java_tools.run("TopicCommand", "--describe", "--topic", filled)
        return sum("\tPartition: " in line for line in printed.splitlines())

    alter = ("TopicCommand", "--alter", "--topic", filled, "--partitions")
    java_tools.run(*alter, str(PARTITIONS + 2))
    eventually(lambda: partitions() == PARTITIONS + 2, partitions)
    assert java_tools.is_refused(*alter, str(PARTITIONS))
    java_tools.run("TopicCommand", "--delete", "--topic", filled)
    assert java_tools.is_refused("TopicCommand", "--describe", "--topic", filled)
