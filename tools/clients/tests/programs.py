"""Clients that are programs of their own: members of groups, and Kafka's tools in one JVM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from driving import LIMIT_S

SCRIPTS = Path(__file__).parent.parent
# A JVM that starts quickly.
JVM_FLAGS = [
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
]
# Between the fields of a command: see JavaTools.java.
FIELD_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Toolchains:
    """Where other languages' clients are; empty for what is not there."""

    java: str
    jars: str
    tools_jar: str
    node: str
    node_modules: str


class Member:
    """A member of a group in its own process, which tells what it does as JSON lines."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, **environment}, text=True
        )
        self._events: list[dict] = []
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        for line in self._process.stdout:
            self._events.append(json.loads(line))

    def events(self, name: str) -> list[dict]:
        return [event for event in list(self._events) if event["name"] == name]

    def held(self) -> set[int]:
        """The partitions that it was told it has."""
        held: set[int] = set()
        for event in list(self._events):
            partitions = {it["partition"] for it in event.get("partitions", [])}
            if event["name"] == "partitions_assigned":
                held |= partitions
            elif event["name"] == "partitions_revoked":
                held -= partitions
        return held

    def read(self) -> Counter:
        """How often it got which offset of which partition."""
        return Counter(
            (it["partition"], offset)
            for event in self.events("records_consumed")
            for it in event["partitions"]
            for offset in range(it["minOffset"], it["maxOffset"] + 1)
        )

    def committed(self) -> dict[int, int]:
        """The offset that was last committed for each partition."""
        return {
            it["partition"]: it["offset"]
            for event in self.events("offsets_committed")
            if event["success"]
            for it in event["offsets"]
        }

    def stop(self) -> None:
        """SIGTERM, upon which it leaves its group."""
        self._process.send_signal(signal.SIGTERM)
        self.wait()

    def wait(self) -> None:
        """Waits until it has left its group and ended."""
        self._process.wait(LIMIT_S)
        self._listener.join(LIMIT_S)
        assert self.events("shutdown_complete"), f"it ended with {self._process.returncode}"

    def kill(self) -> None:
        """Ends it where a test failed."""
        self._process.kill()
        self._process.wait()
        self._listener.join(LIMIT_S)
        self._process.stdout.close()


def member_command(
    client: str, toolchains: Toolchains, arguments: list[str], folder: Path
) -> tuple[list[str], dict[str, str]]:
    """How a member with that client is started, and with which environment."""
    if client == "aiokafka":
        return [sys.executable, str(SCRIPTS / "verifiable_consumer.py"), *arguments], {}
    if client == "kafkajs":
        script = SCRIPTS / "kafkajs/verifiable_consumer.js"
        environment = {"NODE_PATH": toolchains.node_modules}
        return [toolchains.node, str(script), *arguments], environment
    protocol = client.removeprefix("java-")
    config = folder / f"{client}.properties"
    # In the other protocol the interval is the broker's to say.
    config.write_text("heartbeat.interval.ms=500\n" if protocol == "classic" else "")
    command = java_command(toolchains, "VerifiableConsumer", arguments)
    return [*command, "--group-protocol", protocol, "--command-config", str(config)], {}


def java_command(toolchains: Toolchains, tool: str, arguments: list[str]) -> list[str]:
    """A tool of Kafka in a JVM of its own."""
    class_path = f"{toolchains.jars}/*:{toolchains.tools_jar}"
    main = f"org.apache.kafka.tools.{tool}"
    return [toolchains.java, *JVM_FLAGS, "-cp", class_path, main, *arguments]


def eventually(holds, state, limit_s: float = LIMIT_S) -> None:
    """Waits until something holds; the state is for the message when it does not."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"after {limit_s} s: {state()}"
        time.sleep(0.05)


class JavaTools:
    """Kafka's command line tools, one after the other in one JVM: see JavaTools.java."""

    def __init__(self, toolchains: Toolchains, bootstrap: str, folder: Path) -> None:
        self._bootstrap = bootstrap
        self._output = folder / "tool-output"
        self._input = folder / "tool-input"
        driver = SCRIPTS / "java/JavaTools.java"
        command = [toolchains.java, *JVM_FLAGS, "-cp", f"{toolchains.jars}/*", str(driver)]
        self._process = subprocess.Popen(
            [*command, toolchains.tools_jar],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout.readline() == "ready\n"

    def run(self, tool: str, *arguments: str, stdin: str | None = None) -> str:
        """What the tool prints; `tool` is the class of its main: below `org.apache.kafka.tools`, or whole."""
        answer, printed = self._ask(tool, *arguments, stdin=stdin)
        assert answer == "exit 0\n", f"{tool} {arguments}: {answer}{printed}"
        return printed

    def is_refused(self, tool: str, *arguments: str) -> bool:
        """Whether the tool ends with an error."""
        answer, _printed = self._ask(tool, *arguments)
        return answer == "exit 1\n"

    def _ask(self, tool: str, *arguments: str, stdin: str | None = None) -> tuple[str, str]:
        if stdin is not None:
            self._input.write_text(stdin)
        fields = [
            tool if tool.startswith("kafka.") else f"org.apache.kafka.tools.{tool}",
            "-" if stdin is None else str(self._input),
            str(self._output),
            "--bootstrap-server",
            self._bootstrap,
            *arguments,
        ]
        self._process.stdin.write(FIELD_SEPARATOR.join(fields) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        return answer, self._output.read_text()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(LIMIT_S)
        self._process.stdout.close()


def table(printed: str) -> list[dict[str, str]]:
    """The rows of a table with one word in each column, as Kafka's tools print it."""
    rows: list[dict[str, str]] = []
    columns: list[str] = []
    for line in printed.splitlines():
        words = line.split()
        if "GROUP" in words[:1]:
            columns = words
        elif columns and words:
            rows.append(dict(zip(columns, words, strict=False)))
    return rows
