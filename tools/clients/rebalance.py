"""A group of twenty processes that join, leave, pause and are killed at random, and what comes of it.

A producer writes all the while, an observer asks for the committed offsets, and at the end the judge
(`rebalance_judge.py`) reads what the members wrote down. Then five static members are restarted one
after the other, which nobody else may notice. Prints progress on stderr and a summary on stdout; the
exit code is 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from rebalance_judge import Life, Seen, Verdict, is_stuck_in_its_client, judge

LIMIT_S = 30
CALM_LIMIT_S = 90
CLOSE_LIMIT_S = 20
OBSERVE_S = 0.5
SESSION_MS = 6_000
# The broker's for the consumer protocol, and more than the classic members' own.
HEARTBEAT_MS = 1_000
# The session counts from the last heartbeat that came, which is old already when a pause begins.
THOUGHT_DEAD_MS = SESSION_MS - 2 * HEARTBEAT_MS
PAUSES_S = ((0.5, 3.0), (10.0, 15.0))
STATIC_MEMBERS = 5


def now_us() -> int:
    return time.monotonic_ns() // 1000


class Process:
    """A member's process and what was done to it."""

    def __init__(self, arguments: argparse.Namespace, group: str, name: str, life: int, static: bool) -> None:
        self.name = name
        self.journal = arguments.directory / f"{group}-{name}-{life}.txt"
        self.killed_us: int | None = None
        self.pauses: list[tuple[int, int]] = []
        self.wakes_at: float | None = None
        self.paused_us = 0
        self.stuck = False
        # Whoever is left behind by a run that was killed would keep a core busy looking for its broker.
        setpriv = shutil.which("setpriv")
        command = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        command += [sys.executable, str(Path(__file__).parent / "group_member.py")]
        options = {
            "bootstrap": arguments.bootstrap,
            "group": group,
            "topic": arguments.topic,
            "name": name,
            "journal": self.journal,
            "protocol": arguments.protocol,
            "assignor": arguments.assignor,
            # A restart must be quicker than the session.
            "session-ms": 30_000 if static else SESSION_MS,
        }
        for option, value in options.items():
            command += [f"--{option}", str(value)]
        self.errors = self.journal.with_suffix(".err").open("wb")
        self.process = subprocess.Popen(command + ["--static"] * static, stderr=self.errors)

    def is_running(self) -> bool:
        return self.process.poll() is None

    def pause(self, seconds: float) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.paused_us = now_us()
        self.wakes_at = time.monotonic() + seconds

    def wake(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.pauses.append((self.paused_us, now_us()))
        self.wakes_at = None

    def leave(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if self.wakes_at is not None:
            self.pauses.append((self.paused_us, now_us()))
            self.wakes_at = None
        self.process.kill()
        self.process.wait()
        self.killed_us = now_us()

    def ended(self) -> str | None:
        """Waits for its end; what was wrong with it."""
        try:
            code = self.process.wait(CLOSE_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.stuck = is_stuck_in_its_client(self.life())
            if self.stuck:
                self.kill()
                return None
            return f"{self.name} does not end within {CLOSE_LIMIT_S} s, {self.whereabouts()}"
        never_began = code == -signal.SIGTERM and not self.journal.exists()
        if code not in (0, -signal.SIGKILL) and not never_began:
            return f"{self.name} ended with {code}, see {self.journal.with_suffix('.err')}"
        return None

    def whereabouts(self) -> str:
        """Kills it; what it did last, and where it was."""
        self.process.send_signal(signal.SIGUSR1)
        # It writes from its signal handler, which says nothing when it is done.
        time.sleep(1)
        self.kill()
        last = self.life().lines[-5:]
        stack = self.journal.with_suffix(".err").read_text().splitlines()[-10:]
        return f"its last words were {last} {self.killed_us / 1e6:.3f} s: {stack}"

    def life(self) -> Life:
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return Life(self.name, lines, self.killed_us, self.pauses)


class Load(threading.Thread):
    """Produces at a steady rate until told to stop."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(daemon=True)
        self.topic, self.rate, self.partitions = arguments.topic, arguments.rate, arguments.partitions
        self.stopping = threading.Event()
        self.failed: list[str] = []
        self.producer = Producer(
            {"bootstrap.servers": arguments.bootstrap, "enable.idempotence": True, "linger.ms": 5}
        )

    def run(self) -> None:
        began, number = time.monotonic(), 0
        while not self.stopping.wait(0.02):
            due = int((time.monotonic() - began) * self.rate)
            while number < due:
                self.producer.produce(
                    self.topic, b"%d" % number, partition=number % self.partitions, on_delivery=self.delivered
                )
                number += 1
            self.producer.poll(0)
        if self.producer.flush(LIMIT_S):
            self.failed.append("the producer could not be flushed")

    def delivered(self, error: object, _: object) -> None:
        if error:
            self.failed.append(str(error))


class Observer(threading.Thread):
    """Asks for the group's committed offsets again and again."""

    def __init__(self, admin: AdminClient, group: str, topic: str, partitions: int) -> None:
        super().__init__(daemon=True)
        asked = [TopicPartition(topic, number) for number in range(partitions)]
        self.admin, self.group, self.asked = admin, group, asked
        self.stopping = threading.Event()
        self.seen: list[Seen] = []
        self.failures = 0

    def look(self) -> dict[int, int]:
        asked_us = now_us()
        request = [ConsumerGroupTopicPartitions(self.group, self.asked)]
        answer = self.admin.list_consumer_group_offsets(request, require_stable=True)[self.group].result(LIMIT_S)
        told_us = now_us()
        offsets = {one.partition: one.offset for one in answer.topic_partitions if one.offset >= 0}
        self.seen += [Seen(asked_us, told_us, partition, offset) for partition, offset in offsets.items()]
        return offsets

    def run(self) -> None:
        while not self.stopping.wait(OBSERVE_S):
            try:
                self.look()
            except KafkaException:
                # The group may be loading; that it stays like this, `calm_down` finds.
                self.failures += 1


class Run:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.random = random.Random(arguments.seed)
        self.admin = AdminClient({"bootstrap.servers": arguments.bootstrap})
        self.slots: list[Process | None] = [None] * arguments.members
        self.lives: list[Process] = []
        self.done: dict[str, int] = {}
        self.wrong: list[str] = []

    def start(self, slot: int) -> None:
        life = Process(self.arguments, self.arguments.group, f"m{slot:02}", len(self.lives), False)
        self.slots[slot] = life
        self.lives.append(life)

    def count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1

    def act(self) -> None:
        """Something happens to somebody."""
        slot = self.random.randrange(len(self.slots))
        member = self.slots[slot]
        if member is None:
            self.count("joins")
            return self.start(slot)
        if member.wakes_at is not None:
            return None
        match self.random.choice(["leave", "kill", "pause", "pause long", "stay"]):
            case "leave":
                self.count("leaves")
                member.leave()
                self.wrong += filter(None, [member.ended()])
                self.slots[slot] = None
            case "kill":
                self.count("kills")
                member.kill()
                self.slots[slot] = None
            case "pause":
                self.count("pauses")
                member.pause(self.random.uniform(*PAUSES_S[0]))
            case "pause long":
                self.count("pauses beyond the session")
                member.pause(self.random.uniform(*PAUSES_S[1]))
            case "stay":
                pass

    def wake_due(self) -> None:
        for member in filter(None, self.slots):
            if member.wakes_at is not None and time.monotonic() >= member.wakes_at:
                member.wake()

    def chaos(self) -> None:
        end = time.monotonic() + self.arguments.seconds
        next_act = next_word = time.monotonic()
        while time.monotonic() < end:
            self.wake_due()
            if time.monotonic() >= next_act:
                self.act()
                next_act = time.monotonic() + self.random.uniform(0.3, 2.0)
            if time.monotonic() >= next_word:
                here = sum(member is not None for member in self.slots)
                print(f"{int(end - time.monotonic())} s left, {here} members, {self.done}", file=sys.stderr)
                next_word += 15
            dead = [member for member in self.slots if member and not member.is_running()]
            for member in dead:
                self.wrong.append(f"{member.name} ended by itself, see {member.journal.with_suffix('.err')}")
                self.slots[self.slots.index(member)] = None
            time.sleep(0.05)

    def calm_down(self, load: Load, observer: Observer) -> dict[int, int]:
        """Everybody comes back, and everything is to be consumed. The ends of the partitions."""
        for slot, member in enumerate(self.slots):
            if member is None:
                self.start(slot)
            elif member.wakes_at is not None:
                member.wake()
        load.stopping.set()
        load.join()
        self.wrong += load.failed[:3]
        ends = log_ends(self.arguments)
        deadline = time.monotonic() + CALM_LIMIT_S
        while (offsets := observer.look()) != ends:
            if time.monotonic() >= deadline:
                behind = {one: (offsets.get(one), end) for one, end in ends.items() if offsets.get(one) != end}
                self.wrong.append(f"still behind after {CALM_LIMIT_S} s, committed and end: {behind}")
                break
            time.sleep(OBSERVE_S)
        for member in filter(None, self.slots):
            member.leave()
        self.wrong += filter(None, [member.ended() for member in self.slots if member])
        return ends

    def run(self) -> Verdict:
        arguments = self.arguments
        make_topic(self.admin, arguments)
        observer = Observer(self.admin, arguments.group, arguments.topic, arguments.partitions)
        load = Load(arguments)
        for slot in range(len(self.slots)):
            self.start(slot)
        load.start()
        observer.start()
        try:
            self.chaos()
            ends = self.calm_down(load, observer)
        finally:
            observer.stopping.set()
            for life in self.lives:
                if life.is_running():
                    life.kill()
        observer.join()
        verdict = judge([life.life() for life in self.lives], observer.seen, ends, THOUGHT_DEAD_MS * 1000)
        verdict.violations += self.wrong
        words = ", ".join(f"{count} {what}" for what, count in sorted(self.done.items()))
        if stuck := sum(life.stuck for life in self.lives):
            words += f", {stuck} stuck in librdkafka's close"
        print(
            f"{arguments.protocol}: {len(self.lives)} lives of {arguments.members} members in {arguments.seconds} s "
            f"({words}): {verdict.assignments} times a partition was owned, {sum(ends.values())} records, "
            f"{verdict.read} read, {verdict.repeated} of them again, {verdict.commits} commits, "
            f"{verdict.refused} refused, {len(observer.seen)} offsets looked at, seed {arguments.seed}"
        )
        return verdict


def make_topic(admin: AdminClient, arguments: argparse.Namespace) -> None:
    made = admin.create_topics([NewTopic(arguments.topic, arguments.partitions, 1)])
    made[arguments.topic].result(LIMIT_S)


def log_ends(arguments: argparse.Namespace) -> dict[int, int]:
    consumer = Consumer({"bootstrap.servers": arguments.bootstrap, "group.id": "nobody"})
    numbers = range(arguments.partitions)
    ends = {
        number: consumer.get_watermark_offsets(TopicPartition(arguments.topic, number), LIMIT_S)[1] for number in numbers
    }
    consumer.close()
    return {number: end for number, end in ends.items() if end > 0}


def changes(member: Process) -> list[str]:
    """What a member was told about its partitions."""
    lines = [line.split(maxsplit=1)[1] for line in member.life().lines]
    return [line for line in lines if line.split()[0] in ("assigned", "revoked", "lost")]


def holdings(members: list[Process]) -> dict[str, set[str]]:
    held: dict[str, set[str]] = {}
    for member in members:
        own = held.setdefault(member.name, set())
        for change in changes(member):
            what, *partitions = change.split()
            if what == "assigned":
                own.update(partitions)
            else:
                own.difference_update(partitions)
    return held


def rolling_restart(arguments: argparse.Namespace) -> list[str]:
    """Restarts static members one by one; what was wrong."""
    group = f"{arguments.group}-static"

    def start(number: int, life: int) -> Process:
        return Process(arguments, group, f"s{number}", life, True)

    def settle(members: list[Process], what: str) -> str | None:
        deadline = time.monotonic() + LIMIT_S
        everything = {str(number) for number in range(arguments.partitions)}
        while True:
            held = holdings(members)
            owned = [partition for own in held.values() for partition in own]
            if set(owned) == everything and len(owned) == len(everything) and all(held.values()):
                return None
            if time.monotonic() >= deadline:
                return f"{what}: after {LIMIT_S} s the members have {held}"
            time.sleep(0.1)

    members = [start(number, 0) for number in range(STATIC_MEMBERS)]
    try:
        if wrong := settle(members, "static members at the start"):
            return [wrong]
        # A rebalance that was still under way would look like one of the restarts'.
        time.sleep(SESSION_MS / 1000)
        before = {member.name: list(changes(member)) for member in members}
        held = holdings(members)
        for number in range(STATIC_MEMBERS):
            members[number].leave()
            if wrong := members[number].ended():
                return [wrong]
            members[number] = start(number, 1)
            if wrong := settle(members, f"after the restart of s{number}"):
                return [wrong]
            for other in members:
                is_new = other.name <= f"s{number}"
                if not is_new and changes(other) != before[other.name]:
                    return [f"the restart of s{number} was noticed by {other.name}: {changes(other)}"]
        time.sleep(SESSION_MS / 1000)
        if any(len(changes(member)) != 1 for member in members):
            return [f"a restart caused a rebalance: { {one.name: changes(one) for one in members} }"]
        if holdings(members) != held:
            return [f"assignments moved from {held} to {holdings(members)}"]
    finally:
        for member in members:
            if member.is_running():
                member.kill()
    print(f"{arguments.protocol}: {STATIC_MEMBERS} static members restarted one by one, no partition moved")
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--directory", type=Path, required=True, help="for the members' journals")
    parser.add_argument("--protocol", choices=["classic", "consumer"], required=True)
    parser.add_argument("--assignor", default="cooperative-sticky", help="of the classic protocol")
    parser.add_argument("--topic", default="rebalance")
    parser.add_argument("--group", default="rebalance")
    parser.add_argument("--partitions", type=int, default=24)
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--rate", type=int, default=500, help="records a second")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    violations = Run(arguments).run().violations + rolling_restart(arguments)
    for violation in violations:
        print(f"VIOLATION: {violation}")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
