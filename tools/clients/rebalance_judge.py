"""Says whether a group kept its promises, from what its members wrote down (see `group_member.py`).

- At any moment a partition has at most one owner among the members that are awake. A member that was
  killed owns nothing from then on; one that is paused for nearly its session or longer may be thought
  dead, and owns nothing until it learns what became of its partitions.
- A committed offset never goes back, and one that a member was told is committed stays.
- No record is skipped: whoever commits an offset, everything below it was processed before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Life:
    """One process: its journal, when it was killed, and its pauses as (from, to), in microseconds."""

    name: str
    lines: list[str]
    killed_us: int | None = None
    pauses: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Seen:
    """An observer was told that `offset` is committed; it asked at `asked_us`."""

    asked_us: int
    told_us: int
    partition: int
    offset: int


@dataclass
class Verdict:
    violations: list[str] = field(default_factory=list)
    assignments: int = 0
    commits: int = 0
    refused: int = 0
    read: int = 0
    repeated: int = 0


def judge(lives: Iterable[Life], seen: Iterable[Seen], ends: dict[int, int], thought_dead_us: int) -> Verdict:
    """`ends` has the log's end of each partition, all of which must have been processed.

    Who is paused for `thought_dead_us` may be without its partitions.
    """
    lives, seen = list(lives), sorted(seen, key=lambda one: one.asked_us)
    verdict = Verdict()
    _judge_owners(lives, thought_dead_us, verdict)
    _judge_offsets(lives, seen, verdict)
    _judge_records(lives, ends, verdict)
    return verdict


def events(life: Life) -> Iterable[tuple[int, str, list[str]]]:
    for line in life.lines:
        moment, what, *rest = line.split()
        yield int(moment), what, rest


def is_stuck_in_its_client(life: Life) -> bool:
    """Whether librdkafka lost the end of a `close` that does not return, which no broker can help.

    Its rebalance callback waits for an answer from the client's own group, and the group drops the question when
    it ends in that moment (librdkafka's issues 4041 and 4884). That takes two callbacks in `close`: an assignment
    that was still to be delivered, which begins the end, and the revocation after it. A broker that does not
    answer shows itself otherwise: the client gives up after its 10 s.
    """
    words = [what for _, what, _ in events(life) if what not in ("sent", "committed", "refused")]
    return words[-3:] == ["closing", "assigned", "revoked"]


def owned(life: Life, thought_dead_us: int) -> list[tuple[int, int, int]]:
    """(partition, from, to) of everything that a life owned while it was awake."""
    spans, since, last = [], {}, 0
    long_pauses = sorted(pause for pause in life.pauses if pause[1] - pause[0] >= thought_dead_us)

    def end(partition: int, moment: int) -> None:
        began = since.pop(partition, None)
        if began is None:
            return
        # Behind a long pause it only waits to be told.
        asleep = [pause[0] for pause in long_pauses if began <= pause[0] < moment]
        spans.append((partition, began, min([moment, *asleep])))

    for moment, what, rest in events(life):
        last = moment
        if what == "assigned":
            for partition in map(int, rest):
                end(partition, moment)
                since[partition] = moment
        elif what in ("revoked", "lost"):
            for partition in map(int, rest):
                end(partition, moment)
        elif what == "closed":
            for partition in list(since):
                end(partition, moment)
    for partition in list(since):
        end(partition, life.killed_us or last)
    return spans


def _judge_owners(lives: list[Life], thought_dead_us: int, verdict: Verdict) -> None:
    spans: dict[int, list[tuple[int, int, str]]] = {}
    for life in lives:
        for partition, began, ended in owned(life, thought_dead_us):
            verdict.assignments += 1
            spans.setdefault(partition, []).append((began, ended, life.name))
    for partition, owners in sorted(spans.items()):
        owners.sort()
        latest = owners[0]
        for owner in owners[1:]:
            if owner[0] < latest[1]:
                both = min(owner[1], latest[1]) - owner[0]
                verdict.violations.append(
                    f"partition {partition} belongs to {latest[2]} and {owner[2]} for {both} us from {owner[0]}"
                )
            latest = max(latest, owner, key=lambda one: one[1])


def _judge_offsets(lives: list[Life], seen: list[Seen], verdict: Verdict) -> None:
    promised = []
    for life in lives:
        for moment, what, rest in events(life):
            if what == "committed":
                verdict.commits += 1
                promised.append((moment, int(rest[0]), int(rest[1]), life.name))
            elif what == "refused":
                verdict.refused += 1
    promised.sort()
    highest: dict[int, tuple[int, str]] = {}
    told: dict[int, Seen] = {}
    at = 0
    for one in seen:
        while at < len(promised) and promised[at][0] <= one.asked_us:
            _, partition, offset, name = promised[at]
            highest[partition] = max(highest.get(partition, (-1, "")), (offset, name))
            at += 1
        least, name = highest.get(one.partition, (-1, ""))
        if one.offset < least:
            verdict.violations.append(
                f"partition {one.partition}: {one.offset} is committed at {one.asked_us}, {name} was told {least}"
            )
        before = told.get(one.partition)
        if before and before.told_us <= one.asked_us and one.offset < before.offset:
            verdict.violations.append(
                f"partition {one.partition}: the committed offset goes back from {before.offset} to {one.offset}"
            )
        if not before or one.offset >= before.offset:
            told[one.partition] = one


def _judge_records(lives: list[Life], ends: dict[int, int], verdict: Verdict) -> None:
    changes = []
    for life in lives:
        for moment, what, rest in events(life):
            if what == "read":
                changes.append((moment, 0, int(rest[0]), int(rest[1]), int(rest[2]), life.name))
            elif what == "sent":
                changes.append((moment, 1, int(rest[0]), int(rest[1]), 0, life.name))
    changes.sort()
    done: dict[int, list[bool]] = {partition: [False] * end for partition, end in ends.items()}
    first_missing = dict.fromkeys(ends, 0)
    for moment, kind, partition, first, following, name in changes:
        records = done.setdefault(partition, [])
        if kind == 0:
            records.extend([False] * (following - len(records)))
            verdict.read += following - first
            verdict.repeated += sum(records[first:following])
            records[first:following] = [True] * (following - first)
            missing = first_missing.setdefault(partition, 0)
            while missing < len(records) and records[missing]:
                missing += 1
            first_missing[partition] = missing
        elif first_missing.get(partition, 0) < first:
            verdict.violations.append(
                f"partition {partition}: {name} commits {first} at {moment}, "
                f"nobody has processed {first_missing.get(partition, 0)}"
            )
    for partition, end in sorted(ends.items()):
        if first_missing[partition] < end:
            verdict.violations.append(f"partition {partition}: {first_missing[partition]} of {end} was never processed")
